"""derivatives: along a frame's coordinates, from steps inside one linear region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line_search.fit import limit
from unveil.blackbox.rounding import AGREE, LOUDER
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.probe import Probe

# Coordinates from which on two random steps are tried, however exact answers are: a lucky one costs more than another.
TWO_STEP_COORDINATES = 64
# Times that random steps are shortened, and by how much each time: answers with few digits need the longest.
STEP_SHORTENINGS = {True: (20, 4.0), False: (12, 2.0)}
# Steps along one coordinate are sqrt(d) over this times as long as a coordinate of a random step that was seen to stay
# inside: to one side any that leaves the region costs a search, to both sides it is seen at once.
ONE_SIDED, TWO_SIDED = 7.0, 3.0
LEAST_REGION_ROUNDINGS = 1e4  # regions must be longer than this many times the rounding
CALM = 0.4  # rounding of neighbouring answers, relative to that of answers far apart: close by, most of it is the same
EXPECTED_ROUNDING_WEIGHT = 8  # what is expected of it counts as much as the rounding seen along so many coordinates
# A step left its region if answers on both sides differ from what lies between by so many standard deviations more
# than a line's do.
LEFT = 2.5
# Steps to both sides that tell the rounding at a place, and how much shorter than others these are.
ROUNDING_STEPS, ROUNDING_LENGTH = 3, 1e-3
# Steps along single coordinates are shortened so often at most, to this part each time.
COORDINATE_SHORTENINGS, THIRD = 8, 1 / 3
# Numbers in one batch of questions, and of those that are not kept in one piece of it, which caches can hold.
NUMBERS_PER_BATCH, PIECE = 3_000_000, 2**21


class Station(NamedTuple):
    """Where a derivative was measured."""

    x: Float[np.ndarray, " n"]  # the place
    slope: Float[np.ndarray, "m n"]  # the derivative of the answers
    error: float  # the standard deviation to be expected of each entry


def derivatives(
    probe: Probe,
    frame: Frame,
    x: Float[np.ndarray, "P n"],
    radius: Float[np.ndarray, " P"],
    value: Float[np.ndarray, "P m"] | None = None,
) -> tuple[Float[np.ndarray, "P m d"], Float[np.ndarray, " P"]]:
    """Derivatives along the frame's coordinates, each from steps inside one linear region.

    Random steps to both sides, shortened until answers are straight along them, tell how long steps along single
    coordinates can be. Where answers are exact one step along each is enough, and a random step along all of them
    checks them together; where they have few digits steps are as long as they can be, and to both sides. `radius`: how
    far random steps may be expected to stay in the region; `value`: the answers at x, if known. Returns the error of
    each to be expected from rounding, too: infinite where a point has no region around it. Queries: `P d` and about 4 P
    where answers are exact, `2 P d` and about 14 P where they are not, more where a step left its region; P more
    without `value`.
    """
    exact = probe.noise.exact
    value = probe.ask(x) if value is None else value
    straight = _straight(probe, frame, x, value, radius)
    return _one_sided(probe, frame, straight) if exact else _two_sided(probe, frame, straight)


@dataclass(frozen=True)
class _Straight:
    """Random steps along which answers are straight."""

    x: Float[np.ndarray, "P n"]  # where
    value: Float[np.ndarray, "P m"]  # the answers there
    sigma: Float[np.ndarray, "P m"]  # their standard deviations
    radius: Float[np.ndarray, " P"]  # how long the steps are, per point
    test: Float[np.ndarray, "P d"]  # the first step of each point, in units of this
    ahead: Float[np.ndarray, "P m"]  # how answers changed along it

    def leave(
        self, rows: Int[np.ndarray, " R"], up: Float[np.ndarray, "R m"], down: Float[np.ndarray, "R m"]
    ) -> Bool[np.ndarray, " R"]:
        """Whether answers on both sides of these points are not straight."""
        bend = (up + down - 2 * self.value[rows]) / self.sigma[rows]
        return np.asarray(np.sqrt((bend**2).mean(axis=1)) > LEFT * limit(bend.shape[1]))


def _straight(
    probe: Probe,
    frame: Frame,
    x: Float[np.ndarray, "P n"],
    value: Float[np.ndarray, "P m"],
    radius: Float[np.ndarray, " P"],
) -> _Straight:
    """Shorten random steps until both sides of each point answer as one line does. Queries: `2 P` per round, twice that
    with two steps per point, and of few digits those of `_sigma`."""
    count, d = len(x), frame.d
    exact = probe.noise.exact
    rounds, shorter = STEP_SHORTENINGS[exact]
    out = _Straight(
        x,
        value,
        probe.noise.at(x, value) if exact else _sigma(probe, frame, x, value, radius),
        radius.astype(np.float64),
        probe.rng.standard_normal((count, d)),
        np.zeros(value.shape),
    )
    search = np.arange(count)
    for _ in range(rounds if count else 0):
        step = (out.radius[search, None] * out.test[search]) @ frame.V.T
        up, down = probe.ask(x[search] + step), probe.ask(x[search] - step)
        left = out.leave(search, up, down)
        out.ahead[search] = up - value[search]
        other = np.flatnonzero(~left) if not exact or d >= TWO_STEP_COORDINATES else search[:0]
        if len(other):
            step = (out.radius[search[other], None] * probe.rng.standard_normal((len(other), d))) @ frame.V.T
            up, down = probe.ask(x[search[other]] + step), probe.ask(x[search[other]] - step)
            left[other] = out.leave(search[other], up, down)
        search = search[left]
        if not len(search):
            break
        out.radius[search] /= shorter
    return out


def _sigma(
    probe: Probe,
    frame: Frame,
    x: Float[np.ndarray, "P n"],
    value: Float[np.ndarray, "P m"],
    radius: Float[np.ndarray, " P"],
) -> Float[np.ndarray, "P m"]:
    """Standard deviations of answers with few digits at these places, from steps too short for anything else to show:
    rounding depends on what is active. Queries: `2 ROUNDING_STEPS P`"""
    usual = probe.noise.at(x, value)
    step = (
        ROUNDING_LENGTH * radius[:, None] * probe.rng.standard_normal((ROUNDING_STEPS, len(x), frame.d))
    ) @ frame.V.T
    y = probe.ask(np.concatenate([x + step, x - step]).reshape(-1, x.shape[1])).reshape(2, ROUNDING_STEPS, *value.shape)
    bend = y.sum(axis=0) - 2 * value
    return np.asarray(np.clip(np.sqrt((bend**2).mean(axis=0) / 6), usual, LOUDER * usual))


def _reach(radius: Float[np.ndarray, " P"], d: int, longer: float) -> Float[np.ndarray, "P d"]:
    """Lengths of steps along single coordinates: a random step moves every neuron by its whole norm."""
    return np.repeat((radius * max(1.0, np.sqrt(d) / longer))[:, None], d, axis=1)


def _two_sided(probe: Probe, frame: Frame, straight: _Straight) -> tuple[np.ndarray, np.ndarray]:
    """Both sides tell for every coordinate by itself whether its step left the region; a step that did is shortened.
    Queries: `2 P d`, and two for every step that is shortened."""
    (count, d), m = straight.test.shape, straight.value.shape[1]
    reach, slope = _reach(straight.radius, d, TWO_SIDED), np.zeros((count, m, d))
    p, j = (each.ravel() for each in np.indices((count, d)))
    group = max(1, NUMBERS_PER_BATCH // len(frame.V))
    off = np.zeros((count, m, d))
    for _ in range(COORDINATE_SHORTENINGS if count else 0):
        left = []
        for first in range(0, len(p), group):
            a, b = p[first : first + group], j[first : first + group]
            step = reach[a, b, None] * frame.V.T[b]
            up, down = probe.ask(straight.x[a] + step), probe.ask(straight.x[a] - step)
            slope[a, :, b] = (up - down) / (2 * reach[a, b, None])
            off[a, :, b] = up + down
            left.append(straight.leave(a, up, down))
        bad = np.concatenate(left)
        p, j = p[bad], j[bad]
        if not len(p):
            break
        reach[p, j] *= THIRD
    # Rounding close by is measured: sums of both sides differ from one coordinate to another by nothing else.
    spread = ((off - off.mean(axis=2, keepdims=True)) ** 2).sum(axis=2).max(axis=1)
    usual = (CALM * straight.sigma.max(axis=1)) ** 2
    sigma = np.sqrt((EXPECTED_ROUNDING_WEIGHT * usual + spread / 2) / (EXPECTED_ROUNDING_WEIGHT + d))
    error = 0.75 * sigma * np.sqrt((1 / reach**2).mean(axis=1))
    error[np.bincount(p, minlength=count) > 0] = np.inf
    return slope, error


def _one_sided(probe: Probe, frame: Frame, straight: _Straight) -> tuple[np.ndarray, np.ndarray]:
    """One step along each coordinate, checked by a random step along all of them. Queries: `P d`, about `2 log2(d)` for
    every step that left the region."""
    (count, d), m, x = straight.test.shape, straight.value.shape[1], straight.x
    noise = probe.noise
    # Between two breakpoints that rounding hardly tells apart there is nothing to measure.
    alive = straight.radius > LEAST_REGION_ROUNDINGS * noise.relative * (1 + np.linalg.norm(x, axis=1) / noise.size)
    reach = _reach(straight.radius, d, ONE_SIDED)
    out = np.zeros((count, m, d))
    for rows, part, y in _along(probe, frame, x, reach):
        out[rows, :, part] = (y - straight.value[rows, None, :]).transpose(0, 2, 1)
    out /= reach[:, None, :]
    checked = _Checked(probe, frame, straight, reach, out)
    bad = ~alive
    for _ in range(4):
        everything = np.zeros(count, dtype=int), np.full(count, d)
        bad[:] = checked.wrong(np.arange(count), *everything, straight.ahead)
        if not (bad & alive).any():
            break
        alive &= ~checked.repair(np.flatnonzero(bad & alive))
    error = 1.5 * straight.sigma.max(axis=1) * np.sqrt((1 / reach**2).mean(axis=1))
    return out, np.where(bad | ~alive, np.inf, error)


def _along(
    probe: Probe, frame: Frame, x: Float[np.ndarray, "P n"], reach: Float[np.ndarray, "P d"]
) -> Iterator[tuple[slice, slice, Float[np.ndarray, "R c m"]]]:
    """Answers one step along each coordinate, a few points or a part of the coordinates of one at a time.

    Borders depend on the sizes alone. Along few directions of a network's inputs points and steps are made whole
    inputs, of which there are few, and not their sums; but batches that are kept are asked as they are, and whole.
    Yields points, coordinates, and the answers.
    """
    n, d = frame.V.shape
    # Parts of one point's coordinates are alike in size, and too large to be kept.
    group, part = max(1, NUMBERS_PER_BATCH // (n * d)), -(-d // max(1, -(-n * d // NUMBERS_PER_BATCH)))
    steps = frame.M if frame.M is frame.V else np.ascontiguousarray(frame.V.T)  # of the input itself they are one
    usual = whole = probe.ask, x, steps
    if probe.lifted is not None:
        ask, lift = probe.lifted
        whole = (ask, x, steps) if lift is None else (ask, x @ lift, steps @ lift)
    for start in range(0, len(x), group):
        rows = slice(start, min(start + group, len(x)))
        for first in range(0, d, part):
            last, count = min(first + part, d), len(x[rows])
            kept = count * (last - first) * n <= probe.kept
            ask, at, along = usual if kept else whole
            pieces = 1 if kept or probe.lifted is None else -(-count * (last - first) * at.shape[1] // PIECE)
            piece = -(-(last - first) // pieces)  # alike in size
            for low in range(first, last, piece):
                some = slice(low, min(low + piece, last))
                points = reach[rows, some, None] * along[some]
                points += at[rows, None, :]
                yield rows, some, ask(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:2], -1)


@dataclass(frozen=True)
class _Checked:
    """Derivatives being checked: a step along many coordinates at once must change the answer as they say."""

    probe: Probe  # asks
    frame: Frame  # the coordinates
    straight: _Straight  # the steps along all of them
    reach: Float[np.ndarray, "P d"]  # how long each step was; repaired in place
    out: Float[np.ndarray, "P m d"]  # the derivatives; repaired in place

    def _steps(
        self, rows: Int[np.ndarray, " s"], first: Int[np.ndarray, " s"], last: Int[np.ndarray, " s"]
    ) -> Float[np.ndarray, "s d"]:
        """The part of the random step that runs along coordinates first..last."""
        j = np.arange(self.frame.d)
        part = (j >= first[:, None]) & (j < last[:, None])
        return np.where(part, self.straight.radius[rows, None] * self.straight.test[rows], 0)

    def wrong(
        self,
        rows: Int[np.ndarray, " s"],
        first: Int[np.ndarray, " s"],
        last: Int[np.ndarray, " s"],
        change: Float[np.ndarray, "s m"],
    ) -> Bool[np.ndarray, " s"]:
        """Whether `change`, by the random step over coordinates first..last, contradicts the derivatives."""
        step = self._steps(rows, first, last)
        expect = np.einsum("pmd,pd->pm", self.out[rows], step)
        spread = np.sqrt(((step / self.reach[rows]) ** 2).sum(axis=1))[:, None]
        allowed = AGREE * self.straight.sigma[rows] * (2 + 1.5 * spread)
        return np.asarray((np.abs(expect - change) > allowed).any(axis=1))

    def repair(self, rows: Int[np.ndarray, " s"]) -> Bool[np.ndarray, " P"]:
        """Halve the set of coordinates until the few that left their region are alone; step less far along these.

        Returns points that are given up: too many coordinates are wrong for single steps to be the cause. Queries:
        about `2 log2(d)` per coordinate found.
        """
        x, value, d = self.straight.x, self.straight.value, self.frame.d
        lost = np.zeros(len(x), dtype=bool)
        first, last = np.zeros(len(rows), dtype=int), np.full(len(rows), d)
        while len(rows):
            alone = last - first == 1
            if alone.any():
                p, j = rows[alone], first[alone]
                self.reach[p, j] = np.maximum(self.reach[p, j] / 64, 1e-12)
                y = self.probe.ask(x[p] + self.reach[p, j, None] * self.frame.V.T[j])
                self.out[p, :, j] = (y - value[p]) / self.reach[p, j, None]
                rows, first, last = rows[~alone], first[~alone], last[~alone]
            lost |= np.bincount(rows, minlength=len(lost)) > max(4, d // 10)
            keep = ~lost[rows]
            rows, first, last = rows[keep], first[keep], last[keep]
            if not len(rows):
                break
            middle = (first + last) // 2
            rows = np.concatenate([rows, rows])
            first, last = np.concatenate([first, middle]), np.concatenate([middle, last])
            step = self._steps(rows, first, last) @ self.frame.V.T
            bad = self.wrong(rows, first, last, self.probe.ask(x[rows] + step) - value[rows])
            rows, first, last = rows[bad], first[bad], last[bad]
        return lost
