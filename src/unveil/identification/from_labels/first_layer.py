"""The first layer of a deeper ReLU network: the hyperplanes that go on straight, until there are no more."""

from __future__ import annotations

import numpy as np

from unveil.identification.from_labels.faces import ROUGH
from unveil.identification.from_labels.hyperplanes import ALIKE, Hyperplanes
from unveil.identification.from_labels.search import VAGUE, HyperplaneSearch
from unveil.identification.from_labels.second_layer import INACTIVE, active_sides, likely_sides
from unveil.identification.from_labels.straight import SHARE, none_stands, sharpened

CHUNK = 4  # rounds of new faces between two looks at what goes on straight
CHUNKS = 24  # such looks, at most
# So many times as far out, every other time, half of the points: neurons of either layer that are active, or at rest,
# at nearly all usual inputs switch there, and classes that are rare at these are met.
WIDE = 10.0
# Looks in a row that show nothing new, after which the first layer counts as read, where hardly any of the boundary's
# normals lies outside the spans of what is active: the first number where few do, and where many.
QUIET, LOOKS_WHILE_UNSPANNED = 2, 6
# Share of the normals; those across an edge that was not seen may.
NO_UNSPANNED_SHARE, SOME_UNSPANNED_SHARE = 0.005, 0.05
# Hyperplanes known better than this need no further points, before all numbers are fitted.
EXACT_HYPERPLANE_ERROR = 1e-5


def straight_ones(search: HyperplaneSearch, rng: np.random.Generator) -> Hyperplanes:
    """Hyperplanes met that go on straight, as those of a first layer do. Queries: those of `look_on`, and about 500
    for each that is vague."""
    good = search.look(rng)
    if search.precision.normal < ROUGH:  # else all of them are vague, up to the end
        search.sharpen(good)
        # Dual points that agree on no more exact one are of a hyperplane that is bent, or of several.
        good = good & (search.planes.error <= VAGUE)
    return search.planes[np.flatnonzero(good)].distinct()


def first_layer(search: HyperplaneSearch, rng: np.random.Generator) -> Hyperplanes:
    """The first layer; the search goes on until it meets nothing more of it. Queries: some 500,000 for ten neurons of
    ten inputs."""
    first, known, quiet = straight_ones(search, rng), 0, 0
    # Only now: the longer one searches, the more hyperplanes of deeper neurons stand beside those of a first layer.
    search.refuted = none_stands(*search.looked)
    for chunk in range(CHUNKS):
        quiet = 0 if len(first) > known else quiet + 1
        known = max(known, len(first))
        if search.hopeless or quiet >= LOOKS_WHILE_UNSPANNED:
            break
        if quiet and _outside(search, first, rng) <= (NO_UNSPANNED_SHARE if quiet < QUIET else SOME_UNSPANNED_SHARE):
            break
        search.stale = 0
        search.pool.wide = 1.0 if chunk % 2 else WIDE
        search.run(10**9, rounds=CHUNK)
        first = straight_ones(search, rng)
    search.refuted |= not len(first)
    if search.refuted:
        return Hyperplanes.none(search.chart.n)
    first = Hyperplanes.joined([first, completing(search, first, rng)])
    vague = first.error > EXACT_HYPERPLANE_ERROR
    if vague.any():
        sharp = sharpened(search.boundary, first[vague], rng)
        first = Hyperplanes.joined([first[~vague], sharp])
    search.stages.end("sharpening")
    return first


def _outside(search: HyperplaneSearch, first: Hyperplanes, rng: np.random.Generator) -> float:
    """Share of the boundary's normals that lie outside the span of the weight vectors that are active there."""
    judges = search.faces[rng.permutation(len(search.faces))[:JUDGING_FACES]]
    return float((likely_sides(first, judges)[1] > INACTIVE).mean()) if len(first) and len(judges) else 1.0


# Faces from which hyperplanes are tried that may complete a first layer, and those that judge them.
TRYING_FACES, JUDGING_FACES = 60, 300
HYPERPLANES_TRIED = 60  # hyperplanes tried for it, at most: the sharpest
LACKING = 3  # so many of them may be missing


def completing(search: HyperplaneSearch, first: Hyperplanes, rng: np.random.Generator) -> Hyperplanes:
    """Hyperplanes met that too few faces reach to see whether they go on straight, and that complete a first layer.
    With them the boundary's normals lie in the spans of what is active, and without them they do not."""
    if not len(search.faces) or _outside(search, first, rng) < SOME_UNSPANNED_SHARE:
        return first[slice(0, 0)]
    judges = search.faces[rng.permutation(len(search.faces))[:JUDGING_FACES]]
    ended, passed = np.stack([search.ended, search.passed]) + search.looked
    good = np.flatnonzero((passed <= SHARE * ended) & (search.planes.error < ALIKE))
    every, grown = Hyperplanes.joined([first, search.planes[good]]), np.arange(len(first))
    offered = np.setdiff1d(every.different(np.arange(len(every)) >= len(first)), grown)
    offered = offered[np.argsort(every.error[offered])[:HYPERPLANES_TRIED]]
    few = judges[slice(0, TRYING_FACES)]
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
            return whole[len(first) + np.flatnonzero(tell >= TRYING_FACES / 2)]
        offered = np.delete(offered, best)
    return first[slice(0, 0)]
