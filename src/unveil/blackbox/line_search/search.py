"""The search for breakpoints on many lines: where two lines meet the answers decide, and what fails is split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import median_filter

from unveil.blackbox.line_search.fit import covered, limit, meeting, straight
from unveil.blackbox.rounding import Ask

# A breakpoint is looked at from this many of its own standard deviations away, on either side.
ASIDE = 24.0
# Breakpoints closer than this, relative to max(1, |t|), are not looked for apart.
RESOLUTION = 1e-9
# No gap between the answers of a stretch may take more of it than this, before it is called straight.
WIDEST_GAP = 0.66
# The same for either of two lines that meet: at a place well known, and at a vague one.
CLEAR_GAP, VAGUE_GAP = 0.85, 0.66
# Splits of one stretch that met a breakpoint, each at a quarter of the step before, after which it is given up.
STRETCH_SPLITS = 12
# Rounds in which two lines of a stretch are looked at where they meet. After that every round doubles how far away an
# answer may be: noise may move the place where they meet every time.
MEETING_ROUNDS = 4
# Lines that are known to meet this exactly, in units of the stretch, have no room for breakpoints far away.
EXACT = 1e-8
# A stretch is not split nearer to its ends than this share of it, nor to other answers than this share of their gap.
CLOSE = 1e-3
# Splits between which two lines of a long stretch are tried.
MEETING_SPLITS = 40
# Neighbouring short steps whose answers say together how large deviations are there, and how many times larger than
# was thought at most: more than that is curvature.
NEIGHBOURING_STEPS, HOPEFUL = 9, 8.0


@dataclass
class Answers:
    """All answers of a search, in the order they came: line, place on it, answer and its standard deviation.

    Attributes:
        base: A point per line.
        direction: A direction per line.
        ask: Answers questions.
        sigma_of: Standard deviations of answers, from the points asked and the answers there.
        line: Which line.
        t: Which place on it.
        y: The answers.
        sigma: Their deviations by `sigma_of`.
        unit: How many times larger they are than that, as short steps around say; at least 1.
        steps: Short steps: line, place, and the mean square of what its answers leave of a line, in units of `sigma`.
    """

    base: Float[np.ndarray, "L n"]
    direction: Float[np.ndarray, "L n"]
    ask: Ask
    sigma_of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    line: Int[np.ndarray, " A"] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    t: Float[np.ndarray, " A"] = field(default_factory=lambda: np.zeros(0))
    y: Float[np.ndarray, "A m"] | None = None
    sigma: Float[np.ndarray, "A m"] | None = None
    unit: Float[np.ndarray, " A"] = field(default_factory=lambda: np.zeros(0))
    steps: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, line: Int[np.ndarray, " N"], t: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Ask; the rows of the new answers. Queries: `N`"""
        first = len(self.t)
        x = self.base[line] + t[:, None] * self.direction[line]
        y = self.ask(x)
        sigma = self.sigma_of(x, y)
        self.line, self.t = np.append(self.line, line), np.append(self.t, t)
        self.unit = np.append(self.unit, np.ones(len(line)))
        self.y = y if self.y is None else np.concatenate([self.y, y])
        self.sigma = sigma if self.sigma is None else np.concatenate([self.sigma, sigma])
        return np.arange(first, len(self.t))

    def table(self, rows: Int[np.ndarray, "*K"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places, answers and deviations of rows of answers."""
        assert self.y is not None
        assert self.sigma is not None
        return self.t[rows], self.y[rows], self.unit[rows][..., None] * self.sigma[rows]

    def are_straight(self, rows: Int[np.ndarray, "S 3"]) -> Bool[np.ndarray, " S"]:
        """Whether the answers of short steps fit a line each; what they leave of it is remembered."""
        t, y, sigma = self.table(rows)
        residual = straight(t, y, sigma)[1]
        left = (residual**2).sum(axis=1) * self.unit[rows].mean(axis=1) ** 2
        self.steps += zip(self.line[rows[:, 0]].tolist(), t.mean(axis=1).tolist(), left.tolist(), strict=True)
        return np.asarray(residual.max(axis=1) <= limit(y.shape[2]))

    def measure_units(self) -> None:
        """From short steps, most of which lie around no breakpoint: rounding differs from place to place in a model."""
        assert self.y is not None
        line, t, left = (np.array(column) for column in zip(*self.steps, strict=True))
        # The median of chi squared per degree of freedom (Wilson and Hilferty).
        left = left / (1 - 2 / (9 * self.y.shape[1])) ** 3
        for each in np.flatnonzero(np.bincount(line.astype(int)) >= NEIGHBOURING_STEPS):
            mine = np.flatnonzero(line == each)
            mine = mine[np.argsort(t[mine], kind="stable")]
            unit = np.clip(np.sqrt(median_filter(left[mine], NEIGHBOURING_STEPS, mode="nearest")), 1.0, HOPEFUL)
            asked = self.line == each
            self.unit[asked] = np.interp(np.arctan(self.t[asked]), np.arctan(t[mine]), unit)


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


def begin(
    answers: Answers, low: Float[np.ndarray, " L"], high: Float[np.ndarray, " L"], step: float, rng: np.random.Generator
) -> list[Stretch]:
    """Both ends of every line, and two more answers close to each. Queries: `6 L`"""
    lines = np.arange(len(low))
    length = high - low
    ends = []
    for end, inward in ((low, 1.0), (high, -1.0)):
        short = step * np.minimum(length / 4, np.maximum(np.abs(end), 1))
        ends += [end, end + inward * short * rng.uniform(0.4, 0.6), end + inward * short]
    t = np.sort(np.array(ends), axis=0)
    rows = answers.add(np.tile(lines, 6), t.ravel()).reshape(6, -1)
    answers.are_straight(np.concatenate([rows[:3].T, rows[3:].T]))
    return [Stretch(int(i), rows[:, i]) for i in lines]


def advance(
    answers: Answers, stretches: list[Stretch], ended: Ended, step: float, rng: np.random.Generator
) -> list[Stretch]:
    """Look at every open stretch, and ask what decides about it.

    Returns:
        The stretches that are open now; breakpoints and stretches given up are added to `ended`.
    """
    answers.measure_units()
    wanted = _decide(answers, stretches, ended, step, rng)
    if not wanted:
        return []
    line = np.array([s.line for s, places, _ in wanted for _ in places], dtype=np.intp)
    t = np.array([p for _, places, _ in wanted for p in places])
    rows = answers.add(line, t)
    after: list[Stretch] = []
    splits: list[Stretch] = []
    at = 0
    for stretch, places, why in wanted:
        new = rows[at : at + len(places)]
        at += len(places)
        every = np.append(stretch.rows, new)
        every = every[np.argsort(answers.t[every], kind="stable")]
        if why == "split":
            splits.append(replace(stretch, rows=every))
        elif why == "meet":
            after.append(replace(stretch, rows=every, probe=places[0], looks=stretch.looks + 1))
        else:
            after.append(replace(stretch, rows=every))
    return after + _split(answers, splits)


def _decide(
    answers: Answers, open_: list[Stretch], ended: Ended, step: float, rng: np.random.Generator
) -> list[tuple[Stretch, list[float], str]]:
    """What to ask of stretches; those that are decided end."""
    t, y, sigma, counts = _padded(answers, open_)
    most = limit(y.shape[2])
    first, last = t[:, 0], t[:, -1]
    one = straight(t, y, sigma)[1].max(axis=1) <= most
    seen = np.arctan(t)
    full = covered(seen, WIDEST_GAP) & (counts >= 7)
    draw = rng.uniform(0.35, 0.65, len(open_))
    gap = np.diff(seen, axis=1).argmax(axis=1)
    wanted = [
        (open_[i], [_between(float(t[i, gap[i]]), float(t[i, gap[i] + 1]), draw[i])], "look")
        for i in np.flatnonzero(one & ~full)
    ]
    bent = np.flatnonzero(~one)
    if not len(bent):
        return wanted
    met = meeting(t[bent], y[bent], sigma[bent], counts[bent], MEETING_SPLITS)
    room = np.maximum(np.minimum(met.t - first[bent], last[bent] - met.t), 0)
    doubt = met.sigma * 2.0 ** np.maximum(0, np.array([open_[i].looks for i in bent]) - MEETING_ROUNDS)
    # Beside it, but within the stretch, however vaguely it is known.
    away = np.minimum(np.maximum(ASIDE * doubt, RESOLUTION * np.maximum(1.0, np.abs(met.t))), room / 3)
    vague = ASIDE * doubt > room / 3
    beside = _beside(t[bent], met.t, doubt, away)
    for j, i in enumerate(bent):
        stretch, here = open_[i], t[i, : counts[i]]
        place, error = float(met.t[j]), float(met.sigma[j])
        if met.worst[j] <= most:
            if beside[j] and not vague[j]:
                wanted.append((stretch, beside[j], "meet"))
                continue
            todo: list[float] = []
            if vague[j] or away[j] > EXACT * (last[i] - first[i]):
                todo = _wide_gaps(here, int(met.split[j]), draw[i], VAGUE_GAP if vague[j] else CLEAR_GAP)
            if todo:
                wanted.append((stretch, todo, "look"))
            else:
                ended.breakpoints.append((stretch.line, place, error))
        elif stretch.tries > STRETCH_SPLITS or last[i] - first[i] <= 4 * RESOLUTION * max(1.0, abs(float(first[i]))):
            ended.unresolved.append((stretch.line, float(first[i]), float(last[i])))
        else:
            wanted.append(_where_to_split(stretch, here, place, error, step, draw[i]))
    return wanted


def _padded(answers: Answers, stretches: list[Stretch]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places, answers and deviations of stretches as tables of equally many columns, and how many each has.

    The last answer is repeated with an infinite deviation, which says nothing.
    """
    counts = np.array([len(s.rows) for s in stretches])
    column = np.arange(counts.max())
    rows = np.concatenate([s.rows for s in stretches])
    rows = rows[(np.cumsum(counts) - counts)[:, None] + np.minimum(column, counts[:, None] - 1)]
    t, y, sigma = answers.table(rows)
    sigma[column >= counts[:, None]] = np.inf
    return t, y, sigma, counts


def _beside(
    t: Float[np.ndarray, "B K"],
    place: Float[np.ndarray, " B"],
    doubt: Float[np.ndarray, " B"],
    aside: Float[np.ndarray, " B"],
) -> list[list[float]]:
    """Where to ask before breakpoints are believed: there, then just before and just after."""
    off = np.abs(t - place[:, None])
    unseen = off.min(axis=1) > np.maximum(3 * doubt, RESOLUTION * np.maximum(1.0, np.abs(place)))
    off = np.where(off >= aside[:, None] / 2, t, np.inf)
    sides = np.stack([place - aside, place + aside], axis=1)
    inside = (t[:, :1] < sides) & (sides < t[:, -1:])
    open_ = inside & (np.abs(off[:, None] - sides[:, :, None]).min(axis=2) > 1.5 * aside[:, None])
    return [
        [float(at)] if new else each[still].tolist()
        for at, new, each, still in zip(place, unseen, sides, open_, strict=True)
    ]


def _wide_gaps(t: np.ndarray, split: int, part: float, share: float) -> list[float]:
    """Places within gaps that take more than this share of a line's side."""
    gaps = []
    for side in (t[: split + 1], t[max(split - 1, 0) :]):
        seen = np.arctan(side)
        width = np.diff(seen)
        if len(width) and width.max() > share * (seen[-1] - seen[0]):
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
    stretch: Stretch, t: np.ndarray, place: float, error: float, step: float, part: float
) -> tuple[Stretch, list[float], str]:
    """A short step around the place that two lines were thought to meet, or around one in the widest gap.

    Where lines meet beside the answers, or right at one, nothing would be split off; and where a short step is too
    short to show a breakpoint it must not lie around one, for then neither side would.
    """
    seen = np.arctan(t)
    at, known = place, False
    if stretch.probe in t:
        at, known = stretch.probe, True
    near = np.abs(t - at)
    usable = _clear(seen, float(np.arctan(at))) and step * float(near[near > 0].min()) > ASIDE * error
    if stretch.tries or not usable:
        gap = int(np.diff(seen).argmax())
        at, known = _between(t[gap], t[gap + 1], part), False
    others = np.abs(t - at)
    half = max(step * float(others[others > 0].min()) * 0.25**stretch.tries, 1e-13 * max(1.0, abs(at)))
    places = [at - half, at + half] if known else [at, at - half, at + half]
    return replace(stretch, probe=at), places, "split"


def _clear(t: np.ndarray, at: float) -> bool:
    """Whether a place is clear of the answers around it and of the stretch's ends."""
    if not t[0] < at < t[-1]:
        return False
    left, right = int(np.searchsorted(t, at)), int(np.searchsorted(t, at, side="right"))
    near = min(at - t[left - 1], t[right] - at)
    return bool(near > CLOSE * (t[right] - t[left - 1]) and min(at - t[0], t[-1] - at) > CLOSE * (t[-1] - t[0]))


def _split(answers: Answers, stretches: list[Stretch]) -> list[Stretch]:
    """Two stretches each that share a short straight step; the same one again where that step was not straight."""
    if not stretches:
        return []
    middle = [int(np.flatnonzero(answers.t[s.rows] == s.probe)[0]) for s in stretches]
    steps = np.array([s.rows[i - 1 : i + 2] for s, i in zip(stretches, middle, strict=True)])
    after: list[Stretch] = []
    for stretch, i, straight_there in zip(stretches, middle, answers.are_straight(steps), strict=True):
        if straight_there:
            after += [Stretch(stretch.line, stretch.rows[: i + 2]), Stretch(stretch.line, stretch.rows[i - 1 :])]
        else:
            after.append(replace(stretch, tries=stretch.tries + 1, probe=np.nan))
    return after
