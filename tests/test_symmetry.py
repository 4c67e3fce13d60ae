"""Order, sign and scale of neurons: the same function, written otherwise."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.whitebox.activation import activation
from unveil.whitebox.symmetry import Rearrangement, fold_sines, like, rearrange, scale_symmetric, sign_symmetric


def network(kind: str, rng: np.random.Generator) -> uv.Network:
    return uv.Network.from_weights(random_weights([4, 5, 3, 2], rng, bias=3.0), kind)


@pytest.mark.parametrize(
    ("kind", "signs", "scales"),
    [
        ("relu", False, True),
        ("leaky_relu", False, True),
        ("tanh", True, False),
        ("sigmoid", True, False),
        ("erf", True, False),
        ("sin", True, False),
        ("softplus", False, False),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_a_network_rearranged_is_the_same_function(
    kind: str, signs: bool, scales: bool, at: int, rng: np.random.Generator
) -> None:
    phi = activation(kind)
    assert (sign_symmetric(phi), scale_symmetric(phi)) == (signs, scales)
    net = network(kind, rng)
    k = net.widths[at]
    factor = rng.uniform(0.2, 5, k) if scales else np.ones(k)
    if signs:
        factor *= np.where(np.arange(k) % 2, -1.0, 1.0)
    new = rearrange(net, at, Rearrangement(rng.permutation(k), factor))
    x = rng.standard_normal((50, 4))
    np.testing.assert_allclose(new(x), net(x), atol=1e-12)
    assert np.abs(new.layers[at].dense() - net.layers[at].dense()).max() > 0.1


def test_sines_are_folded_into_half_a_turn(rng: np.random.Generator) -> None:
    net = network("sin", rng)
    folded = fold_sines(net)
    x = rng.standard_normal((50, 4))
    np.testing.assert_allclose(folded(x), net(x), atol=1e-12)
    assert max(np.abs(layer.bias).max() for layer in net.layers[:-1]) > np.pi / 2
    for layer in folded.layers[:-1]:
        assert (layer.bias > -np.pi / 2).all()
        assert (layer.bias <= np.pi / 2).all()


@pytest.mark.parametrize(("one", "other"), [("tanh", "sigmoid"), ("sigmoid", "tanh")])
def test_tanh_and_sigmoid_are_written_as_each_other(one: str, other: str, rng: np.random.Generator) -> None:
    net, goal = network(one, rng), network(other, rng)
    same = like(net, goal)
    assert [layer.activation.name for layer in same.layers] == [other, other, "identity"]
    x = rng.standard_normal((50, 4))
    np.testing.assert_allclose(same(x), net(x), atol=1e-12)
