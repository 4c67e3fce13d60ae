"""What to do about the findings, each with what it would change here, and what does not help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unveil.audit.catalogue import COARSEN, CONTROL, DETECT, RESTRICT, Reference
from unveil.audit.severity import Severity, Tariff
from unveil.audit.text import brief, count, seconds

if TYPE_CHECKING:
    from unveil.audit.verdict import Finding

MOST = 3
_DAILY = 1000  # questions a day that a limit may allow, to say what it would change
_DEARER = 1.5  # so many times the questions count as making an attack dearer

Told = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        do: What, an imperative sentence without its full stop.
        changes: What it would change here, one or two sentences.
        measured: Whether that was measured on this model; else it follows from what is known of such models.
        against: Identifiers of the findings it is against.
        mitigation: What others call it.
    """

    do: str
    changes: str
    measured: bool
    against: tuple[str, ...]
    mitigation: Reference


@dataclass(frozen=True)
class Actions:
    """What to do.

    Attributes:
        first: At most three, the most urgent first.
        idle: What does not help, one sentence each.
    """

    first: tuple[Action, ...] = ()
    idle: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """As the JSON has it."""
        return {"first": [asdict(each) for each in self.first], "no_help": list(self.idle)}


def actions(risks: Sequence[Finding], told: Told, tariff: Tariff) -> Actions:
    """What follows from the findings.

    Args:
        risks: Findings with an identifier, the most severe first.
        told: The figures of each section, by its key.
        tariff: What asking costs.
    """
    severe = {each.key: each for each in risks if each.severity > Severity.none}
    made = [
        each
        for each in (_detect(severe, told), _limit(severe, tariff), _coarser(severe, told), _fewer(severe, told),
                     _apart(severe))
        if each is not None
    ]  # fmt: skip
    by_id = {each.id: each.severity for each in risks}
    made.sort(key=lambda each: -max(by_id[id] for id in each.against))
    return Actions(tuple(made[:MOST]), tuple(_idle(severe, told)))


def _ids(severe: Mapping[str, Finding], *keys: str) -> tuple[str, ...]:
    return tuple(severe[key].id for key in keys if key in severe)


def _limit(severe: Mapping[str, Finding], tariff: Tariff) -> Action | None:
    asked = {key: severe[key] for key in ("identification", "extraction", "obfuscation", "span") if key in severe}
    asked = {key: each for key, each in asked.items() if each.questions}
    if not asked:
        return None
    # The cheapest way to anything severe is what a limit has to stop.
    least = min(asked.values(), key=lambda each: (-each.severity, each.questions))
    changes = (
        f"{least.id} takes {count(least.questions, 'question')}: {seconds(least.questions / tariff.rate)} at "
        f"{brief(tariff.rate)} a second, {count(max(1, round(least.questions / _DAILY)), 'day')} at {_DAILY:,} a day. "
        "It delays and does not prevent: several callers together are as fast as their limits added up."
    )
    return Action("Limit the questions that one caller may ask", changes, True, _ids(severe, *asked), RESTRICT)


def _detect(severe: Mapping[str, Finding], told: Told) -> Action | None:
    seen = told.get("obfuscation", {}).get("invisible")
    if "obfuscation" not in severe or not seen or not seen["caught"]:
        return None
    changes = (
        f"A limit at the largest invisible part among the examples ({brief(seen['usual'])}) would refuse "
        f"{count(seen['caught'])} of {count(seen['inputs'])} of the inputs buried in noise here, and none of the "
        f"examples. "
        "Less noise than was tried here may pass. The part is x - x @ basis.T @ basis, with the basis beside this page."
    )
    return Action(
        "Refuse inputs with an unusually large part that the model cannot see",
        changes, True, _ids(severe, "obfuscation"), DETECT,
    )  # fmt: skip


def _rows(told: Told) -> list[Mapping[str, Any]]:
    return list(told.get("defences", {}).get("kinds", ()))


def _coarser(severe: Mapping[str, Finding], told: Told) -> Action | None:
    against = _ids(severe, "span", "obfuscation")
    rows = _rows(told)
    labels = told.get("oracle", {}).get("answers") == "labels"
    if not against or labels:
        return None
    if len(rows) < 2 or not rows[0]["measured"]:
        changes = "Not measured here: --defences measures what float32, rounding and labels would each hide."
        return Action("Give coarser answers", changes, False, against, COARSEN)
    plain = rows[0]
    worth = [each for each in rows[1:] if each["measured"] and _helps(each, plain)]
    if not worth:
        return None
    best = min(worth, key=lambda each: (each["leaks"], -each["queries"]))
    times = best["queries"] / max(plain["queries"], 1)
    changes = (
        f"Through it the same attack found {count(best['leaks'])} of {count(plain['leaks'], 'direction')}, in "
        f"{count(best['queries'], 'question')}: {brief(times, 2)} times as many as through {plain['name']}."
    )
    if best["leaks"] >= plain["leaks"]:
        changes += " It hides none of them and only makes them dearer."
    return Action(f"Answer with {best['name']}", changes, True, against, COARSEN)


def _helps(row: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether answers hide directions for certain, or make all of them dearer. An attack that failed shows neither."""
    if row["leaks"] < plain["leaks"]:
        return bool(row["settled"])
    return bool(row["queries"] > _DEARER * plain["queries"])


def _fewer(severe: Mapping[str, Finding], told: Told) -> Action | None:
    against = _ids(severe, "outputs")
    if not against:
        return None
    width = told["outputs"]["rank"]
    changes = (
        f"Fewer than {count(width)} outputs fill their space, so that the width of the last hidden layer no longer "
        f"shows "
        "in their rank. This follows from linear algebra and was not measured here."
    )
    return Action("Give only the largest outputs", changes, False, against, COARSEN)


def _apart(severe: Mapping[str, Finding]) -> Action | None:
    against = _ids(severe, "forgetting", "stability")
    if not against:
        return None
    changes = (
        "Who has neither weights nor features can use none of it. Weights that were read off the answers count as "
        "given away."
    )
    return Action("Keep weights and features from those who may only ask", changes, False, against, CONTROL)


def _idle(severe: Mapping[str, Finding], told: Told) -> list[str]:
    """What does not help here: measured, in the order of the table."""
    rows = _rows(told)
    if len(rows) < 2 or not rows[0]["measured"] or not _ids(severe, "span", "obfuscation"):
        return []
    plain, said = rows[0], []
    for each in rows[1:]:
        if each["leaks"] < plain["leaks"] and not each["settled"]:
            said.append(
                f"{each['name'][0].upper()}{each['name'][1:]}: this attack found {count(each['rank'])} of "
                f"{count(plain['leaks'], 'direction')} in {count(each['queries'], 'question')} and could not settle "
                "whether the others are hidden: do not count on it."
            )
        elif each["measured"] and not _helps(each, plain):
            said.append(
                f"{each['name'][0].upper()}{each['name'][1:]} hides none of the {count(plain['leaks'], 'direction')} "
                f"and "
                f"takes {count(each['queries'], 'question')}, {brief(each['queries'] / max(plain['queries'], 1), 2)} "
                f"times "
                "as many."
            )
    return said
