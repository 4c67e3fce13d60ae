"""One command per verb: read, call the verb, print. A new command is a new file here and one import line below.

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

from unveil.cli.audit import audit as audit
from unveil.cli.command import app as app
from unveil.cli.compare import compare as compare
from unveil.cli.conclude import conclude as conclude
from unveil.cli.identify import identify as identify
from unveil.cli.inputs_of import inputs_ as inputs_
from unveil.cli.lookalike import lookalike as lookalike
from unveil.cli.obfuscate import obfuscate as obfuscate
from unveil.cli.outputs import outputs as outputs
from unveil.cli.plan import plan as plan
from unveil.cli.preimage import preimage as preimage
from unveil.cli.sensitivity import sensitivity as sensitivity
from unveil.cli.span import span as span
from unveil.cli.stability import stability as stability
from unveil.cli.store import info as info
