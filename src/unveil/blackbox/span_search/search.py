"""The search: probe, grow, refine, confirm, measure, conclude; every loop ends by itself at a cost told in advance."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from unveil.blackbox.span_search import lattice
from unveil.blackbox.span_search.accuracy import SAFETY, judge, measure, price
from unveil.blackbox.span_search.candidates import POOL
from unveil.blackbox.span_search.growth import CONFIRMING_BATCH, confirm, grow, steepness
from unveil.blackbox.span_search.known import Known
from unveil.blackbox.span_search.points import Asker, LimitReached, Places, most_queries
from unveil.blackbox.span_search.probe import jumps, refusal, slopes_between, undecided
from unveil.blackbox.span_search.refinement import MOST_PASSES, drop_spurious, refine, replenish, sharpen
from unveil.blackbox.span_search.spectrum import falls, left_out, truncate
from unveil.blackbox.span_search.state import OVERLOOKED, Goal, State, first_steps
from unveil.outcome import BudgetExceeded, Outcome

DIRECTION_LOOKS = 6  # for missing directions, each with the error measured after the one before
GRADIENT_DOUBLINGS = 2  # of twice as many gradients, before they must have helped
GAIN = 0.6  # of the error before, from which twice as many gradients have helped
# Times the accuracy asked for, that chance and the square root of twice as many gradients overcome.
NEAR_ACCURACY_FACTOR = 3.0
STALLED_ROUNDS = 8  # rounds without a new direction or a smaller error after which a look ends
EXCESS = 4.0  # mean square change along the complement, in units of the noise, that is no matter of noise
# Share of the gradient that a confirmation may put down to the span's own error without asking again.
HIDING_GRADIENT_SHARE = 1e-3


def search(ask: Asker, goal: Goal) -> State:
    """Find the span; what was found is measured also where the search was cut short.

    Args:
        ask: The oracle.
        goal: What is wanted.

    Queries: at most `points.most_queries` and then one measurement; never beyond the budget
    """
    ledger, start = ask.oracle.ledger, ask.oracle.ledger.asked
    state = State(Known.nothing(ask.oracle.n), first_steps(ask), _no_places(ask))
    ended, vouched, jumping = None, None, False
    try:
        with ask.stage("probe"):
            outcome = refusal(ask)
            jumping = outcome is None and jumps(ask)
            if jumping and not slopes_between(ask):
                outcome = Outcome.answers_in_steps
            if outcome is not None:
                return replace(state, outcome=outcome)
        looks = _looks if ask.oracle.grid is None else lattice.looks
        for found in looks(ask, state, goal):
            state, vouched = found, found if found.measured and found.rank else vouched
            _set_limit(ask, state, goal, start)
    except LimitReached:
        ended = Outcome.approximate
    except BudgetExceeded:
        ended = Outcome.budget_ended
    first = 0 if state.rank else state.known.n + 1  # what a first gradient takes
    if ended and ledger.left <= 2 * max(first, price(state.known.n, ask.oracle.m, state.rank, ask.smooth)):
        ended = Outcome.budget_ended
    ask.limit = np.inf
    try:
        with ask.stage("measuring"):
            if state.rank and not state.measured and ask.oracle.grid is None:
                state = measure(ask, state)
            if ended and vouched:  # it ended on the way to something better
                state = _best([vouched, state])
            if ask.oracle.unchanged() is False:
                return replace(state, accuracy=1.0, outcome=Outcome.model_changed)
        # What a jump depends on shows in no slope.
        hidden = jumping and not state.full
        state = replace(state, unsettled=state.unsettled or ended is not None or hidden)
        return _conclude(ask, state, goal, ended)
    except BudgetExceeded:
        return replace(state, accuracy=state.accuracy if state.measured else 1.0, outcome=Outcome.budget_ended)


def _no_places(ask: Asker) -> Places:
    empty = np.empty((0, ask.oracle.m))
    return Places.answered(np.empty((0, ask.oracle.n)), empty, empty)


def _set_limit(ask: Asker, state: State, goal: Goal, start: int) -> None:
    """The search's own limit, or what the budget leaves after one measurement of what has been found."""
    n, m, ledger = ask.oracle.n, ask.oracle.m, ask.oracle.ledger
    own = start + most_queries(n, max(state.taken, len(state.places)), goal.fresh)
    # One measurement is kept back; the one after it is not needed to conclude.
    kept = 0 if state.measured else price(n, m, state.rank, ask.smooth)
    if ask.oracle.grid is not None:
        own += lattice.WORTH
        kept = 0 if state.measured else lattice.price(n, m, state.rank)
    ask.limit = min(own, ledger.asked + ledger.left - kept)


