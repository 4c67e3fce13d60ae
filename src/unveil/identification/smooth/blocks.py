"""Blocks: some first-layer neurons active, the others at rest; the second layer's weights seen through each block.

With the neurons of a block S at fixed preactivations and the others at rest with signs p, the network is a
one-hidden-layer network in the block's coordinates z: gradients `g(p) = D B_S t(p)` with `D = diag(phi'(z))` span only
as many dimensions as there are second-layer neurons, and `H(p) = D B_S T(p) B_S^T D + diag(e g(p))` with `e = phi''(z)
/ phi'(z)`, the same e for every p. So q^T H = e q g for q orthogonal to all gradients, which gives e, hence z itself:
the shift that a ridge alone hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.conclusion import ask
from unveil.identification.smooth.rank_one import joint_directions
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer, Network


@dataclass(frozen=True)
class FirstLayer:
    """The first layer as known so far: `activation(weights @ x + shifts)`."""

    weights: Float[np.ndarray, "k n"]  # estimated rows (k, n)
    shifts: Float[np.ndarray, " k"]  # estimated shifts
    activation: Activation  # its activation
    margin: float  # preactivation beyond which a neuron counts as at rest

    def __call__(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N k"]:
        return self.activation.value(x @ self.weights.T + self.shifts)

    def before(self, rest: Network) -> Network:
        """The whole network: this layer and the rest."""
        return Network((Layer(self.weights, self.shifts, self.activation), *rest.layers))

    def at_rest(
        self, count: int, rng: np.random.Generator, *, active: Int[np.ndarray, " s"] | None = None
    ) -> Float[np.ndarray, "N n"]:
        """Points (count, n) at which all neurons are at rest, except those of `active`, which are at preactivation 0.

        With as many inputs as neurons the signs are drawn freely; otherwise far points have the signs they happen to
        have.
        """
        k, n = self.weights.shape
        active = np.empty(0, dtype=int) if active is None else active
        rest = np.setdiff1d(np.arange(k), active)
        if k <= n and np.linalg.cond(self.weights) < 1e3:
            z = np.zeros((count, k))
            z[:, rest] = self.margin * _signs(count, len(rest), rng)
            return np.asarray((z - self.shifts) @ np.linalg.pinv(self.weights).T)
        block = self.weights[active]
        foot = -np.linalg.pinv(block) @ self.shifts[active] if len(active) else np.zeros(n)
        free = np.linalg.svd(block)[2][len(active) :] if len(active) else np.eye(n)
        needed = self.margin + np.abs(self.weights[rest] @ foot + self.shifts[rest])
        points = []
        for _ in range(count):
            rays = rng.standard_normal((256, len(free))) @ free
            reach = (needed / np.maximum(np.abs(rays @ self.weights[rest].T), 1e-300)).max(axis=1)
            # Not the best ray: then every draw would give the same signs.
            chosen = rng.choice(np.argsort(reach)[:64])
            points.append(foot + rays[chosen] * reach[chosen])
        return np.array(points)


@dataclass(frozen=True)
class Block:
    """The second layer seen through a block."""

    members: np.ndarray  # neurons of the first layer
    directions: Float[np.ndarray, "r s"]  # unit vectors (r, members), `phi'(z) b_l` up to scale and sign
    curvatures: Float[np.ndarray, " s"]  # `phi''(z) / phi'(z)` of each member
    spectrum: np.ndarray  # singular values of the stacked gradients
    certificate: float  # how well the Hessians agree with the directions, one (worst) value: 1 is perfect


def look_through(
    oracle: Oracle,
    layer: FirstLayer,
    members: Int[np.ndarray, " s"],
    rank: int | None,
    noise: float,
    *,
    rng: np.random.Generator,
) -> Block:
    """Find the rows of the second layer restricted to a block of first-layer neurons.

    `layer`: the first layer, directions exact, scales and shifts roughly. `members`: the block; fewer than inputs, more
    than `rank`. `rank`: neurons of the second layer; by the gap of the gradients if None. Queries:
    `2 s p + 8 s + q (r^2 + r + 1)` for s members, with p and q patterns (at most s + 2 and r + 5).
    """
    size = len(members)
    dual = np.linalg.pinv(
        layer.weights[members]
    ).T  # rows: moving one member's preactivation by one, the others' not at all
    patterns = layer.at_rest(size + 2 if rank is None else min(size, rank + 4), rng, active=members)
    scale = float(np.abs(patterns).max())
    disturbance = max(noise, 4 * float(np.finfo(oracle.dtype).eps) * scale)
    h = float(np.clip(disturbance ** (1 / 3), 1e-4, 0.3))
    slopes = gradients(oracle, patterns, dual, h)  # (P, s, m)
    stacked = slopes.transpose(1, 0, 2).reshape(size, -1)
    basis, spectrum, _ = np.linalg.svd(stacked, full_matrices=True)
    spectrum = np.maximum(spectrum, 1e-280)  # of a block at rest nothing changes
    if rank is None:
        # Truncation and noise at their worst; the small end of the spectrum shows them as they are.
        worst = max(h**2, 3 * disturbance / h * np.sqrt(size) / spectrum[0])
        rank = gap(spectrum, min(worst, spectrum[3 * size // 4] / spectrum[0]))
    # At least one direction must be left across: it is what shows the curvatures.
    rank = min(rank, size - 1)
    span, across = basis[:, :rank], basis[:, rank:]
    # e from H q = e q g, by differences of gradients along q, at the patterns with the largest gradients.
    strong = np.argsort(-np.abs(slopes).sum(axis=(1, 2)), kind="stable")[:2]
    top, bottom = np.zeros(size), np.full(size, np.finfo(np.float64).tiny)
    k = float(np.clip(disturbance**0.25, 1e-3, 0.3))
    for p in strong:
        q = across @ rng.standard_normal(across.shape[1])
        q /= np.linalg.norm(q)
        move = k * q @ dual
        both = gradients(oracle, patterns[p] + np.array([[1.0], [-1.0]]) * move, dual, max(h, k / 4))
        product = (both[0] - both[1]) / (2 * k)  # (s, m)
        lever = q[:, None] * slopes[p]
        top += (product * lever).sum(axis=1)
        bottom += (lever**2).sum(axis=1)
    curvatures = top / bottom
    chosen = np.argsort(-np.abs(slopes).sum(axis=(1, 2)), kind="stable")[: rank + 5]
    hessians = second_differences(oracle, patterns[chosen], span.T @ dual, k)  # (Q, m, r, r)
    for i, p in enumerate(chosen):
        for output in range(oracle.m):
            hessians[i, output] -= span.T @ ((curvatures * slopes[p, :, output])[:, None] * span)
    small = hessians.reshape(-1, rank, rank)
    reduced, certificate = joint_directions(small, rank, rng=rng)
    directions = reduced @ span.T
    return Block(
        members, directions / np.linalg.norm(directions, axis=1, keepdims=True), curvatures, spectrum, certificate
    )


def _signs(count: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of signs, different ones as long as there are enough."""
    if k > 16:
        return rng.choice([-1.0, 1.0], size=(count, k))
    numbers = np.concatenate([rng.permutation(2**k) for _ in range(-(-count // 2**k))])[:count]
    return np.where((numbers[:, None] >> np.arange(k)) & 1, 1.0, -1.0)


def gap(spectrum: Float[np.ndarray, " s"], floor: float) -> int:
    """Where the singular values fall most, above a relative floor: their number before the fall."""
    s = np.maximum(spectrum / (spectrum[0] or 1.0), floor)
    return int(np.argmax(s[:-1] / s[1:])) + 1 if len(s) > 1 and s[-1] < 0.1 else len(s)


def second_differences(
    oracle: Oracle, points: Float[np.ndarray, "P n"], directions: Float[np.ndarray, "r n"], h: float
) -> Float[np.ndarray, "P m r r"]:
    """Second derivatives along pairs of directions. Queries: `P (r^2 + r + 1)`."""
    r = len(directions)
    first, second = np.triu_indices(r, 1)
    single = np.concatenate([np.zeros((1, directions.shape[1])), h * directions, -h * directions])
    pairs = h * (directions[first] + directions[second])
    moves = np.concatenate([single, pairs, -pairs])
    answers = _ask(oracle, points, moves)  # (P, M, m)
    middle, ahead, behind = answers[:, 0], answers[:, 1 : r + 1], answers[:, r + 1 : 2 * r + 1]
    both, neither = np.split(answers[:, 2 * r + 1 :], 2, axis=1)
    out = np.empty((len(points), oracle.m, r, r))
    diagonal = (ahead + behind - 2 * middle[:, None]) / h**2
    out[:, :, np.arange(r), np.arange(r)] = diagonal.transpose(0, 2, 1)
    rest = ahead[:, first] + behind[:, first] + ahead[:, second] + behind[:, second]
    mixed = ((both + neither - rest + 2 * middle[:, None]) / (2 * h**2)).transpose(0, 2, 1)
    out[:, :, first, second] = mixed
    out[:, :, second, first] = mixed
    return out


def gradients(
    oracle: Oracle, points: Float[np.ndarray, "P n"], directions: Float[np.ndarray, "s n"], h: float
) -> Float[np.ndarray, "P s m"]:
    """Central differences (P, s, m) along the directions. Queries: `2 P s`."""
    answers = _ask(oracle, points, np.concatenate([h * directions, -h * directions]))
    ahead, behind = np.split(answers, 2, axis=1)
    return np.asarray((ahead - behind) / (2 * h))


def _ask(
    oracle: Oracle, points: Float[np.ndarray, "P n"], moves: Float[np.ndarray, "M n"]
) -> Float[np.ndarray, "P M m"]:
    """Answers (P, M, m) at every point moved by every move, in batches of fixed borders."""
    x = (points[:, None] + moves).reshape(-1, points.shape[1])
    return ask(oracle, oracle.nearest(x)).reshape(len(points), len(moves), -1)


def gradient_span(
    oracle: Oracle, points: Float[np.ndarray, "P n"], noise: float, rank: int | None = None
) -> tuple[Float[np.ndarray, "r n"], Float[np.ndarray, " s"]]:
    """Orthonormal basis of the span of the gradients, and all their singular values.

    `points`: where; at least as many as the span has dimensions, divided by the outputs. `rank`: dimension of the span;
    by the gap if None. Returns basis, one row per dimension (all of them if there is no gap of a factor of a thousand,
    or of thirty down to the noise), and singular values. Queries: `2 n P`.
    """
    n = oracle.n
    h = first_step(noise) * length(points)
    slopes = gradients(oracle, points, np.eye(n), h).transpose(1, 0, 2).reshape(n, -1)
    basis, values, _ = np.linalg.svd(slopes, full_matrices=False)
    if rank is None:
        rank = gap(values, max(h**2, noise / h / max(values[0], 1e-300)))
        if rank < len(values) and values[rank] > 1e-3 * values[rank - 1]:
            # A smaller gap is one, too, where all behind it is no more than noise.
            floor = noise / (np.sqrt(2) * h) * (np.sqrt(n) + np.sqrt(slopes.shape[1]))
            if values[rank] > 3 * floor or values[rank] > 0.03 * values[rank - 1]:
                rank = n
    if rank >= n:
        return np.eye(n), values
    return np.asarray(basis[:, :rank].T), values


def hessians(
    oracle: Oracle, points: Float[np.ndarray, "P n"], basis: Float[np.ndarray, "r n"], noise: float
) -> Float[np.ndarray, "P m r r"]:
    """Finite-difference Hessians in the coordinates of the basis, step from the noise. Queries: `P (r^2 + r + 1)`."""
    return second_differences(oracle, points, basis, second_step(noise))


def inner_points(oracle: Oracle, count: int, rng: np.random.Generator, stretch: float = 1.0) -> np.ndarray:
    """Points as a user would draw them, with room for a step on all sides of a box; stretched where there is no box."""
    x = oracle.sample(count, rng)
    if oracle.within is None:
        return oracle.nearest(stretch * x)
    middle = oracle.middle
    return oracle.nearest(middle + 0.8 * (x - middle))


def first_step(noise: float) -> float:
    """Step of a central first difference for which truncation and noise are alike, for arguments of size one."""
    return float(np.clip((3 * noise) ** (1 / 3), 1e-5, 0.1))


def second_step(noise: float) -> float:
    """The same for second differences."""
    return float(np.clip((12 * noise) ** 0.25, 1e-3, 0.2))


def length(points: Float[np.ndarray, "P n"]) -> float:
    """Typical size of a coordinate, at most one."""
    return min(1.0, float(np.sqrt(np.mean(points**2))) or 1.0)
