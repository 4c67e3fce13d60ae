"""How answers and questions are rounded: read off a few answers, carried through wrappers, kept by half modules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.blackbox import domain
from unveil.blackbox.digits import Digits, bits_of, decimal_step, digits_of


def network(rng: np.random.Generator, sizes: tuple[int, ...] = (6, 9, 4)) -> Any:
    return relu_net(random_weights(list(sizes), rng, bias=1.0))


def brain(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many bits of mantissa."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


ROUNDED = {
    "float64": (lambda y: y, 53, 0.0),
    "float32": (lambda y: y.astype(np.float32), 24, 0.0),
    "float32 in float64": (lambda y: y.astype(np.float32).astype(float), 24, 0.0),
    "float16": (lambda y: y.astype(np.float16), 11, 0.0),
    "float16 in float64": (lambda y: y.astype(np.float16).astype(float), 11, 0.0),
    "bfloat16 in float32": (lambda y: brain(y, 8).astype(np.float32), 8, 0.0),
    "14 bits": (lambda y: brain(y, 14), 14, 0.0),
    "20 bits": (lambda y: brain(y, 20), 20, 0.0),
    "two decimals": (lambda y: np.round(y, 2), 53, 0.01),
    "four decimals in float32": (lambda y: np.round(y, 4).astype(np.float32), 24, 1e-4),
    "64ths": (lambda y: np.round(y * 64) / 64, 53, 1 / 64),
    "0.0371": (lambda y: np.round(y / 0.0371) * 0.0371, 53, 0.0371),
    "0.0371 in float32": (lambda y: (np.round(y / 0.0371) * 0.0371).astype(np.float32), 24, 0.0371),
    "0.0371 and an offset": (lambda y: np.round(y / 0.0371) * 0.0371 + math.pi, 53, 0.0371),
    "whole": (lambda y: np.round(100 * y), 53, 1.0),
    "six significant digits": (lambda y: np.array([[float(f"{v:.5e}") for v in row] for row in y]), 17, 0.0),
}


@pytest.mark.parametrize("kind", ROUNDED)
def test_digits_are_read_from_four_answers_of_three_outputs(kind: str, rng: np.random.Generator) -> None:
    rounded, mantissa, step = ROUNDED[kind]
    right = 0
    for _ in range(60):
        y = rounded(np.exp(rng.normal()) * 3 * rng.standard_normal((4, 3)))
        found = digits_of(y.astype(float), bits_of(y.dtype, y.astype(float)))
        right += found.mantissa == mantissa and abs(found.step - step) <= 1e-4 * step
    # A few sets of answers happen to share a factor, or to leave a bit unused.
    assert right >= 50


def test_unrounded_answers_are_never_called_rounded(rng: np.random.Generator) -> None:
    for dtype, mantissa in ((np.float64, 53), (np.float32, 24)):
        for m in (1, 2, 5):
            for _ in range(70):
                y = rng.standard_normal((4, m)).astype(dtype)
                assert digits_of(y.astype(float), bits_of(y.dtype, y.astype(float))) == Digits(mantissa)


def test_many_decimals_are_told_by_the_digits_that_small_numbers_lack(rng: np.random.Generator) -> None:
    told = {decimals: 0 for decimals in (13, 14, 15, 16)}
    for _ in range(100):
        p = special.softmax(3 * rng.standard_normal((4, 3)), axis=1)
        assert digits_of(p, domain.DOUBLE) == Digits(domain.DOUBLE)
        for decimals in told:
            told[decimals] += digits_of(np.round(p, decimals), domain.DOUBLE).step == 10.0**-decimals
    assert min(told[13], told[14]) >= 98
    assert told[15] >= 80
    assert told[16] > 40  # numbers above a tenth have hardly more digits than that


def test_few_or_saturated_answers_tell_no_step() -> None:
    for y in ([[1.0], [0.9999999], [5e-13], [4e-8]], [[1.0, 0.0]] * 4, [[0.0]] * 4, [[math.pi]] * 4):
        column = np.array(y)
        assert digits_of(column.astype(np.float32).astype(float), 24) == Digits(24)


@pytest.mark.parametrize("kind", ["two decimals", "64ths", "0.0371", "bfloat16 in float32", "float16 in float64"])
def test_rounding_is_the_standard_deviation_of_what_rounding_changed(kind: str, rng: np.random.Generator) -> None:
    rounded = ROUNDED[kind][0]
    net = network(rng)
    oracle = uv.as_oracle(lambda x: rounded(net(x)), 6)
    x = oracle.sample(400, rng)
    y = oracle(x)
    off = (y - net(x)) / oracle.rounding(y)
    assert 0.9 < np.sqrt(np.mean(off**2)) < 1.1
    assert oracle.notes


def test_rounding_is_carried_through_log_ratios(rng: np.random.Generator) -> None:
    net = network(rng, (6, 9, 5))
    exact = uv.LogRatios(uv.as_oracle(lambda x: special.softmax(net(x), axis=1), 6, answers="values"), reference=0)
    coarse = uv.LogRatios(
        uv.as_oracle(lambda x: np.round(special.softmax(net(x), axis=1), 5), 6, answers="values"), reference=0
    )
    x = exact.sample(400, rng)
    y = coarse(x)
    clear = (coarse.probabilities(y) > 1e-3).all(axis=1)
    assert clear.sum() > 100
    off = (y - exact(x))[clear] / coarse.rounding(y)[clear]
    assert 0.85 < np.sqrt(np.mean(off**2)) < 1.15


@pytest.mark.parametrize("digits", [1, 3])
def test_the_wrapper_that_rounds_says_what_a_rounding_model_would(digits: int, rng: np.random.Generator) -> None:
    net = network(rng)
    outside = uv.Rounded(uv.as_oracle(net, 6), digits)
    inside = uv.as_oracle(lambda x: np.round(net(x), digits), 6)
    assert outside.step == pytest.approx(inside.step)
    y = outside(outside.sample(50, rng))
    assert np.allclose(outside.rounding(y), inside.rounding(y))


@pytest.mark.parametrize(("name", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_torch_half_modules_keep_their_resolution_and_their_questions(
    name: str, bits: int, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(getattr(torch, name))
    oracle = uv.as_oracle(module, within=(-1, 2))
    assert (oracle.mantissa, oracle.input_bits) == (bits, bits)
    assert 2.0**-bits <= oracle.resolution <= 2.0 ** (3 - bits)
    x = oracle.sample(50, rng)
    # What was asked is what the module got.
    got = torch.from_numpy(x).to(getattr(torch, name)).double().numpy()
    assert np.array_equal(got, x)
    assert x.min() >= -1
    assert x.max() <= 2


@pytest.mark.parametrize("bits", [53, 24, 11, 8])
def test_numbers_of_few_bits_stay_inside_any_box(bits: int, rng: np.random.Generator) -> None:
    low = np.concatenate([rng.standard_normal(20), [0.0, 1e-30, -1e-30]])
    high = low + np.exp(rng.uniform(-1, 3, len(low)))
    x = low + (high - low) * rng.uniform(-0.2, 1.2, (200, len(low)))
    dtype = np.dtype(np.float64 if bits == 53 else np.float32)
    y = domain.legal(x, (low, high), None, dtype, bits)
    assert (y >= low).all()
    assert (y <= high).all()
    assert np.array_equal(domain.held(y, bits), y)
    inside = np.clip(x, low, high)
    assert (np.abs(y - inside) <= 2.0 ** (1 - bits) * np.abs(inside) + (1e-7 if bits == 11 else 1e-37)).all()


def test_onnx_trees_and_quantised_models(tmp_path: Path, rng: np.random.Generator) -> None:
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    from onnx import helper, numpy_helper

    W, V = (rng.standard_normal(shape).astype(np.float32) / 3 for shape in ((10, 16), (16, 3)))
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "V"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, ["N", 10])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [numpy_helper.from_array(W, "W"), numpy_helper.from_array(V, "V")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "plain.onnx")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(rng.standard_normal((40, 1, 10)).astype(np.float32))

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else {"x": row}

    quantization.quantize_static(str(tmp_path / "plain.onnx"), str(tmp_path / "int8.onnx"), Reader())
    plain = uv.as_oracle(tmp_path / "plain.onnx")
    assert (plain.step, plain.mantissa, plain.notes) == (0, 24, ())
    small = uv.as_oracle(tmp_path / "int8.onnx")
    # Its last operation gives 256 levels, so that answers are multiples of one step (or of a few).
    assert small.step > 1e-3
    y = small(small.sample(200, rng))
    levels = y / small.step
    assert np.abs(levels - np.round(levels)).max() < 0.51
    assert "multiples" in small.notes[0]


@pytest.mark.parametrize("size", [1e-200, 1e-9, 1.0, 30.0, 1e3, 1e6])
def test_a_decimal_step_is_told_of_answers_of_any_size_and_of_none_that_have_all_their_digits(
    size: float, rng: np.random.Generator
) -> None:
    y = size * rng.standard_normal((20, 3))
    assert decimal_step(y) == 0
    for decimals in (-2, 0, 3):
        if size > 10.0**-decimals:
            assert decimal_step(np.round(y, decimals)) == pytest.approx(10.0**-decimals)
            assert decimal_step(np.round(y, decimals) + 1e-9 * size * rng.standard_normal(y.shape)) == 0
    # Of 8 bits every number has few decimals, too.
    assert decimal_step(brain(y / size, 8)) == 0
