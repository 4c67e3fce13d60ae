"""Which hyperplanes go on straight across the whole input space: those of a first layer, and no others.

Behind a first layer those of a second one do in its values, and none of a third.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.dual_points import DualPoints, dual_points
from unveil.identification.from_labels.faces import Faces, Precision, on_face, tolerance_at
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.second_layer import HiddenNeuron
from unveil.identification.from_labels.walks import Walks, closer

FACES_PER_LOOK = 48  # faces from which each hyperplane is looked at at a time; where so many reached it, that is enough
BATCHES = 4  # so often at most, while too few did
ENOUGH = 8  # so many of them must end at it
# What was seen from a face on its way to a hyperplane: nothing yet, something else in between, its end, or no end.
UNSEEN, BLOCKED, ENDED, PASSED = range(4)
# Ends on either side of another hyperplane, of which one may be chance, that this one goes on behind it.
ENDS_PER_SIDE = 2
# Hyperplanes that go on straight, and half of those known, must have ends on both sides to tell that.
LEAST_WITH_BOTH_SIDES = 3
SHARE = 0.25  # at most so many go on behind it, for each that ends: where deeper layers cover what the neuron does
BLIND = 6  # so many faces that go on, for each that ends, tell that their two classes have the same weight of a neuron
STRAIGHTNESS_PASSES = 3  # passes in which hyperplanes that go on straight tell further ones
# Faces, for each point that a hyperplane needs, that must end at it before no more are looked for.
ENDS_PER_NEEDED_POINT = 1.5
REMEASURING_POINTS = 4  # points at which a vague hyperplane is measured again
PASSING_WALKS = 8  # walks that pass a hyperplane before it counts as bent


def straight(ended: Int[np.ndarray, " k"], passed: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Whether faces end where they meet each hyperplane, wherever that is.

    A neuron of a first layer bends the boundary along its whole hyperplane. The hyperplane of a deeper neuron bends at
    every hyperplane of the layers before it, so that most faces go on where its continuation would be. `ended`,
    `passed`: as from `looks`.
    """
    return np.asarray((ended >= ENOUGH) & (passed <= SHARE * ended))


@dataclass(frozen=True)
class BoundaryFaces:
    """Faces from all over the boundary, and how it is asked from them."""

    side: Side  # answers, in coordinates
    chart: Chart  # the coordinates
    faces: Faces
    precision: Precision  # lengths to ask at


def looks(
    boundary: BoundaryFaces, planes: Hyperplanes, rng: np.random.Generator, batches: int = BATCHES
) -> Int[np.ndarray, "2 k"]:
    """From how many faces each hyperplane is met as an end, and from how many the boundary goes on behind it. Queries:
    at most 4 for each hyperplane and each of `FACES_PER_LOOK` faces, `batches` times where few reach it."""
    seen = np.zeros((len(planes), len(boundary.faces)), dtype=np.int8)
    look_on(seen, boundary, planes, rng, batches)
    return told(seen, boundary.faces, planes)


def look_on(
    seen: Int[np.ndarray, "k N"],
    boundary: BoundaryFaces,
    planes: Hyperplanes,
    rng: np.random.Generator,
    batches: int = BATCHES,
) -> None:
    """Look at hyperplanes from some more faces, nearest ones first. `seen`: what was seen from each, changed in place.
    Queries: as in `looks`."""
    for i in range(len(planes)):
        for batch in range(batches):
            if (seen[i] >= ENDED).sum() >= (ENOUGH if batch else FACES_PER_LOOK):
                break
            fresh = np.flatnonzero(seen[i] == UNSEEN)
            ended, passed, asked = _looked_at(boundary, planes[np.array([i])], rng, fresh)
            if not len(asked):
                break
            seen[i, asked], seen[i, ended.face], seen[i, passed] = BLOCKED, ENDED, PASSED


def told(seen: Int[np.ndarray, "k N"], faces: Faces, planes: Hyperplanes) -> Int[np.ndarray, "2 k"]:
    """How many faces end at each hyperplane, and how many go on behind it and tell that it is bent."""
    ends, goes = ([np.flatnonzero(row == what) for row in seen] for what in (ENDED, PASSED))
    counts = np.array([[len(each) for each in met] for met in (ends, goes)]).reshape(2, -1)
    for _ in range(STRAIGHTNESS_PASSES):
        sure = straight(*counts)
        for i in np.flatnonzero(~sure & (counts[0] >= ENOUGH)).tolist():
            counts[1, i] = _where_bent(faces, planes, i, (ends[i], goes[i]), planes[np.flatnonzero(sure)]).sum()
    return counts


