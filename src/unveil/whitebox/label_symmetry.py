"""What labels cannot tell of a network: a positive scale of all logits, an affine part they share, classes unseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.outcome import BadInput
from unveil.whitebox.network import Layer, Network


def as_classes(network: Network, labels: tuple[int, ...] | None = None) -> Network:
    """The network with one logit per class seen, and without what all of these share.

    Args:
        network: Its largest output is the label. A single output is a threshold: the label is 1 where it reaches 0.
        labels: Outputs of classes that were seen; by default all.

    Returns:
        The same labels wherever these are among `labels`; the outputs' weights add up to zero over classes.

    Raises:
        BadInput: A label that no output stands for.
    """
    last = network.layers[-1]
    weights, bias = last.dense(), last.bias
    if network.m == 1:
        weights, bias = np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])
    if labels is not None:
        if not len(labels) or min(labels) < 0 or max(labels) >= len(bias):
            raise BadInput(f"labels must be outputs from 0 to {len(bias) - 1}; got {labels}")
        weights, bias = weights[list(labels)], bias[list(labels)]
    layer = Layer(weights - weights.mean(axis=0), bias - bias.mean(), last.activation)
    return replace(network, layers=(*network.layers[:-1], layer), softmax=False)


def in_scale_of(network: Network, other: Network, x: Float[np.ndarray, "N n"]) -> Network:
    """The network with all logits times the positive number that brings them nearest to another's at given inputs."""
    mine, theirs = network(x), other(x)
    size = float((mine**2).sum())
    factor = float((mine * theirs).sum()) / size if size > 0 else 1.0
    last = network.layers[-1]
    layer = Layer(max(factor, 1e-12) * last.dense(), max(factor, 1e-12) * last.bias, last.activation)
    return replace(network, layers=(*network.layers[:-1], layer))
