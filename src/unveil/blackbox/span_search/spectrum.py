"""Spectra without a gap: the smallest span that leaves out no more of the gradient than allowed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from unveil.blackbox.span_search.directions import coordinates
from unveil.blackbox.span_search.points import Asker
from unveil.blackbox.span_search.refinement import noise_floor
from unveil.blackbox.span_search.state import Goal, State

POINTS = 64  # gradients from which a falling spectrum is judged
FALLING = 1e-4  # the smallest new component over the largest, from which a full rank is doubted
UNSETTLED = 1e-3  # accuracy at which clean answers should have settled


def falls(state: State, goal: Goal) -> bool:
    """Whether new components shrink step by step with no gap: not by rounding, yet refinement does not settle."""
    if not state.steps.clean or len(state.known.sizes) < 2:
        return False
    if state.full:
        return min(state.known.sizes) < FALLING * max(state.known.sizes)
    return state.accuracy > max(goal.accuracy, UNSETTLED)


def truncate(ask: Asker, state: State, goal: Goal) -> State:
    """The smallest span whose complement holds at most a share of the gradient, as active subspaces are chosen.

    Queries: `POINTS * (r + 2)`, more at breakpoints
    """
    places, c = coordinates(ask, state.known.basis, ask.draw(POINTS, state.steps.margin), state.basis_step)
    if len(c) < 2 or not c.any():
        return replace(state, accuracy=1.0, measured=True)
    _, values, right = np.linalg.svd(c, full_matrices=False)
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
        floor=noise_floor(state, c) / float(values[0]),
        row_error=max(turned, 1e-12) / math.sqrt(state.known.n),
        accuracy=turned,
        left_out=float(rest[keep - 1]),
        measured=False,
    )
