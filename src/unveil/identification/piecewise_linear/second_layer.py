"""SecondLayer: the neurons behind a first layer whose values can be chosen freely, each read from one sighting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unveil.blackbox.crossings import breakpoints
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.output_layer import Asked, Bends, ending, explain
from unveil.identification.piecewise_linear.critical_point import Layer, Searched, Sighting, local, look
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer import read_layer
from unveil.identification.piecewise_linear.layer_membership import LayerFound
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
# Lines from where the network is wrong to where it is right; near ones first.
ROUNDS, NEAREST = 24, 30
# Such lines in a row that showed nothing new.
PATIENCE = 5

# Points on either side of a neuron, per weight, and steps that lead there.
OFTEN, PUSHES = 1.5, 6


class SecondLayer:
    """The second layer of a network, and the last hidden one.

    A layer's values are never negative, so whatever bends anywhere bends where all of them are positive, too: there one
    derivative shows all weights of a neuron. A neuron that no line met there, because it rarely switches, shows itself
    where the others do not explain the answers; from where it is met then a short line leads to where all are active.

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
        every = zip(first.bent_at, first.bent_rows, first.bent_error, strict=True)
        span = np.eye(outside.d)
        self.sightings = [Sighting(x, span, normal, float(error)) for x, normal, error in every]
        # Where all are active a normal is all there is to know, whether or not it was seen to go on far away.
        inside = zip(found.bent_at, found.bent_rows, found.bent_jump, found.bent_error, strict=True)
        for x, row, jump, error in sorted(inside, key=lambda seen: seen[3]):
            if not self._zero(x):
                found.add(row, -float(row @ self.frame.values(x[None])[0]), jump, float(error), x)
        self.network: Network | None = None

    def read(self) -> float:
        """Look at what the network explains and what not, and read what is missing, until it explains all answers.

        Returns:
            The largest error of `network` on what was asked, in units of the largest answer.

        Queries: about `4 k + 100` per neuron that had been missed, for k of the first layer, and
            `FEWEST` each time that everything asked is explained.
        """
        least, size = np.inf, self.noise.size
        barren = 0
        for _ in range(ROUNDS):
            count = len(self.found.rows)
            self._aim()
            known = np.ones(self.found.rows.shape, dtype=bool)
            bends = Bends([self.layer], self.found.rows, self.found.bias, known)
            bends, solution, fits = explain(bends, self.ask, size, ROUGH)
            # What looked straight but has no share in the answers was none of this layer's.
            share = np.linalg.norm(solution[: len(known)], axis=1)
            real = share > NOTHING * share.max()
            if fits.all() and not real.all():
                self.found.keep(real)
                bends = Bends([self.layer], self.found.rows, self.found.bias, known[real])
                solution = np.delete(solution, np.flatnonzero(~real), axis=0)
            network, error = ending(bends, solution, fits, self.ask, size, ROUGH)
            error = self.ask.error(network, size)
            if error < least or self.network is None:
                self.network, least = network, error
            barren = 0 if len(self.found.rows) > count else barren + 1
            wrong = self._unmet(network) if fits.all() and error < ROUGH else self.ask.all()[0][~fits]
            if not len(wrong) or not fits.any() or barren > PATIENCE:
                break
            self._look_where(wrong, self.ask.all()[0][: len(fits)][fits])
        return least

    def _unmet(self, network: Network) -> np.ndarray:
        """Fresh points where a network that explains everything asked so far is wrong; they are kept for the next fit.

        Queries: `FEWEST`
        """
        return validate(network, self.ask.oracle, FEWEST, self.rng, ROUGH, self.ask).wrong

    def _look_where(self, wrong: np.ndarray, right: np.ndarray) -> None:
        """Meet what is missing, on a line from an answer that is not explained to one that is."""
        base, direction = self._towards(wrong, right)
        (met,) = breakpoints(self.ask, base[None], direction[None], -0.1, 1.0, self.noise, self.rng)
        line = Searched(base, direction, met)
        wanted = ~line.met(line.along([self.layer])[0]).any(axis=1)
        wanted &= np.array([not self._zero(point) for point in line.at(met.t)], dtype=bool)
        self.sightings += look(self.ask, [self.layer], line, np.flatnonzero(wanted), self.noise, self.rng)

    def _towards(self, wrong: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An answer that is not explained, and the way from it to one that is."""
        bad = wrong[self.rng.choice(np.argsort(np.linalg.norm(wrong, axis=1))[:NEAREST])]
        rows, bias = self.layer
        switched = ((right @ rows.T + bias > 0) != (rows @ bad + bias > 0)).sum(axis=1)
        good = right[self.rng.choice(np.argsort(switched)[:NEAREST])]
        return bad, good - bad

    def _zero(self, x: Float[np.ndarray, " n"]) -> bool:
        """Whether one of the neurons read is zero here."""
        h = local([self.layer], x)[0]
        off = np.abs(self.found.rows @ h + self.found.bias)
        return bool(off.min(initial=np.inf) < ZERO * (1 + np.linalg.norm(h)))

    def _aim(self) -> None:
        """Meet the neurons of these sightings again, where the whole first layer is active."""
        for seen in self.sightings:
            if self._zero(seen.x):
                continue
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
                (met,) = breakpoints(self.ask, base[None], step[None], -end, end, self.noise, self.rng)
                start = Searched(base, step, met)
                read_layer(self.ask, self.frame, self.noise, self.rng, most_lines=1, found=self.found, start=start)
        self.sightings = []


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
