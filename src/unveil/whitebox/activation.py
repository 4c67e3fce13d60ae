"""Activations by name: value, first and second derivative, and what each of them keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from unveil.outcome import BadInput

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Activation:
    """A scalar function applied to every neuron, elementwise and vectorised.

    Attributes:
        name: Key in `ACTIVATIONS`.
        value: phi.
        slope: phi'. At a kink, the value on the negative side.
        curvature: phi'' (0 for piecewise-linear ones).
        parity: "odd" if phi(-s) = -phi(s); "sigmoid" if phi(-s) = 1 - phi(s); "affine" if phi(-s) = phi(s) - s; "none".
        injective: Whether different inputs always give different outputs.
    """

    name: str
    value: Map
    slope: Map
    curvature: Map
    parity: str
    injective: bool

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        """By name, so that networks can be sent to other processes."""
        return activation, (self.name,)


def _sigmoid_slope(s: np.ndarray) -> np.ndarray:
    p = special.expit(s)
    return np.asarray(p * (1 - p))


def _sigmoid_curvature(s: np.ndarray) -> np.ndarray:
    p = special.expit(s)
    return np.asarray(p * (1 - p) * (1 - 2 * p))


def _tanh_slope(s: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.tanh(s) ** 2)


def _tanh_curvature(s: np.ndarray) -> np.ndarray:
    t = np.tanh(s)
    return np.asarray(-2 * t * (1 - t**2))


def _density(s: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi))


def _zero(s: np.ndarray) -> np.ndarray:
    return np.zeros_like(s)


def leaky_relu(alpha: float = 0.01) -> Activation:
    """max(s, alpha s)."""
    return Activation(
        "leaky_relu" if alpha == 0.01 else f"leaky_relu({alpha!r})",
        lambda s: np.where(s > 0, s, alpha * s),
        lambda s: np.where(s > 0, 1.0, alpha),
        _zero,
        "none",
        alpha > 0,
    )


def elu(alpha: float = 1.0) -> Activation:
    """s where positive, alpha (exp(s) - 1) elsewhere."""
    return Activation(
        "elu" if alpha == 1.0 else f"elu({alpha!r})",
        lambda s: np.where(s > 0, s, alpha * np.expm1(np.minimum(s, 0))),
        lambda s: np.where(s > 0, 1.0, alpha * np.exp(np.minimum(s, 0))),
        lambda s: np.where(s > 0, 0.0, alpha * np.exp(np.minimum(s, 0))),
        "none",
        alpha > 0,
    )


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("identity", lambda s: s, np.ones_like, _zero, "odd", True),
        Activation("relu", lambda s: np.maximum(s, 0), lambda s: (s > 0).astype(s.dtype), _zero, "affine", False),
        leaky_relu(),
        elu(),
        Activation("tanh", np.tanh, _tanh_slope, _tanh_curvature, "odd", True),
        Activation("sigmoid", special.expit, _sigmoid_slope, _sigmoid_curvature, "sigmoid", True),
        Activation("softplus", lambda s: np.logaddexp(0, s), special.expit, _sigmoid_slope, "affine", True),
        Activation(
            "erf",
            special.erf,
            lambda s: 2 / np.sqrt(np.pi) * np.exp(-(s**2)),
            lambda s: -4 * s / np.sqrt(np.pi) * np.exp(-(s**2)),
            "odd",
            True,
        ),
        Activation("arctan", np.arctan, lambda s: 1 / (1 + s**2), lambda s: -2 * s / (1 + s**2) ** 2, "odd", True),
        Activation("sin", np.sin, np.cos, lambda s: -np.sin(s), "odd", False),
        Activation(
            "gelu",
            lambda s: s * special.ndtr(s),
            lambda s: special.ndtr(s) + s * _density(s),
            lambda s: (2 - s**2) * _density(s),
            "affine",
            False,
        ),
    )
}


def activation(name: str) -> Activation:
    """The activation called `name`, e.g. "relu", "tanh", "leaky_relu(0.2)".

    Raises:
        BadInput: No activation of that name.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    for make in (leaky_relu, elu):
        if name.startswith(make.__name__ + "(") and name.endswith(")"):
            try:
                return make(float(name[len(make.__name__) + 1 : -1]))
            except ValueError:
                break
    raise BadInput(f"no activation called {name!r}; known: {', '.join(ACTIVATIONS)}")
