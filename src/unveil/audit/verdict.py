"""Verdict: the one place from which the headline, the sections' verdicts, the JSON's status and the exit code come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from unveil.audit.catalogue import CATALOGUE, Entry
from unveil.audit.severity import Severity, Tariff
from unveil.outcome import Outcome

FINE, INCOMPLETE, USAGE, MODEL, BUDGET, APPROXIMATE, DISK, SEVERE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130

EXIT_CODES = {
    FINE: "everything that was asked for was measured and checked; that there is nothing to find is a finding too",
    INCOMPLETE: "something failed its check, or was not measured",
    USAGE: "bad usage or bad input; nothing was concluded",
    MODEL: "the model failed: it cannot be loaded, or does not answer, or answers differently to the same question",
    BUDGET: "the budget ended first; what was found by then is written",
    APPROXIMATE: "measured, but approximate: something was left out, and how much is stated",
    SEVERE: "a finding is at least as severe as `--fail-on` allows",
    DISK: "the disk is full or fails: a file, which is named, could not be written",
    INTERRUPTED: "interrupted; what was found by then is written",
}


class Status(IntEnum):
    """How far a finding can be relied on. The larger, the less; the worst of several is that of the whole."""

    checked = 0
    approximate = 1
    not_measured = 2
    failed = 3

    @property
    def words(self) -> str:
        """For a person."""
        return ("Measured and checked", "Approximate", "Not measured", "Failed its check")[self]


@dataclass(frozen=True)
class Ending:
    """What one way of ending means.

    Attributes:
        status: How far the finding can be relied on.
        code: The exit code of a command that ends with it.
    """

    status: Status
    code: int


# Every `Outcome` by its name, and every error that can end a stage by its class's name; an error not named here counts
# as its base class. That an attack did not get through is no all-clear: only what was measured to its end is `checked`.
STAGE_ENDINGS = {
    "complete": Ending(Status.checked, FINE),
    "nothing_to_find": Ending(Status.checked, FINE),
    "full_rank": Ending(Status.checked, FINE),
    "approximate": Ending(Status.approximate, APPROXIMATE),
    "answers_in_steps": Ending(Status.not_measured, INCOMPLETE),
    "not_resolved": Ending(Status.not_measured, INCOMPLETE),
    "not_measured": Ending(Status.not_measured, INCOMPLETE),
    "budget_ended": Ending(Status.not_measured, BUDGET),
    "check_failed": Ending(Status.failed, INCOMPLETE),
    "model_changed": Ending(Status.failed, MODEL),
    "BudgetExceeded": Ending(Status.not_measured, BUDGET),
    "ModelChanged": Ending(Status.failed, MODEL),
    "StepAnswers": Ending(Status.not_measured, INCOMPLETE),
    "SourceError": Ending(Status.not_measured, MODEL),
    "DiskFull": Ending(Status.not_measured, DISK),
    "Interrupted": Ending(Status.not_measured, INTERRUPTED),
    "UnveilError": Ending(Status.not_measured, INCOMPLETE),
}


def ending(of: Outcome | BaseException) -> Ending:
    """What an outcome, or an error that ended a search, means."""
    if isinstance(of, Outcome):
        return STAGE_ENDINGS[of.name]
    return next(
        (STAGE_ENDINGS[kind.__name__] for kind in type(of).__mro__ if kind.__name__ in STAGE_ENDINGS),
        STAGE_ENDINGS["UnveilError"],
    )


def exit_code(*ended: Outcome | BaseException) -> int:
    """The exit code of whatever ended worst; 0 if nothing did."""
    return max((ending(each) for each in ended), key=_rank, default=STAGE_ENDINGS["complete"]).code


def _rank(each: Ending) -> tuple[bool, int, int]:
    # Whoever interrupts is told so, whatever else was found. Of what could not be measured, that there was no room for
    # it says most, then that the model failed, then that the budget ended.
    return each.code == INTERRUPTED, each.status, {DISK: 3, MODEL: 2, BUDGET: 1}.get(each.code, 0)


def cause(of: Outcome | BaseException) -> str:
    """Why it ended so, a clause: an outcome's first sentence without its name and its advice, or an error's text."""
    if not isinstance(of, Outcome):
        return str(of).rstrip(".")
    sentence = of.value.split(". ")[0].rstrip(".")
    label, colon, rest = sentence.partition(": ")
    told = rest if colon and label.lower() == of.name.replace("_", " ") else sentence
    return told[0].lower() + told[1:]


def advice(of: Outcome) -> str:
    """What an outcome says to try next; empty if there is nothing."""
    return of.value.partition(". ")[2]


@dataclass(frozen=True)
class Finding:
    """One section's contribution to the verdict.

    Attributes:
        key: The section's key.
        title: The section's title.
        ended: How it ended: an outcome's name or an error's class.
        status: How far it can be relied on.
        code: What it alone would make the exit code.
        verdict: The section's sentence.
        cause: Why it is not `checked`, a clause; empty if it is.
        claim: What may be said of the model, a verb phrase; empty unless the status is at least `approximate`.
        severity: What an attacker gains; `unknown` unless the status is at least `approximate`.
        questions: What it takes to find out, the sections it stands on included.
        confidence: How sure it is, a clause.
    """

    key: str
    title: str
    ended: str
    status: Status
    code: int
    verdict: str
    cause: str = ""
    claim: str = ""
    severity: Severity = Severity.unknown
    questions: int = 0
    confidence: str = ""

    @property
    def entry(self) -> Entry | None:
        """What is said of its kind; None of one that tells of the audit and not of a risk."""
        return CATALOGUE.get(self.key)

    @property
    def id(self) -> str:
        """The stable identifier; empty without an entry."""
        return self.entry.id if self.entry else ""

    def figures(self, tariff: Tariff) -> dict[str, Any]:
        """What the JSON's list of findings says of it; only of those that have an entry."""
        if self.entry is None:
            return {}
        told = ("source", "id", "name")
        return {
            "id": self.id,
            "name": self.entry.name,
            "section": self.key,
            "severity": self.severity.name,
            "status": self.status.name,
            "scenario": self.entry.scenario,
            "access": self.entry.access,
            "evidence": self.verdict,
            "cost": tariff.cost(self.questions),
            "confidence": self.confidence,
            "check": self.entry.check,
            "remedy": self.entry.remedy,
            "references": [{each: getattr(one, each) for each in told} for one in self.entry.references],
            "mitigations": [{each: getattr(one, each) for each in told} for one in self.entry.mitigations],
        }


