"""A network of 101,770 parameters, trained on MNIST's test images, copied from its answers with nothing read."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import unveil as uv
from papers.data import mnist_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, PASSES = 128, 10


class Row(NamedTuple):
    """One copy: errors in units of the answers' deviation, and the share of test images with the same label."""

    parameters: int
    rms: float
    median: float
    largest: float
    images: float
    labels: float
    queries: float
    seconds: float


def teacher() -> tuple[uv.Network, np.ndarray]:
    """The network's logits, and the images."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    data = mnist_test()
    x, labels = data.flat(), data.labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MLPClassifier((WIDTH,), max_iter=PASSES, random_state=0).fit(x, labels)
    weights = [(w.T.copy(), b.copy()) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    return uv.Network.from_weights(weights), x


def run(size: int = 1) -> list[Row]:
    """`size` copies, float32 answers; questions lie about one image in ten, the other images judge."""
    truth, x = teacher()
    count = sum(layer.dense().size + layer.neurons for layer in truth.layers)
    table = []
    for seed in range(size):
        oracle = uv.as_oracle(lambda each: truth(each).astype(np.float32), truth.n)
        start = time.process_time()
        method = uv.Surrogate(widths=(WIDTH,), factor=1.25, students=1, x=x[::10], rounds=2, work=6e12)
        found = method(oracle, rng=np.random.default_rng(seed))
        seconds = time.process_time() - start
        assert found.network is not None
        rest = np.delete(x, np.s_[::10], axis=0)
        y, told = truth(rest), found.network(rest)
        fresh = found.stats["fresh"]
        error = float(np.sqrt(((told - y) ** 2).mean()) / (y - y.mean(axis=0)).std())
        same = float(np.mean(told.argmax(axis=1) == y.argmax(axis=1)))
        row = Row(count, fresh["rms"], fresh["median"], fresh["largest"], error, same, found.queries / count, seconds)
        table.append(row)
        print(tell([row]), flush=True)
    return table


def tell(table: list[Row]) -> str:
    """One line for each copy."""
    return "\n".join(
        f"{row.parameters:,} parameters: rms {row.rms:.1e}, median {row.median:.1e}, largest {row.largest:.1e} at "
        f"fresh inputs; rms {row.images:.1e} at other images, {row.labels:.2%} of their labels; {row.queries:.2f} "
        f"queries per parameter, {row.seconds:.0f} CPU s"
        for row in table
    )


def draw(table: list[Row]) -> Figure:
    """Errors at fresh inputs and at images, one point for each copy."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5, 3.5))
    panel.semilogy([row.rms for row in table], "o", label="fresh inputs")
    panel.semilogy([row.images for row in table], "s", label="images")
    panel.set(xlabel="copy", ylabel="root mean square error / deviation")
    panel.legend()
    figure.tight_layout()
    return figure
