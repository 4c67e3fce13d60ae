"""Crossings, faces and dual points of a boundary between two labels, against exact small networks."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, random_weights, relu_gradients, relu_net
from unveil.blackbox.defences import SinglePrecision
from unveil.blackbox.label_crossings import Side
from unveil.blackbox.line import unit_rows
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross, cross_near, sharpen
from unveil.identification.from_labels.dual_points import dual_points
from unveil.identification.from_labels.faces import Faces, Precision, faces_at, tangents, tolerance_at
from unveil.identification.from_labels.first_layer import first_layer, straight_ones
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.straight import REMEASURING_POINTS, BoundaryFaces, met_again
from unveil.identification.from_labels.walks import Walks, faces_behind, walk

SEEDS = range(5)


def side_of(label, d: int) -> tuple[Side, Chart]:
    chart = Chart(uv.as_oracle(label, shape=d, answers="labels"), np.zeros(d), 1.0, None)
    return Side(chart), chart


def strips(x: np.ndarray) -> np.ndarray:
    """Labels 0, 1, 2 with boundaries at x0 = 0.3 and x0 = 0.5."""
    return (x[:, 0] >= 0.3).astype(int) + (x[:, 0] >= 0.5)


class Truth:
    """A network with one hidden layer and the labels 0 and 1, its gap, gradients and hyperplanes."""

    def __init__(self, seed: int, sizes: tuple[int, ...] = (5, 4, 1)) -> None:
        self.rng = np.random.default_rng(seed + 100)
        self.weights: Weights = random_weights(sizes, np.random.default_rng(seed), bias=0.3)
        # Half of the inputs carry each label.
        self.weights[-1][1][:] -= np.median(relu_net(self.weights)(self.rng.standard_normal((400, sizes[0]))))
        self.net = relu_net(self.weights)
        self.side, self.chart = side_of(lambda x: (self.net(x)[:, 0] < 0).astype(int), sizes[0])
        w, b = self.weights[0]
        long = np.linalg.norm(w, axis=1)
        self.planes = Hyperplanes(w / long[:, None], b / long, np.full(len(b), 1e-14))
        self.precision = Precision.of(self.chart.digits)

    def gap(self, y: np.ndarray) -> np.ndarray:
        return self.net(y)[:, 0]

    def gradient(self, y: np.ndarray) -> np.ndarray:
        return relu_gradients(self.weights, y)[:, 0]

    def faces(self, count: int) -> Faces:
        pool = Pool(self.side, self.chart, 1.0, np.empty((0, self.chart.n)), self.rng)
        pool.draw()
        at = pool.crossings(count, self.precision.cell)
        return faces_at(self.side, at, self.precision, self.precision.step, self.rng)[0]

    def end(self, x: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far from x along each ray the next hyperplane is, and which."""
        ahead = self.planes.ahead(x, along)
        return ahead.min(axis=1), ahead.argmin(axis=1)

    def edge(self, neuron: int) -> Edge | None:
        """A bend of the boundary at a neuron's hyperplane, all other neurons at rest on one side."""
        normal, offset = self.planes.normals[neuron], self.planes.offsets[neuron]
        start, end = 2 * self.rng.standard_normal((2, 200, self.chart.n))
        for y in (start, end):
            y -= np.outer(y @ normal + offset, normal)
        met = np.flatnonzero(np.sign(self.gap(start)) != np.sign(self.gap(end)))
        if not len(met):
            return None
        low, high = start[met], end[met]
        for _ in range(60):
            middle = (low + high) / 2
            same = (np.sign(self.gap(middle)) == np.sign(self.gap(low)))[:, None]
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        others = np.delete(np.arange(len(self.planes)), neuron)
        for z in low:
            if np.abs(z @ self.planes.normals[others].T + self.planes.offsets[others]).min() < 0.05:
                continue
            here, there = self.gradient(np.stack([z - 1e-9 * normal, z + 1e-9 * normal]))
            if min(np.linalg.norm(here), np.linalg.norm(there)) < 1e-3:
                continue
            u, v = (-g / np.linalg.norm(g) for g in (here, there))
            return Edge.between(z, (u, v), (0, 1), 1e-13, 1e-13)
        return None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crossing_is_bisected_and_costs_its_logarithm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side, chart = side_of(strips, 3)
    start, end = rng.uniform(0, 0.29, (7, 3)), rng.uniform(0, 0.29, (7, 3))
    end[:, 0] = rng.uniform(0.51, 1.0, 7)
    end = start + (end - start) / np.linalg.norm(end - start, axis=1, keepdims=True)
    start, end = start[end[:, 0] > 0.5], end[end[:, 0] > 0.5]
    count, before = len(start), chart.ledger.asked
    zero, two = np.zeros(count, dtype=int), np.full(count, 2)
    found = cross(side, start, end, zero, two, 1.5 * 2.0**-20)
    # Segments of length 1: 2 ** -20 is the first width below 1.5 * 2 ** -20.
    assert chart.ledger.asked - before == 20 * count
    np.testing.assert_allclose(found.x[:, 0], 0.3, atol=2.0**-20)
    np.testing.assert_array_equal(found.after, 1)
    np.testing.assert_allclose(found.width, 2.0**-20)
    finer = sharpen(side, found, 1.5 * 2.0**-30)
    assert chart.ledger.asked - before == 30 * count
    np.testing.assert_allclose(finer.x[:, 0], 0.3, atol=2.0**-30)
    # The boundary is met wherever it is on the segment: close to the end, too.
    short = found.x - 0.95 * found.along
    near = cross(side, short, short + found.along, zero, np.ones(count, dtype=int), 1e-9)
    np.testing.assert_allclose(near.x[short[:, 0] < 0.3, 0], 0.3, atol=1e-8)
    # Nothing is finer than float64: this ends.
    np.testing.assert_allclose(sharpen(side, found, 0.0).x[:, 0], 0.3, atol=1e-14)


