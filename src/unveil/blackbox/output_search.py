"""The search behind output_span: how many inputs are asked, and when the rank counts as settled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.output_inputs import Inputs
from unveil.blackbox.output_rank import (
    DECIMALS,
    DROP,
    EXPLAINED,
    LEAST_DROP,
    SPARE,
    Answers,
    Factor,
    Rank,
    alone,
    in_pairs,
    rank_of,
    unseen,
)
from unveil.blackbox.output_reading import LOG_RATIOS, Reading, read_as
from unveil.blackbox.output_space import OutputSpan
from unveil.blackbox.rounding import TOO_SMALL
from unveil.outcome import Outcome

INPUTS_AT_ONCE = 3
"""Inputs asked at once: the rank is settled by five or so more than it, so larger batches would only cost more."""

FRESH = 2
"""Inputs asked once the rank is settled, whose answers must lie in the span."""

PATIENT = 59
"""Spare answers called for where single inputs show directions that others do not: 95 % of the inputs, at 95 %."""

RESTING_INPUTS = 4
"""Inputs that got one and the same answer, from which neurons count as resting for some."""

ANSWERS_WITHOUT_DROP = 64
"""Answers beyond twice the directions seen, after which a spectrum without a clear drop is given up."""

RAW = 64
"""Answers kept as they came, to see how they are rounded."""

BOUND = 3.0
"""Accuracy stated over what noise and arithmetic are expected to turn the weakest direction by."""

LOST = 20
"""Answers without digits for each one with, above which asking is given up."""

CONFIDENCE = 0.95

_SEEN, _HOPEFUL = 0.3, 0.05  # shares of an answer outside the span of those before, at which the spectrum is looked at


class Search:
    """Asks until the rank is settled, or says why it is not."""

    def __init__(self, oracle: Oracle, inputs: Inputs, most: int | None, known: np.ndarray | None = None) -> None:
        self.oracle, self.inputs, self.most = oracle, inputs, most
        self.known = np.empty((0, oracle.m)) if known is None else known
        self.before = oracle.ledger.asked
        self.asked = self.lost = 0
        self.seen: dict[bytes, int] = {}
        self.answers: Answers | None = None
        self.reading: Reading | None = None
        self.rounding = 0.0
        self.raw: list[np.ndarray] = []
        self.early = 0.0
        self.looked = self.enough = 0
        self.stable = (
            False  # whether the last look found the rank of the one before, so that a few answers may settle it
        )
        self.factor: Factor | None = None
        self.found: Rank | None = None
        self.outcome, self.why = Outcome.not_measured, "it was not asked at all"

    def run(self) -> None:
        """Ask until the search is over; `result` says how it ended."""
        while (y := self._next(1 if self.stable else INPUTS_AT_ONCE)) is not None:
            if self.asked >= 12 and len(self.seen) == 1:
                self.outcome, self.why = Outcome.nothing_to_find, "every input got the same answer"
                return
            self._take(y)
            if self.lost > LOST * (len(self.seen) - self.lost + 1):
                break
            if self.answers is not None and self._due() and self._settled():
                return
        self._unsettled()

    def _next(self, count: int) -> np.ndarray | None:
        """Answers to further inputs; None if there are none left, or no queries."""
        if len(self.known):
            y, self.known = self.known[:count], self.known[count:]
            self.asked += len(y)
            return np.asarray(y)
        room = self.oracle.ledger.left
        if self.most is not None:
            room = min(room, self.most - self.asked)
        x = self.inputs.take(int(min(count, max(room, 0))))
        if not len(x):
            return None
        self.asked += len(x)
        return self.oracle(x)

    def _take(self, y: np.ndarray) -> None:
        """Take in those answers that are new."""
        new = []
        for row, whole in zip(y, self._whole(y), strict=True):
            key = row.tobytes()
            if key not in self.seen and whole:
                new.append(row)
            self.lost += key not in self.seen and not whole
            self.seen[key] = self.seen.get(key, 0) + 1
        if not new:
            return
        y = np.array(new)
        if self.reading is None or self.answers is None:
            self.reading = read_as(self.oracle, y)
            self.answers = Answers(self.reading.outputs)
        self.raw.extend(y[: max(0, RAW - len(self.raw))])
        self.answers.add(self.reading(y))

    def _whole(self, y: np.ndarray) -> np.ndarray:
        """Which answers hold their digits: of probabilities of their own, next to 0 or 1, hardly any are left."""
        if not self.oracle.independent:
            return np.ones(len(y), dtype=bool)
        return np.asarray((np.abs(y) < TOO_SMALL * self.oracle.widest).all(axis=1))

    def _measure_rounding(self) -> None:
        """Of the answers kept as they came; a first few may have looked coarser than they are."""
        assert self.reading is not None
        raw = np.array(self.raw)
        self.reading = self.reading.refined(raw)
        self.rounding = float(np.sqrt(np.mean(self.reading.rounding(raw) ** 2)))
        if self.oracle.independent:
            # It differs from answer to answer: a rounding of the worst is no direction.
            self.rounding = float(self.oracle.rounding(raw).max())
        elif self.oracle.reference is None:
            self.rounding = max(self.rounding, self.oracle.resolution * self.oracle.scale / np.sqrt(12))

    @property
    def explained(self) -> float:
        """The largest noise that is put down to rounding."""
        assert self.reading is not None
        decimals = self.reading.step and self.reading.kind != LOG_RATIOS  # the noise of a logarithm varies with it
        return (DECIMALS if decimals else EXPLAINED) * self.rounding

    def _due(self) -> bool:
        """Whether the spectrum is worth a look: when new answers bring little that is new."""
        assert self.answers is not None
        assert self.reading is not None
        count, (outside, whole) = self.answers.count, self.answers.fresh
        if count < max(6, self.enough):
            return False
        share = float(np.median(outside) / max(float(np.median(whole)), 1e-300))
        self.early = max(self.early, share)
        if count > self.reading.largest_rank + 10 or share <= _HOPEFUL * self.early:
            return True
        return share <= _SEEN * self.early and (self.stable or count >= 1.1 * self.looked)

    def _settled(self) -> bool:
        """Look at the spectrum; True if the search is over."""
        assert self.answers is not None
        assert self.reading is not None
        self.looked = self.answers.count
        self._measure_rounding()
        self.factor = self.answers.factor()
        before, found = self.found, rank_of(self.factor, self.rounding, self.reading.largest_rank)
        if self.oracle.independent and found.rank > self._above(1.0):
            found = replace(found, flat=False)  # answers of more rounding than others look like directions
        self.found, self.stable = found, found.flat and before is not None and before.rank == found.rank
        if found.resolved(self.explained) and found.rank < self.reading.largest_rank:
            if not self._rare():
                return self._confirmed()
            return self._rare_ones_met()
        if self._full():
            if self._censored():
                self.outcome = Outcome.not_resolved
                self.why = "some probabilities are 0 in some answers and not in others: how small they are is hidden"
                return True
            self.outcome = Outcome.full_rank
            self.why = (
                "the answers fill the space of the outputs: the hidden layer is at least as wide as they are many"
            )
            return True
        # What a steep fall hides below the rounding, more answers hardly raise.
        if found.flat and found.drop >= LEAST_DROP and found.stands and not found.ends and found.spare >= SPARE:
            return self._falling()
        if found.flat and found.drop >= DROP and found.spare >= max(ANSWERS_WITHOUT_DROP, found.rank):
            return self._standing_out()
        # Twice as many answers as directions above the rounding: more would hardly raise those below it.
        return self.answers.count >= 2 * self._above(4.0) + ANSWERS_WITHOUT_DROP and self._hidden()

    def _above(self, times: float) -> int:
        """Singular values above so many times what rounding makes."""
        assert self.factor is not None
        assert self.reading is not None
        edge = times * self.rounding * (np.sqrt(len(self.factor.left)) + np.sqrt(self.reading.outputs))
        return int((self.factor.values[: self.reading.largest_rank] > edge).sum())

    def _hidden(self) -> bool:
        """No clear drop: those that stand out from the rounding are a lower bound, where there is nothing else."""
        assert self.factor is not None
        assert self.found is not None
        clear = self.found.stands and self.found.drop >= LEAST_DROP and self.found.spare >= SPARE
        if clear and self.found.noise <= self.explained:
            return self._standing_out()
        self.outcome = Outcome.not_resolved
        self.why = f"the singular values of {len(self.factor.left)} answers fall to the noise without a clear drop"
        return True

    def _standing_out(self) -> bool:
        assert self.found is not None
        return self._approximately(
            f"{self.found.rank} directions stand out from a remainder {self.found.noise / self.rounding:.3g} times the "
            f"rounding of the answers, the weakest of them {self.found.drop:.2g}-fold; weaker directions may hide in it"
        )

    def _falling(self) -> bool:
        assert self.found is not None
        return self._approximately(
            f"{self.found.rank} directions stand out, but their singular values fall {self.found.fall:.2g}-fold "
            f"each, and the weakest is {self.found.drop:.2g} times what is left: weaker ones may hide in the rounding"
        )

    def _approximately(self, why: str) -> bool:
        self.outcome, self.why = Outcome.approximate, why
        return True

    def _rare(self) -> bool:
        """Whether some inputs show directions that others do not, so that others still may not have been met."""
        assert self.answers is not None
        assert self.factor is not None
        assert self.found is not None
        noise = 16 * max(self.found.noise, self.rounding)
        basis = self.factor.right[: self.found.rank]
        # One answer to several inputs is that of a network at rest; a prompt may stand in a list twice.
        at_rest = max(self.seen.values()) >= RESTING_INPUTS
        if at_rest or alone(self.factor, self.found) > 0 or in_pairs(self.factor, self.found) > 0:
            return True
        return self.answers.in_vain(basis, noise) > 0

    def _rare_ones_met(self) -> bool:
        """Whether to end though directions are rare: once all inputs given were asked, or very many of those drawn.

        The rank is the width only where no direction hangs on a single input; else further inputs would show more.
        """
        assert self.factor is not None
        assert self.found is not None
        if self.inputs.left is None and self.found.spare >= PATIENT:
            self._rare_ones_told(f"{self.asked} inputs were drawn")
            return True
        if self.inputs.left == 0:
            self._rare_ones_told(f"all {self.asked} inputs given were asked")
            return True
        more = 2 * self.found.spare if self.inputs.left is not None else min(2 * self.found.spare, PATIENT)
        self.enough = self.found.rank + 1 + more
        return False

    def _rare_ones_told(self, asked: str) -> None:
        """Of inputs that were given the rank is complete once each direction was shown by two of them."""
        assert self.factor is not None
        assert self.found is not None
        single = alone(self.factor, self.found)
        given = self.inputs.left == 0 and not single
        self.outcome = Outcome.complete if given else Outcome.approximate
        self.why = f"{asked}, and single ones showed directions that others do not: "
        if given:
            self.why += "the rank is what these inputs show, neurons that rest for all of them are not in it"
        elif single:
            self.why += (
                f"{single} of them showed each a direction that no other does, so that further inputs are likely to "
                "show more: the rank is a lower bound of the width"
            )
        else:
            share = unseen(self.found.spare, 0, len(self.factor.left), CONFIDENCE)
            self.why += (
                f"{self.found.rank} were met, and what fewer than {share:.0%} of such inputs show may be missing"
            )

    def _censored(self) -> bool:
        """Whether probabilities are too small to be told in some answers and not in others."""
        raw = np.array(self.raw)
        low = raw < np.maximum(raw.max(axis=1, keepdims=True), 0) - TOO_SMALL * self.oracle.widest
        return not self.oracle.independent and bool((low.any(axis=0) & ~low.all(axis=0)).any())

    def _full(self) -> bool:
        assert self.factor is not None
        assert self.reading is not None
        largest = self.reading.largest_rank
        return len(self.factor.left) >= largest + 10 and self._above(EXPLAINED) == largest

    def _confirmed(self) -> bool:
        """Whether fresh answers lie in the span; where they do not, they are taken in, and the search goes on."""
        assert self.found is not None
        self.outcome = Outcome.complete
        span = self.result()
        y = self._next(FRESH)
        while y is not None and not self._whole(y).any():
            y = self._next(FRESH)
        if y is None:
            self.why = "the rank is settled, but nothing was left to ask fresh inputs for a check"
            return True
        self.why = (
            f"fresh answers lie in the span; what fewer than {span.unseen:.0%} of such inputs show, neurons that rest "
            f"for the others among it, may be missing, as may what moves answers by less than {self.found.noise:.1g}"
        )
        if self.lost:
            self.why += f"; {self._lost_told()} and were left out"
        if span.contains(y[self._whole(y)], 1e-6).all():
            # Neurons that push probabilities to 0 or 1 rest for the answers that are left.
            self.outcome = Outcome.approximate if self.lost > len(self.seen) / 2 else Outcome.complete
            return True
        self._take(y)
        self.outcome, self.why = Outcome.check_failed, "fresh answers lay outside the span found before them"
        return False

    def _lost_told(self) -> str:
        return f"{self.lost} of {len(self.seen)} answers have probabilities so near 0 or 1 that they lost their digits"

    def _unsettled(self) -> None:
        """Inputs or queries ended before the rank was settled."""
        if self.lost > LOST * (len(self.seen) - self.lost + 1):
            self.outcome, self.why = Outcome.not_resolved, self._lost_told()
            return
        repeated = self.asked >= 12 and len(self.seen) < 0.6 * self.asked
        in_steps = f"{self.asked} inputs got only {len(self.seen)} different answers, too few to tell the rank"
        if self.answers is None or self.reading is None or self.answers.count < 3:
            out = self.oracle.ledger.left <= 0
            self.outcome = Outcome.budget_ended if out else Outcome.not_measured
            self.why = f"{self.asked} inputs are too few to tell anything"
            if repeated:
                self.outcome, self.why = Outcome.answers_in_steps, in_steps
            return
        if self.looked < self.answers.count and self._settled():
            return
        assert self.factor is not None
        assert self.found is not None
        count = len(self.factor.left)
        most = min(count - 1, self.reading.largest_rank)
        if repeated:
            self.outcome, self.why = Outcome.answers_in_steps, in_steps
        elif self.oracle.ledger.left <= 0:
            self.outcome = Outcome.budget_ended
            self.why = f"the rank was not settled by {count} answers: it may be larger than what they show"
        elif self.found.resolved(self.explained) and self.found.rank < self.reading.largest_rank:
            if self._rare():  # otherwise the last check failed, and nothing was left to go on with
                self._rare_ones_told(f"{self.asked} inputs were asked, as many as allowed")
        elif self._above(4.0) == most:
            self.outcome = Outcome.not_measured
            self.why = f"{count} answers span as much as they can: the rank is at least {most}, ask more inputs"
        else:
            self._hidden()

    def result(self) -> OutputSpan:
        """The span as it stands."""
        reading = self.reading or Reading("values", None, self.oracle.m, 53, 0.0)
        queries = self.oracle.ledger.asked - self.before
        if self.factor is None or self.found is None:
            nothing = np.empty((0, reading.outputs))
            origin = np.zeros(reading.outputs)
            sure = 1 - (1 - CONFIDENCE) ** (1 / self.asked) if self.outcome is Outcome.nothing_to_find else 1.0
            return OutputSpan(
                nothing, origin, np.empty(0), 0.0, self.rounding, 1.0, CONFIDENCE, sure, queries, self.outcome,
                self.why, reading, 1.0, 0,
            )  # fmt: skip
        factor, found = self.factor, self.found
        rank, spare = found.rank, found.spare
        if self.outcome is Outcome.full_rank:
            rank, spare = reading.largest_rank, len(factor.left) - 1 - reading.largest_rank
        elif not found.flat or self.outcome in (Outcome.not_measured, Outcome.budget_ended, Outcome.answers_in_steps):
            rank = self._above(4.0)
            spare = len(factor.left) - 1 - rank
        single = alone(factor, found) if rank == found.rank and found.flat else 0
        noise = found.noise if rank == found.rank else self.rounding
        last = float(factor.values[rank - 1]) if rank else np.inf
        arithmetic = 4 * np.finfo(np.float64).eps * float(factor.values[:1].sum())
        turned = BOUND * (noise * np.sqrt(reading.outputs) + arithmetic) / last
        off = 0.0 if self.outcome is Outcome.full_rank else turned
        return OutputSpan(
            basis=factor.right[:rank],
            origin=factor.origin,
            singular_values=factor.values,
            noise=noise,
            rounding=self.rounding,
            accuracy=float(min(1.0, off)),
            confidence=CONFIDENCE,
            unseen=unseen(spare, single, len(factor.left), CONFIDENCE),
            queries=queries,
            outcome=self.outcome,
            why=self.why,
            reading=reading,
            freedom=found.freedom,
            spare=max(spare, 0),
        )
