"""Smooth rectifiers: what is seen from afar, the way behind the first layer, and every parameter of known networks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_identify import random_network, worst
from unveil import as_oracle
from unveil.identification.identify import identify
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.inner_oracle import Behind, rising
from unveil.identification.smooth.rectifiers import breakpoint_directions, first_layer, looks_rectified
from unveil.outcome import Outcome
from unveil.whitebox.activation import ACTIVATIONS, RECTIFIERS
from unveil.whitebox.network import Network


@pytest.mark.parametrize(
    ("activation", "n", "widths"),
    [
        ("softplus", 10, (10, 3)),
        ("gelu", 10, (10, 3)),
        ("softplus", 11, (8, 3)),
        ("gelu", 8, (8,)),
        ("softplus", 9, (5,)),
    ],
)
def test_every_parameter_is_found(activation: str, n: int, widths: tuple[int, ...]) -> None:
    truth = random_network(n, widths, activation, np.random.default_rng(1))
    oracle = as_oracle(truth, shape=n)
    looked = oracle.ledger.asked
    found = identify(oracle, rng=np.random.default_rng(2))
    assert found.method == "Rectifiers"
    assert found.outcome is Outcome.complete, found.why
    assert found.queries == oracle.ledger.asked - looked
    assert worst(found.network, truth) < 1e-8


@pytest.mark.parametrize("activation", RECTIFIERS)
def test_every_rectifier_is_told_from_the_others(activation: str) -> None:
    told = 0
    for seed in range(3):
        truth = random_network(7, (4,), activation, np.random.default_rng([seed, 31]))
        found = identify(as_oracle(truth, shape=7), rng=np.random.default_rng([seed, 32]))
        if found.outcome is Outcome.complete:
            assert found.network is not None
            assert found.network.layers[0].activation.name == activation
            assert worst(found.network, truth) < 1e-8
            told += 1
    assert told >= 2


@pytest.mark.parametrize("within", [None, (-1, 1)])
def test_an_activation_with_a_number_is_read_by_its_name(within: tuple[int, int] | None) -> None:
    truth = random_network(5, (3,), "elu(0.7)", np.random.default_rng(35))
    found = identify(
        as_oracle(truth, shape=5, within=within, budget=20_000), rng=np.random.default_rng(36), activation="elu(0.7)"
    )
    assert found.network is not None
    assert found.network.layers[0].activation.name == "elu(0.7)"


@pytest.mark.parametrize(("answers", "most"), [(np.float32, 1e-4), (np.float64, 1e-9)])
def test_silu_in_a_box_and_from_short_answers(answers: type, most: float) -> None:
    told = 0
    for seed in range(3):
        truth = random_network(6, (4,), "silu", np.random.default_rng([seed, 33]), outputs=2)
        oracle = as_oracle(lambda x, net=truth: net(x).astype(answers), shape=6, within=(-1, 1))  # type: ignore[misc]
        found = identify(oracle, rng=np.random.default_rng([seed, 34]))
        if found.outcome is Outcome.complete:
            assert found.network is not None
            x = np.random.default_rng(seed).uniform(-1, 1, (500, 6))
            y = truth(x)
            assert np.abs(found.network(x) - y).max() <= most * np.ptp(y)
            told += 1
    assert told >= 2


def test_several_outputs_and_other_scales() -> None:
    rng = np.random.default_rng(3)
    truth = random_network(9, (9, 4), "softplus", rng, outputs=3)
    scale = np.exp(rng.uniform(-1, 1, 9))
    first = truth.layers[0]
    layers = [(layer.weights, layer.bias) for layer in truth.layers]
    layers[0] = (first.weights * scale[:, None], first.bias)
    truth = Network.from_weights(layers, "softplus")
    found = identify(as_oracle(truth, shape=9), rng=np.random.default_rng(4), activation="softplus", widths=(9, 4))
    assert worst(found.network, truth) < 1e-8


def test_breakpoints_tell_the_first_layer() -> None:
    truth = random_network(7, (6, 3), "gelu", np.random.default_rng(5))
    oracle = as_oracle(truth, shape=7)
    directions = breakpoint_directions(oracle, rng=np.random.default_rng(6))
    likeness = np.abs(truth.layers[0].weights @ directions.T)
    assert directions.shape == (6, 7)
    np.testing.assert_allclose(likeness.max(axis=1), 1, atol=1e-12)
    layer, misfits = first_layer(
        oracle, directions, [ACTIVATIONS[name] for name in RECTIFIERS], rng=np.random.default_rng(7)
    )
    assert layer.activation.name == "gelu"
    match = likeness.argmax(axis=1)
    np.testing.assert_allclose(layer.weights[match], truth.layers[0].weights, atol=1e-6)
    np.testing.assert_allclose(layer.shifts[match], truth.layers[0].bias, atol=1e-4)
    assert misfits.max() < 1e-6


@pytest.mark.parametrize(
    ("activation", "expected"), [("softplus", True), ("gelu", True), ("tanh", False), ("sin", False)]
)
def test_rectifiers_are_recognised(activation: str, expected: bool) -> None:
    truth = random_network(6, (6, 3), activation, np.random.default_rng(8))
    assert looks_rectified(as_oracle(truth, shape=6), np.random.default_rng(9)) is expected


@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu", "sin"])
def test_behind_the_first_layer_is_the_rest(activation: str) -> None:
    truth = random_network(7, (5, 3), activation, np.random.default_rng(10))
    first, rest = truth.layers[0], Network(truth.layers[1:])
    oracle = as_oracle(truth, shape=7)
    behind = Behind(oracle, FirstLayer(first.weights, first.bias, first.activation, 10.0))
    before = oracle.ledger.asked
    h = behind.sample(20, np.random.default_rng(11))
    np.testing.assert_allclose(behind(h), rest(h), atol=1e-12)
    assert oracle.ledger.asked == before + 20
    low, high = rising(first.activation)
    assert (first.activation.slope(np.linspace(low, high, 50)) > 0).all()


@pytest.mark.parametrize("budget", [150, 900, 2500, 4000, 5300])
def test_budget_ends_in_a_marked_result(budget: int) -> None:
    truth = random_network(8, (8, 3), "softplus", np.random.default_rng(12))
    oracle = as_oracle(truth, shape=8, budget=budget)
    found = identify(oracle, rng=np.random.default_rng(13), activation="softplus")
    assert oracle.ledger.asked <= budget
    assert found.outcome is Outcome.budget_ended
