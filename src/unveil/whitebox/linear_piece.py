"""The matrix of a linear piece, kept as dense blocks: rows that depend on the same few inputs lie together.

A neuron of an early convolution depends on a small window of the picture. Rows of one position share their window, so
that products and Gram matrices cost what the windows cost; rows of dead neurons never enter. Layers without such
structure are one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.linalg import qr

from unveil.whitebox.blocks import Block, Repeated, groups_of
from unveil.whitebox.network import Layer

# Measured: seconds per entry added or fetched through an index, and per product of two numbers inside a matrix product.
SCATTER, MULTIPLY = 5e-9, 2e-11


@dataclass(frozen=True, eq=False)
class Piece:
    """A matrix (height, width) as blocks; rows in no block are zero."""

    height: int
    width: int
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """Rows that are not structurally zero."""
        return sum(len(block.rows) for block in self.blocks)

    def dense(self) -> Float[np.ndarray, "r n"]:
        """The rows that are not structurally zero, block after block."""
        out = np.zeros((self.rows, self.width))
        at = 0
        for block in self.blocks:
            here = slice(at, at + len(block.rows))
            if len(block.columns) == self.width:
                out[here] = block.values
            else:
                out[here, block.columns] = block.values
            at += len(block.rows)
        return out

    def whole(self) -> Float[np.ndarray, "m n"]:
        """The matrix with its zero rows, in its own order."""
        out = np.zeros((self.height, self.width))
        for block in self.blocks:
            out[np.ix_(block.rows, block.columns)] = block.values
        return out

    def keep(self, slope: Float[np.ndarray, " m"]) -> Piece:
        """`diag(slope) @ self`; rows with slope 0 leave."""
        kept = []
        for block in self.blocks:
            factor = slope[block.rows]
            alive = factor != 0
            if alive.any():
                values = block.values[alive]
                if (factor[alive] != 1).any():
                    values = values * factor[alive, None]
                kept.append(Block(block.rows[alive], block.columns, values))
        return Piece(self.height, self.width, tuple(kept))

    def merged(self) -> Piece:
        """The same matrix in fewer, larger blocks, where filling up with zeros costs less than handling each block.

        Rows come in another order. Made for `gram` and `times`; what follows in the network multiplies the small ones.
        """
        blocks = sorted(self.blocks, key=lambda block: float(block.columns.mean()))
        while True:
            made: list[Block] = []
            at = 0
            while at < len(blocks):
                pair = blocks[at : at + 2]
                columns = _union([block.columns for block in pair], self.width)
                apart = sum(_price(len(block.columns), len(block.rows)) for block in pair)
                if len(pair) == 2 and _price(len(columns), sum(len(block.rows) for block in pair)) <= apart:
                    made.append(_joined(pair, columns))
                    at += 2
                else:
                    made.append(pair[0])
                    at += 1
            if len(made) == len(blocks):
                return Piece(self.height, self.width, tuple(made))
            blocks = made

    def times(self, right: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "r k"]:
        """The rows that are not structurally zero, times a matrix."""
        parts = [
            block.values @ (right if len(block.columns) == self.width else right[block.columns])
            for block in self.blocks
        ]
        return np.concatenate(parts) if parts else np.zeros((0, right.shape[1]))

    def image(self, right: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "m k"]:
        """The matrix with its zero rows, in its own order, times a matrix."""
        out = np.zeros((self.height, right.shape[1]))
        if self.blocks:
            out[np.concatenate([block.rows for block in self.blocks])] = self.times(right)
        return out

    def folded(self) -> Piece:
        """The same up to a rotation of the inputs, no more columns than rows: singular values stay, also further on."""
        if self.rows >= self.width or not self.rows:
            return self
        triangle = qr(self.dense().T, mode="r", check_finite=False, overwrite_a=True)[0][: self.rows]
        order = np.concatenate([block.rows for block in self.blocks])
        block = Block(order, np.arange(len(order)), np.ascontiguousarray(triangle.T))
        return Piece(self.height, len(order), (block,))

    def gram(self) -> Float[np.ndarray, "k k"]:
        """`M.T @ M`, or `M @ M.T` of the rows that are not zero where those are fewer than the columns."""
        if self.rows < self.width:
            rows = self.dense()
            return np.asarray(rows @ rows.T)
        apart = sum(_price(len(b.columns), len(b.rows)) for b in self.blocks)
        if apart > MULTIPLY * self.rows * self.width**2:
            rows = self.dense()
            return np.asarray(rows.T @ rows)
        gram = np.zeros((self.width, self.width))
        for block in self.blocks:
            square = block.values.T @ block.values
            if len(block.columns) == self.width:
                gram += square
            else:
                gram[np.ix_(block.columns, block.columns)] += square
        return gram


def blocks_of(layer: Layer) -> tuple[Block, ...]:
    """A layer's weights as blocks of rows with the same support."""
    if layer.repeated is not None:
        return layer.repeated.blocks
    if not sparse.issparse(layer.weights):
        return (Block(np.arange(layer.neurons), np.arange(layer.inputs), layer.dense()),)
    return Repeated(layer.weights.shape, groups_of(layer.weights)).blocks


