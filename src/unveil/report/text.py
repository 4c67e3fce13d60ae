"""Text from outside made safe to print: no control characters, no invisible ones, no surprising length."""

from __future__ import annotations

import unicodedata


def printable(text: object, longest: int = 500) -> str:
    r"""`text` on one line, with control and invisible characters spelled out (`\x1b`, `\u202e`), cut after `longest`.

    A model's name or an error message may come from a stranger's file: it must neither steer a terminal nor reorder a
    page.
    """
    spelled = "".join(_spelled(character) for character in " ".join(str(text).split(" ")))
    return spelled if len(spelled) <= longest else spelled[: longest - 1] + "…"


def _spelled(character: str) -> str:
    if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return character
    if character in "\n\t\r":
        return " "
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def count(number: float, noun: str = "", plural: str = "") -> str:
    """`1 query`, `63,224 queries`: whole numbers as people write them."""
    if not noun:
        return f"{number:,.0f}"
    return f"{number:,.0f} {noun if number == 1 else plural or noun + 's'}"


def seconds(time: float) -> str:
    """A duration in the unit a person would use."""
    if time < 1:
        return "under a second"
    if time < 90:
        return count(round(time), "second")
    if time < 5400:
        return count(round(time / 60), "minute")
    return f"{time / 3600:.1f} hours"
