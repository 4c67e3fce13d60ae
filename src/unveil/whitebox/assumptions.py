"""What the theorems on span recovery assume of a network, estimated by Monte Carlo with the weights in hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.arguments import Randomness, generator
from unveil.outcome import BadInput
from unveil.whitebox.network import Layer, Network


@dataclass(frozen=True)
class Assumptions:
    """Estimates for "Setting 1": ReLU inside, real output.

    Attributes:
        gamma: Assumption 1's gamma, the smallest of the sampled orthant probabilities times 2^k. A sample of orthants
            gives an upper bound of the smallest.
        gamma_error: Its standard error.
        gamma_mean: The mean of the sampled orthant probabilities times 2^k; 1 if orthants are fairly drawn.
        zero_share: `Pr[M(g) = 0]` for Gaussian g; Assumption 2 wants at most `gamma / 8`.
        zero_products: How many entries of `w^T prod (W_i)_S` vanished, over random non-empty row sets S.
        products: How many entries were looked at.
        samples: Gaussian points drawn for each estimate.
    """

    gamma: float
    gamma_error: float
    gamma_mean: float
    zero_share: float
    zero_products: int
    products: int
    samples: int

    @property
    def hold(self) -> bool:
        """Whether nothing seen speaks against them."""
        return self.gamma > 0 and self.zero_share <= self.gamma / 8 and self.zero_products == 0


@dataclass(frozen=True)
class ThresholdAssumptions:
    """Estimates for "Setting 2": a threshold on smooth activations.

    Attributes:
        gamma: The smallest `Pr[sigma_V(g) >= threshold]` over the subspaces V tried.
        eta: The gradient along g at the threshold that is exceeded with probability gamma / 2, smallest over them.
        vanishing: `max |phi(0)|` over the activations: Setting 2 wants 0.
        subspaces: How many V were tried.
    """

    gamma: float
    eta: float
    vanishing: float
    subspaces: int


def assumptions(network: Network, *, rng: Randomness, orthants: int = 64, samples: int = 4096) -> Assumptions:
    """Assumptions 1 and 2 of a dense ReLU network.

    Orthant probabilities are estimated by sequential sampling (one coordinate at a time, each drawn within its
    orthant), so that probabilities far below one over the sample size are found.

    Args:
        network: Dense layers; the first one's weights are A.
        rng: A generator, or a seed. Draws.
        orthants: Orthants tried, with random signs.
        samples: Gaussian points for each.

    Raises:
        BadInput: The network is not dense, or has one layer only.

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Section 3. The sampler is Genz's (1992).
    """
    rng = generator(rng)
    layers = _dense(network)
    a = layers[0].weights
    k = len(a)
    lower = np.linalg.cholesky(a @ a.T + 1e-12 * np.trace(a @ a.T) / k * np.eye(k))
    signs = rng.choice([-1.0, 1.0], size=(orthants, k))
    # In units of 2^-k from the start: the probabilities themselves are below 1e-24 for k = 80.
    scaled = np.array([orthant_probability(s[:, None] * lower, samples, rng) for s in signs])
    values, errors = scaled[:, 0], scaled[:, 1]
    least = int(values.argmin())
    zero = float(np.mean((network(rng.standard_normal((samples, network.n))) == 0).all(axis=1)))
    vanished, looked = 0, 0
    for _ in range(samples // 16):
        row = rng.standard_normal(len(layers[-1].weights)) @ layers[-1].weights
        for layer in layers[-2:0:-1]:
            chosen = rng.random(len(layer.weights)) < rng.random()
            chosen[rng.integers(len(chosen))] = True
            row = (row * chosen) @ layer.weights
        vanished += int(np.sum(row == 0))
        looked += len(row)
    return Assumptions(
        float(values[least]), float(errors[least]), float(values.mean()), zero, vanished, looked, samples
    )


def orthant_probability(lower: Float[np.ndarray, "k k"], samples: int, rng: np.random.Generator) -> tuple[float, float]:
    """`2^k Pr[L z > 0]` for standard normal z and a matrix L that is lower triangular up to the signs of its rows.

    Returns:
        The estimate and its standard error.

    Source: Genz, Numerical computation of multivariate normal probabilities, J. Comput. Graph. Statist. 1 (1992).
    """
    k = len(lower)
    z = np.zeros((samples, k))
    weight = np.zeros(samples)
    for i in range(k):
        diagonal = lower[i, i]
        bound = -(z[:, :i] @ lower[i, :i]) / diagonal
        # z_i must lie above the bound if the diagonal is positive, below it if negative: mirror the second case.
        sign = np.sign(diagonal)
        chance = special.ndtr(-sign * bound)
        weight += np.log(np.maximum(chance, 1e-300)) + math.log(2)
        z[:, i] = -sign * special.ndtri(np.clip(rng.random(samples) * chance, 1e-300, 1 - 1e-16))
    estimates = np.exp(weight)
    return float(estimates.mean()), float(estimates.std() / math.sqrt(samples))


def threshold_assumptions(
    network: Network,
    *,
    rng: Randomness,
    threshold: float = 1.0,
    subspaces: int = 8,
    samples: int = 2048,
) -> ThresholdAssumptions:
    """Setting 2's gamma and eta of a dense network with one output.

    The subspaces V are spans of some of the first layer's rows, of 0 to k - 1 dimensions, as Algorithm 2 meets them.

    Raises:
        BadInput: The network is not dense, or has several outputs.

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Section 4, assumptions 1 to 4.
    """
    rng = generator(rng)
    layers = _dense(network)
    if network.m != 1:
        raise BadInput(f"Setting 2 is about one output under a threshold; this network has {network.m}")
    a = layers[0].weights
    vanishing = max(float(np.abs(layer.activation.value(np.zeros((1, 1)))).max()) for layer in layers[:-1])
    gammas, etas = [], []
    for dimension in np.unique(np.linspace(0, len(a) - 1, subspaces).astype(int)):
        basis = np.linalg.qr(a[rng.permutation(len(a))[:dimension]].T)[0]
        g = rng.standard_normal((samples, network.n))
        g -= (g @ basis) @ basis.T
        reached = network(g)[:, 0] >= threshold
        gammas.append(float(reached.mean()))
        if not reached.any():
            etas.append(0.0)
            continue
        g = g[reached]
        low, high = np.zeros(len(g)), np.ones(len(g))
        for _ in range(40):
            middle = (low + high) / 2
            above = network(middle[:, None] * g)[:, 0] >= threshold
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        # The crossing nearest to where bisection ended, and the slope along g there by a central difference.
        step = 1e-5
        slope = np.abs(network((high + step)[:, None] * g)[:, 0] - network((high - step)[:, None] * g)[:, 0]) / (
            2 * step
        )
        etas.append(float(np.quantile(slope, 0.5)))
    return ThresholdAssumptions(min(gammas), min(etas), vanishing, len(gammas))


def algorithm_1_queries(n: int, k: int, gamma: float, delta: float = 0.05, constant: float = 1.0) -> float:
    """Queries by Theorem 3.4, `constant * k n log(k / delta) / gamma`, for half the span with probability `1 - delta`.

    The theorem leaves the constant open; 1 is the smallest with which its order means anything.

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Theorem 3.4.
    """
    if not (gamma > 0 and 0 < delta < 1):
        raise BadInput(f"gamma must be above 0 and delta between 0 and 1; got {gamma} and {delta}")
    return constant * k * n * math.log(k / delta) / gamma


def _dense(network: Network) -> list[Layer]:
    layers = list(network.layers)
    if len(layers) < 2 or not all(isinstance(layer, Layer) for layer in layers):
        raise BadInput("the theorems are about dense networks of two layers or more; this one is another")
    return layers
