"""Row span: queries against the floor, against Algorithm 1 as printed and a plain active subspace; seconds; growth.

Run `python benchmarks/span.py`; `--full` takes 20 seeds instead of 5 and adds the network with 150,000 inputs.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

import unveil as uv

DEEP = (784, 80, 40, 30, 20, 10, 1)
Net = Callable[[np.ndarray], np.ndarray]


def network(sizes: tuple[int, ...], seed: int, dtype: type = np.float64) -> tuple[Net, np.ndarray]:
    """A Gaussian ReLU network without biases, and its first weight matrix."""
    rng = np.random.default_rng(seed)
    weights = [(rng.standard_normal((out, width)) / np.sqrt(width)).astype(dtype) for width, out in pairwise(sizes)]

    def net(x: np.ndarray) -> np.ndarray:
        x = x.astype(dtype, copy=False)
        for w in weights[:-1]:
            x = np.maximum(x @ w.T, 0)
        return np.asarray(x @ weights[-1].T)

    return net, weights[0].astype(np.float64)


class Timed:
    """A network that adds up the seconds spent inside it."""

    def __init__(self, net: Net) -> None:
        self.net, self.seconds = net, 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        y = self.net(x)
        self.seconds += time.perf_counter() - start
        return y


def distance(found: np.ndarray, rows: np.ndarray) -> float:
    """Sine of the largest principal angle between a found span and the row space of the truth; 1 if ranks differ."""
    if found.shape != rows.shape:
        return 1.0
    truth = np.linalg.qr(rows.T)[0]
    return float(np.linalg.norm(found - (found @ truth) @ truth.T, 2))


def floor(sizes: tuple[int, ...]) -> float:
    """Unknowns of the span over answers per query."""
    return sizes[1] * (sizes[0] - sizes[1]) / sizes[-1]


def gradients(net: Net, n: int, points: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Gradients of the first output by forward differences, n + 1 queries each, as Algorithm 1 prints it."""
    rows = []
    for x in rng.standard_normal((points, n)):
        y = net(np.vstack([x + step * np.eye(n), x]))[:, 0]
        rows.append((y[:-1] - y[-1]) / step)
    return np.array(rows)


def leading(rows: np.ndarray, rank: int) -> np.ndarray:
    """The leading right singular vectors."""
    return np.linalg.svd(rows, full_matrices=False)[2][:rank]


def accuracy(seeds: int) -> None:
    """Parts (a) and (b): rank, distance and queries over the floor, unboxed and in [0, 1]."""
    print(f"\n{'-'.join(map(str, DEEP))}, Gaussian, {seeds} seeds; floor k (n - k) / m = {floor(DEEP):,.0f} queries")
    print(
        "answers  domain  wanted   rank  distance: median, worst   queries/floor: median, most   confirming   s, median"
    )
    for dtype in (np.float64, np.float32):
        for within in (None, (0.0, 1.0)):
            for wanted in (1e-4, 1e-11) if dtype == np.float64 else (1e-4,):
                ranks, far, cost, confirming, seconds = [], [], [], 0, []
                for seed in range(seeds):
                    net, rows = network(DEEP, seed, dtype)
                    oracle = uv.as_oracle(net, shape=DEEP[0], within=within)
                    start = time.perf_counter()
                    span = uv.row_span(oracle, rng=np.random.default_rng(seed), accuracy=wanted)
                    seconds.append(time.perf_counter() - start)
                    ranks.append(span.rank)
                    # In the box some neurons never switch: then what was found must lie in the truth.
                    truth = np.linalg.qr(rows.T)[0]
                    far.append(float(np.linalg.norm(span.basis - (span.basis @ truth) @ truth.T, 2)))
                    confirming = span.stages["confirmation"]
                    cost.append((span.queries - confirming) / floor(DEEP))
                spread = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)}-{max(ranks)}"
                print(
                    f"{np.dtype(dtype).name}  {'[0, 1]' if within else 'R^n':6}  {wanted:7.0e}  {spread:>5}  "
                    f"{np.median(far):9.1e}, {max(far):7.1e}  {np.median(cost):15.3f}, {max(cost):6.3f}  "
                    f"{confirming:18,}  {np.median(seconds):9.2f}",
                    flush=True,
                )


def side_by_side(seed: int = 0) -> None:
    """Ours, Algorithm 1 as printed and a plain active subspace, on the same network in float64 and float32."""
    n, k = DEEP[:2]
    printed = math.ceil(k * math.log(k))
    print("\nmethod                                     answers   queries   / floor   rank   distance   own s   net s")
    for dtype in (np.float64, np.float32):
        net, rows = network(DEEP, seed, dtype)
        step = 1e-4 if dtype == np.float64 else 1e-2
        name = np.dtype(dtype).name
        for label, points, central in (
            (f"Algorithm 1, r = k ln k = {printed} points", printed, False),
            (f"active subspace, {2 * k} central gradients", 2 * k, True),
        ):
            timed, rng = Timed(net), np.random.default_rng(seed)
            start = time.perf_counter()
            found = gradients(timed, n, points, step, rng)
            if central:
                found = (found + gradients(timed, n, points, -step, np.random.default_rng(seed))) / 2
            values = np.linalg.svd(found, compute_uv=False)
            own = time.perf_counter() - start - timed.seconds
            asked = points * (2 * n if central else n + 1)
            rank = int(np.sum(values > 1e-5 * values[0]))
            print(
                f"{label:41}  {name}  {asked:8,}  {asked / floor(DEEP):8.2f}  {rank:5}  "
                f"{distance(leading(found, k), rows):9.1e}  {own:6.2f}  {timed.seconds:6.2f}"
            )
        for wanted in (1e-4, 1e-11) if dtype == np.float64 else (1e-4,):
            timed = Timed(net)
            oracle = uv.as_oracle(timed, shape=n)
            start = time.perf_counter()
            span = uv.row_span(oracle, rng=np.random.default_rng(seed), accuracy=wanted)
            own = time.perf_counter() - start - timed.seconds
            print(
                f"{f'row_span, accuracy {wanted:.0e}':41}  {name}  {span.queries:8,}  "
                f"{span.queries / floor(DEEP):8.2f}  {span.rank:5}  {distance(span.basis, rows):9.1e}  "
                f"{own:6.2f}  {timed.seconds:6.2f}"
            )
    print(
        "Algorithm 1 and the active subspace are told the rank for the distance; their own count is by the 1e-5 rule."
    )


