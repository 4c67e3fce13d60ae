"""Second-layer neurons that bends did not tell, or in part only, from points that a model does not foretell.

At a boundary point two logits are equal, so that a model's gap there is what is missing in it: of one neuron its weight
times `p h + c` on the active side of its hyperplane, and nothing on the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.deep_model import DeepLabelModel
from unveil.identification.from_labels.deep_points import DeepPoints, on_boundary
from unveil.identification.from_labels.foretold import FAR, at_extremes, foretold_crossings
from unveil.identification.from_labels.hyperplanes import ALIKE
from unveil.identification.from_labels.joined_classes import Joins, rescaled
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import BOTH
from unveil.identification.from_labels.polish import polish

STEPS, FRUITLESS = 12, 3
"""Looks for more at most, and how many in a row tell nothing."""

RESERVE = 200
"""Labels for each number that are kept for the fit and its judges."""

TIMES = 4
"""How often the extremes of a neuron's values are looked at, at each size."""

LOOK, LOOKS = 250, 10
"""Boundary points foretold at a time, and how often, to see whether one is missing."""


def with_missing(model: DeepLabelModel, points: DeepPoints, joins: Joins, rng: np.random.Generator) -> DeepLabelModel:
    """The model with what it leaves over at points off its boundaries.

    Args:
        model: Right at most points; weights of its second layer that nothing told are zero.
        points: Boundary points met; more are looked for.
        joins: From which class each one's scale is known.
        rng: Draws places to look at.

    Queries: 5,000 where nothing is missing, some 10,000 for each neuron that is
    """
    model = _step(model, points, joins, rng)[0]
    fruitless = 0
    for _ in range(STEPS):
        # What is found must still be fitted and judged.
        if points.pool.chart.ledger.left < RESERVE * model.parameters or not _look(model, points, rng):
            break
        at = points.inside(points.known(model))
        if any(map(len, _untold(model.behind))):
            _look(replace(model, behind=bounded(model.behind, _untold(model.behind), at)), points, rng)
        model, grown = _step(model, points, joins, rng)
        fruitless = 0 if grown else fruitless + 1
        # Of neurons in an affine part too little is known: what is left over is not one's alone, and bends tell more.
        if fruitless >= FRUITLESS or (fruitless and model.behind.affine.any()):
            break
    return model


def _step(
    model: DeepLabelModel, points: DeepPoints, joins: Joins, rng: np.random.Generator
) -> tuple[DeepLabelModel, bool]:
    """Weights that were not told, or one more neuron, and whether clearly more points lie on the boundaries then."""
    known = points.known(model)
    at, on, least = points.inside(known), len(on_boundary(model, known)), SURPLUS
    behind = rescaled(completed(model.behind, _untold(model.behind), at, rng), joins, at)
    if not len(on_boundary(replace(model, behind=behind), known)) > on + least:
        further = further_neuron(model.behind, at, rng)
        if further is not None:
            behind, least = further, SURPLUS + int((further.inner[-1] != 0).sum())
    grown = replace(model, behind=merged(behind))
    # What few points told gets exact enough for the next ones; what nothing told stays so.
    fit = polish(grown, known[on_boundary(grown, known)]).model
    inner = np.where(grown.behind.inner == 0, 0.0, fit.behind.inner)
    grown = replace(fit, behind=replace(fit.behind, inner=inner))
    better = len(on_boundary(grown, known)) > on + least
    return (grown if better else model), better


def _look(model: DeepLabelModel, points: DeepPoints, rng: np.random.Generator) -> bool:
    """Look for boundary points off the model's boundaries, for as many as tell a neuron.

    Returns:
        Whether there are any.

    Queries: at most `2 LOOKS LOOK`, and about 45 for each point
    """
    enough, met = 4 * (len(points.first) + 1), 0
    for _ in range(LOOKS):
        expected = foretold_crossings(model, points.pool, points.pool.chart, LOOK, rng)
        met += points.look(expected, enough)
        if met >= enough:
            break
    known = points.known(model)
    return len(on_boundary(model, known)) < len(known)


