"""Singular values against high precision, numpy and autograd; the lemmas against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import unveil.whitebox.removal as removal_module
from unveil.audit.sections.stability import STABILITY
from unveil.audit.stage import Audit
from unveil.blackbox.sources import as_oracle
from unveil.executor import workers
from unveil.outcome import BadInput
from unveil.whitebox import decomposition
from unveil.whitebox import fewer_rows as fewer
from unveil.whitebox import singular_values as module
from unveil.whitebox import stability as stability_module
from unveil.whitebox.activation import activation
from unveil.whitebox.blocks import Block
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.extremes import extreme_singular_values
from unveil.whitebox.fewer_rows import fewer_rows
from unveil.whitebox.formats import load
from unveil.whitebox.linear_piece import Piece, blocks_of, first_piece, next_piece
from unveil.whitebox.network import Layer, Network
from unveil.whitebox.region import linearise
from unveil.whitebox.removal import removal
from unveil.whitebox.singular_values import singular_values
from unveil.whitebox.stability import stability, window_of


def dense_network(rng: np.random.Generator, widths: tuple[int, ...], name: str = "relu") -> Network:
    pairs = [(rng.standard_normal((k, n)) / np.sqrt(n), rng.standard_normal(k)) for n, k in itertools.pairwise(widths)]
    return Network.from_weights(pairs, activation=name)


def conv_network(rng: np.random.Generator, name: str = "relu") -> Network:
    one = Convolution(rng.standard_normal((6, 2, 3, 3)) / 3, (2, 9, 9), (1, 1), (1, 1, 1, 1))
    two = Convolution(rng.standard_normal((8, 3, 3, 3)) / 5, (6, 9, 9), (2, 2), (1, 0, 0, 1), (1, 1), 2)
    width = two.output_size
    layers = [
        Layer(one.matrix(), rng.standard_normal(one.output_size), activation(name), one),
        Layer(two.matrix(), rng.standard_normal(width), activation(name), two),
        Layer(rng.standard_normal((40, width)) / np.sqrt(width), rng.standard_normal(40), activation(name)),
        Layer(rng.standard_normal((5, 40)), np.zeros(5), activation("identity")),
    ]
    return Network(tuple(layers), (2, 9, 9))


def as_piece(matrix: np.ndarray) -> Piece:
    height, width = matrix.shape
    return Piece(height, width, (Block(np.arange(height), np.arange(width), matrix),))


def with_values(values: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    left, right = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in (rows, len(values)))
    return np.asarray((left * values) @ right.T)


def test_values_hold_to_ten_digits_far_below_where_a_gram_matrix_does(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpmath = pytest.importorskip("mpmath")
    # Small cases take the direct way; here they go through the Gram matrices.
    monkeypatch.setattr(module, "DIRECT_COLUMNS", 2)
    for rows, width in ((30, 18), (16, 24), (20, 20)):
        k = min(rows, width)
        left, right = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in (rows, width))
        matrix = (left * np.logspace(1, -4.5, k)) @ right.T
        with mpmath.workdps(50):
            exact = np.sort([float(v) for v in mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)])[::-1]
        values, floor = singular_values(as_piece(matrix))
        # Any method in double precision is uncertain by a few eps of the largest.
        np.testing.assert_allclose(values, exact, rtol=1e-10, atol=8 * np.finfo(float).eps * exact[0])
        assert (np.abs(values / exact - 1)[exact > 1e-5 * exact[0]] < 1e-10).all()
        assert floor < 1e-12
        coarse, coarse_floor = singular_values(as_piece(matrix), fine=False)
        told = exact > coarse_floor
        error = np.abs(coarse / exact - 1)[told]
        assert (error < 10 * np.finfo(float).eps * (exact[0] / exact[told]) ** 2).all()
        gram = np.sqrt(np.maximum(np.linalg.eigvalsh(matrix.T @ matrix), 0))[::-1][:k]
        assert np.abs(gram / exact - 1).max() > 1e-8, "a plain Gram matrix would not have done"


@pytest.mark.parametrize("ends", [2.0, 1.0])
def test_tridiagonal_forms_know_their_eigenvalues_relatively(ends: float) -> None:
    # A chain of springs, fixed at both ends or free: 2 - 2 cos, down to 1e-5 or, singular, to 0.
    n, k = 600, np.arange(600)
    chain = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    chain[0, 0] = chain[-1, -1] = ends
    form = decomposition.tridiagonal(chain.copy())
    exact = 4 * np.sin((k + 1) * np.pi / (2 * n + 2) if ends == 2 else k * np.pi / (2 * n)) ** 2
    np.testing.assert_allclose(form.eigenvalues, exact, rtol=1e-11, atol=0 if ends == 2 else 1e-13)
    for first, last in ((0, 7), (100, n)):
        vectors = form.vectors(first, last)
        np.testing.assert_allclose(chain @ vectors, vectors * exact[first:last], atol=1e-13)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(last - first), atol=1e-12)


def test_large_pieces_agree_with_lapack_at_every_size_of_value(rng: np.random.Generator) -> None:
    for rows, width, lowest in ((900, 700, -7), (650, 800, -4), (900, 700, -1)):
        k = min(rows, width)
        left, right = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in (rows, width))
        chosen = np.logspace(0, lowest, k)
        chosen[-5:] = 0
        values, floor = singular_values(as_piece((left * chosen) @ right.T))
        np.testing.assert_allclose(values, chosen, rtol=1e-10, atol=5e-14)
        assert (values > floor).sum() == k - 5


def test_a_gram_matrix_is_believed_only_as_far_as_it_proves_right(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DIRECT_COLUMNS", 20)
    # Eigenvalues that crowd at the top, and few there with most values far below (or the other way round).
    for cut, (top, low) in itertools.product((module.CUT, 1e-6), ((100, 100), (1, 150), (150, 20))):
        monkeypatch.setattr(module, "CUT", cut)
        matrix = with_values(np.r_[np.ones(top), np.sort(rng.uniform(3e-4, 3e-3, low))[::-1]], 260, rng)
        exact = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(singular_values(as_piece(matrix))[0], exact, rtol=1e-10, err_msg=f"cut {cut}")


@pytest.mark.parametrize("lowest", [-1, -2, -2.6, -3.5, -6])
def test_what_torch_decomposes_is_as_exact(lowest: float, rng: np.random.Generator, monkeypatch: Any) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv(decomposition.LAPACK_VARIABLE, raising=False)
    monkeypatch.setattr(module, "DIRECT_COLUMNS", 20)
    chosen = np.logspace(0, lowest, 120)
    for rows, crowd in itertools.product((130, 300), (0, 60)):
        matrix = with_values(np.r_[np.ones(crowd), chosen], rows + crowd, rng)
        exact = np.linalg.svd(matrix, compute_uv=False)
        for alike, large in itertools.product((0.5, 5e-4, 1e-6), (1, 10**9)):
            monkeypatch.setattr(decomposition, "LAPACK_COLUMNS", large)
            found, _ = singular_values(as_piece(matrix), alike=alike)
            np.testing.assert_allclose(
                found, exact, rtol=1e-10, atol=1e-15, err_msg=f"{rows=} {crowd=} {alike=} {large=}"
            )
            coarse, _ = singular_values(as_piece(matrix), fine=False, alike=alike)
            np.testing.assert_allclose(coarse, exact, rtol=1e-13 / exact[-1] ** 2)


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.3)", "tanh"])
@pytest.mark.parametrize("make", [dense_network, conv_network])
def test_every_layer_agrees_with_the_svd_of_the_linearisation(
    name: str, make: Callable[..., Network], rng: np.random.Generator
) -> None:
    network = make(rng, name=name, **({"widths": (12, 30, 20, 9, 4)} if make is dense_network else {}))
    x = rng.standard_normal((3, network.n))
    window = rng.choice(network.n, network.n // 2, replace=False)
    for inputs in (None, window):
        found = stability(network, x, window=inputs)
        for i, each in enumerate(found.layers):
            for spectrum, before in ((each.before, True), (each.after, False)):
                matrix = linearise(network, x, i, before).matrix
                expected = np.linalg.svd(matrix if inputs is None else matrix[:, :, inputs], compute_uv=False)
                np.testing.assert_allclose(spectrum.values, expected, rtol=1e-10, atol=1e-13 * expected.max())
                part = matrix if inputs is None else matrix[:, :, inputs]
                np.testing.assert_array_equal(spectrum.rank, np.linalg.matrix_rank(part))
    assert "condition" in str(found)


def test_ill_conditioned_layers_lose_rows_but_no_digits(rng: np.random.Generator, monkeypatch: Any) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv(decomposition.LAPACK_VARIABLE, raising=False)
    # As if every layer were large and ill-conditioned.
    for where, name, value in (
        (decomposition, "LAPACK_COLUMNS", 1),
        (module, "DIRECT_COLUMNS", 2),
        (module, "STEEP", 10),
    ):
        monkeypatch.setattr(where, name, value)
    calls = []
    monkeypatch.setattr(stability_module, "fewer_rows", lambda *given: (calls.append(1), fewer_rows(*given))[1])
    for network in (conv_network(rng), dense_network(rng, (12, 20, 60, 9))):
        x = rng.standard_normal((3, network.n))
        for i, each in enumerate(stability(network, x).layers):
            for spectrum, before in ((each.before, True), (each.after, False)):
                expected = np.linalg.svd(linearise(network, x, i, before).matrix, compute_uv=False)
                np.testing.assert_allclose(spectrum.values, expected, rtol=1e-10, atol=1e-13 * expected.max())
    assert calls


def test_workers_change_nothing(rng: np.random.Generator) -> None:
    network = dense_network(rng, (12, 9, 4))
    x = rng.standard_normal((66, network.n))
    here = stability(network, x)
    with workers(2) as executor:
        there = stability(network, x, executor=executor)
    for one, other in zip(here.layers, there.layers, strict=True):
        np.testing.assert_array_equal(one.before.values, other.before.values)
        np.testing.assert_array_equal(one.after.values, other.after.values)
        np.testing.assert_array_equal(one.bound_removal, other.bound_removal)


def test_blocks_multiply_as_matrices(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    for one, other in itertools.product((0.05, 0.4, None), repeat=2):
        matrices = []
        for shape, density in (((30, 40), one), ((25, 30), other)):
            full = rng.standard_normal(shape)
            if density is not None:
                pattern = rng.random((6, shape[1])) < density
                full *= pattern[rng.integers(6, size=shape[0])]
            matrices.append(full)
        layers = [
            Layer(m if d is None else sparse.csr_array(m), np.zeros(len(m)), activation("relu"))
            for m, d in zip(matrices, (one, other), strict=True)
        ]
        blocks = [blocks_of(layer) for layer in layers]
        slope = rng.choice([0.0, 1.0, 0.5], 30)
        window = np.sort(rng.choice(40, 25, replace=False))
        first = first_piece(blocks[0], 30, window, 40)
        np.testing.assert_array_equal(first.whole(), matrices[0][:, window])
        product = next_piece(blocks[1], 25, first.keep(slope))
        expected = matrices[1] @ (slope[:, None] * matrices[0][:, window])
        np.testing.assert_allclose(product.whole(), expected, atol=1e-13)
        folded = product.folded().whole()
        np.testing.assert_allclose(folded @ folded.T, expected @ expected.T, atol=1e-12)
        gram = product.gram()
        for strip in (3, 512):
            monkeypatch.setattr(fewer, "STRIP", strip)
            short, rows = fewer_rows(blocks[1], first.keep(slope))
            assert rows <= first.keep(slope).rows
            squeezed = next_piece(short, rows, first.keep(slope)).whole()
            np.testing.assert_allclose(squeezed.T @ squeezed, expected.T @ expected, atol=1e-12)
        merged = product.merged()
        np.testing.assert_array_equal(merged.whole(), product.whole())
        rows = product.dense()
        if product.rows < product.width:
            np.testing.assert_allclose(gram, rows @ rows.T, atol=1e-12)
        else:
            np.testing.assert_allclose(gram, rows.T @ rows, atol=1e-12)
            np.testing.assert_allclose(merged.gram(), gram, atol=1e-12)


def test_lemma_8_and_9_bound_what_they_should(rng: np.random.Generator) -> None:
    for _ in range(40):
        network = dense_network(rng, tuple(rng.integers(3, 14, 4)))
        found = stability(network, rng.standard_normal((4, network.n)), lemma_9=True)
        for each in found.layers:
            smallest, tiny = each.after.smallest, 1e-12
            assert (each.after.largest <= each.bound_largest + tiny).all()
            assert (each.after.rank <= each.before.rank).all()
            for bound in (each.bound_smallest, each.bound_interlacing, each.bound_removal):
                told = np.isfinite(bound) & (each.after.rank > 0)
                assert (smallest[told] <= bound[told] * (1 + 1e-9) + tiny).all()
            told = np.isfinite(each.bound_smallest) & (each.after.rank > 0)
            assert (each.bound_interlacing[told] <= each.bound_smallest[told] + tiny).all()


def test_a_rank_lost_below_the_floor_is_lost_in_the_bound(rng: np.random.Generator) -> None:
    # A saturated neuron has a slope, but one so small that its direction cannot be told from none.
    for _ in range(20):
        n = int(rng.integers(3, 9))
        weights, saturated = rng.standard_normal((n, n)), rng.random(n) < 0.4
        bias = np.where(saturated, 18.0 * rng.choice([-1, 1], n), 0.0)
        network = Network.from_weights([(weights / np.linalg.norm(weights, 2), bias)], last="tanh")
        each = stability(network, rng.uniform(-0.1, 0.1, (4, n))).layers[0]
        assert (each.active == n).all()
        told = np.isfinite(each.bound_smallest)
        assert (told == (each.after.rank > 0)).all()
        assert (each.after.smallest[told] <= each.bound_smallest[told] * (1 + 1e-9)).all()


@pytest.mark.parametrize("left", [0, 1])
def test_what_cancels_between_layers_has_no_rank(left: int, rng: np.random.Generator) -> None:
    # Neurons stand twice in the first layer, and the second takes their difference: nothing but `left` neurons counts.
    for _ in range(8):
        twice, once = rng.standard_normal((9, 4)), rng.standard_normal((left, 4))
        half, rest = rng.standard_normal((6, 9)), rng.standard_normal((6, left))
        first, second = np.concatenate([twice, twice, once]), np.concatenate([half, -half, rest], axis=1)
        last = rng.standard_normal((5, 6))
        pairs = [(first, np.full(18 + left, 20.0)), (second, np.full(6, 500.0)), (last, np.zeros(5))]
        found = stability(Network.from_weights(pairs), rng.uniform(-0.5, 0.5, (2, 4)), lemma_9=True)
        for each in found.layers[1:]:
            assert (each.before.rank == left).all()
            assert (each.after.rank == left).all()
            assert (each.before.floor < 1e-12).all()


@pytest.mark.parametrize("sparse_below", [0.0, 1.1])
def test_removal_counts_by_brute_force(sparse_below: float, rng: np.random.Generator, monkeypatch: Any) -> None:
    monkeypatch.setattr(removal_module, "SPARSE_MATRIX_SHARE", sparse_below)
    matrix, kept = rng.standard_normal((12, 4)), rng.random(12) < 0.6
    matrix *= rng.random(matrix.shape) < 0.7
    matrix[:4] += np.eye(4)
    kept[:4] = True
    grid = np.linspace(0, 10, 30)
    found = removal(matrix, kept, grid)
    matrix, kept = matrix[kept | matrix.any(axis=1)], kept[kept | matrix.any(axis=1)]
    root, stays = np.sqrt(kept.sum()), matrix[kept]
    scaled = np.array([[abs(a @ b) / np.linalg.norm(b) * root for a in stays] for b in matrix[~kept]])
    np.testing.assert_allclose(found.constants, scaled.max(axis=1))
    np.testing.assert_array_equal(found.counts, [(scaled <= c).sum(axis=1).max() for c in grid])
    assert found.spanned.all()
    assert removal(matrix, kept, grid, rank=4).bound == found.bound
    assert found.bound >= np.linalg.svd(stays, compute_uv=False)[-1]
    # Outside of the row space the lemma fails: nothing is claimed there.
    apart = removal(np.diag([1.0, 2.0, 3.0]), np.array([True, True, False]))
    assert not apart.spanned.any()
    assert np.isnan(apart.bound)


@pytest.mark.parametrize("make", [dense_network, conv_network])
def test_extreme_values_without_a_matrix(make: Callable[..., Network], rng: np.random.Generator) -> None:
    network = make(rng, **({"widths": (30, 80, 60, 40)} if make is dense_network else {}))
    x = rng.standard_normal(network.n)
    for layer in (0, 1):
        exact = np.linalg.svd(linearise(network, x, layer).matrix, compute_uv=False)
        found = extreme_singular_values(network, x, layer, count=3, rng=rng)
        np.testing.assert_allclose(found.largest, exact[:3], rtol=1e-8)
        if make is dense_network:
            np.testing.assert_allclose(found.smallest, exact[-3:], rtol=1e-4, atol=1e-6 * exact[0])


def test_the_section_tells_what_was_measured() -> None:
    path = "examples/digits.onnx"
    audit = Audit(as_oracle(path, within=(0, 1)), path=path)
    audit.inputs = np.load("examples/digits.npz")["images"][:5]
    told = STABILITY.run(audit)
    assert told is not None
    found = stability(load(path), audit.inputs, lemma_9=False)
    for one, other in zip(told.figures["layers"], found.layers, strict=True):
        assert one["rank"] == np.median(other.after.rank)
        assert one["condition"] == pytest.approx(np.median(other.after.condition))
    assert "left" in told.verdict
    assert STABILITY.run(Audit(as_oracle(lambda x: x.sum(1), shape=3))) is None


def test_wrong_windows_are_refused(rng: np.random.Generator) -> None:
    network = conv_network(rng)
    x = rng.standard_normal(network.n)
    inside = window_of((2, 9, 9), (3, 6), (2, 4))
    assert inside.tolist() == [c * 81 + r * 9 + s for c in range(2) for r in (3, 4, 5) for s in (2, 3)]
    with pytest.raises(BadInput, match="does not lie"):
        window_of((2, 9, 9), (3, 10), (2, 4))
    for wrong in (np.array([], dtype=int), np.array([0, 162]), np.array([[1]])):
        with pytest.raises(BadInput, match="window must list"):
            stability(network, x, window=wrong)
    with pytest.raises(BadInput, match="expected inputs"):
        stability(network, x[:5])


def test_composed_orthogonal_layers_decay_unless_they_are_wide() -> None:
    from papers.invertibility import study_orthogonal

    table = study_orthogonal.run(3)
    conditions = {row.widening: [np.median(e.after.condition) for e in row.found.layers] for row in table}
    assert all(np.diff(curve).min() > 0 for curve in conditions.values() if curve[0] > 1.01)
    assert conditions[2][-1] > 100 * conditions[8][-1]
    assert "wider" in study_orthogonal.tell(table)
