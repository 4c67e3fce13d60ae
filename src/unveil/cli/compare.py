"""unveil compare: how far a found network is from the true one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.options import Common


@command
def compare(
    found: Annotated[Path, typer.Argument(help="A network, .onnx or .npz.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="What it should be, .onnx or .npz.", show_default=False)],
    common: Common,
    points: Annotated[int, typer.Option(min=1, help="How many random inputs to compare answers at.")] = 1000,
    within: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Draw them from this range; standard normal if not given."),
    ] = None,
) -> None:
    """Compare two networks up to the order, sign and scale of their neurons.

    Example: unveil compare found.npz model.onnx
    """
    from unveil.cli.option_texts import interval
    from unveil.whitebox.comparison import compare as measure
    from unveil.whitebox.formats import load

    one, other = load(found), load(truth)
    rng = common.rng("compare")
    shape = (points, other.n)
    x = rng.standard_normal(shape) if within is None else rng.uniform(*interval(within), size=shape)
    apart = measure(one, other, x)
    figures = {
        "function_error": apart.function_error,
        "missing": apart.missing,
        "false": apart.false,
        "layers": [
            {
                "paired": len(each.pairs),
                "missing": each.missing,
                "false": each.false,
                "weight_error": each.weight_error,
                "bias_error": each.bias_error,
                "median_error": each.median_error,
                "share": each.share,
            }
            for each in apart.layers
        ],
    }
    common.tell(figures, *str(apart).splitlines())
