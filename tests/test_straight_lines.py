"""Weighted lines through answers, and which answers a canary takes for those of another model."""

from __future__ import annotations

import numpy as np

from unveil.blackbox.line_search.fit import straight, straight_pieces
from unveil.blackbox.source_oracle import CHANGED, Canary


def test_lines_are_the_weighted_least_squares_of_numpy() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(-3, 5, (2, 11)), axis=1)
        y, sigma = rng.standard_normal((2, 11, 3)), rng.uniform(0.5, 2, (2, 11, 3))
        lines, residual = straight(t, y, sigma)
        for row in range(2):
            worst = np.zeros(11)
            for out in range(3):
                w = 1 / sigma[row, :, out]
                fit, cov = np.polyfit(t[row], y[row, :, out], 1, w=w, cov="unscaled")
                place = np.array([0.3, 0.3])
                assert np.isclose(lines.slope[row, out], fit[0])
                assert np.isclose(lines.at(place)[row, out], np.polyval(fit, 0.3))
                assert np.isclose(lines.variance(place)[row, out], np.array([0.3, 1]) @ cov @ np.array([0.3, 1]))
                worst += (w * (y[row, :, out] - np.polyval(fit, t[row]))) ** 2 / 3
            np.testing.assert_allclose(residual[row], np.sqrt(worst))
            parts = [np.arange(4), np.arange(0), np.arange(4, 11)]
            pieces, most = straight_pieces(t[row], y[row], sigma[row], parts)
            assert np.isinf(most[1])
            for i in (0, 2):
                one, off = straight(
                    t[row : row + 1, parts[i]], y[row : row + 1, parts[i]], sigma[row : row + 1, parts[i]]
                )
                np.testing.assert_allclose(pieces.slope[i], one.slope[0])
                np.testing.assert_allclose(most[i], off.max())


def test_a_canary_tells_models_apart_by_their_answers() -> None:
    answers = np.array([[1.0, np.nan], [2.0, 3.0]])
    canary = Canary(np.zeros((2, 1)), answers, 1e-3)
    assert canary.same(answers + 0.9 * CHANGED * 1e-3)
    assert not canary.same(answers + np.array([[0, 0], [0, 1.1 * CHANGED * 1e-3]]))
    assert not canary.same(np.where(np.isnan(answers), 0.0, answers))  # answered where none was
    assert not canary.same(answers[:1])
    labels = np.array([[0], [1], [2], [1]])
    assert not Canary(np.zeros((4, 1)), labels, 0.0).same(labels + np.array([[0], [0], [0], [1]]))
    noisy = Canary(np.zeros((4, 1)), labels, 0.0, noisy=True)
    assert noisy.same(labels + np.array([[0], [0], [1], [1]]))
    assert not noisy.same(labels + np.array([[0], [1], [1], [1]]))
