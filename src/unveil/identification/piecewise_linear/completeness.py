"""leaks: whether a layer lacks a neuron: answers must stay where it does."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.rounding import AGREE
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import along, row_space
from unveil.identification.piecewise_linear.derivative_sums import HELD, LEAK, LOUD
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.probe import Probe

# Part of what other steps change that a step along which no neuron moves may change where answers have few digits, and
# the longest of these relative to its point: where it leads is as usual as where it starts. How far beside, likewise.
FOREIGN, NEAR, BESIDE = 0.02, 0.1, 0.03


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
    slack = max(HELD[True].part, min(LEAK * doubt, LOUD)) * np.linalg.norm(step, axis=1) / np.linalg.norm(x, axis=1)
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
