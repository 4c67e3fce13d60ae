"""as_numbers: what a caller gives as numbers, as an array, or what is wrong with it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.outcome import BadInput


def as_numbers(value: object, what: str) -> Float[np.ndarray, "..."]:
    """An argument as an array of float64; `what` is how the caller calls it.

    Raises:
        BadInput: It holds what is no number, or rows of different lengths.
    """
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} must be numbers: {error}") from error
