"""The point of a polytope nearest to a target by an interior-point method: for many sparse rows on few thousand inputs.

A simplex method walks along vertices, of which regions of a convolutional network have too many. Each step here costs
one Cholesky factorisation as wide as the input, however many rows there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import linalg, sparse

INTERIOR_STEPS = 40
INTERIOR_PRODUCTS = 7e11
"""Products after which it ends with the bound it has: some 20 seconds of one core."""
SETTLED_GAP = 1e-6
"""Gap, relative to the objective, at which it ends."""
WALL_MISS = 1e-8
"""By how much walls may be missed then."""
FINAL_WALL_MISS = 1e-11
"""By how much walls may be missed in the end."""
SHARE_TO_THE_WALL = 0.99
"""Share of the way to the nearest wall that a step goes at most."""
DEPENDENT_ROWS_RIDGE = 1e-13
"""Share of the mean diagonal that keeps rows which depend on each other from spoiling a factorisation."""


@dataclass(frozen=True, eq=False)
class Interior:
    """Where it ended.

    Attributes:
        z: (n,), meets all constraints: moved towards the start as far as a step cut short had left walls behind.
        prices: (p,), multipliers of the equations.
        pressure: (q,), multipliers of the walls, nonnegative.
    """

    z: Float[np.ndarray, " n"]
    prices: Float[np.ndarray, " p"]
    pressure: Float[np.ndarray, " q"]


class _Walls:
    """`rows @ z <= level` in the order below, high, low, and for the 1-norm `z - u <= target`, `-z - u <= -target`."""

    def __init__(self, below: Any, ceiling: np.ndarray, low: np.ndarray, high: np.ndarray, target: np.ndarray | None):
        self.below, self.n, self.q = below, len(low), len(ceiling)
        self.ends = np.cumsum([self.q, self.n, self.n] + [self.n, self.n] * (target is not None))[:-1]
        parts = [ceiling, high, -low] + ([] if target is None else [target, -target])
        self.level = np.concatenate(parts)

    def times(self, z: Float[np.ndarray, " n"], u: Float[np.ndarray, " u"]) -> np.ndarray:
        """What `level` limits; without u the walls of the polytope and the box alone."""
        return np.concatenate([self.below @ z, z, -z] + ([z - u, -z - u] if len(u) else []))

    def back(self, values: Float[np.ndarray, " w"]) -> tuple[np.ndarray, np.ndarray]:
        part = np.split(values, self.ends)
        z = self.below.T @ part[0] + part[1] - part[2]
        if len(part) == 3:
            return z, np.zeros(0)
        return z + part[3] - part[4], -part[3] - part[4]

    def curved(self, weight: Float[np.ndarray, " w"], curvature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The Hessian on z once u is eliminated, and the diagonals that link z with u and u with itself."""
        part = np.split(weight, self.ends)
        gram = (self.below.T @ sparse.diags_array(part[0]) @ self.below).toarray()
        diagonal = part[1] + part[2] + curvature
        link, own = np.zeros(self.n), np.ones(self.n)
        if len(part) > 3:
            link, own = part[4] - part[3], part[3] + part[4]
            diagonal = diagonal + 4 * (part[3] / own) * part[4]  # own - link^2 / own, without cancellation
        gram[np.diag_indices(self.n)] += diagonal
        return gram, link, own


