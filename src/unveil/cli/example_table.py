"""Reads examples from a table with named columns (CSV, Parquet): which column is the label, and words as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unveil.cli.tables import columns_of, values
from unveil.outcome import BadInput

# Names that columns of labels have, in lower case.
LABEL_COLUMNS = ("label", "labels", "class", "target", "targets", "y", "species", "diagnosis", "outcome")
MOST_LEVELS = 100


@dataclass(frozen=True)
class ExampleTable:
    """Examples from a table.

    Attributes:
        x: (N, n) numbers; int64 where all are whole numbers, as pixels are.
        labels: (N,) integers, or None.
        names: (n,) of the inputs; of a category's column `name=level`.
        said: How it was read.
    """

    x: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    said: list[str]


def read_examples(path: Path, n: int, label: str | None) -> ExampleTable:
    """Read a table with the names of its columns.

    Args:
        path: .csv with names in the first line, or .parquet.
        n: Inputs of the model.
        label: The column with the labels; None takes one by its name, or by its values at the table's edge, where the
            table has one column more than the model has inputs.

    Raises:
        BadInput: No such column, or the others do not make n inputs.
    """
    read = {name: values(name, cells, path) for name, cells in columns_of(path).items()}
    said: list[str] = []
    if label is not None and label not in read:
        raise BadInput(f"{path} has no column {label!r} (--label-column); it has {', '.join(list(read)[:20])}")
    if label is None and len(read) > 1 and not _fitting(read, n):
        label = _label(read, n)
        if label is not None:
            said.append(f"labels from column {label!r} (--label-column names another)")
    told = None if label is None else read.pop(label)
    whole = np.array([all(cell is not None for cell in row) for row in zip(*read.values(), strict=True)])
    if told is not None:
        whole &= np.array([cell is not None for cell in told])
    if not whole.all():
        said.append(f"{int((~whole).sum())} rows without a value in some column left out")
    how = _fitting(read, n)
    if how is None:
        levels = sum(_width(column) for column in read.values())
        more = "" if label is not None else "; --label-column names the one that is the label"
        raise BadInput(
            f"{path} has {len(read)} columns of inputs ({levels} with one for each word of a category); "
            f"the model takes {n}{more}"
        )
    x, names = _numbers(read, whole, how == "levels")
    words = [name for name, column in read.items() if _words(column)]
    if words:
        form = "one input for each word" if how == "levels" else "their words numbered in alphabetical order"
        said.append(f"categories {', '.join(words[:5])}{' and others' if len(words) > 5 else ''}: {form}")
    labels = None if told is None else _codes([cell for cell, kept in zip(told, whole, strict=True) if kept], said)
    whole_numbers = not words and np.array_equal(x, np.trunc(x))
    return ExampleTable(x.astype(np.int64) if whole_numbers else x, labels, names, said)


def _words(column: list[Any]) -> bool:
    return any(isinstance(cell, str) for cell in column)


def _levels(column: list[Any]) -> list[str]:
    return sorted({cell for cell in column if cell is not None})


def _width(column: list[Any]) -> int:
    return len(_levels(column)) if _words(column) else 1


def _fitting(read: dict[str, list[Any]], n: int) -> str | None:
    """How the columns make n inputs: one for each column, or one for each level of a category; None if they do not."""
    if sum(_width(column) for column in read.values()) == n:
        return "levels"
    return "columns" if len(read) == n else None


def _label(read: dict[str, list[Any]], n: int) -> str | None:
    """The column without which the others fit, by its name, else the one at the edge that looks like labels."""
    fits = [name for name in read if _fitting({other: read[other] for other in read if other != name}, n)]
    named = [name for name in fits if name.strip().lower() in LABEL_COLUMNS]
    if named:
        return named[0]
    edges = [name for name in (next(iter(read)), list(read)[-1]) if name in fits]
    likely = [name for name in edges if _like_labels(read[name])]
    return next(iter(likely or edges), None)


def _like_labels(column: list[Any]) -> bool:
    """Few different words or whole numbers, each of them more than once or so."""
    there = [cell for cell in column if cell is not None]
    different = set(there)
    whole = _words(column) or all(float(cell).is_integer() for cell in there)
    return whole and len(different) <= min(MOST_LEVELS, max(2, len(there) // 2))


def _numbers(read: dict[str, list[Any]], whole: np.ndarray, by_level: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    columns, names = [], []
    for name, column in read.items():
        kept = [cell for cell, there in zip(column, whole, strict=True) if there]
        if not _words(column):
            columns.append(np.array(kept, dtype=np.float64))
            names.append(name)
        elif by_level:
            for level in _levels(column):
                columns.append(np.array([float(cell == level) for cell in kept]))
                names.append(f"{name}={level}")
        else:
            levels = _levels(column)
            columns.append(np.array([float(levels.index(cell)) for cell in kept]))
            names.append(name)
    return np.stack(columns, axis=1), tuple(names)


def _codes(cells: list[Any], said: list[str]) -> np.ndarray | None:
    """Labels as whole numbers; words numbered in alphabetical order, as scikit-learn does. None if they are neither."""
    if any(isinstance(cell, str) for cell in cells):
        levels = sorted({str(cell) for cell in cells})
        shown = ", ".join(f"{level} = {code}" for code, level in enumerate(levels[:10]))
        said.append(f"labels {shown}{', ...' if len(levels) > 10 else ''}")
        return np.array([levels.index(str(cell)) for cell in cells], dtype=np.int64)
    numbers = np.array(cells, dtype=np.float64)
    if not np.array_equal(numbers, np.trunc(numbers)):
        said.append("the labels are no whole numbers, and are left out")
        return None
    return numbers.astype(np.int64)
