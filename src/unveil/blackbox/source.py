"""Source: one way of asking a model, and the types of questions and answers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Num
from numpy.typing import DTypeLike

Answers = Num[np.ndarray, "N m"]
Questions = Float[np.ndarray, "N n"]


class Source(Protocol):
    """One way of asking a model: no checks, no counting, no memory.

    One that hands float32 on as it comes may say `takes_singles = True`: questions then come as float32, too, in an
    array that is asked with again and that it must leave as it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.floating]

    def answer(self, x: Questions) -> np.ndarray:
        """Answers to N questions, given as (N, n) float64 whose values are exact in `dtype`; one row per question."""
        ...

    def attempts(self) -> int:
        """Questions sent since the last call, retries included."""
        ...

    def fingerprint(self) -> str:
        """A text that differs between models: path and content hash, address and metadata..."""
        ...


def float_dtype(dtype: DTypeLike) -> np.dtype[np.floating]:
    """float64 if `dtype` is float64, else float32 (also for narrower inputs)."""
    return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)
