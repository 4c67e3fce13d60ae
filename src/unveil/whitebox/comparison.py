"""How far two networks are apart, up to the order, sign and scale of hidden neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from unveil.arguments import Randomness, generator
from unveil.one_line import one_line
from unveil.outcome import BadInput
from unveil.whitebox.label_symmetry import as_classes, in_scale_of
from unveil.whitebox.network import Layer, Network, must_be_known
from unveil.whitebox.reduction import inert, nearest_scale, reduced
from unveil.whitebox.symmetry import Rearrangement, fold_sines, like, rearrange

SHARE_WITHIN = 0.05


@dataclass(frozen=True, eq=False)
class LayerComparison:
    """One layer of a found network beside the true one's, after alignment.

    Attributes:
        pairs: (matched, 2), true neuron and found neuron.
        missing: True neurons that nothing found comes near; those that do nothing are not counted.
        false: Found neurons that are near no true one, and do something.
        weight_error: Largest difference of a weight between paired neurons, relative to the largest true weight; NaN
            where there was none to compare, as no neuron here or before has a pair.
        bias_error: Largest difference of a bias, relative to the largest true weight or bias; NaN likewise.
        median_error: Median over pairs of the distance of the rows, biases included, relative to the true row.
        share: Share of the true neurons whose row is found within `SHARE_WITHIN`, in that measure.
    """

    pairs: Int[np.ndarray, "matched 2"]
    missing: Int[np.ndarray, " missing"]
    false: Int[np.ndarray, " false"]
    weight_error: float
    bias_error: float
    median_error: float
    share: float


@one_line
@dataclass(frozen=True, eq=False)
class Comparison:
    """How far two networks are apart.

    Attributes:
        layers: One entry per layer; empty if the depths differ, when only answers can be compared.
        function_error: Largest difference of an answer at held-out points, relative to the largest true answer.
        aligned: The found network, `reduced`, with its neurons in the true one's order, sign and scale, false ones
            last.

    Examples:
        >>> last, bias = np.array([[1.0, 2.0]]), np.array([0.5, -0.5])
        >>> truth = uv.Network.from_weights([(np.eye(2), bias), (last, np.zeros(1))])
        >>> first = np.array([[0.0, 2.0], [1.0, 0.0]])  # the neurons swapped, one of them twice as large
        >>> swapped = uv.Network.from_weights([(first, np.array([-1.0, 0.5])), (np.ones((1, 2)), np.zeros(1))])
        >>> apart = uv.compare(swapped, truth)
        >>> apart.missing, apart.false, apart.weight_error < 1e-12
        (0, 0, True)
    """

    layers: tuple[LayerComparison, ...]
    function_error: float
    aligned: Network

    @property
    def weight_error(self) -> float:
        """The largest over all layers; NaN when layers, or one of them, could not be compared."""
        errors = [(each.weight_error, each.bias_error) for each in self.layers]
        return float(np.max(errors)) if errors else float("nan")

    @property
    def missing(self) -> int:
        """True neurons not found, over all layers."""
        return sum(len(each.missing) for each in self.layers)

    @property
    def false(self) -> int:
        """Found neurons that do not exist, over all layers."""
        return sum(len(each.false) for each in self.layers)

    def __str__(self) -> str:
        lines = [f"answers differ by at most {self.function_error:.2e} of the largest"]
        for i, each in enumerate(self.layers):
            lines.append(
                f"layer {i}: {len(each.pairs)} neurons paired, {len(each.missing)} missing, {len(each.false)} false; "
                f"weights within {each.weight_error:.2e}, biases within {each.bias_error:.2e}"
            )
        if not self.layers:
            lines.append("the depths differ, so that only answers can be compared")
        return "\n".join(lines)


def compare(  # noqa: PLR0913 - options of a public verb
    found: Network,
    truth: Network,
    x: Float[np.ndarray, "N n"] | None = None,
    *,
    near: float = 0.5,
    rng: Randomness | None = None,
    reference: int | None = None,
    labels: tuple[int, ...] | None = None,
) -> Comparison:
    """Compare two networks up to what does not change their function.

    Layer by layer, neurons are paired so that the differences of their rows are least in sum (Hungarian assignment),
    over all signs (odd activations and the sigmoid) and positive scales (ReLU) that leave the function alone; the next
    layer's columns follow. Networks with a softmax on top are compared as log-ratios (`Network.log_ratios`): a shift of
    all logits together changes no probability. Widths may differ; tanh beside sigmoid is compared as sigmoid, which it
    is when rescaled. Before that both are `reduced`: equal neurons become one, and constant ones part of the next bias,
    since answers do not tell how they share what they send on. What this leaves without weights is neither missing nor
    false.

    Args:
        found: What an identification returned.
        truth: What it should be. Errors are relative to its weights, in its scale.
        x: Held-out inputs at which answers are compared. By default 1000 standard normal ones.
        near: Rows further apart than this, relative to the true row, are no pair but one missing, one false.
        rng: A generator, or a seed. For the default inputs; seed 0 if not given.
        reference: The class that `found` leaves out, if it maps to log-ratios (`Identification.reference`); the last
            one if it has one output less than `truth`.
        labels: Of a network found from labels alone (`Identification.labels`), the true output that each of its outputs
            stands for. Then both are also brought to one scale of all logits, and what all classes share is left out,
            since labels cannot tell it.

    Returns:
        Errors per layer and of the function, and the found network aligned with the true one.

    Raises:
        BadInput: Different numbers of inputs or outputs.

    Source: Fiedler, Fornasier, Klock, Rauchensteiner, arXiv:2101.07150 (symmetries); positive rescaling for ReLU.

    Examples:
        >>> last, bias = np.array([[1.0, 2.0]]), np.array([0.5, -0.5])
        >>> truth = uv.Network.from_weights([(np.eye(2), bias), (last, np.zeros(1))])
        >>> first = np.array([[0.0, 2.0], [1.0, 0.0]])  # the neurons swapped, one of them twice as large
        >>> swapped = uv.Network.from_weights([(first, np.array([-1.0, 0.5])), (np.ones((1, 2)), np.zeros(1))])
        >>> apart = uv.compare(swapped, truth)
        >>> apart.missing, apart.false, apart.weight_error < 1e-12
        (0, 0, True)
    """
    rng = generator(0 if rng is None else rng)
    must_be_known(found, truth)
    told = f"found maps {found.n} inputs to {found.m}, truth {truth.n} to {truth.m}: not comparable"
    if labels is not None:
        found, truth = as_classes(found), as_classes(truth, labels)
    else:
        found, truth = _without_softmax(found, truth, reference)
    if (found.n, found.m) != (truth.n, truth.m):
        raise BadInput(told)
    if x is None:
        x = rng.standard_normal((1000, truth.n))
    if labels is not None:
        found = in_scale_of(found, truth, x)
    expected = truth(x)
    error = float(np.abs(found(x) - expected).max() / max(np.abs(expected).max(), np.finfo(float).tiny))
    if len(found.layers) != len(truth.layers):
        return Comparison((), error, found)
    found, truth = reduced(fold_sines(like(found, truth))), reduced(fold_sines(truth))
    reports, columns = [], np.column_stack([np.arange(truth.n)] * 2)
    for at, true in enumerate(truth.layers):
        last = at == len(truth.layers) - 1
        mine = found.layers[at]
        if last:
            pairs, factor = np.column_stack([np.arange(truth.m)] * 2), np.ones(truth.m)
        else:
            pairs, factor = _pair(mine, true, columns, near)
            false = np.setdiff1d(np.arange(mine.neurons), pairs[:, 1])
            order = np.concatenate([pairs[:, 1], false])
            factor = np.concatenate([factor, np.ones(len(false))])
            found = rearrange(found, at, Rearrangement(order, factor))
            mine = found.layers[at]
        # After rearranging, the i-th pair stands at the i-th place.
        place = np.arange(len(pairs)) if not last else pairs[:, 1]
        reports.append(_report(mine, true, pairs, place, columns, last))
        columns = np.column_stack([pairs[:, 0], place])
    return Comparison(tuple(reports), error, found)


def _without_softmax(found: Network, truth: Network, reference: int | None) -> tuple[Network, Network]:
    """Both as log-ratios to the same class, where one of them has a softmax or an output less than the other."""
    if found.m + 1 == truth.m:
        return found, truth.log_ratios(-1 if reference is None else reference)
    if found.m == truth.m > 1 and (found.softmax or truth.softmax):
        return found.log_ratios(), truth.log_ratios()
    return found, truth


def _rows(layer: Layer, columns: np.ndarray) -> np.ndarray:
    return np.column_stack([layer.dense()[:, columns], layer.bias])


def _pair(mine: Layer, true: Layer, columns: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (true, found), and the factor that takes each found row to the true one's sign and scale."""
    a, b = _rows(true, columns[:, 0]), _rows(mine, columns[:, 1])
    scale, distance = nearest_scale(a, b, true.activation)
    # What does nothing is like whatever does nothing, and like nothing else.
    distance = np.where(inert(true)[:, None] | inert(mine), near, distance)
    distance[np.ix_(inert(true), inert(mine))] = 0.0
    # Beyond `near` all distances are alike, so that a false neuron never costs a true pair its place.
    i, j = linear_sum_assignment(np.minimum(distance, near))
    kept = distance[i, j] < near
    i, j = i[kept], j[kept]
    return np.column_stack([i, j]), scale[i, j]


