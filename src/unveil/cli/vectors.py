"""Rows of numbers that are no inputs: features and outputs. Nothing in a file is ever executed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unveil.outcome import BadInput, unreadable

if TYPE_CHECKING:
    import numpy as np

    from unveil.whitebox.inversion import Inversion


def read_rows(path: Path, width: int, option: str) -> np.ndarray:
    """(N, width) from .npz (its first array of numbers), .npy or .csv; one row alone may be flat.

    Raises:
        BadInput: No such file, another format, or another width.
    """
    import numpy as np

    kind = path.suffix.lower()
    if not path.is_file():
        raise BadInput(f"{option}: there is no file {path}")
    if kind not in (".npz", ".npy", ".csv"):
        raise BadInput(f"{option} takes .npz, .npy or .csv; got {path}")
    try:
        if kind == ".csv":
            rows = np.loadtxt(path, delimiter=",", ndmin=2)
        else:
            loaded = np.load(path, allow_pickle=False)
            if kind == ".npz":
                with loaded as arrays:
                    names = [name for name in arrays.files if arrays[name].dtype.kind in "uif" and arrays[name].ndim]
                    if not names:
                        raise BadInput(f"{option}: {path} holds no array of numbers")
                    loaded = arrays[names[0]]
            rows = np.asarray(loaded)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{option}: {path} cannot be read as {kind}: {unreadable(error)}") from error
    if rows.dtype.kind not in "uif" or not rows.size or rows.size % width:
        raise BadInput(f"{option}: {path} holds {rows.dtype} values of shape {rows.shape}; expected rows of {width}")
    rows = rows.reshape(-1, width) if rows.ndim == 1 or rows.size == width else rows.reshape(len(rows), -1)
    if rows.shape[1] != width:
        raise BadInput(f"{option}: {path} holds rows of {rows.shape[1]} numbers; expected {width}")
    return rows.astype(np.float64)


def figures(found: Inversion) -> dict[str, Any]:
    """What was found, as numbers."""
    told: dict[str, Any] = {"verdict": found.verdict, "kind": found.kind, "deviation": found.deviation}
    told |= {"tolerance": found.tolerance, "least": found.least, "complete": found.complete}
    if found.distance is not None:
        told |= {"distance": found.distance, "bound": found.bound}
    return told | {"programmes": found.programmes, "holds": found.check() or found.verdict == "not found"}


def line(number: int, found: Inversion) -> str:
    """What was found, in one line."""
    if found.verdict == "found":
        told = f"an input was found, off by {found.deviation:.2g}"
        if found.kind is not None:
            told += f"; all of them: {found.kind}"
        if found.distance is not None:
            told += f"; {found.distance:.4g} from --near, none is nearer than {found.bound:.4g}"
        return f"{number}: {told}"
    if found.verdict == "none":
        return f"{number}: no input gives it, proved: {found.reason}"
    return f"{number}: not found, which proves nothing: {found.reason}; the nearest is off by {found.deviation:.2g}"
