"""LocalMaps: the difference of two logits at flat pieces of a boundary, by the values of a known first layer.

A normal of the boundary has the direction of the gradient of two logits' difference, and not its length. Across a
second-layer neuron's hyperplane this gradient changes by the neuron's weight times its row, and across one of the first
layer by a multiple of that one's normal: so each bend relates the lengths on both sides and the weight, whatever
neurons there may be that are not known. Where all lengths are known, each face tells an affine map of the first layer's
values. What known neurons leave of it is the affine part, and where a neuron is active that is not known, its weights.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import spsolve

from unveil.identification.from_labels.faces import Faces
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.orientation import BOTH
from unveil.identification.from_labels.output import between
from unveil.identification.from_labels.second_layer import HiddenNeuron, alike

FITS = 1e-3
"""How far a row may be from the span of both normals at its bend, and a map from the affine part, relative."""

BEGUN = 300
"""Faces with which others are compared, at most about."""

ROUNDS = 12
"""Means of all faces that agree with the one before, at most."""

SPREAD, CLOSE = 10.0, 1e-6
"""So many times as far off as most faces are those that are left out of a fit, if not closer than this."""

SHARED, SURPLUS = 4, 3
"""Numbers in which two faces must agree, and how many more are told than there are unknown ones."""

APART = 0.9
"""Share of the faces that must be on the right side of a neuron, and how nearly equal two measured weights are."""

PATTERNS = 2
"""Linear regions of the first layer in which a neuron must have the same weights."""

STEPS = 50
"""Neurons or weights that the faces of two classes tell, at most."""

FREE = 3
"""Neurons that may be active at a face by a weight not told, at most."""


class LocalMaps:
    """The affine map at each face: how the difference of its two logits grows with each first-layer value.

    Args:
        first: The first layer, normals towards its active sides.
        faces, links: As in `last_layer`.
        whole: (k, d + 1), weights and bias of each known second-layer neuron, NaN where not told; it grows.
    """

    def __init__(self, first: Hyperplanes, faces: Faces, links: Int[np.ndarray, "B 2"], whole: np.ndarray) -> None:
        self.first, self.links, self.whole = first, links, whole
        sums = faces.x @ first.normals.T + first.offsets
        self.on, self.x = sums > 0, np.column_stack([np.maximum(sums, 0.0), np.ones(len(faces))])
        self.pairs = np.sort(np.stack([faces.before, faces.after], axis=1), axis=1)
        # Towards the higher label.
        self.normal = faces.normal * np.where(faces.before < faces.after, 1.0, -1.0)[:, None]
        # Of a gradient of length one; NaN where the first layer's value is zero, or where nothing tells.
        self.map, self.loose = np.full((len(faces), len(first) + 1), np.nan), np.full(len(faces), np.inf)
        for face, (normal, on) in enumerate(zip(self.normal, self.on, strict=True)):
            rows = first.normals[on]
            solved, _, _, values = np.linalg.lstsq(rows.T, normal, rcond=None)
            if 0 < len(rows) <= rows.shape[1] and np.linalg.norm(normal - solved @ rows) < FITS and values[-1] > CLOSE:
                self.map[face, np.append(on, True)] = np.append(solved, -solved @ self.x[face, :-1][on])
                self.loose[face] = 1 / values[-1]
        # Two nodes of a graph each, the logarithm of how they are related, and how exactly: faces, then neurons.
        self.related: list[tuple[int, int, float, float]] = []
        self.sign = np.zeros((len(links), len(whole)))
        for row in range(len(links)):
            self._relate(row)

    def preactivation(self, at: Int[np.ndarray, " M"]) -> tuple[Float[np.ndarray, "M k"], Bool[np.ndarray, "M k"]]:
        """Of each known neuron at faces, and whether all weights that count there are told."""
        open_ = np.isnan(self.whole[:, :-1])
        sure = ~(self.on[at][:, None] & open_).any(axis=2)
        return self.x[at] @ np.nan_to_num(self.whole).T, sure

    def _relate(self, row: int) -> None:
        """What one bend tells."""
        f, g = self.links[row]
        crossed = np.flatnonzero(self.on[f] != self.on[g])
        if (self.pairs[f] != self.pairs[g]).any() or len(crossed) > 1:
            return
        both = np.stack([self.normal[g], -self.normal[f]], axis=1)
        if len(crossed):
            a = self.first.normals[crossed[0]]
            beside = both - np.outer(a, a @ both)
            one, two = np.linalg.norm(beside, axis=0)
            if min(one, two) > FITS and np.linalg.norm(beside[:, 0] / one + beside[:, 1] / two) < FITS:
                self.related.append((int(f), int(g), float(np.log(two / one)), float(min(one, two))))
            return
        on, turn = self.on[f], float(np.linalg.svd(both, compute_uv=False)[-1])
        # Normals that are alike or opposite span no row, and any two span one of two weights.
        if turn < CLOSE or on.sum() < SHARED:
            return
        value, sure = self.preactivation(np.array([f, g]))
        for j in np.flatnonzero((value[0] * value[1] < 0) & sure[0]):
            here = self.whole[j, :-1][on] @ self.first.normals[on]
            part = np.linalg.lstsq(both, here, rcond=None)[0]
            if np.linalg.norm(both @ part - here) < FITS * np.linalg.norm(here) and part[0] * part[1] > 0:
                self.sign[row, j] = np.sign(part[0]) * np.sign(value[1, j])
                node = len(self.pairs) + int(j)
                self.related += [
                    (node, int(face), float(np.log(abs(size))), turn) for face, size in zip((g, f), part, strict=True)
                ]
                return

    def sizes(self, ours: Bool[np.ndarray, " N"]) -> Float[np.ndarray, " Nk"]:
        """Lengths of the gradients at faces and sizes of the neurons' weights, NaN where not told, in one unit."""
        count = len(self.pairs)
        kept = [each for each in self.related if ours[each[1]]]
        size = np.full(count + len(self.whole), np.nan)
        if not any(each[0] >= count for each in kept):
            return size
        one, two, ratio, weight = (np.array(each) for each in zip(*kept, strict=True))
        nodes = len(size)
        graph = sparse.coo_matrix((np.ones(len(one)), (one, two)), shape=(nodes, nodes))
        part = csgraph.connected_components(graph, directed=False)[1]
        # Where the most neurons are that have bends: what else there is hangs together with none of them.
        main = np.bincount(part[np.unique(one[one >= count])]).argmax()
        good = part[one] == main
        index = np.full(nodes, -1)
        members = np.flatnonzero(part == main)
        index[members] = np.arange(len(members))
        one, two, ratio, weight = index[one[good]], index[two[good]], ratio[good], weight[good]
        ends = np.arange(len(one))
        matrix = sparse.coo_matrix(
            (np.concatenate([-weight, weight]), (np.concatenate([ends, ends]), np.concatenate([one, two]))),
            shape=(len(one), len(members)),
        ).tocsc()
        normal = (matrix.T @ matrix).tocsc()
        told = np.zeros(len(members))
        told[1:] = spsolve(normal[1:, 1:], (matrix.T @ (weight * ratio))[1:])
        size[members] = np.exp(told - told.max())
        return size


