"""The output layer behind the last hidden one, by least squares on answers already paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import intact
from unveil.identification.fitting.balance import but_for_one, by_balance
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network

# Weights and bias of one layer.
AffineMap = tuple[np.ndarray, np.ndarray]
Weights = list[AffineMap]
# Besides ten per unknown, so many answers, spread over all, are fitted; the others are only looked at.
OUTPUT_FIT_ANSWERS = 2000
EVERYTHING = 1 << 40  # numbers of questions of which answers are kept that a fit is made to
FAINT_OUTPUT_WEIGHT = 1e-7  # neurons with an output weight this small, relative to the largest, are none
BALANCE = 1e-5  # how well the sides must explain the affine part of a fit, relative to its largest share
# Share of the squares that stabilizes normal equations; rounds at most, a gain of one so small that it is the last, and
# rounds then to all digits.
OUTPUT_FIT_RIDGE = 1e-15
OUTPUT_FIT_ROUNDS, OUTPUT_FIT_LAST_GAIN, LAST = 40, 1e-5, 3
UNEVEN = 10.0  # answers whose rounding is so many times that of the usual one are not fitted
LEAST_SHARE_EXPLAINED = 0.6  # a fit that explains fewer of the answers says nothing about the others
AS_MANY = 0.99  # of the answers explained with an affine part beside the neurons, so many must be without it as well


@dataclass
class Asked:
    """Asks, and keeps small batches for the fits at the end, where an answer already paid for serves again."""

    oracle: Oracle
    most: int = 6_000_000
    x: list[np.ndarray] = field(default_factory=list)
    y: list[np.ndarray] = field(default_factory=list)
    kept: int = 0
    full: bool = False  # whether a small batch was not kept any more: what is, is of the first lines alone
    usual: float | None = None
    """Standard deviation of the rounding of the usual answer, where not all are rounded alike."""
    joined: tuple[np.ndarray, np.ndarray] | None = None
    """All batches as one, of which `x` and `y` hold the last and what came before, until more is kept."""

    @property
    def most_at_once(self) -> int:
        """Numbers of the largest batch that is kept."""
        return self.most // 4

    def __call__(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        x = self.oracle.nearest(x)
        y = self.oracle(x)
        self.keep(x, y)
        return y

    def unkept(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        """Answers that are not kept."""
        return self.oracle(self.oracle.nearest(x))

    def keep(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]) -> None:
        """These answers too, unless they are too many."""
        if x.size > self.most_at_once:
            return
        if self.kept + x.size <= self.most:
            self.hold(x, y)
        else:
            self.full = True

    def hold(self, x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]) -> None:
        """These answers too, however many they are."""
        whole = intact(y, self.oracle.widest) & self._told(y)
        self.x.append(x[whole])
        self.y.append(y[whole])
        self.kept += x.size

    def _told(self, y: Float[np.ndarray, "N m"]) -> Bool[np.ndarray, " N"]:
        """Which answers are rounded about as the usual one: one fit to all would follow the others' rounding."""
        if self.oracle.uneven is None:
            return np.ones(len(y), dtype=bool)
        sigma = self.oracle.uneven(y).max(axis=1)
        self.usual = float(np.median(sigma)) if self.usual is None else self.usual
        return np.asarray(sigma <= UNEVEN * self.usual)

    def ask_all_over(self, count: int, rng: np.random.Generator) -> None:
        """Ask so many typical inputs, and keep their answers however much was kept before. Queries: `count`."""
        x = self.oracle.sample(count, rng)
        self.hold(x, self.oracle(x))

    def all(self) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
        """Questions and answers, not to be written to."""
        if self.joined is None or len(self.x) > 2:
            last = len(self.x[-1])
            x, y = self.joined = np.concatenate(self.x), np.concatenate(self.y)
            self.x[:], self.y[:] = np.split(x, [len(x) - last]), np.split(y, [len(y) - last])
        return self.joined

    def near(self, reach: float) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]]:
        """Those within reach of the origin."""
        x, y = self.all()
        chosen = np.linalg.norm(x, axis=1) < reach
        return x[chosen], y[chosen]

    def off(self, network: Network, size: float) -> Float[np.ndarray, " N"]:
        """Errors on all answers, in units of the largest answer, both in proportion to the input's length."""
        x, y = self.all()
        if not len(x):
            return np.empty(0)
        weight = in_proportion(x, size)
        return np.asarray(np.abs((network(x) - y) * weight).max(axis=1) / max(np.abs(y * weight).max(), 1e-300))

    def error(self, network: Network, size: float) -> float:
        """The largest of these; infinite where no answer has digits."""
        return float(self.off(network, size).max(initial=0.0)) if len(self.all()[0]) else np.inf


