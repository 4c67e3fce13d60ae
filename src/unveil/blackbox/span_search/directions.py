"""Frames of directions to difference along, sparse, dense or the basis itself, and slopes along them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import fft

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.span_search.known import Known
from unveil.blackbox.span_search.points import Asker, Places

STRAIGHT = 7.0  # standard deviations by which a combined step may differ from the sum of its parts
SHORTER = 8.0
SHORTER_STEP_ROUNDS = 3  # of shorter steps for groups of directions that met a breakpoint

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
        self.columns = np.ascontiguousarray(known.rows.T[self.free])
        self.scale = 1 / np.sqrt(1 + np.einsum("ij,ij->i", self.columns, self.columns))
        self._held, self._x, self._changed = np.empty((0, 0)), np.empty(0), np.empty(0, dtype=np.intp)
        self._at_pivots = np.empty((0, 0))

    @property
    def count(self) -> int:
        return len(self.free)

    def _copies(self, x: Float[np.ndarray, " n"], count: int, dtype: np.dtype[np.floating]) -> np.ndarray:
        """So many rows equal to x but at the pivots: those of the batch before, if it was at x and is kept nowhere.

        With many inputs, writing all of them for every question takes as long as a small model does.
        """
        # (one reference is the frame's, one the call's)
        held = self._held.dtype == dtype and len(self._held) >= count
        if self._x is x and held and sys.getrefcount(self._held) == 2:
            self._held[np.arange(len(self._changed)), self._changed] = x[self._changed]
        else:
            self._held, self._x = np.empty((count, self.n), dtype), x
            self._held[:] = x.astype(dtype)
        return self._held[:count]

    def points(
        self,
        x: Float[np.ndarray, " n"],
        which: Which,
        length: float | Float[np.ndarray, " K"],
        exact: Exact = np.asarray,
        out: Float[np.ndarray, "K n"] | None = None,
    ) -> np.ndarray:
        """x plus `length` (one for all, or one each) times the unit vector of each direction in `which`.

        Args:
            x: The point.
            which: Directions.
            length: Signed.
            exact: Applied to the numbers that differ from those of x.
            out: Where to write.
        """
        columns = self.free[which]
        amount = length * self.scale[which]
        moved = exact(x[columns] + amount)
        if out is None:
            y, self._changed = self._copies(x, len(columns), moved.dtype), columns
        else:
            y = out
            y[:] = x
        y[np.arange(len(columns)), columns] = moved
        if len(self.pivots):
            self._at_pivots = exact(x[self.pivots] - amount[:, None] * self.columns[which])
            y[:, self.pivots] = self._at_pivots
        return y

    def combination(self, x: Float[np.ndarray, "N n"], amounts: Float[np.ndarray, "N count"]) -> np.ndarray:
        """x plus combinations of all (unscaled) directions."""
        y = np.array(x)
        y[:, self.free] += amounts
        y[:, self.pivots] -= amounts @ self.columns
        return y

    def taken(self, asked: Float[np.ndarray, "K n"], x: Float[np.ndarray, " n"], which: Which) -> np.ndarray:
        """The coefficient of each direction in the step really taken from x to the row of `asked` that is its own."""
        columns = self.free[which]
        return np.asarray(asked[np.arange(len(columns)), columns] - x[columns])

    def amounts(self, steps: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N count"]:
        """Coefficients of the directions in combined steps."""
        return np.asarray(steps[:, self.free])

    def along(
        self,
        asked: Float[np.ndarray, "N n"],
        x: Float[np.ndarray, " n"],
        which: Which,
        vectors: Float[np.ndarray, "k n"],
        written: bool = False,
    ) -> tuple[Float[np.ndarray, "N k"], Float[np.ndarray, " N"]]:
        """`(asked - x) @ vectors.T`, from the coordinates that the steps touch, and `taken`.

        Args:
            asked: Ends of steps.
            x: Where they begin.
            which: Directions.
            vectors: (k, n).
            written: Whether `asked` is what `points` wrote last, as it was.
        """
        at_pivots = self._at_pivots if written and len(self.pivots) else asked[:, self.pivots]
        moved, amount = at_pivots - x[self.pivots], self.taken(asked, x, which)
        inside = moved @ vectors[:, self.pivots].T
        inside += amount[:, None] * vectors[:, self.free[which]].T
        return inside, amount

    def spread(self, slopes: Float[np.ndarray, "M count"]) -> Float[np.ndarray, "M n"]:
        """Vectors (rows) whose products with the unscaled directions are `slopes`, up to what is known."""
        out = np.zeros((len(slopes), self.n))
        out[:, self.free] = slopes
        return out


def run(which: Int[np.ndarray, " K"]) -> Which:
    """Numbers in a row as a slice, which takes no copy."""
    if len(which) and which[-1] - which[0] == len(which) - 1 and (which[1:] > which[:-1]).all():
        return slice(int(which[0]), int(which[-1]) + 1)
    return which


class BasisFrame:
    """The rows of a basis themselves, for coordinates of a gradient in the known span."""

    def __init__(self, basis: Float[np.ndarray, "r n"]) -> None:
        self.basis, self.n = basis, basis.shape[1]
        self.scale = np.ones(len(basis))

    @property
    def count(self) -> int:
        return len(self.basis)

    def points(
        self,
        x: Float[np.ndarray, " n"],
        which: Which,
        length: float | Float[np.ndarray, " K"],
        exact: Exact = np.asarray,
        out: Float[np.ndarray, "K n"] | None = None,
    ) -> np.ndarray:
        same = out is not None and out.dtype == self.basis.dtype
        y = np.multiply(np.reshape(length, (-1, 1)), self.basis[which], out=out if same else None)
        y += x
        nearest = exact(y)
        if out is not None and nearest is not out:
            out[:] = nearest
        return nearest

    def combination(self, x: Float[np.ndarray, "N n"], amounts: Float[np.ndarray, "N count"]) -> np.ndarray:
        return np.asarray(x + amounts @ self.basis)

    def taken(self, asked: Float[np.ndarray, "K n"], x: Float[np.ndarray, " n"], which: Which) -> np.ndarray:
        return np.asarray(np.vecdot(asked - x, self.basis[which]))

    def amounts(self, steps: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N count"]:
        return np.asarray(steps @ self.basis.T)


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

    def vectors(self, which: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K n"]:
        unit = np.zeros((len(which), self.n))
        unit[np.arange(len(which)), which] = 1.0
        rows = fft.idct(unit, norm="ortho", axis=1, overwrite_x=True)
        rows *= self.signs
        rows -= self._explained[which] @ self.basis
        return np.asarray(rows)

    def spread(self, slopes: Float[np.ndarray, "M count"]) -> Float[np.ndarray, "M n"]:
        rows = fft.idct(slopes, norm="ortho", axis=1) * self.signs
        return np.asarray(rows - (rows @ self.basis.T) @ self.basis)


def slopes(
    ask: Asker, frame: SparseFrame | BasisFrame, places: Places, length: float, central: bool = False
) -> tuple[Float[np.ndarray, "N count m"], Bool[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Derivatives at places along a frame by forward differences; breakpoints found by one combined step at each.

    With `central`, which is for smooth models, both sides are asked.

    One more query tests all differences of a place at once: the answer to a random combination of the steps must be the
    same combination of the answers. Where it is not, groups of directions are tested, and only bad groups are asked
    again, with steps eight times shorter.

    Returns:
        Slopes along the unscaled directions, whether the last test passed, and how much noisier they are than along a
        unit vector over `length` (root mean square): unscaled ones are longer, and some steps had to be shorter.

    Queries: `N (count + 1)`, and about `4 * sqrt(count)` more at a breakpoint; `2 N count` with `central`
    """
    slope = np.empty((len(places), frame.count, ask.oracle.m))
    taken, coarser = np.empty(slope.shape[:2]), np.full(len(places), _longer(frame, 1.0))
    _difference(ask, frame, places, np.arange(frame.count), length, (slope, taken), central)
    if ask.smooth:
        return slope, np.asarray(np.isfinite(slope).all(axis=(1, 2))), coarser
    bad = _bends(ask, frame, places, np.ones(taken.shape, dtype=bool), length, (slope, taken))
    fine: np.ndarray = np.asarray(~bad)
    for i in np.flatnonzero(bad):
        part = slice(i, i + 1)
        fine[i], coarser[i] = _shortened(ask, frame, places[part], length, (slope[part], taken[part]))
    return slope, fine, coarser


