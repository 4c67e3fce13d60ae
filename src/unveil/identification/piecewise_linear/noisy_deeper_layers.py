"""Onward: the layers behind the first from answers with few digits, each from bends that are followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.piecewise_linear.critical_point import Layer, across, along, row_space, zeros
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplane_tracing import Bend, Followed, follow
from unveil.identification.piecewise_linear.normals import expected_error, inside
from unveil.identification.piecewise_linear.partial_network import Behind
from unveil.identification.piecewise_linear.probe import Probe

# Lines searched at a time, and most per layer.
LINES, MOST_LINES = 4, 80
# Normals with larger errors are not followed.
VAGUE = 0.1
# Deviations, and distance relative to 1 + |x|, within which a breakpoint is a known neuron's.
NEAR, SAME = 6.0, 1e-5
# Part of a derivative that the active neurons may leave, besides its error.
LEFT = 0.02
# Share of the derivatives that must be sums of a layer's active neurons for it to be whole, and how many must tell.
WHOLE, TELLING = 0.95, 20
# Rounds of lines that must show nothing new before; the share after more of them, when neurons that hardly ever matter
# are left; and the rounds after which it is given up.
CALM, NEARLY, QUIET, LOST = 2, 0.9, 6, 8
# Share of the places where a neuron must bend lines that were searched, and does.
OFTEN = 0.7
# Neurons whose known weights differ less are one.
ALIKE = 0.03
# Derivatives with a neuron's share that must not call for it before it is left out.
FEW = 5
# Derivatives that decide sides, and the largest weight of one that nothing explains.
TURNS, FAIR = 200, 5.0
# Share of the answers' spread that may be left behind the last layer.
ENDS = 0.01


@dataclass(frozen=True)
class Station:
    """Where a derivative was measured, (m, d), and the error of each entry."""

    x: Float[np.ndarray, " d"]
    slope: Float[np.ndarray, "m d"]
    error: float


class Onward:
    """Reads layers as seen from the first one's values, all of them positive.

    Attributes:
        layers: Read whole, sides settled.
        partial: Of the next one, sides unknown.
        ends: Whether nothing lies behind the last of `layers`.
    """

    def __init__(self, ask: Ask, frame: Frame, noise: Rounding, rng: np.random.Generator) -> None:
        d = frame.d
        self.ask: Ask = lambda z: ask(z @ frame.lift.T + frame.shift)
        stretch = float(np.linalg.norm(frame.lift)) / np.sqrt(d)
        self.noise = Rounding(noise.floor, noise.size / stretch, noise.relative, noise.straight)
        eye = np.eye(d)
        self.frame = Frame(eye, np.zeros(d), eye, eye, np.zeros(d), eye, np.zeros(d))
        self.rng = rng
        self.layers: list[Layer] = []
        self.spreads: list[np.ndarray] = []
        self.partial: list[Followed] = []
        self.ends = False
        self.enough: Callable[[], bool] = lambda: False
        self.lines: list[Line] = []
        self.stations: list[Station] = []
        self.bends: list[Bend] = []

    def read(self, most_layers: int, enough: Callable[[], bool]) -> None:
        """Layer after layer until one is the last, cannot be read whole, or enough was asked."""
        self.enough = enough
        for _ in range(most_layers):
            layer = self._layer()
            if layer is None:
                return
            self.layers.append(layer)
            self.spreads.append(np.array([one.spread for one in self.partial]))
            self.partial = []
            if self._last():
                self.ends = True
                return

    def _layer(self) -> Layer | None:
        found = self.partial = []
        looked: set[int] = set()
        quiet = searched = 0
        while searched < MOST_LINES and quiet < LOST:
            had = len(found)
            behind = self._behind()
            fresh = [i for i in range(len(self.bends)) if i not in looked]
            for i in sorted(fresh, key=lambda i: self.bends[i].error):
                looked.add(i)
                if self.enough():
                    return None
                seen = self.bends[i]
                if self._explained(seen.x[None], np.zeros(1), found)[0]:
                    continue
                one = follow(behind, seen, self.rng)
                if one is not None:
                    _keep(found, one)
            found[:] = [one for one in found if self._met(one) >= OFTEN]
            quiet = 0 if len(found) > had else quiet + 1
            layer = self._whole(found, WHOLE if quiet < QUIET else NEARLY) if quiet >= CALM else None
            if layer is not None:
                return layer
            self._search(found)
            searched += LINES
        return None

    def _behind(self) -> Behind:
        length = sum((each.high - each.low) * np.linalg.norm(each.direction) for each in self.lines)
        spacing = length / max(1, sum(len(each.t) for each in self.lines))
        return Behind(self.ask, self.frame, self.layers, self.spreads, self.noise, float(spacing))

    def _explained(self, x: np.ndarray, width: np.ndarray, found: list[Followed]) -> np.ndarray:
        """Which of these breakpoints, known to within a width, are known neurons'."""
        slack = SAME * (1 + np.linalg.norm(x, axis=1)) + width
        out = np.zeros(len(x), dtype=bool)
        if not len(x):
            return out
        behind = self._behind()
        for k in range(len(self.layers)):
            there = replace(behind, layers=self.layers[: k + 1]).see(x)
            size = np.linalg.norm(replace(there, on=np.ones_like(there.on)).moves(), axis=2)
            out |= (np.abs(there.sums[-1]) <= slack[:, None] * size).any(axis=1)
        if found:
            there = behind.see(x)
            h, on = there.h, there.on
            g = np.concatenate([h, np.ones((len(x), 1))], axis=1)
            for one in found:
                rate = np.linalg.norm(there.back(one.weights * on), axis=1)
                doubt = np.sqrt(np.einsum("pi,ij,pj->p", g, one.spread, g))
                blind = (on & ~one.known).any(axis=1)
                out |= ~blind & (np.abs(h @ one.weights + one.bias) <= NEAR * doubt + slack * rate)
        return out

    def _met(self, one: Followed) -> float:
        """Share of the places where this neuron must bend lines and they were seen to bend."""
        should = were = 0
        for line in self.lines:
            t, h = along(self.layers, line.base, line.direction, line.low, line.high)
            at, piece, _ = zeros(t, (h @ one.weights + one.bias)[:, None])
            blind = (
                (np.maximum(h[piece], h[piece + 1]) > 0) @ ~one.known if self.layers else np.zeros(len(at), dtype=bool)
            )
            at, piece = at[~blind], piece[~blind]
            g = np.concatenate([h[piece], np.ones((len(piece), 1))], axis=1)
            rate = np.abs((h[piece + 1] - h[piece]) @ one.weights) / np.maximum(t[piece + 1] - t[piece], 1e-300)
            doubt = NEAR * np.sqrt(np.einsum("pi,ij,pj->p", g, one.spread, g)) / np.maximum(rate, 1e-300)
            off = np.abs(at[:, None] - line.t) - 3 * line.width - doubt[:, None]
            should += len(at)
            were += int((off.min(axis=1, initial=np.inf) < SAME * (1 + np.abs(at)) * 10).sum())
        return were / should if should else 1.0

    def _search(self, found: list[Followed]) -> None:
        """More lines; derivatives beside breakpoints that no neuron explains."""
        base, direction, low, high = self.frame.lines(LINES, 1e3, self.rng)
        for line in line_search(self.ask, base, direction, low, high, self.noise, self.rng):
            self.lines.append(line)
            width = 3 * line.width * np.linalg.norm(line.direction)
            wanted = ~self._explained(line.points, width, found)
            wanted &= expected_error(self.frame, line, self.noise) < VAGUE
            self._look(line, np.flatnonzero(wanted))

    def _look(self, line: Line, wanted: np.ndarray) -> None:
        """Normals at these breakpoints from derivatives on both sides, along what moves the layers known."""
        pieces = np.unique(np.concatenate([wanted, wanted + 1]))
        where, radius = inside(line, pieces)
        slopes: dict[int, Station] = {}
        x, radius = line.inputs(where), radius * np.linalg.norm(line.direction)
        for piece, at, r in zip(pieces, x, radius, strict=True):
            station = self._derivative(at, r)
            if station is not None:
                slopes[int(piece)] = station
                self.stations.append(station)
        for p in wanted:
            if p not in slopes or p + 1 not in slopes:
                continue
            before, after = slopes[p], slopes[p + 1]
            jump = line.jump[p]
            if not jump.any():
                continue
            normal = jump @ (after.slope - before.slope) / (jump @ jump)
            size = float(np.linalg.norm(normal))
            if size == 0:
                continue
            d = len(normal)
            error = float(np.hypot(before.error, after.error)) * np.sqrt(d) / (float(np.linalg.norm(jump)) * size)
            off = abs(float(normal @ line.direction) - 1) / (size * np.linalg.norm(line.direction) / np.sqrt(d))
            if error < VAGUE and off <= 5 * error + 0.05:
                self.bends.append(Bend(line.points[p], normal / size, error, jump * size))

    def _derivative(self, x: np.ndarray, radius: float) -> Station | None:
        behind = self._behind()
        span = row_space(behind.see(x[None]).moves()[0]) if self.layers else np.eye(len(x))
        if not span.shape[1]:
            return None
        # A random step along r directions is as long as its coordinates together.
        room = np.array([radius / np.sqrt(span.shape[1])])
        slope, error = derivatives(Probe(self.ask, self.noise, self.rng), across(span), x[None], room)
        return Station(x, slope[0] @ span.T, float(error[0])) if np.isfinite(error[0]) else None

    def _whole(self, found: list[Followed], least: float) -> Layer | None:
        """All neurons of the layer, sides settled, if every derivative is a sum of the active ones'."""
        if not found:
            return None
        rows, bias = np.array([one.weights for one in found]), np.array([one.bias for one in found])
        behind = self._behind()
        # Where the answers do not change at all a derivative tells nothing.
        mixed = [_Mixed.of(behind, station, rows, bias) for station in self.stations if station.slope.any()]
        mixed = [m for m in mixed if m.slope.any() and m.slack > 0]
        everyone = np.ones(len(rows), dtype=bool)
        if not mixed:
            return None
        if np.mean([m.left(everyone) > 1 for m in mixed if m.tells(everyone)] or [False]) > 1 - least:
            return None
        side = self._sides(rows, bias, mixed)
        # Those that no derivative calls for were met by mistake, or twice.
        for i in range(len(rows)):
            others = everyone & (np.arange(len(rows)) != i)
            with_it = [m for m in mixed if m.up[i] == (side[i] > 0)]
            if len(with_it) >= FEW and self._wrong(with_it, side, others) <= self._wrong(with_it, side, everyone):
                everyone = others
        telling = [m for m in mixed if m.tells(everyone & (m.up == (side > 0)))]
        if len(telling) < TELLING or self._wrong(telling, side, everyone) > 1 - least:
            return None
        found[:] = [one for one, kept in zip(found, everyone, strict=True) if kept]
        return (rows * side[:, None])[everyone], (bias * side)[everyone]

    def _wrong(self, mixed: list[_Mixed], side: np.ndarray, chosen: np.ndarray) -> float:
        """Share of these derivatives that the active ones of the chosen neurons do not add up to."""
        return float(np.mean([m.left(chosen & (m.up == (side > 0))) > 1 for m in mixed]))

    def _sides(self, rows: np.ndarray, bias: np.ndarray, mixed: list[_Mixed]) -> np.ndarray:
        """Which sides are active: on the other one a neuron has no share in a derivative."""
        squares, seen = np.zeros((2, len(rows))), np.zeros((2, len(rows)))
        each = np.arange(len(rows))
        for m in mixed:
            share = np.linalg.lstsq(m.parts.T, m.slope.T, rcond=0.01)[0] / np.linalg.norm(m.slope)
            squares[m.up.astype(int), each] += (share**2).sum(axis=1)
            seen[m.up.astype(int), each] += 1
        mean = squares / np.maximum(seen, 1)
        side = np.where(mean[1] >= mean[0], 1.0, -1.0)
        # Where more neurons than directions move these are only votes: what derivatives leave decides.
        some = mixed[:: max(1, len(mixed) // TURNS)]

        def left(side: np.ndarray) -> float:
            return float(np.mean([min(m.left(m.up == (side > 0)), FAIR) for m in some]))

        now = left(side)
        doubt = np.argsort(np.abs(mean[1] - mean[0]) / np.maximum(mean.sum(axis=0), 1e-300))
        for _ in range(3):
            before = now
            for i in doubt:
                other = side.copy()
                other[i] *= -1
                then = left(other)
                if then < now:
                    side, now = other, then
            if now == before:
                break
        return side

    def _last(self) -> bool:
        """Whether the answers are a linear function of the last layer's values."""
        k = len(self.layers[-1][1])
        x = self.frame.sample(3 * k + 60, self.rng)
        y = self.ask(x)
        F = np.concatenate([self._behind().see(x).h, np.ones((len(x), 1))], axis=1)
        fitted = np.arange(len(x)) % 3 > 0
        out = np.linalg.lstsq(F[fitted], y[fitted], rcond=None)[0]
        left = y[~fitted] - F[~fitted] @ out
        return bool(float(np.sqrt((left**2).mean())) <= ENDS * float(y.std()))


def _keep(found: list[Followed], new: Followed) -> None:
    """One more neuron, or more of one that was found before."""
    for i, old in enumerate(found):
        both = old.known & new.known
        a, b = old.weights[both], new.weights[both]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        if both.sum() > 2 and size > 0 and abs(a @ b) > (1 - ALIKE**2 / 2) * size:
            if new.known.sum() > old.known.sum():
                found[i] = new
            return
    found.append(new)


@dataclass(frozen=True)
class _Mixed:
    """A derivative as a sum of neurons' normals, along the directions in which what is known moves.

    Attributes:
        parts: (k, r) their normals.
        up: (k,) where they are positive.
        slope: (m, r) the derivative.
        slack: What may be left of it.
    """

    parts: Float[np.ndarray, "k r"]
    up: Bool[np.ndarray, " k"]
    slope: Float[np.ndarray, "m r"]
    slack: float

    @classmethod
    def of(cls, behind: Behind, station: Station, rows: np.ndarray, bias: np.ndarray) -> _Mixed:
        """At this station."""
        there = behind.see(station.x[None])
        moves = there.moves()[0]
        span = row_space(moves)
        slope = station.slope @ span
        slack = LEFT * float(np.linalg.norm(slope)) + 3 * station.error * np.sqrt(slope.size)
        return cls(rows @ moves @ span, rows @ there.h[0] + bias > 0, slope, slack)

    def tells(self, active: Bool[np.ndarray, " k"]) -> bool:
        """Whether these neurons' normals could fail to add up to it."""
        return bool(active.sum() < self.parts.shape[1])

    def left(self, active: Bool[np.ndarray, " k"]) -> float:
        """What is left when these neurons explain as much as they can, in units of what may be."""
        if not active.any():
            return float(np.linalg.norm(self.slope)) / self.slack
        q = np.linalg.qr(self.parts[active].T)[0]
        return float(np.linalg.norm(self.slope - (self.slope @ q) @ q.T)) / self.slack
