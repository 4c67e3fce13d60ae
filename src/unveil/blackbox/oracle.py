"""Oracle and Ledger: every query is checked, charged and answered here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from jaxtyping import Float, Int, Num
from numpy.typing import DTypeLike

from unveil.blackbox.answers import NAMES, first_line, labels, raw_answers, values
from unveil.outcome import BadInput, BudgetExceeded, SourceError

Answers = Num[np.ndarray, "N m"]
Questions = Float[np.ndarray, "N n"]

# A source never gets more than this many numbers (64 MB) or rows at once, so that a big batch costs time, not memory.
# The borders depend on the size alone: the same batch is always cut at the same places and answered with the same bits.
CHUNK_NUMBERS = 2**23
CHUNK_ROWS = 2**12


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


@final
class SourceOracle(Oracle):
    """An oracle that asks a source. Made by `as_oracle`, which also looks at the first answers.

    Args:
        source: What is asked.
        m: Outputs per question.
        within: The legal box.
        grid: The legal step.
        ledger: Where queries are counted; a fresh one without a limit by default.
        answers: "values" or "labels".
        resolution: Relative rounding of the answers; by default that of the source's input precision.
        dtype: Precision of the questions; by default the source's.
        classes: What people call each label.
        scale: Size of the largest answer in the first look.
        seen: A digest of the first answers, part of the fingerprint: it tells two models behind one address apart.
    """

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
        dtype: DTypeLike | None = None,
        classes: dict[int, str] | None = None,
        scale: float = 1.0,
        seen: str = "",
    ) -> None:
        self.source = source
        self.name = source.name
        self.shape = source.shape
        self.dtype = float_dtype(source.dtype if dtype is None else dtype)
        self.m = m
        self.within = within
        self.grid = grid
        self.answers = answers
        self.ledger = Ledger() if ledger is None else ledger
        self.resolution = float(np.finfo(self.dtype).eps) if resolution is None else resolution
        self.classes = classes
        self.scale = scale
        self.seen = seen

    def answer(self, x: Questions) -> Answers:
        rows = max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // max(self.n, self.m)))
        if len(x) <= rows:
            return self._answer(x)
        return np.concatenate([self._answer(x[i : i + rows]) for i in range(0, len(x), rows)])

    def _answer(self, x: Questions) -> Answers:
        y = raw_answers(self.source, x, self.ledger)
        if y.shape != (len(x), self.m):
            raise SourceError(
                f"{self.name} answered {len(x)} questions with shape {y.shape}; expected ({len(x)}, {self.m}): "
                "one row per question, the same number of outputs every time"
            )
        if self.answers != "labels":
            return values(y, x, self.name)
        numbers = labels(y, self.name)
        if y.dtype.kind in NAMES and self.classes is not None:
            self.classes.update(zip(numbers[:, 0].tolist(), map(str, y[:, 0]), strict=True))
        return numbers

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.seen}".strip()


def legal(
    x: np.ndarray, within: tuple[float, float] | None, grid: float | None, dtype: np.dtype[np.floating]
) -> np.ndarray:
    """The points nearest to x that lie on the grid, in the box, and are exact in `dtype`."""
    if grid is not None:
        start, last = (0.0, np.inf) if within is None else (within[0], np.floor((within[1] - within[0]) / grid + 1e-9))
        x = start + np.minimum(np.round((x - start) / grid), last) * grid
    if dtype == np.float32:
        y = x.astype(np.float32)
        return (y if within is None else np.clip(y, *_single_box(*within), out=y)).astype(np.float64)
    return x.copy() if within is None else np.clip(x, *within)


def _single_box(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The outermost float32 numbers inside a box, whose own borders may be none."""
    a, b = np.float32(low), np.float32(high)
    return (
        a if float(a) >= low else np.nextafter(a, np.float32(np.inf)),
        b if float(b) <= high else np.nextafter(b, np.float32(-np.inf)),
    )


def wrap(oracle: Oracle, **changed: object) -> dict[str, object]:
    """Attributes that an oracle around `oracle` takes over from it."""
    asked = ("name", "shape", "within", "grid", "dtype", "ledger")
    answered = ("m", "answers", "resolution", "scale", "classes", "reference", "widest")
    return {name: getattr(oracle, name) for name in asked + answered} | changed


def float_dtype(dtype: DTypeLike) -> np.dtype[np.floating]:
    """float64 if `dtype` is float64, else float32 (also for narrower inputs)."""
    return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)
