"""Rare classes: rays inside a class's region to those of its boundaries that tell what is still open about it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.crossings import cross
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.pool import Pool

CHAINS, STEPS = 192, 12
"""Random walks inside a class's region, and their steps: they cost nothing."""

TOWARDS = 0.5
"""Share of the steps that go towards a neuron's active side."""

SHORTEST, LONGEST, LENGTHS = 1e-4, 300.0, 40
"""Lengths at which a walk looks for the end of the region."""

SEEN = 1e-2
"""What points tell of a number less than this share of a usual one's is not told."""

RAYS = 24
"""Rays asked for a class at a time."""

BEHIND = (1.02, 1.5, 4.0, 16.0)
"""So many times as far as foretold another label is looked for."""


def rare_crossings(
    model: LabelModel, pool: Pool, at: Crossings, label: int, cell: float, rng: np.random.Generator
) -> Crossings:
    """Boundary points of a class that tell what others leave open about its weights; none where nothing is.

    Args:
        model: Right but for numbers that no point told.
        pool: Whose chart is asked.
        at: Boundary points known.
        label: The class.
        cell: How finely points are located.
        rng: Draws the walks.

    Queries: at most about 40 for each of `RAYS` rays
    """
    ours = at[np.flatnonzero((at.before == label) | (at.after == label))]
    if not len(ours):
        return Crossings.none(pool.chart.n)
    start, along, length = _rays(model, pool, _inside(pool, ours, label), label, rng)
    end = start + length[:, None] * along
    offered = _numbers(model, end, _steep(model, _to_the_next(model, end, label)))
    chosen = _telling(_numbers(model, ours.x, _steep(model, ours)), offered)
    start, along, length = start[chosen], along[chosen], length[chosen]
    good = np.flatnonzero(pool.side.labels(start) == label) if len(start) else np.empty(0, dtype=int)
    start, along, length = start[good], along[good], length[good]
    behind, other = np.zeros(len(start)), np.full(len(start), label)
    for times in BEHIND:
        open_ = np.flatnonzero(other == label)
        open_ = open_[pool.chart.room(start[open_], along[open_]) > times * length[open_]]
        if not len(open_):
            break
        behind[open_] = times * length[open_]
        other[open_] = pool.side.labels(start[open_] + behind[open_, None] * along[open_])
    met = np.flatnonzero(other != label)
    if not len(met):
        return Crossings.none(pool.chart.n)
    end = start[met] + behind[met, None] * along[met]
    return cross(pool.side, start[met], end, np.full(len(met), label), other[met], cell)


def telling_rare(model: LabelModel, at: Crossings, known: Crossings, need: int) -> Crossings:
    """Of boundary points known those that tell what others do not: of classes with few of these or with open numbers.

    Args:
        model: The model.
        at: The others.
        known: Points of all its classes.
        need: So many tell a class.

    Queries: `0`
    """
    rows: list[Int[np.ndarray, " r"]] = [np.empty(0, dtype=int)]
    for label in model.classes:
        ours = at[np.flatnonzero((at.before == label) | (at.after == label))]
        told = _numbers(model, ours.x, _steep(model, ours))
        if len(told) >= need and (np.linalg.svd(told, compute_uv=False) > SEEN).all():
            continue
        mine = np.flatnonzero((known.before == label) | (known.after == label))
        if len(mine):
            offered = _numbers(model, known.x[mine], _steep(model, known[mine]))
            rows.append(mine[linalg.qr(offered.T, mode="r", pivoting=True, check_finite=False)[1][:need]])
    return known[np.unique(np.concatenate(rows))]


