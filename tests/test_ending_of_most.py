"""The last hidden layer where some answers obey another law: it is that of the others."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from unveil.identification.fitting.output_layer import Asked, Unsigned, ending_of_most, explain

from .helpers import random_weights, relu_net


@pytest.mark.parametrize("missing", [False, True])
def test_answers_that_obey_another_law_change_nothing(missing: bool) -> None:
    rng = np.random.default_rng(0)
    d, k = 5, 6
    first = np.eye(d), np.zeros(d)
    (rows, bias), output = random_weights((d, k, 1), rng, bias=0.3)
    if missing:
        bias[-1] = 100.0  # a neuron that is always active is met nowhere: its part is linear
    net = relu_net([first, (rows, bias), output])
    x = rng.standard_normal((800, d))
    y = net(x)
    y[::25] += 1.0  # as where a neuron of an earlier layer is missing
    asked = Asked(uv.as_oracle(net, shape=d))
    asked.keep(x, y)
    scale = rng.choice([-1.0, 1.0], k) / np.linalg.norm(rows, axis=1)
    seen = np.arange(k) < k - missing
    known = np.ones((int(seen.sum()), d), dtype=bool)
    unsigned = Unsigned([first], (rows * scale[:, None])[seen], (bias * scale)[seen], known)
    unsigned, solution, fits = explain(unsigned, asked, float(np.sqrt(d)), 1e-6)
    assert fits.sum() == 768
    found = ending_of_most(unsigned, solution, asked, float(np.sqrt(d)), 1e-6)
    off = np.abs(found(x) - y)[:, 0] / np.abs(y).max()
    assert (off < 1e-9).sum() == 768
    assert missing or found.widths == (d, k, 1)
