"""One linear programme over a box, and a bound on its optimum by weak duality that holds whatever the solver did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float
from scipy import sparse

from unveil.outcome import UnveilError


@dataclass(frozen=True, eq=False)
class Constraints:
    """`low <= rows @ v <= high`, and `floor <= v <= ceiling`.

    Attributes:
        rows: (q, n), dense or sparse.
        low: (q,), may be infinite.
        high: (q,), may be infinite.
        floor: (n,), may be infinite.
        ceiling: (n,), may be infinite.
    """

    rows: Any
    low: Float[np.ndarray, " q"]
    high: Float[np.ndarray, " q"]
    floor: Float[np.ndarray, " n"]
    ceiling: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Minimum:
    """The minimum of `cost @ v`.

    Attributes:
        v: (n,), the solver's point.
        value: Its cost.
        multipliers: (q,), positive where a row presses against `high`, negative where against `low`.
    """

    v: Float[np.ndarray, " n"]
    value: float
    multipliers: Float[np.ndarray, " q"]


def minimise(cost: Float[np.ndarray, " n"], within: Constraints) -> Minimum | None:
    """Solve it; None if the solver finds no point.

    Raises:
        UnveilError: The solver gave up, or the minimum is not bounded.
    """
    same = within.low == within.high
    upper, lower = ~same & np.isfinite(within.high), ~same & np.isfinite(within.low)
    stack: Any = sparse.vstack if sparse.issparse(within.rows) else np.vstack
    result = scipy.optimize.linprog(
        cost,
        A_ub=stack([within.rows[upper], -within.rows[lower]]),
        b_ub=np.concatenate([within.high[upper], -within.low[lower]]),
        A_eq=within.rows[same],
        b_eq=within.low[same],
        bounds=np.column_stack([within.floor, within.ceiling]),
        method="highs",
    )
    if result.status == 2:
        return None
    if result.status != 0 or result.x is None:
        raise UnveilError(f"the linear programme ended with status {result.status} and no solution; narrow within=")
    prices = np.maximum(-np.asarray(result.ineqlin.marginals), 0.0)
    multipliers = np.zeros(len(within.low))
    multipliers[same] = -np.asarray(result.eqlin.marginals)
    multipliers[upper] += prices[: upper.sum()]
    multipliers[lower] -= prices[upper.sum() :]
    return Minimum(np.asarray(result.x), float(result.fun), multipliers)


def bound(cost: Float[np.ndarray, " n"], within: Constraints, multipliers: Float[np.ndarray, " q"]) -> float:
    """No point that meets the constraints costs less than this. Exact but for the rounding of these few sums.

    For any multipliers w, `cost @ v >= (cost + w rows) @ v - w_+ high + w_- low`; a corner has the least first term.
    """
    up, down = np.maximum(multipliers, 0.0), np.maximum(-multipliers, 0.0)
    rest = cost + within.rows.T @ (up - down)
    ends = np.where(rest > 0, within.floor, within.ceiling)
    with np.errstate(invalid="ignore"):
        least = np.where(rest == 0, 0.0, rest * ends).sum()
        level = np.where(up > 0, up * within.high, 0.0).sum() - np.where(down > 0, down * within.low, 0.0).sum()
    return float(least - level)
