"""What answers do not tell is not said: noise, assumptions that others contradict, units far apart, odd labels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.blackbox.answers import labels
from unveil.blackbox.label_crossings import Side
from unveil.blackbox.label_points import find_ground
from unveil.identification.surrogate.students import Student, Told, fitted
from unveil.outcome import SourceError


def noisy(clean, level: float, rng: np.random.Generator, n: int = 6) -> uv.Oracle:
    def answer(x: np.ndarray) -> np.ndarray:
        y = clean(x)
        return y + level * rng.standard_normal(y.shape)

    return uv.as_oracle(answer, n, noisy=True, budget=40_000)


@pytest.mark.parametrize("level", [0.3, 3.0])
@pytest.mark.parametrize("kind", ["constant", "affine", "ReLU"])
def test_what_noise_hides_is_neither_read_nor_absent(kind: str, level: float, rng: np.random.Generator) -> None:
    weights = random_weights((6, 4, 2), rng, bias=0.5)
    w = rng.standard_normal((6, 2))
    clean = {"constant": lambda x: np.ones((len(x), 2)), "affine": lambda x: x @ w, "ReLU": relu_net(weights)}[kind]
    found = uv.identify(noisy(clean, level, rng), rng=rng)
    assert found.outcome is not uv.Outcome.nothing_to_find
    if found.outcome is uv.Outcome.complete:
        x = rng.standard_normal((1000, 6))
        y = clean(x)
        assert np.abs(found.network(x) - y).max() <= 0.1 * np.abs(y - y.mean(axis=0)).max()


def test_a_constant_of_few_digits_may_hide_something(rng: np.random.Generator) -> None:
    for kind, outcome in (
        (np.float64, "nothing_to_find"),
        (np.float32, "nothing_to_find"),
        (np.float16, "not_resolved"),
    ):
        oracle = uv.as_oracle(lambda x, kind=kind: np.full((len(x), 2), 1.7).astype(kind), 5)
        assert uv.identify(oracle, rng=rng).outcome.name == uv.row_span(oracle, rng=rng).outcome.name == outcome


def exact_distance(basis: np.ndarray, rows: list[list[Fraction]]) -> float:
    """Root of the summed squares of what orthonormal rows have outside of the span of others, in rational numbers."""
    gram = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in rows] for r in rows]
    total = Fraction(0)
    for row in basis:
        b = [Fraction(float(v)) for v in row]
        sums = [[*g, sum(a * v for a, v in zip(r, b, strict=True))] for g, r in zip(gram, rows, strict=True)]
        for i in range(len(sums)):  # Gauss and Jordan
            sums[i] = [v / sums[i][i] for v in sums[i]]
            sums = [
                s if j == i else [a - s[i] * c for a, c in zip(s, sums[i], strict=True)] for j, s in enumerate(sums)
            ]
        inside = [sum(s[-1] * r[k] for s, r in zip(sums, rows, strict=True)) for k in range(len(b))]
        total += sum((v - u) ** 2 for v, u in zip(b, inside, strict=True))
    return float(total) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_span_in_units_far_apart_is_as_near_as_it_says(seed: int) -> None:
    rng = np.random.default_rng([501, seed])
    # Powers of two, so that rows in raw units are exact.
    w, v, units = rng.standard_normal((3, 7)), rng.standard_normal((2, 3)), 2.0 ** rng.integers(-22, 22, 7)
    x = units * (2 + rng.standard_normal((200, 7)))
    oracle = uv.as_oracle(lambda x: np.maximum((x / units - 2) @ w.T, 0) @ v.T, 7)
    span = uv.row_span(oracle, rng=rng, x=x)
    rows = [[Fraction(float(a)) / Fraction(float(u)) for a, u in zip(row, units, strict=True)] for row in w]
    assert span.rank == 3
    assert np.abs(span.basis @ span.basis.T - np.eye(3)).max() < 1e-14
    # Frobenius and spectral norm of three rows differ by less than two.
    assert exact_distance(span.basis, rows) <= 2 * span.accuracy


def test_numbers_of_labels_may_lie_far_apart(rng: np.random.Generator) -> None:
    w = np.arange(1.0, 5.0)
    labelled = uv.as_oracle(lambda x: np.where(x @ w > 0, 2**45, -3), 4, answers="labels")
    assert find_ground(Side(labelled, 1), None, rng) is not None
    rare = uv.as_oracle(lambda x: np.where(x @ w > 1e9, 2**45, -3), 4, answers="labels", budget=20_000)
    assert find_ground(Side(rare, 1), None, rng) is None


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan, 0.5])
def test_a_label_is_a_whole_number(odd: float) -> None:
    with pytest.raises(SourceError, match="where a label was expected"):
        labels(np.array([[1.0], [odd]]), "model")


def test_a_threshold_that_four_answers_suggested_is_dropped_where_others_contradict_it(
    rng: np.random.Generator,
) -> None:
    inside = uv.as_oracle(lambda x: np.clip(0.5 + 0.1 * x[:, :1], 0, 1), 2, answers="labels")
    x = rng.standard_normal((50, 2))
    assert np.array_equal(inside(x)[:, 0], x[:, 0] >= 0)
    logit = uv.as_oracle(lambda x: 0.5 + 0.1 * x[:, :1], 2, answers="labels")
    assert logit(x).shape == (50, 1)
    with pytest.raises(SourceError, match=r"taken for probabilities.*threshold="):
        logit(100 * x)
    told = uv.LabelsOnly(uv.as_oracle(lambda x: 0.5 + 0.1 * x[:, :1], 2, answers="values"), threshold=0.5)
    assert np.array_equal(told(100 * x)[:, 0], x[:, 0] >= 0)


class Text:
    """Numbers as a server writes them that leaves out a fraction of zero."""

    name, shape, dtype, untyped = "text", (3,), np.dtype(np.float64), True

    def __init__(self, function) -> None:
        self.function = function

    def answer(self, x: np.ndarray) -> np.ndarray:
        y = self.function(x)
        return y.astype(np.int64) if (y == np.round(y)).all() else y

    def attempts(self) -> int:
        return 0

    def fingerprint(self) -> str:
        return "text"


def test_whole_numbers_in_text_are_no_labels_where_others_have_fractions(rng: np.random.Generator) -> None:
    first = uv.as_oracle(lambda x: x, 3)  # the points of a first look
    level = float(first.canary.questions[:, 0].max()) + 0.05  # type: ignore[attr-defined]
    model = Text(lambda x: np.maximum(x[:, :1] - level, 0))
    values = uv.as_oracle(model, answers="values")
    assert values.answers == "values"
    assert values.step == 0
    x = 3 * rng.standard_normal((100, 3))
    assert np.array_equal(values(x)[:, 0], np.maximum(x[:, 0] - level, 0))
    seen = uv.as_oracle(Text(lambda x: np.where(np.abs(x[:, :1]) < 0.2, 0, np.round(x[:, :1], 3))))
    assert seen.answers == "values"
    labelled = uv.as_oracle(Text(lambda x: (x[:, :1] > 0).astype(float)))
    assert labelled.answers == "labels"


def test_a_network_without_a_hidden_layer_can_be_fitted(rng: np.random.Generator) -> None:
    w, b = rng.standard_normal((2, 4)), rng.standard_normal(2)
    x = rng.standard_normal((300, 4))
    start = uv.Network.from_weights([(w + 0.1, b)])
    told = Told(x, x @ w.T + b, np.ones((300, 2)))
    found, _, work = fitted(Student.begin(start, told), told, 1e-9, rng, first=1)
    assert work > 0
    assert np.abs(found.layers[0].dense() - w).max() < 1e-6


def test_labels_of_one_input_that_change_depend_on_it(rng: np.random.Generator) -> None:
    for answer in (lambda x: (x[:, 0] > 0.3).astype(int), lambda x: np.floor(x[:, 0]).astype(int)):
        span = uv.row_span(uv.as_oracle(answer, 1, answers="labels"), rng=rng)
        assert span.outcome is uv.Outcome.full_rank
        assert np.array_equal(np.abs(span.basis), [[1.0]])
    constant = uv.as_oracle(lambda x: np.zeros(len(x), dtype=int), 1, answers="labels", budget=5000)
    assert uv.row_span(constant, rng=rng).outcome is uv.Outcome.not_measured


@pytest.mark.parametrize(
    "within", [(-1e308, 1e308), (np.full(2, -1e308), np.full(2, 1e308)), (-1e308, np.full(2, 1e308))]
)
def test_a_box_has_a_width_that_is_a_number(within) -> None:
    with pytest.raises(uv.BadInput, match="wider"):
        uv.as_oracle(lambda x: x, 2, within=within)


def test_a_model_with_limits_is_told_how_to_stay_within_them() -> None:
    def limited(x: np.ndarray) -> np.ndarray:
        if np.abs(x).max() > 1:
            raise ValueError("input out of range")
        return x

    with pytest.raises(SourceError, match=r"reaches \d.*out of range.*within="):
        uv.as_oracle(limited, 40)
    assert uv.as_oracle(limited, 40, within=(-1, 1)).m == 40


def test_noise_drawn_from_the_seed_that_the_rows_were_is_hidden_too() -> None:
    rows = np.random.default_rng(3).standard_normal((4, 15))
    span = uv.row_span(uv.as_oracle(lambda x: np.tanh(x @ rows.T), 15), rng=np.random.default_rng(0))
    hidden = uv.obfuscate(span, np.ones((10, 15)), scale=10.0, rng=np.random.default_rng(3))
    assert np.abs(span.project(hidden.inputs - 1)).max() < 1e-12 * hidden.noise_norm.max()
    assert np.allclose(hidden.noise_norm, 10 * 15**0.5)
