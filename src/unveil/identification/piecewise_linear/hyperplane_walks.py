"""entering: along a neuron's hyperplane to where one more value begins to matter, without a question."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.output_layer import AffineMap, after
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import moved

# Steps of a walk, the longest one in units of one more than how far out it is, and what the value is to come to,
# relative to the same: a weight is told the better the larger, and the hyperplane lies the farther from there.
WALK_STEPS, LONGEST_WALK_STEP, ENTERING_VALUE = 60, 0.05, 2e-3
WALK_END_DISTANCE = 1e-7  # how far from the hyperplane a walk may end, likewise


def entering(
    layers: list[AffineMap], neuron: Neuron, unknown: int, x: Float[np.ndarray, "N n"]
) -> tuple[Float[np.ndarray, "W n"], Float[np.ndarray, "W n"]]:
    """Where a neuron's hyperplane, if one unknown weight were zero, enters the region where that weight matters.

    Random lines through what is usual hardly meet such places where the neuron or the value is rare. Along the
    hyperplane, as far as it is known, the value's preactivation rises by steps of Newton's method, region by region;
    walks that get stuck where it rises no further are left out. `layers`: at least one; the weight belongs to a value
    behind the last. `x`: where walks begin, best on the hyperplane. Returns places where no other unknown weight
    matters, and the normals there.
    """
    W, b = layers[-1]
    row, step = np.where(neuron.known, neuron.weights, 0), np.zeros_like(x)
    for _ in range(WALK_STEPS):
        x = x + step
        h, move = moved(layers[:-1], x)
        sums, moves = h @ W.T + b, W @ move
        on = sums > 0
        normal = np.einsum("k,nkd->nd", row, moves * on[:, :, None])
        size = np.maximum((normal**2).sum(axis=1), 1e-300)
        back = (np.maximum(sums, 0) @ row + neuron.bias) / size
        rise = moves[:, unknown]
        rise = rise - ((rise * normal).sum(axis=1) / size)[:, None] * normal
        far = 1 + np.linalg.norm(x, axis=1)
        wanted = (ENTERING_VALUE * far - sums[:, unknown]) / np.maximum((rise**2).sum(axis=1), 1e-300)
        step = _no_longer(wanted[:, None] * rise, far) - _no_longer(back[:, None] * normal, far)
    h = after(layers, x)
    there = (h[:, unknown] > 0) & ((h[:, ~neuron.known] > 0).sum(axis=1) == 1)
    there &= np.abs(h @ row + neuron.bias) < WALK_END_DISTANCE * far
    return x[there], normal[there] / np.sqrt(size[there])[:, None]


def _no_longer(step: Float[np.ndarray, "N n"], far: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N n"]:
    """Steps that are no longer than walks take them."""
    length = np.maximum(np.linalg.norm(step, axis=1), 1e-300)
    return np.asarray(step * np.minimum(1, LONGEST_WALK_STEP * far / length)[:, None])
