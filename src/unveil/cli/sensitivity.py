"""unveil sensitivity: the directions of a simulator's inputs that matter, from a table or from few runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unveil.cli.command import command
from unveil.cli.files import keep, require_writable
from unveil.cli.options import Common, Parallel
from unveil.outcome import BadInput

if TYPE_CHECKING:
    from unveil.blackbox.active_subspace import ActiveSubspace

_TABLE = "For a table: "
_RUNS = "For a simulator: "


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """How a table is read."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="NAME", help=_TABLE + "the column with the answers; by default y.", show_default=False
        ),
    ] = None
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="NAME", help=_TABLE + "no input; may be repeated.", show_default=False),
    ] = None

    def refuse(self) -> None:
        """Raise if one was given for a simulator."""
        if self.output is not None or self.ignore:
            raise BadInput("--output and --ignore are for tables (.csv, .npz, .parquet), not for a simulator")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a simulator is run."""

    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="TEXT",
            help=_RUNS + 'a program instead of SOURCE, such as "./run {inputs}" or "./run -r {radius}".',
            show_default=False,
        ),
    ] = None
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="With --command: its first group is the answer; by default the last number printed.",
            show_default=False,
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="With --command: give up a run after so long.", show_default=False),
    ] = None
    takes: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="With file.py:name: what it takes: vector (one input; the default), names (keywords) or batch (N, k).",
            show_default=False,
        ),
    ] = None
    budget: Annotated[
        int | None, typer.Option(min=3, help=_RUNS + "the largest number of runs; by default 100.", show_default=False)
    ] = None
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=_RUNS + "keep every answer here; a killed run goes on.", show_default=False),
    ] = None

    def refuse(self) -> None:
        """Raise if one was given for a table."""
        given = [f"--{field.name}" for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
        if given:
            raise BadInput(f"{', '.join(given)}: a table is not run; leave it out")


@command
def sensitivity(
    common: Common,
    table: TableOptions,
    runs: RunOptions,
    parallel: Parallel,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]", help="A table (.csv, .npz, .parquet) or a function, file.py:name.", show_default=False
        ),
    ] = None,
    problem: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='The inputs as JSON: {"radius": [0.05, 0.15], ...}, or a SALib problem.',
            show_default=False,
        ),
    ] = None,
    share: Annotated[float, typer.Option(help="Of the mean squared gradient, what the active directions keep.")] = 0.9,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    page: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write a page, .html.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the directions as .npz.", show_default=False)
    ] = None,
) -> None:
    """Find the directions along which a simulator's answers change.

    Examples: `unveil sensitivity runs.csv --output drag --report page.html`, and
    `unveil sensitivity --command "./run {inputs}" --problem inputs.json --budget 100`.

    Example: unveil sensitivity runs.csv --output drag --report sensitivity.html
    """
    from unveil.audit.figures import write_arrays
    from unveil.audit.sections.sensitivity import arrays, figures, told

    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"--report must end in .html; got {page}")
    if out is not None and out.suffix != ".npz":
        raise BadInput(f"--out must end in .npz; got {out}")
    for file in (page, out):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)  # found out before anything is run
            require_writable(file)
    options = {"rng": common.rng("sensitivity"), "share": share, "confidence": confidence}
    if source is not None and not source.rpartition(":")[0].endswith(".py"):
        runs.refuse()
        name, found = _of_table(Path(source), table, problem, common, options)
    else:
        table.refuse()
        name, found = _of_runs(source, runs, problem, parallel, common, options)
    written: list[Path] = []
    if out is not None:
        keep(out, lambda path: write_arrays(path, arrays(found)))
        written.append(out)
    if page is not None:
        keep(page, lambda path: written.extend(told(found, name, seed=common.seed).write(path)))
    common.tell(
        {**figures(found), "outcome": found.outcome, "conclusion": found.conclusion()}
        | ({"files": [str(file) for file in written]} if written else {}),
        *_lines(found),
        *([f"written: {', '.join(str(file) for file in written)}"] if written else []),
    )
    common.end(found.outcome)


def _of_table(
    path: Path, table: TableOptions, problem: Path | None, common: Common, options: dict[str, Any]
) -> tuple[str, ActiveSubspace]:
    from unveil.blackbox.active_subspace import active_subspace
    from unveil.cli.problem import read_problem
    from unveil.cli.tables import TABLE_SUFFIXES, read_table

    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise BadInput(
            f"SOURCE must be a table ({', '.join(TABLE_SUFFIXES)}) or a function as file.py:name; got {path}"
        )
    inputs = None if problem is None else read_problem(problem)
    read = read_table(path, table.output, tuple(table.ignore or ()), () if inputs is None else inputs.names)
    if read.constant:
        common.note(f"Note: left out, the same value in every row: {', '.join(read.constant)}.")
    if read.missing:
        common.note(f"Note: {read.missing} of {read.missing + len(read.y)} rows lack an input and were left out.")
    rows = read.rows
    for place, one in enumerate(inputs.all if inputs is not None else ()):
        # A file has its levels as text, or as numbers.
        names = {str(level): level for level in one.levels}
        names |= {str(float(level)): level for level in one.levels if not isinstance(level, str)}
        if names:
            rows[:, place] = [names.get(str(cell), cell) for cell in rows[:, place]]
    found = active_subspace(rows, read.y, inputs=list(read.names) if inputs is None else inputs, **options)
    return path.name, dataclasses.replace(found, missing=found.missing + read.missing)


def _of_runs(
    source: str | None,
    runs: RunOptions,
    problem: Path | None,
    parallel: Parallel,
    common: Common,
    options: dict[str, Any],
) -> tuple[str, ActiveSubspace]:
    from unveil.blackbox.active_subspace import active_subspace
    from unveil.blackbox.simulator import Command, Simulator
    from unveil.cli.problem import EXAMPLE, FileFunction, read_problem

    if (source is None) == (runs.command is None):
        raise BadInput("give one of: a table, a function as file.py:name, or --command TEXT")
    if problem is None:
        raise BadInput(f"a simulator needs --problem FILE, a JSON file that names its inputs, such as {EXAMPLE}")
    inputs = read_problem(problem)
    if source is None:
        if runs.takes is not None:
            raise BadInput("--takes is for functions; a command gets its inputs as its text says")
        function: Any = Command(str(runs.command), inputs.names, runs.pattern, runs.timeout)
    else:
        if runs.pattern is not None or runs.timeout is not None:
            raise BadInput("--pattern and --timeout are for --command")
        function = FileFunction(source)
    with parallel.workers(1) as executor:
        simulator = Simulator(
            function, inputs, takes=runs.takes or "vector", store=runs.store, executor=executor, name=function.__name__
        )
        budget = runs.budget or 100
        with common.watching(simulator, "Running the simulator", budget, "runs"):
            found = active_subspace(simulator, budget=budget, **options)
    if found.missing:
        common.note(f"Note: {found.missing} of {found.queries} runs failed; one of them: {simulator.trouble}.")
    return simulator.name, found


def _lines(found: ActiveSubspace) -> list[str]:
    """The result for a person."""
    width = max(len(name) for name in found.inputs.names)
    lines = [found.conclusion(), "", f"eigenvalue      from          to            ({found.confidence:.0%})"]
    for place, (value, (low, high)) in enumerate(zip(found.eigenvalues, found.intervals, strict=True)):
        mark = "  active" if place < found.dimension else ""
        lines.append(f"{value:<12.4g}    {low:<12.4g}  {high:<12.4g}{mark}")
    lines += ["", f"{'input':{width}}  activity score"]
    score = dict(zip(found.inputs.names, found.activity.tolist(), strict=True))
    lines += [f"{name:{width}}  {score[name]:.4g}" for name in found.ranking]
    lines += ["", f"runs {found.queries:,}" if found.queries else f"rows {len(found.y) + found.missing:,}"]
    lines[-1] += f", {found.missing:,} without an answer or an input" if found.missing else ""
    return lines
