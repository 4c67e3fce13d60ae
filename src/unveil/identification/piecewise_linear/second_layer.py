"""read_second_layer: neurons behind a first layer whose values can be chosen freely, each from one critical point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.breakpoints import line_search
from unveil.identification.fitting.output_layer import (
    EVERYTHING,
    AffineMap,
    Asked,
    Unsigned,
    after,
    ending,
    explain,
    in_proportion,
)
from unveil.identification.piecewise_linear.critical_point import (
    CriticalPoint,
    measure_normals,
    points_of,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import SAME, Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import finished, layer_steps
from unveil.identification.piecewise_linear.partial_network import alike, explained, local
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.validation import FEWEST, validate
from unveil.whitebox.network import Network

# A critical point is one of a neuron that is zero there, up to this part of what it sums up and its own error.
ZERO_SUM_SHARE = 1e-6
# A normal is one of the second layer's if the active neurons' normals explain it up to this part.
EXPLAINED_NORMAL_ERROR = 1e-5
# How far weights that are not known yet may move the hyperplane, in units of those that are; mostly the first will do.
DOUBTS = 4.0, 20.0
LINE_REGION_SHARE = 0.8  # the line stays this far within the region, as a share of what there is
# How far the inactive neurons of the first layer are made active, in units of the active ones.
ACTIVATED = 0.5, 0.2, 0.05, 0.02, 5e-3, 2e-3, 5e-4, 1e-4
# Errors, in units of the largest answer, that nearly right weights may leave: the least, and the largest, which those
# of the rows may account for. A neuron that is missing leaves more.
LEAST_ROUGH_ERROR, ROUGHEST = 1e-5, 1e-3
VAGUE_READING_ERROR = 1e-4  # a row with a larger error is no reading: too much would be taken for its own
ABSENT_NEURON_SHARE = 1e-5  # a neuron with this share in the answers, relative to the others, is none
MET_TWICE_DISTANCE = 1e-3  # hyperplanes closer than this may be one, met twice
FRESH_PER_UNKNOWN, FRESH_BESIDES = 4, 100  # fresh answers per unknown of the fit, and besides
# Lines looked along at most, and in a row that showed nothing new; a line begins at one of so many points near its end.
SECOND_LAYER_LINES, MOST_BARREN_LINES, LINE_START_POINTS = 120, 30, 5
# Every so many barren lines are random ones, this far out in typical inputs.
RANDOM_LINE_INTERVAL, TYPICAL_INPUT_REACHES = 3, (1.0, 3.0)
# A layer that explains fewer of the fresh answers after so many rounds is not the last hidden one; points per round.
LAST_HIDDEN_SHARE, LAST_HIDDEN_ROUNDS, POINTS_PER_ROUND = 0.5, 12, 8


@dataclass(frozen=True)
class SecondLayer:
    """The second layer of a network, and the last hidden one, as far as it was read.

    A layer's values are never negative, so whatever bends anywhere bends where all of them are positive, too: there one
    derivative shows all weights of a neuron. A neuron that no line met there, because it rarely switches, shows itself
    where the others do not explain the answers; from where it is met then a short line leads to where all are active.

    What explains them is fitted to fresh answers alone: those paid for by lines and derivatives lie in clusters, and
    a fit that most of them obey may be wrong nearly everywhere.
    """

    probe: Probe  # asks
    log: Asked  # all it asked
    fresh: Asked  # of this the answers that are fitted; kept by all states
    frame: Frame  # where the whole first layer is active
    layer: AffineMap  # the first one
    found: LayerFound  # neurons read so far, in terms of the first layer's values, and perhaps some that are none
    # critical points whose neurons are to be met again where the whole first layer is active
    seen: tuple[CriticalPoint, ...]
    network: Network | None = None  # the best so far
    residual: float = np.inf  # its largest error on what was asked, in units of the largest answer

    @classmethod
    def begun(
        cls, probe: Probe, log: Asked, outside: Frame, layer: AffineMap, first: LayerFound, found: LayerFound
    ) -> SecondLayer:
        """From what was met in the frame `outside` while the first layer was read, and where all of it is active."""
        seen = points_of(outside, first.bent)
        frame, vague = outside.after(*layer), found.straight[found.straight.error >= VAGUE_READING_ERROR]
        seen += points_of(frame, vague)
        state = cls(probe, log, Asked(log.oracle, EVERYTHING), frame, layer, found, seen)
        return _taken_in(state)

    def zero(self, x: Float[np.ndarray, " n"]) -> bool:
        """Whether one of the neurons read is zero here, as well as it is known: else it would be read twice."""
        h = after([self.layer], x[None])[0]
        off = np.abs(self.found.rows @ h + self.found.bias)
        known = ZERO_SUM_SHARE + SAME * self.found.straight.error / np.sqrt(len(h))
        return bool((off < known * (1 + np.linalg.norm(h))).any())

    def rough(self) -> float:
        """Errors, in units of the largest answer, that the neurons read may leave: as much as their rows are off."""
        x, y = self.fresh.all()
        weight, d = in_proportion(x, self.probe.noise.size), self.found.rows.shape[1]
        apart = np.linalg.norm(after([self.layer], x), axis=1, keepdims=True) / np.sqrt(d)
        each = np.linalg.norm(self.found.straight.jump, axis=1) * self.found.straight.error
        off = float(np.linalg.norm(each) * (apart * weight).max() / max(np.abs(y * weight).max(), 1e-300))
        return float(np.clip(off, LEAST_ROUGH_ERROR, ROUGHEST))

    def fit(self, asked: Asked) -> Fit:
        """What these neurons, and a part linear in the first layer's values, explain of some answers."""
        unsigned = Unsigned([self.layer], self.found.rows, self.found.bias, np.ones(self.found.rows.shape, dtype=bool))
        return Fit(*explain(unsigned, asked, self.probe.noise.size, self.rough()))

    def ending(self, fit: Fit) -> tuple[SecondLayer, Network, Float[np.ndarray, " N"]]:
        """With the network of a fit, if it is the best so far; this network, and its errors on what was asked."""
        network, _ = ending(*fit, self.fresh, self.probe.noise.size, self.rough())
        off = self.log.off(network, self.probe.noise.size)
        if off.max() < self.residual or self.network is None:
            return replace(self, network=network, residual=float(off.max())), network, off
        return self, network, off


