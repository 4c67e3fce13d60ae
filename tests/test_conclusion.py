"""The end of a smooth identification: whether answers determine every parameter, and errors further out."""

from __future__ import annotations

import numpy as np

import unveil as uv
from unveil.blackbox.ledger import Stages
from unveil.identification.fitting.least_squares import polish
from unveil.identification.smooth.conclusion import Reading, _determined, conclude


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


def concluded(truth: uv.Oracle, network: uv.Network, noise: float, rng: np.random.Generator) -> uv.Identification:
    x = truth.sample(200, rng)
    fit = polish(network, x, truth(x))
    return conclude(Reading(truth, noise, rng, Stages(truth.ledger)), fit, "")


def test_errors_further_out_are_told_and_what_only_shows_there_is_not_complete(rng: np.random.Generator) -> None:
    rows, bias, outer = rng.standard_normal((3, 4)), rng.standard_normal(3), rng.uniform(1, 2, (2, 3))
    network = uv.Network.from_weights([(rows, bias), (outer, np.zeros(2))], "sin")
    # Errors of 1e-6 in the weights turn into thirty times those of usual inputs, thirty times as far out.
    rough = uv.as_oracle(lambda x: np.round(network(x), 4), shape=4)
    found = concluded(rough, network, 3e-5, rng)
    x = 30 * rough.sample(500, rng)
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    off = np.abs(found.network(x) - network(x)).max() / np.abs(network(x)).max()
    assert found.residual > 0.1 * off
    assert off > 3 * found.stats["errors"]["usual"] > 0
    # A second network is added beyond four standard deviations of every usual input, smoothly.
    tanh = uv.Network.from_weights([(rows, bias), (outer, np.zeros(2))], "tanh")
    assert concluded(uv.as_oracle(tanh, shape=4), tanh, 1e-15, rng).outcome is uv.Outcome.complete
    far = uv.as_oracle(lambda x: tanh(x) + np.maximum(x[:, :1] - 8, 0) ** 3, shape=4)
    found = concluded(far, tanh, 1e-15, rng)
    assert found.stats["errors"]["usual"] < 1e-8
    assert found.outcome is uv.Outcome.approximate
    assert "times as far out" in " ".join(found.why)
