"""choose: which candidates make up a layer, and their signs: derivatives are sums of the active ones' normals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.derivative_sums import HELD, Chosen, Sums
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_candidates import Views
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import Moves
from unveil.identification.piecewise_linear.sightings import Sightings

# Deeper normals beside the derivatives on lines, and fresh derivatives where most can be told apart; among so many.
DEEPER_NORMALS, FRESH_SLOPES, FREEST_POOL = 150, 90, 6000
# So many times as many vectors as must tell are enough; where there are fewer, so many places are looked at for more,
# at most so often.
ENOUGH_TELLING_RATIO, FEW_ACTIVE_POOL, FEW_ACTIVE_ROUNDS = 3, 40_000, 4
# Places with the same neurons active that are taken before others; how near a hyperplane they may be.
ALIKE_PLACES, CLEAR_OF_HYPERPLANES = 10, 1e-3
# A candidate is trusted that was met so often, at this share of the places where it should be, on so many lines; one
# that is not whole at the share `ALWAYS`, and with more than so many of its weights known. Where a layer before lacks a
# neuron that is active, a layer's own are missed: on lines that lead there at up to a third of the places.
TRUSTED_MEETINGS, MET, MET_WHOLE, TRUSTED_LINES = 8, 0.8, 0.6, 5
ALWAYS, MOST_KNOWN = 0.98, 0.5
EXPLAINS = 4  # contradictions that one trusted less must explain
TELLING = 30  # vectors that must tell before a neuron that none calls for is left out
# Places on a candidate's hyperplane on both sides of which derivatives are asked for, and votes that tell its side.
SIDE_PLACES, SIDE_VOTES = 6, 3
FEW_DIRECTIONS = 2  # along two directions a deeper neuron may look like one of this layer
STEP = 0.02  # steps for derivatives, relative to how far out a place is


def choose(sightings: Sightings, views: Views, layers: list[AffineMap], found: list[Neuron]) -> Chosen:
    """The candidates that make up the layer, and their sides.

    Those that are met wherever they should be come first, then those that explain what is left; what nothing calls for
    is left out, but for what cannot be a deeper layer's. One that is known in part may add anything where its unknown
    weights matter; where its normals are sums of the others' it is a deeper layer's. Queries: `FRESH_SLOPES (d + 4)`,
    at most `1 + FEW_ACTIVE_ROUNDS` times, and `2 SIDE_PLACES (d + 4)` for each candidate left out.
    """
    here = Here(sightings, views, layers, found)
    whole = np.array([one.whole for one in found])
    least = np.where(whole, MET_WHOLE, MET)
    trusted = np.array([one.should >= TRUSTED_MEETINGS and one.lines >= TRUSTED_LINES for one in found])
    trusted &= np.array([one.were / max(one.should, 1) for one in found]) >= least
    firm = np.array([one.whole or (one.were >= ALWAYS * one.should and one.known.mean() > MOST_KNOWN) for one in found])
    use = trusted & firm if (trusted & firm).any() else trusted.copy()
    sums, side = here.told_apart(use)

    def count(judged: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
        tells, wrong = judged
        return int(tells.sum() - wrong.sum()), int(wrong.sum())

    deeper = np.array([not full and here.deeper(i, side, use) for i, full in enumerate(whole)])
    use &= ~deeper
    while True:
        judged = sums.judged(side, use)
        now = count(judged)
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for i in np.flatnonzero(~use & ~deeper):
            if found[i].known.sum() < 2:
                continue
            for up in (1.0, -1.0):
                more, other = use.copy(), side.copy()
                more[i], other[i] = True, up
                tells, wrong = sums.judged_with(int(i), other, more, judged)
                then = count((tells, wrong))
                # One known in part explains nothing that it hides.
                explains = now[1] - then[1] if whole[i] else int((judged[1] & tells & ~wrong).sum())
                gain = explains - 0.5 * max(now[0] - then[0], 0) + 0.25 * trusted[i]
                if explains >= (1 if trusted[i] else EXPLAINS) and gain > 0 and (best is None or gain > best[0]):
                    best = gain, other, more
        if best is None:
            break
        _, side, use = best
    for i in sorted(np.flatnonzero(use), key=lambda i: found[i].were):
        fewer = use.copy()
        fewer[i] = False
        tells, own = here.at_own(int(i), side, fewer)
        if trusted[i] and firm[i] and (tells & ~own).sum() <= own.sum():
            continue
        then = count(sums.judged(side, fewer))
        if now[0] >= TELLING and then[1] <= now[1] and then[0] >= now[0]:
            use, now = fewer, then
    for i in np.flatnonzero(~use & whole):
        if found[i].were == found[i].should >= TRUSTED_MEETINGS and found[i].lines >= TRUSTED_LINES:
            up = here.own_side(int(i), sums, side, use)
            use[i], side[i] = bool(up), up or side[i]
    tells, wrong = sums.judged(side, use)
    return Chosen(side, use, sums.x[tells & ~wrong], sums.x[wrong])


class Here(NamedTuple):
    """What may be neurons of a layer, and where they were seen."""

    sightings: Sightings  # all of them
    views: Views  # those behind the layers before
    layers: list[AffineMap]  # before
    found: list[Neuron]  # the candidates

    def pool(self, count: int) -> Float[np.ndarray, "count d"]:
        """Places to choose among."""
        half, rng = count // 2, self.sightings.probe.rng
        usual = self.sightings.usual(half) * rng.choice([1, 2, 4], (half, 1))
        return np.concatenate([self.sightings.unusual(count - half), usual])

    def asked(self, x: Float[np.ndarray, "N d"], step: Float[np.ndarray, " N"]) -> Sums:
        """Derivatives there. Queries: `N (d + 4)`."""
        d = self.sightings.d
        slope, doubt = derivatives(self.sightings.probe, Frame.of_input(d, None), x, step)
        told = np.isfinite(doubt)
        return Sums.of(self.layers, self.found, x[told], slope[told], doubt[told] * np.sqrt(d))

    def members(self, i: int) -> Int[np.ndarray, " M"]:
        """Critical points of a candidate whose normals are known well, the best ones first."""
        some = np.flatnonzero(self.views.members(self.found[i]) & (self.views.error < HELD[True].vague))
        return some[np.argsort(self.views.error[some], kind="stable")]

    def at_own(
        self, i: int, side: Float[np.ndarray, " K"], others: Bool[np.ndarray, " K"]
    ) -> tuple[Bool[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
        """Which normals of a candidate could be no sums of the others', and which are none. Those of a deeper neuron
        are sums of them, those of one of this layer are not."""
        some = self.members(i)
        x, normal = self.sightings.x[self.views.which[some]], self.views.normal[some]
        return Sums.of(self.layers, self.found, x, normal[:, None], self.views.error[some]).judged(side, others)

    def deeper(self, i: int, side: Float[np.ndarray, " K"], use: Bool[np.ndarray, " K"]) -> bool:
        """Whether most normals of a candidate that could contradict that are sums of the others': where few values are
        active a neuron of a deeper layer follows what this one's weights for these say."""
        tells, own = self.at_own(i, side, use & (np.arange(len(use)) != i))
        return bool((tells & ~own).sum() >= max(SIDE_VOTES, own.sum() + 1))

    def own_side(self, i: int, sums: Sums, side: Float[np.ndarray, " K"], others: Bool[np.ndarray, " K"]) -> float:
        """On which side a candidate is active that the others do without; 0 if it is a deeper neuron's, or not told.

        On its active side derivatives are no sums of the others' normals. Where its own normals tell nothing it is not
        active at the many places where the others explain derivatives. Queries: `2 SIDE_PLACES (d + 4)`.
        """
        tells, own = self.at_own(i, side, others)
        some = self.members(i)
        if not tells.any():
            if not len(some) or np.median(self.views.seen.rank[some]) <= FEW_DIRECTIONS:
                return 0.0
            tells, wrong = sums.judged(side, others)
            up = (sums.z[:, i] > 0)[tells & ~wrong & ~sums.blind[:, i]]
            return 0.0 if len(up) < TELLING or up.any() != up.all() else -1.0 if up.any() else 1.0
        if own.sum() < max(SIDE_VOTES, (tells & ~own).sum()):
            return 0.0
        some = some[own][:SIDE_PLACES]
        x, normal = self.sightings.x[self.views.which[some]], self.views.normal[some]
        step = STEP * np.linalg.norm(x, axis=1) / np.sqrt(self.sightings.d)
        across = step[:, None] * normal
        near = self.asked(np.concatenate([x + across, x - across]), np.tile(step / 4, 2))
        tells, wrong = near.judged(side, others)
        z = near.z[:, i]
        ahead, behind = (int((wrong & (z * s > 0)).sum() + (tells & ~wrong & (z * s < 0)).sum()) for s in (1.0, -1.0))
        return 0.0 if max(ahead, behind) < SIDE_VOTES or min(ahead, behind) else 1.0 if ahead > behind else -1.0

    def told_apart(self, use: Bool[np.ndarray, " K"]) -> tuple[Sums, Float[np.ndarray, " K"]]:
        """The sides of some candidates, and derivatives enough to tell them.

        Where values move along few directions hardly any place tells: those do where fewer neurons are active than
        that, by the sides as they seem, and of places with the same ones positive one is enough. Queries:
        `FRESH_SLOPES (d + 4)`, at most `1 + FEW_ACTIVE_ROUNDS` times.
        """
        sums, rng = self.gathered(), self.sightings.probe.rng
        side = sums.by_few(use, rng)
        for number in range(1 + FEW_ACTIVE_ROUNDS if use.any() else 0):
            tells, wrong = sums.judged(side, use)
            if (tells & ~wrong).sum() >= ENOUGH_TELLING_RATIO * TELLING:
                break
            x = self.few_active(side, use) if number else self.freest()
            if not len(x):
                break
            sums = sums.joined(self.asked(x, STEP * np.linalg.norm(x, axis=1) / np.sqrt(self.sightings.d)))
            both = sums.by_few(use, rng), sums.turned(use, side)
            side = max(both, key=lambda each: sums.score(each, use))
        return sums, side

    def few_active(self, side: Float[np.ndarray, " K"], use: Bool[np.ndarray, " K"]) -> Float[np.ndarray, "N d"]:
        """Places where fewer are active than directions are left, by these sides, few of them alike."""
        rng = self.sightings.probe.rng
        some = [one for one, used in zip(self.found, use, strict=True) if used]
        W, b, known = (np.array([getattr(one, name) for one in some]) for name in ("weights", "bias", "known"))
        x = self.pool(FEW_ACTIVE_POOL)
        seen = Moves.of(self.layers, x)
        z = seen.h @ W.T + b
        near = (np.abs(z) < CLEAR_OF_HYPERPLANES * (1 + np.linalg.norm(seen.h, axis=1))[:, None]).any(axis=1)
        blind = (seen.on[:, None, :] & ~known[None]).any(axis=(1, 2))
        good = np.flatnonzero((seen.rank >= 2) & ~near & ~blind)
        z, rank = z[good], seen.rank[good]
        place = _place_among_alike(z > 0, -rank - rng.random(len(good)))
        tells = ((z * side[use] > 0).sum(axis=1) < rank) & (place < ALIKE_PLACES)
        return np.asarray(x[good[np.lexsort((-rank, place, ~tells))[:FRESH_SLOPES]]])

    def freest(self) -> Float[np.ndarray, "N d"]:
        """Places where what was read moves along most directions."""
        x = self.pool(FREEST_POOL)
        seen = Moves.of(self.layers, x)
        free = (np.linalg.svd(seen.move, compute_uv=False) > 1e-3).sum(axis=1)
        W, b = np.array([one.weights for one in self.found]), np.array([one.bias for one in self.found])
        z = np.abs(seen.h @ W.T + b) / (1 + np.linalg.norm(seen.h, axis=1))[:, None]
        near = z.min(axis=1) < CLEAR_OF_HYPERPLANES
        return np.asarray(
            x[np.argsort(-(free + self.sightings.probe.rng.random(FREEST_POOL) - 100 * near))[:FRESH_SLOPES]]
        )

    def gathered(self) -> Sums:
        """The derivatives on lines, and some of the deeper normals."""
        sightings, views = self.sightings, self.views
        deeper = sightings.probe.rng.permutation(len(views.which))[:DEEPER_NORMALS]
        normals = np.zeros((len(deeper), sightings.probe.m, sightings.d))
        normals[:, 0] = views.normal[deeper]
        x = sightings.x[views.which[deeper]]
        lines = Sums.along(self.layers, self.found, sightings)
        return lines.joined(Sums.of(self.layers, self.found, x, normals, views.error[deeper]))


def _place_among_alike(pattern: Bool[np.ndarray, "N K"], rank: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Which place every row takes among those equal to it, the lowest `rank` first."""
    _, group = np.unique(pattern, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.lexsort((rank, group))
    turn = np.arange(len(group))
    first = np.diff(group[order], prepend=-1) != 0
    place = np.empty(len(group), dtype=int)
    place[order] = turn - np.maximum.accumulate(np.where(first, turn, 0))
    return place