class Fit(NamedTuple):
    """Neurons and a linear part fitted to answers: the solution, and which of them it explains."""

    unsigned: Unsigned
    solution: Float[np.ndarray, "q m"]
    fits: Bool[np.ndarray, " N"]

    def of(self, state: SecondLayer) -> bool:
        """Whether these are its neurons, and all fresh answers were fitted."""
        rows, bias = state.found.rows, state.found.bias
        same = np.array_equal(self.unsigned.rows, rows) and np.array_equal(self.unsigned.bias, bias)
        return same and len(self.fits) == sum(map(len, state.fresh.x))


def read_second_layer(state: SecondLayer) -> SecondLayer:
    """Look at what the network explains and what not, and read what is missing, until it explains all answers.

    Queries: `FRESH_PER_UNKNOWN` per unknown of the fit and `FRESH_BESIDES`; about `4 k + 100` per neuron that had been
    missed, for k of the first layer, those of `MOST_BARREN_LINES` lines in a row that show nothing new, and `FEWEST`
    each time that everything asked is explained.
    """
    barren, most = 0, 0.0
    held: Fit | None = None
    for turn in range(SECOND_LAYER_LINES):
        count = len(state.found.rows)
        state = _aimed(state)
        _draw(state)
        # A line that showed nothing new leaves the fit as it was.
        held = fit = held if held is not None and held.of(state) else state.fit(state.fresh)
        most = max(most, float(fit.fits.mean()))
        barren = 0 if len(state.found.rows) > count else barren + 1
        if (
            not fit.fits.any()
            or barren > MOST_BARREN_LINES
            or (turn >= LAST_HIDDEN_ROUNDS and most < LAST_HIDDEN_SHARE)
        ):
            break
        if fit.fits.all():
            state, fit = _fewer(state, fit)
            state, network, off = state.ending(fit)
            if not _unmet(state, network, off):
                break
            barren = max(0, barren - 1)
        elif not state.seen:
            state = _looked(state, fit.fits, barren)
    return state if state.network is not None else state.ending(fit)[0]


def _draw(state: SecondLayer) -> None:
    """So many fresh answers that the fit is overdetermined, however many neurons there are by now."""
    need = FRESH_PER_UNKNOWN * (sum(state.found.rows.shape) + 1) + FRESH_BESIDES
    lack, rng, oracle = need - sum(map(len, state.fresh.x)), state.probe.rng, state.log.oracle
    if lack > 0:
        x = oracle.sample(lack, rng)
        state.fresh(oracle.nearest(x * rng.choice(TYPICAL_INPUT_REACHES, size=(lack, 1))))


def _fewer(state: SecondLayer, fit: Fit) -> tuple[SecondLayer, Fit]:
    """Without what has no share in the answers, and without second readings of one hyperplane. Neurons that are much
    alike, as training can make them, stay: all answers paid for must be explained as before."""
    share = np.linalg.norm(fit.solution[: len(state.found.rows)], axis=1)
    spare = [np.flatnonzero(share <= ABSENT_NEURON_SHARE * share.max())]
    spare += [np.array([i]) for i in _twins(state.found)]
    before = state.fit(state.log).fits if any(map(len, spare)) else np.empty(0, dtype=bool)
    for which in spare:
        if not len(which):
            continue
        fewer = replace(state, found=state.found.keep(~np.isin(np.arange(len(share)), which)))
        then = fewer.fit(state.fresh)
        if then.fits.all() and fewer.fit(state.log).fits.sum() >= before.sum():
            return fewer, then
    return state, fit


