"""Simulator: an oracle around a function or program that runs one input at a time, may fail, and may take minutes."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, as_numbers, generator
from unveil.blackbox.answers import first_line, shown
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.simulator_inputs import Inputs
from unveil.blackbox.source import Answers, Questions
from unveil.executor import Serial, spread
from unveil.outcome import BadInput, SourceError

# A number as programs print it.
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?|[-+]?(?:nan|inf)"


@final
class Simulator(Oracle):
    """An oracle whose questions are columns from -1 to 1, made of named inputs in their own units.

    A run that raises, or answers with NaN or infinity, is *missing*: `runs` gives NaN for it and `ledger.missing`
    counts it, however many there are; a call of the oracle raises.

    Args:
        function: Takes one input, as `takes` says, and gives one number.
        inputs: What `Inputs.of` takes: `Input` objects, a mapping from names to (low, high), or a SALib problem.
        takes: "vector": a sequence of the inputs' values; "names": keyword arguments; "batch": an (N, k) array of
            many inputs at once, answered by N numbers (then no category is allowed).
        budget: The largest number of runs.
        store: A file that keeps every answer as soon as it is there. Missing ones are run again by a resumed run.
        executor: Runs them, if not this process (see `workers`); a function must then be importable by name.
        name: What people call it; by default the function's name.

    Raises:
        BadInput: An argument is out of range.

    Queries: none

    Examples:
        >>> simulator = uv.Simulator(lambda x: x[0] + 10 * x[1], [uv.Input("a", 0, 2), uv.Input("b", 0, 4)])
        >>> simulator.n, simulator.ledger.asked
        (2, 0)
    """

    def __init__(  # noqa: PLR0913 - a constructor: fields by name
        self,
        function: Callable[..., Any],
        inputs: Any,
        *,
        takes: str = "vector",
        budget: int | None = None,
        store: str | Path | None = None,
        executor: Executor | None = None,
        name: str | None = None,
    ) -> None:
        if takes not in ("vector", "names", "batch"):
            raise BadInput(f"takes must be 'vector', 'names' or 'batch'; got {takes!r}")
        self.inputs = Inputs.of(inputs)
        if takes == "batch" and any(one.levels for one in self.inputs.all):
            raise BadInput("a category is no number: a simulator with one takes 'vector' or 'names'")
        self.function, self.takes = function, takes
        self.name = shown(name or str(getattr(function, "__name__", type(function).__name__)))
        self.shape, self.m = (self.inputs.n,), 1
        self.within, self.grid, self.answers = (-1.0, 1.0), None, "values"
        self.dtype = np.dtype(np.float64)
        self.resolution = float(np.finfo(np.float64).eps)
        self.ledger = Ledger(budget)
        self.executor = Serial() if executor is None else executor
        self.trouble = ""
        self._memory = None
        if store is not None:
            from unveil.blackbox.answer_file import AnswerFile
            from unveil.blackbox.store import Memory

            self._memory = Memory(AnswerFile(store), self.fingerprint(), self.name, self.dtype, self.shape)
            self._memory.named_only = not isinstance(function, Command)

    def runs(self, x: Questions) -> Float[np.ndarray, " N"]:
        """Run N questions, charged to the ledger like any others; NaN where a run failed.

        Raises:
            BadInput: Not legal; nothing was run.
            BudgetExceeded: The batch would cross the budget; nothing was run.

        Queries: `N`
        """
        return np.asarray(self._ask(x)[1][:, 0], dtype=np.float64)

    def answer(self, x: Questions) -> Answers:
        """In groups so small that what is there is kept soon; each run is one task, so the borders change no bits."""
        together = len(x) if self.takes == "batch" else 2 * getattr(self.executor, "_max_workers", 16)
        if isinstance(self.executor, Serial) and self.takes != "batch":
            together = 1
        parts = [x[start : start + together] for start in range(0, len(x), together)]
        if self._memory is None:
            return np.concatenate([self._run(part) for part in parts])
        return np.concatenate([np.asarray(self._memory.answer(part, self._run), np.float64) for part in parts])

    def _run(self, x: Questions) -> np.ndarray:
        values = self.inputs.values(self.inputs.nearest(x))
        self.ledger.sent += len(x)
        if self.takes == "batch":
            return self._run_together(values)
        names = self.inputs.names if self.takes == "names" else None
        done = spread(partial(_one, self.function, names), values, self.executor)
        self.trouble = next((said for _, said in done if said), self.trouble)
        return np.array([[number] for number, _ in done])

    def _run_together(self, values: list[tuple[Any, ...]]) -> Float[np.ndarray, "N 1"]:
        try:
            y = np.asarray(self.function(np.array(values, dtype=np.float64)), dtype=np.float64).reshape(-1, 1).copy()
        except (Exception, SystemExit) as error:
            raise SourceError(
                f"{self.name} failed on {len(values)} inputs at once: {type(error).__name__}: {first_line(error)}; "
                "if it takes one at a time, pass takes='vector'"
            ) from error
        if len(y) != len(values):
            raise SourceError(f"{self.name} answered {len(values)} inputs with {len(y)} numbers; expected one for each")
        y[~np.isfinite(y)] = np.nan
        return y

    def nearest(self, x: Questions) -> Questions:
        return self.inputs.nearest(as_numbers(x, "inputs"))

    def sample(self, count: int, rng: Randomness) -> Questions:
        rng = generator(rng)
        return self.inputs.from_unit(rng.uniform(size=(count, len(self.inputs.all))))

    def fingerprint(self) -> str:
        return f"simulator {self.name} {self.inputs.all!r}"


def _one(function: Callable[..., Any], names: Sequence[str] | None, values: tuple[Any, ...]) -> tuple[float, str]:
    """One run: its number, or NaN and what went wrong."""
    try:
        y = function(values) if names is None else function(**dict(zip(names, values, strict=True)))
        number = float(np.asarray(y, dtype=np.float64).reshape(()))
    except (Exception, SystemExit) as error:  # a script that gives up may call sys.exit
        return math.nan, f"{type(error).__name__}: {first_line(error)}"
    return (number, "") if math.isfinite(number) else (math.nan, f"it answered {number}")


@final
@dataclass(frozen=True)
class Command:
    """A program to run for each input, as a function of the inputs' values that gives one number.

    Attributes:
        template: The command line, without a shell. `{inputs}` becomes all values, one argument each; `{name}` the
            value of the input of that name.
        names: The inputs' names.
        pattern: A regular expression whose first group is the answer; by default the last number printed.
        timeout: Seconds after which a run is given up.

    Raises:
        BadInput: The template names no input, or one that there is not.

    Examples:
        >>> command = uv.Command("python3 -c 'print({a} + 2 * {b})'", ("a", "b"))
        >>> simulator = uv.Simulator(command, [uv.Input("a", 0, 4), uv.Input("b", 0, 4)])
        >>> simulator.n
        2
    """

    template: str
    names: tuple[str, ...]
    pattern: str | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        wanted = set(re.findall(r"\{([^{}]*)\}", self.template))
        if not wanted or wanted - {"inputs", *self.names}:
            raise BadInput(
                f"the command must name {{inputs}} or inputs by name ({', '.join(self.names)}); got {self.template!r}"
            )
        try:
            shlex.split(self.template)
            groups = re.compile(self.pattern or "()").groups
        except (ValueError, re.error) as error:
            raise BadInput(f"the command or its pattern cannot be read: {error}") from None
        if groups < 1:
            raise BadInput(f"the pattern {self.pattern!r} needs a group in brackets around the number")

    @property
    def __name__(self) -> str:
        return self.template

    def __call__(self, values: Sequence[Any]) -> float:
        texts = [repr(value) if isinstance(value, float) else str(value) for value in values]
        named = dict(zip(self.names, texts, strict=True))
        words: list[str] = []
        for word in shlex.split(self.template):
            if word == "{inputs}":
                words += texts
            else:
                filled = word.replace("{inputs}", " ".join(texts))
                words.append(re.sub(r"\{([^{}]*)\}", lambda found: named[found[1]], filled))
        done = subprocess.run(words, capture_output=True, text=True, timeout=self.timeout, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise RuntimeError(f"it ended with code {done.returncode}: {said[-1] if said else 'no message'}")
        if self.pattern is not None:
            found = re.search(self.pattern, done.stdout)
            if found is None:
                raise RuntimeError(f"nothing in its output fits {self.pattern!r}")
            return float(found[1])
        numbers = re.findall(NUMBER, done.stdout, re.IGNORECASE)
        if not numbers:
            raise RuntimeError("it printed no number")
        return float(numbers[-1].lower().replace("d", "e"))
