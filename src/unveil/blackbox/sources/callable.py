"""Ask a Python function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unveil.blackbox.oracle import Questions


class CallableSource:
    """A function `f((N, *shape)) -> (N, m)` or `(N,)`."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> None:
        self.function = function
        self.shape = shape
        self.name = getattr(function, "__name__", type(function).__name__)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self._sent = 0

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        # A copy both ways: the function may write into its input or return the same buffer every time.
        y = np.array(self.function(x.reshape(len(x), *self.shape).copy()))
        return y[:, None] if y.ndim == 1 else y

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        return f"callable {self.name} {self.shape}"
