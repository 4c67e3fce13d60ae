"""candidates: what may be neurons of the next layer, grown from single critical points without further questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import AffineMap, after
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.expected_breakpoints import Ways
from unveil.identification.piecewise_linear.neuron import NORMAL, Neuron, same_hyperplane
from unveil.identification.piecewise_linear.partial_network import ZERO, Moves, explained
from unveil.identification.piecewise_linear.sightings import Sightings

# Equations of a critical point hold to this besides so many times its error.
EQUATION_MISFIT, EQUATION_ERRORS = 1e-6, 30.0
# A critical point begins a neuron if its normal is known so well, of many critical points better than of few, and the
# active ones' normals are so independent.
SHARP, STARTING_NORMAL_ERROR, LEAST_INDEPENDENCE = 1e-7, 1e-4, 1e-5
# Of fewer critical points, with normals known so well, one equation that holds so exactly is no chance; else two must.
MANY_CRITICAL_POINTS, EXACT_NORMAL_ERROR, LONE_EQUATION_MISFIT = 500, 1e-9, 1e-8
# Most critical points that solve for a neuron's weights; most unknown ones that another one may bring in at a time, and
# of many critical points.
MOST_SOLVING_POINTS, MOST_UNKNOWN_ADDED, UNKNOWN_ADDED_OF_MANY = 60, 5, 2
# Critical points that begin a neuron at most, the most telling first, and so many in a row that begin none; a weight
# larger than this is none.
STARTING_POINTS, BARREN_STARTS, LARGEST_TOLD_WEIGHT = 2000, 700, 20.0
TWICE = 1e-5  # how near an unknown weight must be to itself where it is told twice
# A neuron must be met so often, on so many lines, and at this share of the places where it should be.
LEAST_MEETINGS, MEETING_LINES, MEETING_SHARE = 3, 3, 0.6
SAME_COSINE_DIFFERENCE = 1e-10  # two that differ by less, in one minus the cosine, are one
LINE_ROW_ERROR = 5e-7  # how far off rows may be on lines where all layers are read one after the other


class Views(NamedTuple):
    """Critical points behind the layers read that none of their neurons explains."""

    which: Int[np.ndarray, " V"]  # of all sightings
    seen: Moves  # what the layers make of them
    normal: Float[np.ndarray, "V d"]  # of the hyperplanes there
    error: Float[np.ndarray, " V"]  # of these normals
    line: Int[np.ndarray, " V"]  # where each was met
    along: Float[np.ndarray, "V k"]  # how much each value moves along the normal
    equations: Float[np.ndarray, "V q p"]  # what is zero for weights and bias of a neuron that is zero there
    # where one equation tells; not on hyperplanes through the origin, as all are without biases
    exact: Bool[np.ndarray, " V"]

    @classmethod
    def of(cls, sightings: Sightings, layers: list[AffineMap]) -> Views:
        """Of all sightings."""
        return cls.through(layers, sightings.x, sightings.normal, sightings.error, sightings.line)

    @classmethod
    def of_points(
        cls, layers: list[AffineMap], seen: Sequence[CriticalPoint], error: float, before: Views | None, held: int
    ) -> Views:
        """Of critical points, each on its own line. `error`: of the layers' rows. `before`: of the first `held`."""
        seen = seen[held:]
        x = np.array([each.x for each in seen]).reshape(-1, layers[0][0].shape[1])
        normal = np.array([each.normal for each in seen]).reshape(x.shape)
        errors = np.array([each.error for each in seen]) + NORMAL * error
        new = cls.through(layers, x, normal, errors, -1 - held - np.arange(len(seen)))
        if before is None:
            return new
        moves = Moves(*map(np.concatenate, zip(before.seen, new.seen, strict=True)))
        rest = map(np.concatenate, zip(before[2:], new[2:], strict=True))
        return cls(np.append(before.which, held + new.which), moves, *rest)

    def members(self, one: Neuron) -> Bool[np.ndarray, " V"]:
        """At which of them a neuron is zero."""
        return np.isin(self.which, one.members)

    @classmethod
    def through(
        cls,
        layers: list[AffineMap],
        x: Float[np.ndarray, "S d"],
        normal: Float[np.ndarray, "S d"],
        error: Float[np.ndarray, " S"],
        line: Int[np.ndarray, " S"],
    ) -> Views:
        """Of points with these normals, their errors, and the lines on which they were met."""
        h = after(layers, x)
        which = np.flatnonzero(~explained(layers, x) & (h > 0).any(axis=1))
        away = np.abs((x * normal).sum(axis=1))
        seen, normal = Moves.of(layers, x[which]), normal[which]
        D = seen.move.transpose(0, 2, 1)
        along = np.einsum("vd,vdk->vk", normal, D)
        D = D - normal[:, :, None] * along[:, None, :]
        if D.shape[1] > D.shape[2]:
            D = np.asarray(np.linalg.qr(D, mode="r"))  # as much of them as weights have
        (count, d, k), far = D.shape, 1 + np.linalg.norm(seen.h, axis=1)
        equations = np.zeros((count, d + 1, k + 1))
        equations[:, :d, :k], equations[:, d, :k], equations[:, d, k] = D, seen.h / far[:, None], 1 / far
        exact = (error < EXACT_NORMAL_ERROR) & (away > ZERO * (1 + np.linalg.norm(x, axis=1)))
        return cls(which, seen, normal, error[which], line[which], along, equations, exact[which])


