"""What the gate of `identify` calls whole, and what wrong."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from benchmarks.gate import OutOfTime, cpu_limit, scored, switched_on
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
