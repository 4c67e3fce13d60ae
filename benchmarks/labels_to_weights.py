"""Weights from labels alone: networks read whole, labels per parameter, row errors, beside the published figures.

`python benchmarks/labels_to_weights.py` runs 10-5-2; `--only NAME` one of the others, `--seeds N` so many networks from
`--first` on. The last bits of the scores are flipped at random before the label is taken, as another processor would.
With UNVEIL_PEERS set to a folder of published victims, theirs too.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

import unveil as uv
from unveil.blackbox.defences import SinglePrecision

WHOLE = {"10-5-2": (10, 5, 2), "20-20-10": (20, 20, 10), "50-20-10": (50, 20, 10), "784-32-10": (784, 32, 10)}
DEEPER = {"10-10-10-3": (10, 10, 10, 3), "20-20-15-10-5": (20, 20, 15, 10, 5)}
TRAINED = {"wine 13-16-8-3": (16, 8), "digits 61-32-16-10": (32, 16)}
SIGMOIDAL = {"tanh 10-8-3": (10, 8, 3), "sigmoid 10-8-3": (10, 8, 3), "tanh 784-16-10": (784, 16, 10)}
SIGMOIDAL_TRAINED = {
    "tanh wine 13-8-3": (8,),
    "tanh digits 61-16-10": (16,),
    "sigmoid digits 61-16-10": (16,),
}
VICTIMS = {
    "peer 784-2-1": ("asiacrypt24_mnist01_784_2_1.npz", "2^20.3 labels, 74 s"),
    "peer 512-2-1": ("asiacrypt24_random_512_2_1.npz", "2^19.4 labels"),
    "peer 32-2-2-1": ("asiacrypt24_random_32_2_2_1.npz", "both layers"),
}
"""File, and what was published about it (Chen et al., ASIACRYPT 2024)."""


def random_net(sizes: tuple[int, ...], seed: int) -> uv.Network:
    rng = np.random.default_rng(seed)
    if len(sizes) > 3:
        spread = [np.sqrt((2 if i else 1) / n) for i, n in enumerate(sizes[:-1])]
        layers = [
            (rng.standard_normal((m, n)) * s, 0.3 * rng.standard_normal(m))
            for (n, m), s in zip(pairwise(sizes), spread, strict=True)
        ]
        return uv.Network.from_weights(layers)
    n, k, m = sizes
    inner, bias = rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k)
    return uv.Network.from_weights(
        [(inner, bias), (rng.standard_normal((m, k)) / np.sqrt(k), 0.1 * rng.standard_normal(m))]
    )


def sigmoidal_net(name: str, seed: int) -> uv.Network:
    """Random weights of a typical preactivation of 1.5."""
    rng = np.random.default_rng(seed)
    n, k, m = SIGMOIDAL[name]
    return uv.Network.from_weights(
        [
            (1.5 * rng.standard_normal((k, n)) / np.sqrt(n), 0.5 * rng.standard_normal(k)),
            (rng.standard_normal((m, k)) / np.sqrt(k), 0.2 * rng.standard_normal(m)),
        ],
        activation=name.split()[0],
    )


def trained_net(name: str, seed: int) -> uv.Network:
    """A classifier of scikit-learn's wine or digits, inputs scaled."""
    from sklearn.datasets import load_digits, load_wine
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    kind = name.split()[0]
    kind = kind if kind in ("tanh", "sigmoid") else "relu"
    widths = {**TRAINED, **SIGMOIDAL_TRAINED}[name]
    data = load_wine() if "wine" in name else load_digits()
    x = StandardScaler().fit_transform(data.data)
    learner = MLPClassifier(widths, activation=kind.replace("sigmoid", "logistic"), max_iter=300, random_state=seed)
    fitted = learner.fit(x[:, x.std(axis=0) > 0], data.target)
    layers = [(w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True)]
    return uv.Network.from_weights(layers, activation=kind)


