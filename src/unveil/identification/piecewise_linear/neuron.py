"""Neuron: a deeper neuron as far as it is known, and how often it was met where it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

# Besides its own error, that of a critical point's normal is this many times the error of the rows read before.
NORMAL = 3.0
AGREES = 20.0  # a critical point agrees when its equations hold to this many standard deviations


@dataclass(frozen=True, eq=False)
class Neuron:
    """A neuron `weights . h + bias`, up to sign, as far as it is known."""

    weights: Float[np.ndarray, " k"]  # of unit norm, zero where unknown
    bias: float  # its bias
    known: Bool[np.ndarray, " k"]  # which weights are known
    members: tuple[int, ...]  # critical points at which it is zero, ascending
    spread: Float[np.ndarray, "p p"]  # covariance of the errors of weights and bias
    # what was known of it without any critical point, as equations in units of their errors
    before: Float[np.ndarray, "q p"] | None = None
    # which of a layer's neurons this is, however much of it is known: the critical point it began with, negative if it
    # was read in another way
    key: int = -1
    held: int = 0  # against how many critical points it was held, the first ones
    should: int = 0  # at how many places of lines it should have been met, as far as all it sees there is known
    were: int = 0  # at how many of these it was
    lines: int = 0  # on how many lines
    settings: int = 0  # in how many settings of the others

    @classmethod
    def given(cls, row: Float[np.ndarray, " k"], bias: float, error: float, key: int = -1) -> Neuron:
        """A neuron read in another way, whole."""
        theta = np.append(row, bias)
        across = np.eye(len(theta)) - np.outer(theta, theta) / (theta @ theta)
        spread = error**2 * np.eye(len(theta))
        return cls(row, bias, np.ones(len(row), dtype=bool), (), spread, before=across / error, key=key)

    @property
    def whole(self) -> bool:
        """Whether all its weights are known."""
        return bool(self.known.all())

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        return np.append(self.weights, self.bias)

    @property
    def readings(self) -> int:
        """How many independent readings it rests on."""
        return len(self.members) + (self.before is not None)

    def among(self, those: Bool[np.ndarray, " q"]) -> Neuron:
        """The same neuron behind a layer of q values, of which `those` are the ones it is known for."""
        at = np.append(np.flatnonzero(those), len(those))
        spread, weights, known = np.zeros((len(those) + 1,) * 2), np.zeros(len(those)), those.copy()
        spread[np.ix_(at, at)], weights[those], known[those] = self.spread, self.weights, self.known
        before = None
        if self.before is not None:
            before = np.zeros((len(self.before), len(those) + 1))
            before[:, at] = self.before
        return Neuron(weights, self.bias, known, (), spread, before, key=self.key)

    def doubt(self, h: Float[np.ndarray, "N k"]) -> Float[np.ndarray, " N"]:
        """Standard deviation of `weights . h + bias`, as far as the weights are known."""
        at = np.concatenate([h, np.ones((len(h), 1))], axis=1)
        return np.asarray(np.sqrt(np.maximum(((at @ self.spread) * at).sum(axis=1), 0.0)))


def same_hyperplane(one: Neuron, others: Sequence[Neuron], apart: float) -> Bool[np.ndarray, " N"]:
    """Which of these have the hyperplane of this one, as far as both are known by more than two numbers. `apart`: one
    minus the cosine from which on two are different."""
    known = np.array([np.append(each.known & one.known, True) for each in others]).reshape(-1, len(one.theta))
    mine, theirs = known * one.theta, known * np.array([each.theta for each in others]).reshape(known.shape)
    size = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    return np.asarray((known.sum(axis=1) > 2) & (np.abs((mine * theirs).sum(axis=1)) > (1 - apart) * size))
