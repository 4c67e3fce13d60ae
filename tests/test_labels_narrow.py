"""Two hidden layers of a few neurons from the corners of a boundary, and hyperplanes from faces parallel to them."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import Weights, relu_net
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.candidates import parallel
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.faces import Faces, Precision, faces_at
from unveil.identification.from_labels.foretold import crossings_beside
from unveil.identification.from_labels.hyperplanes import Edge
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.narrow_reading import (
    _in_all_inputs,
    corners_of,
    in_a_plane,
    narrow_network,
    two_layers,
)
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.whitebox.activation import activation

# Two neurons each, with four corners on the boundary and a face parallel to each of their hyperplanes.
NARROW: Weights = [
    (np.array([[0.05, -0.13, 0.48, -0.94], [-0.26, 0.44, 0.98, 0.43]]), np.array([-0.04, 0.03])),
    (np.array([[-0.17, 2.38], [1.96, -0.55]]), np.array([-1.26, -1.24])),
    (np.array([[0.0, 0.0], [-4.58, -9.58]]), np.array([0.0, 9.22])),
]


def searched(weights: Weights, faces: int) -> HyperplaneSearch:
    net = relu_net(weights)
    n = weights[0][0].shape[1]
    chart = Chart(uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=n, answers="labels"), np.zeros(n), 1.0, None)
    side, rng = Side(chart), np.random.default_rng(0)
    pool = Pool(side, chart, 1.5, np.empty((0, n)), rng)
    pool.draw(400)
    search = HyperplaneSearch(pool, Precision.of(chart.digits), rng)
    found = pool.crossings(faces, search.precision.cell)
    search.faces = faces_at(side, found, search.precision, search.precision.step, rng)[0]
    return search


def test_normals_behind_two_neurons_lie_in_a_plane_and_behind_three_they_do_not() -> None:
    assert in_a_plane(searched(NARROW, 40).faces)
    rng = np.random.default_rng(0)
    for rank, d in ((1, 6), (2, 6), (3, 6), (2, 2)):
        normals = rng.standard_normal((20, rank)) @ rng.standard_normal((rank, d))
        normals /= np.linalg.norm(normals, axis=1)[:, None]
        faces = Faces(normals, normals, np.zeros(20, int), np.ones(20, int), np.full(20, 1e-8))
        assert in_a_plane(faces) == (rank == 2)


def test_corners_lie_on_hyperplanes_of_either_layer() -> None:
    search = searched(NARROW, 60)
    corners = corners_of(search.side, search.faces, search.precision)
    assert corners is not None
    assert len(corners.points) == 4
    (a, b), (w, c), _ = NARROW
    first = corners.points @ a.T + b
    second = np.maximum(first, 0) @ w.T + c
    assert np.abs(np.column_stack([first, second])).min(axis=1).max() < 1e-6


def test_of_networks_with_these_corners_the_true_one_is_found() -> None:
    search = searched(NARROW, 60)
    corners = corners_of(search.side, search.faces, search.precision)
    assert corners is not None
    faces = search.faces
    at = Crossings(faces.x, faces.before, faces.after, faces.normal, np.full(len(faces), search.precision.cell))
    models = two_layers(corners, at, 2)
    assert len(models) == 1
    fresh = searched(NARROW, 80).faces
    at = Crossings(fresh.x, fresh.before, fresh.after, fresh.normal, np.full(len(fresh), search.precision.cell))
    for model in models:
        assert np.abs(model.distances(at)).max() < 1e-4
    assert two_layers(corners, at, 5) == []


def test_a_narrow_network_comes_out_of_its_corners_and_of_other_widths_none_does() -> None:
    search = searched(NARROW, 60)
    assert narrow_network(search, None, 1e-8, (3, 2)) is None
    assert narrow_network(search, None, 1e-8, (2,)) is None
    found = narrow_network(search, None, 1e-8, (2, 2))
    assert found is not None
    deep, _ = found
    unit = NARROW[0][0] / np.linalg.norm(NARROW[0][0], axis=1)[:, None]
    rows = deep.model.inner / np.linalg.norm(deep.model.inner, axis=1)[:, None]
    assert np.abs(np.abs(unit @ rows.T).max(axis=1) - 1).max() < 1e-12
    assert deep.missed == 0


def test_no_network_in_all_inputs_where_no_boundary_is_found_there() -> None:
    """Fewer faces than neurons: nothing is solved for."""
    (a, b), (w, c), (v, d) = NARROW
    basis = np.linalg.qr(a.T)[0].T
    one = uv.as_oracle(lambda x: np.zeros(len(x), dtype=int), shape=4, answers="labels")
    inside, whole = Chart(one, np.zeros(4), 1.0, basis), Chart(one, np.zeros(4), 1.0, None)
    rng = np.random.default_rng(0)
    pool, everywhere = (Pool(Side(each), each, 3.0, np.empty((0, each.n)), rng) for each in (inside, whole))
    behind = LabelModel(w, c, v, np.zeros((2, 2)), d, np.arange(2), activation("relu"))
    assert _in_all_inputs(DeepLabelModel(a @ basis.T, b, behind, np.arange(2)), pool, everywhere) is None


def edge_and_face(rng: np.random.Generator, error: float, d: int = 12) -> tuple[Edge, Faces, np.ndarray]:
    """An edge between two faces, and a face parallel to its hyperplane, every normal with an error per coordinate."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x)

    u = unit(rng.standard_normal(d))
    n = unit(rng.standard_normal(d))
    v = unit(u + rng.uniform(0.3, 2) * rng.choice([-1.0, 1.0]) * n)
    z = rng.standard_normal(d)
    noisy = [unit(each + error * rng.standard_normal(d)) for each in (u, v, n)]
    edge = Edge.between(z, (noisy[0], noisy[1]), (0, 1), error, error)
    assert edge is not None
    labels = np.zeros(1, dtype=int)
    return edge, Faces(rng.standard_normal((1, d)), noisy[2][None], labels, labels + 1, np.full(1, error)), n


