"""Inputs, one after the other and none twice: given ones in random order, or drawn ones."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle

MOST_LISTED_INPUTS = 2**20
"""So many legal inputs at most are listed and drawn without repetition (a list of prompts, a small grid)."""


class Inputs:
    """Hands out legal inputs, none twice.

    Args:
        oracle: To be asked.
        x: The inputs; None to draw them.
        rng: Draws them, or their order.
    """

    def __init__(self, oracle: Oracle, x: Float[np.ndarray, "N n"] | None, rng: np.random.Generator) -> None:
        self._oracle, self._rng = oracle, rng
        self._given: np.ndarray | None = None
        self._place = 0
        if x is None:
            x = _all_legal(oracle)
        if x is not None:
            self._given = rng.permutation(np.unique(oracle.nearest(x), axis=0))

    @property
    def left(self) -> int | None:
        """How many are left; None where they are drawn, without end."""
        return None if self._given is None else len(self._given) - self._place

    def take(self, count: int) -> Float[np.ndarray, "B n"]:
        """The next inputs; fewer than `count`, or none, when they run out."""
        if self._given is None:
            return self._oracle.sample(count, self._rng)
        taken = self._given[self._place : self._place + count]
        self._place += len(taken)
        return taken


def _all_legal(oracle: Oracle) -> np.ndarray | None:
    """Every legal input where they are few, else None."""
    if oracle.within is None or oracle.grid is None:
        return None
    levels = np.floor((oracle.high - oracle.low) / oracle.grid + 1e-9).astype(np.int64) + 1
    if np.log(levels).sum() > np.log(MOST_LISTED_INPUTS):
        return None
    places = np.stack(np.unravel_index(np.arange(np.prod(levels)), tuple(levels)), axis=1)
    return np.asarray(oracle.low + oracle.grid * places)
