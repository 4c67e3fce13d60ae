"""Least squares on all parameters: Levenberg-Marquardt with an analytic Jacobian, down to the noise floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer, Network

_ROWS = 2048  # rows of the Jacobian held at once; fixed, so that the same points give the same bits
_ENTRIES = 1 << 22  # of the Jacobians of several networks at once
_DRAWS = 64  # of all parameters' errors together, for the size of the largest
_LARGEST_DAMPING = 1e12


@dataclass(frozen=True)
class Polished:
    """A network after least squares."""

    network: Network  # the best one met
    rms: float  # root mean square of `network(x) - y`, absolute
    start: float  # the same at the start
    steps: int  # damped Gauss-Newton steps tried
    # condition number of the column-scaled normal matrix at the end, square-rooted: how much larger, at worst, relative
    # errors of the parameters are than those of the answers
    condition: float
    uncertainty: float  # largest standard error of a parameter, absolute, if the errors of the answers are independent
    largest: float  # the largest error among all parameters, absolute: in half of all cases it is less


def polish(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    noise: float = 0.0,
    steps: int = 200,
    weight: Float[np.ndarray, "N m"] | float = 1.0,
) -> Polished:
    """Fit all parameters to answers, starting from a network that is nearly right: `polish_all` for one start."""
    return polish_all([network], x, y, noise=noise, steps=steps, weight=weight)[0]


def polish_all(  # noqa: PLR0913 - tolerances of a fit, by name
    networks: Sequence[Network],
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    *,
    noise: float = 0.0,
    steps: int = 200,
    free: Sequence[int] | None = None,
    patience: int = 8,
    until: float = 0.0,
    weight: Float[np.ndarray, "N m"] | float = 1.0,
) -> list[Polished]:
    """Fit all parameters to answers, from several networks of one shape at once.

    The activations have no continuous symmetry except the positive rescaling of piecewise-linear ones, which the
    damping fixes (it forbids motion along it), so the parameters are the weights and biases themselves. `networks`:
    where to start; depth, widths and activations are the same for all, and stay. `x`: where the oracle was asked. Twice
    as many answers as parameters is enough. `noise`: standard deviation of the answers' errors, absolute: the fit ends
    when `rms` reaches it (twice the rounding of float64 at least). `free`: layers whose parameters move; default all.
    `patience`: steps without a gain of one part in a hundred before the fit is called ended. `until`: all end where one
    of them has come so near. `weight`: what each answer counts for; `rms` is that of the weighted errors, so let the
    usual one be 1. Returns for each start the best network met, and how sure its parameters are. Queries: `0`; the
    answers are given. Source: Marquardt (1963), with the damping update of Nielsen (1999).
    """
    x, y = networks[0].points(x), np.asarray(y, dtype=np.float64)
    weights = np.broadcast_to(weight, y.shape)
    kinds = [layer.activation for layer in networks[0].layers]
    moving = sorted(range(len(kinds)) if free is None else free)
    floor = max(noise, 0.25 * np.finfo(np.float64).eps * (float(np.abs(y).max()) or 1.0))
    blocks, count = _stacked(networks), len(networks)
    normal, slope, cost = _normal_equations(blocks, kinds, x, y, weights, moving)
    rms = np.sqrt(cost / y.size)
    start, reference = rms.copy(), rms.copy()
    damping, growth = np.full(count, 1e-3), np.full(count, 2.0)
    waited, taken = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    while rms.min() > until:
        going = (taken < steps) & (rms > floor) & (waited <= patience) & (damping < _LARGEST_DAMPING)
        at = np.flatnonzero(going)
        if not len(at):
            break
        taken[at] += 1
        step = np.array([_damped_step(normal[i], slope[i], damping[i]) for i in at])
        trial = _moved([block[at] for block in blocks], moving, step)
        with np.errstate(over="ignore", invalid="ignore"):  # a step into nowhere: its cost is not finite: it is refused
            after = ((weights * (_forward(trial, kinds, x)[0][-1] - y)) ** 2).sum(axis=(1, 2))
        expected = np.array([2 * d @ (slope[i] - 0.5 * normal[i] @ d) for i, d in zip(at, step, strict=True)])
        better = np.isfinite(after) & (after < cost[at]) & (expected > 0)
        won, lost = at[better], at[~better]
        if len(won):
            gain = (cost[won] - after[better]) / expected[better]
            damping[won] *= np.maximum(1 / 9, 1 - (2 * gain - 1) ** 3)
            growth[won] = 2.0
            for block, moved in zip(blocks, trial, strict=True):
                block[won] = moved[better]
            left = [block[won] for block in blocks]
            normal[won], slope[won], cost[won] = _normal_equations(left, kinds, x, y, weights, moving)
            rms[won] = np.sqrt(cost[won] / y.size)
        damping[lost] *= growth[lost]
        growth[lost] *= 2
        # Near the rounding of float64 a step that gains nothing is the end.
        longer = waited[at] + np.where(rms[at] > 16 * floor, 1, 3)
        waited[at] = np.where(rms[at] > 0.99 * reference[at], longer, 0)
        renewed = at[waited[at] == 0]
        reference[renewed] = rms[renewed]
    out = []
    for i, network in enumerate(networks):
        layers = [Layer(b[i, :, :-1], b[i, :, -1], kind) for b, kind in zip(blocks, kinds, strict=True)]
        condition, spread, largest = _confidence(normal[i])
        # A fit leaves less than the errors of the answers: it follows them with as many parameters as it has.
        sigma = float(rms[i]) * float(np.sqrt(y.size / max(y.size - len(normal[i]), 1)))
        best = Network(tuple(layers), network.shape)
        out.append(
            Polished(best, float(rms[i]), float(start[i]), int(taken[i]), condition, sigma * spread, sigma * largest)
        )
    return out


def parameters(network: Network) -> int:
    """How many weights and biases there are."""
    return sum(layer.weights.size + layer.bias.size for layer in network.layers)


def jacobian(network: Network, x: Float[np.ndarray, "N n"], free: Sequence[int] | None = None) -> np.ndarray:
    """Derivatives (N, m, P) of the answers by the parameters of the layers `free`: per layer (W | b), row by row."""
    kinds = [layer.activation for layer in network.layers]
    blocks = _stacked([network])
    slopes = _slopes(blocks, kinds, *_forward(blocks, kinds, x), range(len(kinds)) if free is None else free)
    return np.asarray(slopes[0])


_Blocks = list[np.ndarray]  # networks of one shape, S of them: for each layer an array (S, out, in + 1) of (W | b)


def _stacked(networks: Sequence[Network]) -> _Blocks:
    return [
        np.stack([np.concatenate([layer.dense(), layer.bias[:, None]], axis=1) for layer in layers])
        for layers in zip(*(network.layers for network in networks), strict=True)
    ]


def _applied(
    function: Callable[[Float[np.ndarray, "_ k"]], Float[np.ndarray, "_ k"]], z: Float[np.ndarray, "S N k"]
) -> Float[np.ndarray, "S N k"]:
    return np.asarray(function(z.reshape(-1, z.shape[-1])).reshape(z.shape))


def _forward(
    blocks: _Blocks, kinds: Sequence[Activation], x: Float[np.ndarray, "N n"]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What every layer takes, the answers last, and what its neurons see before the activation: (S, N, ...) each."""
    inputs, sums = [x[None]], []
    for block, kind in zip(blocks, kinds, strict=True):
        sums.append(inputs[-1] @ block[:, :, :-1].transpose(0, 2, 1) + block[:, None, :, -1])
        inputs.append(_applied(kind.value, sums[-1]))
    return inputs, sums


