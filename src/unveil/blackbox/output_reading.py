"""How answers are read for the span of the outputs: softmax undone row by row, and how finely they are rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.digits import decimal_step, mantissa_bits
from unveil.blackbox.oracle import Oracle
from unveil.outcome import BadInput

VALUES, LOG_PROBABILITIES, LOG_RATIOS = "values", "log-probabilities", "log-ratios"


@dataclass(frozen=True)
class Reading:
    """What is done to an answer before spans are taken.

    A softmax adds one unknown number to all logits of an input, its normaliser. Where logarithms of probabilities come
    back, each row is centred, which removes it.

    Attributes:
        kind: "values" (taken as they are), "log-probabilities" or "log-ratios" (of probabilities, to one of them).
        reference: The class that log-ratios are relative to; None for other kinds.
        outputs: Numbers in an answer after reading: of log-ratios one more than the oracle gives.
        bits: Bits of the mantissa that the answers use: 53 for float64, 24 for float32, 11 for float16, 8 for bfloat16.
        step: Absolute rounding step: of answers with few decimals; 0 if there is none.
        equal: Outputs that tell nothing beside others: they never change, or change as another one does, as those of
            probabilities that are always 0.
    """

    kind: str
    reference: int | None
    outputs: int
    bits: int
    step: float
    equal: int = 0

    def __call__(self, y: Float[np.ndarray, "N a"]) -> Float[np.ndarray, "N m"]:
        """Answers as the oracle gives them, or probabilities where it gives their log-ratios, made comparable.

        Raises:
            BadInput: Another number of outputs.
        """
        if self.kind == LOG_RATIOS and y.shape[1] == self.outputs:
            y = np.log(np.maximum(y, np.finfo(np.float64).tiny))
        elif self.kind == LOG_RATIOS and y.shape[1] == self.outputs - 1 and self.reference is not None:
            y = np.insert(y, self.reference, 0.0, axis=1)
        elif y.shape[1] != self.outputs:
            raise BadInput(f"an answer must have {self.outputs} numbers; got {y.shape[1]}")
        return np.asarray(y if self.kind == VALUES else y - y.mean(axis=1, keepdims=True))

    @property
    def largest_rank(self) -> int:
        """The rank that shows nothing: all outputs that tell something, less the one direction that centring takes."""
        return self.outputs - self.equal - (self.kind != VALUES)

    def refined(self, y: Float[np.ndarray, "N a"]) -> Reading:
        """The same reading, with the rounding that more answers show, and outputs that are equal in all of them."""
        changes = y if y.shape[1] == self.outputs else np.insert(y, self.reference or 0, 0.0, axis=1)
        changes = changes - changes[0]
        distinct = np.unique(changes, axis=1)
        still = self.kind == VALUES and not changes.any(axis=0).all()
        equal = self.outputs - distinct.shape[1] + int(still)
        if self.kind == LOG_RATIOS:
            return replace(self, equal=equal)
        step = decimal_step(y)
        return replace(self, step=step, bits=53 if step else mantissa_bits(y), equal=equal)

    def rounding(self, y: Float[np.ndarray, "N a"]) -> Float[np.ndarray, " N"]:
        """Standard deviation of the rounding of the numbers in each answer, as the oracle gives them."""
        if self.kind == LOG_RATIOS:
            # A logarithm has the relative error of its probability: with decimal places large where that is small.
            log = y if y.shape[1] < self.outputs else np.log(np.maximum(y, np.finfo(np.float64).tiny))
            if y.shape[1] < self.outputs:
                log = np.insert(y, self.reference or 0, 0.0, axis=1)
            p = np.exp(log - log.max(axis=1, keepdims=True))
            p = np.maximum(p / p.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
            ulp = np.maximum(np.ldexp(np.maximum(np.abs(log), 1.0), -self.bits), self.step / p)
        else:
            ulp = np.maximum(np.ldexp(1.0, np.frexp(y)[1] - self.bits), self.step)
        return np.asarray(np.sqrt(np.mean(ulp**2, axis=1) / 12))


def read_as(oracle: Oracle, y: Float[np.ndarray, "N a"]) -> Reading:
    """Look at some answers and say how they are to be read.

    Args:
        oracle: Gave them.
        y: At least two answers.
    """
    step = decimal_step(y)
    if oracle.reference is not None:
        precision = np.finfo(oracle.dtype)
        decimals = oracle.resolution if oracle.resolution > 4 * precision.eps else 0.0
        return Reading(LOG_RATIOS, oracle.reference, y.shape[1] + 1, int(precision.nmant) + 1, decimals)
    bits = 53 if step else mantissa_bits(y)
    top = y.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(y - top).sum(axis=1))
    rounded = max(step, float(np.ldexp(1.0, int(np.frexp(np.abs(y).max())[1]) - bits)))
    if y.shape[1] > 2 and y.max() <= rounded and np.abs(total).max() <= 1e-6 + 2 * rounded:
        return Reading(LOG_PROBABILITIES, None, y.shape[1], bits, step)
    return Reading(VALUES, None, y.shape[1], bits, step)
