"""Weights from labels alone: rates over seeds, exact counts, and what labels cannot tell."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_net
from unveil.blackbox.label_crossings import Side
from unveil.cli.progress_lines import ledger_lines
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import located
from unveil.identification.from_labels.faces import Faces, Precision, faces_at
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.output import pair_output, with_classes
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.straight import BoundaryFaces, looks, straight
from unveil.identification.label_agreement import near_boundaries, network_labels
from unveil.outcome import BadInput, UnsteadyAnswers
from unveil.whitebox.activation import activation
from unveil.whitebox.label_symmetry import as_classes


def labels_of(weights: Weights, flips: int = 0):
    """The class of the largest logit, the last bits of the logits flipped at random as another processor would."""
    net = relu_net(weights)
    noise = np.random.default_rng(flips)

    def answer(x: np.ndarray) -> np.ndarray:
        y = net(x)
        return (y * (1 + 2.2e-16 * noise.integers(-1, 2, size=y.shape))).argmax(axis=1)

    return answer


def made(sizes: tuple[int, ...], seed: int) -> Weights:
    return random_weights(sizes, np.random.default_rng(seed), bias=0.3)


def test_rows_signs_and_last_layer_come_out() -> None:
    whole: list[bool] = []
    for seed, sizes in ((900, (7, 5, 3)), (903, (6, 4, 3)), (905, (6, 4, 3))):
        weights = made(sizes, seed)
        oracle = uv.as_oracle(labels_of(weights, seed), shape=sizes[0], answers="labels")
        before = oracle.ledger.asked
        found = uv.identify(oracle, rng=np.random.default_rng(seed))
        assert found.queries == oracle.ledger.asked - before == sum(found.stats["stages"].values())
        whole.append(found.outcome is uv.Outcome.complete)
        if not whole[-1]:
            continue
        assert found.network is not None
        assert found.labels is not None
        apart = uv.compare(found.network, uv.Network.from_weights(weights), labels=found.labels)
        whole[-1] = apart.missing == apart.false == 0 and apart.weight_error < 1e-5
        assert found.check(oracle, rng=np.random.default_rng(1), points=400) <= 0.005
    assert_rate(whole, 0.75)


def test_a_linear_classifier_comes_out_whole_along_all_inputs_and_from_a_subspace() -> None:
    """Many inputs are read along few directions first; a class that is too rare to be met there may be left."""
    whole: list[bool] = []
    for seed, (n, classes) in enumerate([(6, 2), (6, 3), (40, 3), (40, 3), (64, 10), (64, 10)]):
        rng = np.random.default_rng([seed, n])
        weights = [(rng.standard_normal((classes, n)) / np.sqrt(n), 0.3 * rng.standard_normal(classes))]
        net = uv.Network.from_weights(weights)
        oracle = uv.as_oracle(labels_of(weights, seed), shape=n, answers="labels")
        found = uv.identify(oracle, rng=rng)
        assert not [said for said in found.why if "broke down" in said]
        whole.append(found.outcome is uv.Outcome.complete and found.network is not None)
        if whole[-1]:
            assert found.network is not None
            x = rng.standard_normal((20_000, n))
            mine = np.array(found.labels)[found.network(x).argmax(axis=1)]
            whole[-1] = bool((mine != net(x).argmax(axis=1)).mean() < 1e-3)
    assert_rate(whole, 0.7)


def test_a_boundary_at_which_one_input_is_zero_tells_that_this_input_is_all_there_is() -> None:
    whole: list[bool] = []
    for seed in range(6):
        n = 2 + seed
        oracle = uv.as_oracle(lambda x, i=seed % n: (x[:, i] > 0).astype(int), shape=n, answers="labels")
        found = uv.identify(oracle, rng=np.random.default_rng(seed))
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            row = np.diff(found.network.layers[0].dense(), axis=0)[0]
            assert row[seed % n] > (1 - 1e-12) * np.linalg.norm(row)
    assert_rate(whole, 0.8)


def test_a_class_that_only_the_check_meets_is_read_and_not_left_out() -> None:
    """Class 1 has 7 in 10,000 random inputs; a network without it is right at nearly all of them."""
    rng = np.random.default_rng(3)
    rows, bias = rng.standard_normal((5, 6)), 0.3 * rng.standard_normal(5)
    weights = [(rows, bias), (rng.standard_normal((3, 5)), 0.1 * rng.standard_normal(3))]
    whole: list[bool] = []
    for seed in range(4):
        oracle = uv.as_oracle(labels_of(weights, seed), shape=6, answers="labels")
        found = uv.identify(oracle, rng=np.random.default_rng(seed))
        assert found.labels is not None
        if found.outcome is uv.Outcome.complete and 1 in found.labels:
            assert found.network is not None
            truth = uv.Network.from_weights(weights)
            assert uv.compare(found.network, truth, labels=found.labels).weight_error < 1e-5
        whole.append(found.outcome in (uv.Outcome.complete, uv.Outcome.approximate) and 1 in found.labels)
    assert_rate(whole, 0.9)


def test_names_and_a_threshold() -> None:
    weights = made((5, 4, 1), 907)
    usual = np.quantile(relu_net(weights)(np.random.default_rng(2).standard_normal((200, 5))), 0.6)
    net = relu_net([weights[0], (weights[1][0], weights[1][1] - usual)])
    names = np.array(["no", "yes"])
    oracle = uv.as_oracle(lambda x: names[(net(x)[:, 0] >= 0).astype(int)], shape=5, answers="labels")
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    assert found.labels is not None
    x = np.random.default_rng(1).standard_normal((2000, 5))
    told = np.array([(oracle.classes or {})[label] for label in network_labels(found.network, found.labels, x)])
    assert (told == names[(net(x)[:, 0] >= 0).astype(int)]).mean() > 0.99


@pytest.mark.parametrize("budget", [10, 137, 1500, 4000])
def test_a_budget_is_never_crossed_and_what_was_found_is_told(budget: int) -> None:
    oracle = uv.as_oracle(labels_of(made((6, 4, 2), 908)), shape=6, answers="labels", budget=budget)
    before = oracle.ledger.asked
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.budget_ended
    assert oracle.ledger.asked <= budget
    assert found.queries == oracle.ledger.asked - before == sum(found.stats["stages"].values())
    assert oracle.ledger.sent == oracle.ledger.asked
    assert found.network is not None or "rows_read" in found.stats or budget < 1500


def test_without_a_budget_a_reading_ends_at_the_labels_told_beforehand() -> None:
    labels = labels_of(made((7, 5, 3), 900))
    free = uv.as_oracle(labels, shape=7, answers="labels")
    most = uv.HardLabels().allowance(free)
    assert most is not None
    assert most > 1_000_000
    assert uv.HardLabels().allowance(uv.as_oracle(labels, shape=7, answers="labels", budget=50)) is None
    first = free.ledger.asked
    found = uv.identify(free, uv.HardLabels(most=3_000), rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.budget_ended
    # Questions whose answers are known are asked again at the end, to see whether the model is still the same.
    assert 2_500 < free.ledger.asked - found.stats["stages"]["known questions"] <= 3_000 + first
    assert any("3,000 labels" in reason for reason in found.why)


def test_lines_tell_progress_where_there_is_no_terminal() -> None:
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        # The first line may come before anything was asked.
        if "s more" in text:
            heard.set()

    ledger = uv.Ledger()
    with ledger_lines(ledger, "Reading", 100, "questions", say, every=0.01):
        ledger.charge(7)
        assert heard.wait(5)
    assert said[-1].startswith("Reading: ")
    assert "of at most 100 questions" in said[-1]


def test_a_run_is_taken_up_again_from_its_store(tmp_path: Path) -> None:
    weights = made((6, 4, 2), 909)
    net = relu_net(weights)

    def answer(x: np.ndarray) -> np.ndarray:
        return net(x).argmax(axis=1)

    store, other = tmp_path / "answers.unveil", tmp_path / "others.unveil"
    first = uv.as_oracle(answer, shape=6, answers="labels", budget=1500, store=store)
    assert uv.identify(first, rng=np.random.default_rng(0)).outcome is uv.Outcome.budget_ended
    again = uv.as_oracle(answer, shape=6, answers="labels", budget=6000, store=store)
    found = uv.identify(again, rng=np.random.default_rng(0))
    plain = uv.as_oracle(answer, shape=6, answers="labels", budget=6000, store=other)
    alone = uv.identify(plain, rng=np.random.default_rng(0))
    assert found.queries == alone.queries
    # The first look asks its questions twice to see whether they are answered alike: stored ones too.
    assert 0 <= first.ledger.sent + again.ledger.sent - plain.ledger.sent <= 8
    rows = [
        each.stats["rows_read"][0] if each.network is None else each.network.layers[0].dense()
        for each in (found, alone)
    ]
    assert len(rows[0])
    assert np.array_equal(*rows)


def test_what_labels_cannot_tell_makes_no_difference() -> None:
    rng = np.random.default_rng(910)
    weights = random_weights((6, 5, 3), rng, bias=0.3)
    (rows, bias), (outer, offset) = weights
    shared = rng.standard_normal((1, 5))
    other = uv.Network.from_weights([(rows, bias), (2.5 * (outer + shared), 2.5 * (offset + 0.7))])
    truth = uv.Network.from_weights(weights)
    x = rng.standard_normal((200, 6))
    assert np.array_equal(other(x).argmax(axis=1), truth(x).argmax(axis=1))
    assert uv.compare(other, truth).weight_error > 0.1
    assert uv.compare(other, truth, labels=(0, 1, 2)).weight_error < 1e-12
    assert np.abs(as_classes(other)(x).sum(axis=1)).max() < 1e-12


def test_hyperplanes_that_move_no_logit_are_taken_out() -> None:
    rng = np.random.default_rng(917)
    outer = np.concatenate([rng.standard_normal((3, 4)), np.full((3, 1), 0.4)], axis=1)
    inner, bias = rng.standard_normal((5, 6)), rng.standard_normal(5)
    model = LabelModel(inner, bias, outer, np.zeros((3, 6)), np.zeros(3), np.arange(3), activation("relu"))
    x = rng.standard_normal((300, 6))
    assert len(model.pruned().inner) == 4
    assert np.array_equal(model.pruned().labels(x), model.labels(x))


def test_neurons_always_active_are_an_affine_part() -> None:
    weights = made((5, 4, 2), 911)
    rows, bias = weights[0][0].copy(), weights[0][1].copy()
    bias[0] = 60.0
    outer, offset = weights[1][0], weights[1][1].copy()
    offset -= outer[:, 0] * bias[0]
    net = [(rows, bias), (outer, offset)]
    oracle = uv.as_oracle(labels_of(net), shape=5, answers="labels", within=(-3, 3))
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    assert found.network is not None
    assert found.labels is not None
    x = np.random.default_rng(1).uniform(-3, 3, (3000, 5))
    near = near_boundaries(found.network, found.labels, oracle, 500, np.random.default_rng(2))
    x = np.concatenate([x, near])
    assert (network_labels(found.network, found.labels, x) == labels_of(net)(x)).mean() > 0.995
    assert any("affine part" in each for each in found.why)


def test_examples_of_a_rare_class_are_a_start() -> None:
    weights = made((5, 5, 2), 912)
    outer, offset = weights[1][0], weights[1][1].copy()
    x = np.random.default_rng(0).standard_normal((20000, 5))
    logits = relu_net(weights)(x)
    margin = logits[:, 1] - logits[:, 0]
    offset[1] -= np.sort(margin)[-4]
    net = [weights[0], (outer, offset)]
    rare = x[np.argsort(-margin)[:3]]
    oracle = uv.as_oracle(labels_of(net), shape=5, answers="labels", budget=8000)
    found = uv.identify(oracle, rng=np.random.default_rng(0), x=np.concatenate([rare, x[:20]]))
    assert found.stats["stages"]["faces"] > 0


def test_what_cannot_be_read_is_said() -> None:
    rng = np.random.default_rng(0)
    constant = uv.as_oracle(lambda x: np.zeros(len(x), dtype=int), shape=3, answers="labels")
    assert uv.identify(constant, rng=rng).outcome is uv.Outcome.not_measured
    coin = np.random.default_rng(1)
    noisy = uv.as_oracle(lambda x: (x[:, 0] > 0).astype(int), shape=3, answers="labels")
    noisy.source.function = lambda x: coin.integers(0, 2, len(x))  # type: ignore[attr-defined]
    with pytest.raises(UnsteadyAnswers):
        uv.identify(noisy, rng=rng)
    coarse = uv.as_oracle(lambda x: (x[:, 0] > 0).astype(int), shape=3, answers="labels", within=(-1, 1), grid=0.01)
    assert uv.identify(coarse, rng=rng).outcome is uv.Outcome.not_resolved
    with pytest.raises(BadInput):
        uv.HardLabels()(uv.as_oracle(lambda x: x, shape=2), rng=rng)


def test_many_inputs_cost_little_more_than_their_bits() -> None:
    """Two neurons behind a threshold have three flat pieces of boundary and no corner: pieces of one neuron tell it."""
    whole: list[bool] = []
    for seed, sizes in ((920, (120, 2, 1)), (921, (120, 2, 1)), (922, (40, 4, 3))):
        weights = made(sizes, seed)
        if sizes[2] == 1:
            weights = [weights[0], (np.abs(weights[1][0]), np.array([-0.5]))]
        net = relu_net(weights)
        answer = labels_of(weights, seed) if sizes[2] > 1 else lambda x, net=net: (net(x)[:, 0] >= 0).astype(int)
        oracle = uv.as_oracle(answer, shape=sizes[0], answers="labels")
        found = uv.identify(oracle, uv.HardLabels(accuracy=1e-6), rng=np.random.default_rng(seed))
        assert found.queries == sum(found.stats["stages"].values())
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            apart = uv.compare(found.network, uv.Network.from_weights(weights), labels=found.labels)
            whole[-1] = apart.missing == apart.false == 0 and apart.weight_error < 1e-5
            assert found.queries < 100 * sizes[1] * sizes[0]
    assert_rate(whole, 0.6)


def test_hyperplanes_of_a_first_layer_go_on_straight_and_those_of_deeper_neurons_do_not() -> None:
    kept: list[bool] = []
    for seed in range(3):
        rng = np.random.default_rng(930 + seed)
        weights = random_weights((6, 6, 4, 2), rng, bias=0.3)
        (first, bias), (second, offset), _ = weights
        oracle = uv.as_oracle(labels_of(weights, seed), shape=6, answers="labels")
        chart = Chart(oracle, np.zeros(6), 1.0, None)
        precision = Precision.of(chart.digits)
        pool = Pool(Side(chart), chart, 1.5, np.empty((0, 6)), rng)
        pool.draw(400)
        if len(pool.classes) < 2:
            continue
        faces, _ = faces_at(pool.side, pool.crossings(60, precision.cell), precision, precision.step, rng)
        # Where each face is, deeper neurons have hyperplanes of their own, of no use elsewhere.
        active = first @ faces.x[0] + bias > 0
        local = (second * active) @ first, second @ (active * bias) + offset
        normals, offsets = np.concatenate([first, local[0]]), np.concatenate([bias, local[1]])
        long = np.linalg.norm(normals, axis=1)
        planes = Hyperplanes(normals / long[:, None], offsets / long, np.full(10, 1e-9))
        good = straight(*looks(BoundaryFaces(pool.side, chart, faces, precision), planes, rng))
        assert not good[6:].any()
        kept += good[:6].tolist()
    assert_rate(kept, 0.6)


def test_a_neuron_active_at_the_whole_boundary_leaves_many_networks_with_the_same_labels() -> None:
    """Weights of one sign and an affine part: written as one rectifier more, whichever way the others are turned."""
    rng = np.random.default_rng(11)
    for _ in range(20):
        k, d = int(rng.integers(1, 6)), 6
        rows, bias = rng.standard_normal((k, d)), rng.standard_normal(k)
        s = rng.choice([-1.0, 1.0])
        weight = s * rng.uniform(0.2, 2.0, k)
        linear, offset = rng.standard_normal(d), float(rng.standard_normal())
        zero = np.zeros((1, d))
        plain = LabelModel(
            rows,
            bias,
            np.stack([np.zeros(k), weight]),
            np.concatenate([zero, linear[None]]),
            np.array([0.0, offset]),
            np.array([3, 7]),
            activation("relu"),
        )
        turned = rng.random(k) < 0.5
        # relu(z) = relu(-z) + z
        other = LabelModel(
            np.where(turned[:, None], -rows, rows),
            np.where(turned, -bias, bias),
            plain.outer,
            np.concatenate([zero, (linear + (weight * turned) @ rows)[None]]),
            np.array([0.0, offset + float((weight * turned) @ bias)]),
            plain.classes,
            plain.phi,
        )
        y = 3 * rng.standard_normal((2000, d))
        for model in (plain, other):
            carried = model.carried_by_one()
            assert carried is not None
            assert len(carried.inner) == k + 1
            assert not carried.affine.any()
            assert (carried.labels(y) == plain.labels(y)).all()
    mixed = LabelModel(
        np.eye(2),
        np.zeros(2),
        np.array([[0, 0], [1.0, -1.0]]),
        np.ones((2, 2)) * [[0], [1]],
        np.zeros(2),
        y[:2, 0],
        plain.phi,
    )
    assert mixed.carried_by_one() is None


def test_rectifiers_taken_the_wrong_way_round_are_turned_once_all_numbers_are_known() -> None:
    rng = np.random.default_rng(12)
    for classes in (2, 4):
        rows, bias = rng.standard_normal((5, 6)), rng.standard_normal(5)
        outer, offset = rng.standard_normal((classes, 5)), rng.standard_normal(classes)
        flip = np.array([1, 0, 1, 1, 0], dtype=bool)
        wrong = LabelModel(
            np.where(flip[:, None], -rows, rows),
            np.where(flip, -bias, bias),
            outer,
            (outer * flip) @ rows + rng.standard_normal(6),
            offset + (outer * flip) @ bias,
            np.arange(classes),
            activation("relu"),
        )
        right = wrong.turned()
        assert not right.affine.any()
        assert np.abs(right.inner - rows).max() < 1e-12
        y = 3 * rng.standard_normal((2000, 6))
        assert (right.labels(y) == wrong.labels(y)).all()
        beside = replace(wrong, affine=wrong.affine + np.outer(np.arange(classes), rng.standard_normal(6)))
        assert beside.turned() is beside


def test_a_class_pair_that_sees_a_neuron_on_one_side_only_leaves_its_weight_to_other_classes() -> None:
    rng = np.random.default_rng(5)
    k, d = 3, 3
    rows, bias = np.eye(3), np.array([0.2, -0.1, 0.3])
    outer, offset = rng.standard_normal((3, k)), np.array([0.3, 0.1, -0.2])
    truth = LabelModel(rows, bias, outer, np.zeros((3, d)), offset, np.arange(3), activation("relu"))
    start, end = 3 * rng.standard_normal((2, 4000, d))
    before, after = truth.labels(start), truth.labels(end)
    at = _boundary(truth, start[before != after], end[before != after])
    last = at.x @ rows[2] + bias[2] > 0
    ours = (at.before < 2) & (at.after < 2)
    for side in (True, False):
        pair = np.flatnonzero(ours & (last == side))[:40]
        planes = Hyperplanes(rows * [[1], [-1], [-1]], bias * [1, -1, -1], np.full(3, 1e-9))
        nothing = Faces(np.empty((0, d)), np.empty((0, d)), *np.empty((2, 0), dtype=int), np.empty(0))
        found = pair_output(planes, at[pair], nothing, (0, 1))
        assert found is not None
        assert found.gap > 1e4
        assert found.flips < 1e-6
        whole, left_open = with_classes(found.model, [2], at, found.free)
        assert left_open == 0
        y = 3 * rng.standard_normal((1000, d))
        assert (whole.labels(y) == truth.labels(y)).mean() > 0.999


def _boundary(model: LabelModel, low: np.ndarray, high: np.ndarray) -> Crossings:
    before, after = model.labels(low), model.labels(high)
    start = low
    for _ in range(60):
        middle = (low + high) / 2
        here = model.labels(middle)
        inside = (here == before)[:, None]
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        after = np.where(inside[:, 0], after, here)
    along = (high - start) / np.linalg.norm(high - start, axis=1)[:, None]
    return Crossings(high, before, after, along, np.zeros(len(high)))


def test_shifts_that_are_normal_cost_no_more_labels_than_they_hold_bits() -> None:
    rng = np.random.default_rng(2)
    truth, cell = 3.0 + 2.0 * rng.standard_normal(2000), 2e-6
    oracle = uv.as_oracle(lambda x: (x[:, 0] > truth[x[:, 1].astype(int)]).astype(int), shape=2, answers="labels")
    before = oracle.ledger.asked
    start = np.column_stack([np.zeros(2000), np.arange(2000.0)])
    found = located(Side(oracle), start, np.array([1.0, 0.0]), 0, np.full(2000, 3.0), 2.0, cell)
    assert np.abs(found - truth).max() <= cell
    entropy = np.log2(np.sqrt(2 * np.pi * np.e) * 2.0 / cell)
    assert (oracle.ledger.asked - before) / 2000 < entropy + 0.6
    # A boundary far from where it was expected costs a few more, one that is not there ends.
    far = located(Side(oracle), start[:1], np.array([1.0, 0.0]), 0, truth[:1] - 300.0, 2.0, cell)
    assert abs(far[0] - truth[0]) <= cell
    assert np.isnan(located(Side(oracle), start[:1], np.array([0.0, 1e-9]), 0, np.zeros(1), 2.0, cell)).all()


def test_nothing_is_judged_by_no_questions(rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(lambda x: (x[:, 0] > 0).astype(int), shape=2, answers="labels")
    with pytest.raises(uv.BadInput, match="checks"):
        uv.HardLabels(checks=0)(oracle, rng=rng)
    network = uv.Network.from_weights([(np.eye(2), np.zeros(2))])
    found = uv.Identification(network, uv.Outcome.complete, 0, 0.0, "", (), labels=(0, 1))
    with pytest.raises(uv.BadInput, match="points"):
        found.check(oracle, rng=rng, points=0)
    assert found.check(oracle, rng=rng, points=1) in (0.0, 1.0)
