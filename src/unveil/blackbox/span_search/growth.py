"""Growth: gradients taken in the complement of what is known, at the candidate point that shows most that is new."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from unveil.blackbox.span_search.directions import SparseFrame, slopes
from unveil.blackbox.span_search.points import Asker, Places
from unveil.blackbox.span_search.state import State, longest_probe

POOL = 8  # candidate points looked at for each gradient taken
SIGNIFICANT = 6.0  # standard deviations of the measured noise that count as a finding
CERTAIN = {True: 15.0, False: 3.0}  # errors that a new direction must exceed, where answers are clean and where not
UNKNOWN = 4.0  # times the reach that a probe may go while nothing is known
MOST_CROOKED = 30  # pools in a row in which no candidate's line was straight

Growing = Generator[State, None, State]


def grow(ask: Asker, state: State, pool: Places) -> Growing:
    """Take gradients until a pool of candidates shows nothing new.

    Args:
        ask: The oracle.
        state: What is known.
        pool: Candidate points to begin with.

    Yields:
        The state after each gradient that added something.

    Queries: about `r (n - r / 2) / m`, and `3 * POOL` for each gradient
    """
    crooked = 0
    while not state.full:
        if len(pool) < POOL:
            pool = pool.joined(ask.draw(POOL - len(pool), state.steps.margin))
        steps = state.steps
        slope, straight = screen(ask, state, pool)
        threshold = max(SIGNIFICANT / (math.sqrt(2) * steps.probe), state.doubt())
        longest = longest_probe(ask, steps)
        if slope.max() <= threshold:
            # While nothing is known, noise may hide the slopes: longer steps, but not to where nobody asks.
            longest = min(longest, UNKNOWN * steps.reach)
            if state.rank or steps.probe >= longest or straight.mean() <= 0.7:
                return state
            state = replace(state, steps=steps.times(min(2.0, longest / steps.probe)))
            continue
        if straight.mean() > 0.7 and not steps.bend and steps.probe < longest:
            # The more is known, the less the rest bends, and longer steps are less noisy.
            state = replace(state, steps=steps.times(1.5))
        score = np.where(straight, slope, 0.0)
        best = int(score.argmax())
        if score[best] <= threshold:
            crooked += 1
            if crooked % 3 == 0:  # no straight line in three pools: the regions are smaller than thought
                state = replace(state, steps=state.steps.times(0.5))
            if crooked > MOST_CROOKED:
                return state
            pool = pool[:0]
            continue
        state, useful = _take(ask, state, pool[best : best + 1])
        if not useful:
            return state
        yield state
        pool = pool[np.delete(np.arange(len(pool)), best)]
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


def _take(ask: Asker, state: State, place: Places) -> tuple[State, bool]:
    """Ask for the gradients at a place and keep what is new; False if nothing in them stands out of their noise."""
    frame = SparseFrame(state.known)
    slope, fine, coarser = slopes(ask, frame, place, state.steps.step)
    if not fine:
        return state, True
    known, noise = state.known, coarser * state.steps.slope_noise
    gradients = frame.spread(slope.T)
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
        places=state.places.joined(place),
        taken=state.taken + 1,
        gradients=None,
        measured=False,
        confirmed=0,
        passes=0,
        row_error=row_error,
        # Principal angles: the rows' error seen from an orthonormal basis.
        predicted=min(1.0, row_error * math.sqrt(known.n)),
    ), True
