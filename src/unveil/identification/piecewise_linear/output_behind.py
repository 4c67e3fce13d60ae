"""output_behind: an output layer behind a layer, told by answers with few digits, and what it leaves of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.fitting.measured import measured_output
from unveil.identification.fitting.output_layer import AffineMap, after, weighted_output
from unveil.identification.fitting.robust import Robust
from unveil.identification.piecewise_linear.fresh_answers import fresh
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sign_recovery import by_answers

# Share of the answers' spread that rows may leave where nothing is missing; the same in standard deviations of answers.
CONVINCING, OUTPUT_MISFIT_SIGMAS = 0.03, 3.0
BETTER = 0.1  # a trial replaces the best one where it leaves less than this share of its error
BESIDES = 6  # points on either side of a first-layer neuron
# Answers per unknown of an output layer, and besides; every fifth is not fitted but held against it.
ANSWERS_PER_UNKNOWN, ANSWERS_BESIDES, HELD_OUT_INTERVAL = 4, 100, 5
SAME_ERROR_COSINE = 0.9  # cosine of errors that one neuron may explain
# How often signs are told by answers; share of a neuron that is the other way round then.
SIGN_TURNING_ROUNDS, TURNED = 3, 0.5


class Output(NamedTuple):
    """An output layer behind a layer, and what it leaves."""

    x: Float[np.ndarray, "N n"]  # where it was asked
    coefficients: Float[np.ndarray, "q m"]  # of the layer's neurons, one, and the coordinates if they are part of it
    off: Float[np.ndarray, "N m"]  # what it leaves, each error multiplied by what it counts
    left: float  # of answers that it was not fitted to, as a share of their spread
    rounding: float  # what rounding may leave of it
    linear: bool  # whether coefficients of the coordinates are part of it


def output_behind(setup: Setup, state: Reading, layer: AffineMap) -> tuple[AffineMap, Output]:
    """The output layer behind these neurons, with a linear part where they alone do not explain the answers, and the
    layer, the other way round where answers say so.

    With more neurons than coordinates, or some that are always active, signs are at will: relu(-z) = relu(z) - z, and a
    linear part is left over. `layer`: rows and biases, active where positive. Queries: `ANSWERS_PER_UNKNOWN (k + 1) +
    ANSWERS_BESIDES`, and `ANSWERS_PER_UNKNOWN` for each coordinate where these may be part of it.
    """
    (rows, _), frame = layer, state.frame
    k = len(rows)
    always = k > frame.d or not k or (not frame.free and not state.layers)  # in a box some are active all over it
    told = _told(setup, state, layer, always or bool(state.layers))
    if always:
        return layer, _output(setup, state, layer, *told, linear=True)
    if state.layers:
        layer = _turned_by_answers(setup, state, layer, *told)
    best = _output(setup, state, layer, *told, linear=False)
    if best.left > CONVINCING:
        # So it is where neurons slope on both sides of their hyperplanes, or are active all over the region.
        told = told if state.layers else _told(setup, state, layer, True)
        sloped = _output(setup, state, layer, *told, linear=True)
        if sloped.left <= (CONVINCING if frame.free else BETTER * best.left):
            return layer, sloped
    return layer, best


def _told(
    setup: Setup, state: Reading, layer: AffineMap, linear: bool
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
    """Points and answers for an output layer, with coefficients of the coordinates or without."""
    unknowns = len(layer[0]) + 1 + linear * state.frame.d
    return fresh(setup, state, ANSWERS_PER_UNKNOWN * unknowns + ANSWERS_BESIDES, layer, BESIDES)


def _output(
    setup: Setup,
    state: Reading,
    layer: AffineMap,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    *,
    linear: bool,
) -> Output:
    """The output layer that answers tell, those that hyperplanes were measured by too behind another layer."""
    h = after(list(state.layers), x)
    F = np.concatenate([after([layer], h), np.ones((len(h), 1)), *([h] if linear else [])], axis=1)
    fitting = np.arange(len(x)) % HELD_OUT_INTERVAL > 0
    counts, sigma = setup.probe.noise.counts(x, y)
    told, planes = (F[fitting], y[fitting], counts[fitting]), state.found.straight
    spread = max(weighted_spread(y, counts), sigma, 1e-300)  # of a constant only errors are left
    trials = [weighted_output(*told)]
    if state.layers:
        # Behind a layer many neurons are active at few inputs, and lines have measured what each adds.
        trials.append(measured_output(*told, planes.jump, output_error(planes)))
    offs = [counts * (F @ out - y) for out in trials]
    held = [np.abs(off[~fitting]).max(axis=1) for off in offs]
    i = int(np.argmin([np.median(each) for each in held]))
    left = float(np.sqrt((offs[i][~fitting] ** 2).mean())) / spread
    return Output(x, trials[i], offs[i], left, OUTPUT_MISFIT_SIGMAS * sigma / spread, linear)


def _turned_by_answers(
    setup: Setup, state: Reading, layer: AffineMap, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]
) -> AffineMap:
    """The layer with the neurons turned that answers show the other way round, as long as that leaves less of them.
    Output weights are those that lines have measured: one that is fitted may do without such a neuron."""
    h, jump = after(list(state.layers), x), state.found.straight.jump
    counts = setup.probe.noise.counts(x, y)[0].mean(axis=1, keepdims=True)

    def left(layer: AffineMap) -> Float[np.ndarray, "N m"]:
        off = after([layer], h) @ jump - y
        return np.asarray(counts * (off - np.median(off, axis=0)))

    off = left(layer)
    for _ in range(SIGN_TURNING_ROUNDS):
        rows, bias = layer
        robust = Robust.at((off**2).mean(axis=1))
        weight = np.sqrt(robust.weight)[:, None]
        share = by_answers((h @ rows.T + bias) * counts * weight, off * weight, jump)
        turn = np.where(share > TURNED, -1.0, 1.0)
        trial = rows * turn[:, None], bias * turn
        there = left(trial)
        if (turn > 0).all() or robust.costs((there**2).mean(axis=1)) >= robust.cost:
            break
        layer, off = trial, there
    return layer


def output_error(planes: Hyperplanes) -> Float[np.ndarray, " k"]:
    """Standard deviation of each output weight of these neurons: of the jump of a derivative, as its normal's is."""
    return np.asarray(planes.error * np.linalg.norm(planes.jump, axis=1) / np.sqrt(planes.jump.shape[1]))


def weighted_spread(y: Float[np.ndarray, "N m"], counts: Float[np.ndarray, "N m"]) -> float:
    """Root mean square of what answers differ from their mean, each multiplied by what its error counts for."""
    return float(np.sqrt(((counts * (y - y.mean(axis=0))) ** 2).mean()))


def most_wrong(off: Float[np.ndarray, "N m"], most: int, least: int) -> Int[np.ndarray, " W"]:
    """Of so many points where a network is most wrong, one for each direction of its errors: what one neuron that is
    missing adds has one direction. `off`: what it leaves. `least`: points at least, if there are as many."""
    size = np.linalg.norm(off, axis=1)
    order = np.argsort(-size, kind="stable")[:most]
    ways = off[order] / np.maximum(size[order], 1e-300)[:, None]
    first: list[int] = []
    for i, way in enumerate(ways):
        if (np.abs(ways[first] @ way) < SAME_ERROR_COSINE).all():
            first.append(i)
    rest = np.setdiff1d(np.arange(len(order)), first)[: max(0, least - len(first))]
    return np.asarray(order[np.concatenate([first, rest]).astype(int)])
