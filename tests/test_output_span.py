"""Outputs give the hidden width away, at a stated rate and cost; what is not settled is not called settled."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from typer.testing import CliRunner

import unveil as uv
from unveil.blackbox.digits import mantissa_bits
from unveil.blackbox.output_reading import read_as
from unveil.cli import app
from unveil.outcome import BadInput, Outcome


def language_model(vocabulary, width, seed, norm=True, inputs=24):
    """Logits of a random network that ends in a LayerNorm and a linear layer; `.columns` is the truth."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((2 * width, inputs)) / np.sqrt(inputs)
    second = rng.standard_normal((width, 2 * width)) / np.sqrt(2 * width)
    last = 2 * rng.standard_normal((vocabulary, width)) / np.sqrt(width)
    gain, bias = 1 + 0.2 * rng.standard_normal(width), 0.3 * rng.standard_normal(vocabulary)

    def logits(x):
        h = np.tanh(2 * x @ first.T) @ second.T
        if norm:
            h = h - h.mean(axis=1, keepdims=True)
            h = gain * h / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + 1e-5)
        return h @ last.T + bias

    logits.columns = last * gain @ (np.eye(width) - 1 / width) if norm else last
    return logits


def log_softmax(y):
    y = y - y.max(axis=1, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=1, keepdims=True))


def bfloat16(y):
    bits = y.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def last_bits(y, rng):
    """What another processor would answer: the last bit of each number up or down, at random."""
    return np.nextafter(y, y + rng.choice([-1, 1], size=y.shape))


