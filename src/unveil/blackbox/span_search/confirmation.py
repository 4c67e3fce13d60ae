"""Confirmation: fresh points that show nothing new, and how much of the gradient lies outside a span."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from unveil.blackbox.span_search.growth import POOL, SIGNIFICANT
from unveil.blackbox.span_search.points import Asker, Places, clipped_step
from unveil.blackbox.span_search.state import State

BATCH = 64
REST = 48  # fresh points at which what was left out is measured
LONGER = 4.0  # probes than those that chose where to take a gradient: they lie in the complement, where little bends
HIDES = math.sqrt(8 / REST)  # mean square change, in units of the noise, that may hide below it: its standard deviation
FARTHEST = 3.0  # longest step, in multiples of the typical coordinate of a point
TURNS = 2  # random directions per point


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
        if len(again):  # rounding varies from point to point: a finding must show twice
            slope[again], new[again], far, _ = _hidden_slope(ask, state, here[again], 2 * LONGER * state.steps.probe)
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
