"""The last layer from boundary points: where two logits are equal, hidden values obey one linear equation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.balance import by_balance
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import BOTH
from unveil.whitebox.activation import Activation, activation

# Weights less than this share of the largest are none, where a neuron is on one side at all boundaries of a pair.
ONE_SIDED_ABSENT_WEIGHT = 1e-3
FLIPS_LEFT_SHARE = 1e-3  # share of a weight vector by which flips may fail to explain the linear part
FLIPS_LEFT_PER_ERROR, MOST_LOOSE = 100.0, 0.1  # the same for each error of the hyperplanes, and at most
# Share of the largest singular value below which one more is none: points on too few faces tell no last layer.
SECOND_NULL_VALUE = 1e-6
FLIP_MISFIT_ALLOWED = 0.25  # how far what must be 0 or 1 may be from it then


@dataclass(frozen=True)
class PairOutput:
    """The last layer between two classes."""

    model: LabelModel  # both classes; the first one's logit is zero
    gap: float  # by how much the equations' null vector stands out: large only if all hyperplanes are known
    # how far the orientations of neurons are from yes or no; infinite where an affine part was kept instead
    flips: float
    # neurons that are inactive wherever the pair meets: other classes tell how their weights to the two differ
    free: Bool[np.ndarray, " k"] | None = None
    # these, and those that are active wherever it meets
    one_sided: Bool[np.ndarray, " k"] = field(default_factory=lambda: np.zeros(0, dtype=bool))


def equations_needed(k: int, d: int) -> int:
    """Boundary points of one pair that settle its last layer, with a few to spare."""
    return int(1.15 * (k + d + 1)) + 4


def pair_output(
    planes: Hyperplanes, at: Crossings, faces: Faces, pair: tuple[int, int], oriented: bool = False
) -> PairOutput | None:
    """The weights between two classes, and which side of each hyperplane is the active one.

    The null vector over `[relu(A x + b), x, 1]` at points between the two. A neuron taken the wrong way round leaves a
    linear term, `relu(z) = relu(-z) + z`, so that the linear part is a sum of rows of those to be turned. What no
    choice of these explains comes from neurons that are always active at the boundary, and is kept. `planes`: the
    neurons' hyperplanes. `at`: crossings between the two labels. `faces`: faces between the two labels: their tangents
    give equations, too. `pair`: the two labels. `oriented`: whether hyperplanes point to their active side, and no
    neuron is always active: there is no linear term then.
    """
    A, b = planes.normals, planes.offsets
    k, d = A.shape
    sums = at.x @ A.T + b
    met = np.concatenate([sums, faces.x @ A.T + b]) > 0
    # A neuron on one side everywhere is a linear term there: as it is written, active.
    one_sided = np.zeros(k, dtype=bool) if oriented else np.asarray(met.all(axis=0) | ~met.any(axis=0))
    back = one_sided & ~met.any(axis=0)
    A, b, sums = np.where(back[:, None], -A, A), np.where(back, -b, b), np.where(back, -sums, sums)
    rows = [np.concatenate([np.maximum(sums, 0), at.x, np.ones((len(at), 1))], axis=1)]
    # Normals that were not measured but follow from others are vague, and must not blur the rest.
    sure = faces.error.min(initial=np.inf) / faces.error
    for x, normal, weight in zip(faces.x, faces.normal, sure, strict=True):
        tangent = (
            np.linalg.qr(np.column_stack([normal, np.eye(d)[:, : d - 1]]))[0][:, 1:].T if d > 1 else np.empty((0, 1))
        )
        active = A @ x + b > 0
        rows.append(weight * np.concatenate([(tangent @ A.T) * active, tangent, np.zeros((len(tangent), 1))], axis=1))
    matrix = np.concatenate(rows)
    if oriented:
        matrix = np.delete(matrix, np.arange(k, k + d), axis=1)
    if len(matrix) < matrix.shape[1] + 2:
        return None
    scale = np.linalg.norm(matrix, axis=0)
    # Inputs have one size; one that is zero all along the boundary is what the boundary is made of.
    scale[k:-1] = scale[k:-1].max(initial=0.0)
    scale[scale <= 1e-12 * scale.max()] = np.inf
    scale[:k][one_sided] = np.inf
    values, right = np.linalg.svd(matrix / scale, full_matrices=False)[1:]
    # Columns that no point sees are null vectors of their own.
    seen = np.isfinite(scale)
    good = [i for i in np.argsort(values) if np.linalg.norm(right[i][seen]) > 0.5]
    if len(good) < 2:
        return None
    vector, gap = right[good[0]] / scale, float(values[good[1]] / max(values[good[0]], 1e-300))
    weight, linear, offset = vector[:k], np.zeros(d) if oriented else vector[k : k + d], vector[-1]
    sign = _upward(at, pair, ((sums > 0) * weight) @ A + linear)
    weight, linear, offset = sign * weight, sign * linear, sign * float(offset)
    loose = (
        float(np.clip(FLIPS_LEFT_PER_ERROR * planes.error.max(), FLIPS_LEFT_SHARE, MOST_LOOSE))
        if k
        else FLIPS_LEFT_SHARE
    )
    A, b, weight, linear, offset, flips = _oriented(A, b, weight, linear, offset, one_sided, loose)
    # What is not active there now has a weight that the pair does not tell.
    silent = one_sided & (weight == 0)
    A, b = np.where(silent[:, None], -A, A), np.where(silent, -b, b)
    return PairOutput(_between(A, b, weight, linear, offset, pair), gap, flips, silent, one_sided)


def pair_weights(
    inner: Float[np.ndarray, "k d"],
    bias: Float[np.ndarray, " k"],
    at: Crossings,
    pair: tuple[int, int],
    phi: Activation,
) -> PairOutput | None:
    """The weights between two classes, behind neurons of which everything is known: a null vector over their values.

    `inner`: weight vectors. `bias`: their biases. `at`: crossings between the two labels. `pair`: the two labels.
    `phi`: the activation.
    """
    k, d = inner.shape
    sums = at.x @ inner.T + bias
    matrix = np.concatenate([phi.value(sums), np.ones((len(at), 1))], axis=1)
    if k == 0 or len(matrix) < k + 2 or not matrix.any(axis=0).all():
        return None
    vector, gap, _ = _null_vector(matrix)
    vector = _upward(at, pair, (phi.slope(sums) * vector[:k]) @ inner) * vector
    model = _between(inner, bias, vector[:k], np.zeros(d), float(vector[k]), pair)
    return PairOutput(replace(model, phi=phi), gap, 0.0)


def second_output(planes: Hyperplanes, at: Crossings, pair: tuple[int, int]) -> LabelModel | None:
    """The weights between two classes behind second-layer neurons: the null vector over `[relu(W h + c), h, 1]`.

    Values h of a first layer are zero for many neurons, and a second-layer neuron may be active at all points or at
    none: it then counts with the linear part, whose rows it is one of, or not at all. `planes`: second-layer neurons,
    of the first layer's values. `at`: crossings between the two labels, in these. `pair`: the two labels. Returns the
    model of the first layer's values. Its affine part holds neurons taken the wrong way round, and those active at all
    points.
    """
    rows, bias = planes.normals, planes.offsets
    k, d = rows.shape
    sums = at.x @ rows.T + bias
    on = sums > 0
    # Points that are nearly alone on their side of a neuron's hyperplane tell no weight: they are left out.
    rare = [side & (side.sum(axis=0) < BOTH) for side in (on, ~on, at.x > 0)]
    kept = np.flatnonzero(~np.any(np.concatenate(rare, axis=1), axis=1))
    at, sums, on = at[kept], sums[kept], on[kept]
    split = np.flatnonzero((on.sum(axis=0) >= BOTH) & ((~on).sum(axis=0) >= BOTH))
    seen = np.flatnonzero((at.x > 0).sum(axis=0) >= BOTH)
    matrix = np.concatenate([np.maximum(sums[:, split], 0), at.x[:, seen], np.ones((len(at), 1))], axis=1)
    if len(matrix) < matrix.shape[1] + 2 or not len(split):
        return None
    vector, _, others = _null_vector(matrix)
    if others < SECOND_NULL_VALUE:
        return None
    weight, linear = np.zeros(k), np.zeros(d)
    weight[split], linear[seen] = vector[: len(split)], vector[len(split) : -1]
    turn = _upward(at, pair, (on * weight) @ rows + linear)
    return _between(rows, bias, turn * weight, turn * linear, turn * float(vector[-1]), pair)


def _null_vector(matrix: Float[np.ndarray, "N p"]) -> tuple[Float[np.ndarray, " p"], float, float]:
    """The vector that a matrix takes to least, columns counted as of length one, by how much it stands out, and how
    little any other vector is taken to, as a share of the most."""
    scale = np.linalg.norm(matrix, axis=0)
    values, right = np.linalg.svd(matrix / scale, full_matrices=False)[1:]
    return right[-1] / scale, float(values[-2] / max(values[-1], 1e-300)), float(values[-2] / values[0])


def _upward(at: Crossings, pair: tuple[int, int], gradient: Float[np.ndarray, "N d"]) -> float:
    """1 where this gradient of the difference of two logits points to the higher label, or -1."""
    up = np.where(at.after == max(pair), 1.0, -1.0)
    return float(np.sign(np.sum(up * np.sum(gradient * at.along, axis=1))) or 1.0)


def _between(
    inner: Float[np.ndarray, "k d"],
    bias: Float[np.ndarray, " k"],
    weight: Float[np.ndarray, " k"],
    linear: Float[np.ndarray, " d"],
    offset: float,
    pair: tuple[int, int],
) -> LabelModel:
    """The model of two classes, the lower one's logit zero."""
    return LabelModel(
        inner,
        bias,
        np.stack([np.zeros(len(weight)), weight]),
        np.stack([np.zeros(len(linear)), linear]),
        np.array([0.0, offset]),
        np.array(sorted(pair)),
        activation("relu"),
    )


