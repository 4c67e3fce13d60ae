"""The rank condition: slopes by a layer's preactivations, divided by phi', span as many directions as the next is wide.

Whatever lies behind the second layer, the derivative of the answers by the first layer's outputs is `B^T t(x)`, with B
the second layer's weights. By the preactivations it is that times phi': dividing by phi' at the right weights and
shifts leaves a matrix whose rank is the second layer's width, and wrong ones do not. Of a layer whose directions are
known scales and shifts are free, of one that is known roughly all weights and shifts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import ask
from unveil.identification.smooth.inner_oracle import rising
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer

# Ratio of singular values behind the rank to the last before it from which the condition counts as met.
CONDITION_MET_RATIO = 1e-3
STENCIL = np.array([45.0, -9.0, 1.0]) / 60.0  # sixth-order central differences
# Evaluations of a fit of shifts alone, and of all that is free; a fit ends where a step lessens the squares by less
# than this share.
_FIRST, _STEPS, _GAIN = 25, 80, 1e-2
_RISE = 2.26  # preactivations over which tanh rises steeply
_FURTHEST = 3.0  # shifts beyond this leave a neuron at rest: the condition is met there for nothing
_LOPSIDED = 1e5  # condition of the weights, inputs of unit spread, beyond which they have run away
_SPARE = 1.2  # equations for each unknown, where all weights are free
_FAR = 1e6  # residual of weights that are no layer


@dataclass(frozen=True)
class Condition:
    """A layer at which the condition is met best."""

    layer: Layer  # its weights, shifts and activation
    rank: int  # how many singular values count: the next layer's width
    certificate: float  # ratio of the first singular value behind the rank to the last before it; columns normalised
    # an orthonormal basis of what the slopes by the layer's outputs span: the next layer's rows
    rows: Float[np.ndarray, "r k"]
    spread: float  # smallest number of slopes, in effect, that a column's size comes from


class Slopes(NamedTuple):
    """What a layer takes at some places, (T, k), and the derivatives of the answers by it, (T, k, m)."""

    c: Float[np.ndarray, "T k"]
    g: Float[np.ndarray, "T k m"]

    @property
    def k(self) -> int:
        """Numbers that the layer takes."""
        return int(self.c.shape[1])


def step_size(noise: float) -> float:
    """Change of the preactivations over which answers are differenced, for errors of this standard deviation."""
    return float(np.clip(max(noise, 1e-18) ** (1 / 7), 2e-3, 0.2))


def slopes(oracle: Oracle, layer: FirstLayer, z: Float[np.ndarray, "T k"], noise: float) -> Float[np.ndarray, "T k m"]:
    """Derivatives of the answers by the first layer's preactivations, as they are known so far. Queries: `6 T k`."""
    h = step_size(noise)
    back = np.linalg.pinv(layer.weights).T
    steps = h * np.array([1.0, 2.0, 3.0, -1.0, -2.0, -3.0])
    moved = z[:, None, None, :] + steps[:, None, None] * np.eye(z.shape[1])
    x = oracle.nearest((moved - layer.shifts).reshape(-1, z.shape[1]) @ back)
    y = ask(oracle, x).reshape(len(z), 6, z.shape[1], -1)
    return np.asarray(np.einsum("s,tskm->tkm", STENCIL, y[:, :3] - y[:, 3:]) / h)