def victim(name: str) -> uv.Network | None:
    folder = os.environ.get("UNVEIL_PEERS")
    if not folder:
        print("set UNVEIL_PEERS to the folder with the published victims")
        return None
    file, published = VICTIMS[name]
    arrays = np.load(Path(folder) / file)
    count = sum(key.startswith("w") for key in arrays.files)
    print(f"published: {published}")
    return uv.Network.from_weights([(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(count)])


def labels_of(truth: uv.Network, seed: int, single: bool) -> uv.Oracle:
    """The label of the largest score, or whether the only one is at least 0."""
    noise = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    layers = [(layer.weights.astype(dtype), layer.bias.astype(dtype)) for layer in truth.layers]

    def answer(x: np.ndarray) -> np.ndarray:
        h = x.astype(dtype)
        for i, (w, b) in enumerate(layers):
            h = h @ w.T + b
            h = truth.layers[i].activation.value(h) if i < len(layers) - 1 else h
        h = h * (1 + np.finfo(dtype).eps * noise.integers(-1, 2, size=h.shape)).astype(dtype)
        return np.asarray(h.argmax(axis=1) if h.shape[1] > 1 else h[:, 0] >= 0).astype(int)

    oracle = uv.as_oracle(answer, shape=truth.n, answers="labels")
    return SinglePrecision(oracle) if single else oracle


def read(name: str, truth: uv.Network, seed: int, single: bool = False) -> bool:
    """Read one network, print a line; whether what was wanted of it came out and nothing else."""
    oracle = labels_of(truth, seed, single)
    start = time.process_time()
    # Of a boundary with a few corners the widths say which network it is; the published attack knows them, too.
    widths = truth.widths[:-1] if name in VICTIMS and len(truth.layers) > 2 else None
    found = uv.identify(oracle, rng=np.random.default_rng(seed + 100), widths=widths)
    seconds = time.process_time() - start
    first = truth.layers[0]
    unknown = first.weights.size + first.neurons + max(truth.m - 1, 1) * (first.neurons + 1)
    line = (
        f"{name:18} seed {seed:3} {found.outcome.name:14} {found.queries:10,} labels = 2^{np.log2(found.queries):.2f}"
    )
    if found.network is None or found.labels is None or len(truth.layers) > 2:
        rows, bias = found.stats.get("rows_read", (np.empty((0, truth.n)), np.empty(0)))
        some = any("looked at so far only" in each for each in found.why)
        error = apart(rows, bias, truth, some=some)
        if found.network is not None and found.labels is not None:
            return deep(line, found, truth, seed, seconds)
        line += ", along a few directions" if some else ""
        right = error.min(axis=0, initial=np.inf) < 1e-3
        worst = error.min(axis=0, initial=np.inf)[right].max(initial=0.0)
        which = len(set(error[:, right].argmin(axis=0))) if right.any() else 0
        print(
            f"{line}, first layer {which} of {first.neurons}, false {int((~right).sum())}, rows to {worst:.1e}, "
            f"{seconds:.1f} CPU s{second(found, truth)}",
            flush=True,
        )
        return len(truth.layers) > 2 and which == first.neurons and bool(right.all())
    line += f" {found.queries / unknown:6.1f} a number"
    x = np.random.default_rng(seed + 1).standard_normal((40_000, truth.n))
    told = np.array(found.labels)[found.network(x).argmax(axis=1)]
    right = truth(x).argmax(axis=1) if truth.m > 1 else (truth(x)[:, 0] >= 0).astype(int)
    against = uv.compare(found.network, truth, x[:1000], labels=found.labels)
    rows = against.layers[0] if against.layers else None
    whole = rows is not None and not len(rows.missing) and not len(rows.false)
    whole = whole and rows.weight_error < (1e-4 if single else 1e-6)
    if truth.m < 3 and found.stats.get("active at the whole boundary"):
        return hidden(line, found, truth, differ=int((told != right).sum()), seconds=seconds)
    errors = "depths differ"
    if rows is not None:
        errors = f"rows {rows.weight_error:.1e}, last {against.layers[1].weight_error:.1e}"
        errors += f", missing {len(rows.missing)}, false {len(rows.false)}"
    print(f"{line}, {errors}, labels differ {int((told != right).sum())}, {seconds:.1f} CPU s", flush=True)
    return bool(whole)


def hidden(line: str, found: uv.Identification, truth: uv.Network, differ: int, seconds: float) -> bool:
    """Print a network of which one neuron shows in no label; whether all hyperplanes but its own are there."""
    assert found.network is not None
    first = found.network.layers[0]
    error = apart(first.weights, first.bias, truth)
    told = error.min(axis=1) < 1e-6
    met = on_the_boundary(truth)
    print(
        f"{line}, one neuron active at the whole boundary: hyperplanes {int((told & met).sum())} of the "
        f"{int(met.sum())} that labels tell, to {error.min(axis=1)[told].max(initial=0.0):.1e}, "
        f"labels differ {differ}, {seconds:.1f} CPU s",
        flush=True,
    )
    return found.outcome is uv.Outcome.complete and bool((told | ~met).all()) and first.neurons == len(met)


def on_the_boundary(truth: uv.Network) -> np.ndarray:
    """Which hyperplanes of a network with fewer neurons than inputs meet its boundary.

    On the i-th one `offset + sum of w_j relu(z_j)` over the others takes both signs unless these and the offset agree.
    """
    last = truth.layers[1]
    w, c = (
        (last.weights[-1] - last.weights[0], last.bias[-1] - last.bias[0])
        if truth.m > 1
        else (last.weights[0], last.bias[0])
    )
    signs = np.sign(np.append(w, c))
    return np.array([len(set(np.delete(signs, i))) > 1 for i in range(len(w))])


def deep(line: str, found: uv.Identification, truth: uv.Network, seed: int, seconds: float) -> bool:
    """Print how far a network of two hidden layers is from the true one, layer by layer.

    Returns:
        Whether the first layer is whole and nothing in it false; of published victims whether all layers are.
    """
    assert found.network is not None
    x = np.random.default_rng(seed + 1).standard_normal((40_000, truth.n))
    right = truth(x).argmax(axis=1) if truth.m > 1 else (truth(x)[:, 0] >= 0).astype(int)
    differ = int((np.array(found.labels)[found.network(x).argmax(axis=1)] != right).sum())
    against = uv.compare(found.network, truth, x[:1000], labels=found.labels)
    layers = [
        f"{each.weight_error:.1e} (missing {len(each.missing)}, false {len(each.false)})" for each in against.layers
    ]
    print(
        f"{line}, layers {', '.join(layers) or 'depths differ'}, labels differ {differ}, {seconds:.1f} CPU s",
        flush=True,
    )
    judged = against.layers if truth.m == 1 else against.layers[:1]
    return bool(judged) and not any(len(each.missing) + len(each.false) for each in judged)


def second(found: uv.Identification, truth: uv.Network) -> str:
    """How many second-layer neurons were told apart behind a first layer, and how far off the worst is.

    Weights that no bend told are left out, lengths and signs too.
    """
    if "second_layer_read" not in found.stats:
        return ""
    rows, bias = found.stats["rows_read"]
    weights, biases = found.stats["second_layer_read"]
    first, behind = truth.layers[0], truth.layers[1]
    match = apart(rows, bias, truth).argmin(axis=0)
    unit = np.linalg.norm(first.weights[match], axis=1) / np.linalg.norm(rows, axis=1)
    right = np.column_stack([behind.weights[:, match] * unit, behind.bias])
    errors, partly = [], 0
    for vector in np.column_stack([weights, biases]):
        known = ~np.isnan(vector)
        partly += not known.all()
        mine = vector[known] / np.linalg.norm(vector[known])
        true = right[:, known] / np.linalg.norm(right[:, known], axis=1)[:, None]
        errors.append(float(np.minimum(*(np.linalg.norm(true - s * mine, axis=1) for s in (1, -1))).min()))
    good = [error for error in errors if error < 1e-3]
    return (
        f"; second layer {len(good)} of {behind.neurons} ({partly} in part), false {len(errors) - len(good)}, "
        f"to {max(good, default=0.0):.1e}"
    )


def apart(rows: np.ndarray, bias: np.ndarray, truth: uv.Network, *, some: bool = False) -> np.ndarray:
    """Distance of hyperplanes read from those of the first layer, signs and lengths apart; of `some` directions only,
    those of which the rows are made."""
    first = truth.layers[0]
    weights = first.weights
    if some and len(rows):
        _, size, span = np.linalg.svd(rows, full_matrices=False)
        span = span[size > 1e-9 * size[0]]
        weights = weights @ span.T @ span
    right = np.column_stack([weights, first.bias]) / np.linalg.norm(weights, axis=1)[:, None]
    found = np.column_stack([rows, bias]) / np.linalg.norm(rows, axis=1)[:, None]
    ways = [np.linalg.norm(right[:, None] - sign * found[None], axis=2) for sign in (1, -1)]
    return np.minimum(*ways)


def made(name: str, seed: int) -> uv.Network:
    if name in SIGMOIDAL:
        return sigmoidal_net(name, seed)
    if name in {**TRAINED, **SIGMOIDAL_TRAINED}:
        return trained_net(name, seed)
    return random_net({**WHOLE, **DEEPER}[name], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=(*WHOLE, *SIGMOIDAL, *SIGMOIDAL_TRAINED, *DEEPER, *TRAINED, *VICTIMS), default="10-5-2"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--single", action="store_true", help="float32 answers")
    chosen = parser.parse_args()
    name, good = chosen.only, 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        if name in VICTIMS:
            truth = victim(name)
            if truth is None:
                return
        else:
            truth = made(name, seed)
        good += read(name, truth, seed, chosen.single)
    told = "first layer whole and none false" if name in {**DEEPER, **TRAINED} else "with every row"
    print(f"{name}: {good} of {chosen.seeds} {told}")


if __name__ == "__main__":
    main()
