"""From answers and breakpoints to the pieces of a line: long chords sharpen breakpoints, and show what was missed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.line import Line
from unveil.blackbox.line_search.fit import Lines, crossing, limit, straight_pieces
from unveil.blackbox.line_search.search import Answers, Stretch

# Answers closer to a breakpoint than this many of its standard deviations belong to neither piece.
NEAR = 4.0
# The answers of a whole piece, from all over the line, may be so many times further off one line than those of a
# stretch: the deviation at one place is known to a factor of two at best.
LONG = 2.0
# Share of a piece that its answers must cover.
PIECE_COVERAGE = 0.8


def rows_of(answers: Answers, line: int) -> Int[np.ndarray, " A"]:
    """All answers on a line, ascending in t."""
    rows = np.flatnonzero(answers.line == line)
    return np.asarray(rows[np.argsort(answers.t[rows], kind="stable")])


def cut(t: Float[np.ndarray, " A"], at: Float[np.ndarray, " B"], sigma: Float[np.ndarray, " B"]) -> list[np.ndarray]:
    """Positions of the answers of each piece between breakpoints, leaving out those too close to one."""
    clear = np.ones(len(t), dtype=bool)
    # However vaguely a breakpoint is known, its neighbours and the answers around them count.
    apart = np.diff(at, prepend=-np.inf, append=np.inf)
    near = np.minimum(NEAR * sigma, np.minimum(apart[:-1], apart[1:]) / 4) if len(at) else sigma
    for place, error in zip(at, near, strict=True):
        clear &= np.abs(t - place) > error
    piece = np.searchsorted(at, t)
    return [np.flatnonzero((piece == i) & clear) for i in range(len(at) + 1)]


def consolidated(
    answers: Answers, line: int, found: list[tuple[float, float]], reopen: bool
) -> tuple[list[tuple[float, float]], list[Stretch]]:
    """Breakpoints of a line sharpened by the long pieces between them; those that no piece shows are dropped.

    Args:
        answers: All answers so far.
        line: Which line.
        found: Its breakpoints, (t, sigma).
        reopen: Whether the breakpoints beside a piece that is not straight are given back, to be searched again.

    Returns:
        Breakpoints as (t, sigma), and the stretches around pieces that are not straight.
    """
    rows = rows_of(answers, line)
    found = _apart(sorted(found))
    while True:
        parts = cut(answers.t[rows], *_columns(found))
        thin = next((i for i, part in enumerate(parts) if len(part) < 2 and found), None)
        if thin is not None:  # two breakpoints with nothing between them are one, known as well as the sharper
            beside = [i for i in (thin - 1, thin) if 0 <= i < len(found)]
            del found[max(beside, key=lambda i: found[i][1])]
            continue
        drop = _unneeded(answers, rows, parts)
        if not drop.any():
            break
        found = [f for f, gone in zip(found, drop, strict=True) if not gone]
    sharper, worst = _where_pieces_meet(answers, rows, found, parts)
    parts = cut(answers.t[rows], *_columns(sharper))
    most = LONG * limit(answers.table(rows[:1])[1].shape[1])
    places = answers.t[rows]
    edges = np.concatenate([[places[0]], _columns(sharper)[0], [places[-1]]])
    bad = [i for i in range(len(parts)) if worst[i] > most or _empty(places[parts[i]], edges[i], edges[i + 1])]
    if bad and reopen:
        return _given_back(line, rows, sharper, parts, bad)
    # Beside a piece that is not straight a breakpoint stays where its own stretch saw it.
    sharper = [old if {i, i + 1} & set(bad) else new for i, (old, new) in enumerate(zip(found, sharper, strict=True))]
    # With the answers just outside: the piece's ends are no better known than it is.
    low = np.maximum(np.searchsorted(places, edges[:-1]) - 1, 0)
    # Two pieces of the same place leave nothing between them: one answer still says where.
    high = np.maximum(np.searchsorted(places, edges[1:], side="right") + 1, low + 1)
    return sharper, [Stretch(line, rows[low[i] : high[i]]) for i in bad]


def _where_pieces_meet(
    answers: Answers, rows: np.ndarray, found: list[tuple[float, float]], parts: list[np.ndarray]
) -> tuple[list[tuple[float, float]], np.ndarray]:
    """Breakpoints where the lines of whole pieces meet, and the worst residual of every piece with these, in sigmas.

    Two lines that miss each other, or meet on the far side of another breakpoint, count for both of their pieces: they
    have more than one breakpoint between them.
    """
    t, y, sigma = answers.table(rows)
    if not found:
        return found, straight_pieces(t, y, sigma, parts)[1]
    old, error = _columns(found)
    lines, _ = straight_pieces(t, y, sigma, parts)
    left, right = lines.take(slice(None, -1)), lines.take(slice(1, None))
    at, doubt = crossing(left, right, old)
    before, after = np.append(t[0], old[:-1]), np.append(old[1:], t[-1])
    at = np.clip(at, before + 0.1 * (old - before), after - 0.1 * (after - old))
    gap = np.sqrt(((left.at(at) - right.at(at)) ** 2 / (left.variance(at) + right.variance(at))).mean(axis=1))
    doubt = np.where(np.abs(at - old) < error, np.minimum(doubt, error), doubt)
    worst = straight_pieces(t, y, sigma, cut(t, at, doubt))[1]
    worst = np.maximum(worst, np.maximum(np.append(gap, 0.0), np.append(0.0, gap)))
    return list(zip(at.tolist(), doubt.tolist(), strict=True)), worst


def _empty(t: np.ndarray, low: float, high: float) -> bool:
    """Whether answers cover too little of a piece: a line known from one end alone says nothing about the other."""
    return len(t) < 2 or bool(np.ptp(t) < PIECE_COVERAGE * (high - low))


def _columns(found: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t for t, _ in found]), np.array([sigma for _, sigma in found])


def _given_back(
    line: int,
    rows: np.ndarray,
    found: list[tuple[float, float]],
    parts: list[np.ndarray],
    bad: list[int],
) -> tuple[list[tuple[float, float]], list[Stretch]]:
    """Around every piece that is not straight, the breakpoints beside it may be two: both sides are opened as well."""
    kept = [f for i, f in enumerate(found) if i not in bad and i + 1 not in bad]
    stretches: list[Stretch] = []
    groups: list[list[int]] = []
    for i in bad:
        if groups and i - groups[-1][-1] <= 2:
            groups[-1].append(i)
        else:
            groups.append([i])
    for group in groups:
        first, last = group[0], group[-1]
        low = parts[first - 1][len(parts[first - 1]) // 2] if first else 0
        after = parts[last + 1] if last + 1 < len(parts) else None
        high = len(rows) - 1 if after is None else after[(len(after) - 1) // 2]
        stretches.append(Stretch(line, rows[low : high + 1]))
    return kept, stretches


def _apart(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One breakpoint where two stretches found the same."""
    kept: list[tuple[float, float]] = []
    for t, sigma in found:
        if kept and t - kept[-1][0] <= NEAR * min(sigma, kept[-1][1]) + 1e-13 * max(1.0, abs(t)):
            kept[-1] = min(kept[-1], (t, sigma), key=lambda f: f[1])
        else:
            kept.append((t, sigma))
    return kept


