"""sharpened, unmix: rows of a layer measured again where hyperplanes are far apart, or told by all derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.blackbox.breakpoints import line_search
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.far_places import on_plane
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.probe import Probe

# Rows measured again: one in so many, if their error is larger: where a derivative is cheap; with one output and with
# several, where it takes more than so many inputs, and where the next layers are read through them.
CHEAP_DERIVATIVES, COSTLY_INPUTS = (2, 1e-10), 200
COSTLY, THROUGH = ((128, 1e-7), (32, 1e-7)), ((5, 1e-9), (5, 2e-10))
# Places where a hyperplane is looked at before it is left as it was; how far on either side, as a share of the way to
# the next one of its layer and of that to a deeper one's; shorter ways than the last are no place.
SHARPENING_PLACES, OWN_LAYER_WAY_SHARE, DEEPER_WAY_SHARE, SHORTEST = 3, 0.5, 0.8, 0.02
WORSE_THAN_MOST_FACTOR = 10.0  # so many times further off than most is worse than rounding
ROOMY_PLACE_POOL = 400  # places among which the roomiest is chosen


def worst_sharpened(probe: Probe, frame: Frame, found: LayerFound, *, few: bool = False) -> LayerFound:
    """With the few rows that came out worst measured again, between close breakpoints.

    `few`: the coordinates are few of the inputs', and other layers will be read through these rows. Queries: those of
    `sharpened` for the share of the rows that is measured again.
    """
    many = probe.m > 1
    share, bad = THROUGH[many] if few else COSTLY[many] if frame.d > COSTLY_INPUTS else CHEAP_DERIVATIVES
    error = found.straight.error
    worst = np.argsort(-error)[: max(1, len(error) // share)]
    return sharpened(probe, frame, found, worst[error[worst] > bad])


def _far_off(frame: Frame, planes: Hyperplanes) -> Float[np.ndarray, " k"]:
    """Errors of hyperplanes near the origin, to which those of their normals grow from where they were met."""
    return np.asarray(planes.error * (1 + np.linalg.norm(frame.values(planes.at), axis=1) / np.sqrt(frame.d)))


def met_nearer(probe: Probe, frame: Frame, found: LayerFound) -> LayerFound:
    """With the hyperplanes that are too far off near the origin although their normals are good met once more: they
    were met far away. Queries: about 14 for each."""
    planes = found.straight
    if not len(planes):
        return found
    off = _far_off(frame, planes)
    # Met again they come out as most did.
    usual = WORSE_THAN_MOST_FACTOR * float(np.median(off))
    good = planes.error <= max(COSTLY[probe.m > 1][1], usual)
    far = np.flatnonzero(good & (off > max(THROUGH[probe.m > 1][1], usual)))
    again = _met_again(probe, _Room(probe.rng, frame, planes), dict.fromkeys(far.tolist(), _as_known))
    return found.with_rows(planes.replaced(again))


def sharpened(
    probe: Probe, frame: Frame, found: LayerFound, which: Sequence[int] | Int[np.ndarray, " w"]
) -> LayerFound:
    """With these rows measured again, where their hyperplane is far from all others and steps can be long. Queries:
    those of a line search, and of `derivatives` at two points, per row."""
    room = _Room(probe.rng, frame, found.straight)
    again = _met_again(probe, room, dict.fromkeys(map(int, which), _whole_normal))
    return found.with_rows(found.straight.replaced(again))


class _Room:
    """Where each hyperplane is far from all others. `frame`: the coordinates. `planes`: all hyperplanes."""

    def __init__(self, rng: np.random.Generator, frame: Frame, planes: Hyperplanes) -> None:
        self.rng, self.frame, self.planes = rng, frame, planes
        self.x = rng.standard_normal((ROOMY_PLACE_POOL, len(frame.V))) if frame.free else np.empty((0, len(frame.V)))
        self.sums = planes.sums(frame, self.x)

    def on(self, i: int, turn: int) -> tuple[Float[np.ndarray, " n"], float]:
        """A point on one of them, another one each turn, and how far steps across it may go."""
        row = self.planes.rows[i]
        if self.frame.free:
            z, cosines = self.sums[:, i], self.planes.rows @ row
            sums = self.sums - np.outer(z, cosines)
        else:
            x = on_plane(self.frame, self.planes[np.full(ROOMY_PLACE_POOL // 2, i)], self.rng)
            sums = self.planes.sums(self.frame, x)
        room = np.delete(np.abs(sums), i, axis=1).min(axis=1, initial=np.inf)
        best = int(np.argsort(-room)[turn])
        at = self.x[best] - z[best] * (self.frame.V @ row) if self.frame.free else x[best]
        return at, OWN_LAYER_WAY_SHARE * min(float(room[best]), 1.0)


class _Crossing(NamedTuple):
    """A stretch across a hyperplane on which answers bend there alone."""

    known: Hyperplanes  # (1) the hyperplane as it was known
    at: Float[np.ndarray, " n"]  # where it is met
    step: Float[np.ndarray, " n"]  # along its normal, to either end
    reach: float  # how long the step is


# A unit normal, how the slope changes across it, and the error expected of the normal.
_Normal = tuple[Float[np.ndarray, " d"], Float[np.ndarray, " m"], float]


_Measure = Callable[[Probe, Frame, _Crossing], _Normal | None]  # what measures it on a stretch across the hyperplane


def _met_again(probe: Probe, room: _Room, measures: dict[int, _Measure]) -> dict[int, Hyperplanes]:
    """Hyperplanes as they are seen at roomy places, without those that no place shows better than they are known."""
    left, again = dict(measures), dict[int, Hyperplanes]()
    for turn in range(SHARPENING_PLACES):
        for i, met in _crossings(probe, room, list(left), turn):
            seen = left[i](probe, room.frame, met)
            better = None if seen is None else _better(room.frame, met, *seen)
            if better is not None:
                again[i] = better
                del left[i]
    return again


def _crossings(probe: Probe, room: _Room, which: list[int], turn: int) -> Iterator[tuple[int, _Crossing]]:
    """Stretches across hyperplanes, as far from all others as they are seen to be; none where deeper ones are close."""
    if not which:
        return
    base, reach = (np.array(each) for each in zip(*(room.on(i, turn) for i in which), strict=True))
    direction = reach[:, None] * (room.planes.rows[which] @ room.frame.V.T)
    lines = line_search(probe.ask, base, direction, -1.0, 1.0, probe.noise, probe.rng)
    for i, line, length in zip(which, lines, reach.tolist(), strict=True):
        if not len(line.t) or len(line.unresolved):
            continue
        here = np.abs(line.t).argmin()
        others = np.abs(np.delete(line.t, here) - line.t[here])
        share = min(DEEPER_WAY_SHARE * float(others.min(initial=np.inf)), 1.0 - abs(float(line.t[here])))
        if share >= SHORTEST:
            yield i, _Crossing(room.planes[np.array([i])], line.points[here], share * line.direction, share * length)


def _as_known(probe: Probe, frame: Frame, met: _Crossing) -> _Normal:
    """Queries: `0`"""
    return met.known.rows[0], met.known.jump[0], float(met.known.error[0])


def _whole_normal(probe: Probe, frame: Frame, met: _Crossing) -> _Normal | None:
    """The normal, and how slopes change, from slopes on both sides along all coordinates."""
    both = np.stack([met.at - met.step, met.at + met.step])
    slope, blur = derivatives(probe, frame, both, np.full(2, met.reach / 3))
    if not np.isfinite(blur).all():
        return None
    u, s, vt = np.linalg.svd(slope[1] - slope[0], full_matrices=False)
    side = float(np.sign(vt[0] @ met.known.rows[0]))
    if not side * s[0]:
        return None
    error = float(np.hypot(*blur)) * np.sqrt(frame.d) / float(s[0])
    return side * vt[0], side * float(s[0]) * u[:, 0], error


def _better(
    frame: Frame, met: _Crossing, row: Float[np.ndarray, " d"], jump: Float[np.ndarray, " m"], error: float
) -> Hyperplanes | None:
    """One with this normal; None where it is far from what it was, or no better near the origin."""
    known = met.known
    again = Hyperplanes.through(frame, met.at[None], row[None], jump[None], np.array([error]))
    allowed = 10 * known.error[0] + 1e-6
    if np.linalg.norm(row - known.rows[0]) > allowed:
        return None
    # What was met may be a deeper neuron's breakpoint beside the hyperplane.
    between = np.linalg.norm(frame.values(known.at) - frame.values(met.at[None]))
    if abs(again.sums(frame, known.at)[0, 0]) > allowed * (1 + between):
        return None
    return None if _far_off(frame, again) > _far_off(frame, known) else again


# Alternations between mixtures and rows, and how often these begin anew with what is active by the rows they gave.
MIXTURE_ROUNDS, ACTIVITY_PASSES = 10, 2
# How many of its errors a row may go: these are estimates, of weak rows by a factor of three or four. And how many
# errors of the least squares a row is off, which take mixtures for exact.
ALLOWED_ROW_ERRORS, ROW_ERROR_FACTOR = 4.0, 10.0


def unmix(
    frame: Frame, found: LayerFound, layer: tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Sharper rows from all derivatives measured on the way, by alternating least squares.

    A row was first read off two of them; hundreds of others hold it too, in mixtures that are not known but easily
    found from nearly right rows. What was read counts as exactly as it was. `layer`: unit rows and biases,
    positive side active; no more rows than coordinates. Returns unit rows, biases, and errors of the rows.
    """
    rows, bias = layer
    error = found.straight.error
    if not len(rows) or not found.slope.any():
        return rows, bias, error
    for _ in range(ACTIVITY_PASSES):
        new, expected = _mixed(frame, found, (rows, bias))
        # A row that went further than its error came under what others lack.
        near = np.linalg.norm(new - layer[0], axis=1) <= ALLOWED_ROW_ERRORS * found.straight.error
        rows, error = np.where(near[:, None], new, layer[0]), np.where(near, expected, found.straight.error)
        shift = -np.einsum("kd,kd->k", rows, frame.values(found.straight.at))
        bias = np.where(near, shift, layer[1])
    return rows, bias, np.minimum(error, found.straight.error)


