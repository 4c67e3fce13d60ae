"""Hyperplanes that an edge may make, tried at known faces and dual points, or parallel to a face; opened edges."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.crossings import sharpen
from unveil.identification.from_labels.dual_points import DualPoints
from unveil.identification.from_labels.faces import ROUGH, Faces, Precision, faces_at, on_face, tangents, tolerance_at
from unveil.identification.from_labels.hyperplanes import ALIKE, DOUBT, Edge, Hyperplanes, Sighted, apart
from unveil.identification.from_labels.walks import Walks

VAGUE_ANGLE_ERROR = 0.01  # angles known no better than this make no candidate
# So close before and behind a candidate it is asked, as a share of the way to it; where normals are coarse.
FINE_ASIDE, COARSE_ASIDE = 1e-4, 1e-2
WIDEST_ASIDE = 0.03  # faces at which a candidate is vaguer than this share of the way are not asked
FACES_PER_CANDIDATE = 12  # faces from which a candidate is looked at, at most: the nearest
CROWD = 3.0  # ends of faces by other neurons, for each factor e of the way, as far as is known beforehand
FARTHEST_FACE = 30.0  # faces further away than this, in sizes of a typical input, are not asked
# Directions in which the boundary behind a dual point must be where one of several edges foretells it, at most.
DUAL_POINT_DIRECTIONS = 12
ON_A_LINE = 4e-7  # error of the direction in which the boundary goes on behind a dual point
# In errors, how far off the boundary may be there; and how probable that may be by chance, for each direction.
FORETOLD_SLACK_ERRORS, FORETOLD_BY_CHANCE = 3.0, 0.5


def confirmed(
    side: Side, chart: Chart, faces: Faces, edge: Edge, vote: tuple[float, float], precision: Precision
) -> Sighted | None:
    """The hyperplane through an edge at an angle, where known faces end at it.

    Faces go straight on across a hyperplane that is none, and two labels tell that; by chance they end just there once
    in a thousand times. `faces`: faces from all over the boundary. `edge`: where the boundary bends. `vote`: the angle,
    as in `Edge.votes`, and its error. Queries: 2 for a hyperplane that is none, some 10 for one that is.
    """
    angle, fuzz = vote
    if not fuzz < VAGUE_ANGLE_ERROR or min(float(apart(angle, own)) for own in (0.0, edge.angle)) <= 20 * fuzz + 1e-6:
        return None
    normal, error = edge.at(angle), fuzz + edge.rough
    # A face of the same flat piece as the edge's own ends at the edge, which every candidate contains.
    both = np.stack([edge.normal, edge.across])
    faces = faces[np.flatnonzero(np.linalg.norm(faces.normal - faces.normal @ both.T @ both, axis=1) > ALIKE)]
    tried = Hyperplanes(normal[None], np.array([-normal @ edge.z]), np.array([error]))
    return Sighted(normal, error) if _ends(side, chart, faces, tried, precision) else None


def edge_behind(
    side: Side, on: Faces, edges: list[Edge], found: DualPoints, precision: Precision, rng: np.random.Generator
) -> tuple[int, Sighted] | None:
    """Which of several edges is the same neuron's as a dual point.

    If it is, both settle the neuron's hyperplane, and how steeply the boundary turns behind the point settles the
    normal there: it is asked whether the boundary is where that foretells it, in other directions. `on`: the face of
    the dual point. `edges`: edges of other faces. `found`: one dual point. Returns which, and the hyperplane. Queries:
    2 for each edge, some more for the right one, and 10 to locate the crossing behind the point.
    """
    step = min(precision.step, float(found.gap[0]) / 8)
    x = sharpen(side, found.behind, finely(precision, step)).x[0]
    told, behind, by_chance = _foretold(on, edges, found, x, precision)
    onward = told.normals * np.sign(told.normals @ (x - found.z[0]))[:, None]
    chance = len(edges) * by_chance
    alive = by_chance < FORETOLD_BY_CHANCE
    for _ in range(DUAL_POINT_DIRECTIONS):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        away = tangents(behind.normal[rows], rng)
        # Not back across the hyperplane.
        away *= found.gap[0] * np.where(np.sum(away * onward[rows], axis=1) < 0, -1.0, 1.0)[:, None]
        slack = FORETOLD_SLACK_ERRORS * found.gap[0] * behind.error[rows] + 2 * precision.cell
        alive[rows[~on_face(side, behind[rows], behind.x[rows] + away, slack)[0]]] = False
        sure = np.flatnonzero(alive & (chance < DOUBT))
        if len(sure):
            i = int(sure[chance[sure].argmin()])
            return i, Sighted(told.normals[i], float(told.error[i]))
        chance = chance * by_chance
    return None


def _foretold(
    on: Faces, edges: list[Edge], found: DualPoints, x: Float[np.ndarray, " d"], precision: Precision
) -> tuple[Hyperplanes, Faces, Float[np.ndarray, " e"]]:
    """The hyperplanes that a dual point makes with each edge, the faces at x behind them, and how probably the boundary
    is where one of these foretells it by chance, infinite where that tells nothing."""
    u, onward, count = on.normal[0], found.onward[0], len(edges)
    votes = [edge.votes(found.z, found.error) for edge in edges]
    angle, fuzz = np.array([each[0][0] for each in votes]), np.array([each[1][0] for each in votes])
    a = np.stack([edge.at(float(t)) for edge, t in zip(edges, angle, strict=True)])
    fuzz = fuzz + np.array([edge.rough for edge in edges])
    good = fuzz < VAGUE_ANGLE_ERROR
    for own in (np.zeros(count), np.array([edge.angle for edge in edges])):
        good &= apart(angle, own) > 20 * fuzz + 1e-6
    with np.errstate(divide="ignore", invalid="ignore"):
        # The normal behind, u + c a, is orthogonal to the line on which the boundary goes on there.
        c = -(u @ onward) / (a @ onward)
        normal = u + c[:, None] * a
        long = np.linalg.norm(normal, axis=1)
        blur = (np.abs(c) * fuzz + ON_A_LINE / np.abs(a @ onward) + precision.normal + on.error[0]) / long
        # By how much another normal would most likely be off.
        bend = np.linalg.norm(c[:, None] * (a - (a @ u)[:, None] * u), axis=1) / long
        by_chance = np.where(good & np.isfinite(blur), 2 * FORETOLD_SLACK_ERRORS * blur / bend, np.inf)
    behind = Faces(
        np.repeat(x[None], count, 0),
        normal / long[:, None],
        np.repeat(on.before, count),
        np.repeat(on.after, count),
        blur,
    )
    return Hyperplanes(a, -np.sum(a * found.z[0], axis=1), fuzz), behind, by_chance


def _ends(side: Side, chart: Chart, faces: Faces, tried: Hyperplanes, precision: Precision) -> bool:
    """Whether faces end at a hyperplane more often than chance allows: the nearest ones are asked first."""
    share = FINE_ASIDE if precision.normal < ROUGH else COARSE_ASIDE
    along, s, steep = faces.ways_to(tried.normals[0], float(tried.offsets[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        vague = 5 * tried.error[0] * (1 + s + np.linalg.norm(faces.x, axis=1)) / steep
    aside = np.maximum(share * s, vague)
    # Just behind the boundary must have bent by more than the face is known.
    fine = faces.error < max(share / 100, 2 * precision.normal)
    good = (
        (steep > 1e-3) & (s > 4 * precision.step) & (s < FARTHEST_FACE) & (aside < max(WIDEST_ASIDE, share) * s) & fine
    )
    good[good] &= (s + aside)[good] < 0.98 * chart.room(faces.x[good], along[good])
    rows, chance = np.flatnonzero(good), 1.0

    def passes(row: int, length: float) -> bool:
        on, far = faces[row : row + 1], np.array([length])
        return bool(on_face(side, on, on.x + length * along[row], tolerance_at(precision, on, far))[0][0])

    for row in rows[np.argsort(s[rows], kind="stable")][:FACES_PER_CANDIDATE]:
        if passes(row, s[row] + aside[row]):
            return False
        if passes(row, s[row] - aside[row]):
            chance *= 2 * CROWD * float(aside[row] / s[row])
        if chance < DOUBT:
            return True
    return False


def parallel(edge: Edge, faces: Faces) -> tuple[Float[np.ndarray, " d"], float] | None:
    """The hyperplane of an edge parallel to another face, where only one lies in the edge's span.

    A face on which a single neuron is active is parallel to that neuron's hyperplane. Where faces are few nothing else
    tells it: no dual point repeats, and edges meet no other. The hyperplane is active towards that face. Returns the
    unit normal and its error, per coordinate as those of the faces; None where no face or more than one is parallel to
    such a hyperplane.
    """
    angle = np.arctan2(faces.normal @ edge.across, faces.normal @ edge.normal) % np.pi
    out = faces.normal - np.outer(faces.normal @ edge.normal, edge.normal)
    out -= np.outer(out @ edge.across, edge.across)
    fuzz = 100 * (edge.rough + faces.error * np.sqrt(faces.x.shape[1]))
    inside = np.linalg.norm(out, axis=1) < fuzz
    for own in (0.0, edge.angle):
        inside &= apart(angle, own) > fuzz
    rows = np.flatnonzero(inside)
    if not len(rows) or apart(angle[rows], angle[rows[0]]).max() > fuzz[rows].max():
        return None
    best = rows[faces.error[rows].argmin()]
    t = float(angle[best])
    normal = edge.at(t)
    toward = np.sign(normal @ (faces.x[best] - edge.z)) or 1.0
    # With w the angle between the edge's normals u and v it is (sin(w - t) u + sin(t) v) / sin w: what errors of u and
    # v, `rough sin w` each, turn it by out of the plane that they span. Within that plane the face's own error does.
    out_of_plane = edge.rough * np.hypot(np.sin(edge.angle - t), np.sin(t))
    return toward * normal, float(np.hypot(out_of_plane, faces.error[best]))


def opened(
    side: Side, faces: Faces, point: DualPoints, precision: Precision, rng: np.random.Generator
) -> tuple[Faces, Edge | None]:
    """The face behind a dual point, and the edge between, as if that face were put behind the others.

    `faces`: all faces, among them that of the point. `point`: one dual point. Returns the face behind, none where the
    boundary is not flat there; no edge where the point does not lie on both. Queries: about `35 d`.
    """
    z, face, gap, error = point.z[0], int(point.face[0]), float(point.gap[0]), float(point.error[0])
    step = min(precision.step, gap / 8)
    behind = sharpen(side, point.behind, finely(precision, step))
    across = faces.normal[face] * np.sign(faces.normal[face] @ (behind.x[0] - z))
    made, _ = faces_at(side, behind, precision, step, rng, across[None])
    if not len(made):
        return made, None
    rough = max(precision.normal, 2 * precision.digits / step)
    if precision.normal >= ROUGH:
        # Longer moves have measured them better than this step could.
        rough = max(float(made.error[0]), float(faces.error[face]))
    # The dual point must lie on both faces.
    if abs(made.normal[0] @ (z - made.x[0])) > 100 * (error + rough * gap):
        return made, None
    normals = faces.normal[face], made.normal[0]
    return made, Edge.between(z, normals, (face, len(faces)), error, rough)


def finely(precision: Precision, step: float) -> float:
    """How exactly a crossing must be located for a normal by moves of this length."""
    return max(precision.normal * step, 2 * precision.digits)


def explained(one: Walks, faces: Faces, planes: Hyperplanes, edges: list[Edge]) -> bool:
    """Whether a walk ended where a hyperplane lies, or an edge of a face in the same plane, that was found before."""
    on, along = faces[one.face], one.along
    ours = [edge.ahead_on(on.normal[0], on.x[0], along[0]) for edge in edges]
    reached = np.append(planes.ahead(on.x, along)[0], ours)
    width = one.high[0] - one.low[0]
    return bool(((reached > one.low[0] - width) & (reached < one.high[0] + width)).any())
