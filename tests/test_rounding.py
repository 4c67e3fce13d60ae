"""How exact answers are: rounding is told from curvature, and agrees with the rounding that was put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_elsewhere, single
from unveil.blackbox.rounding import Rounding, in_steps, rounding, rows_for
from unveil.blackbox.rounding import weights as weights_of
from unveil.identification.fitting.output_layer import weighted_output


def test_smooth_answers_are_not_called_straight() -> None:
    rng = np.random.default_rng(1)
    noise = rounding(lambda x: np.tanh(x).sum(axis=1, keepdims=True), rng.standard_normal((6, 4)), 2.2e-16, rng)
    assert not noise.straight


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.float64, 1e-17, 1e-14), (np.float32, 1e-8, 1e-5)])
def test_relative_rounding_follows_the_precision(
    dtype: type, low: float, high: float, rng: np.random.Generator
) -> None:
    for _ in range(5):
        net = relu_elsewhere(single(random_weights((200, 40, 20, 10), rng, bias=0.5)), rng, dtype)
        noise = rounding(
            lambda x, net=net: net(x.astype(dtype)), rng.standard_normal((4, 200)), float(np.finfo(dtype).eps), rng
        )
        assert noise.straight
        assert low < noise.relative < high


def test_few_rows_that_meet_breakpoints_do_not_raise_the_rounding_of_answers_with_few_digits() -> None:
    rng = np.random.default_rng(2)
    count = rows_for(2.0**-23)
    x = rng.standard_normal((count, 3))

    def model(x: np.ndarray) -> np.ndarray:
        row = np.arange(len(x)) // 6
        # As if breakpoints lay on the first four rows, in their middle.
        bent = np.where(row < 4, np.abs(x[:, 0] - x.reshape(-1, 6, 3)[row, 2:4, 0].mean(axis=1)), 0)
        return (x.sum(axis=1) + bent).astype(np.float32).astype(float)[:, None]

    few, many = (rounding(model, x[:some], 2.0**-23, np.random.default_rng(3)) for some in (4, count))
    assert not few.straight
    assert many.straight
    assert many.relative < few.relative / 5
    assert rows_for(2.0**-52) == 4


def test_where_every_other_row_meets_a_breakpoint_the_others_tell_the_rounding(rng: np.random.Generator) -> None:
    points = np.where(np.arange(4)[:, None] < 2, 0.0, 1.0) + np.zeros((4, 6))
    weights = rng.standard_normal((2, 6, 1))

    def ask(x: np.ndarray) -> np.ndarray:
        """Bent at the origin alone, rounded to 1e-9."""
        return np.round((x @ weights[0] + np.maximum(x @ weights[1], 0) + 1) / 1e-9) * 1e-9

    found = rounding(ask, points, 1e-9, rng)
    assert found.straight
    assert 1e-10 < found.quiet.max() < 1e-9


def test_short_steps_weigh_rounding_against_breakpoints() -> None:
    double, single_ = (Rounding(np.ones(1), 1.0, relative, True) for relative in (1e-16, 1e-7))
    assert (double.step, double.exact) == (1e-4, True)
    assert 0.01 < single_.step < 0.05
    assert not single_.exact


def test_log_ratios_of_rounded_probabilities_are_as_exact_as_their_smallest_one() -> None:
    rng = np.random.default_rng(3)
    weights = random_weights((8, 6, 3), rng, bias=0.5)
    logits = uv.Network.from_weights(weights)

    def rounded(x: np.ndarray) -> np.ndarray:
        z = np.exp(2 * logits(x))
        return np.round(z / z.sum(axis=1, keepdims=True), 6)

    oracle = uv.as_oracle(rounded, shape=8)
    noise = rounding(oracle, rng.standard_normal((4, 8)), oracle.resolution, rng, oracle.uneven)
    x = rng.standard_normal((2000, 8))
    y, z = oracle(x), 2 * logits(x)
    reference = int(oracle.reference or 0)
    error = np.abs(y - np.delete(z - z[:, [reference]], reference, axis=1))
    sigma = noise.at(x, y)
    told = (rounded(x) > 1e-5).all(axis=1)
    # Half a step of a probability: sqrt(3) deviations of it, and as much of the reference's.
    assert (error <= 3.6 * sigma)[told].all()
    assert np.median(error[told] / sigma[told]) > 0.05
    assert np.ptp(np.log10(sigma[told]).max(axis=1)) > 1
    # Where a probability is small its log-ratio counts as little as it says.
    counts = weights_of(oracle.uneven, y, np.median(oracle.rounding(y), axis=0))
    assert counts.max() == 1
    assert (counts * oracle.rounding(y) <= np.median(oracle.rounding(y), axis=0) * (1 + 1e-12)).all()
    # In a fit each error counts in units of its own deviation, which of answers rounded alike grows with their inputs.
    told_apart, usual = noise.counts(x, y)
    assert np.allclose(told_apart * sigma, usual)
    alike = replace(noise, own=None)
    further, _ = alike.counts(np.concatenate([x, 10 * x]), np.concatenate([y, y]))
    near, far = np.split(further, 2)
    assert np.allclose(near * alike.at(x, y), far * alike.at(10 * x, y))
    assert (near > far).all()
    assert (further == further[:, :1]).all()
    # Where all digits are there, they are all as good.
    exact = uv.as_oracle(lambda x: np.exp(logits(x)) / np.exp(logits(x)).sum(axis=1, keepdims=True), shape=8)
    assert exact.uneven is None


def test_relu_classifiers_are_read_behind_rounded_probabilities() -> None:
    complete = 0
    for seed in range(3):
        rng = np.random.default_rng([41, seed])
        truth = uv.Network.from_weights(random_weights((8, 5, 3), rng, bias=0.5))

        def rounded(x: np.ndarray, truth: uv.Network = truth) -> np.ndarray:
            z = np.exp(truth(x) - truth(x).max(axis=1, keepdims=True))
            return np.round(z / z.sum(axis=1, keepdims=True), 6)

        oracle = uv.as_oracle(rounded, shape=8, budget=20_000)
        found = uv.identify(oracle, rng=rng)
        complete += found.outcome is uv.Outcome.complete
        x = rng.standard_normal((500, 8))
        if found.outcome is uv.Outcome.complete:
            assert found.network is not None
            assert np.abs(oracle.softmax(found.network(x)) - rounded(x)).max() < 1e-4
    assert complete >= 2


def test_an_output_layer_follows_the_answers_that_are_precise() -> None:
    rng = np.random.default_rng(42)
    F, out = rng.standard_normal((200, 6)), rng.standard_normal((6, 2))
    sigma = np.where(rng.random((200, 2)) < 0.5, 1e-8, 1.0)
    y = F @ out + sigma * rng.standard_normal((200, 2))
    assert np.abs(weighted_output(F, y, 1e-8 / sigma) - out).max() < 1e-7
    assert np.abs(weighted_output(F, y, np.ones_like(y)) - out).max() > 1e-2


def test_of_two_probabilities_one_may_be_1_minus_the_other() -> None:
    complete = 0
    for seed in range(3):
        rng = np.random.default_rng([43, seed])
        # Large logits: among usual inputs most answers have run out of digits.
        first, (last, bias) = random_weights((10, 5, 1), rng, bias=0.5)
        truth = uv.Network.from_weights([first, (12 * last, 12 * bias)])

        def pair(x: np.ndarray, truth: uv.Network = truth) -> np.ndarray:
            p = 1 / (1 + np.exp(-truth(x)))
            return np.hstack([1 - p, p])

        oracle = uv.as_oracle(pair, shape=10, budget=20_000)
        assert oracle.uneven is not None
        x = rng.standard_normal((2000, 10))
        y, z = oracle(x), truth(x)
        some = np.abs(z[:, 0]) < 0.9 * oracle.widest
        sign = 1.0 if oracle.reference == 0 else -1.0
        assert (np.abs(y - sign * z)[some] <= 8 * (oracle.uneven(y) + 1e-15 * np.abs(z))[some]).all()
        found = uv.identify(oracle, rng=rng)
        complete += found.outcome is uv.Outcome.complete and found.network is not None
        if found.network is not None and found.outcome is uv.Outcome.complete:
            assert np.abs(found.network(x) - sign * z).max() < 1e-8 * np.abs(z).max()
    assert complete >= 2


def test_answers_that_jump_are_told_from_steep_and_from_flat_ones() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 6))
    w = rng.standard_normal(6)
    for answer, steps in (
        (lambda x: np.floor(3 * x[:, :2]), True),
        (lambda x: np.sign(x @ w)[:, None], True),
        (lambda x: np.maximum(x @ w - 1, 0)[:, None], False),
        (lambda x: np.clip(1e6 * (x @ w), 0, 1)[:, None], False),
        (lambda x: np.zeros((len(x), 1)), False),
    ):
        oracle = uv.as_oracle(answer, shape=6)
        assert in_steps(oracle, x, np.random.default_rng(1)) == steps


def test_weights_of_answers_in_steps_are_not_looked_for() -> None:
    oracle = uv.as_oracle(lambda x: np.sign(x[:, :1]), shape=12, budget=60_000)
    found = uv.identify(oracle, rng=np.random.default_rng(3))
    assert found.outcome is uv.Outcome.answers_in_steps
    assert found.network is None
    assert found.queries < 2000
