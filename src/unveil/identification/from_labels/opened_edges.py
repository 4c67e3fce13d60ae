"""The edge at a dual point: the normal behind it is measured; and walks that ended at edges of their own face."""

from __future__ import annotations

import numpy as np

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.crossings import sharpen
from unveil.identification.from_labels.dual_points import DualPoints
from unveil.identification.from_labels.faces import ROUGH, Faces, Precision, faces_at
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.walks import Walks


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
    return made, Edge.between(z, made.x[0], normals, (face, len(faces)), error, rough)


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
