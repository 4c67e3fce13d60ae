"""fit: least squares on all parameters of a network, without a matrix of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg

from unveil.identification.fitting.measured import RIDGE, Inverse, Measured, Pairs, joined
from unveil.identification.fitting.robust import Robust
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer, Network

_ROWS = 4096  # points looked at together; fixed, so that the same points give the same bits
_LEFT = 0.03  # the conjugate gradients of one step end when what is left is this share of the start
# A fit ends with a step that gains less than this.
_GAIN = 1.02
_MOST, _MOST_DAMPED = 150, 60
STEPS = 12  # steps tried at most
_PATIENCE = 10  # conjugate gradients that must together make what is left smaller by `_GAIN`
_KEPT = 2**25  # numbers of former directions that are kept, twice (128 MB each)
_ENOUGH = 8192  # points from which the preconditioner is made, at most
# Damping at the start of a fit from afar, relative to the diagonal of J^T J; its least and largest, what a step that
# was right makes of it, one that had to be shortened, and one that was none.
DAMPING = 1e-2
_LEAST_DAMPING, _LARGEST_DAMPING = 1e-9, 1e6
_EASED, _SHORTENED, _REFUSED = 0.25, 2.0, 10.0
_UNFELT = 1e-6  # parameters that hardly any point feels are held as if they had this share of the mean diagonal

Factor = tuple[np.ndarray, bool]
# Inputs and slopes of every layer at some points, and the weights of the answers there.
Kept = tuple[list[np.ndarray], list[np.ndarray | None], np.ndarray]


class Fitted(NamedTuple):
    """A network after some steps."""

    network: Network  # the best one met
    rms: float  # root mean square of `network(x) - y`, each multiplied by what it counts, absolute
    damping: float  # where the next fit goes on
    products: int  # with the Jacobian and its transpose, of all steps


def fit(  # noqa: PLR0913 - tolerances of a fit, by name
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    *,
    noise: float = 0.0,
    first: int = 0,
    steps: int = STEPS,
    most: int | None = None,
    damping: float = 0.0,
    counts: Float[np.ndarray, "N m"] | float = 1.0,
    measured: Measured | None = None,
) -> Fitted:
    """Steps of least squares, each solved by conjugate gradients: Gauss-Newton, or damped ones where a network is not
    nearly right yet.

    Every product with the Jacobian is a pass through the network, so networks of hundreds of thousands of parameters
    fit. The preconditioner treats the inputs of a layer and what comes back to it as independent. `network`: where to
    start; without damping most neurons within a few hundredths of the truth. `x`: where the oracle was asked; half as
    many answers again as parameters at least. `first`: the first layer that moves. `steps`: steps tried at most.
    `most`: conjugate gradients per step at most. `damping`: relative to the diagonal of J^T J. `counts`: what the error
    of each answer is multiplied by. `measured`: what was measured of the layers that move: what few answers tell stays
    within the errors of that. Queries: `0`; the answers are given. Source: the preconditioner is the Kronecker
    factorisation of Martens and Grosse, ICML 2015 (arXiv:1503.05671), damped as there; Marquardt (1963).
    """
    most = most or (_MOST_DAMPED if damping else _MOST)
    weights, kinds = taken_apart(network)
    counts = np.broadcast_to(counts, y.shape)

    def squares(trial: Pairs) -> Float[np.ndarray, " N"]:
        """Mean square error of each answer."""
        out = np.empty(len(x))
        for part in parts(len(x)):
            with np.errstate(over="ignore", invalid="ignore"):  # a step into nowhere is refused
                wrong = forward(trial, kinds, x[part])[0][-1] - y[part]
                out[part] = ((counts[part] * wrong) ** 2).mean(axis=1)
        return out

    def costs(trial: Pairs, answers: float) -> float:
        """What a step lessens, of these weights. `answers`: root of the mean loss of the answers there."""
        if measured is None:
            return answers
        return float(np.hypot(answers, robust.cost * np.sqrt(measured.squares(trial[first:]) / y.size)))

    robust, products = Robust.at(squares(weights)), 0
    for _ in range(steps):
        if robust.rms <= 1.2 * noise or damping > _LARGEST_DAMPING:
            break
        weight = robust.weight[:, None] * counts**2
        step, taken = _step(
            weights, kinds, x, y, first, weight, damping, most, 0.0 if damping else noise, measured=measured
        )
        products += taken
        begun = costs(weights, robust.cost)
        # The longest of four parts of the step that costs less.
        for part in (1, 1 / 4, 1 / 16, 1 / 64):
            trial = [(w + part * dw, b + part * db) for (w, b), (dw, db) in zip(weights, step, strict=True)]
            there = squares(trial)
            if costs(trial, robust.costs(there)) < begun:
                break
        else:
            if not damping:
                break
            damping *= _REFUSED
            continue
        weights, before, robust = trial, robust, Robust.at(there)
        if damping:
            damping = max(damping * (_EASED if part == 1 else _SHORTENED), _LEAST_DAMPING)
        elif before.cost < _GAIN * before.costs(there) and before.bound < _GAIN * robust.bound:
            # Where few answers are far off most of the cost is theirs.
            break
    layers = [Layer(w, b, kind) for (w, b), kind in zip(weights, kinds, strict=True)]
    return Fitted(Network(tuple(layers), network.shape), robust.rms, min(damping, _LARGEST_DAMPING), products)


def taken_apart(network: Network) -> tuple[Pairs, list[Activation]]:
    """Weights and biases of its layers, and their activations."""
    weights = [(np.array(layer.dense()), layer.bias.copy()) for layer in network.layers]
    return weights, [layer.activation for layer in network.layers]


def parts(count: int) -> Iterator[slice]:
    """Of so many points those looked at together."""
    for start in range(0, count, _ROWS):
        yield slice(start, min(start + _ROWS, count))


def forward(
    weights: Pairs, kinds: Sequence[Activation], x: Float[np.ndarray, "N n"]
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Inputs of all layers and the answers; slopes of the activations of all layers, None of one that is linear."""
    values, slopes = [x], list[np.ndarray | None]()
    for (w, b), kind in zip(weights, kinds, strict=True):
        z = values[-1] @ w.T + b
        if kind.name == "relu":
            values.append(np.maximum(z, 0, out=z))
            slopes.append(values[-1] > 0)
        elif kind.name == "identity":
            values.append(z)
            slopes.append(None)
        else:
            values.append(kind.value(z))
            slopes.append(kind.slope(z))
    return values, slopes


