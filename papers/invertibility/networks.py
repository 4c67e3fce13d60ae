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
# The paper trains 100 (CIFAR-10) and 25 (MNIST) epochs; these take five minutes on one core.
EPOCHS = {"wide_cifar": 2, "thin_cifar": 2, "mlp_3500": 25, "mlp_1000": 25, "mlp_100": 25}


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
    return nn.Sequential(*parts)


def train(name: str, epochs: int | None = None, seed: int = 0, rate: float = 5e-4) -> Network:
    """Train as the paper does (RMSprop with batches of 32 on CIFAR-10, Adam with 1000 on MNIST), but shorter.

    Args:
        name: One of `NAMES`.
        epochs: How long; by default `EPOCHS`.
        seed: Of the initial weights and the order of the images.
        rate: Learning rate on CIFAR-10. The Keras example behind the paper takes 1e-4 for 100 epochs.
    """
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    picture = name in CIFAR_MAPS
    images, labels = _tensors(cifar_train() if picture else mnist_train(), picture)
    seen, truth = _tensors(cifar_test() if picture else mnist_test(), picture)
    model = module(name)
    optimiser: Any = torch.optim.RMSprop(model.parameters(), rate) if picture else torch.optim.Adam(model.parameters())
    batch = 32 if picture else 1000
    for epoch in range(epochs or EPOCHS[name]):
        began, order = time.process_time(), torch.randperm(len(images))
        for rows in order.split(batch):
            loss = torch.nn.functional.cross_entropy(model(images[rows].float() / 255), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            answers = torch.cat([model(part.float() / 255).argmax(1) for part in seen.split(500)])
        right = float((answers == truth).double().mean())
        print(f"{name} epoch {epoch + 1}: {right:.2%} of the test set, {time.process_time() - began:.0f} s", flush=True)
        network = from_torch(model, tuple(images.shape[1:]))
        folder().mkdir(parents=True, exist_ok=True)
        save(network, folder() / f"{name}.npz")
    return network


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
