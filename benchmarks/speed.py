"""How fast: the library's own CPU time beside that of the bare model, and whole readings, in one run on one thread.

    python benchmarks/speed.py                 every row, about five minutes
    python benchmarks/speed.py span identify   these parts: start, span, sources, elimination, identify, labels,
                                               preimage, lookalike, audit
    python benchmarks/speed.py --markdown      the table as benchmarks/RESULTS.md has it

"own" is CPU time outside the model; "bare" the model's own, of the same questions in the same run. The second of two
runs counts, as a first one pays for imports. Imports and commands are timed in processes of their own. Sources,
networks and lookalikes too, imports aside, each with at most MOST CPU seconds; the memory told is theirs alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

import unveil as uv

ROOT = Path(__file__).parent.parent
Row = tuple[str, str, str]
Net = Callable[[np.ndarray], np.ndarray]
MOST = 400
"""CPU seconds of a row that has a process of its own."""
NETWORKS = (
    (784, 512, 10), (784, 128, 64, 10), (3072, 256, 10), (3072, 320, 10), (784, 1024, 10), (784, 256, 256, 10),
)  # fmt: skip


class Bare:
    """A model that adds up the CPU seconds spent inside it."""

    def __init__(self, net: Callable[..., Any]) -> None:
        self.net, self.seconds = net, 0.0

    def __call__(self, *x: Any) -> Any:
        start = time.process_time()
        y = self.net(*x)
        self.seconds += time.process_time() - start
        return y


def weights(sizes: tuple[int, ...], seed: int = 3, bias: float = 0.3) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((k, n)) / np.sqrt(n), bias * rng.standard_normal(k)) for n, k in pairwise(sizes)]


def relu(layers: list[tuple[np.ndarray, np.ndarray]], dtype: type = np.float64) -> Net:
    held = [(w.astype(dtype), b.astype(dtype)) for w, b in layers]

    def net(x: np.ndarray) -> np.ndarray:
        h = x.astype(dtype, copy=False)
        for w, b in held[:-1]:
            h = np.maximum(h @ w.T + b, 0)
        return np.asarray(h @ held[-1][0].T + held[-1][1])

    return net


def _limited(work: Callable[..., Row], *given: Any) -> Row:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST, MOST))
    return work(*given)


def alone(name: str, work: Callable[..., Row], *given: Any) -> Row:
    """A row from a process of its own, which ends after MOST CPU seconds."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(_limited, work, *given).result()
        except BrokenProcessPool:
            return name, f"not ended in {MOST} s", ""


