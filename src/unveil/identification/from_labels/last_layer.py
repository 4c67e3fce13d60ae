"""The last layer behind second-layer neurons, from how much the boundary turns where it bends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.deep_points import ON, DeepPoints, on_boundary, pairs_of
from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.joined_classes import Joins, joined, rescaled
from unveil.identification.from_labels.local_maps import FITS, SPREAD, LocalMaps, PairMaps
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import oriented
from unveil.identification.from_labels.output import with_classes
from unveil.identification.from_labels.polish import polish
from unveil.identification.from_labels.second_layer import HiddenNeuron

EACH = 2
"""Points of each class for each number of its logit."""

CLOSER = 3
"""Fits to points, each to those that fit best before."""

ABSOLUTE = 30
"""Weighted least squares after which least absolute distances are reached."""


def last_layer(
    points: DeepPoints, faces: Faces, links: Int[np.ndarray, "B 2"], neurons: list[HiddenNeuron]
) -> tuple[LabelModel, Joins, float] | None:
    """The last layer, from bends of known neurons.

    Args:
        points: Boundary points; more are asked of classes of which there are few.
        faces: Flat pieces of the boundary.
        links: The faces before and behind each bend.
        neurons: The second layer, as far as bends told it.

    Returns:
        The model of the first layer's values, weights that no bend told zero; from which class each one's scale is
        known; and the share of the faces that the worst explained pair's weights explain. None where none come out.

    Queries: about 35 for each point that is missing
    """
    # A bend whose face was not kept tells nothing.
    links = links[(links >= 0).all(axis=1)]
    if not len(links) or not neurons:
        return None
    points.with_rare(EACH * (len(points.first) + len(neurons) + 1))
    every = _pair_by_pair(points.first, faces, links, neurons, points.inside(points.all))
    if every is None:
        return None
    model, joins, share = every
    at = points.inside(points.all)
    # Few points tell a rare class's weights, and not an affine part besides: sides come first, if need be of a pair.
    begun = model.of(np.setdiff1d(model.classes, [new for _, new in joins]))
    for some in (model, begun):
        on = at[on_boundary(some, at)]
        turned = oriented(some, on) if some.affine.any() else some
        # Sides that weights not told would need explain the affine part, and not the points.
        if turned is not None and 2 * len(on_boundary(turned, on)) > len(on):
            return with_rare_classes(turned, at), joins, share
    return with_rare_classes(model, at), joins, share


def _pair_by_pair(
    first: Hyperplanes, faces: Faces, links: Int[np.ndarray, "B 2"], neurons: list[HiddenNeuron], at: Crossings
) -> tuple[LabelModel, Joins, float] | None:
    """Classes between which bends tell weights, those with the most faces first."""
    whole = np.array([np.append(each.weight, each.bias) for each in neurons])
    whole /= np.linalg.norm(np.nan_to_num(whole[:, :-1]), axis=1, keepdims=True)
    maps = LocalMaps(first, faces, links, whole)
    met, counts = np.unique(maps.pairs, axis=0, return_counts=True)
    pairs = [(int(met[i, 0]), int(met[i, 1])) for i in np.argsort(-counts, kind="stable")]
    for pair in pairs:
        PairMaps(maps, pair)
    # What one pair tells of a neuron makes bends between others known.
    maps = LocalMaps(first, faces, links, maps.whole)
    told = {each.pair: each for each in [PairMaps(maps, pair) for pair in pairs] if each.share}
    model: LabelModel | None = None
    joins: Joins = ()
    least = 1.0
    # Each pass takes the commonest pair that brings in one more class.
    for _ in range(len(told)):
        one = next((told[p] for p in told if model is None or np.isin(p, model.classes).sum() == 1), None)
        if one is None:
            break
        least = min(least, told.pop(one.pair).share)
        if model is None:
            model = one.model()
            continue
        new = int(np.isin(one.pair, model.classes).argmin())
        joins += ((one.pair[1 - new], one.pair[new]),)
        model = joined(model, one.model())
    return None if model is None else (_closer(rescaled(model, joins, at), at), joins, least)


def _closer(model: LabelModel, at: Crossings) -> LabelModel:
    """The same fitted to the points that lie on its boundaries but for errors; what was not told stays so."""
    at = at[np.flatnonzero(model.knows(at))]
    fit = model
    for _ in range(CLOSER):
        off = np.abs(fit.distances(at))
        if not (off < FITS).any():
            return model
        # What a neuron that is missing does at some points may be little.
        fit = polish(fit, at[np.flatnonzero(off <= SPREAD * np.median(off[off < FITS]))]).model
    inner = np.where(model.inner == 0, 0.0, fit.inner)
    return replace(fit, inner=inner, affine=np.where(model.affine.any(axis=0), fit.affine, 0.0))


def with_rare_classes(model: LabelModel, at: Crossings) -> LabelModel:
    """The model with classes that it lacks, of which there are few points, by least absolute distances.

    Points where a neuron is missing lie off, and must not count by how much.

    Args:
        model: Some classes.
        at: Crossings between any, in the first layer's values.

    Queries: `0`
    """
    others = [int(c) for c in np.unique(pairs_of(at)) if c not in model.classes]
    if not others:
        return model
    grown, weight = model, np.ones(len(at))
    for _ in range(ABSOLUTE):
        grown, _ = with_classes(model, others, at, weight=weight)
        weight = 1 / np.maximum(np.abs(grown.distances(at)), ON)
    return with_classes(model, others, at[np.flatnonzero(weight == weight.max(initial=0.0))])[0]
