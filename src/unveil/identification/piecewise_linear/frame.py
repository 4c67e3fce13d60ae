"""Frame: where a hidden layer's input can be set freely, so that the next layer looks like a first one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import optimize

from unveil.blackbox.domain import Within

# Deviations of the logarithms of a layer's d values, in units of sqrt(2 log d): above one a few of them make up their
# sum (Derrida, 1981). A neuron with weights of one sign, but for few, switches only there.
TAILS = 0.2, 0.5, 1.2
BOX_MEAN_LIMITS = (0.03, 0.97)  # mean of a coordinate of a point in a box, in units of the box; drawn for each point


@dataclass(frozen=True)
class Frame:
    """Inputs on which every neuron read so far is active, so that the layer's values are an affine function of the
    input.

    On the region `G x + g > 0` the values of the layer are `h = M x + c`; moving along the columns of V moves one of
    them each
    (`M V = I`). Before anything was read h is the input itself and the region is the legal box, or everything.
    """

    M: Float[np.ndarray, "d n"]  # the layer's values from the input
    c: Float[np.ndarray, " d"]
    V: Float[np.ndarray, "n d"]  # a right inverse of M
    G: Float[np.ndarray, "q n"]  # the region; q may be 0
    g: Float[np.ndarray, " q"]
    lift: Float[np.ndarray, "n s"]  # the free coordinates in which the region is searched, `x = lift s + shift`
    shift: Float[np.ndarray, " n"]
    within: Within | None = None  # the legal box, if any
    # (s, s) and (s,) what normal numbers are multiplied by and what is added for usual points; None: nothing
    usual: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of_input(cls, n: int, within: Within | None) -> Frame:
        """The input itself."""
        eye = np.eye(n)
        G, g = np.empty((0, n)), np.empty(0)
        if within is not None:
            G = np.concatenate([eye, -eye])
            g = np.concatenate([np.full(n, -within[0]), np.full(n, within[1])])
        return cls(eye, np.zeros(n), eye, G, g, eye, np.zeros(n), within)

    @property
    def d(self) -> int:
        return len(self.c)

    @property
    def free(self) -> bool:
        """Whether the region is everything."""
        return len(self.g) == 0

    def values(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N d"]:
        """The layer's values at inputs of the region."""
        # Of the input itself (`of_input`) they are the input.
        return np.asarray(x + self.c if self.M is self.V else x @ self.M.T + self.c)

    def after(self, rows: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Frame:
        """The frame of the next layer: also all these neurons active. Needs independent rows."""
        M, c = rows @ self.M, rows @ self.c + bias
        V = self.V @ np.linalg.pinv(rows)
        G, g = np.concatenate([self.G, M]), np.concatenate([self.g, c])
        first = self.lift.shape[1] == self.M.shape[1] and self.within is None and self.free
        lift, shift = (V, -V @ c) if first else (self.lift, self.shift)
        return Frame(M, c, V, G, g, lift, shift, self.within)

    def smaller(self, margin: Float[np.ndarray, " d"]) -> Frame:
        """With each of the values larger than this in the region, which errors of their rows may not leave."""
        return replace(self, g=np.append(self.g[: len(self.g) - self.d], self.g[len(self.g) - self.d :] - margin))

    def room(self, x: Float[np.ndarray, "P n"], step: Float[np.ndarray, "P n"]) -> tuple[np.ndarray, np.ndarray]:
        """For each row, the interval of t with `x + t step` inside the region."""
        if self.free:
            return np.full(len(x), -np.inf), np.full(len(x), np.inf)
        value, rate = x @ self.G.T + self.g, step @ self.G.T
        with np.errstate(divide="ignore", invalid="ignore"):
            at = -value / rate
        low = np.where(rate > 0, at, -np.inf).max(axis=1)
        high = np.where(rate < 0, at, np.inf).min(axis=1)
        return low, high

    def reachable(self) -> bool:
        """Whether the region holds any input."""
        try:
            self.sample(1, np.random.default_rng(0))
        except ValueError:
            return False
        return True

    def sample(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count n"]:
        """Points of the region, spread over its corners as well as its middle. Raises ValueError: the region is
        empty."""
        n = self.M.shape[1]
        if self.free:
            x = rng.standard_normal((count, n))
            return x if self.usual is None else np.asarray(x @ self.usual[0].T + self.usual[1])
        if self.within is not None and len(self.g) == 2 * n:
            low, high = self.within
            # Points with few coordinates near their upper ends, with many, and with half of them: a sum of inputs that
            # is hardly ever large among points that are all like each other is so at some of these.
            share = rng.uniform(BOX_MEAN_LIMITS[0], BOX_MEAN_LIMITS[1], size=(count, 1))
            u = rng.beta(share, 1 - share, size=(count, n))
            # Not quite to the walls: a step from there would be cut off.
            return np.asarray(low + (high - low) * (0.01 + 0.98 * u))
        if len(self.g) == self.lift.shape[1]:
            # An orthant of the first layer's values.
            tail = rng.choice(TAILS, size=(count, 1)) * np.sqrt(2 * np.log(max(len(self.g), 2)))
            h = np.exp(tail * rng.standard_normal((count, len(self.g))))
            h /= np.maximum(1, np.linalg.norm(h, axis=1, keepdims=True) / (10 * np.sqrt(len(self.g))))
            h += self.c - self.g  # as far inside as the region is smaller than the orthant
            return np.asarray(h @ self.lift.T + self.shift)
        return self._walk(count, rng)

    def _walk(self, count: int, rng: np.random.Generator) -> np.ndarray:
        G, g = self.G @ self.lift, self.G @ self.shift + self.g
        # A point well inside: as far as possible from every wall, in a ball about the size of the biases.
        norms = np.linalg.norm(G, axis=1)
        size = 3 * (1 + np.abs(g / norms).max())
        s = G.shape[1]
        found = optimize.linprog(
            np.r_[np.zeros(s), -1.0], A_ub=np.c_[-G, norms], b_ub=g, bounds=[(-size * 3, size * 3)] * s + [(None, 1.0)]
        )
        if found.status != 0 or found.x[-1] <= 1e-9:
            raise ValueError("no input makes all the neurons read so far active")
        p = np.repeat(found.x[None, :s], count, axis=0)
        for _ in range(30 + 3 * s):
            step = rng.standard_normal((count, s))
            value, rate = p @ G.T + g, step @ G.T
            with np.errstate(divide="ignore"):
                at = -value / rate
            low = np.maximum(np.where(rate > 0, at, -np.inf).max(axis=1), -size)
            high = np.minimum(np.where(rate < 0, at, np.inf).min(axis=1), size)
            p += (low + (high - low) * rng.uniform(0.05, 0.95, count))[:, None] * step
        return np.asarray(p @ self.lift.T + self.shift)

    def lines(
        self, count: int, far: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Lines through the region: base, direction, low, high."""
        base, other = self.sample(count, rng), self.sample(count, rng)
        direction = rng.standard_normal(base.shape) if self.free else other - base
        low, high = self.room(base, direction)
        margin = 1e-3 * np.minimum(high - low, 1.0)
        return base, direction, np.maximum(low + margin, -far), np.minimum(high - margin, far)
