"""One command per verb: read, call the verb, print. A new command is a new file here and one line in `program.py`.

A command file holds one function under `@command` (see `command.py`) and imports everything heavy inside it:

    @command
    def verb(source: Source, asking: Asking, common: Common) -> None:
        '''One sentence for `unveil --help`.'''
        from unveil.blackbox.verb import verb as find

        oracle = asking.oracle(source, common.note)
        with common.watching(oracle, "Looking"):
            found = find(oracle, rng=common.rng("verb"))
        common.tell({"rank": found.rank}, f"rank {found.rank}")
        common.end(found.outcome)

It needs a page `docs/<verb>.md` whose text names `unveil <verb>`; a test holds every command to that.

Exit codes are those of `unveil.audit.verdict.EXIT_CODES`: 0 measured and checked; 1 failed its check or not measured;
2 bad usage or bad input; 3 the model failed; 4 the budget ended first (what was found by then is printed and written);
5 approximate; 6 the disk is full; 130 interrupted.
"""

from unveil.cli.program import app as app
