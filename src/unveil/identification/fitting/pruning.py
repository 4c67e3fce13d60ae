"""Surplus neurons: a network that fits as well with fewer of them is the smaller one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.whitebox.network import Layer, Network

# Chi squared, per parameter of its own, that a neuron without effect explains of noise (known to a factor of two).
_CHANCE = 4.0
# Unit rows, biases included, that differ less are one neuron's; it may leave so many times what both left.
SAME_ROW_DIFFERENCE, NEARLY_ALIKE, PRUNED_ERROR_FACTOR = 1e-6, 1e-4, 3.0
WORTH_A_LOOK = 1e-3
# A neuron of the last hidden layer is taken out on trial where its largest effect is a smaller share of the answers and
# it was active at so many points at least, which then tell whether it is needed; or where its weights are by so much
# smaller than the others'.
WEAK_NEURON_EFFECT, SEEN, FAINT_NEURON_WEIGHTS = 1e-3, 5, 1e-7
ROUGHLY = 1e-5  # a network further than this from the answers will not settle to their last digits
# A neuron that sends on less than this share of what the most heard one of its layer does sends nothing.
SILENT = 1e-12
_TRIES = 4  # neurons taken out on trial before the weakest ones left are taken to be needed


def without_idle(network: Network, x: Float[np.ndarray, "N n"], sigma: Float[np.ndarray, "N m"]) -> Network:
    """Take out hidden neurons whose effect on the answers cannot be told from their noise.

    `sigma`: standard deviations of its answers there. Returns the network without them, their mean outputs added to the
    next biases; each layer keeps one neuron at least.
    """
    for depth in range(len(network.layers) - 1):
        inside = Network(network.layers[: depth + 1])(x)
        told, each = network(x), network.layers[depth].inputs + 1 + len(network.layers[depth + 1].bias)
        for neuron in reversed(range(network.layers[depth].neurons)):
            trial = _without(network, depth, neuron, float(inside[:, neuron].mean()))
            effect = float((((trial(x) - told) / sigma) ** 2).sum())
            if effect <= _CHANCE * each and trial.layers[depth].neurons:
                network, told = trial, trial(x)
                inside = np.delete(inside, neuron, axis=1)
    return network


def _without(network: Network, depth: int, neuron: int, level: float) -> Network:
    """The network without a neuron of layer `depth`, its mean output added to the next biases."""
    keep, after = np.arange(network.layers[depth].neurons) != neuron, network.layers[depth + 1]
    w = after.dense()
    return with_only(network, depth, keep, Layer(w[:, keep], after.bias + level * w[:, neuron], after.activation))


def with_only(
    network: Network, depth: int, keep: Bool[np.ndarray, " k"] | Int[np.ndarray, " r"], after: Layer | None = None
) -> Network:
    """The network with these neurons alone in layer `depth`.

    `network`: at least one layer deeper. `depth`: of the layer. `keep`: (k,) for each neuron whether it stays, or (r,)
    which ones do. `after`: the layer behind it as it is to be; by default what it is without the others.
    """
    layers = list(network.layers)
    here, behind = layers[depth], layers[depth + 1]
    layers[depth] = Layer(here.dense()[keep], here.bias[keep], here.activation)
    layers[depth + 1] = Layer(behind.dense()[:, keep], behind.bias, behind.activation) if after is None else after
    return Network(tuple(layers), network.shape, network.softmax)


def without_silent(network: Network, error: Callable[[Network], float], fine: float) -> Network:
    """Leave out neurons before the last hidden layer that send nothing on: no answer tells of them.

    `network`: ReLU layers, the last one affine. Returns the smaller network, if it is as near to what was asked;
    otherwise the network itself.
    """
    found = network
    for depth in range(len(network.layers) - 2):
        here, after = found.layers[depth], found.layers[depth + 1]
        size = np.linalg.norm(np.concatenate([here.dense(), here.bias[:, None]], axis=1), axis=1)
        sent = np.abs(after.dense()).max(axis=0) * size
        keep = sent > SILENT * sent.max()
        if keep.any() and not keep.all():
            found = with_only(found, depth, keep)
    return found if found is network or error(found) <= max(fine, PRUNED_ERROR_FACTOR * error(network)) else network


def without_twins(
    network: Network,
    x: Float[np.ndarray, "N n"],
    error: Callable[[Network], float],
    fine: float,
    settled: Callable[[Network], Network] | None = None,
) -> Network:
    """Join neurons of the last hidden layer that are one, and leave out those that cancel or send nothing on.

    Another stays even where it changes none of the answers: it may be on where nothing was asked. `network`: ReLU
    layers, the last one affine. `settled`: all weights of the smaller network to the last digits, where the two were
    known less well than that. The smaller network counts if it is as near to what was asked.
    """
    if len(network.layers) < 2 or network.layers[-2].activation.name != "relu":
        return network
    hidden, last = network.layers[-2:]
    rows = np.concatenate([hidden.dense(), hidden.bias[:, None]], axis=1)
    size = np.linalg.norm(rows, axis=1)
    unit, outer = rows / np.maximum(size, 1e-300)[:, None], last.dense() * size
    # Products tell a distance to half the digits only: they say which pairs are worth a look.
    square = np.einsum("kn,kn->k", unit, unit)
    worth = square[:, None] + square - 2 * unit @ unit.T < WORTH_A_LOOK**2
    keep: list[int] = []
    joined: set[int] = set()
    for i in range(len(unit)):
        other = [j for j in keep if worth[i, j]]
        near = np.linalg.norm(unit[other] - unit[i], axis=1) < (
            SAME_ROW_DIFFERENCE if settled is None else NEARLY_ALIKE
        )
        same = [other[j] for j in np.flatnonzero(near)]
        if same:
            # What both do together is what their mean does, by how much of it each does.
            part = np.linalg.norm(outer[:, i]), np.linalg.norm(outer[:, same[0]])
            unit[same[0]] += part[0] / max(sum(part), 1e-300) * (unit[i] - unit[same[0]])
            outer[:, same[0]] += outer[:, i]
            joined.add(same[0])
        else:
            keep.append(i)
    sent = np.abs(outer).max(axis=0)
    keep = [i for i in keep if sent[i] > fine * sent.max()]
    if joined:
        values = np.asarray(Network(network.layers[:-1])(x)) / np.maximum(size, 1e-300)
        largest = np.abs(network(x)).max() if len(x) else 0.0
        effect = sent * np.abs(values).max(axis=0, initial=0.0)
        keep = [i for i in keep if i not in joined or effect[i] > fine * largest]
    if not keep or len(keep) == len(unit):
        return network
    layers = (
        Layer(unit[keep][:, :-1], unit[keep][:, -1], hidden.activation),
        Layer(outer[:, keep], last.bias, last.activation),
    )
    found = Network((*network.layers[:-2], *layers), network.shape, network.softmax)
    found = found if settled is None else settled(found)
    return found if error(found) <= max(fine, PRUNED_ERROR_FACTOR * error(network)) else network


def without_spare(  # noqa: PLR0913 - answers, their weight, and two judges
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    weight: Float[np.ndarray, "N 1"],
    error: Callable[[Network], float],
    settled: Callable[[Network], Network],
    fine: float,
) -> Network:
    """Leave out weak neurons of the last hidden layer without which exact answers are explained as well.

    A reading may end with a neuron that corrects another's last digits, or with two that cancel but for rounding. Once
    it is left out and the others are settled anew, answers that call for it would show an error. `network`: ReLU
    layers, the last one affine. `settled`: all weights of a nearly right network to the last digits.
    """
    if len(network.layers) < 2 or network.layers[-2].activation.name != "relu" or not len(x):
        return network
    best = error(network)
    largest = float(np.abs(y * weight).max())
    network = _without_effect(network, x, weight, float(np.finfo(np.float64).eps) * largest)
    for _ in range(network.layers[-2].neurons):
        hidden, last = network.layers[-2:]
        values = np.asarray(Network(network.layers[:-1])(x))
        effect = (np.abs(values) * weight).max(axis=0) * np.abs(last.dense()).max(axis=0)
        strength = np.linalg.norm(hidden.dense(), axis=1) * np.linalg.norm(last.dense(), axis=0)
        told = ((values > 0).sum(axis=0) >= SEEN) | (strength < FAINT_NEURON_WEIGHTS * np.median(strength))
        weak = np.flatnonzero(told & (effect < WEAK_NEURON_EFFECT * largest))
        for i in weak[np.argsort(effect[weak])][:_TRIES]:
            keep = np.delete(np.arange(hidden.neurons), i)
            F = np.concatenate([values[:, keep], np.ones((len(x), 1))], axis=1)
            out = np.linalg.lstsq(F * weight, y * weight, rcond=None)[0]
            trial = with_only(network, len(network.layers) - 2, keep, Layer(out[:-1].T, out[-1], last.activation))
            if error(trial) < ROUGHLY and error(trial := settled(trial)) <= max(fine, PRUNED_ERROR_FACTOR * best):
                network = trial
                break
        else:
            break
    return network


def _without_effect(
    network: Network, x: Float[np.ndarray, "N n"], weight: Float[np.ndarray, "N 1"], least: float
) -> Network:
    """Without neurons of the last hidden layer that move no answer by more than its last bit: nothing tells of them."""
    last = network.layers[-1]
    values = np.asarray(Network(network.layers[:-1])(x))
    keep = (np.abs(values) * weight).max(axis=0) * np.abs(last.dense()).max(axis=0) > least
    return network if keep.all() or not keep.any() else with_only(network, len(network.layers) - 2, keep)
