"""One reading of a network from labels: search, completion, what lies behind, and the fresh points that judge it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.ledger import Stages
from unveil.blackbox.oracle import Oracle
from unveil.identification.from_labels.chart import Chart, typical_inputs
from unveil.identification.from_labels.completion import MISSED, Completion
from unveil.identification.from_labels.deep_completion import Deep
from unveil.identification.from_labels.deep_reading import DeepReading
from unveil.identification.from_labels.faces import ROUGH, Precision
from unveil.identification.from_labels.first_layer import first_layer, straight_ones
from unveil.identification.from_labels.further_classes import with_classes_met
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.lifting import Lift
from unveil.identification.from_labels.narrow_reading import narrow_network
from unveil.identification.from_labels.polish import Completed
from unveil.identification.from_labels.pool import Pool, two_labels
from unveil.identification.from_labels.reservations import left_open, nothing_left, reservations, with_one_more
from unveil.identification.from_labels.rows_read import no_first_layer, rows_read
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.seen_labels import SeenLabels, ended
from unveil.identification.from_labels.sigmoidal import SigmoidalSearch, is_curved
from unveil.identification.from_labels.slices import DIRECTIONS, SliceSearch
from unveil.identification.from_labels.subspace import FEW, all_that_matter, random_slice, subspace
from unveil.identification.from_labels.thresholds import thresholds, told
from unveil.identification.label_agreement import at_random, differs, fresh_points, known_to
from unveil.identification.method import Identification
from unveil.outcome import BudgetExceeded, Outcome

TIED_POINTS_ALLOWED = 1.5  # fresh points with another label that a whole network may have, by ties
REFUTATION_ROUNDS = 8  # how often fresh points may refute a complete result, and the search goes on from these
# Accuracy at which a network is read along a few directions, as a share of what is wanted along all.
INSIDE_ACCURACY_SHARE = 0.003
MOST_SIGMOIDAL_INPUTS = 64  # inputs up to which a sigmoidal layer is read along all of them at once
# Crossings far out in a row that are those of known neurons, before the first attempt at a sigmoidal layer.
CURVED_PATIENCE = 48
BARREN_SEARCHES = 2  # long searches in a row that meet no new hyperplane: then there is no further
CERTAIN_PATIENCE = 96  # walks in a row that end at known neurons before an affine part counts as one


@dataclass(frozen=True)
class Wanted:
    """What is asked of a reading; `HardLabels` says what each field is."""

    x: Float[np.ndarray, "N n"] | None = field(default=None, compare=False)
    attempts: int = 7
    accuracy: float = 1e-8
    accept: float = 0.01
    checks: int = 300
    activation: str | None = None
    most: int | None = None
    widths: tuple[int, ...] | None = None


class LabelReading:
    """One run of the method."""

    def __init__(self, method: Wanted, oracle: Oracle, rng: np.random.Generator) -> None:
        self.method, self.oracle, self.rng = method, oracle, rng
        self.seen = SeenLabels(oracle)
        self.why: list[str] = []
        self.stages = Stages(oracle.ledger)
        self.stats: dict[str, Any] = {}
        self.search: HyperplaneSearch | SigmoidalSearch | SliceSearch | None = None
        self.curved = self.sliced = self.spanned = False
        self.completion: Completion | None = None
        self.best: Completed | None = None
        self.chart: Chart | None = None
        self.everywhere: Pool | None = None
        self.first: Hyperplanes | None = None
        self.deep: Deep | None = None
        self.error = np.inf
        self.lift: Lift | None = None

    def run(self) -> Identification:
        if self.oracle.grid is not None:
            self.why.append("Inputs on a grid are too coarse to locate a boundary as exactly as its normals need.")
            return self._end(Outcome.not_resolved)
        if self.oracle.n == 1:
            self.why.append("Of a single input labels change at points: they tell where, and of no slope or weight.")
            return self._end(Outcome.not_resolved)
        try:
            if (pool := self._look()) is None:
                self.why.append("One label only was seen. Give inputs of different classes (x=).")
                return self._end(Outcome.not_measured)
            if "thresholds" in self.stats:
                return self._end(Outcome.check_failed)
            outcome, error = self._rounds(pool)
            if outcome is Outcome.check_failed:
                error = self._worth()
                if (inside := self._fewer(pool)) is not None:
                    outcome, error = self._rounds(inside)
            return self._end(outcome, error)
        except BudgetExceeded:
            if self.best is not None and not self.best.whole:
                # A fit with doubts that no fresh point judged may be of another depth.
                self.best = None
            self.why += ended(self.oracle.ledger)
            return self._end(Outcome.budget_ended)

    def _rounds(self, pool: Pool) -> tuple[Outcome, float]:
        """A network is read, and read on as long as fresh points refute it; and the share of those that do."""
        error = np.inf
        for _ in range(REFUTATION_ROUNDS):
            self.chart = pool.chart  # where a network was read in a subspace, it is in all inputs after the lift
            outcome = self._read(pool)
            if outcome is not Outcome.complete or self.deep is not None:
                return outcome, self.error
            if (outcome := self._lift(pool)) is not Outcome.complete:
                break
            if self.best is not None and (carried := with_one_more(self.best)) is not None:
                self.best, self.stats["active at the whole boundary"] = carried[0], 1
                self.why.append(carried[1])
            error, wrong = self._check()
            if self._grown(wrong) is not None:
                error, wrong = self._check()
            if not len(wrong):
                break
            # A class that had not been seen, or a neuron that is missing: the search goes on from there.
            pool.put(pool.chart.coordinates(wrong))
        return outcome, error

    def _look(self) -> Pool | None:
        """Points of two labels at least, in coordinates along all inputs or, of many, along the row span."""
        oracle = self.seen
        given, origin, size = typical_inputs(oracle, self.method.x)
        self.chart = whole = Chart(oracle, origin, size, None)
        pool = two_labels(whole, whole.coordinates(given), self.rng)
        self.stages.end("first look")
        met = None if pool is None else thresholds(pool, Precision.of(whole.digits), self.rng)
        self.stages.end("thresholds")
        if met is not None:
            self.stats["thresholds"] = met
            self.why.append(told(*met))
        if pool is None or met is not None:
            return pool
        told_so = self.method.activation
        self.curved = is_curved(pool, Precision.of(whole.digits), self.rng) if told_so is None else told_so != "relu"
        self.stages.end("flat or curved")
        if not self.curved:
            # Of coarse answers along many directions hardly a normal comes out.
            coarse = Precision.of(whole.digits).normal >= ROUGH and oracle.n > FEW
            fewer = subspace(whole, pool, self.rng, FEW if coarse else np.inf)
            if fewer is None and coarse:
                self.sliced, fewer = True, random_slice(DIRECTIONS, pool, self.rng)
            elif fewer is None and oracle.n > FEW and (basis := all_that_matter(whole, pool, self.rng)) is not None:
                self.spanned, fewer = True, (basis, 1.0)
        elif oracle.n <= MOST_SIGMOIDAL_INPUTS or oracle.within is not None:
            fewer = None
        else:
            # Far out neurons are met one by one, so that few directions tell any number of them apart.
            fewer = random_slice(FEW, pool, self.rng)
        self.stages.end("directions")
        return (None if fewer is None else self._along(pool, *fewer)) or pool

    def _along(self, pool: Pool, basis: Float[np.ndarray, "d n"], stretch: float) -> Pool | None:
        """Points of two labels at least along some directions; None where they show one label only."""
        chart = Chart(self.seen, pool.chart.origin, pool.chart.size * stretch, basis)
        inside = two_labels(chart, chart.coordinates(pool.chart.inputs(pool.given)), self.rng)
        self.stages.end("first look")
        self.sliced &= inside is not None
        if inside is not None:
            self.chart, self.everywhere = chart, pool
            read = "matter" if self.spanned else "were read first"
            self.why.append(f"Of {self.oracle.n} inputs {len(basis)} directions {read}.")
        return inside

    def _fewer(self, pool: Pool) -> Pool | None:
        """Points along a few directions, where a search along more of them led to no network for coarse normals."""
        search = self.search
        if self._network() is not None or not isinstance(search, HyperplaneSearch) or self.oracle.n <= 2 * DIRECTIONS:
            return None
        if search.precision.normal < ROUGH:
            return None
        self.sliced, everywhere = True, self.everywhere or pool
        inside = self._along(everywhere, *random_slice(DIRECTIONS, everywhere, self.rng))
        if inside is not None:
            self.why = [said for said in self.why if said != no_first_layer(search)]
            self.search = self.completion = self.first = None
        return inside

    def _read(self, pool: Pool) -> Outcome:
        if self.curved and self.oracle.within is not None:
            self.why.append(
                "The boundary is curved: no network of ReLU. A sigmoidal layer is read far out, which the box forbids."
            )
            return Outcome.check_failed
        search, completion = self._begun(pool)
        if isinstance(search, SliceSearch):
            return self._along_few(search, completion)
        patience, met, fruitless, tried = CURVED_PATIENCE if self.curved else 12, search.neurons, 0, 0
        while tried < self.method.attempts and fruitless < BARREN_SEARCHES:
            tried += 1
            search.stale = 0
            search.run(patience + search.neurons)
            if isinstance(search, HyperplaneSearch):
                if search.deeper:
                    return self._first_layer(search)
                if search.barren or search.hopeless:
                    self.why.append(no_first_layer(search))
                    return Outcome.check_failed
                search.retract()
                search.suppose()
                # Where normals are fine a first fit may measure vague hyperplanes with fewer labels.
                if tried > 1 or search.precision.normal >= ROUGH:
                    search.sharpen()
            done = completion.attempt(
                completion.behind_hyperplanes(search)
                if isinstance(search, HyperplaneSearch)
                else completion.behind_neurons(search)
            )
            self.stages.end("last layer and fit")
            if done is not None and done.beats(self.best):
                self.best = done
            # An affine part may be a neuron of which one side only has been seen: that takes a longer look.
            if done is not None and done.whole and (patience >= CERTAIN_PATIENCE or nothing_left(done, pool, self.rng)):
                self.stages.end("last layer and fit")
                return Outcome.complete
            if isinstance(search, HyperplaneSearch) and (done is None or not done.whole):
                narrow = narrow_network(search, self.everywhere, self.method.accuracy, self.method.widths)
                self.stages.end("corners in a plane")
                if narrow is not None:
                    return self._narrow(search, *narrow)
            fruitless = fruitless + 1 if search.neurons == met and patience >= CERTAIN_PATIENCE else 0
            met = search.neurons
            patience *= 2
        doubts = "too few boundary points" if self.best is None else "; ".join(self.best.doubts)
        self.why.append(f"After {tried} searches something is missing: {doubts}.")
        if self.best is None and isinstance(search, HyperplaneSearch):
            # A deeper neuron's hyperplane may have looked straight wherever walks came.
            self.first = straight_ones(search, self.rng)
        return Outcome.check_failed

    def _begun(self, pool: Pool) -> tuple[HyperplaneSearch | SigmoidalSearch | SliceSearch, Completion]:
        """The search and what completes it, begun or as they were left."""
        if self.search is not None and self.completion is not None:
            self.best = None
            return self.search, self.completion
        precision = Precision.of(pool.chart.digits)
        if self.curved:
            self.search = SigmoidalSearch(pool, self.rng, self.stages)
        elif self.sliced:
            self.search = SliceSearch(pool, self.rng)
            precision = self.search.precision
        else:
            self.search = HyperplaneSearch(pool, precision, self.rng, self.stages)
        # Other directions are reached by short moves, which tell weights less exactly than they are known inside.
        inside = self.method.accuracy * (1.0 if self.everywhere is None else INSIDE_ACCURACY_SHARE)
        self.completion = Completion(pool, precision, inside, self.rng, self.seen)
        return self.search, self.completion

    def _along_few(self, search: SliceSearch, completion: Completion) -> Outcome:
        """A network along a few directions, or what there is of its first layer."""
        self.best = search.network(lambda met: completion.attempt(completion.behind_hyperplanes(met)))
        self.first = None if self.best is not None else search.first_layer()
        self.stages.end("few directions")
        if self.first is None:
            return Outcome.complete
        self.why += [search.told()] if len(self.first) else []
        return Outcome.approximate if len(self.first) else Outcome.check_failed

    def _narrow(self, search: HyperplaneSearch, deep: Deep, chart: Chart) -> Outcome:
        """Two hidden layers of which the boundary shows corners only."""
        first = Hyperplanes(deep.model.inner, deep.model.bias, np.zeros(len(deep.model.bias)))
        self.best, self.chart = None, chart
        reading = DeepReading(search, first, self.method.accuracy, self.method.accept, self.oracle, self.rng)
        outcome = self._taken(reading, deep, chart)
        if outcome is Outcome.complete and self.method.widths is None:
            self.why.append(
                "A network with one hidden layer can have the same boundary, and labels do not tell them apart: "
                "widths= says how many neurons the layers have."
            )
            return Outcome.approximate
        return outcome

    def _first_layer(self, search: HyperplaneSearch) -> Outcome:
        """Hyperplanes of a deeper network that go on straight, until there are no more, and what is behind them."""
        self.best, self.first = None, first_layer(search, self.rng)
        if search.hopeless:
            self.why.append(no_first_layer(search))
        if not len(self.first):
            return Outcome.check_failed
        accept = self.method.accept
        return self._taken(DeepReading(search, self.first, self.method.accuracy, accept, self.oracle, self.rng))

    def _taken(self, reading: DeepReading, deep: Deep | None = None, chart: Chart | None = None) -> Outcome:
        """What is read behind a first layer, or a network that is there already, and how far it is to be relied on."""
        outcome = reading.run() if deep is None or chart is None else reading.judge(deep, chart)
        self.first, self.deep, self.error = reading.first, reading.deep, reading.error
        self.why += reading.why
        self.stats |= reading.figures
        return outcome

    def _lift(self, pool: Pool) -> Outcome:
        """The network in all inputs, where it was read in a subspace."""
        if self.everywhere is None or self.best is None or pool.chart.basis is None:
            return Outcome.complete
        lift = Lift(self.best.model, (pool, self.everywhere), self.method.accuracy, self.rng)
        # Refuted by a class met last: the neurons are those that they were.
        lifted = (None if self.lift is None else lift.as_before(self.lift)) or lift.run()
        self.lift = lift
        self.stages.end("other directions")
        self.best, self.chart = replace(self.best, model=lifted.model), lift.all
        # Where a class begins that the directions inside never met, the boundaries foretold end.
        if (grown := self._grown(self.seen.lacking(self._labels()))) is not None:
            lifted = replace(lifted, model=grown.model, missed=lift.missed(grown.model))
        self.stages.end("check")
        if lifted.reached > self.method.accuracy and lifted.missed <= MISSED:
            lifted = lift.fitted(lifted)
            self.stages.end("fit in all inputs")
        self.best = replace(self.best, model=lifted.model, figures={**self.best.figures, **lifted.figures})
        if lifted.figures and self.completion is not None:
            self.best.figures["strayed"] = self.completion.strayed(lifted.model.along(lift.basis), lifted.reached)
        self.stats |= {"not foretold": lifted.missed, "unconfirmed": lifted.unconfirmed, "reached": lifted.reached}
        if lifted.missed > MISSED:
            self.why.append(f"In all inputs {lifted.missed:.0%} of the boundary points foretold are not there.")
            return Outcome.check_failed
        self.why += (doubts := lifted.doubts(self.method.accuracy))
        return Outcome.approximate if doubts else Outcome.complete

    def _grown(self, x: Float[np.ndarray, "N n"]) -> Completed | None:
        """The network in all inputs with the classes that it lacks at x, if they can be read."""
        if not len(x) or self.lift is None or self.best is None:
            return None
        grown = with_classes_met(self.best, self.lift, x, self.rng)
        self.best = grown or self.best
        return grown

    def _check(self) -> tuple[float, Float[np.ndarray, "wrong n"]]:
        """Share of fresh points with another label, and the points that call for more: none if the network may stay."""
        network, labels = self._network(), self._labels()
        assert network is not None
        known = known_to(self.best.figures.get("error", np.inf) if self.best else np.inf, self.method.accuracy)
        x = fresh_points(network, labels, self.oracle, self.method.checks, self.rng, known)
        wrong = differs(network, labels, self.seen, x) if len(x) else np.empty(0, dtype=bool)
        self.stages.end("check")
        share = float(wrong.mean()) if len(x) else np.inf
        lacking = self.seen.lacking(labels)
        return share, np.concatenate([x[wrong], lacking]) if share > self.method.accept or len(lacking) else x[:0]

    def _worth(self) -> float:
        """Share of random points with another label; a network that is no better than one label is not handed out."""
        network, labels = self._network(), self._labels()
        if network is None:
            return np.inf
        wrong, constant = at_random(network, labels, self.oracle, self.method.checks, self.rng)
        self.stages.end("check")
        if wrong >= constant:
            self.why.append(f"The network it led to has another label at {wrong:.0%} of random points: left out.")
            self.best = self.deep = None
            self.chart = self.search.chart if self.search else self.chart
        return wrong

    def _network(self) -> Any:
        if self.deep is not None and self.chart is not None:
            return self.deep.model.network(self.chart)
        if self.best is None or self.chart is None or not np.isfinite(self.best.rms):
            return None
        model = self.best.model
        return (model.with_sigmoids() if self.method.activation == "sigmoid" else model).network(self.chart)

    def _labels(self) -> tuple[int, ...]:
        found = self.best if self.deep is None else self.deep
        return () if found is None else tuple(int(c) for c in found.model.classes)

    def _end(self, outcome: Outcome, error: float = np.inf) -> Identification:
        if outcome is Outcome.complete and error > self.method.accept:
            outcome = Outcome.check_failed
        if outcome is Outcome.complete and error * self.method.checks > TIED_POINTS_ALLOWED:
            outcome = Outcome.approximate
            self.why.append(f"At {error:.1%} of the fresh points, a third of them close to boundaries, labels differ.")
        if outcome is Outcome.complete and self.best is not None and (doubts := reservations(self.best)) is not None:
            outcome = Outcome.approximate
            self.why += doubts
        self.stages.end("cut short")
        self.stats["stages"] = {name: count for name, count in self.stages.queries.items() if count}
        network, labels = self._network(), self._labels()
        if network is None:
            second = self.stats.get("second layer", 0)
            rows, said = rows_read(self.search, self.chart, self.first, second, some=not self.spanned)
            self.stats |= rows
            self.why += said
        else:
            said, others = self.seen.told(labels)
            self.why += said
            outcome = Outcome.approximate if outcome is Outcome.complete and others else outcome
        if self.deep is not None:
            self.why.append("A second-layer neuron that is active nowhere on the boundary shows in no label.")
        if self.best is not None and network is not None:
            self.stats |= self.best.figures
            self.why += left_open(self.best)
        asked, why = self.stages.total, tuple(self.why)
        return Identification(network, outcome, asked, error, "hard labels", why, self.stats, labels=labels or None)
