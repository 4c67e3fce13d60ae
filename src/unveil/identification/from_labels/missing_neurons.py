"""Second-layer neurons that bends did not tell, or in part only, from points that a model does not foretell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.deep_points import DeepPoints, on_boundary
from unveil.identification.from_labels.foretold import foretold_crossings
from unveil.identification.from_labels.joined_classes import Joins, rescaled
from unveil.identification.from_labels.left_over import SURPLUS, bounded, completed, further_neuron, merged
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.polish import polish

STEPS, FRUITLESS = 12, 3
"""Looks for more at most, and how many in a row tell nothing."""

RESERVE = 200
"""Labels for each number that are kept for the fit and its judges."""

LOOK, LOOKS = 250, 10
"""Boundary points foretold at a time, and how often, to see whether one is missing."""


def with_missing(model: DeepLabelModel, points: DeepPoints, joins: Joins, rng: np.random.Generator) -> DeepLabelModel:
    """The model with what it leaves over at points off its boundaries.

    Args:
        model: Right at most points; weights of its second layer that nothing told are zero.
        points: Boundary points met; more are looked for.
        joins: From which class each one's scale is known.
        rng: Draws places to look at.

    Queries: 5,000 where nothing is missing, some 10,000 for each neuron that is
    """
    model = _step(model, points, joins, rng)[0]
    fruitless = 0
    for _ in range(STEPS):
        # What is found must still be fitted and judged.
        if points.pool.chart.ledger.left < RESERVE * model.parameters or not _look(model, points, rng):
            break
        at = points.inside(points.known(model))
        if any(map(len, _untold(model.behind))):
            _look(replace(model, behind=bounded(model.behind, _untold(model.behind), at)), points, rng)
        model, grown = _step(model, points, joins, rng)
        fruitless = 0 if grown else fruitless + 1
        # Of neurons in an affine part too little is known: what is left over is not one's alone, and bends tell more.
        if fruitless >= FRUITLESS or (fruitless and model.behind.affine.any()):
            break
    return model


def _step(
    model: DeepLabelModel, points: DeepPoints, joins: Joins, rng: np.random.Generator
) -> tuple[DeepLabelModel, bool]:
    """Weights that were not told, or one more neuron, and whether clearly more points lie on the boundaries then."""
    known = points.known(model)
    at, on, least = points.inside(known), len(on_boundary(model, known)), SURPLUS
    behind = rescaled(completed(model.behind, _untold(model.behind), at, rng), joins, at)
    if not len(on_boundary(replace(model, behind=behind), known)) > on + least:
        further = further_neuron(model.behind, at, rng)
        if further is not None:
            behind, least = further, SURPLUS + int((further.inner[-1] != 0).sum())
    grown = replace(model, behind=merged(behind))
    # What few points told gets exact enough for the next ones; what nothing told stays so.
    fit = polish(grown, known[on_boundary(grown, known)]).model
    inner = np.where(grown.behind.inner == 0, 0.0, fit.behind.inner)
    grown = replace(fit, behind=replace(fit.behind, inner=inner))
    better = len(on_boundary(grown, known)) > on + least
    return (grown if better else model), better


def _look(model: DeepLabelModel, points: DeepPoints, rng: np.random.Generator) -> bool:
    """Look for boundary points off the model's boundaries, for as many as tell a neuron.

    Returns:
        Whether there are any.

    Queries: at most `2 LOOKS LOOK`, and about 45 for each point
    """
    enough, met = 4 * (len(points.first) + 1), 0
    for _ in range(LOOKS):
        expected = foretold_crossings(model, points.pool, points.pool.chart, LOOK, rng)
        met += points.look(expected, enough)
        if met >= enough:
            break
    known = points.known(model)
    return len(on_boundary(model, known)) < len(known)


def _untold(behind: LabelModel) -> list[Int[np.ndarray, " u"]]:
    """Which weights of each second-layer neuron nothing told: exactly zero."""
    return [np.flatnonzero(row == 0) for row in behind.inner]
