"""Fits to boundary points: a model comes back from points of its boundaries, and says how sure it is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels import completion as completions
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.completion import IN_VAIN, RARE, Completion
from unveil.identification.from_labels.faces import Precision
from unveil.identification.from_labels.foretold import foretold_crossings, telling_crossings
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.lifting import TRIED, Lift
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.output import linked_classes
from unveil.identification.from_labels.polish import Polished, polish, uncertainty
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.rare_classes import open_numbers, rare_crossings, telling_rare
from unveil.identification.from_labels.rows_read import rows_read
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.subspace import random_directions, subspace
from unveil.whitebox.activation import activation

SEEDS = range(5)


def model_of(seed: int, k: int = 4, d: int = 5, c: int = 3, phi: str = "relu") -> LabelModel:
    rng = np.random.default_rng(seed)
    outer = rng.standard_normal((c, k))
    inner, bias = rng.standard_normal((k, d)) / np.sqrt(d), 0.3 * rng.standard_normal(k)
    model = LabelModel(inner, bias, outer, np.zeros((c, d)), np.zeros(c), np.arange(c), activation(phi))
    # Each class is as large as any other at typical inputs, on average.
    middle = model.logits(rng.standard_normal((500, d))).mean(axis=0)
    return LabelModel(inner, bias, outer, np.zeros((c, d)), -middle, np.arange(c), activation(phi))


def asked(model: LabelModel, rng: np.random.Generator, size: float = 1.5) -> Pool:
    d = model.inner.shape[1]
    chart = Chart(uv.as_oracle(model.labels, shape=d, answers="labels"), np.zeros(d), 1.0, None)
    return Pool(Side(chart), chart, size, np.empty((0, d)), rng)


def moved(model: LabelModel, size: float, rng: np.random.Generator) -> LabelModel:
    count = model.inner.size + model.bias.size + model.outer.size + model.offset.size
    return model.moved(size * rng.standard_normal(count))


def as_told(model: LabelModel) -> np.ndarray:
    """The numbers that labels tell: hyperplanes, and the effect of each neuron on logits against the first's."""
    long = np.linalg.norm(model.inner, axis=1)
    outer = (model.outer - model.outer[0]) * long
    offset = model.offset - model.offset[0]
    scale = np.abs(outer).max()
    return np.concatenate(
        [(model.inner / long[:, None]).ravel(), model.bias / long, outer.ravel() / scale, offset / scale]
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_foretold_points_lie_on_boundaries_and_cost_nothing(seed: int, phi: str) -> None:
    rng = np.random.default_rng(seed)
    model = model_of(seed, phi=phi)
    pool = asked(model, rng)
    before = pool.chart.ledger.asked
    at = foretold_crossings(model, pool, pool.chart, 80, rng)
    assert pool.chart.ledger.asked == before
    assert len(at) == 80
    assert np.abs(model.distances(at)).max() < 1e-12
    # Crossed from the one label to the other.
    np.testing.assert_array_equal(model.labels(at.x - 1e-9 * at.along), at.before)
    np.testing.assert_array_equal(model.labels(at.x + 1e-9 * at.along), at.after)
    np.testing.assert_allclose(np.linalg.norm(at.along, axis=1), 1)


@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_chosen_points_tell_more_than_as_many_others(phi: str) -> None:
    """Singular values of what they tell: their product, and most often the least one, which no choice is made by."""
    more, least = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = model_of(seed, phi=phi)
        pool = asked(model, rng)
        telling = telling_crossings(model, pool, 40, rng)
        chance = foretold_crossings(model, pool, pool.chart, 40, rng)
        told = [np.linalg.svd(model.linearised(each)[1], compute_uv=False) for each in (telling, chance)]
        # Three logits and one scale for each rectifier are open at least.
        rank = int((told[0] > 1e-9 * told[0][0]).sum())
        more.append(np.log(told[0][:rank]).sum() > np.log(told[1][:rank]).sum() + 3)
        least.append(told[0][rank - 1] > told[1][rank - 1])
    assert_rate(more, 0.95)
    assert_rate(least, 0.8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_a_fit_recovers_a_moved_model_and_knows_its_errors(seed: int, phi: str) -> None:
    rng = np.random.default_rng(seed)
    truth = model_of(seed, phi=phi)
    pool = asked(truth, rng)
    at = telling_crossings(truth, pool, 100, rng)
    start = moved(truth, 1e-4, rng)
    assert len(at) == 100
    found = polish(start, at)
    assert found.rms < 1e-13 < 1e-6 < np.sqrt(np.mean(start.distances(at) ** 2))
    if phi == "relu":
        np.testing.assert_allclose(as_told(found.model), as_told(truth), atol=1e-9)
    # A few points that belong elsewhere are left out, and spoil nothing.
    x = at.x.copy()
    x[7] += 0.1 * at.along[7]
    spoilt = polish(moved(truth, 1e-5, rng), Crossings(x, at.before, at.after, at.along, at.width))
    assert spoilt.rms < 1e-9
    assert spoilt.outside > 0
    np.testing.assert_allclose(spoilt.model.labels(pool.y), truth.labels(pool.y))
    # Points known to 1e-7 only: errors are what is said, up to a factor.
    x = at.x + 1e-7 * rng.standard_normal((len(at), 1)) * at.along
    blurred = Crossings(x, at.before, at.after, at.along, at.width)
    rough = polish(start, blurred)
    assert 3e-8 < rough.rms < 3e-7
    said = uncertainty(rough.model, blurred, rough.rms, at[slice(0, 0)], 1.0)
    if phi == "relu":
        off = np.abs(as_told(rough.model) - as_told(truth)).max()
        assert 0.1 * off < 3 * said < 3e3 * off


@pytest.mark.parametrize("seed", SEEDS)
def test_hyperplanes_and_labels_make_a_whole_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = model_of(seed)
    pool = asked(truth, rng)
    pool.draw(400)
    completion = Completion(pool, Precision.of(pool.chart.digits), 1e-8, rng)
    assert completion.attempt(None) is None
    long = np.linalg.norm(truth.inner, axis=1)
    search = HyperplaneSearch(pool, completion.precision, rng)
    search.planes = Hyperplanes(truth.inner / long[:, None], truth.bias / long, np.full(len(long), 1e-12))
    pair = completion.behind_hyperplanes(search)
    found = completion.attempt(pair)
    assert found is not None
    assert found.whole, found.doubts
    assert found.figures["error"] < 1e-8
    x = pool.sample(2000, rng)
    np.testing.assert_array_equal(found.model.labels(x), truth.labels(x))
    np.testing.assert_allclose(
        found.model.inner
        / np.linalg.norm(found.model.inner, axis=1)[:, None]
        * np.sign(np.sum(found.model.inner * truth.inner, axis=1))[:, None],
        truth.inner / long[:, None],
        atol=1e-8,
    )
    # The pair of classes that told all comes first the next time, and no other is looked for.
    assert pair is not None
    assert completion.proven == tuple(int(c) for c in pair.model.classes)
    before = pool.chart.ledger.asked
    completion._touching = None  # type: ignore[method-assign, assignment]
    once_more = completion.behind_hyperplanes(search)
    assert once_more is not None
    assert tuple(int(c) for c in once_more.model.classes) == completion.proven
    assert pool.chart.ledger.asked == before
    del completion._touching
    # Without one of its hyperplanes the same points make no model that is called whole and exact.
    search.planes = search.planes[np.arange(len(long) - 1)]
    other = completion.attempt(completion.behind_hyperplanes(search))
    assert other is None or not other.whole or other.figures["error"] > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_rays_inside_a_class_tell_what_few_points_leave_open(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = model_of(seed)
    pool = asked(truth, rng)
    pool.draw(400)
    every = foretold_crossings(truth, pool, pool.chart, 300, rng)
    rare = np.flatnonzero((every.before == 2) | (every.after == 2))
    others = np.setdiff1d(np.arange(len(every)), rare)
    at = every[np.concatenate([others, rare[:2]])]
    assert open_numbers(truth, at, (0, 1)) == len(truth.bias) + 1 - 2
    for _ in range(4):
        asked_before = pool.chart.ledger.asked
        more = rare_crossings(truth, pool, at, (0, 1), 1e-9, rng)
        if not len(more):
            assert pool.chart.ledger.asked == asked_before
            break
        # They lie on the class's own boundaries.
        assert ((more.before == 2) | (more.after == 2)).all()
        assert np.abs(truth.distances(more)).max() < 1e-8
        at = Crossings.joined([at, more])
    assert open_numbers(truth, at, (0, 1)) == 0
    # Of points known those are picked that tell what the others do not.
    few = every[np.concatenate([others, rare[:2]])]
    picked = telling_rare(truth, few, at, (0, 1))
    assert open_numbers(truth, Crossings.joined([few, picked]), (0, 1)) == 0


def test_rare_classes_are_looked_for_until_three_rounds_in_a_row_meet_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth = model_of(0)
    pool = asked(truth, rng)
    at = foretold_crossings(truth, pool, pool.chart, 200, rng)
    for rounds, answers in ((IN_VAIN, ""), (2 + 1 + IN_VAIN, "001"), (RARE, "1" * 99), (RARE, "01" * 99)):
        completion = Completion(pool, Precision.of(pool.chart.digits), 1e-8, rng)
        completion.points, calls = at, []

        def some(*_: object, calls: list[int] = calls, answers: str = answers) -> Crossings:
            calls.append(1)
            return at[slice(0, 1 if answers[len(calls) - 1 : len(calls)] == "1" else 0)]

        monkeypatch.setattr(completions, "rare_crossings", some)
        figures: dict[str, object] = {"pair": (0, 1)}
        first = SimpleNamespace(free=None)
        found = completion._rare_told(Polished(truth, 0.0, 0.0), first, figures)  # type: ignore[arg-type]
        assert len(calls) == rounds
        assert len(completion.points) == len(at) + answers[:rounds].count("1")
        np.testing.assert_allclose(found.model.distances(at), 0, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_single_point_that_tells_a_number_is_no_outlier(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = model_of(seed)
    pool = asked(truth, rng)
    every = foretold_crossings(truth, pool, pool.chart, 400, rng)
    rare = np.flatnonzero((every.before == 2) | (every.after == 2))
    at = every[np.concatenate([np.setdiff1d(np.arange(len(every)), rare), rare[: len(truth.bias) + 1]])]
    off = truth.moved(np.zeros(truth.inner.size + truth.bias.size + truth.outer.size + truth.offset.size))
    off.outer[2] += 1e-6 * rng.standard_normal(len(truth.bias))
    fitted = polish(off, at)
    assert np.abs(fitted.model.distances(at)).max() < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_in_a_subspace_is_lifted_into_all_inputs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = model_of(seed, d=12, c=2)
    everywhere = asked(truth, rng)
    basis = np.linalg.qr(rng.standard_normal((12, 5)))[0].T
    chart = Chart(everywhere.chart.oracle, np.zeros(12), 1.0, basis)
    inside = LabelModel(
        truth.inner @ basis.T, truth.bias, truth.outer, np.zeros((2, 5)), truth.offset, truth.classes, truth.phi
    )
    pool = Pool(Side(chart), chart, 1.5, np.empty((0, 5)), rng)
    for each in (pool, everywhere):
        each.draw()
    before = chart.ledger.asked
    lifted = Lift(inside, (pool, everywhere), 1e-6, rng).run()
    asked_for = chart.ledger.asked - before
    np.testing.assert_allclose(lifted.model.inner, truth.inner, atol=1e-5)
    assert lifted.unconfirmed == 0
    assert lifted.missed < 0.1
    # A label for each bit of each weight outside, once and a half at most, and the check.
    assert asked_for < 1.5 * 5 * 7 * np.log2(1e6) + 1500
    # All numbers at once are then fitted to the last digit of the labels.
    lift = Lift(inside, (pool, everywhere), 1e-6, rng)
    fitted = lift.fitted(lifted)
    assert fitted.reached < 1e-12
    # Classes met outside join with the exactness of that fit.
    assert lift.told is fitted
    assert fitted.figures["open"] == 0
    assert fitted.figures["error"] < 1e-11
    found, true = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (fitted.model.inner, truth.inner))
    np.testing.assert_allclose(found, true, atol=1e-12)
    # With its neurons of other lengths and in another order, the weights outside are those read before.
    first, order = Lift(inside, (pool, everywhere), 1e-6, rng), rng.permutation(len(truth.bias))
    first.run()
    size = rng.uniform(0.5, 2, (len(truth.bias), 1))
    scaled = replace(inside, inner=size * inside.inner, bias=size[:, 0] * inside.bias, outer=inside.outer / size[:, 0])
    before = chart.ledger.asked
    again = Lift(scaled.kept(order), (pool, everywhere), 1e-6, rng).as_before(first)
    assert chart.ledger.asked - before <= 10 * TRIED
    assert again is not None
    np.testing.assert_allclose(again.model.inner, (size * truth.inner)[order], atol=1e-4)
    other = replace(inside, inner=inside.inner + 0.01 * rng.standard_normal(inside.inner.shape))
    assert Lift(other, (pool, everywhere), 1e-6, rng).as_before(first) is None
    # A model that is wrong inside foretells the wrong shifts.
    wrong = LabelModel(
        inside.inner,
        inside.bias,
        inside.outer * [[1.0], [1.4]],
        inside.affine,
        inside.offset,
        inside.classes,
        inside.phi,
    )
    judged = Lift(wrong, (pool, everywhere), 1e-6, rng).run()
    assert judged.missed > 0.5
    assert judged.unconfirmed == 7


def test_weight_vectors_of_which_little_lies_inside_are_lifted_by_moves_that_switch_no_neuron() -> None:
    n, stretch = 200, 5.0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        u1, u2, g1, g2 = np.linalg.qr(rng.standard_normal((n, 4)))[0].T
        zero, outer, offset = np.zeros((2, n)), np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0.0, -0.3])
        inner, bias = np.stack([u1, u2]), 0.05 * rng.standard_normal(2)
        truth = LabelModel(inner, bias, outer, zero, offset, np.arange(2), activation("relu"))
        # Eight of the directions hold a fifth of a usual one; of the second vector there is a twentieth of that.
        share = np.array([1, 0.05]) / stretch
        basis = share[:, None] * inner + np.sqrt(1 - share**2)[:, None] * np.stack([g1, g2])
        everywhere = asked(truth, rng)
        chart = Chart(everywhere.chart.oracle, np.zeros(n), stretch, basis)
        inside = replace(truth, inner=stretch * inner @ basis.T, affine=np.zeros((2, 2)))
        pool = Pool(Side(chart), chart, 1.5, np.empty((0, 2)), rng)
        pool.put(rng.uniform(-30, 30, (200, 2)))
        everywhere.draw()
        lifted = Lift(inside, (pool, everywhere), 1e-6, rng).run()
        assert lifted.unconfirmed == 0
        assert lifted.missed == 0.0
        assert np.abs(lifted.model.inner / stretch - inner).max() < 1e-6


def test_a_subspace_of_as_many_directions_as_neurons_is_found() -> None:
    within: list[bool] = []
    for seed in SEEDS:
        truth = model_of(seed, k=3, d=40, c=2)
        pool = asked(truth, np.random.default_rng(seed))
        found = subspace(pool.chart, pool, np.random.default_rng(seed + 50))
        assert found is not None
        directions, stretch = found
        assert stretch == pytest.approx(np.sqrt(5))
        # One more than neurons, within the first eight random directions.
        first = random_directions(8, pool, np.random.default_rng(seed + 50))
        assert len(directions) <= 4
        np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-12)
        np.testing.assert_allclose(directions @ first.T @ first, directions, atol=1e-12)
        rows = truth.inner @ first.T
        left = rows - rows @ (directions @ first.T).T @ (directions @ first.T)
        within += list(np.linalg.norm(left, axis=1) < 3e-3 * np.linalg.norm(rows, axis=1))
    # Few normals show a neuron that bends the boundary at few places.
    assert_rate(within, 0.7)


def test_with_few_inputs_all_directions_are_read() -> None:
    small = asked(model_of(0, d=12, c=2), np.random.default_rng(0))
    assert subspace(small.chart, small, np.random.default_rng(0)) is None
    assert small.chart.ledger.asked <= 8


def test_examples_span_half_of_the_random_directions() -> None:
    rng = np.random.default_rng(0)
    pool = asked(model_of(0, d=30, c=2), rng)
    pool.given = rng.standard_normal((50, 3)) @ rng.standard_normal((3, 30))
    found = random_directions(6, pool, rng)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-12)
    apart = np.linalg.qr((pool.given - pool.given.mean(axis=0)).T)[0][:, :3]
    np.testing.assert_allclose(np.linalg.norm(apart.T @ found[:3].T, axis=0), 1, atol=1e-4)


