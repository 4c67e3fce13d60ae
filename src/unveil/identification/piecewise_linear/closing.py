"""close: a layer as the last hidden one: on which sides its neurons are active, and the network that ends behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.balance import by_balance
from unveil.identification.fitting.matrix_free import STEPS, fit, taken_apart
from unveil.identification.fitting.measured import Errors, Measured
from unveil.identification.fitting.output_layer import (
    AffineMap,
    Weights,
    after,
    output_layer,
    with_linear_part,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_answers import answers_for, fresh, fresh_on_both_sides
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import missing
from unveil.identification.piecewise_linear.output_behind import (
    BESIDES,
    BETTER,
    CONVINCING,
    OUTPUT_MISFIT_SIGMAS,
    Output,
    most_wrong,
    output_behind,
    output_error,
    weighted_spread,
)
from unveil.identification.piecewise_linear.partial_network import alike
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sign_recovery import by_share, by_sparsity, weakest_turned
from unveil.whitebox.network import Network

PARALLEL_ROW_DIFFERENCE = 1e-7  # rows that differ less are multiples of each other
# What the signs of a one-layer network's rows, and those of a deeper layer's, may leave of a derivative.
BALANCED, SPARSE = 1e-7, 1e-8
# Share of the answers' spread that the coarse rows may leave for the fit to be tried; where there are so many bent
# hyperplanes per straight one that another layer seems to lie behind.
PROMISING, DEEPER = 0.3, 0.2
SIDE_POINTS = 3.0  # points on either side of a first-layer neuron, per input and output
WRONG = 4  # points at once towards which lines are laid
# How many of its expected errors a fit that leaves something may move a row, and the least error of one.
ROW_MOVE_ERRORS, LEAST_ROW_ERROR = 6.0, 1e-7
# Signs of the weakest neuron are the other way round where that leaves less than this share of the error.
TURNED_ERROR = 0.5
MANY_WEIGHTS = 4  # steps of a fit that moves a first layer of so many weights that each takes a minute
STEADY = 0.1  # errors of a step of the fit that end it, in standard deviations of an answer


def close(setup: Setup, state: Reading, *, lines: bool = False) -> Reading:
    """With signs of the layer being read, and the network that ends behind it.

    `lines`: whether others may be laid to where that is wrong. Exact answers that are paid for tell all of it. Of few
    digits they lie in clusters, and fresh ones do. Queries: 0 for exact answers, else those of `_on_fresh`.
    """
    return _on_paid(setup, state) if setup.exact else _on_fresh(setup, state, lines)


class _Closed(NamedTuple):
    """A layer, signs settled, the rest of a network that ends behind it, and its largest error on what was asked."""

    layer: AffineMap
    settled: bool
    ending: Weights
    error: float


def _on_paid(setup: Setup, state: Reading) -> Reading:
    """Held against answers already paid for: the best so far is kept. Tried with what moves along no normal folded in,
    with hyperplanes that may be the layer's, and with both."""
    found, frame, before = state.found, state.frame, list(state.layers)
    best: _Closed | None = None
    maybe = np.flatnonzero(found.bent_maybe)
    for more in (False, True) if len(maybe) and before else (False,):
        rows, bias, jump = found.rows, found.bias, found.straight.jump
        if more:
            new = _distinct(found.bent.rows[maybe])
            extra = found.bent.rows[maybe][new]
            at = frame.values(found.bent.at[maybe][new])
            rows, jump = np.concatenate([rows, extra]), np.concatenate([jump, found.bent.jump[maybe][new]])
            bias = np.append(bias, -np.einsum("bd,bd->b", extra, at))
        z = frame.values(found.at) @ rows.T + bias
        side = _signs(found, rows, jump, z)
        settled, side = side is not None, np.ones(len(rows)) if side is None else side
        layer = (rows * side[:, None], bias * side)
        active = (z * side > 0).astype(np.float64)
        for fold in (False, True):
            over = np.median(found.slope - _active_part(jump, active, layer[0]), axis=0) if fold else None
            tried = _Closed(layer, settled, *output_layer(setup.log, before, layer, over, setup.size))
            if best is None or tried.error < BETTER * best.error:
                best = tried
            if best.error < setup.fine:
                return state.closed(best.layer, best.settled, best.error, [*before, *best.ending])
    assert best is not None
    return state.closed(best.layer, best.settled, best.error, [*before, *best.ending])


