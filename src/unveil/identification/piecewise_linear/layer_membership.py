"""Which hyperplanes are straight, and so of the layer being read: those of a deeper one bend where neurons switch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.rounding import AGREE
from unveil.identification.piecewise_linear.far_places import BEND, Windows, on_plane
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.probe import Probe

# Exact answers: rounds, evidence that is proof, and what a breakpoint is worth by how many other hyperplanes lie
# between here and there (the most only where the step is too short to meet another one).
EVIDENCE_ROUNDS, PROOF = 6, 3.0
BREAKPOINT_WORTH = ((10, 3.0), (4, 1.5), (1, 1.0))
SHORT_STEP_HYPERPLANES = 1e-3
WINDOW_HALF_ERRORS = 30.0  # half width of a window, in expected errors
CHANCE_HYPERPLANES = 0.05  # a window tells nothing where more hyperplanes than this are expected in it by chance
# Hyperplanes met up to which one that ends is looked at there: where more neurons are active none ends for long.
NARROW = 8
# Answers with few digits: places at first, half of which must show a breakpoint; places per round, rounds, and the
# standard deviations by which breakpoints must be met more often than beside the hyperplane (all of a round's places
# are enough where the window beside shows none); what may still become of it.
GLANCES, PLACES, CHANCES, SURE_EXCESS_SIGMAS, HOPEFUL_EXCESS = 4, 7, 10, 4.0, 0.2


def straight_ones(
    probe: Probe, frame: Frame, found: LayerFound, planes: Hyperplanes
) -> tuple[Bool[np.ndarray, " K"], Bool[np.ndarray, " K"]]:
    """Which of these hyperplanes bend the answers at far places too, and which could.

    A deeper neuron's hyperplane goes on straight only while nothing that feeds it switches. Where answers are exact a
    window across the expected position is too short to meet another hyperplane, so that a breakpoint counts for more
    the more hyperplanes lie between here and there. Where they have few digits windows are wide, and breakpoints count
    only beyond those met in a window beside. Queries: 3 per place; exact: one to three places per straight hyperplane,
    three per bent one, at most `EVIDENCE_ROUNDS`; few digits: `GLANCES` places, and for those that pass twice `PLACES`
    per round, at most `CHANCES` rounds.
    """
    if frame.d == 1:
        return np.ones(len(planes), dtype=bool), np.zeros(len(planes), dtype=bool)  # points, which have no other places
    if not probe.noise.exact:
        straight = _more_than_beside(probe, frame, found, planes)
        return straight, np.zeros(len(planes), dtype=bool)
    return _by_what_lies_between(probe, frame, found, planes)


def _by_what_lies_between(
    probe: Probe, frame: Frame, found: LayerFound, planes: Hyperplanes
) -> tuple[np.ndarray, np.ndarray]:
    count, unmet = len(planes), planes.at.copy()
    points, yes, no = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    others = Hyperplanes.joined([found.straight, planes])
    before = others.sums(frame, planes.at) > 0
    for _ in range(EVIDENCE_ROUNDS):
        todo = np.flatnonzero((points < PROOF) & ~((no >= 3) & (yes == 0)))
        if not len(todo):
            break
        some = planes[todo]
        x = on_plane(frame, some, probe.rng)
        sigma = probe.sigma(x)
        strength = np.abs(some.jump).max(axis=1)
        away = np.linalg.norm(frame.values(x) - frame.values(some.at), axis=1)
        off = some.error * (1 + away / np.sqrt(frame.d))
        half = np.clip(3e4 * sigma.max(axis=1) / strength + WINDOW_HALF_ERRORS * off, 1e-7, 0.05)
        least = np.maximum(AGREE * 5 * sigma, 0.01 * (strength * half)[:, None])
        bend = (np.abs(probe.bend(x, half[:, None] * (some.rows @ frame.V.T))) > least).any(axis=1)
        yes[todo] += bend
        no[todo] += ~bend
        unmet[todo[~bend]] = x[~bend]
        crossed = ((others.sums(frame, x) > 0) != before[todo]).sum(axis=1)
        enough = [crossed >= least for least, _ in BREAKPOINT_WORTH]
        enough[0] &= half * count < SHORT_STEP_HYPERPLANES
        rare = 2 * half * crossed <= CHANCE_HYPERPLANES * away
        points[todo] += (bend & rare) * np.select(enough, [worth for _, worth in BREAKPOINT_WORTH], 0.0)
    few = len(others) < 4
    straight = (yes >= no) & ((points >= PROOF) | (few & (yes >= 2)))
    ends = np.flatnonzero((yes > 0) & (no > 0) & (probe.again and len(others) <= NARROW))
    told = told_by_ends(probe, frame, planes[ends], unmet[ends])
    straight[ends] = (told > 0) | ((told == 0) & straight[ends])
    maybe = ~straight & (yes > no)
    maybe[ends] &= told >= 0
    return straight, maybe


def _more_than_beside(probe: Probe, frame: Frame, found: LayerFound, planes: Hyperplanes) -> np.ndarray:
    count = len(planes)
    straight = np.zeros(count, dtype=bool)
    others = Hyperplanes.joined([found.straight, planes])
    each = planes[np.repeat(np.arange(count), GLANCES)]
    seen = Windows.far(probe, frame, others, each).bends() > BEND
    open_ = np.flatnonzero(2 * seen.reshape(count, GLANCES).sum(axis=1) >= GLANCES)
    hits, beside = seen.reshape(count, GLANCES).sum(axis=1), np.zeros(count, dtype=int)
    for chance in range(1, CHANCES + 1):
        if not len(open_):
            break
        each = planes[np.repeat(open_, PLACES)]
        hit, control, _ = Windows.far(probe, frame, others, each).met()
        hits[open_] += hit.reshape(-1, PLACES).sum(axis=1)
        beside[open_] += control.reshape(-1, PLACES).sum(axis=1)
        # Shares of the windows that show one, and how far apart chance lets them be where both are the same.
        windows = GLANCES + chance * PLACES, chance * PLACES
        more = hits / windows[0] - beside / windows[1]
        alike = (hits + beside) / sum(windows)
        apart = np.sqrt(alike * (1 - alike) * (1 / windows[0] + 1 / windows[1]))
        straight[open_] = ((more >= SURE_EXCESS_SIGMAS * apart) & (more > 0))[open_]
        open_ = open_[~straight[open_] & (more[open_] >= HOPEFUL_EXCESS)]
    return straight


END_HALVINGS = 24  # halvings of the way to where a hyperplane is not met: the end is then known to 1e-7 of it
# Of the circle around an end, in units of a typical input, and how many points on it are asked.
END_CIRCLE_RADIUS, END_CIRCLE_POINTS = 1e-3, 64
# Share of the largest second difference around the circle from which on a hyperplane passes there.
END_CIRCLE_BEND = 1e-3


def told_by_ends(
    probe: Probe, frame: Frame, planes: Hyperplanes, unmet: Float[np.ndarray, "K n"]
) -> Int[np.ndarray, " K"]:
    """Whether hyperplanes that end are those of the layer at hand: 1 where straight, -1 where bent, 0 where not told.

    Where the hyperplane of a neuron of the layer at hand ends, two pieces of a deeper neuron's meet: slopes jump across
    both with the sign of its output weight, across the one that ends with that sign times its own weight into the
    deeper one. Where a deeper neuron's ends, the two others are its next piece and the hyperplane at which it bends.
    `unmet`: a point on each at which it is not met. Queries: at most `3 END_HALVINGS + END_CIRCLE_POINTS + 1` each.
    """
    if not len(planes):
        return np.zeros(0, dtype=int)
    met, gone = planes.at.copy(), unmet.copy()
    across = planes.rows @ frame.V.T
    strength = np.abs(planes.jump).max(axis=1)
    for _ in range(END_HALVINGS):
        middle = (met + gone) / 2
        middle -= ((planes.rows * frame.values(middle)).sum(axis=1) + planes.bias)[:, None] * across
        sigma = probe.sigma(middle).max(axis=1)
        half = np.clip(3e4 * sigma / strength, 1e-9, 0.01)
        second = np.abs(probe.bend(middle, half[:, None] * across)).max(axis=1)
        here = second > np.maximum(5 * AGREE * sigma, 0.01 * strength * half)
        met, gone = np.where(here[:, None], middle, met), np.where(here[:, None], gone, middle)
    y = probe.ask(np.concatenate(_circles(planes, met, across))).reshape(len(met), END_CIRCLE_POINTS + 1, -1)
    return np.array([_around(jump, each) for jump, each in zip(planes.jump, y, strict=True)], dtype=int)


def _circles(
    planes: Hyperplanes, ends: Float[np.ndarray, "K n"], across: Float[np.ndarray, "K n"]
) -> Float[np.ndarray, "K angles n"]:
    """Each end, and points on a circle around it: the hyperplane itself is met in the middle of the angles."""
    away = ends - planes.at
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300)
    radius = END_CIRCLE_RADIUS * (1 + np.linalg.norm(ends, axis=1, keepdims=True) / np.sqrt(ends.shape[1]))
    up = radius * across / np.linalg.norm(across, axis=1, keepdims=True)
    angle = 2 * np.pi * np.arange(END_CIRCLE_POINTS)[:, None] / END_CIRCLE_POINTS
    points = ends[:, None] + np.cos(angle) * (radius * away)[:, None] + np.sin(angle) * up[:, None]
    return np.concatenate([ends[:, None], points], axis=1)


def _around(jump: Float[np.ndarray, " m"], y: Float[np.ndarray, "angles m"]) -> int:
    """What the hyperplanes that meet at an end, by answers there and around it, say of the one that ends."""
    # Zero where the answers are linear over three neighbours.
    step = 2 * np.pi / END_CIRCLE_POINTS
    value = y[1:] - y[0]
    second = np.roll(value, 1, axis=0) + np.roll(value, -1, axis=0) - 2 * np.cos(step) * value
    along = jump / max(float(np.linalg.norm(jump)), 1e-300)
    size = np.linalg.norm(second, axis=1)
    there = size > END_CIRCLE_BEND * size.max()
    if there.all() or not there[END_CIRCLE_POINTS // 2 - 1 : END_CIRCLE_POINTS // 2 + 2].any():
        return 0
    # One jump shows at two neighbouring angles at most; where more do, two hyperplanes pass close to each other.
    first = int(np.flatnonzero(~there)[0])
    order = np.roll(np.arange(END_CIRCLE_POINTS), -first)
    runs = np.split(order, np.flatnonzero(np.diff(there[order])) + 1)
    runs = [run for run in runs if there[run[0]]]
    own = [run for run in runs if np.abs(run - END_CIRCLE_POINTS // 2).min() <= 1]
    others = [run for run in runs if np.abs(run - END_CIRCLE_POINTS // 2).min() > 1]
    if len(own) != 1 or any(len(run) > 2 for run in runs):
        return 0
    sign = [np.sign((second[run] @ along).sum()) for run in (own[0], *others)]
    if len(others) != 2:
        # It goes on in another direction, or ends at one that does not end there itself.
        return -1 if others else 0
    if sign[1] != sign[2]:
        return -1
    return 0 if sign[0] == sign[1] else 1
