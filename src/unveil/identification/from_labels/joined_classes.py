"""Logits of many classes from those of pairs, each known up to a scale, which points of a third class tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.model import LabelModel

TOLD = 3  # points that tell a scale
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
        last[c] = last[b] + (float(np.median(scale)) if len(scale) >= TOLD else 1.0) * step
        earlier.append(new)
    return _with_last(model, last, model.classes)


def _last(model: LabelModel) -> Float[np.ndarray, "c P"]:
    """Weights of the neurons, the affine part and the constant of each class."""
    return np.concatenate([model.outer, model.affine, model.offset[:, None]], axis=1)


def _with_last(model: LabelModel, last: Float[np.ndarray, "c P"], classes: Int[np.ndarray, " c"]) -> LabelModel:
    k = len(model.inner)
    return replace(model, outer=last[:, :k], affine=last[:, k:-1], offset=last[:, -1], classes=classes)
