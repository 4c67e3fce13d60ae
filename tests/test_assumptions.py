"""The theorems' assumptions, against orthant probabilities known in closed form and networks built to break them."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.outcome import BadInput
from unveil.whitebox.assumptions import algorithm_1_queries, assumptions, orthant_probability, threshold_assumptions
from unveil.whitebox.network import Network


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.4, 0.9])
def test_orthants_of_two_correlated_normals(rho: float) -> None:
    lower = np.linalg.cholesky(np.array([[1.0, rho], [rho, 1.0]]))
    got, error = orthant_probability(lower, 20_000, np.random.default_rng(0))
    # Sheppard, 1899.
    assert got == pytest.approx(4 * (0.25 + np.arcsin(rho) / (2 * np.pi)), abs=5 * error + 1e-12)
    mirrored, _ = orthant_probability(np.array([[1.0], [-1.0]]) * lower, 20_000, np.random.default_rng(1))
    assert mirrored == pytest.approx(4 * (0.25 - np.arcsin(rho) / (2 * np.pi)), abs=5 * error + 1e-12)


def test_equicorrelated_normals_in_many_dimensions() -> None:
    # With correlation 1/2 all of k are positive with probability 1 / (k + 1): one of k + 1 alike is the least.
    k = 12
    lower = np.linalg.cholesky(0.5 * (np.eye(k) + 1))
    got, error = orthant_probability(lower, 40_000, np.random.default_rng(0))
    assert got / 2**k == pytest.approx(1 / (k + 1), abs=6 * error / 2**k)


def dense(seed: int, sizes: tuple[int, ...], activation: str = "relu") -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]  # noqa: RUF007
    return Network.from_weights([(w, np.zeros(len(w))) for w in weights], activation)


def test_orthogonal_rows_reach_every_orthant_alike() -> None:
    net = dense(0, (40, 8, 6, 1))
    rows = np.linalg.qr(net.layers[0].weights.T)[0].T
    net = Network.from_weights([(rows, np.zeros(8)), *((layer.weights, layer.bias) for layer in net.layers[1:])])
    found = assumptions(net, rng=np.random.default_rng(0), orthants=16, samples=2000)
    assert found.gamma == pytest.approx(1.0, abs=1e-6)
    assert found.zero_products == 0


def test_lemma_3_1_for_random_rows() -> None:
    # The lemma states 1/2; its proof gives 1/4, which is what is tested.
    found = assumptions(dense(1, (3000, 12, 16, 1)), rng=np.random.default_rng(0), orthants=64, samples=2000)
    assert found.gamma >= 0.25


def test_a_vanishing_product_is_seen() -> None:
    net = dense(2, (20, 5, 4, 1))
    middle = net.layers[1].weights.copy()
    middle[:, 2] = 0
    net = Network.from_weights([(w, np.zeros(len(w))) for w in (net.layers[0].weights, middle, net.layers[2].weights)])
    found = assumptions(net, rng=np.random.default_rng(0), orthants=4, samples=640)
    assert found.zero_products == found.products // 5
    assert not found.hold


def test_setting_2_of_a_linear_threshold() -> None:
    # sigma(x) = 2 a.x with |a| = 1: Pr[2 g >= 1] = 0.3085; with V = 0 only, as k = 1.
    net = Network.from_weights([(np.eye(1, 9), np.zeros(1)), (2 * np.eye(1), np.zeros(1))], "identity")
    found = threshold_assumptions(net, rng=np.random.default_rng(0), samples=20_000)
    assert found.gamma == pytest.approx(0.3085, abs=0.02)
    assert found.eta > 1
    assert found.vanishing == 0


def test_queries_of_theorem_3_4() -> None:
    assert algorithm_1_queries(784, 80, 0.5) == pytest.approx(80 * 784 * np.log(1600) / 0.5)
    with pytest.raises(BadInput, match="gamma"):
        algorithm_1_queries(784, 80, 0.0)
