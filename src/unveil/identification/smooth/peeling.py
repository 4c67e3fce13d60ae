"""Peeling: the first layer from afar, its scales and shifts by the rank condition, the rest by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished, parameters, polish
from unveil.identification.fitting.output_layer import with_output
from unveil.identification.fitting.slimming import without_surplus
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading, SmoothMethod, ask
from unveil.identification.smooth.hyperplane_circles import hyperplanes, noisy, saturation_radius
from unveil.identification.smooth.inner_network import inner_network
from unveil.identification.smooth.inner_oracle import before_activation, rising
from unveil.identification.smooth.rank_condition import (
    CONDITION_MET_RATIO,
    STENCIL,
    Condition,
    Slopes,
    chained,
    meet_condition,
    meet_freely,
    places_needed,
    random_layers,
    slopes,
    step_size,
)
from unveil.identification.smooth.rectifiers import looks_rectified, read_first_layer
from unveil.identification.smooth.ridge_profile import first_layer, sigmoidal
from unveil.whitebox.activation import RECTIFIERS, Activation
from unveil.whitebox.network import Layer, Network

_WIDER = 1.3  # slopes are asked at preactivations up to so many times those where the activation rises steeply
_TRIES = 3  # rounds of starts for the rest, without further questions
_DRAWN = 8  # starting values for a deeper layer beside those of least squares
_DRAWN_SIGNS = 40  # the same where neurons may be the wrong way round
_LINEAR = 1e-4  # of the answers' spread: what a linear layer leaves where there is no other
_ANSWERS, _NOISY = 2, 6  # per parameter, in the fit of all of them, and where answers are noisy
_HIGHER = 2  # further ranks at which scales and shifts may be nearly right
_FREELY = 0.01  # the condition with all weights free counts as met from here on, where answers are noisy


@dataclass(frozen=True)
class Peeling(SmoothMethod):
    """Identify a network of sigmoidal or rectified neurons with three or more hidden layers, on an unbounded domain.

    1. Walk half circles far out: steps give the directions of the first layer, profiles along them rough scales. Of
        softplus and GELU gradients jump there: `Rectifiers`' way.
    2. The slopes by its preactivations, divided by phi', span as many directions as the second layer has neurons,
       whatever lies behind: this gives scales and shifts, the second layer's width and the span of its rows.
    3. In as many coordinates the rest is a network one layer shorter: least squares from random starts.
    4. Least squares on everything at ordinary points, checked on others.

    The first layer must not be wider than the input, and the second must be narrower than the first.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer; None: found among tanh, erf and arctan, or
            softplus and GELU.
        widths: Neurons of the hidden layers, if known.
        attempts: How often to begin anew if the answers are not explained to their noise.

    Queries: those of `Saturation` (or `Rectifiers`) for the first layer, `24 k^2 / m` for slopes (k neurons, m outputs;
        at least `48 k`; up to a half more of noisy answers), `2 P / m` for P parameters (6 of noisy answers),
        and 200 for the check.

    Source: the rank condition is our own; for what is identifiable: Fiedler, Fornasier, Klock, Rauchensteiner,
        arXiv:2101.07150.

    Examples:
        >>> method = uv.Peeling("tanh", widths=(10, 5, 3))
        >>> method.widths
        (10, 5, 3)
    """

    attempts: int = 2

    def _once(self, reading: Reading) -> Polished | None:
        known = self._second_span(reading)
        if known is None:
            return None
        best: Polished | None = None
        enough = max(3 * reading.noise, 1e-11)
        thorough = False
        while best is None or best.rms > enough:
            fit, first = self._rest(reading, known, thorough)
            if fit is not None and (best is None or fit.rms < best.rms):
                best = fit
            if best is not None and best.rms <= enough:
                break
            # A few starts first: where they fail, one layer more may be peeled; where that fails too, many starts.
            further = self._deeper(reading, known, first)
            if further is None and thorough:
                break
            known, thorough = (known, True) if further is None else (further, False)
        if best is None:
            reading.why.append("no start of least squares came near what lies behind the layers that were peeled")
            return None
        shape = "-".join(str(len(part.bias)) for part in best.network.layers)
        reading.why.append(
            f"least squares on all parameters ended at {shape} neurons, {parameters(best.network)} parameters"
        )
        return best

    def _width(self, depth: int) -> int | None:
        """Of hidden layer `depth`, if known."""
        return self.widths[depth] if self.widths is not None and len(self.widths) > depth else None

    def _second_span(self, reading: Reading) -> Peeled | None:
        """The first layer and the span of the second, by the rank condition."""
        oracle, rng = reading.oracle, reading.rng
        layer = self._first(reading)
        if layer is None:
            return None
        k = len(layer.shifts)
        low, high = rising(layer.activation)
        count = max(8, -(-4 * k // oracle.m))
        if noisy(oracle, reading.noise):
            count = max(count, places_needed(k, -(-2 * k // 3), oracle.m))
        z = rng.uniform(_WIDER * low, _WIDER * high, (count, k))
        told = Slopes(z, slopes(oracle, layer, z, reading.noise))
        reading.stages.end("second layer: slopes")
        known, found, exact = self._width(1), None, None
        if noisy(oracle, reading.noise):
            exact = _met_behind_noise(told, layer.activation, known)
        if exact is None:
            found = meet_condition(told, layer.activation, known)
        if found is not None:
            exact = meet_freely(told, [found.layer], [found.rank])
        best = min(
            (each for each in (exact, found) if each is not None), key=lambda each: each.certificate, default=None
        )
        if best is None:
            reading.why.append(
                "no rank below the first layer's width explains the slopes: is the second layer narrower?"
            )
            return None
        start, rows, certificate = best.layer, best.rows, best.certificate
        reading.stats.update({"second layer": len(rows), "certificate": certificate})
        reading.why.append(
            f"{len(rows)} neurons in the second layer: slopes divided by phi' fall by {1 / certificate:.3g} "
            "after as many dimensions"
        )
        weights = start.dense() @ layer.weights
        return Peeled((Layer(weights, start.dense() @ layer.shifts + start.bias, layer.activation),), (rows,))

    def _deeper(self, reading: Reading, known: Peeled, starts: Sequence[Layer]) -> Peeled | None:
        """One layer more, by the rank condition with all weights free; None if it is not met."""
        oracle, noise, rng, depth = reading.oracle, reading.noise, reading.rng, len(known.layers)
        r = len(known.spans[-1])
        if r < 2 or (self.widths is not None and len(self.widths) < depth + 1):
            return None
        x = known.places(max(places_needed(r, r - 1, oracle.m), 8), rng)
        c, g = known.slopes(oracle, x, noise)
        width = self._width(depth + 1)
        kind = sigmoidal(self.activation, depth, known.layers[0].activation)[0]
        either_way = all(phi.parity == "affine" for phi in (*(layer.activation for layer in known.layers), kind))
        starts = [*starts, *random_layers(c, kind, _DRAWN_SIGNS if either_way else _DRAWN, rng)]
        ranks = range(1, r) if width is None else range(width, min(width + 1, r))
        # The layers before are known to about their certificate, and spectra may fall by themselves: half the digits.
        met = float(min(CONDITION_MET_RATIO, np.sqrt(reading.stats["certificate"])))
        found = meet_freely(Slopes(c, g), starts, ranks, met=met)
        reading.stages.end(f"layer {depth + 2}: slopes")
        if found is None:
            return None
        reading.why.append(
            f"{found.rank} neurons in hidden layer {depth + 2}: slopes by the layer before fall by "
            f"{1 / found.certificate:.3g} after as many dimensions"
        )
        return known.further(found.layer, found.rows)

    def _first(self, reading: Reading) -> FirstLayer | None:
        """The first layer: directions exact, scales and shifts roughly; None if it cannot be had."""
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        seen = saturation_radius(oracle, rng, noise)
        count = None if self.widths is None else self.widths[0]
        if seen is None:
            return self._with_breakpoints(reading, count)
        stages.end("looking")
        planes = hyperplanes(oracle, seen[0], noise, rng=rng, drift=seen[1], count=count)
        stages.end("first layer: directions")
        k = len(planes.offsets)
        reading.stats["hyperplanes"] = k
        if not 2 <= k <= oracle.n:
            reading.why.append(
                f"{k} neurons in the first layer of {oracle.n} inputs: peeling needs from 2 to as many as inputs"
            )
            return None
        layer = first_layer(reading, planes, self.activation)
        stages.end("first layer: scales")
        if np.linalg.cond(layer.weights) > 1e6:
            reading.why.append(
                "the first layer's weights depend on one another: their preactivations cannot be set freely"
            )
            return None
        return layer

    def _with_breakpoints(self, reading: Reading, count: int | None) -> FirstLayer | None:
        """The first layer where its neurons look like ReLU from afar, as `Rectifiers` finds it."""
        oracle, rng, stages = reading.oracle, reading.rng, reading.stages
        names = [each.name for each in sigmoidal(self.activation, 0)] if self.activation else list(RECTIFIERS)
        seen = any(name in RECTIFIERS for name in names) and looks_rectified(oracle, rng)
        stages.end("looking")
        if not seen:
            reading.why.append(
                "the domain is bounded, or far out answers neither come to rest nor grow in straight pieces"
            )
            return None
        found = read_first_layer(reading, names, count)
        if found is None or not 2 <= len(found[1]) <= oracle.n:
            reading.why.append(f"too few of {oracle.n} inputs' breakpoints are met twice: nothing to peel")
            return None
        return found[0]

    def _answered(self, reading: Reading, known: Peeled, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs where known layers bend, their coordinates, and the answers."""
        x = reading.oracle.nearest(known.places(count, reading.rng))
        return x, known(x), ask(reading.oracle, x)

    def _rest(self, reading: Reading, known: Peeled, thorough: bool) -> tuple[Polished | None, tuple[Layer, ...]]:
        """Everything behind the known layers, then everything; and what the next layer may be."""
        oracle, noise, rng, depth = reading.oracle, reading.noise, reading.rng, len(known.layers)
        r = len(known.spans[-1])
        inner = None if self.widths is None or len(self.widths) <= depth else self.widths[depth:]
        assumed = inner or (r, r)
        left = sum((a + 1) * b for a, b in zip((r, *assumed), (*assumed, oracle.m), strict=True))
        whole = sum(layer.neurons * (layer.inputs + 1) for layer in known.layers) + r * known.layers[-1].neurons
        each = _NOISY if noisy(oracle, noise) else _ANSWERS
        x, c, y = self._answered(reading, known, each * (whole + left) // oracle.m + 50)
        reading.stages.end("all: answers")
        kinds = [sigmoidal(self.activation, at, known.layers[0].activation)[0] for at in range(depth, depth + 3)]
        best = self._nothing_behind(known, x, y, noise)
        if best is not None:
            return best, ()
        first: list[Layer] = []
        for _ in range(_TRIES if thorough else 1):
            found = inner_network(c, y, kinds, inner, noise, rng, thorough=thorough)
            first.extend(found.first)
            if found.fit is None:
                break
            fit = without_surplus(polish(known.behind(found.fit.network), x, y, noise=0.3 * noise), x, y, noise)
            next_layer = fit.network.layers[depth]
            if next_layer.neurons == r:
                weights = next_layer.dense() @ known.spans[-1].T
                first.insert(0, Layer(weights, next_layer.bias, next_layer.activation))
            if best is None or fit.rms < best.rms:
                best = fit
            if best.rms <= max(3 * noise, 1e-11):
                break
        return best, tuple(first)

    def _nothing_behind(
        self, known: Peeled, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], noise: float
    ) -> Polished | None:
        """The known layers and a linear one, if that explains the answers."""
        network = with_output(known.layers, x, y)
        if float(np.sqrt(np.mean((network(x) - y) ** 2))) > max(_LINEAR * float(y.std()), 3 * noise):
            return None
        return without_surplus(polish(network, x, y, noise=0.3 * noise), x, y, noise)


