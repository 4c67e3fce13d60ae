"""The second hidden layer when the first is known: glue its blocks, then fit scales, shifts and output weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from unveil.blackbox.line import unit_rows
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished, polish, polish_all
from unveil.identification.fitting.output_layer import with_output
from unveil.identification.smooth.blocks import Block, FirstLayer, look_through
from unveil.identification.smooth.single_neuron import fit_shape
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer

# Steps of least squares on the second layer, and on both. Numbers multiplied by which no further width is tried: of the
# searches that found one none took more than a fiftieth of them.
OUTER_STEPS, ALL_STEPS, SEARCH_WORK = 30, 120, 3e10
_DEGREE = 7  # of the polynomials that stand for the second layer's neurons before their shape is fitted


def cover(
    oracle: Oracle, layer: FirstLayer, rank: int | None, noise: float, *, rng: np.random.Generator
) -> tuple[FirstLayer, Float[np.ndarray, "r k"], list[Block]]:
    """Look through blocks until every first-layer neuron has been in one, and glue what they show.

    `layer`: the first layer, directions exact, scales and shifts roughly. `rank`: neurons of the second layer; found in
    the first block if None. Returns the first layer with its shifts corrected, the second layer's directions (unit
    rows), and the blocks.
    """
    k, n = layer.weights.shape
    size = block_size(k, n, rank)
    order = rng.permutation(k)
    members = order[:size]
    blocks = [_look(oracle, layer, members, rank, noise, rng)]
    rank = len(blocks[0].directions)
    known = set(members.tolist())
    while len(known) < k:
        fresh = [i for i in order if i not in known][: max(1, size - max(rank // 2 + 2, size // 2))]
        old = rng.permutation(sorted(known))[: size - len(fresh)]
        members = np.concatenate([np.array(fresh, dtype=int), old])
        blocks.append(_look(oracle, layer, members, rank, noise, rng))
        known |= set(members.tolist())
    places: list[list[float]] = [[] for _ in range(k)]
    for block in blocks:
        for i, z in zip(block.members, base_points(block.curvatures, layer.activation), strict=True):
            places[i].append(float(z))
    base = np.array([np.median(z) for z in places])
    shifted = FirstLayer(layer.weights, layer.shifts + base, layer.activation, layer.margin)
    slopes = layer.activation.slope(base)
    return shifted, glue(blocks, slopes), blocks


def _look(
    oracle: Oracle,
    layer: FirstLayer,
    members: Int[np.ndarray, " s"],
    rank: int | None,
    noise: float,
    rng: np.random.Generator,
) -> Block:
    """Look through a block, again with other neurons at rest if the Hessians do not agree with the directions found."""
    block = look_through(oracle, layer, members, rank, noise, rng=rng)
    for _ in range(3):
        if block.certificate > 1 - max(1e-3, 100 * noise):
            break
        again = look_through(oracle, layer, members, rank, noise, rng=rng)
        if again.certificate > block.certificate and (rank is None or len(again.directions) == rank):
            block = again
    return block


def block_size(k: int, n: int, rank: int | None) -> int:
    """How many neurons to keep active: enough to see the second layer's rank, and some left to give signs."""
    spare = 3 if min(k, n) < 12 else 4
    if k <= n:
        return max(1, min(k - spare, max(2 * (rank or k // 3) + 2, (2 * k) // 3)))
    return max(1, min(n - spare + 1, k - spare))


def base_points(curvatures: Float[np.ndarray, " s"], activation: Activation) -> Float[np.ndarray, " s"]:
    """Where `phi'' / phi'` has the given values, near 0; 0 where that says nothing."""
    z = np.linspace(-3, 3, 6001)
    ratio = activation.curvature(z) / activation.slope(z)
    centre = len(z) // 2
    falling = np.sign(ratio[centre + 1] - ratio[centre - 1]) or 1.0
    turns = np.flatnonzero(np.diff(ratio) * falling <= 0)
    low = turns[turns < centre].max(initial=-1) + 1
    high = turns[turns >= centre].min(initial=len(z) - 2)
    part = slice(low, high + 1)
    points, values = z[part], falling * ratio[part]
    inside = (falling * curvatures >= values[0]) & (falling * curvatures <= values[-1])
    return np.where(inside, np.interp(falling * curvatures, values, points), 0.0)


def glue(blocks: Sequence[Block], slopes: Float[np.ndarray, " k"]) -> Float[np.ndarray, "r k"]:
    """Join the blocks' directions along the neurons they share; rows are unit vectors, up to sign."""
    rank = len(blocks[0].directions)
    rows = np.zeros((rank, len(slopes)))
    seen = np.zeros(len(slopes), dtype=bool)
    for number, block in enumerate(blocks):
        part = block.directions / slopes[block.members]
        if number == 0:
            rows[:, block.members] = part
            seen[block.members] = True
            continue
        shared = seen[block.members]
        old, new = rows[:, block.members[shared]], part[:, shared]
        inner = old @ new.T
        likeness = np.abs(inner) / np.maximum(
            np.linalg.norm(old, axis=1)[:, None] * np.linalg.norm(new, axis=1), np.finfo(np.float64).tiny
        )
        mine, theirs = optimize.linear_sum_assignment(-likeness)
        factor = inner[mine, theirs] / np.maximum((new[theirs] ** 2).sum(axis=1), np.finfo(np.float64).tiny)
        rows[np.ix_(mine, block.members[~shared])] = (factor[:, None] * part[theirs])[:, ~shared]
        seen[block.members] = True
    return unit_rows(rows)


def search_outer(  # noqa: PLR0913 - answers and what is known of the network
    layer: FirstLayer,
    x: Float[np.ndarray, "N n"],
    answers: Float[np.ndarray, "N m"],
    activation: Activation,
    rank: int | None,
    noise: float,
    *,
    rng: np.random.Generator,
    starts: int = 6,
) -> Polished:
    """The second layer of a small network, where no block shows it: least squares from random starts.

    `layer`: the first layer, roughly. `x`: ordinary points, where neurons are active. `rank`: neurons of the second
    layer; None: as few as explain the answers, at most eight, and no more than `SEARCH_WORK` allows.
    """
    y, best, done = layer(x), None, 0.0
    enough = max(2 * noise, 1e-10 * float(np.ptp(answers)))
    for width in (rank,) if rank else range(1, 9):
        behind = width * (y.shape[1] + 1) + answers.shape[1] * (width + 1)
        both = float(behind + layer.weights.size + y.shape[1])
        # One step is the normal equations: numbers told, times the square of how many parameters move.
        done += starts * answers.size * (OUTER_STEPS * float(behind) ** 2 + ALL_STEPS * both**2)
        if best is not None and done > SEARCH_WORK:
            return best
        begun = []
        for _ in range(starts):
            rows = rng.standard_normal((width, y.shape[1])) / np.sqrt(y.shape[1])
            begun.append(with_output([Layer(rows, 0.5 * rng.standard_normal(width), activation)], y, answers))
        rough = [layer.before(fit.network) for fit in polish_all(begun, y, answers, noise=noise, steps=OUTER_STEPS)]
        fits = polish_all(rough, x, answers, noise=noise, steps=ALL_STEPS, until=enough)
        best = min([*fits] if best is None else [best, *fits], key=lambda fit: fit.rms)
        if best.rms <= enough:
            return best
    assert best is not None
    return best


def fit_outer(
    directions: Float[np.ndarray, "r k"],
    y: Float[np.ndarray, "N k"],
    answers: Float[np.ndarray, "N m"],
    activation: Activation,
    noise: float,
    *,
    steps: int = 200,
) -> Polished:
    """Scales, shifts and output weights of neurons whose directions are known, then least squares on all of them.

    Each neuron is first a polynomial of its own coordinate (linear least squares, no starting point), then the
    activation that fits the polynomial best, then all are polished together, directions included. `steps`: of the last
    least squares, at most. Returns a network of two layers, neurons and affine output, and its misfit.
    """
    along = y @ directions.T
    centre, width = along.mean(axis=0), along.std(axis=0) * 2
    s = (along - centre) / width
    degree = min(_DEGREE, max(2, (len(y) // 2 - 1) // len(directions)))
    powers = np.polynomial.chebyshev.chebvander(s, degree)[..., 1:]  # (N, r, degree)
    design = np.concatenate([np.ones((len(y), 1)), powers.reshape(len(y), -1)], axis=1)
    coefficients = np.linalg.lstsq(design, answers, rcond=1e-10)[0][1:].reshape(len(directions), degree, -1)
    scales, shifts = np.empty(len(directions)), np.empty(len(directions))
    for i in range(len(directions)):
        # The part linear in s may be shared with other neurons if the directions are dependent; the curved part is its
        # own.
        scales[i], shifts[i] = _shape(s[:, i], powers[:, i] @ coefficients[i], activation)
    weights = directions * (scales / width)[:, None]
    bias = shifts - scales * centre / width
    return polish(with_output([Layer(weights, bias, activation)], y, answers), y, answers, noise=noise, steps=steps)


def _shape(s: Float[np.ndarray, " N"], curve: Float[np.ndarray, "N m"], activation: Activation) -> tuple[float, float]:
    """Scale and shift for which the activation, times and plus constants, comes nearest to the curve (N, m)."""
    pick = np.argsort(s, kind="stable")[:: max(1, len(s) // 200)]
    t, target = s[pick], curve[pick] - curve[pick].mean(axis=0)
    target = target / (np.abs(target).max() or 1.0)

    def columns(z: Float[np.ndarray, " s"]) -> Float[np.ndarray, "s 2"]:
        return np.column_stack([np.ones(len(z)), activation.value(z)])

    starts = itertools.product((0.5, 1.5, 4.0), (-1.0, 0.0, 1.0))
    found = fit_shape(t, target, columns, starts, most=50)
    return (found.scale, found.shift) if np.isfinite(found.cost) else (1.0, 0.0)
