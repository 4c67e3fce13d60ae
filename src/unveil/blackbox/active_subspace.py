"""active_subspace: which directions of a simulator's inputs its answers depend on, from few evaluations or a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, generator, vectors
from unveil.blackbox.evaluation_design import space_filling
from unveil.blackbox.gradient_covariance import GradientCovariance
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.simulator_inputs import Inputs
from unveil.blackbox.subspace_search import Found, ask, frame, of_oracle, of_table
from unveil.blackbox.surrogate import Surrogate
from unveil.one_line import one_line
from unveil.outcome import BadInput, Outcome, SourceError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unveil.blackbox.span import RowSpan

# Below this share of the variance of rows left out, the surrogate is no picture of the answers.
USABLE_EXPLAINED_SHARE = 0.5

# Below this share, what is left over may be a ripple whose gradients are as large as all others: 1 % of the variance
# has them where its period is a tenth of the range.
SMOOTH = 0.99
RIPPLES = (
    "The rest may be noise, or changes over shorter distances than evaluations are apart: their gradients are in none "
    "of these figures."
)


@dataclass(frozen=True)
class Held:
    """How an active subspace did on evaluations that it had not seen.

    Attributes:
        explained: Share of the answers' variance that the surrogate foretold.
        inactive: Mean square change of the answers along the inactive directions alone, over that along all of them.
        points: Evaluations it comes from.
        missing: Of these, runs that failed.
    """

    explained: float
    inactive: float
    points: int
    missing: int


@one_line
@dataclass(frozen=True)
class ActiveSubspace:
    """Directions of the inputs, sorted by how much the answers change along them.

    All directions are in *scaled* inputs: each input from -1 to 1 over its range (on its logarithmic scale if it has
    one), or as it is where there is no range.

    Attributes:
        eigenvalues: Mean square derivative along each direction, the largest first.
        intervals: (n, 2); where each of them lies with `confidence`.
        basis: (n, n); orthonormal rows, sorted as the eigenvalues.
        confidence: Of the intervals.
        share: The share of the mean squared gradient that `dimension` directions keep, or more.
        dimension: Number of active directions.
        sure: Share of the possible eigenvalues, as far as they are not known, that give this dimension.
        gap: Number of directions before the largest gap in the spectrum.
        gap_sure: Likewise for the gap.
        inputs: Names and ranges.
        cautions: Of a table, what it cannot tell: inputs that vary together, ranges and levels without rows.
        activity: Activity score of each input: its squared weights in all directions times their eigenvalues, which is
            the mean square derivative along it. All directions count, so that no input that matters is left out.
        activity_intervals: (k, 2); with `confidence`.
        left_out: Share of the mean squared gradient outside the active directions.
        explained: Share of the variance of rows left out that the surrogate explains; NaN where it was not needed.
        noise: Standard deviation of the part of the answers that no smooth function explains.
        queries: Evaluations asked for it; 0 for a table.
        missing: Evaluations or rows without an answer.
        surrogate: What stood in for the answers; None where gradients were given.
        x: Scaled inputs that were evaluated.
        y: Answers to them.
        foretold: What the surrogate, without the row, foretells of each answer; NaN where it was not needed.
        span: The exact span, certified by `row_span` in the oracle's own units, if the answers have one; `basis` begins
            with it.
        outcome: How it ended.

    Examples:
        >>> x = np.random.default_rng(0).uniform(-1, 1, (40, 3))  # a table of runs that are there already
        >>> found = uv.active_subspace(x, 3 * x[:, 0] - x[:, 1], rng=np.random.default_rng(0))
        >>> found.dimension, found.active.shape
        (1, (1, 3))
    """

    eigenvalues: Float[np.ndarray, " n"]
    intervals: Float[np.ndarray, "n 2"]
    basis: Float[np.ndarray, "n n"]
    confidence: float
    share: float
    dimension: int
    sure: float
    gap: int
    gap_sure: float
    inputs: Inputs
    cautions: tuple[str, ...]
    activity: Float[np.ndarray, " k"]
    activity_intervals: Float[np.ndarray, "k 2"]
    left_out: float
    explained: float
    noise: float
    queries: int
    missing: int
    surrogate: Surrogate | None
    x: Float[np.ndarray, "N n"]
    y: Float[np.ndarray, " N"]
    foretold: Float[np.ndarray, " N"]
    span: RowSpan | None
    outcome: Outcome

    @property
    def n(self) -> int:
        return len(self.eigenvalues)

    @property
    def active(self) -> Float[np.ndarray, "d n"]:
        """The active directions."""
        return self.basis[: self.dimension]

    @property
    def least(self) -> float:
        """What the active directions carry of the mean squared gradient at the worst ends of all intervals."""
        low, high = float(self.intervals[: self.dimension, 0].sum()), float(self.intervals[self.dimension :, 1].sum())
        return low / (low + high) if low > 0 else 0.0

    @property
    def ranking(self) -> tuple[str, ...]:
        """Names of the inputs, the most active first."""
        return tuple(self.inputs.names[place] for place in np.argsort(-self.activity, kind="stable"))

    def scaled(self, values: Any) -> Float[np.ndarray, "N n"]:
        """Scaled inputs for inputs in their own units, one row each.

        Raises:
            BadInput: Values that the inputs cannot have.
        """
        return self.inputs.columns(values)

    def project(self, x: np.ndarray) -> np.ndarray:
        """The part of scaled inputs (n,) or (N, n) that lies in the active directions.

        Raises:
            BadInput: Not n finite numbers, or rows of them.
        """
        return np.asarray(vectors(x, self.active.shape[1], "x") @ self.active.T @ self.active)

    def coordinates(self, x: np.ndarray, dimension: int | None = None) -> np.ndarray:
        """Active variables of scaled inputs (n,) or (N, n): what the answers are drawn against in a summary plot.

        Raises:
            BadInput: Not n finite numbers, or rows of them.
        """
        return np.asarray(vectors(x, self.basis.shape[1], "x") @ self.basis[: dimension or self.dimension].T)

    def conclusion(self) -> str:
        """What these evaluations are good for, in a sentence or two."""
        if self.outcome is Outcome.nothing_to_find:
            return f"All {len(self.y)} answers are the same: nothing can be said about the inputs."
        if self.span is not None:
            return (
                f"The answers depend on exactly {self.span.rank} of {self.n} directions: with "
                f"{self.span.confidence:.0%} confidence, any other matters at fewer than "
                f"{self.span.unseen:.1%} of the inputs."
            )
        if self.surrogate is None:
            carried = _share(1 - self.left_out)
            return f"{len(self.y)} exact gradients: {self.dimension} of {self.n} directions carry {carried}."
        told = f"{len(self.y)} answers explain {_share(self.explained)} of the variance of those left out"
        if self.outcome is Outcome.check_failed:
            return f"{told}: too little to say which directions matter. Evaluate more, or look for noise."
        clear = int(np.sum(self.intervals[:, 0] > 0))
        others = "" if clear == self.n else ", the others cannot be told from 0"
        least, carried = _share(self.least), _share(1 - self.left_out)
        return (
            f"{told}: good for {clear} of {self.n} eigenvalues{others}. "
            f"{self.dimension} {'direction carries' if self.dimension == 1 else 'directions carry'} "
            f"{carried} of the mean squared gradient"
            + (f", at the worst ends of the intervals {least}." if least != carried else ".")
            + (f" {RIPPLES}" if self.explained < SMOOTH else "")
            + "".join(f" {caution}" for caution in self.cautions)
        )

    def check(self, oracle: Oracle, *, rng: Randomness, points: int = 50) -> Held:
        """Ask fresh points, each also moved along the inactive directions and along all of them, as far as is legal.

        Raises:
            SourceError: The simulator fails nearly everywhere.

        Queries: `3 * points`
        """
        must_be_asked(oracle)
        rng = generator(rng)
        centre, half = frame(oracle)
        x = space_filling(oracle, points, rng)
        step = rng.standard_normal(x.shape)
        moved = []
        for scaled in (step - self.project(step), step):
            direction = scaled * half
            # A hair less than all the room, so that rounding cannot leave the box.
            length = np.minimum(oracle.room(x, direction), 1.0)[:, None] * (1 - 1e-6)
            moved.append(oracle.nearest(x + length * direction))
        answers, lost = ask(oracle, np.vstack([x, *moved]))
        at, inactive, anywhere = np.split(answers, 3)
        if not all(np.isfinite(at + other).any() for other in (inactive, anywhere)):
            raise SourceError(f"{oracle.name} failed at too many of {3 * points} points to compare any two of them")
        changed, any_change = (float(np.nanmean((other - at) ** 2)) for other in (inactive, anywhere))
        explained = math.nan
        there = np.isfinite(at)
        if self.surrogate is not None and there.sum() > 1:
            missed = at[there] - self.surrogate.predict((x[there] - centre) / half)[0]
            explained = 1 - float(np.mean(missed**2) / max(at[there].var(), np.finfo(float).tiny))
        return Held(explained, changed / max(any_change, np.finfo(float).tiny), 3 * points, lost)

    def plot(self) -> Figure:
        """Eigenvalues with their intervals, answers along the first direction and along the first two."""
        from unveil.blackbox.subspace_plot import draw

        along = self.coordinates(self.x, min(2, self.n))
        return draw(self.eigenvalues, self.intervals, self.dimension, along, self.y)


def active_subspace(  # noqa: PLR0913 - options of a public verb
    oracle: Oracle | Float[np.ndarray, "N n"] | Any,
    y: Float[np.ndarray, " N"] | Any = None,
    *,
    budget: int = 100,
    rng: Randomness | None = None,
    inputs: Any = None,
    gradient: Callable[[np.ndarray], np.ndarray] | Float[np.ndarray, "N n"] | None = None,
    share: float = 0.9,
    confidence: float = 0.95,
    output: int = 0,
) -> ActiveSubspace:
    r"""Find the directions of the inputs along which the answers change most.

    The eigenvectors of $C = E[\nabla f \nabla f^\top]$ are these directions, its eigenvalues the mean square
    derivatives along them. Gradients are those of a surrogate fitted to the answers: half of the evaluations fill the
    space, the others go where they tell most about the gradients. Where the surrogate cannot tell the weakest
    directions from ones without any effect, and the budget allows it, `row_span` is asked whether there is an exact
    span, which it then gives to the last digits and certifies.

    Args:
        oracle: What is evaluated: a `Simulator`, or any oracle that answers values. Or a table: N inputs in their own
            units, one row each, with their answers in y.
        y: Answers to a table; NaN where there is none.
        budget: Evaluations at most (`oracle.ledger` may allow fewer).
        rng: A generator, or a seed. Draws points and functions; by default the same ones every time.
        inputs: Of a table: what `Inputs.of` takes. Without it, or with a sequence of names only, every column is
            scaled by its own smallest and largest value (words are levels of a category), and gradients are averaged
            over the rows; with it, evenly over the ranges.
        gradient: Exact gradients where there are some: a function of (N, n) questions, or, of a table, an array, in
            the units of the questions or rows. Then no surrogate is needed.
        share: Share of the mean squared gradient that the active directions shall keep.
        confidence: Of the intervals.
        output: Which output of the oracle.

    Returns:
        Directions, eigenvalues, scores. `outcome` is `complete` where an exact span was certified, `approximate` where
        a surrogate stood in, and `check_failed` where that explains less than half of what it had not seen.

    Raises:
        BadInput: An argument is out of range, or scikit-learn is missing.
        SourceError: The simulator fails everywhere.

    Queries: at most `budget`

    Source: Constantine, Active Subspaces, SIAM 2015 (eigenvalues, summary plots); Constantine, Diaz, Reliability
        Engineering & System Safety 162, 2017 (activity scores); Wycoff, Binois, Wild, JCGS 30, 2021 (Gaussian process).

    Examples:
        >>> inputs = [uv.Input(name, -1, 1) for name in "abc"]
        >>> simulator = uv.Simulator(lambda x: 3 * x[0] - x[1], inputs)
        >>> found = uv.active_subspace(simulator, budget=12, rng=np.random.default_rng(0))
        >>> found.dimension, found.ranking[0]
        (1, 'a')
    """
    rng = generator(0 if rng is None else rng)
    for name, value in (("share", share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise BadInput(f"{name} must lie between 0 and 1; got {value!r}")
    if not isinstance(oracle, Oracle):
        found = of_table(oracle, y, inputs, gradient, rng)
    elif y is not None or inputs is not None:
        raise BadInput("y= and inputs= belong to a table; an oracle answers itself (inputs are given to Simulator)")
    else:
        found = of_oracle(oracle, budget, gradient, output, rng)
    return _result(found, share, confidence)


def _result(found: Found, share: float, confidence: float) -> ActiveSubspace:
    n, owner = found.inputs.n, found.inputs.owner
    known = found.covariance
    if known is None:
        # The same answer everywhere: no direction has any effect, as far as was seen.
        known = GradientCovariance(np.zeros((n, n)), np.zeros((2, n, n)), 0.0, np.zeros(n), math.nan, np.empty(0))
    mean = known.mean
    values, axes = np.linalg.eigh(mean)
    values, basis = np.maximum(values[::-1], 0.0), np.ascontiguousarray(axes[:, ::-1].T)
    basis *= np.where(basis[np.arange(n), np.abs(basis).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    dimension, gap = _dimension(values, share), _gap(values, known.blind)
    drawn = [_sorted(possible) for possible in known.drawn]
    scores = np.array([_activity(*possible, owner) for possible in drawn])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    total = float(values.sum())
    nothing = not total > 0
    failed = found.span is None and known.explained < USABLE_EXPLAINED_SHARE
    return ActiveSubspace(
        eigenvalues=values,
        intervals=known.intervals(confidence),
        basis=basis,
        confidence=confidence,
        share=share,
        dimension=dimension,
        sure=float(np.mean([_dimension(possible[0], share) == dimension for possible in drawn])),
        gap=gap,
        gap_sure=float(np.mean([_gap(possible[0], known.blind) == gap for possible in drawn])),
        inputs=found.inputs,
        cautions=found.cautions,
        activity=_activity(values, basis, owner),
        activity_intervals=np.quantile(scores, ends, axis=0).T,
        left_out=0.0 if nothing else float(values[dimension:].sum()) / total,
        explained=known.explained,
        noise=0.0 if found.surrogate is None else found.surrogate.noise,
        queries=found.queries,
        missing=found.missing,
        surrogate=found.surrogate,
        x=found.x,
        y=found.y,
        foretold=found.y - known.missed if len(known.missed) else np.full(len(found.y), math.nan),
        span=found.span,
        outcome=Outcome.nothing_to_find
        if nothing
        else Outcome.complete
        if found.span is not None
        else Outcome.check_failed
        if failed
        else Outcome.approximate,
    )


def _share(part: float) -> str:
    """In per cent, never rounded up to certainty."""
    return "more than 99.9%" if 0.999 < part < 1 else f"{max(part, 0.0):.1%}"


def _sorted(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, axes = np.linalg.eigh(covariance)
    return np.maximum(values[::-1], 0.0), axes[:, ::-1].T


def _dimension(values: np.ndarray, share: float) -> int:
    """The smallest number of directions that keep this share; 0 if there is nothing to keep."""
    total = values.sum()
    return int(np.searchsorted(np.cumsum(values), share * total * (1 - 1e-12)) + 1) if total > 0 else 0


def _gap(values: np.ndarray, blind: float) -> int:
    """Number of values before the largest ratio of neighbours, none taken to be below what cannot be seen."""
    floor = max(blind, 1e-12 * float(values[0]), np.finfo(float).tiny)
    seen = np.append(np.maximum(values, floor), floor)
    return int(np.argmax(seen[:-1] / seen[1:])) + 1 if values[0] > floor else 0


def _activity(values: np.ndarray, basis: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Squared weights of each input in the directions, times the eigenvalues; a category's columns together."""
    columns = values @ basis**2
    return np.asarray(np.bincount(owner, weights=columns, minlength=int(owner[-1]) + 1))
