"""Null spaces and factored layers, against integer matrices whose rank is known."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.outcome import BadInput
from unveil.whitebox.null_space import factor, null_space
from unveil.whitebox.within import box


def test_the_null_space_has_the_dimension_the_rank_leaves() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        p, n, rank = 9, 7, 1 + seed % 6
        rows = (rng.integers(-4, 5, (p, rank)) @ rng.integers(-4, 5, (rank, n))).astype(float)
        basis = null_space(rows)
        assert basis.shape == (n, n - np.linalg.matrix_rank(rows))
        np.testing.assert_allclose(rows @ basis, 0, atol=1e-11)
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    np.testing.assert_array_equal(null_space(np.zeros((0, 4))), np.eye(4))
    assert null_space(np.zeros((3, 4))).shape == (4, 4)


@pytest.mark.parametrize(("m", "n"), [(12, 8), (30, 8), (8, 8)])
def test_a_layer_of_full_rank_is_solved_in_its_own_units(m: int, n: int) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((m, n)) * 10.0 ** rng.integers(-80, 80, (m, 1))
        found = factor(weights)
        assert found.rank == n
        assert (np.frexp(found.row)[0] == 0.5).all()  # powers of two
        assert (np.frexp(found.column)[0] == 0.5).all()
        np.testing.assert_array_equal(found.scaled, weights * found.row[:, None] * found.column)
        u = rng.standard_normal((3, n))
        np.testing.assert_allclose(found.solve((u @ weights.T) * found.row), u, rtol=1e-8, atol=1e-8)
        if found.left is not None:
            assert found.left.shape == (m, m - n)
            np.testing.assert_allclose(found.left.T @ found.scaled, 0, atol=1e-12)


def test_a_layer_of_lower_rank_comes_with_a_direction_it_does_not_see() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((10, 4)) @ rng.standard_normal((4, 7))
        found = factor(weights)
        assert found.rank == 4
        assert found.null is not None
        assert np.linalg.norm(found.null) == pytest.approx(1)
        np.testing.assert_allclose(weights @ found.null, 0, atol=1e-12)


def test_a_box_holds_its_point() -> None:
    low, high = box((0.0, np.array([1.0, 2.0])), np.array([0.0, 2.0]), "the input")
    np.testing.assert_array_equal([low, high], [[0, 0], [1, 2]])
    with pytest.raises(BadInput, match=r"lies outside the box in 1 of 2 coordinates \(coordinate 1 is 3"):
        box((0.0, 2.0), np.array([1.0, 3.0]), "the input")
    with pytest.raises(BadInput, match="lowest <= highest"):
        box((1.0, 0.0), np.array([0.5]), "the input")
