"""The rank condition: slopes by a layer's preactivations, divided by phi', span as many directions as the next is wide.

Whatever lies behind the second layer, the derivative of the answers by the first layer's outputs is `B^T t(x)`, with B
the second layer's weights. By the preactivations z it is that times phi'(z): so dividing by phi' at the right scales
and shifts leaves a matrix whose rank is the second layer's width, and wrong ones do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import ask
from unveil.identification.smooth.inner_oracle import rising
from unveil.whitebox.activation import Activation

CERTIFIED = 1e-3
"""Ratio of singular values behind the rank to the last before it from which the condition counts as met."""

STENCIL = np.array([45.0, -9.0, 1.0]) / 60.0  # sixth-order central differences
_STEPS = 60
_ROUNDS = (2, 12, 80)  # starting values for each rank, round after round
_RISE = 2.26  # preactivations over which tanh rises steeply
_FURTHEST = 3.0  # shifts beyond this leave a neuron at rest: the condition is met there for nothing


@dataclass(frozen=True)
class Condition:
    """Scales and shifts at which the condition is met best.

    Attributes:
        scales: Factors of the preactivations.
        shifts: Added to them, after the factors.
        spectrum: Singular values of the slopes divided by phi', columns normalised.
        rank: How many count.
        rows: (rank, k) an orthonormal basis of what the slopes by the layer's *outputs* span: the next layer's rows.
    """

    scales: Float[np.ndarray, " k"]
    shifts: Float[np.ndarray, " k"]
    spectrum: Float[np.ndarray, " k"]
    rank: int
    rows: Float[np.ndarray, "r k"]

    @property
    def certificate(self) -> float:
        """Ratio of the first singular value behind the rank to the last before it."""
        return float(self.spectrum[self.rank] / self.spectrum[self.rank - 1])


def step_size(noise: float) -> float:
    """Change of the preactivations over which answers are differenced, for errors of this standard deviation."""
    return float(np.clip(max(noise, 1e-18) ** (1 / 7), 2e-3, 0.2))


def slopes(oracle: Oracle, layer: FirstLayer, z: Float[np.ndarray, "T k"], noise: float) -> Float[np.ndarray, "T k m"]:
    """Derivatives of the answers by the first layer's preactivations, as they are known so far.

    Args:
        oracle: To be asked.
        layer: Of no more neurons than inputs.
        z: Preactivations at which to ask.
        noise: Standard deviation of the answers' errors, in units of their spread.

    Queries: `6 T k`
    """
    h = step_size(noise)
    back = np.linalg.pinv(layer.weights).T
    steps = h * np.array([1.0, 2.0, 3.0, -1.0, -2.0, -3.0])
    moved = z[:, None, None, :] + steps[:, None, None] * np.eye(z.shape[1])
    x = oracle.nearest((moved - layer.shifts).reshape(-1, z.shape[1]) @ back)
    y = ask(oracle, x).reshape(len(z), 6, z.shape[1], -1)
    return np.asarray(np.einsum("s,tskm->tkm", STENCIL, y[:, :3] - y[:, 3:]) / h)


def meet_condition(
    z: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    activation: Activation,
    rank: int | None,
    *,
    rng: np.random.Generator,
    thorough: bool = True,
) -> Condition | None:
    """Find scales and shifts at which the condition is met; None if it is met nowhere.

    With the rank unknown all are tried, from below: too small a rank is not met.

    Args:
        z: Preactivations as known so far.
        g: Slopes there.
        activation: Of the layer.
        rank: Width of the next layer; found if None.
        rng: Draws starting values.
        thorough: Whether to end with many starting values: slow, and in vain where directions of the layer are off.
    """
    k = z.shape[1]
    # Each rank begins where the one below it ended: behind few dimensions shifts are found from afar, roughly.
    shifts = np.zeros(k)
    for trial in range(1, k) if rank is None else range(1, min(rank + 1, k)):
        first = _refined(z, g, activation, trial, np.ones(k), shifts, steps=25, scales_too=False)
        shifts = first.shifts
        if rank is None or trial == rank:
            chained = _refined(z, g, activation, trial, first.scales, shifts)
            if _sound(chained, _unit(activation)):
                return chained if rank is not None else _lowest(z, g, activation, chained, rng)
    # The true rank converges best; a few starting values for each tell most ranks, more of them the rest.
    for starts in _ROUNDS if thorough else _ROUNDS[:-1]:
        for trial in range(1, k) if rank is None else range(rank, min(rank + 1, k)):
            found = _best(z, g, activation, trial, starts, rng)
            if found is not None:
                return found if rank is not None else _lowest(z, g, activation, found, rng)
    return None


def chained(z: Float[np.ndarray, "T k"], g: Float[np.ndarray, "T k m"], activation: Activation) -> list[Condition]:
    """Where the condition is met best at every rank from 1 on, whether or not it is met there.

    Args:
        z: Preactivations as known so far.
        g: Slopes there.
        activation: Of the layer.
    """
    k = z.shape[1]
    shifts, found = np.zeros(k), list[Condition]()
    for rank in range(1, k):
        first = _refined(z, g, activation, rank, np.ones(k), shifts, steps=25, scales_too=False)
        shifts = first.shifts
        found.append(_refined(z, g, activation, rank, first.scales, shifts))
    return found


def _lowest(
    z: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    activation: Activation,
    found: Condition,
    rng: np.random.Generator,
) -> Condition:
    """See `at_lowest_rank`."""

    def flat(now: Condition) -> np.ndarray:
        return _divided(z, g, activation, now.scales, now.shifts)[0]

    def anew(now: Condition, wrong: int) -> Condition | None:
        scales, shifts = now.scales.copy(), now.shifts.copy()
        scales[wrong], shifts[wrong] = 1.0, 1.5 * _unit(activation) * rng.uniform(-1, 1)
        trial = _refined(z, g, activation, now.rank - 1, scales, shifts)
        return trial if _sound(trial, _unit(activation)) else None

    return at_lowest_rank(found, flat, anew, least=1, fall=CERTIFIED, tries=_ROUNDS[1])


class _Ranked(Protocol):
    @property
    def rank(self) -> int: ...


C = TypeVar("C", bound=_Ranked)


def at_lowest_rank(
    found: C,
    flat: Callable[[C], Float[np.ndarray, "N k"] | None],
    anew: Callable[[C, int], C | None],
    *,
    least: int,
    fall: float,
    tries: int,
) -> C:
    """The condition at a lower rank, if it is met there: one wrong neuron makes the rank one larger.

    Such a neuron is the one without which the others have a lower rank; it begins anew while the others stay.

    Args:
        found: The condition where it is met.
        flat: Slopes divided by phi', a column for each neuron; None where they are not finite.
        anew: The condition at the next lower rank with this neuron begun anew, if it is met.
        least: No lower rank is tried.
        fall: By what factor singular values fall behind the lower rank without that neuron, at most.
        tries: How often it is begun anew.
    """
    while found.rank > least and (slopes := flat(found)) is not None:
        wrong, falls = odd_neuron(slopes, found.rank)
        if falls > fall:
            break
        lower = next((each for _ in range(tries) if (each := anew(found, wrong)) is not None), None)
        if lower is None:
            break
        found = lower
    return found


def odd_neuron(flat: Float[np.ndarray, "N k"], rank: int) -> tuple[int, float]:
    """The neuron without which the others' slopes come nearest to a lower rank, and how far singular values fall there.

    Args:
        flat: Slopes divided by phi', a column for each neuron, of this rank.
        rank: At least 2.
    """
    unit = flat / np.linalg.norm(flat, axis=0)
    left = [np.linalg.svd(np.delete(unit, i, axis=1), compute_uv=False) for i in range(flat.shape[1])]
    falls = [float(values[rank - 1] / values[rank - 2]) for values in left]
    return int(np.argmin(falls)), min(falls)


def _best(
    z: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    activation: Activation,
    rank: int,
    starts: int,
    rng: np.random.Generator,
) -> Condition | None:
    """From several starting values: shifts alone, then shifts and scales."""
    k, unit = z.shape[1], _unit(activation)
    for start in range(starts):
        shifts = np.multiply((0.0, 0.3, 0.6, 1.0)[start % 4], rng.standard_normal(k))
        first = _refined(z, g, activation, rank, np.ones(k), shifts, steps=25, scales_too=False)
        found = _refined(z, g, activation, rank, first.scales, first.shifts)
        if _sound(found, unit):
            return found
    return None


def _unit(activation: Activation) -> float:
    """Preactivations over which the activation bends, beside those of tanh."""
    low, high = rising(activation)
    return (high - low) / _RISE


def _sound(found: Condition, unit: float) -> bool:
    """Whether the condition is met, at scales and shifts near those known."""
    near = np.abs(np.log(np.abs(found.scales))).max() < 0.7 and np.abs(found.shifts).max() < _FURTHEST * max(unit, 1.0)
    return bool(near and found.certificate < CERTIFIED)


def _divided(
    z: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    activation: Activation,
    scales: Float[np.ndarray, " k"],
    shifts: Float[np.ndarray, " k"],
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes by outputs (T m, k), and phi'' / phi'."""
    with np.errstate(all="ignore"):
        s = scales * z + shifts
        slope = activation.slope(s)
        flat = (g / slope[:, :, None]).transpose(0, 2, 1).reshape(-1, z.shape[1])
        # What overflows is far off: refused as what is not finite.
        return np.where(np.abs(flat) < 1e100, flat, np.nan), activation.curvature(s) / slope


