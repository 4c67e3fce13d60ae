"""The row span of a model that answers with labels: one bit is enough."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_accuracy import UNKNOWN, Measured, carried_over, measure_accuracy, price
from unveil.blackbox.label_crossings import BoundaryPoints, Side, legal_steps, shifts
from unveil.blackbox.label_normals import (
    Normals,
    Scale,
    best_stride,
    judge,
    measure,
    settle,
    sharpen,
    sizes,
    unit_combinations,
)
from unveil.blackbox.label_points import (
    LABEL_POOL_POINTS,
    Ground,
    boundary_points,
    find_ground,
    find_scale,
    newest,
    smooth_points,
    usual_ground,
)
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.span import RowSpan, unseen_share
from unveil.outcome import BadInput, BudgetExceeded, Outcome

BOUNDARY_POINTS = 64
"""Boundary points looked at in each round of growth; `FIRST_BOUNDARY_POINTS` while nothing is known and each costs
more."""

FIRST_BOUNDARY_POINTS = 32

TOGETHER = 8
"""Normals taken between two looks at what was found, so that a budget that ends loses little."""

SHARPENING_ROUNDS = 12
"""Rounds of sharpening after which an accuracy counts as out of reach."""

ACCURACY_MARGIN = 4.0
"""The normals are made so much sharper than the accuracy that is wanted: what is stated has a margin too."""

COMPLEMENT_POINTS_SHARE = 1 / 8
"""The share of boundary points from segments along the complement where none may be missed: they cross less steeply."""

ROOM_TO_WALLS = 2e-3
"""Of the flat length: points with so little room to the walls are left out (`legal_steps` goes half as far anyway)."""

STALLS = 4
"""Looks in a row that add no direction after which growth ends."""


def label_span(  # noqa: PLR0913 - options of a public verb
    oracle: Oracle,
    *,
    rng: np.random.Generator,
    accuracy: float = 1e-4,
    x: Float[np.ndarray, "N n"] | None = None,
    confidence: float = 0.95,
    unseen: float = 0.01,
    votes: int = 1,
    units: Float[np.ndarray, " n"] | float = 1.0,
) -> RowSpan:
    r"""Find the span of the first layer's rows from labels alone.

    If $M(x) = \tau(\sigma(A x))$, the normal of the decision boundary is a gradient of $\sigma$, so it lies in the row
    span of A. Boundary points come from bisection; where the boundary lies after a move tells the normal's component
    along that move. The next points are those, among many candidates, whose normals have the largest component outside
    the span known so far. Once the coarse span is known its complement is asked again: the boundary has no curvature
    there, so every further question buys a bit of precision.

    Args:
        oracle: Answers labels: two or many, integers.
        rng: Draws points and directions.
        accuracy: Wanted sine of the largest principal angle to the true span. It sets how many bits are asked; the
            result states what was measured at fresh boundary points and along fresh directions, times 3.
        x: Points to start from besides random ones, e.g. typical inputs of different classes; without a box they are
            used only where random points show a single label.
        confidence: See `RowSpan.confidence`.
        unseen: See `RowSpan.unseen`, here of boundary points.
        votes: How often each question is put, for a model whose labels are noisy; the majority counts. Odd.
        units: What an input of 1 is in the units in which `accuracy` is wanted and stated. The basis stays as asked.

    Returns:
        What was found by the time it ended; `outcome` says how. `not_measured` if only one label was ever seen.

    Raises:
        BadInput: The oracle does not answer labels, or an argument is out of range.
        UnsteadyAnswers: The same question got two different labels (after `votes` votes).

    Queries: about `2 k (n - k) log2(1 / accuracy)` times `votes`; `k (n - k) log2(1 / accuracy)` is the floor, as each
        question buys one bit.

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Algorithm 2, Proposition 4.1 and Lemma 4.2; the order of asking
        is ours.
    """
    if oracle.answers != "labels":
        raise BadInput(f"{oracle.name} answers {oracle.answers}; wrap it in LabelsOnly, or call row_span")
    for name, value in (("accuracy", accuracy), ("confidence", confidence), ("unseen", unseen)):
        if not 0 < value < 1:
            raise BadInput(f"{name} must lie between 0 and 1; got {value!r}")
    search = _Search(Side(oracle, votes), rng, accuracy, units)
    search.needed = math.ceil(math.log(1 - confidence) / math.log(1 - unseen))
    try:
        search.outcome = search.run(x)
    except BudgetExceeded:
        search.outcome = Outcome.budget_ended
        search.measure_what_is_left()
    if search.outcome in (Outcome.approximate, Outcome.budget_ended) and search.measured is not None and search.found.r:
        with contextlib.suppress(BudgetExceeded):
            search.measured = search.with_what_is_missed(search.measured)
    return search.result(confidence)


class _Search:
    """State of one search; `result` may be asked for at any time."""

    def __init__(
        self, side: Side, rng: np.random.Generator, accuracy: float, units: Float[np.ndarray, " n"] | float
    ) -> None:
        self.side, self.rng, self.units = side, rng, units
        self.accuracy = self.wanted = accuracy
        self.before = side.oracle.ledger.asked
        self.booked = self.before
        self.stages: dict[str, int] = {}
        self.found = Normals.none(side.oracle.n)
        self.floor = 0.0
        self.needed = 0
        self.confirmed = 0
        self.across = 0.0
        self.outcome = Outcome.budget_ended
        self.measured: Measured | None = None

    def run(self, x: np.ndarray | None) -> Outcome:
        ground = find_ground(self.side, x, self.rng)
        if ground is None:
            # One label at every point that was asked says nothing about the points between and beyond them.
            return Outcome.not_measured
        self.ground: Ground = ground
        self.usual = usual_ground(self.side, x)
        points = boundary_points(self.side, ground, 12, self.found.basis, self.rng)
        if not len(points.x):  # the second label was met once, and not again
            return Outcome.not_measured
        if self.side.oracle.n == 1:  # there is one direction, and labels change along it
            self.found = self.found.with_normals(points[:1], np.ones((1, 1)), np.zeros(1), 1)
            return Outcome.full_rank
        self.scale: Scale = find_scale(self.side, points, self.rng)
        self.book("start")
        last, rank = np.inf, 0
        for _ in range(SHARPENING_ROUNDS):
            self.grow()
            if not self.found.r:
                # Two labels were seen, so there is a boundary; what can be asked is too coarse to tell its normal.
                return Outcome.approximate
            if self.found.r == self.side.oracle.n:
                # A normal that noise had made is found out when all are asked again.
                self.found, self.floor = settle(self.side, self.scale, self.found)
                self.book("coordinates")
                if self.found.r == self.side.oracle.n:
                    return Outcome.full_rank
                continue
            self.accuracy = self.wanted / max(1.0, carried_over(self.found.basis, self.units))
            distance = self.found.distance
            gained = last / max(distance, 1e-300) if rank == self.found.r else np.inf
            if distance <= self.accuracy / ACCURACY_MARGIN or gained < 1.5:
                before = self.measured
                self.measured = self.measure()
                if self.measured.accuracy <= self.accuracy:
                    confirmed = self.confirm()
                    if confirmed is not None:
                        return Outcome.complete if confirmed else Outcome.approximate
                    continue
                if gained < 1.5 or (before is not None and self.measured.accuracy > before.accuracy / 2):
                    return Outcome.approximate
                # Fresh answers tell a larger error than the normals' own: it is what there is to be sharpened.
                times = max(1.0, self.measured.accuracy / max(3 * distance, 1e-300))
                self.found = replace(self.found, error=self.found.error * times)
            # Coordinates that are right shrink the distance a hundredfold and more.
            self.refine(again=gained < 100)
            last, rank = distance, self.found.r
        if self.found.r and self.measured is None:
            self.measured = self.measure()
        return Outcome.approximate

    def measure(self) -> Measured:
        """What fresh answers say of the span as it is."""
        measured = measure_accuracy(self.side, self.scale, self.found, self.ground, self.rng, self.accuracy)
        self.book("accuracy")
        return measured

    def measure_what_is_left(self) -> None:
        """Measure what had been found when the budget ended, with the queries that were kept back for it."""
        self.side.kept_back = 0
        self.measured = UNKNOWN
        if 0 < self.found.r < self.side.oracle.n:
            with contextlib.suppress(BudgetExceeded):
                self.measured = self.measure()

    def grow(self) -> None:
        """Take normals until no candidate shows anything new, given how well the span is known."""
        fresh, stalls, most = False, 0, self.found.r
        while self.found.r < self.side.oracle.n and stalls < STALLS:
            self.side.kept_back = price(self.found.r) if self.found.r else 0
            points, size, guess = self.candidates()
            self.book("candidates")
            if len(points):
                for first in range(0, len(points), TOGETHER):
                    part = slice(first, first + TOGETHER)
                    self.found = measure(self.side, self.scale, self.found, points[part], size[part], guess[part])
                    self.book("normals")
                fresh = True
            elif fresh:
                # The error was a guess so far. Measured it is smaller, and part of what was seen may be no error.
                self.found = judge(self.side, self.scale, self.found, self.scale.flat, self.rng)
                fresh = False
            else:
                return
            # What a look adds, judging may take away again: only more than ever is progress.
            stalls = 0 if self.found.r > most else stalls + 1
            most = max(most, self.found.r)

    def candidates(self) -> tuple[BoundaryPoints, Float[np.ndarray, " s"], Float[np.ndarray, "s n"]]:
        """The most promising of fresh boundary points, with size and sketch of their normals' new components.

        Size along one unit direction, (s,), and what the sketch tells of the component, (s, n).
        """
        found, scale, n = self.found, self.scale, self.side.oracle.n
        count = BOUNDARY_POINTS if found.r else FIRST_BOUNDARY_POINTS
        points = boundary_points(self.side, self.ground, count, found.basis, self.rng, self.across)
        wide = len(found.complement)
        fine = bool(found.r) and found.distance < 1e-3
        moves = unit_combinations(found.complement, min(wide, 8 if fine else 24 + found.r // 4), self.rng)
        known = self.steepness(points)
        points, known = points[~np.isnan(known)], known[~np.isnan(known)]
        step = np.full(len(points), scale.flat)
        whole = smooth_points(
            self.side, scale, points, found.basis, known if found.r else np.sqrt(n) * step**0, self.rng
        )
        points, known, step = points[whole], known[whole], step[whole]
        guess = known * (max(found.distance, self.accuracy) if fine else 0.3 if found.r else 1.0) / np.sqrt(n)
        pilot = sizes(self.side, points, moves[:4], step, guess, scale.noise)
        heard = ~np.isnan(pilot).all(axis=1)
        points, pilot, known, step, guess = (
            points[np.flatnonzero(heard)],
            pilot[heard],
            known[heard],
            step[heard],
            guess[heard],
        )
        size = np.maximum(np.sqrt(np.nanmean(pilot**2, axis=1)), guess / 8) if len(points) else guess
        half = 3 * np.maximum(size * step, scale.noise)
        moved = shifts(
            self.side,
            points,
            moves[4:],
            step,
            centre=np.zeros((len(points), len(moves) - len(pilot.T))),
            half=half,
            cell=np.maximum(half / 24, scale.noise),
            spread=half / 3,
        )
        sketch = np.concatenate([pilot, -moved / step[:, None]], axis=1)
        # A normal taken at random sees an error of the span in its share of the worst direction.
        floor = max(
            4 * found.distance / np.sqrt(max(found.r, 1)), 10 * scale.noise / scale.flat * np.sqrt(n), 3 * self.accuracy
        )
        within = known if found.r else np.zeros(len(known))
        rows = newest(sketch, within, wide, floor, 1 if fine else len(moves) // 2)
        return points[rows], np.sqrt(np.mean(sketch[rows] ** 2, axis=1)), sketch[rows] @ np.linalg.pinv(moves).T

    def steepness(self, points: BoundaryPoints) -> Float[np.ndarray, " N"]:
        """Length of the normals' part in the known span, over their component along the crossing, at least 1.

        1 with no span; NaN where no crossing was found.
        """
        found, scale = self.found, self.scale
        if not found.r:
            return np.ones(len(points))
        moves = unit_combinations(found.basis, min(8, found.r), self.rng)
        step = np.full(len(points), scale.flat)
        slopes = sizes(self.side, points, moves, step, np.full(len(points), 0.5), scale.noise)
        heard = np.sum(~np.isnan(slopes), axis=1)
        mean = np.nansum(slopes**2, axis=1) / np.where(heard, heard, np.nan)
        return np.asarray(np.maximum(np.sqrt(mean * found.r), 1.0))

    def refine(self, again: bool) -> None:
        """Settle the coordinates, then sharpen every normal along the complement, and judge what is left."""
        if again:
            self.found = replace(self.found, settled=0)
        if self.found.settled < self.found.r:
            self.found, self.floor = settle(self.side, self.scale, self.found)
            self.book("coordinates")
            if not self.found.r:
                return
        smallest = np.linalg.svd(self.found.coordinates, compute_uv=False)[-1]
        # The same length to the end: with directions still missing, longer moves would see them and not the error.
        stride = best_stride(self.scale, self.found, self.accuracy / ACCURACY_MARGIN)
        gain = max(3 * self.scale.sharpness / smallest, 1e-5)
        for first in range(0, self.found.r, TOGETHER):
            rows = np.arange(first, min(first + TOGETHER, self.found.r))
            self.found = sharpen(self.side, self.scale, self.found, stride, self.accuracy / ACCURACY_MARGIN, gain, rows)
            self.book("complement")
        self.found = judge(self.side, self.scale, self.found, stride, self.rng)
        self.book("judging")

    def confirm(self) -> bool | None:
        """Whether enough fresh boundary points in a row show nothing outside the span; None if one shows something.

        Every other batch lies where usual inputs do, and not where boundaries are told best. What shows there is looked
        for there from then on.
        """
        found, scale = self.found, self.scale
        grounds = [self.ground, self.usual]
        self.confirmed = BOUNDARY_POINTS
        for k in range(4 * math.ceil(self.needed / BOUNDARY_POINTS)):
            if self.confirmed >= self.needed:
                break
            ground = grounds[k % len(grounds)]
            count = min(2 * BOUNDARY_POINTS, self.needed - self.confirmed)
            points = boundary_points(self.side, ground, count, found.basis, self.rng, COMPLEMENT_POINTS_SHARE)
            if not len(points) and ground is self.usual:
                grounds = [self.ground]  # all usual inputs have one label
                continue
            moves = unit_combinations(found.complement, 2, self.rng)
            known, step = self.steepness(points), legal_steps(self.side, points, moves, scale.flat)
            # Next to a wall a move would be cut off.
            told = np.flatnonzero(~np.isnan(known) & (step > ROOM_TO_WALLS * scale.flat))
            points, known, step = points[told], known[told], step[told]
            guess = known * self.accuracy / np.sqrt(self.side.oracle.n)
            slope = np.abs(sizes(self.side, points, moves, step, guess, scale.noise)) / known[:, None]
            level = np.maximum(self.accuracy, scale.noise / step * np.sqrt(self.side.oracle.n))
            self.book("confirmation")
            if np.nanmax(slope / level[:, None], initial=0.0) * np.sqrt(len(found.complement)) > 20:
                self.ground, self.across, self.confirmed = ground, COMPLEMENT_POINTS_SHARE, 0
                return None
            self.confirmed += int(np.sum(~np.isnan(slope).any(axis=1)))
        return self.confirmed >= self.needed

    def with_what_is_missed(self, measured: Measured) -> Measured:
        """What was measured; or that a direction is missed, where more labels change along the complement than it says.

        Normals are measured where the boundary crosses the span; one that lies outside of it shows here, between usual
        inputs and where the search was. In a box, moves end at its walls.

        Queries: `2 * LABEL_POOL_POINTS` times `votes`
        """
        x = np.stack([each.draw(self.side, LABEL_POOL_POINTS // 2, self.rng) for each in (self.ground, self.usual)])
        way = np.roll(x, 1, axis=1) - x
        across = (way - way @ self.found.basis.T @ self.found.basis).reshape(LABEL_POOL_POINTS, -1)
        seen = self.side.labels(x.reshape(LABEL_POOL_POINTS, -1))
        length = np.minimum(self.side.oracle.room(x.reshape(LABEL_POOL_POINTS, -1), across), 1.0)
        changed = self.side.labels(x.reshape(LABEL_POOL_POINTS, -1) + length[:, None] * across) != seen
        seen = seen.reshape(2, -1)
        share = float(changed.mean() / max((np.roll(seen, 1, axis=1) != seen).mean(), 1 / LABEL_POOL_POINTS))
        self.book("accuracy")
        if share <= measured.accuracy:
            return measured
        self.confirmed = 0
        return Measured(1.0, min(1.0, max(measured.left_out, share)))

    def book(self, stage: str) -> None:
        """Book what was asked since the last call."""
        asked = self.side.oracle.ledger.asked
        self.stages[stage] = self.stages.get(stage, 0) + asked - self.booked
        self.booked = asked

    def result(self, confidence: float) -> RowSpan:
        self.book("cut short")
        self.stages = {stage: queries for stage, queries in self.stages.items() if queries}
        found = self.found
        values = np.linalg.svd(found.coordinates, compute_uv=False)
        top = values[0] if len(values) else 1.0
        measured = UNKNOWN if self.measured is None or not found.r else self.measured
        stated = min(1.0, measured.accuracy * carried_over(found.basis, self.units)) if measured.accuracy < 1 else 1.0
        rest = measured.left_out if self.outcome is Outcome.approximate else 0.0
        return RowSpan(
            basis=found.basis,
            singular_values=values / top,
            noise_floor=self.floor / top,
            accuracy=0.0 if self.outcome is Outcome.full_rank else stated,
            confidence=confidence,
            unseen=unseen_share(confidence, self.confirmed, rest, measured.accuracy),
            left_out=rest,
            queries=self.side.oracle.ledger.asked - self.before,
            outcome=self.outcome,
            stages=self.stages,
        )
