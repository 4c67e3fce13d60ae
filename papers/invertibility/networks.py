"""The paper's four networks (appendix A4) and a narrower one for Figure 4, trained here and kept in a cache folder.

Run `python -m papers.invertibility.networks wide_cifar`: it trains with torch and writes
`~/.cache/unveil/networks/wide_cifar.npz`.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from papers.data import Images, cifar_first, cifar_test, cifar_train, mnist_test, mnist_train
from unveil import Network, from_torch, load, save

if TYPE_CHECKING:
    from torch import nn

# Feature maps of the six 3x3 convolutions; the second and the last have stride 2. Then dense 512 and softmax 10.
CIFAR_MAPS = {"wide_cifar": (32, 64, 64, 32, 32, 64), "thin_cifar": (32, 32, 16, 16, 16, 32)}
DENSE = {"mlp_3500": (784, 3500, 784, 10), "mlp_1000": (784, 1000, 200, 10), "mlp_100": (784, *[100] * 10, 10)}
NAMES = (*CIFAR_MAPS, *DENSE)
# The paper trains 100 (CIFAR-10) and 25 (MNIST) epochs. On CIFAR-10 these take 14 minutes of one core for either
# network; accuracy on the test set stands still by then, while the loss on the training set goes on falling.
EPOCHS = {"wide_cifar": 19, "thin_cifar": 33, "mlp_3500": 25, "mlp_1000": 25, "mlp_100": 25}
TOLD_EVERY = 10
"""Epochs between two looks at the test set."""


def folder() -> Path:
    """Where trained networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "unveil", "networks")


def trained(name: str) -> Network:
    """The network called `name`, trained now if it never was."""
    path = folder() / f"{name}.npz"
    if not path.is_file():
        train(name)
    return load(path)


def test_images(name: str, count: int) -> np.ndarray:
    """Test inputs (count, n) in [0, 1]; of CIFAR-10 the first 100, which are exact."""
    return (cifar_first() if name in CIFAR_MAPS else mnist_test()).flat()[:count]


def module(name: str) -> nn.Sequential:
    """The untrained network; logits, without the softmax."""
    from torch import nn

    parts: list[nn.Module] = []
    if name in DENSE:
        widths = DENSE[name]
        for wide, narrow in pairwise(widths):
            parts += [nn.Linear(wide, narrow), nn.ReLU()]
        return nn.Sequential(*parts[:-1])
    maps = CIFAR_MAPS[name]
    for i, (one, other) in enumerate(zip((3, *maps), maps, strict=False)):
        parts += [nn.Conv2d(one, other, 3, stride=2 if i in (1, 5) else 1, padding=1), nn.ReLU()]
    parts += [nn.Flatten(), nn.Linear(maps[-1] * 64, 512), nn.ReLU(), nn.Linear(512, 10)]
    for part in parts:
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            # The paper's framework begins so; torch's own beginning is smaller, and the spectra remember it.
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    return nn.Sequential(*parts)


def train(name: str, epochs: int | None = None, seed: int = 0) -> Network:
    """Train as the paper does: RMSprop with batches of 32 on CIFAR-10, Adam with 1000 on MNIST.

    The Keras example that the paper names for CIFAR-10 takes a rate of 1e-4, and its framework a memory of 0.9. There
    the products are made in bfloat16, and added up and kept in float32, which takes half the time on processors that
    know both. The network is kept after each epoch, so that a run that ends early is a shorter one.

    Args:
        name: One of `NAMES`.
        epochs: How long; by default `EPOCHS`.
        seed: Of the initial weights and the order of the images.
    """
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    picture = name in CIFAR_MAPS
    images, labels = _tensors(cifar_train() if picture else mnist_train(), picture)
    model = module(name)
    optimiser: Any = torch.optim.Adam(model.parameters())
    if picture:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.RMSprop(model.parameters(), 1e-4, alpha=0.9, eps=1e-7, foreach=True)
    batch, epochs, spent = 32 if picture else 1000, epochs or EPOCHS[name], 0.0
    for epoch in range(1, epochs + 1):
        began, order, total = time.process_time(), torch.randperm(len(images)), 0.0
        for rows in order.split(batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=picture):
                answers = model(_seen(images[rows]))
            loss = torch.nn.functional.cross_entropy(answers.float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(rows)
        spent += time.process_time() - began
        network = from_torch(model, tuple(images.shape[1:]))
        folder().mkdir(parents=True, exist_ok=True)
        save(network, folder() / f"{name}.npz")
        told = f"{name} epoch {epoch}: loss {total / len(images):.4f}, {spent:.0f} s of CPU so far"
        if epoch == epochs or epoch % TOLD_EVERY == 0:
            told += f", {accuracy(model, name):.2%} of the test set"
        print(told, flush=True)
    return network


def accuracy(model: nn.Sequential, name: str) -> float:
    """The share of the test set that is classified rightly, in float32."""
    import torch

    picture = name in CIFAR_MAPS
    images, labels = _tensors(cifar_test() if picture else mnist_test(), picture)
    with torch.no_grad():
        answers = torch.cat([model(_seen(part)).argmax(1) for part in images.split(500)])
    return float((answers == labels).double().mean())


def _seen(images: Any) -> Any:
    """As the network sees them: in [0, 1]; a picture's colours beside each other in memory, which is faster."""
    import torch

    return (images.float() / 255).contiguous(
        memory_format=torch.channels_last if images.dim() == 4 else torch.contiguous_format
    )


def _tensors(given: Images, picture: bool) -> tuple[Any, Any]:
    import torch

    images = torch.from_numpy(np.array(given.images))
    return images if picture else images.flatten(1), torch.from_numpy(given.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="+", choices=NAMES)
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    for name in given.name:
        train(name, given.epochs)


if __name__ == "__main__":
    main()
