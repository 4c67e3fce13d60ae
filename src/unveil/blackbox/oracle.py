"""Oracle: every query is checked and charged here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.answers import first_line
from unveil.blackbox.domain import legal
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source import Answers, Questions
from unveil.outcome import BadInput


class Oracle(ABC):
    """Something that may only be asked.

    Calling it with N questions, an (N, n) array, gives an (N, m) array. Each row is one query.

    Attributes:
        name: What people call the model.
        shape: Shape of one input in the model's own terms; `n` is its product.
        n: Number of inputs.
        m: Number of outputs.
        within: The legal box `(low, high)`, or None.
        grid: The legal step, counted from `low` (from 0 without a box), or None.
        answers: "values" or "labels". Labels are integers, m = 1.
        dtype: The precision in which the model takes its input.
        resolution: Relative rounding of the answers: 2.2e-16 for float64, 1.2e-7 for float32, more if rounded.
        ledger: What was asked.
        classes: What people call each label, as far as names have been seen; None if labels are numbers already.
        scale: Size of the largest answer in the first look, to which decimal places are relative; 1 if not known.
        reference: The class left out of log-ratios (its own would be 0), or None if the answers are no log-ratios.
        widest: Where log-ratios of one question differ by more, one has run out of digits; infinite for others.
    """

    name: str
    shape: tuple[int, ...]
    m: int
    within: tuple[float, float] | None
    grid: float | None
    answers: str
    dtype: np.dtype[np.floating]
    resolution: float
    ledger: Ledger
    classes: dict[int, str] | None = None
    scale: float = 1.0
    reference: int | None = None
    widest: float = np.inf

    @property
    def n(self) -> int:
        return int(np.prod(self.shape))

    @final
    def __call__(self, x: Questions) -> Answers:
        """Ask N questions.

        Args:
            x: Legal questions (see `nearest`), one per row.

        Returns:
            One row of m finite numbers per question; for labels one column of integers.

        Raises:
            BadInput: Wrong shape, not finite, outside the box or off the grid; nothing was asked.
            BudgetExceeded: The batch would cross the budget; nothing was asked.
            SourceError: The model failed, or answered with NaN, infinity or another shape.

        Queries: `N`
        """
        try:
            x = np.ascontiguousarray(x, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise BadInput(f"questions must be an (N, {self.n}) array of numbers: {first_line(error)}") from None
        if x.ndim != 2 or x.shape[1] != self.n:
            raise BadInput(f"questions must have shape (N, {self.n}); got {x.shape}")
        if len(x) == 0:
            return np.empty((0, self.m))
        self._check_legal(x)
        self.ledger.charge(len(x))
        return self.answer(x)

    @abstractmethod
    def answer(self, x: Questions) -> Answers:
        """Answer legal questions without charging them: for oracles around oracles, never for methods."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that differs between oracles that answer differently."""

    def nearest(self, x: Questions) -> Questions:
        """The legal questions nearest to x, exactly as the model will see them (box, grid, input precision).

        A difference quotient must be divided by the step between *these*.
        """
        return legal(np.asarray(x, dtype=np.float64), self.within, self.grid, self.dtype)

    def sample(self, count: int, rng: np.random.Generator) -> Questions:
        """Legal points as a user of the model would draw them: uniform in the box, standard normal without one."""
        if self.within is None:
            return self.nearest(rng.standard_normal((count, self.n)))
        return self.nearest(rng.uniform(*self.within, size=(count, self.n)))

    @final
    def predictions(self, y: Answers) -> Int[np.ndarray, " N"]:
        """The class each answer stands for: the label, the largest value, or whether a single value is above 0."""
        if self.answers == "labels":
            return np.asarray(y[:, 0], dtype=np.int64)
        scores = self._scores(y)
        if scores.shape[1] == 1:
            return (scores[:, 0] > 0).astype(np.int64)
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)

    @final
    def probabilities(self, y: Answers) -> Float[np.ndarray, "N c"]:
        """Softmax of values (as they were, of log-ratios); for one output the logistic function of it.

        Raises:
            BadInput: The oracle answers labels.
        """
        if self.answers == "labels":
            raise BadInput(f"{self.name} answers labels: there is no probability in them")
        scores = self._scores(y)
        if scores.shape[1] == 1:
            return np.asarray(np.exp(-np.logaddexp(0, -scores)))
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def _scores(self, y: Answers) -> np.ndarray:
        return y if self.reference is None else np.insert(y, self.reference, 0.0, axis=1)

    def _check_legal(self, x: Questions) -> None:
        low, high = self.within or (-np.inf, np.inf)
        # One look at every number, without a copy: a sum of squares is finite only if all of them are.
        flat = x.ravel()
        legal = x.min() >= low and x.max() <= high if self.within else bool(np.isfinite(flat @ flat))
        if not legal:
            if not np.isfinite(x).all():
                raise BadInput("questions must be finite; got NaN or infinity")
            if x.min() < low or x.max() > high:
                raise BadInput(
                    f"questions must lie within [{low:g}, {high:g}]; got values from {x.min():g} to {x.max():g}; "
                    "use oracle.nearest(x)"
                )
        if self.grid is not None and not np.allclose(x, self.nearest(x), rtol=0, atol=1e-6 * self.grid):
            raise BadInput(f"questions must lie on the grid of step {self.grid:g}; use oracle.nearest(x)")
