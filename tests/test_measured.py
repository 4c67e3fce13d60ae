"""What was measured of weights counts beside answers: fits, output layers and signs behind a layer with few digits."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.matrix_free import fit, taken_apart
from unveil.identification.fitting.measured import Inverse, Measured, measured_output
from unveil.identification.piecewise_linear.output_behind import most_wrong
from unveil.identification.piecewise_linear.sign_recovery import by_answers


def test_the_inverse_of_a_kronecker_product_and_a_diagonal(rng: np.random.Generator) -> None:
    q, k = 5, 4
    a, b = (x @ x.T for x in (rng.standard_normal((q, q)), rng.standard_normal((k, k))))
    held, r = rng.uniform(0.1, 10, k), rng.standard_normal((k, q))
    whole = np.kron(b, a) + np.kron(np.diag(held), np.eye(q))
    assert np.allclose(Inverse.of(a, b, held)(r).ravel(), np.linalg.solve(whole, r.ravel()), rtol=1e-9)


def test_a_fit_weighs_answers_against_what_was_measured() -> None:
    # Of an affine map the result is that of linear least squares with the measured values as further observations.
    near, unfelt = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, sigma, each = 6, 0.3, 0.1
        truth, x = np.append(rng.standard_normal(n), 0.5), rng.standard_normal((60, n))
        x[:, 0] = 0  # no answer feels the first weight
        F = np.concatenate([x, np.ones((60, 1))], axis=1)
        y = F @ truth + sigma * rng.standard_normal(60)
        start = truth + each * rng.standard_normal(n + 1)
        network = uv.Network.from_weights([(start[None, :-1], start[-1:])])
        errors = [(np.full((1, 1), each), np.full(1, each))]
        measured = Measured.of(taken_apart(network)[0], errors)
        layer = fit(network, x, y[:, None], measured=measured).network.layers[0]
        got = np.append(layer.dense()[0], layer.bias)
        unfelt.append(got[0] == start[0])
        left = np.sqrt(((F @ got - y) ** 2).mean())
        normal = F.T @ F / left**2 + np.eye(n + 1) / each**2
        best = np.linalg.solve(normal, F.T @ y / left**2 + start / each**2)
        near.append(np.linalg.norm(got - best) < 0.3 * np.linalg.norm(start - best))  # it ends where steps gain little
    assert all(unfelt)
    assert np.mean(near) >= 0.9


def test_what_no_answer_tells_stays_as_it_was_measured_and_the_rest_is_fitted() -> None:
    better, stays = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights = random_weights((6, 8, 7, 3), rng, bias=0.5)
        truth = uv.Network.from_weights(weights)
        off = [(1e-3 * rng.standard_normal(w.shape), 1e-3 * rng.standard_normal(b.shape)) for w, b in weights]
        start = uv.Network.from_weights([(w + v, b + c) for (w, b), (v, c) in zip(weights, off, strict=True)])
        errors = [(np.full((1, 1), 1e-3), np.full(len(b), 1e-3)) for _, b in weights]
        x = rng.standard_normal((60, 6))  # fewer answers than weights
        measured = Measured.of(taken_apart(start)[0], errors)
        got = fit(start, x, truth(x), measured=measured).network
        fresh = rng.standard_normal((2000, 6))
        better.append(np.abs(got(fresh) - truth(fresh)).mean() < 0.7 * np.abs(start(fresh) - truth(fresh)).mean())
        # Nothing leaves what was measured of it.
        moved = measured.squares(taken_apart(got)[0])
        stays.append(moved < 2 * sum(w.size + b.size for w, b in weights))
    assert np.mean(better) >= 0.9
    assert all(stays)


def test_an_output_weight_that_few_answers_feel_keeps_what_lines_measured() -> None:
    measured, alone = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        k, m = 6, 2
        jump = rng.standard_normal((k, m))
        z = np.maximum(rng.standard_normal((400, k)), 0)
        z[:, 0] = 1e-6 * (rng.random(400) < 0.01)  # hardly ever active, and faintly
        F = np.concatenate([z, np.ones((400, 1))], axis=1)
        y = z @ jump + 0.3 + 1e-4 * rng.standard_normal((400, m))
        y[:20] += 50 * rng.random((20, 1))  # where a neuron is active that is missing
        known = jump + 1e-3 * rng.standard_normal((k, m))
        out = measured_output(F, y, np.ones_like(y), known, np.full(k, 1e-3))
        measured.append(np.abs(out[:k] - jump).max() < 5e-3 and np.abs(out[k] - 0.3).max() < 1e-2)
        alone.append(np.abs(np.linalg.lstsq(F, y, rcond=None)[0][:k] - jump).max() < 5e-3)
    assert all(measured)
    assert not any(alone)


@pytest.mark.parametrize("m", [1, 4])
def test_answers_show_which_neurons_have_the_wrong_sign(m: int) -> None:
    right = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        k, d = 9, 12
        rows, bias, out = rng.standard_normal((k, d)), rng.standard_normal(k), rng.standard_normal((k, m))
        turn = np.where(rng.random(k) < 0.3, -1.0, 1.0)
        h = rng.standard_normal((500, d))
        z = h @ rows.T + bias
        off = np.maximum(turn * z, 0) @ out - np.maximum(z, 0) @ out
        off += 0.05 * np.abs(off).mean() * rng.standard_normal(off.shape)
        right.append(((by_answers(turn * z, off, out) > 0.5) == (turn < 0)).all())
    assert np.mean(right) >= 0.9


def test_points_where_a_network_is_most_wrong_are_of_different_neurons(rng: np.random.Generator) -> None:
    out = np.linalg.qr(rng.standard_normal((5, 3)))[0].T  # what three missing neurons add
    which = np.arange(300) % 3
    size = np.array([100.0, 50.0, 20.0])[which] * rng.uniform(0.9, 1.1, 300)
    off = size[:, None] * out[which] + 1e-3 * rng.standard_normal((300, 5))
    chosen = most_wrong(off, 250, 2)
    assert sorted(which[chosen]) == [0, 1, 2]
    assert len(most_wrong(off[which == 0], 50, 4)) == 4  # of one alone a few


def test_rounding_is_told_between_close_breakpoints_too() -> None:
    told = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 8
        rows, bias = rng.standard_normal((6000, n)), 3 * rng.standard_normal(6000)

        def answer(x: np.ndarray, rows: np.ndarray = rows, bias: np.ndarray = bias) -> np.ndarray:
            return np.maximum(x @ rows.T + bias, 0).sum(axis=1, keepdims=True).astype(np.float32).astype(float)

        x = rng.standard_normal((16, n))
        resolution = float(np.finfo(np.float32).eps) / 2
        told.append(rounding(answer, x, resolution, rng).relative)
    # What a breakpoint in each row would leave is taken for forty times that of the answers' own digits.
    assert np.mean(np.array(told) < 4 * resolution) >= 0.9