def test_the_error_of_a_hyperplane_from_a_parallel_face_is_that_stated() -> None:
    """Over random edges: as large as stated in the mean of squares, and hardly ever three times that."""
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(400):
        edge, faces, n = edge_and_face(rng, 1e-8)
        told = parallel(edge, faces)
        if told is None:
            continue  # too near to one of the edge's own faces
        normal, error = told
        off = np.minimum(np.linalg.norm(normal - n), np.linalg.norm(normal + n))
        ratios.append(off / np.sqrt(len(n)) / error)
    assert len(ratios) > 300
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 1.2
    assert np.mean(np.array(ratios) > 3) < 0.01


def test_no_face_parallel_to_a_hyperplane_of_the_edge_or_two_that_differ_tell_nothing() -> None:
    rng = np.random.default_rng(6)
    edge, faces, _ = edge_and_face(rng, 1e-8)
    other, more, _ = edge_and_face(rng, 1e-8)
    assert parallel(edge, more) is None
    one, two = (edge.at(angle)[None] for angle in (0.4 * edge.angle, 0.7 * edge.angle))
    both = Faces(
        rng.standard_normal((2, 12)), np.concatenate([one, two]), np.zeros(2, int), np.ones(2, int), np.full(2, 1e-8)
    )
    assert parallel(edge, both[:1]) is not None
    assert parallel(edge, both) is None
    assert parallel(other, faces) is None


def test_points_beside_a_piece_that_was_met_lie_on_it() -> None:
    """A triangle cut out of a half space, too small for random points: from one point on its tip others come."""
    tip = LabelModel(
        np.array([[1.0, 1.0], [-1.0, 1.0]]),
        np.array([0.01, 0.01]),
        np.array([[0.0, 0.0], [1.0, 1.0]]),
        np.zeros((2, 2)),
        np.array([0.0, -0.02]),
        np.arange(2),
        activation("relu"),
    )
    search = searched(NARROW, 1)
    chart = Chart(search.chart.oracle, np.zeros(4), 1.0, np.eye(2, 4))
    met = Crossings(np.zeros((1, 2)), np.zeros(1, int), np.ones(1, int), np.array([[0.0, 1.0]]), np.zeros(1))
    assert abs(tip.gaps(met)[0][0]) < 1e-12
    found = crossings_beside(tip, chart, met, 200, np.random.default_rng(0))
    assert np.abs(tip.distances(found)).max() < 1e-12
    near = np.abs(found.x[:, 0]) < 0.01
    assert near.sum() > 20
    assert np.ptp(found.x[near, 0]) > 5e-3
