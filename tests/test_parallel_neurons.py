"""Neurons of a first layer that training has made parallel: their sides, and where only the others are active."""

from __future__ import annotations

import numpy as np

import unveil as uv
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.parallel_neurons import behind_parallel
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.sharpening import sharpened
from unveil.identification.piecewise_linear.sign_recovery import by_vanishing, dependent


def _rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Six neurons on eight inputs, the last three of them parallel, up to sign."""
    rows = rng.standard_normal((6, 8))
    rows[4], rows[5] = rows[3], -rows[3]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.r_[rng.standard_normal(3), 0.3, 0.31, -0.32]


def test_parallel_neurons_are_bound_to_each_other_and_to_no_others(rng: np.random.Generator) -> None:
    bound = dependent(_rows(rng)[0])
    assert bound[3:, 3:].all()
    assert not bound[:3].any()
    assert not bound[:, :3].any()


def test_sides_of_parallel_neurons_follow_from_where_none_is_active(rng: np.random.Generator) -> None:
    rows, bias = _rows(rng)
    # All three look the same way in truth; as they were read, up to sign, one is turned.
    side = np.array([1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    x = rng.standard_normal((60, 8))
    z = x @ rows.T + bias
    weight = rng.standard_normal((2, 6))
    # A few places in between, where some of the three are active: there their sum is of either size.
    x[:3] -= (z[:3, 3] - 0.005)[:, None] * -rows[3] + 2 * z[:3, 3, None] * rows[3] - 0.01 * rows[3]
    z = x @ rows.T + bias
    slope = np.einsum("mk,pk,kd->pmd", weight, (z * side > 0).astype(float), rows * side[:, None])
    assert (by_vanishing(rows, z, slope)[0] == side).all()


def test_beside_parallel_neurons_all_others_can_be_chosen(rng: np.random.Generator) -> None:
    rows, bias = _rows(rng)
    rows[5], bias[5] = rows[3], 0.32
    beside = Frame.of_input(8, None).beside((rows[:3], bias[:3]), (rows[3:], bias[3:]))
    assert beside is not None
    frame = beside.frame
    x = frame.sample(50, rng)
    z = x @ rows.T + bias
    assert (z[:, :3] > 0).all()
    assert (z[:, 3:] < 0).all()
    np.testing.assert_allclose(np.ptp(z[:, 3:], axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(frame.M @ frame.V, np.eye(3), atol=1e-12)
    # Two that look opposite ways from one hyperplane are never inactive both.
    opposite = np.stack([rows[3], -rows[3]]), np.array([0.3, -0.3])
    assert Frame.of_input(8, None).beside((rows[:3], bias[:3]), opposite) is None


def test_weights_for_parallel_neurons_follow_from_where_they_are_on_and_off_in_turn(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((11, 16))
    rows[9], rows[10] = rows[8], rows[8]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    bias = np.r_[0.3 * rng.standard_normal(8), 0.1, 0.13, 0.17]
    free = np.arange(11) < 8
    inner, outer = rng.standard_normal((5, 11)), rng.standard_normal((1, 5))
    weights = [(rows, bias), (inner, rng.standard_normal(5)), (outer, np.zeros(1))]
    truth = uv.Network.from_weights(weights)
    oracle = uv.as_oracle(truth.logits, shape=16)
    ask, frame = Asked(oracle), Frame.of_input(16, None)
    beside = frame.beside((rows[free], bias[free]), (rows[~free], bias[~free]))
    assert beside is not None
    noise = rounding(ask, frame.sample(4, rng), oracle.resolution, rng)
    given, _ = behind_parallel(Probe(ask, noise, rng), beside, free, 1e-12, far=1e4, most_lines=12)
    whole = [neuron for neuron in given if neuron.known.all()]
    assert len(whole) >= 2
    unit = inner / np.linalg.norm(inner, axis=1, keepdims=True)
    for neuron in whole:
        assert np.abs(unit @ neuron.weights).max() > 1 - 1e-9


def test_a_row_is_not_taken_from_pieces_that_meet_off_its_hyperplane(rng: np.random.Generator) -> None:
    """A deeper neuron that switches on and off again beside a hyperplane moves where the pieces meet."""
    row = np.array([1.0, 0.0, 0.0])
    # relu(x0), and a deeper bump that makes a step: the answers bend at 0, then go up by 0.3 around 0.2.
    weights = [
        (np.array([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]]), np.array([0.0, -0.2, -0.21])),
        (np.array([[1.0, 30.0, -30.0]]), np.zeros(1)),
    ]
    truth = uv.Network.from_weights(weights)
    oracle = uv.as_oracle(truth.logits, shape=3)
    ask, frame = Asked(oracle), Frame.of_input(3, None)
    probe = Probe(ask, rounding(ask, frame.sample(4, rng), oracle.resolution, rng), rng)
    tilt = np.array([1.0, 1e-8, 0.0])
    planes = Hyperplanes(tilt[None], np.zeros(1), np.ones((1, 1)), np.array([1e-7]), np.zeros((1, 3)))
    found = sharpened(probe, frame, LayerFound.nothing(frame, 1).with_straight(planes), [0])
    assert abs(found.bias[0]) < 1e-6
    assert abs(found.rows[0] @ row) > 1 - 1e-12
