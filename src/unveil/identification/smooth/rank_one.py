"""Rank-one matrices in a space of symmetric matrices: the subspace power method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import unit_rows

# A start has ended when its unit vector moves less: the error of the certificate is about as large.
SETTLED_VECTOR_MOVE = 1e-14
FOUND = 1 - 1e-9  # certificate from which an end counts as found


@dataclass(frozen=True)
class RankOne:
    """Rank-one elements of a space of symmetric matrices."""

    # unit vectors u (one per row) with `u u^T` near the space, different ones, best certificate first
    vectors: Float[np.ndarray, "k n"]
    certificates: Float[np.ndarray, " k"]  # `F = ||P_W(u u^T)||_F^2` of each; 1 is exactly in the space
    hits: np.ndarray  # of how many starts each was the end
    iterations: int  # of the slowest start


def pack(matrices: Float[np.ndarray, "N n n"]) -> Float[np.ndarray, "N p"]:
    """Upper triangles, off-diagonals times sqrt 2: the Frobenius product becomes the dot product."""
    i, j = np.triu_indices(matrices.shape[-1])
    return np.asarray(matrices[:, i, j] * np.where(i == j, 1.0, np.sqrt(2)))


def unpack(vectors: Float[np.ndarray, "N p"]) -> Float[np.ndarray, "N n n"]:
    """The inverse of `pack`."""
    n = int((np.sqrt(8 * vectors.shape[1] + 1) - 1) / 2)
    i, j = np.triu_indices(n)
    out = np.empty((len(vectors), n, n))
    values = vectors / np.where(i == j, 1.0, np.sqrt(2))
    out[:, i, j] = values
    out[:, j, i] = values
    return out


def matrix_space(
    matrices: Float[np.ndarray, "N n n"], dimension: int
) -> tuple[Float[np.ndarray, "k n n"], Float[np.ndarray, " s"]]:
    """Orthonormal basis of the leading `dimension` directions of the matrices, and all their singular values."""
    _, values, rows = np.linalg.svd(pack(matrices), full_matrices=False)
    return unpack(rows[:dimension]), values


def certificate(space: Float[np.ndarray, "k n n"], vectors: Float[np.ndarray, "c n"]) -> Float[np.ndarray, " c"]:
    """`||P_W(u u^T)||_F^2` for unit vectors u."""
    return np.asarray((_coordinates(space, vectors) ** 2).sum(axis=1))


def subspace_power(
    space: Float[np.ndarray, "k n n"], *, rng: np.random.Generator, starts: int | None = None, iterations: int = 2000
) -> RankOne:
    """Maximise `F(u) = ||P_W(u u^T)||^2` over unit vectors from many random starts at once.

    `starts`: default `8 k + 32`. `iterations`: at most, per start. Returns different ends, best first. Source: Kileel,
    Pereira, arXiv:1912.04007, with the shift `sqrt(F (1 - F))`.
    """
    k, n, _ = space.shape
    u = unit_rows(rng.standard_normal((8 * k + 32 if starts is None else starts, n)))
    flat = space.reshape(k, n * n)
    running, taken = np.arange(len(u)), 0
    while len(running) and taken < iterations:
        taken += 1
        v = u[running]
        c = (v[:, :, None] * v[:, None, :]).reshape(len(v), -1) @ flat.T
        f = np.minimum((c**2).sum(axis=1), 1.0)
        image = np.einsum("cij,cj->ci", (c @ flat).reshape(len(v), n, n), v)
        moved = unit_rows(image + np.sqrt(f * (1 - f))[:, None] * v)
        u[running] = moved
        running = running[((moved - v) ** 2).sum(axis=1) > SETTLED_VECTOR_MOVE**2]
    return _distinct(space, u, taken)


def rank_one_elements(
    space: Float[np.ndarray, "k n n"], *, rng: np.random.Generator, count: int | None = None, rounds: int = 30
) -> RankOne:
    """Subspace power method, started again until `count` independent elements are found.

    `count`: how many there should be; default the dimension of W. `rounds`: of `count + 16` starts each, at most.
    Returns different ends, best first, also those with smaller certificates.
    """
    count = len(space) if count is None else count
    ends = np.empty((0, space.shape[1]))
    taken = 0
    for _ in range(rounds):
        found = subspace_power(space, rng=rng, starts=count + 16)
        taken = max(taken, found.iterations)
        ends = np.concatenate([ends, np.repeat(found.vectors, np.minimum(found.hits, 3), axis=0)])
        result = _distinct(space, ends, taken)
        good = int((result.certificates >= FOUND).sum())
        if good >= count and len(independent(result, space, count)) == count:
            break
        # Only what was found is kept: the poor ends of thousands of starts would fill the memory.
        ends = np.concatenate([result.vectors[:good], result.vectors[good:][:count]])
    return result


def joint_directions(
    matrices: Float[np.ndarray, "N r r"], count: int, *, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "k r"], float]:
    """The vectors v_l of matrices `sum_l t_l v_l v_l^T`, at most `count`, and the worst certificate."""
    r = matrices.shape[1]
    space, _ = matrix_space(matrices, min(count, r * (r + 1) // 2))
    found = rank_one_elements(space, rng=rng, count=count, rounds=8)
    vectors = independent(found, space, count)
    return vectors, float(certificate(space, vectors).min())


def independent(found: RankOne, space: Float[np.ndarray, "k n n"], count: int) -> Float[np.ndarray, "c n"]:
    """The `count` best vectors whose squares are independent: a good end near a better one is not a new one."""
    return found.vectors[apart(_coordinates(space, found.vectors), 1e-3, count)]


def apart(vectors: Float[np.ndarray, "N d"], least: float, count: int) -> list[int]:
    """The first `count` vectors of which this share of the length lies outside the span of those kept before."""
    kept: list[int] = []
    span = np.empty((0, vectors.shape[1]))
    for i, v in enumerate(vectors):
        rest = v - span.T @ (span @ v)
        if np.linalg.norm(rest) > least * np.linalg.norm(v):
            kept.append(i)
            span = np.concatenate([span, unit_rows(rest[None])])
        if len(kept) == count:
            break
    return kept


def _coordinates(space: Float[np.ndarray, "k n n"], vectors: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c k"]:
    k, n, _ = space.shape
    return np.asarray((vectors[:, :, None] * vectors[:, None, :]).reshape(len(vectors), -1) @ space.reshape(k, n * n).T)


def _distinct(space: Float[np.ndarray, "k n n"], u: Float[np.ndarray, "s n"], iterations: int) -> RankOne:
    """Ends of a search without those that are the same, the one with the largest certificate first."""
    f = certificate(space, u)
    order = np.argsort(-f, kind="stable")
    u, f = u[order], f[order]
    closeness = np.abs(u @ u.T)
    kept: list[int] = []
    hits: list[int] = []
    for i in range(len(u)):
        near = [place for place, j in enumerate(kept) if closeness[i, j] > 1 - 1e-5]
        if near:
            hits[near[0]] += 1
        else:
            kept.append(i)
            hits.append(1)
    return RankOne(u[kept], f[kept], np.array(hits, dtype=int), iterations)
