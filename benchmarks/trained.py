"""Trained networks read whole: scikit-learn's own, on its own data sets, asked as anyone would.

    python benchmarks/trained.py                     a few widths of every data set
    python benchmarks/trained.py --full              all widths
    python benchmarks/trained.py --data digits --activation relu

Regressors answer through `predict`, classifiers through `predict_proba`; nothing is told to `identify`. Beside how it
ended stand the largest difference from the model at its own data, and how many of its predictions stay the same.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from unveil.blackbox.sources import as_oracle
from unveil.identification.identify import identify

DATA = ("diabetes", "iris", "wine", "breast_cancer", "digits")
WIDTHS: tuple[tuple[int, ...], ...] = ((8,), (32,), (16, 8), (64,), (32, 16))


def trained(data: str, widths: tuple[int, ...], activation: str) -> tuple[MLPClassifier | MLPRegressor, np.ndarray]:
    """The network after 300 passes, and its data, each feature of mean 0 and deviation 1."""
    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    kind = MLPRegressor if data == "diabetes" else MLPClassifier
    if data == "diabetes":
        y = (y - y.mean()) / y.std()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = kind(hidden_layer_sizes=widths, activation=activation, max_iter=300, random_state=0).fit(x, y)
    return model, x


def line(data: str, widths: tuple[int, ...], activation: str, seed: int) -> str:
    """Train, find, score."""
    model, x = trained(data, widths, activation)
    ask = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    size = sum(w.size + b.size for w, b in zip(model.coefs_, model.intercepts_, strict=True))
    oracle = as_oracle(ask, shape=x.shape[1])
    before = time.process_time()
    found = identify(oracle, rng=np.random.default_rng(seed))
    seconds = time.process_time() - before
    told = (
        f"{data:<14} {activation:<9} {'-'.join(map(str, (x.shape[1], *widths, model.n_outputs_))):<14} "
        f"{found.outcome.name:<13} {found.queries:>9,} queries ({found.queries / size:6.2f} per parameter) "
        f"{seconds:6.1f} s"
    )
    if found.network is None:
        return told
    theirs, ours = oracle(x), found.network(x)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    told += f"  {'-'.join(map(str, found.network.widths)):<12} error {error:7.1e}"
    if ask == model.predict:
        return told
    same = int((oracle.predictions(ours) == oracle.predictions(theirs)).sum())
    return f"{told}  {same:,} of {len(x):,} predictions"


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all widths")
    parser.add_argument("--data", choices=DATA, nargs="+", default=DATA)
    parser.add_argument(
        "--activation", choices=("tanh", "logistic", "relu"), nargs="+", default=("tanh", "logistic", "relu")
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for activation in given.activation:
        for data in given.data:
            for widths in WIDTHS if given.full else WIDTHS[:3]:
                print(line(data, widths, activation, given.seed), flush=True)


if __name__ == "__main__":
    main()
