"""The search behind `active_subspace`: what is evaluated, and what comes of it, from an oracle or from a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unveil.blackbox.evaluation_design import CANDIDATES, JUDGED_AT, batch_size, most_telling, space_filling
from unveil.blackbox.gaussian_process import fit_surrogate
from unveil.blackbox.gradient_covariance import COMPARED_AT, GradientCovariance, from_gradients, from_surrogate
from unveil.blackbox.noise_model import SCALES, TABLE, TABLES, measure_noise
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.simulator import Simulator
from unveil.blackbox.simulator_inputs import Input, Inputs
from unveil.blackbox.span_search.accuracy import price
from unveil.blackbox.surrogate import Along, Surrogate
from unveil.blackbox.table_cautions import cautions, within_rows
from unveil.outcome import BadInput, Outcome, SourceError

if TYPE_CHECKING:
    from unveil.blackbox.span import RowSpan

# Answers whose spread lies outside have squares of derivatives that a float64 cannot hold.
ANSWER_SPREAD_LIMITS = (1e-100, 1e100)
# Points over which the surrogate's gradients are averaged.
AVERAGED_OVER = 2**14
# So many evaluations per input fill the space before any is chosen, but no more than this share of all.
FIRST_PER_INPUT, FIRST_SHARE_OF_ALL = 4, 0.5
# An exact span is certified with this confidence; a missed direction then matters at no more than this share of inputs.
SPAN_CONFIDENCE = 0.95
UNSEEN_INPUTS_SHARE, UNSEEN_AT_MOST = 0.01, 0.1
# Where evaluations are few, a span is looked for after so many per input, so that enough are left to certify it.
SOONER_PER_INPUT = 3
# Lines on which the noise is looked at before, and what that asks: where evaluations are few, so must these be.
NOISE_TRIPLES = 2
NOISE_COST = min(TABLES, NOISE_TRIPLES) * TABLE + NOISE_TRIPLES * (1 + 2 * SCALES)
# What `row_span` asks to choose its first steps, as measured.
FIRST_STEPS_COST = 34
# Candidates looked at for each gradient, with two questions each.
LOOKED_AT = 16


@dataclass(frozen=True)
class Found:
    """What was evaluated, and what came of it, in scaled inputs."""

    inputs: Inputs
    x: np.ndarray
    y: np.ndarray
    covariance: GradientCovariance | None
    surrogate: Surrogate | None = None
    span: RowSpan | None = None
    queries: int = 0
    missing: int = 0
    cautions: tuple[str, ...] = ()


def of_table(x: Any, y: Any, inputs: Any, gradient: Any, rng: np.random.Generator) -> Found:
    if y is None:
        raise BadInput("a table needs its answers: active_subspace(x, y)")
    rows = np.atleast_2d(np.asarray(x, dtype=object))
    answers = _answers(y)
    if len(rows) != len(answers):
        raise BadInput(f"a table needs one answer for each row; got {len(rows)} rows and {len(answers)} answers")
    there = np.isfinite(answers)
    _require_rows(int(there.sum()), rows.shape[1])
    names = _names(inputs, rows.shape[1])
    named = Inputs.of(inputs) if names is None else _own_range(rows[there], names)
    z = named.columns(rows[there])
    if not np.isfinite(z).all():
        raise BadInput("the table's inputs must be finite numbers; leave out rows without")
    answers, missing = answers[there], int((~there).sum())
    _require_spread(answers)
    if gradient is not None:
        given = np.asarray(gradient(rows) if callable(gradient) else gradient, dtype=np.float64)
        if given.shape != rows.shape or any(one.levels or one.log for one in named.all):
            raise BadInput(f"gradients need the shape {rows.shape} and plain inputs (no log, no category)")
        half = np.array([(one.high - one.low) / 2 for one in named.all])
        return Found(named, z, answers, from_gradients(given[there] * half, rng), missing=missing)
    if not np.ptp(answers) > 0:
        return Found(named, z, answers, None, missing=missing)
    surrogate = fit_surrogate(z, answers)
    points = z
    if names is None:
        points = within_rows(named, z, named.from_unit(_unit(len(named.all), AVERAGED_OVER, rng)))
    known = from_surrogate(surrogate, z, answers, points, rng)
    return Found(named, z, answers, known, surrogate, missing=missing, cautions=cautions(named, z))


def _answers(y: Any) -> np.ndarray:
    try:
        given = np.asarray(y).ravel()
    except ValueError as error:
        raise BadInput(f"the answers of a table must be one number a row: {error}") from None
    try:
        if given.dtype.kind == "c":
            raise ValueError
        return given.astype(np.float64)
    except (TypeError, ValueError):
        raise BadInput(
            f"the answers of a table must be real numbers, NaN where there is none; got {given[0]!r}"
        ) from None


def _names(inputs: Any, count: int) -> tuple[str, ...] | None:
    """Names of a table's columns, if nothing more is known of them."""
    if inputs is None:
        return tuple(f"x{place}" for place in range(1, count + 1))
    if not (isinstance(inputs, list | tuple) and inputs and all(isinstance(one, str) for one in inputs)):
        return None
    if len(inputs) != count:
        raise BadInput(f"a table of {count} columns needs {count} names; got {len(inputs)}")
    return tuple(inputs)


