"""How often a network gives the label that an oracle gives: at random points, and close to the network's boundaries."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.oracle import Oracle
from unveil.identification.check_points import FURTHER, check_points
from unveil.whitebox.network import Network


def network_labels(network: Network, labels: tuple[int, ...], x: Float[np.ndarray, "N n"]) -> Int[np.ndarray, " N"]:
    """The label of the largest output."""
    return np.asarray(np.array(labels, dtype=np.int64)[network(x).argmax(axis=1)])


# So many times further from a boundary than weights are known to points are taken: a millionth by default.
BESIDE_BOUNDARY_RATIO = 100.0
# Where a label changes nowhere among usual inputs and up to 30 times as far out it is looked for so many times further.
AFAR = (1.0, 10.0, 100.0, 1000.0)
LOOSE = 1e-4  # standard error of a number from which on a result is approximate


def known_to(error: float, wanted: float = 1e-8) -> float:
    """How exactly a network is held to its boundaries: as its numbers are known, `error`, or to `wanted` where these
    are better or so loose that they say nothing."""
    return max(wanted, error if error <= LOOSE else 0.0)


def fresh_points(
    network: Network,
    labels: tuple[int, ...],
    oracle: Oracle,
    points: int,
    rng: np.random.Generator,
    accuracy: float = 1e-8,
) -> Float[np.ndarray, "M n"]:
    """Legal points to judge a network at: a third `check_points`, a third further out, where classes begin that usual
    inputs do not have, and a third close to the network's boundaries.

    Labels of random points agree even for a rough network; close to a boundary they agree only where it is exact.
    Points lie on both sides, at a distance of a hundred times the accuracy, of the segment on which the boundary was
    crossed (of a few thousand rounding steps in float32). `labels`: of each output; `points`: how many at most; fewer
    where the network knows a single label; `accuracy`: of the weights, relative.
    """
    each = points // 3
    usual, further = check_points(network, oracle, points - 2 * each, rng), oracle.sample(each, rng)
    if oracle.within is None:
        further = oracle.nearest(np.resize(FURTHER, (each, 1)) * further)
    return np.concatenate([*usual, further, near_boundaries(network, labels, oracle, each, rng, accuracy)])


def differs(
    network: Network, labels: tuple[int, ...], oracle: Oracle, x: Float[np.ndarray, "N n"]
) -> Bool[np.ndarray, " N"]:
    """Where an oracle gives another label than a network. Queries: `N`."""
    return np.asarray(oracle.predictions(oracle(x)) != network_labels(network, labels, x))


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
    """Legal points just before and just behind where the network's label changes on random segments between usual
    inputs; without a box half of these lie between points 3 and 30 times as far out, and all of them further out where
    it changes on none of these."""
    if count < 2:
        return np.empty((0, oracle.n))
    for far in AFAR if oracle.within is None else AFAR[:1]:
        start, end = oracle.sample(8 * count, rng), oracle.sample(8 * count, rng)
        if oracle.within is None:
            scale = far * np.resize([1.0, FURTHER[0], 1.0, FURTHER[1]], (8 * count, 1))
            start, end = oracle.nearest(scale * start), oracle.nearest(scale * end)
        before = network_labels(network, labels, start)
        rows = np.flatnonzero(before != network_labels(network, labels, end))[: (count + 1) // 2]
        if len(rows):
            break
    else:
        return start[:0]
    start, end, before = start[rows], end[rows], before[rows]
    low, high = np.zeros(len(rows)), np.ones(len(rows))
    for _ in range(52):
        middle = (low + high) / 2
        inside = network_labels(network, labels, start + middle[:, None] * (end - start)) == before
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    step = max(BESIDE_BOUNDARY_RATIO * accuracy, 4e3 * float(np.finfo(oracle.dtype).eps))
    sides = [start + np.clip(low + s, 0, 1)[:, None] * (end - start) for s in (-step, step)]
    return oracle.nearest(np.concatenate(sides)[:count])
