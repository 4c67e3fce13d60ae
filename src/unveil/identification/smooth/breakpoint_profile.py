"""The profile of a smooth rectifier across its breakpoint, far from all others: scale and shift for any activation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.smooth.single_neuron import fit_shape
from unveil.whitebox.activation import Activation


class Fit(NamedTuple):
    """`phi(scale s + shift)` at s times a direction."""

    scale: float  # positive where the activation's mirror image is affinely its own, so that both fit
    shift: float
    misfit: float  # relative

    def like(self, other: Fit) -> bool:
        """Whether both can be one neuron."""
        return bool(abs(self.scale / other.scale - 1) + abs(self.shift - other.shift) < 1e-3)


class Profile(NamedTuple):
    """Answers across one breakpoint alone: at `centre + reach * places` times the direction, less their means."""

    centre: float
    reach: float
    places: Float[np.ndarray, " s"]
    answers: Float[np.ndarray, "s m"]

    def fitted(self, activation: Activation) -> Fit:
        """`a + b s + c phi(scale s + shift)` by least squares."""
        s = self.places
        if not len(s):
            return Fit(np.nan, np.nan, np.inf)

        def columns(z: Float[np.ndarray, " s"]) -> Float[np.ndarray, "s 3"]:
            return np.stack([np.ones_like(s), s, activation.value(z)], axis=1)

        even = activation.parity == "affine"
        signs = (1.0,) if even else (1.0, -1.0)
        starts = [(sign * scale, 0.0) for sign in signs for scale in (2.0, 4.0, 8.0)]
        spread = float(np.sqrt((self.answers**2).mean())) or 1.0
        fit = fit_shape(s, self.answers / spread, columns, starts, steps=200)
        turn = -1.0 if even and fit.scale < 0 else 1.0
        scale, shift = turn * fit.scale / self.reach, turn * fit.shift
        return Fit(scale, shift - scale * self.centre, float(np.sqrt(2 * fit.cost / len(s))))


def profile(oracle: Oracle, base: Float[np.ndarray, " n"], direction: Float[np.ndarray, " n"]) -> Profile:
    """Answers from base along a direction, where they bend; none where they do not. Queries: 69."""

    def ask(s: np.ndarray) -> np.ndarray:
        return oracle(oracle.nearest(base + s[:, None] * direction))

    # The asymptotes meet where the preactivation is zero, if the activation is even beside its linear half.
    far = np.array([-400.0, -300.0, 300.0, 400.0])
    y = ask(far)
    low, high = (y[1] - y[0]) / 100, (y[3] - y[2]) / 100
    output = int(np.abs(high - low).argmax())
    jump = high[output] - low[output]
    if jump == 0:
        return Profile(0.0, 1.0, np.empty(0), np.empty((0, oracle.m)))
    centre = (y[0, output] + 400 * low[output] - y[3, output] + 400 * high[output]) / jump
    # How far the bend reaches: the scale, for any activation.
    apart = 10.0 ** np.linspace(-1.5, 2.3, 16)
    places = centre + np.concatenate([-apart, apart])
    left = y[0, output] + low[output] * (places - far[0])
    right = y[3, output] + high[output] * (places - far[3])
    bend = np.abs(ask(places)[:, output] - np.where(places < centre, left, right))
    bent = np.abs(places - centre)[bend > 0.02 * bend.max()]
    reach = float(bent.max())
    s = np.linspace(-1.5, 1.5, 33)
    answers = ask(centre + reach * s)
    return Profile(float(centre), reach, s, answers - answers.mean(axis=0))
