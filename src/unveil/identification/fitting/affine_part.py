"""The affine part of a layer of neurons: carried by opposite rows, or the other slope of the neurons themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from unveil.identification.fitting.output_layer import with_linear_part
from unveil.whitebox.activation import Activation, by_rows, leaky_relu
from unveil.whitebox.activation import activation as activation_named
from unveil.whitebox.network import Layer, Network

# Cosine of rows that are opposite, up to this: exactly so, or after a fit of the strongest rows and of weak ones.
OPPOSITE, NEARLY_OPPOSITE, FAINT = 1e-12, 1e-7, 1e-5
# How far, relative to its size, a part linear in one value may be from what one neuron adds; errors of answers that a
# network is near enough to, before all its weights are settled.
SAME_SLOPE_DIFFERENCE, NEAR_ENOUGH_ERROR = 1e-4, 1e-6
OTHER_SLOPES_FACTOR = 3.0  # a network with other slopes may be so many times further from what was asked
DIGITS, NONE = 4, 1e-4  # digits of a slope that all neurons share, and slopes smaller than this are none
# A slope that is what two steeper ones leave is none below so many times the error that counts as none: neurons far out
# had up to 14 times it.
FLAT_SLOPE_FACTOR = 100.0
# Of more neurons than an affine part has numbers those on the other side are looked for among so many, and
# taken if the next best set of them leaves so many times as much.
MOST_TURNED, ALONE = 24, 10.0


def affine_part(network: Network) -> list[int]:
    """How many rows of each hidden layer carry an affine part: opposite pairs, and such as never switch.

    Pairs `relu(v h + c)`, `relu(-v h - c)` are no neurons of the model. They stand for those that were active wherever
    it was asked.
    """
    return [len(_carrying(network, depth, exact=False)[0]) for depth in range(len(network.layers) - 1)]


def _carrying(network: Network, depth: int, *, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a hidden layer that carry an affine part, and those of them that are always on: no weight is negative."""
    layer = network.layers[depth]
    if layer.activation.name != "relu":
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    pairs = opposite_rows(layer, OPPOSITE) if exact else _nearly_opposite(layer, network.layers[depth + 1])
    always = np.empty(0, dtype=int)
    if depth and network.layers[depth - 1].activation.name == "relu":
        rows = np.concatenate([layer.dense(), layer.bias[:, None]], axis=1)
        always = np.flatnonzero(
            (rows >= -NEARLY_OPPOSITE * np.abs(rows).max(axis=1, keepdims=True, initial=1e-300)).all(axis=1)
        )
    return np.union1d(pairs.ravel(), always), always


