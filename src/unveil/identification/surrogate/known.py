"""Known: what was read of a network, as far as a fit can begin with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import unit_rows
from unveil.identification.method import Identification
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network

SAME = 0.99  # rows whose cosine with one that was read is larger are that neuron's, after the fit


@dataclass(frozen=True)
class Known:
    """What was read."""

    layers: tuple[Layer, ...] = ()  # hidden layers read whole, first to last
    # rows and biases of the next layer, in terms of what comes out of these, as many as were read, up to sign
    rows: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False)
    network: Network | None = None  # a whole network, if there is one

    @classmethod
    def of(cls, found: Identification) -> Known:
        """What an identification that did not come out whole has read."""
        relu = activation("relu")
        # A layer of which nothing was read ends what is known.
        read = takewhile(lambda layer: len(layer[1]), found.stats.get("layers_read", ()))
        layers = [Layer(w, b, relu) for w, b in read]
        rows = found.stats.get("rows_partial") if layers else found.stats.get("rows_read")
        rows = rows if rows is not None and len(rows[0]) else None
        return cls(tuple(layers), rows, found.network)

    def both_sides(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows of the next layer, active on either side: which of both is not known."""
        if self.rows is None:
            return None
        rows, bias = self.rows
        return np.concatenate([rows, -rows]), np.concatenate([bias, -bias])

    def told_apart(self, network: Network) -> list[dict[str, int]]:
        """Per hidden layer of a fitted network, how many of its neurons were read, and how many are only fitted."""
        out = []
        for depth, layer in enumerate(network.layers[:-1]):
            rows: np.ndarray | None = None
            if depth < len(self.layers):
                rows = self.layers[depth].dense()
            elif depth == len(self.layers) and self.rows is not None:
                rows = self.rows[0]
            read = 0
            if rows is not None and rows.shape[1] == layer.inputs:
                read = int((np.abs(unit_rows(layer.dense()) @ unit_rows(rows).T).max(axis=0) > SAME).sum())
            read = min(read, layer.neurons)
            out.append({"read": read, "fitted": layer.neurons - read})
        return out


def widened(
    known: Known, extra: int, x: Float[np.ndarray, "N n"], rng: np.random.Generator
) -> tuple[list[Layer], tuple[np.ndarray, np.ndarray] | None]:
    """The layers known and the rows of the next one, with free neurons in each layer for those that were missed.
    `known`: what was read. `extra`: free neurons per layer. `x`: inputs, through which their hyperplanes pass."""
    layers: list[Layer] = []
    h, added = x, 0
    for layer in known.layers:
        w = np.pad(layer.dense(), ((0, 0), (0, added)))
        size = np.maximum(h.std(axis=0), 1e-3 * max(float(h.std()), 1e-300))
        free = rng.standard_normal((extra, w.shape[1])) / size / np.sqrt(w.shape[1])
        bias = 0.5 * rng.standard_normal(extra) - free @ h.mean(axis=0)
        layers.append(Layer(np.concatenate([w, free]), np.append(layer.bias, bias), layer.activation))
        h, added = layers[-1](h), extra
    rows = known.both_sides()
    return layers, rows if rows is None else (np.pad(rows[0], ((0, 0), (0, added))), rows[1])


def with_free(network: Network, extra: int, x: Float[np.ndarray, "N n"], rng: np.random.Generator) -> Network:
    """The same function, with free neurons in every hidden layer that send nothing on yet. `extra`: free neurons per
    layer. `x`: inputs, through which their hyperplanes pass."""
    layers, _ = widened(Known(network.layers[:-1]), extra, x, rng)
    last = network.layers[-1]
    out = Layer(np.pad(last.dense(), ((0, 0), (0, extra))), last.bias, last.activation)
    return Network((*layers, out), network.shape)
