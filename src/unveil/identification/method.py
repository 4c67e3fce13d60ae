"""Method and Identification: the form of every identification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.outcome import Outcome
from unveil.whitebox.network import Network


@dataclass(frozen=True)
class Identification:
    """A network found by asking, with what lets a stranger check it.

    Attributes:
        network: What was found; None if nothing usable was.
        outcome: How it ended; `outcome.value` is the sentence with the advice.
        queries: Queries asked in all, probes and held-out checks included.
        residual: Largest |network - oracle| on fresh held-out points, relative to the spread of the answers there.
        method: Name of the method.
        why: What was chosen on the way, and why, one sentence each.
        stats: Figures per stage (queries, certificates, gaps, ...), ready for JSON.
    """

    network: Network | None
    outcome: Outcome
    queries: int
    residual: float
    method: str
    why: tuple[str, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)

    def check(self, oracle: Oracle, *, rng: np.random.Generator, points: int = 1000) -> float:
        """The residual again, on other fresh points.

        Queries: `points`
        """
        if self.network is None:
            return np.inf
        return residual(self.network, oracle, oracle.sample(points, rng))


class Method(ABC):
    """One published idea. Its fields are its documented tolerances."""

    @abstractmethod
    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification: ...


def residual(network: Network, oracle: Oracle, x: np.ndarray) -> float:
    """Largest |network - oracle| over the rows of x, relative to the spread of the oracle's answers there.

    Queries: `len(x)`
    """
    y = oracle(x)
    spread = float(np.abs(y - y.mean(axis=0)).max()) or 1.0
    return float(np.abs(network(x) - y).max()) / spread
