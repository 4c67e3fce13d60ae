"""The first probe: what kind of answers come, how many, how many digits, and whether they stay the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from unveil.blackbox.answers import NAMES, label_of, labels, raw_answers, require_finite, values
from unveil.blackbox.domain import Within, legal
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source import Source, float_dtype
from unveil.outcome import BadInput, SourceError, UnsteadyAnswers

POINTS = 4
QUERIES = 2 * POINTS


@dataclass(frozen=True)
class FirstLook:
    """What eight queries show.

    Attributes:
        m: Outputs per question.
        kind: "values", "probabilities" (rows of at least two non-negative numbers that sum to 1) or "labels".
        resolution: Relative rounding of the answers, or their relative spread if that is larger.
        dtype: The precision in which questions are safely asked: float32 if the answers come in it.
        classes: Names of the labels seen, by their number; None if they are numbers already.
        digest: A digest of the answers; empty if they may differ from one time to the next.
        reference: The output whose smallest answer was largest: of probabilities, the safest to divide by.
        scale: Size of the largest answer; 1 if all are 0.
        unit: Whether all answers lie in [0, 1].
    """

    m: int
    kind: str
    resolution: float
    dtype: np.dtype[np.floating]
    classes: dict[int, str] | None
    digest: str
    reference: int = 0
    scale: float = 1.0
    unit: bool = False


def first_look(
    source: Source,
    ledger: Ledger,
    within: Within | None,
    grid: float | None,
    answers: str = "auto",
    noisy: bool = False,
) -> FirstLook:
    """Ask four different legal points, twice.

    Args:
        source: What is asked.
        ledger: Charged before anything is asked.
        within: The legal box.
        grid: The legal step.
        answers: "auto", or the kind of answers that is expected.
        noisy: Whether two answers to one question may differ.

    Raises:
        BudgetExceeded: The budget is less than eight.
        SourceError: The answers cannot be used as `answers`.
        UnsteadyAnswers: Two answers to one question differ, and `noisy` is false.

    Queries: `8`
    """
    x = _probe_points(source, within, grid)
    ledger.charge(QUERIES)
    first, second = raw_answers(source, x, ledger), raw_answers(source, x, ledger)
    name = source.name
    if first.shape != second.shape:
        raise UnsteadyAnswers(
            f"{name} answered the same {POINTS} questions with shape {first.shape} and then {second.shape}; "
            "it must answer every batch with the same number of outputs per question"
        )
    if first.shape[1] == 0:
        raise SourceError(f"{name} answered with no outputs at all; expected at least one number per question")
    if answers == "labels" and not _is_names(first):
        # Integers are labels as they are; anything else is a value that LabelsOnly turns into one.
        kind = "labels" if first.shape[1] == 1 and _whole(first) else "values"
    elif answers == "auto":
        kind = _kind(first)
    else:
        kind = answers
    if kind == "labels":
        return _look_at_labels(first, second, name, noisy, float_dtype(source.dtype))
    a, b = values(first, name), values(second, name)
    if kind == "probabilities" and (min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1):
        raise SourceError(
            f"{name} answered with values from {a.min():.3g} to {a.max():.3g}, which are no probabilities; "
            "pass answers='values'"
        )
    if kind == "probabilities" and a.shape[1] > 1 and not _sums_to_one(first, slack=0.05):
        sums = a.sum(axis=1)
        raise SourceError(
            f"{name} answered with rows that sum to {sums.min():.3g} to {sums.max():.3g}; probabilities of classes "
            "that exclude each other sum to 1: ask about one of them, e.g. lambda x: model(x)[:, 0], or pass "
            "answers='values'"
        )
    require_finite(a, x, name)
    require_finite(b, x, name)
    size = float(np.abs(a).max())
    spread = float(np.abs(a - b).max())
    dtype, resolution = _rounding(a, first.dtype, float_dtype(source.dtype))
    if not noisy and spread > 16 * max(resolution, float(np.finfo(dtype).eps)) * size:
        raise UnsteadyAnswers(
            f"{name} answered the same questions differently (by up to {spread:.2g}, answers reach {size:.2g}); "
            "switch off whatever is random in it (dropout, sampling, batch statistics), or pass noisy=True"
        )
    if size > 0:
        resolution = max(resolution, spread / size)
    return FirstLook(
        m=a.shape[1],
        kind=kind,
        resolution=resolution,
        dtype=dtype,
        classes=None,
        digest="" if noisy else _digest(a),
        reference=int(a.min(axis=0).argmax()),
        scale=size or 1.0,
        unit=bool(a.min() >= 0 and a.max() <= 1),
    )


def _probe_points(source: Source, within: Within | None, grid: float | None) -> np.ndarray:
    """Four points as a user would ask them, always the same."""
    rng = np.random.default_rng(8)
    size = (POINTS, math.prod(source.shape))
    x = rng.standard_normal(size) if within is None else rng.uniform(*within, size=size)
    return legal(x, within, grid, float_dtype(source.dtype))


def _is_names(y: np.ndarray) -> bool:
    return y.dtype.kind in NAMES


def _whole(y: np.ndarray) -> bool:
    return y.dtype.kind in "iub" or (y.dtype.kind == "f" and bool((y == np.round(y)).all()))


def _kind(y: np.ndarray) -> str:
    if _is_names(y) or (y.dtype.kind in "iub" and y.shape[1] == 1):
        return "labels"
    if y.dtype.kind != "f" or y.shape[1] < 2 or not np.isfinite(y).all() or y.min() < 0 or y.max() > 1.01:
        return "values"
    return "probabilities" if _sums_to_one(y, slack=64 * float(np.finfo(np.float32).eps)) else "values"


def _sums_to_one(y: np.ndarray, slack: float) -> bool:
    """Whether rows sum to 1, as exactly as their decimals allow: some interfaces give no more than two."""
    z = y.astype(np.float64)
    places = _decimals(z, y.dtype)
    allowed = 0.0 if places is None else 0.5 * y.shape[1] * 10.0**-places
    return bool(np.abs(z.sum(axis=1) - 1).max() <= max(allowed, slack))


def _look_at_labels(
    first: np.ndarray, second: np.ndarray, name: str, noisy: bool, dtype: np.dtype[np.floating]
) -> FirstLook:
    a, b = labels(first, name), labels(second, name)
    if not noisy and (a != b).any():
        raise UnsteadyAnswers(
            f"{name} gave {int((a != b).sum())} of {POINTS} questions another label the second time; "
            "switch off whatever is random in it, or pass noisy=True"
        )
    classes = {label_of(v): str(v) for v in first[:, 0]} if _is_names(first) else None
    return FirstLook(1, "labels", float(np.finfo(dtype).eps), dtype, classes, "" if noisy else _digest(a))


def _digest(y: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=8).hexdigest()


def _rounding(
    y: np.ndarray, answered: np.dtype[np.generic], asked: np.dtype[np.floating]
) -> tuple[np.dtype[np.floating], float]:
    """The precision to ask in, and the relative rounding of the answers."""
    single = answered in (np.float32, np.float16) or asked == np.float32 or _single(y)
    dtype: np.dtype[np.floating] = np.dtype(np.float32 if single else np.float64)
    resolution = float(np.finfo(np.float16 if answered == np.float16 else dtype).eps)
    places = _decimals(y, dtype)
    size = float(np.abs(y).max())
    if places is not None and size > 0:
        resolution = max(resolution, 10.0**-places / size)
    return dtype, resolution


def _single(y: np.ndarray) -> bool:
    """Whether float64 answers were computed in float32: all of them fit, and one needs most of its 24 bits."""
    z = y.astype(np.float32)
    with np.errstate(over="ignore"):
        short = (z.view(np.uint32) & np.uint32(0xFFF)) == 0
    return bool((z.astype(np.float64) == y).all()) and not bool(short.all())


def _decimals(y: np.ndarray, dtype: np.dtype[np.generic]) -> int | None:
    """Decimal places to which the answers are rounded; None if they are not, or if too few differ to tell.

    A generic float64 needs 16 or 17 digits and a float32 8 or 9; two or more that need at most 12 (5), are no accident.
    """
    few = 12 if dtype == np.float64 else 5
    short = np.float64 if dtype == np.float64 else np.float32
    seen = np.unique(np.abs(y[y != 0]))
    if len(seen) < 2:
        return None
    texts = [np.format_float_scientific(short(v), trim="-").split("e") for v in seen[:64]]
    digits = [len(mantissa.replace(".", "")) for mantissa, _ in texts]
    if max(digits) > few:
        return None
    return max(count - 1 - int(exponent) for count, (_, exponent) in zip(digits, texts, strict=True))


def require_answers(answers: str) -> None:
    """Check the option `answers`.

    Raises:
        BadInput: No such kind of answers.
    """
    if answers not in ("auto", "values", "probabilities", "labels"):
        raise BadInput(f"answers must be 'auto', 'values', 'probabilities' or 'labels'; got {answers!r}")
