"""local_breakpoints: where one breakpoint lies within a short step, from a few answers along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.line_search.fit import limit
from unveil.blackbox.rounding import LOUDER, Ask, Rounding

# Answers along one step, both ends among them.
POINTS = 9
# Breakpoints weaker than this many standard deviations, at the end of the step, are not looked at.
BREAKPOINT_SIGMAS = 12.0
AT = 6.0  # standard deviations up to which a breakpoint may be in the same place as an answer
# Numbers that two lines which share a point are: where rounding is more than expected it is what answers leave of them.
NUMBERS = 4


@dataclass(frozen=True)
class LocalBreakpoints:
    """What short steps showed.

    Attributes:
        t: (B,) where the breakpoint is, from -1 to 1; NaN where there is not just one.
        width: (B,) standard deviation of that.
        jump: (B, m) change of the slope, per unit of t.
        none: (B,) whether the answers are straight.
    """

    t: Float[np.ndarray, " B"]
    width: Float[np.ndarray, " B"]
    jump: Float[np.ndarray, "B m"]
    none: Bool[np.ndarray, " B"]

    @property
    def found(self) -> Bool[np.ndarray, " B"]:
        """Where there is one breakpoint."""
        return np.asarray(np.isfinite(self.t))


def local_breakpoints(
    ask: Ask, centre: Float[np.ndarray, "B n"], step: Float[np.ndarray, "B n"], noise: Rounding
) -> LocalBreakpoints:
    """Look for one breakpoint between `centre - step` and `centre + step`.

    Two lines that share a point are fitted, whatever pair of neighbouring answers the breakpoint is between.

    Args:
        ask: Answers questions.
        centre: Middle of each step.
        step: Half of it.
        noise: How exact answers are.

    Queries: `POINTS B`
    """
    count, m = len(centre), len(noise.floor)
    if not count:
        return LocalBreakpoints(np.zeros(0), np.zeros(0), np.zeros((0, m)), np.zeros(0, dtype=bool))
    # Denser at the ends: two answers beyond a breakpoint are needed there, and lines are told by their ends.
    t = np.sin(np.pi / 2 * np.linspace(-1, 1, POINTS))
    x = centre[:, None] + t[:, None] * step[:, None]
    y = ask(x.reshape(-1, x.shape[2])).reshape(count, POINTS, m)
    sigma = noise.at(centre, y[:, POINTS // 2])
    y = y / sigma[:, None]
    most = limit(m)
    straight = _worst(y - _line(t, y)[2])
    best, where, jumps, width = np.full(count, np.inf), np.zeros(count), np.zeros((count, m)), np.zeros(count)
    loud = np.ones(count)
    for k in range(2, POINTS - 1):
        a, p, _ = _line(t[:k], y[:, :k])
        b, q, _ = _line(t[k:], y[:, k:])
        jump = q - p
        strength = np.maximum((jump**2).sum(axis=1), 1e-300)
        # Where the lines are nearest to each other.
        at = ((a - b) * jump).sum(axis=1) / strength
        at = np.clip(at, t[k - 1], t[k])
        basis = np.stack(
            [np.ones((count, POINTS)), np.broadcast_to(t, (count, POINTS)), np.maximum(t - at[:, None], 0)], axis=2
        )
        left = y - basis @ (np.linalg.pinv(basis) @ y)
        worst = _worst(left)
        # Errors of both lines where they meet.
        e = np.sqrt(_doubt(t[:k], at) + _doubt(t[k:], at)) / np.sqrt(strength)
        better = worst < best
        best, where, width = np.where(better, worst, best), np.where(better, at, where), np.where(better, e, width)
        loud = np.where(better, np.sqrt((left**2).mean(axis=(1, 2)) * POINTS / (POINTS - NUMBERS)), loud)
        jumps[better] = jump[better]
    loud = np.maximum(loud, 1.0)
    strong = np.sqrt((jumps**2).mean(axis=1)) * np.minimum(1 - where, 1 + where) > BREAKPOINT_SIGMAS * loud
    none = straight <= most * np.where(strong, 1.0, loud)
    # One that is nearer to an end than the second answer looks as if it were there.
    beyond = np.abs(where) + AT * width * loud > t[-2]
    good = ~none & (best <= most * loud) & (loud <= LOUDER) & strong & ~beyond
    return LocalBreakpoints(np.where(good, where, np.nan), width * loud, jumps * sigma, none)


def _line(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value at zero, slope and values of the best line through each (points, m) table."""
    off = t - t.mean()
    slope = np.einsum("p,bpm->bm", off, y) / (off @ off)
    value = y.mean(axis=1) - t.mean() * slope
    return value, slope, value[:, None] + t[:, None] * slope[:, None]


def _doubt(t: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Variance of the value of a line at some place, if those it was fitted to have variance one."""
    off = t - t.mean()
    return np.asarray(1 / len(t) + (at - t.mean()) ** 2 / (off @ off))


def _worst(r: np.ndarray) -> np.ndarray:
    """The worst point of each fit, root mean square over the outputs."""
    return np.asarray(np.sqrt((r**2).mean(axis=2)).max(axis=1))
