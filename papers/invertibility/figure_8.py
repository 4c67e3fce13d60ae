"""Figure 8 (A5): Lemma 9 on layer 2 of WideCIFAR; how many kept rows meet its condition, against c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from papers.invertibility import networks
from unveil.whitebox.linear_piece import blocks_of, first_piece, next_piece
from unveil.whitebox.removal import Removal, removal
from unveil.whitebox.singular_values import singular_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES, LAYER = ("wide_cifar", "thin_cifar"), 1


@dataclass(frozen=True)
class Row:
    """One network at one test image."""

    name: str
    found: Removal
    largest: float
    smallest: float


def run(size: int = 1) -> list[Row]:
    """Layer 2 of both networks at the `size`-th test image."""
    made = []
    for name in NAMES:
        network, x = networks.trained(name), networks.test_images(name, size)[-1]
        slopes = [(seen[0] > 0).astype(float) for seen in network.preactivations(x)]
        weights = [blocks_of(layer) for layer in network.layers[: LAYER + 1]]
        piece = first_piece(weights[0], network.layers[0].neurons, np.arange(network.n), network.n)
        for i in range(LAYER):
            piece = next_piece(weights[i + 1], network.layers[i + 1].neurons, piece.keep(slopes[i]))
        values, floor = singular_values(piece.keep(slopes[LAYER]))
        found = removal(piece.whole(), slopes[LAYER] > 0)
        made.append(Row(name, found, float(values[0]), float(values[values > floor][-1])))
    return made


def tell(table: list[Row]) -> str:
    """The bound beside the true smallest value."""
    lines = ["layer 2        kept  removed  bound of Lemma 9  true smallest  true largest"]
    for row in table:
        f = row.found
        lines.append(
            f"{row.name:12} {f.kept:6d}  {len(f.removed):7d}  {f.bound:16.3g}  "
            f"{row.smallest:13.3g}  {row.largest:12.3g}"
        )
    return "\n".join(lines)


def draw(table: list[Row]) -> Figure:
    """Counts against c; the dashed line is the number of kept rows, at which the bound holds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(table), figsize=(10, 3.6), layout="constrained")
    for axis, row in zip(axes, table, strict=True):
        axis.plot(row.found.grid, row.found.counts)
        axis.axhline(row.found.kept, color="tab:red", linestyle="--")
        axis.axvline(row.largest, color="tab:gray", linestyle=":")
        axis.set_title(f"{row.name}, layer 2 (dotted: true largest value)")
        axis.set_xlabel("c")
    axes[0].set_ylabel("rows that meet the condition")
    return figure
