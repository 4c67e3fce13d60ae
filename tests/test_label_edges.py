"""Edges of a boundary between two labels: which of them are one neuron's, against exact small networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.test_crossings import Truth
from unveil.identification.from_labels.candidates import confirmed, edge_behind, explained
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.dual_points import dual_points
from unveil.identification.from_labels.faces import Faces, tangents
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes, shared_by
from unveil.identification.from_labels.output import pair_output
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.straight import fitted
from unveil.identification.from_labels.walks import Walks, closer, walk


def edges_of(truth: Truth, first: int) -> dict[int, Edge]:
    """An edge of each neuron that has one, each on two faces of its own."""
    found = {i: truth.edge(i) for i in range(len(truth.planes))}
    return {
        i: replace(edge, face=first + 2 * i, other=first + 2 * i + 1) for i, edge in found.items() if edge is not None
    }


def test_two_edges_of_one_neuron_share_its_normal_and_those_of_two_share_none() -> None:
    told = 0
    for seed in range(6):
        truth = Truth(seed)
        some, more = edges_of(truth, 0), edges_of(truth, 100)
        for i, edge in some.items():
            others = [other for j, other in more.items() if j != i]
            assert shared_by(edge, [edge, *others]) is None
            # What is called another edge may be the same one: then both have their faces' normals in common.
            if i not in more or more[i].shares(edge.z[None], np.array([1e-6]))[0]:
                continue
            seen = shared_by(edge, [*others, more[i]])
            if seen is None:
                continue
            told += 1
            assert abs(seen.normal @ truth.planes.normals[i]) > 1 - 1e-9
    assert told >= 3


def test_behind_a_dual_point_the_boundary_tells_which_edge_is_its_neurons() -> None:
    right = 0
    for seed in range(6):
        truth = Truth(seed)
        faces = truth.faces(4)
        edges = edges_of(truth, len(faces))
        which, known = list(edges), list(edges.values())
        face = np.repeat(np.arange(len(faces)), 2)
        ends = walk(truth.side, truth.chart, faces, face, tangents(faces.normal[face], truth.rng), truth.precision)
        met = dual_points(
            truth.side, faces, closer(truth.side, faces, ends.ended(), truth.precision, 1e-4), truth.precision
        )
        for i in range(len(met.z)):
            one = met[np.array([i])]
            own = int(np.abs(truth.planes.normals @ one.z[0] + truth.planes.offsets).argmin())
            seen = edge_behind(truth.side, faces[one.face], known, one, truth.precision, truth.rng) if known else None
            if seen is not None:
                assert which[seen[0]] == own
                assert abs(seen[1].normal @ truth.planes.normals[own]) > 1 - 1e-6
                right += 1
            # Without its own edge there is none.
            others = [edge for j, edge in edges.items() if j != own]
            assert (
                not others or edge_behind(truth.side, faces[one.face], others, one, truth.precision, truth.rng) is None
            )
    assert right >= 8


def test_faces_end_at_a_hyperplane_that_is_one_and_go_on_across_others() -> None:
    told = 0
    for seed in range(4):
        truth = Truth(seed)
        faces = truth.faces(16)
        for i, edge in edges_of(truth, len(faces)).items():
            normal = truth.planes.normals[i]
            right = float(np.arctan2(normal @ edge.across, normal @ edge.normal) % np.pi)
            for turn in (0.1, 0.5, 1.1, 2.0):
                wrong = ((right + turn) % np.pi, 1e-9)
                assert confirmed(truth.side, truth.chart, faces, edge, wrong, truth.precision) is None
            seen = confirmed(truth.side, truth.chart, faces, edge, (right, 1e-9), truth.precision)
            if seen is not None:
                assert abs(seen.normal @ normal) > 1 - 1e-12
                told += 1
    assert told >= 4


def test_a_walk_that_ended_at_what_was_found_meanwhile_is_explained() -> None:
    truth = Truth(1)
    faces = truth.faces(4)
    face = np.repeat(np.arange(len(faces)), 3)
    ends = walk(truth.side, truth.chart, faces, face, tangents(faces.normal[face], truth.rng), truth.precision).ended()
    assert len(ends) >= 6
    for i in range(len(ends)):
        one = ends[np.array([i])]
        assert not explained(one, faces, Hyperplanes.none(5), [])
        assert explained(one, faces, truth.planes, [])
        short = Walks(one.face, one.along, one.low / 3, one.low / 2, one.plane)
        own = truth.planes[np.array([int(truth.planes.ahead(faces.x[one.face], one.along)[0].argmin())])]
        assert not explained(short, faces, own, [])


def test_vague_normals_do_not_blur_the_last_layer() -> None:
    for seed in range(3):
        truth = Truth(seed)
        sharp = truth.faces(30)
        at = Crossings(sharp.x, sharp.before, sharp.after, sharp.normal, np.full(len(sharp), truth.precision.cell))
        moved = sharp.normal + 1e-4 * truth.rng.standard_normal(sharp.normal.shape)
        vague = Faces(
            sharp.x,
            moved / np.linalg.norm(moved, axis=1, keepdims=True),
            sharp.before,
            sharp.after,
            np.full(len(sharp), 1e-4),
        )
        few = sharp[slice(0, 4)]
        alone = pair_output(truth.planes, at, few, (0, 1))
        both = pair_output(truth.planes, at, Faces.joined([few, vague]), (0, 1))
        assert alone is not None
        assert both is not None
        assert both.gap > 0.1 * min(alone.gap, 1e6)


def test_of_two_measurements_of_a_hyperplane_walks_pass_the_wrong_one() -> None:
    true = Truth(1).planes
    off = true.measured(1, np.append(true.normals[1, :1] + 3e-4, true.normals[1, 1:]), np.zeros(5), 1e-9)[np.array([1])]
    off = replace(off, offsets=true.offsets[1:2])
    both = Hyperplanes.joined([replace(true, error=np.full(len(true), 1e-5)), off])
    last = len(true)
    np.testing.assert_array_equal(both.different(np.zeros(last + 1, dtype=bool)), np.delete(np.arange(last + 1), 1))
    np.testing.assert_array_equal(both.different(np.arange(last + 1) == last), np.arange(last))
    # One that is doubted is kept where it is the only one.
    np.testing.assert_array_equal(both.different(np.arange(last + 1) == 0), np.delete(np.arange(last + 1), 1))


def test_the_error_stated_of_a_hyperplane_through_points_bounds_its_own() -> None:
    rng = np.random.default_rng(3)
    apart = []
    for i in range(200):
        d = 5
        count, normal = d + 2 + i % 30, np.eye(d)[0]
        error = 10 ** rng.uniform(-9, -7, count)
        z = rng.standard_normal((count, d))
        # Stated a hundred times too large: what is left over says how large they are.
        z[:, 0] = 0.3 + error / 100 * rng.standard_normal(count)
        told = fitted(z, error)
        sign = np.sign(told.normals[0] @ normal)
        off = max(np.linalg.norm(told.normals[0] - sign * normal), abs(told.offsets[0] + sign * 0.3))
        apart.append(off / told.error[0])
    assert np.mean(np.array(apart) < 1) > 0.95
    assert 0.1 < np.median(apart) < 0.5


def test_a_vague_hyperplane_is_measured_again_by_its_own_points_and_by_no_others() -> None:
    own = 0
    for seed in range(6):
        truth = Truth(seed)
        pool = Pool(truth.side, truth.chart, 1.0, np.empty((0, 5)), truth.rng)
        pool.draw()
        search = HyperplaneSearch(pool, truth.precision, truth.rng)
        search.faces = truth.faces(24)
        for i, edge in edges_of(truth, len(search.faces)).items():
            normal = truth.planes.normals[i]
            angle = float(np.arctan2(normal @ edge.across, normal @ edge.normal))
            vague = edge.at(angle + 1e-3)
            search.begin_with(Hyperplanes.none(5).added(vague, edge.z, 1e-3))
            search.through = [edge]
            # Points of other neurons on what the vague one may be.
            z = edge.z + 2 * truth.rng.standard_normal((20, 5))
            beside = z - np.outer((z - edge.z) @ vague + 3e-3 * truth.rng.uniform(-1, 1, 20), vague)
            for each in beside:
                search._unknown(each[None], np.array([1e-12]))
            # Not worse than it was: an angle of 1e-3.
            assert abs(search.planes.normals[0] @ normal) > 1 - 0.51e-6
            search._unknown(z - np.outer((z - edge.z) @ normal, normal), np.full(20, 1e-12))
            own += bool(abs(search.planes.normals[0] @ normal) > 1 - 1e-14)
    assert own >= 8
