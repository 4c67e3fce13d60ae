"""What a defence buys: the same model asked through coarser and coarser answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from unveil.blackbox.oracle import Answers, Oracle, wrap
from unveil.blackbox.row_span import row_span
from unveil.blackbox.wrappers import LabelsOnly, Rounded
from unveil.outcome import BadInput, BudgetExceeded, Outcome, UnveilError

SINGLE = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Defence:
    """What one kind of answers gives away.

    Attributes:
        name: The kind of answers, for a person.
        rank: Directions found.
        accuracy: Predicted sine of the largest angle between them and the true ones; 1 if nothing can be said.
        queries: Queries it took.
        outcome: How the search ended; None if it could not be run.
        reason: Why it could not.
    """

    name: str
    rank: int
    accuracy: float
    queries: int
    outcome: Outcome | None
    reason: str = ""


@final
class SinglePrecision(Oracle):
    """Questions and answers in float32."""

    def __init__(self, oracle: Oracle) -> None:
        vars(self).update(wrap(oracle, resolution=max(oracle.resolution, SINGLE), dtype=np.dtype(np.float32)))
        self.oracle = oracle

    def answer(self, x: np.ndarray) -> Answers:
        return self.oracle.answer(x).astype(np.float32).astype(np.float64)

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} float32"


def defences(
    oracle: Oracle, *, rng: np.random.Generator, accuracy: float = 1e-4, x: np.ndarray | None = None
) -> list[Defence]:
    """The row span from values as they are, in float32, rounded to 4 and to 2 decimal places, and from labels only.

    Args:
        oracle: Answers values.
        rng: Every defence starts from the same draws.
        accuracy: Wanted of each; labels are asked for a hundredth of it, since every bit has its price there.
        x: Points to ask at.

    Raises:
        BadInput: The oracle answers labels already.

    Queries: those of five `row_span`
    """
    if oracle.answers == "labels":
        raise BadInput(f"{oracle.name} answers labels: there is no defence left to take off. Give it with its values.")
    seed = int(rng.integers(2**63))
    plain = "float64" if oracle.resolution < SINGLE / 2 else "float32" if oracle.resolution <= 2 * SINGLE else "given"
    kinds: list[tuple[str, Oracle]] = [(f"values, {plain}", oracle)]
    if plain == "float64":
        kinds.append(("values, float32", SinglePrecision(oracle)))
    kinds += [(f"values, {digits} decimals", Rounded(oracle, digits)) for digits in (4, 2)]
    kinds.append(("labels only", LabelsOnly(oracle)))
    found = []
    for name, asked in kinds:
        wanted = min(100 * accuracy, 0.1) if asked.answers == "labels" else accuracy
        before = oracle.ledger.asked
        try:
            span = row_span(asked, rng=np.random.default_rng(seed), accuracy=wanted, x=x)
        except BudgetExceeded:
            found.append(Defence(name, 0, 1.0, oracle.ledger.asked - before, Outcome.budget_ended))
        except UnveilError as error:
            found.append(Defence(name, 0, 1.0, oracle.ledger.asked - before, None, str(error)))
        else:
            found.append(Defence(name, span.rank, min(span.accuracy, 1.0), span.queries, span.outcome))
    return found
