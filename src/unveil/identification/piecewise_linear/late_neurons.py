"""late: neurons of a layer thought whole that are met only when the layers behind it are being read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import AffineMap, after
from unveil.identification.piecewise_linear.critical_point import (
    FOREIGN,
    CriticalPoint,
    along,
    local,
    measure_normals,
    row_space,
)
from unveil.identification.piecewise_linear.merging import grown, merge
from unveil.identification.piecewise_linear.neuron import Neuron, View
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.weight_completion import complete_weights, places

# Places where the hyperplane of a late neuron must go on straight, and directions among which they are chosen.
PLACES, DIRECTIONS = 4, 60
# Rounds in which its unknown weights are looked for, several at once, with other breakpoints near them at most.
ROUNDS, AT_ONCE, OTHERS = 6, 8, 12


@dataclass(frozen=True)
class Late:
    """A neuron that is missing from a layer.

    Attributes:
        depth: Which of the layers read.
        row: (d,) its weights, positive side active; zero where nothing shows them.
        bias: Its bias.
        error: Expected error of the weights.
        lines: Searched on the way.
    """

    depth: int
    row: Float[np.ndarray, " d"]
    bias: float
    error: float
    lines: list[Line]


def late(
    probe: Probe, layers: list[AffineMap], line: Line, which: int, error: float, pool: Float[np.ndarray, "N n"]
) -> Late | None:
    """Whether a breakpoint that no neuron explains is one of a layer read before; if so, that neuron.

    Its normal is no mixture of what that layer passes on, and its hyperplane goes on straight where neurons of that
    layer switch: one of a deeper layer bends there.

    Args:
        layers: Read before, the first one whole.
        error: Of the rows of these layers.
        pool: Where its unknown weights may be looked for.

    Queries: `2 (r + 3)` for r active neurons of the first layer; if it is one, about `2 r + 20` more, and 20 for every
        unknown weight.
    """
    seen = measure_normals(probe, layers[:1], line, np.array([which]))
    depth = _depth(layers, seen[0]) if seen else None
    if depth is None:
        return None
    before, view = layers[:depth], View.of(layers[:depth], seen[0], error)
    merged = merge([view], [])
    if not merged or not _straight(probe, layers[: depth + 1], merged[0], seen[0], line, which):
        return None
    neuron, lines = _completed(probe, before, merged[0], (seen[0], view), (error, pool))
    # Had it been active wherever a user asks it would not have been missed.
    side = -np.sign(np.median(after(before, pool) @ neuron.weights + neuron.bias))
    spread = neuron.spread.diagonal()[:-1][neuron.known]
    return Late(depth, side * neuron.weights, side * neuron.bias, float(np.sqrt(spread.max())), lines)


def _completed(
    probe: Probe,
    before: list[AffineMap],
    neuron: Neuron,
    seen: tuple[CriticalPoint, View],
    given: tuple[float, Float[np.ndarray, "N n"]],
) -> tuple[Neuron, list[Line]]:
    """The neuron with the weights that could be found, and the lines searched for them.

    Args:
        before: The layers before its own.
        neuron: As far as its first critical point tells.
        given: Error of the rows of the layers before, and where to look besides near that point.
    """
    (point, view), (error, pool), rng = seen, given, probe.rng
    views, lines = [view], list[Line]()
    tried: Counter[tuple[int, int]] = Counter()
    for _ in range(ROUNDS):
        if neuron.known.all():
            break
        base = pool[rng.permutation(len(pool))[:200]]
        normal = local(before, point.x)[1].T @ neuron.weights
        reach = 0.3 * np.linalg.norm(point.x) / np.sqrt(len(normal))
        base = np.concatenate([base, point.x + reach * rng.standard_normal((200, len(normal)))])
        direction = np.concatenate([rng.standard_normal((200, len(normal))), np.repeat(normal[None], 200, axis=0)])
        there = places(before, [neuron], base, direction[-len(base) :], tried, OTHERS)[:AT_ONCE]
        tried += Counter((0, place.unknown) for place in there)
        if not there:
            continue
        more, searched = complete_weights(probe, before, [neuron], there)
        lines += searched
        views += [View.of(before, each, error) for each in more]
        neuron = grown(views, neuron)
    return neuron, lines


def _depth(layers: list[AffineMap], seen: CriticalPoint) -> int | None:
    """From which layer a neuron with this normal is missing; None if all pass it on."""
    normal = seen.span @ seen.normal
    for depth in range(len(layers) - 1, 0, -1):
        span = row_space(local(layers[: depth + 1], seen.x)[1])
        if np.linalg.norm(normal - span @ (span.T @ normal)) > FOREIGN + 10 * seen.error:
            inner = row_space(local(layers[:depth], seen.x)[1])
            if np.linalg.norm(normal - inner @ (inner.T @ normal)) <= FOREIGN + 10 * seen.error:
                return depth
    return None


def _straight(
    probe: Probe, layers: list[AffineMap], neuron: Neuron, seen: CriticalPoint, line: Line, which: int
) -> bool:
    """Whether the answers bend on this hyperplane also where others of its layer, the last of these, have switched."""
    *before, (W, b) = layers
    J = local(before, seen.x)[1]
    normal = J.T @ neuron.weights
    normal /= np.linalg.norm(normal)
    active, found = W @ local(before, seen.x)[0] + b > 0, []
    for _ in range(DIRECTIONS):
        v = probe.rng.standard_normal(len(normal))
        v -= normal * (normal @ v)
        room = float(along(before, seen.x, v, 0.0, 10.0)[0][1])
        x = seen.x + probe.rng.uniform(0.5, 0.95) * room * v
        switched = int(((W @ local(before, x)[0] + b > 0) != active).sum())
        found.append((switched, x))
    found.sort(key=lambda each: -each[0])
    if not found[PLACES - 1][0]:
        return False
    strength = np.abs(line.jump[which]).max() / abs(float(line.direction @ normal))
    x = np.array([each[1] for each in found[:PLACES]])
    sigma = probe.sigma(x).max(axis=1)
    off = np.clip(3e4 * sigma / strength, 1e-7, 1e-3)[:, None] * normal
    bend = np.abs(probe.bend(x, off)).max(axis=1)
    least = np.maximum(40 * sigma, 0.01 * strength * np.linalg.norm(off, axis=1))
    return bool((bend > least).sum() > PLACES / 2)