@dataclass(frozen=True)
class Verdict:
    """What all findings together come to.

    Attributes:
        subject: The model's name.
        findings: In the order of telling.
        tariff: What asking costs whoever asks.
        fail_on: The least severity that ends in exit code 7; None if none does.
    """

    subject: str
    findings: tuple[Finding, ...]
    tariff: Tariff = field(default_factory=Tariff)
    fail_on: Severity | None = None

    @property
    def status(self) -> Status:
        """The worst of the findings; without any, nothing was measured."""
        return max((finding.status for finding in self.findings), default=Status.not_measured)

    @property
    def exit_code(self) -> int:
        """That of the worst finding; of one that is too severe, unless something was not even measured."""
        worst = max((Ending(each.status, each.code) for each in self.findings), key=_rank, default=None)
        code = INCOMPLETE if worst is None else worst.code
        return SEVERE if code in (FINE, APPROXIMATE) and self.too_severe else code

    @property
    def risks(self) -> tuple[Finding, ...]:
        """The findings that have an identifier, the most severe first; what is unknown comes last."""
        return tuple(sorted((each for each in self.findings if each.id), key=lambda each: -each.severity))

    @property
    def severity(self) -> Severity:
        """The highest of all; unknown if there is none that is known."""
        return max((each.severity for each in self.risks), default=Severity.unknown)

    @property
    def too_severe(self) -> tuple[Finding, ...]:
        """The findings that `fail_on` does not allow."""
        if self.fail_on is None:
            return ()
        return tuple(each for each in self.risks if each.severity >= self.fail_on)

    @property
    def open(self) -> tuple[Finding, ...]:
        """The findings that are not `checked`, the worst first."""
        found = [finding for finding in self.findings if finding.status > Status.checked]
        return tuple(sorted(found, key=lambda finding: -finding.status))

    @property
    def causes(self) -> tuple[str, ...]:
        """One sentence for each finding that is not `checked`: its status, what it was about, and why."""
        return tuple(f"{each.status.words}: {each.title}: {each.cause}." for each in self.open)

    @property
    def headline(self) -> str:
        """The sentence at the top. It claims nothing that was not measured, and names the cause of what was not."""
        # Whatever was read from a model that changed meanwhile was read from two.
        changed = any(each.ended in ("model_changed", "ModelChanged") for each in self.findings)
        held = "" if changed else listed([each.claim for each in self.findings if each.claim])
        worst = [each.cause for each in self.open if each.status is self.status]
        because = "; ".join(dict.fromkeys(worst))
        if not self.findings:
            return f"{self.subject} answered, but nothing was found out about it."
        if self.status is Status.checked:
            return f"{self.subject} {held}." if held else f"{self.subject} was measured; there is nothing to report."
        if self.status is Status.approximate and held:
            # What makes no claim of its own leaves the claims of the others as they are.
            rough = "Approximately: " if any(each.claim for each in self.open) else ""
            return f"{rough}{self.subject} {held}."
        part = "Part of what" if held else "What"
        told = {
            Status.approximate: f"What is said of {self.subject} is approximate: {because}.",
            Status.not_measured: f"Not everything about {self.subject} was measured: {because}.",
            Status.failed: f"{part} was found of {self.subject} failed its check: {because}.",
        }[self.status]
        return (
            f"{told} What {'holds' if self.status is Status.failed else 'was measured'}: it {held}." if held else told
        )

    def figures(self) -> dict[str, Any]:
        """What the JSON says of it."""
        return {
            "verdict": self.headline,
            "status": self.status.name,
            "exit_code": self.exit_code,
            "causes": list(self.causes),
            "outcomes": {each.key: each.ended for each in self.findings},
            "severity": self.severity.name,
            "findings": [each.figures(self.tariff) for each in self.risks],
        }


def listed(claims: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(claims[:-1]), *claims[-1:]]))
