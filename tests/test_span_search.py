"""The rooms of the search for a row span, on oracles of values; truth comes from the weights."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, flipped, random_weights, relu_net
from unveil.blackbox.digits import mantissa_bits, multiples
from unveil.blackbox.span_search.known import Known
from unveil.blackbox.span_search.points import most_queries
from unveil.blackbox.span_search.refinement import _unspoiled
from unveil.testing import Answered, known_model


def sine(span: uv.RowSpan, rows: np.ndarray) -> float:
    """Sine of the largest angle by which what was found leaves the truth."""
    q = np.linalg.svd(rows, full_matrices=False)[2]
    return float(np.linalg.norm(span.basis - span.basis @ q.T @ q, 2)) if span.rank else 0.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_stated_accuracy_holds(dtype, rng: np.random.Generator) -> None:
    exceeded = 0
    for _ in range(10):
        weights = random_weights([30, 6, 8, 2], rng, bias=0.3, dtype=dtype)
        span = uv.row_span(uv.as_oracle(relu_net(weights, dtype), shape=30), rng=rng)
        exceeded += sine(span, weights[0][0].astype(float)) > span.accuracy
        if span.outcome is uv.Outcome.complete:
            assert span.accuracy <= 1e-4
            assert span.left_out == 0
    # Less than 1 in 100 exceed what they state; two of ten would happen in less than 1 in 200 suites.
    assert exceeded <= 1


@pytest.mark.parametrize("kind", ["linear", "ReLU", "tanh"])
def test_a_grid_of_256_levels_loses_nothing(kind: str, rng: np.random.Generator) -> None:
    w, v = rng.standard_normal((3, 12)), rng.standard_normal((3, 3))
    act = {"linear": lambda s: s, "ReLU": lambda s: np.maximum(s, 0), "tanh": np.tanh}[kind]
    asked: list[np.ndarray] = []

    def model(x: np.ndarray) -> np.ndarray:
        asked.append(x)
        return act((x - 0.5) @ w.T) @ v.T

    span = uv.row_span(uv.as_oracle(model, 12, within=(0, 1), grid=1 / 255), rng=rng)
    assert span.rank == 3
    assert sine(span, w) <= span.accuracy <= 1e-4
    assert span.queries == sum(span.stages.values())
    x = np.concatenate(asked) * 255
    assert np.abs(x - np.round(x)).max() < 1e-6


def test_whole_numbers_come_out(rng: np.random.Generator) -> None:
    w = rng.standard_normal((3, 12))
    oracle = uv.as_oracle(lambda x: np.maximum((x - 25) @ w.T / 20, 0), 12, within=(0, 49), grid=1.0, answers="values")
    span = uv.row_span(oracle, rng=rng)
    assert span.rank == 3
    assert sine(span, w) <= span.accuracy <= 1e-4


def test_units_come_from_the_examples(rng: np.random.Generator) -> None:
    unit = np.exp(rng.uniform(np.log(1e-2), np.log(300), 20))
    w = rng.standard_normal((4, 20)) / 20**0.5
    v = rng.standard_normal((4, 2))
    x = unit * (3 + rng.standard_normal((200, 20)))
    oracle = uv.as_oracle(lambda z: np.maximum((z / unit - 3) @ w.T, 0) @ v, 20)
    span = uv.row_span(oracle, rng=rng, x=x)
    assert span.rank == 4
    assert sine(span, w / unit) <= span.accuracy <= 1e-4


def test_what_has_no_slope_is_no_all_clear(rng: np.random.Generator) -> None:
    w, v = rng.standard_normal((12, 20)), rng.standard_normal(12)
    steps = uv.row_span(uv.as_oracle(lambda x: ((x @ w.T > 0) @ v)[:, None], 20), rng=rng)
    assert steps.outcome in (uv.Outcome.answers_in_steps, uv.Outcome.not_resolved)
    assert (steps.rank, steps.accuracy) == (0, 1.0)
    inside = uv.row_span(uv.as_oracle(lambda x: np.tanh(np.rint(x) @ w.T).sum(1, keepdims=True), 20), rng=rng)
    assert inside.outcome is uv.Outcome.answers_in_steps
    noise = np.random.default_rng(3)
    loud = uv.as_oracle(lambda x: np.tanh(x @ w.T) + 0.5 * noise.standard_normal((len(x), 12)), 20, noisy=True)
    assert uv.row_span(loud, rng=rng).outcome is uv.Outcome.not_resolved


def test_noise_on_a_linear_model_is_never_nothing_to_find() -> None:
    w = np.random.default_rng(0).standard_normal((2, 6))
    for seed in range(5):
        noise = np.random.default_rng(seed)

        def model(x: np.ndarray, noise: np.random.Generator = noise) -> np.ndarray:
            return x @ w.T + 0.01 * noise.standard_normal((len(x), 2))

        span = uv.row_span(uv.as_oracle(model, 6, within=(-1, 1), noisy=True), rng=np.random.default_rng(seed))
        assert span.outcome in (uv.Outcome.not_resolved, uv.Outcome.approximate, uv.Outcome.complete)
        assert sine(span, w) <= span.accuracy


def test_a_model_that_changes_is_noticed(rng: np.random.Generator) -> None:
    first, second = rng.standard_normal((6, 30)), rng.standard_normal((5, 30))
    count = 0

    def model(x: np.ndarray) -> np.ndarray:
        nonlocal count
        count += len(x)
        return np.maximum(x @ (first if count < 500 else second).T, 0).sum(1, keepdims=True)

    span = uv.row_span(uv.as_oracle(model, 30), rng=rng)
    assert (span.outcome, span.accuracy) == (uv.Outcome.model_changed, 1.0)


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_falling_spectra_end_within_the_limit_and_are_approximate(ratio: float, rng: np.random.Generator) -> None:
    rows = np.linalg.qr(rng.standard_normal((20, 20)))[0] * ratio ** np.arange(20)
    span = uv.row_span(uv.as_oracle(lambda x: np.tanh(x @ rows).sum(1, keepdims=True), 20), rng=rng)
    assert span.outcome is uv.Outcome.approximate
    assert 0 < span.left_out < 0.1
    assert span.queries <= 2 * most_queries(20, 20, 299)


@pytest.mark.parametrize("budget", [9, 300, 700, 2000])
def test_a_small_budget_states_what_it_can_vouch_for(budget: int, rng: np.random.Generator) -> None:
    weights = random_weights([40, 10, 1], rng)
    oracle = uv.as_oracle(relu_net(weights), 40, budget=budget)
    span = uv.row_span(oracle, rng=rng)
    assert oracle.ledger.asked <= budget
    assert span.outcome in (uv.Outcome.budget_ended, uv.Outcome.complete)
    assert sine(span, weights[0][0]) <= span.accuracy


def test_derivatives_at_the_walls_of_a_box(rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(lambda u: np.exp(u[:, :1] + u[:, 1:] / 2), 2, within=(-1, 1))
    x = np.array([[1.0, 0.0], [-1.0, 1.0], [1 - 1e-7, 0.3], [0.2, 0.1]])
    value = np.exp(x[:, 0] + x[:, 1] / 2)
    gradients = uv.gradient(oracle, x, rng=rng) / value[:, None]
    assert np.abs(gradients - [1, 0.5]).max() < 1e-7
    hessians = uv.hessian(oracle, x, rng=rng) / value[:, None, None]
    assert np.abs(hessians - [[1, 0.5], [0.5, 0.25]]).max() < 1e-4


def test_short_mantissas_and_odd_steps_are_read_off(rng: np.random.Generator) -> None:
    y = rng.standard_normal(300)
    assert mantissa_bits(y.astype(np.float16).astype(float)) == 11
    assert mantissa_bits(y) > 40
    assert multiples(np.round(y / 0.0371) * 0.0371) == pytest.approx(0.0371)
    assert multiples(y) == 0


def test_the_noise_measurement_costs_what_it_says(rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(lambda x: np.tanh(x[:, :3]), 5)
    before = oracle.ledger.asked
    assert uv.measure_noise(oracle, rng=rng).queries == oracle.ledger.asked - before == 264


def test_a_falling_spectrum_never_claims_more_than_it_knows() -> None:
    for seed in range(3):
        rng = np.random.default_rng([seed, 9])
        w, v = rng.standard_normal((15, 25)), rng.standard_normal((10, 15))
        left, _, right = np.linalg.svd(w, full_matrices=False)
        w = (left * rng.uniform(0.3, 0.6) ** np.arange(15)) @ right
        span = uv.row_span(uv.as_oracle(lambda x, w=w, v=v: np.abs(x @ w.T) @ v.T, 25), rng=rng)
        assert sine(span, w) <= span.accuracy


def test_a_complete_span_leaves_no_more_out_than_the_accuracy_it_states() -> None:
    complete, above = 0, 0
    for seed in range(22):
        rng = np.random.default_rng([seed, 10])
        n, k = int(rng.integers(20, 80)), int(rng.integers(6, 16))
        sizes = 10.0 ** -np.sort(rng.uniform(0, 16, k))
        w = (np.linalg.qr(rng.standard_normal((k, k)))[0] * sizes) @ np.linalg.qr(rng.standard_normal((n, k)))[0].T
        u, b, v = rng.standard_normal((3 * k, k)), 0.3 * rng.standard_normal(3 * k), rng.standard_normal((3, 3 * k))
        single = [matrix.astype(np.float32) for matrix in (w, u, b, v)]

        def model(x: np.ndarray, single: list = single) -> np.ndarray:
            w, u, b, v = single
            return np.tanh(np.float32(x) @ w.T @ u.T + b) @ v.T

        span = uv.row_span(uv.as_oracle(model, n), rng=rng)
        if span.outcome is not uv.Outcome.complete:
            continue
        slopes = 1 - np.tanh(rng.standard_normal((300, n)) @ w.T @ u.T + b) ** 2
        gradients = np.einsum("oh,ph,hn->pon", v, slopes, u @ w)
        outside = gradients - (gradients @ span.basis.T) @ span.basis
        share = np.sum(outside**2, axis=(0, 2)) / np.sum(gradients**2, axis=(0, 2))
        complete, above = complete + 1, above + (np.sqrt(share.mean()) > span.accuracy)
    assert complete >= 3
    assert above <= 0.15 * complete


def missing_here_and_there(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same answers, but none for about 2 in 100 of the questions."""
    chance = np.abs(np.sin(1e5 * (x @ np.linspace(1, 2, x.shape[1])))) * 1e4 % 1
    return np.where(chance[:, None] < 0.02, np.nan, y)


