"""Derivatives on either side of breakpoints from noisy answers: few places, and steps as long as the pieces allow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.blackbox.line_search.fit import limit
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_membership import LayerFound

# Rows with a larger relative error are of no use: they predict nothing far away.
VAGUE = 0.1
# Breakpoints whose slopes are told apart by the outputs worse than this are measured one at a time.
APART = 0.2
# Steps along one coordinate are sqrt(d) / LONGER times those of a random step; the few that leave the piece are
# repaired.
LONGER = 3.0
# Rounding of neighbouring answers, relative to that of answers far apart: close by, most of it is the same.
CALM = 0.4


def normals(
    ask: Ask,
    frame: Frame,
    line: Line,
    explained: Int[np.ndarray, " K"],
    noise: Rounding,
    rng: np.random.Generator,
    found: LayerFound,
) -> tuple[
    Int[np.ndarray, " used"], Float[np.ndarray, "used d"], Float[np.ndarray, "used m"], Float[np.ndarray, " used"]
]:
    """Unit normals at breakpoints of one line that have room for it, from derivatives on either side.

    Args:
        ask: Answers questions.
        frame: The coordinates.
        line: The breakpoints.
        explained: The row of `found` that each breakpoint belongs to, or -1.
        noise: How exact answers are.
        rng: Draws test steps.
        found: The rows read before; gets the derivatives.

    Returns:
        Which breakpoints, their unit normals, the slope jumps per unit of these, and the relative errors expected.

    Queries: `2 d + 9` per piece next to a wanted breakpoint, fewer pieces where outputs tell bends apart.
    """
    m, dh = len(noise.floor), frame.M @ line.direction
    wanted = (explained < 0) & (expected_error(frame, line, noise) < VAGUE)
    groups = stations(line, wanted, explained >= 0)
    pieces = np.unique(np.array([piece for _, *ends in groups for piece in ends], dtype=int))
    where, radius = inside(line, pieces)
    x = line.inputs(where)
    slope, error = long_gradients(ask, frame, x, radius, noise, rng)
    fine = np.isfinite(error)
    found.at, found.slope = np.concatenate([found.at, x[fine]]), np.concatenate([found.slope, slope[fine]])
    used, rows, jumps, errors = [], [], [], []
    for group, before, after in groups:
        i, j = np.searchsorted(pieces, [before, after])
        change, blur = slope[j] - slope[i], float(np.hypot(error[i], error[j]))
        if not np.isfinite(blur):
            continue
        for p in range(before, after):
            if explained[p] >= 0:
                row = found.rows[explained[p]]
                change = change - np.outer(line.jump[p], row / (row @ dh))
        pinv = np.linalg.pinv(line.jump[group].T)
        for k, p in enumerate(group):
            normal = pinv[k] @ change
            size = float(np.linalg.norm(normal))
            e = float(np.linalg.norm(pinv[k])) * blur * np.sqrt(frame.d) / size
            # The bend along the line is known much better: where it differs, somebody else bends in between, too.
            off = abs(normal @ dh - 1) / (size * np.linalg.norm(dh) / np.sqrt(frame.d))
            if e < VAGUE and off <= 5 * e + 0.01:
                used.append(p)
                rows.append(normal / size)
                jumps.append(line.jump[p] * size)
                errors.append(e)
    return (
        np.array(used, dtype=int),
        np.array(rows).reshape(-1, frame.d),
        np.array(jumps).reshape(-1, m),
        np.array(errors),
    )


def stations(
    line: Line, wanted: Bool[np.ndarray, " K"], explained: Bool[np.ndarray, " K"]
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


def inside(line: Line, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def expected_error(frame: Frame, line: Line, noise: Rounding) -> Float[np.ndarray, " K"]:
    """Relative error of the normal that derivatives on both sides of each breakpoint would give."""
    x = line.points
    strength = np.sqrt(((line.jump / noise.at(x)) ** 2).sum(axis=1))
    length = np.diff(line.edges)
    room = np.minimum(np.minimum(length[:-1], length[1:]) / 4, 1 + np.abs(line.t))
    # Coordinate steps are room sqrt(d) / LONGER long; the normal is about jump / |dh| times a unit vector.
    size = strength / np.linalg.norm(frame.M @ line.direction)
    return np.asarray(
        CALM * 1.1 * np.sqrt(frame.d) / np.maximum(size * room * max(1.0, np.sqrt(frame.d) / LONGER), 1e-300)
    )
