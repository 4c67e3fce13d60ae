"""Walks along faces of the boundary: how far each stays flat along a tangent, and the face behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.label_crossings import Side
from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.crossings import cross_near_both
from unveil.identification.from_labels.faces import ROUGH, Faces, Precision, on_face, tolerance_at
from unveil.identification.from_labels.hyperplanes import Hyperplanes

FACE_REACH = 1000.0  # how far a face is followed, in sizes of a typical input
# The least share of a walk's length behind its end at which the boundary is asked, where normals are coarse.
FAR_BEHIND = 0.1


@dataclass(frozen=True)
class Walks(Rows):
    """Ends of faces along tangents."""

    face: Int[np.ndarray, " N"]  # which face each walk was on
    along: Float[np.ndarray, "N d"]  # its unit tangent
    low: Float[np.ndarray, " N"]  # a length at which the face was still there
    high: Float[np.ndarray, " N"]  # a length at which it was not
    plane: Int[np.ndarray, " N"]  # the known hyperplane at which it ended, or -1, or -2 where it met no end

    def ended(self) -> Walks:
        """Those that met an end."""
        return self[np.flatnonzero(self.plane >= -1)]


def walk(  # noqa: PLR0913 - what all walks share, and where this one starts
    side: Side,
    chart: Chart,
    faces: Faces,
    face: Int[np.ndarray, " N"],
    along: Float[np.ndarray, "N d"],
    precision: Precision,
    planes: Hyperplanes | None = None,
    passed: Int[np.ndarray, " k"] | None = None,
) -> Walks:
    """Follow faces along tangents until they end.

    Where known hyperplanes lie ahead, it is asked just before and just behind the next of them: most walks end there.
    Else lengths grow fourfold, and the end is bracketed to one part in 500. Walks that end at a third label are left
    out; `Walks.ended` leaves out those that meet no end within `FACE_REACH` or the box, too. `side`: answers. `chart`:
    the coordinates. `faces`: flat pieces of the boundary. `face`: which of them each walk is on. `along`: unit
    tangents. `precision`: lengths to ask at. `planes`: known hyperplanes. `passed`: is added one, by hyperplane, for
    each that was passed without a bend. Queries: 4 for each known hyperplane passed; about 30 for an end at an unknown
    one.
    """
    low, high = np.full(len(face), precision.step / 4), np.full(len(face), np.inf)
    most = np.minimum(FACE_REACH, 0.98 * chart.room(faces.x[face], along))
    plane = np.full(len(face), -1)
    known = Hyperplanes.none(chart.n) if planes is None else planes
    ahead = known.ahead(faces.x[face], along)
    aside = known.aside(faces.x[face], along, precision.aside)
    alive = (most > 4 * low) & np.isfinite(along).all(axis=1)
    going = alive.copy()
    while going.any():
        rows = np.flatnonzero(going)
        later = np.where(ahead[rows] - aside[rows] > low[rows, None], ahead[rows], np.inf)
        which = later.argmin(axis=1) if later.shape[1] else np.zeros(len(rows), dtype=int)
        next_ = later[np.arange(len(rows)), which] if later.shape[1] else np.full(len(rows), np.inf)
        gap = aside[rows, which] if later.shape[1] else np.zeros(len(rows))
        # Known hyperplanes are the likelier ends, but only once some are known does it pay to jump at them.
        meets = next_ + gap < most[rows]
        s = np.where(meets, next_ - gap, np.minimum(4 * low[rows], most[rows]))
        passes = _there(side, faces, face, along, rows, s, precision)[0]
        low[rows[passes]], high[rows[~passes]] = s[passes], s[~passes]
        going[rows[~passes]] = False
        endless = rows[passes & ~meets & (s >= most[rows])]
        alive[endless] = going[endless] = False
        plane[endless] = -2
        beyond = np.flatnonzero(passes & meets)
        if len(beyond):
            s = (next_ + gap)[beyond]
            still = _there(side, faces, face, along, rows[beyond], s, precision)[0]
            low[rows[beyond[still]]] = s[still]
            if passed is not None:
                np.add.at(passed, which[beyond[still]], 1)
            done = beyond[~still]
            high[rows[done]], plane[rows[done]] = s[~still], which[done]
            going[rows[done]] = False
    walks = Walks(face, along, low, high, plane)
    fresh, told = np.flatnonzero(alive & (plane == -1)), np.flatnonzero(plane != -1)
    return Walks.joined([walks[told], closer(side, faces, walks[fresh], precision, 2e-3)])


def closer(side: Side, faces: Faces, walks: Walks, precision: Precision, share: float) -> Walks:
    """The same walks, their ends bracketed to a share of their length; those that end at a third label are left out.
    Queries: `2 log2` of how much shorter the bracket gets."""
    low, high = walks.low.copy(), walks.high.copy()
    ours = np.ones(len(walks), dtype=bool)
    while True:
        rows = np.flatnonzero(ours & (high - low > np.maximum(share * high, 8 * precision.digits)))
        if not len(rows):
            break
        s = (low[rows] + high[rows]) / 2
        passes, known = _there(side, faces, walks.face, walks.along, rows, s, precision)
        low[rows[passes]], high[rows[~passes]] = s[passes], s[~passes]
        # Only close to the end does another label mean that the face ends there.
        ours[rows[~known & (high[rows] - low[rows] < 0.01 * high[rows])]] = False
    return Walks(walks.face, walks.along, low, high, walks.plane)[np.flatnonzero(ours)]


def _there(  # noqa: PLR0913 - what all walks share, and where this one is
    side: Side,
    faces: Faces,
    face: Int[np.ndarray, " N"],
    along: Float[np.ndarray, "N d"],
    rows: Int[np.ndarray, " M"],
    s: Float[np.ndarray, " M"],
    precision: Precision,
) -> tuple[Bool[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    on = faces[face[rows]]
    return on_face(side, on, on.x + s[:, None] * along[rows], tolerance_at(precision, on, s))


def faces_behind(
    side: Side, faces: Faces, walks: Walks, planes: Hyperplanes, precision: Precision, share: float = 1e-2
) -> tuple[Faces, Int[np.ndarray, " M"]]:
    """Faces behind known hyperplanes, from how much the boundary turns there: only one number of a normal is new.

    `side`: answers. `faces`: where the walks were. `walks`: walks that ended at known hyperplanes. `planes`: the
    hyperplanes. `precision`: lengths to ask at. `share`: how far behind it is asked, of the walk's length or of 1,
    whichever is less. Returns the M faces, and which of the walks led to them. Queries: about 50 each.
    """
    on, t = faces[walks.face], walks.along
    a = planes.normals[walks.plane]
    s = -(np.sum(on.x * a, axis=1) + planes.offsets[walks.plane]) / np.sum(t * a, axis=1)
    share = share if precision.normal < ROUGH else max(share, FAR_BEHIND)
    eta = np.maximum(share * np.minimum(s, 1.0), 30 * precision.cell)
    cell = np.maximum(1e-8 * eta, 2 * precision.digits * (1 + s))
    place = [on.x + (s + times * eta)[:, None] * t for times in (0.5, 1.5)]
    both, first, second = cross_near_both(side, place, on.normal, on.before, on.after, 2 * eta, cell)
    on, t, a, s, eta, cell = on[both], t[both], a[both], s[both], eta[both], cell[both]
    h1 = np.sum((first.x - place[0][both]) * on.normal, axis=1)
    h2 = np.sum((second.x - place[1][both]) * on.normal, axis=1)
    slope = (h2 - h1) / eta
    # The new normal u + c a is orthogonal to the new tangent t + slope u.
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.sum(a * t, axis=1) + slope * np.sum(a * on.normal, axis=1)
        c = -slope / down
        # A weak bend is known no better than a strong one: dc = -(a t) / down^2 dslope.
        blur = np.abs(np.sum(a * t, axis=1)) / down**2 * 4 * cell / eta
    normal = on.normal + c[:, None] * a
    long = np.linalg.norm(normal, axis=1)
    error = (on.error + np.abs(c) * planes.error[walks.plane[both]] + blur) / long
    # The line behind starts at the hyperplane: nothing else lies in between.
    starts = np.abs(h1 - 0.5 * eta * slope) < 1e-4 * eta + 10 * on.error * s
    good = np.isfinite(c) & (long > 0.05) & starts & (error < max(1e-5, precision.normal))
    made = Faces(first.x, normal / long[:, None], on.before, on.after, error)
    good_rows = np.flatnonzero(good)
    return made[good_rows], both[good_rows]
