"""Hyperplanes on which answers bend, as they were met, and what was read of one layer: handed on, never changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.blackbox.rows import Rows
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame

# A hyperplane is one met before where normal and position agree to so many times both errors, which are no smaller
# than the least.
SAME, LEAST_MATCH_ERROR = 6.0, 1e-6
# Normals with smaller errors than this are those of others that are known so many times better, where these are within
# so many errors: of close breakpoints they are understated.
ALIGNED_NORMAL_ERROR, CLEARER, ALIGNED_DISTANCE_ERRORS = 1e-4, 30.0, 30.0
# A breakpoint is where a hyperplane is expected to within so many errors of that place, as long as these are below the
# share of its distance from the line's origin, plus so many times the breakpoint's own width.
EXPECTED, VAGUE_CROSSING_SHARE, BREAKPOINT_WIDTHS = 4.0, 0.1, 3.0
ARITHMETIC = 1e-9  # relative error of where a hyperplane crosses a line that comes from our own arithmetic


@dataclass(frozen=True)
class Hyperplanes(Rows):
    """Hyperplanes `rows @ h + bias = 0` in a frame's coordinates h, each as it was met at one place."""

    rows: Float[np.ndarray, "K d"]  # unit normals, up to sign
    bias: Float[np.ndarray, " K"]
    jump: Float[np.ndarray, "K m"]  # change of the slope of the answers across each, per unit of `rows @ h`
    error: Float[np.ndarray, " K"]  # expected error of the normals
    at: Float[np.ndarray, "K n"]  # where they were met

    @classmethod
    def none(cls, frame: Frame, m: int) -> Hyperplanes:
        """No hyperplane at all."""
        n, d = frame.V.shape
        return cls(np.empty((0, d)), np.empty(0), np.empty((0, m)), np.empty(0), np.empty((0, n)))

    @classmethod
    def through(
        cls,
        frame: Frame,
        at: Float[np.ndarray, "K n"],
        rows: Float[np.ndarray, "K d"],
        jump: Float[np.ndarray, "K m"],
        error: Float[np.ndarray, " K"],
    ) -> Hyperplanes:
        """Those with these normals through these places."""
        return cls(rows, -np.einsum("kd,kd->k", rows, frame.values(at)), jump, error, at)

    def deviations(self, at: Float[np.ndarray, "K d"]) -> tuple[Float[np.ndarray, "K 1"], Float[np.ndarray, " K"]]:
        """Standard deviations of the entries of each normal, and of the biases. `at`: values where they were met."""
        each = self.error / np.sqrt(self.rows.shape[1])
        return each[:, None], each * np.linalg.norm(at, axis=1)

    def replaced(self, by: dict[int, Hyperplanes]) -> Hyperplanes:
        """With some of them as they are known now."""
        order = np.arange(len(self))
        order[list(by)] = len(self) + np.arange(len(by))
        return Hyperplanes.joined([self, *by.values()])[order]

    def aligned(self, frame: Frame, others: Hyperplanes) -> Hyperplanes:
        """With the normals of better known ones, of the others and of these, where they are those, for all that is
        known: of many coordinates no two are so near each other by chance, and training makes some parallel. Where
        their breakpoints are close normals are vague."""
        known = Hyperplanes.joined([others, self])
        cosine = self.rows @ known.rows.T
        chord = np.sqrt(np.maximum(0, 2 - 2 * np.abs(cosine)))
        allowed = ALIGNED_DISTANCE_ERRORS * np.where(self.error < ALIGNED_NORMAL_ERROR, self.error, 0)[:, None]
        error = np.where((chord < allowed) & (CLEARER * known.error < self.error[:, None]), known.error, np.inf)
        better = np.where(np.isfinite(error).any(axis=1), error.argmin(axis=1), np.arange(-len(self), 0))
        sign = np.sign(cosine[np.arange(len(self)), better])
        return Hyperplanes.through(
            frame, self.at, sign[:, None] * known.rows[better], self.jump, np.minimum(self.error, known.error[better])
        )

    def sums(self, frame: Frame, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N K"]:
        """`rows @ h + bias` at some inputs."""
        return np.asarray(frame.values(x) @ self.rows.T + self.bias)

    def same(self, frame: Frame, other: Hyperplanes) -> Bool[np.ndarray, "O K"]:
        """Which of the others are which of these: as steep, and in the same position where the others were met."""
        error = np.maximum(SAME * (other.error[:, None] + self.error), LEAST_MATCH_ERROR)
        chord = np.sqrt(np.maximum(0, 2 - 2 * np.abs(other.rows @ self.rows.T)))
        here, there = frame.values(other.at), frame.values(self.at)
        square = (here**2).sum(axis=1)[:, None] + (there**2).sum(axis=1) - 2 * here @ there.T
        away = np.sqrt(np.maximum(square, 0) / frame.d)
        off = np.abs(here @ self.rows.T + self.bias)
        return np.asarray((chord <= error) & (off <= error * (away + 1e-3)))

    def crossing(self, frame: Frame, line: Line) -> Int[np.ndarray, " B"]:
        """For each breakpoint of a line the hyperplane that crosses it there, or -1; each crosses once."""
        out = np.full(len(line.t), -1)
        if not len(self) or not len(out):
            return out
        h0, dh = frame.values(line.base[None])[0], frame.M @ line.direction
        rate = self.rows @ dh
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -(self.rows @ h0 + self.bias) / rate
        t = np.where(np.isfinite(t), t, 1e300)
        away = np.linalg.norm(h0 + np.clip(t, -1e6, 1e6)[:, None] * dh - frame.values(self.at), axis=1)
        slack = EXPECTED * self.error * away / np.sqrt(frame.d) / np.maximum(np.abs(rate), 1e-300)
        slack += ARITHMETIC * (1 + np.abs(t))
        # A line that hardly crosses a hyperplane says nothing about where: it must not explain everything.
        slack = np.where(slack < VAGUE_CROSSING_SHARE * (1 + np.abs(t)), slack, -np.inf)
        off, width = np.abs(line.t[:, None] - t), BREAKPOINT_WIDTHS * line.width[:, None]
        inside = off <= slack + width
        with np.errstate(invalid="ignore"):
            score = np.where(inside, off / (slack + width), np.inf)
        # The pairs closest in units of what they may be apart first.
        while np.isfinite(score).any():
            p, i = np.unravel_index(int(score.argmin()), score.shape)
            out[p] = i
            score[p], score[:, i] = np.inf, np.inf
        return out


@dataclass(frozen=True)
class LayerFound:
    """What was read of one layer."""

    straight: Hyperplanes  # its hyperplanes
    bent: Hyperplanes  # those of deeper layers, met on the way
    # which of these could be straight after all: never seen to bend, nothing between the places looked at
    bent_maybe: Bool[np.ndarray, " B"]
    at: Float[np.ndarray, "P n"]  # where all derivatives were measured
    slope: Float[np.ndarray, "P m d"]  # the derivatives there
    blur: Float[np.ndarray, " P"]  # the standard deviation to be expected of their entries
    lines: int = 0  # lines searched
    searched: tuple[Line, ...] = ()  # those that showed anything, with their breakpoints

    @classmethod
    def nothing(cls, frame: Frame, m: int) -> LayerFound:
        """Before anything was asked."""
        n, d = frame.V.shape
        none = Hyperplanes.none(frame, m)
        return cls(none, none, np.empty(0, dtype=bool), np.empty((0, n)), np.empty((0, m, d)), np.empty(0))

    def __len__(self) -> int:
        return len(self.straight)

    @property
    def every(self) -> Hyperplanes:
        """Those of the layer and those of deeper ones."""
        return Hyperplanes.joined([self.straight, self.bent])

    @property
    def rows(self) -> Float[np.ndarray, "k d"]:
        """Unit normals of the layer's hyperplanes, up to sign."""
        return self.straight.rows

    @property
    def bias(self) -> Float[np.ndarray, " k"]:
        """So that `rows @ h + bias = 0` on the hyperplanes."""
        return self.straight.bias

    @property
    def unsure(self) -> Float[np.ndarray, " P"]:
        """Length of the errors of the derivatives along a direction, as sums of the layer's normals."""
        m, d = self.slope.shape[1:]
        rows = float(np.sqrt((self.straight.error**2).mean())) if len(self) else 0.0
        return np.asarray(self.blur * np.sqrt(m) + np.linalg.norm(self.slope, axis=(1, 2)) * rows / np.sqrt(d))

    def with_straight(self, more: Hyperplanes) -> LayerFound:
        """With more hyperplanes of the layer."""
        return replace(self, straight=Hyperplanes.joined([self.straight, more]))

    def with_rows(self, rows: Hyperplanes) -> LayerFound:
        """With the layer's hyperplanes as they are known now."""
        return replace(self, straight=rows)

    def with_bent(self, more: Hyperplanes, maybe: Bool[np.ndarray, " K"]) -> LayerFound:
        """With more hyperplanes of deeper layers."""
        return replace(self, bent=Hyperplanes.joined([self.bent, more]), bent_maybe=np.append(self.bent_maybe, maybe))

    def with_derivatives(
        self, at: Float[np.ndarray, "Q n"], slope: Float[np.ndarray, "Q m d"], blur: Float[np.ndarray, " Q"]
    ) -> LayerFound:
        """With more derivatives."""
        at, slope = np.concatenate([self.at, at]), np.concatenate([self.slope, slope])
        return replace(self, at=at, slope=slope, blur=np.append(self.blur, blur))

    def stations(self, frame: Frame) -> list[Station]:
        """All derivatives, by the inputs."""
        blur = self.blur * np.linalg.norm(frame.M, axis=0).max()
        return [Station(*each) for each in zip(self.at, self.slope @ frame.M, blur.tolist(), strict=True)]

    def with_line(self, line: Line | None) -> LayerFound:
        """After one more line; None: there was no room for it."""
        return replace(self, lines=self.lines + 1, searched=self.searched if line is None else (*self.searched, line))

    def keep(self, which: Bool[np.ndarray, " k"] | Int[np.ndarray, " K"]) -> LayerFound:
        """Without the layer's other hyperplanes."""
        return replace(self, straight=self.straight[which])
