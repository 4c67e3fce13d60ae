"""unveil plan: questions for someone else to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Common


@command
def plan(
    shape: Annotated[
        str, typer.Argument(metavar="SHAPE", help="Shape of one input, e.g. 784 or 1,28,28.", show_default=False)
    ],
    common: Common,
    rank_at_most: Annotated[
        int, typer.Option("--rank-at-most", min=1, help="Bound on the rank, e.g. neurons of the first layer.")
    ],
    within: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="The legal range of inputs.", show_default=False)
    ] = None,
    precision: Annotated[int, typer.Option(help="Bits of the model's numbers: 32 or 64.")] = 32,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the questions go, .npz.")] = Path(
        "questions.npz"
    ),
    force: Force = False,
) -> None:
    """Choose all questions in advance, for a model that may not leave its room.

    Example: unveil plan 100 --rank-at-most 20 --out plan.npz
    """
    import math

    from unveil.blackbox.plan import plan as choose
    from unveil.cli.option_texts import integers, interval

    require_fresh(out, force, ".npz")
    n = math.prod(integers(shape, "SHAPE"))
    legal = None if within is None else interval(within)
    chosen = choose(n, rank_at_most, rng=common.rng("plan"), within=legal, precision=precision)
    keep(out, chosen.save)
    questions = len(chosen.questions)
    common.tell(
        {"questions": questions, "points": chosen.points, "file": str(out)},
        f"{questions:,} questions written to {out}",
        "Have them answered: read the array `questions`, (N, n), one question per row, ask the model, and save the",
        "answers in the same order as the array `answers`, (N, m), of another .npz. Then:",
        f"unveil conclude {out} answers.npz",
    )
