"""The layers peeled so far: what lies behind them depends on few coordinates, which can be moved one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.conclusion import ask
from unveil.identification.smooth.inner_oracle import before_activation, rising
from unveil.identification.smooth.rank_condition import STENCIL, step_size
from unveil.whitebox.network import Layer, Network

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
