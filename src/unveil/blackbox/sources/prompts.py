"""Ask a model whose inputs are no vectors: texts, token lists, pictures of any size, one of a given list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.blackbox.source import Questions
from unveil.outcome import BadInput


class PromptSource:
    """A model asked about prompts of a list; the question is the place of a prompt in it.

    Attributes:
        within: The legal questions: 0 to the number of prompts less 1...
        grid: ...in steps of 1.

    Args:
        answer: Takes a list of prompts, gives one row of numbers for each.
        prompts: At least two: texts, token lists, or whatever `answer` takes.

    Raises:
        BadInput: Fewer than two prompts.

    Examples:
        >>> def answer(prompts):
        ...     return np.array([[len(each), each.count("a")] for each in prompts])
        >>> source = uv.PromptSource(answer, ["banana", "fig"])
        >>> oracle = uv.as_oracle(source)
        >>> oracle(np.array([[0], [1]]))
        array([[6., 3.],
               [3., 0.]])
    """

    def __init__(self, answer: Callable[[list[Any]], np.ndarray], prompts: Sequence[Any]) -> None:
        if len(prompts) < 2:
            raise BadInput(f"a PromptSource needs at least two prompts; got {len(prompts)}")
        self.prompts = list(prompts)
        self.name = shown(str(getattr(answer, "__name__", type(answer).__name__)))
        self.shape: tuple[int, ...] = (1,)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self.within = (0.0, float(len(self.prompts) - 1))
        self.grid = 1.0
        self._answer = answer
        self._sent = 0

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        return np.array(self._answer([self.prompts[round(place)] for place in x[:, 0]]))

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for prompt in self.prompts:
            digest.update(repr(prompt).encode())
        return f"prompts {self.name} {len(self.prompts)} {digest.hexdigest()}"
