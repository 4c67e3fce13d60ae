"""Figure 4: how many test images have a point, compact or infinite preimage, against the number of active neurons."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from papers.invertibility.networks import test_images, trained
from unveil import preimages
from unveil.executor import workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = ("mlp_3500", "mlp_1000")
KINDS = {"infinite": "tab:red", "compact": "tab:blue", "point": "tab:green"}

# One row per image: name of the network, active neurons of the first layer, kind, whether the certificate holds.
Row = tuple[str, int, str, bool]


def run(size: int = 10_000, jobs: int | None = None) -> list[Row]:
    """Decide the kind of the first layer's preimage for the first `size` images of t10k, for both networks."""
    table: list[Row] = []
    for name in NETWORKS:
        began = time.perf_counter()
        with workers(jobs) as executor:
            found = preimages(trained(name), test_images(name, size), executor=executor)
            table += [(name, int(p.active.sum()), p.kind, p.certified) for p in found]
        print(f"{name}: {size} images in {time.perf_counter() - began:.0f} s")
    return table


def ranges(table: list[Row]) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    """For each network and kind: how many images, certified ones among them, fewest and most active neurons."""
    out = {}
    for name in NETWORKS:
        for kind in KINDS:
            rows = [row for row in table if row[0] == name and row[2] == kind]
            active = [row[1] for row in rows]
            if rows:
                out[name, kind] = (len(rows), sum(row[3] for row in rows), min(active), max(active))
    return out


def tell(table: list[Row]) -> str:
    """Counts and ranges."""
    lines = []
    for (name, kind), (count, certified, fewest, most) in ranges(table).items():
        lines.append(f"{name:9} {kind:9} {count:6} images ({certified} certified), {fewest} to {most} active neurons")
    return "\n".join(lines)


def draw(table: list[Row]) -> Figure:
    """Counts in bins of active neurons, one panel per network."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(NETWORKS), figsize=(11, 3.6))
    for panel, name in zip(panels, NETWORKS, strict=True):
        active = np.array([row[1] for row in table if row[0] == name])
        kinds = np.array([row[2] for row in table if row[0] == name])
        bins = np.histogram_bin_edges(active, 50)
        for kind, colour in KINDS.items():
            if (kinds == kind).any():
                panel.hist(active[kinds == kind], bins, histtype="step", color=colour, label=kind)
        panel.axvline(784, color="grey", linestyle=":", label="784 inputs")
        panel.set(title=name, xlabel="active neurons in layer 1", ylabel="test images")
        panel.legend()
    figure.tight_layout()
    return figure