def _where_bent(
    faces: Faces,
    planes: Hyperplanes,
    which: int,
    met: tuple[Int[np.ndarray, " e"], Int[np.ndarray, " p"]],
    sure: Hyperplanes,
) -> Bool[np.ndarray, " p"]:
    """Which faces that go on behind a hyperplane tell that it is bent.

    A deeper neuron's hyperplane goes on straight behind no other, so that all faces end at it on the same sides of
    those of the first layer. Where faces end at it on both sides of most, it is none; then one that goes on where
    others end is where deeper layers cover what the neuron does, or two classes have the same weight of it. `which`:
    the hyperplane. `met`: faces that end at it, and that go on. `sure`: hyperplanes that go on straight.
    """
    along, s, _ = faces.ways_to(planes.normals[which], float(planes.offsets[which]))
    ended, passed = ((faces.x[rows] + s[rows, None] * along[rows]) @ sure.normals.T + sure.offsets > 0 for rows in met)
    up, down = ended.sum(axis=0), (~ended).sum(axis=0)
    if (np.minimum(up, down) >= ENDS_PER_SIDE).sum() < max(LEAST_WITH_BOTH_SIDES, len(sure) / 2):
        return np.ones(len(passed), dtype=bool)
    return np.asarray((np.where(passed, up, down) < ENDS_PER_SIDE).any(axis=1))


def where_it_counts(faces: Faces, ended: Int[np.ndarray, " e"], passed: Int[np.ndarray, " p"]) -> tuple[int, int]:
    """How many faces end and how many go on, without those between classes that have the same weight of the neuron.

    The boundary between such two does not bend at its hyperplane. `faces`: all of them. `ended`, `passed`: which end at
    a hyperplane, and which go on behind it.
    """
    labels = np.sort(np.stack([faces.before, faces.after], axis=1), axis=1)
    pairs, which = np.unique(labels, axis=0, return_inverse=True)
    ends, goes = (np.bincount(which.ravel()[rows], minlength=len(pairs)) for rows in (ended, passed))
    counts = (goes < BLIND) | (ends > goes / BLIND)
    counts |= ends[counts].sum() < ENOUGH
    return int(ends[counts].sum()), int(goes[counts].sum())


def looks_behind(
    boundary: BoundaryFaces, first: Hyperplanes, neurons: list[HiddenNeuron], rng: np.random.Generator
) -> Int[np.ndarray, "2 k"]:
    """From how many faces each neuron's hyperplane is met as an end, and from how many the boundary goes on behind it.

    Each face is followed in its own linear region of the first layer, where the neuron's hyperplane is one of the
    inputs. A third layer's neuron has another one behind every hyperplane of the second layer. `first`: the first
    layer, each hyperplane's normal towards its active side. `neurons`: the second layer; where neurons are active of
    which nothing told a weight no face is looked at. `rng`: picks the faces. Queries: at most 4 for each neuron and
    each of `FACES_PER_LOOK` faces.
    """
    faces, precision = boundary.faces, boundary.precision
    active = faces.x @ first.normals.T + first.offsets > 0
    counts = np.zeros((2, len(neurons)), dtype=int)
    for i, each in enumerate(neurons):
        weight = np.where(active, np.nan_to_num(each.weight), 0.0)
        normals = weight @ first.normals
        length = np.linalg.norm(normals, axis=1)
        rows = np.flatnonzero(~active[:, np.isnan(each.weight)].any(axis=1) & (length > 1e-9 * length.max(initial=0.0)))
        on, scale = faces[rows], 1 / length[rows]
        a, b = normals[rows] * scale[:, None], (weight[rows] @ first.offsets + each.bias) * scale
        along, s, steep = on.ways_to(a, b)
        with np.errstate(divide="ignore", invalid="ignore"):
            blur = 5 * each.error * (1 + s + np.linalg.norm(on.x, axis=1)) / steep
        aside = np.maximum(precision.aside * s, blur)
        meets = (steep > 1e-3) & (s > 4 * precision.step) & (s < 30) & (s > 2 * aside)
        # The region ends at the next hyperplane of the first layer.
        meets[meets] &= (s + 2 * aside)[meets] < first.ahead(on.x[meets], along[meets]).min(axis=1, initial=np.inf)
        meets[meets] &= (s + 2 * aside)[meets] < 0.98 * boundary.chart.room(on.x[meets], along[meets])
        ended, passed, _ = reached(replace(boundary, faces=on), np.flatnonzero(meets), (along, s, aside), rng)
        counts[:, i] = where_it_counts(on, ended.face, passed)
    return counts


