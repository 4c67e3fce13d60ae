"""Oracle, ledger and wrappers: what is legal, what it costs, and what wrapping changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.blackbox import source_oracle


def total(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1, keepdims=True) * 1.1


class Counting:
    """A function that counts the questions it is really asked."""

    def __init__(self, f: Callable[[np.ndarray], np.ndarray] = total) -> None:
        self.f, self.seen, self.largest = f, 0, 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.seen += len(x)
        self.largest = max(self.largest, len(x))
        return self.f(x)


# ledger and budget


@given(budget=st.integers(0, 60), batches=st.lists(st.integers(0, 25), max_size=8))
def test_no_sequence_of_batches_crosses_a_budget(budget: int, batches: list[int]) -> None:
    f = Counting()
    if budget < 8:
        with pytest.raises(uv.BudgetExceeded):
            uv.as_oracle(f, 2, budget=budget)
        assert f.seen == 0
        return
    oracle = uv.as_oracle(f, 2, budget=budget)
    spent = 8
    for size in batches:
        if spent + size > budget:
            with pytest.raises(uv.BudgetExceeded, match="budget"):
                oracle(np.zeros((size, 2)))
        else:
            assert oracle(np.zeros((size, 2))).shape == (size, 1)
            spent += size
        assert oracle.ledger.asked == oracle.ledger.sent == f.seen == spent <= budget
        assert oracle.ledger.left == budget - spent


def test_negative_budget_is_refused() -> None:
    with pytest.raises(uv.BadInput, match="budget"):
        uv.as_oracle(total, 2, budget=-1)


def test_illegal_questions_cost_nothing() -> None:
    oracle = uv.as_oracle(total, 2, within=(0, 1), grid=0.25)
    for x in ([[0.0, 1.5]], [[0.0, -0.1]], [[0.1, 0.0]], [[np.nan, 0.0]], [[np.inf, 0.0]], [[0.0]]):
        with pytest.raises(uv.BadInput):
            oracle(np.array(x))
    for odd in (np.zeros(2), np.zeros((1, 2, 1)), "xy", None, [["a", "b"]], [[1.0], [1.0, 2.0]]):
        with pytest.raises(uv.BadInput):
            oracle(odd)
    assert oracle.ledger.asked == 8


# legal questions


boxes = st.tuples(st.floats(-100, 100), st.floats(1e-3, 100)).map(lambda p: (p[0], p[0] + p[1]))


@given(
    within=st.none() | boxes,
    steps=st.none() | st.integers(1, 300),
    single=st.booleans(),
    start=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_nearest_is_legal_idempotent_and_near(
    within: tuple[float, float] | None, steps: int | None, single: bool, start: int, scale: float
) -> None:
    grid = None if steps is None else (1.0 if within is None else (within[1] - within[0])) / steps
    f = (lambda x: total(x).astype(np.float32)) if single else total
    oracle = uv.as_oracle(f, 3, within=within, grid=grid)
    rng = np.random.default_rng(start)
    x = scale * rng.standard_normal((20, 3))
    near = oracle.nearest(x)
    oracle(near)
    oracle(oracle.sample(20, rng))
    if within is not None:
        assert within[0] <= near.min()
        assert near.max() <= within[1]
    assert (oracle.dtype == np.float32) == single
    if single:
        assert (near.astype(np.float32) == near).all()
    size = max(1.0, np.abs(near).max())
    assert np.allclose(oracle.nearest(near), near, rtol=0, atol=3e-7 * size if single else 1e-12 * size)
    inside = x if within is None else np.clip(x, *within)
    step = 0.0 if grid is None else grid / 2
    assert np.abs(near - inside).max() <= step * (1 + 1e-6) + 2e-7 * size


def test_sample_is_uniform_in_the_box_and_normal_without(rng: np.random.Generator) -> None:
    free = uv.as_oracle(total, 100).sample(1000, rng)
    boxed = uv.as_oracle(total, 100, within=(2, 4)).sample(1000, rng)
    assert abs(free.mean()) < 0.02
    assert abs(free.std() - 1) < 0.02
    assert abs(boxed.mean() - 3) < 0.02
    assert abs(boxed.std() - 2 / np.sqrt(12)) < 0.02


@pytest.mark.parametrize(
    "options",
    [
        {"within": (1, 0)},
        {"within": (0, np.inf)},
        {"within": 3},
        {"grid": 0},
        {"grid": 2.0, "within": (0, 1)},
        {"answers": "logits"},
        {"shape": 0},
        {"shape": ()},
        {"shape": (3, -1)},
        {"shape": 2.5},
        {"shape": None},
    ],
)
def test_bad_options_are_refused_before_asking(options: dict[str, object]) -> None:
    f = Counting()
    with pytest.raises(uv.BadInput):
        uv.as_oracle(f, **({"shape": 2} | options))
    assert f.seen == 0


# big batches


def test_big_batches_are_cut_by_size_alone(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(source_oracle, "CHUNK_NUMBERS", 60)
    f = Counting()
    oracle = uv.as_oracle(f, 3)
    x = rng.standard_normal((95, 3))
    assert np.array_equal(oracle(x), total(x))
    assert f.largest == 20
    assert oracle.ledger.asked == oracle.ledger.sent == f.seen == 103


def test_one_question_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_oracle, "CHUNK_NUMBERS", 2)
    assert uv.as_oracle(total, 3)(np.ones((4, 3))).shape == (4, 1)


# wrappers


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_log_ratios_undo_softmax(rng: np.random.Generator) -> None:
    net = relu_net(random_weights([6, 8, 5], rng, bias=1.0))
    oracle = uv.as_oracle(lambda x: softmax(net(x)), 6)
    assert isinstance(oracle, uv.LogRatios)
    assert oracle.m == 4
    x = oracle.sample(50, rng)
    y, z = oracle(x), net(x)
    r = oracle.reference
    assert r is not None
    assert np.abs(y - (np.delete(z, r, axis=1) - z[:, [r]])).max() < 1e-12
    assert np.abs(oracle.probabilities(y) - softmax(z)).max() < 1e-14
    assert np.array_equal(oracle.predictions(y), z.argmax(axis=1))


def test_log_ratios_stay_finite_where_probabilities_underflow(rng: np.random.Generator) -> None:
    def confident(x: np.ndarray) -> np.ndarray:
        return softmax((200 * x).astype(np.float32))

    oracle = uv.as_oracle(confident, 4, answers="probabilities")
    x = oracle.sample(500, rng)
    assert (confident(x) == 0).any()
    y = oracle(x)
    assert np.isfinite(y).all()
    # The floor is the smallest normal float32.
    assert np.abs(y).max() <= -np.log(float(np.finfo(np.float32).tiny)) + 1e-6
    clear = (confident(x) > 1e-37).all(axis=1)
    assert clear.any()
    z = 200 * x[clear]
    r = oracle.reference
    assert r is not None
    truth = np.delete(z, r, axis=1) - z[:, [r]]
    assert np.abs(y[clear] - truth).max() < 1e-4


def test_one_probability_becomes_its_logit(rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(lambda x: special.expit(5 * x.sum(axis=1)), 3, answers="probabilities")
    x = oracle.sample(50, rng)
    y = oracle(x)
    assert y.shape == (50, 1)
    assert np.allclose(y[:, 0], 5 * x.sum(axis=1), atol=1e-6)
    assert np.allclose(oracle.probabilities(y)[:, 0], special.expit(5 * x.sum(axis=1)))
    assert np.isfinite(oracle(np.array([[1e3, 0, 0], [-1e3, 0, 0]]))).all()


def test_values_are_no_probabilities() -> None:
    with pytest.raises(uv.SourceError, match="no probabilities"):
        uv.as_oracle(lambda x: x, 3, answers="probabilities")


def test_independent_probabilities_are_asked_as_one_logit_each(rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(lambda x: special.expit(2 * x), 3, answers="probabilities")
    x = oracle.sample(50, rng)
    y = oracle(x)
    assert y.shape == (50, 3)
    np.testing.assert_allclose(y, 2 * x, atol=1e-9)
    np.testing.assert_allclose(oracle.probabilities(y), special.expit(2 * x), atol=1e-12)
    # What one rounding of a probability makes of its logit, by brute force: much where it is near 1.
    near = oracle.rounding(np.array([[0.0, 10.0, 20.0]]))[0]
    p = special.expit(np.array([0.0, 10.0, 20.0]))
    made = np.abs(special.logit(p) - special.logit(np.nextafter(p, 0)))
    assert (near < 2 * made).all()
    assert (near > made / 20).all()
    assert any("lie in [0, 1]" in note for note in uv.as_oracle(special.expit, 3).notes)


def test_rounded_probabilities_have_a_floor_of_half_a_digit(rng: np.random.Generator) -> None:
    oracle = uv.as_oracle(lambda x: np.round(softmax(5 * x), 3), 4)
    assert isinstance(oracle, uv.LogRatios)
    assert 5e-4 < oracle.resolution < 1e-2
    assert 2e-4 < oracle.floor < 5e-3
    assert np.isfinite(oracle(oracle.sample(200, rng))).all()


def test_labels_only(rng: np.random.Generator) -> None:
    net = relu_net(random_weights([6, 8, 5], rng, bias=1.0))
    values = uv.as_oracle(net, 6)
    x = values.sample(100, rng)
    truth = net(x).argmax(axis=1)
    for oracle in (
        uv.LabelsOnly(values),
        uv.as_oracle(net, 6, answers="labels"),
        uv.LabelsOnly(uv.as_oracle(lambda x: softmax(net(x)), 6)),
        uv.as_oracle(values, answers="labels"),
    ):
        y = oracle(x)
        assert oracle.answers == "labels"
        assert y.dtype == np.int64
        assert y.shape == (100, 1)
        assert np.array_equal(oracle.predictions(y), truth)
        with pytest.raises(uv.BadInput):
            oracle.probabilities(y)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 1.0])
def test_labels_of_one_output_reach_a_threshold(threshold: float, rng: np.random.Generator) -> None:
    oracle = uv.LabelsOnly(uv.as_oracle(lambda x: x[:, :1], 2), threshold=threshold)
    x = oracle.sample(100, rng)
    assert np.array_equal(oracle(x)[:, 0], x[:, 0] >= threshold)


def test_labels_of_a_two_class_softmax(rng: np.random.Generator) -> None:
    oracle = uv.LabelsOnly(uv.as_oracle(lambda x: softmax(x), 2))
    x = oracle.sample(100, rng)
    assert np.array_equal(oracle(x)[:, 0], x.argmax(axis=1))


def test_threshold_of_probability_is_a_half() -> None:
    oracle = uv.as_oracle(lambda x: 1 / (1 + np.exp(-x[:, 0])), 1, answers="labels")
    assert oracle(np.array([[-0.1], [0.1]])).tolist() == [[0], [1]]


def test_rounded(rng: np.random.Generator) -> None:
    inner = uv.as_oracle(total, 3)
    oracle = uv.Rounded(inner, 2)
    x = oracle.sample(20, rng)
    assert np.array_equal(oracle(x), np.round(total(x), 2))
    # The same as if the model itself had rounded.
    inside = uv.as_oracle(lambda x: np.round(total(x), 2), 3)
    assert 0.5 < oracle.resolution / inside.resolution < 2
    assert inner.ledger is oracle.ledger
    assert inner.ledger.asked == 28


def test_affine_asks_normalised_inputs(rng: np.random.Generator) -> None:
    mean, deviation = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1), 0.225
    net = relu_net(random_weights([12, 8, 5], rng))
    inner = uv.as_oracle(net, (3, 2, 2))
    oracle = uv.Affine(inner, mean, deviation, within=(0, 1))
    x = oracle.sample(20, rng)
    assert 0 <= x.min() <= x.max() <= 1
    normal = ((x.reshape(-1, 3, 2, 2) - mean) / deviation).reshape(-1, 12)
    assert np.abs(oracle(x) - net(normal)).max() < 1e-13


def test_affine_names_exactly_what_a_single_precision_model_sees(rng: np.random.Generator) -> None:
    seen = []

    def f(x: np.ndarray) -> np.ndarray:
        seen.append(x.copy())
        return x.astype(np.float32) @ np.ones((3, 1), np.float32) * np.float32(1.1)

    oracle = uv.Affine(uv.as_oracle(f, 3), 0.3, 0.7, within=(0, 1))
    x = oracle.nearest(rng.uniform(0.1, 0.9, (50, 3)))
    oracle(x)
    assert (seen[-1].astype(np.float32) == seen[-1]).all()
    assert np.abs(x - (seen[-1] * 0.7 + 0.3)).max() < 1e-15


def test_affine_carries_a_box_over() -> None:
    oracle = uv.Affine(uv.as_oracle(total, 2, within=(-1, 1)), 0.5, 0.5)
    assert oracle.within == (0, 1)
    with pytest.raises(uv.BadInput, match="within"):
        uv.Affine(uv.as_oracle(total, 2, within=(-1, 1)), 0.5, 0.5, within=(0, 2))


def test_restricted_only_shrinks() -> None:
    oracle = uv.as_oracle(total, 2, within=(0, 1))
    small = uv.as_oracle(oracle, within=(0.2, 0.4))
    with pytest.raises(uv.BadInput):
        small(np.full((1, 2), 0.5))
    with pytest.raises(uv.BadInput):
        uv.Restricted(oracle, within=(0, 2))


def test_an_oracle_is_returned_as_it_is_or_limited() -> None:
    oracle = uv.as_oracle(total, 2)
    assert uv.as_oracle(oracle) is oracle
    uv.as_oracle(oracle, budget=10)
    oracle(np.zeros((2, 2)))
    with pytest.raises(uv.BudgetExceeded):
        oracle(np.zeros((1, 2)))


def test_wrappers_that_make_no_sense_are_refused() -> None:
    labels = uv.LabelsOnly(uv.as_oracle(total, 2))
    for wrap in (uv.LabelsOnly, uv.LogRatios, uv.Arctanh, lambda o: uv.Rounded(o, 2)):
        with pytest.raises(uv.BadInput, match="labels"):
            wrap(labels)
    with pytest.raises(uv.BadInput):
        uv.as_oracle(labels, answers="values")
    with pytest.raises(uv.BadInput):
        uv.Rounded(uv.as_oracle(total, 2), 99)


def test_fingerprints_tell_oracles_apart() -> None:
    plain = uv.as_oracle(total, 2)
    prints = {
        o.fingerprint()
        for o in (
            plain,
            uv.as_oracle(lambda x: 2 * total(x), 2),
            uv.Rounded(plain, 2),
            uv.Rounded(plain, 3),
            uv.LabelsOnly(plain),
            uv.LabelsOnly(plain, 0.5),
            uv.LogRatios(plain),
            uv.Arctanh(plain),
            uv.Affine(plain, 0.5),
            uv.Affine(plain, 0.25),
        )
    }
    assert len(prints) == 10
    assert uv.as_oracle(total, 2).fingerprint() == plain.fingerprint()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_wrapped_oracle_costs_as_many_queries(start: int) -> None:
    rng = np.random.default_rng(start)
    f = Counting(lambda x: softmax(x))
    oracle: uv.Oracle = uv.as_oracle(f, 4)
    for _ in range(rng.integers(0, 3)):
        oracle = [uv.Rounded(oracle, 6), uv.Affine(oracle, 0.1), uv.Restricted(oracle, (-3, 3))][rng.integers(3)]
        if isinstance(oracle, uv.Affine) and oracle.within is not None:
            break
    oracle(oracle.sample(17, rng))
    assert oracle.ledger.asked == oracle.ledger.sent == f.seen == 25
