"""What it costs to read ReLU networks off their answers: `python benchmarks/extraction.py`.

By default three seeds per network; `--full` takes 20 for one hidden layer and 10 for deeper ones; `--only NAME`
prints one row. The published extractor's queries stand beside ours.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

import unveil as uv
from tests.helpers import Weights, random_weights, relu_net

# Queries of the reference extractor (Carlini, Jagielski, Mironov 2020), float64: measured with its code, or published.
THEIRS = {
    "20-10-1": "15,965",
    "10-10-10-1": "47,711; 51,444",
    "10-15-15-1": "103,000 - 131,000",
    "10-20-20-1": "2^17.1 (published)",
    "80-40-20-1": "447,801; 466,483",
    "40-20-10-10-1": "372,622",
    "784-32-1": "2^19.2 (published)",
    "784-128-1": "2^21.5 (published)",
}
SHALLOW = ("20-10-1", "10-15-1", "10-20-1", "10-40-1", "784-32-1", "784-128-1", "784-32-10", "784-128-10")
DEEP = ("10-10-10-1", "10-15-15-1", "10-20-20-1", "80-40-20-1", "40-20-10-10-1", "784-64-32-10")
GROWTH = ("50-16-1", "100-16-1", "200-16-1", "400-16-1", "200-8-1", "200-32-1", "200-64-1", "200-128-1")


def row_errors(found: uv.Network, weights: Weights) -> np.ndarray:
    """Largest entry error of every true first-layer row, both of unit norm, sides included; 2 where none is near."""
    true = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
    rows = found.layers[0].weights
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    error = np.stack([np.abs(rows - t).max(axis=1) for t in true])
    i, j = linear_sum_assignment(error)
    out = np.full(len(true), 2.0)
    out[i] = error[i, j]
    return out


def attempt(name: str, seed: int, dtype: type = np.float64) -> dict[str, float | bool | str]:
    """One seeded network, read."""
    rng = np.random.default_rng(seed)
    sizes = [int(s) for s in name.split("-")]
    weights = random_weights(sizes, rng, bias=0.5)
    if dtype == np.float32:
        weights = [(w.astype(np.float32).astype(float), b.astype(np.float32).astype(float)) for w, b in weights]
    parameters = sum(w.size + b.size for w, b in weights)
    oracle = uv.as_oracle(relu_net(weights, dtype), sizes[0], budget=8 * parameters + 20_000)
    start = time.process_time()
    found = uv.CriticalPoints()(oracle, rng=rng)
    seconds = time.process_time() - start
    x = np.random.default_rng(10_000 + seed).standard_normal((10_000, sizes[0]))
    y = relu_net(weights)(x)
    out: dict[str, float | bool | str] = {
        "queries": oracle.ledger.asked,
        "per": oracle.ledger.asked / parameters,
        "seconds": seconds,
        "complete": found.outcome is uv.Outcome.complete,
        "function": np.inf,
        "rows": np.inf,
        "labels": 0.0,
    }
    if found.network is not None:
        z = found.network(x)
        out["function"] = float(np.abs(z - y).max())
        out["rows"] = float(row_errors(found.network, weights).max())
        same = z.argmax(axis=1) == y.argmax(axis=1) if sizes[-1] > 1 else (z > np.median(y)) == (y > np.median(y))
        out["labels"] = float(np.mean(same))
    return out


def row(name: str, seeds: int, dtype: type = np.float64) -> None:
    """One line of the table."""
    results = [attempt(name, seed, dtype) for seed in range(seeds)]
    get = lambda key: np.array([float(r[key]) for r in results])  # noqa: E731
    good = get("complete") > 0
    exact = get("function") <= 1e-9
    q, per, s = get("queries"), get("per"), get("seconds")
    worst = get("function")[good].max(initial=0.0)
    rows = np.median(get("rows")), get("rows")[good].max(initial=0.0)
    label = name + (" float32" if dtype == np.float32 else "")
    print(
        f"{label:22s} {int(good.sum()):2d}/{seeds:<2d} {int(exact.sum()):2d}/{seeds:<2d} "
        f"{int(np.median(q)):9,d} {int(q.max()):9,d} {per.max():7.3f} {np.median(s):7.2f} "
        f"{rows[0]:8.1e} {rows[1]:8.1e} {np.median(get('function')):8.1e} {worst:8.1e} {get('labels').min():7.4f}  "
        f"{THEIRS.get(name, '-')}",
        flush=True,
    )


def head() -> None:
    """The table's head."""
    print(
        f"{'network':22s} {'done':5s} {'<=1e-9':5s}{'queries':>10s} {'most':>9s} {'per par':>7s} {'CPU s':>7s} "
        f"{'rows':>8s} {'worst':>8s} {'function':>8s} {'worst':>8s} {'labels':>7s}  theirs (queries)"
    )


