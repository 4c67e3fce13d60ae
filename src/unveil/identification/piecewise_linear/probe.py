"""Probe: what every step of a reading needs to ask: answers, how exact they are, and the generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.rounding import Ask, Rounding


@dataclass(frozen=True)
class Probe:
    """Handed from step to step of a reading."""

    ask: Ask  # answers questions, (N, n) to (N, m); an `Asked` keeps them
    noise: Rounding  # how exact answers are
    rng: np.random.Generator  # draws everything
    # asks whole inputs and keeps no answer; where the questions are coordinates along few directions of these, with
    # the inputs of each coordinate, (p, n)
    lifted: tuple[Ask, Float[np.ndarray, "p n"] | None] | None = None
    kept: int = 0  # batches of more numbers than this are not kept
    again: bool = False  # whether a reading before failed its check: what looked certain is looked at more closely

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
