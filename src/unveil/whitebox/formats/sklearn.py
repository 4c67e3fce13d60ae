"""Networks from fitted scikit-learn estimators: scalers and projections, then a linear model or a perceptron."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from unveil.outcome import BadInput, SourceError
from unveil.whitebox.activation import activation
from unveil.whitebox.formats.affine import Trail, Value
from unveil.whitebox.network import Network

SKLEARN_TOLERANCE = 1e-9
SINGLE_TOLERANCE = 1e-4
SKLEARN_ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "logistic": "sigmoid"}


def from_sklearn(estimator: Any) -> Network:
    """The network in a fitted estimator or pipeline: its `predict_proba`, or `predict` of a regressor.

    Args:
        estimator: MLPClassifier, MLPRegressor, LogisticRegression or a linear regressor; before it, in a pipeline,
            StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PCA or TruncatedSVD. Of a search, the best one.

    Raises:
        BadInput: A step of another kind, or one that is not fitted; its class is told.
        SourceError: The import disagrees with the estimator on random inputs.

    Examples:
        >>> from sklearn.neural_network import MLPClassifier
        >>> x = np.random.default_rng(0).standard_normal((50, 4))
        >>> model = MLPClassifier(hidden_layer_sizes=(5,), max_iter=1000, random_state=0).fit(x, x[:, 0] > 0)
        >>> network = uv.from_sklearn(model)
        >>> network.n, network.widths
        (4, (5, 2))
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    inputs = getattr(estimator, "n_features_in_", None)
    if inputs is None:
        raise BadInput(f"{type(estimator).__name__} does not know its number of inputs; fit it first")
    steps = [part for _, part in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    trail, value, softmax = Trail(int(inputs)), Value(None, np.zeros(int(inputs)), (1, int(inputs))), False
    for part in steps[:-1]:
        value = value if part is None or isinstance(part, str) else _prepared(part, value)
    value, softmax = _answered(steps[-1], trail, value)
    network = trail.network(value, (int(inputs),), softmax)
    _check(network, estimator, steps[-1])
    return network


def _prepared(part: Any, value: Value) -> Value:
    """The value after one step that comes before the model."""
    name = type(part).__name__
    if name in ("StandardScaler", "RobustScaler"):
        centre = part.mean_ if name == "StandardScaler" else part.center_
        value = value if centre is None else value.add(-np.asarray(centre, float))
        return value if part.scale_ is None else value.scale(1 / np.asarray(part.scale_, float))
    if name == "MinMaxScaler" and not part.clip:
        return value.scale(np.asarray(part.scale_, float)).add(np.asarray(part.min_, float))
    if name == "MaxAbsScaler":
        return value.scale(1 / np.asarray(part.scale_, float))
    if name in ("PCA", "TruncatedSVD"):
        rows = np.asarray(part.components_, float)
        if name == "PCA":
            value = value.add(-np.asarray(part.mean_, float))
        value = _times(value, rows)
        if getattr(part, "whiten", False):
            variance = np.asarray(part.explained_variance_, float)
            value = value.scale(1 / np.maximum(np.sqrt(variance), np.finfo(float).eps))
        return value
    raise BadInput(
        f"the step {name} cannot be represented; StandardScaler, MinMaxScaler (without clip), MaxAbsScaler, "
        "RobustScaler, PCA and TruncatedSVD can: ask the pipeline itself (as_oracle), or export it to ONNX"
    )


def _answered(model: Any, trail: Trail, value: Value) -> tuple[Value, bool]:
    """What the model makes of the value, and whether a softmax follows."""
    name = type(model).__name__
    if hasattr(model, "coefs_") and hasattr(model, "intercepts_"):
        layers = list(zip(model.coefs_, model.intercepts_, strict=True))
        for weights, bias in layers[:-1]:
            value = _times(value, weights.T).add(np.asarray(bias, float))
            if model.activation != "identity":
                value, _ = trail.activate(value, activation(SKLEARN_ACTIVATIONS[model.activation]), {})
        weights, bias = layers[-1]
        value = _times(value, weights.T).add(np.asarray(bias, float))
        top = model.out_activation_
    elif hasattr(model, "coef_") and hasattr(model, "intercept_") and name in _LINEAR:
        weights = np.atleast_2d(np.asarray(model.coef_, float))
        value = _times(value, weights).add(np.broadcast_to(np.asarray(model.intercept_, float), len(weights)))
        top = "identity" if name != "LogisticRegression" else "logistic" if len(weights) == 1 else "softmax"
    else:
        raise BadInput(
            f"{name} cannot be represented; MLPClassifier, MLPRegressor, LogisticRegression and linear regressors can: "
            "ask it as it is (as_oracle)"
        )
    if top == "logistic" and value.size == 1:
        # Two probabilities, 1 - p and p, are the softmax of (0, z).
        return _times(value, np.array([[0.0], [1.0]])), True
    if top == "logistic":
        return trail.activate(value, activation("sigmoid"), {})[0], False
    return value, top == "softmax"


_LINEAR = ("LogisticRegression", "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet")


def _times(value: Value, matrix: Any) -> Value:
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix, float)
    return value.map(dense, (1, len(dense)))


def _check(network: Network, estimator: Any, model: Any, points: int = 16) -> None:
    """Compare with the estimator itself, on random inputs.

    Raises:
        SourceError: The two disagree.
    """
    import warnings

    x = np.random.default_rng(0).standard_normal((points, network.n))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        y = np.asarray(estimator.predict_proba(x) if hasattr(estimator, "predict_proba") else estimator.predict(x))
    y = y.reshape(points, -1)
    single = any(np.asarray(weights).dtype == np.float32 for weights in getattr(model, "coefs_", [y]))
    ours = network(x)
    error = np.abs(ours - y).max() / (1 + np.abs(y).max()) if ours.shape == y.shape else np.inf
    if not error <= (SINGLE_TOLERANCE if single else SKLEARN_TOLERANCE):
        raise SourceError(f"the import disagrees with {type(estimator).__name__} by {error:.1e} (relative)")
