"""First layers of deeper networks from labels: what goes on straight, what is vague, and which directions matter."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_net
from tests.test_crossings import Truth
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.pool import Pool, two_labels
from unveil.identification.from_labels.search import VAGUE, HyperplaneSearch
from unveil.identification.from_labels.second_layer import _left
from unveil.identification.from_labels.straight import ENDED, PASSED, straight, told
from unveil.identification.from_labels.subspace import all_that_matter

SEEDS = range(4)


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_faces_that_go_on_where_others_end_on_all_sides_do_not_tell_that_a_hyperplane_is_bent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(200, dtype=int)
    faces = Faces(rng.standard_normal((200, 6)), unit(rng.standard_normal((200, 6))), labels, labels + 1, np.zeros(200))
    planes = Hyperplanes(unit(rng.standard_normal((7, 6))), 0.1 * rng.standard_normal(7), np.full(7, 1e-9))
    seen = np.zeros((7, 200), dtype=np.int8)
    seen[:6, :20] = ENDED
    along, s, _ = faces.ways_to(planes.normals[6], float(planes.offsets[6]))
    above = (faces.x + s[:, None] * along) @ planes.normals[0] + planes.offsets[0] > 0
    # Covered by deeper layers at half of the places, wherever these are.
    seen[6, :30], seen[6, 30:60] = ENDED, PASSED
    counts = told(seen, faces, planes)
    assert straight(*counts).all()
    assert counts[0, 6] == 30
    # Bent where it meets the first of the others: faces end on the one side of that only.
    seen[6] = np.where(above, ENDED, PASSED)
    ended, passed = told(seen, faces, planes)
    assert passed[6] == (~above).sum()
    # Nothing tells where no other hyperplane is known.
    ended, passed = told(seen[6:], faces, planes[6:])
    assert (ended[0], passed[0]) == (above.sum(), (~above).sum())


def test_normals_outside_the_span_of_what_is_active_with_each_neuron_turned() -> None:
    rng = np.random.default_rng(0)
    for k, d in ((6, 9), (12, 9)):
        rows, normal = unit(rng.standard_normal((k, d))), unit(rng.standard_normal((8, d)))
        rows[1] = -rows[0]
        active = rng.random((8, k)) > 0.5
        active[0], active[1] = True, False
        faces = Faces(normal, normal, np.zeros(8, dtype=int), np.ones(8, dtype=int), np.zeros(8))
        left, turned = _left(Hyperplanes(rows, np.zeros(k), np.zeros(k)), faces, active)

        def off(face: int, on: np.ndarray, rows: np.ndarray = rows, normal: np.ndarray = normal) -> float:
            span = rows[on].T
            return float(np.linalg.norm(normal[face] - span @ np.linalg.lstsq(span, normal[face], rcond=None)[0]))

        assert np.allclose(left, [off(i, active[i]) for i in range(8)], atol=1e-7)
        expected = [[off(i, active[i] ^ (np.arange(k) == j)) for j in range(k)] for i in range(8)]
        assert np.allclose(turned, expected, atol=1e-7)


def matter(sizes: tuple[int, ...], seed: int, within: tuple[float, float] | None = None) -> tuple[float, int] | None:
    """How far the first layer's rows lie outside the directions found, and how many these are; None where none are."""
    weights = random_weights(sizes, np.random.default_rng(seed), bias=0.3)
    net, n = relu_net(weights), sizes[0]
    weights[-1][1][:] -= np.median(net(np.random.default_rng(seed).standard_normal((400, n))), axis=0)
    oracle = uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=n, answers="labels", within=within)
    chart, rng = Chart(oracle, np.zeros(n), 1.0, None), np.random.default_rng(seed)
    pool = two_labels(chart, np.empty((0, n)), rng)
    assert pool is not None
    basis = all_that_matter(chart, pool, rng)
    if basis is None:
        return None
    rows = unit(weights[0][0])
    return float(np.linalg.norm(rows - rows @ basis.T @ basis, axis=1).max()), len(basis)


def test_the_directions_that_matter_are_those_of_the_first_layer() -> None:
    right = []
    for seed in SEEDS:
        found = matter((30, 8, 5, 3), seed)
        assert found is not None
        assert found[1] <= 8
        right.append(found[0] < 1e-5)
    # A neuron that counts at no boundary shows nowhere.
    assert_rate(right, 0.7)
    assert matter((30, 28, 3), 0) is None
    assert matter((30, 8, 5, 3), 0, within=(-1.0, 1.0)) is None


def test_a_vague_hyperplane_is_measured_by_what_dual_points_beside_it_agree_on() -> None:
    exact: list[bool] = []
    for seed in SEEDS:
        truth = Truth(seed, (6, 5, 1))
        pool = Pool(Side(truth.chart), truth.chart, 1.0, np.empty((0, 6)), truth.rng)
        pool.draw()
        search = HyperplaneSearch(pool, truth.precision, truth.rng)
        search.run(30)
        for i in range(len(search.planes)):
            beside = unit(search.planes.normals[i] + 1e-3 * unit(truth.rng.standard_normal(6)))
            search.planes = search.planes.measured(i, beside, search.through[i].z, 3e-3)
        search.sharpen(np.ones(len(search.planes), dtype=bool))
        off = 1 - np.abs(search.planes.normals @ truth.planes.normals.T).max(axis=1)
        good = search.planes.error <= VAGUE
        assert (off[good] < 1e-8).all()
        exact += good.tolist()
    assert_rate(exact, 0.7)


def test_boundary_points_of_all_classes_begin_in_each_as_often() -> None:
    oracle = uv.as_oracle(lambda x: (x[:, 0] > 1).astype(int) + (x[:, 0] > 2), shape=2, answers="labels")
    chart = Chart(oracle, np.zeros(2), 1.0, None)
    pool = Pool(Side(chart), chart, 1.0, np.empty((0, 2)), np.random.default_rng(0))
    pool.draw(2_000)
    found = pool.crossings_of_all(600, 1e-9)
    assert np.abs(np.bincount(found.before, minlength=3) - 200).max() < 60
    assert np.abs(found.x[:, 0, None] - [1, 2]).min(axis=1).max() < 1e-8
