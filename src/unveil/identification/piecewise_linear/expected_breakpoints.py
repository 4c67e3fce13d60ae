"""Ways: where neurons must bend the answers on the lines searched, and how often they were met there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import along_line, same_place
from unveil.identification.piecewise_linear.neuron import AGREES, Neuron

FLAT_SLOPE_SHARE = 1e-7  # slopes that are none, relative to the steepest one


class Expected(NamedTuple):
    """Where neurons must bend the answers: only where all they see is known."""

    which: Int[np.ndarray, " P"]  # whose place it is
    line: Int[np.ndarray, " P"]  # on which line
    h: Float[np.ndarray, "P k"]  # what the neuron sees there
    sigma: Float[np.ndarray, " P"]  # how far off the place may be, along the line
    off: Float[np.ndarray, " P"]  # how far from it the nearest breakpoint is
    met: Bool[np.ndarray, " P"]  # whether that is the one expected
    shown: Bool[np.ndarray, " P"]  # whether it would have shown: where answers stand still behind it no neuron does


class Ways(NamedTuple):
    """What the layers read make of lines: their values at both ends of every piece, on which they are linear."""

    start: Float[np.ndarray, " E"]  # where each piece begins
    end: Float[np.ndarray, " E"]  # where it ends
    before: Float[np.ndarray, "E k"]  # the values at its beginning
    after: Float[np.ndarray, "E k"]  # the values at its end
    line: Int[np.ndarray, " E"]  # on which line it lies
    lines: Sequence[Line]  # these
    still: float  # slopes of the answers that are none
    error: float  # of the layers' rows

    @classmethod
    def of(cls, layers: list[AffineMap], lines: Sequence[Line], error: float) -> Ways:
        """Of these lines, at least one."""
        parts = [along_line(layers, each) for each in lines]
        steepest = max(float(np.abs(each.slope).max() / np.linalg.norm(each.direction)) for each in lines)
        return cls(
            np.concatenate([t[:-1] for t, _ in parts]),
            np.concatenate([t[1:] for t, _ in parts]),
            np.concatenate([h[:-1] for _, h in parts]),
            np.concatenate([h[1:] for _, h in parts]),
            np.repeat(np.arange(len(parts)), [len(t) - 1 for t, _ in parts]),
            lines,
            FLAT_SLOPE_SHARE * steepest,
            error,
        )

    def expected(self, neurons: Sequence[Neuron]) -> Expected:
        """Where these neurons, up to sign, must be met, and whether they are."""
        W, b, known = (np.array([getattr(one, name) for one in neurons]) for name in ("weights", "bias", "known"))
        z, later = self.before @ W.T + b, self.after @ W.T + b
        piece, which = np.nonzero((z > 0) != (later > 0))
        there = np.maximum(self.before[piece], self.after[piece])
        sure = ~((there > 0) & ~known[which]).any(axis=1)
        piece, which, there = piece[sure], which[sure], there[sure]
        z, later = z[piece, which], later[piece, which]
        length, part = self.end[piece] - self.start[piece], z / (z - later)
        sigma = self.error * (1 + np.linalg.norm(there, axis=1))
        for i in np.unique(which):
            own = which == i
            sigma[own] = np.hypot(sigma[own], neurons[i].doubt(there[own]))
        sigma *= length / np.abs(later - z)
        t, line = self.start[piece] + part * length, self.line[piece]
        off, met, shown = np.full(len(t), np.inf), np.zeros(len(t), dtype=bool), np.ones(len(t), dtype=bool)
        for i in np.unique(line):
            here, own = self.lines[i], np.flatnonzero(line == i)
            flat = np.abs(here.slope).max(axis=1) <= self.still * np.linalg.norm(here.direction)
            shown[own] = ~flat[np.searchsorted(here.t, t[own])]
            if len(here.t):
                apart = np.abs(here.t[:, None] - t[own])
                nearest = apart.argmin(axis=0)
                off[own] = apart[nearest, np.arange(len(own))]
                met[own] = off[own] <= same_place(t[own], AGREES * sigma[own]) + 3 * here.width[nearest]
        h = self.before[piece] + part[:, None] * (self.after[piece] - self.before[piece])
        return Expected(which, line, h, sigma, off, met, met | shown)

    def confirmed(self, neurons: Sequence[Neuron]) -> list[Neuron]:
        """With how often each was met where it should have been, on how many lines, and in how many settings.

        A setting is which of the others are active: while it stays, a neuron of a deeper layer goes on straight, too.
        """
        if not neurons:
            return []
        at = self.expected(neurons)
        firm = np.array([i for i, one in enumerate(neurons) if one.whole and one.readings > 1], dtype=int)
        W, b = (np.array([getattr(one, name) for one in neurons])[firm] for name in ("weights", "bias"))
        which, h, line = at.which[at.met], at.h[at.met], at.line[at.met]
        others = (h @ W.T + b > 0) & (which[:, None] != firm)

        def counted(*of: np.ndarray) -> list[int]:
            """How many different rows there are of each neuron."""
            rows = np.unique(np.column_stack([which, *of]), axis=0)
            return [int(n) for n in np.bincount(rows[:, 0].astype(int), minlength=len(neurons))]

        should, were = (np.bincount(each, minlength=len(neurons)).tolist() for each in (at.which[at.shown], which))
        counts = zip(neurons, should, were, counted(line), counted(others), strict=True)
        return [replace(one, should=s, were=w, lines=on, settings=n) for one, s, w, on, n in counts]

    def deviations(self, neurons: Sequence[Neuron]) -> list[Float[np.ndarray, " M"]]:
        """How far from where it was expected each neuron was met, in units of what it might be off. Of an error that is
        overstated they are a small part of one."""
        at = self.expected(neurons)
        return [(at.off / at.sigma)[at.met & (at.which == i)] for i in range(len(neurons))]
