"""sharpened: rows of a layer measured again, each where its hyperplane is far from all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.identification.piecewise_linear.critical_point import across
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer_membership import on_plane
from unveil.identification.piecewise_linear.probe import Probe

# Rows measured again: one in so many, if their error is larger: where a derivative is cheap; with one output and with
# several, where it takes more than so many inputs, and where the next layers are read through them.
CHEAP, MANY = (2, 1e-10), 200
COSTLY, THROUGH = ((128, 1e-7), (32, 1e-7)), ((5, 1e-9), (5, 2e-10))
# Where a jump was vague rows are wrong along those met beside them: it pays to measure along these alone where they are
# at most this share of the coordinates, and along so many random directions that tell how wrong a row still is.
TANGLED, CHECKS = 0.25, 6
# How far on either side of a hyperplane, in units of the room there, slopes are measured: at first, and elsewhere if
# that was no good.
SHORTER = 0.5, 0.1, 0.02
# So many times further off than most is worse than rounding.
WORSE = 10.0
# Places among which the roomiest is chosen.
POOL = 400
# Less of a change of slopes along a normal is none.
FAINT = 1e-3


def worst_sharpened(probe: Probe, frame: Frame, found: LayerFound, *, few: bool = False) -> LayerFound:
    """With the few rows that came out worst measured again, between close breakpoints.

    Args:
        probe: Asks.
        frame: The coordinates of the layer.
        found: Its hyperplanes.
        few: The coordinates are few of the inputs', and other layers will be read through these rows.

    Queries: those of `sharpened` for one row in `SHARES`
    """
    many = probe.m > 1
    share, bad = THROUGH[many] if few else COSTLY[many] if frame.d > MANY else CHEAP
    error = found.straight.error
    worst = np.argsort(-error)[: max(1, len(error) // share)]
    return sharpened(probe, frame, found, worst[error[worst] > bad])


def _far_off(frame: Frame, planes: Hyperplanes) -> Float[np.ndarray, " k"]:
    """Errors of hyperplanes near the origin, to which those of their normals grow from where they were met."""
    return np.asarray(planes.error * (1 + np.linalg.norm(frame.values(planes.at), axis=1) / np.sqrt(frame.d)))


def untangled(probe: Probe, frame: Frame, found: LayerFound) -> LayerFound:
    """With the hyperplanes of many coordinates that are too far off near the origin measured again.

    Breakpoints close to each other on a line have vague jumps, and of the normals of their group each has something of
    the others in it: it is wrong along a few known directions. Random ones tell whether it is. A hyperplane with a good
    normal that was met far away is met once more.

    Args:
        probe: Asks.
        frame: The coordinates of the layer.
        found: Its hyperplanes.

    Queries: per row about `4 (m + CHECKS)`, about 14 where its normal is good; none where coordinates are no more than
        `MANY`, or rows met beside each other no small share of them
    """
    planes, count = found.straight, 2 * probe.m
    if frame.d <= MANY or count > TANGLED * frame.d or not len(planes):
        return found
    off = _far_off(frame, planes)
    # Measured again they come out as most did.
    bad = max(COSTLY[probe.m > 1][1], WORSE * float(np.median(off)))
    room, again = _Room(probe.rng, frame, planes), {}
    for i in np.flatnonzero(off > bad).tolist():
        row, error = planes.rows[i], float(planes.error[i])
        good = error <= bad
        near = np.argsort(np.linalg.norm(planes.at - planes.at[i], axis=1), kind="stable")
        basis = np.linalg.qr(planes.rows[near[1 : count + 1]].T)[0]
        checks = probe.rng.standard_normal((frame.d, CHECKS))
        checks /= np.linalg.norm(checks, axis=0)
        along = row[:, None] if good else np.column_stack([row, basis, checks])
        seen = _two_sides(probe, room, i, along)
        if seen is None:
            continue
        if not good:
            row = row + basis @ (seen.normal[1:-CHECKS] - basis.T @ row)
            row /= np.linalg.norm(row)
            wrong = np.sqrt(frame.d * ((seen.normal[-CHECKS:] - checks.T @ row) ** 2).mean())
            error = max(float(wrong), seen.error)
        better = _better(room, i, row, error, seen)
        if better is not None:
            again[i] = better
    return found.with_rows(planes.replaced(again))


def sharpened(probe: Probe, frame: Frame, found: LayerFound, which: Sequence[int] | np.ndarray) -> LayerFound:
    """With these rows measured again, where their hyperplane is far from all others and steps can be long.

    Queries: those of `derivatives` at two points per row, and two.
    """
    room, again = _Room(probe.rng, frame, found.straight), {}
    for i in map(int, which):
        # Where deeper neurons switch beside it another place, and a shorter step, may do.
        for turn in range(len(SHORTER)):
            seen = _two_sides(probe, room, i, None, turn)
            better = None if seen is None else _better(room, i, seen.normal, seen.error, seen)
            if better is not None:
                again[i] = better
                break
    return found.with_rows(found.straight.replaced(again))


class _Room:
    """Where each hyperplane is far from all others.

    Args:
        rng: Draws places.
        frame: The coordinates.
        planes: All hyperplanes.
    """

    def __init__(self, rng: np.random.Generator, frame: Frame, planes: Hyperplanes) -> None:
        self.rng, self.frame, self.planes = rng, frame, planes
        self.x = rng.standard_normal((POOL, len(frame.V))) if frame.free else np.empty((0, len(frame.V)))
        self.sums = planes.sums(frame, self.x)

    def on(self, i: int, turn: int) -> tuple[Float[np.ndarray, " n"], float]:
        """A point on one of them, another one each turn, and how far steps across it may go."""
        row = self.planes.rows[i]
        if self.frame.free:
            z, cosines = self.sums[:, i], self.planes.rows @ row
            sums = self.sums - np.outer(z, cosines)
        else:
            x = on_plane(self.frame, self.planes[np.full(POOL // 2, i)], self.rng)
            sums = self.planes.sums(self.frame, x)
        room = np.delete(np.abs(sums), i, axis=1).min(axis=1, initial=np.inf)
        best = int(np.argsort(-room)[turn])
        at = self.x[best] - z[best] * (self.frame.V @ row) if self.frame.free else x[best]
        return at, SHORTER[turn] * min(float(room[best]), 1.0)


@dataclass(frozen=True)
class _Sides:
    """What slopes on two sides of one hyperplane tell.

    Attributes:
        normal: (q,) of it along each direction.
        jump: (m,) change of the slope across it, per unit of the normal.
        at: (n,) where the two pieces meet.
        error: Expected error of the normal.
    """

    normal: Float[np.ndarray, " q"]
    jump: Float[np.ndarray, " m"]
    at: Float[np.ndarray, " n"]
    error: float


def _two_sides(
    probe: Probe, room: _Room, i: int, along: Float[np.ndarray, "d q"] | None, turn: int = 0
) -> _Sides | None:
    """Slopes beside a hyperplane where it is far from all others, along the columns or all coordinates.

    Args:
        probe: Asks.
        room: Where.
        i: Which.
        along: The first column is its normal; None: all coordinates.
        turn: How often that was no good so far.
    """
    frame, row = room.frame, room.planes.rows[i]
    x, reach = room.on(i, turn)
    step = reach * (frame.V @ row)
    both = np.stack([x - step, x + step])
    value = probe.ask(both)
    steps = frame if along is None else across(frame.V @ along)
    slope, blur = derivatives(probe, steps, both, np.full(2, reach / 3), value)
    if not np.isfinite(blur).all():
        return None
    u, s, vt = np.linalg.svd(slope[1] - slope[0], full_matrices=False)
    # Along the row itself slopes change by one jump; else the normal is a unit vector.
    strength = s[0] * (np.sign(vt[0] @ row) if along is None else vt[0, 0])
    if not abs(strength) > FAINT * s[0]:
        return None
    normal, jump = vt[0] * (s[0] / strength), strength * u[:, 0]
    # The two pieces meet on the hyperplane: how far along the step, in the output that bends most.
    left, right = 2 * reach * (u[:, 0] @ slope @ row if along is None else u[:, 0] @ slope[:, :, 0].T)
    part = (u[:, 0] @ (value[1] - value[0]) - right) / (left - right)
    at = both[0] + part * (both[1] - both[0])
    error = float(np.hypot(*blur)) * np.sqrt(frame.d) / abs(float(strength))
    return _Sides(normal, jump, at, error)


def _better(room: _Room, i: int, new: Float[np.ndarray, " d"], error: float, seen: _Sides) -> Hyperplanes | None:
    """One with this normal; None where it is far from what it was, or no better near the origin."""
    frame, here = room.frame, room.planes[np.array([i])]
    again = Hyperplanes.through(frame, seen.at[None], new[None], seen.jump[None], np.array([error]))
    allowed = 10 * here.error[0] + 1e-6
    if np.linalg.norm(new - here.rows[0]) > allowed:
        return None
    # Where a deeper neuron switches beside it, and back again, the two pieces meet elsewhere than on the hyperplane.
    between = np.linalg.norm(frame.values(here.at) - frame.values(seen.at[None]))
    if abs(again.sums(frame, here.at)[0, 0]) > allowed * (1 + between):
        return None
    return None if _far_off(frame, again) > _far_off(frame, here) else again
