"""Tensors as affine functions of a layer, and layers made of them: the same numbers as numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from unveil.whitebox.activation import activation
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.formats.affine import Trail, Value, join, mean_over
from unveil.whitebox.formats.onnx_operators import adjoint, repeated


def value(shape: tuple[int, ...], rng: np.random.Generator, width: int = 5) -> Value:
    size = int(np.prod(shape))
    return Value(sparse.csr_array(rng.standard_normal((size, width))), rng.standard_normal(size), shape)


def at(v: Value, h: np.ndarray) -> np.ndarray:
    return np.asarray(v.operator() @ h + v.bias).reshape(v.shape)


def test_operations_on_tensors_are_those_of_numpy(rng: np.random.Generator) -> None:
    h = rng.standard_normal(5)
    a, b = value((1, 3, 4), rng), value((1, 3, 1), rng)
    factors = rng.standard_normal((4,))
    for made, expected in (
        (a.scale(factors), at(a, h) * factors),
        (b.scale(factors), at(b, h) * factors),
        (a.add(factors), at(a, h) + factors),
        (b.add(factors), at(b, h) + factors),
        (a.plus(b), at(a, h) + at(b, h)),
        (mean_over(a, (1,), True), at(a, h).mean(axis=1, keepdims=True)),
        (mean_over(a, (1, 2), False), at(a, h).mean(axis=(1, 2))),
        (join([a, b, np.ones((1, 3, 2))], 2, 5), np.concatenate([at(a, h), at(b, h), np.ones((1, 3, 2))], axis=2)),
    ):
        assert made.shape == expected.shape
        np.testing.assert_allclose(at(made, h), expected, atol=1e-12)
    places = rng.integers(-1, a.size, (2, 7))
    np.testing.assert_allclose(at(a.move(places), h), np.where(places < 0, 0, at(a, h).ravel()[places]), atol=1e-12)


def test_a_transposed_convolution_is_the_adjoint_of_the_convolution(rng: np.random.Generator) -> None:
    for stride, padding, dilation, groups in (
        ((1, 1), (0, 0, 0, 0), (1, 1), 1),
        ((2, 3), (1, 0, 2, 1), (1, 1), 1),
        ((2, 1), (1, 1, 1, 1), (2, 1), 2),
    ):
        kernel = rng.standard_normal((4, 3 // groups + 1, 3, 3))
        made = adjoint(
            Value(None, np.zeros(4 * 5 * 6), (1, 4, 5, 6)), kernel, stride, padding, dilation, groups, (0, 0)
        )
        _, channels, height, width = made.shape
        forward = Convolution(kernel, (channels, height, width), stride, padding, dilation, groups).matrix()
        assert forward.shape == (4 * 5 * 6, channels * height * width)
        x, y = rng.standard_normal(forward.shape[1]), rng.standard_normal(forward.shape[0])
        np.testing.assert_allclose(at(made, y).ravel() @ x, y @ (forward @ x), rtol=1e-10)


def test_repeated_is_nearest_neighbour_upsampling(rng: np.random.Generator) -> None:
    a = rng.standard_normal((2, 3))
    np.testing.assert_array_equal(repeated(a, (2, 3)), np.kron(a, np.ones((2, 3))))


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_what_later_nodes_need_passes_a_layer_unchanged(kind: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 5))
    seen, kept = value((1, 4), rng), value((1, 3), rng)
    trail = Trail(5)
    made, alive = trail.activate(seen, activation(kind), {"later": kept})
    net = trail.network(join([made, alive["later"]], 1, trail.width), (5,), False)
    expected = [np.concatenate([activation(kind).value(at(seen, h)), at(kept, h)], axis=1)[0] for h in x]
    np.testing.assert_allclose(net(x), expected, atol=1e-12)


def test_the_largest_of_tensors_is_made_of_relus(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 5))
    for count in (2, 3, 5):
        parts, kept = [value((1, 3), rng) for _ in range(count)], value((1, 2), rng)
        trail = Trail(5)
        made, alive = trail.largest(parts, {"later": kept})
        net = trail.network(join([made, alive["later"]], 1, trail.width), (5,), False)
        expected = [np.concatenate([np.max([at(p, h) for p in parts], axis=0), at(kept, h)], axis=1)[0] for h in x]
        np.testing.assert_allclose(net(x), expected, atol=1e-10)
        assert {layer.activation.name for layer in net.layers[:-1]} == {"relu"}


@pytest.mark.parametrize("centred", [True, False])
def test_a_normalisation_is_layers_of_squares_and_roots(centred: bool, rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 5))
    seen = value((1, 4), rng)
    trail = Trail(5)
    made, _ = trail.normalised(seen, (1,), 1e-3, {}, centred=centred)
    net = trail.network(made, (5,), False)
    z = np.array([at(seen, h)[0] for h in x])
    u = z - centred * z.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(net(x), u / np.sqrt((u**2).mean(axis=1, keepdims=True) + 1e-3), atol=1e-10)
