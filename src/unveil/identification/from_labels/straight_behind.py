"""Which second-layer hyperplanes go on straight in the first layer's values: those of no deeper layer."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.faces import Faces, Precision
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.second_layer import HiddenNeuron
from unveil.identification.from_labels.straight import reached


def looks_behind(
    search: tuple[Side, Chart, Faces, Precision],
    first: Hyperplanes,
    neurons: list[HiddenNeuron],
    rng: np.random.Generator,
) -> Int[np.ndarray, "2 k"]:
    """From how many faces each neuron's hyperplane is met as an end, and from how many the boundary goes on behind it.

    Each face is followed in its own linear region of the first layer, where the neuron's hyperplane is one of the
    inputs. A third layer's neuron has another one behind every hyperplane of the second layer.

    Args:
        search: Answers, the coordinates, faces from all over the boundary, and lengths to ask at.
        first: The first layer, each hyperplane's normal towards its active side.
        neurons: The second layer; where neurons are active of which nothing told a weight no face is looked at.
        rng: Picks the faces.

    Queries: at most 4 for each neuron and each of `straight.FACES` faces
    """
    side, chart, faces, precision = search
    active = faces.x @ first.normals.T + first.offsets > 0
    told = np.zeros((2, len(neurons)), dtype=int)
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
        meets[meets] &= (s + 2 * aside)[meets] < 0.98 * chart.room(on.x[meets], along[meets])
        ended, passed = reached(side, on, np.flatnonzero(meets), (along, s, aside), precision, rng)
        told[:, i] = len(ended), passed
    return told
