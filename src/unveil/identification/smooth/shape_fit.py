"""fit_shape: the scale and shift at which functions of one preactivation come nearest to a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

# Of two starts the later one counts where it leaves less than this share of what the earlier one did.
_LESS = 0.99


class Shape(NamedTuple):
    """The best of several least squares."""

    cost: float  # half of the sum of squares that it leaves; infinite where none came to an end
    scale: float  # of the preactivation `scale t + shift`
    shift: float  # likewise


def fit_shape(
    t: Float[np.ndarray, " s"],
    curve: Float[np.ndarray, "s m"],
    columns: Callable[[Float[np.ndarray, " s"]], Float[np.ndarray, "s q"]],
    starts: Iterable[tuple[float, float]],
    *,
    most: float = np.inf,
    steps: int = 100,
) -> Shape:
    """Variable projection: the curve as a combination of columns that follow from `scale t + shift`.

    `columns`: of a preactivation: the activation and whatever else the curve may be made of. `most`: scales and shifts
    that are larger do not count.
    """

    def remainder(p: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " r"]:
        basis = np.linalg.qr(columns(p[0] * t + p[1]))[0]
        return np.asarray(curve - basis @ (basis.T @ curve)).ravel()

    best = Shape(np.inf, np.nan, np.nan)
    for start in starts:
        try:
            trial = optimize.least_squares(remainder, start, method="lm", max_nfev=steps)
        except (np.linalg.LinAlgError, ValueError):  # not finite
            continue
        if np.isfinite(trial.cost) and trial.cost < _LESS * best.cost and np.abs(trial.x).max() < most:
            best = Shape(float(trial.cost), float(trial.x[0]), float(trial.x[1]))
    return best
