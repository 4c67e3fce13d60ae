"""Where a label changes: points on a class's boundary, and how far the boundary moves when the input does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import blas
from scipy.special import ndtr, ndtri

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rows import Rows
from unveil.outcome import BadInput, BudgetExceeded

ROWS = 1024
"""Questions in one batch, fixed here: the same bits whatever the workers, the budget or the store."""

ROUNDING = 1e-9
"""Share of a cell by which a bracket of one cell may be wider."""

CACHED_BYTES = 2**18
"""Of questions that are written at a time: as long as they lie in the cache, what is added to them costs little."""

BRACKET_GROWTHS = 9
"""How often a bracket that missed its crossing grows (about eightfold) before the boundary is taken to end."""


class Side:
    """Asks on which side of a class's boundary points lie.

    Args:
        oracle: Answers with one label per question.
        votes: How often each question is put; the majority counts. Odd. 1 for a model that always answers alike.
    """

    def __init__(self, oracle: Oracle, votes: int = 1) -> None:
        if oracle.m != 1:
            raise BadInput(f"a label oracle answers one column; this one answers {oracle.m}: wrap it in LabelsOnly")
        if votes < 1 or votes % 2 == 0:
            raise BadInput(f"votes must be an odd number, 1 or more; got {votes}")
        self.oracle = oracle
        self.votes = votes
        self.kept_back = 0
        """Queries of the budget that are not to be spent yet: they are for measuring what was found."""

    def labels(self, x: Float[np.ndarray, "N n"]) -> Int[np.ndarray, " N"]:
        """The label at N points (rounded to legal ones).

        Queries: `votes * N`
        """
        if self.kept_back and self.oracle.ledger.left < self.votes * (len(x) + self.kept_back):
            raise BudgetExceeded(f"{self.votes * self.kept_back:,} queries are kept back to measure what was found")
        x = self.oracle.nearest(x)
        if self.votes == 1:
            return np.asarray(self.oracle.answered(x, legal=True)[:, 0], dtype=np.int64)
        asked = self.oracle.answered(np.repeat(x, self.votes, axis=0), legal=True)[:, 0].astype(np.int64)
        polls = np.sort(asked.reshape(len(x), self.votes), axis=1)
        # With the votes sorted, a label that holds the majority holds the middle.
        return np.asarray(polls[:, self.votes // 2])

    def inside(self, x: Float[np.ndarray, "N n"], label: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Whether each point carries the given label."""
        return np.asarray(self.labels(x) == label)


@dataclass(frozen=True)
class BoundaryPoints(Rows):
    """Points at which a label gives way to another.

    Attributes:
        x: The points, located to the last digit along `along`.
        label: The label just before the boundary.
        along: Unit directions in which the boundary was crossed, away from `label`.
    """

    x: Float[np.ndarray, "N n"]
    label: Int[np.ndarray, " N"]
    along: Float[np.ndarray, "N n"]

    def turned(self, along: Float[np.ndarray, "N n"]) -> BoundaryPoints:
        """The same points, to be crossed in other directions."""
        return BoundaryPoints(self.x, self.label, along / np.linalg.norm(along, axis=1, keepdims=True))


def bisect_segments(
    side: Side, start: Float[np.ndarray, "N n"], end: Float[np.ndarray, "N n"], label: Int[np.ndarray, " N"]
) -> BoundaryPoints:
    """The boundary of `label` on segments that start inside and end outside, to the last digit.

    Queries: `votes * N` a halving, about 50 halvings in float64 and 25 in float32.
    """
    length = np.linalg.norm(end - start, axis=1)
    along = (end - start) / length[:, None]
    size = max(np.abs(start).max(), np.abs(end).max())
    unit = max(float(np.finfo(side.oracle.dtype).eps) * size, 0.1 * (side.oracle.grid or 0.0))
    low, high = np.zeros(len(start)), length.copy()
    for _ in range(int(np.ceil(np.log2(length.max() / unit)))):
        middle = (low + high) / 2
        inside = np.concatenate(
            [
                side.inside(start[i : i + ROWS] + middle[i : i + ROWS, None] * along[i : i + ROWS], label[i : i + ROWS])
                for i in range(0, len(start), ROWS)
            ]
        )
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return BoundaryPoints(start + ((low + high) / 2)[:, None] * along, label, along)


