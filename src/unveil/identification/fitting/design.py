"""settle: all weights of a nearly right network to the last digits, with fresh answers where they tell most."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Ask
from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.fitting.least_squares import jacobian, parameters
from unveil.identification.fitting.output_layer import Asked
from unveil.whitebox.network import Layer, Network

LARGE = 1500  # parameters up to which all are fitted together
# How close, relative to the size of its input, a neuron is to switching at points that are left out.
SWITCH_DISTANCE = 1e-6
FIT_POINTS_PER_PARAMETER = 3  # answers per parameter in the fit
UNSETTLED_ROUNDINGS = 1e4  # answers predicted worse than this many times the rounding are asked for
HEAD = 64  # rows of a pool that are brought up to date together
FRESH_ANSWERS_AT_ONCE, FRESH_ANSWER_ROUNDS = 30, 3  # fresh answers asked for at once, and how often
# Points around one lie up to so far towards others, as powers of ten of the way there; steps of the fit to them.
AROUND, AROUND_FIT_STEPS = (-2.0, 0.0), 4


def finish(
    asked: Asked, network: Network, size: float, pool: Float[np.ndarray, "M n"], rng: np.random.Generator
) -> Network:
    """All weights of a nearly right network to the last digits; those behind the first layer where that is large.

    `network`: nearly right. `pool`: where its answers should be right. Queries: at most 90 where all parameters move,
    about 3 per parameter behind a large first layer.
    """
    if parameters(network) <= LARGE:
        return settle(asked, network, asked.near(6 * size), pool, rng)
    first = network.layers[0]
    behind = parameters(network) - first.weights.size - first.bias.size
    if len(network.layers) < 3 or behind > 2 * LARGE:
        return network
    count = (3 if network.m == 1 else 2) * behind // network.m
    oracle = asked.oracle
    x = oracle.sample(count, rng)
    if oracle.within is None:
        x[::2] *= 3  # neurons that are rarely active near the origin
    x = oracle.nearest(both_sides(network, x, first=1))
    return fitted(network, x, asked(x), first=1, steps=1)


def finish_around(asked: Asked, network: Network, wrong: Float[np.ndarray, "W n"], rng: np.random.Generator) -> Network:
    """The weights, or those behind a large first layer, with answers from around points where a network is off.

    What only few inputs feel is told by answers of such inputs alone. `network`: nearly right. `wrong`: one point at
    least. Queries: about 3 per parameter that moves, 0 where these are too many
    """
    first = int(parameters(network) > LARGE)
    if len(network.layers) < 2 + first or parameters(Network(network.layers[first:])) > 2 * LARGE:
        return network
    x = asked.oracle.nearest(around(network, asked.oracle, wrong, rng))
    return fitted(network, x, asked(x), first=first, steps=AROUND_FIT_STEPS)


def around(
    network: Network, oracle: Oracle, wrong: Float[np.ndarray, "W n"], rng: np.random.Generator
) -> Float[np.ndarray, "N n"]:
    """Points on the way from usual inputs to those where a network is off: 3 per parameter, or of a large network per
    parameter behind the first layer."""
    behind = parameters(Network(network.layers[int(parameters(network) > LARGE) :]))
    other = oracle.sample(FIT_POINTS_PER_PARAMETER * behind // network.m, rng)
    near = wrong[rng.integers(len(wrong), size=len(other))]
    return np.asarray(near + 10 ** rng.uniform(*AROUND, (len(other), 1)) * (other - near))


def settle(
    ask: Ask,
    network: Network,
    told: tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]],
    pool: Float[np.ndarray, "M n"],
    rng: np.random.Generator,
) -> Network:
    """All weights to the last digits, with answers of the pool where those at hand do not settle them.

    A weight between two neurons that are hardly ever active together is settled by no usual answer. Queries: at most
    90, none where the answers at hand settle every answer of the pool.
    """
    x, y = told
    clear = _clear(network, x)
    if not clear.any():
        # A row of zeros is everywhere on its hyperplane: the check will say what such a network is worth.
        return network
    x, y = x[clear], y[clear]
    chosen = _spread(network, x, FIT_POINTS_PER_PARAMETER * parameters(network) // network.m, rng)
    x, y = x[chosen], y[chosen]
    for _ in range(FRESH_ANSWER_ROUNDS):
        network = fitted(network, x, y)
        more = telling(
            _slopes(network, x, 0), jacobian(network, pool).sum(axis=1), FRESH_ANSWERS_AT_ONCE, UNSETTLED_ROUNDINGS
        )
        if not len(more):
            break
        x, y = np.concatenate([x, pool[more]]), np.concatenate([y, ask(pool[more])])
        network = fitted(network, x, y)
    return network


def telling(
    known: Float[np.ndarray, "N q"], pool: Float[np.ndarray, "M q"], count: int, enough: float
) -> Int[np.ndarray, " chosen"]:
    """Rows of a pool whose answers would tell most about a linear fit, one after the other.

    `known`: what the answers known are sums of. `pool`: the same for the points to choose from. `enough`: it stops
    where every answer of the pool follows from the others to within this many times their errors.
    """
    scale = np.maximum(np.linalg.norm(known, axis=0), 1e-12 * np.linalg.norm(known))
    _, s, vt = np.linalg.svd(np.linalg.qr(known / scale, mode="r"))
    s = np.append(s, np.zeros(len(vt) - len(s)))
    # Directions that no answer depends on (the scale of a neuron) stay out through the floor of rounding.
    G = (pool / scale) @ (vt.T / np.maximum(s, 1e-12 * s[0]))
    return most_telling(G, count, enough)


def _clear(network: Network, x: Float[np.ndarray, "N n"]) -> Bool[np.ndarray, " N"]:
    """Points with a linear piece around them: on a hyperplane, where many lie, it is open which weights count."""
    h, clear = x, np.ones(len(x), dtype=bool)
    for layer in network.layers[:-1]:
        z = layer.affine(h)
        size = np.linalg.norm(layer.weights, axis=1) * (1 + np.linalg.norm(h, axis=1, keepdims=True))
        clear &= (np.abs(z) > SWITCH_DISTANCE * size).all(axis=1)
        h = np.maximum(z, 0)
    return clear


def _spread(
    network: Network, x: Float[np.ndarray, "N n"], most: int, rng: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """Points from all linear pieces: in each, no more than settle an affine function."""
    order = rng.permutation(len(x))
    packed = np.packbits(np.concatenate(network.preactivations(x, -2), axis=1)[order] > 0, axis=1)
    _, piece = np.unique(packed, axis=0, return_inverse=True)
    by_piece = np.argsort(piece.reshape(-1), kind="stable")
    sorted_piece = piece.reshape(-1)[by_piece]
    rank = np.arange(len(x)) - np.searchsorted(sorted_piece, sorted_piece)
    # The first of every piece, then the second of every piece, ...
    first = by_piece[np.argsort(rank, kind="stable")]
    first = first[np.sort(rank) <= x.shape[1]]
    return np.asarray(order[first[:most]])


def most_telling(G: Float[np.ndarray, "M q"], count: int, enough: float) -> Int[np.ndarray, " chosen"]:
    """Which answers would tell most about a linear fit, one after the other.

    `G`: what they are sums of, in units in which what is known is known equally well. `enough`: it stops where every
    answer follows from the others to within this many times their errors.
    """
    G = G.copy()
    left = np.einsum("ij,ij->i", G, G)
    # What an answer tells only falls with others chosen: a row is brought up to date when it stands at the head.
    chosen: list[int] = []
    behind = np.zeros(len(G), dtype=int)
    while len(chosen) < min(count, len(G)):
        best = int(left.argmax())
        if left[best] <= 0 or left[best] < enough**2:
            break
        if behind[best] == len(chosen):
            chosen.append(best)
            left[best] = 0
            continue
        late = np.flatnonzero((behind < len(chosen)) & (left > 0))
        head = late[np.argsort(-left[late])[:HEAD]]
        for place in range(int(behind[head].min()), len(chosen)):
            rows, g = head[behind[head] <= place], G[chosen[place]]
            size = float(g @ g)
            G[rows] -= np.outer(G[rows] @ g, g) * ((1 - 1 / np.sqrt(1 + size)) / size)
        behind[head] = len(chosen)
        left[head] = np.einsum("ij,ij->i", G[head], G[head])
    return np.array(chosen, dtype=int)


def _slopes(network: Network, x: Float[np.ndarray, "N n"], first: int) -> Float[np.ndarray, "Nm P"]:
    J = jacobian(network, x, range(first, len(network.layers)))
    return J.reshape(-1, J.shape[2])


def fitted(
    network: Network, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"], *, first: int = 0, steps: int = 12
) -> Network:
    """Least squares on the layers from `first` on, by full steps: no point changes its linear piece on the way.

    What these points hardly determine (the scale of a neuron, neurons that are rarely active) stays as it is.
    `network`: so nearly right that all signs are. `first`: the first layer that moves. Returns the best network met.
    """
    error = (y - network(x)).ravel()
    floor = np.finfo(np.float64).eps * max(float(np.abs(y).max()), 1e-300)
    factors, fresh = None, False
    for _ in range(steps):
        wrong = float(np.sqrt((error @ error) / error.size))
        if wrong < 2 * floor:
            break
        if factors is None:
            factors, fresh = _factors(_slopes(network, x, first)), True
        # What rounding says more about than the errors do stays as it is; more of it where a step does not help.
        known = float(np.clip(0.01 * floor / wrong, 1e-13, 1e-6))
        best, least = network, error
        for share in (known, 1e3 * known, 1e-6 + 1e3 * known):
            trial = _moved(network, _solution(factors, error, share), first)
            after = (y - trial(x)).ravel()
            if after @ after < least @ least:
                best, least = trial, after
            if least @ least < 0.01 * (error @ error):
                break
        if least @ least < 0.9 * (error @ error):
            network, error, fresh = best, least, False
        elif fresh:
            break
        else:
            # So near the slopes hardly change, but a step that does not help is worth new ones.
            factors = None
    return network


Factors = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _factors(J: Float[np.ndarray, "q P"]) -> Factors:
    """Scale, two orthogonal factors, R and order of the columns, by pivoting."""
    size = np.linalg.norm(J, axis=0)
    scale = np.maximum(size, 1e-12 * size.max())
    # Pivoting is slow (half of it is not done in blocks): it is left to the small triangle.
    outer, triangle = linalg.qr(J / scale, mode="economic", overwrite_a=True, check_finite=False)
    inner, R, order = linalg.qr(triangle, mode="economic", pivoting=True, overwrite_a=True, check_finite=False)
    return scale, outer, inner, R, order


def _solution(factors: Factors, error: Float[np.ndarray, " q"], share: float) -> Float[np.ndarray, " P"]:
    """Least squares in the leading columns; the others hardly add anything to these."""
    scale, outer, inner, R, order = factors
    diagonal = np.abs(R.diagonal())
    rank = max(1, int((diagonal > share * diagonal[0]).sum()))
    step = np.zeros(len(scale))
    step[order[:rank]] = linalg.solve_triangular(R[:rank, :rank], inner[:, :rank].T @ (outer.T @ error))
    return np.asarray(step / scale)


def _moved(network: Network, step: Float[np.ndarray, " P"], first: int) -> Network:
    layers, begin = list(network.layers), 0
    for depth in range(first, len(layers)):
        layer = layers[depth]
        rows, columns = layer.weights.shape
        block = step[begin : begin + rows * (columns + 1)].reshape(rows, columns + 1)
        begin += block.size
        layers[depth] = Layer(layer.weights + block[:, :-1], layer.bias + block[:, -1], layer.activation)
    return Network(tuple(layers))
