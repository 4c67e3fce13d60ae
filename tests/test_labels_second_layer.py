"""The second layer from labels: bends in different linear regions, the last layer behind them, and the fit of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_net
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.faces import Faces, Precision, faces_at
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import oriented
from unveil.identification.from_labels.output import second_output
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.second_layer import HiddenNeuron, active_sides, bends_behind, hidden_neurons
from unveil.identification.from_labels.straight import BoundaryFaces, looks_behind, straight, where_it_counts
from unveil.whitebox.activation import activation

SIZES = (8, 7, 5, 3)


def made(seed: int) -> tuple[Weights, Hyperplanes]:
    """A network, and its first layer as a search tells it: unit normals."""
    weights = random_weights(SIZES, np.random.default_rng(seed), bias=0.3)
    rows, bias = weights[0]
    long = np.linalg.norm(rows, axis=1)
    weights[0] = rows / long[:, None], bias / long
    return weights, Hyperplanes(*weights[0], np.full(len(bias), 1e-9))


def boundary(weights: Weights, count: int, rng: np.random.Generator) -> Crossings:
    """Points between two classes, with the boundary's normals."""
    net = relu_net(weights)
    start, end = 2 * rng.standard_normal((2, count, SIZES[0]))
    before = net(start).argmax(axis=1)
    keep = before != net(end).argmax(axis=1)
    low, high, before = start[keep], end[keep], before[keep]
    after = net(high).argmax(axis=1)
    for _ in range(60):
        middle = (low + high) / 2
        label = net(middle).argmax(axis=1)
        inside = (label == before)[:, None]
        after = np.where(inside[:, 0], after, label)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    at = Crossings((low + high) / 2, before, after, low, np.full(len(low), 1e-14))
    gradient = -truth(weights).gaps(at)[1]
    along = gradient / np.linalg.norm(gradient, axis=1)[:, None]
    return Crossings(at.x, at.before, at.after, along, at.width)


def truth(weights: Weights) -> DeepLabelModel:
    (a, b), (w, c), (v, d) = weights
    classes = np.arange(len(d))
    behind = LabelModel(w, c, v, np.zeros((len(d), len(b))), d, classes, activation("relu"))
    return DeepLabelModel(a, b, behind, classes)


def bends(weights: Weights, count: int, rng: np.random.Generator) -> list[Edge]:
    """Places on hyperplanes of second-layer neurons, with the normals that a boundary could have on both sides."""
    (a, b), (w, c), (v, _) = weights
    edges: list[Edge] = []
    while len(edges) < count:
        x, j = 2 * rng.standard_normal(SIZES[0]), int(rng.integers(len(c)))
        for _ in range(30):
            on = a @ x + b > 0
            slope = (w[j] * on) @ a
            if not slope.any():
                break
            x = x - (w[j] @ np.maximum(a @ x + b, 0) + c[j]) / (slope @ slope) * slope
        hidden = np.maximum(a @ x + b, 0)
        if abs(w[j] @ hidden + c[j]) > 1e-12 or np.abs(a @ x + b).min() < 1e-2:
            continue
        one, two = rng.permutation(len(v))[:2]
        other = (v[one] - v[two]) * (w @ hidden + c > 0)
        other[j] = 0
        normals = [((each @ w) * (hidden > 0)) @ a for each in (other, other + (v[one] - v[two]) * np.eye(len(c))[j])]
        if min(np.linalg.norm(each) for each in normals) < 1e-6:
            continue
        near, far = (each / np.linalg.norm(each) for each in normals)
        edge = Edge.between(x, (near, far), (0, 1), 1e-12, 1e-10)
        if edge is not None:
            edges.append(edge)
    return edges


