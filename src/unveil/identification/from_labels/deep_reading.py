"""DeepReading: what is behind a known first layer, from more and more bends, and how far it is to be relied on."""

from __future__ import annotations

from typing import Any

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.deep_completion import Deep, DeepCompletion
from unveil.identification.from_labels.first_layer import WIDE
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.label_agreement import LOOSE, differs, fresh_points, known_to
from unveil.outcome import BudgetExceeded, Outcome

LABELS_FOR_BENDS, FURTHER_BEND_ROUNDS = 100_000, 8  # labels asked for more bends at a time, and how often
RARE_CLASS_POINTS = 1_000  # random points asked each time, for classes that a search meets hardly anywhere
DEEP_CHECK_POINTS = 2_000  # fresh points that judge a network with two hidden layers


class DeepReading:
    """The layers behind a first one.

    `search`: faces and bends met by now; it goes on from there. `first`: all hyperplanes of the first layer, towards
    their active sides once these are told. `accuracy`: wanted of the weight vectors, relative. `accept`: largest share
    of other labels among the fresh points that judge the result. `deep`: the network; None where none came out that
    passes. `error`: share of fresh points with another label, `wrong`: which these are. `why`: what speaks against the
    network. `figures`: neurons told apart, share of the points explained and the like.
    """

    def __init__(
        self,
        search: HyperplaneSearch,
        first: Hyperplanes,
        accuracy: float,
        accept: float,
        oracle: Oracle,
        rng: np.random.Generator,
    ) -> None:
        self.search, self.first, self.accept, self.oracle, self.rng = search, first, accept, oracle, rng
        self.behind = DeepCompletion(search.pool, first, search.precision, accuracy, rng)
        self.deep: Deep | None = None
        self.error = np.inf
        self.wrong = np.empty((0, oracle.n))
        self.why: list[str] = []
        self.figures: dict[str, Any] = {}

    def run(self) -> Outcome:
        """Read on until nothing says that a neuron is missing, or until it does not come out. Queries: about 60 a
        number of the network, and `LABELS_FOR_BENDS` for each time that bends are too few."""
        search = self.search
        try:
            for further in range(FURTHER_BEND_ROUNDS + 1):
                if further and self.oracle.ledger.left < 1.5 * LABELS_FOR_BENDS:
                    # What was fitted by now is worth more, judged, than further bends.
                    return self.judge(self.deep, search.chart) if self.deep else Outcome.budget_ended
                search.pool.wide = WIDE if further % 2 else 1.0
                if further:
                    search.collect(self.first, LABELS_FOR_BENDS)
                search.pool.draw(RARE_CLASS_POINTS)
                found = self.behind.attempt(search.faces, search.bends(self.first))
                search.stages.end("second layer and fit")
                self.figures |= self.behind.figures | self._neurons_read()
                self.deep = found or self.deep
                if found is not None and found.whole:
                    outcome, wrong = self.judge(found, search.chart), self.wrong
                    if (
                        not len(wrong)
                        or further == FURTHER_BEND_ROUNDS
                        or self.oracle.ledger.left < 1.5 * LABELS_FOR_BENDS
                    ):
                        return outcome
                    # A class or a neuron that only these points met: the search goes on from there.
                    search.pool.put(search.chart.coordinates(wrong))
                    self.behind.refute()
                    self.why.clear()
            return self.judge(self.deep, search.chart)
        except BudgetExceeded:
            # What no fresh points judged is not handed out; the first layer stands.
            self.deep = None
            return Outcome.budget_ended

    def _neurons_read(self) -> dict[str, Any]:
        """The first layer towards its active sides, and second-layer neurons seen to be of no third one."""
        if self.behind.oriented is None:
            return {}
        self.first = self.behind.oriented
        neurons = self.behind.straight
        weights = np.array([each.weight for each in neurons]).reshape(-1, len(self.first))
        return {"second_layer_read": (weights, np.array([each.bias for each in neurons]))}

    def judge(self, deep: Deep | None, chart: Chart) -> Outcome:
        """How far a network is to be relied on, by fresh points, a third of them close to the boundaries found. `deep`:
        the network; None if none came out. `chart`: the coordinates it is in. Queries: `DEEP_CHECK_POINTS`."""
        self.deep = deep
        if deep is None:
            return Outcome.approximate
        network, labels = deep.model.network(chart), tuple(int(c) for c in deep.model.classes)
        x = fresh_points(network, labels, self.oracle, DEEP_CHECK_POINTS, self.rng, known_to(deep.error))
        if not len(x):
            self.why.append("Two hidden layers were fitted, but there was no fresh point to judge them by.")
            self.deep = None
            return Outcome.approximate
        wrong = differs(network, labels, self.oracle, x)
        self.wrong = x[wrong]
        self.search.stages.end("check")
        self.error = float(wrong.mean())
        self.figures |= {"rms": deep.rms, "missed": deep.missed, "error": deep.error, "open": deep.open}
        if not self.error <= self.accept:
            self.why.append(f"Two hidden layers were fitted, but {self.error:.1%} of fresh labels differ.")
            self.deep = None
            return Outcome.approximate
        if deep.always:
            self.why.append(
                f"Of {deep.always} second-layer neurons, active at the whole boundary, labels tell no bias."
            )
        doubts = []
        if deep.explains and deep.open:
            doubts.append(f"{deep.open} numbers count at no boundary that was met")
        if not deep.explains:
            doubts.append("some neurons of the second layer are missing or in an affine part")
        if wrong.any():
            doubts.append(f"{int(wrong.sum())} of {len(x)} fresh points have another label")
        if not deep.error <= LOOSE:
            doubts.append(f"some numbers are known to {deep.error:.0e} only")
        if doubts:
            self.why.append(f"Not all of two hidden layers was read: {'; '.join(doubts)}.")
        return Outcome.approximate if doubts else Outcome.complete
