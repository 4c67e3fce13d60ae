"""Figure 6: decay of the singular values of WideCIFAR, before and after ReLU, and from layer to layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from papers.invertibility.spectra import Spectra, spectra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, COMPARED = "wide_cifar", (1, 4)


def run(size: int = 4) -> Spectra:
    """Median over `size` test images; the paper takes 50."""
    return spectra(NAME, size)


def tell(table: Spectra) -> str:
    """The curves at a few places. Layers are numbered from 1, as in the paper."""
    lines = [
        f"{table.name}, median over {table.samples} test images",
        "layer  ReLU     largest  1000th    2000th    smallest>0",
    ]
    for i, each in enumerate(table.found.layers):
        for when, spectrum in (("before", each.before), ("after", each.after)):
            curve = spectrum.median()
            at = [f"{curve[k]:8.2e}" if k < len(curve) else " " * 8 for k in (999, 1999)]
            lines.append(
                f"{i + 1:5d}  {when:6}  {curve[0]:8.3g}  {at[0]}  {at[1]}  {np.median(spectrum.smallest):8.2e}"
            )
    return "\n".join(lines)


def draw(table: Spectra, compared: tuple[int, ...] = COMPARED) -> Figure:
    """Left: before and after ReLU; right: layer by layer, after ReLU."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for i in compared:
        layer = table.found.layers[i]
        left.semilogy(above(layer.before.median()), label=f"layer {i + 1}, before ReLU")
        left.semilogy(above(layer.after.median()), "--", label=f"layer {i + 1}, after ReLU")
    for i, layer in enumerate(table.found.layers[:-1]):
        right.semilogy(above(layer.after.median()), label=f"layer {i + 1}")
    for axis in (left, right):
        axis.set_xlabel("index of the singular value")
        axis.legend(fontsize=7)
    left.set_ylabel("median singular value")
    figure.suptitle(f"{table.name}, {table.samples} test images")
    return figure


def above(curve: np.ndarray) -> np.ndarray:
    """Without the values that cannot be told from zero."""
    return np.where(curve > len(curve) * np.finfo(float).eps * curve[0], curve, np.nan)
