"""Reads the example inputs of --inputs, and says how it read them. Nothing in a file is ever executed."""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unveil.audit.text import count
from unveil.blackbox.domain import described
from unveil.cli.example_table import read_examples
from unveil.outcome import BadInput, unreadable

if TYPE_CHECKING:
    from unveil.blackbox.oracle import Oracle
    from unveil.whitebox.network import Network

_IMAGE_KEYS = ("images", "x", "X", "inputs")
_LABEL_KEYS = ("labels", "y", "Y", "targets")
_PICTURES = (".png", ".jpg", ".jpeg")
# How files begin that NumPy wrote: .npz is a zip archive. It takes everything else for a pickle, and says so.
_BEGINNINGS = (b"PK", b"\x93NUMPY")


@dataclass(frozen=True)
class Inputs:
    """Example inputs in the oracle's own terms.

    Attributes:
        x: (N, n) float64.
        labels: (N,) integers, or None where the file has none.
        said: How the file was read, one sentence each.
        names: (n,) of the inputs, where the file is a table that has them.
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    said: tuple[str, ...] = field(default=())
    names: tuple[str, ...] = ()


def _unheard(text: str) -> None:
    pass


def read_inputs(
    path: Path,
    oracle: Oracle,
    scale: float | None = None,
    most: int | None = None,
    label: str | None = None,
    note: Callable[[str], None] = _unheard,
) -> Inputs:
    """Read examples for an oracle.

    Args:
        path: .npz (the array `images`, `x`, `X` or `inputs`, else the first with numbers; labels from `labels` or
            `y`), .npy, .csv or .parquet (one input a row; a column more than n is the label), .png or .jpg, or a folder
            of pictures.
        oracle: Its shape is what the inputs must fit; pictures with colour last get it first where that fits.
        scale: Divide by this. By default whole numbers up to 255 are divided by 255 where the legal box is (0, 1).
        most: Keep only so many, spread evenly over the file.
        label: The column of a table that holds the labels, by its name; without names by its number, 0 for the first.
        note: Told how the file was read.

    Raises:
        BadInput: The file cannot be read, or does not fit the oracle.
    """
    if scale is not None and not (math.isfinite(scale) and scale != 0):
        raise BadInput(f"--scale must be a finite number other than 0, such as 255; got {scale}")
    names: tuple[str, ...] = ()
    if _named(path):
        table = read_examples(path, oracle.n, label)
        x, labels, said, names = table.x, table.labels, table.said, table.names
    else:
        x, labels, said = _array(path, oracle, label)
    x, more = _fitted(x, oracle, path)
    said += more
    x = x.astype(np.uint8) if x.dtype.kind == "b" else x  # black and white
    if x.dtype.kind not in "uif":
        raise BadInput(f"{path} holds {x.dtype} values; expected numbers")
    divisor = scale
    if divisor is None and x.dtype.kind in "ui" and _eight_bit(oracle) and x.size and 1 < x.max() <= 255:
        divisor = 255.0
    x = x.astype(np.float64)
    if divisor is not None:
        x = x / divisor
        said.append(f"divided by {divisor:g}")
    if not np.isfinite(x).all():
        raise BadInput(f"{path} holds NaN or infinity; expected finite numbers")
    if len(x) == 0:
        raise BadInput(f"{path} holds no inputs")
    if oracle.within is not None and ((x < oracle.low).any() or (x > oracle.high).any()):
        raise BadInput(
            f"{path} has values from {x.min():g} to {x.max():g}, outside the legal range {described(oracle.within)}; "
            "pass --scale (255 for 8-bit images) or another --within"
        )
    if most is not None and len(x) > most:
        rows = np.linspace(0, len(x) - 1, most).round().astype(int)
        said.append(f"{most} of {len(x)} kept")
        x, labels = x[rows], None if labels is None else labels[rows]
    note(f"Read {count(len(x), 'input')} from {path}: {', '.join(said) or 'as they are'}.")
    return Inputs(oracle.nearest(x), labels, tuple(said), names)


def read_for(
    network: Network,
    path: Path,
    within: tuple[float, float] | None = None,
    scale: float | None = None,
    most: int | None = None,
    note: Callable[[str], None] = _unheard,
) -> Inputs:
    """Read examples for a network whose legal range may not have been given.

    Where they fit into (0, 1) that way, whole numbers are then taken for 8-bit pictures; other numbers for themselves.

    Raises:
        BadInput: As `read_inputs`.
    """
    from unveil.blackbox.sources import as_oracle

    def read(legal: tuple[float, float] | None) -> Inputs:
        return read_inputs(path, as_oracle(network.logits, shape=network.shape, within=legal), scale, most, note=note)

    if within is None:
        try:
            return read((0.0, 1.0))
        except BadInput:
            pass  # No pictures, or no inputs at all, which the next line says.
    return read(within)


def _named(path: Path) -> bool:
    """Whether a file is a table whose columns have names."""
    kind = path.suffix.lower()
    if not path.is_file() or kind not in (".csv", ".tsv", ".parquet", ".pq"):
        return False
    if kind in (".parquet", ".pq"):
        return True
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first, second = (re.split("[,;\t]", lines.readline().strip()) for _ in range(2))
    # A first line with other words than one for each column is a title.
    return not all(_is_number(cell) for cell in first) and len(first) == len(second)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _array(path: Path, oracle: Oracle, label: str | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    if not path.exists():
        raise BadInput(f"there is no file {path}")
    kind = path.suffix.lower()
    try:
        if kind in (".npz", ".npy"):
            _signed(path)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
            if not files:
                raise BadInput(f"the folder {path} holds no .png or .jpg files")
            pictures = [_picture(file, oracle) for file in files]
            if len({picture.shape for picture in pictures}) > 1:
                raise BadInput(f"the pictures in {path} differ in size; expected one size")
            return np.stack(pictures), None, [f"{len(files)} pictures"]
        if kind == ".npz":
            return _npz(path)
        if kind == ".npy":
            return np.asarray(np.load(path, allow_pickle=False)), None, []
        if kind == ".csv":
            return _csv(path, oracle.n, label)
        if kind in _PICTURES:
            return _picture(path, oracle)[None], None, []
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, KeyError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} cannot be read as {kind or 'pictures'}: {unreadable(error)}") from error
    raise BadInput(
        f"{path} ends in {kind or 'nothing'}; expected .npz, .npy, .csv, .parquet, .png, .jpg or a folder of pictures"
    )


def _signed(path: Path) -> None:
    with path.open("rb") as file:
        if not file.read(6).startswith(_BEGINNINGS):
            raise BadInput(f"{path} is not what numpy.savez or numpy.save wrote; expected arrays of numbers")


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    loaded = np.load(path, allow_pickle=False)
    if not hasattr(loaded, "files"):
        raise BadInput(f"{path} is a bare array; rename it to .npy")
    with loaded as arrays:
        names = list(arrays.files)
        chosen = next((name for name in _IMAGE_KEYS if name in names), None)
        if chosen is None:
            chosen = next((name for name in names if _numbers(arrays[name])), None)
        if chosen is None:
            raise BadInput(f"{path} holds no array of numbers; it holds {', '.join(names) or 'nothing'}")
        x = arrays[chosen]
        label = next((name for name in _LABEL_KEYS if name in names and name != chosen), None)
        labels = None if label is None else arrays[label]
    said = [f"array `{chosen}`"]
    if labels is not None and (labels.shape != x.shape[:1] or labels.dtype.kind not in "ui"):
        said.append(f"`{label}` left out, as it is not one whole number for each")
        labels = None
    return x, None if labels is None else labels.astype(np.int64), said


def _numbers(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.ndim >= 1 and array.dtype.kind in "buif"


def _csv(path: Path, n: int, label: str | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """A table without names."""
    if not path.stat().st_size:
        raise BadInput(f"{path} is empty; expected one input a row")
    with path.open(encoding="utf-8", errors="replace") as lines:
        title = not all(_is_number(cell) for cell in lines.readline().split(","))
    rows = np.loadtxt(path, delimiter=",", ndmin=2, skiprows=int(title))
    labels, said = None, []
    if label is not None or rows.shape[1] == n + 1:
        place = 0
        if label is not None:
            try:
                place = range(rows.shape[1])[int(label)]
            except (ValueError, IndexError):
                raise BadInput(
                    f"{path} has no names in its first line, so that --label-column is a number below {rows.shape[1]}; "
                    f"got {label!r}"
                ) from None
        else:
            # A column of labels holds whole numbers; where the first does not and the last does, it is the last.
            if not _whole(rows[:, 0]) and _whole(rows[:, -1]):
                place = rows.shape[1] - 1
            said.append(f"labels from column {place}, counted from 0 (--label-column names another)")
        if not _whole(rows[:, place]):
            said.append("the labels are no whole numbers, and are left out")
        else:
            labels = rows[:, place].astype(np.int64)
        rows = np.delete(rows, place, axis=1)
    # Whole numbers in text are pixel counts, as they would be in an 8-bit picture.
    return (rows.astype(np.int64) if _whole(rows) else rows), labels, said


def _whole(numbers: np.ndarray) -> bool:
    return np.array_equal(numbers, np.trunc(numbers))


def _picture(path: Path, oracle: Oracle) -> np.ndarray:
    """One picture, uint8, colour first; without colour where the model has none."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            colour = oracle.n % 3 == 0 and picture.width * picture.height * 3 == oracle.n
            pixels = np.asarray(picture.convert("RGB" if colour else "L"))
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path} is too large a picture: {error}") from error
    return pixels.transpose(2, 0, 1) if colour else pixels


def _eight_bit(oracle: Oracle) -> bool:
    """Whether the legal box is the one into which 8-bit pictures are divided."""
    return oracle.within is not None and bool((oracle.low == 0).all() and (oracle.high == 1).all())


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _fitted(x: np.ndarray, oracle: Oracle, path: Path) -> tuple[np.ndarray, list[str]]:
    """`x` as (N, n)."""
    shape, said = oracle.shape, []
    if (x.size == oracle.n and _bare(x.shape) == _bare(shape)) or x.shape == (oracle.n,):
        x = x.reshape(1, -1)
    channels = next((c for c in shape if c in (1, 3, 4)), 0) if len(shape) == 3 else 0
    if x.ndim == 4 and channels > 1 and shape[0] == channels and x.shape[1:] == (*shape[1:], channels):
        x = x.transpose(0, 3, 1, 2)
        said.append("colour moved from last to first")
    if x.ndim < 2 or math.prod(x.shape[1:]) != oracle.n:
        raise BadInput(
            f"{path} holds an array of shape {x.shape}; the model takes {shape}, "
            f"that is {oracle.n:,} numbers an input: expected (N, {', '.join(map(str, shape))})"
        )
    return x.reshape(len(x), oracle.n), said