def _looks(ask: Asker, state: State, goal: Goal) -> Generator[State, None, None]:
    """Look for directions, measure the error, and look again where more might hide than that error."""
    tried: list[State] = []
    yield state
    for look in range(DIRECTION_LOOKS + 1):
        state = yield from _look(ask, state, goal)
        if not state.rank or (state.full and state.measured):
            yield state
            return
        if state.gradients is not None and not state.steps.clean and not state.full:
            with ask.stage("refinement"):
                state = drop_spurious(ask, state)
                if state.passes < MOST_PASSES:
                    state = yield from refine(ask, state, goal.accuracy)
        with ask.stage("measuring"):
            # What was kept back for a measurement may now be spent on one.
            ask.limit += 0 if state.measured else price(ask.oracle.n, ask.oracle.m, state.rank, ask.smooth)
            state = yield from judge(ask, state, goal.accuracy)
        yield state
        ended = state.unsettled or state.full
        if state.accuracy > goal.accuracy and not state.steps.clean and state.gradients is not None:
            tried.append(state)
            if ended or look + 1 >= DIRECTION_LOOKS or not _worth(tried, goal, DIRECTION_LOOKS - 1 - look):
                with ask.stage("measuring"):
                    yield _again(ask, tried)
                return
            with ask.stage("refinement"):
                state = replenish(ask, replace(state, row_error=_row_error(state)))
        elif ended or look == DIRECTION_LOOKS:  # one more look than for the error: at what was put down to it before
            return
        elif _hiding(state):
            state = replace(state, row_error=_row_error(state), passes=MOST_PASSES, confirmed=0, moved=0)
        elif _unexplained(state) and state.gradients is not None:
            with ask.stage("refinement"):
                state, _ = sharpen(ask, replace(state, confirmed=0, excess=0.0))
        else:
            return
        yield state


def _look(ask: Asker, state: State, goal: Goal) -> Generator[State, None, State]:
    """Grow, refine and confirm in turn until fresh points show nothing new."""
    with ask.stage("first pass"):
        pool = ask.draw(0 if state.rank else POOL, state.steps.margin)
    stalls, most, least = 0, -1, np.inf
    while stalls < STALLED_ROUNDS:
        if len(pool):
            with ask.stage("first pass"):
                before = state.rank
                state = yield from grow(ask, state, pool)
                if state.rank == before and state.rank:
                    # Seen twice, yet no gradient could be taken: it is booked as error of the span.
                    state = replace(state, row_error=2 * state.row_error)
            if state.full and state.steps.clean:
                with ask.stage("measuring"):
                    surely = state.surely_full(steepness(ask, state))
                if surely:
                    return replace(state, measured=True, accuracy=0.0)
            if state.blurred:
                with ask.stage("refinement"):
                    state = yield from refine(ask, state, goal.accuracy)
        if state.full:  # by what a refinement found, perhaps
            return state
        if state.rank > most or state.row_error < least / 1.25:
            stalls, most, least = 0, max(most, state.rank), state.row_error
        else:
            stalls += 1
        with ask.stage("confirmation"):
            state, pool = confirm(ask, state, goal.fresh)
        if len(pool) and state.gradients is not None and state.passes < MOST_PASSES:
            # First suspect the span's own error, which one more pass removes, then a direction that was missed.
            suspected = state.outside / state.typical / OVERLOOKED
            with ask.stage("refinement"):
                state, _ = sharpen(ask, replace(state, row_error=max(state.row_error, suspected)))
            pool = pool[:0]
            yield state
            continue
        yield state
        if len(pool):
            continue
        if not state.rank or state.predicted <= goal.accuracy or state.passes >= MOST_PASSES:
            return state
        with ask.stage("refinement"):
            state = yield from refine(ask, state, goal.accuracy)
        state = replace(state, confirmed=0)
    return replace(state, unsettled=True)


