"""read_inputs: a network of many inputs, first along a few directions of them, then along all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.line import Line
from unveil.blackbox.line_search.search import HOPEFUL
from unveil.identification.fitting.design import finish
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.fitting.pruning import without_twins
from unveil.identification.piecewise_linear.critical_point import search
from unveil.identification.piecewise_linear.few_directions import MANY, PLENTY, Directions, Narrow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.layer import finished, layer_steps
from unveil.identification.piecewise_linear.many_layers_reading import along_all, crowded
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading import read_network
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sharpening import THROUGH
from unveil.identification.piecewise_linear.sightings import by_place
from unveil.identification.piecewise_linear.whole_fit import sharper_behind
from unveil.identification.piecewise_linear.wide_input import stations, widen
from unveil.whitebox.network import Network

# With one output and with several: rows that came out badly along a few directions are measured again, for this share
# of the first layer's queries at most.
AGAIN = (0.015, 0.1)
# Points that the last digits must suit.
POOL = 2000
# So many breakpoints of a line may be deeper neurons' for the most part, which so few directions show.
BENDS, NARROWEST = 96, 32
# Places where rounding is measured.
PLACES = 12


def read_inputs(setup: Setup, frame: Frame) -> Iterator[Reading]:
    """All layers of a network.

    Of `MANY` inputs free of a box, exact answers: along a few directions first, as many as a line shows neurons; if
    the first layer's weights along all others do not follow from there, along all.

    Args:
        setup: What all steps share.
        frame: The inputs.

    Yields:
        What was read after every step.

    Queries: those of `read_network`, along few directions or all; of `widen` and `sharper_behind` in the first case
    """
    start: Line | None = None
    if setup.exact and frame.free and setup.oracle.grid is None and frame.d >= MANY:
        setup = _by_place(setup, frame)
        start = search(setup.log, frame, setup.probe.noise, setup.probe.rng, setup.far)
        directions = None if start is None else _fewest(setup, start)
        if start is not None and directions is not None:
            yield replace(Reading.begun(setup, frame), directions=directions.few.shape[1])
            widened = _widened(setup, frame, directions, start)
            if widened is not None:
                yield widened
                if widened.spent or widened.whole:
                    return
    yield from read_network(setup, frame, start)


def _by_place(setup: Setup, frame: Frame) -> Setup:
    """With rounding as large as line searches do not find for themselves: it differs from place to place.

    Queries: `6 PLACES`
    """
    probe = setup.probe
    noise = by_place(probe.ask, frame.sample(PLACES, probe.rng), probe.noise, probe.rng, HOPEFUL)
    return setup._replace(probe=replace(probe, noise=noise))


def _fewest(setup: Setup, start: Line) -> Directions | None:
    """Directions for a first reading: hardly any where most breakpoints of a line are none of the first layer's.

    Queries: those of `layer_steps` with one line along `NARROWEST` directions, where it shows `BENDS` breakpoints
    """
    rng = setup.probe.rng
    if len(start.t) >= BENDS and setup.oracle.n > NARROWEST:
        directions = Directions.so_many(start, NARROWEST, rng)
        inner, seen = _along(setup, directions), directions.seen(start)
        steps = layer_steps(inner.probe, Frame.of_input(NARROWEST, None), far=setup.far, most_lines=1, given=[seen])
        found = finished(steps)
        if crowded(found) and PLENTY * len(found) <= NARROWEST:
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


def _widened(setup: Setup, frame: Frame, directions: Directions, start: Line) -> Reading | None:
    """The network along a few directions, then along all; None if that fails."""
    inner, p = _along(setup, directions), directions.few.shape[1]
    for state in read_network(inner, Frame.of_input(p, None), directions.seen(start)):
        along = state
    few, first = along.network, along.first
    ended = replace(Reading.begun(setup, frame), directions=p, told=along.told, over=True, spent=True, why=along.why)
    if few is None and along.many is not None:
        lift = along.frame.after(*along.layers[0]).V
        whole = along_all(setup.probe, directions, along.layers[0], along.many, lift)
        return ended if whole is None else replace(ended, layers=(whole, *along.layers[1:]), partial=along.partial)
    if few is None or first is None or len(few.layers) < 2:
        return ended if along.spent else None
    few = _none_twice(inner, few)
    again, seen = _doubtful(few, first.straight, setup.oracle.n)
    where = stations(few, again, setup.probe.rng)
    wide = where and widen(setup.probe, few, directions, where, again, seen)
    if not wide:
        return ended if along.spent else None
    wide, wrong = sharper_behind(setup, wide)
    return replace(
        Reading.begun(setup, frame),
        directions=p,
        network=wide,
        wrong=wrong,
        whole=True,
        spent=along.spent,
        told=along.told,
        why=along.why,
    )


def _none_twice(setup: Setup, network: Network) -> Network:
    """With neurons of a second hidden layer joined that were read twice, and all weights settled anew.

    Along all directions the two would not do what they do along few, where errors of one make up for the other's.

    Queries: those of `finish`
    """
    if len(network.layers) < 3:
        return network
    log, size, rng = setup.log, setup.probe.noise.size, setup.probe.rng
    pool = rng.standard_normal((POOL, network.n)) * size / np.sqrt(network.n)
    return without_twins(
        network,
        log.all()[0],
        lambda trial: log.error(trial, size),
        setup.fine,
        lambda trial: finish(log, trial, size, pool, rng),
    )


def _doubtful(network: Network, planes: Hyperplanes, n: int) -> tuple[Bool[np.ndarray, " k"], Float[np.ndarray, "k p"]]:
    """The rows of a network with one hidden layer that came out worst, and a point on the hyperplane of each row."""
    k, p = planes.rows.shape
    again, seen = np.zeros(network.layers[0].neurons, dtype=bool), np.zeros((network.layers[0].neurons, p))
    if len(network.layers) == 2:
        many = network.m > 1
        seen[:k] = planes.at
        most = network.m * max(1, int(AGAIN[many] * n * k / (network.m * p)))
        worst = np.argsort(-planes.error)[:most]
        again[worst] = planes.error[worst] > THROUGH[many][1]
    return again, seen
