"""Questions lent to a model without a copy, once it has shown that it does not write into them."""

from __future__ import annotations

import numpy as np

from unveil.outcome import SourceError

# Copying so little costs nothing; copying every batch would cost as much as a small network.
FEW_ROWS, FEW_NUMBERS = 64, 2**16
COPIED_BATCHES = 16  # small batches are copied whatever their size
BATCH_ROWS_CHECKED = 8  # rows of a large batch that are looked at, fewer if they are long


class Lent:
    """A model that writes into its input is given copies: small batches, and so the first look, show whether it does.

    Args:
        name: What people call the model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._writes, self._batches = False, 0

    def lend(self, question: np.ndarray) -> np.ndarray:
        """What to give to the model, to be handed to `returned` afterwards: the same questions, or a copy."""
        few = len(question) <= FEW_ROWS and (question.size <= FEW_NUMBERS or self._batches < COPIED_BATCHES)
        self._batches += 1
        checked = min(BATCH_ROWS_CHECKED, max(1, len(question) * FEW_NUMBERS // max(question.size, 1)))
        some = slice(None) if few else slice(None, None, -(-len(question) // checked))
        self._before, self._some, self._few = question[some].copy(), some, few
        return question.copy() if few or self._writes else question

    def returned(self, question: np.ndarray, given: np.ndarray) -> None:
        """Look at what the model was given.

        Raises:
            SourceError: It wrote into the questions themselves.
        """
        if self._few:
            self._writes |= not (given == self._before).all()
        elif not (question[self._some] == self._before).all():
            raise SourceError(
                f"{self.name} wrote into its input, which it did not do when it was first asked; "
                "pass lambda x: f(x.copy())"
            )
