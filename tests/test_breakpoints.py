"""Breakpoints along lines against the true ones of random networks, in both precisions, as rates over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, random_weights, relu_elsewhere, relu_net, single
from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.rounding import rounding


def true_breakpoints(weights: Weights, base: np.ndarray, step: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where the pieces of `t -> net(base + t step)` end, layer by layer; only those at which the answer bends."""
    pieces = [(low, high, base, step)]
    for w, b in weights[:-1]:
        finer = []
        for left, right, p, q in pieces:
            z, rate = w @ p + b, w @ q
            with np.errstate(divide="ignore", invalid="ignore"):
                t = -z / rate
            edges = np.concatenate([[left], np.sort(t[(t > left) & (t < right)]), [right]])
            for s, e in pairwise(edges):
                on = z + (s + e) / 2 * rate > 0
                finer.append((s, e, z * on, rate * on))
        pieces = finer
    last = weights[-1][0]
    ends = [a[1] for a, b in pairwise(pieces) if np.abs(last @ (b[3] - a[3])).max() > 1e-7]
    return np.array(ends)


def counts(sizes: Sequence[int], dtype: type, reach: float, seeds: range) -> dict[str, int]:
    """True breakpoints, missed ones, those not told, invented ones, stretches left open and queries, over all seeds."""
    total = dict.fromkeys(("true", "missed", "silent", "invented", "open", "asked"), 0)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        weights = single(random_weights(sizes, rng, bias=0.5))
        answer, exact = relu_elsewhere(weights, rng, dtype), relu_net(weights)
        oracle = uv.as_oracle(lambda x, f=answer, d=dtype: f(x.astype(d)), shape=sizes[0])
        base, step = rng.standard_normal((3, sizes[0])), rng.standard_normal((3, sizes[0]))
        before = oracle.ledger.asked
        lines = uv.breakpoints(oracle, base, step, low=-reach, high=reach, rng=rng)
        total["asked"] += oracle.ledger.asked - before
        for line in lines:
            true = true_breakpoints(weights, line.base, line.direction, -reach, reach)
            away = np.abs(np.append(line.t, np.inf)[:, None] - true)
            missed = true[away.min(axis=0) > 1e-3 * (1 + np.abs(true))]
            total["true"] += len(true)
            total["missed"] += len(missed)
            total["invented"] += int((away[:-1].min(axis=1) > 10 * line.width + 1e-5).sum())
            total["open"] += len(line.unresolved)
            for t in missed:
                near = np.sort(np.abs(true - t))[1] / 4
                three = exact(line.base + np.array([[t - near], [t], [t + near]]) * line.direction)
                jump = np.abs(three[0] - 2 * three[1] + three[2]) / near
                told = ((line.unresolved[:, 0] <= t) & (t <= line.unresolved[:, 1])).any()
                total["silent"] += not (told or (jump < line.hidden[np.searchsorted(line.t, t)]).all())
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "reach"), [((20, 10, 1), 1e4), ((12, 8, 8, 8, 1), 1e4), ((5, 15, 15, 2), 20.0)])
def test_all_breakpoints_are_found_in_float64(sizes: tuple[int, ...], reach: float) -> None:
    found = counts(sizes, np.float64, reach, range(2))
    assert found["missed"] <= 0.002 * found["true"], found
    assert found["invented"] <= 0.002 * found["true"], found
    assert found["silent"] == 0, found
    assert found["asked"] <= 17 * found["true"] + 2 * (72 + 18), found


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(784, 16, 1), (50, 20, 10), (5, 12, 12, 3)])
def test_what_is_missed_in_float32_is_rare_and_told(sizes: tuple[int, ...]) -> None:
    found = counts(sizes, np.float32, 20.0, range(2))
    assert found["missed"] <= max(2, 0.02 * found["true"]), found
    assert found["invented"] <= max(2, 0.02 * found["true"]), found
    assert found["silent"] <= max(1, 0.01 * found["true"]), found
    assert found["asked"] <= 17 * found["true"] + 2 * (72 + 18), found


