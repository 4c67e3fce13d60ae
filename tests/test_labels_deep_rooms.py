"""Behind a first layer known from labels: boundary points in its values, the last layer, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, relu_net
from tests.test_labels_second_layer import SIZES, boundary, made, truth
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.deep_completion import with_resting_side
from unveil.identification.from_labels.deep_model import DeepLabelModel, DeepPoints, on_boundary, pairs_of
from unveil.identification.from_labels.faces import Faces, Precision
from unveil.identification.from_labels.first_layer import completing
from unveil.identification.from_labels.foretold import foretold_crossings
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.last_layer import last_layer
from unveil.identification.from_labels.missing_neurons import _look, with_missing
from unveil.identification.from_labels.orientation import without_affine
from unveil.identification.from_labels.polish import polish
from unveil.identification.from_labels.pool import Pool, two_labels
from unveil.identification.from_labels.rare_classes import open_crossings
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.second_layer import HiddenNeuron
from unveil.identification.from_labels.seen_labels import SeenLabels
from unveil.outcome import UnsteadyAnswers


@dataclass
class Case:
    """A network with two hidden layers that answers labels, and boundary points of it."""

    weights: list[tuple[np.ndarray, np.ndarray]]
    first: Hyperplanes
    oracle: uv.Oracle
    points: DeepPoints

    @classmethod
    def of(cls, seed: int, count: int = 400) -> Case:
        weights, first = made(seed)
        net, rng = relu_net(weights), np.random.default_rng(seed)
        oracle = uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=SIZES[0], answers="labels")
        chart = Chart(oracle, np.zeros(SIZES[0]), 1.0, None)
        pool = Pool(Side(chart), chart, 2.0, np.empty((0, SIZES[0])), rng)
        pool.draw(200)
        return cls(weights, first, oracle, DeepPoints(pool, first, boundary(weights, count, rng), 1e-9))

    @property
    def truth(self) -> DeepLabelModel:
        return truth(self.weights)

    def neurons(self) -> list[HiddenNeuron]:
        w, c = self.weights[1]
        return [HiddenNeuron(row.copy(), float(b), np.arange(4), 1e-9) for row, b in zip(w, c, strict=True)]


def test_boundary_points_in_the_first_layers_values() -> None:
    case = Case.of(5)
    a, b = case.weights[0]
    inside = case.points.inside(case.points.all)
    values = np.maximum(case.points.all.x @ a.T + b, 0)
    # Every one is a value the layer takes at a point met, and the true boundary there is that behind the layer.
    assert np.abs(inside.x[:, None] - values[None]).max(axis=2).min(axis=1).max() < 1e-12
    assert np.abs(case.truth.behind.distances(inside)).max() < 1e-9
    near = replace(case.points.all, x=case.points.all.x.copy())
    near.x[0] -= (a[0] @ near.x[0] + b[0]) * a[0]
    assert len(case.points.inside(near)) == len(inside) - 1
    assert (pairs_of(inside)[:, 0] < pairs_of(inside)[:, 1]).all()


def test_crossings_may_start_at_the_points_asked_last() -> None:
    pool = Case.of(3, count=10).points.pool
    pool.put(50 * np.random.default_rng(3).standard_normal((6, SIZES[0])))
    found = pool.crossings(12, 1e-6, latest=6)
    assert len(found) == 12
    away = found.x[:, None] - pool.y[None, -6:]
    along = np.sum(away * found.along[:, None], axis=2, keepdims=True)
    beside = np.linalg.norm(away - along * found.along[:, None], axis=2)
    assert beside.min(axis=1).max() < 1e-9


def test_usable_points_touch_no_weight_that_is_open() -> None:
    case = Case.of(6, count=60)
    # The weights of the first-layer neuron that is active least are open.
    active = (case.points.inside(case.points.all).x > 0).mean(axis=0)
    told = np.arange(SIZES[1]) != active.argmin()
    pairs, counts = np.unique(pairs_of(case.points.all), axis=0, return_counts=True)
    pair = tuple(int(c) for c in pairs[counts.argmax()])
    before = case.oracle.ledger.asked
    at = case.points.usable(told, pair, 40)
    assert not (at.x[:, ~told] > 0).any()
    assert (pairs_of(at) == pair).all(axis=1).sum() >= 30
    assert case.oracle.ledger.asked > before
    # What was asked for lies on the boundary.
    assert np.abs(case.truth.distances(case.points.asked)).max() < 1e-8


def test_only_what_a_model_foretells_wrongly_is_located() -> None:
    case = Case.of(7, count=2000)
    at = case.points.all[np.arange(60)]
    assert case.points.look(at, 60) == 0
    off = replace(at, x=at.x + 0.01 * at.along)
    found = case.points.look(off, 25)
    assert 15 <= found <= 25
    assert np.abs(case.truth.distances(case.points.asked)).max() < 1e-8
    assert len(on_boundary(case.truth, off)) < 5
    assert len(on_boundary(case.truth, at)) == 60


def _agrees(model: DeepLabelModel, case: Case) -> float:
    """Share of fresh inputs with the true label."""
    x = 2 * np.random.default_rng(99).standard_normal((4000, SIZES[0]))
    return float(
        (model.network(case.points.pool.chart)(x).argmax(axis=1) == relu_net(case.weights)(x).argmax(axis=1)).mean()
    )


def test_the_last_layer_behind_known_neurons_is_right_also_where_a_weight_is_open() -> None:
    def holds(seed: int) -> bool:
        case = Case.of(seed, count=900)
        neurons = case.neurons()
        neurons[0].weight[1] = np.nan
        found = last_layer(case.points, neurons, np.random.default_rng(seed))
        if found is None:
            return False
        model, share = found
        inside = case.points.inside(case.points.all)
        clean = inside[np.flatnonzero(~(inside.x[:, 1] > 0))]
        return bool(share > 0.9 and np.mean(np.abs(model.distances(clean)) < 1e-5) > 0.9)

    assert_rate([holds(seed) for seed in range(40, 46)], 0.9)


def test_a_second_layer_neuron_that_no_bend_told_is_found_at_points_off_the_boundary() -> None:
    def holds(seed: int) -> bool:
        case = Case.of(seed, count=900)
        _, (w, c), (v, _) = case.weights
        behind = replace(case.truth.behind, inner=w[1:], bias=c[1:], outer=v[:, 1:])
        less = replace(case.truth, behind=behind)
        found = with_missing(less, case.points, [], np.random.default_rng(seed))
        return bool(_agrees(less, case) < 0.99 and _agrees(found, case) > 0.999)

    assert_rate([holds(seed) for seed in range(60, 64)], 0.9)


def test_a_neuron_told_as_its_line_and_its_resting_side_becomes_one() -> None:
    for seed in range(70, 73):
        case = Case.of(seed, count=900)
        behind, at = case.truth.behind, case.truth.inside(case.points.all)[0]
        on = (at.x @ behind.inner.T + behind.bias > 0).mean(axis=0)
        j = int(np.abs(on - 0.5).argmin())
        row, bias, weight = behind.inner[j], behind.bias[j], behind.outer[:, j]
        rest = behind.kept(np.delete(np.arange(len(behind.inner)), j))
        split = replace(
            rest,
            inner=np.concatenate([rest.inner, [row, -row]]),
            bias=np.concatenate([np.delete(behind.bias, j), [bias + 100, -bias]]),
            outer=np.concatenate([rest.outer, weight[:, None], weight[:, None]], axis=1),
            offset=behind.offset - 100 * weight,
        )
        assert len(split.inner) > len(behind.inner)
        found = without_affine(split, at)
        assert len(found.inner) <= len(behind.inner)
        assert np.abs(found.distances(at)).max() < 1e-8


def test_a_second_layer_neuron_that_no_point_needs_goes() -> None:
    case = Case.of(61, count=900)
    behind, rng = case.truth.behind, np.random.default_rng(0)
    row, weight = np.abs(rng.standard_normal((1, SIZES[1]))), rng.standard_normal((SIZES[3], 1))
    more = replace(
        behind,
        inner=np.concatenate([behind.inner, row]),
        bias=np.append(behind.bias, -0.3),
        outer=np.concatenate([behind.outer, weight], axis=1),
    )
    found = with_missing(replace(case.truth, behind=more), case.points, [], rng)
    assert len(found.behind.inner) == len(behind.inner)
    assert _agrees(found, case) > 0.999


def test_a_weight_that_no_point_tells_is_told_by_points_that_are_looked_for() -> None:
    def holds(seed: int) -> bool:
        case, (w, c) = Case.of(seed, count=2500), made(seed)[0][1]
        at, first = case.points.all, case.points.first
        on = np.maximum(at.x @ first.normals.T + first.offsets, 0) @ w.T + c > 0
        # Where some neuron acts at few points of some class, it is at none of them now.
        ours = np.stack([(at.before == label) | (at.after == label) for label in range(3)])
        counts = np.einsum("cn,nk->ck", ours.astype(float), on)
        label, j = np.unravel_index(np.where(counts < 5, np.inf, counts).argmin(), counts.shape)
        known = at[np.flatnonzero(~(ours[label] & on[:, j]))]
        outer = case.truth.behind.outer.copy()
        outer[label, j] = 0.0
        model, rng = replace(case.truth, behind=replace(case.truth.behind, outer=outer)), np.random.default_rng(seed)
        assert np.abs(model.distances(at)).max() > 1e-3
        for _ in range(4):
            if np.abs(model.distances(at)).max() < 1e-7:
                return True
            more, model = open_crossings(model, case.points.pool, known, 1e-10, rng)
            assert np.abs(case.truth.distances(more)).max(initial=0.0) < 1e-8
            known = Crossings.joined([known, more])
            model = polish(model, known).model
        return bool(np.abs(model.distances(at)).max() < 1e-7)

    # Of those where little else is open.
    assert_rate([holds(seed) for seed in (87, 97, 101, 102, 109)], 0.9)


def test_a_neuron_active_at_all_points_met_has_its_bias_from_points_where_it_rests() -> None:
    told = 0
    for seed in range(90, 98):
        case, (w, c) = Case.of(seed), made(seed)[0][1]
        at, behind = case.points.all, case.truth.behind
        on = case.truth.inside(at)[0].x @ w.T + c > 0
        j = int(on.mean(axis=0).argmax())
        case.points.all = at[np.flatnonzero(on[:, j])]
        bias = np.where(np.arange(len(c)) == j, c + 50.0, c)
        model = replace(case.truth, behind=replace(behind, bias=bias, offset=behind.offset - 50 * behind.outer[:, j]))
        assert np.abs(model.distances(case.points.all)).max() < 1e-9
        found = with_resting_side(model, case.points, j, np.random.default_rng(seed))
        if found is None:
            continue
        told += 1
        assert np.abs(found[0].behind.bias - c).max() < 1e-6
        assert np.abs(found[0].distances(at)).max() < 1e-6
        assert np.abs(case.truth.distances(found[1])).max() < 1e-8
    assert told >= 6


def test_a_first_layer_is_completed_by_the_hyperplanes_with_which_normals_lie_in_spans() -> None:
    told = 0
    for seed in range(4):
        case, rng = Case.of(seed, count=600), np.random.default_rng(seed)
        first, at = case.points.first, case.points.all
        search = HyperplaneSearch(case.points.pool, Precision.of(1e-16), rng)
        search.faces = Faces(at.x, at.along, at.before, at.after, np.full(len(at), 1e-9))
        decoys = rng.standard_normal((12, SIZES[0]))
        decoys /= np.linalg.norm(decoys, axis=1, keepdims=True)
        search.begin_with(Hyperplanes.joined([first, Hyperplanes(decoys, rng.standard_normal(12), np.full(12, 1e-9))]))
        # Nothing is missing of a whole layer.
        assert not len(completing(search, first, rng))
        lacking = rng.choice(SIZES[1], 2, replace=False)
        found = completing(search, first[np.setdiff1d(np.arange(SIZES[1]), lacking)], rng)
        likeness = np.abs(found.normals @ first.normals[lacking].T)
        assert (likeness.max(axis=1, initial=0.0) > 1 - 1e-12).all()
        told += len(found)
    assert told >= 4


def test_the_first_look_finds_two_labels_at_whatever_size_and_refuses_labels_that_change() -> None:
    for size in (0.3, 3.0, 60.0):
        oracle = uv.as_oracle(
            lambda x, r=size: (np.linalg.norm(x, axis=1) > r * 2).astype(int), shape=4, answers="labels"
        )
        pool = two_labels(Chart(oracle, np.zeros(4), 1.0, None), np.empty((0, 4)), np.random.default_rng(0))
        assert pool is not None
        assert len(pool.classes) == 2
    one = uv.as_oracle(lambda x: np.zeros(len(x), dtype=int), shape=4, answers="labels")
    assert two_labels(Chart(one, np.zeros(4), 1.0, None), np.empty((0, 4)), np.random.default_rng(0)) is None
    dice = np.random.default_rng(1)
    changing = uv.as_oracle(lambda x: dice.integers(2, size=len(x)), shape=4, answers="labels", noisy=True)
    with pytest.raises(UnsteadyAnswers, match="another label"):
        two_labels(Chart(changing, np.zeros(4), 1.0, None), np.empty((0, 4)), np.random.default_rng(0))


def test_no_points_no_last_layer() -> None:
    case = Case.of(8, count=50)
    case.points.all = Crossings.none(SIZES[0])
    assert last_layer(case.points, case.neurons(), np.random.default_rng(0)) is None


def test_a_class_that_was_met_but_not_read_is_told() -> None:
    rare = uv.as_oracle(lambda x: np.where(x[:, 0] > 9, 7, x[:, 1] > 0).astype(int), shape=3, answers="labels")
    seen = SeenLabels(rare)
    seen(np.array([[0.0, 1, 0], [0, -1, 0]]))
    assert not seen.told((0, 1))[1]
    seen(np.array([[10.0, 1, 0], [11, 0, 0]]))
    said, lacks = seen.told((0, 1))
    assert lacks
    assert "7, at 2 of 4 questions" in said[1]
    assert not seen.told((0, 1, 7))[1]
    # Questions that got it are where to look for it.
    np.testing.assert_array_equal(seen.lacking((0, 1))[:, 0], [10.0])
    assert not len(seen.lacking((0, 1, 7)))


def test_a_neuron_that_only_far_inputs_switch_is_looked_for_far_out() -> None:
    met = []
    for seed in range(6):
        case = Case.of(seed)
        (a, b), (w, c), (v, d) = case.weights
        # At rest wherever inputs are of usual size.
        far = np.maximum(3 * np.random.default_rng(seed).standard_normal((4000, SIZES[0])) @ a.T + b, 0).sum(axis=1)
        more = np.vstack([w, np.ones(w.shape[1])]), np.append(c, -far.max())
        net = relu_net([(a, b), more, (np.column_stack([v, np.arange(len(v))]), d)])
        oracle = uv.as_oracle(lambda x, net=net: net(x).argmax(axis=1), shape=SIZES[0], answers="labels")
        chart = Chart(oracle, np.zeros(SIZES[0]), 1.0, None)
        pool = Pool(Side(chart), chart, 1.0, np.empty((0, SIZES[0])), np.random.default_rng(seed))
        points = DeepPoints(pool, case.first, case.points.all[slice(0, 0)], 1e-9)
        usual = foretold_crossings(case.truth, pool, chart, 500, np.random.default_rng(1))
        assert not points.look(usual, 500)
        met.append(_look(case.truth, points, np.random.default_rng(2)))
    assert_rate(met, 0.8)
