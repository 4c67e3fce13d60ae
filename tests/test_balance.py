"""Small rooms of the fits: signs by balance, errors and labels of a surrogate, one run of its fitting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.identification.fitting.balance import by_balance
from unveil.identification.surrogate.fitting import JUDGED, Fitting
from unveil.identification.surrogate.run import Known, errors, label_agreement, values_told
from unveil.identification.surrogate.surrogate import Surrogate
from unveil.outcome import Outcome
from unveil.whitebox.network import Network

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(5, 4, 3), (9, 2, 3), (11, 3, 1), (13, 3, 2)])
def test_signs_come_from_the_sum_of_weighted_rows(seed: int, shape: tuple[int, int, int]) -> None:
    """With fewer equations than neurons, too, where least squares says little: a short vector of a lattice."""
    k, d, m = shape
    rng = np.random.default_rng(seed)
    rows, weight = rng.standard_normal((k, d)), rng.standard_normal((k, m))
    signs = rng.choice([-1.0, 1.0], k)
    twice = np.einsum("i,io,id->od", signs, weight, rows)
    found = by_balance(rows, weight, twice, 1e-9)
    assert found is not None
    if k <= 11:
        every = np.array(list(product([-1.0, 1.0], repeat=k)))
        off = np.abs(np.einsum("si,io,id->sod", every, weight, rows) - twice).max(axis=(1, 2))
        np.testing.assert_array_equal(found, every[off.argmin()])
    np.testing.assert_array_equal(found, signs)
    # What is no such sum has no signs.
    assert by_balance(rows, weight, twice + rng.standard_normal(twice.shape), 1e-9) is None


def test_errors_are_relative_to_the_spread_of_answers() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((400, 2))
    off = np.zeros((400, 2))
    off[:100, 1] = 0.5
    told, spread = errors(y + off, y), float((y - y.mean(axis=0)).std())
    assert told["inputs"] == 400
    assert told["rms"] == pytest.approx(np.sqrt(np.mean(off**2)) / spread)
    assert (told["median"], told["largest"]) == (0.0, pytest.approx(0.5 / spread))
    assert told["q90"] == pytest.approx(0.5 / spread)
    # In other units the same; a constant answer has no spread to be relative to.
    scaled = errors(7 * (y + off) + 3, 7 * y + 3)
    assert scaled["rms"] == pytest.approx(told["rms"])
    assert errors(np.full((3, 1), 2.0), np.ones((3, 1)))["largest"] == 1.0


def test_labels_are_counted_for_each_class_that_the_model_gives() -> None:
    mine, theirs = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 1])
    told = label_agreement(mine, theirs)
    assert told["labels"] == pytest.approx(4 / 6)
    assert told["per_label"] == {0: 1.0, 1: pytest.approx(1 / 3), 2: 1.0}


def test_a_network_is_held_against_its_oracle() -> None:
    weights = random_weights((4, 5, 3), np.random.default_rng(1), bias=0.3)
    oracle = uv.as_oracle(relu_net(weights), shape=4)
    network = Network.from_weights(weights)
    before = oracle.ledger.asked
    told = values_told(network, oracle, oracle.sample(50, np.random.default_rng(2)))
    assert oracle.ledger.asked - before == 50
    assert told["largest"] < 1e-12
    assert told["labels"] == 1.0


def test_a_fit_begins_with_what_is_known_and_is_judged_by_fresh_answers() -> None:
    weights = random_weights((3, 3, 2), np.random.default_rng(3), bias=0.3)
    oracle = uv.as_oracle(relu_net(weights), shape=3)
    network = Network.from_weights(weights)
    right = Fitting(Surrogate(known=Known(network=network)), oracle, np.random.default_rng(4))
    before = oracle.ledger.asked
    found = right.run()
    # A network that is right stays as it is, and costs what it is judged by.
    assert found.network is network
    assert found.outcome is Outcome.approximate
    assert found.queries == oracle.ledger.asked - before
    assert found.residual < 1e-12
    assert right.stats["fresh"]["inputs"] == JUDGED


def test_a_fit_stops_at_its_budget_and_says_so() -> None:
    oracle = uv.as_oracle(relu_net(random_weights((3, 3, 2), np.random.default_rng(3))), shape=3, budget=300)
    run = Fitting(Surrogate(), oracle, np.random.default_rng(4))
    found = run.run()
    assert oracle.ledger.asked <= 300
    assert found.network is None
    assert found.outcome is Outcome.budget_ended
    assert "budget ended" in found.why[0]


def test_students_are_wider_than_what_is_expected_behind_what_is_known() -> None:
    oracle = uv.as_oracle(relu_net(random_weights((3, 4, 2), np.random.default_rng(3))), shape=3)
    run = Fitting(Surrogate(widths=(4, 2), factor=2.5, students=3), oracle, np.random.default_rng(4))
    assert run._shapes(3, 0, Known()) == [(10, 5)] * 3
    assert Fitting(Surrogate(widths=(3,), factor=1.5), oracle, np.random.default_rng(4))._shapes(3, 0, Known())[0] == (
        5,
    )
    free = Fitting(Surrogate(), oracle, np.random.default_rng(4))
    # Where nothing is known, shares of 24 neurons at least, and 8 free ones; all rows that were read fit in.
    assert free._shapes(3, 0, Known()) == [(44,), (80, 44)]
    assert free._shapes(3, 100, Known())[0] == (100,)
    held = oracle.sample(100, np.random.default_rng(5))
    free.held = free._asked(held)
    truth = Network.from_weights(random_weights((3, 4, 2), np.random.default_rng(3)))
    assert free._well(truth)
    free.best = truth
    assert free._right()
    bent = random_weights((3, 4, 2), np.random.default_rng(3))
    bent[1] = (1.001 * bent[1][0], bent[1][1])
    free.best = Network.from_weights(bent)
    assert free._well(free.best)
    assert not free._right()
    other = Network.from_weights(random_weights((3, 4, 2), np.random.default_rng(9)))
    assert not free._well(other)


def test_behind_one_exact_layer_noise_is_the_roundings_and_near_ties_count_more() -> None:
    rng = np.random.default_rng(6)
    weights = random_weights((5, 20, 20, 20, 3), rng, bias=0.5)
    oracle = uv.as_oracle(relu_net(weights), 5)
    known = uv.Network.from_weights(weights).layers[:1]
    run = Fitting(Surrogate(known=Known(layers=known)), oracle, rng)
    run.noise = run._noise()
    x = rng.standard_normal((400, 5))
    y = relu_net(weights)(x)
    assert run.noise < 1e-12 * y.std()
    counts, apart = run._counts(y), np.ptp(y, axis=1)
    assert (np.diff(counts[np.argsort(apart)], axis=0) <= 0).all()
    assert counts[apart.argmin()].max() > counts[apart.argmax()].max()
    np.testing.assert_allclose((counts**2).mean(), 1)
    assert (run._counts(y[:, :1]) == 1).all()
    run.noise = 1e-3
    assert (run._counts(y) == 1).all()
