"""Second-layer neurons that bends did not tell, or in part only, from points that a model does not foretell.

At a boundary point two logits are equal, so that a model's gap there is what is missing in it: of one neuron its weight
times `p h + c` on the active side of its hyperplane, and nothing on the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.deep_model import DeepLabelModel, DeepPoints, on_boundary, pairs_of
from unveil.identification.from_labels.first_layer import WIDE
from unveil.identification.from_labels.foretold import crossings_beside, foretold_crossings
from unveil.identification.from_labels.hyperplanes import ALIKE
from unveil.identification.from_labels.last_layer import with_classes_anew
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import BOTH, without_affine
from unveil.identification.from_labels.polish import polish
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.second_layer import HiddenNeuron, alike

MISSING_NEURON_LOOKS, VAIN_NEURON_LOOKS = 12, 3  # looks for more at most, and how many in a row tell nothing
RESERVE = 200  # labels for each number that are kept for the fit and its judges
# Boundary points foretold at a time, and how often, to see whether one is missing.
FORETOLD_AT_A_TIME, FORETELLING_ROUNDS = 250, 10


def with_missing(
    model: DeepLabelModel, points: DeepPoints, neurons: list[HiddenNeuron], rng: np.random.Generator
) -> DeepLabelModel:
    """The model with what it leaves over at points off its boundaries.

    `model`: right at most points; weights of its second layer that nothing told are zero. `points`: boundary points
    met; more are looked for. `neurons`: what bends told of the second layer: of those that the model lacks, too few
    points may have told more. Queries: 5,000 where nothing is missing, some 10,000 for each neuron that is.
    """
    model = _step(model, points, neurons, rng)[0]
    fruitless = 0
    for _ in range(MISSING_NEURON_LOOKS):
        # What is found must still be fitted and judged.
        if points.pool.chart.ledger.left < RESERVE * model.parameters or not _look(model, points, rng):
            break
        model, grown = _step(model, points, neurons, rng)
        fruitless = 0 if grown else fruitless + 1
        if fruitless >= VAIN_NEURON_LOOKS:
            break
    return model


def _step(
    model: DeepLabelModel, points: DeepPoints, neurons: list[HiddenNeuron], rng: np.random.Generator
) -> tuple[DeepLabelModel, bool]:
    """Weights that were not told, or one more neuron, and whether clearly more points lie on the boundaries then."""
    known = points.known(model)
    at, on, least = model.inside(known)[0], len(on_boundary(model, known)), SURPLUS
    behind = with_linear(with_bends(model.behind, neurons, at), at, rng)
    behind = with_classes_anew(completed(behind, _untold(behind), at, rng), at)
    if not len(on_boundary(replace(model, behind=behind), known)) > on + least:
        further = further_neuron(model.behind, at, rng)
        if further is not None:
            behind, least = further, SURPLUS + int((further.inner[-1] != 0).sum())
    grown = replace(model, behind=merged(behind))
    # What few points told gets exact enough for the next ones; what nothing told stays so.
    fit = polish(grown, known[on_boundary(grown, known)]).model.with_unit_rows()
    inner = np.where(grown.behind.inner == 0, 0.0, fit.behind.inner)
    affine = np.where(grown.behind.affine.any(axis=0), fit.behind.affine, 0.0)
    grown = replace(fit, behind=replace(fit.behind, inner=inner, affine=affine))
    better = len(on_boundary(grown, known)) > on + least
    model = grown if better else model
    on_it = model.inside(known[on_boundary(model, known)])[0]
    return _needed(replace(model, behind=without_affine(model.behind, on_it)), known), better


def _needed(model: DeepLabelModel, known: Crossings) -> DeepLabelModel:
    """The model without second-layer neurons that no point needs: what few points told may be false."""
    most = len(on_boundary(model, known))
    for j in range(len(model.behind.inner) - 1, -1, -1):
        less = replace(model, behind=model.behind.kept(np.delete(np.arange(len(model.behind.inner)), j)))
        if (on := len(on_boundary(less, known))) >= most:
            model, most = less, on
    return model


def _look(model: DeepLabelModel, points: DeepPoints, rng: np.random.Generator) -> bool:
    """Look for boundary points off the model's boundaries, for as many as tell a neuron. Returns whether there are any.
    Queries: at most `2 FORETELLING_ROUNDS FORETOLD_AT_A_TIME`, and about 45 for each point."""
    enough, met, pool = 4 * (len(points.first) + 1), 0, points.pool
    wide = Pool(pool.side, pool.chart, WIDE * pool.size, pool.given, rng)
    known = points.known(model)
    off = known[np.setdiff1d(np.arange(len(known)), on_boundary(model, known))]
    for look in range(FORETELLING_ROUNDS):
        if look % 3 == 1 and len(off):
            # What shows at few points shows more often beside these.
            expected = crossings_beside(model, pool.chart, off, FORETOLD_AT_A_TIME, rng)
        else:
            expected = foretold_crossings(model, wide if look % 3 else pool, pool.chart, FORETOLD_AT_A_TIME, rng)
        met += points.look(expected, enough)
        if met >= enough:
            break
    known = points.known(model)
    return len(on_boundary(model, known)) < len(known)


def _untold(behind: LabelModel) -> list[Int[np.ndarray, " u"]]:
    """Which weights of each second-layer neuron nothing told: exactly zero."""
    return [np.flatnonzero(row == 0) for row in behind.inner]


NEURON_POINT_SETS = 200  # random sets of points from which a neuron is tried: those where no other is missing agree
FITS = 1e-4  # share of what is left over, to which points agree on a neuron
ABSENT_REMAINDER = 1e-7  # what is left over where nothing is missing, at most
SURPLUS = 4  # points beyond as many as there are numbers that must agree


def further_neuron(model: LabelModel, at: Crossings, rng: np.random.Generator) -> LabelModel | None:
    """The model with one more neuron, whose weights come from the points that lie off its boundaries.

    `model`: of a first layer's values; right wherever the neuron is not active. `at`: crossings between its classes, in
    these values, on its boundaries and off. `rng`: draws sets of them. Returns the model with the neuron at its end;
    None where no points enough agree on one. First-layer values that are zero at all of them get no weight.
    """
    left, pairs = _left_over(model, at)
    vector, most = np.zeros(0), 0
    for pair in np.unique(pairs, axis=0):
        for sign in (1.0, -1.0):
            # A rectifier's own values are positive: what is left over has the sign of its weight.
            rows = np.flatnonzero((pairs == pair).all(axis=1) & (sign * left >= -ABSENT_REMAINDER))
            found = _agreed(at.x[rows], np.zeros(len(rows)), np.maximum(sign * left[rows], 0), rng, constant=True)
            if found is not None and found[1] > most:
                vector, most = found
    if not most:
        return None
    return _with_neuron(model, vector, at)


def _with_neuron(model: LabelModel, vector: Float[np.ndarray, " P"], at: Crossings) -> LabelModel:
    """The model with one more neuron, of which the weights and the bias are known."""
    value = np.maximum(at.x @ vector[:-1] + vector[-1], 0)
    return replace(
        model,
        inner=np.concatenate([model.inner, vector[None, :-1]]),
        bias=np.append(model.bias, vector[-1]),
        outer=np.concatenate([model.outer, _weights(model, at, value)[:, None]], axis=1),
    )


def with_bends(model: LabelModel, neurons: list[HiddenNeuron], at: Crossings) -> LabelModel:
    """The model with what bends told since: weights that are zero in it, and neurons with which more points fit.

    `model`: right at most points. `neurons`: second-layer neurons, NaN where no bend told a weight. `at`: crossings
    between its classes, in the first layer's values.
    """
    for each in neurons:
        known = ~np.isnan(each.weight)
        mine = [i for i, row in enumerate(model.inner) if alike(_as_told(row, model.bias[i]), each)]
        if mine:
            row, both = model.inner[mine[0]], known & (model.inner[mine[0]] != 0)
            length = (row[both] @ each.weight[both]) / (each.weight[both] @ each.weight[both])
            inner = model.inner.copy()
            inner[mine[0]] = np.where(known & ~both, length * each.weight, row)
            tried = [replace(model, inner=inner)]
        else:
            vector = np.append(np.nan_to_num(each.weight), each.bias)
            some = at[np.flatnonzero(~(at.x[:, ~known] > 0).any(axis=1))]
            tried = [_with_neuron(model, sign * vector, some) for sign in (1.0, -1.0)]
        best = max(tried, key=lambda grown: _on(grown, at))
        model = best if _on(best, at) > _on(model, at) + SURPLUS else model
    return model


def _as_told(row: Float[np.ndarray, " d"], bias: float) -> HiddenNeuron:
    return HiddenNeuron(np.where(row == 0, np.nan, row), float(bias), np.empty(0, dtype=int), 0.0)


def _left_over(model: LabelModel, at: Crossings) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, "N 2"]]:
    """What a model lacks of the lower label's logit less that of the higher one, and these labels, at each point."""
    left, pairs = -model.gaps(at)[0], pairs_of(at)
    return np.where(at.before == pairs[:, 0], left, -left), pairs