class PairMaps:
    """The maps at the faces between two classes, and what is told of neurons by them.

    Args:
        maps: Of all faces; its neurons grow.
        pair: The two classes.

    Attributes:
        weight: (k,), of each known neuron to the difference of the two logits, zero where no bend tells it.
        affine: (d + 1,), the affine part and the constant, NaN where not told.
        share: Of the faces, those that these explain; zero where nothing is told.
    """

    def __init__(self, maps: LocalMaps, pair: tuple[int, int]) -> None:
        self.maps, self.pair, self.share = maps, pair, 0.0
        ours, count = (maps.pairs == np.array(pair)).all(axis=1), len(maps.pairs)
        size = maps.sizes(ours)
        # Neurons that another pair told since have no bends yet.
        sign = np.zeros(len(maps.whole))
        sign[: maps.sign.shape[1]] = np.sign(maps.sign[ours[maps.links[:, 0]]].sum(axis=0))
        self.weight = sign * np.nan_to_num(size[count:])
        self.at = np.flatnonzero(ours & (size[:count] > 0) & np.isfinite(maps.loose))
        self.on, self.map = maps.on[self.at], size[self.at, None] * maps.map[self.at]
        self.fuzz = FITS * (size[self.at] * maps.loose[self.at])[:, None] * np.ones(self.map.shape[1])
        self.fuzz[:, -1] *= np.maximum(1.0, np.linalg.norm(maps.x[self.at, :-1], axis=1))
        self.affine = np.full(self.map.shape[1], np.nan)
        for _ in range(STEPS if self.weight.any() else 0):
            if not self._step():
                break

    def model(self) -> LabelModel:
        """The same as a model of the first layer's values; what is not told is zero."""
        known, affine = np.nan_to_num(self.maps.whole), np.nan_to_num(self.affine)
        weight = np.append(self.weight, np.zeros(len(known) - len(self.weight)))
        return between(known[:, :-1], known[:, -1], weight, affine[:-1], float(affine[-1]), self.pair)

    def _step(self) -> bool:
        """The affine part once more, and something besides if that is told; whether it is."""
        value, sure = self.maps.preactivation(self.at)
        sure |= self.weight == 0
        on = (value > 0) & sure
        left = self.map - on * self.weight @ np.nan_to_num(self.maps.whole)
        found, clear = None, sure.copy()
        # Where too few faces have none that is not told, those of the neurons told least count, too: they may rest.
        for j in [*np.argsort(np.isnan(self.maps.whole).sum(axis=1))[::-1], None]:
            found = agreeing(left, self.fuzz, np.all(clear, axis=1))
            if found is not None or j is None or clear.all():
                break
            clear[:, j] = True
        if found is None:
            return False
        self.affine, rows = found
        settled = self._settled(left - self.affine, on, sure)
        settled[rows[sure[rows].all(axis=1)]] = True
        self.share = float(settled.mean())
        return self._filled(on, settled) or self._one_more(left - self.affine, settled)

    def _settled(self, left: Float[np.ndarray, "M d1"], on: np.ndarray, sure: np.ndarray) -> Bool[np.ndarray, " M"]:
        """Faces where weights count that are not told, and which neurons are active there by those that are."""
        settled = np.zeros(len(left), dtype=bool)
        for row in np.flatnonzero(~sure.all(axis=1)):
            free = np.flatnonzero(~sure[row])
            if len(free) > FREE:
                continue
            ways = [free[list(each)] for each in product((False, True), repeat=len(free))]
            tried = [left[row] - self.weight[some] @ self.maps.whole[some] for some in ways]
            good = np.flatnonzero(_off(np.array(tried), np.zeros(left.shape[1]), self.fuzz[row]) < 1)
            # Where two ways are as good it is not told which.
            if len(good) == 1:
                on[row, ways[good[0]]], settled[row] = True, True
        return settled

    def _filled(self, on: Bool[np.ndarray, "M k"], settled: Bool[np.ndarray, " M"]) -> bool:
        """Whether faces where it is known what is active tell more weights, one first-layer value after the other.

        What is active, or rests, at all faces that have a value cannot be told from the affine part, and stays there.
        """
        whole, more = self.maps.whole, False
        for i in np.flatnonzero(np.isnan(whole[:, :-1]).any(axis=0)):
            rows = np.flatnonzero(settled & self.on[:, i])
            untold = np.flatnonzero(np.isnan(whole[:, i]) & (self.weight != 0))
            alone = np.isnan(self.affine[i])
            acts = on[rows][:, untold].sum(axis=0)
            split = (acts >= BOTH) & (len(rows) - acts >= (BOTH if alone else 0))
            usual = 2 * acts > len(rows)
            rows = rows[(on[rows][:, untold] == usual)[:, ~split].all(axis=1)]
            known = np.append(np.where(np.isnan(whole[:, i]), 0.0, whole[:, i]), np.nan_to_num(self.affine[i]))
            active = np.column_stack([on[rows] * self.weight, np.ones(len(rows))])
            target = self.map[rows, i] - active @ known
            matrix = active[:, np.append(untold[split], [len(self.weight)] if alone else []).astype(int)]
            if not matrix.shape[1] or len(rows) < matrix.shape[1] + SURPLUS:
                continue
            heavy = 1 / self.fuzz[rows, i]
            solved, _, rank, _ = np.linalg.lstsq(matrix * heavy[:, None], target * heavy, rcond=1e-9)
            if rank < matrix.shape[1] or np.mean(np.abs(matrix @ solved - target) * heavy < 1) < APART:
                continue
            self.affine[i] = solved[-1] if alone else self.affine[i]
            whole[untold[split], i], more = solved[: split.sum()], more or bool(split.any())
        return more

    def _one_more(self, left: Float[np.ndarray, "M d1"], settled: Bool[np.ndarray, " M"]) -> bool:
        """Whether the other faces tell one neuron more, or of one that is known what was not.

        Args:
            left: What is left of the map at faces.
            settled: Those where that is nothing. A neuron more rests there, or is active at all of them: that is open.
        """
        rest, x, whole = np.flatnonzero(~settled), self.maps.x[self.at], self.maps.whole
        found = agreeing(left[rest], self.fuzz[rest], np.ones(len(rest), dtype=bool))
        if found is None:
            return False
        vector, some = found[0], rest[found[1]]
        told = ~(self.on & np.isnan(vector[:-1])).any(axis=1)
        value = x @ np.nan_to_num(vector)
        here = value[told & np.isin(np.arange(len(told)), some)]
        sign = np.sign(np.median(here)) if len(here) else 0.0
        there = value[told & settled]
        if not sign or not np.mean(np.append(sign * here > 0, sign * there < 0)) > APART:
            return False
        this = HiddenNeuron(vector[:-1], float(vector[-1]), some, 0.0)
        for j, row in enumerate(whole):
            if alike(this, HiddenNeuron(row[:-1], float(row[-1]), some, 0.0)):
                known, more = ~np.isnan(row) & ~np.isnan(vector), np.isnan(row) & ~np.isnan(vector)
                ratio = (vector[known] @ row[known]) / (row[known] @ row[known])
                row[more] = vector[more] / ratio
                new = not self.weight[j] and not np.isnan(row).any()
                self.weight[j] = sign * abs(ratio) if new else self.weight[j]
                return bool(new or more.any())
        # Faces of one linear region are alike whatever neurons are active there.
        if len(np.unique(self.on[some], axis=0)) < PATTERNS or len(there) < BOTH:
            return False
        long = float(np.linalg.norm(np.nan_to_num(vector[:-1])))
        self.maps.whole = np.concatenate([whole, sign * vector[None] / long])
        self.weight = np.append(self.weight, sign * long)
        return True


