"""The accuracy that a span from labels states: measured with normals and directions that did not go into it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import BoundaryPoints, Side, legal_steps, shifts
from unveil.blackbox.label_normals import Normals, Scale, best_stride, sizes
from unveil.blackbox.label_points import Ground, boundary_points, smooth_points

SKETCH = 8
"""Fresh directions of the complement along which normals are asked."""

SAFETY = 3.0
"""The norm of a matrix is below this many times that of its product with SKETCH random directions, 99.9 %."""

HIDDEN = 0.6
"""Of what the boundary's own noise would make of the error, at the least."""

WITH_BREAKPOINTS = 8.0
"""Times the median slope above which a slope is asked again."""

REPEATED_MOVES = (-0.4, 0.16, -0.06)
"""Moves in units of the first, by which a slope that stands out is asked again."""

BOUNDARY_POINT_ROUNDS = 4
"""Rounds in which fresh boundary points are sought: many lie at corners."""


@dataclass(frozen=True)
class Measured:
    """What fresh answers say of a span.

    Attributes:
        accuracy: Sine of the largest principal angle to the true span, SAFETY times what was seen; 1 if unknown.
        left_out: Root mean square share of fresh normals outside the span.
    """

    accuracy: float
    left_out: float


UNKNOWN = Measured(1.0, 1.0)


def fresh_points(r: int) -> int:
    """Fresh boundary points of one measurement."""
    return math.ceil(r / 4) + 8


def price(r: int) -> int:
    """Queries of one measurement, about, without votes: kept back from a budget until the end."""
    return 9 * SKETCH * (r + fresh_points(r)) + fresh_points(r) * (180 + 25 * r) + 1024


def carried_over(basis: Float[np.ndarray, "r n"], units: Float[np.ndarray, " n"] | float) -> float:
    """By how much the error of a span may grow where every input is multiplied by its unit.

    The true span holds `basis + error`, of which the error lies in the complement. Of what it becomes in the other
    units only the part outside of the span's own image turns it.
    """
    if np.ndim(units) == 0 or not 0 < len(basis) < basis.shape[1]:
        return 1.0
    span, triangle = np.linalg.qr((basis / units).T)
    whole = np.linalg.svd(basis)[2]
    beside = whole[len(basis) :] / units
    beside -= (beside @ span) @ span.T
    return float(np.linalg.norm(beside, 2) / np.linalg.svd(triangle, compute_uv=False)[-1])


def measure_accuracy(
    side: Side, scale: Scale, found: Normals, ground: Ground, rng: np.random.Generator, accuracy: float
) -> Measured:
    """How far the span is from the true one, by normals at fresh boundary points and by all along fresh directions.

    The span's own normals tell how much of the true span is missed in each of its directions. Fresh normals share no
    answer with the span: each lies in the true span, so what of it lies outside of this one is no more than the sine
    of the largest angle, and a breakpoint or a direction that had been overlooked shows.

    Queries: about `price(r)` times `votes`
    """
    r, c = found.r, len(found.complement)
    if not c:
        return Measured(0.0, 0.0)
    count = min(SKETCH, c)
    moves = np.linalg.qr(found.complement.T @ rng.standard_normal((c, count)))[0].T
    smallest = float(np.linalg.svd(found.coordinates, compute_uv=False)[-1])
    precision = max(scale.sharpness, 1e-4 * smallest / np.sqrt(r))
    points, coordinates = _fresh(side, scale, found, ground, rng, precision)
    if len(points) < fresh_points(r) // 2:
        return UNKNOWN
    stride = 0.5 * best_stride(scale, found, accuracy)
    # A slope is told to a quarter of this, and a weak direction of the span multiplies what is not told.
    expected = max(float(np.median(found.error)), scale.noise / stride)
    slopes = _slopes(side, scale, points, moves, stride, expected)
    own = _slopes(side, scale, found.points, moves, stride, expected)
    heard, known = ~np.isnan(slopes).any(axis=1), ~np.isnan(own).any(axis=1)
    if heard.sum() < fresh_points(r) // 2:
        return UNKNOWN
    slopes, coordinates = slopes[heard], coordinates[heard]
    everything = np.concatenate([found.coordinates[known], coordinates])
    values = np.linalg.svd(everything, compute_uv=False)
    if len(values) < r or values[-1] <= 2 * precision * np.sqrt(len(everything)):
        return UNKNOWN
    inverse = np.linalg.pinv(everything)
    stretch = math.sqrt(c / count)
    error = float(np.linalg.norm(inverse @ np.concatenate([own[known], slopes]), 2)) * stretch
    hidden = HIDDEN * scale.noise / stride * math.sqrt(2 * c) / float(values[-1])
    # Each row is a normal whose part in the span has length one.
    outside = np.linalg.norm(slopes, axis=1) * stretch
    share = outside / np.sqrt(1 + outside**2)
    worst = max(error, hidden, float(share.max()))
    stated = min(1.0, SAFETY * worst + 4 * found.basis.shape[1] * np.finfo(float).eps)
    return Measured(stated if math.isfinite(stated) else 1.0, float(np.sqrt(np.mean(share**2))))


