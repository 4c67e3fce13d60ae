"""Booked: what each stage of a method asked."""

from __future__ import annotations

from unveil.blackbox.ledger import Ledger


class Booked:
    """A stage whose queries are added to `stages[name]`, also when it is cut short."""

    def __init__(self, ledger: Ledger, stages: dict[str, int], name: str) -> None:
        self.ledger, self.stages, self.name = ledger, stages, name

    def __enter__(self) -> None:
        self.start = self.ledger.asked

    def __exit__(self, *_: object) -> None:
        self.stages[self.name] = self.stages.get(self.name, 0) + self.ledger.asked - self.start
