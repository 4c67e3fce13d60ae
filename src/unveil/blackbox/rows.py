"""Rows: records of arrays that hold one row for each of their items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

import numpy as np


class Rows:
    """A frozen dataclass of arrays (or of other such records) with one row for each item.

    Examples:
        >>> from dataclasses import dataclass
        >>> from unveil.blackbox.rows import Rows
        >>> @dataclass(frozen=True)
        ... class Points(Rows):
        ...     x: np.ndarray
        ...     label: np.ndarray
        >>> some = Points(np.eye(3), np.arange(3))
        >>> Points.joined([some, some[1:]]).label.tolist()
        [0, 1, 2, 1, 2]
    """

    def _columns(self) -> list[Any]:
        return [getattr(self, each.name) for each in fields(self)]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._columns()[0])

    def __getitem__(self, rows: np.ndarray | slice) -> Self:
        return type(self)(*(column[rows] for column in self._columns()))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return cls(*(each[0].joined(each) if isinstance(each[0], Rows) else np.concatenate(each) for each in columns))
