"""Where a smooth network bends: the span of its gradients, and finite-difference Hessians in that span."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.blocks import gap, gradients, second_differences


def gradient_span(
    oracle: Oracle, points: Float[np.ndarray, "P n"], noise: float, rank: int | None = None
) -> tuple[Float[np.ndarray, "r n"], Float[np.ndarray, " s"]]:
    """Orthonormal basis of the span of the gradients, and all their singular values.

    `points`: where; at least as many as the span has dimensions, divided by the outputs. `rank`: dimension of the span;
    by the gap if None. Returns basis, one row per dimension (all of them if there is no gap of a factor of a thousand,
    or of thirty down to the noise), and singular values. Queries: `2 n P`.
    """
    n = oracle.n
    h = first_step(noise) * length(points)
    slopes = gradients(oracle, points, np.eye(n), h).transpose(1, 0, 2).reshape(n, -1)
    basis, values, _ = np.linalg.svd(slopes, full_matrices=False)
    if rank is None:
        rank = gap(values, max(h**2, noise / h / max(values[0], 1e-300)))
        if rank < len(values) and values[rank] > 1e-3 * values[rank - 1]:
            # A smaller gap is one, too, where all behind it is no more than noise.
            floor = noise / (np.sqrt(2) * h) * (np.sqrt(n) + np.sqrt(slopes.shape[1]))
            if values[rank] > 3 * floor or values[rank] > 0.03 * values[rank - 1]:
                rank = n
    if rank >= n:
        return np.eye(n), values
    return np.asarray(basis[:, :rank].T), values


def hessians(
    oracle: Oracle, points: Float[np.ndarray, "P n"], basis: Float[np.ndarray, "r n"], noise: float
) -> Float[np.ndarray, "P m r r"]:
    """Finite-difference Hessians in the coordinates of the basis, step from the noise. Queries: `P (r^2 + r + 1)`."""
    return second_differences(oracle, points, basis, second_step(noise))


def inner_points(oracle: Oracle, count: int, rng: np.random.Generator, stretch: float = 1.0) -> np.ndarray:
    """Points as a user would draw them, with room for a step on all sides of a box; stretched where there is no box."""
    x = oracle.sample(count, rng)
    if oracle.within is None:
        return oracle.nearest(stretch * x)
    middle = oracle.middle
    return oracle.nearest(middle + 0.8 * (x - middle))


def first_step(noise: float) -> float:
    """Step of a central first difference for which truncation and noise are alike, for arguments of size one."""
    return float(np.clip((3 * noise) ** (1 / 3), 1e-5, 0.1))


def second_step(noise: float) -> float:
    """The same for second differences."""
    return float(np.clip((12 * noise) ** 0.25, 1e-3, 0.2))


def length(points: Float[np.ndarray, "P n"]) -> float:
    """Typical size of a coordinate, at most one."""
    return min(1.0, float(np.sqrt(np.mean(points**2))) or 1.0)
