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


# Rows this near to a true one are found; others are false.
ALIKE = 0.05


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
    oracle = uv.as_oracle(
        relu_net(weights, dtype), sizes[0], budget=(8 if dtype == np.float64 else 120) * parameters + 20_000
    )
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


def rows_found(rows: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every row found the nearest true one, and the norm of the difference, both of unit norm, sides aside."""
    cos = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ (true / np.linalg.norm(true, axis=1, keepdims=True)).T
    best = np.abs(cos).argmax(axis=1)
    return best, np.sqrt(np.maximum(0, 2 - 2 * np.abs(cos[np.arange(len(best)), best])))


def real(path: Path, images: np.ndarray | None, budget: int, smallest: bool = False) -> None:
    """A trained network from a file, in float32: what comes out; `smallest`: the least score wins."""
    truth = uv.load(path)
    true = [layer.dense() for layer in truth.layers]
    oracle = uv.as_oracle(str(path), budget=budget)
    start = time.process_time()
    found = uv.CriticalPoints(most_lines=60)(oracle, rng=np.random.default_rng(0))
    seconds = time.process_time() - start
    parameters = sum(w.size + len(w) for w in true)
    line = f"{path.stem[:22]:22s} {found.outcome.name:13s} {oracle.ledger.asked:9,d} {seconds:6.1f} "
    line += f"{oracle.ledger.asked / parameters:7.2f} "
    layers = list(found.stats.get("layers_read", []))
    if not layers and "rows_read" in found.stats:
        layers = [found.stats["rows_read"]]
    if not layers:
        print(line + "nothing", flush=True)
        return
    best, error = rows_found(layers[0][0], true[0])
    right = error < ALIKE
    line += f"{len(set(best[right])):4d}/{len(true[0]):<4d} {int((~right).sum()):5d} "
    line += f"{np.median(error[right]):8.1e} {error[right].max():8.1e} "
    second = "-"
    if len(layers) > 1 and right.all():
        # The second layer as it sees unit rows in the order found.
        sizes = np.linalg.norm(true[0], axis=1)[best]
        best, error = rows_found(layers[1][0], true[1][:, best] * sizes)
        second = f"{len(set(best[error < ALIKE]))}/{len(true[1])}, {int((error >= ALIKE).sum())} false"
    line += f"{second:14s} "
    if found.network is not None:
        x = images if images is not None else 0.3 * np.random.default_rng(1).standard_normal((5000, oracle.n))
        y, z = truth(x), found.network(x)
        y, z = (-y, -z) if smallest else (y, z)
        line += f"{np.mean(y.argmax(axis=1) == z.argmax(axis=1)):7.4f} "
        line += f"{np.sqrt(((y - z) ** 2).mean()) / y.std():7.3f}"
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
            row("20-10-1", options.seeds or 10, np.float32)
            row("784-32-1", options.seeds or (5 if options.full else 1), np.float32)
            row("784-32-10", options.seeds or (10 if options.full else 2), np.float32)
            for name in ("10-10-10-1", "80-40-20-1"):
                row(name, options.seeds or (10 if options.full else 3), np.float32)
        if not options.only:
            print("growth with n and k")
            for name in GROWTH:
                row(name, 3)
    if options.real or not options.only:
        images = digits()
        print(
            f"{'trained, float32':22s} {'outcome':13s} {'queries':>9s} {'CPU s':>6s} {'per par':>7s} {'layer 1':>9s} "
            f"{'false':>5s} {'rows':>8s} {'worst':>8s} {'layer 2':14s} {'labels':>7s} {'rms':>7s}"
        )
        real(Path(__file__).parent.parent / "examples" / "digits.onnx", images, 1_500_000)
        folder = os.environ.get("UNVEIL_DATA")
        if folder is not None:
            real(Path(folder) / "onnx" / "mnist-net_256x2.onnx", images, 4_000_000)
            real(Path(folder) / "onnx" / "ACASXU_run2a_1_1_batch_2000.onnx", None, 1_000_000, smallest=True)


if __name__ == "__main__":
    main()