def agreeing(
    left: Float[np.ndarray, "M p"], fuzz: Float[np.ndarray, "M p"], first: Bool[np.ndarray, " M"]
) -> tuple[Float[np.ndarray, " p"], Int[np.ndarray, " R"]] | None:
    """The vector that most rows agree on, in what each of them tells.

    Args:
        left: Rows, NaN where they do not tell.
        fuzz: How exactly they tell it.
        first: Rows among which it is looked for.

    Returns:
        The vector, NaN where fewer than `BOTH` rows tell, and the rows that agree; None where these tell no more than
        there are numbers.

    Queries: `0`
    """
    best, among = np.empty(0, dtype=int), np.flatnonzero(first)
    for row in among[:: 1 + len(among) // BEGUN]:
        near = among[_off(left[among], left[row], fuzz[among] + fuzz[row]) < 1]
        best = near if len(near) > len(best) else best
    known, tight = ~np.isnan(left), 1.0
    for _ in range(ROUNDS):
        told = known[best].sum(axis=0) >= BOTH
        heavy = np.where(known[best], fuzz[best], np.inf)[:, told] ** -2
        vector = np.full(left.shape[1], np.nan)
        vector[told] = np.sum(heavy * np.nan_to_num(left[best][:, told]), axis=0) / heavy.sum(axis=0)
        if told.sum() < SHARED or (known[best][:, told].sum(axis=1) - 1).sum() < told.sum() + SURPLUS:
            return None
        off = _off(left, vector, fuzz)
        # What an unknown neuron does at some faces may be little: those that fit best go on.
        tight = float(np.clip(SPREAD * np.median(off[best]), CLOSE / FITS, 1.0))
        now = np.flatnonzero(off < tight)
        if np.array_equal(now, best):
            break
        best = now
    return vector, best


def _off(left: np.ndarray, vector: np.ndarray, fuzz: np.ndarray) -> Float[np.ndarray, " M"]:
    """How far rows are from a vector, in what they tell exactly; infinite where too few numbers are told of both."""
    apart = np.abs(left - vector) / fuzz
    known = ~np.isnan(apart)
    return np.where(known.sum(axis=1) >= SHARED, np.where(known, apart, 0.0).max(axis=1), np.inf)
