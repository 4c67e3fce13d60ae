"""What the removal of rows does to the smallest singular value: Lemma 9 and its evaluation on a grid (A5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.linalg import qr, svdvals

PRODUCTS_AT_ONCE = 20_000_000
"""Products at once."""
SPARSE_MATRIX_SHARE = 0.05
"""Share of numbers other than 0 below which a product of sparse matrices is faster."""


@dataclass(frozen=True, eq=False)
class Removal:
    """Rows removed from a matrix, and how much they correlate with those that stay.

    With M kept rows, a removed row a_k in the span of the kept ones whose products |<a_j, a_k>| with all of them are
    at most c ||a_k|| / sqrt(M) shows that the smallest non-zero singular value of what stays is at most c.

    Attributes:
        removed: Which rows were removed.
        constants: The least c for each of them.
        spanned: Whether each lies in the span of the kept rows, without which the lemma says nothing.
        grid: Values of c.
        counts: At each, the largest number of kept rows, over all removed ones, that meet the condition (Figure 8).
        kept: Number of kept rows, M.
    """

    removed: Int[np.ndarray, " i"]
    constants: Float[np.ndarray, " i"]
    spanned: Bool[np.ndarray, " i"]
    grid: Float[np.ndarray, " g"]
    counts: Int[np.ndarray, " g"]
    kept: int

    @property
    def bound(self) -> float:
        """The bound of Lemma 9; NaN if no removed row lies in the span of the kept ones."""
        usable = self.constants[self.spanned]
        return float(usable.min()) if usable.size else float("nan")


def removal(
    matrix: Float[np.ndarray, "m n"],
    kept: Bool[np.ndarray, " m"],
    grid: Float[np.ndarray, " g"] | None = None,
    rank: int | None = None,
) -> Removal:
    """Evaluate Lemma 9 for one linear piece.

    Args:
        matrix: The linearisation before the activation, one row per neuron.
        kept: Which neurons the activation keeps.
        grid: Values of c to count at, none negative; by default 50 up to twice the least constant, from which on all
            kept rows count.
        rank: Of the kept rows, where it is known.

    Returns:
        The least constant of every removed row, and the counts of A5.

    Source: Behrmann, Dittmer, Fernsel, Maass, arXiv:1806.09730, Lemma 9 (with the condition that a_k lies in the row
    space of what stays, without which it fails) and A5.
    """
    stays, out = matrix[kept], np.flatnonzero(~kept)
    lengths = np.linalg.norm(matrix[out], axis=1)
    out, lengths = out[lengths > 0], lengths[lengths > 0]
    units = matrix[out] / lengths[:, None]
    spanned = np.ones(len(out), dtype=bool) if rank == matrix.shape[1] else _spanned(stays, units)
    if np.count_nonzero(matrix) < SPARSE_MATRIX_SHARE * matrix.size:
        # As between the neurons of an early convolution, most products are of rows with no input in common.
        stays, units = sparse.csr_array(stays), sparse.csr_array(units)
    products = _Products(stays, units)
    constants = np.array([column.max(initial=0.0) for column in products])
    if grid is None:
        grid = np.linspace(0, 2 * constants.min() if constants.size else 0, 50)
    counts = np.zeros(len(grid), dtype=int)
    for column in products:
        met = np.searchsorted(np.sort(column), grid, side="right")
        np.maximum(counts, products.kept - len(column) + met, out=counts)
    return Removal(out, constants, spanned, grid, counts, products.kept)


@dataclass(frozen=True, eq=False)
class _Products:
    """|<a_j, a_k>| sqrt(M) / ||a_k|| with every kept row, for one removed row after the other; zeros may be missing."""

    stays: Any
    units: Any

    @property
    def kept(self) -> int:
        return int(self.stays.shape[0])

    def __iter__(self) -> Iterator[Float[np.ndarray, " j"]]:
        per, root = max(1, PRODUCTS_AT_ONCE // max(self.kept, 1)), np.sqrt(self.kept)
        for start in range(0, self.units.shape[0], per):
            found = abs(self.units[start : start + per] @ self.stays.T) * root
            yield from np.split(found.data, found.indptr[1:-1]) if sparse.issparse(found) else found


def _spanned(stays: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Which unit rows lie in the row space of `stays`, up to rounding."""
    if not len(stays) or not len(units):
        return np.zeros(len(units), dtype=bool)
    if len(stays) >= stays.shape[1]:
        values = svdvals(qr(stays, mode="r", check_finite=False)[0][: stays.shape[1]], check_finite=False)
        if values[-1] > max(stays.shape) * np.finfo(float).eps * values[0]:
            return np.ones(len(units), dtype=bool)
    _, values, basis = np.linalg.svd(stays, full_matrices=False)
    basis = basis[values > max(stays.shape) * np.finfo(float).eps * values[0]]
    rest = units - (units @ basis.T) @ basis
    return np.asarray(np.linalg.norm(rest, axis=1) <= 1e-8)