def _oriented(  # noqa: PLR0913 - the pair's last layer, and how exactly it is known
    A: Float[np.ndarray, "k d"],
    b: Float[np.ndarray, " k"],
    weight: Float[np.ndarray, " k"],
    linear: Float[np.ndarray, " d"],
    offset: float,
    one_sided: Bool[np.ndarray, " k"],
    loose: float,
) -> tuple[
    Float[np.ndarray, "k d"], Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " d"], float, float
]:
    if not len(A):
        return A, b, weight, linear, offset, 0.0
    size = float(np.abs(weight).max(initial=0.0)) or 1.0
    terms = (np.where(one_sided, size, weight)[:, None] * A).T
    turned = -np.linalg.lstsq(terms, linear, rcond=None)[0]
    flip = (turned > 0.5) & ~one_sided
    flips = float(np.abs(turned - flip)[~one_sided].max(initial=0.0))
    # Of neurons on one side any weight may be left, of others one or none.
    taken = np.where(one_sided, turned, flip)
    left = np.linalg.norm(linear + terms @ taken) / max(np.linalg.norm(terms, axis=0).max(), 1e-300)
    if left > loose and len(A) > A.shape[1] and not one_sided.any():
        side = by_balance(A, weight[:, None], (weight @ A + 2 * linear)[None], 1e-5)
        if side is not None:
            flip, left, flips = side < 0, 0.0, 0.0
    if left > loose or (loose > FLIPS_LEFT_SHARE and flips > FLIP_MISFIT_ALLOWED):
        return A, b, weight, linear, offset, np.inf
    A, b = np.where(flip[:, None], -A, A), np.where(flip, -b, b)
    active = one_sided & (np.abs(turned) > ONE_SIDED_ABSENT_WEIGHT)
    weight = np.where(active, -turned * size, weight)
    # w relu(z) = w relu(-z) + w z: what was turned leaves the linear part and the offset, and so does w z itself.
    return A, b, weight, np.zeros_like(linear), offset - float((weight * b)[flip | active].sum()), flips


