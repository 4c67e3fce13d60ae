"""Oracles around oracles: each against numpy, with its cost, its box and its rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.wrappers import Affine, LabelsOnly, LogRatios, OneOutput, Restricted, Rounded
from unveil.outcome import BadInput

SEEDS = range(5)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def source(m: int, seed: int, kind: str = "values", **options: object) -> uv.Oracle:
    w = np.random.default_rng(seed).standard_normal((4, m))
    made = {"values": lambda x: x @ w, "probabilities": lambda x: softmax(x @ w)}[kind]
    return uv.as_oracle(made, shape=4, answers="values", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_rounded_answers_and_their_rounding(seed: int) -> None:
    inside = source(3, seed)
    oracle, x = Rounded(inside, 2), np.random.default_rng(seed).standard_normal((50, 4))
    before = oracle.ledger.asked
    y = oracle(x)
    assert oracle.ledger.asked - before == 50
    np.testing.assert_allclose(y, np.round(inside(x), 2), atol=1e-12)
    # A uniform error of one step.
    np.testing.assert_allclose(oracle.rounding(y), 0.01 / np.sqrt(12))
    assert np.sqrt(np.mean((y - inside(x)) ** 2)) == pytest.approx(0.01 / np.sqrt(12), rel=0.15)
    assert (oracle.step, oracle.digits) == (0.01, 2)
    assert Rounded(oracle, 1).step == 0.1
    assert Rounded(Rounded(inside, 1), 3).step == 0.1
    assert oracle.fingerprint() != Rounded(inside, 3).fingerprint()
    for digits in (-1, 16):
        with pytest.raises(BadInput, match="decimal places"):
            Rounded(inside, digits)


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_are_of_the_largest_value_or_of_a_threshold(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((40, 4))
    inside = source(3, seed)
    labels = LabelsOnly(inside)
    np.testing.assert_array_equal(labels(x)[:, 0], inside(x).argmax(axis=1))
    assert (labels.m, labels.answers, labels.step) == (1, "labels", 0.0)
    one = source(1, seed)
    np.testing.assert_array_equal(LabelsOnly(one, 0.5)(x), one(x) >= 0.5)
    np.testing.assert_array_equal(LabelsOnly(one)(x), one(x) >= 0)
    # Log-ratios of two classes are one number, and two classes all the same.
    two = LogRatios(source(2, seed, "probabilities"), reference=0)
    np.testing.assert_array_equal(LabelsOnly(two)(x)[:, 0], source(2, seed)(x).argmax(axis=1))
    with pytest.raises(BadInput, match="threshold"):
        LabelsOnly(inside, 0.5)
    with pytest.raises(BadInput, match="labels"):
        LabelsOnly(labels)
    inside.ordered = "falling"
    with pytest.raises(BadInput, match="sorted"):
        LabelsOnly(inside)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reference", [0, 2, None])
def test_log_ratios_undo_a_softmax(seed: int, reference: int | None) -> None:
    x, logits = np.random.default_rng(seed).standard_normal((30, 4)), source(4, seed)
    p = source(4, seed, "probabilities")
    ratios = LogRatios(p, reference)
    at = 3 if reference is None else reference
    z = logits(x)
    np.testing.assert_allclose(ratios(x), np.delete(z - z[:, [at]], at, axis=1), atol=1e-9)
    assert ratios.m == 3
    np.testing.assert_allclose(ratios.probabilities(ratios(x)), p(x), atol=1e-12)
    np.testing.assert_array_equal(ratios.predictions(ratios(x)), z.argmax(axis=1))
    # Rounded probabilities: what half a step makes of a log-ratio, by brute force.
    coarse = LogRatios(Rounded(p, 3), reference)
    assert coarse.floor == pytest.approx(0.0005)
    y, fine = coarse(x), ratios(x)
    likely = coarse.rounding(y)
    sure = p(x).min(axis=1) > 0.02
    assert 0.5 < np.sqrt(np.mean(((y - fine) / likely)[sure] ** 2)) < 2
    for wrong in (-1, 4):
        with pytest.raises(BadInput, match="reference"):
            LogRatios(p, wrong)
    with pytest.raises(BadInput, match="already"):
        LogRatios(ratios)
    with pytest.raises(BadInput, match="floor"):
        LogRatios(p, floor=0.6)


def test_one_probability_is_its_logit_and_stays_finite() -> None:
    one = uv.as_oracle(lambda x: 1 / (1 + np.exp(-50 * x[:, :1])), shape=2, answers="values")
    logit = LogRatios(one)
    x = np.array([[0.02, 0], [-0.3, 0], [5.0, 0], [-50.0, 0]])
    y = logit(x)[:, 0]
    np.testing.assert_allclose(y[:2], [1.0, -15.0], rtol=1e-9)
    assert np.isfinite(y).all()
    assert y[2] > 30 > -700 > y[3]
    floored = LogRatios(one, floor=0.01)(x)[:, 0]
    np.testing.assert_allclose(floored[[1, 3]], np.log(0.01 / 0.99))


@pytest.mark.parametrize("seed", SEEDS)
def test_affine_inputs_are_asked_in_the_model_s_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, deviation = rng.standard_normal(4), rng.uniform(0.5, 2, 4) * rng.choice([-1, 1], 4)
    inside = source(3, seed, within=(-3, 3))
    oracle = Affine(inside, mean, deviation)
    # The plain box is the normalised one, carried over: its ends change places where the deviation is negative.
    corners = np.sort(np.stack([mean - 3 * deviation, mean + 3 * deviation]), axis=0)
    np.testing.assert_allclose([oracle.low, oracle.high], corners)
    x = oracle.sample(20, rng)
    np.testing.assert_allclose(oracle(x), inside((x - mean) / deviation), atol=1e-12)
    smaller = Affine(inside, mean, deviation, within=(corners[0] + 0.1, corners[1] - 0.1))
    assert (smaller.high < oracle.high).all()
    with pytest.raises(BadInput, match="box"):
        Affine(inside, mean, deviation, within=(corners[0] - 0.1, corners[1]))
    for end in (0, 1):
        further = corners.copy()
        further[end, 2] += (-0.1, 0.1)[end]
        with pytest.raises(BadInput, match="box"):
            Affine(inside, mean, deviation, within=(further[0], further[1]))
    with pytest.raises(BadInput, match="zero"):
        Affine(inside, mean, [1, 0, 1, 1])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="broadcast"):
        Affine(inside, np.zeros(3))
    with pytest.raises(BadInput, match="grid"):
        Affine(source(3, seed, within=(0, 1), grid=0.5))


def test_affine_maps_that_differ_in_any_input_do_not_share_stored_answers(tmp_path: Path) -> None:
    inside = uv.as_oracle(lambda x: x, shape=9)
    uv.Stored(Affine(inside), tmp_path / "answers.sqlite")(np.ones((1, 9)))
    with pytest.raises(uv.StoreError):
        uv.Stored(Affine(inside, np.append(np.zeros(8), 1.0)), tmp_path / "answers.sqlite")(np.ones((1, 9)))


def test_affine_inputs_of_a_single_precision_model_are_what_it_sees() -> None:
    seen: list[np.ndarray] = []

    class Single:
        name, shape, dtype = "single", (2,), np.dtype(np.float32)

        def answer(self, x: np.ndarray) -> np.ndarray:
            seen.append(x.astype(np.float32))
            return x.astype(np.float32)

        def attempts(self) -> int:
            return 0

        def fingerprint(self) -> str:
            return self.name

    inside = uv.as_oracle(Single())
    assert inside.dtype == np.float32
    oracle = Affine(inside, 0.1, 3.0)
    x = oracle.nearest(np.array([[0.3, -1.7]]))
    seen.clear()
    oracle(x)
    np.testing.assert_allclose(seen[0].astype(float) * 3.0 + 0.1, x, rtol=1e-15)


def test_a_smaller_box_and_one_output() -> None:
    inside = source(3, 0, within=(-1, 1))
    small = Restricted(inside, within=(0, 0.5), grid=0.25)
    np.testing.assert_allclose(small.nearest(np.array([[-1, 0.3, 0.4, 9]])), [[0, 0.25, 0.5, 0.5]])
    assert Restricted(inside).within is not None
    with pytest.raises(BadInput, match="reaches beyond"):
        Restricted(inside, within=(0, 1.5))
    with pytest.raises(BadInput, match="grid"):
        Restricted(source(3, 0, within=(0, 1), grid=0.5), grid=0.25)
    x = np.random.default_rng(0).standard_normal((5, 4)) / 4
    np.testing.assert_array_equal(OneOutput(inside, 2)(x), inside(x)[:, 2:])
    assert OneOutput(inside, 2).m == 1
    with pytest.raises(BadInput, match="output must be"):
        OneOutput(inside, 3)
    with pytest.raises(BadInput, match="labels"):
        OneOutput(LabelsOnly(inside), 0)


def test_labels_of_a_single_probability_change_at_a_half(rng):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x[:, :1]))

    x = rng.standard_normal((200, 3))
    for answers in ("values", "probabilities"):
        oracle = uv.as_oracle(sigmoid, shape=3, answers=answers)
        np.testing.assert_array_equal(uv.LabelsOnly(oracle)(x)[:, 0], x[:, 0] >= 0)
        np.testing.assert_array_equal(oracle.predictions(oracle(x)), x[:, 0] >= 0)
    plain = uv.as_oracle(lambda x: x[:, :1], shape=3)
    np.testing.assert_array_equal(uv.LabelsOnly(plain)(x)[:, 0], x[:, 0] >= 0)
