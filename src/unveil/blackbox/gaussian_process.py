"""A surrogate fitted to few answers: scikit-learn's Gaussian process, or its shrunken quadratic for very few rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from jaxtyping import Float

from unveil.blackbox.surrogate import Logarithmic, Surrogate, quadratic, quiet
from unveil.outcome import BadInput

# From so many rows per input on, length scales can be learnt; with fewer a quadratic is fitted.
ROWS_PER_INPUT = 2
# Length scales are learnt from at most so many rows (the cost of one step grows as their cube) ...
LEARNING_ROWS = 400
# ... the form is chosen on fewer, and the answers of so many are taken in.
CHOOSING_ROWS = 100
MOST_ROWS = 2000
# Beyond so many inputs one length scale is learnt for all of them, in coordinates that follow the gradients.
SEPARATE_SCALES = 12
# Length scales, in units of half an input's range, at which learning starts; answers may wave fast or hardly bend.
STARTS = (0.7, 3.0)
# The rougher kernel is taken where it makes the answers likelier by so much (in logarithms). Where it is about as
# likely, the first direction is further off with it (in seven trials of seven, on four simulators).
ROUGHER = 15.0
# Steps of one learning, and of one that is only to be compared with others.
LEARNING_STEPS, TRIAL_STEPS = 50, 15
# Rounds of stretching the inputs along the gradients, where they have one length scale.
STRETCHING_ROUNDS = 4
# Cosines of which a random function is made.
FEATURES = 256


@final
@dataclass(frozen=True)
class GaussianProcess(Surrogate):
    """A Gaussian process with a stationary kernel in linearly transformed inputs.

    Attributes:
        name: What it is, in words.
        noise: See `Surrogate`.
        transform: (n, q); the kernel depends on the distance of `x @ transform`.
        matern: Whether the kernel is Matérn's with nu = 5/2 (twice differentiable functions), or the Gaussian.
        estimator: scikit-learn's `GaussianProcessRegressor`, fitted to `x @ transform`.
        likelihood: Logarithm of the marginal likelihood of the standardised answers.
    """

    name: str
    noise: float
    transform: Float[np.ndarray, "n q"]
    matern: bool
    estimator: Any
    likelihood: float

    def predict(self, x: Float[np.ndarray, "N n"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        with quiet():
            mean, deviation = self.estimator.predict(x @ self.transform, return_std=True)
        return np.asarray(mean), np.sqrt(np.maximum(deviation**2 - self.noise**2, 0.0))

    @property
    def _size(self) -> float:
        return float(self.estimator._y_train_std)

    @property
    def variance(self) -> float:
        """Of the process, in units of the answers' own variance."""
        return float(self.estimator.kernel_.k1.k1.constant_value)

    def kernel(self, a: Float[np.ndarray, "A n"], b: Float[np.ndarray, "B n"]) -> tuple[np.ndarray, np.ndarray]:
        """The kernel between transformed inputs, and its slope h: the gradient in a is `-h (a - b)`."""
        square = np.maximum(np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T, 0.0)
        if not self.matern:
            k = self.variance * np.exp(-square / 2)
            return k, k
        r = np.sqrt(5 * square)
        decay = self.variance * np.exp(-r)
        return decay * (1 + r + r**2 / 3), decay * (1 + r) * (5 / 3)

    def gradient(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        z = x @ self.transform
        slope = self.kernel(z, self.estimator.X_train_)[1] * self.estimator.alpha_.ravel()
        inner = slope @ self.estimator.X_train_ - slope.sum(axis=1, keepdims=True) * z
        return np.asarray(self._size * inner @ self.transform.T)

    def draw(
        self, x: Float[np.ndarray, "N n"], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N n"]]]:
        """A function of the prior, made of random cosines, is moved onto the answers (Matheron's rule).

        Source: Rahimi, Recht, NIPS 2007 (cosines); Wilson et al., ICML 2020, equation 13 (moving).
        """
        from scipy.linalg import cho_solve

        rows = self.estimator.X_train_
        z = x @ self.transform
        kernel, slope = self.kernel(z, rows)
        mean = float(self.estimator._y_train_mean)
        noise = math.sqrt(self.estimator.kernel_.k2.noise_level)
        size = math.sqrt(2 * self.variance / FEATURES)
        for _ in range(count):
            # Cosines are drawn anew for each function, so that no draw inherits the gaps of one set.
            frequency = rng.standard_normal((FEATURES, z.shape[1]))
            if self.matern:
                frequency /= np.sqrt(rng.chisquare(5, size=(FEATURES, 1)) / 5)
            phase = rng.uniform(0, 2 * np.pi, FEATURES)
            weight = size * rng.standard_normal(FEATURES)
            before = np.cos(rows @ frequency.T + phase) @ weight
            missed = self.estimator.y_train_.ravel() - before - noise * rng.standard_normal(len(rows))
            pull = cho_solve((self.estimator.L_, True), missed)
            angle = z @ frequency.T + phase
            values = mean + self._size * (np.cos(angle) @ weight + kernel @ pull)
            inner = (slope * pull) @ rows - (slope @ pull)[:, None] * z - (np.sin(angle) * weight) @ frequency
            yield values, self._size * inner @ self.transform.T

    def left_out(self) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """For each row, what the others miss of it, and the deviation they foretell of that; the form is kept.

        Source: Rasmussen, Williams, Gaussian Processes for Machine Learning, equations 5.10 to 5.12.
        """
        from scipy.linalg import cho_solve

        inverse = np.diag(cho_solve((self.estimator.L_, True), np.eye(len(self.estimator.L_))))
        missed = self.estimator.alpha_.ravel() / inverse
        return self._size * missed, self._size / np.sqrt(inverse)

    def refitted(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, " N"]) -> GaussianProcess:
        return _conditioned(x, y, self.transform, self.estimator.kernel_, self.matern, self.name)


def fit_surrogate(x: Float[np.ndarray, "N n"], y: Float[np.ndarray, " N"], *, careful: bool = True) -> Surrogate:
    """Fit the surrogate that the rows allow.

    Args:
        x: Inputs, one row each, in units of about half their range.
        y: Finite answers, not all the same.
        careful: Whether kernels, starts and the logarithm are compared; else one of each is learnt in few steps.

    Raises:
        BadInput: scikit-learn is not installed, or there are fewer than three rows.
    """
    if len(x) < 3:
        raise BadInput(f"a surrogate needs three rows or more; got {len(x)}")
    try:
        import sklearn.gaussian_process  # noqa: F401
    except ImportError as error:
        raise BadInput(
            'an active subspace from answers alone needs scikit-learn: pip install "unveil[sklearn]"; '
            "with exact gradients (gradient=) it does not"
        ) from error
    n = x.shape[1]
    if len(x) < max(ROWS_PER_INPUT * n, 8) and n <= SEPARATE_SCALES:
        return quadratic(x, y)
    return _process(x, y) if careful else _quick(x, y)


@dataclass(frozen=True)
class _Form:
    """What is chosen before more is learnt: whether of the logarithm, which kernel, where length scales start."""

    logarithm: bool = False
    matern: bool = False
    start: float = STARTS[0]


def _chosen(x: np.ndarray, y: np.ndarray, learn: Callable[..., GaussianProcess]) -> tuple[_Form, GaussianProcess]:
    """The form that makes the answers likeliest, one thing after the other, and what was learnt with it."""
    spread = math.sqrt(x.shape[1]) if x.shape[1] > SEPARATE_SCALES else 1.0

    def tried(form: _Form) -> tuple[float, GaussianProcess]:
        z = np.log(y) if form.logarithm else y
        found = learn(x, z, np.eye(x.shape[1]) / (form.start * spread), form.matern, TRIAL_STEPS)
        # Likelihoods of the answers themselves: of the standardised ones, times the slopes of what was done to them.
        return found.likelihood - len(z) * math.log(z.std()) - (float(z.sum()) if form.logarithm else 0.0), found

    form = _Form()
    likelihood, best = tried(form)
    changes: list[tuple[dict[str, Any], float]] = [({"start": STARTS[1]}, 0), ({"matern": True}, ROUGHER)]
    if y.min() > 0 and np.ptp(np.log(y)) > 0:
        changes.insert(1, ({"logarithm": True}, 0))
    for change, needed in changes:
        now, found = tried(replace(form, **change))
        if now > likelihood + needed:
            likelihood, best, form = now, found, replace(form, **change)
    return form, best


def _process(x: np.ndarray, y: np.ndarray) -> Surrogate:
    """The form that makes few answers likeliest, then learnt from more rows and rotated."""
    wide = x.shape[1] > SEPARATE_SCALES
    learn = _learn_shared if wide else _learn_separate
    more = slice(None, LEARNING_ROWS)
    form, best = _chosen(x[:CHOOSING_ROWS], y[:CHOOSING_ROWS], learn)
    answers = np.log(y) if form.logarithm else y
    best = learn(x[more], answers[more], best.transform, best.matern, LEARNING_STEPS)
    if not wide:
        best = _rotated(best, x[more], answers[more])
    if len(x) > LEARNING_ROWS:
        best = best.refitted(x[:MOST_ROWS], answers[:MOST_ROWS])
    return Logarithmic(best, float(np.median(y)) * best.noise) if form.logarithm else best


def _quick(x: np.ndarray, y: np.ndarray) -> GaussianProcess:
    wide = x.shape[1] > SEPARATE_SCALES
    learn = _learn_shared if wide else _learn_separate
    scale = STARTS[-1] * (math.sqrt(x.shape[1]) if wide else 1.0)
    few = slice(None, CHOOSING_ROWS)
    learnt = learn(x[few], y[few], np.eye(x.shape[1]) / scale, False, TRIAL_STEPS)
    return learnt.refitted(x[:MOST_ROWS], y[:MOST_ROWS])


def _rotated(process: GaussianProcess, x: np.ndarray, y: np.ndarray) -> GaussianProcess:
    """Length scales learnt along the directions of the gradients, where that makes the answers likelier.

    A function of few combinations of many inputs has one short scale for each combination, but not for each input.
    """
    gradients = process.gradient(x)
    size, axes = np.linalg.eigh(gradients.T @ gradients / len(x))
    size = np.sqrt(np.maximum(size, 0.0) / max(float(size[-1]), np.finfo(float).tiny))
    shortest = 1 / max(float(np.linalg.norm(process.transform, 2)), 1e-3)
    scales = np.clip(shortest / np.maximum(size, 1e-3), 0.05, 100.0)
    turned = _learn_separate(x, y, axes / scales, process.matern, LEARNING_STEPS)
    return turned if turned.likelihood > process.likelihood + x.shape[1] / 2 else process


def _learn_separate(x: np.ndarray, y: np.ndarray, transform: np.ndarray, matern: bool, steps: int) -> GaussianProcess:
    """One length scale for each column of the transform, by the marginal likelihood."""
    kernel = _kernel(np.ones(transform.shape[1]), matern)
    estimator = _fitted(kernel, x @ transform, y, steps)
    scales = estimator.kernel_.k1.k2.length_scale
    shared = _kernel(1.0, matern, estimator.kernel_.k1.k1.constant_value, estimator.kernel_.k2.noise_level)
    return _conditioned(x, y, transform / scales, shared, matern, _NAMES[matern])


def _learn_shared(x: np.ndarray, y: np.ndarray, transform: np.ndarray, matern: bool, steps: int) -> GaussianProcess:
    """One length scale, in coordinates stretched along the gradients of the round before; the likeliest round.

    Source: Trivedi et al., UAI 2014 (expected gradient outer product as a metric, iterated).
    """
    best: GaussianProcess | None = None
    for _ in range(STRETCHING_ROUNDS):
        estimator = _fitted(_kernel(1.0, matern), x @ transform, y, steps)
        scale = float(estimator.kernel_.k1.k2.length_scale)
        shared = _kernel(1.0, matern, estimator.kernel_.k1.k1.constant_value, estimator.kernel_.k2.noise_level)
        now = _conditioned(x, y, transform / scale, shared, matern, _NAMES[matern])
        if best is not None and now.likelihood <= best.likelihood:
            break
        best = now
        gradients = now.gradient(x)
        size, axes = np.linalg.eigh(gradients.T @ gradients / len(x))
        stretch = np.sqrt(np.maximum(size, 0.0) / max(float(size[-1]), np.finfo(float).tiny))
        transform = axes * np.maximum(stretch, 1e-3)
    assert best is not None
    return best


_NAMES = {False: "Gaussian process, Gaussian kernel", True: "Gaussian process, Matérn kernel 5/2"}


def _kernel(scale: float | np.ndarray, matern: bool, variance: float = 10.0, noise: float = 1e-5) -> Any:
    from sklearn.gaussian_process import kernels

    form = kernels.Matern(scale, (0.01, 1e3), nu=2.5) if matern else kernels.RBF(scale, (0.01, 1e3))
    return kernels.ConstantKernel(variance, (1e-3, 1e5)) * form + kernels.WhiteKernel(noise, (1e-10, 2.0))


def _fitted(kernel: Any, z: np.ndarray, y: np.ndarray, steps: int) -> Any:
    """scikit-learn's Gaussian process, its kernel learnt in so many steps; in none it is taken as it is."""
    from scipy.optimize import minimize
    from sklearn.gaussian_process import GaussianProcessRegressor

    def learn(objective: Callable[..., Any], initial_theta: np.ndarray, bounds: Any) -> tuple[np.ndarray, float]:
        found = minimize(
            objective, initial_theta, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": steps}
        )
        return found.x, float(found.fun)

    # Where rounding makes the kernel's matrix indefinite, its diagonal is raised until it is none any more.
    for raised in (1e-10, 1e-8, 1e-6, 1e-4, 1e-2):
        try:
            with quiet():
                return GaussianProcessRegressor(
                    kernel, alpha=raised, optimizer=learn if steps else None, normalize_y=True
                ).fit(z, y)
        except np.linalg.LinAlgError:
            continue
    raise BadInput("the inputs are too much alike for a surrogate; are the rows of the table all different?")


def _conditioned(
    x: np.ndarray, y: np.ndarray, transform: np.ndarray, kernel: Any, matern: bool, name: str
) -> GaussianProcess:
    estimator = _fitted(kernel, x @ transform, y, 0)
    size = float(estimator._y_train_std)
    return GaussianProcess(
        name=name,
        noise=size * math.sqrt(estimator.kernel_.k2.noise_level),
        transform=transform,
        matern=matern,
        estimator=estimator,
        likelihood=float(estimator.log_marginal_likelihood_value_),
    )
