"""unveil preimage: which inputs give exactly the same features, and what proves it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unveil.cli.command import command, results
from unveil.cli.normalised import Normalised
from unveil.cli.option_texts import held
from unveil.cli.options import Common, Fix, LayerNumber, OutputName, Parallel, Scale

if TYPE_CHECKING:
    from unveil.whitebox.box import Box
    from unveil.whitebox.network import Network
    from unveil.whitebox.same_features import Preimage


@command
def preimage(
    network: Annotated[Path, typer.Argument(help="A network, .onnx or .npz.", show_default=False)],
    common: Common,
    parallel: Parallel,
    normalised: Normalised,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs", metavar="FILE", help="Examples: .npz, .npy, .csv, .png, or a folder.", show_default=False
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instead: features of the layer, a row each, .npz, .npy or .csv.", show_default=False
        ),
    ] = None,
    layer: LayerNumber = 0,
    most: Annotated[int | None, typer.Option(min=1, help="Take at most so many examples.", show_default=False)] = None,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Also tell how far one can go inside this range of the layer's inputs; or look for one only in it.",
            show_default=False,
        ),
    ] = None,
    scale: Scale = None,
    output: OutputName = None,
    fix: Fix = None,
    check: Annotated[bool, typer.Option("--check", help="Verify every certificate once more, independently.")] = False,
) -> None:
    """Tell for every example of which kind the inputs with the same features are: a point, compact or infinite.

    With --features: whether any input of the layer gives them, with a proof if not, and the kind of all that do.
    Without --json, one line per example as it is found. Exit code 1 if a certificate does not hold.

    Example: unveil preimage model.onnx --inputs digits.npz --within 0,1 --most 20
    """
    from unveil.cli.inputs import read_for
    from unveil.cli.option_texts import interval
    from unveil.outcome import BadInput, Outcome
    from unveil.whitebox.formats import load
    from unveil.whitebox.same_features import TASK, preimages

    known = load(network, output, held(fix))
    if (inputs is None) == (features is None):
        raise BadInput("pass --inputs, examples whose features to keep, or --features, a file of features")
    mean, deviation = normalised.units(known.shape)
    layer = known.level(layer)
    legal: Box | None = None if within is None else interval(within)
    if legal is not None and layer == 0:
        # The range is that of the examples as they are in the file.
        legal = ((legal[0] - mean) / deviation, (legal[1] - mean) / deviation)
    if features is not None:
        _from_features(known, features, layer, legal, common)
        return
    assert inputs is not None
    given = read_for(known, inputs, scale=scale, most=most, note=common.note)
    rows: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    wrong = 0
    with parallel.workers(ceil(len(given.x) / TASK)) as executor:
        found = preimages(known, (given.x - mean) / deviation, layer, executor=executor)
        for number, each in enumerate(_watched(found, len(given.x), common)):
            row = _row(number, each, legal)
            holds = each.certified and (not check or each.check())
            wrong += not holds
            kinds[each.kind] += 1
            row["certified"] = holds
            if common.as_json:
                rows.append(row)
            else:
                common.tell({}, "  ".join(f"{key} {value}" for key, value in row.items()))
    figures = {"layer": layer, "inputs": len(given.x), "kinds": dict(kinds), "uncertified": wrong, "each": rows}
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    common.tell(figures, f"{len(given.x)} inputs, layer {layer}: {told}; {wrong} without a certificate that holds")
    common.end(Outcome.check_failed if wrong else Outcome.complete)


def _from_features(known: Network, path: Path, layer: int, legal: Box | None, common: Common) -> None:
    """Inputs of the layer behind each row of a file."""
    from unveil.cli.vectors import figures, line, read_rows
    from unveil.outcome import Outcome
    from unveil.whitebox.preimage import preimage

    found = []
    for number, row in enumerate(read_rows(path, known.widths[layer], "--features")):
        found.append(preimage(known, features=row, layer=layer, within=legal))
        if not common.as_json:
            common.tell({}, line(number, found[-1]))
    kinds = Counter(each.kind or "not found" for each in found)
    wrong = sum(not each.check() for each in found)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    rows = [figures(each) for each in found]
    common.tell(
        {"layer": layer, "rows": len(found), "kinds": dict(kinds), "uncertified": wrong, "each": rows},
        f"{len(found)} rows of features, layer {layer}: {told}; {wrong} without a proof that holds",
    )
    common.end(Outcome.check_failed if wrong else Outcome.complete)


def _row(number: int, found: Preimage, legal: Box | None) -> dict[str, Any]:
    row: dict[str, Any] = {"input": number, "kind": found.kind, "active": int(found.active.sum())}
    if legal is not None:
        extent = found.extent(legal)
        row |= {"dimension": found.dimension, "extent": round(extent.length, 6)}
    return row


def _watched(found: Iterable[Preimage], count: int, common: Common) -> Iterator[Preimage]:
    """The same, with a progress bar where stderr is a terminal and stdout is not."""
    if common.quiet or not sys.stderr.isatty() or (results().isatty() and not common.as_json):
        yield from found
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(found, "Deciding", total=count, console=Console(stderr=True), transient=True)
