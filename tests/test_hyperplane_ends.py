"""Half hyperplanes of narrow networks: what meets at their ends tells a first-layer neuron's from a deeper one's."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import flipped, relu_net
from unveil.blackbox.rounding import rounding
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.layer_membership import told_by_ends
from unveil.identification.piecewise_linear.probe import Probe


def _told(v: np.ndarray, seed: int) -> np.ndarray:
    """Of f = -3 relu(v relu(A x) - 1), v of two weights: first-layer hyperplane 0, the deeper one's piece behind it."""
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.standard_normal((5, 5)))[0][:2]
    net = relu_net([(rows, np.zeros(2)), (v[None], np.array([-1.0])), (np.array([[-3.0]]), np.zeros(1))])
    oracle = uv.as_oracle(flipped(net, rng), shape=5)
    frame = Frame.of_input(5, None)
    noise = rounding(oracle, frame.sample(4, rng), oracle.resolution, rng)
    # In coordinates h = A x. The second neuron's hyperplane h1 = 0 is met where h0 switches the deeper one on, and the
    # deeper one's, at h0 = 1 / v0, where the second neuron is inactive.
    places = {"met": [[2 / v[0], 0.0], [1 / v[0], -0.7]], "gone": [[0.3 / v[0], 0.0], [1 / v[0], 0.8]]}
    aside = rng.standard_normal((2, 5))
    aside -= aside @ rows.T @ rows
    met, gone = (np.array(places[name]) @ rows + aside for name in ("met", "gone"))
    jump = np.array([[-3 * v[1]], [-3 * v[0]]])
    planes = Hyperplanes(rows[[1, 0]], np.array([0.0, -1 / v[0]]), jump, np.full(2, 1e-12), met)
    return told_by_ends(Probe(oracle, noise, rng), frame, planes, gone)


@pytest.mark.parametrize("seed", range(6))
def test_where_a_weight_into_the_deeper_neuron_is_negative_ends_tell_both(seed: int) -> None:
    v = np.array([2.0, -0.5]) + 0.2 * np.random.default_rng(seed).random(2)
    assert _told(v, seed).tolist() == [1, -1]


def test_where_all_weights_are_positive_the_pieces_look_alike_and_nothing_is_told() -> None:
    told = [_told(np.array([2.0, 0.6]) + 0.2 * np.random.default_rng(seed).random(2), seed) for seed in range(6)]
    assert not np.any(told)


def test_a_hyperplane_that_ends_at_one_that_goes_on_bends_there() -> None:
    """f = relu(x0 + relu(x1)) + 0.7 relu(x1): both signs are alike, but x1 = 0 is met on both sides of x0 = 0."""

    def answer(x: np.ndarray) -> np.ndarray:
        second = np.maximum(x[:, 1:], 0)
        return np.asarray(np.maximum(x[:, :1] + second, 0) + 0.7 * second)

    rng, frame = np.random.default_rng(0), Frame.of_input(2, None)
    oracle = uv.as_oracle(answer, shape=2)
    noise = rounding(oracle, frame.sample(4, rng), oracle.resolution, rng)
    met, gone = np.array([[0.0, -1.0]]), np.array([[0.0, 1.0]])
    planes = Hyperplanes(np.array([[1.0, 0]]), np.zeros(1), np.array([[1.0]]), np.full(1, 1e-12), met)
    assert told_by_ends(Probe(oracle, noise, rng), frame, planes, gone).tolist() == [-1]
