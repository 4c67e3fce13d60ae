"""A part of a box as a linear programme: every neuron between the lowest and the highest line over its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from unveil.whitebox.activation import Activation
from unveil.whitebox.linear_programme import Constraints
from unveil.whitebox.network import Network
from unveil.whitebox.wanted import Wanted

# Intervals are widened by this, relatively, for the rounding of their sums.
_ROUNDING = 1e-12
Interval = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Part:
    """The inputs of a box at which some preactivations lie in given intervals.

    Attributes:
        before: Lowest and highest preactivation of every layer, sure bounds.
        after: Of every layer's features.
        split: Per layer, which neurons' intervals were chosen, and do not follow from the box.
    """

    before: tuple[Interval, ...]
    after: tuple[Interval, ...]
    split: tuple[np.ndarray, ...]


def whole(network: Network, floor: Float[np.ndarray, " n"], ceiling: Float[np.ndarray, " n"]) -> Part | None:
    """The whole box."""
    free = [(np.full(k, -np.inf), np.full(k, np.inf)) for k in network.widths]
    return propagated(network, floor, ceiling, free, [np.zeros(k, bool) for k in network.widths])


def propagated(
    network: Network,
    floor: Float[np.ndarray, " n"],
    ceiling: Float[np.ndarray, " n"],
    chosen: list[Interval],
    split: list[np.ndarray],
) -> Part | None:
    """Bounds on every neuron, by interval arithmetic, cut down to the chosen ones; None if no input has them all."""
    low, high = floor, ceiling
    before: list[Interval] = []
    after: list[Interval] = []
    for layer, (least, most) in zip(network.layers, chosen, strict=True):
        size = abs(layer.weights)
        centre, radius = (low + high) / 2, (high - low) / 2
        middle, reach = layer.weights @ centre + layer.bias, size @ radius
        reach = reach + _ROUNDING * (size @ np.abs(centre) + np.abs(layer.bias) + reach)
        low, high = np.maximum(middle - reach, least), np.minimum(middle + reach, most)
        if (low > high).any():
            return None
        before.append((low, high))
        low, high = _image(layer.activation, low, high)
        after.append((low, high))
    return Part(tuple(before), tuple(after), tuple(split))


def halved(
    network: Network,
    floor: Float[np.ndarray, " n"],
    ceiling: Float[np.ndarray, " n"],
    part: Part,
    breakpoint: tuple[int, int, float],
) -> list[Part]:
    """The two parts in which one neuron is below and above a breakpoint."""
    layer, neuron, at = breakpoint
    made = []
    for side in (0, 1):
        chosen = [(low.copy(), high.copy()) for low, high in part.before]
        chosen[layer][1 - side][neuron] = at
        split = [each.copy() for each in part.split]
        split[layer][neuron] = True
        half = propagated(network, floor, ceiling, chosen, split)
        if half is not None:
            made.append(half)
    return made


class Relaxation:
    """The linear programme of parts of a box: variables are the input, every layer's features, and a miss t >= 0.

    Every row but the box may be missed by t. So the programme always has a point, and the bound on its minimum holds
    for all inputs of the part: at an input whose features are off by d there is a point with t = d.

    Args:
        network: Piecewise linear.
        wanted: Of the last layer, whose features are off by the tolerance where t is that.
        box: Lowest and highest value of every input, finite.
    """

    def __init__(self, network: Network, wanted: Wanted, box: Interval) -> None:
        self.network, self.wanted, self.box = network, wanted, box
        self.starts = np.cumsum([0, network.n, *network.widths])
        self.size = int(self.starts[-1]) + 1

    def constraints(self, part: Part, soft: bool = True) -> Constraints:
        """Rows of one part.

        Args:
            part: Of the box.
            soft: Whether rows may be missed by t; otherwise only the last layer's features, by t.
        """
        rows: list[Any] = []
        high: list[np.ndarray] = []

        def add(of: int, seen: Any, made: Any, end: np.ndarray) -> None:
            """seen @ (what the layer reads) + made @ (its features) <= end."""
            blocks: list[Any] = [None] * (len(self.network.layers) + 2)
            for k in range(len(blocks) - 1):
                blocks[k] = sparse.csr_array((len(end), int(self.starts[k + 1] - self.starts[k])))
            blocks[of], blocks[of + 1] = sparse.csr_array(seen), sparse.csr_array(made)
            blocks[-1] = sparse.csr_array(np.full((len(end), 1), -1.0 if soft else 0.0))
            rows.append(sparse.hstack(blocks, format="csr"))
            high.append(end)

        for i, layer in enumerate(self.network.layers):
            weights, bias = sparse.csr_array(layer.weights), layer.bias
            low, top = part.before[i]
            for neurons, slope, offset, sign in envelopes(layer.activation, low, top):
                # sign (h - slope (W x + b) - offset) <= 0
                pick = sparse.eye_array(layer.neurons, format="csr")[neurons] * sign
                seen = sparse.diags_array(-sign * slope) @ weights[neurons]
                add(i, seen, pick, sign * (slope * bias[neurons] + offset))
            chosen = np.flatnonzero(part.split[i])
            if chosen.size:
                none = sparse.csr_array((len(chosen), layer.neurons))
                add(i, weights[chosen], none, top[chosen] - bias[chosen])
                add(i, -weights[chosen], none, bias[chosen] - low[chosen])
        eye = sparse.eye_array(self.network.m, format="csr")
        for sign, end, off in self._ends():
            some = np.isfinite(end)
            nothing = sparse.csr_array((int(some.sum()), int(self.starts[-2])))
            rows.append(sparse.hstack([nothing, sign * eye[some], sparse.csr_array(-off[some, None])], format="csr"))
            high.append(sign * end[some])
        ends = np.concatenate(high)
        bottom = np.concatenate([self.box[0], *(low for low, _ in part.after), [0.0]])
        top_ = np.concatenate([self.box[1], *(high for _, high in part.after), [self._most(part)]])
        return Constraints(sparse.vstack(rows, format="csr"), np.full(len(ends), -np.inf), ends, bottom, top_)

    def _most(self, part: Part) -> float:
        """No miss can be larger."""
        low, high = part.after[-1]
        most = [
            (sign * (np.where(sign > 0, high, low) - end) / off)[np.isfinite(end)].max(initial=0.0)
            for sign, end, off in self._ends()
        ]
        return float(max(most)) + 1.0

    def _ends(self) -> tuple[tuple[float, np.ndarray, np.ndarray], ...]:
        """Sign, end, and how far beyond it per t: sign h <= sign end + off t."""
        return (1.0, self.wanted.high, self.wanted.more), (-1.0, self.wanted.low, self.wanted.less)

    def miss(self) -> Float[np.ndarray, " v"]:
        """The cost that is t."""
        return np.asarray(np.eye(1, self.size, self.size - 1)[0])

    def worst(self, v: Float[np.ndarray, " v"], part: Part) -> tuple[int, int, float] | None:
        """The breakpoint to split at: of the neuron farthest from its activation in the programme."""
        best, found = 1e-9, None
        for i, layer in enumerate(self.network.layers):
            x = v[self.starts[i] : self.starts[i + 1]]
            s = layer.affine(x[None])[0]
            gap = np.abs(v[self.starts[i + 1] : self.starts[i + 2]] - layer.activation.value(s))
            low, high = part.before[i]
            breakpoints = np.broadcast_to(
                np.asarray(layer.activation.breakpoints, float),
                (layer.neurons, np.shape(layer.activation.breakpoints)[-1]),
            )
            inside = (breakpoints > low[:, None]) & (breakpoints < high[:, None])
            gap = np.where(inside.any(axis=1), gap, 0.0)
            j = int(gap.argmax())
            if gap[j] > best:
                nearest = np.where(inside[j], np.abs(breakpoints[j] - s[j]), np.inf).argmin()
                best, found = float(gap[j]), (i, j, float(breakpoints[j, nearest]))
        return found


def envelopes(
    phi: Activation, low: Float[np.ndarray, " k"], high: Float[np.ndarray, " k"]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Lines below (sign -1) and above (sign 1) a piecewise-linear function on intervals.

    Each as (neurons, slope, offset, sign): all lines through two of the interval's ends and breakpoints that lie on one
    side of the rest, which is the convex hull.
    """
    k = len(low)
    breakpoints = np.broadcast_to(np.asarray(phi.breakpoints, float), (k, np.shape(phi.breakpoints)[-1]))
    places = np.clip(np.hstack([low[:, None], breakpoints, high[:, None]]), low[:, None], high[:, None])
    values = phi.value(places.T).T
    made = []
    count = places.shape[1]
    # An interval that is one point, or so short that a chord would be rounding: its piece's own line serves.
    short = high - low <= 1e-9 * np.maximum(1.0, np.abs(low))
    slope, offset = phi.line(phi.piece((low + high) / 2))
    if short.any():
        at = np.flatnonzero(short)
        room = np.abs(values[at] - slope[at, None] * places[at] - offset[at, None]).max(axis=1)
        made += [(at, slope[at], offset[at] + sign * room, sign) for sign in (1.0, -1.0)]
    for a in range(count):
        for b in range(a + 1, count):
            width = places[:, b] - places[:, a]
            proper = ~short & (width > 1e-12 * np.maximum(1.0, np.abs(places[:, b])))
            steep = np.divide(values[:, b] - values[:, a], width, out=np.zeros(k), where=proper)
            level = values[:, a] - steep * places[:, a]
            rest = values - steep[:, None] * places - level[:, None]
            scale = 1e-12 * (1 + np.abs(values).max(axis=1))
            for sign, fits in (
                (1.0, (rest <= scale[:, None]).all(axis=1)),
                (-1.0, (rest >= -scale[:, None]).all(axis=1)),
            ):
                at = np.flatnonzero(proper & fits)
                if at.size:
                    made.append((at, steep[at], level[at], sign))
    return made


def _image(phi: Activation, low: np.ndarray, high: np.ndarray) -> Interval:
    breakpoints = np.broadcast_to(np.asarray(phi.breakpoints, float), (len(low), np.shape(phi.breakpoints)[-1]))
    places = np.clip(np.hstack([low[:, None], breakpoints, high[:, None]]), low[:, None], high[:, None])
    values = phi.value(places.T).T
    return values.min(axis=1), values.max(axis=1)
