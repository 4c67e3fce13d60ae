"""slimmed: a network without the neurons that it does not need to explain answers, however they came into it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.least_squares import Polished, polish
from unveil.identification.fitting.output_layer import affine_fit
from unveil.identification.fitting.pruning import with_only
from unveil.identification.fitting.robust import rms
from unveil.whitebox.network import Layer, Network

# Neurons go if without them, after fitting, the answers are explained as well up to this factor, or to so
# many times their noise.
SLIMMED_ERROR_FACTOR, JUST_AS_WELL, SLACK = 1.5, 1.2, 10.0
# Rounds of fitting after some were taken out, as long as each gains; neurons tried one by one before it ends, those
# that are missed least.
SLIMMING_ROUNDS, ONE_BY_ONE_TRIES = 6, 6
REMOVED_AT_ONCE = 0.25  # share of all neurons that are taken out at once, to begin with
# Points from which it is told how much the answers feel of a neuron; smallest eigenvalue that counts, of the largest.
EFFECT_POINTS, SMALL = 512, 1e-13

# A neuron is needed if what it alone does is so many times the error left; and if not nearly all of it can be done by
# others: a part in so many (squared) must be its own.
NEEDED, LARGEST_INFLATION = 10.0, 1e3

REDUNDANT = 1e7  # condition of a fit from which some parameters are not determined by the answers
FAINTLY_HEARD_SHARE = 1e-6  # share of what the most heard neuron of a layer sends on below which one is tried without
SQUARABLE_SIZE = 1e150  # numbers whose squares are still numbers
UNCERTAIN = 0.1  # standard error of a parameter from which a neuron may be there for the noise alone

Fit = Callable[[Network], Network]
Holds = Callable[[Network], bool]
Counts = Float[np.ndarray, "N m"] | float


def slimmed(  # noqa: PLR0913 - what is fitted, to what, and how well
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    floor: float,
    fit: Fit,
    as_well: float = SLIMMED_ERROR_FACTOR,
    counts: Counts = 1.0,
    holds: Holds = lambda _: True,
) -> Network:
    """Take neurons out as long as the others explain the answers as well.

    A layer goes first if the one behind it can take its part from the one before. Then neurons go in the order in which
    they are missed least if those that stay take over what they can, many at once, fewer where that fails. Everything
    is fitted again each time. `network`: explains the answers nearly to their noise. `floor`: deviation of the answers'
    errors, absolute. `as_well`: by what factor errors may grow. `counts`: what each error is multiplied by: less where
    answers are less precise. `holds`: what else must be true of a smaller one. Queries: `0`; the answers are given.
    Source: over-wide students whose neurons are joined: Martinelli, Simsek, Gerstner, Brea, ICML 2024
    (arXiv:2304.12794); the order is that of the optimal brain surgeon (Hassibi, Stork, NIPS 1992), layer by layer.
    """
    told = x, y, counts
    enough = max(as_well * rms(network, *told), SLACK * floor)
    depth = len(network.layers) - 2
    while depth > 0:
        trial = _fitted_well(_shallower(network, depth, x), told, enough, fit, holds)
        network, depth = network if trial is None else trial, depth - 1
    count = max(1, int(REMOVED_AT_ONCE * sum(network.widths[:-1])))
    # Which neurons of the network as it is now each layer has; those that were missed are not tried again.
    stay, needed = [np.arange(layer.neurons) for layer in network.layers[:-1]], set[tuple[int, int]]()
    while _bounded(network, x):
        order = _order(network, x)
        free = [(depth, neuron) for depth, neuron in order if (depth, int(stay[depth][neuron])) not in needed]
        if not set(free) & set(order[:ONE_BY_ONE_TRIES]):
            return network
        gone = free[:count]
        trial = _fitted_well(_without(network, gone, x), told, enough, fit, holds)
        if trial is not None:
            network, count = trial, max(1, min(2 * count, len(order) // 2))
            stay = [np.delete(each, [n for d, n in gone if d == depth]) for depth, each in enumerate(stay)]
        elif count > 1:
            count = max(1, count // 4)
        else:
            needed |= {(depth, int(stay[depth][neuron])) for depth, neuron in gone}
    return network


def without_surplus(
    fit: Polished, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], noise: float, weight: Counts = 1.0
) -> Polished:
    """Take out hidden neurons as long as the rest explains the answers as well.

    Two neurons that share the work of one, or one that follows the noise, show in parameters that the answers do not
    determine, or in one that sends hardly anything on; nothing is tried where all are determined and every neuron is
    heard, or where the network does not explain the answers anyway.
    `weight`: what each answer counts for, as in the fit. Returns the fit of the smallest network met whose `rms` is not
    larger, up to a fifth, or below noise and rounding.
    """
    size = float(np.abs(y).max())
    sure = fit.condition < REDUNDANT and fit.uncertainty <= UNCERTAIN
    if (sure and not _hardly_heard(fit.network, x)) or fit.rms > max(5 * noise, 1e-9 * size):
        return fit

    def again(network: Network) -> Network:
        return polish(network, x, y, noise=0.3 * noise, steps=60, weight=weight).network

    floor = max(noise, 4 * float(np.finfo(np.float64).eps) * size)
    smaller = slimmed(fit.network, x, y, floor / SLACK, again, JUST_AS_WELL, weight)
    if smaller.widths == fit.network.widths:
        return fit
    return polish(smaller, x, y, noise=0.3 * noise, steps=60, weight=weight)


def _bounded(network: Network, x: Float[np.ndarray, "N n"]) -> bool:
    """Whether what neurons see has squares that are numbers: of a fit that exploded nothing is taken out."""
    return all(bool((np.abs(z) < SQUARABLE_SIZE).all()) for z in network.preactivations(x))


def _hardly_heard(network: Network, x: Float[np.ndarray, "N n"]) -> bool:
    """Whether some hidden neuron sends on next to nothing beside the others of its layer."""
    for depth in range(len(network.layers) - 1):
        h = Network(network.layers[: depth + 1])(x)
        sent = h.std(axis=0) * np.linalg.norm(network.layers[depth + 1].dense(), axis=0)
        if (sent < FAINTLY_HEARD_SHARE * sent.max(initial=0.0)).any():
            return True
    return False


def all_needed(
    network: Network, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], counts: Counts = 1.0
) -> bool:
    """Whether no hidden neuron could be another's work: each does more than the error left, and nothing else can do it.

    What a neuron passes on is compared with everything that the other neurons of its layer, and the layer's inputs, can
    do in a sum: two neurons with the same hyperplane, on the same side or on opposite ones, do not pass. `x`: where was
    asked: several times as many as there are neurons in a layer and inputs to it. `counts`: as of `slimmed`.
    """
    if not _bounded(network, x):
        return False
    error = rms(network, x, y, counts)
    for depth in range(len(network.layers) - 1):
        before = Network(network.layers[:depth])(x) if depth else x
        h = network.layers[depth](before)
        design = np.concatenate([before, np.ones((len(x), 1))], axis=1)
        q = np.linalg.qr(design / np.maximum(np.linalg.norm(design, axis=0), 1e-300))[0]
        own = h - q @ (q.T @ h)
        size = np.sqrt((own**2).mean(axis=0))
        size = np.maximum(size, max(SMALL * float(size.max()), 1e-300))
        gram = (own / size).T @ (own / size) / len(x)
        values, vectors = np.linalg.eigh(gram)
        inverse = (vectors**2 / np.maximum(values, SMALL * values[-1])).sum(axis=1)
        felt = _felt(network, depth + 1, x[:EFFECT_POINTS])
        sent = np.linalg.norm(network.layers[depth + 1].dense() * felt[:, None], axis=0)
        if (sent * size / np.sqrt(inverse) < NEEDED * error).any() or (inverse > LARGEST_INFLATION).any():
            return False
    return True


def _fitted_well(
    network: Network,
    told: tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"], Counts],
    enough: float,
    fit: Fit,
    holds: Holds,
) -> Network | None:
    """The network after fitting, if it explains the answers well enough."""
    for _ in range(SLIMMING_ROUNDS):
        before = rms(network, *told)
        if before <= enough and holds(network):
            return network
        network = fit(network)
        if rms(network, *told) > 0.7 * before:
            break
    return network if rms(network, *told) <= enough and holds(network) else None


def _order(network: Network, x: Float[np.ndarray, "N n"]) -> list[tuple[int, int]]:
    """All hidden neurons but one per layer, as (layer, neuron), those that are missed least first."""
    found: list[tuple[float, int, int]] = []
    for depth in range(len(network.layers) - 1):
        h = Network(network.layers[: depth + 1])(x)
        felt = _felt(network, depth + 1, x[:EFFECT_POINTS])
        missed = _missed(network.layers[depth + 1].dense() * felt[:, None], h)
        worst = 0.0
        for neuron, much in missed:
            # One that is missed less once others have gone goes after these.
            worst = max(worst, much)
            found.append((worst, depth, neuron))
    found.sort(key=lambda each: each[0])
    return [(depth, neuron) for _, depth, neuron in found]


def _missed(w: Float[np.ndarray, "o k"], h: Float[np.ndarray, "N k"]) -> list[tuple[int, float]]:
    """Neurons in the order in which they go, and how much what is sent on changes if the others take over."""
    centred = h - h.mean(axis=0)
    size = centred.std(axis=0)
    size = np.maximum(size, max(SMALL * float(size.max()), 1e-300))
    values, vectors = np.linalg.eigh((centred / size).T @ (centred / size) / len(h))
    inverse = (vectors / np.maximum(values, SMALL * values[-1])) @ vectors.T
    w, left, out = w * size, np.ones(len(inverse), dtype=bool), []
    for _ in range(len(left) - 1):
        much = np.where(left, (w**2).sum(axis=0) / np.maximum(np.diag(inverse), 1e-300), np.inf)
        i = int(much.argmin())
        out.append((i, float(np.sqrt(much[i]))))
        part = inverse[:, i] / inverse[i, i]
        w = w - np.outer(w[:, i], part)
        inverse = inverse - np.outer(part, inverse[i])
        left[i] = False
    return out


def _felt(network: Network, depth: int, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " k"]:
    """Root mean square slope of the answers by the preactivations of a layer."""
    sums = network.preactivations(x)
    back = np.broadcast_to(np.eye(network.m), (len(x), network.m, network.m))
    for level in range(len(network.layers) - 1, depth, -1):
        slope = network.layers[level - 1].activation.slope(sums[level - 1])
        back = (back @ network.layers[level].dense()) * slope[:, None, :]
    return np.asarray(np.sqrt((back**2).sum(axis=1).mean(axis=0)))


def _shallower(network: Network, depth: int, x: Float[np.ndarray, "N n"]) -> Network:
    """Without a hidden layer: the next one takes what it can from the layer before."""
    before, sums = Network(network.layers[:depth])(x), network.preactivations(x)[depth + 1]
    after = Layer(*affine_fit(before, sums, 1e-10), network.layers[depth + 1].activation)
    return Network((*network.layers[:depth], after, *network.layers[depth + 2 :]), network.shape)


def _without(network: Network, gone: list[tuple[int, int]], x: Float[np.ndarray, "N n"]) -> Network:
    """Without these neurons; those that stay in a layer take over what they can of what it sends on."""
    for depth in sorted({depth for depth, _ in gone}):
        here, after = network.layers[depth : depth + 2]
        out: Bool[np.ndarray, " k"] = np.zeros(here.neurons, dtype=bool)
        out[[neuron for level, neuron in gone if level == depth]] = True
        h = Network(network.layers[: depth + 1])(x)
        part, rest = affine_fit(h[:, ~out], h[:, out], 1e-10)
        w = after.dense()
        behind = Layer(w[:, ~out] + w[:, out] @ part, after.bias + w[:, out] @ rest, after.activation)
        network = with_only(network, depth, ~out, behind)
    return network
