"""detect: whether answers come from straight pieces or from curves: how second differences grow with the step."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle

# Places looked at, and the step at first, in typical inputs; each further one is `RATIO` times as long or as short.
PLACES, FIRST, RATIO = 24, 1e-3, 4.0
# Longest step; the shortest is the square root of the answers' rounding, where a curve of order one bends by as much as
# the rounding.
LONGEST = 0.5
# Units of the rounding above which a second difference is a bend for sure; the share of the places that must show one.
BENT, SOME = 30.0, 0.12
# Units below which it is none, and the share of the places that show none at the shortest step at which some do bend.
STRAIGHT, FEW = 5.0, 0.2
# Over a step `RATIO` times as long a curve bends by the square of it, up to this part, at most of the places.
GROWTH, MOST = 0.3, 0.75
# Share of the places that must bend for a curve to be told from them alone, and other choices of places that must
# all look straight to overrule fewer.
ENOUGH, AGAIN = 0.5, 2


def piecewise_linear(oracle: Oracle, rng: np.random.Generator) -> bool:
    """Whether the answers are straight between kinks, as those of a ReLU network; also if they are straight everywhere.

    Over three points in a row a curve bends by the square of the step, everywhere alike; straight pieces bend where a
    kink lies between the points, by anything from four times as much to any number for a step four times as long. The
    step is made longer or shorter until it is the shortest at which some places show a bend above the rounding. Where
    only a few places bend like a curve, or nearly all bend but not like one, which kinks may do by chance, other places
    are looked at.

    Queries: `PLACES (1 + 2 s)` for s steps, the shortest included: 3 to 6 mostly; up to three times as many where few
        places bend.
    """
    told, many = _looked(oracle, rng)
    if told or many:
        return told
    return all(_looked(oracle, rng)[0] for _ in range(AGAIN))


def _looked(oracle: Oracle, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether the answers are straight at one choice of places, and whether enough of them bend to be sure of it."""
    shortest = min(FIRST, float(np.sqrt(oracle.resolution)))
    look = _Look(oracle, rng, shortest)
    step = FIRST
    now = look.at(step)
    while (now > BENT).mean() < SOME:
        if step * RATIO > LONGEST:
            return True, True
        step *= RATIO
        now = look.at(step)
    while step / RATIO >= shortest:
        before = look.at(step / RATIO)
        if (before > BENT).mean() < SOME:
            break
        if _curved(before, now):
            return False, _many(before)
        step, now = step / RATIO, before
    # Where noise asks for long steps a curve does not grow by their square any more, but bends nearly everywhere still.
    curved = _curved(now, look.at(step * RATIO))
    return not curved and bool((now <= STRAIGHT).mean() >= FEW), curved and _many(now)


def _many(bend: Float[np.ndarray, " P"]) -> bool:
    """Whether half of the places bend: kinks that all look like a curve by chance are few."""
    return bool((bend > BENT).mean() >= ENOUGH)


def _curved(bend: Float[np.ndarray, " P"], longer: Float[np.ndarray, " P"]) -> bool:
    """Whether bends over a step and over one `RATIO` times as long are those of a curve."""
    seen = bend > BENT
    growth = longer[seen] / bend[seen] / RATIO**2
    return bool((np.abs(growth - 1) <= GROWTH).mean() >= MOST)


class _Look:
    """Places, a direction at each, and the answers in the middle.

    Attributes:
        unit: How many times its declared value the rounding is: over the shortest step nothing else is seen.
    """

    unit: float = 1.0

    def __init__(self, oracle: Oracle, rng: np.random.Generator, shortest: float) -> None:
        x = oracle.sample(PLACES, rng)
        if oracle.within is not None:
            # Room on both sides.
            x = (x + oracle.middle) / 2
        self.oracle, self.x = oracle, oracle.nearest(x)
        away = rng.standard_normal(x.shape)
        typical = float(np.sqrt(np.mean((self.x - self.x.mean(axis=0)) ** 2))) or 1.0
        self.away = away * typical / np.sqrt(np.mean(away**2, axis=1, keepdims=True))
        self.y = oracle(self.x)
        self.unit = max(1.0, float(np.median(self.at(shortest))))

    def at(self, step: float) -> Float[np.ndarray, " P"]:
        """Second differences over this step, in units of what rounding makes of them.

        Queries: `2 PLACES`
        """
        behind = self.oracle.nearest(self.x - step * self.away)
        ahead = self.oracle.nearest(self.x + step * self.away)
        low, high = np.split(self.oracle(np.concatenate([behind, ahead])), 2)
        bend = low + high - 2 * self.y
        slope = high - low
        # Where questions are rounded the middle is not quite in the middle.
        off = np.abs(behind + ahead - 2 * self.x).sum(axis=1) / np.maximum(np.abs(ahead - behind).sum(axis=1), 1e-300)
        size = np.abs(self.y).max(axis=0) + np.median(np.abs(slope), axis=0) / (2 * step)
        rounding = self.oracle.resolution * size + off[:, None] * np.abs(slope)
        rounding = np.maximum(rounding, 1e-300)
        return np.asarray((np.abs(bend) / rounding).max(axis=1) / self.unit)
