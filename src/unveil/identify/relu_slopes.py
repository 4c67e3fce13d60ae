"""Derivatives on either side of breakpoints from noisy answers: few places, and steps as long as the pieces allow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.crossings import Breakpoints
from unveil.blackbox.noisy_crossings import limit
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identify.relu_frame import Frame

# Breakpoints whose slopes are told apart by the outputs worse than this are measured one at a time.
APART = 0.2
# Steps along one coordinate are sqrt(d) / LONGER times those of a random step; the few that leave the piece are
# repaired.
LONGER = 3.0
# Rounding of neighbouring answers, relative to that of answers far apart: close by, most of it is the same.
CALM = 0.4


def stations(
    line: Breakpoints, wanted: Bool[np.ndarray, " K"], explained: Bool[np.ndarray, " K"]
) -> list[tuple[np.ndarray, int, int]]:
    """Groups of wanted breakpoints, with the pieces before and after each group in which to differentiate.

    Nobody but the group and explained breakpoints lies between the two pieces, and the group's bends can be told apart
    by the outputs.
    """
    length = np.diff(line.edges)
    m = line.jump.shape[1]
    bend = line.jump / np.maximum(np.linalg.norm(line.jump, axis=1, keepdims=True), 1e-300)
    spoiled = np.flatnonzero(~wanted & ~explained)
    groups: list[tuple[np.ndarray, int, int]] = []
    edges = np.concatenate([[-1], spoiled, [len(wanted)]])
    for first, last in pairwise(edges):
        run = np.flatnonzero(wanted[first + 1 : last]) + first + 1
        if not len(run):
            continue
        # The longest piece before, between and after the wanted breakpoints of this run.
        ends = np.concatenate([[first], run, [last]])
        best = [a + 1 + int(np.argmax(length[a + 1 : b + 1])) for a, b in pairwise(ends)]
        start = 0
        while start < len(run):
            size = 1
            while start + size < len(run) and size < m:
                s = np.linalg.svd(bend[run[start : start + size + 1]], compute_uv=False)
                if s[-1] < APART:
                    break
                size += 1
            groups.append((run[start : start + size], best[start], best[start + size]))
            start += size
    return groups


def inside(line: Breakpoints, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A point in each of these pieces, and how far random steps may go."""
    lo, hi = line.edges[pieces], line.edges[pieces + 1]
    # The outermost pieces end where the search did, not at a breakpoint: stay where the numbers are small.
    lo = np.where(pieces == 0, np.maximum(lo, hi - 1 - np.abs(hi)), lo)
    hi = np.where(pieces == len(line.t), np.minimum(hi, lo + 1 + np.abs(lo)), hi)
    return (lo + hi) / 2, (hi - lo) / 4


def long_gradients(
    ask: Ask,
    frame: Frame,
    x: Float[np.ndarray, "P n"],
    radius: Float[np.ndarray, " P"],
    noise: Rounding,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "P m d"], Float[np.ndarray, " P"]]:
    """Derivatives along the frame's coordinates from steps to both sides, as long as the piece allows.

    Both sides tell for every coordinate by itself whether its step left the piece; a step that did is shortened.

    Args:
        ask: Answers questions.
        frame: The coordinates.
        x: Where.
        radius: How far random steps may be expected to stay in the piece.
        noise: How exact answers are.
        rng: Draws the random steps.

    Returns:
        The derivatives, and the error of each of them to be expected from rounding; infinite where steps had to become
        so short that nothing can be told.

    Queries: `2 P d` and about 9 P.
    """
    count, d = len(x), frame.d
    value, sigma = ask(x), noise.at(x)
    most = 2.5 * limit(value.shape[1])

    def leaves(rows: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        bend = (up + down - 2 * value[rows]) / sigma[rows]
        return np.asarray(np.sqrt((bend**2).mean(axis=1)) > most)

    radius = radius.copy()
    search = np.arange(count)
    for _ in range(12):
        out = np.zeros(len(search), dtype=bool)
        for _test in range(2):
            step = (radius[search, None] * rng.standard_normal((len(search), d))) @ frame.V.T
            out |= leaves(search, ask(x[search] + step), ask(x[search] - step))
        search = search[out]
        if not len(search):
            break
        radius[search] /= 2
    # A random step moves every neuron by its whole norm, one along a coordinate only by its share of it.
    reach = np.repeat((radius * max(1.0, np.sqrt(d) / LONGER))[:, None], d, axis=1)
    slope = np.zeros((count, value.shape[1], d))
    p, j = (v.ravel() for v in np.indices((count, d)))
    group = max(1, 4_000_000 // len(frame.V))
    for _ in range(8 if count else 0):
        again = []
        for first in range(0, len(p), group):
            a, b = p[first : first + group], j[first : first + group]
            step = reach[a, b, None] * frame.V.T[b]
            up, down = ask(x[a] + step), ask(x[a] - step)
            slope[a, :, b] = (up - down) / (2 * reach[a, b, None])
            again.append(leaves(a, up, down))
        bad = np.concatenate(again)
        p, j = p[bad], j[bad]
        if not len(p):
            break
        reach[p, j] /= 3
    error = CALM * 0.75 * sigma.max(axis=1) * np.sqrt((1 / reach**2).mean(axis=1))
    error[np.bincount(p, minlength=count) > 0] = np.inf
    return slope, error


def expected_error(
    frame: Frame, line: Breakpoints, base: np.ndarray, direction: np.ndarray, noise: Rounding
) -> Float[np.ndarray, " K"]:
    """Relative error of the normal that derivatives on both sides of each breakpoint would give."""
    x = base + line.t[:, None] * direction
    strength = np.sqrt(((line.jump / noise.at(x)) ** 2).sum(axis=1))
    length = np.diff(line.edges)
    room = np.minimum(np.minimum(length[:-1], length[1:]) / 4, 1 + np.abs(line.t))
    # Coordinate steps are room sqrt(d) / LONGER long; the normal is about jump / |dh| times a unit vector.
    size = strength / np.linalg.norm(frame.M @ direction)
    return np.asarray(CALM * 1.1 * np.sqrt(frame.d) / (size * room * max(1.0, np.sqrt(frame.d) / LONGER)))
