"""From a network in a subspace to the network in all inputs: one small linear system for each further direction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg

from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.completion import MISSED
from unveil.identification.from_labels.crossings import cross_near, located
from unveil.identification.from_labels.foretold import foretold_crossings
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.polish import polish_many
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.rare_classes import open_numbers, vaguest_number

# Newton steps in which weights follow from shifts: the first is all where no neuron changes its side.
WEIGHT_NEWTON_STEPS = 6
# Fresh boundary points that judge a network in all inputs; directions confirmed together, by a move along a sum.
TRIED, CONFIRMED = 64, 16
# Boundary points at which each sum is confirmed, and share of them that must be where it foretells them.
SEVERAL, SUM_CONFIRMED_SHARE = 8, 0.7
# Directions solved for at a time: a few, which tell what weights to expect, and the others. Moves are too long where
# weights turn out so many times as large.
DIRECTIONS_AT_FIRST, DIRECTIONS_AT_ONCE, LONG_MOVE_GROWTH = 16, 1024, 1.5
# So close to where they are foretold points must lie before others are read off them; sine of the angle between weight
# vectors inside that are one neuron's.
THERE, SAME_INSIDE_SINE = 1e-6, 1e-6
AIM = 0.7  # share of the accuracy wanted at which it is aimed: the largest of many errors counts
# Weights known so many times less exactly than was wanted, or than inputs have digits, make a result approximate.
APPROXIMATE_FACTOR = 100.0
# Boundary points for each number in a fit of all of them, and how many must be there; digits that these may lie off the
# boundaries then; how many are foretold at a time.
LIFTED_FIT_PER_NUMBER, LIFTED_MET_PER_NUMBER, LIFTED_FIT_DIGITS, PORTION = 1.5, 1.1, 8, 1_000


@dataclass(frozen=True)
class Lifted:
    """A network in all inputs."""

    model: LabelModel  # the network, in coordinates of all inputs
    unconfirmed: int  # directions whose weights did not foretell the shifts of further points
    missed: float  # share of fresh boundary points that are not where it foretells them
    # standard error of the weight vectors, relative, as far as the last digit of an input lets it be
    reached: float = 0.0
    digits: float = 0.0  # how exactly a point can be placed
    figures: dict[str, float] = field(default_factory=dict)  # of a fit in all inputs: numbers open, and their error

    def doubts(self, accuracy: float) -> list[str]:
        """What is said of weights that are not as exact as was wanted."""
        if self.unconfirmed:
            return [f"Weights along {self.unconfirmed} directions were not confirmed."]
        if self.reached > APPROXIMATE_FACTOR * max(accuracy, self.digits):
            return [f"Inputs have too few digits: weights are known to {3 * self.reached:.0e} at best."]
        return []


class Lift:
    """Weights along the directions that a subspace leaves out.

    A move out of the subspace shifts each neuron's preactivation by its weight along the move, and so the boundary. As
    many boundary points as there are neurons, with independent gradients by the preactivations, give all weights along
    that direction. `model`: the network inside. `pool`: points inside, and points in all coordinates. `accuracy`:
    wanted of the weight vectors, relative. `rng`: draws everything.
    """

    def __init__(self, model: LabelModel, pool: tuple[Pool, Pool], accuracy: float, rng: np.random.Generator) -> None:
        self.model, self.pool, self.everywhere, self.rng = model, pool[0], pool[1], rng
        self.inside, self.whole = inside, whole = pool[0].chart, pool[1].chart
        assert inside.basis is not None
        self.basis = inside.basis
        drawn = np.concatenate([self.basis, rng.standard_normal((whole.n - len(self.basis), whole.n))])
        self.outward = np.linalg.qr(drawn.T)[0].T[len(self.basis) :]
        # The same unit of length in both, so that a weight means the same.
        self.all = Chart(whole.oracle, whole.origin, inside.size, None)
        self.side = Side(self.all)
        self.accuracy = AIM * accuracy
        self.wanted = np.inf
        self.told: Lifted | None = None
        self.stretch = inside.size / self.whole.size
        # Of so many dimensions each has the same part of a weight vector as one outside.
        self.wide = self.whole.n / self.stretch**2

    def run(self) -> Lifted:
        """The network in all inputs, judged at fresh boundary points. Queries: about
        `(k + 1) (n - d) log2(1 / accuracy)`, with an affine part c - 1 more than k."""
        (at, step), unknown = self._base_points(), self._unknown
        weights = np.zeros((unknown, len(self.outward)))
        if len(at) < unknown:
            # Too little of the boundary is where the model foretells it for the weights to be told.
            return self._judged(weights, len(self.outward))
        size = inside = np.linalg.norm(self._rows(), axis=1)
        expected, open_, base = np.diag(size**2 / self.wide), np.arange(len(self.outward)), at[slice(0, unknown)]
        met = np.zeros(len(self.outward), dtype=bool)
        # Where another boundary or a neuron's side came in between, shorter moves meet none.
        for shorter in (1.0, 8.0, 64.0):
            moved, first, longer = step / shorter, 0, 1.0
            while first < len(open_) and longer < LONG_MOVE_GROWTH:
                cell = self._cells(base, moved[:unknown], size)
                part = open_[first : first + (DIRECTIONS_AT_ONCE if first else DIRECTIONS_AT_FIRST)]
                shift = self._shifts(base, moved[:unknown], part, expected, cell)
                weights[:, part] = told = self._solved(base, moved[:unknown], shift)
                # Where a boundary was not met weights are open, whatever further points show.
                met[part] = np.isfinite(shift).all(axis=0)
                sure = told[:, met[part]]
                if sure.shape[1] > 2 * unknown:
                    expected = sure @ sure.T / sure.shape[1]
                if not first and len(open_) == len(self.outward):
                    # What a weight vector has inside may be a small part of it: then neurons switched on the way.
                    old, size = size, np.hypot(inside, np.linalg.norm(sure, axis=1))
                    size = size / np.sqrt(1 + sure.shape[1] / self.wide)
                    longer = float((size / old).max())
                first += len(part)
            if longer >= LONG_MOVE_GROWTH:
                step = 8 * step / longer
                continue
            good = self._confirmed(at, moved, weights, open_, float(cell.max()))
            if not len(open_ := open_[~(good & met[open_])]):
                break
        reached = self.accuracy * float((cell / self.wanted).max())
        self.told = replace(self._judged(weights, len(open_)), reached=reached)
        return self.told

    def as_before(self, before: Lift) -> Lifted | None:
        """With weights outside that were read before: the same neurons inside have the same ones outside, whatever has
        become of the last layer. None where some neuron is another one, or something was not right before.

        Queries: 2 for each of `TRIED` fresh boundary points, some more for each that is not where it is foretold
        """
        lifted = before.told
        if lifted is None or lifted.unconfirmed or self.model.affine.any() or lifted.model.affine.any():
            return None
        old = lifted.model.inner @ self.basis.T
        long, size = (np.linalg.norm(rows, axis=1) for rows in (old, self.model.inner))
        alike = (self.model.inner / size[:, None]) @ (old / long[:, None]).T
        which = np.abs(alike).argmax(axis=1)
        nearest = alike[np.arange(len(which)), which]
        if not (1 - np.abs(nearest) < SAME_INSIDE_SINE**2).all():
            return None
        ratio = np.sign(nearest) * size / long[which]
        judged = self._judged(ratio[:, None] * lifted.model.inner[which] @ self.outward.T, 0)
        self.told = replace(judged, reached=lifted.reached)
        return self.told if judged.missed == 0.0 else None

    def fitted(self, lifted: Lifted) -> Lifted:
        """All numbers fitted at once to boundary points all over the inputs; unchanged where that makes nothing better.
        Single directions are read along short moves, which coarse answers hardly tell. Queries: about 15 a number."""
        model, chart, pool = lifted.model, self.all, self.fresh_pool()
        need = int(LIFTED_FIT_PER_NUMBER * model.parameters)
        parts = [foretold_crossings(model, pool, chart, PORTION, self.rng) for _ in range(0, need, PORTION)]
        at = Crossings.joined(parts)[slice(0, need)]
        long = np.linalg.norm(at.x, axis=1)
        found, rows = cross_near(self.side, *at.expected, self._slack(at), chart.digits * np.maximum(long, 1.0))
        if len(rows) < max((1 - MISSED) * len(at), LIFTED_MET_PER_NUMBER * model.parameters):
            return lifted
        fit, reached = polish_many(model, found, self.rng)
        if not fit.rms < LIFTED_FIT_DIGITS * chart.digits * max(float(np.median(long)), 1.0):
            return lifted
        if reached < lifted.reached:
            some = int(model.classes[0]), int(model.classes[1])
            last = vaguest_number(fit.model, found, some, fit.rms)
            figures = {"error": max(reached, last), "open": open_numbers(fit.model, found, some)}
            self.told = lifted = replace(lifted, model=fit.model, reached=reached, figures=figures)
        return lifted

    def _confirmed(
        self,
        at: Crossings,
        step: Float[np.ndarray, " N"],
        weights: Float[np.ndarray, "u o"],
        columns: Int[np.ndarray, " J"],
        cell: float,
    ) -> Bool[np.ndarray, " J"]:
        """Which directions' weights foretell the shifts of further boundary points, in sums of several or each.
        Queries: `2 SEVERAL` for each sum, and for each direction in a sum that was not foretold."""
        groups = np.array_split(self.rng.permutation(len(columns)), -(-len(columns) // CONFIRMED))
        mixed = np.zeros((len(groups), len(columns)))
        for i, group in enumerate(groups):
            mixed[i, group] = self.rng.choice([-1.0, 1.0], len(group)) / np.sqrt(len(group))
        good = np.ones(len(columns), dtype=bool)
        for wrong in np.flatnonzero(~self._foretells(at, step, weights[:, columns], mixed, columns, cell)):
            good[groups[wrong]] = False
        again = np.flatnonzero(~good)
        good[again] = self._foretells(at, step, weights[:, columns], np.eye(len(columns))[again], columns, cell)
        return good

    def _foretells(
        self,
        at: Crossings,
        step: Float[np.ndarray, " N"],
        weights: Float[np.ndarray, "u J"],
        mixed: Float[np.ndarray, "M J"],
        columns: Int[np.ndarray, " J"],
        cell: float,
    ) -> Bool[np.ndarray, " M"]:
        """Whether the boundary is where these weights foretell it, after a move along each of M sums of directions.
        Queries: `2 SEVERAL` each."""
        further = len(at) - self._unknown
        if not further:
            return np.ones(len(mixed), dtype=bool)
        # At one point some neurons are at rest, and their weights may be any.
        each = min(further, SEVERAL)
        mixed = np.repeat(mixed, each, axis=0)
        rows = self._unknown + np.arange(len(mixed)) % further
        model, k, here, moved, weights = self.model, len(self.model.inner), at[rows], step[rows], weights @ mixed.T
        one, two = model.rows(here.before), model.rows(here.after)
        weight = model.outer[one] - model.outer[two]
        sums = here.x @ model.inner.T + model.bias + moved[:, None] * weights[:k].T
        gradient = model.gaps(here)[1]
        apart = (np.eye(len(model.classes))[one] - np.eye(len(model.classes))[two])[:, 1:]
        shared = moved * np.sum(apart * weights[k:].T, axis=1) if model.affine.any() else 0.0
        base = np.sum((model.affine[one] - model.affine[two]) * here.x, axis=1) + model.offset[one] - model.offset[two]
        gap = np.sum(weight * model.phi.value(sums), axis=1) + base + shared
        along, out = np.sum(gradient * here.along, axis=1), here.along @ self.basis
        x = here.x @ self.basis + moved[:, None] * (mixed @ self.outward[columns]) - (gap / along)[:, None] * out
        half = np.full(len(mixed), 64 * cell)
        _, found = cross_near(self.side, x, out, here.before, here.after, half, np.inf, grow=0)
        return np.asarray(np.isin(np.arange(len(mixed)), found).reshape(-1, each).mean(axis=1) > SUM_CONFIRMED_SHARE)

    def _rows(self) -> Float[np.ndarray, "u d"]:
        """What is unknown outside, as it is inside: weight vectors, and the affine part's logits less the first."""
        model = self.model
        apart = model.affine[1:] - model.affine[0] if model.affine.any() else model.inner[:0]
        return np.concatenate([model.inner, apart])

    @property
    def _unknown(self) -> int:
        return len(self.model.inner) + (len(self.model.classes) - 1 if self.model.affine.any() else 0)

    def _features(self, at: Crossings) -> Float[np.ndarray, "N u"]:
        """Derivatives of the gap between the two logits by the preactivations and by the affine part's logits."""
        by_sums, _, apart, _ = self.model.factors(at)
        return np.concatenate([by_sums, apart[:, 1:]], axis=1) if self.model.affine.any() else by_sums

    def _base_points(self) -> tuple[Crossings, Float[np.ndarray, " N"]]:
        """Crossings inside that tell most, the best first, and how far to move from each."""
        model, unknown = self.model, self._unknown
        at = foretold_crossings(model, self.pool, self.inside, 64 * unknown + 256, self.rng)
        # Numbers of rare classes may be open: the commoner half tells all weights, but of an affine part no others.
        common = self.pool.classes[: max(2, len(model.classes) // 2)]
        usual = np.flatnonzero(np.isin(at.before, common) & np.isin(at.after, common))
        if len(usual) > 2 * unknown and not model.affine.any():
            at = at[usual]
        room = self._room(at) * np.sqrt(self.wide) / 6 if model.phi.name == "relu" else np.full(len(at), 0.1)
        # No third class must come up before the boundary is met.
        logits = model.logits(at.x)
        one, two = model.rows(at.before), model.rows(at.after)
        rows = np.arange(len(at))
        behind = np.maximum(logits[rows, one], logits[rows, two])[:, None] - logits
        behind[rows, one] = behind[rows, two] = np.inf
        steep = np.linalg.norm(model.gaps(at)[1], axis=1)
        room = np.minimum(room, behind.min(axis=1) / steep * np.sqrt(self.wide) / 10)
        step = np.minimum(room, 0.5)
        if self.whole.oracle.within is not None:
            step = np.minimum(step, self.inside.margin(at.x) / 2)
        gradient = np.linalg.norm(model.gaps(at)[1], axis=1)
        telling = self._features(at) * (step / gradient)[:, None]
        telling /= np.maximum(np.linalg.norm(telling, axis=0), 1e-300)
        # Points that tell most are the strangest ones: those that are not there are left out.
        tried = _most_telling(telling, 4 * unknown)
        some = at[tried]
        half = np.full(len(tried), max(THERE, 64 * self.inside.digits))
        _, there = cross_near(self.pool.side, *some.expected, half, np.inf, grow=0)
        tried = tried[there]
        best = tried[_most_telling(telling[tried], 2 * unknown)]
        return at[best], step[best]

    def _room(self, at: Crossings) -> Float[np.ndarray, " N"]:
        """How far each point may move before a neuron changes its side, in steps that move rows by their own length.

        A move changes preactivations by what weight vectors have along it, and by the shift of the boundary that this
        makes: where the gradient is small that is the most of it.
        """
        model = self.model
        size = np.linalg.norm(model.inner, axis=1)
        along = np.sum(model.gaps(at)[1] * at.along, axis=1)
        shift = np.linalg.norm(self._features(at)[:, : len(size)] * size, axis=1) / np.abs(along)
        change = size + shift[:, None] * np.abs(at.along @ model.inner.T)
        free = np.abs(at.x @ model.inner.T + model.bias) / np.maximum(change, 1e-300)
        return np.asarray(free.min(axis=1, initial=np.inf))

    def _cells(
        self, at: Crossings, step: Float[np.ndarray, " u"], size: Float[np.ndarray, " u"]
    ) -> Float[np.ndarray, " u"]:
        """How finely each point is located, for weight vectors as accurate as wanted, with as few labels as can be."""
        # Without neurons it is the affine part that is to be as accurate.
        k = len(self.model.inner) or self._unknown
        size = np.maximum(size[:k] * self.stretch, 1e-300)
        # Errors of a bisection are spread evenly over its last bracket.
        part = (np.linalg.pinv(self._by_weights(at, step))[:k] / size[:, None]) ** 2 * len(self.outward) / 12
        # Sum of log(cell) at its largest while every error stays below 1: prices of the errors, until all are met.
        price = np.ones(k)
        for _ in range(200):
            cells = 1 / np.sqrt(np.maximum(price @ part, 1e-300))
            price *= np.maximum(part @ cells**2, 1e-12) ** 0.5
        self.wanted = self.accuracy * cells / np.sqrt(max(float((part @ cells**2).max()), 1e-300))
        return np.asarray(np.maximum(self.wanted, 2 * self.inside.digits))

    def _by_weights(self, at: Crossings, step: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N u"]:
        """Derivatives of each point's shift by the unknown weights along the move."""
        along = np.sum(self.model.gaps(at)[1] * at.along, axis=1)
        return np.asarray(-self._features(at) * (step / along)[:, None])

    def _shifts(
        self,
        at: Crossings,
        step: Float[np.ndarray, " N"],
        columns: Int[np.ndarray, " J"],
        expected: Float[np.ndarray, "u u"],
        cell: Float[np.ndarray, " N"],
    ) -> Float[np.ndarray, "N J"]:
        """How far each point's boundary shifts along each direction; of every further point the earlier ones tell where
        it is likely. Queries: about `log2(4 spread / cell)` each."""
        telling = self._by_weights(at, step)
        covariance = telling @ expected @ telling.T
        spread = np.linalg.cholesky(covariance + np.diag(1e-12 * np.diag(covariance) + cell**2))
        told = np.zeros((len(at), len(columns)))
        found = np.full((len(at), len(columns)), np.nan)
        for i in range(len(at)):
            centre = spread[i, :i] @ told[:i]
            start = at.x[i] @ self.basis + step[i] * self.outward[columns]
            along, label = at.along[i] @ self.basis, int(at.before[i])
            found[i] = located(self.side, start, along, label, centre, float(spread[i, i]), float(cell[i]))
            told[i] = np.nan_to_num((found[i] - centre) / spread[i, i])
        return found

    def _solved(
        self, at: Crossings, step: Float[np.ndarray, " N"], shift: Float[np.ndarray, "N J"]
    ) -> Float[np.ndarray, "u J"]:
        """Weights that put the boundary where it was found, by Newton's method on the network as it is."""
        model, k = self.model, len(self.model.inner)
        heard = ~np.isnan(shift)
        rows = np.flatnonzero(heard.any(axis=1))
        at, step, shift, heard = at[rows], step[rows], shift[rows], heard[rows]
        one, two = model.rows(at.before), model.rows(at.after)
        weight, affine = model.outer[one] - model.outer[two], model.affine[one] - model.affine[two]
        classes = np.eye(len(model.classes))
        apart = (classes[one] - classes[two])[:, 1:] if model.affine.any() else np.empty((len(at), 0))
        here = np.where(heard, shift, 0.0)
        sums = (at.x @ model.inner.T + model.bias)[:, None] + here[:, :, None] * (at.along @ model.inner.T)[:, None]
        base = np.sum(affine * at.x, axis=1)[:, None] + here * np.sum(affine * at.along, axis=1)[:, None]
        base += (model.offset[one] - model.offset[two])[:, None]
        found = np.zeros((self._unknown, shift.shape[1]))
        for _ in range(WEIGHT_NEWTON_STEPS):
            moved = sums + step[:, None, None] * found[None, :k].transpose(0, 2, 1)
            gap = np.sum(weight[:, None] * model.phi.value(moved), axis=2) + base + step[:, None] * (apart @ found[k:])
            slope = weight[:, None] * model.phi.slope(moved)
            extended = np.concatenate([slope, np.broadcast_to(apart[:, None], (*slope.shape[:2], apart.shape[1]))], 2)
            system = (step[:, None, None] * extended * heard[:, :, None]).transpose(1, 0, 2)
            target = -np.where(heard, gap, 0.0).T
            change = np.stack([np.linalg.lstsq(s, t, rcond=1e-12)[0] for s, t in zip(system, target, strict=True)], 1)
            found += change
            if np.abs(change).max() < 1e-12 * max(np.abs(found).max(), 1e-300):
                break
        return found

    def fresh_pool(self) -> Pool:
        """Points in all inputs, none of them asked yet."""
        size, given = self.everywhere.size / self.stretch, self.everywhere.given / self.stretch
        return Pool(self.side, self.all, size, given, self.rng)

    def _judged(self, weights: Float[np.ndarray, "u o"], unconfirmed: int) -> Lifted:
        model, k = self.model, len(self.model.inner)
        inner = model.inner @ self.basis + weights[:k] @ self.outward
        affine = model.affine @ self.basis
        if model.affine.any():
            # The first class's logit keeps what it has inside: labels tell differences.
            affine[1:] += weights[k:] @ self.outward
        lifted = replace(model, inner=inner, affine=affine)
        return Lifted(lifted, unconfirmed, self.missed(lifted), digits=self.all.digits)

    def missed(self, model: LabelModel) -> float:
        """The share of fresh boundary points that are not where a network in all inputs foretells them. Queries: 2 for
        each of `TRIED`, and some more for each that is not there."""
        at = foretold_crossings(model, self.fresh_pool(), self.all, TRIED, self.rng)
        there = cross_near(self.side, *at.expected, self._slack(at), np.inf)[1]
        return 1 - len(there) / max(len(at), 1)

    def _slack(self, at: Crossings) -> Float[np.ndarray, " N"]:
        """How far boundary points may lie from where weights as exact as wanted foretell them."""
        least = max(4 * self.accuracy, 16 * self.all.digits)
        return np.asarray(least * np.linalg.norm(at.x, axis=1))


def _most_telling(rows: Float[np.ndarray, "N u"], count: int) -> Int[np.ndarray, " M"]:
    """Which rows span the most, the best first."""
    return np.asarray(linalg.qr(rows.T, mode="r", pivoting=True, check_finite=False)[1][:count])
