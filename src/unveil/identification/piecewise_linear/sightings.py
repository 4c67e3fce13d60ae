"""Sightings: what lines among the values of a first layer show of all layers behind it, measured once for all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import SHORT, CriticalPoint, normal_at
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.partial_network import explained
from unveil.identification.piecewise_linear.probe import Probe

LEFT_OUT_NORMAL_ERROR = 1e-5  # normals known worse than this are left out
# How far lines through usual values reach, and beyond both points those between unusual ones.
USUAL_LINE_REACH, UNUSUAL_LINE_OVERSHOOT = 3.0, 1.0
UNUSUAL_VALUE_SPREAD = 0.7  # how unequal values at unusual points are
# Places where rounding is measured, how far apart its answers are, and the quantile that is taken, so many times.
VALUE_ROUNDING_PLACES, ROUNDING_STEP_LENGTH, QUANTILE, ROUNDING_QUANTILE_FACTOR = 60, 1e-6, 0.95, 3.0
PLACES_TOGETHER = 6  # places of a line that are taken together at most


@dataclass(frozen=True)
class Sightings:
    """Critical points and derivatives along lines in the coordinates z of what a first layer's neurons see."""

    probe: Probe  # asks in these coordinates
    lines: tuple[Line, ...]  # searched
    x: Float[np.ndarray, "S d"]  # critical points
    normal: Float[np.ndarray, "S d"]  # unit normals of the hyperplanes there
    error: Float[np.ndarray, " S"]  # expected errors of these
    line: Int[np.ndarray, " S"]  # on which line each was met; of those met in another way all different, and negative
    at: Float[np.ndarray, "P d"]  # places between breakpoints
    piece: Int[np.ndarray, "P 2"]  # on which line each lies, and on which of its pieces
    slope: Float[np.ndarray, "P m d"]  # derivatives there
    doubt: Float[np.ndarray, " P"]  # expected errors of their entries
    room: Float[np.ndarray, " P"]  # how far random steps stay in the region there

    @classmethod
    def none(cls, probe: Probe, d: int) -> Sightings:
        """Before any line was searched."""
        empty, nothing = np.zeros((0, d)), np.zeros(0)
        slope = np.zeros((0, probe.m, d))
        none = np.zeros(0, dtype=int), empty, np.zeros((0, 2), dtype=int)
        return cls(probe, (), empty, empty, nothing, *none, slope, nothing, nothing)

    @property
    def d(self) -> int:
        """Neurons of the first layer."""
        return int(self.x.shape[1])

    def usual(self, count: int) -> Float[np.ndarray, "count d"]:
        """What the neurons see at usual inputs: rows have unit norm."""
        return self.probe.rng.standard_normal((count, self.d))

    def unusual(self, count: int) -> Float[np.ndarray, "count d"]:
        """Values of mixed sizes of which few or many are positive: there neurons switch that hardly do elsewhere."""
        rng = self.probe.rng
        sign = np.where(rng.random((count, self.d)) < rng.uniform(0.1, 0.9, (count, 1)), 1.0, -1.0)
        size = np.abs(rng.standard_normal((count, self.d)))
        return np.asarray(sign * size * np.exp(UNUSUAL_VALUE_SPREAD * rng.standard_normal((count, self.d))))

    def with_random(self, count: int) -> Sightings:
        """Half of the lines through usual values, half between unusual ones."""
        few = count // 2
        more = count - few
        start, end = self.unusual(more), self.unusual(more)
        base, direction = np.concatenate([self.usual(few), start]), np.concatenate([self.usual(few), end - start])
        low = np.repeat([-USUAL_LINE_REACH, -UNUSUAL_LINE_OVERSHOOT], [few, more])
        return self.searched(
            base, direction, low, np.repeat([USUAL_LINE_REACH, 1 + UNUSUAL_LINE_OVERSHOOT], [few, more])
        )

    def between(self, start: Float[np.ndarray, "L d"], end: Float[np.ndarray, "L d"]) -> Sightings:
        """With lines that lead from one point to another, and a little further."""
        if not len(start):
            return self
        return self.searched(start, end - start, np.full(len(start), -0.3), np.full(len(start), 1.3))

    def searched(
        self,
        base: Float[np.ndarray, "L d"],
        direction: Float[np.ndarray, "L d"],
        low: Float[np.ndarray, " L"],
        high: Float[np.ndarray, " L"],
    ) -> Sightings:
        """With everything these lines show."""
        probe, found = self.probe, self
        new = line_search(probe.ask, base, direction, low, high, probe.noise, probe.rng)
        own, x, radius, value = [], [], [], []
        for i, line in enumerate(new):
            if not len(line.t):
                continue
            middle, inner = _middles(line)
            pieces = np.flatnonzero(inner > SHORT * (1 + np.abs(middle)))
            own += [(i, int(p)) for p in pieces]
            x.append(line.inputs(middle[pieces]))
            radius.append(inner[pieces] / 4 * np.linalg.norm(line.direction) / np.sqrt(self.d))
            value.append(line.at(middle[pieces]))
        found = replace(self, lines=(*self.lines, *new))
        if not own:
            return found
        every = tuple(map(np.concatenate, (x, radius, value)))
        slope, doubt = derivatives(probe, Frame.of_input(self.d, None), *every)
        sure = np.isfinite(doubt)
        found = replace(
            found,
            at=np.concatenate([found.at, every[0][sure]]),
            piece=np.concatenate([found.piece, np.array([(len(self.lines) + i, p) for i, p in own])[sure]]),
            slope=np.concatenate([found.slope, slope[sure]]),
            doubt=np.concatenate([found.doubt, doubt[sure]]),
            room=np.concatenate([found.room, every[1][sure]]),
        )
        where = {place: k for k, place in enumerate(own) if sure[k]}
        met = []
        for (i, p), k in where.items():
            after = where.get((i, p + 1))
            if after is None:
                continue
            told = normal_at(new[i], p, (slope[k], slope[after]), (doubt[k], doubt[after]), self.d)
            if told is not None and told.error <= LEFT_OUT_NORMAL_ERROR:
                met.append((told, len(self.lines) + i))
        return found._met(met)

    def with_points(self, points: list[CriticalPoint]) -> Sightings:
        """With critical points that were met one by one."""
        first = min(int(self.line.min(initial=0)), 0) - 1
        return self._met([(one, first - i) for i, one in enumerate(points)])

    def _met(self, met: list[tuple[CriticalPoint, int]]) -> Sightings:
        if not met:
            return self
        points, line = zip(*met, strict=True)
        return replace(
            self,
            x=np.concatenate([self.x, [one.x for one in points]]),
            normal=np.concatenate([self.normal, [one.normal for one in points]]),
            error=np.append(self.error, [one.error for one in points]),
            line=np.append(self.line, line),
        )


