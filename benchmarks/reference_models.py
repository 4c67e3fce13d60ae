"""Reference models for the page's "Beside other models": how many directions each gives away, and at what cost.

    python benchmarks/reference_models.py            prints the table
    python benchmarks/reference_models.py --write    and writes it into the package

Networks that scikit-learn trained on its own data sets, its linear models, random networks of usual shapes, and the
example network. Each is asked as anyone would ask it; nothing is told to the attack.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.row_span import row_span
from unveil.blackbox.sources import as_oracle
from unveil.outcome import Outcome

ROOT = Path(__file__).parent.parent
WRITTEN = ROOT / "src" / "unveil" / "audit" / "reference_models.json"
TRAINED = (("breast_cancer", (8,)), ("digits", (16,)), ("digits", (32,)), ("digits", (100,)))
RANDOM = ((100, 10), (784, 32), (784, 128))


def models() -> Iterator[tuple[str, int, Callable[[], Oracle]]]:
    """Name, neurons of the first layer, and how to make the oracle."""
    for data in ("breast_cancer", "digits"):
        x, y = loaded(data)
        linear = LogisticRegression(max_iter=2000).fit(x, y)
        yield (
            f"logistic regression, {data}",
            len(linear.coef_),
            lambda linear=linear, n=x.shape[1]: as_oracle(linear.predict_proba, shape=n),
        )
    for data, widths in TRAINED:
        x, y = loaded(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net = MLPClassifier(widths, max_iter=300, random_state=0).fit(x, y)
        name = f"trained ReLU network, {data}"
        yield name, widths[0], lambda net=net, n=x.shape[1]: as_oracle(net.predict_proba, shape=n)
    for n, k in RANDOM:
        yield f"random ReLU network, {n}-{k}-10", k, lambda n=n, k=k: as_oracle(random_network(n, k), shape=n)
    yield "examples/digits.onnx, float32", 80, lambda: as_oracle(str(ROOT / "examples" / "digits.onnx"))


def loaded(data: str) -> tuple[np.ndarray, np.ndarray]:
    """A data set, each feature of mean 0 and deviation 1."""
    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    return StandardScaler().fit_transform(x), y


def random_network(n: int, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """n-k-10, weights as they are before training."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((n, k)) / np.sqrt(n), rng.standard_normal((k, 10)) / np.sqrt(k)
    bias = 0.1 * rng.standard_normal(k)
    return lambda x: np.maximum(x @ first + bias, 0) @ second


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into the package")
    parser.add_argument("--seed", type=int, default=1000)
    wanted = parser.parse_args()
    rows = []
    for name, neurons, oracle_of in models():
        oracle = oracle_of()
        found = row_span(oracle, rng=np.random.default_rng(wanted.seed))
        row = {
            "name": name,
            "n": oracle.n,
            "neurons": neurons,
            "rank": found.rank,
            "accuracy": found.accuracy,
            "queries": oracle.ledger.asked,
            "outcome": found.outcome.name,
        }
        sure = found.outcome in (Outcome.complete, Outcome.full_rank, Outcome.approximate)
        told = f"{oracle.n:4} inputs, {neurons:4} neurons, rank {found.rank:4}, {oracle.ledger.asked:8,} queries"
        print(f"{name:38} {told}, {found.outcome.name}", flush=True)
        if sure:
            rows.append(row)
    if wanted.write:
        told = {"measured by": f"benchmarks/reference_models.py --seed {wanted.seed}", "models": rows}
        WRITTEN.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
