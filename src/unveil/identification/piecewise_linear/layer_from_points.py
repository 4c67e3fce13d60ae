"""merge_points: critical points become neurons, and these a whole layer with its signs, behind which it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.output_layer import AffineMap, Unsigned, after, explain
from unveil.identification.piecewise_linear.completeness import leaks
from unveil.identification.piecewise_linear.critical_point import passed_on
from unveil.identification.piecewise_linear.deeper_state import RARE_SWITCH_SCALES, Deeper, Points
from unveil.identification.piecewise_linear.derivative_sums import HELD, Sums, told
from unveil.identification.piecewise_linear.expected_breakpoints import Ways
from unveil.identification.piecewise_linear.layer_candidates import Views, candidates
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.reading_state import Setup

# A neuron counts as one of the layer being read, not of a deeper one, once it was met this often, wherever expected.
LAYER_MEETINGS = 4
# Share of the times that a neuron should have been met and was: breakpoints close to another one are missed.
MET_SHARE = 0.9
ANYWAY = 6  # every so many lines, neurons met twice are worth a search for their weights
LAST_LAYER_SHARE = 0.5  # a layer that explains more of the answers than this is the last hidden one
NEARLY_RIGHT_ERROR = 1e-5  # errors that nearly right weights may leave, in units of the largest answer
USUAL_POINTS_SHARE = 0.8  # share of points at which a neuron is as exact as is said
SAFE = 3.0  # so many times the largest deviation met is what a neuron may be off
POINTS_BEHIND_LAYER = 3  # so many critical points whose normals a layer passes on show that another one lies behind it
# Points where a layer is asked whether a neuron is missing, and points among which those are chosen that tell signs.
LAYER_CHECK_POINTS, SIGN_POOL_POINTS = 60, 300


def merge_points(setup: Setup, state: Deeper) -> Deeper:
    """Merge the critical points; where the next layer shows itself whole, read on behind it. Queries: those of `told`
    and `leaks` for every set of neurons that may be a whole layer."""
    while True:
        state = _merged(state, state.parallel and state.follows)
        # A fit that explains nearly all answers may end behind too few layers, where the next one hardly ever switches:
        # then critical points gather that it does not explain.
        if state.few_open:
            return state
        state, layer = _layer(setup, state)
        if layer is None:
            return state
        if not _more_behind(state, layer):
            unsigned = Unsigned(state.layers, *layer, np.ones(layer[0].shape, dtype=bool))
            if explain(unsigned, setup.log, setup.probe.noise.size, NEARLY_RIGHT_ERROR)[2].mean() > LAST_LAYER_SHARE:
                return state.ending(layer)
        state = state.behind(layer)


def reopened(state: Deeper) -> Deeper:
    """Before the layer read last was taken for whole, where critical points met since are of one more neuron of it.

    Hardly any input switches such a one, and it goes on straight in several settings of the others, as none behind the
    layer does. Else the same reading, and that its layer was doubted.
    """
    loose = [state.seen[i] for i in state.unexplained]
    if state.before is None or len(loose) < max(POINTS_BEHIND_LAYER, 2 * state.doubted):
        return state
    again, theirs = _merged(state.reopened(), False), set(loose)
    for n in again.candidates.merged:
        met = sum(again.seen[i] in theirs for i in n.members)
        if met >= POINTS_BEHIND_LAYER and n.settings > 1 and n.were >= MET_SHARE * n.should:
            return again
    return replace(state, doubted=len(loose))


def _more_behind(state: Deeper, layer: AffineMap) -> bool:
    """Whether critical points that this layer does not explain are mostly of a deeper one, by what it passes on."""
    seen = state.behind(layer).seen
    told = [passed for each in seen if (passed := passed_on([*state.layers, layer], each)) is not None]
    return sum(told) >= POINTS_BEHIND_LAYER and 2 * sum(told) > len(told)


def _merged(state: Deeper, given: bool) -> Deeper:
    """All critical points as neurons, and how often each of these was met. `given`: whether no others than those read
    in another way are begun."""
    old, layers = state.candidates, state.layers
    views = Views.of_points(layers, state.seen, state.error, old.views, old.held)
    begun = views if given else old.views
    merged = candidates(None, views, layers, old.merged, 0 if begun is None else len(begun.which))
    merged = Ways.of(layers, state.lines, state.error).confirmed(merged) if state.lines else merged
    neurons, certain = [], []
    for n in merged:
        often = len(n.members) > 1 or n.were >= LAYER_MEETINGS or (state.last and n.before is not None)
        if n.key not in old.proven and not (often and n.were >= MET_SHARE * n.should):
            continue
        neurons.append(n)
        if len(n.members) > 2 or n.settings >= LAYER_MEETINGS or state.turn % ANYWAY == ANYWAY - 1:
            certain.append(n)
    alone = [n for n in merged if len(n.members) == 1 and n not in neurons]
    explained = {i for n in neurons for i in n.members}
    now = replace(
        old,
        views=views,
        held=len(state.seen),
        merged=tuple(merged),
        neurons=tuple(neurons),
        certain=tuple(certain),
        alone=tuple(alone),
        open=len(state.seen) - len(explained),
    )
    return replace(state, candidates=now, work=state.work + len(state.seen) * len(merged))


def _layer(setup: Setup, state: Deeper) -> tuple[Deeper, AffineMap | None]:
    """The layer being read, signs settled, if the neurons merged so far contain it whole."""
    layers, points = state.layers, state.points
    sure, perhaps = by_evidence(state.candidates.merged)
    if not sure and not perhaps:
        return state, None
    neurons, probe = [*sure, *perhaps], setup.probe
    spare, pool = np.arange(len(neurons)) >= len(sure), _pool(setup, state)
    chosen = Sums.of_stations(layers, neurons, state.stations, HELD[True]).made_up(spare, 1.0)
    more = told(probe, layers, neurons, chosen, pool)
    if more:
        state = replace(state, stations=(*state.stations, *more))
        chosen = Sums.of_stations(layers, neurons, state.stations, HELD[True]).made_up(spare, 1.0)
    if len(chosen.wrong):
        # A line from where they are all to where one is missing meets it.
        return replace(state, right=chosen.right, wrong=chosen.wrong), None
    layer, of_layer = chosen.layer(neurons), list(compress(neurons, chosen.use))
    # Neurons met at twice as many critical points are known better, and worth another look.
    keys = frozenset((n.key, len(n.members).bit_length()) for n in of_layer)
    if keys in state.candidates.refuted:
        return state, None
    doubt = max(float(np.sqrt(np.trace(n.spread[:-1, :-1]))) for n in of_layer)
    x = probe.rng.permutation(np.concatenate([points.out(LAYER_CHECK_POINTS, scale) for scale in RARE_SWITCH_SCALES]))
    right, wrong = leaks(probe, layers, layer, x, LAYER_CHECK_POINTS, doubt)
    state = replace(state, right=right, wrong=wrong)
    # Should it be taken up again, it is as a layer that lacks a neuron.
    now = replace(state.candidates, refuted=state.candidates.refuted | {keys})
    state = replace(state, candidates=now)
    if not len(wrong):
        return replace(state, error=max(state.error, _doubt(state, points, of_layer))), layer
    return state, None


def by_evidence(merged: Sequence[Neuron]) -> tuple[list[Neuron], list[Neuron]]:
    """Whole neurons met wherever they should be: those that are of the layer being read, and those that may be. One of
    a deeper layer goes on straight in a single setting; one read in another way too needs but a second."""
    sure: list[Neuron] = []
    perhaps: list[Neuron] = []
    for n in merged:
        if n.whole and n.were >= MET_SHARE * n.should and (len(n.members) > 1 or n.before is not None):
            (sure if n.settings >= LAYER_MEETINGS or (n.before is not None and n.settings >= 2) else perhaps).append(n)
    return sure, perhaps


def _pool(setup: Setup, state: Deeper) -> Float[np.ndarray, "N n"]:
    """Where derivatives may be measured."""
    layer, pool = state.layers[0], [state.points.out(SIGN_POOL_POINTS, scale) for scale in RARE_SWITCH_SCALES[:2]]
    if len(state.layers) == 1 and len(layer[0]) <= state.frame.d and state.frame.free:
        pool.append(state.frame.after(*layer).sample(SIGN_POOL_POINTS, setup.probe.rng))
    return np.concatenate(pool)


def _doubt(state: Deeper, points: Points, neurons: list[Neuron]) -> float:
    """How far off the worst of these neurons usually is: one weight that rarely matters may be vague.

    No more than where they were met says: errors that add up from layer to layer are overstated, and behind a layer
    that is thought vague nothing is told.
    """
    h = after(state.layers, points.usual(200))
    h = np.insert(h, h.shape[1], 1, axis=1)
    met = Ways.of(state.layers, state.lines, state.error).deviations(neurons)
    out = 0.0
    for neuron, off in zip(neurons, met, strict=True):
        spread = np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", h, neuron.spread, h), 0))
        stated = float(np.quantile(spread / np.linalg.norm(h, axis=1), USUAL_POINTS_SHARE))
        out = max(out, stated * (min(1.0, SAFE * float(off.max())) if len(off) >= LAYER_MEETINGS else 1.0))
    return out
