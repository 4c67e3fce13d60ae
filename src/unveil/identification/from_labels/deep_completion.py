"""From bends behind a known first layer to a network with two hidden layers: last layer, fit, and judgement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.completion import MISSED, telling_crossings
from unveil.identification.from_labels.crossings import cross_near, sharpen
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.faces import Faces, Precision
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.output import equations_needed, with_classes
from unveil.identification.from_labels.polish import polish
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.second_layer import HiddenNeuron, active_sides, bends_behind, hidden_neurons
from unveil.identification.from_labels.second_output import SecondOutput, second_output

DRAWS = 64
"""Random sets of boundary points from which the last layer is tried: those where no unknown neuron is active agree."""

ON = 1e-4
"""Points nearer than this to a model's boundary lie on it, before the fit of all numbers."""

MOST = 0.7
"""Share of the points between two classes that a last layer must explain."""

SIDES = 300
"""Faces that tell the active sides of the first layer."""

SPARE = 1.3
"""Boundary points per number in the last fit."""

ROUNDS = 3
"""Fits to fresh points, each more exact than the one before."""


@dataclass(frozen=True)
class Deep:
    """A network with two hidden layers fitted to boundary points.

    Attributes:
        model: The model.
        rms: Root mean square distance of the points it was fitted to from its boundaries.
        missed: Share of fresh boundary points that are not where it foretells them.
        error: Standard error of the least certain number.
        open: Numbers that the points leave open.
        wrong: Fresh points that were foretold on the boundary and are not: where something is missing.
    """

    model: DeepLabelModel
    rms: float
    missed: float
    error: float
    open: int
    wrong: Float[np.ndarray, "N d"]

    @property
    def whole(self) -> bool:
        """Whether nothing says that a neuron is missing."""
        return self.missed <= MISSED and not self.open and not self.model.behind.affine.any()