def test_bends_in_different_regions_tell_a_second_layer() -> None:
    weights, first = made(3)
    rows, bias = weights[1]
    found = hidden_neurons(bends_behind(first, bends(weights, 90, np.random.default_rng(0))))
    right = np.column_stack([rows, bias]) / np.linalg.norm(np.column_stack([rows, bias]), axis=1)[:, None]
    told = []
    for each in found:
        vector = np.append(each.weight, each.bias)
        seen = ~np.isnan(vector)
        known = right[:, seen] / np.linalg.norm(right[:, seen], axis=1)[:, None]
        cosine = np.abs(known @ vector[seen]) / np.linalg.norm(vector[seen])
        assert cosine.max() > 1 - 1e-12
        told.append(int(cosine.argmax()))
    assert sorted(told) == list(range(len(bias)))


def test_normals_of_the_boundary_tell_which_side_of_a_first_layer_is_active() -> None:
    weights, first = made(4)
    at = boundary(weights, 150, np.random.default_rng(0))
    faces = Faces(at.x, at.along, at.before, at.after, np.full(len(at), 1e-9))
    sign = np.where(np.random.default_rng(1).random(len(first)) < 0.5, -1.0, 1.0)
    turned = Hyperplanes(first.normals * sign[:, None], first.offsets * sign, first.error)
    found = active_sides(turned, faces)
    assert found is not None
    assert (found == sign).all()
    # From whichever sides one begins: nearly all normals lie outside until the last of them are right.
    for seed in range(5, 10):
        weights, first = made(seed)
        at = boundary(weights, 150, np.random.default_rng(0))
        every = Faces(at.x, at.along, at.before, at.after, np.full(len(at), 1e-9))
        sign = np.where(np.random.default_rng(seed).random(len(first)) < 0.5, -1.0, 1.0)
        found = active_sides(Hyperplanes(first.normals * sign[:, None], first.offsets * sign, first.error), every)
        assert found is not None
        assert (found == sign).all()
    noise = np.random.default_rng(2).standard_normal(faces.x.shape)
    other = Faces(faces.x, noise / np.linalg.norm(noise, axis=1)[:, None], faces.before, faces.after, faces.error)
    assert active_sides(turned, other) is None


def test_the_last_layer_behind_two_hidden_ones() -> None:
    weights, _ = made(9)
    at = boundary(weights, 4000, np.random.default_rng(0))
    inside = truth(weights).inside(at)[0]
    rows, bias = weights[1]
    long = np.linalg.norm(rows, axis=1)
    sign = np.where(np.random.default_rng(1).random(len(bias)) < 0.5, -1.0, 1.0) / long
    second = Hyperplanes(rows * sign[:, None], bias * sign, np.zeros(len(bias)))
    pair = (int(inside.before[0]), int(inside.after[0]))
    ours = inside[np.flatnonzero(np.isin(inside.before, pair) & np.isin(inside.after, pair))]
    found = second_output(second, ours, pair)
    assert found is not None
    assert np.abs(found.distances(ours)).max() < 1e-9
    whole = oriented(found, ours, [])
    assert whole is not None
    assert not whole.affine.any()
    assert np.abs(whole.distances(ours)).max() < 1e-9
    assert (np.sum(whole.inner * rows, axis=1) > 0).all()