def first_piece(layer: tuple[Block, ...], height: int, window: Int[np.ndarray, " w"], inputs: int) -> Piece:
    """The first layer, restricted to the inputs in `window`."""
    place = np.full(inputs, -1)
    place[window] = np.arange(len(window))
    made = []
    for block in layer:
        seen = place[block.columns]
        if (seen >= 0).any():
            order = np.argsort(seen[seen >= 0])
            values = block.values if (seen >= 0).all() else block.values[:, seen >= 0]
            made.append(Block(block.rows, seen[seen >= 0][order], values if _sorted(order) else values[:, order]))
    return Piece(height, len(window), tuple(made))


def next_piece(layer: tuple[Block, ...], height: int, piece: Piece) -> Piece:
    """`layer @ piece`."""
    owner, place = np.full(piece.height, -1), np.zeros(piece.height, dtype=np.int64)
    for i, block in enumerate(piece.blocks):
        owner[block.rows], place[block.rows] = i, np.arange(len(block.rows))
    made = []
    for block in layer:
        alive: Bool[np.ndarray, " c"] = owner[block.columns] >= 0
        if not alive.any():
            continue
        sources = block.columns[alive]
        owners = owner[sources]
        used = np.unique(owners)
        columns = _union([piece.blocks[i].columns for i in used], piece.width)
        weights = block.values if alive.all() else block.values[:, alive]
        if len(used) == 1:
            made.append(Block(block.rows, columns, weights @ _taken(piece.blocks[used[0]].values, place[sources])))
            continue
        full = len(columns) == piece.width
        stacked = np.zeros((len(sources), len(columns)))
        for i in used:
            here, values = np.flatnonzero(owners == i), piece.blocks[i].values
            rows = values[place[sources[here]]]
            if full and values.shape[1] == piece.width:
                stacked[here] = rows
            else:
                stacked[here[:, None], np.searchsorted(columns, piece.blocks[i].columns)] = rows
        made.append(Block(block.rows, columns, weights @ stacked))
    return Piece(height, piece.width, tuple(made))


def _price(columns: int, rows: int) -> float:
    """Seconds that a block costs within a Gram matrix."""
    return columns**2 * (SCATTER + MULTIPLY * rows)


def _joined(blocks: list[Block], columns: np.ndarray) -> Block:
    values = np.zeros((sum(len(block.rows) for block in blocks), len(columns)))
    at = 0
    for block in blocks:
        values[at : at + len(block.rows), np.searchsorted(columns, block.columns)] = block.values
        at += len(block.rows)
    return Block(np.concatenate([block.rows for block in blocks]), columns, values)


def _taken(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    return values if len(places) == len(values) and _sorted(places) else values[places]


def _sorted(places: np.ndarray) -> bool:
    return bool((np.diff(places) > 0).all())


def _union(sets: list[np.ndarray], width: int) -> np.ndarray:
    if len(sets) == 1:
        return sets[0]
    marked = np.zeros(width, dtype=bool)
    for columns in sets:
        marked[columns] = True
    return np.flatnonzero(marked)
