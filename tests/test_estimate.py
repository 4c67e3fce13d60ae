"""What an audit will ask: the bound told before is kept, with every stage, on models of several kinds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import unveil as uv
from tests.helpers import random_weights
from unveil.audit.run import run
from unveil.audit.sections.span import span_cost
from unveil.audit.stage import Audit, Stage, estimate
from unveil.audit.stages import STAGES
from unveil.cli import app


def linear(x):
    return x[:, :3] @ np.arange(6.0).reshape(3, 2)


def smooth(x):
    return np.tanh(x[:, :2] @ [[1.0, -0.5], [0.3, 2.0]]).sum(axis=1)


def constant(x):
    return np.ones((len(x), 3))


def steps(x):
    return np.round(x.sum(axis=1))


MODELS = {"linear": linear, "smooth": smooth, "constant": constant, "steps": steps}


@pytest.mark.parametrize("name", [*MODELS, "labels", "network"])
@pytest.mark.parametrize("budget", [None, 900])
def test_the_bound_is_kept(name, budget):
    model = MODELS.get(name)
    if model is None:
        network = uv.Network.from_weights(random_weights([5, 3, 3], np.random.default_rng(3)))
        model = network.logits
    if name == "labels" and budget is None:
        pytest.skip("130,000 questions take long")
    kind = "labels" if name == "labels" else "auto"
    asked = (lambda x: network.logits(x).argmax(axis=1)) if name == "labels" else model
    oracle = uv.as_oracle(asked, shape=5, within=(-1, 1), budget=budget, answers=kind)
    stages = [stage for stage in STAGES if stage.flag is None]
    audit = Audit(oracle, seed=4)
    audit.look()
    before = oracle.ledger.asked
    told = estimate(audit, stages)
    run(audit, stages)
    assert oracle.ledger.asked - before <= told.most
    assert told.likely <= told.most
    assert oracle.ledger.budget == budget


@pytest.mark.parametrize(("outputs", "kind", "off"), [(1, np.float64, 1.5), (3, np.float64, 1.5), (1, np.float32, 3.0)])
def test_what_a_span_asks_is_told_before(outputs, kind, off):
    weights = random_weights([200, 20, 10, outputs], np.random.default_rng(outputs))
    layers = [(w.astype(kind), b.astype(kind)) for w, b in weights]

    def model(x):
        h = x.astype(kind)
        for w, b in layers[:-1]:
            h = np.maximum(h @ w.T + b, 0)
        return h @ layers[-1][0].T + layers[-1][1]

    oracle = uv.as_oracle(model, shape=200)
    told = span_cost(oracle, 20)
    span = uv.row_span(oracle, rng=np.random.default_rng(0))
    assert span.rank == 20
    assert told / off < span.queries < told * off


@pytest.mark.slow
def test_the_bound_is_kept_with_the_weights_and_the_defences_of_a_model_on_a_table():
    from sklearn.datasets import load_wine
    from sklearn.neural_network import MLPClassifier

    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model = MLPClassifier((8,), max_iter=60, random_state=0).fit(x, y)
    oracle = uv.as_oracle(model)
    stages = [stage for stage in STAGES if stage.flag in (None, "--identify", "--defences")]
    audit = Audit(oracle, x[:50], y[:50])
    audit.look()
    before = oracle.ledger.asked
    told = estimate(audit, stages)
    run(audit, stages)
    assert oracle.ledger.asked - before <= told.most


def test_a_stage_that_would_ask_more_is_ended_and_says_so():
    def greedy(audit):
        while True:
            audit.oracle(audit.oracle.sample(10, np.random.default_rng(0)))

    oracle = uv.as_oracle(linear, shape=5, within=(-1, 1))
    stage = Stage("greedy", "Asking on and on", greedy, cost=lambda audit: (10, 95))
    audit = Audit(oracle)
    audit.look()
    before = oracle.ledger.asked
    page = run(audit, [stage])
    assert oracle.ledger.asked - before <= estimate(audit, [stage]).most
    assert any("limit of this step was reached" in section.verdict for section in page.sections)


def test_the_command_line_tells_questions_time_and_money(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("def fine(x): return x[:, :2] * 1.5\n")
    asked = ["audit", "model.py:fine", "--shape", "6", "--plan", "--price", "2", "--json"]
    end = CliRunner().invoke(app, asked)
    assert end.exit_code == 0, end.output
    told = json.loads(end.stdout)["expected"]
    assert told["most"] == pytest.approx(sum(stage["most"] for stage in told["stages"]))
    assert told["money"]["most"] == pytest.approx(told["most"] * 2 / 1000)
    assert "of money" in end.stderr
    assert "never more than" in end.stderr


@pytest.mark.parametrize("verb", ["audit", "span", "identify"])
def test_a_budget_below_one_gradient_is_refused_at_once(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(
        "import pathlib\n"
        "def seen(x):\n"
        "    with open('rows', 'a') as file: file.write('x' * len(x))\n"
        "    return x[:, :2] * 1.5\n"
    )
    end = CliRunner().invoke(app, [verb, "model.py:seen", "--shape", "3,30,30", "--budget", "2000"])
    assert end.exit_code == 2, end.output
    assert "one gradient of 2,700 inputs takes 2,701 questions" in end.stderr
    assert len((tmp_path / "rows").read_text()) < 100
    assert not (tmp_path / "audit.html").exists()
