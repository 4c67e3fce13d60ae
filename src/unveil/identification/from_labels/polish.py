"""Least squares on boundary points: where labels change, two logits are equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, lsmr

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.model import Boundaries, LabelModel

PRIOR_HYPERPLANE_ERROR = 1e-6  # how exactly hyperplanes are known before the fit, relative
LAST_STEP_DISTANCE = 1e-3  # points no further off than this take part in the last steps
# Singular values less than this share of the largest belong to what labels leave open: lengths of rows and a scale.
OPEN_SINGULAR_SHARE = 1e-10
# Points further off than so many times the root mean square of the rest lie behind an edge that moved, and are left out
# of a step.
KEPT_RMS_FACTOR = 30.0
# Steps in which very many numbers are fitted, conjugate gradients in each, and what they may leave of it.
STEPS_OF_MANY, CONJUGATE_GRADIENTS, CONJUGATE_TOLERANCE = 4, 150, 1e-5
M = TypeVar("M", bound=Boundaries)


@dataclass(frozen=True)
class Polished(Generic[M]):
    """A model fitted to boundary points."""

    model: M  # the best one met
    rms: float  # root mean square distance of the points from its boundaries, in coordinates
    outside: float  # share of the points that were left out


@dataclass(frozen=True)
class Completed:
    """A model fitted to boundary points."""

    model: LabelModel  # the model
    rms: float  # root mean square distance of the points it was fitted to from its boundaries
    whole: bool  # whether nothing says that a neuron is missing
    doubts: tuple[str, ...]  # what does
    figures: dict[str, Any]  # null-vector gap, flips, points and the like

    def beats(self, other: Completed | None) -> bool:
        """Whether this is to be kept instead of an earlier one. Of two that lack nothing the later one knows more,
        whichever lies nearer to its own points."""
        return other is None or self.whole or (not other.whole and self.rms < other.rms)


@np.errstate(over="ignore", invalid="ignore")
def polish(model: M, at: Crossings, *, steps: int = 20, floor: float = 1e-16) -> Polished[M]:
    """Fit all numbers of a model to boundary points, by damped least squares on their distances from its boundaries.

    A start that is not nearly right gets worse, not better: hyperplanes come first. `model`: nearly right. `at`:
    crossings between classes of the model. `steps`: steps at most. `floor`: the fit ends when `rms` reaches it.
    """
    best = Polished(model, *_judged(model, at))
    damping, waited = 1e-6, 0
    for _ in range(steps):
        if best.rms <= floor or waited > 2 or damping > 1e8:
            break
        residual, jacobian = best.model.linearised(at)
        inside = np.abs(residual) <= max(KEPT_RMS_FACTOR * best.rms, 1e-15)
        trial = best.model.moved(_step(jacobian[inside], residual[inside], damping))
        rms, outside = _judged(trial, at)
        if rms < best.rms:
            waited = 0 if rms < 0.7 * best.rms else waited + 1
            best, damping = Polished(trial, rms, outside), max(damping / 30, 1e-14)
        else:
            damping = max(damping, 1e-10) * 30
            waited += damping > 1
    return _finished(best, at)


def _finished(best: Polished[M], at: Crossings) -> Polished[M]:
    """Steps without damping on all points near by: what only one of them tells must not count as that point's fault."""
    for _ in range(3):
        residual, jacobian = best.model.linearised(at)
        near = np.abs(residual) < LAST_STEP_DISTANCE
        scale = np.linalg.norm(jacobian[near], axis=0)
        if near.sum() < len(scale) or not best.rms < 1e-9:
            return best
        scale[scale <= 1e-10 * scale.max()] = np.inf
        step = np.linalg.lstsq(jacobian[near] / scale, -residual[near], rcond=OPEN_SINGULAR_SHARE)[0] / scale
        trial = Polished(best.model.moved(step), best.rms, best.outside)
        before, after = np.linalg.norm(residual[near]), np.linalg.norm(trial.model.distances(at)[near])
        if not after <= before:
            return best
        best = Polished(trial.model, *_judged(trial.model, at))
        if after > 0.5 * before:
            break
    return best


