"""A model in units in which its inputs are alike: those of a box of very different widths, or of given examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, rounding, rows_for
from unveil.blackbox.wrappers import Affine
from unveil.identification.check_points import FURTHER
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.method import Identification, residual
from unveil.outcome import BudgetExceeded, MissingAnswers, Outcome
from unveil.whitebox.network import Network

# A nearly right network settled by fresh answers, how it ended, its largest error, and what there is to say.
Settler = Callable[[Network, Affine, Rounding, np.random.Generator], tuple[Network, Outcome, float, str]]

# Points where all inputs matter alike; an error there is as expected up to so many times that at usual points, or below
# this; readings in units that the weights show.
EVEN_POINTS, AS_WELL, EVEN_POINT_ERROR, READ_AGAIN = 100, 10.0, 1e-8, 3
# Sizes of inputs over the smallest that weights are believed to tell of: below are roundings, or numbers of no meaning.
BELIEVED_SIZE_RATIO = 1e12


def in_shown_units(
    found: Identification,
    oracle: Oracle,
    read: Callable[..., Identification],
    settle: Settler,
    rng: np.random.Generator,
) -> Identification:
    """What was read among inputs of size 1, held against answers where inputs that weigh little matter as others do.

    Of inputs in raw units, as incomes beside years, some weights are known no better than what others do to the answers
    is rounded. Where the network is off at sizes that its own weights tell, all weights are fitted to answers of few
    digits there (by `settle`); if that is not enough, or answers have all their digits, it is read again (by `read`).
    Queries: `EVEN_POINTS` where inputs weigh unequally, and those of a fit and a further reading where it is off there.
    """
    start, queries = oracle.ledger.asked, found.queries
    for _ in range(READ_AGAIN):
        ended = found.outcome not in (Outcome.complete, Outcome.approximate)
        if ended or found.network is None or oracle.within is not None:
            break
        units = _shown_units(found.network)
        if units is None:
            break
        light = f"input {int(units.argmax())} weighs so little that the model may be made for larger values of it"
        try:
            off = residual(found.network, oracle, oracle.nearest(units * rng.standard_normal((EVEN_POINTS, oracle.n))))
            if off <= max(AS_WELL * found.residual, EVEN_POINT_ERROR):
                break
            unit = Affine(oracle, deviation=(1 / units).reshape(oracle.shape))
            again = _settled(found, unit, settle, rng) or read(unit, x=None)
            other = of_inputs(again, unit, f"that its weights show, as {light}")
        except (BudgetExceeded, MissingAnswers):
            text = f"It was checked where inputs are of size 1 to {FURTHER[-1]:g}; {light}: give examples (x=)."
            found = dataclasses.replace(found, why=(*found.why, text))
            break
        if other.outcome is not Outcome.complete:
            text = f"It is off by {off:.2g} where all inputs matter alike: {light}; give examples (x=)."
            why, error = (*found.why, text), max(off, found.residual)
            found = dataclasses.replace(found, outcome=Outcome.approximate, residual=error, why=why)
        else:
            found = other
    return dataclasses.replace(found, queries=queries + oracle.ledger.asked - start)


def _settled(found: Identification, unit: Affine, settle: Settler, rng: np.random.Generator) -> Identification | None:
    """What was read, its weights settled by answers in these units, if that passes the check of what is read in them.
    Queries: those of `rounding`, and of `settle`."""
    assert found.network is not None
    noise = rounding(Asked(unit), unit.sample(rows_for(unit.resolution), rng), unit.resolution, rng, unit.uneven)
    if found.outcome is not Outcome.complete:
        return None
    first, *rest = found.network.layers
    # A question y in these units is asked as x = y / deviation.
    first = dataclasses.replace(first, weights=first.dense() / unit.deviation)
    network, outcome, error, _ = settle(dataclasses.replace(found.network, layers=(first, *rest)), unit, noise, rng)
    if outcome is not Outcome.complete:
        return None
    stats = {key: each for key, each in found.stats.items() if key not in ("rows_read", "layers_read")}
    return dataclasses.replace(found, network=network, residual=error, stats=stats)


def in_units(x: Float[np.ndarray, "*shape"] | None, unit: Affine) -> Float[np.ndarray, "*shape"] | None:
    """Given inputs, (N, n), in these units; what has no such shape as it is, for others to refuse."""
    fits = x is not None and np.ndim(x) == 2 and np.shape(x)[1] == unit.n
    return np.asarray(x) * unit.deviation + unit.mean if fits else x


def of_inputs(found: Identification, unit: Affine, whose: str = "") -> Identification:
    """What was found in units of its own, in those of the inputs; `whose` units these are goes into `why`."""
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
    seen = "of the examples given" if unit.within is None else "of their own widths: those of the box differ by far"
    why = (f"Inputs were asked in units {whose or seen}.", *found.why)
    # Kernels that are shared in these units are not in those of the inputs.
    return dataclasses.replace(found, network=network, stats=stats, why=why, kernels=None)


def _rows(
    rows: Float[np.ndarray, "k n"], bias: Float[np.ndarray, " k"], unit: Affine
) -> tuple[Any, Float[np.ndarray, " k"]]:
    """Weight vectors and biases of questions in units of their own as those of the inputs."""
    rows = np.asarray(rows)
    # A question y in these units is asked as x = (y - mean) / deviation, so y = deviation x + mean.
    return rows * unit.deviation, np.asarray(bias) + rows @ unit.mean


def _shown_units(network: Network) -> Float[np.ndarray, " n"] | None:
    """Sizes of inputs at which all matter alike in a first layer, the heaviest at 1; None if usual sizes are such."""
    sizes = np.linalg.norm(network.layers[0].dense(), axis=0)
    light = (sizes > 0) & (FURTHER[-1] * sizes < sizes.max())
    if not light.any():
        return None
    return np.asarray(sizes.max() / np.where(sizes * BELIEVED_SIZE_RATIO > sizes.max(), sizes, sizes.max()))
