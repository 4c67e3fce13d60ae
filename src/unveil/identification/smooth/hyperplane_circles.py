"""Steps of a saturated network along half circles far out: each one is a neuron of the first layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.line import unit_rows
from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.conclusion import ask
from unveil.identification.smooth.single_neuron import fit_alone
from unveil.whitebox.activation import ACTIVATIONS

_LARGEST_DECADE = 8
_CIRCLES = 24  # circles at most
# Standard deviation of the answers' errors from which directions are found by least squares.
LEAST_SQUARES_NOISE = 1e-12


@dataclass(frozen=True)
class Hyperplanes:
    """Hyperplanes `direction . x + offset = 0` on which one first-layer neuron is active."""

    directions: Float[np.ndarray, "k n"]  # unit normals, one per row
    offsets: Float[np.ndarray, " k"]  # their offsets, up to the width of the active zone and `slack`
    widths: Float[np.ndarray, " k"]  # length over which the neuron switches, in units of x
    slack: Float[np.ndarray, " k"]  # how far each offset may be off: the direction's error times the radius
    circles: int  # circles walked


def saturation_radius(oracle: Oracle, rng: np.random.Generator, noise: float) -> tuple[float, float] | None:
    """A radius beyond which a ray's answers no longer change, and how much they still do; None if there is none.

    The activation is sigmoidal if most rays have come to rest; the radius returned lies two decades beyond, if the
    precision of the inputs allows. Algebraic tails (arctan) never rest altogether: their drift is a floor for what
    counts as a step. `oracle`: without a box: a box bounds the radius. Queries: at most `64 * 9`.
    """
    if oracle.n < 2 or oracle.within is not None or oracle.answers == "labels":
        return None
    rays = unit_rows(rng.standard_normal((64, oracle.n)))
    spread = float(np.ptp(oracle(oracle.nearest(rays)), axis=0).max())
    furthest = _LARGEST_DECADE if oracle.dtype == np.float64 else 4
    inner = oracle(oracle.nearest(100.0 * rays))
    for decade in range(3, furthest + 1):
        outer = oracle(oracle.nearest(10.0**decade * rays))
        spread = max(spread, float(np.ptp(outer, axis=0).max()))
        drift = np.abs(outer - inner).max(axis=1)
        if (drift <= 8 * noise + 100 * spread * 10.0**-decade).mean() >= 0.85:
            # The further out, the rarer are two steps side by side; but a direction that noise made poor misses its own
            # plane there.
            radius = 10.0 ** min(decade + 2, furthest, _LARGEST_DECADE if noise < 1e-9 * spread else 4)
            return radius, float(np.median(np.abs(oracle(oracle.nearest(radius * rays)) - outer)))
        inner = outer
    return None


def noisy(oracle: Oracle, noise: float) -> bool:
    """Whether difference quotients far out are too poor for directions."""
    return noise > LEAST_SQUARES_NOISE or oracle.dtype == np.float32


def hyperplanes(
    oracle: Oracle,
    radius: float,
    noise: float,
    *,
    rng: np.random.Generator,
    drift: float = 0.0,
    count: int | None = None,
) -> Hyperplanes:
    """Find the first layer's hyperplanes by walking half circles.

    Every hyperplane through the neighbourhood of the origin is crossed once by a half circle of large radius. Between
    two crossings all neurons are saturated and the answer is constant; at a crossing the gradient is the normal. A step
    that lies on a hyperplane found before confirms it and costs no gradient. `radius`, `drift`: see
    `saturation_radius`; `count`: how many there are; found if None. Queries: about `256 + k (15 + 2 n)` for the first
    circle, `256 + 15 k` for others.
    """
    n = oracle.n
    directions, offsets, widths, errors = np.empty((0, n)), np.empty(0), np.empty(0), np.empty(0)
    seen = np.empty(0, dtype=int)
    most, complete, circles, quiet, before = 0, False, 0, 0, 0
    while circles < _CIRCLES and not complete:
        circles += 1
        frame = np.linalg.qr(rng.standard_normal((n, 2)))[0].T
        points, jumps, lengths = _walk(oracle, frame, radius, noise, drift, 256 if most == 0 else 8 * most)
        if len(points) == 0:
            continue
        distance = np.abs(points @ directions.T + offsets)
        near = distance <= 6 * widths + 3 * errors * radius
        known = near.any(axis=1)
        owner = (
            np.argmin(np.where(near, distance, np.inf), axis=1)[known] if len(directions) else np.empty(0, dtype=int)
        )
        seen[np.unique(owner)] += 1
        # The crossing of a steep hyperplane far from the others pins the offset better than a flat one; keep the first.
        fresh_directions, slopes, fresh_errors = _normals(
            oracle, points[~known], lengths[~known], jumps[~known], noise, radius
        )
        if noisy(oracle, noise):
            fresh_directions, fresh_errors, alone = _sharpened(
                oracle, points[~known], fresh_directions, jumps[~known], slopes, noise, radius, rng
            )
            slopes = np.where(alone, slopes, 0.0)
        usable = slopes > 0
        fresh_directions = fresh_directions[usable]
        fresh = points[~known][usable]
        directions = np.concatenate([directions, fresh_directions])
        offsets = np.concatenate([offsets, -np.einsum("kn,kn->k", fresh_directions, fresh)])
        widths = np.concatenate([widths, jumps[~known][usable] / slopes[usable]])
        errors = np.concatenate([errors, fresh_errors[usable]])
        seen = np.concatenate([seen, np.ones(len(fresh), dtype=int)])
        most = max(most, len(points))
        confirmed = int((seen >= 2).sum())
        # Two steps side by side look like one, with a false normal that no other circle confirms; a step cut in two
        # looks like two. So the count of a circle is trusted when it is explained, and otherwise when nothing new comes
        # twice.
        quiet = quiet + 1 if confirmed == before and len(points) <= confirmed + 1 else 0
        before = confirmed
        complete = confirmed > 0 and (confirmed == most == len(points) or quiet >= (2 if radius > 1e3 else 5))
        if count is not None:
            complete = confirmed >= count
    keep = seen >= 2
    if count is not None and keep.sum() > count:
        keep &= seen >= np.sort(seen[keep])[-count]
    slack = errors[keep] * radius
    return Hyperplanes(directions[keep], offsets[keep], widths[keep], slack, circles)


def _walk(
    oracle: Oracle, frame: Float[np.ndarray, "2 n"], radius: float, noise: float, drift: float, grid: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in the steps along a half circle, their jumps and the length (in x) of the last interval around each."""

    def ask(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = oracle.nearest(radius * (np.cos(angle)[:, None] * frame[0] + np.sin(angle)[:, None] * frame[1]))
        return x, oracle(x)

    angle = np.linspace(0, np.pi, grid + 1)
    value = ask(angle)[1]
    spread = float(np.ptp(value, axis=0).max())
    least = max(10 * noise, 1e-10 * spread)
    if spread <= least:
        return np.empty((0, oracle.n)), np.empty(0), np.empty(0)
    # First split every interval that changes, so that neighbouring steps part; below this width they are left together.
    finest = max(min(64 if radius > 3e4 else 24, radius / 32) / radius, 1e-4)
    while True:
        moved = np.abs(np.diff(value, axis=0)).max(axis=1) > least + 10 * drift * np.diff(angle)
        split = moved & (np.diff(angle) > finest)
        if not split.any():
            break
        middle = (angle[:-1][split] + angle[1:][split]) / 2
        order = np.argsort(np.concatenate([angle, middle]), kind="stable")
        value = np.concatenate([value, ask(middle)[1]])[order]
        angle = np.concatenate([angle, middle])[order]
    change = np.abs(np.diff(value, axis=0)).max(axis=1)
    steps = np.flatnonzero(moved & (change >= np.append(change[1:], 0)) & (change > np.append(0, change[:-1])))
    left, right, jump = angle[steps], angle[steps + 1], change[steps]
    left_value, right_value = value[steps], value[steps + 1]
    done = np.zeros(len(steps), dtype=bool)
    dead = np.zeros(len(steps), dtype=bool)
    # Then follow the largest quarter until all four quarters have a share of the jump: the neuron is active there.
    while not (done | dead).all():
        at = np.flatnonzero(~(done | dead))
        inner = left[at, None] + (right - left)[at, None] * np.array([0.25, 0.5, 0.75])
        answers = ask(inner.ravel())[1].reshape(len(at), 3, -1)
        nodes = np.concatenate([left[at, None], inner, right[at, None]], axis=1)
        values = np.concatenate([left_value[at, None], answers, right_value[at, None]], axis=1)
        quarters = np.abs(np.diff(values, axis=1)).max(axis=2)
        balanced = quarters.min(axis=1) > 0.1 * quarters.max(axis=1)
        largest = quarters.argmax(axis=1)
        rows = np.arange(len(at))
        done[at[balanced]] = True
        go = ~balanced
        left[at[go]], right[at[go]] = nodes[rows, largest][go], nodes[rows, largest + 1][go]
        left_value[at[go]], right_value[at[go]] = values[rows, largest][go], values[rows, largest + 1][go]
        dead[at[go]] = ((right - left)[at[go]] < 4 * np.finfo(oracle.dtype).eps) | (quarters.max(axis=1)[go] <= least)
    middle = (left + right)[done] / 2
    x = oracle.nearest(radius * (np.cos(middle)[:, None] * frame[0] + np.sin(middle)[:, None] * frame[1]))
    return x, jump[done], radius * (right - left)[done]


def _normals(
    oracle: Oracle,
    points: Float[np.ndarray, "P n"],
    lengths: Float[np.ndarray, " P"],
    jumps: Float[np.ndarray, " P"],
    noise: float,
    radius: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit gradients at the points by central differences, their sizes, and the error to expect of the directions."""
    count, n = points.shape
    if count == 0:
        return np.empty((0, n)), np.empty(0), np.empty(0)
    precision = np.finfo(oracle.dtype).eps
    disturbance = np.maximum(noise / jumps, radius / lengths * precision)
    h = lengths * np.clip(disturbance ** (1 / 3), 1e-4, 0.2)
    move = h[:, None, None] * np.eye(n)
    ahead, behind = (
        oracle.nearest((points[:, None] + move).reshape(-1, n)),
        oracle.nearest((points[:, None] - move).reshape(-1, n)),
    )
    rise = ask(oracle, ahead) - ask(oracle, behind)
    run = np.abs(ahead - behind).max(axis=1)
    slopes = (rise / run[:, None]).reshape(count, n, oracle.m)
    left, size, _ = np.linalg.svd(slopes, full_matrices=False)
    errors = 1e-6 + disturbance * np.sqrt(n) * lengths / h
    return left[:, :, 0], size[:, 0], errors


def _sharpened(  # noqa: PLR0913 - measurements that belong together
    oracle: Oracle,
    points: Float[np.ndarray, "P n"],
    directions: Float[np.ndarray, "P n"],
    jumps: Float[np.ndarray, " P"],
    slopes: Float[np.ndarray, " P"],
    noise: float,
    radius: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "P n"], Float[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """Directions by least squares around each point, their errors, and whether one neuron explains the answers there.

    Two steps side by side are no function of one coordinate: they leave a misfit, and their false normal is refused
    here. Queries: `3 n + 24` for each point.
    """
    n = oracle.n
    better, errors, alone = directions.copy(), np.full(len(points), np.inf), np.zeros(len(points), dtype=bool)
    for i in np.flatnonzero(slopes > 0):
        width = jumps[i] / slopes[i]
        across = rng.standard_normal((3 * n + 24, n))
        across -= np.outer(across @ directions[i], directions[i])
        across *= 2 * width / np.linalg.norm(across, axis=1, keepdims=True)
        along = rng.uniform(-width, width, len(across))
        x = oracle.nearest(points[i] + across + along[:, None] * directions[i])
        fit = fit_alone(x - points[i], oracle(x), 2 / width * directions[i], 0.0, ACTIVATIONS["tanh"], degree=5)
        better[i] = fit.weights / np.linalg.norm(fit.weights)
        errors[i] = 3 * fit.error
        # What the polynomial leaves of one neuron, the noise, and the rounding of sums of large inputs.
        expected = 2e-3 * jumps[i] + 4 * max(noise, float(np.finfo(oracle.dtype).eps) * radius / width * jumps[i])
        alone[i] = fit.misfit <= expected and errors[i] <= 0.02
    return better, errors, alone
