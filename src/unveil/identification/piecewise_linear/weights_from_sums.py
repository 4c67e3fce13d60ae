"""Unknown weights of neurons of a layer that is whole otherwise: derivatives are sums of normals, theirs among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import Moves
from unveil.identification.piecewise_linear.sightings import Sightings

# Points among which places are chosen, how many are looked at for each weight, and how many must agree.
SUM_POINT_POOL, SUM_PLACES_CONSIDERED, SUM_PLACES_MEASURED, SUM_PLACES_AGREEING = 60_000, 200, 12, 2
# How independent the normals at a place must be; a derivative is their sum up to this part of it; how far weights from
# two places may be apart, and the least share that tells one.
SUM_NORMAL_INDEPENDENCE, SUM_LEFT_SHARE, SUM_WEIGHT_DIFFERENCE, SUM_LEAST_SHARE = 1e-3, 1e-6, 1e-5, 1e-3
# A neuron with no share at so many places is not active there; how much more than enough keeps it so.
INACTIVE_PLACES, INACTIVE_WEIGHT_FACTOR = 6, 1.5


def weights_from_sums(
    sightings: Sightings,
    layers: list[AffineMap],
    found: list[Neuron],
    side: Float[np.ndarray, " K"],
    use: Bool[np.ndarray, " K"],
) -> list[Neuron]:
    """The candidates of a layer with unknown weights told by derivatives where one of them matters.

    At a place where all that is active is known but one weight of one neuron, the derivative is a sum of the active
    normals and of how that neuron's input moves: the ratio of both shares is the weight. `use`: which of them make up
    the layer. Queries: `d + 4` at `SUM_PLACES_MEASURED` places for each unknown weight.
    """
    some = [int(i) for i in np.flatnonzero(use) if not found[i].whole]
    if not some:
        return found
    rng, out = sightings.probe.rng, list(found)
    x = np.concatenate(
        [
            sightings.unusual(SUM_POINT_POOL // 2),
            sightings.usual(SUM_POINT_POOL // 2) * rng.choice([1, 3], (SUM_POINT_POOL // 2, 1)),
        ]
    )
    seen = Moves.of(layers, x)
    W, b = np.array([one.weights for one in found]), np.array([one.bias for one in found])
    z = (seen.h @ W.T + b) * side
    veiled = np.array([(seen.on & ~one.known).sum(axis=1) for one in found]).T
    for i in some:
        others = use & (np.arange(len(found)) != i)
        # As many normals and two more must be independent.
        clear = (veiled[:, others] == 0).all(axis=1) & (((z > 0) & others).sum(axis=1) + 2 <= seen.rank)
        weights, known, before = found[i].weights.copy(), found[i].known.copy(), -1
        while known.sum() > before:
            # What is told first leaves more places where only another one is unknown.
            before = int(known.sum())
            for j in np.flatnonzero(~known):
                where = np.flatnonzero(clear & seen.on[:, j] & ((seen.on & ~known).sum(axis=1) == 1))
                ahead = (seen.h[where] @ weights + b[i]) * side[i] / seen.h[where, j]
                order = np.argsort(-ahead)[:SUM_PLACES_CONSIDERED]
                where, ahead, W[i] = where[order], ahead[order], weights
                parts = [_normals(seen.move[p], W, (z[p] > 0) & others, i, int(j)) for p in where]
                good = [k for k, each in enumerate(parts) if _apart(each)][:SUM_PLACES_MEASURED]
                told, shut = _told(sightings, x[where[good]], [parts[k] for k in good])
                if shut and (ahead[good] > 0).sum() >= INACTIVE_PLACES:
                    # It is not active where this value is positive: any weight that keeps it so does.
                    told = -side[i] * INACTIVE_WEIGHT_FACTOR * float(ahead[0])
                if told is not None:
                    weights[j], known[j] = told, True
        size = float(np.linalg.norm(weights))
        out[i] = replace(found[i], weights=weights / size, bias=found[i].bias / size, known=known)
    return out


def _normals(
    move: Float[np.ndarray, "k d"], W: Float[np.ndarray, "K k"], active: Bool[np.ndarray, " K"], i: int, j: int
) -> Float[np.ndarray, "q d"]:
    """How the active neurons move, then this one as far as it is known, then what its unknown weight multiplies."""
    return np.concatenate([W[active] @ move, W[i : i + 1] @ move, move[j : j + 1]])


def _apart(parts: Float[np.ndarray, "q d"]) -> bool:
    size = np.linalg.norm(parts, axis=1, keepdims=True)
    if len(parts) > parts.shape[1] - 1 or size.min() < 1e-9:
        return False
    return bool(np.linalg.svd(parts / size, compute_uv=False)[-1] > SUM_NORMAL_INDEPENDENCE)


def _told(
    sightings: Sightings, x: Float[np.ndarray, "P d"], parts: list[Float[np.ndarray, "_ d"]]
) -> tuple[float | None, bool]:
    """The weight that derivatives at these places agree on; whether the neuron has no share in any of them."""
    if len(x) < SUM_PLACES_AGREEING:
        return None, False
    d = sightings.d
    step = 0.02 * np.linalg.norm(x, axis=1) / np.sqrt(d)
    slope, doubt = derivatives(sightings.probe, Frame.of_input(d, None), x, step)
    found, none = [], 0
    for g, off, each in zip(slope, doubt, parts, strict=True):
        size = float(np.linalg.norm(g))
        if not np.isfinite(off) or size == 0:
            continue
        share = np.linalg.lstsq(each.T, g.T, rcond=None)[0]
        left = float(np.linalg.norm(each.T @ share - g.T))
        own, unknown = share[-2], share[-1]
        strong = np.linalg.norm(own) * np.linalg.norm(each[-2]) > SUM_LEAST_SHARE * size
        if left < SUM_LEFT_SHARE * size + 10 * off:
            none += not strong
            found += [float(own @ unknown / (own @ own))] if strong else []
    if len(found) < SUM_PLACES_AGREEING:
        return None, not found and none >= INACTIVE_PLACES
    middle = float(np.median(found))
    agree = np.abs(np.array(found) - middle) < SUM_WEIGHT_DIFFERENCE * (1 + abs(middle))
    return (middle, False) if agree.sum() >= SUM_PLACES_AGREEING else (None, False)
