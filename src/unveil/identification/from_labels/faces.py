"""Faces of the boundary: where it is flat, with its normal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.label_crossings import BoundaryPoints, Side, shifts
from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.crossings import cross_near

ROUGH = 1e-6  # error of a normal, per coordinate, from which on it is measured again by longer moves
LONGEST_FACE_MOVE = 2.0  # such moves at most, in sizes of a typical input
BENT_DIGITS = 8  # so many digits off a straight line the boundary bends
# So close before and behind a known hyperplane it is asked, as a share of its distance; where normals are coarse.
NEXT, COARSE_NEXT = 1e-3, 1e-2


@dataclass(frozen=True)
class Precision:
    """Lengths at which a boundary is asked, all from the digits of the inputs."""

    digits: float  # how exactly a point can be placed
    step: float  # the move by which a normal is measured
    cell: float  # how finely the boundary is located for it
    beside: float = 0.0  # see `aside`; so much at least

    @classmethod
    def of(cls, digits: float) -> Precision:
        """Steps so long that rounding hardly tells, and so short that few other hyperplanes lie in between."""
        step = float(np.clip(5e4 * digits, 2e-3, 0.03))
        return cls(digits, step, max(1e-8 * step, 2 * digits))

    @property
    def normal(self) -> float:
        """The error of a normal, per coordinate."""
        return self.cell / self.step

    @property
    def aside(self) -> float:
        """So close before and behind a known hyperplane it is asked, as a share of its distance: bends must be seen."""
        return max(self.beside, NEXT if self.normal < ROUGH else COARSE_NEXT)


@dataclass(frozen=True)
class Faces(Rows):
    """Flat pieces of the boundary."""

    x: Float[np.ndarray, "N d"]  # a point on each
    normal: Float[np.ndarray, "N d"]  # unit normals, from `before` to `after`
    before: Int[np.ndarray, " N"]  # the label on the one side
    after: Int[np.ndarray, " N"]  # the label on the other
    error: Float[np.ndarray, " N"]  # of the normals, per coordinate

    @classmethod
    def none(cls, d: int) -> Faces:
        nothing = np.empty(0, dtype=int)
        return cls(np.empty((0, d)), np.empty((0, d)), nothing, nothing, np.empty(0))

    def ways_to(
        self, a: Float[np.ndarray, "*N d"], b: float | Float[np.ndarray, " N"]
    ) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """The steepest way on each face to the hyperplane `a x + b = 0`, one for all or each its own. Direction,
        length, and steepness of a unit a. Direction and length are not finite on faces parallel to it."""
        along = a - np.sum(self.normal * a, axis=1)[:, None] * self.normal
        steep = np.linalg.norm(along, axis=1)
        off = np.sum(self.x * a, axis=1) + b
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.sign(off)[:, None] * along / steep[:, None], np.abs(off) / steep, steep


def faces_at(
    side: Side,
    crossings: Crossings,
    precision: Precision,
    step: float,
    rng: np.random.Generator,
    across: Float[np.ndarray, "N d"] | None = None,
) -> tuple[Faces, Int[np.ndarray, " M"]]:
    """The boundary's normals at crossings, by how far it moves when the input does.

    First coarsely, along the direction of the crossing, then finely along the coarse normal. Where the flat piece that
    this foretells is not there three steps away, there is an edge in between, and no normal. `crossings`: points on the
    boundary, located well below `step`. `step`: the move; shorter than `precision.step` close to an edge. `across`:
    normals on the other sides of edges close by, see `_stretched`. Returns the M faces with a normal, and which of the
    crossings they belong to. Queries: about `d * 35` each.
    """
    d, rows = crossings.x.shape[1], np.arange(len(crossings))
    cell = max(precision.normal * step, 2 * precision.digits)
    points = BoundaryPoints(crossings.x, crossings.before, crossings.along)
    full = np.full(len(rows), step)
    for half, width in ((2 * step, max(step / 16, cell)), (step / 4, cell)):
        moves = _complements(points.along, rng)
        moved = shifts(
            side,
            points,
            moves,
            full[: len(points)],
            centre=np.zeros(moves.shape[:2]),
            half=np.full(len(points), half),
            cell=np.full(len(points), width),
        )
        known = ~np.isnan(moved).any(axis=1)
        rows, points, moved = rows[known], points[np.flatnonzero(known)], moved[known]
        # A plane u through x: u (x + step b + h e - x) = 0, so u b = -(h / step) u e, for b orthogonal to e.
        points = points.turned(points.along - np.einsum("nj,njd->nd", moved / step, moves[known]))
    before, after = crossings.before[rows], crossings.after[rows]
    faces = Faces(crossings.x[rows], points.along, before, after, np.full(len(rows), cell / step))
    straight = _straight(side, faces, step, 8 * cell * np.sqrt(d), rng)
    faces, rows = faces[straight], rows[straight]
    # Where coarser normals than there could be are asked for, short moves are enough.
    if 2 * precision.digits / step < ROUGH or precision.cell > 2 * precision.digits:
        return faces, rows
    faces = _stretched(side, faces, precision, step, rng, None if across is None else across[rows])
    # What was coarse may have hidden an edge close by: now it shows.
    good = np.ones(len(faces), dtype=bool)
    for _ in range(4):
        away = 2 * step * tangents(faces.normal, rng)
        length = np.full(len(faces), 2 * step)
        for sign in (1, -1):
            good &= on_face(side, faces, faces.x + sign * away, tolerance_at(precision, faces, length))[0]
    return faces[np.flatnonzero(good)], rows[good]


def _stretched(
    side: Side,
    faces: Faces,
    precision: Precision,
    step: float,
    rng: np.random.Generator,
    across: Float[np.ndarray, "N d"] | None = None,
) -> Faces:
    """The same with normals from moves as long as each face allows, where short ones are too coarse: in float32.

    Moves grow fourfold as long as the boundary lies as far to the one side behind as to the other in front: where it
    bends in between, it does not. `faces`: with normals by the step. `step`: the move by which normals were measured.
    `across`: normals on the other sides of edges close by, pointing to this one. All moves but one go along the edge.
    Queries: about 14 for each face, coordinate and length.
    """
    count, d = faces.x.shape
    if not count or d < 2:
        return faces
    along = _complements(faces.normal, rng, across)
    if across is not None:
        along[:, 0] *= np.sign(np.sum(along[:, 0] * across, axis=1, keepdims=True))
    along = along.reshape(-1, d)
    which = np.repeat(np.arange(count), d - 1)
    # Away from an edge there is one side only: half-way the boundary must be half as far off.
    other = np.full((count, d - 1), -1.0)
    other[:, 0] = -1.0 if across is None else 0.5
    other = other.ravel()
    error, slope = np.repeat(faces.error, d - 1), np.zeros(len(which))
    going, s = np.arange(len(which)), 4.0 * step
    while len(going) and s <= LONGEST_FACE_MOVE:
        on, digits = faces[which[going]], precision.digits * (1 + s)
        expected = along[going] + slope[going, None] * on.normal
        half = 4 * digits + 4 * error[going] * s
        off, met = np.full((2, len(going)), np.nan), np.ones(len(going), dtype=bool)
        for row, times in enumerate((np.ones(len(going)), other[going])):
            rows = np.flatnonzero(met)
            place = on.x[rows] + (times[rows] * s)[:, None] * expected[rows]
            at = (on.normal[rows], on.before[rows], on.after[rows], half[rows])
            near, heard = cross_near(side, place, *at, digits, grow=0)
            off[row, rows[heard]] = np.sum((near.x - place[heard]) * on.normal[rows[heard]], axis=1)
            met = ~np.isnan(off[row])
        times = other[going]
        straight = np.flatnonzero(met & (np.abs(off[1] - times * off[0]) < BENT_DIGITS * digits))
        slope[going[straight]] += ((off[0] + times * off[1]) / (s * (1 + times**2)))[straight]
        going = going[straight]
        error[going] = digits / s
        s *= 4
    turned = faces.normal.copy()
    np.subtract.at(turned, which, slope[:, None] * along)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    rough = np.sqrt(np.mean(error.reshape(count, d - 1) ** 2, axis=1))
    return Faces(faces.x, turned, faces.before, faces.after, rough)


def _complements(
    normal: Float[np.ndarray, "N d"], rng: np.random.Generator, first: Float[np.ndarray, "N d"] | None = None
) -> Float[np.ndarray, "N d-1 d"]:
    """An orthonormal basis of what is orthogonal to each vector, turned at random; `first`: but for its first one."""
    count, d = normal.shape
    drawn = rng.standard_normal((count, d, d))
    drawn[:, 0] = normal
    if first is not None:
        drawn[:, 1] = first
    return np.asarray(np.linalg.qr(drawn.transpose(0, 2, 1))[0].transpose(0, 2, 1)[:, 1:])


def _straight(side: Side, faces: Faces, step: float, tolerance: float, rng: np.random.Generator) -> np.ndarray:
    """Which faces are where they are foretold, three steps away along two tangents, forth and back."""
    if not len(faces):
        return np.empty(0, dtype=int)
    good = np.ones(len(faces), dtype=bool)
    for _ in range(2):
        away = 3 * step * tangents(faces.normal, rng)
        for sign in (1, -1):
            good &= on_face(side, faces, faces.x + sign * away, np.full(len(faces), 3 * tolerance))[0]
    return np.flatnonzero(good)


def tangents(normal: Float[np.ndarray, "N d"], rng: np.random.Generator) -> Float[np.ndarray, "N d"]:
    """Random unit vectors along each face."""
    t = rng.standard_normal(normal.shape)
    t -= np.sum(t * normal, axis=1, keepdims=True) * normal
    return np.asarray(t / np.linalg.norm(t, axis=1, keepdims=True))


def on_face(
    side: Side, faces: Faces, at: Float[np.ndarray, "N d"], tolerance: Float[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the boundary passes between the two points at `tolerance` from each place, and whether only these labels
    are seen there. Queries: 2 each."""
    step = tolerance[:, None] * faces.normal
    labels = side.labels(np.concatenate([at - step, at + step]))
    low, high = labels[: len(at)], labels[len(at) :]
    passes = (low == faces.before) & (high == faces.after)
    ours = np.isin(low - faces.before, 0) | (low == faces.after)
    ours &= (high == faces.before) | (high == faces.after)
    return passes, ours


def tolerance_at(precision: Precision, faces: Faces, length: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """How far the boundary may lie from where a face foretells it, so far out."""
    return np.asarray(4 * precision.digits * (1 + length) + 6 * faces.error * length + precision.cell)
