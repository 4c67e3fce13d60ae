"""A layer of smooth rectifiers behind known ones, seen from afar: where all known neurons pass on what they take.

There the known layers are affine, and their inputs a cone. What lies behind is a ReLU network without biases of the
coordinates, as a whole one is of its inputs: a neuron of the next layer jumps along its own weights on every arc, one
behind it along weights that depend on the place. Which way round a neuron is the rank condition tells.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.breakpoint_circles import NEARER, SAME, independent, jumps, profile
from unveil.identification.smooth.peeled_layers import Peeled
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer

_ARCS = 30
_QUIET = 4  # arcs without a change after which the directions are taken
_SEEN = 3  # arcs on which each must have been met
_INWARDS = (0.02, 0.5)  # how far rays are moved from a corner of the cone towards its middle
_BASES, _PROFILES = 12, 4
_FITS = 0.05  # relative misfit up to which a profile is one neuron's
_MISSING, _TRIES = 2, 4  # neurons that may not be seen, and how often others are drawn in their place
_SIGNED = 12  # neurons of which all signs are compared


@dataclass(frozen=True)
class _Cone:
    """Where all known neurons are far on the side on which they pass on what they take.

    Attributes:
        faces: Unit rows, positive inside.
        middle: A unit vector inside.
        straight: The coordinates as an affine map there: (r, n) and (r,).
    """

    faces: Float[np.ndarray, "k n"]
    middle: Float[np.ndarray, " n"]
    straight: tuple[Float[np.ndarray, "r n"], Float[np.ndarray, " r"]]

    def rays(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count n"]:
        """Unit vectors inside, between its corners and its middle: what lies behind differs most between corners."""
        kept, total = [], self.faces.sum(axis=0)
        for _ in range(count):
            # The cone cut where what is left of it is bounded: its corners are the cone's edges.
            towards = rng.standard_normal(len(self.faces)) @ self.faces
            found = linprog(
                towards, A_ub=-self.faces, b_ub=np.zeros(len(self.faces)), A_eq=total[None], b_eq=[1.0],
                bounds=(None, None),
            )  # fmt: skip
            corner = found.x if found.status == 0 else self.middle
            inwards = np.exp(rng.uniform(*np.log(_INWARDS)))
            x = corner / np.linalg.norm(corner) + inwards * self.middle
            kept.append(x / np.linalg.norm(x))
        return np.array(kept)


def layers_behind(
    oracle: Oracle,
    known: Peeled,
    c: Float[np.ndarray, "T r"],
    g: Float[np.ndarray, "T r m"],
    activation: Activation,
    *,
    rng: np.random.Generator,
) -> list[Layer]:
    """Layers that may nearly be the next one: as many neurons as coordinates, seen from afar; the likeliest first.

    Args:
        oracle: Without a box.
        known: Layers of softplus or GELU.
        g: Slopes of the answers by them, which tell the neurons' signs.

    Queries: those of `breakpoint_directions` for each of at most 30 arcs, and about 150 for each neuron and place.
    """
    cone = _cone(known)
    r = len(known.spans[-1])
    if cone is None or r > _SIGNED:
        return []
    directions = _directions(oracle, cone, r, rng)
    slope, offset = cone.straight
    rows, shifts = np.empty((0, r)), np.empty(0)
    for i in range(len(directions)):
        scale, shift, misfit = _across(oracle, cone, directions, i, activation, rng)
        if np.isfinite(misfit) and misfit < _FITS:
            rows = np.concatenate([rows, (scale * directions[i] @ np.linalg.pinv(slope))[None]])
            shifts = np.append(shifts, shift - rows[-1] @ offset)
    if len(rows) < max(r - _MISSING, 1):
        return []
    layers = []
    for _ in range(_TRIES if len(rows) < r else 1):
        # Neurons that bend nowhere in the cone: the rank condition tells which these are, and finds them alone.
        fresh = rng.standard_normal((r - len(rows), r))
        fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
        whole = np.concatenate([rows, fresh]), np.concatenate([shifts, -fresh @ c.mean(axis=0)])
        layers += _signed(*whole, c, g, activation)
    return layers


def _cone(known: Peeled) -> _Cone | None:
    """None where known neurons cannot all be far on their upper side at once."""
    matrix, offset, faces = np.eye(known.layers[0].inputs), np.zeros(known.layers[0].inputs), []
    for layer in known.layers:
        matrix, offset = layer.dense() @ matrix, layer.dense() @ offset + layer.bias
        faces.append(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    rows = np.concatenate(faces)
    n = rows.shape[1]
    best = linprog(
        -np.eye(n + 1)[n],
        A_ub=np.concatenate([-rows, np.ones((len(rows), 1))], axis=1),
        b_ub=np.zeros(len(rows)),
        bounds=[(-1, 1)] * n + [(0, 1)],
        method="highs",
    )
    if best.status != 0 or best.x[n] < 1e-3:
        return None
    middle = best.x[:n] / np.linalg.norm(best.x[:n])
    return _Cone(rows, middle, (known.spans[-1] @ matrix, known.spans[-1] @ offset))


def _directions(oracle: Oracle, cone: _Cone, r: int, rng: np.random.Generator) -> Float[np.ndarray, "r n"]:
    """Unit vectors along which gradients jump wherever they are crossed, in terms of inputs."""
    n = oracle.n
    found, seen, crossed = np.empty((0, n)), np.empty(0, dtype=int), []
    last, quiet = set[int](), 0
    chosen: list[int] = []
    for _ in range(_ARCS):
        u, v = cone.rays(2, rng)
        across = v - (u @ v) * u
        frame = np.stack([u, across / np.linalg.norm(across)])
        crossed.append((u, v))
        for jump in jumps(oracle, rng, frame, float(np.arccos(np.clip(u @ v, -1, 1)))):
            likeness = np.abs(found @ jump)
            if len(found) and likeness.max() > 1 - SAME**2 / 2 - 1e-15:
                seen[likeness.argmax()] += 1
            else:
                found, seen = np.concatenate([found, jump[None]]), np.append(seen, 1)
        ends = np.array(crossed)  # (arcs, 2, n)
        due = (np.prod(ends @ found.T, axis=1) < 0).sum(axis=0)
        # A neuron of the next layer jumps wherever its hyperplane is crossed, one behind it at some of these places.
        often = np.where(seen >= _SEEN, seen / np.maximum(due, 1), 0.0)
        chosen = independent(found, often, least=0.5)[:r]
        quiet = quiet + 1 if set(chosen) == last and len(chosen) == r else 0
        last = set(chosen)
        if quiet >= _QUIET:
            break
    return found[chosen]


def _across(
    oracle: Oracle,
    cone: _Cone,
    directions: Float[np.ndarray, "k n"],
    i: int,
    activation: Activation,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Scale, shift and misfit of a neuron by a profile across its breakpoint, all others far."""
    rays = cone.rays(4 * _BASES, rng)
    side = rays @ directions[i]
    above, below = rays[side > 0], rays[side < 0]
    if not len(above) or not len(below):
        return np.nan, np.nan, np.inf
    pairs = [(a, b) for a, b in itertools.product(above[:_BASES], below[:_BASES])]
    bases = np.array([a * abs(b @ directions[i]) + b * abs(a @ directions[i]) for a, b in pairs])
    bases /= np.linalg.norm(bases, axis=1, keepdims=True)
    bases -= np.outer(bases @ directions[i], directions[i])
    others = np.concatenate([np.delete(directions, i, axis=0), cone.faces])
    bases = NEARER * bases[np.argsort(-np.abs(bases @ others.T).min(axis=1), kind="stable")[:_BASES]]
    tried = [profile(oracle, base, directions[i], activation) for base in bases[:_PROFILES]]
    return min(tried, key=lambda each: each[2] if np.isfinite(each[2]) else np.inf)