def weighted_output(
    F: Float[np.ndarray, "N q"], y: Float[np.ndarray, "N m"], counts: Float[np.ndarray, "N m"]
) -> Float[np.ndarray, "q m"]:
    """The coefficients of sums of F that are nearest to answers, the error of each multiplied by what it counts for.
    `F`: what is summed, and one. `counts`: see `Rounding.counts`."""
    if (counts == counts[:, :1]).all():
        return np.asarray(np.linalg.lstsq(F * counts[:, :1], counts * y, rcond=None)[0])
    columns = [np.linalg.lstsq(F * c[:, None], c * each, rcond=None)[0] for c, each in zip(counts.T, y.T, strict=True)]
    return np.stack(columns, axis=1)


def affine_fit(h: Float[np.ndarray, "N q"], y: Float[np.ndarray, "N m"], rcond: float | None = None) -> AffineMap:
    """Weights and bias of the affine map of h that is nearest to y."""
    out = np.linalg.lstsq(np.concatenate([h, np.ones((len(h), 1))], axis=1), y, rcond=rcond)[0]
    return out[:-1].T, out[-1]


def with_output(hidden: Sequence[Layer], x: Float[np.ndarray, "N n"], y: Float[np.ndarray, "N m"]) -> Network:
    """Hidden layers, and the affine map of what they pass on that is nearest to answers."""
    h = Network(tuple(hidden))(x) if hidden else x
    return Network((*hidden, Layer(*affine_fit(h, y, 1e-10), activation("identity"))))


def in_proportion(x: Float[np.ndarray, "N n"], size: float) -> Float[np.ndarray, "N 1"]:
    """Weights of answers whose rounding grows with the input."""
    return np.asarray(1 / (1 + np.linalg.norm(x, axis=1) / size)[:, None])


