"""A narrow network from labels: two hidden layers from the corners of a boundary in a plane, in all inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import sharpen
from unveil.identification.from_labels.deep_completion import Deep, DeepCompletion
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.faces import Precision, faces_at
from unveil.identification.from_labels.foretold import foretold_crossings
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.narrow import corners_of, in_a_plane, two_layers
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.search import HyperplaneSearch

EACH = 2
"""Faces measured in all inputs, for each neuron of the first layer."""

BRACKET = 1e-4
"""Around a boundary point foretold by corners that were measured."""

TRIED = 48
"""Boundary points foretold of which these are chosen."""


def narrow_network(
    search: HyperplaneSearch, everywhere: Pool | None, accuracy: float, widths: tuple[int, ...] | None
) -> tuple[Deep, Chart] | None:
    """Two hidden layers, the first of two neurons, where exactly one such network has the boundary met.

    Args:
        search: Faces met.
        everywhere: Points in all inputs, where the search was in a subspace.
        accuracy: Wanted of the weight vectors, relative.
        widths: Neurons of the hidden layers, if they are known.

    Returns:
        The network and the coordinates it is in; None where there is no such network, or more than one.

    Queries: at most 8 for each two flat pieces; about 60 a number, and 140 for each input a subspace leaves out
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

    Queries: about `50 n` for each of `EACH * k` faces
    """
    inside, whole = pool.chart, everywhere.chart
    assert inside.basis is not None
    all_inputs = Chart(whole.oracle, whole.origin, inside.size, None)
    precision = Precision.of(all_inputs.digits)
    side, stretch = Side(all_inputs), inside.size / whole.size
    outer = Pool(side, all_inputs, everywhere.size / stretch, everywhere.given / stretch, pool.rng)
    outer.y, outer.label = everywhere.y / stretch, everywhere.label
    at = foretold_crossings(model, pool, inside, TRIED, pool.rng)
    if not len(at):
        return None
    # Those that tell all weight vectors best come first: the two halves of the choice are independent.
    k, chosen, left = len(model.inner), np.empty(0, dtype=int), np.arange(len(at))
    for _ in range(EACH):
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
