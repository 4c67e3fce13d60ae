"""The first questions: asked together, then one alone and the others in another order: company must not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unveil.blackbox.answers import NAMES, SourceRaised, missing, raw_answers, values
from unveil.blackbox.digits import bits_of, digits_of
from unveil.blackbox.domain import DOUBLE, SINGLE, Within, legal
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source import Questions, Source, float_dtype
from unveil.outcome import MissingAnswers, SourceError, UnsteadyAnswers

KNOWN_POINTS = 4
QUERIES = 2 * KNOWN_POINTS
# How often points without an answer are replaced.
REPLACED = 3
# Shares of the answers' size: up to which two are the same, and that of them by which another one differs for sure.
SAME_ANSWER_SHARE, EVIDENT = 64 * float(np.finfo(np.float64).eps), 1e-3


@dataclass(frozen=True)
class KnownQuestions:
    """A few points and what was answered, twice.

    Attributes:
        x: (4, n), the questions.
        first: (4, m) of any type, the answers to all four together.
        second: The same, where the first question was asked alone and the others in another order. Of answers in
            float64 two are those of `first`: their questions went into `single`.
        single: Whether the model rounds its inputs to float32 though it answers in float64.
        moved: Whether two were not asked again.
    """

    x: Questions
    first: np.ndarray
    second: np.ndarray
    single: bool = False
    moved: bool = False

    @property
    def again(self) -> list[int]:
        """Which questions were asked twice."""
        return [0, 3] if self.moved else [0, 1, 2, 3]


class Asking:
    """The points of a first look, always the same ones, and the source that answers them.

    Args:
        source: What is asked.
        ledger: Charged before anything is asked.
        within: The legal box.
        grid: The legal step.
    """

    def __init__(self, source: Source, ledger: Ledger, within: Within | None, grid: float | None) -> None:
        self.source, self.ledger, self.within, self.grid = source, ledger, within, grid
        self._rng = np.random.default_rng(8)

    def points(self, count: int) -> Questions:
        """Points as a user would ask them."""
        size = (count, math.prod(self.source.shape))
        x = self._rng.standard_normal(size) if self.within is None else self._rng.uniform(*self.within, size=size)
        return self.legal(x)

    def legal(self, x: np.ndarray) -> Questions:
        """The legal points nearest to x."""
        return legal(
            x, self.within, self.grid, float_dtype(self.source.dtype), getattr(self.source, "input_bits", None)
        )

    def ask(self, x: Questions) -> np.ndarray:
        """Answers of any type, charged."""
        self.ledger.charge(len(x))
        return raw_answers(self.source, x, self.ledger)

    def twice(self, noisy: bool = False) -> KnownQuestions:
        """Four points, twice: together, then the first alone and the rest in reverse. Missing answers are replaced.

        Of a model that answers in float64, and always the same, two of the rest are one point as float32 holds it, and
        that beside it: where the first answers as the point itself does and the other one does not, the model rounds
        its inputs.

        Raises:
            BudgetExceeded: The budget is too small.
            MissingAnswers: More than half of what was asked got NaN or infinity.
            SourceError: The source failed.
            UnsteadyAnswers: Alone, a question gets another number of outputs, or none.

        Queries: `8`, and 2 for each point that is replaced
        """
        x = self.points(KNOWN_POINTS)
        name = self.source.name
        self.ledger.charge(QUERIES)
        first = raw_answers(self.source, x, self.ledger)
        try:
            alone = raw_answers(self.source, x[:1], self.ledger)
            exact = not noisy and self._may_be_single(first)
            rest = raw_answers(self.source, self._moved(x) if exact else x[:0:-1], self.ledger)
        except SourceRaised as error:
            raise UnsteadyAnswers(
                f"{name} answered {KNOWN_POINTS} questions together, but failed when one was asked alone: {error}"
            ) from error
        for other in (alone, rest):
            if other.shape[1] != first.shape[1]:
                raise UnsteadyAnswers(
                    f"{name} answered the same questions with {first.shape[1]} and then with {other.shape[1]} outputs; "
                    "it must answer every batch with the same number of outputs per question"
                )
        if first.shape[1] == 0:
            raise SourceError(f"{name} answered with no outputs at all; expected at least one number per question")
        second, single = np.concatenate([alone, rest[::-1]]), False
        if exact and second.dtype.kind == "f":
            size = float(np.abs(np.where(np.isfinite(first), first, 0.0)).max())
            with np.errstate(invalid="ignore"):  # two infinite answers
                at, beside = np.abs(second[1:3] - first[1]).max(axis=1)
            single = bool(at <= SAME_ANSWER_SHARE * size and beside > SAME_ANSWER_SHARE / EVIDENT * size)
            second[1:3] = first[1:3]
        return KnownQuestions(*self._without_missing(x, first, second), single, exact)

    def _may_be_single(self, first: np.ndarray) -> bool:
        """Whether inputs in float32 would show: where answers have more digits than it has."""
        if self.grid is not None or first.dtype != np.float64 or float_dtype(self.source.dtype) != np.float64:
            return False
        finite = np.where(np.isfinite(first), first, 0.0)
        return bits_of(first.dtype, finite) > SINGLE and digits_of(finite, DOUBLE).mantissa > SINGLE

    def _moved(self, x: Questions) -> np.ndarray:
        """The rest in reverse, but for two that show how exact the inputs are."""
        held = x[1].astype(np.float32)
        pair = np.stack([np.nextafter(held, np.float32(0)), held]).astype(np.float64)
        return np.concatenate([x[3:], self.legal(pair)])

    def _without_missing(
        self, x: Questions, first: np.ndarray, second: np.ndarray
    ) -> tuple[Questions, np.ndarray, np.ndarray]:
        if first.dtype.kind != "f" or second.dtype.kind != "f":
            return x, first, second
        first, second = first.copy(), second.copy()
        asked = lost = 0
        for replacing in range(REPLACED + 1):
            gone = np.flatnonzero(_gone(first, self.source.name) | _gone(second, self.source.name))
            if not len(gone):
                break
            asked, lost = asked + KNOWN_POINTS if not replacing else asked, lost + len(gone)
            if lost > KNOWN_POINTS // 2 or replacing == REPLACED:
                reached = float(np.abs(x[gone]).max())
                every = ", unless its weights themselves are not finite" if len(gone) == KNOWN_POINTS else ""
                raise MissingAnswers(
                    f"{self.source.name} answered {lost} of {asked} questions with NaN or infinity; inputs there reach "
                    f"{reached:.3g} in size: pass within=(low, high) to stay where it is defined{every}"
                )
            self.ledger.missing += 2 * len(gone)
            x[gone] = self.points(len(gone))
            first[gone], second[gone] = self.ask(x[gone]), self.ask(x[gone][::-1])[::-1]
            asked += len(gone)
        return x, first, second

    def why_unsteady(self, known: KnownQuestions) -> str:
        """Whether chance or company made two answers differ, by asking the first batch once more if there is budget."""
        chance = "switch off whatever is random in it (dropout, sampling), or pass noisy=True"
        company = (
            "the answer to a question depends on which others are asked with it: switch off batch statistics (eval "
            "mode) and whatever else is computed over a batch, or pass a function that asks one question at a time"
        )
        if self.ledger.left < KNOWN_POINTS:
            return f"{chance}; or {company}"
        again = self.ask(known.x)
        same = again.shape == known.first.shape and bool((again == known.first).all())
        return company if same else chance


def _gone(y: np.ndarray, name: str) -> np.ndarray:
    return np.zeros(len(y), dtype=bool) if y.dtype.kind in NAMES else missing(values(y, name))
