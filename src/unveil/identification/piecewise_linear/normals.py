"""normals: of the hyperplanes that bend the answers along a line, from derivatives in the linear regions between."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Rounding
from unveil.identification.piecewise_linear.derivatives import CALM, TWO_SIDED, TWO_STEP_COORDINATES, derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.probe import Probe

LARGEST_NORMAL_ERROR = 0.1  # normals with a larger relative error are of no use: they predict nothing far away
# The change along the line is known much better than the normal: where it differs by more than so many errors and this,
# another hyperplane lies in between, too.
TRUE, NORMAL_DRIFT_ALLOWED = 5.0, 0.01
# Breakpoints whose slopes are told apart by the outputs worse than this are measured one at a time: errors grow with
# the inverse, which exact answers can afford.
GROUP_INDEPENDENCE = {True: 0.02, False: 0.2}
# A derivative in a short piece costs as much as so many more per factor of ten below this share of the usual length.
SHORT_PIECE_COST, SHORT_PIECE_SHARE = 1.0, 0.3


@dataclass(frozen=True)
class Group:
    """Breakpoints measured together."""

    which: Int[np.ndarray, " q"]  # breakpoints of the line
    before: int  # the piece in front of them in which to differentiate
    after: int  # the piece behind them


def normals(
    probe: Probe, frame: Frame, line: Line, crossing: Int[np.ndarray, " B"], found: LayerFound
) -> tuple[LayerFound, Hyperplanes]:
    """What was read, with derivatives, and hyperplanes of a line's breakpoints that none of those found crosses there.

    `crossing`: the hyperplane of `found` that each breakpoint belongs to, or -1. Left out are breakpoints whose normal
    would be too vague, or turns out to be of more than one hyperplane. Queries: those of `derivatives` in one piece
    more than there are groups of breakpoints, which are as large as the outputs tell apart; on a line without any, in
    the middle of it.
    """
    m, dh, exact = probe.m, frame.M @ line.direction, probe.noise.exact
    wanted = (crossing < 0) & (expected_error(frame, line, probe.noise) < LARGEST_NORMAL_ERROR)
    groups = grouped(line, wanted, crossing >= 0, GROUP_INDEPENDENCE[exact])
    pieces = np.unique([piece for each in groups for piece in (each.before, each.after)]).astype(int)
    if not len(pieces) and not len(line.t) and not found.lines:
        pieces = np.zeros(1, dtype=int)
    where, radius = inside(line, pieces)
    x = line.inputs(where)
    # What an exact line says need not be asked again; but all derivatives in a place share the error of its value.
    value = line.at(where) if exact and frame.free and len(line.t) > 0 and frame.d < TWO_STEP_COORDINATES else None
    slope, error = derivatives(probe, frame, x, radius, value)
    fine = np.isfinite(error)
    doubt = line.doubt[1:] ** 2 + line.doubt[:-1] ** 2
    found = found.with_derivatives(x[fine], slope[fine], error[fine])
    used, rows, jumps, errors = [], [], [], []
    for group in groups:
        i, j = np.searchsorted(pieces, [group.before, group.after])
        change, blur = slope[j] - slope[i], float(np.hypot(error[i], error[j]))
        if not np.isfinite(blur):
            continue
        # What the hyperplanes known add is known: jump (m) times normal (d).
        known = np.arange(group.before, group.after)
        known = known[crossing[known] >= 0]
        some = found.rows[crossing[known]]
        rate = some @ dh
        across = some / rate[:, None]
        change = change - line.jump[known].T @ across
        pinv = np.linalg.pinv(line.jump[group.which].T)
        every = pinv @ change
        # Where a jump is vague, or a normal known before, its neuron comes into the normals of the others.
        # Where the line hardly crosses that one, what its error makes of the rate counts for more than its own.
        turned = found.straight.error[crossing[known]] * np.hypot(1, np.linalg.norm(dh) / np.sqrt(frame.d) / rate)
        off = doubt[known] + (line.jump[known] * turned[:, None]) ** 2
        vague = pinv**2 @ (off.T @ (across**2).sum(axis=1))
        vague += np.where(np.eye(len(pinv)), 0, pinv**2 @ doubt[group.which].T) @ (every**2).sum(axis=1)
        for k, p in enumerate(group.which):
            normal = every[k]
            size = float(np.linalg.norm(normal))
            if size == 0:
                continue
            e = float(np.hypot(np.linalg.norm(pinv[k]) * blur * np.sqrt(frame.d), np.sqrt(vague[k]))) / size
            drift = abs(float(normal @ dh) - 1) / (size * float(np.linalg.norm(dh)))
            if e < LARGEST_NORMAL_ERROR and drift * np.sqrt(frame.d) <= TRUE * e + NORMAL_DRIFT_ALLOWED:
                used.append(p)
                rows.append(normal / size)
                jumps.append(line.jump[p] * size)
                errors.append(max(e, drift, 1e-15))
    at = line.points[np.array(used, dtype=int)]
    unit, jump = np.array(rows).reshape(-1, frame.d), np.array(jumps).reshape(-1, m)
    return found, Hyperplanes.through(frame, at, unit, jump, np.array(errors))


def grouped(line: Line, wanted: Bool[np.ndarray, " B"], crossed: Bool[np.ndarray, " B"], apart: float) -> list[Group]:
    """Wanted breakpoints in as few groups as the outputs tell apart, with long pieces around each.

    Only the group and hyperplanes known lie between the two pieces of a group. `wanted`: which are to be measured.
    `crossed`: which are hyperplanes known. `apart`: least singular value of the directions in which the outputs change
    in one group.
    """
    length = np.diff(line.edges)
    jumps = line.jump / np.maximum(np.linalg.norm(line.jump, axis=1, keepdims=True), 1e-300)
    spoiled = np.flatnonzero(~wanted & ~crossed)
    groups: list[Group] = []
    for first, last in pairwise([-1, *spoiled.tolist(), len(wanted)]):
        run = np.flatnonzero(wanted[first + 1 : last]) + first + 1
        if len(run):
            # The longest piece before, between and after the wanted breakpoints of this run.
            ends = [first, *run.tolist(), last]
            best = [a + 1 + int(np.argmax(length[a + 1 : b + 1])) for a, b in pairwise(ends)]
            groups += _cheapest(run, best, jumps, length, apart)
    return groups


def _cheapest(
    run: Int[np.ndarray, " q"],
    best: list[int],
    jumps: Float[np.ndarray, "B m"],
    length: Float[np.ndarray, " E"],
    apart: float,
) -> list[Group]:
    """The fewest groups of one run; among these, in long pieces."""
    usual, most = float(np.median(length)), _told_apart(jumps[run], apart)
    cost, back = np.zeros(len(run) + 1), np.zeros(len(run) + 1, dtype=int)
    for i in range(1, len(run) + 1):
        cost[i] = np.inf
        for q in range(1, most[i - 1] + 1):
            short = max(0.0, float(np.log10(SHORT_PIECE_SHARE * usual / length[best[i]])))
            if cost[i - q] + 1 + SHORT_PIECE_COST * short < cost[i]:
                cost[i], back[i] = cost[i - q] + 1 + SHORT_PIECE_COST * short, i - q
    cuts = [len(run)]
    while cuts[-1] > 0:
        cuts.append(int(back[cuts[-1]]))
    cuts.reverse()
    return [Group(run[i:j], best[i], best[j]) for i, j in pairwise(cuts)]


def _told_apart(jumps: Float[np.ndarray, "q m"], apart: float) -> Int[np.ndarray, " q"]:
    """For each breakpoint, how many that end with it the outputs tell apart."""
    most = np.ones(len(jumps), dtype=int)
    for q in range(2, min(jumps.shape) + 1):
        ends = np.flatnonzero(most[q - 1 :] == q - 1) + q - 1
        if len(ends):
            windows = jumps[ends[:, None] + np.arange(1 - q, 1)]
            most[ends[np.linalg.svd(windows, compute_uv=False)[:, -1] >= apart]] = q
    return most


def inside(line: Line, pieces: Int[np.ndarray, " P"]) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """A point in each of these pieces, and how far random steps may go along the line."""
    lo, hi = line.edges[pieces], line.edges[pieces + 1]
    # The outermost pieces end where the search did, not at a breakpoint: stay where the numbers are small.
    first, last = pieces == 0, pieces == len(line.t)
    lo, hi = (
        np.where(first, np.maximum(lo, np.where(last, 0, hi) - 2 * (1 + np.where(last, 0, np.abs(hi)))), lo),
        np.where(last, np.minimum(hi, np.where(first, 0, lo) + 2 * (1 + np.where(first, 0, np.abs(lo)))), hi),
    )
    return (lo + hi) / 2, (hi - lo) / 4


def expected_error(frame: Frame, line: Line, noise: Rounding) -> Float[np.ndarray, " B"]:
    """Relative error of the normal that derivatives on both sides of each breakpoint would give."""
    x = line.points
    strength = np.sqrt(((line.jump / noise.at(x, line.value)) ** 2).sum(axis=1))
    length = np.diff(line.edges)
    room = np.minimum(np.minimum(length[:-1], length[1:]) / 4, 1 + np.abs(line.t))
    # Steps along coordinates are as much longer; the normal is about jump / |dh| times a unit vector.
    size = strength / np.linalg.norm(frame.M @ line.direction)
    longer = max(1.0, np.sqrt(frame.d) / TWO_SIDED)
    return np.asarray(CALM * 1.1 * np.sqrt(frame.d) / np.maximum(size * room * longer, 1e-300))
