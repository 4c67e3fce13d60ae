"""The nearest and the farthest point of a polytope `equal z = level, below z <= ceiling` in a box, with a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float
from scipy import linalg, sparse

from unveil.outcome import UnveilError
from unveil.whitebox.interior_point import interior_point

_EDGE = 1e-9
# Sparse rows from which a simplex method, or a Newton method that is as wide as there are rows, takes minutes.
MANY_ROWS = 2**13
# Least over largest diagonal of a Cholesky factor of the equations' Gram matrix, from which they determine the point.
DETERMINED = 1e-5


@dataclass(frozen=True)
class Polytope:
    """Points z with `equal @ z == level`, `below @ z <= ceiling`, `low <= z <= high`.

    Rows are brought to unit length (zero rows stay), and what goes with them by the same factors, as solvers and
    tolerances are absolute.

    Attributes:
        equal: (p, n), dense or sparse.
        level: (p,).
        below: (q, n), dense or sparse.
        ceiling: (q,).
        low: (n,).
        high: (n,).
        margin: (q,), by how much each `ceiling` lies below the one that bounds are to hold for.
        inside: (n,), a point that meets all constraints, where one is known.
    """

    equal: Any
    level: Float[np.ndarray, " p"]
    below: Any
    ceiling: Float[np.ndarray, " q"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    margin: Float[np.ndarray, " q"] | float = 0.0
    inside: Float[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        for rows, sides in (("equal", ("level",)), ("below", ("ceiling", "margin"))):
            given = getattr(self, rows)
            scale = _to_unit_length(given)
            scaled = sparse.csr_array(sparse.diags_array(scale) @ given) if sparse.issparse(given) else None
            object.__setattr__(self, rows, scale[:, None] * given if scaled is None else scaled)
            for side in sides:
                object.__setattr__(self, side, scale * getattr(self, side))

    @property
    def large(self) -> bool:
        """Whether it has too many rows for anything but an interior-point method, which `nearest` takes then."""
        if self.inside is None or not (sparse.issparse(self.equal) and sparse.issparse(self.below)):
            return False
        return len(self.level) + len(self.ceiling) > MANY_ROWS

    def violation(self, z: Float[np.ndarray, " n"]) -> float:
        """By how much the worst of the constraints is missed, as a length in the space of z."""
        return float(
            max(
                np.abs(self.equal @ z - self.level).max(initial=0.0),
                (self.below @ z - self.ceiling).max(initial=0.0),
                (self.low - z).max(initial=0.0),
                (z - self.high).max(initial=0.0),
            )
        )

    def repaired(self, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """A solver's answer, right to 1e-7 or so, moved by as much to meet the equations to rounding."""
        z = np.clip(z, self.low, self.high)
        for _ in range(3):
            free = (z > self.low + _EDGE) & (z < self.high - _EDGE)
            over = self.below @ z - self.ceiling
            pinned = over > -_EDGE
            rows = np.vstack([_rows(self.equal, slice(None), free), _rows(self.below, pinned, free)])
            miss = np.concatenate([self.level - self.equal @ z, np.minimum(-over[pinned], 0)])
            if not miss.any() or not free.any():
                break
            z = z.copy()
            z[free] += np.linalg.lstsq(rows, miss, rcond=1e-10)[0]
            z = np.clip(z, self.low, self.high)
        return np.asarray(z)


@dataclass(frozen=True)
class Optimum:
    """An optimum and how far from optimal it can be at most.

    Attributes:
        z: (n,), meets the polytope's constraints to rounding.
        value: The objective at z: the distance, or how far z went.
        bound: No point of the polytope does better than this, whatever the solver did: weak duality, worked out anew.
        pressure: (q,), nonnegative: how much the objective would gain by moving each ceiling. 0 where it does not bind.
    """

    z: Float[np.ndarray, " n"]
    value: float
    bound: float
    pressure: Float[np.ndarray, " q"]


def nearest(polytope: Polytope, target: Float[np.ndarray, " n"], norm: int) -> Optimum:
    """The point nearest to `target`, which lies in the box: by a linear programme (1-norm) or Newton's method (2-norm).

    In a large polytope it is an interior-point method, which may end before it has settled: the bound tells.

    Raises:
        UnveilError: The solver found no point.
    """
    if polytope.large:
        return _alone(polytope, target, norm) or _nearest_inside(polytope, target, norm)
    found = _nearest_1(polytope, target) if norm == 1 else _nearest_2(polytope, target)
    if polytope.violation(found.z) > 1e-7:
        raise UnveilError(
            f"no point within 1e-7 of the constraints was found (missed by {polytope.violation(found.z):.1e}); "
            f"take norm={3 - norm}, which uses another method"
        )
    return found