@pytest.mark.parametrize("within", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("act", [lambda s: np.maximum(s, 0), np.tanh], ids=["ReLU", "tanh"])
def test_missing_answers_are_left_out(act, within, rng: np.random.Generator) -> None:
    for _ in range(3):
        w, v = rng.standard_normal((8, 30)), rng.standard_normal((2, 8))
        model = lambda x, w=w, v=v: missing_here_and_there(x, act(x @ w.T) @ v.T)  # noqa: E731
        oracle = uv.as_oracle(model, 30, within=within)
        span = uv.row_span(oracle, rng=rng)
        assert (span.rank, span.outcome) == (8, uv.Outcome.complete)
        assert sine(span, w) <= span.accuracy
        assert oracle.ledger.missing > 0


def test_too_many_missing_answers_are_an_error(rng: np.random.Generator) -> None:
    model = lambda x: np.where(x[:, :1] > 0.5, np.nan, x[:, :2])  # noqa: E731
    with pytest.raises(uv.UnveilError, match="NaN"):
        uv.row_span(uv.as_oracle(model, 5), rng=rng)


def test_few_digits_are_no_all_clear(rng: np.random.Generator) -> None:
    w = 1e-4 * rng.standard_normal(5)
    half = uv.as_oracle(lambda x: (0.6543 + np.tanh(x @ w)[:, None]).astype(np.float16), 5)
    span = uv.row_span(half, rng=rng)
    assert span.outcome in (uv.Outcome.not_resolved, uv.Outcome.approximate)
    assert span.accuracy == 1.0 or sine(span, w[None]) <= span.accuracy
    alike = uv.as_oracle(lambda x: (0.6543 + 1e-6 * np.tanh(x @ w)[:, None]).astype(np.float16), 5)
    assert uv.row_span(alike, rng=rng).outcome is uv.Outcome.not_resolved


def test_a_neuron_that_is_rarely_on_is_no_all_clear_where_it_was_seen(rng: np.random.Generator) -> None:
    w = rng.standard_normal(20)
    for _ in range(5):
        oracle = uv.as_oracle(lambda x: np.maximum(x @ w - 1.5 * np.linalg.norm(w), 0)[:, None], 20)
        assert uv.row_span(oracle, rng=rng).outcome is not uv.Outcome.nothing_to_find


def test_stumps_and_tokens_answer_in_steps(rng: np.random.Generator) -> None:
    for _ in range(4):
        feature, at = rng.integers(0, 10, 60), rng.standard_normal(60)
        below, above = rng.standard_normal((2, 60))
        stumps = lambda x, f=feature, t=at, b=below, a=above: np.where(x[:, f] > t, a, b).sum(1)[:, None]  # noqa: E731
        assert uv.row_span(uv.as_oracle(stumps, 10), rng=rng).outcome is uv.Outcome.answers_in_steps
    table, last = 0.3 * rng.standard_normal((256, 4)), rng.standard_normal((4, 3))
    tokens = uv.as_oracle(lambda x: np.tanh(table[x.astype(int)].mean(1)) @ last, 40, within=(0, 255), grid=1)
    assert uv.row_span(tokens, rng=rng).outcome is uv.Outcome.answers_in_steps


@pytest.mark.parametrize("rounded", [lambda y: y.round(2), lambda y: (100 + y).astype(np.float16)])
def test_rounded_answers_are_no_steps(rounded, rng: np.random.Generator) -> None:
    w = rng.standard_normal((3, 8))
    oracle = uv.as_oracle(lambda x: rounded(np.tanh(x @ w.T)), 8)
    assert uv.row_span(oracle, rng=rng).outcome is not uv.Outcome.answers_in_steps


def test_a_full_rank_on_a_grid_has_no_error(rng: np.random.Generator) -> None:
    w = rng.standard_normal((9, 6))
    span = uv.row_span(uv.as_oracle(lambda x: np.tanh((x - 0.5) @ w.T), 6, within=(0, 1), grid=1 / 255), rng=rng)
    assert (span.outcome, span.accuracy, span.rank) == (uv.Outcome.full_rank, 0.0, 6)


def test_directions_added_together_are_the_echelon_form_of_all_gradients(rng: np.random.Generator) -> None:
    gradients = rng.standard_normal((12, 20))
    gradients[7] = gradients[3] + gradients[5]  # adds nothing
    known = Known.nothing(20)
    for place in np.split(gradients, 3):
        known = known.with_gradients(place, noise=1e-12, certain=1e-9)
    assert known.rank == 11
    assert np.abs(known.rows[:, known.pivots] - np.eye(11)).max() < 1e-10
    assert np.abs(known.basis @ known.basis.T - np.eye(11)).max() < 1e-12
    # Both span the gradients, and nothing else.
    for spanning in (known.rows, known.basis):
        assert np.linalg.matrix_rank(np.vstack([spanning, gradients]), tol=1e-9) == 11


def test_rectified_outputs_of_which_half_rest_at_every_point_have_full_rank_at_the_price_of_few_gradients() -> None:
    n, right, most = 128, [], 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        w, b = rng.standard_normal((n, n)) / np.sqrt(n), 0.3 * rng.standard_normal(n)
        span = uv.row_span(uv.as_oracle(flipped(lambda x, w=w, b=b: np.maximum(x @ w.T + b, 0), rng), n), rng=rng)
        right.append(span.outcome is uv.Outcome.full_rank)
        most = max(most, span.queries)
    assert_rate(right, 0.95)
    assert most < 300 + 8 * n


@pytest.mark.parametrize("short", [0, 1])
def test_a_full_rank_is_told_from_one_less_without_asking_twice(short: int) -> None:
    n, m, right, most = 12, 2, [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layers = random_weights([n - short, 2 * n, m], rng, bias=0.3)
        inside = np.linalg.qr(rng.standard_normal((n, n)))[0][: n - short]
        layers[0] = (layers[0][0] @ inside, layers[0][1])
        span = uv.row_span(uv.as_oracle(flipped(relu_net(layers), rng), n), rng=rng)
        right.append(
            span.rank == n - short and span.outcome is (uv.Outcome.complete if short else uv.Outcome.full_rank)
        )
        most = max(most, span.queries)
    assert_rate(right, 0.99)
    if not short:  # the probe, and gradients that add two directions each: no second look
        assert most < 300 + 2 * n * n / m + 24 * n


def test_a_place_that_no_correction_explains_is_left_out_unless_the_span_hangs_on_it(rng: np.random.Generator) -> None:
    count, m, rank, wide = 30, 2, 4, 9
    everywhere = np.ones((count * m, 1))
    c = rng.standard_normal((count * m, rank))
    slopes = c @ rng.standard_normal((rank, wide)) + 1e-3 * rng.standard_normal((count * m, wide))
    slopes[6:8] += rng.standard_normal((2, wide))  # the fourth place met a breakpoint
    kept = _unspoiled(c, slopes, everywhere, count)
    assert np.array_equal(np.flatnonzero(~kept), [3])
    # One that counts for little spoils nothing.
    little = everywhere.copy()
    little[6:8] = 1e-4
    assert _unspoiled(c, slopes, little, count).all()
    # Saturated nearly everywhere: the few places with a slope are all that is known of the span.
    c[8:], slopes[8:] = 0.0, 0.0
    assert _unspoiled(c, slopes, everywhere, count).all()


def test_places_without_a_slope_do_not_end_a_search(rng: np.random.Generator) -> None:
    """In raw units a scaler inside sees the same input everywhere: most neurons saturate, float32 hides the rest."""
    for _ in range(3):
        weights = random_weights([8, 8, 2], rng, bias=0.3, dtype=np.float32)
        deviation = (10.0 ** rng.uniform(-2, 3, 8)).astype(np.float32)
        net = relu_net(weights, np.float32)
        span = uv.row_span(
            uv.as_oracle(lambda x, net=net, deviation=deviation: np.tanh(net(x / deviation)), 8), rng=rng
        )
        assert span.outcome is not uv.Outcome.nothing_to_find
        assert sine(span, weights[0][0] / deviation) <= span.accuracy or span.outcome is not uv.Outcome.complete


@pytest.mark.parametrize(("sizes", "activation"), [((12, 10, 4, 1), "relu"), ((15, 10, 9, 8, 2), "sigmoid")])
def test_directions_weaker_than_rounding_are_found_by_asking_at_more_places(sizes, activation) -> None:
    # A single gradient in float32 does not show the weakest of them: twice as many do, and central differences.
    whole = 0
    for seed in range(6):
        rng = np.random.default_rng([seed, 77])
        model = known_model(sizes, activation, rng=rng, dtype=np.float32)
        span = uv.row_span(uv.as_oracle(Answered(model, kind="float32", rng=rng, flips=1.0), sizes[0]), rng=rng)
        assert sine(span, model.rows) <= span.accuracy
        whole += span.outcome is uv.Outcome.complete and span.rank == sizes[1]
    assert whole >= 5


def test_places_on_a_grid_fill_the_box_however_long_the_differences(rng: np.random.Generator) -> None:
    # Weak curvature and few digits ask for long differences; at one place they show one direction of five.
    weights = rng.standard_normal((5, 9)) / 9, rng.standard_normal((5, 2))
    asked: list[np.ndarray] = []

    def model(x: np.ndarray) -> np.ndarray:
        asked.append(x)
        return (1 + 0.01 * np.tanh((x - 0.5) @ weights[0].T) @ weights[1]).astype(np.float32)

    span = uv.row_span(uv.as_oracle(model, 9, within=(0, 1), grid=1 / 255), rng=rng)
    x = np.concatenate(asked)
    assert np.median(np.ptp(x, axis=0)) > 0.9
    assert np.std(x) > 0.15
    assert span.left_out > 1e-6 or span.rank == 5


@pytest.mark.parametrize("place", [{}, {"within": (-1, 1)}, {"within": (-1, 1), "grid": 1 / 127}])
def test_what_is_left_out_is_never_none_where_answers_are_rounded(place, rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 10))
    oracle = uv.as_oracle(lambda x: np.maximum(x @ w.T, 0).astype(np.float16), 10, **place)
    span = uv.row_span(oracle, rng=rng)
    outside = np.linalg.norm(w - w @ span.basis.T @ span.basis) / np.linalg.norm(w)
    if span.outcome is uv.Outcome.approximate:
        assert span.left_out > outside / 3
    else:
        assert span.outcome is uv.Outcome.complete
        assert outside <= span.accuracy


def _steep(rng: np.random.Generator) -> tuple[object, np.ndarray]:
    """Behind a norm and a steep sigmoid: what is lost inside counts many times more in some places than in others."""
    n, k = 24, 8
    w, u = (rng.standard_normal(s).astype(np.float32) / np.float32(s[1] ** 0.5) for s in ((k, n), (k, k)))
    v = (60 * rng.standard_normal((k, 1)) / k**0.5).astype(np.float32)

    def norm(h: np.ndarray) -> np.ndarray:
        return (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + np.float32(1e-5))

    def model(x: np.ndarray) -> np.ndarray:
        h = np.maximum(norm(np.maximum(norm(x.astype(np.float32) @ w.T), 0) @ u.T), 0) @ v
        return 1 / (1 + np.exp(-np.clip(h, -80, 80)))

    return model, (w - w.mean(0, dtype=np.float64)).astype(np.float64)


def _scaled(rng: np.random.Generator) -> tuple[object, np.ndarray]:
    """A scaler inside, asked far from its data: large sums lose digits, and breakpoints lie close together."""
    n, k = 20, 5
    deviation = np.exp(rng.uniform(np.log(3e-3), np.log(500), n)).astype(np.float32)
    w = (rng.standard_normal((k, n)) / n**0.5).astype(np.float32)
    b, v = rng.standard_normal(k).astype(np.float32), (2 * rng.standard_normal(k)).astype(np.float32)

    def model(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-np.maximum(((x.astype(np.float32) - 3 * deviation) / deviation) @ w.T + b, 0) @ v))
        return np.stack([1 - p, p], axis=1)

    return model, w / deviation.astype(np.float64)


