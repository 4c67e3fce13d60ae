"""Where the search asks: base points, legal steps, and the one object that puts questions and keeps to a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.answers import complete, missing
from unveil.blackbox.domain import Within
from unveil.blackbox.ledger import Booked
from unveil.blackbox.noise_model import NoiseModel
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rows import Rows
from unveil.outcome import BudgetExceeded

# Of questions per batch; fixed, so that the same seed gives the same bits on every machine. In a box every number of
# every step is looked at some ten times, which wants what the nearest cache holds.
QUESTION_BLOCK_BYTES, BOXED_BYTES = 2**22, 2**20
LEAST_ROWS = 64
MOST_BYTES = 3 * 2**23  # what the C library keeps when it is freed: see `source_oracle`
CONFIRMATIONS = 12
TINY = 1e-30  # room to a wall, below which there is none
CLEAN_DIGITS = 1e10  # signal over noise from which rounding is far below what a breakpoint leaves
HEARD, LAST_BITS = 5, 64  # answers beside a place from which its noise is told, and their spacing in last bits of it
LOUD_NOISE_FACTOR = 2.0  # times the usual noise, that so few answers hardly show by chance
SHORTENED = (0.7, 0.5, 0.3)  # of a step whose end stays without an answer


def most_queries(n: int, gradients: int, confirmation: int) -> int:
    """The default limit: the most queries a search asks before it ends and measures what it has.

    Args:
        n: Inputs.
        gradients: Points at which gradients have been taken; never more than n of them add to the span.
        confirmation: Fresh points at which nothing new may show.
    """
    return 5000 + CONFIRMATIONS * confirmation + 40 * (n + 1) * (gradients + 4)


class LimitReached(BudgetExceeded):
    """The search has asked as much as it may before it measures what it has."""


@dataclass(frozen=True)
class Places(Rows):
    """Base points with their answers; all answers that are compared with one are in units of the noise there.

    Attributes:
        x: (N, n).
        fx: (N, m), answers divided by `sigma`.
        sigma: (N, m), standard deviation of an answer.
        coarser: (N,), how much noisier than with the usual step the gradients in coordinates of a basis are there.
    """

    x: Float[np.ndarray, "N n"]
    fx: Float[np.ndarray, "N m"]
    sigma: Float[np.ndarray, "N m"]
    coarser: Float[np.ndarray, " N"]

    @classmethod
    def answered(
        cls, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], sigma: Float[np.ndarray, "N m"]
    ) -> Places:
        """From the answers y."""
        return cls(x, y / sigma, sigma, np.ones(len(x)))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Each point with its answer and the noise there."""
        return zip(self.x, self.fx, self.sigma, strict=True)

    @property
    def noise(self) -> Float[np.ndarray, "Nm 1"]:
        """`coarser` for each gradient, to divide these by."""
        return np.repeat(self.coarser, self.fx.shape[1])[:, None]


