"""starting_points: points of a box of many kinds, as searches through a network's linear regions need them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from unveil.whitebox.network import Network

MOST_STARTING_POINTS = 1500
"""Points at most; fewer where they would take more numbers than..."""

STARTING_POINT_NUMBERS = 20_000_000


def starting_points(
    network: Network, low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], rng: np.random.Generator
) -> Float[np.ndarray, "N n"]:
    """Points whose outputs differ, since uniform ones all activate much the same neurons of a wide layer.

    A third is uniform; a third has most coordinates at one wall, a different share in each point; a third is smooth
    along the inputs (along rows and columns where they are a picture, or their number is a square), as signals are.

    Args:
        network: Tells the shape of its inputs.
        low: Lowest values.
        high: Highest values.
        rng: Draws them.
    """
    n = network.n
    count = int(np.clip(STARTING_POINT_NUMBERS // n, 30, MOST_STARTING_POINTS)) // 3
    uniform = rng.random((count, n))
    wall = (rng.random((count, 1)) < 0.3).astype(float)
    sparse = np.where(rng.random((count, n)) < rng.uniform(0.02, 0.6, size=(count, 1)), rng.random((count, n)), wall)
    side = round(n**0.5)
    shape = network.shape if len(network.shape) > 1 else (side, side) if side * side == n else (n,)
    width = max(1.0, min(shape[-2:]) / 9)
    fields = ndimage.gaussian_filter(
        rng.standard_normal((count, *shape)), (*[0.0] * (1 + max(0, len(shape) - 2)), *[width] * min(2, len(shape)))
    ).reshape(count, n)
    fields /= np.maximum(fields.std(axis=1, keepdims=True), 1e-300)
    smooth = np.clip(0.8 * fields + rng.uniform(-0.5, 1.0, size=(count, 1)), 0, 1)
    return np.asarray(np.clip(low + (high - low) * np.concatenate([uniform, sparse, smooth]), low, high))
