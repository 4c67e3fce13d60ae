"""A narrow network from labels: two hidden layers from the corners of a boundary in a plane, in all inputs.

Of a narrow network all there is to see is a few corners. They repeat nothing, so that no bends agree. What tells the
hyperplanes then is that a face on which a single neuron is active is parallel to that neuron's hyperplane. Which corner
belongs to which face is tried, and judged by all faces at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import sharpen
from unveil.identification.from_labels.deep_completion import Deep, DeepCompletion
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.faces import Faces, Precision, faces_at, on_face, tolerance_at
from unveil.identification.from_labels.foretold import foretold_crossings
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.output import pair_weights
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.whitebox.activation import activation

FACES_PER_NEURON = 2  # faces measured in all inputs, for each neuron of the first layer
BRACKET = 1e-4  # around a boundary point foretold by corners that were measured
FORETOLD_FOR_FACES = 48  # boundary points foretold of which these are chosen


def narrow_network(
    search: HyperplaneSearch, everywhere: Pool | None, accuracy: float, widths: tuple[int, ...] | None
) -> tuple[Deep, Chart] | None:
    """Two hidden layers, the first of two neurons, where exactly one such network has the boundary met.

    `search`: faces met. `everywhere`: points in all inputs, where the search was in a subspace. `accuracy`: wanted of
    the weight vectors, relative. `widths`: neurons of the hidden layers, if they are known. Returns the network and the
    coordinates it is in; None where there is no such network, or more than one. Queries: at most 8 for each two flat
    pieces; about 60 a number, and 140 for each input a subspace leaves out.
    """
    if widths is not None and (len(widths) != 2 or widths[0] != 2):
        return None
    if not in_a_plane(search.faces):
        return None
    corners = corners_of(search.side, search.faces, search.precision)
    if corners is None:
        return None
    faces = search.faces
    at = Crossings(faces.x, faces.before, faces.after, faces.normal, np.full(len(faces), search.precision.cell))
    models = two_layers(corners, at, None if widths is None else widths[1])
    if len(models) != 1:
        return None
    model, pool = models[0], search.pool
    if everywhere is not None:
        lifted = _in_all_inputs(model, pool, everywhere)
        if lifted is None:
            return None
        assert pool.chart.basis is not None
        at = replace(at, x=at.x @ pool.chart.basis, along=at.along @ pool.chart.basis)
        model, pool = lifted
    first = Hyperplanes(model.inner, model.bias, np.zeros(len(model.bias)))
    fit = DeepCompletion(pool, first, search.precision, accuracy, pool.rng)
    fit.points.add(at)
    return fit.fitted(model), pool.chart


def _in_all_inputs(model: DeepLabelModel, pool: Pool, everywhere: Pool) -> tuple[DeepLabelModel, Pool] | None:
    """The same network in all inputs: normals of the boundary there are known combinations of its weight vectors.
    Queries: about `50 n` for each of `FACES_PER_NEURON * k` faces."""
    inside, whole = pool.chart, everywhere.chart
    assert inside.basis is not None
    all_inputs = Chart(whole.oracle, whole.origin, inside.size, None)
    precision = Precision.of(all_inputs.digits)
    side, stretch = Side(all_inputs), inside.size / whole.size
    outer = Pool(side, all_inputs, everywhere.size / stretch, everywhere.given / stretch, pool.rng)
    outer.y, outer.label = everywhere.y / stretch, everywhere.label
    at = foretold_crossings(model, pool, inside, FORETOLD_FOR_FACES, pool.rng)
    if not len(at):
        return None
    # Those that tell all weight vectors best come first: the two halves of the choice are independent.
    k, chosen, left = len(model.inner), np.empty(0, dtype=int), np.arange(len(at))
    for _ in range(FACES_PER_NEURON):
        by_sums = _sensitivity(model, at[left])
        size = np.maximum(np.linalg.norm(by_sums, axis=1, keepdims=True), 1e-300)
        best = left[linalg.qr((by_sums / size).T, mode="r", pivoting=True)[1][:k]]
        chosen, left = np.append(chosen, best), np.setdiff1d(left, best)
    at = at[chosen]
    width = np.full(len(at), BRACKET)
    found = sharpen(
        side, replace(at, x=at.x @ inside.basis, along=at.along @ inside.basis, width=width), precision.cell
    )
    faces, rows = faces_at(side, found, precision, precision.step, pool.rng)
    if len(rows) < len(model.inner):
        return None
    by_sums = _sensitivity(model, at[rows])
    # In the subspace the normal's length is known.
    expected = by_sums @ model.inner
    seen = faces.normal @ inside.basis.T
    scale = np.sum(expected * seen, axis=1) / np.sum(seen**2, axis=1)
    inner = np.linalg.lstsq(by_sums, scale[:, None] * faces.normal, rcond=None)[0]
    return replace(model, inner=inner), outer


def _sensitivity(model: DeepLabelModel, at: Crossings) -> Float[np.ndarray, "N k"]:
    """Derivatives of the gap by the first layer's preactivations."""
    inside, on = model.inside(at)
    return np.asarray(model.behind.gaps(inside)[1] * on)