def test_what_neurons_active_everywhere_add_up_to_completes_those_known_in_part() -> None:
    """Points where neuron 0 is active, and neuron 1 is not: bends told neuron 0 but for two weights."""
    rng = np.random.default_rng(2)
    (rows, bias), outer = random_weights((7, 5), rng, bias=0.3)[0], rng.standard_normal((3, 5))
    hidden = np.maximum(rng.standard_normal((3000, 7)), 0)
    sums = hidden @ rows.T + bias
    hidden = hidden[(sums[:, 0] > 0) & (sums[:, 1] < 0)]
    model = LabelModel(rows, bias, outer, np.zeros((3, 7)), np.zeros(3), np.arange(3), activation("relu"))
    label = model.labels(hidden)
    at = Crossings(hidden, label, (label + 1) % 3, hidden, np.zeros(len(hidden)))
    # As read from normals: neuron 0 not at all, 1 and 3 the wrong way round, so that an affine part is left.
    turned = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    affine = outer[:, :1] * rows[:1] + outer[:, 3:4] * rows[3:4]
    known = outer * (turned > 0) + np.where(turned > 0, 0, outer) * [0, 0, 0, 1, 0]
    read = LabelModel(
        (rows * turned[:, None])[1:],
        (bias * turned)[1:],
        known[:, 1:],
        affine,
        outer[:, 0] * bias[0] + outer[:, 3] * bias[3],
        np.arange(3),
        activation("relu"),
    )
    assert np.allclose(read.logits(hidden), model.logits(hidden))
    weight = -3 * rows[0]
    weight[[2, 5]] = np.nan
    partly = HiddenNeuron(weight, -3 * float(bias[0]), np.arange(4), 1e-9)
    found = oriented(read, at, [partly])
    assert found is not None
    assert not found.affine.any()
    logits = found.logits(hidden) - model.logits(hidden)
    assert np.abs(logits - logits[:, :1]).max() < 1e-9
    # Neuron 1 is active at no point: nothing tells of it, and it is left out.
    assert np.allclose(found.inner, np.stack([*rows[2:], 3 * rows[0]]))
    assert oriented(read, at, []) is None


def test_a_side_seen_between_two_classes_only_does_not_hide_which_one_is_active() -> None:
    """Neuron 2 was read the wrong way round, and its resting side is met between classes 1 and 2 only: what both have
    in common there nothing told."""
    rng = np.random.default_rng(3)
    (rows, bias), outer = random_weights((7, 5), rng, bias=0.3)[0], rng.standard_normal((3, 5))
    hidden = np.maximum(rng.standard_normal((3000, 7)), 0)
    active = (hidden @ rows.T + bias)[:, 2] > 0
    before, after = np.where(active, rng.integers(0, 2, 3000), 1), np.full(3000, 2)
    at = Crossings(hidden, before, after, hidden, np.zeros(3000))
    turned = np.array([1.0, 1.0, -1.0, 1.0, 1.0])
    # w relu(s) = w relu(-s) + w s
    affine, offset = outer[:, 2:3] * rows[2:3], outer[:, 2] * bias[2]
    wrong = outer.copy()
    wrong[1:, 2] += 0.7
    model = LabelModel(rows, bias, outer, np.zeros((3, 7)), np.zeros(3), np.arange(3), activation("relu"))
    read = replace(model, inner=rows * turned[:, None], bias=bias * turned, outer=wrong, affine=affine, offset=offset)
    gap = read.logits(hidden) - model.logits(hidden)
    assert np.abs(gap[np.arange(3000), before] - gap[:, 2]).max() < 1e-9
    assert np.abs(gap[:, 0] - gap[:, 2]).max() > 0.1
    found = oriented(read, at, [])
    assert found is not None
    assert not found.affine.any()
    apart = found.logits(hidden) - model.logits(hidden)
    assert np.abs(apart - apart[:, :1]).max() < 1e-9
    # An affine part that no choice of sides explains stays.
    assert oriented(replace(read, affine=affine + 0.3 * rng.standard_normal((3, 7))), at, []) is None


