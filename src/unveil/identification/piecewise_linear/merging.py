"""merge: critical points of one neuron, each telling its weights for the neurons active there, become all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.piecewise_linear.neuron import AGREES, Neuron, View

# Critical points whose normals are known worse than this begin no neuron.
VAGUE = 1e-4
# Singular values, relative to the largest, below which neurons active together are not told apart.
FAINT = 1e-5
# A critical point joins a neuron only if another neuron's would do so by chance less often than this.
CHANCE = 1e-6
# Critical points held against a neuron at once.
AT_ONCE = 32


def merge(views: list[View], before: list[Neuron], old: int = 0) -> list[Neuron]:
    """Neurons that explain these critical points, most points first; every point that could start one does.

    `before`: what came out for the first of them. `old`: how many these were: what they could start among themselves
    they have started.
    """
    if not views:
        return list(before)
    grow = _growth(views)
    out = [grow(neuron) for neuron in before]
    taken = {i for neuron in out for i in neuron.members}
    order = sorted(range(len(views)), key=lambda i: (-int(views[i].on.sum()), views[i].error))
    # What may be a neuron's already begins none with another.
    perhaps = {i for neuron in out for i in neuron.unclear}
    pairs = combinations([i for i in order if views[i].error < VAGUE and i not in perhaps], 2)
    for some in chain(((i,) for i in order), pairs):
        if max(some) < old:
            continue
        begun = (
            None if taken.intersection(some) else _start(views, some[0]) if len(some) == 1 else _start_from(views, some)
        )
        if begun is not None:
            out.append(grow(begun))
            taken.update(out[-1].members)
    # Of a neuron that only switches where fewer directions than values are left, only all of them together tell.
    left = tuple(i for i in order if views[i].error < VAGUE and i not in taken and i not in perhaps)
    if len(left) > 2 and max(left) >= old and (begun := _start_from(views, left)) is not None:
        out.append(grow(begun))
    # A neuron that another one has taken in.
    out.sort(key=lambda neuron: -len(neuron.members))
    whole: list[Neuron] = []
    for each in out:
        if not each.members or not any(set(each.members) <= set(other.members) for other in whole):
            whole.append(each)
    return whole


def solved(before: Float[np.ndarray, "q p"], known: Bool[np.ndarray, " k"]) -> Neuron:
    """The neuron with these known weights that solves equations for weights and bias, in units of their errors."""
    nothing = np.zeros((len(known) + 1, len(known) + 1))
    return _solved([], Neuron(np.zeros(len(known)), 0.0, known, (), nothing, before=before))[0]


def _start(views: list[View], i: int) -> Neuron | None:
    """The weights that one critical point tells alone: of the neurons active there, if not too many are."""
    v = views[i]
    active = v.move[v.on]
    if not 0 < len(active) <= len(v.normal) or v.error > VAGUE:
        return None
    s = np.linalg.svd(active, compute_uv=False)
    if s[-1] < FAINT:
        return None
    inverse = np.linalg.pinv(active.T)
    part = inverse @ v.normal
    if np.linalg.norm(active.T @ part - v.normal) > AGREES * v.error:
        return None
    size = float(np.linalg.norm(part))
    weights = np.zeros(len(v.h))
    weights[v.on] = part / size
    error = np.zeros((len(v.h) + 1, len(v.normal)))
    error[:-1][v.on] = v.error / size * inverse
    error[-1] = -v.h @ error[:-1]
    spread = error @ error.T
    spread[-1, -1] += (v.place * v.far) ** 2
    return Neuron(weights, -float(weights @ v.h), v.on, (i,), spread, key=i)


def _start_from(views: list[View], some: tuple[int, ...]) -> Neuron | None:
    """The weights that critical points tell together where each has more active neurons than directions."""
    known = np.any([views[i].on for i in some], axis=0)
    if sum(_equations(views[i]) for i in some) - int(known.sum()) < 2:
        return None
    k = len(known)
    neuron, worst, next_ = _solved(views, Neuron(np.zeros(k), 0.0, known, some, np.zeros((k + 1, k + 1)), key=some[0]))
    # Where neurons are parallel some weights of theirs make nothing of all inputs but few.
    least = AGREES * np.sqrt(k)
    return neuron if worst < least < next_ and next_ > 1e4 * worst else None


def _equations(v: View) -> int:
    """How many equations a critical point gives for the weights, up to their scale."""
    # Without biases every hyperplane goes through the origin: where it is says nothing about whose it is.
    return min(int(v.on.sum()), len(v.normal)) - v.through_origin


def _growth(views: list[View]) -> Callable[[Neuron], Neuron]:
    """What takes all critical points that agree into a neuron, those first that share most with what is known."""
    on, equations = np.array([v.on for v in views]), np.array([_equations(v) for v in views])
    ranks = np.array([len(v.normal) for v in views])
    told_by = _Told.of(views)

    def grow(neuron: Neuron) -> Neuron:
        refused, unclear = set(neuron.refused), set(neuron.unclear)
        while True:
            # Equations that each critical point has more than unknowns.
            unknown = (on & ~neuron.known).sum(axis=1)
            shared = equations - unknown
            shared[[*neuron.members, *refused, *unclear]] = 0
            ready = np.flatnonzero(shared > 0)
            ready = ready[np.lexsort((unknown[ready], ranks[ready], -shared[ready]))]
            alike = np.stack([shared[ready], ranks[ready], unknown[ready]], axis=1)
            ends = np.flatnonzero((np.diff(alike, axis=0) != 0).any(axis=1)) + 1
            joins: int | None = None
            for some in (part[i : i + AT_ONCE] for part in np.split(ready, ends) for i in range(0, len(part), AT_ONCE)):
                told = _fits(told_by.take(some, int(ranks[some[0]])), neuron, int(shared[some[0]]))
                joins = next((i for i, fits in zip(some.tolist(), told, strict=True) if fits), None)
                for i, fits in zip(some.tolist(), told, strict=True):
                    if i == joins:
                        break
                    (refused if fits is False else unclear).add(i)
                if joins is not None:
                    break
            if joins is None:
                return replace(neuron, refused=frozenset(refused), unclear=frozenset(unclear))
            unclear.clear()
            wider = replace(neuron, members=(*neuron.members, joins), known=neuron.known | views[joins].on)
            neuron = _solved(views, wider)[0]

    return grow


class _Told(NamedTuple):
    """What critical points tell, directions padded with zeros up to the most of any."""

    equations: Float[np.ndarray, "V q p"]
    normal: Float[np.ndarray, "V q"]
    on: Bool[np.ndarray, "V k"]
    error: Float[np.ndarray, " V"]
    place: Float[np.ndarray, " V"]

    @classmethod
    def of(cls, views: list[View]) -> _Told:
        """All of them; the equation of the place stands first."""
        most, k = max(len(v.normal) for v in views) + 1, len(views[0].on)
        equations, normal = np.zeros((len(views), most, k + 1)), np.zeros((len(views), most))
        for i, v in enumerate(views):
            r = len(v.normal)
            equations[i, : r + 1] = np.roll(v.equations, 1, axis=0)
            normal[i, 1 : r + 1] = v.normal
        error, place = np.array([v.error for v in views]), np.array([v.place for v in views])
        return cls(equations, normal, np.array([v.on for v in views]), error, place)

    def take(self, some: Int[np.ndarray, " S"], rank: int) -> _Told:
        """Some of them, all with so many directions."""
        equations, normal = self.equations[some, : rank + 1], self.normal[some, : rank + 1]
        return _Told(equations, normal, self.on[some], self.error[some], self.place[some])


def _fits(told: _Told, neuron: Neuron, shared: int) -> list[bool | None]:
    """Whether some weights for what is unknown make these points ones of the neuron's; None: that could be chance.

    `told`: by critical points with equally many directions and unknown weights. `neuron`: as far as it is known.
    `shared`: equations that each of them has more than unknowns.
    """
    new = np.nonzero(told.on & ~neuron.known)[1].reshape(len(told.on), -1)
    D = told.equations
    A = np.concatenate([np.take_along_axis(D, new[:, None, :], axis=2), -told.normal[:, :, None]], axis=2)
    rhs = -D @ np.append(neuron.weights, neuron.bias)
    # Errors of what is known, and of the normal, relative to how strongly the neuron moves there.
    noise = D @ neuron.spread @ D.transpose(0, 2, 1)
    seen = np.linalg.norm(rhs[:, 1:], axis=1) + 1e-3
    own = np.repeat((told.error * seen)[:, None], D.shape[1], axis=1)
    own[:, 0] = told.place
    noise[:, np.arange(D.shape[1]), np.arange(D.shape[1])] += own**2
    values, vectors = np.linalg.eigh(noise)
    sizes = np.sqrt(np.maximum(values, 1e-24))
    white = vectors.transpose(0, 2, 1) / sizes[:, :, None]
    firm = np.linalg.svd(A, compute_uv=False)[:, -1] >= 1e-4
    q = np.linalg.qr(white @ A)[0]
    left = (white @ rhs[:, :, None])[:, :, 0]
    left = left - (q @ (q.transpose(0, 2, 1) @ left[:, :, None]))[:, :, 0]
    agrees = np.linalg.norm(left, axis=1) <= AGREES * np.sqrt(rhs.shape[1])
    certain = np.prod(np.minimum(AGREES * sizes[:, -shared:], 1.0), axis=1) <= CHANCE
    return [
        None if not f else False if not a else True if c else None
        for f, a, c in zip(firm, agrees, certain, strict=True)
    ]


def _solved(views: list[View], neuron: Neuron) -> tuple[Neuron, float, float]:
    """All equations of all its critical points at once, each in units of its error.

    Returns the neuron, how badly the equations contradict each other, and how badly they would any other solution.
    """
    which = np.append(np.flatnonzero(neuron.known), len(neuron.known))
    rows = [] if neuron.before is None else [neuron.before[:, which]]
    for i in neuron.members:
        v = views[i]
        D = v.equations[:, which]
        D[:-1] -= np.outer(v.normal, v.normal @ D[:-1])
        seen = np.linalg.norm(v.move.T @ neuron.weights) + 1e-3 if neuron.weights.any() else 1.0
        rows.append(np.concatenate([D[:-1] / (v.error * seen), D[-1:] / v.place]))
    E = np.concatenate([*rows, np.zeros((1, len(which)))])
    scale = np.maximum(np.linalg.norm(E, axis=0), 1e-300)
    # Of the triangular factor: the same values and vectors, whatever the number of equations.
    _, s, vt = np.linalg.svd(np.linalg.qr(E / scale, mode="r"))
    theta = vt[-1] / scale
    size = float(np.linalg.norm(theta[:-1]))
    weights = np.zeros(len(neuron.known))
    weights[which[:-1]] = theta[:-1] / size
    # How far each direction but the solution's own can move before the equations notice.
    own = len(which) - 1
    loose = np.clip(vt[:own] / np.maximum(s[:own, None], 1e-9) / scale, -1, 1)
    spread = np.zeros((len(neuron.known) + 1,) * 2)
    spread[np.ix_(which, which)] = loose.T @ loose
    solved = replace(neuron, weights=weights, bias=float(theta[-1] / size), spread=spread)
    return solved, float(np.linalg.norm(E @ theta)) / size, float(s[-2] / np.linalg.norm(vt[-2] / scale))
