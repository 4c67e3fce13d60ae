"""Oracles around oracles: rounded answers, labels only, log-ratios of probabilities, affine inputs, a smaller box."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import final

import numpy as np
from jaxtyping import Float

from unveil.arguments import as_numbers
from unveil.blackbox.answers import require_finite
from unveil.blackbox.domain import DOUBLE, HALF, Within, box, described, require_grid
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Answers, Questions
from unveil.outcome import BadInput, SourceError

BEYOND = 1e-5  # by how much a probability may leave [0, 1] through rounding in float32


@final
class Rounded(OracleWrapper):
    """Answers rounded to `digits` decimal places: a defence many interfaces have without knowing it.

    Args:
        oracle: Answers with values.
        digits: Decimal places kept.

    Raises:
        BadInput: The oracle answers labels, or `digits` is not between 0 and 15.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x, shape=2)
        >>> uv.Rounded(oracle, digits=1)(np.array([[0.123, 0.987]]))
        array([[0.1, 1. ]])
    """

    def __init__(self, oracle: Oracle, digits: int) -> None:
        _require_values(oracle, "Rounded")
        if not 0 <= digits <= 15:
            raise BadInput(f"digits must be from 0 to 15 decimal places; got {digits}")
        step = 10.0**-digits
        resolution = max(oracle.resolution, step / oracle.scale)
        super().__init__(oracle, resolution=resolution, step=max(oracle.step, step), signal=oracle.signal)
        self.digits = digits

    def answer(self, x: Questions) -> Answers:
        return np.round(self.oracle.answer(x), self.digits)

    def rounding(self, y: Answers) -> Float[np.ndarray, "N m"]:
        return np.asarray(np.maximum(self.oracle.rounding(y), self.step / np.sqrt(12)))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} rounded to {self.digits}"


@final
class LabelsOnly(OracleWrapper):
    """Labels made of values: the class of the largest value, or for one output whether it reaches the threshold.

    Args:
        oracle: Answers with values.
        threshold: For an oracle with one output: the label is 1 from here on, else 0. By default its `cut`: where that
            is 0.5, since the first answers look like probabilities, an answer that cannot be one is an error.

    Raises:
        BadInput: The oracle answers labels already, or a threshold is given for several outputs.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x, shape=3)
        >>> uv.LabelsOnly(oracle)(np.array([[0.1, 0.7, 0.2]])).item()
        1
    """

    def __init__(self, oracle: Oracle, threshold: float | None = None) -> None:
        _require_values(oracle, "LabelsOnly")
        self.several = oracle.m > 1 or oracle.reference is not None
        if self.several and threshold is not None:
            raise BadInput("a threshold needs an oracle with one output; with several the largest one decides")
        if oracle.ordered:
            raise BadInput(
                f"the scores of {oracle.name} come sorted ({oracle.ordered}), so the largest is always in the same "
                "place and no label; ask for unsorted scores"
            )
        super().__init__(oracle, m=1, answers="labels", reference=None, widest=np.inf, step=0.0, cut=0.0)
        self.threshold = oracle.cut if threshold is None else float(as_numbers(threshold, "threshold"))
        self.assumed = threshold is None and oracle.cut != 0

    def answer(self, x: Questions) -> Answers:
        y = self.oracle.answer(x)
        require_finite(y, x, self.name)  # a missing answer has no label
        if self.assumed and max(-y.min(initial=0), y.max(initial=1) - 1) > BEYOND:
            raise SourceError(
                f"the first answers of {self.name} lay in [0, 1] and were taken for probabilities, with labels from "
                f"{self.threshold:g} on; others lie between {y.min():.4g} and {y.max():.4g}. Say where labels change: "
                "ask for answers='values' and pass LabelsOnly(oracle, threshold=...)"
            )
        labels = self.oracle.predictions(y)[:, None] if self.several else y >= self.threshold
        return np.asarray(labels, dtype=np.int64)

    def rounding(self, y: Answers) -> Float[np.ndarray, "N m"]:
        return np.zeros(np.shape(y))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} labels {self.threshold!r}"


@final
class LogRatios(OracleWrapper):
    r"""Probabilities asked through their logarithms, which undoes the softmax.

    Of $m \ge 2$ probabilities $p$ come the $m - 1$ answers $\log p_i - \log p_r$ with a fixed reference class $r$: with
    $p = \mathrm{softmax}(z)$ that is $z_i - z_r$, piecewise linear again if $z$ was. Of a single probability comes its
    logit $\log p - \log(1 - p)$, and so of each of several where classes do not exclude each other. `predictions` and
    `probabilities` of the oracle turn answers back.

    Args:
        oracle: Answers with probabilities.
        reference: Which class to divide by; the last one by default.
        floor: Probabilities below this count as this much, so that every answer is finite. By default half of the
            step that rounded probabilities come in, or of their noise, else the smallest normal number of the answers'
            precision (6.1e-5 in float16, 1.2e-38 in float32, 2.2e-308 in float64): smaller ones have lost their digits.
            Below the floor a log-ratio stays put.
        each: Whether every answer is a probability of its own, as behind a sigmoid each: m logits come then.

    Raises:
        BadInput: The oracle answers labels or log-ratios already, or there is no such class.

    Examples:
        >>> def softmax(x):
        ...     return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        >>> oracle = uv.as_oracle(softmax, shape=3, answers="probabilities")
        >>> oracle.m  # probabilities are asked through log-ratios by themselves
        2
    """

    def __init__(
        self, oracle: Oracle, reference: int | None = None, floor: float | None = None, each: bool = False
    ) -> None:
        _require_values(oracle, "LogRatios")
        if oracle.reference is not None:
            raise BadInput("the oracle answers with log-ratios already; pass the oracle of the probabilities")
        last = oracle.m - 1
        reference = last if reference is None else reference
        if not 0 <= reference <= last:
            raise BadInput(f"reference must be a class from 0 to {last}; got {reference}")
        info = np.finfo(oracle.dtype)
        least = float(np.finfo(np.float16).tiny) if oracle.mantissa == HALF else float(info.tiny)
        # Below half of a fixed step, or of the noise, nothing is left of a probability.
        coarse = max(oracle.step, oracle.noise) / 2
        self.floor = floor if floor is not None else min(max(coarse, least), 0.25)
        if not 0 < self.floor < 0.5:
            raise BadInput(f"floor must lie between 0 and 0.5; got {self.floor:g}")
        self.ceiling = 1 - min(max(coarse, 2.0**-oracle.mantissa), 0.25)
        several = oracle.m > 1 and not each
        # One of two probabilities is often made as 1 minus the other: near 1 it keeps few digits of that.
        widest = -np.log(self.floor) if several and oracle.m > 2 else -np.log(info.eps) / 4
        super().__init__(
            oracle,
            m=last if several else oracle.m,
            answers="values",
            scale=1.0,
            mantissa=DOUBLE,
            step=0.0,
            cut=0.0,
            widest=float(widest),
            reference=reference if several else None,
            independent=each,
        )

    def answer(self, x: Questions) -> Answers:
        p = self.oracle.answer(x)
        if self.reference is None:
            p = np.clip(p, self.floor, self.ceiling)
            return np.asarray(np.log(p) - np.log1p(-p))
        logs = np.log(np.maximum(p, self.floor))
        return np.asarray(np.delete(logs, self.reference, axis=1) - logs[:, [self.reference]])

    @property
    def uneven(self) -> Callable[[Answers], Float[np.ndarray, "N m"]] | None:
        rounded = max(self.oracle.step, self.oracle.noise) > 0
        return self._lost if rounded or self.m == 1 or self.independent else None

    def _lost(self, y: Answers) -> Float[np.ndarray, "N m"]:
        """`rounding`; of two probabilities one is often made as 1 minus the other, with no more decimals than that."""
        if self.reference is None or self.m > 1:
            return self.rounding(y)
        p = self.softmax(y)
        relative = self.oracle.rounding(p).max(axis=1, keepdims=True) / np.maximum(p, self.floor)
        return np.asarray(np.hypot(relative[:, :1], relative[:, 1:]))

    def rounding(self, y: Answers) -> Float[np.ndarray, "N m"]:
        """That of the probabilities, carried over: it grows where a probability is small, or a single one near 1."""
        p = self.softmax(y)
        if self.reference is None:
            p = np.clip(p, self.floor, self.ceiling)
            return np.asarray(self.oracle.rounding(p) / (p * (1 - p)))
        relative = self.oracle.rounding(p) / np.maximum(p, self.floor)
        return np.asarray(np.hypot(np.delete(relative, self.reference, axis=1), relative[:, [self.reference]]))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} log-ratios {self.reference} {self.floor!r}{' each' * self.independent}"


@final
class Arctanh(OracleWrapper):
    """Answers behind a tanh each, asked through its inverse: piecewise linear again if what the tanh is given was.

    Args:
        oracle: Answers with values from -1 to 1; what lies closer to these than it is rounded stays put.

    Raises:
        BadInput: The oracle answers labels.

    Examples:
        >>> uv.Arctanh(uv.as_oracle(np.tanh, shape=2))(np.array([[0.5, -1.0]])).round(9)
        array([[ 0.5, -1. ]])
    """

    def __init__(self, oracle: Oracle) -> None:
        _require_values(oracle, "Arctanh")
        self.largest = 1 - min(max(oracle.step / 2, oracle.noise / 2, 2.0**-oracle.mantissa), 0.25)
        # That of logits, which are twice as large.
        widest = -np.log(np.finfo(oracle.dtype).eps) / 8
        super().__init__(oracle, answers="values", scale=1.0, mantissa=DOUBLE, step=0.0, cut=0.0, widest=float(widest))

    def answer(self, x: Questions) -> Answers:
        return np.asarray(np.arctanh(np.clip(self.oracle.answer(x), -self.largest, self.largest)))

    @property
    def uneven(self) -> Callable[[Answers], Float[np.ndarray, "N m"]]:
        return self.rounding

    def rounding(self, y: Answers) -> Float[np.ndarray, "N m"]:
        """That of the answers, carried over: it grows where the tanh comes to rest."""
        t = np.clip(np.tanh(y), -self.largest, self.largest)
        return np.asarray(self.oracle.rounding(t) / (1 - t**2))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} arctanh"


@final
class Affine(OracleWrapper):
    """Inputs normalised before they are asked: the question x becomes `(x - mean) / deviation`.

    For a model trained on normalised images, so that it can be asked about plain ones.

    Args:
        oracle: Expects normalised inputs.
        mean: Broadcast over the oracle's `shape`, e.g. (3, 1, 1) for the channels of (3, 32, 32).
        deviation: Likewise; not zero.
        within: The legal box of the plain inputs, e.g. (0, 1). By default the oracle's, carried over.
        grid: The legal step of the plain inputs.

    Raises:
        BadInput: Shapes that do not fit, a zero deviation, or a box that reaches beyond the oracle's own.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x, shape=2)
        >>> uv.Affine(oracle, mean=0.5, deviation=0.25)(np.array([[1.0, 0.5]]))
        array([[2., 0.]])
    """

    def __init__(
        self,
        oracle: Oracle,
        mean: float | np.ndarray = 0.0,
        deviation: float | np.ndarray = 1.0,
        within: Within | None = None,
        grid: float | None = None,
    ) -> None:
        must_be_asked(oracle)
        self.mean = self._row(mean, oracle.shape, "mean")
        self.deviation = self._row(deviation, oracle.shape, "deviation")
        if (self.deviation == 0).any():
            raise BadInput("deviation must not be zero anywhere")
        if oracle.grid is not None:
            raise BadInput("the oracle's own grid would be lost; give grid= to Affine, not to the oracle inside")
        within = box(within, oracle.n)
        if oracle.within is not None:
            ends = np.stack([self.mean + self.deviation * end for end in (oracle.low, oracle.high)])
            low, high = ends.min(axis=0), ends.max(axis=0)
            carried = box((low, high), oracle.n)
            if within is None:
                within = carried
            if within is None or (low > within[0]).any() or (high < within[1]).any():
                raise BadInput(
                    f"the oracle's box {described(oracle.within)} allows plain inputs within [{low.max():g}, "
                    f"{high.min():g}] only, if all share one box; pass such a within=, or none"
                )
        grid = require_grid(grid, within)
        # The oracle inside rounds to its precision; in float64 outside, `nearest` can name exactly what it will see.
        super().__init__(oracle, within=within, grid=grid, dtype=np.dtype(np.float64), input_bits=DOUBLE)

    def answer(self, x: Questions) -> Answers:
        return self.oracle.answer(self.oracle.nearest((x - self.mean) / self.deviation))

    def nearest(self, x: Questions) -> Questions:
        x = super().nearest(x)
        if self.grid is not None or self.oracle.dtype == np.float64:
            return x
        seen = self.oracle.nearest((x - self.mean) / self.deviation)
        exact = np.asarray(seen * self.deviation + self.mean)
        return exact if self.within is None else np.clip(exact, *self.within)

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(self.mean.tobytes() + self.deviation.tobytes(), digest_size=16)
        return f"{self.oracle.fingerprint()} affine {digest.hexdigest()}"

    @staticmethod
    def _row(value: float | np.ndarray, shape: tuple[int, ...], name: str) -> Float[np.ndarray, " n"]:
        value = as_numbers(value, name)
        try:
            row = np.broadcast_to(value, shape).ravel()
        except ValueError:
            raise BadInput(f"{name} of shape {value.shape} does not broadcast to inputs of shape {shape}") from None
        if not np.isfinite(row).all():
            raise BadInput(f"{name} must be finite")
        return row


@final
class Restricted(OracleWrapper):
    """A smaller box or a coarser grid than the oracle's own.

    Args:
        oracle: Any oracle.
        within: The box; by default the oracle's.
        grid: The step; by default the oracle's.

    Raises:
        BadInput: The box reaches beyond the oracle's own.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: x, shape=2)
        >>> inside = uv.Restricted(oracle, within=(0, 1))
        >>> inside.nearest(np.array([[-1.0, 0.5]]))
        array([[0. , 0.5]])
    """

    def __init__(self, oracle: Oracle, within: Within | None = None, grid: float | None = None) -> None:
        must_be_asked(oracle)
        own, within = oracle.within, box(within, oracle.n)
        if within is not None and own is not None and ((within[0] < oracle.low) | (within[1] > oracle.high)).any():
            raise BadInput(
                f"the box {described(within)} reaches beyond {described(own)}, where the oracle may be asked"
            )
        if oracle.grid is not None and ((grid is not None and grid != oracle.grid) or within is not None):
            raise BadInput("the oracle has a grid of its own; give within= and grid= where that oracle is made")
        within = own if within is None else within
        super().__init__(oracle, within=within, grid=oracle.grid if grid is None else require_grid(grid, within))


@final
class OneOutput(OracleWrapper):
    """One of several outputs.

    Args:
        oracle: Answers with values.
        output: Which one.

    Raises:
        BadInput: The oracle answers labels, or there is no such output.
    """

    def __init__(self, oracle: Oracle, output: int) -> None:
        _require_values(oracle, "OneOutput")
        if not 0 <= output < oracle.m:
            raise BadInput(f"output must be from 0 to {oracle.m - 1}; got {output}")
        super().__init__(oracle, m=1, reference=None, widest=np.inf)
        self.output = output

    def answer(self, x: Questions) -> Answers:
        return self.oracle.answer(x)[:, [self.output]]

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} output {self.output}"


def _require_values(oracle: Oracle, wrapper: str) -> None:
    must_be_asked(oracle)
    if oracle.answers == "labels":
        raise BadInput(f"{wrapper} needs an oracle that answers with values; {oracle.name} answers labels")
