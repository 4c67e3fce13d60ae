"""Singular values of all layers of WideCIFAR: ours beside torch.func.jacrev + svdvals, side by side in one run.

Run `python benchmarks/stability.py`: the baseline on 1 sample and ours on 4; `--full` for 3 and 50. Needs torch and
UNVEIL_DATA; a network that was never trained is made with random weights if `--untrained` is given, else trained first.
Each side runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

NAME = "wide_cifar"
# Exact to 1e-10, and by Gram matrices alone (1e-6 at 1e-5 of the largest): the baseline in float32 has 1e-2 there.
OURS = ("ours", "coarse")


def ours(network: object, x: np.ndarray, fine: bool) -> list[np.ndarray]:
    """Curves before and after each activation, in float64; to 1e-10, or by Gram matrices alone."""
    from unveil.executor import workers
    from unveil.whitebox.stability import stability

    # Samples side by side, each with one thread, on as many cores as the baseline's threads get.
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    with workers(min(threads, len(x))) as executor:
        found = stability(network, x, lemma_9=False, fine=fine, executor=executor)  # type: ignore[arg-type]
    return [curve for layer in found.layers for curve in (layer.before.values, layer.after.values)]


def theirs(network: object, x: np.ndarray, chunk: int, double: bool) -> list[np.ndarray]:
    """The usual way: the Jacobian of every layer by backpropagation, then its singular values."""
    import torch

    from unveil import to_torch

    kind = torch.float64 if double else torch.float32
    module = to_torch(network).to(kind)  # type: ignore[arg-type]
    ends = [i for i, part in enumerate(module) if isinstance(part, torch.nn.ReLU)] + [len(module)]
    curves: list[list[np.ndarray]] = [[] for _ in range(2 * len(ends))]
    for row in torch.from_numpy(x).to(kind):
        for i, end in enumerate(ends):
            began = time.process_time()
            last = i == len(ends) - 1
            part = module[:end]
            jacobian = torch.func.jacrev(lambda z, part=part: part(z[None])[0], chunk_size=chunk)(row)
            with torch.no_grad():
                alive = torch.ones(len(jacobian)) if last else (part(row[None])[0] > 0).to(kind)
                curves[2 * i].append(torch.linalg.svdvals(jacobian).numpy())
                jacobian *= alive[:, None]
                curves[2 * i + 1].append(curves[2 * i][-1] if last else torch.linalg.svdvals(jacobian).numpy())
            print(f"jacrev, layer {i}: {time.process_time() - began:.1f} s of CPU", file=sys.stderr, flush=True)
    return [np.array(each) for each in curves]


def run(side: str, samples: int, untrained: bool, chunk: int, out: str) -> None:
    """One side, in this process; prints its figures as JSON."""
    from papers.invertibility import networks
    from unveil import from_torch

    if untrained:
        import torch

        torch.manual_seed(0)
        network = from_torch(networks.module(NAME), (3, 32, 32))
    else:
        network = networks.trained(NAME)
    x = networks.test_images(NAME, samples)
    wall, cpu = time.perf_counter(), time.process_time()
    curves = ours(network, x, side == "ours") if side in OURS else theirs(network, x, chunk, side == "jacrev64")
    mine, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    together = min(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1), samples)
    figures = {
        "wall": (time.perf_counter() - wall) / samples,
        "cpu": (time.process_time() - cpu + workers.ru_utime + workers.ru_stime) / samples,
        # Of the largest worker, times their number, and of this process.
        "peak_MB": (mine.ru_maxrss + (together * workers.ru_maxrss if together > 1 else 0)) / 1024,
    }
    np.savez(out, *curves)
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the baseline on 3 samples, ours on 50")
    parser.add_argument("--samples", type=int, nargs=2, metavar=("BASELINE", "OURS"))
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--double", action="store_true", help="the baseline in float64 too: as exact as ours")
    parser.add_argument("--chunk", type=int, default=256, help="rows per backward pass of the baseline")
    parser.add_argument("--side", choices=("ours", "coarse", "jacrev", "jacrev64"), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = given.samples or ((3, 50) if given.full else (1, 4))
    if given.side:
        run(given.side, counts[int(given.side in OURS)], given.untrained, given.chunk, given.out)
        return
    import tempfile

    sides = ["ours", "coarse", "jacrev"] + ["jacrev64"] * given.double
    figures, curves = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            out = str(Path(folder) / f"{side}.npz")
            command = [sys.executable, __file__, "--side", side, "--out", out, "--chunk", str(given.chunk)]
            command += ["--samples", *map(str, counts)] + ["--untrained"] * given.untrained
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=_environment())
            figures[side] = json.loads(done.stdout.splitlines()[-1])
            print(f"{side} done: {figures[side]['cpu']:.1f} s of CPU per sample", file=sys.stderr, flush=True)
            with np.load(out) as arrays:
                curves[side] = [arrays[key] for key in arrays.files]
    print(f"{NAME}: singular values of every layer, before and after each activation, per sample")
    print(f"threads: {os.environ.get('OMP_NUM_THREADS', 'all')}")
    print(f"{'':10}{'samples':>9}{'wall s':>9}{'cpu s':>9}{'peak MB':>10}")
    for side in sides:
        f = figures[side]
        print(f"{side:10}{counts[int(side in OURS)]:9}{f['wall']:9.1f}{f['cpu']:9.1f}{f['peak_MB']:10.0f}")
    for side in sides[2:]:
        for mine in OURS:
            wall, cpu = (figures[side][key] / figures[mine][key] for key in ("wall", "cpu"))
            print(f"{side} over {mine}: {wall:.1f} in wall time, {cpu:.1f} in CPU time")
    common = min(counts)
    print("largest difference from ours, in units of the largest value")
    for i, exact in enumerate(curves["ours"]):
        told = [f"layer {i // 2} {('before', 'after')[i % 2]:6}"]
        for side in sides[1:]:
            a, k = curves[side][i], min(curves[side][i].shape[1], exact.shape[1])
            told.append(f"{side} {np.abs(a[:common, :k] - exact[:common, :k]).max() / exact[:common].max():.1e}")
        print("  ".join(told))


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[1]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}


if __name__ == "__main__":
    main()
