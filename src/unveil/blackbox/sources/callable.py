"""Ask a Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.blackbox.source import Questions
from unveil.blackbox.sources.held_inputs import HeldInputs
from unveil.blackbox.sources.lent import Lent
from unveil.blackbox.sources.structured import part_of, plain


class CallableSource:
    """A function `f((N, *shape)) -> (N, m)` or `(N,)`.

    A function that writes into its input is given copies; see `Lent`.
    Of a dictionary, a dataclass or a tuple of arrays one part is looked at, and it is said which.

    Args:
        function: What is asked.
        shape: Shape of one input.
        output: Name of the part of what it returns that is to be looked at.
        inputs: Values of its other inputs; see `HeldInputs`.

    Attributes:
        notes: What was chosen where the function left a choice.
        named_only: Whether the fingerprint holds no more than a name: of a plain function nothing else can be known.
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
        # A network, or a method of one, tells what it holds.
        self._held_in = getattr(getattr(function, "__self__", function), "fingerprint", None)
        self.named_only = self._held_in is None
        self._output = output
        self._held = HeldInputs(inputs, function, self.name) if inputs else None
        self._sent = 0
        self._lent = Lent(self.name)
        self._listed = False  # whether it was seen to return a list of outputs

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        question = x.reshape(len(x), *self.shape)
        given = self._lent.lend(question)
        said = self.function(given) if self._held is None else self._held.call(self.function, given, len(x))
        if isinstance(said, np.ndarray) and self._output is None:
            part = said
        else:
            part, note = part_of(said, len(x), self.name, self._output, self._listed)
            self._listed = self._listed or (isinstance(said, list) and part is not said and len(said) != len(x))
            if len(x) > 1:  # a single question fits whatever has one row
                self.notes = (note,) if note else ()
        # The function may return the same buffer every time.
        y = np.array(plain(part))
        self._lent.returned(question, given)
        return y[:, None] if y.ndim == 1 else y

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        return f"callable {self.name} {self.shape} {'' if self._held_in is None else self._held_in()}".strip()