class DeepCompletion:
    """The second layer and the last one behind a known first layer.

    Args:
        pool: Points of all labels, in coordinates.
        first: All hyperplanes of the first layer.
        precision: Lengths to ask at.
        accuracy: Wanted of the weight vectors, relative.
        rng: Draws everything.
    """

    def __init__(
        self, pool: Pool, first: Hyperplanes, precision: Precision, accuracy: float, rng: np.random.Generator
    ) -> None:
        self.pool, self.side, self.chart = pool, pool.side, pool.chart
        self.precision, self.rng = precision, rng
        self.first = first
        self.neurons: list[HiddenNeuron] = []
        self.oriented: Hyperplanes | None = None
        self.coarse = max(1e-9, 4 * precision.digits)
        self.fine = max(2 * precision.digits, 1e-3 * accuracy)
        self.more = self.points = Crossings.none(self.chart.n)
        self.figures: dict[str, Any] = {}

    def attempt(self, faces: Faces, edges: list[Edge]) -> Deep | None:
        """A network from what was met by now; None where the second layer does not come out.

        Args:
            faces: Flat pieces of the boundary.
            edges: Its bends.

        Queries: about 60 a number of the network, none where no second layer comes out of the bends
        """
        some = np.sort(self.rng.permutation(len(faces))[:SIDES])
        sign = active_sides(self.first, faces[some])
        if sign is None:
            return None
        self.oriented = Hyperplanes(self.first.normals * sign[:, None], self.first.offsets * sign, self.first.error)
        self.neurons = hidden_neurons(bends_behind(self.oriented, edges))
        self.figures["second layer"] = len(self.neurons)
        known = [each for each in self.neurons if not np.isnan(each.weight).any()]
        if not known:
            return None
        rows = np.stack([each.weight for each in known])
        long = np.linalg.norm(rows, axis=1)
        bias = np.array([each.bias for each in known]) / long
        second = Hyperplanes(rows / long[:, None], bias, np.array([each.error for each in known]))
        met = Crossings(faces.x, faces.before, faces.after, faces.normal, np.full(len(faces), self.precision.cell))
        self.points = Crossings.joined([self.more, met])
        model = self._last(second)
        return None if model is None else self.fitted(model)

    def _last(self, second: Hyperplanes) -> DeepLabelModel | None:
        """The last layer, of the commonest pair of classes first."""
        assert self.oriented is not None
        at = self._inside(self.points)
        pairs = np.sort(np.stack([at.before, at.after], axis=1), axis=1)
        met, counts = np.unique(pairs, axis=0, return_counts=True)
        pair = (int(met[counts.argmax(), 0]), int(met[counts.argmax(), 1]))
        need = equations_needed(*second.normals.shape)
        short = 2 * need - int(counts.max())
        if short > 0:
            more = self.pool.crossings(2 * short, self.coarse, pair)
            self.more = Crossings.joined([self.more, more])
            self.points = Crossings.joined([self.points, more])
            at = self._inside(self.points)
            pairs = np.sort(np.stack([at.before, at.after], axis=1), axis=1)
        ours = at[np.flatnonzero((pairs == pair).all(axis=1))]
        output = self._of_pair(second, ours, pair, need)
        if output is None:
            return None
        behind, others = output.model, [int(c) for c in np.unique(pairs) if c not in pair]
        if others:
            inliers = np.arange(len(at))
            for _ in range(4):
                grown, _ = with_classes(output.model, others, at[inliers])
                off = np.abs(grown.distances(at))
                # The pair's own points that do not fit belong to what is missing; so do others like them.
                inliers = np.flatnonzero(off <= max(ON, 3 * float(np.median(off))))
            behind = grown
        return DeepLabelModel(self.oriented.normals, self.oriented.offsets, behind, behind.classes)

    def _of_pair(self, second: Hyperplanes, at: Crossings, pair: tuple[int, int], need: int) -> SecondOutput | None:
        """The weights between two classes that explain most points."""
        inliers, share = np.empty(0, dtype=int), 0.0
        for draw in range(DRAWS):
            some = np.arange(len(at)) if not draw else self.rng.choice(len(at), min(need, len(at)), replace=False)
            tried = second_output(second, at[some], pair)
            if tried is None:
                continue
            on = np.flatnonzero(np.abs(tried.model.distances(at)) < ON)
            if len(on) > len(inliers):
                inliers, share = on, len(on) / len(at)
            if share > 0.98:
                break
        self.figures["explained"] = share
        return second_output(second, at[inliers], pair) if share >= MOST else None

    def _inside(self, at: Crossings) -> Crossings:
        """Crossings in the first layer's values, those close to its hyperplanes left out."""
        assert self.oriented is not None
        sums = at.x @ self.oriented.normals.T + self.oriented.offsets
        rows = np.flatnonzero(np.abs(sums).min(axis=1) > 1e-6)
        sums, at = sums[rows], at[rows]
        along = (sums > 0) * (at.along @ self.oriented.normals.T)
        return replace(at, x=np.maximum(sums, 0.0), along=along)

    def fitted(self, model: DeepLabelModel) -> Deep:
        """A model that is nearly right, fitted to boundary points and judged at fresh ones.

        Queries: about 60 a number of the network
        """
        at = self.points[np.flatnonzero(model.knows(self.points))]
        on = at[np.flatnonzero(np.abs(model.distances(at)) < ON)]
        fitted = polish(model, at)
        self.figures["rms of points met"] = fitted.rms
        missed, wrong, fresh = 1.0, np.empty((0, self.chart.n)), Crossings.none(self.chart.n)
        for last in range(ROUNDS):
            half = 64 * max(fitted.rms, self.coarse)
            count = int(SPARE * fitted.model.parameters)
            expected = telling_crossings(fitted.model, self.pool, count, self.rng, on)
            found, rows = cross_near(
                self.side,
                expected.x,
                expected.along,
                expected.before,
                expected.after,
                np.full(len(expected), half),
                np.inf,
            )
            missed = 1 - len(rows) / max(len(expected), 1)
            wrong = expected.x[np.setdiff1d(np.arange(len(expected)), rows)]
            if not len(rows):
                break
            fresh = sharpen(self.side, found, self.fine if last else max(self.fine, 1e-2 * half))
            fresh = fresh[np.flatnonzero(fresh.after == expected.after[rows])]
            fitted = polish(fitted.model, Crossings.joined([fresh, at]) if not last else fresh)
            if last and fitted.rms < 4 * self.fine and missed <= MISSED:
                break
        error, open_ = _uncertain(fitted.model, fresh, max(fitted.rms, self.fine / 4))
        return Deep(fitted.model, fitted.rms, missed, error, open_, wrong)


def _uncertain(model: DeepLabelModel, at: Crossings, rms: float) -> tuple[float, int]:
    """Standard error of the least certain combination of numbers, and how many combinations the points leave open."""
    if not len(at):
        return np.inf, model.parameters
    units = model.units()
    jacobian = model.linearised(at)[1] * units
    values = np.linalg.svd(jacobian, compute_uv=False)
    values = np.concatenate([values, np.zeros(max(0, len(units) - len(values)))])
    told = values > 1e-11 * values[0]
    return float(rms / values[told].min()), max(0, int((~told).sum()) - model.free)
