"""A sigmoidal first layer once its hyperplanes are known: its activation, scales and, roughly, its shifts."""

from __future__ import annotations

import numpy as np

from unveil.identification.smooth import ridge_profile as ridge
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading
from unveil.identification.smooth.hyperplane_circles import Hyperplanes, noisy
from unveil.whitebox.activation import ACTIVATIONS, SIGMOIDAL, Activation
from unveil.whitebox.activation import activation as activation_named


def sigmoidal(names: str | tuple[str, ...] | None, depth: int, default: Activation | None = None) -> list[Activation]:
    """The activations that hidden layer `depth` may have: the one given, or all of them, `default` first."""
    if names is not None:
        given = (names,) if isinstance(names, str) else names
        return [activation_named(given[min(depth, len(given) - 1)])]
    others = [ACTIVATIONS[name] for name in SIGMOIDAL]
    return others if default is None else [default, *(a for a in others if a.name != default.name)]


def first_layer(reading: Reading, planes: Hyperplanes, names: str | tuple[str, ...] | None) -> FirstLayer:
    """Scales, rough shifts and the activation, from a profile along each normal."""
    oracle, noise, rng = reading.oracle, reading.noise, reading.rng
    candidates = sigmoidal(names, 0)
    margins = [resting_point(a, noise) for a in candidates]
    bases = ridge.vantages(planes, 0.8 * max(margins) + (4.0 if noisy(oracle, noise) else 0.0), rng)
    position, answer = ridge.profiles(oracle, planes, bases)
    # Far out the sums of large inputs are rounded coarsely.
    lost = float(np.finfo(oracle.dtype).eps) * np.linalg.norm(bases, axis=1) / planes.widths
    errors = np.maximum(noise, lost * np.ptp(answer, axis=1).max(axis=1))
    best: tuple[float, FirstLayer] | None = None
    for activation, margin in zip(candidates, margins, strict=True):
        fits = np.array(
            [
                ridge.fit_profile(position[i], answer[i], activation, -planes.offsets[i], planes.widths[i], errors[i])
                for i in range(len(planes.offsets))
            ]
        )
        misfit = float(np.median(fits[:, 2]))
        if best is None or misfit < best[0]:
            layer = FirstLayer(planes.directions * fits[:, :1], fits[:, 1], activation, margin)
            best = (misfit, layer)
    assert best is not None
    reading.stats["ridge misfit"] = best[0]
    if len(candidates) > 1:
        reading.why.append(
            f"{best[1].activation.name} fits the ridges best, to {best[0]:.2g} (tanh stands for sigmoid too)"
        )
    return best[1]


def resting_point(activation: Activation, noise: float = 0.0) -> float:
    """A preactivation beyond which the activation no longer changes by more than the noise (at most 1e4)."""
    for s in (5.0, 7.0, 10.0, 14.0, 20.0, 40.0, 100.0, 1e3):
        if float(activation.slope(np.array([s]))[0]) < max(1e-15, 0.1 * noise):
            return s
    return 1e4
