"""How an attempt ended and what to try next; the error classes."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = [
    "BadInput",
    "BudgetExceeded",
    "DiskFull",
    "Interrupted",
    "MissingAnswers",
    "ModelChanged",
    "Outcome",
    "SourceError",
    "StepAnswers",
    "Stopped",
    "StoreError",
    "UnsteadyAnswers",
    "UnveilError",
    "WorkerLost",
    "unreadable",
]


class Outcome(Enum):
    """How an attempt ended. The value is one sentence for a person, with what to try next where something is left.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x @ np.eye(3), shape=3)
        >>> uv.row_span(oracle, rng=np.random.default_rng(0)).outcome is uv.Outcome.full_rank
        True
    """

    complete = "Complete: everything that was looked for was found and checked."
    nothing_to_find = (
        "Nothing to find: the answers do not depend on the input where it was asked. Ask elsewhere (within=)."
    )
    full_rank = "Every input direction matters: there is no complement to hide in."
    approximate = (
        "Approximate: to the error that is stated, with what was left out. Ask for a higher accuracy=, allow a larger "
        "budget=, or accept the remainder."
    )
    budget_ended = "The budget ended first: this is what had been found by then. Allow a larger budget=."
    check_failed = (
        "The result failed its own check on fresh points: do not rely on it. Try another method or more queries."
    )
    answers_in_steps = (
        "Answers in steps: they jump (trees, thresholds, tokens, coarse rounding), and derivatives do not show what a "
        "jump depends on. Ask for the scores before the steps, or for labels (answers='labels')."
    )
    not_resolved = (
        "Not resolved: noise or rounding hides how the answers depend on the input, which says nothing about whether "
        "they do. Ask for more digits, a wider box (within=), or give typical inputs (x=)."
    )
    not_measured = (
        "Not measured: it was not asked, or not often enough to tell, which is no all-clear. Allow a larger budget= or "
        "give typical inputs (x=)."
    )
    model_changed = (
        "The model changed while it was asked: known questions got other answers, so nothing read from them holds. "
        "Ask one fixed version of the model again, with a new store."
    )


class UnveilError(Exception):
    """Base of every error raised on purpose. The text says what was wrong, what was expected and what to do.

    Attributes:
        sent: Questions that had gone out to the model before a first look failed; None where they were not counted.

    Examples:
        >>> issubclass(uv.BadInput, uv.UnveilError), issubclass(uv.BudgetExceeded, uv.UnveilError)
        (True, True)
    """

    sent: int | None = None


class BadInput(UnveilError, ValueError):
    """An argument, a file or a question has the wrong form; nothing was asked.

    Examples:
        >>> try:
        ...     uv.as_oracle(lambda x: x)
        ... except uv.BadInput as error:
        ...     print("shape" in str(error))  # says what was expected
        True
    """


class SourceError(UnveilError):
    """The model could not be loaded, or did not answer in a usable way.

    Attributes:
        arrived: `(rows, answers)` of the batch that a source had got before it failed, for a store to keep; or None.

    Examples:
        >>> try:
        ...     uv.as_oracle("no such file.onnx")
        ... except uv.SourceError:
        ...     print("the model failed, not what asks it")
        the model failed, not what asks it
    """

    arrived: tuple[Any, Any] | None = None


class UnsteadyAnswers(SourceError):
    """The same question got two different answers."""


class MissingAnswers(SourceError):
    """Some questions got NaN or infinity where every answer was needed."""


class StepAnswers(SourceError):
    """The answers come in steps where slopes were asked for: derivatives do not exist.

    On the command line it ends like the outcome `answers_in_steps`: not measured, since the model did not fail.
    """


class ModelChanged(SourceError):
    """Known questions got other answers while the model was asked: another model answers now."""


class BudgetExceeded(UnveilError):
    """A batch would have crossed the budget; it was refused before it was asked, and nothing of it was charged.

    Examples:
        >>> ledger = uv.Ledger(budget=3)
        >>> try:
        ...     ledger.charge(4)
        ... except uv.BudgetExceeded:
        ...     print(ledger.asked)  # not one of them was asked
        0
    """


class Stopped(BudgetExceeded):
    """Whoever waits lets nothing more be done. Raised wherever the work is, so that no loop goes on without asking."""


class StoreError(UnveilError):
    """The file of stored answers cannot be used: full disk, read-only, damaged, or the answers of another model."""


class DiskFull(UnveilError):
    """A file could not be written for want of room; whatever had its name before is untouched."""


class Interrupted(UnveilError):
    """Somebody interrupted the work; what was found by then is kept."""


class WorkerLost(UnveilError):
    """A worker process or machine went away, or there is none, and its task could not be run elsewhere."""


def unreadable(error: Exception) -> str:
    """What was wrong with a file of arrays, without advice that numpy gives and that would make it run code."""
    told = str(error)
    return "it holds no arrays" if "pickle" in told else told or type(error).__name__