def _refined(  # noqa: PLR0913 - unknowns of one fit
    z: Float[np.ndarray, "T k"],
    g: Float[np.ndarray, "T k m"],
    activation: Activation,
    rank: int,
    scales: Float[np.ndarray, " k"],
    shifts: Float[np.ndarray, " k"],
    steps: int = _STEPS,
    scales_too: bool = True,
) -> Condition:
    """Levenberg-Marquardt on what lies behind the rank, the span itself projected out."""
    k = z.shape[1]

    def behind(flat: np.ndarray) -> float:
        size = np.linalg.norm(flat, axis=0)
        if not np.isfinite(size).all() or size.min() == 0:  # far off, or a neuron on which nothing depends
            return np.inf
        unit = flat / size
        return float((np.linalg.svd(unit, compute_uv=False)[rank:] ** 2).sum())

    flat, ratio = _divided(z, g, activation, scales, shifts)
    cost, damping = behind(flat), 1e-3
    for _ in range(steps):
        if not np.isfinite(cost):
            break
        size = np.linalg.norm(flat, axis=0)
        unit = flat / size
        left, _, right = np.linalg.svd(unit, full_matrices=False)
        span, across = left[:, :rank], right[rank:].T
        # Each parameter moves one column, so the normal matrix is that of the columns' motions times that of `across`.
        change = unit * np.repeat(-ratio, g.shape[2], axis=0)
        motions = [change, change * np.repeat(z, g.shape[2], axis=0)] if scales_too else [change]
        motion = np.concatenate([part - unit * (unit * part).sum(axis=0) for part in motions], axis=1)
        motion -= span @ (span.T @ motion)
        weights = np.concatenate([across] * len(motions))
        normal = (motion.T @ motion) * (weights @ weights.T)
        slope = -(motion * (unit @ across @ weights.T)).sum(axis=0)
        scale = np.sqrt(np.maximum(np.diag(normal), 1e-300))
        accepted = False
        for _ in range(12):
            step = (
                np.linalg.solve(normal / np.outer(scale, scale) + damping * np.eye(len(scale)), slope / scale) / scale
            )
            new_shifts = shifts + step[:k]
            new_scales = scales + step[k:] if scales_too else scales
            new_flat, new_ratio = _divided(z, g, activation, new_scales, new_shifts)
            new_cost = behind(new_flat)
            if new_cost < cost:
                accepted = True
                break
            damping = max(damping, 1e-12) * 5
        if not accepted:
            break
        gained = new_cost < 0.999 * cost
        scales, shifts, flat, ratio, cost, damping = new_scales, new_shifts, new_flat, new_ratio, new_cost, damping / 8
        if not gained:
            break
    spectrum = np.linalg.svd(flat / np.linalg.norm(flat, axis=0), compute_uv=False) if np.isfinite(cost) else np.ones(k)
    rows = np.linalg.svd(flat / scales, full_matrices=False)[2][:rank] if np.isfinite(cost) else np.eye(k)[:rank]
    return Condition(scales, shifts, spectrum, rank, rows)
