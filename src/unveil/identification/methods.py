"""The registry of methods: what a person calls them, where they are, and what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from unveil.outcome import BadInput

if TYPE_CHECKING:
    from unveil.identification.method import Method


@dataclass(frozen=True)
class Registered:
    """One method; it is imported when it is made."""

    module: str  # where its class is, below `unveil.identification`
    name: str  # the class
    reads: str  # what answers it is made for

    def make(self, activation: tuple[str, ...] | None = None, widths: tuple[int, ...] | None = None) -> Method:
        """The method, told what is known of the hidden layers. Raises BadInput: it must be told the activation."""
        kind: type[Method] = getattr(import_module(f"unveil.identification.{self.module}"), self.name)
        return kind.told(activation, widths)


METHODS: Mapping[str, Registered] = MappingProxyType(
    {
        "saturation": Registered("smooth.saturation", "Saturation", "at rest far out: a sigmoidal first layer"),
        "peeling": Registered("smooth.peeling", "Peeling", "the same, three or more hidden layers"),
        "rectifiers": Registered("smooth.rectifiers", "Rectifiers", "in straight pieces far out: softplus, GELU"),
        "frequencies": Registered("smooth.frequencies", "Frequencies", "as lively far out as near by: sines"),
        "one-hidden-layer": Registered("smooth.one_hidden_layer", "OneHiddenLayer", "smooth, one hidden layer"),
        "entangled-weights": Registered("smooth.entangled_weights", "EntangledWeights", "smooth, two hidden layers"),
        "critical-points": Registered(
            "piecewise_linear.critical_points", "CriticalPoints", "straight between breakpoints: ReLU"
        ),
        "shared-kernels": Registered(
            "convolution.shared_kernels", "SharedKernels", "the same of pictures: a convolution first"
        ),
        "surrogate": Registered("surrogate.surrogate", "Surrogate", "anything: a copy with a known error"),
        "hard-labels": Registered("from_labels.hard_labels", "HardLabels", "labels of one hidden layer"),
    }
)


def method_named(name: str, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> Method:
    """The method a person means by a name such as "saturation"; `activation` and `widths` as in `identify`. Raises
    BadInput: there is no such method, or it needs to be told the activation."""
    if name not in METHODS:
        raise BadInput(f"no method called {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name].make(activation, widths)
