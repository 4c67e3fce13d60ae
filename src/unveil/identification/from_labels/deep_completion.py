"""From bends behind a known first layer to a network with two hidden layers: last layer, fit, and judgement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.completion import MISSED
from unveil.identification.from_labels.crossings import cross_near, sharpen
from unveil.identification.from_labels.deep_model import DeepLabelModel, DeepPoints, on_boundary
from unveil.identification.from_labels.faces import Faces, Precision
from unveil.identification.from_labels.foretold import FAR, as_foretold, at_extremes, telling_crossings
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.last_layer import last_layer, with_rare_classes
from unveil.identification.from_labels.missing_neurons import FITS, with_missing
from unveil.identification.from_labels.orientation import BOTH, carriers
from unveil.identification.from_labels.polish import Polished, polish
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.rare_classes import open_crossings
from unveil.identification.from_labels.second_layer import (
    HiddenNeuron,
    active_sides,
    bends_behind,
    distinct,
    hidden_neurons,
)
from unveil.identification.from_labels.straight import SHARE, BoundaryFaces, looks_behind, straight

DEEP_STRAYED_FACTOR = 100.0  # so many times further off than they were located points lie on no boundary of the model
KEPT = 0.9  # share of the points explained that a fit to fresh ones must go on to explain
# Share of fresh boundary points that may not be where a model foretells them, for another attempt to go on from it.
NEARLY_WHOLE_MISSED = 0.1
TIGHT = 1e-6  # root mean square distance from which on not all points that a model was fitted to lie on its boundaries
SIDES = 300  # faces that tell the active sides of the first layer
DEEP_FIT_PER_NUMBER = 1.3  # boundary points per number in the last fit
OPEN = 3  # how often points are looked for that tell numbers left open, and how often in a row in vain
LOOKS_AT_EXTREMES = 4  # how often the extremes of a neuron's values are looked at, at each size
FITS_TO_FRESH_POINTS = 3  # fits to fresh points, each more exact than the one before


@dataclass(frozen=True)
class Deep:
    """A network with two hidden layers fitted to boundary points."""

    model: DeepLabelModel  # the model
    rms: float  # root mean square distance of the points it was fitted to from its boundaries
    missed: float  # share of fresh boundary points that are not where it foretells them
    error: float  # standard error of the least certain number
    open: int  # numbers that the points leave open
    strayed: int  # boundary points met on the way that lie off the model's boundaries
    always: int = 0  # second-layer neurons that are active at the whole boundary, whose biases no label tells
    carriers: int = 0  # second-layer neurons that only carry another one's linear part

    @property
    def whole(self) -> bool:
        """Whether nothing says that a neuron is missing, and no number is open."""
        return self.explains and not self.open

    @property
    def explains(self) -> bool:
        """Whether the points say of no neuron that it is missing."""
        # Around a loose fit fresh points are looked for so widely that all are met.
        linear = self.carriers or self.model.behind.affine.any()
        return self.rms <= TIGHT and self.missed <= MISSED and not self.strayed and not linear

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Larger for the better of two: of a loose fit the points missed say little, as they are looked for widely."""
        return self.whole, self.rms <= TIGHT, -self.missed


