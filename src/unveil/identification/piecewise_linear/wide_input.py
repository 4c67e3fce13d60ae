"""widen: the first layer's weights along all inputs, from a network that is known along a few directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import across
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.few_directions import Directions
from unveil.identification.piecewise_linear.probe import Probe
from unveil.whitebox.network import Layer, Network

# How far from the hyperplanes of the first layer derivatives are taken, in units of what its neurons typically see.
STATION_DISTANCES = 1.0, 3.0
RANDOM_STEP_SHARE = 0.2  # a random step moves neurons by this share of what it may
# Places tried per station, and how often others are looked for where derivatives could not be measured.
PLACES_PER_STATION, STATION_ROUNDS = 60, 4
# Behind more than one hidden layer neurons told so many times worse than the median one are told elsewhere, too.
RETOLD_ERROR_RATIO = 30.0
# Rows along the few directions must be this independent for their values to be chosen freely; the values of others are
# what these say, and where rows depend on each other more than this nothing is told.
INDEPENDENT, DEPENDENT_UNIT_ROWS = 1e-2, 1e-6
PARALLEL_ROW_MISS = 1e-12  # one minus the cosine of rows that are one but for their lengths, along all directions then
STATION_SEPARATION = 1e-3  # neurons that the answers tell apart worse than this are active at different stations


@dataclass(frozen=True)
class SparsePlace:
    """A place where only a few neurons of the first layer are active."""

    s: Float[np.ndarray, " p"]  # coordinates along the few directions
    active: Int[np.ndarray, " g"]  # which neurons, of those that no station before has told
    # what they see there, behind more than one hidden layer also those beside
    away: Float[np.ndarray, " h"]
    back: Float[np.ndarray, "p h"]  # steps that add as much again to one of these, and nothing to the others of them
    radius: float  # how far random steps along other directions may go
    # neurons told before that are active, too: without them the next layer passes nothing on
    beside: Int[np.ndarray, " b"]


def parallel(rows: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k k"]:
    """How each row moves with the first one that is parallel to it: `rows == parallel(rows) @ rows`."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first = (np.abs(unit @ unit.T) > 1 - PARALLEL_ROW_MISS).argmax(axis=1)
    out, k = np.zeros((len(rows),) * 2), np.arange(len(rows))
    out[k, first] = (rows * rows[first]).sum(axis=1) / (rows[first] ** 2).sum(axis=1)
    return out


def _inverses(
    rows: Float[np.ndarray, "k p"], first: Int[np.ndarray, " q"]
) -> tuple[Float[np.ndarray, "p k"], Float[np.ndarray, "p k"]] | None:
    """Right inverses of as many of these rows as are independent, and of all of them; zero for the others. None if they
    depend on each other. `first`: those that are parallel to none before."""
    size = np.linalg.norm(rows, axis=1)
    out: list[np.ndarray] = []
    while len(first) <= rows.shape[1]:
        u, s, vt = np.linalg.svd((rows / size[:, None])[first], full_matrices=False)
        if s[-1] < DEPENDENT_UNIT_ROWS:
            return None
        if not out or s[-1] >= INDEPENDENT:
            inverse = np.zeros(rows.T.shape)
            inverse[:, first] = (vt.T / s) @ u.T / size[first]
            out.append(inverse)
        if s[-1] >= INDEPENDENT:
            return out[-1], out[0]
        first = np.delete(first, np.abs(u[:, -1]).argmax())
    return None


