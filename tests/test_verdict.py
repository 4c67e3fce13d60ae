"""One verdict: headline, sections, JSON and exit code follow from the same endings and cannot contradict each other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.helpers import assert_rate, onnx_net, random_weights
from unveil import BadInput, BudgetExceeded, Oracle, Outcome, SourceError, as_oracle, row_span
from unveil.audit.page import Page
from unveil.audit.run import run
from unveil.audit.section import Section
from unveil.audit.sections import span as span_section
from unveil.audit.sections.defences import section as defences_section
from unveil.audit.sections.forgetting import FORGETTING
from unveil.audit.sections.identification import _ended as identified
from unveil.audit.sections.span import SPAN
from unveil.audit.sections.span_check import LARGER, LOOKS, SpanCheck, larger_inputs
from unveil.audit.stage import Audit, Stage
from unveil.audit.verdict import APPROXIMATE, EXIT_CODES, FINE, Status, advice, cause, ending, exit_code
from unveil.blackbox.defences import Defence, settled
from unveil.blackbox.span import RowSpan
from unveil.cli import app
from unveil.identification.method import Identification
from unveil.outcome import StepAnswers, StoreError, UnsteadyAnswers, UnveilError, WorkerLost
from unveil.whitebox.network import Network

RELIED_ON = {"complete", "nothing_to_find", "full_rank"}


def test_every_outcome_has_a_status_and_a_documented_code() -> None:
    for outcome in Outcome:
        meant = ending(outcome)
        assert (meant.status is Status.checked) == (outcome.name in RELIED_ON)
        assert meant.code in EXIT_CODES
        assert (meant.code == FINE) == (meant.status is Status.checked)
        assert (meant.code == APPROXIMATE) == (meant.status is Status.approximate)
        assert exit_code(outcome) == meant.code
        assert cause(outcome)
        assert cause(outcome).lower() in outcome.value.lower()
        assert advice(outcome) in outcome.value
    for error in (BudgetExceeded, SourceError, UnsteadyAnswers, BadInput, StoreError, WorkerLost, UnveilError):
        assert ending(error("why")).status is Status.not_measured
        assert cause(error("why.")) == "why"
    with open("docs/audit.md", encoding="utf-8") as page:
        told = page.read()
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in told


def test_the_worst_ending_is_that_of_the_whole() -> None:
    assert exit_code() == FINE
    for few in itertools.product(Outcome, repeat=2):
        worst = max(ending(each).status for each in few)
        assert exit_code(*few) in {ending(each).code for each in few if ending(each).status is worst}
    assert exit_code(Outcome.approximate, Outcome.complete) == APPROXIMATE
    assert exit_code(SourceError("a"), BudgetExceeded("b"), BadInput("c")) == 3


def section(key: str, outcome: Outcome | None, error: UnveilError | None = None) -> Section:
    return Section(key, f"Title {key}", f"Verdict {key}.", claim=f"claims {key}", outcome=outcome, error=error)


def test_headline_sections_json_and_exit_code_agree_for_every_mixture() -> None:
    for few in itertools.product(Outcome, repeat=2):
        page = Page("net.onnx", tuple(section(f"s{i}", outcome) for i, outcome in enumerate(few)))
        told = page.all_figures()
        worst = max(ending(outcome).status for outcome in few)
        assert told["status"] == worst.name == page.status.name
        assert told["exit_code"] == page.exit_code
        assert (page.exit_code == FINE) == (worst is Status.checked)
        assert told["verdict"] == page.verdict
        assert len(told["causes"]) == sum(ending(outcome).status > Status.checked for outcome in few)
        plainly = page.verdict.startswith("net.onnx claims")
        assert plainly == (worst is Status.checked)
        for i, outcome in enumerate(few):
            status = ending(outcome).status
            assert told[f"s{i}"]["status"] == status.name
            changed = Outcome.model_changed in few  # then nothing that was read holds
            assert (f"claims s{i}" in page.verdict) == (status <= Status.approximate and not changed)
            assert bool(told[f"s{i}"]["cause"]) == (status > Status.checked)
            if status is worst > Status.approximate:
                assert cause(outcome) in page.verdict


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_page_shows_the_same(outcome: Outcome) -> None:
    page = Page("net.onnx", (section("s", outcome),))
    text, finding = unescape(page.html()), page.sections[0].finding
    assert finding is not None
    assert f"<h1>{page.verdict}</h1>" in text
    assert f"{finding.status.words}</p>" in text
    assert (f"</span> {finding.cause}." in text) == (finding.status > Status.checked)


def test_a_claim_needs_an_outcome() -> None:
    with pytest.raises(BadInput, match="no outcome"):
        Section("span", "t", "v", claim="sees nothing")


def woken(x: np.ndarray) -> np.ndarray:
    """Two directions near the origin; far out, where random points never are, ten others."""
    rows = np.random.default_rng(0).standard_normal((12, 20)) / np.sqrt(20)
    return x @ rows[:2].T + np.abs(np.maximum(np.abs(x @ rows[2:].T) - 40, 0)).sum(axis=1)[:, None] * [1.0, -1.0]


def test_a_span_that_hidden_noise_refutes_is_not_claimed() -> None:
    examples = 12 * np.random.default_rng(1).standard_normal((16, 20))
    page = run(Audit(as_oracle(woken, shape=20), examples))
    told, text = page.all_figures(), page.html()
    assert told["obfuscation"]["free"]["unchanged"] < 16
    assert (told["span"]["status"], told["obfuscation"]["status"]) == ("failed", "failed")
    assert (told["span"]["hidden"], told["span"]["confidence"]) == (None, 0.0)
    assert page.exit_code == 1
    assert "cannot see" not in text
    assert "leaves every answer as it is" not in text
    assert "answers changed under noise" in page.verdict
    assert told["span"]["cause"] in page.verdict
    assert ("span.rank", "input directions found so far") in page.facts


def made(rank: int, outcome: Outcome = Outcome.complete, n: int = 20, left_out: float = 0.0) -> RowSpan:
    return RowSpan(np.eye(n)[:rank], np.ones(rank), 1e-6, 1e-5, 0.95, 0.01, left_out, 100, outcome)


def test_a_span_whose_own_check_fails_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the search returned, fresh points say otherwise.
    monkeypatch.setattr(span_section, "find_span", lambda *_, **__: made(3))
    page = run(Audit(as_oracle(lambda x: np.tanh(x @ np.eye(20)[:, :6]), shape=20)), [SPAN])
    told = page.all_figures()["span"]
    assert told["check"]["along_the_rest"] > 0.1 > told["check"]["allowed"]
    assert (told["status"], page.exit_code) == ("failed", 1)
    assert "cannot see" not in page.html()
    assert told["cause"] in page.verdict
    monkeypatch.setattr(span_section, "find_span", lambda *_, **__: made(6))
    page = run(Audit(as_oracle(lambda x: np.tanh(x @ np.eye(20)[:, :6]), shape=20)), [SPAN])
    assert (page.status, page.exit_code) == (Status.checked, 0)
    assert "cannot see 14 of its 20" in page.verdict


RAW = np.array([1000, 3e4, 500, 200, 4000])


def neurons(seed: int, at: np.ndarray, unit: np.ndarray, curve: Callable[[np.ndarray], np.ndarray]) -> Oracle:
    rng = np.random.default_rng(seed)
    w, b, v = rng.standard_normal((8, 5)), rng.standard_normal(8), rng.standard_normal(8)
    return as_oracle(lambda x: curve((x - at) / unit @ w.T + b) @ v, shape=5)


@pytest.mark.parametrize("curve", [lambda s: np.maximum(s, 0), np.tanh])
def test_of_a_model_in_raw_units_asked_at_random_points_it_is_told_that_larger_inputs_show_more(
    curve: Callable[[np.ndarray], np.ndarray],
) -> None:
    told = []
    for seed in range(20):
        page = run(Audit(neurons(seed, RAW, RAW / 20, curve)), [SPAN])
        figures = page.all_figures()["span"]
        told.append(figures["status"] == "not_measured" or "ask again with --inputs" in figures["verdict"])
        assert figures["status"] == "not_measured" or not told[-1] or "at random inputs of size 1" in page.verdict
        assert "cannot see" not in page.verdict
    assert_rate(told, 0.9)


def test_of_a_model_that_sees_three_directions_everywhere_nothing_is_told_of_larger_inputs() -> None:
    alarms = []
    for seed in range(20):
        w = np.random.default_rng(seed).standard_normal((3, 8))
        for curve in (lambda s: np.maximum(s, 0), np.tanh, np.sin, lambda s: s**2):
            oracle = as_oracle(lambda x, w=w, curve=curve: curve(x @ w.T + 1), shape=8)
            span = row_span(oracle, rng=np.random.default_rng(seed))
            before = oracle.ledger.asked
            alarms.append(larger_inputs(Audit(oracle), span) is not None)
            assert oracle.ledger.asked - before == 3 * LOOKS * len(LARGER)
    assert not any(alarms)


def test_larger_inputs_that_have_no_answer_tell_nothing_and_cost_one_question() -> None:
    oracle = as_oracle(lambda x: np.where(np.abs(x) > 8, np.nan, x[:, [0]]), shape=4)
    audit, before = Audit(oracle), oracle.ledger.asked
    assert larger_inputs(audit, made(1, n=4)) is None
    assert oracle.ledger.asked - before == 1


@pytest.mark.parametrize("outcome", list(Outcome))
def test_no_outcome_of_a_span_is_told_better_than_it_is(outcome: Outcome) -> None:
    told = span_section.section(made(5, outcome))
    finding = told.finding
    assert finding is not None
    assert finding.status is ending(outcome).status
    assert bool(finding.claim) == (finding.status <= Status.approximate)
    assert told.figures["hidden"] == (15 if finding.status <= Status.approximate else None)
    assert finding.claim.startswith("cannot see") == (outcome.name in RELIED_ON)
    for clause in ("it answered otherwise", ""):
        again = told.refuted(clause) if clause and told.refuted else told
        assert again.outcome is (Outcome.check_failed if clause else outcome)
    unchecked = span_section.section(made(5), check=SpanCheck(None, 0.01))
    assert unchecked.outcome is Outcome.budget_ended
    assert not unchecked.claim


def test_a_budget_that_ends_and_a_stage_that_is_refused_change_the_headline() -> None:
    def refused(audit: Audit) -> Section | None:
        raise BadInput("its inputs are whole numbers")

    oracle = as_oracle(lambda x: np.tanh(x[:, :3]), shape=30, budget=140)
    page = run(Audit(oracle), [SPAN])
    assert (page.exit_code, page.status) == (4, Status.not_measured)
    assert "the budget ended" in page.verdict
    page = run(
        Audit(as_oracle(lambda x: np.tanh(x[:, :3]), shape=8)), [SPAN, Stage("reading", "Reading weights", refused)]
    )
    assert (page.exit_code, page.status) == (1, Status.not_measured)
    assert "its inputs are whole numbers" in page.verdict
    assert "cannot see 5 of its 8" in page.verdict
    assert page.all_figures()["reading"]["cause"] == "its inputs are whole numbers"


def test_weights_that_are_not_the_models_change_the_headline(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights([12, 6, 3], rng)
    network = Network.from_weights(weights)
    wrong = Network.from_weights([(weights[0][0][::-1] + 0.5, weights[0][1]), weights[1]])
    x = rng.random((20, 12))
    for asked, status in ((network, Status.checked), (wrong, Status.failed)):
        audit = Audit(as_oracle(asked.logits, shape=12, within=(0, 1)), x, findings={"weights": network})
        page = run(audit, [FORGETTING])
        assert page.status is status, page.verdict
    assert "by the weights in hand" in page.verdict


def test_a_network_that_errs_on_fresh_inputs_is_no_network_read() -> None:
    found = Identification(None, Outcome.complete, 1e-9, 100, method="critical points")
    assert identified(found, np.full(500, 2e-9), 1e-8)[0] is Outcome.complete
    assert identified(found, np.r_[np.full(499, 2e-9), 0.02], 1e-8)[0] is Outcome.check_failed
    assert identified(found, np.empty(0), 1e-8)[0] is Outcome.budget_ended
    for outcome in Outcome:
        if outcome is not Outcome.complete:
            assert identified(replace(found, outcome=outcome), np.zeros(500), 1e-8) == (outcome, "")


def test_no_defence_is_listed_as_better_than_a_coarser_one_that_leaks_more() -> None:
    rng = np.random.default_rng(0)
    outcomes = [*Outcome, None]
    for _ in range(300):
        drawn = []
        for i in range(5):
            outcome = outcomes[rng.integers(len(outcomes))]
            rank = 0 if outcome is Outcome.nothing_to_find else int(rng.integers(7))
            drawn.append(Defence(f"kind {i}", rank, float(rng.random()), 10, outcome))
        found = settled(drawn)
        leaks = [each.leaks for each in found]
        assert leaks == sorted(leaks, reverse=True)
        for i, each in enumerate(found):
            same = [other.leaks_accuracy for other in found[i:] if other.leaks == each.leaks]
            assert each.leaks_accuracy == min(same)
            whole = [other.rank for other in found[:i] if other.outcome is Outcome.complete]
            assert each.leaks <= min(whole, default=99)
            assert not (each.measured and each.rank < each.leaks)
        told = defences_section(found)
        rows = [row["ended"] for row in told.values["rows"]]
        for each, words in zip(found, rows, strict=True):
            assert words.startswith("this attack failed") == (not each.measured)
            if words.startswith("nothing leaks"):
                assert each.leaks == 0
        assert (told.outcome is Outcome.complete) <= all(each.measured for each in found)


def test_an_attack_on_labels_that_failed_is_no_defence() -> None:
    found = settled(
        [
            Defence("values", 6, 1e-6, 100, Outcome.complete),
            Defence("values, 2 decimals", 0, 1.0, 50, None, "the answers are too coarse"),
            Defence("labels only", 4, 0.1, 900, Outcome.budget_ended),
        ]
    )
    assert [each.leaks for each in found] == [6, 4, 4]
    told = defences_section(found)
    assert "failed" in told.verdict
    assert "was not shown" in told.verdict
    assert "too coarse" in told.values["rows"][1]["ended"]
    assert told.outcome is Outcome.approximate


def test_commands_end_with_the_same_codes_and_say_why_in_json(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    weights = random_weights([8, 3, 2], np.random.default_rng(0), dtype=np.float32)
    model = str(onnx_net(weights, folder / "model.onnx"))
    runner = CliRunner()
    ended = runner.invoke(app, ["span", model, "--budget", "60", "--json"])
    assert ended.exit_code == 4
    refused = runner.invoke(app, ["span", str(folder / "missing.onnx"), "--json"])
    told = json.loads(refused.stdout)
    assert refused.exit_code == told["exit_code"] == 2
    assert "missing.onnx" in told["causes"][0]
    page = folder / "page.html"
    audited = runner.invoke(app, ["audit", model, "--budget", "100", "--report", str(page), "--json"])
    told = json.loads(audited.stdout)
    assert audited.exit_code == told["exit_code"] == 4
    assert any("the budget ended" in line for line in told["causes"])
    audited = runner.invoke(app, ["audit", model, "--budget", "100", "--report", str(page)])
    assert "the budget ended" in audited.stdout


def test_steps_end_alike_as_an_outcome_and_as_an_error() -> None:
    assert exit_code(StepAnswers("in steps")) == exit_code(Outcome.answers_in_steps) == 1


def test_a_span_whose_check_fails_never_exits_with_0(tmp_path, monkeypatch) -> None:
    model = onnx_net(random_weights([12, 3, 2], np.random.default_rng(0)), tmp_path / "model.onnx")
    assert CliRunner().invoke(app, ["span", str(model)]).exit_code == 0
    monkeypatch.setattr(RowSpan, "check", lambda self, oracle, *, rng, points=100: 0.9)
    failed = CliRunner().invoke(app, ["span", str(model), "--json"])
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["outcome"] == "check_failed"
