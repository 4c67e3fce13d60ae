"""reservations: why a network that passed its check is known approximately only."""

from __future__ import annotations

from unveil.identification.from_labels.completion import Completed
from unveil.identification.from_labels.deep_reading import LOOSE


def reservations(found: Completed) -> list[str] | None:
    """What is said of numbers that are vague or open; None where every number is known.

    Queries: `0`
    """
    said = []
    loose = len(found.model.inner) > 0 and not found.figures.get("error", 0.0) <= LOOSE
    if loose:
        said.append(f"Some numbers are known to {found.figures['error']:.0e} only.")
    strayed = found.figures.get("strayed", 0)
    if strayed:
        said.append(f"{strayed} boundary points met on the way lie off the network's boundaries.")
    # Of what is left of an affine part it is not proved that labels leave open which neurons it stands for.
    carried = bool(found.model.affine.any()) and len(found.model.inner) > 0
    return said if loose or strayed or carried or found.figures.get("open") else None
