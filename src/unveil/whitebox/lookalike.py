"""Another input with exactly the same features: as near to a target as the features allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from unveil.one_line import one_line
from unveil.outcome import BadInput, UnveilError
from unveil.whitebox.box import Box
from unveil.whitebox.network import Layer, Network, must_be_known
from unveil.whitebox.polytope import Optimum, Polytope, nearest
from unveil.whitebox.within import box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A silent neuron is kept this far below zero, relative to the 1-norm of its row, wherever x is: rounding in a model
# that computes in float32 must not wake it.
MARGIN = 1e-6
# Answers of a model that computes in single precision are held to this, relative to the largest or to 1.
SINGLE_PRECISION_ERROR = 1e-3
# A constraint of the region counts as met with equality, hence as a face to another region, within this.
_FACE = 1e-7
# Regions entered at most, unless told.
MOST_REGIONS_ENTERED = 20

# Layer, neuron, and by how many pieces the pattern changes behind a face of a region.
Face = tuple[int, int, int]
Model = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """What the original model, not our copy of its weights, answers.

    Attributes:
        answers: (3, m): at x, at the lookalike, at the target.
        difference: Largest absolute difference between the answers at x and at the lookalike.
        predictions: Classes at x, at the lookalike, at the target.
    """

    answers: Float[np.ndarray, "3 m"]
    difference: float
    predictions: tuple[int, int, int]

    @property
    def holds(self) -> bool:
        """Whether the answers agree as far as a model that computes in single precision can be held to it."""
        return self.difference <= SINGLE_PRECISION_ERROR * max(1.0, float(np.abs(self.answers).max()))


@one_line
@dataclass(frozen=True)
class Lookalike:
    """An input that looks like the target and has the features of x.

    Attributes:
        z: (n,), in the box.
        x: (n,), whose features z has.
        target: (n,), what z looks like.
        layer: After which layer the features agree.
        norm: In which norm z was to be near the target.
        distance: From z to the target.
        start: From x to the target: what the distance would be without any freedom.
        bound: No input in the box with these features *in the last linear region searched* is nearer than this. For
            layer 0 there is only one region: then z is the nearest of all, to within `distance - bound`. What z keeps
            from waking silent neurons (`MARGIN`) is allowed for.
        deviation: Largest absolute difference between the features of z and of x, by our own evaluation in float64.
        moves: How often the search crossed into another linear region.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> pair = uv.lookalike(network, np.array([0.5, 0.5, 0.25]), np.array([1.0, 0.0, 0.0]))
        >>> bool(np.allclose(network.layers[0].weights @ (pair.z - pair.x), 0)), pair.manipulation > 0
        (True, True)
    """

    z: Float[np.ndarray, " n"]
    x: Float[np.ndarray, " n"]
    target: Float[np.ndarray, " n"]
    layer: int
    norm: int
    distance: float
    start: float
    bound: float
    deviation: float
    moves: int

    def plot(self) -> Figure:
        """x, the target, and the input between them with the features of x."""
        from unveil.pictures import inputs

        return inputs({"x": self.x, "lookalike": self.z, "target": self.target})

    @property
    def manipulation(self) -> float:
        """Share of the way from x to the target that could be gone: 0 none, 1 all of it."""
        return 1 - self.distance / self.start if self.start else 0.0

    def check(self, model: Model) -> Comparison:
        """Ask the original model.

        Args:
            model: (N, n) inputs to (N, m) answers, for instance an oracle.
        """
        answers = np.asarray(model(np.stack([self.x, self.z, self.target])), dtype=np.float64)
        x, z, target = (int(best) for best in answers.argmax(axis=1))
        return Comparison(answers, float(np.abs(answers[0] - answers[1]).max()), (x, z, target))


def lookalike(  # noqa: PLR0913 - options of a public verb
    network: Network,
    x: np.ndarray,
    target: np.ndarray,
    layer: int = 0,
    *,
    within: Box = (0.0, 1.0),
    norm: int = 1,
    moves: int | None = None,
) -> Lookalike:
    """Find the input nearest to a target that has exactly x's features.

    For layer 0 the inputs with x's features form one polytope, and the nearest is found: a linear programme for the
    1-norm, a projection for the 2-norm, each with a bound that holds whatever the solver did; with more than 2^13
    sparse rows an interior-point method for either, which ends after a bounded amount of work. For a deeper layer the
    same is solved inside the linear region of x; then the neuron or neurons of earlier layers that stand in the way are
    flipped, and the search goes on in the next region, for as long as it gets nearer. Features stay the same all along.

    Args:
        network: Piecewise linear up to `layer`; any injective activation at `layer` itself. Where several linear
            pieces give the same feature (|s|), the one of x is kept.
        x: One input.
        target: What to look like.
        layer: After which layer the features are to agree, 0 for the first.
        within: Lowest and highest legal value, for all inputs or for each.
        norm: 1 or 2. The 1-norm changes fewer inputs, the 2-norm blurs.
        moves: How many times to cross into another linear region at most; by default 20, and none where one region
            of a convolutional network takes an interior-point method some 20 seconds.

    Returns:
        The lookalike. `check(model)` asks the original model about it.

    Raises:
        BadInput: Wrong shapes, no such layer, x or the target outside the box, an unsuitable activation or norm.
        UnveilError: The solver found no point although x itself is one.

    Source: arXiv:1806.09730, Appendix A7 (layer 0, 1-norm); deeper layers and the walk over regions are ours.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> pair = uv.lookalike(network, np.array([0.5, 0.5, 0.25]), np.array([1.0, 0.0, 0.0]))
        >>> bool(np.allclose(network.layers[0].weights @ (pair.z - pair.x), 0)), pair.manipulation > 0
        (True, True)
    """
    start, goal = one_point(network, x, "x"), one_point(network, target, "target")
    low, high = box(within, start, "x")
    box(within, goal, "the target")
    if norm not in (1, 2):
        raise BadInput(f"norm must be 1 or 2; got {norm!r}")
    layer = network.level(layer)
    walk = Walk(network, start, layer, (low, high))
    best, crossed = walk.search(lambda polytope: nearest(polytope, goal, norm), moves)
    features = network.features(np.stack([start, best.z]), layer)
    return Lookalike(
        best.z,
        start,
        goal,
        layer,
        norm,
        float(np.linalg.norm(best.z - goal, norm)),
        float(np.linalg.norm(start - goal, norm)),
        best.bound,
        float(np.abs(features[1] - features[0]).max()),
        crossed,
    )


def one_point(network: Network, x: np.ndarray, what: str) -> Float[np.ndarray, " n"]:
    """`x` as one row.

    Raises:
        BadInput: Another shape, several inputs, or numbers that are not finite.
    """
    must_be_known(network)
    points = network.points(x)
    if len(points) != 1:
        raise BadInput(f"{what} must be one input; got {len(points)}: call once for each")
    return np.asarray(points[0])


class Walk:
    """From one linear region to the next, while the features after `layer` stay those of x.

    Args:
        network: Piecewise linear up to `layer`.
        x: (n,), where the walk starts.
        layer: After which layer features are kept.
        bounds: The box, two vectors.
        tolerance: How far the last layer's values may go either way; None keeps features exactly.

    Raises:
        BadInput: An activation that has no linear regions.
    """

    def __init__(
        self,
        network: Network,
        x: Float[np.ndarray, " n"],
        layer: int,
        bounds: tuple[np.ndarray, np.ndarray],
        tolerance: float | None = None,
    ) -> None:
        self.network, self.x, self.layer, self.bounds, self.tolerance = network, x, layer, bounds, tolerance
        before = [each.activation for each in network.layers[:layer]]
        if not all(phi.piecewise_linear for phi in before):
            raise BadInput(
                f"layers 0 to {layer - 1} have activations {', '.join(sorted({phi.name for phi in before}))}; beyond "
                "layer 0 this needs piecewise-linear ones before the layer whose features are kept"
            )
        self.last = network.layers[layer].activation
        if not (self.last.injective or self.last.piecewise_linear):
            raise BadInput(
                f"layer {layer} has activation {self.last.name!r}, neither piecewise linear nor injective; "
                "choose another layer="
            )
        self.seen = [values[0] for values in network.preactivations(x, layer)]

    def search(
        self, solve: Callable[[Polytope], Optimum], moves: int | None, maximise: bool = False
    ) -> tuple[Optimum, int]:
        """Solve in the region of x, then in the regions behind the faces that stand in the way, while it helps.

        Returns:
            The best optimum and how many regions were entered on the way.
        """
        pattern = [
            each.activation.piece(values) for each, values in zip(self.network.layers, self.seen[:-1], strict=False)
        ]
        polytope, faces = self._polytope(pattern, self.x)
        best = solve(polytope)
        entered = 0
        most = (0 if polytope.large else MOST_REGIONS_ENTERED) if moves is None else moves
        while entered < most:
            better = self._better(best, pattern, faces, polytope, solve, maximise)
            if better is None:
                break
            best, pattern, faces, polytope = better
            entered += 1
        return best, entered

    def _better(
        self,
        best: Optimum,
        pattern: list[np.ndarray],
        faces: list[Face],
        polytope: Polytope,
        solve: Callable[[Polytope], Optimum],
        maximise: bool,
    ) -> tuple[Optimum, list[np.ndarray], list[Face], Polytope] | None:
        room = polytope.ceiling - polytope.below @ best.z
        count = len(faces)
        blocking = [k for k in np.argsort(-best.pressure[:count]) if best.pressure[k] > 0 and room[k] < _FACE]
        # All faces that press at once, then the ones that press most, singly.
        for chosen in [blocking] * (len(blocking) > 1) + [[k] for k in blocking[:3]]:
            flipped = [part.copy() for part in pattern]
            for k in chosen:
                i, j, step = faces[k]
                flipped[i][j] += step
            ahead, its_faces = self._polytope(flipped, best.z)
            if ahead.violation(best.z) > 1e-6:
                continue  # not a neighbour: flipping one neuron moved the faces of others
            try:
                found = solve(ahead)
            except UnveilError:
                continue
            gain = (found.value - best.value) * (1 if maximise else -1)
            if gain > 1e-6 * max(1.0, abs(best.value)) and ahead.violation(found.z) < 1e-9:
                return found, flipped, its_faces, ahead
        return None

    def _polytope(
        self, pattern: list[Int[np.ndarray, " k"]], inside: Float[np.ndarray, " n"]
    ) -> tuple[Polytope, list[Face]]:
        """The part of one region where the features are kept, around a point, and which neuron each face belongs to."""
        n = self.network.n
        matrix: Any = None
        offset = np.zeros(n)
        below: list[Any] = []
        ceiling: list[np.ndarray] = []
        margin, rounding = np.zeros(0), np.zeros(n)
        faces: list[Face] = []
        for i, each in enumerate(self.network.layers[: self.layer]):
            rounding = _rounding(each, matrix, rounding)
            matrix, offset = _through(each, matrix, offset)
            alive = _peaks(matrix) > rounding
            slope, shift = each.activation.line(pattern[i])
            for sign, end in zip((-1.0, 1.0), each.activation.ends(pattern[i]), strict=True):
                there = np.isfinite(end) & alive
                if there.any():
                    below.append(sign * matrix[there])
                    ceiling.append(sign * (end - offset)[there])
                    faces += [(i, int(j), int(sign)) for j in np.flatnonzero(there)]
            matrix, offset, rounding = _scaled(matrix, slope), slope * offset + shift, np.abs(slope) * rounding
        rounding = _rounding(self.network.layers[self.layer], matrix, rounding)
        matrix, offset = _through(self.network.layers[self.layer], matrix, offset)
        values = self.seen[self.layer]
        # A row that is nothing but rounding is that of a constant neuron, which every input keeps.
        alive = _peaks(matrix) > rounding
        kept = np.ones(len(offset), bool)
        if self.tolerance is not None:
            kept[:] = False
            below += [matrix, -matrix]
            ceiling += [values + self.tolerance - offset, self.tolerance - values + offset]
        elif not self.last.injective:
            # On a flat piece the features leave the preactivation free; of several pieces at one level, x's is kept.
            piece = self.last.piece(values)
            kept = self.last.line(piece)[0] != 0
            for sign, end in zip((-1.0, 1.0), self.last.ends(piece), strict=True):
                flat = ~kept & np.isfinite(end) & alive
                if not flat.any():
                    continue
                rows = sign * matrix[flat]
                lengths = np.asarray(abs(rows).sum(axis=1)).ravel()
                # (x itself may be nearer to the breakpoint than the margin)
                room = np.minimum(MARGIN * lengths, np.maximum(sign * (end - values)[flat], 0.0))
                below.append(rows)
                ceiling.append(sign * (end - offset)[flat] - room)
                margin = np.concatenate([margin, room])
        equal, level = matrix[kept & alive], (values - offset)[kept & alive]
        stacked = _stack(below, n)
        ceilings = np.concatenate([np.zeros(0), *ceiling])
        margins = np.concatenate([np.zeros(len(ceilings) - len(margin)), margin])
        return Polytope(equal, level, stacked, ceilings, *self.bounds, margins, inside), faces


def _through(layer: Any, matrix: Any, offset: np.ndarray) -> tuple[Any, np.ndarray]:
    if matrix is None:
        return layer.weights, np.asarray(layer.bias)
    product = layer.weights @ matrix
    if sparse.issparse(product) and product.nnz > 0.2 * product.shape[0] * product.shape[1]:
        product = product.toarray()
    return product, np.asarray(layer.weights @ offset + layer.bias)


def _peaks(matrix: Any) -> Float[np.ndarray, " k"]:
    """Largest entry of each row."""
    largest = abs(matrix).max(axis=1)
    return np.asarray(largest.toarray() if sparse.issparse(largest) else largest, dtype=float).ravel()


def _rounding(layer: Layer, matrix: Any, before: Float[np.ndarray, " j"]) -> Float[np.ndarray, " k"]:
    """What rounding makes of the rows of `layer @ matrix`, where that of the rows of `matrix` is `before`.

    Layers may cancel what those before them let through.
    """
    if matrix is None:
        return np.zeros(layer.neurons)
    return np.asarray(abs(layer.weights) @ (before + np.finfo(float).eps * layer.inputs * _peaks(matrix)))


def _scaled(matrix: Any, factor: np.ndarray) -> Any:
    if sparse.issparse(matrix):
        return sparse.csr_array(sparse.diags_array(factor) @ matrix)
    return matrix * factor[:, None]


def _stack(parts: list[Any], n: int) -> Any:
    if not parts:
        return np.zeros((0, n))
    if all(sparse.issparse(part) for part in parts):
        return sparse.csr_array(sparse.vstack(parts))
    return np.vstack([part.toarray() if sparse.issparse(part) else part for part in parts])
