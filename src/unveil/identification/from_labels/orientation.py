"""Which side of second-layer neurons is active, told by the affine part that wrong ones leave, of all classes at once.

A neuron taken the wrong way round leaves a linear term, `relu(s) = relu(-s) + s`, in every class with the same yes or
no. Neurons active at every point add up to the rest; of one whose weights bends told in part it has the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.second_layer import HiddenNeuron

BOTH = 3  # points on each side of a neuron's hyperplane that tell its weight from a linear part
AFFINE_LEFT_SHARE = 1e-3  # share of the affine part that neurons may leave unexplained
ZERO_OR_ONE_MISFIT = 0.01  # how far what must be 0 or 1 may be from it
# Neurons of which classes tell that a side rests, before that shows the weights of one more neuron.
SIDE_TELLING_NEURONS = 3
# So many times as much as at any point a neuron may change before it rests that is active at all of them.
BIAS_BEYOND_FACTOR = 10.0
DEPENDENT_ROW_SHARE = 1e-9  # singular values less than this share of the largest row make rows dependent
ABSENT_EFFECT_SHARE = 1e-12  # share of the largest effect that is none
INACTIVE_EFFECT_SHARE = 1e-5  # share of the largest effect at which a neuron counts as active at no point
PARALLEL = 1e-3  # sine of the angle below which a neuron active at all points is another one's linear part


def oriented(model: LabelModel, at: Crossings, partly: list[HiddenNeuron]) -> LabelModel | None:
    """The same function without an affine part.

    `model`: of a first layer's values, with an affine part; right at the points, whatever sides neurons have there.
    `at`: crossings between its classes, in these values. `partly`: second-layer neurons with weights that no bend told,
    NaN. Returns the model, neurons that took part of `partly` at its end; None where no choice of sides explains the
    affine part.
    """
    if not len(at):
        return None
    model, always = _turned_on(model, at)
    seen = (at.x > 0).sum(axis=0) >= BOTH
    for some in _subsets(partly, seen):
        found = _explained(model, always, seen, some, at)
        if found is not None:
            return without_carriers(_without(model, always, found, some, at), at)
    return None


def without_affine(model: LabelModel, at: Crossings) -> LabelModel:
    """The model without an affine part, where its own neurons or one more explain it.

    A neuron active at all points is an affine part, too: with `relu(-s)` of the points where it rests it is `relu(s)`.
    `model`, `at`: as in `oriented`, with or without an affine part.
    """
    always = (at.x @ model.inner.T + model.bias > 0).all(axis=0)
    carried = model.outer[:, always]
    linear = replace(
        model.kept(np.flatnonzero(~always)),
        affine=model.affine + carried @ model.inner[always],
        offset=model.offset + carried @ model.bias[always],
    )
    tried = (oriented(some, at, []) for some in (linear, model) if some.affine.any())
    return next((found for found in tried if found is not None), model)


def carriers(model: LabelModel, at: Crossings) -> list[tuple[int, int]]:
    """Neurons active at all points whose weights are parallel to another's, and that other: a linear part."""
    unit = model.inner / np.maximum(np.linalg.norm(model.inner, axis=1, keepdims=True), 1e-300)
    always = (at.x @ model.inner.T + model.bias > 0).all(axis=0)
    found = []
    for i in np.flatnonzero(always):
        across = np.linalg.norm(unit - (unit @ unit[i])[:, None] * unit[i], axis=1)
        across[always] = np.inf
        if len(across) and across.min() <= PARALLEL:
            found.append((int(i), int(across.argmin())))
    return found


def without_carriers(model: LabelModel, at: Crossings) -> LabelModel:
    """The model with neurons turned round for which another one, active at all points, carries the linear part. With
    `relu(s) = relu(-s) + s` both are one neuron where all classes have the same of what is left."""
    for i, j in carriers(model, at):
        stretch = float(model.inner[i] @ model.inner[j]) / float(model.inner[j] @ model.inner[j])
        mine, other = model.outer[:, i], model.outer[:, j]
        left = other + stretch * mine
        if np.ptp(left) > ZERO_OR_ONE_MISFIT * np.ptp(other):
            continue
        sign, outer = np.ones(len(model.inner)), model.outer.copy()
        sign[j], outer[:, i] = -1.0, 0.0
        offset = model.offset + other * model.bias[j] + mine * model.bias[i]
        turned = replace(model, inner=model.inner * sign[:, None], bias=model.bias * sign, outer=outer, offset=offset)
        return without_carriers(turned.kept(np.delete(np.arange(len(sign)), i)), at)
    return model