def _fresh(
    side: Side, scale: Scale, found: Normals, ground: Ground, rng: np.random.Generator, precision: float
) -> tuple[BoundaryPoints, Float[np.ndarray, "N r"]]:
    """Boundary points that were not used, crossed along their normals' part in the span, with its coordinates."""
    r = found.r
    points, coordinates = found.points[:0], np.empty((0, r))
    for _ in range(BOUNDARY_POINT_ROUNDS):
        missing = fresh_points(r) - len(points)
        if missing <= 0:
            break
        new = boundary_points(side, ground, missing + 4, found.basis, rng)
        step = np.full(len(new), scale.flat)
        half = 2 * step / np.sqrt(r)
        moved = shifts(side, new, found.basis, step, centre=np.zeros((len(new), r)), half=half, cell=half / 128)
        heard = np.flatnonzero(~np.isnan(moved).any(axis=1) & (moved != 0).any(axis=1))
        coarse = -moved[heard] / step[heard, None]
        new = new[heard].turned(coarse @ found.basis)
        coarse /= np.linalg.norm(coarse, axis=1, keepdims=True)
        whole = smooth_points(side, scale, new, found.basis, np.ones(len(new)), rng)
        new, coarse = new[whole], coarse[whole]
        step = np.full(len(new), scale.sharp)
        half = np.maximum(0.04 / np.sqrt(r), 8 * precision) * step
        moved = shifts(
            side,
            new,
            found.basis,
            step,
            centre=-scale.sharp * coarse,
            half=half,
            cell=np.maximum(precision, 1e-9) * step,
            spread=half / 6,
        )
        fine = -moved / scale.sharp
        straight = np.linalg.norm(fine - coarse, axis=1) < 0.1  # NaN is not
        points, coordinates = (
            BoundaryPoints.joined([points, new[np.flatnonzero(straight)]]),
            np.concatenate([coordinates, fine[straight]]),
        )
    return points[: fresh_points(r)], coordinates[: fresh_points(r)]


def _slopes(
    side: Side, scale: Scale, points: BoundaryPoints, moves: np.ndarray, stride: float, expected: float
) -> Float[np.ndarray, "N s"]:
    """Slopes of the boundary along moves of the complement; where one stands out, the smallest of several lengths."""
    step = legal_steps(side, points, moves, stride)
    slopes = sizes(side, points, moves, step, np.full(len(points), expected), scale.noise)
    usual = float(np.nanmedian(np.abs(slopes))) if slopes.size and not np.isnan(slopes).all() else 0.0
    for factor in REPEATED_MOVES:
        # An error of the span shows at any length and on either side; a breakpoint that the move has met does not.
        again = np.flatnonzero(~(np.abs(slopes) <= WITH_BREAKPOINTS * usual).all(axis=1))
        if not len(again):
            break
        few = np.full(len(again), expected)
        other = sizes(side, points[again], np.sign(factor) * moves, abs(factor) * step[again], few, scale.noise)
        other *= np.sign(factor)
        slopes[again] = np.where(np.abs(slopes[again]) <= np.abs(other), slopes[again], other)
    return slopes
