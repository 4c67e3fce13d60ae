"""SeenLabels: every label an oracle gives is counted: a network that lacks a class cannot pass for the whole one, and
where a rare class was met it is looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
from jaxtyping import Float

from unveil.blackbox.defences import Allowance
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Answers, Questions

QUESTIONS_PER_LABEL = 8  # questions kept for each label, at most


class SeenLabels(OracleWrapper):
    """An oracle of labels that keeps count of them. `counts`: how many questions got each label. `examples`: a few of
    these questions."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(oracle)
        self.counts: Counter[int] = Counter()
        self.examples: dict[int, list[Float[np.ndarray, " n"]]] = {}

    def answer(self, x: Questions) -> Answers:
        y = self.oracle.answer(x)
        labels = self.predictions(y)
        self.counts.update(labels.tolist())
        for label, row in zip(*np.unique(labels, return_index=True), strict=True):
            some = self.examples.setdefault(int(label), [])
            if len(some) < QUESTIONS_PER_LABEL:
                some.append(np.array(x[row]))
        return y

    def lacking(self, labels: Collection[int]) -> Float[np.ndarray, "N n"]:
        """Questions that got other labels than these."""
        return np.array([x for label, some in self.examples.items() if label not in labels for x in some]).reshape(
            -1, self.n
        )

    def told(self, labels: Collection[int]) -> tuple[list[str], bool]:
        """What is to be said of the labels that a network answers with, and whether it lacks one that was seen."""
        said = [f"Labels of the network: {self._names(labels)}. Of a class never seen nothing is known."]
        others = {label: count for label, count in sorted(self.counts.items()) if label not in labels}
        if others:
            said.append(
                f"Seen too seldom to be read: {self._names(others)}, at {sum(others.values()):,} of "
                f"{self.counts.total():,} questions. The network never answers with these; inputs of these classes "
                "(x=) help."
            )
        return said, bool(others)

    def _names(self, labels: Iterable[int]) -> str:
        names = self.classes or {}
        return ", ".join(str(names.get(label, label)) for label in labels)


def ended(ledger: Ledger) -> list[str]:
    """What is said where the labels ended that are asked without a budget."""
    if not (isinstance(ledger, Allowance) and ledger.left < ledger.outer.left):
        return []
    return [
        f"The {ledger.budget:,} labels ended that are asked without a budget: budget= allows more, and a store keeps "
        "those that were paid for."
    ]
