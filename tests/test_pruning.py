"""Neurons that no answer shows are taken out of a fit; those that some answers show stay."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.identification.fitting.design import settle
from unveil.identification.fitting.pruning import without_idle, without_silent, without_spare, without_twins
from unveil.whitebox.network import Network


def test_neurons_without_effect_are_none_and_rare_ones_stay() -> None:
    rng = np.random.default_rng(0)
    (w, b), (v, c), (out, end) = random_weights((6, 8, 5, 2), rng, bias=0.5)
    # One on for two inputs in a hundred, one with an effect below the noise, one that is never on, one always off.
    x = rng.standard_normal((400, 6))
    h = np.maximum(x @ w.T + b, 0)
    c[0] -= np.quantile(h @ v[0] + c[0], 0.98)
    v = np.concatenate([v, rng.standard_normal((1, 8)), -np.eye(8)[:2]])
    c = np.append(c, [0.1, 1e-8, -1.0])
    out = np.concatenate([out, np.full((2, 1), 1e-9), rng.standard_normal((2, 2))], axis=1)
    network = uv.Network.from_weights([(w, b), (v, c), (out, end)])
    smaller = without_idle(network, x, np.full((400, 2), 1e-7))
    assert smaller.widths == (8, 5, 2)
    assert np.abs(smaller(x) - network(x)).max() < 1e-7
    assert np.array_equal(smaller.layers[1].dense(), v[:5])


def test_a_neuron_met_twice_is_one() -> None:
    rng = np.random.default_rng(1)
    weights = random_weights((6, 8, 5, 2), rng, bias=0.5)
    (w, b), (v, c), (out, end) = weights
    part = rng.uniform(0.2, 0.8)
    twice = [
        (w, b),
        (np.concatenate([v, 2 * v[:1], rng.standard_normal((1, 8))]), np.concatenate([c, 2 * c[:1], [0.3]])),
        (np.concatenate([part * out[:, :1], out[:, 1:], (1 - part) / 2 * out[:, :1], np.zeros((2, 1))], axis=1), end),
    ]
    x = 10 * rng.standard_normal((3000, 6))
    y = relu_net(weights)(x)
    found = without_twins(uv.Network.from_weights(twice), x, lambda f: float(np.abs(f(x) - y).max()), 1e-12)
    assert found.widths == (8, 5, 2)
    assert np.abs(found(x) - y).max() < 1e-12
    assert without_twins(found, x, lambda f: float(np.abs(f(x) - y).max()), 1e-12) is found


def test_weak_neurons_that_only_correct_others_are_left_out_and_real_ones_stay() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weights = random_weights((6, 8, 5, 2), rng, bias=0.5)
        (w, b), (v, c), (out, end) = weights
        out[:, 1] *= 1e-5  # weak, but there
        x = rng.standard_normal((600, 6))
        c[:] = -np.median(np.maximum(x @ w.T + b, 0) @ v.T, axis=0)
        truth = uv.Network.from_weights(weights)
        y = truth(x)
        # One neuron nearly twice, the copy making up for what the other lacks; two that nearly cancel.
        off, new = 1e-6 * rng.standard_normal(8), rng.standard_normal((1, 8))
        more = [
            (w, b),
            (np.concatenate([v, v[:1] + off, new, new * (1 + 1e-6)]), np.append(c, [c[0], 0.1, 0.1])),
            (np.concatenate([out * [1 + 1e-6, 1, 1, 1, 1], -1e-6 * out[:, :1], [[1e-6, -1e-6]] * 2], axis=1), end),
        ]

        def error(network: uv.Network, x: np.ndarray = x, y: np.ndarray = y) -> float:
            return float(np.abs(network(x) - y).max())

        def settled(network: uv.Network, truth: uv.Network = truth) -> uv.Network:
            # What least squares on all weights would make of one that has the right neurons.
            return truth if network.widths == truth.widths else network

        ones = np.ones((len(x), 1))
        found = without_spare(uv.Network.from_weights(more), x, y, ones, error, settled, 1e-9)
        assert found.widths == (8, 5, 2)
        assert without_spare(truth, x, y, ones, error, settled, 1e-9) is truth


def test_a_neuron_that_moves_no_answer_is_left_out_without_a_fit() -> None:
    rng = np.random.default_rng(3)
    (w, b), (v, c), (out, end) = random_weights((6, 8, 5, 2), rng, bias=0.5)
    x = rng.standard_normal((500, 6))
    c[:] = -np.median(np.maximum(x @ w.T + b, 0) @ v.T, axis=0)
    y = uv.Network.from_weights([(w, b), (v, c), (out, end)])(x)
    ones, row = np.ones((len(x), 1)), rng.standard_normal((1, 8))
    # Off at all of these points; on, with an effect below the last bit; on.
    for middle, size, fewer in ((-50.0, 0.1, True), (0.5, 1e-19, True), (0.5, 0.1, False)):
        more = (np.concatenate([v, row]), np.append(c, middle))
        network = uv.Network.from_weights([(w, b), more, (np.append(out, [[size], [size]], axis=1), end)])
        found = without_spare(network, x, y, ones, lambda f: float(np.abs(f(x) - y).max()), lambda f: f, 1e-12)
        assert (found.widths[1] == network.widths[1] - 1) is fewer


def test_a_rare_neuron_without_weight_is_left_out_and_one_that_few_answers_tell_of_stays() -> None:
    rng = np.random.default_rng(4)
    (w, b), (v, c), (out, end) = random_weights((6, 8, 5, 2), rng, bias=0.5)
    x = rng.standard_normal((500, 6))
    h = np.maximum(x @ w.T + b, 0)
    c[:] = -np.median(h @ v.T, axis=0)
    row = rng.standard_normal(8)
    at = np.sort(h @ row)[-3]  # active at two of the points
    for size, stays in ((1e-9, False), (0.1, True)):
        rare = (np.concatenate([v, row[None]]), np.append(c, -at))
        network = uv.Network.from_weights([(w, b), rare, (np.append(out, [[size], [size]], axis=1), end)])
        y = uv.Network.from_weights([(w, b), (v, c), (out, end)])(x) if not stays else network(x)
        ones = np.ones((len(x), 1))
        truth = uv.Network.from_weights([(w, b), (v, c), (out, end)])
        found = without_spare(
            network, x, y, ones, lambda f, y=y: float(np.abs(f(x) - y).max()), lambda f, t=truth: t, 1e-12
        )
        assert (found.widths[1] == 6) is stays


def test_a_neuron_that_was_never_on_where_was_asked_stays() -> None:
    rng = np.random.default_rng(2)
    (w, b), (v, c), last = random_weights((6, 8, 5, 2), rng, bias=0.5)
    x = rng.standard_normal((500, 6))
    c[3] = -1.01 * (np.maximum(x @ w.T + b, 0) @ v[3]).max()
    network = uv.Network.from_weights([(w, b), (v, c), last])
    y = network(x)
    assert without_twins(network, x, lambda f: float(np.abs(f(x) - y).max()), 1e-12) is network


def test_a_network_with_an_empty_row_is_left_to_the_check() -> None:
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.standard_normal((2, 3)), np.zeros(3)])
    network = Network.from_weights([(rows, np.zeros(3)), (np.ones((1, 3)), np.zeros(1))])
    x = rng.standard_normal((40, 3))
    assert settle(network, network, (x, network(x)), x, rng) is network


def test_neurons_read_twice_with_errors_are_joined_where_the_settled_one_explains_the_answers() -> None:
    rng = np.random.default_rng(3)
    (w, b), (v, c), (out, end) = random_weights((6, 8, 5, 2), rng, bias=0.5)
    x = rng.standard_normal((300, 6))
    y = relu_net([(w, b), (v, c), (out, end)])(x)
    off = 1e-5 * rng.standard_normal(8) * np.linalg.norm(v[0]) / np.sqrt(8)
    v2, c2 = np.concatenate([v, v[:1] - off]), np.append(c, c[0])
    v2[0] += off
    out2 = np.concatenate([out, out[:, :1] / 2], axis=1)
    out2[:, 0] /= 2
    network = uv.Network.from_weights([(w, b), (v2, c2), (out2, end)])

    def error(trial: Network) -> float:
        return float(np.abs(trial(x) - y).max())

    assert without_twins(network, x, error, 1e-7) is network  # too far apart to be the same but for rounding
    joined = without_twins(network, x, error, 1e-7, lambda trial: trial)
    assert joined.widths == (8, 5, 2)
    assert error(joined) < 1e-9
    spoiled = uv.Network.from_weights([(w, b), (v, c), (out, end + 1)])
    assert without_twins(network, x, error, 1e-7, lambda trial: spoiled) is network


def test_a_first_layer_neuron_that_sends_nothing_on_is_left_out(rng: np.random.Generator) -> None:
    weights = random_weights((5, 4, 3, 1), rng)
    x = rng.standard_normal((200, 5))
    y = uv.Network.from_weights(weights)(x)
    (a, b), (w, c), last = weights
    more = uv.Network.from_weights(
        [
            (np.vstack([a, rng.standard_normal(5)]), np.append(b, 0.3)),
            (np.column_stack([w, 7e-15 * rng.standard_normal(3)]), c),
            last,
        ]
    )

    def error(f: uv.Network) -> float:
        return float(np.abs(f(x) - y).max())

    found = without_silent(more, error, 1e-12)
    assert found.widths == (4, 3, 1)
    assert error(found) < 1e-13
    # One that sends on little, but something, stays.
    little = uv.Network.from_weights([*weights[:1], (w * [1, 1, 1, 1e-6], c), last])
    assert without_silent(little, lambda f: float(np.abs(f(x) - little(x)).max()), 1e-12).widths == (4, 3, 1)
