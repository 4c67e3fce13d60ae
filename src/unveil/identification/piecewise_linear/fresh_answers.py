"""fresh, fresh_on_both_sides: points and answers with few digits that output layers and fits are made to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.rows_from_points import BY_POINTS
from unveil.whitebox.network import Network

# Answers per parameter in a fit; several answers to one question tell less than as many to several.
ANSWERS_PER_PARAMETER, PER_PARAMETER_OF_MANY = 2.0, 3.0
FAR_POINT_FACTOR = 3.0  # how many times as far out every fourth point of a fit lies as a user would draw it
# How far beside a place of a hyperplane points of a region lie: in typical values at most, and as shares of that.
BESIDE_REACH, REACH_PARTS = 3.0, (0.3, 0.6, 0.9)


def fresh(
    setup: Setup, state: Reading, count: int, layer: AffineMap | None = None, need: int = 0
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
    """This many points and answers; those asked before serve again. `layer`: rows and biases of a layer; a first one is
    to have points on either side of each neuron. `need`: points wanted there."""
    oracle, rng = setup.oracle, setup.probe.rng
    x = np.concatenate([np.empty((0, oracle.n)), *state.fresh.x])
    more = oracle.sample(max(0, count - len(x)), rng)
    if oracle.within is None:
        more[::4] *= FAR_POINT_FACTOR
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
    `ANSWERS_PER_PARAMETER` per parameter, fewer with several outputs and those asked before; as many again at most."""
    x, y = fresh(setup, state, answers_for(Network(network.layers[state.settled_layers :])))
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
    typical = BESIDE_REACH * float(np.median(np.abs(frame.values(planes.at)))) if len(planes) else 0.0
    ways = [part * np.clip(end, -typical, typical)[:, None] * step for end in (low, high) for part in REACH_PARTS]
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


def answers_for(network: Network) -> int:
    """Answers for a fit of all its weights."""
    return int((ANSWERS_PER_PARAMETER if network.m == 1 else PER_PARAMETER_OF_MANY) * parameters(network) / network.m)
