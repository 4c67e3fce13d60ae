"""DeepPoints: boundary points of all classes, in inputs and in the values of a known first layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import Boundaries
from unveil.identification.from_labels.pool import Pool

ON = 1e-4  # points nearer than this to a model's boundary lie on it, before the fit of all numbers
CLOSE = 1e-6  # so near to a hyperplane of the first layer it is not certain which side a point is on
SPENT = 0.1  # share of the labels left that may be spent on points where weights count that are not told
USABLE = 0.05  # share of the boundary points at which all weights that count must be told
# How often the bracket around one that is missing grows eightfold, from `ON` on: to some sizes of a typical input.
GROW = 5


class DeepPoints:
    """Crossings met, and more where they are needed. `pool`: points of all labels, in coordinates. `first`: the first
    layer, normals towards its active sides. `met`: crossings met by now. `coarse`: how exactly more are located."""

    def __init__(self, pool: Pool, first: Hyperplanes, met: Crossings, coarse: float) -> None:
        self.pool, self.first, self.coarse = pool, first, coarse
        self.all = met
        self.asked = Crossings.none(pool.chart.n)

    def add(self, found: Crossings) -> None:
        self.all, self.asked = Crossings.joined([self.all, found]), Crossings.joined([self.asked, found])

    def known(self, model: Boundaries) -> Crossings:
        """Those between classes that a model has."""
        return self.all[np.flatnonzero(model.knows(self.all))]

    def inside(self, at: Crossings) -> Crossings:
        """Crossings in the first layer's values, those close to its hyperplanes left out."""
        sums = at.x @ self.first.normals.T + self.first.offsets
        rows = np.flatnonzero(np.abs(sums).min(axis=1) > CLOSE)
        sums, at = sums[rows], at[rows]
        along = (sums > 0) * (at.along @ self.first.normals.T)
        return replace(at, x=np.maximum(sums, 0.0), along=along)

    def usable(self, told: Bool[np.ndarray, " k"], pair: tuple[int, int], need: int) -> Crossings:
        """Points where weights count that are told, in the first layer's values; more are asked where there are few.

        `told`: first-layer neurons; none of the others is active at these points. `pair`: two classes. `need`: points
        wanted between these, and of each other class. Queries: about 35 for each point.
        """
        at = self.inside(self.all)
        good = ~(at.x[:, ~told] > 0).any(axis=1)
        share = max(float(good.mean()), USABLE)
        others = [int(c) for c in self.pool.classes if c not in pair]
        for one, two in (pair, *((c, pair[i % 2]) for i, c in enumerate(others))):
            ours = (at.before == one) | (at.after == one)
            if (one, two) == pair:
                ours &= (at.before == two) | (at.after == two)
            short = need - int((ours & good).sum())
            if short > 0:
                # Where most points are of weights that nothing told, more bends tell these with fewer labels.
                most = SPENT * self.pool.chart.ledger.left / 35 / (len(others) + 1) if share < 1 else short
                self.add(self.pool.crossings(int(min(short / share, most)), self.coarse, (one, two)))
        at = self.inside(self.all)
        return at[np.flatnonzero(~(at.x[:, ~told] > 0).any(axis=1))]

    def look(self, expected: Crossings, most: int) -> int:
        """Look whether a boundary is where a model foretells it; what is there instead is added.

        `expected`: points on the model's boundaries. `most`: points off them that are located, at most. Returns how
        many were added. Queries: 2 a point, and about 45 for each that is located.
        """
        rows = cross_near(self.pool.side, *expected.expected, np.full(len(expected), ON), np.inf, grow=0)[1]
        wrong = np.setdiff1d(np.arange(len(expected)), rows)[:most]
        found, _ = cross_near(
            self.pool.side, *expected[wrong].expected, np.full(len(wrong), ON), self.coarse, grow=GROW
        )
        self.add(found)
        return len(found)


def on_boundary(model: Boundaries, at: Crossings) -> Int[np.ndarray, " M"]:
    """Which crossings lie on a model's boundaries."""
    known = np.flatnonzero(model.knows(at))
    return np.asarray(known[np.abs(model.distances(at[known])) < ON])


def pairs_of(at: Crossings) -> Int[np.ndarray, "N 2"]:
    """The two classes at each crossing, in ascending order."""
    return np.sort(np.stack([at.before, at.after], axis=1), axis=1)
