"""Which side of a hyperplane is the active one."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.whitebox.network import Network

MOST_ACTIVE_SETS = 400_000  # sets of neurons that are tried out as the active ones, at most
ABSENT_DERIVATIVE_SHARE = 1e-6  # a share in a derivative that is smaller than this part of it is none
CLEAR_SHARE_FACTOR = 30.0  # so many times what errors may make of a share is one
NORMAL_EQUATIONS_RIDGE = 1e-9  # share of the squares that stabilizes normal equations
DEPENDENT = 1e-6  # singular values of unit rows, and shares in a dependence, that are smaller are none
# Singular values of a derivative, in units of its largest entry, below which outputs move together; how many sets of
# neurons may be expected to hold a derivative by chance where a single one tells all signs.
TOGETHER_SINGULAR_VALUE, SETS_BY_CHANCE = 1e-6, 0.01


def dependent(rows: Float[np.ndarray, "k d"]) -> Bool[np.ndarray, "k k"]:
    """Which of these unit rows, no more than coordinates, depend on which others: training can make some parallel."""
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    null = u[:, s <= DEPENDENT]
    return np.asarray(np.abs(null @ null.T) > DEPENDENT)


def by_share(
    rows: Float[np.ndarray, "k d"],
    z: Float[np.ndarray, "P k"],
    slope: Float[np.ndarray, "P m d"],
    unsure: Float[np.ndarray, " P"] | float = 0.0,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Expand derivatives in the normals, k <= d: an inactive neuron has no share in them but errors.

    The side on which more of them lies along a normal, in the mean of logarithms: errors differ from place to place as
    much as derivatives do, and a few large ones would decide a mean. Of normals that depend on each other only the sum
    is told. Where that is zero none of them is active. `z`: what the neurons see at the P points, up to sign.
    `unsure`: length of the errors that derivatives may have along any direction. Returns sides, +1 where positive z is
    active, and for each the share on its inactive side relative to that on the active one: near 0 is sure, near 1 means
    that something else moves along this normal too.
    """
    inverse = np.linalg.pinv(rows, rcond=DEPENDENT)
    part = slope @ inverse
    size = np.linalg.norm(part, axis=1)
    whole = np.maximum(size.sum(axis=1, keepdims=True), 1e-300)
    least = np.maximum(
        np.outer(np.broadcast_to(unsure, len(z)), np.linalg.norm(inverse, axis=0)) / whole, ABSENT_DERIVATIVE_SHARE
    )
    # Where the answers do not change at all a derivative tells nothing.
    tells = (size.sum(axis=1) > 0)[:, None]
    share, least = np.log(np.maximum(size / whole, least)), np.log(np.minimum(least, 1.0))
    usual = np.minimum(
        (share * tells).sum() / max(tells.sum() * len(rows), 1), _mean(least, tells) + np.log(CLEAR_SHARE_FACTOR)
    )
    up, down = tells & (z > 0), tells & (z < 0)
    # Points on one side only: there is more than errors of it where that is the active one.
    mean_up, mean_down = (np.where(each.any(axis=0), _mean(share, each), usual) for each in (up, down))
    side = np.where(mean_up >= mean_down, 1.0, -1.0)
    bound = dependent(rows)
    floor = ABSENT_DERIVATIVE_SHARE * (size.max(initial=0.0) or 1.0)
    for i in np.flatnonzero(bound.any(axis=1)):
        moved = np.linalg.norm(part[:, :, bound[i]] @ rows[bound[i]], axis=(1, 2)) > floor
        side[i] = 1.0 if np.sum(moved == (z[:, i] > 0)) >= len(z) / 2 else -1.0
    both = up.any(axis=0) & down.any(axis=0)
    return side, np.where(both, np.exp(-np.abs(mean_up - mean_down)), 0.0)


