"""read_network: a ReLU network layer by layer: each is read, closed, and held against fresh answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.identification.piecewise_linear.behind_first_layer import read_behind
from unveil.identification.piecewise_linear.confirmation import confirm
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_closing import FURTHER, close_on_fresh
from unveil.identification.piecewise_linear.layer import layer_steps
from unveil.identification.piecewise_linear.paid_closing import close_on_paid
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sharpening import untangled, worst_sharpened
from unveil.identification.piecewise_linear.whole_fit import finish_exact
from unveil.identification.validation import FEWEST, FEWEST_IN_BOX, how_many, validate


class Rounds(NamedTuple):
    """How long a layer is read on where answers contradict what was read.

    Attributes:
        most: Rounds at most.
        lines: Lines towards points where it is wrong, in each.
        barren: Rounds in a row that may show nothing new.
        again: Rounds in which neurons are looked for on further lines, where a fit says that some are missing.
    """

    most: int
    lines: int
    barren: int
    again: int


# By whether answers are exact and whether inputs are free of a box, where lines are short.
ROUNDS = {
    (True, True): Rounds(3, 3, 0, 0),
    (True, False): Rounds(20, 6, 6, 0),
    (False, True): Rounds(8, 4, 1, 2),
    (False, False): Rounds(8, 4, 1, 2),
}
# Bent hyperplanes per straight one, and besides, from which on another layer lies behind.
BENT, FEW_BENT = 0.2, 2
# Answers all over the inputs for each neuron, where those kept are of the first lines alone.
ALL_OVER = 2
# Of few digits, so many times more lines where they are short.
BOUNDED = 3


def read_network(setup: Setup, frame: Frame, start: Line | None = None) -> Iterator[Reading]:
    """All layers, first to last.

    Args:
        setup: What all steps share.
        frame: The inputs.
        start: A line through them that was searched before.

    Yields:
        What was read after every step; `network` of the last state is the result, if there is any.

    Queries: those of `layer_steps` for each layer that is read where all neurons before it are active, of `read_behind`
        for the others; of a check on fresh points after each round: `FEWEST` (`FEWEST_IN_BOX`), or `how_many` of
        answers with few digits; of `finish_exact`.
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
    exact, free, probe = setup.exact, state.frame.free, setup.probe
    rounds = ROUNDS[exact, free]
    usual = setup.most_lines if exact or free else BOUNDED * setup.most_lines
    barren, lacking = 0, False
    for number in range(rounds.most + 1):
        had = len(state.found)
        if number:
            given = lines_to(setup, state.frame, state.wrong[: rounds.lines])
        # Lines to where the network is wrong say more than others.
        lines = 0 if len(given) and number else usual
        steps = layer_steps(
            probe, state.frame, far=setup.far, most_lines=lines, sure=lacking, found=state.found, given=given
        )
        for found in steps:
            state = state.with_found(found)
            yield state
        state = _settled(setup, state, number)
        grown = len(state.found) > had
        barren = 0 if grown else barren + 1
        if not len(state.found) or (number and barren > rounds.barren and (exact or not state.whole)):
            return
        if grown or not exact:
            state = (close_on_paid if exact else close_on_fresh)(setup, state).counted()
        state = contradicted(setup, state)
        yield state
        lacking = state.lacking and number < rounds.again
        if not lacking and not len(state.wrong):
            return


def _settled(setup: Setup, state: Reading, number: int) -> Reading:
    """With the worst rows measured again, or without those that are not met elsewhere.

    Queries: those of `untangled` and `worst_sharpened` for exact answers, and `ALL_OVER` per neuron where few are kept;
        for ones with few digits in a box, those of `confirm`
    """
    frame, found, probe = state.frame, state.found, setup.probe
    if not len(found):
        return state
    if setup.exact:
        if number:
            return state
        state = state.with_found(untangled(probe, frame, found))
        if setup.inputs:
            return state
        if setup.log.full:
            # Answers along the first lines alone do not tell output weights of neurons that these cross side by side.
            setup.log.ask_all_over(ALL_OVER * (len(found) + 1), probe.rng)
        return state.with_found(worst_sharpened(probe, frame, state.found))
    if not frame.free and not state.layers:
        # Neurons of deeper layers look straight over much of a box: only what is met all over it is kept.
        there = confirm(probe, frame, found.straight.take(np.arange(state.confirmed, len(found)))).there
        found = found.keep(np.append(np.ones(state.confirmed, dtype=bool), there))
        state = replace(state.with_found(found), confirmed=len(found))
    return state


def contradicted(setup: Setup, state: Reading) -> Reading:
    """With fresh points at which the network that ends behind this layer is wrong.

    Queries: `FEWEST` or `how_many`; 0 where it explains exact answers that were paid for, or fails to explain others
    """
    free, rng = state.frame.free, setup.probe.rng
    # In a box neurons are missed also where nothing lies behind the layer.
    last = not free and len(state.found.bent) <= BENT * len(state.found) + FEW_BENT
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

    wrong = validate(network, setup.oracle, count, rng, setup.fine, ask).wrong
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
    near = length <= 2 * FURTHER * np.median(length)
    state.fresh.keep(x[near], y[near])
    return replace(state, wrong=wrong)


def lines_to(setup: Setup, frame: Frame, wrong: Float[np.ndarray, "W n"]) -> list[Line]:
    """Lines through these points, one each: there the neurons read so far explain nothing.

    Queries: those of `line_search`
    """
    if not len(wrong):
        return []
    base = frame.sample(len(wrong), setup.probe.rng)
    return line_search(setup.probe.ask, base, wrong - base, 0.0, 1.0, setup.probe.noise, setup.probe.rng)