@pytest.mark.parametrize("gap", [1e-3, 1e-5])
@pytest.mark.parametrize("signs", [(1, -1), (1, 1), (2, -1.999)])
def test_close_pairs_are_told_apart(gap: float, signs: tuple[float, float]) -> None:
    # The outer lines of a pair with opposite signs meet far outside it.
    def model(x: np.ndarray) -> np.ndarray:
        t = x[:, :1]
        pair = signs[0] * np.maximum(t - 0.3, 0) + signs[1] * np.maximum(t - 0.3 - gap, 0)
        return 0.5 * t + pair + np.maximum(-t - 50, 0) + 0.7 * np.maximum(t - 900, 0)

    oracle = uv.as_oracle(model, shape=2)
    rng = np.random.default_rng(0)
    (line,) = uv.breakpoints(oracle, np.zeros(2), np.array([1.0, 0.0]), low=-1e4, high=1e4, rng=rng)
    assert np.allclose(line.t, [-50, 0.3, 0.3 + gap, 900], rtol=1e-9, atol=gap * 1e-2)
    assert np.allclose(line.jump[:, 0], [1, *signs, 0.7], rtol=1e-4)
    assert np.allclose(line.at(np.array([-60.0, 0.0, 1000.0])), model(np.array([[-60.0, 0], [0, 0], [1000.0, 0]])))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_straight_line_has_no_breakpoints(dtype: type) -> None:
    rng = np.random.default_rng(0)
    slope = rng.standard_normal((50, 3)).astype(dtype)
    oracle = uv.as_oracle(lambda x: x.astype(dtype) @ slope, shape=50)
    lines = uv.breakpoints(
        oracle, rng.standard_normal((6, 50)), rng.standard_normal((6, 50)), low=-20, high=20, rng=rng
    )
    assert [len(line.t) for line in lines] == [0] * 6
    assert all(len(line.unresolved) == 0 and np.isfinite(line.hidden).all() for line in lines)


@pytest.mark.parametrize("model", [lambda x: np.sin(50 * x[:, :1]), lambda x: np.tanh(x).sum(axis=1, keepdims=True)])
def test_smooth_answers_end_as_unresolved(model: object) -> None:
    oracle = uv.as_oracle(model, shape=2, budget=1500)
    (line,) = uv.breakpoints(oracle, np.zeros(2), np.ones(2), low=-1, high=1, rng=np.random.default_rng(2))
    assert len(line.unresolved)


def test_a_budget_leaves_the_rest_unresolved() -> None:
    rng = np.random.default_rng(1)
    weights = random_weights((20, 40, 1), rng, bias=0.5)
    oracle = uv.as_oracle(relu_net(weights), shape=20, budget=300)
    base, step = rng.standard_normal((2, 20)), rng.standard_normal((2, 20))
    lines = uv.breakpoints(oracle, base, step, low=-20, high=20, rng=rng)
    assert oracle.ledger.asked <= 300
    for line in lines:
        for t in true_breakpoints(weights, line.base, line.direction, -20, 20):
            told = ((line.unresolved[:, 0] <= t) & (t <= line.unresolved[:, 1])).any()
            assert told or np.abs(line.t - t).min() < 1e-6


def test_the_first_queries_are_counted() -> None:
    oracle = uv.as_oracle(lambda x: x[:, :1] * 2.0, shape=3)
    before = oracle.ledger.asked
    uv.breakpoints(oracle, np.zeros((4, 3)), np.ones(3), low=-1, high=1, rng=np.random.default_rng(0))
    assert oracle.ledger.asked - before >= 36 + 6 * 4


def test_the_same_seed_gives_the_same_lines() -> None:
    weights = random_weights((10, 8, 1), np.random.default_rng(0), bias=0.5)
    one, two = (
        uv.breakpoints(
            uv.as_oracle(relu_net(weights), shape=10), np.zeros(10), np.ones(10), low=-9, high=9,
            rng=np.random.default_rng(5),
        )[0].t
        for _ in range(2)
    )  # fmt: skip
    assert np.array_equal(one, two)


def test_what_cannot_be_searched_is_refused() -> None:
    rng = np.random.default_rng(3)
    oracle = uv.as_oracle(lambda x: x[:, :1] * 2.0, shape=2, within=(0, 1))
    with pytest.raises(uv.BadInput, match="low < high"):
        uv.breakpoints(oracle, np.zeros(2), np.ones(2), low=1.0, high=1.0, rng=rng)
    with pytest.raises(uv.BadInput, match="leaves the box"):
        uv.breakpoints(oracle, np.zeros(2), np.ones(2), low=0.0, high=2.0, rng=rng)
    with pytest.raises(uv.BadInput, match="must have shape"):
        uv.breakpoints(oracle, np.zeros(3), np.ones(3), low=0.0, high=1.0, rng=rng)
    with pytest.raises(uv.BadInput, match="labels"):
        uv.breakpoints(uv.LabelsOnly(oracle), np.zeros(2), np.ones(2), low=0.0, high=1.0, rng=rng)


