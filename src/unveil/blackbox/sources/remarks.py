"""What the first answers tell besides their kind: sorted scores, saturation, noise, steps; one sentence each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.blackbox.digits import MOST_BITS, Digits
from unveil.blackbox.sources.known_questions import KNOWN_POINTS, Asking

# Questions that a suspicion costs: of sorted scores (the second number where the first is not enough), and of counts.
SORTED_SCORE_QUESTIONS = (60, 192)
COUNT_QUESTIONS = 16
# Answers are called sorted only where unsorted ones would look so less often than this.
SORTED_BY_CHANCE = 1e-3
# A whole number this large, or a negative one, is hardly the number of a class.
LARGE_CLASS_NUMBER = 16


def order_of(y: Float[np.ndarray, "N m"], asking: Asking) -> tuple[str, list[str]]:
    """ "falling" or "rising" where every row comes sorted, else ""; and what is to be said about it.

    Outputs may lie in this order because each has a level of its own. Where four rows look sorted, more are asked:
    gaps that vary so much would have changed sign somewhere, if they were not sorted.

    Queries: `60` where the first rows come sorted, `252` where that leaves it open, if the budget allows it; else 0
    """
    z = _even(y)
    for name, sign in (("falling", -1.0), ("rising", 1.0)):
        gaps = sign * np.diff(z, axis=1)
        if y.shape[1] < 3 or (gaps < 0).any() or not (gaps > 0).any():
            continue
        for rows in SORTED_SCORE_QUESTIONS:
            if asking.ledger.left < rows:
                break
            more = asking.ask(asking.points(rows))
            if more.dtype.kind == "f" and more.shape[1:] == y.shape[1:]:
                more = more[np.isfinite(more).all(axis=1)].astype(np.float64)
                gaps = np.concatenate([gaps, sign * np.diff(_even(more), axis=1)])
            if (gaps < 0).any() or _unsorted(gaps) < SORTED_BY_CHANCE:
                break
        if (gaps < 0).any():
            return "", []
        if _unsorted(gaps) < SORTED_BY_CHANCE:
            return name, [f"scores come sorted ({name}): their places are positions, not classes, and predict nothing"]
        return "", [
            f"the scores of all {len(gaps)} questions were {name} from first to last: if they come sorted, their "
            "places are no classes; set oracle.ordered to say so"
        ]
    return "", []


def _even(y: np.ndarray) -> np.ndarray:
    """Scores whose gaps are alike whatever their size: logarithms of probabilities, other scores as they are."""
    positive = y.min() >= 0 and np.abs(y.sum(axis=1) - 1).max() < 0.05
    return np.asarray(np.log(np.maximum(y, np.finfo(np.float32).tiny)) if positive else y)


def _unsorted(gaps: np.ndarray) -> float:
    """The chance that normal gaps of these means and deviations are all positive, without any sorting."""
    mean, deviation = gaps.mean(axis=0), gaps.std(axis=0)
    alive = deviation > 1e-6 * max(float(np.abs(gaps).max()), 1e-300)
    return float(np.exp(len(gaps) * special.log_ndtr(mean[alive] / deviation[alive]).sum()))


def are_counts(y: np.ndarray, asking: Asking) -> bool:
    """Whether whole numbers, one per question, are counts, not classes.

    Classes are few or small numbers, and stay the same for a while along a line. Where the first four all differ and
    one is larger than 16 or negative, 16 questions along a line are asked: counts change nearly everywhere there, and
    by little at a time.

    Queries: `16` where the first four look like counts, if the budget allows it; else 0
    """
    first = y[:, 0].astype(np.float64)
    if (
        len(np.unique(first)) < KNOWN_POINTS
        or (first.max() <= LARGE_CLASS_NUMBER and first.min() >= 0)
        or asking.ledger.left < COUNT_QUESTIONS
    ):
        return False
    ends = asking.points(2)
    line = asking.legal(ends[0] + np.linspace(0, 1, COUNT_QUESTIONS)[:, None] * (ends[1] - ends[0]))
    along = asking.ask(line)[:, 0].astype(np.float64)
    steps = np.abs(np.diff(along))
    return bool((steps > 0).mean() >= 0.75 and steps.sum() <= 3 * np.ptp(along))


def whole_numbers(counts: bool) -> str:
    """What was made of whole numbers, and how to change it."""
    if counts:
        return (
            "its whole numbers change little by little along a line, as counts do: taken for values in steps of 1; "
            "pass answers='labels' (--answers labels) if they are classes"
        )
    return (
        "its answers are whole numbers and are taken for classes; pass answers='values' (--answers values) if they are "
        "counts"
    )


def of_digits(digits: Digits) -> list[str]:
    """How answers are rounded, where that is coarse."""
    if digits.step > 0:
        return [f"answers are multiples of {digits.step:.6g}: slopes show only across steps of the input that long"]
    if digits.mantissa <= MOST_BITS:
        known = {11: ", as in float16", 8: ", as in bfloat16"}.get(digits.mantissa, "")
        return [f"answers have {digits.mantissa} significant bits{known}"]
    return []


def of_probabilities(y: Float[np.ndarray, "N m"], digits: Digits, asked: bool) -> list[str]:
    """Saturated probabilities; and numbers in (0, 1) that may be some.

    Args:
        y: The first answers, within [0, 1].
        digits: How they are rounded.
        asked: Whether they are asked as probabilities.
    """
    last = max(digits.step / 2, 4 * 2.0**-digits.mantissa)
    full = int((y.max(axis=1) >= 1 - last).sum())
    empty = int((y.max(axis=1) <= digits.step / 2).sum()) if y.shape[1] == 1 else 0
    said = []
    if full + empty >= KNOWN_POINTS / 2:
        said.append(
            f"saturated: {full + empty} of {len(y)} first answers are 0 or 1 to the last digit, which shows no slope; "
            "ask where it is unsure (typical inputs x=, a smaller box within=), or ask for its logits"
        )
    if not asked:
        said.append(
            "its answers lie in [0, 1]: if they are probabilities, pass answers='probabilities' "
            "(--answers probabilities), and they are asked as logits"
        )
    return said


def of_noise(signal: float, noise: float) -> list[str]:
    """Signal to noise."""
    if noise <= 0:
        return []
    ratio = signal / noise
    loud = "; the noise hides what single answers show: ask where answers differ more" if ratio < 10 else ""
    return [
        f"signal to noise {ratio:.3g}: answers to one question spread by {noise:.3g}, to different questions by "
        f"{signal:.3g}{loud}"
    ]
