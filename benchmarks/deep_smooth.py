"""Smooth networks of three and more hidden layers: how often every parameter is found, at what cost.

    python benchmarks/deep_smooth.py [first seed] [seeds] [case ...]

Random networks with unit rows and shifts of deviation 0.5, or networks that scikit-learn trained; widths are not told,
the activation is. The last bits of every answer are flipped at random, as another processor would. A case is named as
in `CASES`, with an activation behind it if it is not tanh, and `float32` or the standard deviation of normal errors if
answers are not exact: `10-10-5-3-1:sigmoid`, `trained 10-8-5-3-1`, `10-10-5-3-1:tanh:float32`, `10-10-5-3-1:tanh:1e-6`.
A network is whole if every parameter is within 1e-8, or within a thousand times the errors of the answers.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import pairwise

import numpy as np

import unveil as uv
from unveil.identification.fitting.least_squares import parameters

EXACT, TIMES = 1e-8, 1e3
CASES = ("10-10-5-3-1", "20-20-8-5-2", "10-10-6-4-3-1", "trained 10-8-5-3-1", "trained 13-10-6-3")


def drawn(sizes: tuple[int, ...], activation: str, seed: int) -> uv.Network:
    rng, weights = np.random.default_rng([seed, *sizes]), []
    for before, width in pairwise(sizes[:-1]):
        rows = rng.standard_normal((width, before))
        weights.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), 0.5 * rng.standard_normal(width)))
    outer = np.ones((1, sizes[-2])) if sizes[-1] == 1 else rng.standard_normal((sizes[-1], sizes[-2]))
    return uv.Network.from_weights([*weights, (outer, np.zeros(sizes[-1]))], activation)


def trained(sizes: tuple[int, ...], activation: str, seed: int) -> uv.Network:
    """What scikit-learn makes of the diabetes (10 inputs) or wine (13 inputs) data; logits where there are classes."""
    from sklearn.datasets import load_diabetes, load_wine
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    regression = sizes[-1] == 1
    x, y = (load_diabetes if regression else load_wine)(return_X_y=True)
    kind = MLPRegressor if regression else MLPClassifier
    form = "tanh" if activation == "tanh" else "logistic"
    model = kind(hidden_layer_sizes=sizes[1:-1], activation=form, max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(StandardScaler().fit_transform(x), (y - y.mean()) / y.std() if regression else y)
    pairs = [(w.T, b) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    return uv.Network.from_weights(pairs, activation)


def single(network: uv.Network):
    """The network in single precision: weights, what lies between layers, and answers."""
    parts = [(np.float32(each.dense()), np.float32(each.bias), each.activation.value) for each in network.layers]

    def answer(x):
        h = np.float32(x)
        for weights, bias, value in parts:
            h = np.float32(value(h @ weights.T + bias))
        return h

    return answer


def flipped(answers, seed: int):
    rng = np.random.default_rng(seed)

    def answer(x):
        y = answers(x)
        return np.nextafter(y, y + rng.choice([-1, 1], size=y.shape).astype(y.dtype))

    return answer


def disturbed(network: uv.Network, errors: str, seed: int):
    """The network with answers that are not exact, how large their errors are, and what answers so."""
    rng = np.random.default_rng(seed)
    if errors == "float32":
        return network, float(np.finfo(np.float32).eps), flipped(single(network), seed)
    if errors:
        deviation = float(errors)
        return network, deviation, lambda x: (y := network(x)) + deviation * rng.standard_normal(y.shape)
    return network, 0.0, flipped(network, seed)


def run(case: str, first: int, seeds: int) -> None:
    name, activation, errors = (*case.split(":"), "", "")[:3]
    activation = activation or "tanh"
    sizes = tuple(int(size) for size in name.split()[-1].split("-"))
    rows = []
    for seed in range(first, first + seeds):
        truth = (trained if name.startswith("trained") else drawn)(sizes, activation, seed)
        truth, size, answer = disturbed(truth, errors, seed)
        oracle, exact = uv.as_oracle(answer, shape=sizes[0], noisy=True), max(EXACT, TIMES * size)
        start = time.process_time()
        found = uv.identify(oracle, uv.Peeling(activation), rng=np.random.default_rng(seed))
        error = np.inf
        if found.network is not None and len(found.network.layers) == len(truth.layers):
            apart = uv.compare(found.network, truth)
            error = np.inf if apart.missing or apart.false else float(apart.weight_error)
        cost = found.queries / parameters(truth)
        rows.append((error, cost, time.process_time() - start, found.outcome))
        print(
            f"  {case} {seed}: {found.outcome.name}, error {error:.1e}, {cost:.1f} queries per parameter, "
            f"{rows[-1][2]:.1f} s; {found.why[-1] if found.why else ''}",
            flush=True,
        )
    whole = [row for row in rows if row[0] <= exact]
    wrong = sum(row[3] is uv.Outcome.complete and row[0] > exact for row in rows)
    cost, seconds = np.array([row[1] for row in rows]), [row[2] for row in rows]
    worst = max((row[0] for row in whole), default=np.nan)
    print(
        f"| {case} | {len(whole)} of {seeds} | {wrong} | {np.median(cost):.1f}, {cost.max():.1f} | {worst:.1e} | "
        f"{np.median(seconds):.1f}, {max(seconds):.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", nargs="?", type=int, default=1000, help="the first seed")
    parser.add_argument("seeds", nargs="?", type=int, default=20, help="how many")
    parser.add_argument("case", nargs="*", help="all by default")
    told = parser.parse_args()
    print("| network | whole | complete but wrong | queries per parameter: median, most | largest error | CPU s |")
    print("|---|---|---|---|---|---|", flush=True)
    for each in told.case or CASES:
        run(each, told.first, told.seeds)
