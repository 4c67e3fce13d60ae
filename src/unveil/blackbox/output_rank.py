"""The rank of noisy answers: the largest drop of their singular values behind which everything looks like noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

EXPLAINED = 64.0
"""Noise up to so many times the rounding of the answers is put down to it: sums inside a network round many times."""

SPARE = 5
"""Answers beyond those that the rank calls for, before it is believed."""

DROP = 4.0
"""The least ratio of the last singular value that counts to the first of noise: weak ones hide behind less..."""

DEEP = 16.0
"""...and where outputs are so few that hardly any value of noise is left to look at."""


BY_CHANCE = 0.02
"""Chance that an answer counts as standing alone though all inputs show all directions, which costs a few more."""


@dataclass(frozen=True)
class Factor:
    """Answers less their mean, factored: `answers - origin = left @ diag(values) @ right`.

    Attributes:
        left: (N, s) orthonormal columns.
        values: (s,) singular values, largest first; s is at most N - 1.
        right: (s, m) orthonormal rows.
        origin: (m,) the mean answer.
    """

    left: Float[np.ndarray, "N s"]
    values: Float[np.ndarray, " s"]
    right: Float[np.ndarray, "s m"]
    origin: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class Rank:
    """What the singular values say.

    Attributes:
        rank: Singular values above the noise.
        noise: Standard deviation of the noise in one number of an answer.
        drop: Ratio of the last singular value that counts to the first that does not.
        flat: Whether those that do not are as white noise would make them.
        spare: Answers beyond those that the rank calls for.
        seen: Singular values of noise: fewer than `spare` where there are fewer outputs.
        freedom: The number of outputs over which the noise is spread, in effect.
    """

    rank: int
    noise: float
    drop: float
    flat: bool
    spare: int
    seen: int
    freedom: float

    def resolved(self, rounding: float) -> bool:
        """Whether the rank is settled, and what remains is rounding, of deviation `rounding` in each number."""
        if not self.flat or self.noise > EXPLAINED * rounding or self.spare < SPARE:
            return False
        # Few values of noise are flat by chance: then a deep drop must tell.
        return self.drop >= (DROP if self.seen >= SPARE else DEEP)


class Answers:
    """Answers as they come in, kept as coordinates in an orthonormal basis of what they span.

    Attributes:
        count: Answers so far.
        fresh: Length of the last batch's answers outside the span of all before, and their whole length.
    """

    def __init__(self, outputs: int) -> None:
        self._basis = np.empty((16, outputs))
        self._coordinates: list[np.ndarray] = []
        self._first: np.ndarray | None = None
        self._span = 0
        self.count = 0
        self.fresh = (np.empty(0), np.empty(0))

    def add(self, y: Float[np.ndarray, "B m"]) -> None:
        """Take in a batch."""
        if self._first is None:
            self._first = y[0].copy()
        rest = y - self._first
        whole = np.linalg.norm(rest, axis=1)
        known = self._basis[: self._span]
        inside = np.zeros((len(y), self._span))
        for _ in range(2):  # the second pass removes what rounding left of the first
            part = rest @ known.T
            inside += part
            rest = rest - part @ known
        self.fresh = (np.linalg.norm(rest, axis=1), whole)
        _, sizes, right = np.linalg.svd(rest, full_matrices=False)
        new = sizes > 0.1 * np.finfo(np.float64).eps * whole.max()
        if new.any():
            directions = right[new]
            for _ in range(2):
                directions = directions - (directions @ known.T) @ known
                directions = np.linalg.qr(directions.T)[0].T
            self._append(directions)
            inside = np.concatenate([inside, rest @ directions.T], axis=1)
        self._coordinates.extend(inside)
        self.count += len(y)

    def in_vain(self, basis: Float[np.ndarray, "r m"], noise: float) -> int:
        """Answers that brought nothing new to a span before the last one that did.

        Where every input shows every direction there are none; where there are some, single inputs show directions
        that others do not, and some may not have been met.

        Args:
            basis: The span.
            noise: Length up to which what is new counts as nothing.
        """
        inside = self._table() @ (self._basis[: self._span] @ basis.T)
        new = np.abs(np.diag(np.linalg.qr((inside - inside[0])[1:].T, mode="r"))) > noise
        last = int(np.flatnonzero(new).max(initial=-1))
        return int((~new[: last + 1]).sum())

    def _table(self) -> np.ndarray:
        table = np.zeros((self.count, self._span))
        for row, known in zip(table, self._coordinates, strict=True):
            row[: len(known)] = known
        return table

    def _append(self, rows: np.ndarray) -> None:
        needed = self._span + len(rows)
        if needed > len(self._basis):
            grown = np.empty((max(needed, 3 * len(self._basis) // 2), self._basis.shape[1]))
            grown[: self._span] = self._basis[: self._span]
            self._basis = grown
        self._basis[self._span : needed] = rows
        self._span = needed

    def factor(self) -> Factor:
        """Singular values and vectors of all answers less their mean."""
        assert self._first is not None
        table = self._table()
        mean = table.mean(axis=0)
        left, values, right = np.linalg.svd(table - mean, full_matrices=False)
        kept = min(self.count - 1, self._span)
        basis = self._basis[: self._span]
        return Factor(left[:, :kept], values[:kept], right[:kept] @ basis, self._first + mean @ basis)


def rank_of(factor: Factor, rounding: float, largest: int) -> Rank:
    """The rank whose remainder looks like noise, after the largest drop.

    Noise in an (N - 1 - r) x m remainder has singular values below its Marchenko-Pastur edge, up to the fluctuations of
    the largest (Tracy-Widom). Where the noise of the outputs differs, the edge is that of the number of outputs over
    which it is spread in effect.

    Args:
        factor: Of the answers.
        rounding: Deviation that rounding gives each number: no smaller noise is believed.
        largest: The largest rank there can be.

    Source: Marchenko-Pastur law; Johnstone, Ann. Statist. 29 (2001), for the fluctuation of the largest value.
    """
    count, outputs = len(factor.left), factor.right.shape[1]
    arithmetic = 4 * np.finfo(np.float64).eps * float(factor.values[:1].sum())
    least = max(0.05 * rounding * np.sqrt(outputs), arithmetic, np.finfo(np.float64).tiny)
    # Zeros stand for directions that were left out because nothing but rounding was in them.
    values = np.zeros(min(count - 1, largest))
    values[: len(factor.values)] = factor.values[: len(values)]
    floored = np.maximum(values, least)
    spare = len(values)
    if spare == 0:
        return Rank(0, 0.0, 1.0, False, 0, 0, 1.0)
    if values[0] <= 2 * rounding * (np.sqrt(count) + np.sqrt(outputs)):
        return Rank(0, float(np.sqrt(np.mean(values**2) / outputs)), 1.0, False, count - 1, spare, float(outputs))
    drops = floored[:-1] / floored[1:]
    order = np.argsort(-drops, kind="stable")[:8]
    best: Rank | None = None
    for rank in (int(place) + 1 for place in order):
        found = _tail(factor, values, rank, float(drops[rank - 1]), least)
        if found.flat:
            return found
        best = best or found
    return best or Rank(1, 0.0, 1.0, False, 0, 0, float(outputs))


def alone(factor: Factor, found: Rank) -> int:
    """Answers that show a direction no other answer shows: without them the rank is lower.

    Where there are some, further inputs are likely to show directions not met yet: the share of inputs that do is about
    that of these among all asked (Good and Turing). What the rank leaves of the unit vector of an answer that stands
    alone is noise. Where that is large, less must be left than chance leaves of one that does not.

    Args:
        factor: Of the answers.
        found: Their rank.

    Source: Good, Biometrika 40 (1953), for the share; the leverage of least squares for finding them.
    """
    from scipy.special import gammaincinv

    if not found.spare:
        return 0
    count = len(factor.left)
    left_over = 1 - 1 / count - np.sum(factor.left[:, : found.rank] ** 2, axis=1)
    noise = max(4 / found.drop**2, 1e-10)
    chance = 2 * float(gammaincinv(found.spare / 2, BY_CHANCE / count)) / count
    least = min(noise, chance)
    return int((left_over < least).sum())


def unseen(spare: int, single: int, count: int, confidence: float) -> float:
    """Bound on the share of inputs that show directions not met.

    Args:
        spare: Answers that brought nothing new.
        single: Answers that stand alone: the share of inputs like them is known from all that were asked.
        count: Answers.
        confidence: Of the bound.
    """
    from scipy.special import gammaincinv

    if spare <= 0:
        return 1.0
    like_single = float(gammaincinv(single + 1, confidence)) / count if single else 0.0
    return float(min(1.0, max(1 - (1 - confidence) ** (1 / spare), like_single)))


def _tail(factor: Factor, values: np.ndarray, rank: int, drop: float, least: float) -> Rank:
    tail = values[rank:]
    dof = len(factor.left) - 1 - rank
    energy = np.zeros(factor.right.shape[1])
    for value, row in zip(factor.values[rank:], factor.right[rank:], strict=True):
        energy += (value * row) ** 2
    columns = len(energy) - rank
    total = float(energy.sum())
    if total <= 0:
        return Rank(rank, 0.0, drop, True, dof, len(tail), float(max(columns, 1)))
    # From `dof` values an output's energy is known to within a factor 1 + 2 / dof in the mean square.
    spread = total**2 / float((energy**2).sum()) * (1 + 2 / dof)
    freedom = max(1.0, min(spread, float(columns)))
    edge = (np.sqrt(dof) + np.sqrt(freedom)) ** 2
    width = (np.sqrt(dof) + np.sqrt(freedom)) * (1 / np.sqrt(dof) + 1 / np.sqrt(freedom)) ** (1 / 3)
    unit = total / (dof * freedom)
    flat = bool(tail[0] ** 2 <= max(1.04 * unit * (edge + 4 * width), (4 * least) ** 2))
    return Rank(rank, float(np.sqrt(total / (dof * max(columns, 1)))), drop, flat, dof, len(tail), freedom)
