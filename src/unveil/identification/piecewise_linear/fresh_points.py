"""Points: where a network being read is held against fresh answers: nearby, further out, and where it is unusual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.identification.check_points import FURTHER, unusual_everywhere
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.frame import Frame
from unveil.whitebox.network import Network

SCALES = (1.0, 3.0, 10.0)  # how far out, in typical inputs, neurons may switch that hardly do so nearby
POOL = 2000  # points from which the most unusual ones are climbed to


@dataclass(frozen=True)
class Points:
    """Draws inputs."""

    frame: Frame  # where a user would
    far: float  # how far lines reach, in typical inputs; points stay well inside
    rng: np.random.Generator  # draws

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
        """Points where a neuron behind one of the hidden layers that is rarely active would be so."""
        pool = self.frame.sample(POOL, self.rng)
        scales = FURTHER if self.far >= 10 * FURTHER[-1] else (FURTHER[0], FURTHER[0])
        return unusual_everywhere(network, count, pool, self.rng, self.frame.within, scales)


def refuting(
    asked: Asked, network: Network, points: Points, fine: float, outside: bool
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]] | None:
    """Fresh points and answers some of which disagree, None where all agree: a few first, as many do not tell more.

    `asked`: answers questions, and keeps these however many there are. `fine`: errors allowed, in units of the largest
    answer. `outside`: whether it should agree far out, too. Queries: at most a third of the parameters per output, 100
    to 1,000.
    """
    checks = int(np.clip(parameters(network) / (3 * network.m), 100, 1000))
    for count in (30, 70, checks - 100):
        if count:
            part = 3 * count // 8
            far = points.out(part if outside else 0, FURTHER[-1])
            odd = points.unusual(network, part)
            x = asked.oracle.nearest(np.concatenate([odd, far, points.usual(count - len(odd) - len(far))]))
            y = asked.oracle(x)
            asked.hold(x, y)
            if np.abs(network(x) - y).max() >= fine * np.abs(y).max():
                return x, y
    return None
