"""A hidden layer of tanh or sigmoid from labels: directions and scales far out, then the last layer near by.

Faces far out: where a sigmoidal layer rests, every face of the boundary is parallel to one neuron's hyperplane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.label_crossings import BoundaryPoints, Side, shifts
from unveil.blackbox.ledger import Stages
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross, sharpen
from unveil.identification.from_labels.faces import Precision, faces_at, tangents
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.transitions import AT_REST, WIDTH, transition

# So far out, in sizes of a typical input: nearly all neurons rest there, and digits are left for the others.
RADIUS = 1e4
SPHERE_POINTS_AT_ONCE = 32  # points on the sphere asked at a time; pairs of them with different labels are crossed
# How finely a crossing is located, as a share of the radius, before it is looked at which neuron's it may be.
ROUGH_CROSSING_WIDTH = 2.0**-14
CENTRAL = 0.2  # crossings nearer to the middle than this share of the radius are left out
SAME_NORMAL_DISTANCE = 1e-6  # normals nearer to each other than this are one neuron's


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
            y = self.rng.standard_normal((SPHERE_POINTS_AT_ONCE, self.chart.n))
            y *= RADIUS / np.linalg.norm(y, axis=1, keepdims=True)
            label = self.side.labels(y)
            start, end = np.arange(0, SPHERE_POINTS_AT_ONCE, 2), np.arange(1, SPHERE_POINTS_AT_ONCE, 2)
            differ = label[start] != label[end]
            quiet = 0 if differ.any() else quiet + 1
            start, end = start[differ], end[differ]
            found = cross(self.side, y[start], y[end], label[start], label[end], ROUGH_CROSSING_WIDTH * RADIUS)
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
        return np.where(off[np.arange(len(y)), best] < 30 * ROUGH_CROSSING_WIDTH, best, -1)

    def _measure(self, crossing: Crossings) -> None:
        sharp = sharpen(self.side, crossing, self.precision.cell)
        faces, _ = faces_at(self.side, sharp, self.precision, self.precision.step, self.rng)
        if not len(faces):
            self.bent += 1
            return
        normal = faces.normal[0]
        near = np.minimum(np.linalg.norm(self.normals - normal, axis=1), np.linalg.norm(self.normals + normal, axis=1))
        if (near < SAME_NORMAL_DISTANCE).any():
            self.stale += 1
            return
        self.add(normal)

    def add(self, normal: Float[np.ndarray, " d"]) -> None:
        """One more neuron's unit normal."""
        self.normals = np.concatenate([self.normals, normal[None]])
        self.stale = 0


FLATNESS_POINTS = 3  # boundary points looked at first for whether the boundary is flat there
FURTHER_FLATNESS_POINTS = 6  # further ones where these do not agree with a network of flat pieces
PARTNERS_PER_NEURON = 12  # other neurons tried with each one whose scale is not known
CURVE = 400  # labels that tell a look at corners from a curve
STRANGE = 5  # curves in a row that are none of two sigmoidal neurons, before any that is: then no more are asked
SHIFTING_NEURONS = 4  # neurons that only shift the faces of others, looked for at a time
# Crossings far out that are no single neuron's, besides those of known ones, after which no more are looked for.
FOREIGN_CROSSINGS = 16


def is_curved(pool: Pool, precision: Precision, rng: np.random.Generator) -> bool:
    """Whether the boundary is curved at most of a few points: no piecewise-linear network's is. Queries: about 100 a
    point, 160 where it is not flat; 3 points for flat boundaries and 9 for others."""
    curved: list[bool] = []
    for count in (FLATNESS_POINTS, FURTHER_FLATNESS_POINTS):
        curved += _curved_at(pool, precision, count, rng).tolist()
        if curved and sum(curved) < len(curved) / 2:
            return False
    return len(curved) > FLATNESS_POINTS


def _curved_at(pool: Pool, precision: Precision, count: int, rng: np.random.Generator) -> Bool[np.ndarray, " N"]:
    """Whether the boundary lies elsewhere, between two moves to and fro, than half way between where it lies there."""
    step, cell = precision.step, 4 * precision.cell
    found = pool.crossings(count, cell)
    found = found[np.flatnonzero(pool.chart.margin(found.x) > 8 * step)]
    bent: list[bool] = []
    for i in range(len(found)):
        one = BoundaryPoints(found.x[i : i + 1], found.before[i : i + 1], found.along[i : i + 1])
        way = tangents(one.along, rng)
        near = _sag(pool, one, way, step, cell)
        if np.isnan(near):
            continue
        if abs(near) <= 4 * cell:
            bent.append(False)
            continue
        # A curve bends as the square of the move; an edge in proportion to it, and rounding not at all.
        bent.append(bool(8 < _sag(pool, one, way, 4 * step, cell) / near < 32))
    return np.array(bent, dtype=bool)


