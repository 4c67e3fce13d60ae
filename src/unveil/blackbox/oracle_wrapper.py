"""OracleWrapper: what every oracle around an oracle takes over from the one inside."""

from __future__ import annotations

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.source import Answers, Questions


class OracleWrapper(Oracle):
    """An oracle around an oracle: it takes over everything that it is not told otherwise, and shares the ledger.

    A wrapper that changes questions or answers overrides `answer`, asks `self.oracle.answer` there (never
    `self.oracle(...)`, which would charge twice), and adds to `fingerprint` what it changes.

    Args:
        oracle: The oracle inside.
        changed: Attributes of `Oracle` that differ from those of the oracle inside, by name.

    Attributes:
        oracle: The oracle inside.
    """

    def __init__(self, oracle: Oracle, **changed: object) -> None:
        for name in Oracle.__annotations__:
            setattr(self, name, changed.pop(name) if name in changed else getattr(oracle, name))
        if changed:
            raise TypeError(f"an oracle has no attribute {', '.join(changed)}")
        self.oracle = oracle

    def answer(self, x: Questions) -> Answers:
        return self.oracle.answer(x)

    def fingerprint(self) -> str:
        return self.oracle.fingerprint()
