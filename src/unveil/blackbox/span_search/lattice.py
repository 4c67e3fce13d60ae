"""The search on a grid: every step is a whole number of grid steps along coordinates, so none has to be rounded."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.blackbox.span_search.directions import STRAIGHT
from unveil.blackbox.span_search.points import Asker, Places
from unveil.blackbox.span_search.refinement import rank_above
from unveil.blackbox.span_search.state import CLEAR, Goal, State

FIRST_BATCH_PLACES = 4  # places in the first batch; each further one is as large as all before
CONFIRMATION_ROUNDS = 12
NEAR_WALLS = 8.0  # the longest difference spans one part in so many of the box: places stay that far off its walls
DIFFERENCE_LENGTHS = 4  # lengths of central differences of a smooth model, 1 to 4 steps
WORTH = 8_000  # queries that a confirmation on a grid may take, within the points that were asked for
ROUNDS_OF_PIVOTS = 4  # sets of places, each of which determines the span
MEASURED = 3  # times the accuracy is measured at most, each with twice the places
COORDINATES_MOVED = 3  # coordinates moved, so that no question is asked a second time
LEAST_CONFIRMING_PLACES = 8  # fresh places of a confirmation, at least
SAFETY = 3.0
CLEAR_OF_NOISE = 3.0  # floors of the noise that the weakest direction must exceed where it is asked again
TRUNCATED = 1.5  # times the last term of an extrapolation bounds its error


@dataclass(frozen=True)
class Gradients:
    """Gradients at places, m rows for each, outputs in units of the noise there.

    Attributes:
        x: (P, n), the places.
        rows: (P * m, n).
        truncation: (P * m, n), the last term of the extrapolation; 0 where lines are straight.
        noise: Standard deviation of one entry.
    """

    x: Float[np.ndarray, "P n"]
    rows: Float[np.ndarray, "Pm n"]
    truncation: Float[np.ndarray, "Pm n"]
    noise: float

    def joined(self, other: Gradients) -> Gradients:
        return Gradients(
            np.vstack([self.x, other.x]),
            np.vstack([self.rows, other.rows]),
            np.vstack([self.truncation, other.truncation]),
            max(self.noise, other.noise),
        )

    @property
    def floor(self) -> float:
        """The largest singular value that noise and truncation give them."""
        noise = self.noise * (math.sqrt(len(self.rows)) + math.sqrt(self.rows.shape[1]))
        return max(noise, float(np.linalg.norm(self.truncation, 2)) if self.truncation.any() else 0.0)


def looks(ask: Asker, state: State, goal: Goal) -> Generator[State, None, None]:
    """Gradients at ever more places, until fresh ones lie in the span of those before.

    What is left out is measured at the fresh places, the accuracy by asking again one step beside the places that
    determine the span best: none of these answers went into it.

    Yields:
        The state after each batch.

    Queries: `n + 1` and a test of each group of coordinates per place of a piecewise-linear model, `8 n + 1` of a
        smooth one; at least `2 r / m` places, at most as many as add to the rank, twice
    """
    ledger, n = ask.oracle.ledger, ask.oracle.n
    before = ledger.asked
    with ask.stage("first pass"):
        found = gradients(ask, state, ask.draw(FIRST_BATCH_PLACES, _margin(ask, state)))
    wanted = min(goal.fresh, max(LEAST_CONFIRMING_PLACES, WORTH * FIRST_BATCH_PLACES // max(ledger.asked - before, 1)))
    state = replace(state, taken=len(found.x))
    yield state
    for _ in range(CONFIRMATION_ROUNDS):
        rank = _span(found, n)[2]
        # Once the rank has settled, no more than what is still to be confirmed.
        settled = bool(rank) and state.rank == rank
        count = wanted - state.confirmed if settled else max(len(found.x), FIRST_BATCH_PLACES)
        with ask.stage("confirmation"):
            fresh = gradients(ask, state, ask.draw(max(count, FIRST_BATCH_PLACES), _margin(ask, state)))
        found = found.joined(fresh)
        basis, values, grown = _span(found, n)
        largest = float(values[0]) if len(values) else 1.0
        state = replace(
            state.with_span(basis),
            taken=len(found.x),
            values=values / largest,
            floor=found.floor / largest,
            left_out=_left_out(basis, fresh),
            confirmed=state.confirmed + len(fresh.x) if grown == rank else 0,
            accuracy=1.0,
            measured=False,
        )
        yield state
        if state.full or not len(fresh.x) or state.confirmed >= wanted:
            break
    if state.rank and not state.full:
        with ask.stage("measuring"):
            state = measure(ask, state, found, goal.accuracy)
    # A full rank may be noise: then it is one only if every singular value stands far above it.
    sure = state.values[-1] > CLEAR * state.floor if state.full else state.confirmed >= wanted
    accuracy = 0.0 if state.full and sure else state.accuracy  # every direction is in a full span
    yield replace(state, accuracy=accuracy, measured=True, unsettled=not sure)


def price(n: int, m: int, rank: int) -> int:
    """Queries that one measurement takes at most: kept back from a budget until the end."""
    return math.ceil((1.5 * rank + 8) / m) * (2 * DIFFERENCE_LENGTHS * n + 1) + 8


def measure(ask: Asker, state: State, found: Gradients, wanted: float) -> State:
    """The accuracy, from gradients one step beside the places that determine the span best.

    Where that is not good enough, twice as many places are asked, and once more: some lie beside a breakpoint.

    Queries: as many as `1.5 r / m + 8 / m` places, at most four times that
    """
    m, rank = ask.oracle.m, state.rank
    # Outputs weigh by what they tell: two rounds of pivots, each a set of rows that determines the span.
    rows, order = np.arange(len(found.rows)), np.empty(0, dtype=np.intp)
    c = found.rows @ state.known.basis.T
    while len(rows) and len(order) < ROUNDS_OF_PIVOTS * rank:
        pivots = linalg.qr(c[rows].T, mode="r", pivoting=True)[1][:rank]
        order, rows = np.append(order, rows[pivots]), np.delete(rows, pivots)
    _, first = np.unique(order // m, return_index=True)
    places = (order // m)[np.sort(first)]
    count, start, fresh = math.ceil((1.5 * rank + 8) / m), 0, None
    for _ in range(MEASURED):
        x = found.x[places[start : start + count]]
        if not len(x):
            break
        beside = ask.places(_beside(ask, x))
        more = gradients(ask, state, beside)
        fresh = more if fresh is None else fresh.joined(more)
        state = replace(state, accuracy=_accuracy(state.known.basis, found, fresh))
        if state.accuracy <= wanted:
            break
        start += count
        count = start
    return state


def _beside(ask: Asker, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
    """The points moved by one step of the grid along a few coordinates."""
    grid, n = float(ask.oracle.grid or 1.0), ask.oracle.n
    moved = x.copy()
    for i in range(len(x)):
        few = ask.rng.choice(n, size=min(COORDINATES_MOVED, n), replace=False)
        moved[i, few] += grid * _inward(ask, x[i], grid, ask.rng.choice([-1.0, 1.0], size=n))[few]
    return ask.oracle.nearest(moved)


def _margin(ask: Asker, state: State) -> float:
    step, levels = _lengths(ask, state)
    return (levels + 1) * step if levels else 0.0


def _lengths(ask: Asker, state: State) -> tuple[float, int]:
    """The step, and over how many of them central differences reach; 0 for forward differences."""
    grid = float(ask.oracle.grid or 1.0)
    room = float(np.min(ask.oracle.high - ask.oracle.low))
    levels = int(min(DIFFERENCE_LENGTHS, (room - 2 * grid) / (2 * grid)))
    if not ask.smooth or levels < 2:
        return max(1.0, round(state.steps.step / grid)) * grid, 0
    # The longest difference balances rounding against the extrapolation's error, and fits into the box.
    signal = float(ask.noise.signal.max())
    length = signal**-0.125 / math.sqrt(max(ask.noise.curvature, 1e-12)) / levels
    return min(max(1.0, length // grid), max(1.0, room / NEAR_WALLS // (levels * grid))) * grid, levels


def gradients(ask: Asker, state: State, here: Places) -> Gradients:
    """Gradients at places on the grid; those where a breakpoint was met on either side are left out.

    Queries: see `looks`
    """
    grid, n = float(ask.oracle.grid or 1.0), ask.oracle.n
    step, levels = _lengths(ask, state)
    x, rows, truncation = [], [], []
    for i in range(len(here)):
        place = here[i : i + 1]
        found = _smooth(ask, place, step, levels) if levels else _straight(ask, place, step, state)
        if found is not None and not np.isfinite(found[0]).all():
            found = None  # an answer is missing
        if found is None and step > grid:
            found = _straight(ask, place, grid, state)
        if found is not None:
            x.append(place.x)
            rows.append(found[0])
            truncation.append(found[1])
    # Extrapolation weighs the shortest difference by up to 1.6 and its noise with it.
    noise = 1.6 / (math.sqrt(2) * step) if levels else math.sqrt(2) / step
    empty = [np.empty((0, n))]
    return Gradients(np.vstack(x or empty), np.vstack(rows or empty), np.vstack(truncation or empty), noise)


def _straight(ask: Asker, here: Places, step: float, state: State) -> tuple[np.ndarray, np.ndarray] | None:
    """Forward differences, whose sum each group of coordinates must show when all are moved at once; else None."""
    x, fx, sigma, n, rng = here.x[0], here.fx[0], here.sigma[0], ask.oracle.n, ask.rng
    sign = _inward(ask, x, step, rng.choice([-1.0, 1.0], size=n))
    slope = np.empty((n, ask.oracle.m))
    together = int(np.clip((state.steps.reach / step) ** 2, 4, n))
    groups = np.array_split(rng.permutation(n), math.ceil(n / together))
    for attempt in (1, -1):
        asked = ask.oracle.nearest(x + step * np.diag(sign))
        moved = np.diag(asked - x)
        slope = (ask(asked, sigma) - fx) / np.where(moved == 0, np.inf, moved)[:, None]
        # In another combination of directions than the one differenced: on the other side where there is room.
        points = np.zeros((len(groups), n))
        for i, group in enumerate(groups):
            points[i, group] = step * _inward(ask, x, step, rng.choice([-1.0, 1.0], size=n))[group]
        points = ask.oracle.nearest(x + points)
        error = STRAIGHT * np.sqrt(2 * (1 + np.count_nonzero(points != x, axis=1)))
        missed = np.abs(ask(points, sigma) - fx - (points - x) @ slope)
        if (missed <= error[:, None]).all():
            return slope.T, np.zeros_like(slope.T)
        if attempt == 1:
            sign = _inward(ask, x, step, -sign)
    return None


def _inward(
    ask: Asker, x: Float[np.ndarray, " n"], step: float, sign: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Signs of steps that stay in the box."""
    low, high = ask.oracle.low, ask.oracle.high
    slack = 1e-6 * step
    return np.where(x + step * sign > high + slack, -1.0, np.where(x + step * sign < low - slack, 1.0, sign))


