"""Frames of directions to difference along, sparse, dense or the basis itself, and slopes along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import fft

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.span_search.known import Known
from unveil.blackbox.span_search.points import Asker, Places

STRAIGHT = 7.0  # standard deviations by which a combined step may differ from the sum of its parts
SHORTER = 8.0
ROUNDS = 3  # of shorter steps for groups of directions that met a breakpoint

Exact = Callable[[np.ndarray], np.ndarray]
Which = np.ndarray | slice
"""Numbers of directions; as a slice where they follow each other (see `run`), since that takes no copy."""


class SparseFrame:
    """A basis of the complement of `known` that touches the pivots and one more coordinate per vector."""

    def __init__(self, known: Known) -> None:
        rest = np.ones(known.n, dtype=bool)
        rest[known.pivots] = False
        self.pivots, self.free, self.n = known.pivots, np.flatnonzero(rest), known.n
        # Of every direction its entries at the pivots lie together.
        rows = known.rows[:, self.free]
        self.columns = np.ascontiguousarray(rows.T)
        self.scale = 1 / np.sqrt(1 + np.sum(rows**2, axis=0))

    @property
    def count(self) -> int:
        return len(self.free)

    def points(self, x: np.ndarray, which: Which, length: float | np.ndarray, exact: Exact = np.asarray) -> np.ndarray:
        """x plus `length` (one for all, or one each) times the unit vector of each direction in `which`.

        Args:
            x: The point.
            which: Directions.
            length: Signed.
            exact: Applied to the numbers that differ from those of x.
        """
        columns = self.free[which]
        y = np.empty((len(columns), self.n))
        y[:] = x
        amount = length * self.scale[which]
        y[np.arange(len(columns)), columns] = exact(x[columns] + amount)
        if len(self.pivots):
            y[:, self.pivots] = exact(x[self.pivots] - amount[:, None] * self.columns[which])
        return y

    def combination(self, x: np.ndarray, which: Which, amounts: np.ndarray) -> np.ndarray:
        """x plus a combination of the (unscaled) directions in `which`."""
        y = x.copy()
        y[self.free[which]] += amounts
        if len(self.pivots):
            y[self.pivots] -= amounts @ self.columns[which]
        return y

    def taken(self, asked: np.ndarray, x: np.ndarray, which: Which) -> np.ndarray:
        """The coefficient of each direction in the step really taken from x to the row of `asked` that is its own."""
        columns = self.free[which]
        return np.asarray(asked[np.arange(len(columns)), columns] - x[columns])

    def amounts(self, step: np.ndarray, which: Which) -> np.ndarray:
        """Coefficients of the directions in `which` in one combined step."""
        return np.asarray(step[self.free[which]])

    def along(self, asked: np.ndarray, x: np.ndarray, which: Which, vectors: np.ndarray) -> np.ndarray:
        """`(asked - x) @ vectors.T`, from the coordinates that the steps touch."""
        moved = asked[:, self.pivots] - x[self.pivots]
        return np.asarray(
            moved @ vectors[:, self.pivots].T + self.taken(asked, x, which)[:, None] * vectors[:, self.free[which]].T
        )

    def spread(self, slopes: np.ndarray) -> np.ndarray:
        """Vectors (rows) whose products with the unscaled directions are `slopes`, up to what is known."""
        out = np.zeros((len(slopes), self.n))
        out[:, self.free] = slopes
        return out


def run(which: np.ndarray) -> Which:
    """Numbers in a row as a slice, which takes no copy."""
    if len(which) and which[-1] - which[0] == len(which) - 1 and (which[1:] > which[:-1]).all():
        return slice(int(which[0]), int(which[-1]) + 1)
    return which


class BasisFrame:
    """The rows of a basis themselves, for coordinates of a gradient in the known span."""

    def __init__(self, basis: np.ndarray) -> None:
        self.basis, self.n = basis, basis.shape[1]
        self.scale = np.ones(len(basis))

    @property
    def count(self) -> int:
        return len(self.basis)

    def points(self, x: np.ndarray, which: Which, length: float | np.ndarray, exact: Exact = np.asarray) -> np.ndarray:
        y = np.reshape(length, (-1, 1)) * self.basis[which]
        y += x
        return exact(y)

    def combination(self, x: np.ndarray, which: Which, amounts: np.ndarray) -> np.ndarray:
        return np.asarray(x + amounts @ self.basis[which])

    def taken(self, asked: np.ndarray, x: np.ndarray, which: Which) -> np.ndarray:
        return np.asarray(np.einsum("ij,ij->i", asked - x, self.basis[which]))

    def amounts(self, step: np.ndarray, which: Which) -> np.ndarray:
        return np.asarray(self.basis[which] @ step)


class DenseFrame:
    """A tight frame of the complement whose vectors spread over all coordinates: the longest steps that fit in a box.

    Rows of an orthonormal cosine transform with random column signs, projected on the complement. It has n vectors for
    n - k dimensions, the price of needing no dense orthogonal basis.
    """

    def __init__(self, known: Known, rng: np.random.Generator) -> None:
        self.signs = rng.choice([-1.0, 1.0], size=known.n)
        self.basis, self.n = known.basis, known.n
        # What the basis explains of each row of the transform.
        self._explained = fft.dct(known.basis * self.signs, norm="ortho", axis=1).T

    @property
    def count(self) -> int:
        return self.n

    def vectors(self, which: np.ndarray) -> np.ndarray:
        unit = np.zeros((len(which), self.n))
        unit[np.arange(len(which)), which] = 1.0
        rows = fft.idct(unit, norm="ortho", axis=1, overwrite_x=True)
        rows *= self.signs
        rows -= self._explained[which] @ self.basis
        return np.asarray(rows)

    def spread(self, slopes: np.ndarray) -> np.ndarray:
        rows = fft.idct(slopes, norm="ortho", axis=1) * self.signs
        return np.asarray(rows - (rows @ self.basis.T) @ self.basis)


def slopes(
    ask: Asker, frame: SparseFrame | BasisFrame, place: Places, length: float, central: bool = False
) -> tuple[Float[np.ndarray, "count m"], bool, float]:
    """Derivatives at one place along a frame by forward differences; breakpoints found by one combined step.

    With `central`, which is for smooth models, both sides are asked.

    One more query tests all differences at once: the answer to a random combination of the steps must be the same
    combination of the answers. Where it is not, groups of directions are tested, and only bad groups are asked again,
    with steps eight times shorter.

    Returns:
        Slopes along the unscaled directions, whether the last test passed, and how much noisier they are than along a
        unit vector over `length` (root mean square): unscaled ones are longer, and some steps had to be shorter.

    Queries: `frame.count + 1`, and about `4 * sqrt(count)` more at a breakpoint; `2 * frame.count` with `central`
    """
    x, fx, sigma, rng = place.x[0], place.fx[0], place.sigma[0], ask.rng
    everything = np.arange(frame.count)
    slope = np.empty((frame.count, len(fx)))
    taken, shorter = np.empty(frame.count), np.ones(frame.count)
    signs = rng.choice([-1.0, 1.0], size=frame.count)

    def difference(which: np.ndarray, length: float) -> None:
        for start in range(0, len(which), ask.block):
            part = run(which[start : start + ask.block])
            # With one sign for all, the rounding of f(x) itself would be an error common to all directions.
            points, answers = ask.step(x, _roomier(ask, frame, x, part, length * signs[part]), sigma)
            step, before = frame.taken(points, x, part), fx
            if central:
                behind, before = ask.step(x, ask.oracle.nearest(frame.points(x, part, -length * signs[part])), sigma)
                step = step - frame.taken(behind, x, part)
            step = np.where(step == 0, np.inf, step)  # too short for the precision of the input: no slope
            slope[part] = (answers - before) / step[:, None]
            taken[part] = step

    def bends(groups: list[np.ndarray]) -> np.ndarray:
        points = np.empty((len(groups), frame.n))
        parts = [run(group) for group in groups]
        for i, (group, part) in enumerate(zip(groups, parts, strict=True)):
            amounts = rng.choice([-1.0, 1.0], size=len(group)) * frame.scale[part] * 4 * length / np.sqrt(len(group))
            points[i] = frame.combination(x, part, amounts)
        points, answers = ask.step(x, ask.oracle.nearest(points), sigma)
        seen = answers - fx
        bad = np.empty(len(groups), dtype=bool)
        for i, part in enumerate(parts):
            amounts = frame.amounts(points[i] - x, part)
            error = np.sqrt(2 * (1 + np.sum((amounts / taken[part]) ** 2)))
            # Where an answer is missing nothing can be said: that is not straight.
            bad[i] = not bool((np.abs(seen[i] - amounts @ slope[part]) <= STRAIGHT * error).all())
        return bad

    def coarser() -> float:
        return float(np.sqrt(np.mean((shorter / frame.scale) ** 2)))

    difference(everything, length)
    if ask.smooth or not bends([everything])[0]:
        return slope, bool(np.isfinite(slope).all()), coarser()
    groups = np.array_split(rng.permutation(everything), max(1, int(np.sqrt(frame.count))))
    bad = bends(groups)
    for _ in range(ROUNDS):
        if not bad.any():
            break
        length /= SHORTER
        groups = [group for group, is_bad in zip(groups, bad, strict=True) if is_bad]
        again = np.concatenate(groups)
        difference(again, length)
        shorter[again] *= SHORTER
        bad = bends(groups)
    return slope, not bad.any(), coarser()


def legal_ends(
    oracle: Oracle, frame: SparseFrame | BasisFrame, x: np.ndarray, which: Which, length: np.ndarray
) -> Float[np.ndarray, "N n"]:
    """The legal questions nearest to the ends of steps of signed lengths from a legal one."""
    if oracle.entrywise:
        return frame.points(x, which, length, oracle.nearest)
    return oracle.nearest(frame.points(x, which, length))


def _roomier(
    ask: Asker, frame: SparseFrame | BasisFrame, x: np.ndarray, which: Which, length: np.ndarray
) -> Float[np.ndarray, "N n"]:
    """Ends of steps of signed lengths; on the other side where a wall of the box would cut them off.

    A step that a wall has made short has the noise of a full one, and would pass it off as a large slope.
    """
    if ask.oracle.within is None:
        return legal_ends(ask.oracle, frame, x, which, length)
    wanted = frame.points(x, which, length)
    points = ask.oracle.nearest(wanted)
    cut = np.abs(points - wanted).max(axis=1)
    back = frame.points(x, which, -length)
    other = ask.oracle.nearest(back)
    turn = np.abs(other - back).max(axis=1) < cut
    return np.where(turn[:, None], other, points)


def coordinates(
    ask: Asker,
    basis: Float[np.ndarray, "r n"],
    places: Places,
    length: float,
    shorter: float = 0.0,
    central: bool = False,
) -> tuple[Places, Float[np.ndarray, "Nm r"]]:
    """Places at which gradients could be had in coordinates of a basis, and these gradients.

    Args:
        ask: The oracle.
        basis: Orthonormal rows.
        places: Where.
        length: Of a step.
        shorter: A second length, for places that met a breakpoint; 0 to leave them out.
        central: Whether both sides are asked, which takes twice as many queries.

    Queries: `N (r + 1)`, more at breakpoints
    """
    frame = BasisFrame(basis)
    rows, fine, coarser = [], np.zeros(len(places), dtype=bool), np.ones(len(places))
    for i in range(len(places)):
        slope, fine[i], coarser[i] = slopes(ask, frame, places[i : i + 1], length, central)
        if not fine[i] and shorter:
            slope, fine[i], coarser[i] = slopes(ask, frame, places[i : i + 1], shorter)
            coarser[i] *= length / shorter
        if fine[i]:
            rows.append(slope.T)
    return replace(places, coarser=coarser)[fine], np.vstack(rows or [np.empty((0, len(basis)))])
