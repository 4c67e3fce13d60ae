"""Which questions are legal: the box, the grid, and the numbers that the model's input can hold."""

from __future__ import annotations

import numpy as np


def legal(
    x: np.ndarray, within: tuple[float, float] | None, grid: float | None, dtype: np.dtype[np.floating]
) -> np.ndarray:
    """The points nearest to x that lie on the grid, in the box, and are exact in `dtype`."""
    if grid is not None:
        start, last = (0.0, np.inf) if within is None else (within[0], np.floor((within[1] - within[0]) / grid + 1e-9))
        x = start + np.minimum(np.round((x - start) / grid), last) * grid
    if dtype == np.float32:
        y = x.astype(np.float32)
        return (y if within is None else np.clip(y, *_single_box(*within), out=y)).astype(np.float64)
    return x.copy() if within is None else np.clip(x, *within)


def _single_box(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The outermost float32 numbers inside a box, whose own borders may be none."""
    a, b = np.float32(low), np.float32(high)
    return (
        a if float(a) >= low else np.nextafter(a, np.float32(np.inf)),
        b if float(b) <= high else np.nextafter(b, np.float32(-np.inf)),
    )