def _signed(rows: np.ndarray, shifts: np.ndarray, c: np.ndarray, g: np.ndarray, activation: Activation) -> list[Layer]:
    """The layer with the signs at which slopes divided by phi' come nearest to each rank, without repetition."""
    r = len(rows)
    by_sum = np.einsum("tdm,dk->tkm", g, np.linalg.inv(rows))
    sums = c @ rows.T + shifts
    parts = []
    for sign in (1.0, -1.0):
        with np.errstate(all="ignore"):
            flat = (by_sum / activation.slope(sign * sums)[:, :, None]).transpose(0, 2, 1).reshape(-1, r)
            flat = np.where(np.isfinite(flat), flat, 0.0)
            parts.append(flat / np.maximum(np.linalg.norm(flat, axis=0), np.finfo(float).tiny))
    choices = np.array(list(itertools.product((0, 1), repeat=r)))
    unit = np.where(choices[:, None, :] == 0, parts[0], parts[1])
    values = np.linalg.svd(unit, compute_uv=False)
    order = dict.fromkeys(int(i) for rank in range(1, r) for i in np.argsort(values[:, rank] / values[:, rank - 1])[:3])
    return [Layer((1 - 2 * choices[i])[:, None] * rows, (1 - 2 * choices[i]) * shifts, activation) for i in order]
