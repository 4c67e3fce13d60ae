"""How well `identify` reads two hidden layers: success, queries and seconds over sizes, kinds of weights and shifts.

    python benchmarks/identify.py                       a few seeds of every table
    python benchmarks/identify.py --full                twenty seeds, as the documentation reports
    python benchmarks/identify.py --table main --seeds 20

Tables: main (the method identify picks itself), entangled (EntangledWeights alone, with the same least squares from
random starts beside it), kinds (EntangledWeights over kinds of first layers and spreads of the shifts),
activations (the other smooth ones), noise, rank-one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "src")]

from papers.two_layer.networks import EXACT, draw, error  # noqa: E402
from unveil.blackbox.sources import as_oracle  # noqa: E402
from unveil.identification.fitting.least_squares import parameters  # noqa: E402
from unveil.identification.identify import identify  # noqa: E402
from unveil.identification.smooth.entangled_weights import EntangledWeights  # noqa: E402
from unveil.identification.smooth.rank_one import (  # noqa: E402
    certificate,
    independent,
    matrix_space,
    rank_one_elements,
)
from unveil.outcome import Outcome  # noqa: E402
from unveil.whitebox.network import Layer, Network  # noqa: E402

SIZES = ((10, 10, 3), (20, 20, 4), (20, 20, 10), (30, 20, 5), (30, 30, 6), (50, 30, 10), (20, 40, 10))


def row(name: str, errors: list[float], queries: list[float], seconds: list[float], size: int) -> None:
    """One line of a table."""
    good = sum(e <= EXACT for e in errors)
    print(
        f"{name:<46} {good:>3} of {len(errors):<3} worst {max(errors):8.1e}  queries {np.median(queries):>9,.0f} "
        f"({np.median(queries) / size:6.1f} per parameter, at most {max(queries) / size:6.1f})  "
        f"CPU median {np.median(seconds):6.2f} s, at most {max(seconds):6.2f} s",
        flush=True,
    )


def run(name: str, seeds: int, make, find) -> None:  # type: ignore[no-untyped-def]
    """Draw, find, score; one line."""
    errors, queries, seconds, size = [], [], [], 1
    for seed in range(seeds):
        truth = make(seed)
        size = parameters(truth)
        oracle = as_oracle(truth, shape=truth.n)
        before = time.process_time()
        found = find(oracle, np.random.default_rng([1, seed]))
        seconds.append(time.process_time() - before)
        errors.append(error(found, truth))
        queries.append(found.queries)
    row(name, errors, queries, seconds, size)


def main_table(seeds: int) -> None:
    """By the method identify picks itself, activation given, widths found."""
    for activation in ("tanh", "sigmoid"):
        for n, *widths in SIZES:
            run(
                f"{activation} {n}-{widths[0]}-{widths[1]}",
                seeds,
                lambda seed, n=n, w=tuple(widths), a=activation: draw(n, w, a, seed),
                lambda oracle, rng, a=activation: identify(oracle, rng=rng, activation=a),
            )


def entangled_table(seeds: int) -> None:
    """EntangledWeights alone; and the same least squares from random starts."""
    for activation in ("tanh", "sigmoid"):
        for n, *widths in ((20, 20, 4), (30, 30, 6)):
            for pipeline in (True, False):
                run(
                    f"{activation} {n}-{widths[0]}-{widths[1]} perturbed {'pipeline' if pipeline else 'random starts'}",
                    seeds if pipeline else max(1, seeds // 2),
                    lambda seed, n=n, w=tuple(widths), a=activation: draw(n, w, a, seed, kind="perturbed", shifts=0.05),
                    lambda oracle, rng, a=activation, w=tuple(widths), p=pipeline: EntangledWeights(
                        a, w, pipeline=p, attempts=3 if p else 1
                    )(oracle, rng=rng),
                )


def kinds_table(seeds: int) -> None:
    """EntangledWeights over kinds of first layers and spreads of the shifts."""
    for n, *widths in ((10, 10, 3), (20, 20, 4)):
        for kind in ("orthogonal", "perturbed", "sphere"):
            for shifts in (0.0, 0.05, 0.2, 0.5):
                run(
                    f"tanh {n}-{widths[0]}-{widths[1]} {kind} shifts {shifts}",
                    seeds,
                    lambda seed, n=n, w=tuple(widths), k=kind, s=shifts: draw(n, w, "tanh", seed, kind=k, shifts=s),
                    lambda oracle, rng, w=tuple(widths): EntangledWeights("tanh", w)(oracle, rng=rng),
                )


def activations_table(seeds: int) -> None:
    """By the method identify picks itself, activation given, widths found: all other smooth activations."""
    for n, *widths in ((10, 10, 3), (20, 20, 4)):
        for activation in ("softplus", "gelu", "erf", "arctan", "sin"):
            run(
                f"{activation} {n}-{widths[0]}-{widths[1]}",
                seeds,
                lambda seed, n=n, w=tuple(widths), a=activation: draw(n, w, a, seed),
                lambda oracle, rng, a=activation: identify(oracle, rng=rng, activation=a),
            )


def noise_table(seeds: int) -> None:
    """What noise in the answers leaves: largest parameter error beside what the method says of it."""
    for n, *widths in ((10, 10, 3), (20, 20, 4)):
        for label in ("rounded to float32", "computed in float32", "noise 1e-6", "noise 1e-4"):
            errors, ratios, queries, seconds, wrong, size = [], [], [], [], 0, 1
            for seed in range(seeds):
                truth = draw(n, (widths[0], widths[1]), "tanh", seed)
                if label == "computed in float32":
                    truth = single(truth)
                size = parameters(truth)
                oracle = as_oracle(disturbed(truth, label, seed), shape=n, noisy=True)
                before = time.process_time()
                found = identify(oracle, rng=np.random.default_rng([3, seed]), activation="tanh")
                seconds.append(time.process_time() - before)
                queries.append(found.queries)
                off = error(found, truth)
                if np.isfinite(off):
                    errors.append(off)
                    ratios.append(off / found.stats["uncertainty"])
                wrong += int(found.outcome is Outcome.complete and not np.isfinite(off))
            print(
                f"tanh {n}-{widths[0]}-{widths[1]}, {label:<19} all neurons in {len(errors):>2} of {seeds:<2} "
                f"complete but wrong {wrong}  error median {np.median(errors):7.1e}, worst {max(errors):7.1e}, "
                f"{min(ratios):.1f} to {max(ratios):.1f} of what was said  "
                f"queries {np.median(queries):>8,.0f} ({np.median(queries) / size:6.1f} per parameter)  "
                f"CPU median {np.median(seconds):5.2f} s, at most {max(seconds):5.2f} s",
                flush=True,
            )


def single(network: Network) -> Network:
    """The network with its parameters rounded to float32."""
    return Network(
        tuple(
            Layer(*(p.astype(np.float32).astype(np.float64) for p in (layer.weights, layer.bias)), layer.activation)
            for layer in network.layers
        )
    )


def disturbed(truth: Network, label: str, seed: int):  # type: ignore[no-untyped-def]
    """Answers as `label` says; noise is drawn anew for every question."""
    noise = np.random.default_rng([2, seed])
    if label == "rounded to float32":
        return lambda x: truth(x).astype(np.float32)
    if label == "computed in float32":

        def answer(x: np.ndarray) -> np.ndarray:
            h = x.astype(np.float32)
            for layer in truth.layers:
                weights, bias = layer.weights.astype(np.float32), layer.bias.astype(np.float32)
                h = layer.activation.value(h @ weights.T + bias)
            return h

        return answer
    level = float(label.removeprefix("noise "))
    return lambda x: truth(x) + level * noise.standard_normal((len(x), truth.m))


def rank_one_table(seeds: int) -> None:
    """Rank-one matrices in a random space of rank-one matrices of n x n, up to n^2 / 3 of them."""
    for n, k in ((10, 10), (10, 20), (10, 33), (20, 60), (20, 100), (20, 133)):
        worst, found_all, seconds = 0.0, 0, list[float]()
        for seed in range(seeds):
            rng = np.random.default_rng([seed, n, k])
            truth = rng.standard_normal((k, n))
            truth /= np.linalg.norm(truth, axis=1, keepdims=True)
            space, _ = matrix_space(truth[:, :, None] * truth[:, None, :], k)
            before = time.process_time()
            vectors = independent(rank_one_elements(space, rng=rng), space, k)
            seconds.append(time.process_time() - before)
            closeness = np.abs(truth @ vectors.T).max(axis=1)
            distance = np.sqrt(np.maximum(0, 2 - 2 * closeness))
            worst = max(worst, float(distance.max()))
            found_all += int(len(vectors) == k and distance.max() <= 1e-7)
            assert certificate(space, vectors).max() < 1 + 1e-9
        print(
            f"n = {n}, {k} matrices: all found in {found_all} of {seeds}, worst error {worst:.1e}, "
            f"CPU median {np.median(seconds):.2f} s, at most {max(seconds):.2f} s",
            flush=True,
        )


TABLES = {
    "main": main_table,
    "entangled": entangled_table,
    "kinds": kinds_table,
    "activations": activations_table,
    "noise": noise_table,
    "rank-one": rank_one_table,
}


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=[*TABLES, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--full", action="store_true", help="twenty seeds")
    given = parser.parse_args()
    seeds = given.seeds or (20 if given.full else 3)
    for name, table in TABLES.items():
        if given.table in (name, "all"):
            print(f"\n{name}: {table.__doc__}")
            table(seeds)


if __name__ == "__main__":
    main()
