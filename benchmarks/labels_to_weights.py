"""Weights from labels alone: networks read whole, labels per parameter, row errors, beside the published figures.

`python benchmarks/labels_to_weights.py` runs 10-5-2; `--only NAME` one of the others, `--seeds N` so many networks;
with UNVEIL_PEERS set to a folder of published victims, theirs too.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

import unveil as uv
from unveil.blackbox.defences import SinglePrecision

SIZES = {"10-5-2": (10, 5, 2), "20-20-10": (20, 20, 10), "50-20-10": (50, 20, 10), "784-32-10": (784, 32, 10)}
VICTIMS = {
    "peer 784-2-1": ("asiacrypt24_mnist01_784_2_1.npz", "2^20.3 labels"),
    "peer 512-2-1": ("asiacrypt24_random_512_2_1.npz", "2^19.4 labels"),
    "peer 32-2-2-1": ("asiacrypt24_random_32_2_2_1.npz", "rows of two layers"),
}


def random_net(sizes: tuple[int, int, int], seed: int) -> uv.Network:
    n, k, m = sizes
    rng = np.random.default_rng(seed)
    inner, bias = rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k)
    return uv.Network.from_weights(
        [(inner, bias), (rng.standard_normal((m, k)) / np.sqrt(k), 0.1 * rng.standard_normal(m))]
    )


def read(name: str, truth: uv.Network, seed: int, single: bool = False) -> bool:
    """Read one network, print a line; whether every row came out to 1e-8 (1e-4 in float32)."""
    values = uv.as_oracle(truth, shape=truth.n)
    oracle = uv.LabelsOnly(SinglePrecision(values) if single else values)
    start = time.process_time()
    found = uv.identify(oracle, rng=np.random.default_rng(seed + 100))
    seconds = time.process_time() - start
    unknown = truth.layers[0].weights.size + truth.layers[0].neurons
    unknown += max(truth.m - 1, 1) * (truth.layers[0].neurons + 1)
    line = f"{name:14} seed {seed:3} {found.outcome.name:14} {found.queries:10,} labels"
    line += f" {found.queries / unknown:6.0f} a number"
    if found.network is None or found.labels is None:
        print(f"{line}, no network, {seconds:.1f} CPU s", flush=True)
        return False
    x = np.random.default_rng(seed + 1).standard_normal((20_000, truth.n))
    told = np.array(found.labels)[found.network(x).argmax(axis=1)]
    right = truth(x).argmax(axis=1) if truth.m > 1 else (truth(x)[:, 0] >= 0).astype(int)
    apart = uv.compare(found.network, truth, x[:1000], labels=found.labels)
    rows = apart.layers[0] if apart.layers else None
    whole = rows is not None and not len(rows.missing) and not len(rows.false)
    whole = whole and rows.weight_error < (1e-4 if single else 1e-8)
    errors = "depths differ"
    if rows is not None:
        errors = f"rows {rows.weight_error:.1e}, last {apart.layers[1].weight_error:.1e}"
        errors += f", missing {len(rows.missing)}, false {len(rows.false)}"
    print(f"{line}, {errors}, labels equal {np.mean(told == right):.5f}, {seconds:.1f} CPU s", flush=True)
    return bool(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=(*SIZES, *VICTIMS), default="10-5-2")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--single", action="store_true", help="float32 answers")
    chosen = parser.parse_args()
    if chosen.only in SIZES:
        seeds = range(chosen.first, chosen.first + chosen.seeds)
        good = sum(read(chosen.only, random_net(SIZES[chosen.only], s), s, chosen.single) for s in seeds)
        print(f"{chosen.only}: {good} of {chosen.seeds} with every row")
        return
    folder = os.environ.get("UNVEIL_PEERS")
    if not folder:
        print("set UNVEIL_PEERS to the folder with the published victims")
        return
    file, published = VICTIMS[chosen.only]
    arrays = np.load(Path(folder) / file)
    count = sum(key.startswith("w") for key in arrays.files)
    truth = uv.Network.from_weights([(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(count)])
    print(f"published: {published}")
    read(chosen.only, truth, chosen.first, chosen.single)


if __name__ == "__main__":
    main()
