"""A sigmoidal first layer once its hyperplanes are known: activation, scales and, roughly, shifts from ridge profiles.

A ridge profile is the answers along a neuron's normal, all other neurons at rest.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.conclusion import Reading
from unveil.identification.smooth.hyperplane_circles import Hyperplanes, noisy
from unveil.identification.smooth.single_neuron import fit_shape
from unveil.whitebox.activation import ACTIVATIONS, SIGMOIDAL, Activation
from unveil.whitebox.activation import activation as activation_named

STRAIGHT_FIT_DEVIATIONS = 3.0  # deviations of the noise up to which a straight line behind a neuron is enough
_DEGREE = 4  # of the second layer's response to one neuron; a higher degree hides more of the shift
_POINTS = 24


def profiles(
    oracle: Oracle, planes: Hyperplanes, bases: Float[np.ndarray, "k n"]
) -> tuple[Float[np.ndarray, "k s"], Float[np.ndarray, "k s m"]]:
    """Answers along each normal, through a point of the hyperplane at which all other neurons are at rest.

    `bases`: for each of them a point of its perpendicular space at which all other neurons are at rest. Returns
    positions along the normals, measured from the foot of the perpendicular from the origin's side (so that the
    preactivation is `scale * position + shift`), and answers. Queries: `24 k`.
    """
    k, n = planes.directions.shape
    positions = np.empty((k, _POINTS))
    questions = np.empty((k, _POINTS, n))
    for i in range(k):
        positions[i] = -planes.offsets[i] + planes.widths[i] * np.linspace(-2.5, 2.5, _POINTS)
        questions[i] = oracle.nearest(bases[i] + positions[i][:, None] * planes.directions[i])
        positions[i] = questions[i] @ planes.directions[i]
    return positions, oracle(questions.reshape(-1, n)).reshape(k, _POINTS, -1)


def vantages(planes: Hyperplanes, margin: float, rng: np.random.Generator) -> Float[np.ndarray, "k n"]:
    """Points perpendicular to each normal, the nearest at which all others are `margin` widths from their planes."""
    k, n = planes.directions.shape
    points = np.zeros((k, n))
    for i in range(k if k > 1 else 0):
        rays = rng.standard_normal((512, n))
        rays -= np.outer(rays @ planes.directions[i], planes.directions[i])
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        others = np.delete(np.arange(k), i)
        needed = (margin * planes.widths[others] + planes.slack[others] + np.abs(planes.offsets[others])) / np.abs(
            rays @ planes.directions[others].T
        )
        reach = needed.max(axis=1)
        points[i] = rays[reach.argmin()] * reach.min()
    return points


def fit_profile(
    position: Float[np.ndarray, " s"],
    answer: Float[np.ndarray, "s m"],
    activation: Activation,
    centre: float,
    width: float,
    noise: float,
) -> tuple[float, float, float]:
    """Scale, shift and relative misfit of `answer = polynomial(activation(scale * position + shift))`.

    Scale and shift are only as good as the polynomial's degree is low, since an invertible map of the activation's
    range hides in a free one: a straight line, which is all there is behind a single hidden layer, is tried first.
    `centre`: where the neuron switches, about. `width`: over which length, about.
    """
    s = (position - centre) / width
    target = answer - answer.mean(axis=0)
    spread = float(np.sqrt((target**2).mean())) or 1.0
    target = target / spread
    # Slope times width at the centre is the full swing: the scale in these units depends on the activation alone.
    swing = float(np.ptp(activation.value(np.array([-30.0, 30.0]))))
    scale = swing / float(activation.slope(np.zeros(1))[0])
    starts = [(factor * scale, shift * scale) for factor in (1.0, 0.8, 1.3) for shift in (0.0, -0.25, 0.25)]
    for degree in (1, _DEGREE):

        def columns(z: Float[np.ndarray, " s"], degree: int = degree) -> Float[np.ndarray, "s q"]:
            return np.vander(activation.value(z), degree + 1)

        best = fit_shape(s, target, columns, starts, steps=200)
        if math.sqrt(2 * best.cost / target.size) <= STRAIGHT_FIT_DEVIATIONS * noise / spread:
            break
    if not np.isfinite(best.cost):
        return scale / width, -scale / width * centre, np.inf
    turn = -1.0 if best.scale < 0 else 1.0
    alpha, beta = turn * best.scale, turn * best.shift
    return float(alpha / width), float(beta - alpha * centre / width), float(np.sqrt(2 * best.cost / s.size))


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
    bases = vantages(planes, 0.8 * max(margins) + (4.0 if noisy(oracle, noise) else 0.0), rng)
    position, answer = profiles(oracle, planes, bases)
    # Far out the sums of large inputs are rounded coarsely.
    lost = float(np.finfo(oracle.dtype).eps) * np.linalg.norm(bases, axis=1) / planes.widths
    errors = np.maximum(noise, lost * np.ptp(answer, axis=1).max(axis=1))
    best: tuple[float, FirstLayer] | None = None
    for activation, margin in zip(candidates, margins, strict=True):
        fits = np.array(
            [
                fit_profile(position[i], answer[i], activation, -planes.offsets[i], planes.widths[i], errors[i])
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
