"""Layer and Network: affine maps and activations whose weights are known. Rows are neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.outcome import BadInput
from unveil.whitebox.activation import Activation, activation


@dataclass(frozen=True)
class Layer:
    """`activation(weights @ x + bias)`.

    Attributes:
        weights: (out, in), float64; one row per neuron.
        bias: (out,).
        activation: Applied elementwise.
    """

    weights: Float[np.ndarray, "out in"]
    bias: Float[np.ndarray, " out"]
    activation: Activation

    def affine(self, x: Float[np.ndarray, "N in"]) -> Float[np.ndarray, "N out"]:
        """`x @ weights.T + bias`: what the neurons see before the activation."""
        return np.asarray(x @ self.weights.T + self.bias)

    def __call__(self, x: Float[np.ndarray, "N in"]) -> Float[np.ndarray, "N out"]:
        return self.activation.value(self.affine(x))


@dataclass(frozen=True)
class Network:
    """Layers applied one after the other."""

    layers: tuple[Layer, ...]

    @classmethod
    def from_weights(
        cls, weights: Sequence[tuple[np.ndarray, np.ndarray]], activation: str = "relu", last: str = "identity"
    ) -> Network:
        """A dense network from [(W, b), ...] with W of shape (out, in); the last layer is affine unless `last` says otherwise."""
        names = [activation] * (len(weights) - 1) + [last]
        return cls(tuple(_layer(w, b, name) for (w, b), name in zip(weights, names, strict=True)))

    @property
    def n(self) -> int:
        return int(self.layers[0].weights.shape[1])

    @property
    def m(self) -> int:
        return int(self.layers[-1].weights.shape[0])

    def __call__(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        for layer in self.layers:
            x = layer(x)
        return x


def _layer(weights: np.ndarray, bias: np.ndarray, name: str) -> Layer:
    weights, bias = np.asarray(weights, dtype=np.float64), np.asarray(bias, dtype=np.float64)
    if weights.ndim != 2 or bias.shape != weights.shape[:1]:
        raise BadInput(f"a layer needs W (out, in) and b (out,); got {weights.shape} and {bias.shape}")
    return Layer(weights, bias, activation(name))
