"""The first layer of a deeper ReLU network: the hyperplanes that go on straight, until there are no more.

Where a neuron that was not met as a hyperplane is active, the normal of the boundary leaves the span of the known
weight vectors. At a bend where it switches only one of the two normals does, and its weight vector is that normal less
a multiple of the other: two bends settle both.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Float

from unveil.identification.from_labels.faces import ROUGH
from unveil.identification.from_labels.hyperplanes import ALIKE, Edge, Hyperplanes, agreed
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.second_layer import active_sides, likely_sides
from unveil.identification.from_labels.standing import none_stands
from unveil.identification.from_labels.straight import SHARE, looks, sharpened, straight

CHUNK = 4
"""Rounds of new faces between two looks at what goes on straight."""

CHUNKS = 24
"""Such looks, at most."""

AMONG, SHARED = 1_000, 16
"""Dual points among which hyperplanes are looked for that were not met before, and how many at most."""

QUIET = 2
"""Looks in a row that show nothing new, after which the first layer counts as read."""


def straight_ones(search: HyperplaneSearch, rng: np.random.Generator) -> Hyperplanes:
    """Hyperplanes met that go on straight, as those of a first layer do.

    Queries: those of `looks`, and about 500 for each that is vague
    """
    good = search.look(rng)
    if search.precision.normal < ROUGH:  # else all of them are vague, up to the end
        search.sharpen(good)
        # Around what is known no better than hyperplanes are told apart, faces end at others.
        good = good & (search.planes.error < ALIKE)
    return search.planes[np.flatnonzero(good)].distinct()


def first_layer(search: HyperplaneSearch, rng: np.random.Generator) -> Hyperplanes:
    """The first layer; the search goes on until it meets nothing more of it.

    Queries: some 500,000 for ten neurons of ten inputs
    """
    first, known, quiet = straight_ones(search, rng), 0, 0
    # Only now: the longer one searches, the more hyperplanes of deeper neurons stand beside those of a first layer.
    search.refuted = none_stands(*search.looked)
    for _ in range(CHUNKS):
        quiet = 0 if len(first) > known else quiet + 1
        known = max(known, len(first))
        if quiet >= QUIET or search.hopeless:
            break
        search.stale = 0
        search.run(10**9, rounds=CHUNK)
        first = straight_ones(search, rng)
    search.refuted |= not len(first)
    if search.refuted:
        return Hyperplanes.none(search.chart.n)
    first = Hyperplanes.joined([first, completing(search, first, rng)])
    first = sharpened(search.side, search.chart, search.faces, first, search.precision, rng)
    search.book("sharpening")
    return first


def further_ones(search: HyperplaneSearch, first: Hyperplanes, rng: np.random.Generator) -> Hyperplanes:
    """The first layer with hyperplanes that were met only on the way behind it: that go on straight, or by normals.

    Queries: those of `looks` for at most 16 hyperplanes, and of `sharpened` for those found
    """
    # Rare neurons, at which too few faces end to see that they do.
    unseen = unseen_rows(first, search.bends(first))
    more = shared(search, first, rng)
    good = straight(*looks(search.side, search.chart, search.faces, more, search.precision, rng))
    search.book("straightness")
    more = Hyperplanes.joined([unseen, more[np.flatnonzero(good)], completing(search, first, rng)]).distinct()
    if not len(more):
        return first
    more = sharpened(search.side, search.chart, search.faces, more, search.precision, rng)
    search.book("sharpening")
    return Hyperplanes.joined([first, more[np.flatnonzero(more.error < ALIKE)]]).distinct()


def shared(search: HyperplaneSearch, first: Hyperplanes, rng: np.random.Generator) -> Hyperplanes:
    """Hyperplanes beside these that bends and dual points agree on, those with the most support first.

    Queries: `0`
    """
    found = Hyperplanes.none(search.chart.n)
    support: list[int] = []
    rows = np.sort(rng.permutation(len(search.met))[:AMONG])
    rows = rows[first.holding(search.met.z[rows], search.met.error[rows]) < 0]
    for edge in search.bends(first):
        if found.holding(edge.z[None], np.array([edge.error]))[0] >= 0:
            continue
        seen = agreed(edge, search.met.z[rows], search.met.error[rows], search.met.face[rows])
        if seen is not None:
            found = found.added(seen.normal, edge.z, seen.error)
            support.append(len(seen.support))
    return found[np.argsort(-np.array(support, dtype=int), kind="stable")[:SHARED]]


FEW, MET = 60, 300
"""Faces from which hyperplanes are tried that may complete a first layer, and those that judge them."""

LACKING = 3
"""So many of them may be missing."""


def completing(search: HyperplaneSearch, first: Hyperplanes, rng: np.random.Generator) -> Hyperplanes:
    """Hyperplanes met that too few faces reach to see whether they go on straight, and that complete a first layer.

    With them the boundary's normals lie in the spans of what is active, and without them they do not.

    Queries: `0`
    """
    judges = search.faces[rng.permutation(len(search.faces))[:MET]]
    if not len(judges) or active_sides(first, judges) is not None:
        return first[slice(0, 0)]
    ended, passed = np.stack([search.ended, search.passed]) + search.looked
    good = np.flatnonzero((passed <= SHARE * ended) & (search.planes.error < ALIKE))
    every, grown = Hyperplanes.joined([first, search.planes[good]]), np.arange(len(first))
    offered = np.setdiff1d(every.different(np.arange(len(every)) >= len(first)), grown)
    offered = offered[np.argsort(every.error[offered])[:TRIED]]
    few = judges[slice(0, FEW)]
    sign, left = likely_sides(first, few)
    for _ in range(min(LACKING, len(offered))):
        tried = [likely_sides(every[np.append(grown, i)], few, np.append(sign, 1.0)) for i in offered]
        best = int(np.argmin([each[1].mean() for each in tried]))
        if not tried[best][1].mean() < left.mean():
            break
        grown, (sign, left) = np.append(grown, offered[best]), tried[best]
        whole, sides = every[grown], active_sides(every[grown], judges)
        if sides is not None:
            on = (judges.x @ whole.normals.T + whole.offsets) * sides > 0
            # Where as many are active as there are inputs, any hyperplane would do.
            tell = on[on.sum(axis=1) < first.normals.shape[1], len(first) :].sum(axis=0)
            return whole[len(first) + np.flatnonzero(tell >= FEW / 2)]
        offered = np.delete(offered, best)
    return first[slice(0, 0)]


OUTSIDE = 1e-3
"""Share of a normal outside the span of the known weight vectors that shows another neuron; errors leave far less."""

AGREE = 1e-4
"""How well bends agree on one weight vector."""

SUPPORT = 4
"""Bends that must agree."""

TRIED = 60
"""Bends of which pairs are tried, at most."""


def unseen_rows(first: Hyperplanes, edges: list[Edge]) -> Hyperplanes:
    """Hyperplanes of neurons that are missing among those of a first layer.

    Args:
        first: Those known; fewer than there are inputs, else their weight vectors can make any normal.
        edges: Bends of the boundary on none of them.

    Queries: `0`
    """
    d = first.normals.shape[1]
    found = Hyperplanes.none(d)
    if len(first) >= d or not edges:
        return found
    basis = np.linalg.qr(first.normals.T)[0]
    z = np.stack([edge.z for edge in edges])
    near = np.stack([edge.normal for edge in edges])
    far = np.stack([edge.at(edge.angle) for edge in edges])
    out = [np.linalg.norm(each - each @ basis @ basis.T, axis=1) for each in (near, far)]
    turned = out[0] > out[1]
    on, off = np.where(turned[:, None], near, far), np.where(turned[:, None], far, near)
    rows = np.flatnonzero((np.maximum(*out) > OUTSIDE) & (np.minimum(*out) < OUTSIDE / 10))[:TRIED]
    z, on, off = z[rows], on[rows], off[rows]
    # In the unit in which what is outside has length one.
    on = on / np.linalg.norm(on - on @ basis @ basis.T, axis=1)[:, None]
    left = np.arange(len(rows))
    for i, j in combinations(range(len(rows)), 2):
        if i not in left or j not in left:
            continue
        row = _of_two(on[[i, j]], off[[i, j]], basis)
        if row is None:
            continue
        bias = -float(row @ z[i])
        support = left[_holds(row, bias, z[left], on[left], off[left], basis)]
        if len(support) >= SUPPORT:
            long = float(np.linalg.norm(row))
            found = found.added(row / long, z[i], AGREE)
            left = np.setdiff1d(left, support)
    return found.distinct()


def _of_two(
    on: Float[np.ndarray, "2 d"], off: Float[np.ndarray, "2 d"], basis: Float[np.ndarray, "d k"]
) -> Float[np.ndarray, " d"] | None:
    """The weight vector that both bends share; None where they share none, or could share any."""
    outside = on - on @ basis @ basis.T
    cosine = float(outside[0] @ outside[1])
    if abs(cosine) < 1 - AGREE:
        return None
    sign = np.sign(cosine)
    ways = np.stack([off[0], -sign * off[1]], axis=1)
    if np.linalg.svd(ways, compute_uv=False)[-1] < 100 * AGREE:
        return None
    gap = on[0] - sign * on[1]
    by = np.linalg.lstsq(ways, gap, rcond=None)[0]
    row = on[0] - by[0] * off[0]
    return row if np.linalg.norm(gap - ways @ by) < AGREE * np.linalg.norm(row) else None


def _holds(
    row: np.ndarray, bias: float, z: np.ndarray, on: np.ndarray, off: np.ndarray, basis: np.ndarray
) -> np.ndarray:
    """Which bends lie on the hyperplane and span its normal."""
    long = float(np.linalg.norm(row))
    outside = on - on @ basis @ basis.T
    sign = np.sign(outside @ row)
    apart = row - sign[:, None] * on
    apart = apart - np.sum(apart * off, axis=1)[:, None] * off
    near = np.abs(z @ row + bias) < AGREE * long * (1 + np.linalg.norm(z, axis=1))
    return np.asarray(near & (np.linalg.norm(apart, axis=1) < 10 * AGREE * long))
