"""Rank against samples, as Figures 1 and 2 draw it: the paper's three curves, and ours."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from papers.span_recovery.networks import algorithm_2, gradients, random_weights, rank_curve, trained_weights
from unveil.blackbox.row_span import row_span
from unveil.blackbox.sources import as_oracle

Row = tuple[str, str, int, float]


def curves(networks: Sequence[tuple[int, ...]], samples: int, seeds: int, adaptive: bool) -> list[Row]:
    """Rows of (network, curve, samples, mean rank)."""
    counts = sorted({*range(10, samples + 1, max(10, samples // 20)), samples})
    table: list[Row] = []
    for sizes in networks:
        name = "-".join(map(str, sizes))
        plain, ours, ada = [], [], []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            weights = random_weights(sizes, rng)
            points = rng.standard_normal((samples, sizes[0]))
            plain.append(rank_curve(gradients(weights, points), counts))

            def answer(x: np.ndarray, weights: list[np.ndarray] = weights) -> np.ndarray:
                for w in weights[:-1]:
                    x = np.maximum(x @ w.T, 0)
                return x @ weights[-1].T

            ours.append(row_span(as_oracle(answer, shape=sizes[0]), rng=rng, accuracy=1e-6).rank)
            if adaptive and seed == 0:
                ada.append(_adaptive(sizes, min(samples, sizes[1]), rng))
        table += [
            (name, "GradientsRandom", c, float(np.mean(r)))
            for c, r in zip(counts, zip(*plain, strict=True), strict=True)
        ]
        table += [(name, "GradientsRandomAda", found, found) for found in ada]
        table.append((name, "ours", int(np.mean(ours)), float(np.mean(ours))))
        if os.environ.get("UNVEIL_DATA"):
            weights, biases, accuracy = trained_weights(sizes, seed=0)
            points = np.random.default_rng(0).standard_normal((samples, sizes[0]))
            label = f"GradientsMNIST ({accuracy:.0%})"
            table += [
                (name, label, c, r)
                for c, r in zip(counts, rank_curve(gradients(weights, points, biases), counts), strict=True)
            ]
    return table


def _adaptive(sizes: tuple[int, ...], steps: int, rng: np.random.Generator) -> int:
    """Rows that Algorithm 2 finds of a tanh network with a threshold, counted by what of them lies in the true span."""
    weights = random_weights(sizes, rng)

    def value(x: np.ndarray) -> np.ndarray:
        for w in weights[:-1]:
            x = np.tanh(x @ w.T)
        return np.asarray((x @ weights[-1].T)[:, 0])

    level = np.quantile(value(rng.standard_normal((2000, sizes[0]))), 0.75)
    found = algorithm_2(lambda x: value(x) >= level, sizes[0], steps, rng)
    true = np.linalg.qr(weights[0].T)[0]
    return int(np.sum(np.linalg.norm(found @ true, axis=1) > 0.99))


def tell(table: Sequence[Row]) -> str:
    """The last point of every curve."""
    last = {(name, curve): (count, rank) for name, curve, count, rank in table}
    return "\n".join(
        f"{name:24} {curve:24} {count:5} samples: rank {rank:.1f}" for (name, curve), (count, rank) in last.items()
    )


def draw(table: Sequence[Row]) -> object:
    """Rank against samples, one panel per network."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row[0] for row in table))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.5), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        for curve in dict.fromkeys(row[1] for row in table if row[0] == name):
            points = np.array([row[2:] for row in table if row[:2] == (name, curve)])
            axis.plot(points[:, 0], points[:, 1], "-" if len(points) > 1 else "o", label=curve)
        axis.set_title(name)
        axis.set_xlabel("samples")
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("rank")
    figure.tight_layout()
    return figure
