"""ExactReading: a ReLU network from answers with all their digits, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.design import finish
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import Asked, Weights, output_layer
from unveil.identification.piecewise_linear.completeness import Station
from unveil.identification.piecewise_linear.critical_point import search
from unveil.identification.piecewise_linear.deeper_layers import read_deeper
from unveil.identification.piecewise_linear.deeper_state import Deeper, Setting
from unveil.identification.piecewise_linear.few_directions import MANY, Directions, Narrow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer import finished, layer_steps, sharpened
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.second_layer import ROUGH, SecondLayer, both_sides, read_second_layer
from unveil.identification.piecewise_linear.sign_recovery import by_balance, by_fold, by_sparsity, by_vanishing
from unveil.identification.piecewise_linear.wide_input import stations, widen
from unveil.identification.validation import FEWEST, FEWEST_IN_BOX, validate
from unveil.whitebox.network import Network

# From this many neurons in the first layer on the second is first looked for where all of them are active: there one
# derivative shows all weights of a neuron, elsewhere half of them.
MANY_NEURONS = 16
# Answers per parameter for fitting all of them along a few directions, how far out they are, and steps; how many such
# answers are too many, and what they may cost beside the first layer's weights along all inputs.
ANSWERS, SCALES, FITS = 1.6, (1.0, 1.0, 2.0), 16
MANY_ANSWERS, CHEAP = 6000, 1.0
# With one output and with several: rows that came out worse than this along a few directions are measured again, for
# this share of the first layer's queries at most.
GOOD, AGAIN = (1e-9, 2e-10), (0.015, 0.1)
# Unit rows with a smaller singular value are as good as dependent.
DEPENDENT = 1e-6
# One in so many is, where the next layers are read through them.
SOME = 5
# Times that a network which explains everything asked is held against fresh points, and lines to wrong ones.
REPAIRS, LINES = 3, 3
# The same in a box, and bent hyperplanes per straight one from which on another layer lies behind.
REPAIRS_IN_BOX, LINES_IN_BOX, BENT = 20, 6, 0.2
# Rounds in a row that may show nothing new there.
BARREN = 6
# A network further than this from the answers, relative to the largest, is not worth any more of them.
USELESS = 0.02

# A layer, sides settled, the rest of a network that ends behind it, and how far that is from the answers.
Closed = tuple[tuple[np.ndarray, np.ndarray], Weights, float]


@dataclass
class ExactReading:
    """One reading: what was read so far can be looked at whenever the budget ends.

    Attributes:
        ask: Answers questions.
        noise: How exact answers are.
        rng: Draws everything.
        stats: Gets `layers`.
        why: Gets what was chosen on the way.
        most_lines: Lines per layer.
        narrow: If this is the reading along a few directions only, how many inputs there are.
        fitted: Whether all weights were fitted there.
        weights: Layers read and left behind.
        best: The best network so far, and how far it is from what was asked.
        reading: The layer being read.
        deeper: The layers behind the first.
    """

    ask: Asked
    noise: Rounding
    rng: np.random.Generator
    stats: dict[str, Any]
    why: list[str]
    most_lines: int
    narrow: int = 0
    fitted: bool = False
    weights: Weights = field(default_factory=list)
    best: tuple[float, Weights] = (np.inf, [])
    reading: LayerFound | None = None
    deeper: Deeper | None = None

    @property
    def oracle(self) -> Oracle:
        """Where fresh points come from."""
        return self.ask.oracle

    @property
    def network(self) -> Network | None:
        """The best so far, if there is any."""
        if self.deeper is not None and self.deeper.network is not None:
            return self.deeper.network
        return Network.from_weights(self.best[1]) if self.best[1] else None

    @property
    def first_layer(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows and biases of the first layer as far as they were read, up to sign."""
        if self.weights:
            return self.weights[0]
        return None if self.reading is None else (self.reading.rows, self.reading.bias)

    def read(self, frame: Frame, far: float) -> Network:
        """All layers.

        Args:
            frame: The input.
            far: How far lines reach.
        """
        noise = self.noise
        if not frame.free or self.oracle.grid is not None or frame.d < MANY:
            return self._read_along(frame, noise, far, None)
        start = search(self.ask, frame, noise, self.rng, far)
        directions = None if start is None else Directions.along(start, self.rng)
        if start is None or directions is None:
            return self._read_along(frame, noise, far, start)
        return self._widened(directions, start, noise, far) or self._read_along(frame, noise, far, start)

    def _widened(self, directions: Directions, start: Line, noise: Rounding, far: float) -> Network | None:
        """The network along a few directions, then along all; None if that fails."""
        p = self.stats["directions"] = directions.few.shape[1]
        along, few_noise = Asked(Narrow(self.oracle, directions)), directions.rounding(noise)
        inner = ExactReading(along, few_noise, self.rng, {"layers": []}, [], self.most_lines, self.oracle.n)
        few = inner._read_along(Frame.of_input(p, None), few_noise, far, directions.seen(start))
        if inner.reading is not None and len(few.layers) > 1:
            again, seen = _doubtful(few, inner.reading, self.oracle.n)
            where = stations(few, again, self.rng)
            exact = inner.fitted
            probe = Probe(self.ask, noise, self.rng)
            wide = where and widen(probe, few, directions, where, again, seen, exact=exact)
            if wide:
                self.why += inner.why
                self.stats["layers"] = inner.stats["layers"]
                return wide
        del self.stats["directions"]
        return None

    def _read_along(self, frame: Frame, noise: Rounding, far: float, start: Line | None) -> Network:
        """The network as a function of this frame's coordinates."""
        probe, given = Probe(self.ask, noise, self.rng), [] if start is None else [start]
        for found in layer_steps(probe, frame, far=far, most_lines=self.most_lines, given=given):
            self.reading = found
        if not len(found.rows):
            return self._affine()
        if not self.narrow:
            self.reading = found = self._sharpen(frame, found, noise)
        layer, error = self._tried(frame, found, noise)
        # In a box lines are short and neurons are missed, also where nothing lies behind this layer.
        last = not frame.free and len(found.bent) <= BENT * len(found.rows) + 2
        barren = 0
        for _ in range(REPAIRS_IN_BOX if last else REPAIRS):
            if error >= self._fine(noise) and not last:
                break
            had = len(found)
            found, right = self._met_more(frame, found, noise)
            self.reading, more = found, len(found) > had
            barren = 0 if more else barren + 1
            if right or barren > (BARREN if last else 0):
                break
            if not more:
                continue
            self.stats["layers"].pop()
            layer, error = self._tried(frame, found, noise)
        if max(error, self.best[0]) >= self._fine(noise) and not last:
            if self.narrow and not self._cheap(int(ANSWERS * found.rows.size / self.oracle.m)):
                # No fit of all weights will make up for what the next layers are read through.
                self.reading = found = self._sharpen(frame, found, noise)
                layer = self._close(frame, found, noise)[0]
            self.weights.append(layer)
            many = MANY_NEURONS <= len(found.rows) <= frame.d and _independent(found.rows)
            before = self._all_active(frame, layer, found, noise, far) if many else ([], [])
            if self.best[0] >= (ROUGH if self.narrow else self._fine(noise)):
                network = self._deeper(frame, layer, found, before, noise, far)
                return self._fitted(network, noise) or network
        network = Network.from_weights(self.best[1])
        if self.best[0] > USELESS or (self.narrow and len(network.layers) == 2):
            return network
        fitted = self._fitted(network, noise)
        return fitted or finish(self.ask, network, noise.size, self.oracle.sample(2000, self.rng), self.rng)

    def _met_more(self, frame: Frame, found: LayerFound, noise: Rounding) -> tuple[LayerFound, bool]:
        """Lay lines to fresh points where the network is wrong.

        Returns:
            What was found, also on these, and whether the network is right at all fresh points.

        Queries: `FEWEST`, in a box `FEWEST_IN_BOX`; if some are wrong, those of `LINES` lines, in a box `LINES_IN_BOX`.
        """
        network = Network.from_weights(self.best[1])
        wide = FEWEST if frame.free else FEWEST_IN_BOX
        seen = validate(network, self.oracle, wide, self.rng, self._fine(noise), self.ask)
        lines = LINES if frame.free else LINES_IN_BOX
        chosen = seen.wrong[:lines] if frame.free else self.rng.permutation(seen.wrong)[:lines]
        for wrong in chosen:
            base = frame.sample(1, self.rng)
            (start,) = line_search(self.ask, base, wrong - base, 0.0, 1.0, noise, self.rng)
            probe = Probe(self.ask, noise, self.rng)
            found = finished(layer_steps(probe, frame, most_lines=1, found=found, given=[start]))
        if len(seen.wrong):
            # What was right about everything asked before is not any more.
            self.best = (self.ask.error(network, noise.size), self.best[1])
        return found, not len(seen.wrong)

    def _fitted(self, network: Network, noise: Rounding) -> Network | None:
        """All weights along a few directions at once; None where answers for that would not be cheap."""
        count = int(ANSWERS * parameters(network) / network.m)
        self.fitted = len(network.layers) > 2 and self._cheap(count) and self.best[0] <= USELESS
        if not self.fitted:
            return None
        x = self.oracle.sample(count, self.rng) * self.rng.choice(SCALES, size=(count, 1))
        x = both_sides(network, x)
        return fit(network, x, self.ask(x), noise=float(noise.floor.max()), steps=FITS)[0]

    def _cheap(self, count: int) -> bool:
        """Whether so many answers are few beside what the first layer's weights along all other inputs take."""
        assert self.reading is not None
        return count <= min(MANY_ANSWERS, CHEAP * self.narrow * len(self.reading.rows) / self.oracle.m)

    def _tried(self, frame: Frame, found: LayerFound, noise: Rounding) -> tuple[tuple[np.ndarray, np.ndarray], float]:
        """This layer, sides settled, and how far a network that ends behind it is from the answers."""
        layer, ending, error = self._close(frame, found, noise)
        if error < self.best[0]:
            self.best = (error, [*self.weights, *ending])
        self.stats["layers"].append({"neurons": len(found.rows), "lines": found.lines, "bent": len(found.bent)})
        return layer, error

    def _all_active(
        self,
        frame: Frame,
        layer: tuple[np.ndarray, np.ndarray],
        first: LayerFound,
        noise: Rounding,
        far: float,
    ) -> tuple[list[Neuron], list[Station]]:
        """The second layer as it is seen where the whole first one is active, and derivatives from there."""
        outside, frame = frame, frame.after(*layer)
        # The same length of an input moves the neurons more where all of it lies in the span of their rows.
        here = replace(noise, size=noise.size * np.sqrt(frame.lift.shape[1] / self.oracle.n))
        found = finished(layer_steps(Probe(self.ask, here, self.rng), frame, far=far, most_lines=self.most_lines))
        stations = list(zip(found.at, found.slope @ frame.M, strict=True))
        if not len(found.rows):
            return [], stations
        if not self.narrow:
            self._tried(frame, found, noise)
        else:
            probe = Probe(self.ask, here, self.rng)
            second = read_second_layer(SecondLayer.begun(probe, self.ask, outside, layer, first, found))
            if second.network is not None and second.residual < ROUGH:
                self.best = (second.residual, [(each.weights, each.bias) for each in second.network.layers])
                k = len(second.found.rows)
                self.stats["layers"].append({"neurons": k, "lines": len(second.found.searched), "bent": 0})
        given = [Neuron.given(*each) for each in zip(found.rows, found.bias, found.straight.error, strict=True)]
        return given, stations

    def _deeper(
        self,
        frame: Frame,
        layer: tuple[np.ndarray, np.ndarray],
        found: LayerFound,
        before: tuple[list[Neuron], list[Station]],
        noise: Rounding,
        far: float,
    ) -> Network:
        """The rest from sightings of its neurons wherever lines meet them."""
        setting = Setting.of(Probe(self.ask, noise, self.rng), self.ask, frame, far, self._fine(noise))
        for state in read_deeper(setting, Deeper.begun(layer, found, *before), self.most_lines):
            self.deeper = state
        if state.network is not None and state.residual < self.best[0]:
            self.best = (state.residual, [(each.weights, each.bias) for each in state.network.layers])
        del self.stats["layers"][1:]
        sizes = [len(w) for w, _ in state.layers[1:]] + [len(state.candidates.neurons)]
        self.stats["layers"] += [{"neurons": k, "lines": len(state.lines), "bent": 0} for k in sizes]
        return Network.from_weights(self.best[1])

    def _sharpen(self, frame: Frame, found: LayerFound, noise: Rounding) -> LayerFound:
        """The few rows that came out worst measured again, between close breakpoints."""
        error = found.straight.error
        worst = np.argsort(-error)
        few = frame.d > 200
        share, bad = (128 if self.oracle.m == 1 else 32, 1e-7) if few else (2, 1e-10)
        if self.narrow:
            share, bad = SOME, GOOD[self.oracle.m > 1]
        worst = worst[: max(1, len(worst) // share)]
        return sharpened(Probe(self.ask, noise, self.rng), frame, found, worst[error[worst] > bad])

    def _affine(self) -> Network:
        x, y = self.ask.all()
        solution = np.linalg.lstsq(np.concatenate([x, np.ones((len(x), 1))], axis=1), y, rcond=None)[0]
        return Network.from_weights([(solution[:-1].T, solution[-1])])

    def _fine(self, noise: Rounding) -> float:
        return max(1e-7, 3 * float(np.sqrt(noise.relative)))

    def _close(self, frame: Frame, found: LayerFound, noise: Rounding) -> Closed:
        """This layer as the last hidden one: with what moves along no normal folded in, with doubtful rows, or both.

        Returns:
            The layer, the rest of a network that ends here, and how far that is from the answers already paid for.
        """
        best: Closed | None = None
        maybe = np.flatnonzero(found.bent_maybe)
        for more in (False, True) if len(maybe) and self.weights else (False,):
            rows, bias, jump = found.rows, found.bias, found.straight.jump
            if more:
                new = _distinct(found.bent.rows[maybe])
                extra = found.bent.rows[maybe][new]
                at = frame.values(found.bent.at[maybe][new])
                rows, jump = np.concatenate([rows, extra]), np.concatenate([jump, found.bent.jump[maybe][new]])
                bias = np.append(bias, -np.einsum("bd,bd->b", extra, at))
            z = frame.values(found.at) @ rows.T + bias
            side = self._sides(rows, jump, z, found.slope, len(found.bent) == 0)
            layer = (rows * side[:, None], bias * side)
            active = (z * side > 0).astype(np.float64)
            over = found.slope - np.einsum("km,pk,kd->pmd", jump, active, layer[0])
            over = np.median(over, axis=0)
            for fold in (False, True):
                ending = output_layer(self.ask, self.weights, layer, over if fold else None, noise.size)
                if best is None or ending[1] < 0.1 * best[2]:
                    best = (layer, *ending)
                    if fold:
                        best = self._turned(best, len(rows), noise.size)
                if best[2] < self._fine(noise):
                    if len(best[1][0][0]) > len(rows):
                        self.why.append("An affine part (of neurons always active where it was asked) is folded in.")
                    return best
        assert best is not None
        return best

    def _turned(self, closed: Closed, k: int, size: float) -> Closed:
        """The same without the part that was folded in, if that was there because neurons were on the wrong side."""
        (_, bias), ((rows, _), (outer, _)), error = closed[0], closed[1], closed[2]
        fold = slice(k, k + (len(rows) - k) // 2)
        side = by_fold(rows[:k], outer[:, :k], outer[:, fold] @ rows[fold])
        if side is None:
            return closed
        layer = (rows[:k] * side[:, None], bias * side)
        turned = (layer, *output_layer(self.ask, self.weights, layer, None, size))
        return turned if turned[2] < 10 * error else closed

    def _sides(self, rows: np.ndarray, jump: np.ndarray, z: np.ndarray, slope: np.ndarray, last: bool) -> np.ndarray:
        k, d = rows.shape
        side: np.ndarray | None
        if k <= d:
            return by_vanishing(rows, z, slope)[0]
        if last:
            # w |z| / 2 bends by w: the measured jump is w itself, per unit of z.
            twice = 2 * slope - np.einsum("km,pk,kd->pmd", jump, np.sign(z), rows)
            side = by_balance(rows, jump, np.median(twice, axis=0), 1e-7)
        else:
            side = by_sparsity(rows, z, slope, 1e-8)
        if side is None:
            self.why.append(f"Which sides of {k} neurons on {d} coordinates are active could not be settled.")
            return np.ones(k)
        return side


def _independent(rows: np.ndarray) -> bool:
    """Whether what these neurons see can be chosen freely: training can make them parallel."""
    return float(np.linalg.svd(rows, compute_uv=False)[-1]) > DEPENDENT


def _doubtful(network: Network, reading: LayerFound, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a network with one hidden layer that came out worst, and a point on the hyperplane of each row."""
    k, p = reading.rows.shape
    again, seen = np.zeros(network.layers[0].neurons, dtype=bool), np.zeros((network.layers[0].neurons, p))
    if len(network.layers) == 2:
        seen[:k] = reading.straight.at
        most = network.m * max(1, int(AGAIN[network.m > 1] * n * k / (network.m * p)))
        worst = np.argsort(-reading.straight.error)[:most]
        again[worst] = reading.straight.error[worst] > GOOD[network.m > 1]
    return again, seen


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Indices of rows that are not a multiple of an earlier one."""
    keep: list[int] = []
    for i, row in enumerate(rows):
        if all(1 - abs(row @ rows[j]) > 1e-7 for j in keep):
            keep.append(i)
    return np.array(keep, dtype=int)