def _smooth(ask: Asker, here: Places, step: float, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Central differences over 1 to `levels` steps, extrapolated to none, and the last term of the extrapolation."""
    x, sigma, n = here.x[0], here.sigma[0], ask.oracle.n
    quotients = []
    for level in range(1, levels + 1):
        ahead, behind = (ask.oracle.nearest(x + s * level * step * np.eye(n)) for s in (1, -1))
        moved = np.diag(ahead - behind)
        change = ask(ahead, sigma) - ask(behind, sigma)
        quotients.append((change / np.where(moved == 0, np.inf, moved)[:, None]).T)
    best, last = _extrapolate(quotients), _extrapolate(quotients[:-1])
    return last, best - last


def _extrapolate(quotients: list[Float[np.ndarray, "... n"]]) -> Float[np.ndarray, "... n"]:
    """The limit of central differences over 1, 2, ... steps, by Lagrange interpolation in the square of the length."""
    squares = np.arange(1, len(quotients) + 1, dtype=np.float64) ** 2
    weights = [np.prod([b / (b - a) for b in squares if b != a]) for a in squares]
    return np.asarray(sum(w * q for w, q in zip(weights, quotients, strict=True)))


def _span(found: Gradients, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Orthonormal rows, singular values and rank."""
    if not len(found.rows) or not found.rows.any():
        return np.empty((0, n)), np.empty(0), 0
    _, values, right = np.linalg.svd(found.rows, full_matrices=False)
    rank = 0 if values[0] <= CLEAR_OF_NOISE * found.floor else rank_above(values, found.floor)
    return right[:rank], values, rank


def _accuracy(basis: Float[np.ndarray, "r n"], found: Gradients, fresh: Gradients) -> float:
    """How far the span is from where fresh gradients put it, and how far truncation may have moved both."""
    if len(basis) >= basis.shape[1]:
        return 0.0
    c = fresh.rows @ basis.T
    if len(c) < len(basis):
        return 1.0
    least = float(np.linalg.svd(c, compute_uv=False)[-1])
    # A direction that fresh places show no better than noise may be one that noise has made.
    if least <= CLEAR_OF_NOISE * fresh.noise * (math.sqrt(c.shape[0]) + math.sqrt(c.shape[1])):
        return 1.0
    inverse = np.linalg.pinv(c)
    apart = inverse @ (fresh.rows - c @ basis)
    bent = inverse @ fresh.truncation
    bent -= (bent @ basis.T) @ basis
    n = basis.shape[1]
    # Answers that happen not to differ at all still hide their rounding.
    hidden = 0.6 * fresh.noise * math.sqrt(2 * (n - len(basis))) * float(np.linalg.norm(inverse, 2))
    # The span stands on more gradients than were asked again, and errs less by as much as they determine it more.
    share = min(1.0, least / float(np.linalg.svd(found.rows @ basis.T, compute_uv=False)[-1]))
    error = SAFETY * share * max(float(np.linalg.norm(apart, 2)), hidden) + TRUNCATED * float(np.linalg.norm(bent, 2))
    return min(1.0, error + 4 * n * float(np.finfo(float).eps)) if math.isfinite(error) else 1.0


def _left_out(basis: Float[np.ndarray, "r n"], fresh: Gradients) -> float:
    """Root mean square share of the fresh gradients outside the span, less what noise makes of it."""
    n = basis.shape[1]
    outside = np.sum((fresh.rows - (fresh.rows @ basis.T) @ basis) ** 2, axis=1)
    every = np.sum(fresh.rows**2, axis=1)
    alive = every > 1e-6 * every.max(initial=0.0)
    if not alive.any() or not len(basis):
        return 1.0
    noise = fresh.noise**2 * (n - len(basis))
    # What is no more than noise may be it, or hide below it by the deviation of its mean.
    hidden = noise * math.sqrt(2 / (max(n - len(basis), 1) * int(alive.sum())))
    share = np.maximum(outside - noise, 0.0)[alive] / every[alive]
    return float(np.sqrt(max(np.mean(share), hidden * np.mean(1 / every[alive]))))
