"""The last layer behind two hidden ones, from boundary points in the first layer's values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import BOTH
from unveil.whitebox.activation import activation


@dataclass(frozen=True)
class SecondOutput:
    """Weights between two classes, behind second-layer neurons.

    Attributes:
        model: Of the first layer's values; the first class's logit is zero. Its affine part holds neurons taken the
            wrong way round, and those active at all points.
        gap: By how much the equations' null vector stands out.
    """

    model: LabelModel
    gap: float


def second_output(planes: Hyperplanes, at: Crossings, pair: tuple[int, int]) -> SecondOutput | None:
    """The null vector over `[relu(W h + c), h, 1]`.

    Values h of a first layer are zero for many neurons, and a second-layer neuron may be active at all points or at
    none: it then counts with the linear part, whose rows it is one of, or not at all.

    Args:
        planes: Second-layer neurons, of the first layer's values.
        at: Crossings between the two labels, in these.
        pair: The two labels.

    Queries: `0`
    """
    rows, bias = planes.normals, planes.offsets
    k, d = rows.shape
    sums = at.x @ rows.T + bias
    on = sums > 0
    # Points that are nearly alone on their side of a neuron's hyperplane tell no weight: they are left out.
    rare = [side & (side.sum(axis=0) < BOTH) for side in (on, ~on, at.x > 0)]
    kept = np.flatnonzero(~np.any(np.concatenate(rare, axis=1), axis=1))
    at, sums, on = at[kept], sums[kept], on[kept]
    if not len(at):
        return None
    split = np.flatnonzero((on.sum(axis=0) >= BOTH) & ((~on).sum(axis=0) >= BOTH))
    seen = np.flatnonzero((at.x > 0).sum(axis=0) >= BOTH)
    matrix = np.concatenate([np.maximum(sums[:, split], 0), at.x[:, seen], np.ones((len(at), 1))], axis=1)
    if len(matrix) < matrix.shape[1] + 2 or not len(split):
        return None
    scale = np.linalg.norm(matrix, axis=0)
    values, right = np.linalg.svd(matrix / scale, full_matrices=False)[1:]
    vector, gap = right[-1] / scale, float(values[-2] / max(values[-1], 1e-300))
    weight, linear, offset = np.zeros(k), np.zeros(d), float(vector[-1])
    weight[split], linear[seen] = vector[: len(split)], vector[len(split) : -1]
    # The logit of the higher label grows towards it.
    up = np.where(at.after == max(pair), 1.0, -1.0)
    slope = np.sum(((on * weight) @ rows + linear) * at.along, axis=1)
    turn = np.sign(np.sum(up * slope)) or 1.0
    return SecondOutput(_between(planes, turn * weight, turn * offset, pair, turn * linear), gap)


def plain_output(planes: Hyperplanes, at: Crossings) -> LabelModel | None:
    """The weights between the only two classes, of neurons whose active sides are known: no linear part.

    Args:
        planes: Second-layer neurons, of the first layer's values, normals towards their active sides.
        at: Crossings between two labels, in these.

    Returns:
        The model; None where it takes more than one pair of labels.

    Queries: `0`
    """
    pair = np.unique(np.concatenate([at.before, at.after]))
    values = np.maximum(at.x @ planes.normals.T + planes.offsets, 0.0)
    matrix = np.concatenate([values, np.ones((len(at), 1))], axis=1)
    if len(pair) != 2 or len(at) < matrix.shape[1] + 1:
        return None
    scale = np.linalg.norm(matrix, axis=0)
    if not scale.min() > 0:
        return None
    vector = np.linalg.svd(matrix / scale, full_matrices=False)[2][-1] / scale
    up = np.where(at.after == pair[1], 1.0, -1.0)
    slope = np.sum((((values > 0) * vector[:-1]) @ planes.normals) * at.along, axis=1)
    vector = vector * (np.sign(np.sum(up * slope)) or 1.0)
    linear = np.zeros(planes.normals.shape[1])
    return _between(planes, vector[:-1], float(vector[-1]), (int(pair[0]), int(pair[1])), linear)


def _between(
    planes: Hyperplanes, weight: Float[np.ndarray, " k"], offset: float, pair: tuple[int, int], linear: np.ndarray
) -> LabelModel:
    """The model of two classes, the lower one's logit zero."""
    return LabelModel(
        planes.normals,
        planes.offsets,
        np.stack([np.zeros(len(weight)), weight]),
        np.stack([np.zeros(len(linear)), linear]),
        np.array([0.0, offset]),
        np.array(sorted(pair)),
        activation("relu"),
    )
