"""Steps that a span does not see are extreme within their boxes, as a simplex method finds them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

import unveil as uv
from unveil.blackbox.legal_noise import extreme_steps


@pytest.mark.parametrize(("n", "r", "sparse"), [(30, 1, False), (60, 15, False), (60, 15, True), (25, 24, False)])
def test_steps_are_those_of_a_simplex_method(n: int, r: int, sparse: bool, rng: np.random.Generator) -> None:
    basis = np.linalg.qr(rng.standard_normal((n, r)))[0].T
    x = rng.uniform(size=(12, n)) * (rng.uniform(size=(12, n)) < (0.5 if sparse else 1.0))
    cost = rng.standard_normal(x.shape)
    low, high = -1.0 - x, rng.uniform(1, 3, n) - x  # bounds of their own for every input
    steps, settled = extreme_steps(basis, low, high, cost)
    assert settled.all()
    assert np.abs(steps @ basis.T).max() < 1e-8
    assert ((steps >= low) & (steps <= high)).all()
    at_a_wall = ((steps == low) | (steps == high)).sum(axis=1)
    assert np.median(at_a_wall) == n - r  # a vertex: as many coordinates are on walls as the equations leave free
    for step, lowest, highest, direction in zip(steps, low, high, cost, strict=True):
        best = optimize.linprog(
            direction, A_eq=basis, b_eq=np.zeros(r), bounds=np.column_stack([lowest, highest]), method="highs"
        )
        assert abs(direction @ step - best.fun) < 1e-6 * np.abs(direction).sum()


def test_inputs_with_no_room_around_any_step_are_left_to_a_simplex_method(rng: np.random.Generator) -> None:
    n, r = 20, 19
    basis = np.linalg.qr(rng.standard_normal((n, r)))[0].T
    x = rng.uniform(size=(20, n)) * (rng.uniform(size=(20, n)) < 0.3)  # few can move along the one direction left
    _, settled = extreme_steps(basis, -x, 1 - x, rng.standard_normal(x.shape))
    assert not settled.all()
    span = uv.RowSpan(basis, np.ones(r), 0.0, 1e-12, 0.95, 0.01, 0.0, 0, uv.Outcome.complete)
    hidden = uv.obfuscate(span, x, rng=rng, within=(0, 1))
    assert hidden.seen.max() < 1e-9
    assert hidden.inputs.min() >= 0
    assert hidden.inputs.max() <= 1
    free = np.linalg.svd(basis)[2][-1]  # the one direction left: how far each input can go along it
    with np.errstate(divide="ignore"):
        ends = np.sort(np.stack([-x / free, (1 - x) / free]), axis=0)
    lowest, highest = ends[0].max(axis=1), ends[1].min(axis=1)
    assert (np.minimum(np.abs(hidden.noise_norm + lowest), np.abs(hidden.noise_norm - highest)) < 1e-7).all()
