"""The question the paper leaves open: do compact preimages allow less manipulation than infinite ones?

For test images of an MLP 784-1000-200-10, whose first layer has preimages of all three kinds, it measures how far
towards an image of another class one can go in [0, 1] without changing a feature of the first layer, against the kind
and the number of active neurons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.data import mnist_test
from papers.invertibility.figure_4 import KINDS
from papers.invertibility.networks import trained
from unveil import lookalike, preimage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "mlp_1000"


class Row(NamedTuple):
    """One test image: kind and active neurons of its preimage; the share of the way to a target that it allows."""

    kind: str
    active: int
    manipulation: float
    extent: float


def run(size: int = 300) -> list[Row]:
    """Measure `size` images, as many of each kind as there are, each towards the next image of another class (2-norm).

    Source: arXiv:1806.09730, end of Section 2.2.
    """
    test, network = mnist_test(), trained(NAME)
    images = test.flat()[: max(20 * size, 1000)]
    labels = test.labels[: len(images)]
    found = preimage(network, images)
    chosen: list[int] = []
    for kind in KINDS:
        chosen += [i for i, p in enumerate(found) if p.kind == kind][: size // 3]
    table = []
    for i in chosen:
        others = np.flatnonzero(labels != labels[i])
        target = images[others[np.searchsorted(others, i) % len(others)]]
        pair = lookalike(network, images[i], target, norm=2)
        extent = found[i].extent((0, 1), tries=1)
        table.append(Row(found[i].kind, int(found[i].active.sum()), pair.manipulation, extent.length))
    return table


def draw(table: list[Row]) -> Figure:
    """Both measures against the number of active neurons."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6))
    for kind, colour in KINDS.items():
        rows = [row for row in table if row.kind == kind]
        active = [row.active for row in rows]
        panels[0].plot(active, [row.manipulation for row in rows], ".", color=colour, label=kind)
        panels[1].plot(active, [row.extent for row in rows], ".", color=colour, label=kind)
    panels[0].set(xlabel="active neurons in layer 1", ylabel="share of the way to another class")
    panels[1].set(xlabel="active neurons in layer 1", ylabel="distance gone (2-norm)")
    panels[0].legend()
    figure.tight_layout()
    return figure


def tell(table: list[Row]) -> str:
    """Medians by kind, also where both kinds occur with the same number of active neurons."""
    lines = []
    zone = [row for row in table if row.kind != "point"]
    low = min((row.active for row in zone if row.kind == "compact"), default=0)
    high = max((row.active for row in zone if row.kind == "infinite"), default=0)
    for name, rows in (("all", table), (f"{low} to {high} active", [r for r in zone if low <= r.active <= high])):
        for kind in KINDS:
            here = [row for row in rows if row.kind == kind]
            if here:
                share, extent, active = (np.median([row[k] for row in here]) for k in (2, 3, 1))
                lines.append(
                    f"{name:20} {kind:9} {len(here):4} images, median {active:.0f} active: "
                    f"{share:.2%} of the way, {extent:.3f} in the 2-norm"
                )
    if len(zone) > 10:
        # Whether the kind still tells anything once the number of active neurons is known: residuals of a line.
        active = np.array([row.active for row in zone], dtype=float)
        extent = np.log10(np.maximum([row.extent for row in zone], 1e-9))
        line = np.polyfit(active, extent, 1)
        rest = extent - np.polyval(line, active)
        compact = np.array([row.kind == "compact" for row in zone])
        lines.append(
            f"log10 of the distance falls by {-100 * line[0]:.2f} per 100 active neurons "
            f"(correlation {np.corrcoef(active, extent)[0, 1]:.2f}); beyond that, compact ones differ by "
            f"{np.mean(rest[compact]) - np.mean(rest[~compact]):+.3f} (spread {np.std(rest):.3f})"
        )
    return "\n".join(lines)
