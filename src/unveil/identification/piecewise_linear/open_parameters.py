"""with_switches, with_weights, unknown_weights: biases and weights that no answer told: where they would matter."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.affine_part import OPPOSITE, opposite_rows
from unveil.identification.piecewise_linear.roomy_places import least, together
from unveil.whitebox.network import Layer, Network

# How far out is looked, in typical inputs, and what shares of it are asked about and how far beside.
SWITCH_REACH, SWITCH_SHARES, SWITCH_ASIDE = 100.0, (1.0, 0.8, 0.6, 0.4), (0.0, 1e-3, 1e-2)
# Biases that answers tell may differ by this share of what the neuron sees there; so many must agree.
SAME_BIAS_DIFFERENCE, AGREEING_BIASES = 1e-6, 2
# Most unknown weights that are looked into; how large they might be, in units of the largest known one of the neuron;
# and the share of what such a weight would change that answers may be off.
MOST_UNKNOWN_WEIGHTS, MIGHT_BE, UNCHANGED_SHARE = 10, (0.1, 1.0, 10.0), 1e-6
ROUNDINGS_OFF = 1e3  # or so many times the answers' relative rounding


def with_switches(
    network: Network, oracle: Oracle, x: Float[np.ndarray, "N n"], size: float, rng: np.random.Generator
) -> tuple[Network, int]:
    """The network with the biases of neurons that are always active told where they switch after all.

    Where such a neuron is active its bias adds to the output's alone. A mixed-integer program finds where it sees
    least, for either side of its hyperplane, as both are the same where it was asked; once it is off, answers lack what
    it adds. Two opposite rows that carry what one neuron adds become that neuron where it switches. Returns how many
    biases are open still, too. Queries: 24 for each neuron that is always active, at most.
    """
    pair, left = opposite_rows(network.layers[-2], OPPOSITE), 0
    if len(pair):
        single = _single(network, int(pair[0][0]), int(pair[0][1]), x) if len(pair) == 1 else None
        if single is None:
            return network, 0
        one, open_ = with_switches(single, oracle, x, size, rng)
        return (network if open_ else one), 0
    for i in np.flatnonzero((Network(network.layers[:-1])(x) > 0).all(axis=0)).tolist():
        either = (_switched(network, i, sign, oracle, size, rng) for sign in (1.0, -1.0))
        found = next((one for one in either if one is not None), None)
        network, left = found or network, left + (found is None)
    return network, left


def with_weights(network: Network, oracle: Oracle, noise: Rounding, rng: np.random.Generator) -> Network:
    """The network with unknown weights of its last hidden layer that answers tell where its two neurons are active
    together, however rare that is: a mixed-integer program finds such places, were the weight zero or larger.

    What the neuron adds to the answer is a line through the weight there. Queries: 12 for each of these weights, at
    most.
    """
    unknown = [(i, j) for depth, i, j in _unknown(network) if depth == len(network.layers) - 2]
    most = len(SWITCH_ASIDE) * (1 + len(MIGHT_BE)) * len(unknown)
    if not noise.exact or len(unknown) > MOST_UNKNOWN_WEIGHTS or oracle.ledger.left < most:
        return network
    for i, j in unknown:
        network = _with_weight(network, i, j, oracle, noise, rng)
    return network


def _with_weight(
    network: Network, i: int, j: int, oracle: Oracle, noise: Rounding, rng: np.random.Generator
) -> Network:
    """With one of these weights, if places agree about it."""
    *before, hidden, last = network.layers
    row, bias, out = hidden.dense()[i], float(hidden.bias[i]), last.dense()[:, i]
    if not out.any():
        return network
    for times in (0.0, *MIGHT_BE):
        trial = row.copy()
        trial[j] = times * np.abs(row).max()
        layers = [(layer.dense(), layer.bias) for layer in before]
        place = together(layers, trial, bias, j, SWITCH_REACH * noise.size)[0]
        if place is None:
            continue
        beside = rng.standard_normal((len(SWITCH_ASIDE), network.n)) * np.linalg.norm(place) / np.sqrt(network.n)
        x = oracle.nearest(place + np.array(SWITCH_ASIDE)[:, None] * beside)
        h = Network(tuple(before))(x)
        sees, off = h @ row + bias, oracle(x) - network(x)
        adds = off @ out / (out @ out) + np.maximum(sees, 0)
        scale = np.abs(h) @ np.abs(trial) + abs(bias)
        allowed = SAME_BIAS_DIFFERENCE * scale
        alone = np.abs(off - np.outer(off @ out / (out @ out), out)).max(axis=1) <= allowed * np.abs(out).max()
        told = (h[:, j] > 0) & (adds > allowed) & alone
        weights = (adds - sees)[told] / h[told, j]
        middle = float(np.median(weights)) if told.any() else 0.0
        if (np.abs(weights - middle) * h[told, j] < allowed[told]).sum() < AGREEING_BIASES:
            continue
        known = hidden.dense().copy()
        known[i, j] = middle
        layer = Layer(known, hidden.bias, hidden.activation)
        return Network((*before, layer, last), network.shape, network.softmax)
    return network


def _unknown(network: Network) -> list[tuple[int, int, int]]:
    """Layer, neuron and value of each weight between hidden neurons that is exactly zero: none of these was measured,
    as what is measured has rounding."""
    return [
        (depth, int(i), int(j))
        for depth, layer in enumerate(network.layers[1:-1], 1)
        for i, j in np.argwhere(layer.dense() == 0)
    ]


def unknown_weights(network: Network, oracle: Oracle, noise: Rounding) -> tuple[list[str], bool]:
    """What there is to say of weights between hidden neurons that are unknown, and whether all are of no account.

    A mixed-integer program shows that the two neurons of such a weight are active together nowhere within
    `SWITCH_REACH` typical inputs while it is zero; a larger one makes the later neuron active at other places, of which
    those are asked where it would see most. Then any weight up to some limit answers the same, and nothing can resolve
    it. Queries: 3 for each of these weights, at most.
    """
    unknown = _unknown(network)
    if not unknown:
        return [], True
    few = len(unknown) <= MOST_UNKNOWN_WEIGHTS and oracle.ledger.left >= len(MIGHT_BE) * len(unknown)
    apart = few and all(_apart(network, *each, oracle, noise) for each in unknown)
    met = "that are active together nowhere" if apart else "never met active together"
    return [f"Weights between hidden neurons {met}: {len(unknown)}, given as 0."], apart


def _apart(network: Network, depth: int, i: int, j: int, oracle: Oracle, noise: Rounding) -> bool:
    """Whether one of these weights is of no account. What answers would not show, were it larger, is not known."""
    before = [(layer.dense(), layer.bias) for layer in network.layers[:depth]]
    layer, reach = network.layers[depth], SWITCH_REACH * noise.size
    unchanged = max(UNCHANGED_SHARE, ROUNDINGS_OFF * noise.relative)
    row, bias = layer.dense()[i], float(layer.bias[i])
    if not together(before, row, bias, j, reach)[1]:
        return False
    for times in MIGHT_BE:
        weights = layer.dense().copy()
        weights[i, j] = times * np.abs(row).max()
        x, surely = together(before, weights[i], bias, j, reach)
        if surely:
            continue
        if x is None:
            return False
        larger = Layer(weights, layer.bias, layer.activation)
        other = Network((*network.layers[:depth], larger, *network.layers[depth + 1 :]), network.shape, network.softmax)
        asked = oracle.nearest(x[None])  # in a box both may be active outside only: then nothing is told
        as_read, as_larger = network(asked), other(asked)
        if np.abs(oracle(asked) - as_read).max() >= unchanged * np.abs(as_larger - as_read).max():
            return False
    return True


def _single(network: Network, i: int, j: int, x: Float[np.ndarray, "N n"]) -> Network | None:
    """With one neuron, active at all these inputs, for two opposite ones; None where these bend between them."""
    *before, hidden, last = network.layers
    w, b, v = hidden.dense(), hidden.bias, last.dense()
    longer = float(np.linalg.norm(w[j]) / np.linalg.norm(w[i]))
    if np.abs(v[:, i] + longer * v[:, j]).max() > SAME_BIAS_DIFFERENCE * np.abs(v[:, i]).max():
        return None
    keep = np.arange(len(b)) != j
    seen = Network(tuple(before))(x) @ w[i]
    bias = b.copy()
    bias[i] = float(np.ptp(seen)) - seen.min()
    layers = (
        Layer(w[keep], bias[keep], hidden.activation),
        Layer(v[:, keep], last.bias - v[:, i] * (bias[i] - b[i]), last.activation),
    )
    return Network((*before, *layers), network.shape, network.softmax)


def _switched(
    network: Network, i: int, sign: float, oracle: Oracle, size: float, rng: np.random.Generator
) -> Network | None:
    """The network with another bias of neuron i, and its other side where `sign` is -1; None if it does not switch."""
    *before, hidden, last = network.layers
    row, bias, out = (sign * each for each in (hidden.dense()[i], hidden.bias[i], last.dense()[:, i]))
    where = least([(layer.dense(), layer.bias) for layer in before], row, SWITCH_REACH * size)
    if where is None:
        return None
    beside = rng.standard_normal((len(SWITCH_ASIDE), network.n)) * np.linalg.norm(where) / np.sqrt(network.n)
    x = np.concatenate([share * (where + np.array(SWITCH_ASIDE)[:, None] * beside) for share in SWITCH_SHARES])
    x = oracle.nearest(x)
    seen = Network(tuple(before))(x) @ row
    # As if it were active here too.
    y, told = oracle(x), network(x) + np.minimum(sign * (seen + bias), 0)[:, None] * (sign * out)
    off, allowed = y - told, SAME_BIAS_DIFFERENCE * np.abs(out).max() * np.abs(seen)
    # What it adds where it is off: -out (row h + its bias).
    bent = np.abs(off).max(axis=1) > allowed
    shift = -(off @ out) / (out @ out) - seen
    middle = float(np.median(shift[bent])) if bent.any() else 0.0
    suits = bent & (np.abs(shift - middle) < SAME_BIAS_DIFFERENCE * np.abs(seen)) & (seen + middle < 0)
    if suits.sum() < AGREEING_BIASES:
        return None
    w, b, v = hidden.dense().copy(), hidden.bias.copy(), last.dense().copy()
    w[i], b[i], v[:, i] = row, middle, out
    layers = Layer(w, b, hidden.activation), Layer(v, last.bias - out * (middle - bias), last.activation)
    found = Network((*before, *layers), network.shape, network.softmax)
    return found if (np.abs(found(x) - y).max(axis=1) <= allowed).all() else None
