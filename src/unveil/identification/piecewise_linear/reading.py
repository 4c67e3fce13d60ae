"""Reading a ReLU network layer by layer, each held against fresh answers; many inputs along a few directions first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.line_search.search import HOPEFUL
from unveil.blackbox.rounding import rounding, rows_for
from unveil.identification.fitting.design import finish
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.fitting.pruning import without_twins
from unveil.identification.piecewise_linear.behind_first_layer import read_behind
from unveil.identification.piecewise_linear.closing import close
from unveil.identification.piecewise_linear.critical_point import search
from unveil.identification.piecewise_linear.far_places import confirm
from unveil.identification.piecewise_linear.few_directions import MANY, PLENTY, Directions, Narrow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_answers import FAR_POINT_FACTOR
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer import finished, layer_steps, many_deeper, missing
from unveil.identification.piecewise_linear.many_layers import along_all, crowded
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sharpening import met_nearer, worst_sharpened
from unveil.identification.piecewise_linear.sightings import by_place
from unveil.identification.piecewise_linear.whole_fit import finish_exact
from unveil.identification.piecewise_linear.wide_input import widen
from unveil.identification.validation import FEWEST, FEWEST_IN_BOX, how_many, validate
from unveil.outcome import BudgetExceeded
from unveil.whitebox.network import Network


class Rounds(NamedTuple):
    """How long a layer is read on where answers contradict what was read."""

    most: int  # rounds at most
    lines: int  # lines towards points where it is wrong, in each
    barren: int  # rounds in a row that may show nothing new
    again: int  # rounds in which neurons are looked for on further lines, where a fit says that some are missing


# By whether answers are exact and whether inputs are free of a box, where lines are short.
READING_ROUNDS = {
    (True, True): Rounds(3, 3, 0, 3),
    (True, False): Rounds(20, 6, 6, 20),
    (False, True): Rounds(40, 4, 1, 2),
    (False, False): Rounds(40, 4, 1, 2),
}
# Bent hyperplanes per straight one, and besides, from which on another layer lies behind.
BENT_PER_STRAIGHT, FEW_BENT = 0.2, 2
ALL_OVER = 2  # answers all over the inputs for each neuron, where those kept are of the first lines alone
# Of few digits: so many times more lines where they are short; coordinates for each line to a wrong answer.
BOUNDED, COORDINATES_PER_LINE = 3, 8


def read_network(setup: Setup, frame: Frame, start: Line | None = None) -> Iterator[Reading]:
    """All layers, first to last.

    `start`: a line through them that was searched before. Yields what was read after every step; `network` of the last
    state is the result, if there is any. Queries: those of `layer_steps` for each layer that is read where all neurons
    before it are active, of `read_behind` for the others; of a check on fresh points after each round: `FEWEST`
    (`FEWEST_IN_BOX`), or `how_many` of answers with few digits; of `finish_exact`.
    """
    state = Reading.begun(setup, frame)
    for _ in range(setup.most_layers):
        given = [start] if start is not None and not state.layers else []
        for now in _read_layer(setup, state, given):
            yield now
        state = now
        if state.whole or not len(state.found):
            break
        for now in read_behind(setup, state):
            yield now
        state = now
        if state.whole or state.over:
            break
    if not setup.exact:
        yield state
        return
    yield finish_exact(setup, state)


def _read_layer(setup: Setup, state: Reading, given: list[Line]) -> Iterator[Reading]:
    """The layer at hand: lines, what ends behind it, and lines to where that is wrong, until nothing is."""
    exact, free, there = setup.exact, setup.unbounded(state.frame), _there(setup, state)
    rounds = READING_ROUNDS[exact, free]
    behind = state.frame.d if state.layers else 0
    usual = setup.most_lines if exact or free else BOUNDED * max(setup.most_lines, behind)
    barren, lacking = 0, False
    for number in range(rounds.most + 1):
        had = len(state.found)
        if number:
            most = rounds.lines if exact else max(rounds.lines, behind // COORDINATES_PER_LINE)
            given = lines_to(there, state.frame, state.wrong[:most], state.right[:most])
        # Lines to where the network is wrong say more than others.
        lines = 0 if len(given) and number else rounds.lines if lacking and exact else usual
        steps = layer_steps(
            there.probe, state.frame, far=setup.far, most_lines=lines, sure=lacking, found=state.found, given=given
        )
        for found in steps:
            state = state.with_found(found)
            yield state
        state = _settled(there, state, number)
        grown = len(state.found) > had
        barren = 0 if grown else barren + 1
        # Answers with few digits may be an affine map's, which no breakpoint tells.
        over = bool(number) and barren > rounds.barren and (exact or not state.whole)
        if (not len(state.found) and (exact or state.layers)) or (over and (exact or not state.layers)):
            yield state  # without what was not met again
            return
        if grown or not exact:
            state = close(setup, state, lines=not over and number < rounds.most).counted()
        state = contradicted(setup, state)
        yield state
        lacking = state.lacking and number < rounds.again
        if over or (not lacking and not len(state.wrong)):
            return


def _there(setup: Setup, state: Reading) -> Setup:
    """With rounding as it is in the region that a layer behind another one is read in: of few digits that is more than
    its distance tells, as all neurons before are active in it and what they add cancels. Queries: `6 ROWS_OF_FEW` of
    answers with few digits."""
    probe, oracle = setup.probe, setup.oracle
    if setup.exact or not state.layers:
        return setup
    x = state.frame.sample(rows_for(oracle.resolution), probe.rng)
    noise = rounding(probe.ask, x, oracle.resolution, probe.rng, oracle.uneven)
    return setup._replace(probe=replace(probe, noise=noise))


def _settled(setup: Setup, state: Reading, number: int) -> Reading:
    """With the worst rows measured again, or without those that are not met elsewhere."""
    frame, found, probe = state.frame, state.found, setup.probe
    if not len(found):
        return state
    bounded = not frame.free and not (setup.exact and _last(found))
    if not state.layers and (bounded or (setup.exact and (crowded(found) or many_deeper(found)))):
        # Neurons of deeper layers look straight over much of a box, and of very many some do anywhere: only what is met
        # all over is kept.
        new = found.straight[np.arange(state.confirmed, len(found))]
        there = confirm(probe, frame, new, found.every).there
        found = found.keep(np.append(np.ones(state.confirmed, dtype=bool), there))
        state = replace(state.with_found(found), confirmed=len(found))
        if setup.exact:
            state = replace(state, lacking=missing(probe, frame, found))
    if not setup.exact or number:
        return state
    state = state.with_found(met_nearer(probe, frame, found))
    if setup.inputs and not _last(state.found):
        return state
    if setup.log.full and not setup.inputs:
        # Answers along the first lines alone do not tell output weights of neurons that these cross side by side.
        setup.log.ask_all_over(ALL_OVER * (len(found) + 1), probe.rng)
    return state.with_found(worst_sharpened(probe, frame, state.found, few=bool(setup.inputs)))


def _last(found: LayerFound) -> bool:
    """Whether so few bent hyperplanes were met that no other layer lies behind."""
    return len(found.bent) <= BENT_PER_STRAIGHT * len(found) + FEW_BENT


def contradicted(setup: Setup, state: Reading) -> Reading:
    """With fresh points at which the network that ends behind this layer is wrong. Queries: `FEWEST` or `how_many`; 0
    where it explains exact answers that were paid for, or fails to explain others."""
    free, rng = setup.unbounded(state.frame), setup.probe.rng
    # In a box neurons are missed also where nothing lies behind the layer.
    last = not free and _last(state.found)
    if setup.exact:
        state = replace(state, whole=state.error < setup.fine or last, wrong=state.wrong[:0])
    if not state.whole or (state.layers and not setup.exact):
        return state
    network, count = state.network, (FEWEST if free else FEWEST_IN_BOX) if setup.exact else how_many(setup.oracle)
    assert network is not None
    asked: list[tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]] = []

    def ask(x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        asked.append((x, setup.probe.ask(x)))
        return asked[-1][1]

    wrong = validate(network, setup.oracle, count, rng, setup.fine, ask, setup.probe.noise).wrong
    if not len(wrong):
        return state
    if setup.exact:
        # What was right about everything asked before is not any more.
        error = setup.log.error(network, setup.size)
        wrong = wrong if free else rng.permutation(wrong)
        return replace(state, error=error, whole=last or error < setup.fine, wrong=wrong)
    # What contradicts a fit belongs into the next one, unless it lies so far out that its rounding is large.
    x, y = asked[0]
    length = np.linalg.norm(x, axis=1)
    near = length <= 2 * FAR_POINT_FACTOR * np.median(length)
    state.fresh.keep(x[near], y[near])
    return replace(state, wrong=wrong)


def lines_to(
    setup: Setup,
    frame: Frame,
    wrong: Float[np.ndarray, "W n"],
    right: Float[np.ndarray, "R _"] | None = None,
) -> list[Line]:
    """Lines through these points, one each: there the neurons read so far explain nothing. `right`: places where what
    was read is right, one for each of them, that lines come from; random ones without. Queries: those of
    `line_search`."""
    if not len(wrong):
        return []
    low, high = np.zeros(len(wrong)), np.ones(len(wrong))
    if right is None or len(right) != len(wrong):
        base = frame.sample(len(wrong), setup.probe.rng)
    else:
        base, room = right, frame.room(right, wrong - right)
        low, high = (
            np.maximum(-WRONG_LINE_OVERSHOOT, WRONG_LINE_WALL_SHARE * room[0]),
            np.minimum(1 + WRONG_LINE_OVERSHOOT, 1 + WRONG_LINE_WALL_SHARE * (room[1] - 1)),
        )
    return line_search(setup.probe.ask, base, wrong - base, low, high, setup.probe.noise, setup.probe.rng)


# How far lines go beyond a place where a network is right and one where it is wrong, in units of how far these are
# apart; and at most so much of the way to the wall of the region.
WRONG_LINE_OVERSHOOT, WRONG_LINE_WALL_SHARE = 0.3, 0.9
JOINED_DIGIT_POINTS = 2000  # points that the last digits must suit
# So many breakpoints of a line may be deeper neurons' for the most part, which so few directions show.
MANY_BREAKPOINTS, NARROWEST = 96, 32
KEPT_FOR_WIDENING = 0.25  # share of the budget that is kept back for reading along all inputs what was read along a few
# Places where rounding is measured, and lines tried for one that shows something.
ROUNDING_PLACES, FIRST_LINE_TRIES = 12, 4


def read_inputs(setup: Setup, frame: Frame) -> Iterator[Reading]:
    """All layers of a network.

    Of `MANY` inputs free of a box, exact answers: along a few directions first, as many as a line shows neurons; if the
    first layer's weights along all others do not follow from there, along all. Queries: those of `read_network`, along
    few directions or all; of `widen` in the first case; of `_by_place` for exact answers free of a box.
    """
    start: Line | None = None
    free = setup.exact and frame.free and setup.oracle.grid is None
    if free:
        setup = _by_place(setup, frame)
    if free and frame.d >= MANY:
        start = _first_line(setup, frame)
        directions = None if start is None else _fewest(setup, start)
        if start is not None and directions is not None:
            yield replace(Reading.begun(setup, frame), directions=directions.few.shape[1])
            inner = _along(setup, directions)
            along, stopped = _read_along(inner, directions, start)
            widened = _widened(setup, inner, frame, directions, along)
            if widened is not None:
                yield widened
            if stopped:
                raise stopped
            if widened is not None and (widened.spent or widened.whole):
                return
    yield from read_network(setup, frame, start)


def _first_line(setup: Setup, frame: Frame) -> Line | None:
    """A line that shows something: where many layers pass nothing on at both its ends, one shows nothing at all.
    Queries: those of `line_search`, at most `FIRST_LINE_TRIES` times."""
    line = None
    for _ in range(FIRST_LINE_TRIES):
        line = search(setup.log, frame, setup.probe.noise, setup.probe.rng, setup.far)
        if line is None or len(line.t):
            break
    return line


def _by_place(setup: Setup, frame: Frame) -> Setup:
    """With rounding as large as line searches do not find for themselves: it differs from place to place. Queries:
    `6 ROUNDING_PLACES`."""
    probe = setup.probe
    noise = by_place(probe.ask, frame.sample(ROUNDING_PLACES, probe.rng), probe.noise, probe.rng, HOPEFUL)
    return setup._replace(probe=replace(probe, noise=noise))


def _fewest(setup: Setup, start: Line) -> Directions | None:
    """Directions for a first reading: hardly any where most breakpoints of a line are none of the first layer's."""
    rng = setup.probe.rng
    if len(start.t) >= MANY_BREAKPOINTS and setup.oracle.n > NARROWEST:
        directions = Directions.so_many(start, NARROWEST, rng)
        inner, seen = _along(setup, directions), directions.seen(start).middle(MANY_BREAKPOINTS)
        steps = layer_steps(inner.probe, Frame.of_input(NARROWEST, None), far=setup.far, most_lines=1, given=[seen])
        found = finished(steps)
        if crowded(found) and PLENTY * len(found) * len(start.t) <= NARROWEST * len(seen.t):
            return directions
    return Directions.along(start, rng)


