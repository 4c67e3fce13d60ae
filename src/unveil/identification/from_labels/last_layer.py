"""The last layer behind second-layer neurons that bends told: pair by pair of classes, then all in one scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.deep_model import ON, USABLE, DeepPoints, on_boundary, pairs_of
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import oriented
from unveil.identification.from_labels.output import equations_needed, second_output, with_classes
from unveil.identification.from_labels.second_layer import HiddenNeuron

POINTS_PER_SCALE = 3  # points that tell a scale
Joins = tuple[tuple[int, int], ...]  # for each class but the first: a class that was known before, and the class


def joined(model: LabelModel, pair: LabelModel) -> LabelModel:
    """The model with one more class, from a model of the same neurons between that class and one that is known.

    The scale of the new class's boundary is not told: its weights are taken to be as large as the model's. `model`:
    some classes. `pair`: two, one of them the model's.
    """
    new = int(np.flatnonzero(~np.isin(pair.classes, model.classes))[0])
    known = int(model.rows(pair.classes[1 - new : 2 - new])[0])
    last, of_pair = _last(model), _last(pair)
    step = of_pair[new] - of_pair[1 - new]
    k = len(model.inner)
    spread = float(np.linalg.norm(last[:, :k] - last[known, :k], axis=1).max())
    step = step * spread / max(float(np.linalg.norm(step[:k])), 1e-300)
    classes = np.append(model.classes, pair.classes[new])
    order = np.argsort(classes)
    return _with_last(model, np.concatenate([last, [last[known] + step]])[order], classes[order])


def rescaled(model: LabelModel, joins: Joins, at: Crossings) -> LabelModel:
    """The model with the scale of each class's boundary as points between it and third classes tell, where they do.
    `model`: all classes. `joins`: which class each was known from. `at`: crossings."""
    old = _last(model)
    last = old.copy()
    values = np.concatenate([model.phi.value(at.x @ model.inner.T + model.bias), at.x, np.ones((len(at), 1))], axis=1)
    later = [new for _, new in joins]
    earlier = [int(c) for c in model.classes if c not in later]
    for known, new in joins:
        b, c = model.rows(np.array([known, new]))
        step = old[c] - old[b]
        third = np.where(at.before == new, at.after, at.before)
        ours = ((at.before == new) | (at.after == new)) & (third != known) & np.isin(third, earlier)
        there, rows = values[ours], model.rows(third[ours])
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sum(there * (last[rows] - last[b]), axis=1) / (there @ step)
        scale = scale[np.isfinite(scale) & (scale > 0)]
        last[c] = last[b] + (float(np.median(scale)) if len(scale) >= POINTS_PER_SCALE else 1.0) * step
        earlier.append(new)
    return _with_last(model, last, model.classes)


def _last(model: LabelModel) -> Float[np.ndarray, "c P"]:
    """Weights of the neurons, the affine part and the constant of each class."""
    return np.concatenate([model.outer, model.affine, model.offset[:, None]], axis=1)


def _with_last(model: LabelModel, last: Float[np.ndarray, "c P"], classes: Int[np.ndarray, " c"]) -> LabelModel:
    k = len(model.inner)
    return replace(model, outer=last[:, :k], affine=last[:, k:-1], offset=last[:, -1], classes=classes)


# Random sets of boundary points from which the last layer is tried, at most: those where no unknown neuron is active
# agree. By then none of them may have been drawn, with this probability.
LAST_LAYER_POINT_SETS, MISS = 1_000, 1e-3
PAIR_SHARE_EXPLAINED = 0.5  # share of the points between two classes that a last layer must explain
ABSOLUTE = 30  # weighted least squares after which least absolute distances are reached


def last_layer(
    points: DeepPoints, neurons: list[HiddenNeuron], rng: np.random.Generator
) -> tuple[LabelModel, float] | None:
    """The last layer, from points where no weight counts that is not told.

    Args:
        points: Boundary points; more are asked where there are few.
        neurons: The second layer, as far as bends told it.
        rng: Draws sets of points.

    Returns:
        The model of the first layer's values, weights that no bend told zero, and the share of the points that the
        worst explained pair's weights explain. None where none come out.

    Queries: about 35 for each point that is missing
    """
    at = points.inside(points.all)
    if not len(at):
        return None
    pairs = pairs_of(at)
    met, counts = np.unique(pairs, axis=0, return_counts=True)
    pair = (int(met[counts.argmax(), 0]), int(met[counts.argmax(), 1]))
    second, told = _rows(neurons, at.x[(pairs == pair).all(axis=1)])
    need = equations_needed(*second.normals.shape)
    at = points.usable(told, pair, 2 * need)
    every = _pair_by_pair(second, at, need, rng)
    if every is None:
        return None
    model, joins, share = every
    partly = [each for each in neurons if np.isnan(each.weight).any()]
    # Few points tell a rare class's weights, and not an affine part besides: sides come first, if need be of a pair.
    begun = model.of(np.setdiff1d(model.classes, [new for _, new in joins]))
    for some in (model, begun):
        turned = oriented(some, at[on_boundary(some, at)], partly) if some.affine.any() else some
        if turned is not None:
            return with_rare_classes(turned, at), share
    return with_rare_classes(model, at), share


def _rows(neurons: list[HiddenNeuron], hidden: Float[np.ndarray, "N k"]) -> tuple[Hyperplanes, Bool[np.ndarray, " k"]]:
    """Second-layer neurons, weights that no bend told zero, and the first-layer neurons behind which all are told.

    `neurons`: at least one. Left out are those known in part for which too few points would remain. `hidden`: points;
    at some of them no other first-layer neurons must be active.
    """
    told = np.ones(hidden.shape[1], dtype=bool)
    kept: list[HiddenNeuron] = []
    for each in sorted(neurons, key=lambda each: int(np.isnan(each.weight).sum())):
        less = told & ~np.isnan(each.weight)
        if not kept or (~(hidden[:, ~less] > 0).any(axis=1)).mean() >= USABLE:
            told = less
            kept.append(each)
    rows = np.nan_to_num(np.stack([each.weight for each in kept]), nan=0.0)
    long = np.linalg.norm(rows, axis=1)
    bias = np.array([each.bias for each in kept]) / long
    return Hyperplanes(rows / long[:, None], bias, np.array([each.error for each in kept])), told


def _pair_by_pair(
    second: Hyperplanes, at: Crossings, need: int, rng: np.random.Generator
) -> tuple[LabelModel, Joins, float] | None:
    """Classes with points enough between them and one other, the commonest pair first."""
    pairs = pairs_of(at)
    met, counts = np.unique(pairs, axis=0, return_counts=True)
    left = [(int(met[i, 0]), int(met[i, 1])) for i in np.argsort(-counts, kind="stable") if counts[i] >= need]
    model: LabelModel | None = None
    joins: Joins = ()
    least = 1.0
    # Each pass takes the commonest pair that brings in one more class.
    for _ in range(len(left)):
        pair = next((p for p in left if model is None or np.isin(p, model.classes).sum() == 1), None)
        if pair is None:
            break
        left.remove(pair)
        found, share = _of_pair(second, at[np.flatnonzero((pairs == pair).all(axis=1))], pair, rng)
        if found is None:
            continue
        least = min(least, share)
        if model is None:
            model = found
            continue
        new = int(np.isin(pair, model.classes).argmin())
        joins += ((pair[1 - new], pair[new]),)
        model = joined(model, found)
    return None if model is None else (rescaled(model, joins, at), joins, least)


def _of_pair(
    second: Hyperplanes, at: Crossings, pair: tuple[int, int], rng: np.random.Generator
) -> tuple[LabelModel | None, float]:
    """The weights between two classes that explain most points, and the share of these."""
    inliers, share, few = np.empty(0, dtype=int), 0.0, sum(second.normals.shape) + 3
    for draw in range(LAST_LAYER_POINT_SETS):
        some = np.arange(len(at)) if not draw else rng.choice(len(at), min(few, len(at)), replace=False)
        tried = second_output(second, at[some], pair)
        if tried is None:
            continue
        on = on_boundary(tried, at)
        if len(on) > len(inliers):
            inliers, share = on, len(on) / len(at)
        if share == 1.0 or draw * np.log1p(-(share**few)) < np.log(MISS):
            break
    return second_output(second, at[inliers], pair) if share >= PAIR_SHARE_EXPLAINED else None, share


def with_rare_classes(model: LabelModel, at: Crossings) -> LabelModel:
    """The model with classes that it lacks, of which there are few points, by least absolute distances.

    Points where a neuron is missing lie off, and must not count by how much. `model`: some classes. `at`: crossings
    between any, in the first layer's values.
    """
    others = [int(c) for c in np.unique(pairs_of(at)) if c not in model.classes]
    if not others:
        return model
    grown, weight = model, np.ones(len(at))
    for _ in range(ABSOLUTE):
        grown, _ = with_classes(model, others, at, weight=weight)
        weight = 1 / np.maximum(np.abs(grown.distances(at)), ON)
    return with_classes(model, others, at[np.flatnonzero(weight == weight.max(initial=0.0))])[0]


def with_classes_anew(model: LabelModel, at: Crossings) -> LabelModel:
    """The model with the last layer of all classes but the commonest two from these points, where more lie on it then.

    Points met since may be the first at which a class's weight of some neuron counts. `model`: its neurons are right at
    most points. `at`: crossings between its classes, in the first layer's values.
    """
    met, counts = np.unique(pairs_of(at), axis=0, return_counts=True)
    anew = with_rare_classes(model.of(met[counts.argmax()]), at) if len(met) > 1 else model
    return anew if len(on_boundary(anew, at)) > len(on_boundary(model, at)) else model
