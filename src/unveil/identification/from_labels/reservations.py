"""reservations: why a network that passed its check is known approximately only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unveil.identification.from_labels.foretold import as_foretold
from unveil.identification.from_labels.polish import Completed
from unveil.identification.from_labels.pool import Pool
from unveil.identification.label_agreement import LOOSE


def reservations(found: Completed) -> list[str] | None:
    """What is said of numbers that are vague or open; None where every number is known."""
    said = []
    # An error that nothing measured vouches for nothing.
    error = found.figures.get("error", np.inf)
    loose = len(found.model.inner) > 0 and not error <= LOOSE
    if loose:
        known = f"to {error:.0e} only" if np.isfinite(error) else "to no accuracy that was measured"
        said.append(f"Some numbers are known {known}.")
    strayed = found.figures.get("strayed", 0)
    if strayed:
        said.append(f"{strayed} boundary points met on the way lie off the network's boundaries.")
    # Of what is left of an affine part it is not proved that labels leave open which neurons it stands for.
    carried = bool(found.model.affine.any()) and len(found.model.inner) > 0
    return said if loose or strayed or carried or found.figures.get("open") else None


def left_open(found: Completed) -> list[str]:
    """What is said of numbers that belong to no neuron, and of those that no point told."""
    said = []
    if found.model.affine.any():
        said.append("Neurons that are always active at the boundary are kept as an affine part.")
    if found.figures.get("open"):
        said.append(f"{found.figures['open']} numbers of rare classes were left open by their points.")
    return said


def with_one_more(found: Completed) -> tuple[Completed, str] | None:
    """With an affine part written as one neuron more, where every network with these labels has one like it. Returns
    the same, and what is said of it; None where there is no affine part or that is not proved."""
    carried = found.model.carried_by_one()
    if carried is None:
        return None
    return replace(found, model=carried), (
        "One neuron is active at the whole boundary, so that no label tells its bias, nor which side of the other "
        f"hyperplanes is the active one: {2 ** len(found.model.inner):,} networks have the same label at every input. "
        "This is one of them."
    )


def nothing_left(found: Completed, pool: Pool, rng: np.random.Generator) -> bool:
    """Whether no affine part is left, or one neuron, and the boundary shows no place where it is not active.

    Its hyperplane is parallel to the affine part l, so that the boundary bends there at one value of l, and lies
    elsewhere behind. At boundary points with the least, the largest and other values of l it is asked whether they are
    where the network foretells them. `found`: whole, perhaps with an affine part. `pool`: points in its coordinates.
    `rng`: draws the points. Queries: those of `as_foretold`.
    """
    model = found.model
    if not model.affine.any() or model.carried_by_one() is None:
        return not model.affine.any()
    linear = model.affine[1] - model.affine[0]
    return as_foretold(model, pool, lambda at: at.x @ linear, rng)
