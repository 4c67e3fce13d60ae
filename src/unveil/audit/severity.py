"""Severity: what whoever may ask a model gains by a finding, and what it costs; one rule for every form of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

AFFORDABLE = 10_000_000
"""Questions that one caller asks in a fortnight at ten a second; a finding that takes more is a step less severe."""


class Severity(IntEnum):
    """What a finding gives whoever may only ask the model. Defined in docs/findings.md."""

    unknown = -1  # not measured, or its check failed: no all-clear
    none = 0
    low = 1
    medium = 2
    high = 3

    @property
    def words(self) -> str:
        """For a person."""
        return SEVERITIES[self][0]

    @property
    def meaning(self) -> str:
        """What it says of an attacker."""
        return SEVERITIES[self][1]

    def at(self, questions: int) -> Severity:
        """This severity where the finding takes so many questions: a step less beyond `AFFORDABLE`."""
        return Severity(self - 1) if self > Severity.low and questions > AFFORDABLE else self


SEVERITIES = {
    Severity.high: (
        "High",
        "with answers alone an attacker gets all weights, or can change inputs by as much as their own size without "
        "the "
        "model noticing",
    ),
    Severity.medium: (
        "Medium",
        "with answers alone an attacker gets part of the model: what its first layer sees, the weights of some "
        "layers, or "
        "smaller changes that it does not notice",
    ),
    Severity.low: (
        "Low",
        "an attacker learns a fact about the model, such as the width of a layer, or needs its weights to gain "
        "anything",
    ),
    Severity.none: ("None", "measured to its end, and nothing that helps an attacker was found"),
    Severity.unknown: ("Unknown", "not measured, or a check failed: this is no all-clear"),
}


@dataclass(frozen=True)
class Tariff:
    """What asking costs whoever asks.

    Attributes:
        rate: Questions per second that one caller may ask.
        price: Of 1,000 questions, in whatever currency; None if it is not known.
    """

    rate: float = 10.0
    price: float | None = None

    def cost(self, questions: int) -> dict[str, float | None]:
        """Of so many questions: their number, the seconds they take at this rate, and the money."""
        money = None if self.price is None else questions * self.price / 1000
        return {"questions": questions, "seconds": questions / self.rate, "money": money}
