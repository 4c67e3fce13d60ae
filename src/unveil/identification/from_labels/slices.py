"""Hyperplanes of a wide first layer along a few directions: those on which bends from all over the boundary agree.

A slice through the input space has the same neurons, and in few directions a bend is cheap. Two bends that lie on one
hyperplane each tell its normal, and both tell the same: by chance two of eight directions do not. The hyperplane of a
deeper neuron bends wherever it meets one of a layer before, so that bends far apart do not agree on it.

Bends of the boundary seen from both sides, many at a time: points, the normals before and behind, and how exactly.

Where answers are rounded as in float32 and neurons are many, flat pieces are short: in few directions a normal takes
few moves, and short ones do. What one bend leaves open, and what is vague about it, others of the same neuron settle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from unveil.blackbox.label_crossings import Side
from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.faces import Faces, Precision, faces_at, tangents
from unveil.identification.from_labels.hyperplanes import ALIKE, DOUBT, Hyperplanes, apart
from unveil.identification.from_labels.polish import Completed
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.reservations import nothing_left
from unveil.identification.from_labels.straight import ALLOWED, ENOUGH, BoundaryFaces, looks, sharpened
from unveil.identification.from_labels.walks import Walks, walk
from unveil.outcome import BudgetExceeded

# Boundary points at which the noise is measured, and how far aside, in digits of an input.
NOISE_POINTS, NOISE_ASIDE_DIGITS = 24, 100
DIGIT_DEVIATIONS = 1.5  # so many standard deviations of the boundary's noise count as its last digit
# The move by which a normal is measured, in such digits: long enough to tell it, and shorter than most flat pieces.
NORMAL_MOVE_DIGITS = 4000
SHORTEST_NORMAL_MOVE, LONGEST_NORMAL_MOVE = 1e-4, 3e-3  # the least and the largest, in sizes of a typical input
# So far before and behind a hyperplane that is looked at, as a share of the way to it: weak bends must show, too.
HYPERPLANE_ASIDE_SHARE = 0.2
BEHIND_BEND_MOVES = 2.0  # so many moves behind a bend the boundary is asked
FACES = 64  # faces measured at a time
# Walks from each of them, from each face behind a bend, and how often it goes on from there.
WALKS_PER_FIRST_FACE, WALKS_PER_LATER_FACE, WALK_HOPS = 4, 2, 4
VAGUE_BEND_ERROR = 3e-3  # bends known less exactly than this tell too little


@dataclass(frozen=True)
class Sightings(Rows):
    """Bends of the boundary: the neuron's normal lies in the span of `normal` and `across`."""

    z: Float[np.ndarray, "N d"]  # a point on each
    normal: Float[np.ndarray, "N d"]  # unit normal on the near side
    across: Float[np.ndarray, "N d"]  # unit vector with which it spans the normal on the far side
    angle: Float[np.ndarray, " N"]  # between both normals
    error: Float[np.ndarray, " N"]  # how exactly z is known
    rough: Float[np.ndarray, " N"]  # how exactly `across` is

    @classmethod
    def none(cls, d: int) -> Sightings:
        nothing, nowhere = np.empty(0), np.empty((0, d))
        return cls(nowhere, nowhere, nowhere, nothing, nothing, nothing)


def noise_of(pool: Pool, rng: np.random.Generator) -> float:
    """Standard deviation of where the boundary is found, along its normals; the last digit of an input at least.
    Queries: about `35 d + 90` for each of `NOISE_POINTS` points."""
    chart, side = pool.chart, pool.side
    at = pool.crossings(NOISE_POINTS, 4 * chart.digits)
    faces, _ = faces_at(side, at, precision_of(_scatter(side, at, chart.digits, rng)), SHORTEST_NORMAL_MOVE, rng)
    upright = Crossings(faces.x, faces.before, faces.after, faces.normal, np.zeros(len(faces)))
    return _scatter(side, upright, chart.digits, rng)


