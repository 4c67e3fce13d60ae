"""What the gate of `identify` calls whole, and what wrong."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from benchmarks.gate import (
    OutOfTime,
    cpu_limit,
    near_and_far,
    scored,
    switched_on,
    without_open_biases,
    without_open_weights,
)
from tests.helpers import random_weights


@pytest.fixture
def weights(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two hidden layers, of which the second ends with a neuron that no input near or far switches on."""
    (w, b), (v, c), last = random_weights((6, 8, 5, 1), rng, bias=0.5)
    v[-1], c[-1] = -np.abs(v[-1]), -1.0
    return [(w, b), (v, c), last]


def without(weights: list[tuple[np.ndarray, np.ndarray]], neuron: int) -> uv.Network:
    """Without one neuron of the second layer."""
    first, (v, c), (last, end) = weights
    kept = np.arange(len(v)) != neuron
    return uv.Network.from_weights([first, (v[kept], c[kept]), (last[:, kept], end)])


def test_a_neuron_that_no_input_met_may_lack_or_be_read(weights) -> None:
    truth = uv.Network.from_weights(weights)
    seen = switched_on(truth, np.random.default_rng(0))
    assert not seen[1][-1]
    assert scored(truth, truth, seen) == (0, True)
    assert scored(without(weights, 4), truth, seen) == (0, True)
    often = int(np.flatnonzero(seen[1])[0])
    assert scored(without(weights, often), truth, seen) == (0, False)
    assert scored(uv.Network.from_weights(weights[:1]), truth, seen) == (1, False)


def test_the_bias_of_a_neuron_that_no_input_switches_off_is_open_and_no_other(weights, rng) -> None:
    (w, b), (v, c), last = weights
    v[0], c[0] = np.abs(v[0]), 0.3  # on wherever a neuron of the layer before is, and where none is
    truth, x = uv.Network.from_weights(weights), near_and_far(6, rng)
    size = rng.uniform(0.5, 2, 8)  # behind rows of another size

    def moved(neuron: int, by: float) -> uv.Network:
        """With this more in the second layer's bias, and so much less behind it as it adds where the neuron is on."""
        biases, end = c.copy(), last[1] - last[0][:, neuron] * by
        biases[neuron] += by
        return uv.Network.from_weights([(w * size[:, None], b * size), (v / size, biases), (last[0], end)])

    seen = switched_on(truth, np.random.default_rng(0))
    often = 1 + int(np.flatnonzero(seen[1][1:])[0])
    assert (truth.features(x, 1)[:, [0, often]] == 0).any(axis=0).tolist() == [False, True]
    for neuron, same in ((0, True), (often, False)):
        found = moved(neuron, 1.5)
        pair = without_open_biases([found, truth], x)
        for one, like in zip(pair, (found, truth), strict=True):
            assert np.abs(one(x) - like(x)).max() < 1e-11 * np.abs(like(x)).max()
        assert (np.abs(pair[0](x) - pair[1](x)).max() < 1e-11 * np.abs(truth(x)).max()) == same
        assert (scored(*pair, seen) == (0, True)) == same
        assert scored(found, truth, seen) != (0, True)


def test_a_weight_between_neurons_that_no_input_makes_active_together_is_open_and_no_other(rng) -> None:
    first = random_weights((6, 4, 1), rng, bias=0.5)[0]
    second = np.array([[1.0, -1.0, 0.3, 0.0], [-1.0, 1.0, -0.3, 0.0]]), np.array([-1.0, -1.0])
    last = rng.standard_normal((2, 2)), np.zeros(2)
    x = near_and_far(6, rng)

    def network(apart: float, met: float) -> uv.Network:
        return uv.Network.from_weights(
            [first, second, (np.array([[1.0, apart], [met, 0.8]]), np.array([-0.5, 0.1])), last]
        )

    truth = network(-0.7, 0.6)
    assert np.array_equal(truth(x), network(-0.2, 0.6)(x))
    for found, same in ((network(-0.2, 0.6), True), (network(-0.7, 0.2), False)):
        one, other = without_open_weights([found, truth], x)
        assert np.array_equal(other(x), truth(x))
        assert all(np.array_equal(a.dense(), b.dense()) for a, b in zip(one.layers, other.layers, strict=True)) == same


def test_a_neuron_that_is_none_and_one_that_is_twice_there_are_no_whole_network(weights, rng) -> None:
    truth = uv.Network.from_weights(weights)
    seen = switched_on(truth, np.random.default_rng(0))
    first, (v, c), (last, end) = weights
    often = int(np.flatnonzero(seen[1])[0])
    # In place of the one that is never on, so that the widths are right.
    for row, bias, false in ((rng.standard_normal(8), 0.1, 1), (v[often], c[often], 0)):
        rows, biases, out = v.copy(), c.copy(), last.copy()
        rows[-1], biases[-1] = row, bias
        if not false:
            out[:, -1] = out[:, often] = last[:, often] / 2
        found = uv.Network.from_weights([first, (rows, biases), (out, end)])
        assert scored(found, truth, [np.ones(8, bool), np.ones(5, bool)]) == (false, False)


def test_a_limit_that_fires_inside_the_model_is_no_error_of_the_model() -> None:
    def slow(x: np.ndarray) -> np.ndarray:
        while True:
            x = x + 0.0

    with pytest.raises(OutOfTime), cpu_limit(0.05):
        uv.as_oracle(slow, 3)