def _slopes(
    blocks: _Blocks,
    kinds: Sequence[Activation],
    inputs: list[Float[np.ndarray, "_ N _"]],
    sums: list[Float[np.ndarray, "S N _"]],
    free: Sequence[int],
) -> Float[np.ndarray, "S N m P"]:
    """Derivatives (S, N, m, P) by the parameters of the layers `free`, at what `_forward` found."""
    # Backwards: `back[..., k, j]` is the derivative of output k by the sum in neuron j of the present layer.
    S, N, m = sums[-1].shape
    back = np.eye(m) * _applied(kinds[-1].slope, sums[-1])[:, :, None, :]
    parts: dict[int, np.ndarray] = {}
    for depth in reversed(range(len(blocks))):
        if depth in free:
            h = np.concatenate([inputs[depth], np.ones((*inputs[depth].shape[:2], 1))], axis=2)
            parts[depth] = (back[..., None] * h[:, :, None, None, :]).reshape(S, N, m, -1)
        if depth and min(free) < depth:
            through = back.reshape(S, N * m, -1) @ blocks[depth][:, :, :-1]
            back = through.reshape(S, N, m, -1) * _applied(kinds[depth - 1].slope, sums[depth - 1])[:, :, None, :]
    return np.concatenate([parts[depth] for depth in sorted(parts)], axis=3)


