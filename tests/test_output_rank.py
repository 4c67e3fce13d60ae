"""The rank of noisy answers, and what is said of directions that were not met."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate
from unveil.blackbox.output_rank import Answers, alone, in_pairs, rank_of, unseen


def answers(count: int, rank: int, outputs: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    h = rng.standard_normal((count, rank)) @ rng.standard_normal((rank, outputs))
    return h + noise * rng.standard_normal((count, outputs)) + 3.0


def factored(y: np.ndarray, batch: int = 7) -> Answers:
    kept = Answers(y.shape[1])
    for start in range(0, len(y), batch):
        kept.add(y[start : start + batch])
    return kept


def test_a_factor_is_the_decomposition_of_all_answers_however_they_came(rng: np.random.Generator) -> None:
    y = answers(40, 6, 60, 1e-3, rng)
    for batch in (1, 7, 40):
        factor = factored(y, batch).factor()
        np.testing.assert_allclose((factor.left * factor.values) @ factor.right, y - y.mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(factor.origin, y.mean(axis=0))
        np.testing.assert_allclose(factor.right @ factor.right.T, np.eye(len(factor.values)), atol=1e-9)


def test_answers_that_fill_the_space_of_outputs_are_factored_as_well(rng: np.random.Generator) -> None:
    for count, outputs in ((60, 50), (33, 8), (9, 1)):
        for _ in range(15):
            y = answers(count, 1, outputs, 1.0, rng)
            factor = factored(y).factor()
            assert len(factor.values) == outputs
            np.testing.assert_allclose(factor.values, np.linalg.svd(y - y.mean(0), compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize("noise", [1e-12, 1e-6, 1e-3])
def test_the_rank_is_where_noise_begins(noise: float, rng: np.random.Generator) -> None:
    for rank in (1, 4, 9):
        y = answers(rank + 12, rank, 50, noise, rng)
        found = rank_of(factored(y).factor(), noise, 50)
        assert found.rank == rank
        assert found.flat
        assert found.resolved(1.4 * noise)
        assert found.noise == pytest.approx(noise, rel=0.3)
        # Noise far above the rounding that is told is none that rounding explains.
        assert not found.resolved(0.9 * noise)


def test_answers_that_are_all_noise_have_no_rank(rng: np.random.Generator) -> None:
    y = 1e-3 * rng.standard_normal((20, 50))
    assert rank_of(factored(y).factor(), 1e-3, 50).rank == 0


def test_an_answer_that_alone_shows_a_direction_is_counted(rng: np.random.Generator) -> None:
    y = answers(30, 4, 50, 1e-6, rng)
    lonely = y.copy()
    lonely[11] += rng.standard_normal(50)
    lonely[17] += rng.standard_normal(50)
    for table, expected in ((y, 0), (lonely, 2)):
        factor = factored(table).factor()
        assert alone(factor, rank_of(factor, 1e-6, 50)) == expected


def test_unseen_is_the_share_that_goes_unmet_with_the_stated_chance(rng: np.random.Generator) -> None:
    # If a share `u` shows new directions, `spare` answers in a row miss it with chance (1 - u)^spare = 1 - confidence.
    for spare, confidence in ((10, 0.9), (300, 0.95)):
        share = unseen(spare, 0, 1000, confidence)
        assert (1 - share) ** spare == pytest.approx(1 - confidence)
    # With `s` answers that stand alone among `N`, so few come from a Poisson mean of `share N` with 1 - confidence.
    from scipy.stats import poisson

    share = unseen(500, 3, 1000, 0.95)
    assert poisson.cdf(3, 1000 * share) == pytest.approx(0.05)
    assert unseen(0, 0, 1000, 0.95) == 1.0
    assert unseen(1, 30, 5, 0.95) == 1.0


def test_two_answers_that_alone_show_a_direction_are_a_pair(rng: np.random.Generator) -> None:
    for noise in (1e-12, 1e-3):
        y = answers(30, 4, 50, noise, rng)
        rare = y.copy()
        direction = rng.standard_normal(50)
        rare[3] += direction
        rare[22] -= 0.4 * direction
        thrice = rare.copy()
        thrice[15] += 2 * direction
        for table, expected in ((y, 0), (rare, 1), (thrice, 0)):
            factor = factored(table).factor()
            found = rank_of(factor, noise, 50)
            assert found.rank == 4 + (expected > 0) + (table is thrice)
            assert (in_pairs(factor, found), alone(factor, found)) == (expected, 0)


def test_answers_in_vain_are_seen_wherever_they_stand(rng: np.random.Generator) -> None:
    """Half of the directions are shown by some answers only; those in vain come before all of these, or after."""
    basis = np.linalg.qr(rng.standard_normal((50, 10)))[0].T
    usual = rng.standard_normal((30, 5)) @ basis[:5]
    others = rng.standard_normal((6, 10)) @ basis
    for order, expected in (((usual, others), 24), ((others, usual), 0), ((usual[:6], others, usual[6:]), 0)):
        y = np.concatenate(order) + 1e-12 * rng.standard_normal((36, 50))
        assert factored(y).in_vain(basis, 1e-9) == expected
    dense = rng.standard_normal((40, 10)) @ basis
    assert factored(dense).in_vain(basis, 1e-9) == 0


def test_directions_stand_out_if_with_one_fewer_what_remains_is_no_noise(rng: np.random.Generator) -> None:
    for strength, stands in ((3.0, True), (0.3, False)):
        y = answers(60, 3, 50, 1.0, rng)
        edge = np.sqrt(60) + np.sqrt(50)
        y += strength * edge * np.outer(rng.standard_normal(60) / np.sqrt(60), rng.standard_normal(50) / np.sqrt(50))
        found = rank_of(factored(y).factor(), 1.0, 50)
        assert found.stands
        assert found.rank == 3 + stands


def test_a_spectrum_that_falls_into_the_rounding_is_not_complete() -> None:
    honest, whole = [], []
    for seed in range(30):
        rng = np.random.default_rng([seed, 9])
        hidden = rng.standard_normal((8, 20)) / 3, rng.standard_normal(8)
        last = np.linalg.qr(rng.standard_normal((100, 8)))[0].T
        for ratio in (rng.uniform(10, 60), rng.uniform(1, 2)):
            columns = (ratio ** -np.arange(8.0))[:, None] * last

            def model(x, hidden=hidden, columns=columns):
                return (np.tanh(x @ hidden[0].T + hidden[1]) @ columns).astype(np.float32)

            span = uv.output_span(uv.as_oracle(model, 20), rng=rng)
            if ratio > 2:
                honest.append(span.outcome is not uv.Outcome.complete or span.rank == 8)
                assert span.queries < 60
            else:
                whole.append(span.outcome is uv.Outcome.complete and span.rank == 8)
    assert_rate(honest, 0.98)
    assert_rate(whole, 0.95)
