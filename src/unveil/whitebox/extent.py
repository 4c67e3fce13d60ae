"""Extent: how far one can go without changing a feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Extent:
    """How far one can go from an input, in a box, without changing a feature.

    Attributes:
        end: The farthest input found.
        length: Its distance (2-norm) from the input; a lower bound on how far one can go.
        change: Mean absolute change per coordinate.
        tried: Corners or lines tried.
    """

    end: Float[np.ndarray, " n"]
    length: float
    change: float
    tried: int
