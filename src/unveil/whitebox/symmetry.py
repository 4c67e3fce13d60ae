"""What can be changed in a network without changing its function: order, sign and scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from unveil.whitebox.activation import Activation, activation
from unveil.whitebox.network import Layer, Network

SCALABLE = ("relu", "leaky_relu", "identity")


@dataclass(frozen=True, eq=False)
class Rearrangement:
    """One layer's neurons in another order, sign and scale.

    Attributes:
        order: Which old neuron stands at each new place; may leave some out.
        factor: What each new neuron's weights and bias are multiplied with; negative only where symmetric.
    """

    order: Int[np.ndarray, " k"]
    factor: Float[np.ndarray, " k"]


def sign_symmetric(phi: Activation) -> bool:
    """Whether a neuron's weights and bias may be negated, its outgoing weights (and the next bias) making up for it."""
    return phi.parity in ("odd", "sigmoid")


def scale_symmetric(phi: Activation) -> bool:
    """Whether a neuron may be scaled by any positive number."""
    return phi.name.split("(")[0] in SCALABLE


def rearrange(network: Network, at: int, new: Rearrangement) -> Network:
    """The same function with the neurons of hidden layer `at` in another order, sign and scale.

    Neurons left out of `new.order` are removed, and then the function is another one.

    Source: Fornasier, Vybiral, Daubechies and followers: signs and order (tanh), the shift of the next bias (sigmoid,
    g(-t) = 1 - g(t)); positive rescaling for ReLU.
    """
    layer, after = network.layers[at], network.layers[at + 1]
    phi, factor = layer.activation, new.factor
    rows = Layer(factor[:, None] * layer.dense()[new.order], factor * layer.bias[new.order], phi)
    outgoing = after.dense()[:, new.order]
    bias = after.bias
    if phi.parity == "sigmoid":
        bias = bias + outgoing[:, factor < 0].sum(axis=1)
        columns = outgoing * np.sign(factor)
    else:
        columns = outgoing / (factor if scale_symmetric(phi) else np.sign(factor))
    layers = list(network.layers)
    layers[at], layers[at + 1] = rows, Layer(columns, bias, after.activation)
    return replace(network, layers=tuple(layers))


def fold_sines(network: Network) -> Network:
    """sin(t + k pi) = (-1)^k sin(t): biases of hidden sines into (-pi/2, pi/2], the same function."""
    layers = list(network.layers)
    for at, (layer, after) in enumerate(pairwise(network.layers)):
        if layer.activation.name != "sin":
            continue
        turns = np.ceil(layer.bias / np.pi - 0.5)
        sign = np.where(turns % 2 == 0, 1.0, -1.0)
        layers[at] = Layer(layers[at].weights, layer.bias - np.pi * turns, layer.activation)
        layers[at + 1] = Layer(after.dense() * sign, after.bias, after.activation)
    return replace(network, layers=tuple(layers))


def like(network: Network, other: Network) -> Network:
    """Hidden tanh written as sigmoid, 2 sigmoid(2t) - 1, or the other way, where `other` has it so: the same function.

    Answers cannot tell the two apart, so that a network may be found with either.
    """
    layers = list(network.layers)
    for at, (layer, after, theirs) in enumerate(zip(layers[:-1], layers[1:], other.layers[:-1], strict=False)):
        names = layer.activation.name, theirs.activation.name
        if names == ("tanh", "sigmoid"):
            scale, shift = 2.0, -1.0
        elif names == ("sigmoid", "tanh"):
            scale, shift = 0.5, 0.5
        else:
            continue
        outgoing = after.dense()
        mine = layers[at]
        layers[at] = Layer(scale * mine.dense(), scale * mine.bias, activation(names[1]))
        layers[at + 1] = Layer(scale * outgoing, after.bias + shift * outgoing.sum(axis=1), after.activation)
    return replace(network, layers=tuple(layers))
