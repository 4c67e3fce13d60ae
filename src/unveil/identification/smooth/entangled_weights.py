"""EntangledWeights: both layers of a network from finite-difference Hessians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.line import unit_rows
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished, polish_all
from unveil.identification.smooth.blocks import FirstLayer, gradient_span, hessians, inner_points
from unveil.identification.smooth.conclusion import Reading, SmoothMethod, ask, final_fit, fit_points
from unveil.identification.smooth.rank_one import apart, matrix_space, subspace_power
from unveil.identification.smooth.second_layer import block_size, cover, fit_outer, search_outer
from unveil.outcome import BadInput
from unveil.whitebox.activation import Activation
from unveil.whitebox.activation import activation as activation_named


@dataclass(frozen=True)
class EntangledWeights(SmoothMethod):
    """Identify a smooth network with two hidden layers, at most as many first-layer neurons as inputs, from its
    Hessians.

    1. The span of the gradients: dimension reduction.
    2. Hessians at actively chosen points, at several radii; the space W that they span, normalised.
    3. Rank-one matrices in W: squares of first-layer weights a_i and entangled weights v_l = A G0 b_l.
    4. Which is which: a_i is seen at every radius and centre, v_l moves.
    5. Shifts and second layer: b_l ~ G0^-1 A^+ v_l, and the blocks of `second_layer`; the residual judges.
    6. Least squares on everything.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer.
        widths: Neurons of the hidden layers; found if None (the first from the span of the gradients).
        attempts: How often to start again with other points.
        pipeline: False skips steps 2 to 5 and starts the same least squares from random networks: what the pipeline
            contributes is the difference.

    Queries: `2 n (n + 8)` for the span, about `6 m0 (r^2 + r + 1)` for the Hessians at each of five radii.

    Source: Fornasier, Klock, Rauchensteiner, arXiv:1907.00485.

    Examples:
        >>> method = uv.EntangledWeights("tanh", widths=(4, 2))
        >>> method.widths
        (4, 2)
    """

    activation: str | tuple[str, ...] = "tanh"
    pipeline: bool = True

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> EntangledWeights:
        """See `Method.told`."""
        if activation is None:
            raise BadInput("entangled-weights needs the activation, e.g. --activation tanh")
        return cls(activation, widths)

    def _once(self, reading: Reading) -> Polished:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        names = (self.activation,) * 2 if isinstance(self.activation, str) else self.activation
        inner, outer = activation_named(names[0]), activation_named(names[-1])
        basis, spectrum = gradient_span(oracle, inner_points(oracle, oracle.n + 8, rng, 2.0), noise)
        k = self.widths[0] if self.widths else len(basis)
        if k < oracle.n:
            basis = gradient_span(oracle, inner_points(oracle, k + 8, rng, 2.0), noise, k)[0]
        rank = self.widths[1] if self.widths and len(self.widths) > 1 else None
        reading.stats["singular values of gradients"] = spectrum.tolist()
        stages.end("directions that matter")
        if not self.pipeline:
            rows = unit_rows(rng.standard_normal((k, len(basis))))
            layer = FirstLayer(rows @ basis, np.zeros(k), inner, 3.0)
            fit = search_outer(layer, *self._answered(reading, layer, rank), outer, rank, noise, rng=rng, starts=3)
            return final_fit(oracle, fit.network, noise, rng)
        found = first_directions(oracle, basis, k, rank or 4, noise, rng=rng)
        stages.end("Hessians")
        reading.stats.update(
            {
                "spectral gap": found.gap,
                "certificates": found.certificates.tolist(),
                "seen at radii": found.votes.tolist(),
                "entangled": len(found.entangled),
            }
        )
        reading.why.append(
            f"{int((found.votes >= 2).sum())} of {k} first-layer directions were seen at two radii or more; "
            f"the span of the Hessians falls by {found.gap:.3g} after {k} + {rank or 4} dimensions"
        )
        layer = FirstLayer(found.first @ basis, np.zeros(k), inner, 3.0)
        fits = self._second(reading, layer, found, basis, outer, rank)
        best = min(fits, key=lambda fit: fit[1].rms)
        reading.why.append(f"second layer from {best[0]}: rms {best[1].rms:.2g} before the last fit")
        fit = final_fit(oracle, best[1].network, noise, rng)
        stages.end("all: fit")
        return fit

    def _second(
        self,
        reading: Reading,
        layer: FirstLayer,
        found: Directions,
        basis: Float[np.ndarray, "r n"],
        outer: Activation,
        rank: int | None,
    ) -> list[tuple[str, Polished]]:
        """Second layers by two ways, each with all parameters fitted roughly at ordinary points."""
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        x, answers = self._answered(reading, layer, rank)
        spread = float(np.ptp(answers))
        ways: list[tuple[str, Polished]] = []
        if rank and len(found.entangled) >= rank:
            slopes = layer.activation.slope(layer.shifts)
            rows = unit_rows((found.entangled[:rank] @ basis @ np.linalg.pinv(layer.weights)) / slopes)
            ways.append(("the entangled weights", self._judge(layer, rows, x, answers, outer, noise)))
        wide_enough = block_size(len(layer.shifts), oracle.n, rank) > (rank or 1)
        if wide_enough and (not ways or ways[0][1].rms > max(1e-9 * spread, 3 * noise)):
            try:
                moved, rows, _ = cover(oracle, layer, rank, noise, rng=rng)
                ways.append(("blocks", self._judge(moved, rows, x, answers, outer, noise)))
            except np.linalg.LinAlgError:
                pass
        stages.end("second layer: directions")
        if min((fit.rms for _, fit in ways), default=np.inf) > max(1e-9 * spread, 3 * noise):
            fit = search_outer(layer, x, answers, outer, rank, noise, rng=rng, starts=3)
            ways.append(("random starts", fit))
        stages.end("second layer: fit")
        return ways

    def _judge(
        self,
        layer: FirstLayer,
        rows: Float[np.ndarray, "r k"],
        x: Float[np.ndarray, "N n"],
        answers: Float[np.ndarray, "N m"],
        outer: Activation,
        noise: float,
    ) -> Polished:
        start = layer.before(fit_outer(rows, layer(x), answers, outer, noise, steps=15).network)
        return polish_all([start], x, answers, noise=noise, steps=80, patience=12)[0]

    def _answered(
        self, reading: Reading, layer: FirstLayer, rank: int | None
    ) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
        """Ordinary points, twice as many answers as parameters, and these."""
        count = 2 * (layer.weights.size + (rank or 6) * (len(layer.shifts) + 3)) // reading.oracle.m + 50
        x = fit_points(reading.oracle, layer.weights, count, reading.rng)
        return x, ask(reading.oracle, x)


RADII = (1.0, 4.0, 12.0, 24.0, 48.0)
_SAME = 0.15  # distance below which two unit vectors are the same direction


@dataclass(frozen=True)
class Directions:
    """What the Hessians show."""

    first: Float[np.ndarray, "k r"]  # unit vectors taken for first-layer directions, in the coordinates of the basis
    # how well each is confirmed: the share of a Hessian, or of W, that it explains alone
    certificates: Float[np.ndarray, " k"]
    votes: np.ndarray  # at how many radii each was seen
    # unit vectors taken for entangled weights of the second layer, at the smallest radius
    entangled: Float[np.ndarray, "e r"]
    gap: float  # ratio of the singular values around the dimension of W, at the smallest radius


def first_directions(
    oracle: Oracle, basis: Float[np.ndarray, "r n"], count: int, rank: int, noise: float, *, rng: np.random.Generator
) -> Directions:
    """Find the first-layer directions.

    Near the origin all neurons are active and the Hessians mix; further out fewer are, so that Hessians, normalised,
    come close to multiples of a single `a_i a_i^T`, while entangled weights die out. Candidates from every radius vote.
    `basis`: orthonormal, of the directions that matter. `rank`: neurons of the second layer, about.
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
    oracle: Oracle, basis: Float[np.ndarray, "k n"], radius: float, count: int, noise: float, rng: np.random.Generator
) -> Float[np.ndarray, "p n"]:
    """Points of the given preactivation spread at which the function bends, spread over the directions in which it
    does. Queries: `36 count`."""
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
    vectors: Float[np.ndarray, "N r"], scores: Float[np.ndarray, " N"], radii: Int[np.ndarray, " N"], count: int
) -> tuple[Float[np.ndarray, "k r"], Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
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
    best = np.argsort(-worth, kind="stable")
    chosen = best[apart(vectors[heads][best], 0.1, count)]
    first, certificates, found = vectors[heads][chosen], scores[heads][chosen], votes[chosen]
    missing = count - len(first)
    if missing > 0:
        others = np.linalg.svd(first, full_matrices=True)[2][len(first) :][:missing]
        first = np.concatenate([first, others])
        certificates = np.concatenate([certificates, np.zeros(len(others))])
        found = np.concatenate([found, np.zeros(len(others), dtype=int)])
    return first, certificates, found
