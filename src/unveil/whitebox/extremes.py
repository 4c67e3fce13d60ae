"""The largest and smallest singular values of a linear piece without its matrix: for inputs too large for all."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg

from unveil.arguments import Randomness, generator
from unveil.outcome import BadInput
from unveil.whitebox.network import Network, must_be_known

AT_A_TIME = 80
"""Steps of LOBPCG between two looks at whether those asked for have settled; it alone waits for all it holds."""
SETTLED_RESIDUAL = 1e-11
"""Residual, in units of the largest singular value squared, at which they have."""


@dataclass(frozen=True, eq=False)
class Extremes:
    """Both ends of a spectrum.

    Attributes:
        largest: (count,), descending.
        smallest: (count,), descending, the last one being the smallest of all n; zeros where the piece forgets
            directions.
        residual: Length of the residual of each smallest one's eigenvector, relative to the largest squared: their
            squares are that exact, while `largest` is exact to rounding.
    """

    largest: Float[np.ndarray, " count"]
    smallest: Float[np.ndarray, " count"]
    residual: Float[np.ndarray, " count"]


def extreme_singular_values(
    network: Network,
    x: Float[np.ndarray, " n"],
    layer: int = -1,
    *,
    count: int = 3,
    rng: Randomness,
    iterations: int = 500,
) -> Extremes:
    """Extreme singular values of the linearisation at x after `layer`, without ever forming its matrix.

    Args:
        network: Any network.
        x: One input.
        layer: Up to and with the activation of this layer.
        count: How many at either end.
        rng: A generator, or a seed. For the first vectors.
        iterations: Of the search for the smallest ones (LOBPCG), which converges slowly where they crowd.

    Returns:
        Both ends, and how far the lower one can be trusted.

    Raises:
        BadInput: More than one input, or a count that is not below a fifth of the inputs.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> layers = [(np.diag(np.arange(1.0, 31)), np.zeros(30)), (np.ones((1, 30)), np.zeros(1))]
        >>> network = uv.Network.from_weights(layers)
        >>> found = uv.extreme_singular_values(network, np.ones(30), 0, count=2, rng=rng)
        >>> found.largest.round(6)
        array([30., 29.])
    """
    must_be_known(network)
    rng = generator(rng)
    points = network.points(x)
    n, last = network.n, network.level(layer)
    if len(points) != 1 or not 0 < 5 * count < n:
        raise BadInput(f"pass one input and 0 < count < {n}/5; got {len(points)} inputs and count {count}")
    seen = network.preactivations(points)
    chain = [
        (each, each.activation.slope(s[0])[:, None]) for each, s in zip(network.layers[: last + 1], seen, strict=False)
    ]

    def normal(block: np.ndarray) -> np.ndarray:
        flat = block.reshape(n, -1)
        for each, slope in chain:
            flat = slope * each.times(flat)
        for each, slope in reversed(chain):
            flat = each.transposed_times(slope * flat)
        return np.asarray(flat).reshape(block.shape)

    operator = LinearOperator((n, n), matvec=normal, matmat=normal, dtype=np.float64)
    top = eigsh(operator, count, which="LM", v0=rng.standard_normal(n), return_eigenvectors=False)[::-1]
    if n - min(each.neurons for each in network.layers[: last + 1]) >= count:
        # Fewer rows than inputs forget directions: that many values are zero.
        return Extremes(np.sqrt(top), np.zeros(count), np.zeros(count))
    start = rng.standard_normal((n, 2 * count))
    # The diagonal of the first layer's Gram matrix preconditions what pixels at the border see less of.
    first, slope = chain[0]
    diagonal = first.squares_transposed_times(slope**2).ravel() + 1e-3 * top[0]
    scale = LinearOperator(
        (n, n), matvec=lambda v: v.ravel() / diagonal, matmat=lambda v: v / diagonal[:, None], dtype=float
    )
    vectors = start
    for done in range(0, iterations, AT_A_TIME):
        with warnings.catch_warnings():
            # What did not converge is told by its residual.
            warnings.simplefilter("ignore")
            most = min(AT_A_TIME, iterations - done)
            bottom, vectors = lobpcg(operator, vectors, M=scale, largest=False, maxiter=most, tol=1e-12 * top[0])
        order = np.argsort(bottom)[:count][::-1]
        rest = np.linalg.norm(normal(vectors[:, order]) - vectors[:, order] * bottom[order], axis=0)
        if rest.max() <= SETTLED_RESIDUAL * top[0]:
            break
    return Extremes(np.sqrt(top), np.sqrt(np.maximum(bottom[order], 0)), rest / top[0])
