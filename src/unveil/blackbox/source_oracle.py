"""SourceOracle: the oracle that asks a source, in batches that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import DTypeLike

from unveil.blackbox.answers import NAMES, labels, raw_answers, values
from unveil.blackbox.domain import DOUBLE, SINGLE, Within
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.source import Answers, Questions, Source, float_dtype
from unveil.outcome import SourceError

# A source never gets more than this many numbers (64 MB) or rows at once, so that a big batch costs time, not memory.
# The borders depend on the size alone: the same batch is always cut at the same places and answered with the same bits.
CHUNK_NUMBERS = 2**23
CHUNK_ROWS = 2**12
KEPT_BYTES = 2**25 - 2**16
# How many standard deviations of an answer another answer to the same question may be away.
CHANGED = 100.0


@dataclass(frozen=True)
class Canary:
    """Questions whose first answers were kept.

    Attributes:
        questions: (N, n), legal, asked as one batch.
        answers: (N, m), what they got first.
        deviation: Standard deviation of one answer, absolute: its rounding, or its noise; 0 for labels.
        noisy: Whether answers to one question differ anyway; labels are then compared by the majority.
    """

    questions: Questions
    answers: Answers
    deviation: float
    noisy: bool = False

    def same(self, answers: Answers) -> bool:
        """Whether these answers to the same questions can come from the same model."""
        if answers.shape != self.answers.shape:
            return False
        if self.answers.dtype.kind in "iub":
            differing = float((answers != self.answers).any(axis=1).mean())
            return differing <= (0.5 if self.noisy else 0.0)
        gap = np.abs(answers - self.answers)
        # A question without an answer has to stay without one.
        either = np.isnan(answers) | np.isnan(self.answers)
        both = np.isnan(answers) & np.isnan(self.answers)
        return bool(np.where(either, both, gap <= CHANGED * self.deviation).all())


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
        input_bits: Bits of the mantissa that the model's input holds; by default what the source says, or its dtype's.
        mantissa: Bits of the mantissa of an answer; by default those of the questions.
        step: What all answers are multiples of.
        canary: Known questions and their answers, for `unchanged`.
        seen: A digest of the first answers, part of the fingerprint: it tells two models behind one address apart.
    """

    def __init__(  # noqa: PLR0913 - a constructor: fields by name
        self,
        source: Source,
        *,
        m: int,
        within: Within | None = None,
        grid: float | None = None,
        ledger: Ledger | None = None,
        answers: str = "values",
        resolution: float | None = None,
        dtype: DTypeLike | None = None,
        classes: dict[int, str] | None = None,
        scale: float = 1.0,
        input_bits: int | None = None,
        mantissa: int | None = None,
        step: float = 0.0,
        canary: Canary | None = None,
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
        held = int(getattr(source, "input_bits", DOUBLE)) if input_bits is None else input_bits
        self.input_bits = min(held, DOUBLE if self.dtype == np.float64 else SINGLE)
        self.mantissa = (DOUBLE if self.dtype == np.float64 else SINGLE) if mantissa is None else mantissa
        self.step = step
        self.canary = canary
        self.seen = seen
        _keep_freed_memory()

    @property
    def takes_singles(self) -> bool:
        single = self.dtype == self.source.dtype == np.float32 and self.input_bits == SINGLE and self.grid is None
        return single and bool(getattr(self.source, "takes_singles", False))

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
            return values(y, self.name)
        numbers = labels(y, self.name)
        if y.dtype.kind in NAMES and self.classes is not None:
            self.classes.update(zip(numbers[:, 0].tolist(), map(str, y[:, 0]), strict=True))
        return numbers

    def unchanged(self) -> bool | None:
        if self.canary is None or self.ledger.left < len(self.canary.questions):
            return None
        return self.canary.same(self.answered(self.canary.questions))

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.seen}".strip()


def _keep_freed_memory() -> None:
    """Let each batch lie where the one before lay.

    The C library hands large blocks back to the system as soon as they are freed, and every page of the next one costs
    an interrupt: half of what a batch costs. From the largest block that was freed so far, up to 32 MB, glibc learns
    which sizes to keep; this one is never touched, and so costs nothing. Elsewhere it does nothing.
    """
    np.empty(KEPT_BYTES // 8)