def candidates(
    lines: tuple[Line, ...] | None, views: Views, layers: list[AffineMap], before: Sequence[Neuron], old: int
) -> list[Neuron]:
    """What may be neurons of the next layer, the best known first.

    A critical point at which no more values are active than move independently tells the weights for these. Others that
    bring in few unknown ones, and agree, tell more of them. `lines`: where they must have been met; None: all are
    returned. `views`: those behind the layers. `before`: what came out for the first `old` views, and neurons read
    otherwise. `old`: how many these were: what they could begin they have begun.
    """
    ways = Ways.of(layers, lines, LINE_ROW_ERROR) if lines else None
    seen, taken, out = views.seen, np.zeros(len(views.which), dtype=bool), list[Neuron]()

    def grow(begun: Neuron) -> bool:
        grown = _grown(begun, views)
        members = views.members(grown)
        if ways is not None:
            if members.sum() < LEAST_MEETINGS or len(set(views.line[members].tolist())) < 2:
                return False
            (grown,) = ways.confirmed([grown])
            if (
                grown.should < LEAST_MEETINGS
                or grown.lines < MEETING_LINES
                or grown.were < MEETING_SHARE * grown.should
            ):
                return False
        taken[members] = True
        out.append(grown)
        return True

    for one in before:
        grow(one)
    active = seen.on.sum(axis=1)
    known = views.error < (SHARP if len(active) >= MANY_CRITICAL_POINTS else STARTING_NORMAL_ERROR)
    ready = np.flatnonzero((active <= seen.rank) & (active >= 2) & known & (np.arange(len(active)) >= old))
    barren = 0
    for i in ready[np.argsort(-np.minimum(active[ready], 6) + np.log10(views.error[ready]) / 20)][:STARTING_POINTS]:
        begun = None if taken[i] else _start(views, int(i))
        if begun is None:
            continue
        barren = 0 if grow(begun) else barren + 1
        if barren > BARREN_STARTS:
            break
    kept: list[Neuron] = []
    for one in sorted(out, key=lambda one: (-int(one.known.sum()), -one.were)):
        if not same_hyperplane(one, kept, SAME_COSINE_DIFFERENCE).any():
            kept.append(one)
    return kept


def _start(views: Views, i: int) -> Neuron | None:
    """The weights that one critical point tells alone."""
    on, normal = views.seen.on[i], views.normal[i]
    s = np.linalg.svd(active := views.seen.move[i][on], compute_uv=False)
    if s[-1] < LEAST_INDEPENDENCE * s[0]:
        return None
    part = np.linalg.lstsq(active.T, normal, rcond=None)[0]
    if np.linalg.norm(active.T @ part - normal) > 10 * EQUATION_MISFIT + 100 * views.error[i]:
        return None
    weights = np.zeros(len(on))
    weights[on] = part / np.linalg.norm(part)
    bias, which = -float(weights @ views.seen.h[i]), int(views.which[i])
    return _solved(Neuron(weights, bias, on.copy(), (which,), np.zeros((len(on) + 1,) * 2), key=which), views)


def _grown(one: Neuron, views: Views) -> Neuron:
    """With all critical points that agree."""
    on, many, held = views.seen.on, len(views.which) >= MANY_CRITICAL_POINTS, one.held
    least, members = np.where(views.exact & (not many), 1, 2), views.members(one)
    while True:
        unknown = on & ~one.known
        counts, shared = unknown.sum(axis=1), (on & one.known).sum(axis=1)
        open_, spare = ~members & (shared >= least), views.seen.rank - counts
        for count in range((UNKNOWN_ADDED_OF_MANY if many else MOST_UNKNOWN_ADDED) + 1):
            which = held + np.flatnonzero((open_ & (counts == count) & (spare >= least))[held:])
            agree, told = _agree(one, views, which, unknown)
            if agree.any():
                break
        else:
            count, which = 1, np.flatnonzero(open_ & (counts == 1) & (views.seen.rank == 2))
            if len(which) and which[-1] >= held:
                agree, told = _agree(one, views, which, unknown)
                agree = told_twice(unknown[which].argmax(axis=1), told, views.line[which], agree)
            if not agree.any():
                return replace(one, held=len(on))
        if count:
            # One at a time: the best known.
            best = int(np.flatnonzero(agree)[views.error[which[agree]].argmin()])
            weights = one.weights.copy()
            weights[unknown[which[best]]] = told[best]
            one = replace(one, weights=weights, known=one.known | unknown[which[best]])
            which, agree = which[best : best + 1], agree[best : best + 1]
        members[which[agree]], held = True, 0
        one = _solved(replace(one, members=tuple(views.which[members].tolist())), views)


