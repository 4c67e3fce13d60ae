"""DeepLabelModel: a network with two hidden layers of ReLU, as far as its boundaries between labels tell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import Boundaries, LabelModel, flat, in_inputs
from unveil.identification.from_labels.pool import Pool
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network


@dataclass(frozen=True)
class DeepLabelModel(Boundaries):
    """A first layer of ReLU, and behind it what a network with one hidden layer does with its values."""

    inner: Float[np.ndarray, "k d"]  # (k, d), rows of the first layer, in a chart's coordinates
    bias: Float[np.ndarray, " k"]
    behind: LabelModel  # the second layer and the logits, of the first layer's values
    classes: Int[np.ndarray, " c"]  # (c,), the label of each logit, ascending

    @property
    def parameters(self) -> int:
        """Numbers that boundaries can tell."""
        return self.inner.size + len(self.bias) + self.behind.parameters

    @property
    def free(self) -> int:
        """Directions in which numbers change no label: neurons' lengths, the first class's logit, a common scale."""
        width = len(self.behind.inner) + 1 + (self.behind.inner.shape[1] if self.behind.affine.any() else 0)
        return len(self.inner) + len(self.behind.inner) + width + 1

    def with_unit_rows(self) -> DeepLabelModel:
        """The same function with first-layer weight vectors of length one, as a search knows them."""
        long = np.linalg.norm(self.inner, axis=1)
        behind = replace(self.behind, inner=self.behind.inner * long, affine=self.behind.affine * long)
        return replace(self, inner=self.inner / long[:, None], bias=self.bias / long, behind=behind)

    def without_idle(self, share: float = 1e-6) -> DeepLabelModel:
        """Without first-layer neurons that nothing behind depends on: hyperplanes that were none."""
        size = np.linalg.norm(self.inner, axis=1)
        counts = np.concatenate([np.abs(self.behind.inner), np.abs(self.behind.affine)]).max(axis=0) * size
        kept = np.flatnonzero(counts > share * counts.max(initial=0.0))
        behind = replace(self.behind, inner=self.behind.inner[:, kept], affine=self.behind.affine[:, kept])
        return replace(self, inner=self.inner[kept], bias=self.bias[kept], behind=behind)

    def hidden(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N k"]:
        """The first layer's values."""
        return np.asarray(np.maximum(self.sums(y), 0.0))

    def sums(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N k"]:
        """The first layer's preactivations."""
        return np.asarray(y @ self.inner.T + self.bias)

    def logits_of(self, sums: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N c"]:
        """The logits where these are `sums`."""
        return self.behind.logits(np.maximum(sums, 0.0))

    def inside(self, at: Crossings) -> tuple[Crossings, Bool[np.ndarray, "N k"]]:
        """Crossings in the first layer's values, and which of its neurons are active there."""
        sums = at.x @ self.inner.T + self.bias
        on = sums > 0
        return replace(at, x=np.where(on, sums, 0.0), along=on * (at.along @ self.inner.T)), on

    def gaps(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N d"]]:
        """Difference of the two logits at each crossing, and its gradient."""
        inside, on = self.inside(at)
        gap, gradient = self.behind.gaps(inside)
        return gap, (gradient * on) @ self.inner

    def linearised(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N P"]]:
        """Distances and their derivatives by (inner | bias), then by what is behind."""
        inside, on = self.inside(at)
        _, by_hidden = self.behind.gaps(inside)
        through = by_hidden * on
        extended = np.concatenate([at.x, np.ones((len(at), 1))], axis=1)
        first = flat(through[:, :, None] * extended[:, None, :])
        long = np.maximum(np.linalg.norm(through @ self.inner, axis=1), 1e-300)
        jacobian = np.concatenate([first, self.behind.derivatives(inside)], axis=1)
        return self.distances(at), jacobian / long[:, None]

    def moved(self, step: Float[np.ndarray, " P"]) -> DeepLabelModel:
        """The model a step further, in the order of `linearised`."""
        k, d = self.inner.shape
        first = step[: k * (d + 1)].reshape(k, d + 1)
        return replace(
            self,
            inner=self.inner + first[:, :d],
            bias=self.bias + first[:, d],
            behind=self.behind.moved(step[k * (d + 1) :]),
        )

    def units(self) -> Float[np.ndarray, " P"]:
        """What a change of each number is measured by: its neuron's or its layer's own size."""
        d = self.inner.shape[1]
        long = np.repeat(np.linalg.norm(self.inner, axis=1), d + 1)
        second = np.repeat(np.linalg.norm(self.behind.inner, axis=1), self.behind.inner.shape[1] + 1)
        last = len(self.linearised(Crossings.none(d))[1].T) - len(long) - len(second)
        return np.concatenate([long, second, np.full(last, float(np.abs(self.behind.outer).max(initial=1e-300)))])

    def network(self, chart: Chart) -> Network:
        """The same in terms of inputs; an affine part behind goes through neurons in pairs, relu(s) - relu(-s)."""
        first = Layer(self.inner, self.bias, activation("relu"))
        return Network((in_inputs(first, chart), *self.behind.layers()), chart.oracle.shape)


ON = 1e-4  # points nearer than this to a model's boundary lie on it, before the fit of all numbers
UNCERTAIN_SIDE_DISTANCE = 1e-6  # so near to a hyperplane of the first layer it is not certain which side a point is on
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
        return model.known(self.all)

    def inside(self, at: Crossings) -> Crossings:
        """Crossings in the first layer's values, those close to its hyperplanes left out."""
        sums = at.x @ self.first.normals.T + self.first.offsets
        rows = np.flatnonzero(np.abs(sums).min(axis=1) > UNCERTAIN_SIDE_DISTANCE)
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
