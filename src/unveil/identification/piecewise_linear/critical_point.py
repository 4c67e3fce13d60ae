"""Critical points of deeper layers met along lines, their normals, and where neurons known must have been met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.derivatives import Station, derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.normals import inside
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.probe import Probe

SAME_PLACE = 1e-7  # a breakpoint this close to where one is expected, relative to 1 + |t|, is the one expected
UNPASSED_NORMAL_SHARE = 1e-5  # a normal is one that a layer passes on if no more than this of it is not
# Pieces shorter than this, relative to 1 + |t|, are not differentiated in: the same neurons are met elsewhere.
SHORT = 1e-4
USELESS_NORMAL_ERROR = 0.1  # normals with larger errors are of no use
# A normal that says of the line's slope what differs from it by more than so many errors and this is of more than one
# hyperplane.
TRUE, SLOPE_MISMATCH_ALLOWED = 5.0, 0.05
# A step along one direction goes so many times as far as the nearest known hyperplane is in that direction, at most.
BEFORE = 1.5


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A point where a neuron of a deeper layer is zero, and its hyperplane there."""

    x: Float[np.ndarray, " n"]  # where
    normal: Float[np.ndarray, " n"]  # unit; none of it lies where the layers read before do not move
    error: float  # expected error of the normal
    jump: Float[np.ndarray, " m"]  # change of the slopes of the answers across it, per unit along the normal
    # Of few digits, where steps along some directions must be short: what is told of the normal, in units of its
    # errors. None: all directions alike.
    told: Float[np.ndarray, "r n"] | None = None

    def equations(self, directions: int) -> Float[np.ndarray, "r n"]:
        """What the normal solves, each row in units of its error. `directions`: along how many it was measured."""
        return np.eye(len(self.x)) * (np.sqrt(directions) / self.error) if self.told is None else self.told


def points_of(frame: Frame, planes: Hyperplanes) -> tuple[CriticalPoint, ...]:
    """The critical points at which these hyperplanes were met."""
    normals = planes.rows @ frame.M
    size = np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    every = zip(planes.at, normals / size, planes.error.tolist(), planes.jump * size, strict=True)
    return tuple(CriticalPoint(*each) for each in every)


def passed_on(layers: Sequence[AffineMap], seen: CriticalPoint) -> bool | None:
    """Whether the last of these layers passes on this normal, as it does those of all layers behind it. None where it
    passes on all that the layers before it do: there nothing is told."""
    span, before = (row_space(local(some, seen.x)[1]) for some in (layers, layers[:-1]))
    if span.shape[1] >= before.shape[1]:
        return None
    return bool(np.linalg.norm(seen.normal - span @ (span.T @ seen.normal)) <= UNPASSED_NORMAL_SHARE + 10 * seen.error)


def along(
    layers: Sequence[AffineMap],
    base: Float[np.ndarray, " n"],
    direction: Float[np.ndarray, " n"],
    low: float,
    high: float,
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, "E k"]]:
    """Where these layers bend on a line, its ends included, and their values there: linear in between."""
    t = np.array([low, high])
    h = base + t[:, None] * direction
    for W, b in layers:
        z = h @ W.T + b
        at, piece = zeros(t, z)[:2]
        part = ((at - t[piece]) / (t[piece + 1] - t[piece]))[:, None]
        order = np.argsort(np.concatenate([t, at]), kind="stable")
        z = np.concatenate([z, z[piece] + part * (z[piece + 1] - z[piece])])[order]
        t = np.concatenate([t, at])[order]
        h = np.maximum(z, 0)
    return t, h


