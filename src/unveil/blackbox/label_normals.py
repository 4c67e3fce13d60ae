"""Normals of a label's boundary and how their span is made sharper in its own complement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg

from unveil.blackbox.label_crossings import BoundaryPoints, Side, legal_steps, shifts

PILOTS = 6
"""Random moves by which the size of what is left is judged before it is measured."""


@dataclass(frozen=True)
class Scale:
    """Lengths at which this boundary may be asked.

    Attributes:
        flat: The longest move over which the boundary bends by less than `curvature` of its shift.
        curvature: The share of a shift that is curvature, at `flat`.
        noise: How finely the boundary can be located along its normal.
        longest: The longest move that stays legal.
    """

    flat: float
    curvature: float
    noise: float
    longest: float

    @property
    def sharp(self) -> float:
        """The move at which curvature and noise disturb a normal least; shorter where nothing bends."""
        best = np.sqrt(self.noise * self.flat / max(self.curvature, 1e-12))
        return float(min(best, max(1e-3 * self.flat, 1e5 * self.noise), self.flat))

    @property
    def sharpness(self) -> float:
        """The relative error of a normal measured with `sharp` moves."""
        return self.noise / self.sharp + self.curvature * self.sharp / self.flat


@dataclass(frozen=True)
class Normals:
    """Boundary points with their normals, as far as these are known.

    `coordinates @ basis` are the unit normals; `complement` is orthogonal to all of them.

    Attributes:
        points: r boundary points, crossed along their normals.
        coordinates: (r, r).
        basis: (r, n), orthonormal rows.
        complement: (n - r, n), orthonormal rows.
        error: Size of what is not known of each normal in the complement, per unit direction.
        settled: So many of the first normals have sharp coordinates.
        distance: Estimate of the sine of the largest principal angle between this span and the normals' true one.
    """

    points: BoundaryPoints
    coordinates: Float[np.ndarray, "r r"]
    basis: Float[np.ndarray, "r n"]
    complement: Float[np.ndarray, "c n"]
    error: Float[np.ndarray, " r"]
    settled: int
    distance: float

    @classmethod
    def none(cls, n: int) -> Normals:
        points = BoundaryPoints(np.empty((0, n)), np.empty(0, dtype=np.int64), np.empty((0, n)))
        return cls(points, np.empty((0, 0)), np.empty((0, n)), np.eye(n), np.empty(0), 0, 0.0)

    @property
    def r(self) -> int:
        return len(self.points)

    @property
    def normals(self) -> Float[np.ndarray, "r n"]:
        """Unit normals."""
        return np.asarray(self.coordinates @ self.basis)

    def with_normals(
        self,
        points: BoundaryPoints,
        normals: Float[np.ndarray, "N n"],
        error: Float[np.ndarray, " N"],
        settled: int | None = None,
    ) -> Normals:
        """The same with other normals."""
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        r = len(normals)
        q, upper = np.linalg.qr(normals.T, mode="complete")
        coordinates = upper[:r].T
        settled = self.settled if settled is None else settled
        distance = float(np.sqrt(len(q) - r) * np.linalg.norm(np.linalg.pinv(coordinates) * error))
        return Normals(points.turned(normals), coordinates, q[:, :r].T, q[:, r:].T, error, settled, distance)

    def added(
        self, points: BoundaryPoints, normals: Float[np.ndarray, "N n"], error: Float[np.ndarray, " N"]
    ) -> Normals:
        """With more points and their normals."""
        return self.with_normals(
            BoundaryPoints.joined([self.points, points]),
            np.concatenate([self.normals, normals]),
            np.concatenate([self.error, error]),
        )

    def kept(self, rows: Int[np.ndarray, " s"]) -> Normals:
        """Some of the normals, in ascending order."""
        settled = int(np.sum(rows < self.settled))
        return self.with_normals(self.points[rows], self.normals[rows], self.error[rows], settled)


def sizes(
    side: Side,
    points: BoundaryPoints,
    moves: Float[np.ndarray, "J n"],
    step: Float[np.ndarray, " N"],
    expected: Float[np.ndarray, " N"],
    noise: float,
) -> Float[np.ndarray, "N J"]:
    """Slopes of the boundary along J moves, of an unknown size: brackets start at `expected` and grow.

    A slope is the shift per unit of step, so the normal's component along the move over that along `points.along`.
    Three significant bits, unless the noise hides them.

    Queries: about `votes * N * J * 6` where `expected` is right, 3 more for each factor of five it is too small
    """
    half = 2 * np.maximum(expected * step, noise)
    found = shifts(
        side,
        points,
        moves,
        step,
        centre=np.zeros((len(points), len(moves))),
        half=half,
        cell=np.maximum(half / 8, noise),
    )
    return np.asarray(-found / step[:, None])


def measure(
    side: Side, scale: Scale, known: Normals, points: BoundaryPoints, size: np.ndarray, guess: np.ndarray
) -> Normals:
    """Normals of new points, coarsely: first within the span known so far, then in its complement.

    Args:
        side: Answers.
        scale: Lengths to ask at.
        known: What is known.
        points: New points, crossed in any direction.
        size: Of each point's slope along one unit direction of the complement, (N,).
        guess: What a sketch told of their normals' components in the complement, (N, n), in the units of slopes.

    Queries: about `votes * n` times 10 for each point
    """
    step = np.full(len(points), scale.flat)
    inner = np.zeros_like(points.x)
    if known.r:
        half = 2 * step / np.sqrt(known.r)
        moved = shifts(
            side, points, known.basis, step, centre=np.zeros((len(points), known.r)), half=half, cell=half / 128
        )
        inner = np.nan_to_num(-moved / step[:, None]) @ known.basis
    # The normal as far as it is known, to be crossed along: slopes become smaller by its length.
    ahead = inner + guess
    length = np.linalg.norm(ahead, axis=1)
    points, inner = points.turned(ahead), inner / length[:, None]
    spread = size / length
    cell = np.maximum(spread * step / 32, scale.noise)
    moved = shifts(
        side,
        points,
        known.complement,
        step,
        centre=np.zeros((len(points), len(known.complement))),
        half=4 * spread * step,
        cell=cell,
        spread=spread * step,
    )
    keep = np.flatnonzero(np.isnan(moved).mean(axis=1) < 0.05)
    normals = inner[keep] + np.nan_to_num(-moved[keep] / step[keep, None]) @ known.complement
    length = np.linalg.norm(normals, axis=1)
    error = (cell[keep] / step[keep] / np.sqrt(12) + scale.curvature * spread[keep]) / length
    return known.added(points[keep], normals, error)


def settle(side: Side, scale: Scale, found: Normals) -> tuple[Normals, float]:
    """The normals' components within their span, as sharp as curvature and noise allow.

    What is learnt in the complement is shared out between the normals by these coordinates: their error, over their
    smallest singular value, is what every later round leaves of the distance. However wrong the span still is, the true
    coordinates have no higher rank than the true span: a normal that had only seemed to show something new is found out
    here, and left out.

    Returns:
        The normals, and the singular value below which coordinates are noise.

    Queries: about `votes * r^2 * 15`, less what had been settled before
    """
    r, old = found.r, found.settled
    coordinates = found.coordinates.copy()
    smallest = np.linalg.svd(coordinates, compute_uv=False)[-1]
    precision = max(scale.sharpness, 1e-4 * smallest / np.sqrt(r))
    half = max(0.02 / np.sqrt(r), 8 * precision) * scale.sharp
    # New normals along everything; old ones along the directions that have come since.
    for rows, columns in ((slice(old, r), slice(0, r)), (slice(0, old), slice(old, r))):
        points, before = found.points[rows], coordinates[rows, columns]
        full = np.full(len(points), scale.sharp)
        moved = shifts(
            side,
            points,
            found.basis[columns],
            full,
            centre=-scale.sharp * before,
            half=half * np.ones_like(full),
            cell=precision * full,
            spread=half / 4 * np.ones_like(full),
        )
        coordinates[rows, columns] = np.where(np.isnan(moved), before, -moved / scale.sharp)
    turned = np.linalg.norm(coordinates - found.coordinates, axis=1)
    found = found.with_normals(found.points, coordinates @ found.basis, found.error, r)
    # A normal that looks different from close by, or foretells other shifts than are seen, was taken across a
    # breakpoint.
    straight = _foretells(side, scale, found, precision)
    straight[:old] = True
    found = found.kept(np.flatnonzero((turned < 0.1) & straight))
    floor = 10 * precision * np.sqrt(r)
    values = np.linalg.svd(found.coordinates, compute_uv=False)
    rank = int(np.sum(values > floor))
    if rank < found.r:
        order = linalg.qr(found.coordinates.T, mode="r", pivoting=True)[1]
        found = found.kept(np.sort(order[:rank]))
    return found, floor


def _foretells(side: Side, scale: Scale, found: Normals, precision: float) -> Bool[np.ndarray, " r"]:
    """Whether each normal predicts where the boundary lies after moves forth and back within the span."""
    mixed = np.array([[np.cos(i * j + i * i) for j in range(found.r)] for i in range(1, 7)])
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    mixed = np.concatenate([mixed, -mixed])
    step = min(3 * scale.sharp, scale.flat)
    full = np.full(found.r, step)
    expected = -step * found.coordinates @ mixed.T
    moved = shifts(
        side,
        found.points,
        mixed @ found.basis,
        full,
        centre=expected,
        half=64 * precision * full,
        cell=8 * precision * full,
    )
    # Moves within the span bend sqrt(n) / r times as much as the random ones by which `curvature` was measured.
    bent = 10 * scale.curvature * step / scale.flat * np.sqrt(found.basis.shape[1]) / found.r
    straight = (np.abs(moved - expected) <= max(40 * precision, bent) * step).all(axis=1)
    # Where most fail, it is the measure that fails.
    return np.asarray(straight if straight.mean() > 0.5 else np.ones(found.r, dtype=bool))


def judge(side: Side, scale: Scale, found: Normals, stride: float, rng: np.random.Generator) -> Normals:
    """How far the span still is from the normals' true one, by asking them again along random moves of length `stride`.

    Queries: about `votes * r * PILOTS * 7`
    """
    moves = unit_combinations(found.complement, PILOTS, rng)
    step = legal_steps(side, found.points, moves, stride)
    slope = sizes(side, found.points, moves, step, found.error, scale.noise)
    # A point that no longer crosses its boundary tells nothing.
    heard = np.sum(~np.isnan(slope), axis=1)
    size = np.sqrt(np.nansum(slope**2, axis=1) / np.maximum(heard, 1))
    error = np.where(2 * heard >= PILOTS, np.maximum(size, scale.noise / step / 4), np.inf)
    # Of the coarse ones, one that is much worse than the rest was taken across a breakpoint.
    coarse = np.arange(found.r) >= found.settled
    crooked = coarse & (error > 8 * np.median(error[coarse])) if coarse.any() else coarse
    return replace(found, error=error).kept(np.flatnonzero(np.isfinite(error) & ~crooked))


def best_stride(scale: Scale, found: Normals, accuracy: float) -> float:
    """How far to move in the complement: as far as the wanted accuracy asks for, given the noise.

    No further than the flat length allows, given how much of such a move the network still sees.
    """
    smallest = np.linalg.svd(found.coordinates, compute_uv=False)[-1]
    needed = 64 * scale.noise * np.sqrt(found.r * len(found.complement)) / (accuracy * max(smallest, 1e-4))
    seen = scale.flat / max(found.distance, 1e-12)
    return float(min(needed, max(seen, scale.flat), scale.longest))


def sharpen(  # noqa: PLR0913 - where, along what, how finely
    side: Side, scale: Scale, found: Normals, stride: float, accuracy: float, gain: float, rows: Int[np.ndarray, " s"]
) -> Normals:
    """Ask normals again along the complement, where nothing bends, and turn the span by what is left.

    Args:
        side: Answers.
        scale: Lengths to ask at.
        found: Normals with `error` as `judge` left it.
        stride: Length of the moves.
        accuracy: Wanted distance.
        gain: The factor by which one round may shrink an error: beyond it the coordinates' own error rules.
        rows: Which normals to ask.

    Queries: about `votes * s * (n - r) * (2 + log2(error / wanted))` for s normals
    """
    c = len(found.complement)
    step = legal_steps(side, found.points[rows], found.complement, stride)
    # Bits go where they matter: a normal that weighs little in the span needs fewer of them.
    weight = np.linalg.norm(np.linalg.pinv(found.coordinates), axis=0)[rows]
    wanted = accuracy / 3 * np.sqrt(12) / (np.sqrt(c * found.r) * weight)
    before = found.error[rows]
    cell = np.maximum(np.maximum(wanted, before * gain) * step, scale.noise / 2)
    deviation = np.maximum(before * step, scale.noise)
    half = 3.5 * deviation
    due = np.flatnonzero((cell < half / 2) & (before > wanted / np.sqrt(12)))
    if not len(due):
        return found
    rows, step, half, cell = rows[due], step[due], half[due], cell[due]
    moved = shifts(
        side,
        found.points[rows],
        found.complement,
        step,
        centre=np.zeros((len(rows), c)),
        half=half,
        cell=cell,
        spread=deviation[due],
    )
    left = np.zeros((found.r, c))
    left[rows] = np.nan_to_num(-moved / step[:, None])
    error = found.error.copy()
    error[rows] = cell / step / np.sqrt(12)
    return found.with_normals(found.points, found.normals + left @ found.complement, error)


def unit_combinations(rows: Float[np.ndarray, "c n"], count: int, rng: np.random.Generator) -> Float[np.ndarray, "J n"]:
    """Random unit vectors in the span of orthonormal rows."""
    mixed = rng.standard_normal((count, len(rows)))
    return np.asarray((mixed / np.linalg.norm(mixed, axis=1, keepdims=True)) @ rows)
