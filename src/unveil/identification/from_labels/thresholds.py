"""Thresholds: boundaries at which a single input crosses a value, as those of trees and rules are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.faces import Precision
from unveil.identification.from_labels.pool import Pool

# Boundary points looked at first, and further ones where all of these are a single input's.
FIRST_THRESHOLD_POINTS, FURTHER_THRESHOLD_POINTS = 2, 14
SINGLE_INPUT_SHARE = 0.8  # share that must be a single input's: of others a second threshold lies close by
# So many thresholds, of two inputs at least: some flat pieces of a network's boundary belong to one input, too.
LEAST_THRESHOLDS = 4
AWAY = 20.0  # all other inputs are moved by so many times the move that the one input must not make


def thresholds(
    pool: Pool, precision: Precision, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]] | None:
    """Inputs at whose values the label changes whatever all others are; None where the boundary is no such staircase.

    Of a point just behind the boundary half of the coordinates are moved back, and so on, until one is left; the label
    must follow this one and none of the others. `pool`: points of two labels, in coordinates along all inputs.
    `precision`: lengths to ask at. `rng`: moves the other inputs. Returns inputs, and their values, in order. Queries:
    about `38 + log2(n)` a boundary point, two of them where the boundary is not like that.
    """
    chart = pool.chart
    at = pool.crossings(FIRST_THRESHOLD_POINTS, precision.cell)
    single, which = _single(pool, at, precision, rng)
    if not len(at) or not single.all():
        return None
    more = pool.crossings(FURTHER_THRESHOLD_POINTS, precision.cell)
    also, others = _single(pool, more, precision, rng)
    at, single, which = Crossings.joined([at, more]), np.append(single, also), np.append(which, others)
    if single.mean() < SINGLE_INPUT_SHARE:
        return None
    which, value = which[single], chart.inputs(at.x)[single, which[single]]
    order = np.lexsort((value, which))
    which, value = which[order], value[order]
    new = np.append(True, (np.diff(which) != 0) | (np.diff(value) > 1e-6 * chart.size))
    if new.sum() < LEAST_THRESHOLDS or len(set(which.tolist())) < 2:
        return None
    return which[new], value[new]


def told(which: Int[np.ndarray, " N"], value: Float[np.ndarray, " N"]) -> str:
    """What is said of the thresholds met, inputs and their values."""
    some = ", ".join(f"input {i} at {at:.4g}" for i, at in list(zip(which, value, strict=True))[:4])
    return (
        f"The label changes where single inputs cross thresholds ({some}), as trees and rules do: there is no "
        f"network behind it. {len(which)} thresholds of {len(set(which.tolist()))} inputs were met, each for "
        'about 40 labels (`stats["thresholds"]`).'
    )


def _single(
    pool: Pool, at: Crossings, precision: Precision, rng: np.random.Generator
) -> tuple[np.ndarray, Int[np.ndarray, " N"]]:
    """Whether each boundary is a single input's, and which one's."""
    count, n = at.x.shape
    if not count:
        return np.empty(0, dtype=bool), np.empty(0, dtype=int)
    move = precision.step / AWAY * at.along
    before, behind = at.x - move, at.x + move
    rows = np.arange(count)
    inside = np.ones((count, n), dtype=bool)
    for _ in range(int(np.ceil(np.log2(max(n, 2)))) + 1):
        # The first half of what is left.
        half = inside & (np.cumsum(inside, axis=1) <= np.maximum(inside.sum(axis=1, keepdims=True) // 2, 1))
        followed = pool.side.labels(behind - 2 * half * move) == at.before
        inside = np.where(
            followed[:, None], half, np.where((inside & ~half).any(axis=1)[:, None], inside & ~half, half)
        )
    which = inside.argmax(axis=1)
    only = np.zeros((count, n))
    only[rows, which] = 1.0
    others = (1 - only) * AWAY * np.abs(move).mean() * rng.choice([-1.0, 1.0], (count, n))
    expected = [(before, at.before), (behind, at.after), (behind - 2 * only * move, at.before)]
    expected += [(before + 2 * only * move, at.after), (before + others, at.before), (behind + others, at.after)]
    told = pool.side.labels(np.concatenate([y for y, _ in expected])).reshape(len(expected), count)
    return (told == np.stack([label for _, label in expected])).all(axis=0), which
