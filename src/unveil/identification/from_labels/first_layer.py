"""The first layer of a deeper ReLU network: the hyperplanes that go on straight, until there are no more."""

from __future__ import annotations

import numpy as np

from unveil.identification.from_labels.hyperplanes import Hyperplanes, agreed
from unveil.identification.from_labels.search import HyperplaneSearch
from unveil.identification.from_labels.standing import none_stands
from unveil.identification.from_labels.straight import looks, sharpened, straight
from unveil.identification.from_labels.unseen_rows import unseen_rows

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

    Queries: those of `looks`
    """
    return search.planes[np.flatnonzero(search.look(rng))].distinct()


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
    more = Hyperplanes.joined([unseen, more[np.flatnonzero(good)]]).distinct()
    if not len(more):
        return first
    more = sharpened(search.side, search.chart, search.faces, more, search.precision, rng)
    search.book("sharpening")
    return Hyperplanes.joined([first, more]).distinct()


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
