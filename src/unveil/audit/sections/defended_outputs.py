"""What coarser answers, or the few largest of them, still give away of the output span: the hidden width among it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unveil.audit.text import count
from unveil.audit.verdict import cause
from unveil.outcome import BudgetExceeded, Outcome, UnveilError

if TYPE_CHECKING:
    from unveil.blackbox.oracle import Oracle
    from unveil.blackbox.output_space import OutputSpan

LARGEST = 5
"""Answers of the kind that tells only the largest hold so many numbers, as endpoints of language models do."""

LISTED = 200
"""Inputs asked for those, where they are more than the width."""

MORE = 64
"""Coarser answers may be asked for twice as many inputs as the plain ones, and so many besides."""


@dataclass(frozen=True)
class Outputs:
    """What one kind of answers gives away of the output span.

    Attributes:
        name: The kind of answers, for a person.
        rank: The rank found, the hidden width if it agrees with that of the plain answers; 0 if none was.
        of: The rank that the plain answers gave.
        off: Sine of the largest angle between this span and that of the plain answers; None if their ranks differ.
        queries: Queries it took.
        outcome: How it ended; None if it could not be run, or need not be.
        reason: Why nothing was found.
        settled: Whether nothing can be found, whatever the attack.
    """

    name: str
    rank: int
    of: int
    off: float | None
    queries: int
    outcome: Outcome | None
    reason: str = ""
    settled: bool = False

    @property
    def told(self) -> bool:
        """Whether the width shows."""
        return self.outcome is Outcome.complete and self.rank == self.of

    @property
    def words(self) -> str:
        """How it ended, for a cell of the table."""
        if self.told:
            return "found and checked"
        why = self.reason.rstrip(".") or cause(self.outcome or Outcome.check_failed)
        return why if self.settled else f"this attack did not find it: {why[0].lower()}{why[1:]}"


def defended_outputs(
    oracle: Oracle, plain: OutputSpan, name: str, *, rng: np.random.Generator, x: np.ndarray | None = None
) -> list[Outputs]:
    """The output span through rounded answers, through the few largest without a way to bias them, and labels only.

    Args:
        oracle: Answers values or probabilities.
        plain: The span that its answers gave, complete: what the rest is held against.
        name: What these answers are called.
        rng: Every kind of answers is asked the same inputs.
        x: Typical inputs, if there are any.

    Queries: at most twice those answers that `plain` was found from, and `MORE`, for each kind of rounding; `LISTED` at
        most for the largest ones
    """
    from unveil.blackbox.defences import coarser_outputs

    seed, rank = int(rng.integers(2**63)), plain.rank
    told = [Outputs(name, rank, rank, 0.0, plain.queries, plain.outcome)]
    most = 2 * (rank + 1 + plain.spare) + MORE
    for kind, asked in coarser_outputs(oracle):
        told.append(_asked(kind, asked, plain, most, np.random.default_rng(seed), x))
    told.append(_largest(oracle, plain, np.random.default_rng(seed), x))
    no = "labels are no numbers: there is no span to find"
    return [*told, Outputs("labels only", 0, rank, None, 0, None, no, settled=True)]


def _asked(
    kind: str, oracle: Oracle, plain: OutputSpan, most: int, rng: np.random.Generator, x: np.ndarray | None
) -> Outputs:
    from unveil.blackbox.output_span import output_span

    before = oracle.ledger.asked
    try:
        span = output_span(oracle, x, rng=rng, most=most)
    except BudgetExceeded:
        return Outputs(kind, 0, plain.rank, None, oracle.ledger.asked - before, Outcome.budget_ended)
    except UnveilError as error:
        return Outputs(kind, 0, plain.rank, None, oracle.ledger.asked - before, None, str(error))
    off = span.distance(plain) if span.rank == plain.rank else None
    if span.outcome is Outcome.complete and span.rank > plain.rank:
        why = f"it found a rank of {span.rank} where finer answers have {plain.rank}"
        return Outputs(kind, span.rank, plain.rank, None, span.queries, Outcome.check_failed, why)
    settled = span.outcome is Outcome.complete
    why = span.why if not settled else f"only {count(span.rank, 'dimension')} show through this rounding"
    why = "" if off is not None and settled else why
    return Outputs(kind, span.rank if settled else 0, plain.rank, off, span.queries, span.outcome, why)


def _largest(oracle: Oracle, plain: OutputSpan, rng: np.random.Generator, x: np.ndarray | None) -> Outputs:
    """Answers that list the few largest numbers: those listed together by enough inputs may show the rank."""
    from unveil.blackbox.output_inputs import Inputs
    from unveil.blackbox.output_rank import Answers, rank_of

    kind = f"the {LARGEST} largest, no logit bias"
    numbers = min(LARGEST, plain.m) - (plain.reading.kind != "values")
    if numbers <= plain.rank:
        fit = f"nothing: {count(numbers, 'number')} an answer fit any span of {count(plain.rank, 'dimension')}"
        return Outputs(kind, 0, plain.rank, None, 0, None, fit, settled=True)
    before = oracle.ledger.asked
    try:
        y = oracle(Inputs(oracle, x, rng).take(LISTED))
    except UnveilError as error:
        return Outputs(kind, 0, plain.rank, None, oracle.ledger.asked - before, None, str(error))
    y = plain.reading(y)
    listed = np.zeros(y.shape, dtype=bool)
    np.put_along_axis(listed, np.argsort(-y, axis=1)[:, :LARGEST], values=True, axis=1)
    often = np.argsort(-listed.sum(axis=0), kind="stable")[: min(LARGEST, plain.m)]
    rows = y[listed[:, often].all(axis=1)][:, often]
    rows = rows if plain.reading.kind == "values" else rows - rows.mean(axis=1, keepdims=True)
    queries = oracle.ledger.asked - before
    if len(rows) >= len(often) + 10:
        answers = Answers(len(often))
        answers.add(rows)
        found = rank_of(answers.factor(), plain.rounding, numbers)
        if found.resolved(plain.rounding) and found.rank == plain.rank:
            return Outputs(kind, found.rank, plain.rank, None, queries, Outcome.complete)
    why = f"only {len(rows)} of {len(y)} inputs listed the same {len(often)}, or their rank did not show"
    return Outputs(kind, 0, plain.rank, None, queries, Outcome.not_resolved, why)
