"""Frequencies: a first layer of sines shows its weights as the frequencies of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished
from unveil.identification.method import Identification, Method
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading, ask, final_fit, repeated
from unveil.identification.smooth.hessians import gradient_span, inner_points
from unveil.identification.smooth.second_layer import search_outer
from unveil.identification.smooth.spectrum import Waves, agreed, generators, typical_frequency, waves_on_a_line
from unveil.outcome import BadInput
from unveil.whitebox.activation import ACTIVATIONS

_INNER = 0.7  # preactivations at the points of the first fits: where a sine is curved, but has no second valley


@dataclass(frozen=True)
class Frequencies(Method):
    """Identify a network with two hidden layers, the first of sines and no wider than the input, on an unbounded
    domain.

    1. The span of the gradients: dimension reduction, and the number of first-layer neurons.
    2. A line and its parallels: the strongest waves, none a combination of others, are first-layer weights, and their
        phases are shifts.
    3. Least squares on everything at ordinary points, neurons not seen and the second layer from random starts; the
        residual judges. If it fails, another line.
    4. Least squares on everything again, checked on others.

    Attributes:
        activation: Of the hidden layers, one name or one per hidden layer; the first must be "sin".
        widths: Neurons of the hidden layers, if known.
        lines: At most so many lines.
        starts: Of the least squares, after each line.

    Queries: `2 n (n + 8)` for the span, `2048 (k + 1)` for each line of a network with k first-layer neurons, mostly
        one to three lines, two per parameter for the first fits and 1.5 for the last.

    Examples:
        >>> method = uv.Frequencies("sin", widths=(10, 3), lines=8)
        >>> method.widths, method.lines
        ((10, 3), 8)
    """

    activation: str | tuple[str, ...] = "sin"
    widths: tuple[int, ...] | None = None
    lines: int = 6
    starts: int = 8

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> Frequencies:
        """See `Method.told`."""
        return cls(activation or "sin", widths)

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        names = (self.activation,) if isinstance(self.activation, str) else self.activation
        if names[0] != "sin":
            raise BadInput(f"Frequencies reads first layers of sines; got activation={names[0]!r}")
        return repeated(self._once, 1, oracle, method="Frequencies", rng=rng)

    def _once(self, reading: Reading) -> Polished | None:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        if oracle.within is not None:
            reading.why.append("the domain is bounded: too short for frequencies to be told apart")
            return None
        outer = ACTIVATIONS[self.activation if isinstance(self.activation, str) else self.activation[-1]]
        basis, _ = gradient_span(oracle, inner_points(oracle, oracle.n + 8, rng, 2.0), noise)
        k = self.widths[0] if self.widths else len(basis)
        stages.end("directions that matter")
        if k > len(basis):
            reading.why.append(f"{k} first-layer neurons are more than the {len(basis)} inputs that matter")
            return None
        frequency = typical_frequency(oracle, basis, rng)
        if not 0 < frequency < np.inf:
            reading.why.append("answers do not change far out: no waves")
            return None
        length = frequency * np.sqrt(len(basis))
        rank = self.widths[1] if self.widths and len(self.widths) > 1 else None
        count = 2 * (k * (oracle.n + 1) + (rank or 6) * (k + 2)) // oracle.m + 50
        x = oracle.nearest(_INNER / length * rng.standard_normal((count, oracle.n)))
        answers = ask(oracle, x)
        enough = max(3 * noise, 1e-9 * float(np.ptp(answers)))
        lines: list[Waves] = []
        best: Polished | None = None
        while len(lines) < self.lines and (best is None or best.rms > enough):
            lines.append(waves_on_a_line(oracle, basis, frequency, rng=rng))
            waves = agreed(lines, length)
            chosen = generators(waves, k, length)
            stages.end("first layer: frequencies")
            rows, shifts = waves.frequencies[chosen] @ basis, waves.phases[chosen] + np.pi / 2
            for _ in range(self.starts):
                first = _filled(rows, shifts, k, length, rng)
                fit = search_outer(first, x, answers, outer, rank, noise, rng=rng, starts=1)
                if best is None or fit.rms < best.rms:
                    best = fit
                if best.rms <= enough:
                    break
        reading.stats.update({"lines": len(lines), "waves": len(waves.phases), "typical frequency": frequency})
        reading.why.append(
            f"{len(chosen)} of {k} first-layer weights are frequencies seen on {len(lines)} lines, the rest fitted"
        )
        assert best is not None
        fit = final_fit(oracle, best.network, noise, rng)
        stages.end("all: fit")
        return fit


def _filled(rows: np.ndarray, shifts: np.ndarray, k: int, length: float, rng: np.random.Generator) -> FirstLayer:
    """A first layer of k neurons: those seen, and random ones for the others."""
    missing = rng.standard_normal((k - len(rows), rows.shape[1]))
    missing *= length / np.linalg.norm(missing, axis=1, keepdims=True)
    angles = rng.uniform(-np.pi / 2, np.pi / 2, len(missing))
    return FirstLayer(np.concatenate([rows, missing]), np.concatenate([shifts, angles]), ACTIVATIONS["sin"], 3.0)
