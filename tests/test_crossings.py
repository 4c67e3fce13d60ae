"""Breakpoints along lines against the true ones of random networks, computed from their weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.helpers import Weights, assert_rate, random_weights, relu_elsewhere, single
from unveil.blackbox.crossings import breakpoints
from unveil.blackbox.noisy_crossings import noisy_breakpoints
from unveil.blackbox.rounding import rounding
from unveil.outcome import BadInput


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


@pytest.mark.parametrize("sizes", [(20, 10, 1), (5, 40, 40, 2), (12, 10, 10, 10, 1), (30, 60, 3)])
def test_every_breakpoint_is_found_and_none_invented(sizes: tuple[int, ...], rng: np.random.Generator) -> None:
    exact: list[bool] = []
    total = asked = 0
    for _ in range(6):
        weights = random_weights(sizes, rng, bias=0.5)
        net = relu_elsewhere(weights, rng)
        noise = rounding(net, rng.standard_normal((4, sizes[0])), 2.2e-16, rng)
        base, step = rng.standard_normal((5, sizes[0])), rng.standard_normal((5, sizes[0]))
        count = [0]

        def ask(x: np.ndarray, net=net, count=count) -> np.ndarray:  # type: ignore[no-untyped-def]
            count[0] += len(x)
            return net(x)

        lines = breakpoints(ask, base, step, -1e4, 1e4, noise, rng)
        asked += count[0]
        for i, line in enumerate(lines):
            true = true_breakpoints(weights, base[i], step[i], -1e4, 1e4)
            same = len(line.t) == len(true) and len(line.unresolved) == 0
            exact.append(same and bool((np.abs(line.t - true) <= 1e-8 * (1 + np.abs(true))).all()))
            total += len(true)
    assert_rate(exact, 0.99, sizes)
    assert asked <= 15 * total


@pytest.mark.parametrize("gap", [1e-3, 1e-5])
@pytest.mark.parametrize("signs", [(1, -1), (1, 1), (2, -1.999)])
def test_close_pairs_are_told_apart(gap: float, signs: tuple[float, float]) -> None:
    # The outer lines of a pair with opposite signs meet far outside it.
    def ask(x: np.ndarray) -> np.ndarray:
        t = x[:, :1]
        return (
            0.5 * t
            + signs[0] * np.maximum(t - 0.3, 0)
            + signs[1] * np.maximum(t - 0.3 - gap, 0)
            + np.maximum(-t - 50, 0)
            + 0.7 * np.maximum(t - 900, 0)
        )

    rng = np.random.default_rng(0)
    noise = rounding(ask, np.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.4]]), 2.2e-16, rng)
    (line,) = breakpoints(ask, np.zeros((1, 2)), np.array([[1.0, 0.0]]), -1e4, 1e4, noise, rng)
    assert np.allclose(line.t, [-50, 0.3, 0.3 + gap, 900], rtol=1e-10, atol=gap * 1e-2)
    assert np.allclose(line.jump[:, 0], [1, *signs, 0.7], rtol=1e-4)
    assert np.allclose(
        line.at(np.array([-60.0, 0.0, 1000.0])), ask(np.array([[-60.0, 0], [0, 0], [1000.0, 0]])), atol=1e-7
    )


@pytest.mark.parametrize("sizes", [(784, 32, 1), (200, 40, 20, 10), (5, 50, 50, 5)])
def test_float32_answers_are_read_as_far_as_their_digits_go(sizes: tuple[int, ...], rng: np.random.Generator) -> None:
    right: list[bool] = []
    seen: list[bool] = []
    asked = 0
    for _ in range(4):
        weights = single(random_weights(sizes, rng, bias=0.5))
        net = relu_elsewhere(weights, rng, np.float32)
        noise = rounding(net, rng.standard_normal((4, sizes[0])), 1.2e-7, rng)
        assert 1e-8 < noise.relative < 1e-5
        base, step = rng.standard_normal((4, sizes[0])), rng.standard_normal((4, sizes[0]))
        count = [0]

        def ask(x: np.ndarray, net=net, count=count) -> np.ndarray:  # type: ignore[no-untyped-def]
            count[0] += len(x)
            return net(x.astype(np.float32))

        for i, line in enumerate(noisy_breakpoints(ask, base, step, -20, 20, noise)):
            true = true_breakpoints(weights, base[i], step[i], -20, 20)
            away = np.abs(line.t[:, None] - true[None])
            right += list(away.min(axis=1) <= 10 * line.width + 1e-5)
            seen += list(away.min(axis=0) <= 1e-3 * (1 + np.abs(true)))
            assert (np.diff(line.t) >= 0).all()
        asked += count[0]
    assert_rate(right, 0.998, "within ten widths of a true one")
    assert_rate(seen, 0.98, "seen")
    assert asked <= 60 * len(seen)


def test_a_pair_of_bends_that_cancel_is_seen_in_float32() -> None:
    def ask(x: np.ndarray) -> np.ndarray:
        t = x[:, :1].astype(np.float32)
        one = np.float32(1)
        return np.asarray(t * one + np.maximum(t - np.float32(0.3), 0) - np.maximum(t - np.float32(0.31), 0))

    rng = np.random.default_rng(0)
    noise = rounding(ask, np.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.4]]), 1.2e-7, rng)
    (line,) = noisy_breakpoints(ask, np.zeros((1, 2)), np.array([[1.0, 0.0]]), -20.0, 20.0, noise)
    assert np.allclose(line.t, [0.3, 0.31], atol=1e-4)
    assert np.allclose(line.jump[:, 0], [1, -1], atol=1e-2)
    assert np.allclose(line.at(np.array([-5.0, 5.0])), [[-5.0], [5.01]], atol=1e-5)


def test_a_straight_line_has_no_breakpoints_in_float32() -> None:
    rng = np.random.default_rng(0)
    slope = rng.standard_normal((50, 3)).astype(np.float32)
    ask = lambda x: x.astype(np.float32) @ slope  # noqa: E731
    noise = rounding(ask, rng.standard_normal((4, 50)), 1.2e-7, rng)
    lines = noisy_breakpoints(ask, rng.standard_normal((6, 50)), rng.standard_normal((6, 50)), -20.0, 20.0, noise)
    assert [len(line.t) for line in lines] == [0] * 6


def test_smooth_answers_are_not_called_straight() -> None:
    rng = np.random.default_rng(1)
    assert not rounding(
        lambda x: np.tanh(x).sum(axis=1, keepdims=True), rng.standard_normal((6, 4)), 2.2e-16, rng
    ).straight


def test_answers_that_contradict_each_other_end() -> None:
    rng = np.random.default_rng(2)
    noise = rounding(lambda x: x[:, :1], rng.standard_normal((4, 2)), 2.2e-16, rng)
    (line,) = breakpoints(lambda x: np.sin(50 * x[:, :1]), np.zeros((1, 2)), np.ones((1, 2)), -3.0, 3.0, noise, rng)
    assert len(line.unresolved)


def test_an_empty_interval_is_refused() -> None:
    rng = np.random.default_rng(3)
    noise = rounding(lambda x: x[:, :1], rng.standard_normal((4, 2)), 2.2e-16, rng)
    with pytest.raises(BadInput, match="low < high"):
        noisy_breakpoints(lambda x: x[:, :1], np.zeros((1, 2)), np.ones((1, 2)), 1.0, 1.0, noise)
    with pytest.raises(BadInput, match="low < high"):
        breakpoints(lambda x: x[:, :1], np.zeros((1, 2)), np.ones((1, 2)), 1.0, 1.0, noise, rng)
