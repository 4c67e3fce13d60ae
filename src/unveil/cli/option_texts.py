"""What is written behind an option, read as numbers: `1,28,28`, `0,1`, `1/255`, `rate=16000`."""

from __future__ import annotations

import zipfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unveil.outcome import BadInput, unreadable

if TYPE_CHECKING:
    import numpy as np

    from unveil.blackbox.domain import Within


def held(fix: list[str] | None) -> dict[str, Any] | None:
    """`rate=16000`, `mask=1,1,0` or `state=state.npy` as values by name; `x=...` marks the input that is asked."""
    if not fix:
        return None
    import numpy as np

    found: dict[str, Any] = {}
    for text in fix:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise BadInput(f"--fix must be a name and a value, such as rate=16000; got {text!r}")
        if value.endswith(".npy"):
            try:
                found[name] = np.load(value, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise BadInput(f"--fix {name}: {value} cannot be read as an array: {unreadable(error)}") from None
        elif value == "...":
            found[name] = ...
        else:
            parts = [number(part, f"--fix {name}") for part in value.split(",")]
            whole = [int(part) if part == int(part) and "." not in value else part for part in parts]
            found[name] = whole[0] if len(whole) == 1 else np.array(whole)
    return found


def integers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """`1,28,28` or `1x28x28` as whole numbers of at least `least`."""
    try:
        numbers = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise BadInput(f"{option} must be whole numbers with commas between them, such as 784 or 1,28,28; got {text!r}")
    return numbers


def interval(text: str) -> tuple[float, float]:
    """`0,1` as two numbers, the smaller first."""
    parts = text.split(",")
    if len(parts) != 2:
        raise BadInput(f"--within must be two numbers with a comma between them, such as 0,1; got {text!r}")
    low, high = (number(part, "--within") for part in parts)
    if not low < high:
        raise BadInput(f"--within must have its smaller number first, such as 0,1; got {text!r}")
    return low, high


def bounds(text: str) -> Within:
    """`0,1`, or a file of bounds: an .npz with the arrays `low` and `high`, one number per input each."""
    if not text.lower().endswith(".npz"):
        return interval(text)
    import numpy as np

    from unveil.blackbox.domain import box

    if not Path(text).is_file():
        raise BadInput(f"there is no file {text}; --within takes two numbers such as 0,1 or an .npz")
    try:
        with np.load(text, allow_pickle=False) as arrays:
            within = box((arrays["low"], arrays["high"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"--within: {text} must hold the arrays `low` and `high`: {unreadable(error)}") from error
    assert within is not None
    return within


def require_inputs(inputs: Path | None, **given: object) -> None:
    """Refuse options that say how --inputs are read where there are none."""
    for name, value in given.items():
        if inputs is None and value is not None:
            raise BadInput(f"--{name.replace('_', '-')} says how --inputs are read; give --inputs as well")


def numbers(text: str, option: str) -> list[float]:
    """`0.485,0.456,0.406` as numbers; those that inputs are divided by are greater than 0."""
    found = [number(part, option) for part in text.split(",")]
    if option == "--deviation" and not all(value > 0 for value in found):
        raise BadInput(f"--deviation must be greater than 0; got {text}")
    return found


def by_channel(values: list[float], shape: tuple[int, ...]) -> np.ndarray:
    """One value for all inputs, or one for each channel, which is the first axis."""
    import numpy as np

    return np.reshape(values, (-1,) + (1,) * (len(shape) - 1)) if len(values) > 1 else np.array(values[0])


def number(text: str, option: str) -> float:
    """A finite decimal number or a fraction such as 1/255."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadInput(f"{option} must be a number such as 0.5 or 1/255; got {text!r}") from None
