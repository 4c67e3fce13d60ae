"""What the wire, the store and the workers cost: python benchmarks/wire.py [--full]."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)

import unveil as uv  # noqa: E402
from unveil.blackbox.source_oracle import SourceOracle  # noqa: E402
from unveil.blackbox.sources.callable import CallableSource  # noqa: E402
from unveil.blackbox.store import StoredSource  # noqa: E402

SERVER = """
import sys, time
from tests.served import serve
with serve(n=int(sys.argv[1]), model=lambda x: x[:, :10] * 2.0, extensions=sys.argv[2:], remember=False) as served:
    print(served.url, flush=True)
    time.sleep(3600)
"""


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def store(answers: int) -> None:
    print(f"\nStore: {answers:,} answers in batches of 1,000, each hashed, kept in one transaction and given back")
    print(f"{'n':>5} {'m':>3} {'dtype':>8} {'written/s':>10} {'per CPU s':>10} {'read/s':>10} {'bytes/answer':>13}")
    for n, m, dtype in ((20, 1, "float64"), (784, 1, "float64"), (784, 10, "float32"), (784, 10, "float64")):
        x = np.random.default_rng(0).standard_normal((1000, n))

        def model(x: np.ndarray, m: int = m, dtype: str = dtype) -> np.ndarray:
            return x[:, :m].astype(dtype)

        with tempfile.TemporaryDirectory() as folder:

            def run(n: int = n, m: int = m, folder: str = folder, x: np.ndarray = x) -> StoredSource:
                source = StoredSource(CallableSource(model, (n,)), Path(folder) / "a")
                oracle = SourceOracle(source, m=m)
                for k in range(answers // 1000):
                    oracle(x + k)
                return source

            wall, cpu = clocked(run)
            read, _ = clocked(run)
            run().memory.file.close()
            size = (Path(folder) / "a").stat().st_size / answers
        rates = [f"{answers / seconds:10,.0f}" for seconds in (wall, cpu, read)]
        print(f"{n:5} {m:3} {dtype:>8} {' '.join(rates)} {size:13.1f}")


@contextlib.contextmanager
def server(n: int, *extensions: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(n), *extensions],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def http(questions: int) -> None:
    print(f"\nHTTP: {questions:,} questions, 256 a request, 4 connections, to a plain Python server on this machine")
    print(f"{'n':>5} {'tensors':>8} {'questions/s':>12} {'per client CPU s':>17}")
    for n in (64, 784):
        x = np.random.default_rng(0).standard_normal((1024, n))
        for extensions in ((), ("binary_tensor_data",)):
            with server(n, *extensions) as url:
                source = uv.HttpSource(url)

                def run(source: uv.HttpSource = source, x: np.ndarray = x) -> None:
                    for _ in range(questions // len(x)):
                        source.answer(x)

                wall, cpu = clocked(run)
            done = questions // len(x) * len(x)
            print(f"{n:5} {'bytes' if extensions else 'JSON':>8} {done / wall:12,.0f} {done / cpu:17,.0f}")


def nothing(part: int) -> int:
    return part


@contextlib.contextmanager
def dask() -> Iterator[str]:
    import distributed

    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
    with cluster:
        yield cluster.scheduler_address


def tasks(count: int) -> None:
    print(f"\nHanding out {count:,} empty tasks (after a first round that starts the workers)")
    print(f"{'workers':>18} {'ms a task':>10}")

    def measure(name: str, executor: Executor) -> None:
        with executor:
            uv.spread(nothing, range(20), executor)
            wall, _ = clocked(lambda: uv.spread(nothing, range(count), executor))
        print(f"{name:>18} {1e3 * wall / count:10.2f}")

    measure("this process", uv.workers(1))
    measure("2 processes", uv.workers(2))
    with contextlib.suppress(ImportError), dask() as address:
        measure("2 Dask workers", uv.workers(cluster=address))


def decisions(count: int) -> None:
    print(f"\nPreimage decisions, {count:,} inputs, ReLU layers with standard normal weights")
    print(
        f"{'n':>5} {'m':>5} {'points':>7} {'compact':>8} {'infinite':>9} {'CPU ms each':>12} {'a million, CPU h':>17}"
    )
    rng = np.random.default_rng(0)
    for n, m in ((20, 60), (100, 150), (100, 400), (784, 256)):
        network = uv.Network.from_weights([(rng.standard_normal((m, n)), rng.standard_normal(m))], last="relu")
        x = rng.standard_normal((count, n))
        found: list[uv.Preimage] = []
        _, cpu = clocked(lambda: found.extend(uv.preimages(network, x)))  # noqa: B023
        kinds = [sum(p.kind == kind for p in found) for kind in ("point", "compact", "infinite")]
        cost = f"{1e3 * cpu / count:12.2f} {cpu / count * 1e6 / 3600:17.2f}"
        print(f"{n:5} {m:5} {kinds[0]:7} {kinds[1]:8} {kinds[2]:9} {cost}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="ten times as much of everything")
    parser.add_argument("--only", choices=["store", "http", "tasks", "decisions"])
    given = parser.parse_args()
    times = 10 if given.full else 1
    for part, size in ((store, 100_000), (http, 8_192), (tasks, 1_000), (decisions, 512)):
        if given.only in (None, part.__name__):
            part(size * times)


if __name__ == "__main__":
    main()