Found = tuple[Float[np.ndarray, "N count m"], Float[np.ndarray, "N count"]]
"""Slopes at places along the directions of a frame, and the steps that were really taken; filled in place."""


def _difference(  # noqa: PLR0913 - what was found is filled in
    ask: Asker,
    frame: SparseFrame | BasisFrame,
    places: Places,
    which: Int[np.ndarray, " K"],
    length: float,
    found: Found,
    central: bool = False,
) -> None:
    """Ask all places along the directions in `which`, in batches that may hold several places."""
    count, one, points_at = len(which), len(places) == 1, list(places.x)
    # With one sign for all, the rounding of f(x) itself would be an error common to all directions.
    signed = length * ask.rng.choice([-1.0, 1.0], size=len(places) * count)
    for start in range(0, len(signed), ask.block):
        steps = signed[start : start + ask.block]
        at, order = divmod(np.arange(start, start + len(steps)), count)
        parts = _parts(points_at, which, start, start + len(steps))
        sigma, before = (places.sigma[0], places.fx[0]) if one else (places.sigma[at], places.fx[at])
        points, answers = ask.step(places.x, _roomier(ask, frame, parts, steps), sigma, at)
        step = _taken(frame, points, parts)
        if central:
            points, before = ask.step(places.x, legal_ends(ask.oracle, frame, parts, -steps), sigma, at)
            step = step - _taken(frame, points, parts)
        step = np.where(step == 0, np.inf, step)  # too short for the precision of the input: no slope
        found[0][at, which[order]] = (answers - before) / step[:, None]
        found[1][at, which[order]] = step
        del points  # so that the next batch may lie where this one lay


