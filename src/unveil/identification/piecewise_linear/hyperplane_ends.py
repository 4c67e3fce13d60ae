"""Where a hyperplane ends: that of a layer where nothing behind it is active, a deeper one where it bends.

In a narrow network one neuron of the first layer may be all that is active before a deeper one, whose hyperplane is
then straight, and parallel to the first one's, as far as the others stay inactive; and the first one's is met only
where a deeper neuron is active. Both are half hyperplanes. They differ by what meets at their ends.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.rounding import AGREE
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe

HALVINGS = 24
"""Halvings of the way to where a hyperplane is not met: the end is then known to 1e-7 of it."""

RADIUS, ANGLES = 1e-3, 64
"""Of the circle around an end, in units of a typical input, and how many points on it are asked."""

CLEAR = 1e-3
"""Share of the largest second difference around the circle from which on a hyperplane passes there."""


def told_by_ends(
    probe: Probe, frame: Frame, planes: Hyperplanes, unmet: Float[np.ndarray, "K n"]
) -> Int[np.ndarray, " K"]:
    """Whether hyperplanes that end are those of the layer at hand.

    Where the hyperplane of a neuron of the layer at hand ends, two pieces of a deeper neuron's meet: slopes jump across
    both with the sign of its output weight, across the one that ends with that sign times its own weight into the
    deeper one. Where a deeper neuron's ends, the two others are its next piece and the hyperplane at which it bends.

    Args:
        probe: Asks.
        frame: The inputs.
        planes: Hyperplanes, each met at `at`.
        unmet: A point on each at which it is not met.

    Returns:
        1 where it is straight, -1 where it bends, 0 where the signs of the jumps do not tell.

    Queries: at most `3 HALVINGS + ANGLES + 1` each
    """
    if not len(planes):
        return np.zeros(0, dtype=int)
    met, gone = planes.at.copy(), unmet.copy()
    across = planes.rows @ frame.V.T
    strength = np.abs(planes.jump).max(axis=1)
    for _ in range(HALVINGS):
        middle = (met + gone) / 2
        middle -= ((planes.rows * frame.values(middle)).sum(axis=1) + planes.bias)[:, None] * across
        sigma = probe.noise.at(middle).max(axis=1)
        half = np.clip(3e4 * sigma / strength, 1e-9, 0.01)
        step = half[:, None] * across
        y = probe.ask(np.concatenate([middle - step, middle, middle + step])).reshape(3, len(met), -1)
        second = np.abs(y[0] - 2 * y[1] + y[2]).max(axis=1)
        here = second > np.maximum(5 * AGREE * sigma, 0.01 * strength * half)
        met, gone = np.where(here[:, None], middle, met), np.where(here[:, None], gone, middle)
    y = probe.ask(np.concatenate(_circles(planes, met, across))).reshape(len(met), ANGLES + 1, -1)
    return np.array([_around(jump, each) for jump, each in zip(planes.jump, y, strict=True)], dtype=int)


def _circles(
    planes: Hyperplanes, ends: Float[np.ndarray, "K n"], across: Float[np.ndarray, "K n"]
) -> Float[np.ndarray, "K angles n"]:
    """Each end, and points on a circle around it: the hyperplane itself is met in the middle of the angles."""
    away = ends - planes.at
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300)
    radius = RADIUS * (1 + np.linalg.norm(ends, axis=1, keepdims=True) / np.sqrt(ends.shape[1]))
    up = radius * across / np.linalg.norm(across, axis=1, keepdims=True)
    angle = 2 * np.pi * np.arange(ANGLES)[:, None] / ANGLES
    points = ends[:, None] + np.cos(angle) * (radius * away)[:, None] + np.sin(angle) * up[:, None]
    return np.concatenate([ends[:, None], points], axis=1)


def _around(jump: Float[np.ndarray, " m"], y: Float[np.ndarray, "angles m"]) -> int:
    """What the hyperplanes that meet at an end, by answers there and around it, say of the one that ends."""
    # Zero where the answers are linear over three neighbours.
    step = 2 * np.pi / ANGLES
    value = y[1:] - y[0]
    second = np.roll(value, 1, axis=0) + np.roll(value, -1, axis=0) - 2 * np.cos(step) * value
    along = jump / max(float(np.linalg.norm(jump)), 1e-300)
    size = np.linalg.norm(second, axis=1)
    there = size > CLEAR * size.max()
    if there.all() or not there[ANGLES // 2 - 1 : ANGLES // 2 + 2].any():
        return 0
    # One jump shows at two neighbouring angles at most; where more do, two hyperplanes pass close to each other.
    first = int(np.flatnonzero(~there)[0])
    order = np.roll(np.arange(ANGLES), -first)
    runs = np.split(order, np.flatnonzero(np.diff(there[order])) + 1)
    runs = [run for run in runs if there[run[0]]]
    own = [run for run in runs if np.abs(run - ANGLES // 2).min() <= 1]
    others = [run for run in runs if np.abs(run - ANGLES // 2).min() > 1]
    if len(own) != 1 or any(len(run) > 2 for run in runs):
        return 0
    sign = [np.sign((second[run] @ along).sum()) for run in (own[0], *others)]
    if len(others) != 2:
        # It goes on in another direction, or ends at one that does not end there itself.
        return -1 if others else 0
    if sign[1] != sign[2]:
        return -1
    return 0 if sign[0] == sign[1] else 1
