"""Derivatives are sums of the active neurons' normals: whether the neurons met are all of a layer, and their signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import derivative, row_space
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.probe import Probe


class Held(NamedTuple):
    """What of a derivative neurons may leave that make it up."""

    part: float  # a part of it, for the errors of their weights
    sigmas: float  # and so many times its own error


# By whether answers are exact.
HELD = {True: Held(1e-6, 10.0), False: Held(0.02, 3.0)}
WIDE = 100.0  # deviations of a derivative beyond which signs cannot be told from it
VAGUE = 1e-5  # an exact derivative that allows more than this part of it tells nothing
# What one neuron's error lends to the others where they are told apart badly, and a share that is none of this.
LEAK, LOUD = 100.0, 3e-3
REACH = 0.05  # how far steps for derivatives may be expected to stay in a region, relative to how far out it is
TELLING, MANY_TELLING = 3, 20  # derivatives that must have been able to contradict: exact ones, and ones of few digits
FEW = 5  # derivatives with a neuron's share that must not call for it before it is left out
# Derivatives that decide sides, rounds of turning one after the other, and the largest weight of one that nothing
# explains; relative singular values below which a mixture is not resolved.
TURNS, ROUNDS, FAIR, RESOLVED = 200, 3, 5.0, 0.01


class Moving(NamedTuple):
    """A derivative of the answers, and how the values of the layers before move where it was measured."""

    x: Float[np.ndarray, " n"]  # the place
    h: Float[np.ndarray, " k"]  # the values
    slope: Float[np.ndarray, "m r"]  # the derivative along orthonormal directions, all in which these values move
    error: float  # the standard deviation to be expected of each entry
    move: Float[np.ndarray, "k r"]  # how the values move along these

    @classmethod
    def of(cls, layers: Sequence[AffineMap], station: Station) -> Moving:
        """Of a derivative that was measured. What it has along directions in which the layers before do not move is its
        error, whatever was expected."""
        x, slope, error = station
        h, J = local(layers, x)
        span = row_space(J)
        inside = slope @ span
        error = max(error, float(np.abs(slope - inside @ span.T).max(initial=0)))
        return cls(x, h, inside, error, J @ span)

    @property
    def rank(self) -> int:
        """Along how many directions values move."""
        return int(self.move.shape[1])

    def left(self, span: Float[np.ndarray, "r q"], held: Held) -> float:
        """What neurons whose normals have this orthonormal basis leave of it, in units of what they may."""
        size = float(np.linalg.norm(self.slope))
        left = float(np.linalg.norm(self.slope - (self.slope @ span) @ span.T))
        return left / max(held.part * size + held.sigmas * self.error * float(np.sqrt(self.slope.size)), 1e-300)


def whole(sure: list[Neuron], perhaps: list[Neuron], measured: Sequence[Moving]) -> list[Neuron] | None:
    """The neurons of a layer, if they are all there: every derivative is a sum of the active ones' normals.

    `sure`: neurons of this layer. `perhaps`: neurons that could be of a deeper one; those that no derivative calls for
    are left out. `measured`: derivatives behind the layers before. None if some are missing, or if too few derivatives
    told though they could.
    """

    def spans(neurons: list[Neuron]) -> bool:
        right, wrong = judged(neurons, measured)
        # With as many neurons as directions no derivative can contradict: `leaks` must show what is missing.
        return not len(wrong) and (len(right) >= TELLING or len(neurons) >= most)

    most = max(each.rank for each in measured)
    chosen = [*sure, *perhaps]
    if not chosen or not spans(chosen):
        return None
    for neuron in perhaps:
        others = [n for n in chosen if n is not neuron]
        if others and spans(others):
            chosen = others
    return chosen


def judged(
    neurons: list[Neuron], measured: Sequence[Moving]
) -> tuple[Float[np.ndarray, "R n"], Float[np.ndarray, "W n"]]:
    """Where derivatives are sums of these neurons' normals though they need not be, and where they are not."""
    rows, held = np.array([n.weights for n in neurons]), HELD[True]
    right, wrong = [], []
    for each in measured:
        sharp = held.sigmas * each.error <= VAGUE * np.abs(each.slope).max(initial=0)
        span = row_space(rows @ each.move)
        if each.left(span, held) > 1:
            wrong.append(each.x)
        elif sharp and span.shape[1] < each.rank:
            right.append(each.x)
    n = len(measured[0].x) if measured else 0
    return np.array(right).reshape(len(right), n), np.array(wrong).reshape(len(wrong), n)


