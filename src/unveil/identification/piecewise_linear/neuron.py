"""Neuron: a deeper neuron as far as it is known, and how often it was met where it should be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

# Besides its own error, that of a critical point's normal is this many times the error of the rows read before.
NORMAL = 3.0
AGREES = 20.0  # a critical point agrees when its equations hold to this many standard deviations
SAME = 1e-12  # one minus the cosine of what two critical points tell of the same neuron


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


def distinct(alone: list[Neuron], others: list[Neuron]) -> list[Neuron]:
    """Those that are not another neuron again: no other has the same hyperplane as far as their weights are known."""
    out, held = list[Neuron](), [*others, *alone]
    if not alone:
        return out
    theirs = np.array([np.append(n.weights, n.bias) for n in held])
    known = np.array([np.append(n.known, True) for n in held])
    counts = np.arange(len(held)) < len(others)
    for i, n in enumerate(alone, len(others)):
        # As far as all that is known of this one is known of the other, too.
        mine = np.where(known[i], theirs[i], 0)
        size = np.linalg.norm(mine) * np.linalg.norm(theirs * known[i], axis=1)
        same = known[:, known[i]].all(axis=1) & (np.abs(theirs @ mine) > (1 - SAME) * size)
        if not (same & counts).any():
            out.append(n)
            counts[i] = True
    return out
