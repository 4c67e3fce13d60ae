"""The end of every identification of a smooth network: polish on fresh points, check on others, say how it went."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, generator
from unveil.blackbox.ledger import Stages
from unveil.blackbox.noise_model import answers_noise
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import intact, weights
from unveil.identification.check_points import FURTHER
from unveil.identification.fitting.least_squares import Polished, jacobian, parameters, polish
from unveil.identification.fitting.slimming import REDUNDANT, UNCERTAIN, without_surplus
from unveil.identification.method import Identification, Method
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

HELD_OUT_POINTS = 200
_FURTHER = 20  # of these at each distance further out
_GROWN = 10.0  # so many times the distance, errors further out may be those of usual points
_RATIO = 1.5  # answers per parameter in the final fit
_BATCH = 4096
_SINGULAR = 1e10  # condition of the Jacobian from which some parameters are not determined by the answers
_LARGEST_JACOBIAN = 1500  # parameters


@dataclass(frozen=True)
class Reading:
    """What one reading asks, knows of the answers, and tells of itself."""

    oracle: Oracle  # to be asked
    noise: float  # standard deviation of the answers' errors
    rng: np.random.Generator  # draws everything
    stages: Stages  # queries per stage
    stats: dict[str, Any] = field(default_factory=dict)  # filled with numbers on the way
    why: list[str] = field(default_factory=list)  # filled with reasons on the way


def fit_points(
    oracle: Oracle, weights: Float[np.ndarray, "k n"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count n"]:
    """Points at which neurons of these weights are neither at rest nor linear: preactivations of size 1.5."""
    if oracle.within is not None:
        return oracle.sample(count, rng)
    typical = float(np.median(np.linalg.norm(weights, axis=1))) or 1.0
    return oracle.nearest(1.5 / typical * rng.standard_normal((count, oracle.n)))


def ask(oracle: Oracle, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
    """Answers in batches of fixed borders."""
    return np.concatenate([oracle(x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)])


def final_fit(oracle: Oracle, network: Network, noise: float, rng: np.random.Generator) -> Polished:
    """Least squares on all parameters at fresh points, without neurons that the answers do not call for. Queries:
    `1.5 P` for P parameters and one output, fewer with more outputs; twice that if the answers are noisy."""
    spread = 4 if noise > 1e-10 else 1
    count = int(np.ceil(_RATIO * spread * parameters(network) / oracle.m)) + 4 * oracle.n
    x = fit_points(oracle, network.layers[0].dense(), count, rng)
    y = ask(oracle, x)
    weight = weights(oracle.rounding, y, noise)
    return without_surplus(polish(network, x, y, noise=0.3 * noise, weight=weight), x, y, noise, weight)


def conclude(reading: Reading, fit: Polished | None, method: str) -> Identification:
    """Check the network of the last fit on held-out points and say how the identification ended.

    Complete means: the largest error at usual points is below 1e-8 of the answers' spread, or every error within ten
    standard deviations of the noise, which grows with the answers; further out errors have grown no more than those of
    weights do with the distance; and the answers determine all parameters. Queries: 200.
    """
    noise, stats, why = reading.noise, reading.stats, reading.why
    error, outcome = np.inf, Outcome.check_failed
    if fit is not None:
        stats |= {"rms": fit.rms, "condition": fit.condition, "uncertainty": fit.largest}
        held = _held_out(fit.network, reading.oracle, noise, reading.rng)
        error = max(held.usual, held.further)
        stats["errors"] = {"usual": held.usual, "further": held.further, "points": HELD_OUT_POINTS}
        if held.explained and not held.beyond:
            outcome = Outcome.complete
            open_ = fit.condition >= REDUNDANT and not _determined(reading.oracle, fit.network, reading.rng)
            if fit.uncertainty > UNCERTAIN or open_:
                outcome = Outcome.approximate
                why.append("the answers do not determine every parameter: there may be more neurons than needed")
        elif held.explained or held.usual <= max(1e-3, 100 * noise / held.spread):
            outcome = Outcome.approximate
            if held.explained:
                why.append(f"inputs {held.beyond:g} times as far out as usual ones are not answered as well as these")
    reading.stages.end("held-out check")
    return _ended(reading, fit, outcome, error, method)


def _ended(reading: Reading, fit: Polished | None, outcome: Outcome, error: float, method: str) -> Identification:
    stats = {**reading.stats, "noise": reading.noise, "queries per stage": dict(reading.stages.queries)}
    network = None if fit is None else fit.network
    return Identification(network, outcome, reading.stages.total, error, method, tuple(reading.why), stats)


class _HeldOut(NamedTuple):
    """Errors at fresh points, relative to the spread of the answers at points like them."""

    usual: float  # the largest at usual points
    further: float  # the largest at the others
    explained: bool  # whether nothing but noise, or hardly anything, is seen at usual points
    beyond: float  # how far out errors have grown more than those of weights do; 0 where nowhere
    spread: float  # of the answers at usual points


def _held_out(network: Network, oracle: Oracle, noise: float, rng: np.random.Generator) -> _HeldOut:
    """Fresh points, a fifth of them further out. Answers there that have lost all digits say nothing. Queries:
    `HELD_OUT_POINTS`."""
    distance = np.ones(HELD_OUT_POINTS)
    distance[: len(FURTHER) * _FURTHER] = np.repeat(FURTHER, _FURTHER)
    x = oracle.nearest(distance[:, None] * oracle.sample(HELD_OUT_POINTS, rng))
    y, near = oracle(x), distance == 1
    apart, counts = np.abs(network(x) - y), weights(oracle.rounding, y, noise)
    size = float(np.sqrt(np.mean(y[near] ** 2))) or 1.0
    sigma = noise * np.maximum(1, np.abs(y) / size) / counts

    def largest(errors: np.ndarray, which: np.ndarray) -> tuple[float, float]:
        """Relative to the spread of the answers, and this."""
        spread = float(np.abs(y[which] - y[which].mean(axis=0)).max()) or 1.0
        return float(errors[which].max()) / spread, spread

    usual, spread = largest(apart, near)
    explained = usual <= 1e-8 or bool((apart <= 10 * sigma)[near].all())
    further, beyond = 0.0, 0.0
    for each in FURTHER:
        here = (distance == each) & intact(y, oracle.widest)
        if not here.any():
            continue
        off, there = largest(apart * counts, here)
        further = max(further, off)
        most = _GROWN * each * max(1e-8, usual, 10 * noise / spread, 10 * noise / there)
        if not off <= most and (apart > _GROWN * each * sigma)[here].any():
            beyond = beyond or each
    return _HeldOut(usual, further, explained, beyond, spread)


def _determined(oracle: Oracle, network: Network, rng: np.random.Generator) -> bool:
    """Whether answers determine every parameter, where the normal equations of a fit leave too few digits to tell.

    Singular values of the Jacobian itself, biases counted from the middle of what each layer takes: its condition is
    that of the normal equations without the square, and a neuron too many makes it 1e13 and more.
    """
    count = parameters(network)
    if count > _LARGEST_JACOBIAN:
        return False
    x = fit_points(oracle, network.layers[0].dense(), -(-2 * count // network.layers[-1].neurons) + 4 * oracle.n, rng)
    J, h, begin = jacobian(network, x), x, 0
    for layer in network.layers:
        block = J[:, :, begin : begin + layer.neurons * (layer.inputs + 1)].reshape(*J.shape[:2], layer.neurons, -1)
        block[..., :-1] -= block[..., -1:] * h.mean(axis=0)
        begin += block[0, 0].size
        h = layer.activation.value(layer.affine(h))
    J = J.reshape(-1, count)
    size = np.linalg.norm(J, axis=0)
    if size.min() <= 1e-12 * size.max():
        return False
    values = np.linalg.svd(J / size, compute_uv=False)
    return bool(values[0] < _SINGULAR * values[-1])


def repeated(
    once: Callable[[Reading], Polished | None],
    attempts: int,
    oracle: Oracle,
    *,
    method: str,
    rng: np.random.Generator,
    determined: bool = False,
) -> Identification:
    """Try until the answers are explained to their noise; check the best, or say that the budget ended before that.

    `determined`: all parameters must be determined, too; a fit that does so is better than one of a third of its rms.
    Queries: those of `answers_noise`, of the attempts, and 200 for the check.
    """
    reading, best = Reading(oracle, 0.0, rng, Stages(oracle.ledger)), None
    try:
        reading = replace(reading, noise=answers_noise(oracle, rng))
        for attempt in range(attempts):
            reading.stats["attempts"] = attempt + 1
            fit = once(reading)
            if fit is not None and (best is None or _better(fit, best, determined)):
                best = fit
            sound = best is not None and not (determined and best.condition >= REDUNDANT)
            if best is not None and sound and best.rms <= max(3 * reading.noise, 1e-11):
                break
        return conclude(reading, best, method)
    except BudgetExceeded:
        reading.why.append("not checked: no queries left")
        return _ended(reading, best, Outcome.budget_ended, np.inf, method)


def _better(fit: Polished, best: Polished, determined: bool) -> bool:
    if determined and (fit.condition < REDUNDANT) != (best.condition < REDUNDANT):
        sound, loose = (fit, best) if fit.condition < REDUNDANT else (best, fit)
        return (sound is fit) == (sound.rms < 3 * loose.rms)
    return fit.rms < best.rms


@dataclass(frozen=True)
class SmoothMethod(Method):
    """A method that is told the hidden layers' activations and widths, and reads in attempts."""

    # of the hidden layers, one name or one per hidden layer; None: found
    activation: str | tuple[str, ...] | None = None
    widths: tuple[int, ...] | None = None  # neurons of the hidden layers, if known
    attempts: int = 3  # how often to start again

    @classmethod
    def told(cls, activation: tuple[str, ...] | None, widths: tuple[int, ...] | None) -> SmoothMethod:
        """See `Method.told`."""
        return cls(activation, widths)

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        return repeated(self._once, self.attempts, oracle, method=type(self).__name__, rng=rng)

    @abstractmethod
    def _once(self, reading: Reading) -> Polished | None: ...
