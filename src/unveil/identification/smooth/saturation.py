"""Saturation: far out a sigmoidal first layer is at rest, and every step along a circle is one of its neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import weights
from unveil.identification.fitting.least_squares import Polished, polish_all
from unveil.identification.fitting.output_layer import weighted_output
from unveil.identification.method import Identification
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading, SmoothMethod, ask, final_fit, fit_points, repeated
from unveil.identification.smooth.hyperplane_circles import hyperplanes, saturation_radius
from unveil.identification.smooth.ridge_profile import first_layer, sigmoidal
from unveil.identification.smooth.second_layer import block_size, cover, fit_outer, search_outer
from unveil.whitebox.network import Network

_SLOW = 1e3  # resting point from which an activation's tails are called algebraic


@dataclass(frozen=True)
class Saturation(SmoothMethod):
    """Identify a network with one or two hidden layers whose first activation is sigmoidal, on an unbounded domain.

    1. Walk half circles far out: steps give the directions of the first layer (`hyperplanes`), also more than there are
        inputs.
    2. Along each normal, all others at rest: scale, and roughly the shift (`ridge_profile`).
    3. Keep blocks of neurons active and the others at rest: shifts and the second layer's directions (`blocks`).
    4. At points where all first-layer neurons are at rest their values are known exactly: fit the second layer there.
    5. Least squares on everything at ordinary points, checked on others.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer; None: found among tanh, erf and arctan.
        widths: Neurons of the hidden layers, if known.
        attempts: How often to start again, with other circles and blocks, when the result fails its check.

    Queries: about `2 k n + 50 k + 600` for the first layer of k neurons, `6 s r + r^3` for each block of s neurons with
        r neurons in the second layer, and 1.5 per parameter for the last fit.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> first, last = (rng.standard_normal((2, 5)), np.array([0.3, -0.2])), (np.array([[1.0, -2.0]]), np.zeros(1))
        >>> truth = uv.Network.from_weights([first, last], activation="tanh")
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=5), uv.Saturation(), rng=rng)
        >>> found.outcome.name, found.network.widths
        ('complete', (2, 1))
    """

    attempts: int = 4

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        return repeated(self._once, self.attempts, oracle, method="Saturation", rng=rng, determined=True)

    def _once(self, reading: Reading) -> Polished | None:
        oracle, noise, rng, stages, stats = reading.oracle, reading.noise, reading.rng, reading.stages, reading.stats
        if "radius" not in stats:
            stats["radius"], stats["drift"] = saturation_radius(oracle, rng, noise) or (None, None)
            stages.end("looking")
            if stats["radius"] is None:
                reading.why.append(
                    "the domain is bounded, or answers do not come to rest far out: no sigmoidal first layer to be seen"
                )
        radius, drift = stats["radius"], stats["drift"]
        if radius is None:
            return None
        widths = self.widths or ()
        count = widths[0] if widths else None
        planes = hyperplanes(oracle, radius, noise, rng=rng, drift=drift, count=count)
        stages.end("first layer: directions")
        reading.stats.update({"circles": planes.circles, "hyperplanes": len(planes.offsets)})
        reading.why.append(
            f"{len(planes.offsets)} hyperplanes were each crossed on two circles or more at radius {radius:g}"
        )
        if len(planes.offsets) == 0:
            return None
        layer = first_layer(reading, planes, self.activation)
        stages.end("first layer: scales")
        rank = widths[1] if len(widths) > 1 else None
        flat = self._without_second_layer(oracle, layer, noise, rng) if rank is None else None
        stages.end("second layer: fit")
        if flat is not None:
            reading.why.append(
                "with the first layer at rest the answers are affine in its signs: there is no second hidden layer"
            )
            fit = final_fit(oracle, flat, noise, rng)
            stages.end("all: fit")
            return fit
        return self._with_second_layer(reading, layer, rank)

    def _with_second_layer(self, reading: Reading, layer: FirstLayer, rank: int | None) -> Polished:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        size = block_size(len(layer.shifts), oracle.n, rank)
        if size <= (rank or 1):
            reading.why.append(
                f"{len(layer.shifts)} first-layer neurons are too few to look through blocks: random starts"
            )
            return self._small(reading, layer, rank)
        layer, directions, blocks = cover(oracle, layer, rank, noise, rng=rng)
        stages.end("second layer: directions")
        reading.stats["certificates"] = [block.certificate for block in blocks]
        spectrum = blocks[0].spectrum
        after = spectrum[len(directions)] if len(directions) < len(spectrum) else np.nan
        reading.stats["spectral gap"] = float(spectrum[len(directions) - 1] / after) if after else np.inf
        reading.why.append(
            f"{len(directions)} neurons in the second layer, {'given' if rank else 'found'}: "
            f"gradients of a block fall by {reading.stats['spectral gap']:.3g} after as many dimensions"
        )
        k, r = layer.weights.shape[0], len(directions)
        points = oracle.nearest(layer.at_rest(2 * r * (k + 2 + oracle.m) // oracle.m + 50, rng))
        answers = ask(oracle, points)
        fits = [
            fit_outer(directions, layer(points), answers, outer, noise)
            for outer in sigmoidal(self.activation, 1, layer.activation)
        ]
        outer = min(fits, key=lambda fit: fit.rms)
        stages.end("second layer: fit")
        reading.stats["second layer rms"] = outer.rms
        network = layer.before(outer.network)
        if layer.margin >= _SLOW:
            network = self._from_afar(oracle, network, noise, rng)
            stages.end("first layer: from afar")
        fit = final_fit(oracle, network, noise, rng)
        stages.end("all: fit")
        return fit

    def _from_afar(self, oracle: Oracle, network: Network, noise: float, rng: np.random.Generator) -> Network:
        """The network with its first layer fitted at large inputs, then at smaller ones.

        Where others never rest altogether, profiles leave scales and shifts poor; far out, a large error of a shift is
        a small one of the answers.
        """
        first = network.layers[0]
        for stretch in (64.0, 16.0, 4.0):
            x = fit_points(oracle, first.dense(), 2 * (first.weights.size + len(first.bias)) // oracle.m + 50, rng)
            x = oracle.nearest(stretch * x)
            [fit] = polish_all([network], x, ask(oracle, x), noise=noise, steps=60, free=(0,))
            network = fit.network
        return network

    def _small(self, reading: Reading, layer: FirstLayer, rank: int | None) -> Polished:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        x = fit_points(oracle, layer.weights, 3 * (rank or 6) * (len(layer.shifts) + 2) + 3 * layer.weights.size, rng)
        answers = ask(oracle, x)
        fits = [
            search_outer(layer, x, answers, outer, rank, noise, rng=rng)
            for outer in sigmoidal(self.activation, 1, layer.activation)
        ]
        stages.end("second layer: fit")
        fit = final_fit(oracle, min(fits, key=lambda fit: fit.rms).network, noise, rng)
        stages.end("all: fit")
        return fit

    def _without_second_layer(
        self, oracle: Oracle, layer: FirstLayer, noise: float, rng: np.random.Generator
    ) -> Network | None:
        """The network without a second hidden layer, if one explains the answers where the first is at rest."""
        k = len(layer.shifts)
        points = oracle.nearest(layer.at_rest(2 * k + 12, rng))
        answers = ask(oracle, points)
        design = np.insert(layer(points), k, 1.0, axis=1)
        # Far out probabilities are small, and their log-ratios as rough as these are rounded.
        counts = weights(oracle.rounding, answers, noise)
        outer = weighted_output(design, answers, counts)
        spread = float(np.ptp(answers, axis=0).max()) or 1.0
        if np.abs(counts * (design @ outer - answers)).max() > max(20 * noise, 1e-6 * spread):
            return None
        return layer.before(Network.from_weights([(outer[:-1].T, outer[-1])]))
