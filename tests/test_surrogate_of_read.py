"""Surrogate behind a network that was read and is not right: no copy is worse than what it begins with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.identification.fitting.matrix_free import taken_apart
from unveil.identification.fitting.robust import rms, trimmed_rms
from unveil.identification.surrogate import beginning
from unveil.identification.surrogate.as_read import kinds
from unveil.identification.surrogate.fitting import Fitting
from unveil.identification.surrogate.run import Known, Wanted, widened, with_free
from unveil.identification.surrogate.students import Student, Told, fitted


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


def beside(network: uv.Network, size: float, rng: np.random.Generator) -> uv.Network:
    """A network whose weights are off by so much."""
    pairs = taken_apart(network)[0]
    return uv.Network.from_weights([(w + size * rng.standard_normal(w.shape), b) for w, b in pairs])


def test_no_copy_is_worse_than_what_was_read_at_inputs_of_any_kind() -> None:
    weights = random_weights((6, 8, 3), np.random.default_rng(1), bias=0.5)
    (w, b), (v, c) = weights
    truth = uv.Network.from_weights(weights)
    for kind in range(3):
        rng = np.random.default_rng([2, kind])
        read = beside(truth, 1e-3, rng)
        given = 0.1 * rng.standard_normal((300, 6)) + 4 * np.eye(6)[0]
        # Right but for one more neuron: active nearly everywhere and of little weight, far out alone, about the given.
        row, bias, out = [
            (w[:1], 20.0, 1e-3),
            (w[1:2], -7 * np.linalg.norm(w[1]), 1.0),
            (4 * np.eye(6)[:1], -14.0, 1.0),
        ][kind]
        more = (np.vstack([w, row]), np.append(b, bias)), (np.append(v, np.full((3, 1), out), axis=1), c)
        worse = uv.Network.from_weights(more)
        named = kinds(uv.as_oracle(truth.logits, 6), 1500, rng, given)
        off = {name: (rms(worse, x, truth(x)), rms(read, x, truth(x))) for name, x in named.items()}
        assert off[list(named)[kind]][0] > off[list(named)[kind]][1]
        run = Fitting(Wanted(known=Known((), None, read), x=given), uv.as_oracle(truth.logits, 6), rng)
        run.best = worse
        run._as_read()
        assert run.best is read
        run.best = truth
        run._as_read()
        assert run.best is truth


def test_in_a_box_corners_are_inputs_of_their_own_kind_and_the_budget_says_how_many() -> None:
    rng = np.random.default_rng(4)
    oracle = uv.as_oracle(lambda x: x, 5, within=(-1.0, np.arange(1.0, 6.0)))
    named = kinds(oracle, 60, rng, rng.uniform(-1, 1, (9, 5)))
    assert [len(x) for x in named.values()] == [20, 20, 9]
    corners = named["corners of the box"]
    assert ((corners == -1) | (corners == np.arange(1.0, 6.0))).all()
    assert 0.3 < (corners == -1).mean() < 0.7


def test_a_copy_keeps_what_was_measured_of_weights_that_few_answers_tell() -> None:
    kept, alone = list[float](), list[float]()
    for seed in range(3):
        rng = np.random.default_rng([5, seed])
        (w, b), (v, c), last = random_weights((20, 40, 30, 2), rng, bias=0.5)
        x = rng.standard_normal((2000, 20))
        # Five neurons of the second layer are active at one input in fifty.
        c[:5] = -np.quantile(np.maximum(x @ w.T + b, 0) @ v[:5].T, 0.98, axis=0)
        truth = uv.Network.from_weights([(w, b), (v, c), last])
        read, y = beside(truth, 1e-3, rng), truth(x)
        told = Told(x, y + 0.01 * y.std() * rng.standard_normal(y.shape), np.ones_like(y))
        errors = [(np.full((1, 1), 1e-3), np.full(len(f), 1e-3)) for _, f in taken_apart(read)[0]]
        for known, off in ((Known((), None, read, errors), kept), (Known((), None, read), alone)):
            student = Student.begin(read, told, known.measured(read))
            got = fitted(student, told, 0.0, np.random.default_rng(0))[0]
            off.append(float(np.linalg.norm(got.layers[1].dense()[:5] - truth.layers[1].dense()[:5])))
    assert max(kept) < 1.5e-3 * np.sqrt(5 * 40)
    assert min(alone) > 5 * max(kept)


def test_what_was_measured_is_that_of_the_network_read_and_of_none_that_lost_neurons(rng: np.random.Generator) -> None:
    read = uv.Network.from_weights(random_weights((5, 4, 3, 2), rng))
    errors = [(np.full((len(b), 1), 0.1), np.full(len(b), 0.2)) for _, b in taken_apart(read)[0]]
    known = Known((), None, read, errors)
    assert known.measured(beside(read, 1.0, rng)) is None
    assert Known((), None, read).measured(read) is None
    measured = known.measured(with_free(read, 2, rng.standard_normal((50, 5)), rng))
    assert measured is not None
    first, second, last = measured.precision
    np.testing.assert_allclose(first[:4, :-1], 100)
    np.testing.assert_allclose(first[:4, -1], 25)
    assert not first[4:].any()
    np.testing.assert_allclose(second[:3, :4], 100)
    assert not second[:, 4:6].any()
    assert last.shape == (2, 6)
    student = Student.begin(read, Told(*(np.zeros((9, k)) for k in (5, 2, 2))), measured)
    assert student.again(beside(read, 1.0, rng), 1.0, Told(*(np.zeros((9, k)) for k in (5, 2, 2)))).measured is measured
    smaller = uv.Network.from_weights(random_weights((5, 3, 3, 2), rng))
    assert student.again(smaller, 1.0, Told(*(np.zeros((9, k)) for k in (5, 2, 2)))).measured is None
    found = uv.Identification(read, uv.Outcome.approximate, 0, 0.1, "critical points", (), {"deviations": errors})
    assert Known.of(found).errors is errors
    assert Known.of(replace(found, network=smaller)).errors is None


def test_behind_a_layer_that_was_read_in_part_another_one_may_follow() -> None:
    deeper = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weights = random_weights((12, 10, 10, 10, 3), rng, bias=0.5)
        known = Known((uv.Network.from_weights(weights).layers[0],), tuple(each[:9] for each in weights[1]))
        run = Fitting(Wanted(known=known, students=1), uv.as_oracle(relu_net(weights), 12), rng)
        run.held, run.told = (run._asked(rng.standard_normal((count, 12))) for count in (500, 3000))
        (begun,) = run._begun()
        deeper.append(len(begun.layers))
    assert np.mean(np.array(deeper) == 4) >= 0.8


def test_layers_behind_those_read_are_trained_for_longer_as_their_gradients_cost_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(beginning, "STUDENT_BATCHES", (300, 300))
    monkeypatch.setattr(beginning, "MANY_BATCHES", 2000)
    weights = random_weights((8, 10, 8, 6, 3), rng, bias=0.5)
    known = Known(uv.Network.from_weights(weights).layers[:1])
    run = Fitting(Wanted(known=known), uv.as_oracle(relu_net(weights), 8), rng)
    run.held, run.told = (run._asked(rng.standard_normal((count, 8))) for count in (500, 5000))
    tried = sorted(run._tried(known), key=lambda network: rms(network, *run.held[:3]))
    monkeypatch.setattr(run, "_tried", lambda _: list(tried))
    begun = run._begun()
    first, after = (rms(network, *run.held[:3]) for network in (tried[0], begun[0]))
    assert after < first / 2
    np.testing.assert_array_equal(begun[0].layers[0].dense(), tried[0].layers[0].dense())
    # One that is nearly right is gone on with alone.
    assert run._well(begun[0]) == (len(begun) == 1)
