"""Activations by name: value, first and second derivative, linear pieces, inverse, and what each of them keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from unveil.one_line import one_line
from unveil.outcome import BadInput
from unveil.whitebox.activation_formulas import (
    CUBIC,
    INNER,
    density,
    gelu_tanh_curvature,
    gelu_tanh_slope,
    mish_curvature,
    mish_slope,
    sigmoid_curvature,
    sigmoid_slope,
    silu_curvature,
    silu_slope,
    softplus_inverse,
    tanh_curvature,
    tanh_slope,
)

Map = Callable[[np.ndarray], np.ndarray]


@one_line
@dataclass(frozen=True)
class Activation:
    """A scalar function applied to every neuron, elementwise and vectorised.

    Attributes:
        name: Key in `ACTIVATIONS`.
        value: phi.
        slope: phi'. At a breakpoint, the value on the negative side.
        curvature: phi'' (0 for piecewise-linear ones).
        parity: "odd" if phi(-s) = -phi(s); "sigmoid" if phi(-s) = 1 - phi(s); "affine" if phi(-s) = phi(s) - s; "none".
        injective: Whether different inputs always give different outputs.
        inverse: The inverse on the range, infinite at its open ends; None where it has no formula or does not exist.
        breakpoints: `(p,)` ascending, where a piecewise-linear one changes its slope; `(k, p)`, filled up with
        infinity,
            where every neuron has its own.
        slopes: `(p + 1,)` or `(k, p + 1)`, of the pieces between; None if the function is not piecewise linear.
        rows: Name and number of neurons of the parts, where not all neurons have the same function; see `by_rows`.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> network.layers[0].activation.name
        'relu'
        >>> network.layers[0].activation.value(np.array([-1.0, 2.0]))
        array([0., 2.])
    """

    name: str
    value: Map
    slope: Map
    curvature: Map
    parity: str
    injective: bool
    inverse: Map | None = None
    breakpoints: Float[np.ndarray, "... p"] | tuple[float, ...] = ()
    slopes: Float[np.ndarray, "... q"] | tuple[float, ...] | None = None
    rows: tuple[tuple[str, int], ...] = ()

    @property
    def piecewise_linear(self) -> bool:
        return self.slopes is not None

    @property
    def monotone(self) -> bool:
        """Whether it never falls: of a piecewise-linear one, by its slopes; otherwise taken to be so if injective."""
        return self.injective if self.slopes is None else bool((np.asarray(self.slopes) >= 0).all())

    @property
    def has_breakpoints(self) -> bool:
        """Whether it has more than one linear piece."""
        return bool(np.isfinite(np.asarray(self.breakpoints, float)).any())

    def piece(self, s: Float[np.ndarray, "*N k"]) -> Int[np.ndarray, "*N k"]:
        """On which linear piece each neuron is, 0 for the lowest. A breakpoint belongs to the piece below it."""
        return np.asarray((s[..., None] > np.asarray(self.breakpoints, float)).sum(axis=-1))

    def ends(self, piece: Int[np.ndarray, " k"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Lowest and highest value of the preactivation on these pieces, infinite at the outer ones."""
        breakpoints = np.asarray(self.breakpoints, float)
        breakpoints = np.broadcast_to(breakpoints, (len(piece), breakpoints.shape[-1]))
        edges = np.pad(breakpoints, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
        each = np.arange(len(piece))
        return edges[each, piece], edges[each, piece + 1]

    def line(self, piece: Int[np.ndarray, " k"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Slope and offset on these pieces: phi(s) = slope s + offset."""
        slopes = np.asarray(self.slopes, float)
        slope = np.broadcast_to(slopes, (len(piece), slopes.shape[-1]))[np.arange(len(piece)), piece]
        low, high = self.ends(piece)
        at = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
        return slope, self.value(at) - slope * at

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        """By name, so that networks can be sent to other processes."""
        return activation, (self.name,)


def _zero(s: np.ndarray) -> np.ndarray:
    return np.zeros_like(s)


def _quiet(inverse: Map) -> Map:
    """Outside of the range NaN, at its ends infinity, and no warning."""

    def apply(y: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(inverse(np.asarray(y, dtype=float)))

    return apply


def leaky_relu(alpha: float = 0.01) -> Activation:
    """max(s, alpha s)."""
    return Activation(
        "leaky_relu" if alpha == 0.01 else f"leaky_relu({alpha!r})",
        lambda s: np.where(s > 0, s, alpha * s),
        lambda s: np.where(s > 0, 1.0, alpha),
        _zero,
        "none",
        alpha > 0,
        (lambda y: np.where(y > 0, y, y / alpha)) if alpha > 0 else None,
        (0.0,),
        (alpha, 1.0),
    )


def clip(low: float, high: float) -> Activation:
    """s between `low` and `high`, either of which may be infinite: ReLU6 is clip(0, 6), HardTanh clip(-1, 1)."""
    if not low < high:
        raise BadInput(f"clip needs two numbers low < high; got {low} and {high}")
    finite = (np.isfinite(low), np.isfinite(high))
    return Activation(
        f"clip({low!r},{high!r})",
        lambda s: np.clip(s, low, high),
        lambda s: ((s > low) & (s <= high)).astype(s.dtype),
        _zero,
        "none",
        False,
        breakpoints=tuple(end for end, there in zip((low, high), finite, strict=True) if there),
        slopes=(0.0,) * bool(finite[0]) + (1.0,) + (0.0,) * bool(finite[1]),
    )


def hard_sigmoid(alpha: float = 1 / 6, beta: float = 0.5) -> Activation:
    """alpha s + beta, but not below 0 nor above 1."""
    if not alpha > 0:
        raise BadInput(f"hard_sigmoid needs a positive alpha; got {alpha}")
    ends = (-beta / alpha, (1 - beta) / alpha)
    return Activation(
        f"hard_sigmoid({alpha!r},{beta!r})",
        lambda s: np.clip(alpha * s + beta, 0, 1),
        lambda s: np.where((s > ends[0]) & (s <= ends[1]), alpha, 0.0),
        _zero,
        "none",
        False,
        breakpoints=ends,
        slopes=(0.0, alpha, 0.0),
    )


def by_rows(parts: Sequence[tuple[Activation, int]]) -> Activation:
    """One activation for the first neurons, another for the next ones, and so on.

    Args:
        parts: Activation and number of neurons, in order. Neighbours that are the same are joined.
    """
    joined: list[tuple[Activation, int]] = []
    for phi, count in parts:
        inner = [(activation(name), rows) for name, rows in phi.rows] or [(phi, count)]
        for each, rows in inner:
            if joined and joined[-1][0].name == each.name:
                joined[-1] = (each, joined[-1][1] + rows)
            elif rows:
                joined.append((each, rows))
    if len(joined) == 1:
        return joined[0][0]
    ends = np.cumsum([count for _, count in joined])[:-1]

    def each_by(maps: list[Map]) -> Map:
        def apply(s: np.ndarray) -> np.ndarray:
            return np.concatenate([f(v) for f, v in zip(maps, np.split(s, ends, axis=-1), strict=True)], axis=-1)

        return apply

    def table(rows: list[np.ndarray], fill: float) -> np.ndarray:
        width = max(len(row) for row in rows)
        made = [np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows]
        return np.repeat(made, [count for _, count in joined], axis=0)

    phis = [phi for phi, _ in joined]
    inverses = [phi.inverse for phi in phis if phi.inverse is not None]
    linear = all(phi.piecewise_linear for phi in phis)
    return Activation(
        "rows(" + ",".join(f"{count}*{phi.name}" for phi, count in joined) + ")",
        each_by([phi.value for phi in phis]),
        each_by([phi.slope for phi in phis]),
        each_by([phi.curvature for phi in phis]),
        "none",
        all(phi.injective for phi in phis),
        each_by(inverses) if len(inverses) == len(phis) else None,
        table([np.asarray(phi.breakpoints, float) for phi in phis], np.inf) if linear else (),
        # (slopes beyond the last breakpoint are never used)
        table([np.asarray(phi.slopes, float) for phi in phis], 0.0) if linear else None,
        tuple((phi.name, count) for phi, count in joined),
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
        _quiet(lambda y: np.where(y > 0, y, np.log1p(np.minimum(y, 0) / alpha))) if alpha > 0 else None,
    )


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_SELU = elu(SELU_ALPHA)


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("identity", lambda s: s, np.ones_like, _zero, "odd", True, lambda y: y, (), (1.0,)),
        Activation(
            "relu",
            lambda s: np.maximum(s, 0),
            lambda s: (s > 0).astype(s.dtype),
            _zero,
            "affine",
            False,
            breakpoints=(0.0,),
            slopes=(0.0, 1.0),
        ),
        leaky_relu(),
        Activation(
            "abs",
            np.abs,
            lambda s: np.where(s > 0, 1.0, -1.0),
            _zero,
            "none",
            False,
            breakpoints=(0.0,),
            slopes=(-1.0, 1.0),
        ),
        elu(),
        Activation("tanh", np.tanh, tanh_slope, tanh_curvature, "odd", True, _quiet(np.arctanh)),
        Activation("sigmoid", special.expit, sigmoid_slope, sigmoid_curvature, "sigmoid", True, special.logit),
        Activation(
            "softplus",
            lambda s: np.logaddexp(0, s),
            special.expit,
            sigmoid_slope,
            "affine",
            True,
            _quiet(softplus_inverse),
        ),
        Activation(
            "erf",
            special.erf,
            lambda s: 2 / np.sqrt(np.pi) * np.exp(-(s**2)),
            lambda s: -4 * s / np.sqrt(np.pi) * np.exp(-(s**2)),
            "odd",
            True,
            special.erfinv,
        ),
        Activation(
            "arctan",
            np.arctan,
            lambda s: 1 / (1 + s**2),
            lambda s: -2 * s / (1 + s**2) ** 2,
            "odd",
            True,
            lambda y: np.where(np.abs(y) < np.pi / 2, np.tan(y), np.where(np.abs(y) == np.pi / 2, y * np.inf, np.nan)),
        ),
        Activation("sin", np.sin, np.cos, lambda s: -np.sin(s), "odd", False),
        Activation(
            "gelu",
            lambda s: s * special.ndtr(s),
            lambda s: special.ndtr(s) + s * density(s),
            lambda s: (2 - s**2) * density(s),
            "affine",
            False,
        ),
        Activation(
            "gelu_tanh",
            lambda s: s / 2 * (1 + np.tanh(INNER * (s + CUBIC * s**3))),
            gelu_tanh_slope,
            gelu_tanh_curvature,
            "affine",
            False,
        ),
        Activation("square", np.square, lambda s: 2 * s, lambda s: np.full_like(s, 2.0), "none", False),
        Activation(
            "inverse_root",
            lambda s: 1 / np.sqrt(s),
            lambda s: -0.5 * s**-1.5,
            lambda s: 0.75 * s**-2.5,
            "none",
            False,
        ),
        Activation("silu", lambda s: s * special.expit(s), silu_slope, silu_curvature, "affine", False),
        Activation("mish", lambda s: s * np.tanh(np.logaddexp(0, s)), mish_slope, mish_curvature, "none", False),
        Activation(
            "hardswish",
            lambda s: s * np.clip(s / 6 + 0.5, 0, 1),
            lambda s: np.where(s > 3, 1.0, np.where(s > -3, s / 3 + 0.5, 0.0)),
            lambda s: np.where(np.abs(s) < 3, 1 / 3, 0.0),
            "affine",
            False,
        ),
        Activation(
            "selu",
            lambda s: SELU_SCALE * _SELU.value(s),
            lambda s: SELU_SCALE * _SELU.slope(s),
            lambda s: SELU_SCALE * _SELU.curvature(s),
            "none",
            True,
            lambda y: _SELU.inverse(np.asarray(y, float) / SELU_SCALE),  # type: ignore[misc]
        ),
        Activation(
            "softsign",
            lambda s: s / (1 + np.abs(s)),
            lambda s: (1 + np.abs(s)) ** -2.0,
            lambda s: -2 * np.sign(s) * (1 + np.abs(s)) ** -3.0,
            "odd",
            True,
            _quiet(lambda y: np.where(np.abs(y) <= 1, y / (1 - np.abs(y)), np.nan)),
        ),
    )
}

SIGMOIDAL = ("tanh", "erf", "arctan", "softsign")
"""Smooth activations that come to rest on both sides; a sigmoid is tanh in other units, the same networks."""
RECTIFIERS = ("softplus", "gelu", "silu", "gelu_tanh", "elu", "selu", "mish")
"""Those that are constant far out on one side and straight on the other, and curve in between."""
SMOOTH_ACTIVATIONS = (*SIGMOIDAL, *RECTIFIERS, "hardswish", "sin")
"""What a network may have whose answers curve; `identify` looks for these where no activation is given."""

_ALSO_CALLED = {
    "relu6": "clip(0.0,6.0)", "hardtanh": "clip(-1.0,1.0)", "hardsigmoid": f"hard_sigmoid({1 / 6!r},0.5)",
    "swish": "silu", "logistic": "sigmoid",
}  # fmt: skip

_FAMILIES: dict[str, tuple[Callable[..., Activation], int]] = {
    "leaky_relu": (leaky_relu, 1),
    "elu": (elu, 1),
    "clip": (clip, 2),
    "hard_sigmoid": (hard_sigmoid, 2),
}


def activation(name: str) -> Activation:
    """The activation called `name`, e.g. "relu", "tanh", "leaky_relu(0.2)", "clip(0.0,6.0)"; "relu6" is that, too.

    Raises:
        BadInput: No activation of that name.
    """
    name = str(name).lower()
    name = _ALSO_CALLED.get(name, name)
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    family, _, rest = name.partition("(")
    if family == "rows" and name.endswith(")"):
        return by_rows([_counted(part) for part in re.split(r",(?=\d+\*)", rest[:-1])])
    if family in _FAMILIES and name.endswith(")"):
        make, count = _FAMILIES[family]
        try:
            numbers = [float(part) for part in rest[:-1].split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == count and (np.isfinite(numbers).all() or (family == "clip" and not np.isnan(numbers).any())):
            return make(*numbers)
    raise BadInput(f"no activation called {name!r}; known: {', '.join(dict.fromkeys([*ACTIVATIONS, *_FAMILIES]))}")


def _counted(part: str) -> tuple[Activation, int]:
    count, _, name = part.partition("*")
    if not count.isdecimal() or name.startswith("rows("):
        raise BadInput(f"expected a number of neurons and an activation such as 3*relu; got {part!r}")
    return activation(name), int(count)
