"""HardLabels: read a network off nothing but the labels it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from unveil.arguments import Randomness, generator
from unveil.blackbox.defences import Allowance
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Questions
from unveil.identification.from_labels.label_reading import LabelReading, Wanted
from unveil.identification.method import Identification, Method
from unveil.one_line import one_line
from unveil.outcome import BadInput

READ = ("relu", "tanh", "sigmoid")  # activations of a hidden layer that can be read
# Labels asked at most without a budget, so that a reading ends: first layers of deeper networks take most of it.
DEFAULT_LABEL_BUDGET = 1_000_000
EACH_INPUT = 5_000  # so many more for each input


@one_line
@dataclass(frozen=True)
class HardLabels(Wanted, Method):
    """Read a network with one hidden layer from labels alone: two classes or many, or a threshold.

    The layer is one of ReLU, or, where the boundary is curved, of tanh or sigmoid: one is the other, rescaled.

    What labels cannot tell stays open: a common positive scale of all logits, an affine part shared by all classes, and
    classes never seen. Neurons that are active everywhere at the boundary come back as an affine part.

    Attributes:
        x: Inputs to start from besides random ones, for classes that random points hardly meet.
        attempts: How often the search goes on, with twice the patience, while a neuron seems to be missing.
        accuracy: Wanted of the weight vectors, relative to their length: it sets how many labels are asked.
        accept: Largest share of other labels among the fresh points that judge a result; more than one of them makes it
            approximate.
        checks: Fresh points that judge the result, a third of them close to the boundaries found, a third further out.
        activation: "relu", "tanh" or "sigmoid" where it is known; None: looked for.
        most: Labels asked at most. None: what the oracle's budget leaves, or without one 1,000,000 and 5,000 for each
            input.
        widths: Neurons of the hidden layers, where they are known. Of a boundary with a few corners only they say which
            of several networks it is; else they are not needed.

    Source: dual points: Carlini, Chavez-Saab, Hambitzer, Rodriguez-Henriquez, Shamir, arXiv:2410.05750; labels alone
    first: Chen et al., arXiv:2409.11646. The agreement of dual points, the last layer's null vector and the fit on
    boundary points are ours.

    Examples:
        >>> method = uv.HardLabels(attempts=3, accuracy=1e-6)
        >>> method.attempts, method.accuracy
        (3, 1e-06)
    """

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> HardLabels:
        """See `Method.told`."""
        return cls(activation=activation[0] if activation else None, widths=widths)

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        if oracle.answers != "labels":
            raise BadInput(f"{oracle.name} answers {oracle.answers}; wrap it in LabelsOnly, or read its values")
        if self.activation not in (None, *READ):
            raise BadInput(f"from labels a layer of {', '.join(READ)} can be read; got activation {self.activation!r}")
        if self.checks < 1:
            raise BadInput(f"checks must be at least 1, or nothing judges the result; got {self.checks}")
        most = self.allowance(oracle)
        return LabelReading(self, oracle if most is None else _Rationed(oracle, most), rng).run()

    def allowance(self, oracle: Oracle) -> int | None:
        """Labels that are asked at most; None where the oracle's own budget is the limit.

        Queries: `0`
        """
        if self.most is not None or oracle.ledger.budget is not None:
            return self.most
        return DEFAULT_LABEL_BUDGET + EACH_INPUT * oracle.n


@final
class _Rationed(OracleWrapper):
    """The same oracle, of which at most so many questions are asked from here on; its own ledger is charged, too."""

    def __init__(self, oracle: Oracle, most: int) -> None:
        super().__init__(oracle, ledger=Allowance(most, outer=oracle.ledger))

    def nearest(self, x: Questions) -> Questions:
        return self.oracle.nearest(x)
