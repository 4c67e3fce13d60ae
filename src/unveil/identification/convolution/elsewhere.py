"""sighted: a kernel looked for in other windows of other pictures, on short lines where its hyperplane must lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.blackbox.line_search.local_breakpoint import local_breakpoints
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.convolution.kernel import CHANCE, NEAR, WIDTHS, Kernel, Matched, met_alone
from unveil.identification.picture import Picture

# Windows looked at, and how far from the one that the kernel was read in: along its rows and its columns, so that
# whatever the stride is some of them lie on the grid.
WINDOWS, FURTHEST = 24, 12
# Pictures drawn for each: the one is taken that must be changed least to lie on the hyperplane.
DRAWN = 16
# Half of a short line, in units of the usual way from one breakpoint to the next, and in standard deviations at least.
SHORT, LEAST = 0.1, 20.0


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
    Queries: `13 WINDOWS` at most.
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
        some = planes[rng.permutation(len(planes))[:DRAWN]]
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
    half = np.maximum(SHORT * spacing, LEAST * off)
    seen = local_breakpoints(ask, picture.flat(np.array(every)), half[:, None] * np.array(moved), noise)
    reach = NEAR * off + WIDTHS * np.where(seen.found, seen.width, 0.0) * half
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
    rows = [(k, j) for k in range(max(0, i - FURTHEST), min(height - a, i + FURTHEST) + 1) if k != i]
    columns = [(i, k) for k in range(max(0, j - FURTHEST), min(width - b, j + FURTHEST) + 1) if k != j]
    both = np.array([*rows, *columns], dtype=int).reshape(-1, 2)
    return both[rng.permutation(len(both))[:WINDOWS]]
