"""last_layer: a last layer behind a normalisation, up to a rotation, from the ellipsoid on which the answers lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.arguments import Randomness, as_numbers, examples, generator
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.output_inputs import Inputs
from unveil.blackbox.output_reading import VALUES
from unveil.blackbox.output_space import OutputSpan
from unveil.one_line import one_line
from unveil.outcome import BadInput, Outcome
from unveil.writing import written

LARGEST_ELLIPSOID_RANK = 140
"""Ranks up to which the ellipsoid is fitted: its unknowns are half the square of the rank."""

SPARE_ANSWERS_SHARE, SPARE_ANSWERS_BESIDES = 0.15, 40
"""Answers beyond the unknowns, as a share of them and besides: with none to spare noise would be blown up."""

CHECK_ANSWERS_SHARE, LEAST_FRESH = 0.05, 50
"""Answers kept for the check, as a share of the unknowns, and at least."""

OFF = 0.01
"""How far off the ellipsoid fresh answers may lie, as a share of its radius, before there is none: a LayerNorm leaves
about 1e-5, of the small number that it adds to the variance; numbers of no fixed length some `1 / sqrt(rank)`."""

NOISE_MISS_FACTOR = 4.0
"""Misses up to so many times what the noise of the answers makes are put down to it."""

DRAWN = 8
"""Errors drawn to predict that of the Gram matrix."""

UNSURE = 0.3
"""Predicted relative error of the Gram matrix from which nothing is resolved."""


@one_line
@dataclass(frozen=True)
class LastLayer:
    """The last layer behind a LayerNorm or RMSNorm, its gain included, as far as answers tell it: up to a rotation.

    Behind a normalisation without its gain the hidden numbers are `length * u` with u on the unit sphere, so that
    answers are `centre + matrix @ u`. What rotates u shows in no answer. The true matrix is `matrix @ R` for some
    rotation R: of a width d, `sqrt(d) * W * gain`, behind a LayerNorm less each row's mean.

    Attributes:
        matrix: (m, r). Of probabilities: of their logarithms, each column centred.
        centre: (m,) the answer to a hidden vector of zeros: W times the normalisation's shift, and the last bias.
        error: Relative error of the Gram matrix `matrix @ matrix.T` in the Frobenius norm: two standard deviations, as
            predicted from how far the answers lie off the ellipsoid.
        held_out: Root mean square distance of fresh answers from the ellipsoid, as a share of its radius.
        queries: Queries asked for it.
        outcome: `complete`; `check_failed` if fresh answers do not lie on an ellipsoid (then the hidden numbers have no
            fixed length, and matrix means nothing); `not_resolved` if noise hides it; `not_measured` or `budget_ended`
            if there were too few inputs.
        why: One sentence.
        centred: Whether what is the same for all outputs is not told, as behind a softmax.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> hidden, last = rng.standard_normal((3, 8)), rng.standard_normal((20, 3))
        >>> def model(x):
        ...     u = np.tanh(x @ hidden.T)
        ...     return u / np.linalg.norm(u, axis=1, keepdims=True) @ last.T
        >>> oracle = uv.as_oracle(model, shape=8)
        >>> found = uv.last_layer(oracle, uv.output_span(oracle, rng=rng), rng=rng)
        >>> found.matrix.shape, found.outcome.name
        ((20, 3), 'complete')
    """

    matrix: Float[np.ndarray, "m r"]
    centre: Float[np.ndarray, " m"]
    error: float
    held_out: float
    queries: int
    outcome: Outcome
    why: str
    centred: bool

    def distance(self, other: LastLayer | np.ndarray) -> float:
        """Relative Frobenius distance of the Gram matrices, which no rotation changes.

        Args:
            other: Another one, or a matrix (m, k) whose hidden numbers have length 1.

        Raises:
            BadInput: Another number of outputs.
        """
        columns = other.matrix if isinstance(other, LastLayer) else as_numbers(other, "columns")
        if columns.ndim != 2 or len(columns) != len(self.matrix):
            raise BadInput(f"the other matrix must have {len(self.matrix)} rows; got {columns.shape}")
        if self.centred:
            columns = columns - columns.mean(axis=0)
        # In a basis of both column spaces, so that nothing cancels and no (m, m) matrix is made.
        triangle = np.asarray(np.linalg.qr(np.concatenate([self.matrix, columns], axis=1), mode="r"))
        own, others = triangle[:, : self.matrix.shape[1]], triangle[:, self.matrix.shape[1] :]
        return float(np.linalg.norm(own @ own.T - others @ others.T) / np.linalg.norm(others @ others.T))

    def save(self, path: str | Path) -> None:
        """Write matrix, centre and error as .npz."""
        with written(path) as file:
            np.savez_compressed(
                file, allow_pickle=False, matrix=self.matrix, centre=self.centre, error=np.array(self.error)
            )


def last_layer(
    oracle: Oracle, span: OutputSpan, x: Float[np.ndarray, "N n"] | None = None, *, rng: Randomness
) -> LastLayer:
    r"""Find the last layer of a model that normalises its hidden numbers before it, up to a rotation of these.

    A LayerNorm or RMSNorm gives all hidden vectors the same length, so that answers lie on an ellipsoid in their span.
    A quadric is fitted to them by least squares; the matrix that makes the unit sphere its ellipsoid is the last layer.
    Fresh answers must lie on it.

    Args:
        oracle: The one whose span it is.
        span: Settled, of a rank up to 140.
        x: Inputs to ask, any kind; by default `oracle.sample`.
        rng: A generator, or a seed. Draws inputs and their order.

    Raises:
        BadInput: The span is not settled, its rank is too large, or x has the wrong shape.
        SourceError: The model failed.

    Queries: with `u = r (r + 3) / 2` for a rank r: `1.2 u + 90`, about half the square of the width

    Source: Finlayson, Ren, Swayamdipta, arXiv:2510.14086 (outputs of a normalised layer lie on an ellipsoid); Carlini
    et al., arXiv:2403.06634, for the last layer up to a rotation.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> hidden, last = rng.standard_normal((3, 8)), rng.standard_normal((20, 3))
        >>> def model(x):
        ...     u = np.tanh(x @ hidden.T)
        ...     return u / np.linalg.norm(u, axis=1, keepdims=True) @ last.T
        >>> oracle = uv.as_oracle(model, shape=8)
        >>> found = uv.last_layer(oracle, uv.output_span(oracle, rng=rng), rng=rng)
        >>> found.distance(last) < 1e-6
        True
    """
    must_be_asked(oracle)
    rng = generator(rng)
    r = span.rank
    if span.outcome not in (Outcome.complete, Outcome.approximate) or not 1 < r < span.reading.largest_rank:
        raise BadInput(f"the last layer is read in a settled span of the outputs: {span.why}")
    if r > LARGEST_ELLIPSOID_RANK:
        raise BadInput(
            f"an ellipsoid of {r} dimensions has {_unknowns(r):,} unknowns: the rank may be {LARGEST_ELLIPSOID_RANK}"
        )
    x = examples(x, oracle.n)
    before = oracle.ledger.asked
    count = int(np.ceil((1 + SPARE_ANSWERS_SHARE) * _unknowns(r))) + SPARE_ANSWERS_BESIDES
    fresh = max(LEAST_FRESH, int(np.ceil(CHECK_ANSWERS_SHARE * _unknowns(r))))
    wanted = count + fresh
    points = Inputs(oracle, x, rng).take(int(min(wanted, max(oracle.ledger.left, 0))))
    nothing = LastLayer(
        np.zeros((span.m, r)), span.origin, 1.0, 1.0, 0, Outcome.not_measured, "", span.reading.kind != VALUES
    )
    if len(points) < wanted:
        ended = Outcome.budget_ended if oracle.ledger.left < wanted else Outcome.not_measured
        told = f"an ellipsoid of {r} dimensions takes {wanted:,} inputs, and there were {len(points):,}: none was asked"
        return replace(nothing, outcome=ended, why=told)
    y = np.concatenate([oracle(points[i : i + 1024]) for i in range(0, wanted, 1024)])
    found = _fitted((span.reading(y) - span.origin) @ span.basis.T, count, max(span.noise, span.rounding), rng)
    queries = oracle.ledger.asked - before
    if found is None:
        told = "no ellipsoid goes through the answers: the hidden numbers have no fixed length, or lie on less of it"
        return replace(nothing, queries=queries, outcome=Outcome.check_failed, why=told)
    axes, centre, error, off, noisy = found
    outcome, told = Outcome.complete, f"fresh answers lie on the ellipsoid to {off:.1e} of its radius"
    if error > UNSURE or OFF < off <= NOISE_MISS_FACTOR * noisy:
        outcome, told = Outcome.not_resolved, f"noise hides the ellipsoid: its matrix would be off by {error:.1e}"
    if off > max(OFF, NOISE_MISS_FACTOR * noisy):
        outcome = Outcome.check_failed
        told = f"fresh answers lie {off:.1e} of its radius off the best ellipsoid: hidden numbers have no fixed length"
    matrix, middle = span.basis.T @ axes, span.origin + centre @ span.basis
    return LastLayer(matrix, middle, error, off, queries, outcome, told, span.reading.kind != VALUES)


def _unknowns(rank: int) -> int:
    return rank * (rank + 3) // 2


def _fitted(
    z: np.ndarray, count: int, sigma: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float, float] | None:
    """Axes (r, r), centre (r,), predicted error of the Gram matrix, how far the last answers lie off, and by noise.

    Args:
        z: Answers in the span.
        count: So many go into the fit.
        sigma: Noise of a number.
        rng: A generator, or a seed. Draws errors.
    """
    r = z.shape[1]
    mean = z[:count].mean(axis=0)
    try:
        scale = np.linalg.cholesky(np.cov(z[:count].T))
    except np.linalg.LinAlgError:
        return None
    v = linalg.solve_triangular(scale, (z - mean).T, lower=True).T
    i, j = np.triu_indices(r)
    # Entries off the diagonal stand twice in the quadric's matrix.
    design = np.concatenate([v[:, i] * v[:, j] * np.where(i == j, 1.0, 2.0), v], axis=1)
    q, triangle = linalg.qr(design[:count], mode="economic", check_finite=False)
    if np.abs(np.diag(triangle)).min() <= 1e-10 * np.abs(np.diag(triangle)).max():
        return None
    theta = linalg.solve_triangular(triangle, q.T @ np.ones(count), check_finite=False)
    whole = _ellipsoid(theta, r)
    if whole is None:
        return None
    axes, middle, level = scale @ whole[0], whole[1], whole[2]
    miss = design @ theta - 1
    # At 1 + e times the radius it misses by 2 e.
    off = float(np.sqrt(np.mean(miss[count:] ** 2))) / (2 * level)
    across = linalg.solve_triangular(scale, ((v[count:] - middle) @ whole[3]).T, lower=True, trans="T")
    noisy = sigma * float(np.sqrt(np.mean((across**2).sum(axis=0)))) / level
    # How far errors as large as these carry the Gram matrix, of a few drawn at random; twice that is stated.
    noise = np.sqrt(float(miss[:count] @ miss[:count]) / (count - len(theta)))
    gram, moved = axes @ axes.T, []
    errors = linalg.solve_triangular(triangle, noise * rng.standard_normal((len(theta), DRAWN)), check_finite=False)
    for change in errors.T:
        other = _ellipsoid(theta + change, r)
        if other is None:
            return axes, mean + scale @ middle, 1.0, off, noisy
        moved.append(np.linalg.norm((scale @ other[0]) @ (scale @ other[0]).T - gram))
    error = float(2 * np.sqrt(np.mean(np.square(moved))) / np.linalg.norm(gram))
    return axes, mean + scale @ middle, error, off, noisy


def _ellipsoid(theta: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray, float, np.ndarray] | None:
    """Axes, centre, the level there, and Q, of the quadric `v^T Q v + q^T v = 1`; None if it is no ellipsoid."""
    i, j = np.triu_indices(r)
    quadratic = np.zeros((r, r))
    quadratic[i, j] = quadratic[j, i] = theta[: len(i)]
    values, turned = np.linalg.eigh(quadratic)
    if values.min() <= 0:
        return None
    middle = -(turned / values) @ turned.T @ theta[len(i) :] / 2
    level = 1 + float(middle @ quadratic @ middle)
    return (turned * np.sqrt(level / values)) @ turned.T, middle, level, quadratic