def test_rows_read_are_told_in_inputs() -> None:
    truth = model_of(3, d=4)
    origin, size = np.array([0.5, -1.0, 2.0, 0.0, 1.0, 3.0]), 2.5
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 4)))[0].T
    chart = Chart(uv.as_oracle(lambda x: np.zeros(len(x), dtype=int), shape=6, answers="labels"), origin, size, basis)
    pool = Pool(Side(chart), chart, 1.0, np.empty((0, 4)), np.random.default_rng(0))
    search = HyperplaneSearch(pool, Precision.of(chart.digits), np.random.default_rng(0))
    planes = Hyperplanes(truth.inner, truth.bias, np.full(4, 1e-9))
    before = chart.ledger.asked
    stats, why = rows_read(search, chart, planes, 0)
    assert chart.ledger.asked == before
    rows, biases = stats["rows_read"]
    y = np.random.default_rng(1).standard_normal((9, 4))
    np.testing.assert_allclose(chart.inputs(y) @ rows.T + biases, y @ truth.inner.T + truth.bias)
    assert why[0].startswith(
        "4 neurons of the first layer were read, up to sign and scale, along the 4 directions of 6"
    )
    vague = Hyperplanes(truth.inner, truth.bias, np.array([1e-9, 2e-3, 1e-9, np.inf]))
    stats, why = rows_read(search, chart, vague, 0)
    np.testing.assert_array_equal(stats["rows_read"][0], rows[[0, 2]])
    assert why[1].startswith("2 more were met too vaguely")
    search.behind_first = True
    assert "2 neurons were told apart" in rows_read(search, chart, planes, 2)[1][1]
    assert rows_read(None, chart, planes, 0) == ({}, [])