def zeros(t: Float[np.ndarray, " E"], z: Float[np.ndarray, "E q"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where piecewise-linear functions with values z at t change sign: place, piece, and which of the q."""
    piece, which = np.nonzero((z[:-1] > 0) != (z[1:] > 0))
    before, after = z[piece, which], z[piece + 1, which]
    return t[piece] + (t[piece + 1] - t[piece]) * before / (before - after), piece, which


class Measured(NamedTuple):
    """What derivatives in the pieces of a line beside its breakpoints show."""

    points: list[CriticalPoint]  # these breakpoints
    stations: list[Station]  # the derivatives


def measure_normals(probe: Probe, layers: Sequence[AffineMap], line: Line, wanted: Int[np.ndarray, " W"]) -> Measured:
    """The critical points at these breakpoints of a line, with normals from the derivatives on either side.

    `layers`: read before; only directions in which they move are asked about. `wanted`: its breakpoints that are none
    of these layers'. Left out are those beside a piece too short to differentiate in, and normals that are vague or
    turn out to be of more than one hyperplane. Queries: those of `derivatives` along r directions for each piece beside
    a wanted breakpoint, for r directions in which the layers move there.
    """
    length = np.diff(line.edges)
    wanted = wanted[np.minimum(length[wanted], length[wanted + 1]) >= SHORT * (1 + np.abs(line.t[wanted]))]
    pieces = np.unique(np.concatenate([wanted, wanted + 1]))
    where, radius = inside(line, pieces)
    # What an exact line says need not be asked again.
    value = line.at(where) if probe.noise.exact else None
    slopes: dict[int, Slope] = {}
    for i, (piece, x) in enumerate(zip(pieces.tolist(), line.inputs(where), strict=True)):
        reach = float(radius[i] * np.linalg.norm(line.direction))
        slope = Slope.at(probe, layers, x, reach, None if value is None else value[i])
        slopes |= {} if slope is None else {piece: slope}
    points = []
    for p in wanted.tolist():
        if p in slopes and p + 1 in slopes:
            told = _between(line, p, slopes[p], slopes[p + 1])
            points += [] if told is None else [told]
    return Measured(points, [each.station for each in slopes.values()])


class Slope(NamedTuple):
    """A derivative along the directions in which known layers move."""

    station: Station  # of the inputs
    span: Float[np.ndarray, "n r"]  # these directions, orthonormal
    error: Float[np.ndarray, " r"]  # standard deviation of each entry along them

    @classmethod
    def at(
        cls,
        probe: Probe,
        layers: Sequence[AffineMap],
        x: Float[np.ndarray, " n"],
        reach: float,
        value: Float[np.ndarray, " m"] | None = None,
    ) -> Slope | None:
        """The derivative at one place; None where it cannot be measured. Of few digits steps along each direction stay
        before the hyperplanes of these layers. `reach`: how far random steps may be expected to stay in the region;
        `value`: the answers there, if known. Queries: those of `derivatives` at one place."""
        span = row_space(local(layers, x)[1])
        rank = span.shape[1]
        if not rank:
            return None
        unit = np.ones(rank) if probe.noise.exact else np.minimum(1.0, BEFORE * room(layers, x, span) / reach)
        steps = np.array([reach / np.sqrt(rank)])  # a random step is as long as its coordinates together
        some = None if value is None else value[None]
        slope, error = derivatives(probe, across(span * unit, span / unit), x[None], steps, some)
        if not np.isfinite(error[0]):
            return None
        each = error[0] / unit
        whole = Station(x, (slope[0] / unit) @ span.T, float(each.max()))
        return cls(whole, span, each)


def derivative(probe: Probe, layers: Sequence[AffineMap], x: Float[np.ndarray, " n"], reach: float) -> Station | None:
    """The derivative of the answers at one place along all directions in which these layers move; None where it cannot
    be measured. `reach`: how far random steps may be expected to stay in the region. Queries: those of `derivatives` at
    one place."""
    slope = Slope.at(probe, layers, x, reach)
    return None if slope is None else slope.station


def room(
    layers: Sequence[AffineMap], x: Float[np.ndarray, " n"], span: Float[np.ndarray, "n r"]
) -> Float[np.ndarray, " r"]:
    """How far it is along each of these directions to the nearest hyperplane of these layers."""
    out = np.full(span.shape[1], np.inf)
    for k, (W, b) in enumerate(layers):
        h, move = local(layers[:k], x)
        rate, off = np.abs(W @ (move @ span)), np.abs(W @ h + b)[:, None]
        out = np.minimum(out, np.where(rate > 0, off / np.maximum(rate, 1e-300), np.inf).min(axis=0))
    return out


def _between(line: Line, p: int, before: Slope, after: Slope) -> CriticalPoint | None:
    """The critical point where a line bends, from what derivatives tell along each direction; see `normal_at`."""
    span, (one, other) = before.span, (before.station, after.station)
    alike = span.shape == after.span.shape and np.array_equal(span, after.span)
    error = np.hypot(before.error, after.error) if alike else np.zeros(1)
    if error.max() == error.min():
        return normal_at(line, p, (one.slope, other.slope), (one.error, other.error), span.shape[1])
    jump = line.jump[p]
    strength = float(np.linalg.norm(jump))
    if not strength:
        return None
    change, error = jump @ (other.slope - one.slope) @ span / strength**2, error / strength
    size, known = float(np.linalg.norm(change)), float(np.linalg.norm(change / error))
    # The change along the line is known better than the normal.
    along = line.direction @ span
    off, allowed = abs(float(change @ along) - 1), TRUE * float(np.linalg.norm(error * along))
    rough = SLOPE_MISMATCH_ALLOWED * size * float(np.linalg.norm(line.direction)) / np.sqrt(len(along))
    if known * USELESS_NORMAL_ERROR < np.sqrt(len(along)) or off > allowed + rough:
        return None
    rounded = float(np.linalg.norm(error)) / size
    return CriticalPoint(line.points[p], span @ change / size, rounded, jump * size, (span * (size / error)).T)


def normal_at(
    line: Line,
    p: int,
    slopes: tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "m n"]],
    errors: tuple[float, float],
    rank: int,
) -> CriticalPoint | None:
    """The critical point where a line bends; None if slopes do not change there, or by more than one neuron.

    `p`: which of its breakpoints. `slopes`: derivatives before and behind it. `errors`: of their entries. `rank`: along
    how many directions they were measured.
    """
    jump = line.jump[p]
    strength = float(np.linalg.norm(jump))
    change = jump @ (slopes[1] - slopes[0]) / max(strength**2, 1e-300)
    size = float(np.linalg.norm(change))
    if not strength or not size:
        return None
    rounded = float(np.hypot(*errors)) * np.sqrt(rank) / (size * strength)
    # The change along the line is known better than the normal.
    drift = abs(float(change @ line.direction) - 1) / (size * float(np.linalg.norm(line.direction)))
    if rounded > USELESS_NORMAL_ERROR or drift * np.sqrt(rank) > TRUE * rounded + SLOPE_MISMATCH_ALLOWED:
        return None
    return CriticalPoint(line.points[p], change / size, max(rounded, drift, 1e-15), jump * size)


def met(line: Line, expected: Float[np.ndarray, " E"]) -> Bool[np.ndarray, "K E"]:
    """Whether a breakpoint of a line is the one expected there."""
    return np.asarray(np.abs(line.t[:, None] - expected) <= same_place(expected, 0.0) + 3 * line.width[:, None])


def same_place(t: Float[np.ndarray, " E"], doubt: Float[np.ndarray, " E"] | float) -> Float[np.ndarray, " E"]:
    """How far a breakpoint may be from places of a line that are known to within a doubt to be the one there."""
    return np.asarray(np.minimum(SAME_PLACE * (1 + np.abs(t)) + doubt, 1e-3 * (1 + np.abs(t))))


def along_line(layers: Sequence[AffineMap], line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Where these layers bend on a line; see `along`."""
    return along(layers, line.base, line.direction, line.low, line.high)


def search(ask: Ask, frame: Frame, noise: Rounding, rng: np.random.Generator, far: float) -> Line | None:
    """The breakpoints of a fresh random line."""
    base, direction, low, high = frame.lines(1, far, rng)
    if not (low < high).all():
        return None
    return line_search(ask, base, direction, low, high, noise, rng)[0]


def row_space(J: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "n r"]:
    _, s, vt = np.linalg.svd(J, full_matrices=False)
    return np.asarray(vt[s > 1e-9 * max(float(s.max(initial=0)), 1e-300)].T)


def across(span: Float[np.ndarray, "n r"], inverse: Float[np.ndarray, "n r"] | None = None) -> Frame:
    """Some directions as coordinates; the pseudoinverse of their matrix, transposed, if they are not orthonormal."""
    n, r = span.shape
    return Frame(
        (span if inverse is None else inverse).T,
        np.zeros(r),
        span,
        np.empty((0, n)),
        np.empty(0),
        np.empty((n, 0)),
        np.zeros(n),
    )
