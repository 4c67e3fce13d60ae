"""Sections: planes parallel to an edge's normals, further along the edge, in which its neuron is a line through a known
point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.dual_points import DualPoints, dual_points
from unveil.identification.from_labels.faces import Faces, Precision
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.walks import Walks, closer, faces_behind, walk

HOPS = 2  # bends looked at in each direction of a section


@dataclass(frozen=True)
class Sections:
    """What sections are taken with."""

    side: Side  # answers
    chart: Chart  # the coordinates
    planes: Hyperplanes  # known hyperplanes: bends there are passed
    precision: Precision  # lengths to ask at
    rng: np.random.Generator  # draws directions

    def dual_points(self, edge: Edge, labels: tuple[int, int]) -> Iterator[DualPoints]:
        """Dual points in one section of an edge.

        Along a random direction of the edge both its faces go on, until another neuron breaks them. Just behind, the
        boundary has turned away from the point `z + t v`, but the edge's own hyperplane still passes through it, so
        that where the boundary bends there the neuron's normal is told by the direction from that point.

        Args:
            edge: Where the boundary bends.
            labels: On its two sides.

        Yields:
            Dual points, one at a time, of the edge's neuron or of others.

        Queries: about 300
        """
        r = max(self.precision.step / 4, 100 * edge.error)
        started = self._along(edge, labels, r)
        if started is None or not len(started[2]):
            return
        v, _, ends = started
        far = np.cos(edge.angle) * edge.normal + np.sin(edge.angle) * edge.across
        t = float(ends.high.min())
        size = max(t, 0.1)
        base = edge.z + (t + self.rng.uniform(0.05, 0.3) * size) * v
        middle = edge.normal + far
        middle /= np.linalg.norm(middle)
        line = self._face(edge, labels, base, middle, 0.3 * size)
        if line is None:
            return
        for sign in (1, -1):
            on, along = line, sign * _turned(line.normal[0], edge)
            for _ in range(HOPS):
                walks = walk(
                    self.side, self.chart, on, np.zeros(1, dtype=int), along[None], self.precision, self.planes
                ).ended()
                known = bool((walks.plane >= 0).any())
                met = walks if known else closer(self.side, on, walks, self.precision, 1e-4)
                bends = dual_points(self.side, on, met, self.precision)
                if not len(bends.z):
                    break
                if not known:
                    yield bends
                x = bends.behind.x[0]
                onward = x - bends.z[0]
                onward -= (onward @ v) * v
                rough = max(1e-7, float((bends.error[0] + self.precision.cell) / np.linalg.norm(onward)))
                onward /= np.linalg.norm(onward)
                normal = _turned(onward, edge)
                normal = normal * np.sign(normal @ on.normal[0])
                on, along = Faces(x[None], normal[None], on.before, on.after, np.full(1, rough)), onward

    def corner(self, edge: Edge, labels: tuple[int, int]) -> tuple[float, float] | None:
        """The neuron's normal where its edge meets a known hyperplane.

        Both faces turn there by a multiple of the known normal. The neuron's normal lies in the span of the normals
        before and in that of the normals behind, and these two planes of three dimensions meet in a line. Returns the
        angle of the normal, as in `agreed`, and its error; None where the edge meets no known hyperplane first.
        Queries: about 130.
        """
        if not len(self.planes):
            return None
        started = self._along(edge, labels, max(10 * self.precision.step, 1e3 * edge.error))
        if started is None:
            return None
        _, strips, ends = started
        if len(ends) < 2 or ends.plane.min() < 0 or ends.plane[0] != ends.plane[1]:
            return None
        behind, rows = faces_behind(self.side, strips, ends, self.planes, self.precision, share=1e-3)
        if len(rows) < 2:
            return None
        order = np.argsort(ends.face[rows])
        one, two = behind.normal[order]
        system = np.stack([edge.normal, edge.across, -one, -two], axis=1)
        _, values, right = np.linalg.svd(system, full_matrices=False)
        # The smallest is what errors leave; the next tells how well the two planes are told apart.
        if len(values) < 4 or not values[2] > 0:
            return None
        error = float(4 * (behind.error.max() + edge.rough + values[3]) / values[2])
        if error > 1e-3:
            return None
        a, b = right[-1][:2]
        angle = float(np.arctan2(b, a) % np.pi)
        near = min(abs((angle - own + np.pi / 2) % np.pi - np.pi / 2) for own in (0.0, edge.angle))
        return (angle, error) if near > 20 * error + 1e-6 else None

    def _along(self, edge: Edge, labels: tuple[int, int], r: float) -> tuple[np.ndarray, Faces, Walks] | None:
        """Walk along a random direction of an edge on both its faces, at a distance r from it. Returns the direction,
        the two faces, and where they end."""
        v = self.rng.standard_normal(len(edge.z))
        for w in (edge.normal, edge.across):
            v -= (v @ w) * w
        length = np.linalg.norm(v)
        if not length > 1e-9:
            return None
        v /= length
        far = np.cos(edge.angle) * edge.normal + np.sin(edge.angle) * edge.across
        behind = np.cos(edge.angle) * edge.across - np.sin(edge.angle) * edge.normal
        # The edge is not known as exactly as its faces are.
        blurred = replace(self.precision, cell=self.precision.cell + 5 * edge.error)
        strips = Faces(
            np.stack([edge.z - r * edge.ahead * edge.across, edge.z + r * edge.ahead * behind]),
            np.stack([edge.normal, far]),
            np.full(2, labels[0]),
            np.full(2, labels[1]),
            np.full(2, edge.rough * np.sin(edge.angle)),
        )
        ends = walk(self.side, self.chart, strips, np.arange(2), np.stack([v, v]), blurred, self.planes).ended()
        return v, strips, ends

    def _face(
        self, edge: Edge, labels: tuple[int, int], base: np.ndarray, across: np.ndarray, half: float
    ) -> Faces | None:
        """The boundary in a section: a point near the base, and its normal there."""
        cell = self.precision.cell
        before, after = np.array([labels[0]]), np.array([labels[1]])
        if self.chart.margin(base[None])[0] < half:
            return None
        hit, _ = cross_near(self.side, base[None], across[None], before, after, np.array([half]), cell, grow=1)
        if not len(hit):
            return None
        x, step = hit.x[0], self.precision.step / 2
        t = _turned(across, edge)
        at = np.stack([x + step * t, x - step * t])
        two = np.repeat([0], 2)
        near, rows = cross_near(
            self.side, at, np.stack([across, across]), before[two], after[two], np.full(2, 4 * step), cell, grow=1
        )
        if len(rows) < 2:
            return None
        h = (near.x - at) @ across
        if abs(h[0] + h[1]) > 100 * cell:
            return None
        normal = across - (h[0] - h[1]) / (2 * step) * t
        return Faces(x[None], (normal / np.linalg.norm(normal))[None], before, after, np.full(1, 2 * cell / step))


def _turned(w: Float[np.ndarray, " d"], edge: Edge) -> Float[np.ndarray, " d"]:
    """A vector of the section turned by a right angle."""
    return np.asarray((w @ edge.normal) * edge.across - (w @ edge.across) * edge.normal)