# Share of the normals that may lie outside a plane, and how far two normals of one face differ.
NORMAL_MISFIT_ALLOWED = 1e-5
MOST_PLANE_CORNERS = 8  # corners at most: what is tried grows fast with their number
ERROR_BEFORE_FIT = 1e-4  # distance from the boundary that is believed before the fit of all numbers


@dataclass(frozen=True)
class Corners:
    """A boundary in a plane."""

    faces: Faces  # one of each flat piece
    points: Float[np.ndarray, "c d"]  # (c, d), a point on each corner
    sides: Int[np.ndarray, "c 2"]  # (c, 2), the faces that meet there


def in_a_plane(faces: Faces) -> bool:
    """Whether the normals of a boundary span no more than a plane."""
    values = np.linalg.svd(faces.normal, compute_uv=False) if len(faces) > 2 else np.zeros(0)
    return (
        len(values) > 1
        and bool((values[2:] < NORMAL_MISFIT_ALLOWED * values[0]).all())
        and bool(values[1] > 1e-2 * values[0])
    )


def corners_of(side: Side, faces: Faces, precision: Precision) -> Corners | None:
    """The flat pieces and where they meet; None where there are too many. Queries: at most 8 for each pair of flat
    pieces."""
    kept: list[int] = []
    for i in np.argsort(faces.error, kind="stable"):
        one = faces.normal[i]
        same = [
            j
            for j in kept
            if abs(faces.normal[j] @ one) > 1 - NORMAL_MISFIT_ALLOWED
            and abs(one @ (faces.x[j] - faces.x[i])) < NORMAL_MISFIT_ALLOWED * 10
        ]
        if not same:
            kept.append(int(i))
    if len(kept) > MOST_PLANE_CORNERS + 1:
        return None
    pieces = faces[np.array(kept, dtype=int)]
    points, sides = [], []
    for i, j in combinations(range(len(pieces)), 2):
        corner = _met(side, pieces, i, j, precision)
        if corner is not None:
            points.append(corner)
            sides.append((i, j))
    if not points:
        return None
    return Corners(pieces, np.stack(points), np.array(sides))


def _met(side: Side, pieces: Faces, i: int, j: int, precision: Precision) -> np.ndarray | None:
    """Where two flat pieces meet, if both reach so far and none goes on."""
    normals = pieces.normal[[i, j]]
    if abs(normals[0] @ normals[1]) > 1 - NORMAL_MISFIT_ALLOWED:
        return None
    two = pieces[np.array([i, j])]
    # Each piece's own way to the line that both planes share.
    gaps = np.array([normals[1] @ (two.x[1] - two.x[0]), normals[0] @ (two.x[0] - two.x[1])])
    along = normals[::-1] - (normals[0] @ normals[1]) * normals
    way = (gaps / np.sum(along * normals[::-1], axis=1))[:, None] * along
    length = np.linalg.norm(way, axis=1)
    near = on_face(side, two, two.x + 0.999 * way, tolerance_at(precision, two, length))[0]
    if not near.all():
        return None
    beyond = on_face(side, two, two.x + 1.001 * way, tolerance_at(precision, two, length))[0]
    return None if beyond.any() else np.asarray(two.x[0] + way[0])


def two_layers(corners: Corners, at: Crossings, count: int | None = None) -> list[DeepLabelModel]:
    """Networks with two neurons in the first layer and the corners left in the second that have this boundary.

    `corners`: the boundary. `at`: crossings all over it. `count`: neurons of the second layer, if known. Returns those
    whose boundaries all points lie on; several if the boundary does not tell which.
    """
    found: list[DeepLabelModel] = []
    for first, used in _first_layers(corners):
        left = [i for i in range(len(corners.points)) if i not in used]
        if not left or (count is not None and len(left) != count):
            continue
        for second in _second_layers(corners, first, left):
            model = _behind(first, second, at)
            if model is not None and not any(_alike(model, other) for other in found):
                found.append(model)
    return found