def _mixed(
    frame: Frame, found: LayerFound, layer: tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    """Unit rows that all derivatives agree on, and their errors."""
    rows, bias = layer
    active = frame.values(found.at) @ rows.T + bias > 0
    weight = np.ones(len(found.at))
    straight = found.straight
    read = np.sign(np.einsum("kd,kd->k", rows, straight.rows))[:, None] * straight.rows
    prior = frame.d / straight.error**2
    for _ in range(MIXTURE_ROUNDS):
        parts = np.zeros((len(found.at), found.slope.shape[1], len(rows)))
        for p, on in enumerate(active):
            if on.any():
                parts[p][:, on] = np.linalg.lstsq(rows[on].T, found.slope[p].T, rcond=None)[0].T
        left = np.sqrt(((found.slope - parts @ rows) ** 2).mean(axis=(1, 2)))
        # Derivatives from long steps are exact; from short ones, or where a neuron was missed, hardly worth a look.
        least = max(0.3 * float(np.median(left)), 1e-12 * float(np.abs(found.slope).max()))
        # Few of them leave hardly anything, whatever the rows: their own errors count then.
        weight = 1 / np.maximum(np.maximum(left, found.blur), least)
        C = (parts * weight[:, None, None]).reshape(-1, len(rows))
        S = (found.slope * weight[:, None, None]).reshape(-1, frame.d)
        gram = C.T @ C
        if not gram.any():
            return rows, found.straight.error
        # What was read counts as exactly as it was: few derivatives may say little of a row.
        factor = linalg.cho_factor(gram + np.diag(prior))
        new = linalg.cho_solve(factor, C.T @ S + prior[:, None] * read)
        size = np.linalg.norm(new, axis=1, keepdims=True)
        rows = np.where(size > 0, new / np.maximum(size, 1e-300), rows)
    inverse = linalg.cho_solve(factor, np.eye(len(rows)))
    return rows, ROW_ERROR_FACTOR * np.sqrt(np.maximum(np.diag(inverse), 0) * frame.d)
