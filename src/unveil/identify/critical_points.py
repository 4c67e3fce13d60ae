"""CriticalPoints: read a ReLU network off the points where its answers bend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unveil.blackbox.crossings import breakpoints
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, intact, reach, rounding
from unveil.identify.method import Identification, Method, residual
from unveil.identify.polish import parameters, polish
from unveil.identify.relu_follow import follow_surfaces
from unveil.identify.relu_frame import Frame
from unveil.identify.relu_layer import SHARP, follow_leads, read_layer, sharpen
from unveil.identify.relu_noisy import NoisyReading
from unveil.identify.relu_refine import refine, telling_points
from unveil.identify.relu_signs import by_balance, by_sparsity, by_vanishing
from unveil.identify.relu_straight import LayerFound
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

# How far lines reach where answers are noisy: what is further bends elsewhere, too, and biases drown out there.
FAR_WHEN_NOISY = 20.0

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
            whole = intact(y, self.oracle.widest)
            self.x.append(x[whole])
            self.y.append(y[whole])
            self.kept += x.size
        return y

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.x), np.concatenate(self.y)


@dataclass(frozen=True)
class CriticalPoints(Method):
    """Read a ReLU network layer by layer, near one query per parameter.

    Attributes:
        far: How far lines reach from the first points, in units of a typical input; None follows the precision of the
            answers.
        most_layers: Hidden layers after which it gives up.
        most_lines: Lines per layer.
        accept: Largest residual on fresh points of a complete result, in units of the square root of the answers'
            relative rounding.
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
        self.ask = Recorder(oracle)
        self.start = oracle.ledger.asked
        self.weights: Weights = []
        self.why: list[str] = []
        self.stats: dict[str, Any] = {"layers": []}
        self.best: tuple[float, Weights] = (np.inf, [])
        self.reading: LayerFound | None = None
        self.far = 30.0
        self.noisy: NoisyReading | None = None

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
            if network is None:
                return self._end(self._partial("It ended"), Outcome.check_failed, np.inf)
            error = residual(network, self.oracle, self.oracle.sample(self.method.checks, self.rng))
        except BudgetExceeded:
            return self._end(self._partial("The budget ended"), Outcome.budget_ended, np.inf)
        good = error <= self.method.accept * np.sqrt(noise.relative)
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
        self.far = far = self._far(frame, float(np.clip(1e-5 / noise.relative, 50, 1e5)))
        first, here = frame, noise
        leads = (np.empty((0, self.oracle.n)), np.empty((0, self.oracle.n)))
        for depth in range(self.method.most_layers):
            self.reading = found = LayerFound.nothing(frame, self.oracle.m)
            read_layer(self.ask, frame, here, self.rng, far=far, most_lines=self.method.most_lines, found=found)
            for _attempt in range(8 if depth else 1):
                if depth:
                    follow_leads(self.ask, frame, found, *self._values(*leads), here, self.rng)
                if not len(found.rows):
                    break
                if not depth:
                    self._sharpen(frame, found, noise)
                layer, ending, error = self._close(frame, found, noise)
                if error < self.best[0]:
                    self.best = (error, [*self.weights, *ending])
                if error < self._fine(noise) or not depth:
                    break
                self.weights.append(layer)
                leads = self._new_leads(first, noise)
                self.weights.pop()
            if not len(found.rows):
                break
            self.stats["layers"].append({"neurons": len(found.rows), "lines": found.lines, "bent": len(found.bent_at)})
            if error < self._fine(noise):
                break
            if len(found.rows) > frame.d:
                if not depth:
                    self.weights.append(layer)
                    ending, error = self._behind(frame, layer, found, noise, far)
                    if error < self.best[0]:
                        self.best = (error, [*self.weights, *ending])
                break
            self.weights.append(layer)
            frame = frame.after(*layer)
            # The same length of an input moves the neurons more where all of it lies in the span of their rows.
            here = replace(noise, size=noise.size * np.sqrt(frame.lift.shape[1] / self.oracle.n))
            leads = (np.concatenate([leads[0], found.bent_at]), np.concatenate([leads[1], found.bent_step]))
        error, best = self.best
        return self._polished(Network.from_weights(best), error, noise) if best else self._affine()

    def _behind(
        self, frame: Frame, layer: tuple[np.ndarray, np.ndarray], found: LayerFound, noise: Rounding, far: float
    ) -> tuple[Weights, float]:
        """The last hidden layer behind more neurons than inputs, and the output layer."""
        rows, bias = np.empty((0, len(layer[0]))), np.empty(0)
        best: tuple[Weights, float] = ([], np.inf)
        for _ in range(4):
            leads = (found.bent_at, found.bent_rows)
            rows, bias = follow_surfaces(self.ask, layer, leads, found.bent_error, noise, self.rng, (rows, bias))
            if len(rows):
                for ending in self._both_sides(layer, rows, bias, noise):
                    best = min(best, ending, key=lambda e: e[1])
                    polished = self._polished(Network.from_weights([layer, *ending[0]]), ending[1], noise)
                    best = self._unpack(polished, noise, best)
                    if best[1] < self._fine(noise):
                        break
                if best[1] < self._fine(noise):
                    break
            # Neurons that no line has met yet: one more line.
            old = len(found.bent_at)
            read_layer(self.ask, frame, noise, self.rng, far=far, most_lines=1, found=found)
            for name in ("bent_at", "bent_rows", "bent_error", "bent_step", "bent_jump", "bent_maybe"):
                setattr(found, name, getattr(found, name)[old:])
        self.stats["layers"].append({"neurons": len(rows), "lines": found.lines, "bent": 0})
        return best

    def _unpack(self, network: Network, noise: Rounding, best: tuple[Weights, float]) -> tuple[Weights, float]:
        """The layers of a polished network after the first, if it answers better."""
        x, y = self.ask.all()
        weight = 1 / (1 + np.linalg.norm(x, axis=1) / noise.size)[:, None]
        error = np.abs((network(x) - y) * weight).max() / max(np.abs(y * weight).max(), 1e-300)
        if error >= best[1]:
            return best
        self.weights[0] = (network.layers[0].weights, network.layers[0].bias)
        return [(layer.weights, layer.bias) for layer in network.layers[1:]], float(error)

    def _both_sides(
        self, layer: tuple[np.ndarray, np.ndarray], rows: np.ndarray, bias: np.ndarray, noise: Rounding
    ) -> list[tuple[Weights, float]]:
        """Sides of the last hidden layer, and the output layer, by least squares; without and with a part nobody
        bends."""
        # With sides at will, relu(-z) = relu(z) - z leaves a linear part: the sum of the rows whose side is wrong.
        x, y = self.ask.all()
        h = np.maximum(x @ layer[0].T + layer[1], 0)
        weight = 1 / (1 + np.linalg.norm(x, axis=1) / noise.size)[:, None]
        F = np.concatenate([np.maximum(h @ rows.T + bias, 0), np.ones((len(h), 1)), h], axis=1)
        solution = np.linalg.lstsq(F * weight, y * weight, rcond=None)[0]
        k = len(rows)
        out, over = solution[:k], solution[k + 1 :]
        A = (out[:, :, None] * rows[:, None, :]).reshape(k, -1).T
        wrong = np.linalg.lstsq(A, over.T.reshape(-1), rcond=None)[0]
        side = np.where(wrong > 0.5, -1.0, 1.0)
        turned = (rows * side[:, None], bias * side)
        return [self._ending(turned, None, noise), self._ending(turned, over.T, noise)]

    def _sharpen(self, frame: Frame, found: LayerFound, noise: Rounding) -> None:
        """Measure again the few rows that came out worst, between close breakpoints."""
        worst = np.argsort(-found.error)
        if noise.relative < SHARP:
            few = frame.d > 200
            share = (128 if self.oracle.m == 1 else 32) if few else 2
            worst = worst[: max(1, len(worst) // share)]
            sharpen(self.ask, frame, found, noise, self.rng, worst[found.error[worst] > (1e-7 if few else 1e-10)])

    def _polished(self, network: Network, error: float, noise: Rounding) -> Network:
        """Least squares: on all parameters and answers already paid for, or behind the first layer on fresh ones."""
        size = parameters(network)
        if error > 0.02:
            return network
        if size > 1000:
            behind = size - network.layers[0].weights.size - network.layers[0].bias.size
            if len(network.layers) < 3 or behind > 3000 or error > 1e-4:
                return network
            count = int((3 if self.oracle.m == 1 else 2) * behind / self.oracle.m)
            x = self.oracle.sample(max(4000, 2 * count), self.rng)
            if self.oracle.within is None:
                x[::2] *= 3  # neurons that are rarely active near the origin
            x = telling_points(network, x, count)
            return refine(network, x, self.ask(x))
        x, y = self.ask.all()
        near = np.flatnonzero(np.linalg.norm(x, axis=1) < 6 * noise.size)
        near = self.rng.permutation(near)[: 3 * size // self.oracle.m + 50]
        if len(near) * self.oracle.m < 1.2 * size:
            return network
        return polish(network, x[near], y[near], noise=float(noise.floor.min()), steps=40).network

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
                ending = self._ending(layer, over if fold else None, noise)
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

    def _ending(
        self, layer: tuple[np.ndarray, np.ndarray], over: np.ndarray | None, noise: Rounding
    ) -> tuple[Weights, float]:
        """The output layer by least squares on the answers already paid for; `over`: slopes that no neuron explains."""
        x, y = self.ask.all()
        h = x
        for w, b in self.weights:
            h = np.maximum(h @ w.T + b, 0)
        rows, bias = layer
        weight = 1 / (1 + np.linalg.norm(x, axis=1) / noise.size)[:, None]
        if over is not None:
            d = len(h[0])
            if len(y) > 2 * (len(rows) + d + 1):
                z = np.maximum(h @ rows.T + bias, 0)
                F = np.concatenate([z, np.ones((len(z), 1)), h], axis=1)
                over = np.linalg.lstsq(F * weight, y * weight, rcond=None)[0][-d:].T
            u, s, vt = np.linalg.svd(over, full_matrices=False)
            keep = s > 1e-7 * max(float(s.max(initial=0)), 1e-300)
            # relu(v h) - relu(-v h) = v h
            rows = np.concatenate([rows, vt[keep], -vt[keep]])
            bias = np.concatenate([bias, np.zeros(2 * int(keep.sum()))])
            fixed = np.maximum(h @ rows[len(layer[0]) :].T, 0)
            tail = np.concatenate([(u * s)[:, keep], -(u * s)[:, keep]], axis=1)
            y = y - fixed @ tail.T
        z = np.maximum(h @ layer[0].T + layer[1], 0)
        F = np.concatenate([z, np.ones((len(z), 1))], axis=1)
        solution, *_ = np.linalg.lstsq(F * weight, y * weight, rcond=None)
        error = np.abs((F @ solution - y) * weight).max() / max(np.abs(self.ask.all()[1] * weight).max(), 1e-300)
        W = solution[:-1].T if over is None else np.concatenate([solution[:-1].T, tail], axis=1)
        return [(rows, bias), (W, solution[-1])], float(error)

    def _values(self, x: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the layers read so far make of inputs, and of steps from there."""
        for w, b in self.weights:
            z = x @ w.T + b
            on = z > 1e-9 * (1 + np.abs(z).max(axis=1, keepdims=True, initial=0))
            x, step = np.where(on, z, 0), np.where(on, step @ w.T, 0)
        return x, step

    def _new_leads(self, first: Frame, noise: Rounding) -> tuple[np.ndarray, np.ndarray]:
        """Breakpoints along a fresh line through the inputs that nothing read so far explains."""
        base, direction, low, high = first.lines(1, min(30.0, self.far), self.rng)
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
