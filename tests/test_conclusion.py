"""The end of a smooth identification: whether the answers determine every parameter of what was found."""

from __future__ import annotations

import numpy as np

import unveil as uv
from unveil.identification.smooth.conclusion import _determined


def test_answers_determine_all_parameters_but_those_of_neurons_that_share_a_weight_vector(
    rng: np.random.Generator,
) -> None:
    rows, bias, outer = rng.standard_normal((3, 4)), rng.standard_normal(3), rng.uniform(1, 2, (2, 3))
    network = uv.Network.from_weights([(rows, bias), (outer, np.zeros(2))], "tanh")
    oracle = uv.as_oracle(network, shape=4)
    assert _determined(oracle, network, rng)
    # A neuron twice: any share of its output weight may be either's.
    twice = uv.Network.from_weights([(rows[[0, 1, 1]], bias[[0, 1, 1]]), (outer, np.zeros(2))], "tanh")
    assert not _determined(oracle, twice, rng)
    # One without an effect.
    idle = uv.Network.from_weights([(rows, bias), (outer * [1, 1, 0], np.zeros(2))], "tanh")
    assert not _determined(oracle, idle, rng)
