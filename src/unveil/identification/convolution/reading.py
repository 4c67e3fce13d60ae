"""read_kernel: the normal at a breakpoint, found in the smallest window outside of which it is zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.convolution.kernel import CLEAR_WEIGHT_SIGMAS, LEAST_WEIGHT_SHARE, Kernel, PixelLine
from unveil.identification.picture import Picture

# Rows or columns looked at beyond a window before it is believed to end there: kernels of dilation 2 have gaps of one.
ROWS_BEYOND_WINDOW = 2
MISFIT = 10.0  # standard deviations by which a difference of slopes may miss that of the line's neuron
SLOPE_ASIDE_SHARE = 1 / 3  # share of the way to the next breakpoint, on either side, at which slopes are taken


@dataclass(frozen=True)
class Read:
    """What one breakpoint showed."""

    kernel: Kernel | None  # the window, or None if there is none small enough, or slopes there did not fit one neuron
    wide: bool  # whether the normal reaches over so much of the picture that it is no first-layer kernel


class Reader:
    """Asks for slopes on both sides of breakpoints. `picture`: how inputs lie in rows and columns. `noise`: how exact
    answers are."""

    def __init__(self, ask: Ask, picture: Picture, noise: Rounding, rng: np.random.Generator) -> None:
        self.ask, self.picture, self.noise, self.rng = ask, picture, noise, rng

    def read(self, seen: PixelLine, index: int, largest: int) -> Read:
        """The normal at a breakpoint.

        The window begins at the line's pixel and grows where a random move of the rows or columns beside it changes the
        slopes' difference; then its weights are read one by one. One wider than `largest` is none: the neuron belongs
        to a deeper layer, or to no convolution. Queries: `2 + 8` per round of growing, of which there are as many as
        the window is wide at most, and two per weight.
        """
        point = _Point(self, seen, index)
        _, height, width = self.picture.shape
        _, row, column = seen.pixel
        top, left, bottom, right = row, column, row + 1, column + 1
        while True:  # ends: the window grows until it is wider than a kernel
            strips = [
                (slice(max(top - ROWS_BEYOND_WINDOW, 0), top), slice(left, right)),
                (slice(top, bottom), slice(max(left - ROWS_BEYOND_WINDOW, 0), left)),
                (slice(bottom, min(bottom + ROWS_BEYOND_WINDOW, height)), slice(left, right)),
                (slice(top, bottom), slice(right, min(right + ROWS_BEYOND_WINDOW, width))),
            ]
            moves = {i: move for i, strip in enumerate(strips) if (move := self._strip(*strip)) is not None}
            if not moves:
                break
            ratio, error = point.ratios(np.stack(list(moves.values())))
            grown = [
                i
                for i, r, e in zip(moves, ratio, error, strict=True)
                if abs(r) > max(CLEAR_WEIGHT_SIGMAS * e, LEAST_WEIGHT_SHARE)
            ]
            if not grown:
                break
            top = strips[0][0].start if 0 in grown else top
            left = strips[1][1].start if 1 in grown else left
            bottom = strips[2][0].stop if 2 in grown else bottom
            right = strips[3][1].stop if 3 in grown else right
            if max(bottom - top, right - left) > largest + ROWS_BEYOND_WINDOW:
                return Read(None, True)
        return Read(self._weights(point, seen, index, (top, left, bottom, right)), False)

    def _strip(self, rows: slice, columns: slice) -> np.ndarray | None:
        planes = np.zeros(self.picture.shape)
        part = planes[:, rows, columns]
        if not part.size:
            return None
        planes[:, rows, columns] = self.rng.choice([-1.0, 1.0], size=part.shape) / np.sqrt(part.size)
        return np.asarray(self.picture.flat(planes[None])[0])

    def _weights(self, point: _Point, seen: PixelLine, index: int, box: tuple[int, int, int, int]) -> Kernel | None:
        """The weights in a window."""
        top, left, bottom, right = box
        channels = self.picture.shape[0]
        size = (channels, bottom - top, right - left)
        places = [(c, i, j) for c in range(channels) for i in range(top, bottom) for j in range(left, right)]
        moves = [self.picture.unit(place) for place in places if place != seen.pixel]
        # A window of one input has no other weight.
        ratio, error = point.ratios(np.stack(moves)) if moves else (np.zeros(0), np.zeros(0))
        own = places.index(seen.pixel)
        ratio, error = (np.insert(a, own, v).reshape(size) for a, v in ((ratio, 1.0), (error, 0.0)))
        if not np.isfinite(ratio).all() or np.abs(ratio).max() > point.most:
            return None
        scale = float(np.linalg.norm(ratio))
        weights, error = ratio / scale, error / scale
        planes = seen.planes.copy()
        planes[seen.pixel] += seen.line.t[index]
        patch = planes[:, top:bottom, left:right]
        along = max(float(seen.line.width[index]), 1e-15) / scale
        doubt = float(np.sqrt((patch**2 * error**2).sum()) + along)
        return Kernel(weights, -float((weights * patch).sum()), error, doubt, (top, left))


class _Point:
    """A breakpoint and a place on either side of it. `most`: weights larger than so many times the line's own would
    carry a step across the breakpoint itself."""

    def __init__(self, reader: Reader, seen: PixelLine, index: int) -> None:
        line, self.reader = seen.line, reader
        edges = line.edges
        t = float(line.t[index])
        room = min(t - float(edges[index]), float(edges[index + 2]) - t)
        unit = np.asarray(line.direction)
        size = reader.noise.size / np.sqrt(len(unit))
        aside = min(SLOPE_ASIDE_SHARE * room, size)
        self.step = min(reader.noise.step * size, aside / 4)
        self.most = 0.8 * aside / self.step
        centre = line.base + t * unit
        self.sides = np.stack([centre - aside * unit, centre + aside * unit])
        self.sigma = reader.noise.at(centre[None], line.value[index][None])[0]
        self.jump = line.jump[index] / self.sigma
        self.here = reader.ask(self.sides)

    def ratios(self, moves: Float[np.ndarray, "K n"]) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
        """The normal along moves, relative to that along the line, and the standard deviation of it.

        Where the slopes' difference is not that of the line's neuron, another neuron lies on the way: then the other
        way is tried. Queries: `2 K`, and two for each that was tried again.
        """
        ratio, error, clean = self._ratios(moves)
        again = np.flatnonzero(~clean)
        if len(again):
            other, wide, _ = self._ratios(-moves[again])
            better = wide < error[again]
            ratio[again] = np.where(better, -other, ratio[again])
            error[again] = np.minimum(wide, error[again])
        return ratio, error

    def _ratios(
        self, moves: Float[np.ndarray, "K n"]
    ) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"], Bool[np.ndarray, " K"]]:
        x = self.sides[:, None] + self.step * moves
        y = self.reader.ask(x.reshape(-1, moves.shape[1])).reshape(2, len(moves), -1)
        change = ((y[1] - self.here[1]) - (y[0] - self.here[0])) / self.sigma
        power = float(self.jump @ self.jump) * self.step
        ratio = change @ self.jump / power
        off = change - self.step * ratio[:, None] * self.jump
        # What fits no single neuron shows how far the ratio may be off, besides the rounding.
        m = change.shape[1]
        misfit = np.sqrt((off**2).sum(axis=1) / max(m - 1, 1)) if m > 1 else np.zeros(len(moves))
        error = np.maximum(2.0, misfit) * np.sqrt(float(self.jump @ self.jump)) / power
        return np.asarray(ratio), np.asarray(error), misfit <= MISFIT
