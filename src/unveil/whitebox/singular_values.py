"""All singular values of a piece: by Gram matrix where that is exact, on the remaining subspace where it is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, qr, svdvals

from unveil.whitebox.linear_piece import Piece

CUT = 4e-4
"""Share of the largest singular value down to which a Gram matrix is believed, as long as `TOLERANCE` allows."""
TOLERANCE = 3e-11
"""Largest relative error of a value from a Gram matrix; measured each time, by the values below the cut."""
SURE, WITNESSES = 5e-3, 8
"""Without a value below this share nothing needs to be measured; otherwise at least so many values are."""
COARSE_FLOOR = 1e-7
"""Eigenvalues of a Gram matrix are uncertain by some 10 eps of the largest, so singular values by the root of that."""
SMALL = 300
"""Up to so many columns a direct decomposition is as fast."""
ROWS = 512
"""So many rows at once, to keep what is only intermediate in the processor's cache."""


def singular_values(piece: Piece, fine: bool = True) -> tuple[Float[np.ndarray, " k"], float]:
    """Singular values of the non-zero rows, descending, and the floor below which they cannot be told from zero.

    Eigenvalues of the Gram matrix give those above a cut. The others live in the span of the remaining eigenvectors:
    the piece times that span is a thin matrix whose largest singular value is small, and which is treated likewise.
    Below the cut both are known, which tells how wrong the Gram matrix's are; the cut is raised if that is too much.

    Args:
        piece: The matrix.
        fine: Whether to do so. The Gram matrix alone errs by eps (largest / s)^2 / 2, relatively, also further down.

    Returns:
        min(rows, columns) values, and the floor: max(rows, columns) * eps times the largest, or, of the Gram matrix
        alone, `COARSE_FLOOR` times the largest.
    """
    rows, width = piece.rows, piece.width
    if not rows:
        return np.zeros(0), 0.0
    exact = float(max(rows, width) * np.finfo(float).eps)
    if min(rows, width) <= SMALL:
        values = _direct(piece.dense())
        return values, exact * float(values[0])
    # With fewer rows than columns the Gram matrix is that of the rows: the roles are exchanged.
    matrix = piece.dense().T if rows < width else piece.merged()
    form = _tridiagonal(_gram(matrix))
    if not fine:
        values = np.sqrt(form.eigenvalues[::-1])
        return values, COARSE_FLOOR * float(values[0])
    values = _refined(matrix, form)
    return values, exact * float(values[0])


def _gram(matrix: Piece | np.ndarray) -> np.ndarray:
    return matrix.gram() if isinstance(matrix, Piece) else np.asarray(matrix.T @ matrix)


def _refined(matrix: Piece | np.ndarray, form: _Tridiagonal) -> np.ndarray:
    """Singular values, descending, of a tall matrix whose Gram matrix has this form."""
    squares, n = form.eigenvalues, len(form.eigenvalues)
    largest = squares[-1]
    cut = CUT
    while True:
        small = int(np.searchsorted(squares, cut**2 * largest))
        if not small and squares[0] >= SURE**2 * largest:
            return np.asarray(np.sqrt(squares[::-1]))
        small = min(max(small, WITNESSES), n - 1)
        if 3 * small <= 2 * n:
            thin = _within(matrix, form.vectors(0, small))
        else:
            thin = _beside(matrix, form.vectors(small, n))
        # Rounding leaves about eps times the largest in `thin`: once that is all, there is nothing more to resolve.
        if small <= SMALL or np.abs(thin).max() <= 8 * np.finfo(float).eps * np.sqrt(largest):
            tail = _direct(thin)
        else:
            tail = _refined(thin, _tridiagonal(_gram(thin)))
        wrong = float(np.abs(tail**2 - squares[small - 1 :: -1]).max() / largest)
        needed = np.sqrt(wrong / (2 * TOLERANCE))
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
    for start in range(0, len(thin), ROWS):
        thin[start : start + ROWS] -= along[start : start + ROWS] @ rest
    return thin


@dataclass(frozen=True, eq=False)
class _Tridiagonal:
    """A symmetric matrix reduced to tridiagonal form, and its eigenvalues, ascending, none below zero."""

    reduced: np.ndarray
    diagonal: np.ndarray
    off: np.ndarray
    tau: np.ndarray
    eigenvalues: np.ndarray

    def vectors(self, first: int, last: int) -> np.ndarray:
        """Orthonormal eigenvectors of the eigenvalues `first` up to but without `last`."""
        wanted = last - first
        found, _, vectors, info = _stemr(self.diagonal, self.off, (first + 1, last), 1)
        if info or found < wanted:
            # The tridiagonal solver gave up, which happens for pathological clusters only: take the slower sure way.
            full = np.diag(self.diagonal) + np.diag(self.off, 1) + np.diag(self.off, -1)
            vectors = np.linalg.eigh(full)[1][:, first:last]
        reflectors = np.asfortranarray(self.reduced[1:, :-1])
        below = np.asfortranarray(vectors[1:, :wanted])
        below, _, _ = lapack.dormqr("L", "N", reflectors, self.tau, below, 64 * wanted, overwrite_c=1)
        return np.concatenate([vectors[:1, :wanted], below])


def _tridiagonal(gram: np.ndarray) -> _Tridiagonal:
    """Reduce a symmetric matrix, which is overwritten."""
    # Its transpose, as it is symmetric: LAPACK wants columns, and would be given a copy.
    reduced, diagonal, off, tau, _ = lapack.dsytrd(gram.T, lower=1, lwork=64 * len(gram), overwrite_a=1)
    # Not dsterf, which is about as fast: where values crowd its errors reach a hundred times these.
    found, eigenvalues, _, info = _stemr(diagonal, off, (1, len(gram)), 0)
    if info or found < len(gram):
        eigenvalues = lapack.dsterf(diagonal.copy(), off.copy())[0]
    return _Tridiagonal(reduced, diagonal, off, tau, np.maximum(np.sort(eigenvalues), 0.0))


def _stemr(
    diagonal: np.ndarray, off: np.ndarray, part: tuple[int, int], vectors: int
) -> tuple[int, np.ndarray, np.ndarray, int]:
    """Eigenvalues number `part` of a tridiagonal matrix, and vectors: how many were found, these, and LAPACK's info."""
    padded = np.append(off, 0.0)
    lwork, liwork, _ = lapack.dstemr_lwork(diagonal, padded, 2, 0.0, 0.0, *part, compute_v=vectors)
    found, values, vs, info = lapack.dstemr(
        diagonal, padded, 2, 0.0, 0.0, *part, compute_v=vectors, lwork=int(lwork), liwork=int(liwork)
    )
    return int(found), values[: part[1] - part[0] + 1], vs, int(info)


def _direct(matrix: np.ndarray) -> np.ndarray:
    """By QR and SVD: exact to eps times the matrix's own largest singular value."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if tall.shape[0] > 1.3 * tall.shape[1]:
        tall = qr(tall, mode="r", check_finite=False)[0][: tall.shape[1]]
    return np.asarray(svdvals(tall, check_finite=False))
