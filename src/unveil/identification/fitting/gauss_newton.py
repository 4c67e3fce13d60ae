"""refine: a few plain Gauss-Newton steps on the layers behind the first, from a start that is nearly exact."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.fitting.least_squares import jacobian
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
        normal[diagonal] += RIDGE * normal[diagonal].mean()
        try:
            step = linalg.cho_solve(linalg.cho_factor(normal), J.T @ error)
        except linalg.LinAlgError:
            break  # nothing these points say can be told from rounding
        trial = _moved(network, free, step)
        after = (y - trial(x)).ravel()
        if not after @ after < error @ error:
            break
        network, error = trial, after
    return network


def telling_points(
    network: Network, pool: Float[np.ndarray, "N n"], count: int, *, first: int = 1
) -> Float[np.ndarray, "chosen n"]:
    """The first `count` points of a pool, and more where a neuron is active in too few of them to settle its weights.

    Args:
        network: Nearly right.
        pool: Points to choose from.
        count: How many are taken whatever they show.
        first: The first layer whose weights are to be settled.
    """
    chosen = np.arange(len(pool)) < count
    h = pool
    for depth, layer in enumerate(network.layers[:-1]):
        z = layer.affine(h)
        if depth >= first:
            for on in (z > 0).T[np.argsort((z > 0).sum(axis=0))]:
                missing = int(1.5 * (h.shape[1] + 1)) - int((on & chosen).sum())
                chosen[np.flatnonzero(on & ~chosen)[: max(0, missing)]] = True
        h = layer.activation.value(z)
    return pool[chosen]


def _moved(network: Network, free: range, step: np.ndarray) -> Network:
    layers, begin = list(network.layers), 0
    for depth in free:
        rows, columns = layers[depth].weights.shape
        block = step[begin : begin + rows * (columns + 1)].reshape(rows, columns + 1)
        begin += block.size
        layer = layers[depth]
        layers[depth] = Layer(layer.weights + block[:, :-1], layer.bias + block[:, -1], layer.activation)
    return Network(tuple(layers))
