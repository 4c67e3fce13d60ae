"""The second hidden layer behind a known first one: the weights that bends of the boundary share across linear regions.

Where the first layer's activation pattern is S, the hyperplane of a second-layer neuron is `w_S h_S + c = 0` in the
active values h of the first layer, and the normals on both sides of a bend there span w_S. So each bend leaves one
angle of w_S open; two bends of one neuron in different regions must agree where their patterns overlap, and settle it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import ALIKE, Edge, Hyperplanes

BEND_CLEARANCE = 1e-3  # so far from every known hyperplane a bend lies at least, that the pattern around it is certain
INACTIVE = 1e-3  # share of a face's normal along an inactive neuron's weight vector; errors leave far less
# What weight vectors of length one have outside the span of others, at most, if they lie in it.
DEPENDENT_REMAINDER = 1e-7
BEND_DISAGREEMENT = 1e-4  # how well bends of one neuron agree, as a share of its weights
OWN_NORMAL_SINE = 3e-3  # a direction so near to a face's own normal is that face's, and says nothing about the neuron
SURPLUS_EQUATIONS = 3  # equations beyond the unknown ones that the bends of a neuron must fulfil before it is believed
PARTNERS = 24  # bends that one is paired with, at most
CONCLUSIVE_BENDS = 6  # bends that agree: the neuron is found


@dataclass(frozen=True)
class Bends(Rows):
    """Bends of the boundary in values of a known first layer."""

    hidden: Float[np.ndarray, "N k"]  # (N, k), the first layer's values at each bend
    active: Bool[np.ndarray, "N k"]  # (N, k), which of its neurons are active there
    # (N, k), normal of the boundary before the bend by those values; zero where inactive
    near: Float[np.ndarray, "N k"]
    far: Float[np.ndarray, "N k"]  # (N, k), the same behind it


@dataclass(frozen=True)
class HiddenNeuron:
    """A second-layer neuron, up to sign and length."""

    weight: Float[np.ndarray, " k"]  # (k,), NaN where no bend tells
    bias: float  # its bias
    support: Int[np.ndarray, " s"]  # which bends are its own
    error: float  # how well these agree


def active_sides(planes: Hyperplanes, faces: Faces) -> Float[np.ndarray, " k"] | None:
    """Which side of each hyperplane of a first layer is the active one: only there normals of the boundary see it.

    `planes`: all neurons of the first layer. `faces`: flat pieces of the boundary from all over. Returns 1 or -1 for
    each; None where no choice puts the normals into the span of the active weight vectors.
    """
    sign, left = likely_sides(planes, faces)
    return sign if (left > INACTIVE).mean() < 0.05 else None


def likely_sides(
    planes: Hyperplanes, faces: Faces, start: Float[np.ndarray, " k"] | None = None
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " N"]]:
    """The sides with which normals lie least outside the span of the active weight vectors, and how far each does.
    `planes`, `faces`: as in `active_sides`. `start`: sides to begin with."""
    side = np.where(faces.x @ planes.normals.T + planes.offsets > 0, 1.0, -1.0)
    sign = np.ones(len(planes)) if start is None else start.copy()
    left, turned = _left(planes, faces, side * sign > 0)
    # Each turn that helps most, until none does. How far normals lie outside tells more than how many do, which may be
    # all of them until the last sides are right.
    for _ in range(4 * len(planes)):
        best = int(np.argmin(turned.mean(axis=0)))
        if not turned[:, best].mean() < left.mean():
            break
        sign[best] *= -1
        left, turned = _left(planes, faces, side * sign > 0)
    return sign, left


def _left(
    planes: Hyperplanes, faces: Faces, active: Bool[np.ndarray, "N k"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N k"]]:
    """How far each face's normal lies outside the span of the weight vectors that are active there, and how far it does
    with each of them turned."""
    rows = planes.normals
    left, turned = np.empty(len(faces)), np.empty(active.shape)
    for face, (normal, on) in enumerate(zip(faces.normal, active, strict=True)):
        across, values, span = np.linalg.svd(rows[on], full_matrices=False)
        kept = values > DEPENDENT_REMAINDER
        span = span[kept]
        off = normal - span.T @ (span @ normal)
        left[face] = length = np.linalg.norm(off)
        more = rows[~on] - rows[~on] @ span.T @ span
        size = np.linalg.norm(more, axis=1)
        part = np.divide(more @ off, size, out=np.zeros(len(more)), where=size > DEPENDENT_REMAINDER)
        turned[face, ~on] = np.sqrt(np.maximum(length**2 - part**2, 0.0))
        if kept.sum() == on.sum():
            # Without one of independent rows, what its own part of the dual basis had of the normal is left, too.
            dual = across / values @ span
            turned[face, on] = np.sqrt(length**2 + (dual @ normal) ** 2 / np.sum(dual**2, axis=1))
        else:
            for i in np.flatnonzero(on):
                others = rows[on & (np.arange(len(on)) != i)].T
                turned[face, i] = np.linalg.norm(normal - others @ np.linalg.lstsq(others, normal, rcond=None)[0])
    return left, turned


def bends_behind(planes: Hyperplanes, edges: list[Edge]) -> Bends:
    """Edges that lie on no hyperplane of the first layer, in its values. `planes`: the first layer, each hyperplane's
    normal towards its active side. `edges`: edges of the boundary."""
    parts = []
    for edge in edges:
        sums = planes.normals @ edge.z + planes.offsets
        on = sums > 0
        if np.abs(sums).min() < BEND_CLEARANCE or not on.any():
            continue
        rows = planes.normals[on]
        far = edge.at(edge.angle)
        both = np.zeros((2, len(planes)))
        both[:, on] = np.linalg.lstsq(rows.T, np.stack([edge.normal, far], axis=1), rcond=None)[0].T
        left = np.stack([edge.normal, far]) - both[:, on] @ rows
        if np.linalg.norm(left, axis=1).max() > INACTIVE:
            continue
        parts.append((np.where(on, sums, 0.0), on, both[0], both[1]))
    k = len(planes)
    if not parts:
        return Bends(np.empty((0, k)), np.empty((0, k), dtype=bool), np.empty((0, k)), np.empty((0, k)))
    return Bends(*(np.stack(each) for each in zip(*parts, strict=True)))


def hidden_neurons(bends: Bends) -> list[HiddenNeuron]:
    """Neurons of a second layer, each from the bends that agree on one weight vector."""
    found: list[HiddenNeuron] = []
    left = np.arange(len(bends))
    # Bends with the most active neurons tell most: their pairs come first.
    order = np.argsort(-bends.active.sum(axis=1), kind="stable")
    for one in order:
        if one not in left:
            continue
        grown = _of_bend(bends, left, int(one), order)
        if grown is not None:
            found.append(grown)
            left = np.setdiff1d(left, grown.support)
    return found


def distinct(neurons: list[HiddenNeuron]) -> list[HiddenNeuron]:
    """Each neuron once, told by most weights: bends that did not agree may have given one twice."""
    kept: list[HiddenNeuron] = []
    for each in sorted(neurons, key=lambda each: int(np.isnan(each.weight).sum())):
        if not any(alike(each, other) for other in kept):
            kept.append(each)
    return kept


def alike(one: HiddenNeuron, other: HiddenNeuron) -> bool:
    """Whether all that was told of two neurons is the same, up to sign and length."""
    known = ~np.isnan(one.weight) & ~np.isnan(other.weight)
    if known.sum() < 3:
        return False
    a, b = (np.append(each.weight[known], each.bias) for each in (one, other))
    off = np.linalg.norm(a / np.linalg.norm(a) - (np.sign(a @ b) or 1.0) * b / np.linalg.norm(b))
    return bool(off < ALIKE)


def _of_bend(bends: Bends, left: Int[np.ndarray, " M"], one: int, order: Int[np.ndarray, " N"]) -> HiddenNeuron | None:
    """The neuron of one bend, the best supported of those that it makes with another."""
    best: HiddenNeuron | None = None
    tried = 0
    for two in order:
        if two == one or two not in left or (bends.active[one] & bends.active[two]).sum() < 3:
            continue
        if best is not None and two in best.support:
            continue
        if _direction(bends, one, int(two)) is None:
            continue
        grown = _grown(bends, left, (one, int(two)))
        tried += 1
        if grown is not None and (best is None or len(grown.support) > len(best.support)):
            best = grown
        if tried >= PARTNERS or (best is not None and len(best.support) >= CONCLUSIVE_BENDS):
            break
    return best


def _direction(bends: Bends, i: int, j: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The weights of the neuron that two bends share, at each of them; None where they share none."""
    both = bends.active[i] & bends.active[j]
    planes = [np.linalg.qr(np.stack([bends.near[k, both], bends.far[k, both]], axis=1)) for k in (i, j)]
    (one, upper), (two, lower) = planes
    if min(abs(upper[1, 1]), abs(lower[1, 1])) < OWN_NORMAL_SINE * max(abs(upper[0, 0]), abs(lower[0, 0])):
        return None
    left, values, right = np.linalg.svd(one.T @ two)
    # Principal angles: the first must be zero, the second must not, else the planes are one and tell nothing.
    if np.sqrt(max(1 - values[0] ** 2, 0)) > BEND_DISAGREEMENT * 10 or values[1] > 1 - OWN_NORMAL_SINE**2:
        return None
    first, second = np.linalg.solve(upper, left[:, 0]), np.linalg.solve(lower, right[0])
    direction = one @ left[:, 0]
    for k in (i, j):
        for own in (bends.near[k, both], bends.far[k, both]):
            if abs(direction @ own) > (1 - OWN_NORMAL_SINE**2) * np.linalg.norm(own):
                return None
    weights = [
        coefficients[0] * bends.near[k] + coefficients[1] * bends.far[k]
        for k, coefficients in ((i, first), (j, second))
    ]
    bias = [-float(w @ bends.hidden[k]) for w, k in zip(weights, (i, j), strict=True)]
    size = max(np.abs(weights[0] * bends.hidden[i]).max(), np.abs(weights[1] * bends.hidden[j]).max(), abs(bias[0]))
    return (weights[0], weights[1]) if abs(bias[0] - bias[1]) < 10 * BEND_DISAGREEMENT * size else None


