"""Gauss-Newton steps from a network that is nearly right, and the points that settle its weights."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import assert_rate
from unveil.identification.fitting.design import finish_around, fitted, most_telling, settle
from unveil.identification.fitting.output_layer import Asked
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.network import Layer, Network


def _network(rng: np.random.Generator, widths: tuple[int, ...] = (5, 6, 4, 2)) -> Network:
    kinds = ["relu"] * (len(widths) - 2) + ["identity"]
    return Network(
        tuple(
            Layer(rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k), ACTIVATIONS[kind])
            for n, k, kind in zip(widths, widths[1:], kinds, strict=False)
        )
    )


def test_one_step_squares_a_small_error_and_leaves_the_layers_before() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = _network(rng)
        x = rng.standard_normal((400, 5))
        moved = [truth.layers[0]] + [
            Layer(a.weights + 1e-7 * rng.standard_normal(a.weights.shape), a.bias, a.activation)
            for a in truth.layers[1:]
        ]
        start = Network(tuple(moved))
        found = fitted(start, x, truth(x), first=1, steps=1)
        before, after = (np.abs(each(x) - truth(x)).max() for each in (start, found))
        assert after < 1e-4 * before
        np.testing.assert_array_equal(found.layers[0].weights, truth.layers[0].weights)


Places = tuple[np.ndarray, np.ndarray]


def _off_by_one_weight(rng: np.random.Generator) -> tuple[Network, Network, Places, tuple[int, int]]:
    """A network, one with a smaller weight in its second layer, points at which that one does not matter, and others.

    At these both have the same neurons active.
    """
    truth = _network(rng, (5, 6, 4, 1))
    x = rng.standard_normal((3000, 5))
    below, z = truth.preactivations(x, 1)
    together = (z > 0).T.astype(float) @ (below > 0)
    together[((z > 0).sum(axis=0) < 100)[:, None] | (together < 10)] = np.inf
    i, j = np.unravel_index(int(together.argmin()), together.shape)
    both = (z[:, i] > 0) & (below[:, j] > 0)
    second = truth.layers[1]
    weights = second.weights.copy()
    weights[i, j] -= 0.1 * abs(weights[i, j])
    start = Network((truth.layers[0], Layer(weights, second.bias, second.activation), truth.layers[2]))
    alike = both & (start.preactivations(x, 1)[1][:, i] > 0)
    return truth, start, (x[~both], x[alike]), (int(i), int(j))


def test_a_weight_that_no_answer_tells_is_settled_by_answers_of_the_pool() -> None:
    settled = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth, start, (x, both), (i, j) = _off_by_one_weight(rng)
        asked: list[np.ndarray] = []

        def ask(points: np.ndarray, truth: Network = truth, asked: list[np.ndarray] = asked) -> np.ndarray:
            asked.append(points)
            return truth(points)

        x = x[:200]
        found = settle(ask, start, (x, truth(x)), np.concatenate([x, both]), rng)
        row, true = found.layers[1].weights[i], truth.layers[1].weights[i]
        # The others were right from the start, and stay so.
        alike = abs(row[j] / np.linalg.norm(row) - true[j] / np.linalg.norm(true)) < 1e-9
        settled.append(bool(alike and np.abs(found(x) - truth(x)).max() < 1e-11))
        assert 0 < sum(map(len, asked)) <= 90
    assert_rate(settled, 0.9, "settled")


def test_the_most_telling_answers_leave_every_other_one_known(rng: np.random.Generator) -> None:
    G = rng.standard_normal((300, 12)) * 100
    chosen = most_telling(G, 40, 30.0)
    assert 12 <= len(chosen) < 40
    known = np.eye(12) + G[chosen].T @ G[chosen]
    left = np.sqrt(np.einsum("ij,jk,ik->i", G, np.linalg.inv(known), G))
    assert left[np.setdiff1d(np.arange(300), chosen)].max() < 30.0
    # With no error allowed all that is told at all is taken, and no answer that tells nothing.
    G[40:] = 0
    assert sorted(most_telling(G, 300, 0.0)) == list(range(40))
    assert not len(most_telling(np.zeros((5, 12)), 3, 0.0))


def test_weights_that_few_inputs_feel_are_settled_by_answers_from_there() -> None:
    ends: list[bool] = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = _network(rng)
        x = rng.standard_normal((100_000, 5))
        second = truth.layers[1]
        # The first neuron of the second layer is on at one input in a thousand.
        bias, weights = second.bias.copy(), second.weights.copy()
        bias[0] -= np.quantile(truth.preactivations(x, 1)[1][:, 0], 0.999)
        truth = Network((truth.layers[0], Layer(weights, bias, second.activation), truth.layers[2]))
        weights = weights.copy()
        weights[0] += 1e-6 * rng.standard_normal(6)
        start = Network((truth.layers[0], Layer(weights, bias, second.activation), truth.layers[2]))
        on = x[truth.preactivations(x, 1)[1][:, 0] > 0]
        wrong = on[np.argsort(-np.abs(start(on) - truth(on)).max(axis=1))[:3]]
        found = finish_around(Asked(uv.as_oracle(truth.logits, 5)), start, wrong, rng)
        before, after = (np.abs(each(on) - truth(on)).max() for each in (start, found))
        usual = x[:300]
        assert np.abs(fitted(start, usual, truth(usual))(on) - truth(on)).max() > 1e-3 * before  # those do not tell
        ends.append(bool(after < 1e-3 * before))
    assert_rate(ends, 0.9)