def memory() -> float:
    """MB that this process has had at the most; its `ru_maxrss` begins with what the one that started it had."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def span() -> Iterator[Row]:
    sizes = (784, 80, 40, 30, 20, 10, 1)
    for name, dtype in (("float64", np.float64), ("float32", np.float32)):
        bare = Bare(relu(weights(sizes, bias=0.1), dtype))
        for _ in range(2):
            bare.seconds, start = 0.0, time.process_time()
            last = uv.row_span(uv.as_oracle(bare, sizes[0]), rng=np.random.default_rng(0))
            own = time.process_time() - start - bare.seconds
        yield (
            f"row_span {'-'.join(map(str, sizes))}, {name}",
            f"own {own:.2f} s over bare {bare.seconds:.2f} s: {own / bare.seconds:.2f}",
            f"{last.outcome.name}, rank {last.rank}, {last.queries:,} questions",
        )
    for n in (1_000, 4_000, 16_000):
        bare = Bare(relu(weights((n, 20, 20), bias=0.1)))
        start = time.process_time()
        last = uv.row_span(uv.as_oracle(bare, n), rng=np.random.default_rng(0))
        total = time.process_time() - start
        yield (
            f"row_span {n}-20-20, float64",
            f"{total:.2f} s, of them bare {bare.seconds:.2f} s",
            f"{last.queries:,} questions, {last.queries / (last.rank * (n - last.rank)):.2f} a number of the span",
        )


def sources() -> Iterator[Row]:
    """The same beside the session or the module alone: of float32, an ONNX file in a box and a torch module."""
    for name, work in (("examples/digits.onnx", onnx_file), ("torch 784-80-40-10", torch_module)):
        yield alone(f"row_span {name}, float32", work, name)


def onnx_file(name: str) -> Row:
    held = uv.as_oracle(ROOT / "examples" / "digits.onnx", within=(0, 1))
    session = held.source.session  # type: ignore[attr-defined]
    timed = Bare(session.run)
    held.source.session = type("Timed", (), {"run": lambda self, *given: timed(*given)})()  # type: ignore[attr-defined]
    digits = np.load(ROOT / "examples" / "digits.npz")["images"].reshape(-1, held.n).astype(np.float64)
    return _source(name, held, timed, digits)


def torch_module(name: str) -> Row:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(3)
    layers = [torch.nn.Linear(w.shape[1], w.shape[0]) for w, _ in weights((784, 80, 40, 10))]
    module = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    inside = Bare(module.forward)
    module.forward = inside
    return _source(name, uv.as_oracle(module), inside, None)


def _source(name: str, oracle: uv.Oracle, bare: Bare, x: np.ndarray | None) -> Row:
    for _ in range(2):
        before, bare.seconds, start = oracle.ledger.asked, 0.0, time.process_time()
        last = uv.row_span(oracle, rng=np.random.default_rng(0), x=x)
        own = time.process_time() - start - bare.seconds
    return (
        f"row_span {name}, float32",
        f"own {own:.2f} s over bare {bare.seconds:.2f} s: {own / bare.seconds:.2f}",
        f"{last.outcome.name}, rank {last.rank}, {oracle.ledger.asked - before:,} questions",
    )


def identify() -> Iterator[Row]:
    for sizes in NETWORKS:
        yield alone(f"identify {'-'.join(map(str, sizes))}, float64", network, sizes)


def network(sizes: tuple[int, ...]) -> Row:
    # A small one first, as imports have rows of their own.
    uv.identify(uv.as_oracle(relu(weights((5, 4, 3, 2))), 5), rng=np.random.default_rng(0))
    truth = weights(sizes)
    bare = Bare(relu(truth))
    oracle = uv.as_oracle(bare, sizes[0])
    start = time.process_time()
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    total = time.process_time() - start
    numbers = sum(w.size + b.size for w, b in truth)
    return (
        f"identify {'-'.join(map(str, sizes))}, float64",
        f"{total:.1f} s, of them bare {bare.seconds:.1f} s",
        f"{found.outcome.name}, {found.queries / numbers:.3f} questions a parameter, {memory():,.0f} MB at most",
    )


def elimination() -> Iterator[Row]:
    """Full rank from one point: the gradients of as many outputs as inputs."""
    from unveil.blackbox.span_search.known import Known

    for n in (1024, 3072):
        gradients = np.random.default_rng(0).standard_normal((n, n))
        start = time.process_time()
        known = Known.nothing(n).with_gradients(gradients, 1e-12, 1e-9)
        seconds = time.process_time() - start
        yield (
            f"gradients of {n:,} outputs eliminated",
            f"{seconds:.2f} s, {1e3 * seconds / n:.2f} ms a row",
            (f"rank {known.rank:,}"),
        )


def lookalike() -> Iterator[Row]:
    """Of the paper's ThinCIFAR (3 x 32 x 32 inputs) with random weights."""
    for layer in (0, 2):
        yield alone(f"lookalike on ThinCIFAR after layer {layer}", lookalike_after, layer)