def told_twice(
    unknown: Int[np.ndarray, " C"],
    told: Float[np.ndarray, "C 1"],
    line: Int[np.ndarray, " C"],
    agree: Bool[np.ndarray, " C"],
) -> Bool[np.ndarray, " C"]:
    """Which of the critical points that agree tell much the same of an unknown weight as one of another line does.

    Where values move along two directions a critical point has one equation more than an unknown weight: chance may
    agree with that, but not twice.
    """
    twice = np.zeros(len(agree), dtype=bool)
    for j in np.unique(unknown[agree]):
        some = np.flatnonzero(agree & (unknown == j))
        near = np.abs(told[some] - told[some].T) < TWICE * (1 + np.abs(told[some]))
        twice[some] = (near & (line[some][:, None] != line[some])).any(axis=1)
    return twice


def _agree(
    one: Neuron,
    views: Views,
    which: Int[np.ndarray, " C"],
    unknown: Bool[np.ndarray, "V k"],
) -> tuple[Bool[np.ndarray, " C"], Float[np.ndarray, "C u"]]:
    """Which critical points agree with a candidate, each for its unknown weights, as many for all; and these. `left`:
    what its weights leave of their equations. `unknown`: values active at each that it has no weights for."""
    if not len(which):
        return np.zeros(0, dtype=bool), np.zeros((0, 0))
    left = -(views.equations[which] @ one.theta)
    size, firm = views.along[which] @ one.weights, np.ones(len(which), dtype=bool)
    j = np.nonzero(unknown[which])[1].reshape(len(which), -1)
    told = np.zeros(j.shape)
    if told.size:
        A = np.take_along_axis(views.equations[which], j[:, None, :], axis=2)
        # Half the digits are enough to tell whether they agree: normal equations, at a tenth of the time.
        gram = np.einsum("cij,cik->cjk", A, A)
        own = np.maximum(np.einsum("cjj->cj", gram), 1e-300)
        firm = (np.linalg.det(gram) > 1e-8 * own.prod(axis=1)) & (own.min(axis=1) > 1e-8)
        gram[~firm] = np.eye(j.shape[1])
        told = np.linalg.solve(gram, np.einsum("cij,ci->cj", A, left)[:, :, None])[:, :, 0]
        left = left - np.einsum("cij,cj->ci", A, told)
        size = size + (np.take_along_axis(views.along[which], j, axis=1) * told).sum(axis=1)
        firm &= np.abs(told).max(axis=1) < LARGEST_TOLD_WEIGHT
    agrees = np.where(views.seen.rank[which] - j.shape[1] < 2, LONE_EQUATION_MISFIT, EQUATION_MISFIT)
    size, allowed = np.abs(size), agrees + EQUATION_ERRORS * views.error[which]
    across = np.linalg.norm(left[:, :-1], axis=1) < allowed * np.maximum(size, 1e-6)
    return firm & across & (np.abs(left[:, -1]) < allowed) & (size > 1e-7), told


def _solved(one: Neuron, views: Views) -> Neuron:
    """With the weights and bias, and their errors, of its best known critical points, some for every known weight."""
    members = np.flatnonzero(views.members(one))
    if len(members) > MOST_SOLVING_POINTS:
        best = members[np.argsort(views.error[members])[:MOST_SOLVING_POINTS]]
        cover = [members[views.seen.on[members, j]][:3] for j in np.flatnonzero(one.known)]
        members = np.unique(np.concatenate([best, *cover]))
    E = views.equations[members] / np.maximum(views.error[members], 1e-12)[:, None, None]
    E = E.reshape(-1, E.shape[2])
    theta, spread = _solution(E if one.before is None else np.concatenate([one.before, E]), one.known)
    theta *= 1.0 if theta[:-1] @ one.weights >= 0 else -1.0
    return replace(one, weights=theta[:-1], bias=float(theta[-1]), spread=spread)


def _solution(
    equations: Float[np.ndarray, "Q p"], known: Bool[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Weights of norm one, zero where not known, and bias that solve these equations best, and their covariance."""
    which = np.append(np.flatnonzero(known), len(known))
    E = np.concatenate([equations[:, which], np.zeros((1, len(which)))])
    scale = np.maximum(np.linalg.norm(E, axis=0), 1e-300)
    # Of the triangular factor: the same values and vectors, whatever the number of equations.
    _, s, vt = np.linalg.svd(np.linalg.qr(E / scale, mode="r"))
    theta, spread = np.zeros(len(known) + 1), np.zeros((len(known) + 1,) * 2)
    theta[which] = vt[-1] / scale
    # How far each direction but the solution's own can move before the equations notice.
    own = len(which) - 1
    loose = np.clip(vt[:own] / np.maximum(s[:own, None], 1e-9) / scale, -1, 1)
    spread[np.ix_(which, which)] = loose.T @ loose
    return theta / np.linalg.norm(theta[:-1]), spread
