"""Short lines across a kernel's hyperplane: `sighted` in windows of other pictures, `traced` away from its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.blackbox.line_search.local_breakpoint import local_breakpoints
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.convolution.kernel import (
    CHANCE,
    CLEAR_WEIGHT_SIGMAS,
    NEAR_PREDICTION_SIGMAS,
    WIDTHS,
    Kernel,
    Matched,
    PixelLine,
    cut,
    met_alone,
    refined,
)
from unveil.identification.picture import Picture

# Windows looked at, and how far from the one that the kernel was read in: along its rows and its columns, so that
# whatever the stride is some of them lie on the grid.
WINDOWS, FARTHEST_WINDOW = 24, 12
# Pictures drawn for each: the one is taken that must be changed least to lie on the hyperplane.
PICTURES_PER_WINDOW = 16
# Half of a short line, in units of the usual way from one breakpoint to the next, and in standard deviations at least.
SHORT_LINE_SPACINGS, SHORT_LINE_SIGMAS = 0.1, 20.0


@dataclass(frozen=True)
class Sighted:
    """What short lines in other windows showed."""

    met: Matched  # breakpoints where the kernel says
    found: int  # lines with one breakpoint, wherever it is
    share: float  # part of a line in which a breakpoint counts as met, on average

    @property
    def believed(self) -> bool:
        """Whether so many where the kernel says cannot be chance."""
        count = len(self.met.line)
        return count >= 2 and bool(special.bdtrc(min(count - 1, self.found), self.found, min(self.share, 1.0)) < CHANCE)


def sighted(  # noqa: PLR0913 - what all sightings share
    kernel: Kernel,
    spacing: float,
    drawn: Float[np.ndarray, "D n"],
    ask: Ask,
    picture: Picture,
    noise: Rounding,
    rng: np.random.Generator,
) -> Sighted:
    """Look for a kernel in windows beside the one that it was read in.

    Lines through many neurons show only those whose slopes stand out from the rounding of the answers; a short line
    that meets one neuron alone shows it better. `spacing`: usual way from one breakpoint of a line to the next.
    Queries: `9 WINDOWS` at most.
    """
    corner = _beside(kernel, picture, rng)
    theta = np.append(kernel.weights.ravel(), kernel.bias)
    doubt = np.append(kernel.error.ravel(), kernel.bias_error)
    tap = int(np.abs(kernel.weights).argmax())
    a, b = kernel.size
    c, i, j = np.unravel_index(tap, kernel.weights.shape)
    planes = picture.planes(drawn)
    every, moved, equations = [], [], []
    for row, column in corner:
        some = planes[rng.permutation(len(planes))[:PICTURES_PER_WINDOW]]
        window = some[:, :, row : row + a, column : column + b].reshape(len(some), -1)
        change = -(window @ theta[:-1] + theta[-1]) / theta[tap]
        best = int(np.abs(window[:, tap] + change - np.median(drawn)).argmin())
        one, equation = some[best].copy(), np.append(window[best], 1.0)
        one[c, row + i, column + j] += change[best]
        equation[tap] += change[best]
        every.append(one)
        equations.append(equation)
        moved.append(picture.unit((int(c), int(row + i), int(column + j))))
    if not every:
        return Sighted(met_alone(np.zeros((0, len(theta))), np.zeros(0), corner[:0]), 0, 1.0)
    system = np.array(equations)
    off = np.sqrt(system**2 @ doubt**2) / abs(theta[tap])
    half = np.maximum(SHORT_LINE_SPACINGS * spacing, SHORT_LINE_SIGMAS * off)
    seen = local_breakpoints(ask, picture.flat(np.array(every)), half[:, None] * np.array(moved), noise)
    reach = NEAR_PREDICTION_SIGMAS * off + WIDTHS * np.where(seen.found, seen.width, 0.0) * half
    met = np.flatnonzero(seen.found & (np.abs(np.where(seen.found, seen.t, np.inf)) * half <= reach))
    system[met, tap] += seen.t[met] * half[met]
    errors = WIDTHS * abs(theta[tap]) * np.maximum(seen.width[met] * half[met], 1e-15)
    share = float(np.mean(reach[seen.found] / half[seen.found])) if seen.found.any() else 1.0
    return Sighted(met_alone(system[met], errors, corner[met]), int(seen.found.sum()), share)


def _beside(kernel: Kernel, picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Corners of windows in the same rows or columns, the nearest ones first among equals, none the kernel's own."""
    _, height, width = picture.shape
    a, b = kernel.size
    i, j = kernel.corner
    rows = [(k, j) for k in range(max(0, i - FARTHEST_WINDOW), min(height - a, i + FARTHEST_WINDOW) + 1) if k != i]
    columns = [(i, k) for k in range(max(0, j - FARTHEST_WINDOW), min(width - b, j + FARTHEST_WINDOW) + 1) if k != j]
    both = np.array([*rows, *columns], dtype=int).reshape(-1, 2)
    return both[rng.permutation(len(both))[:WINDOWS]]


# Short lines per round: half as many as there are weights, but no fewer and no more than these; and rounds at most.
FEWEST_SHORT_LINES, MOST_SHORT_LINES, SHORT_LINE_ROUNDS = 24, 64, 7
# Rows and columns around a window that may hold weights too small to be seen when it was read, up to this part of the
# kernel's length.
RIM, UNSEEN_WEIGHT_SHARE = 1, 0.01
# Standard deviations above which a weight is not zero in the end: those of a trace are known to a factor of two.
TRACED = 2 * CLEAR_WEIGHT_SIGMAS
SHORT_LINE_REACH = 5.0  # standard deviations of the prediction that a short line reaches to either side
# Least share of a round's lines that must meet the hyperplane: others meet a second neuron. A deeper one is bent.
LEAST_MEETING_SHARE = 0.4


