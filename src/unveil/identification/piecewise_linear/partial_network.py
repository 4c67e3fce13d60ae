"""What the layers read so far make of inputs: preactivations, patterns, how values move, what these layers explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap

# Values of a layer this much closer to zero than its inputs' size are zero, and neurons whose breakpoints explain it.
ZERO = 1e-6
RANK = 1e-7  # singular values of moves that are no larger, relative to the largest one, are zero


@dataclass(frozen=True)
class Seen:
    """What some layers make of inputs; with none of them neurons see the inputs themselves."""

    layers: Sequence[AffineMap]  # these
    sums: list[np.ndarray]  # preactivations of each layer, (N, .)
    h: Float[np.ndarray, "N q"]  # what comes out of the last one
    on: Bool[np.ndarray, "N q"]  # which of its neurons are active

    @classmethod
    def by(cls, layers: Sequence[AffineMap], x: Float[np.ndarray, "N d"]) -> Seen:
        """By these layers."""
        sums, h = list[np.ndarray](), x
        for W, b in layers:
            sums.append(h @ W.T + b)
            h = np.maximum(sums[-1], 0)
        return cls(layers, sums, h, sums[-1] > 0 if sums else np.ones(x.shape, dtype=bool))

    def back(self, c: Float[np.ndarray, "N q"]) -> Float[np.ndarray, "N d"]:
        """Derivatives by the inputs of `c . (preactivations of the last layer)`."""
        for depth in range(len(self.layers) - 1, -1, -1):
            c = c @ self.layers[depth][0]
            if depth:
                c = c * (self.sums[depth - 1] > 0)
        return c

    @property
    def pattern(self) -> Bool[np.ndarray, "N p"]:
        """Which neurons of all layers are active."""
        return np.concatenate([np.zeros((len(self.h), 0)), *self.sums], axis=1) > 0


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
    def of(cls, layers: Sequence[AffineMap], x: Float[np.ndarray, "N d"]) -> Moves:
        """Behind these layers, every move in units of the largest one of its point."""
        h, move = moved(layers, x)
        s = np.linalg.svd(move, compute_uv=False)
        top = np.maximum(s[:, 0], 1e-300) if len(x) else np.ones(0)
        return cls(h, move / top[:, None, None], (s > RANK * top[:, None]).sum(axis=1))


def moved(
    layers: Sequence[AffineMap], x: Float[np.ndarray, "N d"]
) -> tuple[Float[np.ndarray, "N k"], Float[np.ndarray, "N k d"]]:
    """Values behind these layers, and how they move with the inputs."""
    h, move = x, np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
    for W, b in layers:
        z = h @ W.T + b
        move = (W @ move) * (z > 0)[:, :, None]
        h = np.maximum(z, 0)
    return h, move


def local(layers: Sequence[AffineMap], x: Float[np.ndarray, " d"]) -> tuple[np.ndarray, np.ndarray]:
    """The same at one input: (k,) and (k, d)."""
    h, move = moved(layers, x[None])
    return h[0], move[0]


def explained(layers: Sequence[AffineMap], x: Float[np.ndarray, "S d"], beside: float = 1.0) -> Bool[np.ndarray, " S"]:
    """Whether a neuron of these layers is zero at each of these points, or within so many times what counts as zero."""
    out, h = np.zeros(len(x), dtype=bool), x
    for (W, _), z in zip(layers, Seen.by(layers, x).sums, strict=True):
        size = (1 + np.linalg.norm(h, axis=1))[:, None] * np.linalg.norm(W, axis=1)
        out |= (np.abs(z) < beside * ZERO * size).any(axis=1)
        h = np.maximum(z, 0)
    return out


def alike(
    layers: Sequence[AffineMap],
    x: Float[np.ndarray, "N d"],
    among: Float[np.ndarray, "R d"],
    rng: np.random.Generator,
    nearest: int,
) -> Float[np.ndarray, "N d"]:
    """For each point one of the others at which much the same neurons are active: of so many nearest ones."""
    there = Seen.by(layers, among).pattern
    near = [np.argsort((each != there).sum(axis=1), kind="stable")[:nearest] for each in Seen.by(layers, x).pattern]
    return among[[rng.choice(each) for each in near]]


def doubt_of_sums(
    layers: Sequence[AffineMap], spreads: Sequence[Float[np.ndarray, "_ ..."]], x: Float[np.ndarray, "N d"]
) -> Float[np.ndarray, "N q"]:
    """Variance of what the last layer's neurons sum up; of inputs themselves none. `spreads`: covariances of the
    errors of each layer's rows, biases at the end, (k, q + 1, q + 1); (k, 1, 1) where biases alone are off, of none
    where all are exact, and (k,) deviations where all of a row are alike and independent."""
    h, out = x, np.zeros_like(x)
    for depth, ((W, b), spread) in enumerate(zip(layers, spreads, strict=True)):
        out = (out * (h > 0) if depth else out) @ (W**2).T
        if spread.ndim == 1:
            out += spread**2 * (1 + (h**2).sum(axis=1, keepdims=True))
        elif len(spread):
            g = np.concatenate([h, np.ones((len(h), 1))], axis=1)[:, -spread.shape[1] :]
            out += np.einsum("nki,ni->nk", np.einsum("ni,kij->nkj", g, spread, optimize=True), g)
        h = np.maximum(h @ W.T + b, 0)
    return out
