"""What the search for a row span stands on: known directions, frames to difference along, legal steps."""

from __future__ import annotations

import numpy as np
from scipy import fft, linalg

from unveil.blackbox.noise import Noise
from unveil.blackbox.oracle import Oracle

BLOCK_BYTES = (
    2**20
)  # of questions per batch: what a cache holds; fixed, so that the same seed gives the same bits on every machine

LEAST_ROWS = 64


class Asker:
    """The oracle with its outputs divided by their noise level, asked in batches of fixed size."""

    def __init__(self, oracle: Oracle, noise: Noise) -> None:
        self.oracle = oracle
        self.noise = noise
        self.block = max(LEAST_ROWS, BLOCK_BYTES // (8 * oracle.n))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        parts = [self.oracle(x[i : i + self.block]) for i in range(0, len(x), self.block)]
        return np.asarray(np.concatenate(parts) / self.noise.level)


class Known:
    """Directions known so far: a reduced echelon form `rows` with unit columns at `pivots`, and an orthonormal basis.

    The vectors `e_j - sum_p rows[p, j] e_p`, j not a pivot, span the complement and touch only the pivots and j: asking
    along them leaves out what is known, at n - k queries a point.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.pivots = np.empty(0, dtype=np.intp)
        self.rows = np.empty((0, n))
        self.basis = np.empty((0, n))
        self.mixing = np.empty((0, 0))  # what the noise of each gradient adds to the error of `rows`
        self.sizes: list[float] = []  # length of each new component when it was found

    @property
    def rank(self) -> int:
        return len(self.pivots)

    @classmethod
    def of(cls, basis: np.ndarray, error: float) -> Known:
        """The same from an orthonormal basis whose rows err by `error` in all; pivots by QR with column pivoting."""
        known = cls(basis.shape[1])
        if len(basis):
            known.basis = basis
            _, pivots = linalg.qr(basis, mode="r", pivoting=True)
            known.pivots = pivots[: len(basis)].astype(np.intp)
            known.rows = np.linalg.solve(basis[:, known.pivots], basis)
            known.mixing = np.eye(len(basis)) * error / np.sqrt(len(basis))
        return known

    def new_part(self, gradient: np.ndarray) -> np.ndarray:
        """What is left of a gradient after the known rows; zero at the pivots."""
        if not self.rank:
            return gradient
        return np.asarray(gradient - gradient[self.pivots] @ self.rows)

    def add(self, new: np.ndarray, noise: float) -> bool:
        """Add a direction, zero at the pivots, with `noise` in every entry; False if it is known but for rounding."""
        part = new - (new @ self.basis.T) @ self.basis
        size = float(np.linalg.norm(part))
        if not size > 1e-10 * float(np.linalg.norm(new)):
            return False
        pivot = int(np.abs(new).argmax())
        row, factors = new / new[pivot], self.rows[:, pivot].copy()
        mixing = np.zeros((self.rank + 1, self.rank + 1))
        mixing[:-1, :-1] = self.mixing
        mixing[:-1, -1] = -factors * noise / new[pivot]
        mixing[-1, -1] = noise / new[pivot]
        self.mixing = mixing
        self.rows = np.vstack([self.rows - np.outer(factors, row), row])
        self.pivots = np.append(self.pivots, pivot)
        self.sizes.append(size)
        part -= (part @ self.basis.T) @ self.basis
        self.basis = np.vstack([self.basis, part / np.linalg.norm(part)])
        return True

    def complement(self, vectors: np.ndarray) -> np.ndarray:
        """Unit vectors orthogonal to what is known."""
        for _ in range(2):
            vectors = vectors - (vectors @ self.basis.T) @ self.basis
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class SparseFrame:
    """A basis of the complement of `known` that touches the pivots and one more coordinate per vector."""

    def __init__(self, known: Known, plain: bool = False) -> None:
        # On a grid the corrections at the pivots cannot be made: all coordinates are asked, the known part taken off.
        self.pivots = np.empty(0, dtype=np.intp) if plain else known.pivots
        rest = np.ones(known.n, dtype=bool)
        rest[self.pivots] = False
        self.free = np.flatnonzero(rest)
        self.rows = known.rows[: len(self.pivots), self.free]
        self.scale = 1 / np.sqrt(1 + np.sum(self.rows**2, axis=0))
        self.n = known.n

    @property
    def count(self) -> int:
        return len(self.free)

    def points(self, x: np.ndarray, which: np.ndarray, length: float | np.ndarray) -> np.ndarray:
        """x plus `length` (one for all, or one each) times the unit vector of each direction in `which`."""
        y = np.empty((len(which), self.n))
        y[:] = x
        amount = length * self.scale[which]
        y[np.arange(len(which)), self.free[which]] += amount
        if len(self.pivots):
            y[:, self.pivots] -= (amount[:, None]) * self.rows[:, which].T
        return y

    def combination(self, x: np.ndarray, which: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        """x plus a combination of the (unscaled) directions in `which`."""
        y = x.copy()
        y[self.free[which]] += amounts
        if len(self.pivots):
            y[self.pivots] -= self.rows[:, which] @ amounts
        return y

    def taken(self, asked: np.ndarray, x: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The coefficient of each direction in the step really taken from x to the row of `asked` that is its own."""
        columns = self.free[which]
        return np.asarray(asked[np.arange(len(which)), columns] - x[columns])

    def amounts(self, step: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Coefficients of the directions in `which` in one combined step."""
        return np.asarray(step[self.free[which]])

    def spread(self, slopes: np.ndarray) -> np.ndarray:
        """Vectors (rows) whose products with the unscaled directions are `slopes`, up to what is known."""
        out = np.zeros((len(slopes), self.n))
        out[:, self.free] = slopes
        return out


class BasisFrame:
    """The rows of a basis themselves, for coordinates of a gradient in the known span."""

    def __init__(self, basis: np.ndarray) -> None:
        self.basis = basis
        self.scale = np.ones(len(basis))
        self.n = basis.shape[1]

    @property
    def count(self) -> int:
        return len(self.basis)

    def points(self, x: np.ndarray, which: np.ndarray, length: float | np.ndarray) -> np.ndarray:
        return np.asarray(x + np.reshape(length, (-1, 1)) * self.basis[which])

    def combination(self, x: np.ndarray, which: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        return np.asarray(x + amounts @ self.basis[which])

    def taken(self, asked: np.ndarray, x: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("ij,ij->i", asked - x, self.basis[which]))

    def amounts(self, step: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.asarray(self.basis[which] @ step)


class DenseFrame:
    """A tight frame of the complement whose vectors spread over all coordinates: the longest steps that fit in a box.

    Rows of an orthonormal cosine transform with random column signs, projected on the complement. It has n vectors for
    n - k dimensions, the price of needing no dense orthogonal basis.
    """

    def __init__(self, known: Known, rng: np.random.Generator) -> None:
        self.signs = rng.choice([-1.0, 1.0], size=known.n)
        self.basis = known.basis
        self.n = known.n

    @property
    def count(self) -> int:
        return self.n

    def vectors(self, which: np.ndarray) -> np.ndarray:
        unit = np.zeros((len(which), self.n))
        unit[np.arange(len(which)), which] = 1.0
        rows = fft.idct(unit, norm="ortho", axis=1) * self.signs
        return np.asarray(rows - (rows @ self.basis.T) @ self.basis)

    def spread(self, slopes: np.ndarray) -> np.ndarray:
        rows = fft.idct(slopes, norm="ortho", axis=1) * self.signs
        return np.asarray(rows - (rows @ self.basis.T) @ self.basis)


def slopes(
    ask: Asker, frame: SparseFrame | BasisFrame, x: np.ndarray, fx: np.ndarray, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """Derivatives at x along a frame by forward differences, kinks found by one combined step and asked again.

    One more query tests all differences at once: the answer to a random combination of the steps must be the same
    combination of the answers. Where it is not, groups of directions are tested, and only bad groups are asked again,
    with steps eight times shorter.

    Returns:
        Slopes (count, m) along the unscaled directions, and whether the last test passed.

    Queries: `frame.count + 1`, and about `4 * sqrt(count)` more at a kink.
    """
    everything = np.arange(frame.count)
    slope = np.empty((frame.count, len(fx)))
    taken = np.empty(frame.count)
    signs = rng.choice([-1.0, 1.0], size=frame.count)

    def difference(which: np.ndarray, length: float) -> None:
        for start in range(0, len(which), ask.block):
            part = which[start : start + ask.block]
            # With one sign for all, the rounding of f(x) itself would be an error common to all directions.
            points = ask.oracle.nearest(frame.points(x, part, length * signs[part]))
            step = frame.taken(points, x, part)
            slope[part] = (ask(points) - fx) / step[:, None]
            taken[part] = step

    def bends(groups: list[np.ndarray]) -> np.ndarray:
        points = np.empty((len(groups), frame.n))
        for i, group in enumerate(groups):
            amounts = rng.choice([-1.0, 1.0], size=len(group)) * frame.scale[group] * 4 * length / np.sqrt(len(group))
            points[i] = frame.combination(x, group, amounts)
        points = ask.oracle.nearest(points)
        seen = ask(points) - fx
        bad = np.empty(len(groups), dtype=bool)
        for i, group in enumerate(groups):
            amounts = frame.amounts(points[i] - x, group)
            error = np.sqrt(2 * (1 + np.sum((amounts / taken[group]) ** 2)))
            bad[i] = bool((np.abs(seen[i] - amounts @ slope[group]) > 7 * error).any())
        return bad

    difference(everything, length)
    if ask.noise.kind == "smooth" or not bends([everything])[0]:
        return slope, True
    groups = np.array_split(rng.permutation(everything), max(1, int(np.sqrt(frame.count))))
    bad = bends(groups)
    for _ in range(3):
        if not bad.any():
            return slope, True
        length /= 8
        groups = [group for group, is_bad in zip(groups, bad, strict=True) if is_bad]
        for group in groups:
            difference(group, length)
        bad = bends(groups)
    return slope, not bad.any()


def base_points(
    oracle: Oracle, count: int, rng: np.random.Generator, given: np.ndarray | None = None, margin: float = 0.0
) -> np.ndarray:
    x = oracle.sample(count, rng) if given is None else given[rng.integers(len(given), size=count)]
    if oracle.within is not None:
        x = np.clip(x, oracle.within[0] + margin, oracle.within[1] - margin)
    return oracle.nearest(x)


def legal_step(oracle: Oracle, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Signed length of the longest legal step from x along each direction, on the roomier side; 1 without a box."""
    if oracle.within is None:
        return np.ones(len(direction))
    low, high = oracle.within
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(direction > 0, (high - x) / direction, np.where(direction < 0, (low - x) / direction, np.inf))
        down = np.where(direction > 0, (x - low) / direction, np.where(direction < 0, (x - high) / direction, np.inf))
    ahead, behind = up.min(axis=1), down.min(axis=1)
    # A hair less than all the room, so that rounding cannot leave the box.
    return np.asarray(np.where(ahead >= behind, ahead, -behind) * (1 - 1e-6))
