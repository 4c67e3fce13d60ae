"""Networks begun at random behind what is known, and brought near by stochastic gradients."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.identification.fitting.output_layer import with_output
from unveil.identification.fitting.training import Turned, _gradient, free_network, one_hot, train
from unveil.whitebox.activation import activation


def test_what_is_known_is_kept_and_what_is_drawn_has_size_one(rng: np.random.Generator) -> None:
    truth = uv.Network.from_weights(random_weights([6, 8, 5, 2], rng, bias=0.5), "relu")
    x = 30 * rng.standard_normal((2000, 6)) + 100
    rows = truth.layers[1].dense()[:2], truth.layers[1].bias[:2]
    begun = free_network(truth.layers[:1], rows, (40, 30), x, 3, rng)
    assert begun.widths == (8, 40, 30, 3)
    assert begun.layers[0] is truth.layers[0]
    np.testing.assert_array_equal(begun.layers[1].dense()[:2], rows[0])
    np.testing.assert_array_equal(begun.layers[1].bias[:2], rows[1])
    h = x
    for depth, layer in enumerate(begun.layers[:-1]):
        z = layer.affine(h)
        if depth:
            drawn = z[:, 2:] if depth == 1 else z
            assert 0.3 < np.median(drawn.std(axis=0)) < 3
            # Hyperplanes pass through the inputs: their mean lies half a deviation beside them, or so.
            assert np.abs(drawn.mean(axis=0)).max() < 2.5
        h = layer(h)


def test_the_last_layer_is_fitted_to_answers(rng: np.random.Generator) -> None:
    truth = uv.Network.from_weights(random_weights([6, 8, 5, 2], rng, bias=0.5), "tanh")
    x = rng.standard_normal((100, 6))
    found = with_output(truth.layers[:-1], x, truth(x))
    np.testing.assert_allclose(found.layers[-1].dense(), truth.layers[-1].dense(), atol=1e-8)


@pytest.mark.parametrize("classes", [False, True])
def test_the_gradient_is_that_of_the_loss(classes: bool, rng: np.random.Generator) -> None:
    tail = [np.concatenate([w, b[:, None]], axis=1) for w, b in random_weights([4, 5, 3], rng, bias=0.5)]
    kinds = [activation("tanh"), activation("identity")]
    x, y, weight = rng.standard_normal((20, 4)), rng.random((20, 3)), rng.random((20, 1))
    y /= y.sum(axis=1, keepdims=True)

    def loss(tail: list[np.ndarray]) -> float:
        h = x
        for block, kind in zip(tail, kinds, strict=True):
            h = kind.value(h @ block[:, :-1].T + block[:, -1])
        if classes:
            each = np.log(np.exp(h).sum(axis=1, keepdims=True)) - (y * h).sum(axis=1, keepdims=True)
        else:
            each = ((h - y) ** 2).sum(axis=1, keepdims=True) / 2
        return float((weight * each).sum() / len(x))

    found = _gradient(tail, kinds, x, y, weight, classes)
    for layer in range(2):
        moved = rng.standard_normal(tail[layer].shape)
        ends = []
        for sign in (1, -1):
            shifted = list(tail)
            shifted[layer] = tail[layer] + sign * 1e-6 * moved
            ends.append(loss(shifted))
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((found[layer] * moved).sum()), rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (3, 300)])
def test_turned_coordinates_undo_what_mixes_the_weights(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """A quadratic whose curvature spans 1e4 along mixed directions: Adam crawls, in its eigenvectors it does not."""
    rows = np.linalg.qr(rng.standard_normal((shape[0],) * 2))[0]
    curved = (rows * np.logspace(0, -4, shape[0])) @ rows.T
    target = rows @ rng.standard_normal(shape)

    def left(turned: bool) -> float:
        at, steps = np.zeros(shape, dtype=np.float32), Turned(shape)
        if not turned:
            steps._products = [each[:, :0] for each in steps._products]
        for step in range(400):
            gradient = (curved @ (at - target)).astype(np.float32)
            at -= np.float32(0.02 * (1 + np.cos(np.pi * step / 400))) * steps.step(gradient)
        return float(np.vdot(at - target, curved @ (at - target)))

    assert left(True) < 0.5 * left(False)


def test_training_comes_nearer_and_leaves_the_first_layers_alone(rng: np.random.Generator) -> None:
    truth = uv.Network.from_weights(random_weights([4, 6, 2], rng, bias=0.5), "relu")
    x = rng.standard_normal((500, 4))
    y = 1e3 * (truth(x) - truth(x).mean(axis=0))  # in units of its own
    begun = free_network(truth.layers[:1], None, (), x, 2, rng)
    before = np.std(begun(x) - y)
    trained = train(begun, x, y, rng, first=1, steps=400)
    assert trained.layers[0] is begun.layers[0]
    assert np.std(trained(x) - y) < 0.5 * np.std(y) < before


def test_labels_become_columns_and_unknown_ones_none() -> None:
    np.testing.assert_array_equal(one_hot(np.array([5, 2, 9]), np.array([2, 5])), [[0, 1], [1, 0], [0, 0]])