def with_linear(model: LabelModel, at: Crossings, rng: np.random.Generator) -> LabelModel:
    """The model with the affine part's weights that were left zero: first-layer values that no point had until now.

    `model`: right wherever these values are zero, or the neurons are at rest that have them. `at`: crossings between
    its classes, in the first layer's values. `rng`: draws sets of them. Returns the model; what no points agree on
    stays zero, as all does where there is no affine part.
    """
    untold = np.flatnonzero(~model.affine.any(axis=0))
    if len(untold) in (0, model.affine.shape[1]):
        return model
    left, between = _left_over(model, at)
    x, zero = at.x[:, untold], np.zeros(len(at))
    pairs, told = [], []
    for pair in np.unique(between, axis=0):
        ours = (between == pair).all(axis=1)
        # A rectifier's values are those of a sum where it is positive.
        tried = [
            (found[1], sign * found[0])
            for sign in (1.0, -1.0)
            if (found := _agreed(x[ours], zero[ours], np.maximum(sign * left[ours], 0), rng, constant=False))
        ]
        if tried:
            count, vector = max(tried, key=lambda each: each[0])
            pairs.append(count * _difference(model, pair))
            told.append(count * vector)
    if not pairs:
        return model
    affine = model.affine.copy()
    affine[:, untold] = np.linalg.lstsq(np.array(pairs), np.array(told), rcond=1e-9)[0]
    grown = replace(model, affine=affine)
    return grown if _on(grown, at) > _on(model, at) else model


