"""Network, Layer and convolutions: truth from torch and plain loops."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from scipy import sparse

import unveil
from unveil.outcome import BadInput
from unveil.whitebox.activation import ACTIVATIONS, activation
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.network import Layer, Network


@pytest.mark.parametrize("seed", range(12))
def test_a_convolution_is_the_matrix_that_torch_applies(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2, 3]))
    kernel = rng.standard_normal((groups * int(rng.integers(1, 4)), int(rng.integers(1, 4)), *rng.integers(1, 4, 2)))
    shape = (kernel.shape[1] * groups, int(rng.integers(6, 10)), int(rng.integers(6, 10)))
    stride, dilation = tuple(rng.integers(1, 4, 2)), tuple(rng.integers(1, 3, 2))
    top, left, bottom, right = (int(p) for p in rng.integers(0, 3, 4))
    ours = Convolution(kernel, shape, stride, (top, left, bottom, right), dilation, groups)
    x = rng.standard_normal((4, *shape))
    padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    options = {"stride": [int(s) for s in stride], "dilation": [int(d) for d in dilation], "groups": groups}
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(kernel), **options).numpy()
    assert ours.output_shape == expected.shape[1:], f"seed {seed}"
    got = (ours.matrix() @ x.reshape(4, -1).T).T
    np.testing.assert_allclose(got, expected.reshape(4, -1), rtol=1e-12, atol=1e-12, err_msg=f"seed {seed}")


NAMES = [*sorted(ACTIVATIONS), "clip(0.0,1.7)", "hard_sigmoid(0.31,0.4)", "leaky_relu(-0.3)", "elu(0.4)"]
NAMES += ["rows(11*tanh,9*clip(-1.03,2.2),20*identity)", "rows(10*relu,30*leaky_relu(0.4))"]


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_derivatives_of_values_and_parities_hold(name: str) -> None:
    phi = activation(name)
    s = np.linspace(-3.07, 3.07, 40)
    h = 1e-5
    np.testing.assert_allclose(phi.slope(s), (phi.value(s + h) - phi.value(s - h)) / (2 * h), atol=1e-9)
    np.testing.assert_allclose(phi.curvature(s), (phi.slope(s + h) - phi.slope(s - h)) / (2 * h), atol=1e-8)
    mirrored = {"odd": -phi.value(s), "sigmoid": 1 - phi.value(s), "affine": phi.value(s) - s}
    if phi.parity in mirrored:
        np.testing.assert_allclose(phi.value(-s), mirrored[phi.parity], atol=1e-12)
    if phi.inverse is not None:
        np.testing.assert_allclose(phi.inverse(phi.value(s)), s, atol=1e-10)
    if phi.piecewise_linear:
        piece = phi.piece(s)
        (low, high), (slope, offset) = phi.ends(piece), phi.line(piece)
        assert ((low < s) & (s <= high)).all()
        np.testing.assert_allclose(slope * s + offset, phi.value(s), atol=1e-12)
        np.testing.assert_array_equal(slope, phi.slope(s))
    assert activation(phi.name).name == pickle.loads(pickle.dumps(phi)).name == name


def test_names_of_other_libraries_stand_for_the_same_functions() -> None:
    s = np.linspace(-8, 8, 33)
    for name, values in (
        ("relu6", np.clip(s, 0, 6)),
        ("hardtanh", np.clip(s, -1, 1)),
        ("hardsigmoid", np.clip(s / 6 + 0.5, 0, 1)),
        ("swish", s / (1 + np.exp(-s))),
        ("logistic", 1 / (1 + np.exp(-s))),
    ):
        np.testing.assert_allclose(activation(name).value(s), values, atol=1e-15)


def test_inputs_of_every_form_give_the_same_answers() -> None:
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((5, 12)), rng.standard_normal(5)), (rng.standard_normal((3, 5)), np.zeros(3))]
    network = Network.from_weights(weights, last="softmax", shape=(3, 2, 2))
    thin = Network.from_weights([(sparse.csr_array(w), b) for w, b in weights], last="softmax")
    x = rng.standard_normal((7, 12))
    answers = network(x)
    assert answers.shape == (7, 3)
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    for same in (network(x.reshape(7, 3, 2, 2)), np.array([network(row) for row in x]), thin(x)):
        np.testing.assert_allclose(same, answers, rtol=1e-12)
    np.testing.assert_array_equal(network.after(0).logits(network.features(x, 0)), network.logits(x))
    np.testing.assert_array_equal(network.up_to(0)(x), network.features(x, 0))
    assert (network.n, network.m, network.widths, network.piecewise_linear) == (12, 3, (5, 3), True)


def test_bad_networks_and_inputs_are_refused_with_what_was_wrong() -> None:
    network = Network.from_weights([(np.ones((2, 3)), np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
    wrong = [
        (lambda: Network(()), "at least one layer"),
        (lambda: Network([(np.ones((2, 3)), np.zeros(2))]), "from_weights takes pairs"),
        (lambda: Network((network.layers[0], network.layers[0])), "2 outputs but layer 1 takes 3"),
        (lambda: Network.from_weights([(np.full((2, 3), np.nan), np.zeros(2))]), "NaN"),
        (lambda: Layer(np.ones((2, 3)), np.zeros(3), activation("relu")), "b \\(out,\\)"),
        (lambda: Layer([["a"]], np.zeros(1), activation("relu")), "numbers"),
        (lambda: Network.from_weights([(np.ones((2, 3)), np.zeros(2))], shape=(4,)), "shape"),
        (lambda: network(np.ones((2, 4))), "expected inputs of shape"),
        (lambda: network.level(1.5), "no layer 1.5"),
        (lambda: network(np.array([[1.0, np.nan, 0]])), "NaN"),
        (lambda: network(np.empty((0, 3))), "no input"),
        (lambda: network.features(np.ones(3), 2), "layers 0 to 1"),
        (lambda: network.after(1), "last one"),
        (lambda: activation("prelu"), "no activation called"),
        (lambda: Convolution(np.ones((2, 2, 3, 3)), (3, 8, 8)), "kernel"),
        (lambda: Convolution(np.ones((1, 3, 9, 9)), (3, 8, 8)), "does not fit"),
        (lambda: Convolution(np.ones((1, 3, 3, 3)), (3, 8, 8), (1, 1), (10**9,) * 4), "at most"),
    ]
    for attempt, told in wrong:
        with pytest.raises(BadInput, match=told):
            attempt()


def test_normalisation_moves_into_the_first_layer(rng: np.random.Generator) -> None:
    kernel = Convolution(rng.standard_normal((4, 3, 3, 3)), (3, 5, 5), (1, 1), (1, 1, 1, 1))
    mean, deviation, x = rng.standard_normal(75), rng.uniform(0.5, 2, 75), rng.standard_normal((6, 75))
    for weights, convolution in ((kernel.matrix(), kernel), (rng.standard_normal((20, 75)), None)):
        layer = Layer(weights, rng.standard_normal(weights.shape[0]), activation("tanh"), convolution)
        network = Network((layer,), (3, 5, 5))
        np.testing.assert_allclose(network.normalised(mean, deviation)(x), network((x - mean) / deviation), atol=1e-12)


def test_a_network_is_its_layers_one_after_the_other() -> None:
    rng = np.random.default_rng(3)
    for name, widths in itertools.product(("tanh", "elu(0.5)", "leaky_relu(0.2)"), ((4, 6, 2), (3, 3, 5, 1))):
        pairs = [(rng.standard_normal((k, n)), rng.standard_normal(k)) for n, k in itertools.pairwise(widths)]
        x = rng.standard_normal(widths[0])
        h = x
        for i, (w, b) in enumerate(pairs):
            h = w @ h + b
            if i < len(pairs) - 1:
                h = {"tanh": np.tanh, "elu(0.5)": lambda s: np.where(s > 0, s, 0.5 * (np.exp(s) - 1))}.get(
                    name, lambda s: np.where(s > 0, s, 0.2 * s)
                )(h)
        np.testing.assert_allclose(Network.from_weights(pairs, activation=name)(x), h, rtol=1e-12)


@pytest.mark.parametrize(
    "ask",
    [
        lambda known: unveil.preimage(known, np.zeros(2)),
        lambda known: unveil.lookalike(known, np.zeros(2), np.ones(2)),
        lambda known: unveil.stability(known, np.zeros(2)),
        lambda known: unveil.compare(Network.from_weights([(np.eye(2), np.zeros(2))]), known),
    ],
)
def test_what_has_no_known_weights_is_told_how_to_get_them(ask):
    with pytest.raises(BadInput, match=r"got str; read a file with load\(path\)"):
        ask("net.onnx")
