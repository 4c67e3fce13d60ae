"""Least squares on all parameters: Levenberg-Marquardt with an analytic Jacobian, down to the noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.whitebox.network import Layer, Network

_ROWS = 2048  # rows of the Jacobian held at once; fixed, so that the same points give the same bits
_DRAWS = 64  # of all parameters' errors together, for the size of the largest
_LARGEST_DAMPING = 1e12


@dataclass(frozen=True)
class Polished:
    """A network after least squares.

    Attributes:
        network: The best one met.
        rms: Root mean square of `network(x) - y`, absolute.
        start: The same at the start.
        steps: Damped Gauss-Newton steps tried.
        condition: Condition number of the column-scaled normal matrix at the end, square-rooted: how much larger, at
            worst, relative errors of the parameters are than those of the answers.
        uncertainty: Largest standard error of a parameter, absolute, if the errors of the answers are independent.
        largest: The largest error among all parameters, absolute: in half of all cases it is less.
    """

    network: Network
    rms: float
    start: float
    steps: int
    condition: float
    uncertainty: float
    largest: float


def polish(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    *,
    noise: float = 0.0,
    steps: int = 200,
    free: Sequence[int] | None = None,
    patience: int = 8,
) -> Polished:
    """Fit all parameters to answers, starting from a network that is nearly right.

    The activations have no continuous symmetry except the positive rescaling of piecewise-linear ones, which the
    damping fixes (it forbids motion along it), so the parameters are the weights and biases themselves.

    Args:
        network: Where to start; depth, widths and activations stay.
        x: Where the oracle was asked. Twice as many answers as parameters is enough.
        y: What it answered.
        noise: Standard deviation of the answers' errors, absolute: the fit ends when `rms` reaches it (twice the
            rounding of float64 at least).
        steps: Steps at most.
        free: Layers whose parameters move; default all.
        patience: Steps without a gain of one part in a hundred before the fit is called ended.

    Returns:
        The best network met, and how sure its parameters are.

    Queries: `0`; the answers are given.

    Source: Marquardt (1963), with the damping update of Nielsen (1999).
    """
    moving = tuple(range(len(network.layers))) if free is None else tuple(free)
    scale = float(np.abs(y).max()) or 1.0
    floor = max(noise, 0.25 * np.finfo(np.float64).eps * scale)
    normal, slope, cost = _normal_equations(network, x, y, moving)
    start = rms = float(np.sqrt(cost / y.size))
    damping, growth, waited, taken, reference = 1e-3, 2.0, 0, 0, rms
    while taken < steps and rms > floor and waited <= patience and damping < _LARGEST_DAMPING:
        taken += 1
        step = _damped_step(normal, slope, damping)
        trial = _moved(network, moving, step)
        trial_cost = _cost(trial, x, y)
        expected = float(step @ (slope - 0.5 * normal @ step)) * 2
        if np.isfinite(trial_cost) and trial_cost < cost and expected > 0:
            gain = (cost - trial_cost) / expected
            damping *= max(1 / 9, 1 - (2 * gain - 1) ** 3)
            growth = 2.0
            network = trial
            normal, slope, cost = _normal_equations(network, x, y, moving)
            rms = float(np.sqrt(cost / y.size))
        else:
            damping, growth = damping * growth, growth * 2
        # Near the rounding of float64 a step that gains nothing is the end.
        waited = waited + (1 if rms > 16 * floor else 3) if rms > 0.99 * reference else 0
        if waited == 0:
            reference = rms
    condition, spread, largest = _confidence(normal)
    # A fit leaves less than the errors of the answers: it follows them with as many parameters as it has.
    sigma = rms * float(np.sqrt(y.size / max(y.size - len(normal), 1)))
    return Polished(network, rms, start, taken, condition, sigma * spread, sigma * largest)


def parameters(network: Network) -> int:
    """How many weights and biases there are."""
    return sum(layer.weights.size + layer.bias.size for layer in network.layers)


def jacobian(network: Network, x: Float[np.ndarray, "N n"], free: Sequence[int] | None = None) -> np.ndarray:
    """Derivatives (N, m, P) of the answers by the parameters of the layers `free`: per layer (W | b), row by row."""
    free = range(len(network.layers)) if free is None else free
    inputs, sums = [x], []
    for layer in network.layers:
        sums.append(layer.affine(inputs[-1]))
        inputs.append(layer.activation.value(sums[-1]))
    # Backwards: `back[:, k, j]` is the derivative of output k by the sum in neuron j of the present layer.
    last = network.layers[-1]
    back = np.eye(network.m)[None] * last.activation.slope(sums[-1])[:, None, :]
    blocks: dict[int, np.ndarray] = {}
    for depth in reversed(range(len(network.layers))):
        if depth in free:
            y = np.concatenate([inputs[depth], np.ones((len(x), 1))], axis=1)
            blocks[depth] = (back[:, :, :, None] * y[:, None, None, :]).reshape(len(x), network.m, -1)
        if depth and min(free) < depth:
            back = (back @ network.layers[depth].weights) * network.layers[depth - 1].activation.slope(sums[depth - 1])[
                :, None, :
            ]
    return np.concatenate([blocks[depth] for depth in sorted(blocks)], axis=2)


def _cost(network: Network, x: np.ndarray, y: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # a step into nowhere: its cost is not finite and it is refused
        return float(((network(x) - y) ** 2).sum())


def _normal_equations(
    network: Network, x: np.ndarray, y: np.ndarray, free: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """`J^T J`, `J^T (y - f)` and the sum of squares, a block of rows at a time."""
    normal: np.ndarray | float = 0.0
    slope: np.ndarray | float = 0.0
    cost = 0.0
    rows = max(1, _ROWS // network.m)
    for begin in range(0, len(x), rows):
        part = slice(begin, begin + rows)
        j = jacobian(network, x[part], free)
        j = j.reshape(-1, j.shape[2])
        error = (y[part] - network(x[part])).ravel()
        normal = normal + j.T @ j
        slope = slope + j.T @ error
        cost += float(error @ error)
    return np.asarray(normal), np.asarray(slope), cost


def _damped_step(normal: np.ndarray, slope: np.ndarray, damping: float) -> np.ndarray:
    """Solve `(N + damping diag N) step = slope` in units in which the diagonal of N is one."""
    scale = np.sqrt(np.maximum(np.diag(normal), np.finfo(np.float64).tiny))
    scaled = normal / np.outer(scale, scale)
    for _ in range(30):
        matrix = scaled.copy()
        matrix[np.diag_indices_from(matrix)] += damping
        try:
            factor = linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
            return np.asarray(linalg.cho_solve(factor, slope / scale, check_finite=False) / scale)
        except linalg.LinAlgError:
            damping = max(10 * damping, 1e-15)
    return np.zeros_like(slope)


def _confidence(normal: np.ndarray) -> tuple[float, float, float]:
    """Condition number of the scaled Jacobian; per unit of noise the largest standard error of a parameter, and the
    median of the largest error of all parameters, over draws from their joint distribution."""
    scale = np.sqrt(np.maximum(np.diag(normal), np.finfo(np.float64).tiny))
    scale = np.maximum(scale, 1e-12 * scale.max())  # a parameter without any effect
    values, vectors = linalg.eigh(normal / np.outer(scale, scale), check_finite=False)
    values = np.maximum(values, values[-1] * np.finfo(np.float64).eps)
    root = vectors / np.sqrt(values) / scale[:, None]
    drawn = np.abs(root @ np.random.default_rng(0).standard_normal((len(values), _DRAWS))).max(axis=0)
    return (
        float(np.sqrt(values[-1] / values[0])),
        float(np.sqrt((root**2).sum(axis=1).max())),
        float(np.median(drawn)),
    )


def _moved(network: Network, free: Sequence[int], step: np.ndarray) -> Network:
    layers, begin = list(network.layers), 0
    for depth in sorted(free):
        layer = layers[depth]
        rows, columns = layer.weights.shape
        block = step[begin : begin + rows * (columns + 1)].reshape(rows, columns + 1)
        begin += block.size
        layers[depth] = Layer(layer.weights + block[:, :-1], layer.bias + block[:, -1], layer.activation)
    return Network(tuple(layers))
