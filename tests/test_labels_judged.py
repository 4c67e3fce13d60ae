"""What a network from labels is held to: fresh points, how exactly its numbers are known, and single inputs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_net
from unveil.blackbox.label_crossings import Side
from unveil.blackbox.oracle import Oracle
from unveil.identification.from_labels import deep_reading, label_reading
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.completion import Completed
from unveil.identification.from_labels.deep_completion import Deep
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.deep_reading import DeepReading
from unveil.identification.from_labels.faces import Precision
from unveil.identification.from_labels.foretold import FAR, foretold_crossings
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.label_reading import LabelReading
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.polish import polish_many
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.reservations import nothing_left, reservations
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.thresholds import thresholds, told
from unveil.identification.label_agreement import differs, fresh_points, known_to, near_boundaries
from unveil.whitebox.activation import activation


def labels_of(weights: Weights) -> Oracle:
    net = relu_net(weights)
    return uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=weights[0][0].shape[1], answers="labels")


def deep_of(weights: Weights) -> Deep:
    (a, b), (w, c), (v, d) = weights
    classes = np.arange(len(d))
    behind = LabelModel(w, c, v, np.zeros((len(d), len(b))), d, classes, activation("relu"))
    return Deep(DeepLabelModel(a, b, behind, classes), 1e-12, 0.0, 1e-9, 0, 0)


def reading(oracle: Oracle, deep: Deep) -> tuple[DeepReading, Chart]:
    chart = Chart(oracle, np.zeros(oracle.n), 1.0, None)
    side, rng = Side(chart), np.random.default_rng(0)
    pool = Pool(side, chart, 1.0, np.empty((0, oracle.n)), rng)
    search = HyperplaneSearch(pool, Precision.of(chart.digits), rng)
    first = Hyperplanes(deep.model.inner, deep.model.bias, np.zeros(len(deep.model.bias)))
    return DeepReading(search, first, 1e-8, 0.01, oracle, rng), chart


WEIGHTS = random_weights((6, 5, 4, 3), np.random.default_rng(3), bias=0.3)


def test_two_hidden_layers_are_complete_where_fresh_labels_agree_and_nothing_is_open() -> None:
    true = deep_of(WEIGHTS)
    judge, chart = reading(labels_of(WEIGHTS), true)
    assert judge.judge(true, chart) is uv.Outcome.complete
    assert judge.error == 0
    for doubtful in (replace(true, open=1), replace(true, strayed=1), replace(true, error=np.nan)):
        judge, chart = reading(labels_of(WEIGHTS), true)
        assert judge.judge(doubtful, chart) is uv.Outcome.approximate
        assert judge.deep is not None


def test_two_hidden_layers_with_other_labels_are_not_handed_out() -> None:
    true = deep_of(WEIGHTS)
    other = random_weights((6, 5, 4, 3), np.random.default_rng(4), bias=0.3)
    judge, chart = reading(labels_of(other), true)
    assert judge.judge(true, chart) is uv.Outcome.approximate
    assert judge.deep is None
    assert judge.error > 0.01


def test_a_whole_network_that_fresh_points_refute_sends_the_reading_on_from_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true, other = deep_of(WEIGHTS), deep_of(random_weights((6, 5, 4, 3), np.random.default_rng(4), bias=0.3))
    judge, _ = reading(labels_of(WEIGHTS), true)
    given, refuted = iter([other, true]), []
    behind = SimpleNamespace(
        attempt=lambda *_: next(given), refute=lambda: refuted.append(1), figures={}, oriented=None
    )
    monkeypatch.setattr(judge, "behind", behind)
    monkeypatch.setattr(judge.search, "collect", lambda *_: None)
    assert judge.run() is uv.Outcome.complete
    assert judge.deep is true
    assert refuted == [1]
    assert judge.why == []
    # Points of every attempt, and those that refuted the first.
    assert len(judge.search.pool.y) > 2 * deep_reading.RARE_CLASS_POINTS


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_neuron_is_nothing_left_only_if_the_boundary_does_not_bend_at_its_hyperplane(sign: float) -> None:
    """Of `relu(z0) + relu(z1) + relu(z2) + w relu(z) + c` with w < 0 < c the boundary has z > 0 everywhere. With c < 0
    it has both sides of z = 0, where the three add up to -c: one side shows less (w > 0) or more."""
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((3, 6)), 0.3 * rng.standard_normal(3)
    own = rng.standard_normal(6)
    for w, c, only in ((-1.0, 0.5, True), (1.0, -0.4, False), (-1.0, -0.4, False)):

        def label(x: np.ndarray, w: float = w, c: float = c) -> np.ndarray:
            gap = np.maximum(x @ a.T + b, 0).sum(axis=1) + w * np.maximum(x @ own + 0.2, 0) + c
            return (sign * gap > 0).astype(int)

        oracle = uv.as_oracle(label, shape=6, answers="labels")
        chart = Chart(oracle, np.zeros(6), 1.0, None)
        pool = Pool(Side(chart), chart, 1.5, np.empty((0, 6)), np.random.default_rng(0))
        outer, affine = np.stack([np.zeros(3), sign * np.ones(3)]), np.stack([np.zeros(6), sign * w * own])
        offset = np.array([0.0, sign * (0.2 * w + c)])
        seen = LabelModel(a, b, outer, affine, offset, np.arange(2), activation("relu"))
        found = Completed(seen, 1e-12, True, (), {})
        before = oracle.ledger.asked
        assert nothing_left(found, pool, np.random.default_rng(1)) is only
        assert oracle.ledger.asked - before <= 72 * len(FAR)
    # Where a weight has the other sign, labels do tell more, and nothing is asked.
    mixed = replace(seen, outer=outer * np.array([1.0, 1.0, -1.0]))
    before = oracle.ledger.asked
    assert not nothing_left(replace(found, model=mixed), pool, np.random.default_rng(1))
    assert oracle.ledger.asked == before


def test_what_no_fresh_point_judged_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    true = deep_of(WEIGHTS)
    monkeypatch.setattr(deep_reading, "fresh_points", lambda *_: np.empty((0, 6)))
    judge, chart = reading(labels_of(WEIGHTS), true)
    assert judge.judge(true, chart) is uv.Outcome.approximate
    assert judge.deep is None
    assert judge.error == np.inf
    assert any("no fresh point" in reason for reason in judge.why)


def test_one_hidden_layer_that_no_fresh_point_judged_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights((4, 3, 3), np.random.default_rng(1), bias=0.3)
    oracle = labels_of(weights)
    monkeypatch.setattr(label_reading, "fresh_points", lambda *_: np.empty((0, 4)))
    read = LabelReading(uv.HardLabels(), oracle, np.random.default_rng(0))
    read.chart = Chart(oracle, np.zeros(4), 1.0, None)
    model = LabelModel(*weights[0], weights[1][0], np.zeros((3, 4)), weights[1][1], np.arange(3), activation("relu"))
    read.best = Completed(model, 1e-12, True, (), {"error": 1e-9})
    error, wrong = read._check()
    assert error == np.inf
    assert not len(wrong)
    assert read._end(uv.Outcome.complete, error).outcome is uv.Outcome.check_failed


@pytest.mark.parametrize("whole", [True, False])
def test_a_fit_with_doubts_is_not_handed_out_when_the_labels_end(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights((4, 3, 3), np.random.default_rng(1), bias=0.3)
    oracle = labels_of(weights)
    model = LabelModel(*weights[0], weights[1][0], np.zeros((3, 4)), weights[1][1], np.arange(3), activation("relu"))

    def ends(self: LabelReading) -> None:
        self.chart = Chart(oracle, np.zeros(4), 1.0, None)
        self.best = Completed(model, 1e-12, whole, () if whole else ("a neuron is missing",), {"error": 1e-9})
        raise uv.BudgetExceeded("no label is left")

    monkeypatch.setattr(LabelReading, "_look", ends)
    found = LabelReading(uv.HardLabels(), oracle, np.random.default_rng(0)).run()
    assert found.outcome is uv.Outcome.budget_ended
    assert (found.network is not None) == whole


def test_a_network_that_failed_is_handed_out_only_if_it_tells_more_than_one_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = random_weights((4, 3, 3), np.random.default_rng(1), bias=0.3)
    oracle = labels_of(weights)
    right = LabelModel(*weights[0], weights[1][0], np.zeros((3, 4)), weights[1][1], np.arange(3), activation("relu"))
    # The labels of two classes exchanged: worse than any constant.
    wrong = replace(right, outer=right.outer[[1, 2, 0]], offset=right.offset[[1, 2, 0]])
    for model, handed_out in ((right, True), (wrong, False)):

        def fails(self: LabelReading, pool: Pool, model: LabelModel = model) -> uv.Outcome:
            self.chart, self.best = pool.chart, Completed(model, 1e-12, False, ("a neuron is missing",), {})
            return uv.Outcome.check_failed

        monkeypatch.setattr(LabelReading, "_read", fails)
        found = LabelReading(uv.HardLabels(), oracle, np.random.default_rng(0)).run()
        assert found.outcome is uv.Outcome.check_failed
        assert (found.network is not None) == handed_out
        assert (found.residual == 0) == handed_out


def test_numbers_that_are_vague_or_open_or_of_no_measured_error_are_told() -> None:
    weights = random_weights((4, 3, 3), np.random.default_rng(1), bias=0.3)
    model = LabelModel(*weights[0], weights[1][0], np.zeros((3, 4)), weights[1][1], np.arange(3), activation("relu"))
    known = Completed(model, 1e-12, True, (), {"error": 1e-9})
    assert reservations(known) is None
    for figures, word in (({"error": 1e-3}, "1e-03"), ({}, "measured"), ({"error": np.nan}, "measured")):
        said = reservations(replace(known, figures=figures))
        assert said is not None
        assert any(word in each for each in said)
    assert reservations(replace(known, figures={"error": 1e-9, "open": 2})) == []
    strayed = reservations(replace(known, figures={"error": 1e-9, "strayed": 3}))
    assert strayed is not None
    assert "3 boundary points" in strayed[0]
    carried = replace(model, affine=np.eye(3, 4))
    assert reservations(replace(known, model=carried)) == []


def pool_of(label: object, n: int) -> tuple[Pool, Precision, np.random.Generator]:
    rng = np.random.default_rng(0)
    chart = Chart(uv.as_oracle(label, shape=n, answers="labels"), np.zeros(n), 1.0, None)  # type: ignore[arg-type]
    pool = Pool(Side(chart), chart, 1.0, np.empty((0, n)), rng)
    pool.draw()
    return pool, Precision.of(chart.digits), rng


def test_thresholds_met_are_those_of_the_rule_and_an_oblique_boundary_has_none() -> None:
    values = np.array([-0.8, -0.4, 0.1, 0.5, -0.6, -0.1, 0.3, 0.7])

    def rule(x: np.ndarray) -> np.ndarray:
        return ((x[:, :1] > values[:4]).sum(axis=1) + (x[:, 2:3] > values[4:]).sum(axis=1)) % 2

    met = thresholds(*pool_of(rule, 3))
    assert met is not None
    which, at = met
    assert set(which.tolist()) == {0, 2}
    for i, value in zip(which, at, strict=True):
        assert np.abs((values[:4] if i == 0 else values[4:]) - value).min() < 1e-8
    assert thresholds(*pool_of(lambda x: (x.sum(axis=1) > 0.1).astype(int), 3)) is None


@pytest.mark.filterwarnings("error")
def test_no_boundary_point_no_thresholds() -> None:
    """Nothing is asked, and nothing averaged, where there is no boundary point."""
    pool, precision, rng = pool_of(lambda x: (x[:, 0] > 0).astype(int), 3)
    asked = pool.chart.ledger.asked
    empty = SimpleNamespace(chart=pool.chart, side=pool.side, crossings=lambda *_: Crossings.none(3))
    assert thresholds(empty, precision, rng) is None  # type: ignore[arg-type]
    assert pool.chart.ledger.asked == asked


def test_a_network_refuted_to_the_last_is_one_in_all_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Points that never stop to call for more, as of a class that is met now and then and never read.
    monkeypatch.setattr(LabelReading, "_check", lambda self: (0.0, self.rng.standard_normal((2, 40))))
    lifted = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weights = random_weights([40, 5, 2], rng)
        found = uv.HardLabels()(labels_of(weights), rng=rng)
        if found.network is None or "reached" not in found.stats:
            continue
        lifted += 1
        rows = found.network.layers[0].dense()
        assert rows.shape[1] == 40
        outside = rows - rows @ np.linalg.pinv(weights[0][0]) @ weights[0][0]
        if found.outcome is uv.Outcome.complete:
            assert np.linalg.norm(outside) < 1e-6 * np.linalg.norm(rows)
    assert lifted


def test_a_later_attempt_that_lacks_nothing_is_kept_whichever_lies_nearer_to_its_points() -> None:
    model = deep_of(WEIGHTS).model.behind
    early, late = Completed(model, 5e-13, True, (), {}), Completed(model, 1e-12, True, (), {})
    doubtful, worse = Completed(model, 1e-15, False, ("",), {}), Completed(model, 1e-3, False, ("",), {})
    assert late.beats(early)
    assert late.beats(doubtful)
    assert not doubtful.beats(late)
    assert doubtful.beats(worse)
    assert not worse.beats(doubtful)
    assert worse.beats(None)


def test_thresholds_met_are_told_with_their_inputs() -> None:
    said = told(np.array([2, 2, 5]), np.array([0.5, 1.25, -3.0]))
    assert "input 2 at 0.5" in said
    assert "3 thresholds of 2 inputs" in said


def test_points_close_to_a_boundary_are_as_far_as_weights_are_inexact() -> None:
    """A plane boundary: points lie a hundred times the accuracy, of the segment they are on, before and behind it.

    Segments are up to thirty times as long as usual inputs are apart.
    """
    net = uv.Network.from_weights([(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2))])
    oracle = uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=2, answers="labels")
    off = []
    for accuracy in (1e-8, 1e-6):
        x = near_boundaries(net, (0, 1), oracle, 100, np.random.default_rng(0), accuracy)
        off.append(np.abs(x[:, 0]))
    assert (off[0] < 30e-5).all()
    assert np.median(off[0]) < 1e-5
    assert np.allclose(off[1], 100 * off[0], rtol=1e-3)


def test_boundaries_that_lie_further_out_than_usual_inputs_are_met_by_the_points_that_judge_them() -> None:
    """Two networks that differ in where their label changes, three hundred times as far out as usual inputs."""
    one, other = (
        uv.Network.from_weights([(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([0.0, far]))]) for far in (300.0, 303.0)
    )
    oracle = uv.as_oracle(lambda x: one(x).argmax(axis=1), shape=2, answers="labels")
    for network, wrong in ((one, 0.0), (other, 0.1)):
        found = uv.Identification(network, uv.Outcome.complete, 0, 0.0, "hard labels", labels=(0, 1))
        assert wrong <= found.check(oracle, rng=np.random.default_rng(0), points=300) <= 2 * wrong


def test_labels_that_differ_further_out_only_count_in_a_check() -> None:
    net = uv.Network.from_weights([(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2))])
    far = uv.as_oracle(
        lambda x: np.where(np.abs(x).max(axis=1) > 9, 2, net(x).argmax(axis=1)), shape=2, answers="labels"
    )
    assert differs(net, (0, 1), far, fresh_points(net, (0, 1), far, 200, np.random.default_rng(0))).mean() > 0.05


def fitted_from_beside(seed: int, affine: float) -> tuple[float, float]:
    """Largest error of a weight vector after a fit of all numbers to inexact points, and the standard error stated."""
    rng = np.random.default_rng(seed)
    oracle = uv.as_oracle(lambda x: x[:, 0] > 0, shape=12, answers="labels")
    pool = Pool(Side(chart := Chart(oracle, np.zeros(12), 1.0, None)), chart, 1.0, np.empty((0, 12)), rng)
    inner, outer = rng.standard_normal((4, 12)), rng.standard_normal((3, 4))
    linear, classes = affine * rng.standard_normal((3, 12)), np.arange(3)
    truth = LabelModel(inner, rng.standard_normal(4), outer, linear, np.zeros(3), classes, activation("relu"))
    # No class is the largest everywhere.
    truth = replace(truth, offset=-truth.logits(pool.sample(1000, rng)).mean(axis=0))
    at = foretold_crossings(truth, pool, chart, 4 * truth.parameters, rng)
    assert np.abs(truth.distances(at)).max() < 1e-12
    at = replace(at, x=at.x + 1e-7 * rng.standard_normal((len(at), 1)) * at.along)
    beside = truth.moved(1e-5 * rng.standard_normal(truth.derivatives(at).shape[1]))
    fit, error = polish_many(beside, at, rng)
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (fit.model.inner, inner))
    return float(np.linalg.norm(one - other, axis=1).max()), error


@pytest.mark.parametrize("affine", [0.0, 0.3])
def test_many_numbers_fitted_at_once_are_as_exact_as_is_stated(affine: float) -> None:
    told = [fitted_from_beside(seed, affine) for seed in range(24)]
    assert_rate([error <= 3 * stated for error, stated in told], 0.9, told)
    # Started from 1e-5: what was fitted is better, and what is stated no mere bound.
    assert_rate([stated < 2e-6 and stated < 5 * error for error, stated in told], 0.9, told)


def test_a_network_is_held_to_its_boundaries_as_exactly_as_its_numbers_are_known() -> None:
    assert known_to(1e-6) == 1e-6
    assert known_to(1e-9) == known_to(1e-2) == known_to(np.nan) == known_to(np.inf) == 1e-8
    assert known_to(1e-9, wanted=1e-7) == 1e-7


def test_a_rare_class_that_is_known_badly_does_not_stall_the_fit_of_many_numbers() -> None:
    left: list[float] = []
    for seed in range(4):
        rng, k, d = np.random.default_rng(seed + 70), 24, 60
        chart = Chart(uv.as_oracle(lambda x: x[:, 0] > 0, shape=d, answers="labels"), np.zeros(d), 1.0, None)
        pool = Pool(Side(chart), chart, 1.5, np.empty((0, d)), rng)
        inner, outer = rng.standard_normal((k, d)) / np.sqrt(d), rng.standard_normal((6, k))
        model = LabelModel(
            inner, 0.3 * rng.standard_normal(k), outer, np.zeros((6, d)), np.zeros(6), np.arange(6), activation("relu")
        )
        logits = model.logits(pool.sample(20_000, rng))
        offset = -logits.mean(axis=0)
        # The last class at one of five thousand inputs.
        offset[-1] = -np.quantile(logits[:, -1] - (logits[:, :-1] + offset[:-1]).max(axis=1), 0.9998)
        true = replace(model, offset=offset)
        at = foretold_crossings(true, pool, chart, int(1.5 * true.parameters), rng)
        at = replace(at, x=at.x + 1e-7 * rng.standard_normal((len(at), 1)) * at.along)
        beside = true.moved(1e-4 * rng.standard_normal(true.derivatives(at).shape[1]))
        begun = beside.outer.copy()
        begun[-1] += 1e-2 * rng.standard_normal(k)
        fit, _ = polish_many(replace(beside, outer=begun), at, rng)
        left.append(fit.rms)
    # Points are off by 1e-7; without the class's own units some 1e-5 are left.
    assert np.median(left) < 1e-7
