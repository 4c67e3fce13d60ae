"""Crossings that a model foretells: on its own boundaries, and of these the ones that determine its numbers best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.faces import tangents
from unveil.identification.from_labels.model import Boundaries
from unveil.identification.from_labels.pool import Pool

BESIDE_DISTANCE_ORDERS = (-3.0, 0.5)  # decimal orders of the distances beside crossings that were met
# Sizes, in those of a typical input, at which a neuron that is active at the whole boundary is looked for.
FAR = (1.0, 30.0, 900.0)
POINTS_PER_EXTREME = 12  # boundary points at each size with the least, the largest and other values
FORETOLD_DISTANCE = 1e-6  # how far off these may be, relative to their size
HALVED = 26  # bisections on a model's own boundary, before one Newton step


def telling_crossings(
    model: Boundaries, pool: Pool, count: int, rng: np.random.Generator, met: Crossings | None = None
) -> Crossings:
    """Points on a model's own boundaries, out of three times as many, that determine its numbers best. Costs nothing.

    `model`: the model. `pool`: whose random points are told apart. `rng`: draws them. `met`: crossings met before,
    taken into the choice with others beside them: some pieces of a boundary are too small to be foretold by random
    points, and one point on a piece does not tell where it lies.
    """
    at = foretold_crossings(model, pool, pool.chart, 3 * count, rng)
    at = at if met is None else Crossings.joined([at, met, crossings_beside(model, pool.chart, met, count, rng)])
    jacobian = model.linearised(at)[1]
    scale = np.linalg.norm(jacobian, axis=0)
    jacobian = jacobian[:, scale > 1e-12 * scale.max()] / scale[scale > 1e-12 * scale.max()]
    order = linalg.qr(jacobian.T, mode="r", pivoting=True, check_finite=False)[1]
    best = order[: min(jacobian.shape)]
    rest = np.setdiff1d(np.arange(len(at)), best)
    spare = rng.choice(rest, max(0, min(count - len(best), len(rest))), replace=False)
    return at[np.concatenate([best, spare])]


def foretold_crossings(model: Boundaries, pool: Pool, chart: Chart, count: int, rng: np.random.Generator) -> Crossings:
    """Where a model changes its label on random segments, crossed along its own normals. Costs nothing."""
    parts: list[Crossings] = []
    have = 0
    for _ in range(12):
        y = pool.sample(4 * count, rng)
        label = model.labels(y)
        # Every class as often as any other, as far as it is seen.
        weight = 1 / np.unique(label, return_counts=True)[1][np.unique(label, return_inverse=True)[1]]
        start, end = rng.choice(len(y), (2, 2 * count), p=weight / weight.sum())
        differ = label[start] != label[end]
        start, end = start[differ], end[differ]
        if not len(start):
            continue
        parts.append(_crossed(model, chart, y[start], y[end]))
        have += len(parts[-1])
        if have >= count:
            break
    return Crossings.joined(parts)[slice(0, count)] if parts else Crossings.none(chart.n)


def as_foretold(
    model: Boundaries, pool: Pool, value: Callable[[Crossings], Float[np.ndarray, " N"]], rng: np.random.Generator
) -> bool:
    """Whether all of some boundary points, near and far, with the least, the largest and other values are there.

    `model`: the model. `pool`: points in its coordinates. `value`: by which points are picked. `rng`: draws them.
    Queries: 6 for each of `POINTS_PER_EXTREME` at each of `FAR`.
    """
    for size in FAR:
        at = at_extremes(model, pool, value, size, rng)
        half = FORETOLD_DISTANCE * np.maximum(np.linalg.norm(at.x, axis=1), 1.0)
        if len(cross_near(pool.side, *at.expected, half, np.inf, grow=0)[1]) < len(at):
            return False
    return True


def at_extremes(
    model: Boundaries,
    pool: Pool,
    value: Callable[[Crossings], Float[np.ndarray, " N"]],
    size: float,
    rng: np.random.Generator,
) -> Crossings:
    """Boundary points at a size with the least, the largest and other values, that a model foretells. Costs nothing.
    `model`, `pool`, `value`, `rng`: as in `as_foretold`. `size`: in those of a typical input."""
    wide = Pool(pool.side, pool.chart, size * pool.size, pool.given[:0], rng)
    at = foretold_crossings(model, wide, pool.chart, 24 * POINTS_PER_EXTREME, rng)
    order = np.argsort(value(at))
    return at[
        np.concatenate(
            [
                order[:POINTS_PER_EXTREME],
                order[-POINTS_PER_EXTREME:],
                rng.permutation(order[POINTS_PER_EXTREME:-POINTS_PER_EXTREME])[:POINTS_PER_EXTREME],
            ]
        )
    ]


def crossings_beside(
    model: Boundaries, chart: Chart, met: Crossings, count: int, rng: np.random.Generator
) -> Crossings:
    """Where a model has its boundary beside crossings that were met, at distances of all orders. Costs nothing."""
    if not len(met):
        return met
    at = met[rng.integers(len(met), size=count)]
    length = 10.0 ** rng.uniform(*BESIDE_DISTANCE_ORDERS, size=(count, 1))
    aside, up = at.x + length * tangents(at.along, rng), length * at.along
    start, end = aside - up, aside + up
    differ = np.flatnonzero(model.labels(start) != model.labels(end))
    return _crossed(model, chart, start[differ], end[differ])


def _crossed(
    model: Boundaries, chart: Chart, low: Float[np.ndarray, "N d"], high: Float[np.ndarray, "N d"]
) -> Crossings:
    """Where a model's label changes first on segments, those of them that are legal."""
    start, end = model.sums(low), model.sums(high)
    before, after = model.labels_of(start), model.labels_of(end)
    at, width = np.full((len(low), 1), 0.5), 0.5
    for _ in range(HALVED):
        here = model.labels_of(start + at * (end - start))
        inside = here == before
        after, width = np.where(inside, after, here), width / 2
        at += np.where(inside, width, -width)[:, None]
    found = Crossings(low + at * (high - low), before, after, low, np.zeros(len(low)))
    gradient = model.gaps(found)[1]
    steep = np.linalg.norm(gradient, axis=1)
    found = replace(found, along=-gradient / np.maximum(steep, 1e-300)[:, None])
    bracket = 2 * width * np.linalg.norm(high - low, axis=1)
    rows = np.flatnonzero((steep > 0) & (chart.margin(found.x) > 1e-3))
    there = on_model_boundary(model, found[rows])
    # Further off there is a bend in between.
    return there[np.flatnonzero(np.linalg.norm(there.x - found.x[rows], axis=1) <= bracket[rows])]


def on_model_boundary(model: Boundaries, at: Crossings) -> Crossings:
    """The same crossings where a model has its boundary."""
    gap, gradient = model.gaps(at)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = gap / np.sum(gradient * at.along, axis=1)
    return replace(at, x=at.x - np.where(np.abs(off) < 1e-2, off, 0.0)[:, None] * at.along)
