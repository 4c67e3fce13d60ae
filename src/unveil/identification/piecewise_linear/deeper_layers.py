"""Deeper: the layers behind the first, from sightings of their neurons anywhere, and the output layer at the end."""

from __future__ import annotations

from collections import Counter

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.design import finish
from unveil.identification.fitting.output_layer import Asked, Bends, after, ending, explain
from unveil.identification.piecewise_linear.completeness import judged, leaks, sides, whole
from unveil.identification.piecewise_linear.critical_point import (
    Layer,
    Sighting,
    along,
    along_line,
    local,
    look,
    met,
    row_space,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_points import SCALES, Points, holds
from unveil.identification.piecewise_linear.late_neurons import Late, late
from unveil.identification.piecewise_linear.layer_membership import LayerFound
from unveil.identification.piecewise_linear.neuron import Neuron, View, confirmed, distinct, expected, merge
from unveil.identification.piecewise_linear.weight_completion import fill, places
from unveil.whitebox.network import Network

# How far lines reach, in typical inputs.
FAR = 300.0
# A neuron counts as one of the layer being read, not of a deeper one, once it was met this often, wherever expected.
OFTEN = 4
# Most lines, in units of those for the first layer: many are short.
EFFORT = 4
# Every so many lines one is random, and neurons met twice are worth a search for their weights.
ANYWAY = 6
# How far out, in typical inputs, a line between two points may begin.
NEAR = 30.0
# Where inputs are looked for that somebody might ask, and for how many networks also those further out.
INNER, PATIENCE = 4.0, 8
# A fit that explains fewer of the answers is none.
HALF = 0.5
# One that explains more of them lacks a neuron at most.
NEARLY = 0.95
# Errors that nearly right weights may leave, in units of the largest answer.
ROUGH = 1e-5
# Other breakpoints near a place where an unknown weight is looked for: while there is a choice, and at all.
CHEAP, DEAR = 3, 30
# Share of points at which a neuron is as exact as is said.
USUAL = 0.8
# Places where one unknown weight is looked for at once.
AT_ONCE = 6
# How often the sides of the same neurons are looked for.
TRIES = 2
# Points where a layer is asked whether a neuron is missing.
LOOKS = 60


class Deeper:
    """What was read so far behind the first layer.

    Attributes:
        layers: Read whole, sides settled.
        neurons: Of the next one.
        open: How many sightings no neuron explains.
    """

    def __init__(
        self,
        asked: Asked,
        frame: Frame,
        layer: Layer,
        found: LayerFound,
        given: list[Neuron],
        stations: list[tuple[np.ndarray, np.ndarray]],
        noise: Rounding,
        rng: np.random.Generator,
        far: float = FAR,
    ) -> None:
        self.ask, self.frame, self.noise, self.rng = asked, frame, noise, rng
        self.far = min(far, FAR)
        self.points = Points(frame, self.far, rng)
        self.layers = [layer]
        # Of the rows of these layers.
        self.error = max(float(found.error.max()), 1e-12)
        self.lines: list[Line] = list(found.searched)
        self.sightings: list[Sighting] = []
        for x, row, error in zip(found.bent_at, found.bent_rows, found.bent_error, strict=True):
            span = row_space(local(self.layers, x)[1])
            normal = span.T @ row
            size = float(np.linalg.norm(normal))
            if size > 0.9:
                self.sightings.append(Sighting(x, span, normal / size, float(error) + np.sqrt(1 - min(size, 1.0) ** 2)))
        self.stations = [*zip(found.at, found.slope, strict=True), *stations]
        self.views: list[View] = []
        self.merged, self.neurons, self.alone = list(given), list[Neuron](), list[Neuron]()
        # Those met so often that a search for their unknown weights is worth it while others are still missing.
        self.certain: list[Neuron] = []
        self.open = 0
        self.tried: Counter[tuple[int, int]] = Counter()
        # Where the best network is right and where it is not.
        self.right, self.wrong = found.at[:0], found.at[:0]
        self.network: Network | None = None
        # Sightings that were looked at as some of a layer read before.
        self.examined: list[Sighting] = []
        # How often a network that is right nearby is still held against answers from far out.
        self.patience = PATIENCE
        # The network fitted to the last digits, and its neurons with how many weights of each were known.
        self.settled: tuple[set[tuple[Neuron, int]], Network] | None = None
        # Neurons that a nearly right network calls for.
        self.proven: set[Neuron] = set()
        # Neurons that were taken for a whole layer, but are not, or whose sides could not be told.
        self.refuted: Counter[frozenset[Neuron]] = Counter()
        # Lines in a row that showed nothing new, and all.
        self.barren, self.turn = 0, 0
        # Whether the layer being read is known to be the last hidden one.
        self.ends = False

    def read(self, fine: float, most_lines: int) -> float:
        """Search lines until everything asked is explained to within `fine`, and fresh points too.

        Returns:
            The largest error of `network` on what was asked; infinite where it fails on fresh points.
        """
        least = np.inf
        for _ in range(EFFORT * most_lines):
            self._sort()
            while self._fill(CHEAP) or (self.ends and self._reopen()):
                self._sort()
            network, error = self._close(fine)
            if error < least or self.network is None:
                self.network, least = network, error
            if error < fine:
                break
            before = len(self.sightings)
            self._another_line()
            self.barren = 0 if len(self.sightings) > before else self.barren + 1
            if self.barren:
                self._fill(DEAR)
        return least

    @property
    def _few(self) -> bool:
        """Whether nearly everything met is explained."""
        return self.ends or self.open <= max(2, 0.15 * len(self.sightings))

    def _sort(self) -> None:
        """Merge the sightings; where the next layer shows itself whole, read on behind it."""
        while True:
            for seen in self.sightings[len(self.views) :]:
                self.views.append(View.of(self.layers, seen, self.error))
            merged = self.merged = merge(self.views, self.merged)
            should, were, settings = confirmed(self.layers, merged, self.lines)
            met = [
                n in self.proven
                or ((len(n.members) > 1 or w >= OFTEN or (self.ends and n.before is not None)) and w >= 0.9 * s)
                for n, s, w in zip(merged, should, were, strict=True)
            ]
            self.neurons = [n for n, ok in zip(merged, met, strict=True) if ok]
            self.certain = [
                n
                for n, s, ok in zip(merged, settings, met, strict=True)
                if ok and (len(n.members) > 2 or s >= OFTEN or self.turn % ANYWAY == ANYWAY - 1)
            ]
            self.alone = distinct([n for n in merged if len(n.members) == 1 and n not in self.neurons], self.neurons)
            explained = {i for n in self.neurons for i in n.members}
            self.open = len(self.sightings) - len(explained)
            layer = None if self._few else self._layer(should, were, settings)
            if layer is None:
                return
            whole = Bends(self.layers, *layer, np.ones(layer[0].shape, dtype=bool))
            if explain(whole, self.ask, self.noise.size, ROUGH)[2].mean() > HALF:
                self._last(layer)
                return
            # What this layer bends is explained now.
            h = after(self.layers, np.array([seen.x for seen in self.sightings]))
            off = np.abs(h @ layer[0].T + layer[1]).min(axis=1) / (1 + np.linalg.norm(h, axis=1))
            self.sightings = [seen for seen, far in zip(self.sightings, off > 1e-7, strict=True) if far]
            self.layers.append(layer)
            self.views, self.merged, self.tried = [], [], Counter()
            self.wrong, self.barren = self.wrong[:0], 0

    def _last(self, layer: Layer) -> None:
        """Take this layer for the last hidden one: nothing is left for another."""
        self.merged = self.neurons = [Neuron.given(*each, self.error) for each in zip(*layer, strict=True)]
        self.alone, self.open, self.ends = [], 0, True

    def _layer(self, should: np.ndarray, were: np.ndarray, settings: np.ndarray) -> Layer | None:
        """The layer being read, sides settled, if the neurons merged so far contain it whole."""
        sure: list[Neuron] = []
        perhaps: list[Neuron] = []
        for n, s, w, often in zip(self.merged, should, were, settings, strict=True):
            if n.known.all() and w >= 0.9 * s and (len(n.members) > 1 or n.before is not None):
                (sure if often >= OFTEN or (n.before is not None and often >= 2) else perhaps).append(n)
        chosen = whole(self.layers, sure, perhaps, self.stations)
        if chosen is None:
            # A line from where they are all to where one is missing meets it.
            if sure or perhaps:
                self.right, self.wrong = judged(self.layers, [*sure, *perhaps], self.stations)
            return None
        if self.refuted[frozenset(chosen)] >= TRIES:
            return None
        rows, bias = np.array([n.weights for n in chosen]), np.array([n.bias for n in chosen])
        pool = [self.points.out(300, s) for s in (1.0, 3.0)]
        if len(self.layers) == 1 and len(self.layers[0][0]) <= self.frame.d and self.frame.free:
            pool.append(self.frame.after(*self.layers[0]).sample(300, self.rng))
        layer = sides(self.ask, self.layers, rows, bias, np.concatenate(pool), self.stations, self.noise, self.rng)
        if layer is None or self._leaks(layer):
            self.refuted[frozenset(chosen)] += 1 if layer is None else TRIES
            return None
        self.error = max(self.error, *(self._doubt(n) for n in chosen))
        return layer

    def _doubt(self, neuron: Neuron) -> float:
        """How far off a neuron usually is: one weight that rarely matters may be vague."""
        h = np.insert(after(self.layers, self.points.usual(200)), len(neuron.weights), 1, axis=1)
        spread = np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", h, neuron.spread, h), 0))
        return float(np.quantile(spread / np.linalg.norm(h, axis=1), USUAL))

    def _leaks(self, layer: Layer) -> bool:
        """Whether a neuron is missing from this layer, and where."""
        x = self.rng.permutation(np.concatenate([self.points.out(LOOKS, s) for s in SCALES]))
        self.right, self.wrong = leaks(self.ask, self.layers, layer, x, LOOKS, self.noise, self.rng)
        return bool(len(self.wrong))

    def _fill(self, most: int) -> bool:
        """Look for unknown weights where they have just begun to matter. False if there is nowhere to look."""
        neurons = self.neurons + self.alone if self._few else self.certain
        if all(n.known.all() for n in neurons):
            return False
        base = self.points.usual(150)
        direction = self.rng.standard_normal(base.shape)
        beside = [self._beside(i) for n in neurons if not n.known.all() for i in n.members[:4] for _ in range(8)]
        base = np.concatenate([base, *(b[None] for b, _ in beside)])
        direction = np.concatenate([direction, *(d[None] for _, d in beside)])
        # Neurons change their place in the list; their first sighting stays.
        name = [n.members[0] if n.members else -1 for n in neurons]
        tried = Counter(
            {(i, j): self.tried[name[i], j] for i in range(len(name)) for j in range(len(neurons[i].known))}
        )
        there = places(self.layers, neurons, base, direction, tried, most)[:AT_ONCE]
        for place in there:
            self.tried[name[place.neuron], place.unknown] += 1
        if there:
            seen, lines = fill(self.ask, self.layers, neurons, there, self.noise, self.rng)
            self.sightings += seen
            self.lines += lines
        return bool(there)

    def _beside(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """A line across a hyperplane close to where it was met, but where something else is active before it."""
        seen = self.sightings[i]
        normal = seen.span @ seen.normal
        v = self.rng.standard_normal(len(normal))
        v -= normal * (normal @ v)
        t = along(self.layers, seen.x, v, 0.0, 10.0)[0]
        piece = min(int(self.rng.integers(1, 4)), len(t) - 2)
        return seen.x + (t[piece] + t[piece + 1]) / 2 * v, normal

    def _reopen(self) -> bool:
        """Whether a breakpoint that no neuron explains is one of a layer read before, which gets its neuron now."""
        if len(self.layers) < 2:
            return False
        explained = {i for n in self.neurons for i in n.members}
        for i, seen in reversed(list(enumerate(self.sightings))):
            if i in explained or seen in self.examined:
                continue
            self.examined.append(seen)
            for line in reversed(self.lines):
                which = np.flatnonzero(np.abs(line.points - seen.x).max(axis=1) == 0)
                if len(which):
                    pool = self.points.usual(400)
                    found = late(self.ask, self.layers, line, int(which[0]), self.error, pool, self.noise, self.rng)
                    break
            else:
                continue
            if found is not None:
                self._insert(found)
                return True
        return False

    def _insert(self, found: Late) -> None:
        """Put a neuron into the layer it was missing from; what is known behind it stays."""
        (W, b), behind = self.layers[found.depth], self.layers[found.depth + 1 :]
        self.layers = [*self.layers[: found.depth], (np.vstack([W, found.row]), np.append(b, found.bias))]
        self.error = max(self.error, found.error)
        given = [n for n in self.merged if n.before is not None]
        if behind:
            given = [Neuron.given(*each, self.error) for each in zip(*behind[0], strict=True)]
            self.ends = False
        self.merged = [n.wider() for n in given]
        self.lines += found.lines
        self.views, self.tried, self.refuted = [], Counter(), Counter()
        self.proven = set()

    def _close(self, fine: float) -> tuple[Network | None, float]:
        """The neurons met so far as the last hidden layer."""
        if not self.neurons and not self.sightings and len(self.layers) > 1:
            self._last(self.layers.pop())
            self.views = []
        neurons = self.neurons + self.alone
        if not neurons or not self._few:
            return None, np.inf
        self.wrong = self.wrong[:0]
        key = {(n, int(n.known.sum())) for n in neurons}
        size, rough = self.noise.size, max(ROUGH, fine)
        if self.settled is not None and self.settled[0] == key:
            network = self.settled[1]
        else:
            self.settled = None
            fitted, fits, error = self._fit(neurons, rough)
            if fitted is None:
                return None, np.inf
            network, near = fitted, self._near()
            # What only matters far out need not be known.
            if error < rough or self.ask.off(network, size)[near].max() < rough:
                network = finish(self.ask, network, size, self.points.usual(4000), self.rng)
                self.settled = key, network
        if self.settled is not None:
            off, near = self.ask.off(network, size), self._near()
            fits, error = off < rough, float(off[near].max())
            inner = float(off[self._near(INNER)].max())
            if inner < fine:
                # What is only wrong far from usual inputs is looked for, but not for ever.
                self.patience -= 1
                error = error if self.patience > 0 else inner
            else:
                self.settled = None
        x, _ = self.ask.all()
        if error < fine and not holds(self.ask, network, self.points, fine, self.patience > 0):
            x, y = self.ask.x[-1], self.ask.y[-1]
            fits = np.abs(network(x) - y).max(axis=1) < fine * np.abs(y).max()
            near = np.ones(len(x), dtype=bool)
            error = np.inf
        # Further out lines are long, and their ends vague.
        self.right, self.wrong = x[fits & near], x[~fits & near]
        return network, error

    def _fit(self, neurons: list[Neuron], rough: float) -> tuple[Network | None, np.ndarray, float]:
        """The network with these as its last hidden layer, which answers it explains, and its largest error."""
        rows, bias, known = (np.array([getattr(n, name) for n in neurons]) for name in ("weights", "bias", "known"))
        size = self.noise.size
        bends, solution, fits = explain(Bends(self.layers, rows, bias, known), self.ask, size, rough)
        if fits.mean() < HALF:
            return None, fits, np.inf
        if fits.mean() > NEARLY:
            # From here on what is not explained is a neuron that is missing, not a layer, nor a false one.
            self.ends = True
            strong = np.abs(solution[: len(neurons)]).max(axis=1)
            self.proven |= {n for n, ok in zip(neurons, strong > ROUGH * strong.max(), strict=True) if ok}
        network, error = ending(bends, solution, fits, self.ask, size)
        return network, fits, error

    def _near(self, reach: float = NEAR) -> np.ndarray:
        """Which of the questions asked are not far out."""
        return np.asarray(np.linalg.norm(self.ask.all()[0], axis=1) < reach * self.noise.size)

    def _pattern(self, x: Float[np.ndarray, "N n"]) -> np.ndarray:
        """Which neurons of the layers read are active."""
        return np.concatenate([after(self.layers[: k + 1], x) > 0 for k in range(len(self.layers))], axis=1)

    def _another_line(self) -> None:
        """A line through a point that is not explained yet, if there is one; else a random one."""
        self.turn += 1
        if len(self.wrong) and len(self.right) and self.barren % 3 < 2 and self.turn % ANYWAY:
            # Not always the nearest: a fit that is wrong somewhere goes through some of the points there by chance.
            bad = self.rng.choice(self.wrong[np.argsort(np.linalg.norm(self.wrong, axis=1))[:30]])
            switched = (self._pattern(self.right) != self._pattern(bad[None])).sum(axis=1)
            good = self.right[self.rng.choice(np.argsort(switched)[: 3 + 10 * self.barren])]
            base, direction, low, high = bad[None], (good - bad)[None], np.array([-0.1]), np.array([1.0])
        else:
            base, direction, low, high = self.frame.lines(1, self.far, self.rng)
        if not (low < high).all():
            return
        (line,) = line_search(self.ask, base, direction, low, high, self.noise, self.rng)
        wanted = ~met(line, along_line(self.layers, line)[0]).any(axis=1)
        if self.neurons:
            wanted &= ~met(line, *expected(self.layers, self.neurons, line)[:2]).any(axis=1)
        self.lines.append(line)
        self.sightings += look(self.ask, self.layers, line, np.flatnonzero(wanted), self.noise, self.rng)
