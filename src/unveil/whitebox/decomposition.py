"""Decompositions of large dense matrices: eigenvalues, eigenvectors of some of them, singular values.

Where torch is installed its LAPACK does what it does better: on Intel processors that is MKL, which takes half the time
of scipy's OpenBLAS for the eigenvalues of a 3072 x 3072 matrix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, qr, svdvals
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

LAPACK_COLUMNS = 1000
"""Below so many columns torch's LAPACK saves nothing."""
FEW_EIGENVECTORS = 8
"""Up to so many eigenvectors are found one by one."""
LAPACK_VARIABLE = "UNVEIL_LAPACK"
"""Environment variable: `scipy` leaves torch alone even where it is installed."""


def helped(size: int) -> bool:
    """Whether torch does the work for matrices of this size."""
    return size >= LAPACK_COLUMNS and os.environ.get(LAPACK_VARIABLE) != "scipy" and _installed()


def eigenvalues(symmetric: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Ascending, none below zero, by torch."""
    with _torch() as torch:
        return np.asarray(np.maximum(torch.linalg.eigvalsh(torch.from_numpy(symmetric)).numpy(), 0.0))


def values_of(matrix: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " k"]:
    """Singular values, descending: exact to eps times the largest."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if helped(tall.shape[1]):
        with _torch() as torch:
            return np.asarray(torch.linalg.svdvals(torch.from_numpy(tall)).numpy())
    if tall.shape[0] > 1.3 * tall.shape[1]:
        tall = qr(tall, mode="r", check_finite=False)[0][: tall.shape[1]]
    return np.asarray(svdvals(tall, check_finite=False))


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A symmetric matrix reduced to tridiagonal form, and its eigenvalues, ascending, none below zero."""

    reduced: Float[np.ndarray, "n n"]
    diagonal: Float[np.ndarray, " n"]
    off: Float[np.ndarray, " n-1"]
    tau: Float[np.ndarray, " n-1"]
    eigenvalues: Float[np.ndarray, " n"]

    def vectors(self, first: int, last: int) -> Float[np.ndarray, "n k"]:
        """Orthonormal eigenvectors of the eigenvalues `first` up to but without `last`."""
        wanted = last - first
        found, _, vectors, info = _stemr(self.diagonal, self.off, (first + 1, last), 1)
        if info or found < wanted:
            # The tridiagonal solver gave up, which happens for pathological clusters only: take the slower sure way.
            full = np.diag(self.diagonal) + np.diag(self.off, 1) + np.diag(self.off, -1)
            vectors = np.linalg.eigh(full)[1][:, first:last]
        # The j-th reflector begins in row j + 1. Read from its second entry on, the matrix has them on its diagonal.
        n = len(self.diagonal)
        reflectors = self.reduced.ravel(order="K")[1 : 1 + n * (n - 1)].reshape((n, n - 1), order="F")
        below = np.asfortranarray(vectors[1:, :wanted])
        below, _, _ = lapack.dormqr("L", "N", reflectors, self.tau, below, 64 * wanted, overwrite_c=1)
        return np.concatenate([vectors[:1, :wanted], below])


@dataclass(frozen=True, eq=False)
class Inverted:
    """A symmetric matrix with known eigenvalues; few of the lowest eigenvectors come from its inverse."""

    symmetric: Float[np.ndarray, "n n"]
    eigenvalues: Float[np.ndarray, " n"]

    @cached_property
    def form(self) -> Tridiagonal:
        """The tridiagonal form; the matrix itself is overwritten."""
        return tridiagonal(self.symmetric)

    def vectors(self, first: int, last: int) -> Float[np.ndarray, "n k"]:
        """Orthonormal eigenvectors of the eigenvalues `first` up to but without `last`."""
        if first == 0 and last <= FEW_EIGENVECTORS and "form" not in self.__dict__:
            factor, info = lapack.dpotrf(self.symmetric.T, lower=1, clean=0)
            if not info:
                n = len(self.symmetric)
                inverse = LinearOperator((n, n), matvec=lambda v: lapack.dpotrs(factor, v, lower=1)[0], dtype=float)
                # Any start will do, but the same each time. Errors of the eigenvalues are the vectors' errors squared.
                start = np.random.default_rng(0).standard_normal(n)
                try:
                    return np.asarray(eigsh(inverse, last, which="LM", ncv=3 * last, v0=start, tol=1e-8)[1])
                except ArpackNoConvergence:
                    pass
        return self.form.vectors(first, last)


def tridiagonal(symmetric: Float[np.ndarray, "n n"]) -> Tridiagonal:
    """Reduce a symmetric matrix, which is overwritten."""
    n = len(symmetric)
    # Its transpose, as it is symmetric: LAPACK wants columns, and would be given a copy.
    reduced, diagonal, off, tau, _ = lapack.dsytrd(symmetric.T, lower=1, lwork=64 * n, overwrite_a=1)
    # Not dsterf, which is as fast: where values crowd its errors reach a hundred times these.
    values, _, _, info = lapack.dpteqr(diagonal, off, np.zeros((1, 1)))
    if info:
        # By rounding not positive definite: this takes ten times as long, but also values below zero.
        found, values, _, info = _stemr(diagonal, off, (1, n), 0)
        if info or found < n:
            values = lapack.dsterf(diagonal.copy(), off.copy())[0]
    return Tridiagonal(reduced, diagonal, off, tau, np.maximum(np.sort(values), 0.0))


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


@cache
def _installed() -> bool:
    try:
        import torch  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def _torch() -> Iterator[Any]:
    """torch, keeping to one thread: its results would depend on their number, and samples run side by side."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield torch
    finally:
        torch.set_num_threads(threads)
