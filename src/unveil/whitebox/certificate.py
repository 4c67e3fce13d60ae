"""What proves a preimage's kind, and how a stranger checks it: own arithmetic, stated bounds, and exact rationals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

_EPS = float(np.finfo(np.float64).eps)
# Backward error allowed to a direction, relative to the length of each row: about 50,000 units in the last place.
DIRECTION_BOUND = 1e-11


class Ground:
    """What a check needs to know of a layer's weights, worked out once with numpy's plain QR, apart from the solver.

    With rows and columns scaled to unit length, `scaled = M R` and `|M^T M - 1| <= 1/4` (verified, not assumed), so
    that `|scaled u| >= |R u| sqrt(3)/2` for every u, however badly conditioned the weights are.
    """

    def __init__(self, weights: Float[np.ndarray, "m n"]) -> None:
        self.weights = weights
        # Divided by the largest entry first, as squares of what is below 1e-154 are zero.
        peaks = np.abs(weights).max(axis=1, initial=0.0)
        peaks = np.where(peaks > 0, peaks, 1.0)
        lengths = np.linalg.norm(weights / peaks[:, None], axis=1) * peaks
        self.row = np.divide(1.0, lengths, out=np.ones_like(lengths), where=lengths > 0)
        self.scaled = weights * self.row[:, None]
        widths = np.linalg.norm(self.scaled, axis=0)
        self.column = np.divide(1.0, widths, out=np.ones_like(widths), where=widths > 0)
        self.scaled = self.scaled * self.column

    @cached_property
    def whitening(self) -> Float[np.ndarray, "n n"] | None:
        """R^-1, or None if the columns are not independent beyond doubt."""
        m, n = self.scaled.shape
        if m < n or n == 0:
            return None
        r = np.linalg.qr(self.scaled, mode="r")
        if np.abs(np.diagonal(r)).min() == 0:
            return None
        inverse = np.linalg.inv(r)
        near = self.scaled @ inverse
        doubt = n * _EPS * np.linalg.norm(r) * np.linalg.norm(inverse)
        off = np.linalg.norm(near.T @ near - np.eye(n))
        return inverse if off + 4 * doubt <= 0.25 else None

    @cached_property
    def near(self) -> Float[np.ndarray, "m n"]:
        """M = scaled R^-1, nearly orthonormal columns."""
        assert self.whitening is not None
        return np.asarray(self.scaled @ self.whitening)

    @cached_property
    def inverse_size(self) -> float:
        return float(np.linalg.norm(self.whitening)) if self.whitening is not None else np.inf

    def bounded_residual(self, multipliers: Float[np.ndarray, "N m"], silent: Bool[np.ndarray, "N m"]) -> np.ndarray:
        """Per row: `|R^-T A^T w| / (min w_Z sqrt(3)/2)`, rounding included. Below 1 no direction leads to infinity.

        A direction u would have `A_P u = 0, A_Z u <= 0`, hence
        `min(w_Z) |A u| <= |w^T A u| = |(R^-T A^T w)^T R u| <= |R^-T A^T w| |R u|`, against `|A u| >= |R u| sqrt(3)/2`.
        """
        if self.whitening is None:
            return np.full(len(multipliers), np.inf)
        w = multipliers / self.row
        lowest = np.where(silent, w, np.inf).min(axis=1)
        rest = w @ self.scaled
        rounding = len(self.row) * _EPS * (np.abs(w) @ np.abs(self.scaled))
        size = np.linalg.norm(rest @ self.whitening, axis=1) + np.linalg.norm(rounding, axis=1) * self.inverse_size
        size = np.where(lowest > 0, size, np.inf)
        return np.asarray(np.where(silent.any(axis=1), size / np.maximum(lowest, 1e-300), 0.0) / np.sqrt(0.75))

    def direction_residual(
        self, directions: Float[np.ndarray, "N n"], active: Bool[np.ndarray, "N m"], silent: Bool[np.ndarray, "N m"]
    ) -> np.ndarray:
        """Per row: the largest violation of `A_P u = 0, A_Z u <= 0`, relative to row length times |u| (columns scaled).

        So much, relative to its length, would each row have to change for u to be a direction without any error.
        """
        u = directions / self.column
        size = np.linalg.norm(u, axis=1)
        value = u @ self.scaled.T
        wrong = np.where(active, np.abs(value), np.where(silent, np.maximum(value, 0), 0.0)).max(axis=1, initial=0.0)
        return np.asarray(np.divide(wrong, size, out=np.full_like(wrong, np.inf), where=size > 0))

    def independent(self, rows: Bool[np.ndarray, " m"]) -> bool:
        """Whether these rows alone determine the input: a Cholesky factorisation that succeeds in spite of a shift."""
        if self.whitening is None or rows.sum() < len(self.whitening):
            return False
        part = self.near[rows]
        gram = part.T @ part
        gram[np.diag_indices_from(gram)] -= 8 * sum(part.shape) * _EPS * (1 + self.inverse_size)
        try:
            np.linalg.cholesky(gram)
        except np.linalg.LinAlgError:
            return False
        return True


@dataclass(frozen=True)
class Certificate:
    """Why a preimage is of its kind.

    Attributes:
        kind: "point", "compact" or "infinite".
        ground: The layer's weights.
        active: (m,) neurons whose preactivation is fixed.
        silent: (m,) neurons whose preactivation may only fall (none if the activation is injective).
        tight: (m,) silent neurons with preactivation zero at the given input.
        multipliers: (m,) w with `A^T w = 0` and `w >= 1` on the silent neurons (a compact preimage) or on the tight
            ones (a point, although the active neurons alone do not determine the input); None if not needed.
        direction: (n,) a unit vector. Infinite: the whole ray stays in the preimage. Compact: a step stays in it.
    """

    kind: str
    ground: Ground
    active: Bool[np.ndarray, " m"]
    silent: Bool[np.ndarray, " m"]
    tight: Bool[np.ndarray, " m"]
    multipliers: Float[np.ndarray, " m"] | None = None
    direction: Float[np.ndarray, " n"] | None = None

    def residual(self) -> float:
        """How far from exact the proof is: below `bound()` it holds. 0 where the proof is a count or a rank."""
        found = 0.0
        if self.kind == "infinite":
            if self.direction is None:
                return np.inf
            return float(self.ground.direction_residual(self.direction[None], self.active[None], self.silent[None])[0])
        if self.multipliers is not None:
            found = float(self._ground().bounded_residual(self._restricted(), self._zeros()[None, self._rows()])[0])
        return found

    def bound(self) -> float:
        return DIRECTION_BOUND if self.kind == "infinite" else 1.0

    def check(self) -> bool:
        """Verify the kind from the weights and the pattern alone, in arithmetic of its own.

        Returns:
            Whether the proof holds. Of an infinite preimage: in rows changed by at most 1e-11 of their length.
        """
        if self.kind == "infinite":
            return self.residual() <= self.bound()
        if self.kind == "point":
            return self.ground.independent(self.active) if self.multipliers is None else self.residual() < self.bound()
        return self.multipliers is not None and self.residual() < self.bound() and self._moves()

    def _moves(self) -> bool:
        # More than a point: fewer active neurons than inputs and no tight ones, or a direction that shows it.
        if self.direction is None:
            return bool(self.active.sum() < self.ground.weights.shape[1] and not self.tight.any())
        wrong = self.ground.direction_residual(self.direction[None], self.active[None], self.tight[None])
        return bool(wrong[0] <= DIRECTION_BOUND)

    def _zeros(self) -> np.ndarray:
        return self.tight if self.kind == "point" else self.silent

    def _rows(self) -> np.ndarray:
        return np.asarray(self.active | self._zeros())

    def _ground(self) -> Ground:
        rows = self._rows()
        return self.ground if rows.all() else Ground(self.ground.weights[rows])

    def _restricted(self) -> np.ndarray:
        assert self.multipliers is not None
        return np.asarray(self.multipliers[self._rows()][None])

    def check_exactly(self) -> bool:
        """Verify the kind in rational arithmetic: the weights as given, no rounding anywhere.

        The multipliers or the direction are first moved to the nearest exact solution of the equations they meet
        approximately. Cost grows with the cube of the number of inputs times the length of the numbers: for small
        layers (some tens of inputs).

        Returns:
            Whether the proof holds exactly. False may also mean that no exact proof lies near the one found.
        """
        weights = [[Fraction(float(a)) for a in row] for row in self.ground.weights]
        active, silent, tight = np.flatnonzero(self.active), np.flatnonzero(self.silent), np.flatnonzero(self.tight)
        if self.kind == "infinite":
            return self._exact_direction(weights, active, silent)
        if self.kind == "point" and self.multipliers is None:
            return len(_echelon([weights[i] for i in active])[1]) == len(weights[0])
        zeros = tight if self.kind == "point" else silent
        if not _exact_multipliers(weights, active, zeros, self.multipliers):
            return False
        if self.kind == "point":
            return True
        if len(tight) == 0:
            return len(_echelon([weights[i] for i in active])[1]) < len(weights[0])
        return self._exact_direction(weights, active, tight)

    def _exact_direction(self, weights: list[list[Fraction]], active: np.ndarray, silent: np.ndarray) -> bool:
        if self.direction is None:
            return False
        u = self.direction
        flat = np.abs(self.ground.scaled @ (u / self.ground.column)) <= 1e-9 * np.linalg.norm(u / self.ground.column)
        equal = [weights[i] for i in sorted({*active, *(i for i in silent if flat[i])})]
        reduced, pivots = _echelon(equal)
        exact = [Fraction(float(value)).limit_denominator(10**9) for value in u]
        for row, p in zip(reduced, pivots, strict=True):
            exact[p] = -sum((row[j] * exact[j] for j in range(len(exact)) if j not in pivots), Fraction(0))
        values = [sum((a * b for a, b in zip(row, exact, strict=True)), Fraction(0)) for row in weights]
        return any(exact) and all(values[i] == 0 for i in active) and all(values[i] <= 0 for i in silent)


def _exact_multipliers(
    weights: list[list[Fraction]], active: np.ndarray, zeros: np.ndarray, multipliers: np.ndarray | None
) -> bool:
    rows = [*active, *zeros]
    n = len(weights[0])
    if multipliers is None:
        return False
    # Columns are neurons: the pivots are n independent neurons, solved for exactly; the others keep their value.
    transposed = [[weights[i][k] for i in rows] for k in range(n)]
    reduced, pivots = _echelon(transposed)
    if len(pivots) < n:
        return False
    exact = [Fraction(float(multipliers[i])) for i in rows]
    free = [j for j in range(len(rows)) if j not in set(pivots)]
    for row, p in zip(reduced, pivots, strict=True):
        exact[p] = -sum((row[j] * exact[j] for j in free), Fraction(0))
    return all(exact[j] > 0 for j in range(len(active), len(rows)))


def _echelon(rows: Sequence[Sequence[Fraction]]) -> tuple[list[list[Fraction]], list[int]]:
    """Reduced row echelon form without its zero rows, and the pivot columns."""
    work = [list(row) for row in rows]
    pivots: list[int] = []
    for column in range(len(work[0]) if work else 0):
        here = next((i for i in range(len(pivots), len(work)) if work[i][column] != 0), None)
        if here is None:
            continue
        top = len(pivots)
        work[top], work[here] = work[here], work[top]
        lead = work[top][column]
        work[top] = [a / lead for a in work[top]]
        for i in range(len(work)):
            if i != top and work[i][column] != 0:
                factor = work[i][column]
                work[i] = [a - factor * b for a, b in zip(work[i], work[top], strict=True)]
        pivots.append(column)
    return work[: len(pivots)], pivots
