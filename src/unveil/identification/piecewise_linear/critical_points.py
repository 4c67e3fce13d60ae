"""CriticalPoints: read a ReLU network off the points where its answers bend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, reach, rounding
from unveil.identification.fitting.design import finish
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import Asked, Weights, output_layer
from unveil.identification.method import Identification, Method, residual
from unveil.identification.piecewise_linear.completeness import Station
from unveil.identification.piecewise_linear.critical_point import Searched, search
from unveil.identification.piecewise_linear.deeper_layers import Deeper
from unveil.identification.piecewise_linear.few_directions import MANY, Directions, Narrow
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer import SHARP, read_layer, sharpen
from unveil.identification.piecewise_linear.layer_membership import LayerFound
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.noisy_reading import NoisyReading
from unveil.identification.piecewise_linear.second_layer import ROUGH, SecondLayer, both_sides
from unveil.identification.piecewise_linear.sign_recovery import by_balance, by_fold, by_sparsity, by_vanishing
from unveil.identification.piecewise_linear.wide_input import stations, widen
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

# How far lines reach where answers are noisy: what is further bends elsewhere, too, and biases drown out there.
FAR_WHEN_NOISY = 20.0
# From this many neurons in the first layer on the second is first looked for where all of them are active: there one
# derivative shows all weights of a neuron, elsewhere half of them.
MANY_NEURONS = 16
# So many times more points check a network of several hidden layers read from noisy answers, where a neuron that hardly
# ever matters is easily missed.
DEEPER = 20
# Answers per parameter for fitting all of them along a few directions, how far out they are, and steps; how many such
# answers are too many, and what they may cost beside the first layer's weights along all inputs.
ANSWERS, SCALES, FITS = 1.6, (1.0, 1.0, 2.0), 16
MANY_ANSWERS, CHEAP = 6000, 1.0
# With one output and with several: rows that came out worse than this along a few directions are measured again, for
# this share of the first layer's queries at most.
GOOD, AGAIN = (1e-9, 2e-10), (0.015, 0.1)
# One in so many is, where the next layers are read through them.
SOME = 5
# A network further than this from the answers, relative to the largest, is not worth any more of them.
USELESS = 0.02

# A layer, sides settled, the rest of a network that ends behind it, and how far that is from the answers.
Closed = tuple[tuple[np.ndarray, np.ndarray], Weights, float]


@dataclass(frozen=True)
class CriticalPoints(Method):
    """Read a ReLU network layer by layer, near one query per parameter.

    Attributes:
        far: How far lines reach from the first points, in units of a typical input; None follows the precision of the
            answers.
        most_layers: Hidden layers after which it gives up.
        most_lines: Lines per layer.
        accept: Largest residual on fresh points of a complete result, in units of the square root of the answers'
            relative rounding; of a hundred times it where answers are noisy.
        checks: Fresh points that judge the result.

    Source: the idea of following bends: Milli et al., arXiv:1807.05122; Carlini, Jagielski, Mironov, CRYPTO 2020
    (arXiv:2003.04884); straight against bent hyperplanes: Rolnick, Kording, arXiv:1910.00744. The grouping of
    Jacobians, the confirmation in one
    place each and the frames of positive orthants are ours.
    """

    far: float | None = None
    most_layers: int = 8
    most_lines: int = 24
    accept: float = 10.0
    checks: int = 50

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        return _Reading(self, oracle, rng).run()


class _Reading:
    """One run of the method."""

    def __init__(self, method: CriticalPoints, oracle: Oracle, rng: np.random.Generator, *, narrow: int = 0) -> None:
        self.method, self.oracle, self.rng = method, oracle, rng
        # If this is the reading along a few directions only, how many inputs there are.
        self.narrow = narrow
        # Whether all weights were fitted there.
        self.fitted = False
        self.ask = Asked(oracle)
        self.start = oracle.ledger.asked
        self.weights: Weights = []
        self.why: list[str] = []
        self.stats: dict[str, Any] = {"layers": []}
        self.best: tuple[float, Weights] = (np.inf, [])
        self.reading: LayerFound | None = None
        self.noisy: NoisyReading | None = None
        self.deeper: Deeper | None = None

    def run(self) -> Identification:
        network: Network | None = None
        try:
            frame = Frame.of_input(self.oracle.n, self.oracle.within)
            noise = rounding(self.ask, frame.sample(4, self.rng), self.oracle.resolution, self.rng)
            self.stats["relative_rounding"] = noise.relative
            if not noise.straight:
                self.why.append("The answers curve everywhere: this is no piecewise-linear network.")
                return self._end(None, Outcome.check_failed, np.inf)
            network = self._read(frame, noise) if noise.relative < SHARP else self._read_noisy(frame, noise)
            if self.noisy is not None and not self.noisy.whole:
                self._partial("It ended")
            if network is None:
                return self._end(None, Outcome.check_failed, np.inf)
            deep = self.noisy is not None and len(self.noisy.weights) > 1
            checks = self.method.checks * (DEEPER if deep else 1)
            error = residual(network, self.oracle, self.oracle.sample(checks, self.rng))
        except BudgetExceeded:
            return self._end(self._partial("The budget ended"), Outcome.budget_ended, np.inf)
        allowed = np.sqrt(noise.relative)
        if noise.relative >= SHARP:
            allowed = min(allowed, 100 * noise.relative)
        good = error <= self.method.accept * allowed
        return self._end(network, Outcome.complete if good else Outcome.check_failed, error)

    def _end(self, network: Network | None, outcome: Outcome, error: float) -> Identification:
        return Identification(
            network,
            outcome,
            self.oracle.ledger.asked - self.start,
            error,
            "critical points",
            tuple(self.why),
            self.stats,
        )

    def _partial(self, ending: str) -> Network | None:
        """The best network so far; else the rows read are told apart from it, in `stats["rows_read"]`, up to sign."""
        weights, reading = self.weights, self.reading
        best = Network.from_weights(self.best[1]) if self.best[1] else None
        if self.noisy is not None:
            weights, reading, best = self.noisy.weights, self.noisy.found, self.noisy.network
            self.stats["layers_read"] = weights
        if self.deeper is not None and self.deeper.network is not None:
            best = self.deeper.network
        rows = weights[0] if weights else (reading.rows, reading.bias) if reading else None
        if rows is not None and len(rows[0]):
            self.stats["rows_read"] = rows
            self.why.append(f"{ending} after {len(rows[0])} neurons of the first layer were read.")
        elif "directions" in self.stats:
            p, n = self.stats["directions"], self.oracle.n
            self.why.append(f"{ending} before what was read along {p} directions of the inputs was read along all {n}.")
        return best

    def _read_noisy(self, frame: Frame, noise: Rounding) -> Network | None:
        self.noisy = NoisyReading(self.ask, self.oracle, noise, self.rng, self.stats, self.why)
        far, each = self._far(frame, FAR_WHEN_NOISY), self.method
        return self.noisy.read(frame, far=far, most_layers=each.most_layers, most_lines=each.most_lines)

    def _far(self, frame: Frame, usual: float) -> float:
        far, widest = self.method.far or usual, self.oracle.widest
        return reach(self.oracle, frame.sample(4, self.rng), widest, far) if np.isfinite(widest) else far

    def _read(self, frame: Frame, noise: Rounding) -> Network:
        far = self._far(frame, float(np.clip(1e-5 / noise.relative, 50, 1e5)))
        if not frame.free or self.oracle.grid is not None or frame.d < MANY:
            return self._read_along(frame, noise, far, None)
        start = search(self.ask, frame, noise, self.rng, far)
        directions = None if start is None else Directions.along(start, self.rng)
        if start is None or directions is None:
            return self._read_along(frame, noise, far, start)
        return self._widened(directions, start, noise, far) or self._read_along(frame, noise, far, start)

    def _widened(self, directions: Directions, start: Searched, noise: Rounding, far: float) -> Network | None:
        """The network along a few directions, then along all; None if that fails."""
        p = self.stats["directions"] = directions.few.shape[1]
        inner = _Reading(self.method, Narrow(self.oracle, directions), self.rng, narrow=self.oracle.n)
        few = inner._read_along(Frame.of_input(p, None), directions.rounding(noise), far, directions.seen(start))
        if inner.reading is not None and len(few.layers) > 1:
            again, seen = _doubtful(few, inner.reading, self.oracle.n)
            where = stations(few, again, self.rng)
            exact = inner.fitted
            wide = where and widen(self.ask, few, directions, where, again, seen, noise, self.rng, exact=exact)
            if wide:
                self.why += inner.why
                self.stats["layers"] = inner.stats["layers"]
                return wide
        del self.stats["directions"]
        return None

    def _read_along(self, frame: Frame, noise: Rounding, far: float, start: Searched | None) -> Network:
        """The network as a function of this frame's coordinates."""
        self.reading = found = LayerFound.nothing(frame, self.oracle.m)
        read_layer(
            self.ask, frame, noise, self.rng, far=far, most_lines=self.method.most_lines, found=found, start=start
        )
        if not len(found.rows):
            return self._affine()
        if not self.narrow:
            self._sharpen(frame, found, noise)
        layer, error = self._tried(frame, found, noise)
        if error >= self._fine(noise):
            if self.narrow and not self._cheap(int(ANSWERS * found.rows.size / self.oracle.m)):
                # No fit of all weights will make up for what the next layers are read through.
                self._sharpen(frame, found, noise)
                layer = self._close(frame, found, noise)[0]
            self.weights.append(layer)
            many = MANY_NEURONS <= len(found.rows) <= frame.d
            before = self._all_active(frame, layer, found, noise, far) if many else ([], [])
            if self.best[0] >= (ROUGH if self.narrow else self._fine(noise)):
                network = self._deeper(frame, layer, found, before, noise, far)
                return self._fitted(network, noise) or network
        network = Network.from_weights(self.best[1])
        if self.best[0] > USELESS or (self.narrow and len(network.layers) == 2):
            return network
        fitted = self._fitted(network, noise)
        return fitted or finish(self.ask, network, noise.size, self.oracle.sample(2000, self.rng), self.rng)

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
        self.stats["layers"].append({"neurons": len(found.rows), "lines": found.lines, "bent": len(found.bent_at)})
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
        found = read_layer(self.ask, frame, here, self.rng, far=far, most_lines=self.method.most_lines)
        stations = list(zip(found.at, found.slope @ frame.M, strict=True))
        if not len(found.rows):
            return [], stations
        if not self.narrow:
            self._tried(frame, found, noise)
        else:
            second = SecondLayer(self.ask, outside, layer, first, found, here, self.rng)
            error = second.read()
            if second.network is not None and error < ROUGH:
                self.best = (error, [(each.weights, each.bias) for each in second.network.layers])
                k = len(second.found.rows)
                self.stats["layers"].append({"neurons": k, "lines": len(second.found.searched), "bent": 0})
        given = [Neuron.given(*each) for each in zip(found.rows, found.bias, found.error, strict=True)]
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
        self.deeper = Deeper(self.ask, frame, layer, found, *before, noise, self.rng, far)
        error = self.deeper.read(self._fine(noise), self.method.most_lines)
        if self.deeper.network is not None and error < self.best[0]:
            self.best = (error, [(each.weights, each.bias) for each in self.deeper.network.layers])
        del self.stats["layers"][1:]
        sizes = [len(w) for w, _ in self.deeper.layers[1:]] + [len(self.deeper.neurons)]
        self.stats["layers"] += [{"neurons": k, "lines": len(self.deeper.lines), "bent": 0} for k in sizes]
        return Network.from_weights(self.best[1])

    def _sharpen(self, frame: Frame, found: LayerFound, noise: Rounding) -> None:
        """Measure again the few rows that came out worst, between close breakpoints."""
        worst = np.argsort(-found.error)
        few = frame.d > 200
        share, bad = (128 if self.oracle.m == 1 else 32, 1e-7) if few else (2, 1e-10)
        if self.narrow:
            share, bad = SOME, GOOD[self.oracle.m > 1]
        worst = worst[: max(1, len(worst) // share)]
        sharpen(self.ask, frame, found, noise, self.rng, worst[found.error[worst] > bad])

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
            rows, bias, jump = found.rows, found.bias, found.jump
            if more:
                new = _distinct(found.bent_rows[maybe])
                extra = found.bent_rows[maybe][new]
                at = frame.values(found.bent_at[maybe][new])
                rows, jump = np.concatenate([rows, extra]), np.concatenate([jump, found.bent_jump[maybe][new]])
                bias = np.append(bias, -np.einsum("bd,bd->b", extra, at))
            z = frame.values(found.at) @ rows.T + bias
            side = self._sides(rows, jump, z, found.slope, len(found.bent_at) == 0)
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
                        self.why.append(
                            "An affine part that nobody bends (neurons always active where it was asked) is folded in."
                        )
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


def _doubtful(network: Network, reading: LayerFound, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a network with one hidden layer that came out worst, and a point on the hyperplane of each row."""
    k, p = reading.rows.shape
    again, seen = np.zeros(network.layers[0].neurons, dtype=bool), np.zeros((network.layers[0].neurons, p))
    if len(network.layers) == 2:
        seen[:k] = reading.seen
        most = network.m * max(1, int(AGAIN[network.m > 1] * n * k / (network.m * p)))
        worst = np.argsort(-reading.error)[:most]
        again[worst] = reading.error[worst] > GOOD[network.m > 1]
    return again, seen


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Indices of rows that are not a multiple of an earlier one."""
    keep: list[int] = []
    for i, row in enumerate(rows):
        if all(1 - abs(row @ rows[j]) > 1e-7 for j in keep):
            keep.append(i)
    return np.array(keep, dtype=int)
