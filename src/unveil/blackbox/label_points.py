"""Where to stand: boundary points that show something new, and the lengths at which a boundary may be asked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.blackbox.label_crossings import BoundaryPoints, Side, bisect_segments, legal_steps, shifts
from unveil.blackbox.label_normals import Scale, unit_combinations
from unveil.blackbox.rows import Rows
from unveil.outcome import BadInput, UnsteadyAnswers

LABEL_POOL_POINTS = 256
"""Points asked for their label before pairs with different labels are joined."""

LABEL_POINT_SIZES = (4.0, 16.0, 1.0, 64.0, 256.0, 0.25)
"""Without a box: sizes of the points, in standard deviations, tried until two labels have been seen. Four first: there
the normals are much better conditioned than among points of size one."""

SPREAD_EXAMPLES = 10
"""Given inputs from which their spread is told, one length per input; with fewer it is 1."""

FURTHER_POOLS = 64
"""Further pools that are asked without a budget where all labels are one; with a budget, as many as it allows."""

MARGINS = (0.25, 0.1, 0.02, 0.0)
"""With a box: the share of it left free on either side, so that a long move stays inside."""


@dataclass(frozen=True)
class Ground:
    """Where two labels have been seen.

    Attributes:
        size: Factor (without a box) or margin (with one) of the points.
        given: Inputs given by the user, used as starting points too; without a box only if random points, at any size,
            show one label.
        corners: Whether every other point is a corner of the box.
    """

    size: float
    given: Float[np.ndarray, "N n"]
    corners: bool = False

    def draw(self, side: Side, count: int, rng: np.random.Generator) -> Float[np.ndarray, "N n"]:
        """Points at which to ask for a label."""
        oracle = side.oracle
        if oracle.within is None:
            x = self.size * rng.standard_normal((count, oracle.n))
        else:
            low, high = oracle.within
            room = self.size * (high - low)
            x = rng.uniform(low + room, high - room, size=(count, oracle.n))
        if len(self.given):
            half = count // 2
            spread = self.given.std(axis=0) if len(self.given) >= SPREAD_EXAMPLES else np.ones(oracle.n)
            away = (x[:half] - x.mean(axis=1)[:half, None]) / 4 * (spread if oracle.within is None else 1.0)
            x[:half] = self.given[rng.integers(len(self.given), size=half)] + away
        if self.corners:
            assert oracle.within is not None
            x[::2] = np.where(rng.random((len(x[::2]), oracle.n)) < rng.random((len(x[::2]), 1)), *oracle.within)
        return oracle.nearest(x)


def find_ground(side: Side, inputs: np.ndarray | None, rng: np.random.Generator) -> Ground | None:
    """Look for two labels; None if only one was ever seen.

    Raises:
        UnsteadyAnswers: The same question got two different labels.

    Queries: `votes * LABEL_POOL_POINTS` a size tried, and as many again to see whether the answers are steady. Where
    one label is all there is: the whole budget, or without one `votes * LABEL_POOL_POINTS * (2 * 6 + FURTHER_POOLS)`
    (12 sizes with examples)
    """
    oracle, given = side.oracle, _given(side, inputs)
    grounds = [Ground(size, given) for size in (LABEL_POINT_SIZES if oracle.within is None else MARGINS)]
    if len(given) and oracle.within is None:
        # Boundaries far out are straighter and turn more ways than those between the inputs of a trained model.
        grounds = [Ground(size, given[:0]) for size in LABEL_POINT_SIZES] + grounds
    for ground in _tries(side, grounds):
        x = ground.draw(side, LABEL_POOL_POINTS, rng)
        labels = side.labels(x)
        again = side.labels(x)
        if (labels != again).any():
            _refuse(side, float((labels != again).mean()))
        # Numbers of named labels are checksums, far apart.
        if len(labels) - np.unique(labels, return_counts=True)[1].max() >= 2:
            return ground
    return None


def usual_ground(side: Side, inputs: np.ndarray | None) -> Ground:
    """Where usual inputs lie: in all of the box, or at size one, and about the given ones."""
    return Ground(1.0 if side.oracle.within is None else 0.0, _given(side, inputs))


def _given(side: Side, inputs: np.ndarray | None) -> Float[np.ndarray, "N n"]:
    n = side.oracle.n
    given = np.empty((0, n)) if inputs is None else side.oracle.nearest(inputs)
    if given.ndim != 2 or given.shape[1] != n:
        raise BadInput(f"inputs must have shape (N, {n}); got {given.shape}")
    return given


def _tries(side: Side, grounds: list[Ground]) -> Iterator[Ground]:
    """Where to look: the usual places, then wider ones and corners in turn, as long as budget or patience last."""
    yield from grounds
    given = grounds[-1].given
    if side.oracle.within is None:
        further = [replace(grounds[0], size=size, given=given) for size in (1024.0, 4.0, 1 / 16, 4096.0, 16.0, 1.0)]
    else:
        further = [replace(grounds[-1], corners=True), replace(grounds[-1], given=given[:0], corners=True), *grounds]
    pools = FURTHER_POOLS if math.isinf(side.oracle.ledger.left) else int(side.oracle.ledger.left // LABEL_POOL_POINTS)
    for k in range(max(pools // (2 * side.votes), 0)):
        yield further[k % len(further)]


def _refuse(side: Side, share: float) -> None:
    # Of two answers that differ one is wrong, so half of the share is the chance of a wrong label.
    raise UnsteadyAnswers(
        f"{share:.1%} of {LABEL_POOL_POINTS} questions got two different labels when asked twice (by {side.votes} "
        f"votes each), so about {share / 2:.1%} of the labels are wrong and a bisection would go astray. From Python, "
        "pass a larger votes= (odd) to unveil.blackbox.label_span.label_span: the majority of v answers, "
        "each wrong with probability p < 1/2, is wrong with at most (4p(1-p))^(v/2)."
    )


def boundary_points(
    side: Side, ground: Ground, count: int, basis: Float[np.ndarray, "r n"], rng: np.random.Generator, across: float = 0
) -> BoundaryPoints:
    """Points of the boundaries between the labels seen, on random segments.

    Where some of the span is known, the segments run within it: they cross the boundary three to nine times more
    steeply than random ones, and what is not known yet stays as random as it was. A boundary whose normal lies in the
    complement crosses none of these: where the label stays the same within the span, and changes on the rest of the
    way, along the complement, such a segment is taken too, up to the share `across` of all.

    Queries: `votes * (LABEL_POOL_POINTS + count * 50)`, a little more where known directions alone rarely change the
    label, and with `across` up to `votes * LABEL_POOL_POINTS` for the rest of the way
    """
    within: list[_Segments] = []
    beyond: list[_Segments] = []
    for attempt in range(8):
        x = ground.draw(side, LABEL_POOL_POINTS, rng)
        seen = side.labels(x)
        # Each point is paired with one of another label; many labels give many boundaries.
        order = rng.permutation(LABEL_POOL_POINTS)
        pairs = np.flatnonzero(seen != seen[order])
        a, b, label = x[pairs], x[order[pairs]], seen[pairs]
        if len(basis) and attempt < 6:
            way = b - a
            inner = way @ basis.T @ basis
            b = side.oracle.nearest(a + 1.5 * inner)
            differs = side.labels(b) != label
            if across:
                start, rest, same = b[~differs], (way - inner)[~differs], label[~differs]
                end = side.oracle.nearest(start + rest)
                left = np.flatnonzero(side.labels(end) != same)
                beyond.append(_Segments(start, end, same)[left])
            a, b, label = a[differs], b[differs], label[differs]
        within.append(_Segments(a, b, label))
        if sum(map(len, within)) >= count:
            break
    few = _Segments.joined([within[0][:0], *beyond])[: math.ceil(across * count)]
    found = _Segments.joined([few, *within])[:count]
    if not len(found):
        return BoundaryPoints(found.start, found.label, found.end)
    return bisect_segments(side, found.start, found.end, found.label)


@dataclass(frozen=True)
class _Segments(Rows):
    """Segments from a point to one of another label, and the label at the start."""

    start: Float[np.ndarray, "N n"]
    end: Float[np.ndarray, "N n"]
    label: Int[np.ndarray, " N"]


def find_scale(side: Side, points: BoundaryPoints, rng: np.random.Generator) -> Scale:
    """The longest moves over which this boundary is flat, from symmetric pairs of moves at a ladder of lengths.

    Two moves `+h u` and `-h u` shift a flat boundary by opposite amounts; what does not cancel is curvature (or a
    breakpoint), and at the length of a few rounding steps, noise.

    Queries: about `votes * 12 * 12 * 14` a rung for 12 points, at most 9 rungs
    """
    oracle = side.oracle
    moves = unit_combinations(np.eye(oracle.n), 6, rng)
    size = float(np.abs(points.x).max())
    unit = max(float(np.finfo(oracle.dtype).eps) * size, oracle.grid or 0.0)
    # So short a move changes every coordinate by a few rounding steps only, and curvature by nothing.
    short = 4 * unit * np.sqrt(oracle.n)
    pair = _pairs(side, points, moves, short, cell=unit / 16, half=16 * short)
    # The median square of a normal variable is 0.455 of its mean square; a sum of two has twice the variance of one.
    noise = max(float(np.sqrt(_median((pair[0] + pair[1]) ** 2) / 2 / 0.455)), unit / 4)
    longest = 10 * float(np.linalg.norm(points.x, axis=1).mean())
    if oracle.within is not None:
        room = np.minimum(points.x - oracle.within[0], oracle.within[1] - points.x).min(axis=1)
        # A random unit vector has no entry beyond 4 / sqrt(n), or so.
        longest = max(float(np.median(room)) * np.sqrt(oracle.n) / 4, 16 * unit)
    rungs: list[tuple[float, float, float]] = []
    length = min(size, longest)
    steep = 1.0
    while not rungs or (length > 64 * noise and len(rungs) < 9):
        cell = max(noise, length / 1024)
        plus, minus = _pairs(side, points, moves, length, cell=cell, half=4 * length)
        typical = max(_median(np.abs(plus - minus) / 2), cell)
        # Noise was seen along the segments. Along the normal it is less, by the cosine of the angle between them.
        steep = min(0.67 * length / (np.sqrt(oracle.n) * typical), 1.0)
        share = np.abs(plus + minus) / 2 / typical
        # What the bisection itself leaves open is no curvature.
        grain = cell / typical
        rungs.append((float(np.mean(~(share < 0.02 + 2 * grain))), length, max(_median(share) - grain, 0.0)))
        if rungs[-1][0] < 0.1:
            break
        length /= 8
    _, length, bent = min(rungs)
    noise *= steep
    # Where noise allows, shorter still: fewer breakpoints, less bending.
    shorter = min(max(1e6 * noise, length / 32), length)
    return Scale(flat=shorter, curvature=bent * shorter / length + 1e-6, noise=noise, longest=longest)


def smooth_points(
    side: Side,
    scale: Scale,
    points: BoundaryPoints,
    basis: Float[np.ndarray, "r n"],
    steep: Float[np.ndarray, " N"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " s"]:
    """Rows of the points at which one boundary passes, and straight: where two meet, or at a breakpoint, there is no
    normal.

    Moves forth and back must shift the boundary by opposite amounts, further out than normals are measured.

    Queries: about `votes * N * 16 * 6`
    """
    n = side.oracle.n
    # Next to a wall a move is cut off, and tells the wall's direction as if it were the boundary's.
    kept = legal_steps(side, points, np.full((1, n), min(1.0, 4 / np.sqrt(n))), scale.flat) >= scale.flat
    # Along a slanting crossing, what is unsure along the normal is so much longer.
    noise = scale.noise * steep
    # Coordinates within the span are measured too, and reach sqrt(n / r) times further towards any other boundary.
    for directions, times in ((np.eye(n), 4.0), (basis, 2.0)):
        if not len(directions):
            continue
        moves = unit_combinations(directions, 4, rng)
        step = np.full(len(points), min(times * scale.flat, scale.longest))
        expected = 3 * steep * step / np.sqrt(len(directions) if len(directions) < n else n)
        here = {"half": expected, "cell": np.maximum(expected / 96, noise)}
        plus = shifts(side, points, moves, step, centre=np.zeros((len(points), 4)), spread=expected / 3, **here)
        here["half"] = expected / 12
        minus = shifts(side, points, -moves, step, centre=-np.nan_to_num(plus), **here)
        typical = np.nan_to_num(np.sqrt(np.mean((plus - minus) ** 2, axis=1, keepdims=True)) / 2)
        # Along moves that the boundary does not follow at all, brackets end anywhere within their last cell.
        unsure = 4 * noise[:, None] + here["cell"][:, None]
        kept &= (np.abs(plus + minus) / 2 <= 0.2 * typical + unsure).all(axis=1)
    return np.flatnonzero(kept)


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else 0.0


def _pairs(
    side: Side, points: BoundaryPoints, moves: np.ndarray, step: float, cell: float, half: float
) -> Float[np.ndarray, "2 N J"]:
    """Shifts after moves forth and back."""
    count = len(points)
    found = shifts(
        side,
        points,
        np.concatenate([moves, -moves]),
        np.full(count, step),
        centre=np.zeros((count, 2 * len(moves))),
        half=np.full(count, half),
        cell=np.full(count, cell),
    )
    return np.stack([found[:, : len(moves)], found[:, len(moves) :]])


def newest(
    sketch: Float[np.ndarray, "N J"], known: Float[np.ndarray, " N"], dimension: int, floor: float, most: int
) -> Int[np.ndarray, " s"]:
    """The points whose normals have the largest components outside what is known, and outside each other.

    Args:
        sketch: Slopes along random unit directions of the complement.
        known: Length of the normals within the known span, in the same units.
        dimension: Dimension of the complement.
        floor: Share of a normal below which its new component may be an error.
        most: At most this many.

    Returns:
        Rows of the sketch, the most telling first.
    """
    count = sketch.shape[1]
    good = np.flatnonzero(~np.isnan(sketch).any(axis=1))
    new = np.sqrt(dimension / count) * sketch[good]
    rows = new / np.sqrt(known[good] ** 2 + np.sum(new**2, axis=1))[:, None]
    if not len(rows):
        return good
    _, upper, order = linalg.qr(rows.T, mode="economic", pivoting=True)
    share = np.abs(np.diag(upper))
    wide = share > max(floor, 0.25 * share[0])
    wide &= np.arange(len(share)) < most
    return np.asarray(good[order[: len(share)][wide]])