def shifts(  # noqa: PLR0913 - where, along what, how finely
    side: Side,
    points: BoundaryPoints,
    moves: Float[np.ndarray, "*N J n"],
    step: Float[np.ndarray, " N"],
    *,
    centre: Float[np.ndarray, "N J"],
    half: Float[np.ndarray, " N"],
    cell: Float[np.ndarray, " N"],
    spread: Float[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, "N J"]:
    """How far along `points.along` the boundary lies after each of J moves.

    Bisects between `centre - half` and `centre + half` until the bracket is shorter than `cell`. The ends are taken on
    trust; only where the bisection ran into one of them is it asked, and the bracket moved outwards until it holds.

    Args:
        side: Answers.
        points: N boundary points.
        moves: Directions, (J, n), shared by all points, or (N, J, n).
        step: How far each point moves in them.
        centre: Where the crossing is expected.
        half: Half-width of the first bracket.
        cell: Wanted width of the last one.
        spread: Standard deviation of the crossings about `centre`, where they are expected to be normally distributed:
            brackets are then parted where both sides are equally likely, which saves most of a question for each.

    Returns:
        Shifts; NaN where no crossing was found.

    Queries: about `votes * N * J * log2(2 * half / cell)`, with `spread` `votes * N * J * log2(4.1 * spread / cell)`
    """
    found, moves = np.full(centre.shape, np.nan), np.ascontiguousarray(moves)
    count = moves.shape[-2]
    flat = [(i, j) for i in range(len(points)) for j in range(0, count, ROWS)]
    # One point's moves in one batch; several points' moves together where they are few.
    together = max(1, ROWS // count) if count else 1
    if together > 1:
        flat = [(i, 0) for i in range(0, len(points), together)]
    for i, j in flat:
        rows, columns = slice(i, i + together), slice(j, j + ROWS)
        middle = centre[rows, columns]
        which = np.repeat(np.arange(i, i + len(middle)), middle.shape[1])
        moved = step[rows][:, None, None] * (moves[columns] if moves.ndim == 2 else moves[rows, columns])
        moved += points.x[rows][:, None]
        line = _Line(side, moved.reshape(len(which), -1), points.along, points.label, which)
        wide = None if spread is None else spread[which]
        found[rows, columns] = line.crossings(middle.ravel(), half[which], cell[which], wide).reshape(middle.shape)
    return found


def legal_steps(side: Side, points: BoundaryPoints, moves: np.ndarray, stride: float) -> Float[np.ndarray, " N"]:
    """The stride, or at each point as much of it as its walls leave room for."""
    if side.oracle.within is None or not len(moves):
        return np.full(len(points), stride)
    low, high = side.oracle.within
    room = np.minimum(points.x - low, high - points.x).min(axis=1)
    reach = float(np.abs(moves).max())
    return np.asarray(np.clip(room / reach, 1e-3 * stride, stride))


@dataclass
class _Line:
    """One batch of lines, each of which crosses one boundary."""

    side: Side
    start: Float[np.ndarray, "R n"]
    along: Float[np.ndarray, "N n"]
    label: Int[np.ndarray, " N"]
    which: Int[np.ndarray, " R"]

    def inside(self, rows: Int[np.ndarray, " S"], at: Float[np.ndarray, " S"]) -> Bool[np.ndarray, " S"]:
        which = self.which[rows]
        first, x = which[0], np.empty((len(rows), self.start.shape[1]))
        together, few = bool((which == first).all()), max(1, CACHED_BYTES // (8 * x.shape[1]))
        for some in (slice(i, i + few) for i in range(0, len(x), few)):
            part = x[some]
            np.take(self.start, rows[some], axis=0, out=part, mode="clip")  # (any other mode writes it twice)
            if together:
                # In place: its transpose has the columns in a row, as BLAS wants them.
                blas.dger(1.0, self.along[first], at[some], a=part.T, overwrite_a=1, overwrite_x=0, overwrite_y=0)
            else:
                part += at[some, None] * self.along[which[some]]
        return self.side.inside(x, self.label[which])

    def bisect(
        self,
        rows: Int[np.ndarray, " S"],
        low: Float[np.ndarray, " S"],
        high: Float[np.ndarray, " S"],
        cell: Float[np.ndarray, " S"],
        likely: tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]] | None = None,
    ) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
        """Brackets no wider than `cell`; `likely` are mean and standard deviation of where they are crossed."""
        low, high = low.copy(), high.copy()
        while True:
            open_ = np.flatnonzero(high - low > cell * (1 + ROUNDING))
            if not len(open_):
                return low, high
            if likely is None:
                middle = (low[open_] + high[open_]) / 2
            else:
                middle = _median(low[open_], high[open_], cell[open_], likely[0][open_], likely[1][open_])
            stuck = (middle <= low[open_]) | (middle >= high[open_])
            if stuck.any():
                cell[open_[stuck]] = np.inf
                continue
            inside = self.inside(rows[open_], middle)
            low[open_[inside]] = middle[inside]
            high[open_[~inside]] = middle[~inside]

    def crossings(
        self,
        centre: Float[np.ndarray, " R"],
        half: Float[np.ndarray, " R"],
        cell: Float[np.ndarray, " R"],
        spread: Float[np.ndarray, " R"] | None = None,
    ) -> Float[np.ndarray, " R"]:
        rows = np.arange(len(centre))
        first, last = centre - half, centre + half
        low, high = self.bisect(rows, first, last, cell.copy(), None if spread is None else (centre, spread))
        result = (low + high) / 2
        width = 2 * half
        # -1: the crossing may lie below the bracket, +1: above it.
        beyond = np.where(low == first, -1, np.where(high == last, 1, 0))
        ask = np.flatnonzero(beyond)
        edge = np.where(beyond < 0, first, last)
        for _ in range(BRACKET_GROWTHS):
            if not len(ask):
                return np.asarray(result)
            inside = self.inside(ask, edge[ask])
            right = inside == (beyond[ask] < 0)
            found, ask = ask[right], ask[~right]
            again = found[np.abs(edge - np.where(beyond < 0, first, last))[found] > 0]
            if len(again):
                inner = edge[again] - beyond[again] * width[again]
                low, high = self.bisect(
                    again, np.minimum(inner, edge[again]), np.maximum(inner, edge[again]), cell[again]
                )
                result[again] = (low + high) / 2
            width[ask] = 7 * np.abs(edge[ask] - centre[ask])
            edge[ask] += beyond[ask] * width[ask]
        result[ask] = np.nan
        return np.asarray(result)


def _median(
    low: Float[np.ndarray, " S"],
    high: Float[np.ndarray, " S"],
    cell: Float[np.ndarray, " S"],
    mean: Float[np.ndarray, " S"],
    deviation: Float[np.ndarray, " S"],
) -> Float[np.ndarray, " S"]:
    """Where a normal distribution has as much in the bracket to the left as to the right, a whole number of cells off.

    Whole numbers, as a bracket a little wider than a cell would cost one more question.
    """
    likely = mean + deviation * ndtri((ndtr((low - mean) / deviation) + ndtr((high - mean) / deviation)) / 2)
    # A bracket far out, where nothing is likely, is halved.
    likely = np.where(np.isfinite(likely), likely, (low + high) / 2)
    cells = np.maximum(np.ceil((high - low) / cell - ROUNDING), 2)
    middle = low + np.clip(np.round((likely - low) / cell), 1, cells - 1) * cell
    return np.asarray(np.where((low < middle) & (middle < high), middle, (low + high) / 2))
