"""Rectifiers: one or two hidden layers of softplus or GELU, which look like ReLU from afar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished
from unveil.identification.fitting.output_layer import affine_fit
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.breakpoint_circles import read_first_layer
from unveil.identification.smooth.conclusion import Reading, SmoothMethod, final_fit, fit_points
from unveil.identification.smooth.inner_oracle import Behind
from unveil.identification.smooth.one_hidden_layer import OneHiddenLayer
from unveil.whitebox.network import Layer, Network

RECTIFIERS = ("softplus", "gelu")


@dataclass(frozen=True)
class Rectifiers(SmoothMethod):
    """Identify a network with one or two hidden layers of smooth rectifiers, the first no wider than the input, on an
    unbounded domain.

    1. Half circles far out, where the network is piecewise linear: gradient jumps met twice are first-layer weights.
    2. A profile across each breakpoint, all others far: scale and shift; the side at rest gives the sign.
    3. The network behind the first layer has one hidden layer: `OneHiddenLayer`, asked through the first.
    4. Least squares on everything.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer; None: found.
        widths: Neurons of the hidden layers, if known.
        attempts: How often to start again, with other circles, when the result fails its check.

    Queries: about `200 + (k + r) (30 + n)` for each of three to eight half circles, `260 k` for the profiles, then
        those of `OneHiddenLayer` with k inputs.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> first, last = (rng.standard_normal((2, 5)), np.array([0.3, -0.2])), (np.array([[1.0, -2.0]]), np.zeros(1))
        >>> truth = uv.Network.from_weights([first, last], activation="softplus")
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=5), uv.Rectifiers(), rng=rng)
        >>> found.outcome.name, found.network.widths
        ('complete', (2, 1))
    """

    def _once(self, reading: Reading) -> Polished | None:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        names = (self.activation,) if isinstance(self.activation, str) else self.activation
        inner = RECTIFIERS if names is None else names[:1]
        found_first = read_first_layer(reading, inner, self.widths[0] if self.widths else None)
        if found_first is None:
            return None
        layer, misfit = found_first[0], reading.stats["profile misfit"]
        if names is None:
            reading.why.append(f"{layer.activation.name} fits the breakpoints best, to {misfit:.2g}")
        network = self._one_layer(oracle, layer, rng)
        if network is None:
            rank = self.widths[1] if self.widths and len(self.widths) > 1 else None
            found = OneHiddenLayer(names[-1] if names else None, rank)(Behind(oracle, layer), rng=rng)
            if found.network is None:
                reading.why.extend(found.why)
                return None
            network = Network((Layer(layer.weights, layer.shifts, layer.activation), *found.network.layers))
        stages.end("second layer")
        fit = final_fit(oracle, network, noise, rng)
        stages.end("all: fit")
        return fit

    def _one_layer(self, oracle: Oracle, layer: FirstLayer, rng: np.random.Generator) -> Network | None:
        """The network without a second hidden layer, if one explains the answers."""
        if self.widths is not None and len(self.widths) > 1:
            return None
        first = Layer(layer.weights, layer.shifts, layer.activation)
        x = fit_points(oracle, Network((first,)), 2 * len(layer.shifts) + 12, rng)
        answers = oracle(x)
        network = Network((first, *Network.from_weights([affine_fit(layer(x), answers, 1e-10)]).layers))
        far = 1e-4 * float(np.ptp(answers, axis=0).max())
        return network if np.abs(network(x) - answers).max() <= far else None
