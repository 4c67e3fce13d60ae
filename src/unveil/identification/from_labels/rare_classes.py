"""Rare classes: rays inside a class's region to those of its boundaries that tell what is still open about it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.crossings import cross
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.model import LabelModel, flat
from unveil.identification.from_labels.pool import Pool

CHAINS, WALK_AND_NEWTON_STEPS = 192, 12  # random walks inside a class's region, and their steps: they cost nothing
TOWARDS = 0.5  # share of the steps that go towards a neuron's active side
# Lengths at which a walk looks for the end of the region.
SHORTEST_WALK_LENGTH, LONGEST_WALK_LENGTH, LENGTHS = 1e-4, 300.0, 40
TOLD_NUMBER_SHARE = 3e-3  # what points tell of a number less than this share of a usual one's is not told
UNTOLD_NUMBER_SHARE = 1e-7  # the same where it is not told at all
RAYS = 48  # rays asked at a time, at most
FURTHER_RAY_SETS = 2  # so many times more rays are asked than would tell what is open, where a model is wrong
CONCERNED = 0.05  # share of an open direction that makes a class one of those it is about
BEHIND = (1.02, 1.5, 4.0, 16.0)  # so many times as far as foretold another label is looked for


def rare_crossings(
    model: LabelModel, pool: Pool, at: Crossings, pair: tuple[int, ...], cell: float, rng: np.random.Generator
) -> Crossings:
    """Boundary points of rare classes that tell what others leave open about the last layer; none where nothing is.

    `model`: right but for numbers that no point told. `pool`: whose chart is asked. `at`: boundary points known,
    between the model's classes. `pair`: classes of which all is known. `cell`: how finely points are located.
    `rng`: draws the walks. Queries: at most about 40 for each of `RAYS` rays.
    """
    told = _numbers(model, at, pair)
    open_ = _open(told)
    if not open_.shape[1]:
        return Crossings.none(pool.chart.n)
    others = model.classes[~np.isin(model.classes, pair)]
    concerned = np.linalg.norm(open_.reshape(len(others), -1), axis=1) > CONCERNED
    rays = [_rays(model, pool, at, int(label), rng) for label in others[concerned]]
    foretold = Crossings.joined([each[1] for each in rays])
    chosen = _telling(told @ open_, _numbers(model, foretold, pair) @ open_)
    return _ended(pool, np.concatenate([each[0] for each in rays])[chosen], foretold[chosen], cell)


def open_crossings(
    model: DeepLabelModel, pool: Pool, at: Crossings, cell: float, rng: np.random.Generator
) -> tuple[Crossings, DeepLabelModel]:
    """Boundary points that tell numbers of any layer that others leave open altogether, and the model with these.

    `model`: right but for these numbers. pool, at, cell, rng: As in `rare_crossings`. Returns the points, none where no
    walk meets any; the model. Queries: at most about 40 for each of `RAYS` rays.
    """
    told = model.linearised(at)[1] * model.units()
    values, right = np.linalg.svd(np.concatenate([told, np.zeros((told.shape[1],) * 2)]), full_matrices=False)[1:]
    # Among them are lengths and signs that no point anywhere tells.
    open_ = right[values < UNTOLD_NUMBER_SHARE * values[0]].T
    rays = [_rays(model, pool, at, int(label), rng) for label in model.classes]
    foretold = Crossings.joined([each[1] for each in rays])
    offered = model.linearised(foretold)[1] * model.units() @ open_
    chosen = _telling(told @ open_, offered)
    for _ in range(FURTHER_RAY_SETS):
        # Where the model is wrong, some regions end elsewhere or not at all.
        rest = np.setdiff1d(np.arange(len(offered)), chosen)
        chosen = np.append(chosen, rest[_telling(told @ open_, offered[rest])])
    found = _ended(pool, np.concatenate([each[0] for each in rays])[chosen], foretold[chosen], cell)
    for _ in range(WALK_AND_NEWTON_STEPS if len(found) else 0):
        # A fit of all numbers would leave these points out: they lie far off the model's boundaries.
        gap, gradient = model.gaps(found)
        by = model.linearised(found)[1] * np.linalg.norm(gradient, axis=1)[:, None] * model.units() @ open_
        model = model.moved(model.units() * (open_ @ np.linalg.lstsq(by, -gap, rcond=UNTOLD_NUMBER_SHARE)[0]))
    return found, model


def _ended(pool: Pool, start: Float[np.ndarray, "N d"], end: Crossings, cell: float) -> Crossings:
    """Where the classes end on rays, or further out than foretold; those that do not start in them are left out."""
    label, length = end.before, np.linalg.norm(end.x - start, axis=1)
    good = np.flatnonzero(pool.side.labels(start) == label) if len(start) else np.empty(0, dtype=int)
    start, along, label, length = start[good], end.along[good], label[good], length[good]
    behind, other = np.zeros(len(start)), label.copy()
    for times in BEHIND:
        on = np.flatnonzero(other == label)
        on = on[pool.chart.room(start[on], along[on]) > times * length[on]]
        if not len(on):
            break
        behind[on] = times * length[on]
        other[on] = pool.side.labels(start[on] + behind[on, None] * along[on])
    met = np.flatnonzero(other != label)
    if not len(met):
        return Crossings.none(pool.chart.n)
    beyond = start[met] + behind[met, None] * along[met]
    return cross(pool.side, start[met], beyond, label[met], other[met], cell)


def telling_rare(model: LabelModel, at: Crossings, known: Crossings, pair: tuple[int, ...]) -> Crossings:
    """Of boundary points known those that tell what others leave open about the last layer. `model`: the model. `at`:
    the others. `known`: points of all its classes. `pair`: classes of which all is known, two at least."""
    told = _numbers(model, at, pair)
    open_ = _open(told)
    if not open_.shape[1] or not len(known):
        return known[slice(0, 0)]
    return known[_telling(told @ open_, _numbers(model, known, pair) @ open_, 2 * open_.shape[1])]


def open_numbers(model: LabelModel, at: Crossings, pair: tuple[int, ...]) -> int:
    """How many numbers of the last layer boundary points leave open altogether. `model`, `at`, `pair`: as in
    `rare_crossings`."""
    return int(_open(_numbers(model, at, pair), UNTOLD_NUMBER_SHARE).shape[1])


def vaguest_number(model: LabelModel, at: Crossings, pair: tuple[int, ...], error: float) -> float:
    """Standard error of the least certain combination of these numbers, in units of a usual neuron's effect. `model`,
    `at`, `pair`: as in `rare_crossings`. `error`: how exactly the points are known."""
    values = np.linalg.svd(_numbers(model, at, pair), compute_uv=False)
    if not len(values):
        return 0.0
    return float(error / values.min()) if values.min() > 0 else np.inf


def _open(told: Float[np.ndarray, "N p"], least: float = TOLD_NUMBER_SHARE) -> Float[np.ndarray, "p q"]:
    """Directions among the numbers that points tell nothing of, or next to nothing."""
    count = told.shape[1]
    if not count:
        return np.empty((0, 0))
    _, values, right = np.linalg.svd(np.concatenate([told, np.zeros((count, count))]), full_matrices=False)
    return np.asarray(right[values < least].T)


def _numbers(model: LabelModel, at: Crossings, pair: tuple[int, ...]) -> Float[np.ndarray, "N p"]:
    """What a boundary point's distance depends on: weights of all classes but these, each in units of its neuron's, and
    offsets."""
    long = np.linalg.norm(model.inner, axis=1)
    effect = np.linalg.norm(model.outer - model.outer.mean(axis=0), axis=0) * long
    usual = float(np.median(effect)) if len(effect) else 1.0
    _, values, apart, _ = model.factors(at)
    values[:, : len(long)] /= np.maximum(long, 1e-300)
    values *= (usual / np.maximum(np.linalg.norm(model.gaps(at)[1], axis=1), 1e-300))[:, None]
    return flat(apart[:, ~np.isin(model.classes, pair), None] * values[:, None, :])


def _inside(pool: Pool, ours: Crossings, label: int) -> Float[np.ndarray, "N d"]:
    """Points of the class: random ones, and the near sides of its boundary points."""
    sign = np.where(ours.before == label, -1.0, 1.0)
    shift = np.maximum(ours.width, 4 * pool.chart.digits)
    return np.concatenate([pool.y[pool.label == label], ours.x + (sign * shift)[:, None] * ours.along])


def _rays(
    model: LabelModel | DeepLabelModel, pool: Pool, at: Crossings, label: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "M d"], Crossings]:
    """Rays inside a class's region, as the model has it: where they start, and the crossings foretold at their ends."""
    ours = at[np.flatnonzero((at.before == label) | (at.after == label))]
    seeds = _inside(pool, ours, label)
    y = seeds[rng.integers(len(seeds), size=CHAINS)] if len(seeds) else seeds
    y = y[model.labels(y) == label]
    starts, ways, lengths = [y[:0]], [y[:0]], [np.empty(0)]
    unit = model.inner / np.maximum(np.linalg.norm(model.inner, axis=1), 1e-300)[:, None]
    for _ in range(WALK_AND_NEWTON_STEPS if len(y) else 0):
        along = rng.standard_normal(y.shape) / np.sqrt(y.shape[1])
        if len(unit):
            toward = rng.random(len(y)) < TOWARDS
            along[toward] += unit[rng.integers(len(unit), size=int(toward.sum()))]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        length = _stay(model, pool, y, along, label)
        ends = np.flatnonzero(np.isfinite(length))
        starts.append(y[ends])
        ways.append(along[ends])
        lengths.append(length[ends])
        y = y + (rng.random(len(y)) * np.where(np.isfinite(length), length, SHORTEST_WALK_LENGTH))[:, None] * along
    start, along, length = np.concatenate(starts), np.concatenate(ways), np.concatenate(lengths)
    end = start + length[:, None] * along
    logits = model.logits(end)
    logits[:, int(model.rows(np.array([label]))[0])] = -np.inf
    other = model.classes[logits.argmax(axis=1)]
    return start, Crossings(end, np.full(len(end), label), other, along, np.zeros(len(end)))


