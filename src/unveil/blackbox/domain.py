"""Which questions are legal: the box, the grid, and the numbers that the model's input can hold."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.arguments import as_numbers
from unveil.outcome import BadInput

# One number where all inputs share a bound, else one per input.
Bound = float | Float[np.ndarray, " n"]
Within = tuple[Bound, Bound]

# The largest float16; larger questions would become infinite on their way into the model.
LARGEST_HALF = float(np.finfo(np.float16).max)
# Bits of the mantissa, the leading one included.
HALF, SINGLE, DOUBLE = 11, 24, 53


WIDEST = 1e300  # that a bound may be, so that widths are numbers


def box(within: Any, n: int | None = None) -> Within | None:
    """`within=` as people write it: a pair of numbers, or of arrays with one bound per input.

    Args:
        within: `(low, high)`; an array or list in place of a number is flattened to one bound per input. None stays.
        n: Number of inputs, if known: arrays must have as many bounds.

    Raises:
        BadInput: Not a pair, not finite (nor its widths), not low < high everywhere, or another number of bounds.
    """
    if within is None:
        return None
    try:
        low, high = (as_numbers(end, "within") for end in within)
    except (TypeError, ValueError):
        raise BadInput(
            f"within must be a pair (low, high), each a number or one number per input; got {_shown(within)}"
        ) from None
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise BadInput(f"within must be finite; got {_shown(within)}")
    if max(-low.min(initial=0), high.max(initial=0)) > WIDEST:
        raise BadInput(f"within is wider than double precision holds numbers; got {_shown(within)}")
    if low.ndim == high.ndim == 0:
        if not low < high:
            raise BadInput(f"within must be two finite numbers, low < high; got {_shown(within)}")
        return float(low), float(high)
    size = max(low.size, high.size) if n is None else n
    if not {low.size, high.size} <= {1, size}:
        raise BadInput(
            f"within has {low.size} lower and {high.size} upper bounds; expected one for all, or one for each of "
            f"{size} inputs"
        )
    low, high = (np.broadcast_to(end.ravel(), (size,)).copy() for end in (low, high))
    if not (low < high).all():
        bad = int(np.argmin(high - low))
        raise BadInput(f"within must have low < high for every input; input {bad} has {low[bad]:g} and {high[bad]:g}")
    # Of how many inputs these are the bounds is still to be held against the model where that is not known yet.
    if n is not None and np.ptp(low) == np.ptp(high) == 0:
        return float(low[0]), float(high[0])
    return low, high


def described(within: Within) -> str:
    """A box in words: `[0, 1]`, or what the bounds of all inputs reach from and to."""
    text = f"[{np.min(within[0]):g}, {np.max(within[1]):g}]"
    return text if np.ndim(within[0]) == 0 else f"{text}, each input within bounds of its own"


def legal(
    x: np.ndarray, within: Within | None, grid: float | None, dtype: np.dtype[np.floating], bits: int | None = None
) -> np.ndarray:
    """The points nearest to x that lie on the grid, in the box, and are exact in the model's input.

    Args:
        x: Any points, one per row.
        within: The box.
        grid: The step, counted from the lower bound.
        dtype: The precision of the questions.
        bits: Bits of the mantissa that the model's input holds, where these are fewer than those of `dtype`.

    Returns:
        New points; x itself where every point is legal as it is.
    """
    if grid is not None:
        start: Bound = 0.0 if within is None else within[0]
        last = np.inf if within is None else np.floor((within[1] - within[0]) / grid + 1e-9)
        x = start + np.minimum(np.round((x - start) / grid), last) * grid
    if bits is not None and bits < SINGLE:
        y = held(x, bits)
        return y if within is None else np.clip(y, *_inner_box(within, bits))
    if dtype == np.float32:
        return singles(x, within).astype(np.float64)
    return x if within is None else np.clip(x, *within)


def singles(x: np.ndarray, within: Within | None) -> np.ndarray:
    """The float32 numbers nearest to x that lie in the box, as an array of these."""
    single = x.astype(np.float32)
    if within is not None:
        low, high = (end.astype(np.float32) for end in _inner_box(within, SINGLE))
        np.clip(single, low, high, out=single)
    return single


def held(x: np.ndarray, bits: int) -> np.ndarray:
    """x rounded to numbers with so many bits of mantissa: 53 float64, 24 float32, 11 float16, 8 bfloat16."""
    if bits >= DOUBLE:
        return np.asarray(x, dtype=np.float64)
    if bits == SINGLE:
        return np.asarray(x).astype(np.float32).astype(np.float64)
    if bits == HALF:  # float16 has few exponents, too
        return np.asarray(np.clip(x, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float64))
    mantissa, exponent = np.frexp(np.asarray(x).astype(np.float32).astype(np.float64))
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits))


def _inner_box(within: Within, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The outermost numbers of so many bits inside a box, whose own borders may be none."""
    low, high = within
    if isinstance(low, float) and isinstance(high, float):
        return _inner_shared(low, high, bits)
    return _inner_ends(within, bits)


@lru_cache(maxsize=64)
def _inner_shared(low: float, high: float, bits: int) -> tuple[np.ndarray, np.ndarray]:
    return _inner_ends((low, high), bits)


def _inner_ends(within: Within, bits: int) -> tuple[np.ndarray, np.ndarray]:
    ends = []
    for end, inwards in zip(within, (1.0, -1.0), strict=True):
        exact = np.asarray(end, dtype=np.float64)
        near = held(exact, bits)
        # One unit in the last place further in, where rounding went out.
        exponent = np.where(near == 0, -1000, np.frexp(near)[1])
        unit = np.ldexp(1.0, np.maximum(exponent, -13 if bits == HALF else -125) - bits)
        ends.append(np.where((near - exact) * inwards >= 0, near, held(near + inwards * unit, bits)))
    return ends[0], ends[1]


def require_grid(grid: Any, within: Within | None) -> float | None:
    """`grid=` as a positive step that fits into the box.

    Raises:
        BadInput: It is none.
    """
    if grid is None:
        return None
    step = float(as_numbers(grid, "grid").squeeze())
    widest = math.inf if within is None else float(np.min(np.subtract(within[1], within[0])))
    if not 0 < step <= widest or math.isinf(step):
        raise BadInput(f"grid must be a positive step that fits in the box; got {step!r}")
    return step


def _shown(within: object) -> str:
    text = repr(within)
    return text if len(text) <= 120 else text[:117] + "..."
