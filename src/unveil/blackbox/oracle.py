"""Oracle: every query is checked and charged here."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np
from jaxtyping import Float, Int

from unveil.arguments import Randomness, as_numbers, generator, must_be
from unveil.blackbox.answers import complete, missing, require_finite
from unveil.blackbox.domain import DOUBLE, SINGLE, Bound, Within, described, legal, singles
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source import Answers, Questions
from unveil.outcome import BadInput, MissingAnswers, ModelChanged, Outcome

_LOG = logging.getLogger(__name__)
MISSING_SHARE = 0.05  # of all questions may stay without an answer: see `Oracle.answered`
LEAST_SPACINGS = 1024  # that a box is wide, for `Oracle.spacing`
MISSING_CHANCE = 1e-6  # at most, that so many are missing although the model has no larger share


class Oracle(ABC):
    """Something that may only be asked.

    Calling it with N questions, an (N, n) array, gives an (N, m) array. Each row is one query.

    Attributes:
        name: What people call the model.
        shape: Shape of one input in the model's own terms; `n` is its product.
        n: Number of inputs.
        m: Number of outputs.
        within: The legal box `(low, high)`, or None. Two numbers where all inputs share their bounds, else two (n,)
            arrays; `low`, `high` and `middle` are always (n,) arrays.
        grid: The legal step, counted from `low` (from 0 without a box), or None.
        answers: "values" or "labels". Labels are integers, m = 1.
        dtype: The precision of questions.
        input_bits: Bits of the mantissa that the model's input holds: 53, 24, or 11 for float16 and 8 for bfloat16.
        resolution: Relative rounding of the answers: 2.2e-16 for float64, 1.2e-7 for float32, more if rounded. For
            answers that differ from one time to the next, their relative spread if that is larger.
        mantissa: Bits of the mantissa of an answer as it arrives, the leading one included: 53 for float64, 24 for
            float32, 11 for float16, 8 for bfloat16; fewer if significant digits were cut. Relative rounding.
        step: What all answers are multiples of, e.g. 0.01 for two decimals, 1/64; 0 if nothing. Absolute rounding.
            `rounding` makes a standard deviation of both.
        noise: Standard deviation of one answer, as two answers to the same questions show it; 0 if they do not differ.
        signal: Standard deviation of the answers over the first look's questions, the largest of all outputs. Like
            `noise`, of what the model itself answers: of probabilities, not of their log-ratios.
        ledger: What was asked.
        classes: What people call each label, as far as names have been seen; None if labels are numbers already.
        scale: Size of the largest answer in the first look, to which decimal places are relative; 1 if not known.
        reference: The class left out of log-ratios (its own would be 0), or None if the answers are no log-ratios.
        independent: Whether every answer is the logit of a probability of its own.
        widest: Where log-ratios of one question differ by more, one has run out of digits; infinite for others.
        ordered: "falling" or "rising" where the answers of every question came sorted: then their places are
            positions, not classes. Set it to "" if they are classes after all.
        cut: Where a single value changes its class: 0.5 if those of the first look all lie in [0, 1], else 0.
        in_steps: Why the answers are known to jump, without a slope anywhere (e.g. "decision trees"); else "".
        notes: What the first look saw and what to do about it, one sentence each.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x[:, :2] - x[:, 2:], shape=4)
        >>> oracle.n, oracle.m
        (4, 2)
        >>> oracle(np.array([[1.0, 2.0, 3.0, 5.0]]))
        array([[-2., -3.]])
    """

    name: str
    shape: tuple[int, ...]
    m: int
    within: Within | None
    grid: float | None
    answers: str
    dtype: np.dtype[np.floating]
    resolution: float
    ledger: Ledger
    input_bits: int = DOUBLE
    mantissa: int = DOUBLE
    step: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    classes: dict[int, str] | None = None
    scale: float = 1.0
    reference: int | None = None
    independent: bool = False
    widest: float = np.inf
    ordered: str = ""
    cut: float = 0.0
    in_steps: str = ""
    notes: tuple[str, ...] = ()
    # Of the answers' errors, once measured; no annotation: wrappers, which change answers, do not take it over.
    deviation_measured = -1.0

    def __repr__(self) -> str:
        gives = "labels" if self.answers == "labels" else f"{self.m} outputs"
        return f"<{type(self).__name__} {self.name}: {self.n} inputs, {gives}, {self.ledger.asked:,} questions asked>"

    @property
    def n(self) -> int:
        return math.prod(self.shape)

    @property
    def entrywise(self) -> bool:
        """Whether `nearest` looks at each number by itself, and at all alike: no box, no grid, no wrapper's own way.

        Where a legal question is changed in a few places, only these have to be made legal again.
        """
        return self.within is None and self._by_number

    @property
    def _by_number(self) -> bool:
        return self.grid is None and type(self).nearest is Oracle.nearest

    @property
    def spacing(self) -> Bound | None:
        """Whole multiples of it within the box are legal, and so are their sums there; None where there is no such.

        There is none without a box, on a grid, where an input holds fewer bits than float32 or few numbers of the box,
        and where a wrapper has its own way to say what is legal. One number where all inputs share their bounds, else
        (n,).
        """
        if self.within is None or not self._by_number or self.input_bits < SINGLE:
            return None
        low, high = self.within
        # One bit less than the input has: a step may lead from one end of the box to the other.
        spacing = np.ldexp(1.0, np.frexp(np.maximum(np.abs(low), np.abs(high)))[1] + 1 - self.input_bits)
        if np.any(high - low < LEAST_SPACINGS * spacing):
            return None
        return spacing if np.ndim(spacing) else float(spacing)

    @property
    def takes_singles(self) -> bool:
        """Whether legal questions may come as arrays of float32: all are such numbers, and the model takes them."""
        return False

    @property
    def low(self) -> Float[np.ndarray, " n"]:
        """The lower bound of each input; -inf without a box."""
        return np.full(self.n, -np.inf if self.within is None else self.within[0])

    @property
    def high(self) -> Float[np.ndarray, " n"]:
        """The upper bound of each input; inf without a box."""
        return np.full(self.n, np.inf if self.within is None else self.within[1])

    @property
    def middle(self) -> Float[np.ndarray, " n"]:
        """The middle of the box; 0 without one."""
        return np.zeros(self.n) if self.within is None else (self.low + self.high) / 2

    @property
    def signal_to_noise(self) -> float:
        """How far answers to different questions spread, over how far answers to the same one do; often infinite."""
        return self.signal / self.noise if self.noise > 0 else np.inf

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
            MissingAnswers: NaN or infinity came for some; `answered` leaves these out instead.
            SourceError: The model failed, or answered with another shape.

        Queries: `N`
        """
        x, y = self._ask(x)
        require_finite(y, x, self.name)
        return y

    @final
    def answered(self, x: Questions, legal: bool = False) -> Answers:
        """Ask N questions of which some may stay without an answer: their rows are NaN. For whoever can do without.

        Args:
            x: Legal questions, one per row.
            legal: Whether they are known to be legal, so that they need not be looked at again; see `written`.

        Raises:
            BadInput: As when the oracle is called.
            BudgetExceeded: As when the oracle is called.
            MissingAnswers: Of all that was asked so far, more has no answer than chance makes of `MISSING_SHARE`, or
                none of this batch has.
            SourceError: The model failed, or answered with another shape.

        Queries: `N`
        """
        x, y = self._ask(x, legal)
        if _too_many(self.ledger.missing, self.ledger.asked):
            raise MissingAnswers(
                f"{self.name} answered {self.ledger.missing:,} of {self.ledger.asked:,} questions with NaN or "
                f"infinity; up to {MISSING_SHARE:.0%} are left out: pass within=(low, high) to stay where it is defined"
            )
        return y

    def sample_answered(self, count: int, rng: Randomness) -> tuple[Questions, Answers]:
        """Points as `sample` draws them, and their answers; a point without an answer is replaced by another one.

        Raises:
            BudgetExceeded: A batch would cross the budget.
            MissingAnswers: As `answered`.

        Queries: `count`, and one for each missing answer
        """
        rng = generator(rng)
        x = self.sample(count, rng)
        y = self.answered(x)
        while len(gone := np.flatnonzero(missing(y))):  # ends: too many missing answers are an error
            x[gone] = self.sample(len(gone), rng)
            y[gone] = self.answered(x[gone])
        return x, y

    def unchanged(self) -> bool | None:
        """Whether questions of the first look still get their answers: ask this before anything is concluded.

        Returns:
            None if no answers are known or the budget does not allow to ask again.

        Queries: `4`, or 0 where the answer is None
        """
        return None

    @final
    def require_unchanged(self) -> None:
        """Ask known questions again; see `unchanged`.

        Raises:
            ModelChanged: They get other answers now.

        Queries: `4`, or 0 where no answers are known or the budget does not allow it
        """
        if self.unchanged() is False:
            raise ModelChanged(f"{self.name}: {Outcome.model_changed.value}")

    def _ask(self, x: np.ndarray, legal: bool = False) -> tuple[Questions, Answers]:
        """Check, charge and ask; missing answers are counted."""
        if not (legal and self.takes_singles and x.dtype == np.float32):
            x = as_numbers(x, "questions")
        x = np.ascontiguousarray(x)
        if x.ndim != 2 or x.shape[1] != self.n:
            raise BadInput(f"questions must have shape (N, {self.n}); got {x.shape}")
        if len(x) == 0:
            return x, np.empty((0, self.m))
        if not legal:
            self._check_legal(x)
        self.ledger.charge(len(x))
        y = self.answer(x)
        if not complete(y):
            self.ledger.missing += int(missing(y).sum())
        _LOG.debug("%s: %d questions, %d in all", self.name, len(x), self.ledger.asked)
        return x, y

    @abstractmethod
    def answer(self, x: Questions) -> Answers:
        """Answer legal questions without charging them: for oracles around oracles, never for methods.

        A question without an answer gets a row of NaN.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that differs between oracles that answer differently."""

    def nearest(self, x: Questions) -> Questions:
        """The legal questions nearest to x, exactly as the model will see them (box, grid, input precision).

        A difference quotient must be divided by the step between *these*.
        """
        return legal(as_numbers(x, "inputs"), self.within, self.grid, self.dtype, self.input_bits)

    def written(self, x: np.ndarray) -> np.ndarray:
        """The same as an array of float32 where the model takes it: half as much to write, and nothing to convert."""
        return singles(x, self.within) if self.takes_singles else self.nearest(x)

    def sample(self, count: int, rng: Randomness) -> Questions:
        """Legal points as a user of the model would draw them: uniform in the box, standard normal without one."""
        rng = generator(rng)
        size = (count, self.n)
        return self.nearest(rng.standard_normal(size) if self.within is None else rng.uniform(*self.within, size=size))

    def room(self, x: Questions, direction: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " N"]:
        """How far each point may go along its direction (in units of that direction) before it leaves the box.

        Infinite without a box. `-room(x, -direction)` is how far it may go the other way.
        """
        if self.within is None:
            return np.full(len(x), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            up = np.where(direction > 0, (self.high - x) / direction, np.inf)
            return np.asarray(np.where(direction < 0, (self.low - x) / direction, up).min(axis=1))

    def off_walls(self, x: Questions, margin: float) -> Questions:
        """x with room for a step on either side: no closer to a wall than `margin` times the width of its input."""
        if self.within is None:
            return np.asarray(x)
        low, high = self.within
        return np.asarray(np.clip(x, low + margin * (high - low), high - margin * (high - low)))

    def rounding(self, y: Answers) -> Float[np.ndarray, "N m"]:
        """Standard deviation of the last rounding of each answer, from `mantissa` and `step`.

        What the model loses inside, before that, comes on top.
        """
        unit = np.ldexp(1.0, np.frexp(np.asarray(y, dtype=np.float64))[1] - self.mantissa)
        return np.asarray(np.maximum(unit, self.step) / np.sqrt(12))

    @property
    def uneven(self) -> Callable[[Answers], Float[np.ndarray, "N m"]] | None:
        """As `rounding`, where answers of one size differ in it: of logarithms of few or rounded probabilities."""
        return None

    @final
    def predictions(self, y: Answers) -> Int[np.ndarray, " N"]:
        """The class each answer stands for: the label, the largest value, or whether a single value is above `cut`.

        Raises:
            BadInput: The answers come sorted: their places are no classes.
        """
        if self.answers == "labels":
            return np.asarray(y[:, 0], dtype=np.int64)
        self._require_classes()
        scores = self._scores(y)
        best = scores[:, 0] > self.cut if scores.shape[1] == 1 else scores.argmax(axis=1)
        return np.asarray(best, dtype=np.int64)

    @final
    def probabilities(self, y: Answers) -> Float[np.ndarray, "N c"]:
        """Softmax of values (as they were, of log-ratios); for one output, or independent ones, the logistic function.

        Raises:
            BadInput: The oracle answers labels, or answers that come sorted.
        """
        if self.answers == "labels":
            raise BadInput(f"{self.name} answers labels: there is no probability in them")
        self._require_classes()
        return self.softmax(y)

    @final
    def softmax(self, y: Answers) -> Float[np.ndarray, "N c"]:
        """The numbers that `probabilities` gives, whether or not their places stand for classes."""
        scores = self._scores(y)
        if scores.shape[1] == 1 or self.independent:
            return np.asarray(np.exp(-np.logaddexp(0, -scores)))
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def _scores(self, y: Answers) -> np.ndarray:
        return y if self.reference is None else np.insert(y, self.reference, 0.0, axis=1)

    def _require_classes(self) -> None:
        if self.ordered:
            raise BadInput(
                f"the scores of {self.name} come sorted ({self.ordered}): their places are positions, not classes, and "
                "predict nothing. Ask for unsorted scores, or, if they are classes after all, set oracle.ordered = ''"
            )

    def _check_legal(self, x: Questions) -> None:
        if not complete(x):
            raise BadInput("questions must be finite; got NaN or infinity")
        if self.within is not None:
            low, high = self.within
            # Two numbers are compared without a copy of every question.
            shared = isinstance(low, float) and isinstance(high, float)
            if not ((x.min() >= low and x.max() <= high) if shared else ((x >= low) & (x <= high)).all()):
                raise BadInput(
                    f"questions must lie within {described(self.within)}; got values from {x.min():g} to "
                    f"{x.max():g}; use oracle.nearest(x)"
                )
        # A grid point is known to the rounding of the input's own precision.
        if self.grid is not None and not np.allclose(
            x, self.nearest(x), rtol=float(np.finfo(self.dtype).eps), atol=1e-6 * self.grid
        ):
            raise BadInput(f"questions must lie on the grid of step {self.grid:g}; use oracle.nearest(x)")


def must_be_asked(oracle: object) -> None:
    """Raises BadInput unless it is an oracle: functions and models have no ledger."""
    must_be(oracle, Oracle, "an Oracle, which counts questions", "as_oracle(model), or as_oracle(function, shape=...)")


def _too_many(gone: int, asked: int) -> bool:
    """Whether more answers are missing than chance makes of `MISSING_SHARE`, by Chernoff's bound."""
    share = gone / asked
    if share <= MISSING_SHARE:
        return False
    divergence = share * math.log(share / MISSING_SHARE)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - MISSING_SHARE))
    return asked * divergence > -math.log(MISSING_CHANCE)
