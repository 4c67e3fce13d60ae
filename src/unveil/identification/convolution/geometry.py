"""Grid: stride, padding and common size of kernels, from the windows in which their hyperplanes were met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unveil.identification.convolution.kernel import Kernel, Matched, PixelLine, match, windows

# Share of the windows met that must lie on the grid: a few more are met by chance.
ON_GRID = 0.95


@dataclass(frozen=True)
class Grid:
    """Where windows lie."""

    size: tuple[int, int]  # rows and columns of all kernels
    stride: tuple[int, int]  # rows, columns
    origin: tuple[int, int]  # row and column of some window's corner, modulo the stride
    shift: Int[np.ndarray, "C 2"]  # rows and columns that each kernel lies inside its window

    def holds(self, place: np.ndarray) -> bool:
        """Whether a window lies on it."""
        return all((int(place[a]) - self.origin[a]) % self.stride[a] == 0 for a in range(2))


def grid_of(kernels: list[Kernel], met: list[Matched]) -> Grid:
    """The grid that explains where kernels were met.

    Along each axis the largest stride such that all windows of a kernel leave the same remainder. A kernel with empty
    rows or columns at its edges is put where its windows lie on the grid of the others.
    """
    size, stride, origin, shift = [], [], [], np.zeros((len(kernels), 2), dtype=int)
    for axis in range(2):
        widest = max(kernel.size[axis] for kernel in kernels)
        places = [each.corner[:, axis] for each in met]
        step = _stride(places)
        full = [i for i, kernel in enumerate(kernels) if kernel.size[axis] == widest]
        most = max(full, key=lambda i: len(places[i]))
        rest = _remainder(places[most], step)
        for i, kernel in enumerate(kernels):
            spare = widest - kernel.size[axis]
            own = _remainder(places[i], step)
            shift[i, axis] = min(((own - rest) % step), spare)
        size.append(widest)
        stride.append(step)
        origin.append(rest)
    return Grid((size[0], size[1]), (stride[0], stride[1]), (origin[0], origin[1]), shift)


def padding_of(
    kernels: list[Kernel], grid: Grid, corners: tuple[list[PixelLine], list[PixelLine]], shape: tuple[int, int, int]
) -> tuple[int, int, int, int] | None:
    """Zeros above, left, below and right, or None where no line shows whether there are some.

    A line that moves the first pixel of a picture meets every window that begins in the padding, if there is one; the
    last pixel's every window that ends there. `grid`: where their windows lie. `corners`: lines through the first
    pixel, and through the last.
    """
    ends: list[int] = []
    for which, lines in enumerate(corners):
        for axis in range(2):
            met, could = _rows(kernels, grid, lines, axis)
            size, side = grid.size[axis], shape[1 + axis]
            inner = 0 if which == 0 else side - size
            # The windows that lie inside are there in any case, on the grid.
            first = inner + (grid.origin[axis] - inner) % grid.stride[axis] * (1 if which == 0 else 0)
            if which == 1:
                first = inner - (inner - grid.origin[axis]) % grid.stride[axis]
            places = met | {first}
            end = min(places) if which == 0 else max(places)
            beyond = end - grid.stride[axis] if which == 0 else end + grid.stride[axis]
            reaches = beyond > -size if which == 0 else beyond < side
            if reaches and beyond not in could:
                return None
            ends.append(max(0, -end) if which == 0 else max(0, end + size - side))
    return ends[0], ends[1], ends[2], ends[3]


def _rows(kernels: list[Kernel], grid: Grid, lines: list[PixelLine], axis: int) -> tuple[set[int], set[int]]:
    """Rows (or columns) of windows met, and of those that would have been met if they were there."""
    met, could = set(), set()
    for kernel, shift in zip(kernels, grid.shift, strict=True):
        for place in match(kernel, lines).corner - shift:
            if grid.holds(place):
                met.add(int(place[axis]))
        for seen in lines:
            where = windows(kernel, seen)
            inside = (where.t > seen.line.low) & (where.t < seen.line.high)
            could |= {int(p[axis]) for p in where.corner[inside] - shift if grid.holds(p)}
    return met, could


def _stride(places: list[np.ndarray]) -> int:
    spans = [int(np.ptp(p)) for p in places if len(p)]
    for step in range(max(spans, default=1), 1, -1):
        agree = [(p % step == _remainder(p, step)).sum() for p in places]
        if sum(agree) >= ON_GRID * sum(map(len, places)):
            return step
    return 1


def _remainder(places: np.ndarray, step: int) -> int:
    return int(np.bincount(places % step, minlength=step).argmax()) if len(places) else 0
