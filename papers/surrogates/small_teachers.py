"""How often students of a small teacher end as the teacher, by how many times as wide they begin."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import unveil as uv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEACHERS = ((4, 3, 1), (8, 5, 1), (8, 8, 1), (6, 4, 4, 1))
FACTORS = (1.0, 4.0)
# Largest error at fresh inputs, relative to the answers' deviation, of a student that is the teacher.
SAME = 1e-6


class Row(NamedTuple):
    """Students of one teacher's shape: of `seeds`, how many came to its function, and with its number of neurons."""

    teacher: str
    factor: float
    function: int
    neurons: int
    seeds: int
    surplus: float
    error: float
    queries: float
    seconds: float


def teacher(widths: tuple[int, ...], seed: int) -> uv.Network:
    """A ReLU network with Gaussian weights of unit rows."""
    rng = np.random.default_rng([seed, *widths])
    weights = []
    for inputs, outputs in pairwise(widths):
        rows = rng.standard_normal((outputs, inputs))
        weights.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), 0.5 * rng.standard_normal(outputs)))
    return uv.Network.from_weights(weights)


def run(size: int = 5) -> list[Row]:
    """`size` teachers of each shape, each with students as wide as it and four times as wide; their depth is told."""
    table = []
    for widths in TEACHERS:
        for factor in FACTORS:
            outcomes = []
            for seed in range(size):
                truth = teacher(widths, seed)
                count = sum(layer.dense().size + layer.neurons for layer in truth.layers)
                oracle = uv.as_oracle(truth, shape=widths[0])
                start = time.process_time()
                found = uv.Surrogate(widths=widths[1:-1], factor=factor)(oracle, rng=np.random.default_rng([1, seed]))
                seconds = time.process_time() - start
                assert found.network is not None
                surplus = sum(found.network.widths[:-1]) / sum(widths[1:-1]) - 1
                error = found.stats["fresh"]["largest"]
                outcomes.append((error, found.network.widths == truth.widths, surplus, found.queries / count, seconds))
            errors, same, surplus, queries, seconds = (np.array(each) for each in zip(*outcomes, strict=True))
            right = errors <= SAME
            table.append(
                Row(
                    "-".join(map(str, widths)),
                    factor,
                    int(right.sum()),
                    int((right & same).sum()),
                    size,
                    float(surplus[right].max(initial=0.0)),
                    float(np.median(errors)),
                    float(np.median(queries)),
                    float(np.median(seconds)),
                )
            )
            print(tell(table[-1:]), flush=True)
    return table


def tell(table: list[Row]) -> str:
    """One line for each shape and factor."""
    return "\n".join(
        f"{row.teacher:10} students {row.factor:.0f} times as wide: the function {row.function} of {row.seeds}, with "
        f"as many neurons {row.neurons} (at most {row.surplus:.0%} more); median of the largest errors "
        f"{row.error:.1e}; {row.queries:,.0f} queries per parameter, {row.seconds:.1f} CPU s"
        for row in table
    )


def draw(table: list[Row]) -> Figure:
    """Share of students that came to the teacher's function, a pair of bars for each shape."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 3.5))
    for number, factor in enumerate(FACTORS):
        rows = [row for row in table if row.factor == factor]
        places = np.arange(len(rows)) + 0.4 * (number - 0.5)
        panel.bar(places, [row.function / row.seeds for row in rows], 0.35, label=f"{factor:.0f} times as wide")
        panel.set_xticks(np.arange(len(rows)), [row.teacher for row in rows])
    panel.set(ylabel="share that is the teacher's function", ylim=(0, 1.05))
    panel.legend()
    figure.tight_layout()
    return figure