def _on_fresh(setup: Setup, state: Reading, lines: bool) -> Reading:
    """This layer as the last hidden one, sharper: whether that fits, and whether neurons seem to be missing.

    Without a neuron it is none: then whether an affine map of what the layers before pass on fits. Queries: those of
    `output_behind`, and `answers_for` the network, but for those asked before.
    """
    found, frame = state.found, state.frame
    layer, closed = output_behind(setup, state, turned(frame, found))
    rows, bias = layer
    state = replace(state, layer=layer, settled=len(rows) <= frame.d, right=state.wrong[:0])
    k, m, out, more = len(rows), setup.probe.m, closed.coefficients, closed.linear
    most = CONVINCING if len(found.bent) > DEEPER * k + 2 or not k else PROMISING
    wrong, right = _wrong_and_right(state, closed)
    # A neuron of a layer behind another that is missing is active at few inputs: lines there tell more than a fit.
    if closed.left > (closed.rounding if lines and state.layers and len(wrong) else most):
        if state.layers and k and len(wrong):
            state = replace(state, right=alike([*state.layers, layer], wrong, right, setup.probe.rng, 1))
        return replace(state, whole=False, lacking=False, wrong=wrong[:0] if _all_met(setup, state) else wrong)
    if not k:
        affine = Network.from_weights([*state.layers, (out[1:].T, out[0])], shape=setup.oracle.shape)
        return _fitted(state, found, affine, lacking=False)
    ending: Weights = [(rows, bias), (out[:k].T, out[k])]
    if more:
        ending = with_linear_part(ending, out[k + 1 :].T)
    network = Network.from_weights([*state.layers, *ending], shape=setup.oracle.shape)
    if state.layers:
        x, y = fresh_on_both_sides(setup, state, network)
    else:
        x, y = fresh(setup, state, answers_for(network), layer, int(SIDE_POINTS * (setup.oracle.n + 2) / m) + BESIDES)
    counts, sigma = setup.probe.noise.counts(x, y)
    errors = _errors(state, network) if state.layers else None
    if errors is not None:
        # What few answers tell stays as it was measured.
        steps = MANY_WEIGHTS if state.settled_layers else STEPS
        measured = Measured.of(taken_apart(network)[0], errors)
        network, *_ = fit(network, x, y, noise=STEADY * sigma, counts=counts, measured=measured, steps=steps)
        return replace(_fitted(state, found, network, lacking=False), errors=errors)
    network, rms, *_ = fit(network, x, y, noise=STEADY * sigma, counts=counts, first=state.settled_layers)
    if state.layers:
        return _fitted(state, found, network, lacking=False)
    if not more and rms > OUTPUT_MISFIT_SIGMAS * sigma:
        # The others have taken over half of what a weak neuron does, and its other half is the same on both sides.
        other, less, *_ = fit(weakest_turned(network), x, y, noise=STEADY * sigma, counts=counts)
        if less < TURNED_ERROR * rms:
            network, rms = other, less
    fits = rms <= OUTPUT_MISFIT_SIGMAS * sigma
    if rms > CONVINCING * max(weighted_spread(y, counts), sigma) and _all_met(setup, state):
        # So few hyperplanes bent that they could have been the layer's; but what it lacks must lie behind it.
        return replace(state, whole=False, lacking=False, wrong=state.wrong[:0])
    return _fitted(state, _sharpened(network, found, rms, fits), network, lacking=not fits and (more or k < frame.d))


