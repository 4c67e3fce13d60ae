"""Parts of an audit by themselves: the figures on the page are those of what was found."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.audit.limits import untried
from unveil.audit.run import run
from unveil.audit.sections import answers, checking, extraction, identification, outputs, sensitivity
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage, held
from unveil.audit.stages import STAGES
from unveil.blackbox.source import float_dtype
from unveil.blackbox.sources.apis import endpoint_of, huggingface, mlflow, openai, sagemaker, tfserving, torchserve
from unveil.blackbox.store_claim import claim
from unveil.outcome import BadInput, StoreError


def test_what_was_not_tried_is_what_has_a_flag_and_no_section() -> None:
    flagged = {stage.flag: stage.key for stage in STAGES if stage.flag in ("--defences", "--identify", "--weights")}
    assert len(flagged) == 3
    nothing = untried((), {})
    for flag, key in flagged.items():
        assert any(flag in clause for clause in nothing)
        assert not any(flag in clause for clause in untried([key], {}))
    assert any("range" in clause for clause in untried((), {"oracle": {"within": (0, 1), "inputs": 5}}))
    assert len(untried((), {"oracle": {"inputs": 5}})) == len(nothing) - 1


@pytest.mark.parametrize("likely", [0, 100, 700, 1700, 10**9])
def test_a_step_leaves_of_a_budget_what_a_flag_asked_for_later_needs_but_has_half(likely: int) -> None:
    audit = Audit(uv.as_oracle(lambda x: x, 2, budget=1000))
    ledger, asked = audit.oracle.ledger, audit.oracle.ledger.asked
    left = ledger.left
    first, unasked = (
        Stage("first", "", lambda audit: None),
        Stage("third", "", lambda audit: None, lambda a: (1e9, 1e9)),
    )
    wanted = Stage("second", "", lambda audit: None, lambda audit: (likely, likely), flag="--second")
    with held(audit, first, (wanted, unasked)):
        assert ledger.left == left - (min(likely, left // 2) if likely < 2 * left else 0)
    assert ledger.budget == 1000
    assert ledger.asked == asked
    with held(audit, wanted, (unasked,)):
        assert ledger.left == left
    assert ledger.budget == 1000


def test_a_page_of_outputs_has_the_rank_of_the_last_layer(rng: np.random.Generator) -> None:
    network = uv.Network.from_weights(random_weights((8, 5, 12), rng, bias=0.5), "tanh")
    span = uv.output_span(uv.as_oracle(network, 8), rng=rng)
    told = outputs.section(span, known=7)
    assert told.figures["rank"] == 5
    assert told.figures["answers"] == span.queries + 7
    last = network.layers[-1].dense()
    basis = outputs.arrays(span)["basis"]
    np.testing.assert_allclose(last - basis.T @ (basis @ last), 0, atol=1e-9)
    assert "5" in told.claim
    full = uv.output_span(uv.as_oracle(lambda x: x[:, :3], 8), rng=rng)
    assert not outputs.section(full).claim


def test_labels_shifted_by_one_are_doubted_and_right_or_random_ones_are_not(rng: np.random.Generator) -> None:
    told = rng.integers(10, size=400)
    assert "+1" in answers._doubted(told, told - 1)
    assert not answers._doubted(told, told)
    assert not answers._doubted(told, rng.integers(10, size=400))
    assert not answers._doubted(told[:9], told[:9] - 1)  # too few to tell


def test_sensitivity_figures_are_eigenvalues_and_scores_of_a_ridge(rng: np.random.Generator) -> None:
    w = np.array([3.0, 0.0, 4.0, 0.0])
    x = rng.uniform(-1, 1, (200, 4))
    found = uv.active_subspace(x, np.tanh(x @ w / 5), rng=rng)
    told = sensitivity.figures(found)
    kept = sensitivity.arrays(found)
    np.testing.assert_allclose(kept["eigenvalues"], found.eigenvalues)
    assert np.abs(found.basis[0] @ w) == pytest.approx(5, rel=1e-2)
    scores = [each["score"] for each in sensitivity._scores(found)]
    assert scores == sorted(scores, reverse=True)
    assert json.dumps(told, default=lambda v: np.asarray(v).tolist())
    spectrum, one, two = found.plot().axes[:3]
    shown = spectrum.lines[0].get_ydata()
    np.testing.assert_allclose(shown, np.maximum(found.eigenvalues, found.eigenvalues[0] * 1e-8))
    np.testing.assert_allclose(one.lines[0].get_xdata(), found.coordinates(found.x, 1)[:, 0])
    np.testing.assert_allclose(two.collections[0].get_offsets(), found.coordinates(found.x, 2))


@pytest.mark.parametrize("way", ["free", "boxed"])
def test_lines_to_check_a_finding_with_are_python(way: str, tmp_path: Path) -> None:
    for text in (checking._ONNX, checking._OTHER):
        script = text + (checking._FREE if way == "free" else checking._BOXED)
        compile(script.format(path="m.onnx", name="m", n=12, rank=3, normalise=checking._NORMALISE), "check", "exec")


@pytest.mark.parametrize(
    ("api", "path"), [(mlflow, "/invocations"), (sagemaker, "/invocations"), (tfserving, "/v1/models/m:predict")]
)
def test_an_address_is_completed_once_and_one_output_is_chosen(api, path: str) -> None:
    bare = "http://h:1" + ("/v1/models/m" if api is tfserving else "")
    found, body = api.endpoint(bare, "", None)
    assert found == f"http://h:1{path}"
    assert api.endpoint(found, "", None)[0] == found
    assert api.endpoint(bare, "", "score")[1].answer == f"{body.answer}/*/score"
    with pytest.raises(BadInput, match="no name of a model"):
        api.endpoint(bare, "model", None)


def test_addresses_that_tell_the_model_stay_and_tokens_are_whole_numbers() -> None:
    for api, name in ((huggingface, "huggingface"), (torchserve, "torchserve")):
        assert api.endpoint("http://h/m", "", None) == endpoint_of(name, "http://h/m")
        assert api.endpoint("http://h/m", "", None)[0] == "http://h/m"
    url, body = openai.endpoint("http://h/v1", "small", None)
    assert url == "http://h/v1/embeddings"
    assert json.loads(body.request)["model"] == "small"
    asked = json.loads(openai.endpoint("http://h/v1/completions", "small", None)[1].request)
    assert asked["max_tokens"] == 1
    with pytest.raises(BadInput, match="chats take texts"):
        openai.endpoint("http://h/v1/chat/completions", "small", None)


def test_what_is_no_double_is_asked_in_single_precision() -> None:
    assert float_dtype(np.float64) == np.float64
    for narrower in (np.float32, np.float16, np.int8):
        assert float_dtype(narrower) == np.float32


def test_a_file_of_answers_is_claimed_by_one_process_until_its_holders_are_gone(tmp_path: Path) -> None:
    class Holder:
        pass

    path = tmp_path / "answers.db"
    first, second = Holder(), Holder()
    claim(path, first)
    claim(path, second)  # of one process, shared
    other = "import sys; from unveil.blackbox.store_claim import claim; h = lambda: 0; claim(sys.argv[1], h)"
    command = [sys.executable, "-c", other, str(path)]
    del first
    refused = subprocess.run(command, capture_output=True, text=True)
    assert StoreError.__name__ in refused.stderr
    del second
    assert subprocess.run(command).returncode == 0


def test_of_a_constant_no_weights_are_read_and_a_copy_is_told_as_one() -> None:
    constant = uv.as_oracle(lambda x: np.full((len(x), 2), 3.0), shape=6, budget=20_000)
    found = uv.identify(constant, rng=0)
    assert found.outcome is uv.Outcome.nothing_to_find
    told = extraction.section(found, Audit(constant), None)
    assert "No weights were read" in told.verdict
    assert told.finding is not None
    assert told.finding.severity is Severity.none
    network = uv.Network.from_weights(random_weights([6, 3, 2], np.random.default_rng(0)))
    copied = dataclasses.replace(found, network=network, outcome=uv.Outcome.approximate, residual=0.02)
    assert "nearly as the model does" in extraction.section(copied, Audit(constant), None).verdict


def test_the_page_of_a_constant_draws_no_errors() -> None:
    constant = uv.as_oracle(lambda x: np.full((len(x), 2), 3.0), shape=6, budget=20_000)
    page = run(Audit(constant), [identification.IDENTIFICATION])
    assert "Errors of the network found" not in page.html()
