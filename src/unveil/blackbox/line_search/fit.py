"""One line, or two lines that meet, through the answers of a stretch, in units of the answers' own errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


def limit(outputs: int) -> float:
    """Standard deviations, root mean square over the outputs, that the worst residual of a true line may have.

    Rounding is not normally distributed, and its deviation is known to a factor of two at best.
    """
    return 2.5 + 3.5 / float(np.sqrt(outputs))


@dataclass(frozen=True)
class Lines:
    """Weighted least-squares lines, one per row and output: `value + (t - centre) * slope`.

    Attributes:
        centre: (B, m) weighted mean of t, where the errors of value and slope are independent.
        value: (B, m)
        slope: (B, m)
        value_variance: (B, m)
        slope_variance: (B, m)
    """

    centre: Float[np.ndarray, "B m"]
    value: Float[np.ndarray, "B m"]
    slope: Float[np.ndarray, "B m"]
    value_variance: Float[np.ndarray, "B m"]
    slope_variance: Float[np.ndarray, "B m"]

    def take(self, rows: slice) -> Lines:
        """Some of the lines."""
        return Lines(*(a[rows] for a in vars(self).values()))

    def at(self, t: Float[np.ndarray, " B"]) -> Float[np.ndarray, "B m"]:
        """Values at one place per row."""
        return np.asarray(self.value + (t[:, None] - self.centre) * self.slope)

    def variance(self, t: Float[np.ndarray, " B"]) -> Float[np.ndarray, "B m"]:
        """Variance of `at`."""
        return np.asarray(self.value_variance + (t[:, None] - self.centre) ** 2 * self.slope_variance)


def straight(
    t: Float[np.ndarray, "B K"],
    y: Float[np.ndarray, "B K m"],
    sigma: Float[np.ndarray, "B K m"],
    use: Bool[np.ndarray, "B K"] | None = None,
) -> tuple[Lines, Float[np.ndarray, "B K"]]:
    """The best line through each row of answers, and the residual of each answer, rms over outputs, in sigmas.

    Args:
        t: Places.
        y: Answers.
        sigma: Their standard deviations; infinite where a row has fewer answers than others.
        use: Which answers are fitted; all by default.
    """
    weight = sigma**-2.0
    if use is not None:
        weight *= use[:, :, None]
    total = np.add.reduce(weight, axis=1)
    # Relative to the surest of the answers: what is large and common to all, or a place far out, would drown the
    # residuals in our own rounding.
    every = np.arange(len(t))
    near = sigma[:, :, 0].argmin(axis=1)
    first, origin = y[every, near], t[every, near][:, None]
    off = (t - origin)[:, :, None]
    shift = np.add.reduce(weight * off, axis=1) / total
    off = off - shift[:, None]
    spread = np.maximum(np.add.reduce(weight * off**2, axis=1), 1e-300)
    change = y - first[:, None]
    mean = np.add.reduce(weight * change, axis=1) / total
    change -= mean[:, None]
    slope = np.add.reduce(weight * off * change, axis=1) / spread
    residual = (change - off * slope[:, None]) / sigma
    lines = Lines(origin + shift, first + mean, slope, 1 / total, 1 / spread)
    return lines, np.sqrt(np.add.reduce(residual**2, axis=2) / y.shape[2])


def straight_pieces(
    t: Float[np.ndarray, " A"],
    y: Float[np.ndarray, "A m"],
    sigma: Float[np.ndarray, "A m"],
    parts: list[Int[np.ndarray, " K"]],
) -> tuple[Lines, Float[np.ndarray, " P"]]:
    """`straight` for pieces of any sizes at once; every part names its answers.

    Returns:
        A line per part, and its worst residual in sigmas; infinite for a part without answers.
    """
    sizes = np.array([len(part) for part in parts])
    some = np.flatnonzero(sizes)
    size = sizes[some]
    every = np.concatenate(parts)
    begin = np.cumsum(size) - size
    t, y, sigma = t[every], y[every], sigma[every]
    # The surest answer of each part, as in `straight`.
    near = np.lexsort((sigma[:, 0], np.repeat(np.arange(len(size)), size)))[begin]
    first = np.repeat(near, size)

    def total(a: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(a, begin, axis=0))

    def back(a: np.ndarray) -> np.ndarray:
        return np.repeat(a, size, axis=0)

    weight = 1 / sigma**2
    sums = total(weight)
    off = (t - t[first])[:, None]
    shift = total(weight * off) / sums
    off = off - back(shift)
    spread = np.maximum(total(weight * off**2), 1e-300)
    change = y - y[first]
    mean = total(weight * change) / sums
    change = change - back(mean)
    slope = total(weight * off * change) / spread
    residual = np.sqrt((((change - off * back(slope)) / sigma) ** 2).mean(axis=1))
    found = t[near, None] + shift, y[near] + mean, slope, 1 / sums, 1 / spread
    out = [np.full((len(parts), y.shape[1]), fill) for fill in (0.0, 0.0, 0.0, np.inf, np.inf)]
    for whole, part in zip(out, found, strict=True):
        whole[some] = part
    worst = np.full(len(parts), np.inf)
    worst[some] = np.maximum.reduceat(residual, begin)
    return Lines(*out), worst


@dataclass(frozen=True)
class Meeting:
    """Where two lines meet, the best pair of each row.

    Attributes:
        t: (B,) where.
        sigma: (B,) standard deviation of it.
        worst: (B,) the largest residual, in sigmas, of the answers and of the gap between the lines where they meet.
        split: (B,) number of answers on the left line.
        jump: (B, m) slope after less slope before.
    """

    t: Float[np.ndarray, " B"]
    sigma: Float[np.ndarray, " B"]
    worst: Float[np.ndarray, " B"]
    split: Int[np.ndarray, " B"]
    jump: Float[np.ndarray, "B m"]


def crossing(left: Lines, right: Lines, middle: Float[np.ndarray, " B"]) -> tuple[np.ndarray, np.ndarray]:
    """Where two lines are nearest to each other in units of their errors, and the deviation of that place."""
    jump = right.slope - left.slope
    weight = 1 / (left.variance(middle) + right.variance(middle))
    strength = np.maximum((weight * jump**2).sum(axis=1), 1e-300)
    t = middle + (weight * (left.at(middle) - right.at(middle)) * jump).sum(axis=1) / strength
    # Once more where they meet: far from the middle the slopes' errors weigh more.
    weight = 1 / (left.variance(t) + right.variance(t))
    strength = np.maximum((weight * jump**2).sum(axis=1), 1e-300)
    t = t + (weight * (left.at(t) - right.at(t)) * jump).sum(axis=1) / strength
    return t, 1 / np.sqrt(strength)


def meeting(
    t: Float[np.ndarray, "B K"],
    y: Float[np.ndarray, "B K m"],
    sigma: Float[np.ndarray, "B K m"],
    counts: Int[np.ndarray, " B"],
    tries: int,
) -> Meeting:
    """Two lines through each row of answers, whichever pair of neighbours they meet between.

    Args:
        t: Places, ascending along each row, the last one repeated where a row has fewer answers than others.
        y: Answers.
        sigma: Their standard deviations, infinite where there is no answer.
        counts: Answers of each row, at least 4.
        tries: Pairs of neighbours that are tried at most.
    """
    cuts = [_spread_out(int(count) - 2, tries) for count in counts]
    row = np.repeat(np.arange(len(cuts)), [len(each) for each in cuts])
    cut = np.concatenate(cuts)
    begin = np.flatnonzero(np.diff(row, prepend=-1))
    on_left = np.arange(t.shape[1]) < cut[:, None]
    both = np.concatenate([row, row])
    lines, off = straight(t[both], y[both], sigma[both], np.concatenate([on_left, ~on_left]))
    pairs = len(row)
    left, right = lines.take(slice(None, pairs)), lines.take(slice(pairs, None))
    before, after = t[row, cut - 1], t[row, cut]
    at, error = crossing(left, right, (before + after) / 2)
    inside = (at >= before - 4 * error) & (at <= after + 4 * error)
    at = np.clip(at, before, after)
    gap = (left.at(at) - right.at(at)) ** 2 / (left.variance(at) + right.variance(at))
    worst = np.where(on_left, off[:pairs], off[pairs:]).max(axis=1)
    worst = np.maximum(worst, np.sqrt(gap.mean(axis=1)))
    worst = np.where(inside, worst, np.maximum(worst, 2 * limit(y.shape[2])))
    # The best pair of each row comes first.
    best = np.lexsort((worst, row))[begin]
    return Meeting(at[best], error[best], worst[best], cut[best], (right.slope - left.slope)[best])


def _spread_out(last: int, most: int) -> Int[np.ndarray, " C"]:
    """All numbers from 2 to the last, or so many of them at equal distances."""
    return np.arange(2, last + 1) if last - 1 <= most else np.unique(np.linspace(2, last, most).round().astype(int))


def covered(t: Float[np.ndarray, "B K"], share: float) -> Bool[np.ndarray, " B"]:
    """Whether no gap between neighbouring answers takes more than this share of the row."""
    return np.asarray(np.diff(t, axis=1).max(axis=1) <= share * (t[:, -1] - t[:, 0]))
