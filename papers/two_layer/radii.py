"""Why Hessians far from the origin help: how well rank-one matrices in their span fit the first layer, by radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.two_layer.networks import draw as network
from unveil import as_oracle
from unveil.identification.smooth.blocks import hessians
from unveil.identification.smooth.rank_one import matrix_space, subspace_power

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    """One radius: median distance of first-layer directions to what was found, the share within 0.05, the gap."""

    activation: str
    radius: float
    median: float
    share: float
    gap: float


def run(size: int = 3) -> list[Row]:
    """`size` networks 20-20-4, perturbed orthogonal, shifts 0.05; 200 normalised Hessians at Gaussian points."""
    table = []
    for activation in ("tanh", "sigmoid"):
        for radius in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
            medians, shares, gaps = [], [], []
            for seed in range(size):
                truth = network(20, (20, 4), activation, seed, kind="perturbed", shifts=0.05)
                rng = np.random.default_rng([2, seed])
                points = radius * rng.standard_normal((200, 20))
                found = hessians(as_oracle(truth, shape=20), points, np.eye(20), 1e-16)[:, 0]
                size_of = np.linalg.norm(found, axis=(1, 2))
                found = found[size_of > 0] / size_of[size_of > 0][:, None, None]
                space, values = matrix_space(found, 24)
                ends = subspace_power(space, rng=rng, starts=120, iterations=300)
                closeness = np.abs(truth.layers[0].weights @ ends.vectors.T).max(axis=1)
                distance = np.sqrt(np.maximum(0, 2 - 2 * closeness))
                medians.append(np.median(distance))
                shares.append((distance < 0.05).mean())
                gaps.append(values[23] / values[24])
            table.append(Row(activation, radius, *(float(np.mean(each)) for each in (medians, shares, gaps))))
    return table


def tell(table: list[Row]) -> str:
    """One line for each radius."""
    return "\n".join(
        f"{row.activation:8} radius {row.radius:5.1f}  median distance {row.median:.4f}  "
        f"within 0.05: {row.share:5.1%}  "
        f"spectral gap {row.gap:.2f}"
        for row in table
    )


def draw(table: list[Row]) -> Figure:
    """Median distance against the radius."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5, 3.5))
    for activation in dict.fromkeys(row.activation for row in table):
        rows = [row for row in table if row.activation == activation]
        panel.loglog([row.radius for row in rows], [row.median for row in rows], marker="o", label=activation)
    panel.set(xlabel="spread of the points", ylabel="median distance to first-layer directions")
    panel.legend()
    figure.tight_layout()
    return figure
