"""Pieces of a line: which answers they own, what they would not show, and which breakpoints stay."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.blackbox.line_search.fit import limit, straight
from unveil.blackbox.line_search.pieces import NEAR, _apart, consolidated, cut, hidden, line_of
from unveil.blackbox.line_search.search import Answers

SIGMA = 1e-6


def answers_to(f, t: np.ndarray) -> Answers:
    kept = Answers(
        np.zeros((1, 1)), np.ones((1, 1)), lambda x: f(x[:, 0])[:, None], lambda x, _: np.full((len(x), 1), SIGMA)
    )
    kept.add(np.zeros(len(t), dtype=int), t)
    return kept


def bent(t: np.ndarray) -> np.ndarray:
    """Slopes 1, -1, 0.5 with breakpoints at 0.3 and 0.7."""
    return t - 2 * np.maximum(t - 0.3, 0) + 1.5 * np.maximum(t - 0.7, 0)


T = np.linspace(0, 1, 41)


def test_answers_near_a_breakpoint_belong_to_neither_piece() -> None:
    t = np.linspace(0, 1, 101)
    first, second, third = cut(t, np.array([0.305, 0.705]), np.array([0.01, 1e-9]))
    assert t[first].max() < 0.305 - NEAR * 0.01 < t[first].max() + 0.02
    assert t[second].min() > 0.305 + NEAR * 0.01
    np.testing.assert_allclose((t[second].max(), t[third].min()), (0.70, 0.71))
    # However vague, a breakpoint takes no more than a quarter of the way to its neighbours.
    parts = cut(t, np.array([0.405, 0.605]), np.array([9.0, 9.0]))
    assert [len(part) for part in parts] == [36, 10, 35]


def test_breakpoints_are_where_whole_pieces_meet() -> None:
    found, stretches = consolidated(answers_to(bent, T), 0, [(0.301, 0.01), (0.699, 0.01)], True)
    assert not stretches
    np.testing.assert_allclose([t for t, _ in found], [0.3, 0.7], atol=5 * SIGMA)
    assert all(sigma < 10 * SIGMA for _, sigma in found)


def test_a_breakpoint_that_no_piece_shows_is_dropped() -> None:
    found, stretches = consolidated(answers_to(bent, T), 0, [(0.3, 1e-5), (0.51, 1e-5), (0.7, 1e-5)], True)
    assert not stretches
    np.testing.assert_allclose([t for t, _ in found], [0.3, 0.7], atol=1e-5)


def test_a_piece_with_a_breakpoint_inside_is_given_back() -> None:
    for reopen in (True, False):
        found, stretches = consolidated(answers_to(bent, T), 0, [(0.3, 1e-5)], reopen)
        assert [len(found), len(stretches)] == ([0, 1] if reopen else [1, 1])
        kept = answers_to(bent, T)
        where = kept.t[stretches[0].rows]
        assert where.min() < 0.7 < where.max()


def test_of_the_same_breakpoint_found_twice_the_sharper_is_kept() -> None:
    assert _apart([(0.3, 1e-3), (0.3005, 1e-5), (0.7, 1e-3)]) == [(0.3, 1e-3), (0.3005, 1e-5), (0.7, 1e-3)]
    assert _apart([(0.3, 1e-3), (0.30003, 1e-5), (0.7, 1e-3)]) == [(0.30003, 1e-5), (0.7, 1e-3)]
    # Of exact answers what differs by the last bits is the same.
    assert _apart([(1.0, 0.0), (1.0 + 2.0**-52, 0.0), (1.0 + 1e-9, 0.0)]) == [(1.0, 0.0), (1.0 + 1e-9, 0.0)]


@pytest.mark.parametrize("count", [5, 40])
def test_a_jump_of_the_hidden_size_shows_and_one_much_smaller_does_not(count: int) -> None:
    t, sigma = np.linspace(0, 1, count), np.full((count, 1), SIGMA)
    jump = float(hidden(t, sigma)[0])
    for size, seen in ((1.01, True), (0.2, False)):
        worst = [
            straight(t[None], size * jump * np.maximum(t - at, 0)[None, :, None], sigma[None])[1].max()
            for at in np.linspace(0.1, 0.9, 17)
        ]
        assert (np.array(worst) > 2 * limit(1)).all() == seen
    assert np.isinf(hidden(t[:2], sigma[:2])).all()


def test_the_line_tells_slopes_jumps_and_values() -> None:
    line = line_of(answers_to(bent, T), 0, [(0.3, 1e-9), (0.7, 1e-9)], [(0.8, 0.9)], 0.0, 1.0)
    np.testing.assert_allclose(line.slope[:, 0], [1, -1, 0.5], atol=1e-4)
    np.testing.assert_allclose(line.jump[:, 0], [-2, 1.5], atol=1e-4)
    np.testing.assert_allclose(line.value[:, 0], [0.3, -0.1], atol=1e-5)
    assert np.isfinite(line.hidden[:2]).all()
    assert np.isinf(line.hidden[2]).all()


def test_three_answers_are_straight_where_no_breakpoint_lies_between_them() -> None:
    kept = answers_to(bent, T)
    rows = np.array([[2, 4, 6], [11, 12, 13], [14, 17, 20], [27, 28, 29], [30, 35, 40]])
    assert kept.are_straight(rows).tolist() == [True, False, True, False, True]


def test_the_middle_of_a_line_says_the_same_of_fewer_breakpoints() -> None:
    line = line_of(answers_to(bent, T), 0, [(0.3, 1e-9), (0.7, 1e-9)], [(0.8, 0.9)], 0.0, 1.0)
    assert line.middle(2) is line
    part = line.middle(1)
    np.testing.assert_allclose([part.low, *part.t, part.high], [0.15, 0.3, 0.5], atol=1e-5)
    np.testing.assert_array_equal(part.at(np.array([0.2, 0.4])), line.at(np.array([0.2, 0.4])))
    assert (len(part.jump), len(part.slope), len(part.hidden), len(part.unresolved)) == (1, 2, 2, 0)