def test_a_crossing_near_a_place_is_met_by_growing_brackets_and_only_between_its_labels() -> None:
    side, chart = side_of(strips, 2)
    along = np.tile([1.0, 0.0], (5, 1))
    at = np.array([[0.3, 0.0], [0.25, 0.0], [0.5, 0.0], [-5.0, 0.0], [0.4, 0.0]])
    zero, one = np.zeros(5, dtype=int), np.ones(5, dtype=int)
    half = np.array([0.01, 0.01, 0.01, 0.01, 0.15])
    before = chart.ledger.asked
    found, rows = cross_near(side, at, along, zero, one, half, np.inf, grow=1)
    np.testing.assert_array_equal(rows, [0, 1])
    # Two for each bracket; four of them grow once, the last of which ends at a third label.
    assert chart.ledger.asked - before == 2 * 5 + 2 * 4
    np.testing.assert_allclose(found.width, [0.02, 0.16])
    found, rows = cross_near(side, at, -along, one, zero, half, 1e-9, grow=1)
    np.testing.assert_array_equal(rows, [0, 1])
    np.testing.assert_allclose(found.x[:, 0], 0.3, atol=1e-9)
    assert not len(cross_near(side, at, along, one, zero, half, 1e-9)[1])


def test_normals_of_a_float32_model_come_from_moves_as_long_as_faces_allow() -> None:
    ratios, errors = [], []
    for seed in SEEDS:
        truth = Truth(seed)
        single = SinglePrecision(truth.chart.oracle)
        truth.chart = Chart(single, np.zeros(truth.chart.n), 1.0, None)
        truth.side, truth.precision = Side(truth.chart), Precision.of(truth.chart.digits)
        faces = truth.faces(12)
        normal = -truth.gradient(faces.x)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        normal *= np.sign(np.sum(normal * faces.normal, axis=1, keepdims=True))
        off = np.linalg.norm(faces.normal - normal, axis=1) / np.sqrt(truth.chart.n)
        ratios.append(off / faces.error)
        errors.append(off)
    # Far below what short moves tell, and known as well as is said.
    assert np.median(np.concatenate(errors)) < truth.precision.normal / 10
    assert np.quantile(np.concatenate(ratios), 0.8) < 3


