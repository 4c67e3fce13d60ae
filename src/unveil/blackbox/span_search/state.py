"""State and Steps: what one step of the search hands to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.span_search.known import Known
from unveil.blackbox.span_search.points import CLEAN_DIGITS, Asker, Places
from unveil.outcome import Outcome

EXACT_DIGITS = 1e4  # below which noise is coarse
CLEAN = 24  # first steps are this part of the reach where answers are clean
NOISY = 10  # and this part where rounding matters more than a breakpoint here and there
TOLD = 300.0  # standard deviations that answers differ by, below which a first step goes as far as lines are straight
COARSE_BASIS = 3.0  # steps along the basis are few, so that groups with a breakpoint can be asked again
LONGEST_PROBE = 100.0  # longest step of a probe, in multiples of the reach
LONGEST = 100.0  # step along the complement, in multiples of the typical coordinate of a point
CLEAR = 100.0  # floors above which a singular value is no matter of noise
HARMLESS = 0.015  # of the reach: so short that one direction in a hundred meets a breakpoint
OVERLOOKED = 40.0  # a breakpoint too small for the combined test can err by this many times the noise


@dataclass(frozen=True)
class Goal:
    """What was asked for; see the arguments of `row_span`."""

    accuracy: float
    confidence: float
    unseen: float
    leave_out: float

    @property
    def fresh(self) -> int:
        """Fresh points in a row at which nothing new may show."""
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.unseen))


@dataclass(frozen=True)
class Steps:
    """How far the search steps.

    Attributes:
        reach: Within which lines look straight.
        curvature: Second derivative of a smooth model, in units of the noise; 0 for a piecewise-linear one.
        clean: Whether answers have more than ten digits to spare.
        step: Of a difference along the complement.
        first: The same at the beginning.
        probe: Of a step that looks for something new.
        slope_noise: Standard deviation of a slope over `step`.
        margin: How far points stay off the walls of a box.
        central: Whether differences along the basis are central ones.
    """

    reach: float
    curvature: float
    clean: bool
    step: float
    first: float
    probe: float
    slope_noise: float
    margin: float | np.ndarray
    central: bool = False

    def centred(self) -> Steps:
        """The same with central differences of a smooth model: longer steps, with less noise and less bending."""
        step = max(self.step, (3 / self.curvature) ** (1 / 3))
        return replace(
            self, step=step, slope_noise=1 / (math.sqrt(2) * step) + self.curvature * step**2 / 6, central=True
        )

    def times(self, factor: float) -> Steps:
        return replace(self, probe=self.probe * factor, step=self.step * factor, slope_noise=self.slope_noise / factor)


@dataclass(frozen=True)
class State:
    """What has been found, after any step.

    Attributes:
        known: The span.
        steps: How far to step next.
        places: Where gradients were taken.
        taken: How many places they are.
        typical: Root mean square entry of the first gradient, in units of the noise.
        row_error: Root sum of squares of the rows' error per coordinate, predicted or measured.
        predicted: Sine of the largest angle, predicted from the noise.
        rounded: The part of it that rounding makes where walls end the steps: a further pass puts as much back.
        passes: Passes of refinement since the last new direction.
        gradients: Places with gradients in coordinates of the basis, `(places, (places * m, r))`, once gathered.
        values: Singular values of these gradients, largest 1.
        floor: What noise alone makes of them.
        accuracy: Measured bound on the sine of the largest angle; 1 before it is measured.
        measured: Whether it was.
        least: What rounding alone would have made of it, where walls end the steps; else 0.
        confirmed: Fresh points in a row that showed nothing new.
        outside: Root mean square slope along the complement at these.
        excess: Mean square change along the complement at these, in units of the noise; noise alone gives 1.
        doubted: Slope up to which it was put down to the span's own error.
        moved: Changes between usual inputs at these, above noise, that were put down to it.
        left_out: Root mean square share of the gradient outside the span, where measured.
        unsettled: Whether the search ended for another reason than having found everything.
        outcome: How it ended; None before.
    """

    known: Known
    steps: Steps
    places: Places
    taken: int = 0
    typical: float = 0.0
    row_error: float = 0.0
    predicted: float = 1.0
    rounded: float = 0.0
    passes: int = 0
    gradients: tuple[Places, Float[np.ndarray, "Nm r"]] | None = None
    values: Float[np.ndarray, " s"] = field(default_factory=lambda: np.empty(0))
    floor: float = 0.0
    accuracy: float = 1.0
    measured: bool = False
    least: float = 0.0
    confirmed: int = 0
    outside: float = 0.0
    excess: float = 0.0
    doubted: float = 0.0
    moved: int = 0
    left_out: float = 0.0
    unsettled: bool = False
    outcome: Outcome | None = None

    @property
    def rank(self) -> int:
        return self.known.rank

    @property
    def full(self) -> bool:
        return self.known.rank >= self.known.n

    def surely_full(self, steeper: float) -> bool:
        """Whether n directions stay independent under every error of their rows that the answers can have hidden.

        At full rank the reduced echelon form is the identity, plus an error of norm `row_error` from noise, or
        OVERLOOKED times as much where every gradient met breakpoints too small to be seen: below 1 it has an inverse.
        With few digits the error of the rows before is not small beside the last new component, and this says nothing.

        Args:
            steeper: How many times as large as `typical` gradients are where they were taken: rows err in proportion.
        """
        return self.full and self.steps.clean and OVERLOOKED * self.row_error * max(1.0, steeper) < 1

    @property
    def basis_step(self) -> float:
        """Steps along the basis lie wholly in the span, those along coordinates only with a share of sqrt(r / n)."""
        if self.steps.curvature:
            return self.steps.step
        return COARSE_BASIS * self.steps.first * math.sqrt(max(self.rank, 1) / self.known.n)

    @property
    def shorter(self) -> float:
        """The step along the basis where a place met a breakpoint; 0 where noise leaves none."""
        return self.basis_step / 16 if self.steps.clean else 0.0

    @property
    def coarse(self) -> float:
        """Noise of one coordinate of a gradient in the basis."""
        return self.steps.slope_noise if self.steps.curvature else math.sqrt(2) / self.basis_step

    @property
    def harmless(self) -> float:
        """How far a step may lead inside the true span without bending."""
        if self.steps.curvature:
            return math.sqrt(2 / self.steps.curvature)
        return HARMLESS * self.steps.reach * math.sqrt(max(self.rank, 1) / self.known.n)

    @property
    def slope_error(self) -> float:
        """Predicted error of a slope in the estimated complement, from the noise of the gradients taken so far."""
        return self.typical * self.row_error

    @property
    def blurred(self) -> bool:
        """Whether error could still be taken for a new direction."""
        return bool(self.rank) and OVERLOOKED * self.row_error > 1e-3

    def doubt(self) -> float:
        """A slope in the estimated complement up to which it may be the span's own error and no new direction."""
        doubt = OVERLOOKED * self.slope_error
        if self.gradients is not None:
            return doubt
        # Where rounding blurs the weakest directions, rather grow too far: the singular values decide afterwards.
        return float(min(doubt, 4 * self.steps.slope_noise + 1e-4 * self.typical))

    def noise_floor(self, c: Float[np.ndarray, "Nm r"]) -> float:
        """The largest singular value that noise alone gives gradients, each divided by `Places.noise`."""
        return self.coarse * (math.sqrt(c.shape[0]) + math.sqrt(c.shape[1]))

    def farthest(self, far: float = LONGEST) -> float:
        """How far a step along the complement may lead for the span's error, and in units of a typical coordinate."""
        typical = float(np.sqrt(np.mean(self.gradients[0].x ** 2))) or 1.0  # type: ignore[index]
        return min(self.harmless / max(self.row_error, 1e-300), far * typical)

    def slope_weights(self, usual: float) -> Float[np.ndarray, "Nm 1"]:
        """What the slopes of each gradient count for: they err by noise, and by that of the gradient times the error.

        Args:
            usual: Length of the steps along which they were taken.
        """
        coarse = self.coarse * self.gradients[0].noise  # type: ignore[index]
        return np.asarray(1 / np.hypot(1.0, coarse * self.row_error * usual / math.sqrt(2)))

    def with_span(self, basis: Float[np.ndarray, "r n"], **changed: object) -> State:
        """The same with another basis; sizes of the components stay."""
        state = replace(self, **changed)  # type: ignore[arg-type]
        return replace(state, known=Known.of(basis, state.row_error, self.known.sizes))


