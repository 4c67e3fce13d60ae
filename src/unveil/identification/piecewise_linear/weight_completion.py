"""A neuron's unknown weights, one by one, where its hyperplane enters the region where one begins to matter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import (
    CriticalPoint,
    along,
    along_line,
    measure_normals,
    met,
    zeros,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import explained, local
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.roomy_places import SHARED, roomiest

# A weight may be this many times the largest known one of its neuron; twice that when it is looked for again.
LARGEST_WEIGHT_RATIO = 1.5
# Of so many places with the same unknown, out of more, that with the fewest other breakpoints is taken.
CHOICE, PLACES_PER_WEIGHT = 8, 32
# In units of how far off a hyperplane may be, how far on either side of it answers must show its bend.
BEND_STEP_ERRORS = 6.0
# A place this many times as far from the hyperplanes read as what is taken for theirs.
UNEXPLAINED_DISTANCE = 1.5
VAIN_SEARCHES = 3  # how often it is looked for in vain
# Normals that follow worse than this from what is known of a neuron are measured: an error in one weight is one of
# everything behind its layer.
FIRM = 1e-7
PLACE_LINE_REACH = 5.0  # how far lines on which these are looked for reach


@dataclass(frozen=True)
class Place:
    """Where a neuron's hyperplane should be, but for one unknown weight."""

    neuron: int  # which neuron
    unknown: int  # which of its weights
    x: Float[np.ndarray, " n"]  # on the hyperplane if that weight is zero
    # across it, with the value the weight belongs to constant; twice as far as any plausible weight moves it
    step: Float[np.ndarray, " n"]
    rate: float  # what the neuron gains by this step
    value: float  # what the weight belongs to has this value here
    shared: int  # how many of its known weights matter here


def places(  # noqa: PLR0913 - what is known and where to look, by name
    layers: list[AffineMap],
    neurons: list[Neuron],
    base: Float[np.ndarray, "L n"],
    direction: Float[np.ndarray, "L n"],
    tried: Counter[tuple[int, int]],
    most: int,
    frame: Frame,
) -> list[Place]:
    """Places on random lines where exactly one unknown weight of a neuron matters, one per weight, the cheapest first.

    `base`: where the lines begin; looking at them costs no query. `tried`: how often each neuron's weight was looked
    for in vain. `most`: places with more other breakpoints near them are left.
    """
    rows, bias, known = (np.array([getattr(n, name) for n in neurons]) for name in ("weights", "bias", "known"))
    found: dict[tuple[int, int], list[Place]] = {}
    for b, d in zip(base, direction, strict=True):
        t, h = along(layers, b, d, -PLACE_LINE_REACH, PLACE_LINE_REACH)
        at, piece, which = zeros(t, h @ rows.T + bias)
        blind = (np.maximum(h[piece], h[piece + 1]) > 0) & ~known[which]
        for q in np.flatnonzero(blind.sum(axis=1) == 1):
            i, j = int(which[q]), int(blind[q].argmax())
            if len(found.get((i, j), ())) >= PLACES_PER_WEIGHT:
                continue
            place = _place(layers, neurons[i], b + at[q] * d, i, j, LARGEST_WEIGHT_RATIO * 2 ** tried[i, j])
            if place is not None and tried[i, j] < VAIN_SEARCHES and _legal(frame, place):
                found.setdefault((i, j), []).append(place)
    out = []
    for some in found.values():
        # Where hardly any known weight matters a critical point is no proof of the new one; where the value is small
        # its weight is vague, where it is large the hyperplane may be far away.
        some.sort(key=lambda place: (place.shared < SHARED, abs(np.log(np.linalg.norm(place.step) / 0.1))))
        others = [_others(layers, rows, bias, place) for place in some[:CHOICE]]
        best = int(np.argmin(others))
        out.append((others[best], some[best]))
    return [place for count, place in sorted(out, key=lambda p: p[0]) if count <= most]


def _legal(frame: Frame, place: Place) -> bool:
    """Whether answers on the whole line across a place are those of legal inputs."""
    low, high = frame.room(place.x[None], place.step[None])
    return bool(low[0] < -1 and high[0] > 1)


def roomy_places(
    layers: list[AffineMap], neurons: list[Neuron], tried: Counter[tuple[int, int]], size: float, most: int
) -> tuple[list[Place], list[tuple[int, int]]]:
    """Such places for weights that matter hardly anywhere, found by a search of their own.

    `tried`: how often each neuron's weight was looked for in vain. `size`: length of a typical input, per coordinate.
    `most`: places at most, those of the best known neurons first. Returns the places, and weights
    (neuron, unknown) that have none within reach.
    """
    out: list[Place] = []
    nowhere: list[tuple[int, int]] = []
    few = sorted(range(len(neurons)), key=lambda i: int((~neurons[i].known).sum()))
    wanted = [(i, int(j)) for i in few for j in np.flatnonzero(~neurons[i].known) if tried[i, int(j)] < VAIN_SEARCHES]
    for i, j in wanted:
        if len(out) == most:
            break
        x = roomiest(layers, neurons[i], j, size)
        place = None if x is None else _place(layers, neurons[i], x, i, j, LARGEST_WEIGHT_RATIO * 2 ** tried[i, j])
        if place is None:
            nowhere.append((i, j))
        else:
            out.append(place)
    return out, nowhere