def _report(
    mine: Layer, true: Layer, pairs: np.ndarray, place: np.ndarray, columns: np.ndarray, last: bool
) -> LayerComparison:
    def idle(layer: Layer) -> np.ndarray:
        return inert(layer) & (not last)  # an output that is zero is an output

    working = ~idle(true)
    a, b = _rows(true, columns[:, 0])[pairs[:, 0]], _rows(mine, columns[:, 1])[place]
    difference = np.abs(a - b)
    weights = np.abs(true.dense()).max(initial=0.0)
    everything = max(weights, np.abs(true.bias).max(initial=0.0))
    length = np.linalg.norm(a, axis=1)
    apart = np.linalg.norm(a - b, axis=1) / np.where(length > 0, length, 1.0)
    # Where nothing was compared nothing agrees.
    some, any_weight = len(pairs) or not true.neurons, len(pairs) * len(columns) or not true.dense().size
    return LayerComparison(
        pairs=pairs,
        missing=np.setdiff1d(np.flatnonzero(working), pairs[:, 0]),
        false=np.setdiff1d(np.flatnonzero(~idle(mine)), place),
        weight_error=float(np.max(difference[:, :-1], initial=0.0) / (weights or 1.0)) if any_weight else float("nan"),
        bias_error=float(np.max(difference[:, -1], initial=0.0) / (everything or 1.0)) if some else float("nan"),
        median_error=float(np.median(apart)) if len(apart) else float("nan"),
        share=float((apart <= SHARE_WITHIN)[working[pairs[:, 0]]].sum() / max(working.sum(), 1)),
    )