def _own_range(rows: np.ndarray, names: tuple[str, ...]) -> Inputs:
    found = []
    for name, column in zip(names, rows.T, strict=True):
        words = [isinstance(value, str) for value in column]
        if any(words) and not all(words):
            raise BadInput(f"the column {name!r} holds words and numbers; expected one or the other")
        levels = tuple(sorted(set(column))) if any(words) else ()
        if len(levels) > len(column) / 2:
            raise BadInput(f"the column {name!r} has another word in most rows, which tells nothing: leave it out")
        try:
            low, high = (0.0, 1.0) if levels else (min(map(float, column)), max(map(float, column)))
        except (TypeError, ValueError):
            raise BadInput(f"the column {name!r} must hold numbers or words; got {column[0]!r}") from None
        if len(levels) == 1 or low == high:
            raise BadInput(f"the column {name!r} of the table has the same value in every row: leave it out")
        if not (np.isfinite(low) and np.isfinite(high)):
            raise BadInput("the table's inputs must be finite numbers; leave out rows without")
        found.append(Input(name, low, high, levels=levels))
    return Inputs(tuple(found))


def _require_rows(rows: int, n: int) -> None:
    if rows < 3:
        raise BadInput(f"{rows} answers say nothing about {n} inputs; three are the least, {5 * n} a beginning")


def _require_spread(y: np.ndarray) -> None:
    """Raise if squares of derivatives would overflow or vanish."""
    with np.errstate(over="ignore"):
        spread = float(np.abs(y - y[0]).max()) if len(y) else 0.0
    if spread > 0 and not ANSWER_SPREAD_LIMITS[0] < spread < ANSWER_SPREAD_LIMITS[1]:
        raise BadInput(
            f"the answers differ by {spread:.1e}; give them in units in which they differ by more than "
            f"{ANSWER_SPREAD_LIMITS[0]:.0e} and less than {ANSWER_SPREAD_LIMITS[1]:.0e}"
        )