def _felt(
    back: Float[np.ndarray, "N k"], slope: Float[np.ndarray, "N k"] | Bool[np.ndarray, "N k"] | None
) -> Float[np.ndarray, "N k"]:
    return back if slope is None else back * slope


def back(
    weights: Pairs,
    slopes: Sequence[Float[np.ndarray, "N _"] | Bool[np.ndarray, "N _"] | None],
    r: Float[np.ndarray, "N m"],
    first: int,
) -> list[Float[np.ndarray, "N _"]]:
    """What comes back to the sums of every layer from `first` on, last layer first."""
    out = [_felt(r, slopes[-1])]
    for i in range(len(weights) - 1, first, -1):
        out.append(_felt(out[-1] @ weights[i][0], slopes[i - 1]))
    return out


def _step(  # noqa: PLR0913 - one step with the state of the fit
    weights: Pairs,
    kinds: Sequence[Activation],
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    first: int,
    weight: Float[np.ndarray, "N _"],
    damping: float = 0.0,
    most: int = _MOST,
    noise: float = 0.0,
    measured: Measured | None = None,
) -> tuple[Pairs, int]:
    """One (damped) Gauss-Newton step by preconditioned conjugate gradients on the normal equations, and how many. They
    end early where as much is explained as `noise` leaves, or, undamped, where further ones explain no more."""
    moving = range(first, len(weights))
    gradient = [np.zeros((len(b), w.shape[1] + 1)) for w, b in (weights[i] for i in moving)]
    inputs = [np.zeros((w.shape[1] + 1, w.shape[1] + 1)) for w, _ in (weights[i] for i in moving)]
    backs = [np.zeros((len(b), len(b))) for _, b in (weights[i] for i in moving)]
    diagonal = [np.zeros_like(g) for g in gradient]
    kept: list[Kept] = []
    cost = 0.0
    for part in parts(len(x)):
        values, slopes = forward(weights, kinds, x[part])
        wrong = y[part] - values[-1]
        cost += float(np.vdot(weight[part] * wrong, wrong))
        _add_gradient(gradient, weights, values, slopes, weight[part] * wrong, first)
        # Half the digits are plenty for a step that is corrected by the next one.
        half = [v.astype(np.float32) for v in values[first:-1]]
        kept.append((half, [_single(s) for s in slopes[first:]], weight[part].astype(np.float32)))
        if part.start >= _ENOUGH:
            continue
        for i in moving:
            h = with_one(values[i])
            inputs[i - first] += h.T @ h / min(len(x), _ENOUGH)
        for out in np.eye(y.shape[1]):
            each = back(weights, slopes, np.broadcast_to(out, (len(values[0]), len(out))), first)
            for i, g in zip(reversed(moving), each, strict=True):
                backs[i - first] += g.T @ g * max(1.0, len(x) / _ENOUGH)
                if damping:
                    diagonal[i - first] += (g**2).T @ with_one(values[i]) ** 2 * max(1.0, len(x) / _ENOUGH)
    single = [w.astype(np.float32) for w, _ in weights]
    held = [damping * np.maximum(d, _UNFELT * max(float(d.mean()), 1e-300)) for d in diagonal]
    solvers: Sequence[_Factors | Inverse]
    if measured is not None:
        pull = [cost / y.size * each for each in measured.precision]
        now = [joined(*weights[i]) for i in moving]
        gradient = [g + p * (v - w) for g, p, v, w in zip(gradient, pull, measured.values, now, strict=True)]
        held = [h + p for h, p in zip(held, pull, strict=True)]
        solvers = [Inverse.of(a, b, p[:, :-1].mean(axis=1)) for a, b, p in zip(inputs, backs, pull, strict=True)]
    else:
        solvers = [_Factors(factor(a, damping), factor(b, damping)) for a, b in zip(inputs, backs, strict=True)]

    solution, taken = _solved(
        gradient,
        lambda r: [solver(each) for solver, each in zip(solvers, r, strict=True)],
        lambda p: [a + d * each for a, d, each in zip(_normal_times(single[first:], kept, p), held, p, strict=True)],
        most,
        cost,
        noise**2 * y.size,
        patient=damping > 0,
    )
    still = [(np.zeros_like(w), np.zeros_like(b)) for w, b in weights[:first]]
    return still + [(s[:, :-1], s[:, -1]) for s in solution], taken


