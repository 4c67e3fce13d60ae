"""Gradients, Jacobians and Hessians by asking, with steps taken from the measured noise."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from unveil.blackbox.noise import Noise, measure_noise
from unveil.blackbox.oracle import Oracle

BLOCK_BYTES = 2**25  # of questions per batch; fixed, so that the same seed gives the same bits on every machine
MOST_HALVINGS = 8


def jacobian(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    *,
    rng: np.random.Generator,
    noise: Noise | None = None,
) -> Float[np.ndarray, "N m n"]:
    """Jacobians at N points by differences along the coordinates.

    Piecewise-linear oracles get forward differences with the largest step that a combined second difference finds
    straight at that point; smooth ones central differences with the step that balances noise against the third
    derivative. Points closer to a wall of the box than the step are differenced on the side with room.

    Args:
        oracle: Answers values.
        x: Legal points.
        rng: Draws the combined test direction.
        noise: A measurement to reuse; measured first if None.

    Raises:
        BadInput: x is not legal.

    Queries: `N (n + 1)` for piecewise-linear oracles plus `2 N` per halving of the step, `2 N n` for smooth ones.

    Source: Lemma 3.2 of Jayaram, Woodruff, Zhang, arXiv:2002.08202, for piecewise-linear ones.
    """
    noise = measure_noise(oracle, rng=rng) if noise is None else noise
    x = np.asarray(x, dtype=np.float64)
    if noise.kind == "smooth":
        step = np.full(len(x), smooth_step(noise, order=1))
        ahead, behind = _shifted(oracle, x, step), _shifted(oracle, x, -step)
        return _quotient(ahead, behind)
    fx = oracle(x)
    step = straight_step(oracle, x, fx, rng=rng, noise=noise)
    moved, answers = _shifted(oracle, x, step)
    return np.asarray(((answers - fx[:, None, :]) / (moved - x)[:, :, None]).transpose(0, 2, 1))


def gradient(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    *,
    rng: np.random.Generator,
    noise: Noise | None = None,
    output: int = 0,
) -> Float[np.ndarray, "N n"]:
    """Gradients of one output at N points; see `jacobian`.

    Queries: as `jacobian`
    """
    return np.asarray(jacobian(oracle, x, rng=rng, noise=noise)[:, output])


def hessian(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    *,
    rng: np.random.Generator,
    noise: Noise | None = None,
    output: int = 0,
) -> Float[np.ndarray, "N n n"]:
    """Hessians of one output at N points by second differences.

    Args:
        oracle: Answers values, smooth.
        x: Legal points with room for one step to every side.
        rng: Used for the noise measurement only.
        noise: A measurement to reuse.
        output: Which output.

    Queries: `N (1 + 2 n + n (n - 1))`: f(x), f(x +- h e_i) and f(x +- h (e_i + e_j)).
    """
    noise = measure_noise(oracle, rng=rng) if noise is None else noise
    x = np.asarray(x, dtype=np.float64)
    n = oracle.n
    h = smooth_step(noise, order=2)
    rows, columns = np.triu_indices(n, 1)
    directions = np.vstack([np.eye(n), np.eye(n)[rows] + np.eye(n)[columns]])
    block = max(1, BLOCK_BYTES // (8 * n) // (2 * len(directions) + 1))
    out = np.empty((len(x), n, n))
    for start in range(0, len(x), block):
        part = x[start : start + block]
        points = np.concatenate(
            [part[:, None], part[:, None] + h * directions, part[:, None] - h * directions], axis=1
        ).reshape(-1, n)
        y = oracle(oracle.nearest(points))[:, output].reshape(len(part), -1)
        centre, ahead, behind = y[:, :1], y[:, 1 : 1 + len(directions)], y[:, 1 + len(directions) :]
        second = (ahead + behind - 2 * centre) / h**2
        diagonal = second[:, :n]
        off = (second[:, n:] - diagonal[:, rows] - diagonal[:, columns]) / 2
        for i in range(len(part)):
            full = np.diag(diagonal[i])
            full[rows, columns] = full[columns, rows] = off[i]
            out[start + i] = full
    return out


def smooth_step(noise: Noise, order: int) -> float:
    """The central step that balances noise against truncation for a first or second derivative.

    The scale on which the function changes is read off its measured curvature.
    """
    relative = float((noise.level / np.maximum(noise.size, np.finfo(float).tiny)).min())
    length = 1 / math.sqrt(max(noise.curvature, 1e-12))
    return float(length * relative ** (1 / 3 if order == 1 else 1 / 4))


def straight_step(
    oracle: Oracle, x: np.ndarray, fx: np.ndarray, *, rng: np.random.Generator, noise: Noise
) -> Float[np.ndarray, " N"]:
    """For each point the largest tried step within which the oracle is linear along a random sign vector.

    Queries: `2 N` per halving.
    """
    n = oracle.n
    # A coordinate step leaves the linear piece by another side than the diagonal: stay well inside.
    step = np.full(len(x), noise.reach / (4 * math.sqrt(n)))
    if oracle.grid is not None:
        step = np.maximum(step, oracle.grid)
    open_ = np.arange(len(x))
    for _ in range(MOST_HALVINGS):
        signs = rng.choice([-1.0, 1.0], size=(len(open_), n))
        move = step[open_, None] * signs
        points = oracle.nearest(np.concatenate([x[open_] + move, x[open_] - move]))
        ahead, behind = np.split(oracle(points), 2)
        taken = (points[: len(open_)] - x[open_] + points[len(open_) :] - x[open_]).any(axis=1)
        bend = np.abs(ahead + behind - 2 * fx[open_])
        # At a wall one of the two points was moved, so its bend says nothing: leave the step as it is there.
        open_ = open_[(bend > 16 * noise.level).any(axis=1) & ~taken]
        if not len(open_) or (oracle.grid is not None and (step[open_] <= oracle.grid).all()):
            break
        step[open_] /= 4
    return step


def _shifted(oracle: Oracle, x: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, n) after moving each alone, as the model saw them, and the answers (N, n, m)."""
    n = oracle.n
    moved = x + step[:, None]
    if oracle.within is not None:
        outside = (moved < oracle.within[0]) | (moved > oracle.within[1])
        moved = np.where(outside, x - step[:, None], moved)
    moved = oracle.nearest(moved)
    block = max(1, BLOCK_BYTES // (8 * n * n))
    answers = np.empty((len(x), n, oracle.m))
    diagonal = np.arange(n)
    for start in range(0, len(x), block):
        part = x[start : start + block]
        points = np.repeat(part[:, None, :], n, axis=1)
        points[:, diagonal, diagonal] = moved[start : start + block]
        answers[start : start + block] = oracle(points.reshape(-1, n)).reshape(len(part), n, -1)
    return moved, answers


def _quotient(ahead: tuple[np.ndarray, np.ndarray], behind: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    width = (ahead[0] - behind[0])[:, :, None]
    return np.asarray(((ahead[1] - behind[1]) / width).transpose(0, 2, 1))