def taken_in(
    network: Network, error: Callable[[Network], float], settled: Callable[[Network], Network], fine: float
) -> Network:
    """The network with the affine part of its last hidden layer taken into its neurons' weights, where it is theirs.

    A neuron that is on wherever value j of the layer before is not zero adds to the answers what its weight on that
    value says: a wrong weight and a part linear in h_j explain them as well, where it was asked. `settled`: all weights
    to the last digits. A part that one neuron alone explains as well is taken for its weight; one that is nothing is
    left out. `fine`: errors up to this count as none.
    """
    depth = len(network.layers) - 2
    if depth < 1 or network.layers[depth - 1].activation.name != "relu":
        return network
    rows, always = _carrying(network, depth, exact=True)
    hidden, last = network.layers[depth:]
    w, b, c = hidden.dense(), hidden.bias, last.dense()
    longer, share = np.linalg.norm(w, axis=1), np.isin(np.arange(len(w)), always).astype(float)
    for pair in opposite_rows(hidden, OPPOSITE):
        both = c[:, pair] * longer[pair]
        if share[pair].any():
            continue  # the other one is never on
        if np.abs(both.sum(axis=1)).max() > NEARLY_OPPOSITE * np.abs(both).max():
            rows = np.setdiff1d(rows, pair)  # a neuron and an affine part of its direction
        share[pair] = 0.5  # each adds the half of what both do
    share = share[rows]
    slope, level = (c[:, rows] * share) @ w[rows], (c[:, rows] * share) @ b[rows]
    kept = np.setdiff1d(np.arange(len(w)), rows)
    if not len(rows) or not len(kept):
        return network
    w, b, c, end = w[kept].copy(), b[kept], c[:, kept], last.bias + level

    def of(weights: np.ndarray, slope: np.ndarray) -> Network:
        (v, bias), (out, end_) = (
            with_linear_part([(weights, b), (c, end)], slope) if slope.any() else ((weights, b), (c, end))
        )
        layers = Layer(v, bias, hidden.activation), Layer(out, end_, last.activation)
        return Network((*network.layers[:-2], *layers), network.shape, network.softmax)

    allowed = max(fine, OTHER_SLOPES_FACTOR * error(network))
    nothing = NEARLY_OPPOSITE * float((np.linalg.norm(c, axis=0) * np.linalg.norm(w, axis=1)).max())
    slope = np.where(np.linalg.norm(slope, axis=0) > nothing, slope, 0.0)
    for j in np.flatnonzero(slope.any(axis=0)):
        more = slope[:, j] @ c / np.maximum((c**2).sum(axis=0), 1e-300)
        alike = np.linalg.norm(slope[:, j, None] - c * more, axis=0) <= SAME_SLOPE_DIFFERENCE * np.linalg.norm(
            slope[:, j]
        )
        rest, found = np.where(np.arange(slope.shape[1]) == j, 0.0, slope), []
        for k in np.flatnonzero(alike):
            trial = w.copy()
            trial[k, j] += more[k]
            if error(of(trial, rest)) <= max(allowed, NEAR_ENOUGH_ERROR):
                found.append(trial)
        if len(found) == 1:
            w, slope = found[0], rest
    trial = settled(of(w, slope))
    return trial if error(trial) <= allowed else network


def sides_at_will(layers: Sequence[Layer]) -> bool:
    """Whether a first layer has an affine part of fewer numbers than neurons: any side of each would leave another."""
    if len(layers) < 2 or layers[0].activation.name != "relu":
        return False
    carry = 2 * len(opposite_rows(layers[0], NEARLY_OPPOSITE))
    return carry > 0 and layers[0].neurons - carry > layers[0].inputs * layers[1].neurons


def with_slopes(
    network: Network,
    error: Callable[[Network], float],
    fine: float,
    settled: Callable[[Network], Network] = lambda network: network,
) -> Network:
    """The network with the affine part of its last hidden layer taken into the neurons, where it is theirs.

    `b relu(z) + b s z` is a neuron of slopes `b (1 + s)` and `b s`: a leaky one, or an ordinary one seen from the other
    side. Equations for the s of all neurons that determine them and more, or slopes that are all alike, are evidence.
    Of more neurons than equations those whose s is -1 and not 0 are told by the one set that leaves nothing. Its last
    hidden layer is leaky then, with one slope or one per neuron, or ReLU; layers before are ReLU, and the last one
    affine. `settled`: all weights to the last digits: in a fit the rows of an affine part may do a little of what a
    neuron close by does, which goes with them.
    """
    if len(network.layers) < 2 or network.layers[-2].activation.name != "relu":
        return network
    hidden, last = network.layers[-2:]
    strength = _strength(hidden, last)
    pairs = _nearly_opposite(hidden, last)
    if not len(pairs):
        return network
    w, b, c, end = hidden.dense(), hidden.bias, last.dense().copy(), last.bias.copy()
    first, second = pairs.T
    longer = np.linalg.norm(w[second], axis=1) / np.linalg.norm(w[first], axis=1)
    # relu(-u) = relu(u) - u
    opposite = c[:, second] * longer
    slope, end = -opposite @ w[first], end - opposite @ b[first]
    c[:, first] += opposite
    kept = np.ones(len(w), dtype=bool)
    kept[second] = False
    left = np.linalg.norm(c[:, first], axis=0) * np.linalg.norm(w[first], axis=1)
    own = left > np.sqrt(NEARLY_OPPOSITE) * strength.max()
    kept[first[~own]] = False
    w, b, c = w[kept], b[kept], c[:, kept]
    design = np.einsum("mk,kd->mdk", c, w).reshape(slope.size, -1)
    if 0 < len(w) <= slope.size and np.linalg.matrix_rank(design, tol=1e-6 * np.linalg.norm(design, 2)) == len(w):
        share = np.linalg.lstsq(design, slope.ravel(), rcond=None)[0]
    elif (set_ := _on_the_other_side(design, slope.ravel())) is not None:
        share = -set_
    else:
        return network
    end = end - c @ (share * b)
    # The steeper side is the positive one.
    turned = share < -0.5
    weaker = np.where(turned, 1 + 1 / np.where(turned, share, -1.0), share / (1 + np.where(turned, 0.0, share)))
    side = np.where(turned, -1.0, 1.0)
    out = c * np.where(turned, -share, 1 + share)
    flat = bool((np.abs(weaker) <= min(FLAT_SLOPE_FACTOR * fine, NONE)).all())
    allowed = np.inf if flat else max(fine, OTHER_SLOPES_FACTOR * error(network))
    for phi in [activation_named("relu")] if flat else _activations(weaker, slope.size > len(w)):
        layers = Layer(w * side[:, None], b * side, phi), Layer(out, end, last.activation)
        found = settled(Network((*network.layers[:-2], *layers), network.shape, network.softmax))
        if error(found) <= allowed:
            return found
    return network