class DeepCompletion:
    """The second layer and the last one behind a known first layer. `pool`: points of all labels, in coordinates.
    `first`: all hyperplanes of the first layer. `accuracy`: wanted of the weight vectors, relative."""

    def __init__(
        self, pool: Pool, first: Hyperplanes, precision: Precision, accuracy: float, rng: np.random.Generator
    ) -> None:
        self.pool, self.side, self.chart = pool, pool.side, pool.chart
        self.precision, self.rng = precision, rng
        self.first = first
        self.neurons: list[HiddenNeuron] = []
        self.straight: list[HiddenNeuron] = []
        """Those of them that are seen to go on straight in the first layer's values, as no third layer's does."""
        self.oriented: Hyperplanes | None = None
        self.best: Deep | None = None
        self.coarse = max(1e-9, 4 * precision.digits)
        self.fine = max(2 * precision.digits, 1e-3 * accuracy)
        self.points = DeepPoints(pool, first, Crossings.none(self.chart.n), self.coarse)
        self.figures: dict[str, Any] = {}

    def attempt(self, faces: Faces, edges: list[Edge]) -> Deep | None:
        """A network from what was met by now; None where the second layer does not come out.

        `faces`: flat pieces of the boundary. `edges`: its bends. Queries: about 60 a number of the network, none where
        no second layer comes out of the bends.
        """
        some = np.sort(self.rng.permutation(len(faces))[:SIDES])
        sign = active_sides(self.first, faces[some]) if len(some) else None
        if sign is None:
            return None
        self.oriented = Hyperplanes(self.first.normals * sign[:, None], self.first.offsets * sign, self.first.error)
        self.neurons = distinct(hidden_neurons(bends_behind(self.oriented, edges)))
        boundary = BoundaryFaces(self.side, self.chart, faces, self.precision)
        ended, passed = looks_behind(boundary, self.oriented, self.neurons, self.rng)
        self.straight = [self.neurons[i] for i in np.flatnonzero(straight(ended, passed))]
        self.neurons = [self.neurons[i] for i in np.flatnonzero(passed <= SHARE * ended)]
        self.figures["second layer"] = len(self.neurons)
        if not self.neurons:
            return None
        met = Crossings(faces.x, faces.before, faces.after, faces.normal, np.full(len(faces), self.precision.cell))
        asked = self.points.asked
        self.points = DeepPoints(self.pool, self.oriented, met, self.coarse)
        self.points.add(asked)
        last = last_layer(self.points, self.neurons, self.rng)
        if last is not None:
            behind, self.figures["explained"] = last
            model = DeepLabelModel(self.oriented.normals, self.oriented.offsets, behind, behind.classes)
            self._keep_grown(model)
        if (
            self.best is not None
            and not self.best.whole
            and self.best.rms <= TIGHT
            and self.best.missed <= NEARLY_WHOLE_MISSED
        ):
            # What was fitted best by now may be right but for neurons that points met since tell.
            model = self.best.model.with_unit_rows()
            behind = with_rare_classes(model.behind, model.inside(self.points.all)[0])
            self._keep_grown(replace(model, behind=behind, classes=behind.classes))
        return self.best

    def refute(self) -> None:
        """The best network by now has another label somewhere: another one takes its place, or it goes on from it."""
        if self.best is not None:
            self.best = replace(self.best, missed=max(self.best.missed, 1.5 * MISSED))

    def _keep_grown(self, model: DeepLabelModel) -> None:
        """Fit the model with what it lacks, and keep it if none was better by now."""
        found = self.fitted(with_missing(model, self.points, self.neurons, self.rng))
        less = found.model.without_idle()
        if found.explains and found.open and len(less.bias) < len(found.model.bias):
            again = self.fitted(less)
            found = again if again.whole else found
        if self.best is None or found.rank >= self.best.rank:
            self.best = found

    def fitted(self, model: DeepLabelModel) -> Deep:
        """A model that is nearly right, fitted to boundary points and judged at fresh ones. Queries: about 60 a number
        of the network."""
        at = self.points.known(model)
        on = at[on_boundary(model, at)]
        # Points of a neuron that is missing would draw all numbers after them.
        fitted = polish(model, on if len(on) > model.parameters else at)
        self.figures["rms of points met"] = fitted.rms
        for left in range(OPEN, -1, -1):
            fitted, fresh, missed = self._to_fresh(fitted, on)
            at = self.points.known(model)
            everywhere, there = self._active_everywhere(fitted.model, at)
            always = len(everywhere) if all(there) else 0
            error, open_ = _uncertain(fitted.model, fresh, max(fitted.rms, self.fine / 4))
            # A bias of theirs and the offsets of all classes are one number.
            open_ = max(open_ - always, 0)
            if not (left and missed <= MISSED) or fitted.model.behind.affine.any():
                break
            resting = everywhere[~there]
            grown = self._told_more(fitted.model, Crossings.joined([fresh, on]), open_, resting)
            if grown is None:
                break
            fitted, on = grown
        strayed = int(
            (np.abs(fitted.model.distances(at)) > DEEP_STRAYED_FACTOR * (self.coarse + fitted.rms + at.width)).sum()
        )
        linear = len(carriers(fitted.model.behind, fitted.model.inside(at)[0]))
        return Deep(fitted.model, fitted.rms, missed, error, open_, strayed, always, linear)

    def _told_more(
        self, model: DeepLabelModel, met: Crossings, open_: int, resting: Int[np.ndarray, " r"]
    ) -> tuple[Polished[DeepLabelModel], Crossings] | None:
        """The same fitted to these points and to some that tell numbers they leave open, and all of them.

        None where there are none, or none that the others agree with. `model`: right but for these numbers. `met`:
        points on its boundaries. `open_`: how many numbers these leave open. `resting`: neurons active at all of them,
        and not everywhere. Queries: those of `with_resting_side` for each of these, and of `open_crossings`, `OPEN`
        times at most.
        """
        more = Crossings.none(self.chart.n)
        for neuron in resting:
            told = with_resting_side(model, self.points, int(neuron), self.rng)
            if told is not None:
                model, more = told[0], Crossings.joined([more, told[1]])
        for _ in range(OPEN if open_ else 0):
            if len(more):
                break
            more, model = open_crossings(model, self.pool, met, self.fine, self.rng)
            self.points.add(more)
        every = Crossings.joined([met, more])
        fitted = polish(model, every) if len(more) else None
        if fitted is None or len(on_boundary(fitted.model, every)) < KEPT * len(every):
            return None
        return fitted, every

    def _to_fresh(
        self, fitted: Polished[DeepLabelModel], on: Crossings
    ) -> tuple[Polished[DeepLabelModel], Crossings, float]:
        """The same fitted to fresh points, those points, and the share of those foretold that is not there."""
        missed, fresh = 1.0, Crossings.none(self.chart.n)
        for last in range(FITS_TO_FRESH_POINTS):
            half = 64 * max(fitted.rms, self.coarse)
            count = int(DEEP_FIT_PER_NUMBER * fitted.model.parameters)
            expected = telling_crossings(fitted.model, self.pool, count, self.rng, on)
            found, rows = cross_near(self.side, *expected.expected, np.full(len(expected), half), np.inf)
            missed = 1 - len(rows) / max(len(expected), 1)
            if not len(rows):
                break
            fresh = sharpen(self.side, found, self.fine if last else max(self.fine, 1e-2 * half))
            fresh = fresh[np.flatnonzero(fresh.after == expected.after[rows])]
            again = polish(fitted.model, Crossings.joined([fresh, on]) if not last else fresh)
            if len(on_boundary(again.model, on)) < KEPT * len(on):
                # Fresh points of neurons that are missing would lead it away from those that it explains.
                break
            fitted = again
            if last and fitted.rms < 4 * self.fine and missed <= MISSED:
                break
        return fitted, fresh, missed

    def _active_everywhere(
        self, model: DeepLabelModel, at: Crossings
    ) -> tuple[Int[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
        """Second-layer neurons active at all points, and for which of them the boundary is as foretold far out, too.
        Queries: none where there are none; else those of `as_foretold` for each."""
        rows, bias = model.behind.inner, model.behind.bias
        always = np.flatnonzero((model.inside(at)[0].x @ rows.T + bias > 0).all(axis=0))

        def value(row: np.ndarray, at: Crossings) -> np.ndarray:
            return np.asarray(model.inside(at)[0].x @ row)

        there = [as_foretold(model, self.pool, partial(value, rows[i]), self.rng) for i in always]
        return always, np.array(there, dtype=bool)


def with_resting_side(
    model: DeepLabelModel, points: DeepPoints, neuron: int, rng: np.random.Generator
) -> tuple[DeepLabelModel, Crossings] | None:
    """The model with the bias of a second-layer neuron that is active at all points met, from points where it rests.

    Where it rests the boundary leaves out `w (p h + c)`, of which all but the bias c is known: all such points agree on
    it. `model`: right wherever the neuron is active; its bias and the offsets of all classes are one number. `points`:
    boundary points met; more are looked for. `neuron`: which. `rng`: draws places to look at. Returns the model and
    points where the neuron rests; None where none are met that agree. Queries: about 900, and 45 for each point.
    """
    row, behind = model.behind.inner[neuron], model.behind
    before = len(points.all)
    for size in LOOKS_AT_EXTREMES * FAR:
        expected = at_extremes(model, points.pool, lambda at: np.asarray(model.inside(at)[0].x @ row), size, rng)
        points.look(expected, len(expected))
    off = points.all[np.arange(before, len(points.all))]
    off = model.known(off)
    inside = model.inside(off)[0]
    weight = behind.outer[behind.rows(off.before), neuron] - behind.outer[behind.rows(off.after), neuron]
    with np.errstate(divide="ignore", invalid="ignore"):
        told = behind.gaps(inside)[0] / weight - inside.x @ row
    near = np.abs(told[:, None] - told[None]) < FITS * np.abs(inside.x @ row).max(initial=0.0)
    if not near.any() or near.sum(axis=1).max() < BOTH:
        return None
    rows = near[near.sum(axis=1).argmax()]
    bias = float(np.median(told[rows]))
    changed = behind.bias.copy()
    changed[neuron] = bias
    offset = behind.offset + behind.outer[:, neuron] * (behind.bias[neuron] - bias)
    return replace(model, behind=replace(behind, bias=changed, offset=offset)), off[np.flatnonzero(rows)]


def _uncertain(model: DeepLabelModel, at: Crossings, rms: float) -> tuple[float, int]:
    """Standard error of the least certain combination of numbers, and how many combinations the points leave open."""
    units = model.units()
    values = np.linalg.svd(model.linearised(at)[1] * units, compute_uv=False) if len(at) else np.zeros(0)
    if not values.any():
        return np.inf, model.parameters
    values = np.concatenate([values, np.zeros(max(0, len(units) - len(values)))])
    told = values > 1e-11 * values[0]
    return float(rms / values[told].min()), max(0, int((~told).sum()) - model.free)