def _unit(k: int, count: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.stats import qmc

    return np.asarray(qmc.Sobol(k, rng=rng).random(count)) if k <= qmc.Sobol.MAXDIM else rng.uniform(size=(count, k))


def frame(oracle: Oracle) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width of each input, which scale an oracle's box to -1 and 1."""
    if oracle.within is None:
        return np.zeros(oracle.n), np.ones(oracle.n)
    return oracle.middle, (oracle.high - oracle.low) / 2


def ask(oracle: Oracle, x: np.ndarray, output: int = 0) -> tuple[np.ndarray, int]:
    """Answers, NaN where a simulator failed, and how often it did."""
    if isinstance(oracle, Simulator):
        y = oracle.runs(x)
        return y, int(np.isnan(y).sum())
    y = oracle.answered(x)[:, output].astype(np.float64)
    return y, int(np.isnan(y).sum())


def of_oracle(oracle: Oracle, budget: int, gradient: Any, output: int, rng: np.random.Generator) -> Found:
    if oracle.answers != "values":
        raise BadInput(f"{oracle.name} answers labels, which have no gradients; see row_span for these")
    if not 0 <= output < oracle.m:
        raise BadInput(f"output must be from 0 to {oracle.m - 1}; got {output}")
    budget = int(min(budget, oracle.ledger.left))
    _require_rows(budget, oracle.n)
    before = oracle.ledger.asked
    centre, half = frame(oracle)
    inputs = oracle.inputs if isinstance(oracle, Simulator) else _plain_inputs(oracle)
    if gradient is not None:
        x = space_filling(oracle, budget, rng)
        y, lost = ask(oracle, x, output)
        given = np.asarray(gradient(x), dtype=np.float64)
        if given.shape != x.shape:
            raise BadInput(f"gradient gave shape {given.shape}; expected {x.shape}: one row per question")
        there = np.isfinite(y) & np.isfinite(given).all(axis=1)
        _require_rows(int(there.sum()), oracle.n)
        _require_spread(y[there])
        known = from_gradients(given[there] * half, rng)
        return Found(inputs, (x[there] - centre) / half, y[there], known, queries=budget, missing=lost)
    search = _Evaluations(oracle, budget, output, rng)
    span = search.run()
    queries = oracle.ledger.asked - before
    if search.surrogate is None:
        return Found(inputs, search.x, search.y, None, queries=queries, missing=search.missing)
    known = from_surrogate(search.surrogate, search.x, search.y, search.averaged, rng)
    return Found(inputs, search.x, search.y, known, search.surrogate, span, queries, search.missing)


def _plain_inputs(oracle: Oracle) -> Inputs:
    centre, half = frame(oracle)
    ends = zip((centre - half).tolist(), (centre + half).tolist(), strict=True)
    return Inputs(tuple(Input(f"x{place}", low, high) for place, (low, high) in enumerate(ends, 1)))


class _Evaluations:
    """State of one search; everything in scaled inputs."""

    def __init__(self, oracle: Oracle, budget: int, output: int, rng: np.random.Generator) -> None:
        self.oracle, self.budget, self.output, self.rng = oracle, budget, output, rng
        self.centre, self.half = frame(oracle)
        self.before = oracle.ledger.asked
        self.x, self.y = np.empty((0, oracle.n)), np.empty(0)
        self.missing = 0
        self.surrogate: Surrogate | None = None
        self.averaged = self._scaled(space_filling(oracle, AVERAGED_OVER, rng))

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x - self.centre) / self.half)

    @property
    def left(self) -> int:
        return self.budget - (self.oracle.ledger.asked - self.before)

    def run(self) -> RowSpan | None:
        n = self.oracle.n
        certified = n + self._reserve(2) + _confirmation(UNSEEN_AT_MOST)
        tight = SOONER_PER_INPUT * n + certified <= self.budget < FIRST_PER_INPUT * n + certified
        each = SOONER_PER_INPUT if tight else FIRST_PER_INPUT
        first = max(3, math.ceil(min(FIRST_SHARE_OF_ALL * self.budget, each * n)))
        self._evaluate(space_filling(self.oracle, min(first, self.left), self.rng))
        if not len(self.y):
            said = getattr(self.oracle, "trouble", "")
            raise SourceError(f"{self.oracle.name} failed in every one of {self.missing} runs: {said or 'no number'}")
        if len(self.y) < 3 or not np.ptp(self.y) > 0:
            self._evaluate(space_filling(self.oracle, self.left, self.rng))
            if len(self.y) < 3 or not np.ptp(self.y) > 0:
                return None
        # A quick fit tells well enough where to go on; whether the span is exact takes a careful one.
        may_be_exact = self._spare(1) >= _confirmation(UNSEEN_AT_MOST)
        self.surrogate = fit_surrogate(self.x, self.y, careful=may_be_exact)
        span = self._exact_span() if may_be_exact else None
        if span is not None:
            self._fit(span)
        count = batch_size(self.budget)
        while self.left > 0:
            self._evaluate(self._telling(min(self.left, count)))
            # The form is learnt once more at the end: where doubt is depends on it little.
            self.surrogate = self._known.refitted(self.x, self.y)
        self._fit(span)
        return span

    @property
    def _known(self) -> Surrogate:
        assert self.surrogate is not None
        return self.surrogate

    def _telling(self, count: int) -> np.ndarray:
        candidates = space_filling(self.oracle, CANDIDATES, self.rng)
        judged = self.averaged[self.rng.choice(len(self.averaged), JUDGED_AT, replace=False)]
        return np.asarray(candidates[most_telling(self._known, self._scaled(candidates), judged, count)])

    def _evaluate(self, x: np.ndarray) -> None:
        y, lost = ask(self.oracle, x, self.output)
        there = np.isfinite(y)
        self.x, self.y = np.vstack([self.x, self._scaled(x[there])]), np.concatenate([self.y, y[there]])
        self.missing += lost
        _require_spread(self.y)

    def _fit(self, span: RowSpan | None) -> None:
        if span is None:
            self.surrogate = fit_surrogate(self.x, self.y)
        else:
            # Directions of gradients, which are longer the wider an input.
            basis = np.ascontiguousarray(np.linalg.qr((span.basis * self.half).T)[0].T)
            self.surrogate = Along(fit_surrogate(self.x @ basis.T, self.y), basis)

    def _exact_span(self) -> RowSpan | None:
        """An exact span, if the surrogate leaves room for one and the evaluations left suffice to certify it."""
        from unveil.blackbox.row_span import row_span

        n = self.oracle.n
        if isinstance(self.oracle, Simulator) and any(one.integer or one.levels for one in self.oracle.inputs.all):
            return None
        known = from_surrogate(self._known, self.x, self.y, self.averaged[:COMPARED_AT], self.rng)
        rank = max(1, int(np.sum(known.intervals(SPAN_CONFIDENCE)[:, 0] > 0)))
        spare = self._spare(rank)
        if rank >= n or spare < _confirmation(UNSEEN_AT_MOST):
            return None
        # As little unseen as the evaluations left can confirm, one more direction than is seen now allowed for.
        sure = max(self._spare(rank + 1), _confirmation(UNSEEN_AT_MOST))
        unseen = max(UNSEEN_INPUTS_SHARE, 1 - (1 - SPAN_CONFIDENCE) ** (1 / (sure // 2)))
        ledger, whole = self.oracle.ledger, self.oracle.ledger.budget
        ledger.budget = ledger.asked + self.left
        try:
            one = self._one_output()
            noise = measure_noise(one, rng=self.rng, triples=NOISE_TRIPLES)
            span = row_span(one, rng=self.rng, confidence=SPAN_CONFIDENCE, unseen=unseen, noise=noise)
        except SourceError:
            # A run failed on the way: then there is no certificate.
            return None
        finally:
            ledger.budget = whole
        return span if span.outcome is Outcome.complete and 0 < span.rank < n else None

    def _spare(self, rank: int) -> int:
        """Evaluations left to confirm a span of this rank, when its noise and gradients have been asked."""
        return self.left - self._reserve(rank)

    def _reserve(self, rank: int) -> int:
        """Evaluations for the noise, for a span of this rank and for its accuracy, without those that confirm it."""
        n = self.oracle.n
        return NOISE_COST + FIRST_STEPS_COST + price(n, 1, rank, smooth=True) + rank * n + LOOKED_AT * (rank + 2)

    def _one_output(self) -> Oracle:
        from unveil.blackbox.wrappers import OneOutput

        return self.oracle if self.oracle.m == 1 else OneOutput(self.oracle, self.output)


def _confirmation(unseen: float) -> int:
    """What `row_span` asks to confirm that no direction matters at more than this share of the inputs."""
    return 2 * math.ceil(math.log(1 - SPAN_CONFIDENCE) / math.log(1 - unseen))
