"""Figure 7: output size, condition number and number of non-zero singular values against the layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from papers.invertibility.spectra import Spectra, spectra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("wide_cifar", "thin_cifar")


def run(size: int = 4) -> list[Spectra]:
    """Medians over `size` test images; the paper takes 50."""
    return [spectra(name, size) for name in NAMES]


def rows(one: Spectra) -> list[tuple[int, float, float]]:
    """(output size, condition number, non-zero singular values) after each layer."""
    return [
        (each.neurons, float(np.median(each.after.condition)), float(np.median(each.after.rank)))
        for each in one.found.layers
    ]


def tell(table: list[Spectra]) -> str:
    """The numbers of the figure. Layers are numbered from 1, as in the paper."""
    lines = []
    for one in table:
        lines += [f"{one.name}, median over {one.samples} test images", "layer  outputs  active  condition  non-zero"]
        for i, ((size, condition, rank), each) in enumerate(zip(rows(one), one.found.layers, strict=True)):
            lines.append(f"{i + 1:5d}  {size:7d}  {np.median(each.active):6.0f}  {condition:9.3g}  {rank:8.0f}")
    return "\n".join(lines)


def draw(table: list[Spectra]) -> Figure:
    """Three panels, one line per network."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    titles = ("output size", "condition number", "non-zero singular values")
    for one in table:
        for axis, values, title in zip(axes, zip(*rows(one), strict=True), titles, strict=True):
            axis.plot(range(1, len(values) + 1), values, "o-", label=one.name)
            axis.set_title(title)
            axis.set_xlabel("layer")
    axes[1].set_yscale("log")
    axes[0].legend()
    return figure
