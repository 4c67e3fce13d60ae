"""follow: a neuron behind known layers, from where it was seen once on, until all its weights are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line_search.local_breakpoint import LocalBreakpoints, local_breakpoints
from unveil.blackbox.rows import Rows
from unveil.identification.piecewise_linear.behind import Behind
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import local

# Half of a step, in standard deviations of where the breakpoint is expected, and of what it does to answers.
HALF_STEP_SIGMAS, BARELY = 4.0, 1000.0
# Longest half of a step, in distances between breakpoints; where an unknown weight is looked for, and any other
# neuron's breakpoint would be taken for it.
LONGEST_HALF_STEP, UNKNOWN_HALF_STEP = 0.15, 0.03
NORMAL_ERROR_FACTORS = (1.0, 4.0)  # errors of normals, in units of those expected, that are tried
LIKELY = 0.6  # deviation of an unknown weight, in units of the largest known one
KNOWN_WEIGHT_DEVIATION = 0.05  # an unknown weight is known from this deviation on, in the same units
# Deviations beyond which a place is on no plane; how many times larger than expected they may all be.
OUTSIDE, ROUGHER_PLACES_FACTOR = 6.0, 4.0
POINT = 1e-7  # relative rounding of points
PLACE_POOL = 300  # candidates looked at for places, which costs no query
# Places per unknown weight where it is looked for, and starts from which these are reached.
FILLS, STARTS_PER_UNKNOWN = 3, 20
FILLING_ROUNDS = 10
NEWTON = 8  # steps towards a place that is given by equations
# Places at first; places per weight: near where it was seen, and anywhere.
FIRST, NEAR_PER_WEIGHT, CONFIRM = 10, 1.3, 1.6
# Share of the places that may show nothing, and share of the steps that must show one breakpoint.
EMPTY_PLACES_SHARE, ONE_BREAKPOINT_SHARE = 0.15, 0.2
OWN_BREAKPOINTS = 0.85  # share of the breakpoints that must be the neuron's own
# A hyperplane met in places all over it is known far better than to this; one that is not was not followed.
TRACED_ERROR = 5e-3


def follow(
    behind: Behind, seen: CriticalPoint, spacing: float, known: Sequence[Neuron] = (), fine: float = 0.0
) -> Neuron | None:
    """The neuron of the next layer that bends here; None if there is none, or its hyperplane gets lost.

    A breakpoint is located in ever more places where the neuron must be seen. Each is a linear equation for its weights
    and its bias, far more exact than any normal measured. Where one unknown weight has just begun to matter, it
    follows. `spacing`: typical distance between breakpoints. `known`: neurons whose breakpoints are not its own.
    `fine`: an error of its weights from which on further places tell nothing that is of use. Queries: 9 for each of
    two to three places per weight; of `FIRST` places where the normal told all weights that well.
    """
    for wider in NORMAL_ERROR_FACTORS:
        one = _One.begin(behind, seen, wider, spacing)
        if one is None:
            return None
        if not one.known.all():
            one, there = one.located(_One.around, int(NEAR_PER_WEIGHT * one.known.sum()) + 2)
            if not there:
                continue
            for _ in range(FILLING_ROUNDS):
                one, more = one.filled()
                if not more:
                    break
        one, there = one.located(_One.anywhere, int(CONFIRM * (len(one.known) + 1)), fine)
        if there:
            neuron, at = one.result(), one.at[1:]
            own = min(one.own, 1 - float(behind.explained(at, np.zeros(len(at)), known).mean()))
            return neuron if own >= OWN_BREAKPOINTS and np.trace(neuron.spread) < TRACED_ERROR**2 else None
        if one.met > len(one.known):
            return None
    return None


@dataclass(frozen=True)
class _Places(Rows):
    """Steps across the hyperplane: `x - half e` to `x + half e`, where what it sees changes by `rate` per unit.

    Where a breakpoint as strong as the first one would be `clear`, nothing is a contradiction; `entered` is the neuron
    that has just begun to matter, or -1.
    """

    x: np.ndarray
    e: np.ndarray
    half: np.ndarray
    rate: np.ndarray
    clear: np.ndarray
    entered: np.ndarray


@dataclass(frozen=True)
class _One:
    """One neuron as far as it is known; every step hands on a new state."""

    behind: Behind  # what to go by
    seen: CriticalPoint  # where it was seen first
    spacing: float  # typical distance between breakpoints
    fixed: Float[np.ndarray, "E p"]  # equations from there for weights and bias, each divided by its error
    told: Float[np.ndarray, " E"]  # what they are to give
    known: Bool[np.ndarray, " q"]  # which weights are known
    theta: Float[np.ndarray, " p"]  # weights and bias
    spread: Float[np.ndarray, "p p"]  # covariance of their errors
    largest: float  # the largest weight at the beginning
    at: Float[np.ndarray, "M1 d"]  # where it was met, the first time included
    g: Float[np.ndarray, "M p"]  # equations of these places, zero on the right
    sigma: Float[np.ndarray, " M"]  # their errors
    met: int = 0  # steps that showed one breakpoint
    none: int = 0  # steps that showed nothing where the breakpoint would have been clear
    tried: int = 0  # steps in all
    own: float = 1.0  # share of the breakpoints that are the neuron's own

    @classmethod
    def begin(cls, behind: Behind, seen: CriticalPoint, wider: float, spacing: float) -> _One | None:
        """From the normal: the weights of what is active there."""
        h, J = local(behind.layers, seen.x)
        on, q = h > 0, len(h)
        active = J[on]
        if not len(active) or np.linalg.svd(active, compute_uv=False)[-1] < 1e-3:
            return None
        error = wider * seen.error
        # As many directions were measured as neurons are active: each has its part of the error.
        units = seen.equations(len(active)) / wider
        part = np.linalg.lstsq(units @ active.T, units @ seen.normal, rcond=None)[0]
        if np.linalg.norm(active.T @ part - seen.normal) > 5 * error + 0.01:
            return None
        normal = np.zeros((len(units), q + 1))
        normal[:, :-1][:, on] = units @ active.T
        # What is known best of the normal stays as long as it is.
        weight = units.T @ (units @ seen.normal)
        length = np.zeros((1, q + 1))
        length[0, :-1][on] = 1e6 * (active @ weight) / (seen.normal @ weight)
        free = np.flatnonzero(~on)
        unknown = np.zeros((len(free), q + 1))
        unknown[np.arange(len(free)), free] = 1 / (LIKELY * np.abs(part).max())
        place = np.append(h, 1.0)[None] * 1e5
        fixed = np.concatenate([normal, length, unknown, place])
        told = np.concatenate([units @ seen.normal, [1e6], np.zeros(len(free) + 1)])
        theta = np.linalg.lstsq(fixed, told, rcond=None)[0]
        largest = float(np.abs(theta[:-1]).max())
        none = np.empty((0, q + 1))
        spread = _covariance(fixed)
        return cls(behind, seen, spacing, fixed, told, on, theta, spread, largest, seen.x[None], none, np.empty(0))

    def result(self) -> Neuron:
        """With unit weights."""
        w = np.where(self.known, self.theta[:-1], 0)
        size = float(np.linalg.norm(w))
        return Neuron(w / size, float(self.theta[-1]) / size, self.known, (), self.spread / size**2)

    def located(
        self, places: Callable[[_One], Float[np.ndarray, "P d"]], count: int, fine: float = 0.0
    ) -> tuple[_One, bool]:
        """The breakpoint in so many of these places where everything active is known, in `FIRST` of them once its
        weights are known to `fine`; False if it is not there."""
        one, had, last = self, len(self.g), 0
        for attempt in range(12):
            here = len(one.g) - had
            count = min(count, FIRST) if one.error <= fine else count
            if here >= count:
                return one, True
            there = one.usable(places(one))
            # A few first: most breakpoints followed are of deeper layers, and are lost at once. Then as many as it
            # takes where as large a share shows one as did so far, but no more than there were: these may be enough.
            missing = min(count - here, max(here, FIRST)) if fine else count - here
            most = FIRST if attempt < 1 else int(missing * one.tried / max(one.met, 1)) + 1
            # Where least is known most is learnt.
            order = np.argsort(-there.half, kind="stable")
            chosen = np.concatenate([order[: most // 2], self.rng.permutation(order[most // 2 :])[: most - most // 2]])
            one, right = one.measured(there[chosen])
            if not right:
                return one, False
            if attempt > 3 and len(one.g) == last:
                break
            last = len(one.g)
        return one, len(one.g) - had >= 0.5 * count

    def filled(self) -> tuple[_One, bool]:
        """The breakpoint where one unknown weight has just begun to matter; False if no further one is known."""
        unknown = np.flatnonzero(~self.known)
        if not len(unknown):
            return self, False
        x, which = self.entered(unknown)
        there = self.usable(x, which)
        every = _first(there, FILLS, -there.half)
        if not len(every.x):
            return self, False
        one, _ = self.measured(every)
        return one, bool((one.known & ~self.known).any())

    def around(self) -> Float[np.ndarray, "P d"]:
        """Places near those where it was seen; coordinates stay positive."""
        size = 10 ** self.rng.uniform(-2, 0, (PLACE_POOL, 1))
        step = np.exp(size * self.rng.standard_normal((PLACE_POOL, self.at.shape[1])))
        return self.at[self.rng.integers(len(self.at), size=PLACE_POOL)] * step

    def anywhere(self) -> Float[np.ndarray, "P d"]:
        """Places between points on different sides."""
        pool = self.behind.frame.sample(PLACE_POOL, self.rng)
        z = self.sums(pool)
        up, down = pool[z > 0], pool[z <= 0]
        if not len(up) or not len(down):
            return self.around()
        a, b = up[self.rng.integers(len(up), size=PLACE_POOL)], down[self.rng.integers(len(down), size=PLACE_POOL)]
        for _ in range(12):
            middle = (a + b) / 2
            over = (self.sums(middle) > 0)[:, None]
            a, b = np.where(over, middle, a), np.where(over, b, middle)
        return np.asarray((a + b) / 2)

    @property
    def error(self) -> float:
        """Expected error of its weights, relative to these; infinite as long as some are unknown."""
        size = float(np.linalg.norm(self.theta[:-1]))
        return float(np.sqrt(np.trace(self.spread[:-1, :-1]))) / size if self.known.all() else np.inf

    @property
    def rng(self) -> np.random.Generator:
        """Draws places."""
        return self.behind.probe.rng

    @property
    def weights(self) -> np.ndarray:
        """Its weights, zero where unknown."""
        return np.where(self.known, self.theta[:-1], 0)

    def sums(self, x: Float[np.ndarray, "P d"]) -> Float[np.ndarray, " P"]:
        """What the neuron sums up, by what is known of it."""
        return np.asarray(self.behind.see(x).h @ self.weights + self.theta[-1])

    def entered(self, unknown: Int[np.ndarray, " u"]) -> tuple[np.ndarray, np.ndarray]:
        """Points of the hyperplane where these neurons have just become active, and which."""
        which = np.repeat(unknown, STARTS_PER_UNKNOWN)
        x = self.at[self.rng.integers(len(self.at), size=len(which))].copy()
        unit = np.eye(len(self.known))[which]
        # As far in as a plausible weight keeps the step short.
        depth = (
            UNKNOWN_HALF_STEP
            * self.spacing
            / (HALF_STEP_SIGMAS * LIKELY * self.largest)
            * 10 ** self.rng.uniform(-1.5, 0, len(x))
        )
        # Where they need not stay positive, the neuron may be one of the first layer, and is negative yet.
        least = -1.0 if self.behind.frame.free else 0.5
        for _ in range(NEWTON):
            there = self.behind.see(x)
            v, u = there.back(self.weights * there.on), there.back(unit)
            miss = np.stack([there.h @ self.weights + self.theta[-1], (there.sums[-1] * unit).sum(1) - depth], axis=1)
            # In proportion to the coordinates, so that they stay positive.
            a, b = x * v, x * u
            gram = np.array([[(a * a).sum(1), (a * b).sum(1)], [(a * b).sum(1), (b * b).sum(1)]]).transpose(2, 0, 1)
            gram += (1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-300) * np.eye(2)
            part = np.linalg.solve(gram, miss[:, :, None])[:, :, 0]
            x = x * np.clip(1 - part[:, :1] * a - part[:, 1:] * b, least, 2.0)
        return x, which

    def usable(self, x: Float[np.ndarray, "P d"], entered: Int[np.ndarray, " P"] | None = None) -> _Places:
        """Short steps across the hyperplane near these points, where it is known well enough and nothing else bends."""
        unit = np.eye(len(self.known))
        for turn in range(NEWTON):
            there = self.behind.see(x)
            z = there.h @ self.weights + self.theta[-1]
            new = there.on & ~self.known
            v = there.back(self.weights * there.on)
            if turn < NEWTON - 1:
                a = x * v
                x = x * np.clip(1 - (z / np.maximum((a * a).sum(1), 1e-300))[:, None] * a, 0.5, 2.0)
        good = np.abs(z) < 1e-6 * (1 + np.abs(there.h).max(axis=1))
        each = np.arange(len(x))
        j = np.full(len(x), -1) if entered is None else entered
        # No unknown weight but, where it is looked for, the one.
        good &= new.sum(axis=1) == (new[each, j] if entered is not None else 0)
        good &= (j < 0) | there.on[each, j]
        keep = np.flatnonzero(good)
        x, j = x[keep], j[keep]
        there = self.behind.see(x)
        v = there.back(self.weights * there.on)
        # Across the step the unknown one stays as it is.
        u = there.back(unit[j] * (j >= 0)[:, None])
        e = v - u * ((u * v).sum(1) / np.maximum((u * u).sum(1), 1e-300))[:, None]
        rate = np.maximum(np.linalg.norm(e, axis=1), 1e-300)
        e = e / rate[:, None]
        g = np.concatenate([there.h, np.ones((len(x), 1))], axis=1)
        doubt = np.sqrt(np.einsum("pi,ij,pj->p", g, self.spread, g) + self.behind.doubt(x) @ self.weights**2) / rate
        strength = np.sqrt(((self.seen.jump / self.behind.probe.sigma(x)) ** 2).mean(axis=1)) * rate
        longest = (LONGEST_HALF_STEP if entered is None else UNKNOWN_HALF_STEP) * self.spacing
        half = np.maximum(HALF_STEP_SIGMAS * doubt, np.minimum(BARELY / np.maximum(strength, 1e-300), longest / 3))
        good = (rate > 0.03) & (half < longest)
        for end in (-1, 1):
            y = x + end * half[:, None] * e
            good &= self.behind.inside(y) & (self.behind.see(y).pattern == there.pattern).all(axis=1)
        clear = strength * half > BARELY / 2
        return _Places(x, e, half, rate, clear, j)[np.flatnonzero(good)]

    def local_breakpoints(self, there: _Places) -> LocalBreakpoints:
        """What these steps show."""
        return local_breakpoints(self.behind.probe.ask, there.x, there.half[:, None] * there.e, self.behind.noise)

    def measured(self, there: _Places) -> tuple[_One, bool]:
        """The breakpoint located there; False if it is not where it should be."""
        steps = self.local_breakpoints(there)
        ok = steps.found
        one = replace(
            self,
            met=self.met + int(ok.sum()),
            none=self.none + int((steps.none & there.clear).sum()),
            tried=self.tried + len(ok),
        )
        if one.none > EMPTY_PLACES_SHARE * (one.met + one.none) + 2 or one.met < ONE_BREAKPOINT_SHARE * one.tried - 4:
            return one, False
        if not ok.any():
            return one, True
        x = there.x[ok] + (steps.t * there.half)[ok, None] * there.e[ok]
        h = self.behind.see(x).h
        g = np.concatenate([self.g, np.concatenate([h, np.ones((len(h), 1))], axis=1)])
        error = steps.width * there.half + POINT * (1 + np.linalg.norm(there.x, axis=1))
        likely = np.where(self.known, self.theta[:-1], LIKELY * self.largest)
        error = np.hypot((error * there.rate)[ok], np.sqrt(self.behind.doubt(x) @ likely**2))
        sigma = np.append(self.sigma, error)
        theta, spread, inside = _plane(self.fixed, self.told, g, sigma)
        one = replace(
            one,
            at=np.concatenate([self.at, x]),
            g=g,
            sigma=sigma,
            theta=theta,
            spread=spread,
            own=float(inside.mean()),
            known=self.known | (np.sqrt(spread.diagonal()[:-1]) < KNOWN_WEIGHT_DEVIATION * self.largest),
        )
        return one, one.own > 0.6


def _first(there: _Places, count: int, order: Float[np.ndarray, " P"]) -> _Places:
    """The first few of every neuron that has begun to matter."""
    ranked = np.argsort(order, kind="stable")
    chosen = [ranked[there.entered[ranked] == j][:count] for j in np.unique(there.entered)]
    return there[np.concatenate([np.zeros(0, dtype=int), *chosen])]


def _plane(
    fixed: Float[np.ndarray, "e p"],
    told: Float[np.ndarray, " e"],
    g: Float[np.ndarray, "N p"],
    sigma: Float[np.ndarray, " N"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What solves `fixed theta = told` and, for most rows, `g theta = 0` within sigma. Returns the solution, its
    covariance, and which rows it solves."""
    g = g / sigma[:, None]
    weight = np.ones(len(g))
    for turn in range(12):
        A = np.concatenate([fixed, g * np.sqrt(weight)[:, None]])
        theta = np.linalg.lstsq(A, np.concatenate([told, np.zeros(len(g))]), rcond=None)[0]
        off = np.abs(g @ theta)
        # Least absolute errors first; in the end those outside do not count.
        most = OUTSIDE * float(np.clip(np.median(off), 1.0, ROUGHER_PLACES_FACTOR))
        weight = 1 / np.maximum(off, 1) if turn < 9 else (off < most).astype(float)
    scale = max(1.0, float(np.sqrt((weight * off**2).sum() / max(1.0, weight.sum() - len(theta) / 2))))
    return theta, _covariance(np.concatenate([fixed, g * np.sqrt(weight)[:, None]])) * scale**2, weight > 0


def _covariance(A: Float[np.ndarray, "e p"]) -> Float[np.ndarray, "p p"]:
    """Of what equations in units of their errors say together."""
    _, s, vt = np.linalg.svd(A, full_matrices=False)
    return np.asarray((vt.T / np.maximum(s, 1e-12 * s[0]) ** 2) @ vt)
