"""choose: which candidates make up a layer, and their signs: derivatives are sums of the active ones' normals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_candidates import Candidate, Moves, Views
from unveil.identification.piecewise_linear.sightings import Sightings

# Derivatives on lines, half as many deeper normals, and fresh derivatives where most can be told apart; among so many.
SOME, FRESH, POOL = 300, 90, 6000
# So many times as many vectors as must tell are enough; where there are fewer, so many places are looked at for more,
# at most so often.
ENOUGH, WIDER, AGAIN = 3, 40_000, 4
# Places with the same neurons active that are taken before others; how near a hyperplane they may be.
ALIKE, CLEAR = 10, 1e-3
# A candidate is trusted that was met so often, at this share of the places where it should be, on so many lines; one
# that is not whole at this share, and with more than so many of its weights known.
OFTEN, MET, LINES = 8, 0.9, 5
ALWAYS, MOST_KNOWN = 0.98, 0.5
EXPLAINS = 4  # contradictions that one trusted less must explain
TELLING = 30  # vectors that must tell before a neuron that none calls for is left out
# Places on a candidate's hyperplane on both sides of which derivatives are asked for, and votes that tell its side.
BOTH, AGREE = 6, 3
FEW_DIRECTIONS = 2  # along two directions a deeper neuron may look like one of this layer
STEP = 0.02  # steps for derivatives, relative to how far out a place is


class Chosen(NamedTuple):
    """Candidates taken for a layer."""

    side: Float[np.ndarray, " K"]  # +1 where positive is active, of all candidates
    use: Bool[np.ndarray, " K"]  # which are taken
    right: Float[np.ndarray, "R d"]  # where what they are could have been contradicted, and is not
    wrong: Float[np.ndarray, "W d"]  # where it is


def choose(sightings: Sightings, views: Views, layers: list[AffineMap], found: list[Candidate]) -> Chosen:
    """The candidates that make up the layer, and their sides.

    Those that are met wherever they should be come first, then those that explain what is left; what nothing calls for
    is left out, but for what cannot be a deeper layer's. One that is known in part may add anything where its unknown
    weights matter. Queries: `FRESH (d + 4)`, at most `1 + AGAIN` times, and `2 BOTH (d + 4)` for each candidate left
    out.
    """
    here = Here(sightings, views, layers, found)
    trusted = np.array([one.should >= OFTEN and one.were >= MET * one.should and one.lines >= LINES for one in found])
    firm = np.array([one.whole or (one.were >= ALWAYS * one.should and one.known.mean() > MOST_KNOWN) for one in found])
    use = trusted & firm if (trusted & firm).any() else trusted.copy()
    sums, side = here.told_apart(use)

    def count(side: np.ndarray, use: np.ndarray) -> tuple[int, int]:
        tells, wrong = sums.judged(side, use)
        return int(tells.sum() - wrong.sum()), int(wrong.sum())

    now = count(side, use)
    while True:
        best: tuple[float, np.ndarray, np.ndarray, tuple[int, int]] | None = None
        for i in np.flatnonzero(~use):
            if found[i].known.sum() < 2:
                continue
            for up in (1.0, -1.0):
                more, other = use.copy(), side.copy()
                more[i], other[i] = True, up
                then = count(other, more)
                explains = now[1] - then[1]
                gain = explains - 0.5 * max(now[0] - then[0], 0) + 0.25 * trusted[i]
                least = 1 if trusted[i] else EXPLAINS
                if explains >= least and gain > 0 and (best is None or gain > best[0]):
                    best = gain, other, more, then
        if best is None:
            break
        _, side, use, now = best
    for i in sorted(np.flatnonzero(use), key=lambda i: found[i].were):
        fewer = use.copy()
        fewer[i] = False
        tells, own = here.at_own(int(i), side, fewer)
        if trusted[i] and firm[i] and (tells & ~own).sum() <= own.sum():
            continue
        then = count(side, fewer)
        if now[0] >= TELLING and then[1] <= now[1] and then[0] >= now[0]:
            use, now = fewer, then
    for i in np.flatnonzero(~use):
        if found[i].were == found[i].should >= OFTEN and found[i].lines >= LINES:
            up = here.own_side(int(i), sums, side, use)
            use[i], side[i] = bool(up), up or side[i]
    tells, wrong = sums.judged(side, use)
    return Chosen(side, use, sums.x[tells & ~wrong], sums.x[wrong])


class Here(NamedTuple):
    """What may be neurons of a layer, and where they were seen."""

    sightings: Sightings  # all of them
    views: Views  # those behind the layers before
    layers: list[AffineMap]  # before
    found: list[Candidate]  # the candidates

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
        some = np.flatnonzero(self.found[i].members & (self.views.error < VAGUE))
        return some[np.argsort(self.views.error[some], kind="stable")]

    def at_own(
        self, i: int, side: Float[np.ndarray, " K"], others: Bool[np.ndarray, " K"]
    ) -> tuple[Bool[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
        """Which normals of a candidate could be no sums of the others', and which are none. Those of a deeper neuron
        are sums of them, those of one of this layer are not."""
        some = self.members(i)
        x, normal = self.sightings.x[self.views.which[some]], self.views.normal[some]
        return Sums.of(self.layers, self.found, x, normal[:, None], self.views.error[some]).judged(side, others)

    def own_side(self, i: int, sums: Sums, side: Float[np.ndarray, " K"], others: Bool[np.ndarray, " K"]) -> float:
        """On which side a candidate is active that the others do without; 0 if it is a deeper neuron's, or not told.

        On its active side derivatives are no sums of the others' normals. Where its own normals tell nothing it is not
        active at the many places where the others explain derivatives. Queries: `2 BOTH (d + 4)`.
        """
        tells, own = self.at_own(i, side, others)
        some = self.members(i)
        if not tells.any():
            if not len(some) or np.median(self.views.seen.rank[some]) <= FEW_DIRECTIONS:
                return 0.0
            tells, wrong = sums.judged(side, others)
            up = (sums.z[:, i] > 0)[tells & ~wrong & ~sums.blind[:, i]]
            return 0.0 if len(up) < TELLING or up.any() != up.all() else -1.0 if up.any() else 1.0
        if own.sum() < max(AGREE, (tells & ~own).sum()):
            return 0.0
        some = some[own][:BOTH]
        x, normal = self.sightings.x[self.views.which[some]], self.views.normal[some]
        step = STEP * np.linalg.norm(x, axis=1) / np.sqrt(self.sightings.d)
        across = step[:, None] * normal
        near = self.asked(np.concatenate([x + across, x - across]), np.tile(step / 4, 2))
        tells, wrong = near.judged(side, others)
        z = near.z[:, i]
        ahead, behind = (int((wrong & (z * s > 0)).sum() + (tells & ~wrong & (z * s < 0)).sum()) for s in (1.0, -1.0))
        return 0.0 if max(ahead, behind) < AGREE or min(ahead, behind) else 1.0 if ahead > behind else -1.0

    def told_apart(self, use: Bool[np.ndarray, " K"]) -> tuple[Sums, Float[np.ndarray, " K"]]:
        """The sides of some candidates, and derivatives enough to tell them.

        Where values move along few directions hardly any place tells: those do where fewer neurons are active than
        that, by the sides as they seem, and of places with the same ones positive one is enough. Queries:
        `FRESH (d + 4)`, at most `1 + AGAIN` times.
        """
        rng = self.sightings.probe.rng
        sums = self.gathered()
        side = sums.turned(use, rng)
        some = [one for one, used in zip(self.found, use, strict=True) if used]
        W, b, known = (np.array([getattr(one, name) for one in some]) for name in ("weights", "bias", "known"))
        for _ in range(AGAIN if use.any() else 0):
            if sums.judged(side, use)[0].sum() >= ENOUGH * TELLING:
                break
            x = self.pool(WIDER)
            seen = Moves.of(self.layers, x)
            z = seen.h @ W.T + b
            near = (np.abs(z) < CLEAR * (1 + np.linalg.norm(seen.h, axis=1))[:, None]).any(axis=1)
            blind = (seen.on[:, None, :] & ~known[None]).any(axis=(1, 2))
            good = np.flatnonzero((seen.rank >= 2) & ~near & ~blind)
            z, rank = z[good], seen.rank[good]
            place = _place_among_alike(z > 0, -rank - rng.random(len(good)))
            tells = ((z * side[use] > 0).sum(axis=1) < rank) & (place < ALIKE)
            good = good[np.lexsort((-rank, place, ~tells))[:FRESH]]
            if not len(good):
                break
            x = x[good]
            sums = sums.joined(self.asked(x, STEP * np.linalg.norm(x, axis=1) / np.sqrt(self.sightings.d)))
            both = sums.turned(use, rng), sums.turned(use, rng, side)
            side = max(both, key=lambda each: sums.score(each, use))
        return sums, side

    def gathered(self) -> Sums:
        """Some of the derivatives and deeper normals, and fresh derivatives where what was read moves most freely.
        Queries: `FRESH (d + 4)`."""
        sightings, views = self.sightings, self.views
        rng, d = sightings.probe.rng, sightings.d
        pool = self.pool(POOL)
        seen = Moves.of(self.layers, pool)
        free = (np.linalg.svd(seen.move, compute_uv=False) > 1e-3).sum(axis=1)
        W, b = np.array([one.weights for one in self.found]), np.array([one.bias for one in self.found])
        z = np.abs(seen.h @ W.T + b) / (1 + np.linalg.norm(seen.h, axis=1))[:, None]
        pool = pool[np.argsort(-(free + rng.random(POOL) - 100 * (z.min(axis=1) < CLEAR)))[:FRESH]]
        step = STEP * np.linalg.norm(pool, axis=1).mean() / np.sqrt(d)
        fresh = self.asked(pool, np.full(len(pool), step))
        some = rng.permutation(len(sightings.at))[:SOME]
        deeper = rng.permutation(len(views.which))[: SOME // 2]
        normals = np.zeros((len(deeper), sightings.probe.m, d))
        normals[:, 0] = views.normal[deeper]
        x = np.concatenate([sightings.at[some], sightings.x[views.which[deeper]]])
        vectors = np.concatenate([sightings.slope[some], normals])
        error = np.concatenate([sightings.doubt[some] * np.sqrt(d), views.error[deeper]])
        return fresh.joined(Sums.of(self.layers, self.found, x, vectors, error))


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


# A vector lies in a span up to this part of it, besides so many times its error; vectors known worse are left out.
IN_SPAN, SIGMAS, VAGUE = 1e-5, 100.0, 1e-7
# Singular values of unit normals below which they depend on each other; how close to a hyperplane nothing is told.
DEPENDENT, NEAR = 1e-6, 1e-7
# Active sets that are tried out at one place; those that are told of by so few; places that vote.
MOST_SETS, VOTES = 20_000, 150
ROUNDS, WORSE = 6, 2.0  # rounds of turning one neuron after the other; what a contradiction weighs beside an agreement


@dataclass(frozen=True)
class Sums:
    """Vectors that must be sums of the active neurons' normals: derivatives, and normals of deeper neurons."""

    x: Float[np.ndarray, "N d"]  # where
    seen: Moves  # what the layers before make of it
    vectors: Float[np.ndarray, "N m d"]  # of norm one, all m together
    error: Float[np.ndarray, " N"]  # of these
    z: Float[np.ndarray, "N K"]  # what the candidates see
    normals: Float[np.ndarray, "N K d"]  # their unit normals
    blind: Bool[np.ndarray, "N K"]  # which candidates have unknown weights for what is active there
    known: Bool[np.ndarray, "K k"]  # which weights are known

    @classmethod
    def of(
        cls,
        layers: list[AffineMap],
        found: list[Candidate],
        x: Float[np.ndarray, "N d"],
        vectors: Float[np.ndarray, "N m d"],
        error: Float[np.ndarray, " N"],
    ) -> Sums:
        """Of those vectors that are known well enough."""
        size = np.linalg.norm(vectors.reshape(len(x), -1), axis=1)
        seen = Moves.of(layers, x)
        good = np.flatnonzero((size > 0) & seen.on.any(axis=1) & (error < VAGUE * size))
        x, seen, size = x[good], Moves(*(each[good] for each in seen)), size[good]
        W, b, known = (np.array([getattr(one, name) for one in found]) for name in ("weights", "bias", "known"))
        normals = np.einsum("ki,nid->nkd", W, seen.move)
        length = np.linalg.norm(normals, axis=2, keepdims=True)
        normals = np.where(length > 1e-9, normals / np.maximum(length, 1e-300), 0)
        blind = (seen.on[:, None, :] & ~known[None]).any(axis=2)
        vectors = vectors[good] / size[:, None, None]
        return cls(x, seen, vectors, error[good] / size, seen.h @ W.T + b, normals, blind, known)

    def joined(self, more: Sums) -> Sums:
        """With other vectors for the same candidates."""
        seen = Moves(*(np.concatenate(pair) for pair in zip(self.seen, more.seen, strict=True)))
        of = [np.concatenate([getattr(each, name) for each in (self, more)]) for name in ("x", "vectors", "error", "z")]
        normals, blind = np.concatenate([self.normals, more.normals]), np.concatenate([self.blind, more.blind])
        x, vectors, error, z = of
        return Sums(x, seen, vectors, error, z, normals, blind, self.known)

    def veiled(self, use: Bool[np.ndarray, " K"]) -> Bool[np.ndarray, "N k"]:
        """Values before that unknown weights of the candidates in use may add to a sum."""
        return np.asarray(((self.seen.on[:, None, :] & ~self.known[None]) & use[None, :, None]).any(axis=1))

    def judged(self, side: Float[np.ndarray, " K"], use: Bool[np.ndarray, " K"]) -> tuple[np.ndarray, np.ndarray]:
        """Which vectors could contradict these candidates with these sides, and which of them do."""
        active = ((self.z * side > 0) | self.blind) & use
        parts = self.normals * active[:, :, None]
        if self.blind[:, use].any():
            parts = np.concatenate([parts, self.seen.move * self.veiled(use)[:, :, None]], axis=1)
        _, s, vt = np.linalg.svd(parts, full_matrices=False)
        spans = s > DEPENDENT
        share = np.einsum("nqd,nmd->nqm", vt, self.vectors) * spans[:, :, None]
        left = self.vectors - np.einsum("nqm,nqd->nmd", share, vt)
        off = np.linalg.norm(left.reshape(len(left), -1), axis=1) > IN_SPAN + SIGMAS * self.error
        near = np.abs(self.z) < NEAR * (1 + np.linalg.norm(self.seen.h, axis=1))[:, None]
        clear = ~(~self.blind & near & use).any(axis=1)
        tells = clear & (spans.sum(axis=1) < self.seen.rank)
        return tells, tells & off

    def score(self, side: Float[np.ndarray, " K"], use: Bool[np.ndarray, " K"]) -> float:
        """How much more vectors agree with these sides than contradict them."""
        tells, wrong = self.judged(side, use)
        return float(tells.sum() - (1 + WORSE) * wrong.sum())

    def active_set(self, i: int, use: Bool[np.ndarray, " K"]) -> Bool[np.ndarray, " K"] | None:
        """The smallest set of candidates that sum up to a vector; None if there are none, or several."""
        sure = use & ~self.blind[i]
        normals, vectors, rank = self.normals[i] * sure[:, None], self.vectors[i], int(self.seen.rank[i])
        veil = np.concatenate([self.normals[i][use & self.blind[i]], self.seen.move[i][self.veiled(use)[i]]])
        if len(veil):
            _, s, vt = np.linalg.svd(veil, full_matrices=False)
            hidden = vt[s > DEPENDENT]
            normals, vectors = normals - normals @ hidden.T @ hidden, vectors - vectors @ hidden.T @ hidden
            rank -= len(hidden)
            if np.linalg.norm(vectors) < 1e-3:
                return None
        which = _smallest(normals, vectors, rank, IN_SPAN + SIGMAS * self.error[i])
        return None if which is None else np.isin(np.arange(len(use)), which)

    def votes(self, use: Bool[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        """The sides that active sets speak for, where most can be told apart."""
        open_ = self.seen.rank - self.veiled(use).sum(axis=1) - (self.blind & use).sum(axis=1)
        lean = np.zeros(len(use))
        where = np.flatnonzero(open_ >= 3)
        for i in where[np.argsort(-open_[where], kind="stable")][:VOTES]:
            active = self.active_set(int(i), use)
            if active is not None:
                up = np.where(self.blind[i], 0, np.sign(self.z[i]))
                lean += np.where(active, up, -0.5 * up)
        return np.where(lean >= 0, 1.0, -1.0)

    def turned(
        self, use: Bool[np.ndarray, " K"], rng: np.random.Generator, side: Float[np.ndarray, " K"] | None = None
    ) -> Float[np.ndarray, " K"]:
        """The sides that fewest vectors contradict, by turning one neuron after the other, from some on."""

        side = self.votes(use) if side is None else side
        now = self.score(side, use)
        for _ in range(ROUNDS):
            before = now
            for i in rng.permutation(np.flatnonzero(use)):
                other = side.copy()
                other[i] *= -1
                then = self.score(other, use)
                if then > now:
                    side, now = other, then
            if now == before:
                break
        return side


@cache
def _sets(count: int, size: int) -> Int[np.ndarray, "T size"]:
    return np.array(list(combinations(range(count), size)), dtype=np.intp)


def _smallest(
    normals: Float[np.ndarray, "K d"], vectors: Float[np.ndarray, "m d"], rank: int, off: float
) -> Int[np.ndarray, " T"] | None:
    """The only smallest set of normals, fewer than the rank, whose span holds these vectors."""
    size = np.linalg.norm(normals, axis=1)
    alive = np.flatnonzero(size > IN_SPAN)
    A = normals[alive] / size[alive, None]
    G, c, whole = A @ A.T, A @ vectors.T, float((vectors**2).sum())
    for count in range(1, min(rank - 1, len(alive)) + 1):
        sets = _sets(len(alive), count)
        if len(sets) > MOST_SETS:
            return None
        gram = G[sets[:, :, None], sets[:, None, :]] + 1e-14 * np.eye(count)
        share = np.linalg.solve(gram, c[sets])
        left = whole - np.einsum("tij,tij->t", share, c[sets])
        good = []
        for t in np.flatnonzero(left < IN_SPAN)[:50]:
            B = A[sets[t]].T
            part = np.linalg.lstsq(B, vectors.T, rcond=None)[0]
            if np.linalg.norm(B @ part - vectors.T) < off:
                good.append((t, float(np.abs(part).max(axis=1).min())))
        if good:
            (t, least), *others = good
            return None if others or least < DEPENDENT else alive[sets[t]]
    return None
