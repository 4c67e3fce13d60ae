"""reduced, canonical: the same function without neurons that are constant or repeat another one; the widths stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer, Network
from unveil.whitebox.symmetry import Rearrangement, fold_sines, rearrange, scale_symmetric, sign_symmetric

CONSTANT = 1e-12
"""A neuron whose weights are so small beside the largest row of its layer is a constant."""

EQUAL_ROWS_DIFFERENCE = 1e-8
"""Two rows that differ by no more, relative to their length, are one."""


def reduced(network: Network) -> Network:
    """The same function, with what order, sign and scale leave open settled.

    Which of two equal neurons is which cannot be told, nor how they share their outgoing weights; and a neuron whose
    weights are zero only adds a constant to the next layer. So of equal neurons (up to sign and scale, where the
    activation has these symmetries) the first takes over the outgoing weights of the others, and the next bias takes
    over constants. What is taken over leaves an inert neuron, with zero weights, bias and outgoing weights.

    Args:
        network: Its hidden layers are looked at from the first to the last, since what is settled in one may make
            neurons of the next one equal.

    Returns:
        A network of the same widths, whose answers differ by rounding and at most by `EQUAL_ROWS_DIFFERENCE` of the
        size of a weight.
    """
    for at in range(len(network.layers) - 1):
        network = _without_equals(_without_constants(network, at), at)
    return network


def canonical(network: Network) -> Network:
    """The representative of all networks that differ by order, sign and scale of hidden neurons only.

    It is `reduced`. Rows of ReLU-like layers get length 1, sign-symmetric ones a positive largest entry, a sine its
    bias within (-pi/2, pi/2]; then neurons are sorted by their rows. Two equal networks have equal canonical forms up
    to rounding.
    """
    network = reduced(fold_sines(network))
    for at, layer in enumerate(network.layers[:-1]):
        phi = layer.activation
        rows = np.column_stack([network.layers[at].dense(), network.layers[at].bias])
        factor = np.ones(len(rows))
        if scale_symmetric(phi):
            length = np.linalg.norm(rows[:, :-1], axis=1)
            factor /= np.where(length > 0, length, 1.0)
        if sign_symmetric(phi):
            leading = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
            factor *= np.where(leading < 0, -1.0, 1.0)
        keys = np.round(factor[:, None] * rows, 9)
        order = np.lexsort(keys.T[::-1])
        network = rearrange(network, at, Rearrangement(order, factor[order]))
    return network


def inert(layer: Layer) -> Bool[np.ndarray, " k"]:
    """Which neurons of a reduced network's layer do nothing."""
    return np.asarray(~layer.dense().any(axis=1) & (layer.bias == 0))


def nearest_scale(
    a: Float[np.ndarray, "k n"], b: Float[np.ndarray, "l n"], phi: Activation
) -> tuple[Float[np.ndarray, "k l"], Float[np.ndarray, "k l"]]:
    """What each row of b is multiplied with to lie nearest each row of a, and how far it is then, relative to a's.

    Args:
        a: Rows, the bias last.
        b: Others.
        phi: Its symmetries are what may be used: a sign, a positive scale.
    """
    long_a, long_b = np.linalg.norm(a[:, :-1], axis=1), np.linalg.norm(b[:, :-1], axis=1)
    scale = np.ones((len(a), len(b)))
    if scale_symmetric(phi):
        scale = np.where(long_b > 0, long_a[:, None] / np.where(long_b > 0, long_b, 1.0), 1.0)
        scale = np.where(scale > 0, scale, 1.0)
    product = (a @ b.T) * scale
    if sign_symmetric(phi):
        scale, product = np.where(product < 0, -scale, scale), np.abs(product)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) * scale**2 - 2 * product
    length = np.linalg.norm(a, axis=1)[:, None]
    return scale, np.sqrt(np.maximum(squares, 0)) / np.where(length > 0, length, 1.0)


def _without_constants(network: Network, at: int) -> Network:
    layer, after = network.layers[at], network.layers[at + 1]
    weights, outgoing = layer.dense(), after.dense()
    size = np.linalg.norm(weights, axis=1)
    constant = size <= CONSTANT * size.max(initial=0.0)
    if not constant.any():
        return network
    bias = after.bias + outgoing[:, constant] @ layer.activation.value(layer.bias[constant])
    kept = ~constant
    return _replaced(
        network,
        at,
        Layer(weights * kept[:, None], layer.bias * kept, layer.activation),
        Layer(outgoing * kept, bias, after.activation),
    )


def _without_equals(network: Network, at: int) -> Network:
    layer = network.layers[at]
    rows = np.column_stack([layer.dense(), layer.bias])
    alive = ~inert(layer)
    scale, apart = nearest_scale(rows, rows, layer.activation)
    # Squares that cancel are exact to 1e-8 only: first who may be equal, then who is.
    near = np.argwhere(np.triu((apart < 1e-6) & alive & alive[:, None], 1))
    taker = np.arange(len(rows))
    factor = np.ones(len(rows))
    for i, j in near:
        if taker[i] != i or taker[j] != j:
            continue
        if np.linalg.norm(rows[i] - scale[i, j] * rows[j]) <= EQUAL_ROWS_DIFFERENCE * np.linalg.norm(rows[i]):
            taker[j], factor[j] = i, scale[i, j]
    kept = taker == np.arange(len(rows))
    if kept.all():
        return network
    network = rearrange(network, at, Rearrangement(np.arange(len(rows)), factor))
    layer, after = network.layers[at], network.layers[at + 1]
    outgoing = np.zeros_like(after.dense())
    np.add.at(outgoing.T, taker, after.dense().T)
    return _replaced(
        network,
        at,
        Layer(layer.dense() * kept[:, None], layer.bias * kept, layer.activation),
        Layer(outgoing, after.bias, after.activation),
    )


def _replaced(network: Network, at: int, layer: Layer, after: Layer) -> Network:
    return replace(network, layers=(*network.layers[:at], layer, after, *network.layers[at + 2 :]))
