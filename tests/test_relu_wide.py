"""Wide inputs: a network read along a few directions first, then its first layer along all others."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_net
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.piecewise_linear import wide_input
from unveil.identification.piecewise_linear.critical_point import search
from unveil.identification.piecewise_linear.few_directions import Directions, Narrow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.wide_input import parallel, stations, widen
from unveil.identification.validation import FEWEST


def read(weights: Weights, seed: int, budget: int | None = None) -> tuple[uv.Identification, uv.Oracle]:
    oracle = uv.as_oracle(relu_net(weights), weights[0][0].shape[1], budget=budget)
    return uv.CriticalPoints()(oracle, rng=np.random.default_rng(seed)), oracle


def errors(network: uv.Network, weights: Weights) -> tuple[float, float]:
    """Of the worst row, both of unit norm, and of the answers at normal inputs."""
    true = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
    rows = network.layers[0].weights / np.linalg.norm(network.layers[0].weights, axis=1, keepdims=True)
    x = np.random.default_rng(99).standard_normal((5000, true.shape[1]))
    off = float(np.abs(network(x) - relu_net(weights)(x)).max())
    return max(float(np.abs(rows - row).max(axis=1).min()) for row in true), off


def test_along_a_few_directions_the_network_is_the_same() -> None:
    rng = np.random.default_rng(1)
    weights = random_weights((90, 10, 3), rng, bias=0.5)
    oracle = uv.as_oracle(relu_net(weights), 90)
    frame = Frame.of_input(90, None)
    noise = rounding(oracle, oracle.sample(4, rng), oracle.resolution, rng)
    line = search(oracle, frame, noise, rng, 1e4)
    assert line is not None
    directions = Directions.along(line, rng)
    assert directions is not None
    every = np.concatenate([directions.few, directions.others], axis=1)
    np.testing.assert_allclose(every.T @ every, np.eye(90), atol=1e-12)
    seen = directions.seen(line)
    t = np.linspace(-3, 3, 7)
    x = seen.inputs(t) @ directions.few.T * directions.longer
    np.testing.assert_allclose(x, line.inputs(t), atol=1e-12)
    narrow, asked = Narrow(oracle, directions), oracle.ledger.asked
    np.testing.assert_allclose(narrow(seen.inputs(t)), relu_net(weights)(x), atol=1e-12)
    assert oracle.ledger.asked == asked + len(t)


@pytest.mark.parametrize(("m", "hidden"), [(1, (9,)), (4, (9,)), (1, (9, 6)), (5, (9, 6))])
def test_the_first_layer_follows_from_places_where_few_neurons_are_active(m: int, hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    weights = random_weights((80, *hidden, m), rng, bias=0.5)
    oracle = uv.as_oracle(relu_net(weights), 80)
    every = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    directions = Directions(every[:, :20], every[:, 20:])
    lift = directions.longer * directions.few
    few = uv.Network.from_weights([(weights[0][0] @ lift, weights[0][1]), *weights[1:]])
    where = stations(few, np.eye(9), np.arange(9), rng)
    assert where is not None
    assert np.sort(np.concatenate([each.active for each in where])).tolist() == list(range(9))
    for each in where:
        # Nobody else is active.
        z = few.layers[0].affine(each.s[None])[0]
        assert (np.flatnonzero(z > 0) == each.active).all()
    noise = rounding(oracle, oracle.sample(4, rng), oracle.resolution, rng)
    asked = oracle.ledger.asked
    places = len(stations(few, np.eye(9), np.arange(9), deepcopy(rng)) or ())
    wide = widen(Probe(oracle, noise, rng), few, directions)
    assert wide is not None
    row, off = errors(wide, weights)
    assert row < 1e-12
    assert off < 1e-11
    assert oracle.ledger.asked - asked <= places * (60 + 5) + 9 * (1 if m == 1 else 2)


def test_neurons_are_told_elsewhere_where_a_place_has_no_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    weights = random_weights((80, 9, 6, 1), rng, bias=0.5)
    oracle = uv.as_oracle(relu_net(weights), 80)
    every = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    directions = Directions(every[:, :20], every[:, 20:])
    few = uv.Network.from_weights([(weights[0][0] @ (directions.longer * directions.few), weights[0][1]), *weights[1:]])
    noise = rounding(oracle, oracle.sample(4, rng), oracle.resolution, rng)
    measure, left = wide_input.derivatives, [3]

    def some(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        slope, error = measure(*given)
        lost = min(left.pop(), len(error)) if left else 0
        slope[:lost], error[:lost] = np.nan, np.inf
        return slope, error

    monkeypatch.setattr(wide_input, "derivatives", some)
    wide = widen(Probe(oracle, noise, rng), few, directions)
    assert wide is not None
    row, off = errors(wide, weights)
    assert row < 1e-12
    assert off < 1e-11
    left += [9] * 10
    assert widen(Probe(oracle, noise, rng), few, directions) is None


def test_parallel_rows_of_one_hidden_layer_leave_nothing_to_choose() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((20, 5, 1), rng, bias=0.5)
    weights[0][0][3] = -2 * weights[0][0][1]
    moves = parallel(weights[0][0])
    np.testing.assert_allclose(moves @ weights[0][0], weights[0][0], atol=1e-14)
    assert stations(uv.Network.from_weights(weights), moves, np.arange(5), rng) is None


@pytest.mark.parametrize("m", [1, 3])
def test_parallel_rows_and_such_that_nearly_follow_from_others_are_told_behind_two_layers(m: int) -> None:
    told = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = random_weights((80, 9, 8, m), rng, bias=0.5)
        rows, bias = weights[0]
        rows[4], rows[5] = 0.7 * rows[3], 1.2 * rows[3]
        bias[3:6] = np.array([0.3, 0.2, 0.35])
        rows[8] = rows[:4].sum(axis=0) / 2 + 1e-3 * rows[8]
        oracle = uv.as_oracle(relu_net(weights), 80)
        every = np.linalg.qr(rng.standard_normal((80, 80)))[0]
        directions = Directions(every[:, :20], every[:, 20:])
        few = uv.Network.from_weights([(rows @ (directions.longer * directions.few), bias), *weights[1:]])
        noise = rounding(oracle, oracle.sample(4, rng), oracle.resolution, rng)
        wide = widen(Probe(oracle, noise, rng), few, directions)
        if wide is not None:
            assert errors(wide, weights)[0] < 1e-10
        told.append(wide is not None)
    assert_rate(told, 0.5)


@pytest.mark.parametrize(
    ("sizes", "per_parameter"), [((300, 24, 1), 1.12), ((300, 24, 6), 0.27), ((200, 24, 12, 6), 0.9)]
)
def test_networks_on_many_inputs_to_the_last_digits(sizes: tuple[int, ...], per_parameter: float) -> None:
    asked = []
    for seed in range(2):
        weights = random_weights(sizes, np.random.default_rng(seed), bias=0.5)
        if seed:  # half of the first layer's weights zero
            weights[0][0][np.random.default_rng(7).random(weights[0][0].shape) < 0.5] = 0
        found, oracle = read(weights, seed)
        assert found.outcome is uv.Outcome.complete, (sizes, seed, found.why)
        assert found.network is not None
        row, off = errors(found.network, weights)
        assert row < 2**-28, (sizes, seed)
        assert off < 1e-8, (sizes, seed)
        asked.append(oracle.ledger.asked)
    parameters = sum(w.size + b.size for w, b in weights)
    # Besides: the check's points, and what is asked to see how rounding differs from place to place.
    assert np.mean(asked) <= per_parameter * parameters + 3 * FEWEST, (sizes, asked)


def test_a_linear_part_beside_the_neurons() -> None:
    weights = random_weights((70, 4, 1), np.random.default_rng(3), bias=0.5)
    slope = np.random.default_rng(4).standard_normal((70, 1)) / 10
    truth = relu_net(weights)
    oracle = uv.as_oracle(lambda x: truth(x) + x @ slope, 70)
    found = uv.CriticalPoints()(oracle, rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    x = np.random.default_rng(5).standard_normal((1000, 70))
    np.testing.assert_allclose(found.network(x), truth(x) + x @ slope, atol=1e-9)


def test_a_budget_that_ends_along_the_few_directions() -> None:
    weights = random_weights((200, 8, 1), np.random.default_rng(0), bias=0.5)
    found, oracle = read(weights, 0, budget=1500)
    assert found.outcome is uv.Outcome.budget_ended
    assert found.network is None
    assert oracle.ledger.asked <= 1500
    assert any("directions" in why for why in found.why)


def test_rarely_switched_neurons_are_met_on_both_sides() -> None:
    rng = np.random.default_rng(6)
    weights = random_weights((40, 12, 6, 3), rng, bias=0.5)
    weights[1][1][0] = 2.5  # nearly always active
    network = uv.Network.from_weights(weights)
    x = rng.standard_normal((400, 40))

    def fewest(points: np.ndarray) -> int:
        on = network.layers[1].affine(network.layers[0](points)) > 0
        return int(np.minimum(on.sum(axis=0), (~on).sum(axis=0)).min())

    moved = both_sides(network, x)
    assert fewest(x) < 10
    assert fewest(moved) >= 15
    assert np.linalg.norm(moved, axis=1).max() < 3 * np.linalg.norm(x, axis=1).max()


def test_neurons_are_met_with_each_value_that_they_see() -> None:
    rng = np.random.default_rng(6)
    weights = random_weights((40, 12, 6, 3), rng, bias=0.5)
    weights[0][1][:2] -= 2.0 * np.linalg.norm(weights[0][0][:2], axis=1)
    weights[1][1][:2] -= 2.0 * np.linalg.norm(weights[1][0][:2], axis=1)
    network = uv.Network.from_weights(weights)
    x = rng.standard_normal((600, 40))

    def together(points: np.ndarray) -> np.ndarray:
        h, z = network.preactivations(points, 1)
        return (z > 0).T.astype(int) @ (h > 0)

    moved = both_sides(network, x)
    assert together(x).min() == 0
    assert together(moved).min() >= 3
    assert np.linalg.norm(moved, axis=1).max() < 3 * np.linalg.norm(x, axis=1).max()


def test_sides_that_no_gradient_leads_to_are_met_from_points_that_are_there() -> None:
    # Behind two bumps along the first input, of heights 0.6 (at 0) and 1 (at 8), a neuron is on near the top of the
    # second alone: from the first, where nearly all points are, gradients lead to its top and no further.
    bumps = np.array([-1.0, 0.0, 1.0, 7.0, 8.0, 9.0])
    heights = np.array([0.6, -1.2, 0.6, 1.0, -2.0, 1.0])
    hidden = uv.Network.from_weights(
        [(np.eye(1, 3).repeat(6, axis=0), -bumps), (heights[None], np.array([-0.8])), (np.ones((1, 1)), np.zeros(1))]
    )
    x = np.random.default_rng(0).standard_normal((200, 3))
    x[0, 0] = 8.0
    moved = both_sides(hidden, x, first=1)
    on = hidden.preactivations(moved, 1)[1][:, 0] > 0
    assert on.sum() >= 10
    assert (~on).sum() >= 10
    # What tells the neuron's weights are different slopes: both sides of the top, not copies of one point.
    assert len(np.unique(moved[on, 0])) >= 10
    np.testing.assert_array_equal(both_sides(hidden, x, first=2), x)
