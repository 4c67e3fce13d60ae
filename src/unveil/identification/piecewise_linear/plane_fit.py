"""read_planes: with few coordinates, a first-layer hyperplane is a plane through breakpoints of many lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.normals import normals
from unveil.identification.piecewise_linear.probe import Probe

# Lines at a time, and how many times the normals at their breakpoints are measured, as first guesses.
LINES = 12
MEASURED = 2
# How rarely chance may put so many breakpoints on a plane.
RARE = 1e-6
# What is known about the length of a unit normal.
FIRM = 1e-9
# Only normals this exact are first guesses.
CLEAR = 0.05
# From a first guess to the plane.
ROUNDS = 8
# Relative rounding of the points themselves, as float32 takes them.
POINT = 1e-6


def read_planes(probe: Probe, frame: Frame, *, far: float, most_lines: int, found: LayerFound) -> Iterator[LayerFound]:
    """Read a layer on few coordinates, also one of more neurons than coordinates.

    Lines are cheap and full of breakpoints; looking at windows far away says little, because something always bends
    there. But positions are known to five digits. A normal measured at one breakpoint predicts where the plane meets
    the other lines; the breakpoints found there make it sharper, step by step. Breakpoints of a deeper neuron lie on
    one plane only as far as no neuron before it switches.

    Args:
        frame: The coordinates; free.

    Yields:
        What was found after every `LINES` lines.

    Queries: about 14 per breakpoint on every line, and those of `normals` on the first `MEASURED LINES` of them.
    """
    planes = _Planes([])
    candidates = Hyperplanes.none(frame, probe.m)
    for number in range(most_lines // LINES):
        base, direction, low, high = frame.lines(LINES, far, probe.rng)
        lines = line_search(probe.ask, base, direction, low, high, probe.noise, probe.rng)
        planes = _Planes([*planes.lines, *lines])
        for line in lines:
            if number < MEASURED:
                found, more = normals(probe, frame, line, np.full(len(line.t), -1), found)
                candidates = Hyperplanes.joined([candidates, more])
            found = found.with_line(line)
        had = len(found)
        bent: list[int] = []
        for i in np.argsort(candidates.error, kind="stable"):
            each = candidates[np.array([i])]
            if each.error[0] > CLEAR or _passes(found, each):
                continue
            plane = planes.through(each.rows[0], each.at[0], float(each.error[0]))
            if plane is None:
                bent.append(int(i))
            elif not _same(found, *plane):
                row, bias, error = plane
                jump = each.jump * np.sign(row @ each.rows[0])
                found = found.with_straight(Hyperplanes(row[None], np.array([bias]), jump, np.array([error]), each.at))
        found = replace(found, bent=candidates[np.array(bent, dtype=int)], bent_maybe=np.zeros(len(bent), bool))
        yield found
        if number + 1 >= MEASURED and len(found) == had:
            break


def _passes(found: LayerFound, one: Hyperplanes) -> bool:
    """Whether one of the planes found passes through a breakpoint as steeply as was measured there."""
    near = np.sqrt(np.maximum(0, 2 - 2 * np.abs(found.rows @ one.rows[0]))) <= 4 * one.error[0] + 1e-3
    at = one.at[0]
    return bool((near & (np.abs(found.rows @ at + found.bias) <= 1e-3 * (1 + np.linalg.norm(at)))).any())


def _same(found: LayerFound, row: np.ndarray, bias: float, error: float) -> bool:
    """Whether a plane was found before."""
    cos = found.rows @ row
    near = 2 - 2 * np.abs(cos) <= (10 * (error + found.straight.error) + 1e-4) ** 2
    return bool((near & (np.abs(np.sign(cos) * found.bias - bias) <= 1e-3 * (1 + abs(bias)))).any())


class _Planes:
    """Breakpoints of many lines, one row of every table per line; rows are filled up with infinity."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.base = np.array([line.base for line in self.lines])
        self.direction = np.array([line.direction for line in self.lines])
        self.low, self.high = (np.array([getattr(line, end) for line in self.lines]) for end in ("low", "high"))
        most = max([2, *(len(line.t) for line in self.lines)])
        shape = (len(self.lines), most)
        self.t, self.width, self.around = np.full(shape, np.inf), np.zeros(shape), np.full(shape, np.inf)
        for i, line in enumerate(self.lines):
            k = len(line.t)
            self.t[i, :k], self.width[i, :k] = line.t, line.width
            # How far apart breakpoints are around here, from five pieces.
            edges = line.edges
            last = len(edges) - 1
            first = np.maximum(np.arange(k) - 1, 0)
            self.around[i, :k] = (edges[np.minimum(first + 5, last)] - edges[first]) / 5

    def through(
        self, row: Float[np.ndarray, " n"], at: Float[np.ndarray, " n"], error: float
    ) -> tuple[np.ndarray, float, float] | None:
        """The plane through many breakpoints that is nearest to a first guess: row, bias, error; None if there is none.

        Args:
            row: Unit normal, roughly.
            at: A breakpoint on the plane.
            error: Of the normal, relative.
        """
        n = len(row)
        spread = error * np.eye(n) / np.sqrt(n)  # a square root of the covariance of the normal
        points, chance = at[None], 0.0
        for _ in range(ROUNDS):
            points, doubts, chance = self._met(row, at, spread)
            if len(points) < 2:
                return None
            # Nothing is learnt about the length of the normal; it stays.
            prior = np.eye(n) * np.sqrt(n) / error + np.outer(row, row) / FIRM
            A = np.concatenate([(points - at) / doubts[:, None], prior])
            y = np.concatenate([np.zeros(len(points)), prior @ row])
            new, *_ = np.linalg.lstsq(A, y, rcond=None)
            _, size, turn = np.linalg.svd(A, full_matrices=False)
            spread = turn.T / size
            row = new / np.linalg.norm(new)
        sharp = max(float(np.linalg.norm(spread)), POINT)
        # A plane goes through any n points; so many more must not be chance.
        if len(points) <= n or special.pdtrc(len(points) - n - 1, chance) > RARE:
            return None
        return row, float(-row @ at), sharp

    def _met(self, row: np.ndarray, at: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The breakpoints that the plane surely meets, one per line, how exactly their distance to it is known, and how
        many would be met by chance."""
        rate = self.direction @ row
        rate = np.where(np.abs(rate) < 1e-9, 1e-9, rate)
        t = (at - self.base) @ row / rate
        away = self.base + t[:, None] * self.direction - at
        rounding = POINT * (1 + np.abs(t))
        slack = 3 * np.linalg.norm(away @ spread, axis=1) / np.abs(rate) + rounding
        off = np.abs(self.t - t[:, None]) - self.width
        k = off.argmin(axis=1)
        each = np.arange(len(t))
        width = self.width[each, k]
        share = 2 * (slack + width) / self.around[each, k]
        telling = (t > self.low) & (t < self.high) & (share < 0.5)
        # Where several are possible none is taken: the next round knows better.
        sure = telling & (off[each, k] <= slack) & ((off <= 2 * slack[:, None]).sum(axis=1) == 1)
        points = (self.base + self.t[each, k][:, None] * self.direction)[sure]
        return points, ((width / 3 + rounding) * np.abs(rate))[sure], float(share[telling].sum())
