"""Text from outside made safe to print: no control characters, no invisible ones, no surprising length."""

from __future__ import annotations

import unicodedata

_HARD = "\u00a0"  # a space at which no line is broken


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


def power(exponent: int) -> str:
    """`10⁻³`, with 1 for 10⁰."""
    if exponent == 0:
        return "1"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def brief(number: float | int | None, digits: int = 3) -> str:
    """A number as a person would write it: `80`, `63,224`, `0.973`, `2.1 × 10⁻⁸`; a dash where there is none."""
    if number is None or number != number:
        return "–"
    if isinstance(number, int):
        return f"{number:,}"
    size = abs(number)
    if size == 0:
        return "0"
    if size == float("inf"):
        return "∞" if number > 0 else "−∞"
    if 1e-3 <= size < 1e5:
        text = f"{number:,.{digits}g}" if size < 10**digits else f"{number:,.0f}"
        return text.replace("-", "−")
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}{_HARD}×{_HARD}{power(int(exponent))}".replace("-", "−")


def share(part: float) -> str:
    """A probability in per cent: `99.4 %`; never rounded up to certainty."""
    percent = 100 * part
    if percent > 99.9 and part < 1:
        return f">{_HARD}99.9{_HARD}%"
    if 0 < percent < 0.1:
        return f"<{_HARD}0.1{_HARD}%"
    return f"{percent:.1f}{_HARD}%"
