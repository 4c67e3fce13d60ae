"""From bends behind a known first layer to a network with two hidden layers: last layer, fit, and judgement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.completion import MISSED, foretold_crossings, telling_crossings
from unveil.identification.from_labels.crossings import cross_near, sharpen
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.faces import Faces, Precision
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.joined_classes import Joins, joined, rescaled
from unveil.identification.from_labels.left_over import SURPLUS, bounded, completed, further_neuron, merged
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import oriented
from unveil.identification.from_labels.output import equations_needed, with_classes
from unveil.identification.from_labels.polish import polish
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.second_layer import (
    HiddenNeuron,
    active_sides,
    bends_behind,
    distinct,
    hidden_neurons,
)
from unveil.identification.from_labels.second_output import SecondOutput, second_output

DRAWS = 64
"""Random sets of boundary points from which the last layer is tried: those where no unknown neuron is active agree."""

USABLE = 0.05
"""Share of the boundary points at which all weights that count must be told."""

MISSING = 8
"""Neurons looked for in what a model leaves over, at most."""

FRUITLESS = 3
"""Looks in a row that tell nothing more."""

LOOK, LOOKS = 250, 10
"""Boundary points foretold at a time, and how often, to see whether one is missing."""

GROW = 5
"""How often the bracket around one that is grows eightfold, from `ON` on: to some sizes of a typical input."""

STRAYED = 100.0
"""So many times further off than they were located points lie on no boundary of the model."""

ABSOLUTE = 30
"""Weighted least squares after which least absolute distances are reached."""

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
        strayed: Boundary points met on the way that lie off the model's boundaries.
    """

    model: DeepLabelModel
    rms: float
    missed: float
    error: float
    open: int
    strayed: int

    @property
    def whole(self) -> bool:
        """Whether nothing says that a neuron is missing."""
        return self.missed <= MISSED and not self.open and not self.strayed and not self.model.behind.affine.any()


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
        self.joins: Joins = ()
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
        self.neurons = distinct(hidden_neurons(bends_behind(self.oriented, edges)))
        self.figures["second layer"] = len(self.neurons)
        if not self.neurons:
            return None
        met = Crossings(faces.x, faces.before, faces.after, faces.normal, np.full(len(faces), self.precision.cell))
        self.points = Crossings.joined([self.more, met])
        behind = self._last()
        if behind is None:
            return None
        at = self._inside(self.points)
        behind = rescaled(completed(behind, _untold(behind), at, self.rng), self.joins, at)
        model = DeepLabelModel(self.oriented.normals, self.oriented.offsets, behind, behind.classes)
        return self.fitted(self._with_missing(model))

    def _last(self) -> LabelModel | None:
        """The last layer, of the commonest pair of classes first, from points where no weight counts that is not told.

        Returns:
            The model of the first layer's values; weights that no bend told are zero.
        """
        at = self._inside(self.points)
        pairs = np.sort(np.stack([at.before, at.after], axis=1), axis=1)
        met, counts = np.unique(pairs, axis=0, return_counts=True)
        pair = (int(met[counts.argmax(), 0]), int(met[counts.argmax(), 1]))
        ours = (pairs == pair).all(axis=1)
        second, told = self._second(at.x[ours])
        need = equations_needed(*second.normals.shape)
        at, pairs = self._usable(at, told, pair, 2 * need)
        behind = self._pair_by_pair(second, at, pairs, need)
        if behind is None:
            return None
        others = [int(c) for c in np.unique(pairs) if c not in behind.classes]
        if not others:
            return self._without_affine(behind, at)
        # Least absolute distances: points where a neuron is missing lie off, and must not count by how much.
        begun, weight = behind, np.ones(len(at))
        for _ in range(ABSOLUTE):
            behind, _ = with_classes(begun, others, at, weight=weight)
            weight = 1 / np.maximum(np.abs(behind.distances(at)), ON)
        inliers = np.flatnonzero(weight == weight.max(initial=0.0))
        behind, _ = with_classes(begun, others, at[inliers])
        return self._without_affine(behind, at)

    def _pair_by_pair(
        self, second: Hyperplanes, at: Crossings, pairs: Int[np.ndarray, "N 2"], need: int
    ) -> LabelModel | None:
        """Classes with points enough between them and one other, the commonest pair first."""
        met, counts = np.unique(pairs, axis=0, return_counts=True)
        behind: LabelModel | None = None
        self.joins = ()
        # Each pass takes the commonest pair that brings in one more class.
        left = [(int(met[i, 0]), int(met[i, 1])) for i in np.argsort(-counts, kind="stable") if counts[i] >= need]
        while left:
            next_ = next((p for p in left if behind is None or np.isin(p, behind.classes).sum() == 1), None)
            if next_ is None:
                break
            left.remove(next_)
            found = self._of_pair(second, at[np.flatnonzero((pairs == next_).all(axis=1))], next_, need)
            if found is None:
                continue
            if behind is None:
                behind = found.model
                continue
            new = int(np.isin(next_, behind.classes).argmin())
            self.joins += ((next_[1 - new], next_[new]),)
            behind = joined(behind, found.model)
        return None if behind is None else rescaled(behind, self.joins, at)

    def _usable(
        self, at: Crossings, told: Bool[np.ndarray, " k"], pair: tuple[int, int], need: int
    ) -> tuple[Crossings, Int[np.ndarray, "N 2"]]:
        """Points, more where there are few, between the two classes and of each other one.

        Args:
            at: Crossings in the first layer's values.
            told: First-layer neurons; none of the others may be active.
            pair: The two classes.
            need: Points wanted of each.

        Returns:
            The points, and the two classes at each, in ascending order.

        Queries: about 35 for each point
        """
        share = max(float((~(at.x[:, ~told] > 0).any(axis=1)).mean()), USABLE)
        others = [int(c) for c in np.unique([at.before, at.after]) if c not in pair and c in self.pool.label]
        for two in (pair, *((c, int(self.rng.choice(pair))) for c in others)):
            inside = (at.before == two[0]) | (at.after == two[0])
            if two == pair:
                inside &= (at.before == two[1]) | (at.after == two[1])
            short = need - int((inside & ~(at.x[:, ~told] > 0).any(axis=1)).sum())
            if short > 0:
                more = self.pool.crossings(int(short / share), self.coarse, two)
                self.more = Crossings.joined([self.more, more])
                self.points = Crossings.joined([self.points, more])
                at = self._inside(self.points)
        at = at[np.flatnonzero(~(at.x[:, ~told] > 0).any(axis=1))]
        return at, np.sort(np.stack([at.before, at.after], axis=1), axis=1)

    def _second(self, hidden: Float[np.ndarray, "N k"]) -> tuple[Hyperplanes, Bool[np.ndarray, " k"]]:
        """Second-layer neurons, weights that no bend told zero, and the first-layer neurons behind which all are told.

        Args:
            hidden: Points; at some of them none but the latter must be active, or a neuron known in part is left out.
        """
        told = np.ones(hidden.shape[1], dtype=bool)
        kept: list[HiddenNeuron] = []
        for each in sorted(self.neurons, key=lambda each: int(np.isnan(each.weight).sum())):
            less = told & ~np.isnan(each.weight)
            if (~(hidden[:, ~less] > 0).any(axis=1)).mean() >= USABLE:
                told = less
                kept.append(each)
        rows = np.nan_to_num(np.stack([each.weight for each in kept]), nan=0.0)
        long = np.linalg.norm(rows, axis=1)
        bias = np.array([each.bias for each in kept]) / long
        return Hyperplanes(rows / long[:, None], bias, np.array([each.error for each in kept])), told

    def _with_missing(self, model: DeepLabelModel) -> DeepLabelModel:
        """The model with neurons that bends did not tell, from what it leaves over at points off its boundaries.

        Queries: 5,000 where nothing is missing, some 10,000 for each neuron that is
        """
        fruitless = 0
        for _ in range(MISSING):
            if not self._look(model):
                break
            known = self.points[np.flatnonzero(model.knows(self.points))]
            at = self._inside(known)
            if any(map(len, _untold(model.behind))):
                self._look(replace(model, behind=bounded(model.behind, _untold(model.behind), at)))
                known = self.points[np.flatnonzero(model.knows(self.points))]
                at = self._inside(known)
            on, least = _on(model, known), SURPLUS
            behind = rescaled(completed(model.behind, _untold(model.behind), at, self.rng), self.joins, at)
            if not _on(replace(model, behind=behind), known) > on + least:
                further = further_neuron(model.behind, at, self.rng)
                if further is not None:
                    behind, least = further, SURPLUS + int((further.inner[-1] != 0).sum())
            grown = replace(model, behind=merged(behind))
            # What few points told gets exact enough for the next ones; what nothing told stays so.
            fit = polish(grown, known[np.flatnonzero(np.abs(grown.distances(known)) < ON)]).model
            inner = np.where(grown.behind.inner == 0, 0.0, fit.behind.inner)
            grown = replace(fit, behind=replace(fit.behind, inner=inner))
            fruitless = 0 if _on(grown, known) > on + least else fruitless + 1
            if fruitless >= FRUITLESS:
                break
            model = model if fruitless else grown
        return model

    def _look(self, model: DeepLabelModel) -> bool:
        """Look for boundary points off the model's boundaries, for as many as tell a neuron.

        Returns:
            Whether there are any.

        Queries: at most `2 LOOKS LOOK`, and about 45 for each point
        """
        enough, met = 4 * (len(self.first) + 1), 0
        for _ in range(LOOKS):
            expected = foretold_crossings(model, self.pool, self.chart, LOOK, self.rng)
            ask = expected.x, expected.along, expected.before, expected.after
            rows = cross_near(self.side, *ask, np.full(len(expected), ON), np.inf)[1]
            wrong = np.setdiff1d(np.arange(len(expected)), rows)[:enough]
            ask = tuple(each[wrong] for each in ask)
            found, _ = cross_near(self.side, *ask, np.full(len(wrong), ON), self.coarse, grow=GROW)
            self.more = Crossings.joined([self.more, found])
            self.points = Crossings.joined([self.points, found])
            met += len(found)
            if met >= enough:
                break
        known = self.points[np.flatnonzero(model.knows(self.points))]
        return _on(model, known) < len(known)

    def _without_affine(self, behind: LabelModel, at: Crossings) -> LabelModel:
        """The same without an affine part, where neurons explain it, of which bends told a part only, too."""
        if not behind.affine.any():
            return behind
        partly = [each for each in self.neurons if np.isnan(each.weight).any()]
        found = oriented(behind, at[np.flatnonzero(np.abs(behind.distances(at)) < ON)], partly)
        return behind if found is None else found

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
        # Points of a neuron that is missing would draw all numbers after them.
        fitted = polish(model, on if len(on) > model.parameters else at)
        self.figures["rms of points met"] = fitted.rms
        missed, fresh = 1.0, Crossings.none(self.chart.n)
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
            if not len(rows):
                break
            fresh = sharpen(self.side, found, self.fine if last else max(self.fine, 1e-2 * half))
            fresh = fresh[np.flatnonzero(fresh.after == expected.after[rows])]
            fitted = polish(fitted.model, Crossings.joined([fresh, at]) if not last else fresh)
            if last and fitted.rms < 4 * self.fine and missed <= MISSED:
                break
        error, open_ = _uncertain(fitted.model, fresh, max(fitted.rms, self.fine / 4))
        strayed = int((np.abs(fitted.model.distances(at)) > STRAYED * (self.coarse + fitted.rms + at.width)).sum())
        return Deep(fitted.model, fitted.rms, missed, error, open_, strayed)


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


def _untold(behind: LabelModel) -> list[Int[np.ndarray, " u"]]:
    """Which weights of each second-layer neuron nothing told: exactly zero."""
    return [np.flatnonzero(row == 0) for row in behind.inner]


def _on(model: DeepLabelModel, at: Crossings) -> int:
    """How many points lie on a model's boundaries."""
    return int((np.abs(model.distances(at)) < ON).sum())
