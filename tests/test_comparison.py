"""Symmetric copies compare as equal, damaged ones by what was damaged; regions and linearisations against autograd."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from unveil.outcome import BadInput
from unveil.whitebox.comparison import compare
from unveil.whitebox.formats import to_torch
from unveil.whitebox.network import Network
from unveil.whitebox.reduction import canonical, reduced
from unveil.whitebox.region import activation_pattern, linear_region, linearise

SMOOTH = ["tanh", "sigmoid", "sin", "elu", "softplus", "gelu"]
WITH_BREAKPOINTS = ["relu", "leaky_relu(0.2)"]


def random_network(rng: np.random.Generator, name: str, widths: tuple[int, ...], last: str = "identity") -> Network:
    pairs = [(rng.standard_normal((k, n)) / np.sqrt(n), rng.standard_normal(k)) for n, k in itertools.pairwise(widths)]
    return Network.from_weights(pairs, activation=name, last=last)


def scrambled(network: Network, rng: np.random.Generator) -> Network:
    """The same function by other weights, from the definitions of the symmetries."""
    pairs = [(layer.dense().copy(), layer.bias.copy()) for layer in network.layers]
    name = network.layers[0].activation.name
    for i in range(len(pairs) - 1):
        (w, b), (v, c) = pairs[i], pairs[i + 1]
        order = rng.permutation(len(b))
        w, b, v = w[order], b[order], v[:, order]
        if name in ("tanh", "sin", "sigmoid"):
            sign = rng.choice([-1.0, 1.0], len(b))
            if name == "sigmoid":
                c = c + v[:, sign < 0].sum(axis=1)
            w, b, v = w * sign[:, None], b * sign, v * sign
        if name == "sin":
            turns = rng.integers(-2, 3, len(b))
            b, v = b + np.pi * turns, v * (-1.0) ** turns
        if name in WITH_BREAKPOINTS:
            scale = rng.uniform(0.1, 10, len(b))
            w, b, v = w * scale[:, None], b * scale, v / scale
        pairs[i], pairs[i + 1] = (w, b), (v, c)
    return Network.from_weights(pairs, activation=name, last=network.layers[-1].activation.name)


@pytest.mark.parametrize("name", SMOOTH + WITH_BREAKPOINTS)
def test_a_symmetric_copy_compares_as_equal_and_has_the_same_canonical_form(
    name: str, rng: np.random.Generator
) -> None:
    for widths in ((5, 7, 3), (4, 9, 6, 8, 2), (6, 1, 5, 1)):
        truth = random_network(rng, name, widths)
        copy = scrambled(truth, rng)
        x = rng.standard_normal((50, widths[0]))
        np.testing.assert_allclose(copy(x), truth(x), atol=1e-11)
        found = compare(copy, truth)
        assert found.weight_error < 1e-11, (widths, str(found))
        assert found.function_error < 1e-11
        assert (found.missing, found.false) == (0, 0)
        np.testing.assert_allclose(found.aligned(x), truth(x), atol=1e-11)
        one, other = canonical(truth), canonical(copy)
        np.testing.assert_allclose(one(x), truth(x), atol=1e-11)
        for a, b in zip(one.layers, other.layers, strict=True):
            np.testing.assert_allclose(a.dense(), b.dense(), atol=1e-10)
            np.testing.assert_allclose(a.bias, b.bias, atol=1e-10)


def degenerate(rng: np.random.Generator, name: str, kind: str, widths: tuple[int, ...]) -> Network:
    """A random network, in each hidden layer of which some neurons are equal, constant, silent or always on."""
    pairs = [(layer.dense(), layer.bias.copy()) for layer in random_network(rng, name, widths).layers]
    for w, b in pairs[:-1]:
        i, j, k = rng.permutation(len(b))[:3]
        if kind == "equal":
            w[[i, k]], b[[i, k]] = w[j], b[j]
        elif kind == "multiple":
            w[i], b[i] = 2 * w[j], 2 * b[j]
        elif kind == "opposite":
            w[i], b[i] = -w[j], -b[j]
        elif kind == "zero":
            w[[i, j]], b[i] = 0, 0
        elif kind == "dead":
            w[i], b[i], b[j] = 0, -1, -1e3
        else:
            b[i] = 1e3
    return Network.from_weights(pairs, activation=name)


@pytest.mark.parametrize("kind", ["equal", "multiple", "opposite", "zero", "dead", "always on"])
def test_exact_copies_with_equal_and_constant_neurons_compare_as_equal(kind: str, rng: np.random.Generator) -> None:
    for name in SMOOTH + WITH_BREAKPOINTS:
        for widths in ((5, 7, 3), (4, 9, 6, 8, 2), (6, 4, 5, 1)):
            truth = degenerate(rng, name, kind, widths)
            copy = scrambled(truth, rng)
            x = rng.standard_normal((20, widths[0]))
            size = max(1.0, float(np.abs(truth(x)).max()))
            np.testing.assert_allclose(reduced(truth)(x), truth(x), atol=1e-9 * size)
            found = compare(copy, truth, x)
            assert found.weight_error < 1e-9, (name, widths, str(found))
            assert (found.missing, found.false) == (0, 0), (name, widths, str(found))
            np.testing.assert_allclose(found.aligned(x), truth(x), atol=1e-9 * size)
            for a, b in zip(canonical(truth).layers, canonical(copy).layers, strict=True):
                np.testing.assert_allclose(a.dense(), b.dense(), atol=1e-8)


def test_what_equal_neurons_share_does_not_matter_but_what_they_send_does(rng: np.random.Generator) -> None:
    truth = degenerate(rng, "relu", "equal", (5, 7, 3))
    (w, b), (v, c) = [(layer.dense().copy(), layer.bias) for layer in truth.layers]
    first, second = np.flatnonzero((w[:, None] == w).all(axis=2).sum(axis=1) > 1)[:2]
    shared = v.copy()
    shared[:, first], shared[:, second] = v[:, first] + v[:, second], 0
    assert compare(Network.from_weights([(w, b), (shared, c)]), truth).weight_error < 1e-12
    shared[:, first] *= 1.1
    assert compare(Network.from_weights([(w, b), (shared, c)]), truth).weight_error > 1e-3
    idle = Network.from_weights([(np.vstack([w, np.zeros(5)]), np.r_[b, -1.0]), (np.column_stack([v, c]), c)])
    assert (compare(truth, idle).missing, compare(idle, truth).false) == (0, 0)
    found = compare(Network.from_weights([(np.delete(w, first, 0), np.delete(b, first)), (v[:, 1:], c)]), truth)
    assert found.function_error > 1e-4


@pytest.mark.parametrize(("name", "other"), [("sigmoid", "tanh"), ("tanh", "sigmoid")])
def test_a_tanh_network_and_the_same_written_with_sigmoids_are_equal(
    name: str, other: str, rng: np.random.Generator
) -> None:
    truth = random_network(rng, name, (4, 6, 5, 2))
    # sigmoid(t) = (1 + tanh(t / 2)) / 2, and so tanh(t) = 2 sigmoid(2 t) - 1.
    inner, outer, shift = (0.5, 0.5, 0.5) if name == "sigmoid" else (2.0, 2.0, -1.0)
    pairs, before, lift = [], 1.0, 0.0
    for layer in truth.layers:
        after = inner if layer is not truth.layers[-1] else 1.0
        weights = layer.dense()
        pairs.append((after * before * weights, after * (layer.bias + lift * weights.sum(axis=1))))
        before, lift = outer, shift
    found = Network.from_weights(pairs, activation=other)
    apart = compare(scrambled(found, rng), truth)
    assert apart.function_error < 1e-12
    assert apart.weight_error < 1e-11, str(apart)
    assert (apart.missing, apart.false) == (0, 0)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu"])
def test_errors_missing_and_false_neurons_are_told_apart(name: str, rng: np.random.Generator) -> None:
    truth = random_network(rng, name, (12, 10, 6, 2))
    copy = scrambled(truth, rng)
    pairs = [(layer.dense().copy(), layer.bias.copy()) for layer in copy.layers]
    lost, scale = int(rng.integers(10)), np.abs(pairs[0][0][3]).max()
    changed = (lost + 1) % 10
    pairs[0][0][changed] += 1e-3 * np.linalg.norm(pairs[0][0][changed]) * np.eye(12)[0]
    pairs[0] = (np.delete(pairs[0][0], lost, axis=0), np.delete(pairs[0][1], lost))
    pairs[1] = (np.delete(pairs[1][0], lost, axis=1), pairs[1][1])
    pairs[1] = (np.vstack([pairs[1][0], scale * rng.standard_normal((2, 9))]), np.append(pairs[1][1], [0.3, 0.4]))
    pairs[2] = (np.column_stack([pairs[2][0], 1e-9 * rng.standard_normal((2, 2))]), pairs[2][1])
    found = compare(Network.from_weights(pairs, activation=name), truth)
    first, second, third = found.layers
    assert (len(first.missing), len(first.false)) == (1, 0)
    assert (len(second.missing), len(second.false)) == (0, 2)
    assert 1e-5 < first.weight_error < 1e-2
    assert first.share == pytest.approx(0.9)
    # A changed ReLU row changes its neuron's scale, and with it what comes next.
    tolerance = 1e-3 if name == "relu" else 1e-10
    assert second.weight_error < tolerance
    assert third.weight_error < tolerance
    assert first.missing[0] not in first.pairs[:, 0]
    assert found.function_error > 1e-4


def test_where_no_neuron_has_a_pair_no_weight_agrees(rng: np.random.Generator) -> None:
    truth, other = (random_network(rng, "relu", (20, 3, 2)) for _ in range(2))
    apart = compare(other, truth)
    assert (apart.missing, apart.false) == (3, 3)
    first, last = apart.layers
    assert np.isnan([first.weight_error, first.bias_error, last.weight_error, apart.weight_error]).all()
    assert last.bias_error > 0
    constant = Network.from_weights([(np.zeros((3, 20)), np.ones(3)), (rng.standard_normal((2, 3)), np.zeros(2))])
    assert compare(constant, constant).weight_error == 0  # there is no weight that could differ


def test_networks_that_cannot_be_compared_are_told(rng: np.random.Generator) -> None:
    truth = random_network(rng, "tanh", (3, 4, 2))
    deep = random_network(rng, "tanh", (3, 4, 4, 2))
    assert compare(deep, truth).layers == ()
    assert np.isnan(compare(deep, truth).weight_error)
    assert "depths differ" in str(compare(deep, truth))
    with pytest.raises(BadInput, match="not comparable"):
        compare(random_network(rng, "tanh", (4, 4, 2)), truth)
    classes = replace(truth, softmax=True)  # told with the outputs it has, though log-ratios are one less
    with pytest.raises(BadInput, match="truth 3 to 2"):
        compare(random_network(rng, "tanh", (4, 4, 2)), classes)


@pytest.mark.parametrize("name", ["tanh", "softplus", "elu(0.5)", *WITH_BREAKPOINTS])
@pytest.mark.parametrize("thin", [False, True])
def test_linearisations_are_those_of_autograd(name: str, thin: bool, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    network = random_network(rng, name, (6, 9, 7, 3), last=name)
    module = to_torch(network)
    if thin:
        pairs = [(sparse.csr_array(layer.dense()), layer.bias) for layer in network.layers]
        network = Network.from_weights(pairs, activation=name, last=name)
    x = rng.standard_normal((5, 6))
    for layer, before in itertools.product(range(3), (False, True)):
        # Modules alternate: affine, activation, affine, ...
        part = module[: 2 * layer + (1 if before else 2)]
        matrix, offset = linearise(network, x, layer, before)
        for i, row in enumerate(torch.from_numpy(x)):
            expected = torch.func.jacrev(part)(row).detach().numpy()
            np.testing.assert_allclose(matrix[i], expected, atol=1e-12)
            np.testing.assert_allclose(matrix[i] @ x[i] + offset[i], part(row).detach().numpy(), atol=1e-12)
        one = linearise(network, x[0], layer, before)
        np.testing.assert_allclose(one.matrix, matrix[0], atol=1e-14)


@pytest.mark.parametrize("name", WITH_BREAKPOINTS)
def test_a_region_is_where_the_network_is_affine(name: str, rng: np.random.Generator) -> None:
    network = random_network(rng, name, (4, 8, 8, 3))
    x = rng.standard_normal(4)
    region = linear_region(network, x)
    near = x + 0.999 * region.margin() * _directions(rng, 200)
    matrix, offset = region.affine()
    assert region.contains(near).all()
    np.testing.assert_allclose(network(near), near @ matrix.T + offset, atol=1e-12)
    normals, bounds = region.faces()
    far = x + rng.uniform(0, 10, (500, 1)) * region.margin() * _directions(rng, 500)
    np.testing.assert_array_equal((far @ normals.T <= bounds).all(axis=1), region.contains(far))
    nearest = np.argmin((bounds - normals @ x) / np.linalg.norm(normals, axis=1))
    step = normals[nearest] / np.linalg.norm(normals[nearest])
    assert not region.contains((x + 1.001 * region.margin() * step)[None])[0]
    patterns = activation_pattern(network, near)
    assert all((p == q).all() for p, q in zip(patterns, region.pattern, strict=True) for p in p[:2])
    with pytest.raises(BadInput, match="one input"):
        linear_region(network, near)
    with pytest.raises(BadInput, match="tanh"):
        linear_region(random_network(rng, "tanh", (4, 3, 2)), x)


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    steps = rng.standard_normal((count, 4))
    return steps / np.linalg.norm(steps, axis=1, keepdims=True)
