"""Singular values of all layers of WideCIFAR: ours beside torch.func.jacrev + svdvals, side by side in one run.

Run `python benchmarks/stability.py`: the baseline on 1 sample and ours on 4; `--full` for 3 and 50. Needs torch and
UNVEIL_DATA; a network that was never trained is made with random weights if `--untrained` is given, else trained first.
Each side runs in a process of its own, so that its peak memory is its own, and keeps what it has after each part:
`--resume` goes on after an interruption.
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
# Exact to 1e-10, and by Gram matrices alone: 1e-8 in this network at 1e-5 of the largest, the baseline in float32 1e-4.
# With --scipy also without what torch's LAPACK helps.
OURS = ("ours", "coarse", "ours_scipy", "coarse_scipy")
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "unveil", "benchmarks", "stability")
# Samples of one part: two workers start in about three seconds.
PART = {True: 25, False: 1}


def ours(network: object, x: np.ndarray, fine: bool) -> list[np.ndarray]:
    """Curves before and after each activation, in float64; to 1e-10, or by Gram matrices alone."""
    from unveil.executor import workers
    from unveil.whitebox.stability import stability

    # Samples side by side, each with one thread, on as many cores as the baseline's threads get.
    with workers(min(_threads(), len(x))) as executor:
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


def run(side: str, samples: int, untrained: bool, chunk: int) -> None:
    """One side, in this process; after each part its figures and curves are written."""
    from papers.invertibility import networks
    from unveil import from_torch

    if untrained:
        import torch

        torch.manual_seed(0)
        network = from_torch(networks.module(NAME), (3, 32, 32))
    else:
        network = networks.trained(NAME)
    mine = side in OURS
    figures, curves = kept(side)
    for start in range(figures["samples"], samples, PART[mine]):
        x = networks.test_images(NAME, samples)[start : start + PART[mine]]
        wall, cpu = time.perf_counter(), _cpu()
        made = ours(network, x, side.startswith("ours")) if mine else theirs(network, x, chunk, side == "jacrev64")
        curves = [np.concatenate(pair) for pair in zip(curves, made, strict=True)] if curves else made
        together = min(_threads(), len(x)) if mine else 1
        usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        figures = {
            "samples": start + len(x),
            "wall": figures["wall"] + time.perf_counter() - wall,
            "cpu": figures["cpu"] + _cpu() - cpu,
            # Of this process, and of the largest worker times their number.
            "peak_MB": max(figures["peak_MB"], (usage[0] + (together * usage[1] if together > 1 else 0)) / 1024),
        }
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.savez(FOLDER / f"{side}.npz", *curves)
        (FOLDER / f"{side}.json").write_text(json.dumps(figures))
        told = ", ".join(f"{figures[key] / figures['samples']:.1f} s of {key}" for key in ("wall", "cpu"))
        print(f"{side}: {figures['samples']} of {samples} samples, {told} each", file=sys.stderr, flush=True)


def kept(side: str) -> tuple[dict[str, float], list[np.ndarray]]:
    """Figures and curves of what was done of a side."""
    if not (FOLDER / f"{side}.json").is_file():
        return {"samples": 0, "wall": 0.0, "cpu": 0.0, "peak_MB": 0.0}, []
    with np.load(FOLDER / f"{side}.npz") as arrays:
        return json.loads((FOLDER / f"{side}.json").read_text()), [arrays[key] for key in arrays.files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the baseline on 3 samples, ours on 50")
    parser.add_argument("--samples", type=int, nargs=2, metavar=("BASELINE", "OURS"))
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--double", action="store_true", help="the baseline in float64 too: as exact as ours")
    parser.add_argument("--scipy", action="store_true", help="ours also without torch's LAPACK")
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted run had done")
    parser.add_argument("--chunk", type=int, default=256, help="rows per backward pass of the baseline")
    parser.add_argument("--side", choices=(*OURS, "jacrev", "jacrev64"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = given.samples or ((3, 50) if given.full else (1, 4))
    if given.side:
        run(given.side, counts[int(given.side in OURS)], given.untrained, given.chunk)
        return
    sides = ["ours", "coarse", *OURS[2:][: 2 * given.scipy], "jacrev", *["jacrev64"] * given.double]
    try:
        for side in sides:
            if not given.resume:
                (FOLDER / f"{side}.json").unlink(missing_ok=True)
            command = [sys.executable, __file__, "--side", side, "--chunk", str(given.chunk)]
            command += ["--samples", *map(str, counts)] + ["--untrained"] * given.untrained
            subprocess.run(command, check=True, env=_environment(side))
    except (KeyboardInterrupt, subprocess.CalledProcessError) as error:
        print(f"ended early ({type(error).__name__}); --resume goes on", file=sys.stderr)
    tell({side: kept(side) for side in sides if kept(side)[1]})


def tell(done: dict[str, tuple[dict[str, float], list[np.ndarray]]]) -> None:
    """The table, the ratios and the differences of what was done."""
    print(f"{NAME}: singular values of every layer, before and after each activation, per sample")
    print(f"threads: {os.environ.get('OMP_NUM_THREADS', 'all')}")
    print(f"{'':14}{'samples':>9}{'wall s':>9}{'cpu s':>9}{'peak MB':>10}")
    each = {side: {key: f[key] / f["samples"] for key in ("wall", "cpu")} for side, (f, _) in done.items()}
    for side, (f, _) in done.items():
        print(f"{side:14}{f['samples']:9}{each[side]['wall']:9.1f}{each[side]['cpu']:9.1f}{f['peak_MB']:10.0f}")
    for side in [side for side in done if side not in OURS]:
        for mine in [side for side in done if side in OURS]:
            wall, cpu = (each[side][key] / each[mine][key] for key in ("wall", "cpu"))
            print(f"{side} over {mine}: {wall:.1f} in wall time, {cpu:.1f} in CPU time")
    if "ours" not in done:
        return
    exact = done["ours"][1]
    print(
        "largest difference from ours: in units of the largest value; relatively, of values above 1e-5 of the largest"
    )
    for i, true in enumerate(exact):
        told = [f"layer {i // 2} {('before', 'after')[i % 2]:6}"]
        for side in list(done)[1:]:
            other = done[side][1][i]
            n, k = min(len(other), len(true)), min(other.shape[1], true.shape[1])
            gap = np.abs(other[:n, :k] - true[:n, :k]) / true[:n, :1]
            share = true[:n, :k] / true[:n, :1]
            told.append(f"{side} {gap.max():.1e} {(gap / np.maximum(share, 1e-300))[share > 1e-5].max():.1e}")
        print("  ".join(told))


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def _cpu() -> float:
    """CPU seconds of this process and of its finished workers."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


def _environment(side: str) -> dict[str, str]:
    root = Path(__file__).parents[1]
    lapack = {"UNVEIL_LAPACK": "scipy"} if side.endswith("_scipy") else {}
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])} | lapack


if __name__ == "__main__":
    main()
