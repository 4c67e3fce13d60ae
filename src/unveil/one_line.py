"""one_line: results tell of themselves in one line, and in a notebook as a small table with their picture."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_TEXT = 60


def one_line(kind: type[T]) -> type[T]:
    """Give a dataclass a `repr` of one line, and the same as a table for notebooks.

    Numbers and short texts stand as they are, of anything larger its size. Where the class has a `plot`, the notebook
    shows it as well.
    """

    def __repr__(self: Any) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={told}' for name, told in _told(self))})"

    def _repr_html_(self: Any) -> str:
        told = ((html.escape(name), html.escape(text)) for name, text in _told(self))
        rows = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in told)
        picture = _svg(self.plot()) if hasattr(self, "plot") else ""
        return f"<div><strong>{type(self).__name__}</strong>{picture}<table>{rows}</table></div>"

    kind.__repr__ = __repr__  # type: ignore[method-assign]
    kind._repr_html_ = _repr_html_  # type: ignore[attr-defined]
    return kind


def _told(result: Any) -> list[tuple[str, str]]:
    return [(each.name, _brief(getattr(result, each.name))) for each in fields(result) if each.repr]


def _svg(figure: Any) -> str:
    """A matplotlib figure as it stands inside a page."""
    written = io.StringIO()
    figure.savefig(written, format="svg")
    text = written.getvalue()
    return text[text.index("<svg") :]


def _brief(value: Any) -> str:
    if value is None or isinstance(value, bool | int | str):
        text = repr(value)
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    if isinstance(value, Enum):
        return value.name
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        size = " x ".join(str(length) for length in value.shape)
        return f"{value:.4g}" if value.shape == () and value.dtype.kind == "f" else f"<{size or 'one'} {value.dtype}>"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        simple = len(value) <= 6 and all(isinstance(each, bool | int | float | str) for each in value)
        inner = ", ".join(_brief(each) for each in value) if simple else ""
        return f"({inner})" if simple and len(inner) <= LONGEST_TEXT else f"<{len(value)} {_items(value)}>"
    if isinstance(value, Mapping):
        return f"<{len(value)} entries>"
    return f"<{type(value).__name__}>" if is_dataclass(value) or callable(value) else _brief(repr(value).split("\n")[0])


def _items(values: Any) -> str:
    kinds = {type(each).__name__ for each in values}
    return next(iter(kinds)) if len(kinds) == 1 else "items"