@pytest.mark.parametrize("draw", [_steep, _scaled])
def test_no_direction_is_noise_and_the_accuracy_holds_where_noise_differs_from_place_to_place(draw) -> None:
    right = []
    for seed in range(5):
        rng = np.random.default_rng([seed, 31])
        model, rows = draw(rng)
        with np.errstate(over="ignore"):
            span = uv.row_span(uv.as_oracle(model, rows.shape[1], budget=40_000), rng=rng)
        if span.outcome in (uv.Outcome.complete, uv.Outcome.approximate):
            _, values, right_vectors = np.linalg.svd(rows, full_matrices=False)
            true = right_vectors[values > 1e-6 * values[0]]
            right.append(np.linalg.norm(span.basis - span.basis @ true.T @ true, 2) <= span.accuracy)
    assert len(right) >= 3
    assert_rate(right, 0.99)


def test_what_is_at_rest_at_one_place_and_steep_at_another_makes_no_full_rank() -> None:
    ended = []
    for seed in range(20):  # the first gradients are those of tails, millions of times smaller than those met later
        rng = np.random.default_rng(seed)
        w, b, v = 10 * rng.standard_normal((6, 8)), 10 * rng.standard_normal(6), rng.standard_normal((2, 6))
        oracle = uv.as_oracle(lambda x, w=w, b=b, v=v: np.tanh(x @ w.T + b) @ v.T, 8)
        ended.append(uv.row_span(oracle, rng=rng).outcome)
    assert uv.Outcome.full_rank not in ended


