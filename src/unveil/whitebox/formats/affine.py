"""From a computation graph to layers: until the next activation, every value is an affine function of the last ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse

from unveil.outcome import BadInput
from unveil.whitebox.activation import Activation, activation, by_rows
from unveil.whitebox.blocks import repeated
from unveil.whitebox.convolution import LARGEST_OPERATOR, Convolution
from unveil.whitebox.network import Layer, Network

NEVER_NEGATIVE = ("relu", "sigmoid", "softplus")


@dataclass(frozen=True, eq=False)
class Value:
    """`matrix @ h + bias`, where h is what the last activation gave (or the input).

    Attributes:
        matrix: (size, width of h), dense or sparse; None stands for the identity.
        bias: (size,).
        shape: The tensor's shape in its graph, a leading axis of 1 for the batch included.
        convolution: The one convolution that `matrix` is, if it is one.
    """

    matrix: Any
    bias: np.ndarray
    shape: tuple[int, ...]
    convolution: Convolution | None = None

    @property
    def size(self) -> int:
        return int(self.bias.size)

    def operator(self) -> Any:
        """`matrix`, the identity written out."""
        return sparse.eye_array(self.size, format="csr") if self.matrix is None else self.matrix

    def map(self, operator: Any, shape: tuple[int, ...]) -> Value:
        """`operator @ self`."""
        if self.matrix is None:
            matrix = operator
        else:
            if not (sparse.issparse(operator) and sparse.issparse(self.matrix)):
                _allow(operator.shape[0] * self.matrix.shape[1])
            matrix = _chosen(operator, self.matrix)
        return Value(matrix, np.asarray(operator @ self.bias), shape)

    def convolve(self, convolution: Convolution, shape: tuple[int, ...]) -> Value:
        value = self.map(convolution.matrix(), shape)
        return replace(value, convolution=convolution if self.matrix is None else None)

    def move(self, indices: np.ndarray) -> Value:
        """The tensor whose entries are those at flat `indices`; -1 stands for zero."""
        flat = indices.ravel()
        if flat.size == self.size and (flat == np.arange(flat.size)).all():
            return replace(self, shape=indices.shape)
        taken = flat >= 0
        bias = np.where(taken, self.bias[flat], 0.0)
        _allow(flat.size)
        chosen = sparse.csr_array(
            (np.ones(taken.sum()), flat[taken], np.concatenate([[0], np.cumsum(taken)])), shape=(flat.size, self.size)
        )
        return replace(self.map(chosen, indices.shape), bias=bias)

    def scale(self, factors: np.ndarray) -> Value:
        """Times `factors`, entry by entry, broadcast to the tensor's shape."""
        spread = self.spread(factors)
        full = np.broadcast_to(factors, spread.shape).ravel()
        matrix = spread.operator()
        matrix = sparse.diags_array(full) @ matrix if sparse.issparse(matrix) else full[:, None] * matrix
        kept = None
        channels = _per_channel(factors, spread.shape)
        if spread.convolution is not None and channels is not None:
            kept = replace(spread.convolution, kernel=spread.convolution.kernel * channels[:, None, None, None])
        return Value(matrix, full * spread.bias, spread.shape, kept)

    def add(self, constant: np.ndarray) -> Value:
        """Plus a constant, broadcast."""
        spread = self.spread(constant)
        return replace(spread, bias=spread.bias + np.broadcast_to(constant, spread.shape).ravel())

    def plus(self, other: Value) -> Value:
        one, two = self.spread(np.empty(other.shape)), other.spread(np.empty(self.shape))
        return Value(one.operator() + two.operator(), one.bias + two.bias, one.shape)

    def spread(self, other: np.ndarray) -> Value:
        """Repeated along the axes in which `other` is longer."""
        shape = np.broadcast_shapes(self.shape, np.shape(other))
        if shape == self.shape:
            return self
        _allow(int(np.prod(shape, dtype=object)))
        return self.move(np.broadcast_to(np.arange(self.size).reshape(self.shape), shape))