def test_the_classes_told_apart_first_are_the_commonest_that_touch() -> None:
    label = np.repeat([[0, 1], [1, 2], [0, 2]], (10, 4, 2), axis=0)
    at = Crossings(np.zeros((16, 3)), label[:, 0], label[:, 1], np.ones((16, 3)), np.zeros(16))
    begun = SimpleNamespace(pool=SimpleNamespace(classes=np.array([1, 0, 2])), points=at)
    assert Completion._touching(begun, 0) == (0, 1)
    assert Completion._touching(begun, 0, ((0, 1),)) == (1, 2)
    assert Completion._touching(begun, 0, ((0, 1), (1, 2))) == (0, 2)
    assert Completion._touching(begun, 0, ((0, 1), (1, 2), (0, 2))) is None
    # The two commonest classes hardly touch: another lies between them.
    begun.pool.classes = np.array([2, 0, 1])
    assert Completion._touching(begun, 0) == (0, 1)
    begun.pool.classes = np.array([1, 0])
    assert Completion._touching(begun, 0) == (0, 1)


def test_classes_that_meet_only_each_other_are_linked_to_no_others() -> None:
    before, after = np.array([0, 2, 5, 7]), np.array([1, 1, 2, 8])
    at = Crossings(np.zeros((4, 2)), before, after, np.zeros((4, 2)), np.zeros(4))
    assert linked_classes(at, np.array([0, 1])).tolist() == [0, 1, 2, 5]
    assert linked_classes(at, np.array([8])).tolist() == [7, 8]
    assert linked_classes(at[slice(0, 0)], np.array([3, 4])).tolist() == [3, 4]


def test_no_segment_between_two_classes_is_asked_twice() -> None:
    model = model_of(1)
    pool = asked(model, np.random.default_rng(0))
    pool.draw(12)
    one, two = (int(c) for c in pool.classes[:2])
    segments = int((pool.label == one).sum() * (pool.label == two).sum())
    found = pool.crossings(10 * segments, 1e-9, (one, two))
    assert len(found) == segments
    assert len(np.unique(found.along.round(12), axis=0)) == segments
