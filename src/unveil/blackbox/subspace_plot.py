"""An active subspace as a figure: eigenvalues with intervals, answers along the first direction and the first two.

Matplotlib is imported inside, and no window is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unveil.pictures import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unveil.blackbox.active_subspace import ActiveSubspace


def draw(found: ActiveSubspace) -> Figure:
    """The figure; `figure.savefig("subspace.png")` writes it."""
    from matplotlib.figure import Figure

    figure = shown(Figure(figsize=(12, 3.6), layout="constrained"))
    spectrum, one, two = figure.subplots(1, 3)
    number = np.arange(1, found.n + 1)
    lowest = max(float(found.eigenvalues[0]) * 1e-8, np.finfo(float).tiny)
    low, high = np.maximum(found.intervals.T, lowest)
    spectrum.vlines(number, low, high, colors="0.7", linewidth=4)
    spectrum.plot(number, np.maximum(found.eigenvalues, lowest), "o")
    spectrum.axvline(found.dimension + 0.5, color="0.4", linestyle="--")
    spectrum.set(yscale="log", xlabel="number of the direction", ylabel="eigenvalue", title="Mean square derivatives")
    along = found.coordinates(found.x, min(2, found.n))
    one.plot(along[:, 0], found.y, ".")
    one.set(xlabel="first direction", ylabel="answer", title="Along the first direction")
    if found.n > 1:
        dots = two.scatter(along[:, 0], along[:, 1], c=found.y, s=14)
        two.set(xlabel="first direction", ylabel="second direction", title="Along the first two")
        figure.colorbar(dots, ax=two, label="answer")
    return figure