def _sag(pool: Pool, at: BoundaryPoints, way: Float[np.ndarray, "1 d"], step: float, cell: float) -> float:
    """By how much the boundary, at moves to and fro, lies off the straight line through where it is without."""
    moved = shifts(
        pool.side,
        at,
        np.concatenate([way, -way]),
        np.array([step]),
        centre=np.zeros((1, 2)),
        half=np.array([2 * step]),
        cell=np.array([cell]),
    )
    return float(moved.sum())


class SigmoidalSearch:
    """Neurons of a sigmoidal layer met so far; `run` goes on with the search. `pool`: points of all labels.
    `stages`: where labels are booked."""

    def __init__(self, pool: Pool, rng: np.random.Generator, stages: Stages) -> None:
        self.side, self.chart, self.rng, self.stages = pool.side, pool.chart, rng, stages
        self.far = FarFaces(pool.side, pool.chart, rng)
        self.scale, self.bias, self.error = np.empty(0), np.empty(0), np.empty(0)
        self.stale = 0
        self.again = False
        self.strange = 0

    def run(self, patience: int) -> None:
        """Look for neurons until so many crossings far out are those of known ones, then for scales and biases.
        Queries: `45 d` for each neuron's direction, about 1,000 for its scale, 20 for each crossing."""
        self.far.stale = self.stale
        self.far.run(patience, FOREIGN_CROSSINGS)
        self.stages.end("directions far out")
        if self.again:
            # No face far out is left to find: what is missing turns up only in the faces of others.
            for _ in range(SHIFTING_NEURONS):
                normal = shifted_normal(self.side, self.chart, self.far.normals, self.rng)
                if normal is None:
                    break
                self.far.add(normal)
            self.stages.end("shifts far out")
        self.again = True
        k = len(self.far.normals)
        new = k - len(self.scale)
        self.error = np.concatenate([self.error, np.full(new, np.inf)])
        self.scale, self.bias = (np.concatenate([each, np.zeros(new)]) for each in (self.scale, self.bias))
        for i in range(k):
            for j in self.rng.permutation(np.delete(np.arange(k), i))[:PARTNERS_PER_NEURON]:
                if np.isfinite(self.error[i]) or self.strange >= STRANGE:
                    break
                self._pair(i, int(j))
        self.stages.end("scales")

    @property
    def neurons(self) -> int:
        """Neurons met."""
        return len(self.far.normals)

    @property
    def read(self) -> Bool[np.ndarray, " k"]:
        """Which neurons' scales and biases are known."""
        return np.isfinite(self.error)

    @property
    def rows(self) -> tuple[Float[np.ndarray, "r d"], Float[np.ndarray, " r"]]:
        """Weight vectors and biases of these."""
        good = np.flatnonzero(self.read)
        return self.far.normals[good] * self.scale[good, None], self.bias[good]

    def _pair(self, i: int, j: int) -> None:
        asked = self.chart.ledger.asked
        found = transition(self.side, self.chart, self.far.normals, (i, j), RADIUS, self.rng)
        if found is None:
            # More than corners were asked: there was a curve, and it is not one of two such neurons.
            self.strange += self.chart.ledger.asked - asked > CURVE and not self.read.any()
            return
        for which, at in enumerate((i, j)):
            if found.error[which] < self.error[at]:
                self.scale[at], self.bias[at] = found.scale[which], found.bias[which]
                self.error[at] = found.error[which]


PLACES_ON_FACES = 48  # places on faces of each neuron that are looked at
# Other places on the same face, as far as known neurons keep their side, that are compared with each.
RAYS_PER_PLACE = 24
LONGEST_RAY = 3.0  # how far these are at most, as a share of the radius
SHIFT = 1e-3  # by how much a face must be shifted, in sizes of a typical input
SHIFT_PLANE_FLATNESS = 1e-6  # how flat points of equal shift must lie, relative to how far they are apart
SHIFT_PLANE_SPREAD = 0.05  # how far apart these points are, as a share of the radius


def shifted_normal(
    side: Side, chart: Chart, normals: Float[np.ndarray, "k d"], rng: np.random.Generator
) -> Float[np.ndarray, " d"] | None:
    """The unit normal of a neuron that is not known, from shifts of the faces of two that are; None if none is met.

    On the face of a known neuron, points of equal shift lie on one plane parallel to the unknown hyperplane. That
    leaves one angle open, which the face of another known neuron settles. Queries: about `40 + 3 RAYS_PER_PLACE` a
    place, and `45 d` for each plane.
    """
    planes: list[np.ndarray] = []
    for j in rng.permutation(len(normals)):
        found = _Face(side, chart, normals, int(j), rng).plane()
        if found is None:
            continue
        for other in planes:
            left, cosines, _ = np.linalg.svd(other @ found.T)
            if cosines[0] < 1 - SHIFT_PLANE_FLATNESS**2:
                continue
            normal = left[:, 0] @ other
            near = np.minimum(np.linalg.norm(normals - normal, axis=1), np.linalg.norm(normals + normal, axis=1))
            if near.min() > SAME_NORMAL_DISTANCE:
                return np.asarray(normal / np.linalg.norm(normal))
        planes.append(found)
    return None


