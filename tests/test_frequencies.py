"""Sines: waves seen on lines are combinations of the first layer's weights, and every parameter of known networks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_identify import random_network, worst
from unveil import BadInput, Frequencies, as_oracle, identify
from unveil.identification.fitting.least_squares import polish
from unveil.identification.fitting.slimming import without_surplus
from unveil.identification.methods import method_named
from unveil.identification.smooth.frequencies import (
    SAMPLES,
    Waves,
    agreed,
    generators,
    looks_periodic,
    typical_frequency,
    waves_on_a_line,
)
from unveil.outcome import Outcome
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.network import Layer, Network


def test_waves_are_integer_combinations_of_the_rows_and_the_strongest_are_rows() -> None:
    truth = random_network(8, (8, 3), "sin", np.random.default_rng(1))
    oracle = as_oracle(truth, shape=8)
    rng = np.random.default_rng(2)
    frequency = typical_frequency(oracle, np.eye(8), rng)
    before = oracle.ledger.asked
    waves = waves_on_a_line(oracle, np.eye(8), frequency, rng=rng)
    assert oracle.ledger.asked - before == SAMPLES * 9
    rows = truth.layers[0].weights
    sure = np.flatnonzero(waves.doubts < 0.01)
    whole = waves.frequencies[sure] @ np.linalg.inv(rows)
    assert len(sure) >= 4
    np.testing.assert_allclose(whole, np.rint(whole), atol=0.15)
    first = int(sure[np.argmax(waves.amplitudes[sure])])
    i = int(np.argmax(np.abs(waves.frequencies[first] @ rows.T)))
    sign = np.sign(waves.frequencies[first] @ rows[i])
    np.testing.assert_allclose(sign * waves.frequencies[first], rows[i], atol=0.1)
    # A sine is a wave a quarter of a turn late; half turns are another sign of its weights.
    apart = waves.phases[first] + np.pi / 2 - sign * truth.layers[0].bias[i]
    assert abs((apart + np.pi / 2) % np.pi - np.pi / 2) < 0.15


def test_combinations_are_no_generators_and_signs_do_not_count() -> None:
    rng = np.random.default_rng(3)
    rows = np.linalg.qr(rng.standard_normal((5, 5)))[0][:3]
    seen = np.array(
        [rows[0], rows[1], rows[0] + rows[1], 3 * rows[0], rows[0] - 2 * rows[1], -rows[2], rows[2] - rows[1]]
    )
    heights = np.linspace(2, 1, len(seen))
    lines = []
    for sign in (1, -1):
        noise = 0.01 * rng.standard_normal(seen.shape)
        lines.append(Waves(sign * seen + noise, np.zeros(7), heights, np.full(7, 0.1), np.ones(7)))
    waves = agreed(lines, 1.0)
    assert list(waves.seen) == [2] * 7
    np.testing.assert_array_equal(generators(waves, 5, 1.0), [0, 1, 5])
    assert len(agreed(lines[:1], 1.0).phases) == 0  # all in doubt, none seen twice


@pytest.mark.parametrize(("activation", "expected"), [("sin", True), ("tanh", False), ("softplus", False)])
def test_sines_are_recognised(activation: str, expected: bool) -> None:
    truth = random_network(6, (6, 3), activation, np.random.default_rng(4))
    assert looks_periodic(as_oracle(truth, shape=6), np.random.default_rng(5)) is expected
    assert not looks_periodic(as_oracle(truth, shape=6, within=(-1, 1)), np.random.default_rng(5))


@pytest.mark.parametrize(
    ("n", "widths", "outputs", "scale", "second"),
    [(7, (7, 2), 1, 1.0, "sin"), (9, (7, 3), 1, 5.0, "sin"), (8, (8, 3), 3, 0.2, "sin"), (8, (8, 2), 1, 1.0, "tanh")],
)
def test_every_parameter_is_found(n: int, widths: tuple[int, ...], outputs: int, scale: float, second: str) -> None:
    drawn = random_network(n, widths, "sin", np.random.default_rng(6), outputs=outputs)
    first, then, last = drawn.layers
    truth = Network(
        (
            Layer(scale * first.weights, first.bias, first.activation),
            Layer(then.weights, then.bias, ACTIVATIONS[second]),
            last,
        )
    )
    oracle = as_oracle(truth, shape=n)
    before = oracle.ledger.asked
    found = identify(oracle, rng=np.random.default_rng(7), activation=("sin", second), widths=widths)
    assert found.method == "Frequencies"
    assert found.outcome is Outcome.complete, found.why
    assert found.queries == oracle.ledger.asked - before
    assert worst(found.network, truth) < 1e-8


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_two_sines_of_the_same_weights_are_one(sign: float) -> None:
    rng = np.random.default_rng(10)
    truth = random_network(4, (4, 2), "sin", rng)
    first, then, last = truth.layers
    # sin(s + t) of the second neuron as a sum of two sines with other shifts, one of them possibly of -s.
    a, b = then.bias[1] + 0.9, then.bias[1] - 0.4
    share = np.linalg.solve(
        [[np.cos(a), np.cos(b)], [np.sin(a), np.sin(b)]], [np.cos(then.bias[1]), np.sin(then.bias[1])]
    )
    weights = np.vstack([then.weights, sign * then.weights[1]])
    split = Layer(weights, np.array([then.bias[0], a, b if sign > 0 else np.pi - b]), then.activation)
    outer = Layer(np.array([[1.0, *share]]), last.bias, last.activation)
    wide = Network((first, split, outer))
    x = rng.standard_normal((300, 4))
    np.testing.assert_allclose(wide(x), truth(x), atol=1e-13)
    found = without_surplus(polish(wide, x, truth(x)), x, truth(x), 0.0)
    assert worst(found.network, truth) < 1e-10


def test_what_cannot_be_read_is_said() -> None:
    truth = random_network(5, (5, 2), "sin", np.random.default_rng(8))
    rng = np.random.default_rng(9)
    boxed = Frequencies(widths=(5, 2))(as_oracle(truth, shape=5, within=(-1, 1)), rng=rng)
    assert boxed.network is None
    assert "bounded" in " ".join(boxed.why)
    wide = Frequencies(widths=(6, 2))(as_oracle(truth, shape=5), rng=rng)
    assert wide.network is None
    assert "more than the 5 inputs" in " ".join(wide.why)
    flat = Frequencies(widths=(5, 2))(as_oracle(lambda x: np.ones((len(x), 1)), 5), rng=rng)
    assert flat.network is None
    assert flat.outcome is Outcome.check_failed
    cut = Frequencies(widths=(5, 2))(as_oracle(truth, shape=5, budget=3000), rng=rng)
    assert cut.outcome is Outcome.budget_ended
    assert cut.queries <= 3000
    with pytest.raises(BadInput, match="first layers of sines"):
        method_named("frequencies", ("tanh",), None)(as_oracle(truth, shape=5), rng=rng)