def _solved(  # noqa: PLR0913 - one solution, by name
    gradient: list[Float[np.ndarray, "_ _"]],
    precondition: Callable[[list[Float[np.ndarray, "_ _"]]], list[Float[np.ndarray, "_ _"]]],
    times: Callable[[list[Float[np.ndarray, "_ _"]]], list[Float[np.ndarray, "_ _"]]],
    most: int,
    cost: float,
    enough: float,
    *,
    patient: bool,
) -> tuple[list[Float[np.ndarray, "_ _"]], int]:
    """The solution of the normal equations by preconditioned conjugate gradients, `most` of them, and how many. `cost`:
    the sum of squares where they begin. `enough`: what may be left of it. `patient`: whether those that explain no more
    go on."""
    solution = [np.zeros_like(g) for g in gradient]
    r = gradient
    z = precondition(r)
    conjugate = Conjugate(sum(g.size for g in gradient), most)
    p, rz = z, dot(r, z)
    start, taken, left = rz, 0, [cost]
    while taken < most:
        if rz <= _LEFT**2 * start or rz <= 0 or left[-1] <= enough:
            break
        if not patient and taken >= _PATIENCE and left[-1 - _PATIENCE] < _GAIN * left[-1]:
            break
        taken += 1
        q = times(p)
        conjugate.keep(p, q)
        alpha = dot(p, r) / max(dot(p, q), 1e-300)
        left.append(left[-1] - alpha * dot(p, r))
        solution = [s + alpha * d for s, d in zip(solution, p, strict=True)]
        r = [a - alpha * b for a, b in zip(r, q, strict=True)]
        z = precondition(r)
        rz = dot(r, z)
        p = conjugate.to_all(z)
    return solution, taken


class _Factors(NamedTuple):
    """The inverse of the Kronecker product of two matrices, factored."""

    a: Factor  # of inputs
    b: Factor  # of what comes back

    def __call__(self, r: Float[np.ndarray, "k q"]) -> Float[np.ndarray, "k q"]:
        return np.asarray(linalg.cho_solve(self.b, linalg.cho_solve(self.a, r.T).T))


