"""Ask a Python function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unveil.blackbox.answers import shown
from unveil.blackbox.source import Questions
from unveil.outcome import SourceError

# Copying so few rows costs nothing; copying every batch would cost as much as a small network.
FEW_ROWS = 64


class CallableSource:
    """A function `f((N, *shape)) -> (N, m)` or `(N,)`.

    A function that writes into its input is given copies: small batches, and so the first look, show whether it does.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> None:
        self.function = function
        self.shape = shape
        self.name = shown(str(getattr(function, "__name__", type(function).__name__)))
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self._sent = 0
        self._writes = False

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        question = x.reshape(len(x), *self.shape)
        few = len(x) <= FEW_ROWS
        some = slice(None) if few else slice(None, None, len(x) // 8)
        before = question[some].copy()
        given = question.copy() if few or self._writes else question
        # The function may return the same buffer every time.
        y = np.array(self.function(given))
        if few:
            self._writes |= not np.array_equal(given, before)
        elif not np.array_equal(question[some], before):
            raise SourceError(
                f"{self.name} wrote into its input, which it did not do when it was first asked; "
                "pass lambda x: f(x.copy())"
            )
        return y[:, None] if y.ndim == 1 else y

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        return f"callable {self.name} {self.shape}"
