"""Where to evaluate: space-filling points to begin with, then those that tell most about the gradients."""

from __future__ import annotations

import math
import warnings

import numpy as np
from jaxtyping import Float

from unveil.blackbox.gaussian_process import GaussianProcess
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.simulator import Simulator
from unveil.blackbox.surrogate import Along, Logarithmic, Surrogate

# Points among which the next evaluations are chosen, and points at which their effect is judged.
CANDIDATES = 256
JUDGED_AT = 128


def space_filling(oracle: Oracle, count: int, rng: np.random.Generator) -> Float[np.ndarray, "N n"]:
    """Legal points spread evenly over the box, or normally without one: scrambled Sobol points.

    Args:
        oracle: Its box and its inputs.
        count: How many.
        rng: Scrambles.
    """
    from scipy.special import ndtri
    from scipy.stats import qmc

    k = len(oracle.inputs.all) if isinstance(oracle, Simulator) else oracle.n
    with warnings.catch_warnings():
        # A number of points that is no power of two is as good here.
        warnings.simplefilter("ignore", UserWarning)
        u = qmc.Sobol(k, rng=rng).random(count) if k <= qmc.Sobol.MAXDIM else rng.uniform(size=(count, k))
    if isinstance(oracle, Simulator):
        return oracle.inputs.from_unit(u)
    if oracle.within is None:
        return oracle.nearest(ndtri(np.clip(u, 1e-12, 1 - 1e-12)))
    return oracle.nearest(oracle.low + u * (oracle.high - oracle.low))


def most_telling(
    surrogate: Surrogate,
    candidates: Float[np.ndarray, "C n"],
    judged: Float[np.ndarray, "M n"],
    count: int,
) -> np.ndarray:
    """Which candidates would take most doubt from the gradients at the judged points, chosen one after the other.

    Args:
        surrogate: What is known; of a quadratic the first candidates are taken.
        candidates: In the surrogate's coordinates.
        judged: Likewise.
        count: How many to choose.

    Returns:
        Their places among the candidates.
    """
    size = np.ones(len(judged))
    if isinstance(surrogate, Along):
        candidates, judged, surrogate = candidates @ surrogate.basis.T, judged @ surrogate.basis.T, surrogate.inner
    if isinstance(surrogate, Logarithmic):
        size = np.exp(surrogate.inner.predict(judged)[0])
        surrogate = surrogate.inner
    if not isinstance(surrogate, GaussianProcess):
        return np.arange(min(count, len(candidates)))
    from scipy.linalg import solve_triangular

    rows = surrogate.estimator.X_train_
    a, b = candidates @ surrogate.transform, judged @ surrogate.transform
    inner = solve_triangular(surrogate.estimator.L_, surrogate.kernel(rows, a)[0], lower=True)
    cross = surrogate.kernel(a, a)[0] - inner.T @ inner
    # Covariance of the value at a candidate with each transformed derivative at a judged point, rows taken in.
    slope = surrogate.kernel(b, a)[1]
    given = surrogate.kernel(b, rows)[1]
    part = solve_triangular(surrogate.estimator.L_, inner, lower=True, trans="T")
    gains = [-(slope * (b[:, [q]] - a[:, q])) + (given * (b[:, [q]] - rows[:, q])) @ part for q in range(a.shape[1])]
    # The transform's columns are orthogonal: their lengths turn transformed derivatives into parts of the gradient.
    lengths = np.linalg.norm(surrogate.transform, axis=0)
    effect = np.vstack([size[:, None] * lengths[q] * gain for q, gain in enumerate(gains)])
    noise = float(surrogate.estimator.kernel_.k2.noise_level)
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        variance = np.maximum(np.diag(cross), 0.0) + noise + 1e-12
        score = np.sum(effect**2, axis=0) / variance
        score[chosen] = -1.0
        best = int(score.argmax())
        chosen.append(best)
        effect = effect - np.outer(effect[:, best], cross[best]) / variance[best]
        cross = cross - np.outer(cross[:, best], cross[best]) / variance[best]
    return np.array(chosen)


def batch_size(budget: int) -> int:
    """Evaluations asked at once after the start, so that a surrogate is fitted about eight times."""
    return max(1, math.ceil(budget / 16))
