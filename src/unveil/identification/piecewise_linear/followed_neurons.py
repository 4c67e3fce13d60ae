"""follow, settle_wide: hyperplanes of second-layer neurons, across those of a first layer wider than the input.

Where more neurons of the first layer are active than the input has coordinates, no normal tells the weights of a neuron
behind them. How its hyperplane bends where it meets that of a first-layer neuron tells the weight between the two, and
whichever side of that one is active: `relu(z) = (z + |z|) / 2` and `relu(-z) = (|z| - z) / 2` bend alike. What is left
of the normal once all bends are known is linear in the input, and tells the sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import (
    CriticalPoint,
    measure_normals,
    points_of,
    search,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import explained
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sign_recovery import DEPENDENT

# How far out a hyperplane is followed, in typical inputs, unless it was met further out; ways to a hyperplane that are
# tried, and crossings on each.
FOLLOWING_REACH, WAYS, CROSSINGS_PER_WAY = 3.0, 3, 60
VAIN_CROSSINGS = 10  # where so many more crossings tell nothing than do it is no neuron of the second layer, and left
RANDOM_WAY_SHARE = 0.3  # share of a random direction in the way to a hyperplane
# Where two hyperplanes cross answers are compared this far around, as a share of the way to the next one, nearer where
# another hyperplane comes between; no nearer than this, in typical inputs.
CROSSING_ROOM_SHARE, CROSSING_RADIUS_FACTORS, LEAST_CROSSING_RADIUS = 0.3, (1.0, 0.1, 0.01), 1e-6
# Directions in which they are, how far from the hyperplane of the first layer these stay, in radians, and on how many
# of them a linear function must hold: through three points of a fan one goes whatever they are.
ANGLES, FAN_MARGIN_ANGLE, LEAST_FAN_DIRECTIONS = 24, 0.15, 4
# Deviations of the noise that what no two linear functions explain may be, and that a jump of the slopes must be.
LINEAR_MISFIT_SIGMAS, SLOPE_JUMP_SIGMAS = 20.0, 300.0
SAME_JUMP_DIFFERENCE = 1e-5  # a jump differs from what it should be by no more than this share
ZERO_PREACTIVATION = 1e-6  # neurons followed are those of the points at which they are zero to this part
LEAST_CROSSING_SINE = 1e-3  # sine of the angle between hyperplanes that cross, at least
FOLLOWABLE_ERROR = 1e-5  # normals with larger errors begin nothing, bends with such ones tell no weight
SLOPE_LEFT_SHARE = 1e-7  # part of a slope, in units of all weights, up to which the weights found make it up
SIDE_FIT_DEVIATION = 0.1  # a side is told if a fit of all comes so close to it


@dataclass(frozen=True)
class FollowedNeuron:
    """What it sums up, up to sign: `weights . |z| / 2 + slope . x + bias`, for z of the first layer."""

    weights: Float[np.ndarray, " k"]  # zero where its hyperplane did not meet that of the first layer's neuron
    known: Bool[np.ndarray, " k"]  # where it did
    side: Float[np.ndarray, " k"]  # of the others, on which side it was followed
    slope: Float[np.ndarray, " n"]
    bias: float  # the normal has unit length where the neuron was met first
    error: float  # expected error of the weights
    at: Float[np.ndarray, " n"]  # where it was met first

    def zero(self, layer: AffineMap, x: Float[np.ndarray, " n"]) -> bool:
        """Whether this point is on its hyperplane."""
        z = layer[0] @ x + layer[1]
        if (np.sign(z) != self.side)[~self.known].any():
            return False
        off = self.weights @ np.abs(z) / 2 + self.slope @ x + self.bias
        return bool(abs(off) < ZERO_PREACTIVATION * (1 + np.abs(self.weights) @ np.abs(z)))

    def among(self, there: Bool[np.ndarray, " k"]) -> FollowedNeuron:
        """The same for some of the first layer's neurons; at the hyperplanes of the others it does not bend."""
        return replace(self, weights=self.weights[there], known=self.known[there], side=self.side[there])

    def behind(self, layer: AffineMap, turned: Float[np.ndarray, " k"], key: int) -> Neuron | None:
        """The same behind the first layer with its sides settled; None where too few bends tell its weights, or these
        do not make up its slope. `layer`: as it was when this neuron was followed. `turned`: -1 where the other side is
        active. `key`: of the neuron."""
        rows, bias = layer
        on = ~self.known & (self.side == turned)
        # Where those that were not met are active their normals are in the slope, and so are their biases.
        rest = self.slope - (self.weights * turned) @ rows / 2
        weights = self.weights.copy()
        if on.sum() >= len(rest):
            return None
        if on.any():
            weights[on], _, rank, _ = np.linalg.lstsq((turned[:, None] * rows)[on].T, rest, rcond=DEPENDENT)
            if rank < on.sum():
                return None  # of parallel rows only the sum is told
        known = self.known | on
        # Nothing else is in it, unless a bend was another neuron's.
        if np.linalg.norm(rest - (turned * weights * on) @ rows) > SLOPE_LEFT_SHARE * np.linalg.norm(weights):
            return None
        # Where it was met is known to the last digit, what is left of its slope no better than the normal there.
        offset = -float(weights @ np.maximum(turned * (rows @ self.at + bias), 0))
        size = float(np.linalg.norm(weights))
        return Neuron.given(weights[known] / size, offset / size, self.error, key).among(known)


