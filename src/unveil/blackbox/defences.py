"""What a defence buys: the same model asked through coarser and coarser answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.row_span import row_span
from unveil.blackbox.source import Answers
from unveil.blackbox.span import RowSpan
from unveil.blackbox.wrappers import LabelsOnly, Rounded
from unveil.outcome import BadInput, BudgetExceeded, Outcome, UnveilError

SINGLE_EPSILON = float(np.finfo(np.float32).eps)

TIMES = 20
"""Coarser values may cost so many times the queries of the plain ones, or `LEAST` if that is more."""

BITS = 10
"""Labels may cost so many times the bits that the span holds at the accuracy wanted, and `START` besides."""

LEAST = 20_000
START = 500_000


@dataclass(frozen=True)
class Defence:
    """What one kind of answers gives away.

    Attributes:
        name: The kind of answers, for a person.
        rank: Directions found.
        accuracy: Predicted sine of the largest angle between them and the true ones; 1 if nothing can be said.
        queries: Queries it took.
        outcome: How the search ended, `budget_ended` also if its own allowance was spent; None if it could not be run.
        reason: Why it could not, or why what it found does not count.
        leaks: Directions that these answers give away at least: found through them, or through coarser answers, which
            anyone can compute from them.
        leaks_accuracy: As `accuracy`, of those.
        shown_by: The kind of answers through which they were found; empty if there are none.
    """

    name: str
    rank: int
    accuracy: float
    queries: int
    outcome: Outcome | None
    reason: str = ""
    leaks: int = 0
    leaks_accuracy: float = 1.0
    shown_by: str = ""

    @property
    def measured(self) -> bool:
        """Whether the attack came to its end. If not, what it did not find may leak all the same."""
        found = self.rank > 0 or self.outcome is not Outcome.approximate  # approximately nothing is no finding
        return self.outcome in _MEASURED and found and self.rank == self.leaks

    @property
    def settled(self) -> bool:
        """Whether nothing beyond what was found is given away, as far as the attack's own check can tell."""
        return self.measured and self.outcome is not Outcome.approximate


_MEASURED = (Outcome.complete, Outcome.full_rank, Outcome.approximate, Outcome.nothing_to_find)
# What was found before the budget ended does matter, though it may not be all that does.
_COUNTED = (Outcome.complete, Outcome.full_rank, Outcome.approximate, Outcome.budget_ended)


@dataclass
class Allowance(Ledger):
    """A budget of its own within that of another ledger, to which everything is charged.

    Attributes:
        outer: The other ledger.
    """

    outer: Ledger = field(default_factory=Ledger)

    @property
    def left(self) -> float:
        return min(super().left, self.outer.left)

    def charge(self, queries: int) -> None:
        # `left` knows both limits, so that what is refused is charged to neither.
        super().charge(queries)
        self.outer.charge(queries)