def first_steps(ask: Asker) -> Steps:
    """Steps from the measured noise: long enough to stand out of it, short enough not to curve, inside the box."""
    noise, oracle, root = ask.noise, ask.oracle, math.sqrt(ask.oracle.n)
    signal = float(noise.signal.max())
    curvature, clean = 0.0, signal > CLEAN_DIGITS
    if noise.kind == "smooth":
        curvature = max(noise.curvature * signal, 1e-300)
        step, probe = math.sqrt(2 * math.sqrt(2) / curvature), curvature ** (-1 / 3)
    else:
        probe, step = noise.reach, noise.reach * max(1 / (CLEAN if clean else NOISY), TOLD / max(signal, TOLD))
    # Steps of which the precision of the input leaves nothing are none.
    where = oracle.sample(4, np.random.default_rng(0)) if ask.given is None else ask.given[:100]
    shortest = 32 * float(np.finfo(oracle.dtype).eps) * float(np.sqrt(np.mean(where**2))) * root
    step = max(step, shortest)
    probe = max(probe, step)
    margin: float | np.ndarray = 0.0
    if oracle.within is not None:
        # Room for the short steps on either side, without moving points so far that they are others.
        width = oracle.high - oracle.low
        # Where noise is coarse, longer steps are worth more than points near the walls.
        widest = width / (32 if ask.given is not None else 16 if signal > EXACT_DIGITS else 4)
        # A random unit vector has no entry beyond 6 / sqrt(n), or so.
        probe = min(probe, float(widest.min()) * root / 6)
        step = min(step, float(widest.min()) / 4)
        margin = np.minimum(widest, max(4 * step, 6 * probe / root))
    slope_noise = math.sqrt(2) / step + curvature * step / 2
    return Steps(noise.reach, curvature, clean, step, step, probe, slope_noise, margin)


def longest_probe(ask: Asker, steps: Steps) -> float:
    """Beyond which a probe leaves the box, or where anyone asks."""
    if ask.oracle.within is None:
        return LONGEST_PROBE * steps.reach
    return float(np.min(steps.margin)) * math.sqrt(ask.oracle.n) / 6