def test_one_neuron_active_at_all_points_comes_out_of_what_three_classes_have_of_it() -> None:
    """Rows in as many dimensions as there are, so that nothing of the neuron's row stands beside them."""
    for seed, k in ((4, 8), (5, 6), (6, 8), (7, 6)):
        rng = np.random.default_rng(seed)
        rows, outer = rng.standard_normal((k, 7)), rng.standard_normal((3, k))
        hidden = np.maximum(rng.standard_normal((4000, 7)), 0)
        rows[0] = np.abs(rows[0])
        # Every other neuron is active at half of the points.
        bias = -np.median(hidden @ rows.T, axis=0)
        bias[0] = 1.0
        before = rng.integers(0, 3, 4000)
        at = Crossings(hidden, before, (before + 1) % 3, hidden, np.zeros(4000))
        model = LabelModel(rows, bias, outer, np.zeros((3, 7)), np.zeros(3), np.arange(3), activation("relu"))
        turned = np.where(rng.random(k) < 0.5, -1.0, 1.0)
        back = (turned < 0) & (np.arange(k) > 0)
        affine = outer[:, back] @ rows[back] + outer[:, :1] * rows[:1]
        offset = outer[:, back] @ bias[back] + outer[:, 0] * bias[0]
        read = replace(model, inner=rows * turned[:, None], bias=bias * turned, affine=affine, offset=offset)
        read = read.kept(np.arange(1, k))
        gap = read.logits(hidden) - model.logits(hidden)
        assert np.abs(gap - gap[:, :1]).max() < 1e-9
        found = oriented(read, at, [])
        assert found is not None
        assert not found.affine.any()
        assert len(found.inner) == k
        apart = found.logits(hidden) - model.logits(hidden)
        assert np.abs(apart - apart[:, :1]).max() < 1e-8
        cosine = np.abs(found.inner[-1] @ rows[0]) / np.linalg.norm(found.inner[-1]) / np.linalg.norm(rows[0])
        assert cosine > 1 - 1e-9
        # Two classes have any one vector of it.
        two = np.flatnonzero((at.before < 2) & (at.after < 2))
        pair = replace(read, outer=read.outer[:2], affine=affine[:2], offset=offset[:2], classes=np.arange(2))
        assert oriented(pair, at[two], []) is None


def test_sides_of_more_neurons_than_values_are_told_by_all_classes_at_once() -> None:
    """Rows that depend on each other have no share of an affine part of their own."""
    told = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows, bias, outer = rng.standard_normal((6, 4)), 0.3 * rng.standard_normal(6), rng.standard_normal((3, 6))
        hidden = np.maximum(rng.standard_normal((2000, 4)), 0)
        before = rng.integers(0, 3, 2000)
        at = Crossings(hidden, before, (before + 1) % 3, hidden, np.zeros(2000))
        model = LabelModel(rows, bias, outer, np.zeros((3, 4)), np.zeros(3), np.arange(3), activation("relu"))
        turned = np.where(rng.random(6) < 0.5, -1.0, 1.0)
        back = turned < 0
        affine, offset = outer[:, back] @ rows[back], outer[:, back] @ bias[back]
        read = replace(model, inner=rows * turned[:, None], bias=bias * turned, affine=affine, offset=offset)
        found = oriented(read, at, [])
        # Nothing tells the sides of neurons that no point separates; all of them on one side leave nothing to turn.
        few = oriented(read, at[np.zeros(3, dtype=int)], [])
        assert few is None or not few.affine.any()
        if found is None:
            continue
        assert not found.affine.any()
        apart = found.logits(hidden) - model.logits(hidden)
        assert np.abs(apart - apart[:, :1]).max() < 1e-8
        told += 1
    assert told >= 5


def test_a_third_layers_neurons_do_not_go_on_straight_behind_a_first_layer() -> None:
    rng, kept = np.random.default_rng(5), []
    for _ in range(2):
        weights = random_weights((6, 6, 6, 5, 3), rng, bias=0.3)
        net = relu_net(weights)
        oracle = uv.as_oracle(lambda x, net=net: net(x).argmax(axis=1), shape=6, answers="labels")
        chart = Chart(oracle, np.zeros(6), 1.0, None)
        side, precision = Side(chart), Precision.of(chart.digits)
        pool = Pool(side, chart, 1.5, np.empty((0, 6)), rng)
        pool.draw(400)
        faces = faces_at(side, pool.crossings(150, precision.cell), precision, precision.step, rng)[0]
        (a, b), (w, c), (u, e), _ = weights
        second = [HiddenNeuron(row, float(bias), np.arange(4), 1e-9) for row, bias in zip(w, c, strict=True)]
        third = []
        for x in faces.x[:6]:
            on = w @ np.maximum(a @ x + b, 0) + c > 0
            local, shift = (u * on) @ w, (u * on) @ c + e
            third += [HiddenNeuron(row, float(s), np.arange(4), 1e-9) for row, s in zip(local, shift, strict=True)]
        ended, passed = looks_behind(
            BoundaryFaces(side, chart, faces, precision), Hyperplanes(a, b, np.full(6, 1e-9)), second, rng
        )
        assert (4 * passed <= ended).all()
        kept += list(straight(ended, passed))
        ended, passed = looks_behind(
            BoundaryFaces(side, chart, faces, precision), Hyperplanes(a, b, np.full(6, 1e-9)), third, rng
        )
        assert np.mean(straight(ended, passed)) < 0.1
    assert_rate(kept, 0.5)


