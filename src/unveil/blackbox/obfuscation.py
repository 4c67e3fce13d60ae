"""Noise the network cannot see: inputs that look like something else and answer the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize

from unveil.arguments import Randomness, as_numbers, generator
from unveil.blackbox.domain import Within, box, described
from unveil.blackbox.legal_noise import extreme_steps
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.span import RowSpan
from unveil.one_line import one_line
from unveil.outcome import BadInput, SourceError

HALVINGS = 6
"""How often noise under which an answer changes is halved before it is left out."""


@dataclass(frozen=True)
class ObfuscationCheck:
    """What the model says to the hidden inputs.

    Attributes:
        same_label: Share of inputs whose label (largest output, or sign for a single one) did not change.
        largest_change: Largest change of any output.
        changes: Largest change per input, shape (N,).
    """

    same_label: float
    largest_change: float
    changes: Float[np.ndarray, " N"]


@one_line
@dataclass(frozen=True)
class Obfuscation:
    """Inputs drowned in noise that lies in the complement of a span.

    Attributes:
        inputs: (N, n), what to show the model.
        originals: (N, n), what it will take them for.
        noise_norm: Length of the noise per input.
        seen: Length of the part of the noise that lies in the span: rounding, and what the box forced.
        kept: The share of the noise first chosen under which the answer stays; None without an oracle.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((3, 12))
        >>> span = uv.row_span(uv.as_oracle(lambda x: x @ rows.T, shape=12), rng=rng)
        >>> x = np.ones((5, 12))
        >>> hidden = uv.obfuscate(span, x, scale=10.0, rng=rng)
        >>> bool(np.allclose(np.linalg.norm(hidden.inputs - x, axis=1), 10 * np.sqrt(12)))
        True
        >>> bool(np.allclose(hidden.inputs @ rows.T, x @ rows.T))  # the model answers as before
        True
    """

    inputs: Float[np.ndarray, "N n"]
    originals: Float[np.ndarray, "N n"]
    noise_norm: Float[np.ndarray, " N"]
    seen: Float[np.ndarray, " N"]
    kept: Float[np.ndarray, " N"] | None = None

    @property
    def changed(self) -> int:
        """How many answers changed under the noise that was to be hidden, so that less or none was taken.

        Each of them shows a direction that matters and that the span does not hold. 0 too without an oracle.
        """
        return 0 if self.kept is None else int((self.kept < 1).sum())

    def check(self, oracle: Oracle) -> ObfuscationCheck:
        """Ask for the originals and the hidden inputs, and compare.

        Raises:
            BadInput: Inputs lie outside the oracle's box; pass `within` to `obfuscate`.

        Queries: `2 N`
        """
        must_be_asked(oracle)
        before, after = oracle(oracle.nearest(self.originals)), oracle(_as_seen(oracle, self.inputs))
        changes = np.abs(after - before).max(axis=1)
        return ObfuscationCheck(float(np.mean(_label(before) == _label(after))), float(changes.max()), changes)


def obfuscate(  # noqa: PLR0913 - options of a public verb
    span: RowSpan,
    x: Float[np.ndarray, "*N n"],
    scale: float = 10.0,
    *,
    rng: Randomness,
    within: Within | None = None,
    oracle: Oracle | None = None,
    same: float = 0.01,
) -> Obfuscation:
    """Drown inputs in noise that the model does not see.

    Without a box the noise is isotropic in the complement. In a box it is a vertex of the polytope of all legal inputs
    with the same projection on the span, in a random direction: as much noise as fits, cut down to `scale` where that
    is less.

    Args:
        span: Also a partial one, as long as its complement is blind.
        x: One input or many, legal if there is a box.
        scale: Length of the noise in multiples of the input's own norm (of `sqrt(n)` for an input of zeros).
        rng: A generator, or a seed. Draws the noise.
        within: Legal box of the hidden inputs, as for `as_oracle`; by default that of `oracle`.
        oracle: Whom to ask whether the answers stay. Corners of a box may wake neurons that no point did at which the
            span was asked: where an answer changes, noise is halved until it does not, or left out.
        same: A change of so much of the spread of the answers counts as none; of labels, none at all is.

    Raises:
        BadInput: Wrong shape, an input outside the box, or a span without a complement.

    Queries: `0`; with an oracle at most `(2 + HALVINGS) N`

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Section 5.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((3, 12))
        >>> span = uv.row_span(uv.as_oracle(lambda x: x @ rows.T, shape=12), rng=rng)
        >>> x = np.ones((5, 12))
        >>> hidden = uv.obfuscate(span, x, scale=10.0, rng=rng)
        >>> bool(np.allclose(np.linalg.norm(hidden.inputs - x, axis=1), 10 * np.sqrt(12)))
        True
        >>> bool(np.allclose(hidden.inputs @ rows.T, x @ rows.T))  # the model answers as before
        True
    """
    rng = generator(rng)
    x = np.atleast_2d(as_numbers(x, "inputs"))
    if x.ndim != 2 or x.shape[1] != span.n:
        raise BadInput(f"inputs must have shape (N, {span.n}); got {x.shape}")
    if not np.isfinite(x).all():
        raise BadInput("inputs must be finite: leave out rows with NaN or infinity, or fill them in")
    if not 0 < scale < np.inf:
        raise BadInput(f"scale must be positive and finite; got {scale!r}")
    if span.rank >= span.n:
        raise BadInput("every direction matters to this model: there is no complement to hide noise in")
    within = box(oracle.within if within is None and oracle is not None else within, span.n)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(x, axis=1)
        wanted = scale * np.where(norms > 0, norms, np.sqrt(span.n))
    if not np.isfinite(wanted).all():
        raise BadInput(f"noise {scale:g} times as long as inputs of size {abs(x).max():.3g} is beyond double precision")
    if within is None:
        noise = rng.standard_normal(x.shape)
        for _ in range(2):  # of what lay nearly in the span the first leaves rounding, made as long as the rest
            noise = span.complement(noise)
            noise *= (wanted / np.linalg.norm(noise, axis=1))[:, None]
        hidden = x + noise
    else:
        if (x < within[0]).any() or (x > within[1]).any():
            raise BadInput(f"inputs must lie within {described(within)}; got values from {x.min():g} to {x.max():g}")
        hidden = _farthest(span, x, within, rng)
        length = np.linalg.norm(hidden - x, axis=1)
        hidden = x + (hidden - x) * (wanted / np.maximum(length, wanted))[:, None]
    kept = np.ones(len(x)) if oracle is None else _held(oracle, x, hidden, same)
    noise = (hidden - x) * kept[:, None]
    seen = np.linalg.norm(noise @ span.basis.T, axis=1)
    return Obfuscation(x + noise, x, np.linalg.norm(noise, axis=1), seen, kept if oracle is not None else None)


def _held(oracle: Oracle, x: np.ndarray, hidden: np.ndarray, same: float) -> Float[np.ndarray, " N"]:
    """The share of each input's noise under which its answer stays: 1, 1/2, ..., or 0 if none of these."""
    before = oracle(oracle.nearest(x))
    spread = 0.0 if oracle.answers == "labels" else same * (float(np.ptp(before)) or float(np.abs(before).max()))
    kept = np.ones(len(x))
    left = np.arange(len(x))
    for _ in range(HALVINGS + 1):
        after = oracle(_as_seen(oracle, x[left] + kept[left, None] * (hidden - x)[left]))
        left = left[np.abs(after - before[left]).max(axis=1) > spread]
        if not len(left):
            return kept
        kept[left] /= 2
    kept[left] = 0.0
    return kept


