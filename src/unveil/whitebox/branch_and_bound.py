"""Regions: branch and bound over the parts of a box, each between the lines that relax its neurons."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np
from scipy import sparse

from unveil.whitebox.linear_programme import Constraints, bound, minimise
from unveil.whitebox.network import Network
from unveil.whitebox.relaxation import Part, Relaxation, halved, whole
from unveil.whitebox.wanted import Wanted

TOLERANCE_SHARE = 0.99
"""Share of the tolerance by which the nearest input of a part may be off, so that rounding does not take it away."""


class Search(Protocol):
    """What branch and bound asks of a search for an input, and where it keeps what it found."""

    tolerance: float
    budget: int
    spent: int
    best: np.ndarray
    off: float

    def offer(self, x: np.ndarray, distance: bool = False) -> bool:
        """Keep an input if it is better."""

    def polished(self, x: np.ndarray) -> np.ndarray:
        """An input whose output is nearer."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Branch and bound over the parts of the box.

    Attributes:
        network: Piecewise linear.
        wanted: Its features.
        box: Finite.
        tolerance: Features farther off than this are others.
        whole: Whether features within `wanted` are all that the output's tolerance allows; otherwise there are more.
    """

    network: Network
    wanted: Wanted
    box: tuple[np.ndarray, np.ndarray]
    tolerance: float
    whole: bool = True

    def existence(self, search: Search) -> tuple[str, float, bool]:
        """Verdict, what every input misses by at least, and whether all parts were closed."""
        relaxation = Relaxation(self.network, self.wanted, self.box)
        start = whole(self.network, *self.box)
        order = count()
        queue: list[tuple[float, int, int, Part]] = [(0.0, 0, next(order), start)] if start is not None else []
        least, exact = np.inf, True
        while queue:
            if search.spent >= search.budget:
                return "not found", 0.0, False
            _, depth, _, part = heapq.heappop(queue)
            within = relaxation.constraints(part)
            found = minimise(relaxation.miss(), within)
            search.spent += 1
            at_least = -np.inf if found is None else bound(relaxation.miss(), within, found.multipliers)
            if at_least > self.tolerance:
                least = min(least, at_least)
                continue
            split = None
            if found is not None:
                x = found.v[: self.network.n]
                search.offer(x)
                split = relaxation.worst(found.v, part)
                if split is None or depth % 8 == 0:
                    search.offer(search.polished(x))
            if split is None and search.off > search.tolerance:
                # No neuron is left to split at: then the output alone may be missed, by no more than the least.
                within = relaxation.constraints(part, soft=False)
                found = minimise(relaxation.miss(), within)
                search.spent += 1
                if found is not None:
                    at_least = bound(relaxation.miss(), within, found.multipliers)
                    search.offer(found.v[: self.network.n])
                if at_least > self.tolerance:
                    least = min(least, at_least)
                    continue
            if search.off <= search.tolerance:
                return "found", 0.0, False
            if split is None:
                exact = False  # neither closed nor open: too near to the tolerance to tell
                continue
            for half in halved(self.network, *self.box, part, split):
                heapq.heappush(queue, (-depth, depth + 1, next(order), half))
        if not exact:
            return "not found", 0.0, True
        missed = self.wanted.missed(least) if self.whole and np.isfinite(least) else self.tolerance
        return "none", max(missed, self.tolerance), True

    def nearest(self, search: Search, goal: np.ndarray) -> tuple[float, bool]:
        """Improves the search's best; what no input is nearer than, and whether all parts were closed."""
        relaxation = Relaxation(self.network, self.wanted, self.box)
        n, size = self.network.n, relaxation.size
        cost = np.concatenate([np.zeros(size), np.ones(n)])
        start = whole(self.network, *self.box)
        order = count()
        queue: list[tuple[float, int, Part]] = [(0.0, next(order), start)] if start is not None else []
        closed = np.inf
        while queue:
            reached = float(np.abs(search.best - goal).sum())
            if queue[0][0] >= reached - 1e-6 * max(1.0, reached):
                return min(queue[0][0], closed), True
            if search.spent >= search.budget:
                return min(queue[0][0], closed), False
            above, _, part = heapq.heappop(queue)
            rows = relaxation.constraints(part, soft=False)
            within = _with_distance(rows, goal, self.tolerance)
            found = minimise(cost, within)
            search.spent += 1
            if found is None:
                # The solver says there is no point; a bound on the miss has to say so, too.
                soft = relaxation.constraints(part)
                found = minimise(relaxation.miss(), soft)
                if found is not None and bound(relaxation.miss(), soft, found.multipliers) > self.tolerance:
                    continue
                at_least = above
            else:
                at_least = max(above, bound(cost, within, found.multipliers))
                search.offer(found.v[:n], distance=True)
            split = None if found is None else relaxation.worst(found.v[:size], part)
            if split is None:
                # What just meets the tolerance may miss it by a rounding.
                inner = minimise(cost, _with_distance(rows, goal, TOLERANCE_SHARE * self.tolerance))
                if inner is not None and not search.offer(inner.v[:n], distance=True):
                    search.offer(search.polished(inner.v[:n]), distance=True)
                closed = min(closed, at_least)
                continue
            for half in halved(self.network, *self.box, part, split):
                heapq.heappush(queue, (at_least, next(order), half))
        return min(closed, float(np.abs(search.best - goal).sum())), True


def _with_distance(within: Constraints, goal: np.ndarray, miss: float) -> Constraints:
    """The same with one more variable per input, at least its distance from the goal, and a miss of at most this."""
    n, size = len(goal), len(within.floor)
    eye, empty = sparse.eye_array(n, format="csr"), sparse.csr_array((n, size - n))
    rows = sparse.vstack(
        [
            sparse.hstack([within.rows, sparse.csr_array((within.rows.shape[0], n))]),
            sparse.hstack([eye, empty, -eye]),
            sparse.hstack([-eye, empty, -eye]),
        ],
        format="csr",
    )
    ceiling = within.ceiling.copy()
    ceiling[-1] = miss
    reach = np.maximum(within.ceiling[:n] - goal, goal - within.floor[:n])
    return Constraints(
        rows,
        np.full(rows.shape[0], -np.inf),
        np.concatenate([within.high, goal, -goal]),
        np.concatenate([within.floor, np.zeros(n)]),
        np.concatenate([ceiling, reach]),
    )
