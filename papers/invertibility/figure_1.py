"""Figures 1 and 11: images that look like another class, with exactly the first layer's features of their own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.data import mnist_test, network
from papers.invertibility.networks import trained
from unveil import Network, Oracle, as_oracle, load, lookalike

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    """One pair: whose features, what it looks like, how near it came, and what the model says."""

    name: str
    active: int
    x: np.ndarray
    z: np.ndarray
    target: np.ndarray
    distance: float
    start: float
    difference: float
    predictions: tuple[int, int, int]
    seconds: float


def models() -> dict[str, tuple[Network, Oracle]]:
    """The paper's network of Figure 1 (ten layers of 100), and one that nobody here trained, asked in onnxruntime."""
    own = trained("mlp_100")
    path = network("mnist-net_256x2.onnx")
    return {
        "mlp_100": (own, as_oracle(own.logits, shape=own.shape, within=(0, 1))),
        "mnist-net_256x2": (load(path), as_oracle(str(path), within=(0, 1))),
    }


def run(size: int = 8) -> list[Row]:
    """The `size` test images with the fewest active neurons, each towards an image of the next class (A7, 1-norm)."""
    test = mnist_test()
    images, table = test.flat(), []
    for name, (known, oracle) in models().items():
        active = (known.preactivations(images)[0] > 0).sum(axis=1)
        for number, i in enumerate(np.argsort(active, kind="stable")[:size]):
            others = np.flatnonzero(test.labels == (test.labels[i] + 1 + number) % 10)
            target = images[others[number] if test.labels[others[0]] != test.labels[i] else (i + 1) % len(images)]
            began = time.process_time()
            found = lookalike(known, images[i], target)
            seconds = time.process_time() - began
            answer = found.check(lambda x, oracle=oracle: oracle(oracle.nearest(x)))  # type: ignore[misc]
            table.append(
                Row(
                    name, int(active[i]), images[i], found.z, target, found.distance, found.start,
                    answer.difference, answer.predictions, seconds,
                )
            )  # fmt: skip
    return table


def tell(table: list[Row]) -> str:
    """One line for each pair."""
    lines = []
    for row in table:
        x, z, target = row.predictions
        lines.append(
            f"{row.name:16} {row.active:3} active  1-norm {row.start:6.1f} -> {row.distance:6.1f}  "
            f"says {x}, lookalike {z}, target {target}  logits differ by {row.difference:.1e}  {row.seconds:.2f} s"
        )
    return "\n".join(lines)


def draw(table: list[Row]) -> Figure:
    """Three rows of pictures per network: the original, the lookalike, the target."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.name for row in table))
    most = max(sum(row.name == name for row in table) for name in names)
    figure, panels = plt.subplots(3 * len(names), most, figsize=(1.2 * most, 3.9 * len(names)), squeeze=False)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for block, name in enumerate(names):
        for column, row in enumerate(row for row in table if row.name == name):
            for line, picture in enumerate((row.x, row.z, row.target)):
                panel = panels[3 * block + line, column]
                panel.imshow(picture.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
                panel.set_title(f"says {row.predictions[line]}", fontsize=8)
        for line, what in enumerate((f"{name}: x", "lookalike", "target")):
            panels[3 * block + line, 0].set_ylabel(what, fontsize=8)
    figure.tight_layout()
    return figure
