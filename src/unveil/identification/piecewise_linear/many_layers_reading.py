"""behind_crowded: where lines meet far more neurons of deeper layers than of the first, all layers from one search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.fitting.output_layer import Layer
from unveil.identification.piecewise_linear.critical_point import across
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.few_directions import Directions
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.many_layers import ManyLayers, fresh_answers, read_many_layers
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sightings import Sightings, among_values
from unveil.identification.piecewise_linear.sign_recovery import by_vanishing
from unveil.whitebox.network import Network

# Breakpoints per line and neuron of the first layer from which on deeper ones are many.
CROWDED = 4.5
# One minus the cosine of rows that are parallel, and a share in a derivative that is none.
PARALLEL, NONE = 1e-7, 1e-6
# Times that places are looked for, and singular values from which on derivatives tell rows apart.
TRIES, TOLD = 4, 1e-4
# Derivatives so many times as large as their errors are good enough for that.
CLEAR = 1e7


def crowded(found: LayerFound) -> bool:
    """Whether lines met far more neurons of deeper layers than of the first: there are many layers."""
    return bool(max((len(line.t) for line in found.searched), default=0) > CROWDED * len(found))


def behind_crowded(setup: Setup, state: Reading) -> Iterator[Reading]:
    """Read on behind a first layer no wider than the input, signs settled, in the coordinates of what it sees.

    Args:
        setup: What all steps share.
        state: The first layer read.

    Yields:
        What was read, after every layer; the last state is `over`.

    Queries: those of `read_many_layers`
    """
    state = without_shifted(state)
    layer, found = state.layer, state.found
    assert layer is not None
    probe = among_values(setup.probe, state.frame, layer)
    asked = fresh_answers(setup.log)
    # What ends behind the first layer explains nothing here.
    state = replace(state, wrong=state.wrong[:0], network=None, error=np.inf)
    for many in read_many_layers(Sightings.none(probe, len(found)), asked, setup.most_layers):
        layers = (layer, *many.layers[1:])
        now = replace(state, layers=layers, partial=many.partial, over=True, spent=True, many=many)
        sizes = [len(each[1]) for each in layers[1:]]
        lines = len(many.sightings.lines)
        told = tuple({"neurons": k, "lines": lines, "bent": 0} for k in sizes)
        now = replace(now, told=(*state.told[:1], *told))
        if many.network is not None:
            behind = [(each.dense(), each.bias) for each in many.network.layers[1:]]
            network = Network.from_weights([layer, *behind])
            now = now.with_network(network, setup.log.error(network, setup.size))
            now = replace(now, whole=not many.open, spent=many.open)
        yield now
    if now.network is None:
        text = f"It ended behind layer {len(now.layers)}: derivatives do not tell the next one whole, or its signs."
        yield replace(now, why=(*now.why, text))


def without_shifted(state: Reading) -> Reading:
    """Without hyperplanes parallel to another one's that are a deeper neuron's, seen where only that one is active.

    A neuron of the first layer has no share in a derivative on one of its sides; a deeper one has such a share on both.
    """
    found, layer = state.found, state.layer
    assert layer is not None
    rows, bias = layer
    parallel = np.abs(rows @ rows.T) > 1 - PARALLEL
    if (parallel.sum(axis=1) == 1).all() or not len(found.at):
        return state
    first = np.array([int(np.flatnonzero(each)[0]) for each in parallel])
    alone = np.unique(first)
    share = np.abs(found.slope @ np.linalg.pinv(rows[alone])).max(axis=1)
    share = share[:, np.searchsorted(alone, first)]
    z = state.frame.values(found.at) @ rows.T + bias
    least = NONE * share.max()
    quiet = [((share > least) & (z * side > 0)).sum(axis=0) == 0 for side in (1.0, -1.0)]
    keep = (parallel.sum(axis=1) == 1) | quiet[0] | quiet[1]
    if keep.all() or not (parallel[:, keep].any(axis=1)).all():
        return state
    # Signs of rows that depend on each other were guesses.
    z = state.frame.values(found.at) @ rows[keep].T + bias[keep]
    side = by_vanishing(rows[keep], z, found.slope)[0]
    state = replace(state, layer=(rows[keep] * side[:, None], bias[keep] * side))
    return state.with_found(found.keep(keep)).counted()


def along_all(
    probe: Probe, directions: Directions, layer: Layer, many: ManyLayers, frame_lift: Float[np.ndarray, "p d"]
) -> Layer | None:
    """The first layer's rows along all inputs, from those along a few directions and derivatives along the others.

    A derivative along the coordinates of what the neurons see is known at many places: it says how much of each row is
    in the derivative there along anything else.

    Args:
        probe: Asks, whole inputs.
        directions: The few directions and the others.
        layer: Its rows along the few directions, and biases.
        many: What was read behind it.
        frame_lift: From what the neurons see to coordinates along the few directions.

    Returns:
        None where derivatives could not be measured, or do not tell all rows.

    Queries: `n - p + 5` for each of about as many places as neurons, over the outputs
    """
    rows, bias = layer
    seen = many.sightings
    count, m, d = seen.slope.shape
    size = np.linalg.norm(seen.slope.reshape(count, -1), axis=1)
    unit = (seen.slope / np.maximum(size, 1e-300)[:, None, None]).reshape(-1, d)
    x = ((seen.at - bias) @ frame_lift.T) @ (directions.longer * directions.few.T)
    open_ = size > CLEAR * seen.doubt
    shares, others = np.empty((0, d)), np.empty((0, directions.others.shape[1]))
    for _ in range(TRIES):
        # Places whose derivatives say most about what those before left open.
        q = np.linalg.svd(shares, full_matrices=False)[2][: len(shares)] if len(shares) else shares
        left = np.where(np.repeat(open_, m)[:, None], unit - unit @ q.T @ q, 0)
        lack = d - len(q)
        where = np.unique(linalg.qr(left.T, mode="r", pivoting=True)[1][:lack] // m)
        open_[where] = False
        slope, error = derivatives(probe, across(directions.others), x[where], seen.room[where])
        good = np.isfinite(error)
        at = where[good]
        shares = np.concatenate([shares, (seen.slope[at] / size[at, None, None]).reshape(-1, d)])
        others = np.concatenate([others, (slope[good] / size[at, None, None]).reshape(len(at) * m, -1)])
        if np.linalg.matrix_rank(shares, tol=TOLD) == d:
            beyond = np.linalg.lstsq(shares, others, rcond=None)[0]
            return rows @ directions.few.T / directions.longer + beyond @ directions.others.T, bias
    return None
