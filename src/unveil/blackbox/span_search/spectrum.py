"""Spans of spectra without a gap, and what share of the gradient a span leaves out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.span_search.points import Asker, Places, clipped_step
from unveil.blackbox.span_search.refinement import coordinates
from unveil.blackbox.span_search.state import Goal, State

SPECTRUM_POINTS, LEAST_POINTS = 64, 8  # at which gradients are taken to judge a falling spectrum
GRADIENTS = 4096  # that suffice for it, however many directions there are
SPECTRUM_FALL = 1e-4  # the smallest new component over the largest, from which a full rank is doubted
UNSETTLED = 1e-3  # accuracy at which clean answers should have settled
REST = 48  # fresh points at which what was left out is measured
# Mean square change, in units of the noise, that may hide below it: its standard deviation.
HIDDEN_SQUARE_CHANGE = math.sqrt(8 / REST)
FARTHEST = 3.0  # longest step, in multiples of the typical coordinate of a point
TURNS = 2  # random directions per point


def falls(state: State, goal: Goal) -> bool:
    """Whether new components shrink step by step with no gap: not by rounding, yet refinement does not settle."""
    if not state.steps.clean or len(state.known.sizes) < 2:
        return False
    if state.full:
        return min(state.known.sizes) < SPECTRUM_FALL * max(state.known.sizes)
    return state.accuracy > max(goal.accuracy, UNSETTLED)


def truncate(ask: Asker, state: State, goal: Goal) -> State:
    """The smallest span whose complement holds at most a share of the gradient, as active subspaces are chosen.

    Queries: `SPECTRUM_POINTS * (r + 2)`, more at breakpoints; fewer where there are many outputs, down to those of
    LEAST_POINTS
    """
    count = min(SPECTRUM_POINTS, max(LEAST_POINTS, math.ceil(GRADIENTS / ask.oracle.m)))
    places, c = coordinates(ask, state.known.basis, ask.draw(count, state.steps.margin), state.basis_step)
    if len(c) < 2 or not c.any():
        return replace(state, accuracy=1.0, measured=True)
    # (of many gradients the triangle, which has the same singular values and right vectors)
    _, values, right = np.linalg.svd(np.linalg.qr(c, mode="r"), full_matrices=False)
    outside = len(places) * (state.known.n - state.rank) * state.outside**2
    energy = np.cumsum(values[::-1] ** 2)[::-1] + outside
    rest = np.sqrt(np.append(energy[1:], outside) / energy[0])
    keep = 1 + int(np.argmax(rest <= max(goal.leave_out, rest[-1])))
    # What is left out turns the weakest direction kept by at most its own size over that one's.
    turned = min(1.0, float(rest[keep - 1] * math.sqrt(energy[0]) / values[keep - 1]))
    return state.with_span(
        right[:keep] @ state.known.basis,
        gradients=(places, c @ right[:keep].T),
        values=values / values[0],
        floor=state.noise_floor(c) / float(values[0]),
        row_error=max(turned, 1e-12) / math.sqrt(state.known.n),
        accuracy=turned,
        left_out=float(rest[keep - 1]),
        measured=False,
    )


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
    outside = np.maximum(outside, _mean_square(ask, state, here, None, far, HIDDEN_SQUARE_CHANGE)) * (n - r)
    if not r:
        return 1.0
    inside = _mean_square(ask, state, here, state.known.basis, max(state.basis_step, state.steps.step)) * r
    every = outside + inside
    alive = every > 1e-6 * every.max()
    return float(np.sqrt(np.mean(outside[alive] / every[alive]))) if alive.any() else 1.0


def _mean_square(
    ask: Asker, state: State, here: Places, basis: Float[np.ndarray, "r n"] | None, length: float, least: float = 0.0
) -> Float[np.ndarray, " m"]:
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