def after(layers: Weights, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N k"]:
    """Values of the last of these layers."""
    for w, b in layers:
        x = np.maximum(x @ w.T + b, 0)
    return x


def output_layer(
    asked: Asked, layers: Weights, layer: AffineMap, over: Float[np.ndarray, "m d"] | None, size: float
) -> tuple[Weights, float]:
    """The rest of a network whose last hidden layer is `layer`, and its largest error on what was asked.

    `layer`: the last hidden one, sides settled. `over`: slopes that no neuron explains, folded in as neurons that are
    always active; None: there are none.
    """
    x, y = asked.all()
    h, weight = after(layers, x), in_proportion(x, size)
    most = max(float(np.abs(y * weight).max()), 1e-300)
    rows, bias = layer
    F = np.concatenate([np.maximum(h @ rows.T + bias, 0), np.ones((len(h), 1))], axis=1)
    if over is not None:
        d = h.shape[1]
        if len(y) > 2 * (len(rows) + d + 1):
            over = np.linalg.lstsq(np.concatenate([F, h], axis=1) * weight, y * weight, rcond=None)[0][-d:].T
        v, sent = _directions(over)
        y = y - h @ v.T @ sent.T
    solution, *_ = np.linalg.lstsq(F * weight, y * weight, rcond=None)
    error = float(np.abs((F @ solution - y) * weight).max()) / most
    ending: Weights = [layer, (solution[:-1].T, solution[-1])]
    return ending if over is None else with_linear_part(ending, over), error


def with_linear_part(layers: Weights, slope: Float[np.ndarray, "m d"]) -> Weights:
    """Two layers that also carry `slope @ h`, as relu(v h) - relu(-v h) for each direction v in it."""
    (rows, bias), (out, end) = layers
    v, sent = _directions(slope)
    bias = np.concatenate([bias, np.zeros(2 * len(v))])
    return [(np.concatenate([rows, v, -v]), bias), (np.concatenate([out, sent, -sent], axis=1), end)]


def _directions(slope: Float[np.ndarray, "m d"]) -> tuple[Float[np.ndarray, "r d"], Float[np.ndarray, "m r"]]:
    """Orthonormal directions v and what is sent on of each: `sent @ v` is the slope, but for roundings."""
    u, s, v = np.linalg.svd(slope, full_matrices=False)
    keep = s > FAINT_OUTPUT_WEIGHT * max(float(s.max(initial=0)), 1e-300)
    return v[keep], (u * s)[:, keep]


def agreement(
    F: Float[np.ndarray, "N q"], y: Float[np.ndarray, "N m"], fine: float = 0.0
) -> tuple[Float[np.ndarray, "q m"], Float[np.ndarray, " N"]]:
    """Least sum of absolute errors: exact on most points even where some obey another law.

    `fine`: where least squares leave no larger error than this they are the answer: all points obey one law. Returns
    the solution, and the error of every point in units of the largest y. Source: iteratively reweighted least squares.
    """
    most = max(float(np.abs(y).max()), 1e-300)
    scale = np.maximum(np.linalg.norm(F, axis=0), 1e-300)
    A, weight, least = F / scale, np.ones((len(y), 1)), np.inf
    ridge = OUTPUT_FIT_RIDGE * np.eye(F.shape[1])
    for number in range(OUTPUT_FIT_ROUNDS):
        # Which points agree needs half the digits: normal equations have these, at a tenth of the time.
        G = A * weight
        solution = np.linalg.solve(G.T @ G + ridge * float((G**2).sum()), G.T @ (y * weight))
        off = np.abs(A @ solution - y).max(axis=1) / most
        if not number and off.max() < fine:
            solution = np.linalg.lstsq(A, y, rcond=1e-13)[0]
            return solution / scale[:, None], np.abs(A @ solution - y).max(axis=1) / most
        weight = np.maximum(off, 1e-10)[:, None] ** -0.5
        if off.sum() > (1 - OUTPUT_FIT_LAST_GAIN) * least:
            break
        least = min(least, float(off.sum()))
    for _ in range(LAST):
        # In proportion to the errors: what agrees to half the digits counts alone.
        weight = 1 / np.maximum(off, 1e-10)[:, None]
        solution = np.linalg.lstsq(A * weight, y * weight, rcond=1e-13)[0]
        off = np.abs(A @ solution - y).max(axis=1) / most
    return solution / scale[:, None], off


@dataclass
class Unsigned:
    """Answers as `sum_i w_i |z_i| / 2` and a part linear in the values h before: true whatever the sides are. Where a
    weight of neuron i is unknown, what it sees of value j adds `sign(z_i) h_j`, so that is fitted too."""

    layers: Weights
    rows: Float[np.ndarray, "k d"]
    bias: Float[np.ndarray, " k"]
    known: Bool[np.ndarray, "k d"]

    def features(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N q"]:
        """What the answers are a sum of, at these inputs."""
        h = after(self.layers, x)
        z = h @ self.rows.T + self.bias
        i, j = np.nonzero(~self.known)
        sign = np.where(z > 0, 0.5, -0.5)
        return np.concatenate([np.abs(z) / 2, np.ones((len(x), 1)), h, sign[:, i] * h[:, j]], axis=1)

    def missing(self, solution: Float[np.ndarray, "q m"]) -> Float[np.ndarray, " u"]:
        """What a fit adds to the unknown weights."""
        k, d = self.rows.shape
        w = solution[np.nonzero(~self.known)[0]]
        return np.asarray((solution[k + 1 + d :] * w).sum(axis=1) / np.maximum((w**2).sum(axis=1), 1e-300))

    def only(self, keep: Bool[np.ndarray, " k"], solution: Float[np.ndarray, "q m"]) -> tuple[Unsigned, np.ndarray]:
        """Without the neurons that do nothing, and their part of a fit."""
        d = self.rows.shape[1]
        which = np.concatenate([keep, np.ones(1 + d, dtype=bool), keep[np.nonzero(~self.known)[0]]])
        return Unsigned(self.layers, self.rows[keep], self.bias[keep], self.known[keep]), solution[which]

    def loose(self, F: Float[np.ndarray, "N q"]) -> Bool[np.ndarray, " u"]:
        """Which unknown weights a fit with these features says nothing about: it would not notice another one."""
        k, d = self.rows.shape
        scale = np.maximum(np.linalg.norm(F, axis=0), 1e-300)
        # (of the triangular factor: the same values and vectors, at a third of the time)
        _, s, vt = np.linalg.svd(np.linalg.qr(F / scale, mode="r"), full_matrices=False)
        # What lies outside the row space: with fewer answers than unknowns that is more than small singular values.
        settled = vt[s >= 1e-9 * s.max(initial=1e-300)]
        free = 1 - (settled**2).sum(axis=0)[k + 1 + d :] > 1e-6
        return np.asarray(free | (scale[k + 1 + d :] <= 1e-12 * scale.max()))

    def corrected(self, free: Bool[np.ndarray, " u"], solution: Float[np.ndarray, "q m"]) -> Unsigned:
        """With the weights that the fit has settled: the signs follow them, so the next fit is better."""
        i, j = np.nonzero(~self.known)
        rows = self.rows.copy()
        rows[i, j] += np.where(free, 0.0, np.clip(self.missing(solution), -1, 1))
        return Unsigned(self.layers, rows, self.bias, self.known)

    def sided(
        self, F: Float[np.ndarray, "N q"], solution: Float[np.ndarray, "q m"]
    ) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]] | None:
        """All weights and the sides, from values before that touch no weight the fit says nothing about.

        Where such a weight matters its neuron keeps its side: on the active one the part linear in the values before
        tells it, on the other it is not determined. None if the sides do not follow.
        """
        k, d = self.rows.shape
        w, linear = solution[:k], solution[k + 1 : k + 1 + d]
        i, j = np.nonzero(~self.known)
        free = self.loose(F)
        rows = self.corrected(free, solution).rows
        seen = np.linalg.norm(F[:, k + 1 : k + 1 + d], axis=0)
        clean = seen > 1e-9 * seen.max()
        clean[j[free]] = False
        side = by_balance(rows[:, clean], w, 2 * linear[clean].T, BALANCE) if clean.any() else None
        if side is None:
            one_more = clean.any() and not free.any()
            side = but_for_one(rows[:, clean], w, 2 * linear[clean].T, BALANCE) if one_more else None
            return None if side is None else (rows, side)
        for q in np.flatnonzero(free & (np.bincount(j[free], minlength=d)[j] == 1)):
            a, c = i[q], j[q]
            column = F[:, k + 1 + d + q]
            up = np.sign(column[np.abs(column).argmax()])
            if up == side[a]:
                others = np.delete(side * rows[:, c], a) @ np.delete(w, a, axis=0) / 2
                total = linear[c] + up * (solution[k + 1 + d + q] + w[a] * rows[a, c]) / 2
                rows[a, c] = (total - others) @ w[a] / max(float(w[a] @ w[a]), 1e-300)
        return rows, side


