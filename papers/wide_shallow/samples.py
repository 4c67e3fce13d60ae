"""Queries that identifying a deep network takes, beside the D^2 m samples that entangled weights take in theory."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.two_layer.networks import EXACT, error
from unveil import Peeling, as_oracle
from unveil.whitebox.network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = ((10, 10, 5, 3, 1), (10, 10, 6, 4, 3, 1), (20, 20, 8, 5, 2))
FIRST = 52_000


class Row(NamedTuple):
    """One shape: all queries, and those for slopes alone, in units of D^2 m (D inputs, m hidden neurons)."""

    shape: tuple[int, ...]
    found: int
    seeds: int
    queries: float
    slopes: float
    unit: int


def network(shape: tuple[int, ...], seed: int) -> Network:
    """Tanh layers with unit rows and shifts of deviation 0.5."""
    rng, weights = np.random.default_rng([seed, *shape]), []
    for before, width in pairwise(shape[:-1]):
        rows = rng.standard_normal((width, before))
        weights.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), 0.5 * rng.standard_normal(width)))
    return Network.from_weights(
        [*weights, (rng.standard_normal(shape[-1:] + shape[-2:-1]), np.zeros(shape[-1]))], "tanh"
    )


def run(size: int = 3) -> list[Row]:
    """`size` networks of each shape, widths unknown."""
    table = []
    for shape in SHAPES:
        unit, found, queries, slopes = shape[0] ** 2 * sum(shape[1:-1]), 0, [], []
        for seed in range(FIRST, FIRST + size):
            truth = network(shape, seed)
            result = Peeling("tanh")(as_oracle(truth, shape=shape[0]), rng=np.random.default_rng([1, seed]))
            found += error(result, truth) <= EXACT
            queries.append(result.queries)
            slopes.append(result.stats["queries per stage"].get("second layer: slopes", 0))
        row = Row(shape, found, size, float(np.median(queries)) / unit, float(np.median(slopes)) / unit, unit)
        table.append(row)
        print(tell([row]), flush=True)
    return table


def tell(table: list[Row]) -> str:
    """One line of a table for each shape."""
    return "\n".join(
        f"| {'-'.join(map(str, row.shape))} | {row.found} of {row.seeds} | {row.unit:,} | {row.queries:.2f} | "
        f"{row.slopes:.2f} |"
        for row in table
    )


def draw(table: list[Row]) -> Figure:
    """Queries in units of D^2 m."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5, 3.5))
    names = ["-".join(map(str, row.shape)) for row in table]
    panel.bar(names, [row.queries for row in table], label="all")
    panel.bar(names, [row.slopes for row in table], label="slopes")
    panel.set(ylabel="queries / (D² m)")
    panel.legend()
    figure.tight_layout()
    return figure
