"""Draw label_boundary.png: where a network's label changes, and that it bends just at its neurons' hyperplanes.

`python docs/images/label_boundary.py` writes it beside this file.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

import unveil as uv

SIDE = 2.2
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3")


def main() -> None:
    rng = np.random.default_rng(20)
    rows, bias = rng.standard_normal((4, 2)), 0.7 * rng.standard_normal(4)
    network = uv.Network.from_weights([(rows, bias), (rng.standard_normal((3, 4)), 0.3 * rng.standard_normal(3))])
    grid = np.linspace(-SIDE, SIDE, 900)
    x = np.stack([each.ravel() for each in np.meshgrid(grid, grid)], axis=1)
    labels = network(x).argmax(axis=1).reshape(900, 900)
    figure, axes = plt.subplots(figsize=(5.2, 5.6), dpi=150)
    axes.contourf(grid, grid, labels, levels=[-0.5, 0.5, 1.5, 2.5], colors=["#f2f2f2", "#dde6f0", "#f6e6d8"])
    for c in range(3):
        axes.contour(grid, grid, labels == c, levels=[0.5], colors="black", linewidths=1.8)
    for i, colour in enumerate(COLOURS):
        a, b = rows[i], bias[i]
        along = np.array([-a[1], a[0]]) / np.linalg.norm(a)
        foot = -b * a / (a @ a)
        ends = np.stack([foot - 9 * along, foot + 9 * along])
        axes.plot(*ends.T, color=colour, linestyle="--", linewidth=1.2, label=f"hyperplane of neuron {i + 1}")
        t = np.linspace(-9, 9, 200_001)
        points = foot + t[:, None] * along
        told = network(points).argmax(axis=1)
        meets = points[np.flatnonzero(told[1:] != told[:-1])]
        axes.plot(*meets.T, "o", color=colour, markersize=6, markeredgecolor="black", zorder=3)
    axes.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal", xlabel="input 1", ylabel="input 2")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, fontsize=8)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
