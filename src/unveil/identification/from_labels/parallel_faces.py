"""A hyperplane from a face parallel to it, where nothing else tells it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import Edge, apart


def parallel(edge: Edge, faces: Faces) -> tuple[Float[np.ndarray, " d"], float] | None:
    """The hyperplane of an edge parallel to another face, where only one lies in the edge's span.

    A face on which a single neuron is active is parallel to that neuron's hyperplane. Where faces are few nothing
    else tells it: no dual point repeats, and edges meet no other. The hyperplane is active towards that face.

    Returns:
        The unit normal and its error; None where no face or more than one is parallel to such a hyperplane.

    Queries: `0`
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
    normal = edge.at(float(angle[rows[0]]))
    toward = np.sign(normal @ (faces.x[rows[0]] - edge.z)) or 1.0
    return toward * normal, float(fuzz[rows[0]]) / 20
