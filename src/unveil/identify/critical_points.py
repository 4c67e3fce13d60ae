"""CriticalPoints: read a ReLU network off the points where its answers bend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, reach, rounding
from unveil.identify.method import Identification, Method, residual
from unveil.identify.relu.deeper import Deeper
from unveil.identify.relu.ending import Asked, Weights, output_layer
from unveil.identify.relu.frame import Frame
from unveil.identify.relu.layer import SHARP, read_layer, sharpen
from unveil.identify.relu.merge import Neuron
from unveil.identify.relu.noisy import NoisyReading
from unveil.identify.relu.settle import finish
from unveil.identify.relu.signs import by_balance, by_sparsity, by_vanishing
from unveil.identify.relu.straight import LayerFound
from unveil.identify.relu.whole import Station
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

# How far lines reach where answers are noisy: what is further bends elsewhere, too, and biases drown out there.
FAR_WHEN_NOISY = 20.0
# From this many neurons in the first layer on the second is first looked for where all of them are active: there one
# derivative shows all weights of a neuron, elsewhere half of them.
MANY = 16


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

    def __init__(self, method: CriticalPoints, oracle: Oracle, rng: np.random.Generator) -> None:
        self.method, self.oracle, self.rng = method, oracle, rng
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
            error = residual(network, self.oracle, self.oracle.sample(self.method.checks, self.rng))
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
        self.reading = found = LayerFound.nothing(frame, self.oracle.m)
        read_layer(self.ask, frame, noise, self.rng, far=far, most_lines=self.method.most_lines, found=found)
        if not len(found.rows):
            return self._affine()
        self._sharpen(frame, found, noise)
        layer, error = self._tried(frame, found, noise)
        if error >= self._fine(noise):
            self.weights.append(layer)
            many = MANY <= len(found.rows) <= frame.d
            before = self._all_active(frame.after(*layer), noise, far) if many else ([], [])
            if self.best[0] >= self._fine(noise):
                return self._deeper(frame, layer, found, before, noise, far)
        network = Network.from_weights(self.best[1])
        if self.best[0] > 0.02:
            return network
        return finish(self.ask, network, noise.size, self.oracle.sample(2000, self.rng), self.rng)

    def _tried(self, frame: Frame, found: LayerFound, noise: Rounding) -> tuple[tuple[np.ndarray, np.ndarray], float]:
        """This layer, sides settled, and how far a network that ends behind it is from the answers."""
        layer, ending, error = self._close(frame, found, noise)
        if error < self.best[0]:
            self.best = (error, [*self.weights, *ending])
        self.stats["layers"].append({"neurons": len(found.rows), "lines": found.lines, "bent": len(found.bent_at)})
        return layer, error

    def _all_active(self, frame: Frame, noise: Rounding, far: float) -> tuple[list[Neuron], list[Station]]:
        """The second layer as it is seen where the whole first one is active, and derivatives from there."""
        # The same length of an input moves the neurons more where all of it lies in the span of their rows.
        here = replace(noise, size=noise.size * np.sqrt(frame.lift.shape[1] / self.oracle.n))
        found = read_layer(self.ask, frame, here, self.rng, far=far, most_lines=self.method.most_lines)
        stations = list(zip(found.at, found.slope @ frame.M, strict=True))
        if not len(found.rows):
            return [], stations
        self._tried(frame, found, noise)
        return [Neuron.given(*each) for each in zip(found.rows, found.bias, found.error, strict=True)], stations

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
        share = (128 if self.oracle.m == 1 else 32) if few else 2
        worst = worst[: max(1, len(worst) // share)]
        sharpen(self.ask, frame, found, noise, self.rng, worst[found.error[worst] > (1e-7 if few else 1e-10)])

    def _affine(self) -> Network:
        x, y = self.ask.all()
        solution = np.linalg.lstsq(np.concatenate([x, np.ones((len(x), 1))], axis=1), y, rcond=None)[0]
        return Network.from_weights([(solution[:-1].T, solution[-1])])

    def _fine(self, noise: Rounding) -> float:
        return max(1e-7, 3 * float(np.sqrt(noise.relative)))

    def _close(
        self, frame: Frame, found: LayerFound, noise: Rounding
    ) -> tuple[tuple[np.ndarray, np.ndarray], Weights, float]:
        """This layer as the last hidden one: with what moves along no normal folded in, with doubtful rows, or both.

        Returns:
            The layer, the rest of a network that ends here, and how far that is from the answers already paid for.
        """
        best: tuple[tuple[np.ndarray, np.ndarray], Weights, float] | None = None
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
                if best[2] < self._fine(noise):
                    if fold:
                        self.why.append(
                            "An affine part that nobody bends (neurons always active where it was asked) is folded in."
                        )
                    return best
        assert best is not None
        return best

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


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Indices of rows that are not a multiple of an earlier one."""
    keep: list[int] = []
    for i, row in enumerate(rows):
        if all(1 - abs(row @ rows[j]) > 1e-7 for j in keep):
            keep.append(i)
    return np.array(keep, dtype=int)