def _strength(layer: Layer, after: Layer) -> Float[np.ndarray, " k"]:
    return np.asarray(np.linalg.norm(layer.dense(), axis=1) * np.linalg.norm(after.dense(), axis=0))


def _nearly_opposite(layer: Layer, after: Layer) -> np.ndarray:
    """(P, 2) pairs of rows that are opposite as far as answers tell: a fit turns a weak row further."""
    strength = _strength(layer, after)
    return opposite_rows(
        layer, np.minimum(NEARLY_OPPOSITE * (strength.max() / np.maximum(strength, 1e-300)) ** 2, FAINT)
    )


def opposite_rows(layer: Layer, tolerance: float | Float[np.ndarray, " k"]) -> np.ndarray:
    """(P, 2) pairs of rows that are opposite, biases included, up to their lengths."""
    w = np.concatenate([layer.dense(), layer.bias[:, None]], axis=1)
    w = w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-300)
    cosine = np.triu(w @ w.T, 1)
    pairs, used = [], np.zeros(len(w), dtype=bool)
    for i, j in np.argwhere(cosine < -1 + np.minimum(*np.broadcast_arrays(tolerance, np.transpose([tolerance])))):
        if not used[[i, j]].any():
            used[[i, j]] = True
            pairs.append((i, j))
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _on_the_other_side(
    design: Float[np.ndarray, "q k"], slope: Float[np.ndarray, " q"]
) -> Float[np.ndarray, " k"] | None:
    """Ones for the neurons whose sum is minus the affine part, zeros for the others; None if no set alone does that.
    Both halves of the neurons have few enough sets for the nearest pair of sums to be found."""
    k = design.shape[1]
    if not 0 < k <= MOST_TURNED:
        return None
    half = k // 2
    one, other = ((np.arange(2**count)[:, None] >> np.arange(count)) & 1 for count in (half, k - half))
    miss, nearest = cKDTree(one @ design[:, :half].T).query(-slope - other @ design[:, half:].T, k=min(2, len(one)))
    miss, nearest = miss.reshape(len(other), -1), nearest.reshape(len(other), -1)
    least = np.sort(miss, axis=None)[:2]
    if len(least) > 1 and least[1] < ALONE * least[0]:
        return None
    best = int(miss[:, 0].argmin())
    return np.concatenate([one[nearest[best, 0]], other[best]]).astype(float)


def _activations(slopes: Float[np.ndarray, " k"], more: bool) -> list[Activation]:
    """What the neurons may be, the simplest first; a slope of each only where more than these was explained."""
    middle = float(np.median(slopes))
    shared = [leaky_relu(round(middle, DIGITS)), leaky_relu(middle)] if len(slopes) > 1 and abs(middle) > NONE else []
    relu = [activation_named("relu")] if len(slopes) > 1 or abs(middle) < NONE else []
    each = [by_rows([(leaky_relu(float(a)), 1) for a in slopes])] if more else []
    return [*relu, *shared, *each]
