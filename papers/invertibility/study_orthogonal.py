"""Composed orthogonal layers (section 3.1): each is perfectly conditioned, their composition with ReLU is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unveil import Network
from unveil.whitebox.stability import Stability, stability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUTS, DEPTH, WIDENING = 100, 8, (1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """Networks whose first layer has `widening` times as many neurons as inputs, and whose others are square."""

    widening: int
    found: Stability


def run(size: int = 20, seed: int = 0) -> list[Row]:
    """Random orthogonal layers without biases, at `size` standard normal inputs."""
    rng = np.random.default_rng(seed)
    made = []
    for widening in WIDENING:
        wide = INPUTS * widening
        shapes = [(wide, INPUTS)] + [(wide, wide)] * (DEPTH - 1)
        # Orthonormal columns, so that every singular value of every layer is 1.
        weights = [(np.linalg.qr(rng.standard_normal(shape))[0], np.zeros(wide)) for shape in shapes]
        network = Network.from_weights(weights, last="relu")
        made.append(Row(widening, stability(network, rng.standard_normal((size, INPUTS)), lemma_9=False)))
    return made


def tell(table: list[Row]) -> str:
    """Condition number and rank after each layer's ReLU."""
    lines = [
        "median condition number (rank of 100) after each ReLU",
        "wider  " + "".join(f"{i + 1:>16}" for i in range(DEPTH)),
    ]
    for row in table:
        cells = [f"{np.median(e.after.condition):9.3g} ({np.median(e.after.rank):3.0f})" for e in row.found.layers]
        lines.append(f"{row.widening:5d}  " + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def draw(table: list[Row]) -> Figure:
    """One panel per width, one line per layer."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(table), figsize=(14, 3.4), sharey=True, layout="constrained")
    for axis, row in zip(axes, table, strict=True):
        for i, layer in enumerate(row.found.layers):
            curve = layer.after.median()
            axis.semilogy(np.where(curve > 1e-13, curve, np.nan), label=f"layer {i + 1}")
        axis.set_title(f"{row.widening} times as wide as the input")
        axis.set_xlabel("index of the singular value")
    axes[0].set_ylabel("median singular value after ReLU")
    axes[0].legend(fontsize=6)
    return figure
