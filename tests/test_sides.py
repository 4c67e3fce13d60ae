"""Sides of the last hidden layer's neurons, from the smooth half of the answers."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.identification.fitting.balance import by_balance


@pytest.mark.parametrize(("k", "d", "m"), [(30, 8, 6), (12, 12, 1), (40, 20, 2), (16, 5, 3), (14, 6, 1)])
def test_signs_follow_from_as_many_equations_as_neurons_and_from_fewer_by_a_lattice(
    k: int, d: int, m: int, rng: np.random.Generator
) -> None:
    rows, weight, sign = rng.standard_normal((k, d)), rng.standard_normal((k, m)), rng.choice([-1.0, 1.0], k)
    twice = (sign[:, None] * weight).T @ rows
    found = by_balance(rows, weight, twice, 1e-9)
    assert found is not None
    np.testing.assert_array_equal(found, sign)
    assert by_balance(rows, weight, twice + 1e-3 * rng.standard_normal((m, d)), 1e-9) is None


def test_signs_of_rows_that_are_almost_dependent_follow_where_squares_lose_them(rng: np.random.Generator) -> None:
    rows, weight = rng.standard_normal((6, 5)), rng.standard_normal((6, 3))
    rows[1], weight[1] = rows[0] + 1e-8 * rng.standard_normal(5), weight[0]
    sign = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    found = by_balance(rows, weight, (sign[:, None] * weight).T @ rows, 1e-12)
    assert found is not None
    np.testing.assert_array_equal(found, sign)