def _untold(behind: LabelModel) -> list[Int[np.ndarray, " u"]]:
    """Which weights of each second-layer neuron nothing told: exactly zero."""
    return [np.flatnonzero(row == 0) for row in behind.inner]


def with_resting_side(
    model: DeepLabelModel, points: DeepPoints, neuron: int, rng: np.random.Generator
) -> tuple[DeepLabelModel, Crossings] | None:
    """The model with the bias of a second-layer neuron that is active at all points met, from points where it rests.

    Where it rests the boundary leaves out `w (p h + c)`, of which all but the bias c is known: all such points agree
    on it.

    Args:
        model: Right wherever the neuron is active; its bias and the offsets of all classes are one number.
        points: Boundary points met; more are looked for.
        neuron: Which.
        rng: Draws places to look at.

    Returns:
        The model and points where the neuron rests; None where none are met that agree.

    Queries: about 900, and 45 for each point
    """
    row, behind = model.behind.inner[neuron], model.behind
    before = len(points.all)
    for size in TIMES * FAR:
        expected = at_extremes(model, points.pool, lambda at: np.asarray(model.inside(at)[0].x @ row), size, rng)
        points.look(expected, len(expected))
    off = points.all[np.arange(before, len(points.all))]
    off = off[np.flatnonzero(model.knows(off))]
    inside = model.inside(off)[0]
    weight = behind.outer[behind.rows(off.before), neuron] - behind.outer[behind.rows(off.after), neuron]
    with np.errstate(divide="ignore", invalid="ignore"):
        told = behind.gaps(inside)[0] / weight - inside.x @ row
    near = np.abs(told[:, None] - told[None]) < FITS * np.abs(inside.x @ row).max(initial=0.0)
    if not near.any() or near.sum(axis=1).max() < BOTH:
        return None
    rows = near[near.sum(axis=1).argmax()]
    bias = float(np.median(told[rows]))
    changed = behind.bias.copy()
    changed[neuron] = bias
    offset = behind.offset + behind.outer[:, neuron] * (behind.bias[neuron] - bias)
    return replace(model, behind=replace(behind, bias=changed, offset=offset)), off[np.flatnonzero(rows)]


DRAWS = 200
"""Random sets of points from which a neuron is tried: those where no other is missing agree."""

FITS = 1e-4
"""Share of what is left over, to which points agree on a neuron."""

NONE = 1e-7
"""What is left over where nothing is missing, at most."""

SURPLUS = 4
"""Points beyond as many as there are numbers that must agree."""


def further_neuron(model: LabelModel, at: Crossings, rng: np.random.Generator) -> LabelModel | None:
    """The model with one more neuron, whose weights come from the points that lie off its boundaries.

    Args:
        model: Of a first layer's values; right wherever the neuron is not active.
        at: Crossings between its classes, in these values, on its boundaries and off.
        rng: Draws sets of them.

    Returns:
        The model with the neuron at its end; None where no points enough agree on one. First-layer values that are zero
        at all of them get no weight.

    Queries: `0`
    """
    left = -model.gaps(at)[0]
    pairs = np.stack([np.minimum(at.before, at.after), np.maximum(at.before, at.after)], axis=1)
    left = np.where(at.before == pairs[:, 0], left, -left)
    vector, most = np.zeros(0), 0
    for pair in np.unique(pairs, axis=0):
        for sign in (1.0, -1.0):
            # A rectifier's own values are positive: what is left over has the sign of its weight.
            rows = np.flatnonzero((pairs == pair).all(axis=1) & (sign * left >= -NONE))
            found = _agreed(at.x[rows], np.zeros(len(rows)), np.maximum(sign * left[rows], 0), rng, constant=True)
            if found is not None and found[1] > most:
                vector, most = found
    if not most:
        return None
    value = np.maximum(at.x @ vector[:-1] + vector[-1], 0)
    outer = _weights(model, at, left, value)
    return replace(
        model,
        inner=np.concatenate([model.inner, vector[None, :-1]]),
        bias=np.append(model.bias, vector[-1]),
        outer=np.concatenate([model.outer, outer[:, None]], axis=1),
    )


