"""Basket: points with known gradients, at which the whole complement of a span is asked again with long steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.blackbox.span_frames import Asker, DenseFrame, Known, SparseFrame, legal_step

FAR = 100.0  # longest step, in multiples of the typical coordinate of a point
STILL_BENT = 1e-4  # error beyond which steps leave the linear region here and there
SLOWEST = 0.06  # what is left of the error by a pass while they do


@dataclass(frozen=True)
class Sharper:
    """A span after one more pass.

    Attributes:
        basis: (r, n), orthonormal rows, each where it was before.
        before: Root sum of squares of the rows' error per coordinate before the pass, as one can tell afterwards.
        error: The same after the pass, predicted.
        accuracy: Predicted sine of the largest principal angle.
    """

    basis: Float[np.ndarray, "r n"]
    before: float
    error: float
    accuracy: float


@dataclass(frozen=True)
class Basket:
    """Points with their answers and their gradients in coordinates of a basis.

    Attributes:
        x: (N, n).
        fx: (N, m).
        coordinates: (N * m, r), of each gradient along the basis.
        coarse: Noise of one coordinate.
    """

    x: Float[np.ndarray, "N n"]
    fx: Float[np.ndarray, "N m"]
    coordinates: Float[np.ndarray, "Nm r"]
    coarse: float

    def sharpen(self, ask: Asker, known: Known, error: float, *, longest: float, rng: np.random.Generator) -> Sharper:
        """One pass: slopes along the complement at all points, and the correction of the basis that explains them.

        If the true rows are Q + E, the slope of a gradient with coordinates c along a complement direction d is c E d.

        Args:
            ask: The oracle.
            known: The span so far.
            error: Root sum of squares of its rows' error per coordinate.
            longest: The longest step that does not move far inside the true span.
            rng: Draws signs.

        Queries: `N (n - r)`, or `N n` in a box
        """
        n, r, basis = known.n, known.rank, known.basis
        longest = min(longest, FAR * (float(np.sqrt(np.mean(self.x**2))) or 1.0))
        frame: DenseFrame | SparseFrame = SparseFrame(known) if ask.oracle.within is None else DenseFrame(known, rng)
        slopes, usual = self._slopes(ask, basis, frame, longest, rng)
        inverse = np.linalg.pinv(self.coordinates)
        correction = frame.spread(inverse @ slopes)
        correction -= (correction @ basis.T) @ basis
        # What was corrected is the error there was: where the prediction had been too good, believe this instead.
        before = max(error, float(np.linalg.norm(correction)) / math.sqrt(n))
        size = float(np.sqrt(np.mean(np.sum(self.x**2, axis=1))))
        noise = math.sqrt(2) * (1 + usual / size) / usual
        left = min(1.0, self.coarse * float(np.linalg.norm(inverse, 2)) * math.sqrt(r))
        if before * math.sqrt(n) > STILL_BENT:
            left = max(left, SLOWEST)
        worst = float(np.linalg.norm(inverse, 2)) * noise * (math.sqrt(n - r) + math.sqrt(r))
        return Sharper(
            # The polar factor, unlike QR, keeps the rows in place, so that the coordinates of the gradients stay true.
            basis=np.asarray(linalg.polar(basis + correction)[0]),
            before=before,
            error=float(np.linalg.norm(inverse)) * noise + left * before,
            accuracy=min(1.0, worst + left * before * math.sqrt(n)),
        )

    def _slopes(
        self, ask: Asker, basis: np.ndarray, frame: DenseFrame | SparseFrame, longest: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """Slopes of all gradients along a frame of the complement, (N * m, count), and the usual length of a step."""
        oracle, m = ask.oracle, self.fx.shape[1]
        slopes = np.empty((len(self.coordinates), frame.count))
        lengths = []
        for i, (point, answer) in enumerate(zip(self.x, self.fx, strict=True)):
            own = slice(i * m, (i + 1) * m)
            for start in range(0, frame.count, ask.block):
                which = np.arange(start, min(start + ask.block, frame.count))
                if isinstance(frame, DenseFrame):
                    vectors = frame.vectors(which)
                    amount = np.clip(legal_step(oracle, point[None], vectors), -longest, longest)
                    asked = oracle.nearest(point + amount[:, None] * vectors)
                else:
                    # With one sign for all, the rounding of the answer at the point would be a common error.
                    sign = rng.choice([-1.0, 1.0], size=len(which))
                    asked = oracle.nearest(frame.points(point, which, longest * sign))
                    amount = frame.taken(asked, point, which)
                # Rounded to what the model takes, the step is not quite in the complement: take off what that explains.
                seen = ((asked - point) @ basis.T) @ self.coordinates[own].T
                slopes[own, which] = ((ask(asked) - answer - seen) / amount[:, None]).T
                lengths.append(float(np.median(np.abs(amount))))
        return slopes, float(np.mean(lengths))