FORMS = {
    "float64": lambda y: y,
    "float32": lambda y: y.astype(np.float32),
    "log-probabilities, float32": lambda y: log_softmax(y).astype(np.float32),
    "probabilities, float32": lambda y: np.exp(log_softmax(y)).astype(np.float32),
    "float16": lambda y: y.astype(np.float16).astype(np.float64),
    "bfloat16": bfloat16,
    "log-probabilities, 4 decimals": lambda y: np.round(log_softmax(y), 4),
    "2 decimals": lambda y: np.round(y, 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_width_is_right_at_the_stated_cost(form, seed):
    rng = np.random.default_rng(seed)
    right = within = 0
    for trial in range(10):
        model = language_model(200, 24, seed + trial, norm=trial % 2 == 0)
        oracle = uv.as_oracle(lambda x, m=model: FORMS[form](last_bits(m(x), rng)), shape=24, noisy=True)
        before = oracle.ledger.asked
        span = uv.output_span(oracle, rng=rng)
        assert span.queries == oracle.ledger.asked - before
        right += span.outcome is Outcome.complete and span.rank == 24 - (trial % 2 == 0)
        within += span.queries <= span.rank + 10
        if span.rank == 24 - (trial % 2 == 0):
            assert span.distance(model.columns) <= span.accuracy + 1e-14
    assert right >= 9
    assert within >= (6 if form in ("bfloat16", "2 decimals", "float16") else 9)


def test_false_alarms_are_as_rare_as_stated_and_other_models_are_told_apart(seed):
    rng = np.random.default_rng(seed)
    alarms = count = 0
    for form in ("float64", "float32", "bfloat16", "log-probabilities, 4 decimals"):
        for trial in range(2):
            model, other = language_model(200, 16, seed + trial), language_model(200, 16, seed + trial + 100)
            oracle = uv.as_oracle(lambda x, m=model, f=form: FORMS[f](m(x)), shape=24)
            span = uv.output_span(oracle, rng=rng)
            x = oracle.sample(1000, rng)
            alarms += int((~span.contains(oracle(x))).sum())
            count += len(x)
            foreign = FORMS[form](other(x))
            assert span.contains(foreign).sum() == 0
    assert alarms <= 1e-3 * count


def sparse(x):
    rng = np.random.default_rng(5)
    return np.maximum(x @ rng.standard_normal((64, 8)).T - 6, 0) @ rng.standard_normal((300, 64)).T


def uneven(x):
    rng = np.random.default_rng(6)
    last = rng.standard_normal((200, 80)) * np.r_[np.ones(20), 1e-3 * np.ones(60)]
    return np.tanh(x @ rng.standard_normal((80, 24)).T) @ last.T


UNSETTLED = [
    (lambda y: y, 40, {"most": 30}, {Outcome.not_measured}),
    (lambda y: y, 40, {"budget": 38}, {Outcome.budget_ended}),
    (lambda y: 1 / (1 + np.exp(-y)), 20, {}, {Outcome.full_rank}),
    (lambda y: np.round(np.exp(log_softmax(y)), 4), 20, {}, {Outcome.not_resolved}),
    (lambda y: np.round(y, -1), 20, {}, {Outcome.not_resolved, Outcome.answers_in_steps}),
    (lambda y: np.ones_like(y), 20, {}, {Outcome.nothing_to_find}),
    (lambda y: y[:, :10], 20, {}, {Outcome.full_rank}),
    (lambda y: (y[:, :1] > 0) * np.linspace(1, 2, 120), 20, {}, {Outcome.answers_in_steps}),
]


@pytest.mark.parametrize(("form", "width", "limits", "outcomes"), UNSETTLED)
def test_what_is_not_settled_is_not_called_complete(form, width, limits, outcomes, seed):
    for trial in range(3):
        model = language_model(120, width, seed + trial)
        budget = limits.get("budget")
        oracle = uv.as_oracle(lambda x, m=model: form(m(x)), shape=24, budget=budget)
        span = uv.output_span(oracle, rng=np.random.default_rng(trial), most=limits.get("most", 500))
        assert span.outcome in outcomes, span.why
        if span.outcome in (Outcome.not_measured, Outcome.budget_ended):
            assert span.rank <= width
        if span.outcome is Outcome.not_resolved:
            with pytest.raises(BadInput, match="cannot tell"):
                span.contains(oracle(oracle.sample(1, np.random.default_rng(1))))


def test_weak_and_rare_directions_are_not_overlooked(seed):
    for trial in range(2):
        span = uv.output_span(uv.as_oracle(uneven, 24), rng=np.random.default_rng(seed + trial), most=40)
        assert span.outcome is Outcome.not_measured
    assert uv.output_span(uv.as_oracle(uneven, 24), rng=np.random.default_rng(seed)).rank == 80
    missed, bound = [], []
    for trial in range(3):
        rng = np.random.default_rng(seed + trial)
        oracle = uv.as_oracle(sparse, 8)
        span = uv.output_span(oracle, rng=rng)
        assert span.outcome is Outcome.approximate
        bound.append(span.unseen)
        y = oracle(oracle.sample(1000, rng))
        missed.append(float(np.mean(~span.contains(y))))
    assert np.median(missed) <= np.median(bound) <= 0.25


def test_a_direction_that_hangs_on_one_input_makes_the_rank_a_lower_bound(seed):
    """Neurons that few inputs wake: more inputs would wake more of them, and no width may be called complete."""
    dense = early = 0
    for trial in range(3):
        rng = np.random.default_rng(seed + trial)
        first, last = rng.standard_normal((60, 12)), rng.standard_normal((150, 60))
        threshold = np.where(np.arange(60) < 45, 0.0, 7.0)  # the others wake for one input in fifty
        x = rng.standard_normal((90, 12))
        rows = np.maximum(x @ first.T - threshold, 0)
        shown = np.linalg.matrix_rank(rows - rows.mean(axis=0))
        alone = sum(
            np.linalg.matrix_rank(np.delete(rows, i, 0) - np.delete(rows, i, 0).mean(0)) < shown for i in range(90)
        )
        oracle = uv.as_oracle(lambda x, f=first, t=threshold, w=last: np.maximum(x @ f.T - t, 0) @ w.T, 12)
        span = uv.output_span(oracle, x, rng=rng)
        if alone:
            assert span.outcome is Outcome.approximate
            assert (span.rank, span.queries) == (shown, 90)
            assert f"{alone} of them" in span.why
        early += span.outcome is Outcome.complete and span.rank < shown
        held = uv.output_span(oracle, x, rng=rng, most=70)
        assert held.outcome is not Outcome.not_resolved, held.why
        awake = uv.as_oracle(lambda x, f=first, w=last: np.maximum(x @ f.T, 0) @ w.T, 12)
        span = uv.output_span(awake, x, rng=rng)
        dense += span.outcome is Outcome.complete and span.rank == 60 and span.queries <= 72
    assert early == 0
    assert dense >= 2


def test_the_mantissa_tells_the_precision():
    y = np.random.default_rng(0).standard_normal((50, 20))
    assert mantissa_bits(y) == 53
    assert mantissa_bits(y.astype(np.float32).astype(np.float64)) == 24
    assert mantissa_bits(y.astype(np.float16).astype(np.float64)) == 11
    assert mantissa_bits(bfloat16(y)) == 8
    oracle = uv.as_oracle(lambda x: x, 3)
    assert read_as(oracle, np.round(y, 2)).step == 0.01
    assert read_as(oracle, log_softmax(y)).kind == "log-probabilities"
    assert read_as(oracle, y).kind == "values"


def test_prompts_are_asked_once_each():
    model, asked = language_model(200, 16, 3), []
    texts = [f"text {i}" for i in range(40)]

    def answer(prompts):
        asked.extend(prompts)
        return model(np.array([np.random.default_rng(list(p.encode())).standard_normal(24) for p in prompts]))

    oracle = uv.as_oracle(uv.PromptSource(answer, texts))
    span = uv.output_span(oracle, rng=np.random.default_rng(0))
    assert span.rank == 15
    assert len(set(asked[8:])) == len(asked[8:]) == span.queries
    # A list may hold some prompts twice: that says nothing of the width.
    alone = uv.PromptSource(lambda prompts: np.concatenate([answer([p]) for p in prompts]), [*texts, *texts[:20]])
    twice = uv.output_span(uv.as_oracle(alone), rng=np.random.default_rng(0))
    assert twice.rank == 15
    assert twice.queries < 50
    short = uv.output_span(uv.as_oracle(uv.PromptSource(answer, texts[:10])), rng=np.random.default_rng(0))
    assert short.outcome is Outcome.not_measured
    with pytest.raises(BadInput, match="two prompts"):
        uv.PromptSource(answer, ["one"])


def test_saved_spans_are_the_same(tmp_path):
    oracle = uv.as_oracle(lambda x: np.exp(log_softmax(language_model(100, 12, 1)(x))), 24)
    span = uv.output_span(oracle, rng=np.random.default_rng(0))
    span.save(tmp_path / "s.npz")
    kept = uv.OutputSpan.load(tmp_path / "s.npz")
    assert span.reading == kept.reading
    assert span.distance(kept) < 1e-12
    y = oracle(oracle.sample(10, np.random.default_rng(1)))
    assert (span.excess(y) == kept.excess(y)).all()
    assert np.allclose(kept.excess(oracle.probabilities(y)), kept.excess(y), atol=0.5)
    (tmp_path / "t.npz").write_bytes(b"PK nothing")
    with pytest.raises(BadInput, match="no span"):
        uv.OutputSpan.load(tmp_path / "t.npz")
    with pytest.raises(BadInput, match="numbers"):
        span.contains(np.ones((1, 7)))


def test_labels_and_bad_inputs_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match="labels"):
        uv.output_span(uv.as_oracle(lambda x: (x[:, 0] > 0).astype(int), 3), rng=rng)
    oracle = uv.as_oracle(lambda x: x, 3)
    with pytest.raises(BadInput, match="shape"):
        uv.output_span(oracle, np.ones((4, 2)), rng=rng)
    with pytest.raises(BadInput, match="most"):
        uv.output_span(oracle, rng=rng, most=1)


def normalised(width, seed, norm, outputs=60, inputs=10):
    """Answers behind a normalisation, with the truth: `.matrix` times a unit vector, and `.centre`."""
    rng = np.random.default_rng(seed)
    first, last = rng.standard_normal((width, inputs)), rng.standard_normal((outputs, width))
    gain, shift, bias = (rng.standard_normal(size) for size in (width, width, outputs))
    gain = 1 + 0.3 * gain

    def answer(x):
        h = np.tanh(x @ first.T)
        if norm == "layer":
            h = h - h.mean(axis=1, keepdims=True)
        if norm != "none":
            h = h / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + 1e-6)
        return (gain * h + shift) @ last.T + bias

    answer.matrix = np.sqrt(width) * last * gain @ (np.eye(width) - (norm == "layer") / width)
    answer.centre = last @ shift + bias
    return answer