def _scatter(side: Side, at: Crossings, digits: float, rng: np.random.Generator) -> float:
    """The same along the directions in which points were crossed, from three of them in a row: how far off a line."""
    aside = NOISE_ASIDE_DIGITS * digits * tangents(at.along, rng)
    half, cell = np.full(len(at), 8 * NOISE_ASIDE_DIGITS * digits), np.full(len(at), digits / 4)
    found = np.full((3, len(at)), np.nan)
    for row, times in enumerate((-1, 0, 1)):
        place = at.x + times * aside
        near, rows = cross_near(side, place, at.along, at.before, at.after, half, cell, grow=0)
        found[row, rows] = np.sum((near.x - place[rows]) * at.along[rows], axis=1)
    bend = np.abs(found[0] - 2 * found[1] + found[2])
    bend = bend[np.isfinite(bend)]
    # The median of |N(0, s)| is 0.674 s, and three such points add up to a variance of six.
    return max(float(np.median(bend)) / (0.674 * np.sqrt(6)) if len(bend) else 0.0, digits)


def precision_of(noise: float) -> Precision:
    """Moves and cells for a boundary that is found to this standard deviation."""
    digits = DIGIT_DEVIATIONS * noise
    return Precision(
        digits,
        float(np.clip(NORMAL_MOVE_DIGITS * digits, SHORTEST_NORMAL_MOVE, LONGEST_NORMAL_MOVE)),
        2 * digits,
        HYPERPLANE_ASIDE_SHARE,
    )


def sightings(
    side: Side, chart: Chart, pool: Pool, precision: Precision, rng: np.random.Generator
) -> Iterator[tuple[Sightings, Faces]]:
    """Bends met on walks from fresh places all over the boundary, and on from the faces behind.

    `side`: answers. `chart`: the coordinates, few. `pool`: points of all labels. `precision`: from `precision_of`.
    `rng`: draws the walks. Returns bends, and the faces behind them: as they are met, so that a budget that ends leaves
    those before. Queries: about `2,000` for each bend in eight coordinates, some 100 of them.
    """
    pool.draw()
    faces, _ = faces_at(side, pool.crossings(FACES, precision.cell), precision, precision.step, rng)
    yield Sightings.none(chart.n), faces
    for hop in range(WALK_HOPS):
        from_ = np.repeat(np.arange(len(faces)), WALKS_PER_FIRST_FACE if hop == 0 else WALKS_PER_LATER_FACE)
        if not len(from_):
            break
        along = tangents(faces.normal[from_], rng)
        ended = walk(side, chart, faces, from_, along, precision).ended()
        seen, faces = _behind(side, faces, ended, precision, rng)
        yield seen, faces


def _behind(
    side: Side, faces: Faces, walks: Walks, precision: Precision, rng: np.random.Generator
) -> tuple[Sightings, Faces]:
    """The bends at which walks ended, and the faces behind: where the line of a walk meets the next face."""
    on, along = faces[walks.face], walks.along
    gap = np.full(len(walks), BEHIND_BEND_MOVES * precision.step)
    place = on.x + (walks.high + gap)[:, None] * along
    met, rows = cross_near(
        side, place, on.normal, on.before, on.after, gap, np.full(len(walks), precision.cell), grow=1
    )
    made, which = faces_at(side, met, precision, precision.step, rng)
    return _bends(on[rows[which]], made, walks[rows[which]], precision)


