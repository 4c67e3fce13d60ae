"""refine: a few plain Gauss-Newton steps on the layers behind the first, from a start that is nearly exact."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identify.polish import jacobian
from unveil.whitebox.network import Layer, Network

# Keeps what these points hardly determine (the scale of a neuron, neurons that are rarely active) near its start.

RIDGE = 1e-12


def refine(
    network: Network, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], *, first: int = 1, steps: int = 1
) -> Network:
    """Fit the layers from `first` on to answers, with all signs as they are.

    Errors are so small that no point changes its linear piece, so one full step converges.

    Args:
        network: Where to start.
        x: Where the oracle was asked: more answers than free parameters.
        y: What it answered.
        first: The first layer that moves.
        steps: Steps at most.

    Returns:
        The best network met.

    Queries: `0`; the answers are given.
    """
    free = range(first, len(network.layers))
    error = (y - network(x)).ravel()
    for _ in range(steps):
        J = jacobian(network, x, free)
        J = J.reshape(-1, J.shape[2])
        normal = J.T @ J
        diagonal = np.diag_indices_from(normal)
        normal[diagonal] += RIDGE * normal[diagonal].mean() + np.finfo(float).tiny
        trial = _moved(network, free, linalg.solve(normal, J.T @ error, assume_a="pos"))
        after = (y - trial(x)).ravel()
        if not after @ after < error @ error:
            break
        network, error = trial, after
    return network


def _moved(network: Network, free: range, step: np.ndarray) -> Network:
    layers, begin = list(network.layers), 0
    for depth in free:
        rows, columns = layers[depth].weights.shape
        block = step[begin : begin + rows * (columns + 1)].reshape(rows, columns + 1)
        begin += block.size
        layer = layers[depth]
        layers[depth] = Layer(layer.weights + block[:, :-1], layer.bias + block[:, -1], layer.activation)
    return Network(tuple(layers))