def _place(
    layers: list[AffineMap], neuron: Neuron, x: Float[np.ndarray, " n"], i: int, j: int, largest: float
) -> Place | None:
    (values, J), row = local(layers, x), neuron.weights
    normal = J.T @ row
    across = normal - J[j] * (J[j] @ normal) / max(J[j] @ J[j], 1e-300)
    length = float(np.linalg.norm(across))
    if values[j] <= 0 or length < 0.05 * np.linalg.norm(normal) or length < 1e-6:
        return None
    rate = float(normal @ across) / length
    # A program for linear constraints keeps to them less exactly than a weight is told.
    x = x - float(row @ values + neuron.bias) / (rate * length) * across
    reach = largest * float(np.abs(row).max()) * values[j] / rate
    if reach > 3 * (1 + np.linalg.norm(x)) or explained(layers, x[None], UNEXPLAINED_DISTANCE)[0]:
        return None
    shared = int(((values > 0) & neuron.known).sum())
    return Place(i, j, x, across * (reach / length), rate * reach, float(values[j]), shared)


def _others(
    layers: list[AffineMap], rows: Float[np.ndarray, "K k"], bias: Float[np.ndarray, " K"], place: Place
) -> int:
    """How many other breakpoints are to be expected near a place."""
    t, h = along(layers, place.x, place.step, -1.0, 1.0)
    return len(t) - 2 + len(zeros(t, h @ rows.T + bias)[0])


def complete_weights(
    probe: Probe, layers: list[AffineMap], neurons: list[Neuron], there: list[Place], frame: Frame
) -> tuple[list[CriticalPoint], list[Line]]:
    """Find these hyperplanes, and with them the unknown weights.

    Returns critical points of those that went on where the weight found says, and all lines searched. Queries: about 17
    per place, 8 more for every other breakpoint near it, and those of `measure_normals` where a normal is vague.
    """
    base, step = np.array([p.x for p in there]), np.array([p.step for p in there])
    lines = line_search(probe.ask, base, step, -1.0, 1.0, probe.noise, probe.rng)
    out = []
    for place, line in zip(there, lines, strict=True):
        neuron = neurons[place.neuron]
        before = along_line(layers, line)[0]
        for p in np.flatnonzero(~met(line, before).any(axis=1)):
            t = float(line.t[p])
            if ((before > min(t, 0)) & (before < max(t, 0))).any():
                continue  # another piece: the weight does not follow from the place
            weights = neuron.weights.copy()
            weights[place.unknown] = -place.rate * t / place.value
            if _goes_on(probe, layers, replace(neuron, weights=weights), place, line, int(p), frame):
                point = _critical_point(layers, neuron, weights, place, line, int(p))
                out += [point] if point.error < FIRM else measure_normals(probe, layers, line, np.array([p])).points
                break
    return out, lines


def _critical_point(
    layers: list[AffineMap], neuron: Neuron, weights: Float[np.ndarray, " k"], place: Place, line: Line, p: int
) -> CriticalPoint:
    """Where a line met a neuron with these weights: its normal follows from them, with their errors."""
    x = line.points[p]
    h, J = local(layers, x)
    normal = J.T @ weights
    size = float(np.linalg.norm(normal))
    known = np.sqrt(max(float(np.trace(J.T @ neuron.spread[:-1, :-1] @ J)), 0.0))
    new = float(neuron.doubt(h[None])[0]) + float(line.width[p]) * abs(place.rate)
    error = (known + new / place.value * float(np.linalg.norm(J[place.unknown]))) / size
    return CriticalPoint(x, normal / size, error, line.jump[p] * size / float(normal @ line.direction))


def _goes_on(  # noqa: PLR0913 - one place of a search
    probe: Probe, layers: list[AffineMap], neuron: Neuron, place: Place, line: Line, p: int, frame: Frame
) -> bool:
    """Whether the hyperplane goes on at another place as the weights say, the new one among them."""
    x, unknown = line.points[p], place.unknown
    h, J = local(layers, x)
    normal = J.T @ neuron.weights
    size = float(np.linalg.norm(normal))
    if size < 1e-9:
        return False
    normal = normal / size
    aside = J[unknown] - normal * (normal @ J[unknown])
    length = float(np.linalg.norm(aside))
    if length <= 1e-3 * np.linalg.norm(J[unknown]):
        return False
    # Towards smaller values, and by half of all that is left of the piece, or of them.
    away = -aside / length
    room = min(float(along(layers, x, away, 0.0, 1.0)[0][1]), float(frame.room(x[None], away[None])[1][0]))
    other = x + room / 2 * away
    # It may be as far beside that as the weights are off, and must be seen there nevertheless.
    there = np.array([h, local(layers, other)[0]])
    doubt = float(neuron.doubt(there).sum()) + float(line.width[p]) * abs(place.rate)
    strength = np.abs(line.jump[p]).max() / abs(float(line.direction @ normal))
    sigma = float(probe.sigma(other[None]).max())
    off = min(max(3e4 * sigma / strength, 1e-7, BEND_STEP_ERRORS * doubt / size), 0.01 * room)
    return bool(np.abs(probe.bend(other[None], off * normal[None])).max() > 0.5 * strength * off)
