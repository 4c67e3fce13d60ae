"""traced: a roughly known kernel followed along its hyperplane, from pictures near by to pictures of its own."""

from __future__ import annotations

import numpy as np

from unveil.blackbox.line_search.local_breakpoint import local_breakpoints
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.convolution.kernel import CLEAR, WIDTHS, Kernel, Matched, PixelLine, cut, met_alone, refined
from unveil.identification.picture import Picture

# Short lines per round: half as many as there are weights, but no fewer and no more than these; and rounds at most.
FEWEST, MOST, ROUNDS = 24, 64, 7
# Rows and columns around a window that may hold weights too small to be seen when it was read, up to this part of the
# kernel's length.
RIM, UNSEEN = 1, 0.01
# Standard deviations above which a weight is not zero in the end: those of a trace are known to a factor of two.
TRACED = 2 * CLEAR
# Standard deviations of the prediction that a short line reaches to either side.
REACH = 5.0
# Least share of a round's lines that must meet the hyperplane: others meet a second neuron. A deeper one is bent.
LEAST = 0.4


def traced(  # noqa: PLR0913 - what all sightings share
    kernel: Kernel, seen: PixelLine, index: int, ask: Ask, picture: Picture, noise: Rounding, rng: np.random.Generator
) -> Kernel | None:
    """Sharpen a kernel by following its hyperplane away from where it was read; None where that was lost.

    The window's pixels are moved at random, and the breakpoint is looked for where the kernel says, on short lines;
    each round goes as far as short lines still hold its error. A first-layer hyperplane is straight however far it is
    followed, others are left soon. Queries: `13` per short line.
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
    count = int(np.clip(kernel.weights.size // 2, FEWEST, MOST))
    for _ in range(ROUNDS):
        theta = np.append(kernel.weights.ravel(), kernel.bias)
        doubt = np.append(kernel.error.ravel(), kernel.bias_error)
        own = abs(float(theta[tap]))
        moves = rng.standard_normal((count, kernel.weights.size))
        each = np.sqrt((moves**2) @ doubt[:-1] ** 2) / own
        width = float(np.median(line.width))
        size = float(np.clip((short / REACH) / max(float(np.median(each)), 1e-300), 0, largest))
        moves *= size
        moves[:, tap] = 0.0
        moves[:, tap] = -(moves @ theta[:-1]) / theta[tap]
        planes = np.repeat(centre[None], count, axis=0)
        planes[:, :, i : i + a, j : j + b] += moves.reshape(count, *kernel.weights.shape)
        half = np.maximum(REACH * np.sqrt((moves**2) @ doubt[:-1] ** 2) / own, min(short, 20 * width))
        half = np.minimum(half, short)
        met = local_breakpoints(ask, picture.flat(planes), half[:, None] * unit, noise)
        if met.found.mean() < LEAST:
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
    unseen = max(UNSEEN, CLEAR * float(kernel.error.max()))
    error = np.pad(kernel.error, around, constant_values=unseen)
    return Kernel(np.pad(kernel.weights, around), kernel.bias, error, kernel.bias_error, (i - above, j - left))


def _consistent(kernel: Kernel, equations: np.ndarray, errors: np.ndarray) -> Matched:
    """The equations that agree with most others: a short line may have met another neuron."""
    keep = np.ones(len(errors), dtype=bool)
    for _ in range(3):
        part = met_alone(equations[keep], errors[keep])
        fit = refined(kernel, part)
        off = np.abs(equations @ np.append(fit.weights.ravel(), fit.bias)) / errors
        keep = off <= 4 * max(1.0, float(np.median(off[keep])) * 1.5)
    return met_alone(equations[keep], errors[keep])
