"""Known: the directions known so far, and elimination, which adds what many gradients of one place show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

BLOCK = 64  # rows among which the next is chosen; what they eliminate from the others is done for all of them at once
LITTLE = 0.1  # share of a row, below which its direction is found a second time
KNOWN = 1e-10  # share of a row outside what is known, below which it is known but for rounding


@dataclass(frozen=True)
class Known:
    """Directions known so far: a reduced echelon form `rows` with unit columns at `pivots`, and an orthonormal basis.

    The vectors `e_j - sum_p rows[p, j] e_p`, j not a pivot, span the complement and touch only the pivots and j: asking
    along them leaves out what is known, at n - k queries a point.

    Attributes:
        basis: (r, n), orthonormal.
        mixing: (r, r), what the noise of each gradient adds to the error of `rows`.
        sizes: Length of each new component when it was found.
        grown: `pivots`, (r,), and `rows`, (r, n), where gradients gave them and not a basis.
    """

    basis: Float[np.ndarray, "r n"]
    mixing: Float[np.ndarray, "r r"]
    sizes: tuple[float, ...] = ()
    grown: tuple[Int[np.ndarray, " r"], Float[np.ndarray, "r n"]] | None = None

    @cached_property
    def _echelon(self) -> tuple[Int[np.ndarray, " r"], Float[np.ndarray, "r n"]]:
        if self.grown is not None:
            return self.grown
        if not self.rank:
            return np.empty(0, dtype=np.intp), self.basis
        pivots = linalg.qr(self.basis, mode="r", pivoting=True)[1][: self.rank].astype(np.intp)
        return pivots, np.linalg.solve(self.basis[:, pivots], self.basis)

    @property
    def pivots(self) -> Int[np.ndarray, " r"]:
        return self._echelon[0]

    @property
    def rows(self) -> Float[np.ndarray, "r n"]:
        return self._echelon[1]

    @property
    def rank(self) -> int:
        return len(self.basis)

    @property
    def n(self) -> int:
        return int(self.basis.shape[1])

    @classmethod
    def nothing(cls, n: int) -> Known:
        return cls(np.empty((0, n)), np.empty((0, 0)))

    @classmethod
    def of(cls, basis: Float[np.ndarray, "r n"], error: float, sizes: tuple[float, ...] = ()) -> Known:
        """The same from an orthonormal basis whose rows err by `error` in all; pivots by QR with column pivoting."""
        return cls(basis, np.eye(len(basis)) * error / np.sqrt(max(len(basis), 1)), sizes)

    def with_gradients(self, gradients: Float[np.ndarray, "m n"], noise: float, certain: float) -> Known:
        """With all directions that gradients of one place add, the largest first; the same where they add none.

        Args:
            gradients: Any vectors, `noise` in every entry.
            noise: Standard deviation.
            certain: Norm that what is left of a gradient after the known rows must exceed.
        """
        explained = gradients[:, self.pivots]
        rest = gradients - explained @ self.rows if explained.any() else gradients  # zero at the pivots
        new = eliminate(rest, self.basis, certain)
        if not len(new.pivots):
            return self
        # Each row reduced by those found after it, and the known rows by all of them.
        triangle = new.triangle
        turn = linalg.solve_triangular(triangle, np.eye(len(triangle)), unit_diagonal=True, check_finite=False)
        factors = self.rows[:, new.pivots] @ turn
        rank = self.rank + len(new.pivots)
        mixing = np.zeros((rank, rank))
        mixing[: self.rank, : self.rank] = self.mixing
        mixing[:, self.rank :] = np.vstack([-factors, turn]) * (noise / new.entries)
        sizes, pivots = (*self.sizes, *new.sizes.tolist()), np.append(self.pivots, new.pivots)
        if rank == self.n:  # every direction: nothing is left to be reduced
            return Known(np.eye(rank), mixing, sizes, (pivots, np.eye(rank)[pivots]))
        reduced = linalg.solve_triangular(triangle, new.rows, unit_diagonal=True, check_finite=False)
        # Elimination among the new directions may have turned them back a little, towards the known and each other.
        basis = new.basis - (new.basis @ self.basis.T) @ self.basis
        basis = linalg.solve_triangular(np.linalg.cholesky(basis @ basis.T), basis, lower=True, check_finite=False)
        rows = np.empty((rank, self.n))
        np.subtract(self.rows, factors @ new.rows, out=rows[: self.rank])
        rows[self.rank :] = reduced
        return Known(np.vstack([self.basis, basis]), mixing, sizes, (pivots, rows))

    def complement(self, vectors: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        """Unit vectors orthogonal to what is known."""
        vectors = _outside(vectors, self.basis)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300))


@dataclass(frozen=True)
class Eliminated:
    """Rows found one after the other, each without what those before explain.

    Attributes:
        rows: (k, n), 1 at the own pivot and 0 at the pivots of those before.
        pivots: (k,).
        entries: (k,), what each row was divided by.
        basis: (k, n), orthonormal but for rounding, and orthogonal to what was known.
        sizes: (k,), length of each new component when it was found.
    """

    rows: Float[np.ndarray, "k n"]
    pivots: Int[np.ndarray, " k"]
    entries: Float[np.ndarray, " k"]
    basis: Float[np.ndarray, "k n"]
    sizes: Float[np.ndarray, " k"]

    @property
    def triangle(self) -> Float[np.ndarray, "k k"]:
        """The rows at the pivots: unit upper triangular."""
        return np.triu(self.rows[:, self.pivots])


def eliminate(rest: Float[np.ndarray, "m n"], known: Float[np.ndarray, "r n"], certain: float) -> Eliminated:
    """Choose rows by their length and eliminate them from the others, until no row is longer than `certain`.

    Args:
        rest: Rows, zero at the pivots of what is known.
        known: Orthonormal rows.
        certain: Length that a row must exceed.
    """
    rest = rest[np.linalg.norm(rest, axis=1) > certain]
    m, n = rest.shape
    most = min(m, n - len(known))
    rows, basis = np.empty((most, n)), np.empty((most, n))
    pivots, entries, sizes = np.empty(most, dtype=np.intp), np.empty(most), np.empty(most)
    count, going = 0, True
    while going and len(rest) and count < most:
        norms = np.sqrt(np.einsum("ij,ij->i", rest, rest))
        first = count
        chosen = np.sort(np.argsort(-norms, kind="stable")[:BLOCK])
        block = rest[chosen]
        # What is new in a row does not change when rows found meanwhile are taken off it.
        new = _outside(_outside(block, known), basis[:count])
        open_ = np.ones(len(block), dtype=bool)
        while count < most and open_.any():
            norms = np.where(open_, np.linalg.norm(block, axis=1), -1.0)
            best = int(norms.argmax())
            if not norms[best] > certain:
                going = count > first  # none of the longest rows is long enough: neither is any other
                break
            one = _outside(new[best : best + 1], basis[first:count])[0]
            size = float(np.linalg.norm(one))
            if not size > KNOWN * norms[best]:
                going = False
                break
            pivot = int(np.abs(block[best]).argmax())
            pivots[count], entries[count], sizes[count] = pivot, block[best, pivot], size
            rows[count], basis[count] = block[best] / entries[count], one / size
            block -= np.outer(block[:, pivot], rows[count])
            block[best], open_[best] = 0.0, False
            count += 1
        others = _closed_up(rest, chosen)
        if len(others) and count > first:
            found, pivot_of = rows[first:count], pivots[first:count]
            factors = np.linalg.solve(np.triu(found[:, pivot_of]).T, others[:, pivot_of].T)
            # (in place, as the product alone is as large as all that is left)
            linalg.blas.dgemm(-1.0, found.T, factors, 1.0, others.T, overwrite_c=True)
        rest = rest[: len(others) + int(open_.sum())]
        rest[len(others) :] = block[open_]
    return Eliminated(rows[:count], pivots[:count], entries[:count], basis[:count], sizes[:count])


def _closed_up(rest: Float[np.ndarray, "N n"], chosen: Int[np.ndarray, " c"]) -> np.ndarray:
    """The rows that are not among the chosen, moved to the front; in place."""
    kept = len(rest) - len(chosen)
    others = np.ones(len(rest), dtype=bool)
    others[chosen] = False
    rest[chosen[chosen < kept]] = rest[kept + np.flatnonzero(others[kept:])]
    return rest[:kept]


def _outside(rows: Float[np.ndarray, "N n"], basis: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "N n"]:
    """The rows without their parts in a basis; where little is left of them, what rounding left is taken off too."""
    if not len(basis):
        return rows
    out = rows - (rows @ basis.T) @ basis
    little = np.linalg.norm(out, axis=1) < LITTLE * np.linalg.norm(rows, axis=1)
    if little.any():
        out[little] -= (out[little] @ basis.T) @ basis
    return np.asarray(out)