def _bends(
    ask: Asker,
    frame: SparseFrame | BasisFrame,
    places: Places,
    chosen: Bool[np.ndarray, "G count"],
    length: float,
    found: Found,
) -> Bool[np.ndarray, " G"]:
    """Whether the chosen directions met a breakpoint, by one combined step each: at each place, or all at one place."""
    slope, taken = found
    signed = ask.rng.choice([-1.0, 1.0], size=taken.shape) * frame.scale * 4 * length
    mixed = np.where(chosen, signed, 0.0) / np.sqrt(chosen.sum(axis=1, keepdims=True))
    x = np.broadcast_to(places.x, (len(chosen), frame.n))
    points = ask.oracle.written(frame.combination(x, mixed))
    points, answers = ask.step(x, points, np.broadcast_to(places.sigma, (len(chosen), slope.shape[2])))
    amounts = np.where(chosen, frame.amounts(points - x), 0.0)
    error = np.sqrt(2 * (1 + np.sum((amounts / taken) ** 2, axis=1, keepdims=True)))
    gone = ~np.isfinite(slope).all(axis=2)
    told = np.matmul(amounts[:, None], np.nan_to_num(slope) if gone.any() else slope)[:, 0]
    straight = (np.abs(answers - places.fx - told) <= STRAIGHT * error).all(axis=1)
    # Where an answer is missing nothing can be said: that is not straight.
    return np.asarray(~straight | (chosen & gone).any(axis=1))


