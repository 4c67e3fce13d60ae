"""The accuracy that is stated, measured with answers that did not go into the span; spans of spectra without a gap."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.span_search.complement import (
    MEASURING_STEP_SHARE,
    SKETCH,
    fresh_directions,
    sketch,
    walled,
    weighted_inverse,
)
from unveil.blackbox.span_search.points import Asker
from unveil.blackbox.span_search.refinement import coordinates, drop_spurious, gather, sharpen
from unveil.blackbox.span_search.state import State

SAFETY = 3.0  # the norm of a matrix is below this many times that of its product with SKETCH random directions, 99.9 %
ROUNDING_ERROR_SHARE = 0.6  # of what rounding alone would make of the error, at the least
ERROR_MEASUREMENTS = 8  # measurements of the error at most, with a pass of refinement between them while it halves
WEAK = 1000.0  # floors below which a direction must show again when it is asked with other steps
MOST_WEAK = 8
REPEATED_STEP_FACTORS = (0.6, 0.2)  # of the usual step, for those
SPARE_GRADIENTS = 2  # gradients at fresh places, at least, that the measured error must explain


def price(n: int, m: int, rank: int, smooth: bool = False) -> int:
    """Queries that one measurement takes, or a little less: kept back from a budget until the end.

    Where nothing is has_breakpoints, no change has to be looked at from the other side as well.
    """
    sides = 1 if smooth else 2
    return math.ceil((rank + SPARE_GRADIENTS) / m + 4) * (rank + 1 + sides * min(SKETCH, n - rank) + 4) + 16


def judge(ask: Asker, state: State, accuracy: float) -> Generator[State, None, State]:
    """Measure the error; refine while it is more than wanted and a further pass halves it.

    The least of several measurements is too good by chance: the largest of those that chance may tell apart is stated.

    Yields:
        The state after each measurement.

    Queries: `r^2 / m + 8 r / m` for each measurement, at most JUDGED of them, and a pass of refinement between two
    """
    seen: list[State] = []
    for attempt in range(ERROR_MEASUREMENTS):
        state = measure(ask, state)
        # Of another rank it is another span, whose error says nothing about that of this one.
        seen = [*(before for before in seen if before.rank == state.rank), state]
        best = min(seen, key=lambda s: s.accuracy)
        stated = max(s.accuracy for s in seen if s.accuracy <= 3 * best.accuracy)
        result = replace(best, accuracy=stated)
        yield result
        halved = len(seen) < 2 or state.accuracy <= 0.5 * seen[-2].accuracy
        last = attempt + 1 == ERROR_MEASUREMENTS
        if last or state.accuracy <= accuracy or not halved or state.full or state.gradients is None:
            break
        error = state.accuracy / SAFETY / math.sqrt(state.known.n)
        state, _ = sharpen(ask, replace(state, row_error=max(state.row_error, error)))
        if not state.steps.clean:
            state = drop_spurious(ask, state)
    if result.accuracy > accuracy >= state.accuracy and result.rank == state.rank:
        # The earlier measurements were of a span less sharp: the last one is measured a second time.
        again = measure(ask, state)
        result = replace(again, accuracy=max(state.accuracy, again.accuracy))
    return result


def measure(ask: Asker, state: State) -> State:
    """State the sine of the largest angle to the true span that answers along fresh directions show.

    A refinement explains the slopes at its own places as well as it can: what it cannot explain shows in the misfit
    there and at places that no refinement has used. Where directions are missing, the misfit is far above the noise,
    and the span errs by what a misfit of that size does to it.

    Queries: `N SKETCH` at N places, at most twice as many where a change stands out, and `r + 1` for each of them whose
        gradients are not known yet and for each of `ceil(SPARE_GRADIENTS / m)` fresh places
    """
    if state.gradients is None or len(state.gradients[1]) < state.rank:
        state = gather(ask, state)
        if state.gradients is None:
            return replace(state, accuracy=1.0, measured=True)
    state, share = _verify(ask, state)
    if state.full:
        return replace(state, accuracy=0.0, measured=True)
    places, c = state.gradients  # type: ignore[misc]
    n, r = state.known.n, state.rank
    directions, weights, mixing = fresh_directions(ask, state)
    slopes, usual = sketch(ask, state, directions)
    # The columns of c are in the order of the singular values; a column lost in noise tells nothing.
    blur = state.coarse * math.sqrt(len(c)) / np.maximum(np.linalg.norm(c / places.noise, axis=0), 1e-300)
    if blur.max() >= 1 or not np.isfinite(slopes).all():
        return replace(state, accuracy=1.0, measured=True)
    trust = np.clip(share, 0.02, 1.0) * np.sqrt(np.maximum(1 - blur**2, 0.05))
    plain = weighted_inverse(c, state.slope_weights(usual))
    misfit, missed = _misfit(ask, state, directions, weights, (slopes, usual), plain)
    inverse = np.linalg.solve(mixing, plain / trust[:, None])
    error = float(np.linalg.norm(inverse @ (slopes * weights), 2)) * math.sqrt((n - r) / len(directions))
    # Rounded answers may happen not to differ at all: then what their rounding can hide is the error.
    largest = float(np.linalg.norm(inverse, 2))
    hidden = largest * math.sqrt(2 * (n - r) * np.mean(weights**2)) / usual
    spread = math.sqrt(n - r) * max(largest * misfit, missed)
    stated = min(1.0, SAFETY * max(error, ROUNDING_ERROR_SHARE * max(hidden, spread)) + 4 * n * np.finfo(float).eps)
    if not math.isfinite(stated):
        stated = 1.0
    least = SAFETY * hidden if walled(usual, MEASURING_STEP_SHARE * state.farthest()) else 0.0
    return replace(state, accuracy=stated, least=least, measured=True)


def _misfit(
    ask: Asker,
    state: State,
    directions: Float[np.ndarray, "s n"],
    weights: Float[np.ndarray, " s"],
    sketched: tuple[Float[np.ndarray, "Nm s"], float],
    inverse: Float[np.ndarray, "r Nm"],
) -> tuple[float, float]:
    """Root mean square slope along the directions that no error of the span explains, at old and fresh places.

    Returns:
        It, and as a share of the gradient, outputs weighing alike: what a direction that is left out has there, which
        more places do not make less.
    """
    c = state.gradients[1]  # type: ignore[index]
    slopes, usual = sketched
    error = inverse @ slopes
    left = [state.slope_weights(usual) * (slopes - c @ error) * weights]
    inside = [state.slope_weights(usual) * c]
    count = max(0, len(c) - state.rank)
    fresh = ask.heard(ask.draw(math.ceil(SPARE_GRADIENTS / ask.oracle.m), state.steps.margin))
    places, rows = coordinates(ask, state.known.basis, fresh, state.basis_step, state.shorter, state.steps.central)
    if len(places):
        there = replace(state, gradients=(places, rows))
        beside, usual = sketch(ask, there, directions)
        left.append(there.slope_weights(usual) * (beside - rows @ error) * weights)
        inside.append(there.slope_weights(usual) * rows)
        count += len(rows)
    squares, size = (
        np.sum(np.square(np.vstack(parts)).reshape(-1, ask.oracle.m, parts[0].shape[1]), axis=(0, 2))
        for parts in (left, inside)
    )
    alive = size > 1e-6 * size.max()
    share = squares[alive] / size[alive] / len(directions) if alive.any() else np.zeros(1)
    return math.sqrt(float(squares.sum()) / (max(count, 1) * len(directions))), math.sqrt(float(share.mean()))


def _aligned(state: State) -> State:
    """The basis turned to the right singular vectors of its gradients, so that weak directions stand alone."""
    places, c = state.gradients  # type: ignore[misc]
    _, values, right = np.linalg.svd(c / places.noise, full_matrices=False)
    return state.with_span(
        right @ state.known.basis,
        gradients=(places, c @ right.T),
        values=values / values[0],
        floor=state.noise_floor(c) / float(values[0]),
    )


def _verify(ask: Asker, state: State) -> tuple[State, Float[np.ndarray, " r"]]:
    """How much of each weak direction comes back when it is asked with other steps; what noise had made is dropped.

    Returns:
        The state, and the share that came back, 1 where it was not asked.

    Queries: `N` for each weak direction, at least one, at most MOST_WEAK; twice where one does not come back
    """
    state = _aligned(state)
    places, c = state.gradients  # type: ignore[misc]
    values, m = np.linalg.norm(c / places.noise, axis=0), ask.oracle.m
    floor = state.noise_floor(c)
    weak = np.flatnonzero(values < WEAK * floor)[-MOST_WEAK:]
    weak = weak if len(weak) else np.array([len(values) - 1])
    directions = state.known.basis[weak]
    found, some = np.zeros(len(weak)), max(1, ask.block // len(weak))
    for factor in REPEATED_STEP_FACTORS:
        seen, told = np.zeros(len(weak)), np.zeros(len(weak))
        for start in range(0, len(places), some):
            here, gradients = places[start : start + some], c[start * m : (start + some) * m].reshape(-1, m, state.rank)
            x, sigma = (np.repeat(values, len(weak), axis=0) for values in (here.x, here.sigma))
            sign = ask.rng.choice([-1.0, 1.0], size=(len(here), len(weak), 1))
            asked = x + (sign * factor * state.basis_step * directions).reshape(x.shape)
            asked, answers = ask.step(x, ask.oracle.written(asked), sigma)
            change = answers.reshape(len(here), len(weak), m) - here.fx[:, None]
            inside = ((asked - x) @ state.known.basis.T).reshape(len(here), len(weak), -1)
            predicted = inside @ gradients.swapaxes(1, 2) / here.coarser[:, None, None]
            change = np.where(np.isfinite(change), change, 0.0) / here.coarser[:, None, None]
            seen += np.sum(change * predicted, axis=(0, 2))
            told += np.sum(predicted**2, axis=(0, 2))
        found = np.maximum(found, seen / np.maximum(told, 1e-300))
        if (found > 0.7).all():
            break
    share = np.ones(len(values))
    share[weak] = found
    keep = ~((share < 0.3) | ((share < 0.5) & (values < 30 * floor)))
    keep[0] |= not keep.any()
    if keep.all():
        return state, share
    return (
        state.with_span(
            state.known.basis[keep], gradients=(places, c[:, keep]), values=state.values[: int(keep.sum())], confirmed=0
        ),
        share[keep],
    )
