"""sharper_rows: rows of a layer told by where answers with few digits bend around the place each was met at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line_search.fit import limit
from unveil.identification.piecewise_linear.derivatives import LEFT, NUMBERS_PER_BATCH
from unveil.identification.piecewise_linear.far_places import anywhere_on
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe

# Coordinates from which on breakpoints tell rows: derivatives along them are off by the root of their number, and what
# they leave open there costs more than to ask.
BY_POINTS = 64
# Where answers are asked across a hyperplane, in half widths of a window: three on either side tell a straight line
# and whether it is one. From so many outputs on two do: what lies between both lines has the direction of their jump
# only where nothing else bends. The standard deviation of what lies between, in one answer's: 2.16 and 2.24.
ACROSS = {False: np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]), True: np.array([-3.0, -1.0, 1.0, 3.0])}
TELLING_OUTPUTS, BLUR = 4, float(np.sqrt(5))
# Half width of a window: so many standard deviations of where a breakpoint is expected, and of where it is seen; as
# wide as this, in units of a typical coordinate, others are in few of them; no window is wider than one for its jump.
EXPECTED, WINDOW_SEEN_SIGMAS, WINDOW_HALF_WIDTH = 4.0, 30.0, 2e-3
# A window without a breakpoint, or with others, is looked for so many times more, each so much nearer to the place;
# the first ones where the breakpoint should be by what is known already.
TRIES, NARROW_TRIES, RETRY_STEP_FACTOR, LEAST_STEP_PART = 5, 2, 0.4, 0.7
# How much more answers may be off than expected: rounding differs from place to place.
ROUNDING_EXCESS_FACTOR = 5.0
# Of the jump where the hyperplane was met at least so much is that of the same one; and of its error at most.
SAME_JUMP, SAME_ERROR = 0.2, 3.0
MISSTATED_ROW_FACTOR = 4.0  # a row that is so many times further off than stated has components that are of others'
# Passes at most; the error of a row that ends them; share of the typical length of an input from which on steps are as
# long as inputs; directions that tell the error.
PASSES, SHARP_ROW_ERROR, LONG_STEP_SHARE, ERROR_DIRECTIONS = 4, 1e-4, 0.6, 12
# Places that tell how large values are; share of the way to the wall of a region that a step may take.
VALUE_SIZE_PLACES, STEP_TO_WALL_SHARE = 64, 0.9
# A place further from the origin than so many typical inputs is left; other places that are tried, and steps of a way.
TOO_FAR_INPUTS, OTHER_PLACES_TRIED, WALK = 1.5, 2, 12


class _Seen(NamedTuple):
    """Where hyperplanes are met along their normals, one window each."""

    t: Float[np.ndarray, " W"]  # how far along the normal; NaN where not seen
    sigma: Float[np.ndarray, " W"]  # standard deviation of it; infinite where not seen
    size: Float[np.ndarray, " W"]  # of the jump, in standard deviations of the answers


@dataclass(frozen=True)
class _Known:
    """Hyperplanes, and how well the components of their normals along some directions are known."""

    planes: Hyperplanes
    along: Float[np.ndarray, "q d"] | Float[np.ndarray, "K q d"]  # unit vectors, for all or for each
    spread: Float[np.ndarray, "K q"]  # standard deviations of the components along these, as last measured
    before: Float[np.ndarray, "K q"]  # and before anything was measured
    open: Bool[np.ndarray, "K q"]  # which are to be measured

    def tangents(self, plane: Int[np.ndarray, " W"], which: Int[np.ndarray, " W"]) -> Float[np.ndarray, "W d"]:
        """Directions without what they have of the normal."""
        along = self.along[which] if self.along.ndim == 2 else self.along[plane, which]
        rows = self.planes.rows[plane]
        return np.asarray(along - np.einsum("wd,wd->w", along, rows)[:, None] * rows)


def sharper_rows(probe: Probe, frame: Frame, planes: Hyperplanes) -> Hyperplanes:
    """With normals told by breakpoints around the places where hyperplanes were met.

    A derivative is known to the answers' rounding over the width of its region. Where a hyperplane is met is known to
    the same rounding over the jump of the derivative, and steps along it may be as long as inputs are. So each normal
    is told, one coordinate after the other, by how far beside the expected place answers bend: nearby at first, then
    further out and around another place, where what was taken for it is seen again or is not. Directions that had no
    part in it tell how wrong it still is. `planes`: straight wherever the frame is, and nearly right. Queries: `6` per
    coordinate, hyperplane and pass, of `PASSES` at most, `4` from `TELLING_OUTPUTS` outputs on; again where a window
    shows no breakpoint or more than one.
    """
    group = max(1, NUMBERS_PER_BATCH // (len(ACROSS[False]) * frame.d * len(frame.V)))
    # In a region values are as they are; inputs are normal.
    typical = 1.0 if frame.free else float(np.median(np.abs(frame.values(frame.sample(VALUE_SIZE_PLACES, probe.rng)))))
    parts = [
        _sharper(_Asking(probe, frame, typical), planes[np.arange(first, min(first + group, len(planes)))])
        for first in range(0, len(planes), group)
    ]
    return Hyperplanes.joined([planes[:0], *parts])


def _sharper(asking: _Asking, planes: Hyperplanes) -> Hyperplanes:
    frame, now, best = asking.frame, planes, planes
    d, every = frame.d, np.eye(frame.d)
    before = np.repeat(planes.error[:, None] / np.sqrt(d), d, axis=1)
    spread, open_ = before, np.ones(before.shape, dtype=bool)
    for number in range(PASSES):
        away = np.linalg.norm(now.at, axis=1) > (TOO_FAR_INPUTS * asking.probe.noise.size if frame.free else np.inf)
        now = asking.elsewhere(now, np.flatnonzero(away | (number > 0) & open_.any(axis=1)))
        # No component is further off than all of them together.
        wide = np.minimum(before, now.error[:, None] / 2)
        now, spread, far = asking.measured(_Known(now, every, spread, wide, open_))
        stated = np.sqrt((spread**2).sum(axis=1))
        error = asking.off(now, stated, planes.error)
        now = replace(now, error=np.where(np.isfinite(error), error, now.error))
        better = np.flatnonzero(error < best.error)
        best = best.replaced({int(i): now[np.array([i])] for i in better})
        # Longer steps than inputs are tell nothing more; but something that was seen there was another hyperplane
        # where the row is further off than it should be.
        open_ = (spread > SHARP_ROW_ERROR / np.sqrt(d)) & ~far | (error > MISSTATED_ROW_FACTOR * stated)[:, None]
        open_ &= (best.error > SHARP_ROW_ERROR)[:, None]
        if not open_.any():
            break
    return best


@dataclass(frozen=True)
class _Asking:
    """Asks for breakpoints where hyperplanes are expected."""

    probe: Probe
    frame: Frame
    typical: float  # size of a typical coordinate

    @property
    def longest(self) -> float:
        """How long steps are at most: as long as typical inputs or values are."""
        return float(self.typical * np.sqrt(self.frame.d))

    def measured(self, known: _Known) -> tuple[Hyperplanes, Float[np.ndarray, "K q"], Bool[np.ndarray, "K q"]]:
        """Hyperplanes with normals told along all coordinates that are open, how well each component is known now, and
        which were told by steps as long as inputs are."""
        old = known.planes
        here = self.seen(old, old.at, np.zeros(len(old)))
        t = np.where(np.isfinite(here.t), here.t, 0.0)
        old = self.through(old, old.at + t[:, None] * (old.rows @ self.frame.V.T), old.rows)
        turned, sigma, far = self.around(replace(known, planes=old), here)
        met = np.isfinite(turned)
        rows = old.rows - np.where(met, turned, 0.0)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        spread = np.where(met, sigma, np.where(known.open, known.before, known.spread))
        return self.through(old, old.at, rows), spread, met & (far >= LONG_STEP_SHARE * self.longest)

    def off(
        self, planes: Hyperplanes, stated: Float[np.ndarray, " K"], old: Float[np.ndarray, " K"]
    ) -> Float[np.ndarray, " K"]:
        """How wrong normals are along directions that had no part in them, in windows that would show much more;
        infinite where hardly any is seen. `stated`: as they were measured. `old`: before that."""
        d = self.frame.d
        along = self.probe.rng.standard_normal((len(planes), ERROR_DIRECTIONS, d))
        along /= np.linalg.norm(along, axis=2, keepdims=True)
        wide = np.repeat(np.sqrt(np.minimum(stated, old) * old / d)[:, None], ERROR_DIRECTIONS, axis=1)
        here = self.seen(planes, planes.at, np.zeros(len(planes)))
        known = _Known(planes, along if self.frame.free else np.abs(along), wide, wide, np.ones(wide.shape, dtype=bool))
        turned, *_ = self.around(known, here)
        met = np.isfinite(turned)
        wrong = np.sqrt(d * np.where(met, turned**2, 0.0).sum(axis=1) / np.maximum(met.sum(axis=1), 1))
        return np.where(2 * met.sum(axis=1) >= ERROR_DIRECTIONS, wrong, np.inf)

    def around(
        self, known: _Known, here: _Seen
    ) -> tuple[Float[np.ndarray, "K q"], Float[np.ndarray, "K q"], Float[np.ndarray, "K q"]]:
        """By how much each hyperplane turns from its normal along each open direction, the standard deviation of that,
        and how far out it was seen; NaN where it was not. `here`: what was seen where it was met."""
        frame, planes = self.frame, known.planes
        turned, sigma = np.full(known.spread.shape, np.nan), np.full(known.spread.shape, np.inf)
        out = np.zeros(turned.shape)
        plane, which = np.nonzero(known.open)
        least = np.where(np.isfinite(here.sigma), WINDOW_SEEN_SIGMAS * here.sigma, 0.0)
        # Values of neurons that are active everywhere in the frame may grow as they like.
        back = -RETRY_STEP_FACTOR if frame.free else RETRY_STEP_FACTOR
        for number in range(TRIES):
            if not len(plane):
                break
            step = known.tangents(plane, which) @ frame.V.T
            room = frame.room(planes.at[plane], step)[1]
            spread = (known.spread if number < NARROW_TRIES else known.before)[plane, which]
            far = np.maximum(WINDOW_HALF_WIDTH * self.typical, least[plane]) / (EXPECTED * spread)
            far = np.minimum(np.minimum(far, self.longest), STEP_TO_WALL_SHARE * room)
            part = back ** (number if number < NARROW_TRIES else number - NARROW_TRIES)
            far *= part * self.probe.rng.uniform(LEAST_STEP_PART, 1.0, len(far))
            seen = self.seen(planes[plane], planes.at[plane] + far[:, None] * step, spread * np.abs(far))
            good = np.isfinite(seen.t) & (seen.size > SAME_JUMP * here.size[plane])
            there = plane[good], which[good]
            turned[there], sigma[there] = (seen.t / far)[good], (seen.sigma / np.abs(far))[good]
            out[there] = np.abs(far)[good]
            plane, which = plane[~good], which[~good]
        return turned, sigma, out

    def elsewhere(self, planes: Hyperplanes, which: Int[np.ndarray, " K"]) -> Hyperplanes:
        """With some of them met elsewhere: where inputs are as usual, rounding is small, and others cross the steps.

        Each is followed on the straight way there, in steps as long as what was seen so far allows.
        """
        planes, left = planes.replaced({}), which
        for _ in range(OTHER_PLACES_TRIED):
            if not len(left):
                break
            some = planes[left]
            at = self.followed(some, usual_on(self.frame, some, self.probe.rng))
            moved = self.through(some, np.where(np.isfinite(at), at, some.at), some.rows)
            # Another hyperplane there has other tangents.
            error = self.off(moved, some.error, some.error)
            there = np.isfinite(at[:, 0]) & (error < SAME_ERROR * some.error)
            planes = planes.replaced({int(left[i]): moved[np.array([i])] for i in np.flatnonzero(there)})
            left = left[~there]
        return planes

    def followed(self, planes: Hyperplanes, x: Float[np.ndarray, "K n"]) -> Float[np.ndarray, "K n"]:
        """Where hyperplanes are met near these points, followed from where they were; NaN where one was lost. Queries:
        those of `seen` for each of `WALK` steps at most."""
        frame = self.frame
        way, normal = x - planes.at, planes.rows @ frame.V.T
        length = np.linalg.norm(frame.values(x) - frame.values(planes.at), axis=1)
        # By how much it turns along the way, and the standard deviation of that; how far the next step goes.
        turn, doubt = np.zeros(len(x)), planes.error * length / np.sqrt(frame.d)
        longest, out = np.ones(len(x)), np.full(x.shape, np.nan)
        open_ = np.arange(len(x))
        for _ in range(WALK):
            if not len(open_):
                break
            part = WINDOW_HALF_WIDTH * self.typical / (EXPECTED * np.maximum(doubt[open_], 1e-300))
            part = np.minimum(longest[open_], part)
            there = planes.at[open_] + part[:, None] * way[open_] + (turn[open_] * part)[:, None] * normal[open_]
            seen = self.seen(planes[open_], there, doubt[open_] * part)
            good = np.isfinite(seen.t)
            here = open_[good]
            turn[here] += seen.t[good] / part[good]
            doubt[here] = seen.sigma[good] / part[good]
            arrived = good & (part == 1)
            out[open_[arrived]] = (there + np.where(good, seen.t, 0.0)[:, None] * normal[open_])[arrived]
            longest[here] = 1.0
            longest[open_[~good]] = part[~good] * RETRY_STEP_FACTOR
            open_ = open_[~arrived]
        return out

    def through(self, planes: Hyperplanes, at: Float[np.ndarray, "K n"], rows: Float[np.ndarray, "K d"]) -> Hyperplanes:
        """These hyperplanes with other normals, or met elsewhere."""
        return Hyperplanes.through(self.frame, at, rows, planes.jump, planes.error)

    def seen(self, planes: Hyperplanes, x: Float[np.ndarray, "W n"], doubt: Float[np.ndarray, " W"]) -> _Seen:
        """Where each hyperplane is met near a point, along its normal. `doubt`: standard deviation of where it is
        expected. Queries: `6 W`, or `4 W` from `TELLING_OUTPUTS` on"""
        sigma, m = self.probe.sigma(x), self.probe.m
        strength = np.sqrt(((planes.jump / sigma) ** 2).sum(axis=1))
        half = np.maximum(EXPECTED * doubt, WINDOW_SEEN_SIGMAS * BLUR / np.maximum(strength, WINDOW_SEEN_SIGMAS * BLUR))
        across = ACROSS[m >= TELLING_OUTPUTS]
        points = x[:, None] + (half[:, None] * across)[:, :, None] * (planes.rows @ self.frame.V.T)[:, None]
        y = self.probe.ask(points.reshape(-1, x.shape[1])).reshape(len(x), len(across), -1) / sigma[:, None]
        before, behind = np.split(y, 2, axis=1)
        left, right = (before[:, -1] - before[:, 0]) / 2, (behind[:, -1] - behind[:, 0]) / 2
        apart, jump = (behind.mean(axis=1) - 2 * right) - (before.mean(axis=1) + 2 * left), right - left
        square = np.maximum((jump**2).sum(axis=1), 1e-300)
        t = -(apart * jump).sum(axis=1) / square
        # What two straight lines with one breakpoint leave, of as many numbers as are free.
        miss = np.sqrt(((apart + t[:, None] * jump) ** 2).mean(axis=1)) / BLUR
        noise = miss * np.sqrt(m / max(m - 1, 1))
        if m < TELLING_OUTPUTS:
            bend = y[:, [0, 3]] - 2 * y[:, [1, 4]] + y[:, [2, 5]]
            noise = np.sqrt((bend**2).mean(axis=(1, 2)) / 6)
        most = LEFT * limit(m)
        blur = BLUR * np.maximum(noise, 1.0) / np.sqrt(square)
        good = (
            (np.maximum(noise, miss) <= most) & (np.abs(t) < 1) & (WINDOW_SEEN_SIGMAS * blur <= ROUNDING_EXCESS_FACTOR)
        )
        return _Seen(np.where(good, t * half, np.nan), np.where(good, blur * half, np.inf), np.sqrt(square) / half)


def usual_on(frame: Frame, planes: Hyperplanes, rng: np.random.Generator) -> Float[np.ndarray, "K n"]:
    """A usual point on each hyperplane: the one nearest to an input, or one between two inputs of a region."""
    if not frame.free:
        return anywhere_on(frame, planes, rng)
    x = frame.sample(len(planes), rng)
    off = np.einsum("kd,kd->k", planes.rows, frame.values(x)) + planes.bias
    return np.asarray(x - off[:, None] * (planes.rows @ frame.V.T))