def _equations(bends: Bends, rows: Int[np.ndarray, " s"]) -> tuple[np.ndarray, int]:
    """What the weights and the bias of the neuron of these bends fulfil, and how many equations count."""
    parts, count = [], 0
    for i in rows:
        on = np.flatnonzero(bends.active[i])
        span = np.linalg.qr(np.stack([bends.near[i, on], bends.far[i, on]], axis=1))[0]
        across = np.zeros((len(on), bends.near.shape[1] + 1))
        across[:, on] = np.eye(len(on)) - span @ span.T
        through = np.append(bends.hidden[i], 1.0)
        parts += [across, through[None] / np.linalg.norm(through)]
        count += len(on) - 2 + 1
    return np.concatenate(parts), count


def _solved(bends: Bends, rows: Int[np.ndarray, " s"]) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Weights and bias of one neuron from its bends, NaN where none tells: the null vector, if it stands out."""
    matrix, count = _equations(bends, rows)
    seen = np.append(bends.active[rows].any(axis=0), True)
    values, right = np.linalg.svd(matrix[:, seen], full_matrices=False)[1:]
    if (
        count < seen.sum() - 1
        or len(values) < seen.sum()
        or not values[-2] > 30 * max(values[-1], BEND_DISAGREEMENT / 30)
    ):
        return None
    vector = np.full(len(seen), np.nan)
    vector[seen] = right[-1]
    return vector, float(values[-1]), np.array([count - (seen.sum() - 1)])


def _grown(bends: Bends, left: Int[np.ndarray, " M"], pair: tuple[int, int]) -> HiddenNeuron | None:
    """The neuron of two bends with all others that agree with it."""
    support = np.array(pair)
    solved = _solved(bends, support)
    if solved is None:
        return None
    for _ in range(6):
        off = np.array([_off(bends, int(i), solved[0]) for i in left])
        more = left[off < 10 * BEND_DISAGREEMENT]
        more = np.union1d(more, support) if len(more) < len(support) else more
        if np.array_equal(np.sort(more), np.sort(support)):
            break
        again = _solved(bends, more)
        if again is None:
            break
        support, solved = more, again
    if solved[2][0] < SURPLUS_EQUATIONS or len(support) < 3:
        return None
    return HiddenNeuron(solved[0][:-1], float(solved[0][-1]), support, solved[1])


def _off(bends: Bends, i: int, vector: Float[np.ndarray, " k1"]) -> float:
    """How far a bend is from being this neuron's, relative to the weights active there; infinite where it tells not."""
    weight = vector[:-1]
    known = bends.active[i] & ~np.isnan(weight)
    if known.sum() < 3:
        return np.inf
    on = weight[known]
    span, upper = np.linalg.qr(np.stack([bends.near[i, known], bends.far[i, known]], axis=1))
    if abs(upper[1, 1]) < OWN_NORMAL_SINE * abs(upper[0, 0]):
        return np.inf
    off = float(np.linalg.norm(on - span @ (span.T @ on)) / np.linalg.norm(on))
    # Where the face's own normal is all that they share it may be another neuron's.
    for own in (bends.near[i, known], bends.far[i, known]):
        if abs(on @ own) > (1 - OWN_NORMAL_SINE**2) * np.linalg.norm(own) * np.linalg.norm(on):
            return np.inf
    if known.sum() == bends.active[i].sum():
        parts = weight[known] * bends.hidden[i, known]
        size = max(np.abs(parts).max(), abs(vector[-1]))
        return max(off, float(abs(parts.sum() + vector[-1]) / size))
    return off if known.sum() > 3 else np.inf
