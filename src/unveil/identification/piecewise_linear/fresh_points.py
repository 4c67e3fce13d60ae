"""Points: where a network being read is held against fresh answers: nearby, further out, and where it is unusual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.validation import unusual
from unveil.whitebox.network import Network

# Points from which the most unusual ones are climbed to.
POOL = 2000
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

    def unusual(self, network: Network, count: int) -> Float[np.ndarray, "count n"]:
        """Points where a neuron behind one of the hidden layers that is rarely active would be so.

        Behind the last one there is none that could have been missed.

        Args:
            count: At most so many points, as many behind each layer, near and far.
        """
        pool = self.frame.sample(POOL, self.rng)
        size = float(np.median(np.linalg.norm(pool, axis=1)))
        depths = range(max(1, len(network.layers) - 2))
        scales = SCALES[1:] if self.frame.free and self.far >= 10 * SCALES[-1] else SCALES[1:2]
        each = count // (len(depths) * len(scales))
        within = self.frame.within
        parts = [
            unusual(network, depth, pool, np.full(each, scale * size), self.rng, within)
            for depth in depths
            for scale in scales
            if each
        ]
        return np.concatenate([pool[:0], *parts])


def refuting(
    asked: Asked, network: Network, points: Points, fine: float, outside: bool
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]] | None:
    """Fresh points and answers some of which disagree, None where all agree: a few first, as many do not tell more.

    Args:
        asked: Answers questions, and keeps these however many there are.
        fine: Errors allowed, in units of the largest answer.
        outside: Whether it should agree far out, too.

    Queries: at most a third of the parameters per output, 100 to 1,000.
    """
    checks = int(np.clip(parameters(network) / (3 * network.m), 100, 1000))
    for count in (30, 70, checks - 100):
        if count:
            part = 3 * count // 8
            far = points.out(part if outside else 0, SCALES[-1])
            odd = points.unusual(network, part)
            x = asked.oracle.nearest(np.concatenate([odd, far, points.usual(count - len(odd) - len(far))]))
            y = asked.oracle(x)
            asked.hold(x, y)
            if np.abs(network(x) - y).max() >= fine * np.abs(y).max():
                return x, y
    return None
