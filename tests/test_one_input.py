"""Networks of a single input: breakpoints have no other place to be met at, and no other side than two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, flipped, relu_elsewhere, relu_net, roundings, single
from unveil.identification.detect import piecewise_linear
from unveil.identification.fitting.least_squares import polish
from unveil.identification.fitting.slimming import slimmed
from unveil.identification.validation import validate

ERROR = {np.float64: 1e-7, np.float32: 1e-4}


def drawn(sizes: Sequence[int], rng: np.random.Generator) -> Weights:
    """Weights of variance two per input, normal biases: breakpoints are at quotients of normal numbers."""
    return single(
        [(rng.standard_normal((out, n)) * np.sqrt(2 / n), rng.standard_normal(out)) for n, out in pairwise(sizes)]
    )


def off(found: uv.Identification, weights: Weights) -> float:
    """Largest error at usual inputs and 10 and 100 times further out, relative to the answers' size there."""
    errors = []
    for scale in (1, 10, 100):
        x = scale * np.random.default_rng(5).standard_normal((5000, 1))
        y = relu_net(weights)(x)
        assert found.network is not None
        errors.append(np.abs(found.network(x) - y).max() / np.abs(y).max())
    return float(max(errors))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_function_of_one_input_is_read_whole(dtype: type, seed: int) -> None:
    """One line shows all breakpoints, near by and far out; all of them count."""
    whole = []
    for each in range(6):
        rng = np.random.default_rng(seed + each)
        most = 12 if dtype is np.float64 else 8
        weights = drawn((1, int(rng.integers(1, most + 1)), int(rng.integers(1, 4))), rng)
        oracle = uv.as_oracle(relu_elsewhere(weights, rng, dtype), 1, budget=20_000)
        found = uv.identify(oracle, rng=rng)
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert off(found, weights) < ERROR[dtype], each
            assert any("one value" in why for why in found.why)
    assert_rate(whole, 0.95)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_more_layers_of_one_input_are_one_layer_with_the_same_function(dtype: type, seed: int) -> None:
    whole = []
    for each in range(3):
        rng = np.random.default_rng(seed + each)
        weights = drawn((1, 5, 3, 1), rng)
        found = uv.identify(uv.as_oracle(relu_elsewhere(weights, rng, dtype), 1, budget=20_000), rng=rng)
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            assert len(found.network.layers) == 2
            assert off(found, weights) < ERROR[dtype], each
            assert any("more layers" in why for why in found.why)
    assert_rate(whole, 0.9)


def test_within_a_box_too(seed: int) -> None:
    """Of few inputs a neuron may look along one of them alone: it is no wall."""
    whole = []
    for each, n in enumerate((1, 1, 2)):
        rng = np.random.default_rng(seed + each)
        weights = drawn((n, 4, 1), rng)
        weights[0][0][0, 1:] = 0
        weights[0][1][:] /= 2
        oracle = uv.as_oracle(relu_elsewhere(weights, rng, np.float32), n, within=(-2.0, 2.0), budget=20_000)
        found = uv.identify(oracle, rng=rng)
        x = rng.uniform(-2, 2, (2000, n))
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            y = relu_net(weights)(x)
            assert np.abs(found.network(x) - y).max() < 1e-4 * np.ptp(y)
    assert_rate(whole, 0.9)


def test_a_neuron_that_only_answers_between_two_breakpoints_tell_of_stays() -> None:
    """Two breakpoints so close that no answer of the fit lies between them look like one; others were asked there."""
    w, b = np.array([[1.0], [1.0], [-1.0]]), np.array([-0.700, -0.701, 0.3])
    network = uv.Network.from_weights([(w, b), (np.array([[1.0, 0.8, 0.5]]), np.zeros(1))])
    x = np.array([[t] for t in np.linspace(-3, 3, 200) if abs(t - 0.7) > 0.02])
    between = np.array([[0.7005]])
    y, there = network(x), network(between)

    def fit(trial: uv.Network) -> uv.Network:
        return polish(trial, x, y).network

    def holds(trial: uv.Network) -> bool:
        return bool(np.abs(trial(between) - there).max() < 1e-9)

    assert slimmed(network, x, y, 1e-12, fit).widths == (2, 1)
    assert slimmed(network, x, y, 1e-12, fit, holds=holds).widths == (3, 1)


def test_answers_that_differ_by_rounding_alone_are_no_spread() -> None:
    """Where the only neuron is off a network is right however little answers differ."""
    weights = [(np.array([[0.2], [-0.2]]), np.array([-3.0, -3.0])), (np.array([[1.0, 1.0]]), np.array([0.7]))]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        oracle = uv.as_oracle(flipped(relu_net(weights), rng, lambda x: 3 + roundings(weights)(x)), 1)
        found = uv.identify(oracle, rng=rng)
        assert found.outcome is uv.Outcome.complete
        assert off(found, weights) < 1e-12
        assert found.residual < 1e-10  # of slopes from answers that differ by rounding, far out
        assert found.network is not None
        # One that is wrong there is told apart by what it is wrong by.
        wrong = uv.Network.from_weights(
            [
                *[(each.dense(), each.bias) for each in found.network.layers[:-1]],
                (found.network.layers[-1].dense(), found.network.layers[-1].bias + 0.1),
            ]
        )
        assert validate(wrong, oracle, 100, rng).residual > 0.01


def test_breakpoints_that_bend_like_a_curve_by_chance_are_none() -> None:
    """Of four breakpoints three may grow with the step as a curve does; over shorter steps they do not bend at all."""
    straight = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        t = rng.uniform(-0.5, 0.5, 2)
        oracle = uv.as_oracle(lambda x, t=t: np.abs(x.astype(np.float32) - t.astype(np.float32)).sum(1), 1)
        straight.append(piecewise_linear(oracle, rng))
        assert not piecewise_linear(uv.as_oracle(lambda x: np.tanh(x).astype(np.float32), 1), rng)
    assert all(straight)


def test_what_a_single_input_or_a_grid_hides_is_said_and_nothing_is_blamed_on_the_model() -> None:
    rng = np.random.default_rng(0)
    scores = relu_net(drawn((1, 5, 3), rng))
    found = uv.identify(uv.as_oracle(lambda x: scores(x).argmax(axis=1), 1, answers="labels", budget=5000), rng=rng)
    assert found.outcome is uv.Outcome.not_resolved
    assert any("change at points" in why for why in found.why)
    for answers in ("values", "labels"):
        net = relu_net(drawn((3, 4, 2), rng))

        def ask(x: np.ndarray, net=net, answers=answers) -> np.ndarray:  # type: ignore[no-untyped-def]
            return net(x) if answers == "values" else net(x).argmax(axis=1)

        oracle = uv.as_oracle(ask, 3, answers=answers, grid=0.01, budget=5000)
        found = uv.identify(oracle, rng=rng)
        assert found.outcome is uv.Outcome.not_resolved, answers
        assert any("grid" in why for why in found.why)
