"""How exact answers are: rounding is told from curvature, and agrees with the rounding that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import random_weights, relu_elsewhere, single
from unveil.blackbox.rounding import Rounding, rounding


def test_smooth_answers_are_not_called_straight() -> None:
    rng = np.random.default_rng(1)
    noise = rounding(lambda x: np.tanh(x).sum(axis=1, keepdims=True), rng.standard_normal((6, 4)), 2.2e-16, rng)
    assert not noise.straight


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.float64, 1e-17, 1e-14), (np.float32, 1e-8, 1e-5)])
def test_relative_rounding_follows_the_precision(
    dtype: type, low: float, high: float, rng: np.random.Generator
) -> None:
    for _ in range(5):
        net = relu_elsewhere(single(random_weights((200, 40, 20, 10), rng, bias=0.5)), rng, dtype)
        noise = rounding(
            lambda x, net=net: net(x.astype(dtype)), rng.standard_normal((4, 200)), float(np.finfo(dtype).eps), rng
        )
        assert noise.straight
        assert low < noise.relative < high


def test_short_steps_weigh_rounding_against_breakpoints() -> None:
    double, single_ = (Rounding(np.ones(1), 1.0, relative, True) for relative in (1e-16, 1e-7))
    assert (double.step, double.exact) == (1e-4, True)
    assert 0.01 < single_.step < 0.05
    assert not single_.exact
