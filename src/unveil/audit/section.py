"""Section: one finding, ready to be told on the page, in the JSON and as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from unveil.audit.severity import Severity
from unveil.audit.verdict import Finding, Status, cause, ending
from unveil.outcome import BadInput, Outcome, UnveilError

_NOTHING = Markup("")


@dataclass(frozen=True)
class Section:
    """One finding.

    Attributes:
        key: One word; the place of `figures` in the JSON and of the section on the page (`#span`).
        title: A few words.
        verdict: One sentence a hurried reader takes away; plain text, escaped by the page.
        body: A jinja2 template of HTML, written by us. It sees `values`, every figure by its path through
            `{{ figure("rank") }}`, the text helpers `brief`, `count`, `share` and `seconds`, and `{{ code(text) }}` for
            lines to copy (`STEM + ".basis.npz"` in them becomes the name of that file beside the page). Everything it
            inserts is escaped unless it is `Markup`, so nothing from outside may be put into the template itself.
        values: What else the template needs: texts, drawings (`draw_input`, `Chart.svg`), lists of rows.
        figures: Every number of the finding, as the JSON will hold it (arrays and outcomes are welcome).
        files: Files to write beside the page: a name such as `basis.npz`, and its arrays or its text.
        claim: What the page's headline says of the model if this was measured, in the order of sections, e.g. "cannot
            see 704 of its 784 input directions"; empty if there is nothing that belongs there.
        emblem: A drawing for the top of the page; the first section that has one wins.
        outcome: How the finding ended. None for a section that only tells what was done: such a one claims nothing.
        error: What ended it instead.
        cause: Why it is not "measured and checked", a clause; by default what the outcome or the error says.
        next_steps: What to do about it: one sentence each.
        refutes: Keys of earlier sections whose finding this one shows to be wrong, and what shows it, a clause.
        refuted: How this section is told if a later one refutes it; gets the clause.
        severity: What an attacker gains by what was measured (docs/findings.md). That there is nothing to gain was
            measured only where it ended `checked`; else it is unknown.
        confidence: How sure it is, a clause; by default what the status says.
        known: Answers of the first look that it stands on.
        questions: What it took, `known` and the sections it stands on included; `run` counts it.

    Raises:
        BadInput: A claim without an outcome.
    """

    key: str
    title: str
    verdict: str
    body: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, np.ndarray] | str] = field(default_factory=dict)
    claim: str = ""
    emblem: Markup = _NOTHING
    outcome: Outcome | None = None
    error: UnveilError | None = None
    cause: str = ""
    next_steps: tuple[str, ...] = ()
    refutes: Mapping[str, str] = field(default_factory=dict)
    refuted: Callable[[str], Section] | None = None
    severity: Severity = Severity.none
    confidence: str = ""
    known: int = 0
    questions: int = 0

    def __post_init__(self) -> None:
        if self.claim and self.outcome is None:
            raise BadInput(f"section {self.key!r} claims something, but has no outcome that would say how sure it is")

    @property
    def finding(self) -> Finding | None:
        """What it contributes to the verdict; None if it only tells what was done."""
        ended = self.error or self.outcome
        if ended is None:
            return None
        meant = ending(ended)
        sure = meant.status is Status.checked
        known = meant.status <= Status.approximate
        why = "" if sure else self.cause or cause(ended)
        severity = self.severity.at(self.questions) if known else Severity.unknown
        if severity is Severity.none and not sure:
            severity = Severity.unknown
        return Finding(
            key=self.key,
            title=self.title,
            ended=ended.name if isinstance(ended, Outcome) else type(ended).__name__,
            status=meant.status,
            code=meant.code,
            verdict=self.verdict,
            cause=why,
            claim=self.claim if known else "",
            severity=severity,
            questions=self.questions,
            confidence=self._confidence(meant.status, why),
        )

    def _confidence(self, status: Status, why: str) -> str:
        told = status.words.lower() + (f": {why}" if why else "")
        return f"{told}; {self.confidence}" if self.confidence and status <= Status.approximate else told
