"""Decisions per second: the kind of a preimage by the paper's linear programme and by `unveil.preimage`, side by side.

Run `python benchmarks/preimage.py`: about two minutes. `--full` takes more inputs, and the 10,000 images of t10k
through trained layers. Both sides have one BLAS thread; times are CPU seconds, so that a busy machine does little harm.

The baseline is the paper's appendix A3: a basis of the null space of the active rows (rank-revealing QR), the silent
rows in that basis, and HiGHS for `lambda >= 0, sum = 1, Abar^T lambda = 0`. Ours includes the layer's factorisation,
spread over the inputs, and the verification of every certificate.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linprog
from threadpoolctl import threadpool_limits

from unveil import Network, preimages
from unveil.executor import workers
from unveil.whitebox.null_space import null_space

N = 784


def timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def by_programme(weights: np.ndarray, x: np.ndarray) -> tuple[str, float, float]:
    """Kind by the paper's A3, seconds for the basis, seconds for HiGHS."""
    active = weights @ x > 0
    basis_time, basis = timed(lambda: null_space(weights[active]))
    bar = weights[~active] @ basis  # type: ignore[operator]
    if bar.shape[1] == 0:
        return "point", basis_time, 0.0
    count = len(bar)
    rows = np.vstack([bar.T, np.ones(count)])
    level = np.append(np.zeros(bar.shape[1]), 1.0)
    seconds, result = timed(lambda: linprog(np.zeros(count), A_eq=rows, b_eq=level, method="highs"))
    status = result.status  # type: ignore[attr-defined]
    return {0: "compact", 2: "infinite"}.get(status, f"HiGHS status {status}"), basis_time, seconds


def gaussian(width: int, baseline: int, count: int, seed: int) -> None:
    rng = np.random.default_rng([seed, width])
    weights = rng.standard_normal((width, N))
    inputs = rng.standard_normal((count, N))
    network = Network.from_weights([(weights, np.zeros(width))], last="relu")
    answers = [by_programme(weights, x) for x in inputs[:baseline]]
    seconds, found = timed(lambda: list(preimages(network, inputs)))
    kinds = [p.kind for p in found]  # type: ignore[attr-defined]
    certified = sum(p.certified for p in found)  # type: ignore[attr-defined]
    basis, programme = np.mean([a[1] for a in answers]), np.mean([a[2] for a in answers])
    ours = seconds / count
    same = sum(a[0] == kind for a, kind in zip(answers, kinds, strict=False))
    print(
        f"{N} -> {width:4}  seed {seed}  basis {basis * 1e3:6.1f} ms + HiGHS {programme * 1e3:6.1f} ms   "
        f"ours {ours * 1e3:6.2f} ms   ratio {(basis + programme) / ours:6.1f}   "
        f"{dict(Counter(kinds))}, {certified} of {count} certified; HiGHS agrees on {same} of {baseline}"
        + ("" if same == baseline else f" {dict(Counter(a[0] for a in answers))}"),
        flush=True,
    )


def data_set(name: str, network: Network, inputs: np.ndarray, jobs: int | None) -> None:
    began = time.perf_counter()
    with workers(jobs) as executor:
        kinds = Counter((p.kind, p.certified) for p in preimages(network, inputs, executor=executor))
    wall = time.perf_counter() - began
    parts = f"{jobs or os.cpu_count()} processes"
    print(f"{name}: {len(inputs)} inputs, {parts}, {wall:.1f} s of wall clock; {dict(kinds)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--jobs", type=int, default=None)
    given = parser.parse_args()
    with threadpool_limits(1):
        for width in (800, 1080, 1400):
            for seed in range(3 if given.full else 1):
                gaussian(width, 30 if given.full else 10, 1000 if given.full else 512, seed)
        try:
            sys.path.insert(0, str(Path(__file__).parent.parent))
            from papers.data import mnist_test

            images = mnist_test().flat()
        except FileNotFoundError as error:
            print(f"without MNIST: {error}")
            return
        rng = np.random.default_rng(0)
        random = Network.from_weights([(rng.standard_normal((1000, N)) / 28, np.zeros(1000))], last="relu")
        data_set("784 -> 1000, Gaussian weights, t10k", random, images, given.jobs)
        if given.full:
            from papers.invertibility.networks import trained

            for name in ("mlp_1000", "mlp_3500"):
                data_set(f"{name}, first layer, t10k", trained(name), images, given.jobs)


if __name__ == "__main__":
    main()
