"""All singular values of a piece: by Gram matrix where that is exact, on the remaining subspace where it is not."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, qr, svdvals

from unveil.whitebox.linear_piece import Piece

CUT = 2e-3
"""A Gram matrix gives a singular value s to about eps (largest / s)^2 / 2, relatively: 3e-11 at this share."""
COARSE_FLOOR = 1e-7
"""Eigenvalues of a Gram matrix are uncertain by some 10 eps of the largest, so singular values by the root of that."""
SMALL = 600
"""Up to so many columns a direct decomposition is as fast."""


def singular_values(piece: Piece, fine: bool = True) -> tuple[Float[np.ndarray, " k"], float]:
    """Singular values of the non-zero rows, descending, and the floor below which they cannot be told from zero.

    Eigenvalues of the Gram matrix give those above `CUT` times the largest. The others live in the span of the
    remaining eigenvectors: the piece times that span is a thin matrix whose largest singular value is smaller by `CUT`,
    and which is treated likewise.

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
    if not fine:
        values = np.sqrt(_eigen(piece.gram(), 0.0)[0])
        return values, COARSE_FLOOR * float(values[0])
    # With fewer rows than columns the Gram matrix is that of the rows: the roles are exchanged.
    values = _through_gram(piece.dense().T if rows < width else piece, piece.gram())
    return values, exact * float(values[0])


def _through_gram(matrix: Piece | np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Singular values of a tall matrix with this Gram matrix."""
    eigenvalues, vectors = _eigen(gram, CUT**2)
    large = np.sqrt(eigenvalues[: len(eigenvalues) - vectors.shape[1]])
    if not vectors.shape[1]:
        return np.asarray(large)
    thin = matrix.times(vectors) if isinstance(matrix, Piece) else matrix @ vectors
    # Rounding leaves about eps times the largest in `thin`: once that is all, there is nothing more to resolve.
    if thin.shape[1] <= SMALL or not len(large) or np.abs(thin).max() <= 8 * np.finfo(float).eps * large[0]:
        return np.concatenate([large, _direct(thin)])
    return np.concatenate([large, np.sort(_through_gram(thin, thin.T @ thin))[::-1]])


def _eigen(gram: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues, descending, and the eigenvectors of those below `share` of the largest."""
    n = len(gram)
    reduced, diagonal, off, tau, _ = lapack.dsytrd(gram, lower=1, lwork=64 * n, overwrite_a=1)
    eigenvalues, _ = lapack.dsterf(diagonal.copy(), off.copy())
    small = int(np.searchsorted(eigenvalues, share * eigenvalues[-1])) if share else 0
    descending = np.maximum(eigenvalues[::-1], 0.0)
    if not small:
        return descending, np.zeros((n, 0))
    padded = np.append(off, 0.0)
    lwork, liwork, _ = lapack.dstemr_lwork(diagonal, padded, 2, 0.0, 0.0, 1, small, compute_v=1)
    found, _, vectors, info = lapack.dstemr(
        diagonal, padded, 2, 0.0, 0.0, 1, small, compute_v=1, lwork=int(lwork), liwork=int(liwork)
    )
    if info or found < small:
        # The tridiagonal solver gave up, which happens for pathological clusters only: take the slower sure way.
        return descending, np.linalg.eigh(_restored(reduced, diagonal, off, tau))[1][:, :small]
    vectors = np.asfortranarray(vectors[:, :small])
    reflectors = np.asfortranarray(reduced[1:, : n - 1])
    vectors[1:], _, _ = lapack.dormqr("L", "N", reflectors, tau, np.asfortranarray(vectors[1:]), 64 * max(small, 1))
    return descending, vectors


def _restored(reduced: np.ndarray, diagonal: np.ndarray, off: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """The matrix that was reduced."""
    n = len(diagonal)
    tridiagonal = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    left = np.eye(n)
    left[1:, 1:], _, _ = lapack.dormqr(
        "L", "N", np.asfortranarray(reduced[1:, : n - 1]), tau, np.eye(n - 1, order="F"), 64 * n
    )
    return np.asarray(left @ tridiagonal @ left.T)


def _direct(matrix: np.ndarray) -> np.ndarray:
    """By QR and SVD: exact to eps times the matrix's own largest singular value."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if tall.shape[0] > 1.3 * tall.shape[1]:
        tall = qr(tall, mode="r", check_finite=False)[0][: tall.shape[1]]
    return np.asarray(svdvals(tall, check_finite=False))
