"""NoisyReading: a ReLU network from answers with few digits: coarse rows, then least squares on fresh answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.affine_part import with_linear_part
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import Asked, after
from unveil.identification.fitting.pruning import without_idle
from unveil.identification.piecewise_linear.confirmation import confirm
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import layer_steps, missing
from unveil.identification.piecewise_linear.noisy_deeper_layers import Onward
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.sign_recovery import weakest_turned
from unveil.identification.piecewise_linear.unmixing import unmix
from unveil.identification.validation import how_many, validate
from unveil.whitebox.network import Network

Weights = list[tuple[np.ndarray, np.ndarray]]

# Answers per parameter in the fit; several answers to one question tell less than as many to several.
RATIO, RATIO_OF_MANY = 2.0, 3.0
# Largest share of the answers' spread that the coarse rows may leave for the fit to be tried.
PROMISING = 0.3
# Bent hyperplanes per straight one from which on there seems to be another layer behind, and the share that must then
# not be left.
DEEPER = 0.2
CONVINCING = 0.03
# Lines in a bounded region are short: so many times more of them.
BOUNDED = 3
# Neurons of the first layer up to which bends behind it are followed one by one.
FOLLOWED = 128
# Share of what the budget leaves that may be spent on layers behind the first.
PATIENCE = 0.8
# Points on either side of a first-layer neuron, per input and output, and besides; and how many times as far out every
# fourth point of a fit lies as a user would draw it.
OFTEN, BESIDES, FURTHER = 3.0, 6, 3.0
# Times that neurons which only the fit has uncovered are looked for; times that lines are laid, so many at once, to
# fresh points where a fitted network is wrong, by more than so many times the rounding.
ROUNDS = 3
REPAIRS, LINES, FINE = 6, 4, 100.0
# How many of its expected errors a fit that leaves something may move a row.
FREE = 6.0
# Rounds in a row in which such lines may show nothing new.
BARREN = 1


@dataclass
class NoisyReading:
    """One run: what was read so far can be looked at whenever the budget ends.

    Attributes:
        ask: Answers questions.
        oracle: Where fresh points for the fit come from.
        noise: How exact answers are.
        rng: Draws everything.
        stats: Gets `layers`.
        why: Gets what was chosen on the way.
        weights: Layers read and left behind.
        found: The layer being read.
        network: The best whole network, if there is any.
        points: Where the fits asked, and the answers.
        whole: Whether `network` was read to its end.
        unexplained: Where the rows read so far are most wrong, if they do not explain the answers.
        first: What was read of the first layer.
        confirmed: How many of its rows were met again at fresh places; these come first.
    """

    ask: Asked
    oracle: Oracle
    noise: Rounding
    rng: np.random.Generator
    stats: dict[str, Any]
    why: list[str]
    weights: Weights = field(default_factory=list)
    found: LayerFound | None = None
    network: Network | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    whole: bool = False
    unexplained: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    first: LayerFound | None = None
    confirmed: int = 0

    @property
    def probe(self) -> Probe:
        """What every step needs to ask."""
        return Probe(self.ask, self.noise, self.rng)

    @property
    def first_layer(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows and biases of the first layer as far as they were read, up to sign."""
        if self.weights:
            return self.weights[0]
        return None if self.found is None else (self.found.rows, self.found.bias)

    def read(self, frame: Frame, *, far: float, most_layers: int, most_lines: int) -> Network | None:
        """All layers; None if nothing came out. `whole` says whether all of it was read."""
        for _ in range(most_layers):
            self.found = found = LayerFound.nothing(frame, self.oracle.m)
            again, towards, had, barren = False, None, 0, 0
            for attempt in range(ROUNDS + REPAIRS):
                lines = most_lines if frame.free else BOUNDED * most_lines
                # Lines to where the network is wrong say more than others.
                lines = lines if towards is None else 0
                given = self._towards(frame, towards)
                steps = layer_steps(self.probe, frame, far=far, most_lines=lines, sure=again, found=found, given=given)
                for now in steps:
                    self.found = found = now
                found = self._confirmed(frame, found)
                barren, had = (barren + 1 if len(found.rows) == had else 0), len(found.rows)
                if not had or (not self.whole and barren > BARREN):
                    break
                found, self.whole, again = self._last(frame, found)
                self.found = found
                towards = self.unexplained if len(self.unexplained) else None
                if self.whole and not self.weights:
                    towards = self._unmet()
                if attempt >= ROUNDS - 1:
                    again = False
                if not again and (towards is None or not len(towards)):
                    break
            self.stats["layers"].append({"neurons": len(found.rows), "lines": found.lines, "bent": len(found.bent)})
            if self.whole or not len(found.rows) or len(found.rows) > frame.d:
                break
            layer = unmix(frame, found, turned(frame, found))
            self.weights.append(layer)
            self.found = None
            if missing(self.probe, frame, found):
                depth = len(self.weights) - 1
                self.why.append(f"Neurons of layer {depth} are missing: what lies behind it cannot be read.")
                break
            frame = frame.after(*layer)
            if not frame.reachable():
                self.why.append("No input makes all the neurons read so far active, which the next layer needs.")
                break
            if frame.d <= FOLLOWED:
                self._onward(frame, most_layers)
                break
        return self.network

    def _towards(self, frame: Frame, wrong: np.ndarray | None) -> list[Line]:
        """Lines through these points, one each: there the neurons read so far explain nothing.

        Queries: those of `line_search`
        """
        lines: list[Line] = []
        for x in () if wrong is None else wrong:
            base = frame.sample(1, self.rng)
            lines += line_search(self.ask, base, x - base, 0.0, 1.0, self.noise, self.rng)
        return lines

    def _confirmed(self, frame: Frame, found: LayerFound) -> LayerFound:
        """In a box neurons of deeper layers look straight over much of it: only what is met all over it is kept.

        Queries: those of `confirm` for the rows that are new
        """
        if not frame.free and not self.weights:
            there = confirm(self.probe, frame, found.straight.take(np.arange(self.confirmed, len(found)))).there
            found = found.keep(np.append(np.ones(self.confirmed, dtype=bool), there))
            self.confirmed = len(found)
        self.found = found
        self.first = found if not self.weights else self.first
        return found

    def _unmet(self) -> np.ndarray | None:
        """Fresh points where the network read so far is wrong; None if there are none.

        Queries: `how_many` of those asked so far.
        """
        assert self.network is not None
        count = how_many(self.oracle)
        fine = FINE * self.noise.relative
        wrong = validate(self.network, self.oracle, count, self.rng, fine, self.ask).wrong
        if not len(wrong):
            return None
        # What contradicts a fit belongs into the next one, unless it lies so far out that its rounding is large.
        x, y = self.ask.x[-1], self.ask.y[-1]
        near = np.linalg.norm(x, axis=1) <= 2 * FURTHER * np.median(np.linalg.norm(x, axis=1))
        if self.points is not None:
            self.points = np.concatenate([self.points[0], x[near]]), np.concatenate([self.points[1], y[near]])
        return wrong[:LINES]

    def _onward(self, frame: Frame, most_layers: int) -> None:
        """The layers behind the first, as far as they can be read."""
        onward = Onward(self.ask, frame, self.noise, self.rng)
        ledger = self.oracle.ledger
        # Something must be left for a network to look at.
        last = ledger.asked + PATIENCE * ledger.left
        try:
            onward.read(most_layers - 1, lambda: ledger.asked > last)
        finally:
            self.weights += onward.layers
            for w, _ in onward.layers:
                self.stats["layers"].append({"neurons": len(w), "lines": len(onward.lines), "bent": len(onward.bends)})
        if onward.partial:
            self.why.append(f"{len(onward.partial)} neurons of layer {len(self.weights) + 1} were read, but not all.")
            rows = np.array([one.weights for one in onward.partial])
            self.stats["rows_partial"] = rows, np.array([one.bias for one in onward.partial])
        if onward.ends:
            self.whole = self._ended()

    def _ended(self) -> bool:
        """The output layer behind those read, and a fit of all of them; whether that explains the answers.

        Queries: `RATIO` per parameter, fewer with several outputs.
        """
        k, m = len(self.weights[-1][1]), self.oracle.m
        x, y = self._fresh(10 * k + 200)
        F = np.concatenate([after(self.weights, x), np.ones((len(x), 1))], axis=1)
        out = np.linalg.lstsq(F, y, rcond=None)[0]
        network = Network.from_weights([*self.weights, (out[:k].T, out[k])], shape=self.oracle.shape)
        x, y = self._fresh(int((RATIO if m == 1 else RATIO_OF_MANY) * parameters(network) / m))
        sigma = float(np.sqrt((self.noise.at(x) ** 2).mean()))
        self.network, rms = fit(network, x, y, noise=0.1 * sigma)
        # A hyperplane of the layer before, met a little beside where it was expected, ends as a neuron without effect.
        smaller = without_idle(self.network, x, self.noise.at(x))
        if smaller.widths != self.network.widths:
            self.network, rms = fit(smaller, x, y, noise=0.1 * sigma)
            for told, layer in zip(self.stats["layers"], self.network.layers, strict=False):
                told["neurons"] = layer.neurons
        return rms < CONVINCING * float(y.std())

    def _last(self, frame: Frame, found: LayerFound) -> tuple[LayerFound, bool, bool]:
        """This layer as the last hidden one, sharper: whether that fits, and whether neurons seem to be missing.

        Queries: `RATIO` per parameter, fewer with several outputs.
        """
        rows, bias = turned(frame, found)
        k, m = len(rows), self.oracle.m
        # In a box some neurons are active all over it.
        more = k > frame.d or not frame.free
        x, out, off, left = self._closed(rows, bias, frame.d if more else 0)
        deeper = len(found.bent) > DEEPER * k + 2
        most = CONVINCING if deeper else PROMISING
        if left > CONVINCING and not more:
            # So it is where neurons slope on both sides of their hyperplanes.
            sloped = self._closed(rows, bias, frame.d)
            if sloped[-1] <= CONVINCING:
                more, (x, out, off, left) = True, sloped
        self.unexplained = x[:0]
        if left > most:
            # Unless another layer lies behind it neurons of this one are missing, most of all where this is wrong.
            self.unexplained = x[np.argsort(-np.abs(off).max(axis=1), kind="stable")[:LINES]]
            return found, False, False
        ending = [(rows, bias), (out[:k].T, out[k])]
        if more:
            ending = with_linear_part(ending, out[k + 1 :].T)
        network = Network.from_weights([*self.weights, *ending], shape=self.oracle.shape)
        often = int(OFTEN * (self.oracle.n + 2) / m) + BESIDES
        count = int((RATIO if m == 1 else RATIO_OF_MANY) * parameters(network) / m)
        x, y = self._fresh(count, (rows, bias), often)
        sigma = float(np.sqrt((self.noise.at(x) ** 2).mean()))
        self.network, rms = fit(network, x, y, noise=0.1 * sigma)
        if self.weights:
            return found, True, False
        if more:
            return self._sharpened(found, rms, rms <= 3 * sigma), True, rms > 3 * sigma
        if rms > 3 * sigma:
            # The others have taken over half of what a weak neuron does, and its other half is the same on both sides.
            other, less = fit(weakest_turned(self.network), x, y, noise=0.1 * sigma)
            if less < 0.5 * rms:
                self.network, rms = other, less
        return self._sharpened(found, rms, rms <= 3 * sigma), True, rms > 3 * sigma and k < frame.d

    def _closed(
        self, rows: np.ndarray, bias: np.ndarray, linear: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """An output layer behind these neurons, with the coefficients of so many coordinates besides.

        With more neurons than coordinates, or some that are always active, sides are at will: relu(-z) = relu(z) - z,
        and a linear part is left over.

        Returns:
            Where was asked, the output layer, what it leaves there, and how much of the spread where it was not fitted.

        Queries: `4 (k + 1 + linear) + 100`
        """
        x, y = self._fresh(4 * (len(rows) + 1 + linear) + 100, (rows, bias), BESIDES)
        h = after(self.weights, x)
        z = [np.maximum(h @ rows.T + bias, 0), np.ones((len(h), 1)), *([h] if linear else [])]
        F = np.concatenate(z, axis=1)
        fitting = np.arange(len(x)) % 4 > 0
        out = np.linalg.lstsq(F[fitting], y[fitting], rcond=None)[0]
        spread = float(np.sqrt(((y - y.mean(axis=0)) ** 2).mean()))
        off = F @ out - y
        return x, out, off, float(np.sqrt((off[~fitting] ** 2).mean())) / max(spread, 1e-300)

    def _sharpened(self, found: LayerFound, rms: float, whole: bool) -> LayerFound:
        """With rows as good as what the fit leaves allows."""
        assert self.network is not None
        layer, last, k, old = self.network.layers[0], self.network.layers[-1], len(found), found.straight
        size = np.maximum(np.linalg.norm(layer.weights[:k], axis=1), 1e-300)
        rows, bias, jump = layer.weights[:k] / size[:, None], layer.bias[:k] / size, (last.weights[:, :k] * size).T
        error = np.maximum(rms / np.maximum(np.linalg.norm(jump, axis=1), 1e-300), 1e-7)
        # Where neurons are missing the others are drawn towards what these lack: further than a row's own error is no
        # sharpening.
        turn = np.sign(np.einsum("kd,kd->k", rows, old.rows))
        near = np.linalg.norm(turn[:, None] * rows - old.rows, axis=1) <= FREE * old.error
        better = near | whole
        kept = better[:, None]
        return found.with_rows(
            Hyperplanes(
                np.where(kept, rows, old.rows),
                np.where(better, bias, old.bias),
                np.where(kept, jump, old.jump),
                np.where(better, error, old.error),
                old.at,
            )
        )

    def _fresh(
        self, count: int, layer: tuple[np.ndarray, np.ndarray] | None = None, need: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """This many points and answers; those asked before serve again.

        Args:
            count: Points at least.
            layer: Rows and biases of a first layer.
            need: Points wanted on either side of each.
        """
        empty = np.empty((0, self.oracle.n)), np.empty((0, self.oracle.m))
        x, y = empty if self.points is None else self.points
        more = self.oracle.sample(max(0, count - len(x)), self.rng)
        if self.oracle.within is None:
            more[::4] *= FURTHER
        if layer is not None and not self.weights:
            more = np.concatenate([more, on_rare_sides(*layer, np.concatenate([x, more]), need, self.rng)])
        more = self.oracle.nearest(more)
        self.points = np.concatenate([x, more]), np.concatenate([y, self.ask(more)])
        return self.points


def on_rare_sides(
    rows: Float[np.ndarray, "k n"],
    bias: Float[np.ndarray, " k"],
    x: Float[np.ndarray, "N n"],
    need: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "more n"]:
    """More points, so that each of these hyperplanes has as many on either side as are needed.

    Args:
        rows: Unit normals.
        bias: Offsets.
        x: Points that there are.
        need: Points wanted on each side.
        rng: Picks those that are moved, and how far.
    """
    z = x @ rows.T + bias
    out = [x[:0]]
    for i in range(len(rows)):
        for side in (1.0, -1.0):
            lack = need - int((side * z[:, i] > 0).sum())
            if lack > 0:
                few = rng.integers(len(x), size=lack)
                goal = side * rng.uniform(0.2, 1.5, lack) * max(float(z[:, i].std()), 1e-300)
                out.append(x[few] + (goal - z[few, i])[:, None] * rows[i])
    return np.concatenate(out)


def turned(frame: Frame, found: LayerFound) -> tuple[np.ndarray, np.ndarray]:
    """Rows and biases with positive sides active: on the other side derivatives have no part along the row."""
    rows = found.rows
    if len(rows) > frame.d:
        return rows, found.bias
    z = frame.values(found.at) @ rows.T + found.bias
    part = (np.linalg.pinv(rows).T @ found.slope.transpose(0, 2, 1)) ** 2
    part = part.sum(axis=2)
    up, down = z > 0, z < 0
    mean_up = (part * up).sum(axis=0) / np.maximum(up.sum(axis=0), 1)
    mean_down = (part * down).sum(axis=0) / np.maximum(down.sum(axis=0), 1)
    side = np.where(mean_up >= mean_down, 1.0, -1.0)
    return rows * side[:, None], found.bias * side
