"""How far it goes: large inputs, large ranks and large pictures, with CPU seconds and memory, one thread each.

    python benchmarks/large.py                  every row, some ten minutes
    python benchmarks/large.py inputs rank      these: inputs, rank, file, maps, residual

Each row has a process of its own, whose memory is told, and which ends after as many CPU seconds as in `speed.py`.
"bare" is the model's own time of the same questions. `file` needs UNVEIL_DATA (`onnx/cifar_base_kw.onnx`), and `rank`,
`maps` and `residual` need torch.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from speed import Bare, Row, alone, machine, memory, relu, weights

import unveil as uv


def inputs(name: str) -> Row:
    """150,000 inputs, 20 neurons, 20 outputs; the fewest questions are about k n / m."""
    n, k, m = 150_000, 20, 20
    bare = Bare(relu(weights((n, k, m), bias=0.1)))
    start = time.process_time()
    found = uv.row_span(uv.as_oracle(bare, n), rng=np.random.default_rng(0))
    total = time.process_time() - start
    return (
        name,
        f"{total:.1f} s, of them bare {bare.seconds:.1f} s, {memory():,.0f} MB",
        f"{found.outcome.name}, rank {found.rank}, {found.queries:,} questions, {found.queries * m / k / n:.2f} floors",
    )


def rank(name: str) -> Row:
    """Patches of 2 x 2 pixels of a 3 x 32 x 32 picture to 12 numbers each: every direction shows at every point."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 2, stride=2), torch.nn.Tanh()).double()
    inside = Bare(module.forward)
    module.forward = inside
    oracle = uv.as_oracle(module, (3, 32, 32))
    inside.seconds, start = 0.0, time.process_time()
    found = uv.row_span(oracle, rng=np.random.default_rng(0))
    total = time.process_time() - start
    return (
        name,
        f"{total:.1f} s, of them bare {inside.seconds:.1f} s, {memory():,.0f} MB",
        f"{found.outcome.name}, rank {found.rank:,}, {found.queries:,} questions",
    )


def file(name: str) -> Row:
    """A trained convolutional network in float32, as far as a million questions go."""
    oracle = uv.as_oracle(Path(os.environ["UNVEIL_DATA"]) / "onnx" / "cifar_base_kw.onnx", budget=1_000_000)
    session = oracle.source.session  # type: ignore[attr-defined]
    timed = Bare(session.run)
    oracle.source.session = type("Timed", (), {"run": lambda self, *given: timed(*given)})()  # type: ignore[attr-defined]
    start = time.process_time()
    found = uv.row_span(oracle, rng=np.random.default_rng(0))
    own = time.process_time() - start - timed.seconds
    return (
        name,
        f"own {own:.1f} s over bare {timed.seconds:.1f} s: {own / timed.seconds:.2f}",
        f"{found.outcome.name}, rank {found.rank:,}, {found.queries:,} questions",
    )


def maps(name: str) -> Row:
    """Singular values of all layers at one input."""
    import torch

    torch.manual_seed(0)
    parts: list[torch.nn.Module] = []
    for i, (seen, made) in enumerate(pairwise((3, 64, 64, 128, 128))):
        parts += [torch.nn.Conv2d(seen, made, 3, stride=2 if i in (1, 3) else 1, padding=1), torch.nn.ReLU()]
    network = uv.from_torch(torch.nn.Sequential(*parts), (3, 32, 32))
    x = np.random.default_rng(0).uniform(size=(1, network.n))
    start = time.process_time()
    found = uv.stability(network, x, lemma_9=False)
    total = time.process_time() - start
    return name, f"{total:.1f} s, {memory():,.0f} MB", f"ranks {[int(each.after.rank[0]) for each in found.layers]}"


def residual(name: str) -> Row:
    """A network like ResNet-18 for 3 x 64 x 64: singular values by windows, and both ends of the spectrum."""
    import torch

    torch.manual_seed(0)
    start = time.process_time()
    network = uv.from_torch(_resnet().eval(), (3, 64, 64))
    load, start = time.process_time() - start, time.process_time()
    x = np.random.default_rng(0).uniform(size=(1, network.n))
    uv.stability(network, x, lemma_9=False, window=uv.window_of(network.shape, (28, 36), (28, 36)))
    window, start = time.process_time() - start, time.process_time()
    ends = uv.extreme_singular_values(network, x[0], layer=4, count=2, rng=np.random.default_rng(0))
    extremes = time.process_time() - start
    return (
        name,
        f"load {load:.1f}, window of 8 x 8 {window:.1f}, extremes after layer 4 {extremes:.1f} s, {memory():,.0f} MB",
        f"{len(network.layers)} layers, largest {ends.largest[0]:.3f}, residual {ends.residual.max():.0e}",
    )


def _resnet() -> Any:
    from torch import nn

    class Block(nn.Module):
        def __init__(self, seen: int, made: int, stride: int) -> None:
            super().__init__()
            self.one = nn.Conv2d(seen, made, 3, stride, 1, bias=False)
            self.two = nn.Conv2d(made, made, 3, 1, 1, bias=False)
            self.norms = nn.ModuleList([nn.BatchNorm2d(made), nn.BatchNorm2d(made)])
            self.across = nn.Sequential(nn.Conv2d(seen, made, 1, stride, bias=False), nn.BatchNorm2d(made))
            if seen == made and stride == 1:
                self.across = nn.Sequential()

        def forward(self, x: Any) -> Any:
            h = nn.functional.relu(self.norms[0](self.one(x)))
            return nn.functional.relu(self.norms[1](self.two(h)) + self.across(x))

    sides = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [Block(seen, made, 1 + (seen < made)) for seen, made in pairwise(sides)]
    first = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


ROWS: dict[str, tuple[str, Callable[[str], Row]]] = {
    "inputs": ("row_span 150000-20-20, float64", inputs),
    "rank": ("row_span of a convolution, rank 3,072, float64", rank),
    "file": ("row_span cifar_base_kw.onnx, float32", file),
    "maps": ("stability, 3 x 32 x 32 with 64-64-128-128 maps", maps),
    "residual": ("stability, ResNet-18-like at 64 x 64", residual),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="by default all")
    for each in parser.parse_args().rows or ROWS:
        print("{:48} {:78} {}".format(*alone(ROWS[each][0], ROWS[each][1], ROWS[each][0])), flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
