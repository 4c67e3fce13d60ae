"""Rationed: an oracle of labels with an allowance, so that a reading without a budget ends."""

from __future__ import annotations

from typing import final

from unveil.blackbox.defences import Allowance
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Questions

LABELS = 1_000_000
"""Labels that a reading may ask without a budget: first layers of deeper networks take most of it."""

EACH_INPUT = 5_000
"""So many more for each input."""


@final
class Rationed(OracleWrapper):
    """The same oracle, of which at most so many questions are asked from here on.

    Args:
        oracle: Answers labels.
        most: Questions; all are charged to the oracle's own ledger, too.
    """

    def __init__(self, oracle: Oracle, most: int) -> None:
        super().__init__(oracle, ledger=Allowance(most, outer=oracle.ledger))

    def nearest(self, x: Questions) -> Questions:
        return self.oracle.nearest(x)


def allowance(oracle: Oracle, most: int | None = None) -> int | None:
    """Labels that a reading asks at most: what was set, else the budget, else more the more inputs there are.

    Args:
        oracle: Answers labels.
        most: What was set; None: nothing.

    Returns:
        The number; None where the oracle's own budget is the limit.

    Queries: `0`
    """
    if most is not None or oracle.ledger.budget is not None:
        return most
    return LABELS + EACH_INPUT * oracle.n
