"""From hyperplanes to a model: last layer, all classes, fit of all numbers, and whether a neuron is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.crossings import cross_near, sharpen
from unveil.identification.from_labels.faces import ROUGH, Precision
from unveil.identification.from_labels.foretold import foretold_crossings, on_model_boundary, telling_crossings
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.output import (
    PairOutput,
    equations_needed,
    linked_classes,
    pair_output,
    pair_weights,
    with_classes,
    with_others,
)
from unveil.identification.from_labels.polish import Completed, Polished, polish, uncertainty
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.rare_classes import open_numbers, rare_crossings, telling_rare
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.seen_labels import SeenLabels
from unveil.identification.from_labels.sigmoidal import SigmoidalSearch
from unveil.identification.from_labels.slices import SliceSearch
from unveil.whitebox.activation import activation

LAST_FIT_PER_NUMBER = 1.08  # boundary points per number in the last fit
MISSED = 0.05  # share of boundary points foretold that may be missing, near corners
# How finely boundary points are located for the last fit before any needs it more finely, as a share of the accuracy
# that is wanted, and half of a bracket around one foretold, in errors of the fit before.
FINE_CELL_SHARE, HALF_BRACKET_ERRORS = 0.3, 16.0
# By so much the last layer's null vector must stand out; where hyperplanes are known coarsely by a hundredth of it.
NULL_VECTOR_GAP = 1e3
COARSE_CELL = 1e-7  # how finely points are located before: hyperplanes are known to a millionth or so then
# So many points per number, with those known before, are located first; the others then lie where foretold.
EARLY = 1.02
FORETOLD_AT_FIRST = 96  # so many are asked for first
CLASS_PAIRS_TRIED = 5  # pairs of classes tried for the last layer
STRAYED = 30.0  # so many times further off than they are known boundary points lie on none of a model's
# Share of the neurons that may be on one side at all boundaries of a pair before another one is tried.
ONE_SIDED_SHARE = 0.25
# Rounds in which boundaries of rare classes are looked for, and those in a row that may meet none.
RARE, IN_VAIN = 16, 3
# Rounds in which a model learns from boundary points that are not where it foretold them, and those in a row that may
# leave no fewer of them.
LEARNING_ROUNDS, FRUITLESS = 24, 8


class Completion:
    """Boundary points of all classes, kept from one attempt to the next.

    `pool`: points of all labels, in coordinates. `accuracy`: wanted of the weight vectors, relative. `seen`: keeps
    questions of rare classes; None: there are none but the pool's.
    """

    def __init__(
        self,
        pool: Pool,
        precision: Precision,
        accuracy: float,
        rng: np.random.Generator,
        seen: SeenLabels | None = None,
    ) -> None:
        self.seen = seen
        self.pair, self.settled = (0, 1), False
        self.proven: tuple[int, int] | None = None
        self.sharp = Crossings.none(pool.chart.n)
        self.side, self.chart, self.pool, self.precision, self.rng = pool.side, pool.chart, pool, precision, rng
        self.points = Crossings.none(pool.chart.n)
        self.coarse = max(COARSE_CELL, 4 * precision.digits)
        self.accuracy = accuracy
        self.clear = NULL_VECTOR_GAP if precision.normal < ROUGH else NULL_VECTOR_GAP / 100
        self.fine = max(2 * precision.digits, FINE_CELL_SHARE * accuracy)

    def attempt(self, first: PairOutput | None) -> Completed | None:
        """A model that begins with the commonest pair of classes; None where there are not even points enough. Queries:
        about 35 a number."""
        if first is None:
            return None
        figures: dict[str, Any] = {"gap": first.gap, "flips": first.flips}
        self.pair = figures["pair"] = (int(first.model.classes[0]), int(first.model.classes[1]))
        if not first.gap > self.clear:
            doubt = "the last layer's equations have no solution that stands out"
            return Completed(first.model, np.inf, False, (doubt,), figures)
        fitted, fresh, missed = self._coarsely(first, figures)
        doubts: list[str] = []
        if not fitted.rms < 1e-3:
            doubts.append("boundary points lie off the model's boundaries")
        elif missed > MISSED:
            doubts.append(f"{missed:.0%} of the boundary points foretold are not there")
        figures["missed"] = missed
        if doubts:
            return Completed(fitted.model, fitted.rms, False, tuple(doubts), figures)
        return self._finely(fitted, fresh, figures)

    def _coarsely(self, first: PairOutput, figures: dict[str, Any]) -> tuple[Polished[LabelModel], Crossings, float]:
        """All classes fitted to boundary points located coarsely, until fresh ones lie where the model foretells them.
        Returns the fit, those fresh points, and the share of them that is not there."""
        fresh, missed, fewest, fruitless = Crossings.none(self.chart.n), 1.0, 1.0, 0
        self._admit()
        for _ in range(LEARNING_ROUNDS):
            fitted = self._of_all(first, figures)
            if not fitted.rms < 1e-3:
                break
            fitted = self._rare_told(fitted, first, figures)
            if self._admit():
                continue
            fresh, missed = self._foretold(fitted.model, max(fitted.rms, self.coarse))
            fewest, fruitless = min(fewest, missed), fruitless + 1 if missed >= fewest else 0
            if missed <= MISSED or fruitless >= FRUITLESS:
                break
        return fitted, fresh, missed

    def _of_all(self, first: PairOutput, figures: dict[str, Any]) -> Polished[LabelModel]:
        # The fit may be as good as points are located, and hyperplanes as they were measured.
        whole = self._all_classes(first, figures)
        return polish(whole, whole.known(self.points))

    def _finely(self, fitted: Polished[LabelModel], fresh: Crossings, figures: dict[str, Any]) -> Completed:
        """The same fitted to fresh points located as finely as is wanted, and what speaks against it."""
        doubts: list[str] = []
        missed: float = figures["missed"]
        fitted = polish(fitted.model, fresh)
        again = 0
        while fitted.rms > 2 * self.fine and again < 2:
            again += 1
            fresh, missed = self._foretold(fitted.model, fitted.rms)
            fitted = polish(fitted.model, fresh)
        fitted = replace(fitted, model=fitted.model.pruned())
        error = self._uncertainty(fitted, fresh, self.fine / 4)
        if self.accuracy < error < np.inf and self.fine > 2 * self.precision.digits:
            # Numbers that boundaries hardly tell need them as much more finely.
            finer = max(self.fine * self.accuracy / (4 * error), 2 * self.precision.digits)
            fresh = sharpen(self.side, fresh, finer)
            fitted = polish(fitted.model, fresh)
            error = self._uncertainty(fitted, fresh, finer / 4)
        # Hyperplanes are known better now than when their active sides were told.
        model, rms = fitted.model.turned(), fitted.rms
        if missed > MISSED:
            doubts.append(f"{missed:.0%} of the boundary points foretold are not there")
        if fitted.outside > 0.02:
            doubts.append(f"{fitted.outside:.0%} of the boundary points lie off the model's boundaries")
        if rms > (limit := max(10 * self.accuracy, 4 * self.precision.digits)):
            doubts.append(f"boundary points lie {rms:.1e} off the model's boundaries, they are known to {limit:.0e}")
        # All points met before lie on the boundary, too, as exactly as they were located.
        other = model.known(self.points)
        if self.settled:
            # Of neurons that were none nothing is open.
            figures["open"] = open_numbers(model, Crossings.joined([other, fresh]), self.pair)
        figures |= {
            "strayed": self.strayed(model, rms),
            "rms": rms,
            "missed": missed,
            "outside": fitted.outside,
            "points": len(fresh),
            "error": error,
        }
        return Completed(model, rms, not doubts, tuple(doubts), figures)

    def strayed(self, model: LabelModel, off: float) -> int:
        """How many of the boundary points met on the way lie off a model's boundaries, by much more than they are known
        and the model may be `off`, relative."""
        at = model.known(self.points)
        far = np.maximum(np.linalg.norm(at.x, axis=1), 1.0)
        return int((np.abs(model.distances(at)) > STRAYED * (self.coarse + off) * far).sum())

    def _admit(self) -> bool:
        """Put points of classes that were met on the way into the pool; whether there were any that it lacked. Queries:
        at most 8 for each class that the pool lacks."""
        before = self.pool.classes
        if self.seen is not None and len(x := self.seen.lacking(before)):
            self.pool.put(self.chart.coordinates(x))
        return len(self.pool.classes) > len(before)

    def _rare_told(
        self, fitted: Polished[LabelModel], first: PairOutput, figures: dict[str, Any]
    ) -> Polished[LabelModel]:
        """The same with weights of rare classes from boundaries that tell what is open about them."""
        in_vain = 0
        for _ in range(RARE if fitted.model.phi.piecewise_linear else 0):
            if in_vain == IN_VAIN:
                break
            model = fitted.model
            known = model.known(self.points)
            more = rare_crossings(model, self.pool, known, figures["pair"], self.coarse, self.rng)
            in_vain = 0 if len(more) else in_vain + 1
            if not len(more):
                continue
            self.points = Crossings.joined([self.points, more])
            known = model.known(self.points)
            model, figures["open"] = with_others(model, figures["pair"], known, first.free)
            fitted = polish(model, known)
        self.settled = first.free is None or not first.free.any()
        if self.settled:
            known = fitted.model.known(self.points)
            figures["open"] = open_numbers(fitted.model, known, self.pair)
        return fitted

    def _uncertainty(self, fitted: Polished[LabelModel], at: Crossings, least: float) -> float:
        other = fitted.model.known(self.points)
        return uncertainty(fitted.model, at, max(fitted.rms, least), other, self.coarse)

    def behind_hyperplanes(self, search: HyperplaneSearch | SliceSearch) -> PairOutput | None:
        """The last layer of the commonest pair of classes, of rectifiers whose hyperplanes were met.

        Where many of them are on one side at all boundaries of the two, other pairs are tried. Queries: about 35 a
        number, for each pair that is tried.
        """
        k, d = search.planes.normals.shape
        best: PairOutput | None = None
        tried: list[tuple[int, int]] = []
        for _ in range(CLASS_PAIRS_TRIED):
            pair = None if tried else self.proven
            pair = pair or self._touching(int(0.3 * equations_needed(k, d)), tuple(tried))
            if pair is None:
                break
            tried.append(pair)
            found = self._between(search, pair)
            if found is not None and (best is None or self._rank(found) > self._rank(best)):
                best = found
            if found is not None and found.one_sided.sum() <= ONE_SIDED_SHARE * k:
                break
        if best is not None and self._rank(best)[0]:
            self.proven = (int(best.model.classes[0]), int(best.model.classes[1]))
        return best

    def _rank(self, found: PairOutput) -> tuple[bool, int]:
        return found.gap > 10 * self.clear, -int(found.one_sided.sum())

    def _between(self, search: HyperplaneSearch | SliceSearch, pair: tuple[int, int]) -> PairOutput | None:
        planes, faces, k, d = search.planes, search.faces, *search.planes.normals.shape
        ours = faces[np.flatnonzero(np.isin(faces.before, pair) & np.isin(faces.after, pair))]
        best = None
        # Errors of hyperplanes known coarsely even out over more points.
        for share in (0.3, 1.0) if self.precision.normal < ROUGH else (1.0, 4.0):
            at = self._of_pair(int(share * equations_needed(k, d)), pair)
            best = pair_output(planes, at, ours, pair)
            if (best is None or best.gap < 10 * self.clear) and search.supposed == k > 0:
                best = pair_output(planes, at, ours, pair, oriented=True)
            if best is not None and best.gap > 10 * self.clear:
                break
        return best

    def behind_neurons(self, search: SigmoidalSearch) -> PairOutput | None:
        """The same of sigmoidal neurons.

        Where a neuron rests at all boundaries of two classes these do not tell its weight from a constant: then it is
        tried with other classes. Queries: about 35 a number, for each pair of classes that is tried.
        """
        inner, bias = search.rows
        need = equations_needed(len(inner), 0)
        best: PairOutput | None = None
        tried: list[tuple[int, int]] = []
        for _ in range(CLASS_PAIRS_TRIED):
            pair = self._touching(need, tuple(tried))
            if pair is None:
                break
            tried.append(pair)
            found = pair_weights(inner, bias, self._of_pair(need, pair), pair, activation("tanh"))
            if found is not None and (best is None or found.gap > best.gap):
                best = found
            if best is not None and best.gap > 10 * self.clear:
                break
        return best

    def _of_pair(self, need: int, pair: tuple[int, int]) -> Crossings:
        have = np.flatnonzero(self.points.between(*pair))
        for _ in range(12):
            if len(have) >= need:
                break
            self._collect(need - len(have), pair)
            have = np.flatnonzero(self.points.between(*pair))
        return self.points[have]

    def _touching(self, need: int, but: tuple[tuple[int, int], ...] = ()) -> tuple[int, int] | None:
        """The two commonest classes, or, where others lie between these, the pair met most often on the way."""
        one, two = sorted(int(c) for c in self.pool.classes[:2])
        if (one, two) not in but and len(self.pool.classes) < 3:
            return one, two
        if len(self.points) < need:
            self._collect(need - len(self.points), (one, two))
        pairs = np.sort(np.stack([self.points.before, self.points.after], axis=1), axis=1)
        met, counts = np.unique(pairs, axis=0, return_counts=True)
        order = [(int(met[i, 0]), int(met[i, 1])) for i in np.argsort(-counts, kind="stable")]
        if (one, two) not in but and self.points.between(one, two).sum() > counts.max() / 2:
            return one, two
        return next((pair for pair in order if pair not in but), None)

    def _collect(self, count: int, pair: tuple[int, int]) -> None:
        self.points = Crossings.joined([self.points, self.pool.crossings(count, self.coarse, pair)])

    def _all_classes(self, first: PairOutput, figures: dict[str, Any]) -> LabelModel:
        """The other classes seen, from their boundaries to any, as far as a chain of them leads to the known ones."""
        model, (k, d) = first.model, first.model.inner.shape
        others = [int(c) for c in self.pool.classes if c not in model.classes]
        need = int(1.15 * (k + 1 + (d if model.affine.any() else 0))) + 4
        for label in others:
            for _ in range(3):
                linked = linked_classes(self.points, model.classes)
                have = int((self.points.before == label).sum() + (self.points.after == label).sum())
                if have >= need and label in linked:
                    break
                self._collect(max(need - have, 4), (label, int(self.rng.choice(linked[linked != label]))))
        linked = linked_classes(self.points, model.classes)
        # Of classes that meet only each other no point tells a scale: any network with both the same fits.
        if not (others := [label for label in others if label in linked]):
            return model
        both = np.stack([self.points.before, self.points.after])
        ours = np.isin(both, [*model.classes, *others]).all(axis=0)
        model, figures["open"] = with_classes(model, others, self.points[np.flatnonzero(ours)], first.free)
        return model

    def _foretold(self, model: LabelModel, rms: float) -> tuple[Crossings, float]:
        """Fresh points as finely as wanted, where the model foretells a boundary and where they tell most about it.
        Returns the points, and the share that was not there. Queries: about `2 + log2(rms / digits)` each."""
        count, half = int(LAST_FIT_PER_NUMBER * model.parameters) + 8, HALF_BRACKET_ERRORS * rms
        if count > 2 * FORETOLD_AT_FIRST:  # as long as the model is wrong there is no use in all of them
            at = foretold_crossings(model, self.pool, self.chart, FORETOLD_AT_FIRST, self.rng)
            seen, rows = cross_near(self.side, *at.expected, np.full(len(at), half), np.inf)
            missed = 1 - len(rows) / max(len(at), 1)
            if missed > MISSED:
                self._learn(at[np.setdiff1d(np.arange(len(at)), rows)])
                return Crossings.none(self.chart.n), missed
            half = float(np.median(seen.width)) / 2
        # Those of an earlier fit count, too.
        met = model.known(self.sharp)
        met = met[np.flatnonzero(np.abs(model.distances(met)) < half)]
        count = max(count - len(met), min(FORETOLD_AT_FIRST, count))
        at = telling_crossings(model, self.pool, count, self.rng)
        known = model.known(self.points)
        first = at[slice(0, max(int(EARLY * model.parameters) - len(known) - len(met), count // 2))]
        found, rows = cross_near(self.side, *first.expected, np.full(len(first), half), np.inf)
        missed = 1 - len(rows) / max(len(first), 1)
        if missed > MISSED:
            # Where the model is wrong there is most to learn: the labels there, and the boundaries around.
            self._learn(first[np.setdiff1d(np.arange(len(first)), rows)[:FORETOLD_AT_FIRST]])
            return found, missed
        found = sharpen(self.side, found, self.fine)
        found = found[np.flatnonzero(found.after == first.after[rows])]
        if len(first) < len(at):
            # As many points as numbers foretell the others nearly to the last digit wanted.
            better = polish(model, Crossings.joined([known, met, found])).model
            rest = on_model_boundary(better, at[slice(len(first), len(at))])
            more, _ = cross_near(self.side, *rest.expected, np.full(len(rest), 8 * self.fine), self.fine, grow=7)
            missed = (missed * len(first) + len(rest) - len(more)) / len(at)
            found = Crossings.joined([found, more])
        found = Crossings.joined([met, found])
        self.sharp = Crossings.joined([found, self._rare(model, found)])
        return self.sharp, missed

    def _rare(self, model: LabelModel, at: Crossings) -> Crossings:
        """Points that tell what those foretold leave open, out of the ones met before, as finely."""
        some = telling_rare(model, at, model.known(self.points), self.pair)
        # A bracket around each, a little wider than it was located.
        half = np.full(len(some), 2 * self.coarse)
        found, which = cross_near(self.side, *some.expected, half, self.fine)
        return found[found.after == some.after[which]]

    def _learn(self, wrong: Crossings) -> None:
        """Boundary points around places where a boundary was foretold and is not."""
        self.points = Crossings.joined([self.points, self.pool.around(wrong, self.coarse)])
