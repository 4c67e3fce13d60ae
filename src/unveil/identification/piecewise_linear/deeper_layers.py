"""read_deeper: the layers behind the first from critical points of their neurons anywhere, and the output layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.design import finish
from unveil.identification.fitting.output_layer import Asked, Unsigned, ending, explain, in_proportion
from unveil.identification.piecewise_linear.critical_point import CriticalPoint, along
from unveil.identification.piecewise_linear.deeper_state import Deeper, refuting
from unveil.identification.piecewise_linear.followed_neurons import follow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_from_points import (
    ANYWAY,
    LAST_LAYER_SHARE,
    NEARLY_RIGHT_ERROR,
    merge_points,
    reopened,
)
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import alike
from unveil.identification.piecewise_linear.reading_state import Setup
from unveil.identification.piecewise_linear.weight_completion import (
    PLACE_LINE_REACH,
    VAIN_SEARCHES,
    complete_weights,
    places,
    roomy_places,
)
from unveil.whitebox.network import Network

DEEPER_LINES_FACTOR = 4  # most lines, in units of those for the first layer: many are short
# Other breakpoints near a place where an unknown weight is looked for: while there is a choice, and at all.
CHEAP, MOST_BREAKPOINTS_NEAR = 3, 30
# Errors of a network whose neurons stand behind parallel ones, in units of the largest answer, from which a fit of all
# weights behind these goes on, where some are unknown: what tells them apart lies far out. `NEARLY_RIGHT_ERROR` where
# none is.
PARALLEL_FIT_START_ERROR = 1e-3
WEIGHT_PLACES_AT_ONCE = 6  # places where one unknown weight is looked for at once
PLACES_PER_UNKNOWN = 0.5  # where more are unknown, this share of them
# Lines on which these are looked for: random ones, and for each critical point of a neuron; how many of these points.
ANYWHERE, LINES_PER_POINT, POINTS_PER_NEURON = 150, 8, 4
# Of points that are not explained so many nearest ones may be the next; of those explained as many, more when barren.
BAD, GOOD, GOOD_PER_BARREN_LINE = 30, 3, 10
# So many critical points that begin no neuron are one's that shows too little of itself where it was met; how far lines
# across its hyperplane next to them look, in units of the input there.
POINTS_WITHOUT_NEURON, ACROSS_LINE_REACH = 3, 0.1


def read_deeper(setup: Setup, state: Deeper, most_lines: int) -> Iterator[Deeper]:
    """Search lines until everything asked is explained to within `state.fine`, and fresh points too.

    `most_lines`: lines for the first layer; `DEEPER_LINES_FACTOR` times as many are searched. Yields what was read so
    far, after every line; the last one is the result.
    """
    for _ in range(DEEPER_LINES_FACTOR * most_lines):
        more = True
        while more:
            state = merge_points(setup, state)
            # Parallel rows leave unknown weights that are found nowhere.
            looked = (
                _followed(setup, state) or _completed(setup, state, CHEAP)
                if state.parallel
                else _completed(setup, state, CHEAP) or _followed(setup, state)
            )
            state, more = looked or state, looked is not None
        settled = state.follows and all(n.known.all() for n in state.candidates.neurons)
        enough = (NEARLY_RIGHT_ERROR if settled else PARALLEL_FIT_START_ERROR) if state.parallel else 0.0
        fine = max(state.fine, enough)
        state, error = close(setup, state, fine)
        yield state
        if error < fine or state.spent:
            return
        read, state = len(state.layers), reopened(state)
        if len(state.layers) < read:
            continue
        before = len(state.seen)
        state = _another_line(setup, state)
        state = replace(state, barren=0 if len(state.seen) > before else state.barren + 1)
        if state.barren:
            state = _completed(setup, state, MOST_BREAKPOINTS_NEAR) or state


def _followed(setup: Setup, state: Deeper) -> Deeper | None:
    """With a neuron that is followed from a critical point that none explains, behind parallel rows none known whole,
    the nearest first; None if none."""
    examined = state.examined
    if not state.follows:
        return None
    explained = {i for n in state.candidates.neurons if n.known.all() or not state.parallel for i in n.members}
    for seen in sorted(
        (each for i, each in enumerate(state.seen) if i not in explained),
        key=lambda each: float(np.linalg.norm(each.x)),
    ):
        if seen in examined:
            continue
        examined |= {seen}
        neuron = _follow(setup, state, seen)
        if neuron is not None:
            old = state.candidates
            candidates = replace(old.with_given([neuron]), proven=old.proven | {neuron.key})
            return replace(state, candidates=candidates, examined=examined)
    return replace(state, examined=examined) if examined != state.examined else None


def _follow(setup: Setup, state: Deeper, seen: CriticalPoint) -> Neuron | None:
    """The neuron followed from a critical point. Queries: those of `follow`."""
    layer = state.layers[0]
    one = follow(setup.probe, layer, seen)
    key = min((n.key for n in state.candidates.merged), default=0)
    return None if one is None else one.behind(layer, np.ones(len(layer[1])), min(key, 0) - 1)


def _completed(setup: Setup, state: Deeper, most: int) -> Deeper | None:
    """With unknown weights looked for where they have just begun to matter; None if there is nowhere to look."""
    candidates, layers, rng = state.candidates, state.layers, setup.probe.rng
    neurons = [*candidates.neurons, *candidates.alone] if state.nearly else list(candidates.certain)
    if all(n.known.all() for n in neurons):
        return None
    base = state.points.usual(ANYWHERE)
    direction = rng.standard_normal(base.shape)
    unknown = [
        i for n in neurons if not n.known.all() for i in n.members[:POINTS_PER_NEURON] for _ in range(LINES_PER_POINT)
    ]
    beside = [_beside(setup, state, i) for i in unknown]
    base = np.concatenate([base, *(b[None] for b, _ in beside)])
    direction = np.concatenate([direction, *(d[None] for _, d in beside)])
    base, direction = _legal(state.frame, base, direction)
    # Where more is known of a neuron, how large its other weights may be is known better.
    so_far = [(n.key, int(n.known.sum())) for n in neurons]
    tried = Counter(
        {(i, j): candidates.tried[*so_far[i], j] for i, n in enumerate(neurons) for j in range(len(n.known))}
    )
    there = places(layers, neurons, base, direction, tried, most, state.frame)
    missing = sum(int((~n.known).sum()) for n in neurons)
    there = there[: max(WEIGHT_PLACES_AT_ONCE, int(PLACES_PER_UNKNOWN * missing))]
    if not there and state.frame.free:
        size = setup.probe.noise.size / np.sqrt(state.frame.d)
        there, nowhere = roomy_places(layers, neurons, tried, size, WEIGHT_PLACES_AT_ONCE)
        never = Counter({(*so_far[i], j): VAIN_SEARCHES for i, j in nowhere})
        candidates = replace(candidates, tried=candidates.tried + never)
        if not there and nowhere:
            return replace(state, candidates=candidates)
    if not there:
        return None
    seen, lines = complete_weights(setup.probe, layers, neurons, there, state.frame)
    now = candidates.tried + Counter((*so_far[place.neuron], place.unknown) for place in there)
    candidates = replace(candidates, tried=now)
    return replace(state, candidates=candidates, seen=(*state.seen, *seen), lines=(*state.lines, *lines))


def _legal(
    frame: Frame, base: Float[np.ndarray, "L n"], direction: Float[np.ndarray, "L n"]
) -> tuple[Float[np.ndarray, "L n"], Float[np.ndarray, "L n"]]:
    """These lines; in a box those that have a legal part, which is all of each that is looked at."""
    if frame.free:
        return base, direction
    low, high = frame.room(base, direction)
    legal = np.flatnonzero(low < high)
    base, direction = base[legal], direction[legal]
    middle, half = (low + high)[legal, None] / 2, (high - low)[legal, None] / 2
    return base + middle * direction, half / PLACE_LINE_REACH * direction


def _beside(setup: Setup, state: Deeper, i: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """A line across a hyperplane close to where it was met, but where something else is active before it."""
    seen, rng = state.seen[i], setup.probe.rng
    normal = seen.normal
    v = rng.standard_normal(len(normal))
    v -= normal * (normal @ v)
    t = along(state.layers, seen.x, v, 0.0, 10.0)[0]
    piece = min(int(rng.integers(1, 4)), len(t) - 2)
    return seen.x + (t[piece] + t[piece + 1]) / 2 * v, normal


def _another_line(setup: Setup, state: Deeper) -> Deeper:
    """A line through a point that is not explained yet, if there is one; else a random one."""
    state, (probe, frame, rng) = replace(state, turn=state.turn + 1), (setup.probe, state.frame, setup.probe.rng)
    if state.last and len(state.unexplained) >= POINTS_WITHOUT_NEURON and state.turn % 2:
        # What was met here again and again begins no neuron: pieces next to these say more of it.
        x, normal = _beside(setup, state, int(rng.choice(state.unexplained)))
        reach = np.array([ACROSS_LINE_REACH * float(np.linalg.norm(x) + setup.probe.noise.size)])
        base, direction, low, high = x[None], normal[None], -reach, reach
    elif len(state.wrong) and len(state.right) and state.barren % 3 < 2 and state.turn % ANYWAY:
        # Not always the nearest: a fit that is wrong somewhere goes through some of the points there by chance.
        bad = rng.choice(state.wrong[np.argsort(np.linalg.norm(state.wrong, axis=1))[:BAD]])
        good = alike(state.layers, bad[None], state.right, rng, GOOD + GOOD_PER_BARREN_LINE * state.barren)[0]
        base, direction, low, high = bad[None], (good - bad)[None], np.array([-0.1]), np.array([1.0])
    else:
        base, direction, low, high = frame.lines(1, state.points.far, rng)
    room = frame.room(base, direction)
    low, high = np.maximum(low, room[0]), np.minimum(high, room[1])
    if not (low < high).all():
        return state
    lines, points, _ = state.known(probe).searched((base, direction, low, high), state.candidates.neurons)
    return replace(state, lines=(*state.lines, *lines), seen=(*state.seen, *points))


NEAR_INPUT_SIZE = 30.0  # how far out, in typical inputs, a line between two points may begin
USER_INPUT_SIZE = 4.0  # how far out inputs are that a user might ask
NEARLY_EXPLAINED_SHARE = 0.95  # a fit that explains more of the answers lacks a neuron at most
SETTLED_AT = 4000  # points that the last digits must suit


def close(setup: Setup, state: Deeper, fine: float) -> tuple[Deeper, float]:
    """The neurons met so far as the last hidden layer.

    With the network, if it is the best so far, and where it is right and wrong; and its largest error on what
    was asked, infinite where it fails on fresh points or there is none. Queries: those of `finish`, and of `refuting`
    where everything asked is explained.
    """
    if not state.candidates.neurons and not state.seen and len(state.layers) > 1:
        # Nothing lies behind the layer read last.
        *layers, layer = state.layers
        ended = replace(state, layers=layers).ending(layer)
        state = replace(ended, candidates=replace(ended.candidates, views=None, held=0))
    neurons = (*state.candidates.neurons, *state.candidates.alone)
    if not neurons or not state.nearly:
        return state, np.inf
    state = replace(state, wrong=state.wrong[:0])
    state, network, fits = _fitted(setup, state, neurons, fine)
    if network is None:
        return state, np.inf
    state, fits, error = _judged(setup, state, network, fits, fine)
    x, y = setup.log.all()
    near = _near(setup)
    against = None
    if error < fine:
        against = refuting(setup.log, network, state.points, fine, state.patience > 0)
    if against is not None:
        x, y = against
        fits = np.abs(network(x) - y).max(axis=1) < fine * np.abs(y).max()
        near, error = np.ones(len(x), dtype=bool), np.inf
    # Further out lines are long, and their ends vague.
    state = replace(state, right=x[fits & near], wrong=x[~fits & near])
    if error < state.residual or state.network is None:
        state = replace(state, network=network, residual=error)
    return state, error


def _fitted(
    setup: Setup, state: Deeper, neurons: Sequence[Neuron], fine: float
) -> tuple[Deeper, Network | None, Bool[np.ndarray, " N"]]:
    """The network with these neurons, to the last digits where it is nearly right, and which answers it explains."""
    key = frozenset((n.key, int(n.known.sum())) for n in neurons)
    candidates, log, size = state.candidates, setup.log, setup.probe.noise.size
    if candidates.fitted is not None and candidates.fitted[0] == key:
        return state, candidates.fitted[1], np.empty(0, dtype=bool)
    rough = max(NEARLY_RIGHT_ERROR, fine)
    if candidates.explained is not None and candidates.explained[0] == key:
        # A few more answers say no more of whole neurons, but where another one is.
        return state, state.network, _fits(log, size, *candidates.explained[1:], rough)
    rows, bias, known = (np.array([getattr(n, name) for n in neurons]) for name in ("weights", "bias", "known"))
    unsigned, solution, fits = explain(Unsigned(state.layers, rows, bias, known), log, size, rough)
    candidates = replace(candidates, explained=(key, unsigned, solution) if known.all() and not fits.all() else None)
    candidates = replace(candidates, fitted=None)
    if fits.mean() < LAST_LAYER_SHARE:
        return replace(state, candidates=candidates), None, fits
    if fits.mean() > NEARLY_EXPLAINED_SHARE:
        # From here on what is not explained is a neuron that is missing, not a layer, nor a false one.
        strong = np.abs(solution[: len(neurons)]).max(axis=1)
        proven = {n.key for n, ok in zip(neurons, strong > NEARLY_RIGHT_ERROR * strong.max(), strict=True) if ok}
        candidates = replace(candidates, proven=candidates.proven | proven)
        state = replace(state, last=True)
    share = float(fits.mean())
    if share <= state.explained < 1:
        # What explains no more of the answers than other neurons did before is no better network.
        return replace(state, candidates=candidates), state.network, fits
    state = replace(state, explained=share)
    network, error = ending(unsigned, solution, fits, log, size)
    # What only matters far out need not be known.
    if error < rough or log.off(network, size)[_near(setup, USER_INPUT_SIZE)].max() < rough:
        network = finish(log, network, size, state.points.usual(SETTLED_AT), setup.probe.rng)
        candidates = replace(candidates, fitted=(key, network))
    return replace(state, candidates=candidates), network, fits


def _fits(
    log: Asked, size: float, unsigned: Unsigned, solution: Float[np.ndarray, "q m"], rough: float
) -> Bool[np.ndarray, " N"]:
    """Which answers a fit made before explains."""
    x, y = log.all()
    weight = in_proportion(x, size)
    off = np.abs(unsigned.features(x) @ solution - y) * weight
    return np.asarray(off.max(axis=1) < rough * np.abs(y * weight).max())


def _judged(
    setup: Setup, state: Deeper, network: Network, fits: Bool[np.ndarray, " _"], fine: float
) -> tuple[Deeper, Bool[np.ndarray, " N"], float]:
    """Which answers a network explains, and its largest error; what is wrong far out counts only for a time."""
    if state.candidates.fitted is None:
        return state, fits, setup.log.error(network, setup.probe.noise.size)
    off = setup.log.off(network, setup.probe.noise.size)
    error = float(off[_near(setup)].max())
    inner = float(off[_near(setup, USER_INPUT_SIZE)].max())
    if inner < fine:
        patience = state.patience - 1
        state, error = replace(state, patience=patience), error if patience > 0 else inner
    else:
        state = replace(state, candidates=replace(state.candidates, fitted=None))
    return state, off < max(NEARLY_RIGHT_ERROR, fine), error


def _near(setup: Setup, reach: float = NEAR_INPUT_SIZE) -> Bool[np.ndarray, " N"]:
    """Which of the questions asked are not far out."""
    return np.asarray(np.linalg.norm(setup.log.all()[0], axis=1) < reach * setup.probe.noise.size)