class Change(NamedTuple):
    """How a hyperplane bends where it meets another: the weight, a point behind it, and the weight's error."""

    weight: float
    x: Float[np.ndarray, " n"]
    error: float


class Crossing(NamedTuple):
    """Where a hyperplane meets another one that is known."""

    y: Float[np.ndarray, " n"]  # where
    other: Float[np.ndarray, " n"]  # the unit normal of that one
    up: float  # 1 where the way leads to its positive side, -1 to the other
    normal: Float[np.ndarray, " n"]  # of the hyperplane before
    jump: Float[np.ndarray, " m"]  # of the answers' slope across it, for a step by which its neuron gains one


def follow(
    probe: Probe,
    layer: AffineMap,
    seen: CriticalPoint,
) -> FollowedNeuron | None:
    """Follow a hyperplane across those of the first layer.

    `layer`: the first layer, rows of unit norm, sides open. None where it meets hardly any of
    them. Queries: `ANGLES` for each neuron of the first layer that is met, some times more where others are near.
    """
    rows, bias = layer
    k = len(bias)
    weights, known, errors = np.zeros(k), np.zeros(k, dtype=bool), [0.0]
    (x, normal), jump = (seen.x, seen.normal), seen.jump
    start, begun, reach = x, normal, max(FOLLOWING_REACH * probe.noise.size, float(np.linalg.norm(x)))
    where = np.sign(rows @ x + bias)
    first, failed = where.copy(), 0
    for j in probe.rng.permutation(k):
        for way in range(WAYS):
            if known[j] or failed > VAIN_CROSSINGS + known.sum():
                break
            if way:
                # From where all is known to be as it was.
                x, normal, where = start, begun, first.copy()
            for _ in range(CROSSINGS_PER_WAY):
                met = _next(probe, layer, x, normal, int(j))
                if met is None or np.linalg.norm(met[0]) > reach:
                    break
                y, i = met
                up = -where[i]
                if not known[i]:
                    apart = np.abs(rows @ y + bias)
                    apart[i] = np.inf
                    room = CROSSING_ROOM_SHARE * min(float(apart.min()), probe.noise.size)
                    change = bend_at(probe, Crossing(y, rows[i], up, normal, jump), room)
                    if change is None or change.error > FOLLOWABLE_ERROR:
                        failed += 1
                        break
                    weights[i], known[i] = change.weight, True
                    errors.append(change.error)
                    y = change.x
                normal = normal + up * weights[i] * rows[i]
                where[i] = up
                x = _onward(layer, y, i, up, normal)
                if i == j:
                    break
    if known.sum() < k / 2:
        return None
    slope = begun - (weights * first) @ rows / 2
    offset = -float(weights @ np.abs(rows @ start + bias) / 2 + slope @ start)
    return FollowedNeuron(weights, known, first, slope, offset, float(np.hypot(np.median(errors), seen.error)), start)


def _next(
    probe: Probe, layer: AffineMap, x: Float[np.ndarray, " n"], normal: Float[np.ndarray, " n"], j: int
) -> tuple[Float[np.ndarray, " n"], int] | None:
    """Where a way within a hyperplane to that of neuron `j` first meets one of the first layer's, and which."""
    rows, bias = layer
    z = rows @ x + bias
    toward = -np.sign(z[j]) * rows[j]
    aside = probe.rng.standard_normal(len(x))
    v = toward + RANDOM_WAY_SHARE * aside / np.linalg.norm(aside)
    v -= normal * (normal @ v) / (normal @ normal)
    rate = rows @ v
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -z / rate
    t[~(t > 0)] = np.inf
    i = int(t.argmin())
    return (x + t[i] * v, i) if np.isfinite(t[i]) else None


