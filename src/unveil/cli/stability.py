"""unveil stability: singular values layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unveil.cli.command import command
from unveil.cli.normalised import Normalised
from unveil.cli.option_texts import held
from unveil.cli.options import Common, Fix, OutputName, Parallel, Scale

if TYPE_CHECKING:
    from unveil.whitebox.stability import LayerStability

PARALLEL_INPUTS = 1000
"""With fewer inputs a network is done before another process has started."""


@command
def stability(
    network: Annotated[Path, typer.Argument(help="A network, .onnx or .npz.", show_default=False)],
    parallel: Parallel,
    normalised: Normalised,
    common: Common,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs", metavar="FILE", help="Examples: .npz, .npy, .csv, .png, or a folder.", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many examples to take the median over.")] = 10,
    within: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Without --inputs: draw random inputs from this range."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="TOP,BOTTOM,LEFT,RIGHT", help="Let only these pixels vary.", show_default=False),
    ] = None,
    scale: Scale = None,
    output: OutputName = None,
    fix: Fix = None,
    coarse: Annotated[
        bool,
        typer.Option("--coarse", help="About twice as fast on large layers; a floor at 1e-7 of the largest."),
    ] = False,
    lemma_9: Annotated[bool, typer.Option("--lemma-9", help="Evaluate Lemma 9 in every layer, large or not.")] = False,
) -> None:
    """Tell how stable the way back from features to inputs is: singular values layer by layer.

    Example: unveil stability model.onnx --inputs digits.npz --samples 20
    """

    from unveil.cli.inputs import read_for
    from unveil.cli.option_texts import integers, interval
    from unveil.outcome import BadInput
    from unveil.whitebox.formats import load
    from unveil.whitebox.stability import stability as measure
    from unveil.whitebox.stability import window_of

    known = load(network, output, held(fix))
    legal = None if within is None else interval(within)
    if inputs is not None:
        x = read_for(known, inputs, legal, scale, samples, common.note).x
    else:
        common.note("no --inputs: random inputs, which may behave otherwise than real ones")
        rng = common.rng("stability")
        x = rng.uniform(*(legal or (0.0, 1.0)), size=(samples, known.n))
    mean, deviation = normalised.units(known.shape)
    x = (x - mean) / deviation
    seen = None
    if window is not None:
        sides = integers(window, "--window", least=0)
        if len(sides) != 4:
            raise BadInput(f"--window takes TOP,BOTTOM,LEFT,RIGHT; got {window!r}")
        top, bottom, left, right = sides
        seen = window_of(known.shape, (top, bottom), (left, right))
    with parallel.workers(len(x) if known.n >= PARALLEL_INPUTS else 1) as executor:
        found = measure(
            known,
            x,
            window=seen,
            lemma_9=True if lemma_9 else None,
            fine=not coarse,
            watch=lambda done, all_: common.note(f"{done} of {all_} inputs") if 0 < done < all_ else None,
            executor=executor,
        )
    figures = {"samples": len(x), "inputs": found.inputs, "layers": [_figures(each) for each in found.layers]}
    common.tell(figures, *str(found).splitlines())


def _figures(layer: LayerStability) -> dict[str, object]:
    """Medians over the examples."""
    import numpy as np

    return {
        "neurons": layer.neurons,
        "active": float(np.median(layer.active)),
        "rank": float(np.median(layer.after.rank)),
        "largest": float(np.median(layer.after.largest)),
        "smallest": float(np.median(layer.after.smallest)),
        "condition": _median(layer.after.condition),
        "condition_before": _median(layer.before.condition),
        "bound_largest": _median(layer.bound_largest),
        "bound_smallest": _median(layer.bound_smallest),
        "bound_interlacing": _median(layer.bound_interlacing),
        "bound_removal": _median(layer.bound_removal),
        "floor": float(np.median(layer.after.floor)),
        "before": layer.before.median(),
        "after": layer.after.median(),
    }


def _median(values: object) -> float | None:
    """The median where there is one."""
    import numpy as np

    told = np.asarray(values, dtype=float)
    told = told[np.isfinite(told)]
    return float(np.median(told)) if told.size else None
