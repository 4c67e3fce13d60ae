"""SecondLayer: the neurons behind a first layer whose values can be chosen freely, each read from one sighting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.output_layer import Asked, Bends, ending, explain
from unveil.identification.piecewise_linear.critical_point import (
    CriticalPoint,
    Layer,
    along_line,
    local,
    measure_normals,
    met,
)
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer import read_layer
from unveil.identification.piecewise_linear.layer_membership import LayerFound
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.validation import FEWEST, validate
from unveil.whitebox.network import Network

# A sighting is one of a neuron that is zero there, up to this part of what it sees.
ZERO = 1e-6
# A normal is one of the second layer's if the active neurons' normals explain it up to this part.
EXPLAINED = 1e-5
# How far weights that are not known yet may move the hyperplane, in units of those that are; mostly the first will do.
DOUBTS = 4.0, 20.0
# The line stays this far within the region, as a share of what there is.
INSIDE = 0.8
# How far the inactive neurons are woken, in units of the active ones.
WOKEN = 0.5, 0.2, 0.05, 0.02, 5e-3, 2e-3, 5e-4, 1e-4
# Errors, in units of the largest answer, that nearly right weights may leave.
ROUGH = 1e-5
# A neuron with this share in the answers, relative to the others, is none.
NOTHING = 1e-5
# Hyperplanes closer than this may be one, met twice.
ALIKE = 1e-3
# Fresh answers per unknown of the fit, and besides.
FRESH, BESIDES = 4, 100
# Lines looked along at most, and in a row that showed nothing new; a line begins at one of so many points near its end.
ROUNDS, PATIENCE, NEAREST = 120, 30, 5
# Every so many barren lines are random ones, this far out in typical inputs.
ANYWAY, REACHES = 3, (1.0, 3.0)
# A layer that explains fewer of the fresh answers after so many rounds is not the last hidden one; sightings per round.
LAST, LOOKS, AT_ONCE = 0.5, 12, 8

# Points on either side of a neuron, per weight, and steps that lead there.
OFTEN, PUSHES = 1.5, 6


class SecondLayer:
    """The second layer of a network, and the last hidden one.

    A layer's values are never negative, so whatever bends anywhere bends where all of them are positive, too: there one
    derivative shows all weights of a neuron. A neuron that no line met there, because it rarely switches, shows itself
    where the others do not explain the answers; from where it is met then a short line leads to where all are active.

    What explains them is fitted to fresh answers alone: those paid for by lines and derivatives lie in clusters, and
    a fit that most of them obey may be wrong nearly everywhere.

    Attributes:
        found: Neurons read so far, in terms of the first layer's values, and perhaps some that are none.
        network: The best so far.
    """

    def __init__(
        self,
        asked: Asked,
        outside: Frame,
        layer: Layer,
        first: LayerFound,
        found: LayerFound,
        noise: Rounding,
        rng: np.random.Generator,
    ) -> None:
        self.ask, self.frame, self.noise, self.rng = asked, outside.after(*layer), noise, rng
        self.layer, self.found = layer, replace(found)
        self.fresh = Asked(asked.oracle)
        every = zip(first.bent_at, first.bent_rows, first.bent_error, strict=True)
        span = np.eye(outside.d)
        self.sightings = [CriticalPoint(x, span, normal, float(error)) for x, normal, error in every]
        self._take_in()
        self.network: Network | None = None

    def read(self) -> float:
        """Look at what the network explains and what not, and read what is missing, until it explains all answers.

        Returns:
            The largest error of `network` on what was asked, in units of the largest answer.

        Queries: `FRESH` per unknown of the fit and `BESIDES`; about `4 k + 100` per neuron that had been missed, for k
            of the first layer, those of `PATIENCE` lines in a row that show nothing new, and `FEWEST` each time that
            everything asked is explained.
        """
        least, barren, most = np.inf, 0, 0.0
        for turn in range(ROUNDS):
            count = len(self.found.rows)
            self._aim()
            self._draw()
            bends, solution, fits = self._explained(self.found, self.fresh)
            most = max(most, float(fits.mean()))
            barren = 0 if len(self.found.rows) > count else barren + 1
            if not fits.any() or barren > PATIENCE or (turn >= LOOKS and most < LAST):
                break
            if self.sightings and not fits.all():
                continue
            if fits.all():
                bends, solution, fits = self._fewer(bends, solution, fits)
                network, _ = ending(bends, solution, fits, self.fresh, self.noise.size, ROUGH)
                off = self.ask.off(network, self.noise.size)
                if off.max() < least or self.network is None:
                    self.network, least = network, float(off.max())
                if not self._unmet(network, off):
                    break
                barren = max(0, barren - 1)
                continue
            self._look(fits, barren)
        if self.network is None:
            self.network, least = ending(bends, solution, fits, self.fresh, self.noise.size, ROUGH)
            least = self.ask.error(self.network, self.noise.size)
        return least

    def _draw(self) -> None:
        """So many fresh answers that the fit is overdetermined, however many neurons there are by now."""
        need = FRESH * (sum(self.found.rows.shape) + 1) + BESIDES
        lack = need - sum(map(len, self.fresh.x))
        if lack > 0:
            x = self.ask.oracle.sample(lack, self.rng)
            self.fresh(self.ask.oracle.nearest(x * self.rng.choice(REACHES, size=(lack, 1))))

    def _explained(self, found: LayerFound, asked: Asked) -> tuple[Bends, np.ndarray, np.ndarray]:
        """What these neurons, and a part linear in the first layer's values, explain of some answers."""
        bends = Bends([self.layer], found.rows, found.bias, np.ones(found.rows.shape, dtype=bool))
        return explain(bends, asked, self.noise.size, ROUGH)

    def _fewer(self, bends: Bends, solution: np.ndarray, fits: np.ndarray) -> tuple[Bends, np.ndarray, np.ndarray]:
        """Without what has no share in the answers, and without second readings of one hyperplane.

        Neurons that are much alike, as training can make them, stay: all answers paid for must be explained as before.
        """
        share = np.linalg.norm(solution[: len(self.found.rows)], axis=1)
        spare = [np.flatnonzero(share <= NOTHING * share.max())]
        spare += [np.array([i]) for i in _twins(self.found)]
        before = self._explained(self.found, self.ask)[2] if any(map(len, spare)) else None
        for which in spare:
            fewer = replace(self.found)
            fewer.keep(~np.isin(np.arange(len(share)), which))
            if not len(which) or len(fewer.rows) + len(which) != len(self.found.rows):
                continue
            then = self._explained(fewer, self.fresh)
            if then[2].all() and before is not None and self._explained(fewer, self.ask)[2].sum() >= before.sum():
                self.found, (bends, solution, fits) = fewer, then
                break
        return bends, solution, fits

    def _unmet(self, network: Network, off: np.ndarray) -> bool:
        """Whether a network that explains all fresh answers fails on answers paid for, or on fresher ones.

        Queries: `FEWEST`
        """
        wrong = validate(network, self.ask.oracle, FEWEST, self.rng, ROUGH, self.fresh).wrong
        bad = np.flatnonzero(off >= ROUGH)
        if len(bad):
            x, y = self.ask.all()
            some = self.rng.permutation(bad)[:BESIDES]
            self.fresh.x.append(x[some])
            self.fresh.y.append(y[some])
        return bool(len(wrong) or len(bad))

    def _look(self, fits: np.ndarray, barren: int) -> None:
        """Meet what is missing: on a line from an answer that is not explained to one that is, or on any line."""
        x = self.fresh.all()[0]
        if barren % ANYWAY == ANYWAY - 1:
            base, direction = self.ask.oracle.sample(2, self.rng)
            low, high = -REACHES[-1], REACHES[-1]
        else:
            base, direction = self._towards(x[~fits], x[fits])
            low, high = -0.1, 1.0
        (line,) = line_search(self.ask, base[None], direction[None], low, high, self.noise, self.rng)
        wanted = ~met(line, along_line([self.layer], line)[0]).any(axis=1)
        wanted &= np.array([not self._zero(point) for point in line.points], dtype=bool)
        self.sightings += measure_normals(Probe(self.ask, self.noise, self.rng), [self.layer], line, np.flatnonzero(wanted))

    def _towards(self, wrong: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An answer that is not explained, and the way from it to one that is and has much the same neurons active."""
        bad = self.rng.choice(wrong)
        rows, bias = self.layer
        switched = ((right @ rows.T + bias > 0) != (rows @ bad + bias > 0)).sum(axis=1)
        good = right[self.rng.choice(np.argsort(switched, kind="stable")[:NEAREST])]
        return bad, good - bad

    def _take_in(self) -> None:
        """Where all are active a normal is all there is to know, whether or not it was seen to go on far away."""
        found = self.found
        inside = zip(found.bent_at, found.bent_rows, found.bent_jump, found.bent_error, strict=True)
        for x, row, jump, error in sorted(inside, key=lambda seen: seen[3]):
            if not self._zero(x):
                found.add(row, -float(row @ self.frame.values(x[None])[0]), jump, float(error), x)

    def _zero(self, x: Float[np.ndarray, " n"]) -> bool:
        """Whether one of the neurons read is zero here."""
        h = local([self.layer], x)[0]
        off = np.abs(self.found.rows @ h + self.found.bias)
        return bool(off.min(initial=np.inf) < ZERO * (1 + np.linalg.norm(h)))

    def _aim(self) -> None:
        """Meet the neurons of these sightings again, where the whole first layer is active."""
        turns = 0
        while self.sightings and turns < AT_ONCE:
            seen = self.sightings.pop(0)
            if self._zero(seen.x):
                continue
            turns += 1
            h, J = local([self.layer], seen.x)
            move = J @ seen.span
            weights = np.linalg.lstsq(move.T, seen.normal, rcond=None)[0] * (h > 0)
            if np.linalg.norm(move.T @ weights - seen.normal) > EXPLAINED:
                continue
            for doubt in DOUBTS:
                line = _across(self.frame, h, weights, doubt)
                if line is None or self._zero(seen.x):
                    break
                base, step, end = line
                (start,) = line_search(self.ask, base[None], step[None], -end, end, self.noise, self.rng)
                read_layer(self.ask, self.frame, self.noise, self.rng, most_lines=1, found=self.found, start=start)
            self._take_in()


def _twins(found: LayerFound) -> list[int]:
    """Of hyperplanes that could be one, those read less well."""
    scaled = np.concatenate([found.rows, found.bias[:, None] / (1 + np.abs(found.bias[:, None]))], axis=1)
    out: list[int] = []
    for i in np.argsort(-found.error):
        apart = np.minimum(np.linalg.norm(scaled - scaled[i], axis=1), np.linalg.norm(scaled + scaled[i], axis=1))
        apart[[i, *out]] = np.inf
        if apart.min() < ALIKE:
            out.append(int(i))
    return out


def _across(
    frame: Frame, h: Float[np.ndarray, " k"], weights: Float[np.ndarray, " k"], doubt: float
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """A line across a hyperplane near where it was met, with everybody awake: base, direction, and how far it goes."""
    on = h > 0
    # Every value changes in proportion to itself, so none reaches zero soon.
    most = 1 / max(float(np.abs(weights).max()), 1e-300)
    for share in WOKEN:
        woken = share * float(h[on].mean())
        awake = h + woken
        rate = float(weights**2 @ awake)
        far = woken * (abs(float(weights.sum())) + doubt * float(np.linalg.norm(weights))) / rate
        if far <= INSIDE * most:
            return frame.V @ (awake - frame.c), frame.V @ (weights * awake), far
    return None


def both_sides(network: Network, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
    """The same points, some of them moved so that every neuron of the second layer is met on either side often enough.

    Args:
        network: Nearly right.
        x: More points than one such neuron has weights.
    """
    x = x.copy()
    first, second = network.layers[0], network.layers[1]
    rows, behind = first.dense(), second.dense()
    h = first(x)
    z = second.affine(h)
    need = int(OFTEN * (behind.shape[1] + 1))
    free = np.ones(len(x), dtype=bool)
    for i in np.argsort(np.minimum((z > 0).sum(axis=0), (z < 0).sum(axis=0))):
        for side in (1.0, -1.0):
            there = side * z[:, i] > 0
            lack = need - int(there.sum())
            if lack <= 0:
                continue
            # The nearest ones, as far to the other side as they were on this one, or a little.
            near = np.flatnonzero(free & ~there)
            near = near[np.argsort(np.abs(z[near, i]))[:lack]]
            goal = side * np.abs(z[near, i]).mean() * np.linspace(0.05, 1, len(near))
            for _ in range(PUSHES):
                on = first.affine(x[near]) > 0
                off = goal - second.affine(first(x[near]))[:, i]
                slope = (on * behind[i]) @ rows
                x[near] += off[:, None] * slope / np.maximum((slope**2).sum(axis=1), 1e-300)[:, None]
            z[near] = second.affine(first(x[near]))
            free[near] = False
    return x
