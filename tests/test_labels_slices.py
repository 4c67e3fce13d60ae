"""First layers along a few directions: bends of the boundary, their noise, and the hyperplanes that they agree on."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_net
from unveil.blackbox.defences import SinglePrecision
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.label_reading import LabelReading, Wanted
from unveil.identification.from_labels.pool import Pool, two_labels
from unveil.identification.from_labels.slices import (
    DIRECTIONS,
    Sightings,
    SliceSearch,
    bends_at_none,
    hyperplanes_of,
    noise_of,
    precision_of,
    sightings,
)
from unveil.identification.from_labels.subspace import random_slice


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bends(normals: np.ndarray, offsets: np.ndarray, each: int, blur: float, rng: np.random.Generator) -> Sightings:
    """Bends on hyperplanes, `each` on every one, both normals off by `blur` a coordinate and points by as much."""
    a = np.repeat(normals, each, axis=0)
    z = 2 * rng.standard_normal(a.shape)
    z -= (np.sum(z * a, axis=1) + np.repeat(offsets, each))[:, None] * a
    near = unit(rng.standard_normal(a.shape))
    far = unit(near + rng.uniform(0.3, 0.6, len(a))[:, None] * a)
    near, far = (unit(u + blur * rng.standard_normal(u.shape)) for u in (near, far))
    cosine = np.sum(near * far, axis=1)
    across = far - cosine[:, None] * near
    long = np.linalg.norm(across, axis=1)
    z += blur * rng.standard_normal(z.shape)
    told = near, across / long[:, None], np.arctan2(long, cosine), np.full(len(a), blur), blur / long
    return Sightings(z, *told)


def test_bends_on_one_hyperplane_find_each_other_and_those_of_no_other_do() -> None:
    rng, d = np.random.default_rng(0), 8
    normals, offsets = unit(rng.standard_normal((12, d))), 0.3 * rng.standard_normal(12)
    alone = unit(rng.standard_normal((150, d))), 0.3 * rng.standard_normal(150)
    seen = Sightings.joined([bends(normals, offsets, 9, 1e-4, rng), bends(*alone, 1, 1e-4, rng)])
    planes, support = hyperplanes_of(seen)
    assert len(planes) == 12
    which = np.abs(planes.normals @ normals.T).argmax(axis=1)
    assert sorted(which) == list(range(12))
    sign = np.sign(np.sum(planes.normals * normals[which], axis=1))
    off = np.linalg.norm(planes.normals - sign[:, None] * normals[which], axis=1)
    assert (off < 5 * planes.error).all()
    for i, rows in zip(which, support, strict=True):
        assert set(rows) <= set(range(9 * i, 9 * i + 9))


def test_bends_of_a_hyperplane_that_holds_only_close_by_are_none_of_a_first_layer() -> None:
    rng, d = np.random.default_rng(1), 8
    normals = unit(rng.standard_normal((1, d)))
    seen = bends(normals, np.zeros(1), 12, 1e-4, rng)
    z = seen.z[0] + 0.05 * (seen.z - seen.z[0])
    near = Sightings(z, seen.normal, seen.across, seen.angle, seen.error, seen.rough)
    assert len(hyperplanes_of(seen)[0]) == 1
    assert not len(hyperplanes_of(near)[0])


def test_a_hyperplane_met_between_others_only_is_not_seen_to_bend_at_none() -> None:
    rng, d = np.random.default_rng(2), 8
    normals, offsets = unit(rng.standard_normal((8, d))), 0.3 * rng.standard_normal(8)
    seen = bends(normals, offsets, 12, 1e-4, rng)
    planes, support = hyperplanes_of(seen)
    every = np.ones(8, dtype=bool)
    assert bends_at_none(seen, support, planes, every).all()
    # The bends on the first one all in one region of the others.
    side = seen.z[support[0]] @ planes.normals[1:].T + planes.offsets[1:] > 0
    support[0] = support[0][(side == side[0]).all(axis=1)]
    assert bends_at_none(seen, support, planes, every).tolist() == [False] + 7 * [True]


def test_the_noise_of_a_boundary_is_what_the_answers_put_there() -> None:
    w = unit(np.random.default_rng(2).standard_normal(6))

    def label(x: np.ndarray) -> np.ndarray:
        # As random as a rounding: told by the last digits of the input.
        noise = np.sin(1e9 * (x @ np.arange(1.0, 7.0)))
        return (x @ w + 1e-5 * np.sqrt(2) * noise > 0.1).astype(int)

    for size, expected in ((0.0, None), (1.0, 1e-5)):
        oracle = uv.as_oracle(label if size else lambda x: (x @ w > 0.1).astype(int), shape=6, answers="labels")
        chart = Chart(oracle, np.zeros(6), 1.0, None)
        chart.digits = 1e-7
        pool = two_labels(chart, np.empty((0, 6)), np.random.default_rng(3))
        assert pool is not None
        noise = noise_of(pool, np.random.default_rng(4))
        if expected is None:
            assert noise == 1e-7
        else:
            assert 0.3 * expected < noise < 3 * expected


def test_bends_lie_on_hyperplanes_and_span_their_normals() -> None:
    weights = random_weights((6, 9, 3), np.random.default_rng(5), bias=0.3)
    net, (a, b) = relu_net(weights), weights[0]
    oracle = uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=6, answers="labels")
    chart = Chart(oracle, np.zeros(6), 1.0, None)
    pool = Pool(Side(chart), chart, 1.5, np.empty((0, 6)), np.random.default_rng(6))
    parts = list(sightings(pool.side, chart, pool, precision_of(1e-9), np.random.default_rng(7)))
    seen, faces = Sightings.joined([each[0] for each in parts]), Faces.joined([each[1] for each in parts])
    long = np.linalg.norm(a, axis=1)
    off = np.abs(seen.z @ a.T + b) / long
    which = off.argmin(axis=1)
    assert len(faces) > len(seen) > 20
    near = off.min(axis=1) < 10 * seen.error
    assert near.mean() > 0.9
    normal = a[which] / long[which, None]
    inside = np.sum(normal * seen.normal, axis=1) ** 2 + np.sum(normal * seen.across, axis=1) ** 2
    assert (np.sqrt(np.maximum(1 - inside, 0)) < 10 * seen.rough)[near].mean() > 0.9


def test_a_slice_shows_first_layer_neurons_and_no_deeper_ones_and_keeps_to_its_budget() -> None:
    weights = random_weights((40, 6, 6, 3), np.random.default_rng(8), bias=0.3)
    net, (a, b) = relu_net(weights), weights[0]
    many = []
    for seed in range(10, 16):
        oracle = uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=40, answers="labels", budget=400_000)
        whole = Chart(oracle, np.zeros(40), 1.0, None)
        pool = two_labels(whole, np.empty((0, 40)), np.random.default_rng(seed - 1))
        assert pool is not None
        basis, stretch = random_slice(DIRECTIONS, pool, np.random.default_rng(seed))
        chart = Chart(oracle, whole.origin, stretch, basis)
        along = two_labels(chart, np.empty((0, DIRECTIONS)), np.random.default_rng(seed))
        assert along is not None
        search = SliceSearch(along, np.random.default_rng(seed))
        while not search.done:
            search.run()
        planes = search.first_layer()
        assert oracle.ledger.asked <= 400_000
        inside = a @ basis.T * chart.size
        told = np.column_stack([inside, b]) / np.linalg.norm(inside, axis=1)[:, None]
        read = np.column_stack([planes.normals, planes.offsets])
        off = np.minimum(*(np.linalg.norm(told[:, None] - s * read, axis=2) for s in (1, -1)))
        assert (off.min(axis=0) < 1e-3).all()
        assert len(set(off.argmin(axis=0))) == len(read)
        many.append(len(read) >= 3)
    assert_rate(many, 0.8)


def test_a_network_is_read_whole_from_a_few_directions_where_answers_are_coarse() -> None:
    """Eight of twenty inputs are read first, and all numbers fitted from there."""
    good = []
    for seed in range(4):
        weights = random_weights((20, 5, 3), np.random.default_rng(seed), bias=0.3)
        single = [(w.astype(np.float32), b.astype(np.float32)) for w, b in weights]

        def label(x: np.ndarray, single: list[tuple[np.ndarray, np.ndarray]] = single) -> np.ndarray:
            (a, b), (c, d) = single
            return np.asarray((np.maximum(x.astype(np.float32) @ a.T + b, 0) @ c.T + d).argmax(axis=1))

        oracle = SinglePrecision(uv.as_oracle(label, shape=20, answers="labels"))
        reading = LabelReading(Wanted(), oracle, np.random.default_rng(seed + 100))
        pool = two_labels(Chart(reading.seen, np.zeros(20), 1.0, None), np.empty((0, 20)), np.random.default_rng(1))
        assert pool is not None
        reading.sliced = True
        inside = reading._along(pool, *random_slice(DIRECTIONS, pool, np.random.default_rng(2)))
        assert inside is not None
        outcome, error = reading._rounds(inside)
        assert isinstance(reading.search, SliceSearch)
        found = reading._end(outcome, error)
        # A budget of its own stage, and nothing booked twice.
        assert sum(found.stats["stages"].values()) == found.queries
        whole = found.outcome is uv.Outcome.complete and found.network is not None and found.labels is not None
        if whole:
            apart = uv.compare(found.network, uv.Network.from_weights(weights), labels=found.labels)
            assert apart.missing == apart.false == 0
            assert apart.weight_error < 1e-4
        good.append(whole)
    assert sum(good) >= 3
