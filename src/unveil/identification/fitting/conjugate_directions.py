"""Conjugate: the directions of one solution by conjugate gradients, kept apart in spite of rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Numbers of former directions that are kept, twice (128 MB each).
_KEPT = 2**25


class Conjugate:
    """Directions of one step and their products, in single precision, to which each further one is made conjugate.

    By the last one alone, as in exact arithmetic would do, they come back to each other: of an ill-conditioned step in
    single precision that takes twice as many products.

    Args:
        size: Parameters.
        most: Directions that are kept, or as many as `_KEPT` numbers hold.
    """

    def __init__(self, size: int, most: int) -> None:
        most = max(1, min(most, _KEPT // size))
        self._directions, self._products = (np.empty((most, size), dtype=np.float32) for _ in range(2))
        self._count = 0

    def keep(self, p: Sequence[np.ndarray], q: Sequence[np.ndarray]) -> None:
        curved, size = dot(p, q), np.sqrt(dot(p, p))
        if curved <= 0 or size == 0:
            return
        at = self._count % len(self._directions)
        for out, each, scale in ((self._directions[at], p, 1 / size), (self._products[at], q, size / curved)):
            np.multiply(np.concatenate([a.ravel() for a in each]), scale, out=out, casting="same_kind")
        self._count += 1

    def to_all(self, z: Sequence[np.ndarray]) -> list[np.ndarray]:
        """z without what is not conjugate to the directions kept."""
        kept = min(self._count, len(self._directions))
        whole = np.concatenate([a.ravel() for a in z])
        whole -= (self._products[:kept] @ whole.astype(np.float32)) @ self._directions[:kept]
        parts = np.split(whole, np.cumsum([a.size for a in z])[:-1])
        return [part.reshape(a.shape) for part, a in zip(parts, z, strict=True)]


def dot(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Sum of the products of all entries."""
    return float(sum(np.vdot(u, v) for u, v in zip(a, b, strict=True)))
