"""A layer with more rows than living inputs, replaced by the triangle of its QR decomposition: same singular values.

Rows of a convolution that lie side by side need the same few inputs. Taken in that order, they are merged into a
triangle a strip at a time, and the triangle's rows, too, need few inputs each.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr

from unveil.whitebox.blocks import Block
from unveil.whitebox.linear_piece import Piece

STRIP = 512
"""Rows merged at once."""


def fewer_rows(layer: tuple[Block, ...], piece: Piece) -> tuple[tuple[Block, ...], int]:
    """Another layer R with `R @ piece` equal to `layer @ piece` up to a rotation of the rows.

    Args:
        layer: Blocks of rows with the same inputs.
        piece: What comes before; inputs where it has no row do not matter.

    Returns:
        Blocks of R, and its number of rows: at most one for each row of the piece.
    """
    source = np.concatenate([block.rows for block in sorted(piece.blocks, key=_middle)])
    place = np.full(piece.height, -1)
    place[source] = np.arange(len(source))
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for block in layer:
        places = place[block.columns]
        if (places >= 0).any():
            waiting.append((places[places >= 0], block.values[:, places >= 0]))
    waiting.sort(key=lambda rows: (int(rows[0].min()), int(rows[0].max())))

    made: list[Block] = []
    height, start, triangle = 0, 0, np.zeros((0, 0))

    def finish(rows: np.ndarray) -> None:
        nonlocal height
        columns = source[start : start + rows.shape[1]]
        order = np.argsort(columns)
        made.append(Block(np.arange(height, height + len(rows)), columns[order], rows[:, order]))
        height += len(rows)

    while waiting:
        count = 1 + int(np.searchsorted(np.cumsum([len(values) for _, values in waiting]), STRIP))
        strip, waiting = waiting[:count], waiting[count:]
        # No later row has an input before this one: the rows of the triangle that begin there are done.
        first = int(strip[0][0].min())
        if first > start:
            done = min(first - start, len(triangle))
            if done:
                finish(triangle[:done])
            triangle, start = triangle[done:, first - start :], first
        end = max(start + triangle.shape[1], *(int(places.max()) + 1 for places, _ in strip))
        stacked = np.zeros((len(triangle) + sum(len(values) for _, values in strip), end - start))
        stacked[: len(triangle), : triangle.shape[1]] = triangle
        at = len(triangle)
        for places, values in strip:
            stacked[at : at + len(values), places - start] = values
            at += len(values)
        triangle = qr(stacked, mode="r", check_finite=False, overwrite_a=True)[0][: min(stacked.shape)]
    if len(triangle):
        finish(triangle)
    return tuple(made), height


def _middle(block: Block) -> float:
    return float(block.columns.mean())
