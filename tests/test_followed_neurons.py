"""Neurons behind a first layer wider than the input, whose hyperplanes are followed across that layer's."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.line import unit_rows
from unveil.blackbox.rounding import rounding
from unveil.identification.piecewise_linear import behind_first_layer, followed_neurons
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.followed_neurons import FollowedNeuron, follow, sides
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading

N, K, Q = 4, 10, 6


class _Case(NamedTuple):
    """A network, its first layer of unit rows with some sides turned, and which neurons were followed to what."""

    truth: uv.Network
    layer: tuple[np.ndarray, np.ndarray]
    turned: np.ndarray
    followed: dict[int, FollowedNeuron]


def _case(seed: int, behind: tuple[int, ...] = (), vague: float = 0.0) -> _Case:
    """With layers of these widths behind the second, followed from normals that are so far off."""
    rng = np.random.default_rng(seed)
    widths = (N, K, Q, *behind, 2)
    weights = [(rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k)) for n, k in pairwise(widths)]
    truth = uv.Network.from_weights(weights)
    probe = Probe(truth, rounding(truth, rng.standard_normal((4, N)), 2e-16, rng), rng)
    (W, b), (second, _), *_ = weights
    size, turned = np.linalg.norm(W, axis=1), rng.choice([-1.0, 1.0], K)
    layer = turned[:, None] * W / size[:, None], turned * b / size
    followed = {}
    for i in range(Q):
        there = truth.preactivations(x := rng.standard_normal((200, N)), 1)[1][:, i]
        if not (there > 0).any() or not (there < 0).any():
            continue
        low, high = x[there < 0][0], x[there > 0][0]
        for _ in range(60):
            middle = (low + high) / 2
            up = truth.preactivations(middle[None], 1)[1][0, i] > 0
            low, high = (low, middle) if up else (middle, high)
        normal = second[i] @ ((W @ high + b > 0)[:, None] * W)
        length = float(np.linalg.norm(normal))
        step = 1e-7 * normal / length
        bent = truth(np.stack([high - step, high, high + step]))
        jump = (bent[0] - 2 * bent[1] + bent[2]) / 1e-7
        one = follow(probe, layer, CriticalPoint(high, normal / length + vague * rng.standard_normal(N), vague, jump))
        if one is not None:
            followed[i] = one
    return _Case(truth, layer, turned, followed)


@pytest.mark.parametrize("seed", range(4))
def test_bends_tell_weights_whichever_side_is_active(seed: int) -> None:
    truth, (rows, _), _, followed = _case(seed)
    assert len(followed) >= Q - 2
    size = np.linalg.norm(truth.layers[0].dense(), axis=1)
    for i, one in followed.items():
        true = truth.layers[1].dense()[i] * size
        scale = one.weights[one.known] @ true[one.known] / (true[one.known] @ true[one.known])
        np.testing.assert_allclose(one.weights[one.known], scale * true[one.known], atol=1e-7 * abs(scale))
        assert one.known.sum() >= K / 2
        assert rows.shape == (K, N)


def test_a_bend_is_told_as_it_is_or_not_at_all(rng: np.random.Generator) -> None:
    """Wherever it passes between the points around a crossing, and where another one passes there too."""
    told, plane = 0, followed_neurons._fan()
    for _ in range(200):
        angle = rng.uniform(-np.pi / 2, np.pi / 2)
        jump = rng.uniform(0.1, 10) * np.array([-np.sin(angle), np.cos(angle)])
        answers = (1 + plane @ rng.standard_normal(2) + np.maximum(plane @ jump, 0))[:, None]
        found = followed_neurons._two_pieces(plane, answers, 1e-14)
        if found is not None:
            told += 1
            np.testing.assert_allclose(found[0][:2, 0], jump, atol=1e-8 * np.linalg.norm(jump))
        away = rng.choice([-1, 1]) * rng.uniform(0.2, 1.1)
        other = rng.uniform(0.1, 10) * np.array([-np.sin(away), np.cos(away)])
        both = answers + np.maximum(plane @ other, 0)[:, None]
        found = followed_neurons._two_pieces(plane, both, 1e-14)
        if found is not None:
            # Both between the same two points, or one outside: a single one for all that can be seen.
            ahead = plane @ other > 0, plane @ jump > 0
            assert (ahead[0] == ahead[1]).all() or (ahead[0] == ~ahead[1]).all() or ahead[1].all() or not ahead[1].any()
    assert told > 100


@pytest.mark.parametrize("seed", range(4))
def test_weights_that_do_not_make_up_the_slope_are_no_neuron_s(seed: int) -> None:
    _, layer, turned, followed = _case(seed)
    told = [one for one in followed.values() if one.behind(layer, turned, 0) is not None]
    assert len(told) >= len(followed) - 1
    for one in told:
        met = int(np.flatnonzero(one.known)[0])
        wrong = one.weights + 1e-3 * np.abs(one.weights).max() * np.eye(K)[met]
        assert replace(one, weights=wrong).behind(layer, turned, 0) is None


def test_of_parallel_rows_that_were_not_met_only_the_sum_is_told() -> None:
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0][:4]
    rows[3], bias = rows[2], np.array([0.1, 0.2, 0.3, 0.31])
    weights, turned = np.array([1.0, -2.0, 0.5, 0.7]), np.ones(4)
    slope = weights @ rows - (weights[:2] @ rows[:2]) / 2
    for met, theirs in ((2, False), (3, True)):
        known = np.arange(4) < met
        part = slope - (weights * known)[2:] @ rows[2:] / 2
        one = FollowedNeuron(np.where(known, weights, 0), known, np.ones(4), part, 0.0, 1e-12, np.zeros(5))
        assert (one.behind((rows, bias), turned, 0) is not None) == theirs


@pytest.mark.parametrize("behind", [(), (12, 12)])
@pytest.mark.parametrize("seed", range(4))
def test_what_no_bend_explains_tells_the_sides(seed: int, behind: tuple[int, ...]) -> None:
    """Also where the layers behind pass on another part of a neuron at each crossing."""
    _, layer, turned, followed = _case(seed, behind)
    np.testing.assert_array_equal(sides(layer, list(followed.values())), turned)
    # One neuron has fewer equations than there are sides.
    assert sides(layer, list(followed.values())[:1]) is None


@pytest.mark.parametrize("seed", range(4))
def test_behind_settled_sides_it_is_the_neuron_and_zero_where_that_is(seed: int) -> None:
    truth, layer, turned, followed = _case(seed)
    size = np.linalg.norm(truth.layers[0].dense(), axis=1)
    rng = np.random.default_rng(seed)
    for i, one in followed.items():
        neuron = one.behind(layer, turned, -1)
        if neuron is None:
            assert (~one.known).sum() >= N
            continue
        true = np.append(truth.layers[1].dense()[i] * size, truth.layers[1].bias[i])
        known = np.append(neuron.known, True)
        mine = np.append(neuron.weights, neuron.bias)[known]
        scale = mine @ true[known] / (true[known] @ true[known])
        np.testing.assert_allclose(mine, scale * true[known], atol=1e-6 * abs(scale))
        x = rng.standard_normal((50, N))
        assert not any(one.zero(layer, each) for each in x)


def test_it_is_zero_where_it_was_met_and_its_weights_are_as_vague_as_the_normal_there() -> None:
    met = 0
    for seed in range(4):
        truth, layer, turned, followed = _case(seed, vague=1e-8)
        size = np.linalg.norm(truth.layers[0].dense(), axis=1)
        for i, one in followed.items():
            neuron = one.behind(layer, turned, -1)
            if neuron is None:
                continue
            met += 1
            h = np.maximum(turned * (layer[0] @ one.at + layer[1]), 0)
            assert abs(neuron.weights @ h + neuron.bias) < 1e-13 * (1 + np.linalg.norm(h))
            true = truth.layers[1].dense()[i] * size * neuron.known
            true *= np.sign(true @ neuron.weights) / np.linalg.norm(true)
            off = np.abs(neuron.weights - true).max()
            assert off < 30 * np.sqrt(neuron.spread.diagonal().max())
    assert met > 6


def test_nothing_bends_at_a_hyperplane_of_no_neuron(rng: np.random.Generator) -> None:
    truth, (rows, bias), turned, followed = _case(0)
    i, one = next(iter(followed.items()))
    # A point on the same hyperplane, from what was read of it.
    x = rng.standard_normal((4000, N))
    up = truth.preactivations(x, 1)[1][:, i] > 0
    low, high = x[~up][0], x[up][0]
    for _ in range(60):
        middle = (low + high) / 2
        above = truth.preactivations(middle[None], 1)[1][0, i] > 0
        low, high = (low, middle) if above else (middle, high)
    active = (rows @ high + bias) * turned > 0
    normal = (turned * one.behind((rows, bias), turned, -1).weights * active) @ rows
    length = float(np.linalg.norm(normal))
    step = 1e-7 * normal / length
    bent = truth(np.stack([high - step, high, high + step]))
    jump = (bent[0] - 2 * bent[1] + bent[2]) / 1e-7
    false = rng.standard_normal(N)
    false /= np.linalg.norm(false)
    layer = np.vstack([rows, false]), np.append(bias, -float(false @ high) + 0.1)
    probe = Probe(truth, rounding(truth, rng.standard_normal((4, N)), 2e-16, rng), rng)
    found = follow(probe, layer, CriticalPoint(high, normal / length, 0.0, jump))
    assert found is not None
    assert found.known[-1]
    assert abs(found.weights[-1]) < 1e-6 * np.abs(found.weights).max()
    assert len(found.among(np.arange(K + 1) < K).weights) == K


def test_a_network_wider_than_its_input_is_read_whole(rng: np.random.Generator) -> None:
    widths = (8, 25, 5, 1)
    truth = uv.Network.from_weights(
        [(rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k)) for n, k in pairwise(widths)]
    )
    found = uv.identify(uv.as_oracle(truth, truth.n), uv.CriticalPoints(), rng=rng)
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    match = uv.compare(found.network, truth)
    assert not match.missing
    assert not match.false


def test_sides_of_a_first_layer_wider_than_the_input_are_settled_right_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[Reading, list[Neuron]]] = []

    def settle(*args: Reading) -> tuple[Reading, list[Neuron]]:
        told.append(followed_neurons.settle_wide(*args))  # type: ignore[arg-type]
        return told[-1]

    monkeypatch.setattr(behind_first_layer, "settle_wide", settle)
    settled = 0
    for seed in range(8):
        rng = np.random.default_rng([41, seed])
        widths = (3, 9, 4, 1)
        weights = [
            (rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k)) for n, k in pairwise(widths)
        ]
        truth = uv.Network.from_weights(weights)
        told.clear()
        uv.CriticalPoints()(uv.as_oracle(truth, 3, budget=8000), rng=rng)
        size = np.linalg.norm(weights[0][0], axis=1)
        true, second = weights[0][0] / size[:, None], weights[1][0] * size
        for state, behind in told:
            assert state.settled or not behind
            if not state.settled or state.layer is None:
                continue
            settled += 1
            rows = state.layer[0] / np.linalg.norm(state.layer[0], axis=1, keepdims=True)
            likeness = rows @ true.T
            assert likeness.max(axis=1).min() > 1 - 1e-8  # with its sign
            for neuron in behind:
                known = second[:, likeness.argmax(axis=1)][:, neuron.known]
                w = neuron.weights[neuron.known]
                cosines = known @ w / np.linalg.norm(known, axis=1) / np.linalg.norm(w)
                assert np.abs(cosines).max() > 1 - 1e-8
    assert settled


def test_neurons_that_explain_hardly_any_of_many_breakpoints_end_the_reading() -> None:
    rng = np.random.default_rng(5)
    layer = (rng.standard_normal((9, 4)), rng.standard_normal(9))
    row = rng.standard_normal(9)
    frame, x = Frame.of_input(4, None), rng.standard_normal((behind_first_layer.FOREIGN, 4))
    h = np.maximum(x @ layer[0].T + layer[1], 0)

    def deep(share: float) -> bool:
        """Whether so many breakpoints on its hyperplane are too few for a neuron of the second layer."""
        on = np.flatnonzero(np.arange(len(x)) < share * len(x))
        # Each point is met on the hyperplane of the neuron with the bias that goes through the first of them.
        at = x.copy()
        for i in on:
            for _ in range(30):
                active = layer[0] @ at[i] + layer[1] > 0
                slope = row[active] @ layer[0][active]
                z = row @ np.maximum(layer[0] @ at[i] + layer[1], 0) - row @ h[0]
                at[i] -= z * slope / max(slope @ slope, 1e-3)
        planes = Hyperplanes.through(frame, at, unit_rows(at), np.ones((len(at), 1)), np.full(len(at), 1e-9))
        found = LayerFound.nothing(frame, 1).with_bent(planes, np.zeros(len(at), dtype=bool))
        return behind_first_layer._too_deep(layer, [Neuron.given(row, -float(row @ h[0]), 1e-9)], found)

    assert deep(0.0)
    assert not deep(0.6)
