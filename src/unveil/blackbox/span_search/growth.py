"""Growth: gradients in the complement of what is known; confirmation: fresh points that show nothing new."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from scipy import linalg

from unveil.blackbox.span_search.directions import SHORTER, SparseFrame, slopes
from unveil.blackbox.span_search.points import Asker, Places, clipped_step
from unveil.blackbox.span_search.state import State, longest_probe

POOL = 8  # candidate points looked at for each gradient taken
SIGNIFICANT = 6.0  # standard deviations of the measured noise that count as a finding
CERTAIN = {True: 15.0, False: 3.0}  # errors that a new direction must exceed, where answers are clean and where not
UNKNOWN = 4.0  # times the reach that a probe may go while nothing is known
AS_STRONG = 0.5  # of the strongest slope, from which a place across the middle is taken before others
MOST_CROOKED = 30  # pools in a row in which no candidate's line was straight
BATCH = 64
CHOOSING = 0.04  # share of a gradient's questions that may go into choosing where to take it
AT_ONCE = 8.0  # gradients that are taken at once
BESIDES = 4  # directions more than places, along which these are compared
AS_NEW = 0.1  # of what the first place shows, that another one must show beside it
REST = 48  # fresh points at which what was left out is measured
LONGER = 4.0  # probes than those that chose where to take a gradient: they lie in the complement, where little bends
HIDES = math.sqrt(8 / REST)  # mean square change, in units of the noise, that may hide below it: its standard deviation
FARTHEST = 3.0  # longest step, in multiples of the typical coordinate of a point
TURNS = 2  # random directions per point

Growing = Generator[State, None, State]


def grow(ask: Asker, state: State, pool: Places) -> Growing:
    """Take gradients until a pool of candidates shows nothing new.

    Args:
        ask: The oracle.
        state: What is known.
        pool: Candidate points to begin with.

    Yields:
        The state after each gradient that added something.

    Queries: about `r (n - r / 2) / m`, and `3 * POOL` for each gradient or those taken at once
    """
    crooked, first = 0, 0
    while not state.full:
        wanted = POOL + _at_once(ask, state) - 1
        if len(pool) < wanted:
            pool = pool.joined(ask.draw(wanted - len(pool), state.steps.margin))
        steps = state.steps
        slope, straight = screen(ask, state, pool)
        threshold = max(SIGNIFICANT / (math.sqrt(2) * steps.probe), state.doubt())
        longest = longest_probe(ask, steps)
        if slope.max() <= threshold:
            # While nothing is known, noise may hide the slopes: longer steps, but not outside what is usually asked.
            longest = min(longest, UNKNOWN * steps.reach)
            if state.rank or steps.probe >= longest or straight.mean() <= 0.7:
                return state
            state = replace(state, steps=steps.times(min(2.0, longest / steps.probe)))
            continue
        if straight.mean() > 0.7 and not steps.curvature and steps.probe < longest:
            # The more is known, the less the rest bends, and longer steps are less noisy.
            state = replace(state, steps=steps.times(1.5))
        score = np.where(straight, slope, 0.0)
        across_counts = (score[:first] > AS_STRONG * score.max()).any()
        best, first = int(score[:first].argmax() if across_counts else score.argmax()), 0
        if score[best] <= threshold:
            crooked += 1
            if crooked % 3 == 0:  # no straight line in three pools: the regions are smaller than thought
                state = replace(state, steps=state.steps.times(0.5))
            if crooked > MOST_CROOKED:
                return state
            pool = pool[:0]
            continue
        before = state.rank
        promising = np.flatnonzero(score > threshold)
        order = np.append(best, promising[promising != best])
        if ask.oracle.m > 1:
            place, used = _most_telling(ask, state, pool[order], threshold), order[:1]
        else:
            used = order[_independent(ask, state, pool[order])]
            place = pool[used]
        state, useful = _take(ask, state, ask.heard(place))
        if not useful:
            return state
        yield state
        rest = pool[np.delete(np.arange(len(pool)), used)]
        # With fewer directions than outputs, the neurons active at the place have all shown: others rest there, and are
        # often active across the middle from it.
        across = ask.across(place) if state.rank - before < ask.oracle.m else pool[:0]
        pool, first = across.joined(rest), len(across)
    return state


def screen(ask: Asker, state: State, pool: Places) -> tuple[np.ndarray, np.ndarray]:
    """Size of the slope along one random complement direction per point, and whether the line looks straight."""
    direction = state.known.complement(ask.rng.standard_normal(pool.x.shape))
    length = state.steps.probe
    ends = np.concatenate([pool.x + length * direction, pool.x - length * direction])
    ahead, behind = np.split(ask(ask.oracle.nearest(ends), np.tile(pool.sigma, (2, 1))), 2)
    slope = np.nan_to_num(np.abs(ahead - behind).max(axis=1) / (2 * length))  # where an answer is missing none is seen
    straight = np.abs(ahead + behind - 2 * pool.fx).max(axis=1) <= 16
    return slope, np.asarray(straight | ask.smooth)


def _at_once(ask: Asker, state: State) -> int:
    """How many places gradients are taken at before the next are chosen.

    Together they cost less than one after the other by all but the questions: one frame, one elimination, whole
    batches. Each is asked along a few directions more than what the others leave, and the steps grow more slowly: so
    only a part of what is known is added at once, where answers have digits to spare and the limit is not near. Of
    several outputs one place shows as many directions.
    """
    left, ledger = state.known.n - state.rank, ask.oracle.ledger
    if ask.oracle.m > 1 or not state.steps.clean:
        return 1
    room = min(min(ask.limit - ledger.asked, ledger.left) / (4 * left), AT_ONCE)
    return max(1, int(min(room, state.rank / 2, CHOOSING * left / 2, left)))


def _independent(ask: Asker, state: State, pool: Places) -> Int[np.ndarray, " K"]:
    """Numbers of places of one output whose gradients show something new beside each other, the first among them.

    Changes along a few more directions of the complement than places have the rank that the gradients have there.

    Args:
        ask: The oracle.
        state: What is known.
        pool: Places at which something new shows, the one that shows most first.

    Queries: `k (k + BESIDES)` for k places, none for one
    """
    count = min(len(pool), _at_once(ask, state))
    if count == 1:
        return np.zeros(1, dtype=np.intp)
    x, length = pool.x[:count], state.steps.step
    steps = length * state.known.complement(ask.rng.standard_normal((count + BESIDES, state.known.n)))
    ends = ask.oracle.nearest((x[:, None] + steps).reshape(-1, state.known.n))
    change = ask(ends, np.repeat(pool.sigma[:count], len(steps), axis=0)).reshape(count, -1) - pool.fx[:count]
    noise = SIGNIFICANT * math.sqrt(2) * (math.sqrt(len(steps)) + math.sqrt(count))
    triangle, order = linalg.qr(np.nan_to_num(change).T, mode="r", pivoting=True)
    own = np.abs(np.diag(triangle))
    shown = own > max(noise, length * state.doubt() * math.sqrt(len(steps)), AS_NEW * own[0])
    return np.asarray(order[: max(1, int(np.argmin(np.append(shown, False))))], dtype=np.intp)


def _most_telling(ask: Asker, state: State, pool: Places, threshold: float) -> Places:
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


def _take(ask: Asker, state: State, places: Places) -> tuple[State, bool]:
    """Ask for the gradients at places and keep what is new; False if nothing in them stands out of their noise."""
    frame = SparseFrame(state.known)
    slope, fine, coarser = slopes(ask, frame, places, state.steps.step)
    if not fine.any():
        return state, True
    fine &= coarser <= SHORTER * coarser[fine].min()
    places, slope, coarser = places[fine], slope[fine], coarser[fine]
    # Of each as much as has the noise of the quietest.
    slope /= (coarser / coarser.min())[:, None, None]
    known, noise = state.known, float(coarser.min()) * state.steps.slope_noise
    gradients = frame.spread(slope.swapaxes(1, 2).reshape(-1, frame.count))
    typical = state.typical or float(np.sqrt(np.mean(gradients**2, axis=1)).max())
    # Where rounding is far below the signal, what a breakpoint too small for the test has left is the larger error.
    error = max(noise, typical * state.row_error * (1.0 if state.steps.clean else 0.5))
    certain = CERTAIN[state.steps.clean] * error * math.sqrt(frame.count)
    known = known.with_gradients(gradients, noise, certain)
    if known.rank == state.rank:
        return replace(state, typical=typical), False
    row_error = float(np.linalg.norm(known.mixing))
    return replace(
        state,
        known=known,
        typical=typical,
        places=state.places.joined(places),
        taken=state.taken + len(places),
        gradients=None,
        measured=False,
        confirmed=0,
        passes=0,
        row_error=row_error,
        # Principal angles: the rows' error seen from an orthonormal basis.
        predicted=min(1.0, row_error * math.sqrt(known.n)),
    ), True


def confirm(ask: Asker, state: State, needed: int) -> tuple[State, Places]:
    """Look at fresh points until enough in a row show nothing new.

    Returns:
        The state, and places that showed something, with their far ends: what switches on along the way has no gradient
        at the point, but one at the other end. The state's `leak` is then the largest slope that was seen.

    Queries: `2 * needed`, and 1 for each finding, which must show twice
    """
    while state.confirmed < needed:
        count = min(BATCH, needed - state.confirmed)
        here = ask.draw(count, state.steps.margin)
        slope, new, far, excess = _hidden_slope(ask, state, here, LONGER * state.steps.probe)
        again = np.flatnonzero(new)
        if len(again):
            # Rounding varies from point to point: a finding must show twice, and above the noise it has there.
            twice = ask.heard(here[again])
            slope[again], new[again], far, _ = _hidden_slope(ask, state, twice, 2 * LONGER * state.steps.probe)
        if new.any():
            found = np.flatnonzero(new)[:POOL]
            ends = np.flatnonzero(new[again])[:POOL]
            seen = float(slope[new].max())
            return replace(state, confirmed=0, outside=seen), here[found].joined(far[ends])
        answered = np.isfinite(slope)
        if not answered.any():
            continue  # ends: too many missing answers are an error
        count = int(answered.sum())
        before = state.confirmed * state.excess
        state = replace(
            state,
            outside=float(np.sqrt(np.mean(slope[answered] ** 2))),
            excess=(before + count * excess) / (state.confirmed + count),
            confirmed=state.confirmed + count,
            doubted=state.doubt(),
        )
    return state, ask.places(np.empty((0, ask.oracle.n)))


def _hidden_slope(
    ask: Asker, state: State, here: Places, longest: float
) -> tuple[np.ndarray, np.ndarray, Places, float]:
    """Slope along one random complement direction per point, and whether it is more than noise and known error.

    Returns:
        Both, the far ends, and the mean square change in units of the noise. NaN where the far end has no answer.
    """
    direction = state.known.complement(ask.rng.standard_normal(here.x.shape))
    length = clipped_step(ask.oracle, here.x, direction, longest)
    far = ask.places(ask.oracle.nearest(here.x + length[:, None] * direction))
    change = far.fx * far.sigma / here.sigma - here.fx
    noise = np.sqrt(1 + (far.sigma / here.sigma) ** 2)
    slope = np.abs(change).max(axis=1) / np.abs(length)
    significance = np.abs(change / noise).max(axis=1)
    new = (significance > SIGNIFICANT) & (slope > state.doubt())
    seen = np.isfinite(slope)
    excess = float(np.mean((change[seen] / noise[seen]) ** 2)) if seen.any() else 0.0
    return slope, new, far, excess


def left_out(ask: Asker, state: State) -> float:
    """Root mean square share of the gradient outside the span, from slopes at fresh points, outputs weighing alike.

    Of what noise makes of the slopes the mean is taken off, less what may hide below it. 1 if no slope stands out.

    Queries: `REST * (1 + 3 * TURNS)`, two thirds of the last where the span is empty, none where it is full
    """
    n, r = state.known.n, state.rank
    if r >= n:
        return 0.0
    here = ask.draw(REST, state.steps.margin)
    size = float(np.sqrt(np.mean(here.x**2))) or 1.0
    far = float(np.clip(state.harmless / max(state.row_error, 1e-300), state.steps.probe, FARTHEST * size))
    # What is missing shows in short steps, and in long ones what their noise may hide.
    outside = _mean_square(ask, state, here, None, state.steps.probe)
    outside = np.maximum(outside, _mean_square(ask, state, here, None, far, HIDES)) * (n - r)
    if not r:
        return 1.0
    inside = _mean_square(ask, state, here, state.known.basis, max(state.basis_step, state.steps.step)) * r
    every = outside + inside
    alive = every > 1e-6 * every.max()
    return float(np.sqrt(np.mean(outside[alive] / every[alive]))) if alive.any() else 1.0


def _mean_square(
    ask: Asker, state: State, here: Places, basis: np.ndarray | None, length: float, least: float = 0.0
) -> np.ndarray:
    """Mean square slope of each output along random directions of the span (or of its complement), without noise.

    At least that of a mean square change of `least` in units of the noise: rounded answers may not differ at all.
    """
    n, r = state.known.n, state.rank
    total = np.zeros(ask.oracle.m)
    for _ in range(TURNS):
        direction = ask.rng.standard_normal((len(here), n if basis is None else r))
        direction = state.known.complement(direction) if basis is None else direction @ basis
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        step = clipped_step(ask.oracle, here.x, direction, length)
        asked = ask.oracle.nearest(here.x + step[:, None] * direction)
        moved = np.maximum(np.linalg.norm(asked - here.x, axis=1), 1e-300)
        change = (ask(asked, here.sigma) - here.fx) ** 2
        square = np.maximum(change - 2, 0.0) / moved[:, None] ** 2
        seen = np.isfinite(square).all(axis=1)
        mean = np.sum(square[seen], axis=0) / max(int(seen.sum()), 1)
        total += np.maximum(mean, least / float(np.median(moved)) ** 2) / TURNS
    return total
