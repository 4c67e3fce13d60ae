"""First layers that are convolutions: kernels found, none false, what it costs.

    python benchmarks/convolutions.py [first seed] [seeds] [case ...]

Random kernels behind which there is a random linear layer, maximum pooling, or further layers; the last bits of every
answer are flipped at random, as another processor would. `cifar` needs the file that UNVEIL_DATA points to.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

import unveil as uv

# Picture, kernels, their size, stride, padding, what lies behind, precision.
CASES = {
    "12 x 12, 4 of 3 x 3": ((1, 12, 12), 4, 3, 1, 0, "linear", torch.float64),
    "28 x 28, 8 of 5 x 5": ((1, 28, 28), 8, 5, 1, 0, "linear", torch.float64),
    "28 x 28, 8 of 5 x 5, stride 2": ((1, 28, 28), 8, 5, 2, 0, "linear", torch.float64),
    "32 x 32 x 3, 16 of 3 x 3": ((3, 32, 32), 16, 3, 1, 1, "linear", torch.float64),
    "16 x 16, 6 of 3 x 3, maximum pooling 2": ((1, 16, 16), 6, 3, 1, 0, "pool", torch.float64),
    "16 x 16, 6 of 3 x 3, convolution and two layers": ((1, 16, 16), 6, 3, 1, 0, "deep", torch.float64),
    "28 x 28, 8 of 5 x 5, stride 2, float32": ((1, 28, 28), 8, 5, 2, 0, "linear", torch.float32),
}


def victim(shape, count, size, stride, padding, behind, dtype, seed):
    """A model, and its kernels of length 1 with their biases."""
    torch.manual_seed(seed)
    first = torch.nn.Conv2d(shape[0], count, size, stride=stride, padding=padding)
    torch.nn.init.normal_(first.weight)
    torch.nn.init.normal_(first.bias, std=0.2)
    layers = [first, torch.nn.ReLU()]
    if behind == "pool":
        layers.append(torch.nn.MaxPool2d(2))
    if behind == "deep":
        layers += [torch.nn.Conv2d(count, 8, 3, stride=2), torch.nn.ReLU()]
    layers.append(torch.nn.Flatten())
    width = torch.nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
    if behind == "deep":
        layers += [torch.nn.Linear(width, 32), torch.nn.ReLU()]
        width = 32
    model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 5)).to(dtype).eval()
    return model, *unit(first.weight.detach().double().numpy(), first.bias.detach().double().numpy())


def unit(weights, bias):
    length = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    return weights / length[:, None, None, None], bias / length


class OtherProcessor(torch.nn.Module):
    """A model with the last bit of each answer moved up or down at random."""

    def __init__(self, model, seed):
        super().__init__()
        self.model, self.random = model, torch.Generator().manual_seed(seed)

    def forward(self, x):
        y = self.model(x)
        up = torch.randint(0, 2, y.shape, generator=self.random) * 2.0 - 1.0
        return torch.nextafter(y, y + up.to(y.dtype))


def score(found, weights, bias):
    """True kernels found, false ones, the largest error."""
    if found is None:
        return 0, 0, 0.0
    hit, false, worst = set(), 0, 0.0
    for w, b in zip(found.weights, found.bias, strict=True):
        if w.shape != weights[0].shape:
            false += 1
            continue
        off = [
            min(max(np.abs(w - s * v).max(), abs(b - s * c)) for s in (1, -1))
            for v, c in zip(weights, bias, strict=True)
        ]
        if min(off) < 0.02 and int(np.argmin(off)) not in hit:
            hit.add(int(np.argmin(off)))
            worst = max(worst, min(off))
        else:
            false += 1
    return len(hit), false, worst


def run(name: str, case: tuple, first: int, seeds: int) -> None:
    rows = []
    for seed in range(first, first + seeds):
        model, weights, bias = victim(*case, seed)
        oracle = uv.as_oracle(OtherProcessor(model, seed).eval(), shape=case[0], noisy=True)
        cpu = time.process_time()
        found = uv.identify(oracle, uv.SharedKernels(), rng=np.random.default_rng(seed))
        hit, false, worst = score(found.kernels, weights, bias)
        right = found.kernels is not None and found.kernels.stride == (case[3],) * 2
        rows.append((hit, false, worst, found.queries, time.process_time() - cpu, right, found.outcome))
    hit, false, worst, queries, cpu, right, outcome = map(list, zip(*rows, strict=True))
    print(
        f"| {name} | {sum(h == case[1] for h in hit)} of {seeds} ({sum(hit)} of {seeds * case[1]}) | {sum(false)} | "
        f"{max(worst):.1e} | {sum(right)} | {sum(o is uv.Outcome.complete for o in outcome)} | "
        f"{np.median(queries):,.0f}, {max(queries):,} | {np.median(cpu):.1f} |",
        flush=True,
    )


def cifar(first: int, seeds: int) -> None:
    path = os.path.join(os.environ.get("UNVEIL_DATA", "data"), "onnx", "cifar_base_kw.onnx")
    truth = uv.load(path).layers[0]
    weights, bias = unit(truth.convolution.kernel, truth.bias.reshape(len(truth.convolution.kernel), -1)[:, 0])
    for seed in range(first, first + seeds):
        oracle, cpu = uv.as_oracle(path), time.process_time()
        found = uv.identify(oracle, uv.SharedKernels(), rng=np.random.default_rng(seed))
        hit, false, worst = score(found.kernels, weights, bias)
        told = found.kernels and (found.kernels.stride, found.kernels.padding, found.kernels.sightings.tolist())
        print(
            f"cifar_base_kw {seed}: {hit} of {len(weights)}, {false} false, error {worst:.1e}, {told}, "
            f"{found.queries:,} queries, {time.process_time() - cpu:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", nargs="?", type=int, default=1000, help="the first seed")
    parser.add_argument("seeds", nargs="?", type=int, default=20, help="how many")
    parser.add_argument("case", nargs="*", help="all by default")
    told = parser.parse_args()
    chosen = told.case or [*CASES, "cifar"]
    if strange := set(chosen) - {*CASES, "cifar"}:
        parser.error(f"no such case: {', '.join(sorted(strange))}; there are {', '.join(CASES)} and cifar")
    columns = "all kernels (of all) | false | largest error | stride right | whole network | queries | CPU s"
    print(f"| first layer | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    for each in chosen:
        if each != "cifar":
            run(each, CASES[each], told.first, told.seeds)
    if "cifar" in chosen:
        cifar(told.first, told.seeds)
