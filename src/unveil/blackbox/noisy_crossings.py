"""Breakpoints along lines where answers carry few digits: straight stretches first, bends where two of them meet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import Breakpoints
from unveil.blackbox.rounding import Ask, Rounding
from unveil.outcome import BadInput

# Answers at this many points, both ends among them, say whether a stretch is straight.
POINTS = 5
# Stretches a line is cut into before anything is known.
FIRST = 24
# Halvings after which a stretch counts as straight, whatever it looks like.
ROUNDS = 24


def limit(outputs: int) -> float:
    """Standard deviations, root mean square over the outputs, that the worst residual of a straight stretch may have.

    Rounding is not normally distributed, and known to a factor of two at best.
    """
    return 2.5 + 3.5 / float(np.sqrt(outputs))


def noisy_breakpoints(
    ask: Ask,
    base: Float[np.ndarray, "L n"],
    direction: Float[np.ndarray, "L n"],
    low: Float[np.ndarray, " L"] | float,
    high: Float[np.ndarray, " L"] | float,
    noise: Rounding,
) -> list[Breakpoints]:
    """Find the breakpoints on many lines that stand out of the noise.

    A stretch whose answers do not fit a line is halved. Halving ends by itself: what a bend does to the answers shrinks
    with the stretch until it drowns. Stretches that fit one line together are joined, the longest first, so that every
    slope comes from as long a piece as there is; where neighbours meet is a breakpoint. Single values and slopes over
    short steps are never trusted: that is how bends are lost when answers have seven digits.

    Args:
        ask: Answers questions; piecewise linear up to its noise.
        base: A point per line.
        direction: A direction per line; bends are expected at t of order one.
        low: Where the search begins, one for all or one per line.
        high: Where it ends.
        noise: How exact the answers are.

    Raises:
        BadInput: An empty interval.

    Queries: `(4 FIRST + 1) L`, and four per breakpoint and halving: about 40 per breakpoint in float32.
    """
    lines = len(base)
    low = np.broadcast_to(np.asarray(low, dtype=np.float64), (lines,))
    high = np.broadcast_to(np.asarray(high, dtype=np.float64), (lines,))
    if not (low < high).all():
        raise BadInput("every line needs low < high")
    leaves = _Halving(ask, base, direction, noise).run(low, high)
    out = []
    for i in range(lines):
        mine = leaves.take(np.flatnonzero(leaves.line == i))
        out.append(_join(mine, noise.floor, float(low[i]), float(high[i])))
    return out


@dataclass
class _Stretches:
    """Stretches of lines with answers at `POINTS` points each: y in units of its deviation at the reference, s times
    which it has here."""

    line: np.ndarray
    t: np.ndarray
    y: np.ndarray
    s: np.ndarray

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: np.ndarray) -> _Stretches:
        return _Stretches(self.line[rows], self.t[rows], self.y[rows], self.s[rows])

    @staticmethod
    def join(parts: list[_Stretches]) -> _Stretches:
        return _Stretches(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


class _Halving:
    """The search for stretches that are straight up to noise."""

    def __init__(self, ask: Ask, base: np.ndarray, direction: np.ndarray, noise: Rounding) -> None:
        self.ask, self.base, self.direction, self.noise = ask, base, direction, noise
        self.most = limit(len(noise.floor))

    def run(self, low: np.ndarray, high: np.ndarray) -> _Stretches:
        count = len(low)
        # Bends of random lines are Cauchy distributed: equal angles hold equally many.
        t = np.tan(np.linspace(np.arctan(low), np.arctan(high), FIRST * (POINTS - 1) + 1, axis=1))
        t = np.clip(t, low[:, None], high[:, None])
        line = np.arange(count)
        y, s = self._answers(line, t)
        pick = (POINTS - 1) * np.arange(FIRST)[:, None] + np.arange(POINTS)
        cut = [v[:, pick].reshape(count * FIRST, POINTS, *v.shape[2:]) for v in (t, y, s)]
        open_ = _Stretches(np.repeat(line, FIRST), *cut)
        done: list[_Stretches] = []
        unit, seen = 1.0, 0
        for number in range(ROUNDS + 1):
            worst, rms = _residuals(open_.t, open_.y, open_.s)
            straight = (worst <= self.most * unit) | (number == ROUNDS)
            done.append(open_.take(np.flatnonzero(straight)))
            if number < ROUNDS and straight.any():
                # What straight stretches leave says how large the noise is here, if the first look was too hopeful.
                fresh = int(straight.sum())
                unit = max(unit, min(8.0, float(np.sqrt((rms[straight] ** 2).mean()))) if fresh > 20 else unit)
                seen += fresh
            open_ = self._halve(open_.take(np.flatnonzero(~straight)))
            if not len(open_):
                break
        out = _Stretches.join(done)
        out.s *= unit
        return out

    def _answers(self, line: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = self.base[line][:, None] + t[:, :, None] * self.direction[line][:, None]
        x = x.reshape(-1, x.shape[2])
        y = self.ask(x) / self.noise.floor
        return y.reshape(*t.shape, -1), (1 + np.linalg.norm(x, axis=1) / self.noise.size).reshape(t.shape)

    def _halve(self, e: _Stretches) -> _Stretches:
        """Two stretches each: three of their five points are known."""
        if not len(e):
            return e
        between = (e.t[:, 1:] + e.t[:, :-1]) / 2
        y, s = self._answers(e.line, between)
        full = 2 * POINTS - 1
        t_all, s_all = np.empty((len(e), full)), np.empty((len(e), full))
        y_all = np.empty((len(e), full, y.shape[2]))
        for whole, old, new in ((t_all, e.t, between), (y_all, e.y, y), (s_all, e.s, s)):
            whole[:, ::2], whole[:, 1::2] = old, new
        halves = [slice(0, POINTS), slice(POINTS - 1, full)]
        return _Stretches.join([_Stretches(e.line, t_all[:, h], y_all[:, h], s_all[:, h]) for h in halves])


def _residuals(t: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the best line through each stretch: the worst point (rms over outputs), and the rms per degree of freedom."""
    _, _, r = _fit(t, y, s)
    square = (r**2).mean(axis=-1)
    return np.sqrt(square.max(axis=-1)), np.sqrt(square.sum(axis=-1) / max(1, t.shape[-1] - 2))


