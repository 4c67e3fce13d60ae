"""All inputs with the same features: a point, a compact set or an unbounded one, with a certificate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from unveil.arguments import Randomness, generator
from unveil.one_line import one_line
from unveil.outcome import BadInput, UnveilError
from unveil.whitebox.activation import Activation
from unveil.whitebox.certificate import Certificate, Ground
from unveil.whitebox.extent import Extent
from unveil.whitebox.kinds import KINDS, Decisions, decide, forced_rank
from unveil.whitebox.network import Network, must_be_known
from unveil.whitebox.null_space import null_space
from unveil.whitebox.polytope import Polytope, nearest
from unveil.whitebox.within import box

# Inputs per task. Fixed, because the last bits of a matrix product depend on its shape: the answers must not depend
# on how many workers there are.
TASK = 256
# Tasks handed out ahead of the reader: a data set streams, it is not held.
_AHEAD = 32
_SMALLEST = 1e-290


@one_line
@dataclass(frozen=True)
class Preimage:
    """All inputs of one layer that give the same features as `point`.

    Attributes:
        kind: "point", "compact" (bounded, not a point) or "infinite" (contains a ray). Over all of R^n: a box makes
            everything bounded, see `extent`.
        layer: Which layer, 0 for the first.
        point: (n,) the layer's own input.
        active: (m,) neurons whose preactivation the features determine (for ReLU: the positive ones).
        certificate: Proves the kind; `check()` verifies it.
        certified: Whether the proof held when the answer was found. False is rare and means: best guess, the weights
            are too close to a case of the other kind for float64.

    Examples:
        >>> uv.preimage(uv.Network.from_weights([(np.eye(2), np.zeros(2))]), np.ones(2)).kind  # two active neurons
        'point'
    """

    kind: str
    layer: int
    point: Float[np.ndarray, " n"]
    active: Bool[np.ndarray, " m"]
    certificate: Certificate
    certified: bool
    _slack: Float[np.ndarray, " m"] = field(repr=False)

    def check(self) -> bool:
        """Verify the kind independently of how it was found; see `Certificate.check`."""
        return self.certificate.check()

    def check_exactly(self) -> bool:
        """Verify the kind in rational arithmetic; for small layers. See `Certificate.check_exactly`."""
        return self.certificate.check_exactly()

    @cached_property
    def null_space(self) -> Float[np.ndarray, "n d"]:
        """Orthonormal columns: the directions in which no active neuron changes."""
        ground = self.certificate.ground
        return null_space(ground.weights[self.active] * ground.row[self.active, None])

    @cached_property
    def dimension(self) -> int:
        """Dimension of the preimage: 0 for a point, n less the rank of the active rows unless tight rows lower it."""
        if self.kind == "point":
            return 0
        tight = self.certificate.tight
        if not tight.any():
            return int(self.null_space.shape[1])
        return int(self.null_space.shape[1]) - forced_rank(self.certificate.ground.weights[tight] @ self.null_space)

    @property
    def direction(self) -> Float[np.ndarray, " n"] | None:
        """A unit vector along which one can go for ever, if the preimage is infinite."""
        return self.certificate.direction if self.kind == "infinite" else None

    def extent(
        self,
        within: tuple[float | np.ndarray, float | np.ndarray] = (0.0, 1.0),
        *,
        tries: int = 4,
        rng: Randomness | None = None,
    ) -> Extent:
        """How far one can go inside the box without changing a feature.

        In a finite box: the nearest one can come to the corner farthest from the point, and to random points. Where the
        box is open to some side: along random straight lines in the null space.

        Args:
            within: Lowest and highest legal value, for all coordinates or for each. May be infinite.
            tries: How many corners, or 64 lines each, to try.
            rng: A generator, or a seed. Where the random ones come from. Default: always the same ones.

        Returns:
            The farthest end found: a lower bound.

        Raises:
            BadInput: The point lies outside the box.
        """
        rng = generator(0 if rng is None else rng)
        low, high = box(within, self.point, "the layer's input")
        if self.kind == "point":
            return Extent(self.point, 0.0, 0.0, 0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return self._along_lines(low, high, 64 * tries, rng)
        weights, silent = self.certificate.ground.weights, ~self.active
        here = weights @ self.point
        all_of_it = Polytope(
            weights[self.active], here[self.active], weights[silent], (here + self._slack)[silent], low, high
        )
        goals = [np.where(high - self.point > self.point - low, high, low)]
        goals += list(low + (high - low) * rng.random((tries - 1, len(low))))
        ends = [self.point]
        for goal in goals:
            with suppress(UnveilError):
                ends.append(nearest(all_of_it, goal, 2).z)
        return self._extent(max(ends, key=lambda end: float(np.linalg.norm(end - self.point))), len(goals))

    def _extent(self, end: np.ndarray, tried: int) -> Extent:
        gone = end - self.point
        return Extent(end, float(np.linalg.norm(gone)), float(np.abs(gone).mean()), tried)

    def _along_lines(self, low: np.ndarray, high: np.ndarray, count: int, rng: np.random.Generator) -> Extent:
        basis = self.null_space
        lines = basis @ rng.standard_normal((basis.shape[1], count))
        lines = np.hstack([lines, -lines])
        if self.certificate.direction is not None:
            lines = np.hstack([lines, self.certificate.direction[:, None]])
        lines /= np.linalg.norm(lines, axis=0)
        # Coordinates at rounding level are those that a line keeps: it meets none of their walls.
        lines[np.abs(lines) <= 1e-12] = 0.0
        silent = self.certificate.ground.weights[~self.active]
        rates = silent @ lines
        # A rate at rounding level is a row the line does not meet.
        rates[np.abs(rates) <= 1e-12 * np.linalg.norm(silent, axis=1)[:, None]] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(lines > 0, (high - self.point)[:, None], (self.point - low)[:, None]) / np.abs(lines)
            hits = np.where(rates > 0, self._slack[~self.active][:, None] / rates, np.inf)
        steps = np.minimum(np.nanmin(room, axis=0), hits.min(axis=0, initial=np.inf))
        best = int(np.argmax(steps))
        if not np.isfinite(steps[best]):
            return Extent(self.point + lines[:, best], np.inf, np.inf, lines.shape[1])
        return self._extent(np.clip(self.point + steps[best] * lines[:, best], low, high), lines.shape[1])


def preimages(
    network: Network, inputs: np.ndarray, layer: int = 0, *, executor: Executor | None = None
) -> Iterator[Preimage]:
    """As `preimage`, one after the other as they are found: for whole data sets.

    Arguments and errors are those of `preimage`; the arguments are checked at once, not at the first answer.

    Examples:
        >>> [found.kind for found in uv.preimages(uv.Network.from_weights([(np.eye(2), np.zeros(2))]), np.ones((3, 2)))]
        ['point', 'point', 'point']
    """
    must_be_known(network)
    layer = network.level(layer)
    weights, bias, relu = features_of(network, layer)
    points = network.points(inputs)
    inside = (_layer_input(network, points[i : i + TASK], layer) for i in range(0, len(points), TASK))
    phi = network.layers[layer].activation
    if not phi.injective and phi.name != "relu":
        return _sided(weights, bias, phi, inside, layer, executor)
    return _stream(((weights, bias, relu, each) for each in inside), layer, Ground(weights), executor)


def _sided(
    weights: np.ndarray,
    bias: np.ndarray,
    phi: Activation,
    inside: Iterator[np.ndarray],
    layer: int,
    executor: Executor | None,
) -> Iterator[Preimage]:
    """Activations with flat ends: neuron by neuron turned into a ReLU that is silent exactly where the feature is flat.

    Inputs whose neurons are at the same ends share a factorisation.
    """
    for points in inside:
        before = points @ weights.T + bias
        rounding = points.shape[1] * np.finfo(float).eps * (np.abs(points) @ np.abs(weights).T + np.abs(bias))
        turned = [_as_relu(phi, s, error) for s, error in zip(before, rounding, strict=True)]
        groups: dict[bytes, list[int]] = {}
        for i, (sign, breakpoint) in enumerate(turned):
            groups.setdefault(sign.tobytes() + breakpoint.tobytes(), []).append(i)
        found: dict[int, Preimage] = {}
        for group in groups.values():
            sign, breakpoint = turned[group[0]]
            rows = sign[:, None] * weights
            task = (rows, sign * (bias - breakpoint), True, points[group])
            found |= zip(group, _stream(iter([task]), layer, Ground(rows), executor), strict=True)
        yield from (found[i] for i in range(len(points)))


def _as_relu(phi: Activation, s: np.ndarray, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sign and breakpoint: a feature determines s iff `sign (s - breakpoint) > 0`, and bounds it by that else."""
    piece = phi.piece(s)
    # What is at a breakpoint has the feature of the flat piece behind it.
    behind = piece + np.isfinite(phi.ends(piece)[1])
    at_end = (phi.ends(piece)[1] - s <= rounding) & (phi.line(behind)[0] == 0)
    piece = np.where(at_end, behind, piece)
    slope, _ = phi.line(piece)
    low, high = phi.ends(piece)
    flat = slope == 0
    upper = flat & np.isfinite(low)
    # A neuron on a piece that slopes is active whatever its breakpoint: one far below serves where there is none.
    breakpoint = np.where(upper, low, np.where(flat, high, np.where(np.isfinite(low), low, -np.finfo(float).max / 4)))
    return np.where(upper, -1.0, 1.0), breakpoint


