"""NoiseModel: how far an answer can be trusted, how it is rounded, how the model curves, and how long steps may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.arguments import Randomness, examples, generator
from unveil.blackbox.answers import missing
from unveil.blackbox.digits import decimal_step, mantissa_bits, multiples
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.one_line import one_line
from unveil.outcome import MissingAnswers

TABLE = 9  # values per difference table: Moré and Wild find six or more to be enough
TABLES = 4
TRIPLES = 12
SCALES = 9
RATIO = 4.0  # between the steps of one scale and the next
OTHERS = 3  # times other points are looked at, if an answer is missing beside each
NOISE_LINES = 16  # along which the errors of a smooth model's answers are measured
MANTISSA_ANSWERS = 8  # different answers that tell how short the mantissa is
CHANGE_SIGMAS = (
    16.0  # standard deviations that an answer must change by, for a line on which it does to say how far it is straight
)
COARSE_PROBABILITY = 1e-6  # relative rounding of probabilities, above which it is none of float32
SHORT_MANTISSA = 20  # bits; a model that calculates in float32 or float64 gives longer ones


@one_line
@dataclass(frozen=True)
class NoiseModel:
    """What the answers look like from close by.

    Attributes:
        level: Standard deviation of the rounding or noise of each output, absolute, shape (m,).
        kind: "constant", "linear", "piecewise linear" or "smooth".
        digits: Significant decimal digits of an answer.
        reach: The largest step, in units of the input, at which a third of the lines asked still look straight.
        size: Typical spread of each output over legal inputs, shape (m,).
        curvature: Typical second derivative along a unit direction, in units of `size` (0 unless smooth).
        queries: Queries asked.
        rounding: "float", "mantissa" (fewer bits than float32), "decimal", "multiples" (of some other step) or "noise".
        amplified: Noise of log-ratios over their rounding, (m,): what the model loses before it; 1 for other answers.
        unchanged: Share of the shortest moves that should have changed an answer and left it exactly as it was.
        places: Different answers at the TRIPLES places asked.
        usual: Standard deviation of an answer at the median place, (m,): `level` is that where it is least.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: np.sin(x.sum(axis=1)).astype(np.float32), shape=3)
        >>> noise = uv.measure_noise(oracle, rng=np.random.default_rng(0))
        >>> bool(1e-9 < noise.level.max() < 1e-6)
        True
    """

    level: Float[np.ndarray, " m"]
    kind: str
    digits: int
    reach: float
    size: Float[np.ndarray, " m"]
    curvature: float
    queries: int
    rounding: str = "float"
    amplified: Float[np.ndarray, " m"] | float = 1.0
    unchanged: float = 0.0
    places: int = TRIPLES
    usual: Float[np.ndarray, " m"] | None = None

    @property
    def signal(self) -> Float[np.ndarray, " m"]:
        """How much answers differ from place to place, over their noise at the median place: at most `size / level`."""
        return np.asarray(self.size / (self.level if self.usual is None else self.usual))

    def sigma(self, oracle: Oracle, y: Float[np.ndarray, "N m"]) -> Float[np.ndarray, "N m"]:
        """Standard deviation of each of the answers y: it grows with their size and where probabilities are small."""
        return np.asarray(np.maximum(self.level, self.amplified * oracle.rounding(y)))


@dataclass(frozen=True)
class _Scales:
    """Answers at TRIPLES points and on both sides of them, at SCALES distances."""

    centre: Float[np.ndarray, "T m"]
    first: Float[np.ndarray, "S T m"]
    second: Float[np.ndarray, "S T m"]
    still: Bool[np.ndarray, "S T m"]
    lengths: Float[np.ndarray, " S"]
    moved: Bool[np.ndarray, " S"]
    everything: Float[np.ndarray, "K m"]


def errors_variance(values: Float[np.ndarray, "K *rest"], order: int) -> Float[np.ndarray, "*rest"]:
    """Variance of independent errors of K neighbouring values, from their differences of this order.

    Those of a smooth function vanish quickly with the order, while those of errors grow like binomials.
    """
    gamma = math.factorial(order) ** 2 / math.factorial(2 * order)
    return np.asarray(gamma * np.mean(np.diff(values, order, axis=0) ** 2, axis=0))


def estimate_noise(values: Float[np.ndarray, "K m"]) -> Float[np.ndarray, " m"]:
    """Noise level of K values of a function at equally spaced, very close arguments.

    The level is read where the differences of three successive orders agree within a factor of four.

    Returns:
        Standard deviation per column; 0 where the values do not differ at all.

    Source: Moré and Wild, Estimating computational noise, SIAM J. Sci. Comput. 33 (2011), algorithm ECnoise.
    """
    orders = range(1, len(values))
    sigma = np.sqrt([errors_variance(values, order) for order in orders])
    tables = [np.diff(values, order, axis=0) for order in orders]
    signs = np.array([(table.min(axis=0) < 0) & (table.max(axis=0) > 0) for table in tables])
    # High orders have few differences: where no three orders agree, the smallest level is the safe reading.
    level = sigma[1:].min(axis=0)
    for first in range(len(sigma) - 3, -1, -1):
        three = sigma[first : first + 3]
        agree = (three.max(axis=0) <= 4 * three.min(axis=0)) & signs[first]
        level = np.where(agree, three[0], level)
    return np.asarray(level)


def answers_noise(oracle: Oracle, rng: np.random.Generator) -> float:
    """Standard deviation of the errors of the answers, absolute, at points as a user would draw them.

    Sixth differences over steps of a few thousandths of the usual size: what is left of a smooth function is below
    1e-15. Their mean square: errors along one line are much the same, so that few lines can all be too good. That of
    the noisiest output.

    Queries: 128, once for an oracle
    """
    if oracle.deviation_measured >= 0:
        return oracle.deviation_measured
    x = oracle.sample(NOISE_LINES, rng)
    if oracle.within is not None:
        x = (x + oracle.middle) / 2
    away = rng.standard_normal(x.shape)
    usual = np.sqrt(np.mean(x**2)) or 1.0
    away *= 2e-3 * usual / np.sqrt(np.mean(away**2, axis=1, keepdims=True)) / np.sqrt(oracle.n)
    line = oracle.nearest((x[:, None] + np.arange(8)[:, None] * away[:, None]).reshape(-1, oracle.n))
    y = oracle(line).reshape(NOISE_LINES, 8, -1).swapaxes(0, 1)
    oracle.deviation_measured = float(np.sqrt(errors_variance(y, 6).mean(axis=0).max()))
    return oracle.deviation_measured


def measure_noise(
    oracle: Oracle, *, rng: Randomness, x: Float[np.ndarray, "N n"] | None = None, triples: int = TRIPLES
) -> NoiseModel:
    """Look at an oracle from close by: the one noise measurement of the package.

    Args:
        oracle: Answers values.
        rng: A generator, or a seed. Draws the points and directions.
        x: Points to look at, e.g. typical inputs; by default `oracle.sample`.
        triples: Lines of three points looked at on each scale, with few, a rare breakpoint is missed.

    Returns:
        Level, kind and reach: linear where no triple of points is curved, constant where nothing changes at all.

    Raises:
        BadInput: `x` are no inputs of the oracle, or no real numbers.

    Queries: `min(TABLES, triples) * TABLE + triples * (1 + 2 * SCALES)`: 264 by default

    Source: Moré and Wild 2011 for the level; second differences at geometric scales for the kind.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: np.sin(x.sum(axis=1)).astype(np.float32), shape=3)
        >>> noise = uv.measure_noise(oracle, rng=np.random.default_rng(0))
        >>> bool(1e-9 < noise.level.max() < 1e-6)
        True
    """
    must_be_asked(oracle)
    rng, x = generator(rng), examples(x, oracle.n)
    before = oracle.ledger.asked
    given, asked = x, _draw(oracle, triples, rng, x)
    scale = float(np.sqrt(np.mean(asked**2))) or 1.0
    longest = 0.5 * scale if oracle.within is None else (oracle.high - oracle.low) / 32
    close: list[np.ndarray] = []
    signs = np.empty((0, oracle.n))
    for attempt in range(1 + OTHERS):
        if attempt:
            asked = _draw(oracle, triples, rng, given)
        here, centre = _answered(oracle, asked, rng, given)
        if not attempt:
            signs = rng.choice([-1.0, 1.0], size=(triples, oracle.n))
        close = close or _tables(oracle, here, signs, scale, rng)
        seen = _ask_scales(oracle, here, centre, signs, longest, close)
        if len(seen.centre) and close:
            break
    else:
        raise MissingAnswers(
            f"{oracle.name} answered with NaN or infinity beside all of {(1 + OTHERS) * triples} points: "
            "pass within=(low, high) to stay where it is defined"
        )
    return _read(oracle, seen, close, oracle.ledger.asked - before)


def _tables(
    oracle: Oracle, x: Float[np.ndarray, "N n"], signs: Float[np.ndarray, "T n"], scale: float, rng: np.random.Generator
) -> list[Float[np.ndarray, "K m"]]:
    """Answers at equally spaced, very close points; on a grid along one coordinate, so that few breakpoints are met."""
    spacing = 64 * max(float(np.finfo(oracle.dtype).eps), min(oracle.resolution, 1e-6)) * scale
    direction = signs[:TABLES]
    if oracle.grid is not None:
        direction = np.zeros((TABLES, oracle.n))
        direction[np.arange(TABLES), rng.integers(oracle.n, size=TABLES)] = 1.0
        spacing = oracle.grid
    steps = spacing * (np.arange(TABLE)[:, None] - TABLE // 2)
    tables = [oracle.answered(oracle.nearest(x[i] + steps * direction[i])) for i in range(min(TABLES, len(x)))]
    return [table for table in tables if not missing(table).any()]


def _ask_scales(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    centre: Float[np.ndarray, "N m"],
    signs: Float[np.ndarray, "N n"],
    longest: float | Float[np.ndarray, " n"],
    close: list[Float[np.ndarray, "_ m"]],
) -> _Scales:
    first, second, still, lengths, moved, asked = [], [], [], [], [], [centre, *close]
    for power in range(SCALES):
        half = longest * RATIO**-power
        if oracle.grid is not None:
            half = np.maximum(1.0, np.round(half / oracle.grid)) * oracle.grid
        ahead, behind = oracle.nearest(x + half * signs), oracle.nearest(x - half * signs)
        after, prior = oracle.answered(ahead), oracle.answered(behind)
        first.append(after - prior)
        second.append(np.abs(after + prior - 2 * centre))
        still.append((after == prior) & (after == centre))
        lengths.append(float(np.sqrt(np.sum(np.broadcast_to(half, oracle.n) ** 2))))
        moved.append(bool((ahead != x).any(axis=1).all()))
        asked.append(after)
    everything = np.concatenate(asked)
    whole = np.isfinite(np.array(second)).all(axis=(0, 2))  # a line with a missing answer is left out
    return _Scales(
        centre[whole],
        np.array(first)[:, whole],
        np.array(second)[:, whole],
        np.array(still)[:, whole],
        np.array(lengths),
        np.array(moved),
        everything[~missing(everything)],
    )


def _answered(
    oracle: Oracle, x: Float[np.ndarray, "N n"], rng: np.random.Generator, given: Float[np.ndarray, "M n"] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The points with room for a step on either side, and their answers; others for those without an answer."""
    x = oracle.nearest(oracle.off_walls(x, 1 / 32))
    y = oracle.answered(x)
    while len(gone := np.flatnonzero(missing(y))):  # ends: too many missing answers are an error
        x[gone] = oracle.nearest(oracle.off_walls(_draw(oracle, len(gone), rng, given), 1 / 32))
        y[gone] = oracle.answered(x[gone])
    return x, y


