"""box: the legal range of inputs, as `within=` gives it, around a point."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.arguments import as_numbers
from unveil.outcome import BadInput


def box(
    within: tuple[float | np.ndarray, float | np.ndarray], point: Float[np.ndarray, " n"], what: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The box as two vectors, after making sure that it is one and that `point` lies in it."""
    low, high = (np.broadcast_to(as_numbers(end, "within="), point.shape) for end in within)
    if not (low <= high).all():
        raise BadInput("within= must be (lowest, highest) with lowest <= highest in every coordinate")
    outside = np.flatnonzero((point < low) | (point > high))
    if outside.size:
        i = int(outside[0])
        raise BadInput(
            f"{what} lies outside the box in {outside.size} of {len(point)} coordinates (coordinate {i} is "
            f"{point[i]:.6g}, allowed {low[i]:.6g} to {high[i]:.6g}); pass within= wide enough, or scale the input"
        )
    return low, high
