"""Surrogate: a network that answers as the model does, fitted where it cannot be read, and how well it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.method import Identification, Method
from unveil.identification.surrogate.fitting import Fitting
from unveil.identification.surrogate.from_labels import LabelFitting
from unveil.identification.surrogate.known import Known
from unveil.one_line import one_line
from unveil.outcome import BadInput


@one_line
@dataclass(frozen=True)
class Surrogate(Method):
    """Fit a network to answers: a copy with a known error, where weights cannot be read.

    Students of different shapes begin with everything that was read. Questions are asked where they disagree, and each
    is fitted by damped least squares on all its parameters, to the answers it gets most wrong and others; the best one
    on answers that it was not fitted to loses the neurons that it does not need. Where labels are all there is, the
    students are trained on them.

    The outcome is `approximate`, whatever the error: `stats["fresh"]` and `stats["given"]` tell the distribution of
    the errors and the share of equal labels, `stats["neurons"]` which were read and which are only fitted. It is
    `check_failed` where the network explains less than 99 % of the answers' variance, or of labels, half of what the
    commonest label leaves.

    Attributes:
        widths: Neurons of the hidden layers as they are expected; students have `factor` times as many. None: shapes
            are tried out.
        activation: Of the hidden layers that are fitted.
        x: Inputs of the model's use: questions are asked about them too, and the result is told for them.
        known: What was read; see `Surrogate.behind`.
        students: How many are fitted side by side.
        factor: So many times as many neurons as are expected, to begin with.
        rounds: Rounds of questions and least squares at most.
        queries: Questions at most; None: what the budget leaves, up to 20 answers per parameter.
        work: Numbers multiplied at most, in steps of least squares: 1e12 are about half a minute of one processor.

    Source: students that disagree choose questions: Goldfeder et al., arXiv:2409.19138; over-wide students:
    Martinelli et al., ICML 2024 (arXiv:2304.12794). The warm start and least squares on hard answers are ours.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.standard_normal((3, 4)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))]
        >>> truth = uv.Network.from_weights(layers)
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=4), uv.Surrogate(widths=(3,)), rng=rng)
        >>> found.outcome.name, found.stats["fresh"]["largest"] < 1e-6
        ('approximate', True)
    """

    widths: tuple[int, ...] | None = None
    activation: str = "relu"
    x: Float[np.ndarray, "N n"] | None = field(default=None, compare=False)
    known: Known = field(default_factory=Known)
    students: int = 2
    factor: float = 3.0
    rounds: int = 30
    queries: int | None = None
    work: float = 4e12

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> Method:
        """With the first activation and the widths."""
        return cls(widths, "relu" if activation is None else activation[0])

    @classmethod
    def behind(cls, found: Identification, **options: Any) -> Surrogate:
        """A surrogate that begins with what another method has read.

        Args:
            found: What it returned.
            options: Other attributes.
        """
        return cls(known=Known.of(found), **options)

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        if self.students < 1 or self.rounds < 1 or self.factor < 1:
            raise BadInput("a surrogate needs at least one student, one round and as many neurons as are expected")
        if oracle.answers == "labels":
            return LabelFitting(self, oracle, rng).run()
        return Fitting(self, oracle, rng).run()
