"""Breakpoints along lines: where a piecewise-linear function bends, exactly, from few queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import Breakpoints
from unveil.blackbox.rounding import Ask, Rounding
from unveil.outcome import BadInput

# A value agrees with a line when it is within this many times the noise that both carry.
AGREE = 8.0
# A breakpoint is looked at from this many times its own uncertainty away.
ASIDE = 24.0
# Rounds after which what is left is called unresolved. Every round at least halves what a pair can hide in.
ROUNDS = 200
# Queries per breakpoint after which what is left is called unresolved: answers that contradict each other split for
# ever.
PATIENCE = 60
# So many questions on one line find noise, not bends: two thousand neurons take fewer.
MOST = 30_000


def breakpoints(
    ask: Ask,
    base: Float[np.ndarray, "L n"],
    direction: Float[np.ndarray, "L n"],
    low: Float[np.ndarray, " L"] | float,
    high: Float[np.ndarray, " L"] | float,
    noise: Rounding,
    rng: np.random.Generator,
) -> list[Breakpoints]:
    """Find all breakpoints on many lines at once.

    An interval knows the line at either end. If both are the same line and a point between lies on it, nothing bends.
    Else
    they meet at some t*. One breakpoint is accepted only when the answers at t*, just before and just after it lie on
    the two
    lines; otherwise the interval is split. The look at both sides matters: where two neighbours bend in opposite
    directions the
    outer lines meet outside the pair, and the answer at t* alone agrees with both.

    Args:
        ask: Answers questions; piecewise linear.
        base: A point per line.
        direction: A direction per line. Splits expect bends at t of order one, however long the line is.
        low: Where the search begins, one for all or one per line.
        high: Where it ends.
        noise: How exact the answers are; every tolerance follows from it.
        rng: Draws where to split.

    Raises:
        BadInput: An empty interval.

    Queries: `6 L` and about 8 per breakpoint.

    Source: Carlini, Jagielski, Mironov, CRYPTO 2020 (arXiv:2003.04884), section 4.3.1, with the verification on both
        sides.
    """
    lines = len(base)
    low = np.broadcast_to(np.asarray(low, dtype=np.float64), (lines,))
    high = np.broadcast_to(np.asarray(high, dtype=np.float64), (lines,))
    if not (low < high).all():
        raise BadInput("every line needs low < high")
    search = _Search(ask, base, direction, noise, rng)
    open_ = search.start(low, high)
    for _ in range(ROUNDS):
        patience = min(PATIENCE * (8 * lines + sum(len(f) for f in search.found)), MOST * lines)
        if not len(open_) or search.asked > patience:
            break
        open_ = search.round(open_)
    for row in range(len(open_)):
        search.unresolved[open_.line[row]].append((open_.a[row], open_.b[row]))
    return [search.collect(i, low[i], high[i]) for i in range(lines)]


@dataclass
class _Ends:
    """Intervals [a, b] on lines, with value, slope and slope's uncertainty at either end (one row each)."""

    line: np.ndarray
    a: np.ndarray
    b: np.ndarray
    fa: np.ndarray
    sa: np.ndarray
    ea: np.ndarray
    fb: np.ndarray
    sb: np.ndarray
    eb: np.ndarray
    tries: np.ndarray

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: np.ndarray) -> _Ends:
        return _Ends(*(v[rows] for v in vars(self).values()))

    @staticmethod
    def join(parts: list[_Ends]) -> _Ends:
        return _Ends(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


class _Search:
    """The state of one search: what was found so far on every line."""

    def __init__(
        self, ask: Ask, base: np.ndarray, direction: np.ndarray, noise: Rounding, rng: np.random.Generator
    ) -> None:
        self.ask, self.base, self.direction, self.noise, self.rng = ask, base, direction, noise, rng
        # Long enough for a sharp slope, short enough to miss most bends.
        self.reach = float(np.clip(noise.relative**0.25, 1e-4, 0.05))
        self.found: list[list[tuple[float, np.ndarray, np.ndarray, np.ndarray, float]]] = [[] for _ in base]
        self.straight: list[list[tuple[float, float, np.ndarray]]] = [[] for _ in base]
        self.unresolved: list[list[tuple[float, float]]] = [[] for _ in base]
        self.asked = 0

    def values(self, line: np.ndarray, t: np.ndarray) -> np.ndarray:
        if not len(line):
            return np.empty((0, len(self.noise.floor)))
        self.asked += len(line)
        return self.ask(self.base[line] + t[:, None] * self.direction[line])

    def sigma(self, line: np.ndarray, t: np.ndarray) -> np.ndarray:
        if not len(line):
            return np.empty((0, len(self.noise.floor)))
        return self.noise.at(self.base[line] + t[:, None] * self.direction[line])

    def start(self, low: np.ndarray, high: np.ndarray) -> _Ends:
        """Value and slope at both ends of every line; a bend right there shortens the step."""
        count = len(low)
        line = np.arange(count)
        ends = []
        for end, inward in ((low, 1.0), (high, -1.0)):
            step = self.reach * np.minimum((high - low) / 4, np.maximum(np.abs(end), 1))
            value = self.values(line, end)
            slope, error = np.zeros_like(value), np.zeros_like(value)
            todo = np.ones(count, dtype=bool)
            for _ in range(12):
                half = self.values(line, end + inward * step / 2)
                full = self.values(line, end + inward * step)
                sigma = self.sigma(line, end)
                slope[todo] = (inward * (full - value) / step[:, None])[todo]
                error[todo] = (2 * sigma / step[:, None])[todo]
                bend = (np.abs(full - 2 * half + value) > AGREE * 2.5 * sigma).any(axis=1)
                todo &= bend
                if not todo.any():
                    break
                step = np.where(todo, step / 8, step)
            ends.append((value, slope, error))
        (fa, sa, ea), (fb, sb, eb) = ends
        return _Ends(line, low.copy(), high.copy(), fa, sa, ea, fb, sb, eb, np.zeros(count, dtype=int))

    def round(self, e: _Ends) -> _Ends:
        """Accept, or split, every open interval."""
        length = e.b - e.a
        na, nb = self.sigma(e.line, e.a), self.sigma(e.line, e.b)
        ends_noise = na + nb
        same = (np.abs(e.fa + e.sa * length[:, None] - e.fb) <= AGREE * (ends_noise + e.ea * length[:, None])).all(
            axis=1
        )
        same &= (np.abs(e.fb - e.sb * length[:, None] - e.fa) <= AGREE * (ends_noise + e.eb * length[:, None])).all(
            axis=1
        )

        # Where the two lines meet: least squares over the outputs, each in units of its own noise.
        weight = 1 / self.noise.floor
        bend = (e.sb - e.sa) * weight
        gap = (e.fa + e.sa * length[:, None] - e.fb) * weight  # of the left line above the right one, at b
        strength = (bend**2).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            meet = e.b + np.where(strength > 0, (gap * bend).sum(axis=1) / strength, -np.inf)
        inside = (meet > e.a) & (meet < e.b)
        meet = np.where(inside, meet, (e.a + e.b) / 2)
        to_a, to_b = (meet - e.a)[:, None], (e.b - meet)[:, None]
        left, right = e.fa + e.sa * to_a, e.fb - e.sb * to_b
        here = self.sigma(e.line, meet)
        tolerance = AGREE * (here + ends_noise / 2 + e.ea * np.abs(to_a) + e.eb * np.abs(to_b))
        possible = inside & ~same & (np.abs(left - right) <= tolerance).all(axis=1)
        with np.errstate(over="ignore"):
            doubt = np.sqrt(((tolerance * weight) ** 2).sum(axis=1) / np.maximum(strength, 1e-300))
        aside = ASIDE / AGREE * doubt
        # Too short to look at both sides: the resolution is reached, it is one breakpoint.
        tiny = ~same & (length <= 4 * aside) & (length <= 1e-6 * np.maximum(1, np.abs(e.a)))

        chord = self._between(e)
        probe = np.where(same, chord, meet)
        asked = same | (possible & ~tiny)
        y = np.zeros_like(e.fa)
        y[asked] = self.values(e.line[asked], probe[asked])
        on_chord = (np.abs(e.fa + (e.fb - e.fa) * ((chord - e.a) / length)[:, None] - y) <= AGREE * 2 * ends_noise).all(
            axis=1
        )
        nothing = same & on_chord
        on_both = (
            possible
            & ~tiny
            & (np.abs(y - left) <= tolerance).all(axis=1)
            & (np.abs(y - right) <= tolerance).all(axis=1)
        )
        room = (meet - aside > e.a) & (meet + aside < e.b)
        check = on_both & room

        rows = np.flatnonzero(check)
        before = self.values(e.line[rows], meet[rows] - aside[rows])
        after = self.values(e.line[rows], meet[rows] + aside[rows])
        wide = tolerance[rows] + AGREE * (e.ea[rows] + e.eb[rows]) * aside[rows][:, None]
        good = (np.abs(before - (left[rows] - e.sa[rows] * aside[rows][:, None])) <= wide).all(axis=1)
        good &= (np.abs(after - (right[rows] + e.sb[rows] * aside[rows][:, None])) <= wide).all(axis=1)
        # Lines known too vaguely to rule out small bends further away: the middles of both sides must lie on their
        # chords.
        vague = np.flatnonzero(good & (aside[rows] > 1e-8 * length[rows]))
        good[vague] = self._on_chord(
            e.take(rows[vague]), meet[rows[vague]], aside[rows[vague]], before[vague], after[vague]
        )
        single = np.zeros(len(e), dtype=bool)
        single[rows[good]] = True
        again = self._accept(
            e.take(rows[good]), meet[rows[good]], aside[rows[good]], before[good], y[rows[good]], after[good]
        )
        for row in np.flatnonzero(nothing):
            self._straight(e.line[row], e.a[row], e.b[row], e.fa[row], e.fb[row])
        for row in np.flatnonzero(tiny):
            self._keep(e, row, meet[row], left[row], length[row])
        rest = ~(nothing | single | tiny)
        # Where a split fails, a bend sits exactly there: try elsewhere.
        at = np.where(possible & ~on_both & (e.tries == 0), meet, chord)
        return _Ends.join([*again, self._split(e.take(rest), at[rest])])

    def _on_chord(
        self, e: _Ends, meet: np.ndarray, aside: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> np.ndarray:
        good = np.ones(len(e), dtype=bool)
        if len(e):
            for a, b, fa, fb in ((e.a, meet - aside, e.fa, before), (meet + aside, e.b, after, e.fb)):
                part = self.rng.uniform(0.3, 0.7, len(e))
                y = self.values(e.line, a + part * (b - a))
                allowed = AGREE * (self.sigma(e.line, a) + self.sigma(e.line, b))
                good &= (np.abs(y - fa - part[:, None] * (fb - fa)) <= allowed).all(axis=1)
        return good

    def _between(self, e: _Ends) -> np.ndarray:
        """A point inside, near the middle as seen through the arctangent: bends of a random line are Cauchy
        distributed."""
        lo, hi = np.arctan(e.a), np.arctan(e.b)
        at = np.tan(lo + (hi - lo) * self.rng.uniform(0.35, 0.65, len(e)))
        plain = e.a + (e.b - e.a) * self.rng.uniform(0.35, 0.65, len(e))
        far = (e.b - e.a) > 0.05 * np.maximum(1, np.minimum(np.abs(e.a), np.abs(e.b)))
        return np.asarray(np.where(far & (at > e.a) & (at < e.b), at, plain))

    def _split(self, e: _Ends, at: np.ndarray) -> _Ends:
        if not len(e):
            return e
        width = np.minimum(at - e.a, e.b - at)
        step = self.reach * width * 0.25**e.tries
        y0, ym, yp = (self.values(e.line, at + s * step) for s in (0, -1, 1))
        sigma = self.sigma(e.line, at)
        bent = (np.abs(yp - 2 * y0 + ym) > AGREE * 2.5 * sigma).any(axis=1)
        slope, error = (yp - ym) / (2 * step)[:, None], 1.5 * sigma / (2 * step)[:, None]
        parts = []
        retry = e.take(bent)
        retry.tries = retry.tries + 1
        give_up = (retry.tries > 12) | (retry.b - retry.a < 1e-13 * np.maximum(1, np.abs(retry.a)))
        for row in np.flatnonzero(give_up):
            self.unresolved[retry.line[row]].append((retry.a[row], retry.b[row]))
        parts.append(retry.take(~give_up))
        ok = ~bent
        o, zero = e.take(ok), np.zeros(int(ok.sum()), dtype=int)
        parts.append(_Ends(o.line, o.a, at[ok], o.fa, o.sa, o.ea, y0[ok], slope[ok], error[ok], zero))
        parts.append(_Ends(o.line, at[ok], o.b, y0[ok], slope[ok], error[ok], o.fb, o.sb, o.eb, zero))
        return _Ends.join(parts)

    def _accept(
        self, e: _Ends, meet: np.ndarray, aside: np.ndarray, before: np.ndarray, at: np.ndarray, after: np.ndarray
    ) -> list[_Ends]:
        """Sharpen with the long chords on both sides, and look again from closer by if that can show a pair."""
        if not len(e):
            return []
        ba, bb = meet - aside - e.a, e.b - meet - aside
        sa, sb = (before - e.fa) / ba[:, None], (e.fb - after) / bb[:, None]
        sigma = self.sigma(e.line, meet)
        ea = (sigma + self.sigma(e.line, e.a)) / ba[:, None]
        eb = (sigma + self.sigma(e.line, e.b)) / bb[:, None]
        weight = 1 / self.noise.floor
        bend = (sb - sa) * weight
        strength = np.maximum((bend**2).sum(axis=1), 1e-300)
        gap = (before + 2 * sa * aside[:, None] - after) * weight
        sharp = meet + aside + (gap * bend).sum(axis=1) / strength
        doubt = np.sqrt(((AGREE * 3 * sigma * weight) ** 2).sum(axis=1) / strength)
        closer = ASIDE / AGREE * doubt
        outside = np.abs(sharp - meet) > 2 * aside
        # Two bends may still hide between `before` and `after` where these were far apart for this line.
        look = ~outside & (closer < aside / 4) & (aside > 1e-9 * np.maximum(1, np.abs(meet)))
        rows = np.flatnonzero(look)
        fine = ~outside
        if len(rows):
            inner = [self.values(e.line[rows], sharp[rows] + s * closer[rows]) for s in (-1, 0, 1)]
            for s, y in zip((-1, 0, 1), inner, strict=True):
                off = (sharp[rows] + s * closer[rows] - meet[rows])[:, None]
                line_a = before[rows] + sa[rows] * (off + aside[rows][:, None])
                line_b = after[rows] + sb[rows] * (off - aside[rows][:, None])
                allowed = AGREE * 3 * sigma[rows] + (ea + eb)[rows] * aside[rows][:, None]
                fine[rows] &= (np.abs(y - (line_a if s <= 0 else line_b)) <= allowed).all(axis=1)
        for row in np.flatnonzero(fine):
            value = before[row] + sa[row] * (sharp[row] - meet[row] + aside[row])
            i = e.line[row]
            self.found[i].append((sharp[row], sa[row], sb[row], value, doubt[row]))
            self._straight(i, e.a[row], sharp[row], e.fa[row], value)
            self._straight(i, sharp[row], e.b[row], value, e.fb[row])
        bad = ~fine
        o = e.take(bad)
        if not len(o):
            return []
        zero = np.zeros(len(o), dtype=int)
        lo, hi = (meet - aside)[bad], (meet + aside)[bad]
        for j, row in enumerate(np.flatnonzero(bad)):
            self._straight(o.line[j], o.a[j], lo[j], o.fa[j], before[row])
            self._straight(o.line[j], hi[j], o.b[j], after[row], o.fb[j])
        return [_Ends(o.line, lo, hi, before[bad], sa[bad], ea[bad], after[bad], sb[bad], eb[bad], zero)]

    def _keep(self, e: _Ends, row: np.integer[Any], meet: float, value: np.ndarray, width: float) -> None:
        self.found[e.line[row]].append((meet, e.sa[row], e.sb[row], value, width))

    def _straight(self, line: int, a: float, b: float, fa: np.ndarray, fb: np.ndarray) -> None:
        self.straight[line].append((a, b, (fb - fa) / (b - a)))

    def collect(self, line: int, low: float, high: float) -> Breakpoints:
        """The breakpoints in order, and the slope of every piece from its longest straight stretch."""
        found = sorted(self.found[line], key=lambda f: f[0])
        m = len(self.noise.floor)
        t = np.array([f[0] for f in found])
        edges = np.concatenate([[low], t, [high]])
        slope = np.zeros((len(t) + 1, m))
        if found:
            slope[:-1] = [f[1] for f in found]
            slope[-1] = found[-1][2]
        longest = np.zeros(len(t) + 1)
        for a, b, s in self.straight[line]:
            piece = int(np.searchsorted(t, (a + b) / 2))
            if b - a > longest[piece] and a >= edges[piece] - 1e-9 and b <= edges[piece + 1] + 1e-9:
                longest[piece], slope[piece] = b - a, s
        return Breakpoints(
            t=t,
            jump=np.diff(slope, axis=0),
            slope=slope,
            value=np.array([f[3] for f in found]).reshape(-1, m),
            width=np.array([f[4] for f in found]),
            low=float(low),
            high=float(high),
            unresolved=np.array(self.unresolved[line]).reshape(-1, 2),
        )
