"""Which side of a hyperplane is the active one."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Float

from unveil.whitebox.network import Network

MOST_SETS = 400_000  # sets of neurons that are tried out as the active ones, at most
NONE = 1e-6  # a share in a derivative that is smaller than this part of the largest is none
DEPENDENT = 1e-6  # singular values of unit rows, and shares in a dependence, that are smaller are none
# Singular values of a derivative, in units of its largest entry, below which outputs move together; how many sets of
# neurons may be expected to hold a derivative by chance where a single one tells all signs.
SHARED, BY_CHANCE = 1e-6, 0.01


def dependent(rows: Float[np.ndarray, "k d"]) -> Bool[np.ndarray, "k k"]:
    """Which of these unit rows, no more than coordinates, depend on which others: training can make some parallel."""
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    null = u[:, s <= DEPENDENT]
    return np.asarray(np.abs(null @ null.T) > DEPENDENT)


def by_vanishing(
    rows: Float[np.ndarray, "k d"], z: Float[np.ndarray, "P k"], slope: Float[np.ndarray, "P m d"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Expand derivatives in the normals, k <= d: an inactive neuron has coefficient zero.

    Of normals that depend on each other only the sum is told. Where that is zero none of them is active. Returns sides,
    +1 where positive z is active, and for each the largest coefficient on its inactive side relative to that on the
    active one: near 0 is sure, near 1 means that something else moves along this normal too.
    """
    part = slope @ np.linalg.pinv(rows, rcond=DEPENDENT)
    coefficient = np.abs(part).max(axis=1)
    up = np.where(z > 0, coefficient, 0).max(axis=0)
    down = np.where(z < 0, coefficient, 0).max(axis=0)
    # Points on one side only: a zero there means that the other side is the active one.
    scale = coefficient.max(axis=0)
    floor = NONE * (scale.max() or 1.0)
    side = np.where(up >= down, 1.0, -1.0)
    only_up, only_down = ~(z < 0).any(axis=0), ~(z > 0).any(axis=0)
    side = np.where(only_up & (up < floor), -1.0, side)
    side = np.where(only_down & (down < floor), 1.0, side)
    bound = dependent(rows)
    for i in np.flatnonzero(bound.any(axis=1)):
        moved = np.linalg.norm(part[:, :, bound[i]] @ rows[bound[i]], axis=(1, 2)) > floor
        side[i] = 1.0 if np.sum(moved == (z[:, i] > 0)) >= len(z) / 2 else -1.0
    doubt = np.minimum(up, down) / np.maximum(np.maximum(up, down), 1e-300)
    return side, doubt


def by_share(
    rows: Float[np.ndarray, "k d"], z: Float[np.ndarray, "P k"], slope: Float[np.ndarray, "P m d"]
) -> Float[np.ndarray, " k"]:
    """The side on which more of derivatives lies along a normal, in the mean of logarithms: for few digits.

    Off its hyperplane's active side a neuron has none of a derivative but errors, which differ from place to place as
    much as derivatives do: a few large ones would decide a mean. `rows`: normals, k <= d. `z`: what the neurons see at
    the P points (up to sign). Returns sides, +1 where positive z is active.
    """
    part = np.sqrt(((np.linalg.pinv(rows).T @ slope.transpose(0, 2, 1)) ** 2).sum(axis=2))
    size = part.sum(axis=1)
    part = np.log(np.maximum(part / np.where(size > 0, size, 1.0)[:, None], NONE))
    up, down = (z > 0) & (size > 0)[:, None], (z < 0) & (size > 0)[:, None]
    mean_up = (part * up).sum(axis=0) / np.maximum(up.sum(axis=0), 1)
    mean_down = (part * down).sum(axis=0) / np.maximum(down.sum(axis=0), 1)
    # Points on one side only: there is more than errors of it where that is the active one.
    usual = part[size > 0].mean() if (size > 0).any() else 0.0
    mean_up, mean_down = np.where(up.any(axis=0), mean_up, usual), np.where(down.any(axis=0), mean_down, usual)
    return np.where(mean_up >= mean_down, 1.0, -1.0)


def too_many(k: int, d: int) -> bool:
    """Whether `by_sparsity` cannot try out all that may be active of k neurons on d coordinates."""
    return comb(k, d - 1) > MOST_SETS


def by_sparsity(
    rows: Float[np.ndarray, "k d"], z: Float[np.ndarray, "P k"], slope: Float[np.ndarray, "P m d"], tolerance: float
) -> Float[np.ndarray, " k"] | None:
    """More neurons than coordinates: find a point where fewer neurons than coordinates are active.

    There the derivatives lie in the span of the active normals, which no other set of as few normals shares. A neuron
    of the set is active on its side of that point, all others on the other. Returns sides that two points agree on
    (one, if only one could be solved, and not by chance), or None.
    """
    k, d = rows.shape
    votes: list[np.ndarray] = []
    if too_many(k, d):
        return None
    subsets = np.array(list(combinations(range(k), d - 1)), dtype=np.int16)
    # The one direction that a set of d - 1 normals leaves out, for all sets at once.
    left_out = np.empty((len(subsets), d))
    for start in range(0, len(subsets), 20_000):
        part = rows[subsets[start : start + 20_000]]
        left_out[start : start + len(part)] = np.linalg.svd(part, full_matrices=True)[2][:, -1]
    chance = 0.0
    for p in range(len(z)):
        g = slope[p] / max(np.abs(slope[p]).max(), 1e-300)
        # Of so many sets one holds any derivative by chance, the sooner the fewer outputs move independently.
        chance += len(subsets) * tolerance ** int(np.linalg.matrix_rank(g, tol=SHARED))
        miss = np.abs(left_out @ g.T).max(axis=1)
        best = int(miss.argmin())
        if miss[best] > tolerance:
            continue
        chosen = subsets[best]
        coefficient, *_ = np.linalg.lstsq(rows[chosen].T, g.T, rcond=None)
        active = np.zeros(k, dtype=bool)
        active[chosen[np.abs(coefficient).max(axis=1) > 1e3 * tolerance]] = True
        side = np.where(active == (z[p] > 0), 1.0, -1.0)
        for other in votes:
            if (side == other).all():
                return side
        votes.append(side)
    return votes[0] if len(votes) == 1 and chance < BY_CHANCE else None


def weakest_turned(network: Network) -> Network:
    """The same network with the weakest neuron of its only hidden layer active on the other side."""
    first, last = network.layers
    i = int((np.linalg.norm(first.weights, axis=1) * np.linalg.norm(last.weights, axis=0)).argmin())
    side = np.where(np.arange(first.neurons) == i, -1.0, 1.0)
    weights = [(first.weights * side[:, None], first.bias * side), (last.weights, last.bias)]
    return Network.from_weights(weights, shape=network.shape)
