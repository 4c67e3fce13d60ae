"""What flat pieces of a boundary tell of the affine maps behind a first layer, and of neurons that no bend told."""

from __future__ import annotations

import numpy as np

from tests.helpers import assert_rate
from tests.test_labels_deep_rooms import Case, linked
from unveil.identification.from_labels.local_maps import SHARED, LocalMaps, PairMaps, agreeing


def _maps(case: Case, seed: int, whole: np.ndarray) -> tuple[LocalMaps, tuple[int, int]]:
    """Maps at faces of the true boundary, and the two classes between which most of them are."""
    maps = LocalMaps(case.first, *linked(case, seed), whole)
    pairs, count = np.unique(maps.pairs, axis=0, return_counts=True)
    return maps, (int(pairs[count.argmax(), 0]), int(pairs[count.argmax(), 1]))


def _rows(case: Case) -> np.ndarray:
    w, c = case.weights[1]
    return np.column_stack([w, c]) / np.linalg.norm(w, axis=1)[:, None]


def test_the_maps_at_faces_are_the_true_ones_up_to_their_lengths() -> None:
    case = Case.of(42, count=300)
    maps, _ = _maps(case, 42, _rows(case))
    (w, c), (v, d) = case.weights[1:]
    told = np.flatnonzero(np.isfinite(maps.loose))
    assert len(told) > 100
    for face in told:
        low, high = maps.pairs[face]
        acts = w @ maps.x[face, :-1] + c > 0
        weight = (v[high] - v[low]) * acts
        true = np.append(weight @ w, weight @ c + d[high] - d[low])[np.append(maps.on[face], True)]
        mine = maps.map[face][np.append(maps.on[face], True)]
        np.testing.assert_allclose(mine * np.linalg.norm(true), true * np.linalg.norm(mine), atol=1e-7)


def test_weights_to_the_difference_of_two_logits_are_told_up_to_one_scale() -> None:
    case = Case.of(43, count=300)
    rows = _rows(case)
    maps, pair = _maps(case, 43, rows.copy())
    found = PairMaps(maps, pair)
    v = case.weights[2][0]
    true = (v[pair[1]] - v[pair[0]]) * np.linalg.norm(case.weights[1][0], axis=1)
    told = found.weight != 0
    assert told.sum() >= 3
    ratio = found.weight[told] / true[told]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert ratio[0] > 0
    assert found.share > 0.9


def test_a_neuron_that_no_bend_told_comes_out_of_the_maps() -> None:
    def holds(seed: int) -> bool:
        case = Case.of(seed, count=300)
        rows = _rows(case)
        maps, pair = _maps(case, seed, rows[1:].copy())
        PairMaps(maps, pair)
        more = maps.whole[len(rows) - 1 :]
        known = ~np.isnan(more)
        # No other neuron than the one that is missing.
        return len(more) == 1 and bool(
            np.abs(
                more[known] * np.linalg.norm(rows[0][known[0]]) - rows[0][known[0]] * np.linalg.norm(more[known])
            ).max()
            < 1e-6
        )

    assert_rate([holds(seed) for seed in range(60, 64)], 0.7)


def test_neurons_told_by_one_pair_of_classes_are_known_to_the_next() -> None:
    for seed in (42, 43):
        case = Case.of(seed, count=300)
        rows = _rows(case)
        maps, pair = _maps(case, seed, rows[1:].copy())
        PairMaps(maps, pair)
        maps.whole = np.concatenate([maps.whole, rows[:1]]) if len(maps.whole) < len(rows) else maps.whole
        for one in np.unique(maps.pairs, axis=0):
            model = PairMaps(maps, (int(one[0]), int(one[1]))).model()
            assert model.outer.shape == (2, len(maps.whole))


def test_weights_that_no_bend_told_come_out_of_the_maps() -> None:
    def holds(seed: int) -> bool:
        case = Case.of(seed, count=300)
        rows = _rows(case)
        less = rows.copy()
        less[0, 1] = np.nan
        maps, pair = _maps(case, seed, less)
        PairMaps(maps, pair)
        assert np.isnan(maps.whole[0, 1]) or abs(maps.whole[0, 1] - rows[0, 1]) < 1e-6
        return not np.isnan(maps.whole).any()

    assert_rate([holds(seed) for seed in range(42, 46)], 0.6)


def test_where_no_face_is_free_of_weights_not_told_the_affine_part_comes_out_all_the_same() -> None:
    for seed in (42, 44):
        case = Case.of(seed, count=200)
        rows = _rows(case)
        less = rows.copy()
        for j in range(3):
            less[j, [j, j + 3]] = np.nan
        maps, pair = _maps(case, seed, less)
        found = PairMaps(maps, pair)
        assert not maps.preactivation(found.at)[1].all(axis=1).any()
        assert found.share > 0.8
        told = ~np.isnan(maps.whole)
        assert len(told) == len(rows)
        np.testing.assert_allclose(maps.whole[told], rows[told], atol=1e-7)


def test_what_two_faces_tell_fits_itself_and_is_not_read() -> None:
    rng = np.random.default_rng(0)
    vector, fuzz = rng.standard_normal(6), np.full((8, 6), 1e-6)
    left = np.tile(vector, (8, 1))
    left[:6] = rng.standard_normal((6, 6))
    first = np.ones(8, dtype=bool)
    assert agreeing(left, fuzz, first) is None
    left[5] = vector
    found = agreeing(left, fuzz, first)
    assert found is not None
    assert found[1].tolist() == [5, 6, 7]
    np.testing.assert_allclose(found[0], vector)
    # Of three rows two tell the last number.
    left[5, 5] = np.nan
    found = agreeing(left, fuzz, first)
    assert found is not None
    np.testing.assert_array_equal(np.isnan(found[0]), np.arange(6) == 5)
    # Rows that share fewer numbers may agree by chance.
    left[5:, SHARED - 1 :] = np.nan
    assert agreeing(left, fuzz, first) is None


def test_between_classes_with_two_faces_nothing_is_told() -> None:
    case = Case.of(42, count=300)
    maps, pair = _maps(case, 42, _rows(case))
    faces, links = linked(case, 42)
    bends = links[(maps.pairs[links[:, 0]] == pair).all(axis=1) & maps.sign.any(axis=1)]
    assert len(bends) > 3
    two = bends[:1]
    alone = LocalMaps(case.first, faces[two[0]], np.array([[0, 1]]), _rows(case))
    assert alone.sign.any()
    assert PairMaps(alone, pair).share == 0
