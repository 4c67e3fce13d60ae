r"""Which patterns of silent neurons leave a direction to infinity: decided for many patterns at once.

Write P for the neurons with positive output, Z for the silent ones. The preimage is unbounded iff some u != 0 has
A_P u = 0 and A_Z u <= 0. By Stiemke's theorem (and full column rank) it is bounded iff some w with A^T w = 0 has
w_Z > 0. With A = Q R, Q orthonormal, both ask about

    f = min over w in null(Q^T) of |v|, v = (1 - w_Z)_+ ,

and the answer needs no tolerance: f = 0 if bounded; otherwise v >= 0 lies in the range of Q, |v|_2^2 = |v|_1 and so
|v|_2 >= 1. Nothing here depends on the conditioning of A, and no basis of null(A_P) is formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float
from scipy import linalg

from unveil.whitebox.null_space import Factored, null_space

_NEWTON = 60
_REFINEMENTS = 12
# Multipliers all above this are believed in single precision, and once projected again above half of it.
BELIEVED_MULTIPLIER = 1e-3
# A direction is accepted if the part of it outside the range of Q is this small: then no certificate of
# boundedness with |w| below 1e12 |w_Z| exists, i.e. none that float64 could tell from rounding.
_OUTSIDE = 1e-12
# Largest |w| / min w_Z believed of normal equations, in single precision and in double, and of Householder QR.
_SINGLE, _NORMAL, _HOUSEHOLDER = 1e4, 1e6, 1e13


@dataclass(frozen=True)
class Verdicts:
    """One row per pattern.

    Attributes:
        bounded: Whether no direction leads to infinity.
        multipliers: w in the layer's own units; w_Z >= 1 where bounded, zero elsewhere.
        directions: Unit u where unbounded, zero elsewhere.
        decided: False where every stage failed to produce a certificate; `bounded` is then the best guess.
    """

    bounded: Bool[np.ndarray, " N"]
    multipliers: Float[np.ndarray, "N m"]
    directions: Float[np.ndarray, "N n"]
    decided: Bool[np.ndarray, " N"]


def recession(layer: Factored, silent: Bool[np.ndarray, "N m"]) -> Verdicts:
    """Decide for every pattern of silent neurons whether a direction leads to infinity.

    Args:
        layer: The factored layer.
        silent: One pattern per row, True where the output is zero.

    Returns:
        The verdicts, each with multipliers or a direction that prove it.

    Source: arXiv:1806.09730, Theorems 4, 5 and 12, in the Gale dual; the stages are ours.
    """
    count, (m, n) = len(silent), layer.weights.shape
    if layer.null is not None:
        directions = np.tile(layer.null, (count, 1))
        return Verdicts(np.zeros(count, bool), np.zeros((count, m)), directions, np.ones(count, bool))
    if m == n:
        return _square(layer, silent)
    w = np.zeros((count, m))
    v = np.zeros((count, m))
    open_ = np.arange(count)
    open_ = _gradient_steps(layer, silent, open_, w, v)
    undecided = [int(i) for i in open_]
    undecided = [i for i in undecided if not _newton_steps(layer, silent[i], w, v, i)]
    undecided = [i for i in undecided if not _active_sets(layer, silent[i], w, v, i)]
    bounded = np.asarray(w.any(axis=1) | ~silent.any(axis=1))
    decided = np.ones(count, bool)
    decided[undecided] = False
    directions = np.zeros((count, n))
    away = v.any(axis=1)
    if away.any():
        u = -layer.solve(v[away])
        directions[away] = u / np.linalg.norm(u, axis=1, keepdims=True)
    w *= layer.row
    lowest = np.where(silent, w, np.inf).min(axis=1)
    w /= np.where(bounded & np.isfinite(lowest), lowest, 1.0)[:, None]
    return Verdicts(bounded, w, directions, decided)


def _square(layer: Factored, silent: np.ndarray) -> Verdicts:
    # As many neurons as inputs: u with A_P u = 0, A_Z u = -1 always exists. All active: a point, hence bounded.
    bounded = np.asarray(~silent.any(axis=1))
    u = -layer.solve(silent * layer.row)
    norms = np.linalg.norm(u, axis=1, keepdims=True)
    directions = np.divide(u, norms, out=np.zeros_like(u), where=norms > 0)
    return Verdicts(bounded, bounded[:, None] * np.zeros_like(layer.row), directions, np.ones(len(silent), bool))


def _gradient_steps(layer: Factored, silent: np.ndarray, open_: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Accelerated gradient descent on f^2 / 2 for all patterns at once: two matrix products a step, in single precision;
    # what is found is projected once more in double. The starting points of the undecided are left in v.
    basis, within = (layer.q, False) if layer.left is None else (layer.left, True)
    single = basis.astype(np.float32)

    def project(r: np.ndarray, basis: np.ndarray) -> np.ndarray:
        inside = (r @ basis) @ basis.T
        return np.asarray(inside if within else r - inside)

    quiet = silent[open_].astype(np.float32)
    # (a pattern without silent neurons is bounded by any w, even zero)
    others = np.where(silent[open_], np.float32(0), np.float32(np.inf))
    now = project(quiet, single)
    before, ahead, theta = now, now, 1.0
    # Found by timing: past so many steps the exact method of the next stage is quicker, if it is small.
    steps = int(np.clip(0.6 * (basis.shape[1] - 150), 16, 160)) if within else 160
    for _ in range(steps):
        found = np.flatnonzero((ahead + others).min(axis=1) > BELIEVED_MULTIPLIER)
        if len(found):
            sure = project(ahead[found].astype(np.float64), basis)
            lowest = np.where(silent[open_[found]], sure, np.inf).min(axis=1)
            sure, found, lowest = (each[lowest > BELIEVED_MULTIPLIER / 2] for each in (sure, found, lowest))
            w[open_[found]] = sure / np.where(np.isfinite(lowest), lowest, 1.0)[:, None]
            keep = np.ones(len(open_), bool)
            keep[found] = False
            open_, now, before, ahead, quiet, others = (
                each[keep] for each in (open_, now, before, ahead, quiet, others)
            )
            if not open_.size:
                break
        now = ahead + project(np.maximum(1 - ahead, 0) * quiet, single)
        theta, old = (1 + np.sqrt(1 + 4 * theta * theta)) / 2, theta
        ahead = now + np.float32((old - 1) / theta) * (now - before)
        before = now
    v[open_] = now
    return open_


def _newton_steps(layer: Factored, silent: np.ndarray, w: np.ndarray, v: np.ndarray, i: int) -> bool:
    # f^2 / 2 is piecewise quadratic: Newton's method with an exact line search ends after finitely many steps.
    start, v[i] = v[i].copy(), 0.0
    basis = layer.left
    if basis is None or layer.left_single is None:
        return False
    # In single precision, where what ends it is believed once it holds in double; else in double from there.
    single = _Descent.of(layer.left_single, layer.left_products_single, silent)
    t, left = single.descended(start.astype(np.float32) @ layer.left_single, 1e-4)
    rows, t = basis[silent], t.astype(float)
    if _ended(basis, rows, single, t, left, w, v, i):
        return True
    double = _Descent.of(basis, layer.left_products, silent)
    t, left = double.descended(t, 1e-9)
    return _ended(basis, rows, double, t, left, w, v, i)


def _ended(  # noqa: PLR0913 - the state of one search
    basis: np.ndarray,
    rows: np.ndarray,
    descent: _Descent,
    t: np.ndarray,
    left: np.ndarray | None,
    w: np.ndarray,
    v: np.ndarray,
    i: int,
) -> bool:
    """Whether Newton's method came to a direction to infinity, or to multipliers that prove that there is none."""
    if left is not None:
        return _accept_direction(descent, rows[descent.short], left.astype(float), v, i)
    here = rows @ t
    if here.min(initial=np.inf) * (_NORMAL if descent.rows.dtype == np.float64 else _SINGLE) > np.linalg.norm(t):
        w[i] = (basis @ t) / here.min()
        return True
    return False


