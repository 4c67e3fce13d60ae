"""Line: the breakpoints of a piecewise-linear function along one line, and what could have hidden between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.one_line import one_line


@one_line
@dataclass(frozen=True)
class Line:
    """The breakpoints on one line `base + t * direction`, `low <= t <= high`, and what could have hidden.

    Attributes:
        t: (K,) where, ascending.
        jump: (K, m) slope after less slope before.
        slope: (K + 1, m) of the pieces.
        value: (K, m) answers at the breakpoints, from the lines on both sides.
        width: (K,) uncertainty of t; two breakpoints closer than this are one.
        low: Where the search began.
        high: Where it ended.
        unresolved: (U, 2) stretches that were given up: the answers contradict each other, or the budget of the
            search was used up.
        base: (n,) the point at t = 0.
        direction: (n,) the input's change per unit of t.
        hidden: (K + 1, m) for each piece the change of slope that its answers would not show: a breakpoint of a smaller
            jump in the middle four fifths of the piece may be missed. Infinite in a stretch that was given up.
        doubt: (K + 1, m) standard deviation of `slope`; infinite where a piece has too few answers.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: np.maximum(x[:, 0] - 0.25, 0), shape=2)
        >>> (line,) = uv.breakpoints(
        ...     oracle, np.zeros((1, 2)), np.array([[1.0, 0.0]]), low=-1, high=1, rng=np.random.default_rng(0)
        ... )
        >>> line.t.round(9), line.jump.round(9)
        (array([0.25]), array([[1.]]))
    """

    t: Float[np.ndarray, " K"]
    jump: Float[np.ndarray, "K m"]
    slope: Float[np.ndarray, "pieces m"]
    value: Float[np.ndarray, "K m"]
    width: Float[np.ndarray, " K"]
    low: float
    high: float
    unresolved: Float[np.ndarray, "U 2"]
    base: Float[np.ndarray, " n"]
    direction: Float[np.ndarray, " n"]
    hidden: Float[np.ndarray, "pieces m"]
    doubt: Float[np.ndarray, "pieces m"]

    @property
    def edges(self) -> Float[np.ndarray, " ends"]:
        """Ends of the pieces."""
        return np.concatenate([[self.low], self.t, [self.high]])

    @property
    def points(self) -> Float[np.ndarray, "K n"]:
        """The breakpoints as inputs."""
        return self.inputs(self.t)

    def inputs(self, t: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N n"]:
        """Points of the line."""
        return np.asarray(self.base + t[:, None] * self.direction)

    def middle(self, count: int) -> Line:
        """The line between the pieces' middles around so many breakpoints in the middle; the line itself if it has no
        more than these."""
        if len(self.t) <= count:
            return self
        first = (len(self.t) - count) // 2
        edges, here = self.edges, slice(first, first + count)
        low, high = ((edges[i] + edges[i + 1]) / 2 for i in (first, first + count))
        pieces = slice(first, first + count + 1)
        inside = (self.unresolved[:, 0] < high) & (self.unresolved[:, 1] > low)
        return replace(
            self,
            **{name: getattr(self, name)[here] for name in ("t", "jump", "value", "width")},
            **{name: getattr(self, name)[pieces] for name in ("slope", "hidden", "doubt")},
            low=float(low),
            high=float(high),
            unresolved=self.unresolved[inside],
        )

    def at(self, t: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N m"]:
        """Answers along the line, from the nearest breakpoint of the piece. Needs at least one breakpoint."""
        piece = np.searchsorted(self.t, t)
        before, after = np.maximum(piece - 1, 0), np.minimum(piece, len(self.t) - 1)
        near = np.where(np.abs(t - self.t[before]) < np.abs(t - self.t[after]), before, after)
        return np.asarray(self.value[near] + (t - self.t[near])[:, None] * self.slope[piece])


def unit_rows(rows: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
    """The rows with length one; rows of zeros stay."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))