def _fit(t: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted least squares lines: (centre, mean, slope) as one array, deviations of mean and slope, residuals / s."""
    w = 1 / s**2
    total = w.sum(axis=-1)
    centre = (w * t).sum(axis=-1) / total
    off = t - centre[..., None]
    spread = np.maximum((w * off**2).sum(axis=-1), 1e-300)
    mean = (w[..., None] * y).sum(axis=-2) / total[..., None]
    slope = ((w * off)[..., None] * (y - mean[..., None, :])).sum(axis=-2) / spread[..., None]
    r = (y - mean[..., None, :] - off[..., None] * slope[..., None, :]) / s[..., None]
    line = np.concatenate([centre[..., None], mean, slope], axis=-1)
    return line, np.stack([1 / np.sqrt(total), 1 / np.sqrt(spread)], axis=-1), r


@dataclass(frozen=True)
class _Piece:
    """The line through samples first..last, and whether it fits them."""

    first: int
    last: int
    centre: float
    mean: np.ndarray
    slope: np.ndarray
    mean_error: float
    slope_error: float
    fits: bool

    def at(self, t: np.ndarray | float) -> np.ndarray:
        return np.asarray(self.mean + (np.asarray(t)[..., None] - self.centre) * self.slope)


class _Line:
    """All answers on one line in order."""

    def __init__(self, leaves: _Stretches) -> None:
        order = np.argsort(leaves.t[:, 0], kind="stable")
        t, y, s = (v[order] for v in (leaves.t, leaves.y, leaves.s))
        last = slice(-1, None)
        self.t = np.concatenate([t[:, :-1].ravel(), t[last, -1]])
        self.y = np.concatenate([y[:, :-1].reshape(-1, y.shape[2]), y[last, -1]])
        self.s = np.concatenate([s[:, :-1].ravel(), s[last, -1]])
        self.leaves = len(t)
        self.most = limit(y.shape[2])

    def length(self, first: int, last: int) -> float:
        return float(self.t[last] - self.t[first])

    def piece(self, first: int, last: int) -> _Piece:
        part = slice(first, last + 1)
        line, errors, r = _fit(self.t[part], self.y[part], self.s[part])
        m = self.y.shape[1]
        fits = bool(np.sqrt((r**2).mean(axis=1).max()) <= self.most)
        centre, mean, slope = float(line[0]), line[1 : m + 1], line[m + 1 :]
        return _Piece(first, last, centre, mean, slope, float(errors[0]), float(errors[1]), fits)

    def hinge(self, a: _Piece, b: _Piece) -> tuple[float, float, bool]:
        """Where two lines meet, how well that is known, and whether all samples between them say so too."""
        bend = b.slope - a.slope
        strength = max(float(bend @ bend), 1e-300)
        start, end = float(self.t[a.last]), float(self.t[b.first])
        middle = (start + end) / 2
        t = float(middle + (a.at(middle) - b.at(middle)) @ bend / strength)
        # The ends of pieces reach a little past a bend, as far as it is drowned.
        here = float(self.s[a.last])
        error = float(np.hypot(*(np.hypot(p.mean_error, p.slope_error * (middle - p.centre)) for p in (a, b))))
        width = self.most * error / np.sqrt(strength)
        slack = width + self.most * here * np.sqrt(len(bend) / strength)
        inside = start - slack <= t <= end + slack
        t = min(max(t, start - slack), end + slack)
        gap = float(np.sqrt(((a.at(t) - b.at(t)) ** 2).mean()))
        between = slice(a.last, b.first + 1)
        at = self.t[between]
        r = self.y[between] - np.where((at <= t)[:, None], a.at(at), b.at(at))
        agree = bool((np.sqrt((r**2).mean(axis=1)) <= self.most * np.hypot(self.s[between], error)).all())
        return t, width, agree and inside and gap <= self.most * np.hypot(here, error)


def _join(leaves: _Stretches, floor: np.ndarray, low: float, high: float) -> Breakpoints:
    """Pieces out of stretches, and where they meet."""
    line = _Line(leaves)
    gaps = POINTS - 1
    owned = np.zeros(line.leaves, dtype=bool)
    pieces: list[_Piece] = []
    for seed in sorted(range(line.leaves), key=lambda i: -line.length(i * gaps, (i + 1) * gaps)):
        if owned[seed]:
            continue
        here = line.piece(seed * gaps, (seed + 1) * gaps)
        for step in (1, -1):
            i = seed + step
            while 0 <= i < line.leaves and not owned[i]:
                wider = line.piece(min(here.first, i * gaps), max(here.last, (i + 1) * gaps))
                if not wider.fits:
                    break
                here, i = wider, i + step
        owned[here.first // gaps : here.last // gaps] = True
        pieces.append(here)
    pieces.sort(key=lambda p: p.first)
    pieces = _without_remains(line, pieces)
    t, width, unresolved = [], [], []
    for a, b in pairwise(pieces):
        at, doubt, good = line.hinge(a, b)
        t.append(min(max(at, float(line.t[a.first])), float(line.t[b.last])))
        width.append(doubt)
        if not good:
            unresolved.append((float(line.t[a.last]), float(line.t[b.first])))
    slope = np.array([p.slope for p in pieces]) * floor
    order = np.argsort(t, kind="stable")
    where = np.array(t)[order]
    return Breakpoints(
        t=where,
        jump=np.diff(slope, axis=0)[order],
        slope=slope,
        value=np.array([a.at(x) * floor for a, x in zip(pieces, t, strict=False)]).reshape(-1, len(floor))[order],
        width=np.array(width)[order],
        low=low,
        high=high,
        unresolved=np.array(unresolved).reshape(-1, 2),
    )


def _without_remains(line: _Line, pieces: list[_Piece]) -> list[_Piece]:
    """Drop the short stretches that sit across a bend, shortest first, where their neighbours explain them."""
    while True:
        for i in sorted(range(1, len(pieces) - 1), key=lambda i: line.length(pieces[i].first, pieces[i].last)):
            if line.hinge(pieces[i - 1], pieces[i + 1])[2]:
                del pieces[i]
                break
        else:
            return pieces
