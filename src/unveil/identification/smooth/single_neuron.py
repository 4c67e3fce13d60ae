"""Least squares for one neuron: alone where all others are at rest, or the shape of a curve along it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from unveil.whitebox.activation import Activation

LEAST_SQUARES_STEPS = 40  # of least squares, at most


class Alone(NamedTuple):
    """A neuron fitted where it is alone."""

    weights: Float[np.ndarray, " n"]  # of the neuron, with their scale
    shift: float  # its preactivation at the origin of the coordinates in which it was fitted
    misfit: float  # root mean square of what the fit leaves of the answers, absolute
    start: float  # the same before the fit
    error: float  # standard error of the direction of the weights, in radians


def fit_alone(
    x: Float[np.ndarray, "N n"],
    answers: Float[np.ndarray, "N m"],
    weights: Float[np.ndarray, " n"],
    shift: float,
    activation: Activation,
    *,
    degree: int,
) -> Alone:
    """Fit `answers = polynomial(activation(weights . x + shift))` where all other neurons are at rest.

    Points that spread over several widths of the neuron give a lever that a difference quotient has not: with noise in
    the answers, directions come out better by that factor. Answers that depend on a second neuron leave a misfit.
    `weights`, `shift`: roughly; `degree`: of the polynomial, which stands for everything behind the neuron; an
    invertible map of the activation's range hides in it, so that scale and shift are not better than it is low.
    """

    ones = np.column_stack([x, np.ones(len(x))])

    def fitted(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        sums = ones @ p
        z = activation.value(sums)
        return sums, z, *np.linalg.qr(np.vander(z, degree + 1))

    def remainder(p: np.ndarray) -> np.ndarray:
        basis = fitted(p)[2]
        return np.asarray(answers - basis @ (basis.T @ answers)).ravel()

    def slopes(p: np.ndarray) -> np.ndarray:
        # Variable projection as Kaufman (1975) has it: the polynomial follows, what it leaves is taken as fixed.
        sums, z, basis, triangle = fitted(p)
        polynomial = np.linalg.lstsq(triangle, basis.T @ answers, rcond=None)[0]
        steep = np.vander(z, degree) @ (np.arange(degree, 0, -1)[:, None] * polynomial[:-1])
        moved = (steep * activation.slope(sums)[:, None])[:, :, None] * ones[:, None, :]
        flat = moved.reshape(len(x), -1)
        return -np.asarray(flat - basis @ (basis.T @ flat)).reshape(answers.size, -1)

    start = np.append(weights, shift)
    before = float(np.sqrt(np.mean(remainder(start) ** 2)))
    fit = optimize.least_squares(remainder, start, jac=slopes, method="lm", max_nfev=LEAST_SQUARES_STEPS)
    misfit = float(np.sqrt(np.mean(fit.fun**2)))
    size = float(np.linalg.norm(fit.x[:-1]))
    normal = fit.jac.T @ fit.jac
    spread = np.linalg.pinv(normal, rcond=1e-12, hermitian=True)[:-1, :-1]
    unit = fit.x[:-1] / size
    across = np.trace(spread) - unit @ spread @ unit
    freedom = fit.fun.size / max(1, fit.fun.size - len(start) - degree - 1)
    error = misfit * float(np.sqrt(max(across, 0.0) * freedom)) / size
    return Alone(fit.x[:-1], float(fit.x[-1]), misfit, before, error)


# Of two starts the later one counts where it leaves less than this share of what the earlier one did; so many starts
# are tried, until one leaves no more than this share of the curve.
_LESS, _TRIED, _EXACT = 0.99, 4, 1e-8


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

    `columns`: of a preactivation: the activation and whatever else the curve may be made of. `starts`: those count that
    leave least. `most`: scales and shifts that are larger do not count.
    """

    def remainder(p: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " r"]:
        basis = np.linalg.qr(columns(p[0] * t + p[1]))[0]
        return np.asarray(curve - basis @ (basis.T @ curve)).ravel()

    def left(start: tuple[float, float]) -> float:
        with np.errstate(all="ignore"):
            size = float(np.linalg.norm(remainder(np.array(start))))
        return size if np.isfinite(size) else np.inf

    best = Shape(np.inf, np.nan, np.nan)
    exact = 0.5 * len(curve) * _EXACT**2 * float(np.mean(curve**2))
    for start in sorted(starts, key=left)[:_TRIED]:
        if best.cost <= exact:
            break
        try:
            trial = optimize.least_squares(remainder, start, method="lm", max_nfev=steps)
        except (np.linalg.LinAlgError, ValueError):  # not finite
            continue
        if np.isfinite(trial.cost) and trial.cost < _LESS * best.cost and np.abs(trial.x).max() < most:
            best = Shape(float(trial.cost), float(trial.x[0]), float(trial.x[1]))
    return best