def completed(
    model: LabelModel, unknown: list[Int[np.ndarray, " u"]], at: Crossings, rng: np.random.Generator
) -> LabelModel:
    """The model with weights that were left zero: those of neurons whose part in the last layer is known.

    Args:
        model: Right wherever the first-layer values are zero that these weights belong to.
        unknown: For each neuron, which weights are not known.
        at: Crossings between its classes, in the first layer's values.
        rng: Draws sets of points.

    Returns:
        The model; what no points agree on stays zero.

    Queries: `0`
    """
    missing = np.array([(at.x[:, each] > 0).any(axis=1) for each in unknown]).reshape(len(unknown), len(at))
    for j in sorted(range(len(unknown)), key=lambda j: len(unknown[j])):
        if not len(unknown[j]):
            continue
        # Where no other neuron's weights are missing; of those still unknown, not of those told by now.
        some = at[np.flatnonzero(missing[j] & (missing.sum(axis=0) == 1))]
        base, value = _values(model, j, some)
        on = value > -NONE * np.abs(base).max(initial=0.0)
        found = _agreed(some.x[np.ix_(on, unknown[j])], base[on], np.maximum(value[on], 0), rng, constant=False)
        if found is None:
            continue
        inner = model.inner.copy()
        inner[j, unknown[j]] = found[0]
        grown = replace(model, inner=inner)
        if _on(grown, at) > _on(model, at):
            model = grown
            missing[j] = (at.x[:, unknown[j][found[0] == 0]] > 0).any(axis=1)
    return model


def bounded(model: LabelModel, unknown: list[Int[np.ndarray, " u"]], at: Crossings) -> LabelModel:
    """The model with weights that were left zero as negative as points say at which the neuron is not active.

    It is wrong where the neuron begins to be active: points that lie off its boundaries tell the weights.

    Args:
        model, unknown, at: As in `completed`.

    Queries: `0`
    """
    inner = model.inner.copy()
    missing = np.array([(at.x[:, each] > 0).any(axis=1) for each in unknown]).reshape(len(unknown), len(at))
    for j, each in enumerate(unknown):
        some = at[np.flatnonzero(missing[j] & (missing.sum(axis=0) == 1))]
        base, value = _values(model, j, some)
        off = (base > 0) & (np.abs(value) < FITS * base)
        for i in each:
            alone = off & (some.x[:, i] > 0) & ~(some.x[:, each[each != i]] > 0).any(axis=1)
            inner[j, i] = np.min(-base[alone] / some.x[alone, i], initial=0.0)
    return replace(model, inner=inner)


