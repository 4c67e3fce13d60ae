"""The affine piece around a point: activation pattern, local linearisation layer by layer, the region's faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import sparse

from unveil.one_line import one_line
from unveil.outcome import BadInput
from unveil.whitebox.network import Layer, Network, must_be_known

LARGEST_BATCH = 200_000_000


class Affine(NamedTuple):
    """`matrix @ z + offset`: what the network (or its first layers) does near a point.

    Attributes:
        matrix: (N, k, n), or (k, n) for a single point.
        offset: (N, k), or (k,).
    """

    matrix: np.ndarray
    offset: np.ndarray


def activation_pattern(network: Network, x: np.ndarray) -> list[Shaped[np.ndarray, "N k"]]:
    """Which neurons of each layer see a positive value; one array per layer.

    Where an activation has its breakpoints elsewhere, or more than one (clip): on which linear piece each neuron is, as
    a whole number, 0 for the lowest.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> uv.activation_pattern(network, np.array([1.0, -2.0, 0.5]))[0]
        array([[ True, False]])
    """
    must_be_known(network)
    return [
        seen > 0 if _of_sign(layer) else layer.activation.piece(seen)
        for layer, seen in zip(network.layers, network.preactivations(x), strict=True)
    ]


def _of_sign(layer: Layer) -> bool:
    """Whether the sign of the preactivation says all that a pattern has to say."""
    breakpoints = layer.activation.breakpoints
    return not layer.activation.has_breakpoints or (
        np.ndim(breakpoints) == 1 and len(breakpoints) == 1 and float(breakpoints[0]) == 0.0
    )


def linearise(network: Network, x: np.ndarray, layer: int = -1, before: bool = False) -> Affine:
    """The local linearisation at one point or at many.

    Args:
        network: Any network; where it is not piecewise linear, the tangent is returned.
        x: One input, or many.
        layer: After which layer to stop; the last by default. A softmax on top is never included.
        before: Stop before the activation of `layer`.

    Returns:
        Matrix and offset; exact on the whole linear region of x if the network is piecewise linear.

    Raises:
        BadInput: A wrong shape or layer, or so many points at once that the matrices would not fit into memory.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> here = uv.linearise(network, np.array([1.0, -2.0, 0.5]))  # one neuron is active
        >>> here.matrix
        array([[1., 0., 1.]])
    """
    must_be_known(network)
    points, last = network.points(x), network.level(layer)
    widest = max(each.neurons for each in network.layers[: last + 1])
    if len(points) > 1 and widest * len(points) * (network.n + 1) > LARGEST_BATCH:
        raise BadInput(
            f"{len(points)} linearisations of {widest} x {network.n} are too large; pass fewer points at once"
        )
    n = network.n
    # Columns: the n inputs and the offset, for all points side by side, so that one product serves all of them.
    piece = np.broadcast_to(np.eye(n, n + 1)[:, None], (n, len(points), n + 1))
    values = points
    for i, each in enumerate(network.layers[: last + 1]):
        piece = _times(each, piece)
        piece[:, :, n] += each.bias[:, None]
        if i == last and before:
            break
        seen = each.affine(values)
        values, slope = each.activation.value(seen), each.activation.slope(seen)
        piece *= slope.T[:, :, None]
        if each.activation.name != "relu":
            piece[:, :, n] += (values - slope * seen).T
    matrix, offset = piece[:, :, :n].transpose(1, 0, 2), piece[:, :, n].T
    single = network.is_one(x)
    return Affine(matrix[0], offset[0]) if single else Affine(matrix, offset)


@one_line
@dataclass(frozen=True, eq=False)
class Region:
    """The linear region around a point: where no neuron changes sides.

    Attributes:
        network: A piecewise-linear network.
        x: (n,), the point.
        pattern: Which neurons see a positive value at x, or on which linear piece they are, layer by layer: see
            `activation_pattern`.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> uv.linear_region(network, np.array([1.0, -2.0, 0.5])).pattern[0]
        array([ True, False])
    """

    network: Network
    x: Float[np.ndarray, " n"]
    pattern: tuple[Shaped[np.ndarray, " k"], ...]

    def affine(self, layer: int = -1, before: bool = False) -> Affine:
        """What the first layers do on the whole region."""
        return linearise(self.network, self.x, layer, before)

    def faces(self, layer: int = -1) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"]]:
        """Normals and bounds: the region is where `normals @ z <= bounds`.

        Args:
            layer: Only the neurons up to this layer are looked at; all by default.

        Returns:
            One face per neuron and breakpoint next to it, redundant ones included.
        """
        normals, bounds = [np.zeros((0, self.network.n))], [np.zeros(0)]
        for i in range(self.network.level(layer) + 1):
            phi = self.network.layers[i].activation
            if not phi.has_breakpoints:
                continue
            matrix, offset = self.affine(i, before=True)
            low, high = phi.ends(self.pattern[i].astype(int))
            for sign, end in ((-1.0, low), (1.0, high)):
                there = np.isfinite(end)
                normals.append(sign * matrix[there])
                bounds.append(sign * (end - offset)[there])
        return np.concatenate(normals), np.concatenate(bounds)

    def contains(self, points: np.ndarray) -> Bool[np.ndarray, " N"]:
        """Whether points have the same activation pattern."""
        patterns = activation_pattern(self.network, points)
        has_breakpoints = [layer.activation.has_breakpoints for layer in self.network.layers]
        same = [(p == q).all(axis=1) for p, q, k in zip(patterns, self.pattern, has_breakpoints, strict=True) if k]
        return np.logical_and.reduce(same) if same else np.ones(len(self.network.points(points)), dtype=bool)

    def margin(self) -> float:
        """Distance from x to the nearest face, in the 2-norm; infinite if there is none."""
        normals, bounds = self.faces()
        lengths = np.linalg.norm(normals, axis=1)
        room = bounds - normals @ self.x
        return float(np.min(room[lengths > 0] / lengths[lengths > 0], initial=np.inf))


def linear_region(network: Network, x: np.ndarray) -> Region:
    """The linear region around one input.

    Raises:
        BadInput: More than one input, or a network that is not piecewise linear.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> uv.linear_region(network, np.array([1.0, -2.0, 0.5])).pattern[0]
        array([ True, False])
    """
    must_be_known(network)
    points = network.points(x)
    if len(points) != 1:
        raise BadInput(f"a linear region belongs to one input; got {len(points)}")
    if not network.piecewise_linear:
        names = sorted({layer.activation.name for layer in network.layers})
        raise BadInput(f"a network with {', '.join(names)} has no linear regions; linearise gives its tangent")
    return Region(network, points[0], tuple(p[0] for p in activation_pattern(network, points)))


def _times(layer: Layer, piece: np.ndarray) -> np.ndarray:
    """`layer.weights` times (in, N, n + 1)."""
    flat = piece.reshape(piece.shape[0], -1)
    product = layer.weights @ flat if sparse.issparse(layer.weights) else layer.dense() @ flat
    return np.asarray(product).reshape(layer.neurons, *piece.shape[1:])
