"""Peeling: the first layer by saturation, its scales and shifts by the rank condition, the rest by least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished, parameters, polish
from unveil.identification.fitting.pruning import without_surplus
from unveil.identification.method import Identification, Method
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading, ask, repeated
from unveil.identification.smooth.first_scales import first_layer, sigmoidal
from unveil.identification.smooth.hyperplane_circles import hyperplanes, saturation_radius
from unveil.identification.smooth.inner_network import inner_network
from unveil.identification.smooth.rank_condition import meet_condition, slopes
from unveil.whitebox.network import Layer, Network

_TYPICAL = 0.8  # preactivations at which slopes are asked
_TRIES = 3  # rounds of starts for the rest, without further questions
_ANSWERS = 2  # per parameter, in the fit of all of them


@dataclass(frozen=True)
class Peeling(Method):
    """Identify a network of sigmoidal neurons with three or more hidden layers, on an unbounded domain.

    1. Walk half circles far out: steps give the directions of the first layer, profiles along them rough scales.
    2. The slopes by its preactivations, divided by phi', span as many directions as the second layer has neurons,
       whatever lies behind: this gives scales and shifts, the second layer's width and the span of its rows.
    3. In as many coordinates the rest is a network one layer shorter: least squares from random starts.
    4. Least squares on everything at ordinary points, checked on others.

    The first layer must not be wider than the input, and the second must be narrower than the first.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer; None: found among tanh, erf and arctan.
        widths: Neurons of the hidden layers, if known.
        attempts: How often to begin anew if the answers are not explained to their noise.

    Queries: those of `Saturation` for the first layer, `24 k^2 / m` for slopes (k neurons, m outputs; at least `48 k`),
        `2 P / m` for P parameters, and 200 for the check.

    Source: the rank condition is our own; for what is identifiable: Fiedler, Fornasier, Klock, Rauchensteiner,
        arXiv:2101.07150.

    Examples:
        >>> method = uv.Peeling("tanh", widths=(10, 5, 3))
        >>> method.widths
        (10, 5, 3)
    """

    activation: str | tuple[str, ...] | None = None
    widths: tuple[int, ...] | None = None
    attempts: int = 2

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> Peeling:
        """See `Method.told`."""
        return cls(activation, widths)

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        return repeated(self._once, self.attempts, oracle, method="Peeling", rng=rng)

    def _once(self, reading: Reading) -> Polished | None:
        oracle, rng = reading.oracle, reading.rng
        layer = self._first(reading)
        if layer is None:
            return None
        k = len(layer.shifts)
        z = _TYPICAL * rng.standard_normal((max(8, -(-4 * k // oracle.m)), k))
        g = slopes(oracle, layer, z, reading.noise)
        reading.stages.end("second layer: slopes")
        rank = None if self.widths is None or len(self.widths) < 2 else self.widths[1]
        # A direction a little off spoils the condition whatever the start: first another walk, then many starts.
        last = reading.stats["attempts"] >= self.attempts
        found = meet_condition(z, g, layer.activation, rank, rng=rng, thorough=last)
        if found is None:
            reading.why.append(
                "no rank below the first layer's width explains the slopes: is the second layer narrower?"
            )
            return None
        reading.stats.update({"second layer": found.rank, "certificate": found.certificate})
        reading.why.append(
            f"{found.rank} neurons in the second layer: slopes divided by phi' fall by {1 / found.certificate:.3g} "
            "after as many dimensions"
        )
        known = FirstLayer(
            layer.weights * found.scales[:, None],
            layer.shifts * found.scales + found.shifts,
            layer.activation,
            layer.margin,
        )
        return self._rest(reading, known, found.rows)

    def _first(self, reading: Reading) -> FirstLayer | None:
        """The first layer: directions exact, scales and shifts roughly; None if it cannot be had."""
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        seen = saturation_radius(oracle, rng, noise)
        stages.end("looking")
        if seen is None:
            reading.why.append(
                "the domain is bounded, or answers do not come to rest far out: no sigmoidal first layer"
            )
            return None
        count = None if self.widths is None else self.widths[0]
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

    def _rest(self, reading: Reading, layer: FirstLayer, rows: np.ndarray) -> Polished | None:
        """Everything behind the first layer, then everything."""
        oracle, noise, rng = reading.oracle, reading.noise, reading.rng
        k, r, n = len(layer.shifts), len(rows), oracle.n
        inner = None if self.widths is None or len(self.widths) < 2 else self.widths[1:]
        assumed = inner or (r, r)
        left = sum((a + 1) * b for a, b in zip((r, *assumed), (*assumed, oracle.m), strict=True))
        count = (_ANSWERS * max(left, k * (n + 1) + r * (k - r) + left)) // oracle.m + 50
        typical = float(np.median(np.linalg.norm(layer.weights, axis=1)))
        x = oracle.nearest(2.0 / typical * rng.standard_normal((count, n)))
        y = ask(oracle, x)
        reading.stages.end("all: answers")
        kinds = [sigmoidal(self.activation, depth, layer.activation)[0] for depth in range(1, 4)]
        best: Polished | None = None
        for _ in range(_TRIES):
            found = inner_network(layer(x) @ rows.T, y, kinds, inner, noise, rng)
            if found is None:
                break
            second = found.network.layers[0]
            network = Network(
                (
                    Layer(layer.weights, layer.shifts, layer.activation),
                    Layer(second.weights @ rows, second.bias, second.activation),
                    *found.network.layers[1:],
                )
            )
            fit = without_surplus(polish(network, x, y, noise=0.3 * noise), x, y, noise)
            if best is None or fit.rms < best.rms:
                best = fit
            if best.rms <= max(3 * noise, 1e-11):
                break
        if best is None:
            reading.why.append("no start of least squares came near what lies behind the first layer")
            return None
        shape = "-".join(str(len(part.bias)) for part in best.network.layers)
        reading.why.append(
            f"least squares on all parameters ended at {shape} neurons, {parameters(best.network)} parameters"
        )
        return best
