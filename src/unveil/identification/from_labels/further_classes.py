"""Classes met only outside the directions in which a network was read: its neurons are known, their weights are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.lifting import Lift
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.output import with_classes
from unveil.identification.from_labels.polish import Completed
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.rare_classes import open_numbers, rare_crossings, vaguest_number

# Boundary points for each number of a class, before rays are looked for that tell what is open.
CLASS_POINTS_PER_NUMBER = 4
OPEN_RAY_ROUNDS, VAIN_RAY_ROUNDS = 16, 3  # rounds of such rays at most, and those in a row that may meet nothing
# Of this share of the usual steepness, at least, logits are taken to be: what is not known yet may seem flat.
FLAT = 1e-3
# So many times further off than they were located points lie on no boundary of the network.
CLASS_STRAYED_FACTOR = 100.0


# Of two classes that nothing tells apart yet no gradient is known: what is divided by it counts nowhere.
@np.errstate(over="ignore", invalid="ignore")
def with_classes_met(
    found: Completed, lift: Lift, x: Float[np.ndarray, "N n"], rng: np.random.Generator
) -> Completed | None:
    """The same network with classes that it lacks, from boundary points in all inputs.

    `found`: in coordinates of all inputs; classes that left numbers open are read anew. `lift`: how it was read there.
    `x`: inputs with other labels than the network's. Returns the network; None where there is an affine part, of which
    each class would have its own, or where the points do not fit it or leave numbers open. Queries: about 120 for each
    number of each class.
    """
    known, pool = found.model.classes, lift.fresh_pool()
    # Where points inside left numbers open, the commonest two classes are all that is known.
    sure = known if not found.figures.get("open") else np.sort(np.array(found.figures["pair"]))
    accuracy = np.inf if lift.told is None else lift.told.reached
    pool.put(pool.chart.coordinates(x))
    pool.draw()
    others = [int(c) for c in pool.classes if c not in sure]
    if set(others) <= set(known) or found.model.affine.any() or not np.isfinite(accuracy):
        return None
    cell = max(2 * pool.chart.digits, accuracy / 10)
    at = _begun(pool, others, CLASS_POINTS_PER_NUMBER * (len(found.model.inner) + 1), cell, rng)
    model, in_vain, those = _told(found.model.of(sure), others, at), 0, tuple(int(c) for c in sure)
    for _ in range(OPEN_RAY_ROUNDS):
        more = rare_crossings(model, pool, model.known(at), those, cell, rng)
        in_vain = 0 if len(more) else in_vain + 1
        if in_vain == VAIN_RAY_ROUNDS:
            break
        at = Crossings.joined([at, more])
        model = _told(found.model.of(sure), others, at)
    ours = model.known(at)
    far = np.maximum(np.linalg.norm(ours.x, axis=1), 1.0)
    strayed = np.abs(model.distances(ours)) > CLASS_STRAYED_FACTOR * (cell + accuracy) * far
    if strayed.any() or open_numbers(model, ours, those):
        return None
    error = max(found.figures.get("error", np.inf), vaguest_number(model, ours, those, cell + accuracy))
    return replace(found, model=model, figures={**found.figures, "error": error, "open": 0})


def _begun(pool: Pool, others: list[int], need: int, cell: float, rng: np.random.Generator) -> Crossings:
    """Boundary points of each class, on segments to points of any other."""
    parts = [Crossings.none(pool.chart.n)]
    for label in others:
        for one in rng.permutation([c for c in pool.classes if c != label])[:3]:
            parts.append(pool.crossings(need // 3 + 1, cell, (label, int(one))))
    return Crossings.joined(parts)


def _told(model: LabelModel, others: list[int], at: Crossings) -> LabelModel:
    """The network with these classes, by least squares on distances: twice, as the first tells how steep logits are."""
    every = np.concatenate([model.classes, others])
    new = np.isin(at.before, others) | np.isin(at.after, others)
    at = at[np.flatnonzero(new & np.isin(at.before, every) & np.isin(at.after, every))]
    grown, _ = with_classes(model, others, at)
    steep = np.linalg.norm(grown.gaps(at)[1], axis=1) * (1 + np.linalg.norm(at.x, axis=1))
    return with_classes(model, others, at, weight=1 / np.maximum(steep, FLAT * np.median(steep)))[0]
