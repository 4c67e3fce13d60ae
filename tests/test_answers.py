"""Rooms of asking: answers checked, wrappers that share a ledger, tables and boxes of the active subspace."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import unveil as uv
from unveil.arguments import as_numbers
from unveil.blackbox.answers import (
    SourceRaised,
    complete,
    first_line,
    label_of,
    labels,
    missing,
    raw_answers,
    require_finite,
    shown,
    values,
)
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.sources.callable import CallableSource
from unveil.blackbox.subspace_search import _confirmation, ask, frame, of_oracle, of_table
from unveil.outcome import BadInput, MissingAnswers, SourceError

SEEDS = range(5)


def test_answers_that_are_missing_are_told_row_by_row() -> None:
    y = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 1.0], [3.0, 4.0]])
    np.testing.assert_array_equal(missing(y), [False, True, True, False])
    assert np.isnan(values(y, "it")[1:3]).all()
    assert values(y[[0, 3]].astype(np.float32), "it").dtype == np.float64
    with pytest.raises(MissingAnswers, match=r"2 of 4.*reach 9"):
        require_finite(y, np.array([[99.0], [9.0], [-5.0], [0.0]]), "it")
    require_finite(y[[0, 3]], np.zeros((2, 1)), "it")
    with pytest.raises(SourceError, match="instead of numbers"):
        values(np.array([["a"]]), "it")
    # Many numbers are added up: too large a sum is looked at again, and one NaN is enough.
    large = np.full((3000, 2), 1e200)
    assert complete(large)
    large[2999, 1] = np.nan
    assert not complete(large)
    assert missing(large).sum() == 1


def test_labels_are_whole_or_names() -> None:
    np.testing.assert_array_equal(labels(np.array([[2.0], [-1.0]]), "it"), [[2], [-1]])
    np.testing.assert_array_equal(labels(np.array([["cat"], ["dog"]]), "it"), [[label_of("cat")], [label_of("dog")]])
    assert label_of("cat") == zlib.crc32(b"cat") == label_of(b"cat")
    assert label_of(np.True_) == 1
    for wrong, word in ((np.array([[0.5]]), "0.5"), (np.zeros((1, 2)), "2 labels")):
        with pytest.raises(SourceError, match=word):
            labels(wrong, "it")
    with pytest.raises(SourceError, match="for a label"):
        label_of(1.5)
    assert shown("a\nb", 10) == "a\N{REPLACEMENT CHARACTER}b"
    assert shown("x" * 50, 10) == "x" * 9 + "…"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "no message"


def test_what_a_source_raises_is_said_and_counted() -> None:
    ledger = Ledger()
    source = CallableSource(lambda x: x[:, None, :] * [[1.0], [2.0]], shape=(3,))
    assert raw_answers(source, np.ones((4, 3)), ledger).shape == (4, 6)
    assert ledger.sent == 4

    def broken(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("no\nmore")

    with pytest.raises(SourceRaised, match="RuntimeError: no;"):
        raw_answers(CallableSource(broken, shape=(3,)), np.ones((2, 3)), ledger)
    for wrong, word in ((lambda x: np.zeros(5), "expected"), (lambda x: np.zeros((7, len(x), 2)), "swapaxes")):
        with pytest.raises(SourceError, match=word):
            raw_answers(CallableSource(wrong, shape=(3,)), np.ones((2, 3)), ledger)
    np.testing.assert_array_equal(as_numbers([[1, 2]], "x"), [[1.0, 2.0]])
    with pytest.raises(BadInput, match="within= must be numbers"):
        as_numbers([[1, 2], [3]], "within=")


def test_a_wrapper_shares_the_ledger_and_asks_once() -> None:
    inside = uv.as_oracle(lambda x: 3 * x, shape=2, within=(0, 1), budget=30)

    class Twice(OracleWrapper):
        def answer(self, x: np.ndarray) -> np.ndarray:
            return 2 * self.oracle.answer(x)

    outside = Twice(Twice(inside), scale=7.0)
    before = inside.ledger.asked
    np.testing.assert_allclose(outside(np.full((5, 2), 0.5)), 6.0)
    assert inside.ledger.asked - before == 5
    assert outside.ledger is inside.ledger
    assert (outside.scale, outside.within is inside.within) == (7.0, True)
    with pytest.raises(TypeError, match="no attribute colour"):
        OracleWrapper(inside, colour=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_is_scaled_to_its_range_and_gradients_are_used_in_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform([0, 10], [1, 50], (40, 2))
    y = 3 * x[:, 0] + 0.1 * x[:, 1]
    y[3] = np.nan
    found = of_table(x, y, None, np.tile([3.0, 0.1], (40, 1)), rng)
    assert found.missing == 1
    kept = np.delete(x, 3, axis=0)
    low, high = kept.min(axis=0), kept.max(axis=0)
    np.testing.assert_allclose(found.x, 2 * (kept - low) / (high - low) - 1, atol=1e-12)
    assert found.covariance is not None
    # Gradients are longer the wider an input.
    slope = np.array([3.0, 0.1]) * (high - low) / 2
    np.testing.assert_allclose(found.covariance.mean, np.outer(slope, slope), rtol=1e-9)
    for wrong, word in (
        ((x[:, :1] * 0, y[:]), "same value"), ((x, y[:5]), "one answer for each row"), ((x, None), "needs its answers"),
        ((x[:2], y[:2]), "three are the least"), ((x, y + 1j), "real numbers"), ((x, 1e120 * y), "differ by"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=word):
            of_table(*wrong, None, None, rng)


def test_boxes_are_scaled_and_failures_counted() -> None:
    oracle = uv.as_oracle(lambda x: np.where(x[:, :1] > 5, np.nan, x), shape=2, within=([0, -1], [6, 3]))
    centre, half = frame(oracle)
    np.testing.assert_array_equal(centre, [3, 1])
    np.testing.assert_array_equal(half, [3, 2])
    y, lost = ask(oracle, np.array([[1.0, 0.0], [5.5, 0.0]]), 1)
    assert (y[0], np.isnan(y[1]), lost) == (0.0, True, 1)
    # With 95 % confidence no direction matters at more than 1 % of the inputs: 299 of them, two questions each.
    assert _confirmation(0.01) == 2 * 299
    rng = np.random.default_rng(0)
    for options, word in (((2, None, 0), "three are the least"), ((50, None, 2), "output must be")):
        with pytest.raises(BadInput, match=word):
            of_oracle(oracle, *options, rng)
    with pytest.raises(BadInput, match="labels"):
        of_oracle(uv.as_oracle(lambda x: (x[:, 0] > 0).astype(int), shape=2, answers="labels"), 50, None, 0, rng)
    wrong = lambda x: np.zeros((len(x), 3))  # noqa: E731
    with pytest.raises(BadInput, match="gave shape"):
        of_oracle(uv.as_oracle(lambda x: x, shape=2, within=(0, 1)), 50, wrong, 0, rng)


def test_gradients_given_cost_nothing_but_their_answers() -> None:
    oracle = uv.as_oracle(lambda x: x[:, :1] ** 2, shape=2, within=(-1, 1))
    before = oracle.ledger.asked
    found = of_oracle(oracle, 40, lambda x: np.stack([2 * x[:, 0], 0 * x[:, 0]], 1), 0, np.random.default_rng(0))
    assert found.queries == oracle.ledger.asked - before == 40
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance.mean[1], 0, atol=1e-12)
    assert found.covariance.mean[0, 0] == pytest.approx(4 / 3, rel=0.15)
