"""Where segments cross the boundary between two labels, to as many digits as are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from unveil.blackbox.label_crossings import ROWS, Side
from unveil.identification.from_labels.chart import Crossings


def cross(
    side: Side,
    start: Float[np.ndarray, "N d"],
    end: Float[np.ndarray, "N d"],
    before: Int[np.ndarray, " N"],
    after: Int[np.ndarray, " N"],
    cell: float,
) -> Crossings:
    """The boundary of the label `before` on segments from a point that carries it to one that carries `after`. Queries:
    `N * log2(length / cell)`; the label behind the boundary is the last other one met."""
    length = np.linalg.norm(end - start, axis=1)
    along = (end - start) / length[:, None]
    halved = Crossings(start + length[:, None] / 2 * along, before, after, along, length)
    return sharpen(side, halved, cell)


def sharpen(side: Side, crossings: Crossings, cell: float | Float[np.ndarray, " N"]) -> Crossings:
    """The same crossings, bisected until their brackets are no longer than `cell`. Queries:
    `N * log2(width / cell)`."""
    half = crossings.width / 2
    low, high = -half, half.copy()
    after = crossings.after.copy()
    # No bracket gets shorter than what float64 tells apart.
    cell = np.maximum(cell, 4e-16 * (np.abs(crossings.x).max(axis=1, initial=0.0) + half))
    while True:
        rows = np.flatnonzero(high - low > cell)
        if not len(rows):
            break
        middle = (low[rows] + high[rows]) / 2
        labels = side.labels(crossings.x[rows] + middle[:, None] * crossings.along[rows])
        inside = labels == crossings.before[rows]
        low[rows[inside]] = middle[inside]
        high[rows[~inside]] = middle[~inside]
        after[rows[~inside]] = labels[~inside]
    moved = crossings.x + ((low + high) / 2)[:, None] * crossings.along
    return replace(crossings, x=moved, after=after, width=high - low)


def cross_near(  # noqa: PLR0913 - where, along what, how finely
    side: Side,
    x: Float[np.ndarray, "N d"],
    along: Float[np.ndarray, "N d"],
    before: Int[np.ndarray, " N"],
    after: Int[np.ndarray, " N"],
    half: Float[np.ndarray, " N"],
    cell: float | Float[np.ndarray, " N"],
    grow: int = 3,
) -> tuple[Crossings, Int[np.ndarray, " M"]]:
    """Boundaries close to where they are expected, between the two labels that are expected.

    `side`: answers. `x`: where each is expected. `along`: unit vectors across it. `before`: the label on the near side.
    `after`: the label on the far side. `half`: half-width of the first bracket; it grows eightfold where its ends are
    wrong. `cell`: wanted width of the last one. `grow`: how often it may grow. Returns the M crossings found, and which
    of the N they are. Queries: 2 a bracket, and `log2(2 half / cell)` for each that holds.
    """
    todo, half = np.arange(len(x)), half.astype(float).copy()
    good: list[np.ndarray] = []
    for _ in range(grow + 1):
        if not len(todo):
            break
        step = half[todo, None] * along[todo]
        labels = side.labels(np.concatenate([x[todo] - step, x[todo] + step]))
        right = (labels[: len(todo)] == before[todo]) & (labels[len(todo) :] == after[todo])
        good.append(todo[right])
        todo = todo[~right]
        half[todo] *= 8
    rows = np.sort(np.concatenate(good)) if good else np.empty(0, dtype=int)
    if not len(rows):
        return Crossings.none(x.shape[1]), rows
    wide = Crossings(x[rows], before[rows], after[rows], along[rows], 2 * half[rows])
    found = sharpen(side, wide, np.broadcast_to(cell, len(x))[rows])
    kept = found.after == after[rows]
    return found[kept], rows[kept]


def cross_near_both(  # noqa: PLR0913 - where, along what, how finely
    side: Side,
    places: list[Float[np.ndarray, "N d"]],
    along: Float[np.ndarray, "N d"],
    before: Int[np.ndarray, " N"],
    after: Int[np.ndarray, " N"],
    half: Float[np.ndarray, " N"],
    cell: Float[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " M"], Crossings, Crossings]:
    """`cross_near`, the brackets growing once at most, at two places of each boundary in the same batches.

    Returns which M of the N boundaries were found at both places, and their crossings at either. Queries: those of
    `cross_near` for each.
    """
    across, one, two, wide, fine = (np.concatenate([each, each]) for each in (along, before, after, half, cell))
    found, rows = cross_near(side, np.concatenate(places), across, one, two, wide, fine, grow=1)
    near, far = found[rows < len(along)], found[rows >= len(along)]
    both, first, second = np.intersect1d(rows[: len(near)], rows[len(near) :] - len(along), return_indices=True)
    return both, near[first], far[second]


# Brackets wider than this, in standard deviations, are cut where either side is as likely, narrower ones in half.
WIDE_BRACKET = 0.25
DOUBLING_DEVIATIONS = 3.0  # so many standard deviations out a bracket without an end doubles
FARTHEST_DEVIATIONS = 1e3  # so many standard deviations out there is no boundary


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
        open_ = np.flatnonzero((high - low > cell) & (low < FARTHEST_DEVIATIONS) & (high > -FARTHEST_DEVIATIONS))
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


def _likelier(low: Float[np.ndarray, " N"], high: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Where to cut brackets of a standard normal variable."""
    with np.errstate(invalid="ignore"):
        middle = (low + high) / 2
        quantile = special.ndtri((special.ndtr(low) + special.ndtr(high)) / 2)
        t = np.where((high - low > WIDE_BRACKET) & (np.abs(quantile) < DOUBLING_DEVIATIONS + 1), quantile, middle)
    t = np.where(np.isinf(high) & (low >= DOUBLING_DEVIATIONS), 2 * low, t)
    t = np.where(np.isinf(low) & (high <= -DOUBLING_DEVIATIONS), 2 * high, t)
    inside = (t > low) & (t < high)
    return np.where(inside, t, middle)
