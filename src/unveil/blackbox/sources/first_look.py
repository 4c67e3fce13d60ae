"""The first probe: what kind of answers come, how many, how many digits, and whether they stay the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from unveil.blackbox.answers import NAMES, label_of, labels, values
from unveil.blackbox.digits import Digits, bits_of, digits_of
from unveil.blackbox.domain import DOUBLE, SINGLE, Within
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source import Source, float_dtype
from unveil.blackbox.source_oracle import Canary
from unveil.blackbox.sources import remarks
from unveil.blackbox.sources.known_questions import KNOWN_POINTS, Asking, KnownQuestions
from unveil.blackbox.sources.remarks import COUNT_QUESTIONS
from unveil.outcome import BadInput, SourceError, UnsteadyAnswers

# How far answers to one question may be apart when it is asked in other company, in units of the last digit of the
# largest answer: libraries add up a batch in another order than a single question, and deep networks and the
# ill-conditioned sums of kernel methods make more of it (a Gaussian process in float64 3e6).
COMPANY = {"float64": 1e8, "float32": 1e4}

# How far the sum of probabilities may be from 1, and one of them outside [0, 1], by rounding in float32.
SUM_SLACK = 64 * float(np.finfo(np.float32).eps)
# Sizes of answers beyond which their squares, or those of their rounding, are no numbers in double precision.
SMALLEST, LARGEST_ANSWER_SIZE = 1e-120, 1e120


@dataclass(frozen=True)
class FirstLook:
    """What eight queries show.

    Attributes:
        m: Outputs per question.
        kind: "values", "probabilities" (rows of at least two non-negative numbers that sum to 1) or "labels".
        resolution: Relative rounding of the answers, or their relative spread if that is larger.
        dtype: The precision in which questions are safely asked: float32 if the answers come in it, or inputs are
            rounded to it.
        canary: The questions and their answers, to be asked again.
        digits: How the answers are rounded.
        classes: Names of the labels seen, by their number; None if they are numbers already.
        digest: A digest of the answers; empty if they may differ from one time to the next.
        reference: The output whose smallest answer was largest: of probabilities, the safest to divide by. None where
            rows do not sum to 1: then each is one of its own.
        scale: Size of the largest answer; 1 if all are 0.
        unit: Whether all answers lie in [0, 1].
        noise: Standard deviation of one answer; 0 where answers to one question do not differ.
        signal: Standard deviation of the answers over different questions, the largest of all outputs.
        ordered: "falling" or "rising" where every row comes sorted, else "".
        notes: What was seen and what to do about it.
        assumed: What was made of answers that leave it open, and how to change it; also among the notes.
    """

    m: int
    kind: str
    resolution: float
    dtype: np.dtype[np.floating]
    canary: Canary
    digits: Digits
    classes: dict[int, str] | None = None
    digest: str = ""
    reference: int | None = 0
    scale: float = 1.0
    unit: bool = False
    noise: float = 0.0
    signal: float = 0.0
    ordered: str = ""
    notes: tuple[str, ...] = ()
    assumed: str = ""


def first_look(
    source: Source,
    ledger: Ledger,
    within: Within | None,
    grid: float | None,
    answers: str = "auto",
    noisy: bool = False,
) -> FirstLook:
    """Ask four different legal points twice, in different company.

    Args:
        source: What is asked.
        ledger: Charged before anything is asked.
        within: The legal box.
        grid: The legal step.
        answers: "auto", or the kind of answers that is expected.
        noisy: Whether two answers to one question may differ.

    Raises:
        BudgetExceeded: The budget is less than eight.
        MissingAnswers: More than half of the answers are NaN or infinite.
        SourceError: The answers cannot be used as `answers`.
        UnsteadyAnswers: Two answers to one question differ, and `noisy` is false.

    Queries: `8`; 2 more for each answer that was missing, 60 or 252 where answers look sorted, 16 where they look like
        counts, 16 where they are whole but came as text, 4 to tell why answers are unsteady
    """
    asking = Asking(source, ledger, within, grid)
    known = asking.twice(noisy)
    first, name = known.first, source.name
    first, more = _as_numbers_in_text(first, asking, answers)
    kind, assumed = _told_or_seen(answers, first, asking)
    if kind == "labels":
        return _look_at_labels(known, asking, noisy, assumed)
    a, b = values(first, name), values(known.second, name)
    if kind == "probabilities":
        _require_probabilities(a, b, name)
    size = float(np.abs(a).max())
    if size > LARGEST_ANSWER_SIZE or 0 < size < SMALLEST:
        raise SourceError(
            f"{name} answered with numbers of size {size:.2g}, whose squares double precision does not hold: "
            "divide its answers by a constant, so that they are of size one"
        )
    dtype, digits = _digits(np.concatenate([a, values(more, name)]), first.dtype, source)
    if known.single:
        dtype = np.dtype(np.float32)
    eps = float(np.finfo(dtype).eps)
    apart = (a - b)[known.again]
    spread = float(np.abs(apart).max())
    usual = max(COMPANY[dtype.name] * eps * size, 16 * math.ldexp(size, -digits.mantissa), 1.01 * digits.step)
    if not noisy and spread > usual:
        raise UnsteadyAnswers(
            f"{name} answered the same questions differently when one was asked alone and the others in another order "
            f"(by up to {spread:.2g}, answers reach {size:.2g}); {asking.why_unsteady(known)}"
        )
    resolution = max(eps, digits.relative(size))
    noise = 0.0
    if spread > 16 * resolution * size:  # more than the last digit, which differs with the order of summation
        resolution = spread / size
        noise = float(np.sqrt(np.mean(apart**2, axis=0) / 2).max())
    signal = float(np.sqrt(np.maximum(((a + b) / 2).var(axis=0) - noise**2 / 2, 0)).max())
    unit = bool(a.min() >= 0 and a.max() <= 1)
    notes = [assumed] if assumed else []
    notes += remarks.of_digits(digits)
    if unit and (kind == "probabilities" or answers != "labels"):
        notes += remarks.of_probabilities(a, digits, kind == "probabilities")
    if noisy:
        notes += remarks.of_noise(signal, noise)
    ordered, said = remarks.order_of(a, asking)
    notes += said
    return FirstLook(
        m=a.shape[1],
        kind=kind,
        resolution=resolution,
        dtype=dtype,
        canary=Canary(known.x, a, max(noise, resolution * size), noisy),
        digits=digits,
        digest="" if noisy else _digest(a),
        reference=int(a.min(axis=0).argmax()) if _sums_to_one(first, slack=0.05) else None,
        scale=size or 1.0,
        unit=unit,
        noise=noise,
        signal=signal,
        ordered=ordered,
        notes=tuple(notes),
        assumed=assumed,
    )


def _as_numbers_in_text(first: np.ndarray, asking: Asking, answers: str) -> tuple[np.ndarray, np.ndarray]:
    """The answers, as float64 where whole numbers that came as text are no integers: as told, or because others are
    not whole; and these.

    Queries: `COUNT_QUESTIONS` where answers that came as text are whole, if the budget allows it; else 0
    """
    if first.dtype.kind in "iu" and getattr(asking.source, "untyped", False) and asking.ledger.left >= COUNT_QUESTIONS:
        more = asking.ask(asking.points(COUNT_QUESTIONS))
        if more.shape[1] == first.shape[1] and (more.dtype.kind == "f" or answers in ("values", "probabilities")):
            finite = more[np.isfinite(more).all(axis=1)]
            return first.astype(np.float64), finite
    return first, first[:0]


def _told_or_seen(answers: str, first: np.ndarray, asking: Asking) -> tuple[str, str]:
    """The kind of answers, as told or as they look, and what is assumed of them.

    Queries: `16` where answers look like counts
    """
    if answers == "labels" and not _is_names(first):
        # Integers are labels as they are; anything else is a value that LabelsOnly turns into one.
        return "labels" if first.shape[1] == 1 and _whole(first) else "values", ""
    if answers != "auto":
        return answers, ""
    kind = _kind(first)
    if kind == "labels" and first.dtype.kind in "iu" and getattr(asking.source, "classes", None) is None:
        counts = remarks.are_counts(first, asking)
        return "values" if counts else "labels", remarks.whole_numbers(counts)
    return kind, ""


def _require_probabilities(a: np.ndarray, b: np.ndarray, name: str) -> None:
    # By its last bits a probability may lie above 1, or below 0.
    if min(a.min(), b.min()) < -SUM_SLACK or max(a.max(), b.max()) > 1 + SUM_SLACK:
        raise SourceError(
            f"{name} answered with values from {a.min():.3g} to {a.max():.3g}, which are no probabilities; "
            "pass answers='values' (--answers values)"
        )


def _is_names(y: np.ndarray) -> bool:
    return y.dtype.kind in NAMES


def _whole(y: np.ndarray) -> bool:
    return y.dtype.kind in "iub" or (y.dtype.kind == "f" and bool((y == np.round(y)).all()))


def _kind(y: np.ndarray) -> str:
    if _is_names(y) or (y.dtype.kind in "iub" and y.shape[1] == 1):
        return "labels"
    if y.dtype.kind != "f" or y.shape[1] < 2 or not np.isfinite(y).all() or y.min() < 0 or y.max() > 1.01:
        return "values"
    return "probabilities" if _sums_to_one(y, slack=SUM_SLACK) else "values"


def _sums_to_one(y: np.ndarray, slack: float) -> bool:
    """Whether rows sum to 1, as exactly as their decimals allow: some interfaces give no more than two."""
    z = y.astype(np.float64)
    digits = digits_of(z, bits_of(y.dtype, z))
    allowed = max(0.5 * y.shape[1] * digits.step, 1.5 * 2.0**-digits.mantissa)
    return bool(np.abs(z.sum(axis=1) - 1).max() <= max(allowed, slack))


def _look_at_labels(known: KnownQuestions, asking: Asking, noisy: bool, assumed: str) -> FirstLook:
    name, dtype = asking.source.name, float_dtype(asking.source.dtype)
    a, b = labels(known.first, name), labels(known.second, name)
    if not noisy and (a != b).any():
        raise UnsteadyAnswers(
            f"{name} gave {int((a != b).sum())} of {KNOWN_POINTS} questions another label when one was asked alone "
            f"and the others in another order; {asking.why_unsteady(known)}"
        )
    classes = {label_of(v): str(v) for v in known.first[:, 0]} if _is_names(known.first) else None
    return FirstLook(
        m=1,
        kind="labels",
        resolution=float(np.finfo(dtype).eps),
        dtype=dtype,
        canary=Canary(known.x, a, 0.0, noisy),
        digits=Digits(DOUBLE),
        classes=classes,
        digest="" if noisy else _digest(a),
        notes=(assumed,) if assumed else (),
        assumed=assumed,
    )


def _digest(y: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=8).hexdigest()


def _digits(y: np.ndarray, answered: np.dtype[np.generic], source: Source) -> tuple[np.dtype[np.floating], Digits]:
    """The precision to ask in, and how the answers are rounded."""
    if answered.kind in "iub":
        return float_dtype(source.dtype), Digits(DOUBLE, 1.0)
    bits = min(bits_of(answered, y), getattr(source, "answer_bits", DOUBLE))
    single = bits <= SINGLE or float_dtype(source.dtype) == np.float32
    return np.dtype(np.float32 if single else np.float64), digits_of(y, bits)


def require_answers(answers: str) -> None:
    """Check the option `answers`.

    Raises:
        BadInput: No such kind of answers.
    """
    if answers not in ("auto", "values", "probabilities", "labels"):
        raise BadInput(f"answers must be 'auto', 'values', 'probabilities' or 'labels'; got {answers!r}")
