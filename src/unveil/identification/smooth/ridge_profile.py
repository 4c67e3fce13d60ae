"""Ridge profiles: scale and shift of a first-layer neuron from answers along its normal, all other neurons at rest."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.hyperplane_circles import Hyperplanes
from unveil.identification.smooth.single_neuron import fit_alone, fit_shape
from unveil.whitebox.activation import Activation

EXPLAINED = 3.0  # deviations of the noise up to which a straight line behind a neuron is enough
_DEGREE = 4  # of the second layer's response to one neuron; a higher degree hides more of the shift
_POINTS = 24
_PLACES = 8  # beside each hyperplane, of which the loudest is taken


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


def anchored(oracle: Oracle, planes: Hyperplanes, bases: Float[np.ndarray, "k n"]) -> Hyperplanes:
    """The same hyperplanes, their offsets found again near the origin, where the error of a direction matters less.

    Queries: `33 k`, and about 10 for each neuron to follow the jump.
    """
    k, n = planes.directions.shape
    half = planes.slack + 3 * planes.widths
    place = -planes.offsets[:, None] + half[:, None] * np.linspace(-1, 1, 33)
    rows = np.arange(k)
    while True:
        x = bases[:, None] + place[:, :, None] * planes.directions[:, None]
        answers = oracle(oracle.nearest(x.reshape(-1, n))).reshape(k, place.shape[1], -1)
        jump = np.abs(np.diff(answers, axis=1)).max(axis=2).argmax(axis=1)
        left, right = place[rows, jump], place[rows, jump + 1]
        if (right - left <= planes.widths).all():
            break
        # Further out than the interval itself, so that a neuron that switches at its border is not cut in two.
        reach = 0.75 * np.maximum(right - left, planes.widths)
        place = ((left + right) / 2)[:, None] + reach[:, None] * np.linspace(-1, 1, 5)
    slack = planes.slack * np.linalg.norm(bases, axis=1) / planes.radius
    return dataclasses.replace(planes, offsets=-(left + right) / 2, slack=slack)


def sharpen(  # noqa: PLR0913 - where, along what, how finely
    oracle: Oracle,
    planes: Hyperplanes,
    scales: Float[np.ndarray, " k"],
    shifts: Float[np.ndarray, " k"],
    activation: Activation,
    bases: Float[np.ndarray, "k n"],
    *,
    errors: Float[np.ndarray, " k"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"]]:
    """First-layer weights (rows) and shifts again, from points all around, where noise had left the directions poor.

    Around a point at which one neuron is active and all others are at rest, the answers depend on `a . x + t` alone: a
    fit of a, t and a polynomial there has a lever of several widths across, where a difference quotient has a fraction.
    `errors`: of the answers there, standard deviation. Queries: `4 n + 24` for each neuron.
    """
    k, n = planes.directions.shape
    weights, moved = planes.directions * scales[:, None], shifts.copy()
    for i in range(k):
        lever = 4 / scales[i]
        across = rng.standard_normal((4 * n + 24, n))
        across *= lever / np.linalg.norm(across, axis=1, keepdims=True)
        across -= np.outer(across @ planes.directions[i], planes.directions[i])
        along = (rng.uniform(-2, 2, len(across)) - shifts[i]) / scales[i]
        x = oracle.nearest(bases[i] + across + along[:, None] * planes.directions[i])
        answers = oracle(x)
        fit = fit_alone(x - bases[i], answers, weights[i], shifts[i], activation, degree=1)
        if fit.misfit > EXPLAINED * errors[i]:
            fit = fit_alone(x - bases[i], answers, weights[i], shifts[i], activation, degree=_DEGREE)
        if fit.misfit <= 0.7 * fit.start:
            weights[i] = fit.weights
            moved[i] = fit.shift - fit.weights @ bases[i]
    return weights, moved


def vantages(planes: Hyperplanes, margin: float, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Points (k, count, n) perpendicular to each normal at which all other neurons are `margin` widths from their
    hyperplanes, the nearest first."""
    k, n = planes.directions.shape
    points = np.zeros((k, count, n))
    for i in range(k if k > 1 else 0):
        rays = rng.standard_normal((512, n))
        rays -= np.outer(rays @ planes.directions[i], planes.directions[i])
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        others = np.delete(np.arange(k), i)
        needed = (margin * planes.widths[others] + planes.slack[others] + np.abs(planes.offsets[others])) / np.abs(
            rays @ planes.directions[others].T
        )
        reach = needed.max(axis=1)
        best = np.argsort(reach, kind="stable")[:count]
        points[i] = rays[best] * reach[best, None]
    return points


def loudest(
    oracle: Oracle, planes: Hyperplanes, *, margin: float, rng: np.random.Generator
) -> Float[np.ndarray, "k n"]:
    """Of `_PLACES` points for each hyperplane, see `vantages`, the one where its neuron moves the answers most.

    How much it does depends on the others' states: the second layer may be at rest itself. Queries: `2 _PLACES k`.
    """
    k, n = planes.directions.shape
    points = vantages(planes, margin, rng, _PLACES)
    half = planes.slack + 3 * planes.widths
    ends = (-planes.offsets[:, None] + half[:, None] * np.array([-1.0, 1.0]))[:, None, :, None]
    x = points[:, :, None] + ends * planes.directions[:, None, None]
    answers = oracle(oracle.nearest(x.reshape(-1, n))).reshape(k, _PLACES, 2, -1)
    best = np.abs(answers[:, :, 1] - answers[:, :, 0]).max(axis=2).argmax(axis=1)
    return np.asarray(points[np.arange(k), best])


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
        if math.sqrt(2 * best.cost / target.size) <= EXPLAINED * noise / spread:
            break
    if not np.isfinite(best.cost):
        return scale / width, -scale / width * centre, np.inf
    turn = -1.0 if best.scale < 0 else 1.0
    alpha, beta = turn * best.scale, turn * best.shift
    return float(alpha / width), float(beta - alpha * centre / width), float(np.sqrt(2 * best.cost / s.size))
