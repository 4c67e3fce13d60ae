"""Fewer directions to read in: a network restricted to a subspace is a network, and as many inputs as neurons do."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.faces import Precision, faces_at
from unveil.identification.from_labels.pool import Pool

FEW = 24  # up to so many inputs all of them are read at once: to find fewer directions would cost more than it saves
FIRST = 8  # directions of the first subspace that is looked at; each further one has three times as many
SPARE = 2  # normals in a row that must show no new direction
EXTRA = 1  # directions more than were found: a neuron that few normals show makes one more
ROUGH = 1e-4  # error of a normal, per coordinate, that is good enough to count directions


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
    n, d = whole.n, FIRST
    while n > FEW and d < n and d <= most:
        basis, stretch = random_slice(d, pool, rng)
        spanned = _spanned(Chart(whole.oracle, whole.origin, whole.size * stretch, basis), pool, rng)
        if spanned is not None and len(spanned) < d:
            return spanned @ basis, stretch
        d *= 3
    return None


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
    precision = Precision(exact.digits, exact.step, max(ROUGH * exact.step, exact.cell))
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
        found = inside.crossings(max(rank + SPARE - len(normals), 1), precision.cell)
        inside.draw(2 * SPARE)
        faces, _ = faces_at(side, found, precision, precision.step, rng)
        normals = np.concatenate([normals, faces.normal])
        if not len(normals):
            continue
        values, right = np.linalg.svd(normals, full_matrices=False)[1:]
        rank = int((values > 5 * precision.normal * np.sqrt(chart.n + len(normals))).sum())
        if rank + EXTRA > chart.n:
            return None
        if len(normals) >= rank + SPARE:
            return np.asarray(right[: min(rank + EXTRA, chart.n)])
    return None
