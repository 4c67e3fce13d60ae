"""Frame: where a hidden layer's input can be set freely, so that the next layer looks like a first one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize

from unveil.blackbox.domain import Within
from unveil.blackbox.rounding import AGREE, Ask, Rounding

# Steps along one coordinate are sqrt(d) / LONGER times as long as a coordinate of a random step that was seen to stay
# inside.
LONGER = 7.0
# Coordinates from which on two random steps are tried.
MANY = 64
# Mean of a coordinate of a point in a box, in units of the box; drawn for each point.
SHARES = (0.03, 0.97)
# Pieces must be longer than this many times the rounding.
HOPELESS = 1e4


@dataclass(frozen=True)
class Frame:
    """Inputs on which every neuron read so far is active, so that the layer's values are an affine function of the
    input.

    On the region `G x + g > 0` the values of the layer are `h = M x + c`; moving along the columns of V moves one of
    them each
    (`M V = I`). Before anything was read h is the input itself and the region is the legal box, or everything.

    Attributes:
        M: (d, n) the layer's values from the input.
        c: (d,)
        V: (n, d) a right inverse of M.
        G: (q, n) the region; q may be 0.
        g: (q,)
        lift: (n, s) the free coordinates in which the region is searched, `x = lift s + shift`.
        shift: (n,)
        within: The legal box, if any.
    """

    M: Float[np.ndarray, "d n"]
    c: Float[np.ndarray, " d"]
    V: Float[np.ndarray, "n d"]
    G: Float[np.ndarray, "q n"]
    g: Float[np.ndarray, " q"]
    lift: Float[np.ndarray, "n s"]
    shift: Float[np.ndarray, " n"]
    within: Within | None = None

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
        return np.asarray(x @ self.M.T + self.c)

    def after(self, rows: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Frame:
        """The frame of the next layer: also all these neurons active. Needs independent rows."""
        M, c = rows @ self.M, rows @ self.c + bias
        V = self.V @ np.linalg.pinv(rows)
        G, g = np.concatenate([self.G, M]), np.concatenate([self.g, c])
        first = self.lift.shape[1] == self.M.shape[1] and self.within is None and self.free
        lift, shift = (V, -V @ c) if first else (self.lift, self.shift)
        return Frame(M, c, V, G, g, lift, shift, self.within)

    def room(self, x: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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

    def sample(self, count: int, rng: np.random.Generator, scale: float = 1.0) -> Float[np.ndarray, "count n"]:
        """Points of the region, spread over its corners as well as its middle.

        Raises:
            ValueError: The region is empty.
        """
        n = self.M.shape[1]
        if self.free:
            return scale * rng.standard_normal((count, n))
        if self.within is not None and len(self.g) == 2 * n:
            low, high = self.within
            # Points with few coordinates near their upper ends, with many, and with half of them: a sum of inputs that
            # is hardly ever large among points that are all like each other is so at some of these.
            share = rng.uniform(SHARES[0], SHARES[1], size=(count, 1))
            u = rng.beta(share, 1 - share, size=(count, n))
            # Not quite to the walls: a step from there would be cut off.
            return np.asarray(low + (high - low) * (0.01 + 0.98 * u))
        if len(self.g) == self.lift.shape[1]:
            # An orthant of the first layer's values.
            tail = rng.choice([0.5, 1.2, 2.5], size=(count, 1))
            h = scale * np.exp(tail * rng.standard_normal((count, len(self.g))))
            h /= np.maximum(1, np.linalg.norm(h, axis=1, keepdims=True) / (10 * scale * np.sqrt(len(self.g))))
            return np.asarray(h @ self.lift.T + self.shift)
        return self._walk(count, rng, scale)

    def _walk(self, count: int, rng: np.random.Generator, scale: float) -> np.ndarray:
        G, g = self.G @ self.lift, self.G @ self.shift + self.g
        # A point well inside: as far as possible from every wall, in a ball about the size of the biases.
        norms = np.linalg.norm(G, axis=1)
        size = 3 * scale * (1 + np.abs(g / norms).max())
        s = G.shape[1]
        found = optimize.linprog(
            np.r_[np.zeros(s), -1.0],
            A_ub=np.c_[-G, norms],
            b_ub=g,
            bounds=[(-size * 3, size * 3)] * s + [(None, scale)],
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


def gradients(
    ask: Ask,
    frame: Frame,
    x: Float[np.ndarray, "P n"],
    radius: Float[np.ndarray, " P"],
    noise: Rounding,
    rng: np.random.Generator,
    value: Float[np.ndarray, "P m"] | None = None,
    known: tuple[Float[np.ndarray, " d"], Float[np.ndarray, "P m"]] | None = None,
) -> tuple[Float[np.ndarray, "P m d"], Float[np.ndarray, " P"]]:
    """Derivatives along the frame's coordinates, exact up to rounding, each from steps inside one linear piece.

    Args:
        ask: Answers questions.
        frame: The coordinates.
        x: Where.
        radius: How far, per point, random steps may be expected to stay in the piece; shortened where they do not.
        noise: How exact answers are.
        rng: Draws the test steps.
        value: The answers at x, if known.
        known: A direction and the slopes along it, if known: one coordinate follows from the others.

    Returns:
        The derivatives, and the error of each of them to be expected from rounding; infinite where a point has no
        piece around it.

    Queries: `P d` and about 4 P, more where a step left its piece; one per point less with `known`, one more without
        `value`.
    """
    count, d = len(x), frame.d
    sigma = noise.at(x)
    radius = radius.astype(np.float64).copy()
    value = ask(x) if value is None else value
    test = rng.standard_normal((count, d))
    probe = np.zeros((count, len(noise.floor)))
    search = np.arange(count)
    for _ in range(20):
        # Random steps to both sides first: two queries tell whether the expensive ones can be this long.
        step = (radius[search, None] * test[search]) @ frame.V.T
        up, down = ask(x[search] + step), ask(x[search] - step)
        bent = (np.abs(up + down - 2 * value[search]) > AGREE * 2.5 * sigma[search]).any(axis=1)
        probe[search] = up - value[search]
        if d >= MANY:
            # A lucky test costs more than another one: every coordinate that leaves the piece must be found.
            other = np.flatnonzero(~bent)
            step = (radius[search[other], None] * rng.standard_normal((len(other), d))) @ frame.V.T
            up, down = ask(x[search[other]] + step), ask(x[search[other]] - step)
            centre = value[search[other]]
            bent[other] = (np.abs(up + down - 2 * centre) > AGREE * 2.5 * sigma[search[other]]).any(axis=1)
        search = search[bent]
        if not len(search):
            break
        radius[search] /= 4
    # Between two breakpoints that rounding hardly tells apart there is nothing to measure.
    alive = radius > HOPELESS * noise.relative * (1 + np.linalg.norm(x, axis=1) / noise.size)
    # A random step moves every neuron by its whole norm, one coordinate only by its share of it.
    reach = np.repeat((radius * max(1.0, np.sqrt(d) / LONGER))[:, None], d, axis=1)
    pivot = None if known is None or d < MANY else int(np.abs(known[0]).argmax())
    asked = np.arange(d) if pivot is None else np.delete(np.arange(d), pivot)
    out = np.zeros((count, len(noise.floor), d))
    out[:, :, asked] = np.concatenate(
        [(y - value[rows, None, :]).transpose(0, 2, 1) for rows, y in _along(ask, frame, x, reach, asked)]
    )
    out /= reach[:, None, :]
    if pivot is not None and known is not None:
        out[:, :, pivot] = (known[1] - out @ known[0]) / known[0][pivot]
    work = _Derivatives(ask, frame, x, value, sigma, test, radius, probe, reach, out)
    bad = ~alive
    for _ in range(4):
        bad[:] = work.wrong(np.arange(count), np.zeros(count, dtype=int), np.full(count, d), probe)
        if not (bad & alive).any():
            break
        alive &= ~work.repair(np.flatnonzero(bad & alive))
    error = 1.5 * sigma.max(axis=1) * np.sqrt((1 / reach**2).mean(axis=1))
    return work.out, np.where(bad | ~alive, np.inf, error)


@dataclass
class _Derivatives:
    """Derivatives being checked: a step along many coordinates at once must change the answer as they say."""

    ask: Ask
    frame: Frame
    x: np.ndarray
    value: np.ndarray
    sigma: np.ndarray
    test: np.ndarray
    radius: np.ndarray
    probe: np.ndarray
    reach: np.ndarray
    out: np.ndarray

    def wrong(self, rows: np.ndarray, first: np.ndarray, last: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Whether `change`, by the test step over coordinates first..last, contradicts the derivatives."""
        j = np.arange(self.frame.d)
        part = (j >= first[:, None]) & (j < last[:, None])
        step = np.where(part, self.radius[rows, None] * self.test[rows], 0)
        expect = np.einsum("pmd,pd->pm", self.out[rows], step)
        spread = np.sqrt(((step / self.reach[rows]) ** 2).sum(axis=1))[:, None]
        return np.asarray((np.abs(expect - change) > AGREE * self.sigma[rows] * (2 + 1.5 * spread)).any(axis=1))

    def repair(self, rows: np.ndarray) -> np.ndarray:
        """Halve the set of coordinates until the few that left their piece are alone; measure these with shorter steps.

        Returns:
            Points that are given up: too many coordinates are wrong for single steps to be the cause.

        Queries: about `2 log2(d)` per coordinate found.
        """
        d = self.frame.d
        lost = np.zeros(len(self.x), dtype=bool)
        first, last = np.zeros(len(rows), dtype=int), np.full(len(rows), d)
        while len(rows):
            alone = last - first == 1
            if alone.any():
                p, j = rows[alone], first[alone]
                self.reach[p, j] = np.maximum(self.reach[p, j] / 64, 1e-12)
                y = self.ask(self.x[p] + self.reach[p, j, None] * self.frame.V.T[j])
                self.out[p, :, j] = (y - self.value[p]) / self.reach[p, j, None]
                rows, first, last = rows[~alone], first[~alone], last[~alone]
            lost |= np.bincount(rows, minlength=len(lost)) > max(4, d // 10)
            keep = ~lost[rows]
            rows, first, last = rows[keep], first[keep], last[keep]
            if not len(rows):
                break
            middle = (first + last) // 2
            rows = np.concatenate([rows, rows])
            first, last = np.concatenate([first, middle]), np.concatenate([middle, last])
            j = np.arange(d)
            part = (j >= first[:, None]) & (j < last[:, None])
            step = np.where(part, self.radius[rows, None] * self.test[rows], 0) @ self.frame.V.T
            bad = self.wrong(rows, first, last, self.ask(self.x[rows] + step) - self.value[rows])
            rows, first, last = rows[bad], first[bad], last[bad]
        return lost


def _along(
    ask: Ask, frame: Frame, x: np.ndarray, reach: np.ndarray, asked: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Answers one step along each of these coordinates, a few points at a time (borders depend on the sizes alone)."""
    n = len(frame.V)
    group = max(1, 3_000_000 // (n * len(asked)))
    steps = np.ascontiguousarray(frame.V.T[asked])
    for start in range(0, len(x), group):
        rows = np.arange(start, min(start + group, len(x)))
        points = x[rows, None, :] + reach[rows][:, asked, None] * steps
        yield rows, ask(points.reshape(-1, n)).reshape(len(rows), len(asked), -1)
