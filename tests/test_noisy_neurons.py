"""One neuron alone, and surplus neurons: fitted to answers of known networks, with and without noise."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import assert_rate
from tests.test_identify import random_network, worst
from unveil import as_oracle
from unveil.identification.fitting.least_squares import Polished, polish
from unveil.identification.fitting.slimming import REDUNDANT, without_surplus
from unveil.identification.identify import identify
from unveil.identification.smooth.single_neuron import fit_alone
from unveil.outcome import Outcome
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.network import Layer, Network


@pytest.mark.parametrize("level", [0.0, 1e-3])
def test_a_neuron_alone_is_fitted_and_its_error_told(level: float) -> None:
    rng = np.random.default_rng(1)
    weights, shift = rng.standard_normal(12), 0.3
    x = rng.standard_normal((80, 12))
    z = np.tanh(x @ weights + shift)
    y = (1 + z - 0.4 * z**2 + 0.2 * z**3)[:, None] + level * rng.standard_normal((80, 1))
    start = weights + 0.1 * rng.standard_normal(12)
    fit = fit_alone(x, y, start, 0.0, ACTIVATIONS["tanh"], degree=3)
    unit = fit.weights / np.linalg.norm(fit.weights)
    off = np.linalg.norm(unit - weights / np.linalg.norm(weights))
    assert fit.start > 10 * fit.misfit
    if level == 0:
        assert off < 1e-6
    else:
        assert 0.3 * off < fit.error < 3 * off
        assert fit.misfit == pytest.approx(level, rel=0.3)


def test_two_neurons_are_not_one() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.standard_normal((2, 10))
    x = rng.standard_normal((80, 10))
    y = (np.tanh(x @ first) + np.tanh(x @ second))[:, None]
    assert fit_alone(x, y, first, 0.0, ACTIVATIONS["tanh"], degree=5).misfit > 0.1


def doubled(network: Network, depth: int) -> Network:
    """The same function with the first neuron of a layer there twice, sharing its work."""
    layers = list(network.layers)
    here, after = layers[depth], layers[depth + 1]
    layers[depth] = Layer(np.r_[here.weights, here.weights[:1]], np.r_[here.bias, here.bias[:1]], here.activation)
    outgoing = np.c_[after.weights, 0.3 * after.weights[:, :1]]
    outgoing[:, 0] *= 0.7
    layers[depth + 1] = Layer(outgoing, after.bias, after.activation)
    return Network(tuple(layers))


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_a_neuron_too_many_is_taken_out(depth: int, level: float) -> None:
    rng = np.random.default_rng(3)
    truth = random_network(6, (6, 3), "tanh", rng)
    x = 1.5 * rng.standard_normal((600, 6))
    y = truth(x) + level * rng.standard_normal((600, 1))
    fit = polish(doubled(truth, depth), x, y, noise=0.3 * level)
    assert fit.condition >= REDUNDANT
    smaller = without_surplus(fit, x, y, level)
    assert worst(smaller.network, truth) < max(1e-8, 1000 * level)
    assert smaller.rms < max(1e-13, 1.1 * level)


def test_neurons_that_are_needed_stay() -> None:
    rng = np.random.default_rng(4)
    truth = random_network(5, (5, 2), "tanh", rng)
    x = 1.5 * rng.standard_normal((400, 5))
    fit = polish(truth, x, truth(x))
    suspicious = Polished(fit.network, fit.rms, fit.start, fit.steps, 2 * REDUNDANT, fit.uncertainty, fit.largest)
    assert without_surplus(suspicious, x, truth(x), 1e-12) is suspicious


def test_a_network_that_explains_nothing_is_left_alone() -> None:
    rng = np.random.default_rng(8)
    truth = random_network(5, (5, 2), "tanh", rng)
    x = rng.standard_normal((300, 5))
    lost = Polished(doubled(random_network(5, (5, 2), "tanh", rng), 1), 0.5, 0.5, 1, 2 * REDUNDANT, 1.0, 1.0)
    assert without_surplus(lost, x, truth(x), 1e-9) is lost


@pytest.mark.parametrize("answers", ["float32", "noise"])
def test_as_well_as_the_noise_allows(answers: str) -> None:
    as_stated = []
    for seed in range(3):
        truth = random_network(14, (14, 3), "tanh", np.random.default_rng(100 + seed))
        noise = np.random.default_rng(6)

        def answer(x: np.ndarray, truth: Network = truth, noise: np.random.Generator = noise) -> np.ndarray:
            y = truth(x)
            return y.astype(np.float32) if answers == "float32" else y + 1e-6 * noise.standard_normal(y.shape)

        oracle = as_oracle(answer, shape=14, noisy=True)
        found = identify(oracle, rng=np.random.default_rng(7 + seed), activation="tanh")
        assert found.outcome is Outcome.complete, found.why
        assert found.stats["uncertainty"] < 5e-6
        as_stated.append(bool(1 / 3 < worst(found.network, truth) / found.stats["uncertainty"] < 3))
    assert_rate(as_stated, 0.9, "as stated")


@pytest.mark.parametrize("seed", range(8))
def test_a_neuron_that_sends_next_to_nothing_goes_where_the_others_explain_as_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, bias = rng.standard_normal((4, 5)), rng.standard_normal(4)
    truth = Network.from_weights([(first[:3], bias[:3]), (np.ones((1, 3)), np.zeros(1))], "softplus")
    wider = Network.from_weights([(first, bias), (np.array([[1, 1, 1, 1e-11]]), np.zeros(1))], "softplus")
    x = rng.standard_normal((200, 5))
    found = without_surplus(polish(wider, x, truth(x), steps=0), x, truth(x), 1e-15)
    assert found.network.widths == (3, 1)
    weak = Network.from_weights([(first, bias), (np.array([[1, 1, 1, 1e-7]]), np.zeros(1))], "softplus")
    kept = without_surplus(polish(weak, x, weak(x), steps=0), x, weak(x), 1e-15)
    assert kept.network.widths == (4, 1)
