"""Reads what a simulator's inputs are (`--problem`), and makes Python files functions that other processes can run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unveil.blackbox.simulator_inputs import Input, Inputs
from unveil.cli.options import load
from unveil.outcome import BadInput

EXAMPLE = '{"radius": [0.05, 0.15], "length": {"low": 1120, "high": 1680, "unit": "m"}}'


def read_problem(path: Path) -> Inputs:
    """Read a JSON file that says what the inputs are.

    Args:
        path: A SALib problem (`num_vars`, `names`, `bounds`, perhaps `dists`), or one entry per input: [low, high], or
            an object with the fields of `Input`.

    Raises:
        BadInput: It cannot be read, or is neither.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_differing)
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(given, Mapping) or not given:
        raise BadInput(f"{path} must hold a JSON object such as {EXAMPLE}, or a SALib problem")
    try:
        if "bounds" in given and "num_vars" in given:
            return Inputs.of(given)
        return Inputs(tuple(_input(str(name), told) for name, told in given.items()))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise BadInput(f"{path} must hold an object such as {EXAMPLE}, or a SALib problem; {error}") from None


def _differing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ; of two of one name, JSON itself would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise BadInput(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _input(name: str, told: Any) -> Input:
    if isinstance(told, list) and len(told) == 2 and all(_number(end) for end in told):
        return Input(name, float(told[0]), float(told[1]))
    if not isinstance(told, Mapping):
        raise BadInput(f"input {name!r} must be [low, high] or have low and high; got {json.dumps(told)[:80]}")
    known = {field.name for field in fields(Input)} - {"name"}
    unknown = sorted(set(told) - known)
    if unknown:
        raise BadInput(f"input {name!r} has {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    levels = tuple(told.get("levels", ()))
    if any(not isinstance(level, str | int | float) for level in levels):
        raise BadInput(f"the levels of {name!r} must be words or numbers")
    if not levels and not all(_number(told.get(end)) for end in ("low", "high")):
        raise BadInput(f"input {name!r} needs low and high, two numbers, or levels")
    wrong = [key for key in ("log", "integer") if not isinstance(told.get(key, False), bool)]
    if wrong:
        raise BadInput(f"input {name!r}: {wrong[0]} must be true or false")
    return Input(
        name,
        float(told.get("low", -1.0)),
        float(told.get("high", 1.0)),
        str(told.get("unit", "")),
        bool(told.get("log", False)),
        bool(told.get("integer", False)),
        levels,
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class FileFunction:
    """`file.py:name` as a function that any process can run: each imports the file once.

    Attributes:
        source: The file and the name in it.

    Raises:
        BadInput: There is no such function.
    """

    source: str

    def __post_init__(self) -> None:
        _imported(self.source)

    @property
    def __name__(self) -> str:
        path, _, name = self.source.rpartition(":")
        return f"{Path(path).name}:{name}"

    def __call__(self, *values: Any, **named: Any) -> Any:
        return _imported(self.source)(*values, **named)


@functools.cache
def _imported(source: str) -> Callable[..., Any]:
    found: Any = load(source)
    if not callable(found):
        raise BadInput(f"{source} is no function; expected one that takes inputs and gives an answer")
    return found  # type: ignore[no-any-return]
