"""with_outputs: the layer behind a known convolution, by least squares, and with it the signs of the kernels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.blackbox.oracle import Oracle
from unveil.identification.kernels import Kernels
from unveil.identification.picture import Picture
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network

# Answers beyond the unknowns, as a share of them.
SPARE = 0.1
# How far from "active above" or "active below" a kernel's sign may come out.
UNSURE = 0.05


def unknowns(kernels: Kernels, picture: Picture) -> int:
    """Queries that the layer behind takes at least; 0 if the convolution is not known."""
    convolution = kernels.convolution(picture)
    return 0 if convolution is None else convolution.output_size + int(np.prod(picture.shape)) + 1


def with_outputs(kernels: Kernels, picture: Picture, oracle: Oracle, rng: np.random.Generator) -> Network | None:
    """The network of a convolution, a ReLU and one linear layer, if the oracle is one.

    Answers are a sum of the neurons, of a linear function and a constant. A kernel whose sign is wrong shows in the
    linear part: relu(-z) = relu(z) - z, in every window of it. Returns the network; None if the linear part is not that
    of some signs: then more lies behind. Queries: `1.1 unknowns + 20`.
    """
    convolution = kernels.convolution(picture)
    assert convolution is not None
    matrix = convolution.matrix()
    positions = convolution.output_size // len(kernels)
    bias = np.repeat(kernels.bias, positions)
    count = int((1 + SPARE) * unknowns(kernels, picture)) + 20
    x = oracle.sample(count, rng)
    y = oracle(x)
    flat = picture.planes(x).reshape(count, -1)
    z = (matrix @ flat.T).T + bias
    features = np.concatenate([np.maximum(z, 0), flat, np.ones((count, 1))], axis=1)
    solved = linalg.lstsq(features, y, lapack_driver="gelsy", check_finite=False)[0]
    weights, straight, constant = np.split(solved.T, [len(bias), len(bias) + flat.shape[1]], axis=1)
    # What each kernel would leave behind if its sign were wrong.
    parts = []
    for c in range(len(kernels)):
        rows = slice(c * positions, (c + 1) * positions)
        parts.append(-(matrix[rows].T @ weights[:, rows].T).T.ravel())
    system = np.stack(parts, axis=1)
    wrong = np.linalg.lstsq(system, straight.ravel(), rcond=None)[0]
    left = np.linalg.norm(straight.ravel() - system @ np.round(wrong))
    if np.abs(wrong - np.clip(np.round(wrong), 0, 1)).max() > UNSURE or left > UNSURE * np.linalg.norm(system):
        return None
    sign = np.where(np.round(wrong) == 1, -1.0, 1.0)
    each = np.repeat(sign, positions)
    offset = constant[:, 0] + (weights * bias) @ (each < 0)
    return _network(kernels, picture, sign, weights, offset)


def _network(
    kernels: Kernels,
    picture: Picture,
    sign: Float[np.ndarray, " C"],
    weights: Float[np.ndarray, "m k"],
    offset: Float[np.ndarray, " m"],
) -> Network:
    convolution = kernels.convolution(picture)
    assert convolution is not None
    turned = type(convolution)(
        kernels.weights * sign[:, None, None, None], picture.shape, convolution.stride, convolution.padding
    )
    matrix = turned.matrix()
    bias = np.repeat(kernels.bias * sign, turned.output_size // len(kernels))
    if picture.last:
        c, h, w = picture.shape
        matrix = matrix[:, np.arange(c * h * w).reshape(c, h, w).transpose(1, 2, 0).ravel()]
    first = Layer(matrix, bias, activation("relu"), None if picture.last else turned)
    shape = (picture.shape[1], picture.shape[2], picture.shape[0]) if picture.last else picture.shape
    return Network((first, Layer(weights, offset, activation("identity"))), shape)
