"""The rank condition with all weights free: a layer known roughly, directions included, becomes exact.

Slopes by what a layer takes, times the inverse of its weights and divided by phi', have the rank of the next layer's
width. With weights W and shifts d free that is far more equations than unknowns, and Gauss-Newton steps from a layer
that is right to a few digits end at the errors of the slopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.smooth.rank_condition import at_lowest_rank
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer

MET = 1e-3  # ratio of singular values around the rank from which the condition counts as met
_STEPS = 80
_ANEW = 40
_LOPSIDED = 1e5  # condition of the weights, inputs of unit spread, beyond which they have run away
_SPARE = 1.2  # equations for each unknown


@dataclass(frozen=True)
class FreeCondition:
    """A layer at which the condition is met, and how well.

    Attributes:
        layer: Its weights, shifts and activation.
        rank: The next layer's width.
        certificate: Ratio of the first singular value behind the rank to the last before it.
        rows: (rank, k) an orthonormal basis of the next layer's rows.
    """

    layer: Layer
    rank: int
    certificate: float
    rows: Float[np.ndarray, "r k"]


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


def meet_freely(
    c: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    starts: Sequence[Layer],
    ranks: Sequence[int],
    *,
    met: float = MET,
    rng: np.random.Generator,
) -> FreeCondition | None:
    """The layer of as many neurons as inputs at which the condition is met, of the lowest rank; None if there is none.

    Args:
        c: What the layer takes.
        g: Derivatives of the answers by it.
        starts: Layers that may be nearly right.
        ranks: Of the next layer, from below.
        met: The condition counts as met where singular values fall by this factor behind the rank.
        rng: Draws weights anew for neurons that turn out wrong.
    """
    for rank in ranks:
        if len(c) < places_needed(c.shape[1], rank, g.shape[2]):
            continue
        found = [_refined(c, g, start, rank) for start in starts]
        best = min((f for f in found if f is not None), key=lambda f: f.certificate, default=None)
        if best is not None and best.certificate < met:
            return _lowest(c, g, best, ranks, met, rng)
    return None


def _lowest(
    c: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    found: FreeCondition,
    ranks: Sequence[int],
    met: float,
    rng: np.random.Generator,
) -> FreeCondition:
    """See `at_lowest_rank`."""

    def flat(now: FreeCondition) -> np.ndarray | None:
        state = _state(c, g, now.layer.dense(), now.layer.bias, now.layer.activation)
        return None if state is None else state[0]

    def anew(now: FreeCondition, wrong: int) -> FreeCondition | None:
        weights, shifts = now.layer.dense().copy(), now.layer.bias.copy()
        row = rng.standard_normal(c.shape[1])
        weights[wrong] = row * np.linalg.norm(weights[wrong]) / np.linalg.norm(row)
        shifts[wrong] = 0.5 * rng.standard_normal() - weights[wrong] @ c.mean(axis=0)
        trial = _refined(c, g, Layer(weights, shifts, now.layer.activation), now.rank - 1)
        return trial if trial is not None and trial.certificate < met else None

    return at_lowest_rank(found, flat, anew, least=min(ranks), fall=met, tries=_ANEW)


def _refined(
    c: Float[np.ndarray, "T k"], g: Float[np.ndarray, "T k m"], start: Layer, rank: int
) -> FreeCondition | None:
    """Levenberg-Marquardt on what lies behind the rank, the span itself projected out."""
    kind, k = start.activation, c.shape[1]
    weights, shifts = start.dense(), start.bias
    if not np.isfinite(weights).all() or np.linalg.cond(weights) > 1e8:
        return None
    state = _state(c, g, weights, shifts, kind)
    if state is None:
        return None
    size = np.maximum(np.linalg.norm(state[0], axis=0), np.finfo(float).tiny)
    cost, damping = _behind(state[0] / size, rank), 1e-3
    for _ in range(_STEPS):
        flat, by_sum, ratio, along = state
        residual, motion = _linear(flat / size, by_sum, ratio, along, size, rank)
        scale = np.maximum(np.linalg.norm(motion, axis=0), 1e-300)
        motion = motion / scale
        normal, slope = motion.T @ motion, -motion.T @ residual
        gained = False
        for _ in range(10):
            damped = normal + damping * np.eye(len(slope))
            try:
                step = linalg.cho_solve(linalg.cho_factor(damped), slope) / scale
            except (linalg.LinAlgError, ValueError):  # singular, or not finite
                damping = 10 * max(damping, 1e-14)
                continue
            turn = np.eye(k) + step[: k * k].reshape(k, k)
            trial = turn @ weights, shifts + step[k * k :]
            moved = _state(c, g, *trial, kind) if np.linalg.cond(turn) < 1e4 else None
            after = np.inf if moved is None else _behind(moved[0] / size, rank)
            if moved is not None and after < cost:
                gained = after < 0.9 * cost
                (weights, shifts), state, cost, damping = trial, moved, after, max(damping / 10, 1e-15)
                break
            damping = 10 * max(damping, 1e-14)
        if not gained:
            break
    unit = state[0] / np.linalg.norm(state[0], axis=0)
    # The condition is met for nothing where phi' is the same everywhere, and where slopes divided by next to nothing at
    # few places outweigh those at all others.
    if np.linalg.cond(weights * c.std(axis=0)) > _LOPSIDED or 1 / (unit**4).sum(axis=0).max() < rank + 1:
        return None
    values = np.linalg.svd(unit, compute_uv=False)
    rows = np.linalg.svd(state[0], full_matrices=False)[2][:rank]
    return FreeCondition(Layer(weights, shifts, kind), rank, float(values[rank] / values[rank - 1]), rows)


_State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _state(
    c: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    weights: Float[np.ndarray, "k k"],
    shifts: Float[np.ndarray, " k"],
    kind: Activation,
) -> _State | None:
    """Slopes by the layer's outputs (T m, k) and by its sums (T, k, m), phi'' / phi', sums without shifts (T, k)."""
    along = c @ weights.T
    by_sum = np.einsum("tdm,dk->tkm", g, np.linalg.inv(weights))
    with np.errstate(all="ignore"):
        slope = kind.slope(along + shifts)
        ratio = kind.curvature(along + shifts) / slope
        flat = (by_sum / slope[:, :, None]).transpose(0, 2, 1).reshape(-1, c.shape[1])
    return (flat, by_sum, ratio, along) if np.isfinite(flat).all() and np.abs(flat).max() < 1e100 else None


def _behind(unit: Float[np.ndarray, "N k"], rank: int) -> float:
    return float((np.linalg.svd(unit, compute_uv=False)[rank:] ** 2).sum())


def _linear(
    unit: Float[np.ndarray, "N k"],
    by_sum: Float[np.ndarray, "T k m"],
    ratio: Float[np.ndarray, "T k"],
    along: Float[np.ndarray, "T k"],
    size: Float[np.ndarray, " k"],
    rank: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What lies behind the rank, and how it moves with (1 + E) W in place of W, row by row, and with the shifts."""
    k, outputs = unit.shape[1], by_sum.shape[2]
    left, _, right = np.linalg.svd(unit, full_matrices=False)
    span, across = left[:, :rank], right[rank:].T  # (T m, r), (k, k - r)
    sums = by_sum.transpose(0, 2, 1).reshape(-1, k)
    divided = unit * size / np.where(sums == 0, 1.0, sums)  # 1 / phi', for each column
    turned = -unit * np.repeat(ratio, outputs, axis=0)
    far = np.repeat(along, outputs, axis=0)
    # E_ij adds -S_i / phi'_j to column j, and j's sum times what column i bends to column i.
    first = -(sums[:, :, None] * (divided / size)[:, None, :])  # (T m, i, j): in column j
    second = turned[:, :, None] * far[:, None, :]  # (T m, i, j): in column i
    first -= np.tensordot(span, np.tensordot(span.T, first, axes=1), axes=1)
    second -= np.tensordot(span, np.tensordot(span.T, second, axes=1), axes=1)
    shifted = turned - span @ (span.T @ turned)
    moves = first[..., None] * across[None, None, :, :] + second[..., None] * across[None, :, None, :]
    turning = moves.transpose(0, 3, 1, 2).reshape(-1, k * k)
    shifting = (shifted[..., None] * across[None]).transpose(0, 2, 1).reshape(-1, k)
    behind = unit @ across
    return behind.ravel(), np.concatenate([turning, shifting], axis=1)
