"""A box whose inputs have very different widths, in units in which all are alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.wrappers import Affine
from unveil.identification.method import Identification

UNEQUAL = 100.0
"""The widest input over the narrowest one from which on a box is unequal; from about 1e5 on nothing is read in it."""


def in_box_units(oracle: Oracle) -> Affine | None:
    """The same oracle with every input between -1 and 1; None where there is no such box, or widths are alike.

    Queries: `0`
    """
    if oracle.within is None or oracle.grid is not None:
        return None
    half = (oracle.high - oracle.low) / 2
    if not half.min() > 0 or half.max() <= UNEQUAL * half.min():
        return None
    return Affine(oracle, (-oracle.middle / half).reshape(oracle.shape), (1 / half).reshape(oracle.shape))


def in_units(x: np.ndarray | None, unit: Affine) -> np.ndarray | None:
    """Given inputs, (N, n), in units of the box; what has no such shape as it is, for others to refuse.

    Queries: `0`
    """
    fits = x is not None and np.ndim(x) == 2 and np.shape(x)[1] == unit.n
    return np.asarray(x) * unit.deviation + unit.mean if fits else x


def of_inputs(found: Identification, unit: Affine) -> Identification:
    """What was found in units of the box, in those of the inputs.

    Queries: `0`
    """
    stats = dict(found.stats)
    if "rows_read" in stats:
        rows, bias = stats["rows_read"]
        stats["rows_read"] = _rows(rows, bias, unit)
    if stats.get("layers_read"):
        (rows, bias), *others = stats["layers_read"]
        stats["layers_read"] = [_rows(rows, bias, unit), *others]
    network = found.network
    if network is not None:
        first_layer, *rest = network.layers
        weights, bias = _rows(first_layer.dense(), first_layer.bias, unit)
        first_layer = dataclasses.replace(first_layer, weights=weights, bias=bias)
        network = dataclasses.replace(network, layers=(first_layer, *rest))
    why = ("Inputs were asked in units of their own widths: those of the box differ by far.", *found.why)
    # Kernels that are shared in the box's units are not in those of the inputs.
    return dataclasses.replace(found, network=network, stats=stats, why=why, kernels=None)


def _rows(
    rows: Float[np.ndarray, "k n"], bias: Float[np.ndarray, " k"], unit: Affine
) -> tuple[Any, Float[np.ndarray, " k"]]:
    """Weight vectors and biases of questions in the unit box as those of the inputs."""
    rows = np.asarray(rows)
    # A question y of the unit box is asked as x = (y - mean) / deviation, so y = deviation x + mean.
    return rows * unit.deviation, np.asarray(bias) + rows @ unit.mean
