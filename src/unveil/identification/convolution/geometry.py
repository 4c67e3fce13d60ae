"""Grid: stride, padding and common size of kernels, from the windows in which their hyperplanes were met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unveil.identification.convolution.kernel import Kernel, Matched

# Share of the windows met that must lie on the grid: a few more are met by chance.
ON_GRID = 0.95


@dataclass(frozen=True)
class Grid:
    """Where windows lie.

    Attributes:
        size: Rows and columns of all kernels.
        stride: Rows, columns.
        origin: Row and column of some window's corner, modulo the stride.
        shift: (C, 2) rows and columns that each kernel lies inside its window.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    origin: tuple[int, int]
    shift: Int[np.ndarray, "C 2"]


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


def _stride(places: list[np.ndarray]) -> int:
    spans = [int(np.ptp(p)) for p in places if len(p)]
    for step in range(max(spans, default=1), 1, -1):
        agree = [(p % step == _remainder(p, step)).sum() for p in places]
        if sum(agree) >= ON_GRID * sum(map(len, places)):
            return step
    return 1


def _remainder(places: np.ndarray, step: int) -> int:
    return int(np.bincount(places % step, minlength=step).argmax()) if len(places) else 0