def by_answers(
    z: Float[np.ndarray, "N k"], off: Float[np.ndarray, "N m"], jump: Float[np.ndarray, "k m"]
) -> Float[np.ndarray, " k"]:
    """How much of each neuron is the other way round, by what a network leaves of answers: 0 of a right one, and 1 of
    one with the wrong sign.

    As relu(z) - relu(-z) = z, a neuron with the wrong sign leaves an error linear in what it sees, times its output
    weights: least squares on these for all neurons at once, k <= m d. `z`: what the neurons see, active where positive.
    `off`: the network's answers without the model's. `jump`: the output weights.
    """
    normal = (z.T @ z) * (jump @ jump.T)
    size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    scaled = normal / size / size[:, None] + NORMAL_EQUATIONS_RIDGE * np.eye(len(size))
    return np.asarray(np.linalg.solve(scaled, ((z.T @ off) * jump).sum(axis=1) / size) / size)


def _mean(values: Float[np.ndarray, "P k"], where: Bool[np.ndarray, "P _"]) -> Float[np.ndarray, " k"]:
    """Of each column, over some of its entries; 0 where there are none."""
    return np.asarray((values * where).sum(axis=0) / np.maximum(where.sum(axis=0), 1))


def too_many(k: int, d: int, most: int = MOST_ACTIVE_SETS) -> bool:
    """Whether too many sets of k neurons may be the active ones on d coordinates to try out all."""
    return comb(k, d - 1) > most


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
    sets, chance = Sets.of(rows), 0.0
    for p in range(len(z)):
        g = slope[p] / max(np.abs(slope[p]).max(), 1e-300)
        # Of so many sets one holds any derivative by chance, the sooner the fewer outputs move independently.
        chance += len(sets.which) * tolerance ** int(np.linalg.matrix_rank(g, tol=TOGETHER_SINGULAR_VALUE))
        active = sets.making_up(g, tolerance, 1e3 * tolerance)
        if active is None:
            continue
        side = np.where(active == (z[p] > 0), 1.0, -1.0)
        for other in votes:
            if (side == other).all():
                return side
        votes.append(side)
    return votes[0] if len(votes) == 1 and chance < SETS_BY_CHANCE else None


class Sets(NamedTuple):
    """All sets of one normal less than there are coordinates."""

    rows: Float[np.ndarray, "k d"]  # the normals
    which: Int[np.ndarray, "S e"]  # those of each set
    left_out: Float[np.ndarray, "S d"]  # the one direction that each leaves out

    @classmethod
    def of(cls, rows: Float[np.ndarray, "k d"]) -> Sets:
        """Of these normals; one set of all where these are fewer."""
        k, d = rows.shape
        which = np.array(list(combinations(range(k), min(k, d - 1))), dtype=np.int16)
        left_out = np.empty((len(which), d))
        for start in range(0, len(which), 20_000):
            part = rows[which[start : start + 20_000]]
            left_out[start : start + len(part)] = np.linalg.svd(part, full_matrices=True)[2][:, -1]
        return cls(rows, which, left_out)

    def making_up(self, g: Float[np.ndarray, "m d"], tolerance: float, least: float) -> Bool[np.ndarray, " k"] | None:
        """Which normals vectors are sums of, with a share of at least so much, if one of the sets holds these."""
        miss = np.abs(self.left_out @ g.T).max(axis=1)
        best = int(miss.argmin())
        if miss[best] > tolerance:
            return None
        chosen = self.which[best]
        share = np.linalg.lstsq(self.rows[chosen].T, g.T, rcond=None)[0]
        active = np.zeros(len(self.rows), dtype=bool)
        active[chosen[np.abs(share).max(axis=1) > least]] = True
        return active


def weakest_turned(network: Network) -> Network:
    """The same network with the weakest neuron of its only hidden layer active on the other side."""
    first, last = network.layers
    i = int((np.linalg.norm(first.weights, axis=1) * np.linalg.norm(last.weights, axis=0)).argmin())
    side = np.where(np.arange(first.neurons) == i, -1.0, 1.0)
    weights = [(first.weights * side[:, None], first.bias * side), (last.weights, last.bias)]
    return Network.from_weights(weights, shape=network.shape)