@pytest.mark.parametrize("form", ["float64", "float32", "log-probabilities, float32", "2 decimals"])
@pytest.mark.parametrize("norm", ["layer", "root mean square"])
def test_the_last_layer_behind_a_normalisation_is_read_up_to_a_rotation(norm, form, seed):
    told = within = 0
    for trial in range(4):
        model, rng = normalised(8, seed + trial, norm), np.random.default_rng(trial)
        oracle = uv.as_oracle(lambda x, m=model, r=rng: FORMS[form](last_bits(m(x), r)), shape=10, noisy=True)
        span = uv.output_span(oracle, rng=rng)
        before = oracle.ledger.asked
        layer = uv.last_layer(oracle, span, rng=rng)
        r = span.rank
        assert layer.queries == oracle.ledger.asked - before == np.ceil(1.15 * (r * (r + 3) // 2)) + 40 + 50
        if form == "2 decimals" and layer.outcome is Outcome.check_failed:
            continue  # so few digits may not show a radius
        assert layer.outcome is Outcome.complete, layer.why
        told += 1
        off = layer.distance(model.matrix)
        # Twice the standard deviation, and what the normalisation adds to the variance.
        within += off <= 2 * layer.error + 1e-5
        assert off < 0.1
        turned = np.linalg.qr(rng.standard_normal((r, r)))[0]
        assert (
            abs(layer.distance(model.matrix) - replace(layer, matrix=layer.matrix @ turned).distance(model.matrix))
            < 1e-9
        )
        assert layer.distance(1.01 * layer.matrix) > 0.01
        centre = layer.centre - model.centre
        centre -= centre.mean() * layer.centred
        assert np.linalg.norm(centre) < 1e-2 * np.linalg.norm(model.matrix)
    assert told >= 2
    assert within >= told - 1


def test_where_hidden_numbers_have_no_fixed_length_no_last_layer_is_told(tmp_path):
    rng = np.random.default_rng(0)
    for trial in range(4):
        oracle = uv.as_oracle(normalised(8, trial, "none"), 10)
        span = uv.output_span(oracle, rng=rng)
        assert uv.last_layer(oracle, span, rng=rng).outcome is Outcome.check_failed
    few = uv.last_layer(oracle, span, oracle.sample(60, rng), rng=rng)
    assert few.outcome is Outcome.not_measured
    assert few.queries == 0
    full = uv.output_span(uv.as_oracle(lambda x: x, 3), rng=rng)
    with pytest.raises(BadInput, match="settled"):
        uv.last_layer(oracle, full, rng=rng)
    with pytest.raises(BadInput, match="unknowns"):
        uv.last_layer(
            oracle,
            replace(
                span, basis=np.zeros((150, 1000)), origin=np.zeros(1000), reading=replace(span.reading, outputs=1000)
            ),
            rng=rng,
        )


MODEL = """
import numpy as np
rng = np.random.default_rng(1)
A, W = rng.standard_normal((9, 4)), rng.standard_normal((70, 9))
V = W + 1e-6 * rng.standard_normal(W.shape)
def model(x): return np.tanh(x @ A.T) @ W.T
def changed(x): return np.tanh(x @ A.T) @ V.T
def normed(x):
    h = np.tanh(x @ A.T)
    return h / np.sqrt((h**2).mean(axis=1, keepdims=True)) @ W.T
"""


def test_the_command_and_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(MODEL)
    run = CliRunner().invoke
    done = run(app, ["outputs", "m.py:model", "--shape", "4", "--out", "s.npz", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rank"] == 9
    same = run(app, ["outputs", "m.py:model", "--shape", "4", "--against", "s.npz", "--json", "--seed", "5"])
    assert same.exit_code == 0
    assert json.loads(same.stdout)["same_last_layer"] is True
    other = run(app, ["outputs", "m.py:changed", "--shape", "4", "--against", "s.npz"])
    assert "another last layer" in other.stdout
    no = run(app, ["outputs", "m.py:model", "--shape", "4", "--last-layer", "l.npz"])
    assert no.exit_code != 0
    assert "no fixed length" in no.stdout
    assert not (tmp_path / "l.npz").exists()
    yes = run(app, ["outputs", "m.py:normed", "--shape", "4", "--last-layer", "l.npz"])
    assert yes.exit_code == 0, yes.output
    with np.load(tmp_path / "l.npz") as held:
        assert held["matrix"].shape == (70, 9)
    bad = run(app, ["outputs", "m.py:model", "--shape", "4", "--against", "m.py"])
    assert bad.exit_code == 2
    page = run(app, ["audit", "m.py:model", "--shape", "4", "--report", "a.html", "--quiet"])
    assert page.exit_code == 0, page.output
    assert "tells the width of its last hidden layer, 9" in (tmp_path / "a.html").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["outputs"]["rank"] == 9


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no arrays at all" * 20])
def test_files_that_hold_no_span_are_refused_without_advice_to_run_them(tmp_path, content):
    (tmp_path / "kept.npz").write_bytes(content)
    with pytest.raises(BadInput, match="holds no span of outputs") as told:
        uv.OutputSpan.load(tmp_path / "kept.npz")
    assert "pickle" not in str(told.value)


@pytest.mark.parametrize("seed", range(5))
def test_probabilities_of_0_are_no_outputs_that_tell_a_width(seed):
    """Where most never show, the rank is bounded by those that do; where some come and go, it is bounded by nothing."""
    logits = language_model(40, 12, seed, norm=False)
    hidden = 1e3 * np.random.default_rng(seed).standard_normal(40)
    x = np.random.default_rng(seed).standard_normal((500, 24))
    few = uv.as_oracle(lambda z: np.exp(log_softmax(logits(z) + hidden)), shape=24, answers="probabilities")
    assert uv.output_span(few, x, rng=np.random.default_rng(seed)).outcome is not Outcome.complete
    sharp = uv.as_oracle(lambda z: np.round(np.exp(log_softmax(20 * logits(z))), 4), shape=24, answers="probabilities")
    found = uv.output_span(sharp, x, rng=np.random.default_rng(seed))
    assert found.outcome not in (Outcome.complete, Outcome.full_rank)


@pytest.mark.parametrize("steep", [1.0, 6.0, 1e4])
def test_of_probabilities_of_their_own_answers_count_that_hold_their_digits(steep: float, seed: int) -> None:
    right = []
    for trial in range(10):
        rng = np.random.default_rng([seed, trial])
        first, last = rng.standard_normal((4, 7)), steep * rng.standard_normal((9, 4)) / 4

        def model(x, first=first, last=last):
            return expit(np.tanh(x @ first.T) @ last.T)

        span = uv.output_span(uv.as_oracle(model, shape=7, answers="probabilities", budget=3000), rng=rng)
        if steep > 100:  # all of them are 0 or 1
            assert span.outcome is Outcome.not_resolved
            assert "near 0 or 1" in span.why
            continue
        assert span.outcome is not Outcome.complete or span.rank == 4
        right.append(span.outcome is Outcome.complete and span.distance(last) <= span.accuracy + 1e-14)
    assert steep > 100 or np.mean(right) >= 0.7
