"""Figure 10: the singular values of ThinCIFAR and of the MLPs, as Figure 6 has them for WideCIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from papers.invertibility import figure_6
from papers.invertibility.spectra import Spectra, spectra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_SAMPLES = 50


def run(size: int = 4) -> list[Spectra]:
    """Medians over `size` test images, for the MLPs, which take a second each at most, over the paper's 50."""
    mlps = [spectra(name, max(size, PAPER_SAMPLES)) for name in ("mlp_3500", "mlp_100")]
    return [spectra("thin_cifar", size), *mlps]


def tell(table: list[Spectra]) -> str:
    """The curves at a few places."""
    return "\n\n".join(figure_6.tell(one) for one in table)


def draw(table: list[Spectra]) -> Figure:
    """One panel per network: before (dashed) and after ReLU, layer by layer."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(table), figsize=(14, 4), layout="constrained")
    for axis, one in zip(axes, table, strict=True):
        # There are more layers than colours that matplotlib tells apart by itself.
        colours = plt.get_cmap("turbo")(np.linspace(0, 0.95, len(one.found.layers)))
        for i, (layer, colour) in enumerate(zip(one.found.layers, colours, strict=True)):
            axis.semilogy(figure_6.above(layer.after.median()), color=colour, label=f"layer {i + 1}")
            axis.semilogy(figure_6.above(layer.before.median()), "--", color=colour, linewidth=0.7)
        axis.set_title(f"{one.name}, {one.samples} test images")
        axis.set_xlabel("index of the singular value")
        axis.legend(fontsize=6)
    axes[0].set_ylabel("median singular value (dashed: before ReLU)")
    return figure
