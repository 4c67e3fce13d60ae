"""Reading: what was read of a ReLU network so far, handed from step to step, and what all steps share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.measured import Errors
from unveil.identification.fitting.output_layer import EVERYTHING, AffineMap, Asked, Weights
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer_step import ManyLayers
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.rows_from_points import BY_POINTS
from unveil.whitebox.network import Network

# Errors that a network which explains the answers may have: of exact ones in units of the root of their relative
# rounding, but at least so much; of ones with few digits in units of it.
FINE_OF_EXACT, FINEST, FINE_OF_FEW = 3.0, 1e-7, 100.0
# Weights of a first layer up to which a fit of all weights moves them, too: with more each step takes minutes.
WEIGHTS = 150_000
LONG_LINE_INPUTS = 5.0  # lines of so many typical inputs cross most hyperplanes


class Setup(NamedTuple):
    """What all steps of a reading share."""

    probe: Probe  # asks
    log: Asked  # what it asked
    far: float  # how far lines reach
    most_lines: int  # lines per layer
    most_layers: int  # hidden layers after which it gives up
    inputs: int = 0  # if the reading is along a few directions of the inputs only, how many inputs there are; else 0

    @property
    def oracle(self) -> Oracle:
        """Where fresh points come from."""
        return self.log.oracle

    @property
    def exact(self) -> bool:
        """Whether answers come with all their digits."""
        return self.probe.noise.exact

    @property
    def size(self) -> float:
        """Length of a typical input."""
        return self.probe.noise.size

    def unbounded(self, frame: Frame) -> bool:
        """Whether lines go so far that each meets most neurons: in no box, and where a softmax keeps digits far out."""
        return frame.free and self.far >= LONG_LINE_INPUTS

    @property
    def fine(self) -> float:
        """Errors of a network that explains the answers, in units of the largest one."""
        relative = self.probe.noise.relative
        return max(FINEST, FINE_OF_EXACT * float(np.sqrt(relative))) if self.exact else FINE_OF_FEW * relative


@dataclass(frozen=True)
class Reading:
    """What was read so far."""

    frame: Frame  # the coordinates of the layer being read
    found: LayerFound  # its hyperplanes
    fresh: Asked  # answers that fits are made to, besides those paid for by lines and derivatives; kept by all states
    layers: tuple[AffineMap, ...] = ()  # read whole, signs settled, and left behind
    first: LayerFound | None = None  # hyperplanes of the first layer
    layer: AffineMap | None = None  # the layer being read as rows and biases, active where positive
    settled: bool = False  # whether the signs of `layer` are known
    network: Network | None = None  # the best whole network, if there is any
    errors: Errors | None = None  # standard deviations of its weights, as they were measured; None where they were not
    # its error on what was asked, in units of the largest answer; infinite where answers have few digits
    error: float = np.inf
    whole: bool = False  # whether `network` was read to its end
    over: bool = False  # whether nothing more can be read
    # whether critical points of too many neurons behind a layer stood against each other: other lines are no help then
    spent: bool = False
    # whether neurons of the layer being read seem to be missing although the network explains the answers
    lacking: bool = False
    wrong: Float[np.ndarray, "W n"] = field(default_factory=lambda: np.empty((0, 0)))  # where it does not explain them
    # for each of the places behind another layer where it is wrong one where it is right and much the same neurons are
    # active; none where there was no such
    right: Float[np.ndarray, "R _"] = field(default_factory=lambda: np.empty((0, 0)))
    confirmed: int = 0  # how many rows of the first layer were met again at fresh places; these come first
    # what was read behind the first layer of exact answers where lines meet far more deeper neurons than such of the
    # first
    many: ManyLayers | None = None
    # rows and biases of the next layer, of which not all neurons were read; up to sign
    partial: AffineMap | None = None
    directions: int = 0  # along how many directions of the inputs the network is being read first; 0 where along all
    # of each layer, the numbers of its neurons, of lines, and of hyperplanes of deeper layers met
    told: tuple[dict[str, int], ...] = ()
    why: tuple[str, ...] = ()  # what was chosen on the way

    @classmethod
    def begun(cls, setup: Setup, frame: Frame) -> Reading:
        """Before anything was asked."""
        return cls(frame, LayerFound.nothing(frame, setup.probe.m), Asked(setup.oracle, most=EVERYTHING))

    @property
    def first_layer(self) -> AffineMap | None:
        """Rows and biases of the first layer as far as they were read, up to sign."""
        if self.layers:
            return self.layers[0]
        return None if self.first is None else (self.first.rows, self.first.bias)

    @property
    def settled_layers(self) -> int:
        """How many layers no fit moves: the first one where it has too many weights for that; breakpoints told them as
        exactly as answers allow."""
        return int(bool(self.layers) and self.layers[0][0].size > WEIGHTS and self.layers[0][0].shape[1] > BY_POINTS)

    def with_found(self, found: LayerFound) -> Reading:
        """With what was read of this layer now."""
        return replace(self, found=found, first=self.first if self.layers else found)

    def with_network(self, network: Network, error: float) -> Reading:
        """With this network, if it is better than the best so far."""
        return replace(self, network=network, error=error) if error < self.error else self

    def closed(self, layer: AffineMap, settled: bool, error: float, weights: Weights) -> Reading:
        """With the layer being read as it came out of a network with these weights that ends behind it."""
        state = replace(self, layer=layer, settled=settled)
        return state.with_network(Network.from_weights(weights), error) if error < self.error else state

    def counted(self) -> Reading:
        """With what there is to tell of the layer being read, in place of what was told of it before."""
        found = self.found
        now = {"neurons": len(found), "lines": found.lines, "bent": len(found.bent)}
        return replace(self, told=(*self.told[: len(self.layers)], now))

    def left_behind(self, layer: AffineMap) -> Reading:
        """With this layer read whole, in the coordinates of its values where all of its neurons are active."""
        frame = self.frame.after(*layer)
        nothing = LayerFound.nothing(frame, self.found.straight.jump.shape[1])
        none = self.wrong[:0]
        layers = (*self.layers, layer)
        return replace(self, layers=layers, frame=frame, found=nothing, layer=None, wrong=none, right=none)

    def ended(self, *why: str) -> Reading:
        """When nothing more can be read, and why."""
        return replace(self, over=True, why=(*self.why, *why))
