"""whole, signs: when the neurons met are all of a layer, and which of their sides are active, from derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.rounding import AGREE
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import along, derivative, row_space
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.probe import Probe

EXACT = 1e-6  # a derivative lies in the span of some normals, and a neuron has no share in it, up to this part of it
# Besides so many times the error of the derivative itself; one that allows more than this part of it tells nothing.
SIGMAS, VAGUE = 10.0, 1e-5
# What one neuron's error lends to the others where they are told apart badly, and a share that is none of this.
LEAK, LOUD = 100.0, 3e-3
# Part of what other steps change that a step along which no neuron moves may change where answers have few digits, and
# the longest of these relative to its point: where it leads is as usual as where it starts. How far beside, likewise.
FOREIGN, NEAR, BESIDE = 0.02, 0.1, 0.03
REACH = 0.05  # how far steps for derivatives may be expected to stay in a region, relative to how far out it is
TELLING = 3  # derivatives that must have been able to contradict


class Moving(NamedTuple):
    """A derivative of the answers, and how the values of the layers before move where it was measured."""

    x: Float[np.ndarray, " n"]  # the place
    slope: Float[np.ndarray, "m n"]  # the derivative
    error: float  # the standard deviation to be expected of each entry
    span: Float[np.ndarray, "n r"]  # orthonormal directions, all in which these values move
    move: Float[np.ndarray, "k r"]  # how they move along these
    rank: int  # how many of them move independently

    @classmethod
    def of(cls, layers: list[AffineMap], station: Station) -> Moving:
        """Of a derivative that was measured. What it has along directions in which the layers before do not move is its
        error, whatever was expected."""
        x, slope, error = station
        J = local(layers, x)[1]
        span = row_space(J)
        error = max(error, float(np.abs(slope - (slope @ span) @ span.T).max()))
        return cls(x, slope, error, span, J @ span, int(np.linalg.matrix_rank(J)))


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
    rows = np.array([n.weights for n in neurons])
    right, wrong = [], []
    for each in measured:
        normals, error = each.span @ row_space(rows @ each.move), SIGMAS * each.error
        if not _explains(normals, each.slope, error):
            wrong.append(each.x)
        elif error <= VAGUE * np.abs(each.slope).max() and normals.shape[1] < each.rank:
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
        parts, slope = rows @ J, measured.slope
        if not _explains(row_space(parts), slope, 100 * measured.error):
            return None, stations
        share = np.abs(np.linalg.lstsq(parts.T, slope.T, rcond=None)[0]).max(axis=1)
        seen[up, k] += 1
        largest[up, k] = np.maximum(largest[up, k], share)
    quiet = largest < max(10 * EXACT, min(LEAK * doubt, LOUD)) * largest.max()
    if not (seen.sum(axis=0) > 0).all() or not quiet.any(axis=0).all():
        return None, stations
    side = np.where(largest[1] >= largest[0], 1.0, -1.0)
    side = np.where((seen[0] == 0) & quiet[1], -1.0, side)
    side = np.where((seen[1] == 0) & quiet[0], 1.0, side)
    return (rows * side[:, None], bias * side), stations


def leaks(
    probe: Probe,
    layers: list[AffineMap],
    layer: AffineMap,
    pool: Float[np.ndarray, "N n"],
    count: int,
    doubt: float = 0.0,
) -> tuple[Float[np.ndarray, "R n"], Float[np.ndarray, "W n"]]:
    """Where the answers stay when this layer does, and where they change: there a neuron of it is missing.

    Moving along none of its active neurons must change nothing. Of the pool `count` points are looked at, none where
    these move along every direction in which the layers before do. `doubt`: the largest error of the layer's weights.
    Queries: at most `2 count`.
    """
    there, step, _ = _still(probe, layers, layer, pool, count, 1.0)
    x = pool[there]
    if not len(x):
        return x, x
    end = x + step
    y = probe.ask(np.concatenate([x, end]))
    change = np.abs(y[: len(x)] - y[len(x) :])
    slack = max(EXACT, min(LEAK * doubt, LOUD)) * np.linalg.norm(step, axis=1) / np.linalg.norm(x, axis=1)
    sigma = probe.noise.at(x, y[: len(x)]) + probe.noise.at(end, y[len(x) :])
    allowed = AGREE * sigma + slack[:, None] * np.abs(y).max(axis=0)
    quiet = (change <= allowed).all(axis=1)
    return x[quiet], np.concatenate([x[~quiet], end[~quiet]])


def leaks_of_few(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], count: int
) -> tuple[Float[np.ndarray, "R n"], Float[np.ndarray, "W n"]]:
    """`leaks` where answers have few digits: a change counts beside that along any other direction.

    Places where that is none that rounding leaves tell nothing. Where answers change a little beside as well, it is no
    known neuron's, which is on the other side of its hyperplane than its coarse row says. Queries: at most `3 count`,
    and three for each point where answers change.
    """
    quiet, changing = steady_of_few(probe, layers, layer, pool, count)
    wrong = pool[changing]
    size = BESIDE * np.linalg.norm(wrong, axis=1, keepdims=True) / np.sqrt(pool.shape[1])
    beside = wrong + size * probe.rng.standard_normal(wrong.shape)
    return pool[quiet], beside[steady_of_few(probe, layers, layer, beside, count)[1]]


def steady_of_few(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], count: int
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " C"]]:
    """Which points of the pool `leaks_of_few` takes for right, and at which answers change. Queries: at most
    `3 count`."""
    there, step, other = _still(probe, layers, layer, pool, count, NEAR)
    if not len(there):
        return there, there
    x = pool[there]
    y = probe.ask(np.concatenate([x, x + step, x + other])).reshape(3, len(x), -1)
    change, usual = (np.linalg.norm(each - y[0], axis=1) for each in y[1:])
    noise = AGREE * np.linalg.norm(probe.noise.at(x, y[0]), axis=1)
    wrong = change > FOREIGN * usual + noise
    quiet = ~wrong & (FOREIGN * usual > noise)
    return there[quiet], there[wrong]


def _still(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], count: int, far: float
) -> tuple[Int[np.ndarray, " S"], Float[np.ndarray, "S n"], Float[np.ndarray, "S n"]]:
    """Which points, steps along which none of the layer's neurons moves, and steps as long along any direction. None is
    longer than `far` times its point."""
    W, b = layer
    there, step, other = [], [], []
    for i, x in enumerate(pool):
        h, J = local(layers, x)
        z = W @ h + b
        span = row_space(J)
        _, s, vt = np.linalg.svd((W @ J @ span)[z > 0], full_matrices=True)
        still = span @ vt[int((s > 1e-6 * s.max(initial=0)).sum()) :].T
        if not still.shape[1]:
            continue
        v, any_ = (each @ probe.rng.standard_normal(each.shape[1]) for each in (still, span))
        v *= np.linalg.norm(x) / np.linalg.norm(v)
        # Not so far that a known neuron switches.
        rate = W @ J @ v
        with np.errstate(divide="ignore"):
            room = np.where((z <= 0) & (rate > 0), -z / rate, np.inf).min(initial=along(layers, x, v, 0.0, far)[0][1])
        there.append(i)
        step.append(0.9 * room * v)
        other.append(np.linalg.norm(step[-1]) * any_ / np.linalg.norm(any_))
        if len(there) == count:
            break
    return np.array(there, dtype=int), *(np.array(each).reshape(-1, pool.shape[1]) for each in (step, other))  # type: ignore[return-value]


def _explains(normals: Float[np.ndarray, "n r"], slope: Float[np.ndarray, "m n"], error: float) -> bool:
    """Whether a derivative is a mixture of these orthonormal columns, but for its error."""
    left = slope - (slope @ normals) @ normals.T
    return bool(np.abs(left).max() <= EXACT * np.abs(slope).max() + error)


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
