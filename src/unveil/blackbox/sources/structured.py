"""What a function or module returns, when that is more than one array: the part that is looked at, and a word on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.outcome import BadInput, SourceError

# What the answers are called, from most to least telling.
PREFERRED = (
    "logits", "scores", "probabilities", "probs", "predictions", "prediction", "outputs", "output", "y",
    "last_hidden_state",
)  # fmt: skip


def part_of(y: Any, count: int, name: str, output: str | None = None, listed: bool = False) -> tuple[Any, str]:
    """The answers in what was returned.

    Args:
        y: An array, or rows; or a mapping, a dataclass, a named tuple, an object with `logits`, a tuple of arrays.
        count: How many questions were asked.
        name: What people call the model.
        output: The name (of a tuple's member its number) of the part to be looked at.
        listed: Whether a list of arrays holds several outputs also where it is as long as there are questions.

    Returns:
        The answers, and one clause on the choice; empty if there was none to make.

    Raises:
        BadInput: `output` is given, and there is no such part.
        SourceError: No part has one row per question.
    """
    parts = _parts(y, count, listed)
    if parts is None:
        if output is not None:
            raise BadInput(f"{name} returns one array; output= chooses among several")
        return y, ""
    told = shown(", ".join(parts), 200)
    if output is not None:
        if output not in parts:
            raise BadInput(f"{name} returns no {output!r}; it returns {told}")
        return parts[output], ""
    fits = [key for key, value in parts.items() if _rows(value) == count]
    if not fits:
        raise SourceError(
            f"{name} returns {told or 'nothing'}, and none of it has one row for each of {count} questions; pass a "
            "function that picks what is to be looked at, e.g. lambda x: model(x).logits"
        )
    rank = {key: place for place, key in enumerate(PREFERRED)}
    chosen = min(fits, key=lambda key: (rank.get(key.lower(), len(rank)), not _floating(parts[key])))
    if len(fits) == 1:
        return parts[chosen], ""
    return parts[chosen], f"of what it returns ({told}) {chosen!r:.60} is looked at; output= (--output) chooses another"


def _parts(y: Any, count: int, listed: bool) -> dict[str, Any] | None:
    if hasattr(y, "shape") or y is None:
        return None
    found: Mapping[Any, Any] | None = None
    if isinstance(y, Mapping):
        found = y
    elif dataclasses.is_dataclass(y) and not isinstance(y, type):
        found = {field.name: getattr(y, field.name) for field in dataclasses.fields(y)}
    elif isinstance(y, tuple) and hasattr(y, "_asdict"):
        found = y._asdict()
    elif (isinstance(y, tuple) and _several(y, count)) or (isinstance(y, list) and _outputs(y, count, listed)):
        found = dict(enumerate(y))
    elif not isinstance(y, tuple | list) and any(hasattr(y, key) for key in PREFERRED):
        found = {key: getattr(y, key) for key in PREFERRED if hasattr(y, key)}
    if found is None:
        return None
    return {str(key): value for key, value in found.items() if value is not None}


def _several(y: tuple[Any, ...], count: int) -> bool:
    """Whether a tuple holds several outputs, and not one row per question."""
    sizes = [len(getattr(member, "shape", ())) for member in y]
    return any(sizes) and (len(y) != count or max(sizes) > 1)


def _outputs(y: list[Any], count: int, listed: bool) -> bool:
    """Whether a list holds arrays with a row for each question, as models with several outputs return them."""
    shapes = [tuple(getattr(member, "shape", ())) for member in y]
    held = bool(shapes) and all(len(shape) > 1 and shape[0] == count for shape in shapes)
    return held and (listed or len(y) != count)


def plain(y: Any) -> Any:
    """What NumPy takes for an array: tensors without their history, sparse rows in full, NaN where a mask hides."""
    if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
        return np.ma.filled(y.astype(np.float64), np.nan)
    if isinstance(y, list | tuple):
        return [plain(row) for row in y] if any(hasattr(row, "detach") for row in y) else y
    if hasattr(y, "detach"):
        y = y.detach().cpu()
        return (y.float() if str(y.dtype) == "torch.bfloat16" else y).numpy()
    return y.toarray() if hasattr(y, "toarray") else y


def _rows(value: Any) -> int:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 0
    return len(value) if isinstance(value, list | tuple) else 0


def _floating(value: Any) -> bool:
    return "float" in str(getattr(value, "dtype", "float"))
