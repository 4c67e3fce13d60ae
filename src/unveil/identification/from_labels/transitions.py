"""Transitions: far out, where two hyperplanes of a sigmoidal layer cross and all other neurons rest.

Two sigmoidal neurons from curves on which no others matter: `A + B tanh(t q + c) + tanh(s p + b) = 0`.

With X = exp(2 s p) and Y = exp(2 t q) each curve is `c0 X Y + c1 X + c2 Y + c3 = 0`: both scales follow from one curve,
as those for which such numbers exist. They leave one combination of b, c, A and B open, for all curves the same
equation `c0 - c1 z - c2 y + c3 y z = 0` of y = exp(2 b) and z = exp(2 c): more curves settle these.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross

# Scales tried for each neuron, in units of one over the size of a typical input.
SCALES_TRIED = np.geomspace(0.03, 12.0, 14)
SCALE_PAIRS_FOLLOWED = 8  # pairs of them that are followed, the best first
# Root mean square distance of the points from a curve, in sizes of a typical input, that is believed.
CURVE_FIT_DISTANCE = 1e-8
SAME_SOLUTION_BIAS = 1e-4  # biases nearer to each other than this are one solution


@dataclass(frozen=True)
class Curve:
    """Points where two labels meet and two neurons alone matter."""

    points: Float[np.ndarray, "N 2"]  # values of `normals @ y` for the two neurons
    labels: tuple[int, int]  # the two labels, in ascending order


@dataclass(frozen=True)
class Transition:
    """Two neurons, as curves tell them."""

    scale: Float[np.ndarray, " 2"]  # length of each neuron's weight vector
    bias: Float[np.ndarray, " 2"]  # for weights along the direction given
    # of each bias, or of each scale relative to its size, whichever is larger: standard errors, or how far apart
    # several solutions lie
    error: Float[np.ndarray, " 2"]
    rms: float  # how far the points lie off the curves


def two_scales(curve: Curve) -> Float[np.ndarray, " 2"] | None:
    """The scales for which a curve is one of two such neurons; None where there are none."""
    starts = []
    for scale in product(np.log(SCALES_TRIED), repeat=2):
        off = _off_scales(np.array(scale), curve.points)
        starts.append((float(np.sum(np.minimum(off**2, 1.0))), np.array(scale)))
    starts.sort(key=lambda each: each[0])
    for _, start in starts[:SCALE_PAIRS_FOLLOWED]:
        near = optimize.least_squares(_off_scales, start, args=(curve.points,), max_nfev=30).x
        at = np.concatenate([near, _numbers(np.exp(near), curve.points)])
        found = _least(_off_curve, at, curve.points)
        if found.cost < 0.5 * len(curve.points) * CURVE_FIT_DISTANCE**2:
            return np.asarray(np.exp(found.x[:2]))
    return None


def neurons(curves: list[Curve], scale: Float[np.ndarray, " 2"]) -> Transition | None:
    """Scales and biases from two or more curves; None where no two neurons explain them.

    `curves`: all of the same two neurons. `scale`: both scales, from one of the curves.
    """
    fits = []
    count = sum(len(each.points) for each in curves)
    places = sorted({each.labels for each in curves})
    which = [places.index(each.labels) for each in curves]
    for bias in _biases(curves, scale):
        start = np.concatenate([np.log(scale), bias, *_outputs(curves, which, scale, bias)])
        found = _least(_off_all, start, curves, which)
        if found.cost < 0.5 * count * CURVE_FIT_DISTANCE**2:
            fits.append(found)
    if not fits:
        return None
    best = min(fits, key=lambda each: float(each.cost))
    rms = float(np.sqrt(2 * best.cost / count))
    column = np.maximum(np.linalg.norm(best.jac, axis=0), 1e-300)
    values, right = np.linalg.svd(best.jac / column, full_matrices=False)[1:]
    error = rms * np.linalg.norm(right / np.maximum(values, 1e-300)[:, None], axis=0)[:4] / column[:4]
    others = np.max([np.abs(each.x[2:4] - best.x[2:4]) for each in fits], axis=0)
    error[2:] += np.where(others > SAME_SOLUTION_BIAS, others, 0.0)
    return Transition(np.exp(best.x[:2]), best.x[2:4], np.maximum(error[:2], error[2:]), rms)


def _numbers(scale: Float[np.ndarray, " 2"], points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " 4"]:
    """What multiplies `[tanh p tanh q, tanh p, tanh q, 1]` along a curve, of length one."""
    matrix = _features(scale, points)
    size = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    vector = np.linalg.svd(matrix / size, full_matrices=False)[2][-1] / size
    return np.asarray(vector / np.linalg.norm(vector))


def _features(scale: Float[np.ndarray, " 2"], points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 4"]:
    p, q = np.tanh(points * scale).T
    return np.column_stack([p * q, p, q, np.ones(len(p))])


def _biases(curves: list[Curve], scale: Float[np.ndarray, " 2"]) -> list[Float[np.ndarray, " 2"]]:
    """Both biases, each pair that satisfies all curves' equations."""
    # exp(2 s p) = (1 + tanh) / (1 - tanh): from products of tanh to products of exponentials.
    mixed = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]])
    rows = np.stack([mixed @ _numbers(scale, each.points) for each in curves])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) * [1, -1, -1, 1]
    values, right = np.linalg.svd(np.concatenate([rows, np.zeros((2, 4))]))[1:]
    # The null vector is (1, z, y, y z).
    found = [right[3]] if values[2] > 1e-7 * values[0] else []
    u, v = right[2], right[3]
    # Of a plane of null vectors those that are such a product.
    for root in np.roots(
        [u[0] * u[3] - u[1] * u[2], u[0] * v[3] + v[0] * u[3] - u[1] * v[2] - v[1] * u[2], v[0] * v[3] - v[1] * v[2]]
    ):
        if abs(root.imag) < 1e-3 * (1 + abs(root)):
            found.append(root.real * u + v)
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = [np.array([each[2] / each[0], each[1] / each[0]]) for each in found]
    return [np.log(pair) / 2 for pair in pairs if (pair > 0).all() and np.isfinite(pair).all()]


