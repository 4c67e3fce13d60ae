"""A hyperplane from a face parallel to it, where nothing else tells it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import Edge, apart


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
