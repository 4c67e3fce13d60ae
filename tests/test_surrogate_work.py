"""What a copy may cost: told from weights times answers, kept, and never more than what was read is worth."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_net
from unveil.identification.fitting.robust import rms, trimmed_rms
from unveil.identification.surrogate import fitting
from unveil.identification.surrogate.fitting import HELD_OUT_ANSWERS, JUDGED, JUDGED_FURTHER, Fitting
from unveil.identification.surrogate.run import Known
from unveil.identification.surrogate.students import Student, Told, fitted, planned
from unveil.identification.surrogate.surrogate import LabelFitting
from unveil.identification.surrogate.work import Work, of_product
from unveil.whitebox.network import Layer


def nearly(sizes: tuple[int, ...], rng: np.random.Generator) -> tuple[uv.Network, uv.Network]:
    """A network, and one whose weights are off by parts in ten thousand."""
    weights = [(w / np.sqrt(w.shape[1]), b) for w, b in random_weights(sizes, rng, bias=0.5)]
    off = [(w * (1 + 2e-4 * rng.standard_normal(w.shape)), b) for w, b in weights]
    return uv.Network.from_weights(weights), uv.Network.from_weights(off)


@pytest.mark.parametrize("sizes", [(6, 9, 2), (30, 40, 20, 4)])
def test_a_round_keeps_what_it_may_cost_and_is_none_where_no_step_is_worth_it(
    sizes: tuple[int, ...], rng: np.random.Generator
) -> None:
    truth, near = nearly(sizes, rng)
    x = rng.standard_normal((2000, sizes[0]))
    told = Told(x, truth(x), np.ones((len(x), sizes[-1])))
    whole = planned(near, len(x))
    assert 0 < planned(near, len(x) // 20).cost < whole.cost  # as the answers
    for share in (1.0, 0.6, 0.3, 1e-4):
        plan = planned(near, len(x), allowed=share * whole.cost)
        assert plan.cost <= share * whole.cost
        before = Student.begin(near, told)
        network, _, work = fitted(before, told, 0.0, np.random.default_rng(1), allowed=share * whole.cost)
        assert work <= plan.cost
        assert (work == 0) == (plan.times == 0) == (network is near)
        if work:
            assert rms(network, x, truth(x)) < rms(near, x, truth(x))
    assert planned(near, len(x), allowed=1e-4 * whole.cost).times == 0


def test_a_network_read_whose_fit_costs_too_much_stays_as_it_is_and_nothing_is_asked_for_it(
    rng: np.random.Generator,
) -> None:
    truth, near = nearly((30, 36, 24, 3), rng)
    oracle = uv.as_oracle(truth.logits, 30)
    before = oracle.ledger.asked
    found = uv.Surrogate(known=Known(network=near), work=of_product(near))(oracle, rng=rng)
    assert found.network is near
    assert found.stats["work"]["done"] == 0
    # 500: what tells how exact answers are
    assert oracle.ledger.asked - before < HELD_OUT_ANSWERS + JUDGED + JUDGED_FURTHER + 500
    assert any("work=" in why for why in found.why)
    assert found.outcome is uv.Outcome.approximate


@pytest.mark.parametrize("share", [0.3, 1.5])
def test_a_fit_ends_with_its_work_and_with_no_worse_a_network_than_was_read(
    share: float, rng: np.random.Generator
) -> None:
    truth, near = nearly((30, 36, 24, 3), rng)
    most = share * planned(near, 8000, 1).cost
    run = Fitting(uv.Surrogate(known=Known(network=near), work=most), uv.as_oracle(truth.logits, 30), rng)
    found = run.run()
    assert 0 < found.stats["work"]["done"] <= most
    assert found.network is not None
    assert trimmed_rms(found.network, *run.held) <= trimmed_rms(near, *run.held)
    assert found.stats["round"] > 0


def test_what_nothing_is_known_of_is_trained_for_no_more_than_may_be_spent(rng: np.random.Generator) -> None:
    net = relu_net(random_weights((12, 10, 8, 3), rng, bias=0.5))
    for most in (1e6, 3e9):
        run = Fitting(uv.Surrogate(work=most), uv.as_oracle(net, 12), rng)
        assert run.run().network is not None
        assert run.work.done <= most
    labels = LabelFitting(
        uv.Surrogate(work=2e8, students=1), uv.as_oracle(lambda x: net(x).argmax(axis=1), 12, answers="labels"), rng
    )
    assert labels.run().network is not None
    assert labels.work.done <= 2e8


def test_slimming_begins_only_with_work_left(rng: np.random.Generator) -> None:
    truth, near = nearly((10, 12, 2), rng)
    run = Fitting(uv.Surrogate(), uv.as_oracle(truth.logits, 10), rng)
    run.told = run.held = run._asked(run.oracle.sample(3000, rng))
    run.work = Work(0.0)
    assert run._slim(near) is near
    assert not run.work.pay(1.0)
    assert run.work.times(1.0, 5) == 0


def test_behind_one_exact_layer_the_best_student_is_trained_on_within_its_work(rng: np.random.Generator) -> None:
    truth, _ = nearly((4, 8, 8, 8, 2), rng)
    oracle = uv.as_oracle(truth.logits, 4, budget=20_000)
    run = Fitting(uv.Surrogate(known=Known(layers=truth.layers[:1]), work=2e10), oracle, rng)
    found = run.run()
    assert run.blind
    assert found.network is not None
    assert 1e10 < run.work.done <= 2e10
    assert found.stats["fresh"]["rms"] < 0.3


def test_a_copy_loses_no_neurons_where_answers_held_back_are_left_worse(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, near = nearly((10, 12, 2), rng)
    run = Fitting(uv.Surrogate(), uv.as_oracle(truth.logits, 10), rng)
    run.told, run.held = (run._asked(run.oracle.sample(3000, rng)) for _ in range(2))
    last = truth.layers[-1]

    def as_far(factor: float) -> uv.Network:
        """So many times as far from the truth as what was there, in the output layer."""
        wrong = np.full(2, factor * trimmed_rms(near, *run.held))
        return uv.Network((*truth.layers[:-1], Layer(last.dense(), last.bias + wrong, last.activation)))

    for factor, noise, taken in ((0.5, 1e-12, True), (1.5, 1e-12, False), (1.5, 1.0, True)):
        smaller = as_far(factor)
        monkeypatch.setattr(fitting, "slimmed", lambda *_, smaller=smaller: smaller)
        run.noise = noise
        assert (run._slim(near) is smaller) == taken


@pytest.mark.slow
def test_what_least_squares_get_nowhere_near_is_trained_and_nearer_than_before() -> None:
    """Four hidden layers, of which nothing or a few false rows were read: a student of more layers comes near."""
    nearer = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weights = [(w * np.sqrt(2 / w.shape[1]), b) for w, b in random_weights((3, 24, 24, 24, 24, 3), rng, bias=0.3)]
        rows = None if seed else (rng.standard_normal((10, 3)), rng.standard_normal(10))
        oracle = uv.as_oracle(relu_net(weights, np.float32), 3, budget=30_000)
        run = Fitting(uv.Surrogate(known=Known(rows=rows), work=3e11), oracle, rng)
        found = run.run()
        assert oracle.ledger.asked <= 30_000
        assert run.work.done <= 3e11
        assert found.network is not None
        nearer.append(run.anew and len(found.network.layers) > 3)
    assert_rate(nearer, 0.6)
