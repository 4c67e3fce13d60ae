"""Wanted: what is asked of a reading from labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Wanted:
    """What is asked of a reading; `HardLabels` says what each field is."""

    x: Float[np.ndarray, "N n"] | None = field(default=None, compare=False)
    attempts: int = 7
    accuracy: float = 1e-8
    accept: float = 0.01
    checks: int = 300
    activation: str | None = None
    most: int | None = None
    widths: tuple[int, ...] | None = None
