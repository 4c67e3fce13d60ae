"""Method and Identification: the form of every identification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.identification.kernels import Kernels
from unveil.identification.label_agreement import differs, fresh_points, known_to
from unveil.identification.validation import validate
from unveil.one_line import one_line
from unveil.outcome import BadInput, Outcome
from unveil.whitebox.network import Network


@one_line
@dataclass(frozen=True)
class Identification:
    """A network found by asking, with what lets a stranger check it.

    Attributes:
        network: What was found; None if nothing usable was.
        outcome: How it ended; `outcome.value` is the sentence with the advice.
        queries: Queries asked in all, probes and held-out checks included.
        residual: Largest |network - oracle| on fresh held-out points, relative to the spread of the answers there; of
            labels the share that differs, a third of the points lying close to the boundaries found.
        method: Name of the method.
        why: What was chosen on the way, and why, one sentence each.
        stats: Figures per stage (queries, certificates, gaps, ...), ready for JSON.
        reference: If the answers were log-ratios of m probabilities: the class they were taken to. The network then
            maps to the m - 1 others; `classifier()` has all m.
        kernels: Of a first layer that is a convolution, what is known of its kernels, whether or not the network is;
            None if none were found.
        labels: Of a network read from labels, the label that each output stands for; None if values were read.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.standard_normal((3, 4)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))]
        >>> truth = uv.Network.from_weights(layers)
        >>> oracle = uv.as_oracle(truth.logits, shape=4)
        >>> found = uv.identify(oracle, rng=rng)
        >>> found.method, found.check(oracle, rng=rng) < 1e-9
        ('critical points', True)
    """

    network: Network | None
    outcome: Outcome
    queries: int
    residual: float
    method: str
    why: tuple[str, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    reference: int | None = None
    labels: tuple[int, ...] | None = None
    kernels: Kernels | None = None

    @property
    def error_told(self) -> str:
        """The residual in words, also where nothing was held against fresh points."""
        return f"a held-out error of {self.residual:.2g}" if np.isfinite(self.residual) else "nothing that was checked"

    def check(self, oracle: Oracle, *, rng: Randomness, points: int = 1000) -> float:
        """The residual again, on other fresh points: of the answers as they were asked, or of all m probabilities.

        Two fifths of the points at most are as users ask; the others lie 3 and 30 times as far out or in the
        corners of a box, beside the network's own hyperplanes, and where single features are large. Errors are relative
        to the spread of the answers at points of the same sort. Of labels a third of the points are such ones, a
        third lie further out, and a third close to the boundaries found, a hundred times further off than the network's
        numbers are known to.

        Raises:
            BadInput: The oracle has another number of outputs, or there are no points.

        Queries: `points`
        """
        must_be_asked(oracle)
        rng = generator(rng)
        if points < 1:
            raise BadInput(f"points must be at least 1, or nothing is checked; got {points}")
        if self.network is None:
            return np.inf
        if oracle.answers == "labels" and self.labels is not None:
            known = known_to(float(self.stats.get("error", np.inf)))
            x = fresh_points(self.network, self.labels, oracle, points, rng, known)
            return float(differs(self.network, self.labels, oracle, x).mean())
        network = self.network
        if oracle.m == network.m + 1 and self.reference is not None:
            network = self.classifier()
        if oracle.m != network.m:
            raise BadInput(f"the network found has {network.m} outputs, the oracle {oracle.m}: check it on its own")
        return validate(network, oracle, points, rng).residual

    def classifier(self) -> Network:
        """The network as the model that was asked: behind a softmax all m outputs, as logits with the softmax on top.

        Logits are known up to a shift of all together; here that of class `reference` is 0.

        Raises:
            BadInput: No network was found.
        """
        if self.network is None:
            raise BadInput("no network was found; see outcome and why")
        return self.network if self.reference is None else self.network.with_reference(self.reference)


class Method(ABC):
    """One published idea. Its fields are its documented tolerances."""

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> Method:
        """The method, told what it can use of what is known of the hidden layers; arguments as of `identify`. Raises
        BadInput: it needs to be told the activation."""
        return cls()

    @abstractmethod
    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification: ...


def residual(network: Network, oracle: Oracle, x: Float[np.ndarray, "N n"]) -> float:
    """Largest |network - oracle| over the rows of x, relative to the spread of the oracle's answers there. Queries:
    `len(x)`."""
    y = oracle(x)
    spread = float(np.abs(y - y.mean(axis=0)).max()) or 1.0
    return float(np.abs(network(x) - y).max()) / spread
