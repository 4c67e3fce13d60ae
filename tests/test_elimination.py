"""Elimination: rows that together span what is new, triangular at their pivots."""

from __future__ import annotations

import numpy as np

from unveil.blackbox.span_search.known import BLOCK, eliminate


def test_rows_found_span_exactly_what_known_rows_leave() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n, r, new = 160, 7, (5, BLOCK + 20)[seed % 2]  # one block, and more than one
        known = np.linalg.qr(rng.standard_normal((n, r)))[0].T
        rows = rng.standard_normal((new + 60, new)) @ rng.standard_normal((new, n))
        found = eliminate(rows.copy(), known, 1e-7)
        assert len(found.rows) == new
        np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(new), atol=1e-9)
        np.testing.assert_allclose(found.basis @ known.T, 0, atol=1e-9)
        whole = np.vstack([known, found.basis])
        np.testing.assert_allclose(rows - rows @ whole.T @ whole, 0, atol=1e-7)
        np.testing.assert_allclose(found.rows @ whole.T @ whole, found.rows, atol=1e-6)
        # Unit upper triangular at the pivots: zero at those of the rows before.
        np.testing.assert_allclose(found.rows[:, found.pivots], found.triangle, atol=1e-8)
        np.testing.assert_allclose(np.diag(found.triangle), 1)


def test_what_is_not_longer_than_certain_is_no_direction() -> None:
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.standard_normal((20, 4)))[0].T * np.array([3.0, 2.0, 0.9, 0.5])[:, None]
    found = eliminate(rows.copy(), np.zeros((0, 20)), 1.0)
    assert len(found.rows) == 2
    np.testing.assert_allclose(found.sizes[0], 3)


def test_rows_that_others_explain_up_to_certain_are_no_direction() -> None:
    first, second = np.eye(20)[:2]
    found = eliminate(np.array([3 * first, 2 * first + 0.7 * second]), np.zeros((0, 20)), 1.0)
    assert len(found.rows) == 1
    assert len(eliminate(np.array([3 * first, 2 * first + 1.1 * second]), np.zeros((0, 20)), 1.0).rows) == 2


def test_the_longest_of_many_rows_is_found_first() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((3 * BLOCK, 250)) * rng.permutation(np.geomspace(1, 100, 3 * BLOCK))[:, None]
        longest = np.linalg.norm(rows, axis=1).max()
        np.testing.assert_allclose(eliminate(rows.copy(), np.zeros((0, 250)), 1e-6).sizes[0], longest)
