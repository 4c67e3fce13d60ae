"""Slopes along the complement of the span: along all of it at every place, or along a few fresh directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.answers import complete
from unveil.blackbox.span_search.directions import DenseFrame, SparseFrame, legal_ends, run
from unveil.blackbox.span_search.points import TINY, Asker, clipped_step, longest_step, walls
from unveil.blackbox.span_search.state import LONGEST, State

MULTIPLES = 64  # of a short step that the longest one along a vector of a box consists of
MEASURING_STEP_SHARE = 0.5  # of the longest step of a refinement, that a step of a measurement takes
SKETCH = 8  # fresh directions of the complement along which the span's error is measured
OTHER_SIDE_SIGMAS = 10.0  # standard deviations of a change above which the other side is asked too
WALLED = 0.5  # of the steps allowed, below which usual ones are ended by walls


def complement_frame(ask: Asker, state: State, far: float = LONGEST) -> tuple[DenseFrame | SparseFrame, float]:
    """A frame of the complement, and how long steps along it may be for the error of the span."""
    longest = state.farthest(far)
    if ask.oracle.within is not None:
        return DenseFrame(state.known, ask.rng), longest
    return SparseFrame(state.known), longest


def slopes_along(
    ask: Asker, frame: DenseFrame | SparseFrame, state: State, longest: float
) -> tuple[Float[np.ndarray, "Nm count"], float]:
    """Slopes of all gradients along a frame of the complement, and the usual length of a step."""
    places, c = state.gradients  # type: ignore[misc]
    gradients = c.reshape(len(places), ask.oracle.m, -1)
    slopes = np.empty((len(places), ask.oracle.m, frame.count))
    blocks = [np.arange(start, min(start + ask.block, frame.count)) for start in range(0, frame.count, ask.block)]
    lengths = np.empty((len(places), len(blocks)))
    walk = _across_box if isinstance(frame, DenseFrame) else _touching_few
    for i, block, change, amount in walk(ask, frame, state, gradients, blocks, longest):  # type: ignore[arg-type]
        slope = change / np.where(amount == 0, np.inf, amount)[:, None]
        # A step without an answer corrects nothing; the measurement afterwards shows what that costs.
        slopes[i][:, run(blocks[block])] = (slope if complete(slope) else np.nan_to_num(slope)).T
        lengths[i, block] = _middle(np.abs(amount))
    return slopes.reshape(len(c), -1), max(float(np.mean(lengths)), 1e-300)


Walk = Iterator[tuple[int, int, Float[np.ndarray, "B m"], Float[np.ndarray, " B"]]]
"""Number of the place and of the block of directions; changes less what the step's part in the span explains; steps."""


def _touching_few(
    ask: Asker,
    frame: SparseFrame,
    state: State,
    gradients: Float[np.ndarray, "N m r"],
    blocks: list[Int[np.ndarray, " B"]],
    longest: float,
) -> Walk:
    """Steps along vectors of which each touches few coordinates, at one place after the other.

    Args:
        ask: Answers.
        frame: The vectors.
        state: The span, and the places.
        gradients: (N, m, r) in coordinates of the span.
        blocks: Numbers of the vectors that are asked along at a time.
        longest: A step.
    """
    for i, (point, answer, sigma) in enumerate(state.gradients[0]):  # type: ignore[index]
        told = gradients[i] @ state.known.basis
        for block, which in enumerate(blocks):
            # With one sign for all, the rounding of the answer at the point would be a common error.
            sign, part = ask.rng.choice([-1.0, 1.0], size=len(which)), run(which)
            ends = legal_ends(ask.oracle, frame, [(point, slice(len(which)), part)], longest * sign)
            asked, answers = ask.step(point, ends, sigma)
            # Rounded to what the model takes, the step is not quite in the complement: take off what that explains.
            inside, amount = frame.along(asked, point, part, told, asked is ends and ask.oracle.entrywise)
            del asked, ends  # so that the next batch may lie where this one lay
            yield i, block, answers - answer - inside, amount


def _across_box(
    ask: Asker,
    frame: DenseFrame,
    state: State,
    gradients: Float[np.ndarray, "N m r"],
    blocks: list[Int[np.ndarray, " B"]],
    longest: float,
) -> Walk:
    """Steps along vectors that touch every coordinate, block by block, since these take long to make.

    Where the oracle has a spacing, steps along a vector are whole multiples of one that the input holds exactly, and so
    are the points to which they lead. What such a step has in the span is then known once for all places.

    Args as for `_touching_few`.
    """
    basis, oracle, places = state.known.basis, ask.oracle, state.gradients[0]  # type: ignore[index]
    spacing, (low, high) = oracle.spacing, oracle.within  # type: ignore[misc]
    kind = np.dtype(np.float64) if spacing is None else oracle.dtype
    starts = list(places.x.astype(kind))
    # A rounded vector is off by half a spacing at most, its multiples by as many halves.
    off = 0.0 if spacing is None else spacing * MULTIPLES / 2
    room = [walls((low + off, high - off), x) for x in places.x]
    for block, which in enumerate(blocks):
        vectors = frame.vectors(which)
        squares, single = np.maximum(np.vecdot(vectors, vectors), TINY), vectors.astype(np.float32)
        largest, steps = np.abs(single).max(), vectors
        lengths = np.array([np.clip(longest_step(single, largest, *each), -longest, longest) for each in room])
        if spacing is not None:
            part = np.abs(lengths).max(axis=0) / MULTIPLES
            steps = np.rint(vectors * part[:, None] / spacing) * spacing
            lengths = np.trunc(lengths / part)
            inside, along = steps @ basis.T, np.vecdot(steps, vectors) / squares
            steps = steps.astype(kind)
        for i, (point, answer, sigma) in enumerate(places):
            ends = lengths[i, :, None].astype(kind) * steps
            ends += starts[i]
            asked, answers = ask.step(point, ends if spacing is not None else oracle.written(ends), sigma)
            if asked is ends and spacing is not None:
                told, amount = (lengths[i, :, None] * inside) @ gradients[i].T, lengths[i] * along
            else:  # rounded otherwise, or made shorter
                moved = asked - point
                told, amount = moved @ (gradients[i] @ basis).T, np.vecdot(moved, vectors) / squares
            yield i, block, answers - answer - told, amount