def farthest(polytope: Polytope, slope: Float[np.ndarray, " n"]) -> Optimum:
    """The point with the largest `slope @ z`.

    Raises:
        UnveilError: The solver found no point.
    """
    bounds = np.column_stack([polytope.low, polytope.high])
    result = _solve(-slope, polytope.equal, polytope.level, polytope.below, polytope.ceiling, bounds)
    z = polytope.repaired(result.x)
    along, pressure = _prices(result, polytope)
    rest = -slope - along
    lowest = np.where(rest > 0, rest * polytope.low, rest * polytope.high).sum()
    bound = -(lowest + result.eqlin.marginals @ polytope.level - pressure @ (polytope.ceiling + polytope.margin))
    return Optimum(z, float(slope @ z), float(bound), pressure)


def _nearest_1(polytope: Polytope, target: np.ndarray) -> Optimum:
    # z = target + up - down: 2 n bounded variables and no rows beyond the polytope's own.
    n = len(target)
    bounds = np.zeros((2 * n, 2))
    bounds[:n, 1], bounds[n:, 1] = polytope.high - target, target - polytope.low
    level, ceiling = polytope.level - polytope.equal @ target, polytope.ceiling - polytope.below @ target
    result = _solve(np.ones(2 * n), _doubled(polytope.equal), level, _doubled(polytope.below), ceiling, bounds)
    z = polytope.repaired(target + result.x[:n] - result.x[n:])
    prices, pressure = -np.asarray(result.eqlin.marginals), _prices(result, polytope)[1]
    bound = _bound(polytope, target, prices, pressure, 1)
    return Optimum(z, float(np.abs(z - target).sum()), bound, pressure)


