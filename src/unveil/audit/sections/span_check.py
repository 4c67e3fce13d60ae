"""Whether a span holds at fresh points and in the corners of a box: the check of what the page says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from unveil.audit.stage import Audit
from unveil.blackbox.answers import missing
from unveil.blackbox.domain import HALF
from unveil.outcome import BudgetExceeded, MissingAnswers, Outcome, SourceError

if TYPE_CHECKING:
    from unveil.blackbox.span import RowSpan

FINDING_CHECK_POINTS = 100  # points at which the finding is checked
NO_CHANGE_SHARE = 0.01  # a change of so little, relative to what any step changes, is none
CORNERS = 50  # inputs buried to see whether corners of the box wake anything
LARGER, LOOKS = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6), 4  # times that inputs are as large further out, and looks at each size
CLEAR_CHANGE_FACTOR = 3.0  # times that a change exceeds another one of four looks that is as large
# The check may exceed what the accuracy predicts so many times: it takes the largest of many changes.
ACCURACY_EXCESS_FACTOR = 10.0


@dataclass(frozen=True)
class SpanCheck:
    """What fresh points said of a span.

    Attributes:
        change: Change of the answers along the complement, relative to their change along any step; None if the budget
            ended before it was asked.
        allowed: What the span's own accuracy, and the noise of the answers, let expect at most.
        points: Fresh points asked at.
        larger: See `larger_inputs`.
    """

    change: float | None
    allowed: float
    points: int = FINDING_CHECK_POINTS
    larger: float | None = None

    @property
    def holds(self) -> bool:
        return self.change is not None and self.change <= self.allowed


def corners(audit: Audit, span: RowSpan) -> Float[np.ndarray, "N n"]:
    """Inputs in the corners of a box whose answers show directions that the span does not hold.

    Noise that fills a box ends in its corners, where neurons are on that no usual input wakes.

    Queries: `2 N` of N examples; none without a box, of labels, or where the span leaves no room
    """
    from unveil.blackbox.obfuscation import obfuscate

    oracle, none = audit.oracle, np.empty((0, audit.oracle.n))
    done = span.outcome in (Outcome.complete, Outcome.approximate)
    if oracle.within is None or oracle.answers == "labels" or not 0 < span.rank < span.n or not done:
        return none
    inputs = audit.examples(CORNERS)
    if oracle.ledger.left < 2 * len(inputs):
        return none
    hidden = oracle.nearest(obfuscate(span, inputs, rng=audit.rng("corners"), within=oracle.within).inputs)
    before, after = oracle(inputs), oracle(hidden)
    spread = float(np.ptp(before)) or float(np.abs(before).max())
    return np.asarray(hidden[np.abs(after - before).max(axis=1) > NO_CHANGE_SHARE * spread])


def larger_inputs(audit: Audit, span: RowSpan) -> float | None:
    """How many times as large as those asked inputs are at which answers change along what the span does not hold.

    Random points may lie nowhere near inputs that have units of their own (years, square metres): what a model does
    not see there it may see where it is used. Steps are as long as the inputs are large, as such models may be flat.

    Returns:
        None where no size of `LARGER` shows such a change, where answers end before it, where examples, a box or a grid
        say where inputs lie, of labels, and where every direction is seen.

    Queries: `3 LOOKS` for each size until one shows a change, 72 at most; fewer where one has no answer
    """
    oracle, rng = audit.oracle, audit.rng("larger inputs")
    told = audit.inputs is not None or oracle.within is not None or oracle.grid is not None
    if told or oracle.answers == "labels" or span.rank == span.n:
        return None
    for size in LARGER if oracle.input_bits > HALF else LARGER[:3]:
        if oracle.ledger.left < 3 * LOOKS:
            return None
        x, step = oracle.nearest(size * oracle.sample(LOOKS, rng)), size * oracle.sample(LOOKS, rng)
        hidden = oracle.nearest(x + span.complement(step))
        # Rounding of the questions moves them along what is seen, too.
        leak = float(np.abs(span.project(hidden - x)).max() / np.abs(step).max())
        part = max(
            NO_CHANGE_SHARE, ACCURACY_EXCESS_FACTOR * max(span.accuracy if span.rank else 0.0, span.left_out, leak)
        )
        points = np.concatenate([x, hidden, oracle.nearest(x + part * step)])
        try:  # one first: of questions without an answer an oracle bears few
            y = oracle.answered(points[:1])
            y = y if missing(y).any() else np.concatenate([y, oracle.answered(points[1:])])
        except (SourceError, MissingAnswers):
            return None
        if len(y) < len(points) or missing(y).any():
            return None
        before, by_hidden, by_part = np.split(y, 3)
        # What is seen of the hidden step changes answers by no more than this part of any step; nothing is straight.
        least = CLEAR_CHANGE_FACTOR * max(
            float(np.abs(by_part - before).max()), FINDING_CHECK_POINTS * float(oracle.rounding(y).max())
        )
        if np.abs(by_hidden - before).max() > least:
            return size
    return None


def check(audit: Audit, span: RowSpan) -> SpanCheck | None:
    """Ask at fresh points whether the answers stay along the complement; None where there is nothing to be asked.

    Labels have no sizes to compare; theirs is checked by the noise that is hidden from the model afterwards.

    Queries: `3 * FINDING_CHECK_POINTS` and those of `larger_inputs`, and 64 where the audit has not looked yet; none of
    labels, of no directions or all, and of a search that did not get to its end
    """
    done = span.outcome in (Outcome.complete, Outcome.approximate)
    if audit.oracle.answers == "labels" or not 0 < span.rank < span.n or not done:
        return None
    if "seen" not in audit.findings and audit.oracle.ledger.left >= 1:
        audit.look()
    _, y = audit.findings.get("seen", (None, np.zeros((0, 1))))
    if not len(y):
        return SpanCheck(None, NO_CHANGE_SHARE)
    noise = audit.findings.get("noise")
    relative = 0.0 if noise is None else float(np.median(noise.level)) / max(float(np.ptp(y)), np.finfo(float).tiny)
    allowed = min(0.5, max(NO_CHANGE_SHARE, ACCURACY_EXCESS_FACTOR * max(span.accuracy, span.left_out, relative)))
    try:
        change = span.check(audit.oracle, rng=audit.rng("span check"), points=FINDING_CHECK_POINTS)
        return SpanCheck(change, allowed, larger=larger_inputs(audit, span))
    except BudgetExceeded:
        return SpanCheck(None, allowed)