def _difference(model: LabelModel, pair: Int[np.ndarray, " 2"]) -> Float[np.ndarray, " c"]:
    """The lower label's class less the higher one's, of all classes."""
    one, two = model.rows(pair)
    return np.asarray(np.eye(len(model.classes))[one] - np.eye(len(model.classes))[two])


def completed(
    model: LabelModel, unknown: list[Int[np.ndarray, " u"]], at: Crossings, rng: np.random.Generator
) -> LabelModel:
    """The model with weights that were left zero: those of neurons whose part in the last layer is known.

    `model`: right wherever the first-layer values are zero that these weights belong to. `unknown`: for each neuron,
    which weights are not known. `at`: crossings between its classes, in the first layer's values. `rng`: draws sets of
    points. Returns the model; what no points agree on stays zero.
    """
    missing = np.array([(at.x[:, each] > 0).any(axis=1) for each in unknown]).reshape(len(unknown), len(at))
    for j in sorted(range(len(unknown)), key=lambda j: len(unknown[j])):
        if not len(unknown[j]):
            continue
        # Where no other neuron's weights are missing; of those still unknown, not of those told by now.
        some = at[np.flatnonzero(missing[j] & (missing.sum(axis=0) == 1))]
        base, value = _values(model, j, some)
        on = value > -ABSENT_REMAINDER * np.abs(base).max(initial=0.0)
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


def _values(model: LabelModel, j: int, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """What is known of a neuron's preactivation at each point, and its value as the other neurons tell it, or NaN."""
    without = model.kept(np.delete(np.arange(len(model.inner)), j))
    weight = model.outer[model.rows(at.before), j] - model.outer[model.rows(at.after), j]
    value = np.full(len(at), np.nan)
    np.divide(-without.gaps(at)[0], weight, out=value, where=weight != 0)
    return at.x @ model.inner[j] + model.bias[j], value


def merged(model: LabelModel) -> LabelModel:
    """The model with neurons of one hyperplane and side as one."""
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

    `x`: points. `base`: what its preactivation has besides. `value`: its values, others among them; zero where it is
    not active. `constant`: whether there is a bias to find, too. Returns the weights, zero where not enough points
    tell, and the number of active points that agree; None where no more do than there are numbers.
    """
    some = value[value > ABSENT_REMAINDER]
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
    matrix: Float[np.ndarray, "N P"],
    base: Float[np.ndarray, " N"],
    value: Float[np.ndarray, " N"],
    fuzz: float,
    active: Int[np.ndarray, " a"],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, " P"]]:
    """The active points among those that agree, and with what, of many draws the one where most do."""
    need, most = matrix.shape[1], 0
    best, answer = np.empty(0, dtype=int), np.zeros(need)
    for draw in range(NEURON_POINT_SETS if len(active) >= need else 0):
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


def _weights(model: LabelModel, at: Crossings, value: Float[np.ndarray, " N"]) -> Float[np.ndarray, " c"]:
    """Each class's weight of a neuron, from what is left over where it is active: the middle one of each pair's points.
    What is left over is that of the lower label less that of the higher one."""
    rows = np.flatnonzero(value > 0)
    left, between = _left_over(model, at[rows])
    matrix, target = [np.zeros(len(model.classes))], [0.0]
    for pair in np.unique(between, axis=0):
        ours = (between == pair).all(axis=1)
        matrix.append(ours.sum() * _difference(model, pair))
        target.append(ours.sum() * np.median(left[ours] / value[rows[ours]]))
    return np.asarray(np.linalg.lstsq(np.array(matrix), np.array(target), rcond=1e-9)[0])