def traced(  # noqa: PLR0913 - what all sightings share
    kernel: Kernel, seen: PixelLine, index: int, ask: Ask, picture: Picture, noise: Rounding, rng: np.random.Generator
) -> Kernel | None:
    """Sharpen a kernel by following its hyperplane away from where it was read; None where that was lost.

    The window's pixels are moved at random, and the breakpoint is looked for where the kernel says, on short lines;
    each round goes as far as short lines still hold its error. A first-layer hyperplane is straight however far it is
    followed, others are left soon. Queries: `9` per short line.
    """
    kernel = _with_rim(kernel, picture)
    line = seen.line
    room = min(float(line.t[index] - line.edges[index]), float(line.edges[index + 2] - line.t[index]))
    # What a short line may be long without meeting the next neuron mostly.
    short = room / 2
    unit = picture.unit(seen.pixel)
    a, b = kernel.size
    i, j = kernel.corner
    tap = np.ravel_multi_index((seen.pixel[0], seen.pixel[1] - i, seen.pixel[2] - j), kernel.weights.shape)
    largest = noise.size / np.sqrt(len(unit))
    centre = seen.planes.copy()
    centre[seen.pixel] += line.t[index]
    equations, errors = np.zeros((0, kernel.weights.size + 1)), np.zeros(0)
    first = kernel
    count = int(np.clip(kernel.weights.size // 2, FEWEST_SHORT_LINES, MOST_SHORT_LINES))
    for _ in range(SHORT_LINE_ROUNDS):
        theta = np.append(kernel.weights.ravel(), kernel.bias)
        doubt = np.append(kernel.error.ravel(), kernel.bias_error)
        own = abs(float(theta[tap]))
        moves = rng.standard_normal((count, kernel.weights.size))
        each = np.sqrt((moves**2) @ doubt[:-1] ** 2) / own
        width = float(np.median(line.width))
        size = float(np.clip((short / SHORT_LINE_REACH) / max(float(np.median(each)), 1e-300), 0, largest))
        moves *= size
        moves[:, tap] = 0.0
        moves[:, tap] = -(moves @ theta[:-1]) / theta[tap]
        planes = np.repeat(centre[None], count, axis=0)
        planes[:, :, i : i + a, j : j + b] += moves.reshape(count, *kernel.weights.shape)
        half = np.maximum(SHORT_LINE_REACH * np.sqrt((moves**2) @ doubt[:-1] ** 2) / own, min(short, 20 * width))
        half = np.minimum(half, short)
        met = local_breakpoints(ask, picture.flat(planes), half[:, None] * unit, noise)
        if met.found.mean() < LEAST_MEETING_SHARE:
            return None
        good = np.flatnonzero(met.found)
        windows = planes[good][:, :, i : i + a, j : j + b].reshape(len(good), -1)
        windows[:, tap] += met.t[good] * half[good]
        equations = np.concatenate([equations, np.concatenate([windows, np.ones((len(good), 1))], axis=1)])
        errors = np.concatenate([errors, WIDTHS * own * np.maximum(met.width[good] * half[good], 1e-15)])
        kept = _consistent(first, equations, errors)
        kernel = refined(first, kept)
        if size >= 0.999 * largest and len(kept.line) >= 1.5 * equations.shape[1]:
            return cut(_scattered(kernel, first, kept), TRACED)
    return None


def _scattered(kernel: Kernel, first: Kernel, kept: Matched) -> Kernel:
    """The kernel with the errors that two halves of its equations show, where they differ by more than theirs."""
    half = [refined(first, met_alone(kept.equations[k::2], kept.error[k::2])) for k in (0, 1)]
    off = half[0].weights - half[1].weights
    said = np.sqrt(half[0].error ** 2 + half[1].error ** 2)
    # Together: the weight of the line itself is one by definition, and has no error of its own.
    more = max(1.0, float(np.linalg.norm(off) / np.linalg.norm(said)))
    return Kernel(kernel.weights, kernel.bias, more * kernel.error, more * kernel.bias_error, kernel.corner)


def _with_rim(kernel: Kernel, picture: Picture) -> Kernel:
    """The kernel with a row or column more on each side: weights there were too small to be seen when it was read."""
    (i, j), (a, b) = kernel.corner, kernel.size
    _, height, width = picture.shape
    above, left = min(RIM, i), min(RIM, j)
    below, right = min(RIM, height - i - a), min(RIM, width - j - b)
    around = ((0, 0), (above, below), (left, right))
    unseen = max(UNSEEN_WEIGHT_SHARE, CLEAR_WEIGHT_SIGMAS * float(kernel.error.max()))
    error = np.pad(kernel.error, around, constant_values=unseen)
    return Kernel(np.pad(kernel.weights, around), kernel.bias, error, kernel.bias_error, (i - above, j - left))


def _consistent(kernel: Kernel, equations: Float[np.ndarray, "M k"], errors: Float[np.ndarray, " M"]) -> Matched:
    """The equations that agree with most others: a short line may have met another neuron."""
    keep = np.ones(len(errors), dtype=bool)
    for _ in range(3):
        part = met_alone(equations[keep], errors[keep])
        fit = refined(kernel, part)
        off = np.abs(equations @ np.append(fit.weights.ravel(), fit.bias)) / errors
        keep = off <= 4 * max(1.0, float(np.median(off[keep])) * 1.5)
    return met_alone(equations[keep], errors[keep])
