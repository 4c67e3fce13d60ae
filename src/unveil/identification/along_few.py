"""along_few: a network of many inputs whose answers have few digits, read along a few directions, then along all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import COARSE, Rounding, reach, rounding, rows_for
from unveil.blackbox.wrappers import Affine
from unveil.identification.detect import curved
from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.leverage import telling_most
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import EVERYTHING, AffineMap, Asked
from unveil.identification.fitting.slimming import all_needed
from unveil.identification.method import Identification
from unveil.identification.piecewise_linear.closing import STEADY
from unveil.identification.piecewise_linear.critical_point import search
from unveil.identification.piecewise_linear.critical_points import ENOUGH_LEFT, FAR_WHEN_NOISY, CriticalPoints
from unveil.identification.piecewise_linear.far_places import confirm
from unveil.identification.piecewise_linear.few_directions import MANY, Directions, Narrow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.wide_input import widen
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

Reader = Callable[[Oracle], Identification]
Settler = Callable[[Identification, Oracle], Identification]

# Along more than this share of the inputs what is saved does not pay for what is lost where the reading is not whole.
FEW_DIRECTIONS_SHARE = 0.25
# Share of what the budget leaves that readings along few directions may use, and how many of them are made at most.
PART, READINGS = 0.7, 3
# Answers per parameter for a fit of all weights along all inputs, how far out every fourth point lies, and steps of
# the fit.
FULL_FIT_PER_PARAMETER, FULL_FIT_REACH, FULL_FIT_STEPS = 3.0, 3.0, 6
NEED_ANSWERS_PER_NEURON = 4  # answers per input and neuron that tell whether the neurons of a layer are needed
# Inputs that weigh so many times less than the heaviest one have weights measured by steps as much longer.
LIGHT = 10.0
SAME_NEURON_COSINE = 0.999  # rows of a larger cosine along the few directions are one neuron's
# A step of a neuron that no other switches in, mostly; and errors of rows, at the least and at most: of float32, and as
# much as a window of `confirm` bears.
NUDGE, ERRORS = 1e-6, (1e-6, 1e-2)


@dataclass(frozen=True)
class _Seen:
    """What was read along a few directions."""

    directions: Directions  # these
    narrow: Narrow  # the network along them
    noise: Rounding  # how exact answers are
    few: Identification  # what was read

    @property
    def right(self) -> bool:
        """Whether there is a network that passed its check, at usual points at least."""
        return self.few.outcome in (Outcome.complete, Outcome.approximate)

    @property
    def much(self) -> tuple[bool, bool, int]:
        """Whether there is a network that is nearly right, or any, and how many neurons were read."""
        stats = self.few.stats
        rows = stats.get("rows_partial") or (() if stats.get("layers_read") else stats.get("rows_read")) or ((), ())
        read = [len(bias) for _, bias in (*stats.get("layers_read", ()), rows)]
        return self.right, self.few.network is not None, sum(read)


def along_few(oracle: Oracle, read: Reader, settle: Settler, rng: np.random.Generator) -> Identification | None:
    """A network of many inputs, first as a function of a few directions of them.

    There its layers are as they are, but that the first one has a few weights for each neuron: lines and derivatives
    are cheap, and so are fits. Derivatives then tell the other weights roughly, and a fit of all to fresh answers tells
    them well. Answers with all their digits are read so by `CriticalPoints` itself. `oracle`: answers with few digits,
    free of a box. `read`: reads what is asked along the directions. `settle`: fits what was not read there. Returns a
    complete network, or one that failed its check and is where a fit may begin; None where there are too few inputs or
    too many neurons for this to pay, or nothing came of it. Queries: those of `rounding`, of a line and of `read` along
    `READINGS` sets of directions at most, of `settle` and `widen`, `FULL_FIT_PER_PARAMETER` per parameter, fewer with
    several outputs, those of `CriticalPoints.settle` and, where neurons were only fitted, of `confirm`.
    """
    if oracle.within is not None or oracle.grid is not None or oracle.n < MANY or oracle.resolution < COARSE:
        return None
    start, ledger = oracle.ledger.asked, oracle.ledger
    budget = ledger.budget
    ledger.budget = ledger.asked + int(PART * ledger.left) if np.isfinite(ledger.left) else budget
    try:
        seen = _along_some(oracle, read, rng)
        if seen is not None and seen.few.outcome is not Outcome.complete:
            seen = replace(seen, few=settle(seen.few, seen.narrow))
    except BudgetExceeded:
        return None
    finally:
        ledger.budget = budget
    if seen is None or seen.few.network is None or seen.few.outcome not in (Outcome.complete, Outcome.approximate):
        return None
    try:
        found = _along_all(oracle, seen, rng)
    except BudgetExceeded:
        return None
    if found is None:
        return None
    count = seen.narrow.n
    why = f"It was read along {count} directions of the inputs first, and then along all {oracle.n}."
    stats = {**found.stats, "directions": count}
    return replace(found, queries=ledger.asked - start, why=(*seen.few.why, why, *found.why), stats=stats)


def _along_some(oracle: Oracle, read: Reader, rng: np.random.Generator) -> _Seen | None:
    """What was read along a few directions; along others where that was not all, as long as it is cheap."""
    best, ledger, least = None, oracle.ledger, 0
    for _ in range(READINGS):
        before = ledger.asked
        directions, noise = _directions(oracle, rng, least)
        if directions is None:
            break
        narrow = Narrow(oracle, directions)
        seen = _Seen(directions, narrow, noise, read(narrow))
        if seen.few.outcome is Outcome.not_resolved:
            least = narrow.n + 1  # the first layer has more neurons than a line met of all layers
            continue
        best = seen if best is None else max(best, seen, key=lambda each: each.much)
        # A network that is nearly right is settled by a fit.
        if seen.right or ledger.left < ENOUGH_LEFT * (ledger.asked - before):
            break
    return best


def _directions(oracle: Oracle, rng: np.random.Generator, least: int) -> tuple[Directions | None, Rounding]:
    """As many as a line shows neurons, or as so many take, if that is few; and how exact answers are."""
    frame, ask = Frame.of_input(oracle.n, None), Asked(oracle)
    rows = frame.sample(rows_for(oracle.resolution), rng)
    noise = rounding(ask, rows, oracle.resolution, rng, oracle.uneven)
    if curved(oracle, noise, rng):
        return None, noise
    far = FAR_WHEN_NOISY
    if np.isfinite(oracle.widest):
        far = reach(ask, frame.sample(4, rng), oracle.widest, far)
    line = search(ask, frame, noise, rng, far)
    directions = None if line is None else Directions.along(line, rng, least)
    return (
        directions if directions is not None and directions.few.shape[1] <= FEW_DIRECTIONS_SHARE * oracle.n else None
    ), noise


def _along_all(oracle: Oracle, seen: _Seen, rng: np.random.Generator) -> Identification | None:
    """The network along all inputs, from what came out along few; None where derivatives tell nothing of it."""
    few, noise = seen.few, seen.noise
    assert few.network is not None
    ask = Asked(oracle)
    network = widen(Probe(ask, noise, rng), few.network, seen.directions)
    if network is None:
        return None
    doubtful = not _all_read(few)
    network, outcome, error, why = settled(network, oracle, noise, rng, doubtful=doubtful)
    told = [why] if why else []
    doubtful &= outcome is not Outcome.complete
    outcome = outcome if outcome is Outcome.complete else Outcome.check_failed
    stats: dict[str, Any] = {**few.stats, **_read(network, few, seen.directions, doubtful)}
    if doubtful:
        # Behind one that is only fitted a fit may have turned any weights along the other directions.
        rows, bias = stats["rows_read"]
        there = _met_again(Probe(ask, noise, rng), network, (rows, bias), error, oracle.ledger.left)
        stats["rows_read"] = rows[there], bias[there]
        if not there.all():
            told.append(f"{int((~there).sum())} of {len(there)} rows were not met again at fresh places: left out.")
    return Identification(network, outcome, 0, error, few.method, tuple(told), stats)


def _met_again(probe: Probe, network: Network, layer: AffineMap, off: float, most: float = np.inf) -> np.ndarray:
    """Which of these rows of the first layer bend answers at fresh places. `off`: relative error of the network.
    Queries: those of `confirm`, at most `most`"""
    (rows, bias), frame, first = layer, Frame.of_input(network.n, None), network.layers[0]
    size = np.linalg.norm(rows, axis=1)
    at = frame.sample(len(rows), probe.rng)
    at -= ((np.einsum("kn,kn->k", at, rows) + bias) / size**2)[:, None] * rows
    which = [int(np.flatnonzero((first.dense() == row).all(axis=1))[0]) for row in rows]
    behind, passed = Network(network.layers[1:]), first(at)
    step = NUDGE * np.eye(first.neurons)[which]
    jump = (behind(passed + step) - behind(passed)) / NUDGE * size[:, None]
    error = np.full(len(rows), np.clip(off, *ERRORS))
    planes = Hyperplanes.through(frame, at, rows / size[:, None], jump, error)
    return confirm(probe, frame, planes, planes, most).there


def settled(
    network: Network, oracle: Oracle, noise: Rounding, rng: np.random.Generator, *, doubtful: bool = False
) -> tuple[Network, Outcome, float, str]:
    """A nearly right network with all its weights fitted to fresh answers of few digits, judged as one that was read,
    and fitted again where it is wrong. `doubtful`: some of its neurons were only fitted before: it is complete where
    the answers need each of them. Queries: `FULL_FIT_PER_PARAMETER` per parameter, fewer with several outputs, and
    those of `CriticalPoints.settle`."""

    def drawn(count: int) -> np.ndarray:
        x = oracle.sample(count, rng)
        x[::4] *= FULL_FIT_REACH
        return oracle.nearest(both_sides(network, x))

    x = telling_most(
        network, drawn, int(FULL_FIT_PER_PARAMETER * parameters(network) / network.m), rng, noise.expected_counts
    )
    told = Asked(oracle, most=EVERYTHING)
    told.hold(x, oracle(x))
    x, y = told.all()
    counts, sigma = noise.counts(x, y)
    network = fit(network, x, y, noise=STEADY * sigma, steps=FULL_FIT_STEPS, counts=counts).network
    network, outcome, seen, why = CriticalPoints().settle(network, told, rng=rng)
    if doubtful and outcome is Outcome.complete:
        some = rng.permutation(len(x))[: NEED_ANSWERS_PER_NEURON * (network.n + max(network.widths))]
        if not all_needed(network, x[some], y[some], counts[some]):
            outcome = Outcome.check_failed
    return network, outcome, seen.residual, why


def settled_in_units(
    network: Network, unit: Affine, noise: Rounding, rng: np.random.Generator
) -> tuple[Network, Outcome, float, str]:
    """`settled` in units in which all inputs matter alike; of answers with all their digits those of the first layer's
    weights measured again that belong to light inputs, by steps that matter as much as those of the others do. Queries:
    those of `settled`, or of `widen` with the heavy inputs as the few directions, and of `CriticalPoints.judge`."""
    if not noise.exact:
        return settled(network, unit, noise, rng)
    heavy, (first, *behind) = unit.deviation.ravel() * LIGHT > 1, network.layers
    if len(network.layers) < 2 or heavy.all():
        return network, Outcome.check_failed, np.inf, ""
    every = np.eye(unit.n)
    directions = Directions(every[:, heavy], every[:, ~heavy])
    layer = first.dense() @ (directions.longer * directions.few), first.bias
    few = Network.from_weights([layer, *((each.dense(), each.bias) for each in behind)])
    probe = Probe(lambda x: unit(unit.nearest(x)), noise, rng)
    wide = widen(probe, few, directions)
    if wide is None:
        return network, Outcome.check_failed, np.inf, ""
    outcome, seen, why = CriticalPoints().judge(wide, unit, rng=rng)
    return wide, outcome, seen.residual, why


def _read(network: Network, few: Identification, directions: Directions, doubtful: bool) -> dict[str, Any]:
    """What was read of the network, neuron by neuron: all of it, or the rows that were read along few directions."""
    hidden = [(layer.dense(), layer.bias) for layer in network.layers[:-1]]
    if not doubtful:
        return {"layers_read": hidden[:-1], "rows_partial": hidden[-1], "rows_read": hidden[0]}
    seen = hidden[0][0] @ directions.few
    layers = few.stats.get("layers_read") or [few.stats.get("rows_read", (seen[:0],))]
    rows = layers[0][0]
    weights, bias = hidden[0]
    size = np.linalg.norm(seen, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    same = (np.abs(seen @ rows.T) > SAME_NEURON_COSINE * np.maximum(size, 1e-300)).any(axis=1)
    return {"layers_read": [], "rows_partial": None, "rows_read": (weights[same], bias[same])}


def _all_read(few: Identification) -> bool:
    """Whether no neuron along few directions is only fitted."""
    return few.outcome is Outcome.complete or "surrogate" not in few.stats
