"""An input behind an output of a whole network: region by region, with an exact answer where the search ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, generator
from unveil.outcome import BadInput
from unveil.whitebox.activation import Activation, activation, leaky_relu
from unveil.whitebox.box import Box, ends
from unveil.whitebox.branch_and_bound import Regions
from unveil.whitebox.inversion import Inversion, allowed, from_features, given_features
from unveil.whitebox.linear_programme import Constraints, bound, minimise
from unveil.whitebox.network import Network, must_be_known
from unveil.whitebox.region import linearise
from unveil.whitebox.starting_points import starting_points
from unveil.whitebox.wanted import Wanted, between, wanted

NEWTON_STARTS = 32
"""Points of the box from which Gauss-Newton steps are tried before any linear programme."""

KICKS = 150
"""Further tries from the best points reached, moved at random: of networks of more than..."""

FEW_BREAKPOINT_NEURONS = 64
"""...so many neurons with a breakpoint before any linear programme, of others where the programmes did not decide."""

_KEPT = 4  # points that are moved


def inputs_of(  # noqa: PLR0913 - options of a public verb
    network: Network,
    output: Float[np.ndarray, " m"],
    *,
    layer: int = -1,
    within: Box = (0.0, 1.0),
    near: Float[np.ndarray, " n"] | None = None,
    tolerance: float | None = None,
    programmes: int = 2000,
    rng: Randomness | None = None,
) -> Inversion:
    """Find an input of the network that gives this output, or prove that no input in the box does.

    First by Gauss-Newton steps from those of many random points whose outputs are nearest, and from the best points
    these reach, moved at random. Then region by region: a linear programme in which every neuron lies
    between the lowest and the highest line over its interval tells how near to the output a part of the box can come
    at best; a part that cannot come near enough is closed by a bound from weak duality, any other is split at a
    breakpoint. In a part without a breakpoint the programme is exact, so that the search ends: with an input, or with
    the proof that there is none. Smooth activations that have an inverse are taken from the top: what the output
    allows is then an interval of every preactivation. Below other smooth ones, a search that finds nothing proves
    nothing, and says so.

    Args:
        network: Piecewise linear, or smooth: see above. Its inputs are those of the box.
        output: What it is to answer, (m,). With a softmax on top: probabilities, all positive.
        layer: Or the features after this layer; then without any softmax.
        within: Lowest and highest legal value, for all inputs or for each; finite.
        near: (n,), what the input is to be nearest to, in the 1-norm; `bound` then says how near any could be.
        tolerance: By how much each output may be off; by default 1e-6 of the largest, or of 1.
        programmes: How many linear programmes to solve at most.
        rng: A generator, or a seed. Draws the starting points. Default: always the same ones.

    Returns:
        The answer: "found", "none" (proved) or "not found", and how near to the output any input can come.

    Raises:
        BadInput: Wrong shapes, a box that is not finite, or probabilities that are not positive.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> found = uv.inputs_of(network, np.array([1.5]), within=(0, 1))
        >>> found.verdict, network(found.x[None]).round(6).item()
        ('found', 1.5)
        >>> uv.inputs_of(network, np.array([9.0]), within=(0, 1)).verdict
        'none'
    """
    rng = generator(0 if rng is None else rng)
    must_be_known(network)
    level = network.level(layer)
    known = network.up_to(level)
    y = given_features(network, output, level)
    if network.softmax and level == len(network.layers) - 1:
        known, y = _logits(known, y)
    floor, ceiling = ends(within, known.n)
    if not (np.isfinite(floor).all() and np.isfinite(ceiling).all()):
        raise BadInput("within= must be (lowest, highest), both finite")
    if programmes < 1:
        raise BadInput(f"programmes must be at least 1; got {programmes}")
    goal = None if near is None else known.points(near)[0]
    if goal is not None and ((goal < floor) | (goal > ceiling)).any():
        raise BadInput("near= lies outside of within=")
    seek = _Search(known, y, (floor, ceiling), goal, allowed(tolerance, y), programmes)
    return seek.answer(rng)


def _logits(known: Network, probabilities: np.ndarray) -> tuple[Network, np.ndarray]:
    """The network of logits without what they share, and what probabilities tell of these."""
    if not (probabilities > 0).all() or abs(probabilities.sum() - 1) > 1e-3:
        raise BadInput("with a softmax on top, the output must be probabilities, positive and of sum 1")
    from unveil.whitebox.label_symmetry import as_classes

    logs = np.log(probabilities)
    return as_classes(known), logs - logs.mean()


@dataclass
class _Search:
    network: Network
    y: np.ndarray
    box: tuple[np.ndarray, np.ndarray]
    goal: np.ndarray | None
    tolerance: float
    budget: int
    spent: int = 0
    best: np.ndarray = field(default_factory=lambda: np.zeros(0))
    off: float = np.inf

    def answer(self, rng: np.random.Generator) -> Inversion:
        peeled = self._peel()
        if isinstance(peeled, Inversion):
            return peeled
        reached = self._try_starts(rng)
        has_breakpoints = sum(each.neurons for each in self.network.layers if each.activation.has_breakpoints)
        decides = peeled is not None and has_breakpoints <= FEW_BREAKPOINT_NEURONS
        if not decides:
            self._kick(reached, rng)
        if peeled is None:
            names = sorted({e.activation.name for e in self.network.layers if not e.activation.piecewise_linear})
            told = f"layers with {', '.join(names)} can only be searched, which proves nothing"
            return self._told("found" if self.off <= self.tolerance else "not found", 0.0, False, told)
        if self.off > self.tolerance:
            verdict, least, complete = peeled.existence(self)
            if verdict == "not found" and decides:
                self._kick(reached, rng)
                verdict = "found" if self.off <= self.tolerance else verdict
            if verdict != "found":
                told = "every part of the box was closed" if complete else "the budget ended first"
                if complete and verdict == "not found":
                    told = "in some part of the box rounding does not let tell whether an input gives it"
                return self._told(verdict, least, complete, told)
        if self.goal is None:
            return self._told("found", 0.0, True, "an input was found")
        nearest, complete = peeled.nearest(self, self.goal)
        told = "every part of the box was closed" if complete else "the budget ended first; see `bound`"
        if complete and not peeled.whole:
            told += "; smooth layers leave open where between `bound` and `distance` the nearest is"
        return self._told("found", 0.0, complete, told, nearest)

    def _told(self, verdict: str, least: float, complete: bool, reason: str, nearest: float | None = None) -> Inversion:
        distance = None
        if self.goal is not None and verdict == "found":
            distance, nearest = float(np.abs(self.best - self.goal).sum()), max(nearest or 0.0, 0.0)
        return Inversion(
            verdict, self.best, self.off, self.tolerance, least, distance, nearest,
            programmes=self.spent, complete=complete, reason=reason,
        )  # fmt: skip

    def offer(self, x: np.ndarray, distance: bool = False) -> bool:
        """Keep an input if it is better: nearer to the output, or (of those that give it) nearer to the goal."""
        x = np.clip(x, *self.box)
        off = float(np.abs(self.network.features(x)[0] - self.y).max())
        if distance and self.goal is not None and off <= self.tolerance and self.off <= self.tolerance:
            better = np.abs(x - self.goal).sum() < np.abs(self.best - self.goal).sum()
        else:
            better = off < self.off
        if better or not len(self.best):
            self.best, self.off = x, off
        return bool(better)

    def polished(self, x: np.ndarray, steps: int = 40, through: Network | None = None) -> np.ndarray:
        """Gauss-Newton steps inside the box, each the shortest that would do, of inputs that are not held by a wall.

        Args:
            x: The first point.
            steps: At most.
            through: Another network than the one in question, of which the output is wanted.
        """
        low, high = self.box
        network = self.network if through is None else through
        x = np.clip(x, low, high)
        miss = self.y - network.features(x)[0]
        for _ in range(steps):
            jacobian = linearise(network, x).matrix
            step, held = np.zeros(len(x)), np.zeros(len(x), bool)
            for _ in range(4):
                step = np.zeros(len(x))
                step[~held] = np.linalg.lstsq(jacobian[:, ~held], miss, rcond=1e-10)[0]
                out = ((x >= high) & (step > 0)) | ((x <= low) & (step < 0))
                if not (out & ~held).any():
                    break
                held |= out
            # The longest step that helps.
            lengths = np.array([1.0, 0.5, 0.25, 0.1, 0.03])
            ahead = np.clip(x + lengths[:, None] * step, low, high)
            left = self.y - network.features(ahead)
            size = np.linalg.norm(left, axis=1)
            helps = np.flatnonzero(size < np.linalg.norm(miss) * (1 - 0.01 * lengths))
            if not helps.size:
                break
            x, miss = ahead[helps[0]], left[helps[0]]
            if np.abs(miss).max() <= 1e-4 * self.tolerance:
                break
        return x

    def _try_starts(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Gauss-Newton steps from the goal, the middle, and those of many points that are nearest to the output.

        Returns:
            Where they ended, the best first.
        """
        drawn = starting_points(self.network, *self.box, rng)
        off = np.linalg.norm(self.network.features(drawn) - self.y, axis=1)
        starts = [self.goal] if self.goal is not None else []
        starts += [(self.box[0] + self.box[1]) / 2, *drawn[np.argsort(off, kind="stable")[: NEWTON_STARTS - 1]]]
        reached = []
        for start in starts:
            reached.append(self.polished(start))
            self.offer(reached[-1])
            if self.off <= self.tolerance / 10:
                break
        return sorted(reached, key=self._miss)

    def _kick(self, reached: list[np.ndarray], rng: np.random.Generator) -> None:
        """From the best points reached, some coordinates moved towards a random point, Gauss-Newton steps once more."""
        best = reached[:_KEPT]
        misses = [self._miss(x) for x in best]
        drawn = starting_points(self.network, *self.box, rng)
        for number in range(KICKS):
            if self.off <= self.tolerance:
                return
            place = number % len(best)
            x, to = best[place], drawn[rng.integers(len(drawn))]
            moved = rng.random(len(x)) < rng.uniform(0.05, 1)
            x = np.where(moved, x + rng.uniform(0.05, 0.5) * (to - x), x)
            if number % 2:
                x = self.polished(x, through=_leaking(self.network, float(10 ** rng.uniform(-2.5, -0.5))))
            x = self.polished(x)
            self.offer(x)
            if (miss := self._miss(x)) < misses[place]:
                best[place], misses[place] = x, miss

    def _miss(self, x: np.ndarray) -> float:
        return float(np.linalg.norm(self.network.features(x)[0] - self.y))

    def _peel(self) -> Regions | Inversion | None:
        """What smooth layers on top allow below them; None where some layer below has no inverse.

        An output within the tolerance is a preactivation between two ends. Of the layer below each feature lies between
        the least and the largest that linear programmes find: that is more than the output allows, never less.
        """
        network, y, tolerance = self.network, self.y, self.tolerance
        if network.piecewise_linear:
            return Regions(network, wanted(activation("identity"), y, tolerance), self.box, tolerance)
        top = len(network.layers) - 1
        phi = network.layers[top].activation
        if not _gives_an_interval(phi):
            return None
        found = from_features(network, y, top, _range(network, self.box, top - 1), None, 2, tolerance)
        self.spent += 1
        if found.verdict == "none":
            self.offer((self.box[0] + self.box[1]) / 2)
            return self._told("none", found.least, True, f"layer {top}: {found.reason or 'no input of it fits'}")
        allowed = wanted(phi, y, tolerance)
        while not _straight(network).piecewise_linear:
            below = network.layers[top - 1].activation
            if not _gives_an_interval(below):
                return None
            ends = self._features_below(network, allowed)
            if ends is None:
                return None
            allowed, network, top = between(below, *ends, tolerance), network.up_to(top - 1), top - 1
        return Regions(
            _straight(network), allowed, self.box, tolerance, len(network.layers) == len(self.network.layers)
        )

    def _features_below(self, network: Network, allowed: Wanted) -> tuple[np.ndarray, np.ndarray] | None:
        """Least and largest features of the last layer but one, by weak duality; None where the solver finds none."""
        top = network.layers[-1]
        low, high = allowed.low - allowed.less * self.tolerance, allowed.high + allowed.more * self.tolerance
        floor, ceiling = _range(network, self.box, len(network.layers) - 2)
        within = Constraints(top.dense(), low - top.bias, high - top.bias, floor, ceiling)
        least = []
        for cost in np.vstack([np.eye(len(floor)), -np.eye(len(floor))]):
            found = minimise(cost, within)
            self.spent += 1
            if found is None:
                return None
            least.append(bound(cost, within, found.multipliers))
        ends = np.array(least).reshape(2, -1)
        return np.maximum(ends[0], floor), np.minimum(-ends[1], ceiling)


