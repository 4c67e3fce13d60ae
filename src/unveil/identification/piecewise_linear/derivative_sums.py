"""active_sums: whether neurons are all of a layer, and their signs: every derivative is a sum of the active ones'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import row_space
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.hyperplane_tracing import Behind
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import local

LEFT = 0.02  # part of a derivative that the active neurons may leave, besides its error
TELLING = 20  # derivatives that must tell
FEW = 5  # derivatives with a neuron's share that must not call for it before it is left out
# Derivatives that decide sides, rounds of turning one after the other, and the largest weight of one that nothing
# explains; relative singular values below which a mixture is not resolved.
TURNS, ROUNDS, FAIR, RESOLVED = 200, 3, 5.0, 0.01


@dataclass(frozen=True)
class _Mixed:
    """A derivative as a sum of neurons' normals, along the directions in which what is known moves."""

    parts: Float[np.ndarray, "k r"]  # their normals
    up: Bool[np.ndarray, " k"]  # where they are positive
    slope: Float[np.ndarray, "m r"]  # the derivative
    slack: float  # what may be left of it

    @classmethod
    def of(cls, behind: Behind, station: Station, rows: np.ndarray, bias: np.ndarray) -> _Mixed:
        """At this station."""
        h, moves = local(behind.layers, station.x)
        span = row_space(moves)
        slope = station.slope @ span
        slack = LEFT * float(np.linalg.norm(slope)) + 3 * station.error * np.sqrt(slope.size)
        return cls(rows @ moves @ span, rows @ h + bias > 0, slope, slack)

    def tells(self, active: Bool[np.ndarray, " k"]) -> bool:
        """Whether these neurons' normals could fail to add up to it."""
        return bool(active.sum() < self.parts.shape[1])

    def left(self, active: Bool[np.ndarray, " k"]) -> float:
        """What is left when these neurons explain as much as they can, in units of what may be."""
        if not active.any():
            return float(np.linalg.norm(self.slope)) / self.slack
        q = np.linalg.qr(self.parts[active].T)[0]
        return float(np.linalg.norm(self.slope - (self.slope @ q) @ q.T)) / self.slack


def active_sums(
    behind: Behind, stations: Sequence[Station], found: Sequence[Neuron], least: float
) -> tuple[Bool[np.ndarray, " k"], AffineMap] | None:
    """Which of these neurons make up the layer, and their rows and biases, signs settled.

    `found`: neurons, signs unknown; those that no derivative calls for were met by mistake, or twice. `least`: share of
    the derivatives that must be sums of the active ones. None where they are not all of it.
    """
    if not found:
        return None
    rows, bias = np.array([one.weights for one in found]), np.array([one.bias for one in found])
    # Where the answers do not change at all a derivative tells nothing.
    mixed = [_Mixed.of(behind, station, rows, bias) for station in stations if station.slope.any()]
    mixed = [m for m in mixed if m.slope.any() and m.slack > 0]
    all_neurons = np.ones(len(rows), dtype=bool)
    if not mixed or np.mean([m.left(all_neurons) > 1 for m in mixed if m.tells(all_neurons)] or [False]) > 1 - least:
        return None
    side = _signs(len(rows), mixed)
    for i in range(len(rows)):
        others = all_neurons & (np.arange(len(rows)) != i)
        with_it = [m for m in mixed if m.up[i] == (side[i] > 0)]
        if len(with_it) >= FEW and _wrong(with_it, side, others) <= _wrong(with_it, side, all_neurons):
            all_neurons = others
    telling = [m for m in mixed if m.tells(all_neurons & (m.up == (side > 0)))]
    if len(telling) < TELLING or _wrong(telling, side, all_neurons) > 1 - least:
        return None
    return all_neurons, ((rows * side[:, None])[all_neurons], (bias * side)[all_neurons])


def _wrong(mixed: Sequence[_Mixed], side: Float[np.ndarray, " k"], chosen: Bool[np.ndarray, " k"]) -> float:
    """Share of these derivatives that the active ones of the chosen neurons do not add up to."""
    return float(np.mean([m.left(chosen & (m.up == (side > 0))) > 1 for m in mixed]))


def _signs(k: int, mixed: Sequence[_Mixed]) -> Float[np.ndarray, " k"]:
    """Which sides are active: on the other one a neuron has no share in a derivative."""
    squares, seen = np.zeros((2, k)), np.zeros((2, k))
    each = np.arange(k)
    for m in mixed:
        share = np.linalg.lstsq(m.parts.T, m.slope.T, rcond=RESOLVED)[0] / np.linalg.norm(m.slope)
        squares[m.up.astype(int), each] += (share**2).sum(axis=1)
        seen[m.up.astype(int), each] += 1
    mean = squares / np.maximum(seen, 1)
    side = np.where(mean[1] >= mean[0], 1.0, -1.0)
    # Where more neurons than directions move these are only votes: what derivatives leave decides.
    some = mixed[:: max(1, len(mixed) // TURNS)]

    def left(side: np.ndarray) -> float:
        return float(np.mean([min(m.left(m.up == (side > 0)), FAIR) for m in some]))

    now = left(side)
    doubt = np.argsort(np.abs(mean[1] - mean[0]) / np.maximum(mean.sum(axis=0), 1e-300))
    for _ in range(ROUNDS):
        before = now
        for i in doubt:
            other = side.copy()
            other[i] *= -1
            then = left(other)
            if then < now:
                side, now = other, then
        if now == before:
            break
    return side
