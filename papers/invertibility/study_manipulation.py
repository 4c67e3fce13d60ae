"""The question the paper leaves open: do compact preimages allow less manipulation than infinite ones?

For test images of an MLP 784-1000-200-10, whose first layer has preimages of all three kinds, it measures how far one
can go without changing a feature of the first layer, against the kind and the number of active neurons: towards an
image of another class inside [0, 1], and along lines where pixels may also be negative (down to -1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.data import mnist_test
from papers.invertibility.figure_4 import KINDS
from papers.invertibility.networks import trained
from unveil import lookalike, preimages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "mlp_1000"


class Row(NamedTuple):
    """One test image.

    `towards`: the share of the way to an image of another class that can be gone in [0, 1] (2-norm), nan where it was
    not measured. `reach`: how far the best of 256 random lines in the preimage leads, both ways, while pixels stay
    above -1; `beyond`: the same with the certificate's direction to infinity among the lines, where there is one.
    """

    kind: str
    active: int
    towards: float
    reach: float
    beyond: float


def run(size: int = 100) -> list[Row]:
    """Measure `size` images of each kind but points, those of nearly the same number of active neurons first.

    Source: arXiv:1806.09730, end of Section 2.2.
    """
    test, network = mnist_test(), trained(NAME)
    images = test.flat()[: max(15 * size, 500)]
    found = list(preimages(network, images))
    active = np.array([int(p.active.sum()) for p in found])
    kinds = np.array([p.kind for p in found])
    table = []
    for kind, sign in (("compact", 1), ("infinite", -1)):
        rows = np.flatnonzero(kinds == kind)
        # Compact ones with few active neurons and infinite ones with many: there both kinds occur.
        rows = rows[np.argsort(sign * active[rows], kind="stable")][:size]
        for place, i in enumerate(rows):
            others = np.flatnonzero(test.labels[: len(images)] != test.labels[i])
            target = images[others[np.searchsorted(others, i) % len(others)]]
            towards = lookalike(network, images[i], target, norm=2).manipulation if place < size // 10 else np.nan
            # Both kinds are given the same lines: an infinite one's own direction to infinity is left out.
            blind = replace(found[i], certificate=replace(found[i].certificate, direction=None))
            both = [each.extent((-1.0, np.inf)).length for each in (blind, found[i])]
            table.append(Row(kind, int(active[i]), towards, both[0], both[1]))
    return table


def tell(table: list[Row]) -> str:
    """Medians by kind, over all and where both kinds occur with the same number of active neurons."""
    lines = []
    low = min((row.active for row in table if row.kind == "compact"), default=0)
    high = max((row.active for row in table if row.kind == "infinite"), default=0)
    shared = [row for row in table if low <= row.active <= high]
    for name, rows in (("all", table), (f"{low} to {high} active", shared)):
        for kind in KINDS:
            here = [row for row in rows if row.kind == kind]
            if here:
                reach, beyond, active = (np.median([row[k] for row in here]) for k in (3, 4, 1))
                towards = [row.towards for row in here if not np.isnan(row.towards)]
                share = f", at most {max(towards):.1e} of the way ({len(towards)} images)" if towards else ""
                lines.append(
                    f"{name:20} {kind:9} {len(here):4} images, {active:.0f} active: "
                    f"reach {reach:.4g}, beyond {beyond:.4g}{share}"
                )
    finite = [row for row in table if 0 < row.reach < np.inf]
    active, reach = np.array([[row.active, np.log10(row.reach)] for row in finite]).T
    compact = np.array([row.kind == "compact" for row in finite], dtype=float)
    design = np.column_stack([np.ones(len(finite)), active / 100, compact])
    factors, *_ = np.linalg.lstsq(design, reach, rcond=None)
    spread = float(np.std(reach - design @ factors))
    error = spread * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    lines.append(
        f"log10(reach) = {factors[1]:+.3f} (+-{error[1]:.3f}) per 100 active neurons, "
        f"{factors[2]:+.3f} (+-{error[2]:.3f}) if compact; spread {spread:.3f}"
    )
    return "\n".join(lines)


def draw(table: list[Row]) -> Figure:
    """How far one can go against the number of active neurons."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 3.6))
    for kind, colour in KINDS.items():
        rows = [row for row in table if row.kind == kind]
        if rows:
            panel.semilogy([row.active for row in rows], [row.reach for row in rows], ".", color=colour, label=kind)
    panel.set(xlabel="active neurons in layer 1", ylabel="reach (pixels above -1)")
    panel.legend()
    figure.tight_layout()
    return figure
