"""What a table of inputs cannot tell, whatever its answers are: inputs that vary together, ranges without rows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.simulator_inputs import Inputs
from unveil.outcome import BadInput

# An input that a linear function of the others foretells so well cannot be told from them.
FORETOLD_SHARE = 0.999
# Of a range that was given, rows must cover this share, or what lies beyond them is left out.
COVERED = 0.8
# Names shown in a sentence.
NAMES_SHOWN = 6


def cautions(inputs: Inputs, z: Float[np.ndarray, "N n"]) -> tuple[str, ...]:
    """Sentences about what the rows cannot tell.

    Args:
        inputs: With the ranges over which gradients are averaged.
        z: The rows, scaled.
    """
    said = []
    if together := _together(inputs, z):
        said.append(f"{_listed(together)} vary together in the table: which of them matters cannot be told.")
    if beyond := _beyond(inputs, z):
        names = _listed([one.name for place, one in enumerate(inputs.all) if place in beyond])
        said.append(f"The rows cover less than {COVERED:.0%} of the range of {names}: nothing is said of the rest.")
    if unused := _unused(inputs, z):
        said.append(f"No row has {_listed(unused)}: nothing can be said of that.")
    return tuple(said)


def _together(inputs: Inputs, z: np.ndarray) -> list[str]:
    """Inputs that a linear function of the others foretells, among rows that are enough to tell."""
    found = []
    for place, one in enumerate(inputs.all):
        own = inputs.owner == place
        others = np.column_stack([np.ones(len(z)), z[:, ~own]])
        spare = len(z) - np.linalg.matrix_rank(others)
        if one.levels or spare < 1 or not np.ptp(z[:, own]) > 0:
            continue
        missed = z[:, own] - others @ np.linalg.lstsq(others, z[:, own], rcond=None)[0]
        if np.sum(missed**2) / spare < (1 - FORETOLD_SHARE) * z[:, own].var():
            found.append(one.name)
    return found


def within_rows(
    inputs: Inputs, z: Float[np.ndarray, "N n"], points: Float[np.ndarray, "M n"]
) -> Float[np.ndarray, "M n"]:
    """Points that fill the ranges, drawn together to the rows' own where these cover little: beyond is nothing known.

    Raises:
        BadInput: No two rows differ within the range of an input.
    """
    points = points.copy()
    for place in _beyond(inputs, z):
        column = int(np.flatnonzero(inputs.owner == place)[0])
        low, high = np.clip([z[:, column].min(), z[:, column].max()], -1.0, 1.0)
        if not low < high:
            raise BadInput(f"no two rows of the table differ in {inputs.names[place]!r} within the range given for it")
        points[:, column] = low + (points[:, column] + 1) / 2 * (high - low)
    return points


def _beyond(inputs: Inputs, z: np.ndarray) -> list[int]:
    """Places of inputs whose range reaches well beyond the rows; even rows leave some room at both ends."""
    spread = np.clip(z.max(axis=0), -1, 1) - np.clip(z.min(axis=0), -1, 1)
    usual = (len(z) - 1) / (len(z) + 1)
    return [
        place
        for place, one in enumerate(inputs.all)
        if not one.levels and spread[inputs.owner == place][0] < 2 * COVERED * usual
    ]


def _unused(inputs: Inputs, z: np.ndarray) -> list[str]:
    """Levels of categories that no row has."""
    levels = [(one, level) for one in inputs.all for level in one.levels or (None,)]
    return [
        f"{one.name} = {level}"
        for column, (one, level) in enumerate(levels)
        if one.levels and not (z[:, column] > 0).any()
    ]


def _listed(names: list[str]) -> str:
    shown = [*names[:NAMES_SHOWN], f"{len(names) - NAMES_SHOWN} more"] if len(names) > NAMES_SHOWN else names
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