def polish_many(model: LabelModel, at: Crossings, rng: np.random.Generator) -> tuple[Polished[LabelModel], float]:
    """The same of very many numbers, by conjugate gradients, and the standard error of the least certain weight vector,
    relative: how much noise as large as what is left moves it.

    `model`: right to a thousandth or better. `at`: crossings between its classes, more than it has numbers.
    """
    best = Polished(model, *_judged(model, at))
    for _ in range(STEPS_OF_MANY):
        near = at[np.flatnonzero(np.abs(best.model.distances(at)) <= KEPT_RMS_FACTOR * best.rms)]
        trial = best.model.moved(_step_of_many(best.model, near, best.model.distances(near)))
        before, (rms, outside) = best.rms, _judged(trial, at)
        if rms < before:
            best = Polished(trial, rms, outside)
        # Errors are squared from one step to the next: after one that gains less than half there is only noise.
        if not rms < 0.5 * before:
            break
    near = at[np.flatnonzero(np.abs(best.model.distances(at)) <= KEPT_RMS_FACTOR * best.rms)]
    if not len(near):
        return best, np.inf
    noise = best.rms / np.sqrt(max(1 - model.parameters / len(near), 1 / len(near)))
    beside = best.model.moved(_step_of_many(best.model, near, noise * rng.standard_normal(len(near))))
    one, two = (each.inner / np.linalg.norm(each.inner, axis=1, keepdims=True) for each in (best.model, beside))
    return best, float(np.linalg.norm(one - two, axis=1).max(initial=0.0))


def _step_of_many(model: LabelModel, at: Crossings, off: Float[np.ndarray, " N"]) -> Float[np.ndarray, " P"]:
    """The step that puts boundaries `off` nearer, by least squares.

    Derivatives by weight vectors are products of what each neuron does at a point, and of the point: without what its
    neurons have in common the equations are nearly as well conditioned as the points themselves.
    """
    steep, count = np.linalg.norm(model.gaps(at)[1], axis=1)[:, None], np.sqrt(len(at))
    weight, values, apart, extended = model.factors(at)
    effects, values, neurons = weight / steep, values / steep, weight.shape[1]
    share = np.maximum(np.linalg.norm(extended, axis=0) / count, 1e-300)
    whitened = _whitening(effects)
    # Each class has points of its own, few or many, where not all neurons are active: so has each its own units.
    own = np.stack([_whitening(values[np.flatnonzero(column)], len(at)) for column in apart.T])
    # Single digits are enough for a step, and take half the time.
    effects, extended, values, apart, own = (
        each.astype(np.float32) for each in (effects @ whitened.T, extended / share, values, apart, own)
    )
    first, (classes, width) = neurons * len(share), own.shape[:2]

    def forth(v: np.ndarray) -> np.ndarray:
        inner, outer = v[:first].reshape(neurons, len(share)), v[first:].reshape(classes, width)
        outer = np.einsum("cji,cj->ci", own, outer.astype(np.float32))
        by_rows = np.sum(effects * (extended @ inner.astype(np.float32).T), axis=1)
        return np.asarray((by_rows + np.sum(apart * (values @ outer.T), axis=1)) / count, dtype=np.float64)

    def back(u: np.ndarray) -> np.ndarray:
        u = (u[:, None] / count).astype(np.float32)
        inner, outer = (effects * u).T @ extended, np.einsum("cji,ci->cj", own, (apart * u).T @ values)
        return np.concatenate([inner.ravel(), outer.ravel()], dtype=np.float64)

    system = LinearOperator((len(at), first + classes * width), matvec=forth, rmatvec=back, dtype=np.float64)
    found = lsmr(system, -off / count, atol=CONJUGATE_TOLERANCE, btol=CONJUGATE_TOLERANCE, maxiter=CONJUGATE_GRADIENTS)[
        0
    ]
    inner = whitened.T @ found[:first].reshape(neurons, len(share)) / share
    outer = np.einsum("cji,cj->ci", own, found[first:].reshape(classes, width))
    return np.concatenate([inner.ravel(), outer.ravel()])


