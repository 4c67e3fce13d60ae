"""The first look at labels: points of two classes, and whether the same question gets the same label again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.pool import Pool
from unveil.outcome import UnsteadyAnswers

SIZES = (1.5, 4.0, 16.0, 64.0, 256.0, 0.25)
"""Sizes of random points, in units of a typical input, tried until two labels have been seen."""

FIRST_LOOK = 64
"""Random points of each size."""

REPEATED = 16
"""Of these are asked twice, to see whether answers are steady."""


def two_labels(chart: Chart, near: Float[np.ndarray, "N d"], rng: np.random.Generator) -> Pool | None:
    """Points of the first size at which two labels are seen; None where none is.

    Args:
        chart: The coordinates.
        near: Inputs to start from.
        rng: Draws the points.

    Raises:
        UnsteadyAnswers: The same question got another label.

    Queries: 80 for each size tried, and the inputs to start from where few classes show, at most 64 each time
    """
    side = Side(chart)
    for each in SIZES:
        pool = Pool(side, chart, each, near, rng)
        pool.draw(FIRST_LOOK)
        _require_steady(pool)
        if len(near) and not len(pool.classes) > 2:
            pool.put(near[:FIRST_LOOK])
        if len(pool.classes) > 1:
            return pool
    return None


def _require_steady(pool: Pool) -> None:
    changed = int((pool.side.labels(pool.y[:REPEATED]) != pool.label[:REPEATED]).sum())
    if changed:
        raise UnsteadyAnswers(
            f"{changed} of {REPEATED} questions got another label when asked again; weights cannot be read from labels "
            "that change by chance. Average them first, or read the row span with label_span(votes=...)."
        )
