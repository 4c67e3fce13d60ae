"""How answers were rounded before they arrived: bits of their mantissa, decimal digits, or a fixed step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.domain import DOUBLE, HALF, SINGLE

# Answers are called rounded only where unrounded ones would look so less often than this.
BY_CHANCE = 1e-4
# A mantissa of more bits, or more steps than that in the largest answer, is the rounding of float32 or finer.
MOST_BITS = 20
# Decimals that answers may have been rounded to; how near to such a number they must be, as a share of the largest one,
# for their own rounding, and of the step.
POWERS, NEAR_DECIMAL, SURELY = range(-6, 8), 1e-13, 0.01
# Decimal places that leave a float64 of size one all its digits.
DOUBLE_PLACES = 17


@dataclass(frozen=True)
class Digits:
    """What the last digits of answers show.

    Attributes:
        mantissa: Bits of the mantissa, the leading one included: the rounding that grows with an answer.
        step: What all answers are multiples of, up to one offset; 0 if nothing: the rounding that does not grow.
    """

    mantissa: int
    step: float = 0.0

    def relative(self, size: float) -> float:
        """The larger of both, as a share of answers of this size."""
        unit = math.ldexp(1.0, 1 - self.mantissa)
        return max(unit, self.step / size) if size > 0 else unit


def digits_of(y: Float[np.ndarray, "N m"], mantissa: int) -> Digits:
    """See how answers were rounded.

    Args:
        y: A few answers, as float64.
        mantissa: Bits that their type holds: see `bits_of`.
    """
    seen = np.unique(np.abs(y[(y != 0) & np.isfinite(y)]))
    for look in (_binary, _decimal):
        found = look(seen, mantissa)
        if found is not None:
            return found
    return Digits(mantissa, _common_step(y, mantissa))


def bits_of(dtype: np.dtype[np.generic], y: Float[np.ndarray, "N m"]) -> int:
    """Bits of the mantissa of answers that arrived as `dtype`; of float64 ones, 24 if they were computed in float32."""
    if dtype == np.float16:
        return HALF
    return SINGLE if dtype == np.float32 or _single(y) else DOUBLE


def _single(y: np.ndarray) -> bool:
    """Whether float64 answers were computed in float32: all of them fit, and one needs most of its 24 bits."""
    with np.errstate(over="ignore"):
        z = y.astype(np.float32)
    short = (z.view(np.uint32) & np.uint32(0xFFF)) == 0
    return bool((z.astype(np.float64) == y).all()) and not bool(short.all())


def _binary(seen: np.ndarray, mantissa: int) -> Digits | None:
    """Few bits: a short mantissa (float16, bfloat16), or multiples of a step such as 1/64."""
    if not len(seen):
        return None
    fraction, exponent = np.frexp(seen)
    whole = (fraction * 2.0**DOUBLE).astype(np.int64)
    lowest = exponent - DOUBLE + np.round(np.log2((whole & -whole).astype(np.float64))).astype(int)
    bits = int((exponent - lowest).max())
    # Each bit that no answer uses would be 0 by chance in half of all answers.
    if bits > MOST_BITS or 2.0 ** ((bits - mantissa) * len(seen)) > BY_CHANCE or len(seen) < 3:
        return None
    finest = int(lowest.min())
    # Of two readings the one that leaves fewer numbers to choose from: bits after the leading one, or multiples.
    floating, fixed = len(seen) * (bits - 1), int((exponent - finest - 1).sum())
    if floating < fixed:
        return Digits(bits)
    multiples = np.round(np.ldexp(seen, -finest)).astype(np.int64)
    return Digits(mantissa, math.ldexp(float(np.gcd.reduce(multiples)), finest))


def _decimal(seen: np.ndarray, mantissa: int) -> Digits | None:
    """Few decimal digits: fixed places, or significant digits.

    A generic float64 needs 16 or 17 digits and a float32 8 or 9; two or more that need at most 12 (5, or four or more
    that need 6), are no accident.
    """
    if len(seen) < 2 or mantissa < SINGLE:
        return None
    few, short = (12, np.float64) if mantissa == DOUBLE else (5 if len(seen) < 4 else 6, np.float32)
    texts = [np.format_float_scientific(short(v), trim="-").split("e") for v in seen[:64]]
    count = np.array([len(text.replace(".", "")) for text, _ in texts])
    power = np.array([int(exponent) for _, exponent in texts])
    places = int((count - 1 - power).max())
    if count.max() > few:
        return _many_places(seen[:64], places, mantissa)
    if len(seen) * (count.max() - 1) < (power + places).sum():
        return Digits(min(mantissa, 1 + math.floor((int(count.max()) - 1) * math.log2(10))))
    step = 10.0**-places
    multiples = np.round(seen / step)
    if multiples.max() < 2**DOUBLE:
        step *= float(np.gcd.reduce(multiples.astype(np.int64)))
    return Digits(mantissa, step)


def _many_places(seen: np.ndarray, places: int, mantissa: int) -> Digits | None:
    """Decimal places so many that numbers of this type have hardly more digits: what small ones lack tells.

    A number ends there by chance as often as its type's own spacing is part of the step. One alone, much smaller than
    all others, tells nothing.
    """
    if mantissa < DOUBLE or places > DOUBLE_PLACES:
        return None
    spacing = np.ldexp(1.0, np.frexp(seen)[1] - mantissa)
    chances = np.log(np.minimum(1.0, spacing * 10.0**places))
    accident = chances.sum() - chances.min()
    return Digits(mantissa, 10.0**-places) if accident < math.log(BY_CHANCE) else None


def _common_step(y: np.ndarray, mantissa: int) -> float:
    """The largest step that all answers are multiples of, up to an offset; 0 if there is none that is no accident.

    Euclid's algorithm on their differences, which end at the rounding of the answers' own type.
    """
    seen = np.unique(y[np.isfinite(y)])
    if len(seen) < 4:
        return 0.0
    error = 2 * math.ldexp(float(np.abs(seen).max()), 1 - mantissa)
    # What is no further apart than rounding is one value.
    seen = seen[np.concatenate([[True], np.diff(seen) > 8 * error])]
    if len(seen) < 4:
        return 0.0
    apart = seen[1:] - seen[0]
    # A remainder carries the error of what it was left over from, times the quotient.
    least = math.sqrt(16 * error * float(apart[-1]))
    step = float(apart[0])
    for other in apart[1:]:
        larger, smaller = max(step, float(other)), min(step, float(other))
        while smaller > least:
            larger, smaller = smaller, abs(larger - round(larger / smaller) * smaller)
        step = larger
    if step <= least:
        return 0.0
    counts = np.round(apart / step)
    step = float(apart @ counts / (counts @ counts))
    missed = 4 * error
    if (np.abs(apart - counts * step) > missed).any() or counts.max() > 2**MOST_BITS:
        return 0.0
    # How likely as many differences are all that near to multiples of one of the steps that there are.
    accident = len(apart) * math.log(min(1.0, 2 * missed / step)) + math.log(counts.max())
    return step if accident < math.log(BY_CHANCE) else 0.0


def mantissa_bits(y: np.ndarray, fewest: int = 1) -> int:
    """How many bits of their mantissa these numbers use: 8 of bfloat16, 24 of float32, whatever type holds them.

    Args:
        y: Answers, of any shape.
        fewest: With fewer different ones it is not told: 53.
    """
    seen = np.unique(np.abs(y[y != 0].astype(np.float64)))
    if len(seen) < fewest:
        return DOUBLE
    mantissa = np.ldexp(np.frexp(seen)[0], DOUBLE).astype(np.int64)
    lowest = mantissa & -mantissa  # of numbers drawn at random half end in each place: a few decide
    return int(max(1, DOUBLE - np.log2(lowest.min())))


def decimal_step(y: np.ndarray) -> float:
    """The step of answers rounded to a power of ten, at most 7 decimals; 0 if they are not."""
    if not np.ptp(y) > 0:
        return 0.0
    for decimals in POWERS:
        scaled = y * 10.0**decimals if decimals >= 0 else y / 10.0**-decimals
        whole = np.round(scaled)
        # Answers far below a step are all near to 0 of it, and say nothing about it.
        if np.ptp(whole) > 0 and np.abs(scaled - whole).max() <= min(
            SURELY, NEAR_DECIMAL * float(np.abs(scaled).max())
        ):
            # Short binary numbers are decimals, too; these say nothing about rounding to decimals.
            return 10.0**-decimals if mantissa_bits(y) > SINGLE or decimals <= 0 else 0.0
    return 0.0


def multiples(values: Float[np.ndarray, " K"]) -> float:
    """The step of answers that are all multiples of one, if at least two of them are neighbours; else 0."""
    seen = np.unique(values)
    if not 3 <= len(seen) < 0.9 * len(values):
        return 0.0
    gaps = np.diff(seen)
    rounding = 8 * np.finfo(float).eps * float(np.abs(seen).max())
    gaps = gaps[gaps > 4 * rounding]
    if len(gaps) < 2:
        return 0.0
    step = float(gaps.min())
    count = (seen - seen[0]) / step
    off = np.abs(count - np.round(count))
    return step if count[-1] < 1e6 and bool((off <= 1e-3 + count * rounding / step).all()) else 0.0
