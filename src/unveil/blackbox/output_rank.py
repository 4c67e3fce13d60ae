"""The rank of noisy answers: the largest drop of their singular values behind which everything looks like noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

EXPLAINED = 64.0
"""Noise up to so many times the rounding of the answers is put down to it: sums inside a network round many times..."""

DECIMALS = 2.0
"""...and up to so many times where answers are cut to decimals: once, or twice where they are differences of such."""

SPARE = 5
"""Answers beyond those that the rank calls for, before it is believed."""

DROP = 4.0
"""The least ratio of the last singular value that counts to the first of noise: weak ones hide behind less..."""

LEAST_DROP = 2.0
"""The least drop of a lower bound: noise that is not the same in all directions stands out by less."""

DEEP = 16.0
"""...and where outputs are so few that hardly any value of noise is left to look at."""

FALLING = 3
"""Steps before the drop, at most, from which their fall is told: a drop like those is no end."""

STANDING_ALONE_CHANCE = 0.02
"""Chance that an answer counts as standing alone though all inputs show all directions, which costs a few more."""

FREE = 3
"""Directions left from which an answer that shows none of them tells something: of fewer chance hides them in noise."""


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
        stands: Whether what remains would not be flat with one direction fewer: all that count are there.
        freedom: The number of outputs over which the noise is spread, in effect.
        fall: Usual ratio of one singular value to the next before the drop.
    """

    rank: int
    noise: float
    drop: float
    flat: bool
    spare: int
    seen: int
    stands: bool
    freedom: float
    fall: float = 1.0

    @property
    def ends(self) -> bool:
        """Whether the drop is the end of what there is: deeper than two further steps of the fall before it."""
        return self.drop >= self.fall**2

    def resolved(self, most: float) -> bool:
        """Whether the rank is settled, and what remains is noise of deviation `most` at most in each number."""
        if not self.flat or self.noise > most or self.spare < SPARE or not self.ends:
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
        directions = right[sizes > 0.1 * np.finfo(np.float64).eps * whole.max()]
        # Of rounding alone a direction may lie in the span: then nothing of it is left, and it is none.
        _, sizes, directions = np.linalg.svd(directions - (directions @ known.T) @ known, full_matrices=False)
        directions = directions[sizes > 0.5]
        if len(directions):
            directions = np.linalg.qr((directions - (directions @ known.T) @ known).T)[0].T
            self._append(directions)
            inside = np.concatenate([inside, rest @ directions.T], axis=1)
        self._coordinates.extend(inside)
        self.count += len(y)

    def in_vain(self, basis: Float[np.ndarray, "r m"], noise: float) -> int:
        """Answers that brought nothing new to a span before the last one that did.

        Where every input shows every direction there are none; where there are some, single inputs show directions
        that others do not, and some may not have been met. Answers count while at least `FREE` directions are left.

        Args:
            basis: The span.
            noise: Length up to which what is new counts as nothing.
        """
        inside = self._table() @ (self._basis[: self._span] @ basis.T)
        known = np.empty((len(basis), len(basis)))
        rank = idle = vain = 0
        for rest in (inside - inside[0])[1:]:
            for _ in range(2):  # the second pass removes what rounding left of the first
                rest = rest - known[:rank].T @ (known[:rank] @ rest)
            size = float(np.linalg.norm(rest))
            if size <= noise:
                idle += len(basis) - rank >= FREE
                continue
            known[rank] = rest / size
            rank, vain = rank + 1, idle
            if rank == len(basis):
                break
        return vain

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
        return Rank(0, 0.0, 1.0, False, 0, 0, False, 1.0)
    if values[0] <= 2 * rounding * (np.sqrt(count) + np.sqrt(outputs)):
        return Rank(
            0, float(np.sqrt(np.mean(values**2) / outputs)), 1.0, False, count - 1, spare, False, float(outputs)
        )
    drops = floored[:-1] / floored[1:]
    order = np.argsort(-drops, kind="stable")[:8]
    best: Rank | None = None
    for rank in (int(place) + 1 for place in order):
        found = _tail(factor, values, rank, float(drops[rank - 1]), least)
        if found.flat:
            before = drops[max(0, rank - 1 - FALLING) : rank - 1]
            fall = float(np.median(before)) if len(before) else 1.0
            return replace(found, stands=not _tail(factor, values, rank - 1, 1.0, least).flat, fall=fall)
        best = best or found
    return best or Rank(1, 0.0, 1.0, False, 0, 0, False, float(outputs))


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
    return int(_alone(np.diag(_left_over(factor, found)), found).sum()) if found.spare else 0


def in_pairs(factor: Factor, found: Rank) -> int:
    """Pairs of answers that alone show a direction: without both of them the rank is lower.

    Of directions that so rarely show one in `e^2` is not met by as many answers; of those that three answers show one
    in `e^3`, less than 5 %. What the rank leaves of the unit vectors of such a pair is one line: together they must
    make up for the same direction. Lines of others are as far apart as chance has it in as many dimensions as there
    are answers to spare.

    Args:
        factor: Of the answers.
        found: Their rank.
    """
    from scipy.special import betaincinv

    if found.spare < 2:
        return 0
    gram = _left_over(factor, found)
    gram = gram[np.ix_(keep := ~_alone(np.diag(gram), found), keep)]
    size, count = np.diag(gram), len(gram)
    apart = 1 - gram**2 / np.outer(size, size)
    pairs = max(1, count * (count - 1) // 2)
    chance = float(betaincinv((found.spare - 1) / 2, 0.5, STANDING_ALONE_CHANCE / pairs))
    least = min(_noise(found), chance)
    return int((apart[np.triu_indices(count, 1)] < least).sum())


def _left_over(factor: Factor, found: Rank) -> np.ndarray:
    """(N, N): inner products of what the mean and the rank leave of the answers' unit vectors."""
    count = len(factor.left)
    known = factor.left[:, : found.rank]
    return np.asarray(np.eye(count) - 1 / count - known @ known.T)


def _alone(left_over: np.ndarray, found: Rank) -> np.ndarray:
    from scipy.special import gammaincinv

    count = len(left_over)
    chance = 2 * float(gammaincinv(found.spare / 2, STANDING_ALONE_CHANCE / count)) / count
    return np.asarray(left_over < min(_noise(found), chance))


def _noise(found: Rank) -> float:
    """What noise leaves at most, squared, of a direction that the rank takes away."""
    return float(max(4 / found.drop**2, 1e-10))


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
        return Rank(rank, 0.0, drop, True, dof, len(tail), True, float(max(columns, 1)))
    # From `dof` values an output's energy is known to within a factor 1 + 2 / dof in the mean square.
    spread = total**2 / float((energy**2).sum()) * (1 + 2 / dof)
    freedom = max(1.0, min(spread, float(columns)))
    edge = (np.sqrt(dof) + np.sqrt(freedom)) ** 2
    width = (np.sqrt(dof) + np.sqrt(freedom)) * (1 / np.sqrt(dof) + 1 / np.sqrt(freedom)) ** (1 / 3)
    unit = total / (dof * freedom)
    flat = bool(tail[0] ** 2 <= max(1.04 * unit * (edge + 4 * width), (4 * least) ** 2))
    return Rank(rank, float(np.sqrt(total / (dof * max(columns, 1)))), drop, flat, dof, len(tail), False, freedom)
