"""Surrogate: what stands in for answers, so that gradients and the doubt about them are known everywhere."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float


class Surrogate(ABC):
    """What stands in for the answers.

    Attributes:
        name: What it is, in words.
        noise: Standard deviation of the part of the answers that no smooth function explains.
    """

    name: str
    noise: float

    @abstractmethod
    def predict(self, x: Float[np.ndarray, "N n"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Expected answers and their standard deviations, noise left out."""

    @abstractmethod
    def gradient(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        """Expected gradients."""

    @abstractmethod
    def draw(
        self, x: Float[np.ndarray, "N n"], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N n"]]]:
        """Values and gradients of functions drawn from all those that fit the answers: one pair for each function."""

    @abstractmethod
    def refitted(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, " N"]) -> Surrogate:
        """The same surrogate on other rows, what was learnt about its form kept."""


@final
@dataclass(frozen=True)
class Quadratic(Surrogate):
    """A quadratic whose coefficients are shrunken towards 0 as far as the rows call for it.

    Attributes:
        name: What it is, in words.
        noise: See `Surrogate`.
        estimator: scikit-learn's `BayesianRidge` on the products of up to two inputs.
    """

    name: str
    noise: float
    estimator: Any

    def predict(self, x: Float[np.ndarray, "N n"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        mean, deviation = self.estimator.predict(_products(x), return_std=True)
        return np.asarray(mean), np.sqrt(np.maximum(deviation**2 - self.noise**2, 0.0))

    def gradient(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        return _slopes(x, np.asarray(self.estimator.coef_))

    def draw(
        self, x: Float[np.ndarray, "N n"], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N n"]]]:
        spread, axes = np.linalg.eigh(self.estimator.sigma_)
        root = axes * np.sqrt(np.maximum(spread, 0.0))
        for _ in range(count):
            drawn = self.estimator.coef_ + root @ rng.standard_normal(len(root))
            yield self.estimator.intercept_ + _products(x) @ drawn, _slopes(x, drawn)

    def refitted(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, " N"]) -> Quadratic:
        return quadratic(x, y)


@final
@dataclass(frozen=True)
class Logarithmic(Surrogate):
    """The exponential of another surrogate, for positive answers whose logarithm is the smoother function.

    Attributes:
        inner: Fitted to the logarithms.
        noise: See `Surrogate`; at the median answer.
    """

    inner: Surrogate
    noise: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.inner.name}, of the logarithm"

    def predict(self, x: Float[np.ndarray, "N n"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        mean, deviation = self.inner.predict(x)
        middle = np.exp(mean)
        return middle, middle * np.expm1(np.minimum(deviation, 50.0))

    def gradient(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        return np.asarray(np.exp(self.inner.predict(x)[0])[:, None] * self.inner.gradient(x))

    def draw(
        self, x: Float[np.ndarray, "N n"], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N n"]]]:
        for logarithm, gradient in self.inner.draw(x, count, rng):
            values = np.exp(logarithm)
            yield values, values[:, None] * gradient

    def refitted(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, " N"]) -> Logarithmic:
        return Logarithmic(self.inner.refitted(x, np.log(y)), self.noise)


@final
@dataclass(frozen=True)
class Along(Surrogate):
    """A surrogate of few combinations of the inputs.

    Attributes:
        inner: Fitted to `x @ basis.T`.
        basis: The combinations, orthonormal rows.
    """

    inner: Surrogate
    basis: Float[np.ndarray, "r n"]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.inner.name}, in {len(self.basis)} directions"

    @property
    def noise(self) -> float:  # type: ignore[override]
        return self.inner.noise

    def predict(self, x: Float[np.ndarray, "N n"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        return self.inner.predict(x @ self.basis.T)

    def gradient(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        return np.asarray(self.inner.gradient(x @ self.basis.T) @ self.basis)

    def draw(
        self, x: Float[np.ndarray, "N n"], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N n"]]]:
        for values, gradient in self.inner.draw(x @ self.basis.T, count, rng):
            yield values, gradient @ self.basis

    def refitted(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, " N"]) -> Along:
        return Along(self.inner.refitted(x @ self.basis.T, y), self.basis)


def quadratic(x: np.ndarray, y: np.ndarray) -> Quadratic:
    from sklearn.linear_model import BayesianRidge

    with quiet():
        estimator = BayesianRidge().fit(_products(x), y)
    return Quadratic("quadratic", float(1 / math.sqrt(estimator.alpha_)), estimator)


def _products(x: np.ndarray) -> np.ndarray:
    """Columns: every input, then the products of any two."""
    first, second = np.triu_indices(x.shape[1])
    return np.hstack([x, x[:, first] * x[:, second]])


def _slopes(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Gradients of the quadratic with these coefficients."""
    n = x.shape[1]
    upper = np.zeros((n, n))
    upper[np.triu_indices(n)] = coefficients[n:]
    return np.asarray(coefficients[:n] + x @ (upper + upper.T))


@contextmanager
def quiet() -> Iterator[None]:
    """Without scikit-learn's remarks on length scales at their bounds: an input that matters little has a long one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
