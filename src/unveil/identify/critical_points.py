"""CriticalPoints: read a ReLU network off the points where its answers bend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unveil.blackbox.crossings import Rounding, breakpoints, rounding
from unveil.blackbox.oracle import Oracle
from unveil.identify.method import Identification, Method, residual
from unveil.identify.relu_frame import Frame
from unveil.identify.relu_layer import LayerFound, follow_leads, read_layer
from unveil.identify.relu_signs import by_balance, by_sparsity, by_vanishing
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

Weights = list[tuple[np.ndarray, np.ndarray]]


@dataclass
class Recorder:
    """Asks, and keeps small batches for the fits at the end, where an answer already paid for serves again."""

    oracle: Oracle
    most: int = 6_000_000
    x: list[np.ndarray] = field(default_factory=list)
    y: list[np.ndarray] = field(default_factory=list)
    kept: int = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = self.oracle.nearest(x)
        y = self.oracle(x)
        if x.size <= self.most // 4 and self.kept + x.size <= self.most:
            self.x.append(x)
            self.y.append(y)
            self.kept += x.size
        return y

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.x), np.concatenate(self.y)


@dataclass(frozen=True)
class CriticalPoints(Method):
    """Read a ReLU network layer by layer, near one query per parameter.

    Attributes:
        far: How far lines reach from the first points, in units of a typical input; None follows the precision of the answers.
        most_layers: Hidden layers after which it gives up.
        most_lines: Lines per layer.
        accept: Largest residual on fresh points of a complete result, in units of the square root of the answers' relative rounding.
        checks: Fresh points that judge the result.

    Source: the idea of following bends: Milli et al., arXiv:1807.05122; Carlini, Jagielski, Mironov, CRYPTO 2020
    (arXiv:2003.04884); straight against bent hyperplanes: Rolnick, Kording, arXiv:1910.00744. The grouping of Jacobians, the confirmation in one
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
        self.ask = Recorder(oracle)
        self.start = oracle.ledger.asked
        self.weights: Weights = []
        self.why: list[str] = []
        self.stats: dict[str, Any] = {"layers": []}

    def run(self) -> Identification:
        network: Network | None = None
        try:
            frame = Frame.of_input(self.oracle.n, self.oracle.within)
            noise = rounding(self.ask, frame.sample(4, self.rng), self.oracle.resolution, self.rng)
            self.stats["relative_rounding"] = noise.relative
            if not noise.straight:
                self.why.append("The answers curve everywhere: this is no piecewise-linear network.")
                return self._end(None, Outcome.check_failed, np.inf)
            network = self._read(frame, noise)
            error = residual(network, self.oracle, self.oracle.sample(self.method.checks, self.rng))
        except BudgetExceeded:
            partial = self._partial()
            return self._end(partial, Outcome.budget_ended, np.inf)
        good = error <= self.method.accept * np.sqrt(noise.relative)
        return self._end(network, Outcome.complete if good else Outcome.check_failed, error)

    def _end(self, network: Network | None, outcome: Outcome, error: float) -> Identification:
        return Identification(
            network, outcome, self.oracle.ledger.asked - self.start, error, "critical points", tuple(self.why), self.stats
        )

    def _partial(self) -> Network | None:
        return None

    def _read(self, frame: Frame, noise: Rounding) -> Network:
        far = self.method.far or float(np.clip(1e-4 / noise.relative, 30, 1e5))
        first = frame
        leads = (np.empty((0, self.oracle.n)), np.empty((0, self.oracle.n)))
        for depth in range(self.method.most_layers):
            found = read_layer(self.ask, frame, noise, self.rng, far=far, most_lines=self.method.most_lines)
            for attempt in range(8 if depth else 1):
                if depth:
                    h, dh = self._values(*leads)
                    follow_leads(self.ask, frame, found, h, dh, noise, self.rng)
                k, d = found.rows.shape
                if k == 0:
                    break
                last = len(found.bent_at) == 0
                z = frame.values(found.at) @ found.rows.T + found.bias
                side = self._sides(found, z, last, noise)
                rows, bias = found.rows * side[:, None], found.bias * side
                self.weights.append((rows, bias))
                W, c, error = self._last(noise)
                if error < 1e-7 or not depth or attempt == 7:
                    break
                self.weights.pop()
                leads = self._new_leads(first, found, noise, far)
            if k == 0:
                break
            self.stats["layers"].append({"neurons": k, "lines": found.lines, "bent": len(found.bent_at)})
            if error < 1e-7:
                self.weights.append((W, c))
                return Network.from_weights(self.weights)
            if k > d:
                break
            frame = frame.after(rows, bias)
            leads = (np.concatenate([leads[0], found.bent_at]), np.concatenate([leads[1], found.bent_step]))
        W, c, error = self._last(noise)
        return Network.from_weights([*self.weights, (W, c)])

    def _values(self, x: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the layers read so far make of inputs, and of steps from there."""
        for w, b in self.weights:
            z = x @ w.T + b
            on = z > 1e-9 * (1 + np.abs(z).max(axis=1, keepdims=True, initial=0))
            x, step = np.where(on, z, 0), np.where(on, step @ w.T, 0)
        return x, step

    def _new_leads(self, first: Frame, found: LayerFound, noise: Rounding, far: float) -> tuple[np.ndarray, np.ndarray]:
        """Breakpoints along a fresh line through the inputs that nothing read so far explains."""
        base, direction, low, high = first.lines(1, 30.0, self.rng)
        (line,) = breakpoints(self.ask, base, direction, low, high, noise, self.rng)
        x = base + line.t[:, None] * direction
        open_ = np.ones(len(x), dtype=bool)
        h = x
        for w, b in self.weights:
            z = h @ w.T + b
            open_ &= np.abs(z).min(axis=1, initial=np.inf) > 1e-7 * (1 + np.linalg.norm(h, axis=1))
            h = np.maximum(z, 0)
        x = x[open_]
        return x, np.repeat(direction, len(x), axis=0)

    def _sides(self, found: LayerFound, z: np.ndarray, last: bool, noise: Rounding) -> np.ndarray:
        k, d = found.rows.shape
        if k <= d:
            side, doubt = by_vanishing(found.rows, z, found.slope)
            return side
        if last:
            # w |z| / 2 bends by w: the measured jump is w itself, per unit of z.
            twice = 2 * found.slope - np.einsum("km,pk,kd->pmd", found.jump, np.sign(z), found.rows)
            side = by_balance(found.rows, found.jump, np.median(twice, axis=0), 1e-7)
            if side is None:
                self.why.append("Sides are not settled.")
                return np.ones(k)
            return side
        side = by_sparsity(found.rows, z, found.slope, 1e-8)
        return np.ones(k) if side is None else side

    def _last(self, noise: Rounding) -> tuple[np.ndarray, np.ndarray, float]:
        """The output layer by least squares on the answers already paid for."""
        x, y = self.ask.all()
        h = x
        for w, b in self.weights:
            h = np.maximum(h @ w.T + b, 0)
        weight = 1 / (1 + np.linalg.norm(x, axis=1) / noise.size)[:, None]
        F = np.concatenate([h, np.ones((len(h), 1))], axis=1)
        solution, *_ = np.linalg.lstsq(F * weight, y * weight, rcond=None)
        error = np.abs((F @ solution - y) * weight).max() / max(np.abs(y * weight).max(), 1e-300)
        return solution[:-1].T, solution[-1], float(error)
