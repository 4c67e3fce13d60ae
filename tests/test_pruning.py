"""Neurons that no answer shows are taken out of a fit; those that some answers show stay."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import random_weights
from unveil.identification.fitting.pruning import without_idle


def test_neurons_without_effect_are_none_and_rare_ones_stay() -> None:
    rng = np.random.default_rng(0)
    (w, b), (v, c), (out, end) = random_weights((6, 8, 5, 2), rng, bias=0.5)
    # One on for two inputs in a hundred, one with an effect below the noise, one that is never on, one always off.
    x = rng.standard_normal((400, 6))
    h = np.maximum(x @ w.T + b, 0)
    c[0] -= np.quantile(h @ v[0] + c[0], 0.98)
    v = np.concatenate([v, rng.standard_normal((1, 8)), -np.eye(8)[:2]])
    c = np.append(c, [0.1, 1e-8, -1.0])
    out = np.concatenate([out, np.full((2, 1), 1e-9), rng.standard_normal((2, 2))], axis=1)
    network = uv.Network.from_weights([(w, b), (v, c), (out, end)])
    smaller = without_idle(network, x, np.full((400, 2), 1e-7))
    assert smaller.widths == (8, 5, 2)
    assert np.abs(smaller(x) - network(x)).max() < 1e-7
    assert np.array_equal(smaller.layers[1].dense(), v[:5])
