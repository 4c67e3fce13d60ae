"""Neuron: a deeper neuron as far as it is known, what a critical point tells of it, and where it must be met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import AffineMap, after
from unveil.identification.piecewise_linear.critical_point import along_line, met, zeros

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

    def doubt(self, h: Float[np.ndarray, " k"]) -> float:
        """Standard deviation of `weights . h + bias`, as far as the weights are known."""
        at = np.append(h, 1.0)
        return float(np.sqrt(max(at @ self.spread @ at, 0.0)))


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


def expected(
    layers: list[AffineMap], error: float, neurons: list[Neuron], line: Line
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"], np.ndarray]:
    """Where on a line these neurons must bend the answers: only where all they see is known. `error`: of the rows of
    these layers. `neurons`: up to sign. Returns places, how far off they may be, and whose they are."""
    t, h = along_line(layers, line)
    z = h @ np.array([n.weights for n in neurons]).T + np.array([n.bias for n in neurons])
    at, piece, which = zeros(t, z)
    known = np.array([n.known for n in neurons])[which]
    sure = ~((np.maximum(h[piece], h[piece + 1]) > 0) & ~known).any(axis=1)
    at, piece, which = at[sure], piece[sure], which[sure]
    rate = np.abs(z[piece + 1, which] - z[piece, which]) / (t[piece + 1] - t[piece])
    there = np.maximum(h[piece], h[piece + 1])
    doubt = np.array([neurons[i].doubt(values) for i, values in zip(which, there, strict=True)])
    doubt = np.hypot(doubt, error * (1 + np.linalg.norm(there, axis=1)))
    return at, AGREES * doubt / np.maximum(rate, 1e-300), which


class Confirmed(NamedTuple):
    """How often each neuron should have been met on the lines searched, how often it was, and in how many settings. A
    setting is which of the others are active: while it stays, a neuron of a deeper layer goes on straight, too."""

    should: Int[np.ndarray, " N"]
    were: Int[np.ndarray, " N"]
    settings: Int[np.ndarray, " N"]


def confirmed(layers: list[AffineMap], error: float, neurons: list[Neuron], lines: Sequence[Line]) -> Confirmed:
    """How often each of these neurons was met on these lines, of all times that it should have been."""
    should, were = np.zeros(len(neurons), dtype=int), np.zeros(len(neurons), dtype=int)
    settings: list[set[bytes]] = [set() for _ in neurons]
    firm = [i for i, n in enumerate(neurons) if n.known.all() and n.readings > 1]
    rows, bias = np.array([neurons[i].weights for i in firm]), np.array([neurons[i].bias for i in firm])
    for line in lines if neurons else ():
        at, doubt, which = expected(layers, error, neurons, line)
        seen = met(line, at, doubt).any(axis=0)
        np.add.at(should, which, 1)
        np.add.at(were, which[seen], 1)
        if firm:
            on = after(layers, line.inputs(at)) @ rows.T + bias > 0
            on &= which[:, None] != np.array(firm)
            for i, others in zip(which[seen], on[seen], strict=True):
                settings[i].add(np.packbits(others).tobytes())
    return Confirmed(should, were, np.array([len(each) for each in settings], dtype=int))


def deviations(
    layers: list[AffineMap], error: float, neurons: list[Neuron], lines: Sequence[Line]
) -> list[Float[np.ndarray, " M"]]:
    """How far from where it was expected each neuron was met on these lines, in units of what it might be off. Of an
    error that is overstated they are a small part of one."""
    out: list[list[float]] = [[] for _ in neurons]
    for line in lines if neurons else ():
        at, doubt, which = expected(layers, error, neurons, line)
        seen = met(line, at, doubt).any(axis=0)
        off = np.abs(line.t[:, None] - at[seen]).min(axis=0, initial=np.inf)
        for i, each in zip(which[seen], AGREES * off / doubt[seen], strict=True):
            out[i].append(float(each))
    return [np.array(each) for each in out]
