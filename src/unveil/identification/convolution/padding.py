"""padding_of: zeros around the picture, from the windows met on lines through its corners."""

from __future__ import annotations

import numpy as np

from unveil.identification.convolution.geometry import Grid
from unveil.identification.convolution.kernel import Kernel, PixelLine, match, windows


def padding_of(
    kernels: list[Kernel], grid: Grid, corners: tuple[list[PixelLine], list[PixelLine]], shape: tuple[int, int, int]
) -> tuple[int, int, int, int] | None:
    """Zeros above, left, below and right, or None where no line shows whether there are some.

    A line that moves the first pixel of a picture meets every window that begins in the padding, if there is one; the
    last pixel's every window that ends there.

    Args:
        kernels: Those found.
        grid: Where their windows lie.
        corners: Lines through the first pixel, and through the last.
        shape: (channels, height, width) of the picture.
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
            if on_grid(place, grid):
                met.add(int(place[axis]))
        for seen in lines:
            where = windows(kernel, seen)
            inside = (where.t > seen.line.low) & (where.t < seen.line.high)
            could |= {int(p[axis]) for p in where.corner[inside] - shift if on_grid(p, grid)}
    return met, could


def on_grid(place: np.ndarray, grid: Grid) -> bool:
    """Whether a window lies on the grid."""
    return all((int(place[a]) - grid.origin[a]) % grid.stride[a] == 0 for a in range(2))
