"""Transitions: far out, where two hyperplanes of a sigmoidal layer cross and all other neurons rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross
from unveil.identification.from_labels.curves import Curve, Transition, neurons, two_scales

WIDTH = 128.0  # half the side of the parallelogram in which a transition is looked at, in sizes of a typical input
AT_REST = 0.03  # so far from all other hyperplanes it lies at least, as a share of its distance from the middle
DRAWN = 64  # places drawn, of which one far from all other hyperplanes is taken
PARALLEL = 0.95  # cosine from which on two normals are too much alike
PLACES = 24  # places asked at which a boundary may depend on both neurons
CURVES = 5  # curves of two neurons, at most
FULL, SHORT = 6, 2  # rounds in which points are added along the first curve, and along further ones
EACH = 6  # points added in each round
SETTLED = 1e-5  # error of a bias from which on it is known


def transition(  # noqa: PLR0913 - where, along what, how finely
    side: Side,
    chart: Chart,
    normals: Float[np.ndarray, "k d"],
    pair: tuple[int, int],
    radius: float,
    rng: np.random.Generator,
    known: Float[np.ndarray, " 2"] | None = None,
) -> Transition | None:
    """Scales and biases of two neurons; None where no boundaries depend on both, or where these are other curves.

    `normals`: unit normals of all known neurons. `pair`: which two. `radius`: how far out. `known`: biases of the two,
    NaN where not known; used only where curves do not settle both. Queries: 4 for a place, at most `PLACES` of them;
    about 1,100 for the first curve and 300 for each further one.
    """
    cell = 4 * chart.digits * radius
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * WIDTH
    curves: list[Curve] = []
    scale: np.ndarray | None = None
    for _ in range(PLACES):
        place = _place(normals, pair, radius, rng)
        if place is None:
            return None
        label = side.labels(place.at(corners))
        if len(set(label.tolist())) != 2:
            continue
        points = _traced(side, place, corners, label, cell, SHORT if curves else FULL)
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
        elif found.error.max() < SETTLED:
            return found
        elif len(curves) == CURVES:
            break
    if scale is None or known is None or np.isnan(known).all():
        return None
    found = neurons(curves, scale, known)
    return found if found is not None and found.error.max() < SETTLED else None


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
    if normals.shape[1] < 3 or abs(two[0] @ two[1]) > PARALLEL:
        return None
    ways = np.linalg.pinv(two).T
    v = rng.standard_normal((DRAWN, normals.shape[1]))
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
    side: Side, place: _Place, corners: np.ndarray, label: Int[np.ndarray, " 4"], cell: float, levels: int
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
        split = split[np.argsort(-step.prod(axis=1)[split])][:EACH]
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
    side: Side, place: _Place, start: np.ndarray, end: np.ndarray, before: np.ndarray, after: np.ndarray, cell: float
) -> Float[np.ndarray, "N 2"]:
    found: Crossings = cross(side, place.at(start), place.at(end), before, after, cell)
    return place.seen(found.x[found.after == after])