def _normal_equations(
    blocks: _Blocks,
    kinds: Sequence[Activation],
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    weights: Float[np.ndarray, "N m"],
    free: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`J^T J`, `J^T (y - f)` and the sum of squares of each network, a block of rows at a time."""
    count, size, uneven = len(blocks[0]), sum(blocks[depth][0].size for depth in free), bool((weights != 1).any())
    normal, slope, cost = np.zeros((count, size, size)), np.zeros((count, size)), np.zeros(count)
    rows = min(len(x), max(1, _ROWS // y.shape[1]))
    some = max(1, _ENTRIES // (rows * y.shape[1] * size))
    for first in range(0, count, some):
        these = range(first, min(first + some, count))
        part = [block[first : first + some] for block in blocks]
        for begin in range(0, len(x), rows):
            inputs, sums = _forward(part, kinds, x[begin : begin + rows])
            weight = weights[begin : begin + rows]
            j = _slopes(part, kinds, inputs, sums, free)
            if uneven:
                j *= weight[..., None]
            j = j.reshape(len(these), -1, size)
            error = (weight * (y[begin : begin + rows] - inputs[-1])).reshape(len(these), -1)
            for here, i in enumerate(these):
                normal[i] += j[here].T @ j[here]
                slope[i] += j[here].T @ error[here]
                cost[i] += error[here] @ error[here]
    return normal, slope, cost


def _damped_step(
    normal: Float[np.ndarray, "P P"], slope: Float[np.ndarray, " P"], damping: float
) -> Float[np.ndarray, " P"]:
    """Solve `(N + damping diag N) step = slope` in units in which the diagonal of N is one."""
    scale = np.sqrt(np.maximum(np.diag(normal), np.finfo(np.float64).tiny))
    scaled = normal / np.outer(scale, scale)
    for _ in range(30):
        matrix = scaled.copy()
        matrix.flat[:: len(matrix) + 1] += damping
        _, step, failed = linalg.lapack.dposv(matrix, slope / scale, lower=1, overwrite_a=1)
        if not failed:
            return np.asarray(step / scale)
        damping = max(10 * damping, 1e-15)
    return np.zeros_like(slope)


def _confidence(normal: Float[np.ndarray, "P P"]) -> tuple[float, float, float]:
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


def _moved(blocks: _Blocks, free: Sequence[int], step: Float[np.ndarray, "S P"]) -> _Blocks:
    out = list(blocks)
    for depth, part in zip(
        free, np.split(step, np.cumsum([blocks[d][0].size for d in free])[:-1], axis=1), strict=True
    ):
        out[depth] = blocks[depth] + part.reshape(blocks[depth].shape)
    return out
