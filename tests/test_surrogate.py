"""Surrogate: copies with a known error, of values and labels, and what they begin with and lose."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_net, single
from unveil.identification.fitting.matrix_free import DAMPING, Conjugate, _step, fit, taken_apart
from unveil.identification.fitting.robust import rms, trimmed_rms
from unveil.identification.fitting.slimming import all_needed, slimmed
from unveil.identification.surrogate.run import Known, with_free
from unveil.identification.surrogate.students import Student, Told, fitted, hard_ones, questions
from unveil.identification.surrogate.surrogate import LabelFitting


def test_over_wide_students_of_small_teachers_end_as_the_teachers() -> None:
    same = []
    for seed in range(3):
        weights = random_weights((4, 3, 1), np.random.default_rng(seed), bias=0.5)
        oracle = uv.as_oracle(relu_net(weights), 4)
        before = oracle.ledger.asked
        found = uv.identify(oracle, uv.Surrogate(widths=(3,)), rng=np.random.default_rng([1, seed]))
        assert found.outcome is uv.Outcome.approximate
        assert found.queries == oracle.ledger.asked - before
        assert found.network is not None
        assert found.stats["widths_fitted"] == (9, 1)
        assert found.stats["neurons"] == [{"read": 0, "fitted": found.network.widths[0]}]
        right = found.stats["fresh"]["largest"] < 1e-6
        same.append(right and found.network.widths == (3, 1))
        if same[-1]:
            assert uv.compare(found.network, uv.Network.from_weights(weights)).missing == 0
    assert_rate(same, 0.8)


def test_what_is_told_is_what_fresh_inputs_show() -> None:
    net = relu_net(random_weights((6, 8, 6, 3), np.random.default_rng(2), bias=0.5))
    oracle = uv.as_oracle(net, 6)
    x = np.random.default_rng(3).standard_normal((4000, 6))
    found = uv.Surrogate(widths=(4,), students=1, rounds=2, factor=1.0, x=x[:500])(oracle, rng=np.random.default_rng(4))
    assert found.network is not None
    y = net(x)
    off = np.abs(found.network(x) - y).max(axis=1) / (y - y.mean(axis=0)).std()
    told = found.stats["fresh"]
    assert told["median"] == pytest.approx(np.median(off), rel=0.2)
    assert told["q90"] == pytest.approx(np.quantile(off, 0.9), rel=0.2)
    same = net(x).argmax(axis=1) == found.network(x).argmax(axis=1)
    assert told["labels"] == pytest.approx(same.mean(), abs=0.06)
    assert found.stats["given"]["inputs"] == 500
    # Four neurons do not stand for two layers of them.
    assert found.outcome is uv.Outcome.check_failed


def test_the_error_of_a_copy_says_for_which_inputs_it_holds() -> None:
    """A copy that is right at usual inputs may be far off further out: both are measured there, and said."""
    held, rms = [], []
    for seed in range(3):
        net = relu_net(random_weights((4, 8, 1), np.random.default_rng([3, seed]), bias=0.5))
        oracle = uv.as_oracle(net, 4, budget=20_000)
        found = uv.identify(oracle, uv.Surrogate(work=1e9, rounds=2, students=1, queries=10_000), rng=seed)
        assert found.network is not None
        assert oracle.ledger.asked <= 20_000
        fresh, further = found.stats["fresh"], found.stats["further"]
        for times, told in ((1.0, fresh), (3.0, further)):
            assert told["drawn"].startswith(f"normal inputs of deviation {times:g}, the furthest ")
            x = times * np.random.default_rng([4, seed]).standard_normal((20_000, 4))
            y = net(x)
            off = np.abs(found.network(x) - y).max(axis=1) / (y - y.mean(axis=0)).std()
            if times == 1.0:
                held.append((off > told["largest"]).mean() <= told["exceeded"])
            rms.append(0.1 * np.sqrt((off**2).mean()) <= told["rms"])
        said = " ".join(found.why)
        assert fresh["drawn"] in said
        assert further["drawn"] in said
        assert "Elsewhere nothing was measured." in said
    assert sum(held) >= 2
    assert sum(rms) >= 5


def test_in_a_box_the_error_of_a_copy_is_told_for_the_box_and_its_corners() -> None:
    net = relu_net(random_weights((4, 8, 1), np.random.default_rng(11), bias=0.5))
    oracle = uv.as_oracle(net, 4, within=(0, 1), budget=8000)
    found = uv.identify(oracle, uv.Surrogate(work=1e9, rounds=1), rng=0)
    assert found.stats["fresh"]["drawn"] == "inputs uniform in the box from 0 to 1"
    assert found.stats["further"]["drawn"] == "inputs at corners of the box from 0 to 1"
    capped = uv.identify(uv.as_oracle(net, 4), uv.Surrogate(work=1e9, rounds=1, queries=2600), rng=0)
    assert capped.queries <= 2600 + 4  # whether the model is still the same


def test_a_budget_is_kept_and_the_result_is_judged_within_it() -> None:
    oracle = uv.as_oracle(relu_net(random_weights((6, 4, 1), np.random.default_rng(5), bias=0.5)), 6, budget=5000)
    found = uv.Surrogate(widths=(4,), students=1, rounds=3)(oracle, rng=np.random.default_rng(6))
    assert oracle.ledger.asked <= 5000
    assert found.stats["fresh"]["inputs"] == 1000
    assert uv.Surrogate()(uv.as_oracle(lambda x: x[:, :1], 6, budget=40), rng=np.random.default_rng(7)).network is None


def test_labels_are_learnt_as_far_as_it_goes() -> None:
    net = relu_net(random_weights((5, 6, 3), np.random.default_rng(8), bias=0.5))
    oracle = uv.as_oracle(lambda x: net(x).argmax(axis=1), 5, answers="labels")
    found = uv.Surrogate(widths=(3,), students=1, rounds=1)(oracle, rng=np.random.default_rng(9))
    assert found.network is not None
    assert found.labels is not None
    x = np.random.default_rng(10).standard_normal((4000, 5))
    same = np.array(found.labels)[found.network(x).argmax(axis=1)] == net(x).argmax(axis=1)
    assert found.stats["fresh"]["labels"] == pytest.approx(same.mean(), abs=0.03)
    assert same.mean() > 0.9
    assert found.residual == pytest.approx(1 - found.stats["fresh"]["labels"])


def test_labels_are_looked_for_further_out_until_there_are_two_and_no_more_are_asked_than_may_be() -> None:
    far = uv.as_oracle(lambda x: (np.linalg.norm(x, axis=1) > 9).astype(int), 5, answers="labels")
    before = far.ledger.asked
    run = LabelFitting(uv.Surrogate(students=1, rounds=2, queries=9000), far, np.random.default_rng(1))
    found = run.run()
    assert run.size == 4  # a typical length is 2.2 before
    assert set(run.labels) == {0, 1}
    assert far.ledger.asked - before <= 9000
    assert found.labels == (0, 1)
    short = uv.as_oracle(lambda x: (x[:, 0] > 0).astype(int), 5, answers="labels", budget=6500)
    assert uv.Surrogate(students=1, rounds=1)(short, rng=np.random.default_rng(3)).stats["fresh"]["labels"] > 0.9
    one = uv.as_oracle(lambda x: np.full(len(x), 7), 5, answers="labels")
    assert uv.Surrogate()(one, rng=np.random.default_rng(2)).outcome is uv.Outcome.not_measured


def test_neurons_that_a_network_does_not_need_leave_it() -> None:
    rng = np.random.default_rng(11)
    (w, b), (v, c) = random_weights((5, 4, 2), rng, bias=0.5)
    twice = np.concatenate([w, w[:2], rng.standard_normal((1, 5))]), np.concatenate([b, b[:2], [0.1]])
    out = np.concatenate([v * [0.4, 0.4, 1, 1], 0.6 * v[:, :2], np.zeros((2, 1))], axis=1), c
    truth = uv.Network.from_weights([(w, b), (v, c)])
    x = rng.standard_normal((800, 5))
    y = truth(x)
    told = Told(x, y, np.ones_like(y))

    def fit(network: uv.Network) -> uv.Network:
        return fitted(Student.begin(network, told), told, 0.0, np.random.default_rng(0))[0]

    got = slimmed(uv.Network.from_weights([twice, out]), x, y, 1e-12, fit)
    assert got.widths == (4, 2)
    assert rms(got, x, y) < 1e-9


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_damped_steps_bring_a_student_to_the_answers(activation: str) -> None:
    rng = np.random.default_rng(12)
    weights = [(w / np.sqrt(w.shape[1]), b) for w, b in random_weights((8, 6, 5, 2), rng, bias=0.5)]
    truth = uv.Network.from_weights(weights, activation)
    start = [(w + 0.05 * rng.standard_normal(w.shape), b) for w, b in weights]
    x = rng.standard_normal((500, 8))
    got = fit(uv.Network.from_weights(start, activation), x, truth(x), steps=20, damping=DAMPING)
    assert got.rms < 1e-2 * rms(uv.Network.from_weights(start, activation), x, truth(x))


def test_free_neurons_change_nothing_and_read_ones_are_told_apart() -> None:
    rng = np.random.default_rng(13)
    network = uv.Network.from_weights(random_weights((7, 5, 4, 2), rng, bias=0.5))
    x = rng.standard_normal((50, 7))
    more = with_free(network, 3, x, rng)
    assert more.widths == (8, 7, 2)
    assert np.abs(more(x) - network(x)).max() < 1e-12
    assert Known(network.layers[:1]).told_apart(more)[0] == {"read": 5, "fitted": 3}


def test_students_ask_where_they_disagree_and_fit_what_is_hard() -> None:
    rng = np.random.default_rng(14)
    weights = random_weights((3, 4, 1), rng, bias=0.5)
    one = uv.Network.from_weights(weights)
    # They differ by a neuron that is on for few inputs.
    (w, b), (v, c) = weights
    rare = np.concatenate([w, [[1.0, 0, 0]]]), np.append(b, -1.5)
    other = uv.Network.from_weights([rare, (np.concatenate([v, [[1.0]]], axis=1), c)])
    oracle = uv.as_oracle(one, shape=3)
    x = questions(oracle, [one, other], 200, rng)
    usual = (oracle.sample(4000, rng)[:, 0] > 1.5).mean()
    assert (x[100:, 0] > 1.5).mean() > 5 * usual
    many = oracle.sample(400, rng)
    off = np.abs(other(many) - one(many))[:, 0]
    chosen = hard_ones(one, Told(many, other(many), np.ones((400, 1))), 100, rng)
    assert set(np.argsort(-off)[:20]) <= set(chosen)


def test_the_few_answers_on_the_wrong_side_of_a_hyperplane_do_not_hold_a_fit_up() -> None:
    rng = np.random.default_rng(17)
    weights = random_weights((6, 5, 2), rng, bias=0.5)
    truth = uv.Network.from_weights(weights)
    x = rng.standard_normal((2000, 6))
    y = truth(x)
    y[:5] += 10
    start = uv.Network.from_weights([(w + 1e-3 * rng.standard_normal(w.shape), b) for w, b in weights])
    assert trimmed_rms(start, x, y) < 0.01 < 0.3 < rms(start, x, y)
    for found in (fit(start, x, y, damping=each).network for each in (0.0, DAMPING)):
        assert trimmed_rms(found, x, y) < 1e-2 * trimmed_rms(start, x, y)


def test_a_neuron_whose_work_others_could_do_is_not_needed() -> None:
    rng = np.random.default_rng(15)
    (w, b), (v, c) = random_weights((5, 4, 2), rng, bias=0.5)
    truth = uv.Network.from_weights([(w, b), (v, c)])
    x = rng.standard_normal((800, 5))
    y = truth(x)
    assert all_needed(truth, x, y)
    more = np.concatenate([w, w[:1]]), np.append(b, b[0])
    # The same hyperplane again: on the same side; on the other side, with the part linear in the inputs made good.
    twice = np.concatenate([v, v[:, :1]], axis=1) * [0.5, 1, 1, 1, 0.5]
    assert not all_needed(uv.Network.from_weights([more, (twice, c)]), x, y)
    # A fit of noisy answers may leave the two a third of a degree apart.
    apart = w[:1] + 0.005 * np.linalg.norm(w[0]) * np.linalg.qr(np.stack([w[0], w[1]]).T)[0][:, 1]
    network = uv.Network.from_weights([(np.concatenate([w, apart]), more[1]), (twice, c)])
    assert not all_needed(network, x, network(x))
    turned = np.concatenate([w, -w[:1], 10 * w[:1]]), np.concatenate([b, -b[:1], 10 * b[:1] + 1e3])
    out = np.concatenate([v, v[:, :1], v[:, :1] / 10], axis=1)
    out[:, 0] = 0
    assert not all_needed(uv.Network.from_weights([turned, (out, c - 100 * v[:, 0])]), x, y)


def test_a_layer_that_only_passes_on_leaves_a_network() -> None:
    rng = np.random.default_rng(16)
    (w, b), (v, c) = random_weights((5, 4, 2), rng, bias=0.5)
    truth = uv.Network.from_weights([(w, b), (v, c)])
    x = rng.standard_normal((800, 5))
    y = truth(x)
    # What comes out of the first layer is positive: a layer of ones leaves it as it is.
    deeper = uv.Network.from_weights([(w, b), (np.eye(4), np.zeros(4)), (v, c)])
    told = Told(x, y, np.ones_like(y))

    def fit(network: uv.Network) -> uv.Network:
        return fitted(Student.begin(network, told), told, 0.0, np.random.default_rng(0))[0]

    assert slimmed(deeper, x, y, 1e-12, fit).widths == (4, 2)


def test_a_layer_of_which_nothing_was_read_is_not_known() -> None:
    empty = (np.empty((0, 8)), np.empty(0))
    stats = {"layers_read": [(np.eye(8), np.zeros(8)), empty], "rows_partial": None}
    found = uv.Identification(None, uv.Outcome.check_failed, 0, np.inf, "critical points", (), stats)
    assert len(Known.of(found).layers) == 1
    none = uv.Identification(None, uv.Outcome.check_failed, 0, np.inf, "critical points", (), {"layers_read": [empty]})
    assert Known.of(none).layers == ()


@pytest.mark.parametrize("sizes", [(4, 1, 1), (4, 6, 1), (4, 5, 3, 1), (4, 1, 1, 1)])
def test_of_neurons_that_nothing_needs_one_a_layer_stays_and_it_ends(
    sizes: tuple[int, ...], rng: np.random.Generator
) -> None:
    *hidden, (w, b) = random_weights(sizes, rng, bias=0.3)
    network = uv.Network.from_weights([*hidden, (0 * w, 0 * b)])
    x, asked = rng.standard_normal((300, 4)), []

    def fit(one: uv.Network) -> uv.Network:
        asked.append(one)
        assert len(asked) < 100
        return one

    assert slimmed(network, x, np.zeros((300, 1)), 1e-9, fit).widths == (1, 1)


def test_a_first_layer_behind_which_several_were_read_stays_as_it_is() -> None:
    rng = np.random.default_rng(4)
    weights = random_weights((6, 5, 5, 4, 4, 2), rng, bias=0.5)
    stats = {"layers_read": weights[:3], "rows_partial": tuple(each[:3] for each in weights[3])}
    read = uv.Identification(None, uv.Outcome.check_failed, 0, np.inf, "critical points", (), stats)
    method = uv.Surrogate.behind(read, rounds=2, queries=3000)
    found = uv.identify(uv.as_oracle(relu_net(weights), 6), method, rng=rng)
    assert found.network is not None
    np.testing.assert_array_equal(found.network.layers[0].dense(), weights[0][0])
    # What was read has no free neurons besides.
    assert found.network.widths[:3] == (5, 5, 4)
    assert [each["read"] for each in found.stats["neurons"]][:3] == [5, 5, 4]
    assert found.outcome is uv.Outcome.approximate
    assert found.stats["fresh"]["rms"] < 0.02


def test_directions_stay_conjugate_to_all_before(rng: np.random.Generator) -> None:
    a = rng.standard_normal((40, 40)) * np.logspace(0, -2, 40)
    a = a.T @ a
    kept, before = Conjugate(40, 12), []
    for _ in range(12):
        p = kept.to_all([part.reshape(4, 5) for part in np.split(rng.standard_normal(40), 2)])
        flat = np.concatenate([part.ravel() for part in p])
        for other in before:
            assert abs(other @ a @ flat) < 1e-4 * np.sqrt((other @ a @ other) * (flat @ a @ flat))
        kept.keep(p, [part.reshape(4, 5) for part in np.split(a @ flat, 2)])
        before.append(flat)


def test_a_step_ends_where_the_noise_explains_what_is_left(rng: np.random.Generator) -> None:
    truth = uv.Network.from_weights(
        [(rng.standard_normal((6, 8)), rng.standard_normal(6)), (rng.standard_normal((3, 6)), np.zeros(3))]
    )
    x = rng.standard_normal((300, 8))
    y = truth(x) + 1e-3 * rng.standard_normal((300, 3))
    start = uv.Network.from_weights(
        [(a.dense() * (1 + 0.01 * rng.standard_normal(a.dense().shape)), a.bias) for a in truth.layers]
    )
    weights, kinds = taken_apart(start)
    ones = np.ones((300, 1))
    assert _step(weights, kinds, x, y, 0, ones, noise=1e-2)[1] < _step(weights, kinds, x, y, 0, ones, noise=1e-3)[1]
    assert _step(weights, kinds, x, y, 0, ones, noise=1.0)[1] == 0


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_answers_count_for_as_much_as_they_are_precise(activation: str) -> None:
    rng = np.random.default_rng(23)
    weights = [(w / np.sqrt(w.shape[1]), b) for w, b in random_weights((8, 6, 2), rng, bias=0.5)]
    truth = uv.Network.from_weights(weights, activation)
    start = uv.Network.from_weights([(w + 0.01 * rng.standard_normal(w.shape), b) for w, b in weights], activation)
    x = rng.standard_normal((600, 8))
    # Each output is precise at other inputs.
    sigma = np.where(rng.random((600, 2)) < 0.5, 1e-6, 1e-1)
    y = truth(x) + sigma * rng.standard_normal(sigma.shape)
    alike, weighted = (
        fit(start, x, y, steps=20, damping=DAMPING, counts=counts).network for counts in (1.0, 1e-6 / sigma)
    )
    fresh = rng.standard_normal((600, 8))
    assert rms(weighted, fresh, truth(fresh)) < 1e-4 < 1e-3 < rms(alike, fresh, truth(fresh))


def test_a_copy_behind_rounded_probabilities_is_as_good_as_they_are() -> None:
    def off(seed: int) -> float:
        rng = np.random.default_rng([24, seed])
        truth = uv.Network.from_weights([(1.5 * w, b) for w, b in random_weights((5, 3, 3), rng, bias=0.5)])

        def probabilities(x: np.ndarray) -> np.ndarray:
            z = np.exp(truth(x) - truth(x).max(axis=1, keepdims=True))
            return np.asarray(z / z.sum(axis=1, keepdims=True))

        oracle = uv.as_oracle(lambda x: np.round(probabilities(x), 4), 5, answers="probabilities")
        found = uv.identify(oracle, uv.Surrogate(widths=(3,)), rng=rng)
        assert found.network is not None
        x = rng.standard_normal((1000, 5))
        return float(np.abs(oracle.probabilities(found.network(x)) - probabilities(x)).max())

    # Log-ratios of small probabilities are off by a thousand times what the others are.
    assert_rate([off(seed) < 1e-3 for seed in range(5)], 0.8)


def test_of_a_fit_that_exploded_nothing_is_taken_out() -> None:
    """Its numbers have no squares: eigenvalues of them would be an error, not an answer."""
    rng = np.random.default_rng(3)
    (w, b), last = random_weights((3, 4, 1), rng, bias=0.5)
    x = rng.standard_normal((50, 3))
    for size in (1e160, 1e250):
        network = uv.Network.from_weights([(size * w, b), last])
        with np.errstate(all="ignore"):
            assert slimmed(network, x, np.zeros((50, 1)), 1.0, lambda trial: trial).widths == (4, 1)
            assert not all_needed(network, x, np.zeros((50, 1)))


def test_a_spent_budget_is_told_as_one_and_not_as_a_failed_check(seed: int) -> None:
    """Where a reading fails its check and the budget leaves too little for a fit, more questions are what helps."""
    ended = []
    for each in range(4):
        rng = np.random.default_rng(seed + each)
        weights = single([(1.2 * w, b) for w, b in random_weights((4, 3, 2, 1), rng, bias=0.7)])
        oracle = uv.as_oracle(relu_net(weights, np.float32), 4, budget=int(rng.integers(500, 4000)))
        ended.append(uv.identify(oracle, rng=rng).outcome)
        assert oracle.ledger.left >= 0
    assert set(ended) <= {uv.Outcome.budget_ended, uv.Outcome.complete, uv.Outcome.approximate}
    network = uv.Network.from_weights(random_weights((5, 30, 20, 1), np.random.default_rng(seed), bias=0.5))
    for budget in (2100, 4100, 4500):
        oracle = uv.as_oracle(network.logits, 5, budget=budget)
        fitted = uv.Surrogate(widths=(2, 1))(oracle, rng=np.random.default_rng(seed))
        assert fitted.outcome is not uv.Outcome.check_failed
