"""check_points: where a network is held against fresh answers: as users ask, further out, where neurons switch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

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
# Points from which the most unusual ones are climbed to, of one hidden layer and of several; steps of the way.
POOL, POOL_DEEP, CLIMB = 1000, 8000, 30
# At these one feature is to be large: alone at half of them; at the others beside a second one as often as not, and the
# rest may be active by as little as this weighs against them.
LIGHTEST = 0.05
# Where two hyperplanes of a first layer cross so far out one of them may bend, seen nowhere nearer: between so many
# usual lengths, and at so many of the points at most, which are taken from usual ones and from those furthest out.
CROSSING, CROSSINGS = (3.0, 100.0), 0.2
PAIRS, ASIDE = 1000, 0.5  # pairs looked at at most; how far from where they cross, as a share of the way there
ACROSS = 0.5  # distance from a hyperplane, in standard deviations of the preactivation: on either side of it


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
    side = rng.choice([-ACROSS, ACROSS], size=len(x))
    for level in range(len(hidden)):
        some = np.flatnonzero(depth == level)
        if len(some):
            x[some] = pushed(network, level, neuron[some], x[some], side[some] * spread[level][neuron[some]])
    return x


def unusual(
    network: Network,
    depth: int,
    x: Float[np.ndarray, "pool n"],
    most: Float[np.ndarray, " count"],
    rng: np.random.Generator,
    within: Within | None,
) -> Float[np.ndarray, "count n"]:
    """Points where `mixtures` of the features of layer `depth` are largest: a rare neuron behind it is on there.

    `depth`: which layer's, from 0. `x`: points to start from; without a box at all lengths, as another part of a layer
    is active further out. `most`: without a box, how long each of the points may be. `within`: the legal box, if any.
    """
    count = len(most)
    if not count:
        return x[:0]
    weights = mixtures(count, network.layers[depth].neurons, rng)
    features = network.features(x, depth)
    if within is None:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    x = x[(features @ weights.T).argmax(axis=0)]
    if within is None:
        x = x * np.minimum(1, most / np.maximum(np.linalg.norm(x, axis=1), 1e-300))[:, None]
    first = network.layers[0]
    if within is not None or first.neurons >= network.n:
        return _climbed(network, depth, x, weights, most, within)
    # Only what the first layer sees of a point counts on the way, and its length: so many coordinates, not n.
    q = np.linalg.qr(first.dense().T)[0]
    seen = x @ q
    rest = x - seen @ q.T
    size = np.linalg.norm(rest, axis=1, keepdims=True)
    rows = np.concatenate([first.dense() @ q, np.zeros((first.neurons, 1))], axis=1)
    narrow = Network((Layer(rows, first.bias, first.activation), *network.layers[1:]))
    y = _climbed(narrow, depth, np.concatenate([seen, size], axis=1), weights, most, None)
    return np.asarray(y[:, :-1] @ q.T + rest * (y[:, -1:] / np.maximum(size, 1e-300)))


def _climbed(
    network: Network,
    depth: int,
    x: Float[np.ndarray, "count n"],
    weights: Float[np.ndarray, "count k"],
    most: Float[np.ndarray, " count"],
    within: Within | None,
) -> Float[np.ndarray, "count n"]:
    """The points `x` moved by `CLIMB` steps to where their mixtures of features are larger. `weights`: of each point's
    mixture. Others: as of `unusual`."""
    layer, activation = network.layers[depth], network.layers[depth].activation
    step, sums = most / 6, network.preactivations(x, depth)
    best = np.einsum("ck,ck->c", activation.value(sums[-1]), weights)
    for _ in range(CLIMB):
        up = gradients(network, depth, (weights * activation.slope(sums[-1])) @ layer.dense(), sums)
        y = x + step[:, None] * up / np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-300)
        if within is None:
            y *= np.minimum(1, most / np.maximum(np.linalg.norm(y, axis=1), 1e-300))[:, None]
        else:
            y = np.clip(y, *within)
        there = network.preactivations(y, depth)
        reached = np.einsum("ck,ck->c", activation.value(there[-1]), weights)
        better = reached > best
        for held, new in zip((x, best, *sums), (y, reached, *there), strict=True):
            held[better] = new[better]
        step *= np.where(better, 1.2, 0.5)
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

    What the last layer's neurons are mixed into is the output, which is no neuron that could have been missed. The
    deeper a layer the rarer a neuron behind it can be, and the more points are its own. `pool`: inputs as a user would
    draw them; `scales`: how far out points lie without a box, in usual lengths, most of them as far as the second one.
    """
    size = float(np.median(np.linalg.norm(pool, axis=1)))
    if within is None:
        pool = pool * rng.choice([1.0, *scales], size=(len(pool), 1))
    behind = np.arange(1, max(2, len(network.layers) - 1))
    counts = np.diff(np.round(count * np.cumsum([0, *behind]) / behind.sum()).astype(int))
    furthest = (FURTHEST * counts).astype(int)
    return np.concatenate(
        [
            unusual(network, depth, pool, size * np.repeat(scales, (each - far, far)), rng, within)
            for depth, (each, far) in enumerate(zip(counts, furthest, strict=True))
        ]
    )


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
    for pair in rng.permutation(len(i))[:PAIRS]:
        if sum(map(len, found)) + 4 > most:
            break
        two = [i[pair], j[pair]]
        start, back = x[rng.integers(len(x))], np.linalg.pinv(rows[two])
        way = -back @ (rows[two] @ start + bias[two])
        far = float(np.linalg.norm(way)) / max(size, 1e-300)
        if CROSSING[0] < far < CROSSING[1]:
            corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) @ back.T
            corners *= ASIDE * np.linalg.norm(way) / np.maximum(np.linalg.norm(corners, axis=1, keepdims=True), 1e-300)
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
        pool = oracle.sample(POOL if hidden < 2 else POOL_DEEP, rng)
        groups.append(oracle.nearest(unusual_everywhere(network, odd, pool, rng, oracle.within)))
    return [*groups, oracle.nearest(crossed)] if len(crossed) else groups
