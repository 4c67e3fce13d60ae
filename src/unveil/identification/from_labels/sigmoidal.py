"""A hidden layer of tanh or sigmoid from labels: directions and scales far out, then the last layer near by."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.label_crossings import BoundaryPoints, Side, shifts
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.faces import Precision, tangents
from unveil.identification.from_labels.far_faces import RADIUS, FarFaces
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.shifted_faces import shifted_normal
from unveil.identification.from_labels.transitions import transition

LOOKED_AT = 3
"""Boundary points looked at first for whether the boundary is flat there."""

MORE = 6
"""Further ones where these do not agree with a network of flat pieces."""

PARTNERS = 12
"""Other neurons tried with each one whose scale is not known."""

CURVE = 400
"""Labels that tell a look at corners from a curve."""

STRANGE = 5
"""Curves in a row that are none of two sigmoidal neurons, before any that is: then no more are asked."""

HIDDEN = 4
"""Neurons that only shift the faces of others, looked for at a time."""

BENT = 16
"""Crossings far out that are no single neuron's, besides those of known ones, after which no more are looked for."""


def is_curved(pool: Pool, precision: Precision, rng: np.random.Generator) -> bool:
    """Whether the boundary is curved at most of a few points: no piecewise-linear network's is.

    Queries: about 100 a point, 160 where it is not flat; 3 points for flat boundaries and 9 for others
    """
    curved: list[bool] = []
    for count in (LOOKED_AT, MORE):
        curved += _curved_at(pool, precision, count, rng).tolist()
        if curved and sum(curved) < len(curved) / 2:
            return False
    return len(curved) > LOOKED_AT


def _curved_at(pool: Pool, precision: Precision, count: int, rng: np.random.Generator) -> Bool[np.ndarray, " N"]:
    """Whether the boundary lies elsewhere, between two moves to and fro, than half way between where it lies there."""
    step, cell = precision.step, 4 * precision.cell
    found = pool.crossings(count, cell)
    found = found[np.flatnonzero(pool.chart.margin(found.x) > 8 * step)]
    bent: list[bool] = []
    for i in range(len(found)):
        one = BoundaryPoints(found.x[i : i + 1], found.before[i : i + 1], found.along[i : i + 1])
        way = tangents(one.along, rng)
        near = _sag(pool, one, way, step, cell)
        if np.isnan(near):
            continue
        if abs(near) <= 4 * cell:
            bent.append(False)
            continue
        # A curve bends as the square of the move; an edge in proportion to it, and rounding not at all.
        bent.append(bool(8 < _sag(pool, one, way, 4 * step, cell) / near < 32))
    return np.array(bent, dtype=bool)


def _sag(pool: Pool, at: BoundaryPoints, way: Float[np.ndarray, "1 d"], step: float, cell: float) -> float:
    """By how much the boundary, at moves to and fro, lies off the straight line through where it is without."""
    moved = shifts(
        pool.side,
        at,
        np.concatenate([way, -way]),
        np.array([step]),
        centre=np.zeros((1, 2)),
        half=np.array([2 * step]),
        cell=np.array([cell]),
    )
    return float(moved.sum())


class SigmoidalSearch:
    """Neurons of a sigmoidal layer met so far; `run` goes on with the search.

    Args:
        side: Answers, in coordinates.
        chart: The coordinates.
        rng: Draws everything.
    """

    def __init__(self, side: Side, chart: Chart, rng: np.random.Generator) -> None:
        self.side, self.chart, self.rng = side, chart, rng
        self.far = FarFaces(side, chart, rng)
        self.scale, self.bias, self.error = np.empty(0), np.empty(0), np.empty(0)
        self.stages: dict[str, int] = {}
        self.booked = chart.ledger.asked
        self.stale = 0
        self.again = False
        self.strange = 0

    def run(self, patience: int) -> None:
        """Look for neurons until so many crossings far out are those of known ones, then for scales and biases.

        Queries: `45 d` for each neuron's direction, about 1,000 for its scale, 20 for each crossing
        """
        self.far.stale = self.stale
        self.far.run(patience, BENT)
        self._book("directions far out")
        if self.again:
            # No face far out is left to find: what is missing turns up only in the faces of others.
            for _ in range(HIDDEN):
                normal = shifted_normal(self.side, self.chart, self.far.normals, self.rng)
                if normal is None:
                    break
                self.far.add(normal)
            self._book("shifts far out")
        self.again = True
        k = len(self.far.normals)
        new = k - len(self.scale)
        self.error = np.concatenate([self.error, np.full(new, np.inf)])
        self.scale, self.bias = (np.concatenate([each, np.zeros(new)]) for each in (self.scale, self.bias))
        for i in range(k):
            for j in self.rng.permutation(np.delete(np.arange(k), i))[:PARTNERS]:
                if np.isfinite(self.error[i]) or self.strange >= STRANGE:
                    break
                self._pair(i, int(j))
        self._book("scales")

    @property
    def neurons(self) -> int:
        """Neurons met."""
        return len(self.far.normals)

    @property
    def read(self) -> Bool[np.ndarray, " k"]:
        """Which neurons' scales and biases are known."""
        return np.isfinite(self.error)

    @property
    def rows(self) -> tuple[Float[np.ndarray, "r d"], Float[np.ndarray, " r"]]:
        """Weight vectors and biases of these."""
        good = np.flatnonzero(self.read)
        return self.far.normals[good] * self.scale[good, None], self.bias[good]

    def _pair(self, i: int, j: int) -> None:
        known = np.where(self.read[[i, j]], self.bias[[i, j]], np.nan)
        asked = self.chart.ledger.asked
        found = transition(self.side, self.chart, self.far.normals, (i, j), RADIUS, self.rng, known)
        if found is None:
            # More than corners were asked: there was a curve, and it is not one of two such neurons.
            self.strange += self.chart.ledger.asked - asked > CURVE and not self.read.any()
            return
        for which, at in enumerate((i, j)):
            if found.error[which] < self.error[at]:
                self.scale[at], self.bias[at] = found.scale[which], found.bias[which]
                self.error[at] = found.error[which]

    def _book(self, stage: str) -> None:
        asked = self.chart.ledger.asked
        self.stages[stage] = self.stages.get(stage, 0) + asked - self.booked
        self.booked = asked
