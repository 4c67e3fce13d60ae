"""Points: where a network being read is held against fresh answers: nearby, further out, and where it is unusual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.identify.polish import parameters
from unveil.identify.relu.ending import Asked, after
from unveil.identify.relu.frame import Frame
from unveil.identify.relu.sightings import Layer
from unveil.whitebox.network import Network

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
        """Points that the layers read find most unusual: where a neuron rarely switches it does so there."""
        x = self.frame.sample(max(4 * count, min(20_000, 4_000_000 // self.frame.V.shape[0])), self.rng)
        h = after(layers, x)
        h -= h.mean(axis=0)
        _, s, vt = np.linalg.svd(h, full_matrices=False)
        far = (((h @ vt.T) / np.maximum(s, 1e-9 * s[0])) ** 2).sum(axis=1)
        return np.asarray(x[np.argsort(-far)[:count]])


def holds(asked: Asked, network: Network, layers: list[Layer], points: Points, fine: float, outside: bool) -> bool:
    """Whether fresh points agree: a few first, as a network that fails there is not finished.

    Args:
        asked: Answers questions; the last ones it keeps are those that disagreed.
        network: What is held against them.
        layers: Those of it that say what is unusual.
        points: Draws them.
        fine: Errors allowed, in units of the largest answer.
        outside: Whether it should agree far out, too.

    Queries: at most a quarter of the parameters per output, 100 to 1,000.
    """
    checks = int(np.clip(parameters(network) / (4 * network.m), 100, 1000))
    for count in (30, 70, checks - 100):
        if count:
            part = count // 4
            far = points.out(part if outside else 0, SCALES[-1])
            x = np.concatenate([points.usual(count - part - len(far)), points.unusual(layers, part), far])
            y = asked(x)
            if np.abs(network(x) - y).max() >= fine * np.abs(y).max():
                return False
    return True
