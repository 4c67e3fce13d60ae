"""What there is of a first layer where no network came out."""

from __future__ import annotations

from typing import Any

from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.hyperplanes import ALIKE, Hyperplanes
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.sigmoidal import SigmoidalSearch
from unveil.identification.from_labels.slices import SliceSearch


def rows_read(
    search: HyperplaneSearch | SigmoidalSearch | SliceSearch | None,
    chart: Chart | None,
    first: Hyperplanes | None,
    second: int,
    *,
    some: bool = True,
) -> tuple[dict[str, Any], list[str]]:
    """Rows and biases of the neurons that were read, up to sign and length, and what there is to say of them.

    `search`: what was met. `chart`: the coordinates it was met in. `first`: the first layer of a deeper network, if it
    was told from what is behind. `second`: neurons of a second layer that were told apart. `some`: whether directions
    beside the chart's may matter. Returns `rows_read`, of a sigmoidal layer `directions`, too; and sentences.
    """
    if search is None or chart is None:
        return {}, []
    stats: dict[str, Any] = {}
    if isinstance(search, SigmoidalSearch):
        normals, offsets = search.rows
        stats["directions"] = search.far.normals
        why = [
            f"Of a sigmoidal layer {search.neurons} directions were met, of neurons if it is one, and scales of "
            f"{len(offsets)}: no network that answers as it does confirms them."
        ]
    else:
        planes = first if first is not None else search.planes if isinstance(search, SliceSearch) else search.likely()
        # What is known no better than hyperplanes are told apart may be any: of coarse answers walks seem to end there.
        vague = int((planes.error >= ALIKE).sum())
        planes = planes[planes.error < ALIKE]
        normals, offsets = planes.normals, planes.offsets
        part = (
            ""
            if chart.basis is None or not some
            else f", along the {chart.n} directions of {chart.oracle.n} looked at so far only"
        )
        why = [f"{len(planes)} neurons of the first layer were read, up to sign and scale{part}."]
        if vague:
            why.append(f"{vague} more were met too vaguely to be told from others.")
        behind = isinstance(search, HyperplaneSearch) and (
            search.behind_first or (search.deeper and not search.hopeless)
        )
        if behind:
            told = f"{second} neurons were told apart, too few for a network" if second else "none was told apart"
            why.append(f"Other hyperplanes bend, as those of deeper neurons do: of the second layer {told}.")
    rows = (normals if chart.basis is None else normals @ chart.basis) / chart.size
    stats["rows_read"] = (rows, offsets - rows @ chart.origin)
    return stats, why


def no_first_layer(search: HyperplaneSearch) -> str:
    """Why there is none."""
    if search.barren:
        return (
            f"At none of {search.lost} places where the label changes is the boundary flat, however close one looks: "
            "no network of ReLU."
        )
    return (
        "The boundary bends, but at no hyperplanes that hold elsewhere: no network of ReLU, or a very deep one. Where "
        "neighbours vote (kNN) it is like that."
    )
