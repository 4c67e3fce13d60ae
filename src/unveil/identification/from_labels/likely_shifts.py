"""Where a boundary lies of which it is known beforehand where it is likely: each label buys as much as one can."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.blackbox.label_crossings import ROWS, Side

WIDE = 0.25
"""Brackets wider than this, in standard deviations, are cut where either side is as likely, narrower ones in half."""

TAIL = 3.0
"""So many standard deviations out a bracket without an end doubles."""

FARTHEST = 1e3
"""So many standard deviations out there is no boundary."""


def located(  # noqa: PLR0913 - where, along what, how finely
    side: Side,
    start: Float[np.ndarray, "J n"],
    along: Float[np.ndarray, " n"],
    label: int,
    centre: Float[np.ndarray, " J"],
    spread: float,
    cell: float,
) -> Float[np.ndarray, " J"]:
    """How far from each start a label ends, on parallel lines.

    `start`: where each line starts. `along`: their unit direction, away from `label`. `label`: the label before the
    boundary. `centre`: where each boundary is expected. `spread`: standard deviation of what was expected. `cell`:
    wanted width of the last bracket, both ends of which were asked, in the geometric mean. Returns lengths; NaN where
    no boundary was met. Queries: about `log2(4.1 spread / cell)` each, the information there is in a normal variable.
    """
    low, high = np.full(len(start), -np.inf), np.full(len(start), np.inf)
    # Brackets are halved, so that they end anywhere between this and half of it.
    cell = max(np.sqrt(2) * cell / spread, 4e-16)
    while True:
        open_ = np.flatnonzero((high - low > cell) & (low < FARTHEST) & (high > -FARTHEST))
        if not len(open_):
            break
        t = _likelier(low[open_], high[open_])
        for first in range(0, len(open_), ROWS):
            rows, here = open_[first : first + ROWS], t[first : first + ROWS]
            inside = side.inside(
                start[rows] + (centre[rows] + spread * here)[:, None] * along, np.full(len(rows), label)
            )
            low[rows[inside]], high[rows[~inside]] = here[inside], here[~inside]
    found = np.isfinite(low) & np.isfinite(high)
    with np.errstate(invalid="ignore"):
        return np.where(found, centre + spread * (low + high) / 2, np.nan)


def _likelier(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where to cut brackets of a standard normal variable."""
    with np.errstate(invalid="ignore"):
        middle = (low + high) / 2
        quantile = special.ndtri((special.ndtr(low) + special.ndtr(high)) / 2)
        t = np.where((high - low > WIDE) & (np.abs(quantile) < TAIL + 1), quantile, middle)
    t = np.where(np.isinf(high) & (low >= TAIL), 2 * low, t)
    t = np.where(np.isinf(low) & (high <= -TAIL), 2 * high, t)
    inside = (t > low) & (t < high)
    return np.where(inside, t, middle)
