"""fit: least squares on all parameters of a ReLU network that is nearly right, without a matrix of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.whitebox.network import Network

# Points looked at together; fixed, so that the same points give the same bits.
_ROWS = 4096
# The conjugate gradients of one step end when what is left is this share of the start.
_LEFT = 0.03
_MOST = 60
# Points from which the preconditioner is made, at most.
_ENOUGH = 8192
# Damping of the preconditioner, relative to its mean diagonal.
_RIDGE = 1e-6

Pairs = list[tuple[np.ndarray, np.ndarray]]


def fit(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    *,
    noise: float = 0.0,
    first: int = 0,
    steps: int = 12,
) -> tuple[Network, float]:
    """Gauss-Newton steps, each solved by conjugate gradients.

    Every product with the Jacobian is a pass through the network, so networks of hundreds of thousands of parameters
    fit. The preconditioner treats the inputs of a layer and what comes back to it as independent.

    Args:
        network: Where to start: ReLU layers, the last one affine, most neurons within a few hundredths of the truth.
        x: Where the oracle was asked; half as many answers again as parameters at least.
        y: What it answered.
        noise: Deviation of the answers' errors, absolute; it stops there.
        first: The first layer that moves.
        steps: Steps at most.

    Returns:
        The best network met, and the root mean square of what is left.

    Queries: `0`; the answers are given.

    Source: the preconditioner is the Kronecker factorisation of Martens and Grosse, ICML 2015 (arXiv:1503.05671).
    """
    weights = [(np.array(layer.dense()), layer.bias.copy()) for layer in network.layers]
    rms = _rms(weights, x, y)
    for _ in range(steps):
        if rms <= 1.2 * noise:
            break
        step = _step(weights, x, y, first)
        part, better = 1.0, None
        for _shorter in range(4):
            trial = [(w + part * dw, b + part * db) for (w, b), (dw, db) in zip(weights, step, strict=True)]
            after = _rms(trial, x, y)
            if after < rms:
                better = trial, after
                break
            part /= 4
        if better is None:
            break
        gain = rms / better[1]
        weights, rms = better
        if gain < 1.02:
            break
    return Network.from_weights(weights, shape=network.shape), rms


def _rms(weights: Pairs, x: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for part in _parts(len(x)):
        total += float(((_forward(weights, x[part])[-1] - y[part]) ** 2).sum())
    return float(np.sqrt(total / y.size))


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, min(start + _ROWS, count))


def _forward(weights: Pairs, x: np.ndarray) -> list[np.ndarray]:
    """Inputs of all layers, and the answers."""
    values = [x]
    for i, (w, b) in enumerate(weights):
        z = values[-1] @ w.T + b
        values.append(np.maximum(z, 0, out=z) if i + 1 < len(weights) else z)
    return values


def _back(weights: Pairs, values: list[np.ndarray], r: np.ndarray, first: int) -> list[np.ndarray]:
    """What comes back to the sums of every layer from `first` on, last layer first."""
    out = [r]
    for i in range(len(weights) - 1, first, -1):
        out.append((out[-1] @ weights[i][0]) * (values[i] > 0))
    return out


def _step(weights: Pairs, x: np.ndarray, y: np.ndarray, first: int) -> Pairs:
    """One Gauss-Newton step by preconditioned conjugate gradients on the normal equations."""
    moving = range(first, len(weights))
    gradient = [np.zeros((len(b), w.shape[1] + 1)) for w, b in (weights[i] for i in moving)]
    inputs = [np.zeros((w.shape[1] + 1, w.shape[1] + 1)) for w, _ in (weights[i] for i in moving)]
    backs = [np.zeros((len(b), len(b))) for _, b in (weights[i] for i in moving)]
    kept: list[list[np.ndarray]] = []
    for part in _parts(len(x)):
        values = _forward(weights, x[part])
        _add_gradient(gradient, weights, values, y[part] - values[-1], first)
        # Half the digits are plenty for a step that is corrected by the next one.
        kept.append([v.astype(np.float32) for v in values[first:-1]])
        if part.start >= _ENOUGH:
            continue
        for i in moving:
            h = _with_one(values[i])
            inputs[i - first] += h.T @ h / min(len(x), _ENOUGH)
        for out in np.eye(y.shape[1]):
            each = _back(weights, values, np.broadcast_to(out, (len(values[0]), len(out))), first)
            for i, g in zip(reversed(moving), each, strict=True):
                backs[i - first] += g.T @ g * max(1.0, len(x) / _ENOUGH)
    single = [w.astype(np.float32) for w, _ in weights]
    solvers = [(_factor(a), _factor(b)) for a, b in zip(inputs, backs, strict=True)]

    def precondition(r: list[np.ndarray]) -> list[np.ndarray]:
        return [linalg.cho_solve(b, linalg.cho_solve(a, each.T).T) for (a, b), each in zip(solvers, r, strict=True)]

    solution = [np.zeros_like(g) for g in gradient]
    r = gradient
    z = precondition(r)
    p, rz = z, _dot(r, z)
    start = rz
    for _ in range(_MOST):
        if rz <= _LEFT**2 * start or rz <= 0:
            break
        q = _normal_times(single[first:], kept, p)
        alpha = rz / max(_dot(p, q), 1e-300)
        solution = [s + alpha * d for s, d in zip(solution, p, strict=True)]
        r = [a - alpha * b for a, b in zip(r, q, strict=True)]
        z = precondition(r)
        rz, before = _dot(r, z), rz
        p = [a + rz / before * b for a, b in zip(z, p, strict=True)]
    still = [(np.zeros_like(w), np.zeros_like(b)) for w, b in weights[:first]]
    return still + [(s[:, :-1], s[:, -1]) for s in solution]


def _normal_times(weights: list[np.ndarray], kept: list[list[np.ndarray]], p: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`J^T J p`: forwards along a change of the parameters, and back; `kept` holds the inputs of every layer."""
    out = [np.zeros_like(each) for each in p]
    step = [each.astype(np.float32) for each in p]
    last = len(weights) - 1
    for values in kept:
        change = np.zeros((0, 0), dtype=np.float32)
        for i in range(last + 1):
            moved = values[i] @ step[i][:, :-1].T + step[i][:, -1]
            if i:
                moved += change @ weights[i].T
            change = moved * (values[i + 1] > 0) if i < last else moved
        for i in range(last, -1, -1):
            out[i][:, :-1] += change.T @ values[i]
            out[i][:, -1] += change.sum(axis=0)
            if i:
                change = (change @ weights[i]) * (values[i] > 0)
    return out


def _add_gradient(out: list[np.ndarray], weights: Pairs, values: list[np.ndarray], r: np.ndarray, first: int) -> None:
    for i, g in zip(range(len(weights) - 1, first - 1, -1), _back(weights, values, r, first), strict=True):
        out[i - first][:, :-1] += g.T @ values[i]
        out[i - first][:, -1] += g.sum(axis=0)


def _with_one(h: np.ndarray) -> np.ndarray:
    return np.concatenate([h, np.ones((len(h), 1))], axis=1)


def _factor(a: np.ndarray) -> tuple[np.ndarray, bool]:
    a = a.copy()
    a[np.diag_indices_from(a)] += _RIDGE * max(float(np.diag(a).mean()), 1e-300)
    factor, lower = linalg.cho_factor(a)
    return np.asarray(factor), bool(lower)


def _dot(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    return float(sum(np.vdot(u, v) for u, v in zip(a, b, strict=True)))
