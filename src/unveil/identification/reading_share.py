"""reading_share: how many of the questions that may be asked are for a reading, and how many it leaves for a fit."""

from __future__ import annotations

from unveil.blackbox.oracle import Oracle
from unveil.identification.surrogate.fitting import AT_FIRST_LIMIT

# Share of what the budget leaves that a reading may not use, so that what it has read can be fitted if it does not end;
# none where that is fewer questions than a fit is judged by; the larger one as far as a long training asks them.
HELD_BACK, HELD_BACK_TO_TRAIN, WORTH_A_FIT = 0.1, 0.3, 4000
# Questions for the reading of a piecewise-linear network where no budget is set, and so many more for each input.
READING, EACH_INPUT = 1_000_000, 5_000


def held_back(oracle: Oracle) -> int:
    """Questions that a reading leaves for a fit; 0 where that would be too few for one."""
    left = oracle.ledger.left
    held = max(HELD_BACK * left, min(HELD_BACK_TO_TRAIN * left, AT_FIRST_LIMIT))
    return int(min(held, 2**62)) if HELD_BACK * left >= WORTH_A_FIT else 0


def reading_allowance(oracle: Oracle) -> int:
    """Questions that the reading of a piecewise-linear network takes at most where no budget is set."""
    return READING + EACH_INPUT * oracle.n
