"""Train examples/digits.onnx: ReLU 784-80-40-30-20-10 on MNIST, the full-width network of the paper's Figures 2 and 3.

Run `python -m papers.span_recovery.train_digits`: about two minutes on one core; needs torch. Same seed, same file.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from papers.data import mnist_test, mnist_train

WIDTHS = (784, 80, 40, 30, 20, 10)
EXAMPLES = Path(__file__).parents[2] / "examples"


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn (up to 12 degrees), stretch and shear (up to 12 %) and shift (up to 2 pixels) each image, (N, 1, 28, 28)."""
    count = len(images)

    def draw(reach: float) -> torch.Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * reach

    angle = draw(math.radians(12))
    wide, high, shear = 1 + draw(0.12), 1 + draw(0.12), draw(0.12)
    cosine, sine = angle.cos(), angle.sin()
    across = torch.stack([cosine * wide, -sine + shear, draw(2 * 2 / 28)], dim=1)
    down = torch.stack([sine, cosine * high, draw(2 * 2 / 28)], dim=1)
    grid = torch.nn.functional.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def train(seed: int, epochs: int) -> torch.nn.Sequential:
    """Cross-entropy by AdamW with a one-cycle rate; the average of the last weights is what is kept."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    given = mnist_train()
    images = torch.from_numpy(given.images.astype(np.float32) / 255)[:, None]
    labels = torch.from_numpy(given.labels)
    model = dense(WIDTHS)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=2e-2)
    batch = 128
    steps = epochs * (len(images) // batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.15)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        seen = augment(images[order], generator).flatten(1)
        for i in range(len(images) // batch):
            rows = slice(i * batch, (i + 1) * batch)
            loss = torch.nn.functional.cross_entropy(model(seen[rows]), labels[order[rows]], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            average.update_parameters(model)
    kept = average.module
    assert isinstance(kept, torch.nn.Sequential)
    return kept.eval()


def dense(widths: tuple[int, ...]) -> torch.nn.Sequential:
    """Affine layers with ReLU between them, none after the last."""
    parts: list[torch.nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        parts += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1])


def write_onnx(model: torch.nn.Sequential, path: Path) -> None:
    """Gemm and Relu nodes, float32, any batch size; written by hand so that no exporter's version is in the bytes."""
    nodes, weights, name = [], [], "image"
    affine = [part for part in model if isinstance(part, torch.nn.Linear)]
    for i, layer in enumerate(affine):
        last = i == len(affine) - 1
        out = "logits" if last else f"sum{i}"
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [out], transB=1))
        weights.append(numpy_helper.from_array(layer.weight.detach().numpy(), f"W{i}"))
        weights.append(numpy_helper.from_array(layer.bias.detach().numpy(), f"b{i}"))
        if not last:
            name = f"layer{i}"
            nodes.append(helper.make_node("Relu", [out], [name]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", WIDTHS[0]])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", WIDTHS[-1]])
    graph = helper.make_graph(nodes, "digits", [image], [logits], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="unveil")
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())


def write_images(path: Path, per_class: int = 4) -> None:
    """The first `per_class` test images of every digit, in [0, 1], with their labels."""
    test = mnist_test()
    rows = np.concatenate([np.flatnonzero(test.labels == digit)[:per_class] for digit in range(10)])
    pixels = test.images[rows].astype(np.float32) / np.float32(255)
    np.savez_compressed(path, images=pixels.reshape(len(rows), -1), labels=test.labels[rows])


def accuracy(path: Path) -> float:
    """Share of t10k that the file gets right, in onnxruntime."""
    import onnxruntime

    test = mnist_test()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": test.flat().astype(np.float32)})
    return float((np.asarray(logits).argmax(axis=1) == test.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--out", type=Path, default=EXAMPLES)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    write_onnx(train(given.seed, given.epochs), given.out / "digits.onnx")
    write_images(given.out / "digits.npz")
    right = accuracy(given.out / "digits.onnx")
    size = (given.out / "digits.onnx").stat().st_size
    print(f"seed {given.seed}, {given.epochs} epochs, {time.process_time() - began:.0f} s of CPU")
    print(f"digits.onnx: {size:,} bytes, {right:.2%} of t10k")


if __name__ == "__main__":
    main()
