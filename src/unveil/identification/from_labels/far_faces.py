"""Faces far out: where a sigmoidal layer rests, every face of the boundary is parallel to one neuron's hyperplane."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross, sharpen
from unveil.identification.from_labels.faces import Precision, faces_at

# So far out, in sizes of a typical input: nearly all neurons rest there, and digits are left for the others.
RADIUS = 1e4
AT_ONCE = 32  # points on the sphere asked at a time; pairs of them with different labels are crossed
# How finely a crossing is located, as a share of the radius, before it is looked at which neuron's it may be.
ROUGH = 2.0**-14
CENTRAL = 0.2  # crossings nearer to the middle than this share of the radius are left out
ALIKE = 1e-6  # normals nearer to each other than this are one neuron's


class FarFaces:
    """Directions of a sigmoidal first layer met so far. `side`: answers, in coordinates. `chart`: the coordinates;
    without a box."""

    def __init__(self, side: Side, chart: Chart, rng: np.random.Generator) -> None:
        self.side, self.chart, self.rng = side, chart, rng
        self.normals: Float[np.ndarray, "k d"] = np.empty((0, chart.n))
        digits = chart.digits * RADIUS
        self.precision = Precision(digits, 1e-3 * RADIUS, 4 * digits)
        self.bent = 0
        self.stale = 0

    def run(self, patience: int, most: int) -> None:
        """Cross boundaries far out until so many in a row are those of known neurons, or until so many were met that
        are no single neuron's. Queries: `32` points a round, 14 for each crossing, about `45 d` for each new neuron."""
        quiet = 0
        self.bent = 0
        while self.stale < patience and self.bent < most + len(self.normals) and quiet < 64:
            y = self.rng.standard_normal((AT_ONCE, self.chart.n))
            y *= RADIUS / np.linalg.norm(y, axis=1, keepdims=True)
            label = self.side.labels(y)
            start, end = np.arange(0, AT_ONCE, 2), np.arange(1, AT_ONCE, 2)
            differ = label[start] != label[end]
            quiet = 0 if differ.any() else quiet + 1
            start, end = start[differ], end[differ]
            found = cross(self.side, y[start], y[end], label[start], label[end], ROUGH * RADIUS)
            self._sort_out(found[np.flatnonzero(np.linalg.norm(found.x, axis=1) > CENTRAL * RADIUS)])

    def _sort_out(self, found: Crossings) -> None:
        while len(found):
            on = self._holding(found.x)
            self.stale += int((on >= 0).sum())
            found = found[np.flatnonzero(on < 0)]
            if not len(found):
                return
            self._measure(found[0:1])
            found = found[1:]

    def _holding(self, y: Float[np.ndarray, "N d"]) -> Int[np.ndarray, " N"]:
        """The neuron whose hyperplane each point lies close to, or -1."""
        if not len(self.normals):
            return np.full(len(y), -1)
        off = np.abs(y @ self.normals.T) / np.linalg.norm(y, axis=1)[:, None]
        best = off.argmin(axis=1)
        return np.where(off[np.arange(len(y)), best] < 30 * ROUGH, best, -1)

    def _measure(self, crossing: Crossings) -> None:
        sharp = sharpen(self.side, crossing, self.precision.cell)
        faces, _ = faces_at(self.side, sharp, self.precision, self.precision.step, self.rng)
        if not len(faces):
            self.bent += 1
            return
        normal = faces.normal[0]
        near = np.minimum(np.linalg.norm(self.normals - normal, axis=1), np.linalg.norm(self.normals + normal, axis=1))
        if (near < ALIKE).any():
            self.stale += 1
            return
        self.add(normal)

    def add(self, normal: Float[np.ndarray, " d"]) -> None:
        """One more neuron's unit normal."""
        self.normals = np.concatenate([self.normals, normal[None]])
        self.stale = 0