@dataclass
class _Face:
    """Faces parallel to one neuron's hyperplane."""

    side: Side
    chart: Chart
    normals: Float[np.ndarray, "k d"]
    which: int
    rng: np.random.Generator

    def plane(self) -> Float[np.ndarray, "2 d"] | None:
        """Two orthonormal vectors that span the neuron's normal and one that shifts its face."""
        for _ in range(PLACES_ON_FACES):
            v = self._tangent(1)
            v /= np.linalg.norm(v)
            if np.abs(v @ self.others.T).min(initial=1.0) < AT_REST:
                continue
            ends = self._labels(np.repeat(v, 2, axis=0), np.array([-WIDTH, WIDTH]))
            if ends[0] == ends[1]:
                continue
            p = self._position(v, ends)
            rays = self._rays(v)
            if p is None or not len(rays):
                continue
            there = self._labels(np.repeat(rays, 2, axis=0), np.tile([p - SHIFT, p + SHIFT], len(rays))).reshape(-1, 2)
            for ray in rays[(there != ends).any(axis=1)]:
                found = self._across(v[0], ray, p, ends)
                if found is not None:
                    return found
        return None

    @property
    def own(self) -> Float[np.ndarray, " d"]:
        return np.asarray(self.normals[self.which])

    @property
    def others(self) -> Float[np.ndarray, "l d"]:
        return np.delete(self.normals, self.which, axis=0)

    def _tangent(self, count: int) -> Float[np.ndarray, "N d"]:
        v = self.rng.standard_normal((count, self.chart.n))
        return np.asarray(v - np.outer(v @ self.own, self.own))

    def _at(self, v: Float[np.ndarray, "N d"], p: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N d"]:
        return np.asarray(RADIUS * v + p[:, None] * self.own)

    def _labels(self, v: Float[np.ndarray, "N d"], p: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return self.side.labels(self._at(v, p))

    def _position(self, v: Float[np.ndarray, "1 d"], ends: Int[np.ndarray, " 2"]) -> float | None:
        """Where along the normal the face lies; None where a third label lies in between."""
        low, high = (self._at(v, np.array([p])) for p in (-WIDTH, WIDTH))
        found = cross(self.side, low, high, ends[:1], ends[1:], SHIFT / 64)
        return float(found.x[0] @ self.own) if found.after[0] == ends[1] else None

    def _rays(self, v: Float[np.ndarray, "1 d"]) -> Float[np.ndarray, "N d"]:
        """Other directions along the face in which every known neuron rests on the same side."""
        way = self._tangent(RAYS_PER_PLACE)
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        now, change = v @ self.others.T, way @ self.others.T
        sign = np.sign(now)
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.where(sign * change < 0, (np.abs(now) - AT_REST) / np.abs(change), np.inf)
        return np.asarray(v + np.minimum(far.min(axis=1, initial=LONGEST_RAY), LONGEST_RAY)[:, None] * way)

    def _across(
        self, v: Float[np.ndarray, " d"], ray: Float[np.ndarray, " d"], p: float, ends: Int[np.ndarray, " 2"]
    ) -> Float[np.ndarray, "2 d"] | None:
        """The plane of points at which the face is half shifted, between two directions."""
        far = ray[None]
        if (self._labels(np.repeat(far, 2, axis=0), np.array([-WIDTH, WIDTH])) != ends).any():
            return None
        other = self._position(far, ends)
        if other is None or abs(other - p) < SHIFT:
            return None
        count = self.chart.n + 1
        aside = SHIFT_PLANE_SPREAD * self._tangent(2 * count) / np.sqrt(self.chart.n)
        start, end = v + aside, ray + aside
        sides = np.sign(v @ self.others.T)
        rest = (np.minimum(start @ self.others.T * sides, end @ self.others.T * sides) > AT_REST / 2).all(axis=1)
        start, end = start[rest][:count], end[rest][:count]
        half = np.full(len(start), (p + other) / 2)
        before, after = self._labels(start, half), self._labels(end, half)
        differ = np.flatnonzero((before != after) & np.isin(before, ends) & np.isin(after, ends))
        if len(differ) < self.chart.n:
            return None
        start, end, half = self._at(start[differ], half[differ]), self._at(end[differ], half[differ]), half[differ]
        cell = 4 * self.chart.digits * RADIUS
        z = cross(self.side, start, end, before[differ], after[differ], cell).x
        # Within the face: its own normal is the direction in which they do not differ.
        z = z - z.mean(axis=0)
        z -= np.outer(z @ self.own, self.own)
        _, values, right = np.linalg.svd(z, full_matrices=False)
        # The last of d is the face's normal, the one before it that of the plane.
        if not values[-2] < SHIFT_PLANE_FLATNESS * values[-3]:
            return None
        last = np.stack([right[-2], right[-1]])
        along = last - np.outer(last @ self.own, self.own)
        way = along[np.linalg.norm(along, axis=1).argmax()]
        return np.stack([self.own, way / np.linalg.norm(way)])
