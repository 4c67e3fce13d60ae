"""CriticalPoints against the weights it never sees, and against the ledger."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_elsewhere, relu_net
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.detect import piecewise_linear
from unveil.identification.piecewise_linear.critical_points import CriticalPoints, _Attempt
from unveil.identification.validation import FEWEST, Validation


def read(sizes: tuple[int, ...], seed: int, bias: float = 0.5, budget: int | None = None):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    weights = random_weights(sizes, rng, bias=bias)
    oracle = uv.as_oracle(relu_net(weights), sizes[0], budget=budget)
    return CriticalPoints()(oracle, rng=rng), weights, oracle


def row_error(found: np.ndarray, true: np.ndarray) -> float:
    """Largest entry error of any true row, both of unit norm, orientation included."""
    true = true / np.linalg.norm(true, axis=1, keepdims=True)
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return max(float(np.abs(found - row).max(axis=1).min()) for row in true)


def function_error(network: uv.Network, weights: Weights, seed: int = 99) -> float:
    x = np.random.default_rng(seed).standard_normal((5000, weights[0][0].shape[1]))
    return float(np.abs(network(x) - relu_net(weights)(x)).max())


@pytest.mark.parametrize(
    ("sizes", "per_parameter"),
    [((100, 20, 1), 1.35), ((100, 20, 10), 0.42), ((20, 10, 1), 3.6), ((10, 15, 1), 7.0), ((10, 15, 3), 4.5)],
)
def test_one_hidden_layer_to_the_last_digits(sizes: tuple[int, ...], per_parameter: float) -> None:
    asked = []
    for seed in range(3):
        found, weights, oracle = read(sizes, seed)
        assert found.outcome is uv.Outcome.complete, (sizes, seed)
        assert found.network is not None
        assert found.network.layers[0].weights.shape == (sizes[1], sizes[0])
        assert row_error(found.network.layers[0].weights, weights[0][0]) < 2**-28, (sizes, seed)
        assert function_error(found.network, weights) < 1e-7
        asked.append((oracle.ledger.asked - 2 * FEWEST) / sum(w.size + b.size for w, b in weights))
        assert found.queries <= oracle.ledger.asked
    # One of them may need a line more on one processor than on another.
    assert np.median(asked) <= per_parameter
    assert max(asked) <= 1.5 * per_parameter


def test_sides_of_four_times_more_neurons_than_inputs() -> None:
    found, weights, _ = read((10, 40, 1), 0)
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    assert row_error(found.network.layers[0].weights, weights[0][0]) < 1e-6


def test_half_of_the_weights_zero() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weights = [(w * (rng.random(w.shape) < 0.5), b) for w, b in random_weights((40, 12, 1), rng, bias=0.5)]
        weights[-1] = (np.where(weights[-1][0] == 0, 0.3, weights[-1][0]), weights[-1][1])
        found = CriticalPoints()(uv.as_oracle(relu_net(weights), 40), rng=rng)
        assert found.outcome is uv.Outcome.complete, seed
        assert found.network is not None
        assert row_error(found.network.layers[0].weights, weights[0][0]) < 2**-28


@pytest.mark.parametrize(
    ("sizes", "seeds", "most"),
    [((30, 16, 8, 1), 1, 6000), ((60, 24, 12, 6), 1, 5500), ((10, 10, 10, 1), 2, 3000), ((8, 11, 10, 1), 1, 4000)],
)
def test_two_hidden_layers_to_the_last_digits(sizes: tuple[int, ...], seeds: int, most: int) -> None:
    for seed in range(seeds):
        found, weights, oracle = read(sizes, seed)
        assert found.outcome is uv.Outcome.complete, (sizes, seed)
        assert found.network is not None
        assert function_error(found.network, weights) < 1e-8, (sizes, seed)
        assert oracle.ledger.asked <= most + 2 * FEWEST, (sizes, seed)


@pytest.mark.slow
def test_three_hidden_layers(rng: np.random.Generator) -> None:
    whole: list[bool] = []
    for _ in range(6):
        weights = random_weights((20, 8, 8, 8, 8), rng, bias=0.5)
        oracle = uv.as_oracle(relu_elsewhere(weights, rng), 20, budget=15_000)
        found = CriticalPoints(attempts=1)(oracle, rng=rng)
        # Right where a user would ask; a neuron that hardly any input switches may be missing.
        whole.append(found.outcome in (uv.Outcome.complete, uv.Outcome.approximate))
        if found.outcome is uv.Outcome.complete:
            # Never a wrong one; not every one is read within so few questions.
            assert found.network is not None
            assert function_error(found.network, weights) < 1e-8
    assert_rate(whole, 0.7)


@pytest.mark.parametrize("sizes", [(20, 10, 4), (10, 8, 5, 4)])
def test_probabilities_that_run_out_of_digits_far_out_bend_nothing(sizes: tuple[int, ...]) -> None:
    """Logits of some 30 at ordinary inputs: the smallest probabilities are zero from a few dozen units on."""
    rng = np.random.default_rng(4)
    weights = random_weights(sizes, rng)
    weights[-1] = (10 * weights[-1][0], weights[-1][1])
    logits = relu_net(weights)

    def answer(x: np.ndarray) -> np.ndarray:
        return np.asarray(special.softmax(logits(x), axis=1))

    assert answer(1e3 * rng.standard_normal((100, sizes[0]))).min() == 0
    oracle = uv.as_oracle(answer, sizes[0])
    found = uv.identify(oracle, rng=rng)
    assert found.outcome is uv.Outcome.complete, found.why
    assert found.network is not None
    x = rng.standard_normal((1000, sizes[0]))
    np.testing.assert_allclose(oracle.probabilities(found.network(x)), answer(x), atol=1e-8)


def test_many_neurons_on_few_inputs_are_not_taken_for_a_curve() -> None:
    """Short rows of points meet a bend nearly everywhere."""
    rng = np.random.default_rng(2)
    weights = random_weights((60, 1200, 1), rng, bias=0.5)
    oracle = uv.as_oracle(relu_net(weights), 60)
    noise = rounding(oracle, oracle.sample(4, rng), oracle.resolution, rng)
    assert noise.straight
    assert noise.relative < 1e-12
    assert piecewise_linear(oracle, rng)
    smooth = uv.as_oracle(uv.Network.from_weights(weights, "softplus"), shape=60)
    assert not rounding(smooth, smooth.sample(4, rng), smooth.resolution, rng).straight
    assert not piecewise_linear(smooth, rng)


def test_one_hidden_layer_asked_within_a_box_only() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weights = random_weights((20, 10, 1), rng, bias=0.5)
        oracle = uv.as_oracle(relu_net(weights), 20, within=(-2.0, 2.0))
        found = CriticalPoints()(oracle, rng=rng)
        assert found.outcome is uv.Outcome.complete, (seed, found.why)
        assert found.network is not None
        x = rng.uniform(-2, 2, size=(5000, 20))
        np.testing.assert_allclose(found.network(x), relu_net(weights)(x), atol=1e-9)


def test_neurons_that_never_switch_are_folded_in() -> None:
    rng = np.random.default_rng(4)
    weights = random_weights((20, 8, 1), rng, bias=0.5)
    weights[0][0][3] *= 1e-9
    weights[0][1][3] = 1.0  # always active wherever anybody asks
    weights[0][1][5] = -1e9  # never
    found = CriticalPoints()(uv.as_oracle(relu_net(weights), 20), rng=rng)
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    assert function_error(found.network, weights) < 1e-6


def test_a_smooth_network_is_refused() -> None:
    oracle = uv.as_oracle(lambda x: np.tanh(x @ np.ones((5, 2))), 5)
    found = CriticalPoints()(oracle, rng=np.random.default_rng(0))
    assert found.network is None
    assert found.outcome is uv.Outcome.check_failed
    assert found.why


def test_the_budget_ends_it() -> None:
    found, _, oracle = read((50, 20, 1), 0, budget=700)
    assert found.outcome is uv.Outcome.budget_ended
    assert oracle.ledger.asked <= 700


def test_identify_recognises_a_relu_network() -> None:
    rng = np.random.default_rng(7)
    weights = random_weights((15, 6, 2), rng, bias=0.5)
    found = uv.identify(uv.as_oracle(relu_net(weights), 15), rng=rng)
    assert found.method == "critical points"
    assert found.outcome is uv.Outcome.complete


def test_same_seed_same_network() -> None:
    one, _, _ = read((30, 8, 2), 3)
    two, _, _ = read((30, 8, 2), 3)
    assert one.network is not None
    assert two.network is not None
    assert (one.network.layers[0].weights == two.network.layers[0].weights).all()
    assert one.queries == two.queries


def test_the_page_tells_what_was_read_off() -> None:
    from unveil.audit.sections.extraction import EXTRACTION
    from unveil.audit.stage import Audit

    weights = random_weights((36, 6, 5), np.random.default_rng(2), bias=0.5)
    audit = Audit(uv.as_oracle(relu_net(weights), 36))
    audit.findings["identification"] = uv.identify(audit.oracle, rng=np.random.default_rng(0))
    audit.findings["weights"] = uv.Network.from_weights(weights)
    told = EXTRACTION.run(audit)
    assert told is not None
    assert told.outcome is uv.Outcome.complete
    assert told.figures["share_of_first_layer"] == 1
    assert told.figures["same_label"] == 1
    assert len(told.values["pictures"]) == 6


def test_a_first_layer_much_wider_than_the_input_is_read_or_its_rows_are_told() -> None:
    """Gradients leave the sides of 30 neurons on 8 inputs open; how hyperplanes behind them bend tells these."""
    whole = []
    for seed in (5, 6):
        rng = np.random.default_rng(seed)
        weights = random_weights((8, 30, 6, 1), rng, bias=0.5)
        oracle = uv.as_oracle(relu_net(weights), 8, budget=40_000)
        found = CriticalPoints(attempts=1)(oracle, rng=rng)
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            x = 2 * rng.standard_normal((2000, 8))
            y = relu_net(weights)(x)
            assert np.abs(found.network(x) - y).max() < 1e-7 * np.abs(y).max()
            continue
        rows = found.stats["rows_read"][0]
        true = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
        assert len(rows) >= 20
        assert (np.abs(rows @ true.T).max(axis=1) > 1 - 1e-6).mean() > 0.9
    assert any(whole)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_network_that_fails_its_check_keeps_what_was_read(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Validation:
        return Validation(1.0, 1.0, 1e9, 100, np.empty((0, 12)))

    monkeypatch.setattr("unveil.identification.piecewise_linear.settling.validate", fails)
    weights = random_weights((12, 5, 4, 1), np.random.default_rng(seed), bias=0.5)
    found = CriticalPoints(attempts=1)(uv.as_oracle(relu_net(weights), 12), rng=np.random.default_rng(seed))
    assert found.outcome is uv.Outcome.check_failed
    ((rows, _),) = found.stats["layers_read"]
    assert len(rows) >= 3
    # (the length of a row is open: the last fit may change it)
    read, unit = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, weights[0][0]))
    assert np.abs(read @ unit.T).max(axis=1).min() > 1 - 1e-9


@pytest.mark.parametrize(("roundings", "outcome"), [(5, "complete"), (60, "approximate")])
def test_behind_few_digits_no_usual_answer_may_be_wrong_by_many_roundings(roundings: float, outcome: str) -> None:
    relative = 5e-5
    noise = Rounding(np.full(1, relative), 1.0, relative, True)
    seen = Validation(roundings * relative, 0.0, 5.0, 500, np.empty((0, 2)), roundings)
    attempt = _Attempt(
        uv.CriticalPoints(), uv.as_oracle(lambda x: np.round(x.sum(axis=1), 4), 2), np.random.default_rng(0)
    )
    # What 60 roundings are would pass as a share of the spread.
    assert 60 * relative < 1e-2
    assert attempt._judged(seen, noise).name == outcome
