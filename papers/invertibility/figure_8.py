"""Figure 8 (A5): Lemma 9 on layer 2 of WideCIFAR and ThinCIFAR; how many kept rows meet its condition, against c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from papers.invertibility import networks
from papers.invertibility.spectra import Spectra, spectra
from unveil.whitebox.linear_piece import blocks_of, first_piece, next_piece
from unveil.whitebox.removal import Removal, removal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES, LAYER = ("wide_cifar", "thin_cifar"), 1


@dataclass(frozen=True)
class Row:
    """One network: Lemma 9 at each test image, beside the true singular values."""

    true: Spectra
    found: tuple[Removal, ...]


def run(size: int = 4) -> list[Row]:
    """Layer 2 of both networks at the first `size` test images; the paper has one."""
    made = []
    for name in NAMES:
        true = spectra(name, size)
        after = true.found.layers[LAYER].after
        network, x = networks.trained(name), networks.test_images(name, size)
        weights = [blocks_of(layer) for layer in network.layers[: LAYER + 1]]
        slopes = [seen > 0 for seen in network.preactivations(x)]
        first = first_piece(weights[0], network.layers[0].neurons, np.arange(network.n), network.n)
        found = []
        for k in range(len(x)):
            piece = first
            for i in range(LAYER):
                kept = piece.keep(slopes[i][k].astype(float))
                piece = next_piece(weights[i + 1], network.layers[i + 1].neurons, kept)
            found.append(removal(piece.whole(), slopes[LAYER][k], rank=int(after.rank[k])))
        made.append(Row(true, tuple(found)))
    return made


def tell(table: list[Row]) -> str:
    """The bound beside the true smallest and largest value: medians, and ranges in brackets."""
    lines = []
    for row in table:
        after = row.true.found.layers[LAYER].after
        told = {
            "kept": [one.kept for one in row.found],
            "removed": [len(one.removed) for one in row.found],
            "bound of Lemma 9": [one.bound for one in row.found],
            "true largest": after.largest,
            "true smallest": after.smallest,
        }
        lines.append(f"{row.true.name}, layer 2, {len(row.found)} test images")
        for what, values in told.items():
            lines.append(f"  {what:18}{np.median(values):9.4g}  ({np.min(values):.4g} to {np.max(values):.4g})")
        spanned = np.mean(np.concatenate([one.spanned for one in row.found]))
        lines.append(f"  removed rows in the span of those kept: {spanned:.2%}")
    return "\n".join(lines)


def draw(table: list[Row]) -> Figure:
    """A line per image against c; where it reaches all kept rows, at the dashed line, the bound holds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(table), figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, row in zip(axes, table, strict=True):
        for one in row.found:
            axis.plot(one.grid, one.counts / one.kept, color="tab:blue", linewidth=0.9)
        axis.axhline(1, color="tab:red", linestyle="--", label="all kept rows: the bound")
        largest = float(np.median(row.true.found.layers[LAYER].after.largest))
        axis.axvline(largest, color="tab:gray", linestyle=":", label="true largest value")
        axis.set_title(f"{row.true.name}, layer 2, {len(row.found)} test images")
        axis.set_xlabel("c")
        axis.legend(fontsize=7, loc="lower right")
    axes[0].set_ylabel("share of kept rows that meet the condition")
    return figure
