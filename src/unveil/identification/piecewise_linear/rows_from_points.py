"""sharper_rows: rows of a first layer told by where answers with few digits bend around the place each was met at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line_search.fit import limit
from unveil.identification.piecewise_linear.derivatives import BATCH, LEFT
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe

# Where answers are asked across a hyperplane, in half widths of a window: three on either side tell a straight line
# and whether it is one. The standard deviation of the difference of two such lines in the middle, in one answer's.
ACROSS, BLUR = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]), float(np.sqrt(14 / 3))
# Half width of a window: so many standard deviations of where a breakpoint is expected, and of where it is seen; as
# wide as this, in units of a typical coordinate, others are in few of them; no window is wider than one for its jump.
EXPECTED, SEEN, WIDE = 4.0, 30.0, 2e-3
# A window without a breakpoint, or with others, is looked for so many times more, each so much nearer to the place;
# the first ones where the breakpoint should be by what is known already.
TRIES, NARROW, NEARER, SHORTEST = 5, 2, 0.4, 0.7
# How much more answers may be off than expected: rounding differs from place to place.
ROUGHLY = 5.0
# Of the jump where the hyperplane was met at least so much is that of the same one; and of its error at most.
SAME_JUMP, SAME_ERROR = 0.2, 3.0
WRONG = 4.0  # a row that is so many times further off than stated has components that are of others'
# Passes at most; the error of a row that ends them; share of the typical length of an input from which on steps are as
# long as inputs; directions that tell the error.
PASSES, ENOUGH, LONGEST, CHECKS = 4, 3e-5, 0.6, 12

# A place further from the origin than so many typical inputs is left; other places that are tried, and steps of a way.
FAR, PLACES, WALK = 1.5, 2, 12


class _Seen(NamedTuple):
    """Where hyperplanes are met along their normals, one window each."""

    t: Float[np.ndarray, " W"]  # how far along the normal; NaN where not seen
    sigma: Float[np.ndarray, " W"]  # standard deviation of it; infinite where not seen
    size: Float[np.ndarray, " W"]  # of the jump, in standard deviations of the answers


@dataclass(frozen=True)
class _Known:
    """Hyperplanes, and how well each component of their normals is known."""

    planes: Hyperplanes
    tangents: Float[np.ndarray, "K q d"]  # unit vectors orthogonal to each normal
    spread: Float[np.ndarray, "K q"]  # standard deviations of the components along these, as last measured
    before: Float[np.ndarray, "K q"]  # and before anything was measured
    open: Bool[np.ndarray, "K q"]  # which are to be measured


def sharper_rows(probe: Probe, frame: Frame, planes: Hyperplanes) -> Hyperplanes:
    """With normals told by breakpoints around the places where hyperplanes were met.

    A derivative is known to the answers' rounding over the width of its region. Where a hyperplane is met is known to
    the same rounding over the jump of the derivative, and steps along it may be as long as inputs are. So each normal
    is told, one tangent after the other, by how far beside the expected place answers bend: nearby at first, then
    further out and around another place, where what was taken for it is seen again or is not. Directions that had no
    part in it tell how wrong it still is. `planes`: of a first layer free of a box, nearly right. Queries: `6` per
    coordinate, hyperplane and pass, of `PASSES` at most; again where a window shows no breakpoint or more than one.
    """
    turn = np.linalg.qr(probe.rng.standard_normal((frame.d, frame.d)))[0]
    group = max(1, BATCH // (len(ACROSS) * frame.d * len(frame.V)))
    parts = [
        _sharper(probe, frame, planes[np.arange(first, min(first + group, len(planes)))], turn)
        for first in range(0, len(planes), group)
    ]
    return Hyperplanes.joined([planes[:0], *parts])


def _sharper(probe: Probe, frame: Frame, planes: Hyperplanes, turn: Float[np.ndarray, "d d"]) -> Hyperplanes:
    d, now, best = frame.d, planes, planes
    before = np.repeat(planes.error[:, None] / np.sqrt(d), d - 1, axis=1)
    spread, open_ = before, np.ones(before.shape, dtype=bool)
    for number in range(PASSES):
        away = np.linalg.norm(now.at, axis=1) > FAR * probe.noise.size
        now = _elsewhere(probe, frame, now, np.flatnonzero(away | (number > 0) & open_.any(axis=1)))
        # No component is further off than all of them together.
        wide = np.minimum(before, now.error[:, None] / 2)
        now, spread, far = _measured(probe, frame, _Known(now, _tangents(turn, now.rows), spread, wide, open_))
        stated = np.sqrt((spread**2).sum(axis=1))
        error = _checked(probe, frame, now, stated, planes.error)
        now = replace(now, error=np.where(np.isfinite(error), error, now.error))
        better = np.flatnonzero(error < best.error)
        best = best.replaced({int(i): now[np.array([i])] for i in better})
        # Longer steps than inputs are tell nothing more; but something that was seen there was another hyperplane
        # where the row is further off than it should be.
        open_ = (spread > ENOUGH / np.sqrt(d)) & ~far | (error > WRONG * stated)[:, None]
        open_ &= (best.error > ENOUGH)[:, None]
        if not open_.any():
            break
    return best


def _tangents(turn: Float[np.ndarray, "d d"], rows: Float[np.ndarray, "K d"]) -> Float[np.ndarray, "K q d"]:
    """Orthonormal tangents of each hyperplane, of nearly the same one nearly the same: a reflection takes the first of
    some orthonormal directions to the normal, and the others to these."""
    mirror = turn[:, 0] - rows
    mirror /= np.maximum(np.linalg.norm(mirror, axis=1, keepdims=True), 1e-300)
    return np.asarray(turn.T[None, 1:] - 2 * (mirror @ turn[:, 1:])[:, :, None] * mirror[:, None, :])


def _measured(
    probe: Probe, frame: Frame, known: _Known
) -> tuple[Hyperplanes, Float[np.ndarray, "K q"], Bool[np.ndarray, "K q"]]:
    """Hyperplanes with normals told along open tangents, how well each component is known now, and which were told by
    steps as long as inputs are."""
    old = known.planes
    here = _seen(probe, frame, old, old.at, np.zeros(len(old)))
    t = np.where(np.isfinite(here.t), here.t, 0.0)
    old = _through(frame, old, old.at + t[:, None] * (old.rows @ frame.V.T), old.rows)
    turned, sigma, far = _around(probe, frame, old, known, here)
    seen = np.isfinite(turned)
    rows = old.rows - np.einsum("kq,kqd->kd", np.where(seen, turned, 0.0), known.tangents)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spread = np.where(seen, sigma, np.where(known.open, known.before, known.spread))
    return _through(frame, old, old.at, rows), spread, seen & (far >= LONGEST * np.sqrt(frame.d))


def _through(frame: Frame, planes: Hyperplanes, at: Float[np.ndarray, "K n"], rows: np.ndarray) -> Hyperplanes:
    return Hyperplanes.through(frame, at, rows, planes.jump, planes.error)


def _checked(
    probe: Probe, frame: Frame, planes: Hyperplanes, stated: Float[np.ndarray, " K"], old: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    """How wrong normals are along directions that had no part in them, in windows that would show much more; infinite
    where hardly any is seen. `stated`: as they were measured. `old`: before that."""
    d = frame.d
    along = probe.rng.standard_normal((len(planes), CHECKS, d))
    along -= np.einsum("kqd,kd->kq", along, planes.rows)[:, :, None] * planes.rows[:, None, :]
    along /= np.linalg.norm(along, axis=2, keepdims=True)
    wide = np.repeat(np.sqrt(np.minimum(stated, old) * old / d)[:, None], CHECKS, axis=1)
    here = _seen(probe, frame, planes, planes.at, np.zeros(len(planes)))
    off, *_ = _around(probe, frame, planes, _Known(planes, along, wide, wide, np.ones(wide.shape, dtype=bool)), here)
    met = np.isfinite(off)
    wrong = np.sqrt(d * np.where(met, off**2, 0.0).sum(axis=1) / np.maximum(met.sum(axis=1), 1))
    return np.where(2 * met.sum(axis=1) >= CHECKS, wrong, np.inf)


def _around(
    probe: Probe, frame: Frame, planes: Hyperplanes, known: _Known, here: _Seen
) -> tuple[Float[np.ndarray, "K q"], Float[np.ndarray, "K q"], Float[np.ndarray, "K q"]]:
    """By how much each hyperplane turns from its normal along each open tangent, the standard deviation of that, and
    how far out it was seen; NaN where it was not. `here`: what was seen where it was met."""
    turned, sigma = np.full(known.spread.shape, np.nan), np.full(known.spread.shape, np.inf)
    out = np.zeros(turned.shape)
    plane, which = np.nonzero(known.open)
    least = np.where(np.isfinite(here.sigma), SEEN * here.sigma, 0.0)
    for number in range(TRIES):
        if not len(plane):
            break
        spread = (known.spread if number < NARROW else known.before)[plane, which]
        far = np.minimum(np.maximum(WIDE, least[plane]) / (EXPECTED * spread), np.sqrt(frame.d))
        part = (-NEARER) ** (number if number < NARROW else number - NARROW)
        far *= part * probe.rng.uniform(SHORTEST, 1.0, len(far))
        x = planes.at[plane] + far[:, None] * (known.tangents[plane, which] @ frame.V.T)
        seen = _seen(probe, frame, planes[plane], x, spread * np.abs(far))
        good = np.isfinite(seen.t) & (seen.size > SAME_JUMP * here.size[plane])
        there = plane[good], which[good]
        turned[there], sigma[there] = (seen.t / far)[good], (seen.sigma / np.abs(far))[good]
        out[there] = np.abs(far)[good]
        plane, which = plane[~good], which[~good]
    return turned, sigma, out


def _elsewhere(probe: Probe, frame: Frame, planes: Hyperplanes, which: Int[np.ndarray, " K"]) -> Hyperplanes:
    """With some of them met elsewhere: where inputs are as usual, rounding is small, and others cross the tangents.

    Each is followed on the straight way there, in steps as long as what was seen so far allows.
    """
    planes, left = planes.replaced({}), which
    for _ in range(PLACES):
        if not len(left):
            break
        some = planes[left]
        x = frame.sample(len(left), probe.rng)
        x -= some.sums(frame, x)[np.arange(len(left)), np.arange(len(left))][:, None] * (some.rows @ frame.V.T)
        at = _followed(probe, frame, some, x)
        moved = _through(frame, some, np.where(np.isfinite(at), at, some.at), some.rows)
        # Another hyperplane there has other tangents.
        error = _checked(probe, frame, moved, some.error, some.error)
        there = np.isfinite(at[:, 0]) & (error < SAME_ERROR * some.error)
        planes = planes.replaced({int(left[i]): moved[np.array([i])] for i in np.flatnonzero(there)})
        left = left[~there]
    return planes


def _followed(probe: Probe, frame: Frame, planes: Hyperplanes, x: Float[np.ndarray, "K n"]) -> Float[np.ndarray, "K n"]:
    """Where hyperplanes are met near these points, followed from where they were; NaN where one was lost. Queries: `6`
    for each of `WALK` steps at most."""
    way, normal = x - planes.at, planes.rows @ frame.V.T
    length = np.linalg.norm(frame.values(x) - frame.values(planes.at), axis=1)
    # By how much it turns along the way, and the standard deviation of that; how far the next step goes.
    turn, doubt = np.zeros(len(x)), planes.error * length / np.sqrt(frame.d)
    longest, out = np.ones(len(x)), np.full(x.shape, np.nan)
    open_ = np.arange(len(x))
    for _ in range(WALK):
        if not len(open_):
            break
        part = np.minimum(longest[open_], WIDE / (EXPECTED * np.maximum(doubt[open_], 1e-300)))
        there = planes.at[open_] + part[:, None] * way[open_] + (turn[open_] * part)[:, None] * normal[open_]
        seen = _seen(probe, frame, planes[open_], there, doubt[open_] * part)
        good = np.isfinite(seen.t)
        here = open_[good]
        turn[here] += seen.t[good] / part[good]
        doubt[here] = seen.sigma[good] / part[good]
        arrived = good & (part == 1)
        out[open_[arrived]] = (there + np.where(good, seen.t, 0.0)[:, None] * normal[open_])[arrived]
        longest[here] = 1.0
        longest[open_[~good]] = part[~good] * NEARER
        open_ = open_[~arrived]
    return out


def _seen(
    probe: Probe, frame: Frame, planes: Hyperplanes, x: Float[np.ndarray, "W n"], doubt: Float[np.ndarray, " W"]
) -> _Seen:
    """Where each hyperplane is met near a point, along its normal. `doubt`: standard deviation of where it is expected.
    Queries: `6 W`"""
    sigma = probe.sigma(x)
    strength = np.sqrt(((planes.jump / sigma) ** 2).sum(axis=1))
    half = np.maximum(EXPECTED * doubt, SEEN * BLUR / np.maximum(strength, SEEN * BLUR))
    points = x[:, None] + (half[:, None] * ACROSS)[:, :, None] * (planes.rows @ frame.V.T)[:, None]
    y = probe.ask(points.reshape(-1, x.shape[1])).reshape(len(x), len(ACROSS), -1) / sigma[:, None]
    bend = y[:, [0, 3]] - 2 * y[:, [1, 4]] + y[:, [2, 5]]
    left, right = (y[:, 2] - y[:, 0]) / 2, (y[:, 5] - y[:, 3]) / 2
    apart, jump = (y[:, 3:].mean(axis=1) - 2 * right) - (y[:, :3].mean(axis=1) + 2 * left), right - left
    square = np.maximum((jump**2).sum(axis=1), 1e-300)
    t = -(apart * jump).sum(axis=1) / square
    # What two straight lines with one breakpoint leave.
    noise = np.sqrt((bend**2).mean(axis=(1, 2)) / 6)
    miss = np.sqrt(((apart + t[:, None] * jump) ** 2).mean(axis=1)) / BLUR
    most = LEFT * limit(y.shape[2])
    blur = BLUR * np.maximum(noise, 1.0) / np.sqrt(square)
    good = (np.maximum(noise, miss) <= most) & (np.abs(t) < 1) & (SEEN * blur <= ROUGHLY)
    return _Seen(np.where(good, t * half, np.nan), np.where(good, blur * half, np.inf), np.sqrt(square) / half)
