"""What labels alone give away: rank, distance and queries against the floor of one bit a question.

`python benchmarks/labels.py` runs three nets of each kind; `--full` the twenty random nets, ReLU, the digits and, with
UNVEIL_DATA set, a published network with 256 neurons at growing budgets.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

import unveil as uv
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source_oracle import SourceOracle
from unveil.blackbox.sources.callable import CallableSource

SIZES = (784, 80, 40, 30, 20, 10)
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "softplus": lambda z: np.logaddexp(0, z) - np.log(2),
    "relu": lambda z: np.maximum(z, 0),
}


class ThresholdNet:
    """0 or 1: whether a random net of `depth` layers reaches 1; scaled so that a quarter of Gaussian inputs do."""

    def __init__(self, activation: str, depth: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = (*SIZES[:depth], 1)
        self.phi = ACTIVATIONS[activation]
        self.weights = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(sizes)]
        self.weights[-1] /= np.quantile(self.value(rng.standard_normal((4000, SIZES[0]))), 0.75)
        self.seconds = 0.0

    def value(self, x: np.ndarray) -> np.ndarray:
        z = x @ self.weights[0].T
        for w in self.weights[1:]:
            z = self.phi(z) @ w.T
        return z[:, 0]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        start = time.process_time()
        labels = (self.value(x) >= 1).astype(int)
        self.seconds += time.process_time() - start
        return labels


def floor(n: int, k: int, distance: float) -> float:
    """Bits it takes to tell a k-dimensional subspace of n dimensions to this distance."""
    return k * (n - k) * float(np.log2(1 / distance))


def random_net(activation: str, depth: int, seed: int, accuracy: float) -> bool:
    net = ThresholdNet(activation, depth, seed)
    oracle = SourceOracle(CallableSource(net, (SIZES[0],)), m=1, answers="labels", ledger=Ledger())
    start = time.process_time()
    span = uv.row_span(oracle, rng=np.random.default_rng(seed), accuracy=accuracy)
    total = time.process_time() - start
    distance = span.distance(net.weights[0])
    times = span.queries / floor(SIZES[0], SIZES[1], min(distance, 0.5))
    print(
        f"{activation:9} {depth:5} {seed:4} {span.rank:5} {distance:9.1e} {span.accuracy:9.1e} {span.queries:10,} "
        f"{times:6.2f} {total - net.seconds:7.1f} {net.seconds:7.1f}  {span.outcome.name}",
        flush=True,
    )
    return span.rank == SIZES[1] and distance <= accuracy


def digits() -> None:
    path = Path(__file__).parents[1] / "examples"
    oracle = uv.as_oracle(path / "digits.onnx", answers="labels")
    start = time.process_time()
    span = uv.row_span(oracle, rng=np.random.default_rng(0), accuracy=1e-2)
    total = time.process_time() - start
    truth = uv.load(path / "digits.onnx").layers[0].weights
    images = np.load(path / "digits.npz")["images"]
    rng = np.random.default_rng(1)
    hidden = np.repeat(images.reshape(len(images), -1), 5, axis=0)
    noise = rng.standard_normal(hidden.shape)
    noisy = oracle.nearest(hidden + 10 * span.complement(noise))
    kept = int(np.sum(oracle(oracle.nearest(hidden)) == oracle(noisy)))
    print(
        f"digits: rank {span.rank}, distance {span.distance(truth):.1e} (vouched {span.accuracy:.1e}), "
        f"{span.queries:,} labels, {kept} of {len(hidden)} images keep their label under noise of deviation 10, "
        f"{total:.0f} s CPU, {span.outcome.name}",
        flush=True,
    )


def published(budgets: tuple[int, ...]) -> None:
    data = os.environ.get("UNVEIL_DATA")
    if not data:
        print("published network: set UNVEIL_DATA to the folder that holds onnx/mnist-net_256x2.onnx")
        return
    path = Path(data) / "onnx" / "mnist-net_256x2.onnx"
    truth = next(layer.weights for layer in uv.load(path).layers if layer.weights.shape == (256, 784))
    true = np.linalg.qr(truth.T)[0]
    for budget in budgets:
        oracle = uv.as_oracle(path, answers="labels", budget=budget)
        span = uv.row_span(oracle, rng=np.random.default_rng(0), accuracy=1e-3)
        # The part of what was found that is not in the true span.
        off = np.linalg.norm(span.basis - span.basis @ true @ true.T, 2) if span.rank else 0.0
        print(
            f"mnist-net_256x2: budget {budget:,}: rank {span.rank} of 256, off by {off:.1e} "
            f"(vouched {span.accuracy:.1e}), {span.queries:,} labels, {span.outcome.name}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=("nets", "relu", "digits", "published"))
    chosen = parser.parse_args()
    head = (
        f"{'phi':9} {'depth':>5} {'seed':>4} {'rank':>5} {'distance':>9} {'vouched':>9} {'queries':>10} {'/floor':>6}"
    )
    print(f"{head} {'ours s':>7} {'net s':>7}")
    if chosen.only in (None, "nets"):
        nets = [(a, d, s) for s in (1, 2) for d in range(2, 7) for a in ("tanh", "softplus")]
        nets = nets if chosen.full else [("tanh", 2, 1), ("tanh", 6, 1), ("softplus", 4, 1)]
        good = sum(random_net(a, d, s, 1e-6) for a, d, s in nets)
        print(f"smooth: {good} of {len(nets)} with the right rank and distance <= 1e-6")
    if chosen.only in (None, "relu"):
        nets = [("relu", d, s) for d in range(2, 7) for s in (1,)] if chosen.full else [("relu", 3, 1)]
        good = sum(random_net(a, d, s, 1e-8) for a, d, s in nets)
        print(f"ReLU: {good} of {len(nets)} with the right rank and distance <= 1e-8")
    if chosen.only in (None, "digits"):
        digits()
    if chosen.only == "published" or (chosen.full and chosen.only is None):
        published((200_000, 1_000_000, 2_500_000, 5_000_000))


if __name__ == "__main__":
    main()
