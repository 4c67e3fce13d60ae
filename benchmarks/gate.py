"""The gate every change of `identify` is held to: success rate, queries, false neurons and CPU seconds per network.

    python benchmarks/gate.py --small                      five seeds of the small networks
    python benchmarks/gate.py --json after.json            twenty seeds of every network, kept
    python benchmarks/gate.py --only relu --against before.json
    python benchmarks/gate.py --kernel Prescott            under another BLAS kernel, in a process of its own
    python benchmarks/gate.py --victims FOLDER             also trained networks: .npz of arrays w0, b0, w1, b1, ...
    UNVEIL_VICTIMS=FOLDER python benchmarks/gate.py --only published    of these the row of three hidden layers alone

Last bits of all answers are flipped at random, which is what another processor does (`tests.helpers.flipped`): each
seed is another network on another processor. A network is read whole where the outcome is complete, every neuron that
any input switches on is there and none false, and the answers at 99 of 100 fresh normal inputs agree; open are biases
of neurons that no input switches off and weights between two that none makes active together. Complete and wrong is
told beside. With `--against` both tables are printed, and the exit code is 1 where a rate fell, or the median of
queries rose by more than 5 %. Measures the `unveil` that Python finds: PYTHONPATH chooses another version.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent.parent / "src"))

import unveil as uv
from tests.helpers import Weights, flipped, random_weights, single

# Answers agree where they differ by less than this share of their deviation, at 99 of 100 fresh inputs.
AGREE = {"float64": 1e-6, "float32": 1e-3}
# A row whose cosine with a true one is smaller is false.
ALIKE = 0.999
# Inputs among which every neuron that answers can tell of is active once.
DEAD = 100_000
# Medians of queries may rise by this share.
RISE = 0.05
# Questions allowed per parameter, and in any case.
PER_PARAMETER = {("relu", "float64"): 30, ("relu", "float32"): 200}
PER_SMOOTH, ANYWAY = 400, 20_000

NETWORKS = {
    "relu float64": ("20-10-1", "100-20-10", "10-10-10-1", "30-16-8-3", "784-32-1", "40-20-10-10-1", "30-12-10-8-3"),
    "relu float32": ("20-10-1", "100-20-10", "30-16-8-1", "30-16-8-3", "784-32-10", "40-20-10-10-3"),
    "tanh float64": ("7-5-1", "10-10-3-1", "8-8-3-3"),
    "tanh float32": ("7-5-1", "10-10-3-1"),
    "softplus float64": ("7-5-1", "8-8-3-1"),
    "gelu float64": ("7-5-1",),
    "sigmoid float64": ("10-10-3-1",),
    "sin float64": ("7-5-1",),
    "arctan float64": ("20-20-4-1",),
}
# Published ones in the folder that UNVEIL_VICTIMS names, as of `--victims`. Each takes half a minute, so that so many
# seeds are enough.
PUBLISHED, HEAVY = {"neurips25_mnist784_16x3_1": "float64"}, 10
SMALL = ("20-10-1", "100-20-10", "10-10-10-1", "30-16-8-3", "7-5-1", "8-8-3-1")


@dataclass(frozen=True)
class Row:
    """What came out of all seeds of one network.

    Attributes:
        name: Activation, precision and widths, or the file's name.
        seeds: How many were tried.
        whole: How many were read whole.
        wrong: How many were called complete and are not whole.
        queries: Median over those read whole; over all where none was.
        false: Neurons found that are none, in all seeds together.
        seconds: Median CPU seconds.
        outcomes: How often each outcome came, `error: ...` and `out of time` among them.
    """

    name: str
    seeds: int
    whole: int
    wrong: int
    queries: float
    false: int
    seconds: float
    outcomes: dict[str, int]


class OutOfTime(BaseException):
    """The CPU seconds allowed for one network were over. No Exception: inside the model's answer that would be taken
    for the model's own error."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime inside after so many CPU seconds of this process."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def draw(sizes: Sequence[int], activation: str, rng: np.random.Generator) -> Weights:
    """Gaussian ReLU networks; smooth ones with unit rows and outer weights one (random for several outputs)."""
    if activation == "relu":
        return random_weights(sizes, rng, bias=0.5)
    weights = []
    for width, out in pairwise(sizes):
        rows = rng.standard_normal((out, width))
        weights.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), 0.5 * rng.standard_normal(out)))
    if sizes[-1] == 1:
        weights[-1] = (np.ones((1, sizes[-2])), np.zeros(1))
    return weights


