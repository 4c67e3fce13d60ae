"""KernelSearch: lines that move one pixel, and the kernels whose shifts explain where the answers bend on them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.convolution.kernel import (
    Kernel,
    Matched,
    PixelLine,
    cut,
    difference,
    differences_of,
    distinct,
    joined,
    match,
    measured,
    proportional,
    refined,
    same,
)
from unveil.identification.convolution.reading import Reader
from unveil.identification.convolution.short_lines import Sighted, sighted, traced
from unveil.identification.detect import curved
from unveil.identification.picture import Picture

UNBOXED_LINE_REACH = 3.0  # how far lines reach without a box, in typical inputs
ROUNDING_POINTS = 6  # points around which the rounding of answers is measured
PIXELS = 2  # inputs moved for that
SIGHTINGS = 2  # windows in which a believed kernel is met besides the one it was read in, at least
# Lines without a breakpoint after which there is nothing to read: strides wider than kernels leave some pixels unseen.
EMPTY = 40
RETRY_PICTURES = 64  # pictures from which those are taken in which a kernel is looked for once more
# Further lines without a new kernel on which candidates may be met before the search ends without them.
CANDIDATE_LINES = 3
HOPELESS = 12  # after so many normals that fit into no window, and none that does, the layer is no convolution


class KernelSearch:
    """Looks for the kernels of a first layer.

    `oracle`: answers values. `picture`: how its inputs lie in rows and columns. `rng`: draws lines. `largest`: kernels
    are no wider than this. `most_lines`: lines at most. `most_reads`: breakpoints read per line at most. `quiet_lines`:
    it stops after so many lines in a row without a new kernel. `kernels`: those believed. `met`: what each explains.
    `lines`: all lines. `read`: breakpoints read so far, as (line, index). `wide`: those among them whose normal reaches
    over more than a kernel. `curved`: whether nothing was looked for because the answers curve.
    """

    def __init__(  # noqa: PLR0913 - a constructor: fields by name
        self,
        oracle: Oracle,
        picture: Picture,
        rng: np.random.Generator,
        *,
        largest: int = 11,
        most_lines: int = 16,
        most_reads: int = 12,
        quiet_lines: int = 2,
    ) -> None:
        self.oracle, self.picture, self.rng = oracle, picture, rng
        # A window that nearly fills the picture has no shifts.
        self.largest = min(largest, 2 * max(picture.shape[1:]) // 3)
        self.most_lines = most_lines
        self.most_reads, self.quiet_lines = most_reads, quiet_lines
        self.kernels: list[Kernel] = []
        # As they were read, before any line sharpened them: each fit begins there, so that no line counts twice.
        self.readings: list[Kernel] = []
        # What short lines in other windows showed of each.
        self.sighted: list[Matched | None] = []
        self.met: list[Matched] = []
        self.lines: list[PixelLine] = []
        self.candidates: list[Kernel] = []
        self.differences: list[tuple[Kernel, list[tuple[tuple[int, int], np.ndarray]]]] = []
        self.shifts: set[tuple[int, int]] = set()
        self.derived: list[Kernel] = []
        self._pooled_for = (0, 0, 0, 0)
        self.pooled: list[Matched] = []
        self.read: set[tuple[int, int]] = set()
        self.wide = 0
        self.unknown = 0
        self.looked_for: list[Kernel] = []
        self.thorough = False
        self.noise: Rounding | None = None
        self.curved = False

    def ask(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        """Answers to the nearest legal questions."""
        return self.oracle(self.oracle.nearest(x))

    def run(self) -> None:
        """Look until further lines show no more kernels; then each kernel is listed once, with a measured error. Raises
        BudgetExceeded: before that; what was found by then is settled all the same."""
        self.noise = self._rounding()
        self.curved = curved(self.oracle, self.noise, self.rng)
        if self.curved:
            return
        try:
            self._look()
        finally:
            self._settle()

    def _look(self) -> None:
        """Line after line."""
        assert self.noise is not None
        reader = Reader(self.ask, self.picture, self.noise, self.rng)
        quiet = 0
        empty = 0
        while len(self.lines) < self.most_lines and empty < EMPTY:
            before = len(self.kernels)
            line = self.line(self.pixel())
            if not len(line.line.t):
                empty += 1
                continue
            self.lines.append(line)
            self._again()
            self._read_line(reader, len(self.lines) - 1)
            # A line on which no kernel was met at all, where rounding hides them, says nothing of others.
            told = any((met.line == len(self.lines) - 1).any() for met in self.met)
            quiet = 0 if len(self.kernels) > before else quiet + told
            self.thorough = quiet >= self.quiet_lines
            if quiet >= self.quiet_lines + (CANDIDATE_LINES if self.candidates or self.unknown else 0):
                return
            if not self.kernels and not self.candidates and self.wide >= HOPELESS:
                return

    def _rounding(self) -> Rounding:
        """How exact answers are, measured where few inputs move: other steps cross neurons all over the picture."""
        base = self.oracle.off_walls(self.oracle.sample(1, self.rng), 0.1)
        units = np.stack([self.picture.unit(self.pixel()) for _ in range(PIXELS)])
        points = (base - self.oracle.middle) @ units.T * self.rng.uniform(-1, 1, size=(ROUNDING_POINTS, PIXELS))

        def ask(c: np.ndarray) -> np.ndarray:
            return self.ask(self.oracle.off_walls(base, 0.1) + c @ units)

        found = rounding(ask, points / 2, self.oracle.resolution, self.rng, self.oracle.uneven)
        return dataclasses.replace(found, size=float(np.linalg.norm(base)))

    def line(self, pixel: tuple[int, int, int]) -> PixelLine:
        """Search a line through a random picture along which one input changes."""
        assert self.noise is not None
        x = self.oracle.off_walls(self.oracle.sample(1, self.rng), 0.02)
        unit = self.picture.unit(pixel)
        far = UNBOXED_LINE_REACH * float(np.sqrt(np.mean((self.oracle.sample(1, self.rng) - self.oracle.middle) ** 2)))
        low, high = -far, far
        if self.oracle.within is not None:
            low, high = -float(self.oracle.room(x, -unit[None])[0]), float(self.oracle.room(x, unit[None])[0])
        (found,) = line_search(self.ask, x, unit[None], low, high, self.noise, self.rng)
        return PixelLine(pixel, self.picture.planes(x)[0], found)

    def pixel(self) -> tuple[int, int, int]:
        """An input far from the border, where windows are whole."""
        channels, height, width = self.picture.shape
        return (
            int(self.rng.integers(channels)),
            int(self.rng.integers(height // 3, height - height // 3)),
            int(self.rng.integers(width // 3, width - width // 3)),
        )

    def _read_line(self, reader: Reader, number: int) -> None:
        """Read breakpoints of a line that no kernel explains, the clearest first."""
        seen = self.lines[number]
        limit = self.largest
        if self.kernels:
            limit = min(limit, max(max(kernel.size) for kernel in self.kernels) + 1)
        for _ in range(self.most_reads):
            index = self._clearest(number)
            if index is None:
                return
            self.read.add((number, index))
            one = reader.read(seen, index, limit)
            if one.kernel is None:
                self.wide += one.wide
                continue
            assert self.noise is not None
            if self.noise.exact:
                kernel: Kernel | None = cut(one.kernel)
            else:
                kernel = traced(one.kernel, seen, index, self.ask, self.picture, self.noise, self.rng)
            if kernel is None:
                self.wide += 1
                continue
            self._weigh(kernel)

    def _clearest(self, number: int) -> int | None:
        """The unexplained breakpoint whose slopes can be told best."""
        line = self.lines[number].line
        if not len(line.t):
            return None
        room = np.minimum(np.diff(line.edges)[:-1], np.diff(line.edges)[1:])
        assert self.noise is not None
        clear = np.linalg.norm(line.jump / self.noise.floor, axis=1) * np.minimum(room, 0.03)
        for met in self.met:
            clear[met.index[met.line == number]] = 0
        for met in self.pooled:
            clear[met.index] = 0
        for other, index in self.read:
            if other == number:
                clear[index] = 0
        best = int(clear.argmax())
        return best if clear[best] > 0 else None

    def _again(self) -> None:
        """After another line: what kernels explain, sharpened by it, and candidates that it confirms."""
        self._sharpen()
        waiting, self.candidates = self.candidates, []
        for candidate in waiting:
            self._weigh(candidate)
        self._pool()
        known = [*self.kernels, *self.derived]
        waiting = [c for c in self.candidates if not any(same(c, k) for k in known)]
        # All kernels of a layer are of one size, though one may have lost a row that is nearly zero: what is wider
        # still and was met on no other line belongs behind it.
        size = np.max([k.size for k in self.kernels], axis=0) + 1 if self.kernels else np.full(2, self.largest)
        self.candidates = [c for c in waiting if (c.size <= size).all()]
        self.wide += len(waiting) - len(self.candidates)

    def _sharpen(self) -> None:
        """Every kernel by all lines; two readings of one kernel may have been too vague to look alike before."""
        for i, kernel in enumerate(self.kernels):
            self.kernels[i] = refined(self.readings[i], self._seen(kernel, self.sighted[i]))
        self._keep(distinct(self.kernels))

    def _seen(self, kernel: Kernel, sighted: Matched | None) -> Matched:
        """All that a kernel explains."""
        met = match(kernel, self.lines)
        return met if sighted is None else joined(met, sighted)

    def _keep(self, which: list[int]) -> None:
        self.kernels, self.readings = [self.kernels[i] for i in which], [self.readings[i] for i in which]
        self.sighted = [self.sighted[i] for i in which]
        self.met = [self._seen(kernel, seen) for kernel, seen in zip(self.kernels, self.sighted, strict=True)]

    def _settle(self) -> None:
        """Each kernel once, and its error as the lines measure it."""
        self._sharpen()
        self.kernels = [measured(self.readings[i], self.met[i]) for i in range(len(self.kernels))]
        # With errors that are measured, more readings may turn out to be of one kernel.
        self._keep(distinct(self.kernels))
        # Kernels too vague to be told from a better known one are not listed, but may be kernels all the same.
        sharp = distinct(self.kernels, vague=True)
        self.unknown += len(self.kernels) - len(sharp)
        self._keep(sharp)

    def _weigh(self, candidate: Kernel) -> None:
        """Believe a candidate if its shifts were met, keep it for later if not."""
        if any(same(candidate, kernel) for kernel in self.kernels):
            return
        met = match(candidate, self.lines)
        # Two readings in different windows that agree in all weights and the bias are as good as many places met.
        twin = next((c for c in self.candidates if c.corner != candidate.corner and same(c, candidate)), None)
        if twin is None and not self._believed(candidate, met):
            beside = self._beside(candidate)
            if beside is None:
                self.candidates.append(candidate)
                return
        else:
            beside = None
        if found := differences_of(candidate):
            self.differences.append((candidate, found))
        else:
            self.readings.append(candidate)
            self.kernels.append(refined(candidate, met if beside is None else joined(met, beside)))
            self.sighted.append(beside)
            self.met.append(self._seen(self.kernels[-1], beside))
        self._pool()

    def _beside(self, candidate: Kernel) -> Matched | None:
        """Where it was met on short lines in other windows; None if not often enough, or if it was looked for before.
        Of exact answers the lines show all there is, and short ones are asked only where nothing else is left to do."""
        assert self.noise is not None
        known = any(candidate is each for each in self.looked_for)
        if known or (self.noise.exact and not self.thorough):
            return None
        self.looked_for.append(candidate)
        found = self.look_beside(candidate)
        return found.met if found.believed else None

    def look_beside(self, kernel: Kernel) -> Sighted:
        """Look for a kernel on short lines in other windows of fresh pictures."""
        assert self.noise is not None
        spacing = float(np.median([(seen.line.high - seen.line.low) / len(seen.line.t) for seen in self.lines]))
        drawn = self.oracle.off_walls(self.oracle.sample(RETRY_PICTURES, self.rng), 0.02)
        return sighted(kernel, spacing, drawn, self.ask, self.picture, self.noise, self.rng)

    def _pool(self) -> None:
        """What is explained by maximum pooling: differences of two shifts of the kernels known."""
        self.unknown = 0
        for read, found in self.differences:
            doubt = float(np.sqrt((read.error**2).sum()))
            shifts = [s for s, w in found if any(proportional(kernel, w, 10 * doubt) for kernel in self.kernels)]
            self.shifts.update(shifts[:1])
            self.unknown += not shifts
        key = (len(self.kernels), len(self.shifts), len(self.differences), len(self.lines))
        if key == self._pooled_for:
            return
        self._pooled_for = key
        self.derived = [difference(kernel, shift) for kernel in self.kernels for shift in sorted(self.shifts)]
        self.derived += [read for read, _ in self.differences if not any(same(read, each) for each in self.derived)]
        self.pooled = [match(each, self.lines[-1:]) for each in self.derived]

    def _believed(self, candidate: Kernel, met: Matched) -> bool:
        """Whether it was met often enough; once less where differences of its shifts were, too."""
        needed = SIGHTINGS + 1
        for read, found in self.differences:
            doubt = 10 * float(np.sqrt((read.error**2).sum()))
            if any(proportional(candidate, weights, doubt) for _, weights in found):
                needed = SIGHTINGS
                break
        return met.believed(candidate.corner) and len(met.line) >= needed
