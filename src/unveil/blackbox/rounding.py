"""How exact the answers of a piecewise-linear function are: the noise that its breakpoints must stand out from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.noise_model import errors_variance

Ask = Callable[[np.ndarray], np.ndarray]

# Lengths of short steps, in units of a typical input: the least and the largest.
SHORTEST_STEP_LENGTH, LONGEST_STEP_LENGTH = 1e-4, 0.1
# Slopes over short steps that are known better than this tell hyperplanes apart one at a time, without statistics; and
# the relative rounding from which on they are not.
EXACT_SLOPE = 6e-9
COARSE = EXACT_SLOPE ** (4 / 3)
# A value agrees with a prediction when it is within this many times the standard deviations that both carry.
AGREE = 8.0
# Rounding at a place may be so many times what its distance tells, as it depends on what is active there.
LOUDER = 8.0
# Relative rounding from which on answers have few digits.
FEW_DIGITS = 1e-12
# Distance of points in a row that tells rounding, as a share of their size, and of ones between close breakpoints; in
# steps of the answers' rounding it is so long at least.
USUAL, SHORT_ROW_DISTANCE, ROW_DISTANCE_ROUNDINGS = 1e-3, 3e-5, 100.0
# How many times further out answers are looked at where they stay the same among usual inputs.
FURTHER_OUT = (10.0, 100.0, 1000.0)
# Standard deviation of an answer that has no digits: it weighs nothing, and its square is a number.
NO_DIGITS = 1e150
# Halvings between two answers, the share of their difference that a jump keeps, and pairs that must show one.
JUMP_HALVINGS, JUMP, JUMP_PAIRS = 40, 1e-3, 3
# Share of the widest log-ratio at which a probability counts as 0.
TOO_SMALL = 0.98
# Rows of points that rounding is measured by; where answers have few digits rows are longer next to the rounding, so
# that more of them meet a breakpoint.
ROUNDING_ROWS, ROWS_OF_FEW = 4, 16


@dataclass(frozen=True)
class Rounding:
    """How exact answers are, as a function of where was asked.

    The numbers inside a piecewise-linear network grow in proportion to the input, and their rounding with them.

    Attributes:
        floor: (m,) standard deviation of an answer near the reference points.
        size: Norm of the reference points.
        relative: The largest floor relative to the size of the answers there.
        straight: Whether most of the rows of points saw no bend beyond rounding. Where they did, answers curve, or rows
            met breakpoints: `detect.curved` tells.
        still: Whether answers stayed exactly the same over all of the short rows, as those that jump in steps do.
        own: Standard deviation of the last rounding of answers, (N, m) of (N, m), where it is not alike for all, as of
            log-ratios of probabilities with few digits.
        quiet: (m,) what the rows of points showed; `floor` is no smaller than half of the last digit of the largest
            numbers added up, several times that where answers are rounded once before they arrive.
    """

    floor: Float[np.ndarray, " m"]
    size: float
    relative: float
    straight: bool
    still: bool = False
    own: Ask | None = None
    quiet: Float[np.ndarray, " m"] | None = None

    @property
    def step(self) -> float:
        """A step long enough for a sharp slope and short enough to meet few breakpoints, for inputs of size one.

        The error of a slope, `relative / step`, and the share of steps that meet one weigh alike.
        """
        return float(np.clip(self.relative**0.25, SHORTEST_STEP_LENGTH, LONGEST_STEP_LENGTH))

    @property
    def exact(self) -> bool:
        """Whether slopes over short steps are known to `EXACT_SLOPE`."""
        return bool(self.relative < COARSE)

    def at(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"] | None) -> Float[np.ndarray, "N m"]:
        """Standard deviation of the answers y at x; these are needed where not all are rounded alike."""
        grown = np.asarray(self.floor * self._grown(x))
        if self.own is None:
            return grown
        assert y is not None
        return np.asarray(np.clip(self.own(y), grown, NO_DIGITS))

    def unit(
        self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], last: Float[np.ndarray, "N m"] | None
    ) -> Float[np.ndarray, "N m"]:
        """`at`; where answers are rounded before they arrive as exactly as that and what was measured allow.

        Args:
            x: Where was asked.
            y: What was answered.
            last: Standard deviation of that rounding; None where answers are as the model computes them.
        """
        if last is None or self.quiet is None or self.own is not None:
            return self.at(x, y)
        return np.asarray(np.maximum(last, self.quiet * self._grown(x) / 2))

    def _grown(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N 1"]:
        return np.asarray(1 + np.linalg.norm(x, axis=1, keepdims=True) / self.size)

    def counts(
        self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]
    ) -> tuple[Float[np.ndarray, "N m"], float]:
        """What the error of each of these answers counts for in a fit, and the deviation of the errors so weighted.

        Points further out weigh less: their rounding is larger, and few of them would otherwise decide a linear fit of
        many weights alone. Outputs weigh alike, but where they are not rounded alike.

        Queries: `0`
        """
        sigma = self.at(x, y)
        each = sigma if self.own is not None else np.broadcast_to(self._grown(x), y.shape)
        counts = np.median(each) / each
        return counts, float(np.sqrt(((counts * sigma) ** 2).mean()))

    def expected_counts(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N 1"]:
        """What errors of answers will count for in a fit, up to a factor, as far as that is known before.

        Queries: `0`
        """
        return np.asarray(1 / self._grown(x))

    def before(self, ask: Ask, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        """`at`, where nothing was asked yet. Queries: `0`, or `N` where not all are rounded alike"""
        return self.at(x, None if self.own is None else ask(x))


def rows_for(resolution: float) -> int:
    """Rows of points that tell the rounding of answers with this resolution."""
    return ROWS_OF_FEW if resolution > FEW_DIGITS else ROUNDING_ROWS


def rounding(
    ask: Ask,
    points: Float[np.ndarray, "N n"],
    resolution: float,
    rng: np.random.Generator,
    own: Ask | None = None,
    bounded: bool = True,
) -> Rounding:
    """Measure how exact answers are, from short straight rows of points.

    Answers that stay the same tell nothing of how the model adds up where it does more: then further out.

    Args:
        ask: Answers questions.
        points: Where to look; most of them must be further from a breakpoint than a thousandth of their size.
        resolution: Relative rounding of the answers, as a lower limit (`Oracle.resolution`).
        rng: Draws the directions.
        own: How answers are rounded, where not all are alike (`Oracle.uneven`).
        bounded: Whether no point further out than these may be asked.

    Queries: `6 * N`; where rows of points bend and answers have digits enough twice that: again, thirty times as short;
        where answers stay the same up to `6 * N` for each of `FURTHER_OUT`
    """
    found = _rounding(ask, points, resolution, rng, USUAL, own)
    for scale in FURTHER_OUT if found.still and not bounded and own is None else ():
        out = _rounding(ask, scale * points, resolution, rng, USUAL, None)
        if not out.still:
            assert out.quiet is not None
            return replace(out, floor=out.floor / scale, quiet=out.quiet / scale, size=found.size, still=True)
    if found.straight or resolution * ROW_DISTANCE_ROUNDINGS > SHORT_ROW_DISTANCE:
        return found  # shorter rows would show nothing
    return _rounding(ask, points, resolution, rng, SHORT_ROW_DISTANCE, own)


def _rounding(
    ask: Ask, points: np.ndarray, resolution: float, rng: np.random.Generator, step: float, own: Ask | None
) -> Rounding:
    """From rows of points that are this share of their size apart."""
    count, n = points.shape
    size = max(float(np.median(np.linalg.norm(points, axis=1))), 1e-300)
    direction = rng.standard_normal((count, n))
    direction *= step * size / np.linalg.norm(direction, axis=1, keepdims=True)
    steps = np.arange(-2.5, 3)
    y = ask((points[:, None] + steps[:, None] * direction[:, None]).reshape(-1, n)).reshape(count, len(steps), -1)
    second = np.abs(np.diff(y, n=2, axis=1))
    # The numbers added up inside are as large as the answer, or as the input times the slope where these cancel.
    typical = np.abs(y).max(axis=(0, 1)) + np.median(np.abs(np.diff(y, axis=1)).max(axis=1), axis=0) / step
    typical = np.where(typical > 0, typical, max(float(typical.max()), 1.0))
    slope = np.abs(np.diff(y, axis=1)).mean(axis=1)
    blurred = resolution * typical if own is None else np.maximum(resolution * typical, own(y.mean(axis=1)))
    bent = (second.max(axis=1) > 1e-6 * slope + 40 * blurred).any(axis=1)
    straight = bool(bent.mean() <= 0.5)
    # What rows that bend leave of a polynomial is the breakpoint's.
    quiet = np.sqrt(np.median(errors_variance(y[~bent if straight else slice(None)].swapaxes(0, 1), 2), axis=0))
    floor = np.clip(quiet, resolution * typical / 2, 40 * resolution * typical)
    still = not np.diff(y, axis=1).any()
    return Rounding(floor, size, float((floor / typical).max()), straight, still, own, quiet)


def in_steps(ask: Ask, points: Float[np.ndarray, "N n"], rng: np.random.Generator, widest: float = np.inf) -> bool:
    """Whether answers jump from one value to another: no slope says anything about what is inside.

    Between points with different answers the place where they change is halved until doubles end. Of a function
    without jumps the difference falls with the distance.

    Args:
        ask: Answers questions.
        points: From where to go outwards.
        rng: Draws the directions.
        widest: `Oracle.widest`: where a log-ratio has run out of digits it jumps, whatever the softmax was given.

    Queries: `2 N`, and `JUMP_HALVINGS` for each pair of different answers, fewer where they do not jump
    """
    low, high = points, points + rng.standard_normal(points.shape) * np.abs(points).max(axis=1, keepdims=True)
    below, above = np.split(np.clip(ask(np.concatenate([low, high])), -widest, widest), 2)
    first = np.abs(above - below).max(axis=1)
    for halving in range(JUMP_HALVINGS):
        open_ = np.abs(above - below).max(axis=1) > JUMP * first
        low, high, below, above, first = (each[open_] for each in (low, high, below, above, first))
        if len(low) < JUMP_PAIRS:
            return False
        if halving == JUMP_HALVINGS - 1:
            break
        middle = (low + high) / 2
        y = np.clip(ask(middle), -widest, widest)
        # The half over which more happens.
        left = (np.abs(y - below).max(axis=1) >= np.abs(above - y).max(axis=1))[:, None]
        low, high = np.where(left, low, middle), np.where(left, middle, high)
        below, above = np.where(left, below, y), np.where(left, y, above)
    return True


def reach(ask: Ask, points: Float[np.ndarray, "N n"], widest: float, far: float) -> float:
    """How far out questions may go, in units of these points, before a softmax hides what it was given.

    Logits grow with the input, and the smallest probability falls until it is rounded to nothing: from there on its
    logarithm stays put, or is noise, and a line shows breakpoints that no neuron made.

    Args:
        ask: Answers with log-ratios.
        points: From where to go outwards.
        widest: `Oracle.widest`.
        far: The largest that is wanted.

    Returns:
        At most `far`, and a third of what all points bear; at least 0.1.

    Queries: about `N * log2(8 far)`
    """
    scales = far / 2.0 ** np.arange(int(np.ceil(np.log2(max(far, 2)))) + 3)
    y = ask((scales[:, None, None] * points).reshape(-1, points.shape[1]))
    bearable = scales[intact(y, widest).reshape(len(scales), -1).all(axis=1)].max(initial=0.0)
    return far if bearable == far else float(np.clip(bearable / 3, 0.1, far))


def weights(
    own: Callable[[np.ndarray], np.ndarray] | None, y: Float[np.ndarray, "N m"], usual: float | Float[np.ndarray, " m"]
) -> Float[np.ndarray, "N m"]:
    """What each answer counts for: less where its own rounding is above the usual one.

    Args:
        own: The rounding of answers (`Oracle.uneven`, `Oracle.rounding`); None where all are rounded alike.
        y: Answers.
        usual: Standard deviation of the usual answer's rounding, as of the median one; 0 where it is not known.
    """
    return np.ones_like(y) if own is None or not np.any(usual) else np.asarray(usual / np.maximum(usual, own(y)))


def intact(y: Float[np.ndarray, "N m"], widest: float) -> Bool[np.ndarray, " N"]:
    """Which answers with log-ratios still say what the softmax was given: see `Oracle.widest`."""
    return np.asarray(np.maximum(y.max(axis=1), 0) - np.minimum(y.min(axis=1), 0) < TOO_SMALL * widest)
