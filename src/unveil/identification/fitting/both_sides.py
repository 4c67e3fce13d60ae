"""Points for a fit, moved so that every neuron is met on either side of its hyperplane often enough."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.whitebox.network import Network

# Points on either side of a neuron, per weight, and steps that lead there: behind the first layer hyperplanes bend on
# the way. How often points that these do not lead there are drawn half of the way to one that is.
OFTEN, PUSHES, SIDE_HALVINGS = 1.5, 6, 12
# Points where a neuron and a value that it sees are both to be active, the largest share of all that is moved there;
# how active, as a share of what is usual, and the value by this share of that: a weight that is not known yet moves the
# neuron by as much. Points that climb for each pair, steps, and how long these are as a share of the point.
BOTH_ACTIVE_POINTS, MOVED, BEGINS = 4, 0.25, 0.1
BOTH_ACTIVE_STARTS, BOTH_ACTIVE_STEPS, BOTH_ACTIVE_STRIDE = 64, 40, 0.05


def both_sides(network: Network, x: Float[np.ndarray, "N n"], first: int = 0) -> Float[np.ndarray, "N n"]:
    """The same points, some moved so that every hidden neuron is met on either side, and with each value it sees.

    A neuron that is active at one usual input in hundreds is hardly in a fit to usual inputs, and comes out of it with
    errors as many times those of the others. `network`: nearly right. `x`: more points than a neuron has weights.
    `first`: the first layer whose neurons count.
    """
    x = x.copy()
    free = np.ones(len(x), dtype=bool)
    for depth, layer in enumerate(network.layers[:-1]):
        if depth < first:
            continue
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
                moved = pushed(network, depth, np.full(len(near), i), x[near], goal)
                x[near] = _drawn(network, depth, i, moved, x[there], side)
                z[near] = network.preactivations(x[near], depth)[depth]
                free[near] = False
        if depth:
            _together(network, depth, x, free)
    return x


def _together(network: Network, depth: int, x: Float[np.ndarray, "N n"], free: Bool[np.ndarray, " N"]) -> None:
    """Move free points to where a neuron of a layer and a value it sees are both active, of pairs that hardly are.
    There alone answers tell the weight between them. Copies of the points at which the neuron is largest climb."""
    sums = network.preactivations(x, depth)
    z, h = sums[depth], sums[depth - 1]
    met = (z > 0).T.astype(float) @ (h > 0).astype(float)  # (products of integers take 50 times as long)
    pairs = np.argwhere(met < BOTH_ACTIVE_POINTS)
    pairs = pairs[np.argsort(met[*pairs.T], kind="stable")][: int(MOVED * len(x) / BOTH_ACTIVE_POINTS)]
    if not len(pairs):
        return
    starts = min(len(x), int(np.clip(2 * len(x) // len(pairs), BOTH_ACTIVE_POINTS, BOTH_ACTIVE_STARTS)))
    i, j = np.repeat(pairs, starts, axis=0).T
    there = x[np.argsort(-z, axis=0)[:starts, pairs[:, 0]].T.ravel()]
    share, each = np.resize(np.linspace(BEGINS, 1, BOTH_ACTIVE_POINTS), len(there)), np.arange(len(there))
    usual = np.abs(z).mean(axis=0)[i], np.abs(h).mean(axis=0)[j]
    for _ in range(BOTH_ACTIVE_STEPS):
        for level, neuron, goal in ((depth, i, share * usual[0]), (depth - 1, j, BEGINS * share * usual[1])):
            sums = network.preactivations(there, level)
            slope = gradients(network, level, network.layers[level].dense()[neuron], sums)
            lack = np.maximum(goal - sums[level][each, neuron], 0)
            step = (lack / np.maximum((slope**2).sum(axis=1), 1e-300))[:, None] * slope
            length, most = (np.linalg.norm(v, axis=1, keepdims=True) for v in (step, BOTH_ACTIVE_STRIDE * there))
            there = there + step * np.minimum(1, most / np.maximum(length, 1e-300))
    sums = network.preactivations(there, depth)
    arrived = ((sums[depth][each, i] > 0) & (sums[depth - 1][each, j] > 0)).reshape(len(pairs), starts)
    # The first ones of each pair.
    chosen = np.flatnonzero(arrived & (arrived.cumsum(axis=1) <= BOTH_ACTIVE_POINTS))
    at = np.flatnonzero(free)[: len(chosen)]
    x[at], free[at] = there[chosen[: len(at)]], False


def pushed(
    network: Network,
    depth: int,
    neuron: Int[np.ndarray, " K"],
    x: Float[np.ndarray, "K n"],
    goal: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "K n"]:
    """The points moved along the gradients of their neurons until the preactivations are these, `goal`, (K,)."""
    # A first layer's hyperplane is met at once; a deeper one bends on the way.
    for _ in range(PUSHES if depth else 1):
        sums = network.preactivations(x, depth)
        slope = gradients(network, depth, network.layers[depth].dense()[neuron], sums)
        off = goal - sums[depth][np.arange(len(x)), neuron]
        step = (off / np.maximum((slope**2).sum(axis=1), 1e-300))[:, None] * slope
        x = x + np.where(np.isfinite(step), step, 0.0)
    return x


def _drawn(
    network: Network,
    depth: int,
    neuron: int | Int[np.ndarray, ""],
    x: Float[np.ndarray, "K n"],
    there: Float[np.ndarray, "T n"],
    side: float,
) -> Float[np.ndarray, "K n"]:
    """With the points that did not reach this side of a neuron drawn towards some that are on it, until they are, too.

    Behind the first layer a gradient leads to the nearest maximum, which may lie below zero. `there`: points on this
    side. `side`: 1 where the preactivation is positive, -1 where it is negative.
    """

    def beyond(at: Float[np.ndarray, "P n"]) -> Bool[np.ndarray, " P"]:
        return np.asarray(side * network.preactivations(at, depth)[depth][:, neuron] > 0)

    arrived = beyond(x)
    lost, there = np.flatnonzero(~arrived), np.concatenate([there, x[arrived]])
    if not len(lost) or not len(there):
        return x
    goal = there[np.arange(len(lost)) % len(there)]
    for _ in range(SIDE_HALVINGS):
        away = ~beyond(x[lost])
        x[lost[away]] = (x[lost[away]] + goal[away]) / 2
    return x


def gradients(
    network: Network, depth: int, slope: Float[np.ndarray, "K d"], sums: list[Float[np.ndarray, "K _"]]
) -> Float[np.ndarray, "K n"]:
    """Gradients by the inputs, one per point, of functions of which `slope` are the gradients by what layer `depth`
    takes. `sums`: the preactivations of the layers before it, at these points."""
    for below, z in zip(reversed(network.layers[:depth]), reversed(sums[:depth]), strict=True):
        slope = (slope * below.activation.slope(z)) @ below.dense()
    return slope