def _first_layers(corners: Corners) -> Iterator[tuple[Hyperplanes, tuple[int, ...]]]:
    """Two corners, each with a face that its hyperplane is parallel to, for which no face sees an inactive neuron."""
    faces, count = corners.faces, len(corners.points)
    for pair in combinations(range(count), 2):
        free = [[f for f in range(len(faces)) if f not in corners.sides[c]] for c in pair]
        for chosen in product(*free):
            normals = faces.normal[list(chosen)]
            if abs(normals[0] @ normals[1]) > 1 - NORMAL_MISFIT_ALLOWED:
                continue
            for signs in product((1.0, -1.0), repeat=2):
                rows = normals * np.array(signs)[:, None]
                offsets = -np.sum(rows * corners.points[list(pair)], axis=1)
                planes = Hyperplanes(rows, offsets, np.full(2, NORMAL_MISFIT_ALLOWED))
                if _sees(planes, faces):
                    yield planes, pair


def _sees(planes: Hyperplanes, faces: Faces) -> bool:
    """Whether each face's normal is made of the weight vectors that are active there, and all of these are needed."""
    on = faces.x @ planes.normals.T + planes.offsets > 0
    parts = np.linalg.lstsq(planes.normals.T, faces.normal.T, rcond=None)[0].T
    return (
        bool((np.abs(parts[~on]) < NORMAL_MISFIT_ALLOWED * 10).all())
        and bool(on.any(axis=1).all())
        and bool(on.all(axis=1).any())
    )


def _second_layers(corners: Corners, first: Hyperplanes, left: list[int]) -> Iterator[Hyperplanes]:
    """The corners left, each with a face that its neuron's hyperplane is parallel to, by the first layer's values."""
    faces = corners.faces
    sums = faces.x @ first.normals.T + first.offsets
    both = [f for f in range(len(faces)) if (sums[f] > 0).all()]
    hidden = np.maximum(corners.points[left] @ first.normals.T + first.offsets, 0.0)
    parts = np.linalg.lstsq(first.normals.T, faces.normal.T, rcond=None)[0].T
    parts /= np.linalg.norm(parts, axis=1)[:, None]
    for chosen in permutations(both, len(left)):
        if any(f in corners.sides[c] for f, c in zip(chosen, left, strict=True)):
            continue
        rows = parts[list(chosen)]
        yield Hyperplanes(rows, -np.sum(rows * hidden, axis=1), np.full(len(left), NORMAL_MISFIT_ALLOWED))


def _behind(first: Hyperplanes, second: Hyperplanes, at: Crossings) -> DeepLabelModel | None:
    """The network, if there are last weights with which all points lie on its boundary, whichever sides are active."""
    for signs in product((1.0, -1.0), repeat=len(second)):
        sign = np.array(signs)
        turned = Hyperplanes(second.normals * sign[:, None], second.offsets * sign, second.error)
        sums = at.x @ first.normals.T + first.offsets
        inside = Crossings(
            np.maximum(sums, 0.0), at.before, at.after, (sums > 0) * (at.along @ first.normals.T), at.width
        )
        pair = np.unique([at.before, at.after])
        found = None
        if len(pair) == 2:
            two = (int(pair[0]), int(pair[1]))
            found = pair_weights(turned.normals, turned.offsets, inside, two, activation("relu"))
        if found is None:
            continue
        behind = found.model
        model = DeepLabelModel(first.normals, first.offsets, behind, behind.classes)
        if np.abs(model.distances(at)).max() < ERROR_BEFORE_FIT and (np.abs(behind.outer[1]) > 1e-6).all():
            return model
    return None


def _alike(one: DeepLabelModel, other: DeepLabelModel) -> bool:
    """Whether two models have the same rows, in any order, and so are one."""
    rows = [np.column_stack([each.inner, each.bias]) for each in (one, other)]
    apart = np.linalg.norm(rows[0][:, None] - rows[1][None], axis=2)
    return bool((apart.min(axis=1) < ERROR_BEFORE_FIT).all())
