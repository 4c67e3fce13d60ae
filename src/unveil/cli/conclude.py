"""unveil conclude: the row span from answers to planned questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Common


@command
def conclude(
    questions: Annotated[Path, typer.Argument(help="What `unveil plan` wrote.", show_default=False)],
    answers: Annotated[
        Path, typer.Argument(help="The answers: an .npz with the array `answers`, or .npy.", show_default=False)
    ],
    common: Common,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the basis as .npz.", show_default=False)
    ] = None,
    force: Force = False,
) -> None:
    """Find the directions a model sees from answers to planned questions.

    Example: unveil conclude plan.npz answers.npz --out basis.npz
    """
    import numpy as np

    from unveil.audit.figures import write_arrays
    from unveil.audit.sections.span import arrays
    from unveil.blackbox.plan import conclude as find
    from unveil.blackbox.plan import load_plan
    from unveil.outcome import BadInput

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