def interior_point(  # noqa: PLR0913 - the parts of one programme
    equal: Any,
    level: Float[np.ndarray, " p"],
    below: Any,
    ceiling: Float[np.ndarray, " q"],
    box: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    target: Float[np.ndarray, " n"],
    start: Float[np.ndarray, " n"],
    norm: int,
) -> Interior:
    """Minimise `|z - target|_1`, or `|z - target|^2 / 2`, where `equal @ z == level`, `below @ z <= ceiling`, in a box.

    Args:
        equal: (p, n), sparse.
        level: Its right-hand sides.
        below: (q, n), sparse.
        ceiling: Its right-hand sides.
        box: Lowest and highest values.
        target: Nearest to what.
        start: Meets all constraints, possibly with equality.
        norm: 1 or 2.

    Source: Mehrotra, On the implementation of a primal-dual interior point method, SIAM J. Optim. 2 (1992).
    """
    n, p = len(target), len(level)
    first, curvature = norm == 1, float(norm == 2)
    walls = _Walls(below, ceiling, *box, target if first else None)
    z, u = start.copy(), (np.abs(start - target) + 0.1 if first else np.zeros(0))
    room = walls.level - walls.times(z, u)
    slack = np.maximum(room, 1e-3)
    force = _worth(start - target, norm) / len(slack) / slack  # all products alike: that of a central path
    prices = np.zeros(p)
    across = np.asarray(equal.T.toarray())
    each = n**3 / 3 + float(p) * n**2 / 2 + float(p) ** 2 * n / 2 + p**3 / 3 + 30.0 * _squares(below)
    most = int(np.clip(INTERIOR_PRODUCTS / each, 5, INTERIOR_STEPS))
    for _ in range(most):
        on_z, on_u = walls.back(force)
        off_z = curvature * (z - target) + on_z + equal.T @ prices
        off_u = 1 + on_u
        missed, wrong = walls.times(z, u) + slack - walls.level, equal @ z - level
        gap = float(slack @ force)
        value = _worth(z - target, norm)
        if gap <= SETTLED_GAP * value and np.abs(missed).max() <= WALL_MISS:
            break
        hessian, link, own = walls.curved(force / slack, curvature)
        try:
            lower = linalg.cholesky(hessian, lower=True, overwrite_a=True, check_finite=False)
            half = linalg.solve_triangular(lower, across, lower=True, check_finite=False)
            middle = half.T @ half
            middle[np.diag_indices(p)] += DEPENDENT_ROWS_RIDGE * max(float(np.trace(middle)) / max(p, 1), 1e-300)
            factor = linalg.cho_factor(middle, lower=True, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:  # as near to the walls as rounding allows
            break

        system = _Newton(walls, (slack, force), (missed, wrong), (off_z, off_u), (link, own), lower, half, factor)
        product = slack * force
        ahead = system.step(product)
        reach = min(1.0, _reach(slack, ahead[3])), min(1.0, _reach(force, ahead[4]))
        after = float((slack + reach[0] * ahead[3]) @ (force + reach[1] * ahead[4]))
        centre = (after / gap) ** 3 * gap / len(slack)
        by_z, by_u, price, by_slack, by_force = system.step(product + ahead[3] * ahead[4] - centre)
        along = min(1.0, SHARE_TO_THE_WALL * _reach(slack, by_slack))
        beside = min(1.0, SHARE_TO_THE_WALL * _reach(force, by_force))
        z, u, slack = z + along * by_z, u + along * by_u, slack + along * by_slack
        prices, force = prices + beside * price, force + beside * by_force
    return Interior(_kept_inside(z, start, walls), prices, np.maximum(force[: walls.q], 0.0))


@dataclass(frozen=True, eq=False)
class _Newton:
    """The linear system of one step, factorised once and solved for two right-hand sides.

    Attributes:
        walls: The constraints.
        at: Slack and force.
        missed: By how much walls and equations are missed.
        off: By how much the gradients by z and by u are.
        links: Diagonals that link z with u, and u with itself.
        lower: Cholesky factor of the Hessian on z.
        half: The equations behind it.
        factor: Cholesky factor of what is left for their multipliers.
    """

    walls: _Walls
    at: tuple[np.ndarray, np.ndarray]
    missed: tuple[np.ndarray, np.ndarray]
    off: tuple[np.ndarray, np.ndarray]
    links: tuple[np.ndarray, np.ndarray]
    lower: np.ndarray
    half: np.ndarray
    factor: Any

    def step(self, product: np.ndarray) -> tuple[np.ndarray, ...]:
        """Towards `slack * force == slack * force - product`: changes of z, u, prices, slack and force."""
        (slack, force), (missed, wrong), (off_z, off_u), (link, own) = self.at, self.missed, self.off, self.links
        back_z, back_u = self.walls.back((force * missed - product) / slack)
        right_z = -off_z - back_z
        right_u = -off_u - back_u if len(back_u) else np.zeros(0)
        right = right_z - link * right_u / own if len(back_u) else right_z
        inner = linalg.solve_triangular(self.lower, right, lower=True, check_finite=False)
        price = linalg.cho_solve(self.factor, self.half.T @ inner + wrong, check_finite=False)
        by_z = linalg.solve_triangular(self.lower, inner - self.half @ price, lower=True, trans="T", check_finite=False)
        by_u = (right_u - link * by_z) / own if len(back_u) else np.zeros(0)
        by_slack = -missed - self.walls.times(by_z, by_u)
        return by_z, by_u, price, by_slack, (-product - force * by_slack) / slack


def _kept_inside(z: np.ndarray, start: np.ndarray, walls: _Walls) -> Float[np.ndarray, " n"]:
    """The point nearest to z on the way to it that has not crossed a wall of the polytope or the box."""
    none = np.zeros(0)
    room = walls.level[: walls.q + 2 * walls.n] - walls.times(start, none)
    rise = walls.times(z - start, none)
    up = rise > 0
    share = float(np.min((np.maximum(room[up], 0.0) + FINAL_WALL_MISS) / rise[up], initial=1.0))
    return np.asarray(start + share * (z - start))


def _worth(way: np.ndarray, norm: int) -> float:
    return max(float(np.abs(way).sum() if norm == 1 else way @ way), 1e-300)


def _reach(values: np.ndarray, change: np.ndarray) -> float:
    """How far one can go until a positive value is zero."""
    down = change < 0
    return float(np.min(-values[down] / change[down])) if down.any() else math.inf


def _squares(rows: Any) -> float:
    return float((np.diff(rows.indptr).astype(float) ** 2).sum())
