"""Second-layer neurons from what a model without them leaves over, and logits of classes from those of pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.helpers import assert_rate
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.deep_completion import Deep
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.last_layer import _of_pair, joined, rescaled, with_classes_anew
from unveil.identification.from_labels.missing_neurons import (
    completed,
    further_neuron,
    merged,
    with_bends,
    with_linear,
)
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import carriers, without_carriers
from unveil.identification.from_labels.second_layer import HiddenNeuron
from unveil.whitebox.activation import activation

NOTHING = np.empty(0, dtype=int)


def made(seed: int, classes: int = 3) -> LabelModel:
    """Five neurons of seven values."""
    rng = np.random.default_rng(seed)
    inner, outer = rng.standard_normal((5, 7)), rng.standard_normal((classes, 5))
    bias = 0.5 * rng.standard_normal(5)
    model = LabelModel(
        inner, bias, outer, np.zeros((classes, 7)), np.zeros(classes), np.arange(classes), activation("relu")
    )
    # No class is rare.
    logits = model.logits(np.maximum(rng.standard_normal((1000, 7)), 0))
    return replace(model, offset=-np.median(logits, axis=0))


def boundary(model: LabelModel, count: int, seed: int) -> Crossings:
    """Points where two logits are the largest and equal, on segments between values of a first layer of ReLU."""
    rng = np.random.default_rng(seed)
    low, high = np.maximum(rng.standard_normal((2, 4 * count, 7)), 0)
    before = model.labels(low)
    keep = before != model.labels(high)
    low, high, before = low[keep][:count], high[keep][:count], before[keep][:count]
    after = model.labels(high)
    for _ in range(60):
        middle = (low + high) / 2
        label = model.labels(middle)
        inside = label == before
        after = np.where(inside, after, label)
        low, high = np.where(inside[:, None], middle, low), np.where(inside[:, None], high, middle)
    return Crossings((low + high) / 2, before, after, high - low, np.full(len(low), 1e-14))


def on(model: LabelModel, at: Crossings) -> float:
    return float((np.abs(model.distances(at)) < 1e-6).mean())


def test_a_neuron_that_is_missing_comes_from_what_is_left_over() -> None:
    for seed in range(1, 5):
        truth = made(seed)
        at = boundary(truth, 1500, seed)
        less = truth.kept(np.arange(4))
        assert on(truth, at) > 0.99 > on(less, at)
        found = further_neuron(less, at, np.random.default_rng(0))
        assert found is not None
        row, true = np.append(found.inner[-1], found.bias[-1]), np.append(truth.inner[4], truth.bias[4])
        assert np.allclose(row / np.linalg.norm(row), true / np.linalg.norm(true), atol=1e-6)
        assert on(found, at) > 0.99


def test_two_classes_weights_come_out_where_an_unknown_neuron_is_active_at_a_third_of_their_points() -> None:
    came = []
    for seed in range(12):
        truth = made(seed, classes=2)
        at = boundary(truth, 1200, seed)
        value = at.x @ truth.inner[4]
        truth = replace(truth, bias=np.append(truth.bias[:4], -np.quantile(value, 0.65)))
        at = boundary(truth, 300, seed)
        rests = at.x @ truth.inner[4] + truth.bias[4] < 0
        if not 0.6 < rests.mean() < 0.75:
            continue
        long = np.linalg.norm(truth.inner[:4], axis=1)
        second = Hyperplanes(truth.inner[:4] / long[:, None], truth.bias[:4] / long, np.zeros(4))
        found, share = _of_pair(second, at, (0, 1), np.random.default_rng(seed))
        came.append(found is not None and on(found, at[np.flatnonzero(rests)]) > 0.9 and share < 0.8)
    assert len(came) >= 5
    assert_rate(came, 0.8)


def test_nothing_left_over_gives_no_neuron() -> None:
    truth = made(1)
    assert further_neuron(truth, boundary(truth, 800, 1), np.random.default_rng(0)) is None


def test_weights_that_no_bend_told_come_from_points_where_they_count() -> None:
    for seed in range(5):
        truth = made(seed)
        at = boundary(truth, 1500, seed)
        inner = truth.inner.copy()
        inner[2, [1, 4]] = 0
        found = completed(
            replace(truth, inner=inner),
            [NOTHING, NOTHING, np.array([1, 4]), NOTHING, NOTHING],
            at,
            np.random.default_rng(0),
        )
        assert np.allclose(found.inner, truth.inner, atol=1e-6)


def test_classes_known_from_pairs_get_one_scale_from_points_of_a_third() -> None:
    truth = made(3)
    at = boundary(truth, 3000, 3)
    pairs = []
    for one, two, scale in ((0, 1, 2.0), (0, 2, 7.0)):
        outer = scale * (truth.outer[[one, two]] - truth.outer[one])
        offset = scale * (truth.offset[[one, two]] - truth.offset[one])
        pairs.append(replace(truth, outer=outer, affine=np.zeros((2, 7)), offset=offset, classes=np.array([one, two])))
    whole = joined(*pairs)
    assert (whole.classes == [0, 1, 2]).all()
    third = at[np.flatnonzero((at.before > 0) & (at.after > 0))]
    assert on(whole, third) < 0.1
    assert on(rescaled(whole, ((0, 2),), at), at) > 0.99


def test_a_classs_weight_that_no_point_told_comes_from_points_where_it_counts() -> None:
    for seed in range(5):
        truth = made(seed)
        at = boundary(truth, 3000, seed)
        met, counts = np.unique(np.sort(np.stack([at.before, at.after], axis=1), axis=1), axis=0, return_counts=True)
        rare = int(np.setdiff1d(truth.classes, met[counts.argmax()])[0])
        outer = truth.outer.copy()
        outer[rare, (at.x @ truth.inner.T + truth.bias > 0).sum(axis=0).argmax()] = 0
        wrong = replace(truth, outer=outer)
        assert on(wrong, at) < 0.99
        assert on(with_classes_anew(wrong, at), at) > 0.999


def test_neurons_of_one_hyperplane_and_side_become_one() -> None:
    truth = made(4)
    split = replace(
        truth,
        inner=np.concatenate([truth.inner, 3 * truth.inner[:1]]),
        bias=np.append(truth.bias, 3 * truth.bias[0]),
        outer=np.concatenate([truth.outer, truth.outer[:, :1]], axis=1),
    )
    h = np.maximum(np.random.default_rng(0).standard_normal((50, 7)), 0)
    assert np.allclose(merged(split).logits(h), split.logits(h))
    assert len(merged(split).inner) == 5
    assert len(merged(replace(split, inner=-split.inner, bias=split.bias)).inner) == 5


def test_a_neuron_that_only_carries_anothers_linear_part_is_none() -> None:
    model, way = made(11), 0.004
    at = boundary(model, 400, 12)
    c, row, bias, far = model.outer[:, 2], model.inner[2], model.bias[2], 5.0
    sign = np.where(np.arange(5) == 2, -1.0, 1.0)
    with_carrier = replace(
        model,
        inner=np.vstack([model.inner * sign[:, None], way * row]),
        bias=np.append(model.bias * sign, far),
        outer=np.column_stack([model.outer, c / way + 3.0]),  # (all classes may have the same of it besides)
        affine=model.affine - 3.0 * way * row,
        offset=model.offset + c * bias - c / way * far,
    )
    assert carriers(model, at) == []
    assert carriers(with_carrier, at) == [(5, 2)]
    back = without_carriers(with_carrier, at)
    assert len(back.inner) == 5
    assert carriers(back, at) == []
    np.testing.assert_allclose(back.inner, model.inner, atol=1e-12)
    np.testing.assert_allclose(np.diff(back.logits(at.x), axis=1), np.diff(model.logits(at.x), axis=1), atol=1e-9)
    # What classes have of a linear part besides is still to be told.
    other = replace(with_carrier, outer=with_carrier.outer + np.arange(3)[:, None] * (np.arange(6) == 5) * 50)
    assert len(without_carriers(other, at).inner) == 6
    assert carriers(other, at) == [(5, 2)]
    assert not Deep(DeepLabelModel(np.eye(7), np.zeros(7), other, other.classes), 1e-12, 0.0, 1e-9, 0, 0, 0, 1).whole


def test_points_that_stray_make_a_network_no_whole_one() -> None:
    behind = made(0)
    model = DeepLabelModel(np.eye(7), np.zeros(7), behind, behind.classes)
    assert Deep(model, 1e-12, 0.0, 1e-9, 0, 0).whole
    assert not Deep(model, 1e-12, 0.0, 1e-9, 0, 1).whole
    assert not Deep(model, 1e-3, 0.0, 1e-9, 0, 0).whole


def test_an_affine_part_gets_the_weights_of_values_that_no_point_had() -> None:
    for seed in range(5):
        truth = made(seed)
        rng = np.random.default_rng(seed)
        truth = replace(truth, affine=0.3 * rng.standard_normal((3, 7)))
        at = boundary(truth, 1500, seed)
        affine = truth.affine - truth.affine[0]
        affine[:, [2, 5]] = 0
        found = with_linear(replace(truth, affine=affine), at, rng)
        assert np.allclose(found.affine - found.affine[0], truth.affine - truth.affine[0], atol=1e-5)
        without = replace(truth, affine=np.zeros((3, 7)))
        assert with_linear(without, at, rng) is without


def test_neurons_that_bends_told_join_a_model_without_them_and_complete_it() -> None:
    for seed in range(5):
        truth = made(seed)
        at = boundary(truth, 1500, seed)
        told = HiddenNeuron(-2 * truth.inner[4], float(-2 * truth.bias[4]), NOTHING, 0.0)
        found = with_bends(truth.kept(np.arange(4)), [told], at)
        assert on(found, at) > 0.99
        inner = truth.inner.copy()
        inner[4, [0, 3]] = 0
        assert np.allclose(with_bends(replace(truth, inner=inner), [told], at).inner, truth.inner)
        # One that explains nothing more stays out.
        other = HiddenNeuron(np.random.default_rng(seed).standard_normal(7), 0.1, NOTHING, 0.0)
        assert len(with_bends(truth, [other], at).inner) == 5


def test_a_loose_fit_is_no_better_than_an_exact_one() -> None:
    behind = made(0)
    model = DeepLabelModel(np.eye(7), np.zeros(7), behind, behind.classes)
    assert Deep(model, 1e-12, 0.03, 1e-9, 0, 3).rank > Deep(model, 1e-2, 0.0, 1e-9, 1, 0).rank


def test_rows_of_length_one_leave_the_function_as_it_is() -> None:
    behind = replace(made(0), affine=np.ones((3, 7)))
    rng = np.random.default_rng(0)
    model = DeepLabelModel(rng.standard_normal((7, 4)), rng.standard_normal(7), behind, behind.classes)
    y = rng.standard_normal((50, 4))
    assert np.allclose(model.with_unit_rows().logits(y), model.logits(y))
    assert np.allclose(np.linalg.norm(model.with_unit_rows().inner, axis=1), 1)


def test_a_first_layer_neuron_that_nothing_depends_on_goes_and_labels_stay() -> None:
    rng = np.random.default_rng(3)
    behind = made(3)
    rows, bias = rng.standard_normal((7, 6)), rng.standard_normal(7)
    inner = behind.inner.copy()
    inner[:, 2] *= 1e-9
    whole = DeepLabelModel(rows, bias, replace(behind, inner=inner), behind.classes)
    less = whole.without_idle()
    assert np.array_equal(less.inner, np.delete(rows, 2, axis=0))
    y = rng.standard_normal((500, 6))
    assert np.allclose(less.logits(y), whole.logits(y), atol=1e-7)
    # One that only the affine part has stays.
    linear = replace(behind, inner=inner, affine=np.eye(3, 7, k=1))
    assert len(DeepLabelModel(rows, bias, linear, behind.classes).without_idle().bias) == 7
