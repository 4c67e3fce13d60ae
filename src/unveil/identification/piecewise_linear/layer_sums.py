"""Sums: derivatives are sums of the active neurons' normals, which tells what a layer is made of, and its signs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.layer_candidates import Candidate
from unveil.identification.piecewise_linear.partial_network import RANK, Moves, explained, moved
from unveil.identification.piecewise_linear.sightings import Sightings

# A vector lies in a span up to this part of it, besides so many times its error; vectors known worse are left out.
IN_SPAN, SIGMAS, VAGUE = 1e-5, 100.0, 1e-7
# Singular values of unit normals below which they depend on each other; how close to a hyperplane nothing is told.
DEPENDENT, NEAR = 1e-6, 1e-7
# Active sets that are tried out at one place; those that are told of by so few; places that vote.
MOST_SETS, VOTES = 20_000, 150
LONGEST = 6  # places of a line that are taken together at most
ROUNDS, WORSE = 6, 2.0  # rounds of turning one neuron after the other; what a contradiction weighs beside an agreement


@dataclass(frozen=True)
class Sums:
    """Vectors that must be sums of the active neurons' normals: derivatives, and normals of deeper neurons."""

    x: Float[np.ndarray, "N d"]  # where; of several places where the same are active, the first
    seen: Moves  # what the layers before make of it; of several places, of all together
    vectors: Float[np.ndarray, "N m D"]  # of norm one, all m together
    error: Float[np.ndarray, " N"]  # of these
    z: Float[np.ndarray, "N K"]  # what the candidates see
    normals: Float[np.ndarray, "N K D"]  # their unit normals
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
        vectors = vectors[good] / size[:, None, None]
        return cls._of(found, x, seen, (vectors, error[good] / size), _values(found, seen.h))

    @classmethod
    def along(cls, layers: list[AffineMap], found: list[Candidate], sightings: Sightings) -> Sums:
        """Of derivatives on lines, of all places together between which only neurons of the layers before switch.

        What is active behind these is the same there: one sum in what they see, of which every place shows a part.
        Where values move along few directions, hardly any place tells by itself.
        """
        run = runs(sightings, layers)
        x, slope = sightings.at[run], sightings.slope[run]
        (count, r, d), m = x.shape, slope.shape[2]
        h, move = moved(layers, x.reshape(-1, d))
        z = _values(found, h).reshape(count, r, -1)
        h, k = h.reshape(count, r, -1), h.shape[1]
        u, s, vt = np.linalg.svd(move.reshape(count, r, k, d).transpose(0, 2, 1, 3).reshape(count, k, r * d), False)
        top = np.maximum(s[:, :1], 1e-300)
        rank = (s > RANK * top).sum(axis=1)
        g = slope.transpose(0, 2, 1, 3).reshape(count, m, r * d)
        size = np.maximum(np.linalg.norm(g.reshape(count, -1), axis=1), 1e-300)
        # Along the directions of all places in which what is seen moves, and what is left beside them.
        inside = np.einsum("nmi,nqi->nmq", g, vt * (s > RANK * top)[:, :, None])
        left = np.linalg.norm(g - np.einsum("nmq,nqi->nmi", inside, vt), axis=2)
        vectors = np.concatenate([inside, left[:, :, None]], axis=2) / size[:, None, None]
        joint = np.concatenate([u * (s / top)[:, None, :], np.zeros((count, k, 1))], axis=2)
        error = np.linalg.norm(sightings.doubt[run], axis=1) * np.sqrt(d) / size
        nearest = np.take_along_axis(z, np.abs(z).argmin(axis=1)[:, None], axis=1)[:, 0]
        # One that is zero between them can be none of this layer.
        z = np.where((z > 0).all(axis=1) | (z < 0).all(axis=1), nearest, 0)
        good = np.flatnonzero((h > 0).any(axis=(1, 2)) & (error < VAGUE))
        seen = Moves(h.max(axis=1)[good], joint[good], rank[good])
        return cls._of(found, x[good, 0], seen, (vectors[good], error[good]), z[good])

    @classmethod
    def _of(
        cls,
        found: list[Candidate],
        x: Float[np.ndarray, "N d"],
        seen: Moves,
        told: tuple[Float[np.ndarray, "N m D"], Float[np.ndarray, " N"]],
        z: Float[np.ndarray, "N K"],
    ) -> Sums:
        W, known = (np.array([getattr(one, name) for one in found]) for name in ("weights", "known"))
        normals = np.einsum("ki,nid->nkd", W, seen.move)
        length = np.linalg.norm(normals, axis=2, keepdims=True)
        normals = np.where(length > 1e-9, normals / np.maximum(length, 1e-300), 0)
        blind = (seen.on[:, None, :] & ~known[None]).any(axis=2)
        return cls(x, seen, *told, z, normals, blind, known)

    def joined(self, more: Sums) -> Sums:
        """With other vectors for the same candidates."""
        width = max(self.vectors.shape[2], more.vectors.shape[2])
        both = [each._widened(width) for each in (self, more)]
        names = ("x", "vectors", "error", "z", "normals", "blind")
        of = {name: np.concatenate([getattr(each, name) for each in both]) for name in names}
        seen = Moves(*(np.concatenate(pair) for pair in zip(both[0].seen, both[1].seen, strict=True)))
        return Sums(seen=seen, known=self.known, **of)

    def _widened(self, width: int) -> Sums:
        """With zeros along further directions."""
        more = [(0, 0), (0, 0), (0, width - self.vectors.shape[2])]
        seen = self.seen._replace(move=np.pad(self.seen.move, more))
        return replace(self, seen=seen, vectors=np.pad(self.vectors, more), normals=np.pad(self.normals, more))

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


def _values(found: list[Candidate], h: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N K"]:
    """What candidates see."""
    W, b = (np.array([getattr(one, name) for one in found]) for name in ("weights", "bias"))
    return np.asarray(h @ W.T + b)


def runs(sightings: Sightings, layers: list[AffineMap]) -> Int[np.ndarray, "N LONGEST"]:
    """Places of derivatives between which no neuron behind these layers switches, the last one again where there are
    fewer: breakpoints between them are neurons' of the layers."""
    lines, piece = sightings.lines, sightings.piece
    sizes = [len(line.t) for line in lines]
    first = np.cumsum([0, *sizes])
    # How many breakpoints up to each one are others'.
    foreign = np.concatenate([[0], np.cumsum(~explained(layers, np.concatenate([line.points for line in lines])))])
    order = np.lexsort((piece[:, 1], piece[:, 0]))
    line, at = piece[order, 0], first[piece[order, 0]] + piece[order, 1]
    start = np.append(True, (line[1:] != line[:-1]) | (foreign[at[1:]] != foreign[at[:-1]]))
    out = []
    for some in np.split(order, np.flatnonzero(start)[1:]):
        for i in range(0, len(some), LONGEST):
            part = some[i : i + LONGEST]
            out.append(np.append(part, np.repeat(part[-1], LONGEST - len(part))))
    return np.array(out, dtype=int).reshape(-1, LONGEST)


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