def _outputs(
    curves: list[Curve], which: list[int], scale: Float[np.ndarray, " 2"], bias: Float[np.ndarray, " 2"]
) -> list[Float[np.ndarray, " s"]]:
    """B of each pair of labels and A of each curve that fit best."""
    count = max(which) + 1
    blocks, target = [], []
    for i, each in enumerate(curves):
        p, q = np.tanh(each.points * scale + bias).T
        block = np.zeros((len(p), count + len(curves)))
        block[:, which[i]], block[:, count + i] = q, 1.0
        blocks.append(block)
        target.append(-p)
    return [np.linalg.lstsq(np.concatenate(blocks), np.concatenate(target), rcond=None)[0]]


def _off_scales(at: Float[np.ndarray, " 2"], points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """Distance of points from the curve of given log scales that suits them best."""
    return _off_curve(np.concatenate([at, _numbers(np.exp(at), points)]), points)


@np.errstate(all="ignore")
def _off_curve(at: Float[np.ndarray, " 6"], points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """Distance of points from `numbers @ features = 0`, to first order; `at` is (log scales, numbers)."""
    scale = np.exp(at[:2])
    return _divided(_features(scale, points) @ at[2:], _steep(scale, at[2:], points))


def _steep(
    scale: Float[np.ndarray, " 2"], numbers: Float[np.ndarray, " 4"], points: Float[np.ndarray, "N 2"]
) -> Float[np.ndarray, "N 2"]:
    p, q = np.tanh(points * scale).T
    down = scale / np.cosh(points * scale) ** 2
    return np.column_stack([(numbers[0] * q + numbers[1]) * down[:, 0], (numbers[0] * p + numbers[2]) * down[:, 1]])


@np.errstate(all="ignore")
def _off_all(at: Float[np.ndarray, " P"], curves: list[Curve], which: list[int]) -> Float[np.ndarray, " N"]:
    """Distance of all points from their curves; `at` is (log scales, biases, B of each pair of labels, A of each)."""
    scale, bias, count = np.exp(at[:2]), at[2:4], max(which) + 1
    parts = []
    for i, each in enumerate(curves):
        b, a = at[4 + which[i]], at[4 + count + i]
        p, q = np.tanh(each.points * scale + bias).T
        parts.append(_divided(a + b * q + p, _down(at, each, b)))
    return np.concatenate(parts)


def _down(at: Float[np.ndarray, " P"], curve: Curve, b: float) -> Float[np.ndarray, "N 2"]:
    scale = np.exp(at[:2])
    return np.asarray(np.array([1.0, b]) * scale / np.cosh(curve.points * scale + at[2:4]) ** 2)


def _divided(values: Float[np.ndarray, " N"], steep: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """By the length of a gradient; far too steep where both neurons rest."""
    length = np.maximum(np.linalg.norm(steep, axis=1), 1e-150)
    return np.asarray(np.clip(np.nan_to_num(values / length, nan=1e3), -1e3, 1e3))


def _least(off: object, start: Float[np.ndarray, " P"], *args: object) -> optimize.OptimizeResult:
    return optimize.least_squares(
        off, start, "3-point", args=args, x_scale="jac", max_nfev=100, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )


WIDTH = 128.0  # half the side of the parallelogram in which a transition is looked at, in sizes of a typical input
AT_REST = 0.03  # so far from all other hyperplanes it lies at least, as a share of its distance from the middle
PLACES_DRAWN = 64  # places drawn, of which one far from all other hyperplanes is taken
PARALLEL_COSINE = 0.95  # cosine from which on two normals are too much alike
PLACES_ASKED = 24  # places asked at which a boundary may depend on both neurons
CURVES = 5  # curves of two neurons, at most
# Rounds in which points are added along the first curve, and along further ones.
FIRST_CURVE_ROUNDS, FURTHER_CURVE_ROUNDS = 6, 2
CURVE_POINTS_PER_ROUND = 6  # points added in each round
KNOWN_BIAS_ERROR = 1e-5  # error of a bias from which on it is known


def transition(
    side: Side,
    chart: Chart,
    normals: Float[np.ndarray, "k d"],
    pair: tuple[int, int],
    radius: float,
    rng: np.random.Generator,
) -> Transition | None:
    """Scales and biases of two neurons; None where no boundaries depend on both, or where these are other curves.

    `normals`: unit normals of all known neurons. `pair`: which two. `radius`: how far out. Queries: 4 for a place, at
    most `PLACES_ASKED` of them; about 1,100 for the first curve and 300 for each further one.
    """
    cell = 4 * chart.digits * radius
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * WIDTH
    curves: list[Curve] = []
    scale: np.ndarray | None = None
    for _ in range(PLACES_ASKED):
        place = _place(normals, pair, radius, rng)
        if place is None:
            return None
        label = side.labels(place.at(corners))
        if len(set(label.tolist())) != 2:
            continue
        points = _traced(side, place, corners, label, cell, FURTHER_CURVE_ROUNDS if curves else FIRST_CURVE_ROUNDS)
        if len(points) < (5 if curves else 16):
            continue
        low, high = np.unique(label)
        curves.append(Curve(points, (int(low), int(high))))
        if scale is None:
            scale = two_scales(curves[0])
            if scale is None:
                return None
            continue
        # Each curve tells three numbers; A is its own, B belongs to its labels, and two biases are shared.
        spare = 2 * len(curves) - 2 - len({each.labels for each in curves})
        found = neurons(curves, scale) if spare > 0 else None
        if spare > 0 and found is None:
            curves.pop()
        elif found is None:
            continue
        elif found.error.max() < KNOWN_BIAS_ERROR:
            return found
        elif len(curves) == CURVES:
            break
    return None


@dataclass(frozen=True)
class _Place:
    """A parallelogram far out: `at` maps values of `normals @ y` to points."""

    middle: Float[np.ndarray, " d"]
    ways: Float[np.ndarray, "2 d"]
    normals: Float[np.ndarray, "2 d"]

    def at(self, pq: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N d"]:
        return np.asarray(self.middle + pq @ self.ways)

    def seen(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N 2"]:
        return np.asarray(y @ self.normals.T)


def _place(
    normals: Float[np.ndarray, "k d"], pair: tuple[int, int], radius: float, rng: np.random.Generator
) -> _Place | None:
    two = normals[list(pair)]
    if normals.shape[1] < 3 or abs(two[0] @ two[1]) > PARALLEL_COSINE:
        return None
    ways = np.linalg.pinv(two).T
    v = rng.standard_normal((PLACES_DRAWN, normals.shape[1]))
    v -= v @ two.T @ ways
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    others = np.delete(normals, list(pair), axis=0)
    clear = np.abs(v @ others.T).min(axis=1, initial=1.0)
    good = np.flatnonzero(clear > AT_REST)
    best = int(good[0]) if len(good) else int(clear.argmax())
    if clear[best] * radius < 2 * WIDTH:
        return None
    return _Place(radius * v[best], ways, two)


def _traced(
    side: Side, place: _Place, corners: Float[np.ndarray, "4 2"], label: Int[np.ndarray, " 4"], cell: float, levels: int
) -> Float[np.ndarray, "N 2"]:
    """Points along the boundary, most of them where it turns: it rises or falls all the way, as both terms do."""
    after = np.roll(label, -1)
    ends = np.flatnonzero(label != after)
    if len(ends) != 2:
        return np.empty((0, 2))
    start, end = corners, np.roll(corners, -1, axis=0)
    points = _crossed(side, place, start[ends], end[ends], label[ends], after[ends], cell)
    if len(points) != 2:
        return np.empty((0, 2))
    rising = np.prod(points[1] - points[0]) >= 0
    points = points[points[:, 0].argsort()]
    for _ in range(levels):
        step = np.abs(np.diff(points, axis=0))
        split = np.flatnonzero(step.min(axis=1) > 1e6 * cell)
        split = split[np.argsort(-step.prod(axis=1)[split])][:CURVE_POINTS_PER_ROUND]
        if not len(split):
            break
        low, high = points[split], points[split + 1]
        # A curve that rises or falls crosses the other diagonal of the rectangle between two of its points.
        one, two = np.column_stack([low[:, 0], high[:, 1]]), np.column_stack([high[:, 0], low[:, 1]])
        here = side.labels(place.at(one))
        there = np.where(here == label[ends[0]], after[ends[0]], label[ends[0]])
        points = np.concatenate([points, _crossed(side, place, one, two, here, there, cell)])
        points = points[np.lexsort((points[:, 1] if rising else -points[:, 1], points[:, 0]))]
    return points


def _crossed(  # noqa: PLR0913 - where, along what, how finely
    side: Side,
    place: _Place,
    start: Float[np.ndarray, "N 2"],
    end: Float[np.ndarray, "N 2"],
    before: Int[np.ndarray, " N"],
    after: Int[np.ndarray, " N"],
    cell: float,
) -> Float[np.ndarray, "M 2"]:
    found: Crossings = cross(side, place.at(start), place.at(end), before, after, cell)
    return place.seen(found.x[found.after == after])
