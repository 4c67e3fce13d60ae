"""Matrices as groups of equal blocks, against the same matrices written out."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

import unveil as uv
from unveil.whitebox import blocks
from unveil.whitebox.activation import activation
from unveil.whitebox.blocks import Repeated, groups_of, repeated
from unveil.whitebox.convolution import Convolution


def with_skip(rng: np.random.Generator) -> sparse.csr_array:
    """A convolution, beside it an entry of its own in every row, and below it rows that only carry something on."""
    one = Convolution(rng.standard_normal((5, 3, 3, 3)), (3, 9, 8), (1, 1), (1, 1, 1, 1)).matrix()
    side = sparse.hstack([one, sparse.eye_array(one.shape[0])])
    carried = sparse.eye_array(20, side.shape[1], k=40)
    return sparse.csr_array(sparse.vstack([side, sparse.csr_array((3, side.shape[1])), carried]))


def matrices(rng: np.random.Generator) -> list[sparse.csr_array]:
    strided = Convolution(rng.standard_normal((4, 2, 3, 2)), (4, 7, 9), (2, 1), (0, 1, 1, 0), (1, 2), 2).matrix()
    scattered = sparse.random_array((40, 30), density=0.1, rng=rng, format="csr")
    return [with_skip(rng), strided, scattered, sparse.csr_array((4, 5))]


def test_groups_are_the_matrix(rng: np.random.Generator) -> None:
    for matrix in matrices(rng):
        made = Repeated(matrix.shape, groups_of(matrix))
        x, y = rng.standard_normal((matrix.shape[1], 3)), rng.standard_normal((matrix.shape[0], 2))
        assert abs(made.csr() - matrix).sum() == 0
        assert np.allclose(made.times(x), matrix @ x, atol=1e-12)
        assert np.allclose(made.transposed_times(y), matrix.T @ y, atol=1e-12)
        assert np.allclose(made.squares().transposed_times(y), matrix.power(2).T @ y, atol=1e-12)
        rows = np.concatenate([np.empty(0, dtype=int), *(b.rows for b in made.blocks)])
        assert sorted(rows) == np.flatnonzero(np.diff(matrix.indptr)).tolist()
        assert all((np.diff(b.columns) > 0).all() for b in made.blocks)


def test_equal_blocks_are_kept_once(rng: np.random.Generator) -> None:
    """Of a 3 x 3 kernel with padding there are nine kinds of places, also where a skip connection passes by."""
    plain = Convolution(rng.standard_normal((5, 3, 3, 3)), (3, 9, 8), (1, 1), (1, 1, 1, 1)).matrix()
    for matrix, inputs in ((plain, 27), (with_skip(rng)[: plain.shape[0]], 27 + 5)):
        groups = groups_of(matrix)
        assert len(groups) == 9
        assert max(g.values.size for g in groups) == 5 * inputs


def test_a_layer_of_equal_blocks_is_the_layer(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(blocks, "LARGE_MATRIX_ENTRIES", 1)
    monkeypatch.setattr(blocks, "NUMBERS_SAVED_FACTOR", 2)
    convolution = Convolution(rng.standard_normal((6, 2, 3, 3)), (2, 12, 12), (1, 1), (1, 1, 1, 1))
    matrix, bias, relu = convolution.matrix(), rng.standard_normal(6 * 144), activation("relu")
    plain, kept = uv.Layer(matrix, bias, relu), uv.Layer(repeated(matrix), bias, relu)
    assert kept.repeated is not None
    x = rng.standard_normal((4, 288))
    copy = pickle.loads(pickle.dumps(kept))
    assert copy.repeated is not None
    for layer in (kept, copy, replace(kept, bias=bias)):
        assert (layer.inputs, layer.neurons) == (288, 864)
        assert np.allclose(layer(x), plain(x), atol=1e-12)
        assert abs(layer.weights - matrix).sum() == 0
    last = uv.Layer(rng.standard_normal((3, 864)), np.zeros(3), activation("identity"))
    one, other = uv.Network((plain, last), (2, 12, 12)), uv.Network((kept, last), (2, 12, 12))
    here = [uv.extreme_singular_values(net, x[0], 0, rng=np.random.default_rng(0)) for net in (one, other)]
    assert np.allclose(here[0].largest, here[1].largest, rtol=1e-9)
    found = [uv.stability(net, x[:1]).layers[0].after.values for net in (one, other)]
    assert np.allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
