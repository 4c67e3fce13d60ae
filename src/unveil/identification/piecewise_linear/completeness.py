"""leaks: whether a layer lacks a neuron: answers must stay where it does."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.rounding import AGREE
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import along, row_space
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.probe import Probe

# What a step along which no neuron moves may change, relative to other steps: so many times what rows are off, at least
# and at most. So many times that far beside, at most, it is looked again, relative to a point.
LEAK, LEAST_LEAK, LOUD, ASIDE_ERRORS, NEARBY = 100.0, 1e-6, 0.02, 30.0, 0.03
STILL_STEP = 0.1  # the longest of these steps relative to its point: where it leads is as usual as where it starts


def leaks(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], count: int, doubt: float
) -> tuple[Float[np.ndarray, "R n"], Float[np.ndarray, "W n"]]:
    """Where the answers stay when this layer does, and where they change: there a neuron of it is missing.

    Where answers change, but not a little beside, it is a known neuron's doing that is on the other side of its
    hyperplane than its row says. `doubt`: how far rows may be off. Queries: those of `steady` for the pool, and for the
    points where answers change.
    """
    quiet, changing = steady(probe, layers, layer, pool, count, doubt)
    wrong = pool[changing]
    size = min(ASIDE_ERRORS * doubt, NEARBY) * np.linalg.norm(wrong, axis=1, keepdims=True) / np.sqrt(pool.shape[1])
    beside = wrong + size * probe.rng.standard_normal(wrong.shape)
    return pool[quiet], beside[steady(probe, layers, layer, beside, count, doubt)[1]]


def steady(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], count: int, doubt: float
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " C"]]:
    """At which points of the pool answers stay when this layer does, and at which they change.

    Moving along none of its active neurons must change nothing, beside what moving in any direction does; where that is
    no more than rounding nothing is told. Of the pool `count` points are looked at, none where these neurons move along
    every direction in which the layers before do. Queries: at most `3 count`.
    """
    there, step, other = _still(probe, layers, layer, pool, count)
    if not len(there):
        return there, there
    x = pool[there]
    y = probe.ask(np.concatenate([x, x + step, x + other])).reshape(3, len(x), -1)
    change, usual = (np.linalg.norm(each - y[0], axis=1) for each in y[1:])
    noise = AGREE * np.linalg.norm(probe.noise.at(x, y[0]), axis=1)
    allowed = float(np.clip(LEAK * doubt, LEAST_LEAK, LOUD)) * usual
    wrong = change > allowed + noise
    return there[~wrong & (allowed > noise)], there[wrong]


def _still(
    probe: Probe, layers: list[AffineMap], layer: AffineMap, pool: Float[np.ndarray, "N n"], count: int
) -> tuple[Int[np.ndarray, " S"], Float[np.ndarray, "S n"], Float[np.ndarray, "S n"]]:
    """Which points, steps along which none of the layer's neurons moves, and steps as long along any direction."""
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
            room = np.where((z <= 0) & (rate > 0), -z / rate, np.inf).min(
                initial=along(layers, x, v, 0.0, STILL_STEP)[0][1]
            )
        there.append(i)
        step.append(0.9 * room * v)
        other.append(np.linalg.norm(step[-1]) * any_ / np.linalg.norm(any_))
        if len(there) == count:
            break
    return np.array(there, dtype=int), *(np.array(each).reshape(-1, pool.shape[1]) for each in (step, other))  # type: ignore[return-value]
