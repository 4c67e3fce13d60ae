"""stand_in: layers that were not read, trained on answers so that there is a whole network to look at."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from unveil.whitebox.network import Network

Weights = list[tuple[np.ndarray, np.ndarray]]

# Neurons of the layers trained, as a share of those of the last layer read.
WIDTHS, NARROW = (3.0, 1.5), (1.5, 0.75)
BATCH = 256
# Directions of the outputs that vary less than this share of the most varying one count less.
FAINT = 1e-3
# Inputs shorter than this share of the usual length count no more.
NEAR = 0.3
# Neurons of that layer from which on the layers are narrow; and batches: four per parameter within these limits, and as
# far as the numbers multiplied allow: some ten seconds of one processor.
WIDE = 128
STEPS = (4000, 20_000)
WORK = 1e8
RATE = 3e-3


def stand_in(
    read: Weights,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    rng: np.random.Generator,
    *,
    steps: int | None = None,
) -> Network:
    """Two more hidden layers and an output layer behind the layers read, by stochastic gradients.

    This is training, not reading: its weights say nothing about the model's.

    Args:
        read: Layers that were read; they stay.
        x: Where was asked.
        y: What was answered.
        rng: Draws the first weights and the batches.
        steps: Batches; None: as many as seems worth it.

    Queries: `0`; the answers are given.

    Source: Kingma, Ba, Adam, ICLR 2015 (arXiv:1412.6980), with a rate that falls like a cosine.
    """
    h = x
    for w, b in read:
        h = np.maximum(h @ w.T + b, 0)
    middle = y.mean(axis=0)
    # What tells classes apart may be small beside what moves all outputs together: every direction counts as much.
    _, spread, turn = np.linalg.svd((y - middle) / np.sqrt(len(y)), full_matrices=False)
    spread = np.maximum(spread, max(FAINT * spread[0], 1e-300))
    size = np.maximum(h.std(axis=0), 1e-3 * h.std())
    # Answers grow with the inputs; those near the middle are to be as right in proportion.
    length = np.linalg.norm(x, axis=1)
    weight = (1 / (length / np.median(length) + NEAR))[:, None] ** 2
    weight /= weight.mean()
    h, target = h / size, (y - middle) @ turn.T / spread
    widths = WIDTHS if h.shape[1] < WIDE else NARROW
    sizes = [h.shape[1], *(max(8, int(share * h.shape[1])) for share in widths), y.shape[1]]
    tail = [(rng.standard_normal((out, width)) * np.sqrt(2 / width), np.zeros(out)) for width, out in pairwise(sizes)]
    flat = [v for pair in tail for v in pair]
    if steps is None:
        count = sum(v.size for v in flat)
        steps = int(min(np.clip(4 * count, *STEPS), WORK / count))
    mean, square = [np.zeros_like(v) for v in flat], [np.zeros_like(v) for v in flat]
    for step in range(1, steps + 1):
        rows = rng.integers(len(h), size=BATCH)
        rate = RATE * (1 + np.cos(np.pi * step / steps)) / 2
        for v, g, a, q in zip(flat, _gradient(tail, h[rows], target[rows], weight[rows]), mean, square, strict=True):
            a += 0.1 * (g - a)
            q += 0.001 * (g**2 - q)
            v -= rate * (a / (1 - 0.9**step)) / (np.sqrt(q / (1 - 0.999**step)) + 1e-8)
    tail[0] = (tail[0][0] / size, tail[0][1])
    back = turn.T * spread
    tail[-1] = (back @ tail[-1][0], back @ tail[-1][1] + middle)
    return Network.from_weights([*read, *tail])


def _gradient(tail: Weights, h: np.ndarray, y: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    values = [h]
    for i, (w, b) in enumerate(tail):
        z = values[-1] @ w.T + b
        values.append(np.maximum(z, 0) if i + 1 < len(tail) else z)
    back = weight * (values[-1] - y) / len(h)
    out: list[np.ndarray] = []
    for i in range(len(tail) - 1, -1, -1):
        out = [back.T @ values[i], back.sum(axis=0), *out]
        if i:
            back = (back @ tail[i][0]) * (values[i] > 0)
    return out
