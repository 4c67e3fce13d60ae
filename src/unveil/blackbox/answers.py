"""What a source says, made into answers: finite values or integer labels, or one clear error."""

from __future__ import annotations

import math
import zlib

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source import Questions, Source
from unveil.outcome import MissingAnswers, SourceError, UnveilError


class SourceRaised(SourceError):
    """The source's own code raised, and does not say what that means."""


ONE_BY_ONE_NUMBERS = 2000  # numbers that are looked at one by one sooner than added up
# numpy's kinds of arrays that hold names: objects, bytes, text.
NAMES = "OSUT"


def raw_answers(source: Source, x: Questions, ledger: Ledger) -> np.ndarray:
    """What the source says, as (N, m) of any type; whatever it raises becomes a SourceError.

    Raises:
        SourceError: The source raised, or did not answer one row per question.
    """
    try:
        y = np.asarray(source.answer(x))
    except UnveilError:
        raise
    except (Exception, SystemExit) as error:  # that a model ended the program is no result
        shape = ", ".join(str(d) for d in (len(x), *source.shape))
        raise SourceRaised(
            f"{source.name} failed on an input of shape ({shape}) that reaches {np.abs(x).max():.3g} in size: "
            f"{type(error).__name__}: {first_line(error)}; it must answer any number of questions at once: see "
            "docs/add-a-source.md, or pass shape=; and all that may be asked: pass within=(low, high) if it has limits"
        ) from error
    finally:
        ledger.sent += source.attempts()
    if y.ndim == 0 or len(y) != len(x):
        turned = ""
        if y.ndim == 0:
            single = "" if y.dtype != object else f" (it returned a {type(y.item()).__name__})"
            turned = f"{single}; of a function that takes one input at a time pass lambda x: [f(row) for row in x]"
        elif y.ndim > 2 and y.shape[1] == len(x):
            turned = "; its second axis has that length: if time comes first, pass lambda x: model(x).swapaxes(0, 1)"
        elif y.ndim == 2 and y.shape[1] == len(x):
            turned = "; its columns are that many: if they are the questions, pass lambda x: model(x).T"
        raise SourceError(
            f"{source.name} answered {len(x)} questions with shape {y.shape}; expected ({len(x)}, m): "
            f"one row per question{turned}"
        )
    return y.reshape(len(x), -1)


def values(y: np.ndarray, name: str) -> Float[np.ndarray, "N m"]:
    """Answers as float64; a row with NaN or infinity in it is missing, and NaN throughout.

    Raises:
        SourceError: Not numbers.
    """
    if y.dtype.kind not in "fiub":
        raise SourceError(f"{name} answered with {y.dtype} instead of numbers; for class names pass answers='labels'")
    y = y.astype(np.float64, copy=False)
    return y if complete(y) else np.where(missing(y)[:, None], np.nan, y)


def complete(y: Num[np.ndarray, "N m"]) -> bool:
    """Whether no number is NaN or infinity."""
    if y.dtype.kind in "iub":
        return True
    if y.size <= ONE_BY_ONE_NUMBERS:
        return bool(np.isfinite(y).all())
    # One look at every number, without a copy: a sum of squares is finite only if all of them are.
    flat = y.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())


def missing(y: Num[np.ndarray, "N m"]) -> Bool[np.ndarray, " N"]:
    """Which questions got no answer: NaN or infinity."""
    return np.zeros(len(y), dtype=bool) if complete(y) else np.asarray(~np.isfinite(y).all(axis=1))


def require_finite(y: Num[np.ndarray, "N m"], x: Questions, name: str) -> None:
    """Refuse a batch of which an answer is missing.

    Raises:
        MissingAnswers: There is NaN or infinity.
    """
    if complete(y):
        return
    gone = missing(y)
    advice = "pass within=(low, high) to stay where it is defined"
    if gone.all():
        advice += ", unless its weights themselves are not finite"
    raise MissingAnswers(
        f"{name} answered {gone.sum():,} of {len(y):,} questions with NaN or infinity; inputs there reach "
        f"{np.abs(x[gone]).max():.3g} in size: {advice}"
    )


def labels(y: np.ndarray, name: str) -> Int[np.ndarray, "N 1"]:
    """Labels as integers: integers and booleans as they are, names by `label_of`.

    Raises:
        SourceError: More than one label per question, or a fraction.
    """
    if y.shape[1] != 1:
        raise SourceError(
            f"{name} answered {y.shape[1]} labels per question; expected one: ask about one of them, "
            "e.g. lambda x: model(x)[:, 0]"
        )
    if y.dtype.kind in NAMES:
        return np.array([[label_of(v)] for v in y[:, 0]], dtype=np.int64).reshape(-1, 1)
    if y.dtype.kind == "f" and not (fit := np.isfinite(y) & (y == np.round(y))).all():
        raise SourceError(
            f"{name} answered {float(y[~fit][0])!r} where a label was expected; "
            "pass answers='values', and wrap it in LabelsOnly(oracle, threshold=...) if only labels shall be seen"
        )
    return y.astype(np.int64)


def label_of(label: object) -> int:
    """The number of a label. A name's number is its checksum: it must not depend on which names came before.

    Raises:
        SourceError: Neither a name nor a number.
    """
    if isinstance(label, str | bytes):
        return zlib.crc32(label.encode() if isinstance(label, str) else label)
    if isinstance(label, bool | int | np.integer | np.bool_):
        return int(label)
    raise SourceError(f"cannot take {label!r:.60} for a label; expected an integer, a boolean or a name")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a length one can read."""
    text = str(error).strip().splitlines()
    return shown(text[0], 300) if text else "no message"


def shown(text: str, length: int = 120) -> str:
    """A text from outside (a name in a file, a message), fit for one line: no control characters, cut to a length."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= length else clean[: length - 1] + "…"
