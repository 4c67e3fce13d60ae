"""Whether answers are straight between breakpoints is told, in both precisions, with and without a box."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.blackbox.rounding import Rounding
from unveil.identification.detect import curved, piecewise_linear
from unveil.testing import known_model
from unveil.whitebox.activation import activation


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ["relu", "leaky", "tanh", "softplus", "gelu", "sin"])
def test_straight_pieces_are_told_from_curves(activation: str, dtype: type[np.floating]) -> None:
    right = 0
    for seed in range(20):
        rng = np.random.default_rng([9, seed])
        hidden = [int(rng.choice([4, 16, 64]))] * int(rng.choice([1, 2, 3]))
        model = known_model([int(rng.choice([4, 10, 30])), *hidden, 2], activation, rng=rng, dtype=dtype)
        within = [None, None, (0.0, 1.0), (-2.0, 2.0)][seed % 4]

        def answer(x: np.ndarray, model=model) -> np.ndarray:  # type: ignore[no-untyped-def]
            y = model(x)
            # Another processor's last bit, the same for the same question.
            flip = np.modf(np.abs(x).sum(axis=1, keepdims=True) * 1e6)[0] * 3 // 1 - 1
            return np.nextafter(y, y + flip.astype(y.dtype))

        oracle = uv.as_oracle(answer, model.n, within=within)
        before = oracle.ledger.asked
        right += piecewise_linear(oracle, rng) == (activation in ("relu", "leaky"))
        assert oracle.ledger.asked - before <= 32 * 25 + 12 * 33
    assert right >= 19  # another one may hardly bend at all in its box


def test_a_linear_model_is_straight_and_noise_is_no_breakpoint() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 2))
    assert piecewise_linear(uv.as_oracle(lambda x: x @ w, 6), rng)
    noisy = uv.as_oracle(lambda x: np.tanh(x @ w) + 1e-4 * rng.standard_normal((len(x), 2)), 6, noisy=True)
    assert not piecewise_linear(noisy, rng)


def test_breakpoints_before_curves_are_no_straight_pieces_in_coarse_answers() -> None:
    told = {"tanh": 0, "relu": 0}
    for seed in range(40):
        rng = np.random.default_rng([3, seed])
        kind, wide = ("tanh", "relu")[seed % 2], int(rng.choice([8, 32]))
        size = [0.25, 0.3][seed % 4 // 2]
        first = (size / 3 * rng.standard_normal((wide, 9)), 0.3 * size * rng.standard_normal(wide))
        second = (size / np.sqrt(wide) * rng.standard_normal((wide, wide)), 0.3 * size * rng.standard_normal(wide))
        last = rng.standard_normal((wide, 2))

        def answer(x: np.ndarray, weights=(first, second, last), kind=kind, rng=rng):  # type: ignore[no-untyped-def]
            (v, b), (w, c), u = weights
            h = np.maximum(x @ v.T + b, 0) @ w.T + c
            y = (np.tanh(h) if kind == "tanh" else np.maximum(h, 0)) @ u
            return (y * (1 + 6e-8 * rng.uniform(-1, 1, y.shape))).astype(np.float32)

        oracle = uv.as_oracle(answer, 9, noisy=True)
        told[kind] += piecewise_linear(oracle, rng)
        assert oracle.ledger.asked <= 32 * 25 + 12 * 33 + 24 * 33
    assert told["relu"] == 20
    assert told["tanh"] <= 7


@pytest.mark.parametrize(("activation", "curve"), [("relu", False), ("tanh", True)])
def test_rows_that_bend_are_those_of_curves_only_where_bends_grow_as_those_of_curves(
    activation: str, curve: bool, rng: np.random.Generator
) -> None:
    weights = random_weights((12, 30, 3), rng, bias=0.5)
    oracle = uv.as_oracle(uv.Network.from_weights(weights, activation=activation).logits, shape=12)
    bent, straight = (Rounding(np.ones(3), 1.0, 1e-7, straight) for straight in (False, True))
    assert curved(oracle, bent, rng) == curve
    asked = oracle.ledger.asked
    assert not curved(oracle, straight, rng)
    assert oracle.ledger.asked == asked


def test_straight_pieces_are_told_where_a_network_computes_in_half_precision() -> None:
    right = {"relu": 0, "gelu": 0}
    for seed in range(40):
        kind, sizes = ("relu", "gelu")[seed % 2], ([20, 16, 8, 3], [64, 32, 16, 10])[seed % 4 // 2]
        layers = random_weights(sizes, np.random.default_rng([7, seed]))
        value = activation(kind).value

        def answer(x: np.ndarray, layers=layers, value=value) -> np.ndarray:  # type: ignore[no-untyped-def]
            h = x.astype(np.float16)
            for i, (w, b) in enumerate(layers):
                h = (h.astype(np.float32) @ w.T.astype(np.float16).astype(np.float32) + b).astype(np.float16)
                h = value(h.astype(np.float64)).astype(np.float16) if i < len(layers) - 1 else h
            return h.astype(np.float32)

        oracle = uv.as_oracle(answer, sizes[0])
        right[kind] += piecewise_linear(oracle, np.random.default_rng(seed)) == (kind == "relu")
    assert min(right.values()) >= 17
