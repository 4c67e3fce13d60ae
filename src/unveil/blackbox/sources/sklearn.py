"""Ask a scikit-learn estimator: probabilities, decision values, predicted values or labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from unveil.blackbox.source import Questions
from unveil.outcome import BadInput


class SklearnSource:
    """A fitted estimator or pipeline.

    Args:
        estimator: Has `predict`, and perhaps `predict_proba` or `decision_function`.
        answers: "auto" takes the first of predict_proba, decision_function and predict; "probabilities" predict_proba;
            "values" decision_function, predict (of a regressor) or predict_proba; "labels" predict.

    Attributes:
        classes: The name of each label, where there are classes.
        named_only: The fingerprint does not hold what the estimator was fitted to.
        in_steps: Why answers have no slope anywhere (trees, votes of neighbours); empty for other estimators.

    Raises:
        BadInput: Not fitted, or it has nothing that answers like this.
    """

    named_only = True

    def __init__(self, estimator: Any, answers: str = "auto") -> None:
        self.name = type(estimator).__name__
        inputs = getattr(estimator, "n_features_in_", None)
        if not isinstance(inputs, int | np.integer):
            raise BadInput(f"{self.name} does not know its number of inputs; fit it first")
        self.estimator = estimator
        self.shape: tuple[int, ...] = (int(inputs),)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self.method = _method(estimator, answers)
        names = getattr(estimator, "classes_", None)
        self.names = None if names is None or isinstance(names, list) else np.asarray(names)
        self.classes = None if self.names is None else {i: str(name) for i, name in enumerate(self.names)}
        self.in_steps = _steps(estimator)
        self._sent = 0
        self._table: Callable[[Questions], Any] | None = None

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        with warnings.catch_warnings():
            # An estimator fitted to a table would miss its column names in every single batch.
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            y = np.asarray(self._said(x.copy()))
        if self.method == "predict" and self.names is not None:
            # classes_ is sorted, so that the number of a label is its place there.
            return np.searchsorted(self.names, y).astype(np.int64)
        return y

    def _said(self, x: Questions) -> Any:
        """What the method says of an array or, where it names columns and so refuses arrays, of a table."""
        ask = getattr(self.estimator, self.method)
        if self._table is None:
            try:
                return ask(x)
            except ValueError:
                self._table = _table(getattr(self.estimator, "feature_names_in_", None))
                if self._table is None:
                    raise
        return ask(self._table(x))

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        return f"sklearn {self.name}.{self.method} {self.shape}"


def _table(names: Any) -> Callable[[Questions], Any] | None:
    """Makes a table of questions; None where the columns have no names, or there is no pandas to make one with."""
    if names is None:
        return None
    try:
        from pandas import DataFrame
    except ImportError:
        return None
    return lambda x: DataFrame(x, columns=list(names))


def _steps(estimator: Any) -> str:
    """Why the answers of an estimator jump: it is a tree, made of trees alone, or counts neighbours."""
    inner = getattr(estimator, "best_estimator_", None) or getattr(estimator, "final_estimator_", None)
    if inner is None and isinstance(getattr(estimator, "steps", None), list):
        inner = estimator.steps[-1][1]
    if inner is not None:
        return _steps(inner)
    if hasattr(estimator, "tree_") or hasattr(estimator, "_predictors"):
        return "decision trees"
    members = list(np.ravel(np.asarray(getattr(estimator, "estimators_", []), dtype=object)))
    if members and all(hasattr(member, "tree_") for member in members):
        return "decision trees"
    if type(estimator).__name__.startswith("KNeighbors") and getattr(estimator, "weights", "") == "uniform":
        return "votes of neighbours"
    return ""


def _method(estimator: Any, answers: str) -> str:
    preferred = {
        "auto": ("predict_proba", "decision_function", "predict"),
        "values": ("decision_function", "predict", "predict_proba"),
        "probabilities": ("predict_proba",),
        "labels": ("predict",),
    }[answers]
    for method in preferred:
        if answers == "values" and method == "predict" and hasattr(estimator, "classes_"):
            continue
        if hasattr(estimator, method):
            return method
    raise BadInput(f"{type(estimator).__name__} has none of {', '.join(preferred)}; choose another answers=")