def _single(
    slope: Float[np.ndarray, "N k"] | Bool[np.ndarray, "N k"] | None,
) -> Float[np.ndarray, "N k"] | Bool[np.ndarray, "N k"] | None:
    return slope if slope is None or slope.dtype == bool else slope.astype(np.float32)


def _normal_times(
    weights: list[Float[np.ndarray, "_ _"]], kept: list[Kept], p: Sequence[Float[np.ndarray, "_ _"]]
) -> list[Float[np.ndarray, "_ _"]]:
    """`J^T J p`, weighted: forwards along a change of the parameters, and back."""
    out = [np.zeros_like(each) for each in p]
    step = [each.astype(np.float32) for each in p]
    last = len(weights) - 1
    for values, slopes, weight in kept:
        change = np.zeros((0, 0), dtype=np.float32)
        for i in range(last + 1):
            moved = values[i] @ step[i][:, :-1].T + step[i][:, -1]
            if i:
                moved += change @ weights[i].T
            change = _felt(moved, slopes[i])
        change = _felt(weight * change, slopes[last])
        for i in range(last, -1, -1):
            out[i][:, :-1] += change.T @ values[i]
            out[i][:, -1] += change.sum(axis=0)
            if i:
                change = _felt(change @ weights[i], slopes[i - 1])
    return out


def _add_gradient(
    out: list[Float[np.ndarray, "_ _"]],
    weights: Pairs,
    values: list[Float[np.ndarray, "N _"]],
    slopes: Sequence[Float[np.ndarray, "N _"] | Bool[np.ndarray, "N _"] | None],
    r: Float[np.ndarray, "N m"],
    first: int,
) -> None:
    for i, g in zip(range(len(weights) - 1, first - 1, -1), back(weights, slopes, r, first), strict=True):
        out[i - first][:, :-1] += g.T @ values[i]
        out[i - first][:, -1] += g.sum(axis=0)


def with_one(h: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N k1"]:
    """With what the bias multiplies."""
    return np.concatenate([h, np.ones((len(h), 1))], axis=1)


def factor(a: Float[np.ndarray, "k k"], damping: float = 0.0) -> Factor:
    """As `scipy.linalg.cho_factor`, with a ridge."""
    a = a.copy()
    at = np.diag_indices_from(a)
    # The product of both factors' damping is that of the normal equations, up to what is mixed.
    a[at] += RIDGE * max(float(np.diag(a).mean()), 1e-300) + np.sqrt(damping) * np.diag(a)
    triangle, lower = linalg.cho_factor(a)
    return np.asarray(triangle), bool(lower)


class Conjugate:
    """Directions of one step and their products, in single precision, to which each further one is made conjugate.

    By the last one alone, as in exact arithmetic would do, they come back to each other: of an ill-conditioned step in
    single precision that takes twice as many products. `size`: parameters. `most`: directions that are kept, or as many
    as `_KEPT` numbers hold.
    """

    def __init__(self, size: int, most: int) -> None:
        most = max(1, min(most, _KEPT // size))
        self._directions, self._products = (np.empty((most, size), dtype=np.float32) for _ in range(2))
        self._count = 0

    def keep(self, p: Sequence[Float[np.ndarray, "_ _"]], q: Sequence[Float[np.ndarray, "_ _"]]) -> None:
        curved, size = dot(p, q), np.sqrt(dot(p, p))
        if curved <= 0 or size == 0:
            return
        at = self._count % len(self._directions)
        for out, each, scale in ((self._directions[at], p, 1 / size), (self._products[at], q, size / curved)):
            np.multiply(np.concatenate([a.ravel() for a in each]), scale, out=out, casting="same_kind")
        self._count += 1

    def to_all(self, z: Sequence[Float[np.ndarray, "_ _"]]) -> list[Float[np.ndarray, "_ _"]]:
        """z without what is not conjugate to the directions kept."""
        kept = min(self._count, len(self._directions))
        whole = np.concatenate([a.ravel() for a in z])
        whole -= (self._products[:kept] @ whole.astype(np.float32)) @ self._directions[:kept]
        each = np.split(whole, np.cumsum([a.size for a in z])[:-1])
        return [part.reshape(a.shape) for part, a in zip(each, z, strict=True)]


def dot(a: Sequence[Float[np.ndarray, "_ _"]], b: Sequence[Float[np.ndarray, "_ _"]]) -> float:
    """Sum of the products of all entries."""
    return float(sum(np.vdot(u, v) for u, v in zip(a, b, strict=True)))
