"""Points for a fit, moved so that every neuron is met on either side of its hyperplane often enough, and every pair."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.whitebox.network import Network

# Points on either side of a neuron, per weight, and steps that lead there: behind the first layer hyperplanes bend on
# the way.
OFTEN, PUSHES = 1.5, 6
# Pairs of neurons that are both active at fewer points are sought elsewhere, from so many points and in so many steps,
# no further out than this many usual ones; how much of a neuron a value of the layer before may take away there, if it
# weighs no more than others.
SELDOM, STARTS, CLIMB, REACH, SMALL = 4, 4, 40, 4.0, 0.3


def both_sides(network: Network, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
    """The same points, some of them moved so that every hidden neuron is met on either side often enough.

    A neuron that is active at one usual input in hundreds is hardly in a fit to usual inputs, and comes out of it with
    errors as many times those of the others. `network`: nearly right. `x`: more points than a neuron has weights.
    """
    x = x.copy()
    free = np.ones(len(x), dtype=bool)
    for depth, layer in enumerate(network.layers[:-1]):
        z = network.preactivations(x, depth)[depth]
        need = int(OFTEN * (layer.inputs + 1))
        for i in np.argsort(np.minimum((z > 0).sum(axis=0), (z < 0).sum(axis=0))):
            for side in (1.0, -1.0):
                there = side * z[:, i] > 0
                lack = need - int(there.sum())
                if lack <= 0:
                    continue
                # The nearest ones, as far to the other side as they were on this one, or a little.
                near = np.flatnonzero(free & ~there)
                near = near[np.argsort(np.abs(z[near, i]))[:lack]]
                if not len(near):
                    continue
                goal = side * np.abs(z[near, i]).mean() * np.linspace(0.05, 1, len(near))
                x[near] = _pushed(network, depth, i, x[near], goal)
                z[near] = network.preactivations(x[near], depth)[depth]
                free[near] = False
    return x


def side_by_side(
    network: Network, x: Float[np.ndarray, "N n"], pool: Float[np.ndarray, "M n"]
) -> Float[np.ndarray, "K n"]:
    """Points where a neuron is active and one of the layer before is so by little, for pairs that hardly ever are both.

    Nothing else tells the weight between the two. Where it is wrong the neuron is active all the same: the value that
    it weighs is small. `network`: nearly right. `x`: points at which pairs are counted. `pool`: points to start from;
    none goes further out than `REACH` times the usual one.
    """
    found, most = [x[:0]], REACH * float(np.median(np.linalg.norm(pool, axis=1)))
    pool = pool[np.linalg.norm(pool, axis=1) <= most]
    for depth in range(1, len(network.layers) - 1):
        *_, below, z = network.preactivations(x, depth)
        i, j = np.nonzero((z > 0).T.astype(float) @ (below > 0) < SELDOM)
        *_, below, z = network.preactivations(pool, depth)
        unit = np.abs(network.layers[depth].dense()).max(axis=1) / SMALL
        least = [np.minimum(z[:, a], unit[a] * below[:, b]) for a, b in zip(i, j, strict=True)]
        start = np.concatenate([np.zeros(0, dtype=int), *(np.argsort(-each)[:STARTS] for each in least)])
        pair = np.repeat([i, j], min(STARTS, len(pool)), axis=1)
        there = _climbed(network, depth, (pair[0], pair[1]), pool[start], most)
        found.append(there)
    return np.concatenate(found)


def _climbed(
    network: Network, depth: int, pair: tuple[np.ndarray, np.ndarray], x: Float[np.ndarray, "K n"], most: float
) -> Float[np.ndarray, "C n"]:
    """Those of the points that come to where both neurons of a pair are active, one of the layer before and one."""
    if not len(x):
        return x
    (i, j), step = pair, np.full(len(x), most / 10)
    unit = np.abs(network.layers[depth].dense()[i]).max(axis=1) / SMALL

    def both(x: Float[np.ndarray, "K n"]) -> tuple[list[np.ndarray], Float[np.ndarray, " K"]]:
        sums, at = network.preactivations(x, depth), np.arange(len(x))
        return sums, np.minimum(sums[-1][at, i], unit * sums[-2][at, j])

    sums, least = both(x)
    for _ in range(CLIMB):
        a, b = _slope(network, depth, i, sums), unit[:, None] * _slope(network, depth - 1, j, sums[:-1])
        # The shortest way on which both grow alike.
        aa, ab, bb = (a * a).sum(axis=1), (a * b).sum(axis=1), (b * b).sum(axis=1)
        way = a * (bb - ab)[:, None] + b * (aa - ab)[:, None]
        y = x + way * (step / np.maximum(np.linalg.norm(way, axis=1), 1e-300))[:, None]
        y *= np.minimum(1, most / np.maximum(np.linalg.norm(y, axis=1), 1e-300))[:, None]
        sums_, reached = both(y)
        better = reached > least
        x, least = np.where(better[:, None], y, x), np.where(better, reached, least)
        sums = [np.where(better[:, None], new, old) for new, old in zip(sums_, sums, strict=True)]
        step *= np.where(better, 1.2, 0.5)
    return x[least > 0]


def _pushed(
    network: Network,
    depth: int,
    neuron: int | Int[np.ndarray, ""],
    x: Float[np.ndarray, "K n"],
    goal: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "K n"]:
    """The points moved along this neuron's gradients until its preactivations are these."""
    for _ in range(PUSHES if depth else 1):
        sums = network.preactivations(x, depth)
        slope = _slope(network, depth, neuron, sums)
        off = goal - sums[depth][:, neuron]
        x = x + off[:, None] * slope / np.maximum((slope**2).sum(axis=1), 1e-300)[:, None]
    return x


def _slope(
    network: Network, depth: int, neuron: int | Int[np.ndarray, " K"], sums: list[np.ndarray]
) -> Float[np.ndarray, "K n"]:
    """Gradients of a neuron's preactivation where the layers up to it have these."""
    weights = network.layers[depth].dense()[neuron]
    slope = np.broadcast_to(weights, (len(sums[0]), weights.shape[-1]))
    for below, z in zip(reversed(network.layers[:depth]), reversed(sums[:depth]), strict=True):
        slope = (slope * below.activation.slope(z)) @ below.dense()
    return np.array(slope)
