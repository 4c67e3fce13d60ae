"""Moves: values behind some layers and how they move with the input; which critical points these layers explain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap

# Values of a layer this much closer to zero than its inputs' size are zero, and neurons whose breakpoints explain it.
ZERO = 1e-6
RANK = 1e-7  # singular values of moves that are no larger, relative to the largest one, are zero


class Moves(NamedTuple):
    """Values of the last of some layers at points, how they move with the point, and what of that is left."""

    h: Float[np.ndarray, "N k"]
    move: Float[np.ndarray, "N k d"]
    rank: Int[np.ndarray, " N"]

    @property
    def on(self) -> Bool[np.ndarray, "N k"]:
        """Which values are positive."""
        return self.h > 0

    @classmethod
    def of(cls, layers: list[AffineMap], x: Float[np.ndarray, "N d"]) -> Moves:
        """Behind these layers, every move in units of the largest one of its point."""
        h, move = cls.moved(layers, x)
        s = np.linalg.svd(move, compute_uv=False)
        top = np.maximum(s[:, 0], 1e-300) if len(x) else np.ones(0)
        return cls(h, move / top[:, None, None], (s > RANK * top[:, None]).sum(axis=1))

    @staticmethod
    def moved(
        layers: list[AffineMap], x: Float[np.ndarray, "N d"]
    ) -> tuple[Float[np.ndarray, "N k"], Float[np.ndarray, "N k d"]]:
        """Values behind these layers, and how they move."""
        h, move = x, np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
        for W, b in layers:
            z = h @ W.T + b
            move = (W @ move) * (z > 0)[:, :, None]
            h = np.maximum(z, 0)
        return h, move


def explained(layers: list[AffineMap], x: Float[np.ndarray, "S d"], beside: float = 1.0) -> Bool[np.ndarray, " S"]:
    """Whether a neuron of these layers is zero at each of these points, or within so many times what counts as zero."""
    out, h = np.zeros(len(x), dtype=bool), x
    for W, b in layers:
        z = h @ W.T + b
        size = (1 + np.linalg.norm(h, axis=1))[:, None] * np.linalg.norm(W, axis=1)
        out |= (np.abs(z) < beside * ZERO * size).any(axis=1)
        h = np.maximum(z, 0)
    return out
