"""An active subspace as a figure: eigenvalues with intervals, answers along the first direction and the first two.

Matplotlib is imported inside, and no window is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from unveil.pictures import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(
    eigenvalues: Float[np.ndarray, " n"],
    intervals: Float[np.ndarray, "n 2"],
    dimension: int,
    along: Float[np.ndarray, "N k"],
    y: Float[np.ndarray, " N"],
) -> Figure:
    """The figure; `figure.savefig("subspace.png")` writes it.

    Args:
        eigenvalues: (n,) mean square derivatives along the directions.
        intervals: (n, 2) within which these are.
        dimension: Of the active subspace.
        along: (N, k) places of the points along the first directions.
        y: (N,) their answers.
    """
    from matplotlib.figure import Figure

    figure = shown(Figure(figsize=(12, 3.6), layout="constrained"))
    spectrum, one, two = figure.subplots(1, 3)
    n = len(eigenvalues)
    number = np.arange(1, n + 1)
    lowest = max(float(eigenvalues[0]) * 1e-8, np.finfo(float).tiny)
    low, high = np.maximum(intervals.T, lowest)
    spectrum.vlines(number, low, high, colors="0.7", linewidth=4)
    spectrum.plot(number, np.maximum(eigenvalues, lowest), "o")
    spectrum.axvline(dimension + 0.5, color="0.4", linestyle="--")
    spectrum.set(yscale="log", xlabel="number of the direction", ylabel="eigenvalue", title="Mean square derivatives")
    one.plot(along[:, 0], y, ".")
    one.set(xlabel="first direction", ylabel="answer", title="Along the first direction")
    if n > 1:
        dots = two.scatter(along[:, 0], along[:, 1], c=y, s=14)
        two.set(xlabel="first direction", ylabel="second direction", title="Along the first two")
        figure.colorbar(dots, ax=two, label="answer")
    return figure