def _along(setup: Setup, directions: Directions) -> Setup:
    """What steps along these directions share."""
    narrow = Narrow(setup.oracle, directions)
    log = Asked(narrow)
    probe = Probe(
        log, directions.rounding(setup.probe.noise), setup.probe.rng, (setup.oracle, narrow.lift), log.most_at_once
    )
    return setup._replace(probe=probe, log=log, inputs=setup.oracle.n)


def _read_along(inner: Setup, directions: Directions, start: Line) -> tuple[Reading, BudgetExceeded | None]:
    """The network along a few directions; where the budget ends meanwhile, what was read behind the first layer, and
    that it ended: what it takes to read that along all inputs is kept back, if it is little."""
    ledger, (n, p) = inner.oracle.ledger, directions.few.shape
    wanted = n * -(-p // inner.probe.m)
    budget = allowed = ledger.budget
    if budget is not None and wanted <= KEPT_FOR_WIDENING * ledger.left:
        ledger.budget = allowed = budget - wanted
    state: Reading | None = None
    try:
        for now in read_network(inner, Frame.of_input(p, None), directions.seen(start)):
            state = now
    except BudgetExceeded as stopped:
        if state is None or state.many is None:
            raise
        return state, stopped
    finally:
        if ledger.budget == allowed:  # a stop may have set another one meanwhile
            ledger.budget = budget
    assert state is not None
    return state, None


def _widened(setup: Setup, inner: Setup, frame: Frame, directions: Directions, along: Reading) -> Reading | None:
    """What was read along a few directions, along all; None if that fails. `inner`: what it was read with."""
    p = directions.few.shape[1]
    few, first, many = along.network, along.first, along.many
    ended = replace(Reading.begun(setup, frame), directions=p, told=along.told, over=True, spent=True, why=along.why)
    if few is None and many is not None:
        lift = along.frame.after(*along.layers[0]).V
        whole = along_all(setup.probe, directions, along.layers[0], many, lift)
        return ended if whole is None else replace(ended, layers=(whole, *along.layers[1:]), partial=along.partial)
    if few is None or first is None or len(few.layers) < 2:
        return ended if along.spent else None
    few = _none_twice(inner, few)
    read = 0
    if many is not None:
        # Where a single neuron of the first layer is active, hardly anything gets through many layers.
        (rows, bias), *behind = ((each.dense(), each.bias) for each in few.layers)
        lift = along.frame.after(*along.layers[0]).V
        whole = along_all(setup.probe, directions, (rows, bias), many, lift)
        wide, read = None if whole is None else Network.from_weights([whole, *behind]), len(along.layers)
    else:
        wide = widen(setup.probe, few, directions)
    if not wide:
        return ended if along.spent else None
    wrong = along.wrong @ (directions.longer * directions.few.T) if len(along.wrong) else np.empty((0, wide.n))
    return replace(
        Reading.begun(setup, frame),
        directions=p,
        layers=tuple((each.dense(), each.bias) for each in wide.layers[:-1][:read]),
        partial=along.partial if read else None,
        network=wide,
        wrong=wrong,
        whole=True,
        spent=along.spent,
        told=along.told,
        why=along.why,
        many=many,
    )


def _none_twice(setup: Setup, network: Network) -> Network:
    """With neurons of a second hidden layer joined that were read twice, and all weights settled anew. Along all
    directions the two would not do what they do along few, where errors of one make up for the other's."""
    if len(network.layers) < 3:
        return network
    log, size, rng = setup.log, setup.probe.noise.size, setup.probe.rng
    pool = rng.standard_normal((JOINED_DIGIT_POINTS, network.n)) * size / np.sqrt(network.n)
    return without_twins(
        network,
        log.all()[0],
        lambda trial: log.error(trial, size),
        setup.fine,
        lambda trial: finish(log, trial, size, pool, rng),
    )
