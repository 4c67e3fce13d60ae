"""OracleWrapper: what every oracle around an oracle takes over from the one inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.source import Answers, Questions


class OracleWrapper(Oracle):
    """An oracle around an oracle: it takes over everything that it is not told otherwise, and shares the ledger.

    A wrapper that changes questions or answers overrides `answer`, asks `self.oracle.answer` there (never
    `self.oracle(...)`, which would charge twice), and adds to `fingerprint` what it changes. One that changes answers
    also overrides `rounding`.

    Args:
        oracle: The oracle inside.
        changed: Attributes of `Oracle` that differ from those of the oracle inside, by name.

    Attributes:
        oracle: The oracle inside.
    """

    def __init__(self, oracle: Oracle, **changed: object) -> None:
        must_be_asked(oracle)
        for name in Oracle.__annotations__:
            setattr(self, name, changed.pop(name) if name in changed else getattr(oracle, name))
        if changed:
            raise TypeError(f"an oracle has no attribute {', '.join(changed)}")
        self.oracle = oracle

    def answer(self, x: Questions) -> Answers:
        return self.oracle.answer(x)

    def fingerprint(self) -> str:
        return self.oracle.fingerprint()

    @property
    def uneven(self) -> Callable[[Answers], Float[np.ndarray, "N m"]] | None:
        inside = self.oracle.uneven
        return None if inside is None else lambda y: np.maximum(inside(y), self.rounding(y))

    def rounding(self, y: Answers) -> Float[np.ndarray, "N m"]:
        return self.oracle.rounding(y)

    def unchanged(self) -> bool | None:
        return self.oracle.unchanged()
