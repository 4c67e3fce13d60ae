"""All singular values of a piece: by Gram matrix where that is exact, on the remaining subspace where it is not."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

from unveil.whitebox.decomposition import (
    FEW_EIGENVECTORS,
    Inverted,
    Tridiagonal,
    eigenvalues,
    helped,
    tridiagonal,
    values_of,
)
from unveil.whitebox.linear_piece import Piece

CUT = 4e-4
"""Share of the largest singular value down to which a Gram matrix is believed, as long as `SINGULAR_VALUE_ERROR`
allows."""
SINGULAR_VALUE_ERROR = 3e-11
"""Largest relative error of a value from a Gram matrix; measured each time, by the values below the cut."""
SAFE_VALUE_SHARE, WITNESSES = 5e-3, FEW_EIGENVECTORS
"""Without a value below this share nothing needs to be measured; otherwise at least so many values are."""
LEVEL, STEEP = 1e-3, 2e-4
"""Smallest over largest value: above the first few eigenvectors are needed if any, below the second many."""
NEARLY_SQUARE = 1.5
"""Rows per column up to which a direct decomposition by torch then is faster."""
COARSE_FLOOR = 1e-7
"""Eigenvalues of a Gram matrix are uncertain by some 10 eps of the largest, so singular values by the root of that."""
DIRECT_COLUMNS = 300
"""Up to so many columns a direct decomposition is as fast."""
CACHED_ROWS = 512
"""So many rows at once, to keep what is only intermediate in the processor's cache."""


def singular_values(piece: Piece, fine: bool = True, alike: float = 0.5) -> tuple[Float[np.ndarray, " k"], float]:
    """Singular values of the non-zero rows, descending, and the floor below which they cannot be told from zero.

    Eigenvalues of the Gram matrix give those above a cut. The others live in the span of the remaining eigenvectors:
    the piece times that span is a thin matrix whose largest singular value is small, and which is treated likewise.
    Below the cut both are known, which tells how wrong the Gram matrix's are; the cut is raised if that is too much.

    Args:
        piece: The matrix.
        fine: Whether to do so. The Gram matrix alone errs by eps (largest / s)^2 / 2, relatively, also further down.
        alike: The smallest over the largest value of a matrix that is likely to be similar: it chooses the fastest way,
            never how exact the values are.

    Returns:
        min(rows, columns) values, and the floor: max(rows, columns) * eps times the largest, or, of the Gram matrix
        alone, `COARSE_FLOOR` times the largest.
    """
    rows, width = piece.rows, piece.width
    if not rows:
        return np.zeros(0), 0.0
    exact = float(max(rows, width) * np.finfo(float).eps)
    if min(rows, width) <= DIRECT_COLUMNS:
        values = values_of(piece.dense())
        return values, exact * float(values[0])
    if fine and direct(rows, width, alike):
        values = values_of(piece.dense())
        return values, exact * float(values[0])
    # With fewer rows than columns the Gram matrix is that of the rows: the roles are exchanged.
    matrix = piece.dense().T if rows < width else piece.merged()
    form = _form(_gram(matrix), fast=not fine or alike > LEVEL)
    if not fine:
        values = np.sqrt(form.eigenvalues[::-1])
        return values, COARSE_FLOOR * float(values[0])
    values = _refined(matrix, form)
    return values, exact * float(values[0])


def direct(rows: int, width: int, alike: float) -> bool:
    """Whether a matrix of this size, the spread of its values as `alike` says, is decomposed as it is, by torch."""
    small, large = min(rows, width), max(rows, width)
    return alike < STEEP and helped(small) and large <= NEARLY_SQUARE * small


def _gram(matrix: Piece | np.ndarray) -> np.ndarray:
    return matrix.gram() if isinstance(matrix, Piece) else np.asarray(matrix.T @ matrix)


def _form(gram: np.ndarray, fast: bool) -> Tridiagonal | Inverted:
    """Eigenvalues, and what gives eigenvectors: if `fast` the eigenvalues alone, by torch, and vectors on demand."""
    if not (fast and helped(len(gram))):
        return tridiagonal(gram)
    squares = eigenvalues(gram)
    # Where many large eigenvalues coincide, torch errs up to 200 times as much in the others.
    large = squares[squares > 1e-3 * squares[-1]]
    crowded = (np.diff(large) <= 16 * np.finfo(float).eps * squares[-1]).sum() > WITNESSES
    return tridiagonal(gram) if crowded else Inverted(gram, squares)


def _refined(matrix: Piece | np.ndarray, form: Tridiagonal | Inverted) -> np.ndarray:
    """Singular values, descending, of a tall matrix whose Gram matrix has this form."""
    squares, n = form.eigenvalues, len(form.eigenvalues)
    largest = squares[-1]
    cut = CUT
    while True:
        small = int(np.searchsorted(squares, cut**2 * largest))
        if not small and squares[0] >= SAFE_VALUE_SHARE**2 * largest:
            return np.asarray(np.sqrt(squares[::-1]))
        small = min(max(small, WITNESSES), n - 1)
        if 3 * small <= 2 * n:
            thin = _within(matrix, form.vectors(0, small))
        else:
            thin = _beside(matrix, form.vectors(small, n))
        # Rounding leaves about eps times the largest in `thin`: once that is all, there is nothing more to resolve.
        if small <= DIRECT_COLUMNS or np.abs(thin).max() <= 8 * np.finfo(float).eps * np.sqrt(largest):
            tail = values_of(thin)
        else:
            tail = _refined(thin, tridiagonal(_gram(thin)))
        wrong = float(np.abs(tail**2 - squares[small - 1 :: -1]).max() / largest)
        needed = np.sqrt(wrong / (2 * SINGULAR_VALUE_ERROR))
        if needed <= cut or small == n - 1:
            return np.sort(np.concatenate([np.sqrt(squares[small:]), tail]))[::-1]
        cut = 2 * needed


def _within(matrix: Piece | np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The matrix on the span of orthonormal vectors."""
    vectors = np.ascontiguousarray(vectors)
    return matrix.times(vectors) if isinstance(matrix, Piece) else np.asarray(matrix @ vectors)


def _beside(matrix: Piece | np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The matrix on the orthogonal complement of the span of orthonormal vectors."""
    r = vectors.shape[1]
    # Q = 1 - Y T Y^T turns the first r unit vectors into the span, and the others into its complement.
    reflectors, triangle, _ = lapack.dgeqrt(r, vectors, overwrite_a=1)
    reflectors = np.tril(reflectors, -1)
    np.fill_diagonal(reflectors, 1.0)
    along = _within(matrix, reflectors)
    thin = (matrix.dense() if isinstance(matrix, Piece) else matrix)[:, r:].copy()
    rest = np.triu(triangle) @ reflectors[r:].T
    for start in range(0, len(thin), CACHED_ROWS):
        thin[start : start + CACHED_ROWS] -= along[start : start + CACHED_ROWS] @ rest
    return thin
