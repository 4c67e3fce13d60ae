"""Reads a table of inputs and answers (CSV, npz, Parquet), or the columns of one. Nothing in a file is executed."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unveil.outcome import BadInput

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".npz", ".parquet", ".pq")
# Rows without which nothing can be said.
LEAST_TABLE_ROWS = 3
# What a cell without a value holds, in lower case.
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?", "inf", "-inf", "+inf"}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Table:
    """Inputs and answers, one row each.

    Attributes:
        names: Of the inputs, as the file has them.
        rows: (N, k) objects: numbers, or words in the columns of a category.
        y: (N,) answers; NaN where there is none.
        output: Which column they are.
        missing: Rows that were left out, because an input has no value in them.
        constant: Columns that were left out, because they have the same value in every row.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    y: np.ndarray
    output: str
    missing: int
    constant: tuple[str, ...]


def read_table(path: Path, output: str | None, ignore: tuple[str, ...] = (), keep: tuple[str, ...] = ()) -> Table:
    """Read a table.

    Args:
        path: .csv (or .tsv, .txt; a comma, semicolon or tabulator between cells, names in the first line), .npz (one
            array per column, or `x` of shape (N, k) beside the answers), or .parquet.
        output: The column with the answers; None takes `y`, `output` or `answer`, if there is exactly one of them.
        ignore: Columns that are no inputs.
        keep: The inputs, in this order; by default all other columns, but for those of one value.

    Raises:
        BadInput: The file cannot be read, or holds no such table.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    columns = columns_of(path)
    output = _chosen(list(columns), output, path)
    for name in (*ignore, *keep):
        if name not in columns:
            raise BadInput(f"{path} has no column {name!r}; it has {_list(columns)}")
    answers = _numbers(columns.pop(output))
    if answers is None:
        raise BadInput(f"the answers in column {output!r} of {path} must be numbers")
    inputs = {name: columns[name] for name in keep or columns if name not in ignore}
    constant = () if keep else tuple(name for name, cells in inputs.items() if len(set(filter(_there, cells))) < 2)
    read = {name: values(name, cells, path) for name, cells in inputs.items() if name not in constant}
    if inputs and len(answers) < LEAST_TABLE_ROWS:
        raise BadInput(
            f"{path} has fewer than {LEAST_TABLE_ROWS} rows below its names; nothing can be said from {len(answers)}"
        )
    if not read:
        same = f": {_list(constant)} have the same value in every row" if constant else ""
        raise BadInput(f"{path} has no column besides {output!r} that could be an input{same}")
    rows = np.empty((len(answers), len(read)), dtype=object)
    for place, cells in enumerate(read.values()):
        rows[:, place] = cells
    whole = np.array([all(cell is not None for cell in row) for row in rows], dtype=bool)
    return Table(tuple(read), rows[whole], answers[whole], output, int((~whole).sum()), constant)


def columns_of(path: Path) -> dict[str, list[Any]]:
    """The columns of a file, by name.

    Raises:
        BadInput: It cannot be read as a table.
    """
    kind = path.suffix.lower()
    try:
        return _npz(path) if kind == ".npz" else _parquet(path) if kind in (".parquet", ".pq") else _csv(path)
    except (OSError, ValueError, EOFError, KeyError, csv.Error, zipfile.BadZipFile) as error:
        if isinstance(error, BadInput):
            raise
        if "pickle" in str(error):  # NumPy advises to load it all the same, which would execute what it holds
            raise BadInput(f"{path} cannot be read as an .npz of numbers and words") from None
        if isinstance(error, UnicodeDecodeError):
            raise BadInput(
                f"{path} cannot be read as a table: it is no UTF-8 text ({error}); save it as UTF-8"
            ) from None
        raise BadInput(f"{path} cannot be read as a table ({kind}): {error or type(error).__name__}") from None


def _chosen(names: list[str], output: str | None, path: Path) -> str:
    if output is not None:
        if output not in names:
            raise BadInput(f"{path} has no column {output!r}; it has {_list(names)}")
        return output
    likely = [name for name in names if name.lower() in ("y", "output", "answer")]
    if len(likely) != 1:
        raise BadInput(f"name the column with the answers, --output NAME; {path} has {_list(names)}")
    return likely[0]


def _list(names: Any) -> str:
    told = [str(name) for name in names]
    return ", ".join(told[:20]) + (f" and {len(told) - 20} more" if len(told) > 20 else "")


def _csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        between = max(",;\t", key=first.count)
        lines = [
            line for line in csv.reader(file, delimiter=between, strict=True) if any(cell.strip() for cell in line)
        ]
    if not lines:
        raise BadInput(f"{path} is empty; expected names in the first line and one row a line")
    names = [cell.strip() for cell in lines[0]]
    if _numbers(names) is not None:
        raise BadInput(f"the first line of {path} holds numbers; expected the names of the columns")
    _differ(names, path)
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise BadInput(f"row {number} of {path} has {len(line)} cells; the first line names {len(names)} columns")
    # Where a semicolon stands between cells, a comma may stand for the decimal point.
    cells = [
        [re.sub(",", ".", cell) if between == ";" and _DECIMAL_COMMA.fullmatch(cell.strip()) else cell for cell in line]
        for line in lines[1:]
    ]
    return {name: [line[place] for line in cells] for place, name in enumerate(names)}


def _npz(path: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        if not hasattr(arrays, "files"):
            raise BadInput(f"{path} is a bare array; expected an .npz with named arrays")
        held = {name: arrays[name] for name in arrays.files}
    wide = [name for name, array in held.items() if array.ndim == 2 and array.shape[1] > 1]
    titles = held.pop("names", None) if len(wide) == 1 else None
    for name, array in held.items():
        if array.ndim == 2:
            width = array.shape[1]
            own = [name] if width == 1 else [f"{name}{place}" for place in range(1, width + 1)]
            if titles is not None and name in wide:
                own = [str(title) for title in np.ravel(titles)]
                if len(own) != width:
                    raise BadInput(f"{path} has {len(own)} names for the {width} columns of {name}")
        elif array.ndim == 1:
            own, array = [name], array[:, None]
        else:
            raise BadInput(f"the array {name!r} of {path} has {array.ndim} dimensions; expected one or two")
        _differ([*columns, *own], path)
        columns |= {title: list(column.tolist()) for title, column in zip(own, array.T, strict=True)}
    return _same_length(columns, path)


def _parquet(path: Path) -> dict[str, list[Any]]:
    try:
        from pandas import read_parquet

        frame = read_parquet(path)
    except ImportError:
        raise BadInput("a Parquet table needs pandas and pyarrow: install them, or save it as CSV") from None
    except Exception as error:  # pyarrow's own errors are no common class
        raise BadInput(f"{path} cannot be read as Parquet: {type(error).__name__}") from None
    _differ([str(name) for name in frame.columns], path)
    return _same_length({str(name): list(frame[name].tolist()) for name in frame.columns}, path)


def _differ(names: list[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise BadInput(f"the columns of {path} need names that differ; {twice[0] or 'one'!r} is there twice or empty")


def _same_length(columns: dict[str, list[Any]], path: Path) -> dict[str, list[Any]]:
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) != 1:
        raise BadInput(f"the arrays of {path} must be equally long; got {lengths or 'none'}")
    return columns


def _there(cell: Any) -> bool:
    """Whether a cell holds a value."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return False
    return not (isinstance(cell, str) and cell.strip().lower() in _MISSING)


def _number(cell: Any) -> float | None:
    if isinstance(cell, complex):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _numbers(cells: list[Any]) -> np.ndarray | None:
    """Numbers, NaN where there is none; None if something else is among them."""
    found = [_number(cell) if _there(cell) else math.nan for cell in cells]
    if any(number is None for number in found):
        return None
    told = np.array(found, dtype=np.float64)
    told[~np.isfinite(told)] = np.nan
    return told


def values(name: str, cells: list[Any], path: Path) -> list[Any]:
    """Numbers or, where a column holds none, words; None where there is no value.

    Raises:
        BadInput: Numbers and words in one column.
    """
    numbers = _numbers(cells)
    if numbers is not None:
        return [number if math.isfinite(number) else None for number in numbers.tolist()]
    filled = [str(cell).strip() if _there(cell) else None for cell in cells]
    odd = [(row, cell) for row, cell in enumerate(filled, 1) if cell is not None and _number(cell) is None]
    if len(odd) < sum(cell is not None for cell in filled):
        row, cell = odd[0]
        raise BadInput(f"column {name!r} of {path} holds numbers, but {cell!r} in row {row}; mend it or pass --ignore")
    return filled
