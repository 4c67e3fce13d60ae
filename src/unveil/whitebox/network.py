"""Layer and Network: affine maps and activations whose weights are known. Rows are neurons."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse, special

from unveil.arguments import as_numbers, must_be
from unveil.one_line import one_line
from unveil.outcome import BadInput
from unveil.whitebox.activation import Activation
from unveil.whitebox.activation import activation as activation_named
from unveil.whitebox.blocks import Repeated, repeated
from unveil.whitebox.convolution import Convolution

Matrix = Any  # (out, in): an ndarray or a scipy.sparse.csr_array; scipy has no types to say it with


@one_line
@dataclass(frozen=True, eq=False)
class Layer:
    """`activation(weights @ x + bias)`.

    Attributes:
        weights: (out, in), float64; one row per neuron. Dense, or `scipy.sparse.csr_array` where most entries are zero.
            Given as `Repeated`, they are written out when they are first asked for, and not to compute answers.
        bias: (out,).
        activation: Applied elementwise.
        convolution: Where `weights` came from, if from one convolution; kept so that files stay small.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> network.layers[0].neurons, network.layers[0].inputs
        (2, 3)
    """

    weights: Matrix
    bias: Float[np.ndarray, " out"]
    activation: Activation
    convolution: Convolution | None = None
    repeated: Repeated | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        weights: Any = self.weights
        try:
            if isinstance(weights, Repeated):
                values = np.concatenate([np.zeros(1), *(group.values.ravel() for group in weights.groups)])
            elif sparse.issparse(weights):
                values = as_numbers(weights.tocsr().data, "weights")
                weights = sparse.csr_array(weights, dtype=np.float64)
            else:
                weights = values = as_numbers(weights, "weights")
            bias = as_numbers(self.bias, "biases")
        except (TypeError, ValueError) as error:
            raise BadInput(f"a layer needs numbers: W (out, in) and b (out,); {error}") from error
        if len(weights.shape) != 2 or bias.shape != weights.shape[:1] or 0 in weights.shape:
            raise BadInput(
                f"a layer needs W (out, in) and b (out,), neither empty; got {weights.shape} and {bias.shape}"
            )
        if not (np.isfinite(values).all() and np.isfinite(bias).all()):
            raise BadInput("a layer has weights that are NaN or infinite; pass finite weights")
        object.__setattr__(self, "repeated", weights if isinstance(weights, Repeated) else None)
        object.__setattr__(self, "bias", bias)
        if self.repeated is None:
            object.__setattr__(self, "weights", weights)
        else:
            object.__delattr__(self, "weights")

    def __getattr__(self, name: str) -> Any:
        if name != "weights" or self.__dict__.get("repeated") is None:
            raise AttributeError(f"a Layer has no {name!r}")
        object.__setattr__(self, "weights", self.__dict__["repeated"].csr())
        return self.__dict__["weights"]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """A convolution travels as its kernel, which is a thousand times smaller than its matrix."""
        if self.convolution is None:
            return Layer, (self.repeated or self.weights, self.bias, self.activation)
        return _convolved, (self.convolution, self.bias, self.activation)

    @property
    def inputs(self) -> int:
        return int((self.repeated or self.weights).shape[1])

    @property
    def neurons(self) -> int:
        return int(self.bias.size)

    def dense(self) -> Float[np.ndarray, "out in"]:
        """The weights as an ndarray, whatever they are stored as."""
        return self.weights.toarray() if sparse.issparse(self.weights) else np.asarray(self.weights)

    def affine(self, x: Float[np.ndarray, "N in"]) -> Float[np.ndarray, "N out"]:
        """`x @ weights.T + bias`: what the neurons see before the activation."""
        if self.repeated is not None or sparse.issparse(self.weights):
            return np.asarray(self.times(x.T).T + self.bias)
        return np.asarray(x @ self.weights.T + self.bias)

    def times(self, x: Float[np.ndarray, "in k"]) -> Float[np.ndarray, "out k"]:
        """`weights @ x`."""
        return np.asarray(self.weights @ x) if self.repeated is None else self.repeated.times(x)

    def transposed_times(self, y: Float[np.ndarray, "out k"]) -> Float[np.ndarray, "in k"]:
        """`weights.T @ y`."""
        return np.asarray(self.weights.T @ y) if self.repeated is None else self.repeated.transposed_times(y)

    def squares_transposed_times(self, y: Float[np.ndarray, "out k"]) -> Float[np.ndarray, "in k"]:
        """`(weights**2).T @ y`."""
        if self.repeated is not None:
            return self.repeated.squares().transposed_times(y)
        squares = self.weights.multiply(self.weights) if sparse.issparse(self.weights) else self.weights**2
        return np.asarray(squares.T @ y)

    def __call__(self, x: Float[np.ndarray, "N in"]) -> Float[np.ndarray, "N out"]:
        return self.activation.value(self.affine(x))


@dataclass(frozen=True, eq=False)
class Network:
    """Layers applied one after the other, and perhaps a softmax on top.

    A skip connection is carried along by rows of its own: a ReLU leaves what is already non-negative as it is, and any
    other value s is carried as relu(s) - relu(-s). So a residual network is a plain sequence of layers, too.

    Attributes:
        layers: First to last.
        shape: Shape of one input as its source has it, e.g. (1, 28, 28); `(n,)` when nothing else is known.
        softmax: Whether a softmax over all outputs follows the last layer.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> network.n, network.m, network.widths
        (3, 1, (2, 1))
        >>> network(np.array([[1.0, 2.0, 0.5]]))
        array([[3.]])
    """

    layers: tuple[Layer, ...]
    shape: tuple[int, ...] = field(default=())
    softmax: bool = False

    def __repr__(self) -> str:
        widths = " - ".join(str(size) for size in (self.n, *(layer.neurons for layer in self.layers)))
        kinds = ", ".join(layer.activation.name for layer in self.layers) + ", softmax" * self.softmax
        return f"Network({widths}; {kinds})"

    def __post_init__(self) -> None:
        layers = tuple(self.layers)
        if not layers:
            raise BadInput("a network needs at least one layer")
        if strange := [type(each).__name__ for each in layers if not isinstance(each, Layer)]:
            raise BadInput(f"layers must be Layer, got {strange[0]}; Network.from_weights takes pairs (W, b)")
        for i, (one, other) in enumerate(pairwise(layers)):
            if one.neurons != other.inputs:
                raise BadInput(f"layer {i} has {one.neurons} outputs but layer {i + 1} takes {other.inputs} inputs")
        shape = tuple(int(d) for d in self.shape) or (layers[0].inputs,)
        if int(np.prod(shape)) != layers[0].inputs:
            raise BadInput(f"shape {shape} has {int(np.prod(shape))} entries, the first layer takes {layers[0].inputs}")
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "shape", shape)

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[tuple[Matrix, np.ndarray]],
        activation: str = "relu",
        last: str = "identity",
        shape: tuple[int, ...] = (),
    ) -> Network:
        """A network from [(W, b), ...] with W of shape (out, in).

        Args:
            weights: One pair per layer, first to last.
            activation: Name of the activation of every layer but the last.
            last: Name of the last layer's activation, or "softmax".
            shape: Shape of one input, if it is more than `(n,)`.
        """
        top = last == "softmax"
        names = [activation] * (len(weights) - 1) + ["identity" if top else last]
        layers = tuple(Layer(w, b, activation_named(name)) for (w, b), name in zip(weights, names, strict=True))
        return cls(layers, shape, top)

    @property
    def n(self) -> int:
        """Inputs."""
        return self.layers[0].inputs

    @property
    def m(self) -> int:
        """Outputs."""
        return self.layers[-1].neurons

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of every layer."""
        return tuple(layer.neurons for layer in self.layers)

    @property
    def piecewise_linear(self) -> bool:
        """Whether the network, without its softmax, is affine on each of its linear regions."""
        return all(layer.activation.piecewise_linear for layer in self.layers)

    def is_one(self, x: np.ndarray) -> bool:
        """Whether this is one input, not several.

        Raises:
            BadInput: Not numbers.
        """
        return as_numbers(x, "inputs").shape in ((self.n,), self.shape)

    def points(self, x: np.ndarray) -> Float[np.ndarray, "N n"]:
        """Inputs as float64 rows: from (n,), (N, n), one `shape` or (N, *shape).

        Raises:
            BadInput: Another shape, no point at all, or numbers that are NaN or infinite.
        """
        rows = as_numbers(x, "inputs")
        if rows.shape in ((self.n,), self.shape):
            rows = rows.reshape(1, self.n)
        elif rows.ndim >= 2 and rows.shape[1:] in ((self.n,), self.shape):
            rows = rows.reshape(-1, self.n)
        else:
            shaped = "" if self.shape == (self.n,) else f" or (N, {', '.join(map(str, self.shape))})"
            raise BadInput(f"expected inputs of shape ({self.n},) or (N, {self.n}){shaped}; got {rows.shape}")
        if not len(rows):
            raise BadInput("there is no input: pass at least one")
        if not np.isfinite(rows).all():
            raise BadInput("the inputs hold NaN or infinite numbers; pass finite ones")
        return rows

    def fingerprint(self) -> str:
        """A text that differs between networks whose weights, activations or shapes differ: for a store of answers."""
        digest = hashlib.blake2b(repr((self, self.shape)).encode(), digest_size=16)
        for layer in self.layers:
            matrix: Any = layer.repeated or layer.weights
            if isinstance(matrix, Repeated):
                parts = [each for group in matrix.groups for each in (group.values, group.rows, group.columns)]
            else:
                parts = [matrix.data, matrix.indices, matrix.indptr] if sparse.issparse(matrix) else [matrix]
            for part in (*parts, layer.bias):
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def level(self, layer: int) -> int:
        """`layer` as a checked index from 0; negative ones count from the end.

        Raises:
            BadInput: There is no such layer.
        """
        if int(layer) != layer or not -len(self.layers) <= layer < len(self.layers):
            raise BadInput(f"there is no layer {layer}: the network has layers 0 to {len(self.layers) - 1}")
        return int(layer) % len(self.layers)

    def features(self, x: np.ndarray, layer: int = -1) -> Float[np.ndarray, "N k"]:
        """What comes out of `layer` (0 is the first), after its activation and before any softmax."""
        rows = self.points(x)
        for each in self.layers[: self.level(layer) + 1]:
            rows = each(rows)
        return rows

    def preactivations(self, x: np.ndarray, layer: int = -1) -> list[Float[np.ndarray, "N k"]]:
        """What the neurons of every layer up to `layer` see before their activation."""
        rows, seen = self.points(x), []
        for each in self.layers[: self.level(layer) + 1]:
            seen.append(each.affine(rows))
            rows = each.activation.value(seen[-1])
        return seen

    def up_to(self, layer: int) -> Network:
        """The network that ends after `layer`: its features as outputs."""
        return Network(self.layers[: self.level(layer) + 1], self.shape)

    def after(self, layer: int) -> Network:
        """The network that starts from the features of `layer`."""
        at = self.level(layer)
        if at + 1 == len(self.layers):
            raise BadInput(f"nothing comes after layer {at}, it is the last one")
        return replace(self, layers=self.layers[at + 1 :], shape=())

    def normalised(self, mean: Float[np.ndarray, " n"], deviation: Float[np.ndarray, " n"]) -> Network:
        """The network of inputs that are not normalised yet: x is given to this one as `(x - mean) / deviation`."""
        first, scale = self.layers[0], 1 / np.broadcast_to(deviation, self.n)
        weights = first.weights @ sparse.diags_array(scale) if sparse.issparse(first.weights) else first.weights * scale
        # Zero padding pads what is normalised, so that this is no convolution any more.
        layer = Layer(weights, first.bias - weights @ np.broadcast_to(mean, self.n), first.activation)
        return replace(self, layers=(layer, *self.layers[1:]))

    def log_ratios(self, reference: int = -1) -> Network:
        """The network of the differences of all other outputs to that of class `reference`, without a softmax.

        That is all that probabilities tell of logits: a shift of all of them together changes none.

        Raises:
            BadInput: There is no such output, or only one.
        """
        r = self._output(reference, self.m)
        if self.m < 2:
            raise BadInput("log-ratios need at least two outputs; this network has one")
        last = self.layers[-1]
        if last.activation.name != "identity":
            raise BadInput(f"log-ratios need a last layer of logits; this one ends in {last.activation.name}")
        w = last.dense()
        layer = Layer(np.delete(w - w[r], r, axis=0), np.delete(last.bias - last.bias[r], r), last.activation)
        return replace(self, layers=(*self.layers[:-1], layer), softmax=False)

    def with_reference(self, reference: int) -> Network:
        """The classifier behind log-ratios: one more output, always 0, for class `reference`, and a softmax on top.

        Raises:
            BadInput: There would be no such output.
        """
        r = self._output(reference, self.m + 1)
        last = self.layers[-1]
        layer = Layer(np.insert(last.dense(), r, 0.0, axis=0), np.insert(last.bias, r, 0.0), last.activation)
        return replace(self, layers=(*self.layers[:-1], layer), softmax=True)

    @staticmethod
    def _output(reference: int, outputs: int) -> int:
        if int(reference) != reference or not -outputs <= reference < outputs:
            raise BadInput(f"reference must be a class from 0 to {outputs - 1}; got {reference}")
        return int(reference) % outputs

    def logits(self, x: np.ndarray) -> Float[np.ndarray, "N m"]:
        """The outputs before any softmax."""
        return self.features(x)

    def __call__(self, x: np.ndarray) -> Float[np.ndarray, "*N m"]:
        """The outputs, (N, m), or (m,) for a single input."""
        answers = self.features(x)
        if self.softmax:
            answers = special.softmax(answers, axis=1)
        single = self.is_one(x)
        return answers[0] if single else answers


def _convolved(convolution: Convolution, bias: np.ndarray, activation: Activation) -> Layer:
    return Layer(repeated(convolution.matrix()), bias, activation, convolution)


def must_be_known(*networks: object) -> None:
    """Raises BadInput unless all are networks: models that can only be asked, and names of files, are none."""
    for each in networks:
        must_be(
            each,
            Network,
            "a Network, whose weights are known",
            "read a file with load(path), a torch module with from_torch(module)",
        )
