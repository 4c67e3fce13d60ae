"""Inputs: what a simulator's inputs are called, where they lie, and how they become columns from -1 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int

from unveil.arguments import as_numbers
from unveil.outcome import BadInput


@final
@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: What people call it.
        low: Its smallest value; nothing below is ever asked.
        high: Its largest value.
        unit: Its unit, for pages and plots.
        log: Whether it is spread evenly on a logarithmic scale.
        integer: Whether only whole numbers make sense.
        levels: The values of a category, which have no order; then `low`, `high`, `log` and `integer` mean nothing.
            A category is one column for each level, 1 where the input has it and -1 elsewhere.

    Raises:
        BadInput: Bounds that do not fit.

    Examples:
        >>> uv.Input("length", 1, 100, unit="mm", log=True).name
        'length'
    """

    name: str
    low: float = -1.0
    high: float = 1.0
    unit: str = ""
    log: bool = False
    integer: bool = False
    levels: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.levels:
            if len(set(self.levels)) != len(self.levels) or len(self.levels) < 2:
                raise BadInput(f"the category {self.name!r} needs two different levels or more; got {self.levels!r}")
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BadInput(f"input {self.name!r} needs finite bounds, low < high; got {self.low!r} and {self.high!r}")
        if self.log and self.low <= 0:
            raise BadInput(f"input {self.name!r} has a logarithmic scale and needs low > 0; got {self.low!r}")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high) or self.log):
            raise BadInput(f"the integer input {self.name!r} needs whole bounds and no logarithmic scale")

    @property
    def columns(self) -> int:
        return len(self.levels) or 1

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def from_unit(self, u: np.ndarray) -> np.ndarray:
        """Columns for numbers drawn evenly from 0 to 1."""
        if self.levels:
            chosen = np.minimum((u * len(self.levels)).astype(int), len(self.levels) - 1)
            return np.where(chosen[:, None] == np.arange(len(self.levels)), 1.0, -1.0)
        if self.integer:
            steps = self.high - self.low
            return (2 * np.minimum(np.floor(u * (steps + 1)), steps) / steps - 1)[:, None]
        return (2 * u - 1)[:, None]

    def nearest(self, columns: np.ndarray) -> np.ndarray:
        """The nearest legal columns."""
        if self.levels:
            return np.where(columns.argmax(axis=1)[:, None] == np.arange(len(self.levels)), 1.0, -1.0)
        columns = np.clip(columns, -1.0, 1.0)
        if self.integer:
            half = (self.high - self.low) / 2
            return np.round((columns + 1) * half) / half - 1
        return columns

    def value(self, columns: np.ndarray) -> list[Any]:
        """The input's own values."""
        if self.levels:
            return [self.levels[place] for place in columns.argmax(axis=1)]
        share = (columns[:, 0] + 1) / 2
        if self.log:
            return list(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low))).tolist())
        values = self.low + share * (self.high - self.low)
        return [round(value) for value in values.tolist()] if self.integer else list(values.tolist())

    def column(self, values: Sequence[Any]) -> np.ndarray:
        """Columns for the input's own values; the inverse of `value`.

        Raises:
            BadInput: A value that the input cannot have.
        """
        if self.levels:
            places = {level: place for place, level in enumerate(self.levels)}
            unknown = [value for value in values if value not in places]
            if unknown:
                raise BadInput(f"{self.name!r} has the levels {self.levels!r}; got {unknown[0]!r}")
            chosen = np.array([places[value] for value in values])
            return np.where(chosen[:, None] == np.arange(len(self.levels)), 1.0, -1.0)
        try:
            numbers = as_numbers(values, self.name)
        except BadInput:
            raise BadInput(f"{self.name!r} must be numbers; got {values[0]!r}; give a category its levels=") from None
        low, high = self.low, self.high
        if self.log:
            if not (numbers > 0).all():
                raise BadInput(f"{self.name!r} has a logarithmic scale; got {numbers.min():g}")
            numbers, low, high = np.log(numbers), math.log(low), math.log(high)
        return (2 * (numbers - low) / (high - low) - 1)[:, None]