def sharpened(
    boundary: BoundaryFaces, planes: Hyperplanes, rng: np.random.Generator, batches: int = BATCHES
) -> Hyperplanes:
    """The same hyperplanes, each through dual points from many faces by least squares. Queries: at most 100 for each
    hyperplane and each of `FACES_PER_LOOK` faces, or where few of these end there, of `batches` times as many."""
    normals, offsets, error = planes.normals.copy(), planes.offsets.copy(), planes.error.copy()
    need = boundary.chart.n + 2
    for i in range(len(planes)):
        ended, left = _no_walks(boundary.chart.n), np.arange(len(boundary.faces))
        for _ in range(batches):
            more, _, asked = _looked_at(boundary, planes[np.array([i])], rng, left)
            ended, left = Walks.joined([ended, more]), np.setdiff1d(left, asked)
            if len(ended) >= ENDS_PER_NEEDED_POINT * need or not len(asked):
                break
        found = _dual_points(boundary, ended)
        # Ends at another neuron just beside are none of this one's.
        off = np.abs(found.z @ normals[i] + offsets[i])
        near = np.flatnonzero(off < np.maximum(0.01, 5 * error[i] * (1 + np.linalg.norm(found.z, axis=1))))
        if len(near) < need:
            continue
        least = np.maximum(found.error[near], boundary.precision.digits)
        through = fitted(found.z[near], least)
        kept = np.abs(through.normals @ found.z[near].T + through.offsets)[0]
        kept = kept <= 10 * np.median(kept) + 10 * found.error[near]
        if kept.sum() < need:
            continue
        through = fitted(found.z[near][kept], least[kept])
        if through.error[0] < error[i]:
            sign = np.sign(through.normals[0] @ normals[i]) or 1.0
            normals[i], offsets[i], error[i] = sign * through.normals[0], sign * through.offsets[0], through.error[0]
    return Hyperplanes(normals, offsets, error)


def fitted(z: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]) -> Hyperplanes:
    """The hyperplane through points by least squares; its error is two standard ones, as leaving out each point tells.
    `z`: at least `d + 2` points. `error`: how exactly they are known, one relative to another."""
    weight = 1 / error
    total = np.linalg.norm(weight)
    centre = np.average(z, axis=0, weights=weight**2)
    left, values, right = np.linalg.svd(weight[:, None] * (z - centre), full_matrices=False)
    along, on = left[:, :-1], weight / total
    # How far off each point lies from the hyperplane through the others: of few, most draw it to themselves.
    share = np.sum(along**2, axis=1) + on**2
    off = values[-1] * left[:, -1] / np.maximum(1 - share, 1e-9)
    turned, moved = along / values[:-1], on / total
    rough = 2 * np.sqrt(np.sum((off[:, None] * turned) ** 2) + np.sum((off * moved) ** 2))
    return Hyperplanes(right[-1:], -right[-1:] @ centre, np.array([rough]))


def met_again(boundary: BoundaryFaces, plane: Hyperplanes, rng: np.random.Generator) -> DualPoints:
    """Some dual points on a single hyperplane, from faces far apart that end there. Queries: at most 4 for each of
    `FACES_PER_LOOK` faces, and about 100 a point."""
    ended = _looked_at(boundary, plane, rng)[0]
    return _dual_points(boundary, ended[rng.permutation(len(ended))[:REMEASURING_POINTS]])


def _dual_points(boundary: BoundaryFaces, ended: Walks) -> DualPoints:
    side, faces, precision = boundary.side, boundary.faces, boundary.precision
    return dual_points(side, faces, closer(side, faces, ended, precision, 1e-4), precision)


