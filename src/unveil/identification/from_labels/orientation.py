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

BOTH = 3
"""Points on each side of a neuron's hyperplane that tell its weight from a linear part."""

LEFT = 1e-3
"""Share of the affine part that neurons may leave unexplained."""

WHOLE = 0.01
"""How far what must be 0 or 1 may be from it."""

NONE = 1e-12
"""Share of the largest effect that is none."""

NOTHING = 1e-5
"""Share of the largest effect at which a neuron counts as active at no point."""


def oriented(model: LabelModel, at: Crossings, partly: list[HiddenNeuron]) -> LabelModel | None:
    """The same function without an affine part.

    Args:
        model: Of a first layer's values, with an affine part; right at the points, whatever sides neurons have there.
        at: Crossings between its classes, in these values.
        partly: Second-layer neurons with weights that no bend told, NaN.

    Returns:
        The model, neurons that took part of `partly` at its end; None where no choice of sides explains the affine
        part.

    Queries: `0`
    """
    if not len(at):
        return None
    model, always = _turned_on(model, at)
    seen = (at.x > 0).sum(axis=0) >= BOTH
    for some in _subsets(partly, seen):
        found = _explained(model, always, seen, some)
        if found is not None:
            return _without(model, always, found, some, at)
    return None


def _subsets(partly: list[HiddenNeuron], seen: Bool[np.ndarray, " d"]) -> Iterator[list[HiddenNeuron]]:
    """None of the neurons, each, and all: an affine part has the weights that it shows."""
    able = [each for each in partly if seen[np.isnan(each.weight)].all()]
    yield []
    yield from ([each] for each in able)
    if len(able) > 1:
        yield able


def _turned_on(model: LabelModel, at: Crossings) -> tuple[LabelModel, Bool[np.ndarray, " k"]]:
    """Neurons with all points on one side are made active there, and what they do is put into the affine part.

    Returns:
        The model, the first class's affine part zero, and which neurons these are.
    """
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
    """What an affine part is made of.

    Attributes:
        flip: (k,), neurons whose other side is the active one.
        weight: (c, a), each class's weight of the neurons that are always active, then of those known in part.
        rows: (p, d), the weights of the latter, all of them.
    """

    flip: Bool[np.ndarray, " k"]
    weight: Float[np.ndarray, "c a"]
    rows: Float[np.ndarray, "p d"]


def _explained(
    model: LabelModel, always: Bool[np.ndarray, " k"], seen: Bool[np.ndarray, " d"], partly: list[HiddenNeuron]
) -> _Shares | None:
    """Flips and weights that add up to the affine part, where there are such."""
    d, others = model.inner.shape[1], len(model.classes) - 1
    rows = np.array([each.weight for each in partly]).reshape(-1, d)
    known = seen & ~np.isnan(rows).any(axis=0)
    target = model.affine[1:, known]
    split = np.flatnonzero(~always)
    by_flip = -(model.outer[1:, split, None] * model.inner[None, split][:, :, known]).transpose(0, 2, 1)
    fixed = np.concatenate([model.inner[always], rows])
    by_weight = np.kron(np.eye(others), fixed[:, known].T)
    matrix = np.concatenate([by_flip.reshape(-1, len(split)), by_weight], axis=1)
    scale = np.linalg.norm(matrix, axis=0)
    # What no class depends on may be either way.
    counts = scale > NONE * scale.max(initial=0.0)
    scale[~counts] = np.inf
    share, _, rank, _ = np.linalg.lstsq(matrix / scale, target.ravel(), rcond=1e-9)
    share = share / scale
    yes = share[: len(split)] > 0.5
    if rank < counts.sum() or np.abs(share[: len(split)] - yes).max(initial=0.0) > WHOLE:
        return None
    off = np.linalg.norm(target.ravel() - matrix @ share)
    if off > LEFT * max(float(np.linalg.norm(target)), 1e-300):
        return None
    flip = np.zeros(len(model.inner), dtype=bool)
    flip[split] = yes
    weight = np.zeros((others + 1, len(fixed)))
    weight[1:] = share[len(split) :].reshape(others, len(fixed))
    ours = weight[:, len(fixed) - len(rows) :]
    if len(rows):
        if np.linalg.matrix_rank(ours, tol=NOTHING * np.abs(model.outer).max(initial=0.0)) < len(rows):
            return None
        # What flips and the neurons always active leave is those neurons' own.
        left = model.affine + (model.outer * flip) @ model.inner
        left -= weight[:, : len(fixed) - len(rows)] @ model.inner[always]
        full = np.linalg.lstsq(ours, left, rcond=None)[0]
        rows = np.where(np.isnan(rows), full, rows)
    return _Shares(flip, weight, rows)


def _without(
    model: LabelModel, always: Bool[np.ndarray, " k"], found: _Shares, partly: list[HiddenNeuron], at: Crossings
) -> LabelModel:
    """The model with sides as found and no affine part."""
    # w relu(s) = w relu(-s) + w s: what was turned leaves the affine part and the offset.
    offset = model.offset + (model.outer * found.flip) @ model.bias
    sign = np.where(found.flip, -1.0, 1.0)
    outer = model.outer.copy()
    outer[:, always] = found.weight[:, : always.sum()]
    bias = np.array([each.bias for each in partly])
    # Known in part, up to sign: the side that the points are on is the active one.
    side = np.where(np.median(at.x @ found.rows.T + bias, axis=0) > 0, 1.0, -1.0)
    inner = np.concatenate([model.inner * sign[:, None], found.rows * side[:, None]])
    fixed = np.concatenate([model.bias[always], bias])
    outer = np.concatenate([outer, found.weight[:, always.sum() :] * side], axis=1)
    whole = replace(
        model,
        inner=inner,
        bias=np.concatenate([model.bias * sign, bias * side]),
        outer=outer,
        affine=np.zeros_like(model.affine),
        offset=offset - found.weight @ fixed,
    )
    return whole.pruned(NOTHING)
