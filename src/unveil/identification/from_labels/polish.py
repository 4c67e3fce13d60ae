"""Least squares on boundary points: where labels change, two logits are equal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.model import LabelModel

KEPT = 30.0
"""Points further off than so many times the root mean square of the rest lie behind an edge that moved, and are left
out of a step."""


@dataclass(frozen=True)
class Polished:
    """A model fitted to boundary points.

    Attributes:
        model: The best one met.
        rms: Root mean square distance of the points from its boundaries, in coordinates.
        outside: Share of the points that were left out.
    """

    model: LabelModel
    rms: float
    outside: float


def polish(model: LabelModel, at: Crossings, *, steps: int = 20, floor: float = 1e-16) -> Polished:
    """Fit all numbers of a model to boundary points, by damped least squares on their distances from its boundaries.

    A start that is not nearly right gets worse, not better: hyperplanes come first.

    Args:
        model: Nearly right.
        at: Crossings between classes of the model.
        steps: Steps at most.
        floor: The fit ends when `rms` reaches it.

    Queries: `0`
    """
    best = Polished(model, *_judged(model, at))
    damping, waited = 1e-6, 0
    for _ in range(steps):
        if best.rms <= floor or waited > 2 or damping > 1e8:
            break
        residual, jacobian = linearised(best.model, at)
        inside = np.abs(residual) <= max(KEPT * best.rms, 1e-15)
        trial = _moved(best.model, _step(jacobian[inside], residual[inside], damping))
        rms, outside = _judged(trial, at)
        if rms < best.rms:
            waited = 0 if rms < 0.7 * best.rms else waited + 1
            best, damping = Polished(trial, rms, outside), max(damping / 30, 1e-14)
        else:
            damping = max(damping, 1e-10) * 30
            waited += damping > 1
    return _finished(best, at)


def _finished(best: Polished, at: Crossings) -> Polished:
    """One step without damping: where the points hardly tell, a small residual alone does not say that it is right."""
    residual, jacobian = linearised(best.model, at)
    scale = np.linalg.norm(jacobian, axis=0)
    if best.outside or len(at) < len(scale) or not best.rms < 1e-9:
        return best
    scale[scale <= 1e-10 * scale.max()] = np.inf
    step = np.linalg.lstsq(jacobian / scale, -residual, rcond=1e-12)[0] / scale
    trial = _moved(best.model, step)
    rms, outside = _judged(trial, at)
    return Polished(trial, rms, outside) if rms <= best.rms else best


def _judged(model: LabelModel, at: Crossings) -> tuple[float, float]:
    """Root mean square of all but the two worst in a hundred, and the share that is much further off."""
    off = np.sort(np.abs(model.distances(at)))
    if not np.isfinite(off).all():
        return np.inf, 1.0
    bulk = off[: max(1, int(0.98 * len(off)))]
    rms = float(np.sqrt(np.mean(bulk**2)))
    return rms, float((off > max(KEPT * rms, 1e-15)).mean())


def linearised(model: LabelModel, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N P"]]:
    """Distances and their derivatives by (inner | bias), (outer | offset) and the affine part where there is one."""
    one, two = model.rows(at.before), model.rows(at.after)
    weight = model.outer[one] - model.outer[two]
    sums = at.x @ model.inner.T + model.bias
    hidden, slope = model.phi.value(sums), model.phi.slope(sums)
    _, gradient = model.gaps(at)
    long = np.maximum(np.linalg.norm(gradient, axis=1), 1e-300)
    points, count = np.arange(len(at)), len(model.classes)
    extended = np.concatenate([at.x, np.ones((len(at), 1))], axis=1)
    parts = [((weight * slope)[:, :, None] * extended[:, None, :]).reshape(len(at), -1)]
    values = np.concatenate([hidden, np.ones((len(at), 1))], axis=1)
    if model.affine.any():
        values = np.concatenate([values, at.x], axis=1)
    last = np.zeros((len(at), count, values.shape[1]))
    last[points, one] += values
    last[points, two] -= values
    parts.append(last.reshape(len(at), -1))
    return model.distances(at), np.concatenate(parts, axis=1) / long[:, None]


def _step(jacobian: np.ndarray, residual: np.ndarray, damping: float) -> np.ndarray:
    """Solve for the step in units in which every column has length one; columns of what no point sees stay zero."""
    scale = np.linalg.norm(jacobian, axis=0)
    scale[scale <= 1e-10 * scale.max()] = np.inf
    scaled = jacobian / scale
    normal = scaled.T @ scaled
    diagonal = np.diag_indices_from(normal)
    for _ in range(12):
        matrix = normal.copy()
        matrix[diagonal] += max(damping, 1e-14)
        try:
            factor = linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
            break
        except linalg.LinAlgError:
            damping = 30 * max(damping, 1e-14)
    else:
        return np.zeros(len(scale))
    step = linalg.cho_solve(factor, -scaled.T @ residual, check_finite=False)
    # Normal equations lose half of the digits; asking again for what is left brings them back.
    for _ in range(2):
        step = step + linalg.cho_solve(factor, -scaled.T @ (scaled @ step + residual), check_finite=False)
    return np.asarray(step / scale)


def _moved(model: LabelModel, step: np.ndarray) -> LabelModel:
    k, d = model.inner.shape
    first, rest = step[: k * (d + 1)].reshape(k, d + 1), step[k * (d + 1) :].reshape(len(model.classes), -1)
    moved = replace(
        model,
        inner=model.inner + first[:, :d],
        bias=model.bias + first[:, d],
        outer=model.outer + rest[:, :k],
        offset=model.offset + rest[:, k],
    )
    return replace(moved, affine=model.affine + rest[:, k + 1 :]) if model.affine.any() else moved
