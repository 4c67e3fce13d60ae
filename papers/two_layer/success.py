"""How often the pipeline of the paper finds every parameter, and how often its last fit does from random starts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.two_layer.networks import EXACT, error
from papers.two_layer.networks import draw as network
from unveil import EntangledWeights, as_oracle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("orthogonal", "perturbed", "sphere")
SHIFTS = (0.0, 0.05, 0.2, 0.5)


class Row(NamedTuple):
    """One setting: of `seeds` networks, in how many all parameters were found, and from how many queries."""

    start: str
    kind: str
    shifts: float
    found: int
    seeds: int
    queries: float


def run(size: int = 5) -> list[Row]:
    """`size` networks 10-10-3 with tanh for each setting, twice: by the pipeline, and by its last fit alone."""
    table = []
    for start, kind, shifts in itertools.product(("pipeline", "random"), KINDS, SHIFTS):
        method = EntangledWeights(
            "tanh", (10, 3), pipeline=start == "pipeline", attempts=3 if start == "pipeline" else 1
        )
        good, queries = 0, []
        for seed in range(size):
            truth = network(10, (10, 3), "tanh", seed, kind=kind, shifts=shifts)
            found = method(as_oracle(truth, shape=10), rng=np.random.default_rng([1, seed]))
            good += error(found, truth) <= EXACT
            queries.append(found.queries)
        table.append(Row(start, kind, shifts, good, size, float(np.median(queries))))
    return table


def tell(table: list[Row]) -> str:
    """One line for each setting."""
    return "\n".join(
        f"{row.start:9} {row.kind:12} shifts {row.shifts:4.2f}  {row.found} of {row.seeds}  {row.queries:,.0f} queries"
        for row in table
    )


def draw(table: list[Row]) -> Figure:
    """Share of networks found against the spread of the shifts, one line for each kind."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5, 3.5))
    for number, kind in enumerate(KINDS):
        for start, style in (("pipeline", "-"), ("random", ":")):
            rows = [row for row in table if row.kind == kind and row.start == start]
            places = [row.shifts + 0.006 * (number - 1) for row in rows]  # side by side where they agree
            share = [row.found / row.seeds for row in rows]
            label = kind if start == "pipeline" else None
            panel.plot(places, share, style, marker="o", color=f"C{number}", label=label)
    panel.plot([], [], "k:", label="last fit, random starts")
    panel.set(xlabel="spread of the shifts", ylabel="share with all parameters found", ylim=(-0.05, 1.05))
    panel.legend(loc="center left")
    figure.tight_layout()
    return figure
