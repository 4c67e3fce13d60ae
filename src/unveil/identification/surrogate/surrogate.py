"""Surrogate: a network that answers as the model does, fitted where it cannot be read, and how well it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.training import BATCH, FEWEST_BATCHES, free_network, one_hot, train
from unveil.identification.label_agreement import near_boundaries, network_labels
from unveil.identification.method import Identification, Method
from unveil.identification.surrogate.as_read import drawn
from unveil.identification.surrogate.fitting import Fitting
from unveil.identification.surrogate.run import Known, Run, Wanted, label_agreement
from unveil.identification.surrogate.students import candidates
from unveil.identification.surrogate.work import of_gradient
from unveil.one_line import one_line
from unveil.outcome import BadInput, BudgetExceeded, Outcome
from unveil.whitebox.network import Network


@one_line
@dataclass(frozen=True)
class Surrogate(Wanted, Method):
    """Fit a network to answers: a copy with a known error, where weights cannot be read.

    Students of different shapes begin with everything that was read. Questions are asked where they disagree, and each
    is fitted by damped least squares on all its parameters, to the answers it gets most wrong and others; the best one
    on answers that it was not fitted to loses the neurons that it does not need. Exact answers of several outputs count
    the more the closer these are together, as labels change there. Where labels are all there is, the students are
    trained on them.

    The outcome is `approximate`, whatever the error: `stats["fresh"]` and `stats["given"]` tell the distribution of
    the errors and the share of equal labels, `stats["neurons"]` which were read and which are only fitted. It is
    `check_failed` where the network explains less than 99 % of the answers' variance, or of labels, half of what the
    commonest label leaves.

    Attributes:
        widths: Neurons of the hidden layers as they are expected; students have `factor` times as many. None: shapes
            are tried out.
        activation: Of the hidden layers that are fitted.
        x: Inputs of the model's use: questions are asked about them too, and the result is told for them.
        known: What was read; see `Surrogate.behind`.
        students: How many are fitted side by side.
        factor: So many times as many neurons as are expected, to begin with.
        rounds: Rounds of questions and least squares at most.
        queries: Questions at most; None: what the budget leaves, up to 20 answers per parameter.
        work: Numbers multiplied at most, in training, steps of least squares and slimming: 1e12 are about half a minute
            of one processor. What a round of least squares costs at most follows from the number of weights times that
            of answers (`stats["round"]`); it is made shorter where that is more than is left, or not begun.

    Source: students that disagree choose questions: Goldfeder et al., arXiv:2409.19138; over-wide students:
    Martinelli et al., ICML 2024 (arXiv:2304.12794). The warm start and least squares on hard answers are ours.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.standard_normal((3, 4)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))]
        >>> truth = uv.Network.from_weights(layers)
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=4), uv.Surrogate(widths=(3,)), rng=rng)
        >>> found.outcome.name, found.stats["fresh"]["largest"] < 1e-6
        ('approximate', True)
    """

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> Method:
        """With the first activation and the widths."""
        return cls(widths, "relu" if activation is None else activation[0])

    @classmethod
    def behind(cls, found: Identification, **options: Any) -> Surrogate:
        """A surrogate that begins with what another method has read.

        Args:
            options: Other attributes.
        """
        return cls(known=Known.of(found), **options)

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        if self.students < 1 or self.rounds < 1 or self.factor < 1:
            raise BadInput("a surrogate needs at least one student, one round and as many neurons as are expected")
        if oracle.answers == "labels":
            return LabelFitting(self, oracle, rng).run()
        return Fitting(self, oracle, rng).run()


# Labels that no student is trained on, of which the best is told, and those that the result is judged by.
HELD_OUT_LABELS, JUDGED_LABELS = 2000, 2000
# Labels to begin with, those that a round adds, and of these the share close to where a student's labels change.
LABELS_AT_FIRST, LABELS_PER_ROUND, CLOSE_LABELS_SHARE = 4000, 4000, 0.6
# Hidden neurons where no widths are told: a share of the inputs between these, and half as many behind them.
HIDDEN_WIDTH_LIMITS = (24, 64)
# Sizes of random points, in units of a typical input, that are tried until two labels have been seen.
RANDOM_POINT_SIZES = (1.0, 4.0, 16.0, 64.0)
LABEL_BATCHES = 1500
# Share of what the commonest label leaves that may stay wrong of something that stands for the model.
WRONG_LABELS_SHARE = 0.5


class LabelFitting(Run):
    """One run on labels."""

    judged = JUDGED_LABELS

    def __init__(self, method: Wanted, oracle: Oracle, rng: np.random.Generator) -> None:
        super().__init__(method, oracle, rng)
        self.size = 1.0
        self.x, self.labels = np.empty((0, oracle.n)), np.empty(0, dtype=np.int64)
        self.right = 0.0

    def run(self) -> Identification:
        """Train, and judge."""
        try:
            held = self._points(HELD_OUT_LABELS)
            held_labels = self._asked(held)
            while len(np.unique(held_labels)) < 2 and self.size < RANDOM_POINT_SIZES[-1] and self.oracle.within is None:
                self.size = RANDOM_POINT_SIZES[RANDOM_POINT_SIZES.index(self.size) + 1]
                held = self._points(HELD_OUT_LABELS)
                held_labels = self._asked(held)
            if len(np.unique(held_labels)) < 2:
                self.why.append("One label only was seen. Give inputs of different classes (x=).")
                return self.end(Outcome.not_measured)
            self._add(self._points(int(min(LABELS_AT_FIRST, self.left()))))
            if len(self.x):
                self._train(held, held_labels)
            else:
                self.why.append("The budget left no questions to fit to.")
        except BudgetExceeded:
            self.why.append("The budget ended before the training did.")
        return self._judged()

    def _train(self, held: Float[np.ndarray, "H n"], held_labels: Int[np.ndarray, " H"]) -> None:
        students: list[Network] = []
        for _ in range(self.method.rounds):
            classes = np.unique(self.labels)
            if tuple(classes) != self.classes or not students:
                self.classes = tuple(int(each) for each in classes)
                self.best, self.right = None, 0.0
                students = [self._begun() for _ in range(self.method.students)]
            goal = one_hot(self.labels, classes)
            for i, student in enumerate(students):
                each = BATCH * of_gradient(student)
                steps = self.work.times(each, LABEL_BATCHES, 1 / (len(students) - i))
                if steps < FEWEST_BATCHES:
                    self.why.append(f"The training ended where its work did, {self.work.most:.1e} numbers; see work=.")
                    self.best = self.best or student
                    return
                students[i] = train(student, self.x, goal, self.rng, steps=steps, classes=True)
                self.work.done += steps * each
                right = float(np.mean(network_labels(students[i], self.classes, held) == held_labels))
                if self.best is None or right > self.right:
                    self.best, self.right = students[i], right
            more = int(min(LABELS_PER_ROUND, self.left()))
            if more < len(students):
                return
            close = int(CLOSE_LABELS_SHARE * more / len(students))
            # Labels say most where they change: close to where each student believes that they do.
            near = [near_boundaries(each, self.classes, self.oracle, close, self.rng) for each in students]
            many = np.concatenate([*near, self._points(max(0, more - sum(map(len, near))))])
            self._add(many[:more])

    def _begun(self) -> Network:
        hidden = int(np.clip(self.oracle.n, *HIDDEN_WIDTH_LIMITS))
        widths = self.method.widths
        if widths is None:
            wide: tuple[int, ...] = (2 * hidden, hidden)
        else:
            wide = tuple(max(1, int(np.ceil(self.method.factor * each))) for each in widths)
        network = free_network((), None, wide, self.x, len(self.classes), self.rng, self.method.activation)
        return Network(network.layers, self.oracle.shape)

    def _points(self, count: int) -> np.ndarray:
        x = candidates(self.oracle, count, self.rng, self.examples)
        return self.oracle.nearest(self.size * x) if self.oracle.within is None and self.examples is None else x

    def _asked(self, x: Float[np.ndarray, "N n"]) -> np.ndarray:
        return self.oracle.predictions(self.oracle(x))

    def _add(self, x: Float[np.ndarray, "N n"]) -> None:
        labels = self._asked(x)
        self.x, self.labels = np.concatenate([self.x, x]), np.concatenate([self.labels, labels])

    def _judged(self) -> Identification:
        """Held against labels that nothing was chosen by. Queries: `JUDGED_LABELS`, and the examples, `GIVEN` at
        most."""
        if self.best is None:
            return self.end(Outcome.budget_ended)
        outcome, error = Outcome.approximate, np.inf
        try:
            x = self.oracle.nearest(self.size * self.oracle.sample(JUDGED_LABELS, self.rng))
            labels = self._asked(x)
            agreement = label_agreement(network_labels(self.best, self.classes, x), labels)
            self.stats["fresh"] = agreement | {"inputs": len(x), "drawn": drawn(self.oracle, x, self.size)}
            error = 1 - self.stats["fresh"]["labels"]
            if self.examples is not None:
                given = self.some_examples()
                told = network_labels(self.best, self.classes, given)
                self.stats["given"] = label_agreement(told, self._asked(given))
            commonest = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
            if error > WRONG_LABELS_SHARE * (1 - commonest):
                outcome = Outcome.check_failed
        except BudgetExceeded:
            outcome = Outcome.budget_ended
        text = "how often it is right is not known, and no weight."
        if np.isfinite(error):
            fresh = self.stats["fresh"]
            text = f"right at {1 - error:.2%} of {fresh['inputs']:,} fresh {fresh['drawn']}; no weight of it is known."
        self.why.append(f"A network was trained on {len(self.x):,} labels: {text}")
        return self.end(outcome, error)