def told(
    probe: Probe,
    layers: list[AffineMap],
    neurons: list[Neuron],
    measured: Sequence[Moving],
    pool: Float[np.ndarray, "N n"],
) -> list[Station]:
    """Derivatives that could contradict these neurons, where those measured so far are too few for that. Queries:
    `r + 4` per derivative in the r directions in which the layers before move; `TELLING` at most."""
    lack = TELLING - sum(map(len, judged(neurons, measured)))
    rows, out = np.array([n.weights for n in neurons]), list[Station]()
    for x in pool:
        if lack <= 0:
            break
        J = local(layers, x)[1]
        if len(rows) < J.any(axis=1).sum() and row_space(rows @ J).shape[1] < np.linalg.matrix_rank(J):
            station = derivative(probe, layers, x, REACH * float(np.linalg.norm(x)))
            out += [] if station is None else [station]
            lack -= 1
    return out


def signs(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], doubt: float = 0.0
) -> tuple[AffineMap | None, list[Station]]:
    """Turn these neurons so that positive is active: an inactive one has no share in the derivatives.

    `layer`: all neurons of this layer, up to sign; `doubt`: the largest error of their weights. Returns None for the
    layer if these are not all of it after all, or some neuron's sign cannot be told; and where derivatives were
    measured. Queries: `r + 4` per derivative in the r directions in which the layers before move; some 4 to 8 of them.
    """
    rows, bias = layer
    stations: list[Station] = []
    k = np.arange(len(rows))
    seen, largest = np.zeros((2, len(rows)), dtype=int), np.zeros((2, len(rows)))
    for x in _clearest(layers, rows, pool):
        h, J = local(layers, x)
        up = (rows @ h + bias > 0).astype(int)
        if (seen[up, k] >= 2).all():
            continue
        if seen.sum() > 8 * len(rows):
            break
        measured = derivative(probe, layers, x, REACH * float(np.linalg.norm(x)))
        if measured is None:
            continue
        stations.append(measured)
        here = Moving.of(layers, measured)
        if here.left(row_space(rows @ here.move), HELD[True]._replace(sigmas=WIDE)) > 1:
            return None, stations
        share = np.abs(np.linalg.lstsq((rows @ J).T, measured.slope.T, rcond=None)[0]).max(axis=1)
        seen[up, k] += 1
        largest[up, k] = np.maximum(largest[up, k], share)
    quiet = largest < max(10 * HELD[True].part, min(LEAK * doubt, LOUD)) * largest.max()
    if not (seen.sum(axis=0) > 0).all() or not quiet.any(axis=0).all():
        return None, stations
    side = np.where(largest[1] >= largest[0], 1.0, -1.0)
    side = np.where((seen[0] == 0) & quiet[1], -1.0, side)
    side = np.where((seen[1] == 0) & quiet[0], 1.0, side)
    return (rows * side[:, None], bias * side), stations


def _clearest(layers: list[AffineMap], rows: np.ndarray, pool: np.ndarray) -> list[np.ndarray]:
    """Points where the shares of all these neurons in a derivative can be told apart, the clearest first."""
    clear = []
    for x in pool:
        move = rows @ local(layers, x)[1]
        size = np.linalg.norm(move, axis=1, keepdims=True)
        s = np.linalg.svd(move / np.maximum(size, 1e-300), compute_uv=False)
        if len(s) == len(rows) and s[-1] > 1e-3 and size.min() > 1e-9:
            clear.append((float(s[-1]), x))
    clear.sort(key=lambda place: -place[0])
    return [x for _, x in clear[:200]]


@dataclass(frozen=True)
class _Mixed:
    """A derivative as a sum of neurons' normals, of few digits."""

    of: Moving  # the derivative
    parts: Float[np.ndarray, "q r"]  # the neurons' normals
    up: Bool[np.ndarray, " q"]  # where they are positive

    def tells(self, active: Bool[np.ndarray, " q"]) -> bool:
        """Whether these neurons' normals could fail to add up to it."""
        return bool(active.sum() < self.of.rank)

    def left(self, active: Bool[np.ndarray, " q"]) -> float:
        """What is left when these neurons explain as much as they can, in units of what may be."""
        return self.of.left(np.linalg.qr(self.parts[active].T)[0], HELD[False])


def active_sums(
    layers: Sequence[AffineMap], stations: Sequence[Station], found: Sequence[Neuron], least: float
) -> tuple[Bool[np.ndarray, " k"], AffineMap] | None:
    """Which of these neurons make up the layer, and their rows and biases, signs settled.

    `found`: neurons, signs unknown; those that no derivative calls for were met by mistake, or twice. `least`: share of
    the derivatives that must be sums of the active ones. None where they are not all of it.
    """
    if not found:
        return None
    rows, bias = np.array([one.weights for one in found]), np.array([one.bias for one in found])
    # Where the answers do not change at all a derivative tells nothing.
    measured = [Moving.of(layers, station) for station in stations if station.slope.any()]
    mixed = [_Mixed(each, rows @ each.move, rows @ each.h + bias > 0) for each in measured if each.slope.any()]
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
    if len(telling) < MANY_TELLING or _wrong(telling, side, all_neurons) > 1 - least:
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
        share = np.linalg.lstsq(m.parts.T, m.of.slope.T, rcond=RESOLVED)[0] / np.linalg.norm(m.of.slope)
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
