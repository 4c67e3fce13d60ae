"""Pool: points with their labels, from which boundary points are taken."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross
from unveil.outcome import UnsteadyAnswers

POINTS_PER_DRAW = 64  # points asked for their labels at a time
# Sizes of random points, in units of a typical input, tried until two labels have been seen.
SIZES = (1.5, 4.0, 16.0, 64.0, 256.0, 0.25)
FIRST_LOOK = 64  # random points of each size
REPEATED = 16  # of these are asked twice, to see whether answers are steady


class Pool:
    """Points with their labels. `side`: answers, in coordinates. `size`: of random points without a box, in units of a
    typical input. `given`: coordinates of inputs to draw half of the points near."""

    def __init__(
        self, side: Side, chart: Chart, size: float, given: Float[np.ndarray, "N d"], rng: np.random.Generator
    ) -> None:
        self.side, self.chart, self.size, self.given, self.rng = side, chart, size, given, rng
        self.wide = 1.0
        """So many times as far out as the others half of the random points lie, without a box."""
        self.y = np.empty((0, chart.n))
        self.label = np.empty(0, dtype=np.int64)

    def sample(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "N d"]:
        """Random points, none of them asked: in the box, or of the pool's size; half of them near inputs given."""
        oracle = self.chart.oracle
        if oracle.within is None:
            y = self.size * rng.standard_normal((count, self.chart.n))
            y[count // 2 :] *= self.wide
            spread = y / 4
        else:
            y = self.chart.coordinates(rng.uniform(oracle.low, oracle.high, size=(count, oracle.n)))
            # A slice through the middle of a box is larger than what the box's points project to.
            y *= max(1.0, 0.6 * np.sqrt(oracle.n / self.chart.n))
            spread = y / 4
        if len(self.given):
            half = count // 2
            y[:half] = self.given[rng.integers(len(self.given), size=half)] + spread[:half]
        # Towards the middle, as far as it takes to be legal: what is left out by the coordinates may stick out.
        for _ in range(40):
            outside = self.chart.margin(y) < 0
            if not outside.any():
                break
            y[outside] *= 0.9
        return np.asarray(y)

    def draw(self, count: int = POINTS_PER_DRAW) -> None:
        """Ask for more. Queries: `count`."""
        self.put(self.sample(count, self.rng))

    def put(self, y: Float[np.ndarray, "N d"]) -> None:
        """Ask for the labels of given points. Queries: `N`."""
        self.label = np.concatenate([self.label, self.side.labels(y)])
        self.y = np.concatenate([self.y, y])

    @property
    def classes(self) -> Int[np.ndarray, " c"]:
        """Labels seen, the most frequent first."""
        labels, counts = np.unique(self.label, return_counts=True)
        return np.asarray(labels[np.argsort(-counts, kind="stable")])

    def crossings(
        self, count: int, cell: float, pair: tuple[int, int] | None = None, latest: int | None = None
    ) -> Crossings:
        """Points on the boundary, on segments between random points of different labels, or of the two given ones.

        `latest`: without two labels, segments start at so many points asked last; else at any. Queries:
        `count * log2(distance / cell)`
        """
        order = len(self.y) - 1 - self.rng.permutation(latest or len(self.y))
        if pair is None:
            start = np.resize(order, count)
            end = np.array([self._other(self.label[i]) for i in start])
        else:
            one, two = (np.flatnonzero(self.label == c) for c in pair)
            if not len(one) or not len(two):
                # Met between two others, and by no random point.
                return Crossings.none(self.chart.n)
            # The same segment twice tells nothing new.
            which = self.rng.choice(len(one) * len(two), min(count, len(one) * len(two)), replace=False)
            start, end = one[which // len(two)], two[which % len(two)]
        return cross(self.side, self.y[start], self.y[end], self.label[start], self.label[end], cell)

    def crossings_of_all(self, count: int, cell: float) -> Crossings:
        """Points on the boundary, each class as often before it as any other. Queries: as `crossings`."""
        classes = self.rng.choice(self.classes, count)
        start = np.array([self.rng.choice(np.flatnonzero(self.label == c)) for c in classes])
        end = np.array([self._other(self.label[i]) for i in start])
        return cross(self.side, self.y[start], self.y[end], self.label[start], self.label[end], cell)

    def around(self, wrong: Crossings, cell: float) -> Crossings:
        """Points on the boundary around places where one was expected and is not; the labels there are asked. Queries:
        about 35 each."""
        self.put(wrong.x)
        label = self.label[len(self.label) - len(wrong) :]
        other = np.where(label == wrong.before, wrong.after, wrong.before)
        start, end = [], []
        for i, c in enumerate(other):
            # The nearest point of the class that was expected.
            with_label = np.flatnonzero(self.label == c)
            if len(with_label):
                away = np.sum((self.y[with_label] - wrong.x[i]) ** 2, axis=1)
                start.append(i)
                end.append(with_label[away.argmin()])
        if not start:
            return Crossings.none(self.chart.n)
        return cross(self.side, wrong.x[start], self.y[end], label[start], other[start], cell)

    def _other(self, label: int) -> int:
        return int(self.rng.choice(np.flatnonzero(self.label != label)))


def two_labels(chart: Chart, near: Float[np.ndarray, "N d"], rng: np.random.Generator) -> Pool | None:
    """Points of the first size at which two labels are seen; None where none is.

    `near`: inputs to start from. Raises UnsteadyAnswers: the same question got another label. Queries: 80 for each size
    tried, and the inputs to start from where few classes show, at most 64 each time.
    """
    side = Side(chart)
    for each in SIZES:
        pool = Pool(side, chart, each, near, rng)
        pool.draw(FIRST_LOOK)
        _require_steady(pool)
        if len(near) and not len(pool.classes) > 2:
            pool.put(near[:FIRST_LOOK])
        if len(pool.classes) > 1:
            return pool
    return None


def _require_steady(pool: Pool) -> None:
    changed = int((pool.side.labels(pool.y[:REPEATED]) != pool.label[:REPEATED]).sum())
    if changed:
        raise UnsteadyAnswers(
            f"{changed} of {REPEATED} questions got another label when asked again; weights cannot be read from labels "
            "that change by chance. Average them first, or read the row span with label_span(votes=...)."
        )
