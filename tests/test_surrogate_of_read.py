"""Surrogate behind a network that was read and is not right: no copy is worse than what it begins with."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.identification.fitting.robust import rms, trimmed_rms
from unveil.identification.surrogate.fitting import Fitting
from unveil.identification.surrogate.run import Known, Wanted, widened


def test_a_network_that_is_nearer_than_new_ones_is_what_students_begin_as() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        (w, b), (v, c), last = weights = random_weights((8, 10, 10, 2), rng, bias=0.5)
        read = uv.Network.from_weights([(w, b), (v + 0.01 * rng.standard_normal(v.shape), c), last])
        run = Fitting(
            Wanted(known=Known(read.layers[:1], None, read), students=2), uv.as_oracle(relu_net(weights), 8), rng
        )
        run.held, run.told = (run._asked(rng.standard_normal((count, 8))) for count in (500, 1000))
        assert not run._well(read)
        first, other = run._begun()
        assert first is read
        x = rng.standard_normal((50, 8))
        np.testing.assert_allclose(other(x), read(x), atol=1e-12)


def test_a_copy_that_is_far_off_at_a_few_inputs_is_no_better_than_what_was_read() -> None:
    rng = np.random.default_rng(3)
    (w, b), (v, c) = weights = random_weights((4, 6, 1), rng, bias=0.5)
    read = uv.Network.from_weights([(w, b), (v, c + 0.01)])
    # One more neuron, which is active far out alone, and weighs much there.
    far = uv.Network.from_weights([(np.vstack([w, w[:1]]), np.append(b, b[0] - 8)), (np.append(v, [[1e3]], axis=1), c)])
    run = Fitting(Wanted(known=Known((), None, read)), uv.as_oracle(relu_net(weights), 4), rng)
    x = rng.standard_normal((1000, 4))
    x[:5] = 30 * w[0] / np.linalg.norm(w[0])
    run.held = run._asked(x)
    assert trimmed_rms(far, *run.held) < trimmed_rms(read, *run.held)
    assert rms(far, *run.held[:3]) > rms(read, *run.held[:3])
    run.best = far
    run._as_read()
    assert run.best is read
    assert run.why
    run.best, run.why = uv.Network.from_weights(weights), []
    run._as_read()
    assert run.best is not read
    assert not run.why


def test_what_was_read_stays_where_the_budget_leaves_no_answer_to_hold_it_against() -> None:
    weights = random_weights((4, 6, 1), np.random.default_rng(3), bias=0.5)
    read = uv.Network.from_weights(weights)
    oracle = uv.as_oracle(relu_net(weights), 4)
    run = Fitting(Wanted(known=Known((), None, read)), oracle, np.random.default_rng(4))
    oracle.ledger.budget = oracle.ledger.asked
    found = run.run()
    assert found.network is read
    assert found.outcome is uv.Outcome.budget_ended


def test_neurons_read_are_told_apart_from_those_behind_free_ones() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((6, 8, 7, 2), rng, bias=0.5)
    read = uv.Network.from_weights(weights)
    known = Known(read.layers[:1], (read.layers[1].dense()[:5], read.layers[1].bias[:5]))
    layers, rows = widened(known, 3, rng.standard_normal((100, 6)), rng)
    assert rows is not None
    second = np.concatenate([rows[0][:5], rng.standard_normal((4, rows[0].shape[1]))])
    network = uv.Network.from_weights(
        [*((each.dense(), each.bias) for each in layers), (second, np.zeros(9)), (np.ones((1, 9)), np.zeros(1))]
    )
    assert known.told_apart(network) == [{"read": 8, "fitted": 3}, {"read": 5, "fitted": 4}]