def bent(ended: Int[np.ndarray, " k"], passed: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Which hyperplanes walks pass more often than they end there: no neuron's of a single hidden layer."""
    return np.asarray((passed >= PASSING_WALKS) & (passed > ended))


def _looked_at(
    boundary: BoundaryFaces,
    plane: Hyperplanes,
    rng: np.random.Generator,
    among: Int[np.ndarray, " M"] | None = None,
) -> tuple[Walks, Int[np.ndarray, " p"], Int[np.ndarray, " a"]]:
    """Walks that end at a single hyperplane, the faces that go on behind it, and all that were asked, `among` some."""
    faces, precision = boundary.faces, boundary.precision
    along, s, steep = faces.ways_to(plane.normals[0], float(plane.offsets[0]))
    aside = plane.aside(faces.x, along, precision.aside)[:, 0]
    meets = (steep > 1e-3) & (s > 4 * precision.step) & (s < 30) & (s > 2 * aside)
    meets[meets] &= (s + 2 * aside)[meets] < 0.98 * boundary.chart.room(faces.x[meets], along[meets])
    rows = np.flatnonzero(meets) if among is None else among[meets[among]]
    return reached(boundary, rows, (along, s, aside), rng)


def reached(
    boundary: BoundaryFaces,
    rows: Int[np.ndarray, " M"],
    ways: tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]],
    rng: np.random.Generator,
) -> tuple[Walks, Int[np.ndarray, " p"], Int[np.ndarray, " a"]]:
    """Of faces and ways on them to a hyperplane, those that end there as walks, those that go on behind it, and all
    that were asked.

    `rows`: which of the faces may be looked at. `ways`: directions, lengths, and how far before and behind it is asked.
    Queries: at most 4 for each of `FACES_PER_LOOK` faces.
    """
    side, faces, precision = boundary.side, boundary.faces, boundary.precision
    along, s, aside = ways
    # The nearest are the likeliest to reach so far; those beside which it was found are among them, so take twice.
    rows = rows[np.argsort(s[rows], kind="stable")][: 2 * FACES_PER_LOOK]
    asked = rows = rng.permutation(rows)[:FACES_PER_LOOK]
    if not len(rows):
        return _no_walks(faces.x.shape[1]), rows[:0], asked
    on, s, along, aside = faces[rows], s[rows], along[rows], aside[rows]
    near = s - aside
    there = np.flatnonzero(on_face(side, on, on.x + near[:, None] * along, tolerance_at(precision, on, near))[0])
    if not len(there):
        return _no_walks(faces.x.shape[1]), rows[:0], asked
    on, far, along, near, rows = on[there], (s + aside)[there], along[there], near[there], rows[there]
    still = on_face(side, on, on.x + far[:, None] * along, tolerance_at(precision, on, far))[0]
    ended = Walks(rows, along, near, far, np.full(len(rows), -1))
    return ended[np.flatnonzero(~still)], rows[still], asked


def _no_walks(d: int) -> Walks:
    nothing = np.empty(0, dtype=int)
    return Walks(nothing, np.empty((0, d)), np.empty(0), np.empty(0), nothing)


# Labels spent on bends, and so many more for each coordinate, before one must be a hyperplane's. Where normals are
# coarse it is so many times as many: it takes more bends before some are seen to agree.
BEND_LABELS, EACH_COORDINATE, COARSE_LABELS_FACTOR = 5_000, 2_000, 8
# In more coordinates than this it is so many times as many: what is not met there is looked for along a few.
MANY_COORDINATES, EARLY_LABELS_FACTOR = 24, 2
# So many times as many labels are spent on bends between two times that hyperplanes are looked at from all over.
LATER = 1.25
# A hyperplane stands that so many faces end at, while at most one in so many goes on behind it.
STANDING_ENDS, ALLOWED = 4, 8
# So many looks, and this share of them at ends at hyperplanes that stand, or there is no first layer.
LOOKS_TO_REFUTE, STAND = 64, 0.1


def bends_spent(stages: dict[str, int], coordinates: int, *, coarse: bool) -> float:
    """Labels spent on bends, in units of what may be spent before hyperplanes met must hold. `stages`: labels by what
    they were asked for. `coordinates`: coordinates in which they are asked. `coarse`: whether normals are."""
    times = (COARSE_LABELS_FACTOR if coordinates <= MANY_COORDINATES else EARLY_LABELS_FACTOR) if coarse else 1
    spent = sum(stages.get(stage, 0) for stage in ("dual points", "edges"))
    return spent / (BEND_LABELS + EACH_COORDINATE * coordinates) / times


def none_stands(ended: Int[np.ndarray, " k"], passed: Int[np.ndarray, " k"]) -> bool:
    """Whether hardly any of the hyperplanes met, looked at from faces all over the boundary, is a first-layer neuron's.

    The boundary bends wherever it meets a first layer's hyperplane. One that a few bends agree on by chance, or where
    several cells of a tessellation meet, goes on straight nowhere else. `ended`: faces that end at each hyperplane.
    `passed`: faces that go on behind each.
    """
    stands = (ended >= STANDING_ENDS) & (ALLOWED * passed <= ended)
    looks = int(ended.sum() + passed.sum())
    return looks >= LOOKS_TO_REFUTE and float(ended[stands].sum()) < STAND * looks