def explain(unsigned: Unsigned, asked: Asked, size: float, fine: float) -> tuple[Unsigned, np.ndarray, np.ndarray]:
    """Fit the answers, settling the unknown weights that they settle. Returns the layer with these weights, the
    solution, and which answers it explains to within `fine`."""
    x, y = asked.all()
    weight = in_proportion(x, size)
    most = max(float(np.abs(y * weight).max()), 1e-300)
    best: tuple[Unsigned, np.ndarray, np.ndarray] | None = None
    while True:
        F = unsigned.features(x) * weight
        some = np.linspace(0, len(x) - 1, min(len(x), OUTPUT_FIT_ANSWERS + 10 * F.shape[1])).astype(int)
        solution, _ = agreement(F[some], (y * weight)[some], fine)
        fits = np.abs(F @ solution - y * weight).max(axis=1) < fine * most
        if best is not None and fits.sum() <= best[2].sum():
            return best
        best = (unsigned, solution, fits)
        if unsigned.known.all() or fits.mean() < LEAST_SHARE_EXPLAINED:
            return best
        unsigned = unsigned.corrected(unsigned.loose(F[fits]), solution)


def ending(
    unsigned: Unsigned,
    solution: Float[np.ndarray, "q m"],
    fits: Bool[np.ndarray, " N"],
    asked: Asked,
    size: float,
    enough: float = 0.0,
) -> tuple[Network, float]:
    """The network: which sides are active, and the output layer; an affine part is folded in if there is one.

    The part linear in the values before is `sum_i s_i w_i z_i / 2`, up to neurons not met. Nothing is folded in
    where the error is below `enough` without.
    """
    x, y = asked.all()
    x, y, weight = x[fits], y[fits], in_proportion(x[fits], size)
    strong = np.abs(solution[: len(unsigned.rows)]).max(axis=1)
    unsigned, solution = unsigned.only(strong > FAINT_OUTPUT_WEIGHT * strong.max(), solution)
    k = len(unsigned.rows)
    F = unsigned.features(x) * weight
    told = unsigned.sided(F, solution)
    if told is not None:
        rows, side = told
    else:
        # With what is folded in any sides do, if none of the rows is guessed.
        w, rows = solution[:k], unsigned.corrected(unsigned.loose(F), solution).rows
        z = after(unsigned.layers, x) @ rows.T + unsigned.bias
        A = (z[:, None, :] * w.T[None]).reshape(-1, k) / 2
        A = np.concatenate([A, np.tile(np.eye(y.shape[1]), (len(x), 1))], axis=1)
        A *= np.repeat(weight, y.shape[1], axis=0)
        smooth = (y - (np.abs(z) / 2) @ w) * weight
        side = np.where(np.linalg.lstsq(A, smooth.reshape(-1), rcond=None)[0][:k] < 0, -1.0, 1.0)
    turned = (rows * side[:, None], unsigned.bias * side)
    best, error = output_layer(asked, unsigned.layers, turned, None, size)
    if error >= enough:
        more, less = output_layer(asked, unsigned.layers, turned, np.zeros((y.shape[1], rows.shape[1])), size)
        best, error = (more, less) if less < 0.1 * error else (best, error)
    return Network.from_weights([*unsigned.layers, *best]), error


