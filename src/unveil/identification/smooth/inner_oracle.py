"""Behind: what lies behind a known first layer, asked as an oracle of its own."""

from __future__ import annotations

from typing import final

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Answers, Questions
from unveil.identification.smooth.blocks import FirstLayer
from unveil.whitebox.activation import Activation

_BISECTIONS = 60


@final
class Behind(OracleWrapper):
    """The network without its first layer, of no more neurons than inputs: it takes that layer's outputs.

    A question is turned into the input at which the layer has these outputs. The box is what the activation reaches
    where it rises. `oracle`: the whole network. `layer`: its first layer.
    """

    def __init__(self, oracle: Oracle, layer: FirstLayer) -> None:
        self.layer = layer
        self._low, self._high = rising(layer.activation)
        box = tuple(float(v) for v in layer.activation.value(np.array([self._low, self._high])))
        k = len(layer.shifts)
        super().__init__(oracle, shape=(k,), within=box, name=f"{oracle.name} behind its first layer")
        self._back = np.linalg.pinv(layer.weights).T

    def answer(self, x: Questions) -> Answers:
        inputs = (before_activation(self.layer.activation, x) - self.layer.shifts) @ self._back
        return self.oracle.answer(self.oracle.nearest(inputs))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} behind its first layer"


def before_activation(activation: Activation, outputs: Float[np.ndarray, "*N k"]) -> Float[np.ndarray, "*N k"]:
    """Preactivations that give these outputs, on the branch on which the activation rises."""
    low, high = _branch(activation)
    below, above = np.full(outputs.shape, low), np.full(outputs.shape, high)
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        beyond = activation.value(middle) > outputs
        below, above = np.where(beyond, below, middle), np.where(beyond, middle, above)
    return np.asarray((below + above) / 2)


def _branch(activation: Activation) -> tuple[float, float]:
    """All preactivations around the steepest one between which the activation rises, up to 40 either way."""
    s = np.linspace(-40, 40, 8001)
    slope = activation.slope(s)
    flat, top = np.flatnonzero(slope <= 0), int(slope.argmax())
    below, above = flat[flat < top].max(initial=-1) + 1, flat[flat > top].min(initial=len(s)) - 1
    return float(s[below]), float(s[above])


def rising(activation: Activation) -> tuple[float, float]:
    """Pre-activations between which the activation rises at a third of its steepest at least, none beyond 3."""
    s = np.linspace(-3, 3, 601)
    steep = activation.slope(s) >= activation.slope(s).max() / 3
    top = int(activation.slope(s).argmax())
    flat = np.flatnonzero(~steep)
    below, above = flat[flat < top].max(initial=-1) + 1, flat[flat > top].min(initial=len(s)) - 1
    return float(s[below]), float(s[above])
