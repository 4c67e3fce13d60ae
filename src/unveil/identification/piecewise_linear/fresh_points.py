"""Points: where a network being read is held against fresh answers: nearby, further out, and where it is unusual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.output_layer import Asked, after
from unveil.identification.piecewise_linear.critical_point import Layer
from unveil.identification.piecewise_linear.frame import Frame
from unveil.whitebox.network import Network

# Points to start from, steps of the way to the most unusual ones, and how far out these may be, in typical inputs.
POOL, CLIMB, FURTHER = 4000, 40, 3.0
# How far out, in typical inputs: there neurons switch that hardly do so nearby.
SCALES = (1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Points:
    """Draws inputs.

    Attributes:
        frame: Where a user would.
        far: How far lines reach, in typical inputs; points stay well inside.
        rng: Draws.
    """

    frame: Frame
    far: float
    rng: np.random.Generator

    def usual(self, count: int) -> Float[np.ndarray, "count n"]:
        """Points as a user would draw them, and from somewhat further out."""
        x = self.frame.sample(count, self.rng)
        scales = np.minimum([1.0, 1.0, 2.0, 4.0], max(1.0, self.far / 10))
        return x * self.rng.choice(scales, size=(count, 1)) if self.frame.free else x

    def out(self, count: int, scale: float) -> Float[np.ndarray, "count n"]:
        """Points so many times as far out as a user would draw them, if lines reach there."""
        x = self.frame.sample(count, self.rng)
        return x * min(scale, max(1.0, self.far / 10)) if self.frame.free else x

    def unusual(self, layers: list[Layer], count: int) -> Float[np.ndarray, "count n"]:
        """Points where a random neuron behind these layers would be as active as it can: a rare one is so there."""
        x = self.frame.sample(POOL, self.rng)
        most = FURTHER * float(np.median(np.linalg.norm(x, axis=1)))
        weights = self.rng.standard_normal((count, len(layers[-1][1])))
        x = x[(after(layers, x) @ weights.T).argmax(axis=0)]
        best, step = np.einsum("ck,ck->c", after(layers, x), weights), np.full(count, most / 6)
        for _ in range(CLIMB):
            up = weights
            for depth in reversed(range(len(layers))):
                up = (up * (after(layers[: depth + 1], x) > 0)) @ layers[depth][0]
            y = x + step[:, None] * up / np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-300)
            if self.frame.free:
                y *= np.minimum(1, most / np.linalg.norm(y, axis=1, keepdims=True))
            elif self.frame.within is not None:
                y = np.clip(y, *self.frame.within)
            reached = np.einsum("ck,ck->c", after(layers, y), weights)
            better = reached > best
            x[better], best[better] = y[better], reached[better]
            step *= np.where(better, 1.2, 0.5)
        return np.asarray(x)


def holds(asked: Asked, network: Network, points: Points, fine: float, outside: bool) -> bool:
    """Whether fresh points agree: a few first, as a network that fails there is not finished.

    Args:
        asked: Answers questions; the last ones it keeps are those that disagreed.
        network: What is held against them.
        points: Draws them.
        fine: Errors allowed, in units of the largest answer.
        outside: Whether it should agree far out, too.

    Queries: at most a third of the parameters per output, 100 to 1,000.
    """
    checks = int(np.clip(parameters(network) / (3 * network.m), 100, 1000))
    layers = [(layer.weights, layer.bias) for layer in network.layers[:-1]]
    for count in (30, 70, checks - 100):
        if count:
            part = 3 * count // 8
            far = points.out(part if outside else 0, SCALES[-1])
            odd = [points.unusual(layers[:depth], part // (len(layers) - 1)) for depth in range(1, len(layers))]
            x = np.concatenate([*odd, far, points.usual(count - sum(map(len, odd)) - len(far))])
            y = asked(x)
            if np.abs(network(x) - y).max() >= fine * np.abs(y).max():
                return False
    return True
