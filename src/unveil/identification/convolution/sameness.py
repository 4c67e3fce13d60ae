"""same: whether two readings are of one kernel; distinct: each kernel of a list once."""

from __future__ import annotations

import numpy as np

from unveil.identification.convolution.kernel import Kernel

# Standard deviations within which two readings are equal, and what may differ besides.
WITHIN, ROUNDING = 10.0, 1e-6
# Readings are compared where they are known better than this, relative to their length: others look alike.
DISTINCT = 0.05


def same(a: Kernel, b: Kernel, vague: bool = False) -> bool:
    """Whether two readings are of one kernel, up to sign.

    One may have lost rows or columns at its edges that were too small to be told from zero: then they are compared
    where the smaller one fits best into the larger one.

    Args:
        a: One reading.
        b: Another.
        vague: Whether readings so vague that they cannot be told apart count as the same, too.
    """
    if (np.array(a.size) < b.size).any() and (np.array(a.size) > b.size).any():
        return False
    small, large = (a, b) if a.weights.size <= b.weights.size else (b, a)
    rows, columns = (high - low for low, high in zip(small.size, large.size, strict=True))
    return any(_equal(small, large, i, j, vague) for i in range(rows + 1) for j in range(columns + 1))


def distinct(kernels: list[Kernel], vague: bool = False) -> list[int]:
    """Places of kernels of which no other is a better reading, in order."""
    kept: list[int] = []
    for place in sorted(range(len(kernels)), key=lambda i: float((kernels[i].error ** 2).sum())):
        if not any(same(kernels[place], kernels[other], vague) for other in kept):
            kept.append(place)
    return sorted(kept)


def _equal(small: Kernel, large: Kernel, down: int, right: int, vague: bool) -> bool:
    """Whether the small kernel, so many rows and columns inside the large one, is that one."""
    inside = np.s_[:, down : down + small.size[0], right : right + small.size[1]]
    weights, variance = np.zeros_like(large.weights), large.error**2
    weights[inside] = small.weights
    variance[inside] += small.error**2
    sign = 1.0 if (weights * large.weights).sum() > 0 else -1.0
    off = np.hypot(np.linalg.norm(weights - sign * large.weights), small.bias - sign * large.bias)
    doubt = WITHIN * float(np.sqrt(variance.sum() + small.bias_error**2 + large.bias_error**2))
    return bool(off <= ROUNDING + doubt) and (vague or doubt < DISTINCT)
