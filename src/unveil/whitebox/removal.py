"""What the removal of rows does to the smallest singular value: Lemma 9 and its evaluation on a grid (A5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import qr, svdvals

CHUNK = 20_000_000


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
    matrix: Float[np.ndarray, "m n"], kept: Bool[np.ndarray, " m"], grid: Float[np.ndarray, " g"] | None = None
) -> Removal:
    """Evaluate Lemma 9 for one linear piece.

    Args:
        matrix: The linearisation before the activation, one row per neuron.
        kept: Which neurons the activation keeps.
        grid: Values of c to count at; by default 50 up to twice the least constant, from which on all kept rows count.

    Returns:
        The least constant of every removed row, and the counts of A5.

    Source: Behrmann, Dittmer, Fernsel, Maass, arXiv:1806.09730, Lemma 9 (with the condition that a_k lies in the row
    space of what stays, without which it fails) and A5.
    """
    stays, out = matrix[kept], np.flatnonzero(~kept)
    lengths = np.linalg.norm(matrix[out], axis=1)
    out, lengths = out[lengths > 0], lengths[lengths > 0]
    units = matrix[out] / lengths[:, None]
    per = max(1, CHUNK // max(len(stays), 1))
    chunks = [slice(i, i + per) for i in range(0, len(out), per)]
    root = np.sqrt(len(stays))
    constants = np.concatenate(
        [np.abs(stays @ units[c].T).max(axis=0, initial=0.0) * root for c in chunks] or [np.zeros(0)]
    )
    if grid is None:
        grid = np.linspace(0, 2 * constants.min() if constants.size else 0, 50)
    counts = np.zeros(len(grid), dtype=int)
    for c in chunks:
        scaled = np.sort(np.abs(stays @ units[c].T) * root, axis=0)
        for column in scaled.T:
            np.maximum(counts, np.searchsorted(column, grid, side="right"), out=counts)
    return Removal(out, constants, _spanned(stays, units), grid, counts, len(stays))


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