def lookalike_after(layer: int) -> Row:
    import torch

    sys.path.insert(0, str(ROOT))
    from papers.invertibility.networks import module

    torch.manual_seed(0)
    torch.set_num_threads(1)
    thin = uv.from_torch(module("thin_cifar"), (3, 32, 32))
    x, target = np.random.default_rng(0).uniform(size=(2, thin.n))
    start = time.process_time()
    found = uv.lookalike(thin, x, target, layer=layer, norm=2)
    return (
        f"lookalike on ThinCIFAR after layer {layer}",
        f"{time.process_time() - start:.1f} s",
        f"distance {found.distance:.3f}, bound {found.bound:.3f}",
    )


def labels() -> Iterator[Row]:
    rng = np.random.default_rng(1)
    rows, out = rng.standard_normal((80, 784)) / 28, rng.standard_normal((10, 80)) / 9
    bare = Bare(lambda x: (np.tanh(x @ rows.T) @ out.T).argmax(axis=1))
    start = time.process_time()
    found = uv.row_span(uv.as_oracle(bare, 784, answers="labels"), rng=np.random.default_rng(0), accuracy=1e-2)
    own = time.process_time() - start - bare.seconds
    bits = 80 * (784 - 80) * np.log2(1 / max(found.accuracy, 1e-300))
    yield (
        "row_span from labels, 784-80, tanh, 10 classes",
        f"own {own:.1f} s over bare {bare.seconds:.1f} s: {own / bare.seconds:.2f}",
        f"{found.outcome.name}, rank {found.rank}, {found.queries / bits:.2f} times one bit a question",
    )


def preimage() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for n, k in ((20, 60), (100, 150), (784, 256)):
        network = uv.Network.from_weights([(rng.standard_normal((k, n)), rng.standard_normal(k))], last="relu")
        x = rng.standard_normal((500, n))
        for _ in range(2):
            begin = time.process_time()
            uv.preimage(network, x)
            seconds = time.process_time() - begin
        yield f"preimage, {k} neurons on {n} inputs", f"{1e3 * seconds / len(x):.2f} ms each, certificate included", ""


def _process(*command: str) -> float:
    """CPU seconds of a command, the lesser of two runs; the first leaves compiled modules, as an installation does."""
    least = np.inf
    with tempfile.TemporaryDirectory() as compiled:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=False, capture_output=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(least)


def start() -> Iterator[Row]:
    bare = _process(sys.executable, "-c", "pass")
    for name, command in (
        ("import unveil", ("-c", "import unveil")),
        ("unveil --help", ("-m", "unveil", "--help")),
        ("unveil span --help", ("-m", "unveil", "span", "--help")),
    ):
        yield name, f"{_process(sys.executable, *command) - bare:.2f} s over bare Python {bare:.2f} s", ""


def audit() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        model, inputs = ROOT / "examples" / "digits.onnx", ROOT / "examples" / "digits.npz"
        command = ("-m", "unveil", "audit", str(model), "--inputs", str(inputs), "--force", "--quiet")
        seconds = _process(sys.executable, *command, "--report", f"{folder}/audit.html")
    yield "unveil audit examples/digits.onnx", f"{seconds:.1f} s, imports included", ""


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "start": start, "span": span, "sources": sources, "elimination": elimination, "identify": identify,
    "labels": labels, "preimage": preimage, "lookalike": lookalike, "audit": audit,
}  # fmt: skip


def machine() -> str:
    """Processor and BLAS kernel."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":")[1].strip() for line in told.splitlines() if line.startswith("model name")), "unknown")
    kernels = sorted({str(each.get("architecture")) for each in threadpool_info()})
    return (
        f"{name}, BLAS kernel {', '.join(kernels)}, one thread, {os.getloadavg()[0]:.1f} processes running at the end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    parser.add_argument("--markdown", action="store_true", help="as a table of Markdown")
    given = parser.parse_args()
    rows = (
        ("| work | CPU time | what came out |\n|---|---|---|", "| {} | {} | {} |")
        if given.markdown
        else ("", "{:48} {:58} {}")
    )
    if rows[0]:
        print(rows[0])
    for part in given.parts or PARTS:
        for row in PARTS[part]():
            print(rows[1].format(*row), flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
