"""Ask a Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.blackbox.source import Questions
from unveil.blackbox.sources.held_inputs import HeldInputs
from unveil.blackbox.sources.structured import part_of
from unveil.outcome import SourceError

# Copying so little costs nothing; copying every batch would cost as much as a small network.
FEW_ROWS, FEW_NUMBERS = 64, 2**16
FIRST = 16  # small batches are copied whatever their size
CHECKED = 8  # rows of a large batch that are looked at, fewer if they are long


class CallableSource:
    """A function `f((N, *shape)) -> (N, m)` or `(N,)`.

    A function that writes into its input is given copies: small batches, and so the first look, show whether it does.
    Of a dictionary, a dataclass or a tuple of arrays one part is looked at, and it is said which.

    Args:
        function: What is asked.
        shape: Shape of one input.
        output: Name of the part of what it returns that is to be looked at.
        inputs: Values of its other inputs; see `HeldInputs`.

    Attributes:
        notes: What was chosen where the function left a choice.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shape: tuple[int, ...],
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.shape = shape
        self.name = shown(str(getattr(function, "__name__", type(function).__name__)))
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self.notes: tuple[str, ...] = ()
        self._output = output
        self._held = HeldInputs(inputs, function, self.name) if inputs else None
        self._sent = 0
        self._writes = False
        self._batches = 0

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        question = x.reshape(len(x), *self.shape)
        few = len(x) <= FEW_ROWS and (x.size <= FEW_NUMBERS or self._batches < FIRST)
        self._batches += 1
        checked = min(CHECKED, max(1, len(x) * FEW_NUMBERS // max(x.size, 1)))
        some = slice(None) if few else slice(None, None, -(-len(x) // checked))
        before = question[some].copy()
        given = question.copy() if few or self._writes else question
        said = self.function(given) if self._held is None else self._held.call(self.function, given, len(x))
        if isinstance(said, np.ndarray) and self._output is None:
            part = said
        else:
            part, note = part_of(said, len(x), self.name, self._output)
            if len(x) > 1:  # a single question fits whatever has one row
                self.notes = (note,) if note else ()
        # The function may return the same buffer every time.
        y = np.array(part)
        if few:
            self._writes |= not (given == before).all()
        elif not (question[some] == before).all():
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