@dataclass(eq=False)
class _Descent:
    """Newton's method for one pattern, in the precision of the basis.

    Attributes:
        rows: The basis's rows of silent neurons.
        among: Which neurons these are.
        products: Of all rows with each other; None where these are too many.
        short: Of the last step, which rows were short of 1.
        gram: `rows[short].T @ rows[short]`, where as many rows as columns are short.
        factor: Its Cholesky factor.
    """

    rows: np.ndarray
    among: np.ndarray
    products: np.ndarray | None
    short: np.ndarray
    gram: np.ndarray
    factor: np.ndarray | None = None

    @classmethod
    def of(cls, basis: np.ndarray, products: np.ndarray | None, silent: np.ndarray) -> _Descent:
        g = basis.shape[1]
        return cls(
            basis[silent], np.flatnonzero(silent), products, np.zeros(silent.sum(), bool), np.zeros((g, g), basis.dtype)
        )

    def descended(self, t: np.ndarray, negative: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Where it ends, and, if that is at a direction to infinity, the gaps of `short` rows, none below zero by more
        than the share `negative` of the largest."""
        rows = self.rows
        here = rows @ t
        for _ in range(_NEWTON):
            short = here < 1
            if not short.any():
                break
            part, gap = rows[short], 1 - here[short]
            step = self._step(short, part, gap)
            if step is None:
                break
            along = rows @ step
            left = gap - along[short]
            if left.max() > 0.5 and left.min() >= -negative * left.max():
                return t + step, np.maximum(left, 0) if len(left) >= len(t) else None
            length = _exact_line_search(1 - here, along)
            if length <= 0:
                break
            t, here = t + length * step, here + length * along
            if here.min() > 1e-3:
                break
        return t, None

    def _step(self, short: np.ndarray, part: np.ndarray, gap: np.ndarray) -> np.ndarray | None:
        if part.shape[0] < part.shape[1]:
            some = self.among[short]
            products = part @ part.T if self.products is None else self.products[some[:, None], some]
            _, step = _solved(products, gap)
            return None if step is None else np.asarray(step @ part)
        # From one step to the next few rows come and go.
        self.gram, self.short = _with_rows(self.gram, self.rows, self.short, short), short
        self.factor, step = _solved(self.gram, gap @ part)
        return step


def _with_rows(gram: np.ndarray, rows: np.ndarray, held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    # Products of the wanted rows, from those of the rows held.
    come, gone = rows[wanted & ~held], rows[held & ~wanted]
    if len(come) + len(gone) >= wanted.sum():
        return np.asarray(rows[wanted].T @ rows[wanted])
    return np.asarray(gram + come.T @ come - gone.T @ gone)


def _solved(gram: np.ndarray, right: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    # A ridge at rounding level: with it a nearly singular system gives a poor step, not a failure.
    gram = gram.copy()
    ridge = 1e-14 if gram.dtype == np.float64 else 1e-8
    gram.ravel()[:: len(gram) + 1] += ridge * max(1.0, float(np.trace(gram)))
    # Its transpose, as it is symmetric: LAPACK wants columns, and would be given a copy.
    solve = linalg.lapack.dposv if gram.dtype == np.float64 else linalg.lapack.sposv
    factor, solution, info = solve(gram.T, right, lower=1, overwrite_a=1)
    return (None, None) if info else (factor, np.asarray(solution))


def _accept_direction(descent: _Descent, part: np.ndarray, left: np.ndarray, v: np.ndarray, i: int) -> bool:
    # A few refinements remove what the normal equations lost; then the residual decides.
    if descent.factor is None:
        return False
    solve = linalg.lapack.dpotrs if descent.factor.dtype == np.float64 else linalg.lapack.spotrs
    for _ in range(_REFINEMENTS):
        left = left / np.linalg.norm(left)
        outside = left @ part
        if np.linalg.norm(outside) <= 2 * np.finfo(float).eps:
            break
        left = left - part @ solve(descent.factor, outside, lower=1)[0]
    if left.min() < -_OUTSIDE or np.linalg.norm(left @ part) > _OUTSIDE * np.linalg.norm(left):
        return False
    full = np.zeros(v.shape[1])
    full[descent.among[descent.short]] = np.maximum(left, 0)
    v[i] = full
    return True


def _exact_line_search(gap: np.ndarray, along: np.ndarray) -> float:
    # The root of the derivative of sum (gap - a along)_+^2 in a: piecewise linear, increasing.
    moving = along != 0
    gap, along = gap[moving], along[moving]
    breaks = gap / along
    ahead = breaks > 0
    # Active at a = 0+: those short already, or at the breakpoint and moving back.
    active = (gap > 0) | ((gap == 0) & (along < 0))
    slope0 = float(-(gap * along)[active].sum())
    curve0 = float((along * along)[active].sum())
    order = np.argsort(breaks[ahead], kind="stable")
    at, sign = breaks[ahead][order], np.where(active[ahead][order], -1.0, 1.0)
    slopes = np.concatenate([[slope0], slope0 + np.cumsum(-sign * (gap * along)[ahead][order])])
    curves = np.concatenate([[curve0], curve0 + np.cumsum(sign * (along * along)[ahead][order])])
    values = slopes[:-1] + at * curves[:-1]
    past = np.flatnonzero(values >= 0)
    k = int(past[0]) if past.size else len(at)
    return float(-slopes[k] / curves[k]) if curves[k] > 0 else 0.0


def _active_sets(layer: Factored, silent: np.ndarray, w: np.ndarray, v: np.ndarray, i: int) -> bool:
    # Lawson-Hanson by Householder QR in the smaller of the two spaces, then in the other: slower, but it can tell
    # margins of 1e-12, where normal equations cannot.
    n, g = layer.q.shape[1], layer.q.shape[0] - layer.q.shape[1]
    here = [_hull_of_duals, _nearest_residual]
    if max(n - int((~silent).sum()), 0) < g or layer.left is None:
        here.reverse()
    return any(stage(layer, silent, w, v, i) for stage in here)


def _hull_of_duals(layer: Factored, silent: np.ndarray, w: np.ndarray, v: np.ndarray, i: int) -> bool:
    # The point of the convex hull of the rows of the left null space's basis nearest to 0: nonzero iff bounded.
    if layer.left is None:
        return False
    rows = layer.left[silent]
    target = np.zeros(rows.shape[1] + 1)
    target[-1] = 1.0
    try:
        weights, _ = scipy.optimize.nnls(np.vstack([rows.T, np.ones(len(rows))]), target, maxiter=30 * sum(rows.shape))
    except RuntimeError:
        return False
    t = weights @ rows
    here = rows @ t
    if here.min() * _HOUSEHOLDER > np.linalg.norm(t) > 0:
        w[i] = (layer.left @ t) / here.min()
        return True
    support = weights > 0
    left = weights[support] - rows[support] @ np.linalg.lstsq(rows[support], weights[support])[0]
    return _try_direction(layer, silent, np.flatnonzero(silent)[support], left, v, i)


def _nearest_residual(layer: Factored, silent: np.ndarray, w: np.ndarray, v: np.ndarray, i: int) -> bool:
    # min |Qbar^T mu| over mu >= 1, Qbar = Q_Z O with O a basis of null(Q_P): orthonormal columns, so that the
    # residual is 0 (bounded) or at least 1.
    basis = null_space(layer.q[~silent])
    bar = layer.q[silent] @ basis
    # Rows in the row space of Q_P leave only rounding here, which must not be taken for a direction.
    bar[np.linalg.norm(bar, axis=1) <= 1e-13 + 1e-12 * np.linalg.norm(layer.q[silent], axis=1)] = 0.0
    if basis.shape[1] == 0:
        bar = bar[:, :0]
        nu = np.zeros(len(bar))
    else:
        try:
            nu, _ = scipy.optimize.nnls(bar.T, -bar.sum(axis=0), maxiter=30 * sum(bar.shape))
        except RuntimeError:
            return False
    mu = 1 + nu
    z = -(mu @ bar)
    if np.linalg.norm(z) < 0.5 and np.linalg.norm(mu) < _HOUSEHOLDER:
        # w_P makes up for what w_Z leaves in the row space of Q_P.
        active = layer.q[~silent]
        full = np.zeros(len(silent))
        full[silent] = mu
        full[~silent] = np.linalg.lstsq(active.T, -(mu @ layer.q[silent]))[0] if len(active) else 0.0
        w[i] = full
        return True
    left = -(bar @ z)
    keep = left > 1e-9 * np.abs(left).max()
    return _try_direction(layer, silent, np.flatnonzero(silent)[keep], left[keep], v, i, exact=layer.q @ (basis @ -z))


def _try_direction(  # noqa: PLR0913 - the state of one search
    layer: Factored,
    silent: np.ndarray,
    support: np.ndarray,
    left: np.ndarray,
    v: np.ndarray,
    i: int,
    exact: np.ndarray | None = None,
) -> bool:
    full = np.zeros(len(silent))
    full[support] = np.maximum(left, 0)
    size = np.linalg.norm(full)
    if size == 0:
        return False
    candidate = full if exact is None else exact
    inside = layer.q @ (layer.q.T @ candidate)
    wrong = np.linalg.norm(inside[~silent]) + np.linalg.norm(np.minimum(inside[silent], 0))
    if wrong > _OUTSIDE * np.linalg.norm(inside) or np.linalg.norm(inside) == 0:
        return False
    v[i] = candidate / np.linalg.norm(candidate)
    return True
