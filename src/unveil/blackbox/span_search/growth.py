"""Growth: gradients in the complement of what is known; confirmation: fresh points that show nothing new."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from unveil.blackbox.span_search import candidates
from unveil.blackbox.span_search.candidates import POOL, SIGNIFICANT, at_once, independent, screen
from unveil.blackbox.span_search.directions import SHORTER, SparseFrame, slopes
from unveil.blackbox.span_search.points import Asker, Places, clipped_step
from unveil.blackbox.span_search.state import State, longest_probe

CERTAIN = {True: 15.0, False: 3.0}  # errors that a new direction must exceed, where answers are clean and where not
UNKNOWN_REACH_FACTOR = 4.0  # times the reach that a probe may go while nothing is known
AS_STRONG = 0.5  # of the strongest slope, from which a place across the middle is taken before others
MOST_CROOKED = 30  # pools in a row in which no candidate's line was straight
CONFIRMING_BATCH = 64
NEARER = 0.8  # of a long step, at which what it met must show again
SHOWS = 0.01  # of the differences of answers to usual inputs, from which a change along the complement shows
LONGER = 4.0  # probes than those that chose where to take a gradient: they lie in the complement, where little bends

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
        wanted = POOL + at_once(ask, state) - 1
        if len(pool) < wanted:
            pool = Places.joined([pool, ask.draw(wanted - len(pool), state.steps.margin)])
        steps = state.steps
        slope, straight = screen(ask, state, pool)
        threshold = max(SIGNIFICANT / (math.sqrt(2) * steps.probe), state.doubt())
        longest = longest_probe(ask, steps)
        if slope.max() <= threshold:
            # While nothing is known, noise may hide the slopes: longer steps, but not outside what is usually asked.
            longest = min(longest, UNKNOWN_REACH_FACTOR * steps.reach)
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
            place, used = candidates.most_telling(ask, state, pool[order], threshold), order[:1]
        else:
            used = order[independent(ask, state, pool[order])]
            place = pool[used]
        state, useful = _take(ask, state, ask.heard(place))
        if not useful:
            return state
        yield state
        rest = pool[np.delete(np.arange(len(pool)), used)]
        # With fewer directions than outputs, the neurons active at the place have all shown: others rest there, and are
        # often active across the middle from it.
        across = ask.across(place) if state.rank - before < ask.oracle.m else pool[:0]
        pool, first = Places.joined([across, rest]), len(across)
    return state


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
        places=Places.joined([state.places, places]),
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

    Every other step is as long as two of the points are apart along the complement: where neurons are at rest, or
    probabilities have run out of digits, at most points, answers change between usual inputs and nowhere beside them.

    Returns:
        The state, and places that showed something, with their far ends: what switches on along the way has no gradient
        at the point, but one at the other end, or where `steepest` finds it. The state's `outside` is then the largest
        slope that was seen.

    Queries: `2 * needed`, and 1 for each finding, which must show twice; those of `steepest` for long steps
    """
    while state.confirmed < needed:
        count = min(CONFIRMING_BATCH, needed - state.confirmed)
        here, short = ask.draw(count, state.steps.margin), LONGER * state.steps.probe
        between = here.x - np.roll(here.x, 1, axis=0)
        apart = np.sqrt(np.maximum((between**2).sum(1) - ((between @ state.known.basis.T) ** 2).sum(1), 0))
        long = (np.arange(count) % 2 == 1) & (apart > 0)
        direction = state.known.complement(ask.rng.standard_normal(here.x.shape))
        lengths = np.where(long, apart, short)
        slope, new, far, change = candidates.hidden_slope(ask, state, here, direction, lengths)
        again = np.flatnonzero(new)
        if len(again):
            # Rounding varies from point to point: a finding must show twice, and above the noise it has there. What a
            # long step met lies along its own direction.
            twice, onward = ask.heard(here[again]), long[again]
            other = state.known.complement(ask.rng.standard_normal(twice.x.shape))
            direction = np.where(onward[:, None], direction[again], other)
            lengths = np.where(onward, NEARER, 2.0) * lengths[again]
            slope[again], new[again], far, _ = candidates.hidden_slope(ask, state, twice, direction, lengths)
        if new.any():
            found = np.flatnonzero(new)[:POOL]
            ends = np.flatnonzero(new[again])[:POOL]
            seen, places = float(slope[new].max()), [here[found], far[ends]]
            if long[found].any():
                places += candidates.steepest(ask, here[found[long[found]]], far[ends[long[found]]], short)
            return replace(state, confirmed=0, outside=seen), Places.joined(places)
        count, near = int(np.isfinite(slope).sum()), np.isfinite(slope) & ~long
        if not near.any():
            continue  # ends: too many missing answers are an error
        before = state.confirmed * state.excess
        usual = np.sqrt(np.mean(np.abs(here.fx - np.roll(here.fx, 1, axis=0)).max(axis=1) ** 2) / 2)
        moved = long & (np.abs(change).max(axis=1) > max(SIGNIFICANT, SHOWS * usual))
        state = replace(
            state,
            outside=float(np.sqrt(np.mean(slope[near] ** 2))),
            excess=(before + count * float(np.mean(change[near] ** 2))) / (state.confirmed + count),
            confirmed=state.confirmed + count,
            doubted=state.doubt(),
            moved=(state.moved if state.confirmed else 0) + int(moved.sum()),
        )
    return state, ask.places(np.empty((0, ask.oracle.n)))


def steepness(ask: Asker, state: State) -> float:
    """How many times as large as the first gradient the largest is of those at the places where gradients were taken.

    Of each only the part outside what was known was asked; what was known may have been a small part of a small one,
    and is off by its error times the whole gradient, as where a sigmoid is at rest at one place and steep at another.

    Queries: one for each place
    """
    places = state.places
    direction = ask.rng.standard_normal(places.x.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = clipped_step(ask.oracle, places.x, direction, state.steps.step)
    ends = ask.oracle.nearest(places.x + length[:, None] * direction)
    ends, answers = ask.step(places.x, ends, places.sigma)
    slope = np.abs(answers - places.fx).max(axis=1) / np.linalg.norm(ends - places.x, axis=1)
    return float(np.nanmax(slope, initial=0.0)) / state.typical
