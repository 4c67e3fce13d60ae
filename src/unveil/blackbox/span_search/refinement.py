"""Refinement: the gradients in coordinates of the basis, its rank, and passes over the whole complement."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg

from unveil.blackbox.span_search.candidates import screen
from unveil.blackbox.span_search.complement import complement_frame, slopes_along, walled, weighted_inverse
from unveil.blackbox.span_search.directions import BasisFrame, slopes
from unveil.blackbox.span_search.points import Asker, Places, clipped_step
from unveil.blackbox.span_search.state import CLEAR, State

STILL_BENT = 1e-4  # error beyond which steps leave the linear region here and there
SLOWEST = 0.06  # what is left of the error by a pass while they do
MOST_PASSES = 8  # of refinement, between two looks for directions that are missing
SPOILED = 4.0  # times the usual residual, from which a place is left out of a correction
GATHERINGS = 8  # rounds of further points, until their gradients determine every direction
GRADIENTS_PER_DIRECTION = 1.5  # gradients per direction that must remain
NEARLY = 0.5  # of the least singular value that must remain
PROGRESS = 0.8
UNEXPECTED = 8.0  # times the predicted error, which a pass rarely finds but where directions are missing
DEAR = 5000  # questions of a pass, several times those of the look that shows whether they are
ROUNDED = 2.0  # times what rounding makes of the error, down to which a pass takes more off than it puts back
LEADING = 0.2  # of the largest, from which others are taken with it
SLOPE_NOISE_FLOORS = 1.5  # floors of the noise above which slopes along the complement show a direction


def refine(ask: Asker, state: State, accuracy: float) -> Generator[State, None, State]:
    """Gather gradients, choose the rank, and ask the whole complement again until the prediction is good enough.

    Queries: `r (n - r) / m` for each pass, or `r n / m` in a box, at most MOST_PASSES of them
    """
    if state.gradients is None:
        state = gather(ask, state)
        if state.gradients is None:
            return replace(state, unsettled=True)
        state = choose_rank(_add_weak(ask, state))
        yield state
    previous, idle = np.inf, 0
    while state.predicted > accuracy and state.passes < MOST_PASSES and not state.full:
        expected = state.row_error
        state, before = sharpen(ask, state)
        yield state
        # Twice no progress: rounding is the limit, or directions are missing, which the confirmation will show.
        idle = idle + 1 if before > PROGRESS * previous or state.row_error > PROGRESS * before else 0
        dear = len(state.gradients[0]) * state.known.n > DEAR  # type: ignore[index]
        missing = dear and state.passes > 1 and before > UNEXPECTED * expected
        if missing or idle == 2 or accuracy < state.predicted <= ROUNDED * state.rounded:
            state = replace(state, passes=MOST_PASSES)
        previous = before
    return state


def coordinates(
    ask: Asker,
    basis: Float[np.ndarray, "r n"],
    places: Places,
    length: float,
    shorter: float = 0.0,
    central: bool = False,
) -> tuple[Places, Float[np.ndarray, "Nm r"]]:
    """Places at which gradients could be had in coordinates of a basis, and these gradients.

    Args:
        ask: The oracle.
        basis: Orthonormal rows.
        places: Where.
        length: Of a step.
        shorter: A second length, for places that met a breakpoint; 0 to leave them out.
        central: Whether both sides are asked, which takes twice as many queries.

    Queries: `N (r + 1)`, more at breakpoints
    """
    frame = BasisFrame(basis)
    some = max(1, ask.block // max(1, frame.count))
    asked = [slopes(ask, frame, places[i : i + some], length, central) for i in range(0, len(places), some)]
    if not asked:
        return places, np.empty((0, len(basis)))
    slope, fine, coarser = (np.concatenate(parts) for parts in zip(*asked, strict=True))
    for i in np.flatnonzero(~fine) if shorter else ():
        slope[i], fine[i], again = (v[0] for v in slopes(ask, frame, places[i : i + 1], shorter))
        coarser[i] = again * length / shorter
    return replace(places, coarser=coarser)[fine], slope[fine].swapaxes(1, 2).reshape(-1, len(basis))


def gather(ask: Asker, state: State) -> State:
    """Gradients in coordinates of the basis, at the places where they were taken and as many more as are needed.

    Places that met a breakpoint are left out, and directions that only they showed with them: others take their place.
    If none can be had, the state comes back without gradients.

    Queries: `(r + 1) r / m` or more
    """
    places, c = coordinates(ask, state.known.basis, state.places, state.basis_step, state.shorter, state.steps.central)

    def weak(c: np.ndarray) -> bool:
        least = np.linalg.svd(c / places.noise, compute_uv=False)[-1]
        return bool(least <= (CLEAR if state.steps.clean else 1.0) * state.noise_floor(c))

    for _ in range(GATHERINGS):
        missing = max(0, state.rank - len(c))
        if not missing and (len(places) == len(state.places) or not weak(c)):
            break
        fresh = ask.heard(ask.draw(2 + missing // ask.oracle.m, state.steps.margin))
        more, rows = coordinates(ask, state.known.basis, fresh, state.basis_step, state.shorter, state.steps.central)
        places, c = Places.joined([places, more]), np.vstack([c, rows])
    return replace(state, gradients=(places, c) if len(c) >= max(state.rank, 1) and c.any() else None)


def replenish(ask: Asker, state: State) -> State:
    """Twice as many gradients, where the worst-determined directions or something new show, and the rank chosen again.

    Queries: as `gather` takes for as many gradients again, and 36 for each place; `r (n - r) / m` for `widen`
    """
    extra = math.ceil(max(len(state.gradients[1]), state.rank) / ask.oracle.m / 2)  # type: ignore[index]
    if ask.smooth and not state.steps.central:
        state = replace(state, steps=state.steps.centred())
        state = replace(
            state,
            gradients=coordinates(ask, state.known.basis, state.gradients[0], state.basis_step, central=True),  # type: ignore[index]
        )
    unseen = ask.draw(12 * extra, state.steps.margin)
    slope, _ = screen(ask, state, unseen)
    state = _with_places(ask, _add_weak(ask, state, extra), unseen[np.sort(np.argsort(-slope)[:extra])])
    state = widen(ask, state)
    return replace(choose_rank(state), places=state.gradients[0], passes=0, confirmed=0)  # type: ignore[index]


def widen(ask: Asker, state: State) -> State:
    """With the directions that slopes along the complement show together, more than any error of the span explains.

    One probe does not show a direction that is weaker than the noise of a slope; the slopes of all gradients do.
    A direction must show without the place that shows it most: that place may have met a breakpoint.

    Queries: `N (n - r)` at N places, or `N n` in a box; `N (r + 1)` more where something was found
    """
    places, c = state.gradients  # type: ignore[misc]
    known, basis = state.known, state.known.basis
    # Along longer steps a missing direction is no longer one: its answers bend.
    frame, longest = complement_frame(ask, state, 1.0)
    slopes, usual = slopes_along(ask, frame, state, longest)
    weights = state.slope_weights(usual)
    rest = frame.spread(weights * (slopes - c @ (weighted_inverse(c, weights) @ slopes)))
    rest -= (rest @ basis.T) @ basis
    floor = math.sqrt(2) / usual * (math.sqrt(len(rest)) + math.sqrt(known.n - known.rank))
    left, values, right = np.linalg.svd(rest, full_matrices=False)
    shares = np.sum(left.reshape(len(places), -1, len(values)) ** 2, axis=1)
    others = values * np.sqrt(np.maximum(1 - shares.max(axis=0), 0))
    # Much smaller ones may be the error that the span has for want of the larger: they show the next time.
    new = right[(values > max(SLOPE_NOISE_FLOORS * floor, LEADING * values[0])) & (others > floor)][
        : known.n - known.rank
    ]
    if not len(new):
        return state
    wider = np.linalg.qr(np.vstack([basis, new]).T)[0].T
    places, c = coordinates(ask, wider, places, state.basis_step, central=state.steps.central)
    return state.with_span(wider, gradients=(places, c)) if len(c) >= len(wider) else state


def _add_weak(ask: Asker, state: State, extra: int = 0) -> State:
    """More places, those among many candidates whose gradients are large in the worst-determined directions."""
    places, c = state.gradients  # type: ignore[misc]
    m, rank = ask.oracle.m, state.rank
    # With many outputs a point costs little beside what it tells.
    share = 0.15 if state.steps.clean or m == 1 else 2.0
    extra = extra or max(1, round(share * rank / m))
    weak = (
        np.linalg.svd(c / places.noise, full_matrices=False)[2][-max(min(extra, rank // 3), rank // 6, 1) :]
        @ state.known.basis
    )
    more = ask.draw(12 * extra, state.steps.margin)
    direction = weak[ask.rng.integers(len(weak), size=len(more))]
    length = clipped_step(ask.oracle, more.x, direction, 4 * state.steps.step)
    ahead = ask(ask.oracle.nearest(more.x + length[:, None] * direction), more.sigma)
    size = np.nan_to_num(np.abs((ahead - more.fx) / length[:, None])).max(axis=1)
    return _with_places(ask, state, more[np.sort(np.argsort(-size)[:extra])])


def _with_places(ask: Asker, state: State, more: Places) -> State:
    places, c = state.gradients  # type: ignore[misc]
    more = ask.heard(more)
    more, rows = coordinates(ask, state.known.basis, more, state.basis_step, central=state.steps.central)
    return replace(state, gradients=(Places.joined([places, more]), np.vstack([c, rows])))


def choose_rank(state: State) -> State:
    """Drop directions that only noise had made, by the largest gap among singular values near the noise floor."""
    places, c = state.gradients  # type: ignore[misc]
    _, values, right = np.linalg.svd(c / places.noise, full_matrices=False)
    floor = state.noise_floor(c)
    keep = rank_above(values, floor)
    # In coordinates of the right singular vectors the gradients' own error does not grow with that of the basis.
    c = c @ right[:keep].T
    # Dropped directions took true parts of the others with them: while the noise is coarse, expect some times more.
    margin = 8.0 if state.blurred else 1.0
    noise = state.steps.slope_noise if state.steps.curvature else math.sqrt(2) / state.steps.first
    row_error = margin * noise * float(np.linalg.norm(np.linalg.pinv(c)))
    return state.with_span(
        right[:keep] @ state.known.basis,
        gradients=(places, c),
        values=values / values[0],
        floor=floor / float(values[0]),
        row_error=row_error,
        predicted=min(1.0, row_error * math.sqrt(state.known.n)),
        rounded=0.0,
        measured=False,
        passes=0,
    )


def rank_above(values: Float[np.ndarray, " s"], floor: float) -> int:
    """How many falling singular values are more than noise: all far above the floor, then up to the largest gap."""
    # Spurious directions hold remainders of true ones, some times the floor: the gap may begin that far up.
    clear = int(np.sum(values > CLEAR * floor))
    if clear == len(values):
        return max(1, clear)
    first = max(0, clear - 1)
    ratios = values / np.append(np.maximum(values[1:], floor), floor)
    return first + 1 + int(np.argmax(ratios[first:]))


def drop_spurious(ask: Asker, state: State) -> State:
    """Look at the gradients once more in the sharp basis: a direction that rounding had made shows nothing."""
    if state.gradients is None:
        return state
    places, c = coordinates(ask, state.known.basis, state.gradients[0], state.basis_step, central=state.steps.central)
    if len(c) < state.rank or not c.any():
        return state
    again = choose_rank(replace(state, gradients=(places, c)))
    if again.rank < state.rank:
        return replace(again, confirmed=0)
    return replace(
        again, row_error=state.row_error, predicted=state.predicted, rounded=state.rounded, passes=state.passes
    )


def sharpen(ask: Asker, state: State) -> tuple[State, float]:
    """One pass: slopes along the complement at all places, and the correction of the basis that explains them.

    If the true rows are Q + E, the slope of a gradient with coordinates c along a complement direction d is c E d.

    Returns:
        The state, and the rows' error before the pass, as one can tell afterwards.

    Queries: `N (n - r)` at N places, or `N n` in a box
    """
    places, c = state.gradients  # type: ignore[misc]
    basis, n, r = state.known.basis, state.known.n, state.rank
    frame, longest = complement_frame(ask, state)
    slopes, usual = slopes_along(ask, frame, state, longest)
    keep = _unspoiled(c, slopes, state.slope_weights(usual), len(places))
    rows = np.repeat(keep, ask.oracle.m)
    places, c, slopes = places[keep], c[rows], slopes[rows]
    state = replace(state, gradients=(places, c))
    weights = state.slope_weights(usual)
    inverse = weighted_inverse(c, weights)
    correction = frame.spread(inverse @ slopes)
    correction -= (correction @ basis.T) @ basis
    # What was corrected is the error there was: where the prediction had been too good, believe this instead.
    before = max(state.row_error, float(np.linalg.norm(correction)) / math.sqrt(n))
    size = float(np.sqrt(np.mean(np.sum(places.x**2, axis=1)))) or 1.0
    noise = math.sqrt(2) * (1 + usual / size) / usual
    left = min(1.0, state.coarse * float(np.linalg.norm(inverse * places.noise.T, 2)) * math.sqrt(r))
    if before * math.sqrt(n) > STILL_BENT:
        left = max(left, SLOWEST)
    # The polar factor, unlike QR, keeps the rows in place, so that the coordinates of the gradients stay true.
    sharper = np.asarray(linalg.polar(basis + correction)[0])
    worst = float(np.linalg.norm(inverse, 2)) * noise * (math.sqrt(n - r) + math.sqrt(r))
    row_error = float(np.linalg.norm(inverse)) * noise + left * before
    return state.with_span(
        sharper,
        gradients=(places, c),
        row_error=row_error,
        predicted=min(1.0, worst + left * before * math.sqrt(n)),
        rounded=worst if walled(usual, longest) else 0.0,
        measured=False,
        passes=state.passes + 1,
    ), before


def _unspoiled(
    c: Float[np.ndarray, "Nm r"], slopes: Float[np.ndarray, "Nm s"], weights: Float[np.ndarray, "Nm 1"], count: int
) -> Bool[np.ndarray, " N"]:
    """Places but those whose slopes no correction explains that explains the others: there a breakpoint was overlooked.

    One such place slows every pass, since the correction follows it. Places stay unless the others alone determine the
    span nearly as well: where most places have no slope at all, those that have one stand out without being spoiled.
    """
    every = np.ones(count, dtype=bool)
    if not count:
        return every
    unexplained = weights * (slopes - c @ (weighted_inverse(c, weights) @ slopes))
    size = np.sqrt(np.mean(unexplained.reshape(count, -1) ** 2, axis=1))
    keep = size <= SPOILED * np.median(size)
    rows = np.repeat(keep, len(c) // count)
    if keep.all() or rows.sum() < GRADIENTS_PER_DIRECTION * c.shape[1]:
        return every
    least, left = (np.linalg.svd(part, compute_uv=False)[-1] for part in (weights * c, (weights * c)[rows]))
    return keep if left > NEARLY * least else every