def _whitening(columns: Float[np.ndarray, "N k"], count: int | None = None) -> Float[np.ndarray, "k k"]:
    """The matrix W with which `columns @ W.T` are uncorrelated, of mean square 1 over `count` rows, or over all."""
    squares = columns.T @ columns / (count or len(columns))
    # In single digits no more can be told apart.
    least = 1e-7 * float(np.trace(squares)) or 1.0
    triangle = np.linalg.cholesky(squares + least * np.eye(len(squares)))
    return np.asarray(linalg.solve_triangular(triangle, np.eye(len(squares)), lower=True))


def _judged(model: Boundaries, at: Crossings) -> tuple[float, float]:
    """Root mean square of all but the two worst in a hundred, and the share that is much further off."""
    off = np.sort(np.abs(model.distances(at)))
    if not len(off) or not np.isfinite(off).all():  # where no point says anything nothing fits
        return np.inf, 1.0
    bulk = off[: max(1, int(0.98 * len(off)))]
    rms = float(np.sqrt(np.mean(bulk**2)))
    return rms, float((off > max(KEPT_RMS_FACTOR * rms, 1e-15)).mean())


@np.errstate(over="ignore")
def uncertainty(model: LabelModel, at: Crossings, rms: float, other: Crossings, coarse: float) -> float:
    """Standard error of the least certain number: of weight vectors relative to their length, of the last layer to its
    largest effect.

    What labels cannot tell is held fixed: the first class's logit, every rectifier's length and one common scale.
    `model`: fitted. `at`: the points it was fitted to. `rms`: how far they lie off. `other`: further points, known less
    exactly. `coarse`: how exactly these are known.
    """
    k, d = model.inner.shape
    jacobian = np.concatenate([model.linearised(at)[1], rms / coarse * model.linearised(other)[1]])
    rows = np.linalg.norm(model.inner, axis=1)
    effect = np.abs(model.outer - model.outer[0])[1:] * rows
    width = (jacobian.shape[1] - k * (d + 1)) // len(model.classes)
    unit = np.ones((len(model.classes), width))
    unit[:, :k] = effect.max(initial=1e-300) / np.maximum(rows, 1e-300)
    # Offsets and affine parts count in the same unit as the largest effect does at a typical input.
    unit[:, k:] = effect.max(initial=1e-300)
    units = np.concatenate([np.repeat(rows, d + 1), unit.ravel()])
    free = np.ones(len(units), dtype=bool)
    if model.phi.piecewise_linear:
        free[np.arange(k) * (d + 1) + np.abs(model.inner).argmax(axis=1)] = False
    free[k * (d + 1) : k * (d + 1) + width] = False
    if effect.size:
        c, i = np.unravel_index(effect.argmax(), effect.shape)
        free[k * (d + 1) + (int(c) + 1) * width + int(i)] = False
    # Hyperplanes were measured before the fit.
    known = np.zeros((k * (d + 1), len(units)))
    known[np.diag_indices(k * (d + 1))] = rms / PRIOR_HYPERPLANE_ERROR
    scaled = np.concatenate([jacobian * units, known])[:, free]
    if len(scaled) < scaled.shape[1]:
        return np.inf
    triangle = np.linalg.qr(scaled, mode="r")
    if not np.abs(np.diag(triangle)).min() > 1e-16 * np.abs(triangle).max():
        return np.inf
    inverse = linalg.solve_triangular(triangle, np.eye(len(triangle)))
    return float(rms * np.linalg.norm(inverse, axis=1).max(initial=0.0))


def _step(
    jacobian: Float[np.ndarray, "N P"], residual: Float[np.ndarray, " N"], damping: float
) -> Float[np.ndarray, " P"]:
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
