"""answers_noise: how large the errors of a smooth model's answers are, from sixth differences along short lines."""

from __future__ import annotations

import math

import numpy as np

from unveil.blackbox.oracle import Oracle

LINES = 16
"""Lines along which the errors of the answers are measured."""


def answers_noise(oracle: Oracle, rng: np.random.Generator) -> float:
    """Standard deviation of the errors of the answers, absolute, at points as a user would draw them.

    Sixth differences over steps of a few thousandths of the usual size: what is left of a smooth function is below
    1e-15. Their mean square: errors along one line are much the same, so that few lines can all be too good. That of
    the noisiest output.

    Queries: 128
    """
    x = oracle.sample(LINES, rng)
    if oracle.within is not None:
        x = (x + oracle.middle) / 2
    away = rng.standard_normal(x.shape)
    away *= (
        2e-3 * (np.sqrt(np.mean(x**2)) or 1.0) / np.sqrt(np.mean(away**2, axis=1, keepdims=True)) / np.sqrt(oracle.n)
    )
    line = oracle.nearest((x[:, None] + np.arange(8)[:, None] * away[:, None]).reshape(-1, oracle.n))
    sixth = np.diff(oracle(line).reshape(LINES, 8, -1), 6, axis=1)
    return float(np.sqrt(np.mean(sixth**2, axis=(0, 1)).max() / math.comb(12, 6)))
