"""The row span, against the first weight matrix of networks built here, and obfuscation from it."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere, relu_gradients, relu_net

DEEP = [784, 80, 40, 30, 20, 10, 1]
FLOOR = 80 * (784 - 80)


@pytest.mark.parametrize("trial", range(3))
def test_one_query_per_unknown_in_float64(trial: int, rng: np.random.Generator) -> None:
    weights = random_weights(DEEP, rng)
    oracle = uv.as_oracle(relu_net(weights), shape=784)
    span = uv.row_span(oracle, rng=rng)
    assert span.rank == 80
    assert span.distance(weights[0][0]) <= 1e-8
    assert span.queries - span.stages["confirmation"] - span.stages["measuring"] <= 1.15 * FLOOR
    assert span.stages["measuring"] <= 0.2 * FLOOR
    assert span.distance(weights[0][0]) <= span.accuracy <= 1e-7
    assert span.queries == sum(span.stages.values()) == oracle.ledger.asked - 8


def test_refined_to_eleven_digits(rng: np.random.Generator) -> None:
    weights = random_weights(DEEP, rng)
    span = uv.row_span(uv.as_oracle(relu_net(weights), shape=784), rng=rng, accuracy=1e-11)
    assert span.distance(weights[0][0]) <= 1e-11
    assert span.queries <= 3 * FLOOR


def test_float32_answers_are_enough(rng: np.random.Generator) -> None:
    right: list[bool] = []
    queries = []
    for _ in range(10):
        weights = random_weights([100, 16, 12, 8, 1], rng, dtype=np.float32)
        span = uv.row_span(uv.as_oracle(relu_elsewhere(weights, rng, np.float32), shape=100), rng=rng)
        right.append(span.rank == 16 and span.distance(weights[0][0]) <= 1e-4)
        queries.append(span.queries)
    assert np.median(queries) <= 8 * 16 * (100 - 16)  # now and then one has gradients at twice as many points
    assert_rate(right, 0.9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("sizes", [[50, 12, 8, 3], [20, 10, 1], [300, 30, 20, 10], [100, 1, 1]])
def test_small_networks(sizes, dtype, rng: np.random.Generator) -> None:
    weights = random_weights(sizes, rng, bias=0.3, dtype=dtype)
    span = uv.row_span(uv.as_oracle(relu_net(weights, dtype), shape=sizes[0]), rng=rng)
    assert span.rank == sizes[1]
    assert span.distance(weights[0][0]) <= 1e-4


def test_smooth_networks(rng: np.random.Generator) -> None:
    (w1, b1), (w2, b2) = random_weights([200, 25, 1], rng, bias=0.3)
    oracle = uv.as_oracle(lambda x: np.tanh(x @ w1.T + b1) @ w2.T + b2, shape=200)
    span = uv.row_span(oracle, rng=rng, accuracy=1e-9)
    assert span.rank == 25
    assert span.distance(w1) <= 1e-9


def test_a_rank_deficient_first_layer(rng: np.random.Generator) -> None:
    (w1, b1), (w2, b2) = random_weights([60, 40, 2], rng, bias=0.3)
    w1 = w1[:, :7] @ rng.standard_normal((7, 60))
    span = uv.row_span(uv.as_oracle(relu_net([(w1, b1), (w2, b2)]), shape=60), rng=rng)
    assert span.rank == 7
    assert np.abs(span.complement(w1)).max() <= 1e-7


def test_full_rank_constant_and_dead_networks(rng: np.random.Generator) -> None:
    full = uv.row_span(uv.as_oracle(relu_net(random_weights([30, 40, 5], rng)), shape=30), rng=rng)
    assert (full.rank, full.outcome) == (30, uv.Outcome.full_rank)
    constant = uv.row_span(uv.as_oracle(lambda x: 0 * x[:, :1] + 2, shape=30), rng=rng)
    assert (constant.rank, constant.outcome) == (0, uv.Outcome.nothing_to_find)
    weights = random_weights([30, 8, 1], rng)
    weights[0] = (weights[0][0], np.full(8, -100.0))
    dead = uv.row_span(uv.as_oracle(relu_net(weights), shape=30), rng=rng)
    assert dead.outcome == uv.Outcome.nothing_to_find


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_saturated_probabilities_are_no_constant(kind: type, rng: np.random.Generator) -> None:
    """Wherever it is asked one class has all of the probability, by more digits than there are."""
    w = rng.standard_normal((4, 3))

    def softmax(x: np.ndarray) -> np.ndarray:
        z = x @ w + np.array([2000.0, 0.0, 0.0])
        e = np.exp(z - z.max(axis=1, keepdims=True)).astype(kind)
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    oracle = uv.as_oracle(softmax, shape=4)
    assert not np.ptp(oracle(rng.standard_normal((9, 4))), axis=0).any()
    assert uv.row_span(oracle, rng=rng).outcome is uv.Outcome.not_resolved


def test_a_box_is_never_left(rng: np.random.Generator) -> None:
    weights = random_weights([100, 12, 6, 3], rng, bias=0.1)
    low, high = np.inf, -np.inf
    net = relu_net(weights)

    def watched(x: np.ndarray) -> np.ndarray:
        nonlocal low, high
        low, high = min(low, x.min()), max(high, x.max())
        return net(x)

    span = uv.row_span(uv.as_oracle(watched, shape=100, within=(0, 1)), rng=rng, accuracy=1e-10)
    assert low >= 0
    assert high <= 1
    # What never switches inside the box cannot be told from an affine part; what was found is true.
    assert np.abs(span.basis - span.basis @ np.linalg.pinv(weights[0][0]) @ weights[0][0]).max() <= 1e-9


def test_the_budget_ends_the_search_with_a_true_part(rng: np.random.Generator) -> None:
    weights = random_weights(DEEP, rng)
    oracle = uv.as_oracle(relu_net(weights), shape=784, budget=20_000)
    span = uv.row_span(oracle, rng=rng)
    assert span.outcome == uv.Outcome.budget_ended
    assert oracle.ledger.asked <= 20_000
    assert 15 <= span.rank < 80
    inside = np.linalg.qr(weights[0][0].T)[0]
    assert np.linalg.norm(span.basis - span.basis @ inside @ inside.T, 2) <= 1e-6


def test_same_seed_same_bits() -> None:
    net = relu_net(random_weights([60, 9, 4], np.random.default_rng(3)))
    spans = [uv.row_span(uv.as_oracle(net, shape=60), rng=np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(spans[0].basis, spans[1].basis)


@pytest.mark.slow
def test_confidence_is_calibrated_on_rarely_active_neurons(rng: np.random.Generator) -> None:
    """A neuron active at a share p of the points is missed with probability (1 - p)^s: no more often than stated."""
    missed, trials, share = 0, 40, 0.01
    for _ in range(trials):
        w = np.linalg.qr(rng.standard_normal((12, 5)))[0].T
        bias = np.array([0, 0, 0, 0, -2.3263])  # the last is active where a standard normal exceeds 2.3263: 1 %
        out = rng.standard_normal((1, 5))
        oracle = uv.as_oracle(relu_net([(w, bias), (out, np.zeros(1))]), shape=12)
        span = uv.row_span(oracle, rng=rng, confidence=0.9, unseen=share)
        missed += span.rank < 5
    # 10 % stated; more than 10 of 40 would happen in less than 1 in 1000 suites.
    assert missed <= 10


def test_where_something_was_left_out_nothing_is_said_of_what_was_missed() -> None:
    """Inputs of 0 and 1: bends between any two of them hide all directions but the strongest."""
    left_out = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows, out = rng.standard_normal((5, 12)), rng.standard_normal((3, 5))

        def net(x: np.ndarray, rows: np.ndarray = rows, out: np.ndarray = out) -> np.ndarray:
            return np.maximum(x @ rows.T, 0) @ out.T

        span = uv.row_span(uv.as_oracle(net, shape=12, within=(0, 1), grid=1), rng=rng)
        left_out += span.misses
        assert (span.unseen == 1) or span.left_out <= span.accuracy < 1 or span.left_out == 0
        assert span.outcome is not uv.Outcome.complete or span.rank == 5
    assert left_out >= 4


def test_obfuscation_hides_from_the_network_and_stays_in_the_box(rng: np.random.Generator) -> None:
    weights = random_weights([144, 20, 10, 5], rng, bias=0.1)
    oracle = uv.as_oracle(relu_net(weights), shape=144)
    span = uv.row_span(oracle, rng=rng)
    x = rng.uniform(size=(12, 144))
    free = uv.obfuscate(span, x, scale=10.0, rng=rng)
    np.testing.assert_allclose(free.noise_norm, 10 * np.linalg.norm(x, axis=1))
    assert np.abs(relu_net(weights)(free.inputs) - relu_net(weights)(x)).max() <= 1e-6
    legal = uv.obfuscate(span, x, rng=rng, within=(0.0, 1.0))
    assert legal.inputs.min() >= 0
    assert legal.inputs.max() <= 1
    assert legal.noise_norm.min() >= 1.0
    check = legal.check(oracle)
    assert check.same_label == 1.0
    assert check.largest_change <= 1e-6
    # The truth, by the chain rule: the noise is orthogonal to the gradients at the hidden inputs.
    along = np.einsum("pmn,pn->pm", relu_gradients(weights, legal.inputs), legal.inputs - x)
    assert np.abs(along).max() <= 1e-6


def test_probabilities_rounded_to_four_decimals_give_their_span_away(rng: np.random.Generator) -> None:
    def found() -> bool:
        first = rng.standard_normal((3, 12)) / 3
        net = relu_net(random_weights([3, 12, 4], rng, bias=0.5))

        def model(x: np.ndarray) -> np.ndarray:
            p = np.exp(net(x @ first.T) / 2)
            return np.round(p / p.sum(axis=1, keepdims=True), 4)

        span = uv.row_span(uv.as_oracle(model, shape=12, budget=60_000), rng=rng)
        return span.rank == 3 and span.distance(first) <= span.accuracy < 0.1

    assert_rate([found() for _ in range(8)], 0.9)
