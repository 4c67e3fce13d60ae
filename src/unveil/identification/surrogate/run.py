"""Run: one run of `Surrogate`, what it may still ask and what comes out; how well that stands for the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.line import unit_rows
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.matrix_free import taken_apart
from unveil.identification.fitting.measured import Errors, Measured
from unveil.identification.method import Identification
from unveil.identification.surrogate.work import Work
from unveil.outcome import Outcome
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network

READ_ROW_COSINE = 0.99  # rows whose cosine with one that was read is larger are that neuron's, after the fit


@dataclass(frozen=True)
class Known:
    """What was read."""

    layers: tuple[Layer, ...] = ()  # hidden layers read whole, first to last
    # rows and biases of the next layer, in terms of what comes out of these, as many as were read, up to sign
    rows: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False)
    network: Network | None = None  # a whole network, if there is one
    errors: Errors | None = field(default=None, compare=False)  # standard deviations of its weights, if measured

    @classmethod
    def of(cls, found: Identification) -> Known:
        """What an identification that did not come out whole has read."""
        relu = activation("relu")
        # A layer of which nothing was read ends what is known.
        read = takewhile(lambda layer: len(layer[1]), found.stats.get("layers_read", ()))
        layers = [Layer(w, b, relu) for w, b in read]
        rows = found.stats.get("rows_partial") if layers else found.stats.get("rows_read")
        rows = rows if rows is not None and len(rows[0]) else None
        errors, network = found.stats.get("deviations"), found.network
        if network is not None and errors is not None:
            # Neurons that were found to be one, or to do nothing, have left the network since.
            same = network.widths == tuple(len(bias) for _, bias in errors)
            errors = errors if same else None
        return cls(tuple(layers), rows, network, errors)

    def measured(self, network: Network) -> Measured | None:
        """What was measured of a network that begins as the one that was read, free neurons behind those read; None
        of another one, or where nothing was."""
        if self.network is None or self.errors is None or len(network.layers) != len(self.network.layers):
            return None
        weights, errors = taken_apart(network)[0], []
        for (w, b), (v, c), (e, f) in zip(weights, taken_apart(self.network)[0], self.errors, strict=True):
            k, d = v.shape
            if not np.array_equal(w[:k, :d], v) or not np.array_equal(b[:k], c):
                return None
            wide = np.full(w.shape, np.inf)
            wide[:k, :d] = e
            errors.append((wide, np.append(f, np.full(len(b) - k, np.inf))))
        return Measured.of(weights, errors)

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
            if rows is not None and rows.shape[1] <= layer.inputs:
                # Free neurons of the layer before come behind those that were read.
                cosine = unit_rows(layer.dense())[:, : rows.shape[1]] @ unit_rows(rows).T
                read = int((np.abs(cosine).max(axis=0) > READ_ROW_COSINE).sum())
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


QUANTILES = {"median": 0.5, "q90": 0.9, "q99": 0.99, "largest": 1.0}  # quantiles of the errors that are told
GIVEN = 10_000  # examples that the result is judged by, at most


@dataclass(frozen=True)
class Wanted:
    """What is asked of a run; `Surrogate` says what each field is."""

    widths: tuple[int, ...] | None = None
    activation: str = "relu"
    x: Float[np.ndarray, "N n"] | None = field(default=None, compare=False)
    known: Known = field(default_factory=Known)
    students: int = 2
    factor: float = 3.0
    rounds: int = 30
    queries: int | None = None
    work: float = 4e12


class Run:
    """One run, on values or on labels.

    `method`: what was asked for. `oracle`: what is asked. `rng`: draws questions and students. `examples`: (E, n) legal
    inputs of the model's use, if there are any. `best`: the best network so far. `classes`: labels that its outputs
    stand for; none of a network that answers with values. `work`: numbers multiplied.
    """

    judged: int  # fresh answers that the result is judged by

    def __init__(self, method: Wanted, oracle: Oracle, rng: np.random.Generator) -> None:
        self.method, self.oracle, self.rng = method, oracle, rng
        self.start = oracle.ledger.asked
        self.work = Work(method.work)
        self.why: list[str] = []
        self.stats: dict[str, Any] = {}
        examples = method.x
        self.examples = None if examples is None else oracle.nearest(np.asarray(examples).reshape(-1, oracle.n))
        self.best: Network | None = None
        self.classes: tuple[int, ...] = ()

    def left(self, reserve: float = 0.0) -> float:
        """Questions that may still be asked before the result is judged, and `reserve` besides."""
        judged = self.judged + (0 if self.examples is None else min(GIVEN, len(self.examples)))
        left = self.oracle.ledger.left - judged - reserve
        if self.method.queries is not None:
            left = min(left, self.method.queries - (self.oracle.ledger.asked - self.start) - judged)
        return max(0.0, left)

    def some_examples(self) -> np.ndarray:
        """Those that the result is judged by, (GIVEN, n) at most."""
        assert self.examples is not None
        return self.examples[self.rng.permutation(len(self.examples))[:GIVEN]]

    def end(self, outcome: Outcome, error: float = np.inf) -> Identification:
        """The best network, with what is known about it."""
        asked = self.oracle.ledger.asked - self.start
        why, labels = tuple(self.why), self.classes or None
        self.stats["work"] = {"done": self.work.done, "most": self.work.most}
        return Identification(self.best, outcome, asked, error, "surrogate", why, self.stats, labels=labels)


def errors(told: Float[np.ndarray, "N m"], y: Float[np.ndarray, "N m"]) -> dict[str, Any]:
    """Errors of a network, the largest over its outputs at each input, relative to the deviation of the answers.
    `told`: what the network says."""
    spread = float((y - y.mean(axis=0)).std()) or 1.0
    off = np.abs(told - y).max(axis=1) / spread
    out = {name: float(np.quantile(off, q)) for name, q in QUANTILES.items()}
    return {"inputs": len(y), "rms": float(np.sqrt(((told - y) ** 2).mean())) / spread, **out}


def label_agreement(mine: Int[np.ndarray, " N"], theirs: Int[np.ndarray, " N"]) -> dict[str, Any]:
    """Share of inputs with the same label: of all, and of those of each label that the model gives."""
    each = {int(label): float((mine[theirs == label] == label).mean()) for label in np.unique(theirs)}
    return {"labels": float((mine == theirs).mean()), "per_label": each}


def values_told(network: Network, oracle: Oracle, x: Float[np.ndarray, "N n"]) -> dict[str, Any]:
    """Errors and labels at these inputs. Queries: `len(x)`."""
    y, told = oracle(x), network(x)
    out = errors(told, y)
    if not oracle.ordered:
        out |= label_agreement(oracle.predictions(told), oracle.predictions(y))
    return out