def _unmet(state: SecondLayer, network: Network, off: Float[np.ndarray, " N"]) -> bool:
    """Whether a network that explains all fresh answers fails on answers paid for, or on fresher ones. Queries:
    `FEWEST`."""
    rough = state.rough()
    wrong = validate(network, state.log.oracle, FEWEST, state.probe.rng, rough, state.fresh).wrong
    bad = np.flatnonzero(off >= rough)
    if len(bad):
        x, y = state.log.all()
        some = state.probe.rng.permutation(bad)[:FRESH_BESIDES]
        state.fresh.x.append(x[some])
        state.fresh.y.append(y[some])
    return bool(len(wrong) or len(bad))


def _looked(state: SecondLayer, fits: Bool[np.ndarray, " N"], barren: int) -> SecondLayer:
    """Meet what is missing: on a line from an answer that is not explained to one that is, or on any line."""
    x, probe = state.fresh.all()[0], state.probe
    if barren % RANDOM_LINE_INTERVAL == RANDOM_LINE_INTERVAL - 1:
        base, direction = state.log.oracle.sample(2, probe.rng)
        low, high = -TYPICAL_INPUT_REACHES[-1], TYPICAL_INPUT_REACHES[-1]
    else:
        base, direction = _towards(state, x[~fits], x[fits])
        low, high = -0.1, 1.0
    (line,) = line_search(probe.ask, base[None], direction[None], low, high, probe.noise, probe.rng)
    wanted = ~explained([state.layer], line.points)
    wanted &= np.array([not state.zero(point) for point in line.points], dtype=bool)
    seen = measure_normals(probe, [state.layer], line, np.flatnonzero(wanted)).points
    return replace(state, seen=(*state.seen, *seen))


def _towards(
    state: SecondLayer, wrong: Float[np.ndarray, "W n"], right: Float[np.ndarray, "R n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """An answer that is not explained, and the way from it to one that is and has much the same neurons active."""
    bad = state.probe.rng.choice(wrong)
    return bad, alike([state.layer], bad[None], right, state.probe.rng, LINE_START_POINTS)[0] - bad


def _taken_in(state: SecondLayer) -> SecondLayer:
    """Where all are active a normal is all there is to know, whether or not it was seen to go on far away. Rows that
    are vague are left out: they are met again."""
    bent = state.found.bent
    state = replace(state, found=state.found.keep(state.found.straight.error < VAGUE_READING_ERROR))
    for i in np.argsort(bent.error, kind="stable"):
        if bent.error[i] < VAGUE_READING_ERROR and not state.zero(bent.at[i]):
            one = bent[np.array([i])]
            again = Hyperplanes.through(state.frame, one.at, one.rows, one.jump, one.error)
            state = replace(state, found=state.found.with_straight(again))
    return state


def _aimed(state: SecondLayer) -> SecondLayer:
    """Meet the neurons of these critical points again, where the whole first layer is active."""
    left, turns, probe = list(state.seen), 0, state.probe
    while left and turns < POINTS_PER_ROUND:
        point = left.pop(0)
        if state.zero(point.x):
            continue
        turns += 1
        h, J = local([state.layer], point.x)
        weights = np.linalg.lstsq(J.T, point.normal, rcond=None)[0] * (h > 0)
        if np.linalg.norm(J.T @ weights - point.normal) > EXPLAINED_NORMAL_ERROR:
            continue
        for doubt in DOUBTS:
            line = _across(state.frame, h, weights, doubt)
            if line is None or state.zero(point.x):
                break
            base, step, end = line
            (start,) = line_search(probe.ask, base[None], step[None], -end, end, probe.noise, probe.rng)
            steps = layer_steps(probe, state.frame, most_lines=1, found=state.found, given=[start])
            state = replace(state, found=finished(steps))
        state = _taken_in(state)
    return replace(state, seen=tuple(left))


def _twins(found: LayerFound) -> list[int]:
    """Of hyperplanes that could be one, those read less well."""
    scaled = np.concatenate([found.rows, found.bias[:, None] / (1 + np.abs(found.bias[:, None]))], axis=1)
    out: list[int] = []
    for i in np.argsort(-found.straight.error):
        apart = np.minimum(np.linalg.norm(scaled - scaled[i], axis=1), np.linalg.norm(scaled + scaled[i], axis=1))
        apart[[i, *out]] = np.inf
        if apart.min() < MET_TWICE_DISTANCE:
            out.append(int(i))
    return out


def _across(
    frame: Frame, h: Float[np.ndarray, " k"], weights: Float[np.ndarray, " k"], doubt: float
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """A line across a hyperplane near where it was met, all neurons active: base, direction, and how far it goes."""
    on = h > 0
    # Every value changes in proportion to itself, so none reaches zero soon.
    most = 1 / max(float(np.abs(weights).max()), 1e-300)
    for share in ACTIVATED:
        least = share * float(h[on].mean())
        active = h + least
        rate = float(weights**2 @ active)
        far = least * (abs(float(weights.sum())) + doubt * float(np.linalg.norm(weights))) / rate
        if far <= LINE_REGION_SHARE * most:
            return frame.V @ (active - frame.c), frame.V @ (weights * active), far
    return None
