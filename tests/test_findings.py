"""Findings: page, terminal, JSON, SARIF and exit code say the same; the JSON keeps to its schema; no secret is told."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from html import unescape
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import unveil as uv
from tests.helpers import onnx_net, random_weights
from tests.test_page import CHROMIUM, Elements, assert_self_contained
from unveil import BadInput, Outcome
from unveil.audit.actions import actions
from unveil.audit.baseline import changes, read_baseline
from unveil.audit.catalogue import CATALOGUE
from unveil.audit.page import Page
from unveil.audit.provenance import provenance
from unveil.audit.run import run
from unveil.audit.sarif import LEVELS, sarif
from unveil.audit.section import Section
from unveil.audit.sections.identification import IDENTIFICATION
from unveil.audit.severity import AFFORDABLE, SEVERITIES, Severity, Tariff
from unveil.audit.stage import Audit
from unveil.audit.verdict import FINE, SEVERE, Status, ending
from unveil.audit.words import TERMS
from unveil.cli import app

SCHEMA = Draft202012Validator(json.loads((files("unveil.audit") / "schemas" / "audit-1.json").read_text()))
ROOT = Path(__file__).parent.parent


def page(*told: tuple[str, Outcome, Severity], **more: object) -> Page:
    sections = tuple(
        Section(key, f"Title {key}", f"Verdict {key}.", outcome=outcome, severity=severity, questions=1000)
        for key, outcome, severity in told
    )
    figures = {"queries": 1, "sent": 1, "budget": None, "seed": 0, "tested": provenance("net.onnx").figures()}
    return Page("net.onnx", sections, figures, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_form_of_a_finding_says_the_same(outcome: Outcome) -> None:
    for severity, least in itertools.product(list(Severity)[1:], [None, *list(Severity)[2:]]):
        made = page(("span", outcome, severity), ("outputs", Outcome.complete, Severity.low), fail_on=least)
        told = made.all_figures()
        results = {each["ruleId"]: each for each in sarif(made)["runs"][0]["results"]}
        known = ending(outcome).status <= Status.approximate
        # That there is nothing was measured only where it was measured to its end.
        open_ = not known or (severity is Severity.none and ending(outcome).status is not Status.checked)
        expected = Severity.unknown if open_ else severity
        by_id = {each["id"]: each for each in told["findings"]}
        assert by_id["UNV-SPAN"]["severity"] == expected.name
        assert (results["UNV-SPAN"]["kind"], results["UNV-SPAN"]["level"]) == LEVELS[expected]
        assert results["UNV-SPAN"]["properties"]["status"] == by_id["UNV-SPAN"]["status"]
        if least is None:
            SCHEMA.validate(told)
        too_severe = least is not None and max(expected, Severity.low) >= least
        code = ending(outcome).code
        assert made.exit_code == told["exit_code"] == (SEVERE if too_severe and known else code)
        assert sarif(made)["runs"][0]["invocations"][0]["exitCode"] == made.exit_code
        if severity is Severity.high and least is None:
            assert f'<span class="severity {expected.name}"' in made.html()
        assert told["severity"] == max(expected, Severity.low).name


@pytest.mark.parametrize(
    ("outcome", "network", "severity"),
    [
        (Outcome.complete, True, Severity.high), (Outcome.approximate, True, Severity.medium),
        (Outcome.approximate, False, Severity.unknown), (Outcome.check_failed, True, Severity.unknown),
        (Outcome.nothing_to_find, False, Severity.none),
    ],
)  # fmt: skip
def test_a_network_read_approximately_is_part_of_the_model(
    outcome: Outcome, network: bool, severity: Severity, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = uv.Network.from_weights([(np.array([[1.0, 0.0], [-1.0, 0.5]]), np.zeros(2))])
    oracle, examples = uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=2, answers="labels"), np.eye(2)
    given = []

    def read(oracle: object, *, rng: object, x: object) -> uv.Identification:
        given.append(x)
        return uv.Identification(net if network else None, outcome, 9, 0.0, "hard labels", labels=(0, 1))

    monkeypatch.setattr("unveil.identification.identify.identify", read)
    told = run(Audit(oracle, examples), [IDENTIFICATION])
    assert {each.key: each.severity for each in told.findings.findings} == {"identification": severity}
    assert given[0] is examples  # of labels random points may show a single one


def test_an_unknown_severity_is_no_all_clear_and_no_failure() -> None:
    made = page(("span", Outcome.budget_ended, Severity.high), fail_on=Severity.low)
    assert made.findings.severity is Severity.unknown
    assert made.exit_code == ending(Outcome.budget_ended).code != FINE
    assert "no all-clear" in made.html()


def test_what_takes_too_many_questions_is_a_step_less_severe() -> None:
    assert Severity.high.at(AFFORDABLE) is Severity.high
    assert Severity.high.at(AFFORDABLE + 1) is Severity.medium
    assert Severity.medium.at(AFFORDABLE + 1) is Severity.low
    assert Severity.low.at(AFFORDABLE + 1) is Severity.low
    assert Severity.unknown.at(AFFORDABLE + 1) is Severity.unknown


def test_the_docs_define_every_severity_and_list_every_finding() -> None:
    told = (ROOT / "docs" / "findings.md").read_text()
    for words, meaning in SEVERITIES.values():
        assert f"| {words} | {meaning} |" in told
    identifiers = [entry.id for entry in CATALOGUE.values()]
    assert len(set(identifiers)) == len(identifiers)
    for entry in CATALOGUE.values():
        assert f"| `{entry.id}` | {entry.name} |" in told
        for each in (*entry.references, *entry.mitigations):
            assert each.id in told


def test_actions_say_what_was_measured_and_what_was_not() -> None:
    found = page(("span", Outcome.complete, Severity.medium)).findings.risks
    kinds = [
        {"name": "values, float64", "leaks": 6, "queries": 1000, "measured": True, "settled": True, "rank": 6},
        {"name": "values, 4 decimals", "leaks": 6, "queries": 1100, "measured": True, "settled": True, "rank": 6},
        {"name": "labels only", "leaks": 6, "queries": 90_000, "measured": True, "settled": True, "rank": 6},
    ]
    asked = actions(found, {"defences": {"kinds": kinds}}, Tariff(rate=10))
    assert [each.measured for each in asked.first] == [True, True]
    assert "90,000 questions" in asked.first[1].changes
    assert len(asked.idle) == 1
    assert asked.idle[0].startswith("Values, 4 decimals hides none of the 6 directions")
    unasked = actions(found, {}, Tariff(rate=10))
    assert [each.measured for each in unasked.first] == [True, False]
    assert unasked.idle == ()
    # An attack that failed is no defence that helped.
    for measured in (False, True):  # it could not be run to its end, or ended approximately
        kinds[2] |= {"measured": measured, "settled": False, "leaks": 2, "rank": 2}
        failed = actions(found, {"defences": {"kinds": kinds}}, Tariff())
        assert all("labels" not in each.do for each in failed.first)
        assert "could not settle" in failed.idle[-1]
    # One that shows that the others are hidden is.
    kinds[2] |= {"measured": True, "settled": True}
    hidden = actions(found, {"defences": {"kinds": kinds}}, Tariff())
    assert any("labels" in each.do for each in hidden.first)
    nothing = page(("span", Outcome.full_rank, Severity.none)).findings.risks
    assert actions(nothing, {}, Tariff()).first == ()


def test_a_baseline_tells_what_is_new_worse_better_and_not_measured() -> None:
    old = page(
        ("span", Outcome.complete, Severity.medium),
        ("outputs", Outcome.complete, Severity.low),
        ("obfuscation", Outcome.budget_ended, Severity.high),
    )
    new = page(
        ("span", Outcome.complete, Severity.high),
        ("obfuscation", Outcome.complete, Severity.none),
        ("identification", Outcome.complete, Severity.high),
        baseline=old.all_figures(),
    )
    told = new.all_figures()["changes"]
    SCHEMA.validate(new.all_figures())
    assert {each["id"]: each["change"] for each in told["findings"]} == {
        "UNV-SPAN": "more severe",
        "UNV-WEIGHTS": "new",
        "UNV-NOISE": "measured now",
        "UNV-OUTPUTS": "not told now",
    }
    assert told["worse"] == ["UNV-SPAN", "UNV-WEIGHTS"] or set(told["worse"]) == {"UNV-SPAN", "UNV-WEIGHTS"}
    assert changes(old.all_figures(), old.all_figures())["findings"] == []
    assert "Severity then" in new.html()


def test_what_is_no_audit_is_no_baseline(tmp_path: Path) -> None:
    for text, says in (("{", "JSON"), ("[]", "no findings"), ('{"schema": {"name": "x"}}', "no findings")):
        (tmp_path / "old.json").write_text(text)
        with pytest.raises(BadInput, match=says):
            read_baseline(tmp_path / "old.json")
    (tmp_path / "old.json").write_text('{"schema": {"name": "unveil-audit", "version": "2.0"}, "findings": []}')
    with pytest.raises(BadInput, match=r"2\.0"):
        read_baseline(tmp_path / "old.json")
    with pytest.raises(BadInput, match="no file"):
        read_baseline(tmp_path / "none.json")


def test_no_secret_gets_onto_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    words = ["audit", "https://me:pass@host/v2/m?key=hush", "--token", "hush", "--api-key=hush", "--seed", "1"]
    words += ["--request", '{"api_key": "hush", "in": "$questions"}', "--token-file", "where.txt"]
    made = provenance("m", words[1], 1, words)
    assert made.server == "https://host/v2/m"
    assert "hush" not in json.dumps(made.figures())
    assert "pass" not in json.dumps(made.figures())
    assert "--token-file where.txt" in made.command
    assert "--seed 1" in made.command
    assert made.when == "1970-01-01T00:00:00Z"


def test_the_words_of_the_page_are_explained_on_it(tmp_path: Path) -> None:
    body = "{{ term('rank') }} {{ term('noise floor', 'floor') }}"
    text = Page("m", (Section("s", "t", "v", body),)).html()
    elements = Elements(text)
    ids = {attributes.get("id") for _, attributes in elements.tags}
    links = [
        attributes["href"] for tag, attributes in elements.tags if tag == "a" and attributes.get("class") == "term"
    ]
    assert links == ["#word-rank", "#word-noise-floor"]
    assert {"word-rank", "word-noise-floor"} <= ids
    assert TERMS["noise floor"] in unescape(text)
    assert "word-softmax" not in ids


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory):
    """One audit of a small file with every way of telling that needs no browser."""
    folder = tmp_path_factory.mktemp("findings")
    model = onnx_net(random_weights([20, 4, 3], np.random.default_rng(1)), folder / "net.onnx")
    words = ["--report", folder / "a.html", "--sarif", folder / "a.sarif", "--price", "2", "--rate", "5", "--json"]
    said = CliRunner().invoke(app, ["audit", *map(str, [model, *words, "--fail-on", "high"])])
    return folder, model, said


def test_an_audit_says_what_was_tested_and_what_it_costs(audited) -> None:
    folder, model, said = audited
    figures = json.loads((folder / "a.json").read_text())
    SCHEMA.validate(figures)
    SCHEMA.validate(json.loads(said.stdout))
    tested = figures["tested"]
    assert tested["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert tested["size"] == model.stat().st_size
    assert tested["command"].startswith("unveil audit ")
    assert "--price 2" in tested["command"]
    by_id = {each["id"]: each for each in figures["findings"]}
    assert by_id["UNV-NOISE"]["severity"] == "high"
    assert said.exit_code == figures["exit_code"] == SEVERE
    # Noise needs the span first: its questions count as well.
    spent = {each["section"]: each["questions"] for each in figures["asked"]["for"]}
    span = by_id["UNV-SPAN"]["cost"]
    assert span["questions"] == spent["Which directions of the input it sees"]
    assert by_id["UNV-NOISE"]["cost"]["questions"] == span["questions"] + spent["Inputs buried in noise"]
    assert span["seconds"] == span["questions"] / 5
    assert span["money"] == span["questions"] * 2 / 1000
    run = json.loads((folder / "a.sarif").read_text())["runs"][0]
    assert run["artifacts"][0]["hashes"]["sha-256"] == tested["sha256"]
    rules = [each["id"] for each in run["tool"]["driver"]["rules"]]
    assert [rules[each["ruleIndex"]] for each in run["results"]] == [each["ruleId"] for each in run["results"]]
    assert_self_contained((folder / "a.html").read_text())


def test_sarif_is_valid_by_its_schema(audited) -> None:
    """Against classes that were generated from the standard's own JSON schema; they allow no key beside its."""
    model = pytest.importorskip("pydantic_sarif.model")
    told = json.loads((audited[0] / "a.sarif").read_text())
    model.StaticAnalysisResultsFormatSarifVersion210JsonSchema.model_validate(told)
    told["runs"][0]["results"][0]["severity"] = "high"
    with pytest.raises(ValueError, match="severity"):
        model.StaticAnalysisResultsFormatSarifVersion210JsonSchema.model_validate(told)