def _middles(line: Line) -> tuple[Float[np.ndarray, " pieces"], Float[np.ndarray, " pieces"]]:
    """Places within the pieces of a line, and how long these are; the outermost ones only near their inner ends."""
    edges = line.edges
    inner = np.minimum(np.diff(edges), 2 * (1 + np.minimum(np.abs(edges[1:]), np.abs(edges[:-1]))))
    middle = (edges[1:] + edges[:-1]) / 2
    middle[0], middle[-1] = edges[1] - inner[0] / 2, edges[-2] + inner[-1] / 2
    return middle, inner


def among_values(probe: Probe, frame: Frame, layer: AffineMap) -> Probe:
    """Asks in the coordinates of what the neurons of a first layer, no more than inputs, see. Rounding is taken at its
    largest: in many layers it differs from place to place. Queries: `6 VALUE_ROUNDING_PLACES`."""
    after = frame.after(*layer)
    d = after.d

    def ask(z: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N m"]:
        return probe.ask((z - after.c) @ after.V.T)

    x = probe.rng.standard_normal((VALUE_ROUNDING_PLACES, d))
    noise = replace(probe.noise, size=float(np.median(np.linalg.norm(x, axis=1))))
    return Probe(ask, by_place(ask, x, noise, probe.rng), probe.rng)


def by_place(
    ask: Ask, x: Float[np.ndarray, "N d"], noise: Rounding, rng: np.random.Generator, less: float = 1.0
) -> Rounding:
    """Rounding as it is at nearly all of these places, by second differences of answers close to each other. `less`: by
    what factor too small is no matter, as for a search that looks for itself. Queries: `6 N`."""
    step = rng.standard_normal(x.shape)
    step *= ROUNDING_STEP_LENGTH * noise.size / np.linalg.norm(step, axis=1, keepdims=True)
    rows = x[:, None] + np.arange(-2.5, 3)[:, None] * step[:, None]
    y = ask(rows.reshape(-1, x.shape[1])).reshape(*rows.shape[:2], -1)
    quiet = np.median(np.abs(np.diff(y, n=2, axis=1)), axis=1) / np.sqrt(6)
    quiet /= (1 + np.linalg.norm(x, axis=1) / noise.size)[:, None]
    floor = np.maximum(noise.floor, ROUNDING_QUANTILE_FACTOR / less * np.quantile(quiet, QUANTILE, axis=0))
    return replace(noise, floor=floor, relative=noise.relative * float((floor / noise.floor).max()))


def runs(sightings: Sightings, layers: list[AffineMap]) -> Int[np.ndarray, "N together"]:
    """Places of derivatives between which no neuron behind these layers switches, the last one again where there are
    fewer: breakpoints between them are neurons' of the layers."""
    lines, piece = sightings.lines, sightings.piece
    sizes = [len(line.t) for line in lines]
    first = np.cumsum([0, *sizes])
    # How many breakpoints up to each one are others'.
    foreign = np.concatenate([[0], np.cumsum(~explained(layers, np.concatenate([line.points for line in lines])))])
    order = np.lexsort((piece[:, 1], piece[:, 0]))
    line, at = piece[order, 0], first[piece[order, 0]] + piece[order, 1]
    start = np.append(True, (line[1:] != line[:-1]) | (foreign[at[1:]] != foreign[at[:-1]]))
    out = []
    for some in np.split(order, np.flatnonzero(start)[1:]):
        for i in range(0, len(some), PLACES_TOGETHER):
            part = some[i : i + PLACES_TOGETHER]
            out.append(np.append(part, np.repeat(part[-1], PLACES_TOGETHER - len(part))))
    return np.array(out, dtype=int).reshape(-1, PLACES_TOGETHER)