def _onward(
    layer: AffineMap, y: Float[np.ndarray, " n"], i: int, up: float, normal: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """A point of the hyperplane behind that of neuron `i`, half as far as the next one."""
    rows, bias = layer
    v = up * rows[i] - normal * (normal @ rows[i]) * up / (normal @ normal)
    z, rate = rows @ y + bias, rows @ v
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -z / rate
    t[i] = np.inf
    return np.asarray(y + min(float(t[t > 0].min(initial=1.0)), 1.0) / 2 * v)


def bend_at(probe: Probe, here: Crossing, room: float) -> Change | None:
    """How a hyperplane bends at a crossing, from answers around it on the side ahead. There they are two linear
    functions, equal on the hyperplane. Where they are not, another one passes close by. Coordinates are along either
    hyperplane, so that it goes through the middle of the points however small the angle between the two. `room`: how
    far around nothing that is known passes. Queries: `ANGLES`, some times more where others are near."""
    y, other, up, normal, strength = here
    across = normal / np.linalg.norm(normal)
    ahead, within = up * (other - (other @ across) * across), across - (other @ across) * other
    length = float(np.linalg.norm(ahead))
    if length < LEAST_CROSSING_SINE:
        return None
    ahead, within = ahead / length, within / length
    basis, plane = np.array([ahead, within]), _fan()
    a, b = float(other @ ahead), float(normal @ within)
    for nearer in CROSSING_RADIUS_FACTORS:
        radius = nearer * room
        if radius < LEAST_CROSSING_RADIUS * probe.noise.size:
            return None
        points = y + radius * (plane @ basis)
        answers = probe.ask(points)
        sigma = float(probe.noise.at(points, answers).max())
        split = _two_pieces(plane, answers, sigma)
        if split is None:
            continue
        jump, share = split
        side = np.linalg.svd(jump[:2])[0][:, 0]
        gap = float(np.linalg.norm(side @ jump[:2]))
        # Along the hyperplane behind the other one, and how far from the point it passes.
        slope = float(side[0] / side[1])
        told = b / a * slope
        along = np.array([side[1], -side[0]]) * np.sign(side[1])
        beside = -(jump[2] @ (side @ jump[:2])) / gap**2
        x = y + radius * ((along / 2 + beside * side) @ basis)
        # Of another hyperplane that passes there the slopes jump by something else.
        should = radius * np.outer([told * a, b], strength)
        off = min(float(np.linalg.norm(jump[:2] - each)) for each in (should, -should))
        if off > SAME_JUMP_DIFFERENCE * np.linalg.norm(should):
            # Layers behind pass on another part of it here.
            back = probe.ask(y - radius * (plane @ basis))
            passed = _two_pieces(-plane, back, sigma)
            if passed is None:
                continue
            should = np.outer([told * a / b, 1.0], passed[0][1])
            off = min(float(np.linalg.norm(jump[:2] - each)) for each in (should, -should))
            if off > SAME_JUMP_DIFFERENCE * np.linalg.norm(should):
                continue
        return Change(up * told, x, share * abs(b / a) * (1 + slope**2))
    return None


def _fan() -> Float[np.ndarray, "N two"]:
    """Points around the origin of a plane, where the first coordinate is positive, near and far in turn. They are dense
    at both ends, where few must tell a linear function."""
    angle = (np.pi / 2 - FAN_MARGIN_ANGLE) * np.sin(np.linspace(-np.pi / 2, np.pi / 2, ANGLES))
    plane = np.column_stack([np.cos(angle), np.sin(angle)])
    plane[::2] /= 2
    return plane


def _two_pieces(
    plane: Float[np.ndarray, "N two"], answers: Float[np.ndarray, "N m"], sigma: float
) -> tuple[Float[np.ndarray, "three m"], float] | None:
    """Two affine functions that explain answers around a point: their difference, and its relative error."""
    F, best = np.column_stack([plane, np.ones(len(plane))]), None
    for cut in range(LEAST_FAN_DIRECTIONS, ANGLES - LEAST_FAN_DIRECTIONS + 1):
        parts, left, doubt = [], 0.0, 0.0
        for some in (slice(cut), slice(cut, None)):
            solution, _, _, s = np.linalg.lstsq(F[some], answers[some], rcond=None)
            left = max(left, float(np.abs(F[some] @ solution - answers[some]).max()))
            doubt = max(doubt, sigma / float(s[-1]))
            parts.append(solution)
        if best is None or left < best[0]:
            best = left, parts[1] - parts[0], doubt
    assert best is not None
    left, jump, doubt = best
    size = float(np.linalg.norm(jump[:2]))
    return (jump, doubt / size) if left < LINEAR_MISFIT_SIGMAS * sigma and size > SLOPE_JUMP_SIGMAS * sigma else None


def sides(layer: AffineMap, followed: Sequence[FollowedNeuron]) -> Float[np.ndarray, " k"] | None:
    """Which sides of the first layer's neurons are active, -1 where the other one; None where that is not told.

    Each neuron's slope is half the sum of its weights times the normals, each on the active side; a neuron that was not
    met on the way may add any multiple of its own.
    """
    rows = layer[0]
    equations, right = [], []
    for one in followed:
        q = np.linalg.qr(rows[~one.known].T)[0]
        apart = np.eye(rows.shape[1]) - q @ q.T if (~one.known).any() else np.eye(rows.shape[1])
        equations.append(apart @ (one.weights[:, None] * rows).T / 2)
        right.append(apart @ one.slope)
    solution, _, rank, _ = np.linalg.lstsq(np.concatenate(equations), np.concatenate(right), rcond=1e-6)
    if rank < len(rows) or np.abs(np.abs(solution) - 1).max() > SIDE_FIT_DEVIATION:
        return None
    return np.asarray(np.sign(solution))


# Fresh lines in a row on which no new neuron is met; most neurons, in units of the first layer's.
BARREN_LINES, MOST_FOLLOWED = 6, 4
FAILED_FOLLOWINGS = 60  # hyperplanes that cannot be followed, where none could, after which it is given up
# A weight so small beside the largest is none; how many neurons must have crossed a hyperplane for that to be told.
ABSENT_WEIGHT, ABSENT_CROSSINGS = 1e-5, 3


def settle_wide(setup: Setup, state: Reading) -> tuple[Reading, list[Neuron]]:
    """With the sides of the first layer settled, and neurons of the second; unchanged where that fails.

    `setup`: what all steps share; answers are exact. `state`: with the first layer's rows, more of them than inputs.
    Queries: those of `follow` for each neuron of the second layer and for some hyperplanes of deeper ones, and of
    `search` and `measure_normals` for lines until `BARREN_LINES` in a row show nothing new.
    """
    found, frame, oracle = state.found, state.frame, setup.oracle
    # Answers in such numbers around crossings would be a burden to fits, and tell these nothing.
    probe = Probe(lambda x: oracle(oracle.nearest(x)), setup.probe.noise, setup.probe.rng)
    rows, bias = found.rows, found.bias
    if not frame.free or not len(found.bent):
        return state, []
    layer, followed = (rows, bias), list[FollowedNeuron]()
    waiting = list(points_of(frame, found.bent))
    barren = failed = 0
    settled = None
    while barren < BARREN_LINES and len(followed) < MOST_FOLLOWED * len(rows) and settled is None:
        had = len(followed)
        for seen in waiting:
            far = np.linalg.norm(seen.x) > FOLLOWING_REACH * probe.noise.size
            if seen.error > FOLLOWABLE_ERROR or far or any(n.zero(layer, seen.x) for n in followed):
                continue
            one = follow(probe, layer, seen)
            if one is not None:
                followed.append(one)
                continue
            failed += 1
            # Most hyperplanes behind many layers are of none of the second: those followed by then are enough.
            if failed % FAILED_FOLLOWINGS == 0:
                settled = _settled(layer, followed)
                if settled is not None or not followed:
                    break
        if failed >= FAILED_FOLLOWINGS and not followed:
            return state, []
        waiting = _on_another_line(probe, frame, layer, followed) if settled is None else []
        barren = 0 if len(followed) > had else barren + 1
    settled = settled or _settled(layer, followed)
    if settled is None:
        return state, []
    there, turned = settled
    followed, layer = [one.among(there) for one in followed], (rows[there], bias[there])
    behind = [one.behind(layer, turned, -1 - i) for i, one in enumerate(followed)]
    given = [neuron for neuron in behind if neuron is not None]
    layer = (turned[:, None] * layer[0], turned * layer[1])
    return replace(state.with_found(found.keep(there)), layer=layer, settled=True), given


def _settled(layer: AffineMap, followed: list[FollowedNeuron]) -> tuple[np.ndarray, np.ndarray] | None:
    """Which of these hyperplanes are the first layer's, and the sides of those, -1 where the other one; or None. One at
    which none of the neurons followed bends, though they cross it, is no neuron's of the first layer."""
    if not followed:
        return None
    weights, known = (np.array([getattr(one, name) for one in followed]) for name in ("weights", "known"))
    there = (np.abs(weights).max(axis=0) > ABSENT_WEIGHT * np.abs(weights).max()) | (
        known.sum(axis=0) < ABSENT_CROSSINGS
    )
    turned = sides((layer[0][there], layer[1][there]), [one.among(there) for one in followed])
    return None if turned is None else (there, turned)


def _on_another_line(
    probe: Probe, frame: Frame, layer: AffineMap, followed: list[FollowedNeuron]
) -> list[CriticalPoint]:
    """Points on hyperplanes that no neuron explains."""
    line = search(probe.ask, frame, probe.noise, probe.rng, 2 * np.sqrt(frame.d))
    if line is None:
        return []
    wanted = ~explained([layer], line.points)
    wanted &= np.array([not any(one.zero(layer, x) for one in followed) for x in line.points], dtype=bool)
    return measure_normals(probe, [], line, np.flatnonzero(wanted)).points
