"""RowSpan and row_span: the directions of the input that matter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from unveil.blackbox.noise import Noise
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.span_frames import base_points, legal_step
from unveil.blackbox.span_search import Search
from unveil.outcome import BadInput, BudgetExceeded, Outcome


@dataclass(frozen=True)
class RowSpan:
    """The subspace of inputs that matters, as far as it was found.

    Attributes:
        basis: (r, n), orthonormal rows.
        rank: r.
        singular_values: Of the gradients asked, in units of the largest, including those judged to be noise.
        noise_floor: What noise alone would give, in the same units.
        accuracy: Predicted sine of the largest principal angle to the true span.
        confidence: With this confidence no direction is missing that matters at more than `unseen` of the inputs drawn.
        unseen: Bound on the share of inputs at which a missed direction matters.
        left_out: Root mean square share of the gradient outside the span (0 unless the rank is approximate).
        queries: Queries asked for it.
        outcome: How the search ended.
        stages: Queries per stage.
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
    def rank(self) -> int:
        return len(self.basis)

    @property
    def n(self) -> int:
        return int(self.basis.shape[1])

    def project(self, x: np.ndarray) -> np.ndarray:
        """The part of x (n,) or (N, n) that the model sees."""
        return np.asarray(x @ self.basis.T @ self.basis)

    def complement(self, x: np.ndarray) -> np.ndarray:
        """The part of x that the model does not see."""
        return np.asarray(x - self.project(x))

    def distance(self, other: RowSpan | np.ndarray) -> float:
        """Sine of the largest principal angle to another span or a matrix's row space; 1 if the ranks differ."""
        rows = other.basis if isinstance(other, RowSpan) else _orthonormal(np.asarray(other, dtype=np.float64))
        if rows.shape != self.basis.shape:
            return 1.0
        return float(np.linalg.norm(self.complement(rows), 2)) if len(rows) else 0.0

    def check(self, oracle: Oracle, *, rng: np.random.Generator, points: int = 100) -> float:
        """How much the answers change along the complement, relative to how much they change at all, on fresh points.

        Queries: `3 * points`
        """
        x = base_points(oracle, points, rng)
        step = rng.standard_normal(x.shape)
        hidden, any_step = self.complement(step), step
        lengths = legal_step(oracle, x, hidden), legal_step(oracle, x, any_step)
        fx = oracle(x)
        moved = [
            oracle(oracle.nearest(x + r[:, None] * s)) - fx for r, s in zip(lengths, (hidden, any_step), strict=True)
        ]
        return float(np.abs(moved[0]).max() / max(np.abs(moved[1]).max(), np.finfo(float).tiny))


def row_span(
    oracle: Oracle,
    *,
    rng: np.random.Generator,
    accuracy: float = 1e-4,
    x: Float[np.ndarray, "N n"] | None = None,
    confidence: float = 0.95,
    unseen: float = 0.01,
    noise: Noise | None = None,
    leave_out: float = 1e-3,
) -> RowSpan:
    r"""Find the span of the first layer's rows.

    If $M(x) = \sigma(A x)$, every gradient is $A^\top$ times something, so gradients at enough points span the rows
    of A. Each further gradient is asked only in the complement of what is known, at the candidate point that shows most
    that is new; then the whole complement is asked again with steps so long that rounding no longer counts, since
    nothing bends there.

    Args:
        oracle: Answers values or labels.
        rng: Draws points and directions.
        accuracy: Wanted sine of the largest principal angle to the true span. Refinement goes on until the prediction
            is below it or stops falling.
        x: Points to ask at, e.g. typical inputs; by default `oracle.sample`. With a box they are moved off its walls by
            as much as the short steps need.
        confidence: See `RowSpan.confidence`.
        unseen: See `RowSpan.unseen`.
        noise: A measurement to reuse.
        leave_out: Where the spectrum of the gradients decays without a gap, the smallest rank is chosen whose
            complement carries at most this share (root mean square) of the gradient; `RowSpan.left_out` says how much.

    Returns:
        What was found by the time it ended; `outcome` says how it ended.

    Raises:
        BadInput: An argument is out of range, or x has the wrong shape.
        SourceError: The model failed.

    Queries: about `k (n - k / 2) / m` for the first pass, `k (n + 1) / m` for each refinement, and
        `2 log(1 - confidence) / log(1 - unseen)` (598 by default) to confirm that nothing is missing.

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Algorithm 1 and Lemma 3.2, made adaptive.
    """
    for name, value, low, high in (
        ("accuracy", accuracy, 0, 1),
        ("confidence", confidence, 0, 1),
        ("unseen", unseen, 0, 1),
        ("leave_out", leave_out, 0, 1),
    ):
        if not low < value < high:
            raise BadInput(f"{name} must lie between {low} and {high}; got {value!r}")
    if x is not None and (x.ndim != 2 or x.shape[1] != oracle.n or not len(x)):
        raise BadInput(f"x must have shape (N, {oracle.n}) with N >= 1; got {x.shape}")
    if oracle.answers == "labels":
        from unveil.blackbox.label_span import label_span

        return label_span(oracle, rng=rng, accuracy=accuracy, x=x, confidence=confidence, unseen=unseen)
    search = Search(oracle, rng, x, confidence, unseen)
    try:
        search.run(accuracy, noise, leave_out)
    except BudgetExceeded:
        search.outcome = Outcome.budget_ended
    return _result(search)


def _result(search: Search) -> RowSpan:
    values, floor = search.values, search.floor
    if len(values) < search.known.rank:
        sizes = np.sort(search.known.sizes)[::-1]
        values = sizes / sizes[0]
        floor = search.slope_noise * math.sqrt(search.oracle.n) / sizes[0]
    seen = search.confirmed
    return RowSpan(
        basis=search.known.basis,
        singular_values=values,
        noise_floor=floor,
        accuracy=search.accuracy if search.known.rank else 0.0,
        confidence=search.confidence,
        unseen=1 - (1 - search.confidence) ** (1 / seen) if seen else 1.0,
        left_out=search.left_out,
        queries=search.oracle.ledger.asked - search.before,
        outcome=search.outcome,
        stages=search.stages,
    )


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.linalg.qr(rows.T)[0].T)