def _met_behind_noise(told: Slopes, activation: Activation, width: int | None) -> Condition | None:
    """The condition with all weights free at the lowest rank, where noise made directions poor.

    With directions as they are it is met poorly, or not at all where weights depend on one another nearly; but scales
    and shifts come out nearly right at the rank or a little above.
    """
    best = chained(told, activation)
    for rank in range(1, told.k) if width is None else [width]:
        starts = [each.layer for each in best[rank - 1 : rank + _HIGHER] if each is not None]
        exact = meet_freely(told, starts, [rank], met=_FREELY)
        if exact is not None:
            return exact
    return None


_FAR, _FURTHER = 1e3, 1.5  # a preactivation far up; so much further are outputs followed that grow there
_TINY = 1e-6  # a move that shows how far inputs move with it


@dataclass(frozen=True)
class Peeled:
    """Layers known from the first on, and the span of the next layer's rows."""

    layers: tuple[Layer, ...]  # each but the first of as many neurons as the span before it has dimensions
    # orthonormal rows, one matrix for each layer: the next layer takes `spans[-1] @ outputs` alone
    spans: tuple[Float[np.ndarray, "r k"], ...]

    def __call__(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N r"]:
        """The coordinates on which the answers depend."""
        return np.asarray(Network(self.layers)(x) @ self.spans[-1].T)

    def behind(self, inner: Network) -> Network:
        """The whole network, `inner` taking the coordinates."""
        return Network((*self.layers, self.lifted(inner.layers[0]), *inner.layers[1:]))

    def lifted(self, layer: Layer) -> Layer:
        """A layer that takes the coordinates as one that takes the last known layer's outputs."""
        return Layer(layer.dense() @ self.spans[-1], layer.bias, layer.activation)

    def further(self, layer: Layer, span: Float[np.ndarray, "s r"]) -> Peeled:
        """With one layer more, which takes the coordinates."""
        return Peeled((*self.layers, self.lifted(layer)), (*self.spans, span))

    def places(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "N n"]:
        """Inputs at which the first layer's neurons bend: half of them at random, half to make coordinates large."""
        first, span = self.layers[0], self.spans[0]
        low, high = rising(first.activation)
        z = rng.uniform(low, high, (count, first.neurons))
        along = rng.standard_normal((count // 2, len(span))) @ span
        # Where outputs go on growing, so far that the next layer's neurons bend wherever their own shifts put them.
        reach = rng.uniform(1, _FURTHER if first.activation.slope(np.array([_FAR]))[0] > 0 else 1, (len(along), 1))
        ends = np.where(along > 0, reach * high, low)
        z[: len(ends)] += rng.uniform(0.3, 1, (len(ends), 1)) * (ends - z[: len(ends)])
        x = (z - first.bias) @ np.linalg.pinv(first.dense()).T
        # Across the rows as well, where they are fewer than inputs: rows a little off their span show nowhere else.
        idle = np.linalg.svd(first.dense())[2][first.neurons :]
        size = float(np.sqrt(np.mean(x**2)))
        return np.asarray(x + size * rng.standard_normal((count, len(idle))) @ idle)

    def moved(self, x: Float[np.ndarray, "N n"], change: Float[np.ndarray, "N r"]) -> Float[np.ndarray, "N n"]:
        """Inputs near x at which the coordinates differ by `change`."""
        sums, outputs = [], []
        h = x
        for layer in self.layers:
            sums.append(layer.affine(h))
            h = layer.activation.value(sums[-1])
            outputs.append(h)
        for depth in reversed(range(len(self.layers))):
            layer = self.layers[depth]
            moved = before_activation(layer.activation, outputs[depth] + change @ self.spans[depth]) - sums[depth]
            if depth:
                change = moved @ np.linalg.inv(layer.dense() @ self.spans[depth - 1].T).T
        return np.asarray(x + moved @ np.linalg.pinv(self.layers[0].dense()).T)

    def slopes(
        self, oracle: Oracle, x: Float[np.ndarray, "T n"], noise: float
    ) -> tuple[Float[np.ndarray, "T r"], Float[np.ndarray, "T r m"]]:
        """The coordinates at these inputs, and the derivatives of the answers by them. Queries: `6 T r`."""
        r = len(self.spans[-1])
        each = np.repeat(x, r, axis=0)
        axes = np.tile(np.eye(r), (len(x), 1))
        reach = np.abs((self.moved(each, _TINY * axes) - each) @ self.layers[0].dense().T).max(axis=1) / _TINY
        size = (step_size(noise) / np.maximum(reach, 1e-6))[:, None]
        asked = [self.moved(each, step * size * axes) for step in (1.0, 2.0, 3.0, -1.0, -2.0, -3.0)]
        y = ask(oracle, oracle.nearest(np.concatenate(asked))).reshape(6, len(each), -1)
        g = np.einsum("s,stm->tm", STENCIL, y[:3] - y[3:]) / size
        return self(x), np.asarray(g.reshape(len(x), r, -1))
