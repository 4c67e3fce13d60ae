"""Rectifiers: one or two hidden layers of softplus, GELU, SiLU or ELU, which look like ReLU from afar.

They differ from ReLU near their breakpoint only, so far from the origin the network is a ReLU network without biases:
its gradient is the same throughout a cone. Where the gradient jumps, a first-layer neuron jumps along its own weights,
wherever it is met; a deeper one along weights that depend on the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import unit_rows
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished
from unveil.identification.fitting.output_layer import with_output
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading, SmoothMethod, final_fit, fit_points
from unveil.identification.smooth.inner_oracle import Behind
from unveil.identification.smooth.one_hidden_layer import OneHiddenLayer
from unveil.identification.smooth.rank_one import apart
from unveil.identification.smooth.single_neuron import fit_shape
from unveil.whitebox.activation import RECTIFIERS, Activation, activation
from unveil.whitebox.network import Network


@dataclass(frozen=True)
class Rectifiers(SmoothMethod):
    """Identify a network with one or two hidden layers of smooth rectifiers, the first no wider than the input, on an
    unbounded domain.

    1. Half circles far out, where the network is piecewise linear: gradient jumps met twice are first-layer weights.
    2. A profile across each breakpoint, all others far: scale and shift; the side at rest gives the sign.
    3. The network behind the first layer has one hidden layer: `OneHiddenLayer`, asked through the first.
    4. Least squares on everything.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer; None: found, the same in both.
        widths: Neurons of the hidden layers, if known.
        attempts: How often to start again, with other circles, when the result fails its check.

    Queries: about `200 + (k + r) (30 + n)` for each of three to eight half circles, `190 k` for the profiles, then
        those of `OneHiddenLayer` with k inputs.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> first, last = (rng.standard_normal((2, 5)), np.array([0.3, -0.2])), (np.array([[1.0, -2.0]]), np.zeros(1))
        >>> truth = uv.Network.from_weights([first, last], activation="softplus")
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=5), uv.Rectifiers(), rng=rng)
        >>> found.outcome.name, found.network.widths
        ('complete', (2, 1))
    """

    def _once(self, reading: Reading) -> Polished | None:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        names = (self.activation,) if isinstance(self.activation, str) else self.activation
        inner = RECTIFIERS if names is None else names[:1]
        found_first = read_first_layer(reading, inner, self.widths[0] if self.widths else None)
        if found_first is None:
            return None
        layer, misfit = found_first[0], reading.stats["profile misfit"]
        if names is None:
            reading.why.append(f"{layer.activation.name} fits the breakpoints best, to {misfit:.2g}")
        network = self._one_layer(oracle, layer, rng)
        if network is None:
            rank = self.widths[1] if self.widths and len(self.widths) > 1 else None
            name = names[-1] if names else layer.activation.name
            found = OneHiddenLayer(name, rank)(Behind(oracle, layer), rng=rng)
            if found.network is None:
                reading.why.extend(found.why)
                return None
            network = layer.before(found.network)
        stages.end("second layer")
        fit = final_fit(oracle, network, noise, rng)
        stages.end("all: fit")
        return fit

    def _one_layer(self, oracle: Oracle, layer: FirstLayer, rng: np.random.Generator) -> Network | None:
        """The network without a second hidden layer, if one explains the answers."""
        if self.widths is not None and len(self.widths) > 1:
            return None
        x = fit_points(oracle, layer.weights, 2 * len(layer.shifts) + 12, rng)
        answers = oracle(x)
        network = layer.before(with_output([], layer(x), answers))
        far = 1e-4 * float(np.ptp(answers, axis=0).max())
        return network if np.abs(network(x) - answers).max() <= far else None


FAR_CIRCLE_RADIUS = 1e8
# Where breakpoints are looked at closely: as far as rounding leaves enough digits of a breakpoint.
CLOSE_LOOK_RADIUS = 1e6
_PLACES = 6
_REST = 1e3  # preactivation at which a neuron is one of its two straight halves
_FINEST = 1e-5  # angle to which breakpoints on a circle are told apart
_NEAR = 1e-3  # angle over which a gradient is differenced, at most
_GRID = 96
_CIRCLES = 40  # half circles at most
_QUIET = 4  # half circles without a new neuron after which all are taken to be found
SAME_NEURON_SINE = 1e-6  # sine of the angle below which two jumps are the same neuron's


def looks_rectified(oracle: Oracle, rng: np.random.Generator) -> bool:
    """Whether answers grow in proportion to the distance along most rays, but not as a linear function would. Queries:
    96."""
    if oracle.within is not None or oracle.dtype != np.float64:
        return False
    rays = rng.standard_normal((24, oracle.n))
    near, far, back = (
        oracle(oracle.nearest(scale * rays)) for scale in (FAR_CIRCLE_RADIUS, 2 * FAR_CIRCLE_RADIUS, -FAR_CIRCLE_RADIUS)
    )
    origin = oracle(oracle.nearest(1e-3 * rays))
    size = float(np.abs(near - origin).max())  # along some rays everything may be at rest
    grown = np.abs(far - 2 * near + origin).max(axis=1) <= 1e-6 * size
    linear = np.abs(near + back - 2 * origin).max(axis=1) <= 1e-6 * size
    return bool(size > 0 and grown.mean() >= 0.7 and linear.mean() <= 0.7)


def breakpoint_directions(
    oracle: Oracle, *, rng: np.random.Generator, count: int | None = None
) -> Float[np.ndarray, "k n"]:
    """Unit weights of the first layer, up to sign: gradient jumps that are met on two half circles.

    `oracle`: without a box. `count`: how many there are; found if None, no more than inputs. Queries: about
    `200 + j (30 + n)` for each circle with j jumps.
    """
    known = np.empty((0, oracle.n))
    seen = np.empty(0, dtype=int)
    quiet = confirmed = 0
    for _ in range(_CIRCLES):
        for jump in jumps(oracle, rng):
            likeness = np.abs(known @ jump)
            if len(known) and likeness.max() > 1 - SAME_NEURON_SINE**2 / 2 - 1e-15:
                seen[likeness.argmax()] += 1
            else:
                known = np.concatenate([known, jump[None]])
                seen = np.append(seen, 1)
        # With few neurons a deeper one may by chance jump the same way twice; it is a combination of the first layer's.
        twice = known[[i for i in np.argsort(-seen, kind="stable") if seen[i] >= 2]]
        independent = twice[apart(twice, 1e-4, oracle.n if count is None else count)]
        quiet = quiet + 1 if 0 < len(independent) == confirmed else 0
        confirmed = len(independent)
        if confirmed >= (oracle.n if count is None else count) or (count is None and quiet >= _QUIET):
            break
    return independent


def jumps(oracle: Oracle, rng: np.random.Generator) -> list[np.ndarray]:
    """Directions in which the gradient jumps along a half circle, one for each breakpoint that could be told apart. The
    half circle is random, and so is the direction of the slopes that are compared."""
    n = oracle.n
    if n == 1:  # there is no circle, and one direction alone
        return [np.ones(1)]
    frame, begin = np.linalg.qr(rng.standard_normal((n, 2)))[0].T, rng.uniform(0, 1e-2)
    along = unit_rows(rng.standard_normal((1, n)))[0]

    def point(angle: np.ndarray) -> np.ndarray:
        return np.asarray(FAR_CIRCLE_RADIUS * (np.cos(angle)[:, None] * frame[0] + np.sin(angle)[:, None] * frame[1]))

    def slope(angle: np.ndarray) -> np.ndarray:
        h = 0.03 * FAR_CIRCLE_RADIUS * _FINEST
        x = np.concatenate([point(angle) + h * along, point(angle) - h * along])
        ahead, behind = np.split(oracle(oracle.nearest(x)), 2)
        return np.asarray((ahead - behind) / (2 * h))

    angle = begin + np.linspace(0, np.pi, _GRID + 1)
    value = slope(angle)
    least = 1e-7 * float(np.abs(value).max())
    while True:
        moved = np.abs(np.diff(value, axis=0)).max(axis=1) > least
        split = moved & (np.diff(angle) > _FINEST)
        if not split.any():
            break
        middle = (angle[:-1][split] + angle[1:][split]) / 2
        order = np.argsort(np.concatenate([angle, middle]), kind="stable")
        value = np.concatenate([value, slope(middle)])[order]
        angle = np.concatenate([angle, middle])[order]
    breakpoints = np.flatnonzero(moved)
    if len(breakpoints) == 0:
        return []
    # The straight pieces between breakpoints, and the gradient in the middle of each.
    left = np.append(angle[0], angle[breakpoints + 1])
    right = np.append(angle[breakpoints], angle[-1])
    wide = right - left > 2 * _FINEST
    middle = (left + right)[wide] / 2
    h = FAR_CIRCLE_RADIUS * np.minimum(
        0.02 * (right - left)[wide], _NEAR
    )  # other breakpoints may be near beside the arc
    moves = h[:, None, None] * np.eye(n)
    base = point(middle)
    here = oracle(oracle.nearest(base))
    there = oracle(oracle.nearest((base[:, None] + moves).reshape(-1, n))).reshape(len(base), n, -1)
    gradients = (there - here[:, None]) / h[:, None, None]
    found = []
    places = np.flatnonzero(wide)
    # (differences of slopes on both sides of one breakpoint may differ from that across it: two intervals, still one
    # breakpoint)
    for i in np.flatnonzero(left[places[1:]] - right[places[:-1]] < 2.5 * _FINEST):
        vectors, sizes, _ = np.linalg.svd(gradients[i + 1] - gradients[i], full_matrices=False)
        # One neuron's jump is the same direction in every output.
        if sizes[0] > least and (len(sizes) == 1 or sizes[1] < 1e-5 * sizes[0]):
            found.append(vectors[:, 0])
    return found


def first_layer(
    oracle: Oracle, directions: Float[np.ndarray, "k n"], activations: Sequence[Activation], *, rng: np.random.Generator
) -> tuple[FirstLayer, Float[np.ndarray, " j"]]:
    """Scales and shifts from profiles across each breakpoint, signs from which side is at rest; and the profiles'
    misfits: with the activation of these that explains most breakpoints, best.

    Queries: about `140 k`, however many activations, and `48 k` where a neuron's mirror image is affinely its own
    """
    said = [_believed(oracle, each, activations, rng) for each in directions]
    # The others have no breakpoint elsewhere: they are no first-layer neurons.
    real = [[i for i, told in enumerate(said) if each.name in told] for each in activations]

    def worst(a: int) -> float:
        return max((said[i][activations[a].name].misfit for i in real[a]), default=0.0)

    best = min(range(len(activations)), key=lambda a: (-len(real[a]), worst(a)))
    activation, kept = activations[best], real[best]
    fits = [said[i][activation.name] for i in kept]
    scales, shifts = np.array([fit.scale for fit in fits]), np.array([fit.shift for fit in fits])
    layer = FirstLayer(directions[kept] * scales[:, None], shifts, activation, _REST)
    if activation.parity == "affine" and kept:
        signs = _signs(oracle, layer, rng)
        layer = FirstLayer(layer.weights * signs[:, None], layer.shifts * signs, activation, _REST)
    return layer, np.array([fit.misfit for fit in fits])


def _believed(
    oracle: Oracle, direction: Float[np.ndarray, " n"], activations: Sequence[Activation], rng: np.random.Generator
) -> dict[str, Fit]:
    """What two places on a breakpoint say alike, for each activation; a deeper neuron's breakpoint may lie at one.

    Places are looked at until the activation that fits best is among these. Queries: those of `profile` for each place.
    """
    said: dict[str, list[Fit]] = {each.name: [] for each in activations}
    told: dict[str, Fit] = {}
    rays = rng.standard_normal((_PLACES, oracle.n))
    for base in CLOSE_LOOK_RADIUS * unit_rows(rays - np.outer(rays @ direction, direction)):
        seen = profile(oracle, base, direction)
        for each in activations:
            fit = seen.fitted(each)
            agrees = [old for old in said[each.name] if old.like(fit)]
            said[each.name].append(fit)
            if agrees and each.name not in told:
                told[each.name] = min(agrees[0], fit, key=lambda fit: fit.misfit)
        if min(said, key=lambda name: min(fit.misfit for fit in said[name])) in told:
            break
    return told


def read_first_layer(
    reading: Reading, names: Sequence[str], count: int | None
) -> tuple[FirstLayer, Float[np.ndarray, " j"]] | None:
    """The first layer with the activation of these that explains most breakpoints, best; None where none are met.

    `reading`: on an unbounded domain. `names`: activations. `count`: neurons, if known. Queries: those of
    `breakpoint_directions`, and of `first_layer`.
    """
    oracle, rng, stages = reading.oracle, reading.rng, reading.stages
    directions = breakpoint_directions(oracle, rng=rng, count=count)
    stages.end("first layer: directions")
    reading.stats["breakpoints"] = len(directions)
    reading.why.append(f"gradients jump along {len(directions)} directions on two half circles or more")
    if not len(directions):
        return None
    layer, misfits = first_layer(oracle, directions, [activation(name) for name in names], rng=rng)
    stages.end("first layer: scales")
    reading.stats["profile misfit"] = float(misfits.max(initial=0.0))
    return (layer, misfits) if len(misfits) else None


def _signs(oracle: Oracle, layer: FirstLayer, rng: np.random.Generator) -> np.ndarray:
    """Which way round each neuron is: at rest, moving its preactivation alone moves nothing. Queries: 48 for each
    neuron."""
    k = len(layer.shifts)
    back = np.linalg.pinv(layer.weights)  # column i moves preactivation i alone
    signs = np.ones(k)
    for i in range(k):
        z = _REST * rng.uniform(1, 2, (12, k)) * rng.choice([-1.0, 1.0], (12, k))
        change = []
        for side in (-1.0, 1.0):
            z[:, i] = side * _REST
            base = (z - layer.shifts) @ back.T
            step = 50 * back[:, i]
            change.append(float(np.abs(oracle(oracle.nearest(base + step)) - oracle(oracle.nearest(base))).sum()))
        signs[i] = 1.0 if change[0] < change[1] else -1.0
    return signs


class Fit(NamedTuple):
    """`phi(scale s + shift)` at s times a direction."""

    scale: float  # positive where the activation's mirror image is affinely its own, so that both fit
    shift: float
    misfit: float  # relative

    def like(self, other: Fit) -> bool:
        """Whether both can be one neuron."""
        return bool(abs(self.scale / other.scale - 1) + abs(self.shift - other.shift) < 1e-3)


class Profile(NamedTuple):
    """Answers across one breakpoint alone: at `centre + reach * places` times the direction, less their means."""

    centre: float
    reach: float
    places: Float[np.ndarray, " s"]
    answers: Float[np.ndarray, "s m"]

    def fitted(self, activation: Activation) -> Fit:
        """`a + b s + c phi(scale s + shift)` by least squares."""
        s = self.places
        if not len(s):
            return Fit(np.nan, np.nan, np.inf)

        def columns(z: Float[np.ndarray, " s"]) -> Float[np.ndarray, "s 3"]:
            return np.stack([np.ones_like(s), s, activation.value(z)], axis=1)

        even = activation.parity == "affine"
        signs = (1.0,) if even else (1.0, -1.0)
        starts = [(sign * scale, 0.0) for sign in signs for scale in (2.0, 4.0, 8.0)]
        spread = float(np.sqrt((self.answers**2).mean())) or 1.0
        fit = fit_shape(s, self.answers / spread, columns, starts, steps=200)
        turn = -1.0 if even and fit.scale < 0 else 1.0
        scale, shift = turn * fit.scale / self.reach, turn * fit.shift
        return Fit(scale, shift - scale * self.centre, float(np.sqrt(2 * fit.cost / len(s))))


def profile(oracle: Oracle, base: Float[np.ndarray, " n"], direction: Float[np.ndarray, " n"]) -> Profile:
    """Answers from base along a direction, where they bend; none where they do not. Queries: 69."""

    def ask(s: np.ndarray) -> np.ndarray:
        return oracle(oracle.nearest(base + s[:, None] * direction))

    # The asymptotes meet where the preactivation is zero, if the activation is even beside its linear half.
    far = np.array([-400.0, -300.0, 300.0, 400.0])
    y = ask(far)
    low, high = (y[1] - y[0]) / 100, (y[3] - y[2]) / 100
    output = int(np.abs(high - low).argmax())
    jump = high[output] - low[output]
    if jump == 0:
        return Profile(0.0, 1.0, np.empty(0), np.empty((0, oracle.m)))
    centre = (y[0, output] + 400 * low[output] - y[3, output] + 400 * high[output]) / jump
    # How far the bend reaches: the scale, for any activation.
    apart = 10.0 ** np.linspace(-1.5, 2.3, 16)
    places = centre + np.concatenate([-apart, apart])
    left = y[0, output] + low[output] * (places - far[0])
    right = y[3, output] + high[output] * (places - far[3])
    bend = np.abs(ask(places)[:, output] - np.where(places < centre, left, right))
    bent = np.abs(places - centre)[bend > 0.02 * bend.max()]
    reach = float(bent.max())
    s = np.linspace(-1.5, 1.5, 33)
    answers = ask(centre + reach * s)
    return Profile(float(centre), reach, s, answers - answers.mean(axis=0))