def _alone(polytope: Polytope, target: np.ndarray, norm: int) -> Optimum | None:
    """The only point, where the equations determine it: as many rows of a first convolution do."""
    equal = polytope.equal
    if equal.shape[0] < equal.shape[1]:
        return None
    try:
        lower = linalg.cholesky((equal.T @ equal).toarray(), lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    diagonal = np.diagonal(lower)
    if diagonal.min() < DETERMINED * diagonal.max():
        return None
    z = np.asarray(polytope.inside)
    # Multipliers that hold it against the pull towards the target, whose bound is then its distance.
    pull = np.sign(z - target) if norm == 1 else z - target
    prices = -equal @ linalg.cho_solve((lower, True), pull, check_finite=False)
    pressure = np.zeros(len(polytope.ceiling))
    distance = float(np.linalg.norm(z - target, norm))
    return Optimum(z, distance, _bound(polytope, target, prices, pressure, norm), pressure)


def _nearest_inside(polytope: Polytope, target: np.ndarray, norm: int) -> Optimum:
    found = interior_point(
        polytope.equal,
        polytope.level,
        polytope.below,
        polytope.ceiling,
        (polytope.low, polytope.high),
        target,
        np.asarray(polytope.inside),
        norm,
    )
    z, start = np.clip(found.z, polytope.low, polytope.high), np.asarray(polytope.inside)
    distance, before = (float(np.linalg.norm(each - target, norm)) for each in (z, start))
    if distance > before or polytope.violation(z) > 1e-7:  # it ended so early that nothing was gained
        z, distance = start, before
    return Optimum(z, distance, _bound(polytope, target, found.prices, found.pressure, norm), found.pressure)


def _bound(polytope: Polytope, target: np.ndarray, prices: np.ndarray, pressure: np.ndarray, norm: int) -> float:
    """No point of the polytope is nearer, for any prices and any nonnegative pressure: weak duality."""
    pull = polytope.equal.T @ prices + polytope.below.T @ pressure
    ceiling = polytope.ceiling + polytope.margin
    if norm == 1:
        # Where the box is open, a pull beyond 1 would have no least: all multipliers are taken as much smaller.
        beyond = np.maximum(np.where(np.isinf(polytope.low), pull, 0), np.where(np.isinf(polytope.high), -pull, 0))
        share = 1 / float(beyond.max(initial=1.0))
        pull, prices, pressure = share * pull, share * prices, share * pressure
        ends = np.stack([polytope.low, polytope.high, target])
        ends = np.where(np.isinf(ends), target, ends)
        least = (np.abs(ends - target) + pull * ends).min(axis=0).sum()
        return float(least - prices @ polytope.level - pressure @ ceiling)
    z = np.clip(target - pull, polytope.low, polytope.high)
    value = ((z - target) ** 2).sum() / 2 + pull @ z - prices @ polytope.level - pressure @ ceiling
    return float(np.sqrt(max(2 * value, 0.0)))


def _prices(result: Any, polytope: Polytope) -> tuple[np.ndarray, np.ndarray]:
    pressure = np.maximum(-np.asarray(result.ineqlin.marginals), 0.0)
    return np.asarray(polytope.equal.T @ result.eqlin.marginals - polytope.below.T @ pressure), pressure


def _solve(cost: np.ndarray, equal: Any, level: np.ndarray, below: Any, ceiling: np.ndarray, bounds: np.ndarray) -> Any:
    result = scipy.optimize.linprog(
        cost, A_ub=below, b_ub=ceiling, A_eq=equal, b_eq=level, bounds=bounds, method="highs"
    )
    if result.status != 0 or result.x is None:
        raise UnveilError(
            f"the linear programme ended with status {result.status} and no solution; "
            "widen within=, or take norm=2, which uses another method"
        )
    return result


def _doubled(rows: Any) -> Any:
    return sparse.hstack([rows, -rows], format="csr") if sparse.issparse(rows) else np.hstack([rows, -rows])


def _nearest_2(polytope: Polytope, target: np.ndarray) -> Optimum:
    # The dual of the projection is concave and piecewise quadratic in the prices y of the rows: projected Newton.
    sparse_rows = sparse.issparse(polytope.equal) and sparse.issparse(polytope.below)
    rows = (sparse if sparse_rows else np).vstack([polytope.equal, polytope.below])
    rows = sparse.csr_array(rows) if sparse_rows else np.asarray(rows)
    level = np.concatenate([polytope.level, polytope.ceiling])
    fixed = np.arange(len(level)) < len(polytope.level)
    y = np.zeros(len(level))

    def point(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        wish = target - rows.T @ y
        z = np.clip(wish, polytope.low, polytope.high)
        miss = rows @ z - level
        return wish, z, miss, float(((z - target) ** 2).sum() / 2 + y @ miss)

    wish, z, miss, value = point(y)
    ridge = 1e-6
    for _ in range(500):
        wrong = np.where(fixed, miss, np.maximum(miss, -y))
        if np.abs(wrong).max(initial=0.0) < 1e-12 or ridge > 1e6:
            break
        moving = fixed | (y > 0) | (miss > 0)
        part = _rows(rows, moving, (wish > polytope.low) & (wish < polytope.high))
        gram = part @ part.T
        gram[np.diag_indices_from(gram)] += 1e-13 + ridge * min(1.0, float(np.abs(wrong).max()))
        step = np.zeros_like(y)
        step[moving] = linalg.solve(gram, miss[moving], assume_a="pos", check_finite=False)
        for length in (1.0, 0.5, 0.25, 0.125):
            ahead = y + length * step
            ahead = np.where(fixed, ahead, np.maximum(ahead, 0))
            trial = point(ahead)
            # (the second condition lets the last steps pass, in which the dual gains less than it is rounded)
            gain = trial[3] - value
            wrong_ahead = np.where(fixed, trial[2], np.maximum(trial[2], -ahead))
            still = abs(gain) <= 1e-14 * abs(value) and np.abs(wrong_ahead).max() < np.abs(wrong).max() / 2
            if gain > 1e-4 * float(miss @ (ahead - y)) > 0 or still:
                y, (wish, z, miss, value) = ahead, trial
                ridge = max(ridge / 10, 1e-8)
                break
        else:
            ridge *= 10  # towards steepest ascent, which cannot fail far from the optimum
    z = polytope.repaired(z)
    distance = float(np.linalg.norm(z - target))
    pressure = y[~fixed]
    value -= float(np.sum(pressure * polytope.margin))
    return Optimum(z, distance, float(np.sqrt(max(2 * value, 0.0))), pressure)


def _to_unit_length(rows: Any) -> Float[np.ndarray, " p"]:
    """What the rows are multiplied with; 1 for zero rows. Squares of small entries underflow, so peaks come first."""
    peak = np.asarray(abs(rows).max(axis=1).toarray() if sparse.issparse(rows) else abs(rows).max(axis=1, initial=0.0))
    peak = np.where(peak.ravel() > 0, peak.ravel(), 1.0)
    level = sparse.diags_array(1 / peak) @ rows if sparse.issparse(rows) else rows / peak[:, None]
    length = np.sqrt(np.asarray((level * level).sum(axis=1)).ravel())
    return np.asarray(1 / (peak * np.where(length > 0, length, 1.0)))


def _rows(matrix: Any, rows: Any, columns: np.ndarray) -> np.ndarray:
    part = matrix[rows]
    part = part.toarray() if sparse.issparse(part) else part
    return np.asarray(part[:, columns])