def _gives_an_interval(phi: Activation) -> bool:
    """Whether features between two ends are all preactivations between two others."""
    return phi.monotone and (phi.piecewise_linear or (phi.injective and phi.inverse is not None))


def _straight(network: Network) -> Network:
    """The network of the last layer's preactivations."""
    last = replace(network.layers[-1], activation=activation("identity"))
    return replace(network, layers=(*network.layers[:-1], last))


def _leaking(network: Network, slope: float) -> Network:
    """The network with ReLUs that pass a part of what is negative, so that neurons at rest show a way as well."""
    leaky = leaky_relu(slope)
    return replace(
        network,
        layers=tuple(
            replace(each, activation=leaky) if each.activation.name == "relu" else each for each in network.layers
        ),
    )


def _range(network: Network, box: tuple[np.ndarray, np.ndarray], layer: int) -> tuple[np.ndarray, np.ndarray]:
    """What the features of a layer lie between for inputs of the box (-1: the inputs themselves), layer by layer."""
    low, high = box
    for each in network.layers[: layer + 1]:
        weights, phi = each.dense(), each.activation
        up, down = np.maximum(weights, 0), np.minimum(weights, 0)
        low, high = up @ low + down @ high + each.bias, up @ high + down @ low + each.bias
        if not phi.monotone:
            return np.full(each.neurons, -np.inf), np.full(each.neurons, np.inf)
        low, high = np.asarray(phi.value(low)), np.asarray(phi.value(high))
    return low, high
