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
# Directions of the outputs that vary less than this share of the most varying one count less.
FAINT_OUTPUT_DIRECTION = 1e-3
SHORT_INPUT_LENGTH = 0.3  # inputs shorter than this share of the usual length count no more
# Batches: four per parameter within these limits, and as far as the numbers multiplied allow.
TRAINING_BATCH_LIMITS = (4000, 20_000)
WORK = 1e8
WARM = 0.02  # share of the batches in which the rate rises
# Momenta of the first and the second kind, and what keeps a division finite.
_FIRST, _SECOND, _TINY = 0.95, 0.98, 1e-10
# Batches after which the coordinates of a layer are turned anew; sides longer than this are not turned.
_TURNED, _WIDEST = 10, 256


def free_network(  # noqa: PLR0913 - what is given and what is free of a network
    read: Sequence[Layer],
    rows: tuple[Float[np.ndarray, "r d"], Float[np.ndarray, " r"]] | None,
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
    counts: Float[np.ndarray, "N _"] | float = 1.0,
    batch: int = BATCH,
) -> Network:
    """Stochastic gradients on the layers from `first` on, in single precision: least squares come afterwards.

    `y`: what was answered; with `classes` one number per class, 1 for the label and 0 for the others, and the network's
    outputs are scores whose softmax should be this. `counts`: what the error of each answer is multiplied by. `steps`:
    batches; None: as many as seems worth it. Source: `Turned`, with a rate that falls like a cosine.
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
        spread = np.maximum(spread, max(FAINT_OUTPUT_DIRECTION * spread[0], 1e-300))
    # Answers grow with the inputs; those near the middle are to be as right in proportion.
    length = np.linalg.norm(x, axis=1)
    weight = (1 / (length / max(float(np.median(length)), 1e-300) + SHORT_INPUT_LENGTH))[:, None] ** 2
    # Outputs are turned, so that what an answer counts for is a number for all of them.
    weight = (
        np.ones_like(weight) if classes else weight * np.mean(np.broadcast_to(counts, y.shape) ** 2, axis=1)[:, None]
    )
    weight = (weight / weight.mean()).astype(np.float32)
    h, target = (h / size).astype(np.float32), ((y - middle) @ turn.T / spread).astype(np.float32)
    tail[0] = (tail[0][0] * size, tail[0][1])
    tail[-1] = (turn @ tail[-1][0] / spread[:, None], turn @ (tail[-1][1] - middle) / spread)
    blocks = [np.concatenate([w, b[:, None]], axis=1).astype(np.float32) for w, b in tail]
    if steps is None:
        count = parameters(Network(network.layers[first:]))
        steps = int(min(np.clip(4 * count, *TRAINING_BATCH_LIMITS), WORK / count))
    turned = [Turned(block.shape) for block in blocks]
    for step in range(1, steps + 1):
        rows = rng.integers(len(h), size=batch)
        rate = np.float32(RATE * (1 + np.cos(np.pi * step / steps)) / 2 * min(1.0, step / (WARM * steps)))
        slopes = _gradient(blocks, kinds, h[rows], target[rows], weight[rows], classes)
        for block, slope, each in zip(blocks, slopes, turned, strict=True):
            block -= rate * each.step(slope)
    tail = [(block[:, :-1].astype(np.float64), block[:, -1].astype(np.float64)) for block in blocks]
    tail[0] = (tail[0][0] / size, tail[0][1])
    back = turn.T * spread
    tail[-1] = (back @ tail[-1][0], back @ tail[-1][1] + middle)
    layers = [Layer(w, b, kind) for (w, b), kind in zip(tail, kinds, strict=True)]
    return Network((*network.layers[:first], *layers), network.shape)


def one_hot(labels: Int[np.ndarray, " N"], known: Int[np.ndarray, " c"]) -> Float[np.ndarray, "N c"]:
    """One column per known label, 1 where it was given; a label that is not known is in none."""
    told: Bool[np.ndarray, "N c"] = labels[:, None] == known
    return told.astype(np.float64)


class Turned:
    """Adam in the coordinates of a layer's neurons and inputs in which its gradients have been uncorrelated.

    Source: Vyas et al., SOAP, ICLR 2025 (arXiv:2409.11321): Adam (Kingma, Ba, ICLR 2015) in the eigenvectors of Shampoo
    (Gupta, Koren, Singer, ICML 2018), which one multiplication and a QR factorisation follow.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._mean, self._square = (np.zeros(shape, dtype=np.float32) for _ in range(2))
        self._products = [np.zeros((k, k if k <= _WIDEST else 0), dtype=np.float32) for k in shape]
        self._turns: list[np.ndarray] = []
        self._count = 0

    def step(self, gradient: Float[np.ndarray, "o k"]) -> Float[np.ndarray, "o k"]:
        """What is to be taken off the weights, for a rate of one."""
        self._count += 1
        for side, products in zip((gradient, gradient.T), self._products, strict=True):
            if products.size:
                products += np.float32(1 - _SECOND) * (side @ side.T - products)
        if not self._turns:
            self._turns = [np.linalg.eigh(each)[1][:, ::-1] if each.size else each for each in self._products]
        self._mean += np.float32(1 - _FIRST) * (gradient - self._mean)
        self._square += np.float32(1 - _SECOND) * (self._turned(gradient) ** 2 - self._square)
        mean = self._turned(self._mean) / np.float32(1 - _FIRST**self._count)
        square = self._square / np.float32(1 - _SECOND**self._count)
        out = self._turned(mean / (np.sqrt(square) + np.float32(_TINY)), back=True)
        if self._count % _TURNED == 0:
            self._turn()
        return out

    def _turned(self, a: Float[np.ndarray, "o k"], *, back: bool = False) -> Float[np.ndarray, "o k"]:
        rows, columns = self._turns
        if rows.size:
            a = (rows if back else rows.T) @ a
        return a @ (columns.T if back else columns) if columns.size else a

    def _turn(self) -> None:
        """Coordinates in the order of their size, each brought nearer to an eigenvector."""
        for axis, products in enumerate(self._products):
            if not products.size:
                continue
            turn = self._turns[axis]
            order = np.argsort(-np.einsum("ij,ij->j", turn, products @ turn), kind="stable")
            self._square = np.take(self._square, order, axis=axis)
            self._turns[axis] = np.linalg.qr(products @ turn[:, order])[0]


def _gradient(
    blocks: list[Float[np.ndarray, "_ _"]],
    kinds: Sequence[Activation],
    h: Float[np.ndarray, "N k"],
    y: Float[np.ndarray, "N m"],
    weight: Float[np.ndarray, "N _"],
    classes: bool,
) -> list[np.ndarray]:
    """Of the mean loss, by each layer's (W | b)."""
    values, slopes = [h], list[np.ndarray]()
    for block, kind in zip(blocks, kinds, strict=True):
        z = values[-1] @ block[:, :-1].T + block[:, -1]
        slopes.append(z > 0 if kind.name == "relu" else kind.slope(z))
        values.append(np.maximum(z, 0, out=z) if kind.name == "relu" else kind.value(z))
    told = special.softmax(values[-1], axis=1) if classes else values[-1]
    back = weight * (told - y) / len(h) * slopes[-1]
    out: list[np.ndarray] = []
    for i in range(len(blocks) - 1, -1, -1):
        out = [np.concatenate([back.T @ values[i], back.sum(axis=0)[:, None]], axis=1), *out]
        if i:
            back = (back @ blocks[i][:, :-1]) * slopes[i - 1]
    return out