def roundings(network: uv.Network, x: np.ndarray) -> np.ndarray:
    """Size of the roundings inside, as `tests.helpers.roundings` tells it, for any activation."""
    h, variance = x, np.zeros_like(x)
    for layer in network.layers:
        weights = layer.dense()
        z = layer.affine(h)
        variance = (variance + h**2 / 4) @ (weights**2).T * layer.activation.slope(z) ** 2
        h = layer.activation.value(z)
    return np.sqrt(variance)


def first_rows(found: uv.Identification) -> np.ndarray | None:
    """Rows of the first layer that were read off, where the network is not whole."""
    layers = list(found.stats.get("layers_read", []))
    if layers:
        return np.asarray(layers[0][0])
    return np.asarray(found.stats["rows_read"][0]) if "rows_read" in found.stats else None


def false_rows(rows: np.ndarray, true: np.ndarray) -> int:
    """Rows that are near no true one, up to sign and scale."""
    unit = [r / np.maximum(np.linalg.norm(r, axis=1, keepdims=True), 1e-300) for r in (rows, true)]
    return int((np.abs(unit[0] @ unit[1].T).max(axis=1) < ALIKE).sum()) if len(rows) else 0


def near_and_far(n: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs among which a neuron that is never on, or never off, is so of all that anybody asks."""
    return rng.standard_normal((DEAD, n)) * rng.choice([1.0, 10.0, 100.0], size=(DEAD, 1))


def switched_on(truth: uv.Network, rng: np.random.Generator) -> list[np.ndarray]:
    """Which neurons of each hidden layer some input switches on, near or far: of the others hardly an answer tells."""
    x = near_and_far(truth.n, rng)
    return [(truth.features(x, i) != 0).any(axis=0) for i in range(len(truth.layers) - 1)]


def without_open_biases(networks: Sequence[uv.Network], x: np.ndarray) -> list[uv.Network]:
    """The same ReLU networks with rows of norm one, and the biases of neurons that are on at all of these inputs raised
    to one figure for all, those of the next layer less by what this adds: no answer tells the one from the other."""
    parts = [[(layer.dense(), layer.bias) for layer in each.layers] for each in networks]
    for i in range(min(map(len, parts)) - 1):
        on = [(each.features(x, i) > 0).all(axis=0) for each in networks]
        for weights in parts:
            (rows, bias), (out, next_bias) = weights[i : i + 2]
            size = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
            weights[i : i + 2] = (rows / size[:, None], bias / size), (out * size, next_bias)
        top = max((float(w[i][1][those].max()) for w, those in zip(parts, on, strict=True) if those.any()), default=0.0)
        for weights, those in zip(parts, on, strict=True):
            (rows, bias), (out, next_bias) = weights[i : i + 2]
            raised = np.where(those, top, bias)
            weights[i : i + 2] = (rows, raised), (out, next_bias - out @ (raised - bias))
    return [uv.Network.from_weights(weights, "relu") for weights in parts]


def without_open_weights(networks: Sequence[uv.Network], x: np.ndarray) -> list[uv.Network]:
    """The same ReLU networks, with zero for weights between two hidden neurons of which one is off wherever the other
    is on: no answer tells them."""
    out = []
    for network in networks:
        parts = [(layer.dense().copy(), layer.bias) for layer in network.layers]
        for i in range(1, len(parts) - 1):
            before, after = ((network.features(x, depth) > 0).astype(np.float32) for depth in (i - 1, i))
            parts[i][0][after.T @ before == 0] = 0
        out.append(uv.Network.from_weights(parts, "relu"))
    return out


def scored(found: uv.Network, truth: uv.Network, seen: list[np.ndarray]) -> tuple[int, bool]:
    """How many neurons are false, and whether none is, none is twice there and only such lack as no input in `seen`
    switches on. One that is read although none of these switched it on is there all the same."""
    if len(found.layers) != len(truth.layers):
        return 1, False
    apart = uv.compare(found, truth)
    lacking = any(on[each.missing].any() for on, each in zip(seen, apart.layers, strict=False))
    enough = all(on.sum() <= width <= len(on) for on, width in zip(seen, found.widths, strict=False))
    return apart.false, enough and not lacking and not apart.false


def attempt(truth: uv.Network, kind: str, dtype: str, seed: int, limit: float) -> dict[str, Any]:
    """One network on one processor, read; scored against the truth afterwards."""
    rng = np.random.default_rng([7, seed])
    answer = flipped(lambda x: truth(x).astype(dtype), rng, lambda x: roundings(truth, x))
    parameters = sum(layer.dense().size + len(layer.bias) for layer in truth.layers)
    budget = ANYWAY + PER_PARAMETER.get((kind, dtype), PER_SMOOTH) * parameters
    oracle = uv.as_oracle(answer, truth.n, budget=budget)
    out: dict[str, Any] = {"whole": False, "wrong": False, "false": 0}
    start = time.process_time()
    try:
        with cpu_limit(limit):
            # A ReLU network is recognised by itself; for a smooth one the activation is what a user would be told.
            found = uv.identify(oracle, rng=rng, activation=None if kind == "relu" else kind)
        out["outcome"] = found.outcome.name
    except OutOfTime:
        found, out["outcome"] = None, "out of time"
    except Exception as error:  # a traceback is a result here
        found, out["outcome"] = None, f"error: {type(error).__name__}"
    out |= {"seconds": time.process_time() - start, "queries": oracle.ledger.asked}
    if found is None or found.network is None:
        return out
    complete = found.outcome is uv.Outcome.complete
    x = np.random.default_rng([8, seed]).standard_normal((5000, truth.n))
    y = truth(x)
    off = np.abs(found.network(x) - y).max(axis=1) / max(float(y.std()), 1e-300)
    same = False
    if complete:
        seen = switched_on(truth, np.random.default_rng([9, seed]))
        pair = [found.network, truth]
        if kind == "relu":
            x = near_and_far(truth.n, np.random.default_rng([9, seed]))
            pair = without_open_weights(without_open_biases(pair, x), x)
        out["false"], same = scored(*pair, seen)
    elif (rows := first_rows(found)) is not None:
        out["false"] = false_rows(rows, truth.layers[0].dense())
    out["whole"] = complete and same and bool(np.quantile(off, 0.99) <= AGREE[dtype])
    out["wrong"] = complete and not out["whole"]
    return out


def row(name: str, results: list[dict[str, Any]]) -> Row:
    """All seeds of one network."""
    whole = [r for r in results if r["whole"]]
    outcomes = [r["outcome"] for r in results]
    return Row(
        name,
        len(results),
        len(whole),
        sum(r["wrong"] for r in results),
        float(np.median([r["queries"] for r in whole or results])),
        sum(r["false"] for r in results),
        round(float(np.median([r["seconds"] for r in results])), 2),
        {each: outcomes.count(each) for each in sorted(set(outcomes))},
    )


def victims(folder: Path) -> dict[str, uv.Network]:
    """Trained ReLU networks from `w0, b0, w1, b1, ...`, rows are neurons, the last layer affine."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            depth = len([name for name in file.files if name.startswith("w")])
            weights = [(file[f"w{i}"].astype(float), file[f"b{i}"].astype(float)) for i in range(depth)]
        found[path.stem] = uv.Network.from_weights(weights)
    return found


HEAD = f"{'network':42s} {'whole':>7s} {'wrong':>5s} {'queries':>9s} {'false':>5s} {'CPU s':>7s}  outcomes"


def told(one: Row) -> str:
    """One line of the table."""
    outcomes = ", ".join(f"{n} {name}" for name, n in one.outcomes.items())
    whole = f"{one.whole}/{one.seeds}"
    return (
        f"{one.name:42s} {whole:>7s} {one.wrong:5d} {one.queries:9,.0f} {one.false:5d} {one.seconds:7.2f}  {outcomes}"
    )


def worse(before: Row, after: Row) -> list[str]:
    """What the gate does not let pass."""
    out = []
    if after.whole / after.seeds < before.whole / before.seeds:
        out.append(f"rate fell from {before.whole}/{before.seeds} to {after.whole}/{after.seeds}")
    if before.whole and after.whole and after.queries > (1 + RISE) * before.queries:
        out.append(f"median queries rose by {after.queries / before.queries - 1:.0%}")
    return out


def against(before: list[Row], after: list[Row]) -> int:
    """Both tables, row beside row; 1 if anything got worse."""
    old, failed = {one.name: one for one in before}, 0
    print(f"\nbefore / after\n{HEAD}")
    for one in after:
        if one.name in old:
            print(told(old[one.name]))
        print(told(one))
        for why in worse(old[one.name], one) if one.name in old else ["not measured before"]:
            failed |= one.name in old
            print(f"    {why}")
    return failed


def kernels() -> str:
    """The BLAS kernels in use, as threadpoolctl tells them."""
    return ", ".join(sorted({f"{p['internal_api']} {p.get('architecture', '?')}" for p in threadpool_info()}))


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Every row that was asked for."""
    for group, names in NETWORKS.items():
        kind, dtype = group.split()
        for name in names:
            label = f"{group} {name}"
            if (options.small and name not in SMALL) or options.only not in label:
                continue
            results = []
            for seed in range(options.first, options.first + options.seeds):
                weights = draw([int(s) for s in name.split("-")], kind, np.random.default_rng(seed))
                truth = uv.Network.from_weights(single(weights) if dtype == "float32" else weights, kind)
                results.append(attempt(truth, kind, dtype, seed, options.limit))
            yield row(label, results)
    for name, dtype in PUBLISHED.items():
        label, file = f"published {dtype} {name}", Path(os.environ.get("UNVEIL_VICTIMS", "")) / f"{name}.npz"
        if file.is_file() and options.only in label and not options.small:
            truth, seeds = victims(file.parent)[name], range(options.first, options.first + min(options.seeds, HEAVY))
            yield row(label, [attempt(truth, "relu", dtype, seed, options.limit) for seed in seeds])
    for name, truth in victims(options.victims).items() if options.victims else ():
        for dtype in ("float64", "float32"):
            if options.only in f"{name} {dtype}":
                seeds = range(options.first, options.first + options.seeds)
                yield row(f"{name} {dtype}", [attempt(truth, "relu", dtype, seed, options.limit) for seed in seeds])


def main() -> int:
    """Print the table, keep it, compare it."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--small", action="store_true", help="five seeds of the small networks")
    parse.add_argument("--seeds", type=int, help="20 by default, 5 with --small")
    parse.add_argument("--first", type=int, default=0, help="the first seed")
    parse.add_argument("--only", default="", help="networks whose name contains this, such as 'float32'")
    parse.add_argument("--limit", type=float, default=600.0, help="CPU seconds for one network")
    parse.add_argument("--victims", type=Path, help="folder of trained networks")
    parse.add_argument("--kernel", help="another BLAS kernel for this run: Haswell, Zen, SkylakeX, Prescott, ...")
    parse.add_argument("--json", type=Path, help="keep the table here")
    parse.add_argument("--against", type=Path, help="a table kept before")
    options = parse.parse_args()
    options.seeds = options.seeds or (5 if options.small else 20)
    if options.kernel and os.environ.get("OPENBLAS_CORETYPE") != options.kernel:
        # OpenBLAS reads it once, when it is loaded.
        command = [sys.executable, __file__, *sys.argv[1:]]
        return subprocess.run(command, env=os.environ | {"OPENBLAS_CORETYPE": options.kernel}).returncode
    print(f"BLAS {kernels()}; numpy {np.__version__}; unveil from {Path(uv.__file__).parent}\n\n{HEAD}")
    rows = []
    for one in measure(options):
        rows.append(one)
        print(told(one), flush=True)
        if options.json:
            kept = {"blas": kernels(), "numpy": np.__version__, "rows": [asdict(each) for each in rows]}
            options.json.write_text(json.dumps(kept, indent=1) + "\n")
    if options.against:
        before = [Row(**each) for each in json.loads(options.against.read_text())["rows"]]
        return against(before, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
