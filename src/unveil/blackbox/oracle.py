"""Oracle and Ledger: every query is checked, charged and answered here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from jaxtyping import Float
from numpy.typing import DTypeLike

from unveil.outcome import BadInput, BudgetExceeded, SourceError

Answers = Float[np.ndarray, "N m"]
Questions = Float[np.ndarray, "N n"]


@dataclass
class Ledger:
    """What was asked and what it cost.

    Attributes:
        budget: The largest number of queries that may be asked; None for no limit.
        asked: Queries the method asked. Deterministic: the same seed asks the same number, whatever is stored.
        sent: Queries that went out to the model: `asked` less stored answers, plus retries.
    """

    budget: int | None = None
    asked: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 0:
            raise BadInput(f"budget must be 0 or more queries; got {self.budget}")

    @property
    def left(self) -> float:
        """Queries that may still be asked (infinite without a budget)."""
        return np.inf if self.budget is None else self.budget - self.asked

    def charge(self, queries: int) -> None:
        """Charge a batch before it is asked.

        Raises:
            BudgetExceeded: The batch would cross the budget. Nothing is charged.
        """
        if queries > self.left:
            raise BudgetExceeded(
                f"a batch of {queries:,} queries would cross the budget of {self.budget:,} "
                f"({self.asked:,} asked so far); allow a larger budget="
            )
        self.asked += queries


class Source(Protocol):
    """One way of asking a model: no checks, no counting, no memory."""

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
        x = np.ascontiguousarray(x, dtype=np.float64)
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
        x = np.asarray(x, dtype=np.float64)
        low = self.within[0] if self.within else 0.0
        if self.grid is not None:
            x = low + np.round((x - low) / self.grid) * self.grid
        if self.within is not None:
            x = np.clip(x, *self.within)
        if self.dtype == np.float32:
            x = x.astype(np.float32).astype(np.float64)
        return x

    def sample(self, count: int, rng: np.random.Generator) -> Questions:
        """Legal points as a user of the model would draw them: uniform in the box, standard normal without one."""
        if self.within is None:
            return self.nearest(rng.standard_normal((count, self.n)))
        return self.nearest(rng.uniform(*self.within, size=(count, self.n)))

    def _check_legal(self, x: Questions) -> None:
        if not np.isfinite(x).all():
            raise BadInput("questions must be finite; got NaN or infinity")
        if self.within is not None:
            low, high = self.within
            if x.min() < low or x.max() > high:
                raise BadInput(
                    f"questions must lie within [{low:g}, {high:g}]; got values from {x.min():g} to {x.max():g}; "
                    "use oracle.nearest(x)"
                )
        if self.grid is not None and not np.allclose(x, self.nearest(x), rtol=0, atol=1e-6 * self.grid):
            raise BadInput(f"questions must lie on the grid of step {self.grid:g}; use oracle.nearest(x)")


@final
class SourceOracle(Oracle):
    """An oracle that asks a source. Made by `as_oracle`, which also looks at the first answers."""

    def __init__(
        self,
        source: Source,
        *,
        m: int,
        within: tuple[float, float] | None = None,
        grid: float | None = None,
        ledger: Ledger | None = None,
        answers: str = "values",
        resolution: float | None = None,
    ) -> None:
        self.source = source
        self.name = source.name
        self.shape = source.shape
        self.dtype = np.dtype(source.dtype)
        self.m = m
        self.within = within
        self.grid = grid
        self.answers = answers
        self.ledger = Ledger() if ledger is None else ledger
        self.resolution = float(np.finfo(self.dtype).eps) if resolution is None else resolution

    def answer(self, x: Questions) -> Answers:
        try:
            y = np.asarray(self.source.answer(x))
        finally:
            self.ledger.sent += self.source.attempts()
        if y.shape != (len(x), self.m):
            raise SourceError(
                f"{self.name} answered {len(x)} questions with shape {y.shape}; expected ({len(x)}, {self.m}): "
                "one row per question, the same number of outputs every time"
            )
        if y.dtype.kind != "f":
            return y
        if not np.isfinite(y).all():
            rows = np.flatnonzero(~np.isfinite(y).all(axis=1))
            raise SourceError(
                f"{self.name} answered {len(rows)} of {len(x)} questions with NaN or infinity; "
                f"inputs there reach {np.abs(x[rows]).max():.3g} in size: pass within=(low, high) to stay where it is defined"
            )
        return y.astype(np.float64, copy=False)

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def wrap(oracle: Oracle, **changed: object) -> dict[str, object]:
    """Attributes that an oracle around `oracle` takes over from it."""
    names = ("name", "shape", "m", "within", "grid", "answers", "dtype", "resolution", "ledger")
    return {name: getattr(oracle, name) for name in names} | changed


def float_dtype(dtype: DTypeLike) -> np.dtype[np.floating]:
    """float64 if `dtype` is float64, else float32 (narrower inputs are exact in neither direction, so ask in float32)."""
    return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)
