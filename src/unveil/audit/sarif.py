"""SARIF 2.1.0: the findings as security tooling reads them. What the page says, in another form."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from unveil.audit.catalogue import CATALOGUE, Entry
from unveil.audit.page import Page
from unveil.audit.provenance import version
from unveil.audit.severity import Severity
from unveil.audit.text import count, printable, seconds
from unveil.audit.verdict import FINE, SEVERE, Finding, Status

LEVELS = {
    Severity.high: ("fail", "error"),
    Severity.medium: ("fail", "warning"),
    Severity.low: ("fail", "note"),
    Severity.none: ("pass", "none"),
    Severity.unknown: ("open", "none"),
}
"""`kind` and `level` of a result, by the severity of a finding."""

SCORES = {Severity.high: "8.0", Severity.medium: "5.0", Severity.low: "2.0"}
"""`security-severity`, by which code hosts sort; of a finding's own severity."""


def sarif(page: Page) -> dict[str, Any]:
    """A page's findings as one SARIF run."""
    tested = dict(page.figures.get("tested", {}))
    findings = page.findings.risks
    entries = [CATALOGUE[each.key] for each in findings]
    driver: dict[str, Any] = {"name": "unveil", "rules": [_rule(each) for each in entries]}
    if version():
        driver["version"] = version()
    artifact: dict[str, Any] = {"location": {"uri": _uri(page, tested)}, "roles": ["analysisTarget"]}
    if tested.get("sha256"):
        artifact |= {"hashes": {"sha-256": tested["sha256"]}, "length": tested["size"]}
    invocation: dict[str, Any] = {
        "executionSuccessful": page.exit_code in (FINE, SEVERE) or page.status <= Status.approximate,
        "exitCode": page.exit_code,
        "toolExecutionNotifications": [
            {"level": "warning", "message": {"text": printable(cause, 2000)}} for cause in page.findings.causes
        ],
    }
    if tested.get("command"):
        invocation["commandLine"] = printable(tested["command"], 4000)
    if tested.get("when"):
        invocation["endTimeUtc"] = tested["when"]
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"unveil/{printable(page.subject)}/"},
        "invocations": [invocation],
        "artifacts": [artifact],
        "results": [_result(page, each, i, artifact["location"]) for i, each in enumerate(findings)],
        "properties": {"verdict": printable(page.verdict, 2000), "status": page.status.name},
    }
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}


def _rule(entry: Entry) -> dict[str, Any]:
    filed = [f"{each.source} {each.id} {each.name}" for each in (*entry.references, *entry.mitigations)]
    return {
        "id": entry.id,
        "name": "".join(word.capitalize() for word in entry.id.split("-")),
        "shortDescription": {"text": entry.name},
        "fullDescription": {"text": entry.scenario},
        "help": {"text": f"{entry.remedy} To check: {entry.check} Filed under: {'; '.join(filed)}."},
        "properties": {"tags": ["security", *(each.id for each in entry.references)]},
    }


def _result(page: Page, finding: Finding, place: int, location: dict[str, Any]) -> dict[str, Any]:
    kind, level = LEVELS[finding.severity]
    cost = page.tariff.cost(finding.questions)
    text = f"{finding.verdict} Cost: {count(finding.questions, 'question')}"
    text += f", {seconds(cost['seconds'] or 0.0)} at {page.tariff.rate:g} a second. Confidence: {finding.confidence}."
    properties: dict[str, Any] = {"severity": finding.severity.name, "status": finding.status.name, "cost": cost}
    if finding.severity in SCORES:
        properties["security-severity"] = SCORES[finding.severity]
    return {
        "ruleId": finding.id,
        "ruleIndex": place,
        "kind": kind,
        "level": level,
        "message": {"text": printable(text, 4000)},
        "locations": [{"physicalLocation": {"artifactLocation": {**location, "index": 0}}}],
        "partialFingerprints": {"finding/v1": f"{finding.id}:{printable(page.subject)}"},
        "properties": properties,
    }


def _uri(page: Page, tested: dict[str, Any]) -> str:
    if tested.get("server"):
        return str(tested["server"])
    return quote(PurePath(page.subject).name or "model")
