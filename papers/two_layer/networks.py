"""Networks with two hidden layers drawn at random, and how far what was found is from them."""

from __future__ import annotations

import numpy as np

from unveil.identification.method import Identification
from unveil.whitebox.comparison import compare
from unveil.whitebox.network import Network

EXACT = 1e-8


def draw(
    n: int, widths: tuple[int, int], activation: str, seed: int, *, kind: str = "sphere", shifts: float = 0.5
) -> Network:
    """A network with unit rows; first layer "orthogonal", "perturbed" (0.1 unit vectors added to that) or "sphere"."""
    rng = np.random.default_rng([seed, n, *widths])
    first = rng.standard_normal((widths[0], n))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    if kind != "sphere":
        orthogonal = np.linalg.qr(rng.standard_normal((n, widths[0])))[0].T
        first = orthogonal + (0.1 * first if kind == "perturbed" else 0)
        first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = rng.standard_normal((widths[1], widths[0]))
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    outer = (np.ones((1, widths[1])), np.zeros(1))
    biases = [shifts * rng.standard_normal(width) for width in widths]
    return Network.from_weights([(first, biases[0]), (second, biases[1]), outer], activation)


def error(found: Identification, truth: Network) -> float:
    """Largest relative error of a parameter up to symmetry, infinite if a neuron is missing or false."""
    if found.network is None or len(found.network.layers) != len(truth.layers):
        return np.inf
    apart = compare(found.network, truth)
    if apart.missing or apart.false:
        return np.inf
    return max(max(layer.weight_error, layer.bias_error) for layer in apart.layers)
