"""unveil conclude: the row span from answers to planned questions, or what a table of runs is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Common
from unveil.outcome import BadInput


@command
def conclude(
    common: Common,
    questions: Annotated[
        Path, typer.Argument(help="What `unveil plan` wrote; or, alone, a table of runs.", show_default=False)
    ],
    answers: Annotated[
        Path | None, typer.Argument(help="The answers: an .npz with the array `answers`, or .npy.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the basis as .npz.", show_default=False)
    ] = None,
    force: Force = False,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="NAME", help="Of a table: the column with the answers.", show_default=False),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="NAME", help="Of a table: no input; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Find the directions a model sees from answers to planned questions, or tell what a table is good for.

    A table of a simulator's runs (.csv, .parquet, .npz) stands alone: `unveil conclude runs.csv --output drag`.

    Example: unveil conclude plan.npz answers.npz --out basis.npz
    """
    import numpy as np

    from unveil.audit.figures import write_arrays
    from unveil.audit.sections.span import arrays
    from unveil.blackbox.plan import conclude as find
    from unveil.blackbox.plan import load_plan

    if answers is None:
        if out is not None:
            raise BadInput(f"--out is for answers to a plan; for a table: unveil sensitivity {questions} --out {out}")
        return _of_table(questions, output, tuple(ignore or ()), common)
    if output is not None or ignore:
        raise BadInput("--output and --ignore are for a table, which is given alone")
    require_fresh(out, force, ".npz")
    asked = load_plan(questions)
    try:
        read = np.load(answers, allow_pickle=False)
        given = read if isinstance(read, np.ndarray) else read["answers"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"cannot read answers from {answers}: {error}; expected the array `answers` in an .npz"
        ) from None
    found = find(asked, given)
    if out is not None:
        keep(out, lambda path: write_arrays(path, arrays(found)))
    common.tell(
        {"rank": found.rank, "accuracy": found.accuracy, "queries": found.queries, "outcome": found.outcome},
        f"rank          {found.rank} of {found.n}",
        f"accuracy      {found.accuracy:.1e}",
        f"noise floor   {found.noise_floor:.1e} of the largest singular value",
        f"questions     {found.queries:,}",
        found.outcome.value,
        *([] if out is None else [f"basis written to {out}"]),
    )
    common.end(found.outcome)


def _of_table(path: Path, output: str | None, ignore: tuple[str, ...], common: Common) -> None:
    """What a table of runs is good for, in sentences, and what to do next."""
    from unveil.blackbox.active_subspace import active_subspace
    from unveil.cli.tables import TABLE_SUFFIXES, read_table

    if not path.exists():
        raise BadInput(f"there is no file {path}")
    if path.suffix.lower() not in TABLE_SUFFIXES or _is_plan(path):
        raise BadInput(
            f"{path} is no table ({', '.join(TABLE_SUFFIXES)}); a plan needs its answers: unveil conclude PLAN ANSWERS"
        )
    read = read_table(path, output, ignore)
    found = active_subspace(read.rows, read.y, inputs=list(read.names), rng=common.rng("conclude"))
    constant = f"The same value in every row: {', '.join(read.constant)}; nothing can be said of that."
    next_step = f"unveil sensitivity {path} --output {read.output} --report sensitivity.html"
    common.tell(
        {
            "conclusion": found.conclusion(),
            "rows": len(found.y),
            "missing": found.missing + read.missing,
            "constant": read.constant,
            "explained": found.explained,
            "dimension": found.dimension,
            "ranking": found.ranking,
            "outcome": found.outcome,
        },
        found.conclusion(),
        *([constant] if read.constant else []),
        f"rows {len(found.y):,}, {found.missing + read.missing:,} more without an answer or an input",
        f"more: {next_step}",
    )
    common.end(found.outcome)


def _is_plan(path: Path) -> bool:
    from unveil.blackbox.plan import load_plan

    try:
        load_plan(path)
    except BadInput:
        return False
    return True