def _worth(tried: list[State], goal: Goal, left: int) -> bool:
    """Whether twice as many gradients can be expected to help: they have, hardly were tried, or little is missing.

    They do not where walls end the steps, rounding alone explains the error, and will hide more than is asked for after
    all the doublings that are left.
    """
    *before, state = tried
    if state.accuracy <= NEAR_ACCURACY_FACTOR * state.least < 1 and state.least > 2 ** (left / 2) * goal.accuracy:
        return False
    if (
        len(before) < GRADIENT_DOUBLINGS
        or state.rank > before[-1].rank
        or state.accuracy <= NEAR_ACCURACY_FACTOR * goal.accuracy
    ):
        return True
    return state.accuracy <= GAIN * min(s.accuracy for s in before)


def _best(tried: list[State]) -> State:
    """The most accurate, but of a larger rank where that is about as accurate: it leaves less out."""
    least = min(state.accuracy for state in tried)
    return max((s for s in tried if s.accuracy <= SAFETY * least), key=lambda s: (s.rank, -s.accuracy))


def _again(ask: Asker, tried: list[State]) -> State:
    """The best, measured once more: the least of several measurements is too good by chance."""
    best = _best(tried)
    again = measure(ask, best)
    return replace(again, accuracy=max(again.accuracy, best.accuracy if again.rank == best.rank else 0.0))


def _row_error(state: State) -> float:
    """The rows' error as it was measured."""
    return state.accuracy / SAFETY / float(np.sqrt(state.known.n))


def _hiding(state: State) -> bool:
    """Whether slopes far above the span's measured error were put down to it when the last look was taken.

    Of answers with few digits any will do that changed them by more than noise; of others a large one. So will changes
    between usual inputs that show beside those of the answers, and a span that was looked at with other directions.
    """
    if not state.typical:
        return False
    if not state.confirmed or state.moved:
        return True
    floor = 0.0 if state.excess > EXCESS and not state.steps.clean else HIDING_GRADIENT_SHARE
    return state.doubted / state.typical > max(floor, 4 * OVERLOOKED * _row_error(state))


def _share(state: State) -> float:
    """Share of the gradient along the complement at the points that confirmed the span; 0 where it is noise."""
    n = state.known.n
    return state.outside / state.typical * math.sqrt((n - state.rank) / n) if state.excess > EXCESS else 0.0


def _unexplained(state: State) -> bool:
    """Whether answers changed along the complement by more than noise and more than the stated accuracy explains."""
    error = state.typical * math.sqrt(state.known.n) * state.accuracy
    return state.excess > EXCESS and state.outside > error


def _conclude(ask: Asker, state: State, goal: Goal, ended: Outcome | None) -> State:
    """The outcome: complete only if the measured accuracy is what was asked for and nothing may hide above it."""
    if ended is Outcome.budget_ended:
        return replace(state, outcome=ended)
    with ask.stage("measuring"):
        if not state.rank:
            outcome = undecided(ask)
            if state.unsettled and outcome is Outcome.nothing_to_find:
                outcome = Outcome.not_resolved
            return replace(state, outcome=outcome)
    if ask.oracle.grid is None and falls(state, goal):
        with ask.stage("spectrum"):
            state = truncate(ask, state, goal)
            if not state.full and not state.measured:
                turned, rest = state.accuracy, state.left_out
                state = measure(ask, state)
                state = replace(state, accuracy=max(turned, state.accuracy), left_out=max(rest, left_out(ask, state)))
        return replace(state, outcome=Outcome.approximate)
    # Every direction is in the span, so its error is none: but only where the weakest have shown a second time.
    if state.full and not state.unsettled and state.measured and state.accuracy == 0:
        return replace(state, outcome=Outcome.full_rank)
    if state.accuracy <= goal.accuracy and not state.unsettled and not _hiding(state):
        if _share(state) > state.accuracy:  # of the span as it was before it was refined for the last time, perhaps
            with ask.stage("confirmation"):
                state, more = confirm(ask, replace(state, confirmed=0, excess=0.0), CONFIRMING_BATCH)
            if len(more):
                state = replace(state, unsettled=True)
        settled = not state.unsettled and not _unexplained(state)
        # A direction that is left out turns the span by the share of the gradient that it holds.
        state = replace(state, accuracy=max(state.accuracy, SAFETY * _share(state)))
        if settled and state.accuracy <= goal.accuracy:
            return replace(state, outcome=Outcome.complete)
    if ask.oracle.grid is None:
        with ask.stage("measuring"):
            state = replace(state, left_out=left_out(ask, state))
    return replace(state, outcome=Outcome.approximate)
