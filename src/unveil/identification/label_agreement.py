"""How often a network gives the label that an oracle gives: at random points, and close to the network's boundaries."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.oracle import Oracle
from unveil.whitebox.network import Network


def network_labels(network: Network, labels: tuple[int, ...], x: Float[np.ndarray, "N n"]) -> Int[np.ndarray, " N"]:
    """The label of the largest output."""
    return np.asarray(np.array(labels, dtype=np.int64)[network(x).argmax(axis=1)])


NEAR = 100.0  # so many times further from a boundary than weights are known to points are taken: a millionth by default


def fresh_points(
    network: Network,
    labels: tuple[int, ...],
    oracle: Oracle,
    points: int,
    rng: np.random.Generator,
    accuracy: float = 1e-8,
) -> Float[np.ndarray, "M n"]:
    """Legal points to judge a network at, half of them random and half close to the network's boundaries.

    Labels of random points agree even for a rough network; close to a boundary they agree only where it is exact.
    Points lie on both sides, at a distance of a hundred times the accuracy, of the segment on which the boundary was
    crossed (of a few thousand rounding steps in float32). `labels`: of each output; `points`: how many at most; fewer
    where the network knows a single label; `accuracy`: of the weights, relative.
    """
    x = oracle.sample(points - points // 2, rng)
    return np.concatenate([x, near_boundaries(network, labels, oracle, points // 2, rng, accuracy)])


def disagreement(
    network: Network, labels: tuple[int, ...], oracle: Oracle, points: int, rng: np.random.Generator
) -> float:
    """Share of `fresh_points` with another label. Queries: `points`, fewer where the network knows a single label."""
    x = fresh_points(network, labels, oracle, points, rng)
    return float(np.mean(oracle.predictions(oracle(x)) != network_labels(network, labels, x)))


def at_random(
    network: Network, labels: tuple[int, ...], oracle: Oracle, points: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of random points with another label, and with another one than the commonest. Queries: `points`."""
    x = oracle.sample(points, rng)
    told = oracle.predictions(oracle(x))
    wrong = float(np.mean(told != network_labels(network, labels, x)))
    return wrong, 1 - float(np.unique(told, return_counts=True)[1].max()) / points


def near_boundaries(
    network: Network,
    labels: tuple[int, ...],
    oracle: Oracle,
    count: int,
    rng: np.random.Generator,
    accuracy: float = 1e-8,
) -> Float[np.ndarray, "M n"]:
    """Legal points just before and just behind where the network's label changes on random segments."""
    if count < 2:
        return np.empty((0, oracle.n))
    start, end = oracle.sample(8 * count, rng), oracle.sample(8 * count, rng)
    before = network_labels(network, labels, start)
    rows = np.flatnonzero(before != network_labels(network, labels, end))[: (count + 1) // 2]
    if not len(rows):
        return start[:0]
    start, end, before = start[rows], end[rows], before[rows]
    low, high = np.zeros(len(rows)), np.ones(len(rows))
    for _ in range(52):
        middle = (low + high) / 2
        inside = network_labels(network, labels, start + middle[:, None] * (end - start)) == before
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    step = max(NEAR * accuracy, 4e3 * float(np.finfo(oracle.dtype).eps))
    sides = [start + np.clip(low + s, 0, 1)[:, None] * (end - start) for s in (-step, step)]
    return oracle.nearest(np.concatenate(sides)[:count])
