"""The network behind a peeled layer, in as many coordinates as its first layer is wide: least squares from many starts.

In these coordinates the first weights are square and well conditioned, and few parameters are left, so that random
starts find them. With the other widths unknown they start as wide as the first, which makes starts succeed more often;
neurons that the answers do not call for are taken out afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.least_squares import Polished, polish, polish_all
from unveil.identification.fitting.output_layer import with_output
from unveil.identification.fitting.slimming import without_surplus
from unveil.whitebox.activation import Activation
from unveil.whitebox.network import Layer, Network

_STARTS = {1: 8, 2: 40, 3: 60}  # for each number of hidden layers left
_FEW = {1: 8, 2: 10}  # where more can be learned by peeling on
_CLOSE = 1e-4  # of the answers' spread: a start that comes so near goes all the way
_FIRST, _LONG, _KEPT = 40, 250, 6
_ROUGH = 3
_TOGETHER = 5  # starts fitted at once, after which the best so far are followed further


@dataclass(frozen=True)
class Inner:
    """What least squares made of the network behind known layers."""

    fit: Polished | None  # of the whole of it; None if no start came near the answers
    first: tuple[Layer, ...]  # what its first layer may be, the best fits first, whether or not they came near


def inner_network(  # noqa: PLR0913 - answers and what is known of the network
    c: Float[np.ndarray, "N r"],
    y: Float[np.ndarray, "N m"],
    activations: Sequence[Activation],
    widths: Sequence[int] | None,
    noise: float,
    rng: np.random.Generator,
    *,
    thorough: bool = True,
) -> Inner:
    """Find a network from coordinates to answers.

    `activations`: of its hidden layers, the last for all further ones. `widths`: of its hidden layers, the first as
    many as coordinates; one, two and three layers are tried if None. `thorough`: whether to try many starts, and three
    hidden layers.
    """
    r, starts = c.shape[1], _STARTS if thorough else _FEW
    shapes = [tuple(widths)] if widths is not None else [(r,) * depth for depth in starts]
    spread = float(y.std()) or 1.0
    # Behind noise coordinates are known to half of the digits.
    close = max(_CLOSE * spread, 3 * noise, float(np.sqrt(noise * spread)))
    first: list[Layer] = []
    for shape in shapes:
        kinds = [activations[min(depth, len(activations) - 1)] for depth in range(len(shape))]
        if not first and len(shape) > 1:
            # Where further layers bend little, one hidden layer tells the first.
            first = _firsts(_fits(c, y, shape[:1], kinds[:1], close, [], starts[1], rng))
        fits = _fits(c, y, shape, kinds, close, first, starts[min(len(shape), max(starts))], rng)
        if fits[0].rms <= close:
            whole = polish(fits[0].network, c, y, noise=0.3 * noise, steps=100)
            # Coordinates are known to some digits only: surplus neurons go as soon as the rest fits as well as all.
            return Inner(without_surplus(whole, c, y, max(noise, whole.rms)), tuple(_firsts(fits)))
        first = [*_firsts(fits), *first]
    return Inner(None, tuple(first))


def _firsts(fits: Sequence[Polished]) -> list[Layer]:
    """First layers of the best fits, each once."""
    apart = [fit for i, fit in enumerate(fits) if i == 0 or fit.rms > 1.01 * fits[i - 1].rms]
    return [fit.network.layers[0] for fit in apart[:_ROUGH]]


def _fits(  # noqa: PLR0913 - answers and what is known of the network
    c: Float[np.ndarray, "N r"],
    y: Float[np.ndarray, "N m"],
    shape: Sequence[int],
    kinds: Sequence[Activation],
    close: float,
    first: Sequence[Layer],
    left: int,
    rng: np.random.Generator,
) -> list[Polished]:
    """The best fits, the best first, as soon as one is close or all starts are used."""
    best: list[Polished] = []
    starts = _starts(c, y, shape, kinds, first, rng)
    while left > 0:
        some = list(islice(starts, min(_TOGETHER, left)))
        left -= len(some)
        best += polish_all(some, c, y, steps=_FIRST, until=close)
        best.sort(key=lambda fit: fit.rms)
        best = best[:_KEPT]
        if best[0].rms > close:
            further = polish_all([fit.network for fit in best[:2]], c, y, steps=_LONG, patience=25, until=close)
            best[: len(further)] = further
            best.sort(key=lambda fit: fit.rms)
        if best[0].rms <= close:
            break
    return best


def _starts(
    c: Float[np.ndarray, "N r"],
    y: Float[np.ndarray, "N m"],
    shape: Sequence[int],
    kinds: Sequence[Activation],
    first: Sequence[Layer],
    rng: np.random.Generator,
) -> Iterator[Network]:
    """Random networks whose output layer fits the answers as well as it can, every other one on a given first layer."""
    spread, middle, r = c.std(axis=0), c.mean(axis=0), c.shape[1]
    for number in count():
        if first and number % 2 == 0:
            layers = [first[(number // 2) % len(first)]]
        else:
            turned = np.linalg.qr(rng.standard_normal((max(shape[0], r), r)))[0][: shape[0]] / spread
            layers = [Layer(turned, 0.3 * rng.standard_normal(shape[0]) - turned @ middle, kinds[0])]
        for before, width, kind in zip(shape[:-1], shape[1:], kinds[1:], strict=True):
            rows = rng.standard_normal((width, before))
            rows *= 1.3 / np.linalg.norm(rows, axis=1, keepdims=True)
            layers.append(Layer(rows, 0.3 * rng.standard_normal(width), kind))
        yield with_output(layers, c, y)