def real(path: Path, images: np.ndarray | None, within: tuple[float, float] | None, budget: int) -> None:
    """A trained network from a file, in float32: what comes out, and what does not."""
    truth = uv.load(path)
    oracle = uv.as_oracle(str(path), within=within, budget=budget)
    start = time.process_time()
    found = uv.CriticalPoints()(oracle, rng=np.random.default_rng(0))
    seconds = time.process_time() - start
    first = np.asarray(getattr(truth.layers[0], "weights", np.empty((0, 0))))
    line = f"{path.name}: {found.outcome.name}, {oracle.ledger.asked:,} queries, {seconds:.1f} CPU s"
    line += f", layers {[each['neurons'] for each in found.stats['layers']]}"
    if found.network is not None:
        rows = found.network.layers[0].weights
        unit = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-300)
        cos = np.abs(unit @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T).max(axis=1)
        line += f"; first layer {int((cos > 0.9999).sum())} of {len(first)} neurons with |cos| > 0.9999"
        line += f", {int((cos > 0.99).sum())} with > 0.99"
        x = images if images is not None else oracle.sample(5000, np.random.default_rng(1))
        y, z = truth(x), found.network(x)
        spread = float(np.abs(y - y.mean(axis=0)).max())
        line += f"; labels {np.mean(y.argmax(axis=1) == z.argmax(axis=1)):.4f}"
        line += f", error {np.abs(y - z).max() / spread:.1e} of the spread"
    print(line, flush=True)


def digits() -> np.ndarray | None:
    """The 10,000 test images, as the networks take them, if there are any."""
    folder = os.environ.get("UNVEIL_DATA")
    if folder is None:
        return None
    import gzip

    with gzip.open(Path(folder) / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 784) / 255


def main() -> None:
    """Print everything."""
    parse = argparse.ArgumentParser()
    parse.add_argument("--full", action="store_true")
    parse.add_argument("--only", default="")
    parse.add_argument("--seeds", type=int, default=0)
    parse.add_argument("--real", action="store_true", help="trained networks alone")
    options = parse.parse_args()
    if not options.real:
        head()
        for name in (*SHALLOW, *DEEP):
            if options.only in ("", name):
                row(name, options.seeds or ((20 if name in SHALLOW else 10) if options.full else 3))
        if options.only in ("", "float32"):
            row("784-32-1", options.seeds or (10 if options.full else 2), np.float32)
            row("784-32-10", options.seeds or (10 if options.full else 2), np.float32)
        if not options.only:
            print("growth with n and k")
            for name in GROWTH:
                row(name, 3)
    if options.real or not options.only:
        images = digits()
        real(Path(__file__).parent.parent / "examples" / "digits.onnx", images, None, 400_000)
        folder = os.environ.get("UNVEIL_DATA")
        if folder is not None:
            real(Path(folder) / "onnx" / "mnist-net_256x2.onnx", images, None, 1_500_000)
            real(Path(folder) / "onnx" / "ACASXU_run2a_1_1_batch_2000.onnx", None, None, 200_000)


if __name__ == "__main__":
    main()
