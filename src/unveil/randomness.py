"""randomness: the generator behind what a caller gives as `rng`."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from unveil.outcome import BadInput

Randomness: TypeAlias = np.random.Generator | int


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
