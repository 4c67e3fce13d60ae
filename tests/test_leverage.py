"""telling_most: the points whose answers tell most of a network's weights, by their leverage in a fit."""

from __future__ import annotations

import numpy as np

from tests.helpers import assert_rate, random_weights
from unveil.identification.fitting.least_squares import jacobian
from unveil.identification.fitting.leverage import _Felt, telling_most
from unveil.whitebox.network import Network


def test_leverage_of_an_affine_map_is_the_hat_matrix_diagonal() -> None:
    rng = np.random.default_rng(0)
    network = Network.from_weights([(rng.standard_normal((1, 6)), np.zeros(1))])
    x, shares = rng.standard_normal((200, 6)), rng.uniform(0.5, 2, (200, 1))
    felt = _Felt(network, 0, None)
    rows = np.column_stack([x, np.ones(200)])
    hat = np.einsum("ij,ji->i", rows, np.linalg.solve(rows.T @ rows, rows.T))
    np.testing.assert_allclose(felt.leverage(x, felt.typical(x)), 200 * hat, rtol=1e-4)
    # What an error counts for multiplies what comes back.
    counted = _Felt(network, 0, lambda x: shares[: len(x)])
    np.testing.assert_allclose(
        counted.leverage(x, counted.typical(x)), 200 * hat * shares[:, 0] ** 2 / (shares**2).mean(), rtol=1e-4
    )


def _variance(network: Network, x: np.ndarray, fresh: np.ndarray) -> float:
    """What the variance of nine in ten fresh answers stays below, fitted to answers at x of variance one."""
    J, K = (jacobian(network, points)[:, 0] for points in (x, fresh))
    scale = np.maximum(np.linalg.norm(J, axis=0), 1e-9)
    J, K = J / scale, K / scale
    return float(np.quantile(np.einsum("ij,ji->i", K, np.linalg.solve(J.T @ J + 1e-9 * np.eye(J.shape[1]), K.T)), 0.9))


def test_a_fit_to_these_points_is_right_to_fewer_roundings_elsewhere() -> None:
    def seed(number: int) -> bool:
        rng = np.random.default_rng([17, number])
        network = Network.from_weights(random_weights([8, 6, 6, 1], rng, 0.5))
        count = 300

        def draw(many: int) -> np.ndarray:
            return rng.standard_normal((many, 8))

        fresh = draw(500)
        chosen = telling_most(network, draw, count, rng)
        assert chosen.shape == (count, 8)
        return _variance(network, chosen, fresh) < 0.8 * _variance(network, draw(count), fresh)

    assert_rate([seed(number) for number in range(20)], 0.8)


def test_no_points_are_wanted() -> None:
    rng = np.random.default_rng(1)
    network = Network.from_weights(random_weights([4, 3, 2], rng))
    assert telling_most(network, lambda many: rng.standard_normal((many, 4)), 0, rng).shape == (0, 4)
