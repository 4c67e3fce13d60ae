"""What known layers make of inputs, how vague that is, and neurons that see it as planes through places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.frame import Frame

OUTSIDE = 6.0  # deviations beyond which a place is on no plane


@dataclass(frozen=True)
class Seen:
    """What known layers make of some inputs."""

    layers: list[AffineMap]  # these; with none of them neurons see the inputs
    sums: list[np.ndarray]  # what each layer's neurons sum up, (N, .)
    h: Float[np.ndarray, "N q"]  # what comes out of the last one
    on: Bool[np.ndarray, "N q"]  # which of its neurons are active

    def back(self, c: Float[np.ndarray, "N q"]) -> Float[np.ndarray, "N d"]:
        """Derivatives by the inputs of `c . (sums of the last layer)`."""
        for depth in range(len(self.layers) - 1, -1, -1):
            c = c @ self.layers[depth][0]
            if depth:
                c = c * (self.sums[depth - 1] > 0)
        return c

    def moves(self) -> Float[np.ndarray, "N q d"]:
        """Derivatives of everything that comes out."""
        count, q = self.h.shape
        each = (np.eye(q) * self.on[:, None, :]).reshape(-1, q)
        again = Seen(self.layers, [np.repeat(a, q, axis=0) for a in self.sums], np.repeat(self.h, q, axis=0), each > 0)
        return again.back(each).reshape(count, q, -1)

    @property
    def pattern(self) -> Bool[np.ndarray, "N p"]:
        """Which neurons of all layers are active."""
        return np.concatenate([np.zeros((len(self.h), 0)), *self.sums], axis=1) > 0


@dataclass(frozen=True)
class Behind:
    """What the search for a neuron behind known layers goes by."""

    ask: Ask  # answers questions
    frame: Frame  # where may be asked; its coordinates are the inputs themselves
    layers: list[AffineMap]  # those known; with none of them neurons see the inputs
    # covariances of the errors of each layer's rows, biases at the end, (k, q + 1, q + 1); (k, 1, 1) where biases alone
    # are off, and of none where all are exact
    spreads: list[np.ndarray]
    noise: Rounding  # how exact answers are
    spacing: float  # typical distance between breakpoints

    def see(self, x: Float[np.ndarray, "N d"]) -> Seen:
        """What the layers make of some inputs."""
        if not self.layers:
            return Seen(self.layers, [], x, np.ones(x.shape, dtype=bool))
        sums = []
        h = x
        for W, b in self.layers:
            sums.append(h @ W.T + b)
            h = np.maximum(sums[-1], 0)
        return Seen(self.layers, sums, h, sums[-1] > 0)

    def doubt(self, x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N q"]:
        """Variance of what comes out of the layers."""
        return np.asarray(doubt_of_sums(self.layers, self.spreads, x) * self.see(x).on)

    def inside(self, x: Float[np.ndarray, "N d"]) -> Bool[np.ndarray, " N"]:
        """Which points may be asked."""
        return np.asarray((x @ self.frame.G.T + self.frame.g > 0).all(axis=1))


def doubt_of_sums(
    layers: Sequence[AffineMap], spreads: Sequence[np.ndarray], x: Float[np.ndarray, "N d"]
) -> Float[np.ndarray, "N q"]:
    """Variance of what the last layer's neurons sum up; of inputs themselves none. `layers`: as of `Behind`. `spreads`:
    as of `Behind`."""
    h, out = x, np.zeros_like(x)
    for depth, ((W, b), spread) in enumerate(zip(layers, spreads, strict=True)):
        out = (out * (h > 0) if depth else out) @ (W**2).T
        if len(spread):
            g = np.concatenate([h, np.ones((len(h), 1))], axis=1)[:, -spread.shape[1] :]
            out += np.einsum("nki,ni->nk", np.einsum("ni,kij->nkj", g, spread, optimize=True), g)
        h = np.maximum(h @ W.T + b, 0)
    return out


def plane(
    fixed: Float[np.ndarray, "e p"],
    told: Float[np.ndarray, " e"],
    g: Float[np.ndarray, "N p"],
    sigma: Float[np.ndarray, " N"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What solves `fixed theta = told` and, for most rows, `g theta = 0` within sigma. Returns the solution, its
    covariance, and which rows it solves."""
    g = g / sigma[:, None]
    weight = np.ones(len(g))
    for turn in range(12):
        A = np.concatenate([fixed, g * np.sqrt(weight)[:, None]])
        theta = np.linalg.lstsq(A, np.concatenate([told, np.zeros(len(g))]), rcond=None)[0]
        off = np.abs(g @ theta)
        # Least absolute errors first; in the end those outside do not count.
        weight = 1 / np.maximum(off, 1) if turn < 9 else (off < OUTSIDE * max(1.0, float(np.median(off)))).astype(float)
    scale = max(1.0, float(np.sqrt((weight * off**2).sum() / max(1.0, weight.sum() - len(theta) / 2))))
    return theta, covariance(np.concatenate([fixed, g * np.sqrt(weight)[:, None]])) * scale**2, weight > 0


def covariance(A: Float[np.ndarray, "e p"]) -> Float[np.ndarray, "p p"]:
    """Of what equations in units of their errors say together."""
    _, s, vt = np.linalg.svd(A, full_matrices=False)
    return np.asarray((vt.T / np.maximum(s, 1e-12 * s[0]) ** 2) @ vt)
