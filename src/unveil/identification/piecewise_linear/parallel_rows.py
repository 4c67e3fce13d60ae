"""across_parallel: hyperplanes of one layer that training made parallel, and close to each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.probe import Probe

# Coordinates from which on normals near each other are taken for parallel, and one minus the cosine of such.
PARALLEL_COORDINATES, PARALLEL_NORMAL_MISS = 8, 1e-12
LINES, GROUP_PLACE_POOL = 2, 400  # lines across each group, and places among which the roomiest are chosen
# How far from the middle the normal is measured on either side, as a share of the room there, how far steps go, and
# how much of that room the group may take.
OUT, GROUP_STEP_SHARE, GROUP_ROOM_SHARE = 0.6, 0.2, 0.3
OTHER_NORMAL_ERRORS = 30.0  # a normal measured so many errors away from what it was is another's


def across_parallel(probe: Probe, frame: Frame, found: LayerFound) -> tuple[LayerFound, list[Line]]:
    """Lines straight across parallel hyperplanes, away from all others, and the common normal measured on both sides.

    As far apart as on such lines these hyperplanes are met nowhere else, and no direction shows that one is missing.
    Between them steps are short, and a normal is vague. Queries: those of `line_search` for `LINES` of each group, and
    of `derivatives` at two points.
    """
    alike = np.abs(found.rows @ found.rows.T) > 1 - PARALLEL_NORMAL_MISS
    firsts = np.flatnonzero((alike.sum(axis=1) > 1) & ~np.tril(alike, -1).any(axis=1))
    lines: list[Line] = []
    for i in firsts:
        group = np.flatnonzero(alike[i])
        base, step = _straight_across(probe, frame, found.straight, alike[i])
        some = line_search(probe.ask, base, step, -1.0, 1.0, probe.noise, probe.rng)
        lines += some
        # Another one's breakpoint on the way would be in the change of slopes.
        calm = [
            line
            for line in some
            if not ((np.abs(line.t) > GROUP_ROOM_SHARE) & (np.abs(line.t) < OUT + GROUP_STEP_SHARE)).any()
        ]
        if calm:
            found = found.with_rows(_with_normal(probe, frame, found.straight, group, calm[0]))
    return found, lines


def _straight_across(
    probe: Probe, frame: Frame, planes: Hyperplanes, group: Bool[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, "L n"], Float[np.ndarray, "L n"]]:
    """Points amid a group of hyperplanes, and steps across it as far as to the next one of the others."""
    row, middle = planes.rows[group.argmax()], float(np.median(planes.bias[group] * _turn(planes, group)))
    pool = frame.sample(GROUP_PLACE_POOL, probe.rng)
    pool = pool - (frame.values(pool) @ row + middle)[:, None] * (frame.V @ row)
    room = np.abs(planes.sums(frame, pool))[:, ~group].min(axis=1, initial=1.0)
    best = np.argsort(-room)[:LINES]
    return pool[best], room[best, None] * (frame.V @ row)


def _turn(planes: Hyperplanes, group: Bool[np.ndarray, " k"]) -> Float[np.ndarray, " g"]:
    """Which way each of a group looks, seen from the first."""
    return np.asarray(np.sign(planes.rows[group] @ planes.rows[group.argmax()]))


def _with_normal(
    probe: Probe, frame: Frame, planes: Hyperplanes, group: Int[np.ndarray, " g"], line: Line
) -> Hyperplanes:
    """These hyperplanes, those of a group with the normal that is seen from both sides of it."""
    row, size = planes.rows[group[0]], float(np.linalg.norm(line.direction))
    ends = np.stack([line.base - OUT * line.direction, line.base + OUT * line.direction])
    slope, blur = derivatives(probe, frame, ends, np.full(2, GROUP_STEP_SHARE * size / 3))
    if not np.isfinite(blur).all():
        return planes
    _, s, vt = np.linalg.svd(slope[1] - slope[0], full_matrices=False)
    new = vt[0] * np.sign(vt[0] @ row)
    error = float(np.hypot(*blur)) * np.sqrt(frame.d) / float(s[0])
    known = float(planes.error[group].min())
    if error > known or np.linalg.norm(new - row) > OTHER_NORMAL_ERRORS * known:
        return planes
    which = np.isin(np.arange(len(planes)), group)
    rows = _turn(planes, which)[:, None] * new
    better = Hyperplanes.through(frame, planes.at[group], rows, planes.jump[group], np.full(len(group), error))
    met = better.crossing(frame, line)
    # Here they are near the origin, and an error of the normal is hardly one of where they are.
    near = better.at.copy()
    near[met[met >= 0]] = line.points[met >= 0]
    better = Hyperplanes.through(frame, near, rows, better.jump, better.error)
    return planes.replaced({int(i): better[np.array([q])] for q, i in enumerate(group)})