def _numbers(
    model: LabelModel, x: Float[np.ndarray, "N d"], steep: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N p"]:
    """What a boundary point's distance depends on: a class's weights, each in units of its neuron's, and its offset."""
    long = np.linalg.norm(model.inner, axis=1)
    effect = np.linalg.norm(model.outer - model.outer.mean(axis=0), axis=0) * long
    usual = float(np.median(effect)) if len(effect) else 1.0
    hidden = model.phi.value(x @ model.inner.T + model.bias) / np.maximum(long, 1e-300)
    rows = np.concatenate([hidden, np.ones((len(x), 1))], axis=1) * usual
    if model.affine.any():
        rows = np.concatenate([rows, x * usual], axis=1)
    return rows / np.maximum(steep, 1e-300)[:, None]


def _steep(model: LabelModel, at: Crossings) -> Float[np.ndarray, " N"]:
    """Lengths of the gradients between both classes."""
    return np.asarray(np.linalg.norm(model.gaps(at)[1], axis=1))


def _to_the_next(model: LabelModel, x: Float[np.ndarray, "N d"], label: int) -> Crossings:
    """Places as crossings from a class to the likeliest other one."""
    logits = model.logits(x)
    logits[:, int(model.rows(np.array([label]))[0])] = -np.inf
    other = model.classes[logits.argmax(axis=1)]
    return Crossings(x, np.full(len(x), label), other, np.zeros_like(x), np.zeros(len(x)))


def _inside(pool: Pool, ours: Crossings, label: int) -> Float[np.ndarray, "N d"]:
    """Points of the class: random ones, and the near sides of its boundary points."""
    sign = np.where(ours.before == label, -1.0, 1.0)
    shift = np.maximum(ours.width, 4 * pool.chart.digits)
    return np.concatenate([pool.y[pool.label == label], ours.x + (sign * shift)[:, None] * ours.along])


def _rays(
    model: LabelModel, pool: Pool, seeds: Float[np.ndarray, "N d"], label: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "M d"], Float[np.ndarray, "M d"], Float[np.ndarray, " M"]]:
    """Rays from places inside a class's region, as the model has it, and how far they stay inside."""
    y = seeds[rng.integers(len(seeds), size=CHAINS)]
    y = y[model.labels(y) == label]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    unit = model.inner / np.maximum(np.linalg.norm(model.inner, axis=1), 1e-300)[:, None]
    for _ in range(STEPS):
        if not len(y):
            break
        along = rng.standard_normal(y.shape) / np.sqrt(y.shape[1])
        if len(unit):
            toward = rng.random(len(y)) < TOWARDS
            along[toward] += unit[rng.integers(len(unit), size=int(toward.sum()))]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        length = _stay(model, pool, y, along, label)
        ends = np.flatnonzero(np.isfinite(length))
        parts.append((y[ends], along[ends], length[ends]))
        y = y + (rng.random(len(y)) * np.where(np.isfinite(length), length, SHORTEST))[:, None] * along
    if not parts:
        return np.empty((0, pool.chart.n)), np.empty((0, pool.chart.n)), np.empty(0)
    starts, ways, lengths = (np.concatenate(each) for each in zip(*parts, strict=True))
    return starts, ways, lengths


def _stay(
    model: LabelModel, pool: Pool, y: Float[np.ndarray, "N d"], along: Float[np.ndarray, "N d"], label: int
) -> Float[np.ndarray, " N"]:
    """How far along each ray the model has the class; infinite where it does not end."""
    low, high = np.zeros(len(y)), np.full(len(y), np.inf)
    most = np.minimum(0.9 * pool.chart.room(y, along), LONGEST)
    for s in np.geomspace(SHORTEST, LONGEST, LENGTHS):
        going = np.flatnonzero(np.isinf(high) & (s <= most))
        inside = model.labels(y[going] + s * along[going]) == label
        low[going[inside]], high[going[~inside]] = s, s
    found = np.flatnonzero(np.isfinite(high))
    for _ in range(40):
        middle = (low[found] + high[found]) / 2
        inside = model.labels(y[found] + middle[:, None] * along[found]) == label
        low[found[inside]], high[found[~inside]] = middle[inside], middle[~inside]
    return high


def _telling(known: Float[np.ndarray, "N p"], offered: Float[np.ndarray, "M p"]) -> Int[np.ndarray, " r"]:
    """Which offered rows tell most beyond the known ones, one after the other, as long as they tell something."""
    inverse = np.linalg.inv(known.T @ known + SEEN**2 * np.eye(known.shape[1]))
    chosen: list[int] = []
    for _ in range(min(RAYS, len(offered))):
        ahead = offered @ inverse
        gain = np.sum(ahead * offered, axis=1)
        best = int(gain.argmax())
        if not gain[best] > 1:
            break
        chosen.append(best)
        inverse = inverse - np.outer(ahead[best], ahead[best]) / (1 + gain[best])
    return np.array(chosen, dtype=int)
