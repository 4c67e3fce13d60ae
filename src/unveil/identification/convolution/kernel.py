"""Kernel: a normal read in one window, where its shifts must be met and were, and which readings are of one kernel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from unveil.blackbox.line import Line

CLEAR_WEIGHT_SIGMAS = 6.0  # standard deviations above which a weight is not zero
LEAST_WEIGHT_SHARE = 1e-7  # least share of the largest weight that is told from zero, where nothing else limits it
NEAR_PREDICTION_SIGMAS = 6.0  # how far from its prediction, in standard deviations of both, a breakpoint counts as met
CHANCE = 1e-9  # probability that chance alone meets as many breakpoints as were met, below which a kernel is believed
# Standard deviations within which two readings are equal, and what may differ besides.
WITHIN, READING_DIFFERENCE = 10.0, 1e-6
# Readings are compared where they are known better than this, relative to their length: others look alike.
DISTINCT = 0.05


@dataclass(frozen=True)
class PixelLine:
    """A line that moves one input alone, with its breakpoints."""

    pixel: tuple[int, int, int]  # (channel, row, column) of that input
    planes: Float[np.ndarray, "c h w"]  # the picture at t = 0
    line: Line  # what was found


@dataclass(frozen=True)
class Kernel:
    """Weights of one window and the bias, up to a common factor: of length 1, the largest weight positive."""

    weights: Float[np.ndarray, "c a b"]
    bias: float  # relative to the weights
    error: Float[np.ndarray, "c a b"]  # standard deviation of the weights
    bias_error: float  # of the bias
    corner: tuple[int, int]  # row and column of the window that it was read in

    @property
    def size(self) -> tuple[int, int]:
        return int(self.weights.shape[1]), int(self.weights.shape[2])


def cut(kernel: Kernel, clear: float = CLEAR_WEIGHT_SIGMAS) -> Kernel:
    """The kernel without rows and columns at its edges in which nothing stands out from zero by `clear` deviations."""
    size = np.abs(kernel.weights)
    large = size > np.maximum(clear * kernel.error, LEAST_WEIGHT_SHARE * size.max())
    rows, columns = np.flatnonzero(large.any(axis=(0, 2))), np.flatnonzero(large.any(axis=(0, 1)))
    part = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weights, error = kernel.weights[part], kernel.error[part]
    scale = float(np.linalg.norm(weights)) * float(np.sign(weights.ravel()[np.abs(weights).argmax()]))
    corner = (kernel.corner[0] + int(rows[0]), kernel.corner[1] + int(columns[0]))
    return Kernel(weights / scale, kernel.bias / scale, error / abs(scale), kernel.bias_error / abs(scale), corner)


@dataclass(frozen=True)
class Windows:
    """Where on a line the shifts of a kernel must have their breakpoints."""

    corner: Int[np.ndarray, "P 2"]  # row and column of each window; negative ones begin in the padding
    t: Float[np.ndarray, " P"]  # predicted places
    error: Float[np.ndarray, " P"]  # standard deviations of these
    sums: Float[np.ndarray, "P k"]  # what each window holds on the line's base, and 1 for the bias
    tap: Int[np.ndarray, " P"]  # which weight moves with the line


def windows(kernel: Kernel, seen: PixelLine) -> Windows:
    """All windows that hold the pixel of a line, and where it must meet the kernel's hyperplane in each. Windows that
    reach over the border are among them; there the picture is padded with zeros."""
    a, b = kernel.size
    channel, row, column = seen.pixel
    rows, columns = np.meshgrid(np.arange(row - a + 1, row + 1), np.arange(column - b + 1, column + 1), indexing="ij")
    corner = np.stack([rows.ravel(), columns.ravel()], axis=1)
    padded = np.pad(seen.planes, ((0, 0), (a - 1, a - 1), (b - 1, b - 1)))
    around = padded[:, row : row + 2 * a - 1, column : column + 2 * b - 1]
    patches = np.lib.stride_tricks.sliding_window_view(around, (a, b), axis=(1, 2))
    patches = patches.transpose(1, 2, 0, 3, 4).reshape(a * b, -1)
    tap = (channel * a + row - corner[:, 0]) * b + column - corner[:, 1]
    sums = np.concatenate([patches, np.ones((len(corner), 1))], axis=1)
    theta = np.append(kernel.weights.ravel(), kernel.bias)
    doubt = np.append(kernel.error.ravel(), kernel.bias_error)
    moved = theta[tap]
    keep = np.abs(moved) > 10 * doubt[tap]
    corner, sums, tap, moved = corner[keep], sums[keep], tap[keep], moved[keep]
    t = -(sums @ theta) / moved
    g = sums.copy()
    g[np.arange(len(tap)), tap] += t
    return Windows(corner, t, np.sqrt(g**2 @ doubt**2) / np.abs(moved), sums, tap)


@dataclass(frozen=True)
class Matched:
    """Breakpoints of lines that are where a kernel says."""

    line: Int[np.ndarray, " M"]  # which line
    index: Int[np.ndarray, " M"]  # which of its breakpoints
    corner: Int[np.ndarray, "M 2"]  # in which window
    equations: Float[np.ndarray, "M k"]  # what is zero there when multiplied with weights and bias
    # standard deviation of that product for a kernel of length 1, of the breakpoint's place alone
    error: Float[np.ndarray, " M"]
    expected: int  # how many windows had their breakpoint within a line's ends
    chance: float  # how many would be met by chance

    def believed(self, corner: tuple[int, int]) -> bool:
        """Whether so many in other windows than the one that the kernel was read in cannot be chance. In that window
        any neuron is met again, of whatever layer it is the first."""
        others = int((self.corner != np.array(corner)).any(axis=1).sum())
        return others >= 1 and bool(special.pdtrc(others - 1, max(self.chance, 1e-300)) < CHANCE)


def met_alone(
    equations: Float[np.ndarray, "M k"], error: Float[np.ndarray, " M"], corner: Int[np.ndarray, "M 2"] | None = None
) -> Matched:
    """Breakpoints of short lines, which belong to no line of the search."""
    none = np.full(len(error), -1)
    corner = np.zeros((len(error), 2), dtype=int) if corner is None else corner
    return Matched(none, none, corner, equations, error, len(error), 0.0)


def joined(one: Matched, other: Matched) -> Matched:
    """The breakpoints of both."""
    parts = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("line", "index", "corner", "equations", "error")
    }
    return Matched(**parts, expected=one.expected + other.expected, chance=one.chance + other.chance)


def match(kernel: Kernel, lines: list[PixelLine]) -> Matched:
    """The breakpoints that shifts of a kernel explain."""
    at: list[tuple[int, int]] = []
    corners, equations, errors = [], [], []
    expected, chance = 0, 0.0
    for number, seen in enumerate(lines):
        line, where = seen.line, windows(kernel, seen)
        inside = np.flatnonzero((where.t > line.low) & (where.t < line.high))
        expected += len(inside)
        if not len(line.t) or not len(inside):
            continue
        off = np.abs(where.t[inside, None] - line.t)
        # The width of a breakpoint is a bound, the error of a prediction a standard deviation.
        reach = NEAR_PREDICTION_SIGMAS * where.error[inside, None] + line.width + 1e-12 * (1 + np.abs(line.t))
        # Chance: how much of the neighbourhood of each prediction counts as met.
        local = _density(line.t, where.t[inside], line.low, line.high)
        chance += float(np.minimum(1.0, 2 * np.median(reach, axis=1) * local).sum())
        nearest = (off / reach).argmin(axis=1)
        rows = np.arange(len(inside))
        met = np.flatnonzero(off[rows, nearest] <= reach[rows, nearest])
        for i in met:
            place, k = inside[i], int(nearest[i])
            g = where.sums[place].copy()
            g[where.tap[place]] += line.t[k]
            at.append((number, k))
            corners.append(where.corner[place])
            equations.append(g)
            theta = np.append(kernel.weights.ravel(), kernel.bias)
            errors.append(max(float(line.width[k]), 1e-14 * (1 + abs(float(line.t[k])))) * abs(theta[where.tap[place]]))
    taps = kernel.weights.size + 1
    return Matched(
        np.array([a for a, _ in at], dtype=int),
        np.array([k for _, k in at], dtype=int),
        np.array(corners, dtype=int).reshape(-1, 2),
        np.array(equations).reshape(-1, taps),
        np.array(errors),
        expected,
        chance,
    )


def _density(
    t: Float[np.ndarray, " K"], at: Float[np.ndarray, " N"], low: float, high: float
) -> Float[np.ndarray, " N"]:
    """Breakpoints per unit of t around places: over the whole line, or more where they crowd; the nearest is left out.
    It may be the very one that was predicted."""
    whole = np.full(len(at), len(t) / (high - low))
    few = min(len(t), 6) - 1
    if few < 1:
        return whole
    near = np.sort(np.abs(at[:, None] - t), axis=1)[:, few]
    return np.asarray(np.maximum(whole, few / np.maximum(2 * near, 1e-300)))


def same(a: Kernel, b: Kernel, vague: bool = False) -> bool:
    """Whether two readings are of one kernel, up to sign.

    One may have lost rows or columns at its edges that were too small to be told from zero: then they are compared
    where the smaller one fits best into the larger one. `vague`: whether readings so vague that they cannot be told
    apart count as the same, too.
    """
    if (np.array(a.size) < b.size).any() and (np.array(a.size) > b.size).any():
        return False
    small, large = (a, b) if a.weights.size <= b.weights.size else (b, a)
    rows, columns = (high - low for low, high in zip(small.size, large.size, strict=True))
    return any(_equal(small, large, i, j, vague) for i in range(rows + 1) for j in range(columns + 1))


def distinct(kernels: list[Kernel], vague: bool = False) -> list[int]:
    """Places of kernels of which no other is a better reading, in order."""
    kept: list[int] = []
    for place in sorted(range(len(kernels)), key=lambda i: float((kernels[i].error ** 2).sum())):
        if not any(same(kernels[place], kernels[other], vague) for other in kept):
            kept.append(place)
    return sorted(kept)


def _equal(small: Kernel, large: Kernel, down: int, right: int, vague: bool) -> bool:
    """Whether the small kernel, so many rows and columns inside the large one, is that one."""
    inside = np.s_[:, down : down + small.size[0], right : right + small.size[1]]
    weights, variance = np.zeros_like(large.weights), large.error**2
    weights[inside] = small.weights
    variance[inside] += small.error**2
    sign = 1.0 if (weights * large.weights).sum() > 0 else -1.0
    off = np.hypot(np.linalg.norm(weights - sign * large.weights), small.bias - sign * large.bias)
    doubt = WITHIN * float(np.sqrt(variance.sum() + small.bias_error**2 + large.bias_error**2))
    return bool(off <= READING_DIFFERENCE + doubt) and (vague or doubt < DISTINCT)


WIDTHS = 3.0  # the width of a breakpoint is so many of its standard deviations, roughly
PARTS = 5  # parts of the sightings of which each is left out once


def refined(kernel: Kernel, met: Matched) -> Kernel:
    """Weights and bias by least squares from a first reading and the breakpoints met.

    Each breakpoint says that a window's weighted sum is zero there. Errors are scaled up where these sums scatter by
    more than their stated error. `kernel`: as it was read, its errors independent. `met`: what its shifts explain.
    """
    theta = np.append(kernel.weights.ravel(), kernel.bias)
    doubt = np.maximum(np.append(kernel.error.ravel(), kernel.bias_error), 1e-15)
    if not len(met.line):
        return kernel
    rows = met.equations / (met.error / WIDTHS)[:, None]
    # In units of the first reading's errors, so that both kinds of equations have errors of one.
    system = np.concatenate([np.eye(len(theta)), rows * doubt])
    left = np.concatenate([np.zeros(len(theta)), -rows @ theta])
    u, s, vt = np.linalg.svd(system, full_matrices=False)
    change = vt.T @ ((u.T @ left) / s)
    off = left - system @ change
    scale = max(1.0, float(np.sqrt((off**2).sum() / max(len(met.line), 1))))
    theta = theta + doubt * change
    error = doubt * np.sqrt(((vt.T / s) ** 2).sum(axis=1)) * scale
    error = np.minimum(error, doubt * scale)
    shape = kernel.weights.shape
    weights = theta[:-1].reshape(shape)
    size = float(np.linalg.norm(weights))
    return Kernel(
        weights / size, float(theta[-1]) / size, error[:-1].reshape(shape) / size, float(error[-1]) / size,
        kernel.corner,
    )  # fmt: skip


def measured(kernel: Kernel, met: Matched) -> Kernel:
    """As `refined`, with errors that are measured: by how far the kernel moves when some sightings are left out.

    Sightings are put into a few parts, each of which is left out once (a jackknife). All errors are scaled up by what
    the kernel moves more than they say, and never down: the few weights of one kernel may agree by chance. `kernel`: as
    it was read, its errors independent. `met`: what its shifts explain.
    """
    whole = refined(kernel, met)
    parts = min(PARTS, len(met.line))
    if parts < 2:
        return whole
    others = [refined(kernel, _without(met, part, parts)) for part in range(parts)]
    moved = np.stack([np.append(other.weights.ravel(), other.bias) for other in others])
    spread = (parts - 1) / parts * ((moved - moved.mean(axis=0)) ** 2).sum(axis=0)
    stated = np.append(whole.error.ravel(), whole.bias_error) ** 2
    more = max(1.0, float(np.sqrt(spread.sum() / stated.sum())))
    return dataclasses.replace(whole, error=more * whole.error, bias_error=more * whole.bias_error)


def _without(met: Matched, part: int, parts: int) -> Matched:
    """The sightings less one part."""
    keep = np.arange(len(met.line)) % parts != part
    return dataclasses.replace(
        met, line=met.line[keep], index=met.index[keep], corner=met.corner[keep], equations=met.equations[keep],
        error=met.error[keep],
    )  # fmt: skip


LARGEST_SHIFT = 3  # shifts between two neurons that are pooled together, at most
# Standard deviations within which what must vanish is zero, and what may be left on top of these: a dozen sums that
# are all as small as that are no accident in a kernel, while a difference that was read badly must not pass for one.
VANISHING_SIGMAS, VANISHING_REMAINDER = 8.0, 1e-4


def differences_of(kernel: Kernel) -> list[tuple[tuple[int, int], Float[np.ndarray, "c a b"]]]:
    """The shifts and the weights w such that a kernel is `w shifted, less w`; mostly none.

    Where the larger of two neurons of one kernel is taken, the answers bend where both are equal: the biases cancel,
    and the normal is the difference of two shifts. Nearly no other kernel is: the sums along the shift all vanish.
    A difference over twice a shift is one over the shift as well: both are returned.
    """
    doubt = float(np.sqrt((kernel.error**2).sum()))
    if abs(kernel.bias) > VANISHING_SIGMAS * kernel.bias_error + VANISHING_REMAINDER:
        return []
    found = []
    _, a, b = kernel.weights.shape
    for down in range(LARGEST_SHIFT + 1):
        for right in range(-LARGEST_SHIFT, LARGEST_SHIFT + 1):
            if (down, right) <= (0, 0) or down >= a or abs(right) >= b:
                continue
            w = _integral(kernel.weights, down, right)
            inner = w[:, : a - down, max(-right, 0) : b - max(right, 0)]
            rest = np.linalg.norm(w) ** 2 - np.linalg.norm(inner) ** 2
            if rest <= (VANISHING_SIGMAS * doubt * np.sqrt(a * b) + VANISHING_REMAINDER) ** 2:
                found.append(((down, right), inner))
    return found


def _integral(d: Float[np.ndarray, "c a b"], down: int, right: int) -> Float[np.ndarray, "c a b"]:
    """w with `w(i - down, j - right) - w(i, j) = d(i, j)` and nothing before the first row or column."""
    _, a, b = d.shape
    w = np.zeros_like(d)
    columns = range(b) if right >= 0 else range(b - 1, -1, -1)
    for i in range(a):
        for j in columns:
            inside = i >= down and 0 <= j - right < b
            w[:, i, j] = (w[:, i - down, j - right] if inside else 0.0) - d[:, i, j]
    return w


def difference(kernel: Kernel, shift: tuple[int, int]) -> Kernel:
    """The kernel `w shifted, less w` of bias 0, as maximum pooling makes it."""
    c, a, b = kernel.weights.shape
    down, right = shift
    size = (c, a + down, b + abs(right))
    out, variance = np.zeros(size), np.zeros(size)
    for i, j, sign in ((0, max(-right, 0), -1.0), (down, max(right, 0), 1.0)):
        out[:, i : i + a, j : j + b] += sign * kernel.weights
        variance[:, i : i + a, j : j + b] += kernel.error**2
    scale = float(np.linalg.norm(out))
    return Kernel(out / scale, 0.0, np.sqrt(variance) / scale, 1e-16, kernel.corner)


def proportional(kernel: Kernel, weights: Float[np.ndarray, "c a b"], error: float) -> bool:
    """Whether weights are a kernel's up to a factor."""
    if kernel.weights.shape != weights.shape:
        return False
    part = weights / np.linalg.norm(weights)
    off = min(np.linalg.norm(part - kernel.weights), np.linalg.norm(part + kernel.weights))
    return bool(off <= VANISHING_SIGMAS * (error + float(np.sqrt((kernel.error**2).sum()))) + 1e-6)
