"""Legal steps that a span does not see, extreme in given directions: an interior-point method for many inputs at once.

All programmes share their equations, so one step of all of them is a few products of stacked matrices; a simplex method
begins anew with each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg

from unveil.blackbox.rows import Rows

MOST_STEPS = 60
EQUATION_NUMBERS_HELD = 2**22  # numbers of the scaled equations held at once: 32 MB
SETTLED = 1e-11  # gap, relative to the size of the objective, at which a programme ends
EQUATIONS_MISS = 1e-9  # and by how much of the box the equations may be missed then
TO_THE_WALL = 0.995  # share of the way to the nearest wall that a step goes at most
FACTORISATION_RIDGE = 1e-14  # share of the diagonal that keeps a factorisation going where few coordinates are free


def extreme_steps(
    basis: Float[np.ndarray, "r n"],
    low: Float[np.ndarray, "N n"],
    high: Float[np.ndarray, "N n"],
    cost: Float[np.ndarray, "N n"],
) -> tuple[Float[np.ndarray, "N n"], Bool[np.ndarray, " N"]]:
    """For each row the step in its box and orthogonal to the basis that has the least product with its cost.

    Args:
        basis: Orthonormal rows, at least one.
        low: Bounds of each step, at most 0.
        high: At least 0, and above `low`.
        cost: The direction to go against.

    Returns:
        The steps, at a vertex as a rule, and which of them are settled; of the others nothing is promised. Where a box
        leaves no room around any step, few are.

    Source: Mehrotra, On the implementation of a primal-dual interior point method, SIAM J. Optim. 2 (1992).
    """
    steps, settled = np.zeros_like(cost), np.zeros(len(cost), dtype=bool)
    some = max(1, EQUATION_NUMBERS_HELD // basis.size)
    for start in range(0, len(cost), some):
        part = slice(start, start + some)
        for which, step in _ending(basis, low[part], high[part], cost[part]):
            steps[start + which], settled[start + which] = step, True
    return steps, settled


@dataclass(frozen=True, eq=False)
class _Running(Rows):
    """Programmes that go on; every array has a row for each.

    Attributes:
        which: Its number.
        low: Bounds of the step.
        high: Bounds of the step.
        cost: What is minimised.
        step: Where it is, strictly inside.
        prices: Multipliers of the equations, (N, r).
        under: Multipliers of the lower bounds, positive.
        over: Multipliers of the upper bounds, positive.
    """

    which: np.ndarray
    low: np.ndarray
    high: np.ndarray
    cost: np.ndarray
    step: np.ndarray
    prices: np.ndarray
    under: np.ndarray
    over: np.ndarray


def _ending(
    basis: np.ndarray, low: np.ndarray, high: np.ndarray, cost: np.ndarray
) -> Iterator[tuple[int, Float[np.ndarray, " n"]]]:
    """The number and the step of each programme that settles."""
    prices = cost @ basis.T
    rest = cost - prices @ basis
    size = np.abs(rest).mean(axis=1, keepdims=True) + np.finfo(float).tiny
    under, over = np.maximum(rest, 0) + size, np.maximum(-rest, 0) + size
    now = _Running(np.arange(len(cost)), low, high, cost, (low + high) / 2, prices, under, over)
    for _ in range(MOST_STEPS):
        width = now.high - now.low
        gap = np.sum((now.step - now.low) * now.under + (now.high - now.step) * now.over, axis=1)
        missed = np.linalg.norm(now.step @ basis.T, axis=1)
        done = gap <= SETTLED * np.sum(np.abs(now.cost) * width, axis=1)
        done &= missed <= EQUATIONS_MISS * np.linalg.norm(width, axis=1)
        for i in np.flatnonzero(done):
            yield int(now.which[i]), _vertex(basis, now, int(i))
        now = now[~done]
        if not len(now.which):
            return
        try:
            now = _step(basis, now)
        except np.linalg.LinAlgError:  # as near to the walls as rounding allows
            return


def _step(basis: np.ndarray, now: _Running) -> _Running:
    """One step of predictor and corrector."""
    to_low, to_high = now.step - now.low, now.high - now.step
    free = 1 / (now.under / to_low + now.over / to_high)
    middle = (basis * free[:, None, :]) @ basis.T
    diagonal = np.einsum("nii->ni", middle)
    diagonal += FACTORISATION_RIDGE * diagonal.mean(axis=1, keepdims=True)
    inverse = np.linalg.inv(middle)
    missed, off = -(now.step @ basis.T), now.cost - now.prices @ basis - now.under + now.over

    def newton(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Changes of step, prices, and multipliers that lower the two products of slack and multiplier by so much."""
        pull = off + low / to_low - high / to_high
        wanted = missed + (free * pull) @ basis.T
        price = np.einsum("nij,nj->ni", inverse, wanted)
        # (once more, for what rounding of the inverse left)
        price += np.einsum("nij,nj->ni", inverse, wanted - (free * (price @ basis)) @ basis.T)
        by = free * (price @ basis - pull)
        return by, price, (-low - now.under * by) / to_low, (-high + now.over * by) / to_high

    by, price, by_under, by_over = newton(to_low * now.under, to_high * now.over)
    along = np.minimum(_reach(to_low, by), _reach(to_high, -by))
    beside = np.minimum(_reach(now.under, by_under), _reach(now.over, by_over))
    gap = np.sum(to_low * now.under + to_high * now.over, axis=1, keepdims=True)
    after = np.sum(
        (to_low + along * by) * (now.under + beside * by_under)
        + (to_high - along * by) * (now.over + beside * by_over),
        axis=1,
        keepdims=True,
    )
    centre = (after / gap) ** 3 * gap / (2 * basis.shape[1])
    by, price, by_under, by_over = newton(
        to_low * now.under + by * by_under - centre, to_high * now.over - by * by_over - centre
    )
    along = np.minimum(_reach(to_low, by, TO_THE_WALL), _reach(to_high, -by, TO_THE_WALL))
    beside = np.minimum(_reach(now.under, by_under, TO_THE_WALL), _reach(now.over, by_over, TO_THE_WALL))
    return _Running(
        now.which,
        now.low,
        now.high,
        now.cost,
        now.step + along * by,
        now.prices + beside * price,
        now.under + beside * by_under,
        now.over + beside * by_over,
    )


def _reach(value: np.ndarray, change: np.ndarray, share: float = 1.0) -> Float[np.ndarray, "N 1"]:
    """How much of its change each row may take, at most all, before a value reaches 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.where(change < 0, -value / change, np.inf).min(axis=1, keepdims=True)
    return np.asarray(np.minimum(1.0, share * most))


def _vertex(basis: np.ndarray, now: _Running, i: int) -> Float[np.ndarray, " n"]:
    """The point with every coordinate on a wall that presses more than it leaves room; as it is where that fails."""
    step, low, high = now.step[i], now.low[i], now.high[i]
    width, size = high - low, np.abs(now.cost[i]).mean()
    at_low = (step - low) / width < now.under[i] / size
    at_high = ((high - step) / width < now.over[i] / size) & ~at_low
    there = np.where(at_low, low, np.where(at_high, high, step))
    free = np.flatnonzero(~(at_low | at_high))
    if len(free):
        there[free] -= linalg.lstsq(basis[:, free], basis @ there, check_finite=False, lapack_driver="gelsy")[0]
    legal = ((there >= low) & (there <= high)).all()
    kept = there if legal and np.linalg.norm(basis @ there) <= EQUATIONS_MISS * np.linalg.norm(width) else step
    return np.asarray(kept)
