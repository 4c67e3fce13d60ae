"""The search for breakpoints on many lines: where two lines meet the answers decide, and what fails is split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.line_search.fit import covered, limit, meeting, straight

Ask = Callable[[np.ndarray], np.ndarray]
Sigma = Callable[[np.ndarray], np.ndarray]

# A breakpoint is looked at from this many of its own standard deviations away, on either side.
ASIDE = 24.0
# Breakpoints closer than this, relative to max(1, |t|), are not looked for apart.
RESOLUTION = 1e-9
# No gap between the answers of a stretch may take more of it than this, before it is called straight.
WIDEST_GAP = 0.66
# The same for either of two lines that meet: at a place well known, and at a vague one.
CLEAR_GAP, VAGUE_GAP = 0.85, 0.66
# Splits of one stretch that met a breakpoint, each at a quarter of the step before, after which it is given up.
TRIES = 12
# Rounds in which two lines of a stretch are looked at where they meet. After that only wide gaps are: noise may move
# the place where they meet every time, but a gap that was halved stays halved.
LOOKS = 6
# Splits between which two lines of a long stretch are tried.
CANDIDATES = 40


@dataclass
class Answers:
    """All answers of a search, in the order they came: line, place on it, answer and its standard deviation."""

    base: Float[np.ndarray, "L n"]
    direction: Float[np.ndarray, "L n"]
    ask: Ask
    sigma_of: Sigma
    line: Int[np.ndarray, " A"] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    t: Float[np.ndarray, " A"] = field(default_factory=lambda: np.zeros(0))
    y: Float[np.ndarray, "A m"] | None = None
    sigma: Float[np.ndarray, "A m"] | None = None

    def add(self, line: Int[np.ndarray, " N"], t: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Ask; the rows of the new answers. Queries: `N`"""
        first = len(self.t)
        x = self.base[line] + t[:, None] * self.direction[line]
        y, sigma = self.ask(x), self.sigma_of(x)
        self.line, self.t = np.append(self.line, line), np.append(self.t, t)
        self.y = y if self.y is None else np.concatenate([self.y, y])
        self.sigma = sigma if self.sigma is None else np.concatenate([self.sigma, sigma])
        return np.arange(first, len(self.t))

    def table(self, rows: Int[np.ndarray, "*K"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places, answers and deviations of rows of answers."""
        assert self.y is not None
        assert self.sigma is not None
        return self.t[rows], self.y[rows], self.sigma[rows]


@dataclass(frozen=True)
class Stretch:
    """A part of a line that is still open.

    Attributes:
        line: Which line.
        rows: Its answers, ascending in t.
        tries: Splits that failed because a breakpoint lay within the short step.
        probe: Where two lines were thought to meet and was asked; NaN if nowhere.
        looks: Rounds in which it was neither decided nor split.
    """

    line: int
    rows: Int[np.ndarray, " K"]
    tries: int = 0
    probe: float = np.nan
    looks: int = 0


@dataclass(frozen=True)
class Ended:
    """What stretches of all lines became: breakpoints (line, t, sigma), or stretches given up (line, a, b)."""

    breakpoints: list[tuple[int, float, float]] = field(default_factory=list)
    unresolved: list[tuple[int, float, float]] = field(default_factory=list)


def begin(answers: Answers, low: np.ndarray, high: np.ndarray, step: float, rng: np.random.Generator) -> list[Stretch]:
    """Both ends of every line, and two more answers close to each. Queries: `6 L`"""
    lines = np.arange(len(low))
    length = high - low
    ends = []
    for end, inward in ((low, 1.0), (high, -1.0)):
        short = step * np.minimum(length / 4, np.maximum(np.abs(end), 1))
        ends += [end, end + inward * short * rng.uniform(0.4, 0.6), end + inward * short]
    t = np.sort(np.array(ends), axis=0)
    rows = answers.add(np.tile(lines, 6), t.ravel()).reshape(6, -1)
    return [Stretch(int(i), rows[:, i]) for i in lines]


def advance(
    answers: Answers, stretches: list[Stretch], ended: Ended, step: float, rng: np.random.Generator
) -> list[Stretch]:
    """Look at every open stretch, and ask what decides about it.

    Returns:
        The stretches that are open now; breakpoints and stretches given up are added to `ended`.
    """
    sizes = np.array([len(s.rows) for s in stretches])
    wanted: list[tuple[Stretch, list[float], str]] = []
    for size in np.unique(sizes):
        group = [s for s in stretches if len(s.rows) == size]
        wanted += _decide(answers, group, ended, step, rng)
    if not wanted:
        return []
    line = np.array([s.line for s, places, _ in wanted for _ in places], dtype=np.intp)
    t = np.array([p for _, places, _ in wanted for p in places])
    rows = answers.add(line, t)
    after: list[Stretch] = []
    at = 0
    for stretch, places, why in wanted:
        new = rows[at : at + len(places)]
        at += len(places)
        every = np.append(stretch.rows, new)
        every = every[np.argsort(answers.t[every], kind="stable")]
        if why == "split":
            after += _split(answers, replace(stretch, rows=every), new, ended)
        elif why == "meet":
            after.append(replace(stretch, rows=every, probe=places[0], looks=stretch.looks + 1))
        else:
            after.append(replace(stretch, rows=every, looks=stretch.looks + 1))
    return after


def _decide(
    answers: Answers, group: list[Stretch], ended: Ended, step: float, rng: np.random.Generator
) -> list[tuple[Stretch, list[float], str]]:
    """What to ask of stretches with equally many answers; those that are decided end."""
    t, y, sigma = answers.table(np.array([s.rows for s in group]))
    most = limit(y.shape[2])
    one = straight(t, y, sigma)[1].max(axis=1) <= most
    full = covered(t, WIDEST_GAP) & (t.shape[1] >= 7)
    count = t.shape[1]
    met = meeting(t, y, sigma, np.unique(np.linspace(2, count - 2, min(CANDIDATES, count - 3)).round().astype(int)))
    length = t[:, -1] - t[:, 0]
    # Beside it, but within the stretch, however vaguely it is known.
    room = np.maximum(np.minimum(met.t - t[:, 0], t[:, -1] - met.t), 0)
    aside = np.minimum(np.maximum(ASIDE * met.sigma, RESOLUTION * np.maximum(1, np.abs(met.t))), room / 3)
    widest = np.diff(t, axis=1).argmax(axis=1)
    draw = rng.uniform(0.35, 0.65, len(group))
    wanted: list[tuple[Stretch, list[float], str]] = []
    for i, stretch in enumerate(group):
        place, away = float(met.t[i]), float(aside[i])
        if one[i]:
            if not full[i]:
                gap = t[i, widest[i]], t[i, widest[i] + 1]
                wanted.append((stretch, [_between(*gap, draw[i])], "look"))
            continue
        if met.worst[i] <= most:
            error = float(met.sigma[i])
            vague = ASIDE * error > room[i] / 3 or stretch.looks > LOOKS
            todo = _evidence(t[i], place, error, away, int(met.split[i]), draw[i], vague)
            if not todo:
                ended.breakpoints.append((stretch.line, place, error))
            elif todo[0] == place and abs(stretch.probe - place) <= error:
                ended.breakpoints.append((stretch.line, place, float(met.sigma[i])))
            else:
                wanted.append((stretch, todo, "meet" if todo[0] == place else "look"))
            continue
        if stretch.tries > TRIES or length[i] <= 4 * RESOLUTION * max(1.0, abs(float(t[i, 0]))):
            ended.unresolved.append((stretch.line, float(t[i, 0]), float(t[i, -1])))
            continue
        wanted.append(_where_to_split(stretch, t[i], place, step, draw[i]))
    return wanted


def _evidence(
    t: np.ndarray, place: float, error: float, aside: float, split: int, part: float, vague: bool
) -> list[float]:
    """Where else to ask before a breakpoint is believed: there, on either side, and within wide gaps on either side.

    If the place is known no better than the stretch itself, only gaps are asked.
    """
    if vague:
        return _wide_gaps(t, split, part, VAGUE_GAP)
    if np.abs(t - place).min() > max(3 * error, RESOLUTION * max(1.0, abs(place))):
        return [place]
    near = [place + sign * aside for sign in (-1, 1)]
    near = [p for p in near if t[0] < p < t[-1]]
    asked = [p for p in near if not ((np.abs(t - place) >= aside / 2) & (np.abs(t - p) <= 1.5 * aside)).any()]
    if asked:
        return asked
    return _wide_gaps(t, split, part, CLEAR_GAP) if aside > 1e-8 * (t[-1] - t[0]) else []


def _wide_gaps(t: np.ndarray, split: int, part: float, share: float) -> list[float]:
    """Places within gaps that take more than this share of a line's side."""
    gaps = []
    for side in (t[: split + 1], t[max(split - 1, 0) :]):
        width = np.diff(side)
        if len(width) and width.max() > share * (side[-1] - side[0]):
            at = int(width.argmax())
            gaps.append(_between(side[at], side[at + 1], part))
    return gaps


def _between(a: float, b: float, part: float) -> float:
    """A place between two others, seen through the arctangent: breakpoints of random lines are Cauchy distributed."""
    low, high = np.arctan(a), np.arctan(b)
    if b - a > 0.05 * max(1.0, min(abs(a), abs(b))):
        at = float(np.tan(low + (high - low) * part))
        if a < at < b:
            return at
    return float(a + (b - a) * part)


def _where_to_split(
    stretch: Stretch, t: np.ndarray, place: float, step: float, part: float
) -> tuple[Stretch, list[float], str]:
    """A short step around the place that two lines were thought to meet, or around one in the widest gap."""
    known = False
    if np.isfinite(stretch.probe) and stretch.tries == 0:
        at, known = stretch.probe, True
    elif stretch.tries == 0 and t[1] < place < t[-2]:
        at = place
    else:
        gap = int(np.diff(t).argmax())
        at = _between(t[gap], t[gap + 1], part)
    others = np.abs(t - at)
    room = float(others[others > 0].min()) if known else float(others.min())
    if room <= 1e-13 * max(1.0, abs(at)):
        gap = int(np.diff(t).argmax())
        at, known = _between(t[gap], t[gap + 1], part), False
        room = float(np.abs(t - at).min())
    half = max(step * room * 0.25**stretch.tries, 1e-13 * max(1.0, abs(at)))
    places = [at - half, at + half] if known else [at, at - half, at + half]
    return replace(stretch, probe=at), places, "split"


def _split(answers: Answers, stretch: Stretch, new: np.ndarray, ended: Ended) -> list[Stretch]:
    """Two stretches that share a short straight step; the same one again where that step was not straight."""
    t = answers.t[stretch.rows]
    at = stretch.probe
    half = float(np.abs(answers.t[new] - at).max())
    inside = stretch.rows[np.abs(t - at) <= half * (1 + 1e-9)]
    places, y, sigma = answers.table(inside[None])
    if straight(places, y, sigma)[1].max() > limit(y.shape[2]):
        return [replace(stretch, tries=stretch.tries + 1, probe=np.nan)]
    left, right = stretch.rows[t <= at + half * (1 + 1e-9)], stretch.rows[t >= at - half * (1 + 1e-9)]
    return [Stretch(stretch.line, rows) for rows in (left, right)]
