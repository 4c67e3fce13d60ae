"""What a layer's neurons must see so that its features are given ones: a value, or all beyond a breakpoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.whitebox.activation import Activation


@dataclass(frozen=True, eq=False)
class Wanted:
    """Preactivations s with `low <= s <= high`.

    Attributes:
        low: (k,), minus infinity where there is no lower end.
        high: (k,). Equal to `low` where the feature determines the preactivation.
        less: (k,), how far below `low` a preactivation is whose feature is off by the tolerance, over the tolerance.
        more: (k,), the same above `high`.
        impossible: (k,), features that the activation does not take, not even within the tolerance.
        features: (k,), that are wanted.
        phi: What makes features of preactivations.
    """

    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    less: Float[np.ndarray, " k"]
    more: Float[np.ndarray, " k"]
    impossible: Bool[np.ndarray, " k"]
    features: Float[np.ndarray, " k"]
    phi: Activation

    @property
    def determined(self) -> Bool[np.ndarray, " k"]:
        return np.asarray(self.low == self.high)

    def ends(self, off: float) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """What preactivations lie between whose features are off by no more than `off`, which may be large.

        Where all features beyond some preactivation are near enough, as those of a flat end, the end is open.
        """
        return _between(self.phi, self.features, off)

    def missed(self, off: float) -> float:
        """Where some preactivation is beyond its end by `less` or `more` times `off`, its feature is off by as much."""
        low, high = self.low - self.less * off, self.high + self.more * off
        under = (self.features - self.phi.value(low))[np.isfinite(low) & (self.less > 0)]
        over = (self.phi.value(high) - self.features)[np.isfinite(high) & (self.more > 0)]
        return float(min(under.min(initial=np.inf), over.min(initial=np.inf)))


def between(phi: Activation, low: Float[np.ndarray, " k"], high: Float[np.ndarray, " k"], tolerance: float) -> Wanted:
    """The preactivations whose features lie between two ends, from the middle on: they are off by the tolerance there.

    Args:
        phi: As for `wanted`.
        low: Of features.
        high: Above `low`.
        tolerance: What the distance from the middle to an end is called.
    """
    least, most = _between(phi, low, 0.0)[0], _between(phi, high, 0.0)[1]
    both = np.isfinite(least) & np.isfinite(most)
    room = np.where(both, np.where(both, most, 0.0) - np.where(both, least, 0.0), 2.0) / 2
    off = np.maximum(room, 1e-9 * np.maximum(1.0, np.abs(np.where(np.isfinite(least), least, most)))) / tolerance
    return Wanted(least + room, most - room, off, off, np.zeros(len(low), bool), (low + high) / 2, phi)


def range_of(phi: Activation, k: int) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Lowest and highest feature of k neurons whose activation never falls, about infinite where there is no end."""
    far = np.finfo(float).max / 1e8
    with np.errstate(over="ignore"):
        lowest, highest = (np.asarray(phi.value(np.full(k, end))) for end in (-far, far))
    return lowest, highest


def wanted(phi: Activation, features: Float[np.ndarray, " k"], tolerance: float) -> Wanted:
    """The preactivations behind features, of an activation that never falls.

    A feature within the tolerance of a flat end is that of the whole end.

    Args:
        phi: Piecewise linear and monotone with flat ends only, or injective with an inverse.
        features: What it is to give.
        tolerance: How far each may be off.
    """
    least, most = _between(phi, features, tolerance)
    if phi.piecewise_linear:
        lowest, highest = range_of(phi, len(features))
        impossible = (features < lowest - tolerance) | (features > highest + tolerance)
        low, high = _between(phi, np.clip(features, lowest, highest), 0.0)
        low, high = np.where(np.isfinite(least), low, -np.inf), np.where(np.isfinite(most), high, np.inf)
    else:
        assert phi.inverse is not None
        impossible = np.isnan(phi.inverse(features - tolerance)) & np.isnan(phi.inverse(features + tolerance))
        low = high = np.asarray(phi.inverse(features))
        # A saturated neuron only has to be beyond where it is within half the tolerance; the other half is left.
        saturated = ~(np.isfinite(low) & np.isfinite(least) & np.isfinite(most))
        half = _between(phi, features, tolerance / 2)
        low, high = np.where(saturated, half[0], low), np.where(saturated, half[1], high)
    with np.errstate(invalid="ignore"):
        less, more = (np.where(np.isfinite(gap), gap, 0.0) / tolerance for gap in (low - least, most - high))
    return Wanted(low, high, less, more, impossible, features, phi)


def _between(phi: Activation, features: np.ndarray, off: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest preactivations with features off by no more than `off`, infinite at an open end."""
    if phi.piecewise_linear:
        return _reached(phi, features - off, above=False), _reached(phi, features + off, above=True)
    assert phi.inverse is not None
    with np.errstate(all="ignore"):
        least, most = (np.asarray(phi.inverse(features + by)) for by in (-off, off))
    return np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(most), np.inf, most)


def _reached(phi: Activation, features: np.ndarray, above: bool) -> np.ndarray:
    """Where a piecewise-linear activation reaches features, going up; with `above` where it leaves them."""
    k = len(features)
    breakpoints = np.asarray(phi.breakpoints, float)
    breakpoints = np.broadcast_to(breakpoints, (k, breakpoints.shape[-1]))
    there = np.isfinite(breakpoints)
    values = np.full(breakpoints.shape, np.inf)
    for j in range(breakpoints.shape[1]):
        values[:, j] = np.where(there[:, j], phi.value(np.where(there[:, j], breakpoints[:, j], 0.0)), np.inf)
    piece = (features[:, None] >= values if above else features[:, None] > values).sum(axis=1)
    slope, offset = phi.line(piece)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slope == 0, np.where(piece == 0, -np.inf, np.inf), (features - offset) / slope)