def _middle(x: Float[np.ndarray, " N"]) -> float:
    """The median, without the care that `np.median` takes of axes and of NaN."""
    ordered = np.sort(x)
    return float((ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2)


def fresh_directions(
    ask: Asker, state: State
) -> tuple[Float[np.ndarray, "s n"], Float[np.ndarray, " s"], Float[np.ndarray, "r r"]]:
    """Unit directions of the complement, orthogonal in the inputs' own units.

    Returns:
        The directions, the length of each in those units over that in the units asked, and the triangular factor that
        carries errors of the basis over.
    """
    count = min(SKETCH, state.known.n - state.rank)
    own, mixing = np.linalg.qr((state.known.basis / ask.units).T)
    raw = ask.rng.standard_normal((count, state.known.n))
    raw -= (raw @ own) @ own.T
    raw = np.linalg.qr(raw.T)[0].T / ask.units
    weights = np.linalg.norm(raw, axis=1)
    directions = raw / weights[:, None]
    return directions - (directions @ state.known.basis.T) @ state.known.basis, weights, mixing.T


def sketch(ask: Asker, state: State, directions: Float[np.ndarray, "s n"]) -> tuple[Float[np.ndarray, "Nm s"], float]:
    """Slopes of all gradients along the directions, and the usual length of a step: half that of a refinement."""
    places, c = state.gradients  # type: ignore[misc]
    m = ask.oracle.m
    longest = MEASURING_STEP_SHARE * state.farthest()
    count = len(directions)
    sign = ask.rng.choice([-1.0, 1.0], size=(len(places), count))
    if ask.oracle.within is None:
        amount = longest * sign
    else:
        amount = np.array([clipped_step(ask.oracle, x[None], directions, longest) for x in places.x])
    pairs = np.repeat(np.arange(len(places)), count), np.tile(np.arange(count), len(places))
    slope = _slopes(ask, state, directions, pairs, amount.ravel())
    # The error shows on the other side too; a breakpoint that the step has met does not.
    again = np.flatnonzero((np.abs(slope * amount.reshape(-1, 1)) > OTHER_SIDE_SIGMAS).any(axis=1))
    if len(again):
        back = (-0.4 if ask.oracle.within is None else 0.4) * amount.ravel()[again]  # in a box only one side has room
        second = _slopes(ask, state, directions, (pairs[0][again], pairs[1][again]), back)
        slope[again] = np.where(np.abs(second) < np.abs(slope[again]), second, slope[again])
    slopes = slope.reshape(len(places), count, m).swapaxes(1, 2).reshape(len(c), count)
    return slopes, float(np.median(np.median(np.abs(amount), axis=1)))


def _slopes(
    ask: Asker,
    state: State,
    directions: Float[np.ndarray, "s n"],
    pairs: tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]],
    amount: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "N m"]:
    """Slopes along directions of the complement, less what the step's part in the span explains; inf if no step.

    Args:
        ask: The oracle.
        state: Its gradients are those of the places.
        directions: Unit directions of the complement.
        pairs: For each step the number of its place and that of its direction.
        amount: Signed lengths.
    """
    places, c = state.gradients  # type: ignore[misc]
    gradients = c.reshape(len(places), ask.oracle.m, -1)
    slope = np.empty((len(amount), ask.oracle.m))
    for start in range(0, len(amount), ask.block):
        some = slice(start, start + ask.block)
        place, which = pairs[0][some], pairs[1][some]
        x, along = places.x[place], directions[which]
        asked, answers = ask.step(x, ask.oracle.written(x + amount[some, None] * along), places.sigma[place])
        step = asked - x
        moved = np.einsum("ij,ij->i", step, along)
        inside = np.einsum("ir,imr->im", step @ state.known.basis.T, gradients[place])
        with np.errstate(divide="ignore", invalid="ignore"):
            slope[some] = (answers - places.fx[place] - inside) / moved[:, None]
    return np.where(np.isfinite(slope), slope, np.inf)


def walled(usual: float, longest: float) -> bool:
    """Whether walls of a box end steps, so that a sharper span makes them no longer and rounding stays what it is."""
    return usual < WALLED * longest


def weighted_inverse(c: Float[np.ndarray, "Nm r"], weights: Float[np.ndarray, "Nm 1"]) -> Float[np.ndarray, "r Nm"]:
    """What turns slopes into the error of the rows, by weighted least squares."""
    return np.asarray(np.linalg.pinv(weights * c) * weights.T)
