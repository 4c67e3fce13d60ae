"""How often every parameter of a shallow network with more neurons than inputs is found, biases included."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from papers.two_layer.networks import EXACT, error
from unveil import OneHiddenLayer, Outcome, as_oracle
from unveil.identification.fitting.least_squares import parameters
from unveil.whitebox.network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = ((10, 20), (10, 24), (20, 60), (20, 95), (30, 150))
ACTIVATIONS = ("tanh", "sigmoid")
FIRST = 51_000


class Row(NamedTuple):
    """One size: of `seeds` networks, in how many all parameters were found, at what cost.

    `wrong` counts those called complete without being right; `queries` are per parameter, the median and the most.
    """

    inputs: int
    neurons: int
    activation: str
    found: int
    wrong: int
    seeds: int
    worst: float
    queries: float
    most: float
    seconds: float


def network(inputs: int, neurons: int, activation: str, seed: int) -> Network:
    """Unit rows, shifts of deviation 0.5, outer weights 1 or -1."""
    rng = np.random.default_rng([seed, inputs, neurons])
    rows = rng.standard_normal((neurons, inputs))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    outer = rng.choice((-1.0, 1.0), size=(1, neurons))
    return Network.from_weights([(rows, 0.5 * rng.standard_normal(neurons)), (outer, np.zeros(1))], activation)


def run(size: int = 10) -> list[Row]:
    """`size` networks of each size in the box from -1 to 1, last bits of the answers flipped at random."""
    table = []
    for (inputs, neurons), activation in itertools.product(SIZES, ACTIVATIONS):
        errors, queries, seconds, wrong = [], [], [], 0
        for seed in range(FIRST, FIRST + size):
            truth, rng = network(inputs, neurons, activation, seed), np.random.default_rng(seed)

            def answer(x, truth=truth, rng=rng):
                y = truth(x)
                return np.nextafter(y, y + rng.choice([-1, 1], size=y.shape))

            oracle = as_oracle(answer, shape=inputs, within=(-1, 1), noisy=True)
            start = time.process_time()
            found = OneHiddenLayer(activation)(oracle, rng=np.random.default_rng([1, seed]))
            seconds.append(time.process_time() - start)
            errors.append(error(found, truth))
            wrong += found.outcome is Outcome.complete and not errors[-1] <= EXACT
            queries.append(found.queries / parameters(truth))
        right = [e for e in errors if e <= EXACT]
        worst, usual, most = max(right, default=np.nan), float(np.median(queries)), max(queries)
        row = (inputs, neurons, activation, len(right), wrong, size, worst, usual, most, float(np.median(seconds)))
        table.append(Row(*row))
        print(tell(table[-1:]), flush=True)
    return table


def tell(table: list[Row]) -> str:
    """One line of a table for each size."""
    return "\n".join(
        f"| {row.inputs}, {row.neurons} | {row.activation} | {row.found} of {row.seeds} | {row.wrong} | "
        f"{row.worst:.1e} | {row.queries:.1f}, {row.most:.1f} | {row.seconds:.1f} |"
        for row in table
    )


def draw(table: list[Row]) -> Figure:
    """Queries per parameter against the number of neurons per input."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5, 3.5))
    for activation, mark in zip(ACTIVATIONS, "os", strict=True):
        rows = [row for row in table if row.activation == activation]
        panel.plot([row.neurons / row.inputs for row in rows], [row.queries for row in rows], mark, label=activation)
    panel.set(xlabel="neurons per input", ylabel="queries per parameter", ylim=(0, None))
    panel.legend()
    figure.tight_layout()
    return figure
