"""Ledger: what was asked and what it cost, and Booked: what each stage of a method asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unveil.outcome import BadInput, BudgetExceeded, Stopped


@dataclass
class Ledger:
    """What was asked and what it cost.

    Attributes:
        budget: The largest number of queries that may be asked; None for no limit.
        asked: Queries the method asked. Deterministic: the same seed asks the same number, whatever is stored.
        sent: Queries that went out to the model: `asked` less stored answers, plus retries.
        missing: Queries that were asked and answered with NaN or infinity.
        stopped: Why whoever waits let no more be asked of a stage, or of all; empty where nobody did.
        closed: Whether nothing more may be asked at all, whatever the budget.

    Examples:
        >>> ledger = uv.Ledger(budget=10)
        >>> ledger.charge(4)
        >>> ledger.asked, ledger.left
        (4, 6)
    """

    budget: int | None = None
    asked: int = 0
    sent: int = 0
    missing: int = 0
    stopped: str = ""
    closed: bool = False

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 0:
            raise BadInput(f"budget must be 0 or more queries; got {self.budget}")

    @property
    def left(self) -> float:
        """Queries that may still be asked (infinite without a budget)."""
        if self.closed:
            return 0
        return np.inf if self.budget is None else self.budget - self.asked

    def stop(self, why: str, *, close: bool = False) -> None:
        """Let no more be asked in this stage, or, with `close`, at all. A stage that ends gives back to the next one
        what it was not allowed."""
        self.stopped, self.budget, self.closed = why, self.asked, self.closed or close

    def charge(self, queries: int) -> None:
        """Charge a batch before it is asked.

        Raises:
            BudgetExceeded: The batch would cross the budget. Nothing is charged.
        """
        if self.closed and queries:
            raise Stopped(f"nothing more is asked: {self.stopped}")
        if queries > self.left:
            raise BudgetExceeded(
                f"a batch of {queries:,} queries would cross the budget of {self.budget:,} "
                f"({self.asked:,} asked so far); allow a larger budget="
            )
        self.asked += queries


class Booked:
    """A stage whose queries are added to `stages[name]`, also when it is cut short."""

    def __init__(self, ledger: Ledger, stages: dict[str, int], name: str) -> None:
        self.ledger, self.stages, self.name = ledger, stages, name

    def __enter__(self) -> None:
        self.start = self.ledger.asked

    def __exit__(self, *_: object) -> None:
        self.stages[self.name] = self.stages.get(self.name, 0) + self.ledger.asked - self.start


class Stages:
    """Queries per stage, read off a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.start = self._before = ledger.asked
        self.queries: dict[str, int] = {}

    def end(self, stage: str) -> None:
        """Book what was asked since the last stage ended."""
        now = self._ledger.asked
        self.queries[stage] = self.queries.get(stage, 0) + now - self._before
        self._before = now

    @property
    def total(self) -> int:
        """Queries since it began."""
        return self._ledger.asked - self.start