def test_a_pair_that_cancels_is_seen_in_float32() -> None:
    def model(x: np.ndarray) -> np.ndarray:
        t = x[:, :1].astype(np.float32)
        return np.asarray(t + np.maximum(t - np.float32(0.3), 0) - np.maximum(t - np.float32(0.31), 0))

    oracle = uv.as_oracle(model, shape=2)
    rng = np.random.default_rng(0)
    (line,) = uv.breakpoints(oracle, np.zeros(2), np.array([1.0, 0.0]), low=-20.0, high=20.0, rng=rng)
    assert np.allclose(line.t, [0.3, 0.31], atol=1e-4)
    assert np.allclose(line.jump[:, 0], [1, -1], atol=1e-2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_deviations_thought_too_small_are_measured_on_the_way(dtype: type) -> None:
    found: list[bool] = []
    open_ = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = random_weights((8, 12, 1), rng, bias=0.5)
        answer = relu_elsewhere(weights, rng, dtype)
        points = rng.standard_normal((6, 8))
        noise = rounding(lambda x, f=answer: f(x.astype(dtype)), points, float(np.finfo(dtype).eps), rng)
        base, step = rng.standard_normal((2, 1, 8))
        # Six times as much noise as was measured, which no tolerance covers.
        sigma = 6 * noise.floor

        def ask(x: np.ndarray, f=answer, s=sigma, r=rng, d=dtype) -> np.ndarray:  # type: ignore[no-untyped-def]
            return np.asarray(f(x.astype(d)) + s * r.standard_normal((len(x), 1)))

        (line,) = line_search(ask, base, step, -20.0, 20.0, noise, rng)
        true = true_breakpoints(weights, base[0], step[0], -20.0, 20.0)
        found += [bool(np.abs(line.t - t).min(initial=np.inf) < 2e-3 * (1 + abs(t))) for t in true]
        open_ += len(line.unresolved)
        assert len(line.t) <= len(true) + 1, seed
    assert np.mean(found) >= 0.9
    assert open_ <= 3


@pytest.mark.parametrize("neurons", [600, 1200])
def test_patience_does_not_end_before_the_first_of_many_breakpoints(neurons: int) -> None:
    rng = np.random.default_rng(neurons)
    weights = random_weights((200, neurons, 10), rng, bias=0.3)
    oracle = uv.as_oracle(relu_elsewhere(weights, rng), 200)
    base, direction = rng.standard_normal((2, 1, 200))
    (line,) = uv.breakpoints(oracle, base, direction, low=-1e5, high=1e5, rng=rng)
    (w, b), _ = weights
    truth = np.sort(-(w @ base[0] + b) / (w @ direction[0]))
    truth = truth[np.abs(truth) < 1e5]
    assert len(line.t) == len(truth)
    assert (np.abs(line.t - truth) < 1e-6 * np.maximum(1, np.abs(truth))).all()
    assert not len(line.unresolved)
    assert oracle.ledger.asked <= 11 * neurons


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"base": np.full(3, np.nan)}, "must be finite"),
        ({"base": None}, "of one length L"),
        ({"direction": np.array([np.inf, 0, 0])}, "must be finite"),
        ({"high": np.inf}, "must be finite"),
        ({"low": np.nan}, "must be finite"),
        ({"low": [0.0, 1.0]}, "one for each of 1 lines"),
        ({"base": np.zeros((2, 3)), "direction": np.ones((3, 3))}, "of one length L"),
        ({"direction": np.ones(4)}, "of one length L"),
    ],
)
def test_lines_that_are_none_are_refused_in_words_before_anything_is_asked(given: dict, told: str) -> None:
    oracle = uv.as_oracle(lambda x: np.maximum(x[:, 0] - 0.25, 0), shape=3)
    asked = oracle.ledger.asked
    line = {"base": np.zeros(3), "direction": np.ones(3), "low": -1.0, "high": 1.0} | given
    with pytest.raises(uv.BadInput, match=told):
        uv.breakpoints(oracle, line.pop("base"), line.pop("direction"), rng=0, **line)
    assert oracle.ledger.asked == asked


def test_of_no_lines_there_are_no_breakpoints() -> None:
    oracle = uv.as_oracle(lambda x: np.maximum(x[:, 0] - 0.25, 0), shape=3)
    asked = oracle.ledger.asked
    assert uv.breakpoints(oracle, np.empty((0, 3)), np.empty((0, 3)), low=-1, high=1, rng=0) == []
    assert oracle.ledger.asked == asked
