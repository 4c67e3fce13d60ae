"""Probe: what every step of a reading needs to ask: answers, how exact they are, and the generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.rounding import Ask, Rounding


@dataclass(frozen=True)
class Probe:
    """Handed from step to step of a reading.

    Attributes:
        ask: Answers questions, (N, n) to (N, m); an `Asked` keeps them.
        noise: How exact answers are.
        rng: Draws everything.
        lifted: Where the questions are coordinates along few directions of a network's inputs: asks whole inputs, and
            those of each coordinate, (p, n).
        kept: Batches of more numbers than this are not kept.
        again: Whether a reading before failed its check: what looked certain is looked at more closely.
    """

    ask: Ask
    noise: Rounding
    rng: np.random.Generator
    lifted: tuple[Ask, Float[np.ndarray, "p n"]] | None = None
    kept: int = 0
    again: bool = False

    def sigma(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        """Standard deviation of the answers at x. Queries: `0`, or `N` where not all are rounded alike"""
        return self.noise.before(self.ask, x)

    def bend(self, x: Float[np.ndarray, "N n"], step: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        """Second differences of the answers at x, over a step to either side. Queries: `3 N`"""
        y = self.ask(np.concatenate([x - step, x, x + step])).reshape(3, len(x), -1)
        return np.asarray(y[0] - 2 * y[1] + y[2])

    @property
    def m(self) -> int:
        """Outputs."""
        return len(self.noise.floor)