def _bends(on: Faces, made: Faces, walks: Walks, precision: Precision) -> tuple[Sightings, Faces]:
    steep = np.sum(made.normal * walks.along, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = -np.sum(made.normal * (on.x - made.x), axis=1) / steep
        z = on.x + s[:, None] * walks.along
        blur = 2 * precision.digits + made.error * np.linalg.norm(z - made.x, axis=1) + on.error * np.abs(s)
        error = blur / np.abs(steep)
        slack = 3 * error + 2e-3 * walks.high
        cosine = np.sum(on.normal * made.normal, axis=1)
        across = made.normal - cosine[:, None] * on.normal
        length = np.linalg.norm(across, axis=1)
        rough = np.maximum(on.error, made.error) / length
        good = (s > walks.low - slack) & (s < walks.high + slack) & (error < VAGUE_BEND_ERROR) & (rough < 1)
    rows = np.flatnonzero(good)
    seen = Sightings(
        z[rows],
        on.normal[rows],
        across[rows] / length[rows, None],
        np.arctan2(length, cosine)[rows],
        error[rows],
        rough[rows],
    )
    return seen, made[rows]


DIRECTIONS = 8  # of the slice
AGREEING_BEND_ERRORS = 3.0  # errors within which two bends agree
LOOSEST = 0.2  # bends tell nothing together where their errors allow more than this
LEAST_AGREEING_BENDS = 4  # bends that must agree on a hyperplane
# Error of a hyperplane with which it is told from others, and measured more exactly from many places at the end.
ROUGH_HYPERPLANE_ERROR = 5e-3
# Median distance of the bends on one, in sizes of a typical input, from which on it counts as straight.
STRAIGHT_BEND_DISTANCE = 0.5
HYPERPLANE_FITS = 4  # fits of a hyperplane to the bends on it
# Share of the labels left that are spent on bends; with the others hyperplanes are measured again and looked at.
GATHERING = 0.9
# A hyperplane goes on beyond another that has so many of its bends on either side, and must beyond this share.
BENDS_PER_SIDE, SHARE_GONE_BEYOND = 2, 0.25
BENDS_GROWTH = 1.2  # so many times as many bends, and hyperplanes are looked for among them again
BARREN_LOOKS = 2  # looks in a row that show no further hyperplane, after which there is taken to be none
BENDS_BEFORE_BARREN = 800  # so many bends without a hyperplane, and there is none


class SliceSearch:
    """Bends met along a few directions, and the hyperplanes they agree on; `run` goes on with the search. `pool`:
    points of all labels, in coordinates along these directions."""

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self.pool, self.side, self.chart, self.rng = pool, pool.side, pool.chart, rng
        self.precision = precision_of(noise_of(pool, rng))
        self.seen, self.faces = Sightings.none(self.chart.n), Faces.none(self.chart.n)
        self.planes = Hyperplanes.none(self.chart.n)
        self.support: list[Int[np.ndarray, " s"]] = []  # which bends lie on each hyperplane
        self.judged = self.quiet = self.supposed = 0  # none of the hyperplanes is supposed
        self.settled = self.ended = False  # whether the last look showed no further hyperplane; whether a budget ended
        left = self.chart.ledger.left
        self.side.kept_back = int((1 - GATHERING) * left) if np.isfinite(left) else 0

    @property
    def done(self) -> bool:
        """Whether further bends are likely to show nothing further."""
        return self.ended or self.quiet >= BARREN_LOOKS or (self.judged >= BENDS_BEFORE_BARREN and not len(self.planes))

    def run(self) -> None:
        """Gather more bends, and look which hyperplanes they agree on. Queries: about 2,000 for each bend, and 15 to 30
        bends for each neuron, as long as the budget leaves what measures hyperplanes again."""
        try:
            while len(self.seen) < BENDS_GROWTH * self.judged or not len(self.seen):
                for more, faces in sightings(self.side, self.chart, self.pool, self.precision, self.rng):
                    self.seen = Sightings.joined([self.seen, more])
                    self.faces = Faces.joined([self.faces, faces])
        except BudgetExceeded:
            self.ended = True
        self.judged, known = len(self.seen), len(self.planes)
        self.planes, self.support = hyperplanes_of(self.seen)
        self.settled = 0 < len(self.planes) <= known
        self.quiet = self.quiet + 1 if len(self.planes) <= known and self.judged >= BENDS_BEFORE_BARREN else 0

    def network(self, completed: Callable[[SliceSearch], Completed | None]) -> Completed | None:
        """The network along these directions; None where further bends would not lead to one. `completed`: reads
        it off hyperplanes that are known. Queries: those of `run` and of `completed`."""
        while True:
            try:
                # As long as bends show further hyperplanes the last layer has no solution.
                found = completed(self) if self.settled else None
            except BudgetExceeded:
                return None
            whole = found is not None and found.whole
            if found is not None and whole and (self.done or nothing_left(found, self.pool, self.rng)):
                self.side.kept_back = 0
                return found
            if self.done:
                return None
            self.run()

    def first_layer(self) -> Hyperplanes:
        """The hyperplanes at which faces end, measured again, without those of deeper neurons, which end themselves
        where they meet a first layer's. Queries: those of `sharpened` and `looks`."""
        boundary = BoundaryFaces(self.side, self.chart, self.faces, self.precision)
        self.side.kept_back = 0
        try:
            planes = sharpened(boundary, self.planes, self.rng, batches=1)
            # Where a layer is narrow the hyperplane of a deeper neuron, too, is straight for a while.
            ended, passed = looks(boundary, planes, self.rng, batches=1)
        except BudgetExceeded:
            return Hyperplanes.none(self.chart.n)
        good = (planes.error < ALIKE) & (ended >= ENOUGH) & (ALLOWED * passed <= ended)
        good &= bends_at_none(self.seen, self.support, planes, good)
        return planes[np.flatnonzero(good)].distinct()

    def told(self) -> str:
        """How many bends the hyperplanes explain."""
        on = sum(map(len, self.support))
        return (
            f"Along {self.chart.n} random directions {on} of {len(self.seen)} bends of the boundary lie on these "
            "neurons' hyperplanes; others belong to deeper layers, or were seen too seldom."
        )


def hyperplanes_of(seen: Sightings) -> tuple[Hyperplanes, list[Int[np.ndarray, " s"]]]:
    """Hyperplanes on which bends far apart agree, and which bends lie on each."""
    planes = Hyperplanes.none(seen.z.shape[1])
    support: list[Int[np.ndarray, " s"]] = []
    free = np.ones(len(seen), dtype=bool)
    for i, j, normal, error in _pairs(seen):
        if not (free[i] and free[j]):
            continue
        fitted = _fitted(seen, free, np.array([i, j]), normal, error)
        if fitted is None:
            continue
        plane, rows = fitted
        free[rows] = False
        planes, support = Hyperplanes.joined([planes, plane]), [*support, rows]
    return planes, support


def bends_at_none(
    seen: Sightings, support: list[Int[np.ndarray, " s"]], planes: Hyperplanes, others: Bool[np.ndarray, " k"]
) -> Bool[np.ndarray, " k"]:
    """Which hyperplanes go on beyond many of the others: that of a deeper neuron bends where it meets a first layer's.

    `seen`: bends. `support`: which lie on each hyperplane. `planes`: the hyperplanes. `others`: which of them to look
    at.
    """
    told = planes[np.flatnonzero(others)]
    beyond = np.zeros(len(planes), dtype=int)
    for i, rows in enumerate(support):
        side = seen.z[rows] @ told.normals.T + told.offsets > 0
        beyond[i] = int((np.minimum(side.sum(axis=0), (~side).sum(axis=0)) >= BENDS_PER_SIDE).sum())
    return beyond >= max(1.0, SHARE_GONE_BEYOND * (len(told) - 1))


def _pairs(seen: Sightings) -> list[tuple[int, int, Float[np.ndarray, " d"], float]]:
    """Pairs of bends that tell the same normal, with the normal and its error, the sharpest first."""
    found = []
    for i in range(1, len(seen)):
        one, others = seen[np.full(i, i)], seen[slice(0, i)]
        away = others.z - seen.z[i]
        both = one.error + others.error
        a, blur_a = _told(one, away, both)
        b, blur_b = _told(others, away, both)
        gap = np.minimum(np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1))
        allowed = AGREEING_BEND_ERRORS * (blur_a + blur_b + one.rough + others.rough)
        for j in np.flatnonzero((gap < allowed) & (allowed < LOOSEST)):
            sharper = a[j] if blur_a[j] + one.rough[j] < blur_b[j] + others.rough[j] else b[j]
            found.append((i, int(j), sharper, float(allowed[j] / AGREEING_BEND_ERRORS)))
    return sorted(found, key=lambda each: each[3])


