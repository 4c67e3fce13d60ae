"""Rooms behind spans of outputs: the search, the space, the last layer on an ellipsoid; derivatives by differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_gradients, relu_net
from unveil.blackbox.differences import gradient, hessian, jacobian, smooth_step, straight_step
from unveil.blackbox.last_layer import _ellipsoid, last_layer
from unveil.blackbox.noise_model import measure_noise
from unveil.blackbox.output_inputs import Inputs
from unveil.blackbox.output_search import FRESH, Search
from unveil.blackbox.output_space import OutputSpan
from unveil.outcome import BadInput, Outcome

SEEDS = range(5)


def asked(seed: int, n: int = 6, d: int = 3, m: int = 15) -> tuple[uv.Oracle, np.ndarray]:
    """A network whose answers lie in a space of d dimensions."""
    rng = np.random.default_rng(seed)
    hidden, last, bias = rng.standard_normal((d, n)), rng.standard_normal((m, d)), rng.standard_normal(m)
    return uv.as_oracle(lambda x: np.tanh(x @ hidden.T) @ last.T + bias, shape=n), last


@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_ends_with_the_span_that_all_answers_lie_in(seed: int, tmp_path: Path) -> None:
    oracle, last = asked(seed)
    rng = np.random.default_rng(seed)
    search = Search(oracle, Inputs(oracle, None, rng), None)
    before = oracle.ledger.asked
    search.run()
    span = search.result()
    assert span.queries == oracle.ledger.asked - before == search.asked
    assert (span.rank, span.outcome) == (3, Outcome.complete)
    # The rank, five or so more, and the fresh ones of the check.
    assert span.queries <= 3 + 6 + 3 + FRESH
    assert span.distance(last) < 1e-10
    # Known answers are taken first, and cost nothing.
    known = oracle(rng.standard_normal((30, 6)))
    before = oracle.ledger.asked
    free = Search(oracle, Inputs(oracle, None, rng), None, known)
    free.run()
    assert oracle.ledger.asked == before
    assert free.result().rank == 3
    few = Search(oracle, Inputs(oracle, None, rng), 4)
    few.run()
    assert few.asked == 4
    assert few.result().outcome is Outcome.not_measured
    # Answers in the span are its own, others lie outside; distances are in units of the noise.
    inside, outside = oracle(rng.standard_normal((20, 6))), rng.standard_normal((20, 15))
    assert span.contains(inside).all()
    assert not span.contains(outside).any()
    assert np.median(span.excess(inside)) < 4 < 1e6 < span.excess(outside).min()
    assert span.check(oracle, rng=rng) == 1.0
    angle = np.linalg.norm(np.linalg.qr(last)[0].T @ (np.eye(15) - span.basis.T @ span.basis), 2)
    assert angle < 1e-10
    turned = last.copy()
    turned[:, 0] += 1e-3 * rng.standard_normal(15)
    q, r = np.linalg.qr(last)[0], np.linalg.qr(turned)[0]
    assert span.distance(turned) == pytest.approx(np.linalg.norm(r - q @ (q.T @ r), 2), rel=1e-6)
    assert span.distance(last[:, :2]) == 1.0
    span.save(tmp_path / "a.npz")
    again = OutputSpan.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.excess(inside), span.excess(inside))
    assert (again.outcome, again.why, again.reading) == (span.outcome, span.why, span.reading)


def test_a_search_says_when_there_is_nothing_to_find_or_nothing_to_tell() -> None:
    rng = np.random.default_rng(0)
    same = uv.as_oracle(lambda x: np.ones((len(x), 4)), shape=2)
    search = Search(same, Inputs(same, None, rng), None)
    search.run()
    assert (search.outcome, search.asked) == (Outcome.nothing_to_find, 12)
    steps = uv.as_oracle(lambda x: np.stack([x[:, 0] > 0, x[:, 1] > 0, x[:, 0] > 0], 1).astype(float), shape=2)
    search = Search(steps, Inputs(steps, None, rng), 40)
    search.run()
    assert search.outcome is Outcome.answers_in_steps
    wide = uv.as_oracle(lambda x: np.concatenate([x, np.sin(3 * x)], axis=1), shape=3)
    search = Search(wide, Inputs(wide, None, rng), None)
    search.run()
    assert (search.outcome, search.result().rank) == (Outcome.full_rank, 6)
    with pytest.raises(BadInput, match="whose an answer is"):
        search.result().contains(np.zeros(6))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_axes_of_an_ellipsoid_map_the_sphere_onto_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r = 4
    shape = rng.standard_normal((r, r)) + 2 * np.eye(r)
    centre = 0.05 * rng.standard_normal(r)
    inverse = np.linalg.inv(shape @ shape.T)
    scale = 1 - centre @ inverse @ centre
    i, j = np.triu_indices(r)
    found = _ellipsoid(np.concatenate([(inverse / scale)[i, j], -2 * inverse @ centre / scale]), r)
    assert found is not None
    axes, middle, _, _ = found
    np.testing.assert_allclose(middle, centre, atol=1e-12)
    np.testing.assert_allclose(axes @ axes.T, shape @ shape.T, rtol=1e-9, atol=1e-12)
    # A hyperboloid is none.
    inverse[0, 0] -= 2 * np.trace(inverse)
    assert _ellipsoid(np.concatenate([inverse[i, j], np.zeros(r)]), r) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_last_layer_behind_a_normalisation_comes_out_up_to_a_rotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hidden, last, bias = rng.standard_normal((4, 9)), rng.standard_normal((12, 4)), rng.standard_normal(12)

    def model(x: np.ndarray) -> np.ndarray:
        u = np.tanh(x @ hidden.T)
        return u / np.linalg.norm(u, axis=1, keepdims=True) @ last.T + bias

    oracle = uv.as_oracle(model, shape=9)
    span = uv.output_span(oracle, rng=rng)
    before = oracle.ledger.asked
    found = last_layer(oracle, span, rng=rng)
    # `1.2 u + 90` with u = 14 unknowns: 15 % and 40 more for the fit, 50 fresh ones.
    assert found.queries == oracle.ledger.asked - before == int(np.ceil(1.15 * 14)) + 40 + 50
    assert found.outcome is Outcome.complete
    np.testing.assert_allclose(found.matrix @ found.matrix.T, last @ last.T, atol=1e-6)
    np.testing.assert_allclose(found.centre, bias, atol=1e-6)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert found.distance(last @ turn) < 1e-6 < 0.02 < found.distance(1.02 * last)
    few = last_layer(oracle, span, np.zeros((5, 9)), rng=rng)
    assert (few.outcome, few.queries) == (Outcome.not_measured, 0)
    # Hidden numbers of no fixed length lie on no ellipsoid.
    other, _ = asked(seed, n=9, d=4, m=12)
    free = last_layer(other, uv.output_span(other, rng=rng), rng=rng)
    assert free.outcome is Outcome.check_failed


@pytest.mark.parametrize("seed", SEEDS)
def test_derivatives_by_differences_are_the_chain_rule_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = random_weights((5, 6, 2), rng, bias=0.3)
    oracle = uv.as_oracle(relu_net(weights), shape=5)
    noise = measure_noise(oracle, rng=rng)
    x = rng.standard_normal((6, 5))
    before = oracle.ledger.asked
    found = jacobian(oracle, x, rng=rng, noise=noise)
    asked_for = oracle.ledger.asked - before
    # A step along a coordinate may meet a breakpoint that the combined one does not.
    assert np.isclose(found, relu_gradients(weights, x), atol=1e-7).mean() > 0.95
    # `N (n + 1)`, and 2 for each point and halving.
    assert asked_for >= 6 * 6 + 2 * 6
    assert (asked_for - 6 * 6) % 2 == 0
    smooth = uv.as_oracle(lambda x: np.stack([np.tanh(x[:, 0] * x[:, 1]), np.sin(x @ [1.0, 2, 0])], 1), shape=3)
    noise = measure_noise(smooth, rng=rng)
    x = rng.uniform(-1, 1, (4, 3))
    before = smooth.ledger.asked
    found = jacobian(smooth, x, rng=rng, noise=noise)
    # `2 N n` of a smooth one without a box.
    assert smooth.ledger.asked - before == 2 * 4 * 3
    slope, wave = 1 / np.cosh(x[:, 0] * x[:, 1]) ** 2, np.cos(x @ [1.0, 2, 0])
    np.testing.assert_allclose(found[:, 0], np.stack([slope * x[:, 1], slope * x[:, 0], 0 * slope], 1), atol=1e-7)
    np.testing.assert_allclose(
        gradient(smooth, x, rng=rng, noise=noise, output=1), wave[:, None] * [1, 2, 0], atol=1e-7
    )
    before = smooth.ledger.asked
    bend = hessian(smooth, x, rng=rng, noise=noise, output=1)
    # `N (1 + 2 n + n (n - 1))`
    assert smooth.ledger.asked - before == 4 * (1 + 6 + 6)
    np.testing.assert_allclose(
        bend, -np.sin(x @ [1.0, 2, 0])[:, None, None] * np.outer([1, 2, 0], [1, 2, 0]), atol=1e-4
    )
    assert smooth_step(noise, 2) > smooth_step(noise, 1) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_beside_walls_derivatives_are_taken_on_the_side_with_room(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outside: list[bool] = []

    def model(x: np.ndarray) -> np.ndarray:
        outside.append(bool(((x < 0) | (x > 1)).any()))
        return np.exp(x[:, :1] - 0.5 * x[:, 1:])

    oracle = uv.as_oracle(model, shape=2, within=(0, 1))
    noise = measure_noise(oracle, rng=rng)
    x = np.array([[0.0, 0.5], [1.0, 0.0], [0.3, 0.6], [1.0, 1.0]])
    before = oracle.ledger.asked
    found = gradient(oracle, x, rng=rng, noise=noise)
    # `2 N n`, and once more for the three points beside a wall.
    assert oracle.ledger.asked - before == 2 * 4 * 2 + 3
    value = np.exp(x[:, 0] - 0.5 * x[:, 1])
    np.testing.assert_allclose(found, value[:, None] * [1, -0.5], atol=1e-5)
    bend = hessian(oracle, x, rng=rng, noise=noise)
    np.testing.assert_allclose(bend, value[:, None, None] * [[1, -0.5], [-0.5, 0.25]], atol=5e-6)
    assert not any(outside)
    weights = random_weights((2, 3, 1), rng, bias=0.3)

    def straight(x: np.ndarray) -> np.ndarray:
        outside.append(bool(((x < 0) | (x > 1)).any()))
        return relu_net(weights)(x)

    bounded = uv.as_oracle(straight, shape=2, within=(0, 1))
    corners = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    slope = jacobian(bounded, corners, rng=rng)
    assert np.isfinite(slope).all()
    assert np.isclose(slope, relu_gradients(weights, np.clip(corners, 1e-9, 1 - 1e-9)), atol=1e-6).mean() > 0.6
    assert not any(outside)


def test_a_step_is_halved_until_the_piece_is_straight() -> None:
    oracle = uv.as_oracle(lambda x: np.abs(x[:, :1] - 1e-3) + 2 * x[:, 1:], shape=2)
    rng = np.random.default_rng(0)
    noise = measure_noise(oracle, rng=rng)
    x = np.array([[0.0, 0.0], [50.0, 0.0]])
    step = straight_step(oracle, x, oracle(x), rng=rng, noise=noise)
    assert step[0] < 1e-3 < step[1]
    assert np.log(step[1] / step[0]) / np.log(4) == pytest.approx(round(np.log(step[1] / step[0]) / np.log(4)))
