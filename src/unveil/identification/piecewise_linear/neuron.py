"""merge: critical points of one neuron, each telling its weights for the neurons active there, become all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import after
from unveil.identification.piecewise_linear.critical_point import (
    CriticalPoint,
    Layer,
    along_line,
    local,
    met,
    zeros,
)

# Besides its own error, that of a critical point's normal is this many times the error of the rows read before.
NORMAL = 3.0
# Critical points whose normals are known worse than this begin no neuron.
VAGUE = 1e-4
# A critical point agrees when its equations hold to this many standard deviations.
AGREES = 20.0
# One minus the cosine of what two critical points tell of the same neuron.
SAME = 1e-12
# A critical point joins a neuron only if another neuron's would do so by chance less often than this.
CHANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Neuron:
    """A neuron `weights . h + bias`, up to sign, as far as it is known.

    Attributes:
        weights: (k,) of unit norm, zero where unknown.
        bias: Its bias.
        known: (k,) which weights are known.
        members: Critical points it was merged from.
        spread: (k + 1, k + 1) covariance of the errors of weights and bias.
        before: (q, k + 1) what was known of it without any critical point, as equations in units of their errors.
        refused: Critical points that contradict it.
        unclear: Critical points that agree with what is known of it now, but could do so by chance.
        key: Which of a layer's neurons this is, however much of it is known: the first critical point it was merged
            from, negative if it was read in another way.
    """

    weights: Float[np.ndarray, " k"]
    bias: float
    known: Bool[np.ndarray, " k"]
    members: tuple[int, ...]
    spread: Float[np.ndarray, "q q"]
    before: Float[np.ndarray, "q p"] | None = None
    refused: frozenset[int] = frozenset()
    unclear: frozenset[int] = frozenset()
    key: int = -1

    @classmethod
    def given(cls, row: Float[np.ndarray, " k"], bias: float, error: float, key: int = -1) -> Neuron:
        """A neuron read in another way, whole."""
        theta = np.append(row, bias)
        across = np.eye(len(theta)) - np.outer(theta, theta) / (theta @ theta)
        spread = error**2 * np.eye(len(theta))
        return cls(row, bias, np.ones(len(row), dtype=bool), (), spread, before=across / error, key=key)

    @property
    def readings(self) -> int:
        """How many independent readings it rests on."""
        return len(self.members) + (self.before is not None)

    def wider(self) -> Neuron:
        """The same neuron behind a layer that has one neuron more: its weight for that is unknown."""
        k = len(self.weights)
        spread = np.insert(np.insert(self.spread, k, 0, axis=0), k, 0, axis=1)
        before = None if self.before is None else np.insert(self.before, k, 0, axis=1)
        known = np.append(self.known, False)
        return Neuron(np.append(self.weights, 0), self.bias, known, (), spread, before, key=self.key)

    def doubt(self, h: Float[np.ndarray, " k"]) -> float:
        """Standard deviation of `weights . h + bias`, as far as the weights are known."""
        at = np.append(h, 1.0)
        return float(np.sqrt(max(at @ self.spread @ at, 0.0)))


@dataclass(frozen=True)
class View:
    """A critical point behind the layers read: `move.T @ weights` is parallel to `normal`, `h . weights + bias` 0."""

    h: Float[np.ndarray, " k"]
    move: Float[np.ndarray, "k r"]
    on: Bool[np.ndarray, " k"]
    normal: Float[np.ndarray, " r"]
    error: float
    place: float
    through_origin: bool

    @classmethod
    def of(cls, layers: list[Layer], seen: CriticalPoint, error: float) -> View:
        """Through these layers, whose rows have this error."""
        h, J = local(layers, seen.x)
        move = J @ seen.span
        on = h > 0
        size = np.linalg.norm(move, 2) if on.any() else 1.0
        far = abs(float(seen.normal @ (seen.span.T @ seen.x)))
        through_origin = far < 1e-6 * (1 + float(np.linalg.norm(seen.x)))
        return cls(h, move / size, on, seen.normal, seen.error + NORMAL * error, error, through_origin)

    @property
    def far(self) -> float:
        return 1 + float(np.linalg.norm(self.h))

    @property
    def equations(self) -> Float[np.ndarray, "q p"]:
        """What is `(scale * normal, 0)` for weights and bias."""
        k, r = self.move.shape
        D = np.zeros((r + 1, k + 1))
        D[:r, :k], D[r, :k], D[r, k] = self.move.T, self.h / self.far, 1 / self.far
        return D


def merge(views: list[View], before: list[Neuron]) -> list[Neuron]:
    """Neurons that explain these critical points, most points first; every point that could start one does.

    Args:
        views: All critical points.
        before: What came out for the first of them.
    """
    if not views:
        return list(before)
    grow = _growth(views)
    out = [grow(neuron) for neuron in before]
    taken = {i for neuron in out for i in neuron.members}
    order = sorted(range(len(views)), key=lambda i: (-int(views[i].on.sum()), views[i].error))
    starts = chain(((i,) for i in order), combinations([i for i in order if views[i].error < VAGUE], 2))
    for some in starts:
        begun = (
            None if taken.intersection(some) else _start(views, some[0]) if len(some) == 1 else _start_from(views, some)
        )
        if begun is not None:
            out.append(grow(begun))
            taken.update(out[-1].members)
    # A neuron that another one has taken in.
    out.sort(key=lambda neuron: -len(neuron.members))
    whole: list[Neuron] = []
    for each in out:
        if not each.members or not any(set(each.members) <= set(other.members) for other in whole):
            whole.append(each)
    return whole


def grown(views: list[View], neuron: Neuron) -> Neuron:
    """One neuron with all critical points that agree."""
    return _growth(views)(neuron) if views else neuron


def _start(views: list[View], i: int) -> Neuron | None:
    """The weights that one critical point tells alone: of the neurons active there, if not too many are."""
    v = views[i]
    active = v.move[v.on]
    if not 0 < len(active) <= len(v.normal) or v.error > VAGUE:
        return None
    s = np.linalg.svd(active, compute_uv=False)
    if s[-1] < 1e-4:
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
    return neuron if worst < AGREES * np.sqrt(k) and next_ > 1e4 * worst else None


def _equations(v: View) -> int:
    """How many equations a critical point gives for the weights, up to their scale."""
    # Without biases every hyperplane goes through the origin: where it is says nothing about whose it is.
    return min(int(v.on.sum()), len(v.normal)) - v.through_origin


def _growth(views: list[View]) -> Callable[[Neuron], Neuron]:
    """What takes all critical points that agree into a neuron, those first that share most with what is known."""
    on, equations = np.array([v.on for v in views]), np.array([_equations(v) for v in views])

    def grow(neuron: Neuron) -> Neuron:
        refused, unclear = set(neuron.refused), set(neuron.unclear)
        while True:
            # Equations that each critical point has more than unknowns.
            shared = equations - (on & ~neuron.known).sum(axis=1)
            shared[[*neuron.members, *refused, *unclear]] = 0
            joins: int | None = None
            for i in np.argsort(-shared, kind="stable").tolist():
                if shared[i] < 1:
                    break
                fits = _fits(views[i], neuron, int(shared[i]))
                if fits:
                    joins = i
                    break
                (refused if fits is False else unclear).add(i)
            if joins is None:
                return replace(neuron, refused=frozenset(refused), unclear=frozenset(unclear))
            unclear.clear()
            wider = replace(neuron, members=(*neuron.members, joins), known=neuron.known | views[joins].on)
            neuron = _solved(views, wider)[0]

    return grow


def _fits(v: View, neuron: Neuron, shared: int) -> bool | None:
    """Whether some weights for what is unknown make this point one of the neuron's; None: that could be chance."""
    new = np.flatnonzero(v.on & ~neuron.known)
    D = v.equations
    A = np.concatenate([D[:, new], -np.append(v.normal, 0.0)[:, None]], axis=1)
    rhs = -D @ np.append(neuron.weights, neuron.bias)
    # Errors of what is known, and of the normal, relative to how strongly the neuron moves there.
    noise = D @ neuron.spread @ D.T
    seen = float(np.linalg.norm(rhs[:-1])) + 1e-3
    noise[np.diag_indices_from(noise)] += np.append(np.full(len(v.normal), v.error * seen), v.place) ** 2
    values, vectors = np.linalg.eigh(noise)
    sizes = np.sqrt(np.maximum(values, 1e-24))
    white = vectors.T / sizes[:, None]
    if np.linalg.svd(A, compute_uv=False)[-1] < 1e-4:
        return None
    solution = np.linalg.lstsq(white @ A, white @ rhs, rcond=None)[0]
    if float(np.linalg.norm(white @ (A @ solution - rhs))) > AGREES * np.sqrt(len(rhs)):
        return False
    return True if np.prod(np.minimum(AGREES * sizes[-shared:], 1.0)) <= CHANCE else None


