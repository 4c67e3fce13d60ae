"""close_on_paid: a layer as the last hidden one, held against exact answers that are already paid for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.balance import by_balance
from unveil.identification.fitting.output_layer import AffineMap, Weights, output_layer
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sign_recovery import by_sparsity, by_vanishing

BETTER = 0.1  # a trial replaces the best one where it leaves less than this share of its error
SAME = 1e-7  # rows that differ less are multiples of each other
# What the signs of a one-layer network's rows, and those of a deeper layer's, may leave of a derivative.
BALANCED, SPARSE = 1e-7, 1e-8
OPEN = "Which sides of {} neurons on {} coordinates are active could not be settled."


class _Closed(NamedTuple):
    """A layer, signs settled, the rest of a network that ends behind it, and its largest error on what was asked."""

    layer: AffineMap
    settled: bool
    ending: Weights
    error: float


def close_on_paid(setup: Setup, state: Reading) -> Reading:
    """With signs of the layer being read, and the network that ends behind it where that is the best so far. Tried with
    what moves along no normal folded in, with hyperplanes that may be the layer's, and with both."""
    found, frame, before = state.found, state.frame, list(state.layers)
    best: _Closed | None = None
    why = state.why
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
        side = _signs(rows, jump, z, found.slope, len(found.bent) == 0)
        if side is None:
            why = (*why, OPEN.format(len(rows), frame.d))
        settled, side = side is not None, np.ones(len(rows)) if side is None else side
        layer = (rows * side[:, None], bias * side)
        active = (z * side > 0).astype(np.float64)
        for fold in (False, True):
            over = np.median(found.slope - _active_part(jump, active, layer[0]), axis=0) if fold else None
            tried = _Closed(layer, settled, *output_layer(setup.log, before, layer, over, setup.size))
            if best is None or tried.error < BETTER * best.error:
                best = tried
            if best.error < setup.fine:
                if len(best.ending[0][0]) > len(rows):
                    why = (*why, "An affine part (of neurons always active where it was asked) is folded in.")
                return state.closed(best.layer, best.settled, best.error, [*before, *best.ending], why)
    assert best is not None
    return state.closed(best.layer, best.settled, best.error, [*before, *best.ending], why)


def _signs(
    rows: Float[np.ndarray, "k d"],
    jump: Float[np.ndarray, "k m"],
    z: Float[np.ndarray, "P k"],
    slope: Float[np.ndarray, "P m d"],
    last: bool,
) -> Float[np.ndarray, " k"] | None:
    """On which side each neuron is active; None where it could not be settled."""
    k, d = rows.shape
    if k <= d:
        return by_vanishing(rows, z, slope)[0]
    if last:
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
