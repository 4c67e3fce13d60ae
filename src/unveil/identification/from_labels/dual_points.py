"""Dual points: where a face ends at a neuron's hyperplane, from the straight lines on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.label_crossings import Side
from unveil.blackbox.line import unit_rows
from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.crossings import cross_near, cross_near_both
from unveil.identification.from_labels.faces import ROUGH, Faces, Precision, tolerance_at
from unveil.identification.from_labels.walks import Walks


@dataclass(frozen=True)
class DualPoints(Rows):
    """Points on the boundary and on a neuron's hyperplane: an edge of the boundary, with a point just behind it."""

    z: Float[np.ndarray, "N d"]  # the points
    face: Int[np.ndarray, " N"]  # the face on which each was met
    behind: Crossings  # crossings on the next face, close by
    gap: Float[np.ndarray, " N"]  # how far behind
    error: Float[np.ndarray, " N"]  # how exactly `z` is known
    onward: Float[np.ndarray, "N d"]  # unit vectors from there on along the next face
    opened: Bool[np.ndarray, " N"]  # whether the edge at each was looked at

    @classmethod
    def none(cls, d: int) -> DualPoints:
        nothing, nowhere, no = np.empty(0), np.empty((0, d)), np.empty(0, dtype=int)
        return cls(nowhere, no, Crossings.none(d), nothing, nothing, nowhere, no.astype(bool))


def dual_points(side: Side, faces: Faces, walks: Walks, precision: Precision) -> DualPoints:
    """Where each walk left its face, from the straight line on which the boundary goes on behind. Queries: about 60
    each."""
    d = faces.x.shape[1]
    todo = np.arange(len(walks))
    parts: list[tuple[np.ndarray, ...]] = []
    behind: list[Crossings] = []
    for share in (1e-2, 1e-3):
        if not len(todo):
            break
        on, t, high = faces[walks.face[todo]], walks.along[todo], walks.high[todo]
        eta = np.maximum(share * np.minimum(high, 1.0), 30 * precision.cell)
        cell = np.maximum(1e-7 * eta, 2 * precision.digits * (1 + high))
        place = [on.x + (high + times * eta)[:, None] * t for times in (1, 2)]
        both, first, second = cross_near_both(side, place, on.normal, on.before, on.after, 3 * eta, cell)
        h1 = np.sum((first.x - place[0][both]) * on.normal[both], axis=1)
        h2 = np.sum((second.x - place[1][both]) * on.normal[both], axis=1)
        slope = (h2 - h1) / eta[both]
        steep = np.abs(slope) > 1e-6 + 8 * cell[both] / eta[both]
        before, blur = _just_before(side, on[both], t[both], walks.low[todo][both], eta[both], cell[both], precision)
        with np.errstate(divide="ignore", invalid="ignore"):
            s = high[both] + eta[both] - (h1 - before) / slope
            error = (4 * cell[both] + blur) / np.abs(slope) + cell[both]
        low = walks.low[todo][both]
        fits = steep & (s > low - 3 * error - 1e-3 * eta[both]) & (s < high[both] + 3 * error + 1e-3 * eta[both])
        fits &= error < 0.1 * eta[both]
        rows = both[fits]
        z = on.x[rows] + s[fits, None] * t[rows] + before[fits, None] * on.normal[rows]
        parts.append((z, walks.face[todo][rows], eta[rows], error[fits], unit_rows(second.x - first.x)[fits]))
        behind.append(first[fits])
        todo = np.setdiff1d(todo, todo[rows])
    if len(todo):
        *sharp, crossed = _turned_back(side, faces, walks, todo, precision)
        parts.append(tuple(sharp))
        behind.append(crossed)
    if not parts:
        return DualPoints.none(d)
    z, face, gap, error, onward = (np.concatenate([part[i] for part in parts]) for i in range(5))
    return DualPoints(z, face, Crossings.joined(behind), gap, error, onward, np.zeros(len(z), dtype=bool))


def _just_before(  # noqa: PLR0913 - what all dual points share, and where these are
    side: Side,
    on: Faces,
    t: Float[np.ndarray, "N d"],
    low: Float[np.ndarray, " N"],
    eta: Float[np.ndarray, " N"],
    cell: Float[np.ndarray, " N"],
    precision: Precision,
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """How far off the face the boundary lies just before its end, and how exactly that is known. Queries: none where
    normals are fine; else about 10 each."""
    off, blur = np.zeros(len(on)), tolerance_at(precision, on, low) - 4 * on.error * low
    if precision.normal < ROUGH or not len(on):
        return off, blur
    place = on.x + (low - eta)[:, None] * t
    near, rows = cross_near(side, place, on.normal, on.before, on.after, blur, cell, grow=1)
    off[rows] = np.sum((near.x - place[rows]) * on.normal[rows], axis=1)
    blur[rows] = cell[rows] + on.error[rows] * 2 * eta[rows]
    return off, blur


def _turned_back(
    side: Side, faces: Faces, walks: Walks, todo: Int[np.ndarray, " M"], precision: Precision
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, Crossings]:
    """The same where the boundary turns by a right angle or more, so that nothing of it lies further along the tangent.

    It is met above or below the face instead, on the side of the label that has ended there. Returns z, face, gap,
    error, onward and behind, as in `DualPoints`. Queries: about 60 each.
    """
    on, t, high = faces[walks.face[todo]], walks.along[todo], walks.high[todo]
    eta = np.maximum(1e-2 * np.minimum(high, 1.0), 30 * precision.cell)
    here = side.labels(on.x + (high + eta)[:, None] * t)
    up = np.where(here == on.before, 1.0, -1.0)
    along = -up[:, None] * t
    cell = np.maximum(1e-7 * eta, 2 * precision.digits * (1 + high))
    place = [on.x + (high - 2 * eta)[:, None] * t + (times * up * eta)[:, None] * on.normal for times in (1, 2)]
    both, first, second = cross_near_both(side, place, along, on.before, on.after, 3 * eta, cell)
    on, t, eta, cell, high = on[both], t[both], eta[both], cell[both], high[both]
    reached = [np.sum((part.x - on.x) * t, axis=1) for part in (first, second)]
    s = 2 * reached[0] - reached[1]
    slope = np.abs(reached[1] - reached[0]) / eta
    error = 4 * cell + tolerance_at(precision, on, high) * (1 + slope)
    low = walks.low[todo][both]
    fits = (s > low - 3 * error - 1e-3 * eta) & (s < high + 3 * error + 1e-3 * eta) & (error < 0.1 * eta)
    rows = np.flatnonzero(fits)
    z = on.x[rows] + s[rows, None] * t[rows]
    # The one further away was met first or last as the boundary turns up or down: away from the point is onward.
    onward = unit_rows(second.x - first.x)[rows]
    return z, walks.face[todo][both][rows], eta[rows], error[rows], onward, first[rows]