def _wrong_and_right(state: Reading, closed: Output) -> tuple[Float[np.ndarray, "W n"], Float[np.ndarray, "R n"]]:
    """Where in the region what was read is most wrong, as neurons of this layer are missing unless another one lies
    behind it; and the half of the places there where it is right."""
    frame = state.frame
    there = (closed.x @ frame.G.T + frame.g >= 0).all(axis=1)
    x, off = closed.x[there], closed.off[there]
    size = np.linalg.norm(off, axis=1)
    most = max(WRONG, frame.d // WRONG) if state.layers else WRONG
    return x[most_wrong(off, most, WRONG)], x[size <= np.median(size)] if len(x) else x


def _all_met(setup: Setup, state: Reading) -> bool:
    """Whether answers change along none of many directions that the rows of the layer do not see. Queries: those of
    `missing`, none where rows see all directions or a box is in the way."""
    found, frame = state.found, state.frame
    return len(found) < frame.d and frame.free and not missing(setup.probe, frame, found)


def _fitted(state: Reading, found: LayerFound, network: Network, *, lacking: bool) -> Reading:
    state = replace(state.with_found(found), network=network, errors=None, whole=True, lacking=lacking)
    return replace(state, wrong=state.wrong[:0])


def _errors(state: Reading, network: Network) -> Errors | None:
    """Standard deviations of all weights and biases of a network that ends behind the second layer, as they were
    measured: `ROW_MOVE_ERRORS` times the errors expected, infinite where nothing was. None of other networks."""
    first, planes = state.first, state.found.straight
    if len(state.layers) != 1 or first is None or len(first) != network.layers[0].neurons:
        return None
    (w, b), out = planes.deviations(after(list(state.layers), planes.at)), output_error(planes)
    free = np.full(network.layers[1].neurons - len(planes), np.inf)  # of a linear part
    every = [
        first.straight.deviations(first.straight.at),
        (np.append(w, free[:, None], axis=0), np.append(b, free)),
        (np.tile(np.append(out, free), (network.m, 1)), np.full(network.m, np.inf)),
    ]
    return [(ROW_MOVE_ERRORS * w, ROW_MOVE_ERRORS * b) for w, b in every]


def _sharpened(network: Network, found: LayerFound, rms: float, fits: bool) -> LayerFound:
    """With rows as good as what the fit leaves allows."""
    layer, last, k, old = network.layers[0], network.layers[-1], len(found), found.straight
    size = np.maximum(np.linalg.norm(layer.weights[:k], axis=1), 1e-300)
    rows, bias, jump = layer.weights[:k] / size[:, None], layer.bias[:k] / size, (last.weights[:, :k] * size).T
    error = np.maximum(rms / np.maximum(np.linalg.norm(jump, axis=1), 1e-300), LEAST_ROW_ERROR)
    # Where neurons are missing the others are drawn towards what these lack: further than a row's own error is no
    # sharpening.
    turn = np.sign(np.einsum("kd,kd->k", rows, old.rows))
    near = np.linalg.norm(turn[:, None] * rows - old.rows, axis=1) <= ROW_MOVE_ERRORS * old.error
    better = near | fits
    kept = better[:, None]
    return found.with_rows(
        Hyperplanes(
            np.where(kept, rows, old.rows),
            np.where(better, bias, old.bias),
            np.where(kept, jump, old.jump),
            np.where(better, error, old.error),
            old.at,
        )
    )


def turned(frame: Frame, found: LayerFound) -> AffineMap:
    """Rows and biases with positive sides active, as far as derivatives tell."""
    rows, bias = found.rows, found.bias
    if len(rows) > frame.d:
        return rows, bias
    side = by_share(rows, frame.values(found.at) @ rows.T + bias, found.slope, found.unsure)[0]
    return rows * side[:, None], bias * side


def _signs(
    found: LayerFound, rows: Float[np.ndarray, "k d"], jump: Float[np.ndarray, "k m"], z: Float[np.ndarray, "P k"]
) -> Float[np.ndarray, " k"] | None:
    """On which side each of these neurons is active, by derivatives; None where it could not be settled."""
    slope = found.slope
    if len(rows) <= rows.shape[1]:
        return by_share(rows, z, slope, found.unsure)[0]
    if not len(found.bent):
        # w |z| / 2 bends by w: the measured jump is w itself, per unit of z.
        twice = 2 * slope - _active_part(jump, np.sign(z), rows)
        return by_balance(rows, jump, np.median(twice, axis=0), BALANCED)
    return by_sparsity(rows, z, slope, SPARSE)


def _active_part(
    jump: Float[np.ndarray, "k m"], active: Float[np.ndarray, "P k"], rows: Float[np.ndarray, "k d"]
) -> Float[np.ndarray, "P m d"]:
    """What neurons add to the derivatives at each place, by how active they are there."""
    return np.asarray((active[:, None, :] * jump.T) @ rows)


def _distinct(rows: Float[np.ndarray, "B d"]) -> np.ndarray:
    """Indices of rows that are not a multiple of an earlier one."""
    keep: list[int] = []
    for i, row in enumerate(rows):
        if all(1 - abs(row @ rows[j]) > PARALLEL_ROW_DIFFERENCE for j in keep):
            keep.append(i)
    return np.array(keep, dtype=int)
