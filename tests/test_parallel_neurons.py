"""Neurons of a first layer that training has made parallel: which they are, their sides, and their rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import _searched, finished, layer_steps
from unveil.identification.piecewise_linear.parallel_rows import LINES, across_parallel
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.sharpening import sharpened
from unveil.identification.piecewise_linear.sign_recovery import by_share, dependent


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
    assert (by_share(rows, z, slope)[0] == side).all()


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


def test_a_line_beside_all_rows_ends_before_their_errors_switch_one(rng: np.random.Generator) -> None:
    """Else deeper neurons, which see nothing new out there, look like neurons of the layer being read."""
    far, error = 1e5, 1e-4
    beyond_reach = 0
    for _ in range(20):
        rows = rng.standard_normal((4, 8))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        truth = uv.Network.from_weights([(rows, 0.3 * rng.standard_normal(4)), (np.ones((1, 4)), np.zeros(1))])
        probe = Probe(truth, rounding(truth, rng.standard_normal((4, 8)), 2e-16, rng), rng)
        frame, tilt = Frame.of_input(8, None), rng.standard_normal((4, 8))
        off = rows + error * tilt / np.linalg.norm(tilt, axis=1, keepdims=True)
        off /= np.linalg.norm(off, axis=1, keepdims=True)
        known = Hyperplanes(off, truth.layers[0].bias, np.ones((4, 1)), np.full(4, error), np.zeros((4, 8)))
        found = LayerFound.nothing(frame, 1).with_straight(known)
        beyond = np.linalg.svd(off)[2][4:].T
        line = _searched(probe, frame, far, found, beyond, found.at[:0])
        assert line is not None
        ends = line.base + np.array([[line.low], [line.high]]) * line.direction
        z = truth.layers[0].affine(np.concatenate([line.base[None], ends]))
        assert (np.sign(z) == np.sign(z[0])).all()
        out = truth.layers[0].affine(line.base + np.array([[-far], [far]]) * line.direction)
        beyond_reach += bool((np.sign(out) != np.sign(z[0])).any())
    assert beyond_reach > 5


def test_close_parallel_hyperplanes_are_all_met_and_their_normal_is_as_exact_as_others() -> None:
    right = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = random_weights((20, 8, 6, 1), rng, bias=0.5)
        (rows, bias), *_ = weights
        rows[4:] = rows[3]
        bias[3:] = 0.02 + 1e-3 * np.arange(5)
        truth = uv.Network.from_weights(weights)
        oracle = uv.as_oracle(truth.logits, shape=20)
        ask, frame = Asked(oracle), Frame.of_input(20, None)
        probe = Probe(ask, rounding(ask, frame.sample(4, rng), oracle.resolution, rng), rng)
        found = finished(layer_steps(probe, frame, far=1e4)).straight
        size = np.linalg.norm(rows, axis=1)
        true = np.column_stack([rows, bias]) / size[:, None]
        mine = np.column_stack([found.rows, found.bias])
        off = [min(np.linalg.norm(mine - t, axis=1).min(), np.linalg.norm(mine + t, axis=1).min()) for t in true]
        right.append(len(mine) == 8 and max(off) < 1e-8)
    assert_rate(right, 0.6)


def test_a_vague_normal_near_one_known_well_is_taken_for_that_and_no_other_is(rng: np.random.Generator) -> None:
    frame = Frame.of_input(10, None)
    rows = rng.standard_normal((2, 10))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    at = rng.standard_normal((4, 10))
    known = Hyperplanes.through(frame, at[:2], rows, np.ones((2, 1)), np.full(2, 1e-11))
    turned = [-rows[0] + 1e-6 * rng.standard_normal(10), rows[1] + 1e-3 * rng.standard_normal(10)]
    vague = np.array([each / np.linalg.norm(each) for each in turned])
    new = Hyperplanes.through(frame, at[2:], vague, np.ones((2, 1)), np.full(2, 1e-6))
    told = new.aligned(frame, known)
    np.testing.assert_allclose(told.rows, [-rows[0], vague[1]], atol=1e-15)
    np.testing.assert_allclose(told.bias, -np.einsum("kd,kd->k", told.rows, at[2:]), atol=1e-14)
    np.testing.assert_array_equal(told.error, [1e-11, 1e-6])


def _beside(seed: int, tilt: float) -> tuple[uv.Network, Probe, LayerFound, np.ndarray]:
    """A layer with three parallel rows close to each other, all known but for an error of their normal."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((8, 12))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[6], rows[7] = rows[5], -rows[5]
    bias = np.r_[rng.standard_normal(5), 0.3, 0.302, -0.305]
    truth = uv.Network.from_weights([(rows, bias), (rng.standard_normal((1, 8)), np.zeros(1))])
    probe = Probe(truth, rounding(truth, rng.standard_normal((4, 12)), 2e-16, rng), rng)
    aside = rng.standard_normal(12)
    aside -= (aside @ rows[5]) * rows[5]
    known = rows.copy()
    known[5:] += np.sign(rows[5:] @ rows[5])[:, None] * tilt * aside / np.linalg.norm(aside)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    frame, jump = Frame.of_input(12, None), truth.layers[1].weights.T
    planes = Hyperplanes(known, bias, jump, np.r_[np.full(5, 1e-12), np.full(3, tilt)], -bias[:, None] * rows)
    return truth, probe, LayerFound.nothing(frame, 1).with_straight(planes), rows


def test_parallel_rows_are_crossed_side_by_side_and_their_common_normal_is_told_by_both_sides() -> None:
    for seed in range(6):
        tilt = 1e-6
        truth, probe, found, rows = _beside(seed, tilt)
        better, lines = across_parallel(probe, Frame.of_input(12, None), found)
        bias = truth.layers[0].bias
        assert len(lines) == LINES
        for line in lines:
            z = line.points @ rows[5:].T + bias[5:]
            # Every line meets all three, however close they are.
            assert (np.abs(z).min(axis=0) < 1e-9).all()
        off = np.linalg.norm(better.rows - rows, axis=1)
        assert off[5:].max() < 1e-3 * tilt
        assert (better.rows[:5] == found.rows[:5]).all()
        # Where they are is known as well as before.
        assert np.abs(better.bias[5:] - bias[5:]).max() < 1e-7
        assert (better.straight.error[5:] < tilt).all()


def test_rows_that_are_not_parallel_are_left_alone_without_a_question() -> None:
    _, probe, found, _ = _beside(0, 1e-6)
    probe = replace(probe, ask=lambda x: pytest.fail("a question"))
    alone = found.keep(np.arange(6))
    again, lines = across_parallel(probe, Frame.of_input(12, None), alone)
    assert again is alone
    assert not lines
