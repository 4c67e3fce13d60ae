"""Measured, measured_output: what was measured of weights, and fits in which what few answers tell stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.fitting.output_layer import agreement
from unveil.identification.fitting.robust import Robust

RIDGE = 1e-6  # damping of a preconditioner, relative to its mean diagonal
# Rounds at most in which answers that are far off are told from others, and the gain of the last.
WEIGHINGS, LAST_WEIGHING_GAIN = 8, 0.1

Pairs = list[tuple[np.ndarray, np.ndarray]]  # weights and biases of each layer
# Their standard deviations, of the weights of each layer (k, d) or (k, 1), of its biases (k,).
Errors = Sequence[tuple[np.ndarray, np.ndarray]]


class Measured(NamedTuple):
    """What was measured of the parameters of some layers, weights and biases side by side."""

    values: list[np.ndarray]  # (k, d + 1) each
    precision: list[np.ndarray]  # 1 / variance, (k, d + 1) each; 0 where nothing is known

    @classmethod
    def of(cls, weights: Pairs, errors: Errors) -> Measured:
        """These weights, with these standard deviations; infinite ones where nothing is known."""
        values = [joined(*each) for each in weights]
        wide = [
            np.concatenate([np.broadcast_to(e, w.shape), f[:, None]], axis=1)
            for (w, _), (e, f) in zip(weights, errors, strict=True)
        ]
        return cls(values, [1 / np.maximum(each, 1e-150) ** 2 for each in wide])

    def behind(self, first: int) -> Measured:
        """What is known of the layers from `first` on."""
        return Measured(self.values[first:], self.precision[first:])

    def squares(self, weights: Pairs) -> float:
        """Sum of the squares of what these differ by, in standard deviations."""
        return float(
            sum(
                (p * (joined(*each) - v) ** 2).sum()
                for each, v, p in zip(weights, self.values, self.precision, strict=True)
            )
        )


def joined(w: Float[np.ndarray, "k d"], b: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k d1"]:
    """Weights and biases side by side."""
    return np.concatenate([w, b[:, None]], axis=1)


class Inverse(NamedTuple):
    """The inverse of the Kronecker product of two matrices and a diagonal that is the same for all inputs of a neuron,
    in the eigenvectors of both."""

    a: Float[np.ndarray, "q q"]
    b: Float[np.ndarray, "k k"]
    size: Float[np.ndarray, "k q"]

    @classmethod
    def of(cls, a: Float[np.ndarray, "q q"], b: Float[np.ndarray, "k k"], held: Float[np.ndarray, " k"]) -> Inverse:
        """Of `b` times `a`, and `held`."""
        of_a, a = linalg.eigh(a)
        typical = max(float(of_a.mean()), 1e-300)
        held = np.maximum(held, RIDGE * max(float(np.diag(b).mean()), 1e-300) * typical)
        of_b, b = linalg.eigh(b, np.diag(held))
        return cls(a, b, np.outer(np.maximum(of_b, 0), np.maximum(of_a, 0)) + 1)

    def __call__(self, r: Float[np.ndarray, "k q"]) -> Float[np.ndarray, "k q"]:
        return np.asarray(self.b @ ((self.b.T @ r @ self.a) / self.size) @ self.a.T)


def measured_output(
    F: Float[np.ndarray, "N q"],
    y: Float[np.ndarray, "N m"],
    counts: Float[np.ndarray, "N m"],
    jump: Float[np.ndarray, "k m"],
    error: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "q m"]:
    """The coefficients of sums of F that are nearest to answers and to what was measured of them.

    Neurons that few answers feel keep what was measured. Answers that are far off, as those are where another neuron is
    active that is missing, count less. `jump`: the measured coefficients of the first `k` columns of F; nothing is
    known of the others. `error`: their standard deviations.
    """
    k, weight = len(jump), counts.mean(axis=1, keepdims=True)
    out = np.zeros((F.shape[1], y.shape[1]))
    out[:k] = jump
    rest, left = F[:, k:] * weight, (y - F[:, :k] @ jump) * weight
    out[k:] = agreement(rest, left)[0] if len(y) > rest.shape[1] else 0.0
    deviation = np.inf

    def squares(out: Float[np.ndarray, "q m"]) -> Float[np.ndarray, " N"]:
        return np.asarray((((F @ out - y) * weight) ** 2).mean(axis=1))

    there = squares(out)
    for _ in range(WEIGHINGS):
        robust = Robust.at(there)
        if not 0 < robust.cost < (1 - LAST_WEIGHING_GAIN) * deviation:
            break
        deviation = robust.cost
        pull = deviation / np.maximum(error, 1e-300)
        each = weight * np.sqrt(robust.weight)[:, None]
        held = np.concatenate([np.diag(pull), np.zeros((k, F.shape[1] - k))], axis=1)
        A = np.concatenate([F * each, held])
        trial = np.linalg.lstsq(A, np.concatenate([y * each, pull[:, None] * jump]), rcond=None)[0]
        there = squares(trial)
        if not robust.costs(there) < robust.cost:
            break
        out = trial
    return out