@final
@dataclass(frozen=True)
class Inputs:
    """All inputs of a simulator, in the order it takes them.

    Attributes:
        all: One after the other; their names differ.

    Raises:
        BadInput: No input, or two of one name.

    Examples:
        >>> inputs = uv.Inputs((uv.Input("a", 0, 1), uv.Input("b", 0, 1)))
        >>> [each.name for each in inputs.all]
        ['a', 'b']
    """

    all: tuple[Input, ...]

    def __post_init__(self) -> None:
        names = [one.name for one in self.all]
        if not names or len(set(names)) != len(names):
            raise BadInput(f"inputs need names that differ; got {names}")

    @classmethod
    def of(cls, given: Any) -> Inputs:
        """Inputs from whatever people have.

        Args:
            given: `Inputs`, a sequence of `Input`, a mapping from names to (low, high), or a SALib problem dictionary.

        Raises:
            BadInput: None of these.
        """
        if isinstance(given, Inputs):
            return given
        if isinstance(given, Mapping):
            if "bounds" in given and "num_vars" in given:
                return cls._from_salib(given)
            try:
                return cls(tuple(Input(str(name), float(low), float(high)) for name, (low, high) in given.items()))
            except (TypeError, ValueError) as error:
                raise BadInput(f"inputs as a mapping are name: (low, high); {error}") from None
        if isinstance(given, Sequence) and all(isinstance(one, Input) for one in given):
            return cls(tuple(given))
        raise BadInput(
            "inputs must be Input objects, a mapping from names to (low, high) or a SALib problem; "
            f"got {type(given).__name__}"
        )

    @classmethod
    def _from_salib(cls, problem: Mapping[str, Any]) -> Inputs:
        count, bounds = int(problem["num_vars"]), list(problem["bounds"])
        names = list(problem.get("names") or [f"x{place}" for place in range(1, count + 1)])
        kinds = list(problem.get("dists") or ["unif"] * count)
        if not len(names) == len(bounds) == len(kinds) == count:
            raise BadInput(
                f"the SALib problem names {len(names)} inputs, {len(bounds)} bounds and {len(kinds)} distributions; "
                f"num_vars is {count}"
            )
        other = sorted(set(kinds) - {"unif", "logunif"})
        if other:
            raise BadInput(
                f"of SALib's distributions unif and logunif are known; got {', '.join(other)}; "
                "give the range that matters as bounds"
            )
        return cls(
            tuple(
                Input(str(name), float(ends[0]), float(ends[1]), log=kind == "logunif")
                for name, ends, kind in zip(names, bounds, kinds, strict=True)
            )
        )

    @property
    def n(self) -> int:
        """Number of columns."""
        return sum(one.columns for one in self.all)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.all)

    @property
    def owner(self) -> Int[np.ndarray, " n"]:
        """To which input each column belongs."""
        return np.repeat(np.arange(len(self.all)), [one.columns for one in self.all])

    def _parts(self, z: np.ndarray) -> list[np.ndarray]:
        return np.split(z, np.cumsum([one.columns for one in self.all])[:-1], axis=1)

    def from_unit(self, u: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N n"]:
        """Legal columns for points of the unit cube, one coordinate for each input."""
        return np.hstack([one.from_unit(column) for one, column in zip(self.all, u.T, strict=True)])

    def nearest(self, z: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
        """The legal columns nearest to z."""
        return np.hstack([one.nearest(part) for one, part in zip(self.all, self._parts(z), strict=True)])

    def values(self, z: Float[np.ndarray, "N n"]) -> list[tuple[Any, ...]]:
        """The inputs' own values, one tuple for each row."""
        columns = [one.value(part) for one, part in zip(self.all, self._parts(z), strict=True)]
        return list(zip(*columns, strict=True))

    def columns(self, values: Sequence[Sequence[Any]] | np.ndarray) -> Float[np.ndarray, "N n"]:
        """Columns for the inputs' own values, one row each; the inverse of `values`.

        Raises:
            BadInput: Not one value for each input, or one that an input cannot have.
        """
        rows = [tuple(row) for row in np.atleast_2d(np.asarray(values, dtype=object)).tolist()]
        if not rows:
            return np.empty((0, self.n))
        if any(len(row) != len(self.all) for row in rows):
            raise BadInput(f"each row needs {len(self.all)} values, one for each input; got {len(rows[0])}")
        return np.hstack([one.column(column) for one, column in zip(self.all, zip(*rows, strict=True), strict=True)])
