"""behind_crowded: where lines meet far more neurons of deeper layers than of the first, all layers from one search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import across
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.few_directions import Directions
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer_step import ManyLayers
from unveil.identification.piecewise_linear.many_layers import fresh_answers, read_many_layers
from unveil.identification.piecewise_linear.paid_closing import close_on_paid
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sharpening import worst_sharpened
from unveil.identification.piecewise_linear.sightings import Sightings, among_values
from unveil.identification.piecewise_linear.sign_recovery import DEPENDENT, by_vanishing, dependent
from unveil.whitebox.network import Network

CROWDED = 4.5  # breakpoints per line and neuron of the first layer from which on deeper ones are many
# One minus the cosine of rows that are parallel, and how much less of a row's share lies beyond a better hyperplane.
PARALLEL, MUCH_LESS = 1e-7, 1e-3
MOST_SETS = 500  # sets of rows that depend on others which are tried out, at most
TRIES, TOLD = 4, 1e-4  # times that places are looked for, and singular values from which on derivatives tell rows apart
CLEAR = 1e7  # derivatives so many times as large as their errors are good enough for that


def crowded(found: LayerFound) -> bool:
    """Whether lines met far more neurons of deeper layers than of the first: there are many layers."""
    return bool(max((len(line.t) for line in found.searched), default=0) > CROWDED * len(found))


def behind_crowded(setup: Setup, state: Reading) -> Iterator[Reading]:
    """Read on behind a first layer no wider than the input, signs settled, in the coordinates of what it sees.

    Yields what was read, after every layer; the last state is `over`. Queries: those of `worst_sharpened` and
    `read_many_layers`.
    """
    found = worst_sharpened(setup.probe, state.frame, state.found, few=True)
    state = with_nearest_to_zero(without_dependent(close_on_paid(setup, state.with_found(found))))
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
            # It is the best so far by how many answers it explains: the largest error may stay, far out.
            error = setup.log.error(network, setup.size)
            now = replace(now, network=network, error=error, whole=not many.open, spent=many.open)
        yield now
    if now.network is None:
        text = f"It ended behind layer {len(now.layers)}: derivatives do not tell the next one whole, or its signs."
        yield replace(now, why=(*now.why, text))


def without_dependent(state: Reading) -> Reading:
    """Without rows that are sums of others': hyperplanes of deeper neurons, met where few of the first are active.

    Of rows that depend on each other those are left out without which every other one has no share in a derivative on
    one of its sides, as a neuron of the first layer has; what is no such neuron's has one on both.
    """
    found, layer = state.found, state.layer
    assert layer is not None
    rows, bias = layer
    involved = np.flatnonzero(dependent(rows).any(axis=1))
    spare = len(rows) - int(np.linalg.matrix_rank(rows, tol=DEPENDENT))
    if not spare or not len(found.at) or comb(len(involved), spare) > MOST_SETS:
        return state
    z = state.frame.values(found.at) @ rows.T + bias
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for out in combinations(involved.tolist(), spare):
        keep = ~np.isin(np.arange(len(rows)), out)
        if np.linalg.matrix_rank(rows[keep], tol=DEPENDENT) < keep.sum():
            continue
        side, doubt = by_vanishing(rows[keep], z[:, keep], found.slope)
        if best is None or doubt.sum() < best[0]:
            best = float(doubt.sum()), keep, side
    if best is None:
        return state
    _, keep, side = best
    state = replace(state, layer=(rows[keep] * side[:, None], bias[keep] * side))
    return state.with_found(found.keep(keep)).counted()


def with_nearest_to_zero(state: Reading) -> Reading:
    """With each row's hyperplane replaced by a parallel one that lines met, where that is more the row's own.

    Where one neuron of the first layer is active alone deeper ones are parallel to it. On one side of its own its row
    has no share in any derivative.
    """
    found, layer, bent = state.found, state.layer, state.found.bent
    assert layer is not None
    rows, bias = layer[0].copy(), layer[1].copy()
    if not len(found.at) or not len(bent):
        return state
    share = np.abs(found.slope @ np.linalg.pinv(rows)).max(axis=1)
    values, there = state.frame.values(found.at) @ rows.T, state.frame.values(bent.at)
    planes = found.straight

    def both(i: int, b: float) -> tuple[float, float]:
        """The largest share on the side where it is smaller, beside the other; and which side is active."""
        up, down = (share[(values[:, i] + b) * s > 0, i].max(initial=0.0) for s in (1.0, -1.0))
        return min(up, down) / max(up, down, 1e-300), 1.0 if up >= down else -1.0

    for i in range(len(rows)):
        parallel = np.flatnonzero(np.abs(bent.rows @ rows[i]) > 1 - PARALLEL)
        told = [both(i, bias[i]), *(both(i, -float(there[j] @ rows[i])) for j in parallel)]
        best = int(np.argmin([each[0] for each in told]))
        if not best or told[best][0] > MUCH_LESS * told[0][0]:
            continue
        one = bent[parallel[best - 1 : best]]
        bias[i] = -float(there[parallel[best - 1]] @ rows[i])
        rows[i], bias[i] = told[best][1] * rows[i], told[best][1] * bias[i]
        planes = planes.replaced({i: replace(one, rows=rows[i : i + 1], bias=bias[i : i + 1])})
    return replace(state.with_found(replace(found, straight=planes)), layer=(rows, bias))


def along_all(
    probe: Probe, directions: Directions, layer: AffineMap, many: ManyLayers, frame_lift: Float[np.ndarray, "p d"]
) -> AffineMap | None:
    """The first layer's rows along all inputs, from those along a few directions and derivatives along the others.

    A derivative along the coordinates of what the neurons see is known at many places: it says how much of each row is
    in the derivative there along anything else. `frame_lift`: from what the neurons see to coordinates along the few
    directions. None where derivatives could not be measured, or do not tell all rows. Queries: `n - p + 5` for each of
    about as many places as neurons, over the outputs.
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
