"""SeenLabels: every label an oracle gives is counted: a network that lacks a class cannot pass for the whole one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Answers, Questions


class SeenLabels(OracleWrapper):
    """An oracle of labels that keeps count of them.

    Args:
        oracle: Answers labels.

    Attributes:
        counts: How many questions got each label.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(oracle)
        self.counts: Counter[int] = Counter()

    def answer(self, x: Questions) -> Answers:
        y = self.oracle.answer(x)
        self.counts.update(self.predictions(y).tolist())
        return y

    def told(self, labels: Collection[int]) -> tuple[list[str], bool]:
        """What is to be said of the labels that a network answers with, and whether it lacks one that was seen.

        Queries: `0`
        """
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
