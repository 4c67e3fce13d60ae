"""Identification of smooth networks: every parameter against the truth, up to the symmetries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.helpers import assert_rate
from unveil import as_oracle
from unveil.blackbox.ledger import Stages
from unveil.blackbox.oracle import Oracle
from unveil.cli import app
from unveil.identification.fitting.least_squares import Polished
from unveil.identification.identify import _leaving_a_fit, identify
from unveil.identification.method import Identification, Method
from unveil.identification.output_activation import behind_outputs
from unveil.identification.smooth.conclusion import Reading, conclude
from unveil.identification.smooth.entangled_weights import EntangledWeights
from unveil.identification.smooth.one_hidden_layer import OneHiddenLayer
from unveil.identification.smooth.saturation import Saturation
from unveil.outcome import BadInput, BudgetExceeded, Outcome
from unveil.testing import Answered, known_model
from unveil.whitebox.activation import activation
from unveil.whitebox.comparison import compare
from unveil.whitebox.formats import load, save
from unveil.whitebox.network import Network


def random_network(
    n: int, widths: tuple[int, ...], activation: str, rng: np.random.Generator, *, shifts: float = 0.5, outputs: int = 1
) -> Network:
    """Unit rows in the hidden layers, shifts of the given deviation, outer weights one (random for more outputs)."""
    weights, before = [], n
    for width in widths:
        rows = rng.standard_normal((width, before))
        weights.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), shifts * rng.standard_normal(width)))
        before = width
    outer = np.ones((1, before)) if outputs == 1 else rng.standard_normal((outputs, before))
    weights.append((outer, np.zeros(outputs)))
    return Network.from_weights(weights, activation)


def worst(found: Network | None, truth: Network) -> float:
    """Largest error of a parameter up to symmetry; infinite if neurons are missing or false."""
    assert found is not None
    comparison = compare(found, truth)
    return np.inf if comparison.missing or comparison.false else float(comparison.weight_error)


@pytest.mark.parametrize(
    ("activation", "n", "widths"),
    [
        ("tanh", 10, (10, 3)),
        ("sigmoid", 10, (10, 3)),
        ("erf", 12, (8, 3)),
        ("arctan", 9, (8, 3)),
        ("sigmoid", 7, (10, 2)),
        ("tanh", 8, (11, 3)),
    ],
)
def test_identify_finds_every_parameter(activation: str, n: int, widths: tuple[int, int]) -> None:
    truth = random_network(n, widths, activation, np.random.default_rng(1))
    oracle = as_oracle(truth, shape=n)
    looked = oracle.ledger.asked
    found = identify(oracle, rng=np.random.default_rng(2), activation=activation)
    assert found.outcome is Outcome.complete, found.why
    assert found.queries == oracle.ledger.asked - looked
    assert found.residual < 1e-11
    assert worst(found.network, truth) < 1e-8
    assert found.check(oracle, rng=np.random.default_rng(3)) < 1e-11


def test_widths_and_activation_are_found() -> None:
    truth = random_network(9, (9, 3), "erf", np.random.default_rng(4))
    found = identify(as_oracle(truth, shape=9), rng=np.random.default_rng(5))
    assert found.network is not None
    assert [len(layer.bias) for layer in found.network.layers] == [9, 3, 1]
    assert worst(found.network, truth) < 1e-8


def test_several_outputs() -> None:
    truth = random_network(8, (8, 3), "tanh", np.random.default_rng(6), outputs=3)
    found = identify(as_oracle(truth, shape=8), rng=np.random.default_rng(7), activation="tanh")
    assert worst(found.network, truth) < 1e-8


def test_one_hidden_layer_is_recognised() -> None:
    truth = random_network(6, (9,), "tanh", np.random.default_rng(8))
    found = identify(as_oracle(truth, shape=6), rng=np.random.default_rng(9), activation="tanh")
    assert found.network is not None
    assert len(found.network.layers) == 2
    assert worst(found.network, truth) < 1e-8


def test_budget_ends_in_a_marked_result() -> None:
    truth = random_network(10, (10, 3), "tanh", np.random.default_rng(10))
    for budget in (50, 600, 1500, 2600):
        oracle = as_oracle(truth, shape=10, budget=budget)
        found = identify(oracle, rng=np.random.default_rng(11), activation="tanh")
        assert found.outcome is Outcome.budget_ended
        assert oracle.ledger.asked <= budget


def test_a_deeper_network_is_not_passed_off_as_found() -> None:
    truth = random_network(8, (8, 6, 4), "tanh", np.random.default_rng(12))
    found = identify(as_oracle(truth, shape=8), Saturation("tanh", attempts=1), rng=np.random.default_rng(13))
    assert found.outcome is not Outcome.complete


@pytest.mark.parametrize(("n", "widths"), [(4, (4, 2)), (3, (2, 1)), (5, (3, 3))])
def test_small_networks(n: int, widths: tuple[int, int]) -> None:
    truth = random_network(n, widths, "tanh", np.random.default_rng(15))
    found = identify(as_oracle(truth, shape=n), rng=np.random.default_rng(16), activation="tanh", widths=widths)
    assert found.outcome is Outcome.complete
    assert worst(found.network, truth) < 1e-8


def test_bad_arguments_are_refused() -> None:
    truth = random_network(4, (4, 2), "tanh", np.random.default_rng(14))
    oracle = as_oracle(truth, shape=4)
    with pytest.raises(BadInput, match="widths"):
        identify(oracle, rng=np.random.default_rng(0), widths=(0, 2))
    with pytest.raises(BadInput, match="no activation"):
        identify(oracle, rng=np.random.default_rng(0), activation="tahn")


def test_widths_that_the_answers_contradict_are_named() -> None:
    truth = random_network(5, (4,), "relu", np.random.default_rng(17))
    found = identify(as_oracle(truth, shape=5), rng=np.random.default_rng(18), widths=(3,))
    assert found.outcome is Outcome.complete
    assert found.network is not None
    assert found.network.widths == (4, 1)
    assert any("given as 3" in said and "found are 4" in said for said in found.why)
    told = identify(as_oracle(truth, shape=5), rng=np.random.default_rng(18), widths=(4,))
    assert not any("given as" in said for said in told.why)


class Breaking(Method):
    """Gives a bad argument of its own, after so many questions."""

    def __init__(self, asked: int) -> None:
        self.asked = asked

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        oracle(oracle.sample(self.asked, rng))
        raise BadInput("step must be finite; got nan")


def test_a_bad_argument_inside_a_method_is_not_the_callers() -> None:
    truth = random_network(5, (4,), "relu", np.random.default_rng(17))
    found = identify(as_oracle(truth, shape=5), Breaking(10), rng=np.random.default_rng(0))
    assert found.outcome is Outcome.check_failed
    assert "step must be finite" in found.why[0]
    with pytest.raises(BadInput, match="step must"):  # refused before anything is asked
        identify(as_oracle(truth, shape=5), Breaking(0), rng=np.random.default_rng(0))


@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu", "sin", "erf", "arctan"])
@pytest.mark.parametrize("k", [5])
def test_one_hidden_layer(activation: str, k: int) -> None:
    truth = random_network(7, (k,), activation, np.random.default_rng(20 + k))
    found = OneHiddenLayer()(as_oracle(truth, shape=7), rng=np.random.default_rng(21))
    assert found.outcome is Outcome.complete, found.why
    assert worst(found.network, truth) < 1e-8


def test_one_wide_hidden_layer() -> None:
    truth = random_network(10, (22,), "tanh", np.random.default_rng(22))
    oracle = as_oracle(truth, shape=10, within=(-2, 2))
    found = identify(oracle, rng=np.random.default_rng(23), activation="tanh")
    assert found.method == "OneHiddenLayer"
    assert min(found.stats["certificates"]) > 1 - 1e-9
    assert worst(found.network, truth) < 1e-8


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_entangled_weights(activation: str) -> None:
    truth = random_network(8, (8, 3), activation, np.random.default_rng(24))
    found = EntangledWeights(activation, (8, 3))(as_oracle(truth, shape=8), rng=np.random.default_rng(25))
    assert found.outcome is Outcome.complete, found.why
    assert worst(found.network, truth) < 1e-8


def test_entangled_weights_of_a_first_layer_too_small_for_blocks() -> None:
    truth = random_network(4, (4, 2), "tanh", np.random.default_rng(0))
    found = EntangledWeights("tanh")(as_oracle(truth, shape=4), rng=np.random.default_rng(1))
    assert found.outcome is Outcome.complete, found.why
    assert worst(found.network, truth) < 1e-8


@pytest.mark.parametrize("level", [1e-6])
def test_noise_is_survived_and_told(level: float) -> None:
    truth = random_network(8, (8, 3), "tanh", np.random.default_rng(26))
    noise = np.random.default_rng(27)
    oracle = as_oracle(lambda x: truth(x) + level * noise.standard_normal((len(x), 1)), shape=8, noisy=True)
    found = identify(oracle, rng=np.random.default_rng(28), activation="tanh")
    assert found.stats["noise"] == pytest.approx(level, rel=0.6)
    off = worst(found.network, truth)
    assert off < 1000 * level
    assert 0.05 * off < found.stats["uncertainty"] < 20 * off
    assert found.outcome is not Outcome.check_failed


def test_single_precision() -> None:
    truth = random_network(10, (10, 3), "tanh", np.random.default_rng(29))
    oracle = as_oracle(lambda x: truth(x).astype(np.float32), shape=10, noisy=True)
    found = identify(oracle, rng=np.random.default_rng(30), activation="tanh")
    assert worst(found.network, truth) < 1e-4
    assert found.outcome is Outcome.complete


def test_command_line(tmp_path: Path) -> None:
    truth = random_network(8, (8, 3), "tanh", np.random.default_rng(31))
    save(truth, tmp_path / "truth.onnx")
    said = CliRunner().invoke(
        app,
        f"identify {tmp_path}/truth.onnx --activation tanh --widths 8,3 --json --out {tmp_path}/found.onnx",
    )
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["widths"] == [8, 3, 1]
    assert compare(load(tmp_path / "found.onnx"), truth).weight_error < 1e-3
    asked = as_oracle(str(tmp_path / "found.onnx"))
    x = np.random.default_rng(32).standard_normal((50, 8)).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(asked(x), truth(x), atol=1e-4)


def test_audit_section_tells_what_was_found() -> None:
    from unveil.audit.run import run
    from unveil.audit.sections.identification import IDENTIFICATION
    from unveil.audit.stage import Audit

    truth = random_network(6, (6, 2), "tanh", np.random.default_rng(33))
    audit = Audit(as_oracle(truth, shape=6))
    page = run(audit, [IDENTIFICATION])
    assert page.sections[-1].figures["widths"] == [6, 2, 1]
    assert worst(audit.findings["network"], truth) < 1e-8


@pytest.mark.parametrize(("sizes", "activation"), [((7, 3, 1), "gelu"), ((8, 6, 1), "softplus"), ((10, 7, 2), "tanh")])
def test_one_smooth_hidden_layer_is_read_from_float32(sizes: tuple[int, ...], activation: str) -> None:
    whole = []
    for seed in range(4):
        rng = np.random.default_rng([seed, 8])
        model = known_model(sizes, activation, rng=rng, bias=0.3, dtype=np.float32)
        oracle = as_oracle(Answered(model, kind="float32", rng=rng, flips=1.0), sizes[0], budget=100_000)
        found = identify(oracle, method=Saturation() if activation == "tanh" else OneHiddenLayer(), rng=rng)
        x = rng.standard_normal((500, sizes[0]))
        if found.outcome is Outcome.complete:
            assert found.network is not None
            assert np.abs(found.network(x) - model(x)).max() < 1e-5 * np.ptp(model(x))
        whole.append(found.outcome is Outcome.complete and found.network.widths == sizes[1:])
    assert_rate(whole, 0.9, activation)


@pytest.mark.parametrize(("uncertain", "outcome"), [(0.01, Outcome.complete), (2.4, Outcome.approximate)])
def test_parameters_that_noise_leaves_open_are_not_complete(uncertain: float, outcome: Outcome) -> None:
    rng = np.random.default_rng(0)
    truth = random_network(4, (2,), "tanh", rng)
    fit = Polished(truth, 1e-4, 1e-4, 1, 1e3, uncertain, uncertain)
    oracle = as_oracle(truth, shape=4)
    ended = conclude(Reading(oracle, 1e-4, rng, Stages(oracle.ledger)), fit, "-")
    assert ended.outcome is outcome


class _Insatiable(Method):
    """Asks until the budget ends."""

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        try:
            while True:
                oracle(rng.standard_normal((100, oracle.n)))
        except BudgetExceeded:
            return Identification(None, Outcome.budget_ended, oracle.ledger.asked, np.inf, "critical points", ())


def test_a_reading_leaves_a_part_of_the_budget_for_a_fit() -> None:
    for budget, left in ((100_000, 30_000), (700_000, 200_000), (2_500_000, 250_000), (39_000, 0), (200, 0)):
        oracle = as_oracle(random_network(4, (3,), "relu", np.random.default_rng(0)), shape=4, budget=budget)
        found = _leaving_a_fit(_Insatiable(), oracle, np.random.default_rng(1))
        assert oracle.ledger.budget == budget
        assert left <= oracle.ledger.left < left + 100
        assert any("kept back" in why for why in found.why) == (left > 0)


@pytest.mark.parametrize("value", [np.tanh, lambda z: np.maximum(z, 0)], ids=["tanh", "relu"])
def test_a_network_without_answers_far_out_is_read_where_it_has_some(
    value: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> None:
    def found() -> bool:
        first, bias, last = rng.standard_normal((4, 7)) / 2.6, rng.standard_normal(4) / 2, rng.standard_normal((2, 4))

        def model(x: np.ndarray) -> np.ndarray:
            far = np.abs(x).max(axis=1, keepdims=True) > 20  # as where an exponential overflows
            return np.where(far, np.nan, value(x @ first.T + bias) @ last.T)

        read = identify(as_oracle(model, shape=7, budget=60_000), rng=rng)
        x = rng.uniform(-4, 4, (500, 7))
        assert "NaN" in read.why[0]
        if read.outcome is not Outcome.complete or read.network is None:
            return False
        return bool(np.abs(read.network(x) - model(x)).max() < 1e-9)

    assert_rate([found() for _ in range(3)], 0.9)


def test_a_classifier_behind_four_decimals_is_read_to_their_rounding(rng: np.random.Generator) -> None:
    def found() -> bool:
        first, bias = rng.standard_normal((5, 8)) / 2.8, rng.standard_normal(5) / 2
        last, shift = 0.7 * rng.standard_normal((3, 5)), 0.3 * rng.standard_normal(3)

        def probabilities(x: np.ndarray) -> np.ndarray:
            p = np.exp(np.tanh(x @ first.T + bias) @ last.T + shift)
            return p / p.sum(axis=1, keepdims=True)

        oracle = as_oracle(lambda x: np.round(probabilities(x), 4), shape=8, budget=60_000)
        read = identify(oracle, rng=rng)
        x = rng.standard_normal((1000, 8))
        if read.outcome is not Outcome.complete or read.network is None:
            return False
        return bool(np.abs(oracle.softmax(read.network(x)) - probabilities(x)).max() < 5e-4)

    assert_rate([found() for _ in range(4)], 0.9)


def test_networks_in_raw_units_are_read_in_those_that_their_weights_show() -> None:
    """In float32 the weight of an input of a million is told by answers at such values only."""

    def told(seed: int) -> tuple[Identification, float]:
        rng = np.random.default_rng(seed)
        units, rows = 10.0 ** np.array([0, 1, 3, 6]), rng.standard_normal((3, 4))
        outer = rng.standard_normal((2, 3))

        def answer(x: np.ndarray) -> np.ndarray:
            return (np.maximum(x / units @ rows.T + 0.3, 0) @ outer.T).astype(np.float32)

        found = identify(as_oracle(answer, shape=4), rng=rng)
        x = rng.normal(size=(500, 4)) * units
        off = np.inf if found.network is None else np.abs(found.network(x) - answer(x)).max() / np.ptp(answer(x))
        return found, float(off)

    ended = [told(seed) for seed in range(20, 24)]
    assert all(off < 1e-5 for found, off in ended if found.outcome is Outcome.complete)
    assert_rate([found.outcome is Outcome.complete for found, _ in ended], 0.9)


def test_units_that_cannot_be_asked_about_are_named() -> None:
    rng = np.random.default_rng(19)
    rows, outer = rng.standard_normal((3, 3)) * np.array([1.0, 1.0, 1e-5]), rng.standard_normal((1, 3))

    def answer(x: np.ndarray) -> np.ndarray:
        y = (np.maximum(x @ rows.T + 0.3, 0) @ outer.T).astype(np.float32)
        return np.where(np.abs(x).max(axis=1, keepdims=True) < 1e3, y, np.nan)

    found = identify(as_oracle(answer, shape=3), rng=rng)
    assert any("input 2 weighs so little" in said for said in found.why)
    # Examples of size 1 say that nothing larger is asked.
    small = identify(as_oracle(answer, shape=3), rng=rng, x=rng.normal(size=(50, 3)))
    assert not any("weighs so little" in said for said in small.why)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_a_sigmoid_or_tanh_on_top_of_each_output_is_seen_through(name: str) -> None:
    right = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth = random_network(6, (4,), "relu", rng, outputs=1 + seed % 3)
        layers = (*truth.layers[:-1], replace(truth.layers[-1], activation=activation(name)))
        truth = replace(truth, layers=layers)
        found = identify(as_oracle(truth, shape=6), rng=rng)
        right.append(found.outcome is Outcome.complete)
        if found.outcome is Outcome.complete:
            x = 3 * rng.standard_normal((500, 6))
            assert found.network is not None
            assert np.abs(found.network(x) - truth(x)).max() < 1e-9
    assert_rate(right, 0.7)
    # What a smooth network gives the outputs is not straight: nothing is put on top of what is read.
    smooth = random_network(5, (3,), "tanh", np.random.default_rng(0))
    oracle = as_oracle(lambda x: activation(name).value(smooth(x)), shape=5)
    assert behind_outputs(oracle, np.random.default_rng(0)) is None


@pytest.mark.parametrize("name", ["relu6", "hardtanh", "abs"])
def test_a_piecewise_linear_activation_that_is_named_is_read_like_one_that_is_not(name: str) -> None:
    whole = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layers = [(2 * rng.standard_normal((3, 5)), rng.standard_normal(3)), (rng.standard_normal((1, 3)), np.zeros(1))]
        truth = Network.from_weights(layers, name)
        oracle = as_oracle(truth, 5, budget=20_000)
        found = identify(oracle, rng=np.random.default_rng(seed), activation=name)
        assert found.method == "critical points", seed
        whole.append(found.outcome is Outcome.complete and found.residual < 1e-9)
    assert_rate(whole, 0.9)


def test_a_smooth_network_that_cannot_be_read_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_network(3, (9, 9), "tanh", np.random.default_rng(21))
    far_off = random_network(3, (4, 4), "tanh", np.random.default_rng(22))

    class Failing(Method):
        def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
            return Identification(far_off, Outcome.check_failed, 0, 1.4, "failing", ("It failed its check.",))

    monkeypatch.setattr("unveil.identification.identify._candidates", lambda *_: ([Failing()], []))
    monkeypatch.setattr("unveil.identification.identify.SMOOTH_COPY_WORK", 1e10)
    found = identify(as_oracle(truth, shape=3, budget=20_000), rng=np.random.default_rng(2))
    assert found.outcome is Outcome.approximate
    assert found.network is not None
    assert found.network.layers[0].activation.name == "tanh"
    x = np.random.default_rng(5).standard_normal((2000, 3))
    y = truth(x)
    error = np.sqrt(((found.network(x) - y) ** 2).mean()) / y.std()
    told = found.stats["surrogate"]["fresh"]["rms"]
    assert error < 0.05
    assert told / 2 < error < 2 * told


def test_methods_for_smooth_networks_leave_questions_for_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_network(3, (9, 9), "tanh", np.random.default_rng(21))
    most = []

    class Greedy(Method):
        """Asks as long as it may, after a failure of the same kind."""

        def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
            most.append(int(oracle.ledger.left))
            oracle(rng.standard_normal((most[-1] // (3 - len(most)), 3)))
            outcome = Outcome.budget_ended if len(most) == 2 else Outcome.check_failed
            return Identification(None, outcome, most[-1], np.inf, "greedy", ())

    monkeypatch.setattr("unveil.identification.identify._candidates", lambda *_: ([Greedy(), Greedy()], []))
    monkeypatch.setattr("unveil.identification.identify.SMOOTH_COPY_WORK", 3e9)
    oracle = as_oracle(truth, shape=3, budget=60_000)
    found = identify(oracle, rng=np.random.default_rng(2))
    assert 0.65 * 60_000 < most[0] < 0.7 * 60_000
    assert most[1] == most[0] - most[0] // 2
    assert oracle.ledger.budget == 60_000
    assert found.outcome is Outcome.approximate
    assert found.network is not None
    assert found.network.layers[0].activation.name == "tanh"
    assert found.residual < 1
