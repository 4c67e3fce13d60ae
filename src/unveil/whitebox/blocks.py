"""A matrix as blocks of rows that see the same inputs; equal blocks are kept once, as every position of a convolution.

A convolution's matrix holds its kernel once per position. As groups of equal blocks it is as small as the kernel and a
list of places, and its products are products of dense matrices.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

NUMBERS_SAVED_FACTOR = 8  # times fewer numbers, from which a matrix is kept as its groups
LARGE_MATRIX_ENTRIES = 4_000_000  # entries from which that is worth finding out
ENTRIES_AT_ONCE = 4_000_000  # entries looked at together


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a matrix: zero outside `columns`.

    Attributes:
        rows: Which rows.
        columns: Which columns, ascending.
        values: (rows, columns).
    """

    rows: Int[np.ndarray, " r"]
    columns: Int[np.ndarray, " c"]
    values: Float[np.ndarray, "r c"]


@dataclass(frozen=True, eq=False)
class Group:
    """Blocks with the same values at different places.

    Attributes:
        rows: (blocks, r).
        columns: (blocks, c), ascending in each.
        values: (r, c).
    """

    rows: Int[np.ndarray, "b r"]
    columns: Int[np.ndarray, "b c"]
    values: Float[np.ndarray, "r c"]


@dataclass(frozen=True, eq=False)
class Repeated:
    """A matrix whose rows stand in groups of equal blocks; rows in none are zero.

    Attributes:
        shape: (rows, columns).
        groups: Each row in at most one block.
    """

    shape: tuple[int, int]
    groups: tuple[Group, ...]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks; those of a group share their values."""
        return tuple(Block(r, c, g.values) for g in self.groups for r, c in zip(g.rows, g.columns, strict=True))

    def times(self, x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "m k"]:
        """The matrix times x."""
        out = np.zeros((self.shape[0], x.shape[1]))
        for group in self.groups:
            seen = x[group.columns.T.ravel()].reshape(group.columns.shape[1], -1)
            out[group.rows.T.ravel()] = (group.values @ seen).reshape(-1, x.shape[1])
        return out

    def transposed_times(self, y: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "n k"]:
        """The transposed matrix times y."""
        out = np.zeros((self.shape[1], y.shape[1]))
        for group, places in zip(self.groups, self._places, strict=True):
            back = group.values.T @ y[group.rows.T.ravel()].reshape(group.rows.shape[1], -1)
            out += places @ back.reshape(-1, y.shape[1])
        return out

    def squares(self) -> Repeated:
        """The matrix of the squared entries."""
        return Repeated(self.shape, tuple(Group(g.rows, g.columns, g.values**2) for g in self.groups))

    def csr(self) -> sparse.csr_array:
        """The matrix written out."""
        sizes = np.zeros(self.shape[0], dtype=np.int64)
        for group in self.groups:
            sizes[group.rows] = group.columns.shape[1]
        pointers = np.concatenate([[0], np.cumsum(sizes)])
        columns, values = np.empty(pointers[-1], dtype=np.int32), np.empty(pointers[-1])
        for block in self.blocks:
            at = pointers[block.rows][:, None] + np.arange(len(block.columns))
            columns[at], values[at] = block.columns, block.values
        return sparse.csr_array((values, columns, pointers), shape=self.shape)

    @cached_property
    def _places(self) -> tuple[Any, ...]:
        """For each group the matrix that adds what its columns get to where they stand."""
        made = []
        for group in self.groups:
            columns = group.columns.T.ravel()
            entries = (np.ones(len(columns)), (columns, np.arange(len(columns))))
            made.append(sparse.csr_array(entries, shape=(self.shape[1], len(columns))))
        return tuple(made)


def repeated(weights: Any) -> Any:
    """A large sparse matrix as groups of equal blocks where that is much smaller; else as it is."""
    if not sparse.issparse(weights) or weights.nnz < LARGE_MATRIX_ENTRIES:
        return weights
    groups = groups_of(weights)
    numbers = sum(g.values.size + g.rows.size + g.columns.size for g in groups)
    return Repeated(weights.shape, groups) if NUMBERS_SAVED_FACTOR * numbers < weights.nnz else weights


def groups_of(weights: Any) -> tuple[Group, ...]:
    """The rows of a sparse matrix that are not empty, as groups of blocks of rows with nearly the same support.

    Columns that one row alone has, as behind a skip connection, keep rows apart only where these share nothing else.
    """
    weights = sparse.csr_array(weights)
    if not weights.has_canonical_format:
        weights = weights.copy()
        weights.sum_duplicates()
    if not weights.nnz:
        return ()
    rows = np.flatnonzero(np.diff(weights.indptr))
    starts = weights.indptr[rows]
    alone = np.bincount(weights.indices, minlength=weights.shape[1]) == 1
    own = np.add.reduceat(alone[weights.indices], starts, dtype=np.int64)
    counts = np.diff(np.append(starts, weights.nnz))
    # Rows with the same support have the same sum of random numbers; whether they truly have is checked below.
    marks = np.random.default_rng(0).random(weights.shape[1])
    shared = np.where(alone, 0.0, marks)
    sums = np.add.reduceat(shared[weights.indices], starts)
    single = own == counts  # they share nothing: each for itself
    sums[single] = -1 - marks[weights.indices[starts[single]]]
    order = np.lexsort((sums, own, counts))
    rows, keys = rows[order], np.stack([sums, own, counts])[:, order]
    first = np.flatnonzero(np.append(True, (np.diff(keys) != 0).any(axis=0)))
    shapes = np.stack([np.diff(np.append(first, len(rows))), counts[order[first]], own[order[first]]], axis=1)
    found: dict[tuple[int, int, bytes], list[Group]] = {}
    for height, size, apart in np.unique(shapes, axis=0).tolist():
        some = first[(shapes == (height, size, apart)).all(axis=1)]
        for part in np.array_split(some, math.ceil(len(some) * height * size / ENTRIES_AT_ONCE)):
            _collect(found, weights, rows[part[:, None] + np.arange(height)], alone if height > 1 and apart else None)
    return tuple(
        Group(np.concatenate([g.rows for g in each]), np.concatenate([g.columns for g in each]), each[0].values)
        for each in found.values()
    )


def _collect(
    found: dict[tuple[int, int, bytes], list[Group]],
    weights: Any,
    rows: Int[np.ndarray, "b r"],
    alone: Bool[np.ndarray, " n"] | None,
) -> None:
    """Add blocks of one shape to the groups found so far, each to that with its values.

    Args:
        found: Groups by the shape and the digest of their values.
        weights: Whose rows have equally many entries here.
        rows: Of each block.
        alone: Columns that one row alone has, where there are some in these rows; as many in each.
    """
    entries = weights.indptr[rows][..., None] + np.arange(
        np.diff(weights.indptr[rows[0, 0] :][:2])[0], dtype=weights.indptr.dtype
    )
    columns, values = weights.indices[entries], weights.data[entries]
    if alone is not None:
        columns, values, rest = _side_by_side(columns, values, alone[columns])
    else:
        rest = (columns != columns[:, :1]).any(axis=(1, 2))
        columns = columns[:, 0]
    if rest.any():
        _collect(found, weights, rows[rest].reshape(-1, 1), None)
        rows, columns, values = rows[~rest], columns[~rest], values[~rest]
    same: dict[bytes, list[int]] = {}
    for i, one in enumerate(values):
        same.setdefault(hashlib.sha256(one.tobytes()).digest(), []).append(i)
    for key, where in same.items():
        group = found.setdefault((*values.shape[1:], key), [])
        kept = group[0].values if group else values[where[0]].copy()
        group.append(Group(rows[where], columns[where].astype(np.int64), kept))


def _side_by_side(
    columns: Int[np.ndarray, "b r s"], values: Float[np.ndarray, "b r s"], own: Bool[np.ndarray, "b r s"]
) -> tuple[Int[np.ndarray, "b c"], Float[np.ndarray, "b r c"], Bool[np.ndarray, " b"]]:
    """Blocks of rows that share all columns but their own, with those of each row beside what is shared.

    Returns:
        Columns and values of the blocks, and which do not share what they should.
    """
    blocks, height, size = columns.shape
    apart = int(own[0, 0].sum())
    by_share = np.argsort(own, axis=2, kind="stable")
    columns, values = np.take_along_axis(columns, by_share, 2), np.take_along_axis(values, by_share, 2)
    common = size - apart
    rest = (columns[:, :, :common] != columns[:, :1, :common]).any(axis=(1, 2))
    wide = np.zeros((blocks, height, common + height * apart))
    wide[:, :, :common] = values[:, :, :common]
    for row in range(height):
        at = common + row * apart
        wide[:, row, at : at + apart] = values[:, row, common:]
    every = np.concatenate([columns[:, 0, :common], columns[:, :, common:].reshape(blocks, -1)], axis=1)
    order = np.argsort(every, axis=1)
    return np.take_along_axis(every, order, 1), np.take_along_axis(wide, order[:, None], 2), rest
