"""Frequencies: a first layer of sines shows its weights as the frequencies of the answers.

A function of sin(a_i x + t_i) is a sum of waves exp(i q x) whose q are integer combinations of the rows a_i. The
strongest are, mostly, the rows themselves. A line through the inputs shows each wave as a peak; parallel lines a little
to the side show by its phase how fast it changes along the other coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rows import Rows
from unveil.identification.fitting.least_squares import Polished
from unveil.identification.method import Identification, Method
from unveil.identification.smooth.blocks import FirstLayer, gradient_span, inner_points
from unveil.identification.smooth.conclusion import Reading, ask, final_fit, repeated
from unveil.identification.smooth.second_layer import search_outer
from unveil.outcome import BadInput
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.activation import activation as activation_named

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

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        names = (self.activation,) if isinstance(self.activation, str) else self.activation
        if names[0] != "sin":
            raise BadInput(f"Frequencies reads first layers of sines; got activation={names[0]!r}")
        return repeated(self._once, 1, oracle, method="Frequencies", rng=rng)

    def _once(self, reading: Reading) -> Polished | None:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        if oracle.within is not None:
            reading.why.append("the domain is bounded: too short for frequencies to be told apart")
            return None
        outer = activation_named(self.activation if isinstance(self.activation, str) else self.activation[-1])
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


def _filled(
    rows: Float[np.ndarray, "s n"], shifts: Float[np.ndarray, " s"], k: int, length: float, rng: np.random.Generator
) -> FirstLayer:
    """A first layer of k neurons: those seen, and random ones for the others."""
    missing = rng.standard_normal((k - len(rows), rows.shape[1]))
    missing *= length / np.linalg.norm(missing, axis=1, keepdims=True)
    angles = rng.uniform(-np.pi / 2, np.pi / 2, len(missing))
    return FirstLayer(np.concatenate([rows, missing]), np.concatenate([shifts, angles]), ACTIVATIONS["sin"], 3.0)


SAMPLES = 2048  # on every line
_OVERTONES = 5.5  # the band read, in typical frequencies: rows of all lengths, and most sums of two
_ASIDE = 0.7  # radians that a typical row's phase moves from one parallel line to the next, at most
_PEAKS = 150  # of the strongest on a line
_DOUBT = 0.08  # of a peak, from which another one is taken to interfere
_SAME = 0.25  # distance of two frequencies, in lengths of a typical row, below which they are one
_LINEAR = 0.05  # more for every row in a combination


@dataclass(frozen=True)
class Waves(Rows):
    """Waves seen on lines, those least in doubt first."""

    frequencies: Float[np.ndarray, "p r"]  # vectors q, in the coordinates of the lines' basis
    phases: Float[np.ndarray, " p"]  # at the origin, modulo pi
    amplitudes: Float[np.ndarray, " p"]  # root mean square over outputs
    # how much a peak's height differs between parallel lines, where another one interferes with it
    doubts: Float[np.ndarray, " p"]
    seen: Float[np.ndarray, " p"]  # on how many lines


def looks_periodic(oracle: Oracle, rng: np.random.Generator) -> bool:
    """Whether answers far out vary as much, and as fast, as near by. Queries: 256."""
    if oracle.within is not None:
        return False
    rays = rng.standard_normal((64, oracle.n))
    aside = 1e-2 * rng.standard_normal(rays.shape)
    spreads, changes = [], []
    for stretch in (3.0, 1e3):
        y = oracle(oracle.nearest(stretch * rays))
        spreads.append(float(y.std(axis=0).max()))
        changes.append(float(np.median(np.abs(oracle(oracle.nearest(stretch * rays + aside)) - y).max(axis=1))))
    return all(0 < far < 3 * near and near < 3 * far for near, far in (spreads, changes))


def typical_frequency(oracle: Oracle, basis: Float[np.ndarray, "r n"], rng: np.random.Generator) -> float:
    """Root mean square frequency of the answers along directions of the basis, by their slopes; 0 if they are constant.
    Queries: 256."""
    step = 1e-3
    along = rng.standard_normal((128, len(basis)))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    x = oracle.nearest(1e3 * rng.standard_normal((128, len(basis))) @ basis)
    y = oracle(x)
    there = oracle.nearest(x + step * along @ basis)
    length = np.linalg.norm(there - x, axis=1, keepdims=True)  # inputs may be rounded
    slopes = (oracle(there) - y) / np.maximum(length, 1e-300)
    power = float(np.mean((y - y.mean(axis=0)) ** 2))
    return float(np.sqrt(np.mean(slopes**2) / power)) if power else 0.0


def waves_on_a_line(
    oracle: Oracle, basis: Float[np.ndarray, "r n"], frequency: float, *, rng: np.random.Generator
) -> Waves:
    """The strongest waves met by a random line and one parallel to it per direction of the basis.

    `oracle`: to be asked, on an unbounded domain. `basis`: orthonormal rows of the space in which the answers vary.
    `frequency`: of the answers along a direction, typically. Queries: `2048 (r + 1)`.
    """
    r = len(basis)
    direction = rng.standard_normal(r)
    direction /= np.linalg.norm(direction)
    start = rng.standard_normal(r) / frequency
    step = np.pi / (_OVERTONES * frequency)
    t = step * (np.arange(SAMPLES) - SAMPLES // 2)
    aside = _ASIDE / (frequency * np.sqrt(r))
    window = np.blackman(SAMPLES)
    spectra = []
    for offset in np.concatenate([np.zeros((1, r)), aside * np.eye(r)]):
        y = oracle(oracle.nearest((start + offset + t[:, None] * direction) @ basis))
        waves = (y - y.mean(axis=0)) * window[:, None] / window.sum()
        # Shifted, so that phases are those at t = 0.
        spectra.append(np.fft.rfft(np.fft.ifftshift(waves, axes=0), axis=0, n=SAMPLES))
    spectrum = np.array(spectra)  # (r + 1, bins, m)
    height = np.sqrt((np.abs(spectrum) ** 2).mean(axis=(0, 2)))
    peaks = 1 + np.flatnonzero((height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:]))
    peaks = peaks[np.argsort(-height[peaks], kind="stable")][:_PEAKS]
    bent = np.log(height[peaks[:, None] + np.array([-1, 0, 1])])
    places = peaks + 0.5 * (bent[:, 0] - bent[:, 2]) / (bent[:, 0] - 2 * bent[:, 1] + bent[:, 2])
    along = 2 * np.pi * places / (SAMPLES * step)
    here = spectrum[:, peaks]  # (r + 1, p, m)
    turned = (here[1:] * here[0].conj()).sum(axis=2)
    frequencies = np.angle(turned).T / aside
    phases = 0.5 * np.angle((here[0] ** 2).sum(axis=1)) - frequencies @ start
    heights = np.sqrt((np.abs(here) ** 2).mean(axis=2))
    astray = np.abs(frequencies @ direction - along)
    doubts = heights.std(axis=0) / height[peaks] + 2 * astray / (frequency * np.sqrt(r))
    # Along the line itself the place of the peak is more exact than any phase.
    frequencies = frequencies + (along - frequencies @ direction)[:, None] * direction
    return Waves(frequencies, phases, height[peaks], doubts, np.ones(len(peaks)))


def agreed(lines: list[Waves], length: float) -> Waves:
    """The waves of several lines: the same frequency, up to sign, with the same amplitude is one wave. Returns waves in
    little doubt or seen on two lines, the strongest first."""
    every = Waves.joined(lines)
    frequencies, amplitudes, doubts = every.frequencies, every.amplitudes, every.doubts
    free = np.ones(len(every), dtype=bool)
    found = []
    for i in np.argsort(doubts, kind="stable"):
        if not free[i]:
            continue
        signs = np.where(frequencies @ frequencies[i] < 0, -1.0, 1.0)
        near = np.linalg.norm(signs[:, None] * frequencies - frequencies[i], axis=1) < _SAME * length
        alike = free & near & (np.abs(np.log(amplitudes / amplitudes[i])) < 0.3)
        free[alike] = False
        weights = 1 / (doubts[alike] + 1e-3) ** 2
        mean = weights @ (signs[alike, None] * frequencies[alike]) / weights.sum()
        found.append((mean, every.phases[i], amplitudes[i], doubts[i], float(alike.sum())))
    found = sorted((w for w in found if w[3] < _DOUBT or w[4] > 1), key=lambda wave: -wave[2])
    return Waves(
        np.array([wave[0] for wave in found]).reshape(-1, frequencies.shape[1]),
        *(np.array([wave[part] for wave in found]) for part in range(1, 5)),
    )


def generators(waves: Waves, count: int, length: float) -> np.ndarray:
    """Indices of at most `count` waves, strongest first, none an integer combination of those before it."""
    chosen: list[int] = []
    for i, wave in enumerate(waves.frequencies):
        if len(chosen) == count:
            break
        if np.linalg.norm(wave) < 0.3 * length:
            continue
        rows = waves.frequencies[chosen]
        shares = wave @ np.linalg.pinv(rows) if chosen else np.empty(0)
        whole = np.rint(shares)
        apart = np.linalg.norm(wave - whole @ rows)
        outside = np.linalg.norm(wave - shares @ rows)
        if apart > (0.3 + _LINEAR * np.abs(whole).sum()) * length and outside > _SAME * length:
            chosen.append(i)
    return np.array(chosen, dtype=int)
