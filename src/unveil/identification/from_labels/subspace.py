"""Fewer directions to read in: a network restricted to a subspace is a network, and as many inputs as neurons do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.faces import Precision, faces_at
from unveil.identification.from_labels.pool import Pool

FEW = 24  # up to so many inputs all of them are read at once: to find fewer directions would cost more than it saves
FIRST_SUBSPACE_SIZE = 8  # directions of the first subspace that is looked at; each further one has three times as many
SPARE_NORMALS = 2  # normals in a row that must show no new direction
EXTRA = 1  # directions more than were found: a neuron that few normals show makes one more
ROUGH_NORMAL_ERROR = 1e-4  # error of a normal, per coordinate, that is good enough to count directions
# Boundary points moved along all other directions at a time; how often all must stay where they are, to so much; and
# how often none of those that do not may tell a new direction.
MOVED_POINTS, STILL, STAYING_DISTANCE, VAIN = 128, 2, 1e-5, 3
NORMALS_AT_ONCE = 4  # normals measured of these at a time
FEWER = 0.8  # share of the inputs up to which it pays to read along the directions that matter
WIDER_POINTS_FACTOR = 10.0  # so many times as far out half of the points lie the second time
SPENT = 0.1  # share of the labels left that may be spent on finding that more do


def subspace(
    whole: Chart, pool: Pool, rng: np.random.Generator, most: float = np.inf
) -> tuple[Float[np.ndarray, "d n"], float] | None:
    """A subspace in which the boundary has no more dimensions than the network has neurons.

    In a random subspace of d dimensions the boundary's normals span as many as in all of them, or d. So d grows until
    they span less. No precision is needed: whatever the subspace, the network restricted to it has the same neurons.
    `whole`: all directions. `pool`: points in these; examples among them point the way. `rng`: draws subspaces and
    boundary points. `most`: directions looked at, at most. Returns orthonormal directions, and by how much longer a
    typical input is than its part along them; None where all directions matter, or as many. Queries: about `20 d` a
    normal, `k + 4` normals for k neurons.
    """
    n, d = whole.n, FIRST_SUBSPACE_SIZE
    while n > FEW and d < n and d <= most:
        basis, stretch = random_slice(d, pool, rng)
        spanned = _spanned(Chart(whole.oracle, whole.origin, whole.size * stretch, basis), pool, rng)
        if spanned is not None and len(spanned) < d:
            return spanned @ basis, stretch
        d *= 3
    return None


def all_that_matter(whole: Chart, pool: Pool, rng: np.random.Generator) -> Float[np.ndarray, "d n"] | None:
    """Orthonormal directions along which alone labels change, as exactly as normals are known.

    Along all others a boundary point may be moved however far: that costs two labels, and tells a neuron that no normal
    has shown. `whole`, `pool`, `rng`: as in `subspace`. Returns None in a box, where too many directions matter, or
    where it would cost too much to tell. Queries: about `35 n` for each direction that matters, and `60 MOVED_POINTS`.
    """
    precision, most = Precision.of(whole.digits), int(FEWER * whole.n)
    if whole.oracle.within is not None or 35 * whole.n * most > SPENT * whole.ledger.left:
        return None
    normals, basis = np.empty((0, whole.n)), np.empty((0, whole.n))
    still = vain = 0
    while still < STILL and vain < VAIN:
        pool.wide = WIDER_POINTS_FACTOR if still % 2 else 1.0
        pool.draw()
        found = pool.crossings(MOVED_POINTS if still or len(basis) > most / 2 else 2 * NORMALS_AT_ONCE, precision.cell)
        aside = pool.size * rng.standard_normal((len(found), whole.n))
        moved = replace(found, x=found.x + aside - aside @ basis.T @ basis)
        half = np.full(len(found), STAYING_DISTANCE)
        gone = np.setdiff1d(np.arange(len(found)), cross_near(pool.side, *moved.expected, half, np.inf, grow=0)[1])
        if not len(gone):
            still += 1
            continue
        around = pool.around(moved[gone[:NORMALS_AT_ONCE]], precision.cell)
        faces, _ = faces_at(pool.side, around, precision, precision.step, rng)
        off = np.linalg.norm(faces.normal - faces.normal @ basis.T @ basis, axis=1)
        still, vain = 0, 0 if (off > ROUGH_NORMAL_ERROR).any() else vain + 1
        normals = np.concatenate([normals, faces.normal[off > ROUGH_NORMAL_ERROR]])
        values, basis = np.linalg.svd(normals, full_matrices=False)[1:]
        basis = basis[values > 5 * precision.normal * np.sqrt(whole.n + len(normals))]
        if len(basis) > most:
            break
    pool.wide = 1.0
    return basis if still >= STILL else None


def random_directions(d: int, pool: Pool, rng: np.random.Generator) -> Float[np.ndarray, "d n"]:
    """Random orthonormal directions, half of them between examples where there are any."""
    drawn = rng.standard_normal((d, pool.chart.n))
    if len(pool.given) > 1:
        apart = pool.given[rng.integers(len(pool.given), size=d // 2)] - pool.given.mean(axis=0)
        drawn[: d // 2] = apart + 1e-6 * drawn[: d // 2]
    return np.asarray(np.linalg.qr(drawn.T)[0].T)


def random_slice(d: int, pool: Pool, rng: np.random.Generator) -> tuple[Float[np.ndarray, "d n"], float]:
    """The same, and by how much longer a typical input is than its part along them."""
    return random_directions(d, pool, rng), float(np.sqrt(pool.chart.n / d))


def _spanned(chart: Chart, pool: Pool, rng: np.random.Generator) -> Float[np.ndarray, "r d"] | None:
    """The directions that the boundary's normals span; None where no boundary was met or all are."""
    side, exact = Side(chart), Precision.of(chart.digits)
    precision = Precision(exact.digits, exact.step, max(ROUGH_NORMAL_ERROR * exact.step, exact.cell))
    given = chart.coordinates(pool.chart.inputs(pool.given))
    for times in (1.0, 4.0, 16.0):
        inside = Pool(side, chart, times * pool.size, given, rng)
        inside.draw()
        if len(inside.classes) > 1:
            break
    normals, rank = np.empty((0, chart.n)), 0
    for _ in range(4 + chart.n // 2):
        if len(inside.classes) < 2:
            return None
        found = inside.crossings(max(rank + SPARE_NORMALS - len(normals), 1), precision.cell)
        inside.draw(2 * SPARE_NORMALS)
        faces, _ = faces_at(side, found, precision, precision.step, rng)
        normals = np.concatenate([normals, faces.normal])
        if not len(normals):
            continue
        values, right = np.linalg.svd(normals, full_matrices=False)[1:]
        rank = int((values > 5 * precision.normal * np.sqrt(chart.n + len(normals))).sum())
        if rank + EXTRA > chart.n:
            return None
        if len(normals) >= rank + SPARE_NORMALS:
            return np.asarray(right[: min(rank + EXTRA, chart.n)])
    return None