def decidable(phi: Activation) -> bool:
    """Whether the inputs with one feature are a point or a half-line, for every neuron."""
    if phi.injective:
        return True
    if not (phi.piecewise_linear and phi.monotone):
        return False
    slopes, breakpoints = (
        np.atleast_2d(np.asarray(phi.slopes, float)),
        np.atleast_2d(np.asarray(phi.breakpoints, float)),
    )
    last = np.isfinite(breakpoints).sum(axis=1)[:, None]
    place = np.arange(slopes.shape[1])
    return not ((slopes == 0) & (place > 0) & (place < last)).any() and not ((slopes == 0) & (last == 0)).any()


Task = tuple[np.ndarray, np.ndarray, bool, np.ndarray]


def _stream(tasks: Iterator[Task], layer: int, ground: Ground, executor: Executor | None) -> Iterator[Preimage]:
    if executor is None:
        for task in tasks:
            yield from _told(_alone(task), task[3], layer, ground)
        return
    # Threads share one BLAS, whose limit must then last as long as any of them works.
    limit = threadpool_limits(1) if isinstance(executor, ThreadPoolExecutor) else nullcontext()
    waiting: deque[tuple[Future[Decisions], np.ndarray]] = deque()
    with limit:
        for task in tasks:
            waiting.append((executor.submit(_alone, task), task[3]))
            if len(waiting) >= _AHEAD:
                future, at = waiting.popleft()
                yield from _told(future.result(), at, layer, ground)
        while waiting:
            future, at = waiting.popleft()
            yield from _told(future.result(), at, layer, ground)


