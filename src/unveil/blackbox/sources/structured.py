"""What a function or module returns, when that is more than one array: the part that is looked at, and a word on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from unveil.blackbox.answers import shown
from unveil.outcome import BadInput, SourceError

# What the answers are called, from most to least telling.
PREFERRED = (
    "logits", "scores", "probabilities", "probs", "predictions", "prediction", "outputs", "output", "y",
    "last_hidden_state",
)  # fmt: skip


def part_of(y: Any, count: int, name: str, output: str | None = None) -> tuple[Any, str]:
    """The answers in what was returned.

    Args:
        y: An array, or rows; or a mapping, a dataclass, a named tuple, an object with `logits`, a tuple of arrays.
        count: How many questions were asked.
        name: What people call the model.
        output: The name (of a tuple's member its number) of the part to be looked at.

    Returns:
        The answers, and one clause on the choice; empty if there was none to make.

    Raises:
        BadInput: `output` is given, and there is no such part.
        SourceError: No part has one row per question.
    """
    parts = _parts(y, count)
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


def _parts(y: Any, count: int) -> dict[str, Any] | None:
    if hasattr(y, "shape") or y is None:
        return None
    found: Mapping[Any, Any] | None = None
    if isinstance(y, Mapping):
        found = y
    elif dataclasses.is_dataclass(y) and not isinstance(y, type):
        found = {field.name: getattr(y, field.name) for field in dataclasses.fields(y)}
    elif isinstance(y, tuple) and hasattr(y, "_asdict"):
        found = y._asdict()
    elif isinstance(y, tuple) and _several(y, count):
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


def _rows(value: Any) -> int:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 0
    return len(value) if isinstance(value, list | tuple) else 0


def _floating(value: Any) -> bool:
    return "float" in str(getattr(value, "dtype", "float"))
