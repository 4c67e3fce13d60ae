"""OneHiddenLayer: the Hessians of `sum_i c_i g(a_i . x + t_i)` span exactly the squares of its weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import Polished
from unveil.identification.fitting.output_layer import affine_fit, with_output
from unveil.identification.method import Identification, Method
from unveil.identification.smooth.blocks import gap, gradient_span, hessians, inner_points, second_step
from unveil.identification.smooth.conclusion import Reading, ask, final_fit, fit_points, repeated
from unveil.identification.smooth.rank_one import certificate, independent, matrix_space, pack, rank_one_elements
from unveil.identification.smooth.single_neuron import fit_shape
from unveil.whitebox.activation import SMOOTH_ACTIVATIONS, Activation
from unveil.whitebox.activation import activation as activation_named
from unveil.whitebox.network import Layer, Network

WIDTHS_TRIED = 4  # widths, where the answers are not explained by the one that the largest gap shows
CURVATURE_FIT_STARTS = (0.3, 1.0, 2.5), (-1.5, 0.0, 1.5)  # scales, in widths of the points, and shifts
_SURE = 0.7  # Hessians' span has stopped growing when its dimension is this share of their number


class Sampled(NamedTuple):
    """Hessians of every output, where they were taken, and the directions that matter, in which they are given."""

    points: Float[np.ndarray, "N n"]
    matrices: Float[np.ndarray, "N m r r"]
    basis: Float[np.ndarray, "r n"]


@dataclass(frozen=True)
class OneHiddenLayer(Method):
    """Identify a network with one smooth hidden layer, also with more neurons than inputs, and with biases.

    1. The span of the gradients: the directions that matter.
    2. Hessians at points as a user would draw them, until their span stops growing: its dimension is the number of
        neurons.
    3. Rank-one matrices in that space are the squares of the weights (subspace power method).
    4. The Hessians' coefficients, as functions of each neuron's own coordinate, are its curvature: scale and shift.
    5. Least squares on everything. Where it does not explain the answers to their noise: the same with up to three
        other widths that the Hessians allow.

    Attributes:
        activation: Of the hidden layer; None: the one whose curvature fits best.
        width: Neurons, if known.
        largest_rank: Widest network looked for, as a share of the dimension of the symmetric matrices. Rank-one
            matrices in a space of more than about half of them are no longer isolated.

    Queries: `2 n P + q (r^2 + r + 1)` with r directions and q about 1.5 Hessians per neuron, and 1.5 per parameter
        (6 of noisy answers) for each width tried.

    Source: Fornasier, Klock, Mondelli, Rauchensteiner, arXiv:2211.04589; Kileel, Pereira, arXiv:1912.04007.

    Examples:
        >>> method = uv.OneHiddenLayer(activation="tanh", width=20)
        >>> method.activation, method.width
        ('tanh', 20)
    """

    activation: str | None = None
    width: int | None = None
    largest_rank: float = 0.5

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> OneHiddenLayer:
        """See `Method.told`."""
        return cls(activation[0] if activation else None, widths[0] if widths else None)

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        return repeated(self._find, 1, oracle, method="OneHiddenLayer", rng=rng)

    def _find(self, reading: Reading) -> Polished | None:
        oracle, noise, rng, stages = reading.oracle, reading.noise, reading.rng, reading.stages
        n = oracle.n
        count = min(n, self.width) + 8 if self.width else n + 8
        basis, spectrum = gradient_span(oracle, inner_points(oracle, count, rng), noise)
        r = len(basis)
        stages.end("directions that matter")
        reading.stats.update({"directions": r})
        if r < n:
            fall = spectrum[r] / spectrum[0]
            reading.why.append(f"gradients span {r} of {n} dimensions (singular values fall to {fall:.2g})")
        full = r * (r + 1) // 2
        points, matrices = np.empty((0, n)), np.empty((0, oracle.m, r, r))
        wanted = int(1.5 * self.width) + 6 if self.width else 2 * r + 12
        # Exact answers show a wider network than can be read by fewer Hessians than noisy ones.
        most = 2 * full + 8 if noise > 1e-10 else int(self.largest_rank * full / _SURE / oracle.m) + 8
        while True:
            new = inner_points(oracle, wanted - len(points), rng)
            points = np.concatenate([points, new])
            matrices = np.concatenate([matrices, hessians(oracle, new, basis, noise)])
            flat = matrices.reshape(-1, r, r)
            values = matrix_space(flat, 1)[1]
            h = second_step(noise)
            width = self.width or gap(values[:full], max(10 * h**2, 10 * noise / h**2 / max(values[0], 1e-300)))
            sharp = width < len(values) and values[width] <= 1e-2 * values[width - 1]
            if self.width or (sharp and width <= _SURE * len(flat)) or len(points) >= most:
                break
            wanted = min(2 * len(points), most)
        stages.end("Hessians")
        after = values[min(width, len(values) - 1)]
        reading.stats.update({"hessians": len(points), "spectral gap": float(values[width - 1] / after)})
        # As many independent squares as dimensions are always isolated, also where that is two thirds of all: r = 2.
        isolated = max(self.largest_rank * full, r)
        if r > 1 and width > isolated:
            reading.why.append(
                f"the Hessians span {width} of {full} dimensions: too many for isolated rank-one matrices"
            )
            return None
        reading.why.append(
            f"{width} neurons, {'given' if self.width else 'found'}: the Hessians span as many dimensions"
        )
        widths = (
            [self.width] if self.width else _widths(values[:full], width, r if r < n else 1, int(min(isolated, full)))
        )
        return self._fitted(reading, Sampled(points, matrices, basis), width, widths)

    def _fitted(self, reading: Reading, sampled: Sampled, width: int, widths: list[int]) -> Polished | None:
        """The network of the number of neurons that explains the answers best; the largest gap says `width`."""
        noise, stages = reading.noise, reading.stages
        best: Polished | None = None
        told = reading
        for count in widths:
            trial = replace(reading, stats={}, why=[])
            fit = self._fit(trial, sampled, count)
            if best is None or fit.rms < best.rms:
                best, told = fit, trial
                if count != width:
                    trial.why.insert(0, f"{count} neurons explain the answers better")
            if best.rms <= 3 * noise or best.rms <= 1e-11:
                break
        reading.stats.update(told.stats)
        reading.why.extend(told.why)
        stages.end("all: fit")
        return best

    def _fit(self, reading: Reading, sampled: Sampled, width: int) -> Polished:
        """The network of so many neurons that the Hessians show, fitted to answers."""
        oracle, rng = reading.oracle, reading.rng
        points, matrices, basis = sampled
        flat = matrices.reshape(-1, *matrices.shape[2:])
        space, _ = matrix_space(flat, width)
        found = rank_one_elements(space, rng=rng)
        directions = independent(found, space, width)
        reading.stats["certificates"] = certificate(space, directions).tolist()
        if len(directions) < width:
            reading.why.append(
                f"only {len(directions)} of {width} rank-one matrices were found in the span of the Hessians"
            )
        rows = directions @ basis
        weights = np.linalg.lstsq(pack(directions[:, :, None] * directions[:, None, :]).T, pack(flat).T, rcond=None)[0]
        curves = weights.T.reshape(len(points), oracle.m, -1).transpose(2, 0, 1)  # (k, N, m)
        names = (self.activation,) if self.activation else SMOOTH_ACTIVATIONS
        trials = [_fit_curves(points @ rows.T, curves, activation_named(name)) for name in names]
        best = int(np.argmin([misfit for _, _, misfit in trials]))
        scales, shifts, misfit = trials[best]
        activation = activation_named(names[best])
        reading.stats["curvature misfit"] = misfit
        if len(names) > 1:
            reading.why.append(
                f"{activation.name} fits the curvatures best, to {misfit:.2g} (tanh stands for sigmoid too)"
            )
        start = _outer(oracle, rows * scales[:, None], shifts, activation, rng)
        return final_fit(oracle, start, reading.noise, rng)


def _widths(values: Float[np.ndarray, " s"], first: int, least: int, most: int) -> list[int]:
    """Widths to try: what the largest gap says, then others by their gaps; as many neurons as `least` dimensions need.

    A weak neuron's curvature may be below the errors of the others', and what all have in common hides what they are.
    """
    ratios = values[:-1] / np.maximum(values[1:], 1e-300)
    others = [int(i) + 1 for i in np.argsort(-ratios, kind="stable")]
    return [k for k in dict.fromkeys([first, *others]) if k <= most and k >= least][:WIDTHS_TRIED] or [
        max(least, first)
    ]


def _fit_curves(
    along: Float[np.ndarray, "N k"], curves: Float[np.ndarray, "k N m"], activation: Activation
) -> tuple[np.ndarray, np.ndarray, float]:
    """Scale and shift of every neuron from its curvature along its own coordinate; and the median misfit."""
    scales, shifts, misfits = np.ones(len(curves)), np.zeros(len(curves)), np.full(len(curves), np.inf)
    for i, curve in enumerate(curves):
        width = float(along[:, i].std()) or 1.0
        t, target = along[:, i] / width, curve / (np.linalg.norm(curve) or 1.0)
        found = fit_shape(
            t, target, lambda z: activation.curvature(z)[:, None], itertools.product(*CURVATURE_FIT_STARTS), most=100
        )
        if np.isfinite(found.cost):
            misfits[i], scales[i], shifts[i] = found.cost, found.scale / width, found.shift
    return scales, shifts, float(np.sqrt(2 * np.median(misfits)))


def _outer(
    oracle: Oracle,
    weights: Float[np.ndarray, "k n"],
    shifts: Float[np.ndarray, " k"],
    activation: Activation,
    rng: np.random.Generator,
) -> Network:
    """Output weights by linear least squares, and which way round neurons are whose mirror image is affinely theirs."""
    k = len(shifts)
    x = fit_points(oracle, weights, 3 * (k + oracle.n) + 20, rng)
    y = ask(oracle, x)
    if activation.parity == "affine":
        both = affine_fit(np.concatenate([activation.value(x @ weights.T + shifts), x], axis=1), y, 1e-10)[0].T
        outer, linear = both[:k], both[k:]
        # phi(s) = phi(-s) + s: a flipped neuron leaves c_i w_i as a linear part, so the flipped ones add up to it.
        rows = np.einsum("km,kn->kmn", outer, weights).reshape(k, -1)
        share = np.linalg.lstsq(rows.T, linear.T.ravel(), rcond=1e-8)[0]
        flipped = np.abs(share + 1) < np.abs(share)
        flipped |= np.abs(share - 1) < np.minimum(np.abs(share), np.abs(share + 1))
        sign = np.where(flipped, -1.0, 1.0)
        weights, shifts = weights * sign[:, None], shifts * sign
    return with_output([Layer(weights, shifts, activation)], x, y)