class Asker:
    """Puts questions in batches of fixed size, answers in units of the noise, and ends the search at its limit.

    Attributes:
        limit: What the ledger may show before the search has to end; the caller sets it from state to state.
        stages: Queries of each stage.
        least: Of all answers so far, for each output.
        most: The same.
    """

    def __init__(
        self,
        oracle: Oracle,
        noise: NoiseModel,
        rng: np.random.Generator,
        given: Float[np.ndarray, "N n"] | None = None,
        units: Float[np.ndarray, " n"] | float = 1.0,
        stages: dict[str, int] | None = None,
    ) -> None:
        self.oracle, self.noise, self.rng, self.given, self.units = oracle, noise, rng, given, units
        self.stages = {} if stages is None else stages
        size = QUESTION_BLOCK_BYTES if oracle.within is None else BOXED_BYTES
        self.block = max(1, min(MOST_BYTES // (8 * oracle.n), max(LEAST_ROWS, size // (8 * oracle.n))))
        self.limit = np.inf
        self.least, self.most = np.full(oracle.m, np.inf), np.full(oracle.m, -np.inf)

    @property
    def smooth(self) -> bool:
        return self.noise.kind == "smooth"

    def stage(self, name: str) -> Booked:
        """Where what is asked is booked as a stage of this name."""
        return Booked(self.oracle.ledger, self.stages, name)

    def __call__(
        self, x: Float[np.ndarray, "N n"], sigma: Float[np.ndarray, "... m"], legal: bool = False
    ) -> Float[np.ndarray, "N m"]:
        """Answers divided by sigma, (m,) or (N, m): that of the places they will be compared with."""
        return np.asarray(self._raw(x, legal) / sigma)

    def _raw(self, x: Float[np.ndarray, "N n"], legal: bool = False) -> Float[np.ndarray, "N m"]:
        if self.oracle.ledger.asked + len(x) > self.limit:
            raise LimitReached("the search has reached its own limit of queries")
        if not len(x):
            return np.empty((0, self.oracle.m))
        if len(x) <= self.block:
            y = self.oracle.answered(x, legal)
        else:
            parts = [x[i : i + self.block] for i in range(0, len(x), self.block)]
            y = np.concatenate([self.oracle.answered(part, legal) for part in parts])
        seen = y if complete(y) else y[~missing(y)]
        if len(seen):
            np.minimum(self.least, seen.min(axis=0), out=self.least)
            np.maximum(self.most, seen.max(axis=0), out=self.most)
        return y

    def step(
        self,
        x: Float[np.ndarray, "*P n"],
        asked: Float[np.ndarray, "N n"],
        sigma: Float[np.ndarray, "... m"],
        at: Int[np.ndarray, " N"] | None = None,
    ) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
        """Answers at the ends of legal steps from x; a step without an answer at its end is made shorter.

        Args:
            x: One point for all, or one for each.
            asked: The ends.
            sigma: As when the asker is called.
            at: From which of the points x each step leads, where these are neither one nor N.

        Returns:
            The ends as they were asked in the end, and the answers divided by sigma: NaN where there is none.

        Queries: `N`, and up to `len(SHORTENED)` for each missing answer
        """
        y = self(asked, sigma, legal=True)
        for part in SHORTENED:
            if complete(y):
                break
            gone = np.flatnonzero(missing(y))
            asked = asked.copy()
            start = x if x.ndim == 1 else x[gone if at is None else at[gone]]
            asked[gone] = self.oracle.nearest(start + part * (asked[gone] - start))
            y[gone] = self(asked[gone], sigma if np.ndim(sigma) == 1 else sigma[gone])
        return asked, y

    def places(self, x: Float[np.ndarray, "N n"]) -> Places:
        """Base points asked; those without an answer have NaN.

        Queries: `N`
        """
        x = evened(self.oracle, x)
        y = self._raw(x)
        return Places.answered(x, y, self.noise.sigma(self.oracle, y))

    def heard(self, places: Places) -> Places:
        """The same with the noise that answers beside each place show, where it is clearly more than the usual.

        What a model loses inside differs from place to place, most where it is steep, as it is where gradients are
        taken. Read from second differences, as `noise_model.estimate_noise` does, since slopes leave nothing in them.

        Queries: `HEARD` for each place, none where answers have digits to spare
        """
        oracle, count = self.oracle, len(places)
        if not count or self.noise.signal.max() > CLEAN_DIGITS:
            return places
        # A power of two times the input's own last bit: the points asked are equally spaced, exactly.
        typical = np.sqrt(np.mean(places.x**2, axis=1, keepdims=True))
        last = np.spacing(np.maximum(np.abs(places.x), typical).astype(oracle.dtype)).astype(np.float64)
        step = LAST_BITS * last * self.rng.choice([-1.0, 1.0], size=places.x.shape)
        x = places.x[:, None] + np.arange(1, HEARD + 1)[:, None] * step[:, None]
        y = self._raw(oracle.nearest(x.reshape(-1, oracle.n))).reshape(count, HEARD, oracle.m)
        bent = np.diff(np.concatenate([(places.fx * places.sigma)[:, None], y], axis=1), 2, axis=1)
        level = np.sqrt(np.mean(bent**2, axis=1) / 6)
        sigma = np.where(level > LOUD_NOISE_FACTOR * places.sigma, level, places.sigma)
        return replace(places, fx=places.fx * places.sigma / sigma, sigma=sigma)

    def across(self, places: Places) -> Places:
        """The points across the middle of what is asked, where points are drawn and not given; else none.

        Queries: one for each, and one for each missing answer
        """
        if self.given is not None:
            return places[:0]
        return self.places(self.oracle.nearest(2 * self.oracle.middle - places.x))

    def draw(self, count: int, margin: float | Float[np.ndarray, " n"] = 0.0) -> Places:
        """Fresh base points: the examples given, or as the oracle samples; others for those without an answer.

        Queries: `count`, and one for each missing answer
        """
        x = base_points(self.oracle, count, self.rng, self.given, margin)
        y = self._raw(x)
        while len(gone := np.flatnonzero(missing(y))):  # ends: too many missing answers are an error
            x[gone] = base_points(self.oracle, len(gone), self.rng, self.given, margin)
            y[gone] = self._raw(x[gone])
        return Places.answered(x, y, self.noise.sigma(self.oracle, y))


def base_points(
    oracle: Oracle,
    count: int,
    rng: np.random.Generator,
    given: Float[np.ndarray, "M n"] | None = None,
    margin: float | Float[np.ndarray, " n"] = 0.0,
) -> Float[np.ndarray, "count n"]:
    """Legal points, at least `margin` off the walls of a box."""
    x = oracle.sample(count, rng) if given is None else given[rng.integers(len(given), size=count)]
    if oracle.within is not None:
        x = np.clip(x, oracle.within[0] + margin, oracle.within[1] - margin)
    return evened(oracle, oracle.nearest(x))


def evened(oracle: Oracle, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
    """Legal points moved to multiples of `Oracle.spacing`, so that steps of such multiples from them are exact."""
    spacing = oracle.spacing
    if spacing is None:
        return x
    low, high = oracle.within  # type: ignore[misc]
    return np.clip(np.rint(x / spacing), np.ceil(low / spacing), np.floor(high / spacing)) * spacing


def legal_step(
    oracle: Oracle, x: Float[np.ndarray, "... n"], direction: Float[np.ndarray, "N n"]
) -> Float[np.ndarray, " N"]:
    """Signed length of the longest legal step from x along each direction, on the roomier side; 1 without a box."""
    if oracle.within is None:
        return np.ones(len(direction))
    single = direction.astype(np.float32)
    return longest_step(single, np.abs(single).max(initial=0), *walls(oracle.within, x))


def walls(within: Within, x: Float[np.ndarray, "... n"]) -> tuple[np.ndarray, np.ndarray]:
    """One over the signed room to the nearer wall and to the farther one, in single precision; never without end."""
    low, high = within
    above, below = 1 / np.maximum(high - x, TINY), 1 / np.minimum(low - x, -TINY)
    up = above >= -below
    return np.where(up, above, below).astype(np.float32), np.where(up, below, above).astype(np.float32)


def longest_step(
    direction: Float[np.ndarray, "N n"],
    largest: float,
    nearer: Float[np.ndarray, "... n"],
    farther: Float[np.ndarray, "... n"],
) -> Float[np.ndarray, " N"]:
    """`legal_step` in a box from what `walls` tells, along directions in single precision.

    Args:
        direction: (N, n).
        largest: The largest number of all directions in size.
        nearer: (n,) or (N, n), from `walls`.
        farther: The same.
    """
    shares = direction * nearer
    ahead, behind = shares.max(axis=1), -shares.min(axis=1)
    # Only where every nearer wall is far off can a farther one end a step.
    if largest * np.abs(farther).max() > min(ahead.min(initial=np.inf), behind.min(initial=np.inf)):
        np.multiply(direction, farther, out=shares)
        ahead, behind = np.maximum(ahead, shares.max(axis=1)), np.maximum(behind, -shares.min(axis=1))
    ahead, behind = ahead.astype(np.float64), behind.astype(np.float64)
    with np.errstate(divide="ignore"):  # without end along no direction
        # A hair less than all the room, so that rounding cannot leave the box.
        return np.asarray(np.where(ahead <= behind, 1, -1) * ((1 - 1e-6) / np.abs(np.minimum(ahead, behind))))


def clipped_step(
    oracle: Oracle,
    x: Float[np.ndarray, "... n"],
    direction: Float[np.ndarray, "N n"],
    longest: float | Float[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Signed lengths of at most `longest` that stay in the box."""
    if oracle.within is None:
        return np.full(len(direction), longest)
    return np.asarray(np.clip(legal_step(oracle, x, direction), -longest, longest))