def _subsets(partly: list[HiddenNeuron], seen: Bool[np.ndarray, " d"]) -> Iterator[list[HiddenNeuron]]:
    """None of the neurons, each, and all: an affine part has the weights that it shows."""
    able = [each for each in partly if seen[np.isnan(each.weight)].all()]
    yield []
    yield from ([each] for each in able)
    if len(able) > 1:
        yield able


def _turned_on(model: LabelModel, at: Crossings) -> tuple[LabelModel, Bool[np.ndarray, " k"]]:
    """Neurons with all points on one side are made active there, and what they do is put into the affine part. Returns
    the model, the first class's affine part zero, and which neurons these are."""
    on = (at.x @ model.inner.T + model.bias > 0).sum(axis=0)
    always = (on < BOTH) | (len(at) - on < BOTH)
    carried = np.where(always & (on >= BOTH), model.outer, 0.0)
    affine, offset = model.affine + carried @ model.inner, model.offset + carried @ model.bias
    sign = np.where(on < BOTH, -1.0, 1.0)
    turned = replace(
        model,
        inner=model.inner * sign[:, None],
        bias=model.bias * sign,
        outer=np.where(always, 0.0, model.outer - model.outer[0]),
        affine=affine - affine[0],
        offset=offset - offset[0],
    )
    return turned, always


@dataclass(frozen=True)
class _Shares:
    """What an affine part is made of."""

    flip: Bool[np.ndarray, " k"]  # (k,), neurons whose other side is the active one
    # (c, k + p), each class's affine part as a sum of the neurons' rows, then of other rows
    share: Float[np.ndarray, "c kp"]
    # (p, d), the latter: of neurons known in part, all their weights, and perhaps of one that was not known
    rows: Float[np.ndarray, "p d"]


def _explained(
    model: LabelModel,
    always: Bool[np.ndarray, " k"],
    seen: Bool[np.ndarray, " d"],
    partly: list[HiddenNeuron],
    at: Crossings,
) -> _Shares | None:
    """Flips and weights that add up to the affine part, where there are such."""
    k, d = model.inner.shape
    rows = np.array([each.weight for each in partly]).reshape(-1, d)
    known = seen & ~np.isnan(rows).any(axis=0)
    every = np.concatenate([model.inner, rows])[:, known]
    free = np.append(always, np.ones(len(rows), dtype=bool))
    alone = np.linalg.matrix_rank(
        every, tol=DEPENDENT_ROW_SHARE * np.linalg.norm(every, axis=1).max(initial=0.0)
    ) == len(every)
    found = (_one_by_one if alone else _together)(model, every, free, model.affine[:, known], at)
    if found is None:
        return None
    flip, share, row = found
    if row is not None:
        more = np.full((1, d), np.nan)
        more[:, known] = row
        rows, every = np.concatenate([rows, more]), np.concatenate([every, row[None]])
    off = np.linalg.norm(model.affine[:, known] - share @ every)
    if off > AFFINE_LEFT_SHARE * max(float(np.linalg.norm(model.affine[:, known])), 1e-300):
        return None
    if len(rows):
        ours = share[:, k:]
        if np.linalg.matrix_rank(ours, tol=INACTIVE_EFFECT_SHARE * np.abs(model.outer).max(initial=0.0)) < len(rows):
            return None
        # What flips and the neurons always active leave is those neurons' own.
        full = np.linalg.lstsq(ours, model.affine - share[:, :k] @ model.inner, rcond=None)[0]
        rows = np.where(np.isnan(rows), full, rows)
    return _Shares(flip, share, rows)


