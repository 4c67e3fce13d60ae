"""All numbers of a network in all inputs at once, where short moves out of a subspace told weights too coarsely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.completion import MISSED
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.foretold import foretold_crossings
from unveil.identification.from_labels.lifting import Lift, Lifted
from unveil.identification.from_labels.polish import polish, uncertainty
from unveil.identification.from_labels.pool import Pool

MOST = 3_000
"""Numbers that are fitted at once, at most."""

POINTS = 2
"""Boundary points for each of them."""

OFF = 8
"""So many digits off a model's boundaries points may lie."""


def fitted(lift: Lift, lifted: Lifted, rng: np.random.Generator) -> Lifted:
    """The same network, fitted to boundary points all over the inputs; unchanged where that does not make it better.

    Args:
        lift: How it was read.
        lifted: What was read.
        rng: Draws the points.

    Queries: about 10 for each of twice as many points as there are numbers
    """
    model, chart = lifted.model, lift.all
    if model.parameters > MOST or not np.isfinite(lifted.error):
        return lifted
    pool = Pool(Side(chart), chart, lift.everywhere.size / lift.stretch, lift.everywhere.given / lift.stretch, rng)
    at = foretold_crossings(model, pool, chart, POINTS * model.parameters, rng)
    half = np.full(len(at), 4 * max(lifted.error, chart.digits))
    found, rows = cross_near(lift.side, *at.expected, half, chart.digits, grow=1)
    if len(found) < model.parameters or len(rows) < (1 - MISSED) * len(at):
        return lifted
    fit = polish(model, found)
    long = float(np.median(np.linalg.norm(found.x, axis=1)))
    if not fit.rms < OFF * chart.digits * max(long, 1.0):
        return lifted
    reached = uncertainty(fit.model, found, fit.rms, Crossings.none(chart.n), 1.0)
    if not reached < lifted.reached:
        return lifted
    return replace(lifted, model=fit.model, error=fit.rms, reached=reached)
