"""train, free_network: networks begun at random behind what is known, and brought near by stochastic gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from unveil.identification.fitting.least_squares import parameters
from unveil.whitebox.activation import Activation
from unveil.whitebox.activation import activation as activation_named
from unveil.whitebox.network import Layer, Network

BATCH, FEWEST_BATCHES = 256, 20  # answers in each, and batches below which a training is not worth it
RATE = 3e-3
FAINT = 1e-3  # directions of the outputs that vary less than this share of the most varying one count less
NEAR = 0.3  # inputs shorter than this share of the usual length count no more
# Batches: four per parameter within these limits, and as far as the numbers multiplied allow.
STEPS = (4000, 20_000)
WORK = 1e8
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # momenta of the first and the second kind, and what keeps a division finite


def free_network(  # noqa: PLR0913 - what is given and what is free of a network
    read: Sequence[Layer],
    rows: tuple[np.ndarray, np.ndarray] | None,
    widths: Sequence[int],
    x: Float[np.ndarray, "N n"],
    m: int,
    rng: np.random.Generator,
    activation: str = "relu",
) -> Network:
    """Layers that are known, and random ones behind, their preactivations of size one at these inputs.

    `read`: layers known whole, first to last. `rows`: rows and biases of some neurons of the next layer; None: none.
    `widths`: neurons of the hidden layers behind `read`; those of `rows` count among the first of them.
    """
    layers, h = list(read), x
    for layer in read:
        h = layer(h)
    kind = activation_named(activation)
    for depth, width in enumerate(widths):
        known = rows if depth == 0 and rows is not None else (np.empty((0, h.shape[1])), np.empty(0))
        drawn = max(0, width - len(known[0]))
        size = np.maximum(h.std(axis=0), 1e-3 * max(float(h.std()), 1e-300))
        w = rng.standard_normal((drawn, h.shape[1])) / size / np.sqrt(h.shape[1])
        # Hyperplanes pass through the inputs, not beside them.
        b = -w @ h.mean(axis=0) + 0.5 * rng.standard_normal(drawn)
        layers.append(Layer(np.concatenate([known[0], w]), np.concatenate([known[1], b]), kind))
        h = layers[-1](h)
    size = np.maximum(h.std(axis=0), 1e-3 * max(float(h.std()), 1e-300))
    w = rng.standard_normal((m, h.shape[1])) / size / np.sqrt(h.shape[1])
    layers.append(Layer(w, np.zeros(m), activation_named("identity")))
    return Network(tuple(layers))


def train(  # noqa: PLR0913 - tolerances of a fit, by name
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    rng: np.random.Generator,
    *,
    first: int = 0,
    steps: int | None = None,
    classes: bool = False,
) -> Network:
    """Stochastic gradients on the layers from `first` on.

    `y`: what was answered; with `classes` one number per class, 1 for the label and 0 for the others, and the network's
    outputs are scores whose softmax should be this. `steps`: batches; None: as many as seems worth it. Source: Kingma,
    Ba, Adam, ICLR 2015 (arXiv:1412.6980), with a rate that falls like a cosine.
    """
    h = x
    for layer in network.layers[:first]:
        h = layer(h)
    kinds = [layer.activation for layer in network.layers[first:]]
    tail = [(np.array(layer.dense()), layer.bias.copy()) for layer in network.layers[first:]]
    size = np.maximum(h.std(axis=0), 1e-3 * max(float(h.std()), 1e-300))
    middle, spread, turn = np.zeros(y.shape[1]), np.ones(y.shape[1]), np.eye(y.shape[1])
    if not classes:
        # What tells classes apart may be small beside what moves all outputs together: every direction counts as much.
        middle = y.mean(axis=0)
        _, spread, turn = np.linalg.svd((y - middle) / np.sqrt(len(y)), full_matrices=False)
        spread = np.maximum(spread, max(FAINT * spread[0], 1e-300))
    # Answers grow with the inputs; those near the middle are to be as right in proportion.
    length = np.linalg.norm(x, axis=1)
    weight = (1 / (length / max(float(np.median(length)), 1e-300) + NEAR))[:, None] ** 2
    weight = np.ones_like(weight) if classes else weight / weight.mean()
    h, target = h / size, (y - middle) @ turn.T / spread
    tail[0] = (tail[0][0] * size, tail[0][1])
    tail[-1] = (turn @ tail[-1][0] / spread[:, None], turn @ (tail[-1][1] - middle) / spread)
    flat = [v for pair in tail for v in pair]
    if steps is None:
        count = parameters(Network(network.layers[first:]))
        steps = int(min(np.clip(4 * count, *STEPS), WORK / count))
    mean, square = [np.zeros_like(v) for v in flat], [np.zeros_like(v) for v in flat]
    for step in range(1, steps + 1):
        rows = rng.integers(len(h), size=BATCH)
        rate = RATE * (1 + np.cos(np.pi * step / steps)) / 2
        slopes = _gradient(tail, kinds, h[rows], target[rows], weight[rows], classes)
        for v, g, a, q in zip(flat, slopes, mean, square, strict=True):
            a += (1 - _FIRST) * (g - a)
            q += (1 - _SECOND) * (g**2 - q)
            v -= rate * (a / (1 - _FIRST**step)) / (np.sqrt(q / (1 - _SECOND**step)) + _TINY)
    tail[0] = (tail[0][0] / size, tail[0][1])
    back = turn.T * spread
    tail[-1] = (back @ tail[-1][0], back @ tail[-1][1] + middle)
    layers = [Layer(w, b, kind) for (w, b), kind in zip(tail, kinds, strict=True)]
    return Network((*network.layers[:first], *layers), network.shape)


def one_hot(labels: Int[np.ndarray, " N"], known: Int[np.ndarray, " c"]) -> Float[np.ndarray, "N c"]:
    """One column per known label, 1 where it was given; a label that is not known is in none."""
    told: Bool[np.ndarray, "N c"] = labels[:, None] == known
    return told.astype(np.float64)


def _gradient(
    tail: list[tuple[np.ndarray, np.ndarray]],
    kinds: Sequence[Activation],
    h: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    classes: bool,
) -> list[np.ndarray]:
    values, slopes = [h], []
    for (w, b), kind in zip(tail, kinds, strict=True):
        z = values[-1] @ w.T + b
        slopes.append(kind.slope(z))
        values.append(kind.value(z))
    told = special.softmax(values[-1], axis=1) if classes else values[-1]
    back = weight * (told - y) / len(h) * slopes[-1]
    out: list[np.ndarray] = []
    for i in range(len(tail) - 1, -1, -1):
        out = [back.T @ values[i], back.sum(axis=0), *out]
        if i:
            back = (back @ tail[i][0]) * slopes[i - 1]
    return out