def _solved(views: list[View], neuron: Neuron) -> tuple[Neuron, float, float]:
    """All equations of all its critical points at once, each in units of its error.

    Returns:
        The neuron, how badly the equations contradict each other, and how badly they would any other solution.
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
    _, s, vt = np.linalg.svd(E / scale)
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


def distinct(alone: list[Neuron], others: list[Neuron]) -> list[Neuron]:
    """Those that are not another neuron again: no other has the same hyperplane as far as their weights are known."""
    out: list[Neuron] = []
    for n in alone:
        mine = np.append(n.weights[n.known], n.bias)
        for other in (*others, *out):
            theirs = np.append(other.weights[n.known], other.bias)
            size = np.linalg.norm(mine) * np.linalg.norm(theirs)
            if other.known[n.known].all() and abs(mine @ theirs) > (1 - SAME) * size:
                break
        else:
            out.append(n)
    return out


def expected(
    layers: list[Layer], neurons: list[Neuron], line: Line
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"], np.ndarray]:
    """Where on a line these neurons must bend the answers: only where all they see is known.

    Returns:
        Places, how far off they may be, and whose they are.
    """
    t, h = along_line(layers, line)
    z = h @ np.array([n.weights for n in neurons]).T + np.array([n.bias for n in neurons])
    at, piece, which = zeros(t, z)
    known = np.array([n.known for n in neurons])[which]
    sure = ~((np.maximum(h[piece], h[piece + 1]) > 0) & ~known).any(axis=1)
    at, piece, which = at[sure], piece[sure], which[sure]
    rate = np.abs(z[piece + 1, which] - z[piece, which]) / (t[piece + 1] - t[piece])
    doubt = [neurons[i].doubt(np.maximum(h[p], h[p + 1])) for i, p in zip(which, piece, strict=True)]
    return at, AGREES * np.array(doubt) / np.maximum(rate, 1e-300), which


class Confirmed(NamedTuple):
    """How often each neuron should have been met on the lines searched, how often it was, and in how many settings.

    A setting is which of the others are active: while it stays, a neuron of a deeper layer goes on straight, too.
    """

    should: Int[np.ndarray, " N"]
    were: Int[np.ndarray, " N"]
    settings: Int[np.ndarray, " N"]


def confirmed(layers: list[Layer], neurons: list[Neuron], lines: Sequence[Line]) -> Confirmed:
    """How often each of these neurons was met on these lines, of all times that it should have been."""
    should, were = np.zeros(len(neurons), dtype=int), np.zeros(len(neurons), dtype=int)
    settings: list[set[bytes]] = [set() for _ in neurons]
    firm = [i for i, n in enumerate(neurons) if n.known.all() and n.readings > 1]
    rows, bias = np.array([neurons[i].weights for i in firm]), np.array([neurons[i].bias for i in firm])
    for line in lines if neurons else ():
        at, doubt, which = expected(layers, neurons, line)
        seen = met(line, at, doubt).any(axis=0)
        np.add.at(should, which, 1)
        np.add.at(were, which[seen], 1)
        if firm:
            on = after(layers, line.inputs(at)) @ rows.T + bias > 0
            on &= which[:, None] != np.array(firm)
            for i, others in zip(which[seen], on[seen], strict=True):
                settings[i].add(np.packbits(others).tobytes())
    return Confirmed(should, were, np.array([len(each) for each in settings], dtype=int))