def _farthest(
    span: RowSpan, x: Float[np.ndarray, "N n"], within: Within, rng: np.random.Generator
) -> Float[np.ndarray, "N n"]:
    """For each input a vertex of {z legal: basis z = basis x} that is extreme in a random direction."""
    cost = rng.standard_normal(x.shape)
    if not span.rank:
        return np.asarray(np.where(cost < 0, within[1], within[0]))
    # Where a box leaves hardly any room, an interior-point method does not settle.
    steps, settled = extreme_steps(span.basis, within[0] - x, within[1] - x, cost)
    z = x + steps
    for i in np.flatnonzero(~settled):
        z[i] = _by_simplex(span, x[i], within, cost[i])
    # Both are exact to some digits; alternate between the two sets until only rounding is left.
    for _ in range(20):
        z = np.clip(z - span.project(z - x), *within)
    return np.asarray(z)


def _by_simplex(span: RowSpan, x: np.ndarray, within: Within, cost: np.ndarray) -> Float[np.ndarray, " n"]:
    answer = optimize.linprog(
        cost,
        A_eq=span.basis,
        b_eq=span.basis @ x,
        bounds=np.column_stack([np.full(len(x), end) for end in within]),
        method="highs",
        options={"presolve": False},  # a dense basis has nothing that it could take away
    )
    if answer.status != 0:
        raise SourceError(
            f"the linear program for legal noise ended with status {answer.status}; expected 0: ask for less accuracy"
        )
    return np.asarray(answer.x)


def _as_seen(oracle: Oracle, x: np.ndarray) -> np.ndarray:
    """Rounded to what the model takes, but never moved back into its box unasked."""
    seen = oracle.nearest(x)
    if np.abs(seen - x).max() > 1e-5 * max(1.0, float(np.abs(x).max())) and oracle.grid is None:
        raise BadInput(
            "hidden inputs lie outside the oracle's box: pass within= to obfuscate, or ask an oracle without a box"
        )
    return seen


def _label(y: np.ndarray) -> np.ndarray:
    if y.dtype.kind not in "f":
        return np.asarray(y[:, 0])
    return np.asarray(y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0] > 0)