def with_classes(
    model: LabelModel,
    labels: list[int],
    at: Crossings,
    free: Bool[np.ndarray, " k"] | None = None,
    weight: Float[np.ndarray, " N"] | None = None,
) -> tuple[LabelModel, int]:
    """The model with more classes, all at once, from boundaries between them and to the known ones.

    One linear equation a point; the known pair sets the scale. What no point tells stays at the known classes' mean.
    `model`: what is known. `labels`: the other classes. `at`: crossings between any of these and of the known ones.
    `free`: neurons of which the weight to the second known class is not known, see `PairOutput`. `weight`: how much
    each counts; None: all alike. Returns the model, and how many numbers the points leave open.
    """
    k, d = model.inner.shape
    parts = [model.phi.value(at.x @ model.inner.T + model.bias), np.ones((len(at), 1))]
    last = [model.outer, model.offset[:, None]]
    if model.affine.any():
        parts.append(at.x)
        last.append(model.affine)
    values, known = np.concatenate(parts, axis=1), np.concatenate(last, axis=1)
    classes = np.sort(np.concatenate([model.classes, np.array(labels, dtype=np.int64)]))
    mean = known.mean(axis=0)
    everything = np.tile(mean, (len(classes), 1))
    everything[np.searchsorted(classes, model.classes)] = known
    one, two = np.searchsorted(classes, at.before), np.searchsorted(classes, at.after)
    target = -np.sum(values * (everything[one] - everything[two]), axis=1)
    place = np.full(len(classes), -1)
    place[np.searchsorted(classes, labels)] = np.arange(len(labels))
    matrix = np.zeros((len(at), len(labels) + 1, values.shape[1]))
    points = np.arange(len(at))
    # The last block takes what belongs to known classes, and is dropped.
    matrix[points, place[one]] += values
    matrix[points, place[two]] -= values
    open_ = np.flatnonzero(free) if free is not None else np.empty(0, dtype=int)
    second = int(np.searchsorted(classes, model.classes[-1]))
    known_too = ((one == second).astype(float) - (two == second))[:, None] * values[:, open_]
    flat = np.concatenate([matrix[:, :-1].reshape(len(at), -1), known_too], axis=1)
    if weight is not None:
        flat, target = flat * weight[:, None], target * weight
    scale = np.linalg.norm(flat, axis=0)
    scale[scale == 0] = np.inf
    solution, _, rank, _ = np.linalg.lstsq(flat / scale, target, rcond=1e-8)
    solution = solution / scale
    everything[second, open_] += solution[len(solution) - len(open_) :]
    everything[np.searchsorted(classes, labels)] += solution[: len(solution) - len(open_)].reshape(len(labels), -1)
    affine = everything[:, k + 1 :] if model.affine.any() else np.zeros((len(classes), d))
    grown = replace(model, outer=everything[:, :k], offset=everything[:, k], affine=affine, classes=classes)
    return grown, flat.shape[1] - int(rank)