@final
class SinglePrecision(OracleWrapper):
    """Questions and answers in float32."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(
            oracle,
            resolution=max(oracle.resolution, SINGLE_EPSILON),
            dtype=np.dtype(np.float32),
            input_bits=min(oracle.input_bits, 24),
            mantissa=min(oracle.mantissa, 24),
        )

    def answer(self, x: np.ndarray) -> Answers:
        return self.oracle.answer(x).astype(np.float32).astype(np.float64)

    def rounding(self, y: Answers) -> np.ndarray:
        unit = np.spacing(np.abs(y).astype(np.float32))
        return np.asarray(np.maximum(self.oracle.rounding(y), unit / np.sqrt(12)))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} float32"


@final
class RoundedProbabilities(OracleWrapper):
    """Log-ratios of probabilities that were rounded to `digits` decimal places before."""

    def __init__(self, oracle: Oracle, digits: int) -> None:
        self.digits = digits
        super().__init__(oracle, resolution=max(oracle.resolution, 10.0**-digits))

    def answer(self, x: np.ndarray) -> Answers:
        assert self.reference is not None
        rounded = np.round(self.oracle.softmax(self.oracle.answer(x)), self.digits)
        logs = np.log(np.maximum(rounded, 0.5 * 10.0**-self.digits))  # those rounded to nothing are below half a step
        return np.asarray(np.delete(logs, self.reference, axis=1) - logs[:, [self.reference]])

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} probabilities rounded to {self.digits}"


def defences(
    oracle: Oracle,
    *,
    rng: np.random.Generator,
    accuracy: float = 1e-4,
    x: np.ndarray | None = None,
    known: RowSpan | None = None,
) -> list[Defence]:
    """The row span from values as they are, in float32, rounded to 4 and to 2 decimal places, and from labels only.

    Args:
        oracle: Answers values.
        rng: Every defence starts from the same draws.
        accuracy: Wanted of each; of labels 300 times less (at most 0.1), since every bit has its price there.
        x: Typical inputs. Values are asked there only inside a box, as random points show more elsewhere; labels start
            there where random points show a single one.
        known: What is known of the plain answers' span already. It counts where it has more directions, as those that
            matter at few inputs are seen by one search and not by another.

    Raises:
        BadInput: The oracle answers labels already.

    Queries: those of one `row_span`; at most `max(TIMES * that, LEAST)` for each coarser kind of values; for labels at
        most `START + BITS * k (n - k) log2(1 / accuracy)`, with k the rank that values gave and their own accuracy
    """
    if oracle.answers == "labels":
        raise BadInput(f"{oracle.name} answers labels: there is no defence left to take off. Give it with its values.")
    near = None if oracle.within is None else x
    seed = int(rng.integers(2**63))
    found = [_asked(as_given(oracle), oracle, seed, accuracy, near, oracle.ledger)]
    if known is not None and known.rank > found[0].rank and known.outcome in (Outcome.complete, Outcome.full_rank):
        found[0] = replace(found[0], rank=known.rank, accuracy=min(known.accuracy, 1.0), outcome=known.outcome)
    *kinds, (last, labels) = coarser(oracle)
    for name, asked in kinds:
        asked.ledger = Allowance(max(TIMES * found[0].queries, LEAST), outer=oracle.ledger)
        found.append(_asked(name, asked, seed, accuracy, near, oracle.ledger))
    wanted = min(300 * accuracy, 0.1)
    k = found[0].rank
    bits = max(k * (oracle.n - k), oracle.n) * math.log2(1 / wanted)
    labels.ledger = Allowance(START + math.ceil(BITS * bits), outer=oracle.ledger)
    found.append(_asked(last, labels, seed, wanted, x, oracle.ledger))
    return settled(found)


def as_given(oracle: Oracle) -> str:
    """The answers as they are, for a person."""
    plain = (
        "float64"
        if oracle.resolution < SINGLE_EPSILON / 2
        else "float32"
        if oracle.resolution <= 2 * SINGLE_EPSILON
        else "given"
    )
    return f"values, {plain}"


def coarser(oracle: Oracle) -> list[tuple[str, Oracle]]:
    """The same model through coarser and coarser answers, each with its name for a person: labels only are the last."""
    single: list[tuple[str, Oracle]] = [("values, float32", SinglePrecision(oracle))]
    kinds = single if oracle.resolution < SINGLE_EPSILON / 2 else []
    kinds += [(f"values, {digits} decimals", Rounded(oracle, digits)) for digits in (4, 2)]
    return [*kinds, ("labels only", LabelsOnly(oracle))]


def coarser_outputs(oracle: Oracle) -> list[tuple[str, Oracle]]:
    """As `coarser`, without labels; of probabilities these are rounded themselves, not their log-ratios."""
    if oracle.reference is None:
        return coarser(oracle)[:-1]
    return [(f"probabilities, {digits} decimals", RoundedProbabilities(oracle, digits)) for digits in (4, 2)]


def settled(found: Sequence[Defence]) -> list[Defence]:
    """What each kind of answers gives away, given what the others do.

    A coarser answer can be computed from a finer one, so that a finer one never gives less away: where an attack
    through finer answers failed or found less, what coarser ones gave away counts for them too. The other way round,
    directions beyond those of a complete finding through finer answers are no directions.

    Args:
        found: What each attack found, the finest answers first.
    """
    finer, sound = math.inf, []
    for each in found:
        if each.outcome in _COUNTED and each.rank > finer:
            reason = f"it found {each.rank} directions, where finer answers have {finer:.0f}"
            sound.append(replace(each, outcome=Outcome.check_failed, reason=reason))
            continue
        sound.append(each)
        if each.outcome in (Outcome.complete, Outcome.full_rank):
            finer = min(finer, each.rank)
    leaks, accuracy, by = 0, 1.0, ""
    told = []
    for each in reversed(sound):
        if each.outcome in _COUNTED and (each.rank, -each.accuracy) >= (max(leaks, 1), -accuracy):
            leaks, accuracy, by = each.rank, each.accuracy, each.name
        told.append(replace(each, leaks=leaks, leaks_accuracy=accuracy, shown_by=by))
    return told[::-1]


def _asked(name: str, oracle: Oracle, seed: int, accuracy: float, x: np.ndarray | None, ledger: Ledger) -> Defence:
    """One attack, counted in the model's own ledger: known questions are asked again past what is around it."""
    before = ledger.asked
    try:
        span = row_span(oracle, rng=np.random.default_rng(seed), accuracy=accuracy, x=x)
    except BudgetExceeded:
        return Defence(name, 0, 1.0, ledger.asked - before, Outcome.budget_ended)
    except UnveilError as error:
        return Defence(name, 0, 1.0, ledger.asked - before, None, str(error))
    return Defence(name, span.rank, min(span.accuracy, 1.0), ledger.asked - before, span.outcome)
