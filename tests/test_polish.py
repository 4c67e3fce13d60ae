"""Least squares on all parameters: Jacobian against torch autograd, recovery from a perturbed truth."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_identify import random_network
from unveil.identification.fitting.least_squares import jacobian, parameters, polish, polish_all
from unveil.whitebox.network import Layer, Network


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "gelu", "sin"])
def test_jacobian_is_autograd(name: str) -> None:
    torch = pytest.importorskip("torch")
    network = random_network(4, (5, 3), name, np.random.default_rng(3), outputs=2)
    x = np.random.default_rng(4).standard_normal((6, 4))
    shapes = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": torch.nn.functional.softplus}
    shape = shapes.get(name) or {"gelu": torch.nn.functional.gelu, "sin": torch.sin}[name]
    weights = [torch.tensor(layer.weights, requires_grad=True) for layer in network.layers]
    biases = [torch.tensor(layer.bias, requires_grad=True) for layer in network.layers]
    h = torch.tensor(x)
    for depth, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = h @ w.T + b
        h = shape(h) if depth < 2 else h
    ours = jacobian(network, x)
    assert ours.shape == (6, 2, parameters(network))
    for i in range(6):
        for k in range(2):
            gradients = torch.autograd.grad(h[i, k], weights + biases, retain_graph=True)
            theirs = [np.c_[w.numpy(), b.numpy()].ravel() for w, b in zip(gradients[:3], gradients[3:], strict=True)]
            np.testing.assert_allclose(ours[i, k], np.concatenate(theirs), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus"])
def test_polish_recovers_a_perturbed_truth(name: str) -> None:
    rng = np.random.default_rng(5)
    truth = random_network(6, (6, 3), name, rng)
    moved = Network(
        tuple(
            Layer(
                layer.weights + 0.01 * rng.standard_normal(layer.weights.shape),
                layer.bias + 0.01 * rng.standard_normal(layer.bias.shape),
                layer.activation,
            )
            for layer in truth.layers
        )
    )
    x = 1.5 * rng.standard_normal((3 * parameters(truth), 6))
    fit = polish(moved, x, truth(x))
    assert fit.rms < 1e-14
    worst = max(np.abs(a.weights - b.weights).max() for a, b in zip(fit.network.layers, truth.layers, strict=True))
    # Rounding of the answers times the condition number is all that may be left.
    assert worst < 2e-15 * max(10, fit.condition)


def test_polish_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(6)
    truth = random_network(5, (5, 2), "tanh", rng)
    x = 1.5 * rng.standard_normal((2000, 5))
    fit = polish(truth, x, truth(x) + 1e-4 * rng.standard_normal((2000, 1)))
    worst = max(np.abs(a.weights - b.weights).max() for a, b in zip(fit.network.layers, truth.layers, strict=True))
    assert 0.05 * fit.uncertainty < worst < 5 * fit.uncertainty
    assert fit.rms == pytest.approx(1e-4, rel=0.1)


def test_fixed_layers_stay() -> None:
    rng = np.random.default_rng(7)
    truth = random_network(5, (5, 2), "tanh", rng)
    x = rng.standard_normal((300, 5))
    start = Network((truth.layers[0], *random_network(5, (5, 2), "tanh", rng).layers[1:]))
    [fit] = polish_all([start], x, truth(x), free=(1, 2))
    assert np.array_equal(fit.network.layers[0].weights, truth.layers[0].weights)
    assert fit.rms < fit.start


def test_the_largest_error_is_foretold_within_three_times() -> None:
    outside = 0
    for seed in range(60):
        rng = np.random.default_rng([21, seed])
        n, k = int(rng.choice([5, 8])), int(rng.choice([3, 5]))
        truth = random_network(n, (k,), str(rng.choice(["tanh", "softplus"])), rng)
        count = (2 if seed % 2 else 6) * k * (n + 2) + 4 * n
        x = 1.5 * rng.standard_normal((count, n))
        y = truth(x)
        y = y.astype(np.float32) if seed % 3 == 0 else y + 1e-6 * rng.standard_normal(y.shape)
        fit = polish(truth, x, y)
        pairs = zip(fit.network.layers, truth.layers, strict=True)
        off = max(max(np.abs(a.weights - b.weights).max(), np.abs(a.bias - b.bias).max()) for a, b in pairs)
        outside += not 1 / 3 < off / fit.largest < 3
    assert outside <= 1


def test_answers_that_count_for_nothing_change_nothing(rng: np.random.Generator) -> None:
    truth = random_network(5, (6,), "tanh", rng, outputs=2)
    x = rng.standard_normal((200, 5))
    y, counts = truth(x), np.ones((200, 2))
    y[::4, 0] += rng.standard_normal(50)
    counts[::4, 0] = 0
    start = Network(tuple(Layer(1.01 * layer.weights, layer.bias + 0.01, layer.activation) for layer in truth.layers))
    assert polish(start, x, y).rms > 0.1
    fit = polish(start, x, y, weight=counts)
    assert fit.rms < 1e-12
    assert np.abs(fit.network(x) - truth(x)).max() < 1e-11
