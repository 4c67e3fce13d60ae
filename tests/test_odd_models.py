"""Models as people write them: what they return, and what they have to be given."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import unveil as uv

RNG = np.random.default_rng(5)
ROWS, OUTER = RNG.standard_normal((4, 10)), RNG.standard_normal((3, 4))
X = RNG.standard_normal((3, 10))


def f(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ ROWS.T + 0.3, 0) @ OUTER.T


class Sparse:
    """As scipy's: NumPy makes an object of it."""

    def __init__(self, y: np.ndarray) -> None:
        self.toarray = lambda: y


@pytest.mark.parametrize(
    "said",
    [
        lambda x: Sparse(f(x)),
        lambda x: [f(x), f(x)[:, :1]],  # two outputs, also of two questions
        lambda x: [f(x), f(x)[:, :1], f(x) - 1],
        lambda x: [f(row[None])[0] for row in x],
        lambda x: np.ma.masked_greater(f(x), 1e9),
    ],
)
def test_what_holds_an_array_is_one(said: object) -> None:
    oracle = uv.as_oracle(said, shape=10)
    for count in (3, 2, 1):
        assert np.allclose(oracle(X[:count]), f(X[:count]), rtol=1e-12)


def test_a_list_is_of_outputs_whatever_the_number_of_questions() -> None:
    oracle = uv.as_oracle(lambda x: [f(x), f(x)[:, :1]], shape=10, output="1")
    for count in (2, 3, 1):
        assert np.allclose(oracle(X[:count]), f(X[:count])[:, :1])


def test_what_a_mask_hides_is_missing() -> None:
    def hidden(x: np.ndarray) -> np.ndarray:
        y = f(x)
        return np.ma.array(y, mask=np.repeat(x[:, :1] > 4, 3, axis=1))

    oracle = uv.as_oracle(hidden, shape=10)
    with pytest.raises(uv.MissingAnswers):
        oracle(np.full((1, 10), 5.0))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (lambda x: None, "returned a NoneType"),
        (lambda x: (row for row in f(x)), "returned a generator"),
        (lambda x: f(x).sum(), r"one input at a time pass lambda x: \[f\(row\) for row in x\]"),
        (lambda x: f(x).T, r"pass lambda x: model\(x\)\.T"),
    ],
)
def test_what_is_no_row_a_question_is_told_with_the_way_out(said: object, told: str) -> None:
    with pytest.raises(uv.SourceError, match=told):
        uv.as_oracle(said, shape=10)


def test_classes_and_objects_are_told_what_to_pass() -> None:
    class Model:
        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return f(x)

    with pytest.raises(uv.BadInput, match="Model is a class"):
        uv.as_oracle(Model, shape=10)
    with pytest.raises(uv.BadInput, match=r"pass one of its methods \(predict_proba\)"):
        uv.as_oracle(Model(), shape=10)
    assert uv.as_oracle(Model().predict_proba, shape=10).m == 3


def test_an_estimator_that_names_its_columns_is_given_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named:
        """Refuses arrays, as a pipeline does whose columns are chosen by name."""

        n_features_in_ = 10
        feature_names_in_ = np.array([f"c{i}" for i in range(10)], dtype=object)

        def get_params(self) -> dict[str, object]:
            return {}

        def predict(self, x: object) -> np.ndarray:
            if not isinstance(x, SimpleNamespace):
                raise ValueError("Specifying the columns using strings is only supported for dataframes.")
            assert x.columns == list(self.feature_names_in_)
            return f(x.rows)

    monkeypatch.setitem(sys.modules, "pandas", None)  # type: ignore[arg-type]
    with pytest.raises(uv.SourceError, match="only supported for dataframes"):
        uv.as_oracle(Named())
    frame = SimpleNamespace(DataFrame=lambda rows, columns: SimpleNamespace(rows=rows, columns=columns))
    monkeypatch.setitem(sys.modules, "pandas", frame)
    assert np.allclose(uv.as_oracle(Named())(X), f(X))


def test_tensors_with_a_history_are_answers() -> None:
    torch = pytest.importorskip("torch")
    rows = torch.tensor(ROWS, requires_grad=True)
    for said in (
        lambda x: torch.tensor(x) @ rows.T,
        lambda x: [row @ rows.T for row in torch.tensor(x)],
        lambda x: {"logits": torch.tensor(x) @ rows.T},
    ):
        assert np.allclose(uv.as_oracle(said, shape=10)(X), X @ ROWS.T)
    half = uv.as_oracle(lambda x: (torch.tensor(x) @ rows.T).bfloat16(), shape=10)
    assert np.allclose(half(X), X @ ROWS.T, rtol=1e-2)
