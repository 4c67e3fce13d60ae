"""Arrays that do not fit: results and verbs say what was wrong, and take nothing for measured that was none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import unveil as uv

RNG = np.random.default_rng(3)
ROWS, OUTER = RNG.standard_normal((2, 10)), RNG.standard_normal((2, 6))
X = RNG.standard_normal((5, 10))
ODD = {
    "shape": np.ones((2, 9)),
    "scalar": 3.0,
    "text": "abc",
    "None": None,
    "ragged": [[1.0], [2.0, 3.0]],
    "dictionary": {},
    "complex": X + 1j,
    "masked": np.ma.masked_greater(X, 0),
    "NaN": np.full((2, 10), np.nan),
    "infinite": np.full((2, 10), np.inf),
}


def oracle() -> uv.Oracle:
    return uv.as_oracle(lambda x: np.maximum(x @ ROWS.T, 0) @ OUTER, shape=10, budget=2000)


@pytest.fixture(scope="module")
def span() -> uv.RowSpan:
    return uv.row_span(oracle(), rng=0)


@pytest.fixture(scope="module")
def verbs(span: uv.RowSpan) -> dict[str, Callable[[object], object]]:
    active = uv.active_subspace(RNG.standard_normal((60, 10)), RNG.standard_normal(60), rng=0)
    return {
        "project": span.project,
        "complement": span.complement,
        "distance": span.distance,
        "active project": active.project,
        "active coordinates": active.coordinates,
        "obfuscate": lambda x: uv.obfuscate(span, x, scale=10.0, rng=0),
    }


@pytest.mark.parametrize("odd", ODD)
def test_arrays_that_do_not_fit_are_refused_in_words(verbs: dict[str, Callable[[object], object]], odd: str) -> None:
    for name, verb in verbs.items():
        with pytest.raises(uv.BadInput, match=r"must (have shape|be)"):
            pytest.fail(f"{name} took {odd}: {verb(ODD[odd])}")


def test_second_derivatives_are_wanted_at_inputs() -> None:
    for odd in ("shape", "NaN", "infinite"):
        with pytest.raises(uv.BadInput, match=r"x must (have shape|be)"):
            uv.hessian(oracle(), ODD[odd], rng=0)


@pytest.mark.parametrize("kind", ["float16", "int8", "list"])
def test_whatever_holds_numbers_is_projected(span: uv.RowSpan, kind: str) -> None:
    x = np.round(X)
    given = x.tolist() if kind == "list" else x.astype(kind)
    assert np.array_equal(span.project(given), span.project(x))
    assert np.allclose(span.project(given) + span.complement(given), x)
    assert span.project(np.ones((0, 10))).shape == (0, 10)


def test_examples_that_say_nothing_are_refused() -> None:
    for x in (np.ones((0, 10)), np.full((2, 10), np.nan)):
        with pytest.raises(uv.BadInput, match="inputs"):
            uv.report(oracle(), x, rng=0)


def test_noise_beyond_double_precision_is_refused(span: uv.RowSpan) -> None:
    with pytest.raises(uv.BadInput, match="beyond double precision"):
        uv.obfuscate(span, np.full((2, 10), 1e307), scale=100.0, rng=0)
    with pytest.raises(uv.BadInput, match="scale must be positive and finite"):
        uv.obfuscate(span, X, scale=np.inf, rng=0)


def test_answers_that_are_none_are_nobodys() -> None:
    found = uv.output_span(oracle(), rng=0)
    assert found.contains(oracle()(X)).all()
    for answers in (np.full((2, 6), np.nan), [[1.0], [2.0, 3.0]], 3.0):
        with pytest.raises(uv.BadInput):
            found.contains(answers)
    for columns in (3.0, np.ones(6), np.full((6, 2), np.nan)):
        with pytest.raises(uv.BadInput, match="columns must be"):
            found.distance(columns)