def _draw(oracle: Oracle, count: int, rng: np.random.Generator, given: Float[np.ndarray, "M n"] | None) -> np.ndarray:
    return oracle.sample(count, rng) if given is None else given[rng.integers(len(given), size=count)]


def _read(oracle: Oracle, seen: _Scales, close: list[np.ndarray], queries: int) -> NoiseModel:
    centre = seen.centre
    levels = np.array([estimate_noise(values) for values in close])
    last = np.array([oracle.rounding(values[len(values) // 2 :][:1])[0] for values in close])
    largest = np.abs(centre).max(axis=0)
    level, amplified = _nearby(oracle, levels, last)
    eps = max(float(np.finfo(oracle.dtype).eps), 0.0 if oracle.noise else oracle.resolution)
    bits = mantissa_bits(seen.everything, MANTISSA_ANSWERS)
    if bits <= SHORT_MANTISSA:
        eps = max(eps, 2.0 ** (1 - bits))
    decimal = decimal_step(centre)
    steps = np.maximum([multiples(column) for column in seen.everything.T], decimal)
    exact = max(float(np.finfo(oracle.dtype).eps), 2.0 ** (1 - bits))
    noisy = bool(((level > 32 * exact * largest) & (level > 2 * steps)).any())
    level = np.maximum(level, steps / math.sqrt(12))
    floor = np.finfo(oracle.dtype).eps if np.isfinite(oracle.widest) else eps
    level = np.maximum(level, np.maximum(largest * floor / 4, np.finfo(float).tiny))
    still = (np.ptp(close, axis=1) == 0).all(axis=0)
    level = _as_others(level, np.abs(seen.everything).max(axis=0), still)
    # In units of the noise at each place.
    rounded = amplified * oracle.rounding(centre)
    unit = np.maximum(level, rounded)
    second = seen.second / unit
    size = np.maximum(centre.std(axis=0), seen.second.max(axis=(0, 1)))
    # The noise of a second difference is 2.4 levels; a smooth function's rarely spreads over both thresholds.
    straight = (second <= 8).all(axis=2)  # (SCALES, TRIPLES)
    bent = (second >= 300).any(axis=2)
    varies = bool((np.ptp(centre, axis=0) > 16 * level).any())
    kind = _kind(straight, bent, second, varies)
    curvature = 0.0
    if kind == "smooth":
        curvature = _curvature(seen, second, size)
        if curvature == 0:  # curved here and there, but nowhere so that most lines show
            kind = "piecewise linear"
    signs = {
        "noise": noisy,
        # Log-ratios of rounded probabilities are multiples of nothing, yet as coarse as those are.
        "decimal": bool(decimal) or (np.isfinite(oracle.widest) and oracle.resolution > COARSE_PROBABILITY),
        "multiples": steps.any(),
        "mantissa": bits <= SHORT_MANTISSA,
    }
    rounding = next((name for name, there in signs.items() if there), "float")
    return NoiseModel(
        level=level,
        kind=kind,
        digits=max(0, int(-math.log10(float(np.median(level)) / (float(largest.max()) or 1.0)))),
        reach=_reach(seen, straight, unit),
        size=size,
        curvature=curvature,
        queries=queries,
        rounding=rounding,
        amplified=amplified,
        unchanged=0.0
        if steps.all()
        else _unchanged(seen, np.maximum(eps * largest, math.sqrt(12) * np.median(rounded, axis=0))),
        places=len(np.unique(centre, axis=0)),
        usual=np.median(unit, axis=0),
    )


def _nearby(
    oracle: Oracle, levels: Float[np.ndarray, "K m"], last: Float[np.ndarray, "K m"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"] | float]:
    """One level of the noise that rows of very close points show, and how many times their last rounding it is.

    Args:
        oracle: Answers.
        levels: Of each row.
        last: Standard deviation of the last rounding of an answer in each row.
    """
    if np.isfinite(oracle.widest):  # the noise of log-ratios differs from place to place, as their rounding does
        amplified = np.maximum(1.0, np.median(levels / np.maximum(last, np.finfo(float).tiny), axis=0))
        return levels.min(axis=0), np.asarray(amplified)
    if oracle.grid is not None:  # a row of points on a coarse grid may meet a breakpoint: the quieter rows count
        return np.sort(levels, axis=0)[min(1, len(levels) - 1)], 1.0
    return levels.max(axis=0), 1.0


def _curvature(seen: _Scales, second: Float[np.ndarray, "s t m"], size: Float[np.ndarray, " m"]) -> float:
    """Second derivative in units of `size`, where most lines show it above the noise; else 0."""
    visible = np.median(second, axis=1) > 16  # (SCALES, m)
    rates = np.median(seen.second, axis=1) / seen.lengths[:, None] ** 2 / np.maximum(size, np.finfo(float).tiny)
    return float(np.where(visible, rates, 0.0).max())


def _as_others(
    level: Float[np.ndarray, " m"], largest: Float[np.ndarray, " m"], still: Bool[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """Levels in which an output that stood still wherever it was looked at is taken to be as noisy as the usual other.

    A rectified output rests at half of all places; where it does not, it is rounded as the others are.
    """
    if still.all() or not still.any():
        return level
    share = np.median(level[~still] / np.maximum(largest[~still], level[~still]))
    usual = np.where(largest > 0, share * largest, np.median(level[~still]))
    return np.asarray(np.where(still, np.maximum(level, usual), level))


def _reach(seen: _Scales, straight: Bool[np.ndarray, "s t"], unit: np.ndarray) -> float:
    """The longest step at which a third of the lines are straight, of those on which anything changes at all."""
    alive = (np.abs(seen.first) > CHANGE_SIGMAS * unit).any(axis=2) | ~straight
    if not alive.any():  # noise hides the slopes at every scale, and the curvature: the longest steps show most
        alive = np.ones_like(alive)
    share = (straight & alive).sum(axis=1) / np.maximum(1, alive.sum(axis=1))
    good = np.flatnonzero(share >= 0.3)
    best = int(good[0]) if len(good) else int(np.argmax(share)) if share.max() > 0 else len(share) - 1
    return float(seen.lengths[best])


def _unchanged(seen: _Scales, rounding: np.ndarray) -> float:
    """Of the shortest moves at which a slope would show above rounding, the share that changed nothing at all."""
    expected = np.median(np.abs(seen.first[0]), axis=0) * (seen.lengths / seen.lengths[0])[:, None]
    fair = np.flatnonzero((expected > 32 * rounding).any(axis=1) & seen.moved)
    if not len(fair) or fair[-1] < 3 or seen.still[0].all(axis=1).mean() > 0.7:
        return 0.0
    return float(seen.still[fair[-2] : fair[-1] + 1].all(axis=2).mean())


def _kind(
    straight: Bool[np.ndarray, "s t"], bent: Bool[np.ndarray, "s t"], second: Float[np.ndarray, "s t m"], varies: bool
) -> str:
    if (second <= 32).all():
        return "linear" if varies else "constant"
    # A breakpoint is inside a triple or not: at some scale both happen. Curvature fades everywhere at once.
    for scale in range(len(straight)):
        if straight[scale].mean() >= 0.2 and bent[scale].mean() >= 0.08:
            return "piecewise linear"
    # Two scales shorter a smooth second difference is 256 times smaller; a breakpoint that has left the triple is gone.
    gone = straight[2:] & (second[:-2] >= RATIO**4 * 25).any(axis=2)
    if gone.sum() >= 2:
        return "piecewise linear"
    return "smooth"