def forward(seed: int = 0) -> None:
    """What the same number of forward passes costs, bare, in batches of the size the search uses."""
    net, _ = network(DEEP, seed)
    x = np.random.default_rng(0).standard_normal((705, DEEP[0]))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(88):
            net(x)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(88):
        y = np.empty_like(x)
        y[:] = x[0]
        np.isfinite(y).all()
    fill = time.perf_counter() - start
    print(f"\n88 bare passes of 705 questions: {np.median(seconds):.2f} s; filling and checking them: {fill:.2f} s")


def growth() -> None:
    """Queries with n and k."""
    print("\n    n    k    m   queries   k (n - k) / m   / floor    s")
    for n, k, m in ((100, 10, 1), (200, 20, 1), (400, 40, 1), (784, 80, 1), (1600, 80, 1), (784, 20, 1), (784, 160, 1)):
        line(n, k, m)
    for n, k, m in ((784, 80, 10), (3072, 100, 10)):
        line(n, k, m)


def line(n: int, k: int, m: int) -> None:
    """One row of the growth table; float64, confirmation left out."""
    sizes = (n, k, 40, m)
    net, rows = network(sizes, 1)
    start = time.perf_counter()
    span = uv.row_span(uv.as_oracle(net, shape=n), rng=np.random.default_rng(1))
    asked = span.queries - span.stages["confirmation"]
    wrong = "" if distance(span.basis, rows) <= 1e-4 else "  WRONG SPAN"
    print(
        f"{n:6} {k:4} {m:4}  {asked:8,}  {floor(sizes):14,.0f}  {asked / floor(sizes):8.3f}  "
        f"{time.perf_counter() - start:5.1f}{wrong}",
        flush=True,
    )


def third_party() -> None:
    """Part (c): a trained network that nobody here trained, if UNVEIL_DATA is set."""
    folder = os.environ.get("UNVEIL_DATA")
    path = Path(folder or "") / "onnx" / "mnist-net_256x2.onnx"
    if folder is None or not path.exists():
        print("\nmnist-net_256x2: UNVEIL_DATA is not set")
        return
    network = uv.load(path)
    rows = network.layers[0].weights
    start = time.perf_counter()
    span = uv.row_span(uv.as_oracle(path), rng=np.random.default_rng(1), accuracy=1e-3)
    seconds = time.perf_counter() - start
    x = np.random.default_rng(2).uniform(size=(1000, network.n)) * np.random.default_rng(3).uniform(size=(1000, 1))
    x = np.vstack([x, np.random.default_rng(4).standard_normal((1000, network.n))])
    jacobians = _jacobians(network, x)
    size = np.linalg.norm(jacobians, axis=2).max(axis=1)
    alive = size > 0
    outside = np.linalg.norm(span.complement(jacobians[alive]), axis=2).max(axis=1) / size[alive]
    print(
        f"\nmnist-net_256x2 (float32, 784-256-256-10): rank {span.rank} of {np.linalg.matrix_rank(rows)}, "
        f"{span.queries:,} queries, {seconds:.0f} s; largest share of a gradient outside the span, at "
        f"{alive.sum():,} fresh points, {outside.max():.1e}"
    )


def _jacobians(network: uv.Network, x: np.ndarray) -> np.ndarray:
    """By the chain rule."""
    inner, h = [], x
    for layer in network.layers:
        inner.append(layer.affine(h))
        h = layer.activation.value(inner[-1])
    out = np.broadcast_to(network.layers[-1].weights, (len(x), *network.layers[-1].weights.shape))
    for layer, z in zip(network.layers[-2::-1], inner[-2::-1], strict=True):
        out = (out * layer.activation.slope(z)[:, None, :]) @ layer.weights
    return np.asarray(out)


def large() -> None:
    """Part (e): 150,000 inputs, 20 outputs, rank 20, in bounded memory."""
    n, k, m = 150_000, 20, 20
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((k, n)) / np.sqrt(n), rng.standard_normal((m, k))
    oracle = uv.as_oracle(lambda x: np.maximum(x @ a.T, 0) @ b.T, shape=n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    span = uv.row_span(oracle, rng=np.random.default_rng(0))
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(
        f"\n{n:,} inputs, {m} outputs, rank {k}: rank {span.rank}, distance {distance(span.basis, a):.1e}, "
        f"{span.queries:,} queries ({span.queries / (k * (n - k) / m):.2f} of the floor), "
        f"{time.perf_counter() - start:.0f} s, {memory:.2f} GiB above what was there"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    accuracy(20 if full else 5)
    side_by_side()
    forward()
    growth()
    third_party()
    if full:
        large()
