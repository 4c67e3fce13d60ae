"""The search behind `row_span`: grow the span gradient by gradient, refine it, confirm that nothing is missing."""

from __future__ import annotations

import math

import numpy as np

from unveil.blackbox.booking import Booked
from unveil.blackbox.noise import Noise, measure_noise
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.span_frames import Asker, BasisFrame, Known, SparseFrame, base_points, legal_step, slopes
from unveil.blackbox.span_refinement import Basket
from unveil.outcome import Outcome

POOL = 8  # candidate points looked at for each gradient taken
SIGNIFICANT = 6.0  # standard deviations of the measured noise that count as a finding
OVERLOOKED = 40.0  # a kink too small for the combined test can err by this many times the noise
CLEAN = 24  # first steps are this part of the reach where answers have more than ten digits to spare
NOISY = 10  # and this part where rounding matters more than a kink here and there
MOST_PASSES = 8  # of refinement, between two looks for directions that are missing
COARSE_BASIS = 3.0  # steps along the basis are few, so that groups with a kink can be asked again
SPECTRUM_POINTS = 64  # gradients from which a decaying spectrum is judged
FAR = 100.0  # longest step of a probe, in multiples of the reach
HARMLESS = 0.015  # of the reach: so short that one direction in a hundred meets a kink


class Search:
    """State of one search; what it has found may be read off at any time."""

    def __init__(
        self, oracle: Oracle, rng: np.random.Generator, x: np.ndarray | None, confidence: float, unseen: float
    ) -> None:
        self.oracle, self.rng, self.given = oracle, rng, x
        self.confidence, self.unseen = confidence, unseen
        self.before = oracle.ledger.asked
        self.known = Known(oracle.n)
        self.stages: dict[str, int] = {}
        self.points: list[tuple[np.ndarray, np.ndarray]] = []  # where gradients were taken, with the answers there
        self.confirmed = 0
        self.refined = False
        self.passes = 0
        self.row_error = 0.0  # root sum of squares of the rows' error per coordinate
        self.typical = 0.0  # root mean square entry of the first gradient
        self.values = np.empty(0)
        self.floor = 0.0
        self.accuracy = 1.0
        self.margin = 0.0
        self.left_out = 0.0
        self.outside = 0.0  # root mean square slope along a random direction of the complement
        self.outcome = Outcome.complete

    def run(self, accuracy: float, noise: Noise | None, leave_out: float) -> None:
        with Booked(self.oracle.ledger, self.stages, "probe"):
            noise = measure_noise(self.oracle, rng=self.rng, x=self.given) if noise is None else noise
            self.ask = Asker(self.oracle, noise)
            self._choose_steps()
        needed = math.ceil(math.log(1 - self.confidence) / math.log(1 - self.unseen))
        with Booked(self.oracle.ledger, self.stages, "first pass"):
            candidates = self._draw(POOL)
        while True:
            if len(candidates[0]):
                rank = self.known.rank
                with Booked(self.oracle.ledger, self.stages, "first pass"):
                    self._grow(candidates)
                if self.known.rank == rank:
                    # Seen twice, yet no gradient could be taken: it is booked as error of the span.
                    self.row_error *= 2
                if self._blurred():
                    with Booked(self.oracle.ledger, self.stages, "refinement"):
                        self._refine(accuracy)
                if self.known.rank >= self.oracle.n:
                    break
            with Booked(self.oracle.ledger, self.stages, "confirmation"):
                candidates = self._confirm(needed)
            if len(candidates[0]):
                continue
            if not self.known.rank or self.accuracy <= accuracy or self.passes >= MOST_PASSES:
                break
            with Booked(self.oracle.ledger, self.stages, "refinement"):
                self._refine(accuracy)
            self.confirmed = 0
        if self.refined and not self.clean:
            with Booked(self.oracle.ledger, self.stages, "refinement"):
                self._drop_spurious(accuracy)
        if self._gradual(accuracy):
            with Booked(self.oracle.ledger, self.stages, "spectrum"):
                self._approximate(leave_out)
        else:
            self._conclude(accuracy)

    def _choose_steps(self) -> None:
        noise = self.ask.noise
        self.reach = noise.reach
        self.clean = float((noise.size / noise.level).max()) > 1e10
        if noise.kind == "smooth":
            bend = max(noise.curvature * float((noise.size / noise.level).max()), 1e-300)
            self.bend = bend
            self.step = math.sqrt(2 * math.sqrt(2) / bend)
            self.probe_step = bend ** (-1 / 3)
            self.slope_noise = 2 * math.sqrt(2) / self.step
        else:
            self.bend = 0.0
            self.probe_step = self.reach
            self.step = self.reach / (CLEAN if self.clean else NOISY)
            self.slope_noise = math.sqrt(2) / self.step
        if self.oracle.grid is not None:
            self.step = max(self.step, self.oracle.grid)
            self.probe_step = max(self.probe_step, self.oracle.grid * math.sqrt(self.oracle.n))
            self.slope_noise = math.sqrt(2) / self.step
        if self.oracle.within is not None:
            self._keep_off_the_walls()
        self.first_step = self.step

    def _keep_off_the_walls(self) -> None:
        """Room for the short steps on either side, without moving points so far that they are others."""
        root = math.sqrt(self.oracle.n)
        widest = float((self.oracle.high - self.oracle.low).min()) / (4 if self.given is None else 32)
        # A random unit vector has no entry beyond 6 / sqrt(n), or so.
        self.probe_step = min(self.probe_step, widest * root / 6)
        if self.oracle.grid is None and self.step > widest / 4:
            self.slope_noise *= self.step / (widest / 4)
            self.step = widest / 4
        self.margin = min(widest, max(4 * self.step, 6 * self.probe_step / root))

    def _draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = base_points(self.oracle, count, self.rng, self.given, self.margin)
        return x, self.ask(x)

    def _error(self) -> float:
        """Predicted error of a slope in the estimated complement, from the noise of the gradients taken so far."""
        if not self.known.rank:
            return 0.0
        return float(self.typical * self.row_error)

    def _doubt(self) -> float:
        """A slope in the estimated complement that may still be error and not a new direction."""
        doubt = OVERLOOKED * self._error()
        if self.refined:
            return doubt
        # Where rounding blurs the weakest directions, rather grow too far: the singular values decide afterwards.
        return float(min(doubt, 4 * self.slope_noise + 1e-4 * self.typical))

    def _screen(self, x: np.ndarray, fx: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
        """Size of the slope along one random complement direction per point, and whether the line looks straight."""
        direction = self.known.complement(self.rng.standard_normal(x.shape))
        ahead = self.ask(self.oracle.nearest(x + length * direction))
        behind = self.ask(self.oracle.nearest(x - length * direction))
        slope = np.abs(ahead - behind).max(axis=1) / (2 * length)
        straight = np.abs(ahead + behind - 2 * fx).max(axis=1) <= 16
        return slope, np.asarray(straight | (self.ask.noise.kind == "smooth"))

    def _threshold(self) -> float:
        return max(SIGNIFICANT / (math.sqrt(2) * float(self.probe_step)), self._doubt())

    def _grow(self, pool: tuple[np.ndarray, np.ndarray]) -> None:
        x, fx = pool
        crooked = 0
        while self.known.rank < self.oracle.n:
            if len(x) < POOL:
                more, answers = self._draw(POOL - len(x))
                x, fx = np.vstack([x, more]), np.vstack([fx, answers])
            slope, straight = self._screen(x, fx, self.probe_step)
            if slope.max() <= self._threshold():
                return
            if straight.mean() > 0.7 and not self.bend and self.probe_step < self._longest_probe():
                # The more is known, the less the rest bends, and longer steps are less noisy.
                self._lengthen(1.5)
            score = np.where(straight, slope, 0.0)
            best = int(score.argmax())
            if score[best] <= self._threshold():
                crooked += 1
                if crooked % 3 == 0:  # no straight line in three pools: the regions are smaller than thought
                    self._lengthen(0.5)
                x, fx = x[:0], fx[:0]
                if crooked > 30:
                    return
                continue
            if not self._take(x[best], fx[best]):
                return
            x, fx = np.delete(x, best, axis=0), np.delete(fx, best, axis=0)

    def _lengthen(self, factor: float) -> None:
        self.probe_step *= factor
        self.step *= factor
        self.slope_noise /= factor

    def _longest_probe(self) -> float:
        if self.oracle.within is None:
            return FAR * self.reach
        return self.margin * math.sqrt(self.oracle.n) / 6

    def _take(self, x: np.ndarray, fx: np.ndarray) -> bool:
        """Ask for the gradients at a point and keep what is new. False if nothing in them stands out of their noise."""
        frame = SparseFrame(self.known, plain=self.oracle.grid is not None)
        slope, fine = slopes(self.ask, frame, x, fx, self.step, self.rng)
        if not fine:
            return True
        gradients = [self.known.new_part(g) for g in frame.spread(slope.T)]
        if not self.typical:
            self.typical = float(np.sqrt(np.mean(np.square(gradients), axis=1)).max())
        found = False
        while gradients and self.known.rank < self.oracle.n:
            largest = int(np.argmax([np.linalg.norm(g) for g in gradients]))
            new = gradients.pop(largest)
            noise = max(self.slope_noise, self._error() * (1 if self.clean else 0.5))
            # Where rounding is far below the signal, what a kink too small for the test has left is the larger error.
            certain = 15 if self.clean else 3
            if np.linalg.norm(new) <= certain * noise * math.sqrt(frame.count):
                break
            if not self.known.add(new, self.slope_noise):
                break
            found, self.refined = True, False
            self.row_error = float(np.linalg.norm(self.known.mixing))
            gradients = [g - g[self.known.pivots[-1]] * self.known.rows[-1] for g in gradients]
        if found:
            self.points.append((x, fx))
            self.confirmed = 0
            # Principal angles: the rows' error seen from an orthonormal basis.
            self.accuracy = min(1.0, self.row_error * math.sqrt(self.oracle.n))
        return found

    def _with_coefficients(self, x: np.ndarray, fx: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points whose gradients could be had in coordinates of the basis, and these gradients, ((points * m), r)."""
        frame = BasisFrame(self.known.basis)
        rows, fine = [], np.zeros(len(x), dtype=bool)
        for i, (point, answer) in enumerate(zip(x, fx, strict=True)):
            slope, fine[i] = slopes(self.ask, frame, point, answer, self._basis_step(), self.rng)
            if fine[i]:
                rows.append(slope.T)
        return x[fine], fx[fine], np.vstack(rows or [np.empty((0, self.known.rank))])

    def _basis_step(self) -> float:
        """Steps along the basis lie wholly in the span, those along coordinates only with a share of sqrt(r / n)."""
        return self.step if self.bend else COARSE_BASIS * self.first_step * math.sqrt(self.known.rank / self.oracle.n)

    def _blurred(self) -> bool:
        """Whether error could still be taken for a new direction."""
        return bool(self.known.rank) and OVERLOOKED * self.row_error > 1e-3

    def _refine(self, accuracy: float) -> None:
        if not self.refined:
            x = np.array([point for point, _ in self.points])
            fx = np.array([answer for _, answer in self.points])
            x, fx, c = self._add_weak(*self._with_coefficients(x, fx))
            c = self._choose_rank(c)
            self.basket = Basket(x, fx, c, self._coarse())
            self.passes = 0
        previous, idle = np.inf, 0
        while self.accuracy > accuracy and self.passes < MOST_PASSES and self.known.rank < self.oracle.n:
            before = self._pass()
            # Twice no progress: rounding is the limit, or directions are missing, which the confirmation will show.
            idle = idle + 1 if before > 0.8 * previous or self.row_error > before / 1.25 else 0
            if idle == 2:
                self.passes = MOST_PASSES
            previous = before

    def _drop_spurious(self, accuracy: float) -> None:
        """Look at the gradients once more in the sharp basis: a direction that rounding had made shows nothing."""
        rank, error = self.known.rank, self.row_error
        x, fx, c = self._with_coefficients(self.basket.x, self.basket.fx)
        if len(c) < rank:
            return
        c = self._choose_rank(c)
        if self.known.rank == rank:
            self.row_error = error
            return
        self.basket = Basket(x, fx, c, self._coarse())
        self.accuracy, self.passes = 1.0, 0
        self._refine(accuracy)

    def _add_weak(self, x: np.ndarray, fx: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """More points, those among many candidates whose gradients are large in the worst-determined directions."""
        # With many outputs a point costs little beside what it tells.
        share = 0.15 if self.clean or self.oracle.m == 1 else 2.0
        extra = max(1, round(share * self.known.rank / self.oracle.m))
        weak = np.linalg.svd(c, full_matrices=False)[2][-max(extra, self.known.rank // 6) :] @ self.known.basis
        more, answers = self._draw(12 * extra)
        direction = weak[self.rng.integers(len(weak), size=len(more))]
        length = self.step * 4
        ahead = self.ask(self.oracle.nearest(more + length * direction))
        size = np.abs(ahead - answers).max(axis=1)
        best = np.sort(np.argsort(-size)[:extra])
        more, answers, rows = self._with_coefficients(more[best], answers[best])
        return np.vstack([x, more]), np.vstack([fx, answers]), np.vstack([c, rows])

    def _choose_rank(self, c: np.ndarray) -> np.ndarray:
        """Drop directions that only noise had made, by the largest gap among singular values near the noise floor."""
        _, values, right = np.linalg.svd(c, full_matrices=False)
        floor = self._coarse() * (math.sqrt(c.shape[0]) + math.sqrt(c.shape[1]))
        # Spurious directions hold remainders of true ones, some times the floor: the gap may begin that far up.
        clear = int(np.sum(values > 100 * floor))
        ratios = values / np.append(np.maximum(values[1:], floor), floor)
        keep = (
            max(1, clear)
            if clear == len(values)
            else max(0, clear - 1) + 1 + int(np.argmax(ratios[max(0, clear - 1) :]))
        )
        self.values, self.floor = values / values[0], floor / values[0]
        # In coordinates of the right singular vectors the gradients' own error does not grow with that of the basis.
        self._replace(right[:keep] @ self.known.basis)
        c = c @ right[:keep].T
        # Dropped directions took true parts of the others with them: while the noise is coarse, expect some times more.
        margin = 8.0 if self._blurred() else 1.0
        first_noise = self.slope_noise if self.bend else math.sqrt(2) / self.first_step
        self.row_error = margin * first_noise * float(np.linalg.norm(np.linalg.pinv(c)))
        return np.asarray(c)

    def _replace(self, basis: np.ndarray) -> None:
        sizes = self.known.sizes
        self.known = Known.of(basis, self.row_error)
        self.known.sizes = sizes

    def _pass(self) -> float:
        """Ask the whole complement again; returns the error there was before, as far as one can tell afterwards."""
        sharper = self.basket.sharpen(
            self.ask, self.known, self.row_error, longest=self._harmless() / max(self.row_error, 1e-300), rng=self.rng
        )
        self.row_error, self.accuracy = sharper.error, sharper.accuracy
        self._replace(sharper.basis)
        self.refined = True
        self.passes += 1
        return sharper.before

    def _harmless(self) -> float:
        """How far a step may lead inside the true span without bending."""
        if self.bend:
            return math.sqrt(2 / self.bend)
        return HARMLESS * float(self.reach) * math.sqrt(self.known.rank / self.oracle.n)

    def _confirm(self, needed: int) -> tuple[np.ndarray, np.ndarray]:
        """Look at fresh points until enough in a row show nothing new; points that do show something are returned."""
        while self.confirmed < needed:
            count = min(64, needed - self.confirmed)
            x, fx = self._draw(count)
            slope, new = self._hidden_slope(x, fx, 4 * self.probe_step)
            again = np.flatnonzero(new)
            if len(again):  # rounding varies from point to point: a finding must show twice
                slope[again], new[again] = self._hidden_slope(x[again], fx[again], 8 * self.probe_step)
            if new.any() and self.refined and self.passes < MOST_PASSES:
                # First suspect the span's own error, which one more pass removes, then a direction that was missed.
                self.row_error = max(self.row_error, float(slope[new].max()) / self.typical / OVERLOOKED)
                self._pass()
                self.confirmed = 0
                continue
            if new.any():
                self.confirmed = 0
                found = np.flatnonzero(new)[:POOL]
                return x[found], fx[found]
            self.outside = float(np.sqrt(np.mean(slope**2)))
            self.confirmed += count
        return np.empty((0, self.oracle.n)), np.empty((0, self.oracle.m))

    def _gradual(self, accuracy: float) -> bool:
        """Whether new components shrink step by step with no gap: not by rounding, yet refinement does not settle."""
        if not self.clean or len(self.known.sizes) < 2:
            return False
        spread = min(self.known.sizes) < 1e-4 * max(self.known.sizes)
        return spread if self.known.rank >= self.oracle.n else self.accuracy > max(10 * accuracy, 1e-3)

    def _approximate(self, leave_out: float) -> None:
        """The smallest span whose complement holds at most a share of the gradient, as active subspaces are chosen."""
        x, fx = self._draw(SPECTRUM_POINTS)
        x, fx, c = self._with_coefficients(x, fx)
        _, values, right = np.linalg.svd(c, full_matrices=False)
        outside = len(x) * (self.oracle.n - self.known.rank) * self.outside**2
        energy = np.cumsum(values[::-1] ** 2)[::-1] + outside
        rest = np.sqrt(np.append(energy[1:], outside) / energy[0])
        keep = 1 + int(np.argmax(rest <= max(leave_out, rest[-1])))
        self._replace(right[:keep] @ self.known.basis)
        self.values, self.left_out = values / values[0], float(rest[keep - 1])
        self.floor = self._coarse() * (math.sqrt(c.shape[0]) + math.sqrt(c.shape[1])) / float(values[0])
        self.accuracy = min(1.0, float(rest[keep - 1] * energy[0] ** 0.5 / values[keep - 1]))
        self.outcome = Outcome.approximate

    def _coarse(self) -> float:
        """Noise of one coordinate of a gradient in the basis."""
        return float(self.slope_noise if self.bend else math.sqrt(2) / self._basis_step())

    def _hidden_slope(self, x: np.ndarray, fx: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray]:
        """Slope along one random complement direction per point, and whether it is more than noise and known error."""
        direction = self.known.complement(self.rng.standard_normal(x.shape))
        length = np.full(len(x), longest)
        if self.oracle.within is not None:
            length = np.clip(legal_step(self.oracle, x, direction), -length, length)
        change = self.ask(self.oracle.nearest(x + length[:, None] * direction)) - fx
        slope = np.abs(change).max(axis=1) / np.abs(length)
        # Large answers are rounded more coarsely than those the noise was measured at.
        coarser = np.maximum(1.0, np.abs(fx).max(axis=1) * self.oracle.resolution / 2)
        return slope, slope > np.maximum(SIGNIFICANT * math.sqrt(2) * coarser / np.abs(length), self._doubt())

    def _conclude(self, accuracy: float) -> None:
        if self.known.rank == 0:
            self.outcome = Outcome.nothing_to_find
        elif self.known.rank >= self.oracle.n:
            self.outcome = Outcome.full_rank
            self.accuracy = 0.0
        elif self.accuracy > 10 * accuracy:
            self.outcome = Outcome.approximate