def _unneeded(answers: Answers, rows: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Breakpoints whose two pieces fit one line; of neighbours only the first, for the next may be needed then."""
    if len(parts) < 2:
        return np.zeros(0, dtype=bool)
    both = [np.concatenate(pair) for pair in pairwise(parts)]
    t, y, sigma = answers.table(rows)
    drop = straight_pieces(t, y, sigma, both)[1] <= limit(y.shape[1])
    for i in range(1, len(drop)):
        drop[i] &= not drop[i - 1]
    return np.asarray(drop)


def hidden(t: Float[np.ndarray, " K"], sigma: Float[np.ndarray, "K m"]) -> Float[np.ndarray, " m"]:
    """The change of slope in the middle four fifths of a piece that its answers would not show.

    A jump of one at a place leaves residuals on the best line through the piece; the least of the largest residuals
    over all places, in sigmas, says which jump reaches the limit.
    """
    if len(t) < 3:
        return np.full(sigma.shape[1], np.inf)
    inner = t[0] + np.linspace(0.1, 0.9, 17) * (t[-1] - t[0])
    weight = 1 / sigma.T[:, :, None]
    lines = np.linalg.qr(weight * np.stack([np.ones(len(t)), t - t[0]], axis=1))[0]
    bend = weight * np.maximum(t[:, None] - inner, 0.0)
    residual = np.abs(bend - lines @ (lines.transpose(0, 2, 1) @ bend)).max(axis=1)
    return np.asarray(LONG * limit(1) / np.maximum(residual.min(axis=1), 1e-300))


def line_of(
    answers: Answers,
    line: int,
    found: list[tuple[float, float]],
    unresolved: list[tuple[float, float]],
    low: float,
    high: float,
) -> Line:
    """The result for one line."""
    rows = rows_of(answers, line)
    at, sigma = _columns(found)
    parts = cut(answers.t[rows], at, sigma)
    t, y, deviation = answers.table(rows)
    lines, _ = straight_pieces(t, y, deviation, parts)
    m = y.shape[1]
    limits = np.array([hidden(t[part], deviation[part]) for part in parts]).reshape(len(parts), m)
    edges = np.concatenate([[low], at, [high]])
    for a, b in unresolved:
        limits[(edges[:-1] < b) & (edges[1:] > a)] = np.inf
    slope = lines.slope
    value = _value(lines.take(slice(None, -1)), lines.take(slice(1, None)), at) if len(at) else np.zeros((0, m))
    return Line(
        at, np.diff(slope, axis=0), slope, value, limit(m) * sigma, low, high, np.array(unresolved).reshape(-1, 2),
        base=answers.base[line], direction=answers.direction[line], hidden=limits,
        doubt=np.sqrt(lines.slope_variance),
    )  # fmt: skip


def _value(left: Lines, right: Lines, t: np.ndarray) -> np.ndarray:
    """The answers at breakpoints, from the lines on both sides as sure as they are."""
    a, b = 1 / left.variance(t), 1 / right.variance(t)
    return np.asarray((a * left.at(t) + b * right.at(t)) / (a + b))
