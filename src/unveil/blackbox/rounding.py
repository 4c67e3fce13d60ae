"""How exact the answers of a piecewise-linear function are: the noise that its bends must stand out from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Ask = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rounding:
    """How exact answers are, as a function of where was asked.

    The numbers inside a piecewise-linear network grow in proportion to the input, and their rounding with them.

    Attributes:
        floor: (m,) standard deviation of an answer near the reference points.
        size: Norm of the reference points.
        relative: The largest floor relative to the size of the answers there.
        straight: Whether most of the reference points saw no curvature beyond rounding: what a piecewise-linear model
            shows.
    """

    floor: Float[np.ndarray, " m"]
    size: float
    relative: float
    straight: bool

    def at(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        """Standard deviation of the answers at x."""
        return np.asarray(self.floor * (1 + np.linalg.norm(x, axis=1) / self.size)[:, None])


def rounding(ask: Ask, points: Float[np.ndarray, "N n"], resolution: float, rng: np.random.Generator) -> Rounding:
    """Measure how exact answers are, from short straight rows of points.

    Args:
        ask: Answers questions.
        points: Where to look; most of them must be further from a bend than a thousandth of their size.
        resolution: Relative rounding of the answers, as a lower limit (`Oracle.resolution`).
        rng: Draws the directions.

    Queries: `6 * N`
    """
    count, n = points.shape
    size = max(float(np.median(np.linalg.norm(points, axis=1))), 1e-300)
    direction = rng.standard_normal((count, n))
    direction *= 1e-3 * size / np.linalg.norm(direction, axis=1, keepdims=True)
    steps = np.arange(-2.5, 3)
    y = ask((points[:, None] + steps[:, None] * direction[:, None]).reshape(-1, n)).reshape(count, len(steps), -1)
    second = np.abs(np.diff(y, n=2, axis=1))
    # The numbers added up inside are as large as the answer, or as the input times the slope where these cancel.
    typical = np.abs(y).max(axis=(0, 1)) + 1e3 * np.median(np.abs(np.diff(y, axis=1)).max(axis=1), axis=0)
    typical = np.where(typical > 0, typical, max(float(typical.max()), 1.0))
    # Second differences of independent errors have sqrt(6) times their deviation; the quieter half saw no bend.
    quiet = np.sqrt(np.median((second**2).mean(axis=1), axis=0) / 6)
    floor = np.maximum(quiet, resolution * typical / 2)
    slope = np.abs(np.diff(y, axis=1)).mean(axis=1)
    bent = (second.max(axis=1) > 1e-6 * slope + 40 * resolution * typical).any(axis=1)
    floor = np.minimum(floor, 40 * resolution * typical)
    return Rounding(floor, size, float((floor / typical).max()), bool(bent.mean() <= 0.5))
