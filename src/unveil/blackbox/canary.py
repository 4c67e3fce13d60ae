"""Canary: known questions, asked again to notice that another model answers now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unveil.blackbox.source import Answers, Questions

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
