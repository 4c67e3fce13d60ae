"""The last digits of all weights, and networks without a hidden layer; fewer neurons where answers have few digits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float

from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.affine_part import affine_part
from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.fitting.design import finish, fitted
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import Asked, affine_fit
from unveil.identification.fitting.robust import trimmed_rms
from unveil.identification.fitting.slimming import SLACK, all_needed, slimmed
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.validation import UNEXPLAINED
from unveil.whitebox.network import Network

# Answers per parameter for fitting all of them along a few directions, how far out they are, steps, and last ones in
# full; what they may cost beside the first layer's weights along all inputs, and up to how many products of an answer
# and a parameter; up to how many multiplications a step in full takes.
WHOLE_FIT_PER_PARAMETER, WHOLE_FIT_SCALES, WHOLE_FIT_STEPS, WHOLE_FIT_LAST_STEPS = 1.6, (1.0, 1.0, 2.0), 16, 4
WHOLE_FIT_COST, PRODUCTS, IN_FULL = 1.0, 1e8, 3e10
# The same for the layers behind the first alone, where there are too many weights for a fit of all, and a network that
# leaves a smaller share of what rounding explains needs none; such a fit ends where answers are off by a tenth of that.
PRODUCTS_BEHIND, FITTED_ROUNDING_SHARE, NO_MORE = 2.5e9, 0.1, 0.1
# Answers that are left out of this fit are wrong by so much, relative to the largest, and at most so few.
LEFT_OUT_ANSWER_ERROR, MOSTLY = 1e-5, 0.9
# Steps of a fit to answers with few digits; what they are wrong by at most where neurons go, beside what they were.
REFITS, LEANER_ERROR_FACTOR = 4, 1.5
USELESS = 0.02  # a network further than this from the answers, relative to the largest, is not worth any more of them
FINAL_DIGIT_POINTS = 2000  # points that the last digits must suit


def finish_exact(setup: Setup, state: Reading) -> Reading:
    """With all weights, or those behind the first layer, fitted at once along a few directions where that is cheap.
    Else each to its last digits. Queries: `WHOLE_FIT_PER_PARAMETER` per parameter, or those of `finish`."""
    network = state.network
    if network is None:
        return state if state.over else replace(state, network=_affine(setup))
    if state.error > USELESS or (setup.inputs and len(network.layers) == 2):
        return state
    first = _first_that_moves(setup, state, network)
    if first is not None:
        read = network
        x, y = _spread_answers(setup, network, first)
        noise, least = float(setup.probe.noise.floor.max()), LEFT_OUT_ANSWER_ERROR * np.abs(y).max()
        if first:
            # What the first layer's errors leave is no matter of the others.
            noise = max(noise, NO_MORE * FITTED_ROUNDING_SHARE * setup.fine * float(np.abs(y).max()))
        # What is wrong at a few answers, as where a rare neuron is missing, must not be spread over all weights.
        right = np.abs(network(x) - y).max(axis=1) < least
        if right.mean() <= MOSTLY:
            right[:] = True
        in_full = not first and y[right].size * parameters(network) ** 2 <= IN_FULL
        if not in_full or state.error > LEFT_OUT_ANSWER_ERROR:
            network = fit(network, x[right], y[right], noise=noise, first=first, steps=WHOLE_FIT_STEPS).network
        if in_full:
            network = fitted(network, x[right], y[right], first=first, steps=WHOLE_FIT_LAST_STEPS)
            if not right.all():
                # Unless it is a weight that hardly any answer tells.
                trial = fitted(network, x, y, first=first, steps=WHOLE_FIT_LAST_STEPS)
                network = trial if np.abs(trial(x) - y).max() < least else network
        off, before = (np.abs(each(x) - y).max(axis=1) for each in (network, read))
        fine = setup.fine * np.abs(y).max()
        if (off < fine).sum() < (before < fine).sum():
            # It spread what is wrong at a few answers over all weights.
            network, off = read, before
        wrong = x[off >= least]
        return replace(state, network=network, wrong=wrong if len(wrong) < (1 - MOSTLY) * len(x) else x[:0])
    if state.over:
        # Behind the first layer weights were fitted as they were read.
        return state
    pool = setup.oracle.sample(FINAL_DIGIT_POINTS, setup.probe.rng)
    return replace(state, network=finish(setup.log, network, setup.size, pool, setup.probe.rng))


def _spread_answers(
    setup: Setup, network: Network, first: int
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
    """Fresh answers on both sides of every neuron, for a fit of the layers from the `first` on. Queries:
    `WHOLE_FIT_PER_PARAMETER` per parameter."""
    count, rng = WHOLE_FIT_PER_PARAMETER * parameters(Network(network.layers[first:])) / network.m, setup.probe.rng
    x = setup.oracle.sample(int(count), rng)
    x = both_sides(network, x * rng.choice(WHOLE_FIT_SCALES, size=(len(x), 1)), first)
    return x, setup.probe.ask(x)


def _first_that_moves(setup: Setup, state: Reading, network: Network) -> int | None:
    """The first layer that a fit moves, of a network read along few directions or one that begins wider than its input.
    None where no fit is worth its answers."""
    if len(network.layers) < 3:
        return None
    if network.layers[0].neurons > network.n:
        # Weights behind it were read one by one, each as well as its own bends told it.
        few = WHOLE_FIT_PER_PARAMETER * parameters(network) ** 2 / network.m <= PRODUCTS_BEHIND
        return 0 if few and state.error > FITTED_ROUNDING_SHARE * setup.fine else None
    if fit_is_cheap(setup, state, parameters(network)):
        return 0
    behind = parameters(Network(network.layers[1:]))
    worth = state.error > FITTED_ROUNDING_SHARE * setup.fine and fit_is_cheap(setup, state, behind, PRODUCTS_BEHIND)
    return 1 if worth else None


def fit_is_cheap(setup: Setup, state: Reading, unknowns: int, most: float = PRODUCTS) -> bool:
    """Whether answers for that are few beside what the first layer's weights along all other inputs take. `unknowns`:
    numbers to be fitted. `most`: products of an answer and such a number at most."""
    first, m = state.first, setup.probe.m
    count = int(WHOLE_FIT_PER_PARAMETER * unknowns / m)
    few = first is not None and count <= WHOLE_FIT_COST * setup.inputs * len(first.rows) / m
    return few and count * unknowns <= most


def _affine(setup: Setup) -> Network:
    """No neuron bends anything."""
    return Network.from_weights([affine_fit(*setup.log.all())])


def settled_by_fresh(reading: Reading | None, noise: Rounding, network: Network) -> Network:
    """With all weights fitted to the answers with few digits that fits are made to; where answers are exact as it is.
    Queries: `0`"""
    if noise.exact or reading is None or not reading.fresh.x:
        return network
    x, y = reading.fresh.all()
    counts, sigma = noise.counts(x, y)
    first = reading.settled_layers
    return fit(network, x, y, noise=FITTED_ROUNDING_SHARE * sigma, steps=REFITS, counts=counts, first=first).network


def leaner(reading: Reading, asked: Asked, network: Network, noise: Rounding) -> Network:
    """Without neurons whose work the others can do, where a fit of noisy answers has kept some.

    Most answers that it is fitted to lie apart from any hyperplane. Those that lines asked lie between two that are
    close: these must not be explained worse than the whole network does. Queries: `0`
    """
    if not reading.fresh.x or noise.exact or any(affine_part(network)) or reading.settled_layers:
        return network  # or too large to be tried without each of its neurons
    x, y = reading.fresh.all()
    counts, sigma = noise.counts(x, y)
    if trimmed_rms(network, x, y, counts) > SLACK * sigma:
        return network  # what it lacks is not known yet, and each fit of a smaller one would be as far off
    sloped = bool(network.layers[-2:-1]) and network.layers[-2].activation.name != "relu"
    if sloped or all_needed(network, x, y, counts):
        return network
    x_, y_ = asked.all()

    def roundings(trial: Network) -> float:
        return float(np.nan_to_num(np.abs(trial(x_) - y_) / noise.at(x_, y_), nan=np.inf).max())

    most = max(UNEXPLAINED, LEANER_ERROR_FACTOR * roundings(network))
    return slimmed(
        network,
        x,
        y,
        sigma,
        partial(settled_by_fresh, reading, noise),
        counts=counts,
        holds=lambda trial: roundings(trial) <= most,
    )
