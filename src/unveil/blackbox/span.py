"""RowSpan: the directions of the input that matter, as far as they were found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.arguments import Randomness, generator, vectors
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.span_search.points import base_points, legal_step
from unveil.one_line import one_line
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@one_line
@dataclass(frozen=True)
class RowSpan:
    """The subspace of inputs that matters, as far as it was found.

    Attributes:
        basis: (r, n), orthonormal rows.
        rank: r.
        singular_values: Of the gradients asked, in units of the largest, including those judged to be noise.
        noise_floor: What noise alone would give, in the same units.
        accuracy: Bound on the sine of the largest principal angle to the true span, measured with answers that did not
            go into the basis; 1 if nothing is known of it, as of an empty span. The angle is that of the rows as they
            are, from values and from labels, whatever units inputs were asked in.
        confidence: With this confidence no direction is missing that matters at more than `unseen` of the inputs drawn.
        unseen: Bound on the share of inputs at which a missed direction matters; 1 where nothing confirms that none is
            missing, and where what was left out shows that some are.
        left_out: Root mean square share of the gradient outside the span, measured at fresh points where the outcome is
            approximate; else 0.
        queries: Queries asked for it.
        outcome: How the search ended.
        stages: Queries per stage.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((3, 12))
        >>> span = uv.row_span(uv.as_oracle(lambda x: np.tanh(x @ rows.T), shape=12), rng=rng)
        >>> span.basis.shape
        (3, 12)
        >>> bool(np.allclose(rows @ span.complement(np.eye(12)).T, 0, atol=1e-4))  # the model does not see it
        True
    """

    basis: Float[np.ndarray, "r n"]
    singular_values: Float[np.ndarray, " s"]
    noise_floor: float
    accuracy: float
    confidence: float
    unseen: float
    left_out: float
    queries: int
    outcome: Outcome
    stages: dict[str, int] = field(default_factory=dict)

    @property
    def misses(self) -> bool:
        """Whether more of the gradient lies outside than errors of the directions found explain: others matter, too."""
        return misses(self.left_out, self.accuracy)

    def plot(self) -> Figure:
        """Singular values of the gradients, and where noise begins."""
        from unveil.pictures import spectrum

        return spectrum(self.singular_values, self.rank, self.noise_floor, f"Row span: {self.outcome.name}")

    @property
    def rank(self) -> int:
        return len(self.basis)

    @property
    def n(self) -> int:
        return int(self.basis.shape[1])

    def project(self, x: np.ndarray) -> np.ndarray:
        """The part of x (n,) or (N, n) that the model sees.

        Raises:
            BadInput: Not n finite numbers, or rows of them.
        """
        return np.asarray(vectors(x, self.n, "x") @ self.basis.T @ self.basis)

    def complement(self, x: np.ndarray) -> np.ndarray:
        """The part of x that the model does not see.

        Raises:
            BadInput: As `project`.
        """
        x = vectors(x, self.n, "x")
        return np.asarray(x - self.project(x))

    def distance(self, other: RowSpan | np.ndarray) -> float:
        """Sine of the largest principal angle to another span or a matrix's row space; 1 if the ranks differ.

        Raises:
            BadInput: Not a span of, or rows of, n numbers each.
        """
        given = vectors(other.basis if isinstance(other, RowSpan) else other, self.n, "rows")
        rows = given if isinstance(other, RowSpan) else _orthonormal(np.atleast_2d(given))
        if rows.shape != self.basis.shape:
            return 1.0
        return float(np.linalg.norm(self.complement(rows), 2)) if len(rows) else 0.0

    def check(self, oracle: Oracle, *, rng: Randomness, points: int = 100) -> float:
        """How much the answers change along the complement, relative to how much they change at all, on fresh points.

        Queries: `3 * points`
        """
        must_be_asked(oracle)
        rng = generator(rng)
        x = base_points(oracle, points, rng)
        step = rng.standard_normal(x.shape)
        hidden, any_step = self.complement(step), step
        lengths = legal_step(oracle, x, hidden), legal_step(oracle, x, any_step)
        fx = oracle(x)
        moved = [
            oracle(oracle.nearest(x + r[:, None] * s)) - fx for r, s in zip(lengths, (hidden, any_step), strict=True)
        ]
        return float(np.abs(moved[0]).max() / max(np.abs(moved[1]).max(), np.finfo(float).tiny))


def in_units_of_inputs(basis: Float[np.ndarray, "r n"], units: Float[np.ndarray, " n"]) -> Float[np.ndarray, "r n"]:
    """Orthonormal rows for the span of gradients that were taken where an input of size `units` counts as 1.

    Units may lie many orders apart. A singular value decomposition errs by roundings of the largest entry everywhere;
    reflections of inputs that are sorted by size, largest row first, by roundings of each input's own.
    """
    if not len(basis) or (units == 1).all():
        return basis
    columns = (basis / units).T
    order = np.argsort(-np.abs(columns).max(axis=1), kind="stable")
    rows = np.empty_like(basis)
    rows[:, order] = linalg.qr(columns[order], mode="economic", pivoting=True)[0].T
    return rows


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.linalg.qr(rows.T)[0].T)


def misses(left_out: float, accuracy: float) -> bool:
    """See `RowSpan.misses`; an accuracy of 1, which was not measured, explains nothing."""
    return left_out > (accuracy if accuracy < 1 else 0.0)


def unseen_share(confidence: float, seen: int, left_out: float, accuracy: float) -> float:
    """`RowSpan.unseen` after so many fresh points without anything new, 0 to 1.

    Where more of the gradient lies outside than errors of the directions found explain, others matter at most inputs.
    """
    return 1 - (1 - confidence) ** (1 / seen) if seen and not misses(left_out, accuracy) else 1.0
