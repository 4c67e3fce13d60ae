"""What of the weights can still be read off coarser answers, beside what was read off the plain ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from unveil.audit.text import brief, count
from unveil.outcome import BadInput, BudgetExceeded, Outcome, UnveilError

if TYPE_CHECKING:
    from unveil.blackbox.oracle import Oracle
    from unveil.identification.method import Identification

AGAIN = 4
"""Reading through coarser values may cost so many times the queries of reading the plain ones, or as many as their
directions may (`unveil.blackbox.defences.LEAST`) if that is more."""

WHOLE = 0.01  # error up to which a weight counts as read
LABELS = 500_000  # queries that reading through labels may cost


@dataclass(frozen=True)
class Weights:
    """What one kind of answers gives away of the weights.

    Attributes:
        name: The kind of answers, for a person.
        neurons: Hidden neurons that were read, of those read off the plain answers.
        of: How many these are.
        error: Largest error of a weight or bias of theirs, relative to the largest of its layer; NaN if none was read.
        last: The same of the last layer.
        queries: Queries it took.
        outcome: How it ended; None if it could not be run.
        reason: Why.
    """

    name: str
    neurons: int
    of: int
    error: float
    last: float
    queries: int
    outcome: Outcome | None
    reason: str = ""

    @property
    def whole(self) -> bool:
        """Whether all weights came out."""
        return self.neurons == self.of and self.error <= WHOLE and self.last <= WHOLE

    @property
    def words(self) -> str:
        """For a cell of the table."""
        if self.neurons:
            some = "all" if self.neurons == self.of else f"{count(self.neurons)} of"
            read = f"{some} {count(self.of, 'hidden neuron')}, to {brief(self.error, 2)}"
            return read if self.last <= 10 * self.error else f"{read}; the last layer to {brief(self.last, 2)}"
        ended = "" if self.outcome is not Outcome.budget_ended else f" within {count(self.queries, 'question')}"
        return f"this attack read none{ended}"


def defended_weights(oracle: Oracle, plain: Identification, name: str, *, rng: np.random.Generator) -> list[Weights]:
    """Read the weights through float32, 4 and 2 decimal places and labels only, and compare.

    Args:
        oracle: Answers values.
        plain: What was read off these, complete: what the rest is held against.
        name: What its answers are called.
        rng: Every kind of answers starts from the same draws.

    Raises:
        BadInput: Nothing complete was read off the plain answers.

    Queries: at most `max(AGAIN * plain.queries, LEAST)` for each kind of values, and `LABELS` for labels
    """
    from unveil.blackbox.defences import LEAST, Allowance, coarser
    from unveil.identification.identify import identify

    if plain.network is None or plain.outcome is not Outcome.complete:
        raise BadInput("weights are compared with those read off the plain answers, which must be complete")
    seed = int(rng.integers(2**63))
    hidden = sum(plain.network.widths[:-1])
    told = [Weights(name, hidden, hidden, plain.residual, plain.residual, plain.queries, plain.outcome)]
    for kind, asked in coarser(oracle):
        most = LABELS if asked.answers == "labels" else max(AGAIN * plain.queries, LEAST)
        asked.ledger = Allowance(most, outer=oracle.ledger)
        before = oracle.ledger.asked
        try:
            found = identify(asked, rng=np.random.default_rng(seed))
        except BudgetExceeded:
            spent = oracle.ledger.asked - before
            told.append(Weights(kind, 0, hidden, math.nan, math.nan, spent, Outcome.budget_ended))
            continue
        except UnveilError as error:
            spent = oracle.ledger.asked - before
            told.append(Weights(kind, 0, hidden, math.nan, math.nan, spent, None, str(error)))
            continue
        neurons, off, last = _compared(found, plain, oracle.sample(1000, np.random.default_rng(seed)))
        why = found.why[-1] if found.why and found.outcome is not Outcome.complete else ""
        told.append(Weights(kind, neurons, hidden, off, last, oracle.ledger.asked - before, found.outcome, why))
    return told


def _compared(found: Identification, plain: Identification, x: np.ndarray) -> tuple[int, float, float]:
    """Hidden neurons that agree, and the largest errors of theirs and of the last layer."""
    from unveil.whitebox.comparison import compare

    if found.network is None:
        return 0, math.nan, math.nan
    truth = replace(plain.classifier(), softmax=False)
    mine = found.network if found.labels is not None else replace(found.classifier(), softmax=False)
    try:
        apart = compare(mine, truth, x, labels=found.labels)
    except BadInput:  # classes that were never seen
        return 0, math.nan, math.nan
    pairs = sum(len(each.pairs) for each in apart.layers[:-1])
    if not pairs:
        return 0, math.nan, math.nan
    *errors, last = (max(each.weight_error, each.bias_error) for each in apart.layers)
    return pairs, max(errors), last
