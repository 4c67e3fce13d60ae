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
        give: (k,), how far a preactivation may be beyond its ends, per unit by which its feature may be off.
        impossible: (k,), features that the activation does not take, not even within the tolerance.
        features: (k,), that are wanted.
        phi: What makes features of preactivations.
    """

    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    give: Float[np.ndarray, " k"]
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
        if not self.phi.piecewise_linear:
            assert self.phi.inverse is not None
            with np.errstate(all="ignore"):
                less, more = (np.asarray(self.phi.inverse(self.features + by)) for by in (-off, off))
            return np.where(np.isnan(less), -np.inf, less), np.where(np.isnan(more), np.inf, more)
        lowest, highest = range_of(self.phi, len(self.low))
        return (
            np.where(off < self.features - lowest, self.low - off * self.give, -np.inf),
            np.where(off < highest - self.features, self.high + off * self.give, np.inf),
        )


def range_of(phi: Activation, k: int) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Lowest and highest feature of k neurons whose activation never falls, about infinite where there is no end."""
    far = np.finfo(float).max / 1e8
    with np.errstate(over="ignore"):
        lowest, highest = (np.asarray(phi.value(np.full(k, end))) for end in (-far, far))
    return lowest, highest


def wanted(phi: Activation, features: Float[np.ndarray, " k"], tolerance: float) -> Wanted:
    """The preactivations behind features, of an activation that never falls.

    Args:
        phi: Piecewise linear and monotone with flat ends only, or injective with an inverse.
        features: What it is to give.
        tolerance: How far each may be off.
    """
    return _linear(phi, features, tolerance) if phi.piecewise_linear else _smooth(phi, features, tolerance)


def _linear(phi: Activation, features: np.ndarray, tolerance: float) -> Wanted:
    k = len(features)
    breakpoints, slopes = (np.asarray(each, float) for each in (phi.breakpoints, phi.slopes))
    # (a spare breakpoint at infinity, behind which nothing lies, so that there is at least one)
    breakpoints = np.pad(
        np.broadcast_to(breakpoints, (k, breakpoints.shape[-1])), ((0, 0), (0, 1)), constant_values=np.inf
    )
    slopes = np.pad(np.broadcast_to(slopes, (k, slopes.shape[-1])), ((0, 0), (0, 1)))
    pieces = np.isfinite(breakpoints).sum(axis=1)
    # The piece of each feature: how many breakpoints have a smaller value.
    values = np.full(breakpoints.shape, np.inf)
    for j in range(breakpoints.shape[1]):
        there = np.isfinite(breakpoints[:, j])
        values[there, j] = phi.value(np.where(there, breakpoints[:, j], 0.0))[there]
    piece = (features[:, None] > values).sum(axis=1)
    flat = slopes[np.arange(k), piece] == 0
    # A feature on a flat end, or off it by no more than the tolerance, is that of the whole end.
    below = (slopes[:, 0] == 0) & (piece == 0)
    # (the value of a flat upper end belongs to the piece below it, by how breakpoints are counted)
    top = np.where(pieces > 0, values[np.arange(k), np.maximum(pieces - 1, 0)], np.inf)
    above = (slopes[np.arange(k), pieces] == 0) & (pieces > 0) & (features >= top)
    slope, offset = phi.line(piece)
    impossible = (below & (features < values[:, 0] - tolerance)) | (above & (features > top + tolerance))
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = (features - offset) / slope
        steep = np.where(slopes > 0, slopes, np.inf).min(axis=1)
    low = np.where(flat, -np.inf, exact)
    high = np.where(flat, np.inf, exact)
    high = np.where(below, breakpoints[:, 0], high)
    last = breakpoints[np.arange(k), np.maximum(pieces - 1, 0)]
    low, high = np.where(above, last, low), np.where(above, np.inf, high)
    return Wanted(low, high, 1 / np.where(np.isfinite(steep), steep, 1.0), impossible, features, phi)


def _smooth(phi: Activation, features: np.ndarray, tolerance: float) -> Wanted:
    assert phi.inverse is not None

    def at(off: float) -> np.ndarray:
        assert phi.inverse is not None
        found = np.asarray(phi.inverse(features + off))
        # Beyond an end of the range, as far as the tolerance reaches, stands for the end.
        return np.where(np.isnan(found), np.copysign(np.inf, off), found)

    exact = np.asarray(phi.inverse(features))
    less, more = at(-tolerance), at(tolerance)
    impossible = np.isnan(phi.inverse(features - tolerance)) & np.isnan(phi.inverse(features + tolerance))
    saturated = ~(np.isfinite(exact) & np.isfinite(less) & np.isfinite(more))
    # A saturated neuron only has to be beyond where it is within half the tolerance; the other half is its give.
    low, high = np.where(saturated, at(-tolerance / 2), exact), np.where(saturated, at(tolerance / 2), exact)
    with np.errstate(invalid="ignore"):
        give = np.fmax(np.where(np.isfinite(low), low - less, 0.0), np.where(np.isfinite(high), more - high, 0.0))
    return Wanted(low, high, np.where(np.isfinite(give), give, 0.0) / tolerance, impossible, features, phi)
