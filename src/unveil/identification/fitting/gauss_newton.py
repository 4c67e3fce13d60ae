"""refine, sharpen: a few plain Gauss-Newton steps from a start that is nearly exact, with answers that tell most."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.blackbox.rounding import Ask
from unveil.identification.fitting.least_squares import jacobian
from unveil.whitebox.network import Layer, Network

# Keeps what these points hardly determine (the scale of a neuron, neurons that are rarely active) near its start.
RIDGE = 1e-12
# Steps before fresh answers are asked for, how many at once and how often; those whose errors would be so many times
# the others' are.
STEPS, AT_ONCE, ROUNDS, ENOUGH = 3, 60, 3, 30.0


def refine(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    *,
    first: int = 1,
    steps: int = 1,
    each: bool = False,
) -> Network:
    """Fit the layers from `first` on to answers, with all signs as they are.

    Errors are so small that no point changes its linear piece, so one full step converges.

    Args:
        network: Where to start.
        x: Where the oracle was asked: more answers than free parameters.
        y: What it answered.
        first: The first layer that moves.
        steps: Steps at most.
        each: Whether weights that few of these points feel move as freely as the others.

    Returns:
        The best network met.

    Queries: `0`; the answers are given.
    """
    free = range(first, len(network.layers))
    error = (y - network(x)).ravel()
    for _ in range(steps):
        J = jacobian(network, x, free)
        J, scale, normal = _scaled(J.reshape(-1, J.shape[2]), each)
        try:
            step = linalg.cho_solve(linalg.cho_factor(normal), J.T @ error) / scale
        except linalg.LinAlgError:
            break  # nothing these points say can be told from rounding
        trial = _moved(network, free, step)
        after = (y - trial(x)).ravel()
        if not after @ after < error @ error:
            break
        network, error = trial, after
    return network


def sharpen(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    pool: Float[np.ndarray, "M n"],
    ask: Ask,
) -> Network:
    """All weights behind the first layer to the last digits, with answers where the others do not settle them.

    A weight between two neurons that are hardly ever active together is settled by no usual answer.

    Args:
        network: Nearly right.
        x: Where the oracle was asked: more answers than free parameters.
        y: What it answered.
        pool: Where its answers should be right.
        ask: Asks for more.

    Queries: at most `ROUNDS * AT_ONCE`
    """
    for _ in range(ROUNDS):
        network = refine(network, x, y, steps=STEPS, each=True)
        J, there = (jacobian(network, points, range(1, len(network.layers))) for points in (x, pool))
        _, scale, normal = _scaled(J.reshape(-1, J.shape[2]), True)
        try:
            root = linalg.cholesky(normal, lower=True)
        except linalg.LinAlgError:
            return network  # as where `refine` ends
        G = linalg.solve_triangular(root, (there.sum(axis=1) / scale).T, lower=True).T
        more = pool[most_telling(G, AT_ONCE, ENOUGH)]
        if not len(more):
            return network
        x, y = np.concatenate([x, more]), np.concatenate([y, ask(more)])
    return refine(network, x, y, steps=STEPS, each=True)


def most_telling(G: Float[np.ndarray, "M q"], count: int, enough: float) -> Int[np.ndarray, " chosen"]:
    """Which answers would tell most about a linear fit, one after the other.

    Args:
        G: What they are sums of, in units in which what is known is known equally well.
        count: How many at most.
        enough: It stops where every answer follows from the others to within this many times their errors.
    """
    G = G.copy()
    left = (G**2).sum(axis=1)
    chosen: list[int] = []
    for _ in range(min(count, len(G))):
        best = int(left.argmax())
        if left[best] < enough**2:
            break
        chosen.append(best)
        g = G[best].copy()
        size = float(g @ g)
        G -= np.outer(G @ g, g) * ((1 - 1 / np.sqrt(1 + size)) / size)
        left = (G**2).sum(axis=1)
        left[chosen] = 0
    return np.array(chosen, dtype=int)


def telling_points(network: Network, pool: Float[np.ndarray, "N n"], count: int) -> Float[np.ndarray, "chosen n"]:
    """The first `count` points of a pool, and more where a neuron is active in too few of them to settle its weights.

    The first layer's weights are known from elsewhere.

    Args:
        network: Nearly right.
        pool: Points to choose from.
        count: How many are taken whatever they show.
    """
    chosen = np.arange(len(pool)) < count
    h = pool
    for depth, layer in enumerate(network.layers[:-1]):
        z = layer.affine(h)
        if depth:
            for on in (z > 0).T[np.argsort((z > 0).sum(axis=0))]:
                missing = int(1.5 * (h.shape[1] + 1)) - int((on & chosen).sum())
                chosen[np.flatnonzero(on & ~chosen)[: max(0, missing)]] = True
        h = layer.activation.value(z)
    return pool[chosen]


def _scaled(J: Float[np.ndarray, "q p"], each: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With columns of unit norm, each or in the mean; what these norms were, and the normal equations."""
    scale = np.linalg.norm(J, axis=0)
    mean = float(np.sqrt((scale**2).mean()))
    scale = np.maximum(scale, 1e-12 * mean) if each else np.full_like(scale, max(mean, 1e-300))
    J = J / scale
    normal = J.T @ J
    normal[np.diag_indices_from(normal)] += RIDGE
    return J, scale, normal


def _moved(network: Network, free: range, step: np.ndarray) -> Network:
    layers, begin = list(network.layers), 0
    for depth in free:
        rows, columns = layers[depth].weights.shape
        block = step[begin : begin + rows * (columns + 1)].reshape(rows, columns + 1)
        begin += block.size
        layer = layers[depth]
        layers[depth] = Layer(layer.weights + block[:, :-1], layer.bias + block[:, -1], layer.activation)
    return Network(tuple(layers))
