"""Gradients, Jacobians and Hessians by asking, with steps taken from the measured noise."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, as_numbers, generator, vectors
from unveil.blackbox.noise_model import NoiseModel, measure_noise
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.outcome import BadInput

BLOCK_BYTES = 2**25  # of questions per batch; fixed, so that the same seed gives the same bits on every machine
MOST_HALVINGS = 8


def jacobian(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    *,
    rng: Randomness,
    noise: NoiseModel | None = None,
) -> Float[np.ndarray, "N m n"]:
    """Jacobians at N points by differences along the coordinates.

    Piecewise-linear oracles get forward differences with the largest step that a combined second difference finds
    straight at that point; smooth ones central differences with the step that balances noise against the third
    derivative. Points closer to a wall of the box than the step are differenced on the side with room: smooth ones by
    the three points on that side, whose error is of the same order.

    Args:
        oracle: Answers values.
        x: Legal points.
        rng: A generator, or a seed. Draws the combined test direction.
        noise: A measurement to reuse; measured first if None.

    Raises:
        BadInput: x is not legal.

    Queries: `N (n + 1)` for piecewise-linear oracles plus `2 N` per halving of the step, `2 N n` for smooth ones, and
        `N` more of these where one of the points lies nearer to a wall than a step.

    Source: Lemma 3.2 of Jayaram, Woodruff, Zhang, arXiv:2002.08202, for piecewise-linear ones.

    Examples:
        >>> rows = np.array([[1.0, 2.0], [3.0, 4.0]])
        >>> oracle = uv.as_oracle(lambda x: x @ rows.T, shape=2)
        >>> uv.jacobian(oracle, np.zeros((1, 2)), rng=np.random.default_rng(0)).round(6)
        array([[[1., 2.],
                [3., 4.]]])
    """
    must_be_asked(oracle)
    rng = generator(rng)
    noise = measure_noise(oracle, rng=rng) if noise is None else noise
    x = as_numbers(x, "x")
    if noise.kind == "smooth":
        return _smooth_jacobian(oracle, x, _within_box(oracle, smooth_step(noise, order=1), room=4))
    fx = oracle(x)
    step = straight_step(oracle, x, fx, rng=rng, noise=noise)
    moved, answers = _shifted(oracle, x, np.broadcast_to(step[:, None], x.shape))
    return np.asarray(((answers - fx[:, None, :]) / (moved - x)[:, :, None]).transpose(0, 2, 1))


def gradient(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    *,
    rng: Randomness,
    noise: NoiseModel | None = None,
    output: int = 0,
) -> Float[np.ndarray, "N n"]:
    """Gradients of one output at N points; see `jacobian`.

    Queries: as `jacobian`

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x[:, 0] * x[:, 1], shape=2)
        >>> uv.gradient(oracle, np.array([[2.0, 3.0]]), rng=np.random.default_rng(0)).round(4)
        array([[3., 2.]])
    """
    rng = generator(rng)
    _require_output(oracle, output)
    return np.asarray(jacobian(oracle, x, rng=rng, noise=noise)[:, output])


def hessian(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    *,
    rng: Randomness,
    noise: NoiseModel | None = None,
    output: int = 0,
) -> Float[np.ndarray, "N n n"]:
    """Hessians of one output at N points by second differences.

    Args:
        oracle: Answers values, smooth.
        x: Legal points. Of those nearer to a wall than a step the Hessian is extrapolated from two points further in.
        rng: A generator, or a seed. Used for the noise measurement only.
        noise: A measurement to reuse.
        output: Which output.

    Queries: `N (1 + 2 n + n (n - 1))`: f(x), f(x +- h e_i) and f(x +- h (e_i + e_j)); twice that near a wall.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x[:, 0] * x[:, 1], shape=2)
        >>> found = uv.hessian(oracle, np.array([[2.0, 3.0]]), rng=np.random.default_rng(0))
        >>> bool(np.allclose(found, [[[0, 1], [1, 0]]], atol=1e-3))
        True
    """
    _require_output(oracle, output)
    rng = generator(rng)
    noise = measure_noise(oracle, rng=rng) if noise is None else noise
    x = vectors(x, oracle.n, "x")
    if x.ndim != 2:
        raise BadInput(f"x must have shape (N, {oracle.n}); got {x.shape}")
    h = _within_box(oracle, smooth_step(noise, order=2), room=8)
    if oracle.within is None:
        return _second_differences(oracle, x, h, output)
    low, high = oracle.within
    beside = np.clip(x, low + h, high - h)
    found = _second_differences(oracle, beside, h, output)
    near = np.flatnonzero((beside != x).any(axis=1))
    if len(near):
        # Twice as far inward, and back along the line through both: that takes the error of first order with it.
        further = _second_differences(oracle, 2 * beside[near] - x[near], h, output)
        found[near] = 2 * found[near] - further
    return found


def _second_differences(oracle: Oracle, x: np.ndarray, h: float, output: int) -> Float[np.ndarray, "N n n"]:
    n = oracle.n
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


def _require_output(oracle: Oracle, output: int) -> None:
    must_be_asked(oracle)
    if not 0 <= output < oracle.m:
        raise BadInput(f"output must be from 0 to {oracle.m - 1}; got {output}")


def smooth_step(noise: NoiseModel, order: int) -> float:
    """The central step that balances noise against truncation for a first or second derivative.

    The scale on which the function changes is read off its measured curvature.
    """
    relative = 1 / max(float(noise.signal.max()), 1e-300)
    length = 1 / math.sqrt(max(noise.curvature, 1e-12))
    return float(length * relative ** (1 / 3 if order == 1 else 1 / 4))


def straight_step(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"],
    fx: Float[np.ndarray, "N m"],
    *,
    rng: np.random.Generator,
    noise: NoiseModel,
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
    """Coordinates (N, n) after moving each alone, as the model saw them, and the answers (N, n, m).

    A step (N, n) that leaves the box is taken to the other side.
    """
    n = oracle.n
    moved = x + step
    if oracle.within is not None:
        outside = (moved < oracle.within[0]) | (moved > oracle.within[1])
        moved = np.where(outside, x - step, moved)
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


def _within_box(oracle: Oracle, step: float, room: int) -> float:
    """A step of which `room` fit into the box."""
    if oracle.within is None:
        return step
    return min(step, float(np.min(oracle.high - oracle.low)) / room)


def _smooth_jacobian(oracle: Oracle, x: np.ndarray, step: float) -> Float[np.ndarray, "N m n"]:
    """Central differences, and where one side lies outside the box the three points on the other."""
    if oracle.grid is not None:
        step = max(1.0, round(step / oracle.grid)) * oracle.grid
    low, high = oracle.within or (-np.inf, np.inf)
    up, down = x + step > high, x - step < low
    one, two = np.full(x.shape, step), np.full(x.shape, -step)
    one, two = np.where(up, -2 * step, one), np.where(down, 2 * step, two)
    (a, at_a), (b, at_b) = _shifted(oracle, x, one), _shifted(oracle, x, two)
    slope = (at_a - at_b) / (a - b)[:, :, None]
    sided = up | down
    near = np.flatnonzero(sided.any(axis=1))
    if len(near):
        fx = oracle(x[near])[:, None, :]
        to_a, to_b = (a[near] - x[near])[:, :, None], (b[near] - x[near])[:, :, None]
        # The derivative at x of the parabola through x and both points.
        through = (to_a**2 * (at_b[near] - fx) - to_b**2 * (at_a[near] - fx)) / (to_a * to_b * (to_a - to_b))
        slope[near] = np.where(sided[near][:, :, None], through, slope[near])
    return np.asarray(slope.transpose(0, 2, 1))
