"""read_behind: the layers behind the one just read, where answers do not end there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import AffineMap, after, weighted_output
from unveil.identification.fitting.pruning import without_idle
from unveil.identification.piecewise_linear.closing import STEADY, close, turned
from unveil.identification.piecewise_linear.deeper_layers import read_deeper
from unveil.identification.piecewise_linear.deeper_state import Deeper
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.far_places import confirm
from unveil.identification.piecewise_linear.followed_neurons import settle_wide
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_answers import fresh, fresh_on_both_sides
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import finished, layer_steps, missing
from unveil.identification.piecewise_linear.many_layers import behind_crowded, crowded
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.output_behind import CONVINCING, weighted_spread
from unveil.identification.piecewise_linear.partial_network import explained
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.rare_neurons import last_layer, output_suiting_most, with_rare
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.rows_from_points import BY_POINTS, sharper_rows
from unveil.identification.piecewise_linear.second_layer import LEAST_ROUGH_ERROR, SecondLayer, read_second_layer
from unveil.identification.piecewise_linear.sharpening import sharpened, unmix, worst_sharpened
from unveil.identification.piecewise_linear.sign_recovery import dependent, too_many
from unveil.identification.piecewise_linear.traced_layers import MISSING_POINTS_SHARE, first_sums, trace_layers
from unveil.identification.piecewise_linear.whole_fit import fit_is_cheap
from unveil.whitebox.network import Network

# From this many neurons in the first layer on the second is first looked for where all of them are active: there one
# derivative shows all weights of a neuron, elsewhere half of them.
MANY_NEURONS = 16
# Of few digits: neurons of the first layer up to which hyperplanes behind it are followed one by one; share of what the
# budget leaves that may be spent on that.
FOLLOWED, FOLLOWING_BUDGET_SHARE = 128, 0.8
# So many breakpoints behind a first layer wider than its input are those of many layers where fewer than this share of
# them are on hyperplanes of second-layer neurons that were followed.
FOREIGN, FEW_ON = 500, 0.2
# Rows with larger errors are measured again by breakpoints as long as neurons are looked for.
VAGUE_ROW_ERROR = 1e-3
# With rows further off than this answers seem to change for a missing neuron's sake: they are measured once more.
LEAKY = 2e-3
# A region where all neurons are active begins so many errors of their rows, at inputs so many times as large as usual
# ones, inside.
REGION_MARGIN_ERRORS, SAFE = 4.0, 3.0
# Rounds in which neurons of the first layer are looked for again once its rows are sharp, and lines in each.
MISSING_ROUNDS, FEW_LINES = 3, 4
PER_NEURON, SPARE_ANSWERS = 10, 200  # answers per neuron of the last layer, and besides, for a first output layer
FINAL_FITS, FINAL_FIT_STEPS = 2, 24  # fits of all weights at the end, and steps of each, at most
PER_WEIGHT = 100  # answers per weight of a neuron of which one in a hundred inputs may tell


def read_behind(setup: Setup, state: Reading) -> Iterator[Reading]:
    """Leave the layer at hand, signs settled, behind, and read on.

    Exact answers: all other layers, from critical points of their neurons wherever lines meet them. Few digits: those
    whose hyperplanes can be followed; in a box and behind a layer of more than `FOLLOWED` neurons the next ones are
    read as a first layer is, where all neurons before it are active, and the last state is not `over`. Queries: those
    of `read_deeper`, or of `trace_layers` and a fit of all weights.
    """
    return _at_critical_points(setup, state) if setup.exact else _followed(setup, state)


def _at_critical_points(setup: Setup, state: Reading) -> Iterator[Reading]:
    if setup.inputs and not _fitted_later(setup, state):
        # No fit of all weights will make up for what the next layers are read through.
        state = close(setup, state.with_found(worst_sharpened(setup.probe, state.frame, state.found, few=True)))
    found, layer = state.found, state.layer
    assert layer is not None
    given: list[Neuron] = []
    if not state.settled and len(found) > state.frame.d:
        state, given = settle_wide(setup, state)
        found, layer = state.found, state.layer or layer
        if state.settled:
            yield replace(state.counted(), layers=(layer,))
            if _too_deep(layer, given, found):
                text = f"{len(given)} neurons behind the first layer explain hardly any breakpoint: many layers follow."
                yield replace(state.counted().ended(text), layers=(layer,), spent=True, network=None, error=np.inf)
                return
    if not state.settled:
        # Half of its neurons are on the wrong side: nothing behind is what it seems, and a network that ends behind it
        # would be no start for a fit. Where that is a matter of numbers other lines are no help.
        spent = too_many(len(found), state.frame.d)
        yield replace(state.ended(), spent=spent, network=None, error=np.inf)
        return
    few, first = len(found) <= state.frame.d, state
    if few and state.frame.free and crowded(found):
        for now in behind_crowded(setup, state):
            yield now
        if len(now.layers) > 1 or now.network is not None:
            return
        # Nothing behind the first layer came out: there may be one wide layer rather than many.
    stations: list[Station] = []
    if few and len(found) >= MANY_NEURONS and not dependent(found.rows).any():
        state, given, stations = _where_all_are_active(setup, state, layer)
        yield state
    if state.whole or state.error < (LEAST_ROUGH_ERROR if setup.inputs else setup.fine):
        yield replace(state, whole=True)
        return
    begun = Deeper.begun(setup, first.frame, layer, found, given, stations)
    if _fitted_later(setup, first):
        # Errors that a fit of all weights takes away later need not be read away.
        begun = replace(begun, fine=LEAST_ROUGH_ERROR)
    for now in _deeper_states(setup, state, begun):
        yield now
    if now.spent and now.network is None and few and state.frame.free:
        yield from behind_crowded(setup, replace(first, why=()))


def _too_deep(layer: AffineMap, given: list[Neuron], found: LayerFound) -> bool:
    """Whether most of many breakpoints behind a first layer are not on the hyperplanes of the neurons followed."""
    if len(found.bent) < FOREIGN or not given:
        return False
    followed = np.array([n.weights for n in given]), np.array([n.bias for n in given])
    return bool(explained([layer, followed], found.bent.at).mean() < FEW_ON)


def _fitted_later(setup: Setup, state: Reading) -> bool:
    """Whether a fit of all weights along a few directions will make up for errors of what was read."""
    first = state.first
    return bool(setup.inputs) and first is not None and fit_is_cheap(setup, state, first.rows.size)


def _deeper_states(setup: Setup, state: Reading, begun: Deeper) -> Iterator[Reading]:
    state = replace(state, wrong=state.wrong[:0])
    for deeper in read_deeper(setup, begun, setup.most_lines):
        sizes = [len(w) for w, _ in deeper.layers[1:]] + [len(deeper.candidates.neurons)]
        told = [{"neurons": k, "lines": len(deeper.lines), "bent": 0} for k in sizes]
        layers = tuple(deeper.layers) if state.settled else ()
        text = (
            f"It ended behind layer {len(deeper.layers)}: critical points of too many neurons stand against each other."
        )
        why = (*state.why, text) if deeper.spent else state.why
        now = replace(state, layers=layers, told=(state.told[0], *told), over=True, spent=deeper.spent, why=why)
        yield now if deeper.network is None else now.with_network(deeper.network, deeper.residual)


def _where_all_are_active(
    setup: Setup, state: Reading, layer: AffineMap
) -> tuple[Reading, list[Neuron], list[Station]]:
    """The second layer as it is seen where the whole first one is active, and derivatives from there."""
    outside, first = state.frame, state.found
    state = state.left_behind(layer)
    here = _within_their_span(setup, state.frame)
    found = finished(layer_steps(here, state.frame, far=setup.far, most_lines=setup.most_lines))
    stations = found.stations(state.frame)
    given: list[Neuron] = []
    if len(found.rows):
        given = [Neuron.given(*each) for each in zip(found.rows, found.bias, found.straight.error, strict=True)]
        if not setup.inputs:
            state = close(setup, state.with_found(found)).counted()
        else:
            second = read_second_layer(SecondLayer.begun(here, setup.log, outside, layer, first, found))
            if second.network is not None and second.residual < second.rough():
                now = {"neurons": len(second.found.rows), "lines": len(second.found.searched), "bent": 0}
                told = (state.told[0], now)
                state = replace(state, network=second.network, error=second.residual, told=told, whole=True)
    return state, given, stations


def _within_their_span(setup: Setup, frame: Frame) -> Probe:
    """Where inputs are in the span of rows: there the same length of one moves their neurons more."""
    noise = setup.probe.noise
    size = noise.size * np.sqrt(frame.lift.shape[1] / setup.oracle.n)
    return Probe(setup.probe.ask, replace(noise, size=size), setup.probe.rng)


def _followed(setup: Setup, state: Reading) -> Iterator[Reading]:
    frame, found = state.frame, state.found
    assert state.layer is not None
    if len(found) > frame.d:
        yield state.ended()
        return
    found, layer, lacks = _sharper(setup, frame, found, state.layer)
    state = state.with_found(found).counted().left_behind(layer)
    if len(state.layers) == 1 and frame.d > BY_POINTS:
        # Rows are off by so much where the region begins.
        off = found.straight.error * REGION_MARGIN_ERRORS * setup.size / np.sqrt(frame.d)
        state = replace(state, frame=state.frame.smaller(SAFE * off * np.linalg.norm(layer[0], axis=1)))
    yield state
    if lacks:
        depth = len(state.layers)
        yield state.ended(f"Neurons of layer {depth} are missing: what lies behind it cannot be read.")
        return
    if not state.frame.reachable():
        yield state.ended("No input makes all the neurons read so far active, which the next layer needs.")
        return
    if len(state.layers) > 1 or state.frame.d > FOLLOWED or state.frame.within is not None:
        return  # behind two layers, and in a box, neurons do not see what they like
    error = found.straight.error
    probe, positive, usual = first_sums(setup.probe, state.frame, error)
    ledger, before = setup.oracle.ledger, state
    # Something must be left for a network to look at.
    last = ledger.asked + FOLLOWING_BUDGET_SHARE * ledger.left
    ends = False
    most = setup.most_layers - 1
    for traced in trace_layers(probe, positive, usual, error, most, lambda: ledger.asked > last):
        behind, ends = traced.layers[1:], traced.ends
        lines = len(traced.lines) + len(traced.among)
        told = [{"neurons": len(w), "lines": lines, "bent": len(traced.unexplained)} for w, _ in behind]
        layers = (*before.layers, *behind)
        why = tuple(
            f"Layer {depth} lacks neurons: at {share:.0%} of usual inputs the answers change where it does not."
            for depth, share in enumerate(traced.lacking, len(before.layers) + 1)
            if share > MISSING_POINTS_SHARE
        )
        state = replace(
            before, layers=layers, partial=traced.unknown, told=(*before.told, *told), why=(*before.why, *why)
        )
        yield state
    ending = state if ends else _ends_for_most(setup, state)
    if ending is None and state.partial is not None:
        count = len(state.partial[1])
        state = replace(
            state, why=(*state.why, f"{count} neurons of layer {len(state.layers) + 1} were read, but not all.")
        )
    yield state.ended() if ending is None else _ended(setup, ending).ended()


def _ends_for_most(setup: Setup, state: Reading) -> Reading | None:
    """With the layers behind which most answers end, what the last one lacked put in; None without any.

    A layer that lacks a neuron which few inputs switch is not seen to be whole, nor to be the last. At most inputs that
    neuron is off, or a linear part in the values of the layer before. Queries: `PER_WEIGHT` per weight of a neuron of
    the last layer, and those of `with_rare`.
    """
    for before, rows in ((state.layers, state.partial), (state.layers[:-1], state.layers[-1])):
        if rows is None or not before:
            continue
        x, y = fresh(setup, state, PER_WEIGHT * (rows[0].shape[1] + 1))
        layer = last_layer(list(before), rows, x, y, lambda more: _kept(setup, state, more), setup.probe.rng)
        if layer is not None:
            return replace(state, layers=(*before, layer), partial=None)
    return None


def _kept(setup: Setup, state: Reading, x: Float[np.ndarray, "N n"]) -> tuple[np.ndarray, np.ndarray]:
    """Legal points and their answers, among those that fits are made to."""
    x = setup.oracle.nearest(x)
    y = setup.probe.ask(x)
    state.fresh.keep(x, y)
    return x, y


def _sharper(setup: Setup, frame: Frame, found: LayerFound, layer: AffineMap) -> tuple[LayerFound, AffineMap, bool]:
    """The layer as all derivatives tell it, with neurons that only sharp rows show, and whether some are missing still.
    Queries: those of `missing`, of `sharpened` for rows that are further off than `LEAKY`, and of `MISSING_ROUNDS`
    times `FEW_LINES` lines at most."""
    by_points, had = frame.free and frame.d > BY_POINTS, 0
    for number in range(MISSING_ROUNDS + 1):
        if by_points:
            found = _told_by_points(setup, frame, found, had)
            layer, had = turned(frame, found), len(found)
        else:
            found, layer = _unmixed(frame, found, layer)
            vague = np.flatnonzero(found.straight.error > LEAKY)
            if len(vague):
                found = sharpened(setup.probe, frame, found, vague)
                layer = turned(frame, found)
        if not missing(setup.probe, frame, found):
            return found, layer, False
        if number == MISSING_ROUNDS:
            break
        steps = layer_steps(setup.probe, frame, far=setup.far, most_lines=FEW_LINES, found=found, sure=True)
        more = finished(steps)
        if len(more) == len(found) and frame.free:
            # Only a neuron that is missing would bend these lines: answers change there for the errors of rows.
            return found, layer, False
        if len(more) == len(found) or len(more) > frame.d:
            break
        found = more
        layer = turned(frame, found)
    return found, layer, True


def _unmixed(frame: Frame, found: LayerFound, layer: AffineMap) -> tuple[LayerFound, AffineMap]:
    """Rows as all derivatives measured on the way tell them."""
    rows, bias, error = unmix(frame, found, layer)
    straight = found.straight
    turn = np.sign(np.einsum("kd,kd->k", rows, straight.rows))[:, None]
    planes = Hyperplanes(turn * rows, turn[:, 0] * bias, straight.jump, error, straight.at)
    return found.with_rows(planes), (rows, bias)


def _told_by_points(setup: Setup, frame: Frame, found: LayerFound, known: int) -> LayerFound:
    """Rows as breakpoints around their places tell them, but for those of the first `known` that are well known; the
    ones that are met at fresh places. Queries: twice those of `sharper_rows` at most, and those of `confirm`."""
    straight, new = found.straight, np.arange(len(found)) >= known
    for _ in range(2):
        vague = np.flatnonzero(new | (straight.error > VAGUE_ROW_ERROR))
        sharp = sharper_rows(setup.probe, frame, straight[vague])
        straight = straight.replaced({int(i): sharp[np.array([j])] for j, i in enumerate(vague)})
        new = np.zeros_like(new)
    looked = np.flatnonzero((np.arange(len(found)) >= known) | (straight.error > VAGUE_ROW_ERROR))
    kept = np.ones(len(straight), dtype=bool)
    others = Hyperplanes.joined([straight, found.bent])
    kept[looked] = confirm(setup.probe, frame, straight[looked], others).there
    return found.with_rows(straight[kept])


def _ended(setup: Setup, state: Reading) -> Reading:
    """The output layer behind those read, and a fit of all of them; whether that explains the answers. Queries:
    `ANSWERS_PER_PARAMETER`, fewer with several outputs, and as many again at most to meet every neuron on either
    side."""
    probe, layers = setup.probe, list(state.layers)
    k = len(layers[-1][1])
    x, y = fresh(setup, state, PER_NEURON * k + SPARE_ANSWERS)
    F = np.concatenate([after(layers, x), np.ones((len(x), 1))], axis=1)
    out = weighted_output(F, y, probe.noise.counts(x, y)[0])
    network = Network.from_weights([*layers, (out[:k].T, out[k])], shape=setup.oracle.shape)
    x, y = fresh_on_both_sides(setup, state, network)
    for turn in range(FINAL_FITS):
        # What errors of rows hide at first shows once all weights were fitted.
        lacked = with_rare(layers, x, y, partial(_kept, setup, state), probe.rng)
        if lacked is not layers:
            x, y = state.fresh.all()
            state = replace(state, layers=tuple(lacked))
            network = Network.from_weights([*lacked, output_suiting_most(lacked, x, y)], shape=setup.oracle.shape)
        elif turn:
            break
        counts, sigma = probe.noise.counts(x, y)
        network, rms, *_ = fit(network, x, y, noise=STEADY * sigma, counts=counts, steps=FINAL_FIT_STEPS)
        layers = [(layer.dense(), layer.bias) for layer in network.layers[:-1]]
    # A hyperplane of the layer before, met a little beside where it was expected, ends as a neuron without effect.
    smaller = without_idle(network, x, probe.noise.at(x, y))
    if smaller.widths != network.widths:
        network, rms, *_ = fit(smaller, x, y, noise=STEADY * sigma, counts=counts)
    told = tuple({**each, "neurons": layer.neurons} for each, layer in zip(state.told, network.layers, strict=False))
    return replace(state, network=network, told=told, whole=rms < CONVINCING * weighted_spread(y, counts))
