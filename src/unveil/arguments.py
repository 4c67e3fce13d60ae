"""arguments: what a caller gives, as what it should be, or what is wrong with it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from unveil.outcome import BadInput

Randomness: TypeAlias = np.random.Generator | int


def as_numbers(value: object, what: str) -> Float[np.ndarray, "..."]:
    """An argument as an array of float64; `what` is how the caller calls it.

    Raises:
        BadInput: It holds what is no number, or rows of different lengths.
    """
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} must be numbers: {error}") from error


def generator(rng: Randomness) -> np.random.Generator:
    """A generator as it is, or a new one from a seed.

    Raises:
        BadInput: It is neither.
    """
    try:
        # None would draw a seed that nobody can give again.
        return np.random.default_rng(rng if rng is not None else "nothing")
    except (TypeError, ValueError) as error:
        expected = "rng must be a numpy Generator or a seed, as in rng=np.random.default_rng(0) or rng=0"
        raise BadInput(f"{expected}, not {rng!r}") from error


def must_be(value: object, kind: type, what: str, advice: str) -> None:
    """Raises BadInput unless a value is of this kind; `what` names the kind, and `advice` says where one comes from."""
    if not isinstance(value, kind):
        raise BadInput(f"expected {what}, got {type(value).__name__}; {advice}")