def ending_of_most(
    unsigned: Unsigned, solution: Float[np.ndarray, "q m"], asked: Asked, size: float, rough: float
) -> Network:
    """The network that explains the most answers to within `rough`, however far off it is at the others.

    Which sides are active follows from the part linear in the values before, if all neurons are there; else it is
    folded in as neurons of opposite rows, and any sides do. `unsigned`: the last hidden layer, and those before.
    `solution`: of the fit that explains answers by it. `rough`: relative to the largest answer.
    """
    x, y = asked.all()
    weight = in_proportion(x, size)
    strong = np.abs(solution[: len(unsigned.rows)]).max(axis=1)
    unsigned, solution = unsigned.only(strong > FAINT_OUTPUT_WEIGHT * strong.max(), solution)
    h, F = after(unsigned.layers, x), unsigned.features(x) * weight
    told = unsigned.sided(F, solution)
    options = [] if told is None else [(told[0] * told[1][:, None], unsigned.bias * told[1], False)]
    options += [(each.rows, each.bias, True) for each in (unsigned.corrected(unsigned.loose(F), solution), unsigned)]
    best: tuple[Network | None, float] = None, -1.0
    for rows, bias, affine in options:
        z = np.maximum(h @ rows.T + bias, 0)
        parts = [z, np.ones((len(x), 1)), h] if affine else [z, np.ones((len(x), 1))]
        found, off = agreement(np.concatenate(parts, axis=1) * weight, y * weight)
        share = float((off < rough).mean())
        if best[0] is None or share > best[1] / (AS_MANY if affine else 1.0):
            k, slope = len(rows), found[len(rows) + 1 :].T
            ending = [(rows, bias), (found[:k].T, found[k])]
            ending = with_linear_part(ending, slope) if affine else ending
            best = Network.from_weights([*unsigned.layers, *ending]), share
    assert best[0] is not None
    return best[0]
