"""with_rare: neurons of the last hidden layer that hardly any input switches, from the answers the others get wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.blackbox.line import unit_rows
from unveil.identification.fitting.matrix_free import DAMPING, fit
from unveil.identification.fitting.output_layer import AffineMap, after
from unveil.whitebox.network import Network

# Points that are asked, legal ones, and what was answered.
Ask = Callable[[Float[np.ndarray, "N n"]], tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]]

# Answers are wrong where they are off by so many times what is usual, and few as long as they are at most this share.
WRONG_ERROR_RATIO, FEW_WRONG_SHARE = 30.0, 0.2
# Wrong answers per weight of a neuron: at least, and with those asked about beside the others.
LEAST_WRONG_PER_WEIGHT, ASKED_PER_WEIGHT = 0.5, 4.0
BESIDE_WRONG_DEVIATIONS = (0.1, 0.3, 1.0)  # how far beside: deviations relative to an input's own
ENDS = 0.01  # share of the answers' deviation that an output layer behind coarse rows leaves of most of them at most
# The same of a layer that is taken for the last: what is further off is no start for a fit of all weights.
LAST_LAYER_MISFIT = 1e-3
# Steps of reweighting, and what they change of all errors when they end.
REWEIGHTING_STEPS, REWEIGHTING_CHANGE = 30, 1e-6
# How many fewer answers are wrong with a neuron that is put in, per weight of it; places in a row that may show none.
RIGHTED_PER_WEIGHT, BARREN_PLACES = 1.0, 4
TWINS = 0.99  # cosine from which on it is one read before, inexactly
SHARPER = 20  # steps of a fit that sharpens what was put in


def with_rare(
    layers: list[AffineMap],
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    ask: Ask,
    rng: np.random.Generator,
) -> list[AffineMap]:
    """Put into the last layer what is missing there; the same list where that is nothing.

    A network that lacks a rare neuron is right at most inputs: an output layer that most answers suit leaves over what
    that neuron does, which is linear in the values of the layer before wherever it is active. More answers are asked
    beside one that is wrong, a line through those near it is laid by least absolute deviations, and the neuron stays if
    more answers are right with it than it has weights. Queries: `ASKED_PER_WEIGHT (d + 1)` per place where a neuron is
    looked for, for d in the layer before; at most `BARREN_PLACES` such places per neuron of the layer.
    """
    count, (given, d), barren = len(x), layers[-1][0].shape, 0
    for _ in range(BARREN_PLACES * given):
        off = np.abs(left_of_most(layers, x, y)).max(axis=1)
        least = WRONG_ERROR_RATIO * float(np.median(off))
        wrong = np.flatnonzero(off > least)
        if (
            barren == BARREN_PLACES
            or len(wrong) < LEAST_WRONG_PER_WEIGHT * (d + 1)
            or (wrong < count).sum() > FEW_WRONG_SHARE * count
        ):
            break
        start = x[rng.choice(wrong)]
        size = rng.choice(BESIDE_WRONG_DEVIATIONS, (int(ASKED_PER_WEIGHT * (d + 1)), 1)) * start.std()
        beside, answers = ask(start + size * rng.standard_normal((len(size), len(start))))
        near = np.arange(len(x), len(x) + len(beside))
        x, y = np.concatenate([x, beside]), np.concatenate([y, answers])
        left = left_of_most(layers, x, y)
        neuron = _neuron(after(layers[:-1], x), left, near, least)
        rows, bias, barren = *layers[-1], barren + 1
        if neuron is None or (np.abs(unit_rows(rows) @ neuron[0]) > TWINS).any():
            continue
        more = [*layers[:-1], (np.concatenate([rows, neuron[0][None]]), np.append(bias, neuron[1]))]
        if _wrong(left, least) - _wrong(left_of_most(more, x, y), least) > RIGHTED_PER_WEIGHT * (d + 1):
            layers, barren = _settled(more, given, x, y, least), 0
    return layers


def last_layer(
    before: list[AffineMap],
    rows: AffineMap,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    ask: Ask,
    rng: np.random.Generator,
) -> AffineMap | None:
    """The last hidden layer from most of its neurons, up to sign: with those that few inputs switch, on their sides.

    At most inputs a neuron that is missing is off, or always on: then it is a linear part in the values of the layer
    before. These are never negative, so that as neurons of the layer itself they are such a part. `rows`: some may be
    false. None where an output layer behind them does not suit most answers. Queries: those of `with_rare`.
    """
    d = len(before[-1][1])
    wide = np.concatenate([np.eye(d), rows[0]]), np.append(np.zeros(d), rows[1])
    if not suits_most(left_of_most([*before, wide], x, y), y):
        return None
    known = [(x, y)]

    def asked(points: Float[np.ndarray, "N n"]) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
        told = ask(points)
        known[0] = np.concatenate([known[0][0], told[0]]), np.concatenate([known[0][1], told[1]])
        return told

    found = with_rare([*before, wide], x, y, asked, rng)[-1]
    x, y = known[0]
    layer = sides_suiting_most(before, (found[0][d:], found[1][d:]), x, y)
    if suits_most(left_of_most([*before, layer], x, y), y, LAST_LAYER_MISFIT):
        return layer
    # Of what was put in a few answers told the row; where it is always on all of them do.
    network = Network.from_weights([layer, output_suiting_most([*before, layer], x, y)])
    network = fit(network, after(before, x), y, steps=SHARPER, damping=DAMPING).network
    layer = network.layers[0].dense(), network.layers[0].bias
    return layer if suits_most(left_of_most([*before, layer], x, y), y, LAST_LAYER_MISFIT) else None


def output_suiting_most(layers: list[AffineMap], x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]) -> AffineMap:
    """An output layer behind these hidden ones, by least absolute deviations."""
    out = suiting_most(np.concatenate([after(layers, x), np.ones((len(x), 1))], axis=1), y)
    return out[:-1].T, out[-1]


def suits_most(left: Float[np.ndarray, "N m"], y: Float[np.ndarray, "N m"], most: float = ENDS) -> bool:
    """Whether what an output layer leaves of answers is small for most of them, and large for few.

    Where a rare neuron is missing from the last hidden layer most answers know nothing of it, and the others are off.
    `most`: share of their deviation that is small.
    """
    off = np.abs(left).max(axis=1)
    median = float(np.median(off))
    return bool(
        median <= most * float((y - y.mean(axis=0)).std())
        and (off > WRONG_ERROR_RATIO * median).mean() <= FEW_WRONG_SHARE
    )


def sides_suiting_most(
    layers: list[AffineMap], rows: AffineMap, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]
) -> AffineMap:
    """Rows and biases of neurons behind these layers, turned to the sides on which most answers need them. What both
    sides of all of them send on is unique as long as there are no more of them than inputs to them; of more those stay
    at whose hyperplanes answers bend most."""
    z = after(layers, x) @ rows[0].T + rows[1]
    F = np.concatenate([np.maximum(z, 0), np.maximum(-z, 0), np.ones((len(x), 1))], axis=1)
    up, down = np.split(suiting_most(F, y)[:-1], 2)
    if len(up) > rows[0].shape[1]:
        bend = np.linalg.norm(up + down, axis=1) * np.abs(z).max(axis=0)
        most = np.sort(np.argsort(-bend, kind="stable")[: rows[0].shape[1]])
        return sides_suiting_most(layers, (rows[0][most], rows[1][most]), x, y)
    side = np.where(np.linalg.norm(up, axis=1) >= np.linalg.norm(down, axis=1), 1.0, -1.0)
    return rows[0] * side[:, None], rows[1] * side


def left_of_most(
    layers: list[AffineMap], x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]
) -> Float[np.ndarray, "N m"]:
    """What the output layer that suits most answers leaves of them."""
    weights, bias = output_suiting_most(layers, x, y)
    return np.asarray(y - after(layers, x) @ weights.T - bias)


def suiting_most(F: Float[np.ndarray, "N q"], y: Float[np.ndarray, "N m"]) -> Float[np.ndarray, "q m"]:
    """Coefficients of least absolute deviations, by least squares that are weighted anew."""
    weight = np.ones(len(F))
    scale, off = max(float(np.abs(y).max()), 1e-300), np.linalg.norm(y, axis=1)
    for _ in range(REWEIGHTING_STEPS):
        root = np.sqrt(weight)[:, None]
        # (`gelsy` takes a third of the time of a singular value decomposition.)
        out = linalg.lstsq(root * F, root * y, lapack_driver="gelsy", check_finite=False)[0]
        before, off = off, np.linalg.norm(y - F @ out, axis=1)
        if np.abs(off - before).sum() <= REWEIGHTING_CHANGE * off.sum():
            break
        weight = 1 / np.maximum(off, 1e-9 * scale)
        weight /= weight.max()
    return np.asarray(out)


def _settled(
    layers: list[AffineMap], given: int, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], least: float
) -> list[AffineMap]:
    """With those put in behind the first `given` rows of the last layer read again, the others known by now, or left
    out where these do as well without."""
    h, rows, bias = after(layers[:-1], x), *layers[-1]
    now = _wrong(left_of_most(layers, x, y), least)
    for i in range(given, len(bias)):
        others = np.arange(len(bias)) != i
        fewer = [*layers[:-1], (rows[others], bias[others])]
        left = left_of_most(fewer, x, y)
        if _wrong(left, least) < now + RIGHTED_PER_WEIGHT * (rows.shape[1] + 1):
            return _settled(fewer, given, x, y, least)
        neuron = _neuron(h, left, np.flatnonzero(h @ rows[i] + bias[i] > 0), least)
        if neuron is not None:
            again = [*layers[:-1], (np.array(rows), np.array(bias))]
            again[-1][0][i], again[-1][1][i] = neuron
            then = _wrong(left_of_most(again, x, y), least)
            if then < now:
                layers, now, (rows, bias) = again, then, again[-1]
    return layers


def _wrong(left: Float[np.ndarray, "N m"], least: float) -> int:
    """How many answers are wrong by what an output layer leaves of them."""
    return int((np.abs(left) > least).any(axis=1).sum())


def _neuron(
    h: Float[np.ndarray, "N d"], left: Float[np.ndarray, "N m"], near: Int[np.ndarray, " A"], wrong: float
) -> tuple[Float[np.ndarray, " d"], float] | None:
    """Unit weights and bias of one neuron that what is left over shows where it is active; None if there is none.

    It begins at those of the points near one another, `near`, that are wrong, and takes in all that it makes smaller.
    """
    bad = near[np.abs(left[near]).max(axis=1) > wrong]
    if not len(bad):
        return None
    output = np.linalg.svd(left[bad], full_matrices=False)[2][0]
    part = left @ output
    part = part * np.sign(np.median(part[bad]))
    F = np.concatenate([h, np.ones((len(h), 1))], axis=1)
    active = bad[part[bad] > wrong]
    theta = np.zeros(F.shape[1])
    for _ in range(REWEIGHTING_STEPS):
        if active.size < LEAST_WRONG_PER_WEIGHT * F.shape[1]:
            return None
        theta = suiting_most(F[active], part[active, None])[:, 0]
        now = np.flatnonzero((F @ theta > 0) & (np.abs(part - F @ theta) < np.abs(part) + wrong))
        if np.array_equal(now, active):
            break
        active = now
    size = float(np.linalg.norm(theta[:-1]))
    return (theta[:-1] / size, float(theta[-1]) / size) if size > 0 else None