def join(values: Iterable[Value | np.ndarray], axis: int, width: int) -> Value:
    """Tensors side by side along `axis`; constants among them are rows without weights."""
    parts = [
        v if isinstance(v, Value) else Value(sparse.csr_array((v.size, width)), np.ravel(v).astype(float), v.shape)
        for v in values
    ]
    starts = np.cumsum([0, *(p.size for p in parts)])
    places = [np.arange(p.size).reshape(p.shape) + start for p, start in zip(parts, starts, strict=False)]
    order = np.concatenate(places, axis=axis)
    stacked = Value(
        sparse.vstack([sparse.csr_array(p.operator()) for p in parts], format="csr"),
        np.concatenate([p.bias for p in parts]),
        (order.size,),
    )
    return stacked.move(order)


@dataclass
class Trail:
    """The layers so far, and how wide the last one is."""

    width: int
    layers: list[Layer] = field(default_factory=list)

    def activate(self, value: Value, phi: Activation, alive: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
        """Close a layer with `phi` on `value`, and carry what later nodes still need past it.

        Past a ReLU as ReLUs, so that the layer stays one; past anything else by rows with the identity.

        Returns:
            The activated value, and every value of `alive` rewritten in terms of the new layer.
        """
        matrix, bias, rows = value.operator(), value.bias, value.size
        moved: dict[str, Value] = {}
        needed = self._needed(alive.values())
        convolution = value.convolution
        if needed.size:
            plain = phi.name != "relu"
            signs = 1 if plain or (self.layers and self.layers[-1].activation.name in NEVER_NEGATIVE) else 2
            if plain:
                phi = by_rows([(phi, rows), (activation("identity"), int(needed.size))])
            unit = sparse.csr_array(
                (np.ones(needed.size), (np.arange(needed.size), needed)), shape=(needed.size, self.width)
            )
            matrix = sparse.vstack([sparse.csr_array(matrix), unit, -unit][: 1 + signs], format="csr")
            bias = np.concatenate([bias, np.zeros(signs * needed.size)])
            convolution = None
            back = sparse.csr_array((self.width, matrix.shape[0]))
            for sign, start in zip((1.0, -1.0)[:signs], (rows, rows + needed.size), strict=False):
                entries = (np.full(needed.size, sign), (needed, start + np.arange(needed.size)))
                back = back + sparse.csr_array(entries, shape=(self.width, matrix.shape[0]))
            moved = {n: Value(v.operator() @ back, v.bias, v.shape) for n, v in alive.items()}
        else:
            moved = {n: Value(sparse.csr_array((v.size, rows)), v.bias, v.shape) for n, v in alive.items()}
        self._close(matrix, bias, phi, convolution)
        chosen = None if not needed.size else sparse.eye_array(rows, matrix.shape[0], format="csr")
        return Value(chosen, np.zeros(rows), value.shape), moved

    def largest(self, parts: list[Value], alive: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
        """The largest of some tensors of one shape, entry by entry, as ReLUs: max(a, b) = relu(a - b) + b.

        Returns:
            As `activate`.
        """
        moved = dict(alive)
        shape, size = parts[0].shape, parts[0].size
        while len(parts) > 1:
            one, other, odd = parts[0:-1:2], parts[1::2], parts[len(parts) - len(parts) % 2 :]
            apart = [a.plus(b.scale(np.array(-1.0))) for a, b in zip(one, other, strict=True)]
            flat = [replace(v, shape=(v.size,)) for v in apart]
            stacked = join(flat, 0, self.width)
            kept = {f"part {i}": v for i, v in enumerate([*other, *odd])}
            positive, everything = self.activate(stacked, activation("relu"), moved | kept)
            moved = {name: v for name, v in everything.items() if name not in kept}
            parts = []
            for i in range(len(other)):
                places = (i * size + np.arange(size)).reshape(shape)
                parts.append(positive.move(places).plus(everything[f"part {i}"]))
            parts += [everything[f"part {len(other) + i}"] for i in range(len(odd))]
        return parts[0], moved

    def normalised(
        self, value: Value, axes: tuple[int, ...], epsilon: float, alive: Mapping[str, Value], *, centred: bool = True
    ) -> tuple[Value, dict[str, Value]]:
        """A normalisation over some axes, `u / sqrt(mean(u**2) + epsilon)`, in layers: u is `value` less its mean.

        Squares, their mean's inverse root r, and the product `u r = ((u + r)**2 - (u - r)**2) / 4`.

        Args:
            value: Any tensor.
            axes: Over which means are taken.
            epsilon: Added to the variance.
            alive: What later nodes still need.
            centred: Whether the mean is taken off (LayerNorm), or not (RMSNorm).

        Returns:
            As `activate`.
        """
        shape = value.shape
        if centred:
            value = value.plus(mean_over(value, axes, True).scale(np.array(-1.0)))
        own = "the value itself"
        squares, kept = self.activate(value, activation("square"), {**alive, own: value})
        variance = mean_over(squares, axes, True).add(np.array(epsilon))
        root, kept = self.activate(variance, activation("inverse_root"), kept)
        u, r = (replace(v, shape=(v.size,)) for v in (kept.pop(own), root.spread(np.empty(shape))))
        both = join([u.plus(r), u.plus(r.scale(np.array(-1.0)))], 0, self.width)
        product, kept = self.activate(both, activation("square"), kept)
        plus, minus = (product.move(np.arange(v.size) + start) for v, start in ((u, 0), (u, u.size)))
        made = plus.plus(minus.scale(np.array(-1.0))).scale(np.array(0.25))
        return replace(made, shape=shape), kept

    def network(self, value: Value, shape: tuple[int, ...], softmax: bool) -> Network:
        """The finished network, whose output is `value`."""
        if value.matrix is not None or value.bias.any() or not self.layers:
            self._close(value.operator(), value.bias, activation("identity"), value.convolution)
        return Network(tuple(self.layers), shape, softmax)

    def _close(self, matrix: Any, bias: np.ndarray, phi: Activation, convolution: Convolution | None) -> None:
        if sparse.issparse(matrix):
            matrix = sparse.csr_array(matrix)
            size = int(np.prod(matrix.shape, dtype=object))
            if matrix.nnz > 0.25 * size or size <= 4096:
                _allow(size)
                matrix = matrix.toarray()
        self.layers.append(Layer(repeated(matrix), bias, phi, convolution))
        self.width = self.layers[-1].neurons

    def _needed(self, alive: Iterable[Value]) -> np.ndarray:
        used = np.zeros(self.width, dtype=bool)
        for value in alive:
            matrix = value.operator()
            used |= np.asarray(abs(matrix).sum(axis=0)).ravel() > 0
        return np.flatnonzero(used)


def mean_over(value: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """The mean over some axes."""
    kept = tuple(1 if i in axes else d for i, d in enumerate(value.shape))
    size = int(np.prod(kept))
    target = np.broadcast_to(np.arange(size).reshape(kept), value.shape).ravel()
    weight = np.full(value.size, size / value.size)
    operator = sparse.csr_array((weight, (target, np.arange(value.size))), shape=(size, value.size))
    shape = kept if keep else tuple(d for i, d in enumerate(kept) if i not in axes)
    return value.map(operator, shape)


def _chosen(operator: Any, matrix: Any) -> Any:
    """`operator @ matrix`, by new column numbers where each row of `matrix` holds one entry of 1."""
    if sparse.issparse(operator) and sparse.issparse(matrix) and (matrix.nnz == matrix.shape[0]):
        operator, chosen = sparse.csr_array(operator), sparse.csr_array(matrix)
        if (np.diff(chosen.indptr) == 1).all() and (chosen.data == 1).all():
            places = (operator.data, chosen.indices[operator.indices], operator.indptr)
            return sparse.csr_array(places, shape=(operator.shape[0], matrix.shape[1]))
    return operator @ matrix


def _per_channel(factors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """One factor per channel of (1, channels, height, width), if that is all `factors` says."""
    full = np.broadcast_to(factors, shape)
    if full.ndim < 3 or full.shape[0] != 1:
        return None
    flat = full[0].reshape(full.shape[1], -1)
    return flat[:, 0] if (flat == flat[:, :1]).all() else None


def _allow(entries: int) -> None:
    if entries > LARGEST_OPERATOR:
        raise BadInput(f"a matrix of {entries:,} entries would be needed; at most {LARGEST_OPERATOR:,} are built")
