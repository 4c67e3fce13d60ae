"""One factorisation of a layer, from which the kinds of all its preimages are decided."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy import linalg

_EPS = float(np.finfo(np.float64).eps)
MOST_PRODUCTS = 4096
"""Rows of which all products with each other are kept."""


@dataclass(frozen=True)
class Factored:
    """A layer's weights, scaled by powers of two and factored once: `scaled = diag(row) weights diag(column) = q r`.

    Scaling rows and columns by positive numbers changes no preimage's kind, and powers of two change no digit of
    the weights. In the coordinates of `q` (orthonormal columns) every later question is perfectly conditioned.

    Attributes:
        weights: (m, n), as given.
        row: (m,) powers of two that bring the rows near unit length; 1 for a zero row.
        column: (n,) powers of two, the same for the columns.
        scaled: (m, n).
        q: (m, n), orthonormal columns, if the rank is n; otherwise empty.
        r: (n, n), upper triangular, columns in the order `pivot`.
        pivot: (n,).
        rank: Of `scaled`: diagonal entries of `r` above `max(m, n) * 2^-52 * |r_11|`.
        left: (m, m - n), an orthonormal basis of the left null space, where that is the smaller one to work in.
        null: (n,), a unit vector with `weights @ null = 0` if the rank is below n.
    """

    weights: Float[np.ndarray, "m n"]
    row: Float[np.ndarray, " m"]
    column: Float[np.ndarray, " n"]
    scaled: Float[np.ndarray, "m n"]
    q: Float[np.ndarray, "m k"]
    r: Float[np.ndarray, "l n"]
    pivot: np.ndarray
    rank: int
    left: Float[np.ndarray, "m g"] | None
    null: Float[np.ndarray, " n"] | None

    @cached_property
    def left_products(self) -> Float[np.ndarray, "m m"] | None:
        """Of the rows of `left` with each other, where these are few enough."""
        return None if self.left is None or len(self.left) > MOST_PRODUCTS else self.left @ self.left.T

    @cached_property
    def left_single(self) -> Float[np.ndarray, "m g"] | None:
        """`left` in single precision."""
        return None if self.left is None else self.left.astype(np.float32)

    @cached_property
    def left_products_single(self) -> Float[np.ndarray, "m m"] | None:
        """`left_products` in single precision."""
        return None if self.left_products is None else self.left_products.astype(np.float32)

    def solve(self, v: Float[np.ndarray, "N m"]) -> Float[np.ndarray, "N n"]:
        """For each row v in the range of `scaled`, the u (in the layer's own units) with `weights @ u = v / row`."""
        u = np.empty((len(v), len(self.column)))
        u[:, self.pivot] = linalg.solve_triangular(self.r, (v @ self.q).T).T
        return np.asarray(u * self.column)


def _power_of_two(norms: np.ndarray) -> np.ndarray:
    _, exponent = np.frexp(norms)
    return np.where(norms > 0, np.ldexp(1.0, -exponent), 1.0)


def factored(weights: Float[np.ndarray, "m n"]) -> Factored:
    """Factor a layer's weights. The last few are remembered, so that one factorisation serves many inputs."""
    key = hashlib.blake2b(np.ascontiguousarray(weights).data, digest_size=16).digest() + str(weights.shape).encode()
    with _lock:
        if key in _remembered:
            _remembered.move_to_end(key)
            return _remembered[key]
        found = factor(weights)
        _remembered[key] = found
        while len(_remembered) > 4:
            _remembered.popitem(last=False)
        return found


_remembered: OrderedDict[bytes, Factored] = OrderedDict()
_lock = threading.Lock()


def factor(weights: Float[np.ndarray, "m n"]) -> Factored:
    """Factor a layer's weights, remembering nothing."""
    m, n = weights.shape
    row = _power_of_two(np.abs(weights).max(axis=1, initial=0.0))
    scaled = weights * row[:, None]
    # Two passes: the second by 2-norms, which the first keeps from overflowing.
    row = row * _power_of_two(np.linalg.norm(scaled, axis=1))
    column = _power_of_two(np.linalg.norm(weights * row[:, None], axis=0))
    scaled = weights * row[:, None] * column
    # Pivoting costs several times an unpivoted QR and is needed only when the rank is in doubt.
    narrow = m >= n and 2 * n > m > n
    pivot = np.arange(n)
    q, r = linalg.qr(scaled, mode="full" if narrow else "economic", check_finite=False)
    diagonal = np.abs(np.diagonal(r))
    tolerance = 8 * max(m, n) * _EPS
    if m < n or diagonal.min(initial=np.inf) < 1e-6 * diagonal.max(initial=0.0):
        q, r, pivot = linalg.qr(scaled, mode="full" if narrow else "economic", pivoting=True, check_finite=False)
        diagonal = np.abs(np.diagonal(r))
    rank = int((diagonal > tolerance * diagonal.max(initial=0.0)).sum())
    if rank < n:
        null = np.zeros(n)
        null[pivot[rank]] = 1.0
        if rank:
            null[pivot[:rank]] = -linalg.solve_triangular(r[:rank, :rank], r[:rank, rank])
        null = null * column
        null /= np.linalg.norm(null)
        return Factored(weights, row, column, scaled, q[:, :0], r, pivot, rank, None, null)
    q[~scaled.any(axis=1), :n] = 0.0  # and not rounding, which would look like a direction
    left = np.ascontiguousarray(q[:, n:]) if narrow else None
    return Factored(weights, row, column, scaled, np.ascontiguousarray(q[:, :n]), r[:n], pivot, n, left, None)


def null_space(rows: Float[np.ndarray, "p n"]) -> Float[np.ndarray, "n d"]:
    """An orthonormal basis of the null space, by a rank-revealing (column-pivoted) QR of the transpose.

    Rows should be of comparable length; the rank counts diagonal entries above `8 max(p, n) 2^-52` of the first.
    """
    p, n = rows.shape
    if p == 0:
        return np.eye(n)
    q, r, _ = linalg.qr(rows.T, pivoting=True, check_finite=False)
    diagonal = np.abs(np.diagonal(r))
    rank = int((diagonal > 8 * max(p, n) * _EPS * diagonal[0]).sum()) if diagonal[0] > 0 else 0
    return np.ascontiguousarray(q[:, rank:])
