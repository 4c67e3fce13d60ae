"""Weights and neurons that matter at hardly any input: where they are looked for, and what tells them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.deeper_state import Points, refuting
from unveil.identification.piecewise_linear.expected_breakpoints import Ways
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.roomy_places import REACH, roomiest


def rare(seed: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], Neuron]:
    """Two layers and a third one's neuron that needs three of its six positive weights at once; three are unknown."""
    rng = np.random.default_rng(seed)
    layers = random_weights((12, 8, 8), rng, bias=0.3)
    row = np.where(np.arange(8) < 5, 1.0, -1.0) / np.sqrt(8)
    known = np.arange(8) < 5
    spread = 1e-12 * np.eye(9)
    return layers, Neuron(row * known, -1.5, known, (0,), spread)


def test_a_place_where_one_weight_begins_is_found_however_rare_it_is() -> None:
    met = 0
    for seed in range(4):
        layers, neuron = rare(seed)
        for j in (5, 6, 7):
            x = roomiest(layers, neuron, j, 1.0)
            if x is None:
                continue
            met += 1
            h, J = local(layers, x)
            assert h @ neuron.weights + neuron.bias == pytest.approx(0, abs=1e-6)
            assert [i for i in (5, 6, 7) if h[i] > 0] == [j]
            inner = layers[0][0] @ x
            assert (np.abs(inner) <= REACH[1] * np.linalg.norm(layers[0][0], axis=1) * (1 + 1e-6)).all()
            # Nothing switches while the value goes back to half of what it is.
            away = x - J[j] * (h[j] / 2) / (J[j] @ J[j])
            assert local(layers, away)[1] == pytest.approx(J)
    assert met >= 9


def test_a_weight_that_begins_only_as_far_out_as_networks_are_checked_has_a_place() -> None:
    met = 0
    for seed in range(4):
        layers, neuron = rare(seed)
        for j in (5, 6, 7):
            x = roomiest(layers, replace(neuron, bias=-15.0), j, 1.0)
            if x is None:
                continue
            met += 1
            h = local(layers, x)[0]
            assert h @ neuron.weights == pytest.approx(15, abs=1e-6)
            far = np.abs(layers[0][0] @ x) / np.linalg.norm(layers[0][0], axis=1)
            assert REACH[0] < far.max() <= REACH[1] * (1 + 1e-6)
    assert met >= 2


def test_weights_at_parallel_rows_begin_one_after_the_other_and_nearby() -> None:
    found = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        W, b = rng.standard_normal((8, 10)), 0.3 * rng.standard_normal(8)
        # Three look the same way, one thousandth apart, and what others see nearly tells what they see.
        W[5] = W[:5].T @ rng.standard_normal(5) + 1e-3 * rng.standard_normal(10)
        W[6:] = W[5]
        size = np.linalg.norm(W, axis=1)
        W, b = W / size[:, None], np.append(b[:5], [0.012, 0.011, 0.01])
        weights, known = np.append(rng.standard_normal(5), np.zeros(3)), np.arange(8) < 5
        neuron = Neuron(weights, 0.2 * rng.standard_normal(), known, (0,), 1e-12 * np.eye(9))
        assert roomiest([(W, b)], neuron, 6, 1.0) is None
        assert roomiest([(W, b)], neuron, 7, 1.0) is None
        for j, ahead in ((5, ()), (6, (5,)), (7, (5, 6))):
            told = known | np.isin(np.arange(8), ahead)
            x = roomiest([(W, b)], replace(neuron, known=told), j, 1.0)
            if x is None:
                continue
            found += 1
            h = local([(W, b)], x)[0]
            assert [i for i in (5, 6, 7) if h[i] > 0] == [*ahead, j]
            assert np.linalg.norm(x) < REACH[0] * np.sqrt(10) * 1.01
    assert found >= 12


def test_a_weight_that_begins_nowhere_has_no_place() -> None:
    layers, neuron = rare(0)
    W, b = layers[1]
    W, b = np.vstack([W[:7], -np.abs(W[7])]), np.append(b[:7], -1.0)
    assert roomiest([layers[0], (W, b)], neuron, 7, 1.0) is None
    assert roomiest([layers[0], layers[1]], replace(neuron, bias=1e3), 5, 1.0) is None


def test_what_a_neuron_is_off_is_seen_where_it_is_met() -> None:
    rng = np.random.default_rng(3)
    weights = random_weights((8, 6, 4, 1), rng, bias=0.5)
    net = uv.Network.from_weights(weights)
    frame = Frame.of_input(8, None)
    noise = rounding(net, frame.sample(4, rng), 1e-16, rng)
    lines = line_search(net, *frame.lines(12, 10.0, rng), noise, rng)
    row = weights[1][0][0] / np.linalg.norm(weights[1][0][0])
    bias = weights[1][1][0] / np.linalg.norm(weights[1][0][0])
    for off, stated in ((0.0, 1e-6), (1e-6, 1e-6)):
        neuron = Neuron.given(row, bias + off, stated)
        (told,) = Ways.of(weights[:1], lines, 1e-12).deviations([neuron])
        assert len(told) > 4
        assert (told.max() > 0.05) == (off > 0)


def test_answers_that_refute_a_network_are_kept_however_many_there_are() -> None:
    rng = np.random.default_rng(5)
    net = uv.Network.from_weights(random_weights((5, 4, 1), rng, bias=0.5))
    other = uv.Network.from_weights(random_weights((5, 4, 1), rng, bias=0.5))
    asked = Asked(uv.as_oracle(net, 5), most=10)
    points = Points(Frame.of_input(5, None), 10.0, rng)
    assert refuting(asked, net, points, 1e-9, True) is None
    told = refuting(asked, other, points, 1e-9, True)
    assert told is not None
    x, y = asked.all()
    assert np.array_equal(x[-len(told[0]) :], told[0])
    assert np.array_equal(y[-len(told[1]) :], net(told[0]))
