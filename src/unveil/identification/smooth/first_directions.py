"""First-layer directions of a smooth network from its Hessians at several radii: rank-one matrices and votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.hessians import hessians, inner_points
from unveil.identification.smooth.rank_one import matrix_space, subspace_power

RADII = (1.0, 4.0, 12.0, 24.0, 48.0)
_SAME = 0.15  # distance below which two unit vectors are the same direction


@dataclass(frozen=True)
class Directions:
    """What the Hessians show.

    Attributes:
        first: Unit vectors taken for first-layer directions, in the coordinates of the basis.
        certificates: How well each is confirmed: the share of a Hessian, or of W, that it explains alone.
        votes: At how many radii each was seen.
        entangled: Unit vectors taken for entangled weights of the second layer, at the smallest radius.
        gap: Ratio of the singular values around the dimension of W, at the smallest radius.
    """

    first: Float[np.ndarray, "k r"]
    certificates: Float[np.ndarray, " k"]
    votes: np.ndarray
    entangled: Float[np.ndarray, "e r"]
    gap: float


def first_directions(
    oracle: Oracle,
    basis: Float[np.ndarray, "r n"],
    count: int,
    rank: int,
    noise: float,
    *,
    rng: np.random.Generator,
) -> Directions:
    """Find the first-layer directions.

    Near the origin all neurons are active and the Hessians mix; further out fewer are, so that Hessians, normalised,
    come close to multiples of a single `a_i a_i^T`, while entangled weights die out. Candidates from every radius vote.

    Args:
        oracle: To be asked.
        basis: Orthonormal, of the directions that matter.
        count: Neurons of the first layer.
        rank: Neurons of the second layer, about.
        noise: Standard deviation of the answers' errors.
        rng: Draws points and starts.
    """
    r = len(basis)
    vectors, scores, radii = [], [], []
    near: list[np.ndarray] = []
    ratio = np.nan
    for number, radius in enumerate(RADII if oracle.within is None else RADII[:1]):
        points = _lively(oracle, basis, radius, 5 * count, noise, rng)
        matrices = hessians(oracle, points, basis, noise).reshape(-1, r, r)
        size = np.linalg.norm(matrices, axis=(1, 2))
        matrices = matrices[size > 0] / size[size > 0][:, None, None]
        dimension = min(count + rank, r * (r + 1) // 2 - 1)
        space, values = matrix_space(matrices, dimension if number < 2 else min(count, dimension))
        found = subspace_power(space, rng=rng, starts=6 * count, iterations=200)
        if number == 0:
            ratio = float(values[dimension - 1] / values[dimension]) if dimension < len(values) else np.nan
            near = list(found.vectors[: count + 2 * rank])
        good = found.certificates > 0.8
        vectors += list(found.vectors[good])
        scores += list(found.certificates[good] * 0.98)
        radii += [number] * int(good.sum())
        # A Hessian that is nearly of rank one shows its neuron directly.
        eigenvalues, eigenvectors = np.linalg.eigh(matrices)
        at = np.abs(eigenvalues).argmax(axis=1)
        rows = np.arange(len(matrices))
        purity = eigenvalues[rows, at] ** 2
        pure = purity > 0.9
        vectors += list(eigenvectors[rows, :, at][pure])
        scores += list(purity[pure])
        radii += [number] * int(pure.sum())
    first, certificates, votes = _elect(np.array(vectors), np.array(scores), np.array(radii), count)
    entangled = [v for v in near if np.abs(first @ v).max() < 1 - _SAME**2 / 2]
    return Directions(first, certificates, votes, np.array(entangled).reshape(-1, r), ratio)


def _lively(
    oracle: Oracle, basis: np.ndarray, radius: float, count: int, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Points of the given preactivation spread at which the function bends, spread over the directions in which it
    does.

    Queries: `36 count`
    """
    r = len(basis)
    if oracle.within is not None:
        return inner_points(oracle, count, rng)
    many = 12 * count
    points = radius * rng.standard_normal((many, r)) @ basis
    away = rng.standard_normal((many, r)) @ basis
    away *= 0.5 / np.linalg.norm(away, axis=1, keepdims=True) * np.sqrt(r) / 2
    asked = [oracle(oracle.nearest(points + step * away)) for step in (-1.0, 0.0, 1.0)]
    bend = np.abs(asked[0] + asked[2] - 2 * asked[1]).max(axis=1)
    if radius < 8:
        return oracle.nearest(points[:count])
    # Not only the strongest: they would all be the same few neurons.
    alive = np.flatnonzero(bend > max(10 * noise, 1e-3 * float(np.quantile(bend, 0.98))))
    if len(alive) < count:
        alive = np.argsort(-bend)[:count]
    return oracle.nearest(points[rng.permutation(alive)[:count]])


def _elect(
    vectors: np.ndarray, scores: np.ndarray, radii: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cluster the candidates, the best first; take those seen at most radii, complete them orthogonally."""
    order = np.argsort(-scores, kind="stable")
    vectors, scores, radii = vectors[order], scores[order], radii[order]
    heads: list[int] = []
    seen: list[set[int]] = []
    hits: list[int] = []
    for i, v in enumerate(vectors):
        closeness = np.abs(vectors[heads] @ v) if heads else np.empty(0)
        if len(closeness) and closeness.max() > 1 - _SAME**2 / 2:
            at = int(closeness.argmax())
            seen[at].add(int(radii[i]))
            hits[at] += 1
        else:
            heads.append(i)
            seen.append({int(radii[i])})
            hits.append(1)
    votes = np.array([len(s) for s in seen])
    worth = np.minimum(votes, 3) + scores[heads] + 0.01 * np.minimum(hits, 50)
    chosen: list[int] = []
    span = np.empty((0, vectors.shape[1]))
    for at in np.argsort(-worth, kind="stable"):
        v = vectors[heads[at]]
        rest = v - span.T @ (span @ v)
        if np.linalg.norm(rest) > 0.1:
            chosen.append(int(at))
            span = np.concatenate([span, rest[None] / np.linalg.norm(rest)])
        if len(chosen) == count:
            break
    first = vectors[[heads[at] for at in chosen]]
    certificates, found = scores[[heads[at] for at in chosen]], votes[chosen]
    missing = count - len(first)
    if missing > 0:
        others = np.linalg.svd(first, full_matrices=True)[2][len(first) :][:missing]
        first = np.concatenate([first, others])
        certificates = np.concatenate([certificates, np.zeros(len(others))])
        found = np.concatenate([found, np.zeros(len(others), dtype=int)])
    return first, certificates, found
