"""Bends of the boundary seen from both sides, many at a time: points, the normals before and behind, and how exactly.

Where answers are rounded as in float32 and neurons are many, flat pieces are short: in few directions a normal takes
few moves, and short ones do. What one bend leaves open, and what is vague about it, others of the same neuron settle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.label_crossings import Side
from unveil.blackbox.rows import Rows
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.crossings import cross_near
from unveil.identification.from_labels.faces import Faces, Precision, faces_at, tangents
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.walks import Walks, walk

LOOKS, ASIDE = 24, 100  # boundary points at which the noise is measured, and how far aside, in digits of an input
NOISY = 1.5  # so many standard deviations of the boundary's noise count as its last digit
# The move by which a normal is measured, in such digits: long enough to tell it, and shorter than most flat pieces.
MOVES = 4000
SHORTEST, LONGEST = 1e-4, 3e-3  # the least and the largest, in sizes of a typical input
# So far before and behind a hyperplane that is looked at, as a share of the way to it: weak bends must show, too.
BESIDE = 0.2
BEHIND = 2.0  # so many moves behind a bend the boundary is asked
FACES = 64  # faces measured at a time
# Walks from each of them, from each face behind a bend, and how often it goes on from there.
FIRST, LATER, HOPS = 4, 2, 4
VAGUE = 3e-3  # bends known less exactly than this tell too little


@dataclass(frozen=True)
class Sightings(Rows):
    """Bends of the boundary: the neuron's normal lies in the span of `normal` and `across`."""

    z: Float[np.ndarray, "N d"]  # a point on each
    normal: Float[np.ndarray, "N d"]  # unit normal on the near side
    across: Float[np.ndarray, "N d"]  # unit vector with which it spans the normal on the far side
    angle: Float[np.ndarray, " N"]  # between both normals
    error: Float[np.ndarray, " N"]  # how exactly z is known
    rough: Float[np.ndarray, " N"]  # how exactly `across` is

    @classmethod
    def none(cls, d: int) -> Sightings:
        nothing, nowhere = np.empty(0), np.empty((0, d))
        return cls(nowhere, nowhere, nowhere, nothing, nothing, nothing)


def noise_of(pool: Pool, rng: np.random.Generator) -> float:
    """Standard deviation of where the boundary is found, along its normals; the last digit of an input at least.
    Queries: about `35 d + 90` for each of `LOOKS` points."""
    chart, side = pool.chart, pool.side
    at = pool.crossings(LOOKS, 4 * chart.digits)
    faces, _ = faces_at(side, at, precision_of(_scatter(side, at, chart.digits, rng)), SHORTEST, rng)
    upright = Crossings(faces.x, faces.before, faces.after, faces.normal, np.zeros(len(faces)))
    return _scatter(side, upright, chart.digits, rng)


def _scatter(side: Side, at: Crossings, digits: float, rng: np.random.Generator) -> float:
    """The same along the directions in which points were crossed, from three of them in a row: how far off a line."""
    aside = ASIDE * digits * tangents(at.along, rng)
    half, cell = np.full(len(at), 8 * ASIDE * digits), np.full(len(at), digits / 4)
    found = np.full((3, len(at)), np.nan)
    for row, times in enumerate((-1, 0, 1)):
        place = at.x + times * aside
        near, rows = cross_near(side, place, at.along, at.before, at.after, half, cell, grow=0)
        found[row, rows] = np.sum((near.x - place[rows]) * at.along[rows], axis=1)
    bend = np.abs(found[0] - 2 * found[1] + found[2])
    bend = bend[np.isfinite(bend)]
    # The median of |N(0, s)| is 0.674 s, and three such points add up to a variance of six.
    return max(float(np.median(bend)) / (0.674 * np.sqrt(6)) if len(bend) else 0.0, digits)


def precision_of(noise: float) -> Precision:
    """Moves and cells for a boundary that is found to this standard deviation."""
    digits = NOISY * noise
    return Precision(digits, float(np.clip(MOVES * digits, SHORTEST, LONGEST)), 2 * digits, BESIDE)


def sightings(
    side: Side, chart: Chart, pool: Pool, precision: Precision, rng: np.random.Generator
) -> Iterator[tuple[Sightings, Faces]]:
    """Bends met on walks from fresh places all over the boundary, and on from the faces behind.

    `side`: answers. `chart`: the coordinates, few. `pool`: points of all labels. `precision`: from `precision_of`.
    `rng`: draws the walks. Returns bends, and the faces behind them: as they are met, so that a budget that ends leaves
    those before. Queries: about `2,000` for each bend in eight coordinates, some 100 of them.
    """
    pool.draw()
    faces, _ = faces_at(side, pool.crossings(FACES, precision.cell), precision, precision.step, rng)
    yield Sightings.none(chart.n), faces
    for hop in range(HOPS):
        from_ = np.repeat(np.arange(len(faces)), FIRST if hop == 0 else LATER)
        if not len(from_):
            break
        along = tangents(faces.normal[from_], rng)
        ended = walk(side, chart, faces, from_, along, precision).ended()
        seen, faces = _behind(side, faces, ended, precision, rng)
        yield seen, faces


def _behind(
    side: Side, faces: Faces, walks: Walks, precision: Precision, rng: np.random.Generator
) -> tuple[Sightings, Faces]:
    """The bends at which walks ended, and the faces behind: where the line of a walk meets the next face."""
    on, along = faces[walks.face], walks.along
    gap = np.full(len(walks), BEHIND * precision.step)
    place = on.x + (walks.high + gap)[:, None] * along
    met, rows = cross_near(
        side, place, on.normal, on.before, on.after, gap, np.full(len(walks), precision.cell), grow=1
    )
    made, which = faces_at(side, met, precision, precision.step, rng)
    return _bends(on[rows[which]], made, walks[rows[which]], precision)


def _bends(on: Faces, made: Faces, walks: Walks, precision: Precision) -> tuple[Sightings, Faces]:
    steep = np.sum(made.normal * walks.along, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = -np.sum(made.normal * (on.x - made.x), axis=1) / steep
        z = on.x + s[:, None] * walks.along
        blur = 2 * precision.digits + made.error * np.linalg.norm(z - made.x, axis=1) + on.error * np.abs(s)
        error = blur / np.abs(steep)
        slack = 3 * error + 2e-3 * walks.high
        cosine = np.sum(on.normal * made.normal, axis=1)
        across = made.normal - cosine[:, None] * on.normal
        length = np.linalg.norm(across, axis=1)
        rough = np.maximum(on.error, made.error) / length
        good = (s > walks.low - slack) & (s < walks.high + slack) & (error < VAGUE) & (rough < 1)
    rows = np.flatnonzero(good)
    seen = Sightings(
        z[rows],
        on.normal[rows],
        across[rows] / length[rows, None],
        np.arctan2(length, cosine)[rows],
        error[rows],
        rough[rows],
    )
    return seen, made[rows]
