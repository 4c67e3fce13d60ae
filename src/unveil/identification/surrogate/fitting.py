"""Fitting: one run of `Surrogate` on values: students, rounds of questions and least squares, what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unveil.blackbox.noise_model import answers_noise
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import intact, rounding, rows_for
from unveil.identification.check_points import FURTHER
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.robust import trimmed_rms
from unveil.identification.fitting.slimming import SLACK, all_needed, slimmed
from unveil.identification.method import Identification
from unveil.identification.surrogate.as_read import COMPARED, drawn, exceeded, further_out, kinds, measured, worse_at
from unveil.identification.surrogate.beginning import Beginning
from unveil.identification.surrogate.run import Wanted, values_told
from unveil.identification.surrogate.shapes import UNKNOWN_WIDTHS
from unveil.identification.surrogate.students import (
    AMONG,
    FEW_PARAMETERS,
    Student,
    Told,
    answers_per_step,
    candidates,
    fitted,
    planned,
    questions,
)
from unveil.identification.surrogate.work import of_trial
from unveil.outcome import BudgetExceeded, Outcome, Stopped
from unveil.whitebox.network import Network

# Answers that no student is fitted to, of which the best is told; answers that the result is judged by.
HELD_OUT_ANSWERS, JUDGED = 1000, 1000
# Answers further out, or at corners of a box, by which it is told how far the error holds; kept back where they
# are no more than this share of all.
JUDGED_FURTHER, FURTHER_SHARE = 500, 0.05
# Left for a further check of a network in which every neuron is needed, and the largest share of what is left.
CHECK_RESERVE, CHECK_RESERVE_SHARE = 2000, 0.2
# Answers per parameter to begin with, and at most; never fewer or more at first than these.
BEGIN, MOST_PER_PARAMETER, FEWEST_TO_BEGIN, MOST_TO_BEGIN = 4.0, 20.0, 2000, 40_000
ANSWERS_ADDED_SHARE = 0.4  # share of the answers that are there which a round adds
# Students that leave so many times what the best one does are given up once everything is fitted; parameters up to
# which there is more than one then.
BEHIND_BEST_FACTOR, ONE_STUDENT_PARAMETERS = 3.0, 5000
PATIENCE_ROUNDS, LEAST_ROUND_GAIN = 2, 1.15  # rounds in a row that gain less than this factor before it ends
PATIENCE_BEHIND = 4  # the same behind several layers, where a round is a small one
# So many layers and more that were read from exact answers, relative to their deviation, lack neurons at most.
SEVERAL_LAYERS, EXACT_NOISE = 3, 1e-9
TIED = 1e-3  # outputs that are no further apart than this share of their deviation count as tied
# Where a student is to be trained long: share of the questions asked at first, how many at most (of ACAS Xu 60,000
# answers are nearly as good as 400,000 for the work there is), and numbers that the inputs may hold (0.8 GB).
AT_FIRST, AT_FIRST_LIMIT, AT_FIRST_NUMBERS = 0.9, 200_000, 1e8
EPOCHS = 20  # how often a training looks at each answer at least
# Share of the work for rounds of least squares that have not come near; the rest is for training.
NOT_NEAR = 0.4
LEAST_ERROR = 1e-12  # the least error that is worth a step, relative to the deviation of the answers
# Answers by which a network that is nearly right is slimmed at least.
FEWEST_TO_SLIM = 5000
NOTHING_LOST = 1.1  # by what factor errors may grow when it loses spare neurons, also on answers it was not fitted to
ALLOWED_NOISE_FACTOR = 2.0  # or to so many times the answers' noise
TO_TELL = 8  # answers by which it is told whether all neurons are needed, for each of a layer and each input to it
FEWEST_TRIALS = 20  # without neurons, below which none is worth beginning
REFIT_DAMPING = 1e-5  # damping of a network that was fitted and lost neurons
# A network that is right to this share of the deviation at this share of the answers is not fitted any more.
RIGHT, MOSTLY = 1e-6, 0.9
STANDS = 0.1  # largest root mean square error of what stands for the model, relative to the answers' deviation
MEASURED_REMARK = "Its weights say nothing where they were not read."
UNMEASURED_REMARK = "How far off it is was not measured."


class Fitting(Beginning):
    """One run on values."""

    judged = JUDGED

    def __init__(self, method: Wanted, oracle: Oracle, rng: np.random.Generator) -> None:
        super().__init__(method, oracle, rng)
        self.usual: np.ndarray | None = None
        allowed = oracle.ledger.left if method.queries is None else min(oracle.ledger.left, method.queries)
        if FURTHER_SHARE * allowed >= JUDGED_FURTHER:
            self.judged = JUDGED + JUDGED_FURTHER
        self.noise, self.apart = 0.0, 0.0
        self.reserve = min(CHECK_RESERVE + (self.best is not None) * COMPARED, CHECK_RESERVE_SHARE * oracle.ledger.left)
        self.wanted = 0.0  # answers that a fit begins with where the budget allows it

    def run(self) -> Identification:
        """Fit, and judge."""
        try:
            self.noise = max(self._noise(), 1e-300)
            self.held = self._asked(candidates(self.oracle, HELD_OUT_ANSWERS, self.rng, self.examples))
            # Errors of log-ratios of rounded probabilities, each with its weight, are those of the usual ones.
            rounding = self.oracle.rounding(self.held.y) if self.usual is None else self.usual
            usual = self.noise if self.usual is None else 0.0
            self.noise = max(usual, float(rounding.mean()), LEAST_ERROR * self._spread())
            exact = self.noise < EXACT_NOISE * self._spread()
            self.deep = exact and len(self.method.known.layers) >= SEVERAL_LAYERS and self.method.known.network is None
            self.blind = exact and len(self.method.known.layers) == 1 and self.method.known.network is None
            if not self._right():
                self._fit()
                if self.deep and self.best is not None and not self._well(self.best):
                    # What was read lacks a neuron: the others cannot do its work, but free ones beside them may.
                    self.deep = False
                    self._fit()
                if self._lacks_layers():
                    self.blind = self.anew = True
                    if self.usual is None:
                        self.told, self.held = (Told(x, y, self._counts(y)) for x, y, *_ in (self.told, self.held))
                    self._fit()
        except BudgetExceeded as ended:
            stopped = isinstance(ended, Stopped)
            self.why.append("The fit was stopped." if stopped else "The budget ended before the fit did.")
            self.wanted = np.inf
        self._as_read()
        return self._judged()

    def _fit(self) -> None:
        """Students, rounds, the best one slimmed. Queries: those of `_left` at most."""
        count, known = self._first_count(), self.method.known
        # What a round costs is known before its answers are paid for.
        if (
            known.network is not None
            and self._well(known.network)
            and not planned(known.network, count, 1, brief=True, allowed=self.work.left).times
        ):
            self.why.append("The network read stays as it is: a fit of it costs more than work= allows.")
            return
        self._ask_more(count)
        if not len(self.told.x):
            self.why.append("The budget left no questions to fit to.")
            return
        students = [Student.begin(network, self.held, known.measured(network)) for network in self._begun()]
        self._keep(students)
        # What was read is nearly right: what lies behind it is fitted first, then everything.
        first = len(known.layers) if known.network is None or not self._well(known.network) else 1
        self.stats["round"] = sum(planned(each.network, len(self.told.x), first).cost for each in students)
        # A first layer behind which several were read is exact, and most of the parameters.
        least, waited, patience = int(self.deep), 0, PATIENCE_BEHIND if self.deep else PATIENCE_ROUNDS
        for turn in range(self.method.rounds):
            had, before = min(each.error for each in students), self.work.done
            if had <= 1.2 * self.noise:
                break
            students = [self._after_a_round(each, first, len(students) - i) for i, each in enumerate(students)]
            self._keep(students)
            if self.work.done == before:
                self.why.append(f"The fit ended where its work did, {self.work.most:.1e} numbers; see work=.")
                break
            self.stats["rounds"] = turn + 1
            best = min(each.error for each in students)
            waited = waited + 1 if best * LEAST_ROUND_GAIN > had else 0
            if best <= 1.2 * self.noise or (self.work.done > NOT_NEAR * self.work.most and self._lacks_layers()):
                break
            if waited >= patience and first == least:
                break
            if waited >= patience:
                # Layers move from the last to the first: the deeper ones are few parameters, and soon fitted.
                first, waited = max(first // 2, least), 0
                students = self._worth(students)
                if not first and self._well(students[0].best):
                    # With neurons that it does not need a fit of all weights is ill-conditioned.
                    students = [
                        one.again(self._slim(one.best, spare=True), REFIT_DAMPING, self.held) for one in students
                    ]
            # A few layers take few answers: more are asked once these are used up.
            needed = max(answers_per_step(each.network, MOST_TO_BEGIN, first) for each in students)
            if len(self.told.x) < AMONG * needed:
                more = int(min(ANSWERS_ADDED_SHARE * len(self.told.x), self._left()))
                if more >= 1:
                    self._ask_more(more, [each.network for each in students])
                elif not first:
                    break
        assert self.best is not None
        if self._well(self.best) and not self.deep:
            self.best = self._slim(self.best)
            some = np.arange(len(self.told.x))[: TO_TELL * max(each.inputs + each.neurons for each in self.best.layers)]
            self.stats["all_needed"] = all_needed(self.best, *self.told.some(some)[:3])

    def _after_a_round(self, student: Student, first: int, sharing: int) -> Student:
        """A student after a few steps on the layers from `first` on; what they took is counted, and `sharing` students
        still have to do with what is left."""
        allowed = self.work.left / sharing
        network, damping, work = fitted(student, self.told, self.noise, self.rng, first, allowed=allowed)
        self.work.done += work
        return student.after(network, damping, self.held) if work else student

    def _worth(self, students: list[Student]) -> list[Student]:
        """Those that are worth fitting in more layers, the best one first; a larger one must be better by more."""
        best = min(each.error for each in students)
        near = [each for each in students if each.error <= BEHIND_BEST_FACTOR * best]
        near.sort(key=lambda each: each.error * float(np.sqrt(self._behind_known(each.network))))
        # Where all parameters are many, a second student costs more than the better questions are worth.
        size = self._behind_known(near[0].network) if self.deep else parameters(near[0].network)
        return near[: None if size <= ONE_STUDENT_PARAMETERS else 1]

    def _behind_known(self, network: Network) -> int:
        """Parameters behind the layers that were read."""
        return parameters(Network(network.layers[min(len(self.method.known.layers), len(network.layers) - 1) :]))

    def _slim(self, network: Network, *, spare: bool = False) -> Network:
        """Without the neurons that it does not need, as far as the work allows; the same where that makes it worse.
        `network`: nearly right. `spare`: only those whose work the others can do as they are."""
        # Of many parameters most are the first layer's, and these stay.
        first = int(parameters(network) > ONE_STUDENT_PARAMETERS and len(network.layers) > 2)
        there = len(self.told.x)
        some = self.rng.permutation(there)[: max(FEWEST_TO_SLIM, answers_per_step(network, there, first))]
        told = self.told.some(some)
        if self.work.times(of_trial(network, len(told.x)), FEWEST_TRIALS) < FEWEST_TRIALS:
            return network

        def paid(trial: Network) -> bool:
            return self.work.pay(of_trial(trial, len(told.x)))

        def fit(trial: Network) -> Network:
            if not paid(trial) or spare:
                return trial
            student, moves = Student(trial, REFIT_DAMPING, trial, np.inf), min(first, len(trial.layers) - 1)
            trial, _, work = fitted(student, told, self.noise, self.rng, moves, brief=True, allowed=self.work.left)
            self.work.done += work
            return trial

        floor = self.noise * ALLOWED_NOISE_FACTOR / SLACK
        smaller = slimmed(network, told.x, told.y, floor, fit, NOTHING_LOST, told.counts, paid)
        self.stats.setdefault("widths_fitted", network.widths)
        before = trimmed_rms(network, *self.held)
        # A copy that is far from exact has no neuron to spare: what is lost there may be the labels.
        allowed = max(NOTHING_LOST * before, ALLOWED_NOISE_FACTOR * self.noise)
        return smaller if trimmed_rms(smaller, *self.held) <= allowed else network

    def _lacks_layers(self) -> bool:
        """Whether least squares have not come near, as what was read lacks layers: stochastic gradients may."""
        if self.blind or self.deep or self.best is None or self._well(self.best):
            return False
        # The normal equations of few parameters say all there is to say about widths that were given.
        if self.method.widths is not None and parameters(self.best) <= FEW_PARAMETERS:
            return False
        return trimmed_rms(self.best, *self.held) > ALLOWED_NOISE_FACTOR * self.noise

    def _first_count(self) -> int:
        known = self.method.known
        if self.blind:
            self.wanted = FEWEST_TO_BEGIN
            # No more than the work lets a student look at often enough.
            seen = max(FEWEST_TO_BEGIN, self.work.times(EPOCHS * self._gradient(), AT_FIRST_LIMIT))
            return int(min(AT_FIRST * self._left(), seen, AT_FIRST_NUMBERS / self.oracle.n))
        last = known.layers[-1].neurons if known.layers else min(self.oracle.n, UNKNOWN_WIDTHS[1])
        size = sum(layer.dense().size for layer in known.layers)
        size += (self.oracle.n if not known.layers else 0) * 3 * last + 8 * last**2
        self.wanted = float(np.clip(BEGIN * size / self.oracle.m, FEWEST_TO_BEGIN, MOST_TO_BEGIN))
        return int(min(self.wanted, self._left()))

    def _left(self) -> float:
        """Questions that may still be asked before the result is judged."""
        left = self.left(self.reserve)
        if self.best is not None and not self.blind:
            most = max(MOST_PER_PARAMETER * parameters(self.best) / self.oracle.m, 10 * FEWEST_TO_BEGIN)
            left = min(left, most - len(self.told.x))
        return max(0.0, left)

    def _ask_more(self, count: int, networks: Sequence[Network] = ()) -> None:
        self.told = self.told.and_(self._asked(questions(self.oracle, networks, count, self.rng, self.examples)))

    def _asked(self, x: Float[np.ndarray, "N n"]) -> Told:
        """Answers; log-ratios that have run out of digits are left out."""
        y = self.oracle(x)
        whole = intact(y, self.oracle.widest)
        x, y = x[whole], y[whole]
        if self.oracle.uneven is None:
            return Told(x, y, self._counts(y))
        sigma = self.oracle.uneven(y)
        self.usual = np.median(sigma, axis=0) if self.usual is None and len(y) else self.usual
        # Of such answers none is off for another reason than that a neuron is missing.
        return Told(x, y, sigma if self.usual is None else self.usual / sigma, 0.0)

    def _noise(self) -> float:
        """Deviation of the answers' errors; where they bend everywhere behind what was read, less than they vary.
        Queries: those of `answers_noise`, and of `rounding` behind layers without a network."""
        noise, known = answers_noise(self.oracle, self.rng), self.method.known
        if self.oracle.uneven is None and known.layers and known.network is None and self.method.activation == "relu":
            x = self.oracle.sample(rows_for(self.oracle.resolution), self.rng)
            exact = rounding(self.oracle, x, self.oracle.resolution, self.rng)
            noise = min(noise, float(exact.floor.max())) if exact.exact else noise
        return noise

    def _counts(self, y: Float[np.ndarray, "N m"]) -> Float[np.ndarray, "N m"]:
        """What errors of exact answers are multiplied by: where outputs nearly tie, less of one changes the label."""
        # A fit that gets down to the rounding counts answers by that; training does not get there.
        fine = TIED if self.anew else EXACT_NOISE
        if y.shape[1] == 1 or self.oracle.ordered or not len(y) or self.noise >= fine * y.std():
            return np.ones_like(y)
        apart = np.ptp(y, axis=1)
        self.apart = self.apart or float(1 / np.mean(1 / (apart + TIED * y.std())))
        counts = np.sqrt(self.apart / (apart + TIED * y.std()))
        return np.repeat(counts[:, None], y.shape[1], axis=1)

    def _keep(self, students: Sequence[Student]) -> None:
        """Hold on to the best network so far."""
        one = min(students, key=lambda each: each.error)
        if self.best is None or one.error <= trimmed_rms(self.best, *self.held):
            self.best = one.best

    def _as_read(self) -> None:
        """Back to what was read where a fit is worse at inputs of some kind. Queries: those of `worse_at`."""
        read = self.method.known.network
        if read is None or self.best is None or self.best is read:
            return
        inputs = kinds(self.oracle, self.left(), self.rng, self.examples)
        if kind := worse_at(self.best, read, self.held, self._asked, inputs):
            self.best = read
            self.why.append(f"What was read is nearer to the answers at {kind}, all taken together, than the fit.")

    def _right(self) -> bool:
        """Whether what is known is right nearly everywhere: a fit would spread what is wrong over all of it."""
        if self.best is None:
            return False
        off = np.abs(self.best(self.held.x) - self.held.y).max(axis=1)
        right = bool((off <= RIGHT * self._spread()).mean() >= MOSTLY)
        if right:
            self.why.append("The network read is right at most inputs, and stays as it is.")
        return right

    def _judged_further(self, network: Network) -> None:
        """How far off it is further out, or at corners of a box: errors grow there. Queries: `JUDGED_FURTHER`, or 0
        where that is more than is left."""
        ledger, most = self.oracle.ledger, self.method.queries
        left = ledger.left if most is None else min(ledger.left, most - (ledger.asked - self.start))
        if "fresh" in self.stats and left >= JUDGED_FURTHER:
            # After what is told of usual inputs, so that these are the same ones whether or not this is measured.
            x = further_out(self.oracle, JUDGED_FURTHER, self.rng)
            told = {"drawn": drawn(self.oracle, x, FURTHER[0])}
            self.stats["further"] = values_told(network, self.oracle, x) | told

    def _judged(self) -> Identification:
        """What came out, held against answers nothing was chosen by. Queries: `JUDGED`, at most `GIVEN` examples, and
        `JUDGED_FURTHER`."""
        if self.best is None:
            return self.end(Outcome.budget_ended)
        network, outcome, error = self.best, Outcome.approximate, np.inf
        try:
            fresh = self.oracle.sample(JUDGED, self.rng)
            self.stats["fresh"] = values_told(network, self.oracle, fresh) | {
                "drawn": drawn(self.oracle, fresh),
                "exceeded": exceeded(len(fresh)),
            }
            error = self.stats["fresh"]["largest"]
            if self.examples is not None:
                self.stats["given"] = values_told(network, self.oracle, self.some_examples())
            if not self.stats["fresh"]["rms"] <= STANDS:
                # Of one that the budget left too few answers to begin with nothing is known but that.
                short = len(self.told.x) < self.wanted and self.oracle.ledger.budget is not None
                outcome = Outcome.budget_ended if short else Outcome.check_failed
        except BudgetExceeded:
            outcome = Outcome.budget_ended
        self._judged_further(network)
        self.stats["neurons"] = apart = self.method.known.told_apart(network)
        told = "; ".join(f"layer {i}: {one['read']} read, {one['fitted']} fitted" for i, one in enumerate(apart))
        remark = UNMEASURED_REMARK
        if np.isfinite(error):
            remark = f"{measured(self.stats['fresh'], self.stats.get('further'))} {MEASURED_REMARK}"
        if count := len(self.told.x):
            self.why.append(f"A network was fitted to {count:,} answers ({told}). {remark}")
        return self.end(outcome, error)
