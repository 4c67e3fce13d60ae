"""telling_most: which points to ask at for a fit of all weights of a network, of more than can be asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.fitting.matrix_free import Factor, back, factor, forward, parts, taken_apart, with_one
from unveil.whitebox.network import Network

# Points looked at for each one that is asked at; points that tell what a typical one tells, at most.
LOOKED_AT_PER_ASKED, TYPICAL = 4, 8192

Counts = Callable[[np.ndarray], np.ndarray]


def telling_most(
    network: Network,
    draw: Callable[[int], Float[np.ndarray, "N n"]],
    count: int,
    rng: np.random.Generator,
    counts: Counts | None = None,
    first: int = 0,
) -> Float[np.ndarray, "count n"]:
    """Points at which answers tell most of a network's weights, from `LOOKED_AT_PER_ASKED` times as many.

    At most inputs few neurons weigh much in the answer, and half of all answers may tell a tenth of what a fit has to
    find; of the rest each then stands alone for some weight, and a fit follows its rounding. Points are drawn in
    proportion to their leverage, without replacement: with that of a fit to all of them, in which what a layer takes
    and what comes back to it count as independent.

    Args:
        network: Nearly right.
        draw: Draws so many points.
        count: How many are wanted.
        rng: Draws among them.
        counts: What the error of an answer at each point counts for, (N, 1); alike by default.
        first: The first layer that is fitted.

    Queries: `0`
    Source: leverage, Chatterjee and Hadi (1986); drawing in proportion to it, Drineas, Mahoney and Muthukrishnan, SODA
        2006; without replacement, Efraimidis and Spirakis (2006); independence, Martens and Grosse, ICML 2015.
    """
    if not count:
        return np.empty((0, network.n))
    felt = _Felt(network, first, counts)
    kept, keys, typical = np.empty((0, network.n)), np.empty(0), None
    for _ in range(LOOKED_AT_PER_ASKED):
        x = draw(count)
        typical = typical or felt.typical(x[rng.permutation(len(x))[:TYPICAL]])
        # The smallest of these keys are a draw without replacement.
        key = rng.exponential(size=len(x)) / np.maximum(felt.leverage(x, typical), 1e-300)
        kept, keys = np.concatenate([kept, x]), np.concatenate([keys, key])
        best = np.sort(np.argsort(keys, kind="stable")[:count])
        kept, keys = kept[best], keys[best]
    return kept


class _Felt:
    """What answers feel of the weights of a network, layer by layer."""

    def __init__(self, network: Network, first: int, counts: Counts | None) -> None:
        self.weights, self.kinds = taken_apart(network)
        self.first, self.counts = first, counts

    def __call__(self, x: Float[np.ndarray, "N n"]) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        """For each layer that is fitted what it takes, (N, inputs + 1), and what comes back to its sums from each
        output, (N, neurons) each."""
        values, slopes = forward(self.weights, self.kinds, x)
        counts = np.ones((len(x), 1)) if self.counts is None else self.counts(x)
        backs = [
            back(self.weights, slopes, counts * output, self.first)[::-1] for output in np.eye(len(self.weights[-1][1]))
        ]
        return [
            (with_one(h), list(layer))
            for h, layer in zip(values[self.first : -1], zip(*backs, strict=True), strict=True)
        ]

    def typical(self, x: Float[np.ndarray, "N n"]) -> list[tuple[Factor, Factor]]:
        """Mean squares of both at these points, factored, for each layer."""
        return [
            (factor(h.T @ h / len(x)), factor(np.sum([g.T @ g for g in outputs], axis=0) / len(x)))
            for h, outputs in self(x)
        ]

    def leverage(self, x: Float[np.ndarray, "N n"], typical: list[tuple[Factor, Factor]]) -> Float[np.ndarray, " N"]:
        """What an answer at each of these points tells beside typical ones, of all layers together."""
        out = np.zeros(len(x))
        for part in parts(len(x)):
            for (h, outputs), (a, b) in zip(self(x[part]), typical, strict=True):
                out[part] += _size(h, a) * np.sum([_size(g, b) for g in outputs], axis=0)
        return out


def _size(rows: Float[np.ndarray, "N k"], typical: Factor) -> Float[np.ndarray, " N"]:
    """Squared lengths of rows in units of a typical one."""
    triangle, lower = typical
    return np.asarray((linalg.solve_triangular(triangle, rows.T, trans=int(not lower), lower=lower) ** 2).sum(axis=0))