def _told(
    seen: Sightings, away: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"]]:
    """The normal of each bend's neuron if its hyperplane goes on to a point so far away, and its error. Infinite where
    that is the normal of a face: then the other point lies on the same face."""
    p, q = np.sum(away * seen.normal, axis=1), np.sum(away * seen.across, axis=1)
    r = np.hypot(p, q)
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.arctan2(-p, q) % np.pi
        blur = (error + seen.rough * np.linalg.norm(away, axis=1)) / r
    own = np.minimum(apart(angle, 0.0), apart(angle, seen.angle)) <= AGREEING_BEND_ERRORS * blur
    normal = np.cos(angle)[:, None] * seen.normal + np.sin(angle)[:, None] * seen.across
    return normal, np.where(own, np.inf, blur)


def _fitted(
    seen: Sightings,
    free: Bool[np.ndarray, " N"],
    rows: Int[np.ndarray, " s"],
    normal: Float[np.ndarray, " d"],
    error: float,
) -> tuple[Hyperplanes, Int[np.ndarray, " t"]] | None:
    """The hyperplane that most bends agree on, from what two of them tell; None where chance might make so many."""
    offset = -float(normal @ seen.z[rows].mean(axis=0))
    plane, chance = Hyperplanes(normal[None], np.array([offset]), np.array([error])), np.zeros(len(seen))
    for _ in range(HYPERPLANE_FITS):
        on, chance = _holds(seen, plane)
        rows = np.flatnonzero(free & on)
        if len(rows) < LEAST_AGREEING_BENDS:
            return None
        plane = _least_squares(seen[rows])
    z = seen.z[rows]
    far = np.linalg.norm(z[:, None] - z[None], axis=2)[np.triu_indices(len(z), 1)]
    by_chance = float(special.gammainc(len(rows) - 2, max(chance.sum(), 1e-300))) * len(seen) ** 2
    if (
        not plane.error[0] < ROUGH_HYPERPLANE_ERROR
        or not np.median(far) > STRAIGHT_BEND_DISTANCE
        or not by_chance < DOUBT
    ):
        return None
    return plane, rows


def _holds(seen: Sightings, plane: Hyperplanes) -> tuple[Bool[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Which bends lie on a hyperplane and span its normal, and not because a face of theirs is parallel to it. Returns
    which, and how probable that is by chance for each."""
    a, error, d = plane.normals[0], plane.error[0], seen.z.shape[1]
    p, q = seen.normal @ a, seen.across @ a
    outside = np.sqrt(np.maximum(1 - p**2 - q**2, 0.0))
    angle = np.arctan2(q, p) % np.pi
    own = np.minimum(apart(angle, 0.0), apart(angle, seen.angle)) <= AGREEING_BEND_ERRORS * seen.rough
    near = AGREEING_BEND_ERRORS * (seen.error + error * (1 + np.linalg.norm(seen.z, axis=1)))
    askew = np.minimum(AGREEING_BEND_ERRORS * (seen.rough + error), 1.0)
    on = (np.abs(seen.z @ a + plane.offsets[0]) < near) & (outside < askew * np.sqrt(d - 2)) & ~own
    # Of a plane of two dimensions in d the angle with a direction is less than t with a probability of t^(d - 2).
    return on, np.minimum(near, 1.0) * np.minimum(askew * np.sqrt(d - 2), 1.0) ** (d - 2)


def _least_squares(seen: Sightings) -> Hyperplanes:
    """The hyperplane through bends, in the span of their normals, each as exactly as it is known; and its error. Its
    error is that of the bends, as large as they are seen to scatter."""
    d = seen.z.shape[1]
    weight = seen.error**-2
    middle = weight @ seen.z / weight.sum()
    away = seen.z - middle
    spans = np.eye(d) - np.stack([seen.normal, seen.across], axis=2) @ np.stack([seen.normal, seen.across], axis=1)
    matrix = (away * weight[:, None]).T @ away + np.einsum("n,nij->ij", seen.rough**-2, spans)
    values, vectors = np.linalg.eigh(matrix)
    # The least value is what all scatter by, in units of their errors.
    freedom = max(len(seen) * (d - 1) - d, 1)
    scatter = np.sqrt(max(values[0], 1e-300) / freedom)
    error = scatter * np.sqrt(np.sum(1 / (values[1:] - values[0]))) if values[1] > values[0] else np.inf
    normal = vectors[:, 0]
    return Hyperplanes(normal[None], np.array([-float(normal @ middle)]), np.array([error]))