@pytest.mark.parametrize("seed", SEEDS)
def test_faces_end_at_hyperplanes_and_dual_points_lie_there(seed: int) -> None:
    truth = Truth(seed)
    faces = truth.faces(8)
    gradient = -truth.gradient(faces.x) * np.where(faces.before == 0, 1, -1)[:, None]
    np.testing.assert_allclose(
        faces.normal, gradient / np.linalg.norm(gradient, axis=1, keepdims=True), atol=20 * truth.precision.normal
    )
    which = np.repeat(np.arange(len(faces)), 4)
    along = tangents(faces.normal[which], truth.rng)
    walks = walk(truth.side, truth.chart, faces, which, along, truth.precision).ended()
    assert len(walks) > len(faces)
    exact, neuron = truth.end(faces.x[walks.face], walks.along)
    assert np.mean(walks.low <= exact * (1 + 1e-9)) > 0.9
    # How much later a weak bend shows than it is there is bounded by the tolerance of the face.
    steepest = np.prod([np.linalg.norm(w, 2) for w, _ in truth.weights])
    reached = faces.x[walks.face] + walks.low[:, None] * walks.along
    slack = tolerance_at(truth.precision, faces[walks.face], walks.low)
    assert (np.abs(truth.gap(reached)) < steepest * slack).all()
    assert np.mean(walks.high >= exact) == 1
    before = truth.chart.ledger.asked
    met = dual_points(truth.side, faces, walks, truth.precision)
    assert truth.chart.ledger.asked - before < 90 * len(walks)
    assert len(met.z) > 0.6 * len(walks)
    # Each is the end of the walk on its face that leads there.
    away = unit_rows(met.z - faces.x[met.face])
    walked = np.where(met.face[:, None] == walks.face, away @ walks.along.T, -1.0).argmax(axis=1)
    assert len(set(walked.tolist())) == len(met)
    plane = truth.planes[neuron[walked]]
    off = np.abs(np.sum(met.z * plane.normals, axis=1) + plane.offsets)
    assert np.mean(off <= met.error) > 0.9
    vague = tolerance_at(truth.precision, faces[met.face], exact[walked])
    # Not where two hyperplanes lie close to each other: the line behind is bent, too.
    assert np.mean(np.abs(truth.gap(met.z)) < steepest * (vague + met.error)) > 0.9
    np.testing.assert_allclose(truth.gap(met.behind.x), 0, atol=1e-9)
    gone = np.sum((met.behind.x - met.z) * walks.along[walked], axis=1)
    assert np.mean((gone > 0) & (gone < 1.5 * met.gap)) > 0.5
    # Known hyperplanes are jumped at, and named.
    told = walk(truth.side, truth.chart, faces, which, along, truth.precision, truth.planes).ended()
    assert len(told) >= len(walks)
    np.testing.assert_array_equal(told.plane, truth.end(faces.x[told.face], told.along)[1])
    behind, rows = faces_behind(truth.side, faces, told, truth.planes, truth.precision)
    assert len(rows) > 0.6 * len(told)
    gradient = -truth.gradient(behind.x) * np.where(behind.before == 0, 1, -1)[:, None]
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    # Where a neuron bends the boundary little, too, the error said is the error made.
    assert (np.linalg.norm(gradient - behind.normal, axis=1) < 2 * behind.error).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hyperplane_is_met_again_at_a_few_points_far_apart(seed: int) -> None:
    truth, on = Truth(seed), [True]
    faces = truth.faces(40)
    for which in range(len(truth.planes)):
        before = truth.chart.ledger.asked
        boundary = BoundaryFaces(truth.side, truth.chart, faces, truth.precision)
        found = met_again(boundary, truth.planes[np.array([which])], truth.rng)
        assert truth.chart.ledger.asked - before <= 4 * len(faces) + REMEASURING_POINTS * 120
        assert len(found) <= REMEASURING_POINTS
        off = np.abs(found.z @ truth.planes.normals[which] + truth.planes.offsets[which])
        on += (off <= found.error + 1e-9).tolist()
        assert len(set(found.face.tolist())) == len(found)
    # Now and then another neuron ends a face just beside.
    assert np.mean(on) > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_boundary_that_turns_back_has_a_dual_point_too(seed: int) -> None:
    """`y2 + 2 relu(y1 - y2)` is zero on y2 = 0 where y1 < 0, and on y2 = 2 y1 below it: a turn of more than a right
    angle, at the origin."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]

    def gap(x: np.ndarray) -> np.ndarray:
        y = (x - 0.1) @ turn.T
        return y[:, 1] + 2 * np.maximum(y[:, 0] - y[:, 1], 0)

    side, _ = side_of(lambda x: (gap(x) > 0).astype(int), 3)
    precision = Precision.of(1e-15)
    x = np.array([[-0.5, 0.0, 0.2]]) @ turn + 0.1
    face = Faces(x, turn[1:2], np.array([0]), np.array([1]), np.full(1, 1e-9))
    walks = Walks(np.array([0]), turn[:1], np.array([0.4995]), np.array([0.5005]), np.array([-1]))
    met = dual_points(side, face, walks, precision)
    assert len(met.z) == 1
    np.testing.assert_allclose((met.z - 0.1) @ turn.T, [[0, 0, 0.2]], atol=1e-6)
    np.testing.assert_allclose(met.z, np.array([[0, 0, 0.2]]) @ turn + 0.1, atol=float(met.error[0]))
    behind = (met.behind.x - 0.1) @ turn.T
    np.testing.assert_allclose(behind[:, 1], 2 * behind[:, 0], atol=1e-9)
    assert behind[0, 0] < 0


def test_crossings_are_joined_and_taken_by_rows() -> None:
    one = Crossings(np.eye(2), np.array([0, 1]), np.array([1, 0]), np.eye(2), np.array([0.1, 0.2]))
    both = Crossings.joined([one, Crossings.none(2), one[np.array([1])]])
    assert len(both) == 3
    np.testing.assert_array_equal(both.before, [0, 1, 1])
    np.testing.assert_array_equal(both.width, [0.1, 0.2, 0.2])


def test_hyperplanes_of_a_first_layer_are_told_from_others_and_met_again() -> None:
    met = 0
    for seed in range(2):
        truth = Truth(seed, (4, 3, 1))
        pool = Pool(truth.side, truth.chart, 1.0, np.empty((0, 4)), truth.rng)
        pool.draw()
        search = HyperplaneSearch(pool, truth.precision, truth.rng)
        search.keep(truth.faces(24))
        normal = truth.rng.standard_normal(4)
        bogus = truth.planes.added(normal / np.linalg.norm(normal), 0.1 * normal, 1e-9)
        search.begin_with(bogus)
        kept = straight_ones(search, truth.rng)
        likeness = np.abs(kept.normals @ truth.planes.normals.T)
        # No face ends at a hyperplane that is none, and no true one is listed twice.
        assert (likeness.max(axis=1) > 1 - 1e-12).all()
        assert len(set(likeness.argmax(axis=1))) == len(kept)
        before = truth.chart.ledger.asked
        first = first_layer(search, truth.rng)
        assert len(first) >= len(kept)
        assert truth.chart.ledger.asked > before
        assert (np.abs(first.normals @ truth.planes.normals.T).max(axis=1) > 1 - 1e-12).all()
        met += len(first)
    assert met >= 4
