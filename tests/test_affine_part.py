"""An affine part that belongs to the neurons makes them leaky ones; one that belongs to nobody stays."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, flipped, random_weights, single
from unveil.identification.fitting.affine_part import affine_part, taken_in, with_slopes
from unveil.identification.fitting.output_layer import with_linear_part
from unveil.identification.piecewise_linear.critical_points import CriticalPoints
from unveil.whitebox.activation import activation, by_rows, leaky_relu


def sloped(weights: Weights, slopes: list[float]) -> uv.Network:
    """One hidden layer of neurons with these slopes on their weaker side."""
    (w, b), (v, c) = weights
    phi = by_rows([(leaky_relu(a), 1) for a in slopes])
    return uv.Network((uv.Layer(w, b, phi), uv.Layer(v, c, activation("identity"))))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["leaky", "prelu", "abs"])
def test_neurons_that_slope_on_both_sides_are_read_as_such(kind: str, dtype: type) -> None:
    whole = []
    for seed, sizes in enumerate([(10, 5, 1), (12, 8, 3)]):
        rng = np.random.default_rng(seed)
        k = sizes[1]
        slopes = {"leaky": [0.1] * k, "prelu": rng.uniform(0.05, 0.5, k).tolist(), "abs": [-1.0] * k}[kind]
        truth = sloped(single(random_weights(sizes, rng, bias=0.5)), slopes)
        oracle = uv.as_oracle(flipped(lambda x, f=truth: f(x).astype(dtype), rng), sizes[0])
        found = CriticalPoints()(oracle, rng=rng)
        if found.outcome is not uv.Outcome.complete:
            whole.append(False)
            continue
        assert found.network is not None
        x = rng.standard_normal((2000, sizes[0]))
        assert np.abs(found.network(x) - truth(x)).max() < (1e-9 if dtype is np.float64 else 1e-4) * truth(x).std()
        same = found.network.widths == truth.widths
        if same and kind == "leaky":
            assert found.network.layers[0].activation.name == "leaky_relu(0.1)"
        if same and kind == "prelu":
            seen = np.sort(np.asarray(found.network.layers[0].activation.slopes)[:, 0])
            assert seen == pytest.approx(np.sort(slopes), abs=1e-8 if dtype is np.float64 else 1e-3)
        whole.append(same)
    assert np.mean(whole) >= 0.5


def test_an_affine_part_that_is_not_the_neurons_stays() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((10, 5, 1), rng, bias=0.5)
    network = uv.Network.from_weights(with_linear_part(weights, rng.standard_normal((1, 10))))
    x = rng.standard_normal((500, 10))
    y = network(x)
    assert affine_part(network) == [2]
    assert with_slopes(network, lambda trial: float(np.abs(trial(x) - y).max()), 1e-12) is network
    # Seen from the wrong side, two of the five are ordinary neurons again.
    (w, b), (v, c) = weights
    turned = np.array([-1.0, 1, 1, -1, 1])
    wrong = [(w * turned[:, None], b * turned), (v, c + v @ np.where(turned < 0, b, 0))]
    network = uv.Network.from_weights(with_linear_part(wrong, v @ (w * (turned < 0)[:, None])))
    y = network(x)
    assert y == pytest.approx(uv.Network.from_weights(weights)(x))
    right = with_slopes(network, lambda trial: float(np.abs(trial(x) - y).max()), 1e-12)
    assert right.widths == (5, 1)
    assert right.layers[0].activation.name == "relu"
    assert right(x) == pytest.approx(y)


def test_a_weak_pair_that_a_fit_has_turned_is_an_affine_part_too() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((6, 7, 3), rng, bias=0.5)
    (w, b), (v, c) = weights
    side = np.array([-1.0, 1, 1, -1, 1, 1, 1])
    off = side < 0
    (rows, bias), (out, end) = with_linear_part([(w * side[:, None], b * side), (v, c + v @ (b * off))], (v * off) @ w)
    # Of strength 1e-5, and 1e-3 from opposite: it moves no answer by more than 1e-7.
    weak = rng.standard_normal(6)
    rows = np.concatenate([rows, [weak, -weak + 1e-3 * rng.standard_normal(6)]])
    wrong = [(rows, np.append(bias, [0.0, 0.0])), (np.c_[out, [[1e-6]] * 3, [[-1e-6]] * 3], end)]
    network, truth = uv.Network.from_weights(wrong), uv.Network.from_weights(weights)
    x = rng.standard_normal((500, 6))
    assert affine_part(network) == [6]
    found = with_slopes(network, lambda trial: float(np.abs(trial(x) - truth(x)).max()), 2e-5)
    assert found.widths == (7, 3)
    assert found(x) == pytest.approx(truth(x), abs=2e-5)


def behind_two(seed: int, outputs: int) -> tuple[Weights, np.ndarray]:
    """Two hidden layers in which a neuron of the second is on wherever value 2 of the first is not zero; and inputs."""
    rng = np.random.default_rng(seed)
    weights = random_weights((6, 5, 4, outputs), rng, bias=0.5)
    weights[1][0][0] = np.abs(weights[1][0][0]) * [1, 1, 1, 1, 1]
    weights[1][0][0, 3:] *= -1
    x = rng.standard_normal((4000, 6))
    h = np.maximum(x @ weights[0][0].T + weights[0][1], 0)
    on = (h @ weights[1][0][0] + weights[1][1][0] > 0) | (h[:, 2] == 0)
    return weights, x[on]


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_wrong_weight_and_an_affine_part_that_makes_up_for_it_are_one_right_weight(outputs: int) -> None:
    for seed in range(6):
        weights, x = behind_two(seed, outputs)
        truth = uv.Network.from_weights(weights)
        y = truth(x)
        first, (w, b), (v, c) = weights
        wrong = w.copy()
        wrong[0, 2] -= 0.05
        part = np.eye(5)[2:3]
        for rows in (part, np.concatenate([part, -part])):
            out = np.concatenate([v, *[s * 0.05 * v[:, :1] for s in (1, -1)[: len(rows)]]], axis=1)
            hidden = np.concatenate([wrong, rows]), np.concatenate([b, np.zeros(len(rows))])
            network = uv.Network.from_weights([first, hidden, (out, c)])
            assert affine_part(network) == [0, len(rows)]
            still = h_of(first, x) @ wrong[0] + b[0] > 0
            x_, y_ = x[still | (h_of(first, x)[:, 2] == 0)], y[still | (h_of(first, x)[:, 2] == 0)]
            assert network(x_) == pytest.approx(y_)  # as good, where that neuron switches nowhere
            found = taken_in(network, partial(off, x_, y_), lambda trial: trial, 1e-12)
            if outputs == 1 and seed == 0:
                # Three neurons are on wherever that value is not zero: nothing tells whose weight it is.
                assert affine_part(found)[1] > 0
                continue
            assert found.widths == truth.widths
            assert found.layers[1].weights == pytest.approx(w)


def h_of(first: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x @ first[0].T + first[1], 0))


def test_neurons_always_on_that_cancel_are_a_bias_and_others_stay() -> None:
    weights, x = behind_two(9, 2)
    first, (w, b), (v, c) = weights
    rows = np.array([[0, 0, 1.0, 0, 0]] * 2)
    tail = np.array([[0.7, -0.7], [0.2, -0.2]])
    twice = uv.Network.from_weights(
        [first, (np.concatenate([w, rows]), np.append(b, [4.0, 0.1])), (np.concatenate([v, tail], axis=1), c)]
    )
    y = twice(x)
    assert affine_part(twice) == [0, 2]
    found = taken_in(twice, partial(off, x, y), lambda trial: trial, 1e-12)
    assert found.widths == (5, 4, 2)
    assert found(x) == pytest.approx(y)
    # A part along all values, that no neuron's weight makes up for.
    other = uv.Network.from_weights([first, *with_linear_part([(w, b), (v, c)], np.ones((2, 5)))])
    y = other(x)
    stays = taken_in(other, partial(off, x, y), lambda trial: trial, 1e-12)
    assert affine_part(stays)[1] > 0
    assert stays(x) == pytest.approx(y)


def off(x: np.ndarray, y: np.ndarray, network: uv.Network) -> float:
    return float(np.abs(network(x) - y).max())


@pytest.mark.parametrize("sizes", [(2, 10, 1), (4, 15, 1), (2, 9, 3)])
def test_of_more_neurons_than_inputs_the_one_set_that_explains_an_affine_part_is_on_the_other_side(
    sizes: tuple[int, int, int],
) -> None:
    whole = []
    for seed in range(5):
        rng = np.random.default_rng([5, seed])
        (w, b), (v, c) = random_weights(sizes, rng, bias=0.5)
        turned = rng.choice([-1.0, 1.0], size=sizes[1])
        # relu(z) = relu(-z) + z
        wrong = [(w * turned[:, None], b * turned), (v, c + v @ np.where(turned < 0, b, 0))]
        network = uv.Network.from_weights(with_linear_part(wrong, v @ (w * (turned < 0)[:, None])))
        x = rng.standard_normal((500, sizes[0]))
        right = with_slopes(network, partial(off, x, network(x)), 1e-9)
        whole.append(
            right.widths == sizes[1:] and uv.compare(right, uv.Network.from_weights([(w, b), (v, c)])).missing == 0
        )
        # An affine part of the model's own is no sum of its neurons.
        own = uv.Network.from_weights(with_linear_part([(w, b), (v, c)], rng.standard_normal((sizes[2], sizes[0]))))
        assert with_slopes(own, partial(off, x, own(x)), 1e-9) is own
    assert np.mean(whole) >= 0.8


def test_a_neuron_far_out_is_read_as_a_relu_whatever_the_size_of_the_answers() -> None:
    """Usual inputs get 0, which tells nothing of the rounding where the neuron is on."""
    ended = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n, off, size = int(rng.integers(1, 6)), 10 ** rng.uniform(0.5, 2), 10 ** rng.uniform(-3, 3)
        w = rng.standard_normal((n, 1))
        truth = flipped(lambda x, w=w, off=off, size=size: size * np.maximum(x @ w - off, 0), rng)
        oracle = uv.as_oracle(truth, n, budget=30_000)
        found = uv.identify(oracle, rng=seed)
        ended.append(found.outcome is uv.Outcome.complete)
        if ended[-1]:
            assert [layer.activation.name for layer in found.network.layers] == ["relu", "identity"]
            assert found.network.widths == (1, 1)
    assert np.mean(ended) >= 0.9