def stations(
    network: Network,
    moves: Float[np.ndarray, "k k"],
    left: Int[np.ndarray, " l"],
    rng: np.random.Generator,
) -> list[SparsePlace] | None:
    """Places that tell some neurons of the first layer once, no more of them than outputs at each.

    No other one is active there, but where what an active one sends on would not get through: then some that were told
    before are. `moves`: see `parallel`. `left`: those that are to be told; of parallel ones only the first is. None if
    what the neurons see cannot be chosen freely along these directions.
    """
    layer, m = network.layers[0], network.m
    k, size = layer.neurons, np.linalg.norm(layer.dense(), axis=1)
    first = np.abs(moves).argmax(axis=1)
    inverses = _inverses(layer.dense(), np.unique(first))
    if inverses is None:
        return None
    place, step = inverses
    # The others see what these say.
    bound = np.asarray(~place.any(axis=0))
    if bound.any() and len(network.layers) == 2:
        return None
    # With one output and one hidden layer all places with the same neurons active are as good.
    tries = 1 if m == 1 and len(network.layers) == 2 else PLACES_PER_STATION
    count = -(-len(left) // m)
    out: list[SparsePlace] = []
    while len(left):
        most = min(m, -(-len(left) // max(1, count - len(out))))
        told, alone = -1.0, True
        done = np.setdiff1d(np.arange(k), left)
        while told < STATION_SEPARATION and (told < 0 or most > 1 or (alone and len(done))):
            alone = told < 0 or most > 1
            most -= told >= 0 and alone
            drawn = [(rng.permutation(left), rng.uniform(*STATION_DISTANCES, k)) for _ in range(tries)]
            active = np.sort([order[np.argsort(bound[order], kind="stable")][:most] for order, _ in drawn], axis=1)
            sign = np.full((tries, k), -1.0)
            if not alone:
                sign[:, done] = rng.choice([-1.0, 1.0], size=(tries, len(done)))
            np.put_along_axis(sign, active, 1.0, axis=1)
            z = sign * np.array([far for _, far in drawn]) * size
            z = (z - layer.bias) @ (layer.dense() @ place).T + layer.bias if bound.any() else z
            _, clear = _tell(network, z, active, moves if bound.any() else None)
            if bound.any():
                clear *= _alone(z > 0, active, left, moves)
            best, told = int(clear.argmax()), float(clear.max())
        on, sees = active[best], z[best]
        beside = np.setdiff1d(first[sees > 0], on)
        # Of the others only those that are active count behind the next layer: the step past them is the shortest.
        here = on if len(network.layers) == 2 else np.append(on, beside)
        past = step[:, on] if len(network.layers) == 2 else np.linalg.pinv(layer.dense()[here])
        free = _tell(network, sees[None], here[None], moves if bound.any() else None)[0][0]
        left = np.setdiff1d(left, on)
        if told > 0 or not bound.any():
            s = place @ (sees - layer.bias)
            out.append(SparsePlace(s, on, sees[here], past * sees[here], RANDOM_STEP_SHARE * free, beside))
    return out


def _alone(
    on: Bool[np.ndarray, "T k"],
    active: Int[np.ndarray, "T g"],
    left: Int[np.ndarray, " l"],
    moves: Float[np.ndarray, "k k"],
) -> Bool[np.ndarray, " T"]:
    """Whether at each place the neurons that are to be told are active, and no others of those that are `left`."""
    there = on @ (moves != 0)
    wanted = np.zeros(on.shape, dtype=bool)
    np.put_along_axis(wanted, active, True, axis=1)
    return np.asarray((there[:, left] == wanted[:, left]).all(axis=1) & np.take_along_axis(on, active, 1).all(axis=1))


def _tell(
    network: Network,
    z: Float[np.ndarray, "T k"],
    active: Int[np.ndarray, "T g"],
    moves: Float[np.ndarray, "k k"] | None,
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """How far nothing switches, and how well answers tell what the active neurons see. `z`: preactivations of the first
    layer at each place. `active`: which of them are positive. `moves`: see `parallel`; None where no rows are."""
    room = (np.abs(z) / np.linalg.norm(network.layers[0].dense(), axis=1)).min(axis=1)
    h, J = np.maximum(z, 0), _moved(moves, z, active)
    rows = network.layers[0].dense()[active] if len(network.layers) > 2 else np.zeros((0, 1, 1))
    products = rows @ rows.swapaxes(1, 2)
    for each in network.layers[1:-1]:
        z, J = each.affine(h), _onward(each, J, active)
        move = np.sqrt(np.maximum(((J @ products) * J).sum(axis=2), 0))
        room = np.minimum(room, (np.abs(z) / np.maximum(move, 1e-300)).min(axis=1))
        J, h = np.where(z[..., None] > 0, J, 0), np.maximum(z, 0)
    share = _onward(network.layers[-1], J, active)
    norms = np.linalg.norm(share, axis=1)
    clear = np.linalg.svd(share / np.maximum(norms, 1e-300)[:, None], compute_uv=False)[:, -1]
    if len(network.layers) > 2:
        # Where later layers switch soon, or pass little of a neuron on, another place is better.
        clear = clear * np.minimum(room, 1.0) * norms.min(axis=1) / np.abs(network.layers[-1].dense()).max()
    return room, clear


def _onward(
    layer: Layer, J: Float[np.ndarray, "T k g"] | None, active: Int[np.ndarray, "T g"]
) -> Float[np.ndarray, "T q g"]:
    """How what a layer's neurons see changes with the active ones of the first; None: they are what it sees."""
    return np.asarray(layer.dense()[:, active].swapaxes(0, 1) if J is None else layer.dense() @ J)


def _moved(
    moves: Float[np.ndarray, "k k"] | None, z: Float[np.ndarray, "T k"], active: Int[np.ndarray, "T g"]
) -> Float[np.ndarray, "T k g"] | None:
    """How what the first layer passes on changes with what these neurons see; None: each with its own alone."""
    return None if moves is None else np.where(z[..., None] > 0, moves[:, active].swapaxes(0, 1), 0)


def _passed_on(
    network: Network, s: Float[np.ndarray, " p"], which: Int[np.ndarray, " b"], moves: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "m b"]:
    """How the answers at a place change with what these neurons of the first layer see, and such that are parallel."""
    z = network.layers[0].affine(s[None])
    h, J = np.maximum(z, 0), _moved(moves, z, which[None])
    for each in network.layers[1:-1]:
        z, J = each.affine(h), _onward(each, J, which[None])
        J, h = np.where(z[..., None] > 0, J, 0), np.maximum(z, 0)
    return np.asarray(_onward(network.layers[-1], J, which[None])[0])


def widen(probe: Probe, network: Network, directions: Directions) -> Network | None:
    """The network on all inputs; None where derivatives could not be measured, at other places either.

    Queries: `n - p + 5` per place; one more per neuron active there, two behind one hidden layer with several outputs;
    the same for neurons that are told elsewhere, too, `STATION_ROUNDS` times at most.
    """
    layer, last = network.layers[0], len(network.layers) == 2
    lift = directions.longer * directions.few.T
    rows, bias = layer.dense(), layer.bias
    beyond = np.zeros((len(rows), directions.others.shape[1]))
    told: list[tuple[SparsePlace, np.ndarray, np.ndarray]] = []
    moves = parallel(rows)
    left = every = np.unique(np.abs(moves).argmax(axis=1))
    size, doubt = np.linalg.norm(rows, axis=1), np.full(len(rows), np.inf)
    for _ in range(STATION_ROUNDS):
        where = stations(network, moves, left, probe.rng)
        if where is None:
            return None
        x = np.array([each.s for each in where]) @ lift
        value = probe.ask(x)
        # A fit tells them less well here, where all other neurons are off, than where inputs usually are.
        shares = _shares(probe, where, x, value, lift, last)
        radius = np.array([each.radius for each in where])
        slopes, errors = derivatives(probe, across(directions.others), x, radius, value)
        for each, share, y, J, error in zip(where, shares, value, slopes, errors, strict=True):
            active, beside = each.active, each.beside
            # Where the answers of many layers are rounded more than elsewhere, or a neuron switches next to a place,
            # there is no derivative to be had.
            if not np.isfinite(error) or not np.isfinite(doubt[beside]).all():
                continue
            if len(beside):
                passed = _passed_on(network, each.s, beside, moves) if last else share[:, len(active) :]
                J = J - passed @ beyond[beside]
                error = error + float((np.abs(passed) @ (doubt * size)[beside]).max())
            share = share[:, : len(active)]
            about = error / max(float(np.linalg.svd(share, compute_uv=False)[-1]), 1e-300) / size[active]
            if about.max() >= doubt[active].max():
                continue
            beyond[active] = np.linalg.lstsq(share, J, rcond=None)[0]
            told.append((each, share, y))
            doubt[active] = about
        left = every[np.isinf(doubt[every])]
        if not len(left) and not last:
            left = every[doubt[every] > RETOLD_ERROR_RATIO * np.median(doubt[every])]
        if not len(left):
            break
    if np.isinf(doubt[every]).any():
        return None
    whole = rows @ directions.few.T / directions.longer + moves @ beyond @ directions.others.T
    rest = [(each.dense(), each.bias) for each in network.layers[1:]]
    return Network.from_weights([(whole, bias), *([_outer(rows, bias, rest[0][0], told)] if last else rest)])


def _outer(
    rows: Float[np.ndarray, "k p"],
    bias: Float[np.ndarray, " k"],
    outer: Float[np.ndarray, "m k"],
    told: list[tuple[SparsePlace, Float[np.ndarray, "m g"], Float[np.ndarray, " m"]]],
) -> AffineMap:
    """The output layer behind one hidden layer, as the places show it where neurons were told."""
    outer = outer.copy()
    for each, share, _ in told:
        outer[:, each.active] = share
    h = np.maximum(np.array([each.s for each, _, _ in told]) @ rows.T + bias, 0)
    return outer, np.median(np.array([y for _, _, y in told]) - h @ outer.T, axis=0)


def _shares(
    probe: Probe,
    where: list[SparsePlace],
    x: Float[np.ndarray, "P n"],
    value: Float[np.ndarray, "P m"],
    lift: Float[np.ndarray, "p n"],
    last: bool,
) -> list[Float[np.ndarray, "m _"]]:
    """How the answers change with what each neuron of `away` sees, measured."""
    place = np.repeat(np.arange(len(where)), [len(each.away) for each in where])
    back, away = np.concatenate([each.back.T for each in where]), np.concatenate([each.away for each in where])
    if last and value.shape[1] > 1:
        # Onto the hyperplane and as far beyond it: what the others add is linear, and drops out.
        steps = back @ lift
        onto, past = np.split(probe.ask(np.concatenate([x[place] - steps, x[place] - 2 * steps])), 2)
        change = value[place] - 2 * onto + past
    else:
        # All others stay as they are; no later layer switches within half the room there is.
        room = np.array([each.radius for each in where])[place] / RANDOM_STEP_SHARE
        part = np.ones(len(place)) if last else np.minimum(1, 0.5 * room / np.linalg.norm(back, axis=1))
        change = (probe.ask(x[place] + (part[:, None] * back) @ lift) - value[place]) / part[:, None]
    share = change / away[:, None]
    return [share[place == i].T for i in range(len(where))]
