"""unveil inputs: which input of a network gives an output, or a proof that none in a box does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.option_texts import held
from unveil.cli.options import Common, Fix, OutputName


@command
def inputs_(
    network: Annotated[Path, typer.Argument(help="A network, .onnx or .npz.", show_default=False)],
    of: Annotated[
        Path, typer.Option("--of", metavar="FILE", help="Outputs, a row each: .npz, .npy or .csv.", show_default=False)
    ],
    common: Common,
    layer: Annotated[int, typer.Option(help="Take the rows for features of this layer; -1 is the last.")] = -1,
    within: Annotated[str, typer.Option(metavar="LOW,HIGH", help="The legal range of every input.")] = "0,1",
    near: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An input to be nearest to (1-norm): .npz, .npy or .csv.", show_default=False
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="By how much each output may be off; by default 1e-6 of the largest.", show_default=False),
    ] = None,
    programmes: Annotated[int, typer.Option(min=1, help="Linear programmes for each row, at most.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="Write the inputs, x, to this .npz.", show_default=False)] = None,
    output: OutputName = None,
    fix: Fix = None,
    force: Force = False,
) -> None:
    """Find inputs that give the outputs in a file, or prove that none in the box does.

    Exit code 1 where neither an input nor a proof was found, 4 where the budget of linear programmes ended first.

    Example: unveil inputs model.onnx --of logits.npz --within 0,1
    """
    from unveil.audit.figures import write_arrays
    from unveil.cli.option_texts import interval
    from unveil.cli.vectors import figures, line, read_rows
    from unveil.outcome import Outcome
    from unveil.whitebox.formats import load
    from unveil.whitebox.inputs_of import inputs_of

    require_fresh(out, force, ".npz")
    known, legal = load(network, output, held(fix)), interval(within)
    rows = read_rows(of, known.widths[known.level(layer)], "--of")
    goal = None if near is None else read_rows(near, known.n, "--near")[0]
    found = []
    for number, row in enumerate(rows):
        each = inputs_of(
            known, row, layer=layer, within=legal, near=goal, tolerance=tolerance, programmes=programmes,
            rng=common.rng("inputs"),
        )  # fmt: skip
        found.append(each)
        if not common.as_json:
            common.tell({}, line(number, each))
    told = {verdict: sum(each.verdict == verdict for each in found) for verdict in ("found", "none", "not found")}
    common.tell({"rows": len(rows), "verdicts": told, "each": [figures(each) for each in found]})
    if out is not None:
        import numpy as np

        arrays = {
            "x": np.stack([each.x for each in found]),
            "found": np.array([each.verdict == "found" for each in found]),
        }
        keep(out, lambda path: write_arrays(path, arrays))
    open_ones = [each for each in found if each.verdict == "not found"]
    if any(each.programmes >= programmes for each in open_ones):
        common.end(Outcome.budget_ended)
    common.end(Outcome.check_failed if open_ones or not all(each.check() for each in found) else Outcome.complete)
