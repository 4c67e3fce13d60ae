"""How many digits of an answer can be trusted, and whether the model bends smoothly or in kinks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle

TABLE = 9  # values per difference table: Moré and Wild find six or more to be enough
TRIPLES = 12
SCALES = 9
RATIO = 4.0  # between the steps of one scale and the next


@dataclass(frozen=True)
class Noise:
    """What the answers look like from close by.

    Attributes:
        level: Standard deviation of the rounding of each output, absolute, shape (m,).
        kind: "constant", "linear", "piecewise linear" or "smooth".
        digits: Significant decimal digits of an answer.
        reach: The largest step, in units of the input, at which a third of the lines asked still look straight.
        size: Typical spread of each output over legal inputs, shape (m,).
        curvature: Typical second derivative along a unit direction, in units of `size` (0 unless smooth).
        queries: Queries asked.
    """

    level: Float[np.ndarray, " m"]
    kind: str
    digits: int
    reach: float
    size: Float[np.ndarray, " m"]
    curvature: float
    queries: int


def estimate_noise(values: Float[np.ndarray, "K m"]) -> Float[np.ndarray, " m"]:
    """Noise level of K values of a function at equally spaced, very close arguments.

    The k-th differences of a smooth function vanish quickly while those of noise grow like binomials; the level is read
    where three successive orders agree within a factor of four.

    Returns:
        Standard deviation per column; 0 where the values do not differ at all.

    Source: Moré and Wild, Estimating computational noise, SIAM J. Sci. Comput. 33 (2011), algorithm ECnoise.
    """
    table = np.asarray(values, dtype=np.float64)
    levels, mixed = [], []
    for order in range(1, len(values)):
        table = np.diff(table, axis=0)
        gamma = math.factorial(order) ** 2 / math.factorial(2 * order)
        levels.append(np.sqrt(gamma * np.mean(table**2, axis=0)))
        mixed.append((table.min(axis=0) < 0) & (table.max(axis=0) > 0))
    sigma, signs = np.array(levels), np.array(mixed)
    # High orders have few differences: where no three orders agree, the smallest level is the safe reading.
    level = sigma[1:].min(axis=0)
    for first in range(len(sigma) - 3, -1, -1):
        three = sigma[first : first + 3]
        agree = (three.max(axis=0) <= 4 * three.min(axis=0)) & signs[first]
        level = np.where(agree, three[0], level)
    return np.asarray(level)


def measure_noise(oracle: Oracle, *, rng: np.random.Generator, x: Float[np.ndarray, "N n"] | None = None) -> Noise:
    """Look at an oracle from close by.

    Args:
        oracle: Answers values.
        rng: Draws the points and directions.
        x: Points to look at, e.g. typical inputs; by default `oracle.sample`.

    Returns:
        Level, kind and reach. A network of which no triple of points shows a bend is called linear (constant if nothing
        changes at all).

    Queries: `2 * TABLE + TRIPLES * (1 + 2 * SCALES)`: 246

    Source: Moré and Wild 2011 for the level; second differences at geometric scales for the kind.
    """
    before = oracle.ledger.asked
    x = oracle.sample(TRIPLES, rng) if x is None else x[rng.integers(len(x), size=TRIPLES)]
    x = oracle.nearest(oracle.off_walls(x, 1 / 32))
    scale = float(np.sqrt(np.mean(x**2))) or 1.0
    signs = rng.choice([-1.0, 1.0], size=(TRIPLES, oracle.n))

    spacing = 64 * max(float(np.finfo(oracle.dtype).eps), min(oracle.resolution, 1e-6)) * scale
    if oracle.grid is not None:
        spacing = oracle.grid
    steps = spacing * np.arange(TABLE)[:, None]
    close = [oracle(oracle.nearest(x[i] + steps * signs[i])) for i in range(2)]
    level = np.max([estimate_noise(values) for values in close], axis=0)

    centre = oracle(x)
    longest = 0.5 * scale if oracle.within is None else float((oracle.high - oracle.low).min()) / 32
    first, second, lengths = [], [], []
    for power in range(SCALES):
        # Each coordinate moves by the same amount, so the step has length `half * sqrt(n)`.
        half = longest * RATIO**-power
        ahead, behind = oracle.nearest(x + half * signs), oracle.nearest(x - half * signs)
        after, prior = oracle(ahead), oracle(behind)
        first.append(after - prior)
        second.append(after + prior - 2 * centre)
        lengths.append(half * math.sqrt(oracle.n))
    bends = np.abs(np.array(second))  # (SCALES, TRIPLES, m)

    size = np.maximum(centre.std(axis=0), np.abs(bends).max(axis=(0, 1)))
    level = np.maximum(level, _decimal_quantum(centre) / math.sqrt(12))
    floor = np.abs(centre).max(axis=0) * max(float(np.finfo(oracle.dtype).eps), oracle.resolution) / 4
    level = np.maximum(level, np.maximum(floor, np.finfo(float).tiny))
    # The noise of a second difference is 2.4 levels; a smooth bend rarely spreads over both thresholds.
    straight = (bends <= 8 * level).all(axis=2)  # (SCALES, TRIPLES)
    bent = (bends >= 300 * level).any(axis=2)
    kind = _kind(straight, bent, bends, centre, level)
    # Where nothing changes at all, being straight says nothing about the length of a linear piece.
    alive = (np.abs(np.array(first)) > 100 * level).any(axis=2) | ~straight
    share = (straight & alive).sum(axis=1) / np.maximum(1, alive.sum(axis=1))
    good = np.flatnonzero(share >= 0.3)
    reach = lengths[good[0]] if len(good) else lengths[-1]
    curvature = 0.0
    if kind == "smooth":
        visible = np.median(bends, axis=1) > 16 * level  # (SCALES, m)
        scales = np.array(lengths)[:, None] ** 2
        rates = np.where(visible, np.median(bends, axis=1) / scales / np.maximum(size, np.finfo(float).tiny), 0.0)
        curvature = float(rates.max())
        if curvature == 0:  # a bend here and there, but nowhere one that most lines show
            kind = "piecewise linear"
    largest = float(np.abs(centre).max()) or 1.0
    digits = max(0, int(-math.log10(float(np.median(level)) / largest)))
    return Noise(level, kind, digits, reach, size, curvature, oracle.ledger.asked - before)


def _kind(straight: np.ndarray, bent: np.ndarray, bends: np.ndarray, centre: np.ndarray, level: np.ndarray) -> str:
    if (bends <= 32 * level).all():
        return "constant" if (np.ptp(centre, axis=0) <= 16 * level).all() else "linear"
    # A kink is inside a triple or not: at some scale both happen. A smooth bend fades everywhere at once.
    for scale in range(len(straight)):
        if straight[scale].mean() >= 0.2 and bent[scale].mean() >= 0.08:
            return "piecewise linear"
    # With a step two scales shorter a smooth bend is 256 times smaller; a kink that has left the triple is gone.
    gone = straight[2:] & (bends[:-2] >= RATIO**4 * 25 * level).any(axis=2)
    if gone.sum() >= 2:
        return "piecewise linear"
    return "smooth"


def _decimal_quantum(values: np.ndarray) -> float:
    """The decimal step of answers that were rounded to at most 7 decimals, else 0."""
    for decimals in range(8):
        scaled = values * 10.0**decimals
        if np.abs(scaled - np.round(scaled)).max() <= 1e-6 * 10.0 ** (decimals - 7) and np.ptp(values) > 0:
            return float(10.0**-decimals)
    return 0.0
