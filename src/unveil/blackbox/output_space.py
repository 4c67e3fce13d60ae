"""OutputSpan: the space in which a model's answers lie, to be asked whose an answer is, kept and compared."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from unveil.arguments import Randomness, as_numbers, generator
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.output_inputs import Inputs
from unveil.blackbox.output_reading import Reading
from unveil.one_line import one_line
from unveil.outcome import BadInput, Outcome, unreadable
from unveil.writing import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@one_line
@dataclass(frozen=True)
class OutputSpan:
    """The affine space in which all answers lie, as far as it was found.

    If the last layer is `W h + b` with h of width d below the number of outputs m, every answer lies in b plus the span
    of W's d columns. Behind a LayerNorm the entries of h sum to a constant, and the rank is d - 1.

    Attributes:
        basis: (r, m), orthonormal rows: the span of the last layer's columns. Of probabilities: of their logarithms,
            each answer centred.
        origin: (m,) the mean answer, read the same way.
        singular_values: Of the answers less their mean.
        noise: Standard deviation of what lies outside the span, in one number of an answer.
        rounding: What rounding alone would make of that.
        accuracy: Sine of the largest principal angle to the true span, at most: three times the one expected.
        confidence: With this confidence all but `unseen` of the inputs drawn have answers in the span.
        unseen: See there.
        queries: Queries asked for it.
        outcome: How the search ended. Only of `complete` (and `full_rank`) is the rank the hidden width's; else `why`
            says what it stands for.
        why: One sentence on the rank.
        reading: How answers are read.
        freedom: Outputs over which noise is spread, in effect.
        spare: Answers beyond those that the rank calls for.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> hidden, last = rng.standard_normal((4, 3)), rng.standard_normal((20, 4))
        >>> oracle = uv.as_oracle(lambda x: np.tanh(x @ hidden.T) @ last.T, shape=3)
        >>> span = uv.output_span(oracle, rng=rng)
        >>> span.rank, span.outcome.name
        (4, 'complete')
        >>> span.contains(oracle(np.ones((2, 3))))
        array([ True,  True])
        >>> span.contains(rng.standard_normal((2, 20)))
        array([False, False])
    """

    basis: Float[np.ndarray, "r m"]
    origin: Float[np.ndarray, " m"]
    singular_values: Float[np.ndarray, " s"]
    noise: float
    rounding: float
    accuracy: float
    confidence: float
    unseen: float
    queries: int
    outcome: Outcome
    why: str
    reading: Reading
    freedom: float
    spare: int

    def plot(self) -> Figure:
        """Singular values of the answers less their mean."""
        from unveil.pictures import spectrum

        return spectrum(self.singular_values, self.rank, 0.0, f"Output span: {self.outcome.name}")

    @property
    def rank(self) -> int:
        """The hidden width, or one less behind a LayerNorm, if the outcome is `complete`."""
        return len(self.basis)

    @property
    def m(self) -> int:
        return len(self.origin)

    def excess(self, answers: Float[np.ndarray, "N a"]) -> Float[np.ndarray, " N"]:
        """Distance of answers from the span, in units of what noise makes of it: about 1 for the model's own.

        Raises:
            BadInput: Not rows of numbers, another number of outputs, NaN or infinity.
        """
        answers = as_numbers(answers, "answers")
        if answers.ndim != 2 or not np.isfinite(answers).all():
            raise BadInput(f"answers must be finite rows, one for each; got shape {answers.shape}, or NaN or infinity")
        read = self.reading(answers) - self.origin
        inside = read @ self.basis.T
        outside = np.linalg.norm(read - inside @ self.basis, axis=1)
        count = self.rank + 1 + self.spare
        own = self.reading.rounding(answers) / max(self.rounding, 1e-300)
        # An answer's own noise, and that of the span where the answer lies.
        values = np.maximum(self.singular_values[: self.rank], np.finfo(np.float64).tiny)
        factor = np.maximum(own, 0.1) ** 2 + 1 / count + np.sum((inside / values) ** 2, axis=1)
        # Besides noise the arithmetic that made the span and this distance: in float64 it is as large.
        largest = float(self.singular_values[:1].sum())
        size = largest + float(np.linalg.norm(self.origin)) + np.linalg.norm(read, axis=1)
        floor = 4 * np.finfo(np.float64).eps * size + np.finfo(np.float64).tiny
        return np.asarray(outside / np.hypot(self.noise * np.sqrt(self.m - self.rank), floor) / np.sqrt(factor))

    def contains(
        self, answers: Float[np.ndarray, "N a"] | Float[np.ndarray, " a"], false_alarm: float = 1e-3
    ) -> Bool[np.ndarray, " N"]:
        """Which answers this model may have given: those in its span, up to noise.

        A model with another last layer answers outside the span. One with the same last layer cannot be told apart.

        Args:
            answers: As the oracle gives them, one or several; for log-ratios also probabilities.
            false_alarm: Share of the model's own answers that may be taken for another's.

        Raises:
            BadInput: Another number of outputs; or the span is of full rank or not resolved, and so holds everything.
        """
        from scipy.special import fdtri

        if not 0 < false_alarm < 1:
            raise BadInput(f"false_alarm must lie between 0 and 1; got {false_alarm!r}")
        if self.outcome not in (Outcome.complete, Outcome.approximate) or self.rank >= self.reading.largest_rank:
            raise BadInput(f"this span cannot tell whose an answer is: {self.why}")
        limit = fdtri(self.freedom, max(1, self.spare) * self.freedom, 1 - false_alarm)
        # Sums inside a network round some answers twice as badly as others; other models lie much further off.
        return np.asarray(self.excess(np.atleast_2d(as_numbers(answers, "answers"))) ** 2 <= 4 * limit)

    def distance(self, other: OutputSpan | np.ndarray) -> float:
        """Sine of the largest principal angle to another span or a matrix's column space; 1 if the ranks differ.

        Raises:
            BadInput: No matrix, or NaN or infinity in it.
        """
        columns = other.basis.T if isinstance(other, OutputSpan) else as_numbers(other, "columns")
        if columns.ndim != 2 or not np.isfinite(columns).all():
            raise BadInput(f"columns must be a matrix of finite numbers; got shape {columns.shape}, or NaN or infinity")
        if not isinstance(other, OutputSpan) and self.reading.kind != "values":
            columns = columns - columns.mean(axis=0)
        if len(columns) != self.m:
            return 1.0
        rows = columns.T if isinstance(other, OutputSpan) else _column_space(columns)
        if rows.shape != self.basis.shape:
            return 1.0
        return float(np.linalg.norm(rows - rows @ self.basis.T @ self.basis, 2)) if len(rows) else 0.0

    def check(self, oracle: Oracle, *, rng: Randomness, points: int = 32, x: np.ndarray | None = None) -> float:
        """The share of fresh answers that lie in the span.

        Queries: `points`, or fewer if there are not so many inputs
        """
        must_be_asked(oracle)
        rng = generator(rng)
        inputs = Inputs(oracle, x, rng).take(points)
        return float(np.mean(self.contains(oracle(inputs)))) if len(inputs) else 1.0

    def save(self, path: str | Path) -> None:
        """Write the span as .npz, to be compared with later ones."""
        reading = self.reading
        reference = -1 if reading.reference is None else reading.reference
        with written(path) as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                basis=self.basis,
                origin=self.origin,
                singular_values=self.singular_values,
                figures=np.array(
                    [self.noise, self.rounding, self.accuracy, self.confidence, self.unseen, self.freedom, reading.step]
                ),
                counts=np.array([self.queries, self.spare, reading.outputs, reading.bits, reference]),
                texts=np.array([self.outcome.name, self.why, reading.kind]),
            )

    @classmethod
    def load(cls, path: str | Path) -> OutputSpan:
        """Read what `save` wrote.

        Raises:
            BadInput: The file cannot be read or holds no such span.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                noise, rounding, accuracy, confidence, unseen, freedom, step = map(float, held["figures"])
                queries, spare, outputs, bits, reference = map(int, held["counts"])
                outcome, why, kind = map(str, held["texts"])
                basis, origin, values = held["basis"], held["origin"], held["singular_values"]
            reading = Reading(kind, None if reference < 0 else reference, outputs, bits, step)
            ended = Outcome[outcome]
            if basis.ndim != 2 or origin.shape != (outputs,) or basis.shape[1] != outputs:
                raise ValueError(f"a basis of shape {basis.shape}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(
                f"{path} holds no span of outputs: {unreadable(error)}; expected what OutputSpan.save wrote"
            ) from None
        return cls(
            basis, origin, values, noise, rounding, accuracy, confidence, unseen, queries, ended, why, reading,
            freedom, spare,
        )  # fmt: skip


def _column_space(columns: np.ndarray) -> np.ndarray:
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    rank = int((values > 1e-10 * values[0]).sum()) if len(values) and values[0] > 0 else 0
    return np.ascontiguousarray(left[:, :rank].T)