def _stay(
    model: LabelModel | DeepLabelModel,
    pool: Pool,
    y: Float[np.ndarray, "N d"],
    along: Float[np.ndarray, "N d"],
    label: int,
) -> Float[np.ndarray, " N"]:
    """How far along each ray the model has the class; infinite where it does not end."""
    low, high = np.zeros(len(y)), np.full(len(y), np.inf)
    most = np.minimum(0.9 * pool.chart.room(y, along), LONGEST_WALK_LENGTH)
    for s in np.geomspace(SHORTEST_WALK_LENGTH, LONGEST_WALK_LENGTH, LENGTHS):
        going = np.flatnonzero(np.isinf(high) & (s <= most))
        inside = model.labels(y[going] + s * along[going]) == label
        low[going[inside]], high[going[~inside]] = s, s
    found = np.flatnonzero(np.isfinite(high))
    for _ in range(40):
        middle = (low[found] + high[found]) / 2
        inside = model.labels(y[found] + middle[:, None] * along[found]) == label
        low[found[inside]], high[found[~inside]] = middle[inside], middle[~inside]
    return high


def _telling(
    known: Float[np.ndarray, "N q"], offered: Float[np.ndarray, "M q"], most: int = RAYS
) -> Int[np.ndarray, " r"]:
    """Which offered rows tell most beyond the known ones, one after the other, as long as they tell something."""
    inverse = np.linalg.inv(known.T @ known + TOLD_NUMBER_SHARE**2 * np.eye(known.shape[1]))
    chosen: list[int] = []
    for _ in range(min(most, len(offered))):
        ahead = offered @ inverse
        gain = np.sum(ahead * offered, axis=1)
        best = int(gain.argmax())
        if not gain[best] > 1:
            break
        chosen.append(best)
        inverse = inverse - np.outer(ahead[best], ahead[best]) / (1 + gain[best])
    return np.array(chosen, dtype=int)