def _values(model: LabelModel, j: int, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """What is known of a neuron's preactivation at each point, and its value as the other neurons tell it, or NaN."""
    without = model.kept(np.delete(np.arange(len(model.inner)), j))
    weight = model.outer[model.rows(at.before), j] - model.outer[model.rows(at.after), j]
    value = np.full(len(at), np.nan)
    np.divide(-without.gaps(at)[0], weight, out=value, where=weight != 0)
    return at.x @ model.inner[j] + model.bias[j], value


def merged(model: LabelModel) -> LabelModel:
    """The model with neurons of one hyperplane and side as one.

    Queries: `0`
    """
    whole = np.column_stack([model.inner, model.bias])
    long = np.linalg.norm(whole, axis=1)
    unit = whole / long[:, None]
    first = (np.linalg.norm(unit[:, None] - unit[None], axis=2) < ALIKE).argmax(axis=1)
    outer = np.zeros_like(model.outer)
    np.add.at(outer.T, first, (model.outer * long).T)
    return replace(model, outer=outer / long).kept(np.unique(first))


def _on(model: LabelModel, at: Crossings) -> int:
    return int((np.abs(model.distances(at)) < FITS).sum())


def _agreed(
    x: Float[np.ndarray, "N d"],
    base: Float[np.ndarray, " N"],
    value: Float[np.ndarray, " N"],
    rng: np.random.Generator,
    *,
    constant: bool,
) -> tuple[Float[np.ndarray, " P"], int] | None:
    """Weights with which a rectifier has the values that most points agree on.

    Args:
        x: Points.
        base: What its preactivation has besides.
        value: Its values, others among them; zero where it is not active.
        rng: Draws sets of points.
        constant: Whether there is a bias to find, too.

    Returns:
        The weights, zero where not enough points tell, and the number of active points that agree; None where no more
        do than there are numbers.
    """
    some = value[value > NONE]
    fuzz = FITS * max(float(np.abs(base).max(initial=0.0)), float(np.median(some)) if len(some) else 0.0)
    active = np.flatnonzero(value > fuzz)
    seen = np.flatnonzero((x[active] > 0).sum(axis=0) >= BOTH)
    while True:  # ends: each round but the last has fewer weights
        matrix = np.concatenate([x[:, seen], np.ones((len(x), int(constant)))], axis=1)
        rows, answer = _most(matrix, base, value, fuzz, active, rng)
        if not matrix.shape[1] or len(rows) < matrix.shape[1] + SURPLUS:
            return None
        few = (x[np.ix_(rows, seen)] > 0).sum(axis=0) < BOTH
        if not few.any():
            break
        seen = seen[~few]
    vector = np.zeros(x.shape[1] + int(constant))
    vector[seen] = answer[: len(seen)]
    vector[x.shape[1] :] = answer[len(seen) :]
    return vector, len(rows)


def _most(
    matrix: np.ndarray, base: np.ndarray, value: np.ndarray, fuzz: float, active: np.ndarray, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, " P"]]:
    """The active points among those that agree, and with what, of many draws the one where most do."""
    need, most = matrix.shape[1], 0
    best, answer = np.empty(0, dtype=int), np.zeros(need)
    for draw in range(DRAWS if len(active) >= need else 0):
        rows = active if not draw else rng.choice(active, need, replace=False)
        for _ in range(3):
            solution, _, rank, _ = np.linalg.lstsq(matrix[rows], (value - base)[rows], rcond=1e-9)
            if rank < need:
                break
            agree = np.abs(np.maximum(base + matrix @ solution, 0) - value) < fuzz
            rows = active[agree[active]]
            if agree.sum() <= most or len(rows) < need:
                break
            most, best, answer = int(agree.sum()), rows, solution
    return best, answer


def _weights(model: LabelModel, at: Crossings, left: np.ndarray, value: np.ndarray) -> Float[np.ndarray, " c"]:
    """Each class's weight of a neuron, from what is left over where it is active: the middle one of each pair's points.

    What is left over is that of the lower label less that of the higher one.
    """
    rows = np.flatnonzero(value > 0)
    low, high = np.minimum(at.before, at.after)[rows], np.maximum(at.before, at.after)[rows]
    pairs = np.unique(np.stack([low, high], axis=1), axis=0)
    matrix, target = np.zeros((len(pairs), len(model.classes))), np.zeros(len(pairs))
    for i, (one, two) in enumerate(pairs):
        ours = (low == one) & (high == two)
        matrix[i, model.rows(np.array([one, two]))] = np.array([1.0, -1.0]) * ours.sum()
        target[i] = ours.sum() * np.median(left[rows[ours]] / value[rows[ours]])
    return np.linalg.lstsq(matrix, target, rcond=1e-9)[0]