def test_faces_between_classes_with_the_same_weight_of_a_neuron_do_not_speak_against_it() -> None:
    def told(ends: tuple[int, int, int], goes: tuple[int, int, int]) -> tuple[int, int]:
        """What is told of so many faces between each two of three classes, half of them met from either side."""
        pairs = np.repeat([(0, 1), (2, 0), (1, 2), (1, 0), (0, 2), (2, 1)], 20, axis=0)
        which = [np.flatnonzero((np.sort(pairs, axis=1) == pair).all(axis=1)) for pair in ((0, 1), (0, 2), (1, 2))]
        ended, passed = (
            np.concatenate([rows[::sign][:count] for rows, count in zip(which, counts, strict=True)])
            for counts, sign in ((ends, 1), (goes, -1))
        )
        x = np.zeros((len(pairs), 3))
        return where_it_counts(Faces(x, x, *pairs.T, np.zeros(len(pairs))), ended, passed)

    assert told((6, 5, 0), (0, 1, 12)) == (11, 1)
    assert told((6, 5, 1), (0, 1, 12)) == (11, 1)
    # Bent everywhere, and straight where few faces say so.
    assert told((4, 5, 6), (6, 5, 9)) == (15, 20)
    assert told((4, 0, 0), (0, 9, 9)) == (4, 18)


def test_derivatives_of_two_hidden_layers() -> None:
    weights, _ = made(6)
    model, rng = truth(weights), np.random.default_rng(0)
    at = boundary(weights, 60, rng)
    _, jacobian = model.linearised(at)
    step = np.asarray(1e-7 * rng.standard_normal(jacobian.shape[1]))
    gap = model.gaps(at)
    moved = (model.moved(step).gaps(at)[0] - gap[0]) / np.linalg.norm(gap[1], axis=1)
    assert np.allclose(moved, jacobian @ step, atol=1e-11)
    assert model.free == 7 + 5 + 6 + 1


def test_a_boundary_of_a_few_corners_is_read_where_the_widths_are_known() -> None:
    whole = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        second = np.array([[-0.2, 2.4], [2.0, -0.5]]) * rng.uniform(0.9, 1.1, (2, 2))
        layers = [
            (4 * rng.standard_normal((2, 6)), 0.3 * rng.standard_normal(2)),
            (second, -rng.uniform(1.0, 1.4, 2)),
            (-rng.uniform(4.0, 9.0, (1, 2)), np.array([9.0])),
        ]
        net = uv.Network.from_weights(layers)
        oracle = uv.as_oracle(
            lambda x, net=net: (net(x)[:, 0] >= 0).astype(int), shape=6, answers="labels", budget=60_000
        )
        found = uv.identify(oracle, rng=rng, widths=(2, 2))
        whole.append(found.outcome is uv.Outcome.complete)
        if not whole[-1]:
            continue
        assert found.network is not None
        apart = uv.compare(found.network, net, labels=found.labels)
        assert apart.missing == apart.false == 0
        assert apart.weight_error < 1e-6
    assert_rate(whole, 0.75)
