"""Behind: what a search behind known layers goes by, and the critical points on lines that nothing known explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import SAME_PLACE, CriticalPoint, measure_normals
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import AGREES, Neuron
from unveil.identification.piecewise_linear.normals import expected_error
from unveil.identification.piecewise_linear.partial_network import Seen, doubt_of_sums, moved
from unveil.identification.piecewise_linear.probe import Probe

# By whether answers are exact: within so many deviations, and this distance relative to 1 + |x|, a breakpoint is a
# known neuron's. Where many neurons lie close together a wide distance hides others; of few digits more are met anyway.
SIGMAS, EXPLAINED_DISTANCE = {True: AGREES, False: 6.0}, {True: SAME_PLACE, False: 1e-5}
MEASURABLE_NORMAL_ERROR = 0.1  # where normals with larger errors are expected none is measured

# Lines as `line_search` takes them: base, direction, low, high.
Lines = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Behind:
    """What the search for neurons behind known layers goes by."""

    probe: Probe  # asks
    frame: Frame  # where may be asked
    layers: list[AffineMap]  # those known; with none of them neurons see the inputs
    spreads: list[np.ndarray]  # errors of their rows, as of `doubt_of_sums`

    @property
    def noise(self) -> Rounding:
        """How exact answers are."""
        return self.probe.noise

    def see(self, x: Float[np.ndarray, "N d"]) -> Seen:
        """What the layers make of some inputs."""
        return Seen.by(self.layers, x)

    def doubt(self, x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N q"]:
        """Variance of what comes out of the layers."""
        return np.asarray(doubt_of_sums(self.layers, self.spreads, x) * self.see(x).on)

    def inside(self, x: Float[np.ndarray, "N d"]) -> Bool[np.ndarray, " N"]:
        """Which points may be asked."""
        return np.asarray((x @ self.frame.G.T + self.frame.g > 0).all(axis=1))

    def explained(
        self, x: Float[np.ndarray, "N d"], width: Float[np.ndarray, " N"], neurons: Sequence[Neuron]
    ) -> Bool[np.ndarray, " N"]:
        """Which of these breakpoints, known to within a width, are the layers' or these neurons' behind them."""
        near = SIGMAS[self.noise.exact]
        slack = EXPLAINED_DISTANCE[self.noise.exact] * (1 + np.linalg.norm(x, axis=1)) + width
        out = np.zeros(len(x), dtype=bool)
        if not len(x):
            return out
        # Where the region is that in which all of the first layer are active none of it switches.
        active = not self.frame.free and self.frame.within is None
        for k, (W, b) in list(enumerate(self.layers))[active:]:
            (h, move), layers = moved(self.layers[:k], x), self.layers[: k + 1]
            doubt, size = np.sqrt(doubt_of_sums(layers, self.spreads[: k + 1], x)), np.linalg.norm(W @ move, axis=2)
            out |= (np.abs(h @ W.T + b) <= near * doubt + slack[:, None] * size).any(axis=1)
        there, before = self.see(x), self.doubt(x)
        for one in neurons:
            rate = np.linalg.norm(there.back(one.weights * there.on), axis=1)
            doubt = np.hypot(one.doubt(there.h), np.sqrt(before @ one.weights**2))
            blind = (there.on & ~one.known).any(axis=1)
            out |= ~blind & (np.abs(there.h @ one.weights + one.bias) <= near * doubt + slack * rate)
        return out

    def searched(
        self, lines: Lines, neurons: Sequence[Neuron]
    ) -> tuple[list[Line], list[CriticalPoint], list[Station]]:
        """These lines, their critical points that neither the layers nor these neurons explain, and the derivatives
        measured beside them. Queries: those of `line_search`, and of `measure_normals` at these."""
        found, points, stations = line_search(self.probe.ask, *lines, self.noise, self.probe.rng), [], []
        for line in found:
            width = 3 * line.width * np.linalg.norm(line.direction)
            wanted = ~self.explained(line.points, width, neurons)
            wanted &= expected_error(self.frame, line, self.noise) < MEASURABLE_NORMAL_ERROR
            met = measure_normals(self.probe, self.layers, line, np.flatnonzero(wanted))
            points += met.points
            stations += met.stations
        return found, points, stations