def _alone(task: Task) -> Decisions:
    # One BLAS thread: the last bits of a product depend on how many share it.
    with threadpool_limits(1):
        return decide(*task)


def _told(found: Decisions, points: np.ndarray, layer: int, ground: Ground) -> Iterator[Preimage]:
    for i, point in enumerate(points):
        kind = KINDS[found.kind[i]]
        active, tight = found.active[i], found.tight[i]
        certificate = Certificate(
            kind,
            ground,
            active,
            ~active,
            tight,
            found.multipliers[i] if found.multipliers[i].any() else None,
            found.directions[i] if found.directions[i].any() else None,
        )
        yield Preimage(kind, layer, point, active, certificate, bool(found.certified[i]), found.slack[i])


def _layer_input(network: Network, points: np.ndarray, layer: int) -> np.ndarray:
    return network.features(points, layer - 1) if layer else points


def features_of(network: Network, layer: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Weights, bias and whether a ReLU follows, of the layer as seen from its features."""
    here = network.layers[layer]
    if not decidable(here.activation):
        raise BadInput(
            f"layer {layer} has activation {here.activation.name!r}, which is neither injective nor piecewise linear "
            "and flat at its ends only (ReLU, clip); preimages are decided for these; choose another layer="
        )
    weights, bias = here.dense(), here.bias
    if network.softmax and layer == len(network.layers) - 1:
        # A softmax forgets what is added to all outputs alike, and only that.
        weights, bias = weights - weights.mean(axis=0), bias - bias.mean()
    # A row so small cannot be brought to unit length, and is zero beside the rounding of any bias.
    alive = np.abs(weights).max(axis=1, initial=0.0) >= _SMALLEST
    return weights if alive.all() else weights * alive[:, None], bias, here.activation.name == "relu"
