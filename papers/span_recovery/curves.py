"""Rank against samples, as Figures 1 and 2 draw it: the paper's three curves, and ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from papers.span_recovery.networks import algorithm_2, gradients, random_weights, rank_curve, trained_weights
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.row_span import row_span
from unveil.blackbox.sources import as_oracle


class Row(NamedTuple):
    """A point of a curve.

    Attributes:
        network: Sizes of its layers.
        curve: Name of the curve.
        samples: Points at which gradients or normals were taken.
        rank: Mean rank found from them.
        queries: What they take of a model that may only be asked.
        distance: Sine of the largest principal angle to the true span, where it was measured.
    """

    network: str
    curve: str
    samples: int
    rank: float
    queries: int
    distance: float = float("nan")


def curves(networks: Sequence[tuple[int, ...]], samples: int, seeds: int, adaptive: bool) -> list[Row]:
    """The points of all curves; with `adaptive` also Algorithm 2, and ours from labels, on the first random network."""
    counts = sorted({*range(10, samples + 1, max(10, samples // 20)), samples})
    table: list[Row] = []
    for sizes in networks:
        name, each = "-".join(map(str, sizes)), sizes[0] + 1
        plain, ours = [], []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            weights = random_weights(sizes, rng)
            points = rng.standard_normal((samples, sizes[0]))
            plain.append(rank_curve(gradients(weights, points), counts))

            def answer(x: np.ndarray, weights: list[np.ndarray] = weights) -> np.ndarray:
                for w in weights[:-1]:
                    x = np.maximum(x @ w.T, 0)
                return x @ weights[-1].T

            span = row_span(as_oracle(answer, shape=sizes[0]), rng=rng, accuracy=1e-6)
            ours.append((span.rank, span.queries, span.distance(weights[0])))
        table += [
            Row(name, "GradientsRandom", c, float(np.mean(r)), c * each)
            for c, r in zip(counts, zip(*plain, strict=True), strict=True)
        ]
        rank, queries, distance = np.mean(ours, axis=0)
        # Every gradient taken is chosen to be new: one output gives one direction a point.
        table.append(Row(name, "ours", round(rank), float(rank), round(queries), float(distance)))
        if adaptive:
            table += _adaptive(name, sizes, min(samples, sizes[1]), np.random.default_rng(0))
        if os.environ.get("UNVEIL_DATA"):
            weights, biases, accuracy = trained_weights(sizes, seed=0)
            points = np.random.default_rng(0).standard_normal((samples, sizes[0]))
            label = f"GradientsMNIST ({accuracy:.0%})"
            ranks = rank_curve(gradients(weights, points, biases), counts)
            table += [Row(name, label, c, r, c * each) for c, r in zip(counts, ranks, strict=True)]
    return table


def _adaptive(name: str, sizes: tuple[int, ...], steps: int, rng: np.random.Generator) -> list[Row]:
    """Algorithm 2, and ours, from the labels of a tanh network with a threshold.

    The rank is counted by what of the rows lies in the true span.
    """
    weights = random_weights(sizes, rng)

    def value(x: np.ndarray) -> np.ndarray:
        for w in weights[:-1]:
            x = np.tanh(x @ w.T)
        return np.asarray((x @ weights[-1].T)[:, 0])

    level = np.quantile(value(rng.standard_normal((2000, sizes[0]))), 0.75)
    oracle: Oracle = as_oracle(lambda x: (value(x) >= level).astype(int), shape=sizes[0], answers="labels")
    true = np.linalg.qr(weights[0].T)[0]
    before = oracle.ledger.asked
    rows, asked = algorithm_2(lambda x: oracle(x)[:, 0] == 1, sizes[0], steps, rng, lambda: oracle.ledger.asked)
    inside = np.linalg.norm(rows @ true, axis=1) > 0.99
    table = [
        Row(
            name,
            "GradientsRandomAda",
            c,
            float(inside[:c].sum()),
            asked[c - 1] - before,
            float(np.linalg.norm(rows[:c] - rows[:c] @ true @ true.T, 2)),
        )
        for c in sorted({*range(10, len(rows), 10), len(rows)} - {0})
    ]
    span = row_span(oracle, rng=rng, accuracy=1e-4)
    outside = float(np.linalg.norm(span.basis - span.basis @ true @ true.T, 2)) if span.rank else 1.0
    return [*table, Row(name, "ours, labels", span.rank, span.rank, span.queries, outside)]


def tell(table: Sequence[Row]) -> str:
    """The last point of every curve."""
    last = {(row.network, row.curve): row for row in table}
    return "\n".join(
        f"{row.network:22} {row.curve:22} {row.samples:5} samples: rank {row.rank:5.1f}, {row.queries:10,} queries"
        + ("" if np.isnan(row.distance) else f", off by {row.distance:.1e}")
        for row in last.values()
    )


def draw(table: Sequence[Row]) -> object:
    """Rank against samples, one panel per network."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.network for row in table))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.5), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        for curve in dict.fromkeys(row.curve for row in table if row.network == name):
            points = np.array([row[2:4] for row in table if row[:2] == (name, curve)])
            axis.plot(points[:, 0], points[:, 1], marker="x" if len(points) > 1 else "o", markevery=[-1], label=curve)
        axis.set_title(name)
        axis.set_xlabel("samples")
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("rank")
    figure.tight_layout()
    return figure
