"""What is missing from layers thought whole, and weights to the last digits, against networks that are known."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, random_weights, relu_net, single
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.fitting.design import settle
from unveil.identification.fitting.output_layer import Asked, Unsigned, after, ending, explain
from unveil.identification.piecewise_linear.completeness import leaks
from unveil.identification.piecewise_linear.deeper_state import Points, refuting
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.probe import Probe


def oracle_of(weights: Weights) -> tuple[Asked, Rounding]:
    net, n = relu_net(weights), weights[0][0].shape[1]
    rng = np.random.default_rng(100)
    return Asked(uv.as_oracle(net, n)), rounding(net, rng.standard_normal((4, n)), 1e-16, rng)


def without(layer: tuple[np.ndarray, np.ndarray], i: int) -> tuple[np.ndarray, np.ndarray]:
    return np.delete(layer[0], i, axis=0), np.delete(layer[1], i)


def test_a_layer_leaks_where_a_neuron_is_missing() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((20, 12, 6, 5, 1), rng, bias=0.5)
    ask, noise = oracle_of(weights)
    pool = rng.standard_normal((100, 20))
    before = ask.oracle.ledger.asked
    right, wrong = leaks(Probe(ask, noise, rng), weights[:1], weights[1], pool, 40, 0.0)
    assert len(right) > 20
    assert not len(wrong)
    assert ask.oracle.ledger.asked - before <= 120
    for i in range(6):
        partial = without(weights[1], i)
        right, wrong = leaks(Probe(ask, noise, rng), weights[:1], partial, pool, 40, 0.0)
        active = after(weights[:1], wrong) @ weights[1][0][i] + weights[1][1][i] > 0
        assert len(wrong)
        assert active.any()


def test_of_few_digits_coarse_rows_are_told_from_a_missing_neuron() -> None:
    rng = np.random.default_rng(1)
    weights = random_weights((24, 16, 10, 6, 4), rng, bias=0.5)
    net = relu_net(single(weights), np.float32)
    noise = Rounding(np.full(4, 1e-6), np.sqrt(24.0), 1e-6, True)
    probe = Probe(lambda x: net(x.astype(np.float32)).astype(float), noise, rng)
    pool = rng.standard_normal((400, 24))
    # Errors like these put one of these points in thirty on the wrong side of some hyperplane.
    coarse = [(w * (1 + 1e-3 * rng.standard_normal(w.shape)), b) for w, b in weights[:2]]
    right, wrong = leaks(probe, coarse[:1], coarse[1], pool, 200, 1e-3)
    assert len(right) > 100
    assert len(wrong) <= 0.02 * len(right)
    on = after(weights[:1], pool) @ weights[1][0].T + weights[1][1] > 0
    for i in np.flatnonzero((on.mean(axis=0) > 0.1) & (on.mean(axis=0) < 0.9))[:4]:
        right, wrong = leaks(probe, coarse[:1], without(coarse[1], i), pool, 200, 1e-3)
        assert len(wrong) > 0.05 * len(right)
        assert (after(weights[:1], wrong) @ weights[1][0][i] + weights[1][1][i] > 0).mean() > 0.9


def test_a_weight_that_no_answer_shows_does_not_spoil_the_sides() -> None:
    rng = np.random.default_rng(2)
    weights = random_weights((6, 6, 6, 1), rng, bias=0.5)
    W, b = weights[1]
    ask, noise = oracle_of(weights)
    x = rng.standard_normal((6000, 6))
    h = after(weights[:1], x)
    up = h @ W.T + b > 0
    # Wherever value 2 matters neuron 0 is on one side.
    ask(x[(h[:, 2] == 0) | (up[:, 0] == up[h[:, 2] > 0, 0].mean().round())])
    known = np.ones(W.shape, dtype=bool)
    known[0, 2] = False
    rows = np.where(known, W, 0) * rng.choice([-1.0, 1.0], 6)[:, None]
    bias = b * np.sign((rows * W).sum(axis=1))
    bends, solution, fits = explain(Unsigned(weights[:1], rows, bias, known), ask, noise.size, 1e-8)
    network, error = ending(bends, solution, fits, ask, noise.size)
    assert error < 1e-9
    x, y = ask.all()
    assert network(x) == pytest.approx(y, abs=1e-8)


def test_answers_on_bends_do_not_blur_the_last_digits() -> None:
    rng = np.random.default_rng(3)
    weights = random_weights((8, 8, 6, 1), rng, bias=0.5)
    net = relu_net(weights)
    x = rng.standard_normal((1500, 8))
    # A third of them as a search for breakpoints leaves them: on the bend, up to rounding.
    W, b = weights[0]
    x[:500] -= ((x[:500] @ W[0] + b[0]) / (W[0] @ W[0]))[:, None] * W[0]
    blurred = uv.Network.from_weights([(w + 1e-8 * rng.standard_normal(w.shape), c) for w, c in weights])
    pool = rng.standard_normal((1000, 8))
    sharp = settle(net, blurred, (x, net(x)), pool, rng)
    assert np.abs(sharp(pool) - net(pool)).max() < 1e-12


def test_a_rare_neuron_missing_is_seen_further_out() -> None:
    rng = np.random.default_rng(7)
    weights = random_weights((10, 20, 20, 1), rng, bias=0.5)
    x = rng.standard_normal((20_000, 10))
    active = (after(weights[:1], x) @ weights[1][0].T + weights[1][1] > 0).mean(axis=0)
    i = int(np.argsort(active)[0])
    ask, _ = oracle_of(weights)
    before = ask.oracle.ledger.asked
    points = Points(Frame.of_input(10, None), 300.0, rng)
    whole = uv.Network.from_weights(weights)
    assert refuting(ask, whole, points, 1e-9, outside=True) is None
    assert ask.oracle.ledger.asked - before <= 221
    partial = uv.Network.from_weights(
        [weights[0], without(weights[1], i), (np.delete(weights[2][0], i, axis=1), weights[2][1])]
    )
    print("active on", active[i])
    assert any(refuting(ask, partial, points, 1e-9, outside=True) is not None for _ in range(3))
