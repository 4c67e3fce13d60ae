"""Figures as files hold them: plain numbers, texts and lists for JSON, arrays for npz."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from unveil.writing import written


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays are lists, numpy scalars numbers, NaN and infinity null, outcomes their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz, whole or not at all; nothing in it is pickled."""
    with written(path) as file:
        np.savez_compressed(file, allow_pickle=False, **dict(arrays))
