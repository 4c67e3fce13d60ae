"""MetPoints: dual points of neurons that are not known, kept until their hyperplanes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.dual_points import DualPoints


@dataclass(frozen=True)
class MetPoints(Rows):
    """Dual points, and whether the edge at each was looked at.

    Attributes:
        z: The points.
        face: The face on which each was met; -1 where it has no index.
        error: How exactly `z` is known.
        behind: Crossings on the next face, close by.
        gap: How far behind.
        opened: Whether the normal behind was measured, or need not be.
    """

    z: Float[np.ndarray, "N d"]
    face: Int[np.ndarray, " N"]
    error: Float[np.ndarray, " N"]
    behind: Crossings
    gap: Float[np.ndarray, " N"]
    opened: Bool[np.ndarray, " N"]

    @classmethod
    def none(cls, d: int) -> MetPoints:
        nothing = np.empty(0)
        return cls(np.empty((0, d)), nothing.astype(int), nothing, Crossings.none(d), nothing, nothing.astype(bool))

    def with_more(self, found: DualPoints, seen: bool) -> MetPoints:
        """With these; `seen`: their edges are none to be looked at, and their face has no index."""
        count = len(found.z)
        face = np.full(count, -1) if seen else found.face
        more = MetPoints(found.z, face, found.error, found.behind, found.gap, np.full(count, seen))
        return MetPoints.joined([self, more])
