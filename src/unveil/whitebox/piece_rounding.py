"""Rounding of a product of layers: how far it moves singular values, measured along the layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.whitebox.linear_piece import Piece
from unveil.whitebox.network import Layer

ROUNDING_SAMPLES = 4
"""Random vectors by which the rounding is measured."""
SURE = 4.0
"""So many times the measured size: four vectors tell it up to a factor of about two."""


@dataclass(frozen=True, eq=False)
class Rounding:
    """What rounding makes of random vectors that are mapped by a piece.

    A layer times a piece, times random vectors, is computed in both orders; the difference is the rounding of either.
    The layers behind map it on as they map all else, however much of the piece itself they cancel.

    Attributes:
        error: (m, SAMPLES), the rounding's image of normally distributed vectors.
    """

    error: Float[np.ndarray, "m s"]

    @staticmethod
    def none(piece: Piece) -> Rounding:
        """Of the first layer, which is as it was given."""
        return Rounding(np.zeros((piece.height, ROUNDING_SAMPLES)))

    @property
    def floor(self) -> float:
        """What singular values may be off by: at least the Frobenius norm of the error."""
        return SURE * float(np.sqrt(np.mean(np.sum(self.error**2, axis=0))))

    def behind(self, layer: Layer, previous: Piece, piece: Piece) -> Rounding:
        """Of `piece`, which is `layer @ previous`."""
        vectors = _vectors(previous.width)
        return Rounding(layer.times(self.error) + piece.image(vectors) - layer.times(previous.image(vectors)))

    def kept(self, slope: Float[np.ndarray, " m"], kept: Piece, folded: bool) -> Rounding:
        """Behind the activation; a rotation of the inputs rounds every row by its own size."""
        error = slope[:, None] * self.error
        if folded and kept.blocks:
            rows = np.concatenate([block.rows for block in kept.blocks])
            sizes = np.concatenate([np.linalg.norm(block.values, axis=1) for block in kept.blocks])
            error[rows] += np.finfo(float).eps * sizes[:, None] * _vectors(len(rows))
        return Rounding(error)


def _vectors(size: int) -> Float[np.ndarray, "n s"]:
    return np.random.default_rng(size).standard_normal((size, ROUNDING_SAMPLES))
