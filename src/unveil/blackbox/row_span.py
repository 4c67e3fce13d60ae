"""row_span: the directions of the input that matter, from values or from labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, examples, generator
from unveil.blackbox.label_span import label_span
from unveil.blackbox.ledger import Booked
from unveil.blackbox.noise_model import NoiseModel, measure_noise
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.span import RowSpan, in_units_of_inputs, unseen_share
from unveil.blackbox.span_search.points import Asker
from unveil.blackbox.span_search.search import search
from unveil.blackbox.span_search.state import Goal, State
from unveil.blackbox.wrappers import Affine
from unveil.outcome import BadInput, BudgetExceeded, Outcome

UNIT_EXAMPLES = 10  # from which units are read
SPREAD = 10.0  # the largest deviation of an input over the smallest, from which each gets its own unit
UNEQUAL = 100.0
"""The widest input over the narrowest one from which on a box is unequal; from about 1e5 on nothing is read in it."""


def row_span(  # noqa: PLR0913 - options of a public verb
    oracle: Oracle,
    *,
    rng: Randomness,
    accuracy: float = 1e-4,
    x: Float[np.ndarray, "N n"] | None = None,
    confidence: float = 0.95,
    unseen: float = 0.01,
    noise: NoiseModel | None = None,
    leave_out: float = 1e-3,
) -> RowSpan:
    r"""Find the span of the first layer's rows.

    If $M(x) = \sigma(A x)$, every gradient is $A^\top$ times something, so gradients at enough points span the rows
    of A. Each further gradient is asked only in the complement of what is known, at the candidate point that shows most
    that is new; then the whole complement is asked again with steps so long that rounding no longer counts, since
    nothing bends there.

    Args:
        oracle: Answers values or labels.
        rng: A generator, or a seed. Draws points and directions.
        accuracy: Wanted sine of the largest principal angle to the true span. Refinement goes on until the prediction
            is below it or stops falling.
        x: Points to ask at, e.g. typical inputs; by default `oracle.sample`. With a box they are moved off its walls by
            as much as the short steps need.
        confidence: See `RowSpan.confidence`.
        unseen: See `RowSpan.unseen`.
        noise: A measurement to reuse.
        leave_out: Where the spectrum of the gradients decays without a gap, the smallest rank is chosen whose
            complement carries at most this share (root mean square) of the gradient; `RowSpan.left_out` says how much.

    Returns:
        What was found by the time it ended; `outcome` says how it ended.

    Raises:
        BadInput: An argument is out of range, or x has the wrong shape.
        SourceError: The model failed.

    Queries: about `k (n - k / 2) / m` for the first pass, `k (n + 1) / m` for each refinement, and
        `2 log(1 - confidence) / log(1 - unseen)` (598 by default) to confirm that nothing is missing, by short steps
        and by steps as long as usual inputs are apart.

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Algorithm 1 and Lemma 3.2, made adaptive.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((3, 12))  # three neurons on twelve inputs
        >>> oracle = uv.as_oracle(lambda x: np.tanh(x @ rows.T), shape=12)
        >>> span = uv.row_span(oracle, rng=rng)
        >>> span.rank, span.n, span.outcome.name
        (3, 12, 'complete')
        >>> span.distance(rows) < 1e-4
        True
    """
    must_be_asked(oracle)
    rng = generator(rng)
    goal = Goal(accuracy, confidence, unseen, leave_out)
    for name, value in vars(goal).items():
        if not 0 < value < 1:
            raise BadInput(f"{name} must lie between 0 and 1; got {value!r}")
    x = examples(x, oracle.n)
    unit = in_own_units(oracle, x)
    asked, units = (oracle, np.ones(oracle.n)) if unit is None else (unit, 1 / unit.deviation)
    if unit is not None:
        x, noise = None if x is None else x * unit.deviation + unit.mean, None
    if oracle.answers == "labels":
        found = label_span(asked, rng=rng, accuracy=accuracy, x=x, confidence=confidence, unseen=unseen, units=units)
        return replace(found, basis=in_units_of_inputs(found.basis, units))
    before, stages = oracle.ledger.asked, dict[str, int]()
    if oracle.in_steps:
        return _empty(oracle, Outcome.answers_in_steps, before, stages, confidence)
    try:
        with Booked(oracle.ledger, stages, "probe"):
            noise = measure_noise(asked, rng=rng, x=x) if noise is None else noise
    except BudgetExceeded:
        return _empty(oracle, Outcome.budget_ended, before, stages, confidence)
    state = search(Asker(asked, noise, rng, x, units, stages), goal)
    return _result(state, oracle, goal, units, before, stages)


def in_own_units(oracle: Oracle, x: np.ndarray | None) -> Affine | None:
    """The oracle with every input between -1 and 1, or as 0 and 1 are where examples x (N, n) lie; None if it is so."""
    if oracle.grid is not None:
        return None
    if oracle.within is not None:
        middle, half = oracle.middle, (oracle.high - oracle.low) / 2
        if not half.min() > 0 or half.max() <= UNEQUAL * half.min():
            return None
    else:
        if x is None or np.ndim(x) != 2 or np.shape(x)[1] != oracle.n or len(x) < UNIT_EXAMPLES:
            return None
        middle, half = np.mean(x, axis=0), np.std(x, axis=0)
        varies = half > 0
        if not varies.any():
            return None
        usual = float(np.median(half[varies]))
        alike = half[varies].max() < SPREAD * half[varies].min() and 1 / SPREAD < usual < SPREAD
        if alike and bool((np.abs(middle) < SPREAD * usual).all()):
            return None
        half = np.where(varies, half, usual)
    return Affine(oracle, (-middle / half).reshape(oracle.shape), (1 / half).reshape(oracle.shape))


def _result(
    state: State, oracle: Oracle, goal: Goal, units: np.ndarray, before: int, stages: dict[str, int]
) -> RowSpan:
    values, floor = state.values, state.floor
    if len(values) < state.rank:
        sizes = np.sort(state.known.sizes)[::-1]
        values = sizes / sizes[0]
        floor = state.steps.slope_noise * math.sqrt(oracle.n) / sizes[0]
    assert state.outcome is not None
    return replace(
        _empty(oracle, state.outcome, before, stages, goal.confidence),
        basis=in_units_of_inputs(state.known.basis, units),
        singular_values=values,
        noise_floor=floor,
        accuracy=state.accuracy if state.rank else 1.0,
        unseen=unseen_share(goal.confidence, state.confirmed, state.left_out, state.accuracy if state.rank else 1.0),
        left_out=state.left_out,
    )


def _empty(oracle: Oracle, outcome: Outcome, before: int, stages: dict[str, int], confidence: float) -> RowSpan:
    return RowSpan(
        basis=np.empty((0, oracle.n)),
        singular_values=np.empty(0),
        noise_floor=0.0,
        accuracy=1.0,
        confidence=confidence,
        unseen=1.0,
        left_out=0.0,
        queries=oracle.ledger.asked - before,
        outcome=outcome,
        stages=stages,
    )