@pytest.mark.parametrize(("kind", "steepness", "seeds"), [("tanh", (0.5, 1.5), (7, 8, 12)), ("clip", (1.5, 2.5), (9,))])
def test_a_complement_stays_between_usual_inputs_where_most_neurons_rest(kind, steepness, seeds) -> None:
    # Beside most inputs nothing changes at all: neurons are at rest, or answers at their bounds.
    for seed in seeds:
        rng = np.random.default_rng([seed, 6])
        rows = rng.standard_normal((4, 12)) * 10 ** rng.uniform(*steepness, (4, 1))
        bias, outer = rng.standard_normal(4) * np.linalg.norm(rows, axis=1), rng.standard_normal((4, 1))

        def model(x: np.ndarray, rows=rows, bias=bias, outer=outer) -> np.ndarray:
            sums = x @ rows.T + bias
            if kind == "clip":
                return np.clip(np.maximum(sums, 0) @ outer, -9, 9)
            return (np.tanh(sums) @ outer).astype(np.float32)

        span = uv.row_span(uv.as_oracle(model, 12), rng=rng)
        x = rng.standard_normal((2000, 12))
        y = model(x)
        changed = np.abs(model(x + span.complement(rng.standard_normal(x.shape))) - y)[:, 0] > 0.01 * np.ptp(y)
        assert changed.mean() < 0.02 or span.outcome is not uv.Outcome.complete
