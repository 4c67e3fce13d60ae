"""Rows of a first layer told by where float32 answers bend, against the weights that made them."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, flipped, random_weights, relu_net, roundings
from unveil.blackbox.rounding import rounding, rows_for
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.rows_from_points import (
    ACROSS,
    PASSES,
    TELLING_OUTPUTS,
    TRIES,
    sharper_rows,
    usual_on,
)

OFF = 3e-3  # how wrong the rows are to begin with


def rough(weights: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> tuple[Hyperplanes, np.ndarray]:
    """Hyperplanes of the first layer with wrong normals, each where it is met, and the right normals."""
    (rows, bias), *behind = weights
    size = np.linalg.norm(rows, axis=1)
    true = rows / size[:, None]
    at = rng.standard_normal(rows.shape)
    at -= (np.einsum("kn,kn->k", at, true) + bias / size)[:, None] * true
    rest, step = relu_net(behind), 1e-6 * np.eye(len(rows))
    passed = np.maximum(at @ rows.T + bias, 0)
    np.fill_diagonal(passed, 0)
    jump = (rest(passed + step) - rest(passed)) / 1e-6 * size[:, None]
    off = rng.standard_normal(rows.shape)
    off -= np.einsum("kn,kn->k", off, true)[:, None] * true
    wrong = true + OFF * off / np.linalg.norm(off, axis=1, keepdims=True)
    wrong /= np.linalg.norm(wrong, axis=1, keepdims=True)
    planes = Hyperplanes.through(Frame.of_input(rows.shape[1], None), at, wrong, jump, np.full(len(rows), OFF))
    return planes, true


@pytest.mark.parametrize("sizes", [(20, 10, 6, 1), (40, 16, 3), (30, 12, 8, 5)])
def test_breakpoints_tell_rows_of_float32_answers_far_better_than_derivatives(sizes: tuple[int, ...]) -> None:
    better, honest = list[bool](), list[bool]()
    for seed in range(20):
        rng = np.random.default_rng([91, seed])
        weights = random_weights(sizes, rng, bias=0.3)
        answer = flipped(relu_net(weights, np.float32), rng, roundings(weights))
        oracle, frame = uv.as_oracle(answer, sizes[0]), Frame.of_input(sizes[0], None)
        x = frame.sample(rows_for(oracle.resolution), rng)
        noise = rounding(oracle, x, oracle.resolution, rng, oracle.uneven)
        planes, true = rough(weights, rng)
        before = oracle.ledger.asked
        found = sharper_rows(Probe(oracle, noise, rng), frame, planes)
        each = len(ACROSS[sizes[-1] >= TELLING_OUTPUTS]) * (sizes[0] + 24) * PASSES * TRIES
        assert oracle.ledger.asked - before <= 2 * each * len(true)
        seen = np.linalg.norm(planes.jump, axis=1) > 1e-3 * np.linalg.norm(planes.jump, axis=1).max()
        turn = np.sign(np.einsum("kn,kn->k", found.rows, true))[:, None]
        off = np.linalg.norm(turn * found.rows - true, axis=1)[seen]
        better.append(float(np.median(off)) < 0.01 * OFF)
        honest.append(bool((off < 4 * found.error[seen] + 1e-6).all()))
    assert_rate(better, 0.9)
    assert_rate(honest, 0.9)


def test_rows_of_a_second_layer_are_told_where_the_first_one_is_active() -> None:
    better, honest = list[bool](), list[bool]()
    for seed in range(20):
        rng = np.random.default_rng([92, seed])
        weights = random_weights((20, 10, 8, 3), rng, bias=0.3)
        oracle = uv.as_oracle(flipped(relu_net(weights, np.float32), rng, roundings(weights)), 20)
        x = rng.standard_normal((rows_for(oracle.resolution), 20))
        noise = rounding(oracle, x, oracle.resolution, rng, oracle.uneven)
        frame = Frame.of_input(20, None).after(*weights[0])
        (rows, bias), (out, _) = weights[1:]
        size = np.linalg.norm(rows, axis=1)
        true = rows / size[:, None]
        planes = Hyperplanes(true, bias / size, out.T * size[:, None], np.full(8, OFF), np.zeros((8, 20)))
        at = usual_on(frame, planes, rng)
        # Of one that crosses the region there is a place in it.
        there = (np.abs(planes.sums(frame, at)[np.arange(8), np.arange(8)]) < 1e-6) & (frame.values(at) > 0.02).all(
            axis=1
        )
        off = rng.standard_normal(rows.shape)
        off -= np.einsum("kd,kd->k", off, true)[:, None] * true
        wrong = true + OFF * off / np.linalg.norm(off, axis=1, keepdims=True)
        wrong /= np.linalg.norm(wrong, axis=1, keepdims=True)
        found = sharper_rows(
            Probe(oracle, noise, rng),
            frame,
            Hyperplanes.through(frame, at[there], wrong[there], planes.jump[there], planes.error[there]),
        )
        off = np.linalg.norm(found.rows - true[there], axis=1)
        better += (off < 0.1 * OFF).tolist()
        honest += (off < 4 * found.error + 1e-6).tolist()
    assert len(better) > 60
    assert_rate(better, 0.8)
    assert_rate(honest, 0.9)


def test_a_hyperplane_that_is_not_there_stays_as_it_was() -> None:
    rng = np.random.default_rng(5)
    weights = random_weights((20, 10, 3), rng, bias=0.3)
    oracle, frame = uv.as_oracle(relu_net(weights, np.float32), 20), Frame.of_input(20, None)
    x = frame.sample(rows_for(oracle.resolution), rng)
    noise = rounding(oracle, x, oracle.resolution, rng, oracle.uneven)
    planes, true = rough(weights, rng)
    elsewhere = rng.standard_normal(planes.rows.shape)
    elsewhere /= np.linalg.norm(elsewhere, axis=1, keepdims=True)
    false = Hyperplanes.through(frame, planes.at + 0.3, elsewhere, planes.jump, planes.error)
    found = sharper_rows(Probe(oracle, noise, rng), frame, false)
    off = np.minimum(*(np.linalg.norm(found.rows[:, None] - sign * true, axis=2).min(axis=1) for sign in (1, -1)))
    # It is none of the network's, and no precision is stated that it does not have.
    assert ((off > 0.05) <= (found.error >= 0.3 * OFF)).all()
