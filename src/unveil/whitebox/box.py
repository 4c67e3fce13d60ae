"""Boxes of inputs as a caller gives them: the lowest and the highest of each coordinate."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.arguments import as_numbers
from unveil.outcome import BadInput

Box = tuple[float | np.ndarray, float | np.ndarray]


def ends(within: Box, n: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The lowest and the highest of each coordinate of a box.

    Raises:
        BadInput: Not two numbers, or two for each coordinate, or some lowest above its highest.
    """
    try:
        low, high = within
        given = as_numbers(low, "within="), as_numbers(high, "within=")
        floor, ceiling = (np.broadcast_to(end.ravel() if end.size > 1 else end, n) for end in given)
    except (TypeError, ValueError) as error:
        raise BadInput(f"within= must be two numbers, or two for each of {n} inputs: {error}") from error
    if not (floor <= ceiling).all():
        raise BadInput("within= must be (lowest, highest) with lowest <= highest in every coordinate")
    return floor, ceiling
