"""Models whose truth is known exactly, and the forms in which services give their answers: for tests of attacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy import special

from unveil.arguments import Randomness, generator
from unveil.outcome import BadInput

Function = Callable[[np.ndarray], np.ndarray]


def _step(z: np.ndarray) -> np.ndarray:
    return (z > 0).astype(z.dtype)


# Value and derivative, both computed in the precision of what they are given.
ACTIVATION_FUNCTIONS: Mapping[str, tuple[Function, Function]] = MappingProxyType(
    {
        "identity": (lambda z: z, np.ones_like),
        "relu": (lambda z: np.maximum(z, 0), _step),
        "leaky": (lambda z: np.where(z > 0, z, z * z.dtype.type(0.1)), lambda z: np.where(z > 0, 1.0, 0.1)),
        "abs": (np.abs, np.sign),
        "relu6": (lambda z: np.clip(z, 0, 6), lambda z: ((z > 0) & (z < 6)).astype(z.dtype)),
        "hardtanh": (lambda z: np.clip(z, -1, 1), lambda z: (np.abs(z) < 1).astype(z.dtype)),
        "maxout": (lambda z: np.maximum(z, z.dtype.type(-0.5) * z), lambda z: np.where(z > 0, 1.0, -0.5)),
        "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        "sigmoid": (special.expit, lambda z: special.expit(z) * special.expit(-z)),
        "softplus": (lambda z: np.logaddexp(z.dtype.type(0), z), special.expit),
        "gelu": (
            lambda z: z * special.ndtr(z),
            lambda z: special.ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
        ),
        "sin": (np.sin, np.cos),
        "step": (_step, np.zeros_like),
    }
)


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A network of dense layers whose gradients and row span are known, in the precision it is computed in.

    Attributes:
        weights: (W, b) of every layer, W of shape (out, in); the last is affine.
        activation: A key of `ACTIVATION_FUNCTIONS`, after every layer but the last.
        dtype: Precision in which it is computed and answers.
    """

    weights: tuple[tuple[np.ndarray, np.ndarray], ...]
    activation: str
    dtype: np.dtype[np.floating] = field(default_factory=lambda: np.dtype(np.float64))

    @property
    def n(self) -> int:
        return int(self.weights[0][0].shape[1])

    @property
    def m(self) -> int:
        return len(self.weights[-1][1])

    @property
    def rows(self) -> Float[np.ndarray, "r n"]:
        """Orthonormal rows: the row span of the first layer, neurons of no effect left out."""
        first = self.weights[0][0]
        if len(self.weights) > 1:
            first = first[np.abs(self.weights[1][0]).max(axis=0) > 0]
        size = np.linalg.norm(first, axis=1, keepdims=True)
        first = first[size[:, 0] > 0] / size[size[:, 0] > 0]
        _, values, right = np.linalg.svd(first, full_matrices=False)
        return np.asarray(right[values > 1e-12 * values.max(initial=1e-300)])

    def __call__(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m"]:
        act = ACTIVATION_FUNCTIONS[self.activation][0]
        h = np.asarray(x, dtype=self.dtype)
        for i, (w, b) in enumerate(self.weights):
            h = h @ w.T.astype(self.dtype) + b.astype(self.dtype)
            if i < len(self.weights) - 1:
                h = act(h).astype(self.dtype)
        return h

    def gradients(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N m n"]:
        """Derivatives of every output by the chain rule, in float64."""
        act, slope = ACTIVATION_FUNCTIONS[self.activation]
        h, rates = np.asarray(x, dtype=np.float64), []
        for w, b in self.weights[:-1]:
            z = h @ w.T + b
            h = act(z)
            rates.append(slope(z))
        back = np.broadcast_to(self.weights[-1][0], (len(x), *self.weights[-1][0].shape))
        for (w, _), rate in zip(reversed(self.weights[:-1]), reversed(rates), strict=True):
            back = (back * rate[:, None, :]) @ w
        return np.asarray(back)


def known_model(
    sizes: Sequence[int],
    activation: str = "relu",
    *,
    rng: Randomness,
    bias: float = 0.5,
    dtype: type[np.floating] = np.float64,
) -> KnownModel:
    """A random network: Gaussian weights of variance 1 / in, biases of deviation `bias`.

    Args:
        sizes: Inputs, widths of the hidden layers, outputs.
        activation: A key of `ACTIVATION_FUNCTIONS`.
        rng: A generator, or a seed. Draws the weights.
        bias: Standard deviation of the biases.
        dtype: Precision of weights, computation and answers.

    Raises:
        BadInput: Fewer than two sizes, or an unknown activation.
    """
    rng = generator(rng)
    if len(sizes) < 2 or min(sizes) < 1:
        raise BadInput(f"sizes must be at least an input and an output, each 1 or more; got {tuple(sizes)}")
    if activation not in ACTIVATION_FUNCTIONS:
        raise BadInput(f"no activation {activation!r}; known are {', '.join(ACTIVATION_FUNCTIONS)}")
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        w = rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)
        layers.append((w.astype(dtype).astype(np.float64), (bias * rng.standard_normal(outputs)).astype(dtype) * 1.0))
    return KnownModel(tuple(layers), activation, np.dtype(dtype))


@dataclass(frozen=True, eq=False)
class Answered:
    """A function whose answers are given as a service would give them; counts what it is asked.

    Attributes:
        function: (N, n) to (N, m).
        form: "values", "probabilities" (softmax, or the logistic function of a single output) or "labels".
        kind: Type of the answers: "float64", "float32", "float16" or "bfloat16".
        decimals: Decimal places kept, or None for all.
        noise: Standard deviation of noise added to every answer, in its own units.
        flips: Relative size of random last-bit errors, in units of the type's rounding; 0 for none.
        rng: A generator, or a seed. Draws noise and last bits.
        counted: `counted["questions"]`, `counted["batches"]`: what was asked, counted here and nowhere else.
    """

    function: Function
    form: str = "values"
    kind: str = "float64"
    decimals: int | None = None
    noise: float = 0.0
    flips: float = 0.0
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    counted: dict[str, int] = field(default_factory=lambda: {"questions": 0, "batches": 0})

    def __call__(self, x: Float[np.ndarray, "N n"]) -> np.ndarray:
        self.counted["questions"] += len(x)
        self.counted["batches"] += 1
        y = np.asarray(self.function(x))
        if self.noise:
            y = y + self.noise * self.rng.standard_normal(y.shape)
        if self.form == "labels":
            return np.asarray(y.argmax(axis=1) if y.shape[1] > 1 else (y[:, 0] > 0).astype(np.int64))
        if self.form == "probabilities":
            y = special.softmax(y, axis=1) if y.shape[1] > 1 else special.expit(y)
        if self.flips:
            unit = np.finfo(np.float64 if self.kind == "float64" else np.float32).eps
            y = y * (1 + self.flips * unit * self.rng.choice([-1.0, 0.0, 1.0], size=y.shape))
        if self.decimals is not None:
            y = np.round(y, self.decimals)
        if self.kind == "bfloat16":  # eight bits of mantissa, rounded to nearest
            mantissa, exponent = np.frexp(np.asarray(y, dtype=np.float64))
            return np.ldexp(np.round(mantissa * 256) / 256, exponent).astype(np.float32)
        return np.asarray(y, dtype={"float64": np.float64, "float32": np.float32, "float16": np.float16}[self.kind])