def _shortened(
    ask: Asker, frame: SparseFrame | BasisFrame, place: Places, length: float, found: Found
) -> tuple[bool, float]:
    """Ask those groups of directions again that met a breakpoint at a place; whether none does now, and the noise."""
    shorter = np.ones(frame.count)
    groups = np.zeros((max(1, int(np.sqrt(frame.count))), frame.count), dtype=bool)
    groups[np.arange(frame.count) % len(groups), ask.rng.permutation(frame.count)] = True

    def bad() -> Bool[np.ndarray, " G"]:
        blocks = (groups[i : i + ask.block] for i in range(0, len(groups), ask.block))
        return np.concatenate([_bends(ask, frame, place, block, length, found) for block in blocks])

    for _ in range(SHORTER_STEP_ROUNDS):
        groups = groups[bad()]
        if not len(groups):
            return True, _longer(frame, shorter)
        length /= SHORTER
        again = np.flatnonzero(groups.any(axis=0))
        _difference(ask, frame, place, again, length, found)
        shorter[again] *= SHORTER
    return not bad().any(), _longer(frame, shorter)


def _longer(frame: SparseFrame | BasisFrame, shorter: Float[np.ndarray, " count"] | float) -> float:
    """How much noisier slopes are along the unscaled directions, over steps so many times shorter."""
    return float(np.sqrt(np.mean((shorter / frame.scale) ** 2)))


Part = tuple[np.ndarray, slice, Which]
"""Rows of a batch that are steps from one point: it, which rows, and the directions."""


def _parts(x: list[Float[np.ndarray, " n"]], which: Int[np.ndarray, " K"], start: int, stop: int) -> list[Part]:
    """Those of the steps numbered `start` to `stop`, along the directions in `which` from one point after the other."""
    count = len(which)
    edges = [start, *range((start // count + 1) * count, stop, count), stop]
    return [
        (x[low // count], slice(low - start, high - start), run(which[low % count : low % count + high - low]))
        for low, high in pairwise(edges)
    ]


def legal_ends(
    oracle: Oracle, frame: SparseFrame | BasisFrame, parts: list[Part], length: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N n"]:
    """The legal questions nearest to the ends of steps of signed lengths from legal ones."""
    if oracle.entrywise:
        return _ends(frame, parts, length, oracle.written)
    return oracle.written(_ends(frame, parts, length))


def _ends(
    frame: SparseFrame | BasisFrame, parts: list[Part], length: Float[np.ndarray, " N"], exact: Exact = np.asarray
) -> Float[np.ndarray, "N n"]:
    if len(parts) == 1:
        return frame.points(parts[0][0], parts[0][2], length, exact)
    ends = np.empty((len(length), frame.n), exact(np.empty(0)).dtype)
    for x, rows, which in parts:
        frame.points(x, which, length[rows], exact, ends[rows])
    return ends


def _taken(
    frame: SparseFrame | BasisFrame, asked: Float[np.ndarray, "N n"], parts: list[Part]
) -> Float[np.ndarray, " N"]:
    """The coefficient of each step's direction in the step really taken."""
    return np.concatenate([frame.taken(asked[rows], x, which) for x, rows, which in parts])


def _roomier(
    ask: Asker, frame: SparseFrame | BasisFrame, parts: list[Part], length: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N n"]:
    """Ends of steps of signed lengths; on the other side where a wall of the box would cut them off.

    A step that a wall has made short has the noise of a full one, and would pass it off as a large slope.
    """
    if ask.oracle.within is None:
        return legal_ends(ask.oracle, frame, parts, length)
    wanted = _ends(frame, parts, length)
    points = ask.oracle.written(wanted)
    beyond = (np.clip(wanted, *ask.oracle.within) != wanted).any(axis=1)
    if beyond.any():
        cut = np.abs(points - wanted).max(axis=1)
        back = _ends(frame, parts, -length)
        other = ask.oracle.written(back)
        turn = beyond & (np.abs(other - back).max(axis=1) < cut)
        points[turn] = other[turn]
    return points
