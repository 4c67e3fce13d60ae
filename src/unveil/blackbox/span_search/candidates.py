"""Which points show something new, and at which of them gradients are taken: several at once."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int
from scipy import linalg

from unveil.blackbox.span_search.points import Asker, Places, clipped_step
from unveil.blackbox.span_search.state import State

POOL = 8  # candidate points looked at for each gradient taken
SIGNIFICANT = 6.0  # standard deviations of the measured noise that count as a finding
CHOOSING = 0.04  # share of a gradient's questions that may go into choosing where to take it
GRADIENTS_AT_ONCE = 8.0  # gradients that are taken at once
EXTRA_DIRECTIONS = 4  # directions more than places, along which these are compared
AS_NEW = 0.1  # of what the first place shows, that another one must show beside it


def screen(ask: Asker, state: State, pool: Places) -> tuple[np.ndarray, np.ndarray]:
    """Size of the slope along one random complement direction per point, and whether the line looks straight."""
    direction = state.known.complement(ask.rng.standard_normal(pool.x.shape))
    length = state.steps.probe
    ends = np.concatenate([pool.x + length * direction, pool.x - length * direction])
    ahead, behind = np.split(ask(ask.oracle.nearest(ends), np.tile(pool.sigma, (2, 1))), 2)
    slope = np.nan_to_num(np.abs(ahead - behind).max(axis=1) / (2 * length))  # where an answer is missing none is seen
    straight = np.abs(ahead + behind - 2 * pool.fx).max(axis=1) <= 16
    return slope, np.asarray(straight | ask.smooth)


def at_once(ask: Asker, state: State) -> int:
    """How many places gradients are taken at before the next are chosen.

    Together they cost less than one after the other by all but the questions: one frame, one elimination, whole
    batches. Each is asked along a few directions more than what the others leave, and the steps grow more slowly: so
    only a part of what is known is added at once, where answers have digits to spare and the limit is not near. Of
    several outputs one place shows as many directions.
    """
    left, ledger = state.known.n - state.rank, ask.oracle.ledger
    if ask.oracle.m > 1 or not state.steps.clean:
        return 1
    room = min(min(ask.limit - ledger.asked, ledger.left) / (4 * left), GRADIENTS_AT_ONCE)
    return max(1, int(min(room, state.rank / 2, CHOOSING * left / 2, left)))


def independent(ask: Asker, state: State, pool: Places) -> Int[np.ndarray, " K"]:
    """Numbers of places of one output whose gradients show something new beside each other, the first among them.

    Changes along a few more directions of the complement than places have the rank that the gradients have there.

    Args:
        ask: The oracle.
        state: What is known.
        pool: Places at which something new shows, the one that shows most first.

    Queries: `k (k + EXTRA_DIRECTIONS)` for k places, none for one
    """
    count = min(len(pool), at_once(ask, state))
    if count == 1:
        return np.zeros(1, dtype=np.intp)
    x, length = pool.x[:count], state.steps.step
    steps = length * state.known.complement(ask.rng.standard_normal((count + EXTRA_DIRECTIONS, state.known.n)))
    ends = ask.oracle.nearest((x[:, None] + steps).reshape(-1, state.known.n))
    change = ask(ends, np.repeat(pool.sigma[:count], len(steps), axis=0)).reshape(count, -1) - pool.fx[:count]
    noise = SIGNIFICANT * math.sqrt(2) * (math.sqrt(len(steps)) + math.sqrt(count))
    triangle, order = linalg.qr(np.nan_to_num(change).T, mode="r", pivoting=True)
    own = np.abs(np.diag(triangle))
    shown = own > max(noise, length * state.doubt() * math.sqrt(len(steps)), AS_NEW * own[0])
    return np.asarray(order[: max(1, int(np.argmin(np.append(shown, False))))], dtype=np.intp)


def most_telling(ask: Asker, state: State, pool: Places, threshold: float) -> Places:
    """The place whose gradients show most directions that are new, of as many as a share of their questions allows.

    A gradient takes as many questions whether one of its outputs shows something new or all of them do. Changes along a
    few directions of the complement have the rank that the gradients have there: along one more than the best place so
    far shows, it tells whether another one shows more.

    Args:
        ask: The oracle.
        state: What is known.
        pool: Places at which something new shows, the one that shows most first.
        threshold: Slope above which something new shows.

    Queries: at most `CHOOSING * (n - r)`; none where these are few
    """
    m, left = ask.oracle.m, state.known.n - state.rank
    sides, budget = min(m, left) + 1, int(CHOOSING * left)
    length = state.steps.step
    steps = length * state.known.complement(ask.rng.standard_normal((sides, state.known.n)))
    chosen, most = pool[:1], 0
    while budget >= sides + 3 * POOL and most + 1 < sides:
        if not len(pool):
            pool = ask.draw(POOL, state.steps.margin)
            slope, straight = screen(ask, state, pool)
            pool, budget = pool[straight & (slope > threshold)], budget - 3 * POOL
            continue
        here, pool, change = pool[:1], pool[1:], np.empty((0, m))
        for part in (steps[: most + 1], steps[most + 1 :]):
            change = np.vstack([change, ask(ask.oracle.nearest(here.x + part), here.sigma) - here.fx])
            noise = SIGNIFICANT * math.sqrt(2) * (math.sqrt(len(change)) + math.sqrt(m))
            values = np.linalg.svd(np.nan_to_num(change), compute_uv=False)
            shown, budget = int(np.sum(values > max(noise, length * state.doubt()))), budget - len(part)
            if shown <= most:
                break
            chosen, most = here, shown
    return chosen


def hidden_slope(
    ask: Asker, state: State, here: Places, direction: np.ndarray, longest: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Places, np.ndarray]:
    """Slope along one `direction` of the complement per point, and whether it is more than noise and known error.

    Returns:
        Both (N,), the far ends, as far as `longest` or a box allows, and the changes in units of their noise, (N, m).
        NaN where the far end has no answer.
    """
    length = clipped_step(ask.oracle, here.x, direction, longest)
    far = ask.places(ask.oracle.nearest(here.x + length[:, None] * direction))
    change = far.fx * far.sigma / here.sigma - here.fx
    shown = change / np.sqrt(1 + (far.sigma / here.sigma) ** 2)
    slope = np.abs(change).max(axis=1) / np.abs(length)
    return slope, (np.abs(shown).max(axis=1) > SIGNIFICANT) & (slope > state.doubt()), far, shown


def steepest(ask: Asker, here: Places, far: Places, short: float) -> list[Places]:
    """Two ends, `short` apart, of that part of each way between places along which answers change most.

    Queries: one for each way and halving of it
    """
    longest = float(np.linalg.norm(far.x - here.x, axis=1).max())
    for _ in range(max(0, math.ceil(math.log2(longest / short)))):
        middle = ask.places(ask.oracle.nearest((here.x + far.x) / 2))
        first, second = (
            np.nan_to_num(np.abs(middle.fx * middle.sigma - end.fx * end.sigma) / end.sigma).max(axis=1)
            for end in (here, far)
        )
        every, start = Places.joined([here, middle, far]), np.arange(len(here)) + len(here) * (first < second)
        here, far = every[start], every[start + len(here)]
    return [here, far]