def linked_classes(at: Crossings, known: Int[np.ndarray, " c"]) -> Int[np.ndarray, " l"]:
    """The known classes and all that a chain of boundary points leads to from them, ascending."""
    linked = np.unique(known)
    while True:  # ends: each round but the last adds a class
        one, two = np.isin(at.before, linked), np.isin(at.after, linked)
        more = np.unique(np.concatenate([linked, at.after[one], at.before[two]]))
        if len(more) == len(linked):
            return linked
        linked = more


def with_others(
    model: LabelModel, pair: tuple[int, int], at: Crossings, free: Bool[np.ndarray, " k"] | None
) -> tuple[LabelModel, int]:
    """The model with all classes but two told anew, each boundary point by its distance.

    `model`: of all classes. `pair`: the two. `at`: crossings between any of its classes. `free`: see `with_classes`.
    Returns as `with_classes`.
    """
    kept = np.isin(model.classes, pair)
    others = [int(c) for c in model.classes[~kept]]
    if not others:
        return model, 0
    # Points far out are known less exactly, as far as they are out.
    steep = np.linalg.norm(model.gaps(at)[1], axis=1) * (1 + np.linalg.norm(at.x, axis=1))
    return with_classes(model.of(model.classes[kept]), others, at, free, 1 / np.maximum(steep, 1e-300))
