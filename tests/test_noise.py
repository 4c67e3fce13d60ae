"""Noise level and kind of an oracle, against noise that was put in and networks whose kind is known."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_gradients, relu_net
from unveil.blackbox.noise_model import answers_noise, errors_variance, estimate_noise

SMOOTH = {"tanh": np.tanh, "softplus": lambda s: np.logaddexp(0, s)}


def smooth_net(sizes: list[int], rng: np.random.Generator, name: str = "tanh"):
    (w1, b1), (w2, b2) = random_weights(sizes, rng, bias=0.3)
    return lambda x: SMOOTH[name](x @ w1.T + b1) @ w2.T + b2


@pytest.mark.parametrize("level", [1e-12, 1e-7, 1e-3])
def test_the_level_of_noise_that_was_put_in(level: float, rng: np.random.Generator) -> None:
    t = np.linspace(0, 1e-6, 9)[:, None]
    found = estimate_noise(np.sin(3 + t) + level * rng.standard_normal((9, 200)))
    assert np.median(found) == pytest.approx(level, rel=0.5)


@pytest.mark.parametrize("order", [1, 2, 6])
def test_differences_tell_the_variance_of_errors_and_nothing_of_a_polynomial(
    order: int, rng: np.random.Generator
) -> None:
    t = np.arange(8.0)[:, None, None]
    found = errors_variance(0.3 * rng.standard_normal((8, 4000, 2)), order)
    assert found.shape == (4000, 2)
    np.testing.assert_allclose(found.mean(axis=0), 0.09, rtol=0.15)
    assert np.abs(errors_variance(t ** (order - 1), order)).max() < 1e-20


@pytest.mark.parametrize("within", [None, (0.0, 1.0)])
@pytest.mark.parametrize("level", [1e-9, 1e-4])
def test_errors_of_a_smooth_model_are_those_of_its_noisiest_output(level, within, rng: np.random.Generator) -> None:
    net = smooth_net([30, 12, 2], rng)
    oracle = uv.as_oracle(
        lambda x: net(x) + [level, level / 9] * rng.standard_normal((len(x), 2)), 30, within=within, noisy=True
    )
    before = oracle.ledger.asked
    assert answers_noise(oracle, rng) == pytest.approx(level, rel=0.6)
    assert oracle.ledger.asked - before == 128
    exact = uv.as_oracle(net, 30, within=within)
    assert answers_noise(exact, rng) < 1e-14


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("within", [None, (0.0, 1.0)])
@pytest.mark.parametrize("sizes", [[784, 80, 40, 10], [20, 10, 1], [10, 300, 5]])
def test_relu_networks_are_piecewise_linear(sizes, within, dtype, rng: np.random.Generator) -> None:
    net = relu_net(random_weights(sizes, rng, bias=0.3, dtype=dtype), dtype)
    noise = uv.measure_noise(uv.as_oracle(net, shape=sizes[0], within=within), rng=rng)
    assert noise.kind == "piecewise linear"
    assert noise.digits in ((15, 16, 17) if dtype == np.float64 else (6, 7, 8))


@pytest.mark.parametrize("name", list(SMOOTH))
@pytest.mark.parametrize("within", [None, (0.0, 1.0)])
def test_smooth_networks_are_smooth(name, within, rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(smooth_net([50, 20, 3], rng, name), shape=50, within=within)
    assert uv.measure_noise(oracle, rng=rng).kind == "smooth"


def test_linear_and_constant_functions_are_told(rng: np.random.Generator) -> None:
    w = rng.standard_normal((30, 2))
    assert uv.measure_noise(uv.as_oracle(lambda x: x @ w, shape=30), rng=rng).kind == "linear"
    assert uv.measure_noise(uv.as_oracle(lambda x: 0 * x[:, :1] + 3, shape=30), rng=rng).kind == "constant"


def test_rounded_answers_are_recognised(rng: np.random.Generator) -> None:
    oracle = uv.Rounded(uv.as_oracle(smooth_net([50, 20, 3], rng), shape=50), 4)
    noise = uv.measure_noise(oracle, rng=rng)
    assert noise.digits <= 5
    assert noise.level.max() >= 1e-5 * noise.size.min()


@pytest.mark.parametrize("decimals", [3, 4])
def test_log_ratios_of_rounded_probabilities_are_as_coarse_as_those(decimals: int, rng: np.random.Generator) -> None:
    net = relu_net(random_weights([10, 12, 4], rng, bias=0.3))

    def probabilities(x: np.ndarray) -> np.ndarray:
        p = np.exp(net(x) / 4)
        return p / p.sum(axis=1, keepdims=True)

    oracle = uv.as_oracle(lambda x: np.round(probabilities(x), decimals), shape=10)
    whole = uv.LogRatios(uv.as_oracle(probabilities, shape=10, answers="values"), oracle.reference)
    noise = uv.measure_noise(oracle, rng=rng)
    x = rng.standard_normal((500, 10))
    error = np.sqrt(np.mean((oracle(x) - whole(x)) ** 2, axis=0))
    np.testing.assert_allclose(noise.size / noise.signal / error, 1, atol=0.6)
    assert noise.rounding == "decimal"
    assert noise.unchanged == 0


def test_jacobians_of_a_relu_network_are_exact(rng: np.random.Generator) -> None:
    weights = random_weights([40, 20, 10, 3], rng, bias=0.3)
    oracle = uv.as_oracle(relu_net(weights), shape=40)
    noise = uv.measure_noise(oracle, rng=rng)
    x = rng.standard_normal((8, 40))
    before = oracle.ledger.asked
    found = uv.jacobian(oracle, x, rng=rng, noise=noise)
    assert oracle.ledger.asked - before >= 8 * 41
    error = np.abs(found - relu_gradients(weights, x)).max(axis=(1, 2))
    # A coordinate step may still cross a breakpoint that the combined test direction missed, at a point here or there.
    assert np.sum(error < 1e-9) >= 7


def test_gradients_and_hessians_of_a_smooth_network(rng: np.random.Generator) -> None:
    (w1, b1), (w2, b2) = random_weights([6, 12, 1], rng, bias=0.3)
    oracle = uv.as_oracle(lambda x: np.tanh(x @ w1.T + b1) @ w2.T + b2, shape=6)
    x = rng.standard_normal((3, 6))
    t = np.tanh(x @ w1.T + b1)
    gradient = ((1 - t**2) * w2) @ w1
    hessian = np.einsum("pk,ki,kj->pij", -2 * t * (1 - t**2) * w2, w1, w1)
    noise = uv.measure_noise(oracle, rng=rng)
    before = oracle.ledger.asked
    assert np.abs(uv.gradient(oracle, x, rng=rng, noise=noise) - gradient).max() < 1e-8
    assert oracle.ledger.asked - before == 2 * 3 * 6
    before = oracle.ledger.asked
    assert np.abs(uv.hessian(oracle, x, rng=rng, noise=noise) - hessian).max() < 1e-5
    assert oracle.ledger.asked - before == 3 * (1 + 2 * 6 + 6 * 5)
