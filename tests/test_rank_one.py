"""Rank-one matrices in a space: known ones are found, certificates are exact, up to n^2 / 3 of them."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.identification.smooth.rank_one import (
    certificate,
    independent,
    matrix_space,
    pack,
    rank_one_elements,
    subspace_power,
    unpack,
)


def squares(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random unit vectors and an orthonormal basis of the span of their squares."""
    truth = np.random.default_rng(seed).standard_normal((k, n))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    mixing = np.random.default_rng(seed + 1).standard_normal((2 * k, k))
    return truth, matrix_space(np.einsum("sk,ki,kj->sij", mixing, truth, truth), k)[0]


def test_packing_keeps_the_inner_product() -> None:
    a = np.random.default_rng(0).standard_normal((2, 5, 5))
    a = a + a.transpose(0, 2, 1)
    assert pack(a)[0] @ pack(a)[1] == pytest.approx(np.trace(a[0] @ a[1]))
    np.testing.assert_allclose(unpack(pack(a)), a, atol=1e-15)


@pytest.mark.parametrize(("n", "k"), [(6, 3), (8, 8), (10, 20), (10, 33)])
def test_subspace_power_finds_all(n: int, k: int) -> None:
    truth, space = squares(n, k, 3)
    vectors = independent(rank_one_elements(space, rng=np.random.default_rng(4)), space, k)
    distance = np.sqrt(np.maximum(0, 2 - 2 * np.abs(truth @ vectors.T).max(axis=1)))
    assert len(vectors) == k
    assert distance.max() <= 1e-7
    assert certificate(space, vectors).min() > 1 - 1e-12


def test_the_power_method_ends_where_the_robust_nonlinear_programme_does() -> None:
    """Fornasier, Klock, Rauchensteiner, arXiv:1907.00485: the largest spectral norm, by projected gradient ascent."""
    truth, space = squares(6, 5, 5)
    c = np.random.default_rng(6).standard_normal((40, 5))
    for _ in range(300):
        c /= np.linalg.norm(c, axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(np.einsum("sk,kij->sij", c, space))
        top = np.abs(values).argmax(axis=1)
        u = vectors[np.arange(40), :, top]
        c += 2 * np.sign(values[np.arange(40), top])[:, None] * np.einsum("si,kij,sj->sk", u, space, u)
    found = subspace_power(space, rng=np.random.default_rng(6), starts=40)
    ends = found.vectors[found.certificates > 1 - 1e-10]
    assert len(ends) == len(truth)
    assert found.hits.sum() == 40
    for those in (u, truth):
        assert np.abs(ends @ those.T).max(axis=1).min() > 1 - 1e-10
    assert np.abs(u @ ends.T).max(axis=1).min() > 1 - 1e-8


def test_the_certificate_is_the_projection() -> None:
    truth, space = squares(5, 3, 7)
    u = np.random.default_rng(8).standard_normal(5)
    u /= np.linalg.norm(u)
    flat = truth[:, :, None] * truth[:, None, :]
    basis = np.linalg.qr(flat.reshape(3, -1).T)[0]
    assert certificate(space, u[None])[0] == pytest.approx(np.sum((basis.T @ np.outer(u, u).ravel()) ** 2))
