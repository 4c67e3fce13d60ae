"""close: a layer as the last hidden one: on which sides its neurons are active, and the network that ends behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.balance import by_balance
from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import (
    AffineMap,
    Weights,
    after,
    output_layer,
    weighted_output,
    with_linear_part,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import missing
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.rows_from_points import BY_POINTS
from unveil.identification.piecewise_linear.sign_recovery import by_share, by_sparsity, weakest_turned
from unveil.whitebox.network import Network

BETTER = 0.1  # a trial replaces the best one where it leaves less than this share of its error
SAME = 1e-7  # rows that differ less are multiples of each other
# What the signs of a one-layer network's rows, and those of a deeper layer's, may leave of a derivative.
BALANCED, SPARSE = 1e-7, 1e-8
# Answers per parameter in the fit; several answers to one question tell less than as many to several.
RATIO, RATIO_OF_MANY = 2.0, 3.0
# Share of the answers' spread that the coarse rows may leave for the fit to be tried; where there are so many bent
# hyperplanes per straight one that another layer seems to lie behind; and of a fit, in standard deviations of answers.
PROMISING, CONVINCING, FITS = 0.3, 0.03, 3.0
DEEPER = 0.2
# Points on either side of a first-layer neuron, per input and output, and besides; and how many times as far out every
# fourth point of a fit lies as a user would draw it.
OFTEN, BESIDES, FURTHER = 3.0, 6, 3.0
# Answers per unknown of an output layer, and besides; every fifth is not fitted but held against it.
PLENTY, SPARE, HELD_OUT = 4, 100, 5
# How far beside a place of a hyperplane points of a region lie: in typical values at most, and as shares of that.
NEAR, PARTS = 3.0, (0.3, 0.6, 0.9)
WRONG = 4  # points at once towards which lines are laid
# How many of its expected errors a fit that leaves something may move a row, and the least error of one.
FREE, LEAST = 6.0, 1e-7
HALF = 0.5  # signs of the weakest neuron are the other way round where that leaves less than this share of the error
STEADY = 0.1  # errors of a step of the fit that end it, in standard deviations of an answer


def close(setup: Setup, state: Reading) -> Reading:
    """With signs of the layer being read, and the network that ends behind it.

    Exact answers that are paid for tell all of it. Of few digits they lie in clusters, and fresh ones do. Queries: 0
    for exact answers, else those of `_on_fresh`.
    """
    return _on_paid(setup, state) if setup.exact else _on_fresh(setup, state)


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


class _Output(NamedTuple):
    """An output layer behind a layer: where it was asked, what it leaves there, and of the spread elsewhere."""

    x: Float[np.ndarray, "N n"]
    out: Float[np.ndarray, "q m"]
    off: Float[np.ndarray, "N m"]
    left: float


def _on_fresh(setup: Setup, state: Reading) -> Reading:
    """This layer as the last hidden one, sharper: whether that fits, and whether neurons seem to be missing.

    Without a neuron it is none: then whether an affine map of what the layers before pass on fits. Queries: `RATIO` per
    parameter, fewer with several outputs.
    """
    found, frame = state.found, state.frame
    rows, bias = layer = turned(frame, found)
    state = replace(state, layer=layer, settled=len(rows) <= frame.d)
    k, m = len(rows), setup.probe.m
    # In a box some neurons are active all over it.
    more = k > frame.d or not frame.free or not k
    closed = _output_layer(setup, state, rows, bias, frame.d if more else 0)
    most = CONVINCING if len(found.bent) > DEEPER * k + 2 or not k else PROMISING
    if closed.left > CONVINCING and not more:
        # So it is where neurons slope on both sides of their hyperplanes.
        sloped = _output_layer(setup, state, rows, bias, frame.d)
        if sloped.left <= CONVINCING:
            more, closed = True, sloped
    if closed.left > most:
        # Unless another layer lies behind it neurons of this one are missing, most of all where this is wrong.
        wrong = closed.x[np.argsort(-np.abs(closed.off).max(axis=1), kind="stable")]
        wrong = wrong[(wrong @ frame.G.T + frame.g >= 0).all(axis=1)]
        wrong = wrong[: max(WRONG, frame.d // WRONG) if state.layers else WRONG]
        whole = k < frame.d and frame.free and not missing(setup.probe, frame, found)
        return replace(state, whole=False, lacking=False, wrong=wrong[:0] if whole else wrong)
    if not k:
        affine = Network.from_weights([*state.layers, (closed.out[1:].T, closed.out[0])], shape=setup.oracle.shape)
        return _fitted(state, found, affine, lacking=False)
    ending: Weights = [(rows, bias), (closed.out[:k].T, closed.out[k])]
    if more:
        ending = with_linear_part(ending, closed.out[k + 1 :].T)
    network = Network.from_weights([*state.layers, *ending], shape=setup.oracle.shape)
    if state.layers:
        x, y = fresh_on_both_sides(setup, state, network)
    else:
        x, y = fresh(setup, state, _answers(network), layer, int(OFTEN * (setup.oracle.n + 2) / m) + BESIDES)
    counts, sigma = setup.probe.noise.counts(x, y)
    network, rms, *_ = fit(network, x, y, noise=STEADY * sigma, counts=counts, first=state.settled_layers)
    if state.layers:
        return _fitted(state, found, network, lacking=False)
    if not more and rms > FITS * sigma:
        # The others have taken over half of what a weak neuron does, and its other half is the same on both sides.
        other, less, *_ = fit(weakest_turned(network), x, y, noise=STEADY * sigma, counts=counts)
        if less < HALF * rms:
            network, rms = other, less
    fits = rms <= FITS * sigma
    return _fitted(state, _sharpened(network, found, rms, fits), network, lacking=not fits and (more or k < frame.d))


def _fitted(state: Reading, found: LayerFound, network: Network, *, lacking: bool) -> Reading:
    state = replace(state.with_found(found), network=network, whole=True, lacking=lacking)
    return replace(state, wrong=state.wrong[:0])


def _answers(network: Network) -> int:
    """Answers for a fit of all its weights."""
    return int((RATIO if network.m == 1 else RATIO_OF_MANY) * parameters(network) / network.m)


def _output_layer(setup: Setup, state: Reading, rows: np.ndarray, bias: np.ndarray, linear: int) -> _Output:
    """An output layer behind these neurons, with the coefficients of so many coordinates besides.

    With more neurons than coordinates, or some that are always active, sides are at will: relu(-z) = relu(z) - z, and a
    linear part is left over. Queries: `PLENTY (k + 1 + linear) + SPARE`.
    """
    x, y = fresh(setup, state, PLENTY * (len(rows) + 1 + linear) + SPARE, (rows, bias), BESIDES)
    h = after(list(state.layers), x)
    z = [np.maximum(h @ rows.T + bias, 0), np.ones((len(h), 1)), *([h] if linear else [])]
    F = np.concatenate(z, axis=1)
    fitting = np.arange(len(x)) % HELD_OUT > 0
    counts, sigma = setup.probe.noise.counts(x, y)
    out = weighted_output(F[fitting], y[fitting], counts[fitting])
    spread = max(weighted_spread(y, counts), sigma)  # of a constant only errors are left
    off = counts * (F @ out - y)
    return _Output(x, out, off, float(np.sqrt((off[~fitting] ** 2).mean())) / max(spread, 1e-300))


def weighted_spread(y: Float[np.ndarray, "N m"], counts: Float[np.ndarray, "N m"]) -> float:
    """Root mean square of what answers differ from their mean, each multiplied by what its error counts for."""
    return float(np.sqrt(((counts * (y - y.mean(axis=0))) ** 2).mean()))


def _sharpened(network: Network, found: LayerFound, rms: float, fits: bool) -> LayerFound:
    """With rows as good as what the fit leaves allows."""
    layer, last, k, old = network.layers[0], network.layers[-1], len(found), found.straight
    size = np.maximum(np.linalg.norm(layer.weights[:k], axis=1), 1e-300)
    rows, bias, jump = layer.weights[:k] / size[:, None], layer.bias[:k] / size, (last.weights[:, :k] * size).T
    error = np.maximum(rms / np.maximum(np.linalg.norm(jump, axis=1), 1e-300), LEAST)
    # Where neurons are missing the others are drawn towards what these lack: further than a row's own error is no
    # sharpening.
    turn = np.sign(np.einsum("kd,kd->k", rows, old.rows))
    near = np.linalg.norm(turn[:, None] * rows - old.rows, axis=1) <= FREE * old.error
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


def fresh(
    setup: Setup, state: Reading, count: int, layer: AffineMap | None = None, need: int = 0
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
    """This many points and answers; those asked before serve again. `layer`: rows and biases of a layer; a first one is
    to have points on either side of each neuron. `need`: points wanted there."""
    oracle, rng = setup.oracle, setup.probe.rng
    x = np.concatenate([np.empty((0, oracle.n)), *state.fresh.x])
    more = oracle.sample(max(0, count - len(x)), rng)
    if oracle.within is None:
        more[::4] *= FURTHER
        if state.layers and state.frame.d > BY_POINTS:
            # Where the layer was read: at usual inputs hardly any of so many neurons may be active.
            more[1::2] = state.frame.sample(len(more[1::2]), rng)
    if layer is not None and not state.layers:
        more = np.concatenate([more, on_rare_sides(*layer, np.concatenate([x, more]), need, rng)])
    elif layer is not None and state.frame.d > BY_POINTS:
        more = np.concatenate([more, beside(state.frame, state.found.straight)])
    if len(more):
        more = oracle.nearest(more)
        state.fresh.keep(more, setup.probe.ask(more))
    return state.fresh.all()


def fresh_on_both_sides(
    setup: Setup, state: Reading, network: Network
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
    """Points and answers for a fit of all weights of a network, with every hidden neuron met on either side. Queries:
    `RATIO` per parameter, fewer with several outputs and those asked before; as many again at most."""
    x, y = fresh(setup, state, _answers(Network(network.layers[state.settled_layers :])))
    if state.settled_layers:
        return x, y  # they have points beside each place where one was met
    aside = setup.oracle.nearest(both_sides(network, x))
    moved = (aside != x).any(axis=1)
    if moved.any():
        state.fresh.keep(aside[moved], setup.probe.ask(aside[moved]))
    return state.fresh.all()


def beside(frame: Frame, planes: Hyperplanes) -> Float[np.ndarray, "N n"]:
    """Points of the region on either side of where each hyperplane was met: elsewhere many neurons are hardly ever
    active, and answers say nothing of what they add."""
    step = planes.rows @ frame.V.T
    low, high = frame.room(planes.at, step)
    typical = NEAR * float(np.median(np.abs(frame.values(planes.at)))) if len(planes) else 0.0
    ways = [part * np.clip(end, -typical, typical)[:, None] * step for end in (low, high) for part in PARTS]
    return np.concatenate([planes.at + way for way in ways])


def on_rare_sides(
    rows: Float[np.ndarray, "k n"],
    bias: Float[np.ndarray, " k"],
    x: Float[np.ndarray, "N n"],
    need: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "more n"]:
    """More points, so that each of these hyperplanes has as many on either side as are needed. `need`: points wanted on
    each side."""
    z = x @ rows.T + bias
    out = [x[:0]]
    for i in range(len(rows)):
        for side in (1.0, -1.0):
            lack = need - int((side * z[:, i] > 0).sum())
            if lack > 0:
                few = rng.integers(len(x), size=lack)
                goal = side * rng.uniform(0.2, 1.5, lack) * max(float(z[:, i].std()), 1e-300)
                out.append(x[few] + (goal - z[few, i])[:, None] * rows[i])
    return np.concatenate(out)


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
        if all(1 - abs(row @ rows[j]) > SAME for j in keep):
            keep.append(i)
    return np.array(keep, dtype=int)