def places_needed(k: int, rank: int, outputs: int) -> int:
    """Places at which slopes are to be known so that all weights of k neurons follow from them."""
    return -(-int(_SPARE * k * (k + 1) / max(k - rank, 1) + rank + 1) // outputs)


def random_layers(
    c: Float[np.ndarray, "N k"], activation: Activation, count: int, rng: np.random.Generator
) -> list[Layer]:
    """Layers of as many neurons as inputs that bend much, or little, over these inputs."""
    k, drawn = c.shape[1], []
    for _ in range(count):
        rows = np.linalg.qr(rng.standard_normal((k, k)))[0] / c.std(axis=0) * 10.0 ** rng.uniform(-1, 0)
        drawn.append(Layer(rows, 0.5 * rng.standard_normal(k) - rows @ c.mean(axis=0), activation))
    return drawn


def meet_condition(told: Slopes, activation: Activation, rank: int | None) -> Condition | None:
    """Find scales and shifts at which the condition is met; None if it is met nowhere.

    With the rank unknown all are tried, from below: too small a rank is not met. `told`: slopes by the preactivations
    as known so far. `rank`: width of the next layer; found if None.
    """
    low, high = rising(activation)
    furthest = _FURTHEST * max((high - low) / _RISE, 1.0)  # beside those of tanh
    for found in chained(told, activation):
        if found is None or rank not in (None, found.rank) or found.certificate >= CONDITION_MET_RATIO:
            continue
        scales, shifts = found.layer.dense().diagonal(), found.layer.bias
        # At scales and shifts near those known.
        if np.abs(np.log(np.abs(scales))).max() < 0.7 and np.abs(shifts).max() < furthest:
            return found
    return None


def chained(told: Slopes, activation: Activation) -> list[Condition | None]:
    """Where scales and shifts meet the condition best at every rank from 1 on, whether or not it is met there.

    Each rank begins where the one below it ended: behind few dimensions shifts are found from afar, roughly. `told`:
    slopes by the preactivations as known so far.
    """
    start, out = Layer(np.eye(told.k), np.zeros(told.k), activation), list[Condition | None]()
    for rank in range(1, told.k):
        shifted, found = _in_two_steps(told, start, rank)
        start = start if shifted is None else shifted.layer
        out.append(found)
    return out


def meet_freely(
    told: Slopes, starts: Sequence[Layer], ranks: Sequence[int], *, met: float = CONDITION_MET_RATIO
) -> Condition | None:
    """The layer of as many neurons as inputs at which the condition is met, of the lowest rank; None if there is none.

    That is far more equations than unknowns: from a layer that is right to a few digits it ends at the errors of the
    slopes. `told`: slopes by what the layer takes. `ranks`: of the next layer, from below. `met`: the condition counts
    as met where singular values fall by this factor behind the rank.
    """
    c, k, free = told.c, told.k, np.ones((told.k, told.k), dtype=bool)

    def sound(found: Condition | None) -> bool:
        """Whether it is met, and not by a phi' that is the same everywhere, or next to nothing at few places."""
        if found is None or found.certificate >= met or found.spread < found.rank + 1:
            return False
        return bool(np.linalg.cond(found.layer.dense() * c.std(axis=0)) <= _LOPSIDED)

    for rank in ranks:
        if len(c) < places_needed(k, rank, told.g.shape[2]):
            continue
        found = [each for start in starts if sound(each := refined(told, start, rank, free)) and each is not None]
        if found:
            return min(found, key=lambda each: each.certificate)
    return None


def _in_two_steps(told: Slopes, start: Layer, rank: int) -> tuple[Condition | None, Condition | None]:
    """With shifts alone free, then with scales too."""
    first = refined(told, start, rank, np.zeros((told.k, told.k), dtype=bool), _FIRST)
    return first, None if first is None else refined(told, first.layer, rank, np.eye(told.k, dtype=bool))


class _Divided(NamedTuple):
    """Slopes by a layer's outputs, one column for each neuron."""

    unit: Float[np.ndarray, "N k"]  # columns of unit norm
    size: Float[np.ndarray, " k"]  # what their norms were
    sums: Float[np.ndarray, "N k"]  # slopes by its preactivations
    inverse: Float[np.ndarray, "N k"]  # 1 / phi', divided by the column's size
    turned: Float[np.ndarray, "N k"]  # how a unit column changes with the neuron's preactivation
    back: Float[np.ndarray, "k k"]  # inverse of the weights

    @classmethod
    def of(cls, told: Slopes, layer: Layer) -> _Divided | None:
        """None where they are not finite, or nothing depends on a neuron."""
        weights, outputs = layer.dense(), told.g.shape[2]
        if not np.isfinite(weights).all() or np.linalg.cond(weights) > 1e8:
            return None
        back = np.linalg.inv(weights)
        z = np.repeat(layer.affine(told.c), outputs, axis=0)
        sums = np.einsum("tdm,dk->tmk", told.g, back).reshape(len(z), -1)
        with np.errstate(all="ignore"):
            inverse = 1 / layer.activation.slope(z)
            ratio = layer.activation.curvature(z) * inverse
            flat = sums * inverse
        size = np.linalg.norm(flat, axis=0)
        if not np.isfinite(flat).all() or np.abs(flat).max() >= 1e100 or size.min() == 0:
            return None
        return cls(flat / size, size, sums, inverse / size, -flat / size * ratio, back)

    def moves(
        self, c: Float[np.ndarray, "N k"], span: Float[np.ndarray, "N r"], across: Float[np.ndarray, "k a"]
    ) -> Float[np.ndarray, "Na p"]:
        """How `unit @ across` moves with all weights, row by row, and with the shifts; the span projected out."""
        # A weight W_ij moves column i by the preactivation's change c_j, and every column by the inverse's.
        own = self.turned[:, None, :] * across.T
        inner = np.einsum("nl,la,jl->naj", self.inverse, across, self.back)
        by_weights = own[..., None] * c[:, None, None, :] - self.sums[:, None, :, None] * inner[:, :, None, :]
        every = np.concatenate([by_weights.reshape(*own.shape[:2], -1), own], axis=2)
        every -= np.tensordot(span, np.tensordot(span.T, every, axes=1), axes=1)
        return np.asarray(every.reshape(-1, every.shape[2]))


def refined(
    told: Slopes, start: Layer, rank: int, free: Bool[np.ndarray, "k k"], steps: int = _STEPS
) -> Condition | None:
    """Least squares for what lies behind the rank, the span itself projected out. `start`: the layer to begin with.
    `rank`: the next layer's width. `free`: which of the weights move; all shifts do."""
    k, outputs = told.k, told.g.shape[2]
    every = np.concatenate([start.dense().ravel(), start.bias])
    moving = np.flatnonzero(np.append(free.ravel(), np.ones(k, dtype=bool)))
    c = np.repeat(told.c, outputs, axis=0)

    def layer(p: Float[np.ndarray, " q"]) -> Layer:
        now = every.copy()
        now[moving] = p
        return Layer(now[: k * k].reshape(k, k), now[k * k :], start.activation)

    def divided(p: Float[np.ndarray, " q"]) -> _Divided | None:
        # A step along what nothing depends on may lead to no number.
        return _Divided.of(told, layer(p)) if np.isfinite(p).all() else None

    def behind(p: Float[np.ndarray, " q"]) -> Float[np.ndarray, " Na"]:
        there = divided(p)
        if there is None:
            return np.full(len(c) * (k - rank), _FAR)
        return np.asarray((there.unit @ np.linalg.svd(there.unit, full_matrices=False)[2][rank:].T).ravel())

    def moves(p: Float[np.ndarray, " q"]) -> Float[np.ndarray, "Na q"]:
        there = divided(p)
        assert there is not None
        left, _, right = np.linalg.svd(there.unit, full_matrices=False)
        return there.moves(c, left[:, :rank], right[rank:].T)[:, moving]

    if _Divided.of(told, start) is None:
        return None
    fit = optimize.least_squares(
        behind, every[moving], moves, method="lm", x_scale="jac", ftol=_GAIN, xtol=1e-15, gtol=1e-15, max_nfev=steps
    )
    end = divided(fit.x)
    if end is None:
        return None
    values = np.linalg.svd(end.unit, compute_uv=False)
    rows = np.linalg.svd(end.unit * end.size, full_matrices=False)[2][:rank]
    spread = 1 / float((end.unit**4).sum(axis=0).max())
    return Condition(layer(fit.x), rank, float(values[rank] / values[rank - 1]), rows, spread)
