"""Critical points of deeper layers met along lines, their normals, and where neurons known must have been met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.probe import Probe

SAME_PLACE = 1e-7  # a breakpoint this close to where one is expected, relative to 1 + |t|, is the one expected
FOREIGN = 1e-5  # a normal is one that a layer passes on if no more than this of it is not
# Pieces shorter than this, relative to 1 + |t|, are not differentiated in: the same neurons are met elsewhere.
SHORT = 1e-4


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A point where a neuron of a deeper layer is zero, and the normal of its hyperplane there."""

    x: Float[np.ndarray, " n"]  # where
    # orthonormal directions in which the normal was measured: all in which the layers read before move there
    span: Float[np.ndarray, "n r"]
    normal: Float[np.ndarray, " r"]  # unit
    error: float  # expected error of the normal


def local(layers: list[AffineMap], x: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """What these layers make of an input: their values (k,) and how they move with the input, (k, n)."""
    h, J = x, np.eye(len(x))
    for W, b in layers:
        z = W @ h + b
        J = np.where(z[:, None] > 0, W @ J, 0)
        h = np.maximum(z, 0)
    return h, J


def passed_on(layers: list[AffineMap], seen: CriticalPoint) -> bool | None:
    """Whether the last of these layers passes on this normal, as it does those of all layers behind it. None where it
    passes on all that the layers before it do: there nothing is told."""
    normal = seen.span @ seen.normal
    span, before = (row_space(local(some, seen.x)[1]) for some in (layers, layers[:-1]))
    if span.shape[1] >= before.shape[1]:
        return None
    return bool(np.linalg.norm(normal - span @ (span.T @ normal)) <= FOREIGN + 10 * seen.error)


def along(
    layers: list[AffineMap], base: Float[np.ndarray, " n"], direction: Float[np.ndarray, " n"], low: float, high: float
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


def measure_normals(
    probe: Probe, layers: list[AffineMap], line: Line, wanted: Int[np.ndarray, " W"]
) -> list[CriticalPoint]:
    """The critical points at these breakpoints of a line, with normals from the derivatives on either side.

    `layers`: read before; only directions in which they move are asked about. `wanted`: its breakpoints that are none
    of these layers'. Returns those between two pieces long enough to differentiate in. Queries: `r + 3` for each piece
    beside a wanted breakpoint, for r directions in which the layers move there.
    """
    edges = line.edges
    inner = np.minimum(np.diff(edges), 2 * (1 + np.minimum(np.abs(edges[1:]), np.abs(edges[:-1]))))
    slopes: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}
    out = []
    for p in wanted:
        if min(inner[p], inner[p + 1]) < SHORT * (1 + abs(line.t[p])):
            continue
        for piece in (p, p + 1):
            if piece in slopes:
                continue
            # The outermost pieces are long: stay where the numbers are small.
            middle = edges[piece + 1] - inner[piece] / 2 if piece <= p else edges[piece] + inner[piece] / 2
            slopes[piece] = _slope(probe, layers, line, middle, inner[piece] / 4)
        (span, before, e0), (other, after, e1) = slopes[p], slopes[p + 1]
        if not np.isfinite(e0 + e1) or span.shape != other.shape:
            continue
        told = normal_at(line, p, (before, after @ (other.T @ span)), (e0, e1), span.T @ line.direction)
        if told is not None:
            out.append(CriticalPoint(line.points[p], span, *told))
    return out


def normal_at(
    line: Line,
    p: int,
    slopes: tuple[Float[np.ndarray, "m r"], Float[np.ndarray, "m r"]],
    errors: tuple[float, float],
    along: Float[np.ndarray, " r"],
) -> tuple[Float[np.ndarray, " r"], float] | None:
    """The unit normal where a line bends, and its error; None if slopes do not change there.

    `p`: which of its breakpoints. `slopes`: derivatives before and behind it. `errors`: of these. `along`: the line's
    direction, in the same coordinates.
    """
    jump = line.jump[p]
    change = jump @ (slopes[1] - slopes[0]) / (jump @ jump)
    size = float(np.linalg.norm(change))
    if size == 0:
        return None
    drift = abs(float(change @ along) - 1) / (float(np.linalg.norm(along)) * size)
    rounded = float(np.hypot(*errors)) * np.sqrt(len(change)) / (size * float(np.linalg.norm(jump)))
    return change / size, max(rounded, drift, 1e-15)


def _slope(
    probe: Probe, layers: list[AffineMap], line: Line, t: float, step: float
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "m r"], float]:
    """Directions in which the layers move at a place of a line, derivatives along them, and their error."""
    at = np.array([t])
    x = line.inputs(at)
    span = row_space(local(layers, x[0])[1])
    if not span.shape[1]:
        return span, np.empty((1, 0)), np.inf
    slope, error = derivatives(probe, across(span), x, np.array([step]), line.at(at))
    return span, slope[0], float(error[0])


def met(
    line: Line, expected: Float[np.ndarray, " E"], doubt: Float[np.ndarray, " E"] | float = 0.0
) -> Bool[np.ndarray, "K E"]:
    """Whether a breakpoint of a line is the one expected there, give or take the doubt."""
    off = np.abs(line.t[:, None] - expected[None, :])
    near = np.minimum(SAME_PLACE * (1 + np.abs(expected)) + doubt, 1e-3 * (1 + np.abs(expected)))
    return np.asarray(off <= near + 3 * line.width[:, None])


def along_line(layers: list[AffineMap], line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Where these layers bend on a line; see `along`."""
    return along(layers, line.base, line.direction, line.low, line.high)


def search(ask: Ask, frame: Frame, noise: Rounding, rng: np.random.Generator, far: float) -> Line | None:
    """The breakpoints of a fresh random line."""
    base, direction, low, high = frame.lines(1, far, rng)
    if not (low < high).all():
        return None
    return line_search(ask, base, direction, low, high, noise, rng)[0]


def row_space(J: np.ndarray) -> np.ndarray:
    _, s, vt = np.linalg.svd(J, full_matrices=False)
    return np.asarray(vt[s > 1e-9 * max(float(s.max(initial=0)), 1e-300)].T)


def across(span: np.ndarray) -> Frame:
    n, r = span.shape
    return Frame(span.T, np.zeros(r), span, np.empty((0, n)), np.empty(0), np.empty((n, 0)), np.zeros(n))
