"""check_points: where a network is held against fresh answers: as users ask, further out, where neurons switch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.domain import Within
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.both_sides import gradients, pushed
from unveil.whitebox.network import Layer, Network

# How far out points lie besides the usual ones, in usual lengths: every neuron of a first layer switches there.
FURTHER = (3.0, 30.0)
# Shares of the points: usual ones, those further out (at corners, where there is a box), those where neurons switch;
# the rest are unusual ones. Of one hidden layer, and of several, behind which rare neurons show at these above all.
SHARES, SHARES_DEEP = (0.4, 0.3, 0.15), (0.3, 0.2, 0.15)
# Of those further out, and of the unusual ones without a box, so many lie furthest out: neurons that are rare nearer by
# are on there up to ten times as often, and hardly any less often.
FURTHEST = 0.75
# Points from which the most unusual ones are climbed to, of one hidden layer and of several; steps of the way, and what
# the next one is of a step that led up, or did not.
POOL_SHALLOW, POOL_DEEP, CLIMB, STRIDE = 1000, 8000, 60, (1.2, 0.9)
# At these one feature is to be large: alone at half of them; at the others beside a second one as often as not, and the
# rest may be active by as little as this weighs against them.
LIGHTEST = 0.05
# Neurons that could be behind a layer, of which rare ones are looked for: so many are drawn, as long as that takes no
# more products than this; rare are those on, or off, at so few of so many points; no more than the rarest are taken.
RANDOM, MOST_WORK, RAREST, DRAWN_FROM, SUPPOSED = 6000, 200_000_000, 4, 2000, 300
MET_DISCOUNT = 4.0  # how much less one of them counts with each point that met it
# Where two hyperplanes of a first layer cross so far out one of them may bend, seen nowhere nearer: between so many
# usual lengths, and at so many of the points at most, which are taken from usual ones and from those furthest out.
CROSSING, CROSSINGS = (3.0, 100.0), 0.2
# Pairs looked at at most; how far from where they cross, as a share of the way there.
CROSSING_PAIRS, CROSSING_DISTANCE = 1000, 0.5
# Distance from a hyperplane, in standard deviations of the preactivation: on either side of it.
HYPERPLANE_DISTANCE = 0.5


def switching(
    network: Network, x: Float[np.ndarray, "N n"], rng: np.random.Generator, scale: float = 1.0
) -> Float[np.ndarray, "N n"]:
    """The points moved to just beside hyperplanes of random hidden neurons, on either side. `x`: points to start from,
    `scale` times as far out as usual ones: as near to the hyperplanes as these would be moved."""
    x = x.copy()
    hidden = network.layers[:-1]
    if not hidden:
        return x
    spread = [z.std(axis=0) + 1e-300 for z in network.preactivations(x / scale, -2)]
    depth = rng.integers(len(hidden), size=len(x))
    neuron = np.array([rng.integers(hidden[d].neurons) for d in depth], dtype=int)
    side = rng.choice([-HYPERPLANE_DISTANCE, HYPERPLANE_DISTANCE], size=len(x))
    for level in range(len(hidden)):
        some = np.flatnonzero(depth == level)
        if len(some):
            x[some] = pushed(network, level, neuron[some], x[some], side[some] * spread[level][neuron[some]])
    return x


def unusual(
    network: Network,
    x: Float[np.ndarray, "pool n"],
    weights: Float[np.ndarray, "count k"],
    most: Float[np.ndarray, " count"],
    rng: np.random.Generator,
    within: Within | None,
) -> Float[np.ndarray, "count n"]:
    """Points where mixtures of the features of a layer are largest: a rare neuron behind it is on there.

    `network`: as far as that layer. `x`: points to start from; without a box at all lengths, as another part of a layer
    is active further out. `weights`: of the features in each mixture. `most`: without a box, how long each of the
    points may be. `within`: the legal box, if any.
    """
    if not len(most):
        return x[:0]
    features = network.features(x)
    if within is None:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    x = x[(features @ weights.T).argmax(axis=0)]
    if within is None:
        x = x * np.minimum(1, most / np.maximum(np.linalg.norm(x, axis=1), 1e-300))[:, None]
    first = network.layers[0]
    if within is not None or first.neurons >= network.n:
        return _climbed(network, x, weights, most, rng, within)
    # Only what the first layer sees of a point counts on the way, and its length: so many coordinates, not n.
    q = np.linalg.qr(first.dense().T)[0]
    seen = x @ q
    rest = x - seen @ q.T
    size = np.linalg.norm(rest, axis=1, keepdims=True)
    rows = np.concatenate([first.dense() @ q, np.zeros((first.neurons, 1))], axis=1)
    narrow = Network((Layer(rows, first.bias, first.activation), *network.layers[1:]))
    y = _climbed(narrow, np.concatenate([seen, size], axis=1), weights, most, rng, None)
    return np.asarray(y[:, :-1] @ q.T + rest * (y[:, -1:] / np.maximum(size, 1e-300)))


def _climbed(
    network: Network,
    x: Float[np.ndarray, "count n"],
    weights: Float[np.ndarray, "count k"],
    most: Float[np.ndarray, " count"],
    rng: np.random.Generator,
    within: Within | None,
) -> Float[np.ndarray, "count n"]:
    """The points `x` moved by `CLIMB` steps to where their mixtures of features are larger. `weights`: of each point's
    mixture. Others: as of `unusual`.

    A mixture is largest where features that weigh against it just end, at edges that a gradient leads away from: it is
    taken a step aside, so that both sides of an edge are seen in turn.
    """
    depth, first = len(network.layers) - 1, network.layers[0].dense()
    layer, activation = network.layers[depth], network.layers[depth].activation
    x, step = x.copy(), most / 6
    best = np.einsum("ck,ck->c", network.features(x), weights)
    for _ in range(CLIMB):
        aside = rng.standard_normal((len(x), len(first))) @ first
        at = x + step[:, None] * aside / np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-300)
        sums = network.preactivations(at)
        up = gradients(network, depth, (weights * activation.slope(sums[-1])) @ layer.dense(), sums)
        y = at + step[:, None] * up / np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-300)
        if within is None:
            y *= np.minimum(1, most / np.maximum(np.linalg.norm(y, axis=1), 1e-300))[:, None]
        else:
            y = np.clip(y, *within)
        reached = np.einsum("ck,ck->c", network.features(y), weights)
        better = reached > best
        x[better], best[better] = y[better], reached[better]
        step *= np.where(better, *STRIDE)
    return x


def unusual_everywhere(
    network: Network,
    count: int,
    pool: Float[np.ndarray, "pool n"],
    rng: np.random.Generator,
    within: Within | None,
    scales: tuple[float, float] = FURTHER,
) -> Float[np.ndarray, "count n"]:
    """Points where a neuron that is missing behind one of the hidden layers is on: `unusual` ones of all but the last.

    Of those where `mixtures` and rare neurons that could be there (`supposed`) are largest the ones are taken that
    together meet most of the supposed ones: of random neurons that one far input in ten thousand switches they miss a
    tenth of those that as many mixtures miss. Behind a single layer, which is read in a moment, mixtures are all.
    What the last layer's neurons are mixed into is the output, which is no neuron that could have been missed. The
    deeper a layer the rarer a neuron behind it can be, and the more points are its own. `pool`: inputs as a user would
    draw them; `scales`: how far out points lie without a box, in usual lengths, most of them as far as the second one.
    """
    size = float(np.median(np.linalg.norm(pool, axis=1)))
    if within is None:
        pool = pool * rng.choice([1.0, *scales], size=(len(pool), 1))
    behind = np.arange(1, max(2, len(network.layers) - 1))
    counts = np.diff(np.round(count * np.cumsum([0, *behind]) / behind.sum()).astype(int))
    found = [pool[:0]]
    for depth, each in enumerate(counts):
        layer = network.up_to(depth)
        rows, bias = np.empty((0, layer.layers[-1].neurons)), np.empty(0)
        if len(network.layers) > 2:
            rows, bias = supposed(layer.features(pool[:DRAWN_FROM]), network.layers[depth + 1], rng)
        weights = np.concatenate([mixtures(each, rows.shape[1], rng), rows])
        most = size * rng.choice(scales, size=len(weights), p=(1 - FURTHEST, FURTHEST))
        x = unusual(layer, pool, weights, most, rng, within)
        found.append(x[covering(layer.features(x) @ rows.T + bias > 0, each)])
    return np.concatenate(found)


def supposed(
    features: Float[np.ndarray, "N k"], behind: Layer, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "rare k"], Float[np.ndarray, " rare"]]:
    """Weights and biases of neurons that could be behind a layer, and are hardly ever on, or off: of `RANDOM` ones at
    random those that at most `RAREST` of the points switch, up to `SUPPOSED`. `features`: of the layer, at points near
    and far. `behind`: the next one as far as it is known, whose neurons have biases like theirs."""
    count = min(RANDOM, MOST_WORK // max(features.size, 1))
    rows = rng.standard_normal((count, behind.inputs))
    usual = behind.bias / np.maximum(np.linalg.norm(behind.dense(), axis=1), 1e-300)
    bias = rng.choice(usual, count) * rng.choice([-1.0, 1.0], count) * np.linalg.norm(rows, axis=1)
    for some in (features[::10], features):  # most of them switch at many
        on = (some @ rows.T + bias > 0).sum(axis=0)
        side = np.where(on > len(some) / 2, -1.0, 1.0)
        often = np.minimum(on, len(some) - on)
        rare = np.argsort(often, kind="stable")
        rare = rare[often[rare] <= RAREST]
        rows, bias = (side[:, None] * rows)[rare], (side * bias)[rare]
    return rows[:SUPPOSED], bias[:SUPPOSED]


def covering(on: Bool[np.ndarray, "N neurons"], count: int) -> Int[np.ndarray, " count"]:
    """Which points together meet most neurons, one after another: a neuron counts `MET_DISCOUNT` times less with each
    point that met it, so that none is left out where there are points enough. `on`: where each is on; more points than
    `count`."""
    worth, free = np.ones(on.shape[1]), np.ones(len(on), dtype=bool)
    chosen = np.empty(count, dtype=int)
    for i in range(count):
        chosen[i] = np.where(free, on @ worth, -1.0).argmax()
        free[chosen[i]] = False
        worth[on[chosen[i]]] /= MET_DISCOUNT
    return chosen


def mixtures(count: int, k: int, rng: np.random.Generator) -> Float[np.ndarray, "count k"]:
    """Weights of k features whose sum, where it is largest, shows rare neurons behind them.

    A neuron that is on for some input at all has a positive weight, and if it hardly ever is, most others are negative:
    it is on where one or two features are active and the others are not, or hardly. One that is hardly ever off is so
    by a negative weight, at such points likewise. Of every feature in turn they meet rare neurons 3 to 30 times as
    often as points far out do; where a feature never outweighs all others, only those that let these be active a little
    do.
    """
    light = np.where(np.arange(count) % 2 == 0, 1.0, LIGHTEST ** rng.random(count))
    weights = np.repeat(-light[:, None], k, axis=1)
    two = (light < 1) & (rng.random(count) < 0.5)
    weights[two, rng.integers(k, size=two.sum())] = rng.random(two.sum())
    one = np.concatenate([rng.permutation(k) for _ in range(-(-count // k))])[:count] if count else np.empty(0, int)
    weights[np.arange(count), one] = 1.0
    return weights


def crossings(
    network: Network, x: Float[np.ndarray, "N n"], most: int, rng: np.random.Generator
) -> Float[np.ndarray, "count n"]:
    """Points in all four corners where two hyperplanes of the first layer cross, if that is far out.

    A neuron of a deeper layer bends where one of the first switches. Its hyperplane passes for one of the first layer
    where no line went on from there: rows that are nearly parallel cross further out than anyone asks. `x`: usual
    points. `most`: at most so many.
    """
    first, size = network.layers[0], float(np.median(np.linalg.norm(x, axis=1)))
    found = [x[:0]]
    if len(network.layers) < 2 or network.n < 2:
        return x[:0]
    rows, bias = first.dense(), first.bias
    i, j = np.triu_indices(len(rows), 1)
    for pair in rng.permutation(len(i))[:CROSSING_PAIRS]:
        if sum(map(len, found)) + 4 > most:
            break
        two = [i[pair], j[pair]]
        start, back = x[rng.integers(len(x))], np.linalg.pinv(rows[two])
        way = -back @ (rows[two] @ start + bias[two])
        far = float(np.linalg.norm(way)) / max(size, 1e-300)
        if CROSSING[0] < far < CROSSING[1]:
            corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) @ back.T
            corners *= (
                CROSSING_DISTANCE
                * np.linalg.norm(way)
                / np.maximum(np.linalg.norm(corners, axis=1, keepdims=True), 1e-300)
            )
            found.append(start + way + corners)
    return np.concatenate(found)


def check_points(network: Network, oracle: Oracle, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Legal points, the usual ones first; `count` in all."""
    hidden = len(network.layers) - 1
    usual, far, switched = (int(share * count) for share in (SHARES if hidden < 2 else SHARES_DEEP))
    if not usual * far * switched:
        return [oracle.sample(count, rng)]  # too few to be shared out
    x = oracle.sample(usual, rng)
    groups, crossed = [x], x[:0]
    if oracle.within is None:
        crossed = crossings(network, x, int(CROSSINGS * count), rng)
        furthest = int(FURTHEST * far)
        fewer = min(len(crossed), furthest // 2)
        groups = [x[: len(x) - len(crossed) + fewer]]
        nearer, out = (
            scale * oracle.sample(each, rng)
            for scale, each in zip(FURTHER, (far - furthest, furthest - fewer), strict=True)
        )
        # Hyperplanes must go on straight so far out.
        out[::2] = switching(network, out[::2], rng, FURTHER[-1])
        groups += [oracle.nearest(nearer), oracle.nearest(out)]
    else:
        # Corners, some with most coordinates at one end: sums of many inputs are largest there.
        share = rng.choice([0.1, 0.5, 0.9], size=(far, 1))
        low, high = oracle.within
        groups.append(oracle.nearest(np.where(rng.random((far, oracle.n)) < share, high, low)))
    rest = count - sum(map(len, groups)) - len(crossed)
    odd = rest - switched if hidden else 0
    groups.append(oracle.nearest(switching(network, oracle.sample(rest - odd, rng), rng)))
    if odd:
        pool = oracle.sample(POOL_SHALLOW if hidden < 2 else POOL_DEEP, rng)
        groups.append(oracle.nearest(unusual_everywhere(network, odd, pool, rng, oracle.within)))
    return [*groups, oracle.nearest(crossed)] if len(crossed) else groups