def _one_by_one(
    model: LabelModel,
    every: Float[np.ndarray, "r s"],
    free: Bool[np.ndarray, " r"],
    affine: Float[np.ndarray, "c s"],
    at: Crossings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """Flips where rows are independent, so that each has its own share of the affine part.

    On its resting side a neuron has no effect: there its share is the same for any two classes that meet, and on the
    other one its share and its weight together are. What classes that meet on neither side do not tell is left open. If
    one more neuron is active at all points, all its row's parts have its weights as the classes have them: of three
    classes these are parallel vectors. Returns flips, shares, and the row of one more neuron, with its weights as the
    last share; None where there is none.
    """
    share = np.linalg.lstsq(every.T, affine.T, rcond=None)[0].T
    sides = _Sides(model, share, free, at)
    left = affine - share @ every
    beside = float(np.linalg.norm(left)) > AFFINE_LEFT_SHARE * float(np.linalg.norm(affine))
    flip = None if beside else sides.flips()
    if flip is not None:
        return flip, share, None
    strong, values, _ = np.linalg.svd(left)
    if beside and values[1:].max(initial=0.0) > AFFINE_LEFT_SHARE * values[0]:
        return None
    for way in [strong[:, 0]] if beside else sides.ways():
        flip = sides.flips(way)
        # What one class alone has is no neuron's, but what too few points tell of that class.
        shared = (
            len(model.classes) == 2
            or (np.abs(way - np.median(way)) > INACTIVE_EFFECT_SHARE * np.abs(way).max()).sum() > 1
        )
        if flip is not None and shared:
            part = np.append(sides.parts(flip, way), np.zeros(len(every) - len(flip)))
            row = part @ every + way @ left / (way @ way)
            return flip, np.column_stack([share - np.outer(way, part), way]), row
    return None


class _Sides:
    """Which sides of neurons are active, as far as the classes that meet there tell.

    `model`: with neurons of both sides, or with one that are free. `share`: each class's affine part as a sum of rows,
    those of the neurons first. `free`: rows of neurons that are active at all points. `at`: the points.
    """

    def __init__(
        self, model: LabelModel, share: Float[np.ndarray, "c r"], free: Bool[np.ndarray, " r"], at: Crossings
    ) -> None:
        k = len(model.inner)
        ours, outer = share[:, :k], model.outer
        self.slopes = ours, ours + outer
        self.size = np.maximum(np.abs(np.stack([ours, outer, ours + outer])).max(axis=(0, 1)), 1e-300)
        # What no class depends on may be either way.
        self.any_side = free[:k] | (self.size <= INACTIVE_EFFECT_SHARE * np.abs(outer).max(initial=0.0))
        on = at.x @ model.inner.T + model.bias > 0
        each = np.sort(np.stack([model.rows(at.before), model.rows(at.after)], axis=1), axis=1)
        self.pairs = np.unique(each, axis=0)
        met = np.stack([on[(each == pair).all(axis=1)].sum(axis=0) for pair in self.pairs])
        count = np.array([(each == pair).all(axis=1).sum() for pair in self.pairs])
        self.met = count[:, None] - met >= BOTH, met >= BOTH

    def flips(self, way: Float[np.ndarray, " c"] | None = None) -> Bool[np.ndarray, " k"] | None:
        """Neurons whose other side is the active one; None where that is open for some. `way`: how much each class has
        of one more neuron, of which every neuron's row may have some."""
        rests, turned = self._resting(way)
        flip = ((turned > 0) & (rests <= 0)) | ((rests < 0) & (turned == 0))
        kept = ((rests > 0) & (turned <= 0)) | ((turned < 0) & (rests == 0))
        sure = ~self.any_side & (np.maximum(turned, rests) > 0)
        if not (flip | kept | self.any_side).all() or (way is not None and sure.sum() < SIDE_TELLING_NEURONS):
            return None
        return np.asarray(flip & ~self.any_side)

    def ways(self) -> Iterator[Float[np.ndarray, " c"]]:
        """What one more neuron's weights may be: what the slopes of some neuron have on a side that rests."""
        for i in np.flatnonzero(~self.any_side):
            for slope in self.slopes:
                if np.abs(slope[:, i]).max() > INACTIVE_EFFECT_SHARE * self.size[i]:
                    yield slope[:, i] / np.abs(slope[:, i]).max()

    def parts(self, flip: Bool[np.ndarray, " k"], way: Float[np.ndarray, " c"]) -> Float[np.ndarray, " k"]:
        """How much of its row each neuron gives to the one more."""
        both = [self._fitted(side, way)[0] for side in (0, 1)]
        return np.where(self.any_side, 0.0, np.where(flip, both[1], both[0]))

    def _fitted(self, side: int, way: Float[np.ndarray, " c"] | None) -> tuple[np.ndarray, np.ndarray]:
        """What one more neuron explains of the slopes on a side, and what is left between classes that meet there."""
        one, two = self.pairs.T
        slope, seen = self.slopes[side], self.met[side]
        left = np.where(seen, slope[one] - slope[two], 0.0)
        if way is None:
            return np.zeros(left.shape[1]), left
        apart = np.where(seen, (way[one] - way[two])[:, None], 0.0)
        part = np.sum(left * apart, axis=0) / np.maximum(np.sum(apart**2, axis=0), 1e-300)
        return part, left - part * apart

    def _resting(self, way: Float[np.ndarray, " c"] | None) -> list[np.ndarray]:
        """Of each side whether it rests: 1 or -1, or 0 where too few classes meet there to tell."""
        between = np.zeros((len(self.pairs), len(self.slopes[0])))
        for row, (one, two) in enumerate(self.pairs):
            between[row, one], between[row, two] = 1.0, -1.0
        judged = []
        for side in (0, 1):
            tells = np.array([np.linalg.matrix_rank(between[seen]) for seen in self.met[side].T]) - (way is not None)
            good = np.abs(self._fitted(side, way)[1]).max(axis=0, initial=0.0) <= ZERO_OR_ONE_MISFIT * self.size
            judged.append(np.where(tells <= 0, 0, np.where(good, 1, -1)))
        return judged


def _together(
    model: LabelModel,
    every: Float[np.ndarray, "r s"],
    free: Bool[np.ndarray, " r"],
    affine: Float[np.ndarray, "c s"],
    at: Crossings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """Flips by least squares on all classes, where rows depend on each other."""
    k, others = len(model.inner), len(model.classes) - 1
    split = np.flatnonzero(~free[:k])
    by_flip = -(model.outer[1:, split, None] * every[None, split]).transpose(0, 2, 1)
    by_weight = np.kron(np.eye(others), every[free].T)
    matrix = np.concatenate([by_flip.reshape(others * every.shape[1], len(split)), by_weight], axis=1)
    scale = np.linalg.norm(matrix, axis=0)
    counts = scale > ABSENT_EFFECT_SHARE * scale.max(initial=0.0)
    scale[~counts] = np.inf
    solved, _, rank, _ = np.linalg.lstsq(matrix / scale, affine[1:].ravel(), rcond=1e-9)
    solved = solved / scale
    yes = solved[: len(split)] > 0.5
    if rank < counts.sum() or np.abs(solved[: len(split)] - yes).max(initial=0.0) > ZERO_OR_ONE_MISFIT:
        return None
    flip = np.zeros(k, dtype=bool)
    flip[split] = yes
    share = np.zeros((others + 1, len(every)))
    share[:, :k] = np.where(flip, -model.outer, 0.0)
    share[1:, free] = solved[len(split) :].reshape(others, -1)
    return flip, share, None


def _without(
    model: LabelModel, always: Bool[np.ndarray, " k"], found: _Shares, partly: list[HiddenNeuron], at: Crossings
) -> LabelModel:
    """The model with sides as found and no affine part."""
    k = len(model.inner)
    ours = found.share[:, :k]
    sign = np.where(found.flip, -1.0, 1.0)
    outer = np.where(always, ours, np.where(found.flip, -ours, ours + model.outer))
    bias = np.array([each.bias for each in partly])
    for row in found.rows[len(bias) :]:
        # Nothing tells its bias; what has mostly the one sign here has it far out, where the other side would rest.
        value = at.x @ row
        bias = np.append(bias, BIAS_BEYOND_FACTOR * np.abs(value).max() * (np.sign(value.sum()) or 1.0))
    # Known in part, up to sign: the side that the points are on is the active one.
    side = np.where(np.median(at.x @ found.rows.T + bias, axis=0) > 0, 1.0, -1.0)
    whole = replace(
        model,
        inner=np.concatenate([model.inner * sign[:, None], found.rows * side[:, None]]),
        bias=np.concatenate([model.bias * sign, bias * side]),
        outer=np.concatenate([outer, found.share[:, k:] * side], axis=1),
        affine=np.zeros_like(model.affine),
        # Each share of a row is one of its preactivation, less that of its bias.
        offset=model.offset - found.share @ np.concatenate([model.bias, bias]),
    )
    return whole.pruned(INACTIVE_EFFECT_SHARE)