def test_every_table_of_the_page_has_a_caption_and_scopes(audited) -> None:
    elements = Elements((audited[0] / "a.html").read_text())
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("table") == tags.count("caption") >= 3
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in elements.tags if tag == "th")
    # Every link inside the page leads somewhere, and headings follow one another without a gap.
    ids = {attributes.get("id") for _, attributes in elements.tags}
    targets = [attributes["href"][1:] for tag, attributes in elements.tags if tag == "a"]
    assert set(targets) <= ids
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_a_second_audit_says_on_the_terminal_what_changed(audited) -> None:
    folder, model, _ = audited
    words = ["audit", str(model), "--report", str(folder / "b.html"), "--baseline", str(folder / "a.json")]
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.stderr
    assert "Since the baseline: nothing changed." in again.stdout
    assert "High    UNV-NOISE" in again.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fail-on", "grave"], "--fail-on must be"),
        (["--rate", "0"], "--rate must be"),
        (["--price", "-1"], "--price must be"),
        (["--sarif", "a.txt"], "--sarif must end"),
        (["--sarif", "audit.json"], "would overwrite"),
        (["--pdf", "a.html"], "--pdf must end"),
        (["--baseline", "none.json"], "no file none.json"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_asked(words, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("def ask(x): raise RuntimeError('asked')\n")
    ended = CliRunner().invoke(app, ["audit", "model.py:ask", "--shape", "3", *words])
    assert ended.exit_code == 2
    assert says in ended.stderr


def test_without_a_browser_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from unveil.audit.printing import browser

    monkeypatch.setenv("UNVEIL_BROWSER", "no-such-browser")
    with pytest.raises(BadInput, match="no-such-browser"):
        browser()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_page_is_printed(audited, tmp_path: Path) -> None:
    from unveil.audit.printing import print_page

    print_page(audited[0] / "a.html", tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_page_without_findings_has_no_empty_tables() -> None:
    text = replace(page(), figures={}).html()
    assert "<table" not in text
    assert 'id="findings"' not in text


def test_the_page_stands_beside_reference_models(audited) -> None:
    from unveil.audit.sections.beside import reference_models

    figures = json.loads((audited[0] / "a.json").read_text())
    assert figures["beside"]["share_unseen"] == 1 - figures["span"]["rank"] / 20
    told = reference_models()
    assert (ROOT / told["measured by"].split()[0]).is_file()
    for row in told["models"]:
        # Nothing can show more directions than the first layer has neurons, or the model inputs.
        assert 0 < row["rank"] <= min(row["neurons"], row["n"])
        assert row["queries"] > 0


def test_approximately_nothing_is_no_finding_of_a_defence() -> None:
    from unveil.blackbox.defences import Defence

    kind = {"name": "labels only", "accuracy": 1.0, "queries": 8000}
    assert not Defence(rank=0, outcome=Outcome.approximate, **kind).measured
    assert Defence(rank=0, outcome=Outcome.nothing_to_find, **kind).settled
    some = Defence(rank=2, leaks=2, outcome=Outcome.approximate, **kind)
    assert some.measured
    assert not some.settled
