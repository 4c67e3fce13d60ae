"""Sums: derivatives are sums of the active neurons' normals: which neurons make up a layer, all of it; its signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import derivative, row_space
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import RANK, Moves, local, moved
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.sightings import Sightings, runs
from unveil.identification.piecewise_linear.sign_recovery import Sets, too_many


class Held(NamedTuple):
    """What of a vector neurons may leave that sum up to it, in units of its length."""

    part: float  # a part of it, for the errors of their weights
    sigmas: float  # and so many times its own error
    vague: float  # those with larger errors are left out
    telling: int  # so many must have been able to contradict
    apart: float  # smaller singular values of unit normals are no help in telling these apart
    few: float  # so many that call for a neuron would be expected where it is left out as none does


# By whether answers are exact.
HELD = {True: Held(1e-5, 100.0, 1e-7, 5, 1e-5, 0.0), False: Held(0.02, 3.0, 1e3, 20, 0.01, 2.0)}
# Singular values of unit normals below which they depend on each other; how close to a hyperplane nothing is told.
DEPENDENT_SINGULAR_VALUE, UNTOLD_NEAR_HYPERPLANE = 1e-6, 1e-7
APART = 100.0  # how much a share counts falls by this exponent with what of its normal the others have
LEAST_NEURON_SHARE = 1e-3  # a neuron with a smaller share than this has none
SIDE_DECIDING_VECTORS = 200  # vectors that decide about sides
# Vectors that are tried out for what they are sums of, at most, and sets of neurons for each.
MOST_VECTORS_TRIED, MOST_SETS = 20, 15_000
# Rounds of turning one neuron after the other; what a contradiction weighs beside an agreement.
TURNING_ROUNDS, WORSE = 6, 2.0
SUM_FIELDS = ("x", "vectors", "error", "z", "normals", "blind")  # what a sum has for each vector
STEP_REACH = 0.05  # how far steps for derivatives may be expected to stay in a region, relative to how far out it is


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
    held: Held = HELD[True]  # what neurons may leave of these

    @classmethod
    def of(
        cls,
        layers: Sequence[AffineMap],
        found: Sequence[Neuron],
        x: Float[np.ndarray, "N d"],
        vectors: Float[np.ndarray, "N m d"],
        error: Float[np.ndarray, " N"],
        held: Held = HELD[True],
    ) -> Sums:
        """Of those vectors that are known well enough. What one has along directions in which the layers before do not
        move is its error, whatever was expected."""
        h, move = moved(layers, x)
        _, s, vt = np.linalg.svd(move, full_matrices=False)
        top = np.maximum(s[:, :1], 1e-300)
        spans = vt * (s > RANK * top)[:, :, None]
        inside = (vectors @ spans.transpose(0, 2, 1)) @ spans
        size = np.linalg.norm(inside, axis=(1, 2))
        error = np.maximum(error, np.linalg.norm(vectors - inside, axis=(1, 2)))
        good = np.flatnonzero((size > 0) & (h > 0).any(axis=1) & (error < held.vague * size))
        seen = Moves(h[good], (move / top[:, :, None])[good], (s > RANK * top).sum(axis=1)[good])
        told = inside[good] / size[good, None, None], error[good] / size[good]
        return cls._of(found, x[good], seen, told, _values(found, seen.h), held)

    @classmethod
    def of_stations(
        cls, layers: Sequence[AffineMap], found: Sequence[Neuron], stations: Sequence[Station], held: Held
    ) -> Sums:
        """Of derivatives that were measured."""
        n, m = (layers[0][0].shape[1] if layers else len(found[0].weights)), 1
        if stations:
            m, n = stations[0].slope.shape
        x, slope = np.array([s.x for s in stations]), np.array([s.slope for s in stations])
        error = np.array([s.error for s in stations]) * np.sqrt(m * n)
        return cls.of(layers, found, x.reshape(-1, n), slope.reshape(-1, m, n), error, held)

    @classmethod
    def along(cls, layers: list[AffineMap], found: Sequence[Neuron], sightings: Sightings) -> Sums:
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
        good = np.flatnonzero((h > 0).any(axis=(1, 2)) & (error < HELD[True].vague))
        seen = Moves(h.max(axis=1)[good], joint[good], rank[good])
        return cls._of(found, x[good, 0], seen, (vectors[good], error[good]), z[good])

    @classmethod
    def _of(
        cls,
        found: Sequence[Neuron],
        x: Float[np.ndarray, "N d"],
        seen: Moves,
        told: tuple[Float[np.ndarray, "N m D"], Float[np.ndarray, " N"]],
        z: Float[np.ndarray, "N K"],
        held: Held = HELD[True],
    ) -> Sums:
        W, known = (np.array([getattr(one, name) for one in found]) for name in ("weights", "known"))
        normals = np.einsum("ki,nid->nkd", W, seen.move)
        length = np.linalg.norm(normals, axis=2, keepdims=True)
        normals = np.where(length > 1e-9, normals / np.maximum(length, 1e-300), 0)
        blind = (seen.on[:, None, :] & ~known[None]).any(axis=2)
        return cls(x, seen, *told, z, normals, blind, known, held)

    def joined(self, more: Sums) -> Sums:
        """With other vectors for the same candidates."""
        width = max(self.vectors.shape[2], more.vectors.shape[2])
        both = [each._widened(width) for each in (self, more)]
        of: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in both]) for name in SUM_FIELDS}
        seen = Moves(*(np.concatenate(pair) for pair in zip(both[0].seen, both[1].seen, strict=True)))
        return replace(self, seen=seen, **of)

    def among(self, which: slice | Bool[np.ndarray, " N"]) -> Sums:
        """With some of the vectors only."""
        of: dict[str, Any] = {name: getattr(self, name)[which] for name in SUM_FIELDS}
        return replace(self, seen=Moves(*(each[which] for each in self.seen)), **of)

    def _widened(self, width: int) -> Sums:
        """With zeros along further directions."""
        more = [(0, 0), (0, 0), (0, width - self.vectors.shape[2])]
        seen = self.seen._replace(move=np.pad(self.seen.move, more))
        return replace(self, seen=seen, vectors=np.pad(self.vectors, more), normals=np.pad(self.normals, more))

    def veiled(self, use: Bool[np.ndarray, " K"]) -> Bool[np.ndarray, "N k"]:
        """Values before that unknown weights of the candidates in use may add to a sum."""
        return np.asarray(((self.seen.on[:, None, :] & ~self.known[None]) & use[None, :, None]).any(axis=1))

    def judged(
        self, side: Float[np.ndarray, " K"] | None, use: Bool[np.ndarray, " K"]
    ) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """Which vectors could contradict these candidates with these sides, whatever they are if None, and which of
        them do."""
        parts = np.delete(self._parts(side, use), np.flatnonzero(~use), axis=1)
        _, s, vt = np.linalg.svd(parts, full_matrices=False)
        spans = s > DEPENDENT_SINGULAR_VALUE
        share = np.einsum("nqd,nmd->nqm", vt, self.vectors) * spans[:, :, None]
        left = self.vectors - np.einsum("nqm,nqd->nmd", share, vt)
        off = np.linalg.norm(left, axis=(1, 2)) > self.held.part + self.held.sigmas * self.error
        near = np.abs(self.z) < UNTOLD_NEAR_HYPERPLANE * (1 + np.linalg.norm(self.seen.h, axis=1))[:, None]
        clear = ~(~self.blind & near & use).any(axis=1)
        tells = clear & (spans.sum(axis=1) < self.seen.rank)
        return tells, tells & off

    def judged_with(
        self,
        i: int,
        side: Float[np.ndarray, " K"],
        use: Bool[np.ndarray, " K"],
        without: tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]],
    ) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """`judged`, of which candidate `i` is one, from what it told without that one: where it is not active nothing
        changes."""
        margin = UNTOLD_NEAR_HYPERPLANE * (1 + np.linalg.norm(self.seen.h, axis=1))
        there = self.blind[:, i] | (self.z[:, i] * side[i] > -margin)
        tells, wrong = (each.copy() for each in without)
        tells[there], wrong[there] = self.among(there).judged(side, use)
        return tells, wrong

    def score(self, side: Float[np.ndarray, " K"], use: Bool[np.ndarray, " K"]) -> float:
        """How much more vectors agree with these sides than contradict them."""
        tells, wrong = self.judged(side, use)
        return float(tells.sum() - (1 + WORSE) * wrong.sum())

    def calls(
        self, side: Float[np.ndarray, " K"], use: Bool[np.ndarray, " K"], which: Int[np.ndarray, " C"]
    ) -> tuple[Bool[np.ndarray, "N C"], Bool[np.ndarray, "N C"]]:
        """Which vectors call for each of some candidates, as they contradict the others without it, and which could."""
        tells, wrong = self.judged(side, use)
        active = (tells & ~wrong)[:, None] & (self.z[:, which] * side[which] > 0)
        parts, most = self._parts(side, use), self.held.part + self.held.sigmas * self.error
        u, s, vt = np.linalg.svd(parts, full_matrices=False)
        inverse = np.swapaxes(
            u * np.where(s > DEPENDENT_SINGULAR_VALUE, 1 / np.maximum(s, DEPENDENT_SINGULAR_VALUE), 0)[:, None] @ vt,
            1,
            2,
        )
        share = self.vectors @ inverse
        left = ((self.vectors - share @ parts) ** 2).sum(axis=(1, 2))
        # Of a normal 1 / |inverse| is its own; one that the others make up is not missed.
        own = np.einsum("nkd,ndk->nk", parts, inverse) > 1 - DEPENDENT_SINGULAR_VALUE
        gone = np.where(own, (share**2).sum(axis=1) / np.maximum((inverse**2).sum(axis=1), 1e-300), 0)[:, which]
        calls = active & (np.sqrt(left[:, None] + gone) > most[:, None])
        for c in np.flatnonzero(self.blind[:, which].any(axis=0)):
            # What its unknown weights may add is not there either.
            calls[:, c] = active[:, c] & self.judged(side, use & (np.arange(len(use)) != which[c]))[1]
        return calls, active

    def _parts(self, side: Float[np.ndarray, " K"] | None, use: Bool[np.ndarray, " K"]) -> Float[np.ndarray, "N P D"]:
        """What may be in each vector, zero where it is not: normals of these candidates with these sides, whatever they
        are if None, and behind them values before that unknown weights may add."""
        active = use if side is None else ((self.z * side > 0) | self.blind) & use
        parts = self.normals * np.broadcast_to(active, self.z.shape)[:, :, None]
        if self.blind[:, use].any():
            parts = np.concatenate([parts, self.seen.move * self.veiled(use)[:, :, None]], axis=1)
        return np.asarray(parts)

    def votes(self, use: Bool[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        """On which sides neurons have the larger share in vectors, or do not have none: the clearer the larger."""
        told = ~(self.blind & use).any(axis=1)
        parts, up = self.normals[told] * use[:, None], self.z[told] > 0
        inverse = np.linalg.pinv(parts, rcond=self.held.apart)
        # Where a normal is told apart from all others its share is its own: such places count. In the mean of
        # logarithms: a few large ones would decide a mean.
        share = np.log(np.maximum(((self.vectors[told] @ inverse) ** 2).sum(axis=1), self.held.part**2))
        weight = np.exp(APART * (np.einsum("nkd,ndk->nk", parts, inverse) - 1))
        less, more = (_mean(share, weight * on) for on in (~up, up))
        # On one side only there is a share in it where that is the active one.
        least = 2 * np.log(LEAST_NEURON_SHARE)
        less, more = np.where(up.all(axis=0), least, less), np.where((~up).all(axis=0), least, more)
        return np.asarray(more - less)

    def turned(
        self, use: Bool[np.ndarray, " K"], lean: Float[np.ndarray, " K"] | None = None
    ) -> Float[np.ndarray, " K"]:
        """The sides that fewest vectors contradict, by turning one neuron after the other, the least clear first, from
        what some lean to; None: from `votes`."""
        some = self.among(slice(None, None, max(1, len(self.x) // SIDE_DECIDING_VECTORS)))
        lean = some.votes(use) if lean is None else lean
        side = np.where(lean >= 0, 1.0, -1.0)
        now = some.score(side, use)
        for _ in range(TURNING_ROUNDS):
            before = now
            for i in np.argsort(np.abs(lean) + np.where(use, 0, np.inf), kind="stable")[: use.sum()]:
                other = side.copy()
                other[i] *= -1
                then = some.score(other, use)
                if then > now:
                    side, now = other, then
            if now == before:
                break
        return side

    def by_few(self, use: Bool[np.ndarray, " K"], rng: np.random.Generator) -> Float[np.ndarray, " K"]:
        """The sides by vectors that fewer neurons make up than there are directions: no other set of so few does.

        Those that two vectors tell, or else those that agree best with all of them; without any such vector what
        `turned` tells.
        """
        best = self.turned(use)
        most, tried = self.score(best, use), set[bytes]()
        told = np.flatnonzero(~(self.blind & use).any(axis=1) & (self.seen.rank > 1))
        for i in told[np.lexsort((self.error[told], -self.seen.rank[told]))]:
            pattern = (self.z[i] > 0)[use].tobytes()
            some = np.flatnonzero(use & (np.linalg.norm(self.normals[i], axis=1) > 0))
            if pattern in tried or not len(some) or too_many(len(some), int(self.seen.rank[i]), MOST_SETS):
                continue
            if len(tried) == MOST_VECTORS_TRIED:
                break
            tried.add(pattern)
            active = self._made_up_of(int(i), some, rng)
            if active is None:
                continue
            lean = np.zeros(len(use))
            lean[some] = np.where(active == (self.z[i, some] > 0), 1.0, -1.0)
            side = self.turned(use, lean)
            then = self.score(side, use)
            if then == most > 0 and (side == best)[use].all():
                break
            if then > most:
                best, most = side, then
        return best

    def _made_up_of(self, i: int, some: Int[np.ndarray, " S"], rng: np.random.Generator) -> np.ndarray | None:
        """Which of some neurons a vector is the sum of, if fewer than there are directions."""
        rank = int(self.seen.rank[i])
        basis = np.linalg.svd(self.seen.move[i], full_matrices=False)[2][:rank].T
        if len(some) + 1 < rank:
            # One direction more than normals is enough.
            basis = basis @ np.linalg.qr(rng.standard_normal((rank, len(some) + 1)))[0]
        rows, g = self.normals[i, some] @ basis, self.vectors[i] @ basis
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
        tolerance = self.held.part + self.held.sigmas * float(self.error[i])
        return Sets.of(rows).making_up(g / np.linalg.norm(g), tolerance, 10 * tolerance)

    def made_up(self, spare: Bool[np.ndarray, " K"], least: float) -> Chosen:
        """These neurons as a layer, if that is what they are, and their sides.

        `spare`: which are left out where no vector calls for them on either side, though some would of others. `least`:
        share of the vectors that must be sums of the active ones; where these are not even sums of all, sides are not
        looked for.
        """
        use = np.ones(len(spare), dtype=bool)
        side, (tells, wrong) = np.ones(len(spare)), self.judged(None, use)
        if wrong.sum() <= (1 - least) * tells.sum():
            side = self.turned(use)
            which = np.flatnonzero((use if self.held.few else spare) & spare.any())
            calls, active = self.calls(side, use, which)
            usual = _share(calls, active)
            for i in which[spare[which] & ~calls.any(axis=0)]:
                # On neither side; others that were left out since may have done its part.
                for turn in (1.0, -1.0):
                    turned = np.where(np.arange(len(side)) == i, turn * side, side)
                    calls, active = self.calls(turned, use, np.array([i]))
                    if calls.any() or usual @ active[:, 0] < self.held.few:
                        side = turned
                        break
                else:
                    use = use & (np.arange(len(use)) != i)
                    usual = _share(*self.calls(side, use, which[use[which]]))
            tells, wrong = self.judged(side, use)
        return Chosen(side, use, self.x[tells & ~wrong], self.x[wrong])


def _share(calls: Bool[np.ndarray, "N C"], active: Bool[np.ndarray, "N C"]) -> Float[np.ndarray, " N"]:
    """For each vector, the share of the active candidates that it calls for: where many are active, of none."""
    return np.asarray(calls.sum(axis=1) / np.maximum(active.sum(axis=1), 1))


class Chosen(NamedTuple):
    """Candidates taken for a layer."""

    side: Float[np.ndarray, " K"]  # +1 where positive is active, of all candidates
    use: Bool[np.ndarray, " K"]  # which are taken
    right: Float[np.ndarray, "R d"]  # where what they are could have been contradicted, and is not
    wrong: Float[np.ndarray, "W d"]  # where it is

    @property
    def telling(self) -> int:
        """How many places could have contradicted it."""
        return len(self.right) + len(self.wrong)

    def layer(self, found: Sequence[Neuron]) -> AffineMap:
        """Rows and biases of those taken, signs settled."""
        W, b = np.array([one.weights for one in found]), np.array([one.bias for one in found])
        return (W * self.side[:, None])[self.use], (b * self.side)[self.use]


def told(
    probe: Probe,
    layers: list[AffineMap],
    neurons: Sequence[Neuron],
    chosen: Chosen,
    pool: Float[np.ndarray, "N n"],
) -> list[Station]:
    """Derivatives that could contradict a layer, where those measured so far are too few for that. Queries: those of
    `derivatives` for each, along the r directions in which the layers before move."""
    (rows, bias), lack = chosen.layer(neurons), HELD[probe.noise.exact].telling - chosen.telling
    out = list[Station]()
    for x in pool:
        if lack <= 0:
            break
        h, J = local(layers, x)
        active = rows[rows @ h + bias > 0]
        if len(active) < J.any(axis=1).sum() and row_space(active @ J).shape[1] < np.linalg.matrix_rank(J):
            station = derivative(probe, layers, x, STEP_REACH * float(np.linalg.norm(x)))
            out += [] if station is None else [station]
            lack -= 1
    return out


def _mean(values: Float[np.ndarray, "N K"], weights: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    """Of each column."""
    return np.asarray((values * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-300))


def _values(found: Sequence[Neuron], h: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N K"]:
    """What candidates see."""
    W, b = (np.array([getattr(one, name) for one in found]) for name in ("weights", "bias"))
    return np.asarray(h @ W.T + b)
